/*
 * Exceptions and interrupts: raising them from handlers, and delivery through the IDT (SDM volume
 * 3, chapter 6). Task gates and virtual-8086 mode are not there: a task gate raises #GP as a gate
 * of a wrong type does.
 */
#include "part/softcpu/cpu.h"
#include "part/softcpu/fast.h"

/* ---- RFLAGS ---- */

uint64_t sc_rflags(const struct vp *c)
{
	unsigned f = c->flags;

	return c->rf | RF_ONE | ((f >> 8) & 0xd5) | (f & FL_OF ? RF_OF : 0);
}

void sc_set_rflags(struct vp *c, uint64_t v)
{
	uint64_t changed;

	c->flags = (uint16_t)((v & 0xd5) << 8 | (v & RF_OF ? FL_OF : 0));
	v &= ~(RF_ARITH | RF_ONE | BIT(3) | BIT(5) | BIT(15)) & 0x3fffff;
	changed = c->rf ^ v;
	c->rf = v;
	if (changed & RF_AC)
		sc_mmu_cpl_changed(c);
	if ((c->rf & RF_IF) && c->irq_waiting)
		sc_attention(c, ATT_EVAL);
	if (c->rf & RF_TF)
		sc_attention(c, ATT_STEP);
}

void sc_change_rflags(struct vp *c, uint64_t v, uint64_t mask)
{
	sc_set_rflags(c, (sc_rflags(c) & ~mask) | (v & mask));
}

/* ---- raising ---- */

void sc_raise(struct vp *c, struct uop *u, const struct sc_event *ev)
{
	c->event = *ev;
	c->event_pending = true;
	if (u)
		RIP(c) += u->off;
	longjmp(c->trap, 1);
}

void sc_fault(struct vp *c, struct uop *u, enum sc_vector vector)
{
	sc_raise(c, u, &(struct sc_event){ (uint8_t)vector, EVENT_FAULT, false, 0, 0 });
}

void sc_fault_code(struct vp *c, struct uop *u, enum sc_vector vector, uint32_t error)
{
	sc_raise(c, u, &(struct sc_event){ (uint8_t)vector, EVENT_FAULT, true, error, 0 });
}

/* ---- delivery ---- */

/* A stack that is being filled; nothing of the VP changes before all pushes are done. */
struct push_stack {
	uint64_t base, sp, mask;
	unsigned size; /* of one push */
	unsigned cpl;
};

static void push(struct vp *c, struct push_stack *s, uint64_t v)
{
	s->sp = (s->sp - s->size) & s->mask;
	sc_store_as(c, NULL, s->cpl, s->base + s->sp, v, s->size);
}

static uint64_t pushed_rflags(const struct vp *c, const struct sc_event *ev)
{
	/* A restarted instruction must not hit its own breakpoint again (SDM volume 3, 17.3.1.1).
	 */
	bool fault = ev->kind == EVENT_FAULT && ev->vector != VEC_DB;

	return sc_rflags(c) | (fault ? RF_RF : 0);
}

static void enter_handler_flags(struct vp *c, bool interrupt_gate)
{
	c->rf &= ~(RF_TF | RF_NT | RF_RF | RF_VM);
	if (interrupt_gate)
		c->rf &= ~RF_IF;
}

/* A handler that can't be there is a fault of the delivery (SDM, INT n's operation): else one of
 * #GP would be entered, and could not be fetched, for ever. */
static void check_entry(struct vp *c, uint64_t rip, uint32_t limit, unsigned ext)
{
	bool long_mode = c->efer & EFER_LMA;

	if (long_mode ? (uint64_t)((int64_t)(rip << 16) >> 16) != rip : rip > limit)
		sc_fault_code(c, NULL, VEC_GP, ext);
}

static void deliver_real(struct vp *c, const struct sc_event *ev)
{
	struct push_stack s = { c->seg[PART_SS].base, c->gpr[PART_RSP], c->stack_mask, 2, 0 };
	uint64_t entry = c->idt.base + ev->vector * 4u;
	uint32_t target;

	if (ev->vector * 4u + 3 > c->idt.limit)
		sc_fault_code(c, NULL, VEC_GP, ev->vector * 8u + 2);
	target = (uint32_t)sc_load_as(c, NULL, 0, entry, 4);
	check_entry(c, target & 0xffff, c->seg[PART_CS].limit, 0);
	push(c, &s, sc_rflags(c));
	push(c, &s, c->seg[PART_CS].selector);
	push(c, &s, RIP(c) + ev->insn_len);
	c->gpr[PART_RSP] = (c->gpr[PART_RSP] & ~s.mask) | s.sp;
	sc_set_rflags(c, sc_rflags(c) & ~(RF_IF | RF_TF | RF_RF | RF_AC));
	c->seg[PART_CS].selector = (uint16_t)(target >> 16);
	c->seg[PART_CS].base = (target >> 16) << 4;
	RIP(c) = target & 0xffff;
	sc_segs_changed(c);
}

