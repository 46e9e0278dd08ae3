#include "dev/netvsp-impl.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct guid netvsp_class =
    GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e);

static const uint32_t supported_versions[] = { NVSP_VERSION_6_1, NVSP_VERSION_6, NVSP_VERSION_5,
					       NVSP_VERSION_4,   NVSP_VERSION_2, NVSP_VERSION_1 };

/* ---- answers ---- */

static int send_completion(struct netvsp_queue *queue, const struct netvsp_completion *c)
{
	struct iovec iov = { (void *)(uintptr_t)c->body, c->bytes };

	return vmbus_send_completion(queue->channel, c->transaction_id, &iov, c->bytes ? 1 : 0);
}

bool netvsp_flush_completions(struct netvsp_queue *queue)
{
	while (queue->completion_count) {
		struct netvsp_completion *c = &queue->completions[queue->completion_first];

		/* Another failure than a full ring loses it; the channel is dead then. */
		if (queue->open && send_completion(queue, c) == -ERR_BUSY)
			return false;
		queue->completion_first =
		    (queue->completion_first + 1) % ARRAY_SIZE(queue->completions);
		queue->completion_count--;
	}
	return true;
}

void netvsp_complete(struct netvsp_queue *queue, uint64_t transaction_id, const void *body,
		     uint32_t bytes)
{
	unsigned at =
	    (queue->completion_first + queue->completion_count) % ARRAY_SIZE(queue->completions);
	struct netvsp_completion *c = &queue->completions[at];

	/* read_queue() reads only while there is room for the answers. */
	if (queue->completion_count == ARRAY_SIZE(queue->completions))
		return;
	*c = (struct netvsp_completion){ .transaction_id = transaction_id };
	if (bytes) {
		memcpy(c->body, body, bytes);
		c->bytes = NVSP_MESSAGE_BYTES;
	}
	queue->completion_count++;
	netvsp_flush_completions(queue);
}

static void answer(struct netvsp_queue *queue, const struct vmbus_packet *packet, const void *body,
		   uint32_t bytes)
{
	if (packet->wants_completion)
		netvsp_complete(queue, packet->transaction_id, body, bytes);
}

/* ---- NVSP messages ---- */

/* The packet's bytes as a message; what a short packet lacks is zero. False: shorter than min. */
static bool get_message(const struct vmbus_packet *packet, void *ret, size_t bytes, size_t min)
{
	memset(ret, 0, bytes);
	if (packet->payload_len < min)
		return false;
	memcpy(ret, packet->payload, MIN(bytes, packet->payload_len));
	return true;
}

static void on_init(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	struct netvsp *nic = queue->nic;
	struct nvsp_init_complete reply = { .type = NVSP_INIT_COMPLETE,
					    .status = NVSP_STATUS_FAIL };
	struct nvsp_init msg;

	if (get_message(packet, &msg, sizeof(msg), sizeof(msg)) && !nic->receive.set) {
		nic->version = 0;
		for (unsigned i = 0; i < ARRAY_SIZE(supported_versions) && !nic->version; i++)
			if (supported_versions[i] >= msg.min_version &&
			    supported_versions[i] <= msg.max_version)
				nic->version = supported_versions[i];
		reply.negotiated_version = nic->version;
		reply.max_mdl_chain_length = 34;
		if (nic->version)
			reply.status = NVSP_STATUS_SUCCESS;
		else
			reply.status = msg.min_version > NVSP_VERSION_6_1 ? NVSP_STATUS_TOO_NEW
									  : NVSP_STATUS_TOO_OLD;
	}
	answer(queue, packet, &reply, sizeof(reply));
}

static void on_ndis_config(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	struct netvsp *nic = queue->nic;
	struct nvsp_ndis_config msg;

	if (get_message(packet, &msg, sizeof(msg), sizeof(msg)) &&
	    msg.mtu > FRAME_HEADER_BYTES + 68) {
		nic->mtu = MIN(msg.mtu - FRAME_HEADER_BYTES, NETVSP_MAX_MTU);
		nic->capabilities = msg.capabilities;
	}
	answer(queue, packet, "", 1);
}

