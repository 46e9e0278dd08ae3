#include "netvsc-guest.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE VMBUS_PAGE_BYTES

static const struct guid class_network =
    GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e);

#define require(condition, ...)                                                                    \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "netvsc-guest: " __VA_ARGS__);                             \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* ---- memory ---- */

static void copy_pages(struct netvsc_guest *nic, const uint64_t *gpa, uint64_t offset, void *buf,
		       size_t len, bool write)
{
	uint8_t *at = buf;

	while (len) {
		size_t n = MIN(len, PAGE - offset % PAGE);
		uint64_t where = gpa[offset / PAGE] + offset % PAGE;

		require(write ? mem_write(nic->guest->mem, where, at, n)
			      : mem_read(nic->guest->mem, where, at, n),
			"not RAM");
		at += n;
		offset += n;
		len -= n;
	}
}

/* ---- what the host sends ---- */

static void parse_ppi(struct netvsc_guest_frame *frame, const uint8_t *ppi, uint32_t bytes,
		      uint8_t *ret_rsc_flags)
{
	while (bytes >= 12) {
		uint32_t size = load_le32(ppi), type = load_le32(ppi + 4);
		uint32_t offset = load_le32(ppi + 8), value;

		require(size >= 16 && size <= bytes && offset + 4 <= size, "bad PPI");
		value = load_le32(ppi + offset);
		if (type == RNDIS_PPI_CHECKSUM) {
			frame->has_checksum = true;
			frame->checksum = value;
		} else if (type == RNDIS_PPI_HASH_VALUE) {
			frame->has_hash = true;
			frame->hash = value;
		} else if (type == RNDIS_PPI_VLAN) {
			frame->has_vlan = true;
			frame->vlan = value;
		} else if (type == RNDIS_PPI_RSC) {
			require(ppi[offset] == PPI_RSC_VERSION, "unknown RSC version");
			*ret_rsc_flags = ppi[offset + 1];
		}
		ppi += size;
		bytes -= size;
	}
}

static void append_fragment(struct netvsc_guest *nic, const uint8_t *data, uint32_t bytes)
{
	struct netvsc_guest_frame *frame =
	    &nic->frames[(nic->frame_first + nic->frame_count - 1) % NETVSC_GUEST_MAX_FRAMES];

	frame->data = realloc(frame->data, frame->len + bytes);
	memcpy(frame->data + frame->len, data, bytes);
	frame->len += bytes;
	frame->fragments++;
}

static void take_frame(struct netvsc_guest *nic, unsigned channel, const uint8_t *message,
		       uint32_t bytes)
{
	unsigned at = (nic->frame_first + nic->frame_count) % NETVSC_GUEST_MAX_FRAMES;
	struct netvsc_guest_frame frame = { .channel = channel, .fragments = 1 };
	struct rndis_packet packet;
	uint8_t rsc = 0;

	require(bytes >= RNDIS_HEADER_BYTES + sizeof(packet), "short RNDIS packet");
	memcpy(&packet, message + RNDIS_HEADER_BYTES, sizeof(packet));
	bytes -= RNDIS_HEADER_BYTES;
	message += RNDIS_HEADER_BYTES;
	require(RANGE_OK(packet.data_offset, packet.data_bytes, bytes), "data out of bounds");
	require(RANGE_OK(packet.ppi_offset, packet.ppi_bytes, bytes), "PPI out of bounds");
	require(nic->frame_count < NETVSC_GUEST_MAX_FRAMES, "too many frames");
	parse_ppi(&frame, message + packet.ppi_offset, packet.ppi_bytes, &rsc);
	require(nic->in_large_receive == (rsc && !(rsc & PPI_RSC_FIRST_FRAGMENT)),
		"RSC fragments out of order");
	nic->in_large_receive = rsc && !(rsc & PPI_RSC_LAST_FRAGMENT);
	if (rsc && !(rsc & PPI_RSC_FIRST_FRAGMENT)) {
		append_fragment(nic, message + packet.data_offset, packet.data_bytes);
		return;
	}
	frame.len = packet.data_bytes;
	frame.data = malloc(frame.len);
	memcpy(frame.data, message + packet.data_offset, frame.len);
	nic->frames[at] = frame;
	nic->frame_count++;
}

