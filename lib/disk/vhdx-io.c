/*
 * Requests on a VHDX. A request walks over its blocks and starts one file operation per piece; it
 * is complete when all of them are.
 *
 * A block is allocated when something is first written to it: it gets a place (space.c), its BAT
 * entry changes in memory and is marked dirty, and the data goes to the place. The entry reaches
 * the disk with the next flush (vhdx-meta.c). Two rules make every state on disk valid:
 * - A place that may hold old bytes is zeroed before the BAT entry in memory names it. So whatever
 *   moment a round of the flush machine copies the BAT, the copy's places read as zeros or as what
 * was written since. Writers to such a block wait (struct vhdx_prepare); readers still see zeros.
 * - A freed place is neither punched nor handed out again before the BAT that no longer names it is
 *   durable (vhdx->freed, then meta's `freeing`).
 * A block is freed only while no operation on it is in flight.
 */
#include "disk/vhdx-impl.h"

#include "base/macros.h"

#include <assert.h>
#include <errno.h>

#define SEGMENT_IOV     64u
#define GROW_STEP_BYTES (UINT64_C(32) << 20)
/* A guest may ask to zero 64 TiB at once: what is in flight for one request is bounded. */
#define MAX_SEGMENTS_PER_IO 64u
#define MAX_RELEASES        32u
#define MAX_FREED_PLACES    256u /* then they are given back without waiting for a flush */

/* One file operation: of a request, or (io NULL) of nobody. */
struct segment {
	struct file_request req;
	struct vhdx *vhdx;
	struct vhdx_io *io;
	uint64_t block;
	struct iovec iov[SEGMENT_IOV];
};

/* A place that is being zeroed for a block, and the requests that wait for it. */
struct vhdx_prepare {
	struct file_request req;
	struct vhdx *vhdx;
	uint64_t block, place;
	struct vhdx_io_list waiters;
	struct vhdx_prepare *next;
};

enum progress { STARTED, PARKED, FAILED };

void vhdx_io_pools_init(struct vhdx *vhdx)
{
	pool_init(&vhdx->ios, sizeof(struct vhdx_io));
	pool_init(&vhdx->segments, sizeof(struct segment));
	pool_init(&vhdx->prepares, sizeof(struct vhdx_prepare));
}

static enum blk_result blk_result_of(int rc)
{
	if (rc == 0)
		return BLK_OK;
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG ? BLK_NO_SPACE : BLK_IO_ERROR;
}

static void run(struct vhdx *vhdx, struct vhdx_io *io);

/* ---- ending a request ---- */

static void deferred_done(struct file_request *req, int result)
{
	struct vhdx_io *io = container_of(req, struct vhdx_io, defer_req);
	struct vhdx *vhdx = container_of(io->req->blk, struct vhdx, blk);

	vhdx_io_finish(vhdx, io, io->result);
}

void vhdx_io_finish(struct vhdx *vhdx, struct vhdx_io *io, enum blk_result result)
{
	struct blk_request *req = io->req;

	if (vhdx->submitting) {
		io->result = result;
		io->defer_req.done = deferred_done;
		file_defer(vhdx->file, &io->defer_req, 0);
		return;
	}
	pool_put(&vhdx->ios, io);
	blk_complete(req, result);
}

static void drop(struct vhdx *vhdx, struct vhdx_io *io)
{
	if (--io->pending > 0)
		return;
	if (io->result == BLK_OK && (io->req->flags & BLK_FUA) && io->req->op != BLK_READ)
		vhdx_flush(vhdx, io);
	else
		vhdx_io_finish(vhdx, io, io->result);
}

static void fail(struct vhdx_io *io, enum blk_result result)
{
	if (io->result == BLK_OK)
		io->result = result;
}

/* ---- file operations ---- */

