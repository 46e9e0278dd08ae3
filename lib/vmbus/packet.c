/*
 * Packets in a channel's rings. A packet is a 16-byte descriptor, an optional header extension, the
 * payload padded to 8 bytes, and a trailer of 8 bytes that names the index where it began.
 *
 * Signals (guest contract 4.7): the reader of a ring asks for none while it works (interrupt mask)
 * and looks again after it asked for them; the writer signals when the ring was empty and the mask
 * is clear. A writer that lacks room says how much it needs (pending send size) and is signalled
 * when the reader has freed that much.
 */
#include "vmbus/vmbus-impl.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"

#include <string.h>

#define WRITE_INDEX  offsetof(struct vmbus_spec_ring_control, write_index)
#define READ_INDEX   offsetof(struct vmbus_spec_ring_control, read_index)
#define MASK         offsetof(struct vmbus_spec_ring_control, interrupt_mask)
#define PENDING_SIZE offsetof(struct vmbus_spec_ring_control, pending_send_size)
#define FEATURES     offsetof(struct vmbus_spec_ring_control, feature_bits)

#define DESCRIPTOR_BYTES sizeof(struct vmbus_spec_descriptor)

static void full_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static int damage(struct vmbus_channel *channel, const char *what)
{
	log_guest("channel %u: %s; it is dead until it is opened again", channel->relid, what);
	channel->damaged = true;
	return -ERR_CORRUPT;
}

/* ---- receive ---- */

static void set_in_mask(struct vmbus_channel *channel, bool masked)
{
	if (channel->in_masked == masked)
		return;
	channel->in_masked = masked;
	vmbus_ring_store(&channel->in, channel->bus->mem, MASK, masked);
}

/* Wakes a guest that waits for room in its ring, once the free space passes what it needs.
 * freed: what has just been taken out; 0: look only at what is free. */
static void signal_room(struct vmbus_channel *channel, uint32_t freed)
{
	uint32_t pending, write, free_bytes;

	full_fence();
	pending = vmbus_ring_load(&channel->in, PENDING_SIZE);
	if (!pending || !vmbus_ring_other_index(&channel->in, WRITE_INDEX, &write))
		return;
	free_bytes = channel->in.size - vmbus_ring_distance(&channel->in, channel->in.index, write);
	if (free_bytes > pending && (!freed || free_bytes - MIN(freed, free_bytes) <= pending))
		vmbus_channel_signal(channel);
}

static int bytes_available(struct vmbus_channel *channel, uint32_t *ret)
{
	uint32_t write;

	if (!vmbus_ring_other_index(&channel->in, WRITE_INDEX, &write))
		return damage(channel, "impossible write index");
	*ret = vmbus_ring_distance(&channel->in, channel->in.index, write);
	return 0;
}

/* 1: data is there and signals are off; 0: empty and signals are on. */
static int wait_for_data(struct vmbus_channel *channel, uint32_t *available)
{
	if (bytes_available(channel, available) < 0)
		return -ERR_CORRUPT;
	if (!*available) {
		set_in_mask(channel, false);
		signal_room(channel, 0);
		full_fence();
		if (bytes_available(channel, available) < 0)
			return -ERR_CORRUPT;
	}
	if (!*available)
		return 0;
	set_in_mask(channel, true);
	return 1;
}

static bool reserve_packet(struct vmbus_channel *channel, uint32_t len)
{
	uint8_t *packet;

	if (len <= channel->packet_capacity)
		return true;
	packet = realloc(channel->packet, len);
	if (!packet)
		return false;
	channel->packet = packet;
	channel->packet_capacity = len;
	return true;
}

/* Copies the next packet out of the ring and takes it off. The descriptor is read once. */
static int take_packet(struct vmbus_channel *channel, uint32_t available,
		       struct vmbus_spec_descriptor *desc)
{
	struct vmbus_ring *ring = &channel->in;
	uint32_t len, offset, at;

