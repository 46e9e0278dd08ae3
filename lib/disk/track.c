#include "disk/track.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/blk-backend.h"
#include "blk/pool.h"
#include "disk/track-impl.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <time.h>

struct track_io {
	struct blk_request req; /* to the disk below */
	struct blk_request *outer;
	struct track *track;
	struct track_io *next;
	struct track_io *prev_change, *next_change; /* changes in flight */
	bool change;
};

struct track {
	struct blk blk;
	struct blk *disk;
	bool running; /* state is there */
	struct track_state state;
	struct pool ios;
	struct track_io *changes;

	/* Marking regions active: one write and one sync at a time. Changes wait until all of
	 * their regions are marked on disk. */
	struct track_io *waiting, **waiting_tail;
	bool marking;
	uint8_t marked[TRACK_PAGE];  /* is on disk */
	uint8_t written[TRACK_PAGE]; /* is being written */
	struct file_request file_req;
	struct iovec iov;
};

static struct track *of(const struct blk *blk)
{
	return container_of(blk, struct track, blk);
}

/* ---- requests ---- */

static void finish(struct track_io *io, enum blk_result result)
{
	struct track *track = io->track;
	struct blk_request *outer = io->outer;

	if (io->change) {
		if (io->prev_change)
			io->prev_change->next_change = io->next_change;
		else
			track->changes = io->next_change;
		if (io->next_change)
			io->next_change->prev_change = io->prev_change;
	}
	pool_put(&track->ios, io);
	blk_complete(outer, result);
}

static void passed_on(struct blk_request *req, enum blk_result result)
{
	finish(container_of(req, struct track_io, req), result);
}

static struct track_io *new_io(struct track *track, struct blk_request *outer)
{
	struct track_io *io = pool_get(&track->ios);

	/* Without memory for a request of some hundred bytes nothing else would work either. */
	if (!io)
		abort();
	*io = (struct track_io){ .req = blk_same_request(outer, passed_on),
				 .outer = outer,
				 .track = track };
	return io;
}

static void note_change(struct track *track, struct track_io *io)
{
	io->change = true;
	io->next_change = track->changes;
	if (track->changes)
		track->changes->prev_change = io;
	track->changes = io;
	track_state_touch(&track->state, io->req.offset, io->req.length);
}

/* ---- marking regions ---- */

static bool is_marked(const struct track *track, const struct blk_request *req)
{
	uint64_t region_bytes = track->state.header.region_bytes;
	uint64_t last = (req->offset + req->length - 1) / region_bytes;

	for (uint64_t r = req->offset / region_bytes; r <= last; r++)
		if (!(track->marked[r / 8] >> (r % 8) & 1))
			return false;
	return true;
}

static void mark_regions(struct track *track);

/* A change whose regions are not marked must not happen. */
static void release(struct track *track, int result)
{
	struct track_io *list = track->waiting;

	track->waiting = NULL;
	track->waiting_tail = &track->waiting;
	while (list) {
		struct track_io *io = list;

		list = io->next;
		if (result < 0) {
			finish(io, result == -ENOSPC ? BLK_NO_SPACE : BLK_IO_ERROR);
		} else if (is_marked(track, &io->req)) {
			blk_submit(track->disk, &io->req);
		} else {
			io->next = NULL;
			*track->waiting_tail = io;
			track->waiting_tail = &io->next;
		}
	}
}

static void marking_step(struct file_request *req, int result)
{
	struct track *track = container_of(req, struct track, file_req);

	if (result == 0 && req->op == FILE_WRITE) {
		req->op = FILE_SYNC;
		file_submit(track->state.file, req);
		return;
	}
	if (result == 0)
		memcpy(track->marked, track->written, TRACK_PAGE);
	track->marking = false;
	release(track, result);
	if (track->waiting && !track->marking)
		mark_regions(track);
}

static void mark_regions(struct track *track)
{
	track->marking = true;
	memcpy(track->written, track->state.active, TRACK_PAGE);
	track->iov = (struct iovec){ track->written, TRACK_PAGE };
	track->file_req = (struct file_request){ .op = FILE_WRITE,
						 .offset = TRACK_ACTIVE_AT,
						 .length = TRACK_PAGE,
						 .iov = &track->iov,
						 .iov_count = 1,
						 .done = marking_step };
	file_submit(track->state.file, &track->file_req);
}

