/*
 * Loops: blocks that lead back to their own beginning. Where the addresses of accesses stay what
 * they are, move by a constant, or are those of a small table's elements, the TLB is asked once for
 * many iterations: code before the loop looks all of them up, and tells from how far the pages
 * reach how often the loop can go round before it must ask anew. The body comes twice. The fast one
 * knows where the host has what it accesses; if something can't be looked up, the usual one does
 * one iteration, which finds what is missing, raises exceptions and crosses pages.
 *
 * Nothing in such a loop changes address spaces, and whoever else takes a page away asks for
 * vp.attention, which is looked at before the fast body, so once in LOOP_ITERATIONS or more often.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

/* The longest body, as there are two of them. */
#define LOOP_INSNS 40
/* The most that are done without a look at vp.attention. */
#define LOOP_ITERATIONS 256u
/* The longest step, so that pages last for more than a few iterations. */
#define LOOP_STEP ((int64_t)MEM_PAGE_SIZE / 16)
/* What looking up one group may take, and what comes with it. */
#define LOOKUP_CODE_MAX 256u

#define CC_AE 3u

/* ---- what registers do in one iteration ---- */

enum motion { FIXED, LINEAR, WILD };

/* off: as in struct uop */
static enum motion motion_of(const struct gen *g, unsigned off, int64_t *ret_step)
{
	enum motion motion = FIXED;
	int64_t moved;

	*ret_step = 0;
	if (!off_is_gpr(off))
		return FIXED;
	for (unsigned i = 0; i < g->count; i++) {
		if (!(g->insns[i].writes & BIT(off / 8u)))
			continue;
		if (!access_movement(&g->insns[i], off / 8u, &moved) || !fits_s32(moved))
			return WILD;
		*ret_step += moved;
		motion = LINEAR;
	}
	return motion;
}

/* How far such a register has moved when x comes. */
static int64_t moved_before(const struct gen *g, const struct xl_insn *x, unsigned off)
{
	int64_t sum = 0, moved;

	for (const struct xl_insn *y = g->insns; y < x; y++)
		if (y->writes & BIT(off / 8u) && access_movement(y, off / 8u, &moved))
			sum += moved;
	return sum;
}

/* ---- which accesses ---- */

static bool in_host(unsigned off)
{
	return off_is_gpr(off) && !off_in_vp(off);
}

/* x as an access to one element of a table that lies on one page now; all of it is looked up. */
static bool describe_table(const struct gen *g, const struct xl_insn *x, unsigned base,
			   unsigned index, unsigned scale, struct access_group *s)
{
	uint64_t most, bytes, from;
	int64_t step;

	if (!in_host(index) || motion_of(g, base, &step) != FIXED || !table_base(g, x, base, &from))
		return false;
	most = table_most(g, x, index);
	if (most >= MEM_PAGE_SIZE)
		return false;
	bytes = (most << scale) + x->mem_size;
	from += (uint64_t)x->u->disp;
	if ((from & (MEM_PAGE_SIZE - 1)) + bytes > MEM_PAGE_SIZE)
		return false;
	s->key.base = (uint8_t)base;
	s->key.index = OFF_ZERO;
	s->key.scale = 0;
	s->var = (uint8_t)index;
	s->var_scale = (uint8_t)scale;
	s->from = x->u->disp;
	s->to = s->from + (int64_t)bytes;
	s->table = true;
	return true;
}

/* What x's access has in common with others of a group, if it can be known before the iteration. */
static bool describe(const struct gen *g, const struct xl_insn *x, const struct access *a,
		     struct access_group *ret)
{
	int64_t base_step, index_step;
	enum motion base = motion_of(g, a->key.base, &base_step);
	enum motion index = motion_of(g, a->key.index, &index_step);

	*ret = (struct access_group){ .key = a->key, .hoisted = true, .var = OFF_ZERO };
	if (base == FIXED && index == FIXED)
		return true;
	if (base == LINEAR && index == FIXED) {
		ret->var = a->key.base;
		ret->step = base_step;
	} else if (base == FIXED && index == LINEAR) {
		ret->var = a->key.index;
		ret->var_scale = a->key.scale;
		ret->step = index_step * (1 << a->key.scale);
	} else {
		return !a->align &&
		       (describe_table(g, x, a->key.base, a->key.index, a->key.scale, ret) ||
			(a->key.scale == 0 &&
			 describe_table(g, x, a->key.index, a->key.base, 0, ret)));
	}
	return in_host(ret->var) && ret->step && ret->step >= -LOOP_STEP &&
	       ret->step <= LOOP_STEP && !(a->align && ret->step % a->align);
}

