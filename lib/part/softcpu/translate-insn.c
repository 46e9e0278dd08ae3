/*
 * One instruction that is no branch: encoded anew with the host's registers, and with the host
 * address of its memory operand.
 */
#include "part/softcpu/exec.h"
#include "part/softcpu/translate-gen.h"

#define TLB_FIELD(g, field) ((g)->tlb + (uint32_t)offsetof(struct sc_tlb_entry, field))
#define TLB_ENTRY_SHIFT     5 /* log2 of its size */
_Static_assert(sizeof(struct sc_tlb_entry) == 1 << TLB_ENTRY_SHIFT, "index by shift");

/* ---- flags ---- */

void gen_flags_lost(struct gen *g, uint32_t live)
{
	if (g->flags == FLAGS_HOST && live)
		emit_save_flags(&g->e, SCRATCH1);
	g->flags = live && g->flags != FLAGS_NOWHERE ? FLAGS_VP : FLAGS_NOWHERE;
}

void gen_flags_wanted(struct gen *g)
{
	if (g->flags != FLAGS_VP)
		return;
	emit_restore_flags(&g->e);
	g->flags = FLAGS_BOTH;
}

void gen_flags_to_vp(struct gen *g, uint32_t live)
{
	if (g->flags == FLAGS_HOST && live)
		emit_save_flags(&g->e, SCRATCH1);
	g->flags = FLAGS_VP;
}

/* ---- what depends on where the block is ---- */

void *gen_data(struct gen *g, size_t size)
{
	void *p = sc_arena_alloc(g->c, size);

	if (!p)
		g->full = true;
	return p;
}

void gen_moves(struct gen *g, enum xl_move_kind kind)
{
	if (!g->movable)
		return;
	if (g->move_count == ARRAY_SIZE(g->moves))
		g->movable = false;
	else
		g->moves[g->move_count++] =
		    (struct xl_move){ (uint16_t)(g->e.p - g->xl->code), (uint8_t)kind };
}

void gen_moved(struct gen *g, enum xl_move_kind kind, unsigned size)
{
	g->e.p -= size;
	gen_moves(g, kind);
	g->e.p += size;
}

void gen_shared(struct gen *g, const uint8_t *code)
{
	gen_moves(g, MOVE_SHARED);
	emit_rel32(&g->e, code);
}

void gen_mov_va(struct gen *g, unsigned host, uint64_t va)
{
	emit_mov_imm(&g->e, host, va);
	if (va <= UINT32_MAX)
		gen_moved(g, MOVE_VA32, 4);
	else if (fits_s32((int64_t)va))
		gen_moved(g, MOVE_VA_S32, 4);
	else
		gen_moved(g, MOVE_VA64, 8);
}

/* ---- slow paths ---- */

void gen_call_c(struct gen *g, uint32_t site, const uint8_t *call)
{
	emit_plus_r(&g->e, OP(.op = 0xb8), SCRATCH1);
	gen_moves(g, MOVE_SITE);
	emit32(&g->e, site);
	emit8(&g->e, 0xe8);
	gen_shared(g, call);
}

/* How many uops the handler of u looks at. ENTER's aux may be anything. */
static unsigned uops_read(const struct uop *u)
{
	if (u->fn == sc_hostop)
		return 1 + HOSTOP_UOPS;
	return u->aux == UOP_FUSED && u->fn != sc_enter ? 2 : 1;
}

uint32_t gen_site(struct gen *g, const struct xl_insn *x, enum xl_after after, bool with_uop)
{
	unsigned uops = 0;
	struct xl_site *s;

	if (with_uop)
		uops = uops_read(x->u);
	s = gen_data(g, sizeof(*s) + uops * sizeof(struct uop) + sizeof(sc_fn *));
	if (!s)
		return 0;
	*s = (struct xl_site){ .xl = g->xl,
			       .off = x->off,
			       .next_off = (uint16_t)(x->off + x->len),
			       .size = x->mem_size,
			       .after = (uint8_t)after };
	if (uops) {
		memcpy(s->u, x->u, uops * sizeof(struct uop));
		s->u[uops].fn = sc_uop_done;
	}
	return translate_id(g->c, s);
}

static struct cold *new_cold(struct gen *g, uint8_t *from, const uint8_t *call, uint32_t site)
{
	struct cold *k = &g->colds[g->cold_count++];

	*k = (struct cold){
		.from = { from }, .from_count = 1, .call = call, .site = site, .x87 = g->x87
	};
	return k;
}

struct cold *gen_cold_exit(struct gen *g, struct xl_exit *exit)
{
	struct cold *k = &g->colds[g->cold_count++];

	*k = (struct cold){ .exit = exit };
	return k;
}

/* Whether code behind a call of C expects SSE or x87 registers to be loaded still. Kernels use
 * none: there they stay where the first call stored them. */
unsigned gen_reload(const struct gen *g)
{
	return g->sse_ready || g->x87_ready; /* or AVX's, and then SSE's as well */
}

