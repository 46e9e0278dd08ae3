/*
 * MOVS, STOS and LODS of 64-bit code, forward. Repeated ones work in chunks as the handlers' do: as
 * many elements as lie in one page of the source and one of the destination, both of which the TLB
 * has. The host executes the guest's instruction on them, with host addresses in RSI and RDI.
 * Everything else is the handler's, which goes on where the last chunk ended.
 *
 * The host's DF is always 0; the guest's, which is in the VP, must be, too.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

#define OPCODE_MOVS 0xa4
#define OPCODE_STOS 0xaa

/* As many are moved by a loop rather than by REP. */
#define LOOP_ELEMENTS 8

void xl_classify_string(const struct gen *g, struct xl_insn *x)
{
	const struct uop *u = x->u;
	bool movs = u->fn == sc_string[STRING_MOVS], lods = u->fn == sc_string[STRING_LODS];

	if (!(movs || lods || u->fn == sc_string[STRING_STOS]) || u->ea ||
	    (g->b->key & KEY_MODE) != MODE_64 || u->seg == PART_FS || u->seg == PART_GS ||
	    (lods && u->aux))
		x->kind = XL_INTERPRET;
}

static void gen_need_forward(struct gen *g, struct xl_insn *x)
{
	emit_rm(&g->e, OP(.op = 0xf6), 0, AT_GS(RF_HIGH)); /* test byte, imm */
	emit8(&g->e, HIGH_DF);
	gen_slow_jump(g, x, emit_jcc(&g->e, CC_NE));
}

/* The host address of the element at [reg] to SCRATCH0, as gen_translate. */
static void gen_element(struct gen *g, struct xl_insn *x, unsigned reg, bool write)
{
	emit_mov64(&g->e, SCRATCH0, reg);
	gen_translate(g, x, x->u->size, write, 0);
	if (write)
		gen_page_flags(g);
}

static void gen_advance(struct gen *g, const struct xl_insn *x, unsigned reg)
{
	emit_lea64(&g->e, reg, &(struct host_mem){ (uint8_t)reg, H_NONE, 0, false, x->u->size });
}

/* MOV between the register and [at]. */
static void emit_access(struct gen *g, const struct xl_insn *x, unsigned reg, unsigned at,
			bool write)
{
	unsigned size = x->u->size;
	struct opcode o = { .op = write ? 0x88 : 0x8a, .w = size == 8 };

	if (size > 1)
		o.op |= 1;
	if (size == 2)
		o.prefix = 0x66;
	emit_rm(&g->e, &o, reg, AT_REG((uint8_t)at));
}

/* ---- one element ---- */

static void gen_movs(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_element(g, x, H_RSI, false);
	emit_access(g, x, SCRATCH1, SCRATCH0, false);
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[1])));
	gen_element(g, x, H_RDI, true);
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[1])));
	emit_access(g, x, SCRATCH1, SCRATCH0, true);
	emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	gen_advance(g, x, H_RSI);
	gen_advance(g, x, H_RDI);
	gen_written(g, x, x->u->size, XL_GO_ON, NULL);
}

static void gen_stos(struct gen *g, struct xl_insn *x)
{
	gen_element(g, x, H_RDI, true);
	emit_access(g, x, H_RAX, SCRATCH0, true);
	gen_advance(g, x, H_RDI);
	gen_written(g, x, x->u->size, XL_GO_ON, NULL);
}

static void gen_lods(struct gen *g, struct xl_insn *x)
{
	gen_element(g, x, H_RSI, false);
	emit_access(g, x, H_RAX, SCRATCH0, false);
	gen_advance(g, x, H_RSI);
}

/* ---- repeated ---- */

/* How many elements from [reg] on lie in its page, to dst. */
static void gen_room(struct gen *g, const struct xl_insn *x, unsigned dst, unsigned reg)
{
	struct emitter *e = &g->e;

	emit_mov32(e, dst, reg);
	emit_rr(e, OP(.op = 0x81), ALU_OR, dst);
	emit32(e, (uint32_t)-MEM_PAGE_SIZE);
	emit_rr(e, OP(.op = 0xf7), 3, dst); /* neg */
	if (x->u->size > 1) {
		emit_rr(e, OP(.op = 0xc1), 5, dst); /* shr */
		emit8(e, (unsigned)__builtin_ctz(x->u->size));
	}
}

/* The elements of a chunk to vp.scratch[3], those that remain then to vp.scratch[2]. */
static void gen_chunk(struct gen *g, struct xl_insn *x, bool movs)
{
	struct emitter *e = &g->e;

	gen_room(g, x, SCRATCH0, H_RDI);
	if (movs) {
		gen_room(g, x, SCRATCH1, H_RSI);
		emit_rr(e, OP(.op = 0x39), SCRATCH0, SCRATCH1);                /* cmp */
		emit_rr(e, OP(.map = MAP_0F, .op = 0x42), SCRATCH0, SCRATCH1); /* cmovb */
	}
	emit_rr(e, OP(.op = 0x39, .w = true), H_RCX, SCRATCH0);
	emit_rr(e, OP(.map = MAP_0F, .op = 0x47, .w = true), SCRATCH0, H_RCX); /* cmova */
	if (x->u->size > 1) { /* the next one may begin on one page and end on the other */
		emit_rr(e, OP(.op = 0x85), SCRATCH0, SCRATCH0);
		gen_slow_jump(g, x, emit_jcc(e, CC_E));
	}
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[3])));
	emit_mov64(e, SCRATCH1, H_RCX);
	emit_rr(e, OP(.op = 0x29, .w = true), SCRATCH0, SCRATCH1); /* sub */
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[2])));
}