static void take_message(struct netvsc_guest *nic, unsigned channel, uint32_t nvsp_channel,
			 uint32_t bytes, uint32_t offset)
{
	uint8_t *message = malloc(bytes);

	require(offset % nic->section_bytes == 0 && bytes <= nic->section_bytes &&
		    offset / nic->section_bytes < nic->section_count,
		"range %u+%u is no section", offset, bytes);
	copy_pages(nic, nic->receive_gpa, offset, message, bytes, false);
	require(bytes >= RNDIS_HEADER_BYTES && load_le32(message + 4) == bytes,
		"RNDIS length %u in a range of %u", load_le32(message + 4), bytes);
	if (nvsp_channel == NVSP_CHANNEL_DATA) {
		require(load_le32(message) == RNDIS_PACKET, "no RNDIS packet");
		take_frame(nic, channel, message, bytes);
	} else {
		require(nic->control_count < ARRAY_SIZE(nic->control), "too many control messages");
		memcpy(nic->control[nic->control_count++], message, MIN(bytes, 4096u));
	}
	free(message);
}

static void complete_receive(struct netvsc_guest *nic, unsigned channel, uint64_t transaction_id)
{
	struct nvsp_rndis_packet_complete reply = { NVSP_SEND_RNDIS_PACKET_COMPLETE,
						    NVSP_STATUS_SUCCESS };

	while (!vmbus_guest_send_completion(nic->channels[channel], transaction_id, &reply,
					    sizeof(reply)))
		vmbus_guest_step(nic->guest);
}

static void take_transfer(struct netvsc_guest *nic, unsigned channel,
			  const struct vmbus_guest_packet *packet)
{
	uint32_t count = load_le32(packet->bytes + 20);
	uint32_t nvsp_channel;

	require(load_le16(packet->bytes + 16) == NETVSC_GUEST_PAGE_SET, "wrong page set");
	require(packet->payload_len >= NVSP_MESSAGE_BYTES &&
		    load_le32(packet->payload) == NVSP_SEND_RNDIS_PACKET,
		"no RNDIS packet in the transfer");
	require(packet->bytes + 24 + count * 8 <= packet->payload, "ranges run into the payload");
	require(packet->transaction_id != 0, "transfer without an id");
	nvsp_channel = load_le32(packet->payload + 4);
	nic->max_ranges = MAX(nic->max_ranges, count);
	nic->packets++;
	for (uint32_t i = 0; i < count; i++)
		take_message(nic, channel, nvsp_channel, load_le32(packet->bytes + 24 + i * 8),
			     load_le32(packet->bytes + 28 + i * 8));
	require(!nic->in_large_receive, "a large receive goes on in another packet");
	if (nic->hold && nvsp_channel == NVSP_CHANNEL_DATA) {
		require(nic->held_count < ARRAY_SIZE(nic->held), "too many held packets");
		nic->held[nic->held_count].transaction_id = packet->transaction_id;
		nic->held[nic->held_count++].channel = channel;
		return;
	}
	complete_receive(nic, channel, packet->transaction_id);
}

static void take_completion(struct netvsc_guest *nic, unsigned channel,
			    const struct vmbus_guest_packet *packet)
{
	unsigned i = nic->completion_count++;

	require(i < ARRAY_SIZE(nic->completions), "too many completions");
	require(packet->payload_len == 0 || packet->payload_len >= NVSP_MESSAGE_BYTES,
		"completion of %u bytes", packet->payload_len);
	nic->completions[i].transaction_id = packet->transaction_id;
	nic->completions[i].len = packet->payload_len;
	nic->completions[i].channel = channel;
	memcpy(nic->completions[i].payload, packet->payload,
	       MIN(packet->payload_len, sizeof(nic->completions[i].payload)));
}