static void segment_done(struct file_request *req, int result)
{
	struct segment *segment = container_of(req, struct segment, req);
	struct vhdx *vhdx = segment->vhdx;
	struct vhdx_io *io = segment->io;

	vhdx->block_users[segment->block]--;
	if (result < 0)
		fail(io, blk_result_of(result));
	pool_put(&vhdx->segments, segment);
	if (io->throttled && io->pending <= MAX_SEGMENTS_PER_IO / 2) {
		io->throttled = false;
		run(vhdx, io);
	}
	drop(vhdx, io);
}

static struct segment *new_segment(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block)
{
	struct segment *segment = pool_get(&vhdx->segments);

	if (!segment)
		return NULL;
	segment->vhdx = vhdx;
	segment->io = io;
	segment->block = block;
	segment->req.done = segment_done;
	return segment;
}

static void start_segment(struct segment *segment)
{
	segment->io->pending++;
	segment->vhdx->block_users[segment->block]++;
	file_submit(segment->vhdx->file, &segment->req);
}

/* Starts a transfer of at most len bytes of the request; returns how many, 0 without memory. */
static uint64_t start_transfer(struct vhdx *vhdx, struct vhdx_io *io, enum file_op op,
			       uint64_t block, uint64_t file_offset, uint64_t len)
{
	struct segment *segment = new_segment(vhdx, io, block);
	const struct blk_request *req = io->req;

	if (!segment)
		return 0;
	segment->req.op = op;
	segment->req.offset = file_offset;
	if (len == req->length) {
		segment->req.iov = req->iov;
		segment->req.iov_count = req->iov_count;
	} else {
		segment->req.iov = segment->iov;
		segment->req.iov_count = blk_iov_slice(req->iov, req->iov_count, io->cursor, len,
						       segment->iov, SEGMENT_IOV, &len);
	}
	segment->req.length = len;
	start_segment(segment);
	return len;
}

/* Makes part of a present block read as zeros. */
static uint64_t start_zeroing(struct vhdx *vhdx, struct vhdx_io *io, enum file_op op,
			      uint64_t block, uint64_t file_offset, uint64_t len)
{
	struct segment *segment = new_segment(vhdx, io, block);

	if (!segment)
		return 0;
	segment->req.op = op;
	segment->req.offset = file_offset;
	segment->req.length = len;
	start_segment(segment);
	return len;
}

/* ---- the BAT ---- */

static uint64_t *entry_of(struct vhdx *vhdx, uint64_t block)
{
	return &vhdx->bat[vhdx_bat_index(&vhdx->geometry, block)];
}

static bool present(uint64_t entry)
{
	return VHDX_BAT_STATE(entry) == VHDX_BLOCK_FULLY_PRESENT;
}

static void set_entry(struct vhdx *vhdx, uint64_t block, uint64_t entry)
{
	*entry_of(vhdx, block) = entry;
	vhdx_mark_dirty(vhdx, vhdx_bat_index(&vhdx->geometry, block));
}

/* ---- allocating ---- */

static int ensure_file_size(struct vhdx *vhdx, uint64_t end)
{
	uint64_t ahead = ALIGN_UP(end, GROW_STEP_BYTES);

	if (end <= vhdx->file->size_bytes)
		return 0;
	if (file_set_size(vhdx->file, ahead) == 0)
		return 0;
	return file_set_size(vhdx->file, end);
}

static struct vhdx_prepare *find_prepare(struct vhdx *vhdx, uint64_t block)
{
	struct vhdx_prepare *p = vhdx->preparing;

	while (p && p->block != block)
		p = p->next;
	return p;
}

/* A kept place stays reserved by its entry. */
static void give_up_place(struct vhdx *vhdx, uint64_t block, uint64_t place, bool stale)
{
	if (VHDX_BAT_FILE_OFFSET(*entry_of(vhdx, block)) != place)
		space_free(&vhdx->space, place, !stale);
}

