/*
 * VHDX on disk, from the open specification [MS-VHDX] (section numbers refer to revision 8.0). All
 * fields are little-endian, GUIDs in the Windows memory layout; checksums are CRC-32C over the
 * whole structure with the checksum field as zero.
 */
#ifndef SPEC_VHDX_H
#define SPEC_VHDX_H

#include "base/guid.h"

#include <stdint.h>

#define VHDX_MIB          UINT64_C(0x100000)
#define VHDX_SECTOR_BYTES 4096u /* unit of the log and of header structures */

/* ---- 2.2 header section ---- */

#define VHDX_IDENTIFIER_SIGNATURE      UINT64_C(0x656C696678646876) /* "vhdxfile" */
#define VHDX_IDENTIFIER_OFFSET         UINT64_C(0)
#define VHDX_HEADER_OFFSET(slot)       (UINT64_C(0x10000) * ((slot) + 1u)) /* slot 0 or 1 */
#define VHDX_REGION_TABLE_OFFSET(slot) (UINT64_C(0x30000) + UINT64_C(0x10000) * (slot))
#define VHDX_REGION_TABLE_BYTES        0x10000u
#define VHDX_HEADER_SECTION_BYTES      VHDX_MIB
#define VHDX_FIRST_LOGGED_OFFSET       VHDX_REGION_TABLE_OFFSET(0) /* nothing below is ever logged */

struct vhdx_identifier {
	uint64_t signature;
	uint16_t creator[256]; /* UTF-16 */
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_identifier) == 520, "2.2.1");

#define VHDX_HEADER_SIGNATURE 0x64616568u /* "head" */
#define VHDX_HEADER_VERSION   1
#define VHDX_LOG_VERSION      0

struct vhdx_header {
	uint32_t signature;
	uint32_t checksum;
	uint64_t sequence_number;
	struct guid file_write_guid;
	struct guid data_write_guid;
	struct guid log_guid; /* zero: the log is empty */
	uint16_t log_version;
	uint16_t version;
	uint32_t log_length;
	uint64_t log_offset;
	uint8_t reserved[4016];
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_header) == 4096, "2.2.2");

#define VHDX_REGION_SIGNATURE   0x69676572u /* "regi" */
#define VHDX_REGION_MAX_ENTRIES 2047u
#define VHDX_REGION_REQUIRED    0x1u

struct vhdx_region_table_header {
	uint32_t signature;
	uint32_t checksum; /* over VHDX_REGION_TABLE_BYTES */
	uint32_t entry_count;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_region_table_header) == 16, "2.2.3.1");

struct vhdx_region_entry {
	struct guid guid;
	uint64_t file_offset;
	uint32_t length;
	uint32_t flags;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_region_entry) == 32, "2.2.3.2");

#define VHDX_REGION_BAT                                                                            \
	GUID_INIT(0x2dc27766, 0xf623, 0x4200, 0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08)
#define VHDX_REGION_METADATA                                                                       \
	GUID_INIT(0x8b7ca206, 0x4790, 0x4b9a, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e)

/* ---- 2.3 log ---- */

#define VHDX_LOG_ENTRY_SIGNATURE 0x65676f6cu /* "loge" */
#define VHDX_LOG_DATA_DESC       0x63736564u /* "desc" */
#define VHDX_LOG_ZERO_DESC       0x6f72657au /* "zero" */
#define VHDX_LOG_DATA_SECTOR     0x61746164u /* "data" */

struct vhdx_log_entry_header {
	uint32_t signature;
	uint32_t checksum;     /* over entry_length */
	uint32_t entry_length; /* multiple of 4096 */
	uint32_t tail;         /* log offset of the oldest entry still needed */
	uint64_t sequence_number;
	uint32_t descriptor_count;
	uint32_t reserved;
	struct guid log_guid;
	uint64_t flushed_file_offset;
	uint64_t last_file_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_entry_header) == 64, "2.3.1.1");

struct vhdx_log_descriptor {
	uint32_t signature;      /* VHDX_LOG_DATA_DESC or VHDX_LOG_ZERO_DESC */
	uint32_t trailing_bytes; /* data: last 4 bytes of the target sector */
	uint64_t leading_bytes;  /* data: first 8 bytes; zero: length of the zeroed range */
	uint64_t file_offset;
	uint64_t sequence_number;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_descriptor) == 32, "2.3.1.2, 2.3.1.3");

struct vhdx_log_data_sector {
	uint32_t signature;
	uint32_t sequence_high;
	uint8_t data[4084];
	uint32_t sequence_low;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_log_data_sector) == 4096, "2.3.1.4");

/* ---- 2.5 BAT ---- */

