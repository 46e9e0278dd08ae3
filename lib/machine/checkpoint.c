#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/mark.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct layering {
	int mark_fd;
	struct machine_layer *layers; /* fd -1: not ours any more */
	unsigned count;
};

int layering_new(const struct machine_checkpoint *checkpoint, struct layering **ret,
		 struct error *err)
{
	struct layering *layering = malloc(sizeof(*layering));
	size_t size = checkpoint->layer_count * sizeof(*checkpoint->layers);
	struct machine_layer *layers = malloc(size + 1);

	if (!layering || !layers) {
		free(layering);
		free(layers);
		return error_set(err, ERR_NO_MEMORY, "no memory for a checkpoint");
	}
	if (size)
		memcpy(layers, checkpoint->layers, size);
	*layering = (struct layering){ checkpoint->mark_fd, layers, checkpoint->layer_count };
	*ret = layering;
	return 0;
}

static void close_layers(const struct machine_layer *layers, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (layers[i].fd >= 0)
			close(layers[i].fd);
}

void layering_free(struct layering *layering)
{
	if (!layering)
		return;
	close_layers(layering->layers, layering->count);
	close(layering->mark_fd);
	free(layering->layers);
	free(layering);
}

static int push_and_mark(struct layering *layering, struct storage *storage, struct error *err)
{
	int r = storage_push(storage, layering->layers, layering->count, err);

	for (unsigned i = 0; i < layering->count; i++)
		layering->layers[i].fd = -1;
	if (r < 0)
		return r;
	r = mark_set(layering->mark_fd, err);
	if (r < 0)
		storage_pop(storage, layering->layers, layering->count);
	return r;
}

int layering_push(struct layering *layering, struct storage *storage, struct error *err)
{
	int r = mark_hold(layering->mark_fd, err);

	if (r < 0)
		return r;
	r = push_and_mark(layering, storage, err);
	if (r < 0)
		mark_let_go(layering->mark_fd);
	return r;
}

/* Takes layering. */
static int take_disks(struct machine *machine, struct layering *layering,
		      const struct machine_checkpoint *checkpoint, struct error *err)
{
	struct machine_saved saved = { 0 };
	uint64_t began = clock_now_ns();
	int r = save_check(machine, err);

	if (r == 0) {
		machine_stand_still(machine);
		r = layering_push(layering, machine->storage, err);
		machine_let_go(machine);
	}
	layering_free(layering);
	saved.pause_ns = clock_now_ns() - began;
	if (r == 0)
		checkpoint->done(checkpoint->user, &saved, NULL);
	return r;
}

int machine_checkpoint(struct machine *machine, const struct machine_checkpoint *checkpoint,
		       struct error *err)
{
	struct layering *layering;
	int r = layering_new(checkpoint, &layering, err);

	if (r == 0 && checkpoint->memory_fd < 0)
		return take_disks(machine, layering, checkpoint, err);
	if (r == 0)
		return save_begin(machine, checkpoint->memory_fd, false, layering, checkpoint->done,
				  checkpoint->user, err);
	close_layers(checkpoint->layers, checkpoint->layer_count);
	close(checkpoint->mark_fd);
	if (checkpoint->memory_fd >= 0)
		close(checkpoint->memory_fd);
	return r;
}
