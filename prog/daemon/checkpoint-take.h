/*
 * Taking a checkpoint, of a VM in any state: Off, Saved, Running or Paused.
 *
 * Of a VM that is down everything stays as it is. One that runs goes on: its worker writes memory
 * and state behind it and, while it stands still for a moment, gives its disks their new layers
 * (docs/state.md). A production checkpoint has no memory; instead the guest's file systems stand
 * still meanwhile.
 */
#ifndef DAEMON_CHECKPOINT_TAKE_H
#define DAEMON_CHECKPOINT_TAKE_H

#include "request.h"

/* id: the new one's; NULL with err. */
typedef void (*checkpoint_taken)(void *user, struct vm *vm, const char *id,
				 const struct error *err);

/* name NULL: Hyper-V's default. request is for progress; may be NULL. done may be called at once.
 * While the VM's disks are being merged it waits, and cancelling the request ends that; what has
 * begun can't be cancelled. */
void checkpoint_take(struct vm *vm, const char *name, struct request *request,
		     checkpoint_taken done, void *user);

/* For a moment's use, of a VM that runs: with its memory, with file systems that stand still, or
 * just its disks. Whoever took it gives it back, and it goes with the last that is given back; what
 * an earlier service had taken goes, too. */
enum checkpoint_kind {
	CHECKPOINT_AS_SET,
	CHECKPOINT_WITH_MEMORY,
	CHECKPOINT_FROZEN,
	CHECKPOINT_DISKS
};
void checkpoint_take_for(struct vm *vm, const char *name, enum checkpoint_kind kind,
			 struct request *request, checkpoint_taken done, void *user);
void checkpoint_give_back(struct vm *vm);

/* Set-VM -AutomaticCheckpointsEnabled. Of a VM that is about to start. False: none is to be taken,
 * and done is not called. */
bool checkpoint_take_automatic(struct vm *vm, checkpoint_taken done, void *user);
/* The VM is off: it goes. */
void checkpoint_remove_automatic(struct vm *vm);
/* Those that checkpoint_take_for took, unless the VM is busy, or somebody still uses one. */
void checkpoint_remove_temporary(struct vm *vm);

#endif
