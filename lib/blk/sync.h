/* Blocking forms of block requests, for tools and tests that run no loop. */
#ifndef BLK_SYNC_H
#define BLK_SYNC_H

#include "blk/blk.h"

#include <stddef.h>

enum blk_result blk_run_now(struct blk *blk, enum blk_op op, uint32_t flags, uint64_t offset,
			    void *buf, uint64_t length);

static inline enum blk_result blk_read_now(struct blk *blk, uint64_t offset, void *buf, size_t len)
{
	return blk_run_now(blk, BLK_READ, 0, offset, buf, len);
}
static inline enum blk_result blk_write_now(struct blk *blk, uint64_t offset, const void *buf,
					    size_t len)
{
	return blk_run_now(blk, BLK_WRITE, 0, offset, (void *)buf, len);
}
static inline enum blk_result blk_flush_now(struct blk *blk)
{
	return blk_run_now(blk, BLK_FLUSH, 0, 0, NULL, 0);
}

#endif