/* ---- the filter ---- */

static void track_submit(struct blk *blk, struct blk_request *outer)
{
	struct track *track = of(blk);
	struct track_io *io = new_io(track, outer);

	if (track->running && outer->op != BLK_READ && outer->op != BLK_FLUSH) {
		note_change(track, io);
		track_state_activate(&track->state, outer->offset, outer->length);
		if (!is_marked(track, outer)) {
			*track->waiting_tail = io;
			track->waiting_tail = &io->next;
			if (!track->marking)
				mark_regions(track);
			return;
		}
	}
	blk_submit(track->disk, &io->req);
}

/* The disk below answers the same: it checks the same. */
static void track_defer(struct blk *blk, struct blk_request *outer)
{
	struct track *track = of(blk);

	blk_submit(track->disk, &new_io(track, outer)->req);
}

static void track_wait(struct blk *blk)
{
	struct track *track = of(blk);

	if (track->running && track->state.file->in_flight > 0)
		file_wait(track->state.file);
	else
		track->disk->ops->wait(track->disk);
}

static void track_plug(struct blk *blk)
{
	blk_plug(of(blk)->disk);
}

static void track_unplug(struct blk *blk)
{
	blk_unplug(of(blk)->disk);
}

static int track_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes,
			struct blk_extent *ret, struct error *err)
{
	return blk_extent(of(blk)->disk, offset, max_bytes, ret, err);
}

/* quiet: the disk is durable, and nothing is in flight. */
static int end_tracking(struct track *track, bool quiet, struct error *err)
{
	int rc;

	while (track->state.file->in_flight > 0)
		file_wait(track->state.file);
	rc = track_state_store(&track->state, quiet);
	track->running = false;
	file_close(track->state.file);
	track_state_done(&track->state);
	return rc < 0 ? error_set_errno(err, -rc, "storing the change tracking file") : 0;
}

/* Tracking ends where it can't be noted; the file is one of another disk then, by its size. */
static int note_size(struct track *track, struct error *err)
{
	int rc = track_state_grow(&track->state, track->blk.info.size_bytes);

	if (rc == 0)
		return 0;
	track->running = false;
	file_close(track->state.file);
	track_state_done(&track->state);
	return error_set_errno(err, -rc,
			       "the disk has grown, but its changes are not tracked any more: "
			       "storing the change tracking file");
}

static int track_grow(struct blk *blk, uint64_t size_bytes, struct error *err)
{
	struct track *track = of(blk);
	int rc;

	if (track->running && !track_state_fits(&track->state, size_bytes))
		return error_set(err, ERR_LIMIT,
				 "its changes can't be tracked any more with %lu bytes: end the "
				 "tracking first",
				 size_bytes);
	rc = blk_grow(track->disk, size_bytes, err);
	if (rc < 0)
		return rc;
	track->blk.info.size_bytes = blk_info(track->disk)->size_bytes;
	return track->running ? note_size(track, err) : 0;
}

/* The disk first: only what is durable there may be forgotten as unsure. */
static int track_close(struct blk *blk, struct error *err)
{
	struct track *track = of(blk);
	int disk_rc = blk_close(track->disk, err);
	int rc = track->running ? end_tracking(track, disk_rc == 0, disk_rc < 0 ? NULL : err) : 0;

	pool_done(&track->ios);
	free(track);
	return disk_rc < 0 ? disk_rc : rc;
}

static const struct blk_ops track_ops = {
	.name = "track",
	.submit = track_submit,
	.defer = track_defer,
	.wait = track_wait,
	.plug = track_plug,
	.unplug = track_unplug,
	.extent = track_extent,
	.grow = track_grow,
	.close = track_close,
};

/* ---- opening ---- */

int track_new(struct blk *disk, struct blk **ret, struct error *err)
{
	struct track *track = calloc(1, sizeof(*track));

	if (!track)
		return error_set(err, ERR_NO_MEMORY, "no memory for change tracking");
	blk_init(&track->blk, &track_ops, blk_info(disk));
	track->disk = disk;
	track->waiting_tail = &track->waiting;
	pool_init(&track->ios, sizeof(struct track_io));
	*ret = &track->blk;
	return 0;
}

