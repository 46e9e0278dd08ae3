#include "part/softcpu/lapic.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define VPS     4
#define BASE    0xfee00000u
#define APIC_HZ 1000000000u /* one tick is 1 ns */
#define TSC_HZ  2000000000u

enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_TIMER = 0x320,
	LVT_LINT0 = 0x350,
	LVT_LINT1 = 0x360,
	LVT_ERROR = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0,
};

struct rig {
	struct lapic_bus *bus;
	struct lapic *apic[VPS];
	uint64_t ns, tsc;
	unsigned wakes[VPS];
	int eoi_vector, extint_vector;
	unsigned acks;
};

static uint64_t fake_now(void *user)
{
	return ((struct rig *)user)->ns;
}

static uint64_t fake_tsc(void *user, unsigned vp)
{
	return ((struct rig *)user)->tsc;
}

static void fake_wake(void *user, unsigned vp)
{
	((struct rig *)user)->wakes[vp]++;
}

static void fake_eoi(void *user, uint8_t vector)
{
	((struct rig *)user)->eoi_vector = vector;
}

static int fake_ack(void *user)
{
	((struct rig *)user)->acks++;
	return ((struct rig *)user)->extint_vector;
}

static uint32_t rd(struct lapic *apic, uint32_t reg)
{
	return (uint32_t)lapic_mmio_read(apic, BASE + reg, 4);
}

static void wr(struct lapic *apic, uint32_t reg, uint32_t value)
{
	lapic_mmio_write(apic, BASE + reg, 4, value);
}

static int setup(void **state)
{
	static struct rig rig;
	struct lapic_config config = {
		.count = VPS,
		.apic_hz = APIC_HZ,
		.tsc_hz = TSC_HZ,
		.phys_bits = 36,
		.x2apic = true,
		.tsc_deadline = true,
		.host = { &rig, fake_now, fake_tsc, fake_wake, fake_eoi, fake_ack },
	};

	memset(&rig, 0, sizeof(rig));
	rig.eoi_vector = rig.extint_vector = -1;
	if (lapic_bus_new(&config, &rig.bus, NULL) < 0)
		return -1;
	for (unsigned i = 0; i < VPS; i++) {
		rig.apic[i] = lapic_bus_get(rig.bus, i);
		wr(rig.apic[i], SVR, 0x1ff);
	}
	*state = &rig;
	return 0;
}

static int teardown(void **state)
{
	lapic_bus_free(((struct rig *)*state)->bus);
	return 0;
}

static void go_x2apic(struct rig *rig)
{
	for (unsigned i = 0; i < VPS; i++)
		assert_true(lapic_msr_write(rig->apic[i], 0x1b, BASE | 0xc00));
}

static bool pending(struct rig *rig, unsigned vp, uint8_t vector)
{
	struct part_apic_state st;

	lapic_get_state(rig->apic[vp], &st);
	return st.irr[vector >> 5] >> (vector & 31) & 1;
}

/* The set of VPs that have the vector pending; forgets it there. */
static unsigned who(struct rig *rig, uint8_t vector)
{
	unsigned set = 0;

	for (unsigned i = 0; i < VPS; i++) {
		if (!pending(rig, i, vector))
			continue;
		set |= 1u << i;
		assert_int_equal(lapic_acknowledge(rig->apic[i]), vector);
		lapic_write_eoi(rig->apic[i]);
	}
	return set;
}

static void test_reset_values(void **state)
{
	struct rig *rig = *state;
	uint64_t base;

	lapic_reset(rig->apic[1]);
	assert_int_equal(rd(rig->apic[1], ID), 1u << 24);
	assert_int_equal(rd(rig->apic[1], VERSION), 0x50014);
	assert_int_equal(rd(rig->apic[1], SVR), 0xff);
	assert_int_equal(rd(rig->apic[1], DFR), 0xffffffff);
	assert_int_equal(rd(rig->apic[1], LVT_LINT0), 0x10000);
	assert_true(lapic_msr_read(rig->apic[1], 0x1b, &base));
	assert_int_equal(base, 0xfee00800);
	assert_true(lapic_msr_read(rig->apic[0], 0x1b, &base));
	assert_int_equal(base, 0xfee00900);
}