static void take_inband(struct netvsc_guest *nic, const struct vmbus_guest_packet *packet)
{
	struct nvsp_indirection_table table;

	require(packet->payload_len >= sizeof(table) &&
		    load_le32(packet->payload) == NVSP_SEND_INDIRECTION_TABLE,
		"unexpected message %u of the host", load_le32(packet->payload));
	memcpy(&table, packet->payload, sizeof(table));
	require(table.count == NVSP_INDIRECTION_ENTRIES && table.offset == 12, "bad table");
	memcpy(nic->indirection, table.entries, sizeof(table.entries));
	nic->indirection_count = table.count;
}

bool netvsc_guest_poll(struct netvsc_guest *nic)
{
	struct vmbus_guest_packet packet;
	bool any = false;

	for (unsigned i = 0; i < nic->channel_count; i++)
		while (vmbus_guest_try_recv(nic->channels[i], &packet)) {
			any = true;
			if (packet.type == VMBUS_XFER_PAGES)
				take_transfer(nic, i, &packet);
			else if (packet.type == VMBUS_COMPLETION)
				take_completion(nic, i, &packet);
			else
				take_inband(nic, &packet);
		}
	return any;
}

static void step(struct netvsc_guest *nic)
{
	if (!netvsc_guest_poll(nic))
		vmbus_guest_step(nic->guest);
}

void netvsc_guest_release(struct netvsc_guest *nic)
{
	for (unsigned i = 0; i < nic->held_count; i++)
		complete_receive(nic, nic->held[i].channel, nic->held[i].transaction_id);
	nic->held_count = 0;
}

static bool find_completion(struct netvsc_guest *nic, uint64_t transaction_id, uint8_t *ret)
{
	for (unsigned i = 0; i < nic->completion_count; i++) {
		if (nic->completions[i].transaction_id != transaction_id)
			continue;
		memcpy(ret, nic->completions[i].payload, sizeof(nic->completions[i].payload));
		nic->completions[i] = nic->completions[--nic->completion_count];
		return true;
	}
	return false;
}

static void wait_payload(struct netvsc_guest *nic, uint64_t transaction_id, uint8_t ret[64])
{
	uint64_t end = clock_now_ns() + 5 * NS_PER_SEC;

	while (!find_completion(nic, transaction_id, ret)) {
		require(clock_now_ns() < end, "no completion of %llu",
			(unsigned long long)transaction_id);
		step(nic);
	}
}

uint32_t netvsc_guest_wait_completion(struct netvsc_guest *nic, uint64_t transaction_id)
{
	uint8_t payload[64];

	wait_payload(nic, transaction_id, payload);
	return load_le32(payload + 4);
}

/* ---- NVSP ---- */

/* Sends an NVSP message of 40 bytes and gives the completion's payload. */
static void nvsp_request(struct netvsc_guest *nic, const void *message, size_t len, uint8_t ret[64])
{
	uint8_t bytes[NVSP_MESSAGE_BYTES] = { 0 };
	uint64_t id = ++nic->next_transaction;

	memcpy(bytes, message, len);
	require(vmbus_guest_send(nic->channels[0], id, ret != NULL, bytes, sizeof(bytes)),
		"ring full");
	if (ret)
		wait_payload(nic, id, ret);
}

static uint64_t *alloc_pages(struct netvsc_guest *nic, unsigned pages)
{
	uint64_t *gpa = calloc(pages, sizeof(*gpa));

	vmbus_guest_alloc_scattered(nic->guest, pages, gpa);
	return gpa;
}

