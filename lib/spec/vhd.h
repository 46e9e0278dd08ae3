/*
 * VHD on disk, from Microsoft's "Virtual Hard Disk Image Format Specification" (version 1.0, 2006).
 * All numbers are big-endian; ids are 16 bytes whose order depends on who wrote them. Checksums are
 * the one's complement of the sum of all bytes of the structure with the checksum field as zero.
 */
#ifndef SPEC_VHD_H
#define SPEC_VHD_H

#include "base/guid.h"

#include <stdint.h>

#define VHD_SECTOR_BYTES 512u

/* ---- hard disk footer: the file's last sector, and for dynamic disks a copy of it at 0 ---- */

#define VHD_FOOTER_COOKIE        "conectix"
#define VHD_FOOTER_BYTES         512u
#define VHD_SHORT_FOOTER_BYTES   511u /* of products before Virtual PC 2004 */
#define VHD_FEATURES_RESERVED    0x2u /* always set */
#define VHD_VERSION              0x00010000u
#define VHD_NO_OFFSET            UINT64_MAX
#define VHD_EPOCH_UNIX           946684800 /* 2000-01-01 00:00 UTC, of time stamps */
#define VHD_CREATOR_WINDOWS      "win "
#define VHD_CREATOR_HOST_WINDOWS "Wi2k"

enum vhd_disk_type { VHD_FIXED = 2, VHD_DYNAMIC = 3, VHD_DIFFERENCING = 4 };

struct vhd_footer {
	char cookie[8];
	uint32_t features;
	uint32_t format_version;
	uint64_t data_offset; /* of the dynamic header; VHD_NO_OFFSET for fixed disks */
	uint32_t time_stamp;
	char creator_application[4];
	uint32_t creator_version;
	char creator_host_os[4];
	uint64_t original_size;
	uint64_t current_size;
	uint16_t cylinders;
	uint8_t heads, sectors_per_track;
	uint32_t disk_type;
	uint32_t checksum;
	struct guid unique_id;
	uint8_t saved_state;
	uint8_t reserved[427];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_footer) == VHD_FOOTER_BYTES, "Hard Disk Footer Format");

/* ---- dynamic disk header ---- */

#define VHD_HEADER_COOKIE "cxsparse"
#define VHD_LOCATORS      8u

struct vhd_locator {
	char code[4];
	uint32_t data_space; /* in sectors by the specification; Windows writes bytes */
	uint32_t data_length;
	uint32_t reserved;
	uint64_t data_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_locator) == 24, "Parent Locator Entry");

/* Absolute and relative path in UTF-16LE; their 8-bit forerunners; a UTF-8 file URL. */
#define VHD_LOCATOR_ABSOLUTE     "W2ku"
#define VHD_LOCATOR_RELATIVE     "W2ru"
#define VHD_LOCATOR_OLD_ABSOLUTE "Wi2k"
#define VHD_LOCATOR_OLD_RELATIVE "Wi2r"
#define VHD_LOCATOR_MAC_URL      "MacX"

struct vhd_header {
	char cookie[8];
	uint64_t data_offset; /* VHD_NO_OFFSET */
	uint64_t table_offset;
	uint32_t header_version;
	uint32_t max_table_entries;
	uint32_t block_size; /* without the sector bitmap */
	uint32_t checksum;
	struct guid parent_unique_id;
	uint32_t parent_time_stamp;
	uint32_t reserved;
	uint8_t parent_name[512]; /* UTF-16BE */
	struct vhd_locator locators[VHD_LOCATORS];
	uint8_t reserved2[256];
} __attribute__((packed));
_Static_assert(sizeof(struct vhd_header) == 1024, "Dynamic Disk Header Format");

/* ---- block allocation table ---- */

/* Each entry: the sector of a block's bitmap, which the block's data follows. */
#define VHD_BAT_UNUSED      0xFFFFFFFFu
#define VHD_BAT_ENTRY_BYTES 4u

#endif