static void test_priority_and_eoi(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];

	assert_int_equal(lapic_acknowledge(a), -1);
	lapic_bus_interrupt(rig->bus, 0, 0x41, false);
	lapic_bus_interrupt(rig->bus, 0, 0x52, false);
	assert_int_equal(rig->wakes[0], 2);
	assert_int_equal(rig->wakes[1], 0);
	assert_true(lapic_attention(a) & LAPIC_ATTEND_INTERRUPT);
	assert_int_equal(lapic_acknowledge(a), 0x52);
	assert_int_equal(rd(a, PPR), 0x50);
	assert_int_equal(lapic_acknowledge(a), -1);
	assert_false(lapic_attention(a));
	wr(a, EOI, 0);
	assert_true(lapic_attention(a) & LAPIC_ATTEND_INTERRUPT);
	wr(a, TPR, 0x40);
	assert_int_equal(lapic_acknowledge(a), -1);
	lapic_set_cr8(a, 3);
	assert_int_equal(rd(a, TPR), 0x30);
	assert_int_equal(lapic_acknowledge(a), 0x41);
	assert_int_equal(rd(a, ISR + 0x20), 2);
	assert_int_equal(rd(a, IRR + 0x20), 0);
	wr(a, EOI, 0);
	assert_int_equal(rig->eoi_vector, -1);
	assert_int_equal(rd(a, PPR), 0x30);
}

static void test_level_triggered_eoi(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[2];

	lapic_bus_msi(rig->bus, 0xfee02000, 0xc061);
	assert_int_equal(lapic_acknowledge(a), 0x61);
	assert_int_equal(rd(a, TMR + 0x30), 2);
	wr(a, EOI, 0);
	assert_int_equal(rig->eoi_vector, 0x61);
	/* The same vector as an edge isn't reported. */
	rig->eoi_vector = -1;
	lapic_bus_msi(rig->bus, 0xfee02000, 0x61);
	assert_int_equal(lapic_acknowledge(a), 0x61);
	wr(a, EOI, 0);
	assert_int_equal(rig->eoi_vector, -1);
	lapic_bus_msi(rig->bus, 0xfee02000, 0x8061); /* de-assertion */
	assert_int_equal(who(rig, 0x61), 0);
}

static void test_auto_eoi(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];

	lapic_bus_interrupt(rig->bus, 0, 0x80, true);
	assert_int_equal(lapic_acknowledge(a), 0x80);
	assert_int_equal(rd(a, ISR + 0x40), 0);
	lapic_bus_interrupt(rig->bus, 0, 0x80, false);
	assert_int_equal(lapic_acknowledge(a), 0x80);
	assert_int_equal(rd(a, ISR + 0x40), 1);
}

static void test_msi_destinations(void **state)
{
	struct rig *rig = *state;

	for (unsigned i = 0; i < VPS; i++)
		wr(rig->apic[i], LDR, 1u << (24 + i));
	lapic_bus_msi(rig->bus, 0xfee01000, 0x40);
	assert_int_equal(who(rig, 0x40), 2);
	lapic_bus_msi(rig->bus, 0xfeeff000, 0x40);
	assert_int_equal(who(rig, 0x40), 15);
	lapic_bus_msi(rig->bus, 0xfee09000, 0x40); /* nobody */
	assert_int_equal(who(rig, 0x40), 0);
	lapic_bus_msi(rig->bus, 0xfee0a004, 0x40); /* logical, 1 and 3 */
	assert_int_equal(who(rig, 0x40), 10);
	lapic_bus_msi(rig->bus, 0xfed0a004, 0x40);
	assert_int_equal(who(rig, 0x40), 0);
	wr(rig->apic[3], DFR, 0);
	wr(rig->apic[3], LDR, 0x21000000);
	lapic_bus_msi(rig->bus, 0xfee21004, 0x40); /* cluster 2, member 0; flat 0x21: VP 0 */
	assert_int_equal(who(rig, 0x40), 9);
	lapic_bus_msi(rig->bus, 0xfee32004, 0x40); /* another cluster; flat 0x32: VP 1 */
	assert_int_equal(who(rig, 0x40), 2);
}

static void test_lowest_priority_takes_turns(void **state)
{
	struct rig *rig = *state;
	unsigned seen = 0;

	for (unsigned i = 0; i < VPS; i++)
		wr(rig->apic[i], LDR, 1u << (24 + i));
	for (unsigned i = 0; i < 8; i++) {
		unsigned set;

		lapic_bus_msi(rig->bus, 0xfee07004, 0x140);
		set = who(rig, 0x40);
		assert_int_equal(__builtin_popcount(set), 1);
		seen |= set;
	}
	assert_int_equal(seen, 7);
}

