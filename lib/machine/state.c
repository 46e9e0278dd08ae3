/*
 * What is saved of a machine, and the order of the restore: each part uses the ones before.
 *
 * The order of a save does not matter, since nothing moves; that of a restore does:
 *   partition and VPs   memory has its contents before (PAE reads page tables from it)
 *   hv                  reference time is derived from the TSC
 *   platform            the interrupt controllers first; a clock that has run on meanwhile may
 *                       raise an interrupt, which the VPs' APICs must be able to keep
 *   synthetic, begin    offers the channels that the bus is going to find
 *   VMBus               connection, GPADLs, primary channels
 *   synthetic           devices offer their sub-channels and go on
 *   VMBus, finish       what is left over is refused; channels are looked at
 */
#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/macros.h"
#include "dev/balloon.h"
#include "state/file.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- save ---- */

static void save_partition(struct machine *machine, struct state_out *out)
{
	struct part_vp_context context;
	struct part_state part;
	char name[12];

	part_get_state(machine->part, &part);
	state_put(out, &part_desc, NULL, &part);
	for (unsigned i = 0; i < machine->config->processor_count; i++) {
		snprintf(name, sizeof(name), "%u", i);
		part_vp_get_context(machine->part, i, &context);
		state_put(out, &part_vp_desc, name, &context);
	}
}

void machine_put_state(struct machine *machine, struct state_out *out)
{
	save_partition(machine, out);
	hv_save(machine->hv, out);
	platform_save(machine->platform, out);
	vmbus_save(machine->vmbus, out);
	synthetic_save(machine->synthetic, out);
}

/* ---- restore ---- */

static int read_outline(struct restore *restore, struct error *err)
{
	struct state_file file;
	int r = state_file_open(restore->fd, &file, err);

	if (r < 0)
		return r;
	restore->ram_bytes = file.ram_bytes;
	r = state_file_read_stream(restore->fd, &file, &restore->stream, err);
	if (r == 0)
		r = state_in_new(restore->stream, file.stream_bytes, clock_now_ns(), &restore->in,
				 err);
	if (r == 0)
		r = state_get(restore->in, &part_desc, NULL, &restore->part, err);
	if (r == 0)
		r = balloon_saved_reach(restore->in, &restore->reach_bytes, err);
	if (r == 0)
		r = hv_saved_features(restore->in, &restore->features, err);
	return r;
}

int restore_begin(int fd, struct restore **ret, struct error *err)
{
	struct restore *restore = calloc(1, sizeof(*restore));
	int r;

	if (!restore)
		return error_set(err, ERR_NO_MEMORY, "no memory for a saved state");
	restore->fd = fd;
	r = read_outline(restore, err);
	if (r < 0) {
		restore_free(restore);
		return r;
	}
	*ret = restore;
	return 0;
}

void restore_free(struct restore *restore)
{
	if (!restore)
		return;
	state_in_free(restore->in);
	free(restore->stream);
	free(restore);
}

static int restore_ram(struct machine *machine, struct error *err)
{
	const struct restore *restore = machine->restore;
	const struct state_file file = { .ram_bytes = restore->ram_bytes };
	struct mem_range ranges[2];

	if (restore->ram_bytes != mem_size_bytes(machine->mem))
		return error_set(err, ERR_INVALID,
				 "the saved state is of %llu MB of memory, the virtual machine has "
				 "%llu MB",
				 (unsigned long long)(restore->ram_bytes / MIB),
				 (unsigned long long)(mem_size_bytes(machine->mem) / MIB));
	mem_ranges(machine->mem, ranges);
	return state_file_read_ram(restore->fd, &file, ranges[0].host, err);
}

static int restore_partition(struct machine *machine, struct error *err)
{
	struct part_vp_context context;
	char name[12];
	int r = 0;

	part_set_tsc(machine->part, machine->restore->part.tsc);
	for (unsigned i = 0; r == 0 && i < machine->config->processor_count; i++) {
		snprintf(name, sizeof(name), "%u", i);
		r = state_get(machine->restore->in, &part_vp_desc, name, &context, err);
		if (r == 0)
			r = part_vp_set_context(machine->part, i, &context, err);
	}
	return r;
}

static int restore_devices(struct machine *machine, struct error *err)
{
	struct state_in *in = machine->restore->in;
	int r = platform_restore(machine->platform, in, err);

	if (r == 0)
		r = synthetic_restore_begin(machine->synthetic, in, err);
	if (r == 0)
		r = vmbus_restore(machine->vmbus, in, err);
	if (r == 0)
		r = synthetic_restore(machine->synthetic, in, err);
	if (r == 0)
		r = vmbus_restore_finish(machine->vmbus, err);
	if (r == 0)
		r = state_in_finish(in, err);
	if (r == 0)
		r = synthetic_restore_finish(machine->synthetic, err);
	return r;
}

int machine_take_state(struct machine *machine, struct error *err)
{
	int r = restore_ram(machine, err);

	if (r == 0)
		r = restore_partition(machine, err);
	if (r == 0)
		r = hv_restore(machine->hv, machine->restore->in, err);
	if (r == 0)
		r = restore_devices(machine, err);
	restore_free(machine->restore);
	machine->restore = NULL;
	return r;
}
