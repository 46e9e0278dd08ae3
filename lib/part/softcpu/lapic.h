/*
 * The local APICs of a software-CPU partition: one per VP, and the bus that joins them.
 * Reference: Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller".
 *
 * Threads: functions that take a struct lapic run on that VP's thread only (or while it is
 *stopped). Functions that take a struct lapic_bus may be called from any thread: they only set
 *atomic request bits of the target and call host.wake for it. The VP's thread sees them at its next
 *lapic_attention.
 *
 * The interpreter's loop:
 *
 *	if (lapic_attention(apic) & mask) {	// one relaxed load, at block heads
 *		switch (lapic_next_event(apic, ...)) ...	// INIT, SIPI, NMI
 *		if (IF and no shadow and (vector = lapic_acknowledge(apic)) >= 0)
 *			deliver vector
 *	}
 *	HLT: sleep until lapic_wakes(...) or lapic_timer_deadline_ns(apic)
 *	when that time has come (or any time): lapic_timer_run(apic)
 *
 * mask is LAPIC_ATTEND_ALL without what the VP can't take now: LAPIC_ATTEND_INTERRUPT while IF = 0
 * or in an interrupt shadow, LAPIC_ATTEND_NMI while NMIs are blocked. A bit of the attention word
 * that is in the mask and stays set after the calls above would be a defect.
 *
 * Time: deadlines are nanoseconds of host.now_ns, a monotonic clock that stops while the VM is
 * paused. The one-shot and periodic timers count at apic_hz of that clock. TSC-deadline mode
 *compares with host.tsc_now. The timer is passive: somebody must call lapic_timer_run at the
 *deadline.
 */
#ifndef PART_SOFTCPU_LAPIC_H
#define PART_SOFTCPU_LAPIC_H

#include "base/error.h"
#include "part/part.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lapic;
struct lapic_bus;

struct lapic_host {
	void *user;
	uint64_t (*now_ns)(void *user);
	uint64_t (*tsc_now)(void *user, unsigned vp); /* as RDTSC on that VP */
	/* Something for vp was requested (from any thread; may be vp's own): end its HLT, make it
	 * look at lapic_attention soon. */
	void (*wake)(void *user, unsigned vp);
	void (*eoi)(void *user, uint8_t vector); /* level-triggered vector ended */
	int (*extint_ack)(void *user);           /* PIC's acknowledge cycle: vector, or -1 */
};

struct lapic_config {
	unsigned count;   /* 1..64; initial APIC id = VP index; VP 0 is the BSP */
	uint64_t apic_hz; /* timer input at divide by 1 */
	uint64_t tsc_hz;
	unsigned phys_bits;        /* for reserved bits of APIC_BASE */
	bool x2apic, tsc_deadline; /* exposed in CPUID? Else the bits and MSRs are reserved */
	struct lapic_host host;    /* copied */
};

int lapic_bus_new(const struct lapic_config *config, struct lapic_bus **ret, struct error *err);
void lapic_bus_free(struct lapic_bus *bus); /* NULL allowed */
struct lapic *lapic_bus_get(struct lapic_bus *bus, unsigned vp);
/* Power-on state: APIC_BASE too. */
void lapic_reset(struct lapic *apic);
/* INIT: like reset, but APIC_BASE and the APIC id stay. Called by the VP when it takes an INIT. */
void lapic_init(struct lapic *apic);

/* ---- any thread ---- */

/* See part_interrupt, part_msi, part_nmi, part_extint_set in part/part.h. */
void lapic_bus_interrupt(struct lapic_bus *bus, unsigned vp, uint8_t vector, bool auto_eoi);
void lapic_bus_msi(struct lapic_bus *bus, uint64_t address, uint32_t data);
void lapic_bus_nmi(struct lapic_bus *bus, unsigned vp); /* delivered as NMI whatever LINT1 says */
void lapic_bus_extint_set(struct lapic_bus *bus, bool level); /* LINT0 of VP 0 */

/* ---- events ---- */

enum lapic_event {
	LAPIC_NONE,
	LAPIC_INIT, /* taken even while waiting for SIPI; caller calls lapic_init and resets the VP
		     */
	LAPIC_SIPI, /* arg = vector; only meaningful in wait-for-SIPI: else ignore */
	LAPIC_NMI,  /* not returned if the caller says that NMIs are blocked */
};

