#include "fw/smbios.h"

#include "base/macros.h"
#include "spec/smbios.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#define MAJOR           3
#define MINOR           1
#define OLD_MINOR       8 /* the 2.1 anchor says 2.8 */
#define TABLE_OFFSET    0x100
#define UNKNOWN_HANDLE  0xffff
#define NO_ERROR_HANDLE 0xfffe

/* Handles: type in the high byte, index in the low one. */
#define HANDLE(type, index) ((uint16_t)((type) << 8 | (index)))

struct builder {
	const struct smbios_config *config;
	const struct mem *mem;
	const char *version;
	char serial[SMBIOS_SERIAL_SIZE];
	uint8_t area[4096];
	size_t len, largest;
	unsigned count;
};

void smbios_serial(const struct guid *vm_id, char ret[static SMBIOS_SERIAL_SIZE])
{
	unsigned __int128 number = 0;
	size_t at = 0;

	for (unsigned i = 0; i < sizeof(vm_id->b); i++)
		number = number << 8 | vm_id->b[i];
	for (unsigned digit = 0; digit < 26; digit++) {
		if (digit && digit % 4 == 0)
			ret[at++] = '-';
		ret[at++] = (char)('0' + (unsigned)(number % 10));
		number /= 10;
	}
	ret[at] = 0;
}

static void append(struct builder *b, const void *data, size_t len)
{
	assert(len <= sizeof(b->area) - b->len); /* a few hundred bytes, whatever the VM is like */
	memcpy(b->area + b->len, data, len);
	b->len += len;
}

/* A structure: its formatted part, then its strings (a NULL-terminated list), numbered from 1. */
static void add(struct builder *b, const void *formatted, ...)
{
	const struct smbios_header *h = formatted;
	size_t start = b->len;
	const char *text;
	bool any = false;
	va_list strings;

	append(b, formatted, h->length);
	va_start(strings, formatted);
	while ((text = va_arg(strings, const char *))) {
		append(b, text, strlen(text) + 1);
		any = true;
	}
	va_end(strings);
	append(b, "\0", any ? 1 : 2);
	b->largest = MAX(b->largest, b->len - start);
	b->count++;
}

#define HEADER(type, index, structure)                                                             \
	{                                                                                          \
		type, sizeof(structure), HANDLE(type, index)                                       \
	}

static void add_bios(struct builder *b)
{
	bool uefi = b->config->generation == 2;
	struct smbios_bios bios = {
		.h = HEADER(0, 0, bios),
		.vendor_s = 1,
		.version_s = 2,
		.start_segment = uefi ? 0 : 0xf000,
		.release_date_s = 3,
		.characteristics = BIT(7) | BIT(11) | BIT(15) | BIT(16), /* PCI, update, boots CD */
		/* ACPI; VM, targeted content, and UEFI on generation 2 */
		.characteristics_ext = { 0x01, (uint8_t)(0x14 | (uefi ? 0x08 : 0)) },
		.release_major = uefi ? 4 : 0xff,
		.release_minor = uefi ? 1 : 0xff,
		.ec_major = 0xff,
		.ec_minor = 0xff,
	};

	if (uefi)
		add(b, &bios, "Microsoft Corporation", b->version, "05/13/2024", NULL);
	else
		add(b, &bios, "American Megatrends Inc.", "090008", "12/07/2018", NULL);
}

static void add_system(struct builder *b)
{
	struct smbios_system system = {
		.h = HEADER(1, 0, system),
		.manufacturer_s = 1,
		.product_s = 2,
		.version_s = 3,
		.serial_s = 4,
		.wake_up_type = 6, /* power switch */
		.sku_s = 5,
		.family_s = 6,
	};

	memcpy(system.uuid, b->config->vm_id.b, sizeof(system.uuid));
	add(b, &system, "Microsoft Corporation", "Virtual Machine", b->version, b->serial, "None",
	    "Virtual Machine", NULL);
}

