/*
 * How a translation is left: direct branches, which are linked to the next translation, and
 * computed ones, which look into vp.jumps.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"
#include "part/softcpu/translate-gen.h"

_Static_assert(sizeof(struct sc_jump) == 1 << JUMP_SHIFT, "index by shift");

/* ---- direct ---- */

static struct xl_exit *new_exit(struct gen *g, unsigned which, uint64_t target)
{
	struct xl_exit *x = gen_data(g, sizeof(*x));
	static struct xl_exit spare;

	if (!x)
		return &spare;
	*x = (struct xl_exit){
		.from = g->xl, .next = g->xl->exits, .target = target, .which = (uint8_t)which
	};
	g->xl->exits = x;
	return x;
}

static bool same_page(const struct gen *g, uint64_t target)
{
	return (g->xl->va ^ target) < MEM_PAGE_SIZE;
}

/* From the translation's end. Also where the block ends with the address space. */
static bool goes_back(const struct gen *g, uint64_t target)
{
	const struct xl_insn *last = &g->insns[g->count - 1];

	return (int64_t)(target - g->xl->va) < last->off + last->len;
}

/* The code that an exit without link runs; jump: where the link goes. */
static void gen_exit_stub(struct gen *g, struct xl_exit *x, uint8_t *const *from, unsigned count)
{
	struct emitter *e = &g->e;

	x->stub = e->p;
	for (unsigned i = 0; i < count; i++)
		emit_here(e, from[i]);
	emit_plus_r(e, OP(.op = 0xb8), SCRATCH1);
	gen_moves(g, MOVE_EXIT);
	emit32(e, translate_id(g->c, x));
	emit8(e, 0xe9);
	gen_shared(g, x->flags ? g->t->exit_flags : g->t->exit);
}

/* A jump that can be linked; its stub comes right behind. */
static void gen_link(struct gen *g, struct xl_exit *x, uint8_t *const *from, unsigned count)
{
	emit8(&g->e, 0xe9);
	x->jump = g->e.p;
	emit32(&g->e, 0);
	gen_exit_stub(g, x, from, count);
}

/* Compares the version of va's page with one that is still to be set. Returns its place. */
static uint8_t *gen_compare_version(struct gen *g, uint64_t va)
{
	const struct sc_xtlb_entry *page = sc_xtlb_slot(g->c, va);
	struct emitter *e = &g->e;

	emit_rm(e, OP(.op = 0x81), 7,
		AT_GS((uint8_t *)&page->version - (uint8_t *)g->c)); /* cmp dword, imm */
	gen_moved(g, MOVE_GUARD, 4);
	emit32(e, NO_VERSION);
	return e->p - 4;
}

/* To a target on another page: as long as that page is where it was when the link was made. */
static uint8_t *gen_guard(struct gen *g, struct xl_exit *x)
{
	x->guard = gen_compare_version(g, x->target);
	return emit_jcc(&g->e, CC_NE);
}

void gen_second_page(struct gen *g, struct xl_insn *x)
{
	uint8_t *guard;

	gen_flags_lost(g, live_before(x));
	guard = gen_compare_version(g, second_page_va(g->c, g->xl->va));
	g->xl->second_page = (uint16_t)(guard - g->xl->code);
	gen_slow_jump(g, x, emit_jcc(&g->e, CC_NE));
	gen_slow_end(g);
}

void emit_cmp_attention(struct emitter *e)
{
	emit_rm(e, OP(.op = 0x83), 7, AT_GS(VP_FIELD(attention)));
	emit8(e, 0);
}

/* The same without touching flags. Returns the rel32 of the jump taken on attention. */
static uint8_t *gen_poll_flags(struct gen *g)
{
	struct emitter *e = &g->e;
	uint8_t *stub;

	emit_mov64(e, SCRATCH0, H_RCX);
	emit_load32(e, H_RCX, AT_GS(VP_FIELD(attention)));
	emit8(e, 0xe3); /* jrcxz over the next two */
	emit8(e, 8);
	emit_mov64(e, H_RCX, SCRATCH0);
	emit8(e, 0xe9);
	emit32(e, 0);
	stub = e->p - 4;
	emit_mov64(e, H_RCX, SCRATCH0);
	return stub;
}

struct xl_exit *new_exit_apart(struct gen *g, const struct xl_insn *x)
{
	struct xl_exit *exit = new_exit(g, 0, g->xl->va + x->off);

