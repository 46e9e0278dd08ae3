/*
 * New VHDX files, in the layout that Windows writes: log at 1 MiB, metadata at 2 MiB, BAT at 3 MiB,
 * payload behind. Everything but the file type identifier is written and synced first, so that a
 * creation that was cut short leaves no file that passes for a VHDX.
 */
#include "disk/vhdx.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/new-image.h"
#include "disk/vhdx-format.h"
#include "disk/vhdx-locator.h"

#include <errno.h>
#include <fcntl.h>

#define LOG_OFFSET         (1 * MIB)
#define LOG_BYTES          (1 * MIB)
#define METADATA_OFFSET    (2 * MIB)
#define METADATA_BYTES     (1 * MIB)
#define BAT_OFFSET         (3 * MIB)
#define DEFAULT_BLOCK      (32 * MIB)
#define DEFAULT_DIFF_BLOCK (2 * MIB) /* small writes should not make a child large */
#define BAT_WRITE_ENTRIES  8192u

static const char creator[] = "Oyako";

struct creation {
	int fd;
	struct vhdx_geometry geometry;
	uint64_t bat_bytes; /* region, multiple of 1 MiB */
	bool sparse;
	uint8_t *locator; /* differencing */
	size_t locator_bytes;
};

static bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

static bool is_sector_size(uint32_t bytes)
{
	return bytes == 512 || bytes == 4096;
}

static void take_from_parent(const struct disk_details *parent, struct vhdx_geometry *g)
{
	g->has_parent = true;
	g->id = parent->id;
	g->disk_bytes = g->disk_bytes ?: parent->size_bytes;
	g->logical_sector_bytes = g->logical_sector_bytes ?: parent->logical_sector_bytes;
	g->physical_sector_bytes = g->physical_sector_bytes ?: parent->physical_sector_bytes;
}

static int check_geometry(const struct vhdx_geometry *g, struct error *err)
{
	if (!is_power_of_two(g->block_bytes) || g->block_bytes < VHDX_MIN_BLOCK_BYTES ||
	    g->block_bytes > VHDX_MAX_BLOCK_BYTES)
		return error_set(err, ERR_INVALID,
				 "a block size of %u bytes: it is a power of two, 1 MiB to 256 MiB",
				 g->block_bytes);
	if (!is_sector_size(g->logical_sector_bytes) || !is_sector_size(g->physical_sector_bytes))
		return error_set(err, ERR_INVALID, "sector sizes are 512 or 4096 bytes");
	if (!g->disk_bytes || g->disk_bytes > VHDX_MAX_DISK_BYTES ||
	    g->disk_bytes % g->logical_sector_bytes)
		return error_set(
		    err, ERR_INVALID,
		    "a disk of %lu bytes: it has whole sectors of %u bytes and at most "
		    "64 TiB",
		    g->disk_bytes, g->logical_sector_bytes);
	return 0;
}

/* What the guest sees of a disk is the same through a child. */
static int check_as_parent(const struct vhdx_geometry *g, const struct disk_details *parent,
			   struct error *err)
{
	if (g->disk_bytes == parent->size_bytes &&
	    g->logical_sector_bytes == parent->logical_sector_bytes &&
	    g->physical_sector_bytes == parent->physical_sector_bytes)
		return 0;
	return error_set(err, ERR_INVALID,
			 "a differencing disk has the size and sector sizes of its parent: %lu, "
			 "%u and %u bytes",
			 parent->size_bytes, parent->logical_sector_bytes,
			 parent->physical_sector_bytes);
}

static int choose_geometry(const struct disk_create_options *options, struct vhdx_geometry *ret,
			   struct error *err)
{
	bool differencing = options->type == DISK_DIFFERENCING;
	struct vhdx_geometry g = {
		.disk_bytes = options->size_bytes,
		.block_bytes = options->block_bytes,
		.logical_sector_bytes = options->logical_sector_bytes,
		.physical_sector_bytes = options->physical_sector_bytes,
		.fixed = options->type == DISK_FIXED,
		.id = options->id,
	};
	static const struct guid none;
	int rc;

	if (differencing)
		take_from_parent(options->parent, &g);
	g.block_bytes =
	    g.block_bytes ?: (uint32_t)(differencing ? DEFAULT_DIFF_BLOCK : DEFAULT_BLOCK);
	g.logical_sector_bytes = g.logical_sector_bytes ?: 512;
	g.physical_sector_bytes = g.physical_sector_bytes ?: 4096;
	rc = check_geometry(&g, err);
	if (rc == 0 && differencing)
		rc = check_as_parent(&g, options->parent, err);
	if (rc < 0)
		return rc;
	if (guid_equal(&g.id, &none))
		guid_generate(&g.id);
	vhdx_geometry_derive(&g);
	*ret = g;
	return 0;
}

