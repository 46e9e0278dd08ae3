/* All that is saved of a VP beside its general registers: part.h's words to KVM's and back. */
#include "part/kvm/kvm-impl.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <errno.h>
#include <string.h>
#include <x86intrin.h>

#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6E0u
#define MSR_SPEC_CTRL    0x48u

/* ---- MSRs ---- */

/* optional: a kernel or processor without it may go on if the guest left it at 0. */
static const struct saved_msr {
	uint32_t msr;
	uint16_t offset; /* in struct part_vp_context */
	bool optional;
} saved_msrs[] = {
#define AT(field) offsetof(struct part_vp_context, field)
	{ 0xC0000081, AT(star), false },
	{ 0xC0000082, AT(lstar), false },
	{ 0xC0000083, AT(cstar), false },
	{ 0xC0000084, AT(sfmask), false },
	{ 0xC0000102, AT(kernel_gs_base), false },
	{ 0xC0000103, AT(tsc_aux), true },
	{ 0x174, AT(sysenter_cs), false },
	{ 0x175, AT(sysenter_esp), false },
	{ 0x176, AT(sysenter_eip), false },
	{ 0x277, AT(pat), false },
	{ 0x1A0, AT(misc_enable), true },
	{ MSR_SPEC_CTRL, AT(spec_ctrl), true },
	{ 0xC0010015, AT(hwcr), true },
	{ 0x250, AT(mtrr_fixed[0]), true },
	{ 0x258, AT(mtrr_fixed[1]), true },
	{ 0x259, AT(mtrr_fixed[2]), true },
	{ 0x268, AT(mtrr_fixed[3]), true },
	{ 0x269, AT(mtrr_fixed[4]), true },
	{ 0x26A, AT(mtrr_fixed[5]), true },
	{ 0x26B, AT(mtrr_fixed[6]), true },
	{ 0x26C, AT(mtrr_fixed[7]), true },
	{ 0x26D, AT(mtrr_fixed[8]), true },
	{ 0x26E, AT(mtrr_fixed[9]), true },
	{ 0x26F, AT(mtrr_fixed[10]), true },
#define RANGE(n)                                                                                   \
	{ 0x200 + 2 * (n), AT(mtrr_base[n]), true },                                               \
	{                                                                                          \
		0x201 + 2 * (n), AT(mtrr_mask[n]), true                                            \
	}
	RANGE(0),
	RANGE(1),
	RANGE(2),
	RANGE(3),
	RANGE(4),
	RANGE(5),
	RANGE(6),
	RANGE(7),
#undef RANGE
#undef AT
};

static void get_msrs(struct kvm_vp *vp, struct part_vp_context *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(saved_msrs); i++) {
		uint64_t value = 0;

		kvm_get_msr(vp, saved_msrs[i].msr, &value);
		memcpy((char *)ret + saved_msrs[i].offset, &value, sizeof(value));
	}
}

/* Other bits of these say what the processor is, not what the guest did. */
static bool is_processors_own(uint32_t msr)
{
	return msr == 0x1A0 || msr == 0xC0010015;
}

static int set_msrs(struct kvm_vp *vp, const struct part_vp_context *context, struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(saved_msrs); i++) {
		const struct saved_msr *m = &saved_msrs[i];
		uint64_t value, now = 0;

		memcpy(&value, (const char *)context + m->offset, sizeof(value));
		if (kvm_set_msr(vp, m->msr, value) == 0 || is_processors_own(m->msr) ||
		    (kvm_get_msr(vp, m->msr, &now) == 0 && now == value) || (m->optional && !value))
			continue;
		return error_set(err, ERR_UNSUPPORTED, "KVM refuses 0x%llx in MSR 0x%x",
				 (unsigned long long)value, m->msr);
	}
	return 0;
}

/* ---- FPU ---- */

/* The legacy region of an XSAVE image (SDM volume 1, 13.4.1). KVM_GET_FPU leaves out MXCSR. */
enum {
	FX_FCW = 0,
	FX_FSW = 2,
	FX_FTW = 4,
	FX_FOP = 6,
	FX_FIP = 8,
	FX_FDP = 16,
	FX_MXCSR = 24,
	FX_ST = 32,
	FX_XMM = 160,
	XSAVE_PRESENT = 512, /* XSTATE_BV */
	XSAVE_YMM_HIGH = 576,
};
#define XSAVE_X87_AND_SSE 3u
#define XSAVE_AVX         4u

static bool has_xsave(const struct kvm_vp *vp)
{
	return profile_has(&vp->kvm->part.profile, PROFILE_1_ECX, 26);
}