static bool same_kind(const struct access_group *a, const struct access_group *b)
{
	return memcmp(&a->key, &b->key, sizeof(a->key)) == 0 && a->var == b->var &&
	       a->var_scale == b->var_scale && a->table == b->table;
}

static bool covers(const struct access_group *s, const struct access_group *table)
{
	return s->from == table->from && s->to >= table->to;
}

/* The register that says where an operand is is still what it was when x has stored to it. */
static bool keeps_place(const struct xl_insn *x, const struct access_group *s)
{
	return !x->mem_write || !off_is_gpr(s->var) || !(x->writes & BIT(s->var / 8u));
}

/* Its group in the fast body, or NULL. */
static struct access_group *hoist(struct gen *g, const struct xl_insn *x)
{
	struct loop *l = &g->loop;
	struct access_group kind, *s;
	struct access a;

	if (x->kind != XL_PLAIN || !access_of(g, x, &a) || !describe(g, x, &a, &kind) ||
	    !keeps_place(x, &kind))
		return NULL;
	if (kind.step)
		kind.at = moved_before(g, x, kind.var) * (1 << kind.var_scale);
	for (s = l->groups; s < l->groups + l->group_count; s++) {
		if (!same_kind(s, &kind))
			continue;
		s->at = kind.at;
		if (kind.table ? covers(s, &kind) : extend_group(s, &a))
			break;
	}
	if (s == l->groups + l->group_count) {
		if (l->group_count == LOOP_GROUPS)
			return NULL;
		*s = kind;
		s->slot = (uint8_t)l->group_count;
		if (!kind.table && !extend_group(s, &a))
			return NULL;
		l->group_count++;
	}
	if (kind.table)
		s->stores += a.write;
	return s;
}

static bool may_loop(const struct gen *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		switch (g->insns[i].kind) {
		case XL_NOTHING:
		case XL_PLAIN:
		case XL_DIVIDE:
		case XL_JCC:
			break;
		default:
			return false;
		}
	}
	return true;
}

/* A register by whose value iterations are counted. */
static void find_counter(struct gen *g)
{
	struct loop *l = &g->loop;

	l->counter = OFF_ZERO;
	for (unsigned i = 0; i < l->group_count && l->counter == OFF_ZERO; i++)
		if (l->groups[i].step) {
			l->counter = l->groups[i].var;
			motion_of(g, l->counter, &l->counter_step);
		}
}

/* Flags that are read at the beginning would have to be kept from before the look-ups. */
void find_loop(struct gen *g)
{
	struct loop *l = &g->loop;

	l->group_count = l->fail_count = 0;
	l->there = l->looking_up = l->fast = false;
	if (!leads_to_itself(g) || g->count > LOOP_INSNS || g->c->lockstep ||
	    (g->b->key & ~KEY_USER) != MODE_64 || live_before(&g->insns[0]) || !may_loop(g))
		return;
	if (!emit_room(&g->e, 2 * (g->count + 1) * INSN_CODE_MAX + LOOP_GROUPS * LOOKUP_CODE_MAX +
				  BLOCK_CODE_MAX))
		return;
	for (unsigned i = 0; i < g->count; i++)
		l->of[i] = hoist(g, &g->insns[i]);
	l->there = l->group_count > 0;
	find_counter(g);
}

/* ---- looking up ---- */

/* Of a group that moves, SCRATCH0 being the host's address of its lowest byte: so many more
 * iterations stay on the page. The step counts as the next power of two. */
static void gen_count(struct gen *g, const struct access_group *s)
{
	uint64_t step = (uint64_t)(s->step < 0 ? -s->step : s->step);
	struct emitter *e = &g->e;
	unsigned shift = 0;
	uint8_t *enough;

	while (BIT(shift) < step)
		shift++;
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1); /* and */
	emit32(e, MEM_PAGE_SIZE - 1);
	if (s->step > 0) {
		emit_rr(e, OP(.op = 0x81), 6, SCRATCH1); /* xor: what is behind that byte */
		emit32(e, MEM_PAGE_SIZE - 1);
		emit_rr(e, OP(.op = 0x81), 5, SCRATCH1); /* sub */
		emit32(e, (uint32_t)(s->to - s->from) - 1);
	}
	emit_rr(e, OP(.op = 0xc1), 5, SCRATCH1); /* shr */
	emit8(e, shift);
	emit_rm(e, OP(.op = 0x3b), SCRATCH1, AT_GS(VP_FIELD(loop_more)));
	enough = emit_jcc8(e, CC_AE);
	emit_rm(e, OP(.op = 0x89), SCRATCH1, AT_GS(VP_FIELD(loop_more)));
	emit_here8(e, enough);
}

/* SCRATCH0: the host's address of the lowest byte, becomes what the part that varies is added to.
 */
