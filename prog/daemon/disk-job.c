#include "disk-job.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "files.h"
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define NO_TIMEOUT_NS (365 * 24 * 3600 * NS_PER_SEC)
#define CANCEL_NS     (5 * NS_PER_SEC)
#define LOCK_FILE     "disk-jobs.lock"
#define LOCK_TRIES    500
#define LOCK_PAUSE_US 10000

struct disk_job {
	struct daemon *daemon;
	unsigned flags;
	const struct disk_job_events *events;
	void *user;
	struct process process;
	struct loop_fd *watch;
	struct peer *peer;
	struct loop_timer *timer; /* kills what does not end */
	bool answered, cancelled;
	json_t *result;
	struct error failure; /* code ERR_OK: none */
};

/* The lock is of the open file, which the jobs inherit: the last of them to end lets go of it. */
int disk_jobs_lock(struct daemon *daemon, struct error *err)
{
	AUTO_FREE char *path = NULL;
	unsigned tries = 0;
	int r;

	if (asprintf(&path, "%s/" LOCK_FILE, daemon->paths.state) < 0)
		abort();
	daemon->disk_lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (daemon->disk_lock_fd < 0)
		return error_set_errno(err, errno, "opening '%.200s'", path);
	while ((r = files_lock(daemon->disk_lock_fd, true, err)) == -ERR_BUSY &&
	       tries++ < LOCK_TRIES)
		usleep(LOCK_PAUSE_US);
	if (r == -ERR_BUSY) {
		/* Storage that hangs must not keep the other machines without a service. */
		log_error("an oyako-disk of an earlier service does not end; the disks that it "
			  "works on are in use");
		return 0;
	}
	return r < 0 ? error_prefix(err, "'%.200s'", path) : 0;
}

static void job_free(struct disk_job *job)
{
	loop_fd_remove(job->watch);
	loop_timer_free(job->timer);
	peer_free(job->peer);
	json_decref(job->result);
	free(job);
}

static void finish(struct disk_job *job, struct process *process)
{
	const struct error *err = job->failure.code ? &job->failure : NULL;

	job->events->done(job->user, err ? NULL : job->result, process, err);
	job_free(job);
}

static void process_ended(void *user, uint32_t events)
{
	struct disk_job *job = user;
	char how[128];

	/* Before its descriptor is closed, and the number another one's. */
	loop_fd_remove(job->watch);
	job->watch = NULL;
	/* Its last words may not have been heard yet. */
	if (job->peer && !job->answered)
		peer_drain(job->peer);
	spawn_reap(&job->process, how, sizeof(how));
	if (job->cancelled && (!job->result || job->failure.code))
		error_set(&job->failure, ERR_CANCELLED, "it was cancelled");
	else if (!job->result && !job->failure.code)
		error_set(&job->failure, ERR_INTERNAL, "the program oyako-disk %s", how);
	finish(job, NULL);
}

/* ERR_CANCELLED: it ended without an answer, and its end tells more. */
static void answered(void *user, const json_t *reply, const struct error *err)
{
	struct disk_job *job = user;

	if (job->cancelled && err)
		return;
	job->answered = true;
	if (!err && json_is_object(json_object_get(reply, "result")))
		job->result = json_incref(json_object_get(reply, "result"));
	else if (err && (err->code != ERR_CANCELLED || reply))
		job->failure = *err;
	if (job->result && (job->flags & DISK_JOB_SERVES)) {
		loop_fd_remove(job->watch);
		job->watch = NULL;
		finish(job, &job->process);
	}
}

static void on_event(void *user, const char *name, const json_t *event)
{
	json_int_t done = json_integer_value(json_object_get(event, "done"));
	json_int_t total = json_integer_value(json_object_get(event, "total"));
	struct disk_job *job = user;

	if (strcmp(name, "progress") == 0 && done >= 0 && total > 0 && job->events->progress)
		job->events->progress(job->user, (uint64_t)done, (uint64_t)total);
}

static void on_closed(void *user)
{
	/* Its end follows. */
}

static void kill_it(void *user)
{
	struct disk_job *job = user;

	spawn_kill(&job->process);
}

void disk_job_cancel(struct disk_job *job)
{
	struct peer *peer = job->peer;

	if (job->cancelled)
		return;
	job->cancelled = true;
	loop_timer_arm(job->timer, clock_now_ns() + CANCEL_NS);
	/* It sees that nobody listens any more. */
	job->peer = NULL;
	peer_free(peer);
}

void disk_job_leave(struct disk_job *job)
{
	close(job->process.pidfd);
	job_free(job);
}

static int start_process(struct disk_job *job, int job_fd, struct error *err)
{
	AUTO_FREE char *log_file = NULL;
	int r;

	if (asprintf(&log_file, "%s/disk.log", job->daemon->paths.runtime) < 0)
		abort();
	r = spawn(job->daemon->disk_program, job_fd,
		  job->flags & DISK_JOB_OUTLIVES ? -1 : job->daemon->disk_lock_fd, log_file,
		  &job->process, err);
	if (r < 0)
		return r;
	r = loop_fd_add(job->daemon->loop, job->process.pidfd, EPOLLIN, process_ended, job,
			&job->watch, err);
	if (r < 0) {
		char how[128];

		spawn_kill(&job->process);
		spawn_reap(&job->process, how, sizeof(how));
	}
	return r;
}

int disk_job_start(struct daemon *daemon, json_t *request, const int *fds, unsigned fd_count,
		   unsigned flags, const struct disk_job_events *events, void *user,
		   struct disk_job **ret, struct error *err)
{
	static const struct peer_events peer_events = { on_event, on_closed };
	struct disk_job *job = calloc(1, sizeof(*job));
	int pair[2], r;

	if (!job || !request)
		abort();
	*job =
	    (struct disk_job){ .daemon = daemon, .flags = flags, .events = events, .user = user };
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		r = error_set_errno(err, errno, "making the socket of a disk job");
	} else {
		/* Ours must not block; its own may. */
		fcntl(pair[0], F_SETFL, O_NONBLOCK);
		r = peer_new(daemon->loop, pair[0], &peer_events, job, &job->peer, err);
		if (r == 0)
			r = loop_timer_new(daemon->loop, kill_it, job, &job->timer, err);
		if (r == 0)
			r = start_process(job, pair[1], err);
		close(pair[1]);
	}
	if (r < 0) {
		json_decref(request);
		job_free(job);
		return r;
	}
	json_object_set_new(request, "bound", json_boolean(!(flags & DISK_JOB_OUTLIVES)));
	peer_request(job->peer, request, fds, fd_count, NO_TIMEOUT_NS, answered, job);
	*ret = job;
	return 0;
}
