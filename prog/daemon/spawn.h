/*
 * Starts a worker or a switch: in its own session, with a clean environment, with its job socket as
 * descriptor 3, and nothing else but stderr (a log file) and, as descriptor 4, a lock that is to be
 * held as long as the process lives.
 */
#ifndef DAEMON_SPAWN_H
#define DAEMON_SPAWN_H

#include "base/error.h"

#include <stdbool.h>
#include <sys/types.h>

struct process {
	pid_t pid;
	int pidfd;
	unsigned long long
	    start_ticks; /* of /proc/PID/stat: with the pid names one process for good */
	bool child;      /* ours to reap; false: of an earlier daemon */
};

/* lock_fd -1: none. Borrows the descriptors. */
int spawn(const char *program, int job_fd, int lock_fd, const char *log_file, struct process *ret,
	  struct error *err);
/* Finds a process that an earlier daemon started; ERR_NOT_FOUND if it has ended. */
int spawn_find(pid_t pid, unsigned long long start_ticks, struct process *ret, struct error *err);
/* After the pidfd became readable: reaps a child, closes the pidfd, and says how it ended:
 * "ended with status 1", "was killed by signal 9 (Killed)". */
void spawn_reap(struct process *process, char *ret_how, size_t size);
/* Asks it to end (SIGTERM). */
void spawn_end(const struct process *process);
void spawn_kill(const struct process *process);

#endif