	if (available < DESCRIPTOR_BYTES + VMBUS_TRAILER_BYTES)
		return damage(channel, "packet shorter than its descriptor");
	at = vmbus_ring_read(ring, ring->index, desc, DESCRIPTOR_BYTES);
	len = desc->length8 * 8u;
	offset = desc->data_offset8 * 8u;
	if (len < DESCRIPTOR_BYTES || offset < DESCRIPTOR_BYTES || offset > len ||
	    len + VMBUS_TRAILER_BYTES > available)
		return damage(channel, "impossible packet length");
	if (!reserve_packet(channel, len))
		return damage(channel, "no memory for a packet");
	memcpy(channel->packet, desc, DESCRIPTOR_BYTES);
	at = vmbus_ring_read(ring, at, channel->packet + DESCRIPTOR_BYTES,
			     len - (uint32_t)DESCRIPTOR_BYTES);
	ring->index = vmbus_ring_advance(ring, at, VMBUS_TRAILER_BYTES);
	vmbus_ring_store(ring, channel->bus->mem, READ_INDEX, ring->index);
	signal_room(channel, len + VMBUS_TRAILER_BYTES);
	return 0;
}

static bool reserve_iov(struct vmbus_channel *channel, unsigned count)
{
	struct iovec *iov;
	uint64_t *gpa;

	if (count <= channel->iov_capacity)
		return true;
	iov = realloc(channel->iov, count * sizeof(*iov));
	if (iov)
		channel->iov = iov;
	gpa = realloc(channel->iov_gpa, count * sizeof(*gpa));
	if (gpa)
		channel->iov_gpa = gpa;
	if (!iov || !gpa)
		return false;
	channel->iov_capacity = count;
	return true;
}

/* Adds len bytes at gpa, joined to the entry before if it continues it. False: not RAM. */
static bool add_piece(struct vmbus_channel *channel, struct vmbus_packet *packet, uint64_t gpa,
		      uint32_t len)
{
	uint8_t *host = mem_ptr(channel->bus->mem, gpa, len);
	unsigned last = packet->iov_count - 1;

	if (!host)
		return false;
	packet->iov_bytes += len;
	if (packet->iov_count && channel->iov_gpa[last] + channel->iov[last].iov_len == gpa) {
		channel->iov[last].iov_len += len;
		return true;
	}
	channel->iov[packet->iov_count] = (struct iovec){ .iov_base = host, .iov_len = len };
	channel->iov_gpa[packet->iov_count] = gpa;
	packet->iov_count++;
	return true;
}

/* One range of a GPA direct packet at *at of the private copy, which ends at end. */
static bool add_range(struct vmbus_channel *channel, struct vmbus_packet *packet, uint32_t *at,
		      uint32_t end)
{
	struct vmbus_spec_gpa_range range;
	uint64_t pages, in_page, left;

	if (!RANGE_OK(*at, sizeof(range), end))
		return false;
	memcpy(&range, channel->packet + *at, sizeof(range));
	*at += sizeof(range);
	if (range.byte_offset >= VMBUS_PAGE_BYTES)
		return false;
	pages = ((uint64_t)range.byte_offset + range.byte_count + VMBUS_PAGE_BYTES - 1) /
		VMBUS_PAGE_BYTES;
	if (pages * 8 > end - *at)
		return false;
	in_page = range.byte_offset;
	left = range.byte_count;
	for (uint64_t i = 0; i < pages; i++, *at += 8) {
		uint64_t pfn = load_le64(channel->packet + *at);
		uint64_t len = MIN(VMBUS_PAGE_BYTES - in_page, left);

		if (pfn >> 52)
			return false;
		if (len && !add_piece(channel, packet, (pfn << 12) + in_page, (uint32_t)len))
			return false;
		left -= len;
		in_page = 0;
	}
	return true;
}

static int parse_gpa_direct(struct vmbus_channel *channel, struct vmbus_packet *packet,
			    uint32_t end)
{
	struct vmbus_spec_gpa_direct header;
	uint32_t at = sizeof(header);

	if (end < sizeof(header))
		return damage(channel, "GPA direct packet without ranges");
	memcpy(&header, channel->packet, sizeof(header));
	/* Each iov entry stands for one PFN at least, and each PFN takes 8 bytes. */
	if (!reserve_iov(channel, end / 8))
		return damage(channel, "no memory for a GPA list");
	for (uint32_t i = 0; i < header.range_count; i++)
		if (!add_range(channel, packet, &at, end))
			return damage(channel, "impossible GPA range");
	packet->iov = channel->iov;
	packet->iov_gpa = channel->iov_gpa;
	return 0;
}

