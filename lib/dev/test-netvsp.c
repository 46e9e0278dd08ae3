/* The network adapter against a driver that does what Linux's does. */
#include "netvsc-guest.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "dev/netvsp.h"
#include "dev/netvsp-state.h"
#include "net/port.h"
#include "state/check-state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define FILTER (NDIS_PACKET_DIRECTED | NDIS_PACKET_ALL_MULTICAST | NDIS_PACKET_BROADCAST)

static const uint8_t own_mac[6] = { 0x00, 0x15, 0x5d, 1, 2, 3 };
static const uint8_t peer_mac[6] = { 0x00, 0x15, 0x5d, 9, 9, 9 };

struct wire_frame {
	struct frame_offload offload;
	size_t len;
	uint8_t *data;
};

/* The far end of the adapter's port: the test plays the switch. */
struct fixture {
	struct vmbus_guest *guest;
	struct netvsp *nic;
	struct netvsc_guest *driver;
	struct port *wire;
	struct wire_frame seen[256];
	unsigned seen_count;
	bool refuse; /* the switch takes nothing */
};

static unsigned wire_received(void *user, struct port_frame *frames, unsigned count)
{
	struct fixture *f = user;

	if (f->refuse)
		return 0;
	for (unsigned i = 0; i < count; i++) {
		struct wire_frame *w = &f->seen[f->seen_count++];

		assert_true(f->seen_count <= ARRAY_SIZE(f->seen));
		w->offload = frames[i].offload;
		w->len = frames[i].iov->iov_len;
		w->data = malloc(w->len);
		memcpy(w->data, frames[i].iov->iov_base, w->len);
	}
	return count;
}

static const struct port_ops wire_ops = { .received = wire_received };

static void plug(struct fixture *f, int *ret_fd)
{
	int fds[2];

	assert_int_equal(port_socketpair(fds, NULL), 0);
	assert_int_equal(port_new(f->guest->loop, fds[0], &wire_ops, f, &f->wire, NULL), 0);
	*ret_fd = fds[1];
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct netvsp_config config = { .instance =
					    GUID_INIT(0xabcdef01, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10),
					.vp_count = 4 };
	struct error err;

	f->guest = vmbus_guest_new(1, 32 * MIB);
	config.bus = f->guest->bus;
	config.loop = f->guest->loop;
	memcpy(config.mac, own_mac, 6);
	plug(f, &config.port_fd);
	assert_int_equal(netvsp_new(&config, &f->nic, &err), 0);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->driver)
		netvsc_guest_close(f->driver);
	netvsp_free(f->nic);
	port_free(f->wire);
	vmbus_guest_free(f->guest);
	for (unsigned i = 0; i < f->seen_count; i++)
		free(f->seen[i].data);
	free(f);
	return 0;
}

static void start(struct fixture *f, const struct netvsc_guest_options *options)
{
	f->driver = netvsc_guest_open(f->guest, options);
	assert_non_null(f->driver);
	netvsc_guest_start(f->driver, FILTER);
}

static size_t make_frame(uint8_t *ret, const uint8_t *to, const uint8_t *from, size_t len)
{
	memcpy(ret, to, 6);
	memcpy(ret + 6, from, 6);
	store_be16(ret + 12, 0x88B5); /* for local experiments */
	for (size_t i = 14; i < len; i++)
		ret[i] = (uint8_t)(i * 7 + len);
	return len;
}

static void wait_wire(struct fixture *f, unsigned count)
{
	for (unsigned i = 0; i < 2000 && f->seen_count < count; i++)
		vmbus_guest_step(f->guest);
	assert_int_equal(f->seen_count, count);
}

static void send_wire(struct fixture *f, const uint8_t *frame, size_t len,
		      struct frame_offload offload)
{
	struct iovec iov = { (void *)(uintptr_t)frame, len };
	struct port_frame pf = { offload, &iov, 1 };

	while (port_send(f->wire, &pf, 1) == 0)
		vmbus_guest_step(f->guest);
}

/* ---- tests ---- */

static void test_versions(void **state)
{
	struct fixture *f = *state;
	static const uint32_t good[] = { 0x60001, 0x60000, 0x50000, 0x40000, 0x30002, 0x00002 };
	struct netvsc_guest_options options = { .version = 0x70000 };

	assert_null(netvsc_guest_open(f->guest, &options));
	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		struct netvsp_status status;

		options.version = good[i];
		start(f, &options);
		netvsp_status(f->nic, &status);
		assert_int_equal(status.version, good[i]);
		assert_true(status.running);
		netvsc_guest_close(f->driver);
		f->driver = NULL;
	}
}

