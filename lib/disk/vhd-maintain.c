/*
 * Offline changes of a VHD. Each is a row of single-sector writes with syncs between them, every
 * prefix of which is a valid image: a footer and the part of the dynamic header that tells where
 * things are each lie in one sector. Of the two footers of a dynamic disk the last one counts, so
 * it is written first.
 */
#include "disk/vhd-impl.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "base/utf16.h"

#include <errno.h>

#define ENTRIES_PER_SECTOR (VHD_SECTOR_BYTES / VHD_BAT_ENTRY_BYTES)
#define COPY_BYTES         (1 * MIB)
#define MOVES_PER_ROUND    64u

static int write_at(struct vhd *vhd, uint64_t offset, const void *buf, size_t len,
		    struct error *err)
{
	int rc = file_write_now(vhd->image.file, offset, buf, len);

	return rc < 0 ? error_set_errno(err, -rc, "writing the VHD file at %#lx", offset) : 0;
}

static int sync_now(struct vhd *vhd, struct error *err)
{
	int rc = file_sync_now(vhd->image.file);

	return rc < 0 ? error_set_errno(err, -rc, "syncing the VHD file") : 0;
}

static int write_synced(struct vhd *vhd, uint64_t offset, const void *buf, size_t len,
			struct error *err)
{
	int rc = write_at(vhd, offset, buf, len, err);

	return rc < 0 ? rc : sync_now(vhd, err);
}

static int tell(const struct disk_progress *progress, uint64_t done, uint64_t total,
		struct error *err)
{
	if (progress && !progress->step(progress->user, done, total))
		return error_set(err, ERR_CANCELLED, "the work on the VHD was ended");
	return 0;
}

/* vhd->footer, sealed anew, at the end and as the copy. */
static int write_footers(struct vhd *vhd, struct error *err)
{
	int rc;

	vhd_footer_seal(&vhd->footer);
	rc = write_synced(vhd, vhd->room_end, &vhd->footer, sizeof(vhd->footer), err);
	if (rc == 0 && vhd->geometry.type != VHD_FIXED)
		rc = vhd_repair_copy(vhd, err);
	return rc;
}

/* Room for blocks up to end, the footer behind. */
static int make_room(struct vhd *vhd, uint64_t end, struct error *err)
{
	uint64_t bytes = vhd_file_bytes(end);
	int rc;

	if (end <= vhd->room_end)
		return 0;
	rc = vhd_write_footer_now(vhd, MAX(bytes, vhd->image.file->size_bytes));
	if (rc < 0)
		return error_set_errno(err, -rc, "enlarging the VHD file");
	vhd->room_end = vhd->image.file->size_bytes - sizeof(vhd->footer);
	return 0;
}

static int load(struct file *file, struct vhd **ret, struct error *err)
{
	int rc = vhd_load(file, ret, err);

	if (rc == 0 && (*ret)->footer_damaged)
		rc = vhd_repair_footer(*ret, err);
	return rc;
}

/* ---- moving blocks ---- */

static int copy_bytes(struct vhd *vhd, uint64_t from, uint64_t to, uint64_t length,
		      struct error *err)
{
	AUTO_FREE uint8_t *buf = malloc(COPY_BYTES);
	int rc = 0;

	if (!buf)
		return error_set(err, ERR_NO_MEMORY, "no memory to move a VHD block");
	for (uint64_t at = 0; rc == 0 && at < length; at += COPY_BYTES) {
		size_t len = MIN(length - at, COPY_BYTES);

		rc = file_read_now(vhd->image.file, from + at, buf, len);
		if (rc < 0)
			return error_set_errno(err, -rc, "reading the VHD file at %#lx", from + at);
		rc = write_at(vhd, to + at, buf, len, err);
	}
	return rc;
}

