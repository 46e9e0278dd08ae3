/*
 * Requests on a VHD, and how its metadata gets onto the disk. There is no log; the order makes
 * every state on disk valid:
 *
 * - A block is allocated when something is first written to it: it gets a place, whose bytes are
 * zero (beyond what the file ever had, or zeroed first while the writers wait), and its table entry
 *   changes in memory. So a bitmap that is not written yet says "no sector is here", the state
 *   before.
 * - A sector's bit is set in memory after its data was written.
 * - A flush round copies the dirty bitmaps and sectors of the table, syncs (now the data is durable
 *   that the copies name, and zeroed places are zero), writes the copies to their places in any
 *   order, and syncs. A table entry that reached the disk without its bitmap, or the other way
 *   round, shows the state before. So does an entry that didn't.
 * - A freed place is neither zeroed nor handed out before the table that no longer names it is
 *   durable (freed, then freeing). Only dynamic disks free; only while nothing on the block is in
 *   flight.
 * - The file grows (grow) before a block may lie where its footer is.
 *
 * All bits of a new block of a dynamic disk are set at once, as Windows does it. Before the table
 * names the block nobody asks for its bitmap, so that one is on its way at once, beside the data: a
 * flush that begins when it has arrived need not write it.
 */
#include "disk/vhd-impl.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <assert.h>
#include <errno.h>

/* Growing waits for a sync, and a hole at the end costs nothing. */
#define GROW_STEP_BYTES  (UINT64_C(1) << 30)
#define MAX_FREED_PLACES 256u /* then they are given back without waiting for a flush */
#define MAX_BITMAPS      32768u
#define FLUSH_WRITES     512u
#define FLUSH_BYTES      (2u << 20)
/* The host's file systems take what covers their blocks at once, and single sectors one by one. */
#define HOST_BLOCK_BYTES 4096u

uint8_t vhd_full[1];

/* Something that requests on a block wait for: its bitmap is read, or its place zeroed. */
struct vhd_job {
	struct file_request req;
	struct iovec iov;
	struct vhd *vhd;
	uint32_t block;
	uint64_t place;  /* being zeroed; 0: the bitmap is being read */
	uint8_t *bitmap; /* read into */
	struct image_io_list waiters;
	struct vhd_job *next;
};

/* A new block's bitmap on its way. */
struct vhd_first_bitmap {
	struct file_request req;
	struct iovec iov;
	struct vhd *vhd;
	uint32_t block;
	struct vhd_first_bitmap *next;
};

static struct vhd *vhd_of(struct image *image)
{
	return container_of(image, struct vhd, image);
}

static void start_flush(struct vhd *vhd, struct image_io *io);

/* ---- what is dirty ---- */

static void mark(struct vhd_dirty *dirty, uint32_t number)
{
	uint64_t *word = &dirty->map[number / 64];

	if (*word & BIT(number % 64))
		return;
	*word |= BIT(number % 64);
	dirty->item[dirty->count++] = number;
}

static bool is_dirty(const struct vhd_dirty *dirty, uint32_t number)
{
	return dirty->map[number / 64] & BIT(number % 64);
}

static uint32_t take_dirty(struct vhd_dirty *dirty)
{
	uint32_t number = dirty->item[--dirty->count];

	dirty->map[number / 64] &= ~BIT(number % 64);
	return number;
}

static void set_entry(struct vhd *vhd, uint32_t block, uint32_t entry)
{
	vhd->bat[block] = entry;
	vhd->layout_changed = true;
	mark(&vhd->dirty_sectors, block / (VHD_SECTOR_BYTES / VHD_BAT_ENTRY_BYTES));
}

/* ---- bitmaps ---- */

static void forget_bitmap(struct vhd *vhd, uint32_t block)
{
	uint8_t *bitmap = vhd->bitmap[block];

	vhd->bitmap[block] = NULL;
	if (!bitmap || bitmap == vhd_full)
		return;
	vhd->bitmaps_held--;
	free(bitmap);
}

/* Drops one that can be read again. */
static void make_room_for_bitmap(struct vhd *vhd)
{
	for (uint32_t tries = 0; tries < vhd->geometry.block_count; tries++) {
		uint32_t block = vhd->hand;

		vhd->hand = (vhd->hand + 1) % vhd->geometry.block_count;
		if (vhd->bitmap[block] && vhd->bitmap[block] != vhd_full && !vhd->users[block] &&
		    !is_dirty(&vhd->dirty_blocks, block)) {
			forget_bitmap(vhd, block);
			return;
		}
	}
}

/* Takes the bytes. */
static void keep_bitmap(struct vhd *vhd, uint32_t block, uint8_t *bytes)
{
	if (vhd->bitmap[block]) { /* somebody else was faster */
		free(bytes);
		return;
	}
	if (vhd_bits_all(bytes, vhd_sectors_per_block(vhd), true)) {
		vhd->bitmap[block] = vhd_full;
		free(bytes);
		return;
	}
	if (vhd->bitmaps_held >= MAX_BITMAPS)
		make_room_for_bitmap(vhd);
	vhd->bitmap[block] = bytes;
	vhd->bitmaps_held++;
}