static void test_probe_oids(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = { .version = NVSP_VERSION_6_1, .mtu = 1500 };
	uint8_t data[1024];
	uint32_t len;

	start(f, &options);
	len = sizeof(data);
	assert_int_equal(netvsc_guest_query(f->driver, OID_802_3_PERMANENT_ADDRESS, data, &len), 0);
	assert_int_equal(len, 6);
	assert_memory_equal(data, own_mac, 6);
	len = sizeof(data);
	assert_int_equal(netvsc_guest_query(f->driver, OID_GEN_MAXIMUM_FRAME_SIZE, data, &len), 0);
	assert_int_equal(load_le32(data), 1500);
	len = sizeof(data);
	assert_int_equal(
	    netvsc_guest_query(f->driver, OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, data, &len), 0);
	assert_int_equal(len, NDIS_OFFLOAD_BYTES_3);
	assert_int_equal(data[0], NDIS_OBJECT_OFFLOAD);
	len = sizeof(data);
	assert_int_equal(netvsc_guest_query(f->driver, OID_GEN_MEDIA_CONNECT_STATUS, data, &len),
			 0);
	assert_int_equal(load_le32(data), 0);
	len = sizeof(data);
	assert_int_equal(netvsc_guest_query(f->driver, OID_GEN_LINK_SPEED, data, &len), 0);
	assert_int_equal(load_le32(data), 100000000);
	len = sizeof(data);
	assert_int_equal(netvsc_guest_query(f->driver, OID_GEN_STATISTICS, data, &len), 0);
	len = sizeof(data);
	assert_true(netvsc_guest_query(f->driver, 0x0BADF00D, data, &len) ==
		    RNDIS_STATUS_NOT_SUPPORTED);
	assert_int_equal(len, 0);
}

static void test_send(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = { .version = NVSP_VERSION_6_1, .mtu = 1500 };
	struct netvsc_guest_send ways[] = {
		{ 0 }, { .by_section = true }, { .piece_bytes = 100 }, { .piece_bytes = 20 }
	};
	uint8_t frame[1514];

	start(f, &options);
	for (unsigned i = 0; i < ARRAY_SIZE(ways); i++) {
		make_frame(frame, peer_mac, own_mac, sizeof(frame) - i);
		assert_true(netvsc_guest_send(f->driver, frame, sizeof(frame) - i, &ways[i]));
		wait_wire(f, i + 1);
		assert_int_equal(f->seen[i].len, sizeof(frame) - i);
		assert_memory_equal(f->seen[i].data, frame, f->seen[i].len);
	}
	assert_int_equal(netvsp_stats(f->nic)->sent[NETVSP_DIRECTED].frames, ARRAY_SIZE(ways));
}

static void test_receive(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = { .version = NVSP_VERSION_6_1, .mtu = 1500 };
	static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };
	struct netvsc_guest_frame got;
	uint8_t frame[1514];

	start(f, &options);
	for (unsigned i = 0; i < 500; i++) {
		size_t len = make_frame(frame, own_mac, peer_mac, 60 + i * 2);

		send_wire(f, frame, len, (struct frame_offload){ 0 });
		assert_true(netvsc_guest_receive(f->driver, &got, 1000));
		assert_int_equal(got.len, len);
		assert_memory_equal(got.data, frame, len);
	}
	/* Somebody else's, then one for all. */
	send_wire(f, frame, make_frame(frame, peer_mac, peer_mac, 100),
		  (struct frame_offload){ 0 });
	send_wire(f, frame, make_frame(frame, broadcast, peer_mac, 99),
		  (struct frame_offload){ 0 });
	assert_true(netvsc_guest_receive(f->driver, &got, 1000));
	assert_int_equal(got.len, 99);
	assert_int_equal(netvsp_stats(f->nic)->received[NETVSP_DIRECTED].frames, 500);
	assert_int_equal(netvsp_stats(f->nic)->received[NETVSP_BROADCAST].frames, 1);
}

/* ---- offloads ---- */

struct packet {
	bool v6, udp;
	uint16_t port; /* source */
	size_t payload;
};

/* A TCP or UDP frame from -> to without checksums; returns its length. */
static size_t make_packet(uint8_t *f, const uint8_t *to, const uint8_t *from,
			  const struct packet *p)
{
	size_t l4 = p->v6 ? 54 : 34, header = p->udp ? 8 : 20, len = l4 + header + p->payload;
	uint8_t protocol = p->udp ? 17 : 6;

	memset(f, 0, l4 + header);
	make_frame(f, to, from, 14);
	store_be16(f + 12, p->v6 ? 0x86DD : 0x0800);
	if (p->v6) {
		f[14] = 0x60;
		store_be16(f + 18, (uint16_t)(len - 54));
		f[20] = protocol;
		f[22] = f[38] = 0xFD;
		f[37] = 1;
		f[53] = 2;
	} else {
		f[14] = 0x45;
		store_be16(f + 16, (uint16_t)(len - 14));
		f[23] = protocol;
		store_be32(f + 26, 0x0A000001);
		store_be32(f + 30, 0x0A000002);
	}
	store_be16(f + l4, p->port);
	store_be16(f + l4 + 2, 80);
	if (p->udp)
		store_be16(f + l4 + 4, (uint16_t)(8 + p->payload));
	else
		f[l4 + 12] = 0x50, f[l4 + 13] = 0x10;
	for (size_t i = 0; i < p->payload; i++)
		f[l4 + header + i] = (uint8_t)(i * 3 + p->port);
	return len;
}

