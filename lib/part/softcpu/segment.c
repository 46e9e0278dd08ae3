/*
 * Segmentation and far control transfer: descriptor checks of MOV Sreg, JMP FAR, CALL FAR, RET FAR
 * and IRET (SDM volume 2, their "Operation"; volume 3, chapters 3 and 5), and what follows from
 * them: the CPU's mode, stack width and privilege level.
 */
#include "part/softcpu/cpu.h"
#include "part/softcpu/fast.h"

void sc_set_cpl(struct vp *c, unsigned cpl)
{
	c->cpl = (uint8_t)cpl;
	sc_mmu_cpl_changed(c);
}

static bool spans_all(const struct part_segment *s, unsigned type_bits)
{
	unsigned mask = SEG_P | SEG_S | SEG_DB | SEG_CODE | SEG_RW;

	if (!(type_bits & SEG_CODE))
		mask |= SEG_DOWN;
	return s->base == 0 && s->limit == UINT32_MAX &&
	       (s->attributes & mask) == (SEG_P | SEG_S | SEG_DB | type_bits);
}

static bool is_flat(const struct vp *c)
{
	return c->mode == MODE_32 && (c->cr0 & CR0_PE) &&
	       spans_all(&c->seg[PART_CS], SEG_CODE | SEG_RW) &&
	       spans_all(&c->seg[PART_DS], SEG_RW) && spans_all(&c->seg[PART_ES], SEG_RW) &&
	       spans_all(&c->seg[PART_SS], SEG_RW);
}

void sc_segs_changed(struct vp *c)
{
	unsigned cs = c->seg[PART_CS].attributes;

	if ((c->efer & EFER_LMA) && (cs & SEG_L))
		c->mode = MODE_64;
	else
		c->mode = cs & SEG_DB ? MODE_32 : MODE_16;
	for (unsigned i = PART_ES; i <= PART_DS; i++)
		c->segbase[i] = c->mode == MODE_64 ? 0 : c->seg[i].base;
	c->segbase[PART_FS] = c->seg[PART_FS].base;
	c->segbase[PART_GS] = c->seg[PART_GS].base;
	if (c->mode == MODE_64)
		c->stack_mask = UINT64_MAX;
	else
		c->stack_mask = c->seg[PART_SS].attributes & SEG_DB ? UINT32_MAX : 0xffff;
	c->flat = is_flat(c);
	c->rip_mask = c->mode == MODE_64 ? UINT64_MAX : UINT32_MAX;
	sc_key_changed(c);
}

/* ---- descriptors ---- */

static bool descriptor_address(struct vp *c, uint16_t selector, unsigned size, uint64_t *ret)
{
	bool ldt = selector & 4;
	uint64_t base = ldt ? c->seg[PART_LDTR].base : c->gdt.base;
	uint64_t limit = ldt ? c->seg[PART_LDTR].limit : c->gdt.limit;

	if (ldt && !(c->seg[PART_LDTR].attributes & SEG_P))
		return false;
	if ((selector & ~7u) + size - 1 > limit)
		return false;
	*ret = base + (selector & ~7u);
	return true;
}

bool sc_read_descriptor(struct vp *c, struct uop *u, uint16_t selector, uint64_t *ret)
{
	uint64_t va;

	if (!(selector & ~3u) || !descriptor_address(c, selector, 8, &va))
		return false;
	*ret = sc_load_as(c, u, 0, va, 8);
	return true;
}

void sc_unpack_descriptor(uint64_t d, uint16_t selector, struct part_segment *ret)
{
	uint32_t limit = (uint32_t)((d & 0xffff) | ((d >> 32) & 0xf0000));

	ret->selector = selector;
	ret->base = ((d >> 16) & 0xffffff) | ((d >> 32) & 0xff000000);
	ret->attributes = (uint16_t)((d >> 40) & 0xf0ff);
	ret->limit = ret->attributes & SEG_G ? limit << 12 | 0xfff : limit;
}

void sc_set_accessed(struct vp *c, struct uop *u, uint16_t selector, uint64_t desc)
{
	uint64_t va;

	if ((desc & BIT(40)) || !descriptor_address(c, selector, 8, &va))
		return;
	sc_store_as(c, u, 0, va + 5, (desc >> 40) | SEG_ACCESSED, 1);
}

