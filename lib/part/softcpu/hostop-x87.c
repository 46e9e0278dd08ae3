/*
 * The common x87 instructions, without a round trip of the whole image: if the control word is the
 * usual one (nothing unmasked, nearest, 64 bits), operands are there and a pushed register is free,
 * only the operands are loaded to the host's empty stack. Everything else takes hostop_run_x87.
 */
#include "part/softcpu/hostop-impl.h"

#include <string.h>

#define USUAL_FCW 0x037f

enum {
	FSW_EXCEPTIONS = 0x3f,
	FSW_C1 = 1 << 9,
	FSW_CONDITION = 0x4500, /* C0, C2, C3 */
	FSW_TOP = 7 << 11,
};

/* ---- the guest's stack ---- */

static bool is_full(const struct hostop_fpu *fpu, unsigned st)
{
	return fpu->ftw >> ((hostop_top(fpu) + st) & 7) & 1;
}

static void set_top(struct hostop_fpu *fpu, unsigned top)
{
	fpu->fsw = (uint16_t)((fpu->fsw & ~FSW_TOP) | (top & 7) << 11);
}

/* ST(0) becomes what the caller puts there. */
static void push(struct hostop_fpu *fpu)
{
	memmove(fpu->st[1], fpu->st[0], 7 * 16);
	set_top(fpu, hostop_top(fpu) - 1);
	fpu->ftw |= (uint8_t)(1u << hostop_top(fpu));
}

/* The register keeps its content, as physical registers do. */
static void pop(struct hostop_fpu *fpu)
{
	uint8_t popped[16];

	memcpy(popped, fpu->st[0], 16);
	memmove(fpu->st[0], fpu->st[1], 7 * 16);
	memcpy(fpu->st[7], popped, 16);
	fpu->ftw &= (uint8_t) ~(1u << hostop_top(fpu));
	set_top(fpu, hostop_top(fpu) + 1);
}

/* ---- running ---- */

static bool is_plain(const struct hostop_fpu *fpu, const struct hostop *op)
{
	unsigned flags = op->x87.flags;

	return fpu->fcw == USUAL_FCW && (!(flags & X87_NEEDS_ST0) || is_full(fpu, 0)) &&
	       (!(flags & X87_NEEDS_STI) || is_full(fpu, op->x87.index)) &&
	       (!(flags & X87_PUSHES) || !is_full(fpu, 7));
}

static unsigned run_light(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	struct hostop_fpu *fpu = &regs->fpu;
	unsigned flags = op->x87.flags, taken = 0, status;

	if (!is_plain(fpu, op))
		return hostop_run_x87(regs, mem, op);
	if (flags & X87_PUSHES)
		push(fpu);
	status = op->light(regs, mem, op);
	if (!(flags & X87_KEEPS_C1))
		taken |= FSW_C1;
	if (flags & X87_CONDITION)
		taken |= FSW_CONDITION;
	fpu->fsw = (uint16_t)((fpu->fsw & ~taken) | (status & (taken | FSW_EXCEPTIONS)));
	if (flags & (X87_POPS | X87_POPS_TWO))
		pop(fpu);
	if (flags & X87_POPS_TWO)
		pop(fpu);
	hostop_note_x87(regs, op);
	return 0;
}

static unsigned run_fld_register(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	struct hostop_fpu *fpu = &regs->fpu;
	uint8_t value[16];

	if (!is_plain(fpu, op))
		return hostop_run_x87(regs, mem, op);
	memcpy(value, fpu->st[op->x87.index], 16);
	push(fpu);
	memcpy(fpu->st[0], value, 16);
	fpu->fsw &= (uint16_t)~FSW_C1;
	hostop_note_x87(regs, op);
	return 0;
}

static unsigned run_fstp_register(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	struct hostop_fpu *fpu = &regs->fpu;

	if (!is_plain(fpu, op))
		return hostop_run_x87(regs, mem, op);
	memmove(fpu->st[op->x87.index], fpu->st[0], 16);
	fpu->ftw |= (uint8_t)(1u << ((hostop_top(fpu) + op->x87.index) & 7));
	fpu->fsw &= (uint16_t)~FSW_C1;
	pop(fpu);
	hostop_note_x87(regs, op);
	return 0;
}

static unsigned run_fxch(struct hostop_regs *regs, void *mem, const struct hostop *op)
{
	struct hostop_fpu *fpu = &regs->fpu;
	uint8_t value[16];

	if (!is_plain(fpu, op))
		return hostop_run_x87(regs, mem, op);
	memcpy(value, fpu->st[op->x87.index], 16);
	memcpy(fpu->st[op->x87.index], fpu->st[0], 16);
	memcpy(fpu->st[0], value, 16);
	fpu->fsw &= (uint16_t)~FSW_C1;
	hostop_note_x87(regs, op);
	return 0;
}