static const struct netvsc_guest_options modern = { .version = NVSP_VERSION_6_1,
						    .mtu = 1500,
						    .capabilities = NVSP_CAPABILITY_VLAN |
								    NVSP_CAPABILITY_RSC };

static void test_capabilities(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = modern;
	struct ndis_offload o;
	struct ndis_rss_caps rss;
	uint32_t len = sizeof(o);

	start(f, &options);
	assert_int_equal(
	    netvsc_guest_query(f->driver, OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, &o, &len), 0);
	assert_int_equal(o.header.bytes, 156);
	assert_int_equal(o.checksum.ip4_tx & 0x14, 0x14);
	assert_int_equal(o.checksum.ip6_tx & 0x15, 0x15);
	assert_int_equal(o.lso2.ip6_options & 5, 5);
	assert_int_equal(o.rsc_ip4, 1);
	len = sizeof(rss);
	assert_int_equal(
	    netvsc_guest_query(f->driver, OID_GEN_RECEIVE_SCALE_CAPABILITIES, &rss, &len), 0);
	assert_int_equal(len, 18);
	assert_int_equal(rss.receive_queues, 4);
	netvsc_guest_close(f->driver);
	options.version = NVSP_VERSION_4;
	start(f, &options);
	len = sizeof(o);
	assert_int_equal(
	    netvsc_guest_query(f->driver, OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, &o, &len), 0);
	assert_int_equal(len, 144);
	len = sizeof(rss);
	assert_int_not_equal(
	    netvsc_guest_query(f->driver, OID_GEN_RECEIVE_SCALE_CAPABILITIES, &rss, &len), 0);
}

static void test_send_offloads(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[65600];
	struct packet p = { .port = 1, .payload = 500 };
	struct netvsc_guest_ppi checksum = { RNDIS_PPI_CHECKSUM, PPI_CHECKSUM_TX_IPV4 |
								     PPI_CHECKSUM_TX_TCP |
								     34 << 16 };
	struct netvsc_guest_ppi lso = { RNDIS_PPI_LSO, 1460 | 34 << 20 | PPI_LSO_V2 };
	struct netvsc_guest_ppi tag = { RNDIS_PPI_VLAN, 5 | 100 << 4 };
	struct netvsc_guest_send how = { .ppi = &checksum, .ppi_count = 1 };
	size_t len;

	start(f, &modern);
	len = make_packet(frame, peer_mac, own_mac, &p);
	assert_true(netvsc_guest_send(f->driver, frame, len, &how));
	wait_wire(f, 1);
	assert_int_equal(f->seen[0].offload.flags, FRAME_NEEDS_CSUM);
	assert_int_equal(f->seen[0].offload.gso_bytes, 0);

	p.payload = 60000;
	len = make_packet(frame, peer_mac, own_mac, &p);
	how.ppi = &lso;
	assert_true(netvsc_guest_send(f->driver, frame, len, &how));
	how.piece_bytes = 700; /* more pieces than a message to the switch can have */
	assert_true(netvsc_guest_send(f->driver, frame, len, &how));
	wait_wire(f, 3);
	for (unsigned i = 1; i < 3; i++) {
		assert_int_equal(f->seen[i].offload.gso_bytes, 1460);
		assert_int_equal(f->seen[i].len, len);
		assert_memory_equal(f->seen[i].data, frame, len);
	}

	how = (struct netvsc_guest_send){ .ppi = &tag, .ppi_count = 1 };
	for (unsigned i = 0; i < 2; i++) {
		how.piece_bytes = i ? 7 : 0;
		assert_true(netvsc_guest_send(f->driver, frame, 200, &how));
		wait_wire(f, 4 + i);
		assert_int_equal(f->seen[3 + i].len, 204);
		assert_int_equal(load_be32(f->seen[3 + i].data + 12), 0x8100A064);
		assert_memory_equal(f->seen[3 + i].data + 16, frame + 12, 188);
	}
}