static int make_locator(const struct disk_create_options *options, struct creation *c,
			struct error *err)
{
	struct vhdx_locator locator = { .linkage = options->parent->link_id };
	int rc;

	if (!options->parent_absolute && !options->parent_relative && !options->parent_volume)
		return error_set(err, ERR_INVALID,
				 "a differencing disk needs a path to its parent");
	rc = vhdx_locator_put(&locator, VHDX_KEY_RELATIVE, options->parent_relative, err);
	if (rc == 0)
		rc = vhdx_locator_put(&locator, VHDX_KEY_VOLUME, options->parent_volume, err);
	if (rc == 0)
		rc = vhdx_locator_put(&locator, VHDX_KEY_ABSOLUTE, options->parent_absolute, err);
	if (rc == 0)
		rc = vhdx_locator_compose(&locator, &c->locator, &c->locator_bytes, err);
	vhdx_locator_done(&locator);
	return rc;
}

static int write_headers(const struct creation *c, struct error *err)
{
	struct vhdx_header header = {
		.version = htole16(VHDX_HEADER_VERSION),
		.log_version = htole16(VHDX_LOG_VERSION),
		.log_length = htole32((uint32_t)LOG_BYTES),
		.log_offset = htole64(LOG_OFFSET),
	};
	int rc = 0;

	guid_generate(&header.file_write_guid);
	guid_generate(&header.data_write_guid);
	for (unsigned slot = 0; slot < 2 && rc == 0; slot++) {
		header.sequence_number = htole64(slot + 1u);
		vhdx_header_seal(&header);
		rc = new_image_write(c->fd, VHDX_HEADER_OFFSET(slot), &header, sizeof(header), err);
	}
	return rc;
}

static int write_region_tables(const struct creation *c, struct error *err)
{
	AUTO_FREE uint8_t *table = calloc(1, VHDX_REGION_TABLE_BYTES);
	struct vhdx_region_table_header *header = (void *)table;
	struct vhdx_region_entry *entries = (void *)(header + 1);
	int rc = 0;

	if (!table)
		return error_set(err, ERR_NO_MEMORY, "no memory to create a VHDX");
	header->entry_count = htole32(2);
	entries[0] = (struct vhdx_region_entry){ VHDX_REGION_BAT, htole64(BAT_OFFSET),
						 htole32((uint32_t)c->bat_bytes),
						 htole32(VHDX_REGION_REQUIRED) };
	entries[1] = (struct vhdx_region_entry){ VHDX_REGION_METADATA, htole64(METADATA_OFFSET),
						 htole32((uint32_t)METADATA_BYTES),
						 htole32(VHDX_REGION_REQUIRED) };
	vhdx_region_table_seal(table);
	for (unsigned slot = 0; slot < 2 && rc == 0; slot++)
		rc = new_image_write(c->fd, VHDX_REGION_TABLE_OFFSET(slot), table,
				     VHDX_REGION_TABLE_BYTES, err);
	return rc;
}

/* The items, in the order and at the places that Windows uses. */
static int write_metadata(const struct creation *c, struct error *err)
{
	static const struct {
		struct guid id;
		uint32_t length, flags;
	} layout[] = {
		/* the locator, which has its own length, is the last */
		{ VHDX_ITEM_FILE_PARAMETERS, 8, VHDX_METADATA_REQUIRED },
		{ VHDX_ITEM_DISK_SIZE, 8, VHDX_METADATA_REQUIRED | VHDX_METADATA_VIRTUAL_DISK },
		{ VHDX_ITEM_LOGICAL_SECTOR, 4,
		  VHDX_METADATA_REQUIRED | VHDX_METADATA_VIRTUAL_DISK },
		{ VHDX_ITEM_PHYSICAL_SECTOR, 4,
		  VHDX_METADATA_REQUIRED | VHDX_METADATA_VIRTUAL_DISK },
		{ VHDX_ITEM_DISK_ID, 16, VHDX_METADATA_REQUIRED | VHDX_METADATA_VIRTUAL_DISK },
		{ VHDX_ITEM_PARENT_LOCATOR, 0, VHDX_METADATA_REQUIRED },
	};
	unsigned count = ARRAY_SIZE(layout) - (c->geometry.has_parent ? 0 : 1);
	size_t size = VHDX_METADATA_TABLE_BYTES + VHDX_SECTOR_BYTES + c->locator_bytes;
	AUTO_FREE uint8_t *region = calloc(1, size);
	struct vhdx_metadata_table_header *header = (void *)region;
	struct vhdx_metadata_entry *entries = (void *)(header + 1);
	uint8_t *items = region + VHDX_METADATA_TABLE_BYTES;
	uint32_t offset = VHDX_METADATA_TABLE_BYTES;

	if (!region)
		return error_set(err, ERR_NO_MEMORY, "no memory to create a VHDX");
	header->signature = htole64(VHDX_METADATA_SIGNATURE);
	header->entry_count = htole16((uint16_t)count);
	for (unsigned i = 0; i < count; i++) {
		uint32_t length = layout[i].length ?: (uint32_t)c->locator_bytes;

		entries[i] =
		    (struct vhdx_metadata_entry){ layout[i].id, htole32(offset), htole32(length),
						  htole32(layout[i].flags) };
		offset += length;
	}
	store_le32(items, c->geometry.block_bytes);
	store_le32(items + 4, (c->geometry.fixed ? VHDX_LEAVE_BLOCKS_ALLOCATED : 0) |
				  (c->geometry.has_parent ? VHDX_HAS_PARENT : 0));
	store_le64(items + 8, c->geometry.disk_bytes);
	store_le32(items + 16, c->geometry.logical_sector_bytes);
	store_le32(items + 20, c->geometry.physical_sector_bytes);
	memcpy(items + 24, &c->geometry.id, sizeof(c->geometry.id));
	if (c->locator)
		memcpy(items + 40, c->locator, c->locator_bytes);
	return new_image_write(c->fd, METADATA_OFFSET, region, size, err);
}

