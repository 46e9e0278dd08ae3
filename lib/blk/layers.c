#include "blk/layers.h"

#include "base/macros.h"

int blk_layers_extent(const struct blk_layers *disk, uint64_t offset, uint64_t max_bytes,
		      struct blk_extent *ret, struct error *err)
{
	struct blk_extent extent = { BLK_EXTENT_PARENT, max_bytes };

	for (unsigned i = 0; i < disk->count && extent.kind == BLK_EXTENT_PARENT; i++) {
		uint64_t size = blk_info(disk->layers[i])->size_bytes;
		int r;

		/* A child that was grown reads as zeros beyond its parent's end. */
		if (offset >= size)
			break;
		r = blk_extent(disk->layers[i], offset, MIN(extent.length_bytes, size - offset),
			       &extent, err);
		if (r < 0)
			return r;
	}
	if (extent.kind == BLK_EXTENT_PARENT)
		extent.kind = BLK_EXTENT_ZERO;
	*ret = extent;
	return 0;
}
