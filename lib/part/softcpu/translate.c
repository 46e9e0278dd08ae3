/*
 * Translating one block: decoding its instructions once more, finding out which flags are live
 * where, and laying out code and slow paths.
 */
#include "part/softcpu/translate.h"
#include "base/clock.h"
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"
#include "part/softcpu/translate-gen.h"

#define LOOKAHEAD_INSNS 8
#define LOOKAHEAD_DEPTH 2

/* ---- the block's instructions ---- */

/* How many uops an instruction takes. */
static unsigned uops_of(const struct uop *u)
{
	return u->fn == sc_hostop ? 1 + HOSTOP_UOPS : 1;
}

static bool is_end(const struct gen *g, const struct uop *u)
{
	return u->fn == sc_block_end && u == &g->b->uops[g->b->uop_count - 1];
}

/* LOOP and JRCXZ, whose condition is not a flag's. */
static bool can_loop(const struct gen *g, const struct xl_insn *x)
{
	return (g->b->key & KEY_MODE) == MODE_64 && !x->u->ea && x->u->size == 8 &&
	       (x->u->fn == sc_jcxz || x->u->aux == LOOP_ALWAYS);
}

static void classify_flow(struct gen *g, struct xl_insn *x)
{
	sc_fn *fn = x->u->fn;
	bool direct = (g->b->key & KEY_MODE) == MODE_64 || (g->b->key & KEY_FLAT);

	x->kind = XL_INTERPRET;
	if (fn == sc_jcc64[x->u->aux & 15] && direct)
		x->kind = XL_JCC;
	else if ((fn == sc_loop || fn == sc_jcxz) && can_loop(g, x))
		x->kind = XL_LOOP;
	else if (fn == sc_jmp64 && direct)
		x->kind = XL_JMP;
	else if (fn == sc_call64)
		x->kind = XL_CALL;
	else if (fn == sc_ret64)
		x->kind = XL_RET;
	else if (fn == sc_jmp64_r || fn == sc_jmp64_m)
		x->kind = XL_JMP_COMPUTED;
	else if (fn == sc_call64_r || fn == sc_call64_m)
		x->kind = XL_CALL_COMPUTED;
}

static bool has_high(const struct xl_insn *x)
{
	return x->reg.class == OPERAND_HIGH || x->rm.class == OPERAND_HIGH;
}

static bool needs_rex(const struct xl_operand *o)
{
	return o->class == OPERAND_GPR && (o->number >= 8 || o->number == PART_RSP);
}

/* AH to BH can't be encoded beside what needs a REX prefix, which SCRATCH0 does. */
static bool encodable(const struct xl_insn *x)
{
	/* Three registers in the VP, or two and an address, are more than there are scratch ones.
	 */
	if (in_vp(&x->vex) && in_vp(&x->reg) && x->mem_size)
		return false;
	if (!has_high(x))
		return true;
	return !x->mem_size && !needs_rex(&x->reg) && !needs_rex(&x->rm) && !x->op.w &&
	       !(x->reg.class == OPERAND_GPR && x->reg.size == 1 && x->reg.number >= 4) &&
	       !(x->rm.class == OPERAND_GPR && x->rm.size == 1 && x->rm.number >= 4);
}

/* The interpreter's choice of handler says more than the bytes: whether the guest has the
 * instruction at all, and 64-bit forms. */