static void prepare_done(struct file_request *req, int result)
{
	struct vhdx_prepare *p = container_of(req, struct vhdx_prepare, req), **link;
	struct vhdx *vhdx = p->vhdx;
	struct vhdx_io *io;

	for (link = &vhdx->preparing; *link != p; link = &(*link)->next)
		;
	*link = p->next;
	vhdx->background--;
	if (result == 0)
		set_entry(vhdx, p->block, p->place | VHDX_BLOCK_FULLY_PRESENT);
	else
		give_up_place(vhdx, p->block, p->place, true);
	while ((io = vhdx_list_take(&p->waiters))) {
		if (result < 0) {
			fail(io, blk_result_of(result));
			drop(vhdx, io);
		} else {
			run(vhdx, io);
		}
	}
	pool_put(&vhdx->prepares, p);
}

static enum progress start_prepare(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block,
				   uint64_t place)
{
	struct vhdx_prepare *p = pool_get(&vhdx->prepares);

	if (!p) {
		give_up_place(vhdx, block, place, true);
		fail(io, BLK_IO_ERROR);
		return FAILED;
	}
	*p = (struct vhdx_prepare){ .req = { .op = FILE_PUNCH,
					     .offset = place,
					     .length = vhdx->geometry.block_bytes,
					     .done = prepare_done },
				    .vhdx = vhdx,
				    .block = block,
				    .place = place,
				    .next = vhdx->preparing };
	vhdx_list_init(&p->waiters);
	vhdx_list_add(&p->waiters, io);
	vhdx->preparing = p;
	vhdx->background++;
	file_submit(vhdx->file, &p->req);
	return PARKED;
}

/* A place for the block: the one that its entry kept, a hole of the file, or the end. */
static bool choose_place(struct vhdx *vhdx, uint64_t block, uint64_t *place, bool *stale)
{
	uint64_t kept = VHDX_BAT_FILE_OFFSET(*entry_of(vhdx, block));

	if (kept) {
		*place = kept;
		*stale = true;
		return true;
	}
	return space_alloc(&vhdx->space, place, stale);
}

static enum progress allocate(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block)
{
	struct vhdx_prepare *p = vhdx->preparing ? find_prepare(vhdx, block) : NULL;
	uint64_t place;
	bool stale;
	int rc;

	if (p) {
		vhdx_list_add(&p->waiters, io);
		return PARKED;
	}
	if (!choose_place(vhdx, block, &place, &stale)) {
		fail(io, BLK_IO_ERROR);
		return FAILED;
	}
	rc = ensure_file_size(vhdx, place + vhdx->geometry.block_bytes);
	if (rc < 0) {
		give_up_place(vhdx, block, place, stale);
		fail(io, blk_result_of(rc));
		return FAILED;
	}
	if (stale)
		return start_prepare(vhdx, io, block, place);
	set_entry(vhdx, block, place | VHDX_BLOCK_FULLY_PRESENT);
	return STARTED;
}

/* ---- freeing ---- */

static bool remember_place(struct vhdx_places *places, uint64_t offset)
{
	if (places->count == places->capacity) {
		size_t capacity = MAX(places->capacity * 2, (size_t)64);
		uint64_t *bigger = realloc(places->offset, capacity * sizeof(*bigger));

		if (!bigger)
			return false;
		places->offset = bigger;
		places->capacity = capacity;
	}
	places->offset[places->count++] = offset;
	return true;
}

static void free_block(struct vhdx *vhdx, uint64_t block, enum vhdx_block_state state)
{
	/* Without memory the place is lost until the next open; nothing worse. */
	remember_place(&vhdx->freed, VHDX_BAT_FILE_OFFSET(*entry_of(vhdx, block)));
	set_entry(vhdx, block, state);
	if (vhdx->freed.count >= MAX_FREED_PLACES)
		vhdx_flush(vhdx, NULL);
}

static void release_more(struct vhdx *vhdx);

static void release_done(struct file_request *req, int result)
{
	struct segment *segment = container_of(req, struct segment, req);
	struct vhdx *vhdx = segment->vhdx;

	space_free(&vhdx->space, req->offset, result == 0);
	vhdx->background--;
	vhdx->releases_in_flight--;
	pool_put(&vhdx->segments, segment);
	release_more(vhdx);
}

