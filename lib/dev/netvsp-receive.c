/*
 * From the port to the guest: frames go into sections of the guest's receive buffer, one RNDIS message
 * each, and several sections are handed over by one transfer-page packet. A section is free again when
 * the guest completes that packet, not earlier, whatever happens to the ring.
 */
#include "dev/netvsp-impl.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define NO_SECTION	  UINT32_MAX
#define MESSAGE_ALIGNMENT 8u
/* RNDIS_PACKET and all the per-packet information that we add. */
#define OVERHEAD_BYTES (RNDIS_HEADER_BYTES + (uint32_t)sizeof(struct rndis_packet) + 4 * 16)

/* ---- the buffer ---- */

static void free_buffer(struct netvsp_receive_buffer *rb)
{
	free(rb->free_sections);
	free(rb->free_transactions);
	free(rb->section_next);
	free(rb->transactions);
	*rb = (struct netvsp_receive_buffer){ 0 };
}

static uint32_t section_bytes(const struct netvsp *nic)
{
	uint32_t frame = nic->mtu + FRAME_HEADER_BYTES + FRAME_VLAN_BYTES;

	return MAX(NETVSP_MIN_SECTION_BYTES, ALIGN_UP(frame + OVERHEAD_BYTES, 64u));
}

bool netvsp_receive_set_buffer(struct netvsp *nic, uint32_t gpadl, uint16_t id)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	uint64_t bytes = vmbus_gpadl_bytes(nic->queues[0].channel, gpadl);
	uint32_t count;

	if (rb->set || bytes < section_bytes(nic))
		return false;
	count = (uint32_t)MIN(bytes / section_bytes(nic), NETVSP_MAX_SECTIONS);
	*rb = (struct netvsp_receive_buffer){ .set = true,
					      .gpadl = gpadl,
					      .id = id,
					      .section_bytes = section_bytes(nic),
					      .section_count = count };
	rb->free_sections = calloc(count, sizeof(*rb->free_sections));
	rb->free_transactions = calloc(count, sizeof(*rb->free_transactions));
	rb->section_next = calloc(count, sizeof(*rb->section_next));
	rb->transactions = calloc(count, sizeof(*rb->transactions));
	if (!rb->free_sections || !rb->free_transactions || !rb->section_next ||
	    !rb->transactions) {
		free_buffer(rb);
		return false;
	}
	for (uint32_t i = 0; i < count; i++)
		rb->free_sections[i] = rb->free_transactions[i] = count - 1 - i;
	rb->free_section_count = rb->free_transaction_count = count;
	return true;
}

void netvsp_receive_revoke(struct netvsp *nic)
{
	free_buffer(&nic->receive);
	for (unsigned i = 0; i < nic->queue_count; i++)
		nic->queues[i].stage.count = 0;
}

/* ---- transactions ---- */

/* The id names the slot and its generation, so that an old or made-up completion frees nothing. */
static uint64_t begin_transaction(struct netvsp *nic, const uint32_t *sections, unsigned count)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	uint32_t slot = rb->free_transactions[--rb->free_transaction_count];
	struct netvsp_transaction *t = &rb->transactions[slot];

	t->in_use = true;
	t->generation = ++nic->next_generation;
	t->first_section = NO_SECTION;
	for (unsigned i = count; i-- > 0;) {
		rb->section_next[sections[i]] = t->first_section;
		t->first_section = sections[i];
	}
	return (uint64_t)t->generation << 32 | (slot + 1);
}

/* free_sections: or else the sections stay with who has them. */
static void end_transaction(struct netvsp_receive_buffer *rb, uint32_t slot, bool free_sections)
{
	struct netvsp_transaction *t = &rb->transactions[slot];

	for (uint32_t s = t->first_section; free_sections && s != NO_SECTION;
	     s = rb->section_next[s])
		rb->free_sections[rb->free_section_count++] = s;
	t->in_use = false;
	rb->free_transactions[rb->free_transaction_count++] = slot;
}

void netvsp_receive_completed(struct netvsp *nic, uint64_t transaction_id)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	uint32_t slot = (uint32_t)transaction_id - 1;

	if (!rb->set || slot >= rb->section_count || !rb->transactions[slot].in_use ||
	    rb->transactions[slot].generation != transaction_id >> 32) {
		log_guest("network adapter '%s': completion of an unknown packet", nic->name);
		return;
	}
	end_transaction(rb, slot, true);
}

/* Hands sections over. 0, -ERR_BUSY (the caller keeps them), or another failure (they are lost with
 * the channel). */
static int send_sections(struct netvsp_queue *queue, uint32_t channel,
			 const struct vmbus_xfer_range *ranges, const uint32_t *sections,
			 unsigned count)
{
	struct netvsp *nic = queue->nic;
	struct netvsp_receive_buffer *rb = &nic->receive;
	uint8_t message[NVSP_MESSAGE_BYTES] = { 0 };
	struct nvsp_rndis_packet nvsp = { NVSP_SEND_RNDIS_PACKET, channel, NVSP_NO_SECTION, 0 };
	struct iovec iov = { message, sizeof(message) };
	uint64_t id = begin_transaction(nic, sections, count);
	int r;

	memcpy(message, &nvsp, sizeof(nvsp));
	r = vmbus_send_xfer_pages(queue->channel, id, rb->id, ranges, count, &iov, 1);
	if (r < 0)
		end_transaction(rb, (uint32_t)id - 1, r != -ERR_BUSY);
	return r;
}

