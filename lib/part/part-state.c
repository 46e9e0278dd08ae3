/* The tables of a VP's and a partition's state, and what makes one impossible for any processor. */
#include "part/part-impl.h"

#include "base/macros.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

_Static_assert(PART_PROFILE_WORDS == PROFILE_WORD_COUNT, "all feature words are saved");

/* ---- tables ---- */

static const struct state_field segment_fields[] = {
	STATE(1, struct part_segment, base),
	STATE(2, struct part_segment, limit),
	STATE(3, struct part_segment, selector),
	STATE(4, struct part_segment, attributes),
	STATE_END,
};
static const struct state_desc segment_desc = { "segment", sizeof(struct part_segment),
						segment_fields, NULL };

static const struct state_field regs_fields[] = {
	STATE(1, struct part_vp_state, gpr),
	STATE(2, struct part_vp_state, rip),
	STATE(3, struct part_vp_state, rflags),
	STATE_PART(4, struct part_vp_state, seg, 8, segment_desc),
	STATE(5, struct part_vp_state, gdt_base),
	STATE(6, struct part_vp_state, gdt_limit),
	STATE(7, struct part_vp_state, idt_base),
	STATE(8, struct part_vp_state, idt_limit),
	STATE(9, struct part_vp_state, cr0),
	STATE(10, struct part_vp_state, cr2),
	STATE(11, struct part_vp_state, cr3),
	STATE(12, struct part_vp_state, cr4),
	STATE(13, struct part_vp_state, cr8, .max = 15),
	STATE(14, struct part_vp_state, efer),
	STATE(15, struct part_vp_state, mtrr_def_type),
	STATE(16, struct part_vp_state, halted),
	STATE(17, struct part_vp_state, wait_for_sipi),
	STATE_END,
};
static const struct state_desc regs_desc = { "registers", sizeof(struct part_vp_state), regs_fields,
					     NULL };

static const struct state_field fpu_fields[] = {
	STATE(1, struct part_fpu_state, fcw),
	STATE(2, struct part_fpu_state, fsw),
	STATE(3, struct part_fpu_state, fop),
	STATE(4, struct part_fpu_state, ftw),
	STATE(5, struct part_fpu_state, reserved),
	STATE(6, struct part_fpu_state, mxcsr, .max = 0xffff),
	STATE(7, struct part_fpu_state, reserved2),
	STATE(8, struct part_fpu_state, fip),
	STATE(9, struct part_fpu_state, fdp),
	STATE_BYTES(10, struct part_fpu_state, st),
	STATE_BYTES(11, struct part_fpu_state, xmm),
	/* Older streams have neither; older readers refuse a guest that knows of AVX. */
	STATE(12, struct part_fpu_state, xcr0, .optional = true, .max = 7),
	STATE_BYTES(13, struct part_fpu_state, ymm_high, .optional = true),
	STATE_END,
};
static const struct state_desc fpu_desc = { "fpu", sizeof(struct part_fpu_state), fpu_fields,
					    NULL };

static const struct state_field apic_fields[] = {
	STATE(1, struct part_apic_state, apic_base),
	STATE(2, struct part_apic_state, icr),
	STATE(3, struct part_apic_state, timer_left),
	STATE(4, struct part_apic_state, tsc_deadline),
	STATE(5, struct part_apic_state, id),
	STATE(6, struct part_apic_state, tpr),
	STATE(7, struct part_apic_state, ldr),
	STATE(8, struct part_apic_state, dfr),
	STATE(9, struct part_apic_state, svr),
	STATE(10, struct part_apic_state, esr),
	STATE(11, struct part_apic_state, esr_latch),
	STATE(12, struct part_apic_state, irr),
	STATE(13, struct part_apic_state, isr),
	STATE(14, struct part_apic_state, tmr),
	STATE(15, struct part_apic_state, auto_eoi),
	STATE(16, struct part_apic_state, lvt),
	STATE(17, struct part_apic_state, timer_initial),
	STATE(18, struct part_apic_state, timer_divide),
	STATE(19, struct part_apic_state, timer_armed),
	STATE(20, struct part_apic_state, nmi_pending),
	STATE(21, struct part_apic_state, init_pending),
	STATE(22, struct part_apic_state, sipi_pending),
	STATE(23, struct part_apic_state, extint_level),
	STATE(24, struct part_apic_state, extint_message),
	STATE(25, struct part_apic_state, sipi_vector),
	STATE(26, struct part_apic_state, reserved),
	STATE_END,
};
static const struct state_desc apic_desc = { "apic", sizeof(struct part_apic_state), apic_fields,
					     NULL };

