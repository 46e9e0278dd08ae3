/*
 * Registers: part.h's words to KVM's and back, the power-on state, the TSC.
 *
 * KVM has no "reset this processor". What every VP looked like when it was made is kept, all of it,
 * and written back.
 */
#include "part/kvm/kvm-impl.h"

#include "base/macros.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#define MSR_TSC           0x10u
#define MSR_MTRR_DEF_TYPE 0x2FFu

/* ---- MSRs that reset writes back ---- */

/* Those that have a place of their own, that move with time, or that belong to the hypervisor. */
static bool is_ordinary_msr(uint32_t msr)
{
	switch (msr) {
	case MSR_TSC:
	case 0x11: /* KVM's old clock */
	case 0x12:
	case 0x1B:                      /* APIC base: in kvm_sregs */
	case 0x3B:                      /* TSC_ADJUST moves the TSC */
	case 0xC0000080:                /* EFER: in kvm_sregs */
	case 0x480 ... 0x4FF:           /* VMX capabilities and performance counters */
	case 0x40000000 ... 0x400010FF: /* Hyper-V */
	case 0x4B564D00 ... 0x4B564DFF: /* KVM's own */
		return false;
	}
	return true;
}

/* struct kvm_msrs with room for one entry */
union one_msr {
	struct kvm_msrs msrs;
	uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

int kvm_get_msr(struct kvm_vp *vp, uint32_t index, uint64_t *ret)
{
	union one_msr one = { .msrs.nmsrs = 1 };

	one.msrs.entries[0] = (struct kvm_msr_entry){ .index = index };
	if (kvm_ioctl(vp->fd, KVM_GET_MSRS, &one) != 1)
		return -1;
	*ret = one.msrs.entries[0].data;
	return 0;
}

int kvm_set_msr(struct kvm_vp *vp, uint32_t index, uint64_t value)
{
	union one_msr one = { .msrs.nmsrs = 1 };

	one.msrs.entries[0] = (struct kvm_msr_entry){ .index = index, .data = value };
	return kvm_ioctl(vp->fd, KVM_SET_MSRS, &one) == 1 ? 0 : -1;
}

static void add_if_writable(struct kvm_vp *vp, struct kvm_msrs *msrs, uint32_t index)
{
	uint64_t value;

	if (msrs->nmsrs == KVM_MAX_MSRS || !is_ordinary_msr(index) ||
	    kvm_get_msr(vp, index, &value) < 0 || kvm_set_msr(vp, index, value) < 0)
		return;
	msrs->entries[msrs->nmsrs++] = (struct kvm_msr_entry){ .index = index, .data = value };
}

static struct kvm_msrs *new_msrs(void)
{
	return calloc(1, sizeof(struct kvm_msrs) + KVM_MAX_MSRS * sizeof(struct kvm_msr_entry));
}

/* KVM's list, and the memory types, which old kernels leave out of it. */
static int find_msrs(struct kvm_vp *vp, struct error *err)
{
	static const uint32_t memory_types[] = { 0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B,
						 0x26C, 0x26D, 0x26E, 0x26F, 0x277, 0x2FF };
	AUTO_FREE struct kvm_msr_list *list =
	    calloc(1, sizeof(*list) + KVM_MAX_MSRS * sizeof(list->indices[0]));

	vp->at_reset.msrs = new_msrs();
	if (!list || !vp->at_reset.msrs)
		return error_set(err, ERR_NO_MEMORY, "no memory for a list of MSRs");
	list->nmsrs = KVM_MAX_MSRS;
	if (kvm_ioctl(vp->kvm->kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
		return error_set_errno(err, errno, "KVM: asking for its list of MSRs");
	for (uint32_t i = 0; i < list->nmsrs; i++)
		add_if_writable(vp, vp->at_reset.msrs, list->indices[i]);
	for (size_t i = 0; i < ARRAY_SIZE(memory_types); i++)
		add_if_writable(vp, vp->at_reset.msrs, memory_types[i]);
	for (uint32_t msr = 0x200; msr < 0x210; msr++)
		add_if_writable(vp, vp->at_reset.msrs, msr);
	return 0;
}

/* VP 0 found out which; the others have the same ones. */
static int copy_msrs(struct kvm_vp *vp, struct error *err)
{
	const struct kvm_msrs *of_first = vp->kvm->vp[0].at_reset.msrs;

	vp->at_reset.msrs = new_msrs();
	if (!vp->at_reset.msrs)
		return error_set(err, ERR_NO_MEMORY, "no memory for a list of MSRs");
	memcpy(vp->at_reset.msrs, of_first,
	       sizeof(*of_first) + of_first->nmsrs * sizeof(of_first->entries[0]));
	if (kvm_ioctl(vp->fd, KVM_GET_MSRS, vp->at_reset.msrs) != (int)of_first->nmsrs)
		return error_set(err, ERR_INTERNAL, "KVM: processor %u has other MSRs than 0",
				 vp->index);
	return 0;
}

/* ---- reset ---- */

int kvm_vp_snapshot(struct kvm_vp *vp, struct error *err)
{
	struct kvm_vp_snapshot *s = &vp->at_reset;

	if (kvm_ioctl(vp->fd, KVM_GET_REGS, &s->regs) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_SREGS, &s->sregs) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_FPU, &s->fpu) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_DEBUGREGS, &s->debugregs) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_VCPU_EVENTS, &s->events) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_LAPIC, &s->lapic) < 0 ||
	    kvm_ioctl(vp->fd, KVM_GET_MP_STATE, &s->mp_state) < 0)
		return error_set_errno(err, errno, "KVM: reading processor %u", vp->index);
	/* SVM leaves the accessed bit of these two clear. */
	s->sregs.cs.type |= 1;
	s->sregs.ss.type |= 1;
	/* DX holds family, model and stepping (SDM volume 3, 10.1.3). */
	s->regs.rdx = vp->kvm->part.profile.cpu.signature;
	return vp->index == 0 ? find_msrs(vp, err) : copy_msrs(vp, err);
}

