#include "disk/vhdx-format.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/crc32c.h"

#include <stdlib.h>
#include <string.h>

/* CRC of a structure whose checksum field lies at checksum_offset and counts as zero. */
static uint32_t checksum_of(const void *structure, size_t size, size_t checksum_offset)
{
	const uint8_t *bytes = structure;
	uint32_t crc = crc32c_update(CRC32C_START, bytes, checksum_offset);

	crc = crc32c_update(crc, "\0\0\0\0", 4);
	crc = crc32c_update(crc, bytes + checksum_offset + 4, size - checksum_offset - 4);
	return crc32c_finish(crc);
}

/* ---- headers ---- */

static bool header_counts(const struct vhdx_header *header)
{
	return le32toh(header->signature) == VHDX_HEADER_SIGNATURE &&
	       le16toh(header->version) == VHDX_HEADER_VERSION &&
	       le32toh(header->checksum) ==
		   checksum_of(header, sizeof(*header), offsetof(struct vhdx_header, checksum));
}

unsigned vhdx_headers_valid(const struct vhdx_header slots[static 2])
{
	return (header_counts(&slots[0]) ? 1 : 0) | (header_counts(&slots[1]) ? 2 : 0);
}

void vhdx_header_seal(struct vhdx_header *header)
{
	header->signature = htole32(VHDX_HEADER_SIGNATURE);
	header->checksum =
	    htole32(checksum_of(header, sizeof(*header), offsetof(struct vhdx_header, checksum)));
}

static int check_log_location(const struct vhdx_header *header, unsigned slot, struct error *err)
{
	static const struct guid no_log;
	uint64_t offset = le64toh(header->log_offset), length = le32toh(header->log_length);
	uint64_t at = VHDX_HEADER_OFFSET(slot);

	if (!guid_equal(&header->log_guid, &no_log) && length == 0)
		return error_set(err, ERR_CORRUPT,
				 "VHDX header at %#lx names a log in use but gives it no length",
				 at);
	if (le16toh(header->log_version) != VHDX_LOG_VERSION &&
	    !guid_equal(&header->log_guid, &no_log))
		return error_set(err, ERR_UNSUPPORTED,
				 "VHDX header at %#lx: log version %u is unknown", at,
				 le16toh(header->log_version));
	if (length == 0)
		return 0;
	if (offset % VHDX_MIB || length % VHDX_MIB || offset < VHDX_HEADER_SECTION_BYTES ||
	    length > VHDX_MAX_LOG_BYTES || offset > VHDX_MAX_DISK_BYTES * 2)
		return error_set(err, ERR_CORRUPT,
				 "VHDX header at %#lx: the log's place %#lx+%#lx is not possible",
				 at, offset, length);
	return 0;
}

int vhdx_header_choose(const struct vhdx_header slots[static 2], struct vhdx_header *ret,
		       unsigned *ret_slot, struct error *err)
{
	bool counts[2] = { header_counts(&slots[0]), header_counts(&slots[1]) };
	uint64_t sequence[2] = { le64toh(slots[0].sequence_number),
				 le64toh(slots[1].sequence_number) };
	unsigned slot = counts[1] && (!counts[0] || sequence[1] > sequence[0]);
	int rc;

	if (!counts[0] && !counts[1])
		return error_set(err, ERR_CORRUPT,
				 "neither VHDX header (at %#lx and %#lx) has a valid signature, "
				 "version and checksum",
				 VHDX_HEADER_OFFSET(0), VHDX_HEADER_OFFSET(1));
	/* Disk2vhd writes two identical headers; anything else with equal numbers is damage. */
	if (counts[0] && counts[1] && sequence[0] == sequence[1] &&
	    memcmp(&slots[0], &slots[1], sizeof(slots[0])) != 0)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX headers at %#lx and %#lx differ but have the same "
				 "sequence number",
				 VHDX_HEADER_OFFSET(0), VHDX_HEADER_OFFSET(1));
	rc = check_log_location(&slots[slot], slot, err);
	if (rc < 0)
		return rc;
	*ret = slots[slot];
	*ret_slot = slot;
	return 0;
}

/* ---- region tables ---- */