	exit->apart = true;
	exit->uop = (uint8_t)(x->u - g->b->uops);
	return exit;
}

void gen_exit_apart(struct gen *g, struct xl_exit *exit, uint8_t *attention)
{
	gen_link(g, exit, &attention, attention ? 1 : 0);
}

enum { EXIT_POLL = 1, EXIT_GUARD = 2 };

/* Leaves for target, with flags as g->flags says; live: those that are read there. EXIT_POLL: looks
 * at vp.attention even if the way is forward; EXIT_GUARD: the page may have been mapped elsewhere
 * even if it is this one. */
static void gen_exit(struct gen *g, unsigned which, uint64_t target, uint32_t live, unsigned how)
{
	struct emitter *e = &g->e;
	struct xl_exit *x = new_exit(g, which, target);
	bool back = (how & EXIT_POLL) || goes_back(g, target);
	bool far = (how & EXIT_GUARD) || !same_page(g, target);
	uint8_t *from[2];
	unsigned count = 0;

	if (far)
		gen_flags_lost(g, live);
	x->flags = live && (g->flags == FLAGS_HOST || g->flags == FLAGS_BOTH);
	if (back && x->flags) {
		from[count++] = gen_poll_flags(g);
	} else if (back) {
		emit_cmp_attention(e);
		from[count++] = emit_jcc(e, CC_NE);
	}
	if (far)
		from[count++] = gen_guard(g, x);
	gen_link(g, x, from, count);
}

void gen_fall_through(struct gen *g, uint64_t va)
{
	gen_exit(g, 0, va & g->c->rip_mask, g->live_out[0], 0);
}

/* Nothing needs to be looked at on the way there: a conditional jump may lead there itself. */
static bool goes_straight(const struct gen *g, uint64_t target)
{
	return same_page(g, target) && !goes_back(g, target);
}

/* A jump on cc to target as an exit; its stub is still to come. live: flags that are read there. */
static struct xl_exit *gen_straight(struct gen *g, unsigned cc, unsigned which, uint64_t target,
				    uint32_t live)
{
	struct xl_exit *x = new_exit(g, which, target);

	x->flags = live && (g->flags == FLAGS_HOST || g->flags == FLAGS_BOTH);
	x->jump = emit_jcc(&g->e, cc);
	return x;
}

/* The block goes on where the branch isn't taken. */
static void gen_jcc_passed(struct gen *g, struct xl_insn *x)
{
	struct xl_exit *exit;

	gen_flags_wanted(g);
	exit = gen_straight(g, x->u->aux & 15, x->u->reg, target_va(g, x), x->live_taken);
	gen_cold_exit(g, exit)->passed = true;
}

void gen_exit_passed(struct gen *g, struct xl_exit *exit)
{
	gen_exit_stub(g, exit, NULL, 0);
	emit_set_rel32(exit->jump, exit->stub);
}

/* At the end of a loop, which the branch leads back to. */
static void gen_jcc_loop(struct gen *g, struct xl_insn *x)
{
	enum flags_place at_branch;
	uint8_t *over;

	gen_flags_wanted(g);
	at_branch = g->flags;
	over = emit_jcc(&g->e, (x->u->aux & 15) ^ 1);
	gen_loop_again(g);
	emit_here(&g->e, over);
	g->flags = at_branch;
	gen_exit(g, 0, next_va(g, x) & g->c->rip_mask, g->live_out[0], 0);
}

void gen_exit_on_attention(struct gen *g, uint8_t *from, uint64_t va)
{
	gen_cold_exit(g, new_exit(g, CHAIN_END_TAKEN, va))->attention = from;
}

static void gen_jcc(struct gen *g, struct xl_insn *x)
{
	uint64_t target[2] = { next_va(g, x) & g->c->rip_mask, target_va(g, x) };
	unsigned cc = x->u->aux & 15, straight = goes_straight(g, target[1]);
	/* of block.chain, if the branch isn't taken */
	unsigned which = x->u->reg - 1u;
	struct xl_exit *other = NULL;
	enum flags_place at_branch;
	uint8_t *over = NULL;

	gen_flags_wanted(g);
	at_branch = g->flags;
	if (!straight)
		cc ^= 1;
	if (goes_straight(g, target[straight]))
		other =
		    gen_straight(g, cc, which + straight, target[straight], g->live_out[straight]);
	else
		over = emit_jcc(&g->e, cc);
	gen_exit(g, which + !straight, target[!straight], g->live_out[!straight], 0);
	if (other) {
		gen_exit_passed(g, other);
		return;
	}
	emit_here(&g->e, over);
	g->flags = at_branch;
	gen_exit(g, which + straight, target[straight], g->live_out[straight], 0);
}

