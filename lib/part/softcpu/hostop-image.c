/*
 * The instructions that load, store and reset FPU state, done in C on the guest's image: their
 * memory formats (SDM volume 1, 8.1.10 and 10.5) depend on mode and operand size, and a host
 * execution would leak host addresses through FIP and FDP.
 */
#include "part/softcpu/hostop-impl.h"

#include <string.h>

enum { VECTOR_GP = 13, VECTOR_MF = 16 };

enum { FSW_ES = 1 << 7, FSW_BUSY = 1 << 15, FSW_FLAGS = 0x3f };
enum { FCW_RESERVED_ONE = 0x40, FCW_SETTABLE = 0x1f3f, FCW_MASKS = 0x3f };

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static void update_summary(struct hostop_fpu *fpu)
{
	fpu->fsw &= (uint16_t) ~(FSW_ES | FSW_BUSY);
	if (fpu->fsw & ~fpu->fcw & FSW_FLAGS)
		fpu->fsw |= FSW_ES | FSW_BUSY;
}

static void set_fcw(struct hostop_fpu *fpu, uint16_t fcw)
{
	fpu->fcw = (fcw & FCW_SETTABLE) | FCW_RESERVED_ONE;
	update_summary(fpu);
}

/* The image is ordered by ST number: a new TOP moves the physical registers in it. */
static void rotate_registers(struct hostop_fpu *fpu, unsigned old_top)
{
	uint8_t st[8][16];
	unsigned by = (hostop_top(fpu) - old_top) & 7;

	if (!by)
		return;
	for (unsigned i = 0; i < 8; i++)
		memcpy(st[i], fpu->st[(i + by) & 7], 16);
	memcpy(fpu->st, st, sizeof(st));
}

void hostop_enter_mmx(struct hostop_fpu *fpu)
{
	unsigned old_top = hostop_top(fpu);

	fpu->fsw &= (uint16_t) ~(7u << 11);
	fpu->ftw = 0xff;
	rotate_registers(fpu, old_top);
}

static void x87_init(struct hostop_fpu *fpu)
{
	unsigned old_top = hostop_top(fpu);

	fpu->fcw = 0x037f;
	fpu->fsw = 0;
	fpu->ftw = 0;
	fpu->fop = 0;
	fpu->fip = fpu->fdp = 0;
	rotate_registers(fpu, old_top);
}

void hostop_fpu_reset(struct hostop_fpu *fpu)
{
	memset(fpu, 0, sizeof(*fpu));
	fpu->fcw = HOSTOP_FCW_RESET;
	fpu->ftw = 0xff;
	fpu->mxcsr = HOSTOP_MXCSR_RESET;
	fpu->mxcsr_mask = HOSTOP_MXCSR_MASK;
}

/* ---- control and status words ---- */

static unsigned op_fninit(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	x87_init(&regs->fpu);
	return 0;
}

static unsigned op_fnclex(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	regs->fpu.fsw &= 0x7f00;
	return 0;
}

static unsigned op_fnstsw(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	memcpy(op->mem_size ? mem : &regs->gpr[0], &regs->fpu.fsw, 2);
	return 0;
}

static unsigned op_fnstcw(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	memcpy(mem, &regs->fpu.fcw, 2);
	return 0;
}

static unsigned op_fldcw(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	uint16_t fcw;

	if (hostop_x87_fault(op, regs))
		return VECTOR_MF;
	memcpy(&fcw, mem, 2);
	set_fcw(&regs->fpu, fcw);
	return 0;
}

/* The 8087's interrupt enable and the like: no operation since the 80387. */
static unsigned op_nop(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	return 0;
}

static unsigned op_fwait(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	return hostop_x87_fault(op, regs) ? VECTOR_MF : 0;
}

static unsigned op_stmxcsr(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	memcpy(mem, &regs->fpu.mxcsr, 4);
	return 0;
}

static unsigned op_ldmxcsr(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, mem, 4);
	if (mxcsr & ~HOSTOP_MXCSR_MASK)
		return VECTOR_GP;
	regs->fpu.mxcsr = mxcsr;
	return 0;
}

static unsigned op_vzeroupper(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	unsigned count = op->private_flags & HOSTOP_LEGACY_MODE ? 8 : 16;

	memset(regs->ymm_high, 0, count * sizeof(regs->ymm_high[0]));
	return 0;
}

static unsigned op_vzeroall(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	unsigned count = op->private_flags & HOSTOP_LEGACY_MODE ? 8 : 16;

	memset(regs->fpu.xmm, 0, count * sizeof(regs->fpu.xmm[0]));
	return op_vzeroupper(regs, mem, op);
}