static bool init_nvsp(struct netvsc_guest *nic)
{
	struct nvsp_init init = { NVSP_INIT, nic->options.version, nic->options.version };
	struct nvsp_ndis_version ndis = { NVSP_SEND_NDIS_VERSION, 6,
					  nic->options.version >= NVSP_VERSION_5 ? 30 : 1 };
	struct nvsp_ndis_config config = { NVSP_SEND_NDIS_CONFIG, nic->options.mtu + 14, 0,
					   nic->options.capabilities };
	struct nvsp_init_complete reply;
	uint8_t payload[64];

	nvsp_request(nic, &init, sizeof(init), payload);
	memcpy(&reply, payload, sizeof(reply));
	require(reply.type == NVSP_INIT_COMPLETE, "wrong answer to INIT");
	if (reply.status != NVSP_STATUS_SUCCESS)
		return false;
	if (nic->options.mtu)
		nvsp_request(nic, &config, sizeof(config), NULL);
	nvsp_request(nic, &ndis, sizeof(ndis), NULL);
	return true;
}

static void init_buffers(struct netvsc_guest *nic)
{
	struct nvsp_send_buffer message = { .id = NETVSC_GUEST_PAGE_SET };
	struct nvsp_receive_buffer_complete receive;
	struct nvsp_send_buffer_complete send;
	uint8_t payload[64];

	nic->receive_gpa = alloc_pages(nic, nic->options.receive_pages);
	nic->receive_gpadl = vmbus_guest_gpadl_create(nic->guest, nic->channels[0]->relid,
						      nic->receive_gpa, nic->options.receive_pages);
	message.type = NVSP_SEND_RECEIVE_BUFFER;
	message.gpadl = nic->receive_gpadl;
	nvsp_request(nic, &message, sizeof(message), payload);
	memcpy(&receive, payload, sizeof(receive));
	require(receive.type == NVSP_SEND_RECEIVE_BUFFER_COMPLETE &&
		    receive.status == NVSP_STATUS_SUCCESS && receive.section_count == 1 &&
		    receive.section.offset == 0 && receive.section.suballocation_bytes >= 68,
		"bad receive buffer answer");
	nic->section_bytes = receive.section.suballocation_bytes;
	nic->section_count = receive.section.suballocation_count;
	require((uint64_t)nic->section_bytes * nic->section_count <=
		    nic->options.receive_pages * (uint64_t)PAGE,
		"sections larger than the buffer");
	nic->send_gpa = alloc_pages(nic, nic->options.send_pages);
	nic->send_gpadl = vmbus_guest_gpadl_create(nic->guest, nic->channels[0]->relid,
						   nic->send_gpa, nic->options.send_pages);
	message = (struct nvsp_send_buffer){ NVSP_SEND_SEND_BUFFER, nic->send_gpadl, 0 };
	nvsp_request(nic, &message, sizeof(message), payload);
	memcpy(&send, payload, sizeof(send));
	require(send.type == NVSP_SEND_SEND_BUFFER_COMPLETE && send.status == NVSP_STATUS_SUCCESS &&
		    send.section_bytes,
		"bad send buffer answer");
	nic->send_section_bytes = send.section_bytes;
}

struct netvsc_guest *netvsc_guest_open(struct vmbus_guest *guest,
				       const struct netvsc_guest_options *options)
{
	struct netvsc_guest *nic = calloc(1, sizeof(*nic));
	const struct vmbus_spec_offer *offer = vmbus_guest_offer(guest, &class_network, 0);

	require(offer, "no network adapter is offered");
	nic->guest = guest;
	nic->options = *options;
	nic->options.receive_pages = options->receive_pages ? options->receive_pages : 256;
	nic->options.send_pages = options->send_pages ? options->send_pages : 64;
	nic->options.ring_pages = options->ring_pages ? options->ring_pages : 32;
	nic->channels[0] =
	    vmbus_guest_open(guest, offer, nic->options.ring_pages, nic->options.ring_pages);
	require(nic->channels[0], "the host refused the channel");
	nic->channel_count = 1;
	nic->next_transaction = 1000;
	if (!init_nvsp(nic)) {
		vmbus_guest_close(nic->channels[0]);
		free(nic);
		return NULL;
	}
	init_buffers(nic);
	return nic;
}

