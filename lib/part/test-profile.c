#include "part/profile.h"

#include "base/macros.h"
#include "mem/mem.h"
#include "part/part.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
	struct mem *mem;
	struct profile profile;
};

static const struct part_cpuid host_leaves[] = {
	{ 0x40000000, 0, 0x40000005, 1, 2, 3 },
	{ 0x40000001, 0, 0x31237648, 0, 0, 0 },
	{ 6, 0, 0x77, 0, 0, 0 },
};

static void make(struct fixture *f, const struct profile_cpu *cpu, unsigned vp_count)
{
	struct part_config config = { .vp_count = vp_count,
				      .cpuid = host_leaves,
				      .cpuid_count = ARRAY_SIZE(host_leaves) };

	assert_int_equal(mem_new(64 * MIB, &f->mem, NULL), 0);
	config.mem = f->mem;
	assert_int_equal(profile_init(&f->profile, cpu, &config, NULL), 0);
}

static void unmake(struct fixture *f)
{
	profile_done(&f->profile);
	mem_free(f->mem);
}

static void make_soft(struct fixture *f, unsigned vp_count)
{
	struct profile_cpu cpu;

	profile_cpu_soft(&cpu);
	make(f, &cpu, vp_count);
}

static void make_amd(struct fixture *f, unsigned vp_count)
{
	struct profile_cpu cpu = { .vendor = "AuthenticAMD",
				   .brand = "Some processor",
				   .signature = 0x00A20F10,
				   .physical_bits = 48 };

	memset(cpu.can, 0xFF, sizeof(cpu.can));
	make(f, &cpu, vp_count);
}

static void test_soft_identity(void **state)
{
	struct fixture f;
	uint32_t r[4];

	make_soft(&f, 1);
	profile_cpuid(&f.profile, 0, 0, 0, r);
	assert_int_equal(r[PROFILE_EAX], profile_has(&f.profile, PROFILE_1_ECX, 28) ? 0xD : 0xB);
	assert_memory_equal(&r[PROFILE_EBX], "Genu", 4);
	assert_memory_equal(&r[PROFILE_EDX], "ineI", 4);
	assert_memory_equal(&r[PROFILE_ECX], "ntel", 4);
	profile_cpuid(&f.profile, 0, 1, 0, r);
	assert_int_equal(r[PROFILE_EAX] >> 8 & 0xF, 6);
	assert_int_equal((r[PROFILE_EAX] >> 12 & 0xF0) | (r[PROFILE_EAX] >> 4 & 0xF), 0x36);
	assert_int_equal(r[PROFILE_EDX], 0x078BFBFD);
	assert_true(r[PROFILE_ECX] & BIT(31));
	profile_cpuid(&f.profile, 0, 7, 0, r);
	assert_int_equal(r[PROFILE_EDX], 0); /* nothing to mitigate */
	profile_cpuid(&f.profile, 0, 0x80000008, 0, r);
	assert_int_equal(r[PROFILE_EAX], 36 | 48 << 8);
	unmake(&f);
}

static void test_topology(void **state)
{
	struct fixture f;
	uint32_t r[4];

	make_soft(&f, 6);
	profile_cpuid(&f.profile, 5, 1, 0, r);
	assert_int_equal(r[PROFILE_EBX] >> 24, 5);
	assert_int_equal(r[PROFILE_EBX] >> 16 & 0xFF, 6);
	assert_true(r[PROFILE_EDX] & BIT(28));
	profile_cpuid(&f.profile, 5, 0xB, 0, r);
	assert_int_equal(r[PROFILE_EAX], 0);
	assert_int_equal(r[PROFILE_EBX], 1);
	assert_int_equal(r[PROFILE_ECX], 0x100);
	assert_int_equal(r[PROFILE_EDX], 5);
	profile_cpuid(&f.profile, 5, 0xB, 1, r);
	assert_int_equal(r[PROFILE_EAX], 3);
	assert_int_equal(r[PROFILE_EBX], 6);
	assert_int_equal(r[PROFILE_ECX], 0x201);
	profile_cpuid(&f.profile, 5, 0xB, 2, r);
	assert_int_equal(r[PROFILE_EBX], 0);
	assert_int_equal(r[PROFILE_ECX], 2);
	profile_cpuid(&f.profile, 5, 4, 0, r);
	assert_int_equal(r[PROFILE_EAX] >> 26, 7);
	profile_cpuid(&f.profile, 5, 4, 4, r);
	assert_int_equal(r[PROFILE_EAX], 0);
	unmake(&f);
}

