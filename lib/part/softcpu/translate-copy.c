/*
 * A translation once more, for another linear address. Programs and libraries are the same code in
 * each process, but mostly not at the same place (position-independent code, random addresses). To
 * copy a translation and change what depends on the place takes a fraction of translating anew.
 *
 * All that depends on it is noted when a block is translated (gen_moves). Whether flags are read
 * behind the block, for instance, doesn't: the copy is as far from a page's end as the original.
 */
#include "base/host.h"
#include "part/softcpu/translate.h"

struct copy {
	struct vp *c;
	struct xl *to;
	uint64_t va;    /* what is added to linear addresses, */
	ptrdiff_t code; /* to those of code, */
	uint32_t id;    /* and to ids */
};

static uint32_t get32(const uint8_t *at)
{
	uint32_t v;

	memcpy(&v, at, sizeof(v));
	return v;
}

static void move_exit(const struct copy *m, struct xl_exit *x)
{
	x->from = m->to;
	x->next = m->to->exits;
	m->to->exits = x;
	x->to = NULL;
	x->target += m->va;
	x->jump += m->code;
	x->stub += m->code;
	if (x->guard)
		x->guard += m->code;
	emit_set_rel32(x->jump, x->stub);
}

static uint32_t moved_guard(const struct copy *m, uint32_t at)
{
	const uint32_t first = (uint32_t)((uint8_t *)&m->c->xtlb[0].version - (uint8_t *)m->c);
	uint64_t page = (at - first) / sizeof(m->c->xtlb[0]) + (m->va >> MEM_PAGE_SHIFT);

	return first + (uint32_t)((page & (XTLB_SIZE - 1)) * sizeof(m->c->xtlb[0]));
}

/* False: the address can't be encoded there. */
static bool move(const struct copy *m, const struct xl_move *what)
{
	uint8_t *at = m->to->code + what->at;
	uint32_t v = get32(at);
	uint64_t va;

	switch ((enum xl_move_kind)what->kind) {
	case MOVE_SHARED:
		put32(at, v - (uint32_t)m->code);
		return true;
	case MOVE_SITE:
		put32(at, v + m->id);
		((struct xl_site *)translate_named(m->c, v + m->id))->xl = m->to;
		return true;
	case MOVE_EXIT:
		put32(at, v + m->id);
		move_exit(m, translate_named(m->c, v + m->id));
		return true;
	case MOVE_GUARD:
		put32(at, moved_guard(m, v));
		return true;
	case MOVE_VA64:
		memcpy(&va, at, sizeof(va));
		va += m->va;
		memcpy(at, &va, sizeof(va));
		return true;
	case MOVE_VA32:
		put32(at, v + (uint32_t)m->va);
		return v + m->va <= UINT32_MAX;
	case MOVE_VA_S32:
		put32(at, v + (uint32_t)m->va);
		return fits_s32((int32_t)v + (int64_t)m->va);
	case MOVE_LOW32:
		put32(at, v + (uint32_t)m->va);
		return true;
	}
	return false;
}

/* The area that has room for a copy of x, or NULL. */
static struct copy_area *area_for(struct vp *c, const struct xl *x)
{
	struct code_cache *cache = &c->translator->cache;
	struct copy_area *area = &cache->copies[cache->filling];

	for (unsigned tries = 0; tries < 2; tries++) {
		if (area->end - area->used >= x->code_size &&
		    area->data_end - area->data_used >= (ptrdiff_t)x->size)
			return area;
		cache->filling = (cache->filling + 1) % COPY_AREAS;
		area = &cache->copies[cache->filling];
		translate_drop_copies(c, area);
	}
	return NULL;
}

static struct xl *make(struct vp *c, const struct xl *x, uint64_t va, struct copy_area *area)
{
	struct code_cache *cache = &c->translator->cache;
	const struct xl_move *moves = (const struct xl_move *)((const uint8_t *)x + x->size);
	struct copy m = { .c = c, .va = va - x->va };
	struct xl *to = (struct xl *)area->data_used;
	size_t used = area->used;

	memcpy(to, x, x->size);
	area->data_used += x->size;
	to->code = cache->rw + area->used;
	host_copy_code(to->code, x->code, x->code_size);
	c->translator->written = true;
	area->used = MIN(ALIGN_UP(area->used + x->code_size, 16), area->end);
	m.to = to;
	m.code = to->code - x->code;
	m.id = translate_id(c, to) - translate_id(c, x);
	to->va = va;
	to->entry += m.code;
	to->entry_flags += m.code;
	to->incoming = NULL;
	to->exits = NULL;
	to->original = (struct xl *)x;
	to->move_count = 0;
	to->guessed = false;
	if (to->second_page)
		put_version(to->code + to->second_page, NO_VERSION);
	for (unsigned i = 0; i < x->move_count; i++) {
		if (move(&m, &moves[i]))
			continue;
		area->used = used;
		area->data_used = (uint8_t *)to;
		return NULL;
	}
	to->next_copy = area->copies;
	area->copies = to;
	return to;
}

struct xl *translate_copy(struct vp *c, struct block *b, uint64_t va)
{
	const struct xl *x;
	struct copy_area *area;
	struct xl *to;

	if (!translate_can_copy(b))
		return NULL;
	x = b->xls->original ? b->xls->original : b->xls;
	area = area_for(c, x);
	if (!area)
		return NULL;
	code_cache_touch_copies(&c->translator->cache);
	to = make(c, x, va, area);
	if (!to)
		return NULL;
	to->next = b->xls;
	b->xls = to;
	c->translator->copies++;
	return to;
}
