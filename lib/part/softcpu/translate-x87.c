/*
 * x87 instructions, which run as themselves: the guest's whole x87 state is in the host's
 * registers. That is so only while all its exceptions are masked; then the host raises none, and
 * the only thing left to do by hand is what the host notes of itself, not of the guest: the
 * addresses of the last instruction (FIP, with FOP) and of its operand (FDP).
 *
 * FIP and FOP are constants. They are written where somebody may look: before C code and at the
 * block's end.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

#define X87_MASKS 0x3f /* of FCW */

void gen_x87_note(struct gen *g, struct x87_note *note)
{
	struct emitter *e = &g->e;

	if (!note->pending)
		return;
	note->pending = false;
	g->guess.held = false;
	gen_mov_va(g, SCRATCH1, g->xl->va + note->off);
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(regs.fpu.fip)));
	emit_mov_imm(e, SCRATCH1, note->fop);
	emit_rm(e, OP(.op = 0x89, .prefix = 0x66), SCRATCH1, AT_GS(VP_FIELD(regs.fpu.fop)));
}

static void executed(struct gen *g, const struct xl_insn *x)
{
	const struct hostop *op = (const struct hostop *)(x->u + 1);

	if (!x->x87_control)
		g->x87 = (struct x87_note){ true, x->off, op->fop };
}

/* FDP. After a store SCRATCH0 and SCRATCH1 are still wanted. */
static void note_operand(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	if (x->x87_control)
		return;
	if (x->mem_write) {
		emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[1])));
		emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	}
	gen_address(g, x);
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(regs.fpu.fdp)));
	if (x->mem_write) {
		emit_load64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[1])));
		emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	}
}

static void gen_memory(struct gen *g, struct xl_insn *x)
{
	gen_flags_lost(g, live_before(x));
	gen_address(g, x);
	gen_translate(g, x, x->mem_size, x->mem_write, 0);
	if (x->mem_write)
		gen_page_flags(g);
	emit_rm(&g->e, &x->op, x->extension, AT_REG(SCRATCH0));
	note_operand(g, x);
	executed(g, x);
	if (x->mem_write)
		gen_written(g, x, x->mem_size, XL_GO_ON, NULL);
	gen_slow_end(g);
}

/* The new control word is read once. If it unmasks something, the handler does it and the block is
 * left. */
static void gen_fldcw(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_flags_lost(g, live_before(x));
	gen_address(g, x);
	gen_translate(g, x, 2, false, 0);
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb7), SCRATCH0, AT_REG(SCRATCH0));
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_rr(e, OP(.op = 0x83), 4, SCRATCH1); /* and */
	emit8(e, X87_MASKS);
	emit_rr(e, OP(.op = 0x83), 7, SCRATCH1); /* cmp */
	emit8(e, X87_MASKS);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[0])));
	emit_rm(e, &x->op, x->extension, AT_GS(VP_FIELD(scratch[0])));
	gen_slow_end(g);
}

void gen_x87(struct gen *g, struct xl_insn *x)
{
	gen_load_x87(g, x);
	if (x->kind == XL_X87_FLDCW) {
		gen_fldcw(g, x);
	} else if (x->mem_size) {
		gen_memory(g, x);
	} else {
		gen_flags_for(g, x);
		if (x->modrm)
			emit_rr(&g->e, &x->op, x->extension, x->rm.number);
		else
			emit_head(&g->e, &x->op, 0, 0, 0);
		gen_flags_after(g, x);
		executed(g, x);
	}
}