static void set_null(struct vp *c, enum part_seg seg, uint16_t selector)
{
	/* Bases survive on AMD and not on Intel; nobody relies on it but FS and GS must become 0.
	 */
	c->seg[seg] = (struct part_segment){ .selector = selector };
}

static void load_real(struct vp *c, enum part_seg seg, uint16_t selector)
{
	c->seg[seg].selector = selector;
	c->seg[seg].base = (uint64_t)selector << 4;
	sc_segs_changed(c);
}

static void load_ss(struct vp *c, struct uop *u, uint16_t selector)
{
	unsigned code = selector & ~3u, rpl = selector & 3;
	struct part_segment s;
	uint64_t desc;

	if (!code) {
		if (c->mode != MODE_64 || c->cpl == 3 || rpl != c->cpl)
			sc_gp(c, u);
		sc_flat_ss(c, selector, c->cpl);
		return;
	}
	if (!sc_read_descriptor(c, u, selector, &desc))
		sc_fault_code(c, u, VEC_GP, code);
	sc_unpack_descriptor(desc, selector, &s);
	if (rpl != c->cpl || SEG_DPL(s.attributes) != c->cpl ||
	    (s.attributes & (SEG_S | SEG_CODE | SEG_RW)) != (SEG_S | SEG_RW))
		sc_fault_code(c, u, VEC_GP, code);
	if (!(s.attributes & SEG_P))
		sc_fault_code(c, u, VEC_SS, code);
	sc_set_accessed(c, u, selector, desc);
	s.attributes |= SEG_ACCESSED;
	c->seg[PART_SS] = s;
}

static void load_data(struct vp *c, struct uop *u, enum part_seg seg, uint16_t selector)
{
	unsigned code = selector & ~3u, rpl = selector & 3;
	struct part_segment s;
	uint64_t desc;
	unsigned a;

	if (!code) {
		set_null(c, seg, selector);
		return;
	}
	if (!sc_read_descriptor(c, u, selector, &desc))
		sc_fault_code(c, u, VEC_GP, code);
	sc_unpack_descriptor(desc, selector, &s);
	a = s.attributes;
	if (!(a & SEG_S) || (a & (SEG_CODE | SEG_RW)) == SEG_CODE)
		sc_fault_code(c, u, VEC_GP, code);
	if ((a & (SEG_CODE | SEG_CONFORM)) != (SEG_CODE | SEG_CONFORM) &&
	    (SEG_DPL(a) < rpl || SEG_DPL(a) < c->cpl))
		sc_fault_code(c, u, VEC_GP, code);
	if (!(a & SEG_P))
		sc_fault_code(c, u, VEC_NP, code);
	sc_set_accessed(c, u, selector, desc);
	s.attributes |= SEG_ACCESSED;
	c->seg[seg] = s;
}

void sc_load_seg(struct vp *c, struct uop *u, enum part_seg seg, uint16_t selector)
{
	if (!(c->cr0 & CR0_PE)) {
		load_real(c, seg, selector);
		return;
	}
	if (seg == PART_SS)
		load_ss(c, u, selector);
	else
		load_data(c, u, seg, selector);
	sc_segs_changed(c);
}

void sc_flat_cs(struct vp *c, uint16_t selector, unsigned cpl, bool long_mode)
{
	c->seg[PART_CS] =
	    (struct part_segment){ 0, UINT32_MAX, selector,
				   (uint16_t)(0x809b | cpl << 5 | (long_mode ? SEG_L : SEG_DB)) };
}

/* The SS that SYSCALL gives, and the null SS of long mode's inner stacks. */
void sc_flat_ss(struct vp *c, uint16_t selector, unsigned cpl)
{
	c->seg[PART_SS] =
	    (struct part_segment){ 0, UINT32_MAX, selector, (uint16_t)(0xc093 | cpl << 5) };
}

