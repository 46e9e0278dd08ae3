/*
 * Model-specific registers (SDM volume 4). Unknown ones raise #GP, as a processor's do.
 */
#include "part/softcpu/cpu.h"
#include "part/softcpu/fast.h"

#include <sys/random.h>

#define MSR_TSC             0x10
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_TSC_ADJUST      0x3b
#define MSR_SPEC_CTRL       0x48
#define MSR_PRED_CMD        0x49
#define MSR_UCODE_WRITE     0x79
#define MSR_UCODE_REV       0x8b
#define MSR_PLATFORM_INFO   0xce
#define MSR_MTRRCAP         0xfe
#define MSR_MISC_FEATURES   0x140
#define MSR_SYSENTER_CS     0x174
#define MSR_SYSENTER_ESP    0x175
#define MSR_SYSENTER_EIP    0x176
#define MSR_MCG_CAP         0x179
#define MSR_MCG_STATUS      0x17a
#define MSR_MISC_ENABLE     0x1a0
#define MSR_MTRR_BASE0      0x200
#define MSR_PAT             0x277
#define MSR_MTRR_DEF        0x2ff
#define MSR_EFER            0xc0000080
#define MSR_STAR            0xc0000081
#define MSR_LSTAR           0xc0000082
#define MSR_CSTAR           0xc0000083
#define MSR_SFMASK          0xc0000084
#define MSR_FS_BASE         0xc0000100
#define MSR_GS_BASE         0xc0000101
#define MSR_KERNEL_GS_BASE  0xc0000102
#define MSR_TSC_AUX         0xc0000103
#define MSR_SYSCFG          0xc0010010
#define MSR_HWCR            0xc0010015
#define MSR_FLUSH_CMD       0x10b
#define MSR_VIRT_SPEC_CTRL  0xc001011f
#define MSR_HYPERV_FIRST    0x40000000
#define MSR_HYPERV_LAST     0x400010ff

#define MTRR_PAIRS 8
#define MTRRCAP    (MTRR_PAIRS | BIT(8) | BIT(10)) /* fixed ranges, write combining */

static bool canonical(uint64_t va)
{
	return (uint64_t)((int64_t)(va << 16) >> 16) == va;
}

/* The fixed-range MTRRs by their place in vp.mtrr_fixed, or -1. */
static int fixed_mtrr(uint32_t msr)
{
	if (msr == 0x250)
		return 0;
	if (msr == 0x258 || msr == 0x259)
		return (int)(msr - 0x258 + 1);
	if (msr >= 0x268 && msr <= 0x26f)
		return (int)(msr - 0x268 + 3);
	return -1;
}

/* MSRs that are a plain register here: where it is, or NULL. */
static uint64_t *plain_register(struct vp *c, uint32_t msr)
{
	int fixed = fixed_mtrr(msr);

	if (fixed >= 0)
		return &c->mtrr_fixed[fixed];
	if (msr >= MSR_MTRR_BASE0 && msr < MSR_MTRR_BASE0 + 2 * MTRR_PAIRS) {
		unsigned pair = (msr - MSR_MTRR_BASE0) / 2;

		return msr & 1 ? &c->mtrr_mask[pair] : &c->mtrr_base[pair];
	}
	switch (msr) {
	case MSR_SYSENTER_CS:
		return &c->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &c->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &c->sysenter_eip;
	case MSR_MISC_ENABLE:
		return &c->misc_enable;
	case MSR_PAT:
		return &c->pat;
	case MSR_MTRR_DEF:
		return &c->mtrr_def;
	case MSR_STAR:
		return &c->star;
	case MSR_LSTAR:
		return &c->lstar;
	case MSR_CSTAR:
		return &c->cstar;
	case MSR_SFMASK:
		return &c->sfmask;
	case MSR_KERNEL_GS_BASE:
		return &c->kernel_gs_base;
	case MSR_TSC_AUX:
		return profile_has(c->vm->profile, PROFILE_81_EDX, 27) ? &c->tsc_aux : NULL;
	case MSR_HWCR:
	case MSR_SYSCFG:
		return c->vm->amd ? &c->hwcr : NULL;
	default:
		return NULL;
	}
}

/* What a value must fulfil to be written to a plain register. */
static bool acceptable(uint32_t msr, uint64_t v)
{
	switch (msr) {
	case MSR_SYSENTER_ESP:
	case MSR_SYSENTER_EIP:
	case MSR_LSTAR:
	case MSR_CSTAR:
	case MSR_KERNEL_GS_BASE:
		return canonical(v);
	case MSR_SYSENTER_CS:
	case MSR_SFMASK:
	case MSR_TSC_AUX:
		return msr == MSR_SYSENTER_CS || v <= UINT32_MAX;
	case MSR_PAT:
		for (unsigned i = 0; i < 64; i += 8) {
			unsigned type = (v >> i) & 0xff;

			if (type > 7 || type == 2 || type == 3)
				return false;
		}
		return true;
	default:
		return true;
	}
}

/* Controls of speculation: there only for a guest that was started on a processor with them. */
static bool has_speculation_controls(const struct vp *c)
{
	const struct profile *p = c->vm->profile;

	return p->word[PROFILE_7_EDX] || p->word[PROFILE_88_EBX];
}

