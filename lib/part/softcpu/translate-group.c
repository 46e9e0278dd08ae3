/*
 * Accesses to memory near each other. Those whose addresses are made of the same registers, which
 * nothing but constants change in between, are looked up together by the first of them, which
 * leaves the host's address in the VP. If they aren't all on one page that the TLB has, the rest of
 * the block goes on as a block of its own that has no groups (KEY_APART).
 *
 * A store must be followed by a look at the page's flags (gen_written). That of a group with
 * several stores comes after the last of them, or before anything that may leave the block, for all
 * of its bytes. Pages that are watched from the beginning are left to the interpreter, so that a
 * block that changes itself is noticed at once.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

/* The longest group. Most of the others' objects are aligned to that, and so don't cross pages;
 * what vectors copy is longer. */
#define STACK_GROUP_BYTES  248
#define VECTOR_GROUP_BYTES 128
#define GROUP_BYTES        64

#define VECTOR_BYTES 16 /* the least */

/* ---- which accesses belong together ---- */

bool access_of(const struct gen *g, const struct xl_insn *x, struct access *ret)
{
	const struct uop *u = x->u;

	*ret = (struct access){ .key = { OFF_GPR(PART_RSP), OFF_ZERO, 0, 0 }, .size = 8 };
	switch (x->kind) {
	case XL_PUSH:
	case XL_CALL:
		ret->disp = -8;
		ret->write = true;
		return true;
	case XL_POP:
	case XL_RET:
		return true;
	case XL_PLAIN:
		if (!x->mem_size || u->ea || (g->b->key & KEY_MODE) != MODE_64)
			return false;
		*ret = (struct access){ { u->base, u->index, 0, 0 },
					u->disp,
					x->mem_size,
					x->mem_write,
					alignment(x) };
		if (u->index != OFF_ZERO)
			ret->key.scale = u->scale;
		if (u->seg == PART_FS || u->seg == PART_GS)
			ret->key.seg = u->seg;
		return true;
	default:
		return false;
	}
}

/* Whether anything may happen in between but changes of the registers that x writes. */
static bool keeps_groups(const struct xl_insn *x)
{
	switch (x->kind) {
	case XL_NOTHING:
	case XL_PLAIN:
	case XL_DIVIDE:
	case XL_X87:
	case XL_X87_FLDCW:
	case XL_LDMXCSR:
	case XL_PUSH:
	case XL_PUSHF:
	case XL_PUSH_MEMORY:
	case XL_POP:
	case XL_STRING:
	case XL_CLI:
	case XL_STI:
	case XL_CLD:
	case XL_JCC:
		return true;
	default:
		return false;
	}
}

/* ADD, SUB, INC, DEC or LEA: the constant that is added to the register. */
static bool adds_constant(const struct xl_insn *x, unsigned reg, int64_t *ret)
{
	const struct uop *u = x->u;
	int32_t imm = 0;

	if (!x->op.w)
		return false;
	if (x->mnemonic == ZYDIS_MNEMONIC_LEA) {
		*ret = u->disp;
		return x->reg.number == reg && u->base == OFF_GPR(reg) && u->index == OFF_ZERO &&
		       !u->ea;
	}
	if (x->rm.class != OPERAND_GPR || x->rm.number != reg)
		return false;
	if (x->imm_len == 1)
		imm = (int8_t)x->imm[0];
	else if (x->imm_len == 4)
		memcpy(&imm, x->imm, 4);
	switch (x->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		*ret = imm;
		return x->imm_len;
	case ZYDIS_MNEMONIC_SUB:
		*ret = -(int64_t)imm;
		return x->imm_len;
	case ZYDIS_MNEMONIC_INC:
		*ret = 1;
		return true;
	case ZYDIS_MNEMONIC_DEC:
		*ret = -1;
		return true;
	default:
		return false;
	}
}

