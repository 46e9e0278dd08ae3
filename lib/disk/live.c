/*
 * A merge goes over the disk in chunks. All are to be copied at first; a chunk that the guest
 * changes meanwhile is to be copied again. When few are left the guest's requests are held, the
 * rest is copied, the target made durable, and the chain is opened without the merged layers. Until
 * then they hold everything, so whatever happens before costs nothing but the work.
 */
#include "disk/live.h"

#include "base/loop.h"
#include "base/macros.h"
#include "base/mark.h"
#include "blk/blk-backend.h"
#include "blk/pool.h"
#include "blk/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define CHUNK_BYTES (1 * MIB)
#define FEW_CHUNKS  8u
#define MAX_PASSES  10u
#define NO_LAYER    UINT32_MAX

struct live_io {
	struct blk_request below;
	struct blk_request *req;
	struct live *live;
	struct live_io *next;
};

struct copying {
	struct live *live;
	struct live_merge what;
	char *absolute, *relative, *volume;
	uint64_t size_bytes;
	uint64_t *todo; /* one bit per chunk */
	uint64_t chunk_count, todo_count, next, copied;
	unsigned passes;
	bool cancelled;
	struct error failure; /* code ERR_OK: none */
	/* The run being copied. */
	uint64_t offset, end;
	struct blk_request req;
	struct iovec iov;
	uint8_t *buf;
	bool busy; /* req is in flight */
};

struct live {
	struct blk blk;
	struct loop *loop;
	struct disk_options options; /* of the leaf */
	int *fds;                    /* leaf first */
	struct blk **layers;         /* the same, open; each but the first is its child's */
	unsigned count;
	bool dead;        /* the chain is not open */
	bool lost;        /* what was completed may be missing: no flush can promise it any more */
	unsigned running; /* requests below */
	bool holding;
	struct live_io *held, **held_tail;
	struct pool ios;
	struct loop_kick *kick; /* goes on with the merge */
	struct copying *copying;
	void (*changed)(void *user);
	void *changed_user;
};

static struct live *live_of(const struct blk *blk)
{
	return container_of(blk, struct live, blk);
}

/* ---- the chain ---- */

/* Closing makes durable what the guest wrote. Where that fails the guest's next flush has to fail,
 * though it goes to files that were opened anew and know nothing of it. */
static int close_chain(struct live *live, struct error *err)
{
	struct blk *leaf = live->layers[0];

	memset(live->layers, 0, live->count * sizeof(struct blk *));
	if (!leaf)
		return 0;
	if (live->blk.plug_depth)
		blk_unplug(leaf);
	if (blk_close(leaf, err) == 0)
		return 0;
	live->lost = true;
	return error_prefix(err, "what was written to the disk can't be made durable");
}

static int open_layer(struct live *live, unsigned index, unsigned target, const struct guid *id,
		      struct blk *parent, struct error *err)
{
	struct disk_options options =
	    index == 0 ? live->options
		       : (struct disk_options){ .engine = live->options.engine, .read_only = true };
	int fd = fcntl(live->fds[index], F_DUPFD_CLOEXEC, 3), rc;

	if (fd < 0)
		return error_set_errno(err, errno, "opening layer %u of the disk's chain", index);
	options.parent = parent;
	if (index == target) {
		options.read_only = false;
		options.data_write_id = *id;
	}
	rc = disk_open(live->loop, fd, &options, &live->layers[index], err);
	if (rc < 0)
		close(fd);
	return rc;
}

/* target: a layer that is to be written, too; NO_LAYER: none. */
static int open_chain(struct live *live, unsigned target, const struct guid *id, struct error *err)
{
	struct blk *parent = NULL;
	int rc = 0;

	guid_generate(&live->options.data_write_id);
	for (unsigned i = live->count; rc == 0 && i-- > 0;) {
		rc = open_layer(live, i, target, id, parent, err);
		if (rc == 0)
			parent = live->layers[i];
	}
	if (rc < 0) {
		blk_close(parent, NULL);
		memset(live->layers, 0, live->count * sizeof(struct blk *));
		return rc;
	}
	if (live->blk.plug_depth)
		blk_plug(live->layers[0]);
	return 0;
}