/* ---- x87 environment ---- */

static unsigned tag_of(const uint8_t st[16])
{
	uint64_t mantissa;
	uint16_t exponent;

	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (exponent == 0)
		return mantissa ? TAG_SPECIAL : TAG_ZERO;
	return exponent != 0x7fff && mantissa >> 63 ? TAG_VALID : TAG_SPECIAL;
}

/* The two-bit tags by physical register, which only exist in this format. */
static uint16_t full_tags(const struct hostop_fpu *fpu)
{
	uint16_t tags = 0;

	for (unsigned i = 0; i < 8; i++) {
		unsigned tag = TAG_EMPTY;

		if (fpu->ftw >> i & 1)
			tag = tag_of(fpu->st[(i - hostop_top(fpu)) & 7]);
		tags |= (uint16_t)(tag << i * 2);
	}
	return tags;
}

static uint8_t abridge_tags(uint16_t tags)
{
	uint8_t ftw = 0;

	for (unsigned i = 0; i < 8; i++)
		if ((tags >> i * 2 & 3) != TAG_EMPTY)
			ftw |= (uint8_t)(1u << i);
	return ftw;
}

/* Seven fields; each has the operand size. Their unused upper halves read as ones, but not those
 * that hold pointers. */
static void env_fields_protected32(const struct hostop_fpu *fpu, uint32_t field[7])
{
	field[3] = (uint32_t)fpu->fip;
	field[4] = (uint32_t)(fpu->fop & 0x7ff) << 16;
	field[5] = (uint32_t)fpu->fdp;
	field[6] = 0xffff0000;
}

static void env_fields_real32(const struct hostop_fpu *fpu, uint32_t field[7])
{
	field[3] = 0xffff0000 | (uint16_t)fpu->fip;
	field[4] = ((uint32_t)fpu->fip >> 16) << 12 | (fpu->fop & 0x7ff);
	field[5] = 0xffff0000 | (uint16_t)fpu->fdp;
	field[6] = ((uint32_t)fpu->fdp >> 16) << 12;
}

static void env_fields16(const struct hostop_fpu *fpu, uint32_t field[7], bool real)
{
	field[3] = (uint16_t)fpu->fip;
	field[4] = real ? ((uint32_t)fpu->fip >> 16 & 15) << 12 | (fpu->fop & 0x7ff) : 0;
	field[5] = (uint16_t)fpu->fdp;
	field[6] = real ? ((uint32_t)fpu->fdp >> 16 & 15) << 12 : 0;
}

static unsigned env_size(const struct hostop *op)
{
	return op->mem_size == 14 || op->mem_size == 94 ? 14 : 28;
}

static void store_env(const struct hostop_fpu *fpu, uint8_t *mem, const struct hostop *op)
{
	unsigned size = env_size(op), width = size / 7;
	bool real = op->private_flags & HOSTOP_REAL_MODE;
	uint32_t field[7] = { 0xffff0000 | fpu->fcw, 0xffff0000 | fpu->fsw,
			      0xffff0000 | full_tags(fpu) };

	if (size == 14)
		env_fields16(fpu, field, real);
	else if (real)
		env_fields_real32(fpu, field);
	else
		env_fields_protected32(fpu, field);
	for (unsigned i = 0; i < 7; i++)
		memcpy(mem + i * width, &field[i], width);
}

static void load_env(struct hostop_fpu *fpu, const uint8_t *mem, const struct hostop *op)
{
	unsigned size = env_size(op), width = size / 7;
	bool real = op->private_flags & HOSTOP_REAL_MODE;
	uint32_t field[7] = { 0 };

	for (unsigned i = 0; i < 7; i++)
		memcpy(&field[i], mem + i * width, width);
	fpu->fsw = (uint16_t)field[1];
	fpu->ftw = abridge_tags((uint16_t)field[2]);
	fpu->fip = field[3];
	fpu->fdp = field[5];
	if (real) {
		fpu->fip = (field[3] & 0xffff) | (field[4] & 0x0ffff000) << 4;
		fpu->fdp = (field[5] & 0xffff) | (field[6] & 0x0ffff000) << 4;
		fpu->fop = field[4] & 0x7ff;
	} else if (size == 28) {
		fpu->fop = field[4] >> 16 & 0x7ff;
	}
	set_fcw(fpu, (uint16_t)field[0]);
}

static unsigned op_fnstenv(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	store_env(&regs->fpu, mem, op);
	regs->fpu.fcw |= FCW_MASKS;
	update_summary(&regs->fpu);
	return 0;
}

