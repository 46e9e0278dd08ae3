#include "base/bytes.h"
#include "base/macros.h"
#include "fw/acpi.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static struct acpi_config config_of(unsigned vps, bool legacy)
{
	return (struct acpi_config){
		.vp_count = vps,
		.legacy = legacy,
		.ioapic_gpa = 0xfec00000,
		.ioapic_id = 3,
		.pm1_event_port = 0x400,
		.pm1_control_port = 0x404,
		.pm_timer_port = 0x408,
		.reset_port = 0xcf9,
		.reset_value = 6,
		.sci_irq = 9,
		.s5_type = 0,
		.low_window = { 0xf8000000, 0x6c00000 },
		.high_window = { 0x100000000, 0x100000000 },
	};
}

static struct mem *install(unsigned vps, bool legacy)
{
	struct acpi_config config = config_of(vps, legacy);
	struct mem *mem;

	assert_int_equal(mem_new(64 * MIB, &mem, NULL), 0);
	assert_int_equal(acpi_install(mem, &config), ACPI_TABLES_GPA);
	return mem;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t total = 0;

	while (len--)
		total = (uint8_t)(total + *p++);
	return total;
}

/* A table by its address: inside the area, right signature and checksum. */
static const uint8_t *table_at(struct mem *mem, uint64_t gpa, const char *signature)
{
	const uint8_t *table;

	assert_in_range(gpa, ACPI_TABLES_GPA, ACPI_TABLES_GPA + ACPI_TABLES_BYTES - 36);
	table = mem_ptr(mem, gpa, 36);
	assert_true(load_le32(table + 4) <= ACPI_TABLES_GPA + ACPI_TABLES_BYTES - gpa);
	assert_int_equal(sum(table, load_le32(table + 4)), 0);
	if (signature)
		assert_memory_equal(table, signature, 4);
	return table;
}

static const uint8_t *root(struct mem *mem, bool extended)
{
	/* As a guest searches: the first 16-byte boundary with the signature. */
	const uint8_t *rsdp = mem_ptr(mem, ACPI_TABLES_GPA, 36);

	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_int_equal(rsdp[15], 2);
	return extended ? table_at(mem, load_le64(rsdp + 24), "XSDT")
			: table_at(mem, load_le32(rsdp + 16), "RSDT");
}

static const uint8_t *find(struct mem *mem, const char *signature)
{
	const uint8_t *xsdt = root(mem, true);

	for (uint32_t at = 36; at < load_le32(xsdt + 4); at += 8) {
		const uint8_t *table = table_at(mem, load_le64(xsdt + at), NULL);

		if (memcmp(table, signature, 4) == 0)
			return table;
	}
	return NULL;
}

static void test_roots_agree(void **state)
{
	struct mem *mem = install(2, true);
	const uint8_t *xsdt = root(mem, true), *rsdt = root(mem, false);
	uint32_t count = (load_le32(xsdt + 4) - 36) / 8;

	assert_int_equal((load_le32(rsdt + 4) - 36) / 4, count);
	assert_true(count >= 4);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(load_le64(xsdt + 36 + 8 * i), load_le32(rsdt + 36 + 4 * i));
	assert_non_null(find(mem, "WAET"));
	assert_null(find(mem, "MCFG")); /* there is no PCI */
	mem_free(mem);
}

static void test_identifiers(void **state)
{
	struct mem *mem = install(1, true);
	const uint8_t *oem0 = find(mem, "OEM0");

	assert_non_null(oem0);
	assert_memory_equal(oem0 + 10, "VRTUAL", 6);
	assert_memory_equal(oem0 + 16, "MICROSFT", 8);
	assert_in_range(load_le32(oem0 + 4) - 36, 8, 4096); /* what Linux takes for a seed */
	mem_free(mem);
}

static void test_seeds_differ(void **state)
{
	struct mem *a = install(1, true), *b = install(1, true);

	assert_memory_not_equal(find(a, "OEM0") + 36, find(b, "OEM0") + 36, 32);
	mem_free(a);
	mem_free(b);
}

static void test_fadt(void **state)
{
	struct mem *mem = install(1, true);
	const uint8_t *fadt = find(mem, "FACP"), *facs;

	assert_int_equal(load_le32(fadt + 4), 276);
	assert_int_equal(fadt[8], 6);
	facs = mem_ptr(mem, load_le32(fadt + 36), 64);
	assert_int_equal(load_le32(fadt + 36) % 64, 0);
	assert_memory_equal(facs, "FACS", 4);
	assert_int_equal(load_le64(fadt + 140), load_le32(fadt + 40));
	table_at(mem, load_le32(fadt + 40), "DSDT");
	assert_int_equal(load_le16(fadt + 46), 9);
	assert_int_equal(load_le32(fadt + 48), 0); /* no SMI command port: always in ACPI mode */
	assert_int_equal(load_le32(fadt + 56), 0x400);
	assert_int_equal(load_le64(fadt + 148 + 4), 0x400);
	assert_int_equal(load_le32(fadt + 64), 0x404);
	assert_int_equal(load_le32(fadt + 76), 0x408);
	assert_int_equal(load_le16(fadt + 109) & 0x06, 0x04);   /* no 8042, no VGA */
	assert_int_equal(load_le32(fadt + 112) & 0x510, 0x500); /* reset, 32-bit timer, button */
	assert_int_equal(fadt[116], 1);
	assert_int_equal(load_le64(fadt + 120), 0xcf9);
	assert_int_equal(fadt[128], 6);
	mem_free(mem);
}

