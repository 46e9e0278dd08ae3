/*
 * Requests on a VHDX. A request walks over its blocks and starts one operation per piece, on the
 * file or on the parent; it is complete when all of them are.
 *
 * A block is allocated when something is first written to it: it gets a place (space.c), its BAT
 * entry changes in memory and is marked dirty, and the data goes to the place. The entry reaches
 * the disk with the next flush (vhdx-meta.c). These rules make every state on disk valid:
 * - A place that may hold old bytes is zeroed before the BAT entry in memory names it. So whatever
 *   moment a round of the flush machine copies the BAT, the copy's places read as zeros or as what
 *   was written since. Writers to such a block wait (struct vhdx_prepare); readers still see zeros.
 * - A freed place is neither punched nor handed out again before the BAT that no longer names it is
 *   durable (vhdx->freed, then meta's `freeing`).
 * A block is freed only while no operation on it is in flight.
 *
 * In a differencing disk a block that is not present becomes partially present: its place may hold
 * old bytes, for its sector bits are cleared first, and a sector's bit is set when the sector has
 * been written. When all are set the block becomes fully present. A freed block becomes zero or
 * unmapped, never not present, and from there fully present over a zeroed place.
 */
#include "disk/vhdx-impl.h"

#include "base/macros.h"

#include <assert.h>
#include <errno.h>

#define SEGMENT_IOV 64u
/* Growing waits for what is in flight, so a large file grows in larger steps. */
#define GROW_STEP_BYTES (UINT64_C(32) << 20)
#define GROW_STEP_MOST  (UINT64_C(1) << 30)
/* A guest may ask to zero 64 TiB at once: what is in flight for one request is bounded. */
#define MAX_SEGMENTS_PER_IO 64u
#define MAX_RELEASES        32u
/* With more of either, a flush in the background does not wait for the guest's. */
#define MAX_FREED_PLACES 256u
#define MAX_DIRTY_PAGES  512u

/* One operation on the file or the parent: of a request, or (io NULL) of nobody. */
struct segment {
	union {
		struct file_request req;
		struct blk_request parent_req;
	};
	struct vhdx *vhdx;
	struct vhdx_io *io;
	uint64_t block;
	/* Sectors that will be in this file when it is done; bits NULL: none need be marked. */
	struct vhdx_page *bits;
	unsigned bit, bit_count;
	struct iovec iov[SEGMENT_IOV];
};

/* A place that is being zeroed for a BAT entry, and the requests that wait for it. */
struct vhdx_prepare {
	struct file_request req;
	struct vhdx *vhdx;
	struct vhdx_page *page; /* of the BAT */
	uint64_t index, place;
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

/* ---- metadata ---- */

/* The entry, if it is in memory. Else NULL, and io waits for it or has failed. */
static uint64_t *want_entry(struct vhdx *vhdx, struct vhdx_io *io, uint64_t index,
			    struct vhdx_page **ret_page, enum progress *ret_progress)
{
	bool loading;
	struct vhdx_page *page =
	    vhdx_page_want(vhdx, VHDX_PAGE_BAT, vhdx_bat_page_offset(vhdx, index), io, &loading);

	if (!page) {
		*ret_progress = loading ? PARKED : FAILED;
		if (!loading)
			fail(io, BLK_IO_ERROR);
		return NULL;
	}
	*ret_page = page;
	return &page->word[index % VHDX_PAGE_ENTRIES];
}

static struct vhdx_page *want_bits(struct vhdx *vhdx, struct vhdx_io *io, uint64_t offset,
				   enum progress *ret_progress)
{
	bool loading;
	struct vhdx_page *page = vhdx_page_want(vhdx, VHDX_PAGE_BITMAP, offset, io, &loading);

