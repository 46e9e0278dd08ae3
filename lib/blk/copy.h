/*
 * Copies one disk into another, new one. What the source doesn't hold, and what it holds of zeros,
 * is not written. Blocks, and runs the loop meanwhile.
 */
#ifndef BLK_COPY_H
#define BLK_COPY_H

#include "blk/layers.h"

struct loop;

struct blk_copy {
	struct loop *loop;               /* of both disks */
	const struct blk_layers *source; /* nobody changes it */
	struct blk *target;              /* reads as zeros; at least as large as the source */
	/* Called now and then; false ends the copy with ERR_CANCELLED. May be NULL. */
	bool (*step)(void *user, uint64_t done, uint64_t total);
	void *user;
};

/* Success: all of it is durable. */
int blk_copy(const struct blk_copy *options, struct error *err);

#endif