/* The APIC base first: it chooses how the APIC's registers are read. */
static void put_back(struct kvm_vp *vp)
{
	struct kvm_vp_snapshot *s = &vp->at_reset;
	bool ok = kvm_ioctl(vp->fd, KVM_SET_SREGS, &s->sregs) == 0 &&
		  kvm_ioctl(vp->fd, KVM_SET_MSRS, s->msrs) == (int)s->msrs->nmsrs &&
		  kvm_ioctl(vp->fd, KVM_SET_LAPIC, &s->lapic) == 0 &&
		  kvm_ioctl(vp->fd, KVM_SET_REGS, &s->regs) == 0 && kvm_vp_reset_avx(vp) == 0 &&
		  kvm_ioctl(vp->fd, KVM_SET_FPU, &s->fpu) == 0 &&
		  kvm_ioctl(vp->fd, KVM_SET_DEBUGREGS, &s->debugregs) == 0 &&
		  kvm_ioctl(vp->fd, KVM_SET_VCPU_EVENTS, &s->events) == 0 &&
		  kvm_ioctl(vp->fd, KVM_SET_MP_STATE, &s->mp_state) == 0;

	if (!ok)
		kvm_vp_fatal(vp, "KVM: resetting processor %u: %s", vp->index, strerror(errno));
}

void kvm_reset(struct part *part)
{
	struct kvm_part *kvm = kvm_of(part);

	for (unsigned i = 0; i < part->vp_count; i++) {
		pthread_mutex_lock(&kvm->lock);
		kvm->vp[i].parked = false;
		pthread_mutex_unlock(&kvm->lock);
		put_back(&kvm->vp[i]);
		kvm_vp_irq_reset(&kvm->vp[i]);
		part->host.vp_reset(part->host.user, i);
	}
}

/* ---- part.h's registers ---- */

/* Attribute bits 8 to 11 belong to the limit. */
static struct part_segment segment_from_kvm(const struct kvm_segment *s)
{
	return (struct part_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.attributes = (uint16_t)((s->type & 15u) | (s->s & 1u) << 4 | (s->dpl & 3u) << 5 |
					 (s->present & 1u && !s->unusable ? 1u << 7 : 0) |
					 (s->avl & 1u) << 12 | (s->l & 1u) << 13 |
					 (s->db & 1u) << 14 | (s->g & 1u) << 15),
	};
}

static struct kvm_segment segment_to_kvm(const struct part_segment *s)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attributes & 15,
		.s = s->attributes >> 4 & 1,
		.dpl = s->attributes >> 5 & 3,
		.present = s->attributes >> 7 & 1,
		.avl = s->attributes >> 12 & 1,
		.l = s->attributes >> 13 & 1,
		.db = s->attributes >> 14 & 1,
		.g = s->attributes >> 15 & 1,
		.unusable = !(s->attributes >> 7 & 1),
	};
}

