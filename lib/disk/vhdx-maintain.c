/*
 * Offline changes of a VHDX. What the structures say changes in steps that are atomic
 * (vhdx-edit.h); before a step names a place, its content is durable, and a place is given up only
 * after the step that no longer names it. So a power cut at any point leaves the old or the new
 * state of a step.
 */
#include "disk/vhdx.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/vhdx-edit.h"

#include <errno.h>

/* An image under work. */
struct work {
	struct vhdx *vhdx;
	struct vhdx_edit edit;
};

static int work_begin(struct file *file, bool visible, struct work **ret, struct error *err)
{
	struct vhdx_load how = { .whole_bat = true };
	struct work *work = calloc(1, sizeof(*work));
	int rc;

	if (!work)
		return error_set(err, ERR_NO_MEMORY, "no memory to change a VHDX");
	rc = vhdx_load(file, &how, &work->vhdx, err);
	if (rc == 0) {
		work->edit.vhdx = work->vhdx;
		rc = vhdx_edit_begin(work->vhdx, visible, err);
		if (rc < 0)
			vhdx_unload(work->vhdx);
	}
	if (rc < 0) {
		free(work);
		return rc;
	}
	*ret = work;
	return 0;
}

/* rc: of the work so far; a log that was begun is ended in any case, if that is possible. */
static int work_end(struct work *work, int rc, struct error *err)
{
	struct error second;
	int end = vhdx_edit_end(work->vhdx, rc < 0 ? &second : err);

	vhdx_unload(work->vhdx);
	free(work);
	return rc < 0 ? rc : end;
}

static int no_memory(struct error *err)
{
	return error_set(err, ERR_NO_MEMORY, "no memory to change a VHDX");
}

static int write_failed(int rc, const char *what, struct error *err)
{
	return rc < 0 ? error_set_errno(err, -rc, "%s the VHDX file", what) : 0;
}

static bool cancelled(const struct disk_progress *progress, uint64_t done, uint64_t total)
{
	return progress && !progress->step(progress->user, done, total);
}

static int cancel(struct error *err)
{
	return error_set(err, ERR_CANCELLED, "cancelled; the disk is as valid as before");
}

static bool in_file(uint64_t entry)
{
	return VHDX_BAT_STATE(entry) == VHDX_BLOCK_FULLY_PRESENT ||
	       VHDX_BAT_STATE(entry) == VHDX_BLOCK_PARTIALLY_PRESENT;
}

/* What lies behind the last used byte goes. */
static int trim(struct vhdx *vhdx, struct error *err)
{
	uint64_t end = space_used_end(&vhdx->space);

	return end < vhdx->file->size_bytes
		   ? write_failed(file_set_size(vhdx->file, end), "shortening", err)
		   : 0;
}

/* ---- properties ---- */

static int put_item(struct file *file, uint32_t (*place_of)(const struct vhdx_geometry *g),
		    const void *bytes, size_t len, struct error *err)
{
	struct work *work;
	int rc = work_begin(file, true, &work, err);

	if (rc < 0)
		return rc;
	rc = vhdx_edit_put(&work->edit,
			   work->vhdx->metadata_region.offset + place_of(&work->vhdx->geometry),
			   bytes, len, err);
	if (rc == 0)
		rc = vhdx_edit_commit(&work->edit, err);
	return work_end(work, rc, err);
}

static uint32_t id_place(const struct vhdx_geometry *g)
{
	return g->id_at;
}

static uint32_t physical_place(const struct vhdx_geometry *g)
{
	return g->physical_at;
}

int vhdx_set_id(struct file *file, const struct guid *id, struct error *err)
{
	return put_item(file, id_place, id, sizeof(*id), err);
}

int vhdx_set_physical_sector(struct file *file, uint32_t bytes, struct error *err)
{
	uint8_t value[4];

	if (bytes != 512 && bytes != 4096)
		return error_set(err, ERR_INVALID,
				 "a physical sector of %u bytes: it has 512 or 4096", bytes);
	store_le32(value, bytes);
	return put_item(file, physical_place, value, sizeof(value), err);
}