/* LOOP and JRCXZ. The host's JRCXZ leaves flags alone, too. */
static void gen_loop(struct gen *g, struct xl_insn *x)
{
	bool on_zero = x->u->fn == sc_jcxz; /* it jumps then */
	enum flags_place at_branch = g->flags;
	uint64_t target[2] = { next_va(g, x) & g->c->rip_mask, target_va(g, x) };
	struct emitter *e = &g->e;
	uint8_t *other;

	if (!on_zero)
		emit_lea64(e, H_RCX, &(struct host_mem){ H_RCX, H_NONE, 0, false, -1 });
	emit8(e, 0xe3); /* jrcxz over the next two */
	emit8(e, 2);
	emit8(e, 0xeb);
	emit8(e, 5);
	emit8(e, 0xe9);
	emit32(e, 0);
	other = e->p - 4;
	gen_exit(g, !on_zero, target[!on_zero], g->live_out[!on_zero], 0);
	emit_here(e, other);
	g->flags = at_branch;
	gen_exit(g, on_zero, target[on_zero], g->live_out[on_zero], 0);
}

/* ---- the stack of calls ---- */

/* Stores the return address at the new top of the stack; the page's flags are not looked at yet. */
static void gen_push_return(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;
	struct host_mem to = gen_stack(g, x, -8, true);
	uint64_t va = next_va(g, x);

	if (fits_s32((int64_t)va)) {
		emit_store_imm64(e, &to, (int32_t)va);
		gen_moved(g, MOVE_VA_S32, 4);
	} else {
		gen_spare_scratch(g, x);
		gen_mov_va(g, SCRATCH1, va);
		emit_store64(e, SCRATCH1, &to);
		gen_restore_scratch(g, x);
	}
	emit_lea64(e, GUEST_RSP, &(struct host_mem){ GUEST_RSP, H_NONE, 0, false, -8 });
}

static unsigned user_index(const struct gen *g)
{
	return g->b->key & KEY_USER ? 1 : 0;
}

/* Begins a new vp.returns when it is full, and pushes the guest's return address there; SCRATCH0 is
 * lost. */
static void gen_expect_return(struct gen *g, const struct xl_insn *x)
{
	struct emitter *e = &g->e;
	uint64_t va = next_va(g, x);
	uint8_t *room;

	emit_rm(e, OP(.op = 0x3b, .w = true), H_RSP,
		AT_GS(VP_FIELD(returns_limit) + 8 * user_index(g)));
	room = emit_jcc8(e, CC_A);
	emit_load64(e, H_RSP, AT_GS(VP_FIELD(returns_top) + 8 * user_index(g)));
	emit_here8(e, room);
	if (fits_s32((int64_t)va)) {
		emit8(e, 0x68); /* push imm32 */
		gen_moves(g, MOVE_VA_S32);
		emit32(e, (uint32_t)va);
	} else {
		gen_mov_va(g, SCRATCH0, va);
		emit_plus_r(e, OP(.op = 0x50), SCRATCH0);
	}
}

/* Behind a call of the host: the way on when the guest returns. */
static void gen_returned(struct gen *g, const struct xl_insn *x)
{
	emit_lea64(&g->e, H_RSP, &(struct host_mem){ H_RSP, H_NONE, 0, false, 8 });
	g->flags = FLAGS_VP;
	gen_exit(g, 0, next_va(g, x), RF_ARITH, EXIT_GUARD);
}

static void gen_call(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;
	uint8_t *call;

	gen_flags_lost(g, RF_ARITH);
	gen_push_return(g, x);
	gen_stack_stored(g, x, XL_GO_ON);
	gen_look_at_stores(g, x, NULL);
	gen_slow_end(g);
	gen_expect_return(g, x);
	emit8(e, 0xe8); /* call */
	call = e->p;
	emit32(e, 0);
	gen_returned(g, x);
	emit_here(e, call);
	gen_exit(g, 1, target_va(g, x), RF_ARITH, EXIT_POLL);
}