	if (!page) {
		*ret_progress = loading ? PARKED : FAILED;
		if (!loading)
			fail(io, BLK_IO_ERROR);
	}
	return page;
}

void vhdx_io_resume(struct vhdx *vhdx, struct vhdx_io *io, bool ok)
{
	if (!ok)
		fail(io, BLK_IO_ERROR);
	run(vhdx, io);
}

static bool present(uint64_t entry)
{
	return VHDX_BAT_STATE(entry) == VHDX_BLOCK_FULLY_PRESENT;
}

/* The block has a place that holds (some of) its data. */
static bool in_file(uint64_t entry)
{
	return present(entry) || VHDX_BAT_STATE(entry) == VHDX_BLOCK_PARTIALLY_PRESENT;
}

static void set_entry(struct vhdx_page *page, uint64_t index, uint64_t entry)
{
	page->word[index % VHDX_PAGE_ENTRIES] = entry;
	vhdx_page_dirty(page);
}

static unsigned sectors_per_block(const struct vhdx *vhdx)
{
	return vhdx->geometry.block_bytes / vhdx->geometry.logical_sector_bytes;
}

/* Bits of the block that lie in one page. */
static unsigned block_bits_per_page(const struct vhdx *vhdx)
{
	return MIN(sectors_per_block(vhdx), VHDX_PAGE_BITS);
}

/* ---- operations ---- */

static uint32_t *busy_slot(struct vhdx *vhdx, uint64_t block)
{
	return &vhdx->busy[block % VHDX_BUSY_SLOTS];
}

/* The block has all of its sectors in this file: its bits are no longer asked for. (A block with
 * bits in several pages stays as it is.) */
static void complete_block(struct vhdx *vhdx, const struct segment *segment)
{
	uint64_t index = vhdx_bat_index(&vhdx->geometry, segment->block), *entry;
	unsigned count = sectors_per_block(vhdx), first = ALIGN_DOWN(segment->bit, count);
	struct vhdx_page *page;
	bool set;

	if (count > VHDX_PAGE_BITS || vhdx_bits_run(segment->bits, first, count, &set) != count)
		return;
	page = vhdx_page_find(vhdx, vhdx_bat_page_offset(vhdx, index));
	if (!page)
		return;
	entry = &page->word[index % VHDX_PAGE_ENTRIES];
	if (VHDX_BAT_STATE(*entry) == VHDX_BLOCK_PARTIALLY_PRESENT)
		set_entry(page, index, VHDX_BAT_FILE_OFFSET(*entry) | VHDX_BLOCK_FULLY_PRESENT);
}

static void mark_written(struct vhdx *vhdx, const struct segment *segment)
{
	vhdx_bits_set(segment->bits, segment->bit, segment->bit_count, true);
	vhdx_page_dirty(segment->bits);
	complete_block(vhdx, segment);
}

static void segment_finish(struct segment *segment, enum blk_result result)
{
	struct vhdx *vhdx = segment->vhdx;
	struct vhdx_io *io = segment->io;

	(*busy_slot(vhdx, segment->block))--;
	if (segment->bits) {
		if (result == BLK_OK)
			mark_written(vhdx, segment);
		segment->bits->pins--;
	}
	if (result != BLK_OK)
		fail(io, result);
	pool_put(&vhdx->segments, segment);
	if (io->throttled && io->pending <= MAX_SEGMENTS_PER_IO / 2) {
		io->throttled = false;
		run(vhdx, io);
	}
	drop(vhdx, io);
}

static void segment_done(struct file_request *req, int result)
{
	segment_finish(container_of(req, struct segment, req), blk_result_of(result));
}

static void parent_done(struct blk_request *req, enum blk_result result)
{
	segment_finish(container_of(req, struct segment, parent_req), result);
}

static struct segment *new_segment(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block)
{
	struct segment *segment = pool_get(&vhdx->segments);

	if (!segment)
		return NULL;
	segment->vhdx = vhdx;
	segment->io = io;
	segment->block = block;
	segment->bits = NULL;
	segment->req.done = segment_done;
	return segment;
}

static void start_segment(struct segment *segment, struct file *file)
{
	segment->io->pending++;
	(*busy_slot(segment->vhdx, segment->block))++;
	file_submit(file, &segment->req);
}

/* The iovec of len bytes from the cursor on; returns how many bytes fitted. */
static uint64_t slice(struct segment *segment, uint64_t len, const struct iovec **ret,
		      unsigned *ret_count)
{
	const struct vhdx_io *io = segment->io;
	const struct blk_request *req = io->req;

	if (len == req->length) {
		*ret = req->iov;
		*ret_count = req->iov_count;
		return len;
	}
	*ret = segment->iov;
	*ret_count = blk_iov_slice(req->iov, req->iov_count, io->cursor, len, segment->iov,
				   SEGMENT_IOV, &len);
	return len;
}

/* Cuts what SEGMENT_IOV pieces cover down to whole sectors: bits stand for whole sectors, and a
 * parent is asked for whole ones. */
static uint64_t slice_sectors(struct segment *segment, uint64_t len, const struct iovec **ret,
			      unsigned *ret_count)
{
	uint64_t fits = slice(segment, len, ret, ret_count);
	uint64_t whole = ALIGN_DOWN(fits, segment->vhdx->geometry.logical_sector_bytes);

	return whole == fits ? fits : slice(segment, whole, ret, ret_count);
}

/* Starts a transfer of at most len bytes of the request; returns how many, 0 without memory. */
static uint64_t start_transfer(struct vhdx *vhdx, struct vhdx_io *io, struct file *file,
			       enum file_op op, uint64_t block, uint64_t file_offset, uint64_t len)
{
	struct segment *segment = new_segment(vhdx, io, block);

