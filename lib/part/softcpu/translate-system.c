/*
 * Short instructions of kernels that need no more than the VP's own fields: interrupt flag, bases,
 * selectors, control registers, time, pushed flags. Whatever isn't the common case of them is the
 * handler's.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

/* op byte [field], v */
static void emit_byte(struct emitter *e, unsigned ext, uint32_t field, unsigned v)
{
	emit_rm(e, OP(.op = 0x80), ext, AT_GS(field));
	emit8(e, v);
}

void gen_need_cpl0(struct gen *g, struct xl_insn *x)
{
	emit_byte(&g->e, ALU_CMP, VP_FIELD(cpl), 0);
	gen_slow_jump(g, x, emit_jcc(&g->e, CC_NE));
}

static void gen_cli(struct gen *g, struct xl_insn *x)
{
	gen_need_cpl0(g, x);
	emit_byte(&g->e, ALU_AND, RF_HIGH, 0xff & ~HIGH_IF);
}

/* Not when something waits for it, nor at the block's end. */
static void gen_sti(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_need_cpl0(g, x);
	emit_byte(e, ALU_CMP, VP_FIELD(irq_waiting), 0);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_rm(e, OP(.op = 0x83), ALU_CMP, AT_GS(VP_FIELD(attention)));
	emit8(e, 0);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_byte(e, ALU_OR, RF_HIGH, HIGH_IF);
}

static void gen_swapgs(struct gen *g, struct xl_insn *x)
{
	uint32_t base = VP_FIELD(seg[PART_GS].base);
	struct emitter *e = &g->e;

	gen_need_cpl0(g, x);
	emit_load64(e, SCRATCH0, AT_GS(base));
	emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(kernel_gs_base)));
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(kernel_gs_base)));
	emit_store64(e, SCRATCH1, AT_GS(base));
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(segbase[PART_GS])));
}

/* RFLAGS to vp.scratch[1]: those of the host with those that the VP has. */
static void gen_rflags(struct gen *g)
{
	struct emitter *e = &g->e;

	emit8(e, 0x9c); /* pushf */
	emit_plus_r(e, OP(.op = 0x58), SCRATCH1);
	emit_rr(e, OP(.op = 0x81), ALU_AND, SCRATCH1);
	emit32(e, RF_ARITH | RF_ONE);
	emit_rm(e, OP(.op = 0x0b, .w = true), SCRATCH1, AT_GS(VP_FIELD(rf)));
	emit_rr(e, OP(.op = 0x81, .w = true), ALU_AND, SCRATCH1);
	emit32(e, (uint32_t) ~(RF_RF | RF_VM));
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[1])));
}

/* Pushes vp.scratch[1]. */
static void gen_push_scratch(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	emit_lea64(e, SCRATCH0, &(struct host_mem){ GUEST_RSP, H_NONE, 0, false, -8 });
	gen_translate(g, x, 8, true, 0);
	gen_page_flags(g);
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[1])));
	emit_store64(e, SCRATCH1, AT_REG(SCRATCH0));
	emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	emit_lea64(e, GUEST_RSP, &(struct host_mem){ GUEST_RSP, H_NONE, 0, false, -8 });
	gen_written(g, x, 8, XL_GO_ON, NULL);
}

static void gen_pushf(struct gen *g, struct xl_insn *x)
{
	gen_flags_wanted(g);
	gen_flags_to_vp(g, live_before(x));
	gen_rflags(g);
	gen_push_scratch(g, x);
}

static void gen_push_memory(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_address(g, x);
	gen_translate(g, x, 8, false, 0);
	emit_load64(e, SCRATCH0, AT_REG(SCRATCH0));
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[1])));
	gen_push_scratch(g, x);
}

/* ---- fields of the VP as they are ---- */

/* SCRATCH0 to the register operand, of u->size bytes. */
static void gen_set_register(struct gen *g, const struct uop *u)
{
	unsigned guest = u->rm / 8u, host = host_gpr(guest);
	struct emitter *e = &g->e;

	if (u->size == 2 && host == H_NONE)
		emit_rm(e, OP(.op = 0x89, .prefix = 0x66), SCRATCH0, AT_GS(VP_GPR(guest)));
	else if (u->size == 2)
		emit_rr(e, OP(.op = 0x89, .prefix = 0x66), SCRATCH0, host);
	else if (host == H_NONE)
		emit_store64(e, SCRATCH0, AT_GS(VP_GPR(guest)));
	else
		emit_mov64(e, host, SCRATCH0);
}

static void gen_from_seg(struct gen *g, struct xl_insn *x)
{
	emit_rm(&g->e, OP(.map = MAP_0F, .op = 0xb7), SCRATCH0, /* movzx */
		AT_GS(VP_FIELD(seg[x->u->reg].selector)));
	gen_set_register(g, x->u);
}

/* 0: not a plain field. */
static uint32_t cr_field(const struct uop *u)
{
	switch (u->reg) {
	case 0:
		return VP_FIELD(cr0);
	case 2:
		return VP_FIELD(cr2);
	case 3:
		return VP_FIELD(cr3);
	case 4:
		return VP_FIELD(cr4);
	default:
		return 0;
	}
}

static void gen_from_cr(struct gen *g, struct xl_insn *x)
{
	gen_need_cpl0(g, x);
	emit_load64(&g->e, SCRATCH0, AT_GS(cr_field(x->u)));
	gen_set_register(g, x->u);
}

