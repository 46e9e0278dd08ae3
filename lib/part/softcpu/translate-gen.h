/*
 * The state of translating one block, shared by translate.c, translate-insn.c and translate-flow.c.
 */
#ifndef PART_SOFTCPU_TRANSLATE_GEN_H
#define PART_SOFTCPU_TRANSLATE_GEN_H

#include "part/softcpu/translate.h"

#include <Zydis/Zydis.h>

/* What translating one instruction may take, with its slow paths, and a block around them. */
#define INSN_CODE_MAX  512u
#define BLOCK_CODE_MAX 512u

enum xl_kind {
	XL_INTERPRET, /* by the interpreter's handler */
	XL_NOTHING,
	XL_PLAIN, /* itself, with other registers and another address */
	XL_X87,
	XL_X87_FLDCW,
	XL_DIVIDE,
	XL_PUSH,
	XL_POP,
	XL_LEAVE_FRAME,
	XL_JCC,
	XL_JMP,
	XL_CALL,
	XL_RET,
	XL_JMP_COMPUTED,
	XL_CALL_COMPUTED,
	XL_CLI, /* these are translate-system.c's */
	XL_STI,
	XL_CLD,
	XL_SWAPGS,
	XL_PUSHF,
	XL_PUSH_MEMORY,
	XL_END, /* the block ends before this: no instruction */
};

enum operand_class {
	OPERAND_ABSENT,
	OPERAND_GPR,
	OPERAND_HIGH,
	OPERAND_XMM,
	OPERAND_MMX,
	OPERAND_ST
};

struct xl_operand {
	uint8_t class;  /* enum operand_class */
	uint8_t number; /* the guest's; OPERAND_HIGH: 4..7 as encoded */
	uint8_t size;   /* bytes */
	bool read, write;
};

struct xl_insn {
	struct uop *u;
	ZydisMnemonic mnemonic;
	uint8_t kind; /* enum xl_kind */
	uint8_t len;
	uint16_t off;
	uint32_t use, kill, live; /* arithmetic flags, RF_*; live: after it */
	bool writes_flags, sse, mmx;
	bool x87_control; /* leaves FIP, FOP and FDP alone */
	struct opcode op;
	bool modrm, plus_r;
	uint8_t extension; /* ModRM.reg where that is part of the opcode */
	struct xl_operand reg, rm;
	uint8_t mem_size; /* 0: no memory operand; LEA has none */
	bool mem_read, mem_write, mem_aligned;
	uint8_t imm_len, imm[8];
	int32_t rel;               /* XL_JCC, XL_JMP: the target, from the next instruction */
	struct stack_group *stack; /* its access to the stack belongs to it, or NULL */
};

/* Accesses relative to RSP in a row that are looked up together, all or none. */
struct stack_group {
	const struct xl_insn *first; /* which looks it up */
	int32_t from, to;            /* relative to RSP before the first */
	unsigned count;
	bool write;
};

/* Where the guest's flags are, as far as anybody will read them. */
enum flags_place { FLAGS_NOWHERE, FLAGS_HOST, FLAGS_VP, FLAGS_BOTH };

/* What the last x87 instruction was, as long as the VP's FIP and FOP don't say so yet. */
struct x87_note {
	bool pending;
	uint16_t off, fop; /* of the instruction in the block; its opcode */
};

/* A slow path, emitted behind the block. */
struct cold {
	uint8_t *from[6]; /* rel32 of the jumps to it */
	unsigned from_count;
	const uint8_t *back, *call;
	uint32_t site;
	bool rcx_saved;      /* in vp.scratch[3] */
	struct x87_note x87; /* to be written first */
};

