/*
 * The code that all translations of a VP share: entering, leaving, and calling C.
 *
 * In translated code the host's RSP is a pointer into vp.returns; C code runs on the host's own
 * stack, in a frame that enter() made: one free slot, the callee-saved registers, the return
 * address.
 */
#include "part/softcpu/translate.h"

static const uint8_t callee_saved[] = { H_RBX, H_RBP, H_R12, H_R13, H_R14, H_R15 };

#define FLAGS_OF_HOST 0x7f /* added to 1 it overflows */

void emit_save_flags(struct emitter *e, unsigned scratch)
{
	emit_mov64(e, scratch, H_RAX);
	emit8(e, 0x9f);                                      /* lahf */
	emit_rr(e, OP(.map = MAP_0F, .op = 0x90), 0, H_RAX); /* seto al */
	emit_rm(e, OP(.op = 0x89, .prefix = 0x66), H_RAX, AT_GS(VP_FIELD(flags)));
	emit_mov64(e, H_RAX, scratch);
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

_Static_assert(offsetof(struct vp, x87_loaded) == offsetof(struct vp, sse_loaded) + 1, "one word");

/* cmp word sse_loaded and x87_loaded, 0 */
static void emit_test_fpu(struct emitter *e)
{
	emit_rm(e, OP(.op = 0x83, .prefix = 0x66), 7, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 0);
}

static void emit_store_constant(struct emitter *e, uint32_t field, uint32_t v)
{
	emit_rm(e, OP(.op = 0xc7), 0, AT_GS(field));
	emit32(e, v);
}

static uint32_t xmm_field(unsigned i)
{
	return VP_FIELD(regs.fpu.xmm) + 16 * i;
}

static void emit_store_xmm(struct emitter *e)
{
	for (unsigned i = 0; i < 16; i++)
		emit_rm(e, OP(.map = MAP_0F, .op = 0x11), i, AT_GS(xmm_field(i)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae), 3, AT_GS(VP_FIELD(regs.fpu.mxcsr)));
}

/* The upper halves of the YMM registers; VINSERTF128 or VEXTRACTF128. */
static void emit_move_ymm_high(struct emitter *e, bool load)
{
	for (unsigned i = 0; i < 16; i++) {
		struct opcode o = { .map = MAP_0F3A,
				    .op = load ? 0x18 : 0x19,
				    .prefix = 0x66,
				    .vex = true,
				    .l256 = true,
				    .vvvv = load ? (uint8_t)i : 0 };

		emit_rm(e, &o, i, AT_GS(VP_FIELD(regs.ymm_high) + 16 * i));
		emit8(e, 1);
	}
}

static void emit_vzeroupper(struct emitter *e)
{
	emit_head(e, OP(.map = MAP_0F, .op = 0x77, .vex = true), 0, 0, 0);
}

/* If all are zero, as after VZEROUPPER, the processor must know: beside others each SSE instruction
 * that follows one of AVX, or the other way round, takes some 150 cycles on some processors.
 * SCRATCH1 is lost. */
static void emit_load_ymm_high(struct emitter *e)
{
	uint8_t *some, *done;

	emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(regs.ymm_high)));
	for (uint32_t at = 8; at < sizeof(((struct vp *)0)->regs.ymm_high); at += 8)
		emit_rm(e, OP(.op = 0x0b, .w = true), SCRATCH1, /* or */
			AT_GS(VP_FIELD(regs.ymm_high) + at));
	some = emit_jcc8(e, CC_NE);
	emit_vzeroupper(e);
	emit8(e, 0xe9);
	emit32(e, 0);
	done = e->p - 4;
	emit_here8(e, some);
	emit_move_ymm_high(e, true);
	emit_here(e, done);
}

/* C code, which has no AVX, must not find anything there. */
static void emit_store_avx(struct emitter *e)
{
	uint8_t *none;

	emit_rm(e, OP(.op = 0x80), 7, AT_GS(VP_FIELD(avx_loaded)));
	emit8(e, 0);
	none = emit_jcc(e, CC_E);
	emit_move_ymm_high(e, false);
	emit_vzeroupper(e);
	emit_rm(e, OP(.op = 0xc6), 0, AT_GS(VP_FIELD(avx_loaded)));
	emit8(e, 0);
	emit_here(e, none);
}