static void get_avx(struct kvm_vp *vp, const uint8_t *fx, struct part_fpu_state *ret)
{
	struct kvm_xcrs xcrs = { 0 };

	if (!has_xsave(vp))
		return;
	kvm_ioctl(vp->fd, KVM_GET_XCRS, &xcrs);
	ret->xcr0 = xcrs.nr_xcrs ? xcrs.xcrs[0].value : 1;
	if (load_le64(fx + XSAVE_PRESENT) & XSAVE_AVX)
		memcpy(ret->ymm_high, fx + XSAVE_YMM_HIGH, sizeof(ret->ymm_high));
}

static int set_xcr0(struct kvm_vp *vp, const struct part_fpu_state *state)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = state->xcr0 ? state->xcr0 : 1 };

	return has_xsave(vp) ? kvm_ioctl(vp->fd, KVM_SET_XCRS, &xcrs) : 0;
}

int kvm_vp_reset_avx(struct kvm_vp *vp)
{
	const struct part_fpu_state reset = { .xcr0 = 1 };
	struct kvm_xsave image = { 0 };
	uint8_t *fx = (uint8_t *)image.region;

	if (!has_xsave(vp))
		return 0;
	if (kvm_ioctl(vp->fd, KVM_GET_XSAVE, &image) < 0)
		return -1;
	fx[XSAVE_PRESENT] &= (uint8_t)~XSAVE_AVX; /* what isn't there is 0 */
	return kvm_ioctl(vp->fd, KVM_SET_XSAVE, &image) < 0 ? -1 : set_xcr0(vp, &reset);
}

static void get_fpu(struct kvm_vp *vp, struct part_fpu_state *ret)
{
	struct kvm_xsave image = { 0 };
	const uint8_t *fx = (const uint8_t *)image.region;

	kvm_ioctl(vp->fd, KVM_GET_XSAVE, &image);
	*ret = (struct part_fpu_state){ .fcw = load_le16(fx + FX_FCW),
					.fsw = load_le16(fx + FX_FSW),
					.fop = load_le16(fx + FX_FOP),
					.ftw = fx[FX_FTW],
					.mxcsr = load_le32(fx + FX_MXCSR) & 0xffff,
					.fip = load_le64(fx + FX_FIP),
					.fdp = load_le64(fx + FX_FDP) };
	memcpy(ret->st, fx + FX_ST, sizeof(ret->st));
	memcpy(ret->xmm, fx + FX_XMM, sizeof(ret->xmm));
	get_avx(vp, fx, ret);
}

static int set_fpu(struct kvm_vp *vp, const struct part_fpu_state *state)
{
	struct kvm_xsave image = { 0 };
	uint8_t *fx = (uint8_t *)image.region;

	if (set_xcr0(vp, state) < 0 || kvm_ioctl(vp->fd, KVM_GET_XSAVE, &image) < 0)
		return -1;
	store_le16(fx + FX_FCW, state->fcw);
	store_le16(fx + FX_FSW, state->fsw);
	store_le16(fx + FX_FOP, state->fop);
	fx[FX_FTW] = state->ftw;
	store_le32(fx + FX_MXCSR, state->mxcsr);
	store_le64(fx + FX_FIP, state->fip);
	store_le64(fx + FX_FDP, state->fdp);
	memcpy(fx + FX_ST, state->st, sizeof(state->st));
	memcpy(fx + FX_XMM, state->xmm, sizeof(state->xmm));
	store_le64(fx + XSAVE_PRESENT, load_le64(fx + XSAVE_PRESENT) | XSAVE_X87_AND_SSE);
	if (has_xsave(vp)) {
		memcpy(fx + XSAVE_YMM_HIGH, state->ymm_high, sizeof(state->ymm_high));
		fx[XSAVE_PRESENT] |= XSAVE_AVX;
	}
	return kvm_ioctl(vp->fd, KVM_SET_XSAVE, &image);
}

/* ---- local APIC ---- */

enum { /* offsets in the APIC's page */
       APIC_ID = 0x020,
       APIC_TPR = 0x080,
       APIC_LDR = 0x0d0,
       APIC_DFR = 0x0e0,
       APIC_SVR = 0x0f0,
       APIC_ISR = 0x100,
       APIC_TMR = 0x180,
       APIC_IRR = 0x200,
       APIC_ESR = 0x280,
       APIC_ICR = 0x300,
       APIC_ICR_HIGH = 0x310,
       APIC_LVT = 0x320,
       APIC_TIMER_INITIAL = 0x380,
       APIC_TIMER_CURRENT = 0x390,
       APIC_TIMER_DIVIDE = 0x3e0,
};