	if (!segment)
		return 0;
	segment->req.op = op;
	segment->req.offset = file_offset;
	len = slice(segment, len, &segment->req.iov, &segment->req.iov_count);
	segment->req.length = len;
	start_segment(segment, file);
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
	start_segment(segment, vhdx->file);
	return len;
}

static bool reads_parent(const struct vhdx *vhdx, uint64_t entry)
{
	return vhdx->parent && VHDX_BAT_STATE(entry) == VHDX_BLOCK_NOT_PRESENT;
}

/* Where the bytes of a range come from, below the leaf. */
struct source {
	struct blk *layer; /* it knows; NULL: they are zeros */
	struct file *file; /* they lie in the layer's file here; NULL: the layer must be asked */
	uint64_t file_offset;
	uint64_t len; /* for so much of the range */
};

/* What a layer under this one says of the range, as far as it says it at once: true if its own
 * parent is to be asked. */
static bool look_into(struct blk *blk, uint64_t offset, struct source *source)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);
	uint64_t block = offset >> vhdx->geometry.block_shift;
	uint64_t in_block = offset & (vhdx->geometry.block_bytes - 1), entry;
	uint64_t index = vhdx_bat_index(&vhdx->geometry, block);
	struct vhdx_page *page = vhdx_page_find(vhdx, vhdx_bat_page_offset(vhdx, index));

	/* A layer that is written to (by a merge) has more to consider than its entries. */
	if (!page || !vhdx->blk.info.read_only)
		return false;
	page->used_lately = true;
	entry = page->word[index % VHDX_PAGE_ENTRIES];
	if (VHDX_BAT_STATE(entry) == VHDX_BLOCK_PARTIALLY_PRESENT)
		return false;
	source->len = MIN(source->len, vhdx->geometry.block_bytes - in_block);
	if (present(entry)) {
		source->file = vhdx->file;
		source->file_offset = VHDX_BAT_FILE_OFFSET(entry) + in_block;
	} else if (!reads_parent(vhdx, entry)) {
		source->layer = NULL;
	}
	return source->layer && !source->file;
}

/* Goes down the chain at once, past the layers that only pass a request on: so a deep chain costs
 * look-ups, not requests. */
static struct source find_source(const struct vhdx *vhdx, uint64_t offset, uint64_t len)
{
	struct source source = { .layer = vhdx->parent, .len = len };
	bool deeper = true;

	while (source.layer && deeper) {
		uint64_t size = source.layer->info.size_bytes;

		/* what a parent lacks at its end is zeros */
		if (offset >= size) {
			source.layer = NULL;
			break;
		}
		source.len = MIN(source.len, size - offset);
		deeper =
		    source.layer->ops == &vhdx_blk_ops && look_into(source.layer, offset, &source);
		if (deeper)
			source.layer = container_of(source.layer, struct vhdx, blk)->parent;
	}
	return source;
}

static uint64_t start_parent_read(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block,
				  uint64_t len)
{
	uint64_t offset = io->req->offset + io->cursor;
	struct source source = find_source(vhdx, offset, len);
	struct segment *segment;

	if (!source.layer) {
		blk_iov_zero(io->req->iov, io->req->iov_count, io->cursor, source.len);
		return source.len;
	}
	if (source.file)
		return start_transfer(vhdx, io, source.file, FILE_READ, block, source.file_offset,
				      source.len);
	segment = new_segment(vhdx, io, block);
	if (!segment)
		return 0;
	segment->parent_req =
	    (struct blk_request){ .op = BLK_READ, .offset = offset, .done = parent_done };
	len = slice_sectors(segment, source.len, &segment->parent_req.iov,
			    &segment->parent_req.iov_count);
	segment->parent_req.length = len;
	io->pending++;
	(*busy_slot(vhdx, block))++;
	blk_submit(source.layer, &segment->parent_req);
	return len;
}

