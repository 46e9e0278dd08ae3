/*
 * A VP's main loop: blocks, and between them whatever vp.attention asks for. Also the states after
 * power-on, INIT and SIPI (SDM volume 3, chapter 10).
 */
#include "part/softcpu/cpu.h"
#include "part/softcpu/exec.h"
#include "part/softcpu/fast.h"
#include "part/softcpu/softcpu.h"
#include "part/softcpu/translate.h"

#include <string.h>

/* ---- reset ---- */

#define RESET_CR0   (CR0_ET | CR0_NW | CR0_CD)
#define RESET_PAT   UINT64_C(0x0007040600070406)
#define MISC_ENABLE 1 /* fast strings */
#define RESET_DR6   UINT64_C(0xffff0ff0)
#define RESET_DR7   UINT64_C(0x400)

static void reset_segments(struct vp *c)
{
	for (unsigned i = PART_ES; i <= PART_GS; i++)
		c->seg[i] = (struct part_segment){ 0, 0xffff, 0, 0x0093 };
	c->seg[PART_CS] = (struct part_segment){ 0xffff0000, 0xffff, 0xf000, 0x009b };
	c->seg[PART_LDTR] = (struct part_segment){ 0, 0xffff, 0, 0x0082 };
	c->seg[PART_TR] = (struct part_segment){ 0, 0xffff, 0, 0x008b };
	c->gdt = c->idt = (struct sc_dtable){ 0, 0xffff };
}

/* What power-on and INIT have in common. */
static void reset_common(struct vp *c)
{
	uint32_t id[4];

	sc_cpuid(c, 1, 0, id);
	memset(c->gpr, 0, 16 * sizeof(c->gpr[0]));
	c->gpr[PART_RDX] = id[0];
	RIP(c) = 0xfff0;
	sc_set_rflags(c, 0);
	reset_segments(c);
	c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
	c->avx_on = false;
	memset(c->dr, 0, sizeof(c->dr));
	c->dr[6] = RESET_DR6;
	c->dr[7] = RESET_DR7;
	c->shadow = SHADOW_NONE;
	c->irq_waiting = c->nmi_blocked = c->halted = c->shutdown = false;
	c->event_pending = false;
	c->delivering = -1;
	c->wait_for_sipi = c->index != 0;
	c->link = NULL;
}

static void modes_changed(struct vp *c)
{
	c->cpl = 0;
	sc_segs_changed(c);
	sc_mmu_mode_changed(c);
}

void sc_vp_power_on(struct vp *c)
{
	reset_common(c);
	c->cr0 = RESET_CR0;
	hostop_fpu_reset(&c->regs.fpu);
	memset(c->regs.ymm_high, 0, sizeof(c->regs.ymm_high));
	c->xcr0 = HOSTOP_XCR0_X87;
	c->star = c->lstar = c->cstar = c->sfmask = c->kernel_gs_base = c->tsc_aux = 0;
	c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
	c->pat = RESET_PAT;
	c->misc_enable = MISC_ENABLE;
	c->mtrr_def = 0;
	memset(c->mtrr_fixed, 0, sizeof(c->mtrr_fixed));
	memset(c->mtrr_base, 0, sizeof(c->mtrr_base));
	memset(c->mtrr_mask, 0, sizeof(c->mtrr_mask));
	c->tsc_adjust = 0;
	sc_tsc_changed(c);
	modes_changed(c);
}

/* The cache control bits and the FPU survive an INIT. */
static void take_init(struct vp *c)
{
	uint64_t cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;

	lapic_init(c->lapic);
	reset_common(c);
	c->cr0 = cr0;
	modes_changed(c);
	c->vm->host.vp_reset(c->vm->host.user, c->index);
}

static void take_sipi(struct vp *c, uint8_t vector)
{
	c->seg[PART_CS].selector = (uint16_t)(vector << 8);
	c->seg[PART_CS].base = (uint64_t)vector << 12;
	RIP(c) = 0;
	c->wait_for_sipi = false;
	sc_segs_changed(c);
}

/* ---- events ---- */

static void deliver_interrupt(struct vp *c, unsigned vector)
{
	struct sc_event ev = { .vector = (uint8_t)vector, .kind = EVENT_INTERRUPT };

	c->delivering = (int)vector;
	c->delivering_kind = EVENT_INTERRUPT;
	sc_deliver(c, &ev);
	c->delivering = -1;
}

/* INIT, SIPI, NMI. */
static void take_events(struct vp *c)
{
	uint8_t vector;

	for (;;) {
		switch (lapic_next_event(c->lapic, !c->nmi_blocked && !c->shadow, c->wait_for_sipi,
					 &vector)) {
		case LAPIC_INIT:
			take_init(c);
			break;
		case LAPIC_SIPI:
			take_sipi(c, vector);
			break;
		case LAPIC_NMI:
			c->nmi_blocked = true;
			deliver_interrupt(c, VEC_NMI);
			break;
		default:
			return;
		}
	}
}

static void take_interrupt(struct vp *c)
{
	int vector;

	c->irq_waiting = false;
	if (!lapic_interrupt_pending(c->lapic))
		return;
	if (!(c->rf & RF_IF) || c->shadow) {
		c->irq_waiting = true;
		return;
	}
	vector = lapic_acknowledge(c->lapic);
	if (vector >= 0) {
		/* there may be another one, once the guest allows it */
		c->irq_waiting = true;
		deliver_interrupt(c, (unsigned)vector);
	}
}