#define BASE_X2APIC    BIT(10)
#define BASE_DEFINED   UINT64_C(0x000ffffffffffd00)
#define LVT_TIMER_TSC  BIT(18)
#define LVT_TIMER_BITS 0x000700ffu
#define LVT_LOCAL_BITS 0x000107ffu
#define LVT_PIN_BITS   0x0001a7ffu
#define LVT_ERROR_BITS 0x000100ffu
#define SVR_BITS       0x1ffu
#define DIVIDE_BITS    0xbu

static uint32_t apic_get(const struct kvm_lapic_state *page, unsigned offset)
{
	uint32_t value;

	memcpy(&value, page->regs + offset, sizeof(value));
	return value;
}

static void apic_set(struct kvm_lapic_state *page, unsigned offset, uint32_t value)
{
	memcpy(page->regs + offset, &value, sizeof(value));
}

static unsigned divide_shift(uint32_t divide)
{
	return (((divide >> 1 & 4) | (divide & 3)) + 1) & 7;
}

static void get_apic_timer(const struct kvm_lapic_state *page, struct part_apic_state *ret)
{
	uint64_t left = apic_get(page, APIC_TIMER_CURRENT);

	ret->timer_initial = apic_get(page, APIC_TIMER_INITIAL);
	ret->timer_divide = apic_get(page, APIC_TIMER_DIVIDE) & DIVIDE_BITS;
	if (ret->lvt[0] & LVT_TIMER_TSC) {
		ret->timer_initial = 0;
		return;
	}
	ret->timer_left = left << divide_shift(ret->timer_divide);
	ret->timer_armed = left != 0;
}

/* An interrupt with automatic EOI leaves service when it is taken. */
static void get_apic_vectors(struct kvm_vp *vp, const struct kvm_lapic_state *page,
			     struct part_apic_state *ret)
{
	for (unsigned i = 0; i < 8; i++) {
		ret->auto_eoi[i] = (uint32_t)(atomic_load(&vp->auto_eoi[i / 2]) >> i % 2 * 32);
		ret->irr[i] = apic_get(page, APIC_IRR + i * 16);
		ret->isr[i] = apic_get(page, APIC_ISR + i * 16) & ~ret->auto_eoi[i];
		ret->tmr[i] = apic_get(page, APIC_TMR + i * 16);
		ret->auto_eoi[i] &= ret->irr[i];
	}
}

static void get_apic(struct kvm_vp *vp, uint64_t base, struct part_apic_state *ret)
{
	static const uint32_t lvt_bits[6] = { LVT_TIMER_BITS, LVT_LOCAL_BITS, LVT_LOCAL_BITS,
					      LVT_PIN_BITS,   LVT_PIN_BITS,   LVT_ERROR_BITS };
	struct kvm_lapic_state page = { 0 };

	kvm_ioctl(vp->fd, KVM_GET_LAPIC, &page);
	*ret = (struct part_apic_state){
		.apic_base = base & BASE_DEFINED,
		.id = base & BASE_X2APIC ? vp->index : apic_get(&page, APIC_ID) >> 24,
		.tpr = apic_get(&page, APIC_TPR) & 0xff,
		.ldr = base & BASE_X2APIC ? 0 : apic_get(&page, APIC_LDR),
		.dfr = apic_get(&page, APIC_DFR),
		.svr = apic_get(&page, APIC_SVR) & SVR_BITS,
		.esr = apic_get(&page, APIC_ESR),
		.icr = apic_get(&page, APIC_ICR) | (uint64_t)apic_get(&page, APIC_ICR_HIGH) << 32,
		.extint_level = vp->index == 0 && atomic_load(&vp->kvm->extint),
	};
	for (unsigned i = 0; i < ARRAY_SIZE(ret->lvt); i++)
		ret->lvt[i] = apic_get(&page, APIC_LVT + i * 16) & lvt_bits[i];
	if (ret->lvt[0] & LVT_TIMER_TSC)
		kvm_get_msr(vp, MSR_TSC_DEADLINE, &ret->tsc_deadline);
	get_apic_timer(&page, ret);
	get_apic_vectors(vp, &page, ret);
}

