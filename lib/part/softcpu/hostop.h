/*
 * One guest instruction executed by the host processor itself: SSE to SSE4.2, MMX, x87, POPCNT,
 * CRC32, BMI and the like, and plain integer instructions that nobody wrote a handler for. Floating
 *point is thus never emulated, and is exact.
 *
 * hostop_prepare looks at a decoded instruction and, if it is ours, fills a struct hostop that the
 * caller keeps with the decoded instruction. hostop_run then executes it on a VP's registers:
 *
 *	if (!hostop_prepare(arena, &insn, operands, &op))
 *		return NULL;		// not ours
 *	...
 *	if (op.mem_size)
 *		mem = translated, checked host pointer, or bounce buffer
 *	vector = hostop_run(&op, &vp->regs, mem);
 *
 * The code behind is generated once per opcode, operand kinds and immediate (guest registers are
 * parameters, not part of the code), so that its amount is bounded whatever a guest executes. It
 * lives in one memfd mapped twice: writable for the emitter, executable for the VPs.
 *
 * Threads: hostop_prepare may be called from several threads on one arena. A struct hostop is plain
 * data, may be copied, and lives as long as its arena. hostop_run touches only regs and mem.
 *
 * What the caller does before hostop_run:
 *  - the instruction exists for this guest: compares op.feature with its CPU profile (else #UD);
 *  - HOSTOP_SSE: CR0.EM = 0 and CR4.OSFXSR = 1 (else #UD), CR0.TS = 0 (else #NM);
 *    HOSTOP_MMX: CR0.EM = 0 (else #UD), CR0.TS = 0 (else #NM);
 *    HOSTOP_SSE_MMX (conversions between both register files): as HOSTOP_SSE;
 *    HOSTOP_X87: CR0.EM = 0 and CR0.TS = 0 (else #NM); HOSTOP_FWAIT: #NM if CR0.MP and CR0.TS;
 *    HOSTOP_FXSAVE (FXSAVE, FXRSTOR): CR0.EM = 0 and CR0.TS = 0 (else #NM);
 *    LDMXCSR and STMXCSR are HOSTOP_SSE;
 *    HOSTOP_AVX: CR4.OSXSAVE = 1 and XCR0 has SSE and AVX (else #UD), CR0.TS = 0 (else #NM);
 *  - hostop_x87_fault: raises #MF before it looks at the memory operand, as processors do;
 *  - if op.mem_size: computes the effective address of the instruction's memory operand (for
 *    MASKMOVDQU/MASKMOVQ the implicit DS:rDI), checks it against op.mem_align (bytes; a misaligned
 *    linear address is #GP(0)), translates it for op.mem_access, and passes a pointer to
 *op.mem_size bytes: guest RAM, or a buffer aligned to 16 that is filled before (if READ) and
 *written out after (if WRITE) a run that returned 0. If op.mem_align is 16, mem must be aligned
 *to 16.
 *  - x87: regs.rip is the address of the instruction and regs.ea the offset of its memory operand
 *    (they become FIP and FDP). Not needed for anything else;
 *  - regs.rflags holds the status flags if op.flags_read is not 0. After the run the flags in
 *    op.flags_written are new there, all others unchanged. (Only CF PF AF ZF SF OF ever reach the
 *    host or come back.)
 *
 * Results of hostop_run: 0 if done, else the exception to raise; then nothing was written but flags
 * of MXCSR or FSW as the processor does:
 *    6  #UD (never today)
 *   13  #GP(0): reserved bit of MXCSR (LDMXCSR, FXRSTOR)
 *   16  #MF: an unmasked x87 exception was pending. (If CR0.NE is 0 the caller signals FERR#
 *instead.) 19  #XM: unmasked SIMD exception. #UD instead if CR4.OSXMMEXCPT is 0: the caller's RIP
 *is the caller's too: advance it after success. No host signal can arise from a run with valid
 * pointers.
 *
 * Ours besides SSE and x87 computation: LDMXCSR STMXCSR FXSAVE FXRSTOR (and their 64 forms) FNSAVE
 * FRSTOR FNSTENV FLDENV FNINIT FNCLEX FWAIT EMMS, in every operand size and mode.
 * Not ours: what can raise #DE (DIV, IDIV, AAM), stack, string, control flow, segment and system
 * instructions, PREFETCHx, CLFLUSH, fences, XSAVE, EVEX, and of AVX what names its memory by a mask
 * or a vector of indices (VMASKMOVPx, VPMASKMOVx, VGATHERx, VPGATHERx).
 *
 * FCS and FDS are always 0 (CPUID.7.0:EBX[13] may say so), FIP/FDP/FOP are the guest's.
 */
