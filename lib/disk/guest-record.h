/*
 * What a guest did to a disk, for tests of power cuts (power-cut.h): changes of known content, each
 * with the moments when it was submitted and completed. From that follows what a sector may hold
 * after a cut: what was flushed, or anything that was submitted later, but nothing else.
 *
 * Failures of what is tested fail the cmocka test.
 */
#ifndef DISK_GUEST_RECORD_H
#define DISK_GUEST_RECORD_H

#include "blk/blk.h"
#include "disk/power-cut.h"

struct guest_change;

struct guest {
	struct cut *clock;
	struct blk *disk;
	bool may_fail; /* its requests; what failed has happened or not */
	/* What a sector holds that was never written; NULL: zeros. */
	uint64_t (*initial)(uint64_t offset);

	/* This module's. */
	struct guest_change **changes;
	size_t change_count, in_flight;
};

/* BLK_WRITE (of a value that no other has), BLK_WRITE_ZEROES, BLK_UNMAP or BLK_FLUSH. A range in
 * flight must not be changed again: guest_overlaps tells. */
void guest_submit(struct guest *guest, enum blk_op op, uint64_t offset, uint64_t length,
		  uint32_t flags);
bool guest_overlaps(const struct guest *guest, uint64_t offset, uint64_t length);
/* A disk as a cut at the moment left it. */
void guest_check(const struct guest *guest, struct blk *disk, uint64_t offset, uint64_t length,
		 uint64_t moment);
/* Forgets the changes; none is in flight. */
void guest_done(struct guest *guest);

#endif
