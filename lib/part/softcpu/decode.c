/*
 * From guest code to micro-operations. Zydis decodes an instruction; emit() picks the handler by
 * mnemonic and operand forms; known.c keeps what comes of it. What isn't in the guest's CPUID
 * becomes #UD here, or its legacy meaning by the decoder's mode (F3 0F BC is BSF, not TZCNT).
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"
#include "part/softcpu/known.h"
#include "part/softcpu/zydis.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPERANDS ZYDIS_MAX_OPERAND_COUNT
#define MAX_UOPS     (BLOCK_MAX_INSNS * (2 + HOSTOP_UOPS) + 2)
#define WINDOW       256u /* code bytes that one block may take */

/* One instruction. */
struct decoder {
	struct vp *c;
	unsigned mode; /* enum sc_mode */
	bool flat;
	ZydisDecodedInstruction in;
	ZydisDecodedOperand op[MAX_OPERANDS];
	struct known_insn known; /* what becomes of it */
};

/* A block. */
struct builder {
	struct vp *c;
	unsigned key;
	struct uop uops[MAX_UOPS];
	unsigned count, insns;
	sc_fn *fusable;  /* what the uop before would be with a Jcc behind it, or NULL */
	unsigned passed; /* branches that the block goes on behind */
	bool end;        /* the last instruction ends the block by itself */
	bool comparable; /* as in struct block */
	uint32_t flags_set, flags_undefined;
};

/* [1] for guests that have LZCNT and TZCNT. */
static ZydisDecoder decoders[2][3];

int sc_decode_init(void)
{
	static const struct {
		ZydisMachineMode machine;
		ZydisStackWidth stack;
	} modes[3] = {
		[MODE_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[MODE_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};
	static const ZydisDecoderMode off[] = { ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CLDEMOTE,
						ZYDIS_DECODER_MODE_CET };

	for (unsigned i = 0; i < 6; i++) {
		ZydisDecoder *d = &decoders[i / 3][i % 3];

		if (!ZYAN_SUCCESS(ZydisDecoderInit(d, modes[i % 3].machine, modes[i % 3].stack)))
			return -1;
		for (unsigned k = 0; k < ARRAY_SIZE(off); k++)
			ZydisDecoderEnableMode(d, off[k], ZYAN_FALSE);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_LZCNT, i / 3);
		ZydisDecoderEnableMode(d, ZYDIS_DECODER_MODE_TZCNT, i / 3);
	}
	return 0;
}

static const ZydisDecoder *decoder_of(const struct sc_vm *vm, unsigned mode)
{
	return &decoders[vm->has[HOSTOP_FEATURE_LZCNT]][mode];
}

/* ---- operands ---- */

static uint8_t reg_offset(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH)
		return (uint8_t)((reg - ZYDIS_REGISTER_AH) * 8 + 1);
	return (uint8_t)(ZydisRegisterGetId(reg) * 8);
}

static bool is_gpr8(ZydisRegister reg)
{
	return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15B;
}

/* ZydisRegisterGetId counts AH..BH among the 8-bit registers. */
static uint8_t gpr_offset(ZydisRegister reg)
{
	if (!is_gpr8(reg))
		return reg_offset(reg);
	if (reg <= ZYDIS_REGISTER_BL)
		return (uint8_t)((reg - ZYDIS_REGISTER_AL) * 8);
	if (reg <= ZYDIS_REGISTER_BH)
		return (uint8_t)((reg - ZYDIS_REGISTER_AH) * 8 + 1);
	return (uint8_t)((reg - ZYDIS_REGISTER_SPL + 4) * 8);
}

static uint8_t seg_index(ZydisRegister reg)
{
	switch (reg) {
	case ZYDIS_REGISTER_ES:
		return PART_ES;
	case ZYDIS_REGISTER_CS:
		return PART_CS;
	case ZYDIS_REGISTER_SS:
		return PART_SS;
	case ZYDIS_REGISTER_FS:
		return PART_FS;
	case ZYDIS_REGISTER_GS:
		return PART_GS;
	default:
		return PART_DS;
	}
}

static uint8_t log2_size(unsigned bytes)
{
	uint8_t n = 0;

	while (bytes > 1) {
		bytes >>= 1;
		n++;
	}
	return n;
}

static unsigned size_log2(const ZydisDecodedOperand *op)
{
	return log2_size(op->size / 8);
}

/* Address size, and whether segmentation applies. */
static uint8_t address_kind(const struct decoder *d)
{
	uint8_t ea = 0;

	if (d->in.address_width == 16)
		ea |= EA_A16;
	else if (d->in.address_width == 32)
		ea |= EA_A32;
	if (d->mode != MODE_64)
		ea |= EA_SEG;
	return ea;
}

static void set_mem(const struct decoder *d, struct uop *u, const ZydisDecodedOperand *op)
{
	const ZydisDecodedOperandMem *m = &op->mem;

	u->rm = OFF_NONE;
	u->disp = m->disp.has_displacement ? m->disp.value : 0;
	if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP) {
		u->base = OFF_RIP;
		u->disp += u->len;
	} else if (m->base != ZYDIS_REGISTER_NONE) {
		u->base = gpr_offset(m->base);
	}
	if (m->index != ZYDIS_REGISTER_NONE) {
		u->index = gpr_offset(m->index);
		u->scale = log2_size(m->scale);
	}
	u->seg = seg_index(m->segment);
	u->ea = address_kind(d);
	if (d->flat && u->seg != PART_CS && u->seg != PART_FS && u->seg != PART_GS)
		u->ea &= (uint8_t)~EA_SEG;
	if (u->ea & EA_SEG) {
		u->ea |= (uint8_t)(log2_size(op->size / 8u) << EA_SIZE_SHIFT);
		if (op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
			u->ea |= EA_WRITE;
	}
}

static bool is_mem(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_MEMORY;
}