static void classify_by_handler(struct gen *g, struct xl_insn *x)
{
	sc_fn *fn = x->u->fn;
	const struct hostop *op = (const struct hostop *)(x->u + 1);

	switch (x->kind) {
	case XL_PUSH:
		if (fn != sc_push64_r && fn != sc_push64_i)
			x->kind = XL_INTERPRET;
		break;
	case XL_POP:
		if (fn != sc_pop64_r)
			x->kind = XL_INTERPRET;
		break;
	case XL_LEAVE_FRAME:
		if (fn != sc_leave64)
			x->kind = XL_INTERPRET;
		break;
	case XL_PLAIN:
		if (fn == sc_raise_uop || (x->mem_size && x->u->ea & ~EA_A32) || !encodable(x))
			x->kind = XL_INTERPRET;
		if ((x->sse && (fn != sc_hostop || op->unit != HOSTOP_SSE)) ||
		    (x->avx && (fn != sc_hostop || op->unit != HOSTOP_AVX)) ||
		    (x->mmx && (fn != sc_hostop || op->unit != HOSTOP_MMX)))
			x->kind = XL_INTERPRET;
		if ((x->sse || x->mmx || x->avx) && x->kind == XL_PLAIN && x->mem_size) {
			x->mem_size = (uint8_t)op->mem_size;
			x->mem_aligned = op->mem_align > 1;
		}
		break;
	case XL_LDMXCSR:
		if (fn != sc_hostop || op->unit != (x->avx ? HOSTOP_AVX : HOSTOP_SSE) ||
		    x->u->ea & ~EA_A32)
			x->kind = XL_INTERPRET;
		break;
	case XL_X87:
	case XL_X87_FLDCW:
		if (fn != sc_hostop || (op->unit != HOSTOP_X87 && op->unit != HOSTOP_FWAIT) ||
		    (x->mem_size && (x->u->ea & ~EA_A32)) || x->u->seg == PART_FS ||
		    x->u->seg == PART_GS)
			x->kind = XL_INTERPRET;
		else
			x->mem_size = (uint8_t)op->mem_size;
		break;
	case XL_STRING:
		xl_classify_string(g, x);
		break;
	case XL_DIVIDE:
	case XL_NOTHING:
		if (fn == sc_raise_uop || (x->mem_size && x->u->ea & ~EA_A32))
			x->kind = XL_INTERPRET;
		break;
	default:
		classify_flow(g, x);
	}
	if (x->kind == XL_LOOP)
		x->use = x->kill = 0;
	if (x->kind == XL_INTERPRET && !xl_classify_system(g, x) && !xl_classify_entry(g, x) &&
	    !xl_classify_bits(x)) {
		x->use = RF_ARITH;
		x->kill = 0;
	}
}

/* The block's bytes, one after the other, and how many there are at most. */
static const uint8_t *code_of(const struct gen *g, uint8_t buffer[INSN_MAX_BYTES], size_t *ret_room)
{
	const struct block *b = g->b;
	size_t first = MEM_PAGE_SIZE - (b->gpa & (MEM_PAGE_SIZE - 1));
	const uint8_t *code = sc_ram(g->c->vm, b->gpa);

	*ret_room = first;
	if (b->gpa2 == GPA_NONE)
		return code;
	*ret_room = b->len;
	memcpy(buffer, code, first);
	memcpy(buffer + first, sc_ram(g->c->vm, b->gpa2), b->len - first);
	return buffer;
}

/* Whether what is behind a branch isn't worth translating with what is before it, as the branch was
 * mostly taken when the block was interpreted. Lockstep ends blocks where the interpreter does. */
static bool mostly_taken(const struct gen *g, const struct xl_insn *x)
{
	return x->kind == XL_JCC && x->u->reg != CHAIN_END_TAKEN && !g->c->lockstep &&
	       x->u->index > g->t->hot / 4;
}

/* False: the bytes are not any more what the block was made from. */
static bool decode_block(struct gen *g)
{
	struct block *b = g->b;
	struct uop *u = b->uops, *end = b->uops + b->uop_count;
	uint8_t buffer[INSN_MAX_BYTES];
	size_t room;
	const uint8_t *code = code_of(g, buffer, &room);

	while (u < end && g->count <= BLOCK_MAX_INSNS) {
		struct xl_insn *x = &g->insns[g->count];

		*x = (struct xl_insn){ .u = u, .off = u->off, .len = u->len };
		if (is_end(g, u)) {
			x->kind = XL_END;
		} else if (u->fn == sc_check_second_page) {
			x->kind = XL_SECOND_PAGE;
		} else if (!xl_decode(g->c, b->key, code + u->off, room - u->off, x) ||
			   x->len != u->len) {
			if (u->fn != sc_raise_uop)
				return false;
			x->kind = XL_INTERPRET;
			x->use = RF_ARITH;
		} else {
			classify_by_handler(g, x);
		}
		g->count++;
		u += uops_of(u);
		if (mostly_taken(g, x))
			return true;
	}
	return u == end;
}

/* ---- liveness of flags ---- */

