/*
 * One oyako-disk at work: the daemon never reads an image itself. Belongs to the loop.
 *
 * An ordinary job is over when its process has ended: what it had open is closed and unlocked by
 * then. One that serves (DISK_JOB_SERVES) is over for us when it has answered; its process goes on
 * without us.
 */
#ifndef DAEMON_DISK_JOB_H
#define DAEMON_DISK_JOB_H

#include "daemon.h"
#include "spawn.h"

#include <jansson.h>
#include <stdint.h>

#define DISK_JOB_MAX_FDS  2
#define DISK_JOB_SERVES   1u
#define DISK_JOB_OUTLIVES 2u /* its process goes on when the service ends */

struct disk_job;

struct disk_job_events {
	void (*progress)(void *user, uint64_t done, uint64_t total);
	/* Called once, and the job is freed after it; never from within disk_job_start. result is
	 * borrowed, and what the process says is not to be trusted. process: of a job that serves,
	 * without err: the callee's; else NULL. */
	void (*done)(void *user, const json_t *result, struct process *process,
		     const struct error *err);
};

/* Waits until the jobs of an earlier service have ended, as they do with it: what they were at must
 * not change any more while it is being settled. Some seconds at most. Then ours hold the lock. */
int disk_jobs_lock(struct daemon *daemon, struct error *err);

/* Takes request (docs/disk-protocol.md), borrows the descriptors. An error here is the end: done
 * is not called. */
int disk_job_start(struct daemon *daemon, json_t *request, const int *fds, unsigned fd_count,
		   unsigned flags, const struct disk_job_events *events, void *user,
		   struct disk_job **ret, struct error *err);
/* Lets it end as soon as it can, with ERR_CANCELLED unless it is done already; kills it when it
 * can't. */
void disk_job_cancel(struct disk_job *job);
/* The service ends: the job is freed without done; its process sees that nobody listens. */
void disk_job_leave(struct disk_job *job);

#endif