static bool idle(const struct vp *c)
{
	return c->halted || c->wait_for_sipi || c->shutdown;
}

/* Exactly one instruction, or one iteration of a repeated one. */
static void step(struct vp *c)
{
	struct block *b = sc_lookup(c, KEY_STEP);

	c->blk = b;
	c->icount++;
	b->uops[0].fn(c, b->uops);
	c->link = NULL;
}

static _Noreturn void debug_trap(struct vp *c)
{
	c->dr[6] |= BIT(14); /* BS */
	sc_fault(c, NULL, VEC_DB);
}

/* The instruction after STI or a load of SS, and those with TF set, go one by one. */
static void step_if_wanted(struct vp *c)
{
	bool trap = c->rf & RF_TF;
	enum sc_shadow before = c->shadow;

	if (!trap && !before)
		return;
	c->shadow = SHADOW_NONE;
	step(c);
	/* In a shadow no new one begins: a row of STIs can't hold off interrupts for ever. */
	if (before)
		c->shadow = SHADOW_NONE;
	if (c->irq_waiting || c->shadow)
		sc_attention(c, ATT_EVAL);
	if (c->rf & RF_TF)
		sc_attention(c, ATT_STEP);
	if (trap && c->shadow != SHADOW_SS)
		debug_trap(c);
}

/* Does what attention asks for. False: leave the loop (pause, stop, idle). */
static bool serve(struct vp *c)
{
	uint32_t why = atomic_exchange(&c->attention, 0);

	if (why & ATT_INVALIDATE)
		sc_invalidate_posted(c);
	if (why & ATT_LEAVE) {
		/* whatever else there was is looked at on return */
		sc_attention(c, ATT_LEAVE | ATT_EVAL);
		return false;
	}
	if (c->shutdown)
		return false;
	lapic_timer_run(c->lapic);
	take_events(c);
	if (!c->wait_for_sipi)
		take_interrupt(c);
	sc_deadline_changed(c);
	if (idle(c))
		return false;
	step_if_wanted(c);
	return true;
}

static __attribute__((noinline)) struct block *next_block(struct vp *c)
{
	struct block *b = sc_lookup(c, 0);

	if (c->link)
		*c->link = b;
	c->link = NULL;
	if ((b->key & ~KEY_USER) == MODE_64) {
		struct sc_jcache_entry *e = sc_jcache_slot(c, RIP(c));

		e->rip = RIP(c);
		e->block = b;
	}
	return b;
}

static inline struct block *execute(struct vp *c, struct block *b)
{
	if (unlikely(c->lockstep))
		return sc_lockstep(c, b);
	return b->uops[0].fn(c, b->uops);
}

static void run_blocks(struct vp *c)
{
	struct block *b = NULL;

	if (c->lockstep)
		sc_lockstep_begin(c);
	while (likely(!atomic_load_explicit(&c->attention, memory_order_relaxed))) {
		if (!b)
			b = next_block(c);
		if (unlikely(!sc_translate_hot(c, b))) {
			b = NULL;
			continue;
		}
		c->blk = b;
		c->icount += b->insns;
		b = execute(c, b);
	}
	c->link = NULL;
}

void sc_run(struct vp *c)
{
	hostop_forget_exceptions();
	/* sc_raise comes back here, with the event in the VP */
	if (setjmp(c->trap))
		c->link = NULL;
	if (c->event_pending)
		sc_deliver_raised(c);
	if (c->shutdown)
		return;
	do {
		run_blocks(c);
	} while (serve(c));
}

/* ---- one VP by itself, for tests ---- */

void sc_run_budget(struct vp *c, uint64_t count)
{
	volatile uint64_t end = c->icount + count;
	struct block *b;

	hostop_forget_exceptions();
	sc_attention(c, ATT_EVAL);
	/* Counted, too: a handler that can't be fetched is delivered to for ever. */
	if (setjmp(c->trap)) {
		c->link = NULL;
		end = end - 1;
	}
	if (c->event_pending)
		sc_deliver_raised(c);
	while (!c->shutdown && c->icount < end) {
		if (atomic_load(&c->attention) && !serve(c))
			break;
		if (c->lockstep)
			sc_lockstep_begin(c);
		b = next_block(c);
		if (!sc_translate_hot(c, b))
			continue;
		c->blk = b;
		c->icount += b->insns;
		/* makes repeated instructions leave after each chunk */
		sc_attention(c, ATT_EVAL);
		execute(c, b);
	}
	c->link = NULL;
}

void sc_run_steps(struct vp *c, uint64_t count, bool deliver)
{
	volatile uint64_t left = count;

	hostop_forget_exceptions();
	sc_invalidate_posted(c);
	atomic_store(&c->attention, 0);
	if (setjmp(c->trap)) {
		c->link = NULL;
		left = left ? left - 1 : 0;
	}
	if (c->event_pending) {
		if (!deliver)
			return;
		sc_deliver_raised(c);
	}
	if (count == SOFTCPU_BLOCKS) {
		do {
			run_blocks(c);
		} while (serve(c));
		return;
	}
	while (left && !idle(c)) {
		if (deliver) /* a chunk of a repeated instruction is a step */
			sc_attention(c, ATT_EVAL);
		step(c);
		c->shadow = SHADOW_NONE;
		left--;
	}
}
