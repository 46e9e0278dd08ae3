/* The local APICs: what guests write to registers and MSRs, messages from devices, time going by.
 */
#include "part/softcpu/lapic.h"

#include <stdlib.h>
#include <string.h>

#define VPS  4
#define BASE 0xfee00000u

struct rig {
	const uint8_t *data;
	size_t size;
	struct lapic_bus *bus;
	struct lapic *apic[VPS];
	uint64_t ns;
	bool waits_for_sipi[VPS];
};

static uint64_t take(struct rig *rig, unsigned bytes)
{
	uint64_t value = 0;

	if (bytes > rig->size)
		bytes = (unsigned)rig->size;
	memcpy(&value, rig->data, bytes);
	rig->data += bytes;
	rig->size -= bytes;
	return value;
}

static uint64_t fake_now(void *user)
{
	return ((struct rig *)user)->ns;
}

static uint64_t fake_tsc(void *user, unsigned vp)
{
	return ((struct rig *)user)->ns * 3;
}

static void fake_wake(void *user, unsigned vp)
{
	if (vp >= VPS)
		abort();
}

static void fake_eoi(void *user, uint8_t vector)
{
	if (vector < 16)
		abort();
}

static int fake_ack(void *user)
{
	return 0x30;
}

/* What a VP does between instructions. */
static void run_vp(struct rig *rig, unsigned vp, bool if_flag)
{
	struct lapic *apic = rig->apic[vp];
	enum lapic_event event;
	unsigned mask = LAPIC_ATTEND_ALL;
	uint8_t vector;
	int taken;

	lapic_timer_run(apic);
	while ((event = lapic_next_event(apic, true, rig->waits_for_sipi[vp], &vector))) {
		if (event == LAPIC_INIT)
			lapic_init(apic);
		rig->waits_for_sipi[vp] = event == LAPIC_INIT && vp;
	}
	/* A level on the PIC's line is never used up. */
	for (unsigned i = 0; i < 300 && if_flag && (taken = lapic_acknowledge(apic)) >= 0; i++)
		if (taken < 16)
			abort();
	if (!if_flag)
		mask &= ~(unsigned)LAPIC_ATTEND_INTERRUPT;
	if (rig->waits_for_sipi[vp])
		mask &= ~(unsigned)LAPIC_ATTEND_NMI;
	lapic_interrupt_pending(apic);
	lapic_next_event(apic, false, rig->waits_for_sipi[vp], &vector);
	if (lapic_attention(apic) & mask & ~(unsigned)LAPIC_ATTEND_INTERRUPT)
		abort(); /* would be looked at for ever */
}

static void copy_state(struct rig *rig, unsigned from, unsigned to)
{
	struct part_apic_state state, again;

	lapic_get_state(rig->apic[from], &state);
	if (!lapic_set_state(rig->apic[from], &state))
		abort();
	lapic_get_state(rig->apic[from], &again);
	if (memcmp(&state, &again, sizeof(state)) != 0)
		abort();
	/* Another one's, or a damaged one, may be refused but must not do harm. */
	((uint8_t *)&state)[take(rig, 2) % sizeof(state)] ^= (uint8_t)take(rig, 1) & 1;
	lapic_set_state(rig->apic[to], &state);
}

static void step(struct rig *rig)
{
	unsigned op = (unsigned)take(rig, 1), vp = op >> 6;
	struct lapic *apic = rig->apic[vp];
	uint64_t value, address;

	switch (op & 15) {
	case 0:
	case 1:
		address = BASE + (take(rig, 2) & 0xfff);
		if (lapic_mmio_hit(apic, address))
			lapic_mmio_write(apic, address, 1u << (op >> 4 & 3), take(rig, 8));
		break;
	case 2: /* the registers, mostly */
		address = BASE + (take(rig, 1) & 63) * 16;
		if (lapic_mmio_hit(apic, address))
			lapic_mmio_write(apic, address, 4, take(rig, 4));
		break;
	case 3:
		address = BASE + (take(rig, 2) & 0xfff);
		if (lapic_mmio_hit(apic, address))
			lapic_mmio_read(apic, address, 1u << (op >> 4 & 3));
		break;
	case 4:
		lapic_msr_write(apic, 0x800 + (uint32_t)(take(rig, 1) & 63), take(rig, 8));
		break;
	case 5:
		lapic_msr_read(apic, 0x800 + (uint32_t)(take(rig, 1)), &value);
		break;
	case 6:
		lapic_msr_write(apic, 0x1b, BASE | take(rig, 2));
		break;
	case 7:
		lapic_msr_write(apic, 0x6e0, take(rig, 8));
		break;
	case 8:
		lapic_bus_msi(rig->bus, 0xfee00000 | (take(rig, 3) & 0xfffff),
			      (uint32_t)take(rig, 4));
		break;
	case 9:
		lapic_bus_interrupt(rig->bus, vp, (uint8_t)take(rig, 1), op & 16);
		break;
	case 10:
		lapic_bus_extint_set(rig->bus, op & 16);
		break;
	case 11:
		lapic_bus_nmi(rig->bus, vp);
		break;
	case 12:
		rig->ns += take(rig, 1 + (op >> 4 & 3) * 2);
		break;
	case 13:
		lapic_set_cr8(apic, take(rig, 1) & 15);
		break;
	case 14:
		copy_state(rig, vp, op >> 4 & 3);
		break;
	default:
		run_vp(rig, vp, op & 16);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rig rig = { .data = data, .size = size };
	struct lapic_config config = {
		.count = VPS,
		.apic_hz = 200000000,
		.tsc_hz = 3000000000,
		.phys_bits = 36,
		.x2apic = true,
		.tsc_deadline = true,
		.host = { &rig, fake_now, fake_tsc, fake_wake, fake_eoi, fake_ack },
	};

	if (lapic_bus_new(&config, &rig.bus, NULL) < 0)
		return 0;
	for (unsigned i = 0; i < VPS; i++)
		rig.apic[i] = lapic_bus_get(rig.bus, i);
	while (rig.size)
		step(&rig);
	for (unsigned i = 0; i < VPS; i++) {
		lapic_timer_deadline_ns(rig.apic[i]);
		run_vp(&rig, i, true);
	}
	lapic_bus_free(rig.bus);
	return 0;
}
