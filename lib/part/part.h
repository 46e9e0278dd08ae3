/*
 * The partition: memory and virtual processors (VPs) of one VM, behind one interface with two
 * backends. PART_KVM uses /dev/kvm; PART_SOFT is Oyako's own software CPU (lib/part/softcpu).
 * Nothing above this header knows which one runs.
 *
 * The partition contains per VP: the CPU, its local APIC (xAPIC and x2APIC, TSC deadline) and the
 * architectural MSRs, and those of Hyper-V's that are the APIC's: EOI, ICR and TPR (0x40000070 to
 * 0x40000072). It does not contain: IOAPIC, PIC, PIT, Hyper-V's other synthetic MSRs and CPUID
 * leaves: those are the host's (struct part_host), in user space on both backends.
 *
 * Life cycle: part_new, part_vp_set_state for each VP that must not start at the reset vector,
 * part_start (a thread per VP; VP 0 runs, the others wait for INIT/SIPI), then any number of
 * part_pause/part_resume, part_stop, part_free. part_reset between part_pause and part_resume.
 *
 * Threads: the host callbacks run on the calling VP's thread, several at a time. They may call
 * part_interrupt, part_msi, part_nmi, part_extint_set, part_vp_wake, part_time_* from any thread,
 * but none that stop VPs (pause, stop, reset, get/set_state): post those to the worker's loop.
 */
#ifndef PART_PART_H
#define PART_PART_H

#include "base/error.h"
#include "mem/mem.h"
#include "state/state.h"

#include <stdbool.h>
#include <stdint.h>

#define PART_MAX_VPS 64

struct part;

/* PART_SOFT_INTERPRETER: the software CPU without its translator; PART_SOFT_LOCKSTEP: both do the
 * same, and a difference is fatal. */
enum part_backend { PART_AUTO, PART_KVM, PART_SOFT, PART_SOFT_INTERPRETER, PART_SOFT_LOCKSTEP };

/* What PART_AUTO would take on this host, and in reason (may be NULL) a sentence why. kvm_fd: as in
 * struct part_config. */
enum part_backend part_backend_detect(int kvm_fd, char *reason, size_t reason_size);
const char *part_backend_name(enum part_backend backend); /* as -Backend has them */

/* 64-bit and 32-bit callers: registers as the hypercall convention names them (TLFS section 3). */
struct part_hypercall {
	bool long_mode;
	uint64_t control; /* RCX, or EDX:EAX  */
	uint64_t input;   /* RDX, or EBX:ECX  */
	uint64_t output;  /* R8,  or EDI:ESI  */
	uint64_t result;  /* set by the host; goes to RAX, or EDX:EAX */
};

/* The services that a partition needs from the layers above it. Every slot must be set. */
struct part_host {
	void *user;
	/* size is 1, 2 or 4; value is zero-extended. An unclaimed read gives all ones. */
	uint32_t (*pio_read)(void *user, unsigned vp, uint16_t port, unsigned size);
	void (*pio_write)(void *user, unsigned vp, uint16_t port, unsigned size, uint32_t value);
	/* Accesses to GPAs that are not RAM. size is 1, 2, 4 or 8, and does not cross 8 bytes. */
	uint64_t (*mmio_read)(void *user, unsigned vp, uint64_t gpa, unsigned size);
	void (*mmio_write)(void *user, unsigned vp, uint64_t gpa, unsigned size, uint64_t value);
	/* MSRs 0x40000000 to 0x400010FF only, but the APIC's. False: the guest gets #GP(0). */
	bool (*msr_read)(void *user, unsigned vp, uint32_t msr, uint64_t *ret);
	bool (*msr_write)(void *user, unsigned vp, uint32_t msr, uint64_t value);
	/* The hypercall page was called (CPL 0 is checked). */
	void (*hypercall)(void *user, unsigned vp, struct part_hypercall *call);
	/* A level-triggered vector got its EOI: for the IOAPIC's remote IRR. */
	void (*eoi)(void *user, uint8_t vector);
	/* Interrupt acknowledge cycle of the PIC: the vector, or -1 if spurious. VP 0 only. */
	int (*extint_ack)(void *user);
	/* Triple fault: the VP waits; the host is expected to reset the VM. */
	void (*triple_fault)(void *user, unsigned vp);
	/* The VP was reset by INIT or part_reset: per-VP synthetic state goes to its reset values.
	 */
	void (*vp_reset)(void *user, unsigned vp);
	/* The backend can't go on (text says why): the VP waits; the VM must be turned off. */
	void (*fatal)(void *user, unsigned vp, const char *text);
};

/* One CPUID leaf that the host adds (0x40000000 and up) or, exactly matched, overrides. */
struct part_cpuid {
	uint32_t leaf, subleaf; /* subleaf is ignored for leaves >= 0x40000000 */
	uint32_t eax, ebx, ecx, edx;
};