static void on_receive_buffer(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	struct netvsp *nic = queue->nic;
	struct nvsp_receive_buffer_complete reply = { .type = NVSP_SEND_RECEIVE_BUFFER_COMPLETE,
						      .status = NVSP_STATUS_FAIL };
	struct nvsp_send_buffer msg;

	if (get_message(packet, &msg, sizeof(msg), sizeof(msg)) && nic->version &&
	    netvsp_receive_set_buffer(nic, msg.gpadl, msg.id)) {
		reply.status = NVSP_STATUS_SUCCESS;
		reply.section_count = 1;
		reply.section.suballocation_bytes = nic->receive.section_bytes;
		reply.section.suballocation_count = nic->receive.section_count;
		reply.section.end_offset = nic->receive.section_bytes * nic->receive.section_count;
	}
	answer(queue, packet, &reply, sizeof(reply));
}

static bool set_send_buffer(struct netvsp *nic, uint32_t gpadl, uint16_t id)
{
	uint64_t bytes = vmbus_gpadl_bytes(nic->queues[0].channel, gpadl);

	if (!bytes || bytes > UINT32_MAX || nic->send.set)
		return false;
	nic->send = (struct netvsp_send_buffer){ .set = true, .gpadl = gpadl, .id = id };
	nic->send.section_bytes = MIN(NETVSP_SEND_SECTION_BYTES, (uint32_t)bytes);
	nic->send.section_count = (uint32_t)bytes / nic->send.section_bytes;
	return true;
}

static void on_send_buffer(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	struct netvsp *nic = queue->nic;
	struct nvsp_send_buffer_complete reply = { .type = NVSP_SEND_SEND_BUFFER_COMPLETE,
						   .status = NVSP_STATUS_FAIL };
	struct nvsp_send_buffer msg;

	if (get_message(packet, &msg, sizeof(msg), sizeof(msg)) && nic->version &&
	    set_send_buffer(nic, msg.gpadl, msg.id)) {
		reply.status = NVSP_STATUS_SUCCESS;
		reply.section_bytes = nic->send.section_bytes;
	}
	answer(queue, packet, &reply, sizeof(reply));
}

static void on_revoke(struct netvsp_queue *queue, const struct vmbus_packet *packet, uint32_t type)
{
	struct netvsp *nic = queue->nic;
	struct {
		uint32_t type;
		uint16_t id;
	} __attribute__((packed)) msg;

	if (get_message(packet, &msg, sizeof(msg), sizeof(msg))) {
		if (type == NVSP_REVOKE_RECEIVE_BUFFER && nic->receive.set &&
		    nic->receive.id == msg.id)
			netvsp_receive_revoke(nic);
		if (type == NVSP_REVOKE_SEND_BUFFER && nic->send.set && nic->send.id == msg.id)
			nic->send.set = false;
	}
	answer(queue, packet, "", 1);
}

static void on_rndis_packet(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	struct nvsp_rndis_packet_complete reply = { NVSP_SEND_RNDIS_PACKET_COMPLETE,
						    NVSP_STATUS_FAIL };
	struct nvsp_rndis_packet msg;

	if (get_message(packet, &msg, sizeof(msg), sizeof(msg)) && queue->nic->version)
		netvsp_transmit(queue, packet, &msg);
	else
		answer(queue, packet, &reply, sizeof(reply));
}

static const struct vmbus_channel_ops subchannel_ops;

int netvsp_offer_queue(struct netvsp *nic, unsigned index, struct error *err)
{
	struct netvsp_queue *queue = &nic->queues[index];
	struct vmbus_offer offer = {
		.class_id = netvsp_class,
		.instance_id = nic->instance,
		.subchannel_index = (uint16_t)index,
		.ops = &subchannel_ops,
		.dev = queue,
	};

	return vmbus_offer(nic->bus, &offer, &queue->channel, err);
}

static unsigned offer_subchannels(struct netvsp *nic, unsigned count)
{
	unsigned offered = 0;

	for (; offered < count; offered++) {
		struct error err;

		if (netvsp_offer_queue(nic, nic->queue_count, &err) < 0) {
			log_error("network adapter '%s': %s", nic->name, err.text);
			break;
		}
		nic->queue_count++;
	}
	return offered;
}

