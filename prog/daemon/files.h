/*
 * The files of a VM that is started: opened and, as far as they are disks (with the parents of
 * differencing ones), locked, so that no two VMs write one disk and nobody writes a parent. The
 * locks belong to the open files: they go to the worker with the descriptors and end with it,
 * whatever happens to the daemon.
 */
#ifndef DAEMON_FILES_H
#define DAEMON_FILES_H

#include "vm.h"

struct files {
	json_t *descriptions; /* list of {"role":...}, one for each descriptor */
	int *fds;
	unsigned count, capacity;
	int lock_fd; /* of the VM's folder */
};

/* One of a VHD or VHDX. */
bool files_is_image_name(const char *path);

/* parents: by a disk's index, as text, the paths of its parents, the direct one first. */
int files_open(struct vm *vm, const json_t *parents, struct files *ret, struct error *err);
/* The disk may be a differencing one: its parents have to be found. */
bool files_may_have_parent(const struct config_disk *disk);
/* A layer of a disk's chain (O_RDWR: to be merged into or linked anew), for the worker that has it
 * locked. */
int files_open_layer(const char *path, int flags, struct error *err);
/* As files_open, for one disk that is added: its file and those of its parents (a list of paths,
 * the direct one first; may be NULL). The order: "disk", "track" where its changes are tracked,
 * "parent"s. */
int files_open_chain(struct vm *vm, const struct config_disk *disk, const json_t *parents,
		     struct files *ret, struct error *err);
/* One disk's file, opened and locked; returns the descriptor. */
int files_open_disk(const struct vm *vm, const struct config_disk *disk, struct error *err);
/* Nobody holds the disks of a VM that is down, not even the kernel for its worker that was killed:
 * what that had begun to write is written before the locks go. */
bool files_are_free(const struct vm *vm);
#define TRACK_ENDING ".track"
/* The file that tracks changes of a disk: beside it, or beside the nearest of its parents (a list
 * of paths) that has one. NULL: none. Freed by the caller. */
char *files_track_path(const char *disk, const json_t *parents);
/* Opens it; flags: O_CREAT | O_EXCL makes it. */
int files_open_track(const char *path, int flags, struct error *err);
/* Both, for a disk. *ret -1: there is none. */
int files_open_track_of(const char *disk, const json_t *parents, int *ret, struct error *err);
/* A layer was merged into another: what lies beside it for that has to lie beside the target. From
 * the lowest layer on, for the nearest counts. */
void files_keep_track(const char *layer, const char *target);
bool files_have(const struct files *files, const char *role);
/* Adds a descriptor (taken); index -1: none. */
void files_add(struct files *files, const char *role, const char *key, int index, int fd);
void files_done(struct files *files);

/* Locks a file as a whole: 0, or ERR_BUSY. */
int files_lock(int fd, bool exclusive, struct error *err);
/* Opens and locks `path` for us alone; the file names its holder. Returns the descriptor. */
int files_lock_holder(const char *path, const char *who, struct error *err);

#endif
