/*
 * SYSCALL and SYSRET of 64-bit code, where they change nothing but the privilege: what sc_syscall
 * and sc_sysret do, in the VP's fields, and on to the target by vp.jumps. All is checked before the
 * first change; whatever isn't the common case is the handler's.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

#define CS_KERNEL 0xa09bu /* attributes, as sc_flat_cs and sc_flat_ss have them */
#define SS_KERNEL 0xc093u
#define DPL_USER  0x60u

enum { SHIFT_LEFT = 4, SHIFT_RIGHT = 5 };

_Static_assert(offsetof(struct part_segment, attributes) ==
		   offsetof(struct part_segment, selector) + 2,
	       "one word");

static void emit_alu_imm32(struct emitter *e, unsigned ext, unsigned host, uint32_t v)
{
	emit_rr(e, OP(.op = 0x81), ext, host);
	emit32(e, v);
}

static void emit_alu_imm64(struct emitter *e, unsigned ext, unsigned host, int32_t v)
{
	emit_rr(e, OP(.op = 0x81, .w = true), ext, host);
	emit32(e, (uint32_t)v);
}

static void emit_shift32(struct emitter *e, unsigned ext, unsigned host, unsigned by)
{
	emit_rr(e, OP(.op = 0xc1), ext, host);
	emit8(e, by);
}

static void emit_store_imm32(struct emitter *e, uint32_t field, uint32_t v)
{
	emit_rm(e, OP(.op = 0xc7), 0, AT_GS(field));
	emit32(e, v);
}

/* A flat segment; the low half of host is its selector. */
static void gen_flat_segment(struct gen *g, enum part_seg seg, unsigned host, uint32_t attributes)
{
	struct emitter *e = &g->e;

	emit_rr(e, OP(.map = MAP_0F, .op = 0xb7), SCRATCH0, host); /* movzx */
	emit_alu_imm32(e, ALU_OR, SCRATCH0, attributes);
	emit_rm(e, OP(.op = 0x89), SCRATCH0, AT_GS(VP_FIELD(seg[seg].selector)));
	emit_store_imm64(e, AT_GS(VP_FIELD(seg[seg].base)), 0);
	emit_store_imm32(e, VP_FIELD(seg[seg].limit), UINT32_MAX);
}

/* What hangs on the privilege: sc_set_cpl. The mode stays, and alignment checks are off. */
static void gen_privilege(struct gen *g, bool user)
{
	struct emitter *e = &g->e;

	emit_rm(e, OP(.op = 0xc6), 0, AT_GS(VP_FIELD(cpl)));
	emit8(e, user ? 3 : 0);
	emit_store_imm32(e, VP_FIELD(key), MODE_64 | (user ? KEY_USER : 0));
	emit_load64(e, SCRATCH0, AT_GS(VP_FIELD(self)));
	emit_lea64(e, SCRATCH0,
		   &(struct host_mem){ SCRATCH0, H_NONE, 0, false,
				       (int32_t)(user ? VP_FIELD(tlbs[1]) : VP_FIELD(tlbs[0])) });
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(tlb)));
	emit_load64(e, SCRATCH0, AT_GS(VP_FIELD(other_translated_rsp)));
	emit_store64(e, H_RSP, AT_GS(VP_FIELD(other_translated_rsp)));
	emit_mov64(e, H_RSP, SCRATCH0);
}

static void gen_need_sce(struct gen *g, struct xl_insn *x)
{
	emit_rm(&g->e, OP(.op = 0xf6), 0, AT_GS(VP_FIELD(efer))); /* test byte */
	emit8(&g->e, EFER_SCE);
	gen_slow_jump(g, x, emit_jcc(&g->e, CC_E));
}

/* SCRATCH0: target. Its code goes to vp.scratch[2], and nothing is in the way any more. */
static void gen_find_target(struct gen *g, struct xl_insn *x, bool user)
{
	gen_find_jump(g, x, user);
	emit_load64(&g->e, SCRATCH0, JUMP_FIELD(user, code));
	emit_store64(&g->e, SCRATCH0, AT_GS(VP_FIELD(scratch[2])));
}

static void gen_jump_target(struct gen *g)
{
	emit_rm(&g->e, OP(.op = 0xff), 4, AT_GS(VP_FIELD(scratch[2])));
}

/* vp.flags' layout in SCRATCH1 from RFLAGS in SCRATCH0, which is lost. */
static void gen_split_flags(struct emitter *e)
{
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_shift32(e, SHIFT_RIGHT, SCRATCH1, 11);
	emit_alu_imm32(e, ALU_AND, SCRATCH1, 1); /* OF */
	emit_alu_imm32(e, ALU_AND, SCRATCH0, RF_ARITH & 0xff);
	emit_shift32(e, SHIFT_LEFT, SCRATCH0, 8);
	emit_rr(e, OP(.op = 0x09), SCRATCH0, SCRATCH1);
}