struct part_segment sc_inner_ss(struct vp *c, struct uop *u, uint16_t selector, unsigned cpl,
				unsigned ext)
{
	unsigned code = (selector & ~3u) | ext;
	struct part_segment s;
	uint64_t desc;

	if (!sc_read_descriptor(c, u, selector, &desc))
		sc_fault_code(c, u, VEC_TS, code);
	sc_unpack_descriptor(desc, selector, &s);
	if ((selector & 3u) != cpl || SEG_DPL(s.attributes) != cpl ||
	    (s.attributes & (SEG_S | SEG_CODE | SEG_RW)) != (SEG_S | SEG_RW))
		sc_fault_code(c, u, VEC_TS, code);
	if (!(s.attributes & SEG_P))
		sc_fault_code(c, u, VEC_SS, code);
	sc_set_accessed(c, u, selector, desc);
	s.attributes |= SEG_ACCESSED;
	return s;
}

/* LLDT and LTR: a descriptor of 16 bytes in long mode. */
static struct part_segment system_descriptor(struct vp *c, struct uop *u, uint16_t selector,
					     uint64_t *ret_va)
{
	bool lma = c->efer & EFER_LMA;
	unsigned code = selector & ~3u;
	struct part_segment s;

	if ((selector & 4) || !descriptor_address(c, selector, lma ? 16 : 8, ret_va))
		sc_fault_code(c, u, VEC_GP, code);
	sc_unpack_descriptor(sc_load_as(c, u, 0, *ret_va, 8), selector, &s);
	if (lma)
		s.base |= sc_load_as(c, u, 0, *ret_va + 8, 8) << 32;
	if (s.attributes & SEG_S)
		sc_fault_code(c, u, VEC_GP, code);
	return s;
}

void sc_load_ldtr(struct vp *c, struct uop *u, uint16_t selector)
{
	struct part_segment s;
	uint64_t va;

	if (!(selector & ~3u)) {
		set_null(c, PART_LDTR, selector);
		return;
	}
	s = system_descriptor(c, u, selector, &va);
	if (SEG_TYPE(s.attributes) != 2)
		sc_fault_code(c, u, VEC_GP, selector & ~3u);
	if (!(s.attributes & SEG_P))
		sc_fault_code(c, u, VEC_NP, selector & ~3u);
	c->seg[PART_LDTR] = s;
}

void sc_load_tr(struct vp *c, struct uop *u, uint16_t selector)
{
	struct part_segment s;
	unsigned type;
	uint64_t va;

	if (!(selector & ~3u))
		sc_gp(c, u);
	s = system_descriptor(c, u, selector, &va);
	type = SEG_TYPE(s.attributes);
	if (type != 9 && (type != 1 || (c->efer & EFER_LMA)))
		sc_fault_code(c, u, VEC_GP, selector & ~3u);
	if (!(s.attributes & SEG_P))
		sc_fault_code(c, u, VEC_NP, selector & ~3u);
	s.attributes |= 2; /* busy */
	sc_store_as(c, u, 0, va + 5, s.attributes & 0xff, 1);
	c->seg[PART_TR] = s;
}

/* ---- far transfers ---- */

/* A code segment that JMP FAR or CALL FAR may enter at the current privilege. */
static struct part_segment direct_cs(struct vp *c, struct uop *u, uint16_t selector, uint64_t desc)
{
	unsigned code = selector & ~3u, a;
	struct part_segment s;

	sc_unpack_descriptor(desc, selector, &s);
	a = s.attributes;
	if (a & SEG_CONFORM ? SEG_DPL(a) > c->cpl
			    : (selector & 3u) > c->cpl || SEG_DPL(a) != c->cpl)
		sc_fault_code(c, u, VEC_GP, code);
	if ((c->efer & EFER_LMA) && (a & SEG_L) && (a & SEG_DB))
		sc_fault_code(c, u, VEC_GP, code);
	if (!(a & SEG_P))
		sc_fault_code(c, u, VEC_NP, code);
	sc_set_accessed(c, u, selector, desc);
	s.attributes |= SEG_ACCESSED;
	s.selector = (uint16_t)(code | c->cpl);
	return s;
}

static void check_target(struct vp *c, struct uop *u, const struct part_segment *cs, uint64_t off)
{
	if ((c->efer & EFER_LMA) && (cs->attributes & SEG_L)) {
		if ((uint64_t)((int64_t)(off << 16) >> 16) != off)
			sc_gp(c, u);
	} else if (off > cs->limit) {
		sc_gp(c, u);
	}
}