bool sc_msr_read(struct vp *c, uint32_t msr, uint64_t *ret)
{
	uint64_t *reg = plain_register(c, msr);

	if (reg) {
		*ret = *reg;
		return true;
	}
	if (lapic_owns_msr(msr))
		return lapic_msr_read(c->lapic, msr, ret);
	if (msr >= MSR_HYPERV_FIRST && msr <= MSR_HYPERV_LAST)
		return c->vm->host.msr_read(c->vm->host.user, c->index, msr, ret);
	switch (msr) {
	case MSR_TSC:
		*ret = sc_tsc(c);
		break;
	case MSR_TSC_ADJUST:
		if (!profile_has(c->vm->profile, PROFILE_7_EBX, 1))
			return false;
		*ret = (uint64_t)c->tsc_adjust;
		break;
	case MSR_EFER:
		*ret = c->efer;
		break;
	case MSR_FS_BASE:
		*ret = c->seg[PART_FS].base;
		break;
	case MSR_GS_BASE:
		*ret = c->seg[PART_GS].base;
		break;
	case MSR_MTRRCAP:
		*ret = MTRRCAP;
		break;
	case MSR_UCODE_REV:
		*ret = c->ucode_rev;
		break;
	case MSR_FEATURE_CONTROL:
		*ret = 1; /* locked, nothing enabled */
		break;
	case MSR_MCG_CAP:
	case MSR_MCG_STATUS:
		*ret = 0;
		break;
	case MSR_SPEC_CTRL:
	case MSR_VIRT_SPEC_CTRL:
		*ret = c->spec_ctrl;
		return has_speculation_controls(c);
	default:
		return false;
	}
	return true;
}

static bool write_efer(struct vp *c, uint64_t v)
{
	uint64_t valid = EFER_SCE | EFER_LME | EFER_LMA;

	if (profile_has(c->vm->profile, PROFILE_81_EDX, 20))
		valid |= EFER_NXE;
	if (v & ~valid)
		return false;
	if ((c->cr0 & CR0_PG) && ((c->efer ^ v) & EFER_LME))
		return false;
	c->efer = (v & ~EFER_LMA) | (c->efer & EFER_LMA);
	sc_mmu_mode_changed(c);
	return true;
}

static bool write_base(struct vp *c, enum part_seg seg, uint64_t v)
{
	if (!canonical(v))
		return false;
	c->seg[seg].base = c->segbase[seg] = v;
	return true;
}

bool sc_msr_write(struct vp *c, uint32_t msr, uint64_t v)
{
	uint64_t *reg = plain_register(c, msr);

	if (reg) {
		if (!acceptable(msr, v))
			return false;
		*reg = v;
		return true;
	}
	if (lapic_owns_msr(msr))
		return lapic_msr_write(c->lapic, msr, v);
	if (msr >= MSR_HYPERV_FIRST && msr <= MSR_HYPERV_LAST)
		return c->vm->host.msr_write(c->vm->host.user, c->index, msr, v);
	switch (msr) {
	case MSR_TSC:
		c->tsc_adjust += (int64_t)(v - sc_tsc(c));
		sc_tsc_changed(c);
		return true;
	case MSR_TSC_ADJUST:
		if (!profile_has(c->vm->profile, PROFILE_7_EBX, 1))
			return false;
		c->tsc_adjust = (int64_t)v;
		sc_tsc_changed(c);
		return true;
	case MSR_EFER:
		return write_efer(c, v);
	case MSR_FS_BASE:
		return write_base(c, PART_FS, v);
	case MSR_GS_BASE:
		return write_base(c, PART_GS, v);
	case MSR_UCODE_REV: /* software clears it before it asks by CPUID */
		c->ucode_rev = 0;
		return true;
	case MSR_UCODE_WRITE:
	case MSR_MCG_STATUS:
		return true;
	case MSR_SPEC_CTRL:
	case MSR_VIRT_SPEC_CTRL:
		c->spec_ctrl = v;
		return has_speculation_controls(c);
	case MSR_PRED_CMD:
	case MSR_FLUSH_CMD:
		return has_speculation_controls(c);
	default:
		return false;
	}
}

/* ---- CPUID, RDRAND ---- */

#define CPUID_1_EDX_APIC    BIT(9)
#define CPUID_1_ECX_OSXSAVE BIT(27)
#define CPUID_1_ECX_OSXSAVE BIT(27)

void sc_cpuid(struct vp *c, uint32_t leaf, uint32_t subleaf, uint32_t ret[static 4])
{
	profile_cpuid(c->vm->profile, c->index, leaf, subleaf, ret);
	if (leaf == 1 && !lapic_enabled(c->lapic))
		ret[PROFILE_EDX] &= ~(uint32_t)CPUID_1_EDX_APIC;
	if (leaf == 1 && c->cr4 & CR4_OSXSAVE)
		ret[PROFILE_ECX] |= CPUID_1_ECX_OSXSAVE;
	if (leaf == 0xD && subleaf == 0 && !(c->xcr0 & HOSTOP_XCR0_AVX))
		ret[PROFILE_EBX] = MIN(ret[PROFILE_EBX], PROFILE_XSAVE_LEAST);
}

uint64_t sc_random(struct vp *c)
{
	uint64_t v;

	while (getrandom(&v, sizeof(v), 0) != sizeof(v))
		;
	return v;
}