static void free_nic(struct netvsc_guest *nic)
{
	while (nic->frame_count) {
		free(nic->frames[nic->frame_first].data);
		nic->frame_first = (nic->frame_first + 1) % NETVSC_GUEST_MAX_FRAMES;
		nic->frame_count--;
	}
	free(nic->last.data);
	free(nic->receive_gpa);
	free(nic->send_gpa);
	free(nic);
}

void netvsc_guest_close(struct netvsc_guest *nic)
{
	struct nvsp_send_buffer receive = { NVSP_REVOKE_RECEIVE_BUFFER, NETVSC_GUEST_PAGE_SET, 0 };
	struct nvsp_send_buffer send = { NVSP_REVOKE_SEND_BUFFER, 0, 0 };
	uint32_t relid = nic->channels[0]->relid;

	nvsp_request(nic, &receive, 8, NULL);
	nvsp_request(nic, &send, 8, NULL);
	while (nic->channel_count > 1)
		vmbus_guest_close(nic->channels[--nic->channel_count]);
	vmbus_guest_close(nic->channels[0]);
	require(vmbus_guest_gpadl_teardown(nic->guest, relid, nic->receive_gpadl) &&
		    vmbus_guest_gpadl_teardown(nic->guest, relid, nic->send_gpadl),
		"GPADLs are not torn down");
	free_nic(nic);
}

void netvsc_guest_forget(struct netvsc_guest *nic)
{
	while (nic->channel_count)
		vmbus_guest_forget(nic->channels[--nic->channel_count]);
	free_nic(nic);
}

unsigned netvsc_guest_open_subchannels(struct netvsc_guest *nic, unsigned count)
{
	struct nvsp_subchannel request = { NVSP_SUBCHANNEL, NVSP_SUBCHANNEL_ALLOCATE, count };
	struct nvsp_subchannel_complete reply;
	uint8_t payload[64];

	nvsp_request(nic, &request, sizeof(request), payload);
	memcpy(&reply, payload, sizeof(reply));
	require(reply.type == NVSP_SUBCHANNEL && reply.status == NVSP_STATUS_SUCCESS &&
		    reply.count <= count,
		"bad sub-channel answer");
	for (uint16_t i = 1; i <= reply.count; i++) {
		const struct vmbus_spec_offer *offer =
		    vmbus_guest_offer(nic->guest, &class_network, i);

		require(offer, "sub-channel %u is not offered", i);
		nic->channels[i] = vmbus_guest_open(nic->guest, offer, nic->options.ring_pages,
						    nic->options.ring_pages);
		require(nic->channels[i], "sub-channel %u is refused", i);
		nic->channel_count++;
	}
	return nic->channel_count;
}

/* ---- RNDIS ---- */

uint64_t netvsc_guest_send_raw(struct netvsc_guest *nic, unsigned channel, uint32_t nvsp_channel,
			       const void *message, size_t len)
{
	unsigned pages = (unsigned)((len + PAGE - 1) / PAGE);
	uint64_t first = vmbus_guest_alloc(nic->guest, pages), *gpa = calloc(pages, sizeof(*gpa));
	struct vmbus_guest_range range = { (uint32_t)len, 0, gpa };
	uint8_t bytes[NVSP_MESSAGE_BYTES] = { 0 };
	struct nvsp_rndis_packet nvsp = { NVSP_SEND_RNDIS_PACKET, nvsp_channel, NVSP_NO_SECTION,
					  0 };
	uint64_t id = ++nic->next_transaction;
	bool ok;

	require(mem_write(nic->guest->mem, first, message, len), "not RAM");
	for (unsigned i = 0; i < pages; i++)
		gpa[i] = first + i * (uint64_t)PAGE;
	memcpy(bytes, &nvsp, sizeof(nvsp));
	ok = vmbus_guest_send_gpa_direct(nic->channels[channel], id, &range, 1, bytes,
					 sizeof(bytes));
	free(gpa);
	/* The pages are used again: the caller waits for the completion before it sends more. */
	nic->guest->next_page = first;
	return ok ? id : 0;
}

