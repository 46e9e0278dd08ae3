/* Synthetic MSRs (TLFS appendix C). What is not listed faults. */
#include "hv/hv-impl.h"

#include "base/macros.h"

/* ---- hypercall page ---- */

#define INT3 0xCC

bool hv_write_hypercall_page(struct hv *hv, uint64_t gpa)
{
	uint8_t page[MEM_PAGE_SIZE];

	memset(page, INT3, sizeof(page));
	part_hypercall_code(hv->part, page);
	return mem_write(hv->mem, gpa, page, sizeof(page));
}

/* Enable does nothing while the guest OS id is 0; a locked MSR keeps its value. */
static bool hypercall_write(struct hv *hv, uint64_t value)
{
	if (hv->hypercall & HV_HYPERCALL_MSR_LOCKED)
		return true;
	if (!hv->guest_os_id)
		value &= ~HV_PAGE_MSR_ENABLE;
	if ((value & HV_PAGE_MSR_ENABLE) &&
	    !hv_write_hypercall_page(hv, value & HV_PAGE_MSR_ADDRESS))
		return false;
	hv->hypercall = value;
	return true;
}

static void guest_os_id_write(struct hv *hv, uint64_t value)
{
	hv->guest_os_id = value;
	if (!value)
		hv->hypercall &= ~HV_PAGE_MSR_ENABLE;
}

/* ---- crash report ---- */

/* Copied while the VP waits: its memory is as the guest left it. */
static char *crash_text(struct hv *hv, const struct hv_crash *crash, size_t *len)
{
	uint64_t bytes = MIN(crash->params[4], HV_CRASH_TEXT_MAX);
	char *text = malloc(bytes + 1);

	if (text && !mem_read(hv->mem, crash->params[3], text, bytes)) {
		free(text);
		text = NULL;
	}
	if (text)
		text[bytes] = '\0';
	*len = text ? bytes : 0;
	return text;
}

static void crash_ctl_write(struct hv *hv, unsigned vp, uint64_t value)
{
	struct hv_crash crash = { 0 };
	char *text = NULL;

	if (!(value & HV_CRASH_CTL_NOTIFY) || !hv->events.crash)
		return;
	pthread_mutex_lock(&hv->lock);
	memcpy(crash.params, hv->crash_param, sizeof(crash.params));
	pthread_mutex_unlock(&hv->lock);
	if (value & HV_CRASH_CTL_MESSAGE)
		text = crash_text(hv, &crash, &crash.text_len);
	crash.text = text;
	hv->events.crash(hv->events.user, vp, &crash);
	free(text);
}

static void reset_write(struct hv *hv, unsigned vp, uint64_t value)
{
	if ((value & 1) && hv->events.reset)
		hv->events.reset(hv->events.user, vp);
}

/* ---- partition-wide registers that are only stored ---- */

static uint64_t *stored_msr(struct hv *hv, uint32_t msr)
{
	switch (msr) {
	case HV_MSR_GUEST_OS_ID:
		return &hv->guest_os_id;
	case HV_MSR_HYPERCALL:
		return &hv->hypercall;
	case HV_MSR_REFERENCE_TSC:
		return &hv->reference_tsc;
	case HV_MSR_CRASH_P0 ... HV_MSR_CRASH_P4:
		return &hv->crash_param[msr - HV_MSR_CRASH_P0];
	case HV_MSR_TSC_INVARIANT_CONTROL:
		return hv->features.tsc_invariant ? &hv->tsc_invariant : NULL;
	}
	return NULL;
}

static bool stored_read(struct hv *hv, uint32_t msr, uint64_t *ret)
{
	const uint64_t *place = stored_msr(hv, msr);

	if (!place)
		return false;
	pthread_mutex_lock(&hv->lock);
	*ret = *place;
	pthread_mutex_unlock(&hv->lock);
	return true;
}