/* ---- describing ---- */

enum kind {
	HEAVY,
	LOAD,    /* pushes a constant or a memory operand */
	STORE,   /* to memory */
	UNARY,   /* on ST(0) */
	BINARY,  /* ST(0) or ST(i) from both, or ST(0) and memory */
	COMPARE, /* ST(0) with ST(i) or memory */
	TEST,    /* ST(0) with 0 */
};

struct form {
	enum kind kind;
	uint8_t pops;
};

static struct form form_of(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FLD:
	case ZYDIS_MNEMONIC_FILD:
	case ZYDIS_MNEMONIC_FLD1:
	case ZYDIS_MNEMONIC_FLDL2E:
	case ZYDIS_MNEMONIC_FLDL2T:
	case ZYDIS_MNEMONIC_FLDLG2:
	case ZYDIS_MNEMONIC_FLDLN2:
	case ZYDIS_MNEMONIC_FLDPI:
	case ZYDIS_MNEMONIC_FLDZ:
		return (struct form){ LOAD, 0 };
	case ZYDIS_MNEMONIC_FST:
	case ZYDIS_MNEMONIC_FIST:
		return (struct form){ STORE, 0 };
	case ZYDIS_MNEMONIC_FSTP:
	case ZYDIS_MNEMONIC_FISTP:
	case ZYDIS_MNEMONIC_FISTTP:
		return (struct form){ STORE, 1 };
	case ZYDIS_MNEMONIC_FABS:
	case ZYDIS_MNEMONIC_FCHS:
	case ZYDIS_MNEMONIC_FRNDINT:
	case ZYDIS_MNEMONIC_FSQRT:
		return (struct form){ UNARY, 0 };
	case ZYDIS_MNEMONIC_FTST:
		return (struct form){ TEST, 0 };
	case ZYDIS_MNEMONIC_FADD:
	case ZYDIS_MNEMONIC_FDIV:
	case ZYDIS_MNEMONIC_FDIVR:
	case ZYDIS_MNEMONIC_FIADD:
	case ZYDIS_MNEMONIC_FIDIV:
	case ZYDIS_MNEMONIC_FIDIVR:
	case ZYDIS_MNEMONIC_FIMUL:
	case ZYDIS_MNEMONIC_FISUB:
	case ZYDIS_MNEMONIC_FISUBR:
	case ZYDIS_MNEMONIC_FMUL:
	case ZYDIS_MNEMONIC_FSUB:
	case ZYDIS_MNEMONIC_FSUBR:
		return (struct form){ BINARY, 0 };
	case ZYDIS_MNEMONIC_FADDP:
	case ZYDIS_MNEMONIC_FDIVP:
	case ZYDIS_MNEMONIC_FDIVRP:
	case ZYDIS_MNEMONIC_FMULP:
	case ZYDIS_MNEMONIC_FSUBP:
	case ZYDIS_MNEMONIC_FSUBRP:
		return (struct form){ BINARY, 1 };
	case ZYDIS_MNEMONIC_FCOM:
	case ZYDIS_MNEMONIC_FCOMI:
	case ZYDIS_MNEMONIC_FICOM:
	case ZYDIS_MNEMONIC_FUCOM:
	case ZYDIS_MNEMONIC_FUCOMI:
		return (struct form){ COMPARE, 0 };
	case ZYDIS_MNEMONIC_FCOMIP:
	case ZYDIS_MNEMONIC_FCOMP:
	case ZYDIS_MNEMONIC_FICOMP:
	case ZYDIS_MNEMONIC_FUCOMIP:
	case ZYDIS_MNEMONIC_FUCOMP:
		return (struct form){ COMPARE, 1 };
	case ZYDIS_MNEMONIC_FCOMPP:
	case ZYDIS_MNEMONIC_FUCOMPP:
		return (struct form){ COMPARE, 2 };
	default:
		return (struct form){ HEAVY, 0 };
	}
}

static uint8_t pop_flags(unsigned pops)
{
	return pops == 2 ? X87_POPS_TWO : pops == 1 ? X87_POPS : 0;
}

/* What stays on the host's stack of the loaded registers. */
static uint8_t drops(unsigned loaded, unsigned popped)
{
	return loaded - popped == 2 ? LIGHT_DROP_TWO : loaded - popped == 1 ? LIGHT_DROP_LAST : 0;
}