static uint64_t read_far_descriptor(struct vp *c, struct uop *u, uint16_t selector)
{
	uint64_t desc;

	if (!(selector & ~3u))
		sc_gp(c, u);
	if (!sc_read_descriptor(c, u, selector, &desc))
		sc_fault_code(c, u, VEC_GP, selector & ~3u);
	return desc;
}

/* A call gate's target; false if desc is none. Raises for all other system descriptors. */
static bool call_gate(struct vp *c, struct uop *u, uint16_t *selector, uint64_t *off, uint64_t desc,
		      unsigned *size, unsigned *params)
{
	unsigned type = (desc >> 40) & 15, dpl = (desc >> 45) & 3, code = *selector & ~3u;
	bool lma = c->efer & EFER_LMA;
	uint64_t va;

	if (desc & BIT(44)) {
		if (!((desc >> 40) & SEG_CODE))
			sc_fault_code(c, u, VEC_GP, code);
		return false;
	}
	if (type != 12 && (type != 4 || lma))
		sc_fault_code(c, u, VEC_GP, code);
	if (dpl < c->cpl || dpl < (*selector & 3u))
		sc_fault_code(c, u, VEC_GP, code);
	if (!(desc & BIT(47)))
		sc_fault_code(c, u, VEC_NP, code);
	*off = (desc & 0xffff) | (type & 8 ? (desc >> 48) << 16 : 0);
	*size = lma ? 8 : type & 8 ? 4 : 2;
	*params = lma ? 0 : (desc >> 32) & 31;
	if (lma) {
		if (!descriptor_address(c, *selector, 16, &va))
			sc_fault_code(c, u, VEC_GP, code);
		*off |= sc_load_as(c, u, 0, va + 8, 8) << 32;
	}
	*selector = (uint16_t)(desc >> 16);
	return true;
}

static void set_cs(struct vp *c, const struct part_segment *cs, uint64_t off)
{
	c->seg[PART_CS] = *cs;
	RIP(c) = off;
	sc_segs_changed(c);
}

static void real_cs(struct vp *c, uint16_t selector, uint64_t off)
{
	c->seg[PART_CS].selector = selector;
	c->seg[PART_CS].base = (uint64_t)selector << 4;
	RIP(c) = off;
	sc_segs_changed(c);
}

static uint64_t truncate_to(uint64_t v, unsigned size)
{
	return size == 8 ? v : size == 4 ? (uint32_t)v : (uint16_t)v;
}

void sc_far_jump(struct vp *c, struct uop *u, uint16_t selector, uint64_t off, unsigned size)
{
	struct part_segment cs;
	unsigned params;
	uint64_t desc;

	off = truncate_to(off, size);
	if (!(c->cr0 & CR0_PE)) {
		if (off > c->seg[PART_CS].limit)
			sc_gp(c, u);
		real_cs(c, selector, off);
		return;
	}
	desc = read_far_descriptor(c, u, selector);
	if (call_gate(c, u, &selector, &off, desc, &size, &params)) {
		desc = read_far_descriptor(c, u, selector);
		if ((desc >> 40 & (SEG_S | SEG_CODE)) != (SEG_S | SEG_CODE))
			sc_fault_code(c, u, VEC_GP, selector & ~3u);
	}
	cs = direct_cs(c, u, selector, desc);
	check_target(c, u, &cs, off);
	set_cs(c, &cs, off);
}

/* Pushes on the stack as it is, in the order given; RSP changes when all are done. */
static void push_all(struct vp *c, struct uop *u, const uint64_t *v, unsigned count, unsigned size)
{
	uint64_t sp = c->gpr[PART_RSP];

	for (unsigned i = 0; i < count; i++) {
		sp = (sp - size) & c->stack_mask;
		sc_store(c, u, sc_linear(c, u, PART_SS, sp, size, true), v[i], size);
	}
	c->gpr[PART_RSP] = (c->gpr[PART_RSP] & ~c->stack_mask) | sp;
}