/* Opens it once more as it was before, after something failed. */
static void reopen(struct live *live)
{
	live->dead = open_chain(live, NO_LAYER, NULL, NULL) < 0;
}

/* ---- requests ---- */

static void merge_noted(struct live *live, const struct blk_request *req);
static void kicked(void *user);

static void below_done(struct blk_request *below, enum blk_result result)
{
	struct live_io *io = container_of(below, struct live_io, below);
	struct live *live = io->live;
	struct blk_request *req = io->req;

	live->running--;
	if (live->copying && req->op != BLK_READ && req->op != BLK_FLUSH)
		merge_noted(live, req);
	pool_put(&live->ios, io);
	blk_complete(req, result);
	if (live->holding && live->running == 0)
		loop_kick(live->kick);
}

static void pass_on(struct live *live, struct live_io *io)
{
	const struct blk_request *req = io->req;

	io->below = blk_same_request(req, below_done);
	/* Whether unmapping makes zeros or does nothing stays as the guest was told. */
	if (req->op == BLK_UNMAP && !live->blk.info.can_unmap) {
		io->below.length = 0;
	} else if (req->op == BLK_UNMAP && !blk_info(live->layers[0])->can_unmap) {
		io->below.op = BLK_WRITE_ZEROES;
		io->below.flags |= BLK_MAY_UNMAP;
	}
	live->running++;
	blk_submit(live->layers[0], &io->below);
}

static bool refused(const struct live *live, const struct blk_request *req)
{
	return live->dead || (live->lost && req->op != BLK_READ);
}

/* Below, or to those that wait for the kick. */
static void start_io(struct live *live, struct live_io *io)
{
	io->next = NULL;
	if (!live->holding && !refused(live, io->req)) {
		pass_on(live, io);
		return;
	}
	*live->held_tail = io;
	live->held_tail = &io->next;
	loop_kick(live->kick);
}

static void live_submit(struct blk *blk, struct blk_request *req)
{
	struct live *live = live_of(blk);
	struct live_io *io = pool_get(&live->ios);

	/* Without memory for a request of some hundred bytes nothing else would work either. */
	if (!io)
		abort();
	io->req = req;
	io->live = live;
	start_io(live, io);
}

/* Nobody holds them: these are the refused ones. */
static void fail_held(struct live *live)
{
	struct live_io *io = live->held;

	live->held = NULL;
	live->held_tail = &live->held;
	while (io) {
		struct live_io *next = io->next;
		struct blk_request *req = io->req;

		pool_put(&live->ios, io);
		blk_complete(req, BLK_IO_ERROR);
		io = next;
	}
}

static void go_on(struct live *live)
{
	struct live_io *io = live->held;

	if (live->changed && !live->dead)
		live->changed(live->changed_user);
	live->holding = false;
	live->held = NULL;
	live->held_tail = &live->held;
	while (io) {
		struct live_io *next = io->next;

		start_io(live, io);
		io = next;
	}
}

/* What the checks of blk_submit refuse, those below refuse alike. */
static void live_defer(struct blk *blk, struct blk_request *req)
{
	live_submit(blk, req);
}

static void live_wait(struct blk *blk)
{
	struct live *live = live_of(blk);

	if (live->running > 0)
		live->layers[0]->ops->wait(live->layers[0]);
	else if (live->copying && live->copying->busy)
		live->copying->req.blk->ops->wait(live->copying->req.blk);
	else
		kicked(live);
}

static void live_plug(struct blk *blk)
{
	struct live *live = live_of(blk);

	if (!live->dead)
		blk_plug(live->layers[0]);
}

static void live_unplug(struct blk *blk)
{
	struct live *live = live_of(blk);

	if (!live->dead)
		blk_unplug(live->layers[0]);
}

static int live_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		       struct error *err)
{
	struct live *live = live_of(blk);

	if (live->dead)
		return error_set(err, ERR_IO, "the disk's chain is not open any more");
	return blk_extent(live->layers[0], offset, max_bytes, ret, err);
}

/* ---- merging ---- */