static bool stored_write(struct hv *hv, uint32_t msr, uint64_t value)
{
	uint64_t *place = stored_msr(hv, msr);
	bool ok = true;

	if (!place)
		return false;
	pthread_mutex_lock(&hv->lock);
	if (msr == HV_MSR_HYPERCALL)
		ok = hypercall_write(hv, value);
	else if (msr == HV_MSR_GUEST_OS_ID)
		guest_os_id_write(hv, value);
	else if (msr == HV_MSR_TSC_INVARIANT_CONTROL && (value & ~UINT64_C(1)))
		ok = false;
	else
		*place = value;
	pthread_mutex_unlock(&hv->lock);
	return ok;
}

/* ---- per-VP registers ---- */

static bool vp_read(struct hv_vp *vp, uint32_t msr, uint64_t *ret)
{
	bool ok;

	pthread_mutex_lock(&vp->lock);
	if (msr == HV_MSR_VP_ASSIST_PAGE) {
		*ret = vp->assist_page;
		ok = true;
	} else if (msr >= HV_MSR_STIMER0_CONFIG) {
		ok = hv_stimer_read(vp, msr, ret);
	} else {
		ok = hv_synic_read(vp, msr, ret);
	}
	pthread_mutex_unlock(&vp->lock);
	return ok;
}

static bool vp_write(struct hv_vp *vp, uint32_t msr, uint64_t value)
{
	struct hv_due due = { 0 };
	bool ok = true;

	pthread_mutex_lock(&vp->lock);
	if (msr == HV_MSR_VP_ASSIST_PAGE)
		vp->assist_page = value; /* none of its fields is offered */
	else if (msr >= HV_MSR_STIMER0_CONFIG)
		ok = hv_stimer_write(vp, msr, value, &due);
	else
		ok = hv_synic_write(vp, msr, value, &due);
	pthread_mutex_unlock(&vp->lock);
	hv_due_raise(vp, &due);
	return ok;
}

static bool is_vp_msr(uint32_t msr)
{
	return msr == HV_MSR_VP_ASSIST_PAGE || (msr >= HV_MSR_SCONTROL && msr <= HV_MSR_SINT15) ||
	       (msr >= HV_MSR_STIMER0_CONFIG && msr <= HV_MSR_STIMER3_COUNT);
}

/* ---- dispatch ---- */

bool hv_msr_read(struct hv *hv, unsigned vp, uint32_t msr, uint64_t *ret)
{
	if (is_vp_msr(msr))
		return vp_read(&hv->vp[vp], msr, ret);
	switch (msr) {
	case HV_MSR_VP_INDEX:
		*ret = vp;
		return true;
	case HV_MSR_RESET:
		*ret = 0;
		return true;
	case HV_MSR_VP_RUNTIME:
		*ret = part_vp_runtime_ns(hv->part, vp) / 100;
		return true;
	case HV_MSR_TIME_REF_COUNT:
		*ret = hv_reference_time(hv);
		return true;
	case HV_MSR_TSC_FREQUENCY:
		*ret = part_tsc_hz(hv->part);
		return true;
	case HV_MSR_APIC_FREQUENCY:
		*ret = part_apic_hz(hv->part);
		return true;
	case HV_MSR_CRASH_CTL:
		*ret = HV_CRASH_CTL_NOTIFY | HV_CRASH_CTL_MESSAGE;
		return true;
	case HV_MSR_GUEST_IDLE:
		*ret = 0;
		if (hv->features.overcommitted)
			hv_idle(&hv->vp[vp]);
		return hv->features.overcommitted;
	}
	return stored_read(hv, msr, ret);
}

bool hv_msr_write(struct hv *hv, unsigned vp, uint32_t msr, uint64_t value)
{
	if (is_vp_msr(msr))
		return vp_write(&hv->vp[vp], msr, value);
	switch (msr) {
	case HV_MSR_REFERENCE_TSC:
		return hv_reference_tsc_write(hv, value);
	case HV_MSR_RESET:
		reset_write(hv, vp, value);
		return true;
	case HV_MSR_CRASH_CTL:
		crash_ctl_write(hv, vp, value);
		return true;
	}
	return stored_write(hv, msr, value);
}
