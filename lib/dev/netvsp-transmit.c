/*
 * From the guest to the port. A frame stays where the guest has it: the port's socket copies it
 * once. So metadata is all that may be believed here, and it is a copy; what the frame itself says
 * is the receiver's to check.
 */
#include "dev/netvsp-impl.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PIECES    1024 /* of one VMBus packet */
#define MAX_PPI_BYTES 512

/* The bytes of one packet: send buffer section first, then the guest's pages. */
struct gather {
	struct iovec iov[MAX_PIECES];
	unsigned count;
	uint64_t bytes;
};

static bool gather_packet(struct netvsp *nic, const struct vmbus_packet *packet,
			  const struct nvsp_rndis_packet *nvsp, struct gather *g)
{
	g->count = 0;
	g->bytes = 0;
	if (nvsp->section_index != NVSP_NO_SECTION) {
		if (!nic->send.set || nvsp->section_index >= nic->send.section_count ||
		    nvsp->section_bytes > nic->send.section_bytes)
			return false;
		if (nvsp->section_bytes)
			g->count =
			    vmbus_gpadl_map(nic->queues[0].channel, nic->send.gpadl,
					    (uint64_t)nvsp->section_index * nic->send.section_bytes,
					    nvsp->section_bytes, g->iov, NULL, 8);
		if (nvsp->section_bytes && !g->count)
			return false;
		g->bytes = nvsp->section_bytes;
	}
	if (packet->iov_count > MAX_PIECES - g->count)
		return false;
	if (packet->iov_count)
		memcpy(g->iov + g->count, packet->iov, packet->iov_count * sizeof(*packet->iov));
	g->count += packet->iov_count;
	g->bytes += packet->iov_bytes;
	return true;
}

/* A part of g as pieces; returns how many, or max + 1 if there are more. In bounds: the caller's.
 */
static unsigned slice(const struct gather *g, uint64_t offset, uint64_t bytes, struct iovec *ret,
		      unsigned max)
{
	unsigned count = 0;

	for (unsigned i = 0; i < g->count && bytes; i++) {
		size_t len = g->iov[i].iov_len;

		if (offset >= len) {
			offset -= len;
			continue;
		}
		if (count == max)
			return max + 1;
		ret[count].iov_base = (uint8_t *)g->iov[i].iov_base + offset;
		ret[count].iov_len = MIN(len - offset, bytes);
		bytes -= ret[count].iov_len;
		offset = 0;
		count++;
	}
	return count;
}

static void copy_out(const struct gather *g, uint64_t offset, void *buf, uint64_t bytes)
{
	uint8_t *to = buf;

	for (unsigned i = 0; i < g->count && bytes; i++) {
		size_t len = g->iov[i].iov_len, n;

		if (offset >= len) {
			offset -= len;
			continue;
		}
		n = MIN(len - offset, bytes);
		memcpy(to, (const uint8_t *)g->iov[i].iov_base + offset, n);
		to += n;
		bytes -= n;
		offset = 0;
	}
}

/* ---- per-packet information ---- */

struct packet_info {
	struct frame_offload offload;
	bool has_tag;
	uint16_t tci;
};

static bool apply_ppi(struct packet_info *info, uint32_t type, uint32_t value)
{
	switch (type) {
	case RNDIS_PPI_CHECKSUM:
		if (value & (PPI_CHECKSUM_TX_TCP | PPI_CHECKSUM_TX_UDP))
			info->offload.flags |= FRAME_NEEDS_CSUM;
		if (value & PPI_CHECKSUM_TX_IP_HEADER)
			info->offload.flags |= FRAME_NEEDS_IP_CSUM;
		return true;
	case RNDIS_PPI_LSO:
		if (!(value & PPI_LSO_V2) || !PPI_LSO_MSS(value) || PPI_LSO_MSS(value) > UINT16_MAX)
			return false;
		info->offload.gso_bytes = (uint16_t)PPI_LSO_MSS(value);
		return true;
	case RNDIS_PPI_VLAN:
		info->has_tag = true;
		info->tci = PPI_VLAN_TCI(value);
		return true;
	default:
		return true; /* hash values and what we did not ask for */
	}
}

static bool parse_ppi(const uint8_t *ppi, uint32_t bytes, struct packet_info *info)
{
	while (bytes >= sizeof(struct rndis_ppi)) {
		struct rndis_ppi head;

		memcpy(&head, ppi, sizeof(head));
		if (head.bytes < sizeof(head) || head.bytes > bytes)
			return false;
		if (RANGE_OK(head.data_offset, 4, head.bytes) &&
		    !apply_ppi(info, head.type, load_le32(ppi + head.data_offset)))
			return false;
		ppi += head.bytes;
		bytes -= head.bytes;
	}
	return bytes == 0;
}