/* ---- allocating ---- */

static int ensure_file_size(struct vhdx *vhdx, uint64_t end)
{
	uint64_t step = MIN(MAX(end / 2, GROW_STEP_BYTES), GROW_STEP_MOST);
	uint64_t ahead = ALIGN_UP(end + step - GROW_STEP_BYTES, GROW_STEP_BYTES);

	if (end <= vhdx->file->size_bytes)
		return 0;
	if (file_set_size(vhdx->file, ahead) == 0)
		return 0;
	return file_set_size(vhdx->file, end);
}

static struct vhdx_prepare *find_prepare(struct vhdx *vhdx, uint64_t index)
{
	struct vhdx_prepare *p = vhdx->preparing;

	while (p && p->index != index)
		p = p->next;
	return p;
}

/* The place stays reserved if its entry keeps it. */
static void give_up_place(struct vhdx *vhdx, struct vhdx_page *page, uint64_t index, uint64_t place,
			  uint64_t length)
{
	if (VHDX_BAT_FILE_OFFSET(page->word[index % VHDX_PAGE_ENTRIES]) != place)
		space_free(&vhdx->space, place, length, false);
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
		set_entry(p->page, p->index, p->place | VHDX_BLOCK_FULLY_PRESENT);
	else
		give_up_place(vhdx, p->page, p->index, p->place, p->req.length);
	p->page->pins--;
	while ((io = vhdx_list_take(&p->waiters)))
		if (result < 0) {
			fail(io, blk_result_of(result));
			drop(vhdx, io);
		} else {
			run(vhdx, io);
		}
	pool_put(&vhdx->prepares, p);
}

static enum progress start_prepare(struct vhdx *vhdx, struct vhdx_io *io, struct vhdx_page *page,
				   uint64_t index, uint64_t place, uint64_t length)
{
	struct vhdx_prepare *p = pool_get(&vhdx->prepares);

	if (!p) {
		give_up_place(vhdx, page, index, place, length);
		fail(io, BLK_IO_ERROR);
		return FAILED;
	}
	*p = (struct vhdx_prepare){ .req = { .op = FILE_PUNCH,
					     .offset = place,
					     .length = length,
					     .done = prepare_done },
				    .vhdx = vhdx,
				    .page = page,
				    .index = index,
				    .place = place,
				    .next = vhdx->preparing };
	vhdx_list_init(&p->waiters);
	vhdx_list_add(&p->waiters, io);
	page->pins++;
	vhdx->preparing = p;
	vhdx->background++;
	file_submit(vhdx->file, &p->req);
	return PARKED;
}

/* A hole of the file or its end. */
static bool take_place(struct vhdx *vhdx, struct vhdx_io *io, uint64_t length, uint64_t *ret_place,
		       bool *ret_stale)
{
	bool large = length == vhdx->geometry.block_bytes;
	int rc;

	if (!space_alloc(&vhdx->space, large, ret_place, ret_stale)) {
		fail(io, BLK_IO_ERROR);
		return false;
	}
	rc = ensure_file_size(vhdx, *ret_place + length);
	if (rc < 0) {
		space_free(&vhdx->space, *ret_place, length, !*ret_stale);
		fail(io, blk_result_of(rc));
	}
	return rc == 0;
}

/* Gives the entry (of a block, or of a bitmap block) a place that reads as zeros. */
static enum progress allocate_zeroed(struct vhdx *vhdx, struct vhdx_io *io, struct vhdx_page *page,
				     uint64_t index, uint64_t length)
{
	struct vhdx_prepare *p = vhdx->preparing ? find_prepare(vhdx, index) : NULL;
	uint64_t place = VHDX_BAT_FILE_OFFSET(page->word[index % VHDX_PAGE_ENTRIES]);
	bool stale;

	if (p) {
		vhdx_list_add(&p->waiters, io);
		return PARKED;
	}
	if (place) /* kept for it */
		return start_prepare(vhdx, io, page, index, place, length);
	if (!take_place(vhdx, io, length, &place, &stale))
		return FAILED;
	if (stale)
		return start_prepare(vhdx, io, page, index, place, length);
	set_entry(page, index, place | VHDX_BLOCK_FULLY_PRESENT);
	return STARTED;
}

