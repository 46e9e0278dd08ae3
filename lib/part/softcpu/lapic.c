/*
 * Local APICs and the bus between them.
 *
 * A sender writes only the target's atomic words: IRR, TMR and auto-EOI bits first, then a bit of
 * the attention word, then host.wake. The target's thread clears an attention bit before it looks
 * at what the bit stands for, so nothing is lost. What senders must know to find targets (id,
 * logical address, mode) is published in `address`, one atomic word.
 */
#include "part/softcpu/lapic.h"

#include <stdlib.h>
#include <string.h>

enum { /* SDM volume 3, table 11-1: xAPIC register offsets; x2APIC MSR = 0x800 + offset / 16 */
       REG_ID = 0x020,
       REG_VERSION = 0x030,
       REG_TPR = 0x080,
       REG_APR = 0x090,
       REG_PPR = 0x0a0,
       REG_EOI = 0x0b0,
       REG_RRD = 0x0c0,
       REG_LDR = 0x0d0,
       REG_DFR = 0x0e0,
       REG_SVR = 0x0f0,
       REG_ISR = 0x100,
       REG_TMR = 0x180,
       REG_IRR = 0x200,
       REG_ESR = 0x280,
       REG_ICR = 0x300,
       REG_ICR_HIGH = 0x310,
       REG_LVT_TIMER = 0x320,
       REG_LVT_ERROR = 0x370,
       REG_TIMER_INITIAL = 0x380,
       REG_TIMER_CURRENT = 0x390,
       REG_TIMER_DIVIDE = 0x3e0,
       REG_SELF_IPI = 0x3f0,
};

enum {
	MSR_APIC_BASE = 0x1b,
	MSR_TSC_DEADLINE = 0x6e0,
	MSR_X2APIC = 0x800,
	MSR_X2APIC_END = 0x900,
	MSR_SYNTHETIC_EOI = 0x40000070,
	MSR_SYNTHETIC_TPR = 0x40000072,
};

enum lvt { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

enum {
	LVT_MASKED = 1 << 16,
	LVT_LEVEL = 1 << 15,
	LVT_MODE_SHIFT = 8,
	LVT_TIMER_PERIODIC = 1 << 17,
	LVT_TIMER_TSC_DEADLINE = 1 << 18,
	LVT_TIMER_MODES = 3 << 17,
};

#define VERSION         0x00050014u /* integrated APIC; last LVT entry is number 5 */
#define DEFAULT_BASE    0xfee00000u
#define PAGE_SIZE       4096u
#define BASE_BSP        (1u << 8)
#define BASE_X2APIC     (1u << 10)
#define BASE_ENABLE     (1u << 11)
#define BASE_MODE       (BASE_X2APIC | BASE_ENABLE)
#define SVR_ENABLE      (1u << 8)
#define SVR_WRITABLE    0x1ffu /* no focus checking, no EOI-broadcast suppression */
#define DFR_FLAT        0xf
#define DIVIDE_WRITABLE 0xbu

enum { ESR_SEND_ILLEGAL = 1 << 5, ESR_RECEIVE_ILLEGAL = 1 << 6, ESR_ILLEGAL_REGISTER = 1 << 7 };

enum delivery {
	DELIVER_FIXED,
	DELIVER_LOWEST,
	DELIVER_SMI,
	DELIVER_NMI = 4,
	DELIVER_INIT,
	DELIVER_STARTUP,
	DELIVER_EXTINT,
};

enum { /* ICR */
       ICR_LOGICAL = 1 << 11,
       ICR_ASSERT = 1 << 14,
       ICR_LEVEL = 1 << 15,
       ICR_WRITABLE = 0x000ccfff,
};

enum shorthand { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };

#define FIRST_VECTOR 16 /* 0 to 15 are illegal for fixed interrupts */

struct lapic {
	atomic_uint attention; /* must be first: lapic_attention */
	/* Written by senders on any thread. */
	atomic_uint irr[8], tmr[8], auto_eoi[8];
	atomic_uint errors; /* not yet latched into ESR by the guest */
	atomic_uint sipi_vector;
	atomic_uint pins; /* PIN_* */
	/* Written by this VP, read by senders. */
	_Atomic uint64_t address; /* ADDRESS_* */

	/* The VP's own. */
	struct lapic_bus *bus;
	unsigned vp;
	uint64_t apic_base;
	uint32_t id, tpr, ldr, dfr, svr, esr;
	uint32_t isr[8];
	uint64_t icr;
	uint32_t lvt[LVT_COUNT];
	uint32_t timer_initial, timer_divide;
	bool timer_armed;         /* by count */
	uint64_t timer_expiry;    /* in timer input ticks since host time 0 */
	uint64_t tsc_deadline;    /* 0: disarmed */
	uint64_t tsc_deadline_ns; /* the same on the host's clock */
};

enum { PIN_EXTINT_LEVEL = 1, PIN_LINT0_EDGE = 2, PIN_EXTINT_MESSAGE = 4, PIN_ERROR = 8 };

struct lapic_bus {
	struct lapic_config config;
	atomic_uint next_lowest; /* rotates lowest-priority delivery */
	struct lapic *apics;
};

struct message {
	enum delivery delivery;
	uint8_t vector;
	bool logical, level, lowest;
	bool broadcast;
	bool wide; /* 32-bit x2APIC destination */
	uint32_t destination;
};

/* ---- published address: id 0-31, logical id 32-55 (x2APIC: derived from id), flags above ---- */

#define ADDRESS_ENABLED  (1ull << 63)
#define ADDRESS_SOFTWARE (1ull << 62) /* SVR enables */
#define ADDRESS_X2APIC   (1ull << 61)
#define ADDRESS_FLAT     (1ull << 60)

static bool is_enabled(const struct lapic *apic)
{
	return apic->apic_base & BASE_ENABLE;
}

static bool is_x2apic(const struct lapic *apic)
{
	return apic->apic_base & BASE_X2APIC;
}

static void publish_address(struct lapic *apic)
{
	uint64_t address = apic->id | (uint64_t)(apic->ldr >> 24) << 32;

	if (is_enabled(apic))
		address |= ADDRESS_ENABLED;
	if (apic->svr & SVR_ENABLE)
		address |= ADDRESS_SOFTWARE;
	if (is_x2apic(apic))
		address |= ADDRESS_X2APIC;
	if (apic->dfr >> 28 == DFR_FLAT)
		address |= ADDRESS_FLAT;
	atomic_store(&apic->address, address);
}

static uint32_t x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1u << (id & 15);
}