static void test_bad_packets(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[200], message[400];
	struct netvsc_guest_ppi lso[] = { { RNDIS_PPI_LSO, 1460 },         /* version 1 */
					  { RNDIS_PPI_LSO, PPI_LSO_V2 } }; /* no size */
	struct {
		unsigned offset;
		uint32_t value;
	} damage[] = { { 0, 77 },          { 4, 7 },    { 4, 401 },         { 8, 0xFFFFFFF0 },
		       { 12, 0xFFFFFFFF }, { 12, 399 }, { 32, 0x80000000 }, { 12, 13 } };
	unsigned errors = 0;

	start(f, &modern);
	make_frame(frame, peer_mac, own_mac, sizeof(frame));
	for (unsigned i = 0; i < ARRAY_SIZE(lso); i++) {
		struct netvsc_guest_send how = { .ppi = &lso[i], .ppi_count = 1 };

		assert_false(netvsc_guest_send(f->driver, frame, sizeof(frame), &how));
		errors++;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
		struct rndis_packet body = { .data_offset = 36, .data_bytes = sizeof(frame) };
		uint64_t id;

		memset(message, 0, sizeof(message));
		store_le32(message, RNDIS_PACKET);
		store_le32(message + 4, 44 + sizeof(frame));
		memcpy(message + 8, &body, sizeof(body));
		memcpy(message + 44, frame, sizeof(frame));
		store_le32(message + damage[i].offset, damage[i].value);
		id = netvsc_guest_send_raw(f->driver, 0, NVSP_CHANNEL_DATA, message,
					   44 + sizeof(frame));
		assert_int_equal(netvsc_guest_wait_completion(f->driver, id),
				 NVSP_STATUS_BAD_RNDIS_PACKET);
		errors++;
	}
	assert_int_equal(netvsp_stats(f->nic)->sent_errors, errors);
	assert_int_equal(f->seen_count, 0);
	/* It still works. */
	assert_true(netvsc_guest_send(f->driver, frame, sizeof(frame), NULL));
	wait_wire(f, 1);
}

static void test_several_messages(void **state)
{
	struct fixture *f = *state;
	uint8_t message[8 * 256] = { 0 };
	uint64_t id;

	start(f, &modern);
	for (unsigned i = 0; i < 8; i++) {
		struct rndis_packet body = { .data_offset = 36, .data_bytes = 100 + i };
		uint8_t *m = message + i * 256;

		store_le32(m, RNDIS_PACKET);
		store_le32(m + 4, 256);
		memcpy(m + 8, &body, sizeof(body));
		make_frame(m + 44, peer_mac, own_mac, 100 + i);
	}
	id = netvsc_guest_send_raw(f->driver, 0, NVSP_CHANNEL_DATA, message, sizeof(message));
	assert_int_equal(netvsc_guest_wait_completion(f->driver, id), NVSP_STATUS_SUCCESS);
	wait_wire(f, 8);
	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(f->seen[i].len, 100 + i);
}

static void test_receive_checksums(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_frame got;
	uint8_t frame[2000];

	start(f, &modern);
	for (unsigned i = 0; i < 16; i++) {
		struct packet p = { .v6 = i & 1, .udp = i & 2, .port = 9, .payload = 333 };
		struct frame_offload offload = { i & 4 ? FRAME_NEEDS_CSUM | FRAME_NEEDS_IP_CSUM
						       : FRAME_CSUM_VALID };
		bool enabled = i & 8;
		size_t len = make_packet(frame, own_mac, peer_mac, &p);

		if (i == 8)
			assert_int_equal(netvsc_guest_offloads(f->driver, NDIS_OFFLOAD_BOTH, false),
					 0);
		send_wire(f, frame, len, offload);
		assert_true(netvsc_guest_receive(f->driver, &got, 1000));
		assert_int_equal(got.len, len);
		assert_int_equal(got.has_checksum, enabled);
		if (enabled)
			assert_int_equal(got.checksum,
					 p.udp ? PPI_CHECKSUM_RX_UDP_OK : PPI_CHECKSUM_RX_TCP_OK);
		/* Filled in by the host, or as it came: not at all. */
		assert_int_equal(frame_checksum_ok(got.data, got.len), (i & 4) != 0);
	}
	/* Nobody vouches for it: the guest looks itself. */
	send_wire(f, frame, 100, (struct frame_offload){ 0 });
	assert_true(netvsc_guest_receive(f->driver, &got, 1000));
	assert_false(got.has_checksum);
}

static void receive_stream(struct fixture *f, const uint8_t *frame, size_t len, size_t header,
			   size_t *ret_largest)
{
	struct netvsc_guest_frame got;
	size_t done = 0;

	*ret_largest = 0;
	while (done < len - header) {
		assert_true(netvsc_guest_receive(f->driver, &got, 1000));
		assert_true(frame_checksum_ok(got.data, got.len));
		assert_memory_equal(got.data + header, frame + header + done, got.len - header);
		done += got.len - header;
		*ret_largest = MAX(*ret_largest, got.len);
	}
	assert_int_equal(done, len - header);
}

