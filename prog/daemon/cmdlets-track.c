/*
 * Cmdlets about change tracking. A disk's changes are tracked while there is a file for it beside
 * the disk or one of its parents (files_track_path). Of a running VM's disk the worker knows them,
 * of any other one that file; so first oyako-disk is asked for the parents, then either of the two
 * for the rest, in the same words (prog/disk/track-json.h).
 */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "checkpoint-take.h"
#include "disk-task.h"
#include "disk-user.h"
#include "files.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WORKER_TIMEOUT_NS (60 * NS_PER_SEC)

struct track_cmdlet {
	struct disk_task_ops task;
	/* What is asked; a worker's operation may have another name. NULL: nothing is. */
	const char *op, *worker_op;
	bool makes_file, removes_file, makes_image;
	void (*show)(struct request *request, const char *path, const json_t *result);
};

static const struct track_cmdlet *cmdlet_of(const struct disk_task *task)
{
	return container_of(task->ops, struct track_cmdlet, task);
}

/* ---- what is shown ---- */

static void show_point(struct request *request, const char *path, const json_t *point)
{
	time_t when = (time_t)json_integer_value(json_object_get(point, "time"));
	char text[40] = "";
	struct tm tm;

	if (localtime_r(&when, &tm))
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	request_result(request, json_pack("{s:s, s:O*, s:s}", "Path", path, "Id",
					  json_object_get(point, "point"), "CreationTime", text));
}

static void show_points(struct request *request, const char *path, const json_t *result)
{
	const json_t *points = json_object_get(result, "points");

	for (size_t i = 0; i < json_array_size(points); i++)
		show_point(request, path, json_array_get(points, i));
}

static void show_ranges(struct request *request, const char *path, const json_t *result)
{
	const json_t *ranges = json_object_get(result, "ranges");

	for (size_t i = 0; i < json_array_size(ranges); i++) {
		const json_t *range = json_array_get(ranges, i);

		request_result(request, json_pack("{s:s, s:O*, s:O*}", "Path", path, "Offset",
						  json_array_get(range, 0), "Length",
						  json_array_get(range, 1)));
	}
}

static void show_image(struct request *request, const char *path, const json_t *result)
{
	request_result(request,
		       cmdlets_object_vhd(request->daemon,
					  request_string(request, "DestinationPath"), result));
}

/* ---- what is asked ---- */

/* from: where a list of changes goes on. */
static json_t *message(const struct request *request, const char *op, const char *path,
		       const json_t *from)
{
	return json_pack("{s:s, s:s, s:s*, s:O*, s:s*, s:s*}", "op", op, "path", path, "point",
			 request_string(request, "Id"), "from", from, "new",
			 request_string(request, "DestinationPath"), "parent",
			 request_string(request, "ParentPath"));
}

/* ---- a running VM's disk ---- */

struct ask {
	const struct track_cmdlet *cmdlet;
	struct request *request;
	struct vm *vm;
	char *path, *file; /* of the disk, and of its changes */
	json_t *place;
};

static void ask_end(struct ask *ask, const struct error *err)
{
	if (err)
		request_error(ask->request, ask->path, err);
	request_release(ask->request);
	vm_unref(ask->vm);
	json_decref(ask->place);
	free(ask->path);
	free(ask->file);
	free(ask);
}

static void ask_worker(struct ask *ask, const json_t *from, int fd);

static void answered(void *user, const json_t *reply, const struct error *failure)
{
	struct ask *ask = user;
	const struct track_cmdlet *cmdlet = ask->cmdlet;
	struct error err;

	if (failure && cmdlet->makes_file)
		unlink(ask->file);
	if (!failure && cmdlet->show)
		cmdlet->show(ask->request, ask->path, reply);
	if (!failure && json_object_get(reply, "next") && !ask->request->cancelled) {
		ask_worker(ask, json_object_get(reply, "next"), -1);
		return;
	}
	/* It may have been tracked from the next start on only. */
	if (cmdlet->removes_file && (!failure || failure->code == ERR_STATE)) {
		failure = unlink(ask->file) == 0 ? NULL : &err;
		if (failure)
			error_set_errno(&err, errno, "deleting '%.200s'", ask->file);
	}
	ask_end(ask, failure);
}

static void ask_worker(struct ask *ask, const json_t *from, int fd)
{
	const char *op = ask->cmdlet->worker_op ? ask->cmdlet->worker_op : ask->cmdlet->op;
	json_t *request = message(ask->request, op, ask->path, from);

	json_object_update(request, ask->place);
	run_request_fd(ask->vm, request, fd, WORKER_TIMEOUT_NS, answered, ask);
}