static bool logical_match_xapic(uint64_t address, uint32_t destination)
{
	uint8_t own = (uint8_t)(address >> 32);

	if (address & ADDRESS_FLAT)
		return own & destination;
	return own >> 4 == (destination & 0xff) >> 4 && own & destination & 15;
}

static bool logical_match_x2apic(uint64_t address, uint32_t destination)
{
	uint32_t own = x2apic_ldr((uint32_t)address);

	return own >> 16 == destination >> 16 && own & destination & 0xffff;
}

static bool matches(const struct lapic *apic, const struct message *m)
{
	uint64_t address = atomic_load(&apic->address);

	if (!(address & ADDRESS_ENABLED))
		return false;
	if (m->broadcast)
		return true;
	if (!m->logical)
		return (uint32_t)address == m->destination;
	if (address & ADDRESS_X2APIC)
		return logical_match_x2apic(address, m->destination);
	return !(m->wide && m->destination > 0xff) && logical_match_xapic(address, m->destination);
}

static bool accepts_fixed(const struct lapic *apic)
{
	uint64_t both = ADDRESS_ENABLED | ADDRESS_SOFTWARE;

	return (atomic_load(&apic->address) & both) == both;
}

/* ---- 256-bit registers ---- */

static bool bit_set(atomic_uint words[8], uint8_t vector)
{
	return atomic_fetch_or(&words[vector >> 5], 1u << (vector & 31)) >> (vector & 31) & 1;
}

static bool bit_clear(atomic_uint words[8], uint8_t vector)
{
	return atomic_fetch_and(&words[vector >> 5], ~(1u << (vector & 31))) >> (vector & 31) & 1;
}

static bool bit_test(const atomic_uint words[8], uint8_t vector)
{
	return atomic_load(&words[vector >> 5]) >> (vector & 31) & 1;
}

static int highest_irr(const struct lapic *apic)
{
	for (int i = 7; i >= 0; i--) {
		unsigned word = atomic_load(&apic->irr[i]);

		if (word)
			return i * 32 + 31 - __builtin_clz(word);
	}
	return -1;
}

static int highest_isr(const struct lapic *apic)
{
	for (int i = 7; i >= 0; i--)
		if (apic->isr[i])
			return i * 32 + 31 - __builtin_clz(apic->isr[i]);
	return -1;
}

/* ---- requests: any thread ---- */

static void request(struct lapic *apic, unsigned attention)
{
	atomic_fetch_or(&apic->attention, attention);
	apic->bus->config.host.wake(apic->bus->config.host.user, apic->vp);
}

static void request_pin(struct lapic *apic, unsigned pin)
{
	atomic_fetch_or(&apic->pins, pin);
	request(apic, LAPIC_ATTEND_INTERNAL);
}

/* One interrupt per kind until the guest writes ESR: an LVT error entry with an illegal vector is
 * itself an error. */
static void report_error(struct lapic *apic, unsigned error)
{
	if (!(atomic_fetch_or(&apic->errors, error) & error))
		request_pin(apic, PIN_ERROR);
}

static void request_fixed(struct lapic *apic, uint8_t vector, bool level)
{
	if (vector < FIRST_VECTOR) {
		report_error(apic, ESR_RECEIVE_ILLEGAL);
		return;
	}
	if (level)
		bit_set(apic->tmr, vector);
	else
		bit_clear(apic->tmr, vector);
	bit_set(apic->irr, vector);
	request(apic, LAPIC_ATTEND_INTERRUPT);
}

static void request_init(struct lapic *apic)
{
	/* A SIPI that came before this INIT must not start the VP after it. */
	atomic_fetch_and(&apic->attention, ~(unsigned)LAPIC_ATTEND_SIPI);
	request(apic, LAPIC_ATTEND_INIT);
}

static void request_sipi(struct lapic *apic, uint8_t vector)
{
	atomic_store(&apic->sipi_vector, vector);
	request(apic, LAPIC_ATTEND_SIPI);
}

static void deliver_to(struct lapic *apic, const struct message *m)
{
	switch (m->delivery) {
	case DELIVER_FIXED:
	case DELIVER_LOWEST:
		if (accepts_fixed(apic))
			request_fixed(apic, m->vector, m->level);
		break;
	case DELIVER_NMI:
		request(apic, LAPIC_ATTEND_NMI);
		break;
	case DELIVER_INIT:
		request_init(apic);
		break;
	case DELIVER_STARTUP:
		request_sipi(apic, m->vector);
		break;
	case DELIVER_EXTINT:
		request_pin(apic, PIN_EXTINT_MESSAGE);
		break;
	case DELIVER_SMI: /* there is no SMM */
	default:
		break;
	}
}

/* SDM lets arbitration be fixed or rotating; VPs take turns here. */
static void deliver_lowest(struct lapic_bus *bus, const struct message *m)
{
	unsigned start = atomic_fetch_add(&bus->next_lowest, 1);

	for (unsigned i = 0; i < bus->config.count; i++) {
		struct lapic *apic = &bus->apics[(start + i) % bus->config.count];

		if (matches(apic, m) && accepts_fixed(apic)) {
			deliver_to(apic, m);
			return;
		}
	}
}

static void deliver(struct lapic_bus *bus, const struct message *m)
{
	if (m->lowest && (m->delivery == DELIVER_FIXED || m->delivery == DELIVER_LOWEST)) {
		deliver_lowest(bus, m);
		return;
	}
	for (unsigned i = 0; i < bus->config.count; i++)
		if (matches(&bus->apics[i], m))
			deliver_to(&bus->apics[i], m);
}

