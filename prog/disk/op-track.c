/* Change tracking of an image that is not in use: its file comes as a descriptor, which oyakod has
 * opened. (A running VM's worker has the same operations.) */
#include "ops.h"

#include "child.h"
#include "sandbox.h"
#include "track-json.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"

#include <stdlib.h>
#include <unistd.h>

#define PIECE_BYTES (1 * MIB)

struct tracking {
	struct job *job;
	struct loop *loop;
	struct image image;
	struct blk *tracked; /* over the image's disk, which stays the image's */
};

/* The image is only read: its link stays what it is. */
static int start_tracking(struct tracking *t, int fd, bool create, struct error *err)
{
	const struct disk_details *details = image_details(&t->image);
	struct track_options options = { .create = create,
					 .trusted = job_flag(t->job, "frozen"),
					 .link_now = details->link_id,
					 .link_next = details->link_id };
	int r;

	if (details->format != DISK_VHDX)
		return error_set(err, ERR_UNSUPPORTED, "changes can be tracked of a VHDX only");
	r = track_new(t->image.layers[0], &t->tracked, err);
	if (r == 0)
		r = track_start(t->tracked, t->loop, fd, &options, err);
	return r;
}

static int stop_tracking(struct tracking *t, struct error *err)
{
	int r = t->tracked && track_running(t->tracked) ? track_stop(t->tracked, err) : 0;

	if (t->tracked)
		track_free(t->tracked);
	t->tracked = NULL;
	return r;
}

/* Runs work with what the tracking file at fd knows of the image. Takes fd. */
static int with_tracking(struct tracking *t, int fd, bool create,
			 int (*work)(struct tracking *t, json_t **ret, struct error *err),
			 json_t **ret, struct error *err)
{
	int r = sandbox_enter_working(err), end;
	struct error end_error;

	if (r == 0)
		r = loop_new(&t->loop, err);
	if (r == 0)
		r = image_open(&t->image, t->loop, 0, err);
	if (r == 0)
		r = start_tracking(t, fd, create, err);
	if (r < 0)
		close(fd);
	else
		r = work(t, ret, err);
	end = stop_tracking(t, &end_error);
	if (r == 0 && end < 0) {
		*err = end_error;
		r = end;
	}
	image_close(&t->image, NULL);
	loop_free(t->loop);
	return r;
}

/* ---- reference points and changes ---- */

static int ask(struct tracking *t, json_t **ret, struct error *err)
{
	return track_json_run(t->tracked, job_text(t->job, "op"), t->job->params, ret, err);
}

static int nothing(struct tracking *t, json_t **ret, struct error *err)
{
	return 0;
}

int op_track(struct job *job, json_t **ret, struct error *err)
{
	struct tracking t = { .job = job };
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	const char *path;
	int r = fd < 0 ? fd : job_path(job, "path", &path, err);

	if (r == 0)
		r = image_find(path, 0, &t.image, err);
	if (r < 0)
		return r;
	r = job_flag(job, "create") ? with_tracking(&t, TAKE_FD(fd), true, nothing, ret, err)
				    : with_tracking(&t, TAKE_FD(fd), false, ask, ret, err);
	if (r == 0 && !*ret)
		*ret = json_object();
	return r;
}

/* ---- an incremental image ---- */

struct export
{
	struct tracking t;
	struct child child;
	int fd; /* of the new image */
	uint8_t *buf;
	uint64_t done;
	struct error failure;
};

static int copy_piece(struct export *export, uint64_t offset, size_t len, struct error *err)
{
	enum blk_result result = blk_read_now(export->t.image.layers[0], offset, export->buf, len);

	if (result != BLK_OK)
		return error_set(err, ERR_IO, "reading at %#lx of the disk: %s", offset,
				 blk_result_name(result));
	export->done += len;
	if (!job_progress(export->t.job, offset + len,
			  blk_info(export->t.image.layers[0])->size_bytes))
		return job_cancelled(err);
	return child_put(&export->child, offset, export->buf, len, err);
}

static int copy_range(void *user, uint64_t offset, uint64_t length)
{
	struct export *export = user;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < length; at += PIECE_BYTES)
		r = copy_piece(export, offset + at, (size_t)MIN(length - at, PIECE_BYTES),
			       &export->failure);
	return r;
}

static int copy_changes(struct export *export, struct error *err)
{
	struct guid since;
	int r = track_json_point(export->t.job->params, &since, err);

	if (r == 0)
		r = track_changes(export->t.tracked, &since, copy_range, export, err);
	if (r < 0 && export->failure.code)
		*err = export->failure;
	return r;
}

static int export_changes(struct tracking *t, json_t **ret, struct error *err)
{
	struct export *export = container_of(t, struct export, t);
	const struct disk_create_options options = { .format = DISK_VHDX };
	const struct disk_details *parent = image_details(&export->child.parent);
	json_t *vhd;
	int r = 0;

	if (parent->size_bytes != image_details(&t->image)->size_bytes)
		r = error_set(err, ERR_INVALID,
			      "the parent has %lu bytes, the disk %lu: they can't be a backup and "
			      "its later state",
			      parent->size_bytes, image_details(&t->image)->size_bytes);
	if (r == 0)
		r = child_create(&export->child, t->loop, export->fd, &options, err);
	if (r == 0)
		r = copy_changes(export, err);
	if (r == 0)
		r = child_close(&export->child, err);
	if (r == 0)
		r = image_describe_file(export->fd, job_text(t->job, "parent"), &vhd, err);
	if (r == 0)
		*ret = json_pack("{s:o, s:I}", "vhd", vhd, "bytes", (json_int_t) export->done);
	return r;
}

int op_track_export(struct job *job, json_t **ret, struct error *err)
{
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	AUTO_CLOSE int track_fd = fd < 0 ? -1 : job_take_fd(job, 1, err);
	struct export export = { .t = { .job = job }, .fd = fd, .buf = malloc(PIECE_BYTES) };
	const char *path, *parent, *new;
	int r = track_fd < 0 ? -(int)err->code : job_path(job, "path", &path, err);

	if (r == 0 && !export.buf)
		r = error_set(err, ERR_NO_MEMORY, "no memory to copy changes");
	if (r == 0)
		r = job_path(job, "parent", &parent, err);
	if (r == 0)
		r = job_path(job, "new", &new, err);
	if (r == 0)
		r = image_find(path, 0, &export.t.image, err);
	if (r == 0 && (r = child_find(parent, new, &export.child, err)) < 0)
		image_close(&export.t.image, NULL);
	if (r == 0) {
		r = with_tracking(&export.t, TAKE_FD(track_fd), false, export_changes, ret, err);
		child_close(&export.child, NULL);
	}
	free(export.buf);
	return r;
}
