/* Heartbeat: a request every two seconds; the guest counts the sequence up and sends it back. */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/macros.h"

#include <string.h>

#define PERIOD_NS (2 * NS_PER_SEC)
#define LOST_NS   (5 * PERIOD_NS)

static void beat(void *user)
{
	struct ic_heartbeat_state *heartbeat = user;
	struct ic_spec_heartbeat packet = { .sequence = heartbeat->sequence };

	if (heartbeat->link.state != IC_LINK_READY)
		return;
	if (!heartbeat->link.busy)
		ic_link_send(&heartbeat->link, &packet, sizeof(packet));
	loop_timer_arm(heartbeat->timer, clock_now_ns() + PERIOD_NS);
}

static void on_ready(struct ic_link *link)
{
	beat(container_of(link, struct ic_heartbeat_state, link));
}

static enum ic_applications said(uint32_t state)
{
	switch (state) {
	case IC_APPLICATIONS_HEALTHY:
		return IC_APPS_HEALTHY;
	case IC_APPLICATIONS_CRITICAL:
		return IC_APPS_CRITICAL;
	}
	return IC_APPS_UNKNOWN;
}

static void on_reply(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_heartbeat_state *heartbeat = container_of(link, struct ic_heartbeat_state, link);

	uint32_t applications = IC_APPLICATIONS_UNKNOWN;

	if (len >= offsetof(struct ic_spec_heartbeat, application_state) + sizeof(applications))
		memcpy(&applications,
		       packet + offsetof(struct ic_spec_heartbeat, application_state),
		       sizeof(applications));
	heartbeat->applications = said(applications);
	heartbeat->sequence++;
}

static void on_closed(struct ic_link *link)
{
	struct ic_heartbeat_state *heartbeat = container_of(link, struct ic_heartbeat_state, link);

	heartbeat->applications = IC_APPS_UNKNOWN;
	loop_timer_cancel(heartbeat->timer);
}

static const struct ic_spec_version versions[] = { { 3, 0 }, { 1, 0 } };

static const struct ic_link_ops ops = {
	.class_id =
	    GUID_INIT(0x57164f39, 0x9115, 0x4e78, 0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d),
	.instance_id =
	    GUID_INIT(0xfd149e91, 0x82e0, 0x4a7d, 0xaf, 0xa6, 0x2a, 0x41, 0x66, 0xcb, 0xd7, 0xc0),
	.message_type = IC_MSG_HEARTBEAT,
	.versions = versions,
	.version_count = ARRAY_SIZE(versions),
	.lost_after_ns = LOST_NS,
	.ready = on_ready,
	.reply = on_reply,
	.closed = on_closed,
	.restored = on_ready,
};

int ic_heartbeat_init(struct ic *ic, struct error *err)
{
	ic->heartbeat.link.ic = ic;
	ic->heartbeat.link.ops = &ops;
	return loop_timer_new(ic->loop, beat, &ic->heartbeat, &ic->heartbeat.timer, err);
}

void ic_heartbeat_done(struct ic *ic)
{
	loop_timer_free(ic->heartbeat.timer);
}