bool vmbus_has_packet(const struct vmbus_channel *channel)
{
	return channel->state == VMBUS_CHANNEL_OPEN && !channel->damaged &&
	       vmbus_ring_load(&channel->in, WRITE_INDEX) != channel->in.index;
}

uint32_t vmbus_waiting_bytes(const struct vmbus_channel *channel)
{
	uint32_t write;

	if (channel->state != VMBUS_CHANNEL_OPEN ||
	    !vmbus_ring_other_index(&channel->in, WRITE_INDEX, &write))
		return 0;
	return vmbus_ring_distance(&channel->in, channel->in.index, write);
}

uint32_t vmbus_guest_ring_bytes(const struct vmbus_channel *channel)
{
	return channel->in.size;
}

int vmbus_recv(struct vmbus_channel *channel, struct vmbus_packet *ret)
{
	struct vmbus_spec_descriptor desc;
	uint32_t available, offset;
	int rc;

	memset(ret, 0, sizeof(*ret));
	if (channel->state == VMBUS_CHANNEL_CLOSED)
		return 0;
	if (channel->damaged)
		return -ERR_CORRUPT;
	rc = wait_for_data(channel, &available);
	if (rc <= 0)
		return rc;
	rc = take_packet(channel, available, &desc);
	if (rc < 0)
		return rc;
	offset = desc.data_offset8 * 8u;
	ret->type = desc.type;
	ret->wants_completion = desc.flags & VMBUS_DESCRIPTOR_COMPLETION_REQUESTED;
	ret->transaction_id = desc.transaction_id;
	ret->payload = channel->packet + offset;
	ret->payload_len = desc.length8 * 8u - offset;
	if (desc.type == VMBUS_GPA_DIRECT) {
		rc = parse_gpa_direct(channel, ret, offset);
		if (rc < 0)
			return rc;
	}
	return 1;
}

/* ---- send ---- */

struct outgoing {
	struct vmbus_spec_descriptor desc;
	struct iovec head[2]; /* header extension */
	unsigned head_count;
	const struct iovec *iov;
	unsigned iov_count;
	uint32_t len; /* with padding, without trailer */
};

static uint64_t total_bytes(const struct iovec *iov, unsigned count)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < count; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

/* Fills the lengths. False: larger than a packet can be. */
static bool measure(struct outgoing *out)
{
	uint64_t data_offset = DESCRIPTOR_BYTES + total_bytes(out->head, out->head_count);
	uint64_t len = data_offset + total_bytes(out->iov, out->iov_count);

	len = ALIGN_UP(len, 8);
	if (len / 8 > UINT16_MAX)
		return false;
	out->desc.data_offset8 = (uint16_t)(data_offset / 8);
	out->desc.length8 = (uint16_t)(len / 8);
	out->len = (uint32_t)len;
	return true;
}

/* 1: need bytes fit; 0: they don't now. The ring is never filled completely. */
static int has_room(struct vmbus_channel *channel, uint32_t need)
{
	uint32_t read;

	if (!vmbus_ring_other_index(&channel->out, READ_INDEX, &read))
		return damage(channel, "impossible read index");
	return channel->out.size - vmbus_ring_distance(&channel->out, read, channel->out.index) >
	       need;
}

static void stop_waiting(struct vmbus_channel *channel)
{
	if (!channel->waits_for_room)
		return;
	channel->waits_for_room = false;
	vmbus_ring_store(&channel->out, channel->bus->mem, PENDING_SIZE, 0);
}

static void start_waiting(struct vmbus_channel *channel, uint32_t need)
{
	struct vmbus *bus = channel->bus;

	channel->waits_for_room = true;
	vmbus_ring_store(&channel->out, bus->mem, PENDING_SIZE, need);
	full_fence();
	if (!(vmbus_ring_load(&channel->out, FEATURES) & VMBUS_RING_FEATURE_PENDING_SIZE))
		loop_timer_arm(bus->room_timer, clock_now_ns() + VMBUS_ROOM_POLL_NS);
}

static int make_room(struct vmbus_channel *channel, uint32_t need)
{
	int rc = has_room(channel, need);

	if (rc == 0) {
		start_waiting(channel, need);
		rc = has_room(channel, need); /* it may have come free before the guest knew */
	}
	if (rc > 0)
		stop_waiting(channel);
	return rc;
}