#ifndef PART_SOFTCPU_HOSTOP_H
#define PART_SOFTCPU_HOSTOP_H

#include "base/error.h"

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The FXSAVE64 image (SDM volume 1, table 10-3): the guest's FPU state at any time. */
struct hostop_fpu {
	uint16_t fcw, fsw;
	uint8_t ftw; /* abridged: bit i set = physical register i is not empty */
	uint8_t reserved0;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16]; /* ST(i), which is MM(i) when TOP is 0 */
	uint8_t xmm[16][16];
	uint8_t unused[96];
} __attribute__((aligned(64)));

/* A VP's registers as generated code reaches them; embed it in the VP. */
struct hostop_regs {
	uint64_t gpr[16]; /* encoding order: RAX RCX RDX RBX RSP RBP RSI RDI R8..R15 */
	uint64_t rflags;
	uint64_t rip, ea; /* x87 only: see above */
	struct hostop_fpu fpu;
	uint8_t ymm_high[16][16]; /* the upper halves of YMM0 to YMM15 */
} __attribute__((aligned(64)));

/* MXCSR bits that a guest may set: no AMD misaligned mode. */
#define HOSTOP_MXCSR_MASK  0xffffu
#define HOSTOP_MXCSR_RESET 0x1f80u
#define HOSTOP_FCW_RESET   0x0040u /* after power-on; FNINIT gives 0x037f */

/* The states after power-on or RESET. INIT (the signal) leaves the FPU as it is. */
void hostop_fpu_reset(struct hostop_fpu *fpu);

enum hostop_unit {
	HOSTOP_INTEGER,
	HOSTOP_X87,
	HOSTOP_FWAIT,
	HOSTOP_MMX,
	HOSTOP_SSE_MMX,
	HOSTOP_SSE,
	HOSTOP_FXSAVE,
	HOSTOP_AVX,
};

/* The CPUID feature that an instruction belongs to. */
enum hostop_feature {
	HOSTOP_BASE,
	HOSTOP_FEATURE_X87,
	HOSTOP_FEATURE_CMOV,
	HOSTOP_FEATURE_MMX,
	HOSTOP_FEATURE_FXSR,
	HOSTOP_FEATURE_SSE,
	HOSTOP_FEATURE_SSE2,
	HOSTOP_FEATURE_SSE3,
	HOSTOP_FEATURE_SSSE3,
	HOSTOP_FEATURE_SSE4_1,
	HOSTOP_FEATURE_SSE4_2, /* CRC32 included */
	HOSTOP_FEATURE_POPCNT,
	HOSTOP_FEATURE_MOVBE,
	HOSTOP_FEATURE_AES,
	HOSTOP_FEATURE_PCLMULQDQ,
	HOSTOP_FEATURE_SHA,
	HOSTOP_FEATURE_ADX,
	HOSTOP_FEATURE_LZCNT,
	HOSTOP_FEATURE_BMI1, /* with TZCNT */
	HOSTOP_FEATURE_BMI2,
	HOSTOP_FEATURE_CX8,
	HOSTOP_FEATURE_CX16,
	HOSTOP_FEATURE_LAHF64,
	HOSTOP_FEATURE_AVX,
	HOSTOP_FEATURE_AVX2,
	HOSTOP_FEATURE_FMA,
	HOSTOP_FEATURE_F16C,
	HOSTOP_FEATURE_COUNT
};