struct madt {
	unsigned lapics, ioapics, overrides, nmis;
	bool irq0, sci_level;
};

static struct madt parse_madt(const uint8_t *table)
{
	struct madt madt = { 0 };
	uint32_t at = 44, end = load_le32(table + 4);

	while (at < end) {
		const uint8_t *entry = table + at;

		assert_true(entry[1] >= 2 && entry[1] <= end - at);
		switch (entry[0]) {
		case 0:
			assert_int_equal(entry[3], madt.lapics); /* dense and sorted */
			assert_int_equal(load_le32(entry + 4), 1);
			madt.lapics++;
			break;
		case 1:
			assert_int_equal(load_le32(entry + 4), 0xfec00000);
			madt.ioapics++;
			break;
		case 2:
			madt.overrides++;
			madt.irq0 |= entry[3] == 0 && load_le32(entry + 4) == 2;
			madt.sci_level |= entry[3] == 9 && load_le16(entry + 8) == 0x0d;
			break;
		case 4:
			assert_int_equal(entry[5], 1);
			madt.nmis++;
			break;
		}
		at += entry[1];
	}
	assert_int_equal(at, end);
	return madt;
}

static void test_madt(void **state)
{
	struct mem *legacy = install(64, true), *modern = install(1, false);
	const uint8_t *table = find(legacy, "APIC");
	struct madt madt = parse_madt(table);

	assert_int_equal(madt.lapics, 64);
	assert_int_equal(madt.ioapics, 1);
	assert_int_equal(madt.nmis, 1);
	assert_true(madt.irq0 && madt.sci_level);
	assert_int_equal(load_le32(table + 40), 1);
	table = find(modern, "APIC");
	madt = parse_madt(table);
	assert_int_equal(madt.lapics, 1);
	assert_false(madt.irq0);
	assert_true(madt.sci_level);
	assert_int_equal(load_le32(table + 40), 0);
	mem_free(legacy);
	mem_free(modern);
}

/* ---- a second opinion: ACPICA's disassembler ---- */

static bool has_iasl(void)
{
	return system("iasl -v >/dev/null 2>&1") == 0;
}

static void write_table(const char *folder, const char *name, const uint8_t *table)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s.dat", folder, name);
	f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(table, load_le32(table + 4), 1, f), 1);
	fclose(f);
}

/* Disassembles a table; what iasl says and the text that it wrote, concatenated. */
static void disassemble(const char *folder, const char *name, char *ret, size_t size)
{
	char command[512];
	size_t len;
	FILE *f;

	snprintf(command, sizeof(command), "cd %s && iasl -d %s.dat 2>&1 && cat %s.dsl", folder,
		 name, name);
	f = popen(command, "r");
	assert_non_null(f);
	len = fread(ret, 1, size - 1, f);
	ret[len] = 0;
	assert_int_equal(pclose(f), 0);
	assert_null(strstr(ret, "Warning"));
	assert_null(strstr(ret, "Error"));
	assert_null(strstr(ret, "Invalid"));
	assert_null(strstr(ret, "incorrect"));
}

static void remove_folder(const char *folder)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	assert_int_equal(system(command), 0);
}

static void check_with_iasl(struct mem *mem, char *text, size_t size)
{
	/* Not OEM0: iasl takes every OEMx table for AML. */
	static const char *const names[] = { "FACP", "APIC", "WAET" };
	char folder[] = "/tmp/test-acpi-XXXXXX";

	assert_non_null(mkdtemp(folder));
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		write_table(folder, names[i], find(mem, names[i]));
		disassemble(folder, names[i], text, size);
	}
	write_table(folder, "DSDT", table_at(mem, load_le32(find(mem, "FACP") + 40), "DSDT"));
	disassemble(folder, "DSDT", text, size);
	remove_folder(folder);
}

static void test_iasl_reads_the_tables(void **state)
{
	static char text[1 << 20];
	struct mem *mem;

	if (!has_iasl()) {
		print_message("skipped: iasl (package acpica-tools) is not there\n");
		skip();
	}
	mem = install(64, true);
	check_with_iasl(mem, text, sizeof(text));
	assert_non_null(strstr(text, "Device (P03F)"));
	assert_null(strstr(text, "Device (P040)"));
	assert_non_null(strstr(text, "Name (_HID, \"VMBUS\")"));
	assert_non_null(strstr(text, "Name (_CID, \"VMBus\")"));
	assert_non_null(strstr(text, "EisaId (\"PNP0501\")"));
	assert_non_null(strstr(text, "EisaId (\"PNP0B00\")"));
	assert_non_null(strstr(text, "0x00000000F8000000, // Range Minimum"));
	assert_non_null(strstr(text, "0x00000000FEBFFFFF, // Range Maximum"));
	assert_non_null(strstr(text, "0x00000001FFFFFFFF, // Range Maximum"));
	assert_non_null(strstr(text, "Name (\\_S5"));
	assert_null(strstr(text, "_S4"));  /* would switch dynamic memory off */
	assert_null(strstr(text, "_ADR")); /* would make VMBus a PCI function's companion */
	mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_roots_agree),  cmocka_unit_test(test_identifiers),
		cmocka_unit_test(test_seeds_differ), cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),         cmocka_unit_test(test_iasl_reads_the_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
