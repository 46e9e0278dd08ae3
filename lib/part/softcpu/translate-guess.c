/*
 * Computed jumps and calls of user mode through a table of the guest, as compilers make of a
 * `switch` and of arrays of functions: vp.guesses says by the index into that table where such a
 * jump led, so that the host, whose processor can't predict it, need not read the guest's table,
 * add, and hash before it knows the code. The target that the guest computes confirms it.
 */
#include "part/softcpu/translate-gen.h"

_Static_assert(sizeof(struct sc_jump) == GUESS_UNIT << 2, "guess_slot as an index by 4");

/* The field in the entry that SCRATCH1, which was masked just before, is the guess_slot of. */
#define GUESS_FIELD(field)                                                                         \
	(&(struct host_mem){                                                                       \
	    H_NONE, SCRATCH1, 2, true,                                                             \
	    (int32_t)(VP_FIELD(guesses) + (uint32_t)offsetof(struct sc_jump, field)) })

#define CC_S 8u

/* Between the load, which overwrites the index, and the jump SCRATCH1 stays: one may add. */
static bool index_can_be_held(const struct xl_insn *load, const struct xl_insn *jump)
{
	const struct xl_insn *add = jump - 1;

	return jump->kind == XL_JMP_COMPUTED &&
	       (load == add || (load == add - 1 && !in_vp(&add->reg) && !in_vp(&add->rm)));
}

void find_guess(struct gen *g)
{
	const struct xl_insn *jump = &g->insns[g->count - 1], *load = target_load(g);
	bool overwritten = false;
	struct table table;
	uint16_t index;

	g->guess = (struct guess){ 0 };
	if (!load || load->group || !(g->b->key & KEY_USER) || !find_table(g, load, &table) ||
	    host_gpr(table.index / 8u) == H_NONE)
		return;
	index = (uint16_t)BIT(table.index / 8u);
	for (const struct xl_insn *x = load + 1; x < jump; x++)
		if (x->writes & index && !(load->writes & index))
			return;
	overwritten = load != jump && load->writes & index;
	if (overwritten && !index_can_be_held(load, jump))
		return;
	g->guess = (struct guess){ .load = load,
				   .index = (uint8_t)host_gpr(table.index / 8u),
				   .hold = overwritten };
}

/* Where the jump's guesses begin: the same in every copy of the block. */
static void gen_slot(struct gen *g)
{
	uint32_t site = (uint32_t)(g->xl->va + g->b->len) * 0x9e3779b1u >> 16;
	int32_t first = (int32_t)(site % GUESSES * GUESS_UNIT);

	emit_rm(&g->e, OP(.op = 0x8d), SCRATCH1,
		&(struct host_mem){ H_NONE, g->guess.index, 3, false, first });
}

void gen_hold_index(struct gen *g)
{
	gen_slot(g);
	g->guess.held = true;
}

void gen_guess(struct gen *g, struct guessed *ret)
{
	struct emitter *e = &g->e;

	if (!g->guess.hold)
		gen_slot(g);
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1); /* and */
	emit32(e, (GUESSES - 1) * GUESS_UNIT);
	emit_rm(e, OP(.op = 0x3b, .w = true), ret->target, GUESS_FIELD(rip));
	ret->wrong[0] = emit_jcc(e, CC_NE);
	emit_load32(e, SCRATCH0, GUESS_FIELD(xtlb));
	emit_load32(e, SCRATCH0, AT_GS_REG(SCRATCH0, 0));
	emit_rm(e, OP(.op = 0x3b), SCRATCH0, GUESS_FIELD(version));
	ret->wrong[1] = emit_jcc(e, CC_NE);
	emit_cmp_attention(e);
	ret->wrong[2] = emit_jcc(e, CC_NE);
	emit_load64(e, SCRATCH1, GUESS_FIELD(code));
	ret->go = e->p;
}

void gen_guess_wrong(struct gen *g, struct xl_insn *x, const struct guessed *guessed)
{
	struct emitter *e = &g->e;

	for (unsigned i = 0; i < ARRAY_SIZE(guessed->wrong); i++)
		emit_here(e, guessed->wrong[i]);
	emit_rm(e, OP(.op = 0x89), SCRATCH1, AT_GS(VP_FIELD(guess_slot)));
	emit_rm(e, OP(.op = 0xff), 1, AT_GS(VP_FIELD(guess_wait))); /* dec */
	gen_slow_jump(g, x, emit_jcc(e, CC_S));
}