/* One operand is ST(index), which becomes ST(1) on the host's stack. */
static void describe_registers(struct hostop *op, struct code_recipe *recipe)
{
	op->rm = (uint16_t)(offsetof(struct hostop_regs, fpu.st) + op->x87.index * 16u);
	op->x87.flags |= X87_NEEDS_STI;
	if (op->x87.index) {
		recipe->light |= LIGHT_LOAD_STI;
		recipe->insn[1] |= 1;
	}
}

static bool describe_binary(const struct form *form, bool has_registers, struct hostop *op,
			    struct code_recipe *recipe)
{
	bool to_sti = has_registers && recipe->insn[0] != 0xd8 && op->x87.index;

	if (form->pops && !op->x87.index)
		return false;
	recipe->light |= LIGHT_LOAD_ST0 | (to_sti ? LIGHT_STORE_STI : LIGHT_STORE_ST0);
	if (to_sti && !form->pops)
		recipe->light |= LIGHT_DROP_FIRST;
	if (!to_sti && has_registers && op->x87.index)
		recipe->light |= LIGHT_DROP_LAST;
	return true;
}

/* FCOMI and its relatives set RFLAGS instead. */
static bool sets_rflags(const ZydisDecodedInstruction *insn)
{
	return insn->cpu_flags && insn->cpu_flags->modified;
}

static bool describe_kind(const ZydisDecodedInstruction *insn, const struct form *form,
			  bool has_registers, struct hostop *op, struct code_recipe *recipe)
{
	unsigned loaded = has_registers && op->x87.index ? 2 : 1;

	switch (form->kind) {
	case LOAD:
		recipe->light |= LIGHT_STORE_ST0;
		op->x87.flags |= X87_PUSHES;
		return true;
	case STORE:
		recipe->light |= LIGHT_LOAD_ST0 | drops(1, form->pops);
		break;
	case UNARY:
		recipe->light |= LIGHT_LOAD_ST0 | LIGHT_STORE_ST0;
		break;
	case TEST:
		recipe->light |= LIGHT_LOAD_ST0 | LIGHT_DROP_LAST;
		op->x87.flags |= X87_CONDITION;
		break;
	case COMPARE:
		if (form->pops > loaded)
			return false;
		recipe->light |= LIGHT_LOAD_ST0 | drops(loaded, form->pops);
		op->x87.flags |= sets_rflags(insn) ? X87_KEEPS_C1 : X87_CONDITION;
		break;
	default:
		if (!describe_binary(form, has_registers, op, recipe))
			return false;
		break;
	}
	op->x87.flags |= X87_NEEDS_ST0;
	return true;
}

/* Moves between registers need no host instruction. */
static hostop_fn *register_move(ZydisMnemonic mnemonic, struct hostop *op)
{
	op->x87.flags = X87_NEEDS_STI;
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_FLD:
		op->x87.flags |= X87_PUSHES;
		return run_fld_register;
	case ZYDIS_MNEMONIC_FXCH:
		op->x87.flags |= X87_NEEDS_ST0;
		return run_fxch;
	case ZYDIS_MNEMONIC_FSTP:
		op->x87.flags = X87_NEEDS_ST0;
		return run_fstp_register;
	default:
		return NULL;
	}
}

static bool takes_register(const ZydisDecodedInstruction *insn, const struct form *form)
{
	return insn->raw.modrm.mod == 3 && (form->kind == BINARY || form->kind == COMPARE);
}

bool hostop_x87_describe(const ZydisDecodedInstruction *insn, struct hostop *op,
			 struct code_recipe *recipe)
{
	const struct ZydisDecodedInstructionModRm_ *m = &insn->raw.modrm;
	struct form form = form_of(insn->mnemonic);
	bool has_registers = takes_register(insn, &form);
	bool is_register = m->mod == 3, has_index = is_register && form.kind != UNARY;

	op->x87.flags = 0;
	op->x87.index = has_index ? m->rm : 0;
	if (is_register && (insn->opcode & 0xfb) == 0xd9 && m->reg <= 3) {
		op->run = register_move(insn->mnemonic, op);
		return op->run != NULL;
	}
	if (form.kind == HEAVY || (is_register && form.kind == STORE))
		return false;
	recipe->light = LIGHT;
	recipe->length = 2;
	recipe->insn[0] = insn->opcode;
	/* Operands: [RSI], ST(1) or none. */
	recipe->insn[1] = (uint8_t)(is_register ? 0xc0 | m->reg << 3 | (has_registers ? 0 : m->rm)
						: m->reg << 3 | 6);
	if (has_registers)
		describe_registers(op, recipe);
	if (!describe_kind(insn, &form, has_registers, op, recipe))
		return false;
	op->x87.flags |= pop_flags(form.pops);
	op->run = run_light;
	return true;
}