static void test_ipi_shorthands(void **state)
{
	struct rig *rig = *state;

	wr(rig->apic[1], ICR, 0x40 | 1 << 18);
	assert_int_equal(who(rig, 0x40), 2);
	wr(rig->apic[1], ICR, 0x40 | 2 << 18);
	assert_int_equal(who(rig, 0x40), 15);
	wr(rig->apic[1], ICR, 0x40 | 3 << 18);
	assert_int_equal(who(rig, 0x40), 13);
	wr(rig->apic[1], ICR_HIGH, 3u << 24);
	wr(rig->apic[1], ICR, 0x40);
	assert_int_equal(who(rig, 0x40), 8);
	assert_int_equal(rd(rig->apic[1], ICR_HIGH), 3u << 24);
	assert_int_equal(rd(rig->apic[1], ICR), 0x40);
}

static void test_init_sipi(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[1];
	uint8_t vector = 0;

	wr(rig->apic[0], ICR_HIGH, 1u << 24);
	wr(rig->apic[0], ICR, 0x699); /* a SIPI before INIT is forgotten */
	wr(rig->apic[0], ICR, 0xc500);
	wr(rig->apic[0], ICR, 0x8500); /* de-assert: nothing */
	assert_true(lapic_wakes(a, false, false));
	assert_int_equal(lapic_next_event(a, true, false, &vector), LAPIC_INIT);
	lapic_init(a);
	assert_int_equal(rd(a, SVR), 0xff);
	assert_int_equal(rd(a, ID), 1u << 24);
	assert_int_equal(lapic_next_event(a, true, true, &vector), LAPIC_NONE);
	wr(rig->apic[0], ICR, 0x400); /* NMI waits for the SIPI */
	assert_int_equal(lapic_next_event(a, true, true, &vector), LAPIC_NONE);
	wr(rig->apic[0], ICR, 0x69a);
	assert_int_equal(lapic_next_event(a, true, true, &vector), LAPIC_SIPI);
	assert_int_equal(vector, 0x9a);
	assert_int_equal(lapic_next_event(a, false, false, &vector), LAPIC_NONE);
	assert_int_equal(lapic_next_event(a, true, false, &vector), LAPIC_NMI);
	wr(rig->apic[0], ICR, 0x69a); /* running: dropped */
	assert_int_equal(lapic_next_event(a, true, false, &vector), LAPIC_NONE);
	assert_int_equal(lapic_attention(a), 0);
}

static void test_software_disable(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];
	uint8_t vector;

	wr(a, LVT_TIMER, 0x40);
	wr(a, SVR, 0xff);
	assert_int_equal(rd(a, LVT_TIMER), 0x10040);
	wr(a, LVT_TIMER, 0x40);
	assert_int_equal(rd(a, LVT_TIMER), 0x10040);
	lapic_bus_interrupt(rig->bus, 0, 0x41, false);
	assert_int_equal(lapic_acknowledge(a), -1);
	lapic_bus_nmi(rig->bus, 0);
	assert_int_equal(lapic_next_event(a, true, false, &vector), LAPIC_NMI);
}

static void test_extint(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];

	rig->extint_vector = 8;
	/* Virtual wire mode after reset, on the bootstrap processor only. */
	assert_int_equal(rd(a, LVT_LINT0), 0x700);
	assert_int_equal(rd(rig->apic[1], LVT_LINT0), 0x10000);
	wr(a, LVT_LINT0, 0x10700);
	lapic_bus_extint_set(rig->bus, true);
	assert_int_equal(lapic_acknowledge(a), -1);
	wr(a, LVT_LINT0, 0x700);
	assert_true(lapic_attention(a) & LAPIC_ATTEND_INTERRUPT);
	assert_true(lapic_wakes(a, true, true));
	assert_false(lapic_wakes(a, false, true));
	wr(a, TPR, 0xff); /* ExtINT knows no priority */
	assert_int_equal(lapic_acknowledge(a), 8);
	assert_int_equal(rig->acks, 1);
	lapic_bus_extint_set(rig->bus, false);
	assert_int_equal(lapic_acknowledge(a), -1);
	assert_int_equal(rig->acks, 1);
	/* Past a disabled APIC. */
	assert_true(lapic_msr_write(a, 0x1b, BASE | 0x100));
	lapic_bus_extint_set(rig->bus, true);
	assert_int_equal(lapic_acknowledge(a), 8);
	assert_false(lapic_mmio_hit(a, BASE));
	lapic_bus_interrupt(rig->bus, 0, 0x41, false);
	assert_false(pending(rig, 0, 0x41));
}