/* Takes file. */
static int begin_asking(struct disk_task *task, struct disk_user who, char *file, struct error *err)
{
	AUTO_CLOSE int fd = -1;
	struct ask *ask;

	if (cmdlet_of(task)->makes_file) {
		fd = files_open_track(file, O_CREAT | O_EXCL, err);
		if (fd < 0) {
			free(file);
			return fd;
		}
	}
	ask = malloc(sizeof(*ask));
	if (!ask)
		abort();
	*ask = (struct ask){ .cmdlet = cmdlet_of(task),
			     .request = task->request,
			     .vm = vm_ref(who.vm),
			     .place = json_object(),
			     .path = strdup(task->path),
			     .file = file };
	if (!ask->path)
		abort();
	disk_user_place(who, ask->place);
	request_hold(task->request);
	ask_worker(ask, NULL, fd);
	return 0;
}

/* ---- an export of a running VM's disk ---- */

/*
 * A checkpoint for a moment gives the disk a new leaf: what lies under it stands still, and is
 * exported by what the worker knows of changes then, which is that and a little more.
 */
struct exporting {
	struct disk_task_ops ops; /* of the export itself, when all is prepared */
	struct request *request;
	struct vm *vm;
	json_t *place; /* of the disk */
	char *path;
	bool taken;   /* the checkpoint */
	int track_fd; /* the worker's copy */
};

/* err: why it did not come to the export. */
static void exporting_end(struct exporting *e, const struct error *err)
{
	if (err)
		request_error(e->request, e->path, err);
	if (e->taken)
		checkpoint_give_back(e->vm);
	if (e->track_fd >= 0)
		close(e->track_fd);
	vm_unref(e->vm);
	json_decref(e->place);
	free(e->path);
	request_release(e->request);
	free(e);
}

static struct exporting *exporting_of(const struct disk_task *task)
{
	return (struct exporting *)container_of(task->ops, struct exporting, ops);
}

static int export_begin(struct disk_task *task, json_t **ret, struct error *err)
{
	int r = output_open(request_string(task->request, "DestinationPath"), &task->output, err);

	if (r < 0)
		return r;
	task->fd = exporting_of(task)->track_fd;
	exporting_of(task)->track_fd = -1;
	*ret = message(task->request, "track-export", task->path, NULL);
	json_object_set_new(*ret, "frozen", json_true());
	return 0;
}

static int export_end(struct disk_task *task, const json_t *result, struct process *process,
		      json_t **ret, struct error *err)
{
	show_image(task->request, task->path, result);
	exporting_end(exporting_of(task), NULL);
	return 0;
}

static void export_failed(struct disk_task *task)
{
	exporting_end(exporting_of(task), NULL);
}

static void changes_copied(void *user, const json_t *reply, const struct error *err)
{
	struct exporting *e = user;

	if (err)
		exporting_end(e, err);
	else
		disk_task_run(e->request, json_pack("[s]", e->path), &e->ops);
}

static int ask_for_copy(struct exporting *e, struct error *err)
{
	if (e->request->cancelled)
		return error_set(err, ERR_CANCELLED, "it was cancelled");
	e->track_fd = memfd_create("changes", MFD_CLOEXEC);
	if (e->track_fd < 0)
		return error_set_errno(err, errno, "making a file in memory");
	json_object_set_new(e->place, "op", json_string("track-copy"));
	run_request_fd(e->vm, json_incref(e->place), e->track_fd, WORKER_TIMEOUT_NS, changes_copied,
		       e);
	return 0;
}

static void checkpoint_there(void *user, struct vm *vm, const char *id, const struct error *err)
{
	struct exporting *e = user;
	struct error failure;

	if (err) {
		exporting_end(e, err);
		return;
	}
	e->taken = true;
	if (ask_for_copy(e, &failure) < 0)
		exporting_end(e, &failure);
}

static void begin_exporting(struct disk_task *task, struct disk_user who)
{
	struct exporting *e = malloc(sizeof(*e));

	if (!e)
		abort();
	*e = (struct exporting){ .ops = { .activity = "exporting changes",
					  .begin = export_begin,
					  .end = export_end,
					  .failed = export_failed },
				 .request = task->request,
				 .vm = vm_ref(who.vm),
				 .place = json_object(),
				 .path = strdup(task->path),
				 .track_fd = -1 };
	if (!e->path)
		abort();
	disk_user_place(who, e->place);
	request_hold(task->request);
	checkpoint_take_for(who.vm, "Export-VHDChange", CHECKPOINT_DISKS, task->request,
			    checkpoint_there, e);
}