/* FXSAVE64 notes the host's addresses, which are not the guest's. */
static void emit_store_all(struct emitter *e)
{
	emit_load64(e, H_RAX, AT_GS(VP_FIELD(regs.fpu.fip)));
	emit_load64(e, H_RCX, AT_GS(VP_FIELD(regs.fpu.fdp)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb7), H_R8, AT_GS(VP_FIELD(regs.fpu.fop)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae, .w = true), 0, AT_GS(VP_FIELD(regs.fpu)));
	emit_store64(e, H_RAX, AT_GS(VP_FIELD(regs.fpu.fip)));
	emit_store64(e, H_RCX, AT_GS(VP_FIELD(regs.fpu.fdp)));
	emit_rm(e, OP(.op = 0x89, .prefix = 0x66), H_R8, AT_GS(VP_FIELD(regs.fpu.fop)));
	emit_store_constant(e, VP_FIELD(regs.fpu.mxcsr_mask), HOSTOP_MXCSR_MASK);
	emit8(e, 0xdb); /* fninit: C expects an empty stack */
	emit8(e, 0xe3);
}

/* For C: what is loaded goes to the VP, MXCSR is the host's again. RAX, RCX and R8 are lost. */
static uint8_t *make_store_fpu(struct emitter *e)
{
	uint8_t *start = e->p, *all, *stored;

	if (__builtin_cpu_supports("avx"))
		emit_store_avx(e);
	emit_rm(e, OP(.op = 0x80), 7, AT_GS(VP_FIELD(x87_loaded)));
	emit8(e, 0);
	all = emit_jcc(e, CC_NE);
	emit_store_xmm(e);
	stored = e->p;
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae), 2, AT_GS(VP_FIELD(host_mxcsr)));
	emit_rm(e, OP(.op = 0xc7, .prefix = 0x66), 0, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 0); /* and x87_loaded */
	emit8(e, 0);
	emit8(e, 0xc3);
	emit_here(e, all);
	emit_store_all(e);
	emit_jmp(e, stored);
	return start;
}

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

/* SSE's registers, too. Not possible: AVX is off, or what SSE is refused for. */
static uint8_t *make_load_avx(struct emitter *e, const uint8_t *load_sse)
{
	uint8_t *start = e->p, *no, *ready, *failed;

	emit_rm(e, OP(.op = 0x80), 7, AT_GS(VP_FIELD(avx_on)));
	emit8(e, 0);
	no = emit_jcc(e, CC_E);
	emit_rm(e, OP(.op = 0x80), 7, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 0);
	ready = emit_jcc8(e, CC_NE);
	emit_call(e, load_sse);
	failed = emit_jcc(e, 2 /* CF */);
	emit_here8(e, ready);
	emit_load_ymm_high(e);
	emit_rm(e, OP(.op = 0xc6), 0, AT_GS(VP_FIELD(avx_loaded)));
	emit8(e, 1);
	emit8(e, 0xf8); /* clc */
	emit8(e, 0xc3);
	emit_here(e, no);
	emit_here(e, failed);
	emit8(e, 0xf9); /* stc */
	emit8(e, 0xc3);
	return start;
}

#define X87_MASKS   0x3fu
#define X87_PENDING 0x8080u /* ES, B */

/* Not possible: x87 is off or lazy, or guest exceptions are unmasked. All is loaded, and SSE stays
 * as it is; only scratch registers and flags change. */
static uint8_t *make_load_x87(struct emitter *e)
{
	uint8_t *start = e->p, *no[2], *no_sse;

	emit_rm(e, OP(.op = 0xf7), 0, AT_GS(VP_FIELD(cr0)));
	emit32(e, CR0_EM | CR0_TS);
	no[0] = emit_jcc8(e, CC_NE);
	emit_load32(e, SCRATCH1, AT_GS(VP_FIELD(regs.fpu.fcw))); /* and fsw */
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1);
	emit32(e, X87_PENDING << 16 | X87_MASKS);
	emit_rr(e, OP(.op = 0x83), 7, SCRATCH1);
	emit8(e, X87_MASKS);
	no[1] = emit_jcc8(e, CC_E);
	emit_here8(e, no[0]);
	emit8(e, 0xf9); /* stc */
	emit8(e, 0xc3);
	emit_here8(e, no[1]);
	emit_rm(e, OP(.op = 0x80), 7, AT_GS(VP_FIELD(sse_loaded)));
	emit8(e, 0);
	no_sse = emit_jcc(e, CC_E);
	emit_store_xmm(e);
	emit_here(e, no_sse);
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae, .w = true), 1, AT_GS(VP_FIELD(regs.fpu)));
	emit_rm(e, OP(.op = 0xc6), 0, AT_GS(VP_FIELD(x87_loaded)));
	emit8(e, 1);
	emit8(e, 0xf8); /* clc */
	emit8(e, 0xc3);
	return start;
}

