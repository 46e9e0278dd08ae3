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
	/* The guest opened that DVD drive: its medium is closed already. */
	void (*ejected)(void *user, const struct guid *controller, unsigned location);
	/* A hard disk is slower than its minimum; it is not any more. */
	void (*disk_slow)(void *user, const struct guid *controller, unsigned location, bool slow);
	/* The host's storage failed, and the guest stands still until it is back (text says which
	 * disk and why); it is back, or the disk is gone (text NULL). machine_critical(). */
	void (*critical)(void *user, const char *text);
	/* P0..P4 of the crash MSRs; message may be NULL. */
	void (*guest_crash)(void *user, const uint64_t parameters[5], const char *message);
	/* What the guest says of itself (KVP pool 2), or its services, changed. */
	/* machine_memory() has news; at most some per second. */
	void (*memory_changed)(void *user);
	/* The screen has another mode; something was drawn on it. */
	void (*display_changed)(void *user);
	void (*display_damaged)(void *user);
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
	int tracks[CONFIG_MAX_DISKS];  /* change tracking files (disk/track.h) */
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
/* The host's storage has failed, and the machine is paused for it. It is tried again by itself, and
 * at once by machine_resume. */
bool machine_critical(const struct machine *machine);
/* Whether the machine is paused then (it is unless set); else the guest gets the errors. */
void machine_set_critical_pause(struct machine *machine, bool pause);
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

/* ---- memory ---- */

struct machine_memory {
	uint32_t version; /* of the protocol with the guest, (major << 16) + minor; 0: no driver */
	uint64_t assigned_bytes;                /* RAM that the guest has */
	uint64_t target_bytes;                  /* and shall have */
	uint64_t demand_bytes, available_bytes; /* as the guest says; demand 0: it hasn't yet */
	uint64_t growth_bytes;                  /* of the demand, in a second of late */
	uint64_t backed_bytes;                  /* what its RAM costs the host */
};

void machine_memory(const struct machine *machine, struct machine_memory *ret);

/* What its disks and network adapters did since the start, those that are there now; and how large
 * its hard disks are, for the guest. Directions are the guest's. */
struct machine_usage {
	uint64_t disk_reads, disk_writes; /* requests */
	uint64_t disk_read_bytes, disk_written_bytes, disk_capacity_bytes;
	uint64_t sent_bytes, received_bytes;
};

void machine_usage(const struct machine *machine, struct machine_usage *ret);
/* Gives the guest so much, or takes it away, as far as the guest goes along (dev/balloon.h). */
void machine_set_memory(struct machine *machine, uint64_t bytes);

/*
 * ---- keyboard, mouse and screen ----
 *
 * ERR_STATE where the VM has none (config_video), or its guest has no driver at work.
 */

/* Types a text on a US keyboard: all of it or nothing. ERR_INVALID: a character that has no key;
 * ERR_BUSY: the guest has not taken enough of what was typed before. */
int machine_type(struct machine *machine, const char *text, struct error *err);
/* Presses keys together and lets them go: "Ctrl+Alt+Delete" (dev/keymap.h). */
int machine_press(struct machine *machine, const char *keys, struct error *err);
/* x and y in pixels; buttons bit 0: left, 1: right, 2: middle. */
int machine_point(struct machine *machine, unsigned x, unsigned y, unsigned buttons, int wheel,
		  struct error *err);

struct machine_screen {
	unsigned width, height, pitch_bytes; /* 32-bit pixels, XRGB */
	const uint8_t *pixels;               /* borrowed; the guest draws meanwhile */
	int memory_fd;                       /* borrowed: video memory, */
	uint64_t offset;                     /* where the pixels begin in it */
};
int machine_screen(struct machine *machine, struct machine_screen *ret, struct error *err);
struct machine_rect {
	unsigned x1, y1, x2, y2; /* right and bottom exclusive */
};
#define MACHINE_MAX_DAMAGE 16
/* What was drawn since the last call; returns how many. */
unsigned machine_take_damage(struct machine *machine,
			     struct machine_rect rects[static MACHINE_MAX_DAMAGE]);

/*
 * ---- devices that come and go ----
 *
 * At any time after machine_new, whether the guest runs, is paused or starts over. The description
 * stays as it was at the start: the caller keeps the present one. Descriptors are taken, also on
 * failure. A controller is named by its instance GUID, a drive by controller and location.
 */

