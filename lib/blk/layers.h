/*
 * An open disk with the layers that it stands on: for who must know where it holds nothing, without
 * reading it all. A disk without a parent has one layer.
 */
#ifndef BLK_LAYERS_H
#define BLK_LAYERS_H

#include "blk/blk.h"

struct blk_layers {
	struct blk *const *layers; /* the disk itself first, then its parent, ...; borrowed */
	unsigned count;
};

/* As blk_extent, but of the disk as it reads: never BLK_EXTENT_PARENT. */
int blk_layers_extent(const struct blk_layers *disk, uint64_t offset, uint64_t max_bytes,
		      struct blk_extent *ret, struct error *err);

#endif
