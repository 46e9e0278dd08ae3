/*
 * Disks that running VMs have: who runs on a file, and what its worker is asked about such a disk.
 * Belongs to the loop.
 */
#ifndef DAEMON_DISK_USER_H
#define DAEMON_DISK_USER_H

#include "request.h"

/* That disk in the description of a running VM. vm NULL: nobody's. */
struct disk_user {
	struct vm *vm;
	unsigned disk;
};

/* Whose disk that file is. */
struct disk_user disk_user_of(const struct daemon *daemon, const char *path);

/* err: why it can't be said. */
typedef void disk_user_found(void *user, struct disk_user who, const struct error *err);
/* The same for a file anywhere in the disk's chain. found is never called from within. */
void disk_user_find(struct daemon *daemon, const char *path, disk_user_found *found, void *user);

/* Asks the VM's worker: message (taken) gets the disk's place. The descriptors are borrowed, the
 * request is held. When the worker agrees the disk at path is shown, else it has the error. */
void disk_user_ask(struct request *request, const char *path, struct disk_user who, json_t *message,
		   const int *fds, unsigned fd_count);
/* Puts the disk's place into a message. */
void disk_user_place(struct disk_user who, json_t *message);

#endif
