/*
 * The software CPU: the partition's backend that needs no virtualization by the host's processor.
 * An interpreter of x86-64 system code over cached decoded blocks; cpu.h says how it works.
 *
 * Not there, and answered as a processor without it would: task switches, virtual-8086 mode, SMM,
 * hardware breakpoints (debug registers are only stored), performance counters, XSAVE and AVX.
 *
 * Accesses with LOCK that cross a page or go to device memory are atomic to each other, but not to
 * plain accesses of other VPs.
 */
#ifndef PART_SOFTCPU_SOFTCPU_H
#define PART_SOFTCPU_SOFTCPU_H

#include "part/part-impl.h"
#include "part/softcpu/hostop.h"

extern const struct part_backend_ops softcpu_backend_ops;

/*
 * For tests: executes on the calling thread, instead of part_start.
 *
 *	part_new(&config, &part, &err);		// config.backend = PART_SOFT
 *	part_vp_set_state(part, 0, &state);
 *	*softcpu_fpu(part, 0) = fpu;
 *	softcpu_run(part, 0, 1, false, &result);
 */
enum softcpu_reason {
	SOFTCPU_COUNT,     /* all instructions were executed */
	SOFTCPU_EXCEPTION, /* not delivered; RIP is that of the instruction (INT n: too) */
	SOFTCPU_HALTED,
	SOFTCPU_SHUTDOWN, /* triple fault */
};

struct softcpu_result {
	enum softcpu_reason reason;
	uint8_t vector; /* SOFTCPU_EXCEPTION */
	bool has_error;
	uint32_t error;
	uint64_t cr2;
};

/* At most count instructions. deliver: exceptions go through the guest's IDT, and a chunk of a
 * repeated instruction counts as one; else exceptions end the run, and a repeated instruction
 * counts once. External interrupts are not taken. SOFTCPU_BLOCKS as count: whole blocks, as a
 * started VP runs them, until an exception ends it (deliver must be false). */
#define SOFTCPU_BLOCKS UINT64_MAX
void softcpu_run(struct part *part, unsigned vp, uint64_t count, bool deliver,
		 struct softcpu_result *ret);
/* As a running VP does it: whole blocks, everything delivered. Ends after about count instructions,
 * a chunk of a repeated one counting as one, or when the VP idles. Never SOFTCPU_EXCEPTION. */
void softcpu_run_blocks(struct part *part, unsigned vp, uint64_t count, struct softcpu_result *ret);
/* How often a block is interpreted before it is translated; exact_flags: arithmetic flags are right
 * at every fault, at the price of speed. */
void softcpu_tune(struct part *part, unsigned vp, unsigned hot, bool exact_flags);
/* Does as AMD's processors do where they differ from Intel's, which CPUID shows: for comparing with
 * one. Before the first instruction. */
void softcpu_do_as_amd(struct part *part);
/* Lets the guest use AVX, as its system would do it (CR4, XCR0); without effect if it has none. */
void softcpu_enable_avx(struct part *part, unsigned vp);
uint8_t (*softcpu_ymm_high(struct part *part, unsigned vp))[16];
struct hostop_fpu *softcpu_fpu(struct part *part, unsigned vp);
/* cpu.h: for those who look inside. */
struct vp *softcpu_vp(struct part *part, unsigned vp);

/* Counters of a VP; while it runs they may be a little old. */
struct softcpu_stats {
	uint64_t instructions; /* begun by the interpreter's loop */
	uint64_t decoded;      /* instructions decoded */
	uint64_t flushes;      /* of the whole block cache */
	uint64_t translated;   /* instructions translated, and the time that it took */
	uint64_t translate_ns;
	uint64_t copied;   /* translations, for other addresses */
	uint64_t compared; /* blocks, in lockstep; */
	uint64_t races;    /* and how often others seemed to have interfered */
};
void softcpu_stats(struct part *part, unsigned vp, struct softcpu_stats *ret);

#endif