bool access_movement(const struct xl_insn *x, unsigned reg, int64_t *ret)
{
	switch (x->kind) {
	case XL_PUSH:
	case XL_PUSHF:
	case XL_PUSH_MEMORY:
		*ret = -8;
		return reg == PART_RSP;
	case XL_POP:
		*ret = 8;
		return reg == PART_RSP && x->rm.number != PART_RSP;
	case XL_PLAIN:
		return adds_constant(x, reg, ret);
	default:
		return false;
	}
}

/* Whether the group's address is still known after x. */
static bool follow(struct access_group *s, const struct xl_insn *x)
{
	uint8_t place[2] = { s->key.base, s->key.index };
	int64_t moved;

	for (unsigned i = 0; i < 2; i++) {
		unsigned reg = place[i] / 8u;

		if (!off_is_gpr(place[i]) || !(x->writes & BIT(reg)))
			continue;
		if (!access_movement(x, reg, &moved) || !fits_s32(moved))
			return false;
		s->at += i ? moved * (1 << s->key.scale) : moved;
	}
	return true;
}

bool extend_group(struct access_group *s, const struct access *a)
{
	int64_t from = s->at + a->disp, to = from + a->size;
	unsigned most = a->size >= VECTOR_BYTES ? VECTOR_GROUP_BYTES : GROUP_BYTES;
	int64_t aligned_at = s->align ? s->from : from;
	unsigned align = s->align | a->align;

	if (s->key.base == OFF_GPR(PART_RSP))
		most = STACK_GROUP_BYTES;
	if (a->align && (align != a->align || (from - aligned_at) % align))
		return false;
	/* Where the branch is taken nothing may be asked for that isn't needed there. */
	if (s->passed && (a->write > (s->stores != 0) || a->align > s->align))
		return false;
	if (s->count) {
		from = MIN(from, s->from);
		to = MAX(to, s->to);
	}
	if (align) /* the beginning is what is looked at */
		from -= (from - aligned_at) & (align - 1);
	if (to - from > most)
		return false;
	s->from = from;
	s->to = to;
	s->align = (uint8_t)align;
	s->stores += a->write;
	s->count++;
	return true;
}

/* Groups that may still be extended. */
struct open_groups {
	struct access_group *list[GROUP_SLOTS];
	unsigned count;
};

static void close_group(struct open_groups *open, unsigned i)
{
	open->count--;
	memmove(&open->list[i], &open->list[i + 1], (open->count - i) * sizeof(open->list[0]));
}

static unsigned free_slot(const struct open_groups *open)
{
	unsigned used = 0, slot = 0;

	for (unsigned i = 0; i < open->count; i++)
		used |= 1u << open->list[i]->slot;
	while (used & 1u << slot)
		slot++;
	return slot;
}

static struct access_group *new_group(struct gen *g, struct open_groups *open, struct xl_insn *x,
				      const struct access *a)
{
	struct access_group *s = &g->groups[g->group_count++];

	if (open->count == GROUP_SLOTS)
		close_group(open, 0);
	*s = (struct access_group){ .first = x, .slot = (uint8_t)free_slot(open), .key = a->key };
	extend_group(s, a);
	open->list[open->count++] = s;
	return s;
}

static void join(struct gen *g, struct open_groups *open, struct xl_insn *x, const struct access *a)
{
	struct access_group *s = NULL;
	unsigned i = 0;

	while (i < open->count && memcmp(&open->list[i]->key, &a->key, sizeof(a->key)) != 0)
		i++;
	if (i < open->count) {
		s = open->list[i];
		if (!extend_group(s, a)) {
			close_group(open, i);
			s = NULL;
		}
	}
	if (!s)
		s = new_group(g, open, x, a);
	x->group = s;
	x->group_at = s->at + a->disp;
	s->last = x;
}