void lapic_bus_interrupt(struct lapic_bus *bus, unsigned vp, uint8_t vector, bool auto_eoi)
{
	struct lapic *apic = &bus->apics[vp];

	if (!accepts_fixed(apic))
		return;
	if (vector >= FIRST_VECTOR) {
		if (auto_eoi)
			bit_set(apic->auto_eoi, vector);
		else
			bit_clear(apic->auto_eoi, vector);
	}
	request_fixed(apic, vector, false);
}

void lapic_bus_msi(struct lapic_bus *bus, uint64_t address, uint32_t data)
{
	struct message m = {
		.delivery = data >> 8 & 7,
		.vector = (uint8_t)data,
		.logical = address >> 2 & 1,
		.level = data >> 15 & 1,
		.destination = address >> 12 & 0xff,
	};

	if (address >> 20 != 0xfee)
		return;
	if (m.level && !(data & ICR_ASSERT))
		return;
	m.lowest = m.delivery == DELIVER_LOWEST || address >> 3 & 1;
	m.broadcast = m.destination == 0xff;
	deliver(bus, &m);
}

void lapic_bus_nmi(struct lapic_bus *bus, unsigned vp)
{
	request(&bus->apics[vp], LAPIC_ATTEND_NMI);
}

void lapic_bus_extint_set(struct lapic_bus *bus, bool level)
{
	struct lapic *apic = &bus->apics[0];
	unsigned old;

	if (!level) {
		atomic_fetch_and(&apic->pins, ~(unsigned)PIN_EXTINT_LEVEL);
		return;
	}
	old = atomic_fetch_or(&apic->pins, PIN_EXTINT_LEVEL | PIN_LINT0_EDGE);
	if (!(old & PIN_EXTINT_LEVEL))
		request(apic, LAPIC_ATTEND_INTERNAL | LAPIC_ATTEND_INTERRUPT);
}

/* ---- interprocessor interrupts ---- */

static void send_shorthand(struct lapic *apic, const struct message *m, enum shorthand shorthand)
{
	struct lapic_bus *bus = apic->bus;

	if (shorthand == SHORTHAND_SELF) {
		if (m->delivery == DELIVER_FIXED)
			deliver_to(apic, m);
		return;
	}
	for (unsigned i = 0; i < bus->config.count; i++)
		if (shorthand == SHORTHAND_ALL || &bus->apics[i] != apic)
			if (atomic_load(&bus->apics[i].address) & ADDRESS_ENABLED)
				deliver_to(&bus->apics[i], m);
}

static void send_icr(struct lapic *apic)
{
	uint32_t low = (uint32_t)apic->icr;
	enum shorthand shorthand = low >> 18 & 3;
	struct message m = {
		.delivery = low >> 8 & 7,
		.vector = (uint8_t)low,
		.logical = low & ICR_LOGICAL,
		.wide = is_x2apic(apic),
		.destination = (uint32_t)(apic->icr >> 32),
	};

	/* Level triggering exists for INIT de-assertion only, which does nothing since the P6. */
	if (m.delivery == DELIVER_INIT && low & ICR_LEVEL && !(low & ICR_ASSERT))
		return;
	if (m.delivery <= DELIVER_LOWEST && m.vector < FIRST_VECTOR) {
		report_error(apic, ESR_SEND_ILLEGAL);
		return;
	}
	m.lowest = m.delivery == DELIVER_LOWEST;
	if (!m.wide)
		m.destination >>= 24;
	m.broadcast = m.destination == (m.wide ? UINT32_MAX : 0xff);
	if (shorthand != SHORTHAND_NONE)
		send_shorthand(apic, &m, shorthand);
	else
		deliver(apic->bus, &m);
}

void lapic_write_icr(struct lapic *apic, uint64_t icr)
{
	uint64_t destinations = is_x2apic(apic) ? 0xffffffff00000000 : 0xff00000000000000;

	apic->icr = icr & (destinations | ICR_WRITABLE);
	send_icr(apic);
}

uint64_t lapic_read_icr(const struct lapic *apic)
{
	return apic->icr;
}

/* ---- local interrupts ---- */

/* A local source fires: what its LVT entry says. */
static void fire_lvt(struct lapic *apic, enum lvt entry)
{
	uint32_t lvt = apic->lvt[entry];

	if (lvt & LVT_MASKED || !is_enabled(apic))
		return;
	switch (entry == LVT_TIMER || entry == LVT_ERROR ? DELIVER_FIXED
							 : lvt >> LVT_MODE_SHIFT & 7) {
	case DELIVER_FIXED:
		request_fixed(apic, (uint8_t)lvt, entry == LVT_LINT0 && lvt & LVT_LEVEL);
		break;
	case DELIVER_NMI:
		request(apic, LAPIC_ATTEND_NMI);
		break;
	case DELIVER_INIT:
		request_init(apic);
		break;
	default: /* ExtINT is looked at as a level */
		break;
	}
}

/* The PIC's output reaches the processor: through LINT0, or past a disabled APIC. */
static bool extint_ready(const struct lapic *apic)
{
	unsigned pins = atomic_load(&apic->pins);
	uint32_t lint0 = apic->lvt[LVT_LINT0];

	if (pins & PIN_EXTINT_MESSAGE)
		return true;
	if (!(pins & PIN_EXTINT_LEVEL))
		return false;
	return !is_enabled(apic) ||
	       (!(lint0 & LVT_MASKED) && (lint0 >> LVT_MODE_SHIFT & 7) == DELIVER_EXTINT);
}

static void run_pins(struct lapic *apic)
{
	unsigned pins;

	if (!(atomic_fetch_and(&apic->attention, ~(unsigned)LAPIC_ATTEND_INTERNAL) &
	      LAPIC_ATTEND_INTERNAL))
		return;
	pins = atomic_fetch_and(&apic->pins, ~(unsigned)(PIN_LINT0_EDGE | PIN_ERROR));
	if (pins & PIN_ERROR)
		fire_lvt(apic, LVT_ERROR);
	if (pins & PIN_LINT0_EDGE)
		fire_lvt(apic, LVT_LINT0);
	if (extint_ready(apic))
		atomic_fetch_or(&apic->attention, LAPIC_ATTEND_INTERRUPT);
}

