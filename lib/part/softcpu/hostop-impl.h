/*
 * Between the parts of hostop: hostop.c classifies instructions, hostop-code.c generates and keeps
 * code, hostop-run.c runs what needs more than a jump (floating point, x87), hostop-image.c does
 * the instructions on FPU images in C.
 *
 * Host registers inside generated code: RDI = regs, RSI = mem, R10 = op, RAX RCX RDX R11 scratch.
 * The instruction's ModRM.reg operand becomes R8 or XMM1, the ModRM.rm (or opcode) operand R9 or
 * XMM2, that of VEX.vvvv RAX or XMM3, that of an immediate XMM4, its memory operand [RSI] ([RDI]
 * for MASKMOVDQU). Implicit operands stay what they are. Only instructions that touch MMX or x87
 * registers keep their MMX, ST and XMM numbers: they run between an FXRSTOR and an FXSAVE of the
 * guest's image.
 */
#ifndef PART_SOFTCPU_HOSTOP_IMPL_H
#define PART_SOFTCPU_HOSTOP_IMPL_H

#include "part/softcpu/hostop.h"

/* struct hostop, private_flags */
enum {
	HOSTOP_LEGACY_MODE = 1,  /* not in 64-bit mode: 8 XMM registers, no 64-bit FIP */
	HOSTOP_REAL_MODE = 2,    /* real mode layout of the x87 environment */
	HOSTOP_TINY_F16 = 4,     /* may underflow into a half, */
	HOSTOP_TINY_F32 = 16,    /* float, */
	HOSTOP_TINY_F64 = 32,    /* or double, destination; */
	HOSTOP_TINY_PACKED = 64, /* in every element, not only the lowest */
	HOSTOP_WIDE = 128,       /* FXSAVE64, FXRSTOR64 */
};

enum operand_kind {
	OPERAND_NONE,
	OPERAND_GPR,
	OPERAND_GPR8,
	OPERAND_XMM,
	OPERAND_YMM, /* of all VEX instructions: they clear what they don't write */
	OPERAND_IN_PLACE
};

enum {
	HOST_GPR_REG = 8,
	HOST_GPR_RM = 9,
	HOST_GPR_VEX = 0,
	HOST_XMM_REG = 1,
	HOST_XMM_RM = 2,
	HOST_XMM_VEX = 3,
	HOST_XMM_IS4 = 4
};

/* An operand that ModRM, the opcode, VEX.vvvv or an immediate names. */
struct code_operand {
	uint8_t kind; /* enum operand_kind */
	bool load, store;
};

/*
 * x87 instructions on one or two registers run light: on the host's own, otherwise empty x87 stack,
 * with only the operands loaded to it. Recipe flags: what is loaded before and stored after.
 */
enum {
	LIGHT = 1,
	LIGHT_LOAD_ST0 = 2,
	LIGHT_LOAD_STI = 4, /* below ST0; its offset is in op->rm */
	LIGHT_STORE_ST0 = 8,
	LIGHT_STORE_STI = 16,
	LIGHT_DROP_FIRST = 32, /* one register before the store, */
	LIGHT_DROP_LAST = 64,  /* one after it, */
	LIGHT_DROP_TWO = 128,  /* or two */
};

/* struct hostop, x87.flags */
enum {
	X87_NEEDS_ST0 = 1,
	X87_NEEDS_STI = 2,
	X87_PUSHES = 4,
	X87_POPS = 8,
	X87_POPS_TWO = 16,
	X87_CONDITION = 32, /* sets C0, C2 and C3 */
	X87_KEEPS_C1 = 64,  /* FCOMI; some processors clear it */
};

enum { IMPLICIT_RAX = 1, IMPLICIT_RCX = 2, IMPLICIT_RDX = 4, IMPLICIT_RBX = 8, IMPLICIT_XMM0 = 16 };

/* All that decides the generated code: two equal recipes share it. No padding: compared as bytes.
 */
struct code_recipe {
	uint8_t insn[15]; /* re-encoded for the host registers above */
	uint8_t length;
	struct code_operand reg, rm, vex, is4;
	uint8_t implicit_load, implicit_store; /* IMPLICIT_* */
	uint16_t flags_in, flags_out;          /* RFLAGS bits */
	bool fpu_image;                        /* between FXRSTOR and FXSAVE */
	bool mem_in_rdi;                       /* MASKMOV */
	bool vex_xmm0;    /* an implicit result in XMM0 clears the rest of YMM0 */
	bool check_mxcsr; /* a second entry that runs with the guest's MXCSR if that is plain */
	uint8_t light;    /* LIGHT_* */
	uint8_t unused;
};

struct code_entry {
	hostop_fn *code;  /* the bare operation */
	hostop_fn *plain; /* with check_mxcsr: falls back to hostop_run_fp; else as code */
};

/* False when the arena is full or there is no memory. */
bool hostop_code_get(struct hostop_arena *arena, const struct code_recipe *recipe,
		     struct code_entry *ret);

/* hostop-run.c */
hostop_fn hostop_run_fp;     /* SSE floating point under any MXCSR */
hostop_fn hostop_run_x87;    /* x87 and MMX */
hostop_fn hostop_run_mmx_fp; /* both: CVTPS2PI and its relatives */
/* FIP, FOP and FDP after an x87 instruction that isn't control. */
void hostop_note_x87(struct hostop_regs *regs, const struct hostop *op);

/* hostop-x87.c */
/* Whether the instruction can run light; fills recipe (but flags), op->x87, op->rm and op->run.
 * When op->run needs no generated code, recipe->light stays 0. */
bool hostop_x87_describe(const ZydisDecodedInstruction *insn, struct hostop *op,
			 struct code_recipe *recipe);

/* hostop-image.c: the instruction done in C, or NULL. */
hostop_fn *hostop_image_op(ZydisMnemonic mnemonic);
/* What every MMX instruction does first: TOP = 0, all registers valid. */
void hostop_enter_mmx(struct hostop_fpu *fpu);

static inline unsigned hostop_top(const struct hostop_fpu *fpu)
{
	return fpu->fsw >> 11 & 7;
}

#endif
