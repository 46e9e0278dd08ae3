/*
 * Reference time: 100 ns units since hv_set_part, derived from the partition's TSC by the same
 * formula that the guest applies to the reference TSC page, so that page and MSR agree (TLFS 12.7)
 * on every VP whose TSC the guest has left alone. It goes back as little as
 * part_tsc_now does.
 */
#include "hv/hv-impl.h"

static uint64_t scale_tsc(uint64_t tsc, uint64_t scale)
{
	return (uint64_t)(((unsigned __int128)tsc * scale) >> 64);
}

void hv_time_set(struct hv *hv, uint64_t reference_time)
{
	uint64_t hz = part_tsc_hz(hv->part);

	/* A rate below the unit's can't be expressed; no real TSC is that slow. */
	if (hz <= HV_TIME_HZ)
		hz = HV_TIME_HZ + 1;
	hv->tsc_scale = (uint64_t)(((unsigned __int128)HV_TIME_HZ << 64) / hz);
	hv->tsc_offset =
	    (int64_t)(reference_time - scale_tsc(part_tsc_now(hv->part), hv->tsc_scale));
}

void hv_time_start(struct hv *hv)
{
	hv->tsc_sequence = 1;
	hv_time_set(hv, 0);
}

uint64_t hv_reference_time(const struct hv *hv)
{
	return scale_tsc(part_tsc_now(hv->part), hv->tsc_scale) + (uint64_t)hv->tsc_offset;
}

/* Sequence 0 tells the guest to use the MSR; so it does while the values change. */
static bool write_tsc_page(struct hv *hv, uint64_t gpa)
{
	struct hv_spec_tsc_page *page = mem_ptr(hv->mem, gpa, MEM_PAGE_SIZE);

	if (!page)
		return false;
	__atomic_store_n(&page->sequence, 0, __ATOMIC_SEQ_CST);
	page->reserved = 0;
	__atomic_store_n(&page->scale, hv->tsc_scale, __ATOMIC_RELAXED);
	__atomic_store_n(&page->offset, hv->tsc_offset, __ATOMIC_RELAXED);
	if (hv->features.reference_tsc)
		__atomic_store_n(&page->sequence, hv->tsc_sequence, __ATOMIC_RELEASE);
	mem_written(hv->mem, gpa, sizeof(*page));
	return true;
}

bool hv_reference_tsc_write(struct hv *hv, uint64_t value)
{
	bool ok = true;

	pthread_mutex_lock(&hv->lock);
	if (value & HV_PAGE_MSR_ENABLE)
		ok = write_tsc_page(hv, value & HV_PAGE_MSR_ADDRESS);
	if (ok)
		hv->reference_tsc = value;
	pthread_mutex_unlock(&hv->lock);
	return ok;
}