/* REP with the host's registers as they are. */
static void emit_repeated(struct emitter *e, unsigned size, bool movs)
{
	emit8(e, 0xf3);
	if (size == 2)
		emit8(e, 0x66);
	if (size == 8)
		emit8(e, 0x48); /* REX.W */
	emit8(e, (movs ? OPCODE_MOVS : OPCODE_STOS) | (size > 1));
}

/* The same as a loop; vp.scratch[3] and flags are lost. */
static void gen_loop(struct gen *g, const struct xl_insn *x, bool movs)
{
	struct emitter *e = &g->e;
	const uint8_t *again;

	if (movs)
		emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[3])));
	again = e->p;
	if (movs) {
		emit_access(g, x, SCRATCH1, H_RSI, false);
		gen_advance(g, x, H_RSI);
	}
	emit_access(g, x, movs ? SCRATCH1 : H_RAX, H_RDI, true);
	gen_advance(g, x, H_RDI);
	emit_rr(e, OP(.op = 0xff), 1, H_RCX); /* dec */
	emit_set_rel32(emit_jcc(e, CC_NE), again);
	if (movs)
		emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[3])));
}

/* Processors are quick at few bytes, but take some time to begin with anything longer. */
static void gen_elements(struct gen *g, const struct xl_insn *x, bool movs)
{
	struct emitter *e = &g->e;
	uint8_t *many, *done;

	if (x->u->size == 1) {
		emit_repeated(e, 1, movs);
		return;
	}
	emit_rr(e, OP(.op = 0x83), ALU_CMP, H_RCX);
	emit8(e, LOOP_ELEMENTS);
	many = emit_jcc8(e, CC_A);
	gen_loop(g, x, movs);
	emit8(e, 0xeb); /* jmp */
	emit8(e, 0);
	done = e->p - 1;
	emit_here8(e, many);
	emit_repeated(e, x->u->size, movs);
	emit_here8(e, done);
}

/* A chunk; guest registers are right before and after it. */
static void gen_repeat_chunk(struct gen *g, struct xl_insn *x, bool movs)
{
	struct emitter *e = &g->e;

	gen_chunk(g, x, movs);
	if (movs) {
		gen_element(g, x, H_RSI, false);
		emit_rr(e, OP(.op = 0x29, .w = true), H_RSI, SCRATCH0); /* sub */
		emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[1]))); /* host minus guest */
	}
	gen_element(g, x, H_RDI, true);
	emit_load64(e, H_RCX, AT_GS(VP_FIELD(scratch[3])));
	emit_store64(e, H_RDI, AT_GS(VP_FIELD(scratch[0])));
	emit_mov64(e, H_RDI, SCRATCH0);
	if (movs)
		emit_rm(e, OP(.op = 0x03, .w = true), H_RSI, AT_GS(VP_FIELD(scratch[1])));
	gen_elements(g, x, movs);
	emit_load64(e, H_RCX, AT_GS(VP_FIELD(scratch[2])));
	if (movs)
		emit_rm(e, OP(.op = 0x2b, .w = true), H_RSI, AT_GS(VP_FIELD(scratch[1])));
	emit_rr(e, OP(.op = 0x29, .w = true), SCRATCH0, H_RDI); /* sub: the bytes written */
	emit_store64(e, H_RDI, AT_GS(VP_FIELD(scratch[2])));
	emit_rm(e, OP(.op = 0x03, .w = true), H_RDI, AT_GS(VP_FIELD(scratch[0])));
	gen_written(g, x, WRITTEN_BULK, XL_REPEAT, NULL);
}

static void gen_repeat(struct gen *g, struct xl_insn *x, bool movs)
{
	struct emitter *e = &g->e;
	const uint8_t *again;
	uint8_t *done[2];

	emit_rr(e, OP(.op = 0x85, .w = true), H_RCX, H_RCX); /* test */
	done[0] = emit_jcc(e, CC_E);
	gen_need_forward(g, x);
	again = e->p;
	gen_repeat_chunk(g, x, movs);
	emit_rr(e, OP(.op = 0x85, .w = true), H_RCX, H_RCX);
	done[1] = emit_jcc8(e, CC_E);
	emit_rm(e, OP(.op = 0x83), ALU_CMP, AT_GS(VP_FIELD(attention)));
	emit8(e, 0);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_jmp(e, again);
	emit_here(e, done[0]);
	emit_here8(e, done[1]);
}

void gen_string(struct gen *g, struct xl_insn *x)
{
	sc_fn *fn = x->u->fn;

	gen_flags_lost(g, live_before(x));
	if (x->u->aux) {
		gen_repeat(g, x, fn == sc_string[STRING_MOVS]);
		gen_slow_end(g);
		return;
	}
	gen_need_forward(g, x);
	if (fn == sc_string[STRING_MOVS])
		gen_movs(g, x);
	else if (fn == sc_string[STRING_STOS])
		gen_stos(g, x);
	else
		gen_lods(g, x);
	gen_slow_end(g);
}
