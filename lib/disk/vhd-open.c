/*
 * Opening a VHD: footer (or its copy), dynamic header, block table. Nothing of a block is read
 * before it is needed.
 */
#include "disk/vhd-impl.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "base/utf16.h"

#include <errno.h>
#include <sys/stat.h>

#define MAX_FREE_PLACES   65536u
#define SEARCH_SECTORS    128u /* of a page and some */
#define TABLE_READ_BYTES  65536u
#define UNMAP_GRANULARITY 65536u

/* ---- footer ---- */

bool vhd_probe(int fd)
{
	struct vhd_footer footer;
	struct stat st;

	if (pread(fd, footer.cookie, sizeof(footer.cookie), 0) == sizeof(footer.cookie) &&
	    memcmp(footer.cookie, VHD_FOOTER_COOKIE, sizeof(footer.cookie)) == 0)
		return true;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return false;
	for (unsigned bytes = VHD_FOOTER_BYTES; bytes >= VHD_SHORT_FOOTER_BYTES; bytes--)
		if (st.st_size >= bytes &&
		    pread(fd, footer.cookie, sizeof(footer.cookie), st.st_size - bytes) ==
			sizeof(footer.cookie) &&
		    memcmp(footer.cookie, VHD_FOOTER_COOKIE, sizeof(footer.cookie)) == 0)
			return true;
	return false;
}

static int read_at(struct file *file, uint64_t offset, void *buf, size_t len, struct error *err)
{
	int rc = file_read_now(file, offset, buf, len);

	return rc < 0 ? error_set_errno(err, -rc, "reading the VHD file at %#lx", offset) : 0;
}

/* A footer of bytes (512 or 511) that ends at the end of the file. */
static int try_last_footer(struct vhd *vhd, unsigned bytes, bool *ret_counts, struct error *err)
{
	struct file *file = vhd->image.file;
	int rc;

	*ret_counts = false;
	if (file->size_bytes < bytes)
		return 0;
	memset(&vhd->footer, 0, sizeof(vhd->footer));
	vhd->footer_offset = file->size_bytes - bytes;
	rc = read_at(file, vhd->footer_offset, &vhd->footer, bytes, err);
	*ret_counts = rc == 0 && vhd_footer_counts(&vhd->footer);
	return rc;
}

static int try_copy(struct vhd *vhd, bool *ret_counts, struct error *err)
{
	int rc = read_at(vhd->image.file, 0, &vhd->footer, sizeof(vhd->footer), err);

	*ret_counts = rc == 0 && vhd_footer_counts(&vhd->footer) &&
		      be32toh(vhd->footer.disk_type) != VHD_FIXED;
	vhd->footer_damaged = *ret_counts;
	vhd->footer_offset = vhd->image.file->size_bytes;
	return rc;
}

/* A fixed disk that was being enlarged: its old footer is the last thing in the file that isn't
 * zero. */
static int try_footer_before_zeros(struct vhd *vhd, bool *ret_counts, struct error *err)
{
	struct file *file = vhd->image.file;
	uint64_t end = 0, run_end;
	bool data;
	int rc;

	for (uint64_t at = 0; at < file->size_bytes; at = run_end) {
		rc = file_extent(file, at, &data, &run_end);
		if (rc < 0)
			return error_set_errno(err, -rc, "looking for holes in the VHD file");
		if (data)
			end = run_end;
	}
	end = ALIGN_DOWN(end, VHD_SECTOR_BYTES);
	for (unsigned i = 0; i < SEARCH_SECTORS && end >= VHD_FOOTER_BYTES; i++) {
		end -= VHD_SECTOR_BYTES;
		vhd->footer_offset = end;
		rc = read_at(file, end, &vhd->footer, sizeof(vhd->footer), err);
		if (rc < 0)
			return rc;
		*ret_counts = vhd_footer_counts(&vhd->footer) &&
			      be32toh(vhd->footer.disk_type) == VHD_FIXED &&
			      be64toh(vhd->footer.current_size) == end;
		vhd->footer_damaged = *ret_counts;
		if (*ret_counts || vhd->footer.cookie[0])
			break;
	}
	return 0;
}