/* RFLAGS but RF to the guest's R11: the arithmetic flags are in vp.flags. */
static void gen_flags_to_r11(struct emitter *e)
{
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb7), SCRATCH0, AT_GS(VP_FIELD(flags)));
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_shift32(e, SHIFT_RIGHT, SCRATCH1, 8);
	emit_alu_imm32(e, ALU_AND, SCRATCH1, RF_ARITH & 0xff);
	emit_alu_imm32(e, ALU_AND, SCRATCH0, 1);
	emit_shift32(e, SHIFT_LEFT, SCRATCH0, 11);
	emit_rr(e, OP(.op = 0x09), SCRATCH0, SCRATCH1);
	emit_alu_imm32(e, ALU_OR, SCRATCH1, RF_ONE);
	emit_rm(e, OP(.op = 0x0b, .w = true), SCRATCH1, AT_GS(VP_FIELD(rf)));
	emit_alu_imm64(e, ALU_AND, SCRATCH1, ~(int32_t)RF_RF);
	emit_store64(e, SCRATCH1, AT_GS(VP_GPR(11)));
}

static void gen_mask_flags(struct emitter *e)
{
	emit_load64(e, SCRATCH0, AT_GS(VP_FIELD(sfmask)));
	emit_alu_imm64(e, ALU_OR, SCRATCH0, RF_RF);
	emit_rr(e, OP(.op = 0xf7, .w = true), 2, SCRATCH0); /* not */
	emit_rm(e, OP(.op = 0x21, .w = true), SCRATCH0, AT_GS(VP_FIELD(rf)));
	gen_split_flags(e);
	emit_rm(e, OP(.op = 0x21, .prefix = 0x66), SCRATCH1, AT_GS(VP_FIELD(flags)));
}

static void gen_syscall(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_need_sce(g, x);
	emit_load64(e, SCRATCH0, AT_GS(VP_FIELD(lstar)));
	gen_find_target(g, x, false);
	gen_mov_va(g, H_RCX, next_va(g, x));
	gen_flags_to_r11(e);
	gen_mask_flags(e);
	emit_load32(e, SCRATCH1, AT_GS(VP_FIELD(star) + 4));
	emit_alu_imm32(e, ALU_AND, SCRATCH1, 0xfffc);
	gen_flat_segment(g, PART_CS, SCRATCH1, CS_KERNEL << 16);
	emit_alu_imm32(e, ALU_ADD, SCRATCH1, 8);
	gen_flat_segment(g, PART_SS, SCRATCH1, SS_KERNEL << 16);
	gen_privilege(g, false);
	gen_jump_target(g);
}

/* Not with flags that the loop must know of. */
static void gen_need_plain_r11(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	emit_rm(e, OP(.op = 0xf7), 0, AT_GS(VP_GPR(11))); /* test dword */
	emit32(e, RF_TF | RF_AC);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_rm(e, OP(.op = 0x80), ALU_CMP, AT_GS(VP_FIELD(irq_waiting)));
	emit8(e, 0);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
}

static void gen_flags_from_r11(struct emitter *e)
{
	emit_load64(e, SCRATCH0, AT_GS(VP_GPR(11)));
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_alu_imm32(e, ALU_AND, SCRATCH1, SYSRET_FLAGS & ~(RF_ARITH | RF_ONE));
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(rf)));
	gen_split_flags(e);
	emit_rm(e, OP(.op = 0x89, .prefix = 0x66), SCRATCH1, AT_GS(VP_FIELD(flags)));
}

static void gen_sysret(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_need_cpl0(g, x);
	gen_need_sce(g, x);
	gen_need_plain_r11(g, x);
	gen_need_canonical(g, x, H_RCX);
	emit_mov64(e, SCRATCH0, H_RCX);
	gen_find_target(g, x, true);
	gen_flags_from_r11(e);
	emit_load32(e, SCRATCH1, AT_GS(VP_FIELD(star) + 4));
	emit_shift32(e, SHIFT_RIGHT, SCRATCH1, 16);
	emit_alu_imm32(e, ALU_ADD, SCRATCH1, 16);
	gen_flat_segment(g, PART_CS, SCRATCH1, (CS_KERNEL | DPL_USER) << 16 | 3);
	emit_alu_imm32(e, ALU_SUB, SCRATCH1, 8);
	gen_flat_segment(g, PART_SS, SCRATCH1, (SS_KERNEL | DPL_USER) << 16 | 3);
	gen_privilege(g, true);
	gen_jump_target(g);
}

bool xl_classify_entry(const struct gen *g, struct xl_insn *x)
{
	if (x->u->fn == sc_syscall && g->b->key == (MODE_64 | KEY_USER))
		x->kind = XL_SYSCALL;
	else if (x->u->fn == sc_sysret && x->u->size == 8 && g->b->key == MODE_64)
		x->kind = XL_SYSRET;
	else
		return false;
	x->use = x->kind == XL_SYSCALL ? RF_ARITH : 0;
	x->kill = x->kind == XL_SYSRET ? RF_ARITH : 0;
	return true;
}

void gen_entry(struct gen *g, struct xl_insn *x)
{
	gen_x87_note(g, &g->x87);
	gen_flags_lost(g, live_before(x));
	if (x->kind == XL_SYSCALL)
		gen_syscall(g, x);
	else
		gen_sysret(g, x);
	gen_slow_end(g);
}