static void test_receive_large(void **state)
{
	struct fixture *f = *state;
	static uint8_t frame[65600];
	size_t largest;

	start(f, &modern);
	for (unsigned i = 0; i < 4; i++) {
		struct packet p = { .v6 = i & 1, .port = 9, .payload = 60000 };
		size_t len = make_packet(frame, own_mac, peer_mac, &p);

		if (i == 2)
			netvsc_guest_offloads(f->driver, NDIS_OFFLOAD_BOTH, true);
		send_wire(f, frame, len, (struct frame_offload){ 0, 1400 });
		receive_stream(f, frame, len, p.v6 ? 74 : 54, &largest);
		if (i < 2)
			assert_int_equal(largest, 1400 + (p.v6 ? 74 : 54));
		else
			assert_true(largest > 20000);
	}
	assert_true(f->driver->max_ranges <= 32);
}

static void test_receive_tag(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options plain = { .version = NVSP_VERSION_5, .mtu = 1500 };
	struct netvsc_guest_frame got;
	uint8_t frame[300];

	make_frame(frame, own_mac, peer_mac, sizeof(frame));
	store_be32(frame + 12, 0x8100A064);
	start(f, &modern);
	send_wire(f, frame, sizeof(frame), (struct frame_offload){ 0 });
	assert_true(netvsc_guest_receive(f->driver, &got, 1000));
	assert_int_equal(got.len, sizeof(frame) - 4);
	assert_true(got.has_vlan);
	assert_int_equal(got.vlan, 5 | 100 << 4);
	assert_memory_equal(got.data, frame, 12);
	assert_memory_equal(got.data + 12, frame + 16, sizeof(frame) - 16);
	netvsc_guest_close(f->driver);
	start(f, &plain);
	send_wire(f, frame, sizeof(frame), (struct frame_offload){ 0 });
	assert_true(netvsc_guest_receive(f->driver, &got, 1000));
	assert_int_equal(got.len, sizeof(frame));
	assert_false(got.has_vlan);
}

static void test_rss(void **state)
{
	struct fixture *f = *state;
	unsigned per_channel[4] = { 0 };
	struct netvsc_guest_frame got;
	uint8_t frame[200];

	start(f, &modern);
	assert_int_equal(netvsc_guest_open_subchannels(f->driver, 7), 4);
	assert_int_equal(netvsc_guest_rss(f->driver, 4), 0);
	netvsc_guest_poll(f->driver);
	assert_int_equal(f->driver->indirection_count, 16);
	assert_int_equal(f->driver->indirection[7], 3);
	for (unsigned i = 0; i < 200; i++) {
		struct packet p = { .v6 = i & 1, .port = (uint16_t)(1000 + i), .payload = 50 };
		size_t len = make_packet(frame, own_mac, peer_mac, &p);
		struct frame_layout l;
		uint32_t hash;

		send_wire(f, frame, len, (struct frame_offload){ 0 });
		assert_true(netvsc_guest_receive(f->driver, &got, 1000));
		assert_memory_equal(got.data, frame, len);
		frame_parse(frame, len, false, &l);
		assert_true(frame_rss_hash(frame, &l, 15, netvsc_guest_rss_key, &hash));
		assert_true(got.has_hash && got.hash == hash);
		assert_int_equal(got.channel, hash % 128 % 4);
		per_channel[got.channel]++;
	}
	for (unsigned i = 0; i < 4; i++) {
		struct netvsc_guest_send how = { .channel = i, .by_section = i & 1 };

		assert_true(per_channel[i] > 20);
		assert_true(netvsc_guest_send(f->driver, frame, 100, &how));
	}
	wait_wire(f, 4);
	/* More than there are: none is granted. */
	assert_int_equal(netvsc_guest_open_subchannels(f->driver, 1), 4);
	/* Once more from the start. */
	netvsc_guest_close(f->driver);
	start(f, &modern);
	assert_int_equal(netvsc_guest_open_subchannels(f->driver, 2), 3);
}

/* ---- flow control ---- */

/* Sends count numbered frames to the guest while it receives, or not. */
static void flood(struct fixture *f, unsigned count, unsigned first)
{
	uint8_t frame[1000];

	for (unsigned i = 0; i < count; i++) {
		struct iovec iov = { frame, sizeof(frame) };
		struct port_frame pf = { .iov = &iov, .iov_count = 1 };

		make_frame(frame, own_mac, peer_mac, sizeof(frame));
		store_le32(frame + 14, first + i);
		for (unsigned tries = 0; port_send(f->wire, &pf, 1) == 0; tries++) {
			assert_true(tries < 100000);
			vmbus_guest_step(f->guest);
			netvsc_guest_poll(f->driver);
		}
	}
}

