/*
 * Disk images that are mounted on the host: each is served by an oyako-disk of its own on an NBD
 * socket, and has a number. They outlive the daemon, which finds them again.
 *
 * RUNTIME/disk/N.sock is the socket, N.json says what is served by which process.
 */
#ifndef DAEMON_MOUNTS_H
#define DAEMON_MOUNTS_H

#include "daemon.h"
#include "spawn.h"

struct mounts;

struct mount {
	struct mounts *mounts;
	struct mount *next;
	unsigned number; /* from 1: 0 is the host's own disk on Windows */
	char *path, *socket;
	bool read_only;
	struct process process;
	struct loop_fd *watch; /* NULL: not served yet */
	void (*ended)(void *user, struct mount *mount, const char *how);
	void *user;
};

/* Finds those of an earlier daemon, too. */
int mounts_new(struct daemon *daemon, struct mounts **ret, struct error *err);
void mounts_free(struct mounts *mounts);
/* The mounted one, or NULL. By path: the same file, whatever its name. */
struct mount *mounts_by_path(struct mounts *mounts, const char *path);
struct mount *mounts_by_number(struct mounts *mounts, unsigned number);

/* Takes a number for path and makes its socket; *ret_fd is the listening one, the caller's. */
int mounts_begin(struct mounts *mounts, const char *path, bool read_only, struct mount **ret,
		 int *ret_fd, struct error *err);
/* It is served by that process, which is taken. */
int mounts_started(struct mount *mount, const struct process *process, struct error *err);
/* It is not to be. */
void mounts_forget(struct mount *mount);
/* Asks its process to end; ended is called when it has, just before the mount is forgotten. `how`
 * is as spawn_reap's. */
void mounts_end(struct mount *mount,
		void (*ended)(void *user, struct mount *mount, const char *how), void *user);

#endif
