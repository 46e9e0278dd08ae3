/*
 * The machine's inside, shared by the files of this folder:
 * machine.c   life cycle: build, start, reset, power-off; the partition's callbacks
 * platform.c  what stands on ports and MMIO, firmware tables and the boot image
 * display.c   keyboard, mouse, video
 * memory.c    RAM that grows and shrinks
 * storage.c   SCSI controllers and their drives
 * adapters.c  network adapters
 * synthetic.c integration services
 * state.c     what is saved, and in which order it is restored
 * save.c      memory and state into a file, behind the running guest
 * checkpoint.c new layers on the disks, at the instant of that state
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

struct balloon;
struct display;
struct platform;
struct storage;
struct adapters;
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
	struct balloon *balloon;
	struct display *display; /* NULL: none wanted */
	struct storage *storage;
	struct adapters *adapters;
	struct synthetic *synthetic;
	char backend_reason[256];
	uint64_t started_ns; /* clock_boottime_ns() */
	bool running, paused;
	bool resetting;          /* between machine_reset and the end of vmbus_reset */
	bool off;                /* told already */
	bool critical;           /* paused since the host's storage failed */
	bool critical_resumes;   /* it ran before, or was resumed since */
	bool critical_ignored;   /* the guest gets such errors */
	struct save *save;       /* under way; or NULL */
	struct restore *restore; /* the saved state, while the machine is built from it; or NULL */
	bool reset_asked;        /* atomic: a VP asked for a reset that the loop has not done yet */
};

/* ---- requests from VP threads; carried out on the loop ---- */

void machine_ask_reset(struct machine *machine);
void machine_ask_off(struct machine *machine, enum machine_off_reason reason, const char *text);

/* The storage has failed: false where the guest is to get the error. It is back. */
bool machine_enter_critical(struct machine *machine, const char *text);
void machine_leave_critical(struct machine *machine);

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

/* Is all of it in a window for the memory of VMBus devices? */
bool platform_in_window(const struct machine *machine, uint64_t gpa, uint64_t len);

/* ---- display.c: keyboard, mouse and video, where the description wants them ---- */

int display_new(struct machine *machine, struct display **ret, struct error *err);
void display_free(struct display *display);
void display_save(const struct display *display, struct state_out *out);
int display_restore(struct display *display, struct state_in *in, struct error *err);

/* ---- memory.c ---- */

int memory_new(struct machine *machine, struct error *err);
/* Offers dynamic memory. */
int memory_offer(struct machine *machine, struct error *err);
/* All RAM is what it was at the start. VPs are paused. */
int memory_reset(struct machine *machine, struct error *err);

/* ---- storage.c, adapters.c: those of the description; their descriptors are taken ---- */

int storage_new(struct machine *machine, struct storage **ret, struct error *err);
void storage_free(struct storage *storage);
/* Puts a new layer on each of these disks, or on none; nothing is in flight. Takes the descriptors.
 */
int storage_push(struct storage *storage, const struct machine_layer *layers, unsigned count,
		 struct error *err);
/* Undoes it at once. */
void storage_pop(struct storage *storage, const struct machine_layer *layers, unsigned count);
int adapters_new(struct machine *machine, struct adapters **ret, struct error *err);
void adapters_free(struct adapters *adapters);
/* Add what theirs did. */
/* Tries again what the host's storage has failed. */
void storage_retry(struct storage *storage);
/* Gives the guest the errors. */
void storage_give_up(struct storage *storage);
void storage_usage(const struct storage *storage, struct machine_usage *ret);
void adapters_usage(const struct adapters *adapters, struct machine_usage *ret);
/* As of the synthetic devices below. */
void storage_quiesce(struct storage *storage);
void storage_unquiesce(struct storage *storage);
void storage_save(struct storage *storage, struct state_out *out);
int storage_restore(struct storage *storage, struct state_in *in, struct error *err);
void adapters_quiesce(struct adapters *adapters);
void adapters_unquiesce(struct adapters *adapters);
void adapters_save(struct adapters *adapters, struct state_out *out);
int adapters_restore(struct adapters *adapters, struct state_in *in, struct error *err);

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
	uint64_t ram_bytes, reach_bytes;
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
struct layering;
/* May it begin? */
int save_check(const struct machine *machine, struct error *err);
/* machine_save, with new layers on the disks (taken; NULL: none). */
int save_begin(struct machine *machine, int fd, bool stop, struct layering *layering,
	       machine_save_done done, void *user, struct error *err);
/* No VP runs, and no device touches guest memory. */
void machine_stand_still(struct machine *machine);
void machine_let_go(struct machine *machine);

/* ---- checkpoint.c ---- */

/* Takes the descriptors, if it succeeds. */
int layering_new(const struct machine_checkpoint *checkpoint, struct layering **ret,
		 struct error *err);
void layering_free(struct layering *layering); /* NULL allowed */
/* The guest stands still: all disks get their layers and the mark says so, or neither. */
int layering_push(struct layering *layering, struct storage *storage, struct error *err);

/* ---- machine.c ---- */

void machine_go_off(struct machine *machine, enum machine_off_reason reason, const char *text);

#endif
