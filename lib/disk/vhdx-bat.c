/*
 * Entries of the BAT ([MS-VHDX] 2.5) and the bits of sector bitmaps (2.6): what they may say. An
 * entry that was checked has no reserved bits, points into the file, and owns its place alone.
 */
#include "disk/vhdx-impl.h"

#include "base/macros.h"

static int bad_entry(const struct vhdx *vhdx, uint64_t index, uint64_t entry, const char *why,
		     struct error *err)
{
	uint64_t at = vhdx->bat_region.offset + index * VHDX_BAT_ENTRY_BYTES;
	uint64_t run = vhdx->geometry.chunk_ratio + 1;
	bool bitmap = index % run == run - 1;
	uint64_t number = bitmap ? index / run : index - index / run;

	return error_set(err, ERR_CORRUPT, "VHDX %s %lu: its BAT entry %#lx at %#lx %s",
			 bitmap ? "sector bitmap" : "block", number, entry, at, why);
}

/* True if a log that is kept in memory updates a part of the range. */
static bool updated_by_log(const struct vhdx_overlay *overlay, uint64_t offset, uint64_t length)
{
	size_t low = 0, high = overlay->page_count;

	for (size_t i = 0; i < overlay->zeroed_count; i++)
		if (overlay->zeroed[i].offset < offset + length &&
		    offset < overlay->zeroed[i].offset + overlay->zeroed[i].length)
			return true;
	/* the first page at or behind the start of the range */
	while (low < high) {
		size_t middle = (low + high) / 2;

		if (overlay->page[middle] < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low < overlay->page_count && overlay->page[low] < offset + length;
}

static int check_place(struct vhdx *vhdx, uint64_t index, uint64_t entry, uint64_t length,
		       bool claim, struct error *err)
{
	uint64_t offset = VHDX_BAT_FILE_OFFSET(entry);

	if (offset < VHDX_HEADER_SECTION_BYTES ||
	    !RANGE_OK(offset, length, MAX(vhdx->file_bytes, vhdx->file->size_bytes)))
		return bad_entry(vhdx, index, entry, "points beyond the end of the file", err);
	if (claim && !space_claim(&vhdx->space, offset, length))
		return bad_entry(vhdx, index, entry, "points into another structure", err);
	return 0;
}

static int check_payload(struct vhdx *vhdx, uint64_t index, uint64_t *entry, bool claim,
			 struct error *err)
{
	uint64_t length = vhdx->geometry.block_bytes;

	switch (VHDX_BAT_STATE(*entry)) {
	case VHDX_BLOCK_PARTIALLY_PRESENT:
		if (!vhdx->geometry.has_parent)
			break;
		/* fall through */
	case VHDX_BLOCK_FULLY_PRESENT:
		/* Payload is read from the file directly. (Only structures are ever logged.) */
		if (updated_by_log(&vhdx->overlay, VHDX_BAT_FILE_OFFSET(*entry), length))
			return bad_entry(vhdx, index, *entry, "names payload that the log updates",
					 err);
		return check_place(vhdx, index, *entry, length, claim, err);
	case VHDX_BLOCK_UNDEFINED:
	case VHDX_BLOCK_UNMAPPED:
		/* A place may be kept for later use: nobody else may have it meanwhile. One beyond
		 * the file means nothing; the size at open, for the file may grow over it. */
		if (VHDX_BAT_FILE_OFFSET(*entry) &&
		    RANGE_OK(VHDX_BAT_FILE_OFFSET(*entry), length, vhdx->file_bytes))
			return check_place(vhdx, index, *entry, length, claim, err);
		/* fall through */
	case VHDX_BLOCK_NOT_PRESENT:
	case VHDX_BLOCK_ZERO:
		*entry = VHDX_BAT_STATE(*entry);
		return 0;
	default:
		break;
	}
	return bad_entry(vhdx, index, *entry, "has a state that is not possible", err);
}

static int check_bitmap(struct vhdx *vhdx, uint64_t index, uint64_t *entry, bool claim,
			struct error *err)
{
	switch (VHDX_BAT_STATE(*entry)) {
	case VHDX_BLOCK_FULLY_PRESENT:
		return check_place(vhdx, index, *entry, VHDX_MIB, claim, err);
	case VHDX_BLOCK_NOT_PRESENT:
		*entry = 0;
		return 0;
	default:
		return bad_entry(vhdx, index, *entry, "has a state that is not possible", err);
	}
}

static int check_entry(struct vhdx *vhdx, uint64_t index, uint64_t *entry, bool claim,
		       struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	bool bitmap = index % (g->chunk_ratio + 1) == g->chunk_ratio;

	/* Bitmap entries of a disk without parent mean nothing, and some writers leave garbage. */
	if ((bitmap && !g->has_parent) ||
	    (!bitmap && index - index / (g->chunk_ratio + 1) >= g->block_count)) {
		*entry = 0;
		return 0;
	}
	if (VHDX_BAT_RESERVED(*entry))
		return bad_entry(vhdx, index, *entry, "has reserved bits set", err);
	return bitmap ? check_bitmap(vhdx, index, entry, claim, err)
		      : check_payload(vhdx, index, entry, claim, err);
}

int vhdx_bat_check(struct vhdx *vhdx, uint64_t first, uint64_t *entries, uint64_t count, bool claim,
		   struct error *err)
{
	for (uint64_t i = 0; i < count; i++) {
		struct error found;
		int rc = entries[i] ? check_entry(vhdx, first + i, &entries[i], claim, &found) : 0;

		if (rc == 0)
			continue;
		if (!vhdx->bad_entry) {
			if (err)
				*err = found;
			return rc;
		}
		vhdx->bad_entry(vhdx->bad_entry_user,
				vhdx->bat_region.offset + (first + i) * VHDX_BAT_ENTRY_BYTES,
				found.text);
		entries[i] = 0;
	}
	return 0;
}

void vhdx_ignore_bad_entry(void *user, uint64_t file_offset, const char *what)
{
}

int vhdx_bat_check_page(struct vhdx *vhdx, struct vhdx_page *page, struct error *err)
{
	uint64_t number = (page->offset - vhdx->bat_region.offset) / VHDX_SECTOR_BYTES;
	uint64_t first = number * VHDX_PAGE_ENTRIES;
	uint64_t used = vhdx->geometry.bat_entries - MIN(first, vhdx->geometry.bat_entries);
	uint64_t count = MIN((uint64_t)VHDX_PAGE_ENTRIES, used);
	uint64_t *known = vhdx->bat_known && count ? &vhdx->bat_known[number / 64] : NULL;
	bool claim = known && !(*known & BIT(number % 64));

	memset(page->word + count, 0, (VHDX_PAGE_ENTRIES - count) * sizeof(page->word[0]));
	if (claim)
		*known |= BIT(number % 64);
	return vhdx_bat_check(vhdx, first, page->word, count, claim, err);
}

/* ---- bits ---- */

unsigned vhdx_bits_run(const struct vhdx_page *page, unsigned bit, unsigned max, bool *ret_set)
{
	bool set = page->word[bit / 64] >> (bit % 64) & 1;
	unsigned end = MIN(bit + max, VHDX_PAGE_BITS), at = bit;

	while (at < end) {
		uint64_t word = page->word[at / 64] >> (at % 64);
		uint64_t other = set ? ~word : word;
		unsigned left = 64 - at % 64;
		unsigned same = other ? MIN((unsigned)__builtin_ctzll(other), left) : left;

		at += same;
		if (same < left)
			break;
	}
	*ret_set = set;
	return MIN(at, end) - bit;
}

void vhdx_bits_set(struct vhdx_page *page, unsigned bit, unsigned count, bool value)
{
	while (count > 0) {
		unsigned shift = bit % 64, some = MIN(64 - shift, count);
		uint64_t mask = (some == 64 ? ~UINT64_C(0) : BIT(some) - 1) << shift;

		if (value)
			page->word[bit / 64] |= mask;
		else
			page->word[bit / 64] &= ~mask;
		bit += some;
		count -= some;
	}
}