struct gate {
	uint16_t selector;
	uint64_t offset;
	uint8_t type, dpl, ist;
	bool present;
};

static struct gate read_gate(struct vp *c, const struct sc_event *ev, unsigned size, unsigned code)
{
	uint64_t lo, hi = 0;
	struct gate g;

	if (ev->vector * size + size - 1 > c->idt.limit)
		sc_fault_code(c, NULL, VEC_GP, code);
	lo = sc_load_as(c, NULL, 0, c->idt.base + ev->vector * size, 8);
	if (size == 16)
		hi = sc_load_as(c, NULL, 0, c->idt.base + ev->vector * size + 8, 8);
	g.selector = (uint16_t)(lo >> 16);
	g.offset = (lo & 0xffff) | ((lo >> 48) << 16) | hi << 32;
	g.type = (lo >> 40) & 31;
	g.dpl = (lo >> 45) & 3;
	g.present = (lo >> 47) & 1;
	g.ist = (lo >> 32) & 7;
	return g;
}

/* Type, privilege and presence of the gate (SDM, INT n's operation). code: its error code. */
static struct gate checked_gate(struct vp *c, const struct sc_event *ev, unsigned code)
{
	bool lma = c->efer & EFER_LMA;
	struct gate g = read_gate(c, ev, lma ? 16 : 8, code);
	bool type_ok = g.type == 0xe || g.type == 0xf || (!lma && (g.type == 6 || g.type == 7));

	if (!type_ok)
		sc_fault_code(c, NULL, VEC_GP, code);
	if (ev->kind == EVENT_SOFT_INT && g.dpl < c->cpl)
		sc_fault_code(c, NULL, VEC_GP, code);
	if (!g.present)
		sc_fault_code(c, NULL, VEC_NP, code);
	if (!lma && !(g.type & 8))
		g.offset &= 0xffff;
	return g;
}

/* The handler's code segment; *cpl becomes its privilege. */
static struct part_segment handler_cs(struct vp *c, uint16_t selector, unsigned ext, unsigned *cpl)
{
	struct part_segment cs;
	unsigned code = (selector & ~3u) | ext;
	uint64_t desc;

	if (!(selector & ~3u))
		sc_fault_code(c, NULL, VEC_GP, ext);
	if (!sc_read_descriptor(c, NULL, selector, &desc))
		sc_fault_code(c, NULL, VEC_GP, code);
	sc_unpack_descriptor(desc, selector, &cs);
	if (!(cs.attributes & SEG_S) || !(cs.attributes & SEG_CODE) ||
	    SEG_DPL(cs.attributes) > c->cpl)
		sc_fault_code(c, NULL, VEC_GP, code);
	if (!(cs.attributes & SEG_P))
		sc_fault_code(c, NULL, VEC_NP, code);
	if ((c->efer & EFER_LMA) && (cs.attributes & (SEG_L | SEG_DB)) != SEG_L)
		sc_fault_code(c, NULL, VEC_GP, code);
	*cpl = cs.attributes & SEG_CONFORM ? c->cpl : SEG_DPL(cs.attributes);
	sc_set_accessed(c, NULL, selector, desc);
	cs.selector = (uint16_t)((selector & ~3u) | *cpl);
	return cs;
}

static uint64_t tss_field(struct vp *c, unsigned offset, unsigned size, unsigned ext)
{
	const struct part_segment *tr = &c->seg[PART_TR];

	if (offset + size - 1 > tr->limit)
		sc_fault_code(c, NULL, VEC_TS, (tr->selector & ~3u) | ext);
	return sc_load_as(c, NULL, 0, tr->base + offset, size);
}

static void deliver_long(struct vp *c, const struct sc_event *ev, unsigned ext)
{
	struct gate g = checked_gate(c, ev, ev->vector * 8u + 2 + ext);
	struct push_stack s = { 0, c->gpr[PART_RSP], UINT64_MAX, 8, 0 };
	struct part_segment cs;
	unsigned cpl;

	cs = handler_cs(c, g.selector, ext, &cpl);
	check_entry(c, g.offset, cs.limit, ext);
	s.cpl = cpl;
	if (g.ist)
		s.sp = tss_field(c, 28 + 8u * g.ist, 8, ext);
	else if (cpl != c->cpl)
		s.sp = tss_field(c, 4 + 8 * cpl, 8, ext);
	s.sp &= ~UINT64_C(15);
	push(c, &s, c->seg[PART_SS].selector);
	push(c, &s, c->gpr[PART_RSP]);
	push(c, &s, pushed_rflags(c, ev));
	push(c, &s, c->seg[PART_CS].selector);
	push(c, &s, RIP(c) + ev->insn_len);
	if (ev->has_error)
		push(c, &s, ev->error);

	if (cpl != c->cpl)
		sc_flat_ss(c, (uint16_t)cpl, cpl);
	c->seg[PART_CS] = cs;
	c->gpr[PART_RSP] = s.sp;
	RIP(c) = g.offset;
	enter_handler_flags(c, !(g.type & 1));
	sc_set_cpl(c, cpl);
	sc_segs_changed(c);
}

