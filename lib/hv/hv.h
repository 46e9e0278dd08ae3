/*
 * The hypervisor as a guest sees it: CPUID leaves, synthetic MSRs, hypercalls, the SynIC (messages
 * and event flags), synthetic timers and reference time (TLFS). Independent of the partition's
 * backend. The only user of part/part.h among the enlightenments: what lies above asks here.
 *
 * Life cycle: hv_cpuid gives the leaves for part_new; hv_new; hv_set_part before part_start;
 * hv_set_ports (by the VMBus server); from then on the partition's callbacks are forwarded to
 * hv_msr_read, hv_msr_write, hv_hypercall and hv_vp_reset. hv_reset on a VM reset, while the VPs
 * are paused. hv_free after part_stop, on the loop's thread.
 *
 * Threads: hv_new, hv_set_*, hv_reset and hv_free belong to the machine's thread (the loop's, or
 * before it runs). Everything else may be called from any thread. Locks: one per VP (its SynIC and
 * timers) and one for the partition-wide MSRs; never both at once, and neither is held while
 * part_interrupt or a callback runs.
 */
#ifndef HV_HV_H
#define HV_HV_H

#include "base/error.h"
#include "base/loop.h"
#include "mem/mem.h"
#include "part/part.h"
#include "spec/hv.h"

#include <stdbool.h>
#include <stdint.h>

struct hv;

/* ---- CPUID: before there is a partition ---- */

/* What a guest is offered beyond what it can't do without. */
struct hv_features {
	bool reference_tsc;    /* TSC is constant and equal on all VPs: the reference TSC page */
	bool tsc_invariant;    /* the guest may keep the raw TSC as its clock */
	bool memory_hints;     /* the guest may name pages that it doesn't use: mem_release */
	bool synthetic_timers; /* costs an exit per arming: worse than a local APIC timer in KVM */
	bool overcommitted;    /* VPs share processors: one that waits for another lets go of its
				* own (guest idle), and interprocessor interrupts come by hypercall */
};

#define HV_CPUID_COUNT 7

/* The hypervisor's leaves. Leaf 1, ECX bit 31 (a hypervisor is present) is the partition's. */
void hv_cpuid(unsigned vp_count, const struct hv_features *features,
	      struct part_cpuid ret[static HV_CPUID_COUNT]);

/* ---- life cycle ---- */

#define HV_CRASH_TEXT_MAX 4096

struct hv_crash {
	uint64_t params[HV_CRASH_PARAMS]; /* Linux: error, guest OS id, RIP, RAX, RSP */
	const char *text;                 /* the guest's own message, NUL-terminated; or NULL */
	size_t text_len;
};

/* What a guest asks of the machine. On the VP's thread; the VP waits for the return. */
struct hv_events {
	void *user;
	void (*reset)(void *user, unsigned vp);                               /* may be NULL */
	void (*crash)(void *user, unsigned vp, const struct hv_crash *crash); /* may be NULL */
};

struct hv_config {
	struct loop *loop; /* borrowed: synthetic timers */
	struct mem *mem;   /* borrowed */
	unsigned vp_count;
	struct hv_features features; /* as given to hv_cpuid */
	struct hv_events events;
};

int hv_new(const struct hv_config *config, struct hv **ret, struct error *err);
/* Borrows part; reference time starts at 0 here. */
void hv_set_part(struct hv *hv, struct part *part);
void hv_free(struct hv *hv); /* NULL allowed */
/* All synthetic state to its values at power-on; queued messages are dropped. Time runs on. */
void hv_reset(struct hv *hv);

/* ---- state: while the VPs stand still ---- */

/* With the partition's TSC as it is now; messages that wait are kept. */
void hv_save(struct hv *hv, struct state_out *out);
/* After hv_set_part and part_set_tsc, with RAM restored: reference time goes on where it was. The
 * hypercall page and the TSC page become those of this host. */
int hv_restore(struct hv *hv, struct state_in *in, struct error *err);
/* What the saved guest was offered: for hv_cpuid and hv_new. */
int hv_saved_features(struct state_in *in, struct hv_features *ret, struct error *err);

/* ---- from the partition (struct part_host has the meaning of each) ---- */

bool hv_msr_read(struct hv *hv, unsigned vp, uint32_t msr, uint64_t *ret);
bool hv_msr_write(struct hv *hv, unsigned vp, uint32_t msr, uint64_t value);
void hv_hypercall(struct hv *hv, unsigned vp, struct part_hypercall *call);
void hv_vp_reset(struct hv *hv, unsigned vp);

/* ---- towards VMBus ---- */

/* The guest's HvPostMessage and HvSignalEvent, on the calling VP's thread: be quick. */
struct hv_ports {
	void *user;
	/* payload is a private copy of len <= HV_MESSAGE_PAYLOAD_MAX bytes. */
	enum hv_status (*post_message)(void *user, unsigned vp, uint32_t connection_id,
				       uint32_t type, const void *payload, size_t len);
	enum hv_status (*signal_event)(void *user, unsigned vp, uint32_t connection_id,
				       uint16_t flag);
};

/* Copied. NULL: none; calls in progress may still be running afterwards unless VPs are paused. */
void hv_set_ports(struct hv *hv, const struct hv_ports *ports);

unsigned hv_vp_count(const struct hv *hv);

/* Messages that may wait for one SINT's slot. */
#define HV_MESSAGE_QUEUE_MAX 8192

/* Queues a message for (vp, sint), in order and without loss; the guest takes them one by one.
 * -ERR_LIMIT: HV_MESSAGE_QUEUE_MAX are waiting. -ERR_INVALID: no such VP or SINT, or too long. */
int hv_post_message(struct hv *hv, unsigned vp, unsigned sint, uint32_t type, const void *payload,
		    size_t len);
/* How many messages wait for the slot. */
unsigned hv_message_backlog(struct hv *hv, unsigned vp, unsigned sint);
/* Drops what waits (not what is in the slot already), synthetic timers' messages excepted. */
void hv_message_flush(struct hv *hv, unsigned vp, unsigned sint);

/* Sets the event flag and interrupts if it was clear. False: the guest can't take it now. */
bool hv_signal_event(struct hv *hv, unsigned vp, unsigned sint, unsigned flag);

/* Reference time in 100 ns, the same as the guest's MSR and TSC page give. */
uint64_t hv_reference_time(const struct hv *hv);

#endif