/* Through a call gate to an inner level: its stack, with the parameters copied. */
static void call_inner(struct vp *c, struct uop *u, struct part_segment *cs, uint64_t off,
		       unsigned size, unsigned params)
{
	unsigned cpl = SEG_DPL(cs->attributes);
	const struct part_segment *tr = &c->seg[PART_TR];
	bool lma = c->efer & EFER_LMA, tss32 = SEG_TYPE(tr->attributes) & 8;
	unsigned at = lma ? 4 + 8 * cpl : tss32 ? 4 + 8 * cpl : 2 + 4 * cpl;
	unsigned sp_size = lma ? 8 : tss32 ? 4 : 2;
	struct part_segment ss = { 0 };
	uint64_t sp, mask = UINT64_MAX, old_sp = c->gpr[PART_RSP], v;

	if (at + sp_size + 1 > tr->limit)
		sc_fault_code(c, u, VEC_TS, tr->selector & ~3u);
	sp = sc_load_as(c, u, 0, tr->base + at, sp_size);
	if (!lma) {
		ss = sc_inner_ss(c, u, (uint16_t)sc_load_as(c, u, 0, tr->base + at + sp_size, 2),
				 cpl, 0);
		mask = ss.attributes & SEG_DB ? UINT32_MAX : 0xffff;
	}
#define PUSH(value)                                                                                \
	do {                                                                                       \
		sp = (sp - size) & mask;                                                           \
		sc_store_as(c, u, cpl, ss.base + sp, (value), size);                               \
	} while (0)
	PUSH(c->seg[PART_SS].selector);
	PUSH(old_sp);
	for (unsigned i = params; i-- > 0;) {
		v = sc_load_as(c, u, c->cpl,
			       c->seg[PART_SS].base + ((old_sp + i * size) & c->stack_mask), size);
		PUSH(v);
	}
	PUSH(c->seg[PART_CS].selector);
	PUSH(NEXT_RIP(c, u));
#undef PUSH
	if (lma)
		sc_flat_ss(c, (uint16_t)cpl, cpl);
	else
		c->seg[PART_SS] = ss;
	c->gpr[PART_RSP] = (c->gpr[PART_RSP] & ~mask) | sp;
	cs->selector = (uint16_t)((cs->selector & ~3u) | cpl);
	sc_set_cpl(c, cpl);
	set_cs(c, cs, off);
}

static void call_via_gate(struct vp *c, struct uop *u, uint16_t selector, uint64_t off,
			  unsigned size, unsigned params)
{
	uint64_t desc = read_far_descriptor(c, u, selector);
	uint64_t frame[2] = { c->seg[PART_CS].selector, NEXT_RIP(c, u) };
	struct part_segment cs;

	sc_unpack_descriptor(desc, selector, &cs);
	if ((cs.attributes & (SEG_S | SEG_CODE)) != (SEG_S | SEG_CODE) ||
	    SEG_DPL(cs.attributes) > c->cpl ||
	    ((c->efer & EFER_LMA) && (cs.attributes & (SEG_L | SEG_DB)) != SEG_L))
		sc_fault_code(c, u, VEC_GP, selector & ~3u);
	if (!(cs.attributes & SEG_P))
		sc_fault_code(c, u, VEC_NP, selector & ~3u);
	check_target(c, u, &cs, off);
	if (!(cs.attributes & SEG_CONFORM) && SEG_DPL(cs.attributes) < c->cpl) {
		call_inner(c, u, &cs, off, size, params);
		return;
	}
	push_all(c, u, frame, 2, size);
	cs.selector = (uint16_t)((selector & ~3u) | c->cpl);
	set_cs(c, &cs, off);
}

void sc_far_call(struct vp *c, struct uop *u, uint16_t selector, uint64_t off, unsigned size)
{
	uint64_t frame[2] = { c->seg[PART_CS].selector, NEXT_RIP(c, u) };
	struct part_segment cs;
	unsigned params;
	uint64_t desc;

	off = truncate_to(off, size);
	if (!(c->cr0 & CR0_PE)) {
		if (off > c->seg[PART_CS].limit)
			sc_gp(c, u);
		push_all(c, u, frame, 2, size);
		real_cs(c, selector, off);
		return;
	}
	desc = read_far_descriptor(c, u, selector);
	if (call_gate(c, u, &selector, &off, desc, &size, &params)) {
		call_via_gate(c, u, selector, off, size, params);
		return;
	}
	cs = direct_cs(c, u, selector, desc);
	check_target(c, u, &cs, off);
	push_all(c, u, frame, 2, size);
	set_cs(c, &cs, off);
}