const uint8_t *netvsc_guest_request(struct netvsc_guest *nic, uint32_t type, const void *body,
				    uint32_t bytes)
{
	static uint8_t answer[4096];
	uint8_t message[4096];
	uint64_t id, end = clock_now_ns() + 5 * NS_PER_SEC;

	store_le32(message, type);
	store_le32(message + 4, bytes + 8);
	memcpy(message + 8, body, bytes);
	id = netvsc_guest_send_raw(nic, 0, NVSP_CHANNEL_CONTROL, message, bytes + 8);
	require(id && netvsc_guest_wait_completion(nic, id) == NVSP_STATUS_SUCCESS,
		"RNDIS request refused");
	while (true) {
		for (unsigned i = 0; i < nic->control_count; i++) {
			if (load_le32(nic->control[i]) != (type | RNDIS_COMPLETE))
				continue;
			memcpy(answer, nic->control[i], sizeof(answer));
			nic->control_count--;
			memmove(nic->control[i], nic->control[i + 1],
				(nic->control_count - i) * sizeof(answer));
			return answer;
		}
		require(clock_now_ns() < end, "no RNDIS answer");
		step(nic);
	}
}

uint32_t netvsc_guest_query(struct netvsc_guest *nic, uint32_t oid, void *data, uint32_t *len)
{
	struct rndis_oid_request request = { ++nic->next_request, oid, 0, 20, 0 };
	struct rndis_query_complete reply;
	const uint8_t *answer = netvsc_guest_request(nic, RNDIS_QUERY, &request, sizeof(request));

	memcpy(&reply, answer + 8, sizeof(reply));
	require(reply.request_id == request.request_id, "answer to another request");
	require(reply.status == RNDIS_STATUS_SUCCESS || (!reply.bytes && !reply.offset),
		"a failure with data");
	require(reply.bytes <= *len, "%u bytes for OID %#x", reply.bytes, oid);
	memcpy(data, answer + 8 + reply.offset, reply.bytes);
	*len = reply.bytes;
	return reply.status;
}

uint32_t netvsc_guest_set(struct netvsc_guest *nic, uint32_t oid, const void *data, uint32_t len)
{
	struct {
		struct rndis_oid_request request;
		uint8_t data[2048];
	} __attribute__((packed)) body = { .request = { ++nic->next_request, oid, len, 20, 0 } };
	struct rndis_complete reply;

	memcpy(body.data, data, len);
	memcpy(&reply,
	       netvsc_guest_request(nic, RNDIS_SET, &body, (uint32_t)sizeof(body.request) + len) +
		   8,
	       sizeof(reply));
	require(reply.request_id == body.request.request_id, "answer to another request");
	return reply.status;
}

uint32_t netvsc_guest_offloads(struct netvsc_guest *nic, uint8_t value, bool rsc)
{
	uint8_t one = value == NDIS_OFFLOAD_BOTH ? NDIS_OFFLOAD_TX : NDIS_OFFLOAD_OFF;
	struct ndis_offload_parameters p = {
		.header = { NDIS_OBJECT_DEFAULT, 3, sizeof(p) },
		.ip4 = NDIS_OFFLOAD_OFF,
		.tcp4 = value,
		.udp4 = value,
		.tcp6 = value,
		.udp6 = value,
		.lso2_ip4 = one,
		.lso2_ip6 = one,
		.rsc_ip4 = rsc ? NDIS_OFFLOAD_TX : NDIS_OFFLOAD_OFF,
		.rsc_ip6 = rsc ? NDIS_OFFLOAD_TX : NDIS_OFFLOAD_OFF,
	};

	return netvsc_guest_set(nic, OID_TCP_OFFLOAD_PARAMETERS, &p, sizeof(p));
}

