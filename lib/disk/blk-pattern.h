/*
 * A read-only disk without a file, for tests: each sector of 512 bytes holds one 8-byte value again
 * and again. It stands for the parent of a differencing disk.
 */
#ifndef DISK_BLK_PATTERN_H
#define DISK_BLK_PATTERN_H

#include "blk/blk.h"

struct loop;

/* value_of: of the sector at a byte offset. */
struct blk *blk_pattern_new(struct loop *loop, uint64_t size_bytes, uint32_t logical_sector_bytes,
			    uint64_t (*value_of)(uint64_t offset));

#endif