/* ---- parent ---- */

static int new_locator(struct vhdx *vhdx, const struct disk_parent_link *link, uint8_t **ret,
		       size_t *ret_size, struct error *err)
{
	struct vhdx_locator *locator = &vhdx->locator;
	int rc;

	locator->linkage = link->parent->link_id;
	locator->linkage2 = link->second_id;
	rc = vhdx_locator_put(locator, VHDX_KEY_RELATIVE, link->relative, err);
	if (rc == 0)
		rc = vhdx_locator_put(locator, VHDX_KEY_VOLUME, link->volume, err);
	if (rc == 0)
		rc = vhdx_locator_put(locator, VHDX_KEY_ABSOLUTE, link->absolute, err);
	return rc < 0 ? rc : vhdx_locator_compose(locator, ret, ret_size, err);
}

/* Where an item of that size may lie: at its old place, or behind all items. 0: nowhere. */
static int place_locator(struct vhdx *vhdx, size_t size, uint32_t *ret, struct error *err)
{
	AUTO_FREE uint8_t *table = malloc(VHDX_METADATA_TABLE_BYTES);
	const struct vhdx_metadata_table_header *header = (const void *)table;
	const struct vhdx_metadata_entry *entries = (const void *)(header + 1);
	uint64_t end = VHDX_METADATA_TABLE_BYTES;
	int rc;

	*ret = vhdx->geometry.locator_at;
	if (size <= vhdx->geometry.locator_bytes)
		return 0;
	if (!table)
		return no_memory(err);
	rc = file_read_now(vhdx->file, vhdx->metadata_region.offset, table,
			   VHDX_METADATA_TABLE_BYTES);
	if (rc < 0)
		return write_failed(rc, "reading", err);
	for (unsigned i = 0; i < le16toh(header->entry_count); i++)
		end = MAX(end, (uint64_t)le32toh(entries[i].offset) + le32toh(entries[i].length));
	end = ALIGN_UP(end, UINT64_C(8));
	if (!RANGE_OK(end, (uint64_t)size, vhdx->metadata_region.length))
		return error_set(err, ERR_LIMIT,
				 "the VHDX file has no room for a parent locator of %zu bytes",
				 size);
	*ret = (uint32_t)end;
	return 0;
}

static int put_locator(struct work *work, const struct disk_parent_link *link, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	uint64_t region = vhdx->metadata_region.offset;
	AUTO_FREE uint8_t *item = NULL;
	uint8_t place_and_size[8];
	uint32_t place = 0;
	size_t size;
	int rc = new_locator(vhdx, link, &item, &size, err);

	if (rc == 0)
		rc = place_locator(vhdx, size, &place, err);
	if (rc < 0)
		return rc;
	store_le32(place_and_size, place);
	store_le32(place_and_size + 4, (uint32_t)size);
	rc = vhdx_edit_put(&work->edit,
			   region + vhdx->geometry.locator_entry_at +
			       offsetof(struct vhdx_metadata_entry, offset),
			   place_and_size, sizeof(place_and_size), err);
	if (rc == 0)
		rc = vhdx_edit_put(&work->edit, region + place, item, size, err);
	return rc < 0 ? rc : vhdx_edit_commit(&work->edit, err);
}

int vhdx_set_parent(struct file *file, const struct disk_parent_link *link, struct error *err)
{
	struct work *work;
	int rc = work_begin(file, false, &work, err);

	if (rc < 0)
		return rc;
	rc =
	    work->vhdx->geometry.has_parent
		? put_locator(work, link, err)
		: error_set(err, ERR_INVALID, "the VHDX is no differencing disk: it has no parent");
	return work_end(work, rc, err);
}

/* ---- size ---- */

static struct vhdx_geometry resized(const struct vhdx *vhdx, uint64_t size_bytes)
{
	struct vhdx_geometry g = vhdx->geometry;

	g.disk_bytes = size_bytes;
	vhdx_geometry_derive(&g);
	return g;
}

/* Zeroes the entries of blocks that the smaller geometry doesn't have, in place: nobody reads them
 * while that is the disk's size. */