/* TEST dword [cr4], bit: the handler's work if it is set, or if it isn't. */
static void gen_need_cr4(struct gen *g, struct xl_insn *x, uint32_t bit, bool set)
{
	emit_rm(&g->e, OP(.op = 0xf7), 0, AT_GS(VP_FIELD(cr4)));
	emit32(&g->e, bit);
	gen_slow_jump(g, x, emit_jcc(&g->e, set ? CC_E : CC_NE));
}

static void gen_read_base(struct gen *g, struct xl_insn *x)
{
	uint32_t field = VP_FIELD(seg[x->u->reg].base);

	gen_need_cr4(g, x, CR4_FSGSBASE, true);
	if (x->u->size == 8)
		emit_load64(&g->e, SCRATCH0, AT_GS(field));
	else
		emit_load32(&g->e, SCRATCH0, AT_GS(field));
	gen_set_register(g, x->u);
}

void gen_need_canonical(struct gen *g, struct xl_insn *x, unsigned host)
{
	struct emitter *e = &g->e;

	emit_mov64(e, SCRATCH1, host);
	emit_rr(e, OP(.op = 0xc1, .w = true), 4, SCRATCH1); /* shl */
	emit8(e, 16);
	emit_rr(e, OP(.op = 0xc1, .w = true), 7, SCRATCH1); /* sar */
	emit8(e, 16);
	emit_rr(e, OP(.op = 0x39, .w = true), SCRATCH1, host); /* cmp */
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
}

static void gen_write_base(struct gen *g, struct xl_insn *x)
{
	unsigned guest = x->u->rm / 8u, host = host_gpr(guest);
	struct emitter *e = &g->e;

	gen_need_cr4(g, x, CR4_FSGSBASE, true);
	if (host == H_NONE)
		emit_rm(e, OP(.op = 0x8b, .w = x->u->size == 8), SCRATCH0, AT_GS(VP_GPR(guest)));
	else
		emit_rr(e, OP(.op = 0x89, .w = x->u->size == 8), host, SCRATCH0);
	gen_need_canonical(g, x, SCRATCH0);
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(seg[x->u->reg].base)));
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(segbase) + 8u * x->u->reg));
}

/* RDTSC, RDTSCP: the host's with an offset. */
static void gen_tsc(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_need_cr4(g, x, CR4_TSD, false);
	emit8(e, 0x0f);
	emit8(e, 0x31);
	emit_rr(e, OP(.op = 0xc1, .w = true), 4, H_RDX); /* shl */
	emit8(e, 32);
	emit_rr(e, OP(.op = 0x01, .w = true), H_RDX, H_RAX);
	emit_rm(e, OP(.op = 0x03, .w = true), H_RAX, AT_GS(VP_FIELD(tsc_ahead)));
	emit_mov64(e, H_RDX, H_RAX);
	emit_rr(e, OP(.op = 0xc1, .w = true), 5, H_RDX); /* shr */
	emit8(e, 32);
	emit_mov32(e, H_RAX, H_RAX);
	if (x->u->fn == sc_rdtscp)
		emit_load32(e, H_RCX, AT_GS(VP_FIELD(tsc_aux)));
}

static enum xl_kind field_kind(const struct gen *g, const struct uop *u)
{
	if (u->fn == sc_mov_from_seg && u->rm != OFF_NONE)
		return XL_FROM_SEG;
	if (u->fn == sc_mov_from_cr && u->size == 8 && cr_field(u))
		return XL_FROM_CR;
	if (u->fn == sc_rdfsgsbase)
		return XL_READ_BASE;
	if (u->fn == sc_wrfsgsbase)
		return XL_WRITE_BASE;
	if ((u->fn == sc_rdtsc || u->fn == sc_rdtscp) && g->c->vm->tsc_is_host)
		return XL_TSC;
	return XL_INTERPRET;
}

bool xl_classify_system(const struct gen *g, struct xl_insn *x)
{
	const struct uop *u = x->u;
	sc_fn *fn = u->fn;

	if (fn == sc_cli)
		x->kind = XL_CLI;
	else if (fn == sc_sti && !u->aux)
		x->kind = XL_STI;
	else if (fn == sc_cld)
		x->kind = XL_CLD;
	else if (fn == sc_swapgs)
		x->kind = XL_SWAPGS;
	else if (fn == sc_push64_m && !(u->ea & ~EA_A32))
		x->kind = XL_PUSH_MEMORY;
	else if (fn == sc_pushf && u->size == 8)
		x->kind = XL_PUSHF;
	else
		x->kind = field_kind(g, u);
	if (x->kind == XL_INTERPRET)
		return false;
	x->use = x->kind == XL_PUSHF ? RF_ARITH : 0;
	x->kill = 0;
	return true;
}

void gen_system(struct gen *g, struct xl_insn *x)
{
	if (x->kind == XL_PUSHF) {
		gen_pushf(g, x);
		gen_slow_end(g);
		return;
	}
	gen_flags_lost(g, live_before(x));
	switch (x->kind) {
	case XL_CLI:
		gen_cli(g, x);
		break;
	case XL_STI:
		gen_sti(g, x);
		break;
	case XL_CLD:
		emit_byte(&g->e, ALU_AND, RF_HIGH, 0xff & ~HIGH_DF);
		break;
	case XL_SWAPGS:
		gen_swapgs(g, x);
		break;
	case XL_FROM_SEG:
		gen_from_seg(g, x);
		break;
	case XL_FROM_CR:
		gen_from_cr(g, x);
		break;
	case XL_READ_BASE:
		gen_read_base(g, x);
		break;
	case XL_WRITE_BASE:
		gen_write_base(g, x);
		break;
	case XL_TSC:
		gen_tsc(g, x);
		break;
	default:
		gen_push_memory(g, x);
		break;
	}
	gen_slow_end(g);
}
