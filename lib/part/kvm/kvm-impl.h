/*
 * Inside the KVM backend: kvm.c makes and frees the partition, vp.c runs its threads, state.c moves
 * registers, context.c all the rest of a VP that is saved, irq.c interrupts, large.c large pages.
 *
 * Threads: a VP's descriptor and run page belong to its thread while it runs (other threads' ioctls
 * would wait for KVM_RUN to return), and to the caller of part.h while no VP runs. What other
 * threads want of a running VP is left in an atomic of struct kvm_vp, then kvm_vp_kick().
 */
#ifndef PART_KVM_KVM_IMPL_H
#define PART_KVM_KVM_IMPL_H

#include "part/kvm/kvm.h"
#include "part/part-impl.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

#define KVM_IOAPIC_PINS 24
#define KVM_MAX_MSRS    512

/* OUT to this port by the hypercall page leaves the guest; nothing else is there. Not 0x7E: KVM
 * advances RIP before it reports that one. */
#define KVM_HYPERCALL_PORT 0xE7

/* What KVM calls hertz of its local APIC timer: one nanosecond per tick at divide by 1. */
#define KVM_APIC_HZ UINT64_C(1000000000)
/* Another rate, where the kernel can (Linux 6.11): nanoseconds per tick. */
#define KVM_APIC_BUS_CYCLES_CAP 237

/* All that reset puts back. */
struct kvm_vp_snapshot {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_fpu fpu;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	struct kvm_msrs *msrs; /* those that can be written back */
};

struct kvm_part;

struct kvm_vp {
	struct kvm_part *kvm;
	unsigned index;
	int fd; /* -1: none */
	struct kvm_run *run;
	pthread_t thread;
	bool has_thread;
	bool io_pending; /* the last exit is completed by the next KVM_RUN */
	bool parked;     /* waits for reset or stop; under kvm->lock */
	atomic_bool nmi;
	atomic_uint_fast64_t runtime_ns; /* of a thread that ended */
	/* Vectors sent with automatic EOI that may be in service (irq.c). */
	atomic_uint_fast64_t auto_eoi[4];
	timer_t auto_eoi_timer;
	bool has_auto_eoi_timer;
	uint32_t auto_eoi_wait_ns;
	struct kvm_vp_snapshot at_reset;
};

struct kvm_part {
	struct part part;
	int kvm_fd, vm_fd;
	bool owns_kvm_fd;
	size_t run_size;
	bool has_sync_regs;
	uint64_t tsc_hz, apic_hz;
	uint64_t host_khz, scaled_khz;   /* scaled_khz: the processor scales the TSC; else 0 */
	atomic_uint_fast64_t tsc_offset; /* guest TSC - kvm_scaled_tsc() */

	pthread_t large_thread;
	bool has_large_thread;

	pthread_mutex_t lock;   /* of the following */
	pthread_cond_t changed; /* clock_wait() */
	unsigned active;        /* VP threads outside their waiting place */
	bool pausing, stopping;
	atomic_bool attention; /* pausing || stopping, for a look without the lock */

	atomic_bool extint;

	pthread_mutex_t route_lock;
	struct {
		bool used;
		uint64_t address;
		uint32_t data;
	} route[KVM_IOAPIC_PINS];

	uint64_t slot_bytes[2]; /* of RAM that KVM knows */
	bool device_mapped;
	bool dirty_log; /* KVM logs writes */
	uint64_t *dirty_bitmap;

	struct kvm_vp vp[PART_MAX_VPS];
};

static inline struct kvm_part *kvm_of(const struct part *part)
{
	return (struct kvm_part *)part;
}

/* ---- kvm.c ---- */

/* ioctl that is repeated while a signal interrupts it. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
bool kvm_has(const struct kvm_part *kvm, int cap);

/* ---- vp.c ---- */

