#include "part/profile.h"

#include "base/macros.h"
#include "mem/mem.h"
#include "part/part.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BASIC_LEAF    0xBu
#define MAX_XSAVE_LEAF    0xDu
#define MAX_EXTENDED_LEAF 0x80000008u
#define MAX_AMD_LEAF      0x80000021u

#define HYPERVISOR_BIT 31u /* 1_ECX */
#define HTT_BIT        28u /* 1_EDX */
#define CMP_LEGACY_BIT 1u  /* 81_ECX */

/* Where the processor's own features stand (SDM volume 2, CPUID; APM volume 3, appendix E). */
static const struct {
	uint32_t leaf;
	enum profile_reg reg;
} word_place[PROFILE_WORD_COUNT] = {
	[PROFILE_1_ECX] = { 1, PROFILE_ECX },
	[PROFILE_1_EDX] = { 1, PROFILE_EDX },
	[PROFILE_7_EBX] = { 7, PROFILE_EBX },
	[PROFILE_7_EDX] = { 7, PROFILE_EDX },
	[PROFILE_81_ECX] = { 0x80000001, PROFILE_ECX },
	[PROFILE_81_EDX] = { 0x80000001, PROFILE_EDX },
	[PROFILE_87_EDX] = { 0x80000007, PROFILE_EDX },
	[PROFILE_88_EBX] = { 0x80000008, PROFILE_EBX },
	[PROFILE_821_EAX] = { 0x80000021, PROFILE_EAX },
};

/* AVX, AVX2, FMA, F16C and the XSAVE that they need: all of them or none. */
#define XSAVE_1_ECX (BIT(12) | BIT(26) | BIT(28) | BIT(29))
#define XSAVE_7_EBX BIT(5)

/* The profile "oyako-1": x86-64-v3, cryptography, and what makes a guest's kernel cheap to run. */
static const uint32_t features[PROFILE_WORD_COUNT] = {
	/* sse3 pclmulqdq ssse3 cx16 sse4.1 sse4.2 x2apic movbe popcnt tsc_deadline aes rdrand */
	[PROFILE_1_ECX] = BIT(0) | BIT(1) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(21) |
			  BIT(22) | BIT(23) | BIT(24) | BIT(25) | BIT(30) | XSAVE_1_ECX,
	/* fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse
	   sse2 */
	[PROFILE_1_EDX] = BIT(0) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) |
			  BIT(9) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(15) | BIT(16) |
			  BIT(17) | BIT(19) | BIT(23) | BIT(24) | BIT(25) | BIT(26),
	/* fsgsbase bmi1 bmi2 adx sha */
	[PROFILE_7_EBX] = BIT(0) | BIT(3) | BIT(8) | BIT(19) | BIT(29) | XSAVE_7_EBX,
	/* md_clear spec_ctrl stibp l1d_flush arch_capabilities ssbd */
	[PROFILE_7_EDX] = BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31),
	[PROFILE_81_ECX] = BIT(0) | BIT(5) | BIT(8),              /* lahf_lm lzcnt prefetchw */
	[PROFILE_81_EDX] = BIT(11) | BIT(20) | BIT(27) | BIT(29), /* syscall nx rdtscp lm */
	[PROFILE_87_EDX] = BIT(8),                                /* invariant TSC */
	/* ibpb ibrs stibp, their preferences, ssbd virt_ssbd ssb_no psfd btc_no ibpb_ret */
	[PROFILE_88_EBX] = BIT(12) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(18) | BIT(19) |
			   BIT(24) | BIT(25) | BIT(26) | BIT(28) | BIT(29) | BIT(30),
	/* lfence is serializing, null selectors clear the base, automatic ibrs, sbpb and the like
	 */
	[PROFILE_821_EAX] = BIT(2) | BIT(6) | BIT(8) | BIT(27) | BIT(28) | BIT(29),
};