static unsigned op_fldenv(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	unsigned old_top = hostop_top(&regs->fpu);

	if (hostop_x87_fault(op, regs))
		return VECTOR_MF;
	load_env(&regs->fpu, mem, op);
	rotate_registers(&regs->fpu, old_top);
	return 0;
}

static unsigned op_fnsave(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	uint8_t *p = (uint8_t *)mem + env_size(op);
	struct hostop_fpu *fpu = &regs->fpu;

	store_env(fpu, mem, op);
	for (unsigned i = 0; i < 8; i++)
		memcpy(p + i * 10, fpu->st[i], 10);
	x87_init(fpu);
	return 0;
}

static unsigned op_frstor(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	const uint8_t *p = (const uint8_t *)mem + env_size(op);

	if (hostop_x87_fault(op, regs))
		return VECTOR_MF;
	load_env(&regs->fpu, mem, op);
	for (unsigned i = 0; i < 8; i++) {
		memcpy(regs->fpu.st[i], p + i * 10, 10);
		memset(regs->fpu.st[i] + 10, 0, 6);
	}
	return 0;
}

/* ---- FXSAVE and FXRSTOR ---- */

#define FXSAVE_WRITTEN       416 /* bytes; the rest is left as it was */
#define FXSAVE_WRITTEN_8_XMM 288

static unsigned op_fxsave(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	struct hostop_fpu image = regs->fpu;
	bool legacy = op->private_flags & HOSTOP_LEGACY_MODE;

	image.reserved0 = 0;
	image.mxcsr_mask = HOSTOP_MXCSR_MASK;
	if (!(op->private_flags & HOSTOP_WIDE)) { /* selectors are 0 */
		image.fip = (uint32_t)image.fip;
		image.fdp = (uint32_t)image.fdp;
	}
	for (unsigned i = 0; i < 8; i++)
		memset(image.st[i] + 10, 0, 6);
	memcpy(mem, &image, legacy ? FXSAVE_WRITTEN_8_XMM : FXSAVE_WRITTEN);
	return 0;
}

static unsigned op_fxrstor(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	struct hostop_fpu image;
	bool legacy = op->private_flags & HOSTOP_LEGACY_MODE;

	memcpy(&image, mem, 512);
	if (image.mxcsr & ~HOSTOP_MXCSR_MASK)
		return VECTOR_GP;
	if (!(op->private_flags & HOSTOP_WIDE)) {
		image.fip = (uint32_t)image.fip;
		image.fdp = (uint32_t)image.fdp;
	}
	image.fop &= 0x7ff;
	image.reserved0 = 0;
	image.mxcsr_mask = HOSTOP_MXCSR_MASK;
	for (unsigned i = 0; i < 8; i++)
		memset(image.st[i] + 10, 0, 6);
	if (legacy)
		memcpy(image.xmm[8], regs->fpu.xmm[8], sizeof(image.xmm) / 2);
	memset(image.unused, 0, sizeof(image.unused));
	regs->fpu = image;
	set_fcw(&regs->fpu, image.fcw);
	return 0;
}

/* ---- XSAVE and XRSTOR ---- */

enum { XSAVE_MXCSR = 24, XSAVE_ST = 32, XSAVE_XMM = 160, XSAVE_BV = 512, XSAVE_YMM_HIGH = 576 };
#define XSAVE_HEADER_ZERO 8  /* bytes from here in the header */
#define XSAVE_HEADER_END  24 /* to here must be 0 */

static unsigned vector_count(bool legacy)
{
	return legacy ? 8 : 16;
}

static bool any_high(const struct hostop_regs *regs)
{
	static const uint8_t none[sizeof(regs->ymm_high)];

	return memcmp(regs->ymm_high, none, sizeof(none)) != 0;
}

void hostop_xsave(const struct hostop_regs *regs, uint8_t *image, uint64_t mask, bool wide,
		  bool legacy)
{
	uint64_t in_use = HOSTOP_XCR0_X87 | HOSTOP_XCR0_SSE, there;
	struct hostop_fpu fpu = regs->fpu;

	fpu.reserved0 = 0;
	fpu.mxcsr_mask = HOSTOP_MXCSR_MASK;
	if (!wide) {
		fpu.fip = (uint32_t)fpu.fip;
		fpu.fdp = (uint32_t)fpu.fdp;
	}
	for (unsigned i = 0; i < 8; i++)
		memset(fpu.st[i] + 10, 0, 6);
	if (mask & HOSTOP_XCR0_X87) {
		memcpy(image, &fpu, XSAVE_MXCSR);
		memcpy(image + XSAVE_ST, fpu.st, sizeof(fpu.st));
	}
	if (mask & (HOSTOP_XCR0_SSE | HOSTOP_XCR0_AVX))
		memcpy(image + XSAVE_MXCSR, &fpu.mxcsr, 8);
	if (mask & HOSTOP_XCR0_SSE)
		memcpy(image + XSAVE_XMM, fpu.xmm, vector_count(legacy) * 16);
	if (mask & HOSTOP_XCR0_AVX)
		memcpy(image + XSAVE_YMM_HIGH, regs->ymm_high, vector_count(legacy) * 16);
	if (any_high(regs))
		in_use |= HOSTOP_XCR0_AVX;
	memcpy(&there, image + XSAVE_BV, 8);
	there = (there & ~mask) | (in_use & mask);
	memcpy(image + XSAVE_BV, &there, 8);
}