/* ---- priority and delivery ---- */

static uint32_t processor_priority(const struct lapic *apic)
{
	int isr = highest_isr(apic);

	if (isr < 0 || (apic->tpr & 0xf0) >= (uint32_t)(isr & 0xf0))
		return apic->tpr;
	return (uint32_t)isr & 0xf0;
}

/* The vector that could be delivered now, or -1. */
static int deliverable(const struct lapic *apic)
{
	int vector = is_enabled(apic) ? highest_irr(apic) : -1;

	return vector >= 0 && (vector & 0xf0) > (int)(processor_priority(apic) & 0xf0) ? vector
										       : -1;
}

bool lapic_interrupt_pending(struct lapic *apic)
{
	run_pins(apic);
	/* First the bit, then what it stands for: a sender does it in the other order. */
	atomic_fetch_and(&apic->attention, ~(unsigned)LAPIC_ATTEND_INTERRUPT);
	if (!extint_ready(apic) && deliverable(apic) < 0)
		return false;
	atomic_fetch_or(&apic->attention, LAPIC_ATTEND_INTERRUPT);
	return true;
}

static int acknowledge_extint(struct lapic *apic)
{
	const struct lapic_host *host = &apic->bus->config.host;

	atomic_fetch_and(&apic->pins, ~(unsigned)PIN_EXTINT_MESSAGE);
	return host->extint_ack(host->user);
}

static void accept(struct lapic *apic, uint8_t vector)
{
	bit_clear(apic->irr, vector);
	if (!bit_clear(apic->auto_eoi, vector))
		apic->isr[vector >> 5] |= 1u << (vector & 31);
}

int lapic_acknowledge(struct lapic *apic)
{
	int vector;

	if (!lapic_interrupt_pending(apic))
		return -1;
	vector = extint_ready(apic) ? acknowledge_extint(apic) : -1;
	if (vector < 0) {
		vector = deliverable(apic);
		if (vector >= 0)
			accept(apic, (uint8_t)vector);
	}
	lapic_interrupt_pending(apic); /* what is left decides the attention bit */
	return vector;
}

static bool take(struct lapic *apic, unsigned attention)
{
	return atomic_fetch_and(&apic->attention, ~attention) & attention;
}

enum lapic_event lapic_next_event(struct lapic *apic, bool nmi_ok, bool wait_for_sipi,
				  uint8_t *ret_vector)
{
	run_pins(apic);
	if (take(apic, LAPIC_ATTEND_INIT))
		return LAPIC_INIT;
	if (take(apic, LAPIC_ATTEND_SIPI) && wait_for_sipi) {
		*ret_vector = (uint8_t)atomic_load(&apic->sipi_vector);
		return LAPIC_SIPI;
	}
	if (nmi_ok && !wait_for_sipi && take(apic, LAPIC_ATTEND_NMI))
		return LAPIC_NMI;
	return LAPIC_NONE;
}

bool lapic_wakes(struct lapic *apic, bool if_flag, bool nmi_ok)
{
	unsigned wanted = LAPIC_ATTEND_INIT | LAPIC_ATTEND_SIPI;

	lapic_timer_run(apic);
	run_pins(apic);
	if (nmi_ok)
		wanted |= LAPIC_ATTEND_NMI;
	if (lapic_attention(apic) & wanted)
		return true;
	return if_flag && lapic_interrupt_pending(apic);
}

void lapic_write_eoi(struct lapic *apic)
{
	const struct lapic_host *host = &apic->bus->config.host;
	int vector = highest_isr(apic);

	if (vector < 0)
		return;
	apic->isr[vector >> 5] &= ~(1u << (vector & 31));
	if (bit_test(apic->tmr, (uint8_t)vector))
		host->eoi(host->user, (uint8_t)vector);
	lapic_interrupt_pending(apic);
}

static void write_tpr(struct lapic *apic, uint32_t tpr)
{
	apic->tpr = tpr & 0xff;
	lapic_interrupt_pending(apic);
}

uint64_t lapic_cr8(const struct lapic *apic)
{
	return apic->tpr >> 4;
}

void lapic_set_cr8(struct lapic *apic, uint64_t cr8)
{
	write_tpr(apic, (uint32_t)cr8 << 4);
}

/* ---- timer ---- */

#define NS_PER_SECOND 1000000000u

static uint64_t scale(uint64_t value, uint64_t numerator, uint64_t denominator)
{
	unsigned __int128 scaled = (unsigned __int128)value * numerator / denominator;

	return scaled > UINT64_MAX ? UINT64_MAX : (uint64_t)scaled;
}

static uint64_t now_ns(const struct lapic *apic)
{
	return apic->bus->config.host.now_ns(apic->bus->config.host.user);
}

static uint64_t now_ticks(const struct lapic *apic)
{
	return scale(now_ns(apic), apic->bus->config.apic_hz, NS_PER_SECOND);
}

static uint64_t tsc_now(const struct lapic *apic)
{
	return apic->bus->config.host.tsc_now(apic->bus->config.host.user, apic->vp);
}

static bool is_tsc_mode(const struct lapic *apic)
{
	return apic->lvt[LVT_TIMER] & LVT_TIMER_TSC_DEADLINE;
}

/* Register 0x3e0: bits 3, 1 and 0 are log2(divisor) - 1, where 7 means divide by 1. */
static unsigned divide_shift(const struct lapic *apic)
{
	unsigned bits = (apic->timer_divide >> 1 & 4) | (apic->timer_divide & 3);

	return (bits + 1) & 7;
}

static uint64_t timer_period(const struct lapic *apic)
{
	return (uint64_t)apic->timer_initial << divide_shift(apic);
}