static int zero_entries(struct vhdx *vhdx, const struct vhdx_geometry *smaller, struct error *err)
{
	uint64_t run = smaller->chunk_ratio + 1, at = vhdx_bat_index(smaller, smaller->block_count);
	uint64_t entries = vhdx->bat_region.length / VHDX_BAT_ENTRY_BYTES;
	uint64_t first = MIN(smaller->bat_entries, entries);
	int rc = 0;

	/* the rest of the last chunk, but not its bitmap block */
	if (smaller->has_parent && smaller->block_count % smaller->chunk_ratio)
		rc = file_zero_now(vhdx->file, vhdx->bat_region.offset + at * VHDX_BAT_ENTRY_BYTES,
				   (at / run * run + run - 1 - at) * VHDX_BAT_ENTRY_BYTES);
	if (rc == 0 && first < entries)
		rc = file_zero_now(vhdx->file,
				   vhdx->bat_region.offset + first * VHDX_BAT_ENTRY_BYTES,
				   (entries - first) * VHDX_BAT_ENTRY_BYTES);
	return write_failed(rc, "clearing unused entries of", err);
}

/* Says that the last block's sectors from the disk's end on are in this file. */
static int put_tail_bits(struct work *work, uint64_t bitmap, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t used = g->disk_bytes & (g->block_bytes - 1);
	uint64_t sectors = g->block_bytes / g->logical_sector_bytes;
	int rc = 0;

	for (uint64_t s = used / g->logical_sector_bytes; rc == 0 && s < sectors;) {
		struct vhdx_bits at = vhdx_bits_of(g, g->block_count - 1, s);
		unsigned count = (unsigned)MIN(sectors - s, (uint64_t)(VHDX_PAGE_BITS - at.bit));
		struct vhdx_page *page;

		rc = vhdx_page_now(vhdx, VHDX_PAGE_BITMAP, bitmap + at.page, &page, err);
		if (rc < 0)
			return rc;
		vhdx_bits_set(page, at.bit, count, true);
		rc = vhdx_edit_put(&work->edit, page->offset, page->word, sizeof(page->word), err);
		s += count;
	}
	return rc;
}

static int put_entry(struct work *work, uint64_t index, uint64_t entry, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	uint64_t value = htole64(entry);
	struct vhdx_page *page;
	int rc = vhdx_page_now(vhdx, VHDX_PAGE_BAT, vhdx_bat_page_offset(vhdx, index), &page, err);

	if (rc < 0)
		return rc;
	page->word[index % VHDX_PAGE_ENTRIES] = entry;
	return vhdx_edit_put(&work->edit, vhdx->bat_region.offset + index * VHDX_BAT_ENTRY_BYTES,
			     &value, sizeof(value), err);
}

/* A place at the end of the file, which reads as zeros. */
static int append(struct vhdx *vhdx, uint64_t length, uint64_t *ret, struct error *err)
{
	*ret = ALIGN_UP(vhdx->file->size_bytes, VHDX_MIB);
	return write_failed(file_set_size(vhdx->file, *ret + length), "lengthening", err);
}

/* The last block is the parent's altogether: it gets a place, for the zeros behind the disk's end.
 */
static int claim_last_block(struct work *work, uint64_t bitmap_index, uint64_t bitmap_entry,
			    struct error *err)
{
	const struct vhdx_geometry *g = &work->vhdx->geometry;
	uint64_t bitmap = VHDX_BAT_FILE_OFFSET(bitmap_entry), place;
	int rc = append(work->vhdx, g->block_bytes, &place, err);

	if (rc == 0 && !in_file(bitmap_entry)) {
		rc = append(work->vhdx, VHDX_MIB, &bitmap, err);
		if (rc == 0)
			rc = put_entry(work, bitmap_index, bitmap | VHDX_BLOCK_FULLY_PRESENT, err);
	}
	if (rc == 0)
		rc = put_tail_bits(work, bitmap, err);
	return rc < 0 ? rc
		      : put_entry(work, vhdx_bat_index(g, g->block_count - 1),
				  place | VHDX_BLOCK_PARTIALLY_PRESENT, err);
}