void gen_slow_jump(struct gen *g, struct xl_insn *x, uint8_t *from)
{
	enum xl_after after = XL_GO_ON;

	if (x->kind == XL_X87_FLDCW || x->kind == XL_LDMXCSR)
		after = XL_LEAVE;
	else if (x->kind == XL_SECOND_PAGE)
		after = XL_SECOND_PAGE_THERE;
	if (g->loop.looking_up) {
		g->loop.fail[g->loop.fail_count++] = from;
	} else if (g->slow) {
		g->slow->from[g->slow->from_count++] = from;
	} else if (g->apart) {
		g->slow = new_cold(g, from, NULL, 0);
		g->slow->exit = new_exit_apart(g, x);
	} else {
		g->slow = new_cold(g, from, g->t->slow[gen_reload(g)], gen_site(g, x, after, true));
	}
}

void gen_slow_end(struct gen *g)
{
	if (!g->slow)
		return;
	g->slow->back = g->e.p;
	if (g->flags == FLAGS_HOST || g->flags == FLAGS_BOTH)
		g->slow->call = g->t->slow_flags[gen_reload(g)];
	g->slow = NULL;
}

void gen_interpret(struct gen *g, struct xl_insn *x)
{
	gen_flags_to_vp(g, RF_ARITH);
	gen_x87_note(g, &g->x87);
	gen_call_c(g, gen_site(g, x, XL_GO_ON, true), g->t->slow[0]);
	g->sse_ready = g->x87_ready = g->avx_ready = false;
}

/* ---- memory ---- */

static unsigned guest_of(uint8_t offset)
{
	return offset / 8u;
}

unsigned gen_get(struct gen *g, unsigned guest, unsigned scratch)
{
	unsigned host = host_gpr(guest);

	if (host != H_NONE)
		return host;
	emit_load64(&g->e, scratch, AT_GS(VP_GPR(guest)));
	return scratch;
}

void gen_address(struct gen *g, struct xl_insn *x)
{
	const struct uop *u = x->u;
	struct host_mem m = { H_NONE, H_NONE, u->scale, false, (int32_t)u->disp };
	struct emitter *e = &g->e;
	bool narrow = u->ea & EA_A32;

	g->place = *u;
	g->address = e->p;
	if (u->base == OFF_RIP) {
		uint64_t va = g->xl->va + (uint64_t)u->disp;

		if (narrow) {
			emit_mov_imm(e, SCRATCH0, (uint32_t)va);
			gen_moved(g, MOVE_LOW32, 4);
		} else {
			gen_mov_va(g, SCRATCH0, va);
		}
	} else {
		if (u->base != OFF_ZERO)
			m.base = (uint8_t)gen_get(g, guest_of(u->base), SCRATCH0);
		if (u->index != OFF_ZERO)
			m.index = (uint8_t)gen_get(g, guest_of(u->index), SCRATCH1);
		emit_rm(e, OP(.op = 0x8d, .w = !narrow), SCRATCH0, &m);
	}
	if (u->seg == PART_FS || u->seg == PART_GS)
		emit_rm(e, OP(.op = 0x03, .w = true), SCRATCH0,
			AT_GS(VP_FIELD(segbase) + 8u * u->seg));
}

/* The index of the TLB's entry for an address to SCRATCH1. */
static void gen_entry_index(struct gen *g, unsigned address)
{
	struct emitter *e = &g->e;

	if (g->t->rorx) { /* what comes in from below goes with the mask */
		emit_rorx32(e, SCRATCH1, address, MEM_PAGE_SHIFT - TLB_ENTRY_SHIFT);
	} else {
		if (address != SCRATCH1)
			emit_mov32(e, SCRATCH1, address);
		emit_rr(e, OP(.op = 0xc1), 5, SCRATCH1); /* shr */
		emit8(e, MEM_PAGE_SHIFT - TLB_ENTRY_SHIFT);
	}
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1); /* and */
	emit32(e, (TLB_SIZE - 1) << TLB_ENTRY_SHIFT);
}

static void gen_cmp_imm(struct gen *g, unsigned reg, uint32_t imm)
{
	emit_rr(&g->e, OP(.op = 0x81, .w = true), 7, reg);
	emit32(&g->e, imm);
}

/* SCRATCH0, an address, becomes the offset in the page of that entry, if it is there, and is
 * compared with off; else it is larger than any offset. */
static void gen_compare_offset(struct gen *g, uint32_t off, bool write)
{
	emit_rm(&g->e, OP(.op = 0x33, .w = true), SCRATCH0,
		AT_GS_REG(SCRATCH1, write ? TLB_FIELD(g, wtag) : TLB_FIELD(g, rtag)));
	gen_cmp_imm(g, SCRATCH0, off);
}

/* Below or equal: all of it is on that page. */
static void gen_compare_entry(struct gen *g, unsigned size, bool write)
{
	gen_compare_offset(g, MEM_PAGE_SIZE - size, write);
}

