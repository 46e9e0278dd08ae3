/*
 * What all services share: the offer, the packet header, version negotiation, one request at a
 * time. The guest may stay silent for long (KVP: until its daemon runs), so nothing here has a
 * deadline.
 */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

static const struct ic_spec_version framework_versions[] = { { 3, 0 }, { 1, 0 } };

#define MAX_MESSAGE_VERSIONS 8

/* ---- send ---- */

static int send_now(struct ic_link *link, const void *packet, uint32_t len)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)packet, .iov_len = len };

	return vmbus_send(link->channel, link->transaction_id, false, &iov, 1);
}

static void send_or_keep(struct ic_link *link, const void *packet, uint32_t len)
{
	if (send_now(link, packet, len) != -ERR_BUSY)
		return;
	link->unsent = malloc(len);
	if (!link->unsent)
		return; /* as a guest that does not answer */
	memcpy(link->unsent, packet, len);
	link->unsent_len = len;
}

static void send_kept(struct ic_link *link)
{
	if (!link->unsent || send_now(link, link->unsent, link->unsent_len) == -ERR_BUSY)
		return;
	free(TAKE(link->unsent));
}

static void send_request(struct ic_link *link, void *packet, uint32_t len, uint16_t type)
{
	struct ic_spec_header header = {
		.pipe_type = IC_PIPE_DATA,
		.pipe_bytes = len - IC_PIPE_HEADER_BYTES,
		.framework = link->framework,
		.message_type = type,
		.message = link->message,
		.body_bytes = (uint16_t)(len - sizeof(header)),
		.flags = IC_FLAG_TRANSACTION | IC_FLAG_REQUEST,
	};

	/* 0 is what a guest would echo from a buffer of zeros. */
	if (++link->transaction_id == 0)
		link->transaction_id = 1;
	header.transaction_id = link->transaction_id;
	memcpy(packet, &header, sizeof(header));
	link->busy = true;
	link->sent_at_ns = clock_now_ns();
	send_or_keep(link, packet, len);
}

void ic_link_send(struct ic_link *link, void *packet, uint32_t len)
{
	send_request(link, packet, len, link->ops->message_type);
}

/* ---- negotiation ---- */

static void negotiate(struct ic_link *link)
{
	struct {
		struct ic_spec_negotiate fixed;
		struct ic_spec_version
		    versions[ARRAY_SIZE(framework_versions) + MAX_MESSAGE_VERSIONS];
	} IC_SPEC_PACKED packet = { 0 };
	unsigned count = ARRAY_SIZE(framework_versions) + link->ops->version_count;

	link->state = IC_LINK_NEGOTIATING;
	link->framework = framework_versions[ARRAY_SIZE(framework_versions) - 1];
	link->message = (struct ic_spec_version){ 0 };
	packet.fixed.framework_count = ARRAY_SIZE(framework_versions);
	packet.fixed.message_count = (uint16_t)link->ops->version_count;
	memcpy(packet.versions, framework_versions, sizeof(framework_versions));
	memcpy(packet.versions + ARRAY_SIZE(framework_versions), link->ops->versions,
	       link->ops->version_count * sizeof(packet.versions[0]));
	send_request(link, &packet,
		     (uint32_t)(sizeof(packet.fixed) + count * sizeof(packet.versions[0])),
		     IC_MSG_NEGOTIATE);
}

static bool is_offered(const struct ic_spec_version *versions, unsigned count,
		       const struct ic_spec_version *version)
{
	for (unsigned i = 0; i < count; i++)
		if (versions[i].major == version->major && versions[i].minor == version->minor)
			return true;
	return false;
}

