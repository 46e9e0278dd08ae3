/*
 * Synthetic timers (TLFS 12.3): four per VP, one-shot (count is an absolute reference time) or
 * periodic (count is the period), signalled by a message or directly by a vector. One loop timer
 * per VP stands for the earliest of the four.
 */
#include "hv/hv-impl.h"

#include "base/clock.h"
#include "base/macros.h"

#define NS_PER_UNIT 100
/* A far deadline is reached in steps, which also corrects drift between both clocks. */
#define MAX_WAIT (HV_TIME_HZ * 60)
/* A guest that asks for less is served at this rate: it must not keep the loop from others. */
#define MIN_PERIOD (HV_TIME_HZ / 20000)

static void start(struct hv_stimer *timer, uint64_t now)
{
	timer->expiry = 0;
	if (!(timer->config & HV_STIMER_ENABLE))
		return;
	if (!timer->count) {
		timer->config &= ~HV_STIMER_ENABLE;
		return;
	}
	if (!(timer->config & HV_STIMER_PERIODIC))
		timer->expiry = timer->count;
	else if (ADD_OVERFLOWS(now, MAX(timer->count, MIN_PERIOD), &timer->expiry))
		timer->expiry = UINT64_MAX;
}

static void post_expiry(struct hv_vp *vp, unsigned index, uint64_t now, struct hv_due *due)
{
	struct hv_stimer *timer = &vp->stimer[index];
	struct hv_spec_timer_payload payload = { .timer_index = index,
						 .expiration_time = timer->expiry,
						 .delivery_time = now };

	/* The last one waits still: the guest learns of this expiry when it takes that. */
	if (timer->message.queued)
		return;
	timer->message.type = HV_MESSAGE_TIMER;
	timer->message.len = sizeof(payload);
	memcpy(timer->message.payload, &payload, sizeof(payload));
	hv_synic_queue(vp, HV_STIMER_SINT(timer->config), &timer->message, due);
}

static void expire(struct hv_vp *vp, unsigned index, uint64_t now, struct hv_due *due)
{
	struct hv_stimer *timer = &vp->stimer[index];

	if (timer->config & HV_STIMER_DIRECT)
		hv_due_add(due, (uint8_t)HV_STIMER_VECTOR(timer->config), false);
	else
		post_expiry(vp, index, now, due);
	if (timer->config & HV_STIMER_PERIODIC) {
		timer->expiry += MAX(timer->count, MIN_PERIOD);
		if (timer->expiry <= now) /* ticks that were missed are not made up for */
			start(timer, now);
	} else {
		timer->config &= ~HV_STIMER_ENABLE;
		timer->expiry = 0;
	}
}

static void arm_loop_timer(struct hv_vp *vp, uint64_t now)
{
	uint64_t first = 0;

	for (unsigned i = 0; i < HV_STIMER_COUNT; i++) {
		uint64_t expiry = vp->stimer[i].expiry;

		if (expiry && (!first || expiry < first))
			first = expiry;
	}
	if (!first)
		loop_timer_cancel(vp->timer);
	else
		loop_timer_arm(vp->timer,
			       clock_now_ns() + MIN(first - now, MAX_WAIT) * NS_PER_UNIT);
}

/* Expires what is due and arms the loop for the rest. */
static void run_timers(struct hv_vp *vp, struct hv_due *due)
{
	uint64_t now = hv_reference_time(vp->hv);

	for (unsigned i = 0; i < HV_STIMER_COUNT; i++) {
		uint64_t expiry = vp->stimer[i].expiry;

		if (expiry && expiry <= now)
			expire(vp, i, now, due);
	}
	arm_loop_timer(vp, now);
}

void hv_stimer_fire(void *user)
{
	struct hv_vp *vp = user;
	struct hv_due due = { 0 };

	pthread_mutex_lock(&vp->lock);
	run_timers(vp, &due);
	pthread_mutex_unlock(&vp->lock);
	hv_due_raise(vp, &due);
}

bool hv_stimer_config_valid(uint64_t config)
{
	if (config & ~HV_STIMER_CONFIG_DEFINED)
		return false;
	return !(config & HV_STIMER_ENABLE) || !(config & HV_STIMER_DIRECT) ||
	       HV_STIMER_VECTOR(config) >= HV_FIRST_VALID_VECTOR;
}

static bool config_write(struct hv_stimer *timer, uint64_t value)
{
	if (!hv_stimer_config_valid(value))
		return false;
	/* Message mode on SINT 0 can't be enabled (TLFS 12.3.3). */
	if (!(value & HV_STIMER_DIRECT) && !HV_STIMER_SINT(value))
		value &= ~HV_STIMER_ENABLE;
	timer->config = value;
	return true;
}

static void count_write(struct hv_stimer *timer, uint64_t value)
{
	bool can_enable = (timer->config & HV_STIMER_DIRECT) || HV_STIMER_SINT(timer->config);

	timer->count = value;
	if (!value)
		timer->config &= ~HV_STIMER_ENABLE;
	else if ((timer->config & HV_STIMER_AUTO_ENABLE) && can_enable)
		timer->config |= HV_STIMER_ENABLE;
}

bool hv_stimer_read(struct hv_vp *vp, uint32_t msr, uint64_t *ret)
{
	const struct hv_stimer *timer = &vp->stimer[(msr - HV_MSR_STIMER0_CONFIG) / 2];

	if (!vp->hv->features.synthetic_timers)
		return false;
	*ret = msr % 2 ? timer->count : timer->config;
	return true;
}

bool hv_stimer_write(struct hv_vp *vp, uint32_t msr, uint64_t value, struct hv_due *due)
{
	struct hv_stimer *timer = &vp->stimer[(msr - HV_MSR_STIMER0_CONFIG) / 2];

	if (!vp->hv->features.synthetic_timers)
		return false;
	if (msr % 2)
		count_write(timer, value);
	else if (!config_write(timer, value))
		return false;
	start(timer, hv_reference_time(vp->hv));
	run_timers(vp, due);
	return true;
}

void hv_stimer_reset(struct hv_vp *vp)
{
	for (unsigned i = 0; i < HV_STIMER_COUNT; i++) {
		struct hv_stimer *timer = &vp->stimer[i];

		timer->config = timer->count = timer->expiry = 0;
		timer->message.embedded = true;
	}
	if (vp->timer)
		loop_timer_cancel(vp->timer);
}