static int read_footer(struct vhd *vhd, struct error *err)
{
	bool counts;
	int rc = try_last_footer(vhd, VHD_FOOTER_BYTES, &counts, err);

	if (rc == 0 && !counts)
		rc = try_last_footer(vhd, VHD_SHORT_FOOTER_BYTES, &counts, err);
	if (rc == 0 && !counts)
		rc = try_copy(vhd, &counts, err);
	if (rc == 0 && !counts)
		rc = try_footer_before_zeros(vhd, &counts, err);
	if (rc < 0)
		return rc;
	if (!counts)
		return error_set(err, ERR_CORRUPT,
				 "neither the VHD footer at the end of the file (%#lx) nor its "
				 "copy at 0 has a valid cookie and checksum",
				 vhd->image.file->size_bytes);
	return vhd_footer_parse(&vhd->footer, vhd->footer_offset, &vhd->geometry, err);
}

/* ---- block table ---- */

static int read_table(struct vhd *vhd, struct error *err)
{
	const struct vhd_geometry *g = &vhd->geometry;
	size_t bytes = (size_t)g->block_count * VHD_BAT_ENTRY_BYTES;
	uint64_t sectors = (bytes + VHD_SECTOR_BYTES - 1) / VHD_SECTOR_BYTES;
	int rc = 0;

	if (!RANGE_OK(g->table_offset, bytes, vhd->footer_offset))
		return error_set(err, ERR_CORRUPT,
				 "the VHD block table at %#lx+%#zx lies beyond the end of the file "
				 "of %lu bytes",
				 g->table_offset, bytes, vhd->image.file->size_bytes);
	/* Whole sectors, so that they can be written back as such. */
	vhd->bat_entries =
	    (uint32_t)(MIN(sectors * VHD_SECTOR_BYTES, vhd->footer_offset - g->table_offset) /
		       VHD_BAT_ENTRY_BYTES);
	bytes = (size_t)vhd->bat_entries * VHD_BAT_ENTRY_BYTES;
	vhd->bat = malloc(bytes);
	vhd->bitmap = calloc(g->block_count, sizeof(*vhd->bitmap));
	vhd->users = calloc(g->block_count, sizeof(*vhd->users));
	vhd->dirty_blocks.item = calloc(g->block_count, sizeof(uint32_t));
	vhd->dirty_blocks.map = calloc((g->block_count + 63) / 64, sizeof(uint64_t));
	vhd->dirty_sectors.item = calloc(sectors, sizeof(uint32_t));
	vhd->dirty_sectors.map = calloc((sectors + 63) / 64, sizeof(uint64_t));
	if (!vhd->bat || !vhd->bitmap || !vhd->users || !vhd->dirty_blocks.item ||
	    !vhd->dirty_blocks.map || !vhd->dirty_sectors.item || !vhd->dirty_sectors.map)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHD block table of %zu bytes",
				 bytes);
	for (size_t at = 0; rc == 0 && at < bytes; at += TABLE_READ_BYTES)
		rc = read_at(vhd->image.file, g->table_offset + at, (uint8_t *)vhd->bat + at,
			     MIN(bytes - at, (size_t)TABLE_READ_BYTES), err);
	for (uint32_t i = 0; rc == 0 && i < vhd->bat_entries; i++)
		vhd->bat[i] = be32toh(vhd->bat[i]);
	return rc;
}

static int bad_block(const struct vhd *vhd, uint32_t block, const char *why, struct error *err)
{
	return error_set(err, ERR_CORRUPT, "VHD block %u: its table entry %#x at %#lx %s", block,
			 vhd->bat[block],
			 vhd->geometry.table_offset + (uint64_t)block * VHD_BAT_ENTRY_BYTES, why);
}

static bool hits(uint64_t offset, uint64_t length, uint64_t other, uint64_t other_length)
{
	return offset < other + other_length && other < offset + length;
}