bool netvsp_receive_flush(struct netvsp_queue *queue)
{
	struct netvsp_stage *stage = &queue->stage;

	if (!stage->count)
		return true;
	if (send_sections(queue, NVSP_CHANNEL_DATA, stage->ranges, stage->sections,
			  stage->count) == -ERR_BUSY)
		return false;
	stage->count = 0;
	return true;
}

bool netvsp_receive_control(struct netvsp *nic, const void *message, uint32_t bytes)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	struct vmbus_xfer_range range = { bytes, 0 };
	uint32_t section;

	if (!rb->set || !rb->free_section_count || !nic->queues[0].open)
		return false;
	section = rb->free_sections[rb->free_section_count - 1];
	range.byte_offset = section * rb->section_bytes;
	if (!vmbus_gpadl_write(nic->queues[0].channel, rb->gpadl, range.byte_offset, message,
			       bytes))
		return true; /* the guest took its buffer away */
	rb->free_section_count--;
	if (send_sections(&nic->queues[0], NVSP_CHANNEL_CONTROL, &range, &section, 1) !=
	    -ERR_BUSY)
		return true;
	rb->free_sections[rb->free_section_count++] = section;
	return false;
}

/* ---- frames ---- */

static bool in_multicast_list(const struct netvsp *nic, const uint8_t *mac)
{
	for (unsigned i = 0; i < nic->multicast_count; i++)
		if (memcmp(nic->multicast[i], mac, FRAME_MAC_BYTES) == 0)
			return true;
	return false;
}

static bool passes_filter(const struct netvsp *nic, const uint8_t *mac)
{
	uint32_t filter = nic->packet_filter;

	if (filter & NDIS_PACKET_PROMISCUOUS)
		return true;
	if (frame_is_broadcast(mac))
		return filter & NDIS_PACKET_BROADCAST;
	if (frame_is_multicast(mac))
		return filter & NDIS_PACKET_ALL_MULTICAST ||
		       (filter & NDIS_PACKET_MULTICAST && in_multicast_list(nic, mac));
	return filter & NDIS_PACKET_DIRECTED && memcmp(mac, nic->mac, FRAME_MAC_BYTES) == 0;
}

static void count_frame(struct netvsp_stats *stats, const uint8_t *mac, size_t bytes)
{
	struct netvsp_counters *c = &stats->received_directed;

	if (frame_is_broadcast(mac))
		c = &stats->received_broadcast;
	else if (frame_is_multicast(mac))
		c = &stats->received_multicast;
	c->frames++;
	c->bytes += bytes;
}

/* What a frame's segments have in common. */
struct delivery {
	struct netvsp_queue *queue;
	bool csum_valid;
	bool has_hash;
	uint32_t hash;
	struct frame_layout layout;
};

enum outcome { DELIVERED, DROPPED, NO_ROOM };

static uint32_t add_ppi(uint8_t *at, uint32_t type, uint32_t value)
{
	struct rndis_ppi head = { sizeof(head) + 4, type, sizeof(head) };

	memcpy(at, &head, sizeof(head));
	store_le32(at + sizeof(head), value);
	return head.bytes;
}

static uint32_t checksum_ppi(const struct netvsp *nic, const struct delivery *d)
{
	bool tcp = d->layout.l4_protocol == 6, v4 = d->layout.ipv4;
	const struct netvsp_offloads *o = &nic->offloads;

	if (!d->csum_valid || !d->layout.l4)
		return 0;
	if (tcp)
		return (v4 ? o->rx_tcp4 : o->rx_tcp6) ? PPI_CHECKSUM_RX_TCP_OK : 0;
	return (v4 ? o->rx_udp4 : o->rx_udp6) ? PPI_CHECKSUM_RX_UDP_OK : 0;
}

/* The RNDIS message up to the frame; returns its length. */
static uint32_t build_message(const struct netvsp *nic, const struct delivery *d,
			      size_t frame_bytes, uint8_t ret[static OVERHEAD_BYTES])
{
	struct rndis_header header = { .type = RNDIS_PACKET };
	struct rndis_packet body = { .data_bytes = (uint32_t)frame_bytes };
	uint32_t at = sizeof(header) + sizeof(body), ppi = at;
	uint32_t checksum = checksum_ppi(nic, d);

	if (checksum)
		at += add_ppi(ret + at, RNDIS_PPI_CHECKSUM, checksum);
	if (d->has_hash)
		at += add_ppi(ret + at, RNDIS_PPI_HASH_VALUE, d->hash);
	if (at > ppi) {
		body.ppi_offset = ppi - RNDIS_HEADER_BYTES;
		body.ppi_bytes = at - ppi;
	}
	body.data_offset = at - RNDIS_HEADER_BYTES;
	header.bytes = at + (uint32_t)frame_bytes;
	memcpy(ret, &header, sizeof(header));
	memcpy(ret + sizeof(header), &body, sizeof(body));
	return at;
}