static bool ranges_overlap(const struct vhdx_range *a, const struct vhdx_range *b)
{
	return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

static bool region_table_counts(const uint8_t *table)
{
	const struct vhdx_region_table_header *header = (const void *)table;

	return le32toh(header->signature) == VHDX_REGION_SIGNATURE &&
	       le32toh(header->entry_count) <= VHDX_REGION_MAX_ENTRIES &&
	       le32toh(header->checksum) ==
		   checksum_of(table, VHDX_REGION_TABLE_BYTES,
			       offsetof(struct vhdx_region_table_header, checksum));
}

void vhdx_region_table_seal(uint8_t *table)
{
	struct vhdx_region_table_header *header = (void *)table;

	header->signature = htole32(VHDX_REGION_SIGNATURE);
	header->checksum = htole32(checksum_of(
	    table, VHDX_REGION_TABLE_BYTES, offsetof(struct vhdx_region_table_header, checksum)));
}

static int take_known_region(const struct vhdx_region_entry *entry, uint64_t at,
			     const struct vhdx_range *range, struct vhdx_regions *ret,
			     struct error *err)
{
	static const struct guid bat = VHDX_REGION_BAT, metadata = VHDX_REGION_METADATA;
	struct vhdx_range *known = NULL;
	char text[GUID_TEXT_SIZE];

	if (guid_equal(&entry->guid, &bat))
		known = &ret->bat;
	else if (guid_equal(&entry->guid, &metadata))
		known = &ret->metadata;
	if (known && known->length)
		return error_set(err, ERR_CORRUPT,
				 "VHDX region entry at %#lx names region %s again", at,
				 guid_format(&entry->guid, text));
	if (known)
		*known = *range;
	else if (le32toh(entry->flags) & VHDX_REGION_REQUIRED)
		return error_set(err, ERR_UNSUPPORTED,
				 "VHDX region entry at %#lx requires the unknown region %s", at,
				 guid_format(&entry->guid, text));
	return 0;
}

static int parse_region(const struct vhdx_region_entry *entry, uint64_t at,
			struct vhdx_regions *ret, struct error *err)
{
	struct vhdx_range range = { le64toh(entry->file_offset), le32toh(entry->length) };

	if (range.offset % VHDX_MIB || range.length % VHDX_MIB || range.length == 0 ||
	    range.offset < VHDX_HEADER_SECTION_BYTES || range.offset > VHDX_MAX_DISK_BYTES * 2)
		return error_set(err, ERR_CORRUPT,
				 "VHDX region entry at %#lx: the place %#lx+%#lx is not possible",
				 at, range.offset, range.length);
	for (unsigned i = 0; i < ret->count; i++)
		if (ranges_overlap(&range, &ret->all[i]))
			return error_set(err, ERR_CORRUPT,
					 "VHDX region entry at %#lx: %#lx+%#lx overlaps another "
					 "region",
					 at, range.offset, range.length);
	ret->all[ret->count++] = range;
	return take_known_region(entry, at, &range, ret, err);
}

unsigned vhdx_region_tables_valid(const uint8_t *tables)
{
	return (region_table_counts(tables) ? 1 : 0) |
	       (region_table_counts(tables + VHDX_REGION_TABLE_BYTES) ? 2 : 0);
}

const uint8_t *vhdx_region_table_choose(const uint8_t *tables)
{
	unsigned valid = vhdx_region_tables_valid(tables);

	return valid & 1 ? tables : valid ? tables + VHDX_REGION_TABLE_BYTES : NULL;
}

int vhdx_regions_parse(const uint8_t *tables, struct vhdx_regions *ret, struct error *err)
{
	const uint8_t *table = vhdx_region_table_choose(tables);
	uint64_t at = VHDX_REGION_TABLE_OFFSET(table == tables ? 0 : 1);
	const struct vhdx_region_table_header *header = (const void *)table;
	const struct vhdx_region_entry *entries;

	if (!table)
		return error_set(err, ERR_CORRUPT,
				 "neither VHDX region table (at %#lx and %#lx) has a valid "
				 "signature and checksum",
				 VHDX_REGION_TABLE_OFFSET(0), VHDX_REGION_TABLE_OFFSET(1));
	entries = (const void *)(header + 1);
	memset(ret, 0, sizeof(*ret));
	for (uint32_t i = 0; i < le32toh(header->entry_count); i++) {
		int rc = parse_region(&entries[i], at + sizeof(*header) + i * sizeof(*entries), ret,
				      err);

		if (rc < 0)
			return rc;
	}
	if (!ret->bat.length || !ret->metadata.length)
		return error_set(err, ERR_CORRUPT, "the VHDX region table at %#lx has no %s region",
				 at, ret->bat.length ? "metadata" : "BAT");
	return 0;
}

/* ---- metadata ---- */

struct item {
	struct guid id;
	const char *name;
	uint32_t length;
	bool needed;
	/* filled while parsing */
	bool found;
	uint32_t entry_at, at, found_bytes; /* in the region */
	uint8_t bytes[16];
};

enum { ITEM_PARAMETERS, ITEM_SIZE, ITEM_ID, ITEM_LOGICAL, ITEM_PHYSICAL, ITEM_LOCATOR, ITEM_COUNT };

static const struct item item_templates[ITEM_COUNT] = {
	[ITEM_PARAMETERS] = { VHDX_ITEM_FILE_PARAMETERS, "file parameters", 8, true },
	[ITEM_SIZE] = { VHDX_ITEM_DISK_SIZE, "virtual disk size", 8, true },
	[ITEM_ID] = { VHDX_ITEM_DISK_ID, "virtual disk id", 16, true },
	[ITEM_LOGICAL] = { VHDX_ITEM_LOGICAL_SECTOR, "logical sector size", 4, true },
	[ITEM_PHYSICAL] = { VHDX_ITEM_PHYSICAL_SECTOR, "physical sector size", 4, true },
	/* Its content is for vhdx-locator.h. */
	[ITEM_LOCATOR] = { VHDX_ITEM_PARENT_LOCATOR, "parent locator", 0, false },
};

static int check_item_place(const struct vhdx_metadata_entry *entry, uint64_t region_length,
			    unsigned index, struct error *err)
{
	uint32_t offset = le32toh(entry->offset), length = le32toh(entry->length);

	if (length == 0)
		return 0;
	if (offset < VHDX_METADATA_TABLE_BYTES || length > VHDX_METADATA_MAX_ITEM ||
	    !RANGE_OK(offset, length, region_length))
		return error_set(err, ERR_CORRUPT,
				 "VHDX metadata entry %u: the place %#x+%#x in its region is not "
				 "possible",
				 index, offset, length);
	return 0;
}

static struct item *find_item(struct item *items, const struct vhdx_metadata_entry *entry)
{
	if (le32toh(entry->flags) & VHDX_METADATA_USER)
		return NULL;
	for (unsigned i = 0; i < ITEM_COUNT; i++)
		if (guid_equal(&items[i].id, &entry->item_id))
			return &items[i];
	return NULL;
}

static int unknown_item(const struct vhdx_metadata_entry *entry, unsigned index, struct error *err)
{
	static const struct guid incomplete = VHDX_ITEM_INCOMPLETE_FILE;
	char text[GUID_TEXT_SIZE];

	if (!(le32toh(entry->flags) & VHDX_METADATA_REQUIRED))
		return 0;
	if (guid_equal(&entry->item_id, &incomplete))
		return error_set(
		    err, ERR_CORRUPT,
		    "the VHDX file is marked incomplete: its creation was not finished");
	return error_set(err, ERR_UNSUPPORTED,
			 "VHDX metadata entry %u requires the unknown item %s", index,
			 guid_format(&entry->item_id, text));
}

static int parse_item(const struct vhdx_metadata_source *source, struct item *items,
		      const struct vhdx_metadata_entry *entry, unsigned index, struct error *err)
{
	struct item *item = find_item(items, entry);
	int rc = check_item_place(entry, source->length, index, err);

	if (rc < 0)
		return rc;
	if (!item)
		return unknown_item(entry, index, err);
	if (item->found)
		return error_set(err, ERR_CORRUPT, "VHDX metadata entry %u: a second %s", index,
				 item->name);
	item->found = true;
	item->entry_at = (uint32_t)(sizeof(struct vhdx_metadata_table_header) +
				    index * sizeof(struct vhdx_metadata_entry));
	item->at = le32toh(entry->offset);
	item->found_bytes = le32toh(entry->length);
	if (item->length == 0)
		return 0;
	if (le32toh(entry->length) != item->length)
		return error_set(err, ERR_CORRUPT,
				 "VHDX metadata entry %u: the %s has %u bytes instead of %u", index,
				 item->name, le32toh(entry->length), item->length);
	return source->read(source->user, le32toh(entry->offset), item->bytes, item->length, err);
}

static bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

static int check_geometry(const struct vhdx_geometry *g, struct error *err)
{
	if (!is_power_of_two(g->block_bytes) || g->block_bytes < VHDX_MIN_BLOCK_BYTES ||
	    g->block_bytes > VHDX_MAX_BLOCK_BYTES)
		return error_set(err, ERR_CORRUPT, "a VHDX block size of %u bytes is not possible",
				 g->block_bytes);
	if ((g->logical_sector_bytes != 512 && g->logical_sector_bytes != 4096) ||
	    (g->physical_sector_bytes != 512 && g->physical_sector_bytes != 4096))
		return error_set(err, ERR_CORRUPT,
				 "VHDX sector sizes of %u logical, %u physical bytes are not "
				 "possible",
				 g->logical_sector_bytes, g->physical_sector_bytes);
	if (g->disk_bytes == 0 || g->disk_bytes > VHDX_MAX_DISK_BYTES ||
	    g->disk_bytes % g->logical_sector_bytes)
		return error_set(err, ERR_CORRUPT,
				 "a VHDX virtual disk size of %lu bytes is not possible",
				 g->disk_bytes);
	return 0;
}

void vhdx_geometry_derive(struct vhdx_geometry *g)
{
	g->block_shift = (unsigned)__builtin_ctz(g->block_bytes);
	g->block_count = (g->disk_bytes + g->block_bytes - 1) >> g->block_shift;
	g->chunk_ratio = VHDX_CHUNK_SECTORS * g->logical_sector_bytes / g->block_bytes;
	g->bat_entries = g->has_parent ? (g->block_count + g->chunk_ratio - 1) / g->chunk_ratio *
					     (g->chunk_ratio + 1)
				       : g->block_count + (g->block_count - 1) / g->chunk_ratio;
}

static int geometry_from(const struct item *items, struct vhdx_geometry *ret, struct error *err)
{
	uint32_t flags = load_le32(items[ITEM_PARAMETERS].bytes + 4);
	struct vhdx_geometry g = {
		.disk_bytes = load_le64(items[ITEM_SIZE].bytes),
		.block_bytes = load_le32(items[ITEM_PARAMETERS].bytes),
		.logical_sector_bytes = load_le32(items[ITEM_LOGICAL].bytes),
		.physical_sector_bytes = load_le32(items[ITEM_PHYSICAL].bytes),
		/* which means nothing for a differencing disk */
		.fixed = (flags & VHDX_LEAVE_BLOCKS_ALLOCATED) && !(flags & VHDX_HAS_PARENT),
		.has_parent = flags & VHDX_HAS_PARENT,
		.locator_entry_at = items[ITEM_LOCATOR].entry_at,
		.locator_at = items[ITEM_LOCATOR].at,
		.locator_bytes = items[ITEM_LOCATOR].found_bytes,
		.size_at = items[ITEM_SIZE].at,
		.physical_at = items[ITEM_PHYSICAL].at,
		.id_at = items[ITEM_ID].at,
	};
	int rc = check_geometry(&g, err);

	if (rc == 0 && g.has_parent && !g.locator_bytes)
		rc = error_set(err, ERR_CORRUPT,
			       "the VHDX is a differencing disk but names no parent");
	if (rc < 0)
		return rc;
	memcpy(&g.id, items[ITEM_ID].bytes, sizeof(g.id));
	vhdx_geometry_derive(&g);
	*ret = g;
	return 0;
}

static int parse_items(const struct vhdx_metadata_source *source, const uint8_t *table,
		       struct vhdx_geometry *ret, struct error *err)
{
	const struct vhdx_metadata_table_header *header = (const void *)table;
	const struct vhdx_metadata_entry *entries = (const void *)(header + 1);
	struct item items[ITEM_COUNT];
	unsigned count = le16toh(header->entry_count);

	if (le64toh(header->signature) != VHDX_METADATA_SIGNATURE ||
	    count > VHDX_METADATA_MAX_ENTRIES)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX metadata table has no valid signature and entry count");
	memcpy(items, item_templates, sizeof(items));
	for (unsigned i = 0; i < count; i++) {
		int rc = parse_item(source, items, &entries[i], i, err);

		if (rc < 0)
			return rc;
	}
	for (unsigned i = 0; i < ITEM_COUNT; i++)
		if (items[i].needed && !items[i].found)
			return error_set(err, ERR_CORRUPT, "the VHDX metadata has no %s",
					 items[i].name);
	return geometry_from(items, ret, err);
}

int vhdx_metadata_parse(const struct vhdx_metadata_source *source, struct vhdx_geometry *ret,
			struct error *err)
{
	AUTO_FREE uint8_t *table = malloc(VHDX_METADATA_TABLE_BYTES);
	int rc;

	if (!table)
		return error_set(err, ERR_NO_MEMORY, "no memory for VHDX metadata");
	rc = source->read(source->user, 0, table, VHDX_METADATA_TABLE_BYTES, err);
	return rc < 0 ? rc : parse_items(source, table, ret, err);
}