static void on_subchannel(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	struct netvsp *nic = queue->nic;
	struct nvsp_subchannel_complete reply = { .type = NVSP_SUBCHANNEL,
						  .status = NVSP_STATUS_FAIL };
	unsigned count = 0;
	struct nvsp_subchannel msg;

	if (nic->version < NVSP_VERSION_5)
		reply.status = NVSP_STATUS_UNSUPPORTED;
	else if (get_message(packet, &msg, sizeof(msg), sizeof(msg)) &&
		 msg.operation == NVSP_SUBCHANNEL_ALLOCATE) {
		count = MIN(msg.count, nic->max_queues - nic->queue_count);
		reply.status = NVSP_STATUS_SUCCESS;
		reply.count = count;
	}
	/* Linux opens a sub-channel only after it has heard how many there will be. */
	answer(queue, packet, &reply, sizeof(reply));
	if (count) {
		offer_subchannels(nic, count);
		nic->indirection_due = true;
	}
}

/* A request of a type that we don't know, or that has no answer of its own. */
static void on_other(struct netvsp_queue *queue, const struct vmbus_packet *packet, uint32_t type)
{
	switch (type) {
	case NVSP_SEND_NDIS_VERSION:
		answer(queue, packet, "", 1);
		break;
	case NVSP_SWITCH_DATA_PATH:
		/* Linux takes an answer to this one only without payload. */
		answer(queue, packet, NULL, 0);
		break;
	default:
		log_guest("network adapter '%s': NVSP message %u is not known", queue->nic->name,
			  type);
		answer(queue, packet, "", 1);
	}
}

static void on_message(struct netvsp_queue *queue, const struct vmbus_packet *packet)
{
	uint32_t type = packet->payload_len >= 4 ? load_le32(packet->payload) : 0;

	if (type == NVSP_SEND_RNDIS_PACKET) {
		on_rndis_packet(queue, packet);
		return;
	}
	/* Sub-channels carry data only. */
	if (queue->index)
		type = 0;
	switch (type) {
	case NVSP_INIT:
		on_init(queue, packet);
		break;
	case NVSP_SEND_NDIS_CONFIG:
		on_ndis_config(queue, packet);
		break;
	case NVSP_SEND_RECEIVE_BUFFER:
		on_receive_buffer(queue, packet);
		break;
	case NVSP_SEND_SEND_BUFFER:
		on_send_buffer(queue, packet);
		break;
	case NVSP_REVOKE_RECEIVE_BUFFER:
	case NVSP_REVOKE_SEND_BUFFER:
		on_revoke(queue, packet, type);
		break;
	case NVSP_SUBCHANNEL:
		on_subchannel(queue, packet);
		break;
	default:
		on_other(queue, packet, type);
	}
}

/* ---- channels ---- */

/* Reads until the ring is empty or something is full. */
static void read_queue(struct netvsp_queue *queue)
{
	struct netvsp *nic = queue->nic;
	struct vmbus_packet packet;

	if (nic->quiet)
		return;
	/* The batch belongs to one queue. */
	if (nic->tx.packet_count && nic->tx.queue != queue && !netvsp_transmit_flush(nic))
		return;
	while (queue->open) {
		if (nic->tx.blocked || !netvsp_flush_completions(queue))
			return;
		if (!netvsp_transmit_has_room(nic) && !netvsp_transmit_flush(nic))
			return;
		if (!netvsp_flush_completions(queue) || vmbus_recv(queue->channel, &packet) <= 0)
			break;
		if (packet.type == VMBUS_COMPLETION) {
			netvsp_receive_completed(nic, packet.transaction_id);
		} else if (packet.type == VMBUS_INBAND || packet.type == VMBUS_GPA_DIRECT) {
			/* Answers stay in the order of requests. */
			if (packet.payload_len < 4 ||
			    load_le32(packet.payload) != NVSP_SEND_RNDIS_PACKET)
				netvsp_transmit_flush(nic);
			on_message(queue, &packet);
		} else if (packet.type != VMBUS_CANCEL) {
			log_guest("network adapter '%s': packet of type %u", nic->name,
				  packet.type);
		}
	}
	netvsp_transmit_flush(nic);
}