/* ---- frames ---- */

/* The frame in one piece of our own: it came in too many. */
static bool bounce_frame(struct netvsp_tx *tx, const struct gather *g, uint64_t offset,
			 uint32_t bytes, struct iovec *iov)
{
	uint8_t *copy = malloc(bytes);

	if (!copy)
		return false;
	copy_out(g, offset, copy, bytes);
	tx->bounce[tx->frame_count] = copy;
	*iov = (struct iovec){ copy, bytes };
	return true;
}

/* Fills iov with the frame at offset of g, with a tag if it gets one; returns the pieces, 0: none.
 */
static unsigned frame_pieces(struct netvsp_tx *tx, const struct gather *g, uint64_t offset,
			     uint32_t bytes, const struct packet_info *info, struct iovec *iov)
{
	const unsigned addresses = 2 * FRAME_MAC_BYTES;
	uint8_t *tag = tx->tags[tx->frame_count];
	struct gather whole;
	unsigned count, head;

	count = slice(g, offset, bytes, iov, PORT_MAX_IOV - 3);
	if (count > PORT_MAX_IOV - 3) {
		if (!bounce_frame(tx, g, offset, bytes, iov))
			return 0;
		count = 1;
	}
	if (!info->has_tag)
		return count;
	memcpy(whole.iov, iov, count * sizeof(*iov));
	whole.count = count;
	store_be16(tag, 0x8100);
	store_be16(tag + 2, info->tci);
	head = slice(&whole, 0, addresses, iov, PORT_MAX_IOV);
	iov[head++] = (struct iovec){ tag, FRAME_VLAN_BYTES };
	count = slice(&whole, addresses, bytes - addresses, iov + head, PORT_MAX_IOV - head);
	return head + count <= PORT_MAX_IOV ? head + count : 0;
}

static bool add_frame(struct netvsp *nic, const struct gather *g, uint64_t offset, uint32_t bytes,
		      const struct packet_info *info)
{
	struct netvsp_tx *tx = &nic->tx;
	struct iovec *iov = tx->iov[tx->frame_count];
	uint8_t mac[FRAME_MAC_BYTES];
	unsigned pieces;

	if (bytes < FRAME_MIN_BYTES || bytes > FRAME_MAX_BYTES - FRAME_VLAN_BYTES)
		return false;
	if (!netvsp_link_up(nic)) {
		nic->stats.sent_dropped++;
		return true;
	}
	pieces = frame_pieces(tx, g, offset, bytes, info, iov);
	if (!pieces)
		return false;
	tx->frames[tx->frame_count++] = (struct port_frame){ info->offload, iov, pieces };
	copy_out(g, offset, mac, sizeof(mac));
	netvsp_count(nic->stats.sent, mac, bytes);
	return true;
}

/* One RNDIS_PACKET of message_bytes at offset of g. */
static bool add_rndis_packet(struct netvsp *nic, const struct gather *g, uint64_t offset,
			     uint32_t message_bytes)
{
	uint32_t body_bytes = message_bytes - RNDIS_HEADER_BYTES;
	struct packet_info info = { 0 };
	uint8_t ppi[MAX_PPI_BYTES];
	struct rndis_packet body;

	offset += RNDIS_HEADER_BYTES;
	if (body_bytes < sizeof(body))
		return false;
	copy_out(g, offset, &body, sizeof(body));
	if (!RANGE_OK(body.data_offset, body.data_bytes, body_bytes))
		return false;
	if (body.ppi_bytes) {
		if (body.ppi_bytes > sizeof(ppi) ||
		    !RANGE_OK(body.ppi_offset, body.ppi_bytes, body_bytes))
			return false;
		copy_out(g, offset + body.ppi_offset, ppi, body.ppi_bytes);
		if (!parse_ppi(ppi, body.ppi_bytes, &info))
			return false;
	}
	return add_frame(nic, g, offset + body.data_offset, body.data_bytes, &info);
}