void gen_translate(struct gen *g, struct xl_insn *x, unsigned size, bool write, unsigned align)
{
	struct emitter *e = &g->e;

	gen_entry_index(g, SCRATCH0);
	gen_compare_entry(g, size, write);
	gen_slow_jump(g, x, emit_jcc(e, CC_A));
	if (x->chained) {
		gen_foretold(g, x);
		emit_rr(e, OP(.op = 0x01, .w = true), SCRATCH1, SCRATCH0); /* add */
		return;
	}
	if (align) {
		emit_rr(e, OP(.op = 0xf6), 0, SCRATCH0); /* test r10b, 15 or 31 */
		emit8(e, align - 1);
		gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	}
	emit_rm(e, OP(.op = 0x03, .w = true), SCRATCH0, AT_GS_REG(SCRATCH1, TLB_FIELD(g, page)));
}

void gen_way(struct gen *g, bool behind)
{
	uint32_t more = behind ? sizeof(struct sc_tlb_entry) : 0;
	struct emitter *e = &g->e;

	emit_load64(e, SCRATCH0, AT_GS_REG(SCRATCH1, TLB_FIELD(g, page) + more));
	emit_rm(e, OP(.op = 0x2b, .w = true), SCRATCH0, /* sub */
		AT_GS_REG(SCRATCH1, TLB_FIELD(g, rtag) + more));
}

/* To SCRATCH0: the host's address that stands for the base, by an entry as gen_way() takes it. */
static void gen_table_base(struct gen *g, const struct table *table, bool behind)
{
	struct emitter *e = &g->e;

	gen_way(g, behind);
	if (table->base != OFF_ZERO && host_gpr(guest_of(table->base)) != H_NONE)
		emit_rr(e, OP(.op = 0x01, .w = true), host_gpr(guest_of(table->base)), SCRATCH0);
	else if (table->base != OFF_ZERO)
		emit_rm(e, OP(.op = 0x03, .w = true), SCRATCH0,
			AT_GS(VP_GPR(guest_of(table->base))));
}

/* What x loads from a table of which SCRATCH0 stands for the base. */
static struct host_mem table_element(const struct xl_insn *x, const struct table *table)
{
	bool swapped = table->index != x->u->index;

	return (struct host_mem){ SCRATCH0, (uint8_t)host_gpr(guest_of(table->index)),
				  swapped ? 0 : x->u->scale, false, (int32_t)x->u->disp };
}

static void gen_again_here(struct gen *g, struct xl_insn *x, const struct table *table,
			   unsigned size)
{
	g->slow->again = g->e.p;
	g->slow->again_count = g->slow->from_count;
	g->slow->again_insn = x;
	g->slow->again_size = size;
	g->slow->table = *table;
}

/* The tags alone say that both entries are those of the table's pages, since a free entry's is no
 * page that could be there. */
static struct host_mem gen_load_of_two(struct gen *g, struct xl_insn *x, const struct table *table,
				       unsigned size)
{
	const struct host_mem *behind = AT_GS(VP_FIELD(scratch[2]));
	const uint32_t entry = sizeof(struct sc_tlb_entry);
	struct emitter *e = &g->e;

	gen_table_address(g, table, x->u->disp, SCRATCH0);
	gen_entry_index(g, SCRATCH0);
	gen_compare_offset(g, table->first_off, false);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_load64(e, SCRATCH0, AT_GS_REG(SCRATCH1, TLB_FIELD(g, rtag) + entry));
	emit_rm(e, OP(.op = 0x2b, .w = true), SCRATCH0, AT_GS_REG(SCRATCH1, TLB_FIELD(g, rtag)));
	gen_cmp_imm(g, SCRATCH0, MEM_PAGE_SIZE);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	gen_table_base(g, table, true);
	emit_store64(e, SCRATCH0, behind);
	gen_table_base(g, table, false);
	gen_again_here(g, x, table, size);
	gen_cmp_imm(g, host_gpr(guest_of(table->index)), table->second);
	emit_rm(e, OP(.map = MAP_0F, .op = 0x43, .w = true), SCRATCH0, behind); /* cmovae */
	return table_element(x, table);
}

struct host_mem gen_load(struct gen *g, struct xl_insn *x, unsigned size, bool spare)
{
	struct emitter *e = &g->e;
	struct table table;
	bool small = find_table(g, x, &table);

