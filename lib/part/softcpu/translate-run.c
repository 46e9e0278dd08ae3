/*
 * The C side of running translations: slow paths, exits and their links, and dropping translations.
 */
#include "part/softcpu/fast.h"
#include "part/softcpu/translate.h"

#include <asm/prctl.h>
#include <immintrin.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What the handler of one instruction returns when it is done and nothing else happened. */
static struct block done_block;

#define LEAVE_FOR_LOOP 1 /* no block */

struct block *sc_uop_done(struct vp *c, struct uop *u)
{
	return &done_block;
}

struct block *sc_called(struct vp *c, struct uop *u)
{
	RIP(c) = c->scratch[1];
	return sc_jcache_find(c, RIP(c));
}

/* The jump that a wrong guess was made for leads there. */
static void put_guess(struct vp *c, const struct sc_jump *j)
{
	c->guess_wait = GUESS_WAIT;
	if (!(c->key & KEY_USER))
		return;
	c->guesses[c->guess_slot / GUESS_UNIT % GUESSES] = *j;
	j->xl->guessed = true;
}

/* Leaves for next, or for RIP(c) when that is NULL: without the loop, if there is nothing for it to
 * do and a translation is known. */
static uintptr_t leave_for(struct vp *c, const struct block *next)
{
	const struct sc_jump *j = sc_jump_slot(c, c->key, RIP(c));

	if (c->lockstep || j->rip != RIP(c) || (c->key & ~KEY_USER) != MODE_64 ||
	    *(const uint32_t *)((const uint8_t *)c + j->xtlb) != j->version ||
	    atomic_load_explicit(&c->attention, memory_order_relaxed))
		return (uintptr_t)next + 1;
	c->link = NULL;
	c->resume = j->code;
	if (unlikely(c->guess_wait < 0))
		put_guess(c, j);
	return XL_RESUME;
}

static uintptr_t leave_at(struct vp *c, uint64_t rip)
{
	RIP(c) = rip & c->rip_mask;
	c->link = NULL;
	if (unlikely(c->lockstep))
		sc_lockstep_left_early(c);
	return LEAVE_FOR_LOOP;
}

/* Of the block that runs, as long as no block became stale; the block itself isn't looked at, nor
 * is anything else that hardly ever is in the host's caches. */
static bool still_live(const struct vp *c, uint64_t stale, const struct xl_site *s)
{
	return likely(c->stale_blocks == stale) || s->xl->block->live;
}

/* Before translated code goes on: C code may have changed it. */
static uintptr_t executable(const struct vp *c, uintptr_t how)
{
	translate_serialize(c->translator);
	return how;
}

static uintptr_t interpret_site(struct vp *c, uint32_t site)
{
	struct xl_site *s = translate_named(c, site);
	uint64_t stale = c->stale_blocks;
	struct block *next;

	RIP(c) = s->xl->va;
	c->blk = s->xl->block;
	next = s->u[0].fn(c, s->u);
	if (next != &done_block)
		return leave_for(c, next);
	if (s->after == XL_SECOND_PAGE_THERE) {
		put_version(s->xl->code + s->xl->second_page,
			    sc_xtlb_slot(c, second_page_va(c, s->xl->va))->version);
		c->translator->written = true;
	}
	if (likely(s->after == XL_GO_ON || s->after == XL_SECOND_PAGE_THERE) &&
	    still_live(c, stale, s))
		return 0;
	return leave_at(c, s->xl->va + s->next_off);
}

uintptr_t translate_slow(struct vp *c, uint32_t site)
{
	return executable(c, interpret_site(c, site));
}

static uintptr_t look_at_store(struct vp *c, uint32_t site, uint8_t *host)
{
	struct xl_site *s = translate_named(c, site);
	uint64_t stale = c->stale_blocks;

	sc_stored(c, host, s->size == WRITTEN_BULK ? (unsigned)c->scratch[2] : s->size);
	if (s->after == XL_LEAVE_JUMPED)
		return leave_at(c, c->scratch[1]);
	if (still_live(c, stale, s))
		return 0;
	if (s->after == XL_REPEAT && c->gpr[PART_RCX])
		return leave_at(c, s->xl->va + s->off);
	return leave_at(c, s->xl->va + s->next_off);
}