struct part_config {
	enum part_backend backend;      /* PART_AUTO allowed */
	struct mem *mem;                /* borrowed */
	unsigned vp_count;              /* 1..PART_MAX_VPS; APIC id = VP index */
	struct part_host host;          /* copied */
	const struct part_cpuid *cpuid; /* the hypervisor leaves; copied */
	unsigned cpuid_count;
	/* PART_SOFT: for decoded and translated code of one VP, with tables; 0: 64 MiB, less when
	 * many VPs share it. */
	size_t code_cache_bytes;
	bool compatible; /* the profile without what only some hosts' processors can do */
	int kvm_fd;      /* an open /dev/kvm, borrowed until part_free; 0 or less: opened here */
	/* Of a saved VM, borrowed for the call: the guest goes on seeing that processor and those
	 * rates. part_new refuses what this host can't give it. NULL: a new VM. */
	const struct part_state *saved;
};

int part_new(const struct part_config *config, struct part **ret, struct error *err);
void part_free(struct part *part); /* stops first; NULL allowed */
enum part_backend part_backend(const struct part *part);
int part_start(struct part *part, struct error *err);
void part_pause(struct part *part); /* returns when no VP executes guest code or a callback */
void part_resume(struct part *part);
void part_stop(struct part *part);
/* What is RAM has changed (mem_grow, mem_clear). Only while stopped or paused. */
int part_memory_changed(struct part *part, struct error *err);
/* Device memory that the guest shall reach without exits; one place, the last one counts; len 0:
 * none. Only while stopped or paused. ERR_UNSUPPORTED: this backend can't, and accesses go on as
 * MMIO. */
int part_map_device(struct part *part, uint64_t gpa, void *host, uint64_t len, struct error *err);
/* All VPs to their power-on state (VP 0 at the reset vector), APICs too. Only while paused. */
void part_reset(struct part *part);
/* New, paused or stopped: no VP runs. */
bool part_stands(const struct part *part);

/* ---- VP state, in the processor's own terms; only while stopped or paused ---- */

struct part_segment {
	uint64_t base;
	uint32_t limit; /* in bytes, already scaled */
	uint16_t selector;
	uint16_t attributes; /* descriptor bits 40..55: type, S, DPL, P, AVL, L, D/B, G in 0..15 */
};

enum part_gpr { PART_RAX, PART_RCX, PART_RDX, PART_RBX, PART_RSP, PART_RBP, PART_RSI, PART_RDI };
enum part_seg { PART_ES, PART_CS, PART_SS, PART_DS, PART_FS, PART_GS, PART_LDTR, PART_TR };

struct part_vp_state {
	uint64_t gpr[16]; /* in encoding order: enum part_gpr, then R8..R15 */
	uint64_t rip, rflags;
	struct part_segment seg[8]; /* enum part_seg */
	uint64_t gdt_base, idt_base;
	uint16_t gdt_limit, idt_limit;
	uint64_t cr0, cr2, cr3, cr4, cr8, efer;
	uint64_t mtrr_def_type; /* IA32_MTRR_DEF_TYPE; guests copy it to the other VPs */
	bool halted, wait_for_sipi;
};

void part_vp_get_state(struct part *part, unsigned vp, struct part_vp_state *ret);
void part_vp_set_state(struct part *part, unsigned vp, const struct part_vp_state *state);
/* The state after power-on of a bootstrap processor, as a start for set_state. */
void part_vp_state_at_reset(struct part_vp_state *ret);

/* ---- all that a guest can notice of a VP and the partition: saved on one backend, it goes on on
 * the other. Only while stopped or paused. ---- */

struct part_fpu_state { /* the FXSAVE image without its reserved parts (SDM volume 1, 10.5.1) */
	uint16_t fcw, fsw, fop;
	uint8_t ftw, reserved; /* ftw: abridged */
	uint32_t mxcsr, reserved2;
	uint64_t fip, fdp;
	uint8_t st[8][16];
	uint8_t xmm[16][16];
	/* XCR0 (0: the VP has no XSAVE), and the upper halves of the YMM registers. */
	uint64_t xcr0;
	uint8_t ymm_high[16][16];
};