static void gen_without_var(struct gen *g, const struct access_group *s)
{
	struct emitter *e = &g->e;

	if (!s->step)
		return;
	emit_mov64(e, SCRATCH1, host_gpr(s->var / 8u));
	if (s->var_scale) {
		emit_rr(e, OP(.op = 0xc1, .w = true), 4, SCRATCH1); /* shl */
		emit8(e, s->var_scale);
	}
	emit_rr(e, OP(.op = 0x29, .w = true), SCRATCH1, SCRATCH0); /* sub */
}

static void gen_look_up(struct gen *g, const struct access_group *s)
{
	struct uop place = { .base = s->key.base,
			     .index = s->key.index,
			     .scale = s->key.scale,
			     .seg = s->key.seg ? s->key.seg : SEG_SLOT_ZERO,
			     .disp = s->from };
	struct xl_insn x = { .u = &place };
	struct emitter *e = &g->e;

	gen_address(g, &x);
	gen_translate(g, &x, (unsigned)(s->to - s->from), s->stores, s->align);
	if (s->stores) {
		gen_page_flags(g);
		emit_store64(e, SCRATCH1, AT_GS(GROUP_FLAGS(s)));
	}
	if (s->step)
		gen_count(g, s);
	gen_without_var(g, s);
	emit_store64(e, SCRATCH0, AT_GS(GROUP_HOST(s)));
}

/* What the counter is when the groups must be looked up anew. */
static void gen_limit(struct gen *g)
{
	unsigned counter = host_gpr(g->loop.counter / 8u);
	int32_t step = (int32_t)g->loop.counter_step;
	struct emitter *e = &g->e;

	emit_load32(e, SCRATCH1, AT_GS(VP_FIELD(loop_more)));
	emit_rr(e, OP(.op = 0x69, .w = true), SCRATCH1, SCRATCH1); /* imul */
	emit32(e, (uint32_t)step);
	emit_lea64(e, SCRATCH1, &(struct host_mem){ SCRATCH1, (uint8_t)counter, 0, false, step });
	emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(loop_limit)));
}

/* ---- the whole ---- */

/* Never linked: the loop of C code must go on. */
static void gen_attention(struct gen *g)
{
	emit_cmp_attention(&g->e);
	gen_exit_on_attention(g, emit_jcc(&g->e, CC_NE), g->xl->va);
}

static void gen_body(struct gen *g, bool fast)
{
	struct loop *l = &g->loop;

	g->flags = FLAGS_NOWHERE;
	g->sse_ready = g->avx_ready = g->x87_ready = false;
	g->held = NULL;
	g->slow = NULL;
	g->unseen = 0;
	l->fast = fast;
	for (unsigned i = 0; i < g->count; i++) {
		struct access_group *usual = g->insns[i].group;

		if (fast)
			g->insns[i].group = l->of[i];
		gen_insn(g, &g->insns[i]);
		g->insns[i].group = usual;
	}
}

void gen_loop_block(struct gen *g)
{
	struct loop *l = &g->loop;
	struct emitter *e = &g->e;

	l->entry = e->p;
	gen_attention(g);
	emit_rm(e, OP(.op = 0xc7), 0, AT_GS(VP_FIELD(loop_more)));
	emit32(e, LOOP_ITERATIONS - 1);
	l->looking_up = true;
	for (unsigned i = 0; i < l->group_count; i++)
		gen_look_up(g, &l->groups[i]);
	l->looking_up = false;
	if (l->counter != OFF_ZERO)
		gen_limit(g);
	l->body = e->p;
	gen_body(g, true);
	for (unsigned i = 0; i < l->fail_count; i++)
		emit_here(e, l->fail[i]);
	gen_body(g, false);
}

/* The branch back, when it is taken. */
void gen_loop_again(struct gen *g)
{
	struct loop *l = &g->loop;
	struct emitter *e = &g->e;
	unsigned again = CC_E;

	if (l->fast && l->counter != OFF_ZERO) {
		emit_rm(e, OP(.op = 0x3b, .w = true), host_gpr(l->counter / 8u),
			AT_GS(VP_FIELD(loop_limit)));
		again = CC_NE;
	} else if (l->fast) {
		emit_cmp_attention(e);
	}
	if (l->fast)
		emit_set_rel32(emit_jcc(e, again), l->body);
	emit_jmp(e, l->entry);
}

/* ---- accesses of the fast body ---- */

struct host_mem gen_loop_access(struct gen *g, const struct xl_insn *x)
{
	const struct access_group *s = x->group;
	uint8_t var = H_NONE;

	if (s->var != OFF_ZERO)
		var = (uint8_t)host_gpr(s->var / 8u);
	return (struct host_mem){ SCRATCH0, var, s->var_scale, false,
				  (int32_t)(x->u->disp - s->from) };
}