static void set_bits(struct vhd *vhd, uint32_t block, uint32_t sector, uint32_t count)
{
	uint8_t *bitmap = vhd->bitmap[block];

	if (bitmap == vhd_full)
		return;
	vhd_bits_set(bitmap, sector, count);
	if (vhd_bits_all(bitmap, vhd_sectors_per_block(vhd), true)) {
		forget_bitmap(vhd, block);
		vhd->bitmap[block] = vhd_full;
	}
	mark(&vhd->dirty_blocks, block);
}

int vhd_bitmap_now(struct vhd *vhd, uint32_t block, const uint8_t **ret, struct error *err)
{
	uint8_t *bytes;
	int rc;

	if (!vhd->bitmap[block]) {
		bytes = malloc(vhd->geometry.bitmap_bytes);
		if (!bytes)
			return error_set(err, ERR_NO_MEMORY, "no memory for a VHD sector bitmap");
		rc = file_read_now(vhd->image.file, vhd_place_of(vhd, block), bytes,
				   vhd->geometry.bitmap_bytes);
		if (rc < 0) {
			free(bytes);
			return error_set_errno(err, -rc, "reading the VHD sector bitmap at %#lx",
					       vhd_place_of(vhd, block));
		}
		keep_bitmap(vhd, block, bytes);
	}
	*ret = vhd->bitmap[block];
	return 0;
}

/* ---- waiting for a block ---- */

static struct vhd_job *find_job(struct vhd *vhd, uint32_t block)
{
	struct vhd_job *job = vhd->jobs;

	while (job && job->block != block)
		job = job->next;
	return job;
}

static void resume(struct vhd *vhd, struct image_io_list *waiters, int result)
{
	struct image_io_list list = *waiters;
	struct image_io *io;

	if (!list.first)
		list.tail = &list.first;
	image_list_init(waiters);
	while ((io = image_list_take(&list))) {
		if (result < 0)
			image_fail_waiting(&vhd->image, io, image_result_of(result));
		else
			image_run(&vhd->image, io);
	}
}

static void new_block(struct vhd *vhd, uint32_t block, uint64_t place);

static void job_done(struct file_request *req, int result)
{
	struct vhd_job *job = container_of(req, struct vhd_job, req), **link;
	struct vhd *vhd = job->vhd;

	for (link = &vhd->jobs; *link != job; link = &(*link)->next)
		;
	*link = job->next;
	vhd->background--;
	if (job->place && result == 0)
		new_block(vhd, job->block, job->place);
	else if (job->place)
		vhd_places_add(&vhd->free, (struct vhd_place){ job->place, true });
	else if (result == 0)
		keep_bitmap(vhd, job->block, TAKE(job->bitmap));
	resume(vhd, &job->waiters, result);
	free(job->bitmap);
	free(job);
}

static struct vhd_job *new_job(struct vhd *vhd, struct image_io *io, uint32_t block)
{
	struct vhd_job *job = calloc(1, sizeof(*job));

	if (!job)
		return NULL;
	job->vhd = vhd;
	job->block = block;
	job->req.done = job_done;
	image_list_init(&job->waiters);
	image_list_add(&job->waiters, io);
	return job;
}

static enum image_progress start_job(struct vhd_job *job)
{
	struct vhd *vhd = job->vhd;

	job->next = vhd->jobs;
	vhd->jobs = job;
	vhd->background++;
	file_submit(vhd->image.file, &job->req);
	return IMAGE_PARKED;
}

static enum image_progress load_bitmap(struct vhd *vhd, struct image_io *io, uint32_t block)
{
	struct vhd_job *job = find_job(vhd, block);
	uint32_t bytes = vhd->geometry.bitmap_bytes;

	if (job) {
		image_list_add(&job->waiters, io);
		return IMAGE_PARKED;
	}
	job = new_job(vhd, io, block);
	if (job)
		job->bitmap = malloc(bytes);
	if (!job || !job->bitmap) {
		free(job);
		return image_fail(io, BLK_IO_ERROR);
	}
	job->iov = (struct iovec){ job->bitmap, bytes };
	job->req.op = FILE_READ;
	job->req.offset = vhd_place_of(vhd, block);
	job->req.length = bytes;
	job->req.iov = &job->iov;
	job->req.iov_count = 1;
	return start_job(job);
}

/* ---- growing ---- */

static void growth_done(struct vhd *vhd, int result)
{
	struct vhd_growth *growth = &vhd->growth;

	growth->running = false;
	vhd->background--;
	if (result == 0) {
		vhd->room_end = growth->file_bytes - sizeof(growth->footer);
		vhd->layout_changed = true;
	}
	resume(vhd, &growth->waiters, result);
}