/* The sector of the table that holds the block's entry. */
static int write_entries(struct vhd *vhd, uint32_t block, struct error *err)
{
	const struct vhd_geometry *g = &vhd->geometry;
	uint32_t first = block - block % ENTRIES_PER_SECTOR;
	uint32_t count = MIN(vhd->bat_entries - first, (uint32_t)ENTRIES_PER_SECTOR);
	uint8_t bytes[VHD_SECTOR_BYTES];

	for (uint32_t i = 0; i < count; i++)
		store_be32(bytes + i * VHD_BAT_ENTRY_BYTES, vhd->bat[first + i]);
	return write_at(vhd, g->table_offset + (uint64_t)first * VHD_BAT_ENTRY_BYTES, bytes,
			count * VHD_BAT_ENTRY_BYTES, err);
}

struct move {
	uint32_t block;
	uint64_t to;
};

/* The blocks keep their old places until the table that names the new ones is durable. */
static int move_blocks(struct vhd *vhd, const struct move *moves, unsigned count, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < count; i++)
		rc = copy_bytes(vhd, vhd_place_of(vhd, moves[i].block), moves[i].to,
				vhd_slot_bytes(&vhd->geometry), err);
	if (rc == 0)
		rc = sync_now(vhd, err);
	for (unsigned i = 0; rc == 0 && i < count; i++) {
		vhd->bat[moves[i].block] = (uint32_t)(moves[i].to / VHD_SECTOR_BYTES);
		rc = write_entries(vhd, moves[i].block, err);
	}
	return rc < 0 ? rc : sync_now(vhd, err);
}

static int move_to_end(struct vhd *vhd, uint32_t block, struct error *err)
{
	struct move move = { block, vhd_block_place(&vhd->geometry, vhd->end) };
	int rc = make_room(vhd, move.to + vhd_slot_bytes(&vhd->geometry), err);

	if (rc < 0)
		return rc;
	vhd->end = move.to + vhd_slot_bytes(&vhd->geometry);
	return move_blocks(vhd, &move, 1, err);
}

/* ---- resizing ---- */

/* There is only one footer, at the end. Until one is durable at the new end the old one is found as
 * the last thing that isn't zero (try_footer_before_zeros); the new one first tells the old size,
 * so that the old one can go before its place shows. */
static int grow_fixed(struct vhd *vhd, uint64_t size_bytes, struct error *err)
{
	uint64_t old_end = MIN(vhd->image.file->size_bytes, size_bytes);
	uint64_t disk_bytes = vhd->geometry.disk_bytes;
	int rc = vhd_write_footer_now(vhd, size_bytes + sizeof(vhd->footer));

	if (rc == 0 && old_end > disk_bytes)
		rc = file_zero_now(vhd->image.file, disk_bytes, old_end - disk_bytes);
	if (rc == 0)
		rc = file_sync_now(vhd->image.file);
	vhd_footer_set_size(&vhd->footer, size_bytes);
	vhd_footer_seal(&vhd->footer);
	if (rc == 0)
		rc = vhd_write_footer_now(vhd, size_bytes + sizeof(vhd->footer));
	return rc < 0 ? error_set_errno(err, -rc, "enlarging the VHD file") : 0;
}

/* Blocks that lie where the longer table will go, and a last one that isn't whole. */
static int clear_table_space(struct vhd *vhd, uint64_t table_end,
			     const struct disk_progress *progress, struct error *err)
{
	uint32_t count = vhd->geometry.block_count;
	int rc = 0;

	for (uint32_t block = 0; rc == 0 && block < count; block++) {
		bool cut = vhd->short_block && block + 1 == count;

		if (vhd->bat[block] == VHD_BAT_UNUSED ||
		    (vhd_place_of(vhd, block) >= table_end && !cut))
			continue;
		rc = tell(progress, block, count, err);
		if (rc == 0)
			rc = move_to_end(vhd, block, err);
	}
	return rc;
}

