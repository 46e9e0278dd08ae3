/*
 * BT, BTS, BTR and BTC with memory and a register as index, which make the memory a bit string that
 * extends both ways: the unit with the bit is found first, then the host's instruction does it. CF
 * is kept in the VP, as the other flags stay what they were.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

enum { BITS_TEST, BITS_SET, BITS_RESET, BITS_COMPLEMENT };

#define FLAGS_HIGH (VP_FIELD(flags) + 1) /* has CF in bit 0 */

static bool find_operation(const struct uop *u, unsigned *op, bool *wide)
{
	for (*op = BITS_TEST; *op <= BITS_COMPLEMENT; ++*op) {
		*wide = u->fn == sc_bt[*op][0][1][3];
		if (*wide || u->fn == sc_bt[*op][0][1][2])
			return true;
	}
	return false;
}

bool xl_classify_bits(struct xl_insn *x)
{
	unsigned op;
	bool wide;

	if (!find_operation(x->u, &op, &wide) || x->u->ea)
		return false;
	x->kind = XL_BIT_STRING;
	x->use = 0;
	x->kill = RF_CF;
	return true;
}

/* The index, sign-extended, to SCRATCH1. */
static void gen_index(struct gen *g, const struct uop *u, bool wide)
{
	unsigned guest = u->reg / 8u, host = host_gpr(guest);
	const struct opcode *o = OP(.op = wide ? 0x8b : 0x63, .w = true); /* MOV, MOVSXD */

	if (host == H_NONE)
		emit_rm(&g->e, o, SCRATCH1, AT_GS(VP_GPR(guest)));
	else
		emit_rr(&g->e, o, SCRATCH1, host);
}

/* Its address to SCRATCH0. */
static void gen_unit(struct gen *g, struct xl_insn *x, bool wide)
{
	struct emitter *e = &g->e;

	gen_address(g, x);
	gen_index(g, x->u, wide);
	emit_rr(e, OP(.op = 0xc1, .w = true), 7, SCRATCH1); /* sar */
	emit8(e, wide ? 6 : 5);
	emit_lea64(e, SCRATCH0, &(struct host_mem){ SCRATCH0, SCRATCH1, wide ? 3 : 2, false, 0 });
}

/* CF of the host to vp.flags, by SCRATCH1. */
static void gen_carry(struct emitter *e)
{
	emit_rr(e, OP(.map = MAP_0F, .op = 0x92), 0, SCRATCH1); /* setc */
	emit_rm(e, OP(.op = 0x80), 4, AT_GS(FLAGS_HIGH));       /* and */
	emit8(e, 0xfe);
	emit_rm(e, OP(.op = 0x08), SCRATCH1, AT_GS(FLAGS_HIGH)); /* or */
}

void gen_bits(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;
	unsigned op, size;
	bool wide;

	find_operation(x->u, &op, &wide);
	size = wide ? 8 : 4;
	gen_flags_lost(g, live_before(x));
	gen_unit(g, x, wide);
	gen_translate(g, x, size, op != BITS_TEST, 0);
	if (op != BITS_TEST) {
		gen_page_flags(g);
		emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	}
	gen_index(g, x->u, wide);
	emit_rr(e, OP(.op = 0x83), 4, SCRATCH1); /* and: the bit in the unit */
	emit8(e, wide ? 63 : 31);
	emit_rm(e, OP(.map = MAP_0F, .op = (uint8_t)(0xa3 + 8 * op), .w = wide, .lock = x->op.lock),
		SCRATCH1, AT_REG(SCRATCH0));
	gen_carry(e);
	g->flags = FLAGS_VP;
	if (op != BITS_TEST) {
		emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
		gen_written(g, x, size, XL_GO_ON, NULL);
	}
	gen_slow_end(g);
}