static bool is_reg(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

static bool is_imm(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

static void set_rm(const struct decoder *d, struct uop *u, const ZydisDecodedOperand *op)
{
	if (is_mem(op))
		set_mem(d, u, op);
	else
		u->rm = gpr_offset(op->reg.value);
}

static void set_imm(struct uop *u, const ZydisDecodedOperand *op)
{
	u->imm = (int32_t)op->imm.value.s;
}

static struct uop new_uop(const struct decoder *d)
{
	return (struct uop){
		.len = d->in.length,
		.size = (uint8_t)(d->in.operand_width / 8),
		.rm = OFF_NONE,
		.base = OFF_ZERO,
		.index = OFF_ZERO,
		.seg = d->mode == MODE_64 ? PART_SS : PART_DS,
		.ea = address_kind(d),
	};
}

static void add(struct decoder *d, struct uop u, sc_fn *fn)
{
	u.fn = fn;
	d->known.uops[0] = u;
	d->known.uop_count = 1;
}

/* fused: the handler that also does a Jcc in the next uop */
static void add_fusable(struct decoder *d, struct uop u, sc_fn *fn, sc_fn *fused)
{
	add(d, u, fn);
	d->known.fusable = fused;
}

static void add_end(struct decoder *d, struct uop u, sc_fn *fn)
{
	add(d, u, fn);
	d->known.end = true;
}

static void add_ud(struct decoder *d)
{
	struct uop u = new_uop(d);

	u.imm = VEC_UD;
	add_end(d, u, sc_raise_uop);
}

/* ---- groups of instructions ---- */

static bool locked(const struct decoder *d)
{
	return d->in.attributes & ZYDIS_ATTRIB_HAS_LOCK;
}

/* Fills the operands of a two-operand instruction; its form. */
static enum sc_form two_operands(const struct decoder *d, struct uop *u)
{
	const ZydisDecodedOperand *dst = &d->op[0], *src = &d->op[1];

	if (is_mem(dst)) {
		set_mem(d, u, dst);
		if (is_imm(src)) {
			set_imm(u, src);
			return FORM_MI;
		}
		u->reg = gpr_offset(src->reg.value);
		return FORM_MR;
	}
	if (is_mem(src)) {
		set_mem(d, u, src);
		u->reg = gpr_offset(dst->reg.value);
		return FORM_RM;
	}
	u->rm = gpr_offset(dst->reg.value);
	if (is_imm(src)) {
		set_imm(u, src);
		return FORM_RI;
	}
	u->reg = gpr_offset(src->reg.value);
	return FORM_RR;
}

static void emit_alu(struct decoder *d, enum sc_alu alu)
{
	struct uop u = new_uop(d);
	enum sc_form form = two_operands(d, &u);
	unsigned size = size_log2(&d->op[0]);

	if (locked(d))
		add(d, u, sc_alu_locked[alu][form == FORM_MI][size]);
	else
		add_fusable(d, u, sc_alu[alu][form][size], sc_alu_jcc[alu][form][size]);
}

static void emit_unary(struct decoder *d, enum sc_unary op)
{
	struct uop u = new_uop(d);

	set_rm(d, &u, &d->op[0]);
	if (is_mem(&d->op[0]))
		add(d, u, sc_unary[op][locked(d) ? 2 : 1][size_log2(&d->op[0])]);
	else
		add_fusable(d, u, sc_unary[op][0][size_log2(&d->op[0])],
			    sc_unary_jcc[op][size_log2(&d->op[0])]);
}

static void emit_shift(struct decoder *d, enum sc_shift op)
{
	struct uop u = new_uop(d);

	set_rm(d, &u, &d->op[0]);
	if (is_imm(&d->op[1]))
		set_imm(&u, &d->op[1]);
	else
		u.aux = 1;
	add(d, u, sc_shift[op][is_mem(&d->op[0])][size_log2(&d->op[0])]);
}

static void emit_shift_double(struct decoder *d, unsigned right)
{
	struct uop u = new_uop(d);

	set_rm(d, &u, &d->op[0]);
	u.reg = gpr_offset(d->op[1].reg.value);
	if (is_imm(&d->op[2]))
		set_imm(&u, &d->op[2]);
	else
		u.aux = 1;
	add(d, u, sc_shift_double[right][is_mem(&d->op[0])][size_log2(&d->op[0])]);
}

static int control_number(ZydisRegister reg)
{
	return ZydisRegisterGetId(reg);
}

/* MOV to and from control and debug registers. to: the special register is the destination. */
static void emit_mov_special(struct decoder *d, bool to, bool debug)
{
	struct uop u = new_uop(d);
	const ZydisDecodedOperand *special = &d->op[to ? 0 : 1], *gpr = &d->op[to ? 1 : 0];

	u.reg = (uint8_t)control_number(special->reg.value);
	u.rm = gpr_offset(gpr->reg.value);
	u.size = d->mode == MODE_64 ? 8 : 4;
	if (debug)
		to ? add_end(d, u, sc_mov_to_dr) : add(d, u, sc_mov_from_dr);
	else
		to ? add_end(d, u, sc_mov_to_cr) : add(d, u, sc_mov_from_cr);
}

static void emit_mov_seg(struct decoder *d, bool to)
{
	struct uop u = new_uop(d);

	u.reg = seg_index(d->op[to ? 0 : 1].reg.value);
	set_rm(d, &u, &d->op[to ? 1 : 0]);
	if (!to) {
		u.size = (uint8_t)(d->op[0].size / 8);
		add(d, u, sc_mov_from_seg);
	} else if (u.reg == PART_CS) {
		add_ud(d);
	} else {
		add_end(d, u, sc_mov_to_seg);
	}
}

static ZydisRegisterClass reg_class(const ZydisDecodedOperand *op)
{
	return is_reg(op) ? ZydisRegisterGetClass(op->reg.value) : ZYDIS_REGCLASS_INVALID;
}

static void emit_mov(struct decoder *d)
{
	struct uop u = new_uop(d);
	ZydisRegisterClass dst = reg_class(&d->op[0]), src = reg_class(&d->op[1]);
	enum sc_form form;

	if (dst == ZYDIS_REGCLASS_CONTROL || src == ZYDIS_REGCLASS_CONTROL) {
		emit_mov_special(d, dst == ZYDIS_REGCLASS_CONTROL, false);
	} else if (dst == ZYDIS_REGCLASS_DEBUG || src == ZYDIS_REGCLASS_DEBUG) {
		emit_mov_special(d, dst == ZYDIS_REGCLASS_DEBUG, true);
	} else if (dst == ZYDIS_REGCLASS_SEGMENT || src == ZYDIS_REGCLASS_SEGMENT) {
		emit_mov_seg(d, dst == ZYDIS_REGCLASS_SEGMENT);
	} else if (is_reg(&d->op[0]) && is_imm(&d->op[1]) && d->op[0].size == 64) {
		u.rm = gpr_offset(d->op[0].reg.value);
		u.disp = d->op[1].imm.value.s;
		add(d, u, sc_mov_ri64);
	} else {
		form = two_operands(d, &u);
		add(d, u, sc_mov[form][size_log2(&d->op[0])]);
	}
}

/* MOVZX, MOVSX, MOVSXD */
static void emit_extend(struct decoder *d, bool sign)
{
	struct uop u = new_uop(d);
	unsigned mem = is_mem(&d->op[1]), from = size_log2(&d->op[1]), to = size_log2(&d->op[0]);

	/* Of MOVSXD with a 16-bit target Intel's processors read 16 bits, AMD's 32. */
	if (from > to && !d->c->vm->amd)
		from = to;
	set_rm(d, &u, &d->op[1]);
	u.reg = gpr_offset(d->op[0].reg.value);
	add(d, u, sign ? sc_movsx[mem][from][to] : sc_movzx[mem][from][to]);
}

static void emit_lea(struct decoder *d)
{
	struct uop u = new_uop(d);

	set_mem(d, &u, &d->op[1]);
	u.reg = gpr_offset(d->op[0].reg.value);
	add(d, u, sc_lea[size_log2(&d->op[0])]);
}

/* reg op rm with rm as first or second operand: XCHG, XADD, CMPXCHG */
static void emit_exchange(struct decoder *d, sc_fn *const table[2][4])
{
	struct uop u = new_uop(d);
	bool swap = is_mem(&d->op[1]);
	const ZydisDecodedOperand *rm = &d->op[swap], *reg = &d->op[!swap];

	set_rm(d, &u, rm);
	if (u.ea & EA_SEG)
		u.ea |= EA_WRITE;
	u.reg = gpr_offset(reg->reg.value);
	add(d, u, table[is_mem(rm)][size_log2(rm)]);
}

/* reg is operand 0, rm operand 1 */
static struct uop reg_rm(struct decoder *d)
{
	struct uop u = new_uop(d);

	u.reg = gpr_offset(d->op[0].reg.value);
	set_rm(d, &u, &d->op[1]);
	u.size = (uint8_t)(d->op[0].size / 8);
	return u;
}

static void emit_imul(struct decoder *d)
{
	struct uop u;

	if (d->in.operand_count_visible == 1) {
		u = new_uop(d);
		set_rm(d, &u, &d->op[0]);
		u.aux = 1;
		add(d, u, sc_muldiv[is_mem(&d->op[0])][size_log2(&d->op[0])]);
		return;
	}
	u = reg_rm(d);
	if (d->in.operand_count_visible == 3) {
		set_imm(&u, &d->op[2]);
		add(d, u, sc_imul3[is_mem(&d->op[1])][size_log2(&d->op[0])]);
	} else {
		add(d, u, sc_imul2[is_mem(&d->op[1])][size_log2(&d->op[0])]);
	}
}

static void emit_muldiv(struct decoder *d, unsigned op)
{
	struct uop u = new_uop(d);

	set_rm(d, &u, &d->op[0]);
	u.aux = (uint8_t)op;
	add(d, u, sc_muldiv[is_mem(&d->op[0])][size_log2(&d->op[0])]);
}

static void emit_setcc(struct decoder *d, unsigned cc)
{
	struct uop u = new_uop(d);

	set_rm(d, &u, &d->op[0]);
	add(d, u, sc_setcc[cc][is_mem(&d->op[0])]);
}

static void emit_cmov(struct decoder *d, unsigned cc)
{
	struct uop u = reg_rm(d);

	add(d, u, sc_cmov[cc][is_mem(&d->op[1])][size_log2(&d->op[0])]);
}

static void emit_bt(struct decoder *d, unsigned op)
{
	struct uop u = new_uop(d);
	bool imm = is_imm(&d->op[1]);

	set_rm(d, &u, &d->op[0]);
	if (imm)
		set_imm(&u, &d->op[1]);
	else
		u.reg = gpr_offset(d->op[1].reg.value);
	add(d, u, sc_bt[op][imm][is_mem(&d->op[0])][size_log2(&d->op[0])]);
}

static void emit_bitscan(struct decoder *d, unsigned reverse)
{
	struct uop u = reg_rm(d);

	add(d, u, sc_bitscan[reverse][is_mem(&d->op[1])][size_log2(&d->op[0])]);
}

/* ---- stack ---- */

static void emit_push(struct decoder *d)
{
	struct uop u = new_uop(d);
	const ZydisDecodedOperand *op = &d->op[0];
	bool wide = d->mode == MODE_64 && d->in.operand_width == 64;

	if (reg_class(op) == ZYDIS_REGCLASS_SEGMENT) {
		u.reg = seg_index(op->reg.value);
		add(d, u, sc_push_seg);
	} else if (is_imm(op)) {
		set_imm(&u, op);
		u.aux = 1;
		add(d, u, wide ? sc_push64_i : sc_push);
	} else {
		set_rm(d, &u, op);
		add(d, u, !wide ? sc_push : is_mem(op) ? sc_push64_m : sc_push64_r);
	}
}

static void emit_pop(struct decoder *d)
{
	struct uop u = new_uop(d);
	const ZydisDecodedOperand *op = &d->op[0];
	bool wide = d->mode == MODE_64 && d->in.operand_width == 64;

	if (reg_class(op) == ZYDIS_REGCLASS_SEGMENT) {
		u.reg = seg_index(op->reg.value);
		add_end(d, u, sc_pop_seg);
		return;
	}
	set_rm(d, &u, op);
	add(d, u, wide && is_reg(op) ? sc_pop64_r : sc_pop);
}

static void emit_plain(struct decoder *d, sc_fn *fn)
{
	add(d, new_uop(d), fn);
}

static void emit_plain_end(struct decoder *d, sc_fn *fn)
{
	add_end(d, new_uop(d), fn);
}

/* PUSHF, POPF, PUSHA, POPA, LEAVE by the operand size of the mnemonic */
static void emit_sized(struct decoder *d, sc_fn *fn, unsigned size)
{
	struct uop u = new_uop(d);

	u.size = (uint8_t)size;
	add(d, u, fn);
}

static void emit_sized_end(struct decoder *d, sc_fn *fn, unsigned size)
{
	emit_sized(d, fn, size);
	d->known.end = true;
}

/* ---- branches ---- */

/* The 64-bit forms of Jcc and JMP do for flat 32-bit code, too. */
static bool fast_branch(const struct decoder *d)
{
	return d->mode == MODE_64;
}

static bool fast_direct(const struct decoder *d)
{
	return d->mode == MODE_64 || (d->flat && d->in.operand_width == 32);
}

static void emit_jump_if(struct decoder *d, unsigned cc)
{
	/* by cc >> 1; the low bit of cc negates */
	static const uint16_t masks[8] = { FL_OF, FL_CF, FL_ZF,   FL_CF | FL_ZF,
					   FL_SF, FL_PF, FL_LESS, FL_LESS | FL_ZF };
	struct uop u = new_uop(d);

	set_imm(&u, &d->op[0]);
	u.aux = (uint8_t)cc;
	u.disp = masks[cc >> 1];
	u.reg = CHAIN_END_TAKEN;
	u.index = 0;
	d->known.fuses = fast_direct(d);
	add_end(d, u, fast_direct(d) ? sc_jcc64[cc] : sc_jcc);
}

/* far in memory, far immediate, near register or memory, near relative */
static void emit_jump(struct decoder *d, bool call)
{
	struct uop u = new_uop(d);
	const ZydisDecodedOperand *op = &d->op[0];

	if (op->type == ZYDIS_OPERAND_TYPE_POINTER) {
		u.imm = op->ptr.segment;
		u.disp = op->ptr.offset;
		add_end(d, u, call ? sc_call_far : sc_jmp_far);
	} else if (d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
		set_mem(d, &u, op);
		add_end(d, u, call ? sc_call_far_m : sc_jmp_far_m);
	} else if (is_imm(op)) {
		set_imm(&u, op);
		if (call)
			add_end(d, u, fast_branch(d) ? sc_call64 : sc_call);
		else
			add_end(d, u, fast_direct(d) ? sc_jmp64 : sc_jmp);
	} else {
		set_rm(d, &u, op);
		if (!fast_branch(d))
			add_end(d, u, call ? sc_call_rm : sc_jmp_rm);
		else if (is_mem(op))
			add_end(d, u, call ? sc_call64_m : sc_jmp64_m);
		else
			add_end(d, u, call ? sc_call64_r : sc_jmp64_r);
	}
}

static void emit_ret(struct decoder *d)
{
	struct uop u = new_uop(d);

	if (is_imm(&d->op[0]) && d->in.operand_count_visible)
		u.imm = (uint16_t)d->op[0].imm.value.u;
	if (d->in.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		add_end(d, u, sc_ret_far);
	else
		add_end(d, u, fast_branch(d) ? sc_ret64 : sc_ret);
}

static void emit_loop(struct decoder *d, sc_fn *fn, unsigned condition)
{
	struct uop u = new_uop(d);

	set_imm(&u, &d->op[0]);
	u.aux = (uint8_t)condition;
	add_end(d, u, fn);
}

/* ---- strings ---- */

static void emit_string(struct decoder *d, enum sc_string op, unsigned size)
{
	struct uop u = new_uop(d);

	u.size = (uint8_t)size;
	u.seg = PART_DS;
	for (unsigned i = 0; i < d->in.operand_count; i++)
		if (is_mem(&d->op[i]) && (d->op[i].mem.base == ZYDIS_REGISTER_RSI ||
					  d->op[i].mem.base == ZYDIS_REGISTER_ESI ||
					  d->op[i].mem.base == ZYDIS_REGISTER_SI))
			u.seg = seg_index(d->op[i].mem.segment);
	if (d->in.attributes & ZYDIS_ATTRIB_HAS_REP)
		u.aux = STRING_REP;
	else if (d->in.attributes & ZYDIS_ATTRIB_HAS_REPE)
		u.aux = STRING_REPE;
	else if (d->in.attributes & ZYDIS_ATTRIB_HAS_REPNE)
		u.aux = op == STRING_CMPS || op == STRING_SCAS ? STRING_REPNE : STRING_REP;
	add(d, u, sc_string[op]);
}

/* ---- system ---- */

static void emit_operand(struct decoder *d, sc_fn *fn, bool end)
{
	struct uop u = new_uop(d);

	set_rm(d, &u, &d->op[0]);
	if (is_reg(&d->op[0]))
		u.size = (uint8_t)(d->op[0].size / 8);
	add(d, u, fn);
	d->known.end = end;
}

static void emit_io(struct decoder *d, bool out)
{
	struct uop u = new_uop(d);
	const ZydisDecodedOperand *data = &d->op[out ? 1 : 0], *port = &d->op[out ? 0 : 1];

	u.size = (uint8_t)(data->size / 8);
	if (is_imm(port))
		u.imm = (int32_t)port->imm.value.u;
	else
		u.aux = 1;
	out ? add_end(d, u, sc_out) : add(d, u, sc_in);
}

static void emit_far_load(struct decoder *d, enum part_seg seg)
{
	struct uop u = reg_rm(d);

	u.aux = (uint8_t)seg;
	add_end(d, u, sc_lds);
}

static void emit_fsgsbase(struct decoder *d, sc_fn *fn, enum part_seg seg)
{
	struct uop u = new_uop(d);

	if (d->mode != MODE_64 || !profile_has(d->c->vm->profile, PROFILE_7_EBX, 0)) {
		add_ud(d);
		return;
	}
	u.reg = seg;
	u.rm = gpr_offset(d->op[0].reg.value);
	u.size = (uint8_t)(d->op[0].size / 8);
	add(d, u, fn);
}

static void emit_imm(struct decoder *d, sc_fn *fn, bool end)
{
	struct uop u = new_uop(d);

	if (d->in.operand_count_visible && is_imm(&d->op[0]))
		set_imm(&u, &d->op[0]);
	add(d, u, fn);
	d->known.end = end;
}

static void emit_enter(struct decoder *d)
{
	struct uop u = new_uop(d);

	u.imm = (uint16_t)d->op[0].imm.value.u;
	u.aux = (uint8_t)d->op[1].imm.value.u;
	add(d, u, sc_enter);
}

static void emit_xlat(struct decoder *d)
{
	struct uop u = new_uop(d);

	u.base = PART_RBX * 8;
	u.seg = PART_DS;
	for (unsigned i = 0; i < d->in.operand_count; i++)
		if (is_mem(&d->op[i]))
			u.seg = seg_index(d->op[i].mem.segment);
	add(d, u, sc_xlat);
}

/* An instruction that the profile may hide: word and bit of the feature. */
static void emit_if(struct decoder *d, enum profile_word word, unsigned bit, sc_fn *fn)
{
	struct uop u = new_uop(d);

	if (!profile_has(d->c->vm->profile, word, bit)) {
		add_ud(d);
		return;
	}
	if (is_reg(&d->op[0]) && d->in.operand_count_visible)
		set_rm(d, &u, &d->op[0]);
	add(d, u, fn);
}

#define XSAVE_BIT 26

static void emit_xsave(struct decoder *d, sc_fn *fn, bool wide)
{
	struct uop u = new_uop(d);

	if (!profile_has(d->c->vm->profile, PROFILE_1_ECX, XSAVE_BIT)) {
		add_ud(d);
		return;
	}
	set_mem(d, &u, &d->op[0]);
	u.aux = wide;
	add(d, u, fn);
}

/* What no handler of ours is for: the host executes it, or it doesn't exist for this guest. */
static void emit_host(struct decoder *d)
{
	struct uop u = new_uop(d);
	struct hostop op;

	if (!hostop_prepare(d->c->vm->hostops, &d->in, d->op, &op) || !d->c->vm->has[op.feature]) {
		add_ud(d);
		return;
	}
	for (unsigned i = 0; op.mem_size && i < d->in.operand_count; i++)
		if (is_mem(&d->op[i])) {
			set_mem(d, &u, &d->op[i]);
			break;
		}
	add(d, u, sc_hostop);
	memcpy(&d->known.uops[1], &op, sizeof(op));
	d->known.uop_count = KNOWN_UOPS;
}

/* ---- AVX with masks ---- */

static unsigned vector_number(const ZydisDecodedOperand *op)
{
	return (unsigned)ZydisRegisterGetId(op->reg.value);
}

/* Destination, mask and source, of which one is memory. element: bytes. */
static void emit_masked(struct decoder *d, enum hostop_feature feature, unsigned element)
{
	bool store = is_mem(&d->op[0]);
	unsigned count = d->op[store ? 2 : 0].size / 8 / element;
	struct uop u = new_uop(d);

	if (!d->c->vm->has[feature]) {
		add_ud(d);
		return;
	}
	set_mem(d, &u, &d->op[store ? 0 : 2]);
	u.imm = AVX_OPERANDS(vector_number(&d->op[store ? 2 : 0]), vector_number(&d->op[1]),
			     element, count);
	add(d, u, store ? sc_masked_store : sc_masked_load);
}

/* Destination, memory and mask. The three vectors must be different. */
static void emit_gather(struct decoder *d, unsigned element, unsigned index_size)
{
	const ZydisDecodedOperandMem *m = &d->op[1].mem;
	unsigned reg = vector_number(&d->op[0]), mask = vector_number(&d->op[2]), index;
	unsigned bytes = d->in.raw.vex.L ? 32 : 16;
	ZydisDecodedOperand base = d->op[1];
	struct uop u = new_uop(d);

	if (!d->c->vm->has[HOSTOP_FEATURE_AVX2] || m->index == ZYDIS_REGISTER_NONE) {
		add_ud(d);
		return;
	}
	index = (unsigned)ZydisRegisterGetId(m->index);
	if (reg == mask || reg == index || mask == index) {
		add_ud(d);
		return;
	}
	base.mem.index = ZYDIS_REGISTER_NONE;
	set_mem(d, &u, &base);
	u.scale = log2_size(m->scale);
	u.imm = AVX_OPERANDS(reg, mask, element, bytes / MAX(element, index_size)) |
		AVX_GATHER(index, index_size);
	add(d, u, sc_gather);
}

static bool emit_avx(struct decoder *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
		emit_masked(d, HOSTOP_FEATURE_AVX, 4);
		break;
	case ZYDIS_MNEMONIC_VMASKMOVPD:
		emit_masked(d, HOSTOP_FEATURE_AVX, 8);
		break;
	case ZYDIS_MNEMONIC_VPMASKMOVD:
		emit_masked(d, HOSTOP_FEATURE_AVX2, 4);
		break;
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		emit_masked(d, HOSTOP_FEATURE_AVX2, 8);
		break;
	case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VGATHERDPS:
		emit_gather(d, 4, 4);
		break;
	case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VGATHERDPD:
		emit_gather(d, 8, 4);
		break;
	case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VGATHERQPS:
		emit_gather(d, 4, 8);
		break;
	case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VGATHERQPD:
		emit_gather(d, 8, 8);
		break;
	default:
		return false;
	}
	return true;
}

/* ---- the table of mnemonics ---- */

static bool emit_integer(struct decoder *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		emit_alu(d, ALU_ADD);
		break;
	case ZYDIS_MNEMONIC_OR:
		emit_alu(d, ALU_OR);
		break;
	case ZYDIS_MNEMONIC_ADC:
		emit_alu(d, ALU_ADC);
		break;
	case ZYDIS_MNEMONIC_SBB:
		emit_alu(d, ALU_SBB);
		break;
	case ZYDIS_MNEMONIC_AND:
		emit_alu(d, ALU_AND);
		break;
	case ZYDIS_MNEMONIC_SUB:
		emit_alu(d, ALU_SUB);
		break;
	case ZYDIS_MNEMONIC_XOR:
		emit_alu(d, ALU_XOR);
		break;
	case ZYDIS_MNEMONIC_CMP:
		emit_alu(d, ALU_CMP);
		break;
	case ZYDIS_MNEMONIC_TEST:
		emit_alu(d, ALU_TEST);
		break;
	case ZYDIS_MNEMONIC_INC:
		emit_unary(d, UNARY_INC);
		break;
	case ZYDIS_MNEMONIC_DEC:
		emit_unary(d, UNARY_DEC);
		break;
	case ZYDIS_MNEMONIC_NEG:
		emit_unary(d, UNARY_NEG);
		break;
	case ZYDIS_MNEMONIC_NOT:
		emit_unary(d, UNARY_NOT);
		break;
	case ZYDIS_MNEMONIC_ROL:
		emit_shift(d, SHIFT_ROL);
		break;
	case ZYDIS_MNEMONIC_ROR:
		emit_shift(d, SHIFT_ROR);
		break;
	case ZYDIS_MNEMONIC_RCL:
		emit_shift(d, SHIFT_RCL);
		break;
	case ZYDIS_MNEMONIC_RCR:
		emit_shift(d, SHIFT_RCR);
		break;
	case ZYDIS_MNEMONIC_SHL:
		emit_shift(d, SHIFT_SHL);
		break;
	case ZYDIS_MNEMONIC_SHR:
		emit_shift(d, SHIFT_SHR);
		break;
	case ZYDIS_MNEMONIC_SAR:
		emit_shift(d, SHIFT_SAR);
		break;
	case ZYDIS_MNEMONIC_SHLD:
		emit_shift_double(d, 0);
		break;
	case ZYDIS_MNEMONIC_SHRD:
		emit_shift_double(d, 1);
		break;
	case ZYDIS_MNEMONIC_MOV:
		emit_mov(d);
		break;
	case ZYDIS_MNEMONIC_MOVZX:
		emit_extend(d, false);
		break;
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
		emit_extend(d, true);
		break;
	case ZYDIS_MNEMONIC_LEA:
		emit_lea(d);
		break;
	case ZYDIS_MNEMONIC_XCHG:
		emit_exchange(d, sc_xchg);
		break;
	case ZYDIS_MNEMONIC_XADD:
		emit_exchange(d, sc_xadd);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG:
		emit_exchange(d, sc_cmpxchg);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG8B:
		emit_operand(d, sc_cmpxchg8b, false);
		break;
	case ZYDIS_MNEMONIC_CMPXCHG16B:
		d->c->vm->has[HOSTOP_FEATURE_CX16] ? emit_operand(d, sc_cmpxchg16b, false)
						   : add_ud(d);
		break;
	case ZYDIS_MNEMONIC_IMUL:
		emit_imul(d);
		break;
	case ZYDIS_MNEMONIC_MUL:
		emit_muldiv(d, 0);
		break;
	case ZYDIS_MNEMONIC_DIV:
		emit_muldiv(d, 2);
		break;
	case ZYDIS_MNEMONIC_IDIV:
		emit_muldiv(d, 3);
		break;
	case ZYDIS_MNEMONIC_BT:
		emit_bt(d, 0);
		break;
	case ZYDIS_MNEMONIC_BTS:
		emit_bt(d, 1);
		break;
	case ZYDIS_MNEMONIC_BTR:
		emit_bt(d, 2);
		break;
	case ZYDIS_MNEMONIC_BTC:
		emit_bt(d, 3);
		break;
	case ZYDIS_MNEMONIC_BSF:
		emit_bitscan(d, 0);
		break;
	case ZYDIS_MNEMONIC_BSR:
		emit_bitscan(d, 1);
		break;
	case ZYDIS_MNEMONIC_BSWAP:
		emit_operand(d, sc_bswap[size_log2(&d->op[0])], false);
		break;
	case ZYDIS_MNEMONIC_POPCNT:
		d->c->vm->has[HOSTOP_FEATURE_POPCNT] ? add(d, reg_rm(d), sc_popcnt) : add_ud(d);
		break;
	case ZYDIS_MNEMONIC_CBW:
		emit_plain(d, sc_cbw);
		break;
	case ZYDIS_MNEMONIC_CWDE:
		emit_plain(d, sc_cwde);
		break;
	case ZYDIS_MNEMONIC_CDQE:
		emit_plain(d, sc_cdqe);
		break;
	case ZYDIS_MNEMONIC_CWD:
		emit_plain(d, sc_cwd);
		break;
	case ZYDIS_MNEMONIC_CDQ:
		emit_plain(d, sc_cdq);
		break;
	case ZYDIS_MNEMONIC_CQO:
		emit_plain(d, sc_cqo);
		break;
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
		if (d->mode == MODE_64 && !d->c->vm->has[HOSTOP_FEATURE_LAHF64])
			add_ud(d);
		else
			emit_plain(d, d->in.mnemonic == ZYDIS_MNEMONIC_LAHF ? sc_lahf : sc_sahf);
		break;
	case ZYDIS_MNEMONIC_CLC:
		emit_plain(d, sc_clc);
		break;
	case ZYDIS_MNEMONIC_STC:
		emit_plain(d, sc_stc);
		break;
	case ZYDIS_MNEMONIC_CMC:
		emit_plain(d, sc_cmc);
		break;
	case ZYDIS_MNEMONIC_CLD:
		emit_plain(d, sc_cld);
		break;
	case ZYDIS_MNEMONIC_STD:
		emit_plain(d, sc_std);
		break;
	case ZYDIS_MNEMONIC_SALC:
		emit_plain(d, sc_salc);
		break;
	case ZYDIS_MNEMONIC_XLAT:
		emit_xlat(d);
		break;
	case ZYDIS_MNEMONIC_AAA:
		emit_plain(d, sc_aaa);
		break;
	case ZYDIS_MNEMONIC_AAS:
		emit_plain(d, sc_aas);
		break;
	case ZYDIS_MNEMONIC_DAA:
		emit_plain(d, sc_daa);
		break;
	case ZYDIS_MNEMONIC_DAS:
		emit_plain(d, sc_das);
		break;
	case ZYDIS_MNEMONIC_AAM:
		emit_imm(d, sc_aam, false);
		break;
	case ZYDIS_MNEMONIC_AAD:
		emit_imm(d, sc_aad, false);
		break;
	case ZYDIS_MNEMONIC_BOUND:
		add(d, reg_rm(d), sc_bound);
		break;
	case ZYDIS_MNEMONIC_ARPL: {
		struct uop u = new_uop(d);

		set_rm(d, &u, &d->op[0]);
		u.reg = gpr_offset(d->op[1].reg.value);
		add(d, u, sc_arpl);
		break;
	}
	default:
		return false;
	}
	return true;
}

/* Jcc, SETcc and CMOVcc by the low bits of their opcodes. */
static bool emit_conditional(struct decoder *d)
{
	unsigned cc = d->in.opcode & 15;

	switch (d->in.meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
		if (d->in.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (d->in.opcode & 0xf0) != 0x70)
			return false; /* LOOP, JCXZ */
		emit_jump_if(d, cc);
		return true;
	case ZYDIS_CATEGORY_SETCC:
		emit_setcc(d, cc);
		return true;
	case ZYDIS_CATEGORY_CMOV:
		emit_cmov(d, cc);
		return true;
	default:
		return false;
	}
}

static bool emit_flow(struct decoder *d)
{
	unsigned size = d->in.operand_width / 8;

	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_PUSH:
		emit_push(d);
		break;
	case ZYDIS_MNEMONIC_POP:
		emit_pop(d);
		break;
	case ZYDIS_MNEMONIC_PUSHA:
		emit_sized(d, sc_pusha, 2);
		break;
	case ZYDIS_MNEMONIC_PUSHAD:
		emit_sized(d, sc_pusha, 4);
		break;
	case ZYDIS_MNEMONIC_POPA:
		emit_sized(d, sc_popa, 2);
		break;
	case ZYDIS_MNEMONIC_POPAD:
		emit_sized(d, sc_popa, 4);
		break;
	case ZYDIS_MNEMONIC_PUSHF:
		emit_sized(d, sc_pushf, 2);
		break;
	case ZYDIS_MNEMONIC_PUSHFD:
		emit_sized(d, sc_pushf, 4);
		break;
	case ZYDIS_MNEMONIC_PUSHFQ:
		emit_sized(d, sc_pushf, 8);
		break;
	case ZYDIS_MNEMONIC_POPF:
		emit_sized_end(d, sc_popf, 2);
		break;
	case ZYDIS_MNEMONIC_POPFD:
		emit_sized_end(d, sc_popf, 4);
		break;
	case ZYDIS_MNEMONIC_POPFQ:
		emit_sized_end(d, sc_popf, 8);
		break;
	case ZYDIS_MNEMONIC_LEAVE:
		if (d->mode == MODE_64 && size == 8)
			emit_plain(d, sc_leave64);
		else
			emit_sized(d, sc_leave, size);
		break;
	case ZYDIS_MNEMONIC_ENTER:
		emit_enter(d);
		break;
	case ZYDIS_MNEMONIC_JMP:
		emit_jump(d, false);
		break;
	case ZYDIS_MNEMONIC_CALL:
		emit_jump(d, true);
		break;
	case ZYDIS_MNEMONIC_RET:
		emit_ret(d);
		break;
	case ZYDIS_MNEMONIC_LOOP:
		emit_loop(d, sc_loop, LOOP_ALWAYS);
		break;
	case ZYDIS_MNEMONIC_LOOPE:
		emit_loop(d, sc_loop, LOOP_ZERO);
		break;
	case ZYDIS_MNEMONIC_LOOPNE:
		emit_loop(d, sc_loop, LOOP_NOT_ZERO);
		break;
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JRCXZ:
		emit_loop(d, sc_jcxz, 0);
		break;
	case ZYDIS_MNEMONIC_INT:
		emit_imm(d, sc_int, true);
		break;
	case ZYDIS_MNEMONIC_INT3:
		emit_plain_end(d, sc_int3);
		break;
	case ZYDIS_MNEMONIC_INT1:
		emit_plain_end(d, sc_int1);
		break;
	case ZYDIS_MNEMONIC_INTO:
		emit_plain(d, sc_into);
		break;
	case ZYDIS_MNEMONIC_IRET:
		emit_sized_end(d, sc_iret_uop, 2);
		break;
	case ZYDIS_MNEMONIC_IRETD:
		emit_sized_end(d, sc_iret_uop, 4);
		break;
	case ZYDIS_MNEMONIC_IRETQ:
		emit_sized_end(d, sc_iret_uop, 8);
		break;
	case ZYDIS_MNEMONIC_SYSCALL:
		emit_plain_end(d, sc_syscall);
		break;
	case ZYDIS_MNEMONIC_SYSRET:
		emit_sized_end(d, sc_sysret,
			       d->in.attributes & ZYDIS_ATTRIB_HAS_REX && d->in.raw.rex.W ? 8 : 4);
		break;
	case ZYDIS_MNEMONIC_SYSENTER:
		emit_plain_end(d, sc_sysenter);
		break;
	case ZYDIS_MNEMONIC_SYSEXIT:
		emit_sized_end(d, sc_sysexit,
			       d->in.attributes & ZYDIS_ATTRIB_HAS_REX && d->in.raw.rex.W ? 8 : 4);
		break;
	default:
		return false;
	}
	return true;
}