/* The places of enum part_seg in kvm_sregs. */
static struct kvm_segment *segment_place(struct kvm_sregs *sregs, unsigned seg)
{
	struct kvm_segment *const places[8] = { &sregs->es, &sregs->cs, &sregs->ss,  &sregs->ds,
						&sregs->fs, &sregs->gs, &sregs->ldt, &sregs->tr };

	return places[seg];
}

static void gprs_from_kvm(const struct kvm_regs *r, uint64_t gpr[static 16])
{
	const uint64_t values[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp,
				      r->rsi, r->rdi, r->r8,  r->r9,  r->r10, r->r11,
				      r->r12, r->r13, r->r14, r->r15 };

	memcpy(gpr, values, sizeof(values));
}

static struct kvm_regs regs_to_kvm(const struct part_vp_state *state)
{
	const uint64_t *g = state->gpr;

	return (struct kvm_regs){
		.rax = g[0],
		.rcx = g[1],
		.rdx = g[2],
		.rbx = g[3],
		.rsp = g[4],
		.rbp = g[5],
		.rsi = g[6],
		.rdi = g[7],
		.r8 = g[8],
		.r9 = g[9],
		.r10 = g[10],
		.r11 = g[11],
		.r12 = g[12],
		.r13 = g[13],
		.r14 = g[14],
		.r15 = g[15],
		.rip = state->rip,
		.rflags = state->rflags,
	};
}

void kvm_vp_get_state(struct part *part, unsigned vp, struct part_vp_state *ret)
{
	int fd = kvm_of(part)->vp[vp].fd;
	struct kvm_mp_state mp = { 0 };
	struct kvm_sregs sregs = { 0 };
	struct kvm_regs regs = { 0 };

	kvm_ioctl(fd, KVM_GET_REGS, &regs);
	kvm_ioctl(fd, KVM_GET_SREGS, &sregs);
	kvm_ioctl(fd, KVM_GET_MP_STATE, &mp);
	*ret = (struct part_vp_state){
		.rip = regs.rip,
		.rflags = regs.rflags,
		.gdt_base = sregs.gdt.base,
		.gdt_limit = sregs.gdt.limit,
		.idt_base = sregs.idt.base,
		.idt_limit = sregs.idt.limit,
		.cr0 = sregs.cr0,
		.cr2 = sregs.cr2,
		.cr3 = sregs.cr3,
		.cr4 = sregs.cr4,
		.cr8 = sregs.cr8,
		.efer = sregs.efer,
		.halted = mp.mp_state == KVM_MP_STATE_HALTED,
		.wait_for_sipi = mp.mp_state == KVM_MP_STATE_UNINITIALIZED ||
				 mp.mp_state == KVM_MP_STATE_INIT_RECEIVED,
	};
	kvm_get_msr(&kvm_of(part)->vp[vp], MSR_MTRR_DEF_TYPE, &ret->mtrr_def_type);
	gprs_from_kvm(&regs, ret->gpr);
	for (unsigned i = 0; i < ARRAY_SIZE(ret->seg); i++)
		ret->seg[i] = segment_from_kvm(segment_place(&sregs, i));
}

static struct kvm_mp_state mp_state_to_kvm(const struct part_vp_state *state)
{
	uint32_t mp_state = state->wait_for_sipi ? KVM_MP_STATE_INIT_RECEIVED
			    : state->halted      ? KVM_MP_STATE_HALTED
						 : KVM_MP_STATE_RUNNABLE;

	return (struct kvm_mp_state){ .mp_state = mp_state };
}

