/*
 * Checkpoints of a VM: each a folder of VM-folder/checkpoints, named by its id:
 *	checkpoint.json	id, name, when, parent
 *	vm.json		the description as it was
 *	memory		memory and state (lib/state/file.h), of a VM that ran or was saved
 * A folder comes into being under the name ID.new, and goes by the name ID.removed: what has such a
 * name after a restart of the service was interrupted, and is removed, unless vm.json says that the
 * VM comes from it; the children of one that goes are its parent's then. The tree hangs together by
 * the parents' ids; the VM's own is in its vm.json.
 */
#ifndef DAEMON_CHECKPOINTS_H
#define DAEMON_CHECKPOINTS_H

#include "vm.h"

#define CHECKPOINTS_MAX 50 /* of one VM, as Hyper-V */

struct checkpoint {
	char id[GUID_TEXT_SIZE];
	char *name;
	char *created; /* UTC, ISO 8601 */
	char *parent;  /* id, or NULL */
	bool has_memory;
};

struct checkpoints {
	struct checkpoint *list; /* oldest first */
	size_t count;
};

/* Reads them all; what can't be read is logged and left out. */
void checkpoints_load(const struct vm *vm, struct checkpoints *ret);
void checkpoints_done(struct checkpoints *checkpoints);
const struct checkpoint *checkpoints_find(const struct checkpoints *checkpoints, const char *id);

/* Hyper-V's: "web - (11/28/2026 - 1:05:12 PM)", local time. */
char *checkpoint_default_name(const struct vm *vm);

/* A new one, under its preliminary name. */
int checkpoint_begin(struct vm *vm, char ret_id[static GUID_TEXT_SIZE], struct error *err);
/* The file for the memory, to be written. Returns the descriptor. */
int checkpoint_make_memory(struct vm *vm, const char *id, struct error *err);
/* The memory of the VM's saved state is the checkpoint's, too. */
int checkpoint_link_memory(struct vm *vm, const char *id, struct error *err);
/* From here on it exists, and the VM comes from it and goes on with config (taken, also on
 * failure). vm.json decides: where that names a preliminary one as the VM's, it is one. On failure
 * it is abandoned. */
int checkpoint_commit(struct vm *vm, const char *id, const char *name, struct config_vm *config,
		      struct error *err);
void checkpoint_abandon(struct vm *vm, const char *id);

/* The description that it has. The caller's. */
int checkpoint_config(const struct vm *vm, const char *id, struct config_vm **ret,
		      struct error *err);
char *checkpoint_memory_path(const struct vm *vm, const char *id);
int checkpoint_rename(struct vm *vm, const struct checkpoint *checkpoint, const char *name,
		      struct error *err);
/* Its children, and the VM, then come from its parent. */
int checkpoint_remove(struct vm *vm, const struct checkpoint *checkpoint, struct error *err);

void checkpoints_clean_up(struct vm *vm);
/* With the VM. */
void checkpoints_remove_all(struct vm *vm);

#endif
