/*
 * A cmdlet that works on disk images: on each path of a list, one after the other, by one
 * oyako-disk each. The request is held until the last one is done; cancelling it ends the job at
 * work and skips the rest. What fails for one path is an error of that path.
 */
#ifndef DAEMON_DISK_TASK_H
#define DAEMON_DISK_TASK_H

#include "disk-job.h"
#include "output.h"
#include "request.h"

struct disk_task;

struct disk_task_ops {
	const char *activity; /* "making it": for progress */
	unsigned flags;       /* DISK_JOB_* */
	/* What is asked of oyako-disk; may open task->output and set task->fd. */
	int (*begin)(struct disk_task *task, json_t **ret, struct error *err);
	/* The job succeeded, and task->output has been committed. *ret: what the cmdlet shows; may
	 * stay NULL. process: as disk_job_events.done has it. 1: the path needs another job, and
	 * *ret is its request. */
	int (*end)(struct disk_task *task, const json_t *result, struct process *process,
		   json_t **ret, struct error *err);
	/* What begin has set up besides is not needed: the job failed. May be NULL. */
	void (*failed)(struct disk_task *task);
};

struct disk_task {
	struct request *request;
	const struct disk_task_ops *ops;
	json_t *paths;
	size_t index;
	const char *path; /* the one at work */
	struct disk_job *job;
	unsigned step;        /* how many jobs of the path are over */
	struct output output; /* goes to the job as its descriptor */
	int fd;               /* of another one that does; -1: none. Closed by the task */
	bool cancelled;
	void *context; /* of the ops */
};

/* Takes paths, a list of texts. */
void disk_task_run(struct request *request, json_t *paths, const struct disk_task_ops *ops);

#endif