#define STRING_CASES(name, op)                                                                     \
	case ZYDIS_MNEMONIC_##name##B:                                                             \
		emit_string(d, op, 1);                                                             \
		break;                                                                             \
	case ZYDIS_MNEMONIC_##name##W:                                                             \
		emit_string(d, op, 2);                                                             \
		break;                                                                             \
	case ZYDIS_MNEMONIC_##name##D:                                                             \
		emit_string(d, op, 4);                                                             \
		break

#define STRING_CASES_64(name, op)                                                                  \
	STRING_CASES(name, op);                                                                    \
	case ZYDIS_MNEMONIC_##name##Q:                                                             \
		emit_string(d, op, 8);                                                             \
		break

static bool emit_string_insn(struct decoder *d)
{
	/* MOVSD and CMPSD are SSE2's too */
	if (d->in.meta.isa_ext == ZYDIS_ISA_EXT_SSE2)
		return false;
	switch (d->in.mnemonic) {
		STRING_CASES_64(MOVS, STRING_MOVS);
		STRING_CASES_64(STOS, STRING_STOS);
		STRING_CASES_64(LODS, STRING_LODS);
		STRING_CASES_64(CMPS, STRING_CMPS);
		STRING_CASES_64(SCAS, STRING_SCAS);
		STRING_CASES(INS, STRING_INS);
		STRING_CASES(OUTS, STRING_OUTS);
	default:
		return false;
	}
	return true;
}