static int set_apic(struct kvm_vp *vp, const struct part_apic_state *state)
{
	struct kvm_lapic_state page = { 0 };
	uint64_t current = state->timer_left >> divide_shift(state->timer_divide);

	if (kvm_ioctl(vp->fd, KVM_GET_LAPIC, &page) < 0)
		return -1;
	/* KVM keeps the id of both modes in these bits here. */
	apic_set(&page, APIC_ID, state->id << 24);
	apic_set(&page, APIC_TPR, state->tpr);
	apic_set(&page, APIC_LDR, state->ldr);
	apic_set(&page, APIC_DFR, state->dfr | 0x0fffffff);
	apic_set(&page, APIC_SVR, state->svr);
	apic_set(&page, APIC_ESR, state->esr);
	apic_set(&page, APIC_ICR, (uint32_t)state->icr);
	apic_set(&page, APIC_ICR_HIGH, (uint32_t)(state->icr >> 32));
	for (unsigned i = 0; i < ARRAY_SIZE(state->lvt); i++)
		apic_set(&page, APIC_LVT + i * 16, state->lvt[i]);
	for (unsigned i = 0; i < 8; i++) {
		apic_set(&page, APIC_ISR + i * 16, state->isr[i]);
		apic_set(&page, APIC_TMR + i * 16, state->tmr[i]);
		apic_set(&page, APIC_IRR + i * 16, state->irr[i]);
		atomic_fetch_or(&vp->auto_eoi[i / 2], (uint64_t)state->auto_eoi[i] << i % 2 * 32);
	}
	apic_set(&page, APIC_TIMER_DIVIDE, state->timer_divide);
	apic_set(&page, APIC_TIMER_INITIAL, state->timer_armed ? state->timer_initial : 0);
	apic_set(&page, APIC_TIMER_CURRENT,
		 state->timer_armed ? (uint32_t)MIN(MAX(current, 1u), UINT32_MAX) : 0);
	return kvm_ioctl(vp->fd, KVM_SET_LAPIC, &page);
}

/* ---- events ---- */

#define VECTOR_BP 3
#define VECTOR_OF 4

/* A software interrupt that KVM took, but did not deliver, is forgotten: RIP is on the instruction
 * that makes it anew. */
static void get_event(const struct kvm_vcpu_events *events, struct part_vp_context *ret)
{
	unsigned vector = events->exception.nr;

	if (events->exception.injected && vector != VECTOR_BP && vector != VECTOR_OF) {
		ret->event_kind = PART_EVENT_EXCEPTION;
		ret->event_vector = (uint8_t)vector;
		ret->event_has_error = events->exception.has_error_code;
		ret->event_error = events->exception.error_code;
	} else if (events->interrupt.injected && !events->interrupt.soft) {
		ret->event_kind = PART_EVENT_INTERRUPT;
		ret->event_vector = events->interrupt.nr;
	} else if (events->nmi.injected) {
		ret->event_kind = PART_EVENT_NMI;
		ret->event_vector = 2;
		ret->nmi_blocked = true;
	}
}

static void get_events(struct kvm_vp *vp, struct part_vp_context *ret)
{
	struct kvm_vcpu_events events = { 0 };
	struct kvm_mp_state mp = { 0 };

	kvm_ioctl(vp->fd, KVM_GET_VCPU_EVENTS, &events);
	kvm_ioctl(vp->fd, KVM_GET_MP_STATE, &mp);
	ret->nmi_blocked = events.nmi.masked;
	ret->apic.nmi_pending = events.nmi.pending || atomic_load(&vp->nmi);
	if (mp.mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		ret->regs.wait_for_sipi = ret->apic.sipi_pending = true;
		ret->apic.sipi_vector = (uint8_t)events.sipi_vector;
	}
	if (events.interrupt.shadow & KVM_X86_SHADOW_INT_STI)
		ret->shadow |= PART_SHADOW_STI;
	if (events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS)
		ret->shadow |= PART_SHADOW_SS;
	get_event(&events, ret);
}

static int set_events(struct kvm_vp *vp, const struct part_vp_context *context)
{
	struct kvm_vcpu_events events = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SIPI_VECTOR |
			 KVM_VCPUEVENT_VALID_SHADOW,
		.sipi_vector = context->apic.sipi_vector,
		.nmi = { .pending = context->apic.nmi_pending,
			 .masked = context->nmi_blocked,
			 .injected = context->event_kind == PART_EVENT_NMI },
	};
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_SIPI_RECEIVED };

	if (context->shadow & PART_SHADOW_STI)
		events.interrupt.shadow |= KVM_X86_SHADOW_INT_STI;
	if (context->shadow & PART_SHADOW_SS)
		events.interrupt.shadow |= KVM_X86_SHADOW_INT_MOV_SS;
	if (context->event_kind == PART_EVENT_EXCEPTION) {
		events.exception.injected = 1;
		events.exception.nr = context->event_vector;
		events.exception.has_error_code = context->event_has_error;
		events.exception.error_code = context->event_error;
	} else if (context->event_kind == PART_EVENT_INTERRUPT) {
		events.interrupt.injected = 1;
		events.interrupt.nr = context->event_vector;
	}
	if (kvm_ioctl(vp->fd, KVM_SET_VCPU_EVENTS, &events) < 0)
		return -1;
	if (context->regs.wait_for_sipi && context->apic.sipi_pending)
		return kvm_ioctl(vp->fd, KVM_SET_MP_STATE, &mp);
	return 0;
}