/* What of the page the translation depends on. */
static void note_seen(struct gen *g, unsigned from, unsigned to)
{
	struct block *b = g->b;

	if (from < b->seen_from)
		b->seen_from = (uint16_t)from;
	if (to > b->seen_to)
		b->seen_to = (uint16_t)to;
}

/* The flags that code at va reads before it writes them; what isn't known counts as read. Only
 * inside the block's page. */
static uint32_t flags_read_at(struct gen *g, uint64_t va, unsigned depth)
{
	struct xl_insn x;
	uint32_t read = 0, open = RF_ARITH;
	unsigned at = va & (MEM_PAGE_SIZE - 1);
	const uint8_t *page = sc_ram(g->c->vm, g->b->gpa & ~(uint64_t)(MEM_PAGE_SIZE - 1));

	if (g->t->exact_flags || (va ^ g->xl->va) >= MEM_PAGE_SIZE)
		return RF_ARITH;
	for (unsigned n = 0; n < LOOKAHEAD_INSNS && open; n++) {
		x = (struct xl_insn){ .u = NULL };
		if (!xl_decode(g->c, g->b->key, page + at, MEM_PAGE_SIZE - at, &x))
			break;
		note_seen(g, at, at + x.len);
		at += x.len;
		va += x.len;
		read |= x.use & open;
		open &= ~x.kill;
		if (x.kind == XL_JCC || x.kind == XL_JMP) {
			uint64_t target = va + (uint64_t)(int64_t)x.rel;
			uint32_t beyond = RF_ARITH;

			if (depth) {
				beyond = flags_read_at(g, target, depth - 1);
				if (x.kind == XL_JCC)
					beyond |= flags_read_at(g, va, depth - 1);
			}
			return read | (beyond & open);
		}
		if (x.kind == XL_INTERPRET || at >= MEM_PAGE_SIZE)
			break;
	}
	return read | open;
}

static uint32_t flags_read_after(struct gen *g, const struct xl_insn *last)
{
	g->live_out[0] = g->live_out[1] = RF_ARITH;
	switch (last->kind) {
	case XL_JCC:
	case XL_LOOP:
		g->live_out[0] = flags_read_at(g, next_va(g, last), LOOKAHEAD_DEPTH);
		/* fall through */
	case XL_JMP:
		g->live_out[1] = flags_read_at(g, target_va(g, last), LOOKAHEAD_DEPTH);
		return last->kind == XL_JMP ? g->live_out[1] : g->live_out[0] | g->live_out[1];
	case XL_END:
		g->live_out[0] = flags_read_at(g, g->xl->va + last->off, LOOKAHEAD_DEPTH);
		return g->live_out[0];
	default:
		return RF_ARITH;
	}
}

static void find_live_flags(struct gen *g)
{
	uint32_t live = flags_read_after(g, &g->insns[g->count - 1]);

	for (unsigned i = g->count; i-- > 0;) {
		struct xl_insn *x = &g->insns[i];

		if (is_passed(g, x)) {
			x->live_taken = flags_read_at(g, target_va(g, x), LOOKAHEAD_DEPTH);
			live |= x->live_taken;
		}
		if (g->t->exact_flags && x->kind != XL_END)
			x->use = RF_ARITH;
		x->live = live;
		live = live_before(x);
	}
}

/* What is looked at must be marked as code before it is read: until the range doesn't grow. */
static void find_live_flags_watched(struct gen *g, uint64_t page_gpa)
{
	struct block *b = g->b;
	unsigned from, to;

	do {
		from = b->seen_from;
		to = b->seen_to;
		sc_mark_code(g->c, page_gpa + from, to - from);
		find_live_flags(g);
	} while (b->seen_from < from || b->seen_to > to);
}

/* ---- laying it out ---- */

/* Where the store was. */
static void gen_stored_host(struct gen *g, const struct cold *k)
{
	struct host_mem at;

	gen_group_host(g, k->stored);
	if (!k->stored->hoisted)
		return;
	k->stored_by->group = (struct access_group *)k->stored;
	at = gen_loop_access(g, k->stored_by);
	emit_lea64(&g->e, SCRATCH0, &at);
}