uintptr_t translate_stored(struct vp *c, uint32_t site, uint8_t *host)
{
	return executable(c, look_at_store(c, site, host));
}

/* ---- links ---- */

static void unlink_exit(struct vp *c, struct xl_exit *x)
{
	c->translator->written = true;
	*x->link = x->next_into;
	if (x->next_into)
		x->next_into->link = x->link;
	x->to = NULL;
	emit_set_rel32(x->jump, x->stub);
}

static void link_exit(struct vp *c, struct xl_exit *x, struct xl *to)
{
	const struct code_cache *cache = &c->translator->cache;
	const uint8_t *entry = x->flags ? to->entry_flags : to->entry;

	c->translator->written = true;
	if (x->guard)
		put_version(x->guard, sc_xtlb_slot(c, x->target)->version);
	if (x->to == to)
		return;
	if (x->to)
		unlink_exit(c, x);
	x->to = to;
	x->next_into = to->incoming;
	x->link = &to->incoming;
	if (x->next_into)
		x->next_into->link = &x->next_into;
	to->incoming = x;
	emit_set_rel32(x->jump, cache->rw + (entry - cache->rx));
}

/* The translation of the block that begins at RIP(c) and has no groups, or NULL. False: all blocks
 * were flushed. */
static bool find_apart(struct vp *c, struct xl **ret)
{
	uint64_t flushes = c->flushes;
	struct block *b = sc_lookup(c, KEY_APART);

	if (c->flushes != flushes)
		return false;
	*ret = sc_translation_at(b, RIP(c));
	if (*ret)
		return true;
	if (!sc_translate(c, b))
		return false;
	*ret = sc_translation_at(b, RIP(c));
	return true;
}

/* The accesses of a group aren't on one page that the TLB has: the page was not there, or they lie
 * on two, and then do so again and again. */
static uintptr_t go_on_apart(struct vp *c, struct xl_exit *x)
{
	const struct translator *t = c->translator;
	uint64_t made = t->translations + t->copies, va = x->from->va;
	struct block *b = x->from->block;
	struct uop *u = &b->uops[x->uop];
	struct xl *to = NULL;

	if (unlikely(!b->live))
		return leave_at(c, x->target);
	if (x->interpreted < t->hot) {
		x->interpreted++;
	} else if (!c->lockstep) {
		RIP(c) = x->target;
		c->link = NULL;
		if (!find_apart(c, &to))
			return LEAVE_FOR_LOOP;
	}
	if (to) {
		/* To make room for it copies may have been dropped, x with them. */
		if (made == t->translations + t->copies)
			link_exit(c, x, to);
		c->resume = to->entry;
		return XL_RESUME;
	}
	RIP(c) = va;
	c->blk = b;
	return leave_for(c, (u == b->uops ? b->interpret : u->fn)(c, u));
}

static uintptr_t follow_exit(struct vp *c, uint32_t exit)
{
	struct xl_exit *x = translate_named(c, exit);
	struct block *from = x->from->block, *next = from->chain[x->which];
	struct xl *to;

	if (unlikely(x->apart))
		return go_on_apart(c, x);
	RIP(c) = x->target;
	c->link = NULL;
	if (unlikely(atomic_load_explicit(&c->attention, memory_order_relaxed)))
		return LEAVE_FOR_LOOP;
	if (!next || !next->live || (x->guard && !sc_xtlb_maps(c, x->target, next))) {
		c->link = &from->chain[x->which];
		return LEAVE_FOR_LOOP;
	}
	to = from->live && !c->lockstep ? sc_translation_at(next, x->target) : NULL;
	if (!to)
		return (uintptr_t)next + 1;
	link_exit(c, x, to);
	c->resume = to->entry;
	return XL_RESUME;
}

uintptr_t translate_exit(struct vp *c, uint32_t exit)
{
	return executable(c, follow_exit(c, exit));
}

/* ---- GS ---- */

#define HWCAP2_FSGSBASE BIT(1)