static void test_amd(void **state)
{
	struct fixture f;
	uint32_t r[4], ext[4];

	make_amd(&f, 5);
	profile_cpuid(&f.profile, 0, 0x80000000, 0, r);
	assert_int_equal(r[PROFILE_EAX], 0x80000021);
	assert_memory_equal(&r[PROFILE_EBX], "Auth", 4);
	profile_cpuid(&f.profile, 0, 1, 0, r);
	profile_cpuid(&f.profile, 0, 0x80000001, 0, ext);
	assert_int_equal(ext[PROFILE_EAX], 0x00A20F10);
	assert_int_equal(ext[PROFILE_EDX] & 0x3FF, r[PROFILE_EDX] & 0x3FF);
	assert_int_equal(ext[PROFILE_EDX] & 0x20100800, 0x20100800);
	assert_int_equal(ext[PROFILE_ECX] & 0x103, 0x103); /* CmpLegacy, too */
	profile_cpuid(&f.profile, 0, 0x80000008, 0, r);
	assert_int_equal(r[PROFILE_ECX], 4 | 3 << 12);
	assert_true(r[PROFILE_EBX] & BIT(12)); /* IBPB, AMD's way and not Intel's */
	profile_cpuid(&f.profile, 0, 7, 0, r);
	assert_int_equal(r[PROFILE_EDX], 0);
	profile_cpuid(&f.profile, 0, 4, 0, r);
	assert_int_equal(r[PROFILE_EAX], 0);
	profile_cpuid(&f.profile, 0, 0xC, 0, r); /* out of range */
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	unmake(&f);
}

/* A real Intel processor under KVM: the guest sees what it needs for its mitigations. */
static void test_intel_mitigations(void **state)
{
	struct profile_cpu cpu = { .vendor = "GenuineIntel",
				   .signature = 0x000806F8,
				   .physical_bits = 46 };
	struct fixture f;
	uint32_t r[4];

	memset(cpu.can, 0xFF, sizeof(cpu.can));
	make(&f, &cpu, 1);
	profile_cpuid(&f.profile, 0, 1, 0, r);
	assert_int_equal(r[PROFILE_EAX], 0x000806F8);
	profile_cpuid(&f.profile, 0, 7, 0, r);
	assert_int_equal(r[PROFILE_EDX], 0xBC000400);
	profile_cpuid(&f.profile, 0, 0x80000000, 0, r);
	assert_int_equal(r[PROFILE_EAX], 0x80000008);
	profile_cpuid(&f.profile, 0, 0x80000008, 0, r);
	assert_int_equal(r[PROFILE_EBX], 0);
	unmake(&f);
}

