/* What a VHDX says of itself, and what it has where. Blocking. */
#include "disk/vhdx.h"

#include "base/macros.h"
#include "base/utf16.h"
#include "disk/vhdx-impl.h"

#include <stdio.h>

int vhdx_entry_now(struct vhdx *vhdx, uint64_t index, uint64_t *ret, struct error *err)
{
	struct vhdx_page *page;
	int rc = vhdx_page_now(vhdx, VHDX_PAGE_BAT, vhdx_bat_page_offset(vhdx, index), &page, err);

	if (rc == 0)
		*ret = page->word[index % VHDX_PAGE_ENTRIES];
	return rc;
}

/* ---- extents ---- */

/* The run of sectors of a partially present block from the given one on that are alike. */
static int partial_extent(struct vhdx *vhdx, uint64_t block, uint64_t in_block, uint64_t max_bytes,
			  struct blk_extent *ret, struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	struct vhdx_bits at = vhdx_bits_of(g, block, in_block / g->logical_sector_bytes);
	uint64_t run = g->chunk_ratio + 1, bitmap;
	struct vhdx_page *page;
	unsigned sectors;
	bool here;
	int rc = vhdx_entry_now(vhdx, block / g->chunk_ratio * run + run - 1, &bitmap, err);

	if (rc < 0)
		return rc;
	if (!VHDX_BAT_FILE_OFFSET(bitmap))
		return error_set(err, ERR_CORRUPT,
				 "VHDX block %lu is partially present, but there is no sector "
				 "bitmap for it",
				 block);
	rc = vhdx_page_now(vhdx, VHDX_PAGE_BITMAP, VHDX_BAT_FILE_OFFSET(bitmap) + at.page, &page,
			   err);
	if (rc < 0)
		return rc;
	sectors =
	    vhdx_bits_run(page, at.bit, (unsigned)(max_bytes / g->logical_sector_bytes), &here);
	*ret = (struct blk_extent){ here ? BLK_EXTENT_DATA : BLK_EXTENT_PARENT,
				    (uint64_t)sectors * g->logical_sector_bytes };
	return 0;
}

static enum blk_extent_kind kind_of(const struct vhdx *vhdx, uint64_t entry)
{
	if (VHDX_BAT_STATE(entry) == VHDX_BLOCK_FULLY_PRESENT)
		return BLK_EXTENT_DATA;
	if (VHDX_BAT_STATE(entry) == VHDX_BLOCK_NOT_PRESENT && vhdx->geometry.has_parent)
		return BLK_EXTENT_PARENT;
	return BLK_EXTENT_ZERO;
}

/* A block in the file may have holes there. */
static void look_for_hole(struct vhdx *vhdx, uint64_t file_offset, struct blk_extent *extent)
{
	uint64_t end;
	bool data;

	if (file_offset >= vhdx->file->size_bytes ||
	    file_extent(vhdx->file, file_offset, &data, &end) < 0)
		return;
	end = ALIGN_DOWN(end - file_offset, vhdx->geometry.logical_sector_bytes);
	if (end == 0)
		return;
	extent->kind = data ? BLK_EXTENT_DATA : BLK_EXTENT_ZERO;
	extent->length_bytes = MIN(extent->length_bytes, end);
}

int vhdx_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		struct error *err)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t block = offset >> g->block_shift, in_block = offset & (g->block_bytes - 1), entry;
	int rc = vhdx_entry_now(vhdx, vhdx_bat_index(g, block), &entry, err);

	vhdx_cache_trim(vhdx);
	if (rc < 0)
		return rc;
	max_bytes = MIN(max_bytes, g->block_bytes - in_block);
	if (VHDX_BAT_STATE(entry) == VHDX_BLOCK_PARTIALLY_PRESENT)
		rc = partial_extent(vhdx, block, in_block, max_bytes, ret, err);
	else
		*ret = (struct blk_extent){ kind_of(vhdx, entry), max_bytes };
	if (rc == 0 && ret->kind == BLK_EXTENT_DATA)
		look_for_hole(vhdx, VHDX_BAT_FILE_OFFSET(entry) + in_block, ret);
	return rc;
}

/* ---- the whole ---- */

static int count_blocks(struct vhdx *vhdx, struct disk_details *ret, struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;

	for (uint64_t block = 0, last = 0; block < g->block_count; block++) {
		uint64_t entry;
		int rc = vhdx_entry_now(vhdx, vhdx_bat_index(g, block), &entry, err);

		if (rc < 0)
			return rc;
		vhdx_cache_trim(vhdx);
		if (VHDX_BAT_STATE(entry) != VHDX_BLOCK_FULLY_PRESENT &&
		    VHDX_BAT_STATE(entry) != VHDX_BLOCK_PARTIALLY_PRESENT) {
			last = 0;
			continue;
		}
		ret->blocks_allocated++;
		ret->block_runs += VHDX_BAT_FILE_OFFSET(entry) != last;
		last = VHDX_BAT_FILE_OFFSET(entry) + g->block_bytes;
	}
	return 0;
}

static int read_creator(struct vhdx *vhdx, char *ret, size_t size, struct error *err)
{
	uint8_t raw[512];
	AUTO_FREE char *text = NULL;
	int rc =
	    file_read_now(vhdx->file, offsetof(struct vhdx_identifier, creator), raw, sizeof(raw));

	if (rc < 0)
		return error_set_errno(err, -rc, "reading the VHDX file's creator");
	text = utf8_from_utf16(raw, sizeof(raw));
	snprintf(ret, size, "%s", text ? text : "");
	return 0;
}

static enum disk_type type_of(const struct vhdx_geometry *g)
{
	return g->has_parent ? DISK_DIFFERENCING : g->fixed ? DISK_FIXED : DISK_DYNAMIC;
}

static int describe(struct vhdx *vhdx, struct disk_details *ret, struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	int rc;

	*ret = (struct disk_details){
		.type = type_of(g),
		.size_bytes = g->disk_bytes,
		.block_bytes = g->block_bytes,
		.logical_sector_bytes = g->logical_sector_bytes,
		.physical_sector_bytes = g->physical_sector_bytes,
		.id = g->id,
		.link_id = vhdx->header.data_write_guid,
		.parent_id = vhdx->locator.linkage,
		.parent_id2 = vhdx->locator.linkage2,
		.log_dirty = vhdx_log_in_use(vhdx),
	};
	rc = read_creator(vhdx, ret->creator, sizeof(ret->creator), err);
	if (rc == 0)
		rc = count_blocks(vhdx, ret, err);
	if (rc < 0)
		return rc;
	ret->locators = TAKE(vhdx->locator.items);
	ret->locator_count = vhdx->locator.count;
	vhdx->locator.count = 0;
	return 0;
}

int vhdx_describe(struct file *file, struct disk_details *ret, struct error *err)
{
	struct vhdx *vhdx;
	int rc = vhdx_load(file, &(struct vhdx_load){ .read_only = true }, &vhdx, err);

	if (rc < 0)
		return rc;
	rc = describe(vhdx, ret, err);
	vhdx_unload(vhdx);
	return rc;
}
