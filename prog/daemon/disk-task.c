#include "disk-task.h"

#include "base/macros.h"
#include "disk-user.h"
#include "mounts.h"

#include <stdlib.h>
#include <string.h>

static void next(struct disk_task *task);

static void task_free(struct disk_task *task)
{
	struct request *request = task->request;

	json_decref(task->paths);
	free(task);
	request->cancel = NULL;
	request_release(request);
}

static void close_files(struct disk_task *task)
{
	output_done(&task->output);
	if (task->fd >= 0)
		close(task->fd);
	task->fd = -1;
}

static void let_go(struct disk_task *task)
{
	if (task->ops->failed)
		task->ops->failed(task);
}

static void end_one(struct disk_task *task)
{
	close_files(task);
	task->job = NULL;
	task->index++;
	next(task);
}

/* Who has it is known only here. */
static void report(struct disk_task *task, const struct error *err)
{
	const struct daemon *daemon = task->request->daemon;
	const struct mount *mount = mounts_by_path(daemon->mounts, task->path);
	const struct vm *vm = disk_user_of(daemon, task->path).vm;
	struct error named;

	if (err->code == ERR_BUSY && (vm || mount)) {
		if (vm)
			error_set(&named, ERR_BUSY, "it is in use by virtual machine '%.100s'",
				  vm->config->name);
		else
			error_set(&named, ERR_BUSY,
				  "it is mounted as disk %u: Dismount-VHD comes first",
				  mount->number);
		err = &named;
	}
	request_error(task->request, task->path, err);
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
	struct disk_task *task = user;

	request_progress(task->request, task->path, "%s, %u %%", task->ops->activity,
			 (unsigned)(MIN(done, total) * 100.0 / total));
}

static int start(struct disk_task *task, json_t *message, struct error *err);

/* The job succeeded. 0: so did the path; 1: another job has begun. */
static int finish(struct disk_task *task, const json_t *result, struct process *process,
		  struct error *err)
{
	json_t *object = NULL;
	int r = 0;

	if (task->output.fd >= 0)
		r = output_commit(&task->output, err);
	if (r == 0)
		r = task->ops->end(task, result, process, &object, err);
	task->step++;
	if (r == 1)
		return start(task, object, err) < 0 ? -(int)err->code : 1;
	/* What is done is shown, even if its end was not as it should be. */
	if (object)
		request_result(task->request, object);
	return r;
}

static void on_done(void *user, const json_t *result, struct process *process,
		    const struct error *err)
{
	struct disk_task *task = user;
	struct error failure;
	int r = 0;

	if (!err)
		r = finish(task, result, process, &failure);
	if (err || r < 0) {
		report(task, err ? err : &failure);
		let_go(task);
	}
	if (r != 1)
		end_one(task);
}

/* Takes message. */
static int start(struct disk_task *task, json_t *message, struct error *err)
{
	static const struct disk_job_events events = { on_progress, on_done };
	int fds[DISK_JOB_MAX_FDS];
	unsigned count = 0;

	if (task->output.fd >= 0)
		fds[count++] = task->output.fd;
	if (task->fd >= 0)
		fds[count++] = task->fd;
	return disk_job_start(task->request->daemon, message, fds, count, task->ops->flags, &events,
			      task, &task->job, err);
}

static int begin(struct disk_task *task, struct error *err)
{
	json_t *message = NULL;
	int r;

	task->step = 0;
	r = task->ops->begin(task, &message, err);
	if (r < 0) {
		json_decref(message);
		return r;
	}
	return start(task, message, err);
}

static void next(struct disk_task *task)
{
	struct error err;

	while (task->index < json_array_size(task->paths) && !task->cancelled) {
		task->path = json_string_value(json_array_get(task->paths, task->index));
		if (begin(task, &err) == 0)
			return;
		report(task, &err);
		let_go(task);
		close_files(task);
		task->index++;
	}
	task_free(task);
}

static void cancel(struct request *request)
{
	struct disk_task *task = request->context;

	task->cancelled = true;
	if (task->job)
		disk_job_cancel(task->job);
}

void disk_task_run(struct request *request, json_t *paths, const struct disk_task_ops *ops)
{
	struct disk_task *task = calloc(1, sizeof(*task));

	if (!task || !paths)
		abort();
	*task = (struct disk_task){ .request = request,
				    .ops = ops,
				    .paths = paths,
				    .output = { .fd = -1, .folder_fd = -1 },
				    .fd = -1 };
	request->context = task;
	request->cancel = cancel;
	request_hold(request);
	next(task);
}