/* Not all processors of x86-64-v2 have these. */
static const uint32_t newer[PROFILE_WORD_COUNT] = {
	[PROFILE_1_ECX] = BIT(1) | BIT(22) | BIT(25) | XSAVE_1_ECX,
	[PROFILE_7_EBX] = BIT(3) | BIT(8) | BIT(19) | BIT(29) | XSAVE_7_EBX,
	[PROFILE_81_ECX] = BIT(5),
};

/* Of these the software CPU has what the host has: it executes them there. */
static const uint32_t executed_on_host[PROFILE_WORD_COUNT] = {
	[PROFILE_1_ECX] = BIT(0) | BIT(1) | BIT(9) | BIT(19) | BIT(20) | BIT(22) | BIT(23) |
			  BIT(25) | XSAVE_1_ECX,
	[PROFILE_7_EBX] = BIT(3) | BIT(8) | BIT(19) | BIT(29) | XSAVE_7_EBX,
	[PROFILE_81_ECX] = BIT(5),
	[PROFILE_87_EDX] = BIT(8),
};

static const char soft_brand[] = "Oyako Software Processor";

/* ---- what executes the guest ---- */

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[static 4])
{
	memset(r, 0, 4 * sizeof(*r));
	__get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]);
}

void profile_cpu_host(struct profile_cpu *ret)
{
	uint32_t r[4];

	*ret = (struct profile_cpu){ 0 };
	host_cpuid(0, 0, r);
	memcpy(ret->vendor, &r[PROFILE_EBX], 4);
	memcpy(ret->vendor + 4, &r[PROFILE_EDX], 4);
	memcpy(ret->vendor + 8, &r[PROFILE_ECX], 4);
	host_cpuid(1, 0, r);
	ret->signature = r[PROFILE_EAX];
	for (unsigned i = 0; i < 3; i++) {
		host_cpuid(0x80000002 + i, 0, r);
		memcpy(ret->brand + 16 * i, r, 16);
	}
	for (unsigned i = 0; i < PROFILE_WORD_COUNT; i++) {
		host_cpuid(word_place[i].leaf, 0, r);
		ret->can[i] = r[word_place[i].reg];
	}
	/* A 64-bit processor that doesn't offer PREFETCHW executes it as a NOP. */
	ret->bears[PROFILE_81_ECX] = BIT(8);
	host_cpuid(0x80000008, 0, r);
	ret->physical_bits = r[PROFILE_EAX] & 0xFF;
}

void profile_cpu_soft(struct profile_cpu *ret)
{
	static const enum profile_word mitigations[] = { PROFILE_7_EDX, PROFILE_88_EBX,
							 PROFILE_821_EAX };
	struct profile_cpu host;

	profile_cpu_host(&host);
	*ret = (struct profile_cpu){ .vendor = "GenuineIntel",
				     .signature = 0x00030661, /* 6/0x36/1 */
				     .physical_bits = 46 };
	memcpy(ret->brand, soft_brand, sizeof(soft_brand));
	for (unsigned i = 0; i < PROFILE_WORD_COUNT; i++)
		ret->can[i] = ~executed_on_host[i] | host.can[i];
	if (!__builtin_cpu_supports("avx2")) { /* or the host's system doesn't keep its registers */
		ret->can[PROFILE_1_ECX] &= ~(uint32_t)XSAVE_1_ECX;
		ret->can[PROFILE_7_EBX] &= ~(uint32_t)XSAVE_7_EBX;
	}
	/* Nothing is executed speculatively: there is nothing to mitigate. A guest that comes from
	 * another processor may go on doing so: its controls are stored, and change nothing. */
	for (unsigned i = 0; i < ARRAY_SIZE(mitigations); i++) {
		ret->can[mitigations[i]] = 0;
		ret->bears[mitigations[i]] = features[mitigations[i]];
	}
}

enum profile_reg profile_word_place(enum profile_word word, uint32_t *ret_leaf)
{
	*ret_leaf = word_place[word].leaf;
	return word_place[word].reg;
}

/* ---- the profile ---- */