static void test_host_leaves(void **state)
{
	struct fixture f;
	uint32_t r[4], highest[4];

	make_soft(&f, 2);
	profile_cpuid(&f.profile, 1, 0x40000001, 99, r);
	assert_int_equal(r[PROFILE_EAX], 0x31237648);
	profile_cpuid(&f.profile, 1, 6, 0, r); /* overridden */
	assert_int_equal(r[PROFILE_EAX], 0x77);
	profile_cpuid(&f.profile, 1, 0x40000100, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	profile_cpuid(&f.profile, 1, 0x20000000, 0, r); /* Intel: the highest basic leaf */
	profile_cpuid(&f.profile, 1, profile_has(&f.profile, PROFILE_1_ECX, 28) ? 0xD : 0xB, 0,
		      highest);
	assert_memory_equal(r, highest, sizeof(highest));
	assert_int_not_equal(r[PROFILE_EBX], 0);
	unmake(&f);
}

static void test_brand(void **state)
{
	struct fixture f;
	char brand[49] = "";
	uint32_t r[4];

	make_amd(&f, 1);
	for (unsigned i = 0; i < 3; i++) {
		profile_cpuid(&f.profile, 0, 0x80000002 + i, 0, r);
		memcpy(brand + 16 * i, r, 16);
	}
	assert_string_equal(brand, "Some processor");
	unmake(&f);
}

/* Each leaf of the list is what profile_cpuid says, none is there twice, and max is kept. */
static void test_list(void **state)
{
	struct part_cpuid leaves[128];
	struct fixture f;
	unsigned count;
	uint32_t r[4];

	make_soft(&f, 64);
	count = profile_leaves(&f.profile, 63, leaves, ARRAY_SIZE(leaves));
	assert_in_range(count, 20, 127);
	for (unsigned i = 0; i < count; i++) {
		profile_cpuid(&f.profile, 63, leaves[i].leaf, leaves[i].subleaf, r);
		assert_memory_equal(&leaves[i].eax, r, sizeof(r));
		for (unsigned j = 0; j < i; j++)
			assert_false(leaves[i].leaf == leaves[j].leaf &&
				     leaves[i].subleaf == leaves[j].subleaf);
	}
	assert_int_equal(profile_leaves(&f.profile, 0, leaves, 3), 3);
	unmake(&f);
}

/* AVX with all that belongs to it, or without. */
static void test_xsave(void **state)
{
	struct part_config config = { .vp_count = 1 };
	struct profile_cpu cpu;
	struct profile profile;
	uint32_t r[4];

	assert_int_equal(mem_new(64 * MIB, &config.mem, NULL), 0);
	for (unsigned lacks = 0; lacks < 2; lacks++) {
		profile_cpu_soft(&cpu);
		cpu.can[PROFILE_1_ECX] = UINT32_MAX;
		cpu.can[PROFILE_7_EBX] = lacks ? ~(uint32_t)BIT(5) : UINT32_MAX;
		assert_int_equal(profile_init(&profile, &cpu, &config, NULL), 0);
		assert_int_equal(profile_has(&profile, PROFILE_1_ECX, 26), !lacks);
		assert_int_equal(profile_has(&profile, PROFILE_1_ECX, 28), !lacks);
		profile_cpuid(&profile, 0, 0xD, 2, r);
		assert_int_equal(r[PROFILE_EAX], lacks ? 0 : 256);
		assert_int_equal(r[PROFILE_EBX], lacks ? 0 : 576);
		profile_done(&profile);
	}
	mem_free(config.mem);
}

/* Physical address bits grow with RAM, up to what the processor has. RAM is only reserved. */
static void test_physical_bits(void **state)
{
	struct profile_cpu cpu;
	struct part_config config = { .vp_count = 1 };
	struct profile profile;
	struct error err;

	profile_cpu_soft(&cpu);
	assert_int_equal(mem_new(62 * GIB, &config.mem, &err), 0);
	assert_int_equal(profile_init(&profile, &cpu, &config, &err), 0);
	assert_int_equal(profile.physical_bits, 37);
	profile_done(&profile);
	cpu.physical_bits = 36;
	assert_int_equal(profile_init(&profile, &cpu, &config, &err), -ERR_LIMIT);
	profile_done(&profile);
	mem_free(config.mem);
}

/* Instructions beyond x86-64-v2: where the processor has them, and unless all hosts shall do. */
static void test_compatible(void **state)
{
	const uint32_t aes = BIT(25), popcnt = BIT(23), sha = BIT(29);
	struct part_config config = { .vp_count = 1 };
	struct profile_cpu cpu;
	struct profile profile;

	assert_int_equal(mem_new(64 * MIB, &config.mem, NULL), 0);
	for (unsigned i = 0; i < 4; i++) {
		bool shown = i == 0;

		profile_cpu_soft(&cpu);
		cpu.can[PROFILE_1_ECX] = i & 1 ? ~aes : UINT32_MAX;
		cpu.can[PROFILE_7_EBX] = i & 1 ? ~sha : UINT32_MAX;
		config.compatible = i & 2;
		assert_int_equal(profile_init(&profile, &cpu, &config, NULL), 0);
		assert_int_equal(!!(profile.word[PROFILE_1_ECX] & aes), shown);
		assert_int_equal(!!(profile.word[PROFILE_7_EBX] & sha), shown);
		assert_true(profile.word[PROFILE_1_ECX] & popcnt);
		profile_done(&profile);
	}
	mem_free(config.mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_soft_identity), cmocka_unit_test(test_topology),
		cmocka_unit_test(test_amd),           cmocka_unit_test(test_host_leaves),
		cmocka_unit_test(test_brand),         cmocka_unit_test(test_intel_mitigations),
		cmocka_unit_test(test_list),          cmocka_unit_test(test_physical_bits),
		cmocka_unit_test(test_compatible),    cmocka_unit_test(test_xsave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