static bool emit_system(struct decoder *d)
{
	switch (d->in.mnemonic) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHWT1:
		emit_plain(d, sc_nop);
		break;
	case ZYDIS_MNEMONIC_PAUSE:
		emit_plain(d, sc_pause);
		break;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		emit_plain(d, sc_nop);
		break;
	case ZYDIS_MNEMONIC_MFENCE:
		emit_plain(d, sc_fence);
		break;
	case ZYDIS_MNEMONIC_CLI:
		emit_plain(d, sc_cli);
		break;
	case ZYDIS_MNEMONIC_STI:
		emit_plain(d, sc_sti);
		break;
	case ZYDIS_MNEMONIC_HLT:
		emit_plain_end(d, sc_hlt);
		break;
	case ZYDIS_MNEMONIC_IN:
		emit_io(d, false);
		break;
	case ZYDIS_MNEMONIC_OUT:
		emit_io(d, true);
		break;
	case ZYDIS_MNEMONIC_CPUID:
		emit_plain_end(d, sc_cpuid_uop);
		break;
	case ZYDIS_MNEMONIC_RDTSC:
		emit_plain(d, sc_rdtsc);
		break;
	case ZYDIS_MNEMONIC_RDTSCP:
		emit_if(d, PROFILE_81_EDX, 27, sc_rdtscp);
		break;
	case ZYDIS_MNEMONIC_RDPMC:
		emit_plain(d, sc_rdpmc);
		break;
	case ZYDIS_MNEMONIC_RDMSR:
		emit_plain_end(d, sc_rdmsr);
		break;
	case ZYDIS_MNEMONIC_WRMSR:
		emit_plain_end(d, sc_wrmsr);
		break;
	case ZYDIS_MNEMONIC_RDRAND:
		emit_if(d, PROFILE_1_ECX, 30, sc_rdrand);
		break;
	case ZYDIS_MNEMONIC_CLTS:
		emit_plain(d, sc_clts);
		break;
	case ZYDIS_MNEMONIC_SMSW:
		emit_operand(d, sc_smsw, false);
		break;
	case ZYDIS_MNEMONIC_LMSW:
		emit_operand(d, sc_lmsw, true);
		break;
	case ZYDIS_MNEMONIC_LGDT:
		emit_operand(d, sc_lgdt, true);
		break;
	case ZYDIS_MNEMONIC_LIDT:
		emit_operand(d, sc_lidt, true);
		break;
	case ZYDIS_MNEMONIC_SGDT:
		emit_operand(d, sc_sgdt, false);
		break;
	case ZYDIS_MNEMONIC_SIDT:
		emit_operand(d, sc_sidt, false);
		break;
	case ZYDIS_MNEMONIC_LLDT:
		emit_operand(d, sc_lldt, false);
		break;
	case ZYDIS_MNEMONIC_LTR:
		emit_operand(d, sc_ltr, false);
		break;
	case ZYDIS_MNEMONIC_SLDT:
		emit_operand(d, sc_sldt, false);
		break;
	case ZYDIS_MNEMONIC_STR:
		emit_operand(d, sc_str, false);
		break;
	case ZYDIS_MNEMONIC_LAR:
		add(d, reg_rm(d), sc_lar);
		break;
	case ZYDIS_MNEMONIC_LSL:
		add(d, reg_rm(d), sc_lsl);
		break;
	case ZYDIS_MNEMONIC_VERR:
		emit_operand(d, sc_verr, false);
		break;
	case ZYDIS_MNEMONIC_VERW:
		emit_operand(d, sc_verw, false);
		break;
	case ZYDIS_MNEMONIC_INVLPG:
		emit_operand(d, sc_invlpg, true);
		break;
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD:
		emit_plain(d, sc_invd);
		break;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
		emit_xsave(d, sc_xsave, d->in.mnemonic == ZYDIS_MNEMONIC_XSAVE64);
		break;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		emit_xsave(d, sc_xrstor, d->in.mnemonic == ZYDIS_MNEMONIC_XRSTOR64);
		break;
	case ZYDIS_MNEMONIC_XGETBV:
		emit_if(d, PROFILE_1_ECX, XSAVE_BIT, sc_xgetbv);
		break;
	case ZYDIS_MNEMONIC_XSETBV:
		emit_if(d, PROFILE_1_ECX, XSAVE_BIT, sc_xsetbv);
		break;
	case ZYDIS_MNEMONIC_CLFLUSH:
		emit_operand(d, sc_clflush, false);
		break;
	case ZYDIS_MNEMONIC_SWAPGS:
		d->mode == MODE_64 ? emit_plain(d, sc_swapgs) : add_ud(d);
		break;
	case ZYDIS_MNEMONIC_RDFSBASE:
		emit_fsgsbase(d, sc_rdfsgsbase, PART_FS);
		break;
	case ZYDIS_MNEMONIC_RDGSBASE:
		emit_fsgsbase(d, sc_rdfsgsbase, PART_GS);
		break;
	case ZYDIS_MNEMONIC_WRFSBASE:
		emit_fsgsbase(d, sc_wrfsgsbase, PART_FS);
		break;
	case ZYDIS_MNEMONIC_WRGSBASE:
		emit_fsgsbase(d, sc_wrfsgsbase, PART_GS);
		break;
	case ZYDIS_MNEMONIC_LDS:
		emit_far_load(d, PART_DS);
		break;
	case ZYDIS_MNEMONIC_LES:
		emit_far_load(d, PART_ES);
		break;
	case ZYDIS_MNEMONIC_LSS:
		emit_far_load(d, PART_SS);
		break;
	case ZYDIS_MNEMONIC_LFS:
		emit_far_load(d, PART_FS);
		break;
	case ZYDIS_MNEMONIC_LGS:
		emit_far_load(d, PART_GS);
		break;
	case ZYDIS_MNEMONIC_VMCALL:
		emit_plain_end(d, sc_hypercall);
		break;
	default:
		return false;
	}
	return true;
}