static void growth_step_done(struct file_request *req, int result)
{
	struct vhd_growth *growth = container_of(req, struct vhd_growth, req);
	struct vhd *vhd = container_of(growth, struct vhd, growth);

	if (result < 0 || req->op == FILE_ZERO) {
		growth_done(vhd, result);
		return;
	}
	if (req->op == FILE_WRITE) {
		req->op = FILE_SYNC;
	} else {
		/* New blocks have to find zeros there. */
		req->op = FILE_ZERO;
		req->offset = growth->old_footer;
	}
	file_submit(vhd->image.file, req);
}

/* Where the blocks end when all of them are there, if no place was ever lost. */
static uint64_t full_end(const struct vhd *vhd)
{
	const struct vhd_geometry *g = &vhd->geometry;

	return vhd->structures_end +
	       g->block_count * ALIGN_UP(vhd_slot_bytes(g), (uint64_t)HOST_BLOCK_BYTES);
}

static int enlarge_file(struct vhd *vhd, uint64_t end)
{
	struct file *file = vhd->image.file;
	uint64_t wanted = MAX(MIN(end + GROW_STEP_BYTES, full_end(vhd)), end);
	uint64_t ahead = MAX(vhd_file_bytes(wanted), file->size_bytes);
	uint64_t exact = MAX(vhd_file_bytes(end), file->size_bytes);
	int rc = file_set_size(file, ahead);

	return rc < 0 && exact < ahead ? file_set_size(file, exact) : rc;
}

/* Requests that need room up to end wait for it. */
static enum image_progress grow(struct vhd *vhd, struct image_io *io, uint64_t end)
{
	struct vhd_growth *growth = &vhd->growth;
	int rc;

	if (growth->running) {
		image_list_add(&growth->waiters, io);
		return IMAGE_PARKED;
	}
	growth->old_footer = vhd->room_end;
	rc = enlarge_file(vhd, end);
	if (rc < 0)
		return image_fail(io, image_result_of(rc));
	growth->running = true;
	growth->file_bytes = vhd->image.file->size_bytes;
	growth->footer = vhd->footer;
	growth->iov = (struct iovec){ &growth->footer, sizeof(growth->footer) };
	growth->req = (struct file_request){ .op = FILE_WRITE,
					     .offset = growth->file_bytes - sizeof(growth->footer),
					     .length = sizeof(growth->footer),
					     .iov = &growth->iov,
					     .iov_count = 1,
					     .done = growth_step_done };
	image_list_add(&growth->waiters, io);
	vhd->background++;
	file_submit(vhd->image.file, &growth->req);
	return IMAGE_PARKED;
}

/* ---- the bitmap of a new block ---- */

/* What lies before the bitmap in its block of the host, where that is a gap that we have left
 * (vhd_block_place): it is written, too, as zeros. */
static size_t gap_before(const struct vhd *vhd, uint64_t place)
{
	uint64_t start = ALIGN_DOWN(place, (uint64_t)HOST_BLOCK_BYTES);

	return start >= vhd->opened_end ? place - start : 0;
}

static void first_bitmap_done(struct file_request *req, int result)
{
	struct vhd_first_bitmap *first = container_of(req, struct vhd_first_bitmap, req), **link;
	struct vhd *vhd = first->vhd;

	for (link = &vhd->first_bitmaps; *link != first; link = &(*link)->next)
		;
	*link = first->next;
	vhd->background--;
	vhd->users[first->block]--;
	if (result < 0)
		mark(&vhd->dirty_blocks, first->block); /* the flush may have more luck */
	free(first);
}

/* Of the host's blocks that end with a bitmap what lies before it. */
static size_t usual_gap(const struct vhd *vhd)
{
	return ALIGN_UP((size_t)vhd->geometry.bitmap_bytes, (size_t)HOST_BLOCK_BYTES) -
	       vhd->geometry.bitmap_bytes;
}

/* Zeros for the usual gap, then the bits: aligned as the host wants it, if it is to take the write
 * beside others. */
static uint8_t *full_bitmap_bytes(struct vhd *vhd)
{
	size_t gap = usual_gap(vhd), bytes = vhd->geometry.bitmap_bytes;

	if (vhd->full_bitmap)
		return vhd->full_bitmap;
	vhd->full_bitmap = aligned_alloc(HOST_BLOCK_BYTES, gap + bytes);
	if (vhd->full_bitmap) {
		memset(vhd->full_bitmap, 0, gap);
		memset(vhd->full_bitmap + gap, 0xff, bytes);
	}
	return vhd->full_bitmap;
}