static const struct state_field vp_fields[] = {
	STATE_PART(1, struct part_vp_context, regs, 1, regs_desc),
	STATE(2, struct part_vp_context, dr),
	STATE(3, struct part_vp_context, dr6),
	STATE(4, struct part_vp_context, dr7),
	STATE_PART(5, struct part_vp_context, fpu, 1, fpu_desc),
	STATE(6, struct part_vp_context, star),
	STATE(7, struct part_vp_context, lstar),
	STATE(8, struct part_vp_context, cstar),
	STATE(9, struct part_vp_context, sfmask),
	STATE(10, struct part_vp_context, kernel_gs_base),
	STATE(11, struct part_vp_context, tsc_aux),
	STATE(12, struct part_vp_context, sysenter_cs),
	STATE(13, struct part_vp_context, sysenter_esp),
	STATE(14, struct part_vp_context, sysenter_eip),
	STATE(15, struct part_vp_context, pat),
	STATE(16, struct part_vp_context, misc_enable),
	STATE(17, struct part_vp_context, spec_ctrl),
	STATE(18, struct part_vp_context, hwcr),
	STATE(19, struct part_vp_context, mtrr_fixed),
	STATE(20, struct part_vp_context, mtrr_base),
	STATE(21, struct part_vp_context, mtrr_mask),
	STATE(22, struct part_vp_context, tsc_adjust),
	STATE(23, struct part_vp_context, shadow, .max = PART_SHADOW_STI | PART_SHADOW_SS),
	STATE(24, struct part_vp_context, nmi_blocked),
	STATE(25, struct part_vp_context, event_kind, .max = PART_EVENT_NMI),
	STATE(26, struct part_vp_context, event_vector),
	STATE(27, struct part_vp_context, event_has_error),
	STATE(28, struct part_vp_context, reserved),
	STATE(29, struct part_vp_context, event_error),
	STATE(30, struct part_vp_context, reserved2),
	STATE_PART(31, struct part_vp_context, apic, 1, apic_desc),
	STATE_END,
};

static const struct state_field part_fields[] = {
	STATE(1, struct part_state, tsc),
	STATE(2, struct part_state, tsc_hz),
	STATE(3, struct part_state, apic_hz),
	STATE(4, struct part_state, vendor),
	STATE(5, struct part_state, brand),
	STATE(6, struct part_state, signature),
	STATE(7, struct part_state, features),
	STATE(8, struct part_state, physical_bits, .max = 52),
	STATE(9, struct part_state, vp_count, .max = PART_MAX_VPS),
	STATE_END,
};

/* ---- checks ---- */

#define CR0_PE   BIT(0)
#define CR0_PG   BIT(31)
#define CR0_BITS UINT64_C(0xe005003f)
#define CR4_PAE  BIT(5)
#define EFER_LME BIT(8)
#define EFER_LMA BIT(10)

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* What no processor's control registers can hold (SDM volume 3, 2.5 and 4.1). */
static const char *check_control(const struct part_vp_state *r)
{
	bool paging = r->cr0 & CR0_PG, long_mode = r->efer & EFER_LMA;

	if (r->cr0 & ~CR0_BITS || (paging && !(r->cr0 & CR0_PE)))
		return "CR0 is impossible";
	if (long_mode != (paging && (r->efer & EFER_LME)))
		return "EFER.LMA does not go with CR0.PG and EFER.LME";
	if (long_mode && !(r->cr4 & CR4_PAE))
		return "long mode without CR4.PAE";
	return NULL;
}