/* ---- computed ---- */

void gen_find_jump(struct gen *g, struct xl_insn *x, bool user)
{
	struct emitter *e = &g->e;

	if (g->t->rorx) {
		emit_rorx32(e, SCRATCH1, SCRATCH0, 32 - JUMP_SHIFT);
	} else {
		emit_mov32(e, SCRATCH1, SCRATCH0);
		emit_rr(e, OP(.op = 0xc1), 0, SCRATCH1); /* rol */
		emit8(e, JUMP_SHIFT);
	}
	emit_rr(e, OP(.op = 0x31), SCRATCH0, SCRATCH1); /* xor */
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1);        /* and */
	emit32(e, (JUMPS - 1) << JUMP_SHIFT);
	emit_rm(e, OP(.op = 0x3b, .w = true), SCRATCH0, JUMP_FIELD(user, rip));
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_load32(e, SCRATCH0, JUMP_FIELD(user, xtlb));
	emit_load32(e, SCRATCH0, AT_GS_REG(SCRATCH0, 0));
	emit_rm(e, OP(.op = 0x3b), SCRATCH0, JUMP_FIELD(user, version));
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_cmp_attention(e);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
}

static void gen_find_own_jump(struct gen *g, struct xl_insn *x)
{
	gen_find_jump(g, x, user_index(g));
}

static void emit_jmp_code(struct gen *g)
{
	emit_rm(&g->e, OP(.op = 0xff), 4, JUMP_FIELD(user_index(g), code));
}

/* The entry of vp.returns in that depth. */
static void emit_cmp_return(struct emitter *e, unsigned depth)
{
	emit_rm(e, OP(.op = 0x3b, .w = true), SCRATCH0,
		&(struct host_mem){ H_RSP, H_NONE, 0, false, 16 * (int32_t)depth + 8 });
}

/* To the caller that vp.returns has last, or last but one; or, as the stack isn't what it was, to
 * anywhere, with a new vp.returns. */
static void gen_ret(struct gen *g, struct xl_insn *x)
{
	const struct host_mem popped = { GUEST_RSP, H_NONE, 0, false, 8 + x->u->imm };
	struct emitter *e = &g->e;
	uint32_t top = VP_FIELD(returns_top) + 8 * user_index(g);
	uint8_t *other, *unknown[2];
	struct host_mem from;
	const uint8_t *hit;

	gen_flags_lost(g, RF_ARITH);
	from = gen_stack(g, x, 0, false);
	emit_load64(e, SCRATCH0, &from);
	emit_cmp_return(e, 0);
	other = emit_jcc8(e, CC_NE);
	hit = e->p;
	emit_lea64(e, GUEST_RSP, &popped);
	emit8(e, 0xc3);
	emit_here8(e, other);
	emit_rm(e, OP(.op = 0x3b, .w = true), H_RSP, AT_GS(top));
	unknown[0] = emit_jcc8(e, CC_E);
	emit_cmp_return(e, 1);
	unknown[1] = emit_jcc8(e, CC_NE);
	emit_lea64(e, H_RSP, &(struct host_mem){ H_RSP, H_NONE, 0, false, 16 });
	emit_jmp(e, hit);
	emit_here8(e, unknown[0]);
	emit_here8(e, unknown[1]);
	gen_find_own_jump(g, x);
	emit_lea64(e, GUEST_RSP, &popped);
	emit_load64(e, H_RSP, AT_GS(top));
	emit_jmp_code(g);
	gen_slow_end(g);
}

/* The host register that has the target: SCRATCH0, unless it is a guest register's. */
static unsigned gen_target(struct gen *g, struct xl_insn *x)
{
	struct host_mem from;

	if (x->u->rm == OFF_NONE) {
		from = gen_load(g, x, 8, true);
		emit_load64(&g->e, SCRATCH0, &from);
		return SCRATCH0;
	}
	return gen_get(g, x->u->rm / 8u, SCRATCH0);
}

/* The target to SCRATCH0, from the VP unless a register of the guest still has it. */
static void gen_target_again(struct gen *g, unsigned target)
{
	if (target == SCRATCH0 || target == GUEST_RSP)
		emit_load64(&g->e, SCRATCH0, AT_GS(VP_FIELD(scratch[1])));
	else
		emit_mov64(&g->e, SCRATCH0, target);
}

