/*
 * Reading VHDX structures out of bytes: pure functions over copies, each checking everything that
 * it returns. Private to this room.
 */
#ifndef DISK_VHDX_FORMAT_H
#define DISK_VHDX_FORMAT_H

#include "base/error.h"
#include "spec/vhdx.h"

#include <stdbool.h>
#include <stddef.h>

/* Limits of Microsoft's own reader, kept so that a file can't ask for unbounded memory. */
#define VHDX_MAX_LOG_BYTES      (UINT64_C(1) << 30)
#define VHDX_MAX_METADATA_BYTES (UINT64_C(128) << 20)

/* Chooses the current header of the two slots. */
int vhdx_header_choose(const struct vhdx_header slots[static 2], struct vhdx_header *ret,
		       unsigned *ret_slot, struct error *err);
/* Fills in signature and checksum. */
void vhdx_header_seal(struct vhdx_header *header);

struct vhdx_range {
	uint64_t offset, length;
};

struct vhdx_regions {
	struct vhdx_range bat, metadata;
	/* All regions, the unknown ones too: nobody else may use their space. */
	struct vhdx_range all[VHDX_REGION_MAX_ENTRIES];
	unsigned count;
};

/* tables: both copies, VHDX_REGION_TABLE_BYTES each. */
int vhdx_regions_parse(const uint8_t *tables, struct vhdx_regions *ret, struct error *err);
void vhdx_region_table_seal(uint8_t *table);
/* The copy that counts, of two that follow each other; NULL: none. */
const uint8_t *vhdx_region_table_choose(const uint8_t *tables);
/* Which of two copies count by themselves: bit 0, bit 1. */
unsigned vhdx_headers_valid(const struct vhdx_header slots[static 2]);
unsigned vhdx_region_tables_valid(const uint8_t *tables);

struct vhdx_geometry {
	uint64_t disk_bytes;
	uint32_t block_bytes, logical_sector_bytes, physical_sector_bytes;
	bool fixed, has_parent;
	struct guid id;
	/* Places in the metadata region: the table's entry of the parent locator (0: there is
	 * none), and of items that can be changed. */
	uint32_t locator_entry_at, locator_at, locator_bytes;
	uint32_t size_at, physical_at, id_at;

	/* derived */
	unsigned block_shift;
	uint64_t block_count; /* payload blocks */
	uint64_t chunk_ratio; /* payload blocks per sector bitmap block */
	uint64_t bat_entries; /* in use */
};

/* Reads [offset, offset + len) of the metadata region. */
struct vhdx_metadata_source {
	int (*read)(void *user, uint64_t offset, void *buf, size_t len, struct error *err);
	void *user;
	uint64_t length;
};
int vhdx_metadata_parse(const struct vhdx_metadata_source *source, struct vhdx_geometry *ret,
			struct error *err);
/* Computes the derived fields from the others. */
void vhdx_geometry_derive(struct vhdx_geometry *geometry);
/* Index in the BAT of a payload block's entry. */
static inline uint64_t vhdx_bat_index(const struct vhdx_geometry *geometry, uint64_t block)
{
	return block + block / geometry->chunk_ratio;
}

#endif