static void emit_cold(struct gen *g, struct cold *k)
{
	struct emitter *e = &g->e;

	if (k->foretold) {
		gen_foretold_wrong(g, k);
		return;
	}
	for (unsigned i = 0; i < k->again_count; i++)
		emit_here(e, k->from[i]);
	if (k->again)
		gen_load_again(g, k);
	for (unsigned i = k->again_count; i < k->from_count; i++)
		emit_here(e, k->from[i]);
	if (k->rcx_saved)
		emit_load64(e, H_RCX, AT_GS(VP_FIELD(scratch[3])));
	gen_x87_note(g, &k->x87);
	if (k->exit) {
		k->passed ? gen_exit_passed(g, k->exit) : gen_exit_apart(g, k->exit, k->attention);
		return;
	}
	if (k->stored)
		gen_stored_host(g, k);
	gen_call_c(g, k->site, k->call);
	if (k->held)
		gen_group_host(g, k->held);
	if (k->back)
		emit_jmp(e, k->back);
}

/* Whether flags that come from before are wanted in the VP, as code that destroys them comes first,
 * not code that uses or changes them. */
static bool wants_flags_in_vp(const struct gen *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		const struct xl_insn *x = &g->insns[i];

		switch (x->kind) {
		case XL_NOTHING:
			break;
		case XL_PLAIN:
			if (x->sse || x->mmx || x->avx || (x->mem_size && !keeps_flags(x)))
				return true;
			if (x->use || x->writes_flags)
				return false;
			break;
		case XL_JCC:
		case XL_LOOP:
		case XL_JMP:
		case XL_END:
			return false;
		default:
			return true;
		}
	}
	return false;
}

/* Both ways in: with the guest's flags in the VP and in the host's. */
static void emit_entries(struct gen *g)
{
	const struct code_cache *cache = &g->t->cache;

	g->flags = FLAGS_NOWHERE;
	g->xl->entry = g->xl->entry_flags = code_cache_rx(cache, g->e.p);
	if (!live_before(&g->insns[0]))
		return;
	if (wants_flags_in_vp(g)) {
		emit_save_flags(&g->e, SCRATCH1);
		g->xl->entry = code_cache_rx(cache, g->e.p);
		g->flags = FLAGS_VP;
	} else {
		emit_restore_flags(&g->e);
		g->xl->entry_flags = code_cache_rx(cache, g->e.p);
		g->flags = FLAGS_HOST;
	}
}

static void emit_block(struct gen *g)
{
	emit_entries(g);
	if (g->loop.there)
		gen_loop_block(g);
	for (unsigned i = 0; i < g->count && !g->loop.there; i++)
		gen_insn(g, &g->insns[i]);
	for (unsigned i = 0; i < g->cold_count; i++)
		emit_cold(g, &g->colds[i]);
}

/* ---- the whole ---- */

static bool translatable(const struct vp *c, const struct block *b)
{
	unsigned mode = b->key & KEY_MODE;

	return b->live && sc_ram(c->vm, b->gpa) &&
	       (b->gpa2 == GPA_NONE || sc_ram(c->vm, b->gpa2)) &&
	       !(b->key & (KEY_STEP | KEY_ALIGN)) &&
	       (mode == MODE_64 || (mode == MODE_32 && (b->key & KEY_FLAT)));
}

static struct block *enter(struct vp *c, struct uop *u);

/* Keeps what a copy must change. Without room there are none. */
static void note_moves(struct gen *g)
{
	struct xl_move *moves;

	g->xl->size = (uint32_t)(g->c->arena + g->c->arena_used - (uint8_t *)g->xl);
	if (!g->movable)
		return;
	moves = sc_arena_alloc(g->c, g->move_count * sizeof(*moves));
	if (!moves)
		return;
	memcpy(moves, g->moves, g->move_count * sizeof(*moves));
	g->xl->move_count = g->move_count;
}

/* Makes the translation known; from now on the block's first handler enters it. */
static void publish(struct gen *g)
{
	struct block *b = g->b;
	struct code_cache *cache = &g->t->cache;

	g->t->written = true;
	g->xl->code_size = (uint32_t)(g->e.p - g->xl->code);
	note_moves(g);
	cache->used = ALIGN_UP((size_t)(g->e.p - cache->rw), 16);
	g->xl->next = b->xls;
	b->xls = g->xl;
	if (b->uops[0].fn != enter) {
		b->interpret = b->uops[0].fn;
		b->uops[0].fn = enter;
	}
	g->t->translations++;
	g->t->translated_insns += g->insns[g->count - 1].kind == XL_END ? g->count - 1 : g->count;
}