/* ---- time ---- */

/* TSCs of all VPs are set to one moment of the host's. */
void kvm_set_tsc(struct part *part, uint64_t tsc)
{
	struct kvm_part *kvm = kvm_of(part);
	uint64_t offset = tsc - kvm_scaled_tsc(kvm);

	for (unsigned i = 0; i < part->vp_count; i++)
		if (!kvm_tsc_offset_set(&kvm->vp[i], offset))
			kvm_set_msr(&kvm->vp[i], MSR_TSC, tsc);
	kvm_tsc_offset_refresh(kvm);
}

static int64_t get_tsc_adjust(struct kvm_vp *vp)
{
	uint64_t own, first;

	if (!kvm_tsc_offset_get(vp, &own) || !kvm_tsc_offset_get(&vp->kvm->vp[0], &first))
		return 0;
	return (int64_t)(own - first);
}

static void set_tsc_adjust(struct kvm_vp *vp, int64_t adjust)
{
	uint64_t offset;

	if (adjust && kvm_tsc_offset_get(vp, &offset))
		kvm_tsc_offset_set(vp, offset + (uint64_t)adjust);
}

/* ---- all of it ---- */

void kvm_vp_get_context(struct part *part, unsigned index, struct part_vp_context *ret)
{
	struct kvm_vp *vp = &kvm_of(part)->vp[index];
	struct kvm_debugregs debug = { 0 };
	struct kvm_sregs sregs = { 0 };

	kvm_ioctl(vp->fd, KVM_GET_SREGS, &sregs);
	kvm_ioctl(vp->fd, KVM_GET_DEBUGREGS, &debug);
	memcpy(ret->dr, debug.db, sizeof(ret->dr));
	ret->dr6 = debug.dr6;
	ret->dr7 = debug.dr7;
	get_fpu(vp, &ret->fpu);
	get_msrs(vp, ret);
	get_apic(vp, sregs.apic_base, &ret->apic);
	get_events(vp, ret);
	ret->tsc_adjust = get_tsc_adjust(vp);
}

static int set_registers(struct kvm_vp *vp, const struct part_vp_context *context,
			 struct error *err)
{
	struct kvm_debugregs debug = { .dr6 = context->dr6, .dr7 = context->dr7 };
	struct kvm_sregs sregs;

	/* The APIC base first: it chooses how the APIC's registers are read. */
	if (kvm_ioctl(vp->fd, KVM_GET_SREGS, &sregs) < 0)
		return error_set_errno(err, errno, "KVM: reading its registers");
	sregs.apic_base = context->apic.apic_base;
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	if (kvm_ioctl(vp->fd, KVM_SET_SREGS, &sregs) < 0)
		return error_set_errno(err, errno, "KVM: setting its local APIC's base");
	memcpy(debug.db, context->dr, sizeof(debug.db));
	if (kvm_ioctl(vp->fd, KVM_SET_DEBUGREGS, &debug) < 0)
		return error_set_errno(err, errno, "KVM: setting its debug registers");
	if (set_fpu(vp, &context->fpu) < 0)
		return error_set_errno(err, errno, "KVM: setting its FPU");
	if (set_apic(vp, &context->apic) < 0)
		return error_set_errno(err, errno, "KVM: setting its local APIC");
	return 0;
}

int kvm_vp_set_context(struct part *part, unsigned index, const struct part_vp_context *context,
		       struct error *err)
{
	struct kvm_vp *vp = &kvm_of(part)->vp[index];
	int rc;

	set_tsc_adjust(vp, context->tsc_adjust);
	rc = set_registers(vp, context, err);
	if (rc == 0)
		rc = set_msrs(vp, context, err);
	if (rc < 0)
		return rc;
	kvm_vp_set_state(part, index, &context->regs);
	if (context->apic.tsc_deadline)
		kvm_set_msr(vp, MSR_TSC_DEADLINE, context->apic.tsc_deadline);
	if (index == 0)
		atomic_store(&vp->kvm->extint, context->apic.extint_level);
	if (set_events(vp, context) < 0)
		return error_set_errno(err, errno, "KVM: setting its pending events");
	return 0;
}