/* What is behind the disk's end in its last block, in this file or in the parent, must not show
 * when the end moves. */
static int clear_last_block(struct work *work, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t used = g->disk_bytes & (g->block_bytes - 1), entry, bitmap;
	uint64_t last = g->block_count - 1;
	uint64_t bitmap_index = last / g->chunk_ratio * (g->chunk_ratio + 1) + g->chunk_ratio;
	int rc = vhdx_entry_now(vhdx, vhdx_bat_index(g, last), &entry, err);

	if (rc < 0 || used == 0)
		return rc;
	if (in_file(entry))
		rc = write_failed(file_zero_now(vhdx->file, VHDX_BAT_FILE_OFFSET(entry) + used,
						g->block_bytes - used),
				  "clearing the last block of", err);
	if (rc < 0 || !g->has_parent || VHDX_BAT_STATE(entry) == VHDX_BLOCK_FULLY_PRESENT)
		return rc;
	rc = vhdx_entry_now(vhdx, bitmap_index, &bitmap, err);
	if (rc == 0 && in_file(entry))
		rc = put_tail_bits(work, VHDX_BAT_FILE_OFFSET(bitmap), err);
	else if (rc == 0 && VHDX_BAT_STATE(entry) == VHDX_BLOCK_NOT_PRESENT)
		rc = claim_last_block(work, bitmap_index, bitmap, err);
	return rc < 0 ? rc : vhdx_edit_commit(&work->edit, err);
}

/* Blocks that are new read as zeros, whatever the parent has there: the child may have been smaller
 * only for a while. Nobody reads these entries yet. */
static int zero_new_blocks(struct vhdx *vhdx, const struct vhdx_geometry *larger, struct error *err)
{
	static uint64_t entries[8192];
	uint64_t block = vhdx->geometry.block_count, run;
	int rc = 0;

	for (size_t i = 0; i < ARRAY_SIZE(entries); i++)
		entries[i] = htole64(VHDX_BLOCK_ZERO);
	for (; rc == 0 && block < larger->block_count; block += run) {
		uint64_t at = vhdx_bat_index(larger, block) * VHDX_BAT_ENTRY_BYTES;

		run = MIN(larger->chunk_ratio - block % larger->chunk_ratio,
			  MIN(larger->block_count - block, (uint64_t)ARRAY_SIZE(entries)));
		rc = file_write_now(vhdx->file, vhdx->bat_region.offset + at, entries,
				    run * VHDX_BAT_ENTRY_BYTES);
	}
	return write_failed(rc, "adding blocks to", err);
}

/* Copies the BAT to the end of the file; zeros follow. */
static int copy_bat(struct vhdx *vhdx, uint64_t to, uint64_t length, struct error *err)
{
	AUTO_FREE uint8_t *buf = malloc(VHDX_MIB);
	int rc = buf ? file_set_size(vhdx->file, to + length) : -ENOMEM;

	for (uint64_t at = 0; at < vhdx->bat_region.length && rc == 0; at += VHDX_MIB) {
		rc = file_read_now(vhdx->file, vhdx->bat_region.offset + at, buf, VHDX_MIB);
		if (rc == 0)
			rc = file_write_now(vhdx->file, to + at, buf, VHDX_MIB);
	}
	return write_failed(rc, "moving the BAT of", err);
}

static int read_region_table(struct file *file, uint8_t *ret, struct error *err)
{
	AUTO_FREE uint8_t *both = malloc(2 * VHDX_REGION_TABLE_BYTES);
	int rc;

	if (!both)
		return no_memory(err);
	rc = file_read_now(file, VHDX_REGION_TABLE_OFFSET(0), both, 2 * VHDX_REGION_TABLE_BYTES);
	if (rc == 0)
		memcpy(ret, vhdx_region_table_choose(both), VHDX_REGION_TABLE_BYTES);
	return write_failed(rc, "reading", err);
}

