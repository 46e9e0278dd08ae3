/*
 * Layers of a VM's disks that nothing needs any more, because their checkpoints are gone, are
 * merged into those below: by oyako-disk while the VM is off or saved, behind the guest by its
 * worker while it runs. It goes on over starts and stops of the VM and of the service.
 *
 * VM-folder/merge.json is there while there may be something to merge. While one merge is under way
 * it says what it will have changed: "old" (the uppermost merged layer), "new" (what it goes into),
 * "files", perhaps "above" (the layer over "old") and "asked"; and merge.mark (base/mark.h) is set
 * by the worker before the guest writes to what was merged into.
 */
#ifndef DAEMON_CHECKPOINT_FOLD_H
#define DAEMON_CHECKPOINT_FOLD_H

#include "request.h"

/* Before a checkpoint goes: even if the service is interrupted then, it will be looked for layers.
 */
int fold_want(struct vm *vm, struct error *err);
/* Looks for such layers; VM_WAIT_FOLDED tells the end. watcher (may be NULL) gets the progress,
 * until fold_forget. */
void fold_begin(struct vm *vm, struct request *watcher);
void fold_forget(struct vm *vm, const struct request *watcher);
/* While there is one: done when it has ended, as far as it gets now, or with an error when the
 * request (may be NULL) is cancelled, which has the progress until then. */
void fold_wait(struct vm *vm, struct request *request, vm_done done, void *user);

/* into: what it was merged into; NULL with err, and then the chain is as it was. */
typedef void fold_merged(void *user, const char *into, const struct error *err);

/* One merge that somebody asks for, of a VM that runs: of the layer at path and all between down to
 * `into` (NULL: its parent). What it is merged into takes its place, also in the VM's description,
 * and the merged files are deleted. */
struct fold_merge {
	unsigned disk; /* in the description: whose chain it is */
	const char *path, *into;
	struct request *watcher; /* gets the progress until fold_forget */
	fold_merged *done;       /* once, unless it fails at once */
	void *user;
};
int fold_merge(struct vm *vm, const struct fold_merge *merge, struct error *err);
/* The one of that user: done follows, with ERR_CANCELLED unless it is too late. */
void fold_cancel(struct vm *vm, const void *user);

/* May there be something to merge, or a merge to be settled? */
bool fold_is_wanted(const struct vm *vm);
/* Only the latter. */
bool fold_is_unsettled(const struct vm *vm);
/* Goes on with what was interrupted, if there is any, and it can be. */
void fold_resume(struct vm *vm);
/* The VM is about to start: a merge that is under way ends soon, and VM_WAIT_IDLE tells when. */
void fold_stop(struct vm *vm);
/* Nobody is at a merge any more: its names become those that it had come to. An error: the VM must
 * not start, for its disks may not be those that its description says. */
int fold_settle(struct vm *vm, struct error *err);
/* The worker has ended; it was connected to anew: what it was at is not known any more. */
void fold_worker_ended(struct vm *vm);
void fold_worker_lost(struct vm *vm);
/* The service ends: what the worker is at goes on without it, what oyako-disk is at ends. Whoever
 * asked for a merge is told err. */
void fold_detach(struct vm *vm, const struct error *err);
/* It says something of a merge. */
void fold_event(struct vm *vm, const char *name, const json_t *event);
/* It is at it, or will try again. */
bool fold_is_pending(const struct vm *vm);
/* Is the VM's disk being merged behind the guest? Is it busy only with a merge that makes way? */
bool fold_is_live(const struct vm *vm);
bool fold_holds(const struct vm *vm);
/* With the VM. */
void fold_remove_files(int folder_fd);

#endif