static void expect_numbers(struct fixture *f, unsigned count, unsigned first)
{
	struct netvsc_guest_frame got;

	for (unsigned i = 0; i < count; i++) {
		assert_true(netvsc_guest_receive(f->driver, &got, 2000));
		assert_int_equal(load_le32(got.data + 14), first + i);
	}
}

/* The guest keeps all sections: the host stops, loses nothing, and goes on when it gets them back.
 */
static void test_sections_held(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = modern;
	struct netvsc_guest_frame got;
	unsigned received = 0;

	options.receive_pages = 16;
	start(f, &options);
	f->driver->hold = true;
	flood(f, 60, 0);
	while (netvsc_guest_receive(f->driver, &got, 50)) {
		assert_int_equal(load_le32(got.data + 14), received);
		received++;
	}
	assert_int_equal(received, f->driver->section_count);
	assert_true(netvsp_stats(f->nic)->received_no_buffer > 0);
	f->driver->hold = false;
	netvsc_guest_release(f->driver);
	expect_numbers(f, 60 - received, received);
	flood(f, 300, 1000);
	expect_numbers(f, 300, 1000);
}

static void test_wrong_completions(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = modern;
	uint64_t id;

	options.receive_pages = 16;
	start(f, &options);
	f->driver->hold = true;
	flood(f, 1, 0);
	expect_numbers(f, 1, 0);
	assert_int_equal(f->driver->held_count, 1);
	id = f->driver->held[0].transaction_id;
	for (unsigned i = 0; i < 50; i++) {
		static const uint64_t wrong[] = { 0, 1, ~0ull, 0xFFFFFFFF, 12345 };
		uint64_t made_up = i < 5 ? wrong[i] : id ^ (uint64_t)i << 32;

		assert_true(vmbus_guest_send_completion(f->driver->channels[0], made_up, "", 1));
		vmbus_guest_step(f->guest);
	}
	/* Twice: the second has no effect. */
	f->driver->hold = false;
	netvsc_guest_release(f->driver);
	vmbus_guest_send_completion(f->driver->channels[0], id, "", 1);
	f->driver->hold = true;
	flood(f, 60, 100);
	while (f->driver->frame_count < f->driver->section_count)
		vmbus_guest_step(f->guest), netvsc_guest_poll(f->driver);
	for (unsigned i = 0; i < 100; i++)
		vmbus_guest_step(f->guest), netvsc_guest_poll(f->driver);
	assert_int_equal(f->driver->frame_count, f->driver->section_count);
	f->driver->hold = false;
	netvsc_guest_release(f->driver);
	expect_numbers(f, 60, 100);
}

/* Rings of one data page, as iPXE has: no packet with more than 55 ranges, none lost. */
static void test_small_ring(void **state)
{
	struct fixture *f = *state;
	struct netvsc_guest_options options = { .version = NVSP_VERSION_1,
						.receive_pages = 16,
						.ring_pages = 2 };
	uint8_t frame[800];

	start(f, &options);
	f->driver->hold = true;
	flood(f, 30, 0);
	for (unsigned i = 0; i < 100; i++)
		vmbus_guest_step(f->guest);
	f->driver->hold = false;
	netvsc_guest_poll(f->driver);
	netvsc_guest_release(f->driver);
	expect_numbers(f, 30, 0);
	flood(f, 500, 30);
	expect_numbers(f, 500, 30);
	assert_true(f->driver->max_ranges <= 55);
	for (unsigned i = 0; i < 100; i++) {
		make_frame(frame, peer_mac, own_mac, sizeof(frame));
		assert_true(netvsc_guest_send(f->driver, frame, sizeof(frame), NULL));
	}
	wait_wire(f, 100);
}

/* The switch takes nothing: packets stay with the guest, and are completed in order later. */
static void test_switch_full(void **state)
{
	struct fixture *f = *state;
	uint8_t message[44 + 8000] = { 0 };
	struct rndis_packet body = { .data_offset = 36, .data_bytes = 8000 };
	uint64_t first = 0, last = 0;
	unsigned sent = 0;

	start(f, &modern);
	f->refuse = true;
	store_le32(message, RNDIS_PACKET);
	store_le32(message + 4, sizeof(message));
	memcpy(message + 8, &body, sizeof(body));
	make_frame(message + 44, peer_mac, own_mac, 8000);
	for (; sent < 200; sent++) {
		uint64_t id = netvsc_guest_send_raw(f->driver, 0, NVSP_CHANNEL_DATA, message,
						    sizeof(message));

		if (!id)
			break;
		first = first ? first : id;
		last = id;
		vmbus_guest_step(f->guest);
	}
	netvsc_guest_poll(f->driver);
	assert_true(f->driver->completion_count < sent);
	f->refuse = false;
	port_resume(f->wire);
	for (unsigned i = 0; i < 2000 && f->driver->completion_count < sent; i++) {
		vmbus_guest_step(f->guest);
		netvsc_guest_poll(f->driver);
	}
	assert_int_equal(f->driver->completion_count, sent);
	for (unsigned i = 0; i < sent; i++)
		assert_int_equal(f->driver->completions[i].transaction_id, first + i);
	assert_int_equal(last, first + sent - 1);
	wait_wire(f, sent);
}

