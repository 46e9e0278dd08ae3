/*
 * The code that all translations of a VP share: entering, leaving, and calling C.
 *
 * In translated code the host's RSP is 16-byte aligned and points to a frame that enter() made: one
 * free slot, the callee-saved registers, the return address.
 */
#include "part/softcpu/translate.h"

static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

#define FLAGS_OF_HOST 0x7f /* added to 1 it overflows */

void emit_save_flags(struct emitter *e)
{
	emit_mov64(e, SCRATCH1, H_RAX);
	emit8(e, 0x9f);                                      /* lahf */
	emit_rr(e, OP(.map = MAP_0F, .op = 0x90), 0, H_RAX); /* seto al */
	emit_rm(e, OP(.op = 0x89, .prefix = 0x66), H_RAX, AT_GS(VP_FIELD(flags)));
	emit_mov64(e, H_RAX, SCRATCH1);
}

void emit_restore_flags(struct emitter *e)
{
	emit_mov64(e, SCRATCH1, H_RAX);
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb7), H_RAX, AT_GS(VP_FIELD(flags)));
	emit8(e, 0x04); /* add al, imm8 */
	emit8(e, FLAGS_OF_HOST);
	emit8(e, 0x9e); /* sahf */
	emit_mov64(e, H_RAX, SCRATCH1);
}

static void emit_save_gprs(struct emitter *e)
{
	for (unsigned g = 0; g < 16; g++)
		if (host_gpr(g) != H_NONE)
			emit_store64(e, host_gpr(g), AT_GS(VP_GPR(g)));
}

static void emit_load_gprs(struct emitter *e)
{
	for (unsigned g = 0; g < 16; g++)
		if (host_gpr(g) != H_NONE)
			emit_load64(e, host_gpr(g), AT_GS(VP_GPR(g)));
}

/* ADD or SUB (ext 5) of RSP, imm8; LEA keeps the flags. */
static void emit_move_rsp(struct emitter *e, int bytes)
{
	emit_lea64(e, H_RSP, &(struct host_mem){ H_RSP, H_NONE, 0, false, bytes });
}

static void emit_call_vp(struct emitter *e, uint32_t field)
{
	emit_rm(e, OP(.op = 0xff), 2, AT_GS(field));
}

static void emit_test_sse(struct emitter *e)
{
	emit_rm(e, OP(.op = 0x80), 7, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 0);
}

static uint32_t xmm_field(unsigned i)
{
	return VP_FIELD(regs.fpu.xmm) + 16 * i;
}

/* For C: the guest's SSE registers go to the VP, MXCSR is the host's again. */
static uint8_t *make_store_sse(struct emitter *e)
{
	uint8_t *start = e->p;

	for (unsigned i = 0; i < 16; i++)
		emit_rm(e, OP(.map = MAP_0F, .op = 0x11), i, AT_GS(xmm_field(i)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae), 3, AT_GS(VP_FIELD(regs.fpu.mxcsr)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae), 2, AT_GS(VP_FIELD(host_mxcsr)));
	emit_rm(e, OP(.op = 0xc6), 0, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 0);
	emit8(e, 0xc3);
	return start;
}

#define MXCSR_MASKS 0x1f80u

/* Not possible: SSE is off or lazy (CR0, CR4), or guest exceptions are unmasked. Only scratch
 * registers and flags change. */
static uint8_t *make_load_sse(struct emitter *e)
{
	uint8_t *start = e->p, *no[3];

	emit_rm(e, OP(.op = 0xf7), 0, AT_GS(VP_FIELD(cr0)));
	emit32(e, CR0_EM | CR0_TS);
	no[0] = emit_jcc8(e, CC_NE);
	emit_rm(e, OP(.op = 0xf7), 0, AT_GS(VP_FIELD(cr4)));
	emit32(e, CR4_OSFXSR);
	no[1] = emit_jcc8(e, CC_E);
	emit_load32(e, SCRATCH1, AT_GS(VP_FIELD(regs.fpu.mxcsr)));
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1);
	emit32(e, MXCSR_MASKS);
	emit_rr(e, OP(.op = 0x81), 7, SCRATCH1);
	emit32(e, MXCSR_MASKS);
	no[2] = emit_jcc8(e, CC_E);
	emit_here8(e, no[0]);
	emit_here8(e, no[1]);
	emit8(e, 0xf9); /* stc */
	emit8(e, 0xc3);
	emit_here8(e, no[2]);
	for (unsigned i = 0; i < 16; i++)
		emit_rm(e, OP(.map = MAP_0F, .op = 0x10), i, AT_GS(xmm_field(i)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae), 2, AT_GS(VP_FIELD(regs.fpu.mxcsr)));
	emit_rm(e, OP(.op = 0xc6), 0, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 1);
	emit8(e, 0xf8); /* clc */
	emit8(e, 0xc3);
	return start;
}