static void emit(struct decoder *d)
{
	bool legacy = d->in.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY;

	if (!legacy && d->in.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) {
		add_ud(d);
		return;
	}
	if (!legacy && emit_avx(d))
		return;
	if (legacy && (emit_integer(d) || emit_conditional(d) || emit_flow(d) ||
		       emit_string_insn(d) || emit_system(d)))
		return;
	emit_host(d);
}

/* Shifts and rotates may change nothing. */
static void note_flags(struct decoder *d)
{
	const ZydisAccessedFlags *f = d->in.cpu_flags;
	bool sets = d->in.meta.category != ZYDIS_CATEGORY_SHIFT &&
		    d->in.meta.category != ZYDIS_CATEGORY_ROTATE;

	if (!f)
		return;
	if (sets)
		d->known.flags_set = (f->modified | f->set_0 | f->set_1) & RF_ARITH;
	d->known.flags_undef = f->undefined & RF_ARITH;
}

static SC_COLD const struct known_insn *decode_one(struct vp *c, unsigned key, const uint8_t *code,
						   size_t length, ZyanStatus *ret_status)
{
	struct decoder d;
	struct known_insn *k = &d.known;

	*ret_status = zydis_decode_as(c->vm->amd, decoder_of(c->vm, key & KEY_MODE), code,
				      MIN(length, INSN_MAX_BYTES), &d.in, d.op);
	if (!ZYAN_SUCCESS(*ret_status))
		return NULL;
	d.c = c;
	d.mode = key & KEY_MODE;
	d.flat = key & KEY_FLAT;
	*k = (struct known_insn){ .used = true };
	emit(&d);
	note_flags(&d);
	k->rip_relative = k->uops[0].base == OFF_RIP;
	k->imm_is_disp = k->uops[0].fn == sc_mov_ri64;
	if (c->translator)
		xl_describe(&d.in, d.op, code, &k->insn);
	k->alone = c->lockstep && sc_lockstep_alone(&d.in, &k->insn);
	return known_add(c->known, key, code, length, &d.in, k);
}