enum { HOSTOP_MEM_READ = 1, HOSTOP_MEM_WRITE = 2 };

struct hostop;
typedef unsigned hostop_fn(struct hostop_regs *regs, void *mem, const struct hostop *op);

struct hostop {
	hostop_fn *run;   /* use hostop_run */
	hostop_fn *code;  /* private: the generated code, */
	hostop_fn *light; /* and that for common x87 operands */
	uint16_t reg, rm, vex,
	    is4;            /* private: offsets of the register operands in struct hostop_regs */
	uint16_t mem_size;  /* bytes; 0: no memory operand */
	uint8_t mem_access; /* HOSTOP_MEM_READ | HOSTOP_MEM_WRITE */
	uint8_t mem_align;  /* 1, 16 or 32: misaligned is #GP(0) */
	uint16_t flags_read, flags_written; /* RFLAGS bits; written includes undefined ones */
	uint16_t flags_undefined;           /* of those written; for comparisons */
	uint16_t fop;                       /* private */
	uint8_t unit;                       /* enum hostop_unit */
	uint8_t feature;                    /* enum hostop_feature */
	uint8_t locked; /* had a LOCK prefix: mem must be the guest RAM itself */
	uint8_t waits;  /* for hostop_x87_fault */
	uint8_t private_flags;
	struct {
		uint8_t index, flags;
	} x87; /* private */
};

struct hostop_arena;

int hostop_arena_new(struct hostop_arena **ret, struct error *err);
void hostop_arena_free(struct hostop_arena *arena); /* NULL allowed */

/* Whether the instruction is ours and the host can execute it; fills ret if so. operands: as
 * zydis_decode (zydis.h) gives them, hidden ones included. Instructions that only the guest's
 * processor profile could forbid are accepted (see op.feature). */
bool hostop_prepare(struct hostop_arena *arena, const ZydisDecodedInstruction *insn,
		    const ZydisDecodedOperand *operands, struct hostop *ret);

/* The instruction waits for the x87 unit, and an unmasked exception is pending there. (hostop_run
 * would return 16 as well, but a memory operand's faults come after this one.) */
static inline bool hostop_x87_fault(const struct hostop *op, const struct hostop_regs *regs)
{
	return op->waits && regs->fpu.fsw & ~regs->fpu.fcw & 0x3f;
}

/* Before the first hostop_run after C code that may have left exceptions in the host's x87 status,
 * as everything may that computes with long double: they would be taken for the guest's. */
static inline void hostop_forget_exceptions(void)
{
	__asm__ volatile("fnclex");
}

static inline unsigned hostop_run(const struct hostop *op, struct hostop_regs *regs, void *mem)
{
	return op->run(regs, mem, op);
}

/* Components of XCR0, and the standard form of their image (SDM volume 1, 13.4). */
#define HOSTOP_XCR0_X87    1u
#define HOSTOP_XCR0_SSE    2u
#define HOSTOP_XCR0_AVX    4u
#define HOSTOP_XCR0_ALL    7u
#define HOSTOP_XSAVE_BYTES 832u
/* wide: FIP and FDP have 64 bits. legacy: there are 8 vector registers. mask: the components that
 * are moved; without AVX the image ends before it. */
void hostop_xsave(const struct hostop_regs *regs, uint8_t *image, uint64_t mask, bool wide,
		  bool legacy);
/* False, with nothing changed: #GP(0). */
bool hostop_xrstor(struct hostop_regs *regs, const uint8_t *image, uint64_t mask, uint64_t xcr0,
		   bool wide, bool legacy);

/* The VP's thread may leave the guest's MXCSR status flags (not its controls) in the host's MXCSR;
 * C code doesn't mind. */

#endif