static bool test_todo(const struct copying *c, uint64_t chunk)
{
	return c->todo[chunk / 64] >> (chunk % 64) & 1;
}

static void set_todo(struct copying *c, uint64_t chunk)
{
	c->todo_count += !test_todo(c, chunk);
	c->todo[chunk / 64] |= BIT(chunk % 64);
}

static void clear_todo(struct copying *c, uint64_t chunk)
{
	c->todo_count -= test_todo(c, chunk);
	c->todo[chunk / 64] &= ~BIT(chunk % 64);
}

static void merge_noted(struct live *live, const struct blk_request *req)
{
	struct copying *c = live->copying;

	if (c->what.first > 0 || req->length == 0)
		return;
	for (uint64_t chunk = req->offset / CHUNK_BYTES;
	     chunk <= (req->offset + req->length - 1) / CHUNK_BYTES && chunk < c->chunk_count;
	     chunk++)
		set_todo(c, chunk);
}

static void copying_free(struct copying *c)
{
	if (!c)
		return;
	if (c->what.mark_fd >= 0)
		close(c->what.mark_fd);
	free(c->absolute);
	free(c->relative);
	free(c->volume);
	free(c->todo);
	free(c->buf);
	free(c);
}

static struct disk_merge_options merge_options(const struct live *live, const struct copying *c)
{
	return (struct disk_merge_options){ .fds = live->fds,
					    .count = live->count,
					    .first = c->what.first,
					    .into = c->what.into,
					    .absolute = c->absolute,
					    .relative = c->relative,
					    .volume = c->volume };
}

/* The chain is open as it should be; tells the end. */
static void merge_over(struct live *live, const struct error *err)
{
	struct copying *c = live->copying;
	live_done *done = c->what.done;
	void *user = c->what.user;

	live->copying = NULL;
	copying_free(c);
	done(user, err);
}

static void remove_layers(struct live *live, unsigned first, unsigned into)
{
	for (unsigned i = first; i < into; i++)
		close(live->fds[i]);
	memmove(live->fds + first, live->fds + into, (live->count - into) * sizeof(int));
	live->count -= into - first;
}

/* Nothing is in flight: chunk by chunk, in place. */
static int copy_rest(struct live *live, struct error *err)
{
	struct copying *c = live->copying;
	struct blk *target = live->layers[c->what.into];
	int rc = 0;

	for (uint64_t chunk = 0; rc == 0 && chunk < c->chunk_count && c->todo_count > 0; chunk++) {
		if (!test_todo(c, chunk))
			continue;
		clear_todo(c, chunk);
		rc = disk_merge_range(live->layers + c->what.first, c->what.into - c->what.first,
				      target, chunk * CHUNK_BYTES, CHUNK_BYTES, err);
	}
	if (rc == 0 && blk_flush_now(target) != BLK_OK)
		rc = error_set(err, ERR_IO, "the merge's target can't be made durable");
	return rc;
}

/* The files as they are to be, and the mark. A failure to set it is one only as long as nothing
 * refers to the target: else the layers are gone from the chain, and their files merely stay. */
static int end_marked(struct live *live, struct error *err)
{
	const struct copying *c = live->copying;
	struct disk_merge_options options = merge_options(live, c);
	int mark = c->what.mark_fd, rc = mark < 0 ? 0 : mark_hold(mark, err);

	if (rc < 0)
		return rc;
	rc = disk_merge_end(&options, err);
	if (rc == 0 && mark >= 0 && mark_set(mark, err) < 0)
		rc = c->what.first == 0 ? -(int)ERR_IO : 0;
	if (mark >= 0)
		mark_let_go(mark);
	return rc;
}

static int finish(struct live *live, struct error *err)
{
	struct copying *c = live->copying;
	int rc;

	if (c->failure.code) {
		*err = c->failure;
		return -(int)err->code;
	}
	if (c->cancelled)
		return error_set(err, ERR_CANCELLED, "the merge was ended");
	rc = copy_rest(live, err);
	if (rc == 0)
		rc = close_chain(live, err);
	if (rc == 0)
		rc = end_marked(live, err);
	if (rc == 0)
		remove_layers(live, c->what.first, c->what.into);
	return rc;
}

