/*
 * A whole VM, assembled from its description: partition, chipset, firmware tables, Hyper-V's
 * enlightenments, VMBus and its devices, and the order in which they start, reset and stop.
 *
 * All functions belong to the worker's loop, and so do the events. Life cycle: machine_new,
 * machine_start, then machine_pause/machine_resume/machine_reset/... any number of times,
 * machine_free. After the `off` event the VPs stand still; machine_free remains.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "base/error.h"
#include "base/guid.h"
#include "base/loop.h"
#include "config/config.h"
#include "ic/ic.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct machine;

enum machine_off_reason {
	MACHINE_OFF_GUEST,      /* the guest powered itself off */
	MACHINE_OFF_TURNED_OFF, /* machine_turn_off() */
	MACHINE_OFF_CRASH,      /* the guest reported a crash and stopped, or can't go on */
	MACHINE_OFF_ERROR,      /* the host could not go on */
	MACHINE_OFF_SAVED,      /* machine_save() */
};
/* "guest-shutdown", "turned-off", "guest-crash", "worker-error", "saved" */
const char *machine_off_reason_name(enum machine_off_reason reason);

struct machine_kvp {
	char *key, *value; /* UTF-8 */
};

struct machine_service {
	const char *name; /* Hyper-V's name of the integration service */
	bool enabled;
	const char *status; /* "OK", "No Contact", "Lost Communication", "Disabled" */
	char version[16];   /* "3.2", or "" */
};

struct machine_events {
	void *user;
	void (*off)(void *user, enum machine_off_reason reason, const char *text);
	void (*guest_reset)(void *user);
	/* P0..P4 of the crash MSRs; message may be NULL. */
	void (*guest_crash)(void *user, const uint64_t parameters[5], const char *message);
	/* What the guest says of itself (KVP pool 2), or its services, changed. */
	void (*kvp_changed)(void *user);
	void (*services_changed)(void *user);
	/* The guest will not do what machine_shutdown_guest asked for; text says what is known. */
	void (*shutdown_failed)(void *user, const char *text);
	/* Bytes from the guest's COM port (0: COM1). */
	void (*console_output)(void *user, unsigned port, const void *data, size_t len);
	/* The guest can take input again after machine_console_input() took less than all. */
	void (*console_room)(void *user, unsigned port);
	/* The guest wants to connect to a service of the host: machine_socket_accept/refuse. */
	void (*socket_asked)(void *user, uint64_t ticket, const struct guid *service);
};

/* Descriptors that the description's paths stand for, in the order of the description. They are
 * taken over (closed by machine_free, or by a failed machine_new). -1: not given. */
struct machine_parents {
	int *fds; /* allocated */
	unsigned count;
};

struct machine_files {
	int kernel, initrd, kvm;
	int saved; /* a saved state (state/file.h): the VM goes on from it instead of booting */
	int disks[CONFIG_MAX_DISKS];
	struct machine_parents
	    parents[CONFIG_MAX_DISKS]; /* of differencing ones: the direct one first */
	int nics[CONFIG_MAX_NICS];     /* the port's socket; -1: not connected */
};

/* Closes and frees what is in it. */
void machine_parents_done(struct machine_parents *parents);

int machine_new(struct loop *loop, const struct config_vm *config, struct machine_files *files,
		const struct machine_events *events, struct machine **ret, struct error *err);
void machine_free(struct machine *machine);
int machine_start(struct machine *machine, struct error *err);

void machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
/* Power button held: VPs stop at once; `off` follows. */
void machine_turn_off(struct machine *machine);
/* Reset button. */
void machine_reset(struct machine *machine);
void machine_nmi(struct machine *machine);
/* Asks the guest by the shutdown service: ERR_STATE if it does not listen. */
int machine_shutdown_guest(struct machine *machine, bool reboot, bool force, struct error *err);
int machine_set_service(struct machine *machine, enum config_ic service, bool enabled,
			struct error *err);

/* Returns how many bytes the guest's UART could take. */
size_t machine_console_input(struct machine *machine, unsigned port, const void *data, size_t len);

/* The integration services, for what goes to the guest by them; the machine's. */
struct ic *machine_ic(struct machine *machine);

/* ---- sockets between programs of host and guest (dev/hvsock.h, which says more) ---- */

/* Each takes fd, a connected stream socket. */
int machine_socket_connect(struct machine *machine, const struct guid *service, int fd,
			   uint64_t timeout_ns, void (*done)(void *user, int result), void *user,
			   struct error *err);
int machine_socket_accept(struct machine *machine, uint64_t ticket, int fd, struct error *err);
void machine_socket_refuse(struct machine *machine, uint64_t ticket);
/* ---- save ---- */

struct machine_saved {
	uint64_t pause_ns; /* how long the guest stood still, up to now */
	uint64_t ram_bytes_written;
	unsigned rounds; /* of copying behind the running guest */
};

/*
 * Writes the VM's memory and state to fd (taken; an empty regular file). Memory is copied behind
 * the running guest; then the guest stands still for what it wrote last, and for its devices'
 * state.
 *
 * stop: the VM then stands for good, and when the file is on the disk `off` follows with
 * MACHINE_OFF_SAVED. Else the guest goes on at once, and the file is finished behind it. done is
 * called when the file is whole on the disk (err NULL), or not to be had: then the guest goes on,
 * too. One at a time (ERR_BUSY); the machine may be paused.
 */
typedef void (*machine_save_done)(void *user, const struct machine_saved *saved,
				  const struct error *err);
int machine_save(struct machine *machine, int fd, bool stop, machine_save_done done, void *user,
		 struct error *err);
/* Between machine_save and done. */
bool machine_saving(const struct machine *machine);
/* Of the memory, how much has been written: 0 to 100. */
unsigned machine_save_percent(const struct machine *machine);

/* ---- disks of a running machine: index in the description; disk/live.h says what each does ----
 */

struct live_merge;
/* Takes fd. */
int machine_disk_push(struct machine *machine, unsigned index, int fd, struct error *err);
/* Takes the descriptors of merge. */
int machine_disk_merge(struct machine *machine, unsigned index, const struct live_merge *merge,
		       struct error *err);
int machine_disk_merge_cancel(struct machine *machine, unsigned index, struct error *err);

/* ---- state for the administrator ---- */

const char *machine_backend_name(const struct machine *machine); /* "kvm", "soft" */
const char *machine_backend_reason(const struct machine *machine);
bool machine_paused(const struct machine *machine);
uint64_t machine_vp_runtime_ns(const struct machine *machine, unsigned vp);
uint64_t machine_uptime_ns(const struct machine *machine);
/* Fills services[CONFIG_IC_COUNT]. */
void machine_services(struct machine *machine, struct machine_service *services);
/* "OK", "No Contact", ...: of the heartbeat service. */
const char *machine_heartbeat(struct machine *machine);
/* Borrowed until the next kvp_changed event. */
const struct machine_kvp *machine_kvp(struct machine *machine, size_t *ret_count);

#endif
