/*
 * A guest that opens the network adapter properly, or only half, then sends anything: NVSP
 * messages, RNDIS messages in pages or sections, completions; while the switch sends frames with
 * any metadata, the cable is pulled, and sub-channels come and go.
 */
#include "vmbus-guest.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/netvsp.h"
#include "net/port.h"
#include "spec/nvsp.h"
#include "spec/rndis.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RECEIVE_PAGES 12
#define SEND_PAGES    4
#define MAX_CHANNELS  4

struct input {
	const uint8_t *data;
	size_t left;
};

struct setup {
	struct vmbus_guest *guest;
	struct netvsp *nic;
	struct port *wire;
	uint64_t receive_gpa[RECEIVE_PAGES], send_gpa[SEND_PAGES], data_gpa[4];
	struct vmbus_guest_channel *channels[MAX_CHANNELS];
	unsigned channel_count;
	uint64_t held[64]; /* receive packets to complete some time */
	unsigned held_count;
	bool wire_refuses;
};

static const struct guid class_network =
    GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e);

static volatile uint8_t sink;

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t value = 0;

	bytes = (unsigned)MIN(bytes, in->left);
	memcpy(&value, in->data, bytes);
	in->data += bytes;
	in->left -= bytes;
	return value;
}

static size_t take_bytes(struct input *in, void *buf, size_t max)
{
	size_t n = take(in, 2) % (max + 1);

	n = MIN(n, in->left);
	memcpy(buf, in->data, n);
	in->data += n;
	in->left -= n;
	return n;
}

/* ---- the switch's side ---- */

static unsigned wire_received(void *user, struct port_frame *frames, unsigned count)
{
	struct setup *s = user;
	uint8_t sum = 0;

	if (s->wire_refuses)
		return 0;
	for (unsigned i = 0; i < count; i++)
		for (size_t k = 0; k < frames[i].iov->iov_len; k++)
			sum += ((uint8_t *)frames[i].iov->iov_base)[k];
	sink = sum;
	return count;
}

static const struct port_ops wire_ops = { .received = wire_received };

static struct setup *set_up(void)
{
	static struct setup s;
	struct netvsp_config config = { .vp_count = 4, .mac = { 2, 0, 0, 0, 0, 1 } };
	int fds[2];

	if (s.guest)
		return &s;
	log_set_level(LOG_ERROR);
	s.guest = vmbus_guest_new(1, 16 * MIB);
	if (port_socketpair(fds, NULL) < 0 ||
	    port_new(s.guest->loop, fds[0], &wire_ops, &s, &s.wire, NULL) < 0)
		abort();
	config.bus = s.guest->bus;
	config.loop = s.guest->loop;
	config.port_fd = fds[1];
	if (netvsp_new(&config, &s.nic, NULL) < 0 ||
	    !vmbus_guest_connect(s.guest, VMBUS_VERSION_5_3))
		abort();
	vmbus_guest_alloc_scattered(s.guest, RECEIVE_PAGES, s.receive_gpa);
	vmbus_guest_alloc_scattered(s.guest, SEND_PAGES, s.send_gpa);
	vmbus_guest_alloc_scattered(s.guest, 4, s.data_gpa);
	return &s;
}

/* ---- the guest's side ---- */

static void work(struct setup *s)
{
	for (unsigned i = 0; i < 4; i++)
		loop_step(s->guest->loop, 0);
}

static void send_message(struct setup *s, const void *message, uint32_t len, bool completion)
{
	uint8_t bytes[NVSP_MESSAGE_BYTES] = { 0 };

	memcpy(bytes, message, len);
	vmbus_guest_send(s->channels[0], 1, completion, bytes, sizeof(bytes));
	work(s);
}

static void send_pages(struct setup *s, unsigned channel, uint32_t nvsp_channel,
		       const uint8_t *message, uint32_t len, unsigned pieces)
{
	struct nvsp_rndis_packet nvsp = { NVSP_SEND_RNDIS_PACKET, nvsp_channel, NVSP_NO_SECTION,
					  0 };
	struct vmbus_guest_range ranges[4];
	uint32_t done = 0;
	unsigned count = 0;

	for (; count < 4 && done < len; count++) {
		uint32_t n = count == pieces % 4 ? len - done : (len - done) / 2;

		n = MIN(n, MEM_PAGE_SIZE);
		mem_write(s->guest->mem, s->data_gpa[count] + MEM_PAGE_SIZE - n, message + done, n);
		ranges[count] =
		    (struct vmbus_guest_range){ n, MEM_PAGE_SIZE - n, &s->data_gpa[count] };
		done += n;
	}
	vmbus_guest_send_gpa_direct(s->channels[channel], 2, ranges, count, &nvsp, sizeof(nvsp));
}

static void handshake(struct setup *s, uint32_t version, uint32_t mtu, uint32_t receive_gpadl,
		      uint32_t send_gpadl)
{
	struct nvsp_init init = { NVSP_INIT, version, version };
	struct nvsp_ndis_config config = { NVSP_SEND_NDIS_CONFIG, mtu, 0, ~0ull };
	struct nvsp_send_buffer receive = { NVSP_SEND_RECEIVE_BUFFER, receive_gpadl, 0xCAFE };
	struct nvsp_send_buffer send = { NVSP_SEND_SEND_BUFFER, send_gpadl, 0 };
	uint32_t rndis[6] = { RNDIS_INITIALIZE, 24, 1, 1, 0, 0x4000 };
	uint32_t filter[8] = { RNDIS_SET, 32, 2, OID_GEN_CURRENT_PACKET_FILTER, 4, 20, 0, 0x20 };

	send_message(s, &init, sizeof(init), true);
	send_message(s, &config, sizeof(config), false);
	send_message(s, &receive, sizeof(receive), true);
	send_message(s, &send, sizeof(send), true);
	send_pages(s, 0, NVSP_CHANNEL_CONTROL, (uint8_t *)rndis, sizeof(rndis), 0);
	send_pages(s, 0, NVSP_CHANNEL_CONTROL, (uint8_t *)filter, sizeof(filter), 0);
	work(s);
}

