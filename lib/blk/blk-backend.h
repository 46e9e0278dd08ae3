/*
 * For implementers of a block back end or filter: embed struct blk as the first member, call
 * blk_init once everything is ready, and end every request by blk_complete.
 */
#ifndef BLK_BLK_BACKEND_H
#define BLK_BLK_BACKEND_H

#include "blk/blk.h"

struct blk_ops {
	const char *name;
	/* Starts a request that blk_submit has checked (range, read-only, iov lengths; a read,
	 * write, unmap or zeroing of length 0 never arrives). Must not complete it before it
	 * returns. */
	void (*submit)(struct blk *blk, struct blk_request *req);
	/* Blocks until some request made progress. Called only while in_flight > 0. */
	void (*wait)(struct blk *blk);
	/* Nothing is in flight. Makes everything durable and frees. */
	int (*close)(struct blk *blk, struct error *err);
	/* May be NULL. */
	void (*plug)(struct blk *blk);
	void (*unplug)(struct blk *blk);
	/* Nothing is in flight. Makes the disk so large that info.size_bytes is the new size. May
	 * be NULL: the format can't. */
	int (*grow)(struct blk *blk, uint64_t size_bytes, struct error *err);
	/* blk_extent, after its checks. NULL: everything is data. */
	int (*extent)(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		      struct error *err);
	/* Completes req later, on the loop, with req->result. */
	void (*defer)(struct blk *blk, struct blk_request *req);
};

struct blk {
	const struct blk_ops *ops;
	struct blk_info info;
	struct blk_counters counters;
	unsigned in_flight;
	unsigned plug_depth;
};

void blk_init(struct blk *blk, const struct blk_ops *ops, const struct blk_info *info);
/* Gives the request back to its owner. Not inside submit. */
void blk_complete(struct blk_request *req, enum blk_result result);

/* Bytes of an iovec array; saturates. */
uint64_t blk_iov_bytes(const struct iovec *iov, unsigned iov_count);
/* Fills ret (room for max) with [skip, skip + len) of iov; returns the count, and in *ret_len how
 * many bytes fitted. */
unsigned blk_iov_slice(const struct iovec *iov, unsigned iov_count, uint64_t skip, uint64_t len,
		       struct iovec *ret, unsigned max, uint64_t *ret_len);
/* Zeroes [skip, skip + len) of iov. */
void blk_iov_zero(const struct iovec *iov, unsigned iov_count, uint64_t skip, uint64_t len);
/* True if [skip, skip + len) of iov holds only zeros. */
bool blk_iov_is_zero(const struct iovec *iov, unsigned iov_count, uint64_t skip, uint64_t len);

/* Of a filter: what goes to the disk below for a request; the iovs are the request's. */
static inline struct blk_request blk_same_request(const struct blk_request *req,
						  void (*done)(struct blk_request *below,
							       enum blk_result result))
{
	return (struct blk_request){ .op = req->op,
				     .flags = req->flags,
				     .offset = req->offset,
				     .length = req->length,
				     .iov = req->iov,
				     .iov_count = req->iov_count,
				     .done = done };
}

#endif