static void release_one(struct vhdx *vhdx, uint64_t offset)
{
	struct segment *segment = new_segment(vhdx, NULL, 0);

	if (!segment) {
		space_free(&vhdx->space, offset, false);
		return;
	}
	segment->req.op = FILE_DISCARD;
	segment->req.offset = offset;
	segment->req.length = vhdx->geometry.block_bytes;
	segment->req.done = release_done;
	vhdx->background++;
	vhdx->releases_in_flight++;
	file_submit(vhdx->file, &segment->req);
}

static void release_more(struct vhdx *vhdx)
{
	struct vhdx_places *places = &vhdx->releasing;

	while (vhdx->release_next < places->count && vhdx->releases_in_flight < MAX_RELEASES)
		release_one(vhdx, places->offset[vhdx->release_next++]);
	if (vhdx->release_next == places->count)
		places->count = vhdx->release_next = 0;
}

void vhdx_release_places(struct vhdx *vhdx, struct vhdx_places *places)
{
	for (size_t i = 0; i < places->count; i++)
		remember_place(&vhdx->releasing, places->offset[i]);
	places->count = 0;
	release_more(vhdx);
}

/* ---- one piece of a request: within one block ---- */

struct piece {
	uint64_t block;
	uint64_t in_block; /* offset */
	uint64_t len;
};

static struct piece piece_at(const struct vhdx *vhdx, const struct vhdx_io *io)
{
	uint64_t offset = io->req->offset + io->cursor;
	uint64_t block_bytes = vhdx->geometry.block_bytes;
	struct piece piece = { .block = offset >> vhdx->geometry.block_shift,
			       .in_block = offset & (block_bytes - 1) };

	piece.len = MIN(block_bytes - piece.in_block, io->req->length - io->cursor);
	return piece;
}

static bool advance(struct vhdx_io *io, uint64_t len)
{
	io->cursor += len;
	if (len == 0)
		fail(io, BLK_IO_ERROR);
	return len > 0;
}

static enum progress run_read(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece)
{
	uint64_t entry = *entry_of(vhdx, piece->block), len = piece->len;

	if (present(entry))
		len = start_transfer(vhdx, io, FILE_READ, piece->block,
				     VHDX_BAT_FILE_OFFSET(entry) + piece->in_block, len);
	else
		blk_iov_zero(io->req->iov, io->req->iov_count, io->cursor, len);
	return advance(io, len) ? STARTED : FAILED;
}

static enum progress run_write(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece)
{
	uint64_t entry, len;

	if (!present(*entry_of(vhdx, piece->block))) {
		enum progress progress = allocate(vhdx, io, piece->block);

		if (progress != STARTED)
			return progress;
	}
	entry = *entry_of(vhdx, piece->block);
	len = start_transfer(vhdx, io, FILE_WRITE, piece->block,
			     VHDX_BAT_FILE_OFFSET(entry) + piece->in_block, piece->len);
	return advance(io, len) ? STARTED : FAILED;
}

static bool whole_block(const struct vhdx *vhdx, const struct piece *piece)
{
	uint64_t start = piece->block << vhdx->geometry.block_shift;
	uint64_t bytes =
	    MIN((uint64_t)vhdx->geometry.block_bytes, vhdx->geometry.disk_bytes - start);

	return piece->in_block == 0 && piece->len == bytes;
}

/* BLK_UNMAP and BLK_WRITE_ZEROES. */
static enum progress run_zero(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece)
{
	bool unmap = io->req->op == BLK_UNMAP;
	bool give_back = !vhdx->geometry.fixed && (unmap || (io->req->flags & BLK_MAY_UNMAP));
	uint64_t entry = *entry_of(vhdx, piece->block), len = piece->len;

