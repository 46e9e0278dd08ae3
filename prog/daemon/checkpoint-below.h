/*
 * Layers of checkpoints that are gone, on which the disks of others still lie. Below the VM's own
 * disk they are merged (checkpoint-fold.h); in other branches of the tree nobody merges them, and
 * they must go with the last that lies on them.
 *
 * VM-folder/below.json has for the VM ("vm") and for checkpoints (by id) a list of such files. It
 * may have too many: what it says of a checkpoint that is not there, or of a file, counts for
 * nothing.
 */
#ifndef DAEMON_CHECKPOINT_BELOW_H
#define DAEMON_CHECKPOINT_BELOW_H

#include "checkpoints.h"

#define BELOW_FILE "below.json"
#define BELOW_VM   "vm"

/* Before a checkpoint with these disks (borrowed) goes: they, and what is below them, are below all
 * that comes from it. */
int below_inherit(const struct vm *vm, const struct checkpoints *all, const struct checkpoint *gone,
		  const json_t *disks, struct error *err);
/* Before the VM goes on over these disks (borrowed) without a checkpoint that has them. */
int below_leave(const struct vm *vm, const json_t *disks, struct error *err);
/* Before the VM becomes a checkpoint: what is below the VM's disks is below its. */
int below_begin(const struct vm *vm, const char *id, struct error *err);
/* The VM lies on what the checkpoint that it comes from lies on, and has nothing of its own. */
void below_clear_vm(const struct vm *vm);
/* Forgets files that are gone. */
void below_tidy(const struct vm *vm);
/* The file of a VM that is to be in that folder; an empty object (borrowed): there is none. */
int below_write(const char *folder, const json_t *below, struct error *err);
/* Adds to the disks of a checkpoint, or the VM (id NULL), a list of paths, what is below them. */
void below_add(const struct vm *vm, const char *id, json_t *paths);
/* Lies the VM on it, or one of these? */
bool below_has(const struct vm *vm, const struct checkpoints *all, const char *path);

#endif