/* Holding, and nothing is in flight. */
static void merge_finish(struct live *live)
{
	struct error err = { 0 };
	int rc = finish(live, &err);

	close_chain(live, NULL);
	reopen(live);
	go_on(live);
	merge_over(live, rc < 0 ? &err : NULL);
}

static void hold(struct live *live)
{
	live->holding = true;
	if (live->running == 0)
		merge_finish(live);
}

static void run_done(struct blk_request *req, enum blk_result result)
{
	struct copying *c = container_of(req, struct copying, req);

	c->busy = false;
	if (result != BLK_OK)
		error_set(&c->failure, result == BLK_NO_SPACE ? ERR_NO_SPACE : ERR_IO,
			  "merging at %#lx of the disk: %s", c->offset, blk_result_name(result));
	c->offset += req->length;
	loop_kick(c->live->kick);
}

static void read_done(struct blk_request *req, enum blk_result result)
{
	struct copying *c = container_of(req, struct copying, req);

	if (result != BLK_OK) {
		run_done(req, result);
		return;
	}
	req->op = BLK_WRITE;
	req->done = run_done;
	blk_submit(c->live->layers[c->what.into], req);
}

/* Starts with what lies at c->offset. */
static void start_run(struct live *live)
{
	struct copying *c = live->copying;
	struct blk *const *layers = live->layers + c->what.first;
	bool data;
	struct blk_extent extent;

	if (disk_merged_extent(layers, c->what.into - c->what.first, c->offset, c->end - c->offset,
			       &extent, &c->failure) < 0) {
		loop_kick(live->kick);
		return;
	}
	if (extent.kind == BLK_EXTENT_PARENT) {
		c->offset += extent.length_bytes;
		loop_kick(live->kick);
		return;
	}
	data = extent.kind == BLK_EXTENT_DATA;
	c->busy = true;
	c->iov = (struct iovec){ c->buf, extent.length_bytes };
	c->req = (struct blk_request){ .op = data ? BLK_READ : BLK_WRITE_ZEROES,
				       .flags = data ? 0 : BLK_MAY_UNMAP,
				       .offset = c->offset,
				       .length = extent.length_bytes,
				       .iov = &c->iov,
				       .iov_count = 1,
				       .done = data ? read_done : run_done };
	blk_submit(data ? layers[0] : live->layers[c->what.into], &c->req);
}

/* False: there is so little left, or it was tried so often, that the guest has to wait. */
static bool next_chunk(struct live *live)
{
	struct copying *c = live->copying;
	uint64_t size = c->size_bytes;

	if (c->next == c->chunk_count) {
		c->next = 0;
		c->passes++;
	}
	if (c->passes > 0 && (c->todo_count <= FEW_CHUNKS || c->passes >= MAX_PASSES))
		return false;
	while (c->next < c->chunk_count && !test_todo(c, c->next))
		c->next++;
	if (c->next == c->chunk_count)
		return next_chunk(live);
	c->offset = c->next * CHUNK_BYTES;
	c->end = MIN(c->offset + CHUNK_BYTES, size);
	clear_todo(c, c->next++);
	if (c->what.progress)
		c->what.progress(c->what.user, size - MIN(size, c->todo_count * CHUNK_BYTES), size);
	return true;
}

static void kicked(void *user)
{
	struct live *live = user;
	struct copying *c = live->copying;

	if (!live->holding)
		fail_held(live);
	if (!c || c->busy)
		return;
	if (live->holding || c->cancelled || c->failure.code)
		hold(live);
	else if (c->offset < c->end || next_chunk(live))
		start_run(live);
	else
		hold(live);
}

/* Blocks until nothing is in flight below; what comes from now on waits. */
static void hold_now(struct live *live)
{
	live->holding = true;
	while (live->running > 0)
		live->layers[0]->ops->wait(live->layers[0]);
}

static void take_files(struct live *live, const struct live_merge *merge)
{
	for (unsigned i = 0; i < merge->file_count; i++) {
		close(live->fds[merge->files[i].layer]);
		live->fds[merge->files[i].layer] = merge->files[i].fd;
	}
}

