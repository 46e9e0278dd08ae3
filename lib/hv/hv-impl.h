/* Private to lib/hv: the state of the hypervisor interface. */
#ifndef HV_HV_IMPL_H
#define HV_HV_IMPL_H

#include "hv/hv.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct hv_queued_message {
	struct hv_queued_message *next;
	uint32_t type;
	uint8_t len;
	bool embedded; /* part of a timer, not allocated */
	bool queued;
	uint8_t payload[HV_MESSAGE_PAYLOAD_MAX];
};

struct hv_message_queue {
	struct hv_queued_message *head, **tail;
	unsigned count;
};

struct hv_stimer {
	uint64_t config, count;
	uint64_t expiry;                  /* reference time; 0: not running */
	struct hv_queued_message message; /* in message mode */
};

/* A page that the guest registered through an MSR: the value, and the page as host memory. */
struct hv_page {
	uint64_t msr;
	uint8_t *host; /* NULL: disabled */
	uint64_t gpa;
};

struct hv_vp {
	struct hv *hv;
	unsigned index;
	struct loop_timer *timer;

	pthread_mutex_t lock; /* all below */
	uint64_t scontrol;
	struct hv_page simp, siefp;
	uint64_t sint[HV_SINT_COUNT];
	struct hv_message_queue queue[HV_SINT_COUNT];
	struct hv_stimer stimer[HV_STIMER_COUNT];
	uint64_t assist_page;
	bool woken; /* since it idled last */
	pthread_cond_t wake;
};

/* Interrupts that were found due under the VP's lock and are raised after it. */
struct hv_due {
	unsigned count;
	struct {
		uint8_t vector;
		bool auto_eoi;
	} irq[HV_SINT_COUNT + HV_STIMER_COUNT];
};

struct hv {
	struct loop *loop;
	struct mem *mem;
	struct part *part;
	struct hv_features features;
	struct hv_events events;
	struct hv_ports ports;
	uint64_t tsc_scale;
	int64_t tsc_offset;

	pthread_mutex_t lock; /* partition-wide MSRs: all below, up to vp */
	uint64_t guest_os_id;
	uint64_t hypercall;
	uint64_t reference_tsc;
	uint32_t tsc_sequence; /* of the TSC page: another one for other values */
	uint64_t tsc_invariant;
	uint64_t crash_param[HV_CRASH_PARAMS];

	unsigned vp_count;
	struct hv_vp vp[];
};

/* time.c */
void hv_time_start(struct hv *hv);
bool hv_reference_tsc_write(struct hv *hv, uint64_t value); /* takes the partition's lock */
/* From now on reference time goes on from there. */
void hv_time_set(struct hv *hv, uint64_t reference_time);

/* msr.c */
bool hv_write_hypercall_page(struct hv *hv, uint64_t gpa);

/* synic.c: the VP's lock is held by the caller, but for hv_due_raise */
void hv_due_raise(struct hv_vp *vp, const struct hv_due *due);
void hv_due_add(struct hv_due *due, uint8_t vector, bool auto_eoi);
void hv_synic_reset(struct hv_vp *vp);
bool hv_synic_read(struct hv_vp *vp, uint32_t msr, uint64_t *ret);
bool hv_synic_write(struct hv_vp *vp, uint32_t msr, uint64_t value, struct hv_due *due);
/* Queues message, which the queue then owns, and puts it into the slot if that is free. */
void hv_synic_queue(struct hv_vp *vp, unsigned sint, struct hv_queued_message *message,
		    struct hv_due *due);

/* For a restore: as the guest's writes, but that nothing follows from them. */
bool hv_synic_set_page(struct hv_vp *vp, struct hv_page *page, uint64_t value);
bool hv_synic_set_sint(struct hv_vp *vp, unsigned sint, uint64_t value);
/* Behind those that wait already; the queue takes message. */
void hv_synic_append(struct hv_vp *vp, unsigned sint, struct hv_queued_message *message);

/* idle.c: the VP's lock is not held */
void hv_idle(struct hv_vp *vp);
void hv_wake(struct hv_vp *vp);

/* stimer.c: likewise */
void hv_stimer_reset(struct hv_vp *vp);
bool hv_stimer_read(struct hv_vp *vp, uint32_t msr, uint64_t *ret);
bool hv_stimer_write(struct hv_vp *vp, uint32_t msr, uint64_t value, struct hv_due *due);
void hv_stimer_fire(void *vp); /* loop callback; takes the lock */
bool hv_stimer_config_valid(uint64_t config);

#endif