	if (small && table.second)
		return gen_load_of_two(g, x, &table, size);
	if (small && !table.bounded) { /* any address could be what the tag of a free entry is */
		gen_table_address(g, &table, table.middle, SCRATCH0);
		gen_entry_index(g, SCRATCH0);
		gen_compare_entry(g, 1, false);
		gen_slow_jump(g, x, emit_jcc(e, CC_A));
	}
	gen_address(g, x);
	if (!small) {
		gen_entry_index(g, SCRATCH0);
	} else if (table.bounded) {
		gen_table_address(g, &table, table.middle, SCRATCH1);
		gen_entry_index(g, SCRATCH1);
	}
	gen_compare_entry(g, size, false);
	gen_slow_jump(g, x, emit_jcc(e, CC_A));
	if (small)
		gen_again_here(g, x, &table, size);
	if (small && host_gpr(guest_of(table.index)) != H_NONE) {
		gen_table_base(g, &table, false);
		return table_element(x, &table);
	}
	if (x->chained && !small) {
		gen_foretold(g, x);
	} else if (spare) {
		emit_load64(e, SCRATCH1, AT_GS_REG(SCRATCH1, TLB_FIELD(g, page)));
	} else {
		emit_rm(e, OP(.op = 0x03, .w = true), SCRATCH0,
			AT_GS_REG(SCRATCH1, TLB_FIELD(g, page)));
		return *AT_REG(SCRATCH0);
	}
	if (spare) /* sooner there than a sum */
		return (struct host_mem){ SCRATCH1, SCRATCH0, 0, false, 0 };
	emit_rr(e, OP(.op = 0x01, .w = true), SCRATCH1, SCRATCH0); /* add */
	return *AT_REG(SCRATCH0);
}

void gen_load_again(struct gen *g, const struct cold *k)
{
	struct emitter *e = &g->e;
	uint8_t *wrong;

	gen_address(g, k->again_insn);
	gen_entry_index(g, SCRATCH0);
	gen_compare_entry(g, k->again_size, false);
	if (!k->table.second) {
		emit_set_rel32(emit_jcc(e, CC_BE), k->again);
		return;
	}
	wrong = emit_jcc(e, CC_A);
	gen_table_base(g, &k->table, false);
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[2]))); /* whichever it picks */
	emit_jmp(e, k->again);
	emit_here(e, wrong);
}

void gen_page_flags(struct gen *g)
{
	emit_load64(&g->e, SCRATCH1, AT_GS_REG(SCRATCH1, TLB_FIELD(g, flags)));
}

void gen_written(struct gen *g, struct xl_insn *x, unsigned size, enum xl_after after,
		 const struct access_group *group)
{
	bool keep = (g->flags == FLAGS_HOST || g->flags == FLAGS_BOTH) && x->live;
	struct emitter *e = &g->e;
	struct cold *k;
	uint8_t saved = x->mem_size;

	x->mem_size = (uint8_t)size;
	if (keep) { /* JRCXZ looks without touching flags */
		emit_store64(e, H_RCX, AT_GS(VP_FIELD(scratch[3])));
		emit_rm(e, OP(.map = MAP_0F, .op = 0xb6), H_RCX, AT_REG(SCRATCH1));
		emit8(e, 0xe3);
		emit8(e, 5);
		emit8(e, 0xe9);
		emit32(e, 0);
		k = new_cold(g, e->p - 4, g->t->stored_flags[gen_reload(g)],
			     gen_site(g, x, after, false));
		emit_load64(e, H_RCX, AT_GS(VP_FIELD(scratch[3])));
		k->rcx_saved = true;
	} else {
		emit_rm(e, OP(.op = 0x80), 7, AT_REG(SCRATCH1)); /* cmp byte, 0 */
		emit8(e, 0);
		k = new_cold(g, emit_jcc(e, CC_NE), g->t->stored[gen_reload(g)],
			     gen_site(g, x, after, false));
		if (g->flags != FLAGS_VP)
			g->flags = x->live && g->flags == FLAGS_BOTH ? FLAGS_VP : FLAGS_NOWHERE;
	}
	k->back = e->p;
	k->stored = group;
	k->stored_by = x;
	k->held = g->held;
	x->mem_size = saved;
}

/* ---- SSE and x87 registers ---- */

/* flag: whether it is there already; load: code that sees to it. */
static void gen_load_unit(struct gen *g, struct xl_insn *x, uint32_t flag, const uint8_t *load)
{
	struct emitter *e = &g->e;
	uint8_t *ready;

	gen_flags_lost(g, live_before(x));
	emit_rm(e, OP(.op = 0x80), 7, AT_GS(flag));
	emit8(e, 0);
	ready = emit_jcc8(e, CC_NE);
	emit8(e, 0xe8);
	gen_shared(g, load);
	new_cold(g, emit_jcc(e, 2 /* CF */), g->t->slow[0], gen_site(g, x, XL_LEAVE, true));
	emit_here8(e, ready);
}

/* Once before the first SSE instruction in a row. */
static void gen_load_sse(struct gen *g, struct xl_insn *x)
{
	if (!g->sse_ready)
		gen_load_unit(g, x, VP_FIELD(sse_loaded), g->t->load_sse);
	g->sse_ready = true;
}

static void gen_load_avx(struct gen *g, struct xl_insn *x)
{
	if (!g->avx_ready)
		gen_load_unit(g, x, VP_FIELD(avx_loaded), g->t->load_avx);
	g->sse_ready = g->avx_ready = true;
}