static void send_indirection_table(struct netvsp *nic)
{
	struct nvsp_indirection_table table = { .type = NVSP_SEND_INDIRECTION_TABLE,
						.count = NVSP_INDIRECTION_ENTRIES };
	struct iovec iov = { &table, sizeof(table) };

	for (unsigned i = 0; i < nic->queue_count; i++)
		if (!nic->queues[i].open)
			return;
	table.offset = offsetof(struct nvsp_indirection_table, entries);
	for (unsigned i = 0; i < NVSP_INDIRECTION_ENTRIES; i++)
		table.entries[i] = i % nic->queue_count;
	if (vmbus_send(nic->queues[0].channel, 0, false, &iov, 1) != -ERR_BUSY)
		nic->indirection_due = false;
}

static void service_queue(struct netvsp_queue *queue)
{
	struct netvsp *nic = queue->nic;

	if (!queue->open)
		return;
	netvsp_flush_completions(queue);
	netvsp_receive_flush(queue);
	read_queue(queue);
	netvsp_flush_responses(nic);
	if (nic->indirection_due)
		send_indirection_table(nic);
}

/* Sections or ring room may have come free: let the port deliver what it keeps. */
static void resume_receive(struct netvsp *nic)
{
	if (!nic->receive_blocked || !nic->port)
		return;
	nic->receive_blocked = false;
	port_resume(nic->port);
}

void netvsp_service(struct netvsp *nic)
{
	for (unsigned i = 0; i < nic->queue_count; i++)
		service_queue(&nic->queues[i]);
	resume_receive(nic);
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct netvsp_queue *queue = dev;

	(void)channel;
	service_queue(queue);
	resume_receive(queue->nic);
}

static int on_opened(void *dev, struct vmbus_channel *channel, const uint8_t *user_data)
{
	struct netvsp_queue *queue = dev;

	(void)channel, (void)user_data;
	queue->open = true;
	if (queue->index && queue->nic->indirection_due)
		send_indirection_table(queue->nic);
	return 0;
}

/* What the guest was using is gone; unsent frames, answers and sections with it. */
static void reset_queue(struct netvsp_queue *queue)
{
	queue->open = false;
	queue->completion_first = queue->completion_count = 0;
	queue->stage.count = 0;
}

static void on_subchannel_closed(void *dev, struct vmbus_channel *channel)
{
	struct netvsp_queue *queue = dev;

	(void)channel;
	if (queue->nic->tx.queue == queue)
		netvsp_transmit_reset(queue->nic);
	reset_queue(queue);
}

static void reset_session(struct netvsp *nic)
{
	netvsp_transmit_reset(nic);
	for (unsigned i = 0; i < nic->queue_count; i++)
		reset_queue(&nic->queues[i]);
	for (unsigned i = 1; i < nic->queue_count; i++)
		nic->queues[i].channel = NULL;
	nic->queue_count = 1;
	netvsp_receive_revoke(nic);
	nic->send.set = false;
	nic->version = 0;
	nic->mtu = NETVSP_DEFAULT_MTU;
	nic->capabilities = 0;
	nic->indirection_due = false;
	netvsp_control_reset(nic);
	resume_receive(nic); /* drops what was kept */
}

static void on_primary_closed(void *dev, struct vmbus_channel *channel)
{
	struct netvsp_queue *queue = dev;

	(void)channel;
	reset_session(queue->nic);
}

static const struct vmbus_channel_ops primary_ops = { on_opened, on_primary_closed, on_ready };
static const struct vmbus_channel_ops subchannel_ops = { on_opened, on_subchannel_closed,
							 on_ready };

/* ---- port and link ---- */

bool netvsp_link_up(const struct netvsp *nic)
{
	return nic->cable_up && nic->port && port_is_open(nic->port);
}

static unsigned on_port_received(void *user, struct port_frame *frames, unsigned count)
{
	return netvsp_receive(user, frames, count);
}

static void on_port_writable(void *user)
{
	struct netvsp *nic = user;

	nic->tx.blocked = false;
	if (netvsp_transmit_flush(nic))
		netvsp_service(nic);
}

static void on_port_closed(void *user)
{
	struct netvsp *nic = user;

	log_warn("network adapter '%s': the switch is gone", nic->name);
	nic->tx.blocked = false;
	netvsp_indicate_link(nic);
	netvsp_transmit_flush(nic);
	netvsp_service(nic);
}

static const struct port_ops port_ops = { on_port_received, on_port_writable, on_port_closed };