void find_access_groups(struct gen *g)
{
	struct open_groups open = { .count = 0 };
	struct access a;

	for (unsigned i = 0; i < g->count; i++) {
		struct xl_insn *x = &g->insns[i];

		if (access_of(g, x, &a))
			join(g, &open, x, &a);
		if (!keeps_groups(x))
			open.count = 0;
		for (unsigned k = open.count; k-- > 0;) {
			open.list[k]->passed |= is_passed(g, x);
			if (!follow(open.list[k], x))
				close_group(&open, k);
		}
	}
	for (unsigned i = 0; i < g->count; i++) /* one alone is no group */
		if (g->insns[i].group && g->insns[i].group->count < 2)
			g->insns[i].group = NULL;
}

/* ---- translating ---- */

/* Whether the flags are looked at once for several stores. */
static bool looks_later(const struct access_group *s)
{
	return s->stores > 1;
}

static void gen_group(struct gen *g, struct xl_insn *x)
{
	const struct access_group *s = x->group;
	struct emitter *e = &g->e;
	struct uop first = *x->u, *u = x->u;

	first.base = s->key.base;
	first.index = s->key.index;
	first.scale = s->key.scale;
	first.seg = s->key.seg ? s->key.seg : SEG_SLOT_ZERO;
	first.ea = 0;
	first.disp = s->from;
	g->apart = true;
	x->u = &first;
	gen_address(g, x);
	x->u = u;
	gen_translate(g, x, (unsigned)(s->to - s->from), s->stores, s->align);
	if (s->stores) {
		gen_page_flags(g);
		if (looks_later(s)) {
			emit_rm(e, OP(.op = 0x80), 7, AT_REG(SCRATCH1)); /* cmp byte, 0 */
			emit8(e, 0);
			gen_slow_jump(g, x, emit_jcc(e, CC_NE));
		}
		emit_store64(e, SCRATCH1, AT_GS(GROUP_FLAGS(s)));
	}
	g->apart = false;
	g->slow = NULL;
	emit_store64(e, SCRATCH0, AT_GS(GROUP_HOST(s)));
}

struct host_mem gen_group_access(struct gen *g, struct xl_insn *x)
{
	const struct access_group *s = x->group;

	if (s->first == x)
		gen_group(g, x);
	else if (g->held != s)
		gen_group_host(g, s);
	g->held = s;
	if (s->hoisted)
		return gen_loop_access(g, x);
	return (struct host_mem){ SCRATCH0, H_NONE, 0, false, (int32_t)(x->group_at - s->from) };
}

void gen_group_host(struct gen *g, const struct access_group *s)
{
	emit_load64(&g->e, SCRATCH0, AT_GS(GROUP_HOST(s)));
}

void gen_group_stored(struct gen *g, struct xl_insn *x)
{
	if (x->group->hoisted) {
		emit_load64(&g->e, SCRATCH1, AT_GS(GROUP_FLAGS(x->group)));
		gen_written(g, x, x->mem_size, XL_GO_ON, x->group);
		return;
	}
	g->unseen |= 1u << x->group->slot;
	g->unseen_group[x->group->slot] = x->group;
}

/* Of the instruction that comes next: whether the block may be left before its end, or whether it
 * looks a group up. */
static bool may_leave(const struct gen *g, const struct xl_insn *x)
{
	switch (x->kind) {
	case XL_NOTHING:
		return false;
	case XL_PUSH:
	case XL_POP:
	case XL_CALL:
		return !keeps_flags(x);
	case XL_PLAIN:
		if (loads_units(g, x))
			return true;
		return x->mem_size && !keeps_flags(x);
	default:
		return true;
	}
}

void gen_look_at_stores(struct gen *g, struct xl_insn *x, const struct xl_insn *next)
{
	bool all = !next || may_leave(g, next);

	for (unsigned slot = 0; g->unseen && slot < GROUP_SLOTS; slot++) {
		const struct access_group *s = g->unseen_group[slot];

		if (!(g->unseen & 1u << slot) || !(all || s->last == x || !looks_later(s)))
			continue;
		g->unseen &= ~(1u << slot);
		emit_load64(&g->e, SCRATCH1, AT_GS(GROUP_FLAGS(s)));
		g->guess.held = false;
		gen_written(g, x, (unsigned)(s->to - s->from), XL_GO_ON, s);
	}
}