/* Both region tables with the BAT's new place. */
static int put_regions(struct work *work, uint64_t offset, uint64_t length, struct error *err)
{
	static const struct guid bat = VHDX_REGION_BAT;
	AUTO_FREE uint8_t *table = malloc(VHDX_REGION_TABLE_BYTES);
	struct vhdx_region_table_header *header = (void *)table;
	struct vhdx_region_entry *entries = (void *)(header + 1);
	int rc = table ? read_region_table(work->vhdx->file, table, err) : no_memory(err);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < le32toh(header->entry_count); i++) {
		if (!guid_equal(&entries[i].guid, &bat))
			continue;
		entries[i].file_offset = htole64(offset);
		entries[i].length = htole32((uint32_t)length);
	}
	vhdx_region_table_seal(table);
	for (unsigned slot = 0; slot < 2 && rc == 0; slot++)
		rc = vhdx_edit_put(&work->edit, VHDX_REGION_TABLE_OFFSET(slot), table,
				   VHDX_REGION_TABLE_BYTES, err);
	return rc;
}

/* A longer BAT, if the new size needs one. The old one's space is free from then on. */
static int make_room_in_bat(struct work *work, const struct vhdx_geometry *larger,
			    struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	uint64_t length = ALIGN_UP(larger->bat_entries * VHDX_BAT_ENTRY_BYTES, VHDX_MIB);
	uint64_t offset = ALIGN_UP(vhdx->file->size_bytes, VHDX_MIB);
	int rc;

	if (length <= vhdx->bat_region.length)
		return 0;
	rc = copy_bat(vhdx, offset, length, err);
	if (rc == 0)
		rc = put_regions(work, offset, length, err);
	if (rc == 0)
		rc = vhdx_edit_commit(&work->edit, err);
	if (rc == 0)
		vhdx->bat_region = (struct vhdx_range){ offset, length };
	return rc;
}

/* A fixed disk has all its blocks: new ones lie at the end of the file, one after the other. */
static int allocate_fixed(struct work *work, const struct vhdx_geometry *larger, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t place = ALIGN_UP(vhdx->file->size_bytes, VHDX_MIB);
	uint64_t blocks = larger->block_count - g->block_count;
	int rc = file_set_size(vhdx->file, place + blocks * g->block_bytes);

	if (rc == 0 && blocks)
		rc = file_zero_now(vhdx->file, place, blocks * g->block_bytes);
	for (uint64_t b = g->block_count; b < larger->block_count && rc == 0; b++) {
		uint64_t at = vhdx_bat_index(larger, b) * VHDX_BAT_ENTRY_BYTES, entry;

		entry = htole64(place | VHDX_BLOCK_FULLY_PRESENT);
		rc =
		    file_write_now(vhdx->file, vhdx->bat_region.offset + at, &entry, sizeof(entry));
		place += g->block_bytes;
	}
	return write_failed(rc, "adding blocks to", err);
}

static int put_size(struct work *work, uint64_t size_bytes, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	uint8_t value[8];
	int rc;

	store_le64(value, size_bytes);
	rc = vhdx_edit_put(&work->edit, vhdx->metadata_region.offset + vhdx->geometry.size_at,
			   value, sizeof(value), err);
	return rc < 0 ? rc : vhdx_edit_commit(&work->edit, err);
}

static int grow(struct work *work, const struct vhdx_geometry *larger, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	int rc = zero_entries(vhdx, &vhdx->geometry, err);

	if (rc == 0)
		rc = clear_last_block(work, err);
	if (rc == 0)
		rc = make_room_in_bat(work, larger, err);
	if (rc == 0 && vhdx->geometry.fixed)
		rc = allocate_fixed(work, larger, err);
	if (rc == 0 && vhdx->geometry.has_parent)
		rc = zero_new_blocks(vhdx, larger, err);
	return rc < 0 ? rc : put_size(work, larger->disk_bytes, err);
}

