/*
 * Time synchronization: a "sync" that makes the guest step its clock at the start and after a jump,
 * then a sample every five seconds, which the guest may follow or not.
 */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/macros.h"

#define PERIOD_NS (5 * NS_PER_SEC)
#define LOST_NS   (60 * NS_PER_SEC)
/* The host slept if its two clocks drifted apart by more than that. */
#define SLEEP_NS NS_PER_SEC
/* 1601-01-01 to 1970-01-01 in units of 100 ns */
#define EPOCH_DIFFERENCE UINT64_C(116444736000000000)

static uint64_t slept_ns(void)
{
	uint64_t now = clock_now_ns(); /* first: the difference must not be negative */

	return clock_boottime_ns() - now;
}

static void send_v4(struct ic_link *link, uint64_t now, uint8_t flags)
{
	struct ic_spec_time_v4 packet = { .parent_time = now,
					  .reference_time = vmbus_reference_time(link->ic->bus),
					  .flags = flags };

	ic_link_send(link, &packet, sizeof(packet));
}

static void send_v3(struct ic_link *link, uint64_t now, uint8_t flags)
{
	struct ic_spec_time_v3 packet = { .parent_time = now, .flags = flags };

	ic_link_send(link, &packet, sizeof(packet));
}

static void send_time(struct ic_time_state *time)
{
	uint64_t now = clock_wall_ns() / 100 + EPOCH_DIFFERENCE;
	uint8_t flags = time->sync_due ? IC_TIME_SYNC_FLAG : IC_TIME_SAMPLE_FLAG;

	time->sync_due = false;
	if (time->link.message.major >= 4)
		send_v4(&time->link, now, flags);
	else
		send_v3(&time->link, now, flags);
}

static void tick(void *user)
{
	struct ic_time_state *time = user;
	uint64_t slept = slept_ns();

	if (time->link.state != IC_LINK_READY)
		return;
	if ((int64_t)(slept - time->slept_ns) > (int64_t)SLEEP_NS)
		time->sync_due = true;
	time->slept_ns = slept;
	if (ic_link_can_send(&time->link))
		send_time(time);
	loop_timer_arm(time->timer, clock_now_ns() + PERIOD_NS);
}

static void on_ready(struct ic_link *link)
{
	struct ic_time_state *time = container_of(link, struct ic_time_state, link);

	time->sync_due = true;
	tick(time);
}

static void on_reply(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_time_state *time = container_of(link, struct ic_time_state, link);

	if (time->sync_due)
		tick(time);
}

static void on_closed(struct ic_link *link)
{
	loop_timer_cancel(container_of(link, struct ic_time_state, link)->timer);
}

void ic_time_resync(struct ic *ic)
{
	ic->time.sync_due = true;
	tick(&ic->time);
}

static const struct ic_spec_version versions[] = { { 4, 0 }, { 3, 0 }, { 1, 0 } };

static const struct ic_link_ops ops = {
	.class_id =
	    GUID_INIT(0x9527e630, 0xd0ae, 0x497b, 0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf),
	.instance_id =
	    GUID_INIT(0x2dd1ce17, 0x079e, 0x403c, 0xb3, 0x52, 0xa1, 0x92, 0x1e, 0xe2, 0x07, 0xee),
	.message_type = IC_MSG_TIME_SYNC,
	.versions = versions,
	.version_count = ARRAY_SIZE(versions),
	.lost_after_ns = LOST_NS,
	.ready = on_ready,
	.reply = on_reply,
	.closed = on_closed,
	.restored = on_ready,
};

int ic_time_init(struct ic *ic, struct error *err)
{
	ic->time.link.ic = ic;
	ic->time.link.ops = &ops;
	ic->time.slept_ns = slept_ns();
	return loop_timer_new(ic->loop, tick, &ic->time, &ic->time.timer, err);
}

void ic_time_done(struct ic *ic)
{
	loop_timer_free(ic->time.timer);
}