struct gen {
	struct vp *c;
	struct translator *t;
	struct block *b;
	struct xl *xl;
	struct emitter e;
	struct xl_insn insns[BLOCK_MAX_INSNS + 1];
	unsigned count;
	struct stack_group stacks[BLOCK_MAX_INSNS];
	unsigned stack_count;
	bool rest;            /* slow jumps go on with the interpreter to the end of the block */
	uint32_t live_out[2]; /* at block.chain's successors */
	enum flags_place flags;
	bool sse_ready; /* the guest's SSE registers are loaded here, */
	bool x87_ready; /* its x87 registers */
	struct x87_note x87;
	struct cold colds[2 * BLOCK_MAX_INSNS + 4];
	unsigned cold_count;
	struct cold *slow; /* of the instruction being translated */
	uint32_t tlb;      /* offset of the TLB in the VP */
	bool full;         /* no room for tables */
};

/* translate-decode.c: fills x from the bytes of an instruction; kind is XL_INTERPRET if nothing
 * else fits. key: of the block. False: these bytes are no instruction. */
bool xl_decode(struct vp *c, unsigned key, const uint8_t *code, size_t len, struct xl_insn *x);
/* The same of one that Zydis decoded. */
void xl_describe(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
		 const uint8_t *code, struct xl_insn *ret);

/* translate-x87.c */
void gen_x87(struct gen *g, struct xl_insn *x);
/* Writes FIP and FOP, if they are pending; SCRATCH1 is lost, flags are kept. */
void gen_x87_note(struct gen *g, struct x87_note *note);

/* translate-system.c. False: not one of its kinds; else x's kind and flags are set. */
bool xl_classify_system(struct xl_insn *x);
void gen_system(struct gen *g, struct xl_insn *x);

/* translate-insn.c */
void gen_insn(struct gen *g, struct xl_insn *x);
void gen_interpret(struct gen *g, struct xl_insn *x);
/* The guest's x87 registers are in the host's from here on. */
void gen_load_x87(struct gen *g, struct xl_insn *x);
/* Flags that the instruction itself needs are in the host's; and what it leaves there. */
void gen_flags_for(struct gen *g, const struct xl_insn *x);
void gen_flags_after(struct gen *g, const struct xl_insn *x);
/* Flags that must survive until before x's own work. */
static inline uint32_t live_before(const struct xl_insn *x)
{
	return (x->live & ~x->kill) | x->use;
}
/* Before code that destroys the host's flags; what of them is live is in the VP then. */
void gen_flags_lost(struct gen *g, uint32_t live);
void gen_flags_wanted(struct gen *g);               /* in the host's flags */
void gen_flags_to_vp(struct gen *g, uint32_t live); /* for C code */
/* The slow path of x (its handler) gets another jump to it: rel32 to be set. */
void gen_slow_jump(struct gen *g, struct xl_insn *x, uint8_t *from);
/* SCRATCH0: linear address; becomes the host address. SCRATCH1: index of the TLB entry. */
void gen_translate(struct gen *g, struct xl_insn *x, unsigned size, bool write, bool aligned);
/* Address of x's memory operand to SCRATCH0; flags are lost if a segment has a base. */
void gen_address(struct gen *g, struct xl_insn *x);
/* SCRATCH1, the entry's index, becomes the address of the page's flags. */
void gen_page_flags(struct gen *g);

/* translate-stack.c */
void find_stack_groups(struct gen *g);
/* The flags that are in the host's survive x's access. */
static inline bool keeps_flags(const struct xl_insn *x)
{
	return x->stack && x->stack->first != x;
}
/* As gen_translate and, for a write, gen_page_flags, for an address relative to RSP. */
void gen_translate_stack(struct gen *g, struct xl_insn *x, int32_t disp, unsigned size, bool write);
/* After a store to SCRATCH0 of size bytes: SCRATCH1 is the address of the page's flags. */
void gen_written(struct gen *g, struct xl_insn *x, unsigned size, enum xl_after after);
/* Ends the slow path of x: translated code goes on here. */
void gen_slow_end(struct gen *g);
/* Pushes a constant or register (H_NONE: the constant), without gen_written. */
uint32_t gen_site(struct gen *g, const struct xl_insn *x, enum xl_after after, bool with_uop);

/* translate-flow.c */
void gen_flow(struct gen *g, struct xl_insn *x);
/* Goes on at the block's end, which is no branch. */
void gen_fall_through(struct gen *g, uint64_t va);

#endif