static void test_one_shot(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];

	rig->ns = 1000;
	wr(a, DIVIDE, 3); /* by 16 */
	wr(a, LVT_TIMER, 0x40);
	assert_int_equal(lapic_timer_deadline_ns(a), LAPIC_NEVER);
	wr(a, INITIAL, 100);
	assert_in_range(lapic_timer_deadline_ns(a), 2600, 2601);
	rig->ns += 160;
	assert_int_equal(rd(a, CURRENT), 90);
	rig->ns = 2599;
	lapic_timer_run(a);
	assert_int_equal(rd(a, CURRENT), 1);
	assert_int_equal(who(rig, 0x40), 0);
	rig->ns = 2601;
	assert_true(lapic_wakes(a, true, true));
	assert_int_equal(who(rig, 0x40), 1);
	assert_int_equal(rd(a, CURRENT), 0);
	assert_int_equal(lapic_timer_deadline_ns(a), LAPIC_NEVER);
}

static void test_periodic(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];

	wr(a, DIVIDE, 0xb); /* by 1 */
	wr(a, LVT_TIMER, 0x20040);
	wr(a, INITIAL, 1000);
	rig->ns = 1001;
	lapic_timer_run(a);
	assert_int_equal(who(rig, 0x40), 1);
	assert_in_range(lapic_timer_deadline_ns(a), 2000, 2001);
	rig->ns = 5400; /* missed ones are one interrupt, and the phase stays */
	assert_int_equal(rd(a, CURRENT), 600);
	lapic_timer_run(a);
	assert_int_equal(who(rig, 0x40), 1);
	assert_in_range(lapic_timer_deadline_ns(a), 6000, 6001);
	wr(a, INITIAL, 0);
	assert_int_equal(lapic_timer_deadline_ns(a), LAPIC_NEVER);
}

static void test_tsc_deadline(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];
	uint64_t value;

	rig->tsc = 10000;
	assert_true(lapic_msr_write(a, 0x6e0, 20000)); /* other mode: ignored */
	assert_true(lapic_msr_read(a, 0x6e0, &value));
	assert_int_equal(value, 0);
	wr(a, LVT_TIMER, 0x40040);
	assert_true(lapic_msr_write(a, 0x6e0, 20000));
	assert_int_equal(lapic_timer_deadline_ns(a), 5000);
	rig->tsc = 15000;
	rig->ns = 1000;
	lapic_tsc_changed(a);
	assert_int_equal(lapic_timer_deadline_ns(a), 3500);
	rig->ns = 3500;
	rig->tsc = 19999;
	lapic_timer_run(a);
	assert_int_equal(who(rig, 0x40), 0);
	assert_int_equal(lapic_timer_deadline_ns(a), 3501);
	rig->tsc = 20000;
	lapic_timer_run(a);
	assert_int_equal(who(rig, 0x40), 1);
	assert_true(lapic_msr_read(a, 0x6e0, &value));
	assert_int_equal(value, 0);
	assert_true(lapic_msr_write(a, 0x6e0, 5)); /* past: at once */
	assert_int_equal(who(rig, 0x40), 1);
	assert_true(lapic_msr_write(a, 0x6e0, UINT64_MAX));
	assert_true(lapic_timer_deadline_ns(a) > rig->ns);
	wr(a, LVT_TIMER, 0x40);
	assert_int_equal(lapic_timer_deadline_ns(a), LAPIC_NEVER);
}

static void test_errors(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[0];
	uint8_t vector;

	wr(a, LVT_ERROR, 0xfe);
	wr(a, ICR, 5 | 1 << 18);
	assert_int_equal(rd(a, ESR), 0);
	assert_int_equal(lapic_next_event(a, true, false, &vector), LAPIC_NONE);
	assert_int_equal(who(rig, 0xfe), 1);
	wr(a, ESR, 0);
	assert_int_equal(rd(a, ESR), 1 << 5);
	rd(a, 0x3f0);
	lapic_bus_msi(rig->bus, 0xfee00000, 3);
	wr(a, ESR, 0);
	assert_int_equal(rd(a, ESR), 1 << 7 | 1 << 6);
	wr(a, ESR, 0);
	assert_int_equal(rd(a, ESR), 0);
}

