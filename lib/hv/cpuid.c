#include "hv/hv.h"

/* What the version leaf reports: a hypervisor of the 10.0 line. */
#define BUILD_NUMBER  20348u
#define MAJOR_VERSION 10u
#define MINOR_VERSION 0u

static uint32_t privileges_low(const struct hv_features *features)
{
	uint32_t eax = HV_ACCESS_REFERENCE_COUNTER | HV_ACCESS_SYNIC | HV_ACCESS_APIC_MSRS |
		       HV_ACCESS_HYPERCALL_MSRS | HV_ACCESS_VP_INDEX | HV_ACCESS_FREQUENCY_MSRS;

	if (features->reference_tsc)
		eax |= HV_ACCESS_REFERENCE_TSC;
	if (features->tsc_invariant)
		eax |= HV_ACCESS_TSC_INVARIANT;
	if (features->synthetic_timers)
		eax |= HV_ACCESS_SYNTHETIC_TIMERS;
	if (features->overcommitted)
		eax |= HV_ACCESS_GUEST_IDLE;
	return eax;
}

static uint32_t misc_features(const struct hv_features *features)
{
	uint32_t edx = HV_FREQUENCY_MSRS_AVAILABLE | HV_CRASH_MSRS_AVAILABLE;

	if (features->synthetic_timers)
		edx |= HV_DIRECT_TIMERS_AVAILABLE;
	if (features->overcommitted)
		edx |= HV_GUEST_IDLE_AVAILABLE;
	return edx;
}

/* Linux has locks that yield only if it may both idle and send by hypercall. */
static uint32_t recommendations(const struct hv_features *features)
{
	uint32_t eax = HV_RECOMMEND_RELAXED_TIMING | HV_RECOMMEND_NO_AUTO_EOI;

	if (features->overcommitted)
		eax |= HV_RECOMMEND_CLUSTER_IPI;
	return eax;
}

void hv_cpuid(unsigned vp_count, const struct hv_features *features,
	      struct part_cpuid ret[static HV_CPUID_COUNT])
{
	ret[0] = (struct part_cpuid){ .leaf = HV_CPUID_VENDOR,
				      .eax = HV_CPUID_HARDWARE,
				      .ebx = 0x7263694D, /* "Microsoft Hv" */
				      .ecx = 0x666F736F,
				      .edx = 0x76482074 };
	ret[1] = (struct part_cpuid){ .leaf = HV_CPUID_INTERFACE, .eax = HV_CPUID_INTERFACE_HV1 };
	ret[2] = (struct part_cpuid){ .leaf = HV_CPUID_VERSION,
				      .eax = BUILD_NUMBER,
				      .ebx = MAJOR_VERSION << 16 | MINOR_VERSION };
	ret[3] = (struct part_cpuid){ .leaf = HV_CPUID_FEATURES,
				      .eax = privileges_low(features),
				      .ebx = HV_POST_MESSAGES | HV_SIGNAL_EVENTS |
					     (features->memory_hints ? HV_EXTENDED_HYPERCALLS : 0),
				      .edx = misc_features(features) };
	ret[4] = (struct part_cpuid){ .leaf = HV_CPUID_RECOMMENDATIONS,
				      .eax = recommendations(features),
				      .ebx = HV_SPIN_RETRIES_NEVER };
	ret[5] = (struct part_cpuid){ .leaf = HV_CPUID_LIMITS, .eax = vp_count, .ebx = vp_count };
	ret[6] = (struct part_cpuid){ .leaf = HV_CPUID_HARDWARE };
}