int kvm_vps_start(struct part *part, struct error *err);
void kvm_vps_pause(struct part *part);
void kvm_vps_resume(struct part *part);
void kvm_vps_stop(struct part *part);
/* Makes a VP that is in KVM_RUN, or about to, look around. */
void kvm_vp_kick(struct kvm_vp *vp);
/* The process's signals go to other threads; the kick's comes where kicked. Returns an errno. */
int kvm_thread_create(pthread_t *ret, void *(*run)(void *), void *arg, const char *name,
		      bool kicked);
/* The kick's signal must not end the process. */
void kvm_install_kick_handler(void);
/* host.fatal with what the format says; the VP waits from then on. */
void kvm_vp_fatal(struct kvm_vp *vp, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint64_t kvm_vp_runtime_ns(const struct part *part, unsigned vp);
unsigned kvm_hypercall_code(const struct part *part, uint8_t ret[static 64]);
/* The hypercall page's exit (vp.c found it by its port). */
void kvm_vp_hypercall(struct kvm_vp *vp);

/* ---- state.c ---- */

/* 0, or -1 if KVM has no such MSR or refuses the value. */
int kvm_get_msr(struct kvm_vp *vp, uint32_t index, uint64_t *ret);
int kvm_set_msr(struct kvm_vp *vp, uint32_t index, uint64_t value);
/* Takes the snapshot that reset puts back. */
int kvm_vp_snapshot(struct kvm_vp *vp, struct error *err);
/* XCR0 and the upper halves of the YMM registers as after a reset; -1 and errno: failed. */
int kvm_vp_reset_avx(struct kvm_vp *vp);
void kvm_reset(struct part *part);
void kvm_vp_get_state(struct part *part, unsigned vp, struct part_vp_state *ret);
void kvm_vp_set_state(struct part *part, unsigned vp, const struct part_vp_state *state);
void kvm_vp_get_context(struct part *part, unsigned vp, struct part_vp_context *ret);
int kvm_vp_set_context(struct part *part, unsigned vp, const struct part_vp_context *context,
		       struct error *err);
void kvm_set_tsc(struct part *part, uint64_t tsc);
/* Reads anew how far the guest's TSC is from the host's. */
void kvm_tsc_offset_refresh(struct kvm_part *kvm);
/* saved_hz: of a restored VM, or 0. */
int kvm_tsc_init(struct kvm_part *kvm, uint64_t saved_hz, struct error *err);
/* The host's TSC at the guest's rate. */
uint64_t kvm_scaled_tsc(const struct kvm_part *kvm);
/* Offset of a VP's TSC from the host's; false where the kernel does not tell. */
bool kvm_tsc_offset_get(struct kvm_vp *vp, uint64_t *ret);
bool kvm_tsc_offset_set(struct kvm_vp *vp, uint64_t offset);
uint64_t kvm_tsc_now(const struct part *part);

/* ---- irq.c ---- */

int kvm_irq_init(struct kvm_part *kvm, struct error *err);
void kvm_interrupt(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi);
void kvm_msi(struct part *part, uint64_t address, uint32_t data);
void kvm_ioapic_route(struct part *part, unsigned pin, uint64_t address, uint32_t data,
		      bool masked);
void kvm_nmi(struct part *part, unsigned vp);
void kvm_extint_set(struct part *part, bool level);
/* Before each KVM_RUN, on the VP's thread: hands over the PIC's interrupt and NMIs. */
void kvm_vp_deliver(struct kvm_vp *vp);
/* Forgets what is under way to the VP. */
void kvm_vp_irq_reset(struct kvm_vp *vp);
/* On the VP's thread. */
void kvm_vp_auto_eoi_begin(struct kvm_vp *vp);
void kvm_vp_auto_eoi_end(struct kvm_vp *vp);

/* ---- large.c ---- */

int kvm_large_start(struct kvm_part *kvm, struct error *err);
/* Once kvm->stopping is set. */
void kvm_large_stop(struct kvm_part *kvm);

#endif
