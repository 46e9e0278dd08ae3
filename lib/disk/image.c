#include "disk/image.h"

#include "base/macros.h"

#include <errno.h>

/* A guest may ask to zero a whole disk at once: what is in flight for one request is bounded. */
#define MAX_SEGMENTS_PER_IO 64u

enum blk_result image_result_of(int rc)
{
	if (rc == 0)
		return BLK_OK;
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG ? BLK_NO_SPACE : BLK_IO_ERROR;
}

void image_init(struct image *image, struct file *file, struct blk *parent,
		const struct image_ops *ops, const struct blk_ops *blk_ops,
		const struct blk_info *info)
{
	blk_init(&image->blk, blk_ops, info);
	image->file = file;
	image->parent = parent;
	image->ops = ops;
	image->submitting = false;
	pool_init(&image->ios, sizeof(struct image_io));
	pool_init(&image->segments, sizeof(struct image_segment));
}

void image_done(struct image *image)
{
	pool_done(&image->ios);
	pool_done(&image->segments);
}

/* ---- ending a request ---- */

static void deferred_done(struct file_request *req, int result)
{
	struct image_io *io = container_of(req, struct image_io, defer_req);
	struct image *image = container_of(io->req->blk, struct image, blk);

	image_finish(image, io, io->result);
}

void image_finish(struct image *image, struct image_io *io, enum blk_result result)
{
	struct blk_request *req = io->req;

	if (image->submitting) {
		io->result = result;
		io->defer_req.done = deferred_done;
		file_defer(image->file, &io->defer_req, 0);
		return;
	}
	pool_put(&image->ios, io);
	blk_complete(req, result);
}

static void drop(struct image *image, struct image_io *io)
{
	if (--io->pending > 0)
		return;
	if (io->result == BLK_OK && (io->req->flags & BLK_FUA) && io->req->op != BLK_READ)
		image->ops->flush(image, io);
	else
		image_finish(image, io, io->result);
}

enum image_progress image_fail(struct image_io *io, enum blk_result result)
{
	if (io->result == BLK_OK)
		io->result = result;
	return IMAGE_FAILED;
}

void image_fail_waiting(struct image *image, struct image_io *io, enum blk_result result)
{
	image_fail(io, result);
	drop(image, io);
}

/* ---- walking ---- */

void image_run(struct image *image, struct image_io *io)
{
	while (image_left(io) > 0 && io->result == BLK_OK) {
		if (io->pending > MAX_SEGMENTS_PER_IO) {
			io->throttled = true;
			return;
		}
		if (image->ops->run_piece(image, io) == IMAGE_PARKED)
			return;
	}
	drop(image, io);
}

static void segment_ended(struct image_segment *segment, enum blk_result result)
{
	struct image *image = segment->image;
	struct image_io *io = segment->io;

	if (result != BLK_OK)
		image_fail(io, result);
	pool_put(&image->segments, segment);
	if (io->throttled && io->pending <= MAX_SEGMENTS_PER_IO / 2) {
		io->throttled = false;
		image_run(image, io);
	}
	drop(image, io);
}

static void file_ended(struct file_request *req, int result)
{
	struct image_segment *segment = container_of(req, struct image_segment, req);

	segment->image->ops->piece_done(segment->image, segment, result);
	segment_ended(segment, image_result_of(result));
}

static void parent_ended(struct blk_request *req, enum blk_result result)
{
	segment_ended(container_of(req, struct image_segment, parent_req), result);
}

static struct image_segment *new_segment(struct image *image, struct image_io *io)
{
	struct image_segment *segment = pool_get(&image->segments);

	if (!segment)
		return NULL;
	segment->image = image;
	segment->io = io;
	return segment;
}

/* The part of the request's buffers that begins at the cursor; *len may become less, but stays
 * whole sectors: 0 for a guest that cuts one into more pieces than there is room for. */
static const struct iovec *slice(struct image_segment *segment, unsigned *count, uint64_t *len)
{
	const struct blk_request *req = segment->io->req;
	uint64_t wanted = *len;

	if (wanted == req->length) {
		*count = req->iov_count;
		return req->iov;
	}
	*count = blk_iov_slice(req->iov, req->iov_count, segment->io->cursor, wanted, segment->iov,
			       IMAGE_SEGMENT_IOV, len);
	if (*len < wanted) {
		wanted = ALIGN_DOWN(*len, req->blk->info.logical_sector_bytes);
		*count = blk_iov_slice(req->iov, req->iov_count, segment->io->cursor, wanted,
				       segment->iov, IMAGE_SEGMENT_IOV, len);
	}
	return segment->iov;
}