static bool is_amd(const struct profile *profile)
{
	return strcmp(profile->cpu.vendor, "AuthenticAMD") == 0 ||
	       strcmp(profile->cpu.vendor, "HygonGenuine") == 0;
}

static int choose_physical_bits(struct profile *profile, uint64_t ram_top, struct error *err)
{
	/* Room above RAM for the high MMIO window. */
	uint64_t needed = ram_top + 4 * GIB;

	/* 36 keeps UEFI firmware from building page tables for terabytes. */
	profile->physical_bits = 36;
	while (BIT(profile->physical_bits) < needed)
		profile->physical_bits++;
	if (profile->physical_bits <= profile->cpu.physical_bits)
		return 0;
	return error_set(err, ERR_LIMIT,
			 "guest RAM up to %llu GiB needs %u physical address bits: the processor "
			 "has %u",
			 (unsigned long long)(ram_top / GIB), profile->physical_bits,
			 profile->cpu.physical_bits);
}

static void choose_features(struct profile *profile, bool compatible)
{
	for (unsigned i = 0; i < PROFILE_WORD_COUNT; i++)
		profile->word[i] = features[i] & profile->cpu.can[i] & ~(compatible ? newer[i] : 0);
	/* The software CPU decodes F3 0F BC and BD in one way or the other. */
	if (!(profile->word[PROFILE_7_EBX] & BIT(3)) || !(profile->word[PROFILE_81_ECX] & BIT(5))) {
		profile->word[PROFILE_7_EBX] &= ~(uint32_t)(BIT(3) | BIT(8));
		profile->word[PROFILE_81_ECX] &= ~(uint32_t)BIT(5);
	}
	if ((profile->word[PROFILE_1_ECX] & XSAVE_1_ECX) != XSAVE_1_ECX ||
	    !(profile->word[PROFILE_7_EBX] & XSAVE_7_EBX)) {
		profile->word[PROFILE_1_ECX] &= ~(uint32_t)XSAVE_1_ECX;
		profile->word[PROFILE_7_EBX] &= ~(uint32_t)XSAVE_7_EBX;
	}
	/* KVM offers each vendor's mitigation bits on both; a processor has its own vendor's. */
	if (is_amd(profile))
		profile->word[PROFILE_7_EDX] = 0;
	else
		profile->word[PROFILE_88_EBX] = profile->word[PROFILE_821_EAX] = 0;
	profile->word[PROFILE_1_ECX] |= BIT(HYPERVISOR_BIT);
	if (profile->vp_count == 1)
		return;
	profile->word[PROFILE_1_EDX] |= BIT(HTT_BIT);
	if (is_amd(profile))
		profile->word[PROFILE_81_ECX] |= BIT(CMP_LEGACY_BIT);
}

/* A saved guest goes on seeing the processor that it was started on. */
static int take_saved(struct profile *profile, const struct part_state *saved, struct error *err)
{
	struct profile_cpu *cpu = &profile->cpu;
	const uint32_t not_the_processors[PROFILE_WORD_COUNT] = {
		[PROFILE_1_ECX] = BIT(HYPERVISOR_BIT),
		[PROFILE_1_EDX] = BIT(HTT_BIT),
		[PROFILE_81_ECX] = BIT(CMP_LEGACY_BIT),
	};

	if (saved->vp_count != profile->vp_count)
		return error_set(err, ERR_INVALID, "the saved state is of %u processors, not %u",
				 saved->vp_count, profile->vp_count);
	if (saved->physical_bits > cpu->physical_bits)
		return error_set(err, ERR_UNSUPPORTED,
				 "the guest was started with %u physical address bits: this "
				 "processor has %u",
				 saved->physical_bits, cpu->physical_bits);
	for (unsigned i = 0; i < PROFILE_WORD_COUNT; i++) {
		uint32_t lacks =
		    saved->features[i] & ~(cpu->can[i] | cpu->bears[i] | not_the_processors[i]);

		if (lacks)
			return error_set(err, ERR_UNSUPPORTED,
					 "the guest was started on a processor with features that "
					 "this one lacks (CPUID leaf 0x%x, bits 0x%x)",
					 word_place[i].leaf, lacks);
	}
	memcpy(cpu->vendor, saved->vendor, sizeof(cpu->vendor) - 1);
	memcpy(cpu->brand, saved->brand, sizeof(cpu->brand) - 1);
	cpu->signature = saved->signature;
	memcpy(profile->word, saved->features, sizeof(profile->word));
	profile->physical_bits = saved->physical_bits;
	return 0;
}

