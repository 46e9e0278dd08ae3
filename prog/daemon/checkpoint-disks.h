/*
 * The disks' part of checkpoints. Each writable hard disk of a VM gets a differencing disk over it,
 * NAME_GUID.avhdx beside it (as Hyper-V names it), to which the guest writes from then on; the disk
 * under it belongs to the checkpoint and is not written any more.
 */
#ifndef DAEMON_CHECKPOINT_DISKS_H
#define DAEMON_CHECKPOINT_DISKS_H

#include "request.h"

/* config: the changed description, the callee's; NULL with err, and then nothing was made. */
typedef void (*checkpoint_disks_done)(void *user, struct vm *vm, struct config_vm *config,
				      const struct error *err);

/* Is there any that needs it? */
bool checkpoint_disks_any(const struct config_vm *config);
/* By its name, one of those differencing disks; and whether path can be the name of one under it.
 */
bool checkpoint_disk_was_made_here(const char *path);
bool checkpoint_disk_is_below(const char *above, const char *path);
/* Which ones config's disks get: a list of {"old": path, "new": path}. */
int checkpoint_disks_plan(const struct config_vm *config, json_t **ret, struct error *err);
/* Makes those of the plan (borrowed) over the disks of config (taken) and puts them in their places
 * there. The VM is busy until done is called, which may be at once. */
void checkpoint_disks_make(struct vm *vm, struct config_vm *config, const json_t *plan,
			   checkpoint_disks_done done, void *user);
/* In a description: the new ones for the old ones that are still there. */
int checkpoint_disks_follow(struct config_vm *config, const json_t *plan, struct error *err);
/* Deletes the new ones that the VM does not have. */
void checkpoint_disks_undo(const struct vm *vm, const json_t *plan);
/* Before a VM goes on over the old ones without a checkpoint that has them: they are to be merged,
 * and until then nothing else names them. */
int checkpoint_disks_leave(struct vm *vm, const json_t *plan, struct error *err);
/* Before a VM gets the disks of a plan instead of its own: writes down both (replaced.json in its
 * folder), so that those that it does not have in the end go, also after an interruption. */
int checkpoint_disks_replace(const struct vm *vm, const json_t *plan, struct error *err);
void checkpoint_disks_replaced(const struct vm *vm);
/* Is there such a file? */
bool checkpoint_disks_unsettled(const struct vm *vm);
struct checkpoint;
struct checkpoints;
/* checkpoint_remove, and its disks, if none lies on them. */
int checkpoint_disks_remove_with(struct vm *vm, const struct checkpoints *all,
				 const struct checkpoint *checkpoint, struct error *err);
/* In a description: that disk has another name. 1: it was there. */
int checkpoint_disks_rename(struct config_vm *config, const char *old, const char *new,
			    struct error *err);

#endif