/* False without memory. */
static bool start_first_bitmap(struct vhd *vhd, uint32_t block, uint64_t place)
{
	struct vhd_first_bitmap *first = calloc(1, sizeof(*first));
	uint8_t *bytes = full_bitmap_bytes(vhd);
	size_t usual = usual_gap(vhd), gap = gap_before(vhd, place) == usual ? usual : 0;
	size_t len = gap + vhd->geometry.bitmap_bytes;

	if (!first || !bytes) {
		free(first);
		return false;
	}
	first->vhd = vhd;
	first->block = block;
	first->iov = (struct iovec){ bytes + usual - gap, len };
	first->req = (struct file_request){ .op = FILE_WRITE,
					    .offset = place - gap,
					    .length = len,
					    .iov = &first->iov,
					    .iov_count = 1,
					    .done = first_bitmap_done };
	first->next = vhd->first_bitmaps;
	vhd->first_bitmaps = first;
	vhd->background++;
	vhd->users[block]++; /* so that it is not freed meanwhile */
	file_submit(vhd->image.file, &first->req);
	return true;
}

/* ---- allocating and freeing ---- */

static void new_block(struct vhd *vhd, uint32_t block, uint64_t place)
{
	assert(vhd->bat[block] == VHD_BAT_UNUSED);
	set_entry(vhd, block, (uint32_t)(place / VHD_SECTOR_BYTES));
	if (vhd->geometry.type == VHD_DYNAMIC) {
		vhd->bitmap[block] = vhd_full;
		if (!start_first_bitmap(vhd, block, place))
			mark(&vhd->dirty_blocks, block);
	} else {
		uint8_t *none = calloc(1, vhd->geometry.bitmap_bytes);

		/* Without memory it is read when it is needed. */
		if (none)
			keep_bitmap(vhd, block, none);
	}
}

static enum image_progress zero_place(struct vhd *vhd, struct image_io *io, uint32_t block,
				      uint64_t place)
{
	struct vhd_job *job = new_job(vhd, io, block);

	if (!job) {
		vhd_places_add(&vhd->free, (struct vhd_place){ place, true });
		return image_fail(io, BLK_IO_ERROR);
	}
	job->place = place;
	job->req.op = FILE_PUNCH;
	job->req.offset = place;
	job->req.length = vhd_slot_bytes(&vhd->geometry);
	return start_job(job);
}

/* A place at the end of the file. */
static enum image_progress extend(struct vhd *vhd, struct image_io *io, struct vhd_place *ret)
{
	uint64_t place = vhd_block_place(&vhd->geometry, vhd->end);
	uint64_t end = place + vhd_slot_bytes(&vhd->geometry);

	if (place / VHD_SECTOR_BYTES >= VHD_BAT_UNUSED)
		return image_fail(io, BLK_NO_SPACE);
	if (end > vhd->room_end)
		return grow(vhd, io, end);
	vhd->end = end;
	*ret = (struct vhd_place){ place, place < vhd->stale_end };
	return IMAGE_STARTED;
}

static enum image_progress allocate(struct vhd *vhd, struct image_io *io, uint32_t block)
{
	struct vhd_job *job = find_job(vhd, block);
	struct vhd_place place = { 0 };

	if (job) {
		image_list_add(&job->waiters, io);
		return IMAGE_PARKED;
	}
	if (vhd->free.count > 0) {
		place = vhd->free.place[--vhd->free.count];
	} else {
		enum image_progress progress = extend(vhd, io, &place);

		if (progress != IMAGE_STARTED)
			return progress;
	}
	if (place.stale)
		return zero_place(vhd, io, block, place.offset);
	new_block(vhd, block, place.offset);
	return IMAGE_STARTED;
}

static void free_block(struct vhd *vhd, uint32_t block)
{
	/* Without memory the place is lost until the next open; nothing worse. */
	if (!vhd->short_block || block + 1 < vhd->geometry.block_count)
		vhd_places_add(&vhd->freed, (struct vhd_place){ vhd_place_of(vhd, block), true });
	forget_bitmap(vhd, block);
	set_entry(vhd, block, VHD_BAT_UNUSED);
	if (vhd->freed.count >= MAX_FREED_PLACES)
		start_flush(vhd, NULL);
}

struct release {
	struct file_request req;
	struct vhd *vhd;
};

static void release_done(struct file_request *req, int result)
{
	struct release *release = container_of(req, struct release, req);
	struct vhd *vhd = release->vhd;

	vhd_places_add(&vhd->free, (struct vhd_place){ req->offset, result < 0 });
	vhd->background--;
	free(release);
}

/* Gives a place back to the host, then to the allocator. */
static void release_place(struct vhd *vhd, uint64_t place)
{
	struct release *release = calloc(1, sizeof(*release));

	if (!release) {
		vhd_places_add(&vhd->free, (struct vhd_place){ place, true });
		return;
	}
	release->vhd = vhd;
	release->req = (struct file_request){ .op = FILE_DISCARD,
					      .offset = place,
					      .length = vhd_slot_bytes(&vhd->geometry),
					      .done = release_done };
	vhd->background++;
	file_submit(vhd->image.file, &release->req);
}