/* The place of the bitmap block of a block's chunk, which gets one if it has none. 0: not yet. */
static uint64_t want_bitmap(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block, bool allocate,
			    enum progress *ret_progress)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t index = block / g->chunk_ratio * (g->chunk_ratio + 1) + g->chunk_ratio, *entry;
	struct vhdx_page *page;

	entry = want_entry(vhdx, io, index, &page, ret_progress);
	if (!entry)
		return 0;
	if (!present(*entry) && !allocate) {
		fail(io, BLK_IO_ERROR);
		*ret_progress = FAILED;
		return 0;
	}
	if (!present(*entry)) {
		*ret_progress = allocate_zeroed(vhdx, io, page, index, VHDX_MIB);
		if (*ret_progress != STARTED)
			return 0;
	}
	return VHDX_BAT_FILE_OFFSET(*entry);
}

/* Clears the bits of a block. */
static enum progress clear_bits(struct vhdx *vhdx, struct vhdx_io *io, uint64_t block,
				uint64_t bitmap)
{
	struct vhdx_bits at = vhdx_bits_of(&vhdx->geometry, block, 0);
	unsigned pages = sectors_per_block(vhdx) / block_bits_per_page(vhdx);
	enum progress progress;
	bool set;

	/* All of them must be there at once. */
	for (unsigned i = 0; i < pages; i++)
		if (!want_bits(vhdx, io, bitmap + at.page + (uint64_t)i * VHDX_SECTOR_BYTES,
			       &progress))
			return progress;
	for (unsigned i = 0; i < pages; i++) {
		struct vhdx_page *page =
		    vhdx_page_find(vhdx, bitmap + at.page + (uint64_t)i * VHDX_SECTOR_BYTES);

		if (vhdx_bits_run(page, at.bit, block_bits_per_page(vhdx), &set) ==
			block_bits_per_page(vhdx) &&
		    !set)
			continue;
		vhdx_bits_set(page, at.bit, block_bits_per_page(vhdx), false);
		vhdx_page_dirty(page);
	}
	return STARTED;
}

