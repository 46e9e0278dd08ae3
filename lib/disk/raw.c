#include "disk/raw.h"

#include "base/macros.h"
#include "blk/blk-backend.h"
#include "blk/pool.h"

#include <errno.h>

#define UNMAP_GRANULARITY 65536u

struct raw {
	struct blk blk;
	struct file *file;
	struct pool ios;
};

struct raw_io {
	struct file_request file_req;
	struct blk_request *req;
};

static enum blk_result blk_result_of(int rc)
{
	if (rc == 0)
		return BLK_OK;
	return rc == -ENOSPC || rc == -EDQUOT ? BLK_NO_SPACE : BLK_IO_ERROR;
}

static void complete(struct raw_io *io, enum blk_result result)
{
	struct raw *raw = container_of(io->req->blk, struct raw, blk);
	struct blk_request *req = io->req;

	pool_put(&raw->ios, io);
	blk_complete(req, result);
}

static void io_done(struct file_request *file_req, int result)
{
	struct raw_io *io = container_of(file_req, struct raw_io, file_req);
	struct raw *raw = container_of(io->req->blk, struct raw, blk);

	if (result == 0 && (io->req->flags & BLK_FUA) && file_req->op != FILE_SYNC &&
	    file_req->op != FILE_WRITE_DURABLE) {
		file_req->op = FILE_SYNC;
		file_submit(raw->file, file_req);
		return;
	}
	complete(io, blk_result_of(result));
}

static void deferred_done(struct file_request *file_req, int result)
{
	struct raw_io *io = container_of(file_req, struct raw_io, file_req);

	complete(io, io->req->result);
}

static enum file_op file_op_of(const struct blk_request *req)
{
	switch (req->op) {
	case BLK_READ:
		return FILE_READ;
	case BLK_WRITE:
		return req->flags & BLK_FUA ? FILE_WRITE_DURABLE : FILE_WRITE;
	case BLK_UNMAP:
		return FILE_PUNCH;
	case BLK_WRITE_ZEROES:
		return req->flags & BLK_MAY_UNMAP ? FILE_PUNCH : FILE_ZERO;
	default:
		return FILE_SYNC;
	}
}

static struct raw_io *new_io(struct raw *raw, struct blk_request *req)
{
	struct raw_io *io = pool_get(&raw->ios);

	/* Without memory for a request of some hundred bytes nothing else would work either. */
	if (!io)
		abort();
	io->req = req;
	io->file_req = (struct file_request){ .op = file_op_of(req),
					      .offset = req->offset,
					      .length = req->length,
					      .iov = req->iov,
					      .iov_count = req->iov_count,
					      .done = io_done };
	return io;
}

static void raw_submit(struct blk *blk, struct blk_request *req)
{
	struct raw *raw = container_of(blk, struct raw, blk);

	file_submit(raw->file, &new_io(raw, req)->file_req);
}

static void raw_defer(struct blk *blk, struct blk_request *req)
{
	struct raw *raw = container_of(blk, struct raw, blk);
	struct raw_io *io = new_io(raw, req);

	io->file_req.done = deferred_done;
	file_defer(raw->file, &io->file_req, 0);
}

static void raw_wait(struct blk *blk)
{
	file_wait(container_of(blk, struct raw, blk)->file);
}

static void raw_plug(struct blk *blk)
{
	file_plug(container_of(blk, struct raw, blk)->file);
}

static void raw_unplug(struct blk *blk)
{
	file_unplug(container_of(blk, struct raw, blk)->file);
}

static int raw_grow(struct blk *blk, uint64_t size_bytes, struct error *err)
{
	struct raw *raw = container_of(blk, struct raw, blk);
	int rc = file_set_size(raw->file, size_bytes);

	if (rc < 0)
		return error_set_errno(err, -rc, "making the raw image larger");
	blk->info.size_bytes = size_bytes;
	return 0;
}

/* A file may end within its last sector, or on a block device where there are no holes. */
static int raw_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		      struct error *err)
{
	struct file *file = container_of(blk, struct raw, blk)->file;
	bool data;
	uint64_t end;
	int rc = file_extent(file, offset, &data, &end);

	if (rc < 0)
		return error_set_errno(err, -rc, "looking for holes in the raw image at %#lx",
				       offset);
	ret->kind = data ? BLK_EXTENT_DATA : BLK_EXTENT_ZERO;
	end = data || end == file->size_bytes ? ALIGN_UP(end, blk->info.logical_sector_bytes)
					      : ALIGN_DOWN(end, blk->info.logical_sector_bytes);
	if (end <= offset) {
		ret->kind = BLK_EXTENT_DATA;
		end = offset + blk->info.logical_sector_bytes;
	}
	ret->length_bytes = MIN(end - offset, max_bytes);
	return 0;
}

static int raw_close(struct blk *blk, struct error *err)
{
	struct raw *raw = container_of(blk, struct raw, blk);
	int rc = blk->info.read_only ? 0 : file_sync_now(raw->file);

	file_close(raw->file);
	pool_done(&raw->ios);
	free(raw);
	return rc < 0 ? error_set_errno(err, -rc, "syncing the raw image") : 0;
}

static const struct blk_ops raw_ops = {
	.name = "raw",
	.submit = raw_submit,
	.defer = raw_defer,
	.wait = raw_wait,
	.grow = raw_grow,
	.plug = raw_plug,
	.unplug = raw_unplug,
	.extent = raw_extent,
	.close = raw_close,
};

static bool is_sector_size(uint32_t bytes)
{
	return bytes >= 512 && bytes <= 4096 && (bytes & (bytes - 1)) == 0;
}

int raw_open(struct file *file, const struct disk_options *options, struct blk **ret,
	     struct error *err)
{
	struct blk_info info = {
		.logical_sector_bytes = options->logical_sector_bytes ?: 512,
		.physical_sector_bytes = options->physical_sector_bytes ?: 512,
		.read_only = options->read_only,
		.can_unmap = !options->read_only,
		.unmap_granularity_bytes = UNMAP_GRANULARITY,
	};
	struct raw *raw;

	info.physical_sector_bytes = MAX(info.physical_sector_bytes, info.logical_sector_bytes);
	if (!is_sector_size(info.logical_sector_bytes) ||
	    !is_sector_size(info.physical_sector_bytes))
		return error_set(err, ERR_INVALID, "a sector size of %u/%u bytes is not possible",
				 info.logical_sector_bytes, info.physical_sector_bytes);
	/* A partial last sector is shown whole; what the file lacks of it reads as zeros. */
	info.size_bytes = ALIGN_UP(file->size_bytes, info.logical_sector_bytes);
	raw = calloc(1, sizeof(*raw));
	if (!raw)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	blk_init(&raw->blk, &raw_ops, &info);
	raw->file = file;
	pool_init(&raw->ios, sizeof(struct raw_io));
	*ret = &raw->blk;
	return 0;
}