/* What lies behind the disk's old end in its last block was never shown. */
static int clear_behind_end(struct vhd *vhd, struct error *err)
{
	const struct vhd_geometry *g = &vhd->geometry;
	uint32_t last = g->block_count - 1;
	uint64_t from = g->bitmap_bytes + ((g->disk_bytes - 1) & (g->block_bytes - 1)) + 1;
	int rc;

	if (vhd->bat[last] == VHD_BAT_UNUSED || from == vhd_slot_bytes(g))
		return 0;
	rc = make_room(vhd, vhd_place_of(vhd, last) + vhd_slot_bytes(g), err);
	if (rc < 0)
		return rc;
	rc = file_zero_now(vhd->image.file, vhd_place_of(vhd, last) + from,
			   vhd_slot_bytes(g) - from);
	return rc < 0 ? error_set_errno(err, -rc, "clearing the end of the VHD's last block") : 0;
}

static int write_unused_entries(struct vhd *vhd, uint32_t first, uint64_t table_end,
				struct error *err)
{
	static const uint8_t unused[65536] = { [0 ... 65535] = 0xff };
	uint64_t at = vhd->geometry.table_offset + (uint64_t)first * VHD_BAT_ENTRY_BYTES;
	int rc = 0;

	for (uint64_t len; rc == 0 && at < table_end; at += len) {
		len = MIN(table_end - at, sizeof(unused));
		rc = write_at(vhd, at, unused, len, err);
	}
	return rc < 0 ? rc : sync_now(vhd, err);
}

static int read_header(struct vhd *vhd, struct vhd_header *ret, struct error *err)
{
	int rc = file_read_now(vhd->image.file, vhd->geometry.header_offset, ret, sizeof(*ret));

	return rc < 0 ? error_set_errno(err, -rc, "reading the VHD dynamic header") : 0;
}

/* Only what lies in its first sector has changed. */
static int write_header_start(struct vhd *vhd, struct vhd_header *header, struct error *err)
{
	vhd_header_seal(header);
	return write_synced(vhd, vhd->geometry.header_offset, header, VHD_SECTOR_BYTES, err);
}

static int lengthen_table(struct vhd *vhd, uint32_t entries, const struct disk_progress *progress,
			  struct error *err)
{
	uint64_t table_end = ALIGN_UP(
	    vhd->geometry.table_offset + (uint64_t)entries * VHD_BAT_ENTRY_BYTES, VHD_SECTOR_BYTES);
	struct vhd_header header;
	int rc;

	if (vhd->geometry.header_offset >= vhd->geometry.table_offset &&
	    vhd->geometry.header_offset < table_end)
		return error_set(err, ERR_UNSUPPORTED,
				 "the VHD has its dynamic header behind the block table, which "
				 "can't become longer: convert it");
	rc = clear_table_space(vhd, table_end, progress, err);
	if (rc == 0)
		rc = make_room(vhd, table_end, err);
	vhd->end = MAX(vhd->end, table_end);
	if (rc == 0)
		rc = clear_behind_end(vhd, err);
	if (rc == 0)
		rc = write_unused_entries(vhd, vhd->geometry.block_count, table_end, err);
	if (rc == 0)
		rc = read_header(vhd, &header, err);
	if (rc < 0 || entries <= vhd->geometry.table_entries)
		return rc;
	header.max_table_entries = htobe32(entries);
	vhd->structures_end = MAX(vhd->structures_end, table_end);
	return write_header_start(vhd, &header, err);
}

static int grow_dynamic(struct vhd *vhd, uint64_t size_bytes, const struct disk_progress *progress,
			struct error *err)
{
	uint64_t entries = (size_bytes - 1) / vhd->geometry.block_bytes + 1;
	int rc;

	if (entries > VHD_MAX_TABLE_ENTRIES)
		return error_set(err, ERR_LIMIT,
				 "a VHD of %lu bytes needs larger blocks than its %u bytes",
				 size_bytes, vhd->geometry.block_bytes);
	rc = lengthen_table(vhd, (uint32_t)entries, progress, err);
	if (rc < 0)
		return rc;
	vhd_footer_set_size(&vhd->footer, size_bytes);
	return write_footers(vhd, err);
}