static __attribute__((target("fsgsbase"))) void write_gs_base(uint64_t base)
{
	_writegsbase_u64(base);
}

void translate_bind_thread(struct vp *c)
{
	static _Thread_local const struct vp *bound;

	if (likely(bound == c))
		return;
	bound = c;
	if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE)
		write_gs_base((uint64_t)c);
	else
		syscall(SYS_arch_prctl, ARCH_SET_GS, c);
}

/* ---- dropping ---- */

/* JUMP_FREE alone would not do: guests may jump there. */
static void free_jump(struct sc_jump *j)
{
	*j = (struct sc_jump){ .rip = JUMP_FREE, .xtlb = OFF_ZERO, .version = 1 };
}

static void free_guesses(struct vp *c, struct xl *x)
{
	for (unsigned i = 0; i < GUESSES; i++)
		if (c->guesses[i].code == x->entry)
			free_jump(&c->guesses[i]);
	x->guessed = false;
}

static void cut(struct vp *c, struct xl *x)
{
	struct sc_jump *j = sc_jump_slot(c, x->block->key, x->va);

	while (x->incoming)
		unlink_exit(c, x->incoming);
	if (j->code == x->entry)
		free_jump(j);
	if (x->guessed)
		free_guesses(c, x);
}

void sc_translations_drop(struct vp *c, struct block *b)
{
	for (struct xl *x = b->xls; x; x = x->next)
		cut(c, x);
}

static void clear_jumps(struct vp *c)
{
	for (unsigned u = 0; u < 2; u++)
		for (unsigned i = 0; i < JUMPS; i++)
			free_jump(&c->jumps[u][i]);
	for (unsigned i = 0; i < GUESSES; i++)
		free_jump(&c->guesses[i]);
	c->guess_wait = 0;
}

/* Their code is gone. */
static void clear_returns(struct vp *c)
{
	unsigned user = c->key & KEY_USER ? 1 : 0;

	for (unsigned u = 0; u < 2; u++) {
		struct sc_returns *r = &c->returns[u];

		r->entry[RETURNS].rip = LOST_RETURN_RIP;
		r->entry[RETURNS].code =
		    code_cache_rx(&c->translator->cache, c->translator->lost_return);
		c->returns_top[u] = (uint64_t)&r->entry[RETURNS];
		c->returns_limit[u] = (uint64_t)&r->entry[0];
	}
	c->translated_rsp = c->returns_top[user];
	c->other_translated_rsp = c->returns_top[!user];
}

static void drop_copy(struct vp *c, struct xl *x)
{
	struct xl **link = &x->block->xls;

	cut(c, x);
	for (struct xl_exit *e = x->exits; e; e = e->next)
		if (e->to)
			unlink_exit(c, e);
	while (*link != x)
		link = &(*link)->next;
	*link = x->next;
}

void translate_drop_copies(struct vp *c, struct copy_area *area)
{
	for (struct xl *x = area->copies; x; x = x->next_copy)
		drop_copy(c, x);
	copy_area_empty(area);
	clear_returns(c);
}

void sc_translations_flush(struct vp *c)
{
	struct translator *t = c->translator;

	if (!t)
		return;
	clear_jumps(c);
	clear_returns(c);
	code_cache_empty(&t->cache);
}

int sc_translator_init(struct vp *c, struct error *err)
{
	struct translator *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return error_set(err, ERR_NO_MEMORY, "no memory for the translator");
	t->hot = TRANSLATE_HOT;
	t->rorx = __builtin_cpu_supports("bmi2");
	rc = code_cache_init(&t->cache, sc_code_bytes(c->vm), c->arena + c->arena_size,
			     c->copies_size, err);
	if (rc < 0) {
		code_cache_done(&t->cache);
		free(t);
		return rc;
	}
	c->translator = t;
	c->self = c;
	c->call_slow = translate_slow;
	c->call_stored = translate_stored;
	c->call_exit = translate_exit;
	translate_shared_code(c, t);
	sc_translations_flush(c);
	return 0;
}

void sc_translator_done(struct vp *c)
{
	if (!c->translator)
		return;
	code_cache_done(&c->translator->cache);
	free(c->translator);
	c->translator = NULL;
}