const uint8_t netvsc_guest_rss_key[NDIS_RSS_KEY_BYTES] = {
	0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
	0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
	0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa
};

uint32_t netvsc_guest_rss(struct netvsc_guest *nic, unsigned queues)
{
	struct {
		struct ndis_rss_parameters p;
		uint8_t pad[40 - sizeof(struct ndis_rss_parameters)];
		uint32_t table[NDIS_RSS_MAX_ENTRIES];
		uint8_t key[NDIS_RSS_KEY_BYTES];
	} __attribute__((packed)) rss = {
		.p = { .header = { NDIS_OBJECT_RSS_PARAMETERS, 2, 40 },
		       .hash_info = NDIS_HASH_TOEPLITZ | NDIS_HASH_IPV4 | NDIS_HASH_TCP_IPV4 |
				    NDIS_HASH_IPV6 | NDIS_HASH_TCP_IPV6,
		       .table_bytes = sizeof(rss.table),
		       .table_offset = 40,
		       .key_bytes = sizeof(rss.key),
		       .key_offset = 40 + sizeof(rss.table) },
	};

	for (unsigned i = 0; i < NDIS_RSS_MAX_ENTRIES; i++)
		rss.table[i] = i % queues;
	memcpy(rss.key, netvsc_guest_rss_key, sizeof(rss.key));
	return netvsc_guest_set(nic, OID_GEN_RECEIVE_SCALE_PARAMETERS, &rss, sizeof(rss));
}

void netvsc_guest_start(struct netvsc_guest *nic, uint32_t filter)
{
	struct rndis_initialize request = { ++nic->next_request, 1, 0, 0x4000 };
	struct rndis_initialize_complete reply;

	memcpy(&reply, netvsc_guest_request(nic, RNDIS_INITIALIZE, &request, sizeof(request)) + 8,
	       sizeof(reply));
	require(reply.status == RNDIS_STATUS_SUCCESS && reply.request_id == request.request_id,
		"RNDIS INITIALIZE refused");
	require(netvsc_guest_set(nic, OID_GEN_CURRENT_PACKET_FILTER, &filter, 4) ==
		    RNDIS_STATUS_SUCCESS,
		"packet filter refused");
}

uint32_t netvsc_guest_indication(struct netvsc_guest *nic)
{
	uint64_t end = clock_now_ns() + NS_PER_SEC / 5;

	while (clock_now_ns() < end) {
		for (unsigned i = 0; i < nic->control_count; i++) {
			uint32_t status = load_le32(nic->control[i] + 8);

			if (load_le32(nic->control[i]) != RNDIS_INDICATE)
				continue;
			nic->control_count--;
			memmove(nic->control[i], nic->control[i + 1],
				(nic->control_count - i) * sizeof(nic->control[0]));
			return status;
		}
		step(nic);
	}
	return 0;
}

/* ---- frames ---- */

static size_t build_packet(uint8_t *message, const void *frame, size_t len,
			   const struct netvsc_guest_send *how)
{
	struct rndis_packet packet = { .data_bytes = (uint32_t)len };
	uint32_t at = 8 + sizeof(packet);

	packet.ppi_offset = at - 8;
	packet.ppi_bytes = how->ppi_count * 16;
	for (unsigned i = 0; i < how->ppi_count; i++, at += 16) {
		store_le32(message + at, 16);
		store_le32(message + at + 4, how->ppi[i].type);
		store_le32(message + at + 8, 12);
		store_le32(message + at + 12, how->ppi[i].value);
	}
	packet.data_offset = at - 8;
	memcpy(message + at, frame, len);
	store_le32(message, RNDIS_PACKET);
	store_le32(message + 4, at + (uint32_t)len);
	memcpy(message + 8, &packet, sizeof(packet));
	return at + len;
}