/* ---- one piece of a request: within one block ---- */

struct piece {
	uint32_t block;
	uint32_t in_block; /* offset */
	uint64_t len;
};

static struct piece piece_at(const struct vhd *vhd, const struct image_io *io)
{
	uint64_t offset = io->req->offset + io->cursor;
	uint32_t block_bytes = vhd->geometry.block_bytes;
	struct piece piece = { .block = (uint32_t)(offset >> vhd->geometry.block_shift),
			       .in_block = (uint32_t)(offset & (block_bytes - 1)) };

	piece.len = MIN((uint64_t)block_bytes - piece.in_block, image_left(io));
	return piece;
}

static enum image_progress start(struct vhd *vhd, struct image_io *io, enum file_op op,
				 const struct piece *piece, uint64_t len)
{
	uint64_t offset =
	    vhd_place_of(vhd, piece->block) + vhd->geometry.bitmap_bytes + piece->in_block;
	enum image_progress progress;

	vhd->users[piece->block]++;
	progress =
	    image_start_file(&vhd->image, io, op, offset, len, piece->block, piece->in_block);
	if (progress == IMAGE_FAILED)
		vhd->users[piece->block]--;
	return progress;
}

static enum image_progress run_read(struct vhd *vhd, struct image_io *io, const struct piece *piece)
{
	uint32_t sector = piece->in_block / VHD_SECTOR_BYTES;
	const uint8_t *bitmap = vhd->bitmap[piece->block];
	uint64_t run = piece->len;

	if (vhd->bat[piece->block] == VHD_BAT_UNUSED)
		return image_start_parent(&vhd->image, io, piece->len);
	if (!bitmap)
		return load_bitmap(vhd, io, piece->block);
	if (bitmap != vhd_full)
		run = (uint64_t)vhd_bits_run(bitmap, sector,
					     (uint32_t)(piece->len / VHD_SECTOR_BYTES)) *
		      VHD_SECTOR_BYTES;
	if (bitmap != vhd_full && !vhd_bit(bitmap, sector))
		return image_start_parent(&vhd->image, io, run);
	return start(vhd, io, FILE_READ, piece, run);
}

/* Data or zeros into the block; bits are set when they are there. */
static enum image_progress run_change(struct vhd *vhd, struct image_io *io, enum file_op op,
				      const struct piece *piece)
{
	enum image_progress progress = IMAGE_STARTED;

	if (vhd->bat[piece->block] == VHD_BAT_UNUSED)
		progress = allocate(vhd, io, piece->block);
	if (progress != IMAGE_STARTED)
		return progress;
	if (!vhd->bitmap[piece->block])
		return load_bitmap(vhd, io, piece->block);
	return start(vhd, io, op, piece, piece->len);
}

static bool whole_block(const struct vhd *vhd, const struct piece *piece)
{
	uint64_t bytes =
	    vhd_block_file_bytes(&vhd->geometry, piece->block) - vhd->geometry.bitmap_bytes;

	return piece->in_block == 0 && piece->len == bytes;
}

/* BLK_UNMAP and BLK_WRITE_ZEROES. */
static enum image_progress run_zero(struct vhd *vhd, struct image_io *io, const struct piece *piece)
{
	bool give_back = io->req->op == BLK_UNMAP || (io->req->flags & BLK_MAY_UNMAP);
	bool dynamic = vhd->geometry.type == VHD_DYNAMIC;

	if (io->req->op == BLK_UNMAP && !dynamic)
		return image_skip(io, piece->len);
	if (dynamic && vhd->bat[piece->block] == VHD_BAT_UNUSED)
		return image_skip(io, piece->len);
	if (dynamic && give_back && whole_block(vhd, piece) && !vhd->users[piece->block] &&
	    !find_job(vhd, piece->block)) {
		free_block(vhd, piece->block);
		return image_skip(io, piece->len);
	}
	return run_change(vhd, io, give_back ? FILE_PUNCH : FILE_ZERO, piece);
}

static enum image_progress run_fixed(struct vhd *vhd, struct image_io *io)
{
	uint64_t offset = io->req->offset + io->cursor, len = image_left(io);

	switch (io->req->op) {
	case BLK_READ:
		return image_start_file(&vhd->image, io, FILE_READ, offset, len, 0, 0);
	case BLK_WRITE:
		return image_start_file(&vhd->image, io, FILE_WRITE, offset, len, 0, 0);
	case BLK_WRITE_ZEROES:
		return image_start_file(&vhd->image, io, FILE_ZERO, offset, len, 0, 0);
	default: /* an unmap is only a hint, and this one is not taken */
		return image_skip(io, len);
	}
}