/* To the host's stack: RAX is what the loop gets. */
static uint8_t *make_leave(struct emitter *e)
{
	uint8_t *start = e->p;

	emit_move_rsp(e, 8);
	for (unsigned i = ARRAY_SIZE(callee_saved); i-- > 0;)
		emit_plus_r(e, OP(.op = 0x58), callee_saved[i]);
	emit8(e, 0xc3);
	return start;
}

/* Goes on at vp.resume. */
static uint8_t *make_resume(struct emitter *e)
{
	uint8_t *start = e->p;

	emit_load64(e, H_RSP, AT_GS(VP_FIELD(translated_rsp)));
	emit_load_gprs(e);
	emit_rm(e, OP(.op = 0xff), 4, AT_GS(VP_FIELD(resume))); /* jmp */
	return start;
}

static uint8_t *make_enter(struct emitter *e, const uint8_t *resume)
{
	uint8_t *start = e->p;

	for (unsigned i = 0; i < ARRAY_SIZE(callee_saved); i++)
		emit_plus_r(e, OP(.op = 0x50), callee_saved[i]);
	emit_move_rsp(e, -8);
	emit_store64(e, H_RSP, AT_GS(VP_FIELD(host_rsp)));
	emit_store64(e, H_RDI, AT_GS(VP_FIELD(resume)));
	emit_jmp(e, resume);
	return start;
}

struct shared {
	uint8_t *store_fpu, *load_sse, *load_x87, *load_avx, *leave, *resume;
};

/* RAX as C code gave it, not 0. */
static void emit_leave_or_resume(struct emitter *e, const struct shared *s)
{
	uint8_t *leaves;

	emit_rr(e, OP(.op = 0x83, .w = true), 7, H_RAX); /* cmp */
	emit8(e, XL_RESUME);
	leaves = emit_jcc8(e, CC_NE);
	emit_jmp(e, s->resume);
	emit_here8(e, leaves);
	emit_rr(e, OP(.op = 0xff, .w = true), 1, H_RAX); /* dec rax */
	emit_jmp(e, s->leave);
}

/* What was loaded, as BX and EBP have it. */
static void emit_reload_fpu(struct emitter *e, const struct shared *s)
{
	uint8_t *no_x87, *no_sse, *no_avx;

	emit_rr(e, OP(.op = 0x84), 7 /* BH: x87_loaded */, 7);
	no_x87 = emit_jcc8(e, CC_E);
	emit_call(e, s->load_x87);
	emit_here8(e, no_x87);
	emit_rr(e, OP(.op = 0x84), H_RBX, H_RBX);
	no_sse = emit_jcc8(e, CC_E);
	emit_call(e, s->load_sse);
	emit_here8(e, no_sse);
	emit_rr(e, OP(.op = 0x85), H_RBP, H_RBP);
	no_avx = emit_jcc8(e, CC_E);
	emit_call(e, s->load_avx);
	emit_here8(e, no_avx);
}

/* Calls a C function (vp, R11D, R10) in the middle of a translation, on the host's stack. reload:
 * guest FPU registers that were loaded are loaded again. */
