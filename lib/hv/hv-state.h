/* What is saved of the hypervisor interface; for lib/hv and its test. */
#ifndef HV_HV_STATE_H
#define HV_HV_STATE_H

#include "hv/hv.h"

struct hv_state {
	uint64_t guest_os_id, hypercall, reference_tsc, tsc_invariant;
	uint64_t crash_param[HV_CRASH_PARAMS];
	uint64_t reference_time;
	uint32_t tsc_sequence;
	bool reference_tsc_offered, tsc_invariant_offered, synthetic_timers_offered;
	bool memory_hints_offered;
	uint8_t reserved;
	bool overcommitted_offered;
	uint8_t reserved2[7];
};

/* A message that waits for its SINT's slot. */
struct hv_message_state {
	uint32_t type;
	uint8_t sint, len;
	uint8_t timer; /* 1 + index of the synthetic timer that it is of; 0: none */
	uint8_t reserved;
	uint8_t payload[HV_MESSAGE_PAYLOAD_MAX];
};

struct hv_vp_state {
	uint64_t scontrol, simp, siefp, assist_page;
	uint64_t sint[HV_SINT_COUNT];
	uint64_t timer_config[HV_STIMER_COUNT], timer_count[HV_STIMER_COUNT];
	uint64_t timer_expiry[HV_STIMER_COUNT]; /* reference time; 0: not running */
	struct hv_message_state *messages;      /* of each SINT, in their order */
	uint32_t message_count, reserved;
};

extern const struct state_desc hv_state_desc, hv_message_state_desc, hv_vp_state_desc;

#endif
