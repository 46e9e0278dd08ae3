/*
 * The files of a VM that is started: opened and, as far as they are disks, locked, so that no two
 * VMs write one disk. The locks belong to the open files: they go to the worker with the
 * descriptors and end with it, whatever happens to the daemon.
 */
#ifndef DAEMON_FILES_H
#define DAEMON_FILES_H

#include "vm.h"

#define FILES_MAX (CONFIG_MAX_DISKS + 6)

struct files {
	json_t *descriptions; /* list of {"role":...}, one for each descriptor */
	int fds[FILES_MAX + CONFIG_MAX_NICS + 4];
	unsigned count;
	int lock_fd; /* of the VM's folder */
};

int files_open(struct vm *vm, struct files *ret, struct error *err);
/* Adds a descriptor (taken); index -1: none. */
void files_add(struct files *files, const char *role, const char *key, int index, int fd);
void files_done(struct files *files);

/* Locks a file as a whole: 0, or ERR_BUSY. */
int files_lock(int fd, bool exclusive, struct error *err);
/* Opens and locks `path` for us alone; the file names its holder. Returns the descriptor. */
int files_lock_holder(const char *path, const char *who, struct error *err);

#endif