static uint8_t *make_call(struct emitter *e, uint32_t field, bool flags_in, bool flags_out,
			  bool reload, const struct shared *s)
{
	uint8_t *start = e->p, *go_on, *no_fpu;

	if (flags_in) /* SCRATCH1 is an argument */
		emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	if (flags_in)
		emit_save_flags(e, SCRATCH1);
	if (flags_in)
		emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
	emit_save_gprs(e);
	emit_move_rsp(e, 8); /* without the return address, should it not come back */
	emit_store64(e, H_RSP, AT_GS(VP_FIELD(translated_rsp)));
	emit_load64(e, H_RSP, AT_GS(VP_FIELD(host_rsp)));
	emit_load64(e, H_RDI, AT_GS(VP_FIELD(self)));
	emit_mov32(e, H_RSI, SCRATCH1);
	emit_mov64(e, H_RDX, SCRATCH0);
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb7), H_RBX, AT_GS(VP_FIELD(sse_loaded)));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xb6), H_RBP, AT_GS(VP_FIELD(avx_loaded)));
	emit_rr(e, OP(.op = 0x85), H_RBX, H_RBX);
	no_fpu = emit_jcc8(e, CC_E);
	emit_call(e, s->store_fpu);
	emit_here8(e, no_fpu);
	emit_call_vp(e, field);
	emit_rr(e, OP(.op = 0x85, .w = true), H_RAX, H_RAX);
	go_on = emit_jcc8(e, CC_E);
	emit_leave_or_resume(e, s);
	emit_here8(e, go_on);
	if (reload)
		emit_reload_fpu(e, s);
	emit_load64(e, H_RSP, AT_GS(VP_FIELD(translated_rsp)));
	emit_move_rsp(e, -8);
	emit_load_gprs(e);
	if (flags_out)
		emit_restore_flags(e);
	emit8(e, 0xc3);
	return start;
}

/* To C code that does not come back: RDI, RSI are its arguments. */
static void emit_to_host(struct emitter *e, const struct shared *s)
{
	uint8_t *no_fpu;

	emit_save_gprs(e);
	emit_store64(e, H_RSP, AT_GS(VP_FIELD(translated_rsp)));
	emit_load64(e, H_RSP, AT_GS(VP_FIELD(host_rsp)));
	emit_load64(e, H_RDI, AT_GS(VP_FIELD(self)));
	emit_mov32(e, H_RSI, SCRATCH1);
	emit_test_fpu(e);
	no_fpu = emit_jcc8(e, CC_E);
	emit_call(e, s->store_fpu);
	emit_here8(e, no_fpu);
}

static uint8_t *make_exit(struct emitter *e, const struct shared *s)
{
	uint8_t *start = e->p;

	emit_to_host(e, s);
	emit_call_vp(e, VP_FIELD(call_exit));
	emit_leave_or_resume(e, s);
	return start;
}

/* A return to address 0 while vp.returns is empty: the loop shall go on there. */
static uint8_t *make_lost_return(struct emitter *e, const struct shared *s)
{
	uint8_t *start = e->p;

	emit_move_rsp(e, -8); /* the entry stays */
	emit_to_host(e, s);
	emit_store_imm64(e, AT_GS(VP_FIELD(regs.rip)), LOST_RETURN_RIP);
	emit_store_imm64(e, AT_GS(VP_FIELD(link)), 0);
	emit_rr(e, OP(.op = 0x31), H_RAX, H_RAX);
	emit_jmp(e, s->leave);
	return start;
}

static uint8_t *make_exit_flags(struct emitter *e, const uint8_t *exit)
{
	uint8_t *start = e->p;

	emit_save_flags(e, SCRATCH0);
	emit_jmp(e, exit);
	return start;
}

void translate_shared_code(struct vp *c, struct translator *t)
{
	struct emitter e = { t->cache.rw, t->cache.rw + t->cache.size };
	const uint8_t *enter;
	struct shared s;

	s.leave = make_leave(&e);
	s.resume = make_resume(&e);
	enter = code_cache_rx(&t->cache, make_enter(&e, s.resume));
	memcpy(&t->enter, &enter, sizeof(enter));
	s.store_fpu = make_store_fpu(&e);
	s.load_sse = t->load_sse = make_load_sse(&e);
	s.load_x87 = t->load_x87 = make_load_x87(&e);
	s.load_avx = t->load_avx = make_load_avx(&e, s.load_sse);
	for (unsigned reload = 0; reload < 2; reload++) {
		t->slow[reload] = make_call(&e, VP_FIELD(call_slow), false, false, reload, &s);
		t->slow_flags[reload] = make_call(&e, VP_FIELD(call_slow), false, true, reload, &s);
		t->stored[reload] = make_call(&e, VP_FIELD(call_stored), false, false, reload, &s);
		t->stored_flags[reload] =
		    make_call(&e, VP_FIELD(call_stored), true, true, reload, &s);
	}
	t->exit = make_exit(&e, &s);
	t->exit_flags = make_exit_flags(&e, t->exit);
	t->lost_return = make_lost_return(&e, &s);
	t->cache.shared_end = ALIGN_UP((size_t)(e.p - t->cache.rw), 64);
	c->host_mxcsr = HOSTOP_MXCSR_RESET;
}