static bool can_guess(const struct gen *g)
{
	return g->guess.load && (g->guess.held || !g->guess.hold);
}

static void gen_jmp_guessed(struct gen *g, struct xl_insn *x, unsigned target)
{
	struct guessed guessed = { .target = target };
	struct emitter *e = &g->e;

	if (target == SCRATCH0 || target == GUEST_RSP)
		emit_store64(e, target, AT_GS(VP_FIELD(scratch[1])));
	gen_guess(g, &guessed);
	emit_rr(e, OP(.op = 0xff), 4, SCRATCH1); /* jmp */
	gen_guess_wrong(g, x, &guessed);
	gen_target_again(g, target);
	gen_find_own_jump(g, x);
	emit_jmp_code(g);
}

static void gen_jmp_computed(struct gen *g, struct xl_insn *x)
{
	unsigned target;

	if (g->guess.held && g->flags == FLAGS_HOST) {
		emit_save_flags(&g->e, SCRATCH0);
		g->flags = FLAGS_BOTH;
	}
	gen_flags_lost(g, RF_ARITH);
	target = gen_target(g, x);
	if (can_guess(g)) {
		gen_jmp_guessed(g, x, target);
	} else {
		if (target != SCRATCH0)
			emit_mov64(&g->e, SCRATCH0, target);
		gen_find_own_jump(g, x);
		emit_jmp_code(g);
	}
	gen_slow_end(g);
}

/* The way to a called target's code, which goes to SCRATCH1. The slow path is as x with everything
 * done but the jump, for which the loop is needed. guessed: what to do if that was wrong, or NULL.
 */
static void gen_find_called(struct gen *g, struct xl_insn *x, unsigned target,
			    const struct guessed *guessed)
{
	struct uop *u = x->u, called = { .fn = sc_called };

	x->u = &called;
	if (guessed)
		gen_guess_wrong(g, x, guessed);
	gen_target_again(g, target);
	gen_find_own_jump(g, x);
	emit_load64(&g->e, SCRATCH1, JUMP_FIELD(user_index(g), code));
	g->slow = NULL;
	x->u = u;
}

/* The code is looked up last, so that it comes soon after the target where the host has guessed
 * wrong. When the push wrote to a page that somebody watches, the loop goes on. RSP may be the
 * target: what it was before is. */
static void gen_call_computed(struct gen *g, struct xl_insn *x)
{
	struct guessed guessed = { 0 };
	struct emitter *e = &g->e;
	unsigned target;

	gen_flags_lost(g, RF_ARITH);
	target = gen_target(g, x);
	emit_store64(e, target, AT_GS(VP_FIELD(scratch[1])));
	gen_need_canonical(g, x, target);
	gen_push_return(g, x);
	gen_stack_stored(g, x, XL_LEAVE_JUMPED);
	gen_slow_end(g);
	if (can_guess(g)) {
		gen_target_again(g, target);
		guessed.target = SCRATCH0;
		gen_guess(g, &guessed);
	} else {
		gen_find_called(g, x, target, NULL);
	}
	gen_expect_return(g, x);
	emit_rr(e, OP(.op = 0xff), 2, SCRATCH1); /* call */
	gen_returned(g, x);
	if (!guessed.go)
		return;
	gen_find_called(g, x, target, &guessed);
	emit_jmp(e, guessed.go);
}

void gen_flow(struct gen *g, struct xl_insn *x)
{
	gen_x87_note(g, &g->x87);
	switch (x->kind) {
	case XL_JCC:
		if (is_passed(g, x))
			gen_jcc_passed(g, x);
		else
			g->loop.there ? gen_jcc_loop(g, x) : gen_jcc(g, x);
		break;
	case XL_LOOP:
		gen_loop(g, x);
		break;
	case XL_JMP:
		gen_exit(g, 1, target_va(g, x), g->live_out[1], 0);
		break;
	case XL_CALL:
		gen_call(g, x);
		break;
	case XL_RET:
		gen_ret(g, x);
		break;
	case XL_JMP_COMPUTED:
		gen_jmp_computed(g, x);
		break;
	case XL_CALL_COMPUTED:
		gen_call_computed(g, x);
		break;
	default:
		gen_fall_through(g, g->xl->va + x->off);
	}
}
