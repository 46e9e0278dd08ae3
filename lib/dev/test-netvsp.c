/* The network adapter against a driver that does what Linux's does. */
#include "netvsc-guest.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "dev/netvsp.h"
#include "net/port.h"

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
	struct netvsp_config config = {
		.instance = GUID_INIT(0xabcdef01, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), .vp_count = 4
	};
	struct error err;

	f->guest = vmbus_guest_new(1, 32 * MIB);
	config.bus = f->guest->bus;
	config.loop = f->guest->loop;
	config.mem = f->guest->mem;
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
	assert_int_equal(netvsc_guest_query(f->driver, OID_TCP_OFFLOAD_HARDWARE_CAPABILITIES, data,
					    &len),
			 0);
	assert_int_equal(len, NDIS_OFFLOAD_BYTES_3);
	assert_int_equal(data[0], NDIS_OBJECT_OFFLOAD);
	len = sizeof(data);
	assert_int_equal(netvsc_guest_query(f->driver, OID_GEN_MEDIA_CONNECT_STATUS, data, &len), 0);
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
	struct netvsc_guest_send ways[] = { { 0 }, { .by_section = true }, { .piece_bytes = 100 },
					    { .piece_bytes = 20 } };
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
	send_wire(f, frame, make_frame(frame, peer_mac, peer_mac, 100), (struct frame_offload){ 0 });
	send_wire(f, frame, make_frame(frame, broadcast, peer_mac, 99), (struct frame_offload){ 0 });
	assert_true(netvsc_guest_receive(f->driver, &got, 1000));
	assert_int_equal(got.len, 99);
	assert_int_equal(netvsp_stats(f->nic)->received[NETVSP_DIRECTED].frames, 500);
	assert_int_equal(netvsp_stats(f->nic)->received[NETVSP_BROADCAST].frames, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_versions),
		TEST(test_probe_oids),
		TEST(test_send),
		TEST(test_receive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