const struct known_insn *sc_known_insn(struct vp *c, unsigned key, const uint8_t *code,
				       size_t length, ZyanStatus *ret_status)
{
	const struct known_insn *k = known_find(c->known, key, code, length);

	return likely(k) ? k : decode_one(c, key, code, length, ret_status);
}

/* ---- blocks ---- */

/* Code bytes for one block: to the end of the page, or, when an instruction straddles it, 15 bytes
 * of both pages. */
struct window {
	uint8_t bytes[WINDOW];
	unsigned len;
	bool to_page_end;
	bool watched; /* marked as code before it was read */
	uint64_t gpa2;
};

/* Bytes that aren't RAM come from the device that answers there (a ROM), one by one. */
static void read_code(struct vp *c, uint64_t gpa, uint8_t *dst, unsigned len)
{
	const uint8_t *host = sc_ram(c->vm, gpa);

	if (host) {
		memcpy(dst, host, len);
		return;
	}
	for (unsigned i = 0; i < len; i++)
		dst[i] = (uint8_t)c->vm->host.mmio_read(c->vm->host.user, c->index, gpa + i, 1);
}

static unsigned page_room(uint64_t gpa)
{
	return MEM_PAGE_SIZE - (unsigned)(gpa & (MEM_PAGE_SIZE - 1));
}