static enum image_progress vhd_run_piece(struct image *image, struct image_io *io)
{
	struct vhd *vhd = vhd_of(image);
	struct piece piece;

	if (io->req->op != BLK_READ && vhd->failed)
		return image_fail(io, BLK_IO_ERROR);
	if (vhd->geometry.type == VHD_FIXED)
		return run_fixed(vhd, io);
	piece = piece_at(vhd, io);
	if (io->req->op == BLK_READ)
		return run_read(vhd, io, &piece);
	if (io->req->op == BLK_WRITE)
		return run_change(vhd, io, FILE_WRITE, &piece);
	return run_zero(vhd, io, &piece);
}

static void vhd_piece_done(struct image *image, const struct image_segment *segment, int result)
{
	struct vhd *vhd = vhd_of(image);

	if (vhd->geometry.type == VHD_FIXED)
		return;
	vhd->users[segment->block]--;
	if (result == 0 && segment->io->req->op != BLK_READ)
		set_bits(vhd, (uint32_t)segment->block,
			 (uint32_t)(segment->in_block / VHD_SECTOR_BYTES),
			 (uint32_t)(segment->req.length / VHD_SECTOR_BYTES));
}

/* ---- flush ---- */

static void round_begin(struct vhd *vhd);

static void finish_list(struct vhd *vhd, struct image_io_list *list, enum blk_result result)
{
	struct image_io *io;

	while ((io = image_list_take(list)))
		image_finish(&vhd->image, io, result);
}

static void round_failed(struct vhd *vhd)
{
	vhd->failed = true;
	vhd->flush.running = false;
	finish_list(vhd, &vhd->flush.current, BLK_IO_ERROR);
	finish_list(vhd, &vhd->flush.waiting, BLK_IO_ERROR);
}

static void take_waiting(struct vhd_flush *flush)
{
	struct image_io *io;

	while ((io = image_list_take(&flush->waiting)))
		image_list_add(&flush->current, io);
}

static void round_durable(struct vhd *vhd)
{
	struct vhd_flush *flush = &vhd->flush;

	while (!flush->again && vhd->freeing.count > 0)
		release_place(vhd, vhd->freeing.place[--vhd->freeing.count].offset);
	if (!flush->again) {
		finish_list(vhd, &flush->current, BLK_OK);
		if (!flush->waiting.first && !flush->background_wanted) {
			flush->running = false;
			return;
		}
		take_waiting(flush);
	}
	round_begin(vhd);
}

static void start_sync(struct vhd *vhd, void (*done)(struct file_request *req, int result))
{
	vhd->flush.sync = (struct file_request){ .op = FILE_SYNC, .done = done };
	file_submit(vhd->image.file, &vhd->flush.sync);
}

static void second_sync_done(struct file_request *req, int result)
{
	struct vhd *vhd = container_of(req, struct vhd, flush.sync);

	if (result < 0)
		round_failed(vhd);
	else
		round_durable(vhd);
}

static void write_done(struct file_request *req, int result)
{
	struct vhd *vhd = container_of(req, struct vhd_write, req)->vhd;

	if (result < 0)
		vhd->flush.result = result;
	if (--vhd->flush.writes_pending > 0)
		return;
	if (vhd->flush.result < 0)
		round_failed(vhd);
	else
		start_sync(vhd, second_sync_done);
}

static void first_sync_done(struct file_request *req, int result)
{
	struct vhd *vhd = container_of(req, struct vhd, flush.sync);
	struct vhd_flush *flush = &vhd->flush;

	if (result < 0) {
		round_failed(vhd);
		return;
	}
	if (flush->write_count == 0) {
		round_durable(vhd);
		return;
	}
	flush->result = 0;
	flush->writes_pending = flush->write_count;
	file_plug(vhd->image.file);
	for (unsigned i = 0; i < flush->write_count; i++)
		file_submit(vhd->image.file, &flush->writes[i].req);
	file_unplug(vhd->image.file);
}

/* Room for a copy of len bytes that go to offset. */
static uint8_t *add_write(struct vhd *vhd, uint64_t offset, size_t len)
{
	struct vhd_flush *flush = &vhd->flush;
	struct vhd_write *write = &flush->writes[flush->write_count++];
	uint8_t *bytes = flush->bytes + flush->bytes_used;

	flush->bytes_used += len;
	write->vhd = vhd;
	write->iov = (struct iovec){ bytes, len };
	write->req = (struct file_request){ .op = FILE_WRITE,
					    .offset = offset,
					    .length = len,
					    .iov = &write->iov,
					    .iov_count = 1,
					    .done = write_done };
	return bytes;
}

static bool fits(const struct vhd_flush *flush, size_t len)
{
	return flush->write_count < FLUSH_WRITES && flush->bytes_used + len <= FLUSH_BYTES;
}