/* Gives back the space of the blocks that the smaller disk doesn't have. */
static int drop_blocks(struct vhdx *vhdx, const struct vhdx_geometry *smaller, struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	int rc = 0;

	for (uint64_t b = smaller->block_count; b < g->block_count && rc == 0; b++) {
		uint64_t entry;

		rc = vhdx_entry_now(vhdx, vhdx_bat_index(g, b), &entry, err);
		vhdx_cache_trim(vhdx);
		if (rc < 0 || !VHDX_BAT_FILE_OFFSET(entry))
			continue;
		rc = write_failed(
		    file_punch_now(vhdx->file, VHDX_BAT_FILE_OFFSET(entry), g->block_bytes),
		    "giving back space of", err);
	}
	return rc;
}

/* The size first: from then on nobody asks for what lies behind. */
static int shrink(struct work *work, const struct vhdx_geometry *smaller, struct error *err)
{
	int rc = put_size(work, smaller->disk_bytes, err);

	if (rc == 0)
		rc = drop_blocks(work->vhdx, smaller, err);
	return rc < 0 ? rc : zero_entries(work->vhdx, smaller, err);
}

static int trim_file(struct file *file, struct error *err)
{
	struct vhdx_load how = { .whole_bat = true };
	struct vhdx *vhdx;
	int rc = vhdx_load(file, &how, &vhdx, err);

	if (rc < 0)
		return rc;
	rc = trim(vhdx, err);
	vhdx_unload(vhdx);
	return rc;
}

int vhdx_resize(struct file *file, uint64_t size_bytes, const struct disk_progress *progress,
		struct error *err)
{
	struct vhdx_geometry target;
	bool smaller;
	struct work *work;
	int rc;

	if (size_bytes == 0 || size_bytes > VHDX_MAX_DISK_BYTES)
		return error_set(err, ERR_INVALID, "a VHDX disk has at most 64 TiB, not %lu bytes",
				 size_bytes);
	rc = work_begin(file, true, &work, err);
	if (rc < 0)
		return rc;
	target = resized(work->vhdx, size_bytes);
	smaller = size_bytes < work->vhdx->geometry.disk_bytes;
	if (size_bytes % target.logical_sector_bytes)
		rc = error_set(err, ERR_INVALID, "a disk size of %lu bytes: it has whole sectors",
			       size_bytes);
	else
		rc = smaller ? shrink(work, &target, err) : grow(work, &target, err);
	rc = work_end(work, rc, err);
	return rc == 0 && smaller ? trim_file(file, err) : rc;
}

/* ---- compaction ---- */

/* A place in the file and the BAT entry that names it. */
struct owner {
	uint64_t place, index;
	bool bitmap;
};

struct owners {
	struct owner *list;
	size_t count, room;
};

static bool add_owner(struct owners *owners, struct owner owner)
{
	if (owners->count == owners->room) {
		size_t room = MAX(owners->room * 2, (size_t)256);
		struct owner *more = realloc(owners->list, room * sizeof(*more));

		if (!more)
			return false;
		owners->list = more;
		owners->room = room;
	}
	owners->list[owners->count++] = owner;
	return true;
}

static int by_place_down(const void *a, const void *b)
{
	const struct owner *x = a, *y = b;

	return x->place > y->place ? -1 : x->place < y->place;
}

/* Does the range of the file hold only zeros? */
static int is_zero(struct vhdx *vhdx, uint64_t offset, uint64_t length, uint8_t *buf, bool *ret)
{
	uint64_t end = offset + length, next;
	bool data;
	int rc = 0;

	for (*ret = true; offset < end && *ret && rc == 0; offset = next) {
		rc = file_extent(vhdx->file, offset, &data, &next);
		next = MIN(MIN(next, end), data ? offset + VHDX_MIB : end);
		if (rc < 0 || !data)
			continue;
		rc = file_read_now(vhdx->file, offset, buf, next - offset);
		*ret = rc == 0 && buf[0] == 0 && memcmp(buf, buf + 1, next - offset - 1) == 0;
	}
	return rc;
}

/* Places that the step about to be committed no longer names. */
struct freed {
	struct owner list[4096];
	size_t count;
};