static uint64_t ticks_left(const struct lapic *apic)
{
	uint64_t now = now_ticks(apic);

	return apic->timer_armed && apic->timer_expiry > now ? apic->timer_expiry - now : 0;
}

/* An expired periodic timer that nobody ran yet reads as somewhere in its present period. */
static uint32_t current_count(const struct lapic *apic)
{
	uint64_t left = ticks_left(apic), round = (1ull << divide_shift(apic)) - 1;

	if (is_tsc_mode(apic))
		return 0;
	if (apic->timer_armed && !left && apic->lvt[LVT_TIMER] & LVT_TIMER_PERIODIC)
		left = timer_period(apic) -
		       (now_ticks(apic) - apic->timer_expiry) % timer_period(apic);
	return (uint32_t)((left + round) >> divide_shift(apic));
}

static void arm_count(struct lapic *apic)
{
	apic->timer_armed = apic->timer_initial && !is_tsc_mode(apic);
	apic->timer_expiry = now_ticks(apic) + timer_period(apic);
}

static void write_initial_count(struct lapic *apic, uint32_t count)
{
	if (is_tsc_mode(apic))
		return;
	apic->timer_initial = count;
	arm_count(apic);
}

/* The count goes on from where it is, at the new rate. */
static void write_divide(struct lapic *apic, uint32_t divide)
{
	uint32_t count = current_count(apic);

	apic->timer_divide = divide & DIVIDE_WRITABLE;
	if (apic->timer_armed)
		apic->timer_expiry = now_ticks(apic) + ((uint64_t)count << divide_shift(apic));
}

void lapic_tsc_changed(struct lapic *apic)
{
	uint64_t tsc, left;

	if (!apic->tsc_deadline)
		return;
	tsc = tsc_now(apic);
	left = apic->tsc_deadline > tsc ? apic->tsc_deadline - tsc : 0;
	left = scale(left, NS_PER_SECOND, apic->bus->config.tsc_hz);
	apic->tsc_deadline_ns = now_ns(apic) + left;
	if (apic->tsc_deadline_ns < left)
		apic->tsc_deadline_ns = LAPIC_NEVER - 1;
}

static void write_tsc_deadline(struct lapic *apic, uint64_t deadline)
{
	if (!is_tsc_mode(apic))
		return;
	apic->tsc_deadline = deadline;
	lapic_tsc_changed(apic);
	lapic_timer_run(apic);
}

uint64_t lapic_timer_deadline_ns(const struct lapic *apic)
{
	uint64_t ns;

	if (apic->tsc_deadline)
		return apic->tsc_deadline_ns;
	if (!apic->timer_armed)
		return LAPIC_NEVER;
	ns = scale(apic->timer_expiry, NS_PER_SECOND, apic->bus->config.apic_hz);
	/* Rounded up, so that it is due by then. */
	return ns >= LAPIC_NEVER - 2 ? LAPIC_NEVER - 1 : ns + 1;
}

static void run_tsc_timer(struct lapic *apic)
{
	if (tsc_now(apic) < apic->tsc_deadline) {
		lapic_tsc_changed(apic);
		if (apic->tsc_deadline_ns <= now_ns(apic))
			apic->tsc_deadline_ns = now_ns(apic) + 1;
		return;
	}
	apic->tsc_deadline = 0;
	fire_lvt(apic, LVT_TIMER);
}

static void run_count_timer(struct lapic *apic)
{
	uint64_t now = now_ticks(apic), period = timer_period(apic);

	if (now < apic->timer_expiry)
		return;
	if (apic->lvt[LVT_TIMER] & LVT_TIMER_PERIODIC)
		apic->timer_expiry += ((now - apic->timer_expiry) / period + 1) * period;
	else
		apic->timer_armed = false;
	fire_lvt(apic, LVT_TIMER);
}

void lapic_timer_run(struct lapic *apic)
{
	if (apic->tsc_deadline)
		run_tsc_timer(apic);
	if (apic->timer_armed)
		run_count_timer(apic);
}

static void write_lvt_timer(struct lapic *apic, uint32_t lvt)
{
	bool tsc_mode = is_tsc_mode(apic);

	apic->lvt[LVT_TIMER] = lvt;
	if (tsc_mode != is_tsc_mode(apic)) {
		apic->timer_armed = false;
		apic->timer_initial = 0;
		apic->tsc_deadline = 0;
	}
}

/* ---- registers ---- */

static uint32_t lvt_writable(const struct lapic *apic, enum lvt entry)
{
	switch (entry) {
	case LVT_TIMER:
		return 0x000300ff | (apic->bus->config.tsc_deadline ? LVT_TIMER_TSC_DEADLINE : 0);
	case LVT_THERMAL:
	case LVT_PERFORMANCE:
		return 0x000107ff;
	case LVT_LINT0:
	case LVT_LINT1:
		return 0x0001a7ff;
	default:
		return 0x000100ff;
	}
}

