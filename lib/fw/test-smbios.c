#include "base/bytes.h"
#include "base/macros.h"
#include "fw/smbios.h"
#include "spec/smbios.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct guid vm_id =
    GUID_INIT(0x12345678, 0x9abc, 0xdef0, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef);

static struct mem *install(uint64_t ram, unsigned generation, unsigned vps)
{
	struct smbios_config config = { generation, vm_id, vps };
	struct mem *mem;

	assert_int_equal(mem_new(ram, &mem, NULL), 0);
	smbios_install(mem, &config);
	return mem;
}

static uint8_t sum(const void *data, size_t len)
{
	const uint8_t *bytes = data;
	uint8_t total = 0;

	while (len--)
		total = (uint8_t)(total + *bytes++);
	return total;
}

/* As a guest without EFI searches: on 16-byte boundaries. */
static const uint8_t *find_anchor(struct mem *mem, const char *anchor)
{
	const uint8_t *area = mem_ptr(mem, 0xf0000, 0x10000);

	for (unsigned at = 0; at < 0x10000; at += 16)
		if (memcmp(area + at, anchor, strlen(anchor)) == 0)
			return area + at;
	return NULL;
}

struct structure {
	const uint8_t *data;
	const char *strings;
};

/* The string number `index` of a structure, "" if it has none. */
static const char *text(const struct structure *s, unsigned index)
{
	const char *p = s->strings;

	if (!index)
		return "";
	while (--index && *p)
		p += strlen(p) + 1;
	return p;
}

/* Walks the table; the n-th structure of a type. Fails the test if the table is malformed. */
static bool find(struct mem *mem, uint8_t type, unsigned n, struct structure *ret)
{
	struct smbios_anchor_30 anchor;
	const uint8_t *p, *end;
	bool found = false;

	memcpy(&anchor, find_anchor(mem, "_SM3_"), sizeof(anchor));
	p = mem_ptr(mem, anchor.table_address, anchor.table_max_size);
	end = p + anchor.table_max_size;
	while (true) {
		struct structure s = { p, (const char *)p + p[1] };

		assert_true(p + 4 <= end && p[1] >= 4);
		if (p[0] == type && n-- == 0) {
			*ret = s;
			found = true;
		}
		p += p[1];
		while (p[0] || p[1])
			p++;
		p += 2;
		assert_true(p <= end);
		if (s.data[0] == 127)
			break;
	}
	assert_ptr_equal(p, end);
	return found;
}

static void test_anchors(void **state)
{
	struct mem *mem = install(64 * MIB, 1, 2);
	struct smbios_anchor_30 a30;
	struct smbios_anchor_21 a21;

	assert_non_null(find_anchor(mem, "_SM3_"));
	memcpy(&a30, find_anchor(mem, "_SM3_"), sizeof(a30));
	assert_int_equal(sum(&a30, sizeof(a30)), 0);
	assert_non_null(find_anchor(mem, "_SM_"));
	memcpy(&a21, find_anchor(mem, "_SM_"), sizeof(a21));
	assert_int_equal(sum(&a21, sizeof(a21)), 0);
	assert_int_equal(sum((uint8_t *)&a21 + 0x10, 0x0f), 0);
	assert_int_equal(a21.table_address, a30.table_address);
	assert_int_equal(a21.table_length, a30.table_max_size);
	assert_int_equal(a21.structure_count, 10);
	mem_free(mem);
}

static void test_strings_of_a_generation_1_machine(void **state)
{
	struct mem *mem = install(64 * MIB, 1, 2);
	struct smbios_system system;
	char serial[SMBIOS_SERIAL_SIZE];
	struct structure s;

	assert_true(find(mem, 1, 0, &s));
	memcpy(&system, s.data, sizeof(system));
	assert_string_equal(text(&s, system.manufacturer_s), "Microsoft Corporation");
	assert_string_equal(text(&s, system.product_s), "Virtual Machine");
	assert_string_equal(text(&s, system.version_s), "7.0");
	smbios_serial(&vm_id, serial);
	assert_string_equal(text(&s, system.serial_s), serial);
	assert_memory_equal(system.uuid, vm_id.b, 16);
	assert_true(find(mem, 2, 0, &s));
	assert_string_equal(text(&s, 1), "Microsoft Corporation");
	assert_true(find(mem, 3, 0, &s));
	assert_string_equal(text(&s, 1), "Microsoft Corporation");
	mem_free(mem);
}

static void test_strings_of_a_generation_2_machine(void **state)
{
	struct mem *mem = install(64 * MIB, 2, 2);
	struct structure s;

	assert_true(find(mem, 0, 0, &s));
	assert_string_equal(text(&s, s.data[4]), "Microsoft Corporation");
	assert_string_equal(text(&s, s.data[5]), "Hyper-V UEFI Release v4.1");
	assert_true(find(mem, 1, 0, &s));
	assert_string_equal(text(&s, s.data[6]), "Hyper-V UEFI Release v4.1");
	mem_free(mem);
}

static void test_serial(void **state)
{
	struct guid other = vm_id;
	char a[SMBIOS_SERIAL_SIZE], b[SMBIOS_SERIAL_SIZE];

	smbios_serial(&vm_id, a);
	assert_int_equal(strlen(a), 32);
	for (unsigned i = 0; i < 32; i++)
		assert_true(i % 5 == 4 ? a[i] == '-' : a[i] >= '0' && a[i] <= '9');
	other.b[0]++;
	smbios_serial(&other, b);
	assert_string_not_equal(a, b);
}

static void test_processors_and_memory(void **state)
{
	struct mem *mem = install(MEM_LOW_TOP + 40 * GIB, 1, 64);
	struct smbios_memory_mapped mapped;
	struct smbios_memory_device device;
	struct smbios_processor processor;
	struct structure s;

	assert_true(find(mem, 4, 0, &s));
	memcpy(&processor, s.data, sizeof(processor));
	assert_int_equal(processor.core_count, 64);
	assert_true(find(mem, 17, 0, &s));
	memcpy(&device, s.data, sizeof(device));
	assert_int_equal(device.size_mib, 0x7fff);
	assert_int_equal(device.extended_size_mib, (MEM_LOW_TOP + 40 * GIB) / MIB);
	assert_true(find(mem, 19, 0, &s));
	memcpy(&mapped, s.data, sizeof(mapped));
	assert_int_equal(mapped.start_kib, 0);
	assert_int_equal(mapped.end_kib, MEM_LOW_TOP / KIB - 1);
	assert_true(find(mem, 19, 1, &s));
	memcpy(&mapped, s.data, sizeof(mapped));
	assert_int_equal(mapped.start_kib, 4 * GIB / KIB);
	assert_int_equal(mapped.end_kib, 44 * GIB / KIB - 1);
	assert_false(find(mem, 19, 2, &s));
	mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_anchors),
		cmocka_unit_test(test_strings_of_a_generation_1_machine),
		cmocka_unit_test(test_strings_of_a_generation_2_machine),
		cmocka_unit_test(test_serial),
		cmocka_unit_test(test_processors_and_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