struct part_apic_state {    /* SDM volume 3, chapter "Advanced Programmable Interrupt Controller" */
	uint64_t apic_base; /* MSR 0x1b */
	uint64_t icr;
	uint64_t timer_left; /* timer input ticks (apic_hz) to the next expiry, if armed by count */
	uint64_t tsc_deadline; /* MSR 0x6e0; 0 = disarmed */
	uint32_t id;           /* xAPIC id, or the x2APIC id in that mode */
	uint32_t tpr, ldr, dfr, svr, esr, esr_latch;
	uint32_t irr[8], isr[8], tmr[8], auto_eoi[8]; /* bit v & 31 of word v >> 5 */
	uint32_t lvt[6];                      /* timer, thermal, performance, LINT0, LINT1, error */
	uint32_t timer_initial, timer_divide; /* registers 0x380, 0x3e0 */
	bool timer_armed;                     /* by count */
	bool nmi_pending, init_pending, sipi_pending;
	bool extint_level;   /* LINT0 pin, VP 0 */
	bool extint_message; /* an ExtINT arrived as a message */
	uint8_t sipi_vector;
	uint8_t reserved[5]; /* 0 */
};

/* An event that was taken, but is not delivered through the IDT yet. RIP is what it interrupted. */
enum part_event_kind {
	PART_EVENT_NONE,
	PART_EVENT_EXCEPTION,
	PART_EVENT_INTERRUPT,
	PART_EVENT_NMI
};

#define PART_SHADOW_STI 1u /* interrupts are held off for one instruction, after STI */
#define PART_SHADOW_SS  2u /* after a load of SS: debug traps, too */

struct part_vp_context {
	struct part_vp_state regs;
	uint64_t dr[4], dr6, dr7;
	struct part_fpu_state fpu;
	/* MSRs of these names */
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, misc_enable, spec_ctrl, hwcr;
	uint64_t mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
	int64_t tsc_adjust; /* this VP's TSC minus the partition's */
	uint8_t shadow;     /* PART_SHADOW_* */
	bool nmi_blocked;
	uint8_t event_kind, event_vector; /* enum part_event_kind */
	bool event_has_error;
	uint8_t reserved[3];
	uint32_t event_error, reserved2;
	struct part_apic_state apic;
};

#define PART_PROFILE_WORDS 9

struct part_state {
	uint64_t tsc, tsc_hz, apic_hz; /* tsc: the partition's, that of a VP with adjustment 0 */
	uint8_t vendor[16], brand[56]; /* the processor that the guest sees, zero-padded */
	uint32_t signature;
	uint32_t features[PART_PROFILE_WORDS]; /* enum profile_word */
	uint32_t physical_bits, vp_count;
};

extern const struct state_desc part_vp_desc; /* of struct part_vp_context */
extern const struct state_desc part_desc;    /* of struct part_state */

void part_get_state(const struct part *part, struct part_state *ret);
/* The partition's TSC goes on from here. */
void part_set_tsc(struct part *part, uint64_t tsc);
void part_vp_get_context(struct part *part, unsigned vp, struct part_vp_context *ret);
/* What part_vp_desc accepts. The partition's TSC was set before; RAM has its contents. */
int part_vp_set_context(struct part *part, unsigned vp, const struct part_vp_context *context,
			struct error *err);

/* ---- interrupts ---- */

/* Edge-triggered fixed interrupt to one VP's APIC. auto_eoi: the in-service bit is not set at
 * delivery, so the guest writes no EOI (TLFS 11.8.1). Works on both backends, or the backend's
 * header says how it differs. */
void part_interrupt(struct part *part, unsigned vp, uint8_t vector, bool auto_eoi);
/* An MSI: address 0xFEExxxxx and data as on the bus (SDM volume 3, 10.11). IOAPIC and devices. */
void part_msi(struct part *part, uint64_t address, uint32_t data);
/* Tells the partition how an IOAPIC pin is routed, so that EOIs of its level-triggered vector are
 * reported. masked: no route. */
void part_ioapic_route(struct part *part, unsigned pin, uint64_t address, uint32_t data,
		       bool masked);
void part_nmi(struct part *part, unsigned vp);
/* Level of the PIC's INTR output, wired to LINT0 of VP 0. */
void part_extint_set(struct part *part, bool level);

/* ---- time ---- */

/* The guest's TSC rate, equal on all VPs and constant. */
uint64_t part_tsc_hz(const struct part *part);
/* The partition's TSC now: as rdtsc reads it on a VP whose TSC the guest has not set. Goes on while
 * paused, and does not go back while the VPs run, whatever the guest writes. */
uint64_t part_tsc_now(const struct part *part);
/* Rate of the local APIC timer at divide by 1. */
uint64_t part_apic_hz(const struct part *part);
/* CPU time that VP's thread used. */
uint64_t part_vp_runtime_ns(const struct part *part, unsigned vp);

/* ---- the hypercall page ---- */

/* Code for the page that the guest calls; at most 64 bytes, starts with ENDBR64, ends with RET.
 * The same code works in 32- and 64-bit mode. Returns its length. */
unsigned part_hypercall_code(const struct part *part, uint8_t ret[static 64]);

/* ---- dirty log: adds pages that VPs wrote since the last call to mem's dirty log ---- */
void part_dirty_log_collect(struct part *part);

#endif