/* The stack of an inner level from the TSS. */
static struct part_segment inner_stack(struct vp *c, unsigned cpl, unsigned ext, uint64_t *sp)
{
	bool tss32 = SEG_TYPE(c->seg[PART_TR].attributes) & 8;
	unsigned offset = tss32 ? 4 + 8 * cpl : 2 + 4 * cpl;
	unsigned size = tss32 ? 4 : 2;

	*sp = tss_field(c, offset, size, ext);
	return sc_inner_ss(c, NULL, (uint16_t)tss_field(c, offset + size, 2, ext), cpl, ext);
}

static void deliver_protected(struct vp *c, const struct sc_event *ev, unsigned ext)
{
	struct gate g = checked_gate(c, ev, ev->vector * 8u + 2 + ext);
	struct part_segment cs, ss = c->seg[PART_SS];
	struct push_stack s = { 0, c->gpr[PART_RSP], c->stack_mask, g.type & 8 ? 4 : 2, 0 };
	unsigned cpl;

	cs = handler_cs(c, g.selector, ext, &cpl);
	check_entry(c, g.offset, cs.limit, ext);
	if (cpl != c->cpl) {
		ss = inner_stack(c, cpl, ext, &s.sp);
		s.mask = ss.attributes & SEG_DB ? UINT32_MAX : 0xffff;
	}
	s.base = ss.base;
	s.cpl = cpl;
	if (cpl != c->cpl) {
		push(c, &s, c->seg[PART_SS].selector);
		push(c, &s, c->gpr[PART_RSP]);
	}
	push(c, &s, pushed_rflags(c, ev));
	push(c, &s, c->seg[PART_CS].selector);
	push(c, &s, RIP(c) + ev->insn_len);
	if (ev->has_error)
		push(c, &s, ev->error);

	c->gpr[PART_RSP] = (c->gpr[PART_RSP] & ~s.mask) | (s.sp & s.mask);
	c->seg[PART_SS] = ss;
	c->seg[PART_CS] = cs;
	RIP(c) = g.offset;
	enter_handler_flags(c, !(g.type & 1));
	sc_set_cpl(c, cpl);
	sc_segs_changed(c);
}

void sc_deliver(struct vp *c, const struct sc_event *ev)
{
	unsigned ext = ev->kind == EVENT_SOFT_INT ? 0 : 1;

	c->shadow = SHADOW_NONE;
	c->halted = false;
	if (!(c->cr0 & CR0_PE))
		deliver_real(c, ev);
	else if (c->efer & EFER_LMA)
		deliver_long(c, ev, ext);
	else
		deliver_protected(c, ev, ext);
}

/* ---- faults in faults (SDM volume 3, table 6-5) ---- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum fault_class classify(unsigned vector, unsigned kind)
{
	if (kind != EVENT_FAULT)
		return BENIGN;
	switch (vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
		return CONTRIBUTORY;
	case VEC_PF:
		return PAGE_FAULT;
	case VEC_DF:
		return DOUBLE_FAULT;
	default:
		return BENIGN;
	}
}

void sc_deliver_raised(struct vp *c)
{
	struct sc_event ev = c->event;

	c->event_pending = false;
	if (c->delivering >= 0) {
		enum fault_class first =
		    classify((unsigned)c->delivering, (unsigned)c->delivering_kind);
		enum fault_class second = classify(ev.vector, ev.kind);

		if (first == DOUBLE_FAULT && second != BENIGN) {
			c->delivering = -1;
			c->shutdown = true;
			sc_attention(c, ATT_EVAL); /* else the next block runs */
			return;
		}
		if ((first == CONTRIBUTORY && second == CONTRIBUTORY) ||
		    (first == PAGE_FAULT && second != BENIGN))
			ev = (struct sc_event){ VEC_DF, EVENT_FAULT, true, 0, 0 };
	}
	c->delivering = ev.vector;
	c->delivering_kind = ev.kind;
	sc_deliver(c, &ev);
	c->delivering = -1;
}