static struct gen *begin(struct vp *c, struct block *b, struct gen *g)
{
	struct code_cache *cache = &c->translator->cache;

	g->c = c;
	g->t = c->translator;
	g->b = b;
	g->count = g->cold_count = g->group_count = g->unseen = g->move_count = 0;
	/* Kernels stay where they are. */
	g->movable = (b->key & ~KEY_APART) == (MODE_64 | KEY_USER);
	g->sse_ready = g->x87_ready = g->avx_ready = g->full = g->apart = false;
	g->x87.pending = false;
	g->slow = NULL;
	g->held = NULL;
	g->tlb = (uint32_t)((uint8_t *)&c->tlbs[b->key & KEY_USER ? 1 : 0] - (uint8_t *)c);
	code_cache_touch(cache);
	g->e = (struct emitter){ cache->rw + cache->used, cache->rw + cache->end };
	g->xl = gen_data(g, sizeof(*g->xl));
	if (!g->xl || !emit_room(&g->e, (b->insns + 1) * INSN_CODE_MAX + BLOCK_CODE_MAX))
		return NULL;
	*g->xl = (struct xl){ .block = b, .va = RIP(c), .code = g->e.p };
	return g;
}

static bool translate(struct vp *c, struct block *b)
{
	uint64_t page_gpa = b->gpa & ~(uint64_t)(MEM_PAGE_SIZE - 1);
	unsigned at = (unsigned)(b->gpa - page_gpa);
	struct gen g;

	if (!begin(c, b, &g))
		return false;
	if (b->interpret) /* decode_block looks at it */
		b->uops[0].fn = b->interpret;
	if (!b->xls) {
		b->seen_from = (uint16_t)at;
		b->seen_to = (uint16_t)MIN(at + b->len, MEM_PAGE_SIZE);
	}
	if (decode_block(&g)) {
		find_live_flags_watched(&g, page_gpa);
		if (!(b->key & KEY_APART))
			find_access_groups(&g);
		find_guess(&g);
		find_chained(&g);
		find_loop(&g);
		emit_block(&g);
		if (!g.full)
			publish(&g);
	}
	if (b->xls)
		b->uops[0].fn = enter;
	return !g.full;
}

bool sc_translate(struct vp *c, struct block *b)
{
	uint64_t start;
	bool done;

	if (!translatable(c, b) || translate_copy(c, b, RIP(c)))
		return true;
	start = clock_now_ns();
	done = translate(c, b);
	if (!done)
		sc_blocks_flush(c);
	c->translator->ns += clock_now_ns() - start;
	return done;
}

/* ---- entering ---- */

/* So that computed jumps find it. */
static void note_jump(struct vp *c, struct xl *x)
{
	struct sc_xtlb_entry *page = sc_xtlb_slot(c, x->va);

	if (c->lockstep || (x->block->key & ~KEY_USER) != MODE_64 ||
	    !sc_xtlb_maps(c, x->va, x->block))
		return;
	*sc_jump_slot(c, x->block->key, x->va) =
	    (struct sc_jump){ .rip = x->va,
			      .code = x->entry,
			      .xtlb = (uint32_t)((uint8_t *)&page->version - (uint8_t *)c),
			      .version = page->version,
			      .xl = x };
}

/* How often a block that has no translation for the address is interpreted before it gets one. */
static unsigned missing_hot(const struct translator *t, const struct block *b)
{
	return translate_can_copy(b) ? MIN(t->hot, COPY_HOT) : t->hot;
}

static struct block *enter(struct vp *c, struct uop *u)
{
	struct block *b = c->blk;
	struct xl *x = sc_translation_at(b, RIP(c));

	if (unlikely(!x)) {
		if (++b->misses < missing_hot(c->translator, b))
			return b->interpret(c, u);
		b->misses = 0;
		if (!sc_translate(c, b))
			return NULL;
		x = sc_translation_at(b, RIP(c));
		if (!x)
			return b->interpret(c, u);
	}
	note_jump(c, x);
	translate_serialize(c->translator);
	translate_bind_thread(c);
	return c->translator->enter(x->entry);
}
