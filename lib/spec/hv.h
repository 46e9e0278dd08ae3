/*
 * The hypervisor interface: CPUID leaves, synthetic MSRs, hypercalls, SynIC pages. Names and
 * numbers are those of the Hypervisor Top Level Functional Specification (TLFS); layouts are
 * little-endian.
 */
#ifndef SPEC_HV_H
#define SPEC_HV_H

#include <stddef.h>
#include <stdint.h>

/* ---- CPUID (TLFS 2.4) ---- */

#define HV_CPUID_VENDOR          0x40000000u
#define HV_CPUID_INTERFACE       0x40000001u
#define HV_CPUID_VERSION         0x40000002u
#define HV_CPUID_FEATURES        0x40000003u
#define HV_CPUID_RECOMMENDATIONS 0x40000004u
#define HV_CPUID_LIMITS          0x40000005u
#define HV_CPUID_HARDWARE        0x40000006u

#define HV_CPUID_INTERFACE_HV1 0x31237648u /* "Hv#1" */

/* HV_CPUID_FEATURES, EAX */
#define HV_ACCESS_VP_RUNTIME        (1u << 0)
#define HV_ACCESS_REFERENCE_COUNTER (1u << 1)
#define HV_ACCESS_SYNIC             (1u << 2)
#define HV_ACCESS_SYNTHETIC_TIMERS  (1u << 3)
#define HV_ACCESS_APIC_MSRS         (1u << 4)
#define HV_ACCESS_HYPERCALL_MSRS    (1u << 5)
#define HV_ACCESS_VP_INDEX          (1u << 6)
#define HV_ACCESS_RESET_MSR         (1u << 7)
#define HV_ACCESS_REFERENCE_TSC     (1u << 9)
#define HV_ACCESS_GUEST_IDLE        (1u << 10)
#define HV_ACCESS_FREQUENCY_MSRS    (1u << 11)
#define HV_ACCESS_TSC_INVARIANT     (1u << 15)
/* HV_CPUID_FEATURES, EBX */
#define HV_POST_MESSAGES       (1u << 4)
#define HV_SIGNAL_EVENTS       (1u << 5)
#define HV_EXTENDED_HYPERCALLS (1u << 20)
/* HV_CPUID_FEATURES, EDX */
#define HV_GUEST_IDLE_AVAILABLE     (1u << 5)
#define HV_FREQUENCY_MSRS_AVAILABLE (1u << 8)
#define HV_CRASH_MSRS_AVAILABLE     (1u << 10)
#define HV_DIRECT_TIMERS_AVAILABLE  (1u << 19)
/* HV_CPUID_RECOMMENDATIONS, EAX */
#define HV_RECOMMEND_RELAXED_TIMING (1u << 5)
#define HV_RECOMMEND_NO_AUTO_EOI    (1u << 9)
#define HV_RECOMMEND_CLUSTER_IPI    (1u << 10)
#define HV_SPIN_RETRIES_NEVER       0xFFFFFFFFu

/* ---- synthetic MSRs (TLFS appendix C) ---- */

#define HV_MSR_GUEST_OS_ID           0x40000000u
#define HV_MSR_HYPERCALL             0x40000001u
#define HV_MSR_VP_INDEX              0x40000002u
#define HV_MSR_RESET                 0x40000003u
#define HV_MSR_VP_RUNTIME            0x40000010u
#define HV_MSR_TIME_REF_COUNT        0x40000020u
#define HV_MSR_REFERENCE_TSC         0x40000021u
#define HV_MSR_TSC_FREQUENCY         0x40000022u
#define HV_MSR_APIC_FREQUENCY        0x40000023u
#define HV_MSR_VP_ASSIST_PAGE        0x40000073u
#define HV_MSR_SCONTROL              0x40000080u
#define HV_MSR_SVERSION              0x40000081u
#define HV_MSR_SIEFP                 0x40000082u
#define HV_MSR_SIMP                  0x40000083u
#define HV_MSR_EOM                   0x40000084u
#define HV_MSR_SINT0                 0x40000090u
#define HV_MSR_SINT15                0x4000009Fu
#define HV_MSR_STIMER0_CONFIG        0x400000B0u
#define HV_MSR_STIMER3_COUNT         0x400000B7u
#define HV_MSR_GUEST_IDLE            0x400000F0u
#define HV_MSR_CRASH_P0              0x40000100u
#define HV_MSR_CRASH_P4              0x40000104u
#define HV_MSR_CRASH_CTL             0x40000105u
#define HV_MSR_TSC_INVARIANT_CONTROL 0x40000118u