/* Takes file on success. */
static int start(struct track *track, struct file *file, const struct track_options *options,
		 struct error *err)
{
	uint64_t size = track->blk.info.size_bytes;
	int rc;

	/* What was begun before is in no epoch. */
	blk_drain(track->disk);
	rc = options->create ? track_state_create(&track->state, file, size, options, err)
			     : track_state_load(&track->state, file, size, options, err);
	if (rc < 0)
		return rc;
	memset(track->marked, 0, sizeof(track->marked));
	track->running = true;
	return 0;
}

int track_attach(struct blk *disk, struct file *file, const struct track_options *options,
		 struct blk **ret, struct error *err)
{
	struct blk *tracked;
	int rc = track_new(disk, &tracked, err);

	if (rc < 0)
		return rc;
	rc = start(of(tracked), file, options, err);
	if (rc < 0)
		track_free(tracked);
	else
		*ret = tracked;
	return rc;
}

int track_start(struct blk *tracked, struct loop *loop, int fd, const struct track_options *options,
		struct error *err)
{
	struct file *file;
	int rc;

	if (of(tracked)->running)
		return error_set(err, ERR_EXISTS, "changes of the disk are tracked already");
	rc = file_lock(fd, true, err);
	if (rc < 0)
		return rc;
	if (file_open_uring(loop, fd, &file, NULL) < 0)
		rc = file_open_threads(loop, fd, 1, &file, err);
	if (rc < 0) {
		file_unlock(fd);
		return rc;
	}
	rc = start(of(tracked), file, options, err);
	if (rc < 0)
		file_abandon(file);
	return rc;
}

static int check_running(const struct blk *tracked, struct error *err)
{
	return container_of(tracked, struct track, blk)->running
		   ? 0
		   : error_set(err, ERR_STATE, "changes of the disk are not tracked");
}

bool track_running(const struct blk *tracked)
{
	return container_of(tracked, struct track, blk)->running;
}

int track_stop(struct blk *tracked, struct error *err)
{
	struct track *track = of(tracked);
	int rc = check_running(tracked, err);

	/* Changes that wait for their regions have to get through first. */
	while (rc == 0 && track->waiting)
		file_wait(track->state.file);
	return rc < 0 ? rc : end_tracking(track, false, err);
}

int track_relink(struct blk *tracked, const struct guid *link_now, const struct guid *link_next,
		 struct error *err)
{
	struct track_state *state = &of(tracked)->state;
	int rc = check_running(tracked, err);

	if (rc < 0)
		return rc;
	track_state_relink(state, link_now, link_next);
	rc = track_state_store_header(state);
	return rc < 0 ? error_set_errno(err, -rc, "storing the change tracking file") : 0;
}

int track_follow(int fd, const struct guid *known, const struct guid *coming, struct error *err)
{
	struct file *file;
	int rc = file_open_blocking(fd, FILE_EXCLUSIVE, &file, err);

	if (rc < 0)
		return rc;
	rc = track_state_follow(file, known, coming, err);
	file_abandon(file);
	return rc;
}

int track_copy(const struct blk *tracked, int fd, struct error *err)
{
	struct file *file;
	int rc = check_running(tracked, err);

	if (rc == 0)
		rc = file_open_blocking(fd, FILE_UNLOCKED, &file, err);
	if (rc < 0)
		return rc;
	rc = track_state_copy(&container_of(tracked, const struct track, blk)->state, file);
	file_abandon(file);
	return rc < 0 ? error_set_errno(err, -rc, "copying what is tracked of the disk") : 0;
}

struct blk *track_free(struct blk *tracked)
{
	struct track *track = of(tracked);
	struct blk *disk = track->disk;

	assert(!track->running);
	pool_done(&track->ios);
	free(track);
	return disk;
}

/* ---- reference points ---- */

static int add_point(struct track *track, struct guid *ret_id)
{
	struct track_header *h = &track->state.header;
	struct track_header before = *h;
	int rc = track_state_store(&track->state, false);

	guid_generate(ret_id);
	h->points[h->point_count].id = *ret_id;
	h->points[h->point_count].time = (uint64_t)time(NULL);
	h->points[h->point_count++].epoch = h->epoch++;
	memset(h->earlier, 0, sizeof(h->earlier));
	if (rc == 0)
		rc = track_state_store_header(&track->state);
	/* If it got there all the same, it is one more point that nobody asks for; the epoch must
	 * not go back. */
	if (rc < 0)
		h->point_count = before.point_count;
	return rc;
}

