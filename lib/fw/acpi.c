#include "fw/acpi.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "fw/aml.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Offsets in a table's header (ACPI 6.4, 5.2.6) and in tables (5.2.5, 5.2.9, 5.2.12). */
enum {
	HEADER_LENGTH = 4,
	HEADER_REVISION = 8,
	HEADER_CHECKSUM = 9,
	HEADER_OEM_ID = 10,
	HEADER_OEM_TABLE_ID = 16,
	HEADER_OEM_REVISION = 24,
	HEADER_CREATOR_ID = 28,
	HEADER_CREATOR_REVISION = 32,
	HEADER_BYTES = 36,

	FADT_FACS = 36,
	FADT_DSDT = 40,
	FADT_SCI = 46,
	FADT_PM1A_EVENT = 56,
	FADT_PM1A_CONTROL = 64,
	FADT_PM_TIMER = 76,
	FADT_PM1_EVENT_LEN = 88,
	FADT_PM1_CONTROL_LEN = 89,
	FADT_PM_TIMER_LEN = 91,
	FADT_P_LVL2_LATENCY = 96,
	FADT_P_LVL3_LATENCY = 98,
	FADT_CENTURY = 108,
	FADT_BOOT_ARCH = 109,
	FADT_FLAGS = 112,
	FADT_RESET_REG = 116,
	FADT_RESET_VALUE = 128,
	FADT_MINOR_REVISION = 131,
	FADT_X_DSDT = 140,
	FADT_X_PM1A_EVENT = 148,
	FADT_X_PM1A_CONTROL = 172,
	FADT_X_PM_TIMER = 208,
	FADT_BYTES = 276,

	RSDP_BYTES = 36,
	FACS_BYTES = 64,
};

#define FADT_WBINVD       BIT(0)
#define FADT_PROC_C1      BIT(2)
#define FADT_SLP_BUTTON   BIT(5) /* no fixed-hardware sleep button */
#define FADT_FIX_RTC      BIT(6) /* no wake by the clock */
#define FADT_TMR_VAL_EXT  BIT(8)
#define FADT_RESET_REG_OK BIT(10)
#define FADT_8042         BIT(1)
#define FADT_LEGACY       BIT(0)
#define FADT_NO_VGA       BIT(2)

#define MADT_PCAT_COMPAT  1
#define CMOS_CENTURY      0x32
#define RANDOM_SEED_BYTES 64

struct builder {
	const struct acpi_config *config;
	uint8_t *buf; /* ACPI_TABLES_BYTES, an image of what goes to ACPI_TABLES_GPA */
	size_t len;
	uint32_t tables[16]; /* what the root tables point to */
	unsigned table_count;
};

static uint8_t *reserve(struct builder *b, size_t len, size_t align)
{
	uint8_t *p;

	b->len = ALIGN_UP(b->len, align);
	assert(len <= ACPI_TABLES_BYTES - b->len);
	p = b->buf + b->len;
	b->len += len;
	return p;
}

static uint32_t gpa_of(const struct builder *b, const uint8_t *p)
{
	return (uint32_t)ACPI_TABLES_GPA + (uint32_t)(p - b->buf);
}

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;

	while (len--)
		sum = (uint8_t)(sum + *p++);
	return (uint8_t)-sum;
}

/* Begins a table of at least a header; its length grows until finish(). */
static uint8_t *begin(struct builder *b, const char *signature, uint8_t revision, size_t len)
{
	uint8_t *table = reserve(b, len, 16);

	memcpy(table, signature, 4);
	table[HEADER_REVISION] = revision;
	memcpy(table + HEADER_OEM_ID, "VRTUAL", 6);
	memcpy(table + HEADER_OEM_TABLE_ID, "MICROSFT", 8);
	store_le32(table + HEADER_OEM_REVISION, 1);
	memcpy(table + HEADER_CREATOR_ID, "OYAK", 4);
	store_le32(table + HEADER_CREATOR_REVISION, 1);
	return table;
}

static void finish(struct builder *b, uint8_t *table)
{
	uint32_t len = (uint32_t)(b->buf + b->len - table);

	store_le32(table + HEADER_LENGTH, len);
	table[HEADER_CHECKSUM] = checksum(table, len);
}

static void finish_listed(struct builder *b, uint8_t *table)
{
	finish(b, table);
	assert(b->table_count < ARRAY_SIZE(b->tables));
	b->tables[b->table_count++] = gpa_of(b, table);
}

/* ---- DSDT ---- */

static void add_processors(struct aml *aml, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char name[8];

		snprintf(name, sizeof(name), "P%03X", i & 0xfff);
		aml_device(aml, name);
		aml_name_string(aml, "_HID", "ACPI0007");
		aml_name_integer(aml, "_UID", i);
		aml_end(aml);
	}
}