static bool send_by_section(struct netvsc_guest *nic, uint64_t id, unsigned channel,
			    const uint8_t *message, size_t len)
{
	struct nvsp_rndis_packet nvsp = { NVSP_SEND_RNDIS_PACKET, NVSP_CHANNEL_DATA, 1,
					  (uint32_t)len };
	uint8_t bytes[NVSP_MESSAGE_BYTES] = { 0 };

	require(len <= nic->send_section_bytes, "frame larger than a section");
	copy_pages(nic, nic->send_gpa, nic->send_section_bytes, (void *)(uintptr_t)message, len,
		   true);
	memcpy(bytes, &nvsp, sizeof(nvsp));
	return vmbus_guest_send(nic->channels[channel], id, true, bytes, sizeof(bytes));
}

/* In ranges of piece bytes that don't follow each other in memory. */
static bool send_in_pieces(struct netvsc_guest *nic, uint64_t id, unsigned channel,
			   const uint8_t *message, size_t len, unsigned piece)
{
	unsigned count = (unsigned)((len + piece - 1) / piece);
	struct vmbus_guest_range *ranges = calloc(count, sizeof(*ranges));
	uint64_t *gpa = calloc(count, sizeof(*gpa)), start = nic->guest->next_page;
	struct nvsp_rndis_packet nvsp = { NVSP_SEND_RNDIS_PACKET, NVSP_CHANNEL_DATA,
					  NVSP_NO_SECTION, 0 };
	uint8_t bytes[NVSP_MESSAGE_BYTES] = { 0 };
	bool ok;

	for (unsigned i = 0; i < count; i++) {
		uint32_t n = (uint32_t)MIN(piece, len - (size_t)i * piece);

		gpa[i] = vmbus_guest_alloc(nic->guest, 1);
		ranges[i] = (struct vmbus_guest_range){ n, PAGE - n, &gpa[i] };
		require(
		    mem_write(nic->guest->mem, gpa[i] + PAGE - n, message + (size_t)i * piece, n),
		    "not RAM");
	}
	memcpy(bytes, &nvsp, sizeof(nvsp));
	ok = vmbus_guest_send_gpa_direct(nic->channels[channel], id, ranges, count, bytes,
					 sizeof(bytes));
	nic->guest->next_page = start;
	free(ranges);
	free(gpa);
	return ok;
}

bool netvsc_guest_send(struct netvsc_guest *nic, const void *frame, size_t len,
		       const struct netvsc_guest_send *how)
{
	static const struct netvsc_guest_send plain;
	uint8_t *message;
	uint64_t id;
	size_t bytes;
	bool ok;

	how = how ? how : &plain;
	message = malloc(len + 1024);
	bytes = build_packet(message, frame, len, how);
	do {
		id = ++nic->next_transaction;
		if (how->by_section)
			ok = send_by_section(nic, id, how->channel, message, bytes);
		else if (how->piece_bytes)
			ok =
			    send_in_pieces(nic, id, how->channel, message, bytes, how->piece_bytes);
		else
			ok = (id = netvsc_guest_send_raw(nic, how->channel, NVSP_CHANNEL_DATA,
							 message, bytes)) != 0;
		if (!ok)
			step(nic);
	} while (!ok);
	free(message);
	return netvsc_guest_wait_completion(nic, id) == NVSP_STATUS_SUCCESS;
}

bool netvsc_guest_receive(struct netvsc_guest *nic, struct netvsc_guest_frame *ret,
			  unsigned timeout_ms)
{
	uint64_t end = clock_now_ns() + timeout_ms * NS_PER_MSEC;

	netvsc_guest_poll(nic);
	while (!nic->frame_count) {
		if (clock_now_ns() >= end)
			return false;
		step(nic);
	}
	free(nic->last.data);
	nic->last = nic->frames[nic->frame_first];
	nic->frame_first = (nic->frame_first + 1) % NETVSC_GUEST_MAX_FRAMES;
	nic->frame_count--;
	*ret = nic->last;
	return true;
}