static enum image_progress no_segment(struct image *image, struct image_segment *segment)
{
	struct image_io *io = segment->io;

	pool_put(&image->segments, segment);
	return image_fail(io, BLK_IO_ERROR);
}

enum image_progress image_skip(struct image_io *io, uint64_t len)
{
	io->cursor += len;
	return IMAGE_STARTED;
}

enum image_progress image_read_zeros(struct image_io *io, uint64_t len)
{
	blk_iov_zero(io->req->iov, io->req->iov_count, io->cursor, len);
	return image_skip(io, len);
}

enum image_progress image_start_file(struct image *image, struct image_io *io, enum file_op op,
				     uint64_t file_offset, uint64_t len, uint64_t block,
				     uint64_t in_block)
{
	struct image_segment *segment = new_segment(image, io);

	if (!segment)
		return image_fail(io, BLK_IO_ERROR);
	segment->block = block;
	segment->in_block = in_block;
	segment->req.op = op;
	segment->req.offset = file_offset;
	segment->req.done = file_ended;
	if (op == FILE_READ || op == FILE_WRITE)
		segment->req.iov = slice(segment, &segment->req.iov_count, &len);
	if (len == 0)
		return no_segment(image, segment);
	segment->req.length = len;
	io->pending++;
	io->cursor += len;
	file_submit(image->file, &segment->req);
	return IMAGE_STARTED;
}

enum image_progress image_start_parent(struct image *image, struct image_io *io, uint64_t len)
{
	uint64_t offset = io->req->offset + io->cursor;
	uint64_t end = image->parent ? image->parent->info.size_bytes : 0;
	struct image_segment *segment;

	if (offset >= end)
		return image_read_zeros(io, len);
	len = MIN(len, end - offset);
	segment = new_segment(image, io);
	if (!segment)
		return image_fail(io, BLK_IO_ERROR);
	segment->parent_req =
	    (struct blk_request){ .op = BLK_READ, .offset = offset, .done = parent_ended };
	segment->parent_req.iov = slice(segment, &segment->parent_req.iov_count, &len);
	if (len == 0)
		return no_segment(image, segment);
	segment->parent_req.length = len;
	io->pending++;
	io->cursor += len;
	blk_submit(image->parent, &segment->parent_req);
	return IMAGE_STARTED;
}

/* ---- blk_ops ---- */

static struct image_io *new_io(struct image *image, struct blk_request *req)
{
	struct image_io *io = pool_get(&image->ios);

	/* Without memory for a request of some hundred bytes nothing else would work either. */
	if (!io)
		abort();
	*io = (struct image_io){ .req = req };
	return io;
}

void image_submit(struct blk *blk, struct blk_request *req)
{
	struct image *image = container_of(blk, struct image, blk);
	struct image_io *io = new_io(image, req);

	image->submitting = true;
	if (req->op == BLK_FLUSH) {
		image->ops->flush(image, io);
	} else {
		io->pending = 1;
		image_run(image, io);
	}
	image->submitting = false;
}

void image_defer(struct blk *blk, struct blk_request *req)
{
	struct image *image = container_of(blk, struct image, blk);
	struct image_io *io = new_io(image, req);

	image->submitting = true;
	image_finish(image, io, req->result);
	image->submitting = false;
}

void image_wait(struct blk *blk)
{
	struct image *image = container_of(blk, struct image, blk);

	if (image->file->in_flight > 0)
		file_wait(image->file);
	else
		image->parent->ops->wait(image->parent);
}

void image_plug(struct blk *blk)
{
	struct image *image = container_of(blk, struct image, blk);

	file_plug(image->file);
	if (image->parent)
		blk_plug(image->parent);
}

void image_unplug(struct blk *blk)
{
	struct image *image = container_of(blk, struct image, blk);

	file_unplug(image->file);
	if (image->parent)
		blk_unplug(image->parent);
}
