/*
 * The state of translating one block, shared by translate.c, translate-insn.c and translate-flow.c.
 */
#ifndef PART_SOFTCPU_TRANSLATE_GEN_H
#define PART_SOFTCPU_TRANSLATE_GEN_H

#include "part/softcpu/translate.h"

#include <Zydis/Zydis.h>

/* What translating one instruction may take, with its slow paths, and a block around them. */
#define INSN_CODE_MAX  704u
#define BLOCK_CODE_MAX 512u

enum xl_kind {
	XL_INTERPRET, /* by the interpreter's handler */
	XL_NOTHING,
	XL_SECOND_PAGE, /* no instruction: the next one's end is on another page, if it is mapped */
	XL_PLAIN,       /* itself, with other registers and another address */
	XL_X87,
	XL_X87_FLDCW,
	XL_LDMXCSR,
	XL_DIVIDE,
	XL_PUSH,
	XL_POP,
	XL_LEAVE_FRAME,
	XL_STRING, /* MOVS, STOS, LODS: translate-string.c */
	XL_JCC,
	XL_LOOP, /* or JRCXZ */
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
	XL_FROM_SEG,
	XL_FROM_CR,
	XL_READ_BASE,
	XL_WRITE_BASE,
	XL_TSC,
	XL_SYSCALL, /* these are translate-entry.c's */
	XL_SYSRET,
	XL_BIT_STRING, /* translate-bits.c's */
	XL_END,        /* the block ends before this: no instruction */
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

/* A general register without one of the host's. */
static inline bool in_vp(const struct xl_operand *o)
{
	return o->class == OPERAND_GPR && host_gpr(o->number) == H_NONE;
}

/* The same of operands as struct uop has them. */
#define OFF_GPR(number) ((number)*8u)
static inline bool off_is_gpr(unsigned off)
{
	return off < OFF_GPR(16);
}

static inline bool off_in_vp(unsigned off)
{
	return off_is_gpr(off) && host_gpr(off / 8u) == H_NONE;
}

struct xl_insn {
	struct uop *u;
	ZydisMnemonic mnemonic;
	uint8_t kind; /* enum xl_kind */
	uint8_t len;
	uint16_t off;
	uint32_t use, kill, live; /* arithmetic flags, RF_*; live: after it */
	uint32_t live_taken;      /* of a branch that is passed: at its target */
	bool writes_flags, sse, mmx, avx;
	bool x87_control; /* leaves FIP, FOP and FDP alone */
	struct opcode op;
	bool modrm, plus_r;
	uint8_t extension;              /* ModRM.reg where that is part of the opcode */
	struct xl_operand reg, rm, vex; /* vex: of VEX.vvvv */
	uint8_t mem_size;               /* 0: no memory operand; LEA has none */
	bool mem_read, mem_write, mem_aligned;
	uint8_t imm_len, imm[8];
	int32_t rel;                /* XL_JCC, XL_JMP: the target, from the next instruction */
	uint16_t writes;            /* general registers, a bit each */
	struct access_group *group; /* its access to memory belongs to it, or NULL; */
	int64_t group_at;           /* where, as group.from */
	bool chained; /* its look-up, or its group's, is foretold (translate-chain.c) */
};

/* What the address of x's memory operand must be a multiple of; 0: anything will do. */
static inline uint8_t alignment(const struct xl_insn *x)
{
	return x->mem_aligned ? x->mem_size : 0;
}

/* How a linear address is made, but for a constant; as in struct uop. seg 0: one without a base. */
struct access_key {
	uint8_t base, index, scale, seg;
};

/* An access to memory, as groups see it. */
struct access {
	struct access_key key;
	int64_t disp;
	unsigned size;
	bool write;
	uint8_t align; /* 0: it need not be aligned */
};

/* Accesses that are looked up together, all or none (translate-group.c). */
struct access_group {
	const struct xl_insn *first, *last; /* the first looks it up */
	struct access_key key;
	uint8_t slot;     /* in vp.groups */
	uint8_t align;    /* of the lowest byte, for SSE and AVX; 0: any */
	bool passed;      /* there was a branch since its first */
	int64_t from, to; /* relative to what the registers give before the first */
	int64_t at;       /* how far they have moved since, while groups are looked for */
	unsigned count, stores;
	/* Of a loop's fast body (translate-loop.c): looked up before it. var: the register that is
	 * not what it was then, or OFF_ZERO, as index with that scale; step: how far an iteration
	 * moves the address; table: var is an index that is bounded. */
	bool hoisted, table;
	uint8_t var, var_scale;
	int64_t step;
};

/* Its place in the VP. */
#define GROUP_HOST(s)  (VP_FIELD(groups) + (uint32_t)sizeof(struct sc_group) * (s)->slot)
#define GROUP_FLAGS(s) (GROUP_HOST(s) + (uint32_t)offsetof(struct sc_group, flags))

/* Where the guest's flags are, as far as anybody will read them. */
enum flags_place { FLAGS_NOWHERE, FLAGS_HOST, FLAGS_VP, FLAGS_BOTH };

/* What the last x87 instruction was, as long as the VP's FIP and FOP don't say so yet. */
struct x87_note {
	bool pending;
	uint16_t off, fop; /* of the instruction in the block; its opcode */
};

/* A small table (translate-table.c). */
struct table {
	unsigned base, index; /* as in struct uop */
	int64_t middle;       /* the way there from the base; fits into 32 bits */
	bool bounded;         /* no element lies further from the middle than a few pages */
	/* Not 0: it lies on two pages, from this index on on the second, if the first element still
	 * is at first_off in its page. */
	uint32_t second, first_off;
};

/* A slow path, emitted behind the block. */
struct cold {
	uint8_t *from[8]; /* rel32 of the jumps to it */
	unsigned from_count;
	const uint8_t *back, *call;
	uint32_t site;
	bool rcx_saved;      /* in vp.scratch[3] */
	struct x87_note x87; /* to be written first */
	/* Whose host address goes to SCRATCH0 before the call, and after it, or NULL. */
	const struct access_group *stored, *held;
	struct xl_insn *stored_by; /* the last instruction that did */
	/* Before all that, for the first again_count jumps: again_insn's address has been compared
	 * with the wrong entry of the TLB. With the right one it goes on at `again`, where a load
	 * of that size from that table is done. */
	const uint8_t *again;
	unsigned again_count, again_size;
	struct xl_insn *again_insn;
	struct table table;
	struct xl_exit *exit; /* instead of a call: where it goes on */
	bool passed;          /* that is where a branch leads that is passed */
	/* Not 0: where in the VP something was foretold wrongly (translate-chain.c); `again` makes
	 * the address anew. */
	uint32_t foretold;
	struct uop place;
	uint8_t *found;     /* where never_compare() would write */
	uint8_t *attention; /* rel32 of a jump that isn't to follow its link, or NULL */
};

/* A jump at the block's end that vp.guesses is asked about (translate-guess.c). */
struct guess {
	const struct xl_insn *load; /* of its target, from a table; NULL: there is no such jump */
	uint8_t index;              /* the host register that has the index until then; */
	bool hold;                  /* not longer, so that it must be held */
	bool held;                  /* in SCRATCH1 */
};

/* A block that leads back to its beginning (translate-loop.c). */
struct loop {
	bool there;      /* with a fast body */
	bool looking_up; /* before it: slow jumps lead to the usual body, */
	uint8_t *fail[2 * LOOP_GROUPS];
	unsigned fail_count;
	bool fast; /* that one is being made */
	struct access_group groups[LOOP_GROUPS];
	unsigned group_count;
	struct access_group *of[BLOCK_MAX_INSNS + 1]; /* by instruction, or NULL */
	unsigned counter; /* as in struct uop: a register that moves by counter_step, or OFF_ZERO */
	int64_t counter_step;
	const uint8_t *entry, *body;
};

struct gen {
	struct vp *c;
	struct translator *t;
	struct block *b;
	struct xl *xl;
	struct emitter e;
	struct xl_insn insns[BLOCK_MAX_INSNS + 1];
	unsigned count;
	struct access_group groups[BLOCK_MAX_INSNS];
	unsigned group_count;
	const struct access_group *held; /* whose host address is in SCRATCH0, or NULL */
	/* Groups, by slot, with stores after which nothing has looked at the page's flags. */
	unsigned unseen;
	const struct access_group *unseen_group[GROUP_SLOTS];
	bool apart;           /* slow jumps go on in the block that begins here and has no groups */
	uint32_t live_out[2]; /* at the end's successors: not taken, taken */
	enum flags_place flags;
	bool sse_ready; /* the guest's SSE registers are loaded here, */
	bool avx_ready; /* the upper halves of its YMM registers, too, */
	bool x87_ready; /* its x87 registers */
	struct x87_note x87;
	struct cold colds[4 * BLOCK_MAX_INSNS + 8];
	unsigned cold_count;
	struct cold *slow; /* of the instruction being translated */
	struct guess guess;
	struct loop loop;
	uint32_t tlb;           /* offset of the TLB in the VP */
	struct uop place;       /* whose address was made last, */
	const uint8_t *address; /* and where that code begins */
	bool full;              /* no room for tables */
	bool movable;           /* it may be copied: */
	struct xl_move moves[16 * BLOCK_MAX_INSNS];
	unsigned move_count;
};

/* translate-decode.c: fills x from the bytes of an instruction; kind is XL_INTERPRET if nothing
 * else fits. key: of the block. False: these bytes are no instruction. */
bool xl_decode(struct vp *c, unsigned key, const uint8_t *code, size_t len, struct xl_insn *x);
/* The same of one that Zydis decoded. */
void xl_describe(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
		 const uint8_t *code, struct xl_insn *ret);

/* Memory beside the code, in a row for one block; NULL, and g->full, if there is none. */
void *gen_data(struct gen *g, size_t size);
/* What is emitted next, or, of that size, was emitted last, is different in a copy. */
void gen_moves(struct gen *g, enum xl_move_kind kind);
void gen_moved(struct gen *g, enum xl_move_kind kind, unsigned size);
/* Behind the opcode of a jump or call to shared code. */
void gen_shared(struct gen *g, const uint8_t *code);
/* A linear address that depends on the block's; no flags change. */
void gen_mov_va(struct gen *g, unsigned host, uint64_t va);
/* Which shared code: whether code behind a call of C expects SSE or x87 registers to be loaded
 * still. */
unsigned gen_reload(const struct gen *g);
/* Calls C for a site, through that shared code; SCRATCH1 is lost. */
void gen_call_c(struct gen *g, uint32_t site, const uint8_t *call);

/* translate-x87.c */
void gen_x87(struct gen *g, struct xl_insn *x);
/* Writes FIP and FOP, if they are pending; SCRATCH1 is lost, flags are kept. */
void gen_x87_note(struct gen *g, struct x87_note *note);

/* The second byte of vp.rf has IF and DF. */
#define RF_HIGH (VP_FIELD(rf) + 1)
#define HIGH_IF 0x02
#define HIGH_DF 0x04

/* translate-system.c. False: not one of its kinds; else x's kind and flags are set. */
bool xl_classify_system(const struct gen *g, struct xl_insn *x);
void gen_system(struct gen *g, struct xl_insn *x);
void gen_need_cpl0(struct gen *g, struct xl_insn *x);
/* The host register, which is not SCRATCH1: that one is lost. */
void gen_need_canonical(struct gen *g, struct xl_insn *x, unsigned host);

/* translate-entry.c: SYSCALL and SYSRET. */
bool xl_classify_entry(const struct gen *g, struct xl_insn *x);
void gen_entry(struct gen *g, struct xl_insn *x);

/* translate-bits.c: BT and its kin with a register as index into memory. */
bool xl_classify_bits(struct xl_insn *x);
void gen_bits(struct gen *g, struct xl_insn *x);

/* translate-string.c. x->kind becomes XL_INTERPRET where it can't do it. */
void xl_classify_string(const struct gen *g, struct xl_insn *x);
void gen_string(struct gen *g, struct xl_insn *x);

/* translate-insn.c. x is one of g->insns. */
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
/* SCRATCH0: linear address; becomes the host address. SCRATCH1: index of the TLB entry. align: what
 * the address must be a multiple of, or 0. */
void gen_translate(struct gen *g, struct xl_insn *x, unsigned size, bool write, unsigned align);
/* The host register that holds a guest register for reading; scratch is used if it is in the VP. */
unsigned gen_get(struct gen *g, unsigned guest, unsigned scratch);
/* What x, which is in no group, loads: the parts of its host address. spare: SCRATCH1 may be one.
 */
struct host_mem gen_load(struct gen *g, struct xl_insn *x, unsigned size, bool spare);
/* For emit_cold: once more, by the address's own page; goes on at k->again if it is there. */
void gen_load_again(struct gen *g, const struct cold *k);
/* Address of x's memory operand to SCRATCH0; flags are lost if a segment has a base. */
void gen_address(struct gen *g, struct xl_insn *x);
/* To SCRATCH0: the way from the guest's addresses to the host's, by the entry of the TLB of which
 * SCRATCH1 is the index, or by the one behind it. */
void gen_way(struct gen *g, bool behind);
/* SCRATCH1, the entry's index, becomes the address of the page's flags. */
void gen_page_flags(struct gen *g);

/* Leaves for another translation, behind the block: the jump to that comes first. */
struct cold *gen_cold_exit(struct gen *g, struct xl_exit *exit);

/* translate-group.c */
void find_access_groups(struct gen *g);
/* x's access was looked up by another: it keeps the host's flags and has no slow path. */
static inline bool keeps_flags(const struct xl_insn *x)
{
	return x->group && x->group->first != x;
}
/* Where on the host the operand of x is, which belongs to a group. SCRATCH0 is part of it. */
struct host_mem gen_group_access(struct gen *g, struct xl_insn *x);
/* The group's host address to SCRATCH0. */
void gen_group_host(struct gen *g, const struct access_group *s);
/* x has stored to its group: the page's flags must be looked at. */
void gen_group_stored(struct gen *g, struct xl_insn *x);
/* After x, when next comes (NULL: the block may be left): looks at them where it is time. */
void gen_look_at_stores(struct gen *g, struct xl_insn *x, const struct xl_insn *next);

/* False: it has none that groups could take. */
bool access_of(const struct gen *g, const struct xl_insn *x, struct access *ret);
/* What x, which writes the register, adds to it; false: nobody knows. */
bool access_movement(const struct xl_insn *x, unsigned reg, int64_t *ret);
/* Whether the access fits into the group. */
bool extend_group(struct access_group *s, const struct access *a);

/* translate-loop.c: after find_access_groups. */
void find_loop(struct gen *g);
void gen_loop_block(struct gen *g);
void gen_loop_again(struct gen *g);
/* With the group's host address in SCRATCH0. */
struct host_mem gen_loop_access(struct gen *g, const struct xl_insn *x);

static inline uint64_t next_va(const struct gen *g, const struct xl_insn *x)
{
	return g->xl->va + x->off + x->len;
}

/* Where a direct branch leads. */
static inline uint64_t target_va(const struct gen *g, const struct xl_insn *x)
{
	return (next_va(g, x) + (uint64_t)(int64_t)x->u->imm) & g->c->rip_mask;
}

/* Whether the block ends with a branch to its own beginning. */
static inline bool leads_to_itself(const struct gen *g)
{
	const struct xl_insn *last = &g->insns[g->count - 1];

	return last->kind == XL_JCC && target_va(g, last) == g->xl->va;
}

/* translate-chain.c: after find_access_groups. */
void find_chained(struct gen *g);
/* Where SCRATCH1 is the index of the TLB's entry, which is the right one: makes it the way from the
 * guest's address to the host's, and SCRATCH0 the guest's address once more. */
void gen_foretold(struct gen *g, struct xl_insn *x);
void gen_foretold_wrong(struct gen *g, struct cold *k);

/* Whether registers that x needs must be loaded first, for which flags and scratch registers go. */
static inline bool loads_units(const struct gen *g, const struct xl_insn *x)
{
	return (x->sse && !g->sse_ready) || (x->mmx && !g->x87_ready) || (x->avx && !g->avx_ready);
}

/* Whether x, which is in no group, loads from one. */
bool find_table(const struct gen *g, const struct xl_insn *x, struct table *ret);
/* What the base (OFF_ZERO: none) is at x, and the most that the index can be there, as far as that
 * can be told before the block runs. */
bool table_base(const struct gen *g, const struct xl_insn *x, unsigned base, uint64_t *ret);
uint64_t table_most(const struct gen *g, const struct xl_insn *x, unsigned index);
/* Its address plus so much to a register. */
void gen_table_address(struct gen *g, const struct table *table, int64_t disp, unsigned to);
/* The load of the target of the computed jump or call at the block's end: an instruction before it,
 * or itself, or NULL: it isn't in the block. */
const struct xl_insn *target_load(const struct gen *g);

/* Where the 8 bytes at RSP plus disp are; without a group SCRATCH1 is the address of the page's
 * flags, for a write. */
struct host_mem gen_stack(struct gen *g, struct xl_insn *x, int32_t disp, bool write);
/* Around x's use of SCRATCH1 between gen_stack or the like and the end of its store. */
void gen_spare_scratch(struct gen *g, const struct xl_insn *x);
void gen_restore_scratch(struct gen *g, const struct xl_insn *x);
/* After x's store to what gen_stack gave. */
void gen_stack_stored(struct gen *g, struct xl_insn *x, enum xl_after after);
/* After a store to SCRATCH0, or to group, of size bytes: SCRATCH1 is the address of the page's
 * flags. size WRITTEN_BULK: vp.scratch[2] bytes.
 */
void gen_written(struct gen *g, struct xl_insn *x, unsigned size, enum xl_after after,
		 const struct access_group *group);
/* Ends the slow path of x: translated code goes on here. */
void gen_slow_end(struct gen *g);
/* Pushes a constant or register (H_NONE: the constant), without gen_written. */
uint32_t gen_site(struct gen *g, const struct xl_insn *x, enum xl_after after, bool with_uop);

/* Whether x is a branch, not the last instruction: where it isn't taken the next one comes. */
static inline bool is_passed(const struct gen *g, const struct xl_insn *x)
{
	return x->kind == XL_JCC && x != &g->insns[g->count - 1];
}

/* translate-flow.c */
void gen_flow(struct gen *g, struct xl_insn *x);
/* SCRATCH0: target; SCRATCH1 becomes the index of its entry in vp.jumps of that privilege. Without
 * one, or with something to be looked at first, the handler does it all. */
void gen_find_jump(struct gen *g, struct xl_insn *x, bool user);
void emit_cmp_attention(struct emitter *e);
/* The address of the field in the entry that SCRATCH1 is the index of. */
#define JUMP_FIELD(user, field)                                                                    \
	AT_GS_REG(SCRATCH1, VP_FIELD(jumps) + ((user) ? sizeof(((struct vp *)0)->jumps[0]) : 0) +  \
				(uint32_t)offsetof(struct sc_jump, field))

/* translate-guess.c */
struct guessed {
	unsigned target;   /* host register: where the guest jumps to */
	uint8_t *wrong[3]; /* rel32 of jumps */
	const uint8_t *go; /* the code is in SCRATCH1 */
};
void find_guess(struct gen *g);
/* Behind guess.load, if it takes the index away. */
void gen_hold_index(struct gen *g);
/* With g->guess.load, and held if it must be; SCRATCH0 is lost. */
void gen_guess(struct gen *g, struct guessed *ret);
/* Code that is jumped to: the guess is wrong, another way must be found; sometimes it is x's
 * handler that does so, and better is guessed from then on. */
void gen_guess_wrong(struct gen *g, struct xl_insn *x, const struct guessed *guessed);

/* From x on, what the block does without groups; gen_exit_apart is the code. */
struct xl_exit *new_exit_apart(struct gen *g, const struct xl_insn *x);
void gen_exit_apart(struct gen *g, struct xl_exit *exit, uint8_t *attention);
/* The rest of a branch that goes straight to its target (translate-flow.c); what is emitted behind
 * the block for it. */
void gen_exit_passed(struct gen *g, struct xl_exit *exit);
/* Code that is jumped to leaves for the block's beginning, by C code each time. */
void gen_exit_on_attention(struct gen *g, uint8_t *from, uint64_t va);
/* Whether the block's second page is mapped as it was. */
void gen_second_page(struct gen *g, struct xl_insn *x);
/* Goes on at the block's end, which is no branch. */
void gen_fall_through(struct gen *g, uint64_t va);

#endif