#define VHDX_BAT_STATE(entry)       ((unsigned)((entry)&7))
#define VHDX_BAT_FILE_OFFSET(entry) ((entry) & ~(VHDX_MIB - 1))
#define VHDX_BAT_RESERVED(entry)    ((entry) & (VHDX_MIB - 1) & ~UINT64_C(7))

enum vhdx_block_state {
	VHDX_BLOCK_NOT_PRESENT = 0,
	VHDX_BLOCK_UNDEFINED = 1,
	VHDX_BLOCK_ZERO = 2,
	VHDX_BLOCK_UNMAPPED = 3,
	VHDX_BLOCK_UNMAPPED_DRAFT = 5, /* of the 0.95 draft: refused */
	VHDX_BLOCK_FULLY_PRESENT = 6,
	VHDX_BLOCK_PARTIALLY_PRESENT = 7, /* differencing only */
};

#define VHDX_BAT_ENTRY_BYTES 8u
#define VHDX_CHUNK_SECTORS   (UINT64_C(1) << 23) /* logical sectors per bitmap block */
#define VHDX_MIN_BLOCK_BYTES UINT64_C(0x100000)
#define VHDX_MAX_BLOCK_BYTES UINT64_C(0x10000000)
#define VHDX_MAX_DISK_BYTES  (UINT64_C(64) << 40)

/* ---- 2.6 metadata ---- */

#define VHDX_METADATA_SIGNATURE    UINT64_C(0x617461646174656D) /* "metadata" */
#define VHDX_METADATA_TABLE_BYTES  0x10000u
#define VHDX_METADATA_MAX_ENTRIES  2047u
#define VHDX_METADATA_MAX_ITEM     0x100000u
#define VHDX_METADATA_USER         0x1u
#define VHDX_METADATA_VIRTUAL_DISK 0x2u
#define VHDX_METADATA_REQUIRED     0x4u

struct vhdx_metadata_table_header {
	uint64_t signature;
	uint16_t reserved;
	uint16_t entry_count;
	uint8_t reserved2[20];
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_metadata_table_header) == 32, "2.6.1.1");

struct vhdx_metadata_entry {
	struct guid item_id;
	uint32_t offset; /* from the start of the region */
	uint32_t length;
	uint32_t flags;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_metadata_entry) == 32, "2.6.1.2");

#define VHDX_ITEM_FILE_PARAMETERS                                                                  \
	GUID_INIT(0xcaa16737, 0xfa36, 0x4d43, 0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b)
#define VHDX_ITEM_DISK_SIZE                                                                        \
	GUID_INIT(0x2fa54224, 0xcd1b, 0x4876, 0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8)
#define VHDX_ITEM_DISK_ID                                                                          \
	GUID_INIT(0xbeca12ab, 0xb2e6, 0x4523, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46)
#define VHDX_ITEM_LOGICAL_SECTOR                                                                   \
	GUID_INIT(0x8141bf1d, 0xa96f, 0x4709, 0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f)
#define VHDX_ITEM_PHYSICAL_SECTOR                                                                  \
	GUID_INIT(0xcda348c7, 0x445d, 0x4471, 0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56)
#define VHDX_ITEM_PARENT_LOCATOR                                                                   \
	GUID_INIT(0xa8d35f2d, 0xb30b, 0x454d, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c)
/* Not in the public specification: creation was not finished. */
#define VHDX_ITEM_INCOMPLETE_FILE                                                                  \
	GUID_INIT(0x71cc85f0, 0x1b69, 0x4e28, 0x95, 0x58, 0xc3, 0xbf, 0x83, 0xae, 0x75, 0xd3)
/* Not in the public specification: CHS geometry; optional. */

struct vhdx_file_parameters {
	uint32_t block_bytes;
	uint32_t flags;
} __attribute__((packed));
#define VHDX_LEAVE_BLOCKS_ALLOCATED 0x1u /* "fixed" */
#define VHDX_HAS_PARENT             0x2u

/* ---- 2.6.2.6 parent locator: keys and values in UTF-16 behind the entries ---- */

#define VHDX_LOCATOR_TYPE                                                                          \
	GUID_INIT(0xb04aefb7, 0xd19e, 0x4a81, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13)

struct vhdx_locator_header {
	struct guid locator_type;
	uint16_t reserved;
	uint16_t key_value_count;
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_locator_header) == 20, "2.6.2.6.1");

struct vhdx_locator_entry {
	uint32_t key_offset, value_offset; /* from the start of the item */
	uint16_t key_length, value_length; /* bytes */
} __attribute__((packed));
_Static_assert(sizeof(struct vhdx_locator_entry) == 12, "2.6.2.6.2");

#endif