/* All messages of a data packet. False: one of them was bad; those before it are sent. */
static bool add_messages(struct netvsp *nic, const struct gather *g)
{
	uint64_t offset = 0;

	for (unsigned i = 0; g->bytes - offset >= RNDIS_HEADER_BYTES; i++) {
		struct rndis_header header;

		if (i == NETVSP_MESSAGES_PER_PACKET)
			return false;
		copy_out(g, offset, &header, sizeof(header));
		if (header.type != RNDIS_PACKET || header.bytes < RNDIS_HEADER_BYTES ||
		    header.bytes > g->bytes - offset ||
		    !add_rndis_packet(nic, g, offset, header.bytes))
			return false;
		offset += header.bytes;
	}
	return offset > 0;
}

/* ---- the batch ---- */

static void run_control(struct netvsp_queue *queue, const struct vmbus_packet *packet,
			const struct gather *g)
{
	struct nvsp_rndis_packet_complete reply = { NVSP_SEND_RNDIS_PACKET_COMPLETE,
						    NVSP_STATUS_BAD_RNDIS_PACKET };
	uint8_t message[NETVSP_MAX_CONTROL_BYTES];
	bool ok = g->bytes <= sizeof(message) && queue->index == 0;

	if (ok)
		copy_out(g, 0, message, g->bytes);
	/* The request is complete before its answer comes. */
	if (ok)
		reply.status = NVSP_STATUS_SUCCESS;
	if (packet->wants_completion)
		netvsp_complete(queue, packet->transaction_id, &reply, sizeof(reply));
	if (ok && !netvsp_control(queue->nic, message, (uint32_t)g->bytes))
		log_guest("network adapter '%s': bad RNDIS control message", queue->nic->name);
}

void netvsp_transmit(struct netvsp_queue *queue, const struct vmbus_packet *packet,
		     const struct nvsp_rndis_packet *nvsp)
{
	struct netvsp *nic = queue->nic;
	struct netvsp_tx *tx = &nic->tx;
	struct netvsp_tx_packet *p;
	struct gather g;
	bool gathered = gather_packet(nic, packet, nvsp, &g);

	if (gathered && nvsp->channel == NVSP_CHANNEL_CONTROL) {
		run_control(queue, packet, &g);
		return;
	}
	tx->queue = queue;
	p = &tx->packets[tx->packet_count++];
	*p = (struct netvsp_tx_packet){ packet->transaction_id, packet->wants_completion,
					NVSP_STATUS_SUCCESS };
	if (!gathered || nvsp->channel != NVSP_CHANNEL_DATA || !nic->rndis_ready ||
	    !add_messages(nic, &g)) {
		p->status = NVSP_STATUS_BAD_RNDIS_PACKET;
		nic->stats.sent_errors++;
	}
}

bool netvsp_transmit_has_room(const struct netvsp *nic)
{
	return nic->tx.packet_count < NETVSP_PACKETS_PER_BATCH &&
	       nic->tx.frame_count + NETVSP_MESSAGES_PER_PACKET <= NETVSP_FRAMES_PER_BATCH;
}

void netvsp_transmit_reset(struct netvsp *nic)
{
	struct netvsp_tx *tx = &nic->tx;

	for (unsigned i = 0; i < tx->frame_count; i++) {
		free(tx->bounce[i]);
		tx->bounce[i] = NULL;
	}
	tx->queue = NULL;
	tx->packet_count = tx->frame_count = tx->frames_sent = 0;
}

static void complete_batch(struct netvsp *nic)
{
	struct netvsp_tx *tx = &nic->tx;

	for (unsigned i = 0; i < tx->packet_count; i++) {
		struct nvsp_rndis_packet_complete reply = { NVSP_SEND_RNDIS_PACKET_COMPLETE,
							    tx->packets[i].status };

		if (tx->packets[i].wants_completion)
			netvsp_complete(tx->queue, tx->packets[i].transaction_id, &reply,
					sizeof(reply));
	}
}

void netvsp_transmit_drop(struct netvsp *nic)
{
	nic->tx.blocked = false;
	if (nic->tx.packet_count)
		complete_batch(nic);
	netvsp_transmit_reset(nic);
}

bool netvsp_transmit_flush(struct netvsp *nic)
{
	struct netvsp_tx *tx = &nic->tx;

	if (tx->blocked)
		return false;
	if (tx->frames_sent < tx->frame_count && nic->port)
		tx->frames_sent += port_send(nic->port, tx->frames + tx->frames_sent,
					     tx->frame_count - tx->frames_sent);
	else
		tx->frames_sent = tx->frame_count;
	if (tx->frames_sent < tx->frame_count) {
		tx->blocked = true;
		return false;
	}
	complete_batch(nic);
	netvsp_transmit_reset(nic);
	return true;
}