/* The new value is read once. If it unmasks something or isn't valid, the handler does it and the
 * block is left. */
static void gen_ldmxcsr(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	x->avx ? gen_load_avx(g, x) : gen_load_sse(g, x);
	gen_flags_lost(g, live_before(x));
	gen_address(g, x);
	gen_translate(g, x, 4, false, 0);
	emit_load32(e, SCRATCH0, AT_REG(SCRATCH0));
	emit_mov32(e, SCRATCH1, SCRATCH0);
	emit_rr(e, OP(.op = 0x81), 4, SCRATCH1); /* and */
	emit32(e, ~HOSTOP_MXCSR_MASK | MXCSR_MASKS);
	emit_rr(e, OP(.op = 0x81), 7, SCRATCH1); /* cmp */
	emit32(e, MXCSR_MASKS);
	gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	emit_store64(e, SCRATCH0, AT_GS(VP_FIELD(scratch[0])));
	emit_rm(e, OP(.map = MAP_0F, .op = 0xae), 2, AT_GS(VP_FIELD(scratch[0])));
	gen_slow_end(g);
}

void gen_load_x87(struct gen *g, struct xl_insn *x)
{
	if (!g->x87_ready)
		gen_load_unit(g, x, VP_FIELD(x87_loaded), g->t->load_x87);
	g->x87_ready = true;
}

/* ---- the instruction itself ---- */

/* How the operands are reached on the host. */
struct placed {
	unsigned reg, rm; /* host registers */
	unsigned vex;
	bool memory;                               /* rm is [SCRATCH0] */
	bool rm_in_vp;                             /* rm is its place in the VP */
	bool reg_spilled, rm_spilled, vex_spilled; /* their host register must go back to the VP */
};

static bool overwrites(const struct xl_insn *x, const struct xl_operand *o)
{
	return o->size >= 4 && o->write && !o->read &&
	       (x->mnemonic == ZYDIS_MNEMONIC_MOV || x->mnemonic == ZYDIS_MNEMONIC_MOVZX ||
		x->mnemonic == ZYDIS_MNEMONIC_MOVSX || x->mnemonic == ZYDIS_MNEMONIC_MOVSXD);
}

static unsigned place(struct gen *g, const struct xl_insn *x, const struct xl_operand *o,
		      unsigned scratch, bool *spilled)
{
	unsigned host;

	if (o->class != OPERAND_GPR)
		return o->number;
	host = host_gpr(o->number);
	if (host != H_NONE)
		return host;
	if (!overwrites(x, o))
		emit_load64(&g->e, scratch, AT_GS(VP_GPR(o->number)));
	*spilled = o->write;
	return scratch;
}

/* Its rm operand is only read, and may as well be memory (BT's may not). */
static bool reads_like_memory(const struct xl_insn *x)
{
	if (x->rm.write || x->plus_r || x->sse)
		return false;
	switch (x->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
		return true;
	default:
		return x->op.vex;
	}
}

static struct placed place_operands(struct gen *g, const struct xl_insn *x)
{
	struct placed p = { .reg = x->extension, .memory = x->mem_size != 0 };

	if (x->reg.class != OPERAND_ABSENT)
		p.reg = place(g, x, &x->reg, SCRATCH1, &p.reg_spilled);
	if (x->rm.class == OPERAND_GPR && host_gpr(x->rm.number) == H_NONE && reads_like_memory(x))
		p.rm_in_vp = true;
	else if (x->rm.class != OPERAND_ABSENT)
		p.rm = place(g, x, &x->rm, SCRATCH0, &p.rm_spilled);
	/* Its rm is memory, or read in the VP: one of the scratch registers is free. */
	if (x->vex.class != OPERAND_ABSENT)
		p.vex = place(g, x, &x->vex, in_vp(&x->reg) ? SCRATCH0 : SCRATCH1, &p.vex_spilled);
	return p;
}

static bool byte_needs_rex(const struct xl_operand *o)
{
	return o->class == OPERAND_GPR && o->size == 1 && o->number >= 4;
}

/* With one VP nothing runs beside user code that shares its memory, but devices with rings that the
 * guest's kernel maps to it (UIO). Such code orders its accesses by a locked access to the stack,
 * which stays what it is; the host only ever sets bits there, or takes all of them. */
static bool needs_no_lock(const struct gen *g, const struct xl_insn *x)
{
	return g->c->vm->vp_count == 1 && (g->b->key & KEY_USER) && x->u->base != OFF_GPR(PART_RSP);
}