int profile_init(struct profile *profile, const struct profile_cpu *cpu,
		 const struct part_config *config, struct error *err)
{
	size_t extra_size = config->cpuid_count * sizeof(*config->cpuid);
	int rc;

	*profile = (struct profile){ .cpu = *cpu, .vp_count = config->vp_count };
	profile->virtual_bits = 48;
	rc = choose_physical_bits(profile, mem_top_gpa(config->mem), err);
	if (rc < 0)
		return rc;
	choose_features(profile, config->compatible);
	if (config->saved)
		rc = take_saved(profile, config->saved, err);
	if (rc < 0)
		return rc;
	if (!extra_size)
		return 0;
	profile->extra = malloc(extra_size);
	if (!profile->extra)
		return error_set(err, ERR_NO_MEMORY, "no memory for CPUID leaves");
	memcpy(profile->extra, config->cpuid, extra_size);
	profile->extra_count = config->cpuid_count;
	return 0;
}

void profile_done(struct profile *profile)
{
	free(profile->extra);
	profile->extra = NULL;
	profile->extra_count = 0;
}

/* ---- the leaves ---- */

static void set_regs(uint32_t r[static 4], uint32_t eax, uint32_t ebx, uint32_t ecx, uint32_t edx)
{
	r[PROFILE_EAX] = eax;
	r[PROFILE_EBX] = ebx;
	r[PROFILE_ECX] = ecx;
	r[PROFILE_EDX] = edx;
}

/* The vendor string in EBX, EDX, ECX. */
static void set_vendor(const struct profile *profile, uint32_t r[static 4], uint32_t max_leaf)
{
	r[PROFILE_EAX] = max_leaf;
	memcpy(&r[PROFILE_EBX], profile->cpu.vendor, 4);
	memcpy(&r[PROFILE_EDX], profile->cpu.vendor + 4, 4);
	memcpy(&r[PROFILE_ECX], profile->cpu.vendor + 8, 4);
}

/* Bits of the APIC id that number the cores of the one package. */
static unsigned core_bits(const struct profile *profile)
{
	unsigned bits = 0;

	while (BIT(bits) < profile->vp_count)
		bits++;
	return bits;
}

enum cache_type { CACHE_DATA = 1, CACHE_CODE, CACHE_UNIFIED };

/* One of leaf 4's subleaves; all caches have lines of 64 bytes. */
static void cache_leaf(const struct profile *profile, uint32_t subleaf, uint32_t r[static 4])
{
	static const struct {
		enum cache_type type;
		unsigned level, ways, sets;
		bool shared;
	} caches[] = {
		{ CACHE_DATA, 1, 8, 64, false },
		{ CACHE_CODE, 1, 8, 64, false },
		{ CACHE_UNIFIED, 2, 16, 1024, false },
		{ CACHE_UNIFIED, 3, 16, 16384, true },
	};
	uint32_t ids = (uint32_t)BIT(core_bits(profile)) - 1;

	if (subleaf >= ARRAY_SIZE(caches))
		return;
	set_regs(r,
		 caches[subleaf].type | caches[subleaf].level << 5 | BIT(8) |
		     (caches[subleaf].shared ? ids << 14 : 0) | ids << 26,
		 63 | (caches[subleaf].ways - 1) << 22, caches[subleaf].sets - 1, 0);
}