static void test_reopen(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 6; i++) {
		start(f, &modern);
		f->driver->hold = i & 1;
		if (i & 2)
			netvsc_guest_open_subchannels(f->driver, 3);
		flood(f, 100, 0);
		if (!(i & 1))
			expect_numbers(f, 100, 0);
		netvsc_guest_close(f->driver);
		/* Nobody is there: it goes nowhere, and keeps nobody waiting. */
		flood(f, 0, 0);
		f->driver = NULL;
		for (unsigned k = 0; k < 20; k++)
			vmbus_guest_step(f->guest);
	}
}

static void test_unload(void **state)
{
	struct fixture *f = *state;

	start(f, &modern);
	netvsc_guest_open_subchannels(f->driver, 3);
	f->driver->hold = true;
	flood(f, 100, 0);
	vmbus_guest_unload(f->guest);
	netvsc_guest_forget(f->driver);
	f->driver = NULL;
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_4_0));
	start(f, &modern);
	flood(f, 100, 0);
	expect_numbers(f, 100, 0);
}

/* ---- link and settings ---- */

static void test_link(void **state)
{
	struct fixture *f = *state;
	uint32_t value, len = 4;
	struct error err;
	uint8_t frame[100];
	int fd;

	start(f, &modern);
	make_frame(frame, peer_mac, own_mac, sizeof(frame));
	netvsp_set_link(f->nic, false);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_MEDIA_DISCONNECT);
	assert_int_equal(netvsc_guest_query(f->driver, OID_GEN_MEDIA_CONNECT_STATUS, &value, &len),
			 0);
	assert_int_equal(value, 1);
	assert_true(netvsc_guest_send(f->driver, frame, sizeof(frame), NULL));
	netvsp_set_link(f->nic, true);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_MEDIA_CONNECT);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_LINK_SPEED);
	netvsp_set_link(f->nic, true);
	assert_int_equal(netvsc_guest_indication(f->driver), 0);
	/* The other end goes away. */
	port_free(f->wire);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_MEDIA_DISCONNECT);
	assert_true(netvsc_guest_send(f->driver, frame, sizeof(frame), NULL));
	plug(f, &fd);
	assert_int_equal(netvsp_set_port(f->nic, fd, &err), 0);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_MEDIA_CONNECT);
	assert_true(netvsc_guest_send(f->driver, frame, sizeof(frame), NULL));
	wait_wire(f, 1);
	netvsp_network_changed(f->nic);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_LINK_SPEED);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_NETWORK_CHANGE);
	assert_int_equal(netvsp_set_port(f->nic, -1, &err), 0);
	assert_int_equal(netvsc_guest_indication(f->driver), RNDIS_STATUS_MEDIA_DISCONNECT);
	assert_int_equal(netvsp_stats(f->nic)->sent_dropped, 2);
}

static void test_mtu(void **state)
{
	struct fixture *f = *state;
	static const uint32_t mtus[] = { 9000, 1500, 65521, 576 };
	static uint8_t frame[65600];
	struct netvsc_guest_frame got;

	for (unsigned i = 0; i < ARRAY_SIZE(mtus); i++) {
		struct netvsc_guest_options options = modern;
		uint32_t value, len = 4;

		options.mtu = mtus[i];
		start(f, &options);
		assert_int_equal(
		    netvsc_guest_query(f->driver, OID_GEN_MAXIMUM_FRAME_SIZE, &value, &len), 0);
		assert_int_equal(value, mtus[i]);
		make_frame(frame, own_mac, peer_mac, mtus[i] + 14);
		send_wire(f, frame, mtus[i] + 14, (struct frame_offload){ 0 });
		assert_true(netvsc_guest_receive(f->driver, &got, 1000));
		assert_int_equal(got.len, mtus[i] + 14);
		assert_memory_equal(got.data, frame, got.len);
		netvsc_guest_close(f->driver);
	}
	start(f, &modern);
	/* Longer than the guest takes: dropped, and counted. */
	send_wire(f, frame, 9014, (struct frame_offload){ 0 });
	assert_false(netvsc_guest_receive(f->driver, &got, 50));
	assert_int_equal(netvsp_stats(f->nic)->received_errors, 1);
}