static void open_window(struct vp *c, uint64_t gpa, struct window *w)
{
	unsigned room = page_room(gpa), max = sc_ram(c->vm, gpa) ? WINDOW : 2 * INSN_MAX_BYTES;

	w->len = MIN(room, max);
	w->to_page_end = w->len == room;
	w->gpa2 = GPA_NONE;
	if (w->watched && sc_ram(c->vm, gpa))
		sc_mark_code(c, gpa, w->len);
	read_code(c, gpa, w->bytes, w->len);
}

/* The first instruction goes on in the next page, which may fault. */
static void extend_window(struct vp *c, uint64_t gpa, struct window *w)
{
	uint64_t va = c->segbase[PART_CS] + RIP(c) + page_room(gpa);
	struct uop here = { .off = 0, .seg = PART_CS };

	if (c->mode != MODE_64)
		va &= UINT32_MAX;
	w->gpa2 = sc_fetch_gpa(c, va, &here);
	if (w->watched && sc_ram(c->vm, w->gpa2))
		sc_mark_code(c, w->gpa2, INSN_MAX_BYTES);
	read_code(c, w->gpa2, w->bytes + w->len, INSN_MAX_BYTES);
	w->len += INSN_MAX_BYTES;
}

/* Bytes that are no instruction: what they raise. */
static void add_bad(struct builder *d, unsigned off, ZyanStatus status)
{
	struct uop u = { .fn = sc_raise_uop, .off = (uint16_t)off, .imm = VEC_UD };

	if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG) {
		u.imm = VEC_GP;
		u.aux = 1;
	}
	d->uops[d->count++] = u;
	d->end = true;
}