	if (!present(entry)) {
		advance(io, len);
	} else if (give_back && whole_block(vhdx, piece) && !vhdx->block_users[piece->block]) {
		free_block(vhdx, piece->block, unmap ? VHDX_BLOCK_UNMAPPED : VHDX_BLOCK_ZERO);
		advance(io, len);
	} else if (!advance(
		       io, start_zeroing(vhdx, io, give_back ? FILE_PUNCH : FILE_ZERO, piece->block,
					 VHDX_BAT_FILE_OFFSET(entry) + piece->in_block, len))) {
		return FAILED;
	}
	return STARTED;
}

static enum progress run_piece(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece)
{
	switch (io->req->op) {
	case BLK_READ:
		return run_read(vhdx, io, piece);
	case BLK_WRITE:
		return run_write(vhdx, io, piece);
	default:
		return run_zero(vhdx, io, piece);
	}
}

/* Goes on with the request until everything is started, it fails, or it has to wait. */
static void run(struct vhdx *vhdx, struct vhdx_io *io)
{
	while (io->cursor < io->req->length && io->result == BLK_OK) {
		struct piece piece = piece_at(vhdx, io);

		if (io->pending > MAX_SEGMENTS_PER_IO) {
			io->throttled = true;
			return;
		}
		if (run_piece(vhdx, io, &piece) == PARKED)
			return;
	}
	drop(vhdx, io);
}

/* ---- submit ---- */

void vhdx_io_start(struct vhdx *vhdx, struct vhdx_io *io)
{
	io->pending = 1;
	/* A fixed disk keeps its blocks: an unmap is only a hint, and this one is not taken. */
	if (io->req->op == BLK_UNMAP && vhdx->geometry.fixed)
		io->cursor = io->req->length;
	run(vhdx, io);
}

static void start_change(struct vhdx *vhdx, struct vhdx_io *io)
{
	switch (vhdx->write_state) {
	case VHDX_WRITABLE:
		vhdx_io_start(vhdx, io);
		return;
	case VHDX_FAILED:
		vhdx_io_finish(vhdx, io, BLK_IO_ERROR);
		return;
	case VHDX_UNTOUCHED:
		vhdx_list_add(&vhdx->waiting_activation, io);
		vhdx_activate(vhdx);
		return;
	case VHDX_ACTIVATING:
		vhdx_list_add(&vhdx->waiting_activation, io);
		return;
	}
}

static struct vhdx_io *new_io(struct vhdx *vhdx, struct blk_request *req)
{
	struct vhdx_io *io = pool_get(&vhdx->ios);

	/* Without memory for a request of some hundred bytes nothing else would work either. */
	if (!io)
		abort();
	*io = (struct vhdx_io){ .req = req };
	return io;
}

static void vhdx_submit(struct blk *blk, struct blk_request *req)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);
	struct vhdx_io *io = new_io(vhdx, req);

	vhdx->submitting = true;
	if (req->op == BLK_FLUSH)
		vhdx_flush(vhdx, io);
	else if (req->op == BLK_READ)
		vhdx_io_start(vhdx, io);
	else
		start_change(vhdx, io);
	vhdx->submitting = false;
}

static void vhdx_defer(struct blk *blk, struct blk_request *req)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);
	struct vhdx_io *io = new_io(vhdx, req);

	vhdx->submitting = true;
	vhdx_io_finish(vhdx, io, req->result);
	vhdx->submitting = false;
}

static void vhdx_wait(struct blk *blk)
{
	file_wait(container_of(blk, struct vhdx, blk)->file);
}

static void vhdx_plug(struct blk *blk)
{
	file_plug(container_of(blk, struct vhdx, blk)->file);
}

static void vhdx_unplug(struct blk *blk)
{
	file_unplug(container_of(blk, struct vhdx, blk)->file);
}

const struct blk_ops vhdx_blk_ops = {
	.name = "vhdx",
	.submit = vhdx_submit,
	.defer = vhdx_defer,
	.wait = vhdx_wait,
	.plug = vhdx_plug,
	.unplug = vhdx_unplug,
	.close = vhdx_close,
};
