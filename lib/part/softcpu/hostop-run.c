/*
 * Running what a jump to generated code can't do alone.
 *
 * SIMD floating point always runs with all exceptions masked. If the guest unmasked some, it runs
 * on a copy of the registers first; the new status flags then tell whether the processor would have
 * raised #XM (SDM volume 1, 11.5): invalid, denormal and divide-by-zero are found before the
 * computation, so if one of these is unmasked, no flag of the computation's result is set.
 */
#include "part/softcpu/hostop-impl.h"

#include <immintrin.h>
#include <string.h>

enum {
	MXCSR_IE = 1 << 0,
	MXCSR_DE = 1 << 1,
	MXCSR_ZE = 1 << 2,
	MXCSR_UE = 1 << 4,
	MXCSR_FLAGS = 0x3f,
	MXCSR_BEFORE = MXCSR_IE | MXCSR_DE | MXCSR_ZE,
	MXCSR_UM = 1 << 11,
	MXCSR_MASKS = 0x1f80,
	MXCSR_FTZ = 1 << 15,
};

enum { VECTOR_MF = 16, VECTOR_XM = 19 };

static bool is_tiny_float(uint32_t bits)
{
	return (bits & 0x7f800000) == 0 && (bits & 0x7fffff) != 0;
}

static bool is_tiny_half(uint32_t bits)
{
	return (bits & 0x7c00) == 0 && (bits & 0x3ff) != 0;
}

static bool is_tiny_double(uint64_t bits)
{
	return (bits & 0x7ff0000000000000) == 0 && (bits & 0xfffffffffffff) != 0;
}

static bool is_tiny(const uint8_t *element, unsigned size)
{
	uint64_t bits = 0;

	memcpy(&bits, element, size);
	if (size == 2)
		return is_tiny_half((uint32_t)bits);
	return size == 4 ? is_tiny_float((uint32_t)bits) : is_tiny_double(bits);
}

static bool any_is_tiny(const uint8_t *elements, unsigned count, unsigned size)
{
	for (unsigned i = 0; i < count; i++)
		if (is_tiny(elements + i * size, size))
			return true;
	return false;
}

/* Masked underflow is flagged only for inexact results, unmasked underflow for all tiny ones. What
 * an instruction clears of its destination isn't tiny. */
static bool result_is_tiny(const struct hostop_regs *regs, const struct hostop *op, const void *mem)
{
	const uint8_t *dest =
	    (const uint8_t *)regs + (op->private_flags & HOSTOP_TINY_F16 ? op->rm : op->reg);
	unsigned size = op->private_flags & HOSTOP_TINY_F16   ? 2
			: op->private_flags & HOSTOP_TINY_F32 ? 4
							      : 8;

	if (!(op->private_flags & (HOSTOP_TINY_F16 | HOSTOP_TINY_F32 | HOSTOP_TINY_F64)))
		return false;
	if (!(op->private_flags & HOSTOP_TINY_PACKED))
		return is_tiny(dest, size);
	if (op->private_flags & HOSTOP_TINY_F16 && op->mem_size)
		return any_is_tiny(mem, op->mem_size / 2, 2);
	return any_is_tiny(dest, 16 / size, size) ||
	       (op->unit == HOSTOP_AVX &&
		any_is_tiny(dest + offsetof(struct hostop_regs, ymm_high) -
				offsetof(struct hostop_regs, fpu.xmm),
			    16 / size, size));
}

/* The new status flags of a masked run on tmp -> those that the guest sees and whether it faults.
 */
static bool would_fault(uint32_t mxcsr, uint32_t *flags, const struct hostop_regs *tmp,
			const struct hostop *op, const void *mem)
{
	uint32_t unmasked = ~(mxcsr >> 7) & MXCSR_FLAGS;

	if (unmasked & *flags & MXCSR_BEFORE) {
		*flags &= MXCSR_BEFORE;
		return true;
	}
	if (unmasked & MXCSR_UE && result_is_tiny(tmp, op, mem))
		*flags |= MXCSR_UE;
	return unmasked & *flags;
}