static void test_x2apic(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[3];
	uint64_t value;

	assert_false(lapic_msr_read(a, 0x802, &value));
	go_x2apic(rig);
	assert_false(lapic_mmio_hit(a, BASE));
	assert_true(lapic_msr_read(a, 0x802, &value));
	assert_int_equal(value, 3);
	assert_true(lapic_msr_read(a, 0x80d, &value));
	assert_int_equal(value, 8);
	assert_false(lapic_msr_write(a, 0x802, 3));
	assert_false(lapic_msr_write(a, 0x80d, 3));
	assert_false(lapic_msr_write(a, 0x80b, 1));
	assert_false(lapic_msr_read(a, 0x80b, &value));
	assert_false(lapic_msr_write(a, 0x808, 0x100));
	assert_false(lapic_msr_read(a, 0x831, &value));
	assert_false(lapic_msr_read(a, 0x80e, &value));
	assert_false(lapic_msr_write(a, 0x832, 1ull << 32));
	assert_false(lapic_msr_write(a, 0x828, 1));
	assert_true(lapic_msr_write(a, 0x828, 0));
	assert_true(lapic_msr_write(a, 0x83f, 0x50));
	assert_int_equal(who(rig, 0x50), 8);
	assert_true(lapic_msr_write(a, 0x830, 1ull << 32 | 0x50));
	assert_int_equal(who(rig, 0x50), 2);
	assert_true(lapic_msr_write(a, 0x830, 0xffffffff00000050));
	assert_int_equal(who(rig, 0x50), 15);
	assert_true(lapic_msr_write(a, 0x830, 5ull << 32 | 1 << 11 | 0x50));
	assert_int_equal(who(rig, 0x50), 5);
	assert_true(lapic_msr_write(a, 0x830, 0x00010005ull << 32 | 1 << 11 | 0x50));
	assert_int_equal(who(rig, 0x50), 0);
	assert_true(lapic_msr_read(a, 0x830, &value));
	assert_int_equal(value, 0x00010005ull << 32 | 1 << 11 | 0x50);
	lapic_bus_msi(rig->bus, 0xfee02000, 0x50);
	assert_int_equal(who(rig, 0x50), 4);
}

static void test_base_transitions(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[1];
	uint64_t value;

	assert_false(lapic_msr_write(a, 0x1b, BASE | 0x400));
	assert_false(lapic_msr_write(a, 0x1b, 1ull << 36 | 0x800));
	assert_false(lapic_msr_write(a, 0x1b, BASE | 0x801));
	assert_true(lapic_msr_write(a, 0x1b, 0xfed00000 | 0x800));
	assert_true(lapic_mmio_hit(a, 0xfed00ffc));
	assert_false(lapic_mmio_hit(a, BASE));
	assert_false(lapic_mmio_hit(a, 0xfed01000));
	assert_true(lapic_msr_write(a, 0x1b, BASE | 0xc00));
	assert_false(lapic_msr_write(a, 0x1b, BASE | 0x800));
	assert_true(lapic_msr_write(a, 0x1b, BASE));
	assert_false(lapic_enabled(a));
	assert_false(lapic_msr_write(a, 0x1b, BASE | 0xc00));
	assert_true(lapic_msr_write(a, 0x1b, BASE | 0x900)); /* BSP can't be claimed */
	assert_true(lapic_msr_read(a, 0x1b, &value));
	assert_int_equal(value, BASE | 0x800);
}

static void test_narrow_access(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[2];

	assert_int_equal(lapic_mmio_read(a, BASE + ID + 3, 1), 2);
	assert_int_equal(lapic_mmio_read(a, BASE + ID + 4, 4), 0);
	assert_int_equal(lapic_mmio_read(a, BASE + VERSION, 2), 0x14);
	lapic_mmio_write(a, BASE + TPR, 1, 0x50);
	assert_int_equal(rd(a, TPR), 0);
	lapic_mmio_write(a, BASE + TPR, 8, 0x50);
	assert_int_equal(rd(a, TPR), 0x50);
}