static void add_board(struct builder *b)
{
	struct smbios_board board = {
		.h = HEADER(2, 0, board),
		.manufacturer_s = 1,
		.product_s = 2,
		.version_s = 3,
		.serial_s = 4,
		.asset_tag_s = 5,
		.features = 0x01, /* a hosting board */
		.location_s = 6,
		.chassis_handle = HANDLE(3, 0),
		.board_type = 0x0a, /* motherboard */
	};

	add(b, &board, "Microsoft Corporation", "Virtual Machine", b->version, b->serial, "None",
	    "Virtual Machine", NULL);
}

static void add_chassis(struct builder *b)
{
	struct smbios_chassis chassis = {
		.h = HEADER(3, 0, chassis),
		.manufacturer_s = 1,
		.chassis_type = 3, /* desktop */
		.version_s = 2,
		.serial_s = 3,
		.asset_tag_s = 4,
		.boot_state = 3, /* safe */
		.power_state = 3,
		.thermal_state = 3,
		.security_status = 2, /* unknown */
		.sku_s = 5,
	};

	add(b, &chassis, "Microsoft Corporation", b->version, b->serial, b->serial,
	    "Virtual Machine", NULL);
}

static void add_processor(struct builder *b)
{
	unsigned count = b->config->vp_count;
	struct smbios_processor processor = {
		.h = HEADER(4, 0, processor),
		.socket_s = 1,
		.processor_type = 3, /* central */
		.family = 2,         /* unknown */
		.manufacturer_s = 2,
		.version_s = 3,
		.voltage = 0x80,
		.status = 0x41, /* populated, enabled */
		.upgrade = 2,   /* unknown */
		.l1_handle = UNKNOWN_HANDLE,
		.l2_handle = UNKNOWN_HANDLE,
		.l3_handle = UNKNOWN_HANDLE,
		.core_count = (uint8_t)MIN(count, 255u),
		.core_enabled = (uint8_t)MIN(count, 255u),
		.thread_count = (uint8_t)MIN(count, 255u),
		.characteristics = 0x0c, /* 64-bit, multi-core */
		.family2 = 2,
		.core_count2 = (uint16_t)count,
		.core_enabled2 = (uint16_t)count,
		.thread_count2 = (uint16_t)count,
	};

	add(b, &processor, "None", "Microsoft Corporation", "Virtual Processor", NULL);
}

static void add_memory_array(struct builder *b)
{
	uint64_t size = mem_size_bytes(b->mem);
	bool extended = size / KIB >= 0x80000000;
	struct smbios_memory_array array = {
		.h = HEADER(16, 0, array),
		.location = 3, /* motherboard */
		.use = 3,      /* system memory */
		.error_correction = 3,
		.max_capacity_kib = extended ? 0x80000000 : (uint32_t)(size / KIB),
		.error_handle = NO_ERROR_HANDLE,
		.device_count = 1,
		.extended_max_capacity_bytes = extended ? size : 0,
	};

	add(b, &array, NULL);
}

static void add_memory_device(struct builder *b)
{
	uint64_t mib = mem_size_bytes(b->mem) / MIB;
	bool extended = mib >= 0x7fff;
	struct smbios_memory_device device = {
		.h = HEADER(17, 0, device),
		.array_handle = HANDLE(16, 0),
		.error_handle = NO_ERROR_HANDLE,
		.total_width = UNKNOWN_HANDLE,
		.data_width = UNKNOWN_HANDLE,
		.size_mib = extended ? 0x7fff : (uint16_t)mib,
		.form_factor = 2, /* unknown */
		.locator_s = 1,
		.bank_s = 2,
		.memory_type = 2,
		.type_detail = 0x0004, /* unknown */
		.manufacturer_s = 3,
		.serial_s = 2,
		.asset_tag_s = 2,
		.part_number_s = 2,
		.extended_size_mib = extended ? (uint32_t)mib : 0,
	};

	add(b, &device, "M0001", "None", "Microsoft Corporation", NULL);
}