static const char *check_vp(const void *state)
{
	const struct part_vp_context *c = state;
	const struct part_vp_state *r = &c->regs;
	const char *why = check_control(r);

	if (why)
		return why;
	if (r->efer & EFER_LMA && !canonical(r->rip) && r->seg[PART_CS].attributes & BIT(13))
		return "RIP is not canonical";
	if (!canonical(c->lstar) || !canonical(c->cstar) || !canonical(c->kernel_gs_base) ||
	    !canonical(c->sysenter_esp) || !canonical(c->sysenter_eip))
		return "an address in an MSR is not canonical";
	if (c->fpu.xcr0 && (!(c->fpu.xcr0 & 1) || c->fpu.xcr0 == 5))
		return "XCR0 is impossible";
	if (c->event_kind == PART_EVENT_EXCEPTION && c->event_vector > 31)
		return "an exception has no such vector";
	return NULL;
}

static const char *check_part(const void *state)
{
	const struct part_state *s = state;

	if (!s->tsc_hz || !s->apic_hz || s->physical_bits < 32 || !s->vp_count)
		return "rates, address bits and processors can't be 0";
	if (s->vendor[12] || s->brand[48])
		return "the processor's name is too long";
	return NULL;
}

const struct state_desc part_vp_desc = { "vp", sizeof(struct part_vp_context), vp_fields,
					 check_vp };
const struct state_desc part_desc = { "partition", sizeof(struct part_state), part_fields,
				      check_part };

/* ---- get and set ---- */

/* The same host measures its rate a little differently at times. A guest's clocks take that much
 * for drift, which time synchronization mends. */
#define TSC_TOLERANCE_PPM 1000

int part_adopt_tsc_hz(uint64_t *hz, uint64_t saved, struct error *err)
{
	uint64_t distance = *hz > saved ? *hz - saved : saved - *hz;

	if (distance / 1000 * (1000000 / TSC_TOLERANCE_PPM) > saved / 1000)
		return error_set(err, ERR_UNSUPPORTED,
				 "the guest's time stamp counter runs at %llu kHz, this host's at "
				 "%llu kHz",
				 (unsigned long long)saved / 1000, (unsigned long long)*hz / 1000);
	*hz = saved;
	return 0;
}

void part_get_state(const struct part *part, struct part_state *ret)
{
	const struct profile *profile = &part->profile;

	assert(part_stands(part));
	*ret = (struct part_state){
		.tsc = part->ops->partition_tsc(part),
		.tsc_hz = part->ops->tsc_hz(part),
		.apic_hz = part->ops->apic_hz(part),
		.signature = profile->cpu.signature,
		.physical_bits = profile->physical_bits,
		.vp_count = part->vp_count,
	};
	memcpy(ret->vendor, profile->cpu.vendor, sizeof(profile->cpu.vendor));
	memcpy(ret->brand, profile->cpu.brand, sizeof(profile->cpu.brand));
	memcpy(ret->features, profile->word, sizeof(ret->features));
}

void part_set_tsc(struct part *part, uint64_t tsc)
{
	assert(part_stands(part));
	part->ops->set_tsc(part, tsc);
}

void part_vp_get_context(struct part *part, unsigned vp, struct part_vp_context *ret)
{
	assert(vp < part->vp_count && part_stands(part));
	memset(ret, 0, sizeof(*ret));
	part->ops->vp_get_state(part, vp, &ret->regs);
	part->ops->vp_get_context(part, vp, ret);
}

int part_vp_set_context(struct part *part, unsigned vp, const struct part_vp_context *context,
			struct error *err)
{
	int rc;

	assert(vp < part->vp_count && part_stands(part));
	/* The counts of another rate would be another time. */
	if (context->apic.timer_armed && part->saved_apic_hz &&
	    part->saved_apic_hz != part->ops->apic_hz(part))
		return error_set(err, ERR_UNSUPPORTED,
				 "processor %u's local APIC timer counts at %llu Hz; here it can "
				 "count at %llu Hz only",
				 vp, (unsigned long long)part->saved_apic_hz,
				 (unsigned long long)part->ops->apic_hz(part));
	rc = part->ops->vp_set_context(part, vp, context, err);
	return rc < 0 ? error_prefix(err, "processor %u", vp) : 0;
}