static uint32_t masked_mxcsr(uint32_t mxcsr)
{
	uint32_t masked = (mxcsr | MXCSR_MASKS) & ~(uint32_t)MXCSR_FLAGS;

	/* Flush-to-zero has no effect while underflow is unmasked. */
	if (!(mxcsr & MXCSR_UM))
		masked &= ~(uint32_t)MXCSR_FTZ;
	return masked;
}

static uint32_t run_under(uint32_t mxcsr, struct hostop_regs *regs, void *mem,
			  const struct hostop *op)
{
	uint32_t host = _mm_getcsr(), after;

	_mm_setcsr(mxcsr);
	op->code(regs, mem, op);
	after = _mm_getcsr();
	_mm_setcsr(host);
	return after;
}

unsigned hostop_run_fp(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	bool stores = op->mem_access & HOSTOP_MEM_WRITE; /* VCVTPS2PH: nothing, if it faults */
	uint32_t mxcsr = regs->fpu.mxcsr, flags;
	uint8_t stored[sizeof(regs->fpu.xmm[0])];
	struct hostop_regs tmp;

	if ((mxcsr & MXCSR_MASKS) == MXCSR_MASKS) {
		regs->fpu.mxcsr = run_under(mxcsr, regs, mem, op);
		return 0;
	}
	tmp = *regs;
	flags = run_under(masked_mxcsr(mxcsr), &tmp, stores ? stored : mem, op) & MXCSR_FLAGS;
	if (would_fault(mxcsr, &flags, &tmp, op, stored)) {
		regs->fpu.mxcsr = mxcsr | flags;
		return VECTOR_XM;
	}
	if (stores)
		memcpy(mem, stored, op->mem_size);
	*regs = tmp;
	regs->fpu.mxcsr = mxcsr | flags;
	return 0;
}

void hostop_note_x87(struct hostop_regs *regs, const struct hostop *op)
{
	regs->fpu.fip = regs->rip;
	regs->fpu.fop = op->fop;
	if (op->mem_size)
		regs->fpu.fdp = regs->ea;
}

/* The host would raise #MF itself if ES were set; it is recomputed from flags and masks. */
static void run_on_image(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	uint64_t fip = regs->fpu.fip, fdp = regs->fpu.fdp;
	uint16_t fop = regs->fpu.fop;

	regs->fpu.fsw &= 0x7f7f;
	op->code(regs, mem, op);
	regs->fpu.fip = fip;
	regs->fpu.fdp = fdp;
	regs->fpu.fop = fop;
	if (op->unit == HOSTOP_X87)
		hostop_note_x87(regs, op);
	regs->fpu.mxcsr_mask = HOSTOP_MXCSR_MASK;
}

unsigned hostop_run_x87(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	if (hostop_x87_fault(op, regs))
		return VECTOR_MF;
	run_on_image(regs, mem, op);
	return 0;
}

unsigned hostop_run_mmx_fp(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	uint32_t mxcsr = regs->fpu.mxcsr, flags;
	struct hostop_regs tmp = *regs;

	if (hostop_x87_fault(op, regs))
		return VECTOR_MF;
	tmp.fpu.mxcsr = masked_mxcsr(mxcsr);
	run_on_image(&tmp, mem, op);
	flags = tmp.fpu.mxcsr & MXCSR_FLAGS;
	if (would_fault(mxcsr, &flags, &tmp, op, mem)) {
		if (op->waits) /* not with a memory source */
			hostop_enter_mmx(&regs->fpu);
		regs->fpu.mxcsr = mxcsr | flags;
		return VECTOR_XM;
	}
	*regs = tmp;
	regs->fpu.mxcsr = mxcsr | flags;
	return 0;
}