static int check_new_size(const struct vhd *vhd, uint64_t size_bytes, struct error *err)
{
	if (vhd->geometry.type == VHD_DIFFERENCING)
		return error_set(err, ERR_INVALID, "a differencing VHD can't be resized");
	if (size_bytes < vhd->geometry.disk_bytes)
		return error_set(err, ERR_INVALID, "a VHD disk can't be made smaller");
	if (size_bytes > VHD_MAX_BYTES || size_bytes % VHD_SECTOR_BYTES)
		return error_set(err, ERR_INVALID,
				 "a VHD disk of %lu bytes: it has whole sectors of 512 bytes and "
				 "at most 2040 GiB",
				 size_bytes);
	return 0;
}

int vhd_resize(struct file *file, uint64_t size_bytes, const struct disk_progress *progress,
	       struct error *err)
{
	struct vhd *vhd;
	int rc = load(file, &vhd, err);

	if (rc < 0)
		return rc;
	rc = check_new_size(vhd, size_bytes, err);
	if (rc == 0 && size_bytes > vhd->geometry.disk_bytes)
		rc = vhd->geometry.type == VHD_FIXED ? grow_fixed(vhd, size_bytes, err)
						     : grow_dynamic(vhd, size_bytes, progress, err);
	vhd_free(vhd);
	return rc;
}

/* ---- compaction ---- */

static bool all_zero(const uint8_t *bytes, uint64_t len)
{
	return bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0;
}

static int has_only_zeros(struct vhd *vhd, uint32_t block, uint8_t *buf, bool *ret,
			  struct error *err)
{
	uint64_t at = vhd_place_of(vhd, block) + vhd->geometry.bitmap_bytes;
	uint64_t end = vhd_place_of(vhd, block) + vhd_block_file_bytes(&vhd->geometry, block);

	*ret = true;
	for (uint64_t len; *ret && at < end; at += len) {
		int rc;

		len = MIN(end - at, COPY_BYTES);
		rc = file_read_now(vhd->image.file, at, buf, len);
		if (rc < 0)
			return error_set_errno(err, -rc, "reading the VHD file at %#lx", at);
		*ret = all_zero(buf, len);
	}
	return 0;
}

/* No sector is there; or, where there is no parent, all are zeros. (A sector that isn't there may
 * have other bytes than zeros in the file: then the block stays.) */
static int is_droppable(struct vhd *vhd, uint32_t block, enum disk_compact_mode mode, uint8_t *buf,
			bool *ret, struct error *err)
{
	const uint8_t *bitmap;
	int rc = vhd_bitmap_now(vhd, block, &bitmap, err);

	if (rc < 0)
		return rc;
	*ret = bitmap != vhd_full && vhd_bits_all(bitmap, vhd_sectors_per_block(vhd), false);
	if (*ret || mode == DISK_COMPACT_QUICK || vhd->geometry.type != VHD_DYNAMIC)
		return 0;
	return has_only_zeros(vhd, block, buf, ret, err);
}

static int drop_blocks(struct vhd *vhd, enum disk_compact_mode mode,
		       const struct disk_progress *progress, struct error *err)
{
	AUTO_FREE uint8_t *buf = malloc(COPY_BYTES);
	uint32_t count = vhd->geometry.block_count;
	bool droppable = false;
	int rc = 0;

	if (!buf)
		return error_set(err, ERR_NO_MEMORY, "no memory to compact a VHD");
	for (uint32_t block = 0; rc == 0 && block < count; block++) {
		if (vhd->bat[block] == VHD_BAT_UNUSED)
			continue;
		rc = tell(progress, block, (uint64_t)count * 2, err);
		if (rc == 0)
			rc = is_droppable(vhd, block, mode, buf, &droppable, err);
		if (rc < 0 || !droppable)
			continue;
		vhd->bat[block] = VHD_BAT_UNUSED;
		rc = write_entries(vhd, block, err);
	}
	return rc < 0 ? rc : sync_now(vhd, err);
}