static void add_known(struct builder *d, const struct known_insn *k, const uint8_t *code,
		      unsigned off)
{
	if (k->fuses && d->fusable) {
		d->uops[d->count - 1].fn = d->fusable;
		d->uops[d->count - 1].aux = UOP_FUSED;
	}
	known_uops(k, code, off, &d->uops[d->count]);
	d->count += k->uop_count;
	d->fusable = k->fusable;
	d->end = k->end;
	/* The block may have been left before: what comes behind a passed branch sets none surely.
	 */
	if (!d->passed) {
		d->flags_set |= k->flags_set;
		d->flags_undefined &= ~(uint32_t)k->flags_set;
	}
	d->flags_undefined |= k->flags_undef;
	d->flags_set &= ~(uint32_t)k->flags_undef;
}

/* Behind how many instructions a branch is passed at most: what comes then has little left of the
 * block. */
#define PASS_INSNS (BLOCK_MAX_INSNS / 2)

/* The instruction before `at` has ended the block: it goes on nevertheless if that was a branch
 * forward on the same page. */
static void pass_branch(struct builder *d, uint64_t gpa, unsigned at)
{
	struct uop *u = &d->uops[d->count - 1];
	uint64_t target = (gpa & (MEM_PAGE_SIZE - 1)) + at + (uint64_t)(int64_t)u->imm;

	if (u->fn != sc_jcc64[u->aux & 15] || u->imm < 0 || target >= MEM_PAGE_SIZE ||
	    d->passed == BLOCK_MAX_PASSED || d->insns > PASS_INSNS)
		return;
	u->reg = CHAIN_PASSED_TAKEN(d->passed++);
	d->end = false;
}

/* Decodes instructions up to the end of the block; its length in bytes. */
static unsigned decode_bytes(struct builder *d, uint64_t gpa, struct window *w, unsigned max_insns)
{
	const struct known_insn *k;
	ZyanStatus status = 0;
	unsigned at = 0;

	while (!d->end && d->insns < max_insns) {
		k = sc_known_insn(d->c, d->key, w->bytes + at, w->len - at, &status);
		if (!k && status == ZYDIS_STATUS_NO_MORE_DATA && w->len - at < INSN_MAX_BYTES) {
			if (at || !w->to_page_end)
				break;
			extend_window(d->c, gpa, w);
			d->uops[d->count++] =
			    (struct uop){ .fn = sc_check_second_page, .seg = PART_CS };
			k = sc_known_insn(d->c, d->key, w->bytes, w->len, &status);
			max_insns = 1;
		}
		/* Undefined flags go from the translation to the interpreter between blocks. */
		if (k && unlikely(d->c->lockstep != NULL) && d->insns &&
		    k->insn.use & d->flags_undefined)
			break;
		if (k && unlikely(k->alone)) {
			if (d->insns)
				break;
			max_insns = 1;
			d->comparable = false;
		}
		if (k)
			add_known(d, k, w->bytes + at, at);
		else
			add_bad(d, at, status);
		at += k ? KNOWN_LENGTH(k->shape) : 1;
		d->insns++;
		if (d->end && d->insns < max_insns)
			pass_branch(d, gpa, at);
	}
	if (d->count && d->uops[d->count - 1].fn == sc_sti)
		d->uops[d->count - 1].aux = 1; /* its shadow reaches into the next block */
	if (!d->end)
		d->uops[d->count++] = (struct uop){ .fn = sc_block_end, .off = (uint16_t)at };
	return at;
}

/* Marks the code as decoded; false if it changed since it was read. */
static bool still_same(struct vp *c, uint64_t gpa, const struct window *w, unsigned len)
{
	uint8_t now[WINDOW];
	unsigned first = MIN(len, page_room(gpa));

	if (sc_ram(c->vm, gpa)) {
		sc_mark_code(c, gpa, first);
		read_code(c, gpa, now, first);
		if (memcmp(now, w->bytes, first) != 0)
			return false;
	}
	if (first < len && sc_ram(c->vm, w->gpa2)) {
		sc_mark_code(c, w->gpa2, len - first);
		read_code(c, w->gpa2, now, len - first);
		if (memcmp(now, w->bytes + first, len - first) != 0)
			return false;
	}
	return true;
}

static unsigned decode_block(struct builder *d, uint64_t gpa, struct window *w)
{
	d->count = d->insns = d->passed = 0;
	d->fusable = NULL;
	d->end = false;
	d->comparable = d->c->lockstep != NULL;
	d->flags_set = d->flags_undefined = 0;
	open_window(d->c, gpa, w);
	return decode_bytes(d, gpa, w, d->key & KEY_STEP ? 1 : BLOCK_MAX_INSNS);
}

struct block *sc_decode(struct vp *c, uint64_t gpa, unsigned key)
{
	struct builder d;
	struct window w = { .watched = false };
	struct block *b;
	unsigned len;

	d.c = c;
	d.key = key;
	len = decode_block(&d, gpa, &w);
	if (unlikely(!still_same(c, gpa, &w, len))) {
		/* Somebody writes there right now. What is marked before it is read may be written
		 * too, but then the block will be made stale. */
		w.watched = true;
		len = decode_block(&d, gpa, &w);
	}
	b = sc_block_alloc(c, d.count);
	b->gpa = gpa;
	b->gpa2 = len > page_room(gpa) ? w.gpa2 : GPA_NONE;
	b->len = (uint16_t)len;
	b->insns = (uint8_t)d.insns;
	b->key = (uint8_t)key;
	b->uop_count = (uint8_t)d.count;
	b->comparable = d.comparable;
	b->flags_set = (uint16_t)d.flags_set;
	b->flags_undefined = (uint16_t)d.flags_undefined;
	memcpy(b->uops, d.uops, d.count * sizeof(d.uops[0]));
	c->decoded_insns += d.insns;
	sc_block_insert(c, b);
	return b;
}
