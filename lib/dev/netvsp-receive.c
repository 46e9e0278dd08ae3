/*
 * From the port to the guest: frames go into sections of the guest's receive buffer, one RNDIS
 * message each, and several sections are handed over by one transfer-page packet. A section is free
 * again when the guest completes that packet, not earlier, whatever happens to the ring.
 */
#include "dev/netvsp-impl.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define NO_SECTION UINT32_MAX
#define PPI_BYTES  16u
/* RNDIS_PACKET and all the per-packet information that we add: checksum, hash, tag, RSC. */
#define OVERHEAD_BYTES (RNDIS_HEADER_BYTES + (uint32_t)sizeof(struct rndis_packet) + 4 * PPI_BYTES)

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

bool netvsp_receive_init(struct netvsp_receive_buffer *rb, uint32_t gpadl, uint16_t id,
			 uint32_t bytes, uint32_t count)
{
	*rb = (struct netvsp_receive_buffer){ .set = true,
					      .gpadl = gpadl,
					      .id = id,
					      .section_bytes = bytes,
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

bool netvsp_receive_set_buffer(struct netvsp *nic, uint32_t gpadl, uint16_t id)
{
	uint64_t bytes = vmbus_gpadl_bytes(nic->queues[0].channel, gpadl);
	uint32_t section = section_bytes(nic);

	if (nic->receive.set || bytes < section)
		return false;
	return netvsp_receive_init(&nic->receive, gpadl, id, section,
				   (uint32_t)MIN(bytes / section, NETVSP_MAX_SECTIONS));
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
	if (send_sections(queue, NVSP_CHANNEL_DATA, stage->ranges, stage->sections, stage->count) ==
	    -ERR_BUSY)
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
	if (send_sections(&nic->queues[0], NVSP_CHANNEL_CONTROL, &range, &section, 1) != -ERR_BUSY)
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

/* What a frame's segments have in common. */
struct delivery {
	struct netvsp_queue *queue;
	struct frame_layout layout;
	bool csum_valid;
	bool has_hash;
	uint32_t hash;
	bool strip_tag; /* the tag goes beside the frame */
	uint16_t tci;
};

enum outcome { DELIVERED, DROPPED, NO_ROOM };

/* The frame, in two pieces: what is before the tag is in head. */
struct piece {
	const uint8_t *head, *payload;
	size_t head_bytes, payload_bytes;
};

static uint32_t put_ppi(uint8_t *at, uint32_t type, uint32_t value)
{
	struct rndis_ppi head = { PPI_BYTES, type, sizeof(head) };

	memcpy(at, &head, sizeof(head));
	store_le32(at + sizeof(head), value);
	return PPI_BYTES;
}

static uint32_t checksum_info(const struct netvsp *nic, const struct delivery *d,
			      const struct piece *p)
{
	const struct netvsp_offloads *o = &nic->offloads;
	const struct frame_layout *l = &d->layout;
	uint32_t info = 0;

	if (o->rx_ip4 && l->ipv4 &&
	    frame_fold(frame_sum(p->head + l->l3, (p->head[l->l3] & 15) * 4u)) == 0)
		info |= PPI_CHECKSUM_RX_IP_OK;
	if (!d->csum_valid || !l->l4)
		return info;
	if (l->l4_protocol == 6 && (l->ipv4 ? o->rx_tcp4 : o->rx_tcp6))
		info |= PPI_CHECKSUM_RX_TCP_OK;
	if (l->l4_protocol == 17 && (l->ipv4 ? o->rx_udp4 : o->rx_udp6))
		info |= PPI_CHECKSUM_RX_UDP_OK;
	return info;
}

/* The information that goes with a frame's first (or only) section; returns its length. */
static uint32_t put_frame_info(const struct netvsp *nic, const struct delivery *d,
			       const struct piece *p, uint8_t *at)
{
	uint32_t checksum = checksum_info(nic, d, p), bytes = 0;

	if (checksum)
		bytes += put_ppi(at, RNDIS_PPI_CHECKSUM, checksum);
	if (d->has_hash)
		bytes += put_ppi(at + bytes, RNDIS_PPI_HASH_VALUE, d->hash);
	if (d->strip_tag)
		bytes += put_ppi(at + bytes, RNDIS_PPI_VLAN, PPI_VLAN_FROM_TCI(d->tci));
	return bytes;
}

/* Fills in the headers before ppi_bytes of information; returns where the data goes. */
static uint32_t put_headers(uint8_t *message, uint32_t ppi_bytes, uint32_t data_bytes)
{
	struct rndis_packet body = { .data_offset = (uint32_t)sizeof(body) + ppi_bytes,
				     .data_bytes = data_bytes };
	uint32_t start = RNDIS_HEADER_BYTES + body.data_offset;
	struct rndis_header header = { RNDIS_PACKET, start + data_bytes };

	if (ppi_bytes) {
		body.ppi_offset = sizeof(body);
		body.ppi_bytes = ppi_bytes;
	}
	memcpy(message, &header, sizeof(header));
	memcpy(message + sizeof(header), &body, sizeof(body));
	return start;
}

/* Puts a message into the n-th next free section and into the stage. */
static bool fill_section(struct netvsp *nic, struct netvsp_stage *stage, const uint8_t *start,
			 uint32_t start_bytes, const uint8_t *rest, uint32_t rest_bytes)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	struct vmbus_channel *channel = nic->queues[0].channel;
	uint32_t section = rb->free_sections[rb->free_section_count - 1];
	uint64_t offset = (uint64_t)section * rb->section_bytes;

	if (!vmbus_gpadl_write(channel, rb->gpadl, offset, start, start_bytes) ||
	    (rest_bytes &&
	     !vmbus_gpadl_write(channel, rb->gpadl, offset + start_bytes, rest, rest_bytes)))
		return false;
	rb->free_section_count--;
	stage->sections[stage->count] = section;
	stage->ranges[stage->count++] =
	    (struct vmbus_xfer_range){ start_bytes + rest_bytes, (uint32_t)offset };
	return true;
}

#define START_BYTES (OVERHEAD_BYTES + FRAME_MAX_TCP_HEADERS)

/* Cuts a large frame over several sections; the guest puts it together (RSC over VMBus). start
 * holds the head of it, behind room for the RNDIS headers. */
static bool fill_fragments(struct netvsp *nic, const struct delivery *d, const struct piece *p,
			   unsigned count, uint32_t room)
{
	size_t total = p->head_bytes + p->payload_bytes, done = 0;
	struct rndis_ppi_rsc rsc = { .version = PPI_RSC_VERSION, .packet_id = ++nic->next_rsc_id };

	for (unsigned i = 0; i < count; i++) {
		uint32_t bytes = (uint32_t)MIN(room, total - done), ppi_bytes, at, value;
		uint8_t start[START_BYTES];
		const uint8_t *rest = p->payload + done - p->head_bytes;

		rsc.flags = PPI_RSC_SUBALLOCATION | (i == 0 ? PPI_RSC_FIRST_FRAGMENT : 0) |
			    (i == count - 1 ? PPI_RSC_LAST_FRAGMENT : 0);
		memcpy(&value, &rsc, sizeof(value));
		at = RNDIS_HEADER_BYTES + (uint32_t)sizeof(struct rndis_packet);
		ppi_bytes = put_ppi(start + at, RNDIS_PPI_RSC, le32toh(value));
		if (i == 0)
			ppi_bytes += put_frame_info(nic, d, p, start + at + ppi_bytes);
		at = put_headers(start, ppi_bytes, bytes);
		if (i == 0) {
			memcpy(start + at, p->head, p->head_bytes);
			at += (uint32_t)p->head_bytes;
			rest = p->payload;
			bytes -= (uint32_t)p->head_bytes;
			done += p->head_bytes;
		}
		if (!fill_section(nic, &d->queue->stage, start, at, rest, bytes))
			return false;
		done += bytes;
	}
	return true;
}

/* A whole frame in one section. */
static bool fill_whole(struct netvsp *nic, const struct delivery *d, const struct piece *p)
{
	uint32_t at = RNDIS_HEADER_BYTES + (uint32_t)sizeof(struct rndis_packet);
	uint8_t start[START_BYTES];

	at = put_headers(start, put_frame_info(nic, d, p, start + at),
			 (uint32_t)(p->head_bytes + p->payload_bytes));
	memcpy(start + at, p->head, p->head_bytes);
	return fill_section(nic, &d->queue->stage, start, at + (uint32_t)p->head_bytes, p->payload,
			    (uint32_t)p->payload_bytes);
}

static bool rsc_enabled(const struct netvsp *nic, const struct delivery *d)
{
	return (d->layout.ipv4 && nic->offloads.rsc4) || (d->layout.ipv6 && nic->offloads.rsc6);
}

/* Stages one frame (or segment) with its queue. */
static enum outcome stage_frame(struct netvsp *nic, const struct delivery *d, const struct piece *p)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	struct netvsp_stage *stage = &d->queue->stage;
	uint32_t room = rb->section_bytes - OVERHEAD_BYTES;
	size_t bytes = p->head_bytes + p->payload_bytes;
	unsigned sections = (unsigned)((bytes + room - 1) / room);

	if (sections > 1 && !rsc_enabled(nic, d)) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	if (sections > NETVSP_RANGES_PER_PACKET || sections > rb->section_count) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	if (stage->count + sections > NETVSP_RANGES_PER_PACKET && !netvsp_receive_flush(d->queue))
		return NO_ROOM;
	if (rb->free_section_count < sections) {
		nic->stats.received_no_buffer++;
		return NO_ROOM;
	}
	if (sections > 1 ? !fill_fragments(nic, d, p, sections, room) : !fill_whole(nic, d, p))
		return DROPPED;
	netvsp_count(nic->stats.received, p->head, bytes);
	return DELIVERED;
}

/* The same with the tag taken out, where the guest wants it beside the frame. */
static enum outcome stage_tagged(struct netvsp *nic, const struct delivery *d,
				 const struct piece *p)
{
	uint8_t head[FRAME_MAX_TCP_HEADERS];
	struct piece untagged = *p;
	struct delivery moved = *d;

	if (!d->strip_tag)
		return stage_frame(nic, d, p);
	memcpy(head, p->head, 2 * FRAME_MAC_BYTES);
	memcpy(head + 2 * FRAME_MAC_BYTES, p->head + 2 * FRAME_MAC_BYTES + FRAME_VLAN_BYTES,
	       p->head_bytes - 2 * FRAME_MAC_BYTES - FRAME_VLAN_BYTES);
	untagged.head = head;
	untagged.head_bytes -= FRAME_VLAN_BYTES;
	moved.layout.l3 = (uint16_t)(moved.layout.l3 - FRAME_VLAN_BYTES);
	return stage_frame(nic, &moved, &untagged);
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

static void note_tag(struct netvsp *nic, const uint8_t *data, struct delivery *d)
{
	d->strip_tag = nic->capabilities & NVSP_CAPABILITY_VLAN &&
		       d->layout.l3 == FRAME_HEADER_BYTES + FRAME_VLAN_BYTES;
	if (d->strip_tag)
		d->tci = load_be16(data + FRAME_HEADER_BYTES);
}

/* What the guest takes at once: a segment, or many of them if it does RSC. */
static uint16_t delivery_bytes(const struct netvsp *nic, const struct delivery *d, uint16_t gso)
{
	if (!rsc_enabled(nic, d) || gso > NETVSP_RSC_BYTES)
		return gso;
	return (uint16_t)(NETVSP_RSC_BYTES / gso * gso);
}

static enum outcome deliver_segments(struct netvsp *nic, const struct delivery *d,
				     const uint8_t *data, size_t len, uint16_t gso)
{
	struct frame_segmenter s;
	unsigned index = 0;

	if (!frame_segmenter_init(&s, data, len, delivery_bytes(nic, d, gso)))
		return DROPPED;
	while (frame_segmenter_next(&s)) {
		struct piece piece = { s.headers, s.payload, s.headers_len, s.payload_len };

		/* Some may have gone before the sections ran out. */
		if (index++ < nic->segments_done)
			continue;
		if (stage_tagged(nic, d, &piece) == NO_ROOM)
			return NO_ROOM;
		nic->segments_done++;
	}
	return DELIVERED;
}

static enum outcome deliver_whole(struct netvsp *nic, struct delivery *d,
				  const struct port_frame *frame)
{
	uint8_t *data = frame->iov->iov_base;
	size_t len = frame->iov->iov_len, head = MIN(len, (size_t)FRAME_MAX_TCP_HEADERS);
	struct piece piece = { data, data + head, head, len - head };

	/* Doing it again, when the frame comes again, does no harm. */
	if (frame->offload.flags & (FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM) &&
	    !frame_finish(data, len, &frame->offload)) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	d->csum_valid = frame->offload.flags & (FRAME_NEEDS_CSUM | FRAME_CSUM_VALID);
	return stage_tagged(nic, d, &piece);
}

static enum outcome deliver_frame(struct netvsp *nic, const struct port_frame *frame)
{
	const uint8_t *data = frame->iov->iov_base;
	struct delivery d = { 0 };

	if (!passes_filter(nic, data))
		return DROPPED;
	if (!frame_parse(data, frame->iov->iov_len, frame->offload.gso_bytes, &d.layout)) {
		nic->stats.received_errors++;
		return DROPPED;
	}
	choose_queue(nic, data, &d);
	note_tag(nic, data, &d);
	if (!frame->offload.gso_bytes)
		return deliver_whole(nic, &d, frame);
	d.csum_valid = true;
	return deliver_segments(nic, &d, data, frame->iov->iov_len, frame->offload.gso_bytes);
}

unsigned netvsp_receive(struct netvsp *nic, struct port_frame *frames, unsigned count)
{
	unsigned taken = 0;

	if (nic->quiet) {
		nic->receive_blocked = true;
		return 0;
	}
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
