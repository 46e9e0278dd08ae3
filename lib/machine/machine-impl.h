/*
 * The machine's inside, shared by the files of this folder:
 * machine.c   life cycle: build, start, reset, power-off; the partition's callbacks
 * platform.c  what stands on ports and MMIO, firmware tables and the boot image
 * synthetic.c what is offered on VMBus
 * state.c     what is saved, and in which order it is restored
 * save.c      memory and state into a file, behind the running guest
 *
 * Order of construction, each using the ones before: memory, partition (with hv's CPUID leaves),
 * hv, bus and chipset, VMBus, synthetic devices. They are torn down the other way round.
 */
#ifndef MACHINE_MACHINE_IMPL_H
#define MACHINE_MACHINE_IMPL_H

#include "machine/machine.h"

#include "bus/bus.h"
#include "hv/hv.h"
#include "mem/mem.h"
#include "part/part.h"
#include "vmbus/vmbus-server.h"

struct platform;
struct synthetic;
struct save;
struct restore;

struct machine {
	struct loop *loop;
	const struct config_vm *config;
	struct machine_files files;
	struct machine_events events;
	struct mem *mem;
	struct part *part;
	struct hv *hv;
	struct vmbus *vmbus;
	struct platform *platform;
	struct synthetic *synthetic;
	char backend_reason[256];
	uint64_t started_ns; /* clock_boottime_ns() */
	bool running, paused;
	bool resetting;          /* between machine_reset and the end of vmbus_reset */
	bool off;                /* told already */
	struct save *save;       /* under way; or NULL */
	struct restore *restore; /* the saved state, while the machine is built from it; or NULL */
	bool reset_asked;        /* atomic: a VP asked for a reset that the loop has not done yet */
};

/* ---- requests from VP threads; carried out on the loop ---- */

void machine_ask_reset(struct machine *machine);
void machine_ask_off(struct machine *machine, enum machine_off_reason reason, const char *text);

/* ---- platform.c ---- */

/* Chipset on a bus of its own. Before the VPs start. */
int platform_new(struct machine *machine, struct platform **ret, struct error *err);
void platform_free(struct platform *platform);
struct bus *platform_bus(struct platform *platform);
/* Devices to their power-on state; VPs are paused. */
void platform_reset(struct platform *platform);
/* Loads what the VM boots into RAM, with tables, and sets VP 0's state. VPs are paused. */
int platform_load(struct platform *platform, struct error *err);
/* Gives out what the guest has written to its serial ports so far. */
void platform_flush(struct platform *platform);
void platform_eoi(struct platform *platform, uint8_t vector);
int platform_extint_ack(struct platform *platform);
size_t platform_console_input(struct platform *platform, unsigned port, const void *data,
			      size_t len);

/* ---- synthetic.c ---- */

int synthetic_new(struct machine *machine, struct synthetic **ret, struct error *err);
void synthetic_free(struct synthetic *synthetic);

/* Nothing in flight into guest memory, and nothing taken from the guest, until unquiesce. */
void synthetic_quiesce(struct synthetic *synthetic);
void synthetic_unquiesce(struct synthetic *synthetic);
void synthetic_save(struct synthetic *synthetic, struct state_out *out);
/* Before the bus is restored, and after it. */
int synthetic_restore_begin(struct synthetic *synthetic, struct state_in *in, struct error *err);
int synthetic_restore(struct synthetic *synthetic, struct state_in *in, struct error *err);
/* What the description says now, where that differs from the saved state's. */
int synthetic_restore_finish(struct synthetic *synthetic, struct error *err);

/* ---- platform.c ---- */

void platform_save(struct platform *platform, struct state_out *out);
int platform_restore(struct platform *platform, struct state_in *in, struct error *err);

/* ---- state.c ---- */

/* All but memory; the VPs stand still and the devices are quiet. */
void machine_put_state(struct machine *machine, struct state_out *out);

struct restore {
	int fd;
	uint8_t *stream;
	struct state_in *in;
	uint64_t ram_bytes;
	struct part_state part;
	struct hv_features features;
};
/* Reads the state's outline, and what the partition and the hypervisor interface are made from. */
int restore_begin(int fd, struct restore **ret, struct error *err);
void restore_free(struct restore *restore); /* NULL allowed */
/* The machine is built: it becomes what was saved. */
int machine_take_state(struct machine *machine, struct error *err);

/* ---- save.c ---- */

/* The machine goes off, starts anew or away: what was begun is given up. */
void save_cancel(struct machine *machine);
/* The guest's state has been taken, and the guest stands until the file is whole. */
bool save_has_guest(const struct machine *machine);

/* ---- machine.c ---- */

void machine_go_off(struct machine *machine, enum machine_off_reason reason, const char *text);

#endif