/* The first place at or behind offset, below limit, where a block fits between blocks, structures
 * and paths; limit if there is none. *next: the first of the sorted blocks that lies behind. */
static uint64_t next_hole(const struct vhd *vhd, const uint64_t *sorted, size_t count, size_t *next,
			  uint64_t offset, uint64_t limit)
{
	uint64_t slot = vhd_slot_bytes(&vhd->geometry);

	for (;;) {
		uint64_t place = vhd_free_place(vhd, offset);

		while (*next < count && (sorted[*next] >> 32) * VHD_SECTOR_BYTES + slot <= place)
			++*next;
		if (place + slot > limit)
			return limit;
		if (*next == count || (sorted[*next] >> 32) * VHD_SECTOR_BYTES >= place + slot)
			return place;
		offset = (sorted[*next] >> 32) * VHD_SECTOR_BYTES + slot;
	}
}

/* Moves blocks from the end into holes, some at a time; *ret_count: how many. */
static int fill_holes(struct vhd *vhd, unsigned *ret_count, struct error *err)
{
	size_t count, next = 0;
	AUTO_FREE uint64_t *sorted = vhd_sorted_places(vhd, &count);
	struct move moves[MOVES_PER_ROUND];
	uint64_t offset = 0;

	*ret_count = 0;
	if (!sorted)
		return error_set(err, ERR_NO_MEMORY, "no memory to compact a VHD");
	while (*ret_count < MOVES_PER_ROUND && count > *ret_count) {
		uint32_t block = (uint32_t)sorted[count - 1 - *ret_count];
		uint64_t place = vhd_place_of(vhd, block);
		uint64_t hole = next_hole(vhd, sorted, count, &next, offset, place);

		if (hole >= place)
			break;
		moves[(*ret_count)++] = (struct move){ block, hole };
		offset = hole + vhd_slot_bytes(&vhd->geometry);
	}
	return *ret_count ? move_blocks(vhd, moves, *ret_count, err) : 0;
}

static int compact(struct vhd *vhd, enum disk_compact_mode mode,
		   const struct disk_progress *progress, struct error *err)
{
	uint64_t blocks = vhd->geometry.block_count, done = blocks;
	unsigned moved = 1;
	int rc = drop_blocks(vhd, mode, progress, err);

	while (rc == 0 && moved > 0) {
		rc = tell(progress, MIN(done, blocks * 2), blocks * 2, err);
		if (rc == 0)
			rc = fill_holes(vhd, &moved, err);
		done += moved;
	}
	if (rc < 0)
		return rc;
	rc = vhd_trim(vhd);
	return rc < 0 ? error_set_errno(err, -rc, "cutting the VHD file to its size") : 0;
}

int vhd_compact(struct file *file, enum disk_compact_mode mode,
		const struct disk_progress *progress, struct error *err)
{
	struct vhd *vhd;
	int rc = load(file, &vhd, err);

	if (rc < 0)
		return rc;
	if (vhd->geometry.type == VHD_FIXED)
		rc = error_set(err, ERR_INVALID, "a fixed VHD has no blocks to compact");
	else
		rc = compact(vhd, mode, progress, err);
	vhd_free(vhd);
	return rc;
}

/* ---- properties ---- */

int vhd_set_id(struct file *file, const struct guid *id, struct error *err)
{
	struct vhd *vhd;
	int rc = load(file, &vhd, err);

	if (rc < 0)
		return rc;
	vhd->footer.unique_id = *id;
	rc = write_footers(vhd, err);
	vhd_free(vhd);
	return rc;
}