enum {
	LAPIC_ATTEND_INIT = 1 << 0,
	LAPIC_ATTEND_SIPI = 1 << 1,
	LAPIC_ATTEND_NMI = 1 << 2,
	LAPIC_ATTEND_INTERRUPT = 1 << 3, /* a maskable interrupt may be deliverable */
	LAPIC_ATTEND_INTERNAL = 1 << 4,  /* pins and errors: lapic_next_event looks at them */
	LAPIC_ATTEND_ALL = 31,
};

/* What may be pending; sender sets bits before it calls host.wake. The attention word is the first
 * member of struct lapic. */
static inline unsigned lapic_attention(const struct lapic *apic)
{
	return atomic_load_explicit((const atomic_uint *)(const void *)apic, memory_order_relaxed);
}

/* Takes the most urgent event. nmi_ok: NMIs aren't blocked. wait_for_sipi: the VP is in that
 * state; if not, SIPIs are dropped; if so, NMIs stay pending. */
enum lapic_event lapic_next_event(struct lapic *apic, bool nmi_ok, bool wait_for_sipi,
				  uint8_t *ret_vector);
/* A maskable interrupt (fixed above the priority, or ExtINT) could be taken if IF were 1. */
bool lapic_interrupt_pending(struct lapic *apic);
/* Takes the interrupt: returns the vector to deliver, or -1. IRR to ISR is done (not for auto-EOI),
 * and for ExtINT the PIC is acknowledged. Call only if the VP will surely deliver it. */
int lapic_acknowledge(struct lapic *apic);
/* A halted VP must go on: INIT, SIPI or NMI is pending, or an interrupt and if_flag. Runs the timer
 * first if it is due. */
bool lapic_wakes(struct lapic *apic, bool if_flag, bool nmi_ok);

/* ---- registers ---- */

/* gpa lies in this VP's xAPIC page (APIC enabled, not in x2APIC mode). */
bool lapic_mmio_hit(const struct lapic *apic, uint64_t gpa);
/* gpa as above; size 1, 2, 4 or 8. The SDM defines only aligned 32-bit accesses; others read the
 * bytes that are there and, when writing, are ignored. */
uint64_t lapic_mmio_read(struct lapic *apic, uint64_t gpa, unsigned size);
void lapic_mmio_write(struct lapic *apic, uint64_t gpa, unsigned size, uint64_t value);

/* 0x1b APIC_BASE, 0x6e0 TSC_DEADLINE, 0x800-0x8ff x2APIC. False: #GP(0). Only for MSRs that
 * lapic_owns_msr. */
bool lapic_owns_msr(uint32_t msr);
bool lapic_msr_read(struct lapic *apic, uint32_t msr, uint64_t *ret);
bool lapic_msr_write(struct lapic *apic, uint32_t msr, uint64_t value);

uint64_t lapic_cr8(const struct lapic *apic);
void lapic_set_cr8(struct lapic *apic, uint64_t cr8); /* 0..15; the caller checked */

/* For CPUID: leaf 1 EBX[31:24], leaf 0xb EDX; and CPUID.1:EDX[9] (APIC globally enabled). */
uint32_t lapic_id(const struct lapic *apic);
bool lapic_enabled(const struct lapic *apic);

/* The registers in their xAPIC layouts, for synthetic MSRs (EOI, ICR, TPR) on this VP's thread. */
void lapic_write_eoi(struct lapic *apic);
/* icr: destination in bits 63:56, or 63:32 in x2APIC mode. */
void lapic_write_icr(struct lapic *apic, uint64_t icr);
uint64_t lapic_read_icr(const struct lapic *apic);

/* ---- timer ---- */

#define LAPIC_NEVER UINT64_MAX

/* host.now_ns value at which lapic_timer_run must be called next; LAPIC_NEVER if disarmed. A write
 * to the APIC may change it: ask again after MMIO and MSR writes (or before each sleep). */
uint64_t lapic_timer_deadline_ns(const struct lapic *apic);
/* Fires what is due. Harmless when nothing is. */
void lapic_timer_run(struct lapic *apic);
/* The VP's TSC was rewritten (IA32_TSC, TSC_ADJUST): recomputes a TSC deadline. */
void lapic_tsc_changed(struct lapic *apic);

/* ---- state: what the guest can notice, in the SDM's words; only while stopped ---- */

void lapic_get_state(const struct lapic *apic, struct part_apic_state *ret);
/* False and nothing changed if the state is impossible. */
bool lapic_set_state(struct lapic *apic, const struct part_apic_state *state);

#endif