/* A block of a differencing disk that was not present. */
static enum progress allocate_partial(struct vhdx *vhdx, struct vhdx_io *io, struct vhdx_page *page,
				      uint64_t block)
{
	uint64_t bitmap, place, index = vhdx_bat_index(&vhdx->geometry, block);
	enum progress progress;
	bool stale;

	bitmap = want_bitmap(vhdx, io, block, true, &progress);
	if (!bitmap)
		return progress;
	progress = clear_bits(vhdx, io, block, bitmap);
	if (progress != STARTED)
		return progress;
	if (!take_place(vhdx, io, vhdx->geometry.block_bytes, &place, &stale))
		return FAILED;
	set_entry(page, index, place | VHDX_BLOCK_PARTIALLY_PRESENT);
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

static void free_block(struct vhdx *vhdx, struct vhdx_page *page, uint64_t index,
		       enum vhdx_block_state state)
{
	uint64_t place = VHDX_BAT_FILE_OFFSET(page->word[index % VHDX_PAGE_ENTRIES]);

	/* Without memory the place is lost until the next open; nothing worse. */
	if (place)
		remember_place(&vhdx->freed, place);
	set_entry(page, index, state);
}

static void release_more(struct vhdx *vhdx);

static void release_done(struct file_request *req, int result)
{
	struct segment *segment = container_of(req, struct segment, req);
	struct vhdx *vhdx = segment->vhdx;

	space_free(&vhdx->space, req->offset, req->length, result == 0);
	vhdx->background--;
	vhdx->releases_in_flight--;
	pool_put(&vhdx->segments, segment);
	release_more(vhdx);
}

static void release_one(struct vhdx *vhdx, uint64_t offset)
{
	struct segment *segment = new_segment(vhdx, NULL, 0);

	if (!segment) {
		space_free(&vhdx->space, offset, vhdx->geometry.block_bytes, false);
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

/* Sectors of a partially present block from the cursor on that are all here, or all not. */
static enum progress run_partial_read(struct vhdx *vhdx, struct vhdx_io *io,
				      const struct piece *piece, uint64_t entry)
{
	uint32_t sector = vhdx->geometry.logical_sector_bytes;
	struct vhdx_bits at = vhdx_bits_of(&vhdx->geometry, piece->block, piece->in_block / sector);
	enum progress progress;
	uint64_t bitmap = want_bitmap(vhdx, io, piece->block, false, &progress), len;
	struct vhdx_page *page;
	bool here;

	if (!bitmap)
		return progress;
	page = want_bits(vhdx, io, bitmap + at.page, &progress);
	if (!page)
		return progress;
	len =
	    (uint64_t)vhdx_bits_run(page, at.bit, (unsigned)(piece->len / sector), &here) * sector;
	if (here)
		len = start_transfer(vhdx, io, vhdx->file, FILE_READ, piece->block,
				     VHDX_BAT_FILE_OFFSET(entry) + piece->in_block, len);
	else
		len = start_parent_read(vhdx, io, piece->block, len);
	return advance(io, len) ? STARTED : FAILED;
}

static enum progress run_read(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece,
			      uint64_t entry)
{
	uint64_t len = piece->len;

	if (VHDX_BAT_STATE(entry) == VHDX_BLOCK_PARTIALLY_PRESENT)
		return run_partial_read(vhdx, io, piece, entry);
	if (present(entry))
		len = start_transfer(vhdx, io, vhdx->file, FILE_READ, piece->block,
				     VHDX_BAT_FILE_OFFSET(entry) + piece->in_block, len);
	else if (reads_parent(vhdx, entry))
		len = start_parent_read(vhdx, io, piece->block, len);
	else
		blk_iov_zero(io->req->iov, io->req->iov_count, io->cursor, len);
	return advance(io, len) ? STARTED : FAILED;
}

/* Writes or zeroes sectors of a partially present block. */
static enum progress run_partial_change(struct vhdx *vhdx, struct vhdx_io *io,
					const struct piece *piece, uint64_t entry, enum file_op op)
{
	uint32_t sector = vhdx->geometry.logical_sector_bytes;
	struct vhdx_bits at = vhdx_bits_of(&vhdx->geometry, piece->block, piece->in_block / sector);
	uint64_t len = MIN(piece->len, (uint64_t)(VHDX_PAGE_BITS - at.bit) * sector);
	enum progress progress;
	uint64_t bitmap = want_bitmap(vhdx, io, piece->block, false, &progress);
	struct segment *segment;
	struct vhdx_page *page;

	if (!bitmap)
		return progress;
	page = want_bits(vhdx, io, bitmap + at.page, &progress);
	if (!page)
		return progress;
	segment = new_segment(vhdx, io, piece->block);
	if (!segment)
		return advance(io, 0) ? STARTED : FAILED;
	segment->req.op = op;
	segment->req.offset = VHDX_BAT_FILE_OFFSET(entry) + piece->in_block;
	if (op == FILE_WRITE)
		len = slice_sectors(segment, len, &segment->req.iov, &segment->req.iov_count);
	segment->req.length = len;
	segment->bits = page;
	segment->bit = at.bit;
	segment->bit_count = (unsigned)(len / sector);
	page->pins++;
	start_segment(segment, vhdx->file);
	return advance(io, len) ? STARTED : FAILED;
}

/* Sees to it that the block has a place. */
static enum progress allocate(struct vhdx *vhdx, struct vhdx_io *io, struct vhdx_page *page,
			      uint64_t block, uint64_t entry)
{
	if (in_file(entry))
		return STARTED;
	if (reads_parent(vhdx, entry))
		return allocate_partial(vhdx, io, page, block);
	return allocate_zeroed(vhdx, io, page, vhdx_bat_index(&vhdx->geometry, block),
			       vhdx->geometry.block_bytes);
}

/* All of the piece's data is zero. */
static bool writes_zeros(const struct vhdx_io *io, uint64_t len)
{
	return blk_iov_is_zero(io->req->iov, io->req->iov_count, io->cursor, len);
}

static enum progress run_write(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece,
			       struct vhdx_page *page, uint64_t *entry)
{
	enum progress progress;
	uint64_t len;

	/* Zeros need no place where zeros are read. */
	if (!in_file(*entry) && !reads_parent(vhdx, *entry) && writes_zeros(io, piece->len))
		return advance(io, piece->len) ? STARTED : FAILED;
	progress = allocate(vhdx, io, page, piece->block, *entry);
	if (progress != STARTED)
		return progress;
	if (!present(*entry))
		return run_partial_change(vhdx, io, piece, *entry, FILE_WRITE);
	len = start_transfer(vhdx, io, vhdx->file, FILE_WRITE, piece->block,
			     VHDX_BAT_FILE_OFFSET(*entry) + piece->in_block, piece->len);
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
static enum progress run_zero(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece,
			      struct vhdx_page *page, uint64_t *entry)
{
	bool unmap = io->req->op == BLK_UNMAP;
	bool give_back = !vhdx->geometry.fixed && (unmap || (io->req->flags & BLK_MAY_UNMAP));
	enum file_op op = give_back ? FILE_PUNCH : FILE_ZERO;
	bool whole = whole_block(vhdx, piece) && !*busy_slot(vhdx, piece->block);
	enum progress progress;

	if (!in_file(*entry) && !reads_parent(vhdx, *entry))
		return advance(io, piece->len) ? STARTED : FAILED;
	if (whole && (give_back || reads_parent(vhdx, *entry))) {
		free_block(vhdx, page, vhdx_bat_index(&vhdx->geometry, piece->block),
			   unmap ? VHDX_BLOCK_UNMAPPED : VHDX_BLOCK_ZERO);
		return advance(io, piece->len) ? STARTED : FAILED;
	}
	progress = allocate(vhdx, io, page, piece->block, *entry);
	if (progress != STARTED)
		return progress;
	if (!present(*entry))
		return run_partial_change(vhdx, io, piece, *entry, op);
	return advance(io,
		       start_zeroing(vhdx, io, op, piece->block,
				     VHDX_BAT_FILE_OFFSET(*entry) + piece->in_block, piece->len))
		   ? STARTED
		   : FAILED;
}

static enum progress run_piece(struct vhdx *vhdx, struct vhdx_io *io, const struct piece *piece)
{
	uint64_t index = vhdx_bat_index(&vhdx->geometry, piece->block), *entry;
	enum progress progress;
	struct vhdx_page *page;

	entry = want_entry(vhdx, io, index, &page, &progress);
	if (!entry)
		return progress;
	switch (io->req->op) {
	case BLK_READ:
		return run_read(vhdx, io, piece, *entry);
	case BLK_WRITE:
		return run_write(vhdx, io, piece, page, entry);
	default:
		return run_zero(vhdx, io, piece, page, entry);
	}
}

/* Not while a page is at hand: a flush that fails at once calls back. */
static void flush_if_due(struct vhdx *vhdx)
{
	if (vhdx->meta.running || vhdx->write_state != VHDX_WRITABLE)
		return;
	if (vhdx->freed.count >= MAX_FREED_PLACES ||
	    vhdx->cache.dirty_count[VHDX_PAGE_BAT] + vhdx->cache.dirty_count[VHDX_PAGE_BITMAP] >=
		MAX_DIRTY_PAGES)
		vhdx_flush(vhdx, NULL);
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
	flush_if_due(vhdx);
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

	vhdx_cache_trim(vhdx);
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
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);

	if (vhdx->file->in_flight > 0)
		file_wait(vhdx->file);
	else
		vhdx->parent->ops->wait(vhdx->parent);
}

static void vhdx_plug(struct blk *blk)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);

	file_plug(vhdx->file);
	if (vhdx->parent)
		blk_plug(vhdx->parent);
}

static void vhdx_unplug(struct blk *blk)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);

	if (vhdx->parent)
		blk_unplug(vhdx->parent);
	file_unplug(vhdx->file);
}

const struct blk_ops vhdx_blk_ops = {
	.name = "vhdx",
	.submit = vhdx_submit,
	.defer = vhdx_defer,
	.wait = vhdx_wait,
	.plug = vhdx_plug,
	.unplug = vhdx_unplug,
	.extent = vhdx_extent,
	.close = vhdx_close,
};