static int check_place(const struct vhd *vhd, uint32_t block, struct error *err)
{
	const struct vhd_geometry *g = &vhd->geometry;
	uint64_t offset = vhd_place_of(vhd, block), bytes = vhd_block_file_bytes(g, block);

	if (!RANGE_OK(offset, bytes, vhd->footer_offset))
		return bad_block(vhd, block, "points beyond the end of the file", err);
	if (hits(offset, bytes, 0, VHD_FOOTER_BYTES) ||
	    hits(offset, bytes, g->header_offset, sizeof(struct vhd_header)) ||
	    hits(offset, bytes, g->table_offset, (uint64_t)g->block_count * VHD_BAT_ENTRY_BYTES))
		return bad_block(vhd, block, "points into another structure", err);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t *vhd_sorted_places(const struct vhd *vhd, size_t *ret_count)
{
	uint64_t *sorted = malloc(((size_t)vhd->geometry.block_count + 1) * sizeof(*sorted));
	size_t count = 0;

	if (!sorted)
		return NULL;
	for (uint32_t block = 0; block < vhd->geometry.block_count; block++)
		if (vhd->bat[block] != VHD_BAT_UNUSED)
			sorted[count++] = (uint64_t)vhd->bat[block] << 32 | block;
	qsort(sorted, count, sizeof(*sorted), by_value);
	*ret_count = count;
	return sorted;
}

uint64_t vhd_free_place(const struct vhd *vhd, uint64_t offset)
{
	const struct vhd_geometry *g = &vhd->geometry;
	uint64_t place = vhd_block_place(g, offset);

	for (size_t i = 0; i < ARRAY_SIZE(vhd->structures); i++) {
		const struct vhd_range *s = &vhd->structures[i];

		if (s->length && hits(place, vhd_slot_bytes(g), s->offset, s->length))
			return vhd_free_place(vhd, s->offset + s->length);
	}
	return place;
}

/* Holes where a block fits are for new blocks. */
static void note_holes(struct vhd *vhd, uint64_t from, uint64_t to)
{
	uint64_t slot = vhd_slot_bytes(&vhd->geometry), at = from;

	while (vhd->free.count < MAX_FREE_PLACES) {
		at = vhd_free_place(vhd, at);
		if (at + slot > to || !vhd_places_add(&vhd->free, (struct vhd_place){ at, true }))
			return;
		at += slot;
	}
}

static void find_structures(struct vhd *vhd, const struct vhd_header *header)
{
	const struct vhd_geometry *g = &vhd->geometry;
	struct vhd_range *paths = &vhd->structures[VHD_OTHER_STRUCTURES];
	uint64_t end = 0;

	vhd->structures[0] = (struct vhd_range){ 0, VHD_FOOTER_BYTES };
	vhd->structures[1] = (struct vhd_range){ g->header_offset, sizeof(*header) };
	/* A table that claims more than there can be has what the disk needs. */
	vhd->structures[2] =
	    (struct vhd_range){ g->table_offset, (uint64_t)g->table_entries * VHD_BAT_ENTRY_BYTES };
	if (!RANGE_OK(g->table_offset, vhd->structures[2].length, vhd->footer_offset))
		vhd->structures[2].length = (uint64_t)g->block_count * VHD_BAT_ENTRY_BYTES;
	for (unsigned i = 0; i < VHD_LOCATORS && g->type == VHD_DIFFERENCING; i++) {
		struct vhd_range range = { be64toh(header->locators[i].data_offset),
					   be32toh(header->locators[i].data_length) };

		if (RANGE_OK(range.offset, range.length, vhd->footer_offset))
			paths[i] = range;
	}
	for (size_t i = 0; i < ARRAY_SIZE(vhd->structures); i++)
		end = MAX(end, vhd->structures[i].offset + vhd->structures[i].length);
	vhd->structures_end = ALIGN_UP(end, VHD_SECTOR_BYTES);
}

static int check_blocks(struct vhd *vhd, struct error *err)
{
	size_t count;
	AUTO_FREE uint64_t *sorted = vhd_sorted_places(vhd, &count);
	uint64_t end = 0, slot_end = 0;
	int rc;

	if (!sorted)
		return error_set(err, ERR_NO_MEMORY, "no memory to check a VHD block table");
	for (size_t i = 0; i < count; i++) {
		uint32_t block = (uint32_t)sorted[i];
		uint64_t offset = vhd_place_of(vhd, block);

		rc = check_place(vhd, block, err);
		if (rc < 0)
			return rc;
		if (offset < end)
			return bad_block(vhd, block, "points into another block", err);
		if (i > 0)
			note_holes(vhd, slot_end, offset);
		end = offset + vhd_block_file_bytes(&vhd->geometry, block);
		slot_end = offset + vhd_slot_bytes(&vhd->geometry);
		/* The disk's last block may be cut off behind the disk's end. */
		if (i + 1 < count && slot_end > (sorted[i + 1] >> 32) * VHD_SECTOR_BYTES)
			vhd->short_block = true;
	}
	vhd->end = vhd->opened_end = MAX(slot_end, vhd->structures_end);
	return 0;
}

/* ---- putting it together ---- */

static int load_dynamic(struct vhd *vhd, struct error *err)
{
	struct vhd_header header;
	int rc;

	if (!RANGE_OK(vhd->geometry.header_offset, sizeof(header), vhd->footer_offset))
		return error_set(err, ERR_CORRUPT,
				 "the VHD dynamic header at %#lx lies beyond the end of the file "
				 "of %lu bytes",
				 vhd->geometry.header_offset, vhd->image.file->size_bytes);
	rc = read_at(vhd->image.file, vhd->geometry.header_offset, &header, sizeof(header), err);
	if (rc == 0)
		rc = vhd_header_parse(&header, &vhd->geometry, err);
	if (rc < 0)
		return rc;
	find_structures(vhd, &header);
	rc = read_table(vhd, err);
	return rc < 0 ? rc : check_blocks(vhd, err);
}

static int load(struct vhd *vhd, struct error *err)
{
	int rc = read_footer(vhd, err);

	if (rc < 0)
		return rc;
	vhd->stale_end = vhd->image.file->size_bytes;
	vhd->room_end = vhd->footer_damaged ? 0 : vhd->footer_offset;
	if (vhd->geometry.type != VHD_FIXED)
		return load_dynamic(vhd, err);
	if (vhd->geometry.disk_bytes > vhd->footer_offset)
		return error_set(err, ERR_CORRUPT,
				 "the fixed VHD was cut: its disk has %lu bytes, the file only %lu",
				 vhd->geometry.disk_bytes, vhd->footer_offset);
	return 0;
}

int vhd_load(struct file *file, struct vhd **ret, struct error *err)
{
	struct vhd *vhd = calloc(1, sizeof(*vhd));
	int rc;

	if (!vhd)
		return error_set(err, ERR_NO_MEMORY, "no memory to open a VHD");
	image_init(&vhd->image, file, NULL, &vhd_image_ops, &vhd_blk_ops, &(struct blk_info){ 0 });
	image_list_init(&vhd->growth.waiters);
	image_list_init(&vhd->flush.waiting);
	image_list_init(&vhd->flush.current);
	rc = load(vhd, err);
	if (rc < 0)
		vhd_free(vhd);
	else
		*ret = vhd;
	return rc;
}

void vhd_free(struct vhd *vhd)
{
	for (uint32_t block = 0; vhd->bitmap && block < vhd->geometry.block_count; block++)
		if (vhd->bitmap[block] != vhd_full)
			free(vhd->bitmap[block]);
	free(vhd->bat);
	free(vhd->bitmap);
	free(vhd->users);
	free(vhd->dirty_blocks.item);
	free(vhd->dirty_blocks.map);
	free(vhd->dirty_sectors.item);
	free(vhd->dirty_sectors.map);
	free(vhd->free.place);
	free(vhd->freed.place);
	free(vhd->freeing.place);
	free(vhd->flush.writes);
	free(vhd->flush.bytes);
	free(vhd->full_bitmap);
	image_done(&vhd->image);
	free(vhd);
}

bool vhd_places_add(struct vhd_places *places, struct vhd_place place)
{
	if (places->count == places->capacity) {
		size_t capacity = MAX(places->capacity * 2, (size_t)16);
		struct vhd_place *bigger = realloc(places->place, capacity * sizeof(*bigger));

		if (!bigger)
			return false;
		places->place = bigger;
		places->capacity = capacity;
	}
	places->place[places->count++] = place;
	return true;
}

int vhd_write_footer_now(struct vhd *vhd, uint64_t file_bytes)
{
	struct file *file = vhd->image.file;
	int rc = 0;

	if (file_bytes > file->size_bytes)
		rc = file_set_size(file, file_bytes);
	if (rc == 0)
		rc = file_write_now(file, file_bytes - sizeof(vhd->footer), &vhd->footer,
				    sizeof(vhd->footer));
	return rc < 0 ? rc : file_sync_now(file);
}

/* Only ever adds: what lies at the end of the file is nobody's, but it is not ours to cut. (But a
 * fixed disk has nothing between itself and its footer.) */
int vhd_repair_footer(struct vhd *vhd, struct error *err)
{
	uint64_t bytes =
	    MAX(vhd_file_bytes(vhd->end), ALIGN_UP(vhd->image.file->size_bytes, VHD_SECTOR_BYTES));
	int rc;

	if (vhd->geometry.type == VHD_FIXED) {
		bytes = vhd->geometry.disk_bytes + sizeof(vhd->footer);
		rc = file_set_size(vhd->image.file, bytes);
	} else {
		rc = vhd_write_footer_now(vhd, bytes);
	}
	if (rc < 0)
		return error_set_errno(err, -rc, "writing the VHD footer anew");
	vhd->footer_damaged = false;
	vhd->room_end = bytes - sizeof(vhd->footer);
	return 0;
}

int vhd_copy_differs(struct vhd *vhd, struct error *err)
{
	struct vhd_footer copy;
	int rc;

	if (vhd->geometry.type == VHD_FIXED)
		return 0;
	rc = read_at(vhd->image.file, 0, &copy, sizeof(copy), err);
	return rc < 0 ? rc : memcmp(&copy, &vhd->footer, sizeof(copy)) != 0;
}

int vhd_repair_copy(struct vhd *vhd, struct error *err)
{
	int rc = file_write_now(vhd->image.file, 0, &vhd->footer, sizeof(vhd->footer));

	if (rc == 0)
		rc = file_sync_now(vhd->image.file);
	return rc < 0 ? error_set_errno(err, -rc, "writing the copy of the VHD footer anew") : 0;
}

/* While a file grows, the copy is for some time the only footer that a power cut leaves. */
static int mend_footers(struct vhd *vhd, struct error *err)
{
	int rc = vhd->footer_damaged ? vhd_repair_footer(vhd, err) : vhd_copy_differs(vhd, err);

	return rc > 0 ? vhd_repair_copy(vhd, err) : rc;
}

static int check_parent(const struct vhd *vhd, const struct blk *parent, struct error *err)
{
	bool differencing = vhd->geometry.type == VHD_DIFFERENCING;

	if (differencing && !parent)
		return error_set(err, ERR_INVALID,
				 "a differencing VHD: its parent has to be opened with it");
	if (!differencing && parent)
		return error_set(err, ERR_INVALID, "the VHD is not differencing: it has no parent");
	return 0;
}

static void fill_info(struct vhd *vhd, bool read_only)
{
	vhd->image.blk.info = (struct blk_info){
		.size_bytes = vhd->geometry.disk_bytes,
		.logical_sector_bytes = VHD_SECTOR_BYTES,
		.physical_sector_bytes = VHD_SECTOR_BYTES,
		.read_only = read_only,
		/* What a child lacks its parent has: it can't be without a sector again. */
		.can_unmap = !read_only && vhd->geometry.type == VHD_DYNAMIC,
		.unmap_granularity_bytes = UNMAP_GRANULARITY,
		.has_id = true,
		.id = vhd->geometry.id,
	};
}

int vhd_open(struct file *file, const struct disk_options *options, struct blk **ret,
	     struct error *err)
{
	struct vhd *vhd;
	int rc = vhd_load(file, &vhd, err);

	if (rc < 0)
		return rc;
	rc = check_parent(vhd, options->parent, err);
	if (rc == 0 && !options->read_only)
		rc = mend_footers(vhd, err);
	if (rc < 0) {
		vhd_free(vhd);
		return rc;
	}
	vhd->image.parent = options->parent;
	fill_info(vhd, options->read_only);
	*ret = &vhd->image.blk;
	return 0;
}

/* ---- describing ---- */

static bool add_locator(struct disk_details *details, const char *key, char *value)
{
	struct disk_locator *bigger =
	    realloc(details->locators, (details->locator_count + 1) * sizeof(*bigger));

	if (bigger)
		details->locators = bigger;
	if (!bigger || !value || !(bigger[details->locator_count].key = strdup(key))) {
		free(value);
		return false;
	}
	bigger[details->locator_count++].value = value;
	return true;
}

static bool is_utf16(const char *key)
{
	return strcmp(key, VHD_LOCATOR_ABSOLUTE) == 0 || strcmp(key, VHD_LOCATOR_RELATIVE) == 0;
}

static bool is_text(const char *key)
{
	return strcmp(key, VHD_LOCATOR_OLD_ABSOLUTE) == 0 ||
	       strcmp(key, VHD_LOCATOR_OLD_RELATIVE) == 0 || strcmp(key, VHD_LOCATOR_MAC_URL) == 0;
}

/* Others (an alias of an old Macintosh) tell nothing here. A path that can't be read is left out:
 * there are more. */
static int read_locator(struct file *file, const struct vhd_locator *locator,
			struct disk_details *ret, struct error *err)
{
	uint32_t length = be32toh(locator->data_length);
	uint64_t offset = be64toh(locator->data_offset);
	AUTO_FREE uint8_t *bytes = NULL;
	char key[5] = { 0 };
	int rc;

	memcpy(key, locator->code, sizeof(locator->code));
	if (!(is_utf16(key) || is_text(key)) || !length || length > VHD_MAX_PATH_BYTES ||
	    !RANGE_OK(offset, length, file->size_bytes))
		return 0;
	bytes = calloc(1, length + 1);
	if (!bytes)
		return error_set(err, ERR_NO_MEMORY, "no memory to describe a VHD");
	rc = read_at(file, offset, bytes, length, err);
	if (rc < 0)
		return rc;
	if (!add_locator(ret, key,
			 is_utf16(key) ? utf8_from_utf16(bytes, length) : strdup((char *)bytes)))
		return error_set(err, ERR_NO_MEMORY, "no memory to describe a VHD");
	return 0;
}

static int read_parent_name(const struct vhd_header *header, struct disk_details *ret,
			    struct error *err)
{
	uint8_t swapped[sizeof(header->parent_name)];

	for (unsigned i = 0; i < sizeof(swapped); i += 2)
		store_le16(swapped + i, load_be16(header->parent_name + i));
	if (!load_le16(swapped))
		return 0;
	if (!add_locator(ret, "parent_name", utf8_from_utf16(swapped, sizeof(swapped))))
		return error_set(err, ERR_NO_MEMORY, "no memory to describe a VHD");
	return 0;
}

static int describe_parent(struct vhd *vhd, struct disk_details *ret, struct error *err)
{
	struct vhd_header header;
	int rc =
	    read_at(vhd->image.file, vhd->geometry.header_offset, &header, sizeof(header), err);

	ret->parent_id = vhd->geometry.parent_id;
	for (unsigned i = 0; rc == 0 && i < VHD_LOCATORS; i++)
		rc = read_locator(vhd->image.file, &header.locators[i], ret, err);
	return rc < 0 ? rc : read_parent_name(&header, ret, err);
}

static void count_blocks(const struct vhd *vhd, struct disk_details *ret)
{
	uint64_t expected = 0;

	for (uint32_t block = 0; block < vhd->geometry.block_count; block++) {
		uint64_t place = vhd_place_of(vhd, block);

		if (vhd->bat[block] == VHD_BAT_UNUSED) {
			expected = 0;
			continue;
		}
		ret->blocks_allocated++;
		ret->block_runs += place != expected;
		expected = vhd_block_place(&vhd->geometry, place + vhd_slot_bytes(&vhd->geometry));
	}
}

int vhd_describe(struct file *file, struct disk_details *ret, struct error *err)
{
	struct vhd *vhd;
	int rc = vhd_load(file, &vhd, err);

	if (rc < 0)
		return rc;
	*ret = (struct disk_details){
		.type = vhd->geometry.type == VHD_FIXED     ? DISK_FIXED
			: vhd->geometry.type == VHD_DYNAMIC ? DISK_DYNAMIC
							    : DISK_DIFFERENCING,
		.size_bytes = vhd->geometry.disk_bytes,
		.block_bytes = vhd->geometry.block_bytes,
		.logical_sector_bytes = VHD_SECTOR_BYTES,
		.physical_sector_bytes = VHD_SECTOR_BYTES,
		.id = vhd_display_id(&vhd->geometry),
		.link_id = vhd->geometry.id,
	};
	memcpy(ret->creator, vhd->geometry.creator, sizeof(vhd->geometry.creator));
	if (vhd->geometry.type == VHD_DIFFERENCING)
		rc = describe_parent(vhd, ret, err);
	if (vhd->geometry.type != VHD_FIXED)
		count_blocks(vhd, ret);
	vhd_free(vhd);
	if (rc < 0)
		disk_details_done(ret);
	return rc;
}