/* The epochs are stored: only regions that are being changed are unsure now. If that can't be
 * noted, more stay so. */
static void settle_regions(struct track *track)
{
	while (track->marking)
		file_wait(track->state.file);
	memset(track->state.active, 0, TRACK_PAGE);
	for (struct track_io *io = track->changes; io; io = io->next_change)
		track_state_activate(&track->state, io->req.offset, io->req.length);
	(void)track_state_store_active(&track->state);
	for (unsigned i = 0; i < TRACK_PAGE; i++)
		track->marked[i] &= track->state.active[i];
}

int track_mark(struct blk *tracked, struct guid *ret_id, struct error *err)
{
	struct track *track = of(tracked);
	struct track_header *h = &track->state.header;
	struct guid id;
	int rc = check_running(tracked, err);

	if (rc < 0)
		return rc;
	if (h->point_count == TRACK_MAX_POINTS)
		return error_set(err, ERR_LIMIT,
				 "the disk has %u reference points: forget one first",
				 TRACK_MAX_POINTS);
	if (h->epoch == UINT16_MAX)
		return error_set(err, ERR_LIMIT,
				 "change tracking has seen %u reference points: begin anew",
				 UINT16_MAX);
	rc = add_point(track, &id);
	for (struct track_io *io = track->changes; io; io = io->next_change)
		track_state_touch(&track->state, io->req.offset, io->req.length);
	if (rc < 0)
		return error_set_errno(err, -rc, "storing a reference point");
	settle_regions(track);
	*ret_id = id;
	return 0;
}

static int find_point(const struct track_header *h, const struct guid *id, unsigned *ret,
		      struct error *err)
{
	char text[GUID_TEXT_SIZE];

	for (*ret = 0; *ret < h->point_count; (*ret)++)
		if (guid_equal(&h->points[*ret].id, id))
			return 0;
	return error_set(err, ERR_NOT_FOUND, "the disk has no reference point %s",
			 guid_format(id, text));
}

int track_forget(struct blk *tracked, const struct guid *id, struct error *err)
{
	struct track_state *state = &of(tracked)->state;
	struct track_header *h = &state->header;
	unsigned i;
	int rc = check_running(tracked, err);

	if (rc == 0)
		rc = find_point(h, id, &i, err);
	if (rc < 0)
		return rc;
	memmove(&h->points[i], &h->points[i + 1], (h->point_count - i - 1u) * sizeof(h->points[0]));
	h->point_count--;
	memset(&h->points[h->point_count], 0, sizeof(h->points[0]));
	rc = track_state_store_header(state);
	return rc < 0 ? error_set_errno(err, -rc, "forgetting a reference point") : 0;
}

unsigned track_points(const struct blk *tracked, struct track_point ret[static TRACK_MAX_POINTS])
{
	const struct track_header *h = &of(tracked)->state.header;

	if (!track_running(tracked))
		return 0;
	for (unsigned i = 0; i < h->point_count; i++)
		ret[i] = (struct track_point){ h->points[i].id, h->points[i].time };
	return h->point_count;
}

int track_changes(const struct blk *tracked, const struct guid *since,
		  int (*range)(void *user, uint64_t offset, uint64_t length), void *user,
		  struct error *err)
{
	const struct track_state *state = &of(tracked)->state;
	const struct track_header *h = &state->header;
	uint64_t unit = 0, end;
	unsigned point;
	int rc = check_running(tracked, err);

	if (rc == 0)
		rc = find_point(h, since, &point, err);
	for (; rc >= 0 && unit < state->unit_count; unit = end) {
		uint16_t epoch = h->points[point].epoch;

		end = unit + 1;
		if (state->epochs[unit] <= epoch)
			continue;
		while (end < state->unit_count && state->epochs[end] > epoch)
			end++;
		rc = range(user, unit * h->unit_bytes,
			   MIN(end * h->unit_bytes, h->disk_bytes) - unit * h->unit_bytes);
	}
	return rc;
}