static void add_memory_map(struct builder *b)
{
	struct mem_range ranges[2];
	unsigned count = mem_ranges(b->mem, ranges);

	for (unsigned i = 0; i < count; i++) {
		uint64_t start = ranges[i].gpa, end = start + ranges[i].size_bytes - 1;
		bool extended = end / KIB >= UINT32_MAX;
		struct smbios_memory_mapped mapped = {
			.h = HEADER(19, i, mapped),
			.start_kib = extended ? UINT32_MAX : (uint32_t)(start / KIB),
			.end_kib = extended ? UINT32_MAX : (uint32_t)(end / KIB),
			.array_handle = HANDLE(16, 0),
			.partition_width = 1,
			.extended_start = extended ? start : 0,
			.extended_end = extended ? end : 0,
		};

		add(b, &mapped, NULL);
	}
}

static void add_boot_and_end(struct builder *b)
{
	struct smbios_boot boot = { .h = HEADER(32, 0, boot) };
	struct smbios_header end = HEADER(127, 0, end);

	add(b, &boot, NULL);
	add(b, &end, NULL);
}

static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *bytes = data;
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + bytes[i]);
	return (uint8_t)-sum;
}

static struct smbios_anchor_30 anchor_30(const struct builder *b)
{
	struct smbios_anchor_30 anchor = {
		.anchor = { '_', 'S', 'M', '3', '_' },
		.length = sizeof(anchor),
		.major = MAJOR,
		.minor = MINOR,
		.entry_point_revision = 1,
		.table_max_size = (uint32_t)b->len,
		.table_address = SMBIOS_TABLES_GPA + TABLE_OFFSET,
	};

	anchor.checksum = checksum(&anchor, sizeof(anchor));
	return anchor;
}

static struct smbios_anchor_21 anchor_21(const struct builder *b)
{
	struct smbios_anchor_21 anchor = {
		.anchor = { '_', 'S', 'M', '_' },
		.length = sizeof(anchor),
		.major = 2,
		.minor = OLD_MINOR,
		.max_structure_size = (uint16_t)b->largest,
		.intermediate_anchor = { '_', 'D', 'M', 'I', '_' },
		.table_length = (uint16_t)b->len,
		.table_address = (uint32_t)(SMBIOS_TABLES_GPA + TABLE_OFFSET),
		.structure_count = (uint16_t)b->count,
		.bcd_revision = 0x20 | OLD_MINOR,
	};
	const size_t second = offsetof(struct smbios_anchor_21, intermediate_anchor);

	anchor.intermediate_checksum =
	    checksum((uint8_t *)&anchor + second, sizeof(anchor) - second);
	anchor.checksum = checksum(&anchor, sizeof(anchor));
	return anchor;
}

static void build(struct builder *b)
{
	add_bios(b);
	add_system(b);
	add_board(b);
	add_chassis(b);
	add_processor(b);
	add_memory_array(b);
	add_memory_device(b);
	add_memory_map(b);
	add_boot_and_end(b);
}

void smbios_install(struct mem *mem, const struct smbios_config *config)
{
	struct builder b = { .config = config, .mem = mem };
	struct smbios_anchor_30 new_anchor;
	struct smbios_anchor_21 old_anchor;

	b.version = config->generation == 2 ? "Hyper-V UEFI Release v4.1" : "7.0";
	smbios_serial(&config->vm_id, b.serial);
	build(&b);
	new_anchor = anchor_30(&b);
	old_anchor = anchor_21(&b);
	/* Anchors stand on 16-byte boundaries. */
	mem_write(mem, SMBIOS_TABLES_GPA, &new_anchor, sizeof(new_anchor));
	mem_write(mem, SMBIOS_TABLES_GPA + 0x20, &old_anchor, sizeof(old_anchor));
	mem_write(mem, SMBIOS_TABLES_GPA + TABLE_OFFSET, b.area, b.len);
}
