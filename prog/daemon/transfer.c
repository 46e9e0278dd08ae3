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

struct link {
	char *child, *parent;
};

struct transfer {
	struct request *request;
	struct undo *undo;
	struct item *items;
	size_t count, index;
	struct link *links;
	size_t link_count, link_index;
	char **own; /* folders of this transfer: what is in them is known by them */
	size_t own_count;
	uint64_t total, before; /* bytes of all files, of those that are done */
	struct disk_job *job;
	struct output output;
	int from_fd;
	bool cancelled;
	void (*done)(void *user, const struct error *err);
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
				       .undo = undo_new(request->daemon),
				       .output = { .fd = -1, .folder_fd = -1 },
				       .from_fd = -1 };
	request_hold(request);
	return transfer;
}

void transfer_free(struct transfer *transfer)
{
	struct request *request;

	if (!transfer)
		return;
	request = transfer->request;
	undo_free(transfer->undo);
	for (size_t i = 0; i < transfer->count; i++) {
		free(transfer->items[i].from);
		free(transfer->items[i].to);
	}
	for (size_t i = 0; i < transfer->link_count; i++) {
		free(transfer->links[i].child);
		free(transfer->links[i].parent);
	}
	for (size_t i = 0; i < transfer->own_count; i++)
		free(transfer->own[i]);
	free(transfer->items);
	free(transfer->links);
	free(transfer->own);
	/* done may have begun another one. */
	if (request->context == transfer)
		request->cancel = NULL;
	free(transfer);
	request_release(request);
}

/* ---- what is to be done ---- */

static bool is_below(const char *folder, const char *path)
{
	size_t length = strlen(folder);

	return strncmp(path, folder, length) == 0 && path[length] == '/';
}

static bool is_in_own(const struct transfer *transfer, const char *path)
{
	for (size_t i = 0; i < transfer->own_count; i++)
		if (is_below(transfer->own[i], path))
			return true;
	return false;
}

void transfer_add(struct transfer *transfer, enum undo_kind kind, const char *path)
{
	if (kind == UNDO_FILE && is_in_own(transfer, path))
		return;
	undo_add(transfer->undo, kind, path);
	if (kind != UNDO_OWN_FOLDER)
		return;
	transfer->own = reallocarray(transfer->own, transfer->own_count + 1, sizeof(char *));
	if (!transfer->own)
		abort();
	transfer->own[transfer->own_count++] = strdup(path);
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
	transfer_add(transfer, UNDO_FILE, to);
}

void transfer_parent(struct transfer *transfer, const char *child, const char *parent)
{
	struct link link = { strdup(child), strdup(parent) };

	transfer->links = reallocarray(transfer->links, transfer->link_count + 1, sizeof(link));
	if (!transfer->links || !link.child || !link.parent)
		abort();
	transfer->links[transfer->link_count++] = link;
}

/* ---- the end ---- */

static void end(struct transfer *transfer, const struct error *err)
{
	output_done(&transfer->output);
	if (transfer->from_fd >= 0)
		close(transfer->from_fd);
	if (err)
		undo_free(TAKE(transfer->undo));
	transfer->done(transfer->user, err);
	transfer_free(transfer);
}

int transfer_commit(struct transfer *transfer, struct error *err)
{
	return undo_commit(transfer->undo, err);
}

static bool is_cancelled(const struct transfer *transfer, struct error *err)
{
	if (transfer->cancelled)
		error_set(err, ERR_CANCELLED, "it was cancelled");
	return transfer->cancelled;
}

/* ---- the parents of the copies, one after the other ---- */

static void next_link(struct transfer *transfer);

static void on_linked(void *user, const json_t *result, struct process *process,
		      const struct error *err)
{
	struct transfer *transfer = user;
	struct error failure;

	transfer->job = NULL;
	if (err) {
		failure = *err;
		error_prefix(&failure, "the copy '%.200s'",
			     transfer->links[transfer->link_index].child);
		end(transfer, &failure);
		return;
	}
	transfer->link_index++;
	next_link(transfer);
}

static int begin_link(struct transfer *transfer, struct error *err)
{
	static const struct disk_job_events events = { NULL, on_linked };
	const struct link *link = &transfer->links[transfer->link_index];

	request_progress(transfer->request, link->child, "linking the copies");
	return disk_job_start(
	    transfer->request->daemon,
	    json_pack("{s:s, s:s, s:s}", "op", "set", "path", link->child, "parent", link->parent),
	    NULL, 0, 0, &events, transfer, &transfer->job, err);
}

static void next_link(struct transfer *transfer)
{
	struct error err;

	if (is_cancelled(transfer, &err))
		end(transfer, &err);
	else if (transfer->link_index == transfer->link_count)
		end(transfer, NULL);
	else if (begin_link(transfer, &err) < 0)
		end(transfer, &err);
}

/* ---- one file after the other ---- */

static void next(struct transfer *transfer);

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
		r = undo_made(transfer->undo, item->to, transfer->output.fd, &failure);
	if (!err && r == 0)
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

	if (is_cancelled(transfer, &err))
		end(transfer, &err);
	else if (transfer->index == transfer->count)
		next_link(transfer);
	else if (begin(transfer, &err) < 0)
		end(transfer, &err);
}

static void cancel(struct request *request)
{
	struct transfer *transfer = request->context;

	transfer->cancelled = true;
	if (transfer->job)
		disk_job_cancel(transfer->job);
}

void transfer_run(struct transfer *transfer, void (*done)(void *user, const struct error *err),
		  void *user)
{
	struct error err;

	transfer->done = done;
	transfer->user = user;
	transfer->request->context = transfer;
	transfer->request->cancel = cancel;
	if (undo_begin(transfer->undo, &err) < 0)
		end(transfer, &err);
	else
		next(transfer);
}