static void write_lvt(struct lapic *apic, enum lvt entry, uint32_t value)
{
	value &= lvt_writable(apic, entry);
	if (!(apic->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	/* Periodic and TSC-deadline together are reserved. */
	if (entry == LVT_TIMER && (value & LVT_TIMER_MODES) == LVT_TIMER_MODES)
		value &= ~(uint32_t)LVT_TIMER_MODES;
	if (entry == LVT_TIMER)
		write_lvt_timer(apic, value);
	else
		apic->lvt[entry] = value;
	if (entry == LVT_LINT0)
		lapic_interrupt_pending(apic);
}

static void write_svr(struct lapic *apic, uint32_t value)
{
	apic->svr = value & SVR_WRITABLE;
	if (!(apic->svr & SVR_ENABLE))
		for (unsigned i = 0; i < LVT_COUNT; i++)
			apic->lvt[i] |= LVT_MASKED;
	publish_address(apic);
	lapic_interrupt_pending(apic);
}

static void write_esr(struct lapic *apic)
{
	apic->esr = atomic_exchange(&apic->errors, 0);
}

static uint32_t read_bitmap(const struct lapic *apic, uint32_t reg)
{
	unsigned word = reg >> 4 & 7;

	if (reg < REG_TMR)
		return apic->isr[word];
	return atomic_load(reg < REG_IRR ? &apic->tmr[word] : &apic->irr[word]);
}

/* Registers that xAPIC and x2APIC mode share; reg has no low bits. False: no such register. */
static bool read_register(struct lapic *apic, uint32_t reg, uint32_t *ret)
{
	*ret = 0;
	if (reg >= REG_ISR && reg < REG_ESR) {
		*ret = read_bitmap(apic, reg);
		return true;
	}
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
		*ret = apic->lvt[(reg - REG_LVT_TIMER) >> 4];
		return true;
	}
	switch (reg) {
	case REG_ID:
		*ret = is_x2apic(apic) ? apic->id : apic->id << 24;
		return true;
	case REG_VERSION:
		*ret = VERSION;
		return true;
	case REG_TPR:
		*ret = apic->tpr;
		return true;
	case REG_PPR:
		*ret = processor_priority(apic);
		return true;
	case REG_LDR:
		*ret = is_x2apic(apic) ? x2apic_ldr(apic->id) : apic->ldr;
		return true;
	case REG_SVR:
		*ret = apic->svr;
		return true;
	case REG_ESR:
		*ret = apic->esr;
		return true;
	case REG_ICR:
		*ret = (uint32_t)apic->icr;
		return true;
	case REG_TIMER_INITIAL:
		*ret = apic->timer_initial;
		return true;
	case REG_TIMER_CURRENT:
		*ret = current_count(apic);
		return true;
	case REG_TIMER_DIVIDE:
		*ret = apic->timer_divide;
		return true;
	default:
		return false;
	}
}

static bool write_register(struct lapic *apic, uint32_t reg, uint32_t value)
{
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR) {
		write_lvt(apic, (reg - REG_LVT_TIMER) >> 4, value);
		return true;
	}
	switch (reg) {
	case REG_TPR:
		write_tpr(apic, value);
		return true;
	case REG_EOI:
		lapic_write_eoi(apic);
		return true;
	case REG_SVR:
		write_svr(apic, value);
		return true;
	case REG_ESR:
		write_esr(apic);
		return true;
	case REG_TIMER_INITIAL:
		write_initial_count(apic, value);
		return true;
	case REG_TIMER_DIVIDE:
		write_divide(apic, value);
		return true;
	default:
		return false;
	}
}

/* ---- xAPIC: memory-mapped ---- */

bool lapic_mmio_hit(const struct lapic *apic, uint64_t gpa)
{
	return (apic->apic_base & BASE_MODE) == BASE_ENABLE &&
	       (gpa ^ apic->apic_base) < (uint64_t)PAGE_SIZE;
}

static uint32_t mmio_read_register(struct lapic *apic, uint32_t reg)
{
	uint32_t value;

	switch (reg) {
	case REG_DFR:
		return apic->dfr;
	case REG_ICR_HIGH:
		return (uint32_t)(apic->icr >> 32);
	case REG_APR:
	case REG_RRD:
	case REG_EOI:
		return 0;
	default:
		if (!read_register(apic, reg, &value))
			report_error(apic, ESR_ILLEGAL_REGISTER);
		return value;
	}
}

uint64_t lapic_mmio_read(struct lapic *apic, uint64_t gpa, unsigned size)
{
	uint32_t offset = gpa & 15;
	uint64_t value;

	if (offset >= 4)
		return 0;
	value = mmio_read_register(apic, gpa & 0xff0) >> offset * 8;
	return size >= 4 ? value : value & ((1u << size * 8) - 1);
}

static void mmio_write_register(struct lapic *apic, uint32_t reg, uint32_t value)
{
	switch (reg) {
	case REG_ID:
		apic->id = value >> 24;
		publish_address(apic);
		break;
	case REG_LDR:
		apic->ldr = value & 0xff000000;
		publish_address(apic);
		break;
	case REG_DFR:
		apic->dfr = value | 0x0fffffff;
		publish_address(apic);
		break;
	case REG_ICR:
		lapic_write_icr(apic, (apic->icr & 0xffffffff00000000) | value);
		break;
	case REG_ICR_HIGH:
		apic->icr = (uint32_t)apic->icr | (uint64_t)(value & 0xff000000) << 32;
		break;
	default:
		if (!write_register(apic, reg, value))
			report_error(apic, ESR_ILLEGAL_REGISTER);
		break;
	}
}

void lapic_mmio_write(struct lapic *apic, uint64_t gpa, unsigned size, uint64_t value)
{
	if (gpa & 15 || size < 4)
		return;
	mmio_write_register(apic, gpa & 0xff0, (uint32_t)value);
}

/* ---- x2APIC: MSRs ---- */

static bool is_write_only(uint32_t reg)
{
	return reg == REG_EOI || reg == REG_SELF_IPI;
}

static bool x2apic_read(struct lapic *apic, uint32_t reg, uint64_t *ret)
{
	uint32_t value;

	if (reg == REG_ICR) {
		*ret = apic->icr;
		return true;
	}
	if (is_write_only(reg) || !read_register(apic, reg, &value))
		return false;
	*ret = value;
	return true;
}

/* Bits that may be 1 in a write; reserved ones are #GP in x2APIC mode. */
static uint64_t x2apic_writable(const struct lapic *apic, uint32_t reg)
{
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR)
		return lvt_writable(apic, (reg - REG_LVT_TIMER) >> 4) | 1u << 12 | 1u << 14;
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_SVR:
		return SVR_WRITABLE | 1u << 9;
	case REG_ICR:
		return 0xffffffff00000000 | ICR_WRITABLE | 1u << 12;
	case REG_TIMER_INITIAL:
		return UINT32_MAX;
	case REG_TIMER_DIVIDE:
		return DIVIDE_WRITABLE;
	default: /* EOI and ESR take 0 only */
		return 0;
	}
}

static void send_self(struct lapic *apic, uint8_t vector)
{
	struct message m = { .delivery = DELIVER_FIXED, .vector = vector };

	if (vector < FIRST_VECTOR)
		report_error(apic, ESR_SEND_ILLEGAL);
	else
		deliver_to(apic, &m);
}