static void drain(struct setup *s, unsigned channel)
{
	struct vmbus_guest_packet packet;

	while (vmbus_guest_try_recv(s->channels[channel], &packet))
		if (packet.type == VMBUS_XFER_PAGES && s->held_count < ARRAY_SIZE(s->held))
			s->held[s->held_count++] = packet.transaction_id;
}

static void open_subchannel(struct setup *s)
{
	struct vmbus_guest *guest = s->guest;

	for (unsigned i = 0; i < guest->offer_count && s->channel_count < MAX_CHANNELS; i++)
		if (guest->offer_live[i] && guest->offers[i].subchannel_index == s->channel_count) {
			s->channels[s->channel_count] =
			    vmbus_guest_open(guest, &guest->offers[i], 2, 2);
			if (s->channels[s->channel_count])
				s->channel_count++;
			return;
		}
}

static void send_frame(struct setup *s, struct input *in)
{
	struct frame_offload offload = { (uint8_t)take(in, 1), (uint16_t)take(in, 2) };
	uint8_t frame[4000];
	struct iovec iov = { frame, take_bytes(in, frame, sizeof(frame)) };
	struct port_frame pf = { offload, &iov, 1 };

	port_send(s->wire, &pf, 1);
}

static void send_rndis(struct setup *s, struct input *in, unsigned channel, bool control)
{
	uint8_t message[4000];
	unsigned pieces = (unsigned)take(in, 1);
	uint32_t len = (uint32_t)take_bytes(in, message, sizeof(message));

	/* A right length most of the time: it gets further. */
	if (len >= 8 && !(pieces & 0x80)) {
		store_le32(message + 4, len);
		if (!control)
			store_le32(message, RNDIS_PACKET);
	}
	send_pages(s, channel, control ? NVSP_CHANNEL_CONTROL : NVSP_CHANNEL_DATA, message, len,
		   pieces);
}

static void send_section(struct setup *s, struct input *in, unsigned channel)
{
	uint8_t message[4000];
	struct nvsp_rndis_packet nvsp = { NVSP_SEND_RNDIS_PACKET, (uint32_t)take(in, 1) & 1,
					  (uint32_t)take(in, 1), (uint32_t)take(in, 2) };

	mem_write(s->guest->mem, s->send_gpa[take(in, 1) % SEND_PAGES], message,
		  take_bytes(in, message, sizeof(message)));
	vmbus_guest_send(s->channels[channel], 3, true, &nvsp, sizeof(nvsp));
}

static void step(struct setup *s, struct input *in)
{
	unsigned op = (unsigned)take(in, 1), channel = op / 16 % s->channel_count;
	uint8_t bytes[80];

	switch (op % 16) {
	case 0:
	case 1:
		vmbus_guest_send(s->channels[channel], take(in, 1), op & 1, bytes,
				 (uint32_t)take_bytes(in, bytes, sizeof(bytes)));
		break;
	case 2:
	case 3:
		send_rndis(s, in, channel, false);
		break;
	case 4:
	case 5:
		send_rndis(s, in, channel, true);
		break;
	case 6:
		send_section(s, in, channel);
		break;
	case 7:
	case 8:
		send_frame(s, in);
		break;
	case 9:
		vmbus_guest_send_completion(s->channels[channel], take(in, 8), bytes, 0);
		break;
	case 10:
		if (s->held_count)
			vmbus_guest_send_completion(s->channels[channel], s->held[--s->held_count],
						    bytes, 0);
		break;
	case 11:
		drain(s, channel);
		break;
	case 12:
		netvsp_set_link(s->nic, op & 16);
		break;
	case 13:
		open_subchannel(s);
		break;
	case 14:
		s->wire_refuses = op & 16;
		if (!s->wire_refuses)
			port_resume(s->wire);
		break;
	default:
		netvsp_network_changed(s->nic);
	}
	work(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t versions[] = { 0x60001, 0x60000, 0x50000, 0x40000, 0x30002, 2 };
	struct setup *s = set_up();
	struct input in = { data, size };
	uint64_t page = s->guest->next_page;
	uint32_t receive, send, relid, how = (uint32_t)take(&in, 1);

	s->channels[0] =
	    vmbus_guest_open(s->guest, vmbus_guest_offer(s->guest, &class_network, 0), 3, 3);
	if (!s->channels[0])
		abort();
	s->channel_count = 1;
	relid = s->channels[0]->relid;
	receive = vmbus_guest_gpadl_create(s->guest, relid, s->receive_gpa, RECEIVE_PAGES);
	send = vmbus_guest_gpadl_create(s->guest, relid, s->send_gpa, SEND_PAGES);
	if (how & 7)
		handshake(s, versions[how % ARRAY_SIZE(versions)], how & 8 ? 9014 : 1514, receive,
			  send);
	while (in.left)
		step(s, &in);
	s->wire_refuses = false;
	port_resume(s->wire);
	work(s);
	while (s->channel_count > 1)
		vmbus_guest_close(s->channels[--s->channel_count]);
	vmbus_guest_close(s->channels[0]);
	vmbus_guest_gpadl_teardown(s->guest, relid, receive);
	vmbus_guest_gpadl_teardown(s->guest, relid, send);
	netvsp_set_link(s->nic, true);
	s->held_count = 0;
	s->guest->next_page = page;
	s->guest->stash_count = 0;
	s->guest->offer_count = 1; /* the adapter; sub-channels are gone */
	return 0;
}
