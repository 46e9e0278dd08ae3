/*
 * The named CPU profile: which processor the guest sees, as CPUID leaves. The features are the same
 * on both backends, so that saved state moves between them; each is shown only if the processor
 * that executes the guest can do it.
 *
 * The identity (vendor, family, model, stepping) decides which mitigations against speculative
 * execution a guest applies, so it tells the truth about what executes the guest:
 * - the software CPU is GenuineIntel 6/0x36/1, an in-order processor that guests know to be
 *   unaffected, as an interpreter is;
 * - under KVM it is the host's own processor, with the control bits (IBRS, STIBP, SSBD, MD_CLEAR,
 *   ARCH_CAPABILITIES, ...) that KVM offers: PROFILE_7_EDX, PROFILE_88_EBX, PROFILE_821_EAX.
 *
 * A profile is filled once and then constant: any thread may ask it.
 *
 *	struct profile_cpu cpu;
 *	profile_cpu_soft(&cpu);
 *	profile_init(&part->profile, &cpu, config, err);
 *	profile_cpuid(&part->profile, vp, leaf, subleaf, regs);
 */
#ifndef PART_PROFILE_H
#define PART_PROFILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct part_config;
struct part_cpuid;

#define PROFILE_NAME "oyako-1"

/* The feature words, named by leaf and register; 8x is 0x8000000x. */
enum profile_word {
	PROFILE_1_ECX,
	PROFILE_1_EDX,
	PROFILE_7_EBX,
	PROFILE_7_EDX,
	PROFILE_81_ECX,
	PROFILE_81_EDX,
	PROFILE_87_EDX,
	PROFILE_88_EBX,
	PROFILE_821_EAX,
	PROFILE_WORD_COUNT
};

/* What executes the guest. */
struct profile_cpu {
	char vendor[13];
	char brand[49];
	uint32_t signature;               /* leaf 1 EAX: family, model, stepping */
	uint32_t can[PROFILE_WORD_COUNT]; /* features that it can do */
	/* Features that it doesn't offer, but that a saved guest which knows of them may keep. */
	uint32_t bears[PROFILE_WORD_COUNT];
	unsigned physical_bits; /* widest that it can do */
};

enum profile_reg { PROFILE_EAX, PROFILE_EBX, PROFILE_ECX, PROFILE_EDX };

/* The leaf and the register that hold a feature word. */
enum profile_reg profile_word_place(enum profile_word word, uint32_t *ret_leaf);

/* Bytes of an XSAVE area without AVX's state, and with it. */
#define PROFILE_XSAVE_LEAST 576u
#define PROFILE_XSAVE_AVX   832u

struct profile {
	struct profile_cpu cpu;
	uint32_t word[PROFILE_WORD_COUNT]; /* features that the guest sees */
	unsigned vp_count;
	unsigned physical_bits, virtual_bits;
	struct part_cpuid *extra; /* the host's leaves, owned */
	unsigned extra_count;
};

/* The software CPU: its identity, and the SSE that the host's processor can execute for it. */
void profile_cpu_soft(struct profile_cpu *ret);
/* The host's processor by its CPUID instruction. */
void profile_cpu_host(struct profile_cpu *ret);

/* Uses vp_count, mem, cpuid, compatible and saved of config. Fails if RAM doesn't fit below
 * cpu->physical_bits, or the processor lacks what a saved guest was shown. */
int profile_init(struct profile *profile, const struct profile_cpu *cpu,
		 const struct part_config *config, struct error *err);
void profile_done(struct profile *profile);

/* What the CPUID instruction returns on a VP. Leaf 1 EDX bit 9 (APIC) is always set: clear it where
 * the guest disabled its local APIC. */
void profile_cpuid(const struct profile *profile, unsigned vp, uint32_t leaf, uint32_t subleaf,
		   uint32_t ret[static 4]);
static inline bool profile_has(const struct profile *profile, enum profile_word word, unsigned bit)
{
	return profile->word[word] >> bit & 1;
}

/* All leaves of a VP as a list, for KVM_SET_CPUID2; returns how many of max it filled. */
unsigned profile_leaves(const struct profile *profile, unsigned vp, struct part_cpuid *ret,
			unsigned max);
/* Leaves 4, 7, 0xB and 0xD have subleaves; the other leaves ignore ECX. */
bool profile_leaf_has_subleaves(uint32_t leaf);

#endif