static bool x2apic_write(struct lapic *apic, uint32_t reg, uint64_t value)
{
	if (value & ~x2apic_writable(apic, reg))
		return false;
	switch (reg) {
	case REG_ICR:
		lapic_write_icr(apic, value);
		return true;
	case REG_SELF_IPI:
		send_self(apic, (uint8_t)value);
		return true;
	default:
		return write_register(apic, reg, (uint32_t)value);
	}
}

/* ---- APIC_BASE ---- */

static void reset_registers(struct lapic *apic)
{
	apic->tpr = apic->ldr = apic->esr = 0;
	apic->dfr = UINT32_MAX;
	apic->svr = 0xff;
	apic->icr = 0;
	memset(apic->isr, 0, sizeof(apic->isr));
	for (unsigned i = 0; i < 8; i++) {
		atomic_store(&apic->irr[i], 0);
		atomic_store(&apic->tmr[i], 0);
		atomic_store(&apic->auto_eoi[i], 0);
	}
	for (unsigned i = 0; i < LVT_COUNT; i++)
		apic->lvt[i] = LVT_MASKED;
	/* Virtual wire mode, which firmware would set up: the PIC reaches the bootstrap processor.
	 * KVM's APIC does the same (its quirk LINT0_REENABLED). */
	if (apic->vp == 0)
		apic->lvt[LVT_LINT0] = DELIVER_EXTINT << LVT_MODE_SHIFT;
	apic->timer_initial = apic->timer_divide = 0;
	apic->timer_armed = false;
	apic->tsc_deadline = 0;
	atomic_store(&apic->errors, 0);
	atomic_fetch_and(&apic->pins, PIN_EXTINT_LEVEL);
	publish_address(apic);
	lapic_interrupt_pending(apic);
}

/* SDM volume 3, 11.12.5: x2APIC mode is entered from xAPIC mode and left for disabled only. */
static bool transition_allowed(uint64_t old, uint64_t new)
{
	uint64_t from = old & BASE_MODE, to = new &BASE_MODE;

	if (to == BASE_X2APIC)
		return false;
	if (from == BASE_MODE && to == BASE_ENABLE)
		return false;
	return !(from == 0 && to == BASE_MODE);
}

static bool write_base(struct lapic *apic, uint64_t value)
{
	const struct lapic_config *config = &apic->bus->config;
	uint64_t modes = BASE_ENABLE | (config->x2apic ? BASE_X2APIC : 0);
	uint64_t address = ((1ull << config->phys_bits) - 1) & ~(uint64_t)(PAGE_SIZE - 1);
	uint64_t old = apic->apic_base;

	if (value & ~(address | modes | BASE_BSP) || !transition_allowed(old, value))
		return false;
	apic->apic_base = (value & ~(uint64_t)BASE_BSP) | (old & BASE_BSP);
	if ((old ^ value) & BASE_MODE)
		apic->id = apic->vp;
	if (!is_enabled(apic))
		reset_registers(apic);
	publish_address(apic);
	lapic_interrupt_pending(apic);
	return true;
}

/* ---- MSRs ---- */

bool lapic_owns_msr(uint32_t msr)
{
	return msr == MSR_APIC_BASE || msr == MSR_TSC_DEADLINE ||
	       (msr >= MSR_X2APIC && msr < MSR_X2APIC_END) ||
	       (msr >= MSR_SYNTHETIC_EOI && msr <= MSR_SYNTHETIC_TPR);
}

/* Hyper-V's EOI, ICR and TPR (TLFS, "local APIC MSR accesses"): as x2APIC's registers, but there in
 * xAPIC mode, too, where the ICR has its destination in the upper 8 bits of 64. */
static bool synthetic_register(const struct lapic *apic, uint32_t msr, uint32_t *ret)
{
	static const uint32_t registers[] = { REG_EOI, REG_ICR, REG_TPR };

	if (msr < MSR_SYNTHETIC_EOI || msr > MSR_SYNTHETIC_TPR || !is_enabled(apic))
		return false;
	*ret = registers[msr - MSR_SYNTHETIC_EOI];
	return true;
}

static bool x2apic_register(const struct lapic *apic, uint32_t msr, uint32_t *ret)
{
	*ret = (msr - MSR_X2APIC) << 4;
	return is_x2apic(apic) && *ret <= REG_SELF_IPI && *ret != REG_ICR_HIGH;
}

bool lapic_msr_read(struct lapic *apic, uint32_t msr, uint64_t *ret)
{
	uint32_t reg;

	if (msr == MSR_APIC_BASE) {
		*ret = apic->apic_base;
		return true;
	}
	if (msr == MSR_TSC_DEADLINE) {
		*ret = apic->tsc_deadline;
		return apic->bus->config.tsc_deadline;
	}
	return (x2apic_register(apic, msr, &reg) || synthetic_register(apic, msr, &reg)) &&
	       x2apic_read(apic, reg, ret);
}

bool lapic_msr_write(struct lapic *apic, uint32_t msr, uint64_t value)
{
	uint32_t reg;

	if (msr == MSR_APIC_BASE)
		return write_base(apic, value);
	if (msr == MSR_TSC_DEADLINE) {
		if (!apic->bus->config.tsc_deadline)
			return false;
		write_tsc_deadline(apic, value);
		return true;
	}
	return (x2apic_register(apic, msr, &reg) || synthetic_register(apic, msr, &reg)) &&
	       x2apic_write(apic, reg, value);
}

/* ---- life ---- */

uint32_t lapic_id(const struct lapic *apic)
{
	return apic->vp;
}

bool lapic_enabled(const struct lapic *apic)
{
	return is_enabled(apic);
}

void lapic_init(struct lapic *apic)
{
	reset_registers(apic);
}

void lapic_reset(struct lapic *apic)
{
	apic->apic_base = DEFAULT_BASE | BASE_ENABLE | (apic->vp == 0 ? BASE_BSP : 0);
	apic->id = apic->vp;
	atomic_store(&apic->attention, 0);
	reset_registers(apic);
}