static void test_state_round_trip(void **state)
{
	struct rig *rig = *state;
	struct lapic *a = rig->apic[1], *b = rig->apic[2];
	struct part_apic_state saved, again;

	wr(a, LDR, 0x02000000);
	wr(a, LVT_TIMER, 0x20040);
	wr(a, DIVIDE, 1);
	wr(a, INITIAL, 5000);
	rig->ns = 1234;
	lapic_bus_interrupt(rig->bus, 1, 0x71, true);
	lapic_bus_msi(rig->bus, 0xfee01000, 0xc061);
	lapic_bus_nmi(rig->bus, 1);
	lapic_bus_interrupt(rig->bus, 1, 0x91, false);
	assert_int_equal(lapic_acknowledge(a), 0x91);
	lapic_get_state(a, &saved);
	assert_int_equal(saved.timer_left, 5000 * 4 - 1234);
	rig->ns = 99999;
	assert_true(lapic_set_state(b, &saved));
	lapic_get_state(b, &again);
	assert_memory_equal(&saved, &again, sizeof(saved));
	assert_true(lapic_attention(b) & LAPIC_ATTEND_NMI);
	saved.tpr = 0x1000;
	assert_false(lapic_set_state(b, &saved));
	lapic_get_state(b, &saved);
	assert_memory_equal(&saved, &again, sizeof(saved));
}

/* ---- senders on other threads ---- */

#define SENDERS 3
#define SENT    5000

struct race {
	struct lapic_bus *bus;
	sem_t woken;
	atomic_uint taken[SENDERS], nmis;
};

struct sender {
	struct race *race;
	unsigned number;
};

static void race_wake(void *user, unsigned vp)
{
	sem_post(&((struct race *)user)->woken);
}

static uint64_t no_time(void *user)
{
	return 0;
}

static uint64_t no_tsc(void *user, unsigned vp)
{
	return 0;
}

/* Sends the next one when the last one was taken: a lost wake-up ends in a hang. */
static void *send_many(void *user)
{
	struct sender *sender = user;
	atomic_uint *taken = &sender->race->taken[sender->number];

	for (unsigned i = 0; i < SENT; i++) {
		lapic_bus_msi(sender->race->bus, 0xfee00000, 0x40 + sender->number * 0x10);
		while (atomic_load(taken) == i)
			sched_yield();
	}
	lapic_bus_nmi(sender->race->bus, 0);
	return NULL;
}

static bool race_over(struct race *race)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < SENDERS; i++)
		sum += atomic_load(&race->taken[i]);
	return sum == SENDERS * SENT && atomic_load(&race->nmis);
}

static void take_all(struct race *race, struct lapic *apic)
{
	uint8_t unused;
	int vector;

	while (lapic_attention(apic)) {
		if (lapic_next_event(apic, true, false, &unused) == LAPIC_NMI)
			atomic_fetch_add(&race->nmis, 1);
		vector = lapic_acknowledge(apic);
		if (vector < 0)
			continue;
		lapic_write_eoi(apic);
		atomic_fetch_add(&race->taken[(vector - 0x40) / 0x10], 1);
	}
}

static void test_senders_on_other_threads(void **state)
{
	struct race race = { 0 };
	struct lapic_config config = {
		.count = 1,
		.apic_hz = APIC_HZ,
		.tsc_hz = TSC_HZ,
		.phys_bits = 36,
		.host = { &race, no_time, no_tsc, race_wake, fake_eoi, fake_ack },
	};
	struct sender senders[SENDERS];
	pthread_t threads[SENDERS];

	sem_init(&race.woken, 0, 0);
	assert_int_equal(lapic_bus_new(&config, &race.bus, NULL), 0);
	wr(lapic_bus_get(race.bus, 0), SVR, 0x1ff);
	for (unsigned i = 0; i < SENDERS; i++) {
		senders[i] = (struct sender){ &race, i };
		assert_int_equal(pthread_create(&threads[i], NULL, send_many, &senders[i]), 0);
	}
	while (!race_over(&race)) {
		sem_wait(&race.woken);
		take_all(&race, lapic_bus_get(race.bus, 0));
	}
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_join(threads[i], NULL);
	lapic_bus_free(race.bus);
	sem_destroy(&race.woken);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_reset_values),
		TEST(test_priority_and_eoi),
		TEST(test_level_triggered_eoi),
		TEST(test_auto_eoi),
		TEST(test_msi_destinations),
		TEST(test_lowest_priority_takes_turns),
		TEST(test_ipi_shorthands),
		TEST(test_init_sipi),
		TEST(test_software_disable),
		TEST(test_extint),
		TEST(test_one_shot),
		TEST(test_periodic),
		TEST(test_tsc_deadline),
		TEST(test_errors),
		TEST(test_x2apic),
		TEST(test_base_transitions),
		TEST(test_narrow_access),
		TEST(test_state_round_trip),
		cmocka_unit_test(test_senders_on_other_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