/* A path behind everything else. */
static int append_path(struct vhd *vhd, struct vhd_locator *locator, const char *code,
		       const char *path, struct error *err)
{
	AUTO_FREE uint8_t *text = malloc(VHD_MAX_PATH_BYTES);
	uint32_t bytes;
	int rc;

	memset(locator, 0, sizeof(*locator));
	if (!path)
		return 0;
	if (!text)
		return error_set(err, ERR_NO_MEMORY, "no memory for a path in a VHD");
	bytes = utf16_from_utf8(path, text, VHD_MAX_PATH_BYTES);
	if (bytes <= 2)
		return error_set(err, ERR_INVALID,
				 "the path '%s' of the parent is empty, too long or no UTF-8",
				 path);
	bytes -= 2;
	vhd->end = ALIGN_UP(vhd->end, VHD_SECTOR_BYTES);
	rc = make_room(vhd, vhd->end + bytes, err);
	if (rc == 0)
		rc = write_at(vhd, vhd->end, text, bytes, err);
	memcpy(locator->code, code, sizeof(locator->code));
	locator->data_space = htobe32(ALIGN_UP(bytes, VHD_SECTOR_BYTES));
	locator->data_length = htobe32(bytes);
	locator->data_offset = htobe64(vhd->end);
	vhd->end += ALIGN_UP(bytes, VHD_SECTOR_BYTES);
	return rc;
}

static int point_to_header(struct vhd *vhd, uint64_t offset, struct error *err)
{
	vhd->footer.data_offset = htobe64(offset);
	return write_footers(vhd, err);
}

/* More than one sector changes: a second header counts while the first is written. */
static int replace_header(struct vhd *vhd, struct vhd_header *header, struct error *err)
{
	uint64_t home = vhd->geometry.header_offset, other = vhd->end;
	int rc = make_room(vhd, other + sizeof(*header), err);

	vhd_header_seal(header);
	if (rc == 0)
		rc = write_synced(vhd, other, header, sizeof(*header), err);
	if (rc == 0)
		rc = point_to_header(vhd, other, err);
	if (rc == 0)
		rc = write_synced(vhd, home, header, sizeof(*header), err);
	return rc < 0 ? rc : point_to_header(vhd, home, err);
}

static int relink(struct vhd *vhd, const struct disk_parent_link *link, struct error *err)
{
	struct vhd_header header;
	int rc = read_header(vhd, &header, err);

	if (rc < 0)
		return rc;
	header.parent_unique_id = link->parent->link_id;
	header.parent_time_stamp = 0;
	if (!link->absolute && !link->relative)
		return write_header_start(vhd, &header, err);
	vhd_header_set_parent_name(&header, link->absolute ?: link->relative);
	memset(header.locators, 0, sizeof(header.locators));
	rc = append_path(vhd, &header.locators[0], VHD_LOCATOR_ABSOLUTE, link->absolute, err);
	if (rc == 0)
		rc = append_path(vhd, &header.locators[1], VHD_LOCATOR_RELATIVE, link->relative,
				 err);
	if (rc < 0)
		return rc;
	vhd->structures_end = MAX(vhd->structures_end, vhd->end);
	rc = replace_header(vhd, &header, err);
	if (rc == 0 && (rc = vhd_trim(vhd)) < 0)
		rc = error_set_errno(err, -rc, "cutting the VHD file to its size");
	return rc;
}

int vhd_set_parent(struct file *file, const struct disk_parent_link *link, struct error *err)
{
	struct vhd *vhd;
	int rc = load(file, &vhd, err);

	if (rc < 0)
		return rc;
	if (vhd->geometry.type == VHD_DIFFERENCING)
		rc = relink(vhd, link, err);
	else
		rc = error_set(err, ERR_INVALID, "the VHD is not differencing: it has no parent");
	vhd_free(vhd);
	return rc;
}

/* ---- check ---- */

struct check {
	const struct disk_check_options *options;
	enum disk_severity worst;
};

static void report(struct check *check, struct disk_finding finding)
{
	if (!finding.repaired)
		check->worst = MAX(check->worst, finding.severity);
	if (check->options->report)
		check->options->report(check->options->user, &finding);
}