int lapic_bus_new(const struct lapic_config *config, struct lapic_bus **ret, struct error *err)
{
	struct lapic_bus *bus = calloc(1, sizeof(*bus));

	if (!bus || !(bus->apics = calloc(config->count, sizeof(*bus->apics)))) {
		free(bus);
		return error_set(err, ERR_NO_MEMORY, "no memory for %u local APICs", config->count);
	}
	bus->config = *config;
	for (unsigned i = 0; i < config->count; i++) {
		bus->apics[i].bus = bus;
		bus->apics[i].vp = i;
		lapic_reset(&bus->apics[i]);
	}
	*ret = bus;
	return 0;
}

void lapic_bus_free(struct lapic_bus *bus)
{
	if (!bus)
		return;
	free(bus->apics);
	free(bus);
}

struct lapic *lapic_bus_get(struct lapic_bus *bus, unsigned vp)
{
	return &bus->apics[vp];
}

/* ---- state ---- */

static void get_bitmaps(const struct lapic *apic, struct part_apic_state *ret)
{
	for (unsigned i = 0; i < 8; i++) {
		ret->irr[i] = atomic_load(&apic->irr[i]);
		ret->isr[i] = apic->isr[i];
		ret->tmr[i] = atomic_load(&apic->tmr[i]);
		ret->auto_eoi[i] = atomic_load(&apic->auto_eoi[i]);
	}
}

void lapic_get_state(const struct lapic *apic, struct part_apic_state *ret)
{
	unsigned attention = lapic_attention(apic), pins = atomic_load(&apic->pins);

	*ret = (struct part_apic_state){
		.apic_base = apic->apic_base,
		.id = apic->id,
		.tpr = apic->tpr,
		.ldr = apic->ldr,
		.dfr = apic->dfr,
		.svr = apic->svr,
		.esr = apic->esr,
		.esr_latch = atomic_load(&apic->errors),
		.icr = apic->icr,
		.timer_initial = apic->timer_initial,
		.timer_divide = apic->timer_divide,
		.timer_left = ticks_left(apic),
		.timer_armed = apic->timer_armed,
		.tsc_deadline = apic->tsc_deadline,
		.nmi_pending = attention & LAPIC_ATTEND_NMI,
		.init_pending = attention & LAPIC_ATTEND_INIT,
		.sipi_pending = attention & LAPIC_ATTEND_SIPI,
		.extint_level = pins & PIN_EXTINT_LEVEL,
		.extint_message = pins & PIN_EXTINT_MESSAGE,
		.sipi_vector = (uint8_t)atomic_load(&apic->sipi_vector),
	};
	memcpy(ret->lvt, apic->lvt, sizeof(ret->lvt));
	get_bitmaps(apic, ret);
}

static bool state_possible(const struct lapic *apic, const struct part_apic_state *state)
{
	const struct lapic_config *config = &apic->bus->config;
	uint64_t mode = state->apic_base & BASE_MODE;

	if (mode == BASE_X2APIC || (mode == BASE_MODE && !config->x2apic))
		return false;
	if (state->apic_base >> config->phys_bits || state->tpr > 0xff ||
	    state->svr & ~SVR_WRITABLE || state->timer_divide & ~DIVIDE_WRITABLE)
		return false;
	if (mode == BASE_MODE ? state->id != apic->vp : state->id > 0xff)
		return false;
	if (state->timer_armed &&
	    (!state->timer_initial || state->lvt[LVT_TIMER] & LVT_TIMER_TSC_DEADLINE))
		return false;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		if (state->lvt[i] & ~lvt_writable(apic, i))
			return false;
	return !((state->irr[0] | state->isr[0]) & ((1u << FIRST_VECTOR) - 1)) &&
	       (!state->tsc_deadline || state->lvt[LVT_TIMER] & LVT_TIMER_TSC_DEADLINE);
}

static void set_requests(struct lapic *apic, const struct part_apic_state *state)
{
	unsigned attention = 0, pins = 0;

	if (state->nmi_pending)
		attention |= LAPIC_ATTEND_NMI;
	if (state->init_pending)
		attention |= LAPIC_ATTEND_INIT;
	if (state->sipi_pending)
		attention |= LAPIC_ATTEND_SIPI;
	if (state->extint_level)
		pins |= PIN_EXTINT_LEVEL;
	if (state->extint_message)
		pins |= PIN_EXTINT_MESSAGE;
	atomic_store(&apic->pins, pins);
	atomic_store(&apic->sipi_vector, state->sipi_vector);
	atomic_store(&apic->attention, attention);
	for (unsigned i = 0; i < 8; i++) {
		atomic_store(&apic->irr[i], state->irr[i]);
		apic->isr[i] = state->isr[i];
		atomic_store(&apic->tmr[i], state->tmr[i]);
		atomic_store(&apic->auto_eoi[i], state->auto_eoi[i]);
	}
}

bool lapic_set_state(struct lapic *apic, const struct part_apic_state *state)
{
	if (!state_possible(apic, state))
		return false;
	apic->apic_base = state->apic_base;
	apic->id = state->id;
	apic->tpr = state->tpr;
	apic->ldr = state->ldr & 0xff000000;
	apic->dfr = state->dfr | 0x0fffffff;
	apic->svr = state->svr;
	apic->esr = state->esr;
	atomic_store(&apic->errors, state->esr_latch);
	apic->icr = state->icr;
	memcpy(apic->lvt, state->lvt, sizeof(apic->lvt));
	apic->timer_initial = state->timer_initial;
	apic->timer_divide = state->timer_divide;
	apic->timer_armed = state->timer_armed;
	apic->timer_expiry = now_ticks(apic) + state->timer_left;
	apic->tsc_deadline = state->tsc_deadline;
	lapic_tsc_changed(apic);
	set_requests(apic, state);
	publish_address(apic);
	lapic_interrupt_pending(apic);
	return true;
}
