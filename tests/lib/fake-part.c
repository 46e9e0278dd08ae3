#include "fake-part.h"

#include "base/clock.h"

#include <string.h>

void part_interrupt(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi)
{
	__atomic_store_n(&part->last_vector[vp], vector, __ATOMIC_RELAXED);
	__atomic_fetch_add(&part->auto_eoi[vp], auto_eoi, __ATOMIC_RELAXED);
	__atomic_fetch_add(&part->interrupts[vp], 1, __ATOMIC_SEQ_CST);
}

uint64_t part_tsc_hz(const struct part *part)
{
	return FAKE_PART_TSC_HZ;
}

uint64_t part_tsc_now(const struct part *part)
{
	return part->frozen_tsc ? part->frozen_tsc : clock_now_ns() * 2;
}

uint64_t part_apic_hz(const struct part *part)
{
	return FAKE_PART_APIC_HZ;
}

uint64_t part_vp_runtime_ns(const struct part *part, unsigned vp)
{
	return 123400;
}

unsigned part_hypercall_code(const struct part *part, uint8_t ret[static 64])
{
	static const uint8_t code[] = { 0xF3, 0x0F, 0x1E, 0xFA, 0xE6, 0x7F, 0xC3 };

	memcpy(ret, code, sizeof(code));
	return sizeof(code);
}