static void topology_leaf(const struct profile *profile, unsigned vp, uint32_t subleaf,
			  uint32_t r[static 4])
{
	enum { LEVEL_THREAD = 1, LEVEL_CORE = 2 };

	if (subleaf == 0)
		set_regs(r, 0, 1, LEVEL_THREAD << 8, vp);
	else if (subleaf == 1)
		set_regs(r, core_bits(profile), profile->vp_count, 1 | LEVEL_CORE << 8, vp);
	else
		set_regs(r, 0, 0, subleaf & 0xFF, vp);
}

static uint32_t max_basic_leaf(const struct profile *profile)
{
	return profile->word[PROFILE_1_ECX] & XSAVE_1_ECX ? MAX_XSAVE_LEAF : MAX_BASIC_LEAF;
}

/* x87, SSE and AVX. What the area takes with what XCR0 has now is for who executes CPUID to say. */
static void xsave_leaf(uint32_t subleaf, uint32_t r[static 4])
{
	if (subleaf == 0)
		set_regs(r, 7, PROFILE_XSAVE_AVX, PROFILE_XSAVE_AVX, 0);
	else if (subleaf == 2) /* AVX: size, offset */
		set_regs(r, PROFILE_XSAVE_AVX - PROFILE_XSAVE_LEAST, PROFILE_XSAVE_LEAST, 0, 0);
}

static void basic_leaf(const struct profile *profile, unsigned vp, uint32_t leaf, uint32_t subleaf,
		       uint32_t r[static 4])
{
	const uint32_t *word = profile->word;

	switch (leaf) {
	case 0:
		set_vendor(profile, r, max_basic_leaf(profile));
		break;
	case 1: /* EBX: APIC id, number of logical processors, CLFLUSH line in 8 bytes */
		set_regs(r, profile->cpu.signature, vp << 24 | profile->vp_count << 16 | 8 << 8,
			 word[PROFILE_1_ECX], word[PROFILE_1_EDX]);
		break;
	case 2: /* "see leaf 4" */
		if (!is_amd(profile))
			set_regs(r, 0xFF01, 0, 0, 0);
		break;
	case 4:
		if (!is_amd(profile))
			cache_leaf(profile, subleaf, r);
		break;
	case 6:
		r[PROFILE_EAX] = BIT(2); /* the APIC timer runs in every power state */
		break;
	case 7:
		if (subleaf == 0)
			set_regs(r, 0, word[PROFILE_7_EBX], 0, word[PROFILE_7_EDX]);
		break;
	case 0xB:
		topology_leaf(profile, vp, subleaf, r);
		break;
	case 0xD: /* only if max_basic_leaf says so */
		xsave_leaf(subleaf, r);
		break;
	}
}

/* AMD describes its caches here; on an Intel identity only the L2 cache stands in 0x80000006. */
static void extended_cache_leaf(const struct profile *profile, uint32_t leaf, uint32_t r[static 4])
{
	const uint32_t line = 64 | 1 << 8, l1 = 32u << 24 | 8 << 16 | line;
	const uint32_t l2 = 1024u << 16 | 8 << 12 | line, l3 = 32u << 18 | 8 << 12 | line;

	if (leaf == 0x80000005 && is_amd(profile))
		set_regs(r, 0xFF40FF40, 0xFF40FF40, l1, l1);
	else if (leaf == 0x80000006 && is_amd(profile))
		set_regs(r, 0x48006400, 0x68006400, l2, l3);
	else if (leaf == 0x80000006)
		set_regs(r, 0, 0, 1024u << 16 | 8 << 12 | 64, 0);
}

static uint32_t max_extended_leaf(const struct profile *profile)
{
	return profile->word[PROFILE_821_EAX] ? MAX_AMD_LEAF : MAX_EXTENDED_LEAF;
}

