/*
 * Loads from small tables: whose address is a base plus an index of which the instructions before
 * say how large it can be, where the table lies on one page, or nearly, as the registers are now.
 * There the base alone says which entry of the TLB it is, so that the host needn't wait for the
 * index before it reads the entry: what depends on the index is one comparison, which the host
 * predicts. What is on another page after all is looked up by its own address, behind the block.
 *
 * Of a table on two pages both are looked up, by the base alone, and the index picks one of the two
 * results: that is two instructions to wait for, where a branch would be predicted badly.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

/* The last instruction before x that writes the register, or NULL: none in the block. */
static const struct xl_insn *writer(const struct gen *g, const struct xl_insn *x, unsigned reg)
{
	while (x-- > g->insns)
		if (x->writes & BIT(reg))
			return x;
	return NULL;
}

static bool is_register(const struct xl_operand *o, unsigned reg)
{
	return o->class == OPERAND_GPR && o->number == reg && o->size >= 4;
}

/* The most that w, the last writer of the register, leaves there. */
static uint64_t most_left(const struct xl_insn *w, unsigned reg)
{
	unsigned from = w->mem_size ? w->mem_size : w->rm.size;
	int32_t imm = -1;

	if (w->imm_len == 1)
		imm = (int8_t)w->imm[0];
	else if (w->imm_len == 4)
		memcpy(&imm, w->imm, 4);
	if (w->kind != XL_PLAIN)
		return UINT64_MAX;
	if (w->mnemonic == ZYDIS_MNEMONIC_MOVZX && is_register(&w->reg, reg) && from == 1)
		return UINT8_MAX;
	if (imm < 0 || !is_register(&w->rm, reg))
		return UINT64_MAX;
	if (w->mnemonic == ZYDIS_MNEMONIC_AND)
		return (uint64_t)imm;
	if (w->mnemonic == ZYDIS_MNEMONIC_SHR && w->rm.size == 4)
		return UINT32_MAX >> (imm & 31);
	return UINT64_MAX;
}

/* The part of a table that may lie on another page than its middle: a wrong guess costs the host
 * twice what a right one saves. */
#define ASIDE_PART 8
/* And the part from which on it costs more than to look at both pages each time. */
#define FEW_PART 32

#define JUMPS_LOOKED_AT 16u

static bool mostly_on_one_page(uint64_t from, uint64_t bytes)
{
	uint64_t page = (from + bytes / 2) & ~(uint64_t)(MEM_PAGE_SIZE - 1);
	uint64_t before = from < page ? page - from : 0;
	uint64_t to = from + bytes, end = page + MEM_PAGE_SIZE;

	return before + (to > end ? to - end : 0) <= bytes / ASIDE_PART;
}

/* The same, but of which more than a few elements lie on a second page, none on both. */
static bool find_second_page(const struct xl_insn *x, uint64_t from, uint64_t bytes, unsigned scale,
			     struct table *ret)
{
	uint64_t second = (from + bytes - 1) & ~(uint64_t)(MEM_PAGE_SIZE - 1);

	if (bytes > MEM_PAGE_SIZE || from >= second || from & (BIT(scale) - 1) ||
	    x->mem_size > BIT(scale) || host_gpr(ret->index / 8u) == H_NONE ||
	    MIN(second - from, from + bytes - second) <= bytes / FEW_PART)
		return false;
	ret->second = (uint32_t)((second - from) >> scale);
	ret->first_off = from & (MEM_PAGE_SIZE - 1);
	return true;
}

bool table_base(const struct gen *g, const struct xl_insn *x, unsigned base, uint64_t *ret)
{
	const struct xl_insn *w;

	*ret = 0;
	if (base == OFF_ZERO)
		return true;
	if (!off_is_gpr(base))
		return false;
	w = writer(g, x, base / 8u);
	if (!w)
		*ret = g->c->gpr[base / 8u];
	else if (w->mnemonic == ZYDIS_MNEMONIC_LEA && w->u->base == OFF_RIP && !w->u->ea)
		*ret = g->xl->va + (uint64_t)w->u->disp;
	return *ret;
}

uint64_t table_most(const struct gen *g, const struct xl_insn *x, unsigned index)
{
	const struct xl_insn *w = writer(g, x, index / 8u);

	return w ? most_left(w, index / 8u) : UINT64_MAX;
}

/* Tables are of targets, or of their distances from something. */
const struct xl_insn *target_load(const struct gen *g)
{
	const struct xl_insn *x = &g->insns[g->count - 1], *w;
	unsigned reg;

	if (x->kind != XL_JMP_COMPUTED && x->kind != XL_CALL_COMPUTED)
		return NULL;
	if (x->u->rm == OFF_NONE)
		return x;
	reg = x->u->rm / 8u;
	w = writer(g, x, reg);
	if (w && w->mnemonic == ZYDIS_MNEMONIC_ADD && !w->mem_size)
		w = writer(g, w, reg);
	if (!w || w->kind != XL_PLAIN || !w->mem_size || !is_register(&w->reg, reg))
		return NULL;
	return w->mnemonic == ZYDIS_MNEMONIC_MOV || w->mnemonic == ZYDIS_MNEMONIC_MOVSXD ? w : NULL;
}

/* Whether x loads from a small table, if the base stays as it is. Compilers check the index of a
 * jump table by a branch: then it is the first entries that are looked at. */
static bool is_small(const struct gen *g, const struct xl_insn *x, unsigned base, unsigned index,
		     unsigned scale, struct table *ret)
{
	uint64_t most, from;

	if (!off_is_gpr(index) || !table_base(g, x, base, &from))
		return false;
	most = table_most(g, x, index);
	from += (uint64_t)x->u->disp;
	*ret = (struct table){ .base = base, .index = index, .bounded = most < MEM_PAGE_SIZE };
	if (most < MEM_PAGE_SIZE && find_second_page(x, from, (most + 1) << scale, scale, ret))
		return true;
	if (most >= MEM_PAGE_SIZE || !mostly_on_one_page(from, (most + 1) << scale)) {
		if (x != target_load(g) || !mostly_on_one_page(from, JUMPS_LOOKED_AT << scale) ||
		    off_in_vp(base) || off_in_vp(index))
			return false;
		most = JUMPS_LOOKED_AT - 1;
	}
	ret->middle = x->u->disp + (int64_t)(most << scale) / 2;
	return fits_s32(ret->middle);
}

bool find_table(const struct gen *g, const struct xl_insn *x, struct table *ret)
{
	const struct uop *u = x->u;

	if (x->mem_write || x->mem_aligned || u->ea || (g->b->key & KEY_MODE) != MODE_64 ||
	    u->seg == PART_FS || u->seg == PART_GS)
		return false;
	return is_small(g, x, u->base, u->index, u->scale, ret) ||
	       (u->scale == 0 && is_small(g, x, u->index, u->base, 0, ret));
}

void gen_table_address(struct gen *g, const struct table *table, int64_t disp, unsigned to)
{
	struct host_mem m = { H_NONE, H_NONE, 0, false, (int32_t)disp };

	if (table->base == OFF_ZERO) {
		emit_mov_imm(&g->e, to, (uint64_t)disp);
		return;
	}
	m.base = (uint8_t)gen_get(g, table->base / 8u, to);
	emit_lea64(&g->e, to, &m);
}