/* ---- a disk that is off ---- */

static int begin_job(struct disk_task *task, const char *file, json_t **ret, struct error *err)
{
	const struct track_cmdlet *cmdlet = cmdlet_of(task);
	const char *new = request_string(task->request, "DestinationPath");
	int r = 0;

	if (cmdlet->removes_file)
		return unlink(file) < 0 ? error_set_errno(err, errno, "deleting '%.200s'", file)
					: 0;
	if (cmdlet->makes_file)
		r = output_open(file, &task->output, err);
	else
		r = task->fd = files_open_track(file, 0, err);
	if (r >= 0 && cmdlet->makes_image)
		r = output_open(new, &task->output, err);
	if (r < 0)
		return r;
	*ret = message(task->request, cmdlet->op, task->path, NULL);
	json_object_set_new(*ret, "create", json_boolean(cmdlet->makes_file));
	return 1;
}

/* ---- both ---- */

static int begin(struct disk_task *task, json_t **ret, struct error *err)
{
	*ret = json_pack("{s:s, s:s}", "op", "parents", "path", task->path);
	return 0;
}

/* Its name: of the one that is there, or to be made. */
static int name_file(const struct disk_task *task, const json_t *parents, char **ret,
		     struct error *err)
{
	bool makes = cmdlet_of(task)->makes_file;
	char *file = files_track_path(task->path, parents);

	if (file && makes) {
		error_set(err, ERR_EXISTS, "its changes are tracked already, in '%.200s'", file);
		free(file);
		return -ERR_EXISTS;
	}
	if (!file && !makes)
		return error_set(err, ERR_NOT_FOUND,
				 "its changes are not tracked: Enable-VHDChangeTracking begins it");
	if (!file && asprintf(&file, "%s" TRACK_ENDING, task->path) < 0)
		abort();
	*ret = file;
	return 0;
}

static int end(struct disk_task *task, const json_t *result, struct process *process, json_t **ret,
	       struct error *err)
{
	const struct track_cmdlet *cmdlet = cmdlet_of(task);
	const json_t *next = json_object_get(result, "next");
	struct disk_user who = disk_user_of(task->request->daemon, task->path);
	char *file = NULL;
	int r;

	if (task->step == 0) {
		r = name_file(task, json_object_get(result, "parents"), &file, err);
		if (r < 0)
			return r;
		if (who.vm && !cmdlet->makes_image)
			return begin_asking(task, who, file, err);
		if (who.vm) {
			free(file);
			begin_exporting(task, who);
			return 0;
		}
		r = begin_job(task, file, ret, err);
		free(file);
		return r;
	}
	if (cmdlet->show)
		cmdlet->show(task->request, task->path, result);
	if (!next)
		return 0;
	*ret = message(task->request, cmdlet->op, task->path, next);
	return 1;
}

#define TASK(what)                                                                                 \
	{                                                                                          \
		.activity = (what), .begin = begin, .end = end                                     \
	}

static void run(struct request *request, const struct track_cmdlet *cmdlet)
{
	disk_task_run(request, cmdlets_paths_of(request, "Path"), &cmdlet->task);
}

void cmdlet_enable_tracking(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("beginning to track its changes"),
						    .op = "track-start",
						    .worker_op = "track-drive",
						    .makes_file = true };

	run(request, &cmdlet);
}

void cmdlet_disable_tracking(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("ending the tracking"),
						    .worker_op = "untrack-drive",
						    .removes_file = true };

	run(request, &cmdlet);
}

void cmdlet_new_point(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("making a reference point"),
						    .op = "track-mark",
						    .show = show_point };

	run(request, &cmdlet);
}

void cmdlet_get_point(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("reading reference points"),
						    .op = "track-points",
						    .show = show_points };

	run(request, &cmdlet);
}

void cmdlet_remove_point(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("forgetting a reference point"),
						    .op = "track-forget" };

	run(request, &cmdlet);
}

void cmdlet_get_change(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("listing changes"),
						    .op = "track-changes",
						    .show = show_ranges };

	run(request, &cmdlet);
}

void cmdlet_export_change(struct request *request)
{
	static const struct track_cmdlet cmdlet = { .task = TASK("exporting changes"),
						    .op = "track-export",
						    .makes_image = true,
						    .show = show_image };

	run(request, &cmdlet);
}