static void extended_leaf(const struct profile *profile, uint32_t leaf, uint32_t r[static 4])
{
	const uint32_t *word = profile->word;

	switch (leaf) {
	case 0x80000000:
		if (is_amd(profile))
			set_vendor(profile, r, 0);
		r[PROFILE_EAX] = max_extended_leaf(profile);
		break;
	case 0x80000001:
		set_regs(r, is_amd(profile) ? profile->cpu.signature : 0, 0, word[PROFILE_81_ECX],
			 word[PROFILE_81_EDX]);
		if (is_amd(profile)) /* repeats the bits that leaf 1 has in the same place */
			r[PROFILE_EDX] |= word[PROFILE_1_EDX] & 0x0183F3FF;
		break;
	case 0x80000002 ... 0x80000004:
		memcpy(r, profile->cpu.brand + 16 * (leaf - 0x80000002), 16);
		break;
	case 0x80000005:
	case 0x80000006:
		extended_cache_leaf(profile, leaf, r);
		break;
	case 0x80000007:
		r[PROFILE_EDX] = word[PROFILE_87_EDX];
		break;
	case 0x80000008:
		set_regs(r, profile->physical_bits | profile->virtual_bits << 8,
			 word[PROFILE_88_EBX], 0, 0);
		if (is_amd(profile))
			r[PROFILE_ECX] = (profile->vp_count - 1) | core_bits(profile) << 12;
		break;
	case 0x80000021:
		r[PROFILE_EAX] = word[PROFILE_821_EAX];
		break;
	}
}

static bool extra_leaf(const struct profile *profile, uint32_t leaf, uint32_t subleaf,
		       uint32_t r[static 4])
{
	for (unsigned i = 0; i < profile->extra_count; i++) {
		const struct part_cpuid *e = &profile->extra[i];

		if (e->leaf != leaf)
			continue;
		if (leaf < 0x40000000 && profile_leaf_has_subleaves(leaf) && e->subleaf != subleaf)
			continue;
		set_regs(r, e->eax, e->ebx, e->ecx, e->edx);
		return true;
	}
	return false;
}

void profile_cpuid(const struct profile *profile, unsigned vp, uint32_t leaf, uint32_t subleaf,
		   uint32_t ret[static 4])
{
	bool basic = leaf <= max_basic_leaf(profile);
	bool extended = leaf >= 0x80000000 && leaf <= max_extended_leaf(profile);

	set_regs(ret, 0, 0, 0, 0);
	if (extra_leaf(profile, leaf, subleaf, ret))
		return;
	if (basic)
		basic_leaf(profile, vp, leaf, subleaf, ret);
	else if (extended)
		extended_leaf(profile, leaf, ret);
	else if (!is_amd(profile) && leaf >> 28 != 4)
		/* Intel's answer to a leaf out of range: the highest basic one. */
		basic_leaf(profile, vp, max_basic_leaf(profile), subleaf, ret);
}

bool profile_leaf_has_subleaves(uint32_t leaf)
{
	return leaf == 4 || leaf == 7 || leaf == 0xB || leaf == 0xD;
}

struct leaf_list {
	const struct profile *profile;
	unsigned vp;
	struct part_cpuid *leaves;
	unsigned count, max;
};

static void list_add(struct leaf_list *list, uint32_t leaf, uint32_t subleaf)
{
	uint32_t r[4];

	if (list->count == list->max)
		return;
	profile_cpuid(list->profile, list->vp, leaf, subleaf, r);
	list->leaves[list->count++] = (struct part_cpuid){ leaf, subleaf, r[0], r[1], r[2], r[3] };
}

unsigned profile_leaves(const struct profile *profile, unsigned vp, struct part_cpuid *ret,
			unsigned max)
{
	struct leaf_list list = { profile, vp, ret, 0, max };

	for (uint32_t leaf = 0; leaf <= max_basic_leaf(profile); leaf++) {
		unsigned subleaves = leaf == 4 ? 5 : leaf == 0xB || leaf == 0xD ? 3 : 1;

		for (uint32_t i = 0; i < subleaves; i++)
			list_add(&list, leaf, i);
	}
	for (uint32_t leaf = 0x80000000; leaf <= max_extended_leaf(profile); leaf++)
		list_add(&list, leaf, 0);
	for (unsigned i = 0; i < profile->extra_count; i++)
		if (profile->extra[i].leaf >> 28 == 4)
			list_add(&list, profile->extra[i].leaf, 0);
	return list.count;
}