static bool accept_versions(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_spec_negotiate fixed;
	struct ic_spec_version chosen[2];

	if (len < sizeof(fixed) + sizeof(chosen))
		return false;
	memcpy(&fixed, packet, sizeof(fixed));
	memcpy(chosen, packet + sizeof(fixed), sizeof(chosen));
	if (fixed.framework_count != 1 || fixed.message_count != 1 ||
	    !is_offered(framework_versions, ARRAY_SIZE(framework_versions), &chosen[0]) ||
	    !is_offered(link->ops->versions, link->ops->version_count, &chosen[1]))
		return false;
	link->framework = chosen[0];
	link->message = chosen[1];
	return true;
}

static void negotiated(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	if (!accept_versions(link, packet, len)) {
		log_guest("integration service %u: no common version", link->ops->message_type);
		link->state = IC_LINK_REFUSED;
		return;
	}
	link->state = IC_LINK_READY;
	link->ops->ready(link);
}

/* ---- receive ---- */

static bool is_answer(const struct ic_link *link, const struct ic_spec_header *header)
{
	uint16_t expected =
	    link->state == IC_LINK_NEGOTIATING ? IC_MSG_NEGOTIATE : link->ops->message_type;

	return link->busy && (header->flags & IC_FLAG_RESPONSE) &&
	       header->transaction_id == link->transaction_id && header->message_type == expected;
}

static void handle(struct ic_link *link, const struct vmbus_packet *packet)
{
	struct ic_spec_header header;

	if (packet->type != VMBUS_INBAND || packet->payload_len < sizeof(header))
		return;
	memcpy(&header, packet->payload, sizeof(header));
	if (!is_answer(link, &header)) {
		log_guest("integration service %u: an answer to nothing", link->ops->message_type);
		return;
	}
	link->busy = false;
	if (link->state == IC_LINK_NEGOTIATING)
		negotiated(link, packet->payload, packet->payload_len);
	else if (link->state == IC_LINK_READY)
		link->ops->reply(link, packet->payload, packet->payload_len);
}

/* ---- channel ---- */

static int on_opened(void *dev, struct vmbus_channel *channel, const uint8_t *user_data)
{
	struct ic_link *link = dev;

	link->channel = channel;
	negotiate(link);
	return 0;
}

static void on_closed(void *dev, struct vmbus_channel *channel)
{
	struct ic_link *link = dev;

	link->state = IC_LINK_CLOSED;
	link->busy = false;
	free(TAKE(link->unsent));
	link->ops->closed(link);
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct ic_link *link = dev;
	struct vmbus_packet packet;

	send_kept(link);
	while (link->channel && vmbus_recv(channel, &packet) > 0)
		handle(link, &packet);
}

static const struct vmbus_channel_ops channel_ops = { on_opened, on_closed, on_ready };

static int offer(struct ic_link *link, struct error *err)
{
	struct vmbus_offer vmbus_offer_ = {
		.class_id = link->ops->class_id,
		.instance_id = link->ops->instance_id,
		.flags = VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE | VMBUS_OFFER_NAMED_PIPE_MODE,
		.min_version = link->ops->min_vmbus_version,
		.user_defined = { 4 }, /* a message pipe */
		.ops = &channel_ops,
		.dev = link,
	};

	return vmbus_offer(link->ic->bus, &vmbus_offer_, &link->channel, err);
}

int ic_link_enable(struct ic_link *link, bool enabled, struct error *err)
{
	if (enabled == (link->channel != NULL))
		return 0;
	if (enabled)
		return offer(link, err);
	vmbus_rescind(TAKE(link->channel));
	link->ops->closed(link); /* also what waited for a first contact */
	return 0;
}

void ic_link_status(const struct ic_link *link, struct ic_status *ret)
{
	bool late = link->busy && clock_now_ns() - link->sent_at_ns > link->ops->lost_after_ns;

	*ret = (struct ic_status){ .state = IC_STATE_NO_CONTACT };
	if (!link->channel) {
		ret->state = IC_STATE_DISABLED;
	} else if (link->state == IC_LINK_READY) {
		ret->state = late ? IC_STATE_LOST : IC_STATE_OK;
		ret->major = link->message.major;
		ret->minor = link->message.minor;
	}
}