static void copy_bitmap(struct vhd *vhd, uint32_t block)
{
	uint64_t place = vhd_place_of(vhd, block);
	size_t bytes = vhd->geometry.bitmap_bytes, gap = gap_before(vhd, place);
	uint8_t *to = add_write(vhd, place - gap, gap + bytes);

	memset(to, 0, gap);
	if (vhd->bitmap[block] == vhd_full)
		memset(to + gap, 0xff, bytes);
	else
		memcpy(to + gap, vhd->bitmap[block], bytes);
}

static void copy_bitmaps(struct vhd *vhd)
{
	size_t most = vhd->geometry.bitmap_bytes + HOST_BLOCK_BYTES;

	while (vhd->dirty_blocks.count > 0 && fits(&vhd->flush, most)) {
		uint32_t block = take_dirty(&vhd->dirty_blocks);

		/* Else it was freed again since. */
		if (vhd->bat[block] != VHD_BAT_UNUSED)
			copy_bitmap(vhd, block);
	}
}

static void copy_table(struct vhd *vhd)
{
	const struct vhd_geometry *g = &vhd->geometry;

	while (vhd->dirty_sectors.count > 0 && fits(&vhd->flush, VHD_SECTOR_BYTES)) {
		uint32_t sector = take_dirty(&vhd->dirty_sectors);
		uint32_t first = sector * (VHD_SECTOR_BYTES / VHD_BAT_ENTRY_BYTES);
		uint32_t count = MIN(vhd->bat_entries - first,
				     (uint32_t)(VHD_SECTOR_BYTES / VHD_BAT_ENTRY_BYTES));
		uint8_t *to = add_write(vhd, g->table_offset + (uint64_t)sector * VHD_SECTOR_BYTES,
					(size_t)count * VHD_BAT_ENTRY_BYTES);

		for (uint32_t i = 0; i < count; i++)
			store_be32(to + i * VHD_BAT_ENTRY_BYTES, vhd->bat[first + i]);
	}
}

static bool prepare_buffers(struct vhd_flush *flush)
{
	if (!flush->writes)
		flush->writes = calloc(FLUSH_WRITES, sizeof(*flush->writes));
	if (!flush->bytes)
		flush->bytes = aligned_alloc(HOST_BLOCK_BYTES, FLUSH_BYTES);
	return flush->writes && flush->bytes;
}

static void round_begin(struct vhd *vhd)
{
	struct vhd_flush *flush = &vhd->flush;
	bool dirty;

	/* The first sync does not cover what is on its way still. */
	for (struct vhd_first_bitmap *first = vhd->first_bitmaps; first; first = first->next)
		mark(&vhd->dirty_blocks, first->block);
	dirty = vhd->dirty_blocks.count || vhd->dirty_sectors.count;
	flush->running = true;
	flush->background_wanted = false;
	flush->write_count = 0;
	flush->bytes_used = 0;
	if (dirty && !prepare_buffers(flush)) {
		round_failed(vhd);
		return;
	}
	copy_bitmaps(vhd);
	copy_table(vhd);
	flush->again = vhd->dirty_blocks.count || vhd->dirty_sectors.count;
	if (!flush->again) {
		struct vhd_places empty = vhd->freeing;

		/* All entries that no longer name these places are in the copies. */
		vhd->freeing = vhd->freed;
		vhd->freed = empty;
	}
	start_sync(vhd, first_sync_done);
}

/* io NULL: in the background. */
static void start_flush(struct vhd *vhd, struct image_io *io)
{
	struct vhd_flush *flush = &vhd->flush;

	if (io)
		image_list_add(&flush->waiting, io);
	else
		flush->background_wanted = true;
	if (flush->running)
		return;
	take_waiting(flush);
	round_begin(vhd);
}

static void vhd_flush_io(struct image *image, struct image_io *io)
{
	struct vhd *vhd = vhd_of(image);

	if (image->blk.info.read_only || vhd->failed)
		image_finish(image, io, vhd->failed ? BLK_IO_ERROR : BLK_OK);
	else
		start_flush(vhd, io);
}

/* ---- extents ---- */

static uint64_t unused_run(const struct vhd *vhd, uint32_t block, uint64_t max_bytes)
{
	uint64_t run = 0;

	for (; block < vhd->geometry.block_count && vhd->bat[block] == VHD_BAT_UNUSED &&
	       run < max_bytes;
	     block++)
		run += vhd->geometry.block_bytes;
	return run;
}

/* Data, or a hole that the host knows. */
static int file_run(struct vhd *vhd, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		    struct error *err)
{
	bool data;
	uint64_t end;
	int rc = file_extent(vhd->image.file, offset, &data, &end);

	if (rc < 0)
		return error_set_errno(err, -rc, "looking for holes in the VHD file at %#lx",
				       offset);
	*ret = (struct blk_extent){ BLK_EXTENT_DATA, max_bytes };
	end = data ? ALIGN_UP(end, VHD_SECTOR_BYTES) : ALIGN_DOWN(end, VHD_SECTOR_BYTES);
	if (end <= offset)
		return 0;
	ret->kind = data ? BLK_EXTENT_DATA : BLK_EXTENT_ZERO;
	ret->length_bytes = MIN(end - offset, max_bytes);
	return 0;
}