/* Reads value i of the stack without popping. */
static uint64_t peek(struct vp *c, struct uop *u, unsigned at, unsigned size)
{
	uint64_t sp = (c->gpr[PART_RSP] + at) & c->stack_mask;

	return sc_load(c, u, sc_linear(c, u, PART_SS, sp, size, false), size);
}

static void add_sp(struct vp *c, uint64_t n)
{
	c->gpr[PART_RSP] =
	    (c->gpr[PART_RSP] & ~c->stack_mask) | ((c->gpr[PART_RSP] + n) & c->stack_mask);
}

/* The code segment that RET FAR or IRET returns to. */
static struct part_segment return_cs(struct vp *c, struct uop *u, uint16_t selector, uint64_t off)
{
	unsigned rpl = selector & 3, code = selector & ~3u, a;
	struct part_segment s;
	uint64_t desc = read_far_descriptor(c, u, selector);

	sc_unpack_descriptor(desc, selector, &s);
	a = s.attributes;
	if ((a & (SEG_S | SEG_CODE)) != (SEG_S | SEG_CODE) || rpl < c->cpl)
		sc_fault_code(c, u, VEC_GP, code);
	if (a & SEG_CONFORM ? SEG_DPL(a) > rpl : SEG_DPL(a) != rpl)
		sc_fault_code(c, u, VEC_GP, code);
	if ((c->efer & EFER_LMA) && (a & SEG_L) && (a & SEG_DB))
		sc_fault_code(c, u, VEC_GP, code);
	if (!(a & SEG_P))
		sc_fault_code(c, u, VEC_NP, code);
	check_target(c, u, &s, off);
	sc_set_accessed(c, u, selector, desc);
	s.attributes |= SEG_ACCESSED;
	return s;
}

/* The stack segment that an outer level gets back. long_cs: the code returned to is 64-bit. */
static struct part_segment return_ss(struct vp *c, struct uop *u, uint16_t selector, unsigned rpl,
				     bool long_cs)
{
	unsigned code = selector & ~3u;
	struct part_segment s;
	uint64_t desc;

	if (!code) {
		if (!long_cs || rpl == 3 || (selector & 3u) != rpl)
			sc_gp(c, u);
		return (struct part_segment){ 0, UINT32_MAX, selector,
					      (uint16_t)(0xc093 | rpl << 5) };
	}
	if (!sc_read_descriptor(c, u, selector, &desc))
		sc_fault_code(c, u, VEC_GP, code);
	sc_unpack_descriptor(desc, selector, &s);
	if ((selector & 3u) != rpl || SEG_DPL(s.attributes) != rpl ||
	    (s.attributes & (SEG_S | SEG_CODE | SEG_RW)) != (SEG_S | SEG_RW))
		sc_fault_code(c, u, VEC_GP, code);
	if (!(s.attributes & SEG_P))
		sc_fault_code(c, u, VEC_SS, code);
	sc_set_accessed(c, u, selector, desc);
	s.attributes |= SEG_ACCESSED;
	return s;
}

/* An outer level must not keep data segments that it may not use. */
static void drop_inner_segments(struct vp *c)
{
	static const enum part_seg data[] = { PART_ES, PART_DS, PART_FS, PART_GS };

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct part_segment *s = &c->seg[data[i]];
		unsigned a = s->attributes;
		bool conforming = (a & (SEG_CODE | SEG_CONFORM)) == (SEG_CODE | SEG_CONFORM);

		if ((s->selector & ~3u) && (a & SEG_S) && !conforming && SEG_DPL(a) < c->cpl)
			*s = (struct part_segment){ .selector = 0 };
	}
}

