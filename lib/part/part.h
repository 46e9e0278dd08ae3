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

#include <stdbool.h>
#include <stdint.h>

#define PART_MAX_VPS 64

struct part;

/* PART_SOFT_INTERPRETER: the software CPU without its translator. */
enum part_backend { PART_AUTO, PART_KVM, PART_SOFT, PART_SOFT_INTERPRETER };

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
	int kvm_fd; /* an open /dev/kvm, borrowed until part_free; 0 or less: opened here */
};

int part_new(const struct part_config *config, struct part **ret, struct error *err);
void part_free(struct part *part); /* stops first; NULL allowed */
enum part_backend part_backend(const struct part *part);
int part_start(struct part *part, struct error *err);
void part_pause(struct part *part); /* returns when no VP executes guest code or a callback */
void part_resume(struct part *part);
void part_stop(struct part *part);
/* All VPs to their power-on state (VP 0 at the reset vector), APICs too. Only while paused. */
void part_reset(struct part *part);

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
/* The guest's TSC now (that of VP 0, as rdtsc would read it; continues while paused). */
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