#define HV_PAGE_MSR_ENABLE      UINT64_C(1)
#define HV_PAGE_MSR_ADDRESS     (~UINT64_C(0xFFF))
#define HV_HYPERCALL_MSR_LOCKED UINT64_C(2)
#define HV_SCONTROL_ENABLE      UINT64_C(1)
#define HV_SYNIC_VERSION        1
#define HV_CRASH_CTL_NOTIFY     (UINT64_C(1) << 63)
#define HV_CRASH_CTL_MESSAGE    (UINT64_C(1) << 62)
#define HV_CRASH_PARAMS         5

/* ---- SynIC (TLFS 11) ---- */

#define HV_SINT_COUNT         16
#define HV_SINT_VECTOR_MASK   UINT64_C(0xFF)
#define HV_SINT_MASKED        (UINT64_C(1) << 16)
#define HV_SINT_AUTO_EOI      (UINT64_C(1) << 17)
#define HV_SINT_POLLING       (UINT64_C(1) << 18)
#define HV_SINT_AT_RESET      HV_SINT_MASKED
#define HV_FIRST_VALID_VECTOR 16

#define HV_MESSAGE_PAYLOAD_MAX  240
#define HV_MESSAGE_FLAG_PENDING 0x1
#define HV_MESSAGE_NONE         0
#define HV_MESSAGE_TIMER        0x80000010u
#define HV_MESSAGE_TYPE_HV      0x80000000u /* types of the hypervisor itself */

struct hv_spec_message {
	uint32_t type; /* 0: the slot is free */
	uint8_t payload_size;
	uint8_t flags;
	uint16_t reserved;
	uint64_t sender;
	uint8_t payload[HV_MESSAGE_PAYLOAD_MAX];
};
_Static_assert(sizeof(struct hv_spec_message) == 256, "message slot");
_Static_assert(offsetof(struct hv_spec_message, flags) == 5, "message flags");
_Static_assert(offsetof(struct hv_spec_message, payload) == 16, "message payload");

struct hv_spec_timer_payload {
	uint32_t timer_index;
	uint32_t reserved;
	uint64_t expiration_time;
	uint64_t delivery_time;
};
_Static_assert(sizeof(struct hv_spec_timer_payload) == 24, "timer message");

#define HV_EVENT_FLAGS_BYTES 256 /* of one SINT in the event flags page */
#define HV_EVENT_FLAGS_COUNT 2048

/* ---- synthetic timers (TLFS 12.3) ---- */

#define HV_STIMER_COUNT          4
#define HV_STIMER_ENABLE         UINT64_C(0x1)
#define HV_STIMER_PERIODIC       UINT64_C(0x2)
#define HV_STIMER_LAZY           UINT64_C(0x4)
#define HV_STIMER_AUTO_ENABLE    UINT64_C(0x8)
#define HV_STIMER_DIRECT         UINT64_C(0x1000)
#define HV_STIMER_VECTOR(config) (((config) >> 4) & 0xFF)
#define HV_STIMER_SINT(config)   (((config) >> 16) & 0xF)
#define HV_STIMER_CONFIG_DEFINED UINT64_C(0xF1FFF)

/* ---- reference TSC page (TLFS 12.7): time = ((tsc * scale) >> 64) + offset, in 100 ns ---- */

#define HV_TIME_HZ UINT64_C(10000000)