static uint32_t set_mac(struct fixture *f, const char *text)
{
	uint8_t data[20 + 28 + 24] = { 0 };
	static const char name[] = "NetworkAddress";
	struct rndis_config_parameter p = { 20, 28, RNDIS_CONFIG_STRING, 48, 24 };

	memcpy(data, &p, sizeof(p));
	for (unsigned i = 0; i < 14; i++)
		data[20 + i * 2] = (uint8_t)name[i];
	for (unsigned i = 0; i < 12; i++)
		data[48 + i * 2] = (uint8_t)text[i];
	return netvsc_guest_set(f->driver, OID_GEN_RNDIS_CONFIG_PARAMETER, data, sizeof(data));
}

static void test_mac(void **state)
{
	struct fixture *f = *state;

	start(f, &modern);
	assert_int_equal(set_mac(f, "00155D010203"), 0);
	assert_int_not_equal(set_mac(f, "00155D010299"), 0);
	assert_int_not_equal(set_mac(f, "00155D0102zz"), 0);
	assert_int_not_equal(set_mac(f, "01155D010203"), 0);
}

/* Requests whose offsets and lengths lie. */
static void test_bad_requests(void **state)
{
	struct fixture *f = *state;
	uint32_t filter = FILTER, len = 4;

	start(f, &modern);
	for (unsigned i = 0; i < 5; i++) {
		struct {
			struct rndis_oid_request r;
			uint32_t value;
		} __attribute__((packed))
		body = { { 5, OID_GEN_CURRENT_PACKET_FILTER, 4, 20, 0 }, 0 };
		struct rndis_complete reply;

		if (i < 2)
			body.r.offset = i ? 0xFFFFFFF0 : 21;
		else if (i < 4)
			body.r.bytes = i == 2 ? 0xFFFFFFFF : 3;
		memcpy(
		    &reply,
		    netvsc_guest_request(f->driver, RNDIS_SET, &body, i == 4 ? 10 : sizeof(body)) +
			8,
		    sizeof(reply));
		assert_int_not_equal(reply.status, 0);
		assert_int_equal(reply.request_id, 5);
	}
	assert_int_equal(
	    netvsc_guest_query(f->driver, OID_GEN_CURRENT_PACKET_FILTER, &filter, &len), 0);
	assert_int_equal(filter, FILTER);
	/* No control message at all: completed, without an answer. */
	for (unsigned i = 0; i < 3; i++) {
		uint8_t message[5000] = { i == 2 ? 99 : 4, 0, 0, 0, i ? 200 : 4 };
		uint64_t id = netvsc_guest_send_raw(f->driver, 0, NVSP_CHANNEL_CONTROL, message,
						    i ? 100 : 5000);

		assert_int_equal(netvsc_guest_wait_completion(f->driver, id),
				 i ? NVSP_STATUS_SUCCESS : NVSP_STATUS_BAD_RNDIS_PACKET);
	}
	assert_int_equal(f->driver->control_count, 0);
}

/* NVSP messages out of place. */
static void test_bad_nvsp(void **state)
{
	struct fixture *f = *state;
	uint32_t types[] = { 0, 1, 2, 101, 102, 104, 107, 108, 128, 129, 133, 134, 999 };

	start(f, &modern);
	for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
		for (uint32_t len = 4; len <= 40; len += 12) {
			uint8_t message[40] = { 0 };
			uint64_t id = ++f->driver->next_transaction;

			store_le32(message, types[i]);
			memset(message + 4, 0xFF, len - 4);
			assert_true(
			    vmbus_guest_send(f->driver->channels[0], id, true, message, len));
			netvsc_guest_wait_completion(f->driver, id);
		}
	flood(f, 10, 0);
	expect_numbers(f, 10, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void test_state_tables(void **state)
{
	STATE_CHECK(struct netvsp_buffer_state, netvsp_buffer_state_desc);
	STATE_CHECK(struct netvsp_lent_state, netvsp_lent_state_desc);
	STATE_CHECK(struct netvsp_staged_state, netvsp_staged_state_desc);
	STATE_CHECK(struct netvsp_completion_state, netvsp_completion_state_desc);
	STATE_CHECK(struct netvsp_response_state, netvsp_response_state_desc);
	STATE_CHECK(struct netvsp_state, netvsp_state_desc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_versions),
		TEST(test_probe_oids),
		TEST(test_send),
		TEST(test_receive),
		TEST(test_capabilities),
		TEST(test_send_offloads),
		TEST(test_bad_packets),
		TEST(test_several_messages),
		TEST(test_receive_checksums),
		TEST(test_receive_large),
		TEST(test_receive_tag),
		TEST(test_rss),
		TEST(test_sections_held),
		TEST(test_wrong_completions),
		TEST(test_small_ring),
		TEST(test_switch_full),
		TEST(test_reopen),
		TEST(test_unload),
		TEST(test_link),
		TEST(test_mtu),
		TEST(test_mac),
		TEST(test_bad_requests),
		TEST(test_bad_nvsp),
		TEST(test_state_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