static void restore_x87(struct hostop_fpu *fpu, const struct hostop_fpu *from, bool wide)
{
	fpu->fsw = from->fsw;
	fpu->ftw = from->ftw;
	fpu->fop = from->fop & 0x7ff;
	fpu->fip = wide ? from->fip : (uint32_t)from->fip;
	fpu->fdp = wide ? from->fdp : (uint32_t)from->fdp;
	memcpy(fpu->st, from->st, sizeof(fpu->st));
	for (unsigned i = 0; i < 8; i++)
		memset(fpu->st[i] + 10, 0, 6);
	set_fcw(fpu, from->fcw);
}

static void reset_x87(struct hostop_fpu *fpu)
{
	x87_init(fpu);
	memset(fpu->st, 0, sizeof(fpu->st));
}

static void restore_vectors(uint8_t to[16][16], const uint8_t *from, bool there, bool legacy)
{
	if (there)
		memcpy(to, from, vector_count(legacy) * 16);
	else
		memset(to, 0, vector_count(legacy) * 16);
}

bool hostop_xrstor(struct hostop_regs *regs, const uint8_t *image, uint64_t mask, uint64_t xcr0,
		   bool wide, bool legacy)
{
	struct hostop_fpu from;
	uint64_t there;

	memcpy(&from, image, sizeof(from));
	memcpy(&there, image + XSAVE_BV, 8);
	if (there & ~xcr0)
		return false;
	for (unsigned i = XSAVE_HEADER_ZERO; i < XSAVE_HEADER_END; i++)
		if (image[XSAVE_BV + i])
			return false;
	if (mask & (HOSTOP_XCR0_SSE | HOSTOP_XCR0_AVX)) {
		if (from.mxcsr & ~HOSTOP_MXCSR_MASK)
			return false;
		regs->fpu.mxcsr = from.mxcsr;
	}
	if (mask & there & HOSTOP_XCR0_X87)
		restore_x87(&regs->fpu, &from, wide);
	else if (mask & HOSTOP_XCR0_X87)
		reset_x87(&regs->fpu);
	if (mask & HOSTOP_XCR0_SSE)
		restore_vectors(regs->fpu.xmm, image + XSAVE_XMM, there & HOSTOP_XCR0_SSE, legacy);
	if (mask & HOSTOP_XCR0_AVX)
		restore_vectors(regs->ymm_high, image + XSAVE_YMM_HIGH, there & HOSTOP_XCR0_AVX,
				legacy);
	return true;
}

hostop_fn *hostop_image_op(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT:
		return op_fninit;
	case ZYDIS_MNEMONIC_FNCLEX:
		return op_fnclex;
	case ZYDIS_MNEMONIC_FNSTSW:
		return op_fnstsw;
	case ZYDIS_MNEMONIC_FNSTCW:
		return op_fnstcw;
	case ZYDIS_MNEMONIC_FLDCW:
		return op_fldcw;
	case ZYDIS_MNEMONIC_FWAIT:
		return op_fwait;
	case ZYDIS_MNEMONIC_FNSTENV:
		return op_fnstenv;
	case ZYDIS_MNEMONIC_FLDENV:
		return op_fldenv;
	case ZYDIS_MNEMONIC_FNSAVE:
		return op_fnsave;
	case ZYDIS_MNEMONIC_FRSTOR:
		return op_frstor;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return op_nop;
	case ZYDIS_MNEMONIC_VZEROUPPER:
		return op_vzeroupper;
	case ZYDIS_MNEMONIC_VZEROALL:
		return op_vzeroall;
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return op_ldmxcsr;
	case ZYDIS_MNEMONIC_STMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR:
		return op_stmxcsr;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		return op_fxsave;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		return op_fxrstor;
	default:
		return NULL;
	}
}