static int check_merge(const struct live *live, const struct live_merge *merge, struct error *err)
{
	if (live->copying)
		return error_set(err, ERR_BUSY, "the disk is being merged already");
	if (live->dead || live->options.read_only)
		return error_set(err, ERR_STATE, "the disk can't be written");
	if (merge->first >= merge->into || merge->into >= live->count)
		return error_set(err, ERR_INVALID,
				 "layers %u to %u of a chain of %u disks can't be merged",
				 merge->first, merge->into, live->count);
	for (unsigned i = 0; i < merge->file_count; i++)
		if (merge->files[i].layer >= live->count)
			return error_set(err, ERR_INVALID, "the chain has no layer %u",
					 merge->files[i].layer);
	return 0;
}

static bool copy_text(char **ret, const char *text)
{
	*ret = text ? strdup(text) : NULL;
	return *ret || !text;
}

static struct copying *new_copying(struct live *live, const struct live_merge *merge)
{
	struct copying *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->live = live;
	c->what = *merge;
	c->what.files = NULL;
	c->what.mark_fd = -1; /* until it is begun */
	/* The target has (begin) or gets (end) the size of the uppermost merged layer. */
	c->size_bytes = blk_info(live->layers[merge->first])->size_bytes;
	c->chunk_count = (c->size_bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
	c->todo = calloc((c->chunk_count + 63) / 64, sizeof(uint64_t));
	c->buf = malloc(CHUNK_BYTES);
	if (!c->todo || !c->buf || !copy_text(&c->absolute, merge->absolute) ||
	    !copy_text(&c->relative, merge->relative) || !copy_text(&c->volume, merge->volume)) {
		copying_free(c);
		return NULL;
	}
	for (uint64_t chunk = 0; chunk < c->chunk_count; chunk++)
		set_todo(c, chunk);
	return c;
}

static int merge_open(struct live *live, struct copying *c, struct error *err)
{
	struct disk_merge_options options = merge_options(live, c);
	struct guid id;
	int rc = disk_merge_begin(&options, &id, err);

	return rc < 0 ? rc : open_chain(live, c->what.into, &id, err);
}

void live_merge_close(const struct live_merge *merge)
{
	for (unsigned i = 0; i < merge->file_count; i++)
		close(merge->files[i].fd);
	if (merge->mark_fd >= 0)
		close(merge->mark_fd);
}

int live_merge_start(struct blk *disk, const struct live_merge *merge, struct error *err)
{
	struct live *live = live_of(disk);
	struct copying *c = NULL;
	int rc = check_merge(live, merge, err);

	if (rc == 0 && !(c = new_copying(live, merge)))
		rc = error_set(err, ERR_NO_MEMORY, "no memory to merge disks");
	if (rc < 0) {
		live_merge_close(merge);
		return rc;
	}
	c->what.mark_fd = merge->mark_fd;
	hold_now(live);
	rc = close_chain(live, err);
	take_files(live, merge);
	if (rc == 0)
		rc = merge_open(live, c, err);
	if (rc < 0) {
		reopen(live);
		copying_free(c);
	} else {
		live->copying = c;
		loop_kick(live->kick);
	}
	go_on(live);
	return rc;
}

void live_merge_cancel(struct blk *disk)
{
	struct live *live = live_of(disk);

	if (!live->copying)
		return;
	live->copying->cancelled = true;
	loop_kick(live->kick);
}

/* ---- a change between two requests ---- */

/* The files are changed while none of them is open, which blocks for a moment. */
static int with_chain_closed(struct live *live,
			     int (*work)(struct live *live, void *context, struct error *err),
			     void *context, struct error *err)
{
	int rc;

	if (live->copying)
		return error_set(err, ERR_BUSY, "the disk is being merged");
	if (live->dead || live->options.read_only)
		return error_set(err, ERR_STATE, "the disk can't be written");
	hold_now(live);
	rc = close_chain(live, err);
	if (rc == 0)
		rc = work(live, context, err);
	reopen(live);
	go_on(live);
	return rc;
}

static int resize_leaf(struct live *live, void *context, struct error *err)
{
	const struct disk_resize_options options = { .size_bytes = *(uint64_t *)context };

	return disk_resize(live->fds[0], &options, NULL, err);
}

static int live_grow(struct blk *blk, uint64_t size_bytes, struct error *err)
{
	struct live *live = live_of(blk);
	int rc = with_chain_closed(live, resize_leaf, &size_bytes, err);

	if (!live->dead)
		live->blk.info.size_bytes = blk_info(live->layers[0])->size_bytes;
	return rc;
}

/* Which layer of the chain that file is; NO_LAYER: none. */
static unsigned layer_of(const struct live *live, int fd)
{
	struct stat wanted, st;

	for (unsigned i = 0; fstat(fd, &wanted) == 0 && i < live->count; i++)
		if (fstat(live->fds[i], &st) == 0 && st.st_dev == wanted.st_dev &&
		    st.st_ino == wanted.st_ino)
			return i;
	return NO_LAYER;
}

static int write_paths(struct live *live, void *context, struct error *err)
{
	const struct live_paths *paths = context;
	struct disk_details parent;
	int rc = disk_sync(paths->parent_fd, err);

	if (rc == 0)
		rc = disk_describe(paths->parent_fd, &parent, err);
	if (rc < 0)
		return rc;
	rc = disk_set_parent(paths->child_fd,
			     &(struct disk_parent_link){ .parent = &parent,
							 .absolute = paths->absolute,
							 .relative = paths->relative },
			     err);
	disk_details_done(&parent);
	return rc;
}

int live_set_paths(struct blk *disk, const struct live_paths *paths, struct error *err)
{
	struct live *live = live_of(disk);
	unsigned child = layer_of(live, paths->child_fd);

	if (child == NO_LAYER)
		return error_set(err, ERR_INVALID, "the file is none of the chain's layers");
	if (child + 1 >= live->count)
		return error_set(err, ERR_INVALID, "it is no differencing disk: it has no parent");
	if (layer_of(live, paths->parent_fd) != child + 1)
		return error_set(err, ERR_INVALID,
				 "the file is not the parent that is in use: another one can only "
				 "be given to a disk that nobody uses");
	return with_chain_closed(live, write_paths, (void *)paths, err);
}

/* ---- a new leaf ---- */

static int link_to_leaf(struct live *live, int fd, struct error *err)
{
	struct disk_details leaf;
	int rc = disk_sync(live->fds[0], err);

	if (rc == 0)
		rc = disk_describe(live->fds[0], &leaf, err);
	if (rc < 0)
		return rc;
	rc = disk_set_parent(fd, &(struct disk_parent_link){ .parent = &leaf }, err);
	disk_details_done(&leaf);
	return rc;
}

static bool make_room(struct live *live)
{
	int *fds = realloc(live->fds, (live->count + 1) * sizeof(*fds));
	struct blk **layers;

	if (!fds)
		return false;
	live->fds = fds;
	layers = realloc(live->layers, (live->count + 1) * sizeof(*layers));
	if (!layers)
		return false;
	live->layers = layers;
	return true;
}

static void insert_leaf(struct live *live, int fd)
{
	memmove(live->fds + 1, live->fds, live->count * sizeof(int));
	live->fds[0] = fd;
	live->count++;
	memset(live->layers, 0, live->count * sizeof(struct blk *));
}

static int push_closed(struct live *live, int fd, struct error *err)
{
	int rc = link_to_leaf(live, fd, err);

	if (rc < 0)
		return rc;
	insert_leaf(live, fd);
	rc = open_chain(live, NO_LAYER, NULL, err);
	if (rc == 0)
		return 0;
	memmove(live->fds, live->fds + 1, --live->count * sizeof(int));
	return rc;
}

int live_push(struct blk *disk, int fd, struct error *err)
{
	struct live *live = live_of(disk);
	int rc = 0;

	if (live->copying)
		rc = error_set(err, ERR_BUSY, "the disk is being merged");
	else if (live->dead || live->options.read_only)
		rc = error_set(err, ERR_STATE, "the disk can't be written");
	else if (live->count >= DISK_CHAIN_MAX || !make_room(live))
		rc = error_set(err, ERR_LIMIT, "the disk's chain can't have another layer");
	if (rc < 0) {
		close(fd);
		return rc;
	}
	hold_now(live);
	rc = close_chain(live, err);
	if (rc == 0)
		rc = push_closed(live, fd, err);
	if (rc < 0) {
		close(fd);
		reopen(live);
	}
	go_on(live);
	return rc;
}

bool live_links(const struct blk *disk, struct guid *ret_now, struct guid *ret_next)
{
	const struct live *live = container_of(disk, struct live, blk);

	*ret_next = live->options.data_write_id;
	return !live->dead && disk_link_id(live->layers[0], ret_now);
}

void live_on_change(struct blk *disk, void (*changed)(void *user), void *user)
{
	struct live *live = live_of(disk);

	live->changed = changed;
	live->changed_user = user;
}

void live_pop(struct blk *disk)
{
	struct live *live = live_of(disk);

	hold_now(live);
	close_chain(live, NULL);
	remove_layers(live, 0, 1);
	reopen(live);
	go_on(live);
}

unsigned live_layers(const struct blk *disk)
{
	return live_of(disk)->count;
}

/* ---- opening and closing ---- */

static void live_free(struct live *live)
{
	for (unsigned i = 0; i < live->count; i++)
		close(live->fds[i]);
	loop_kick_free(live->kick);
	pool_done(&live->ios);
	free(live->fds);
	free(live->layers);
	free(live);
}

static void end_merge(struct live *live)
{
	struct copying *c = live->copying;
	struct error err;

	while (c && c->busy)
		c->req.blk->ops->wait(c->req.blk);
	if (!c)
		return;
	error_set(&err, ERR_CANCELLED, "the disk was closed");
	merge_over(live, &err);
}

static int live_close(struct blk *blk, struct error *err)
{
	struct live *live = live_of(blk);
	struct blk *leaf;
	int rc;

	end_merge(live);
	leaf = live->layers[0];
	rc = blk_close(leaf, err);
	live_free(live);
	return rc;
}

static const struct blk_ops live_ops = {
	.name = "live",
	.submit = live_submit,
	.defer = live_defer,
	.wait = live_wait,
	.plug = live_plug,
	.unplug = live_unplug,
	.extent = live_extent,
	.grow = live_grow,
	.close = live_close,
};

/* Their own descriptors: those given are closed when all is well. */
static int take_descriptors(struct live *live, const int *fds, unsigned count, struct error *err)
{
	live->fds = calloc(count, sizeof(*live->fds));
	live->layers = calloc(count, sizeof(*live->layers));
	if (!live->fds || !live->layers)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	for (unsigned i = 0; i < count; i++) {
		live->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
		if (live->fds[i] < 0)
			return error_set_errno(err, errno, "opening layer %u of the disk's chain",
					       i);
		live->count++;
	}
	return 0;
}

int live_open(struct loop *loop, const int *fds, unsigned count, const struct disk_options *options,
	      struct blk **ret, struct error *err)
{
	struct live *live = calloc(1, sizeof(*live));
	int rc;

	if (!live)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	live->loop = loop;
	if (options)
		live->options = *options;
	live->held_tail = &live->held;
	pool_init(&live->ios, sizeof(struct live_io));
	rc = count == 0 || count > DISK_CHAIN_MAX
		 ? error_set(err, ERR_LIMIT, "a disk's chain has 1 to %u layers, not %u",
			     DISK_CHAIN_MAX, count)
		 : take_descriptors(live, fds, count, err);
	if (rc == 0 && count > 1)
		rc = disk_check_links(fds, count, err);
	if (rc == 0)
		rc = loop_kick_new(loop, kicked, live, &live->kick, err);
	if (rc == 0)
		rc = open_chain(live, NO_LAYER, NULL, err);
	if (rc < 0) {
		live_free(live);
		return rc;
	}
	blk_init(&live->blk, &live_ops, blk_info(live->layers[0]));
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
	*ret = &live->blk;
	return 0;
}
