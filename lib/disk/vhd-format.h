/*
 * VHD structures from and to bytes: pure functions over copies, each checking everything that it
 * returns. Private to this room.
 */
#ifndef DISK_VHD_FORMAT_H
#define DISK_VHD_FORMAT_H

#include "base/error.h"
#include "base/guid.h"
#include "spec/vhd.h"

#include <stdbool.h>
#include <stddef.h>

/* Limits of this reader, so that a file can't ask for unbounded memory: 2040 GiB in blocks of 128
 * KiB fit. */
#define VHD_MIN_BLOCK_BYTES   512u
#define VHD_MAX_BLOCK_BYTES   (256u << 20)
#define VHD_MAX_TABLE_ENTRIES (1u << 24)
#define VHD_MAX_PATH_BYTES    65536u /* of one locator */

struct vhd_geometry {
	enum vhd_disk_type type;
	uint64_t disk_bytes;
	struct guid id;
	char creator[5];

	/* Dynamic and differencing only. */
	uint64_t header_offset, table_offset;
	uint32_t table_entries; /* room in the table; at least block_count */
	uint32_t block_bytes, bitmap_bytes;
	unsigned block_shift;
	uint32_t block_count;
	struct guid parent_id;
};

uint32_t vhd_checksum(const void *structure, size_t size, size_t checksum_offset);
void vhd_footer_seal(struct vhd_footer *footer);
void vhd_header_seal(struct vhd_header *header);
/* Cookie and checksum are right. (A 511-byte footer: with a zero as its last byte.) */
bool vhd_footer_counts(const struct vhd_footer *footer);

/* Of a footer that counts; at says where it is, for errors. */
int vhd_footer_parse(const struct vhd_footer *footer, uint64_t at, struct vhd_geometry *ret,
		     struct error *err);
/* Fills in the rest. */
int vhd_header_parse(const struct vhd_header *header, struct vhd_geometry *ret, struct error *err);

/* As much of the path as there is room for, in UTF-16BE. */
void vhd_header_set_parent_name(struct vhd_header *header, const char *path);

/* Cylinders, heads and sectors per track for a size, as Windows computes them. */
void vhd_footer_set_size(struct vhd_footer *footer, uint64_t size_bytes);
/* block_bytes, bitmap_bytes, block_shift, block_count from a block size and disk_bytes. */
void vhd_geometry_derive(struct vhd_geometry *geometry, uint32_t block_bytes);

/* What a block takes in the file. The last one needs no more than the disk has. */
uint64_t vhd_block_file_bytes(const struct vhd_geometry *geometry, uint32_t block);
/* Where a bitmap goes if it may begin at offset: its data begins at a multiple of 4 KiB, as Windows
 * 8 and later place it. */
uint64_t vhd_block_place(const struct vhd_geometry *geometry, uint64_t offset);
/* The length of a file whose data ends at end: Windows' are multiples of 4 KiB, the footer last. */
uint64_t vhd_file_bytes(uint64_t end);
/* The id as people see it: of some writers it is big-endian in the file. */
struct guid vhd_display_id(const struct vhd_geometry *geometry);

/* ---- sector bitmaps: the first sector is the most significant bit of the first byte ---- */

static inline bool vhd_bit(const uint8_t *bitmap, uint32_t sector)
{
	return bitmap[sector / 8] >> (7 - sector % 8) & 1;
}
void vhd_bits_set(uint8_t *bitmap, uint32_t sector, uint32_t count);
/* How many of at most max sectors, from the first on, have the same bit. */
uint32_t vhd_bits_run(const uint8_t *bitmap, uint32_t sector, uint32_t max);
/* All of the first count bits are as told. */
bool vhd_bits_all(const uint8_t *bitmap, uint32_t count, bool value);

#endif