/* One frame (or segment), headers and payload apart, into a section of the queue's stage. */
static enum outcome stage_frame(struct netvsp *nic, const struct delivery *d, const uint8_t *head,
				size_t head_bytes, const uint8_t *payload, size_t payload_bytes)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	struct vmbus_channel *channel = nic->queues[0].channel;
	struct netvsp_stage *stage = &d->queue->stage;
	uint8_t start[OVERHEAD_BYTES + FRAME_MAX_TCP_HEADERS];
	uint32_t section, bytes;
	uint64_t offset;

	if (stage->count == NETVSP_RANGES_PER_PACKET && !netvsp_receive_flush(d->queue))
		return NO_ROOM;
	if (!rb->free_section_count) {
		nic->stats.received_no_buffer++;
		return NO_ROOM;
	}
	bytes = build_message(nic, d, head_bytes + payload_bytes, start);
	if (bytes + head_bytes + payload_bytes > rb->section_bytes) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	memcpy(start + bytes, head, head_bytes);
	bytes += (uint32_t)head_bytes;
	section = rb->free_sections[rb->free_section_count - 1];
	offset = (uint64_t)section * rb->section_bytes;
	if (!vmbus_gpadl_write(channel, rb->gpadl, offset, start, bytes) ||
	    (payload_bytes && !vmbus_gpadl_write(channel, rb->gpadl, offset + bytes, payload,
						 payload_bytes)))
		return DROPPED;
	rb->free_section_count--;
	stage->sections[stage->count] = section;
	stage->ranges[stage->count++] =
		(struct vmbus_xfer_range){ bytes + (uint32_t)payload_bytes, (uint32_t)offset };
	count_frame(&nic->stats, head, head_bytes + payload_bytes);
	return DELIVERED;
}

static void choose_queue(struct netvsp *nic, const uint8_t *data, struct delivery *d)
{
	d->queue = &nic->queues[0];
	if (!nic->rss.enabled ||
	    !frame_rss_hash(data, &d->layout, nic->rss.hash_types, nic->rss.key, &d->hash))
		return;
	d->has_hash = true;
	if (nic->rss.entries) {
		unsigned index = nic->rss.table[d->hash % nic->rss.entries];

		if (index < nic->queue_count && nic->queues[index].open)
			d->queue = &nic->queues[index];
	}
}

static enum outcome deliver_segments(struct netvsp *nic, const struct delivery *d,
				     const uint8_t *data, size_t len, uint16_t segment_bytes)
{
	struct frame_segmenter s;
	unsigned index = 0;

	if (!frame_segmenter_init(&s, data, len, segment_bytes))
		return DROPPED;
	while (frame_segmenter_next(&s)) {
		/* Some may have gone before the sections ran out. */
		if (index++ < nic->segments_done)
			continue;
		if (stage_frame(nic, d, s.headers, s.headers_len, s.payload, s.payload_len) ==
		    NO_ROOM)
			return NO_ROOM;
		nic->segments_done++;
	}
	return DELIVERED;
}

static enum outcome deliver_frame(struct netvsp *nic, struct port_frame *frame)
{
	uint8_t *data = frame->iov->iov_base;
	size_t len = frame->iov->iov_len, head = MIN(len, (size_t)FRAME_MAX_TCP_HEADERS);
	struct delivery d = { 0 };

	if (!passes_filter(nic, data))
		return DROPPED;
	if (!frame_parse(data, len, frame->offload.gso_bytes, &d.layout)) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	choose_queue(nic, data, &d);
	if (frame->offload.gso_bytes) {
		d.csum_valid = true;
		return deliver_segments(nic, &d, data, len, frame->offload.gso_bytes);
	}
	/* Doing it again, when the frame comes again, does no harm. */
	if (frame->offload.flags & (FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM) &&
	    !frame_finish(data, len, &frame->offload)) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	d.csum_valid = frame->offload.flags & (FRAME_NEEDS_CSUM | FRAME_CSUM_VALID);
	return stage_frame(nic, &d, data, head, data + head, len - head);
}

unsigned netvsp_receive(struct netvsp *nic, struct port_frame *frames, unsigned count)
{
	unsigned taken = 0;

	if (!nic->cable_up || !nic->receive.set || !nic->queues[0].open || !nic->packet_filter) {
		nic->segments_done = 0;
		return count;
	}
	while (taken < count) {
		if (deliver_frame(nic, &frames[taken]) == NO_ROOM) {
			nic->receive_blocked = true;
			break;
		}
		nic->segments_done = 0;
		taken++;
	}
	for (unsigned i = 0; i < nic->queue_count; i++)
		if (nic->queues[i].open)
			netvsp_receive_flush(&nic->queues[i]);
	return taken;
}
