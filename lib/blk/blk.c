#include "blk/blk-backend.h"

#include "base/macros.h"

#include <assert.h>
#include <string.h>

static const char *const op_names[BLK_OP_COUNT] = {
	[BLK_READ] = "read",
	[BLK_WRITE] = "write",
	[BLK_FLUSH] = "flush",
	[BLK_UNMAP] = "unmap",
	[BLK_WRITE_ZEROES] = "write-zeroes",
};

static const char *const result_names[BLK_RESULT_COUNT] = {
	[BLK_OK] = "ok",
	[BLK_IO_ERROR] = "io-error",
	[BLK_NO_SPACE] = "no-space",
	[BLK_READ_ONLY] = "read-only",
	[BLK_OUT_OF_RANGE] = "out-of-range",
};

const char *blk_op_name(enum blk_op op)
{
	return (unsigned)op < BLK_OP_COUNT ? op_names[op] : "?";
}

const char *blk_result_name(enum blk_result result)
{
	return (unsigned)result < BLK_RESULT_COUNT ? result_names[result] : "?";
}

void blk_init(struct blk *blk, const struct blk_ops *ops, const struct blk_info *info)
{
	*blk = (struct blk){ .ops = ops, .info = *info };
}

const struct blk_info *blk_info(const struct blk *blk)
{
	return &blk->info;
}

const struct blk_counters *blk_counters(const struct blk *blk)
{
	return &blk->counters;
}

uint64_t blk_iov_bytes(const struct iovec *iov, unsigned iov_count)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < iov_count; i++)
		if (ADD_OVERFLOWS(sum, iov[i].iov_len, &sum))
			return UINT64_MAX;
	return sum;
}

unsigned blk_iov_slice(const struct iovec *iov, unsigned iov_count, uint64_t skip, uint64_t len,
		       struct iovec *ret, unsigned max, uint64_t *ret_len)
{
	unsigned count = 0;

	*ret_len = 0;
	for (unsigned i = 0; i < iov_count && *ret_len < len && count < max; i++) {
		uint64_t part;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - skip, len - *ret_len);
		ret[count++] = (struct iovec){ (char *)iov[i].iov_base + skip, part };
		*ret_len += part;
		skip = 0;
	}
	return count;
}

void blk_iov_zero(const struct iovec *iov, unsigned iov_count, uint64_t skip, uint64_t len)
{
	for (unsigned i = 0; i < iov_count && len > 0; i++) {
		uint64_t part;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - skip, len);
		memset((char *)iov[i].iov_base + skip, 0, part);
		len -= part;
		skip = 0;
	}
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
	/* Data shows itself soon; only then it pays to compare the whole with itself. */
	size_t start = MIN(len, (size_t)16);

	for (size_t i = 0; i < start; i++)
		if (bytes[i])
			return false;
	return len == start || memcmp(bytes, bytes + start, len - start) == 0;
}

bool blk_iov_is_zero(const struct iovec *iov, unsigned iov_count, uint64_t skip, uint64_t len)
{
	for (unsigned i = 0; i < iov_count && len > 0; i++) {
		uint64_t part;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		part = MIN(iov[i].iov_len - skip, len);
		if (!is_zero((const uint8_t *)iov[i].iov_base + skip, part))
			return false;
		len -= part;
		skip = 0;
	}
	return true;
}

static bool transfers(enum blk_op op)
{
	return op == BLK_READ || op == BLK_WRITE;
}

/* What a front end may get wrong because a guest asked for it is answered, not asserted. */
static enum blk_result check(const struct blk_info *info, const struct blk_request *req)
{
	if (req->op == BLK_FLUSH)
		return BLK_OK;
	if (req->op != BLK_READ && info->read_only)
		return BLK_READ_ONLY;
	if (!RANGE_OK(req->offset, req->length, info->size_bytes) ||
	    req->offset % info->logical_sector_bytes || req->length % info->logical_sector_bytes)
		return BLK_OUT_OF_RANGE;
	if (transfers(req->op) && blk_iov_bytes(req->iov, req->iov_count) != req->length)
		return BLK_OUT_OF_RANGE;
	return BLK_OK;
}

void blk_submit(struct blk *blk, struct blk_request *req)
{
	assert((unsigned)req->op < BLK_OP_COUNT && req->done);
	assert(!transfers(req->op) || req->iov_count <= BLK_MAX_IOV);

	req->blk = blk;
	req->next = NULL;
	req->result = check(&blk->info, req);
	blk->in_flight++;
	blk->counters.requests[req->op]++;
	if (req->result != BLK_OK || (req->op != BLK_FLUSH && req->length == 0))
		blk->ops->defer(blk, req);
	else
		blk->ops->submit(blk, req);
}

void blk_complete(struct blk_request *req, enum blk_result result)
{
	struct blk *blk = req->blk;

	assert((unsigned)result < BLK_RESULT_COUNT && blk->in_flight > 0);
	blk->in_flight--;
	if (result == BLK_OK)
		blk->counters.bytes[req->op] += req->length;
	else
		blk->counters.failed[req->op]++;
	req->done(req, result);
}

void blk_plug(struct blk *blk)
{
	if (blk->plug_depth++ == 0 && blk->ops->plug)
		blk->ops->plug(blk);
}

void blk_unplug(struct blk *blk)
{
	assert(blk->plug_depth > 0);
	if (--blk->plug_depth == 0 && blk->ops->unplug)
		blk->ops->unplug(blk);
}

int blk_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
	       struct error *err)
{
	assert(offset < blk->info.size_bytes && offset % blk->info.logical_sector_bytes == 0);
	assert(max_bytes >= blk->info.logical_sector_bytes);

	max_bytes = MIN(max_bytes, blk->info.size_bytes - offset);
	if (blk->ops->extent)
		return blk->ops->extent(blk, offset, max_bytes, ret, err);
	*ret = (struct blk_extent){ BLK_EXTENT_DATA, max_bytes };
	return 0;
}

void blk_drain(struct blk *blk)
{
	while (blk->in_flight > 0)
		blk->ops->wait(blk);
}

int blk_grow(struct blk *blk, uint64_t size_bytes, struct error *err)
{
	if (size_bytes % blk->info.logical_sector_bytes)
		return error_set(err, ERR_INVALID, "%llu bytes are not whole sectors",
				 (unsigned long long)size_bytes);
	if (size_bytes < blk->info.size_bytes)
		return error_set(err, ERR_INVALID, "the disk has %llu bytes already",
				 (unsigned long long)blk->info.size_bytes);
	if (blk->info.read_only)
		return error_set(err, ERR_DENIED, "the disk is read-only");
	if (!blk->ops->grow)
		return error_set(err, ERR_UNSUPPORTED,
				 "a disk of this format can't grow while it is in use");
	blk_drain(blk);
	return blk->ops->grow(blk, size_bytes, err);
}

int blk_close(struct blk *blk, struct error *err)
{
	if (!blk)
		return 0;
	blk_drain(blk);
	return blk->ops->close(blk, err);
}