/* at: the memory operand */
static void emit_it(struct gen *g, const struct xl_insn *x, const struct placed *p,
		    const struct host_mem *at)
{
	struct emitter *e = &g->e;
	struct opcode o = x->op;

	o.rex = byte_needs_rex(&x->reg) || byte_needs_rex(&x->rm);
	o.vvvv = (uint8_t)p->vex;
	if (o.lock && needs_no_lock(g, x))
		o.lock = false;
	if (x->plus_r)
		o.op &= 0xf8;
	if (p->memory)
		emit_rm(e, &o, p->reg, at);
	else if (p->rm_in_vp)
		emit_rm(e, &o, p->reg, AT_GS(VP_GPR(x->rm.number)));
	else if (x->plus_r)
		emit_plus_r(e, &o, p->rm);
	else if (x->modrm)
		emit_rr(e, &o, p->reg, p->rm);
	else
		emit_head(e, &o, 0, 0, 0);
	for (unsigned i = 0; i < x->imm_len; i++)
		emit8(e, x->imm[i]);
}

/* ModRM.reg's last: both results of MULX may go to it. */
static void put_back(struct gen *g, const struct xl_insn *x, const struct placed *p)
{
	if (p->vex_spilled)
		emit_store64(&g->e, p->vex, AT_GS(VP_GPR(x->vex.number)));
	if (p->reg_spilled)
		emit_store64(&g->e, p->reg, AT_GS(VP_GPR(x->reg.number)));
	if (p->rm_spilled)
		emit_store64(&g->e, p->rm, AT_GS(VP_GPR(x->rm.number)));
}

void gen_flags_for(struct gen *g, const struct xl_insn *x)
{
	if (x->writes_flags ? live_before(x) : x->use)
		gen_flags_wanted(g);
}

void gen_flags_after(struct gen *g, const struct xl_insn *x)
{
	if (x->writes_flags)
		g->flags = FLAGS_HOST;
}

/* The address of the page's flags waits in the VP while SCRATCH1 is needed. Groups have it there
 * anyway. */
