/*
 * Loads that wait for themselves: in a loop whose next address is made of what was loaded, as in
 * automata and lists. There the look-up in the TLB, which takes twice as long as the load, can't be
 * done beside other work. But what it finds, how far the host's address is from the guest's, is
 * mostly the same as before: on the same page, and on all whose memory lies in a row. So that is
 * what the host goes on with at once. Two such ways are kept, for the page where an address begins
 * and all above it, and for those below, so that it is enough for a table on two pages. Beside that
 * the look-up is done, and compared: what is used is always what the TLB has.
 *
 * Where it changes often the host guesses wrong, which costs more than it saves. Misses are
 * counted, and where they come too fast the code goes on with what it looked up.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

#include <x86intrin.h>

/* So many misses within so many cycles each, on the average, are too many. */
#define MISSES      64
#define MISS_CYCLES 1000

/* In the arena. Ways: from the guest's address to the host's. */
struct foretold {
	uint64_t boundary; /* linear address of a page: the way there and above, and below */
	uint64_t above, below;
	uint64_t since;   /* when the time was looked at */
	unsigned misses;  /* since then */
	uint32_t without; /* from behind the jump that never_compare() makes */
};

/* ---- which loads ---- */

static bool is_of(const struct xl_operand *o, uint32_t registers)
{
	return o->class == OPERAND_GPR && registers & BIT(o->number);
}

static bool address_is_of(const struct xl_insn *x, uint32_t registers)
{
	return (off_is_gpr(x->u->base) && registers & BIT(x->u->base / 8u)) ||
	       (off_is_gpr(x->u->index) && registers & BIT(x->u->index / 8u));
}

static bool depends_on(const struct xl_insn *x, uint32_t registers)
{
	if (x->kind != XL_PLAIN)
		return false;
	return (x->reg.read && is_of(&x->reg, registers)) ||
	       (x->rm.read && is_of(&x->rm, registers)) || is_of(&x->vex, registers) ||
	       ((x->mem_size || x->mnemonic == ZYDIS_MNEMONIC_LEA) && address_is_of(x, registers));
}

/* Its address can be made while SCRATCH1 is in use. */
static bool leaves_scratch(const struct xl_insn *x)
{
	return !off_in_vp(x->group ? x->group->key.index : x->u->index);
}

static bool waits_for_itself(const struct gen *g, unsigned load)
{
	const struct xl_insn *x = &g->insns[load];
	uint32_t made = x->writes; /* registers that are made of what it loaded */

	if (x->kind != XL_PLAIN || !x->mem_size || x->mem_write || x->mem_aligned ||
	    (x->group && (x->group->stores || x->group->align)) || !leaves_scratch(x))
		return false;
	for (unsigned i = (load + 1) % g->count; i != load; i = (i + 1) % g->count) {
		if (depends_on(&g->insns[i], made))
			made |= g->insns[i].writes;
		else
			made &= ~(uint32_t)g->insns[i].writes;
	}
	return address_is_of(x, made);
}

void find_chained(struct gen *g)
{
	if (!leads_to_itself(g))
		return;
	for (unsigned i = 0; i < g->count; i++) {
		struct xl_insn *x = &g->insns[i];

		if (waits_for_itself(g, i))
			(x->group ? &g->insns[x->group->first - g->insns] : x)->chained = true;
	}
}

/* ---- translating ---- */

/* From now on the code goes on with what it found, in SCRATCH0. */
static void never_compare(uint8_t *at, uint32_t rel32)
{
	static const uint8_t take[] = { 0x4d, 0x89, 0xd3, 0xe9 }; /* mov r11, r10; jmp */

	memcpy(at, take, sizeof(take));
	memcpy(at + sizeof(take), &rel32, sizeof(rel32));
}
#define NEVER_BYTES 8

static void foretell(struct foretold *f, uint64_t address, uint64_t way)
{
	uint64_t page = address & ~(uint64_t)(MEM_PAGE_SIZE - 1);

	if (page == f->boundary - MEM_PAGE_SIZE) {
		f->below = way;
	} else {
		f->boundary = page;
		f->above = way;
	}
}

static struct block *foretold_wrong(struct vp *c, struct uop *u)
{
	const struct xl_site *s =
	    (const struct xl_site *)((uint8_t *)u - offsetof(struct xl_site, u));
	struct foretold *f = translate_named(c, (uint32_t)u->imm);
	uint64_t now;

	foretell(f, c->scratch[3], c->scratch[2]);
	if (++f->misses < MISSES)
		return sc_uop_done(c, u);
	now = __rdtsc();
	if (now - f->since < (uint64_t)MISSES * MISS_CYCLES) {
		never_compare(s->xl->code + u->disp, f->without);
		c->translator->written = true;
	}
	f->misses = 0;
	f->since = now;
	return sc_uop_done(c, u);
}

static uint32_t foretold_site(struct gen *g, const struct xl_insn *x, const struct foretold *f)
{
	struct uop wrong = { .fn = foretold_wrong,
			     .imm = (int32_t)translate_id(g->c, f),
			     .disp = g->e.p - g->xl->code,
			     .off = x->u->off,
			     .len = x->u->len };
	struct xl_insn site = *x;

	site.u = &wrong;
	return gen_site(g, &site, XL_GO_ON, true);
}

static void gen_place(struct gen *g, struct uop place)
{
	gen_address(g, &(struct xl_insn){ .u = &place });
}

#define FORETOLD(k, field) AT_GS((k)->foretold + (uint32_t)offsetof(struct foretold, field))

void gen_foretold(struct gen *g, struct xl_insn *x)
{
	struct foretold *f = gen_data(g, sizeof(*f));
	struct cold *k = &g->colds[g->cold_count++];
	struct emitter *e = &g->e;

	*k = (struct cold){ .x87 = g->x87,
			    .call = g->t->slow[gen_reload(g)],
			    .again = g->address,
			    .place = g->place };
	gen_way(g, false);
	if (f) {
		*f = (struct foretold){ 0 };
		k->foretold = (uint32_t)((uint8_t *)f - (uint8_t *)g->c);
		k->site = foretold_site(g, x, f);
	}
	k->found = e->p;
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[2])));
	gen_place(g, k->place);
	emit_load64(e, SCRATCH1, FORETOLD(k, below));
	emit_rm(e, OP(.op = 0x3b, .w = true), SCRATCH0, FORETOLD(k, boundary)); /* cmp */
	emit_rm(e, OP(.map = MAP_0F, .op = 0x43, .w = true), SCRATCH1,
		FORETOLD(k, above)); /* cmovae */
	emit_rm(e, OP(.op = 0x3b, .w = true), SCRATCH1, AT_GS(VP_FIELD(scratch[2])));
	k->from[0] = emit_jcc(e, CC_NE);
	k->back = e->p;
}

void gen_foretold_wrong(struct gen *g, struct cold *k)
{
	struct foretold *f = (struct foretold *)((uint8_t *)g->c + k->foretold);
	struct emitter *e = &g->e;

	emit_here(e, k->from[0]);
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[3])));
	gen_x87_note(g, &k->x87);
	gen_call_c(g, k->site, k->call);
	emit_jmp(e, k->again);
	f->without = (uint32_t)(e->p - (k->found + NEVER_BYTES));
	gen_place(g, k->place);
	emit_jmp(e, k->back);
}