/* RAX: what the loop gets. */
static uint8_t *make_leave(struct emitter *e)
{
	uint8_t *start = e->p;

	emit_move_rsp(e, 8);
	for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
		emit_plus_r(e, OP(.op = 0x58), callee_saved[i]);
	emit8(e, 0xc3);
	return start;
}

static uint8_t *make_enter(struct emitter *e)
{
	uint8_t *start = e->p;

	for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
		emit_plus_r(e, OP(.op = 0x50), callee_saved[i]);
	emit_plus_r(e, OP(.op = 0x50), H_RDI);
	emit_load_gprs(e);
	emit_rm(e, OP(.op = 0xff), 4, AT_REG(H_RSP)); /* jmp [rsp] */
	return start;
}

struct shared {
	uint8_t *store_sse, *load_sse, *leave;
};

/* Calls a C function (vp, R11D, R10) in the middle of a translation. RAX 0: returns; else leaves
 * with RAX - 1. Guest SSE registers that were loaded are loaded again. */
static uint8_t *make_call(struct emitter *e, uint32_t field, bool flags_in, bool flags_out,
			  const struct shared *s)
{
	uint8_t *start = e->p, *go_on, *no_sse, *was_not;

	if (flags_in) /* SCRATCH1 is an argument */
		emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	if (flags_in)
		emit_save_flags(e);
	if (flags_in)
		emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	emit_save_gprs(e);
	emit_load64(e, H_RDI, AT_GS(VP_FIELD(self)));
	emit_mov32(e, H_RSI, SCRATCH1);
	emit_mov64(e, H_RDX, SCRATCH0);
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb6), H_RBX, AT_GS(VP_FIELD(sse_loaded)));
	emit_rr(e, OP(.op = 0x85), H_RBX, H_RBX);
	no_sse = emit_jcc8(e, CC_E);
	emit_call(e, s->store_sse);
	emit_here8(e, no_sse);
	emit_move_rsp(e, -8);
	emit_call_vp(e, field);
	emit_move_rsp(e, 8);
	emit_rr(e, OP(.op = 0x85, .w = true), H_RAX, H_RAX);
	go_on = emit_jcc8(e, CC_E);
	emit_rr(e, OP(.op = 0xff, .w = true), 1, H_RAX); /* dec rax */
	emit_move_rsp(e, 8);
	emit_jmp(e, s->leave);
	emit_here8(e, go_on);
	emit_rr(e, OP(.op = 0x85), H_RBX, H_RBX);
	was_not = emit_jcc8(e, CC_E);
	emit_call(e, s->load_sse);
	emit_here8(e, was_not);
	emit_load_gprs(e);
	if (flags_out)
		emit_restore_flags(e);
	emit8(e, 0xc3);
	return start;
}

static uint8_t *make_exit(struct emitter *e, const struct shared *s)
{
	uint8_t *start = e->p, *no_sse;

	emit_save_gprs(e);
	emit_load64(e, H_RDI, AT_GS(VP_FIELD(self)));
	emit_mov32(e, H_RSI, SCRATCH1);
	emit_test_sse(e);
	no_sse = emit_jcc8(e, CC_E);
	emit_move_rsp(e, -8);
	emit_call(e, s->store_sse);
	emit_move_rsp(e, 8);
	emit_here8(e, no_sse);
	emit_call_vp(e, VP_FIELD(call_exit));
	emit_jmp(e, s->leave);
	return start;
}

static uint8_t *make_exit_flags(struct emitter *e, const uint8_t *exit)
{
	uint8_t *start = e->p;

	emit_mov32(e, SCRATCH0, SCRATCH1);
	emit_save_flags(e);
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_jmp(e, exit);
	return start;
}

void translate_shared_code(struct vp *c, struct translator *t)
{
	struct emitter e = { t->cache.rw, t->cache.rw + t->cache.size };
	const uint8_t *enter = code_cache_rx(&t->cache, e.p);
	struct shared s;

	memcpy(&t->enter, &enter, sizeof(enter));
	make_enter(&e);
	s.leave = make_leave(&e);
	s.store_sse = make_store_sse(&e);
	s.load_sse = t->load_sse = make_load_sse(&e);
	t->slow = make_call(&e, VP_FIELD(call_slow), false, false, &s);
	t->slow_flags = make_call(&e, VP_FIELD(call_slow), false, true, &s);
	t->stored = make_call(&e, VP_FIELD(call_stored), false, false, &s);
	t->stored_flags = make_call(&e, VP_FIELD(call_stored), true, true, &s);
	t->exit = make_exit(&e, &s);
	t->exit_flags = make_exit_flags(&e, t->exit);
	t->cache.used = t->cache.shared_end = ALIGN_UP((size_t)(e.p - t->cache.rw), 64);
	c->host_mxcsr = HOSTOP_MXCSR_RESET;
}
