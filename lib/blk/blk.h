/*
 * The block interface: a disk as devices see it, whatever stands behind it (raw file, VHD, VHDX,
 * chains of them, filters). blk-backend.h is for those who implement one.
 *
 * Requests are asynchronous. The caller fills a struct blk_request that it owns (usually embedded
 * in its own request), calls blk_submit and gets it back by done(), on the loop's thread and never
 * inside blk_submit. Until then the request, its iovec array and the buffers must stay. Requests in
 * flight are not ordered among each other; a flush covers the writes that were completed before the
 * flush was submitted. Everything belongs to one loop.
 *
 * Unwritten and unmapped ranges read as zeros. BLK_UNMAP of a disk that can't (can_unmap) does
 * nothing; BLK_WRITE_ZEROES always zeroes.
 *
 *	req->op = BLK_READ; req->offset = 0; req->length = 4096; req->iov = &iov; req->iov_count =
 * 1; req->done = arrived; blk_submit(disk, req);
 */
#ifndef BLK_BLK_H
#define BLK_BLK_H

#include "base/error.h"
#include "base/guid.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct blk;

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_UNMAP, BLK_WRITE_ZEROES, BLK_OP_COUNT };

/* BLK_WRITE, BLK_WRITE_ZEROES: durable before done() */
#define BLK_FUA 0x1u
/* BLK_WRITE_ZEROES: may give the space back */
#define BLK_MAY_UNMAP 0x2u

enum blk_result {
	BLK_OK,
	BLK_IO_ERROR,     /* the host could not read or write; an unknown part was written      */
	BLK_NO_SPACE,     /* the host's storage is full                                         */
	BLK_READ_ONLY,    /* a change of a read-only disk                                       */
	BLK_OUT_OF_RANGE, /* beyond the end, not in whole logical sectors, or lengths that differ */
	BLK_RESULT_COUNT
};

#define BLK_MAX_IOV 1024u

struct blk_request {
	/* The caller's. Offset and length in bytes, multiples of the logical sector; both 0 for
	 * BLK_FLUSH. iov only for BLK_READ and BLK_WRITE: its lengths add up to length. */
	enum blk_op op;
	uint32_t flags;
	uint64_t offset, length;
	const struct iovec *iov;
	unsigned iov_count; /* at most BLK_MAX_IOV */
	void (*done)(struct blk_request *req, enum blk_result result);

	/* The back end's while the request is in flight. */
	struct blk *blk;
	struct blk_request *next;
	enum blk_result result;
};

struct blk_info {
	uint64_t size_bytes;
	uint32_t logical_sector_bytes, physical_sector_bytes;
	bool read_only;
	bool can_unmap;
	uint32_t unmap_granularity_bytes; /* a hint: what surely gives space back */
	bool has_id;
	struct guid id; /* the virtual disk's own identity, stable over moves of the file */
};

struct blk_counters {
	uint64_t requests[BLK_OP_COUNT], bytes[BLK_OP_COUNT], failed[BLK_OP_COUNT];
};

/* May change (size) while no request is in flight. */
const struct blk_info *blk_info(const struct blk *blk);
const struct blk_counters *blk_counters(const struct blk *blk);

void blk_submit(struct blk *blk, struct blk_request *req);

/* Between the two, requests may be collected and given to the host at once by blk_unplug. Nests. */
void blk_plug(struct blk *blk);
void blk_unplug(struct blk *blk);

/* Makes the disk larger: what is new reads as zeros. Waits for what is in flight. ERR_INVALID: not
 * in whole sectors, or smaller than it is; ERR_UNSUPPORTED: its format can't; ERR_DENIED:
 * read-only. */
int blk_grow(struct blk *blk, uint64_t size_bytes, struct error *err);

/* Waits until nothing is in flight; done() callbacks run inside, and may submit more. */
void blk_drain(struct blk *blk);
/* Drains, makes what was written durable, and frees. NULL is allowed. A negative result: what was
 * written since the last successful flush may be lost. */
int blk_close(struct blk *blk, struct error *err);

/* What a layer of a disk has at a place. */
enum blk_extent_kind {
	BLK_EXTENT_DATA,   /* it may hold anything but what follows       */
	BLK_EXTENT_ZERO,   /* it surely reads as zeros                    */
	BLK_EXTENT_PARENT, /* a differencing disk that asks its parent here */
};

struct blk_extent {
	enum blk_extent_kind kind;
	uint64_t length_bytes; /* of the run that begins at the offset asked for; not always the
				  longest */
};

/* What this layer alone has at offset, which lies on a logical sector inside the disk, looking no
 * further than max_bytes (at least one sector). Blocks, may read metadata. For a disk that is being
 * changed the answer is what all completed requests have made of it. */
int blk_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
	       struct error *err);

const char *blk_op_name(enum blk_op op);
const char *blk_result_name(enum blk_result result);

#endif