void kvm_vp_set_state(struct part *part, unsigned vp, const struct part_vp_state *state)
{
	struct kvm_vp *kvp = &kvm_of(part)->vp[vp];
	struct kvm_mp_state mp = mp_state_to_kvm(state);
	struct kvm_regs regs = regs_to_kvm(state);
	struct kvm_sregs sregs = { 0 };

	kvm_ioctl(kvp->fd, KVM_GET_SREGS, &sregs);
	for (unsigned i = 0; i < ARRAY_SIZE(state->seg); i++)
		*segment_place(&sregs, i) = segment_to_kvm(&state->seg[i]);
	sregs.gdt.base = state->gdt_base;
	sregs.gdt.limit = state->gdt_limit;
	sregs.idt.base = state->idt_base;
	sregs.idt.limit = state->idt_limit;
	sregs.cr0 = state->cr0;
	sregs.cr2 = state->cr2;
	sregs.cr3 = state->cr3;
	sregs.cr4 = state->cr4;
	sregs.cr8 = state->cr8;
	sregs.efer = state->efer;
	if (kvm_ioctl(kvp->fd, KVM_SET_SREGS, &sregs) < 0 ||
	    kvm_ioctl(kvp->fd, KVM_SET_REGS, &regs) < 0 ||
	    kvm_set_msr(kvp, MSR_MTRR_DEF_TYPE, state->mtrr_def_type) < 0 ||
	    kvm_ioctl(kvp->fd, KVM_SET_MP_STATE, &mp) < 0)
		kvm_vp_fatal(kvp, "KVM: setting the registers of processor %u: %s", vp,
			     strerror(errno));
}

/* ---- time ---- */

static int tsc_offset_attr(struct kvm_vp *vp, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uintptr_t)offset };

	return kvm_ioctl(vp->fd, request, &attr);
}

bool kvm_tsc_offset_get(struct kvm_vp *vp, uint64_t *ret)
{
	return tsc_offset_attr(vp, KVM_GET_DEVICE_ATTR, ret) == 0;
}

bool kvm_tsc_offset_set(struct kvm_vp *vp, uint64_t offset)
{
	return tsc_offset_attr(vp, KVM_SET_DEVICE_ATTR, &offset) == 0;
}

void kvm_tsc_offset_refresh(struct kvm_part *kvm)
{
	uint64_t offset, tsc;

	/* Kernels before 5.16 don't tell the offset; and the scaling is not known to the last bit.
	 */
	if (kvm->scaled_khz || !kvm_tsc_offset_get(&kvm->vp[0], &offset)) {
		if (kvm_get_msr(&kvm->vp[0], MSR_TSC, &tsc) < 0)
			return;
		offset = tsc - kvm_scaled_tsc(kvm);
	}
	atomic_store(&kvm->tsc_offset, offset);
}

uint64_t kvm_scaled_tsc(const struct kvm_part *kvm)
{
	uint64_t tsc = __rdtsc();

	if (!kvm->scaled_khz)
		return tsc;
	return (uint64_t)((unsigned __int128)tsc * kvm->scaled_khz / kvm->host_khz);
}

/* A restored guest's rate: the host's, if that is near enough, else the processor must scale. */
static int adopt_rate(struct kvm_part *kvm, uint64_t saved_hz, struct error *err)
{
	if (part_adopt_tsc_hz(&kvm->tsc_hz, saved_hz, err) == 0)
		return 0;
	if (!kvm_has(kvm, KVM_CAP_TSC_CONTROL))
		return -(int)ERR_UNSUPPORTED;
	for (unsigned i = 0; i < kvm->part.vp_count; i++)
		if (ioctl(kvm->vp[i].fd, KVM_SET_TSC_KHZ, saved_hz / 1000) < 0)
			return -(int)ERR_UNSUPPORTED;
	kvm->scaled_khz = saved_hz / 1000;
	kvm->tsc_hz = saved_hz;
	return 0;
}

/* Zero on all VPs at the same moment. KVM also synchronizes them by itself, but by guessing. */
int kvm_tsc_init(struct kvm_part *kvm, uint64_t saved_hz, struct error *err)
{
	int khz = ioctl(kvm->vp[0].fd, KVM_GET_TSC_KHZ, 0);
	uint64_t offset;

	if (khz <= 0)
		return error_set(err, ERR_UNSUPPORTED, "KVM does not know the TSC's rate");
	kvm->host_khz = (uint64_t)khz;
	kvm->tsc_hz = kvm->host_khz * 1000;
	if (saved_hz && adopt_rate(kvm, saved_hz, err) < 0)
		return -(int)ERR_UNSUPPORTED;
	offset = -kvm_scaled_tsc(kvm);
	for (unsigned i = 0; i < kvm->part.vp_count; i++)
		kvm_tsc_offset_set(&kvm->vp[i], offset);
	kvm_tsc_offset_refresh(kvm);
	return 0;
}

uint64_t kvm_tsc_now(const struct part *part)
{
	return kvm_scaled_tsc(kvm_of(part)) + atomic_load(&kvm_of(part)->tsc_offset);
}
