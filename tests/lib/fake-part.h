/*
 * A partition without processors, for tests of what lies above it: defines the part_* functions
 * that lib/hv calls, and counts what reaches the (absent) local APICs. Link it instead of lib/part.
 */
#ifndef TESTS_FAKE_PART_H
#define TESTS_FAKE_PART_H

#include "part/part.h"

#define FAKE_PART_TSC_HZ  UINT64_C(2000000000)
#define FAKE_PART_APIC_HZ UINT64_C(200000000)

struct part {
	unsigned interrupts[PART_MAX_VPS]; /* atomic */
	unsigned auto_eoi[PART_MAX_VPS];   /* how many of them */
	uint8_t last_vector[PART_MAX_VPS];
	/* 0: the TSC follows the host's clock; else it stands here. */
	uint64_t frozen_tsc;
};

#endif
