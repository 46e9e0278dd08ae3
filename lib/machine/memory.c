#include "machine/machine-impl.h"

#include "base/host.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/balloon.h"

/* RAM is added to guests in blocks of this size. */
#define BLOCK_BYTES (128 * MIB)

/* What the guest can ever have: no more than the host. Its maximum may be raised while it runs. */
static uint64_t reach_bytes(const struct config_vm *config)
{
	return ALIGN_UP(MAX(config->memory_bytes, host_memory_bytes()), BLOCK_BYTES);
}

/* A saved guest has what it had, and its address space, wherever it goes on. */
static int check_saved(const struct machine *machine, uint64_t first, uint64_t reach,
		       struct error *err)
{
	uint64_t size = machine->restore->ram_bytes;

	if (size >= first && size <= reach && size % MIB == 0 && reach % MIB == 0)
		return 0;
	return error_set(err, ERR_INVALID,
			 "the saved state is of %llu MB of memory, the virtual machine has %llu MB",
			 (unsigned long long)(size / MIB), (unsigned long long)(first / MIB));
}

int memory_new(struct machine *machine, struct error *err)
{
	const struct restore *restore = machine->restore;
	uint64_t first = machine->config->memory_bytes;
	uint64_t reach = restore ? restore->reach_bytes : reach_bytes(machine->config);
	int r = restore ? check_saved(machine, first, reach, err) : 0;

	if (r == 0)
		r = mem_new_growable(first, reach, &machine->mem, err);
	if (r == 0 && restore)
		mem_grow(machine->mem, restore->ram_bytes);
	return r;
}

static int grow(void *user, uint64_t size_bytes)
{
	struct machine *machine = user;
	bool runs = machine->running && !machine->paused;
	struct error err;
	int r;

	if (machine->off || machine->resetting || machine_saving(machine))
		return -ERR_STATE;
	if (runs)
		part_pause(machine->part);
	mem_grow(machine->mem, size_bytes);
	r = part_memory_changed(machine->part, &err);
	if (r < 0) {
		/* What the partition has of its memory now is not known. */
		machine_ask_off(machine, MACHINE_OFF_ERROR, err.text);
		return r;
	}
	if (runs)
		part_resume(machine->part);
	return 0;
}

static void changed(void *user)
{
	const struct machine_events *events = &((struct machine *)user)->events;

	events->memory_changed(events->user);
}

int memory_offer(struct machine *machine, struct error *err)
{
	const struct balloon_config config = { .bus = machine->vmbus,
					       .loop = machine->loop,
					       .mem = machine->mem,
					       .grow = grow,
					       .first_bytes = machine->config->memory_bytes,
					       .changed = changed,
					       .user = machine };

	return balloon_new(&config, &machine->balloon, err);
}

int memory_reset(struct machine *machine, struct error *err)
{
	mem_clear(machine->mem);
	balloon_reset(machine->balloon);
	return part_memory_changed(machine->part, err);
}

void machine_memory(const struct machine *machine, struct machine_memory *ret)
{
	struct balloon_status status;

	balloon_status(machine->balloon, &status);
	*ret = (struct machine_memory){
		.version = status.version,
		.assigned_bytes = status.assigned_bytes,
		.target_bytes = status.target_bytes,
		.demand_bytes = status.demand_bytes,
		.available_bytes = status.available_bytes,
		.growth_bytes = status.growth_bytes,
		.backed_bytes = mem_backed_bytes(machine->mem),
	};
}

void machine_set_memory(struct machine *machine, uint64_t bytes)
{
	balloon_set_target(machine->balloon, bytes);
}
