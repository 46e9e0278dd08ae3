/* SMBIOS structures. Specification: DMTF DSP0134, version 3.4 (section numbers in brackets). */
#ifndef SPEC_SMBIOS_H
#define SPEC_SMBIOS_H

#include <assert.h>
#include <stdint.h>

struct smbios_anchor_21 {  /* [5.2.1] */
	uint8_t anchor[4]; /* "_SM_" */
	uint8_t checksum;
	uint8_t length; /* 1Fh */
	uint8_t major, minor;
	uint16_t max_structure_size;
	uint8_t entry_point_revision;
	uint8_t formatted_area[5];
	uint8_t intermediate_anchor[5]; /* "_DMI_" */
	uint8_t intermediate_checksum;
	uint16_t table_length;
	uint32_t table_address;
	uint16_t structure_count;
	uint8_t bcd_revision;
} __attribute__((packed));
static_assert(sizeof(struct smbios_anchor_21) == 0x1f, "layout");

struct smbios_anchor_30 {  /* [5.2.2] */
	uint8_t anchor[5]; /* "_SM3_" */
	uint8_t checksum;
	uint8_t length; /* 18h */
	uint8_t major, minor, docrev;
	uint8_t entry_point_revision;
	uint8_t reserved;
	uint32_t table_max_size;
	uint64_t table_address;
} __attribute__((packed));
static_assert(sizeof(struct smbios_anchor_30) == 0x18, "layout");

struct smbios_header {
	uint8_t type, length;
	uint16_t handle;
} __attribute__((packed));

/* Fields called *_s are string numbers, counted from 1; 0 is no string. */

struct smbios_bios { /* type 0 [7.1] */
	struct smbios_header h;
	uint8_t vendor_s, version_s;
	uint16_t start_segment;
	uint8_t release_date_s, rom_size;
	uint64_t characteristics;
	uint8_t characteristics_ext[2];
	uint8_t release_major, release_minor, ec_major, ec_minor;
	uint16_t extended_rom_size;
} __attribute__((packed));
static_assert(sizeof(struct smbios_bios) == 0x1a, "layout");

struct smbios_system { /* type 1 [7.2] */
	struct smbios_header h;
	uint8_t manufacturer_s, product_s, version_s, serial_s;
	uint8_t uuid[16];
	uint8_t wake_up_type, sku_s, family_s;
} __attribute__((packed));
static_assert(sizeof(struct smbios_system) == 0x1b, "layout");

struct smbios_board { /* type 2 [7.3] */
	struct smbios_header h;
	uint8_t manufacturer_s, product_s, version_s, serial_s, asset_tag_s;
	uint8_t features, location_s;
	uint16_t chassis_handle;
	uint8_t board_type, contained_count;
} __attribute__((packed));
static_assert(sizeof(struct smbios_board) == 0x0f, "layout");

struct smbios_chassis { /* type 3 [7.4] */
	struct smbios_header h;
	uint8_t manufacturer_s, chassis_type, version_s, serial_s, asset_tag_s;
	uint8_t boot_state, power_state, thermal_state, security_status;
	uint32_t oem;
	uint8_t height, power_cords, contained_count, contained_size, sku_s;
} __attribute__((packed));
static_assert(sizeof(struct smbios_chassis) == 0x16, "layout");

struct smbios_processor { /* type 4 [7.5] */
	struct smbios_header h;
	uint8_t socket_s, processor_type, family, manufacturer_s;
	uint64_t id;
	uint8_t version_s, voltage;
	uint16_t external_clock, max_speed, current_speed;
	uint8_t status, upgrade;
	uint16_t l1_handle, l2_handle, l3_handle;
	uint8_t serial_s, asset_tag_s, part_number_s;
	uint8_t core_count, core_enabled, thread_count;
	uint16_t characteristics, family2, core_count2, core_enabled2, thread_count2;
} __attribute__((packed));
static_assert(sizeof(struct smbios_processor) == 0x30, "layout");

struct smbios_memory_array { /* type 16 [7.17] */
	struct smbios_header h;
	uint8_t location, use, error_correction;
	uint32_t max_capacity_kib; /* 80000000h: see the extended field */
	uint16_t error_handle, device_count;
	uint64_t extended_max_capacity_bytes;
} __attribute__((packed));
static_assert(sizeof(struct smbios_memory_array) == 0x17, "layout");

struct smbios_memory_device { /* type 17 [7.18], as of 2.8 */
	struct smbios_header h;
	uint16_t array_handle, error_handle, total_width, data_width;
	uint16_t size_mib; /* 7FFFh: see the extended field */
	uint8_t form_factor, device_set, locator_s, bank_s, memory_type;
	uint16_t type_detail, speed;
	uint8_t manufacturer_s, serial_s, asset_tag_s, part_number_s, attributes;
	uint32_t extended_size_mib;
	uint16_t configured_speed, min_voltage, max_voltage, configured_voltage;
} __attribute__((packed));
static_assert(sizeof(struct smbios_memory_device) == 0x28, "layout");

struct smbios_memory_mapped { /* type 19 [7.20] */
	struct smbios_header h;
	uint32_t start_kib, end_kib; /* FFFFFFFFh: see the extended fields */
	uint16_t array_handle;
	uint8_t partition_width;
	uint64_t extended_start, extended_end; /* bytes, end inclusive */
} __attribute__((packed));
static_assert(sizeof(struct smbios_memory_mapped) == 0x1f, "layout");

struct smbios_boot { /* type 32 [7.33] */
	struct smbios_header h;
	uint8_t reserved[6];
	uint8_t status;
} __attribute__((packed));
static_assert(sizeof(struct smbios_boot) == 0x0b, "layout");

#endif