static uint32_t write_all(struct vmbus_channel *channel, uint32_t at, const struct iovec *iov,
			  unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		at = vmbus_ring_write(&channel->out, channel->bus->mem, at, iov[i].iov_base,
				      (uint32_t)iov[i].iov_len);
	return at;
}

static void write_packet(struct vmbus_channel *channel, const struct outgoing *out)
{
	static const uint8_t zeros[8];
	struct vmbus_ring *ring = &channel->out;
	struct mem *mem = channel->bus->mem;
	uint64_t trailer = (uint64_t)ring->index << 32;
	uint32_t at = ring->index, written;

	at = vmbus_ring_write(ring, mem, at, &out->desc, DESCRIPTOR_BYTES);
	at = write_all(channel, at, out->head, out->head_count);
	at = write_all(channel, at, out->iov, out->iov_count);
	written = vmbus_ring_distance(ring, ring->index, at);
	at = vmbus_ring_write(ring, mem, at, zeros, out->len - written);
	ring->index = vmbus_ring_write(ring, mem, at, &trailer, sizeof(trailer));
	vmbus_ring_store(ring, mem, WRITE_INDEX, ring->index);
}

/* The guest needs a signal if it had read everything before this packet and didn't decline. */
static void signal_data(struct vmbus_channel *channel, uint32_t index_before)
{
	full_fence();
	if (!vmbus_ring_load(&channel->out, MASK) &&
	    vmbus_ring_load(&channel->out, READ_INDEX) == index_before)
		vmbus_channel_signal(channel);
}

static int send_packet(struct vmbus_channel *channel, struct outgoing *out)
{
	uint32_t before = channel->out.index;
	uint32_t need;
	int rc;

	if (channel->state == VMBUS_CHANNEL_CLOSED)
		return -ERR_STATE;
	if (channel->damaged)
		return -ERR_CORRUPT;
	if (!measure(out))
		return -ERR_INVALID;
	need = out->len + VMBUS_TRAILER_BYTES;
	if (need >= channel->out.size)
		return -ERR_INVALID;
	rc = make_room(channel, need);
	if (rc <= 0)
		return rc < 0 ? rc : -ERR_BUSY;
	write_packet(channel, out);
	signal_data(channel, before);
	return 0;
}

int vmbus_send(struct vmbus_channel *channel, uint64_t transaction_id, bool wants_completion,
	       const struct iovec *iov, unsigned iov_count)
{
	struct outgoing out = {
		.desc = { .type = VMBUS_INBAND,
			  .flags = wants_completion ? VMBUS_DESCRIPTOR_COMPLETION_REQUESTED : 0,
			  .transaction_id = transaction_id },
		.iov = iov,
		.iov_count = iov_count,
	};

	return send_packet(channel, &out);
}

int vmbus_send_completion(struct vmbus_channel *channel, uint64_t transaction_id,
			  const struct iovec *iov, unsigned iov_count)
{
	struct outgoing out = {
		.desc = { .type = VMBUS_COMPLETION, .transaction_id = transaction_id },
		.iov = iov,
		.iov_count = iov_count,
	};

	return send_packet(channel, &out);
}

int vmbus_send_xfer_pages(struct vmbus_channel *channel, uint64_t transaction_id,
			  uint16_t page_set_id, const struct vmbus_xfer_range *ranges,
			  unsigned range_count, const struct iovec *iov, unsigned iov_count)
{
	struct vmbus_spec_xfer_pages ext = { .page_set_id = page_set_id,
					     .range_count = range_count };
	struct outgoing out = {
		.desc = { .type = VMBUS_XFER_PAGES,
			  .flags = VMBUS_DESCRIPTOR_COMPLETION_REQUESTED,
			  .transaction_id = transaction_id },
		.head = { { .iov_base = &ext.page_set_id,
			    .iov_len = sizeof(ext) - sizeof(ext.descriptor) },
			  { .iov_base = (void *)(uintptr_t)ranges,
			    .iov_len = range_count * sizeof(*ranges) } },
		.head_count = 2,
		.iov = iov,
		.iov_count = iov_count,
	};

	return send_packet(channel, &out);
}