static void forget_freed(struct vhdx *vhdx, struct freed *freed)
{
	for (size_t i = 0; i < freed->count; i++)
		space_free(&vhdx->space, freed->list[i].place,
			   freed->list[i].bitmap ? VHDX_MIB : vhdx->geometry.block_bytes, false);
	freed->count = 0;
}

static int commit(struct work *work, struct freed *freed, struct error *err)
{
	int rc = vhdx_edit_commit(&work->edit, err);

	if (rc == 0)
		forget_freed(work->vhdx, freed);
	return rc;
}

/* The entry with which an unneeded block gives its place up; the same entry if it is needed. */
static int compacted_entry(struct vhdx *vhdx, uint64_t entry, enum disk_compact_mode mode,
			   uint8_t *buf, uint64_t *ret, struct error *err)
{
	bool zero = false;
	int rc = 0;

	*ret = entry;
	if (!in_file(entry))
		*ret = VHDX_BAT_STATE(entry);
	else if (mode == DISK_COMPACT_FULL && VHDX_BAT_STATE(entry) == VHDX_BLOCK_FULLY_PRESENT)
		rc = is_zero(vhdx, VHDX_BAT_FILE_OFFSET(entry), vhdx->geometry.block_bytes, buf,
			     &zero);
	if (zero)
		*ret = VHDX_BLOCK_ZERO;
	return write_failed(rc, "reading", err);
}

static int drop_unneeded(struct work *work, enum disk_compact_mode mode, struct freed *freed,
			 struct owners *owners, const struct disk_progress *progress,
			 struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	const struct vhdx_geometry *g = &vhdx->geometry;
	AUTO_FREE uint8_t *buf = malloc(VHDX_MIB);
	int rc = buf ? 0 : no_memory(err);

	for (uint64_t b = 0; b < g->block_count && rc == 0; b++) {
		uint64_t index = vhdx_bat_index(g, b), entry, wanted;

		vhdx_cache_trim(vhdx);
		rc = vhdx_entry_now(vhdx, index, &entry, err);
		if (rc < 0 || !VHDX_BAT_FILE_OFFSET(entry))
			continue;
		rc = compacted_entry(vhdx, entry, mode, buf, &wanted, err);
		if (rc == 0 && wanted != entry) {
			freed->list[freed->count++] =
			    (struct owner){ VHDX_BAT_FILE_OFFSET(entry), index, false };
			rc = put_entry(work, index, wanted, err);
		} else if (rc == 0 &&
			   !add_owner(owners, (struct owner){ VHDX_BAT_FILE_OFFSET(entry), index,
							      false })) {
			rc = no_memory(err);
		}
		if (rc == 0 && (!vhdx_edit_has_room(&work->edit, 0) ||
				freed->count == ARRAY_SIZE(freed->list)))
			rc = commit(work, freed, err);
		if (rc == 0 && b % 64 == 0 && cancelled(progress, b, 2 * g->block_count))
			rc = cancel(err);
	}
	return rc < 0 ? rc : commit(work, freed, err);
}

static int add_bitmaps(struct vhdx *vhdx, struct owners *owners, struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t run = g->chunk_ratio + 1;

	for (uint64_t i = run - 1; g->has_parent && i < g->bat_entries; i += run) {
		uint64_t entry;
		int rc = vhdx_entry_now(vhdx, i, &entry, err);

		vhdx_cache_trim(vhdx);
		if (rc < 0)
			return rc;
		if (VHDX_BAT_FILE_OFFSET(entry) &&
		    !add_owner(owners, (struct owner){ VHDX_BAT_FILE_OFFSET(entry), i, true }))
			return no_memory(err);
	}
	return 0;
}

/* Holes stay holes. */
static int copy_place(struct vhdx *vhdx, uint64_t from, uint64_t to, uint64_t length, uint8_t *buf)
{
	int rc = file_punch_now(vhdx->file, to, length);

	for (uint64_t at = 0, next; at < length && rc == 0; at = next) {
		bool data;

		rc = file_extent(vhdx->file, from + at, &data, &next);
		next = MIN(MIN(next - from, length), data ? at + VHDX_MIB : length);
		if (rc < 0 || !data)
			continue;
		rc = file_read_now(vhdx->file, from + at, buf, next - at);
		if (rc == 0)
			rc = file_write_now(vhdx->file, to + at, buf, next - at);
	}
	return rc;
}