static int block_extent(struct vhd *vhd, uint32_t block, uint32_t in_block, uint64_t max_bytes,
			struct blk_extent *ret, struct error *err)
{
	uint32_t sector = in_block / VHD_SECTOR_BYTES;
	const uint8_t *bitmap;
	int rc = vhd_bitmap_now(vhd, block, &bitmap, err);

	if (rc < 0)
		return rc;
	max_bytes = MIN(max_bytes, (uint64_t)vhd->geometry.block_bytes - in_block);
	if (bitmap != vhd_full)
		max_bytes = (uint64_t)vhd_bits_run(bitmap, sector,
						   (uint32_t)(max_bytes / VHD_SECTOR_BYTES)) *
			    VHD_SECTOR_BYTES;
	if (bitmap == vhd_full || vhd_bit(bitmap, sector))
		return file_run(vhd,
				vhd_place_of(vhd, block) + vhd->geometry.bitmap_bytes + in_block,
				max_bytes, ret, err);
	ret->kind = vhd->geometry.type == VHD_DYNAMIC ? BLK_EXTENT_ZERO : BLK_EXTENT_PARENT;
	ret->length_bytes = max_bytes;
	return 0;
}

static int vhd_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		      struct error *err)
{
	struct vhd *vhd = container_of(blk, struct vhd, image.blk);
	uint32_t block, in_block;

	if (vhd->geometry.type == VHD_FIXED)
		return file_run(vhd, offset, max_bytes, ret, err);
	block = (uint32_t)(offset >> vhd->geometry.block_shift);
	in_block = (uint32_t)(offset & (vhd->geometry.block_bytes - 1));
	if (vhd->bat[block] != VHD_BAT_UNUSED)
		return block_extent(vhd, block, in_block, max_bytes, ret, err);
	ret->kind = vhd->geometry.type == VHD_DYNAMIC ? BLK_EXTENT_ZERO : BLK_EXTENT_PARENT;
	ret->length_bytes = MIN(unused_run(vhd, block, max_bytes + in_block) - in_block, max_bytes);
	return 0;
}

/* ---- closing ---- */

static void settle_background(struct vhd *vhd)
{
	while (vhd->flush.running || vhd->background > 0)
		file_wait(vhd->image.file);
}

static uint64_t used_end(const struct vhd *vhd)
{
	const struct vhd_geometry *g = &vhd->geometry;
	uint64_t end = vhd->structures_end;

	for (uint32_t block = 0; block < g->block_count; block++)
		if (vhd->bat[block] != VHD_BAT_UNUSED)
			end = MAX(end, vhd_place_of(vhd, block) + vhd_slot_bytes(g));
	return end;
}

/* Growing goes ahead of need. The new last footer is durable before the old one goes. */
int vhd_trim(struct vhd *vhd)
{
	uint64_t bytes = vhd_file_bytes(used_end(vhd));
	int rc = 0;

	if (bytes < vhd->image.file->size_bytes) {
		rc = vhd_write_footer_now(vhd, bytes);
		if (rc == 0)
			rc = file_set_size(vhd->image.file, bytes);
	}
	return rc;
}

int vhd_settle(struct vhd *vhd, struct error *err)
{
	int rc;

	settle_background(vhd);
	if (vhd->image.blk.info.read_only)
		return 0;
	if (!vhd->failed)
		start_flush(vhd, NULL);
	settle_background(vhd);
	if (vhd->failed)
		return error_set(err, ERR_IO, "the VHD file's metadata could not be written");
	rc = vhd->layout_changed ? vhd_trim(vhd) : 0;
	return rc < 0 ? error_set_errno(err, -rc, "cutting the VHD file to its size") : 0;
}

static int vhd_close(struct blk *blk, struct error *err)
{
	struct vhd *vhd = container_of(blk, struct vhd, image.blk);
	struct blk *parent = vhd->image.parent;
	int rc = vhd_settle(vhd, err);

	file_close(vhd->image.file);
	vhd_free(vhd);
	blk_close(parent, NULL);
	return rc;
}

const struct image_ops vhd_image_ops = {
	.run_piece = vhd_run_piece,
	.piece_done = vhd_piece_done,
	.flush = vhd_flush_io,
};

const struct blk_ops vhd_blk_ops = {
	.name = "vhd",
	.submit = image_submit,
	.defer = image_defer,
	.wait = image_wait,
	.plug = image_plug,
	.unplug = image_unplug,
	.extent = vhd_extent,
	.close = vhd_close,
};