static void add_isa_device(struct aml *aml, const char *name, const char *id, unsigned uid,
			   uint16_t port, uint8_t len, unsigned irq)
{
	aml_device(aml, name);
	aml_name_eisa_id(aml, "_HID", id);
	aml_name_integer(aml, "_UID", uid);
	aml_name_integer(aml, "_STA", 0xf);
	aml_resources_begin(aml);
	aml_resource_io(aml, port, len);
	aml_resource_irq(aml, irq);
	aml_resources_end(aml);
	aml_end(aml);
}

static void add_window(struct aml *aml, const struct acpi_window *window)
{
	if (window->size_bytes)
		aml_resource_window(aml, window->base, window->size_bytes);
}

/* The container passes its windows on to VMBUS. HID and CID in these two spellings satisfy every
 * guest; an own _CRS must exist, and no _ADR (it would make the device a PCI function's companion).
 */
static void add_vmbus(struct aml *aml, const struct acpi_config *config)
{
	aml_device(aml, "VMOD");
	aml_name_string(aml, "_HID", "ACPI0004");
	aml_name_integer(aml, "_UID", 0);
	aml_resources_begin(aml);
	add_window(aml, &config->low_window);
	add_window(aml, &config->high_window);
	aml_resources_end(aml);
	aml_device(aml, "VMBS");
	aml_name_string(aml, "_HID", "VMBUS");
	aml_name_string(aml, "_CID", "VMBus");
	aml_name_string(aml, "_DDN", "VMBUS");
	aml_name_integer(aml, "_UID", 0);
	aml_name_integer(aml, "_STA", 0xf);
	aml_resources_begin(aml);
	aml_resources_end(aml);
	aml_end(aml);
	aml_end(aml);
}

static uint32_t add_dsdt(struct builder *b)
{
	const struct acpi_config *config = b->config;
	const uint64_t s5[4] = { config->s5_type, config->s5_type, 0, 0 };
	uint8_t *table = begin(b, "DSDT", 2, HEADER_BYTES);
	struct aml aml;

	aml_init(&aml, b->buf + b->len, ACPI_TABLES_BYTES - b->len);
	aml_scope(&aml, "\\_SB");
	add_processors(&aml, config->vp_count);
	add_isa_device(&aml, "UAR1", "PNP0501", 1, 0x3f8, 8, 4);
	add_isa_device(&aml, "UAR2", "PNP0501", 2, 0x2f8, 8, 3);
	add_isa_device(&aml, "RTC0", "PNP0B00", 0, 0x70, 2, 8);
	add_vmbus(&aml, config);
	aml_end(&aml);
	aml_name_package(&aml, "\\_S5", s5, ARRAY_SIZE(s5));
	b->len += aml.len;
	finish(b, table);
	return gpa_of(b, table);
}

/* ---- the other tables ---- */

static uint32_t add_facs(struct builder *b)
{
	uint8_t *table = reserve(b, FACS_BYTES, 64);

	memcpy(table, "FACS", 4);
	store_le32(table + 4, FACS_BYTES);
	table[32] = 2; /* version */
	return gpa_of(b, table);
}

/* Generic address structure (5.2.3.2) of an I/O port. */
static void put_gas(uint8_t *p, uint16_t port, uint8_t bits)
{
	p[0] = 1; /* system I/O space */
	p[1] = bits;
	p[3] = bits == 8 ? 1 : bits == 16 ? 2 : 3; /* access size */
	store_le64(p + 4, port);
}

static void add_fadt(struct builder *b, uint32_t facs, uint32_t dsdt)
{
	const struct acpi_config *config = b->config;
	uint8_t *table = begin(b, "FACP", 6, FADT_BYTES);

	store_le32(table + FADT_FACS, facs);
	store_le32(table + FADT_DSDT, dsdt);
	store_le64(table + FADT_X_DSDT, dsdt);
	store_le16(table + FADT_SCI, config->sci_irq);
	store_le32(table + FADT_PM1A_EVENT, config->pm1_event_port);
	store_le32(table + FADT_PM1A_CONTROL, config->pm1_control_port);
	store_le32(table + FADT_PM_TIMER, config->pm_timer_port);
	table[FADT_PM1_EVENT_LEN] = 4;
	table[FADT_PM1_CONTROL_LEN] = 2;
	table[FADT_PM_TIMER_LEN] = 4;
	put_gas(table + FADT_X_PM1A_EVENT, config->pm1_event_port, 32);
	put_gas(table + FADT_X_PM1A_CONTROL, config->pm1_control_port, 16);
	put_gas(table + FADT_X_PM_TIMER, config->pm_timer_port, 32);
	store_le16(table + FADT_P_LVL2_LATENCY, 101);  /* over 100: no C2 */
	store_le16(table + FADT_P_LVL3_LATENCY, 1001); /* over 1000: no C3 */
	table[FADT_CENTURY] = CMOS_CENTURY;
	store_le16(table + FADT_BOOT_ARCH, FADT_LEGACY | FADT_NO_VGA);
	store_le32(table + FADT_FLAGS, FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
					   FADT_TMR_VAL_EXT | FADT_RESET_REG_OK);
	put_gas(table + FADT_RESET_REG, config->reset_port, 8);
	table[FADT_RESET_VALUE] = config->reset_value;
	table[FADT_MINOR_REVISION] = 4;
	finish_listed(b, table);
}

