/*
 * Checkpoints of a VM: each a folder of VM-folder/checkpoints (or of the folder that the
 *description names for them), named by its id: checkpoint.json	id, name, when, parent, type vm.json
 *the description as it was
 *	memory		memory and state (lib/state/file.h), of a VM that was saved, or ran, unless
 *it is a production checkpoint and while it is being taken:
 *	layers.json	the new disks that the VM is to have over its own (checkpoint-disks.h)
 *	mark		of a VM that runs: set by its worker when they are its disks (base/mark.h).
 *			From then on the VM has to go on with them, whatever becomes of the rest
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
	bool production; /* of file systems that stood still */
	bool automatic;  /* taken at a start, to go with the stop */
	bool temporary;  /* taken for an operation of the service, to go with that */
};

struct checkpoints {
	struct checkpoint *list; /* oldest first */
	size_t count;
};

/* Reads them all; what can't be read is logged and left out. Returns how many that are. */
size_t checkpoints_load(const struct vm *vm, struct checkpoints *ret);
void checkpoints_done(struct checkpoints *checkpoints);
const struct checkpoint *checkpoints_find(const struct checkpoints *checkpoints, const char *id);

/* The same of any folder that holds checkpoints, such as that of an export. */
size_t checkpoints_load_from(const char *folder, struct checkpoints *ret);
int checkpoint_config_from(const char *folder, const char *id, struct config_vm **ret,
			   struct error *err);
char *checkpoint_memory_in(const char *folder, const char *id); /* the caller's */
/* Writes one, whose memory is there already, into its folder, which is there, too. */
int checkpoint_write(const char *folder, const struct checkpoint *checkpoint,
		     const struct config_vm *config, struct error *err);
/* Where a VM that has this folder and description has its checkpoints; the caller's. */
char *checkpoints_folder(const char *vm_folder, const struct config_vm *config);

/* Hyper-V's: "web - (11/28/2026 - 1:05:12 PM)", local time. */
char *checkpoint_default_name(const struct vm *vm);

/* A new one, under its preliminary name; ret's name, production and automatic are given, id is
 * set. plan (checkpoint_disks_plan, borrowed): its disks, which are removed again if it comes to
 * nothing. */
int checkpoint_begin(struct vm *vm, struct checkpoint *ret, const json_t *plan, struct error *err);
/* It becomes an ordinary one after all. */
int checkpoint_make_standard(struct vm *vm, struct checkpoint *checkpoint, struct error *err);
/* The file for the memory, to be written; the mark. Return the descriptor. */
int checkpoint_make_memory(struct vm *vm, const char *id, struct error *err);
int checkpoint_make_mark(struct vm *vm, const char *id, struct error *err);
/* The memory of the VM's saved state is the checkpoint's, too. */
int checkpoint_link_memory(struct vm *vm, const char *id, struct error *err);
/* Of a VM that is down. From here on it exists, and the VM comes from it and goes on with config
 * (taken, also on failure). vm.json decides: where that names a preliminary one as the VM's, it is
 * one. On failure it is abandoned. */
int checkpoint_commit(struct vm *vm, const char *id, struct config_vm *config, struct error *err);
/*
 * Of a VM that runs or ran: its worker has done what it will do, and won't do more. Where the disks
 * got their layers the VM goes on with them; if the memory is whole, too, the checkpoint exists.
 * Else it is abandoned, and the error is why. A description that can't be written leaves all as it
 * is, to be settled later.
 */
int checkpoint_settle(struct vm *vm, const char *id, struct error *err);
void checkpoint_abandon(struct vm *vm, const char *id);
/* The one that a worker of an earlier daemon may be at. False: none. */
bool checkpoints_under_way(const struct vm *vm, char ret_id[static GUID_TEXT_SIZE]);

/* The description that it has. The caller's. */
int checkpoint_config(const struct vm *vm, const char *id, struct config_vm **ret,
		      struct error *err);
char *checkpoint_memory_path(const struct vm *vm, const char *id);
/* A disk that some of them may have has another name. */
int checkpoints_rename_disk(struct vm *vm, const char *old, const char *new, struct error *err);
int checkpoint_rename(struct vm *vm, const struct checkpoint *checkpoint, const char *name,
		      struct error *err);
/* It goes on as after a power cut when it is applied. */
int checkpoint_remove_memory(struct vm *vm, const struct checkpoint *checkpoint, struct error *err);
/* Its children, and the VM, then come from its parent. */
int checkpoint_remove(struct vm *vm, const struct checkpoint *checkpoint, struct error *err);

/* Without a worker that is at one: finishes or undoes what was interrupted. An error: what the VM's
 * disks are is not in its description yet; it must not start. */
int checkpoints_clean_up(struct vm *vm, struct error *err);
/* With the VM. */
void checkpoints_remove_all(struct vm *vm);

#endif