/* Takes over the frame that was read and checked. */
static void return_to(struct vp *c, const struct part_segment *cs, uint64_t off,
		      const struct part_segment *ss, uint64_t sp, unsigned rpl)
{
	bool outer = rpl != c->cpl;

	c->seg[PART_CS] = *cs;
	RIP(c) = off;
	if (ss) {
		c->seg[PART_SS] = *ss;
		sc_set_cpl(c, rpl);
		sc_segs_changed(c);
		c->gpr[PART_RSP] = (c->gpr[PART_RSP] & ~c->stack_mask) | (sp & c->stack_mask);
	}
	if (outer)
		drop_inner_segments(c);
	sc_segs_changed(c);
}

void sc_far_return(struct vp *c, struct uop *u, unsigned size, unsigned pop_bytes)
{
	uint64_t off = peek(c, u, 0, size), sp;
	uint16_t selector = (uint16_t)peek(c, u, size, size);
	unsigned rpl = selector & 3;
	struct part_segment cs, ss;

	if (!(c->cr0 & CR0_PE)) {
		if (off > c->seg[PART_CS].limit)
			sc_gp(c, u);
		add_sp(c, 2 * size + pop_bytes);
		real_cs(c, selector, off);
		return;
	}
	cs = return_cs(c, u, selector, off);
	if (rpl == c->cpl) {
		add_sp(c, 2 * size + pop_bytes);
		return_to(c, &cs, off, NULL, 0, rpl);
		return;
	}
	sp = peek(c, u, 2 * size + pop_bytes, size);
	ss = return_ss(c, u, (uint16_t)peek(c, u, 3 * size + pop_bytes, size), rpl,
		       cs.attributes & SEG_L);
	return_to(c, &cs, off, &ss, sp + pop_bytes, rpl);
}

/* ---- IRET ---- */

/* Which flags IRET may change, by operand size and the privilege that executes it. */
static uint64_t iret_mask(const struct vp *c, unsigned size)
{
	uint64_t mask = RF_ARITH | RF_TF | RF_DF | RF_NT;

	if (c->cpl <= ((c->rf & RF_IOPL) >> 12))
		mask |= RF_IF;
	if (c->cpl == 0)
		mask |= RF_IOPL | (size == 2 ? 0 : RF_VIF | RF_VIP);
	if (size != 2)
		mask |= RF_RF | RF_AC | RF_ID;
	return mask;
}

static void iret_real(struct vp *c, struct uop *u, unsigned size)
{
	uint64_t off = peek(c, u, 0, size), flags = peek(c, u, 2 * size, size);
	uint16_t selector = (uint16_t)peek(c, u, size, size);

	if (off > c->seg[PART_CS].limit)
		sc_gp(c, u);
	add_sp(c, 3 * size);
	real_cs(c, selector, off);
	sc_change_rflags(c, flags, iret_mask(c, size) & ~(RF_VIF | RF_VIP));
}

void sc_iret(struct vp *c, struct uop *u, unsigned size)
{
	uint64_t off, flags, sp, mask;
	struct part_segment cs, ss;
	uint16_t selector;
	unsigned rpl;

	if (c->nmi_blocked) {
		c->nmi_blocked = false;
		sc_attention(c, ATT_EVAL);
	}
	if (!(c->cr0 & CR0_PE)) {
		iret_real(c, u, size);
		return;
	}
	if (c->rf & RF_NT)
		sc_gp(c, u); /* a task return: not there; in long mode #GP too */
	off = peek(c, u, 0, size);
	selector = (uint16_t)peek(c, u, size, size);
	flags = peek(c, u, 2 * size, size);
	if ((flags & RF_VM) && size != 2 && c->cpl == 0 && !(c->efer & EFER_LMA))
		sc_gp(c, u); /* virtual-8086 mode: not there */
	cs = return_cs(c, u, selector, off);
	rpl = selector & 3;
	mask = iret_mask(c, size);
	if (rpl != c->cpl || c->mode == MODE_64) {
		sp = peek(c, u, 3 * size, size);
		ss = return_ss(c, u, (uint16_t)peek(c, u, 4 * size, size), rpl,
			       cs.attributes & SEG_L);
		return_to(c, &cs, off, &ss, sp, rpl);
	} else {
		add_sp(c, 3 * size);
		return_to(c, &cs, off, NULL, 0, rpl);
	}
	sc_change_rflags(c, flags, mask);
}
