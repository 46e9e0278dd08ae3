/*
 * Accesses relative to RSP. Those in a row are translated together by the first of them, which
 * leaves what to add to a guest's address in the VP. If they aren't all on one page that the TLB
 * has, the interpreter executes the rest of the block.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

#define GROUP_BYTES 256

/* ---- which accesses belong together ---- */

struct access {
	bool any, write;
	int32_t from, size; /* relative to RSP before the instruction */
};

static bool is_rsp(const struct xl_operand *o)
{
	return o->class == OPERAND_GPR && o->number == PART_RSP;
}

static bool plain_access(const struct gen *g, const struct xl_insn *x)
{
	const struct uop *u = x->u;

	return x->mem_size && !x->mem_aligned && u->base == PART_RSP * 8 && u->index == OFF_ZERO &&
	       u->seg != PART_FS && u->seg != PART_GS && !u->ea && fits_s32(u->disp) &&
	       (g->b->key & KEY_MODE) == MODE_64 && x->mnemonic != ZYDIS_MNEMONIC_LEA &&
	       !is_rsp(&x->reg);
}

static struct access access_of(const struct gen *g, const struct xl_insn *x)
{
	switch (x->kind) {
	case XL_PUSH:
	case XL_CALL:
		return (struct access){ true, true, -8, 8 };
	case XL_POP:
	case XL_RET:
		return (struct access){ true, false, 0, 8 };
	case XL_PLAIN:
		if (plain_access(g, x))
			return (struct access){ true, x->mem_write, (int32_t)x->u->disp,
						x->mem_size };
		/* fall through */
	default:
		return (struct access){ 0 };
	}
}

/* ADD, SUB or LEA of RSP and a constant: the difference; false: something else. */
static bool moves_rsp(const struct xl_insn *x, int32_t *ret)
{
	const struct uop *u = x->u;

	if (!x->op.w)
		return false;
	if (x->mnemonic == ZYDIS_MNEMONIC_LEA) {
		*ret = (int32_t)u->disp;
		return u->base == PART_RSP * 8 && u->index == OFF_ZERO && !u->ea &&
		       u->disp == (int8_t)u->disp;
	}
	if (x->imm_len != 1)
		return false;
	*ret = (int8_t)x->imm[0];
	if (x->mnemonic == ZYDIS_MNEMONIC_SUB)
		*ret = -*ret;
	return x->mnemonic == ZYDIS_MNEMONIC_ADD || x->mnemonic == ZYDIS_MNEMONIC_SUB;
}

/* How the instruction moves RSP; false: nobody knows, or the TLB may change. */
static bool stack_movement(const struct xl_insn *x, int32_t *ret)
{
	*ret = 0;
	switch (x->kind) {
	case XL_NOTHING:
	case XL_DIVIDE:
	case XL_X87:
	case XL_X87_FLDCW:
	case XL_CLI:
	case XL_STI:
	case XL_CLD:
	case XL_SWAPGS:
	case XL_STRING:
		return true;
	case XL_PUSH:
	case XL_PUSHF:
	case XL_PUSH_MEMORY:
		*ret = -8;
		return true;
	case XL_POP:
		*ret = 8;
		return x->rm.number != PART_RSP;
	case XL_PLAIN:
		if ((is_rsp(&x->rm) && x->rm.write) || (is_rsp(&x->reg) && x->reg.write))
			return moves_rsp(x, ret);
		return true;
	default:
		return false;
	}
}

/* Whether the access fits into the group; at: RSP relative to the group's. */
static bool extend(struct stack_group *s, const struct access *a, int32_t at)
{
	int32_t from = at + a->from, to = from + a->size;

	if (s->count) {
		from = MIN(from, s->from);
		to = MAX(to, s->to);
	}
	if (to - from > GROUP_BYTES)
		return false;
	s->from = from;
	s->to = to;
	s->write |= a->write;
	s->count++;
	return true;
}

static bool near_rsp(const struct access *a)
{
	return a->from == (int16_t)a->from;
}

void find_stack_groups(struct gen *g)
{
	struct stack_group *s = NULL;
	int32_t at = 0, moved;

	for (unsigned i = 0; i < g->count; i++) {
		struct xl_insn *x = &g->insns[i];
		struct access a = access_of(g, x);

		if (a.any && near_rsp(&a)) {
			if (!s || !extend(s, &a, at)) {
				s = &g->stacks[g->stack_count++];
				*s = (struct stack_group){ .first = x };
				at = 0;
				extend(s, &a, 0);
			}
			x->stack = s;
		}
		if (!stack_movement(x, &moved))
			s = NULL;
		at += moved;
	}
	for (unsigned i = 0; i < g->count; i++) /* one alone is no group */
		if (g->insns[i].stack && g->insns[i].stack->count < 2)
			g->insns[i].stack = NULL;
}

/* ---- translating ---- */

static const struct host_mem *rsp_plus(struct host_mem *m, int32_t disp)
{
	*m = (struct host_mem){ GUEST_RSP, H_NONE, 0, false, disp };
	return m;
}

static void gen_group(struct gen *g, struct xl_insn *x)
{
	const struct stack_group *s = x->stack;
	struct emitter *e = &g->e;
	struct host_mem m;

	g->rest = true;
	emit_lea64(e, SCRATCH0, rsp_plus(&m, s->from));
	gen_translate(g, x, (unsigned)(s->to - s->from), s->write, false);
	g->rest = false;
	g->slow = NULL;
	if (s->write) {
		gen_page_flags(g);
		emit_store64(e, SCRATCH1, AT_GS(VP_FIELD(stack_flags)));
	}
	emit_rr(e, OP(.op = 0x29, .w = true), GUEST_RSP, SCRATCH0); /* sub */
	if (s->from)
		emit_lea64(e, SCRATCH0, &(struct host_mem){ SCRATCH0, H_NONE, 0, false, -s->from });
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(stack_delta)));
}

void gen_translate_stack(struct gen *g, struct xl_insn *x, int32_t disp, unsigned size, bool write)
{
	struct emitter *e = &g->e;
	struct host_mem m;

	if (!x->stack) {
		emit_lea64(e, SCRATCH0, rsp_plus(&m, disp));
		gen_translate(g, x, size, write, false);
		if (write)
			gen_page_flags(g);
		return;
	}
	if (x->stack->first == x)
		gen_group(g, x);
	else
		emit_load64(e, SCRATCH0, AT_GS(VP_FIELD(stack_delta)));
	emit_lea64(e, SCRATCH0, &(struct host_mem){ SCRATCH0, GUEST_RSP, 0, false, disp });
	if (write)
		emit_load64(e, SCRATCH1, AT_GS(VP_FIELD(stack_flags)));
}
