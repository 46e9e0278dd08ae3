#include "job.h"

#include "base/clock.h"
#include "base/macros.h"
#include "ipc/ipc.h"

#include <poll.h>
#include <unistd.h>

#define TELL_NS (100 * NS_PER_MSEC)

int job_receive(int fd, struct job *ret, struct error *err)
{
	struct job job = { .fd = fd };
	int fds[IPC_MAX_FDS];
	unsigned count = 0;
	int r = ipc_recv(fd, &job.params, fds, &count, err);

	if (r == 0)
		return error_set(err, ERR_CANCELLED, "oyakod went away");
	if (r < 0)
		return r;
	for (unsigned i = 0; i < JOB_MAX_FDS; i++)
		job.fds[i] = i < count ? fds[i] : -1;
	for (unsigned i = JOB_MAX_FDS; i < count; i++)
		close(fds[i]);
	job.id = json_integer_value(json_object_get(job.params, "id"));
	*ret = job;
	return 0;
}

void job_done(struct job *job)
{
	for (unsigned i = 0; i < JOB_MAX_FDS; i++)
		if (job->fds[i] >= 0)
			close(job->fds[i]);
	json_decref(job->params);
}

bool job_is_wanted(const struct job *job)
{
	struct pollfd closed = { job->fd, POLLRDHUP, 0 };

	return poll(&closed, 1, 0) == 0;
}

const char *job_text(const struct job *job, const char *name)
{
	return json_string_value(json_object_get(job->params, name));
}

uint64_t job_bytes(const struct job *job, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(job->params, name));

	return value > 0 ? (uint64_t)value : 0;
}

bool job_flag(const struct job *job, const char *name)
{
	return json_is_true(json_object_get(job->params, name));
}

int job_path(const struct job *job, const char *name, const char **ret, struct error *err)
{
	*ret = job_text(job, name);
	return *ret ? 0 : error_set(err, ERR_INTERNAL, "the job has no '%s'", name);
}

int job_take_fd(struct job *job, unsigned index, struct error *err)
{
	if (job->fds[index] < 0)
		return error_set(err, ERR_INTERNAL, "a descriptor did not come with the job");
	return TAKE_FD(job->fds[index]);
}

bool job_progress(void *user, uint64_t done, uint64_t total)
{
	struct job *job = user;
	uint64_t now = clock_now_ns();
	json_t *msg;

	if (now - job->told_ns < TELL_NS)
		return !job->cancelled;
	job->told_ns = now;
	job->cancelled = job->cancelled || !job_is_wanted(job);
	if (job->cancelled)
		return false;
	msg = json_pack("{s:s, s:I, s:I}", "event", "progress", "done", (json_int_t)done, "total",
			(json_int_t)total);
	ipc_send(job->fd, msg, NULL, 0, NULL);
	json_decref(msg);
	return true;
}

int job_cancelled(struct error *err)
{
	return error_set(err, ERR_CANCELLED, "it was cancelled");
}

static void answer(struct job *job, json_t *msg)
{
	json_object_set_new(msg, "id", json_integer(job->id));
	ipc_send(job->fd, msg, NULL, 0, NULL);
	json_decref(msg);
}

void job_answer(struct job *job, json_t *result)
{
	answer(job, json_pack("{s:b, s:o}", "ok", 1, "result", result));
}

void job_fail(struct job *job, const struct error *failure)
{
	answer(job, json_pack("{s:{s:s, s:s}}", "error", "code", err_code_name(failure->code),
			      "text", failure->text));
}