static void add_madt_override(struct builder *b, uint8_t irq, uint32_t gsi, uint16_t flags)
{
	uint8_t *entry = reserve(b, 10, 1);

	entry[0] = 2; /* interrupt source override */
	entry[1] = 10;
	entry[3] = irq;
	store_le32(entry + 4, gsi);
	store_le16(entry + 8, flags);
}

static void add_madt(struct builder *b)
{
	const struct acpi_config *config = b->config;
	uint8_t *table = begin(b, "APIC", 5, HEADER_BYTES + 8), *entry;

	store_le32(table + 36, 0xfee00000);
	store_le32(table + 40, config->legacy ? MADT_PCAT_COMPAT : 0);
	for (unsigned i = 0; i < config->vp_count; i++) {
		entry = reserve(b, 8, 1);
		entry[0] = 0; /* local APIC */
		entry[1] = 8;
		entry[2] = entry[3] = (uint8_t)i;
		store_le32(entry + 4, 1); /* enabled */
	}
	entry = reserve(b, 12, 1);
	entry[0] = 1; /* IOAPIC */
	entry[1] = 12;
	entry[2] = config->ioapic_id;
	store_le32(entry + 4, (uint32_t)config->ioapic_gpa);
	if (config->legacy)
		add_madt_override(b, 0, 2, 0);
	add_madt_override(b, config->sci_irq, config->sci_irq, 0xd); /* level, active high */
	entry = reserve(b, 6, 1);
	entry[0] = 4; /* local APIC NMI: LINT1 of all */
	entry[1] = 6;
	entry[2] = 0xff;
	entry[5] = 1;
	finish_listed(b, table);
}

/* Windows' table for emulated devices, which others read as well: the clock and the PM timer need
 * no second reading. */
static void add_waet(struct builder *b)
{
	uint8_t *table = begin(b, "WAET", 1, HEADER_BYTES + 4);

	store_le32(table + HEADER_BYTES, 3);
	finish_listed(b, table);
}

static void add_random_seed(struct builder *b)
{
	uint8_t *table = begin(b, "OEM0", 1, HEADER_BYTES + RANDOM_SEED_BYTES);

	if (getrandom(table + HEADER_BYTES, RANDOM_SEED_BYTES, 0) != RANDOM_SEED_BYTES)
		abort(); /* 64 bytes never fail once the host has booted */
	finish_listed(b, table);
}

static void add_roots(struct builder *b, uint8_t *rsdp)
{
	uint8_t *rsdt = begin(b, "RSDT", 1, HEADER_BYTES + 4 * b->table_count), *xsdt;

	for (unsigned i = 0; i < b->table_count; i++)
		store_le32(rsdt + HEADER_BYTES + 4 * i, b->tables[i]);
	finish(b, rsdt);
	xsdt = begin(b, "XSDT", 1, HEADER_BYTES + 8 * b->table_count);
	for (unsigned i = 0; i < b->table_count; i++)
		store_le64(xsdt + HEADER_BYTES + 8 * i, b->tables[i]);
	finish(b, xsdt);
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "VRTUAL", 6);
	rsdp[15] = 2; /* revision */
	store_le32(rsdp + 16, gpa_of(b, rsdt));
	store_le32(rsdp + 20, RSDP_BYTES);
	store_le64(rsdp + 24, gpa_of(b, xsdt));
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, RSDP_BYTES);
}

uint64_t acpi_install(struct mem *mem, const struct acpi_config *config)
{
	struct builder b = { .config = config, .buf = calloc(1, ACPI_TABLES_BYTES) };
	uint8_t *rsdp;
	uint32_t facs, dsdt;

	if (!b.buf)
		abort(); /* 64 KiB */
	rsdp = reserve(&b, RSDP_BYTES, 16);
	facs = add_facs(&b);
	dsdt = add_dsdt(&b);
	add_fadt(&b, facs, dsdt);
	add_madt(&b);
	add_waet(&b);
	add_random_seed(&b);
	add_roots(&b, rsdp);
	mem_write(mem, ACPI_TABLES_GPA, b.buf, b.len);
	free(b.buf);
	return ACPI_TABLES_GPA;
}
