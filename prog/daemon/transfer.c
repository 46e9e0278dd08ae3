#include "transfer.h"

#include "base/macros.h"
#include "disk-job.h"
#include "files.h"
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct item {
	char *from, *to;
	uint64_t bytes; /* that it takes on the host's disk */
};

struct transfer {
	struct request *request;
	struct item *items;
	size_t count, index;
	char **folders; /* that this transfer made */
	size_t folder_count;
	uint64_t total, before; /* bytes of all files, of those that are done */
	struct disk_job *job;
	struct output output;
	int from_fd;
	bool cancelled;
	int (*done)(void *user, const struct error *err);
	void *user;
};

char *transfer_path(const char *folder, const char *name)
{
	char *path;

	if (asprintf(&path, "%s/%s", folder, name) < 0)
		abort();
	return path;
}

struct transfer *transfer_new(struct request *request)
{
	struct transfer *transfer = calloc(1, sizeof(*transfer));

	if (!transfer)
		abort();
	*transfer = (struct transfer){ .request = request,
				       .output = { .fd = -1, .folder_fd = -1 },
				       .from_fd = -1 };
	request_hold(request);
	return transfer;
}

static void take_away(struct transfer *transfer)
{
	for (size_t i = 0; i < transfer->index; i++)
		unlink(transfer->items[i].to);
	while (transfer->folder_count--) {
		rmdir(transfer->folders[transfer->folder_count]);
		free(transfer->folders[transfer->folder_count]);
	}
	transfer->folder_count = 0;
}

static void release(struct transfer *transfer)
{
	struct request *request = transfer->request;

	for (size_t i = 0; i < transfer->count; i++) {
		free(transfer->items[i].from);
		free(transfer->items[i].to);
	}
	for (size_t i = 0; i < transfer->folder_count; i++)
		free(transfer->folders[i]);
	free(transfer->items);
	free(transfer->folders);
	free(transfer);
	request->cancel = NULL;
	request_release(request);
}

void transfer_free(struct transfer *transfer)
{
	if (!transfer)
		return;
	take_away(transfer);
	release(transfer);
}

int transfer_folder(struct transfer *transfer, const char *path, struct error *err)
{
	if (mkdir(path, 0755) < 0) {
		struct stat st;

		if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			return 0;
		return error_set_errno(err, errno, "making the folder '%.300s'", path);
	}
	transfer->folders =
	    reallocarray(transfer->folders, transfer->folder_count + 1, sizeof(char *));
	if (!transfer->folders)
		abort();
	transfer->folders[transfer->folder_count++] = strdup(path);
	return 0;
}

void transfer_file(struct transfer *transfer, const char *from, const char *to)
{
	struct item item = { strdup(from), strdup(to), 0 };
	struct stat st;

	transfer->items = reallocarray(transfer->items, transfer->count + 1, sizeof(item));
	if (!transfer->items || !item.from || !item.to)
		abort();
	if (stat(from, &st) == 0)
		item.bytes = (uint64_t)st.st_blocks * 512;
	transfer->total += item.bytes;
	transfer->items[transfer->count++] = item;
}

/* ---- one file after the other ---- */

static void next(struct transfer *transfer);

static void end(struct transfer *transfer, const struct error *err)
{
	output_done(&transfer->output);
	if (transfer->from_fd >= 0)
		close(transfer->from_fd);
	if (transfer->done(transfer->user, err) < 0 || err)
		take_away(transfer);
	release(transfer);
}

static void on_progress(void *user, uint64_t done, uint64_t total)
{
	struct transfer *transfer = user;
	const struct item *item = &transfer->items[transfer->index];
	double part = (double)MIN(done, total) / (double)total * (double)item->bytes;
	double all = transfer->total ? (double)transfer->total : 1;

	request_progress(transfer->request, item->from, "copying, %u %%",
			 (unsigned)(((double)transfer->before + part) * 100 / all));
}

static void on_done(void *user, const json_t *result, struct process *process,
		    const struct error *err)
{
	struct transfer *transfer = user;
	const struct item *item = &transfer->items[transfer->index];
	struct error failure;
	int r = 0;

	transfer->job = NULL;
	if (err)
		failure = *err;
	else
		r = output_commit(&transfer->output, &failure);
	if (err || r < 0) {
		error_prefix(&failure, "copying '%.200s'", item->from);
		end(transfer, &failure);
		return;
	}
	output_done(&transfer->output);
	close(TAKE_FD(transfer->from_fd));
	transfer->before += item->bytes;
	transfer->index++;
	next(transfer);
}

/* The lock keeps others from writing to the file while it is copied. */
static int begin(struct transfer *transfer, struct error *err)
{
	static const struct disk_job_events events = { on_progress, on_done };
	const struct item *item = &transfer->items[transfer->index];
	int fds[2], r;

	transfer->from_fd = open(item->from, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (transfer->from_fd < 0)
		return error_set_errno(err, errno, "opening '%.300s'", item->from);
	r = files_lock(transfer->from_fd, false, err);
	if (r < 0)
		return error_prefix(err, "copying '%.200s'", item->from);
	r = output_open(item->to, &transfer->output, err);
	if (r < 0)
		return r;
	fds[0] = transfer->output.fd;
	fds[1] = transfer->from_fd;
	return disk_job_start(transfer->request->daemon, json_pack("{s:s}", "op", "copy-file"), fds,
			      2, 0, &events, transfer, &transfer->job, err);
}

static void next(struct transfer *transfer)
{
	struct error err;

	if (transfer->cancelled) {
		error_set(&err, ERR_CANCELLED, "it was cancelled");
		end(transfer, &err);
	} else if (transfer->index == transfer->count) {
		end(transfer, NULL);
	} else if (begin(transfer, &err) < 0) {
		end(transfer, &err);
	}
}

static void cancel(struct request *request)
{
	struct transfer *transfer = request->context;

	transfer->cancelled = true;
	if (transfer->job)
		disk_job_cancel(transfer->job);
}

void transfer_run(struct transfer *transfer, int (*done)(void *user, const struct error *err),
		  void *user)
{
	transfer->done = done;
	transfer->user = user;
	transfer->request->context = transfer;
	transfer->request->cancel = cancel;
	next(transfer);
}