struct machine_drive {
	struct guid controller;
	unsigned location;
	enum config_disk_kind kind;
	bool read_only;
	const char *path;                    /* what errors call it; NULL: an empty DVD drive */
	unsigned minimum_iops, maximum_iops; /* of a hard disk; 0: none */
};

int machine_add_controller(struct machine *machine, const struct guid *id, struct error *err);
/* With its drives, whose images are closed at once; the guest loses the controller when it has let
 * the drives go. */
int machine_remove_controller(struct machine *machine, const struct guid *id, struct error *err);
/* fd -1: an empty DVD drive. Takes fd, and parents' descriptors when it succeeds: their count is 0
 * then. */
int machine_add_drive(struct machine *machine, const struct machine_drive *drive, int fd,
		      struct machine_parents *parents, struct error *err);
/* Returns when the host has nothing more in flight and the image is closed. */
int machine_remove_drive(struct machine *machine, const struct guid *controller, unsigned location,
			 struct error *err);
/* Puts the medium of drive (fd -1: none) into the DVD drive that is in its place. */
int machine_set_medium(struct machine *machine, const struct machine_drive *drive, int fd,
		       struct error *err);
/* Begins to track changes of a VHDX; takes the descriptor of the file that holds them. What is in
 * it is used unless it is stale. */
int machine_drive_track(struct machine *machine, const struct guid *controller, unsigned location,
			int fd, struct error *err);
/* The disk for disk/track.h, whether its changes are tracked or not. Lent: it goes with the drive.
 */
struct blk;
int machine_drive_tracked(struct machine *machine, const struct guid *controller, unsigned location,
			  struct blk **ret, struct error *err);
/* Of a hard disk, from now on. */
int machine_set_iops(struct machine *machine, const struct guid *controller, unsigned location,
		     unsigned minimum, unsigned maximum, struct error *err);
/* Makes a disk larger, and tells the guest. An error may also be that its changes are not tracked
 * any more. */
int machine_grow_drive(struct machine *machine, const struct guid *controller, unsigned location,
		       uint64_t size_bytes, struct error *err);

/* port_fd: of a switch; -1: not connected. */
int machine_add_adapter(struct machine *machine, const struct config_nic *nic, int port_fd,
			struct error *err);
/* Where the guest's interface is up, it loses its link now and goes some seconds later. */
int machine_remove_adapter(struct machine *machine, const struct guid *id, struct error *err);
/* Plugs it in elsewhere, or out. */
int machine_plug_adapter(struct machine *machine, const struct guid *id, int port_fd,
			 struct error *err);

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

/* ---- checkpoint ---- */

/* What one disk gets: a new, empty differencing image (disk/live.h). */
struct machine_layer {
	struct guid controller;
	unsigned location;
	int fd;
};

struct machine_checkpoint {
	int memory_fd; /* as machine_save's; -1: only the disks */
	int mark_fd;   /* base/mark.h: set when the disks have their layers, before the guest
			  writes to them */
	const struct machine_layer *layers;
	unsigned layer_count;
	machine_save_done done;
	void *user;
};

/*
 * Memory and state as of one instant, while the guest stands still, and at the same instant all
 * disks get their new layers, or none does. The guest then goes on. All descriptors are taken.
 *
 * With memory it is a machine_save without stop, and done tells the end: what fails after the mark
 * was set leaves the disks with their layers. Without, all is done on return, and done is called
 * before. A failure that is returned has changed nothing.
 */
int machine_checkpoint(struct machine *machine, const struct machine_checkpoint *checkpoint,
		       struct error *err);
/* Between machine_save and done. */
bool machine_saving(const struct machine *machine);
/* Of the memory, how much has been written: 0 to 100. */
unsigned machine_save_percent(const struct machine *machine);

/* ---- the layers of a disk (disk/live.h), which is named by controller and location ---- */

struct live_merge;
/* Takes the descriptors of merge. */
int machine_disk_merge(struct machine *machine, const struct guid *controller, unsigned location,
		       const struct live_merge *merge, struct error *err);
struct live_paths;
int machine_disk_set_paths(struct machine *machine, const struct guid *controller,
			   unsigned location, const struct live_paths *paths, struct error *err);
int machine_disk_merge_cancel(struct machine *machine, const struct guid *controller,
			      unsigned location, struct error *err);

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
