/*
 * A virtual machine as the daemon knows it: its description, its folder, its state, and what is
 * kept of its last run. run.h has what is there only while it runs.
 *
 * A VM is referenced by the list of VMs and by whoever waits for it; after vm_remove the object
 * lives on, marked as removed, until the last one lets go.
 *
 * Folder: vm.json (the description, config-json.h; removed.json while the VM is being removed),
 * last-stop.json, lock, saved-ID (saved.h), checkpoints (checkpoints.h), merge.json and merge.mark
 * (checkpoint-fold.h), replaced.json (checkpoint-disks.h), boot (kernels that came with an import).
 * It is state/vms/ID, or with New-VM -Path a folder elsewhere that state/vms/ID points to by a
 * symbolic link.
 */
#ifndef DAEMON_VM_H
#define DAEMON_VM_H

#include "base/guid.h"
#include "config/config.h"
#include "daemon.h"

#include <jansson.h>

enum vm_state {
	VM_OFF,
	VM_STARTING,
	VM_RUNNING,
	VM_STOPPING,
	VM_PAUSED,
	VM_CRITICAL, /* paused since the host's storage failed */
	VM_SAVED,
	VM_SAVING
};

enum vm_wait {
	VM_WAIT_STARTED,
	VM_WAIT_OFF,
	VM_WAIT_CHANGED,
	VM_WAIT_SAVED,
	VM_WAIT_FOLDED, /* its disks are merged as far as they can be */
	VM_WAIT_IDLE    /* no merge is under way */
};

struct vm_waiter;
struct request;
struct folding;
struct run;
struct metering;

#define VM_MAX_RECOVERIES 3

struct vm {
	struct daemon *daemon;
	unsigned references;
	bool removed;
	struct config_vm *config;
	char id[GUID_TEXT_SIZE];
	char *folder;
	enum vm_state state;
	const char *busy;              /* why it can be neither started nor changed; NULL: it can */
	unsigned changing;             /* changes of its devices that the worker has not answered */
	unsigned lent;                 /* temporary checkpoints of it in use (checkpoint-take.h) */
	struct folding *folding;       /* merging its disks (checkpoint-fold.h); NULL: nothing */
	struct loop_timer *fold_retry; /* NULL: none yet */
	unsigned fold_failures;        /* in a row; it is tried again then */
	struct run *run;               /* NULL: off */
	struct metering *metering;     /* NULL: it is not metered */
	json_t *last_stop;         /* "reason", "text", "time", perhaps "crash"; NULL: never ran */
	bool host_stops;           /* it is stopped with the host, not by somebody */
	bool console_wanted;       /* by whoever starts it */
	int early_console;         /* COM1, connected before the start; -1: none */
	struct request *copying;   /* Copy-VMFile that is under way */
	unsigned refused_sign_ins; /* Direct, since the daemon started */
	unsigned recoveries; /* starts after the worker failed, and when the last of them were */
	uint64_t recovered_ns[VM_MAX_RECOVERIES];
	struct vm_waiter *waiters;
};

/* Off or saved: it has no worker. */
static inline bool vm_is_down(const struct vm *vm)
{
	return vm->state == VM_OFF || vm->state == VM_SAVED;
}

/* Nor has it one yet. */
static inline bool vm_has_no_worker(const struct vm *vm)
{
	return vm_is_down(vm) || vm->state == VM_STARTING;
}

/* "Off", "Running", ...: as Get-VM shows it. */
const char *vm_state_name(enum vm_state state);

/* Reads all folders of the store. A folder that can't be read is logged and left alone. */
int vm_load_all(struct daemon *daemon, struct error *err);
/* Takes config; folder NULL: in the store. Borrowed result. */
int vm_create(struct daemon *daemon, struct config_vm *config, const char *folder, struct vm **ret,
	      struct error *err);
/* Takes config, a VM whose folder is there already, and writes its description into it. mergeable:
 * its disks have layers that are to be merged (checkpoint-fold.h), which is noted there, too. */
int vm_register(struct daemon *daemon, struct config_vm *config, const char *folder, bool mergeable,
		struct vm **ret, struct error *err);
/* The same in two steps: before vm_enlist nobody knows of it, and vm_unref forgets it. */
int vm_place(struct daemon *daemon, struct config_vm *config, const char *folder, bool mergeable,
	     struct vm **ret, struct error *err);
void vm_enlist(struct vm *vm);
/* The link in the store to a VM's folder elsewhere, or its folder there; the caller's. */
char *vm_store_path(struct daemon *daemon, const char *id);
int vm_remove(struct vm *vm, struct error *err);
/* ERR_BUSY where it is. */
int vm_check_busy(const struct vm *vm, struct error *err);
/* Writes a changed description (taken, also on failure) and makes it the VM's. */
int vm_change(struct vm *vm, struct config_vm *config, struct error *err);
/* The same for what has happened already, also to a VM that is busy. */
int vm_follow(struct vm *vm, struct config_vm *config, struct error *err);
/* A copy to change. NULL: no memory. */
struct config_vm *vm_config_copy(const struct vm *vm, struct error *err);

struct vm *vm_ref(struct vm *vm);
void vm_unref(struct vm *vm);
/* By exact name, case ignored; or NULL. */
struct vm *vm_find(struct daemon *daemon, const char *name);
struct vm *vm_find_id(struct daemon *daemon, const char *id);

/* Keeps why it is off, in memory and in the folder. crash (may be NULL) is borrowed. */
void vm_note_stop(struct vm *vm, const char *reason, const char *text, const json_t *crash);
void vm_event(struct vm *vm, enum event_kind kind, json_t *data, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * done is called once: when it has happened (err NULL), when it can't happen any more, or with what
 * vm_cancel_waits() was given for its owner or user. VM_WAIT_CHANGED waits for any news of the
 * guest; VM_WAIT_SAVED for the end of what run_save began.
 */
typedef void (*vm_done)(void *user, struct vm *vm, const struct error *err);
void vm_wait(struct vm *vm, enum vm_wait what, vm_done done, void *user, void *owner);
void vm_wake(struct vm *vm, enum vm_wait what, const struct error *err);
void vm_cancel_waits(struct daemon *daemon, const void *owner_or_user, const struct error *err);
/* All of this one's. */
void vm_end_waits(struct vm *vm, const struct error *err);
void vm_free_all(struct daemon *daemon);

#endif