int netvsp_set_port(struct netvsp *nic, int fd, struct error *err)
{
	struct port *port = NULL;

	if (fd >= 0) {
		int r = port_new(nic->loop, fd, &port_ops, nic, &port, err);

		if (r < 0)
			return r;
	}
	port_free(nic->port);
	nic->port = port;
	nic->segments_done = 0;
	nic->receive_blocked = false;
	nic->tx.blocked = false;
	netvsp_indicate_link(nic);
	netvsp_transmit_flush(nic);
	netvsp_service(nic);
	return 0;
}

void netvsp_set_link(struct netvsp *nic, bool up)
{
	nic->cable_up = up;
	netvsp_indicate_link(nic);
}

bool netvsp_is_up(const struct netvsp *nic)
{
	return nic->queues[0].open && nic->packet_filter;
}

void netvsp_drain(struct netvsp *nic)
{
	/* Without a link nothing waits for the port. */
	nic->cable_up = false;
	netvsp_transmit_drop(nic);
	netvsp_service(nic);
}

void netvsp_network_changed(struct netvsp *nic)
{
	netvsp_indicate(nic, RNDIS_STATUS_NETWORK_CHANGE, NULL, 0);
}

/* ---- quiet ---- */

void netvsp_quiesce(struct netvsp *nic)
{
	netvsp_transmit_drop(nic);
	nic->quiet = true;
	nic->segments_done = 0;
}

void netvsp_unquiesce(struct netvsp *nic)
{
	nic->quiet = false;
	netvsp_service(nic);
}

/* ---- life ---- */

const struct netvsp_stats *netvsp_stats(const struct netvsp *nic)
{
	return &nic->stats;
}

void netvsp_status(const struct netvsp *nic, struct netvsp_status *ret)
{
	*ret = (struct netvsp_status){
		.connected = netvsp_link_up(nic),
		.running = nic->packet_filter != 0,
		.version = nic->version,
		.mtu = nic->mtu,
	};
	for (unsigned i = 0; i < nic->queue_count; i++)
		ret->queues += nic->queues[i].open;
	memcpy(ret->mac, nic->mac, sizeof(ret->mac));
}

static void init_state(struct netvsp *nic, const struct netvsp_config *config)
{
	nic->bus = config->bus;
	nic->loop = config->loop;
	nic->instance = config->instance;
	memcpy(nic->permanent_mac, config->mac, sizeof(nic->permanent_mac));
	snprintf(nic->name, sizeof(nic->name), "%s",
		 config->name ? config->name : "Network Adapter");
	nic->mac_change = config->mac_change;
	nic->max_queues = MAX(1u, MIN(config->vp_count, (unsigned)NETVSP_MAX_QUEUES));
	nic->cable_up = true;
	nic->mtu = NETVSP_DEFAULT_MTU;
	nic->queue_count = 1;
	for (unsigned i = 0; i < NETVSP_MAX_QUEUES; i++) {
		nic->queues[i].nic = nic;
		nic->queues[i].index = i;
	}
	netvsp_control_reset(nic);
}

int netvsp_new(const struct netvsp_config *config, struct netvsp **ret, struct error *err)
{
	struct netvsp *nic = calloc(1, sizeof(*nic));
	struct vmbus_offer offer = { .class_id = netvsp_class,
				     .instance_id = config->instance,
				     .ops = &primary_ops };
	int r;

	if (!nic) {
		if (config->port_fd >= 0)
			close(config->port_fd);
		return error_set(err, ERR_NO_MEMORY, "no memory for a network adapter");
	}
	init_state(nic, config);
	r = netvsp_set_port(nic, config->port_fd, err);
	if (r == 0) {
		offer.dev = &nic->queues[0];
		r = vmbus_offer(nic->bus, &offer, &nic->queues[0].channel, err);
	}
	if (r < 0) {
		netvsp_free(nic);
		return r;
	}
	*ret = nic;
	return 0;
}

void netvsp_free(struct netvsp *nic)
{
	if (!nic)
		return;
	/* Sub-channels go with the primary. */
	if (nic->queues[0].channel)
		vmbus_rescind(nic->queues[0].channel);
	reset_session(nic);
	port_free(nic->port);
	free(nic);
}
