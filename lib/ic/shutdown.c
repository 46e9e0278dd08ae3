/* Shutdown: one request, answered before the guest starts to act on it. */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"

#include <string.h>

#define ANSWER_NS (30 * NS_PER_SEC)
#define LOST_NS   (60 * NS_PER_SEC)
/* SHTDN_REASON_FLAG_PLANNED: an administrator asked for it. */
#define REASON_PLANNED 0x80000000u

static void finish(struct ic_shutdown_state *shutdown, int result)
{
	if (!shutdown->pending)
		return;
	shutdown->pending = false;
	loop_timer_cancel(shutdown->timer);
	shutdown->done(shutdown->user, result);
}

static void on_timeout(void *user)
{
	finish(user, -ERR_TIMEOUT);
}

static void on_ready(struct ic_link *link)
{
}

static void on_reply(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_spec_header header;

	memcpy(&header, packet, sizeof(header));
	finish(container_of(link, struct ic_shutdown_state, link),
	       header.status == IC_S_OK ? 0 : -ERR_DENIED);
}

static void on_closed(struct ic_link *link)
{
	finish(container_of(link, struct ic_shutdown_state, link), -ERR_CANCELLED);
}

static uint32_t flags_of(const struct ic_shutdown_request *request)
{
	if (request->restart)
		return request->force ? IC_RESTART_FORCED : IC_RESTART;
	return request->force ? IC_SHUTDOWN_FORCED : IC_SHUTDOWN;
}

int ic_shutdown(struct ic *ic, const struct ic_shutdown_request *request, struct error *err)
{
	struct ic_shutdown_state *shutdown = &ic->shutdown;
	struct ic_spec_shutdown packet = { .reason = REASON_PLANNED,
					   .timeout_seconds = request->timeout_s,
					   .flags = flags_of(request) };

	if (shutdown->link.state != IC_LINK_READY)
		return error_set(err, ERR_STATE, "the guest's shutdown service is not in contact");
	if (shutdown->link.busy || shutdown->pending)
		return error_set(err, ERR_BUSY, "a shutdown request is under way");
	if (request->message)
		strncpy(packet.message, request->message, sizeof(packet.message) - 1);
	shutdown->done = request->done;
	shutdown->user = request->user;
	shutdown->pending = true;
	loop_timer_arm(shutdown->timer, clock_now_ns() + ANSWER_NS);
	ic_link_send(&shutdown->link, &packet, sizeof(packet));
	return 0;
}

static const struct ic_spec_version versions[] = { { 3, 2 }, { 3, 1 }, { 3, 0 }, { 1, 0 } };

static const struct ic_link_ops ops = {
	.class_id =
	    GUID_INIT(0x0e0b6031, 0x5213, 0x4934, 0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb),
	.instance_id =
	    GUID_INIT(0xb6650ff7, 0x33bc, 0x4840, 0x80, 0x48, 0xe0, 0x67, 0x67, 0x86, 0xf3, 0x93),
	.message_type = IC_MSG_SHUTDOWN,
	.versions = versions,
	.version_count = ARRAY_SIZE(versions),
	.lost_after_ns = LOST_NS,
	.ready = on_ready,
	.reply = on_reply,
	.closed = on_closed,
	.restored = on_ready,
};

int ic_shutdown_init(struct ic *ic, struct error *err)
{
	ic->shutdown.link.ic = ic;
	ic->shutdown.link.ops = &ops;
	return loop_timer_new(ic->loop, on_timeout, &ic->shutdown, &ic->shutdown.timer, err);
}

void ic_shutdown_done(struct ic *ic)
{
	loop_timer_free(ic->shutdown.timer);
}