static int check_footer(struct vhd *vhd, struct check *check, struct error *err)
{
	bool damaged = vhd->footer_damaged;
	uint64_t offset = vhd->footer_offset;
	int rc = 0;

	if (!damaged)
		return 0;
	if (check->options->repair)
		rc = vhd_repair_footer(vhd, err);
	report(check, (struct disk_finding){
			  .severity = DISK_DAMAGE,
			  .offset = offset,
			  .what = "the footer at the end of the file is missing or damaged",
			  .advice = "repair writes it anew from the copy at the start",
			  .repairable = true,
			  .repaired = check->options->repair && rc == 0 });
	return rc;
}

static int check_copy(struct vhd *vhd, struct check *check, struct error *err)
{
	int rc = vhd_copy_differs(vhd, err);

	if (rc <= 0)
		return rc;
	rc = check->options->repair ? vhd_repair_copy(vhd, err) : 0;
	report(check, (struct disk_finding){
			  .severity = DISK_DAMAGE,
			  .what = "the footer's copy at the start of the file differs from the "
				  "footer or is damaged",
			  .advice = "repair writes it anew from the footer",
			  .repairable = true,
			  .repaired = check->options->repair && rc == 0 });
	return rc;
}

static void check_parent_paths(const struct vhd *vhd, struct check *check)
{
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (vhd->structures[VHD_OTHER_STRUCTURES + i].length)
			return;
	report(check, (struct disk_finding){ .severity = DISK_DAMAGE,
					     .offset = vhd->geometry.header_offset,
					     .what = "there is no path to the parent",
					     .advice = "tell it by Set-VHD -ParentPath" });
}

static int check_space(struct vhd *vhd, struct check *check, struct error *err)
{
	size_t count, next = 0;
	AUTO_FREE uint64_t *sorted = vhd_sorted_places(vhd, &count);
	uint64_t limit, hole;

	if (!sorted)
		return error_set(err, ERR_NO_MEMORY, "no memory to check a VHD");
	limit = count ? (sorted[count - 1] >> 32) * VHD_SECTOR_BYTES : vhd->structures_end;
	hole = next_hole(vhd, sorted, count, &next, 0, limit);
	if (hole < limit)
		report(check,
		       (struct disk_finding){ .severity = DISK_LEAK,
					      .offset = hole,
					      .what = "there are unused places between blocks",
					      .advice = "Optimize-VHD gives them back" });
	if (vhd_file_bytes(vhd->end) < vhd->image.file->size_bytes)
		report(check,
		       (struct disk_finding){ .severity = DISK_LEAK,
					      .offset = vhd->end,
					      .what = "there is unused space behind the blocks",
					      .advice = "Optimize-VHD gives it back" });
	return 0;
}

int vhd_check(struct file *file, const struct disk_check_options *options,
	      enum disk_severity *ret_worst, struct error *err)
{
	struct check check = { .options = options, .worst = DISK_NOTE };
	struct error broken;
	struct vhd *vhd;
	int rc = vhd_load(file, &vhd, &broken);

	if (rc == -ERR_CORRUPT || rc == -ERR_UNSUPPORTED || rc == -ERR_LIMIT) {
		report(&check, (struct disk_finding){ .severity = DISK_DAMAGE,
						      .what = broken.text,
						      .advice = "restore the file from a backup" });
		*ret_worst = check.worst;
		return 0;
	}
	if (rc < 0) {
		if (err)
			*err = broken;
		return rc;
	}
	rc = check_footer(vhd, &check, err);
	if (rc == 0)
		rc = check_copy(vhd, &check, err);
	if (vhd->geometry.type == VHD_DIFFERENCING)
		check_parent_paths(vhd, &check);
	if (rc == 0 && vhd->geometry.type != VHD_FIXED)
		rc = check_space(vhd, &check, err);
	*ret_worst = check.worst;
	vhd_free(vhd);
	return rc;
}