void gen_spare_scratch(struct gen *g, const struct xl_insn *x)
{
	if (!x->group)
		emit_store64(&g->e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
}

void gen_restore_scratch(struct gen *g, const struct xl_insn *x)
{
	if (!x->group)
		emit_load64(&g->e, SCRATCH1, AT_GS(VP_FIELD(scratch[0])));
}

/* busy: SCRATCH1 is needed for something else before the access. */
static struct host_mem gen_operand(struct gen *g, struct xl_insn *x, bool busy)
{
	if (x->group)
		return gen_group_access(g, x);
	if (!x->mem_write && !x->mem_aligned)
		return gen_load(g, x, x->mem_size, !busy);
	gen_address(g, x);
	gen_translate(g, x, x->mem_size, x->mem_write, alignment(x));
	if (x->mem_write)
		gen_page_flags(g);
	return *AT_REG(SCRATCH0);
}

/* An XCHG with memory, which locks by itself, that needs no LOCK. */
static bool is_plain_exchange(const struct gen *g, const struct xl_insn *x)
{
	return x->mnemonic == ZYDIS_MNEMONIC_XCHG && x->mem_size && !in_vp(&x->reg) &&
	       needs_no_lock(g, x);
}

/* SCRATCH1 is lost. */
static void gen_exchange(struct gen *g, const struct xl_insn *x, const struct placed *p,
			 const struct host_mem *at)
{
	struct opcode load = x->op, store = x->op;
	struct emitter *e = &g->e;

	load.op = (uint8_t)(0x8a | (x->op.op & 1));
	store.op = (uint8_t)(0x88 | (x->op.op & 1));
	load.rex = store.rex = byte_needs_rex(&x->reg);
	load.lock = store.lock = false;
	emit_rm(e, &load, SCRATCH1, at);
	emit_rm(e, &store, p->reg, at);
	load.rex = true;
	emit_rr(e, &load, p->reg, SCRATCH1);
}

static void gen_memory_insn(struct gen *g, struct xl_insn *x)
{
	bool exchange = is_plain_exchange(g, x), busy;
	struct host_mem at;
	struct placed p;

	if (!keeps_flags(x))
		gen_flags_lost(g, live_before(x));
	busy = exchange || in_vp(&x->reg) || in_vp(&x->vex) ||
	       (g->flags == FLAGS_VP && (x->writes_flags ? live_before(x) : x->use));
	at = gen_operand(g, x, busy);
	if (x == g->guess.load && g->guess.hold)
		gen_hold_index(g);
	if (x->mem_write && busy)
		gen_spare_scratch(g, x);
	gen_flags_for(g, x);
	p = place_operands(g, x);
	exchange ? gen_exchange(g, x, &p, &at) : emit_it(g, x, &p, &at);
	put_back(g, x, &p);
	gen_flags_after(g, x);
	if (x->mem_write && busy)
		gen_restore_scratch(g, x);
	if (x->mem_write && x->group)
		gen_group_stored(g, x);
	else if (x->mem_write)
		gen_written(g, x, x->mem_size, XL_GO_ON, NULL);
	gen_slow_end(g);
}

static void gen_register_insn(struct gen *g, struct xl_insn *x)
{
	struct placed p;

	gen_flags_for(g, x);
	p = place_operands(g, x);
	emit_it(g, x, &p, NULL);
	put_back(g, x, &p);
	gen_flags_after(g, x);
}

/* It is a LEA of the host, too. */
static bool lea_is_direct(const struct xl_insn *x)
{
	return x->u->base != OFF_RIP &&
	       (x->reg.size == 4 || (x->reg.size == 8 && !(x->u->ea & EA_A32)));
}

/* LEA: the address itself, without segment. */
static void gen_lea(struct gen *g, struct xl_insn *x)
{
	unsigned host = host_gpr(x->reg.number), dst = host == H_NONE ? SCRATCH0 : host;
	struct uop *u = x->u, plain = *u;
	struct emitter *e = &g->e;
	struct host_mem m = { H_NONE, H_NONE, u->scale, false, (int32_t)u->disp };

	if (lea_is_direct(x)) {
		if (u->base != OFF_ZERO)
			m.base = (uint8_t)gen_get(g, guest_of(u->base), SCRATCH0);
		if (u->index != OFF_ZERO)
			m.index = (uint8_t)gen_get(g, guest_of(u->index), SCRATCH1);
		emit_rm(e, OP(.op = 0x8d, .w = x->reg.size == 8), dst, &m);
	} else {
		plain.seg = PART_DS;
		x->u = &plain;
		gen_address(g, x);
		x->u = u;
		if (x->reg.size == 2) {
			if (host == H_NONE)
				emit_load64(e, SCRATCH1, AT_GS(VP_GPR(x->reg.number)));
			dst = host == H_NONE ? SCRATCH1 : host;
			emit_rr(e, OP(.op = 0x89, .prefix = 0x66), SCRATCH0, dst);
		} else if (x->reg.size == 4) {
			emit_mov32(e, dst, SCRATCH0);
		} else if (dst != SCRATCH0) {
			emit_mov64(e, dst, SCRATCH0);
		}
	}
	if (host == H_NONE)
		emit_store64(e, dst, AT_GS(VP_GPR(x->reg.number)));
}

static void gen_plain(struct gen *g, struct xl_insn *x)
{
	if (x->sse)
		gen_load_sse(g, x);
	if (x->mmx)
		gen_load_x87(g, x);
	if (x->avx)
		gen_load_avx(g, x);
	if (x->mnemonic == ZYDIS_MNEMONIC_LEA)
		gen_lea(g, x);
	else if (x->mem_size)
		gen_memory_insn(g, x);
	else
		gen_register_insn(g, x);
}

/* ---- division ---- */

/* DIV raises #DE unless the upper half is below the divisor; then the host won't either. IDIV is
 * done here when the dividend is a sign-extended single and the divisor not 0 or -1. */
static void gen_divide(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;
	unsigned size = x->mem_size ? x->mem_size : x->rm.size, divisor = SCRATCH0;
	bool wide = size == 8, is_signed = x->mnemonic == ZYDIS_MNEMONIC_IDIV;

	if (size < 4 || x->op.lock) {
		gen_interpret(g, x);
		return;
	}
	gen_flags_lost(g, live_before(x));
	if (x->mem_size) {
		gen_address(g, x);
		gen_translate(g, x, size, false, 0);
		emit_rm(e, OP(.op = 0x8b, .w = wide), SCRATCH0, AT_REG(SCRATCH0));
	} else {
		divisor = gen_get(g, x->rm.number, SCRATCH0);
	}
	if (is_signed) {
		emit_rm(e, OP(.op = 0x8d, .w = wide), SCRATCH1,
			&(struct host_mem){ (uint8_t)divisor, H_NONE, 0, false, 1 });
		emit_rr(e, OP(.op = 0x83, .w = wide), 7, SCRATCH1); /* cmp divisor + 1, 1 */
		emit8(e, 1);
		gen_slow_jump(g, x, emit_jcc(e, CC_BE));
		emit_rr(e, OP(.op = 0x89, .w = wide), H_RAX, SCRATCH1);
		emit_rr(e, OP(.op = 0xc1, .w = wide), 7, SCRATCH1); /* sar */
		emit8(e, wide ? 63 : 31);
		emit_rr(e, OP(.op = 0x39, .w = wide), SCRATCH1, H_RDX);
		gen_slow_jump(g, x, emit_jcc(e, CC_NE));
	} else {
		emit_rr(e, OP(.op = 0x39, .w = wide), divisor, H_RDX); /* cmp rdx, divisor */
		gen_slow_jump(g, x, emit_jcc(e, CC_AE));
	}
	emit_rr(e, OP(.op = 0xf7, .w = wide), is_signed ? 7 : 6, divisor);
	g->flags = FLAGS_HOST;
	gen_slow_end(g);
}

/* ---- stack ---- */

struct host_mem gen_stack(struct gen *g, struct xl_insn *x, int32_t disp, bool write)
{
	if (x->group)
		return gen_group_access(g, x);
	emit_lea64(&g->e, SCRATCH0, &(struct host_mem){ GUEST_RSP, H_NONE, 0, false, disp });
	gen_translate(g, x, 8, write, 0);
	if (write)
		gen_page_flags(g);
	return *AT_REG(SCRATCH0);
}

void gen_stack_stored(struct gen *g, struct xl_insn *x, enum xl_after after)
{
	if (x->group)
		gen_group_stored(g, x);
	else
		gen_written(g, x, 8, after, NULL);
}

static void gen_push(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;
	unsigned guest = x->rm.number, host = H_NONE;
	bool is_register = x->u->fn == sc_push64_r;
	struct host_mem at;

	if (is_register)
		host = host_gpr(guest);
	if (!keeps_flags(x))
		gen_flags_lost(g, live_before(x));
	at = gen_stack(g, x, -8, true);
	if (!is_register) {
		emit_store_imm64(e, &at, x->u->imm);
	} else if (host != H_NONE) {
		emit_store64(e, host, &at);
	} else {
		gen_spare_scratch(g, x);
		emit_load64(e, SCRATCH1, AT_GS(VP_GPR(guest)));
		emit_store64(e, SCRATCH1, &at);
		gen_restore_scratch(g, x);
	}
	emit_lea64(e, GUEST_RSP, &(struct host_mem){ GUEST_RSP, H_NONE, 0, false, -8 });
	gen_stack_stored(g, x, XL_GO_ON);
	gen_slow_end(g);
}

static void gen_pop(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;
	unsigned guest = x->rm.number, host = host_gpr(guest);
	struct host_mem at;

	if (!keeps_flags(x))
		gen_flags_lost(g, live_before(x));
	at = gen_stack(g, x, 0, false);
	emit_load64(e, host == H_NONE ? SCRATCH1 : host, &at);
	if (host == H_NONE)
		emit_store64(e, SCRATCH1, AT_GS(VP_GPR(guest)));
	if (guest != PART_RSP)
		emit_lea64(e, GUEST_RSP, &(struct host_mem){ GUEST_RSP, H_NONE, 0, false, 8 });
	gen_slow_end(g);
}

static void gen_leave_frame(struct gen *g, struct xl_insn *x)
{
	struct emitter *e = &g->e;

	gen_flags_lost(g, live_before(x));
	emit_mov64(e, SCRATCH0, H_RBP);
	gen_translate(g, x, 8, false, 0);
	emit_lea64(e, GUEST_RSP, &(struct host_mem){ H_RBP, H_NONE, 0, false, 8 });
	emit_load64(e, H_RBP, AT_REG(SCRATCH0));
	gen_slow_end(g);
}

/* Whether SCRATCH0 is left alone. */
static bool keeps_scratch(const struct gen *g, const struct xl_insn *x)
{
	const struct uop *u = x->u;

	switch (x->kind) {
	case XL_NOTHING:
	case XL_JCC:
		return true;
	case XL_PUSH:
	case XL_POP:
		return keeps_flags(x);
	case XL_PLAIN:
		if (loads_units(g, x))
			return false;
		if (x->mem_size)
			return keeps_flags(x);
		if (x->mnemonic == ZYDIS_MNEMONIC_LEA)
			return lea_is_direct(x) && !off_in_vp(u->base) && !off_in_vp(u->index) &&
			       host_gpr(x->reg.number) != H_NONE;
		return !in_vp(&x->rm) && !in_vp(&x->vex);
	default:
		return false;
	}
}

void gen_insn(struct gen *g, struct xl_insn *x)
{
	g->slow = NULL;
	if (!keeps_scratch(g, x))
		g->held = NULL;
	switch (x->kind) {
	case XL_NOTHING:
		break;
	case XL_SECOND_PAGE:
		gen_second_page(g, x);
		break;
	case XL_PLAIN:
		gen_plain(g, x);
		break;
	case XL_X87:
	case XL_X87_FLDCW:
		gen_x87(g, x);
		break;
	case XL_LDMXCSR:
		gen_ldmxcsr(g, x);
		break;
	case XL_DIVIDE:
		gen_divide(g, x);
		break;
	case XL_PUSH:
		gen_push(g, x);
		break;
	case XL_POP:
		gen_pop(g, x);
		break;
	case XL_LEAVE_FRAME:
		gen_leave_frame(g, x);
		break;
	case XL_STRING:
		gen_string(g, x);
		break;
	case XL_INTERPRET:
		gen_interpret(g, x);
		break;
	case XL_CLI:
	case XL_STI:
	case XL_CLD:
	case XL_SWAPGS:
	case XL_PUSHF:
	case XL_PUSH_MEMORY:
	case XL_FROM_SEG:
	case XL_FROM_CR:
	case XL_READ_BASE:
	case XL_WRITE_BASE:
	case XL_TSC:
		gen_system(g, x);
		break;
	case XL_SYSCALL:
	case XL_SYSRET:
		gen_entry(g, x);
		break;
	case XL_BIT_STRING:
		gen_bits(g, x);
		break;
	default:
		gen_flow(g, x);
	}
	if (g->unseen)
		gen_look_at_stores(g, x, x + 1);
}
