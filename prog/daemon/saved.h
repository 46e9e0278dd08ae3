/*
 * Saved states on disk. Each is a folder of the VM's folder, saved-GUID:
 *	memory	memory and state (lib/state/file.h)
 *	mark	"saved" or "used": written by the worker before the guest runs on
 * vm.json names the one that the VM goes on from; that is the only truth. A folder that it does not
 * name is what an interrupted operation left: a complete one with a mark is of a Save-VM whose
 *worker had finished, and is taken; any other is removed.
 */
#ifndef DAEMON_SAVED_H
#define DAEMON_SAVED_H

#include "vm.h"

/* A new folder, and in it the file that the worker is to write. Returns the descriptor. */
int saved_begin(struct vm *vm, char ret_id[static GUID_TEXT_SIZE], struct error *err);
/* The worker has written it: the VM is saved from here on. */
int saved_commit(struct vm *vm, const char *id, struct error *err);
void saved_remove(struct vm *vm, const char *id);
/* A folder with a link to a checkpoint's memory, not committed. */
int saved_link(struct vm *vm, const char *memory_path, char ret_id[static GUID_TEXT_SIZE],
	       struct error *err);
/* Marks what saved_link made as fresh; after the commit. */
int saved_mark(struct vm *vm, const char *id, struct error *err);
/* In a folder that is to become a VM's: where the memory of such a state is, and its mark. */
char *saved_path_in(const char *vm_folder, const char *id, const char *file);
int saved_mark_in(const char *vm_folder, const char *id, struct error *err);
/* For the start: memory, for reading, and mark. */
int saved_open(struct vm *vm, int *ret_memory, int *ret_mark, struct error *err);
/* The VM does not go on from its saved state any more: it ran, or the state was thrown away. */
int saved_drop(struct vm *vm, struct error *err);
char *saved_memory_path(struct vm *vm, const char *id); /* the caller's */
/* After the daemon's start, for a VM without a worker: finishes or undoes what was under way. */
void saved_clean_up(struct vm *vm);
/* With the VM. */
void saved_remove_all(struct vm *vm);

#endif