struct hv_spec_tsc_page {
	uint32_t sequence; /* 0: not valid, read the counter MSR */
	uint32_t reserved;
	uint64_t scale;
	int64_t offset;
};
_Static_assert(sizeof(struct hv_spec_tsc_page) == 24, "reference TSC page");

/* ---- hypercalls (TLFS 3) ---- */

#define HV_CALL_NOTIFY_LONG_SPIN_WAIT 0x0008
#define HV_CALL_SEND_CLUSTER_IPI      0x000B
#define HV_CALL_POST_MESSAGE          0x005C
#define HV_CALL_SIGNAL_EVENT          0x005D
#define HV_CALL_EXT_CAPABILITIES      0x8001 /* extended: TLFS 3.13 */
#define HV_CALL_EXT_MEMORY_HEAT_HINT  0x8003

#define HV_CONTROL_CODE(control) ((uint16_t)(control))
#define HV_CONTROL_FAST          (UINT64_C(1) << 16)
#define HV_CONTROL_VAR_HEADER(c) (((c) >> 17) & 0x3FF)
#define HV_CONTROL_REP_COUNT(c)  (((c) >> 32) & 0xFFF)
#define HV_CONTROL_REP_START(c)  (((c) >> 48) & 0xFFF)
/* 30:27, 31 (nested), 47:44, 63:60 */
#define HV_CONTROL_RESERVED UINT64_C(0xF000F000F8000000)

#define HV_RESULT_REPS(count) ((uint64_t)(count) << 32)

enum hv_status {
	HV_STATUS_SUCCESS = 0,
	HV_STATUS_INVALID_HYPERCALL_CODE = 2,
	HV_STATUS_INVALID_HYPERCALL_INPUT = 3,
	HV_STATUS_INVALID_ALIGNMENT = 4,
	HV_STATUS_INVALID_PARAMETER = 5,
	HV_STATUS_ACCESS_DENIED = 6,
	HV_STATUS_OPERATION_DENIED = 8,
	HV_STATUS_INSUFFICIENT_MEMORY = 11,
	HV_STATUS_INVALID_PORT_ID = 17,
	HV_STATUS_INVALID_CONNECTION_ID = 18,
	HV_STATUS_INSUFFICIENT_BUFFERS = 19,
};

struct hv_spec_post_message {
	uint32_t connection_id;
	uint32_t reserved;
	uint32_t message_type;
	uint32_t payload_size;
	uint8_t payload[HV_MESSAGE_PAYLOAD_MAX];
};
_Static_assert(offsetof(struct hv_spec_post_message, payload) == 16, "HvPostMessage input");

struct hv_spec_signal_event {
	uint32_t connection_id;
	uint16_t flag_number;
	uint16_t reserved;
};
_Static_assert(sizeof(struct hv_spec_signal_event) == 8, "HvSignalEvent input");

/* HvCallSendSyntheticClusterIpi */
struct hv_spec_cluster_ipi {
	uint32_t vector;
	uint8_t target_vtl;
	uint8_t reserved[3];
	uint64_t processors; /* bit of the VP index */
};
_Static_assert(sizeof(struct hv_spec_cluster_ipi) == 16, "HvCallSendSyntheticClusterIpi input");

/* HvExtCallQueryCapabilities' answer. */
#define HV_EXT_COLD_DISCARD_HINT (UINT64_C(1) << 8)

/* HvExtCallMemoryHeatHint: a header, then one range for each repetition. */
struct hv_spec_memory_hint {
	uint64_t type; /* 1:0 */
};
#define HV_MEMORY_HINT_COLD_DISCARD 2
/* A range: additional pages in 10:0, large page in 11; then the page's number from bit 12 on, or
 * for large pages their size in 12 (0: 2 MiB, 1: 1 GiB) and the number of a 2 MiB page from bit 21
 * on. */
#define HV_GPA_RANGE_PAGES(range) (((range)&0x7FF) + 1)
#define HV_GPA_RANGE_LARGE        (UINT64_C(1) << 11)
#define HV_GPA_RANGE_GIB          (UINT64_C(1) << 12)

#endif