/* *ret_moved false: there is no hole before it. */
static int move_down(struct work *work, const struct owner *owner, struct freed *freed,
		     uint8_t *buf, bool *ret_moved, struct error *err)
{
	struct vhdx *vhdx = work->vhdx;
	uint64_t length = owner->bitmap ? VHDX_MIB : vhdx->geometry.block_bytes, to, entry;
	bool stale;
	int rc;

	*ret_moved = false;
	if (!space_alloc(&vhdx->space, !owner->bitmap, &to, &stale))
		return no_memory(err);
	if (to > owner->place) {
		space_free(&vhdx->space, to, length, !stale);
		return 0;
	}
	rc = write_failed(copy_place(vhdx, owner->place, to, length, buf), "moving blocks of", err);
	if (rc == 0)
		rc = vhdx_entry_now(vhdx, owner->index, &entry, err);
	if (rc == 0)
		rc = put_entry(work, owner->index, to | VHDX_BAT_STATE(entry), err);
	freed->list[freed->count++] = *owner;
	*ret_moved = true;
	return rc;
}

static int fill_holes(struct work *work, struct freed *freed, struct owners *owners,
		      const struct disk_progress *progress, struct error *err)
{
	uint64_t per_step = MAX(256 * VHDX_MIB / work->vhdx->geometry.block_bytes, UINT64_C(1));
	AUTO_FREE uint8_t *buf = malloc(VHDX_MIB);
	int rc = buf ? 0 : no_memory(err);

	if (owners->count)
		qsort(owners->list, owners->count, sizeof(*owners->list), by_place_down);
	for (size_t i = 0; i < owners->count && rc == 0; i++) {
		bool moved;

		vhdx_cache_trim(work->vhdx);
		rc = move_down(work, &owners->list[i], freed, buf, &moved, err);
		if (rc == 0 && (freed->count >= per_step || !vhdx_edit_has_room(&work->edit, 0)))
			rc = commit(work, freed, err);
		if (rc == 0 && cancelled(progress, owners->count + i, 2 * owners->count))
			rc = cancel(err);
	}
	return rc < 0 ? rc : commit(work, freed, err);
}

static int compact(struct work *work, enum disk_compact_mode mode,
		   const struct disk_progress *progress, struct error *err)
{
	AUTO_FREE struct freed *freed = calloc(1, sizeof(*freed));
	struct owners owners = { 0 };
	int rc = freed ? 0 : no_memory(err);

	if (rc == 0)
		rc = drop_unneeded(work, mode, freed, &owners, progress, err);
	if (rc == 0)
		rc = add_bitmaps(work->vhdx, &owners, err);
	if (rc == 0)
		rc = fill_holes(work, freed, &owners, progress, err);
	free(owners.list);
	return rc;
}

/* Holes that nothing fitted into take no space of the host. */
static void punch_holes(struct vhdx *vhdx)
{
	uint64_t offset = 0, length;

	while (space_next_hole(&vhdx->space, &offset, &length) && offset < vhdx->file->size_bytes) {
		file_punch_now(vhdx->file, offset, length);
		offset += length;
	}
}

int vhdx_compact(struct file *file, enum disk_compact_mode mode,
		 const struct disk_progress *progress, struct error *err)
{
	struct work *work;
	int rc = work_begin(file, false, &work, err);

	if (rc < 0)
		return rc;
	if (work->vhdx->geometry.fixed)
		rc = error_set(err, ERR_INVALID,
			       "a fixed disk keeps all its blocks: there is nothing to compact");
	else
		rc = compact(work, mode, progress, err);
	if (rc == 0)
		rc = vhdx_edit_end(work->vhdx, err);
	if (rc == 0)
		rc = trim(work->vhdx, err);
	if (rc == 0)
		punch_holes(work->vhdx);
	return work_end(work, rc, err);
}