/* The blocks of a fixed disk follow each other in the file. (An empty BAT is all zeros.) */
static int write_fixed_bat(const struct creation *c, struct error *err)
{
	const struct vhdx_geometry *g = &c->geometry;
	AUTO_FREE uint64_t *part = malloc(BAT_WRITE_ENTRIES * sizeof(*part));
	uint64_t payload = BAT_OFFSET + c->bat_bytes;
	int rc = 0;

	if (!part)
		return error_set(err, ERR_NO_MEMORY, "no memory to create a VHDX");
	for (uint64_t first = 0; first < g->bat_entries && rc == 0; first += BAT_WRITE_ENTRIES) {
		uint64_t count = MIN(g->bat_entries - first, (uint64_t)BAT_WRITE_ENTRIES);

		for (uint64_t i = 0; i < count; i++) {
			bool bitmap = (first + i) % (g->chunk_ratio + 1) == g->chunk_ratio;

			part[i] = bitmap ? 0 : htole64(payload | VHDX_BLOCK_FULLY_PRESENT);
			payload += bitmap ? 0 : g->block_bytes;
		}
		rc = new_image_write(c->fd, BAT_OFFSET + first * VHDX_BAT_ENTRY_BYTES, part,
				     count * VHDX_BAT_ENTRY_BYTES, err);
	}
	return rc;
}

/* All but the payload of a fixed disk has holes until something is written there. */
static int set_size(const struct creation *c, struct error *err)
{
	uint64_t head = BAT_OFFSET + c->bat_bytes;
	uint64_t payload =
	    c->geometry.fixed ? c->geometry.block_count * c->geometry.block_bytes : 0;

	if (ftruncate(c->fd, 0) < 0 || ftruncate(c->fd, (off_t)(head + payload)) < 0)
		return error_set_errno(err, errno, "setting the size of the new VHDX file");
	return payload && !c->sparse ? new_image_reserve(c->fd, head, payload, err) : 0;
}

static int write_identifier(const struct creation *c, struct error *err)
{
	struct vhdx_identifier identifier = { .signature = htole64(VHDX_IDENTIFIER_SIGNATURE) };

	for (unsigned i = 0; creator[i]; i++)
		identifier.creator[i] = htole16((uint16_t)creator[i]);
	return new_image_write(c->fd, VHDX_IDENTIFIER_OFFSET, &identifier, sizeof(identifier), err);
}

static int write_image(struct creation *c, struct error *err)
{
	int rc = set_size(c, err);

	if (rc == 0)
		rc = write_headers(c, err);
	if (rc == 0)
		rc = write_region_tables(c, err);
	if (rc == 0)
		rc = write_metadata(c, err);
	if (rc == 0 && c->geometry.fixed)
		rc = write_fixed_bat(c, err);
	if (rc == 0)
		rc = new_image_sync(c->fd, err);
	if (rc == 0)
		rc = write_identifier(c, err);
	return rc < 0 ? rc : new_image_sync(c->fd, err);
}

int vhdx_create(int fd, const struct disk_create_options *options, struct error *err)
{
	struct creation c = { .fd = fd, .sparse = options->sparse };
	int rc = choose_geometry(options, &c.geometry, err);

	if (rc == 0 && options->type == DISK_DIFFERENCING)
		rc = make_locator(options, &c, err);
	if (rc < 0)
		return rc;
	c.bat_bytes = ALIGN_UP(c.geometry.bat_entries * VHDX_BAT_ENTRY_BYTES, MIB);
	rc = write_image(&c, err);
	free(c.locator);
	return rc;
}
