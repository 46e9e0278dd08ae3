#include "net/vswitch.h"

#include "base/macros.h"
#include "net/port.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PORTS 4

struct guest {
	struct port *port;
	bool refuses;
	unsigned received;
	size_t last_len;
	uint8_t last[FRAME_MAX_BYTES];
	struct frame_offload last_offload;
};

struct fixture {
	struct loop *loop;
	struct vswitch *sw;
	struct guest guests[PORTS];
	unsigned up_count;
	size_t up_len;
	uint8_t up[FRAME_MAX_BYTES];
	unsigned gone;
};

static const uint8_t everybody[6] = { 255, 255, 255, 255, 255, 255 };

static unsigned on_received(void *user, struct port_frame *frames, unsigned count)
{
	struct guest *guest = user;

	if (guest->refuses)
		return 0;
	guest->received += count;
	guest->last_len = frames[count - 1].iov->iov_len;
	guest->last_offload = frames[count - 1].offload;
	memcpy(guest->last, frames[count - 1].iov->iov_base, guest->last_len);
	return count;
}

static const struct port_ops ops = { .received = on_received };

static void on_up(void *user, const uint8_t *frame, size_t len)
{
	struct fixture *f = user;

	f->up_count++;
	f->up_len = len;
	memcpy(f->up, frame, len);
}

static void on_gone(void *user, const char *id)
{
	struct fixture *f = user;

	assert_true(strcmp(id, "port 1") == 0 || strcmp(id, "port 3") == 0);
	f->gone++;
}

/* Guest i has the address 02:..:i; port 3 may use any. */
static void mac_of(unsigned i, uint8_t ret[6])
{
	memcpy(ret, "\x02\0\0\0\0", 5);
	ret[5] = (uint8_t)i;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct vswitch_uplink uplink = { on_up, f };

	assert_int_equal(loop_new(&f->loop, NULL), 0);
	assert_int_equal(vswitch_new(f->loop, &f->sw, NULL), 0);
	vswitch_set_uplink(f->sw, &uplink);
	vswitch_on_port_gone(f->sw, on_gone, f);
	for (unsigned i = 0; i < PORTS; i++) {
		char id[16];
		struct vswitch_port_config config = { .id = id,
						      .has_mac = true,
						      .mac_spoofing = i == 3 };
		int fds[2];

		snprintf(id, sizeof(id), "port %u", i);
		mac_of(i, config.mac);
		assert_int_equal(port_socketpair(fds, NULL), 0);
		assert_int_equal(vswitch_add_port(f->sw, &config, fds[0], NULL), 0);
		assert_int_equal(
		    port_new(f->loop, fds[1], &ops, &f->guests[i], &f->guests[i].port, NULL), 0);
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < PORTS; i++)
		port_free(f->guests[i].port);
	vswitch_free(f->sw);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void run(struct fixture *f)
{
	for (unsigned i = 0; i < 20; i++)
		loop_step(f->loop, 0);
}

static void send_frame(struct fixture *f, unsigned from, const uint8_t *to, const uint8_t *source,
		       size_t len)
{
	static uint8_t data[2000];
	struct iovec iov = { data, len };
	struct port_frame frame = { { FRAME_CSUM_VALID, 0 }, &iov, 1 };

	memcpy(data, to, 6);
	memcpy(data + 6, source, 6);
	assert_int_equal(port_send(f->guests[from].port, &frame, 1), 1);
	run(f);
}

static void check_received(struct fixture *f, unsigned a, unsigned b, unsigned c, unsigned d,
			   unsigned up)
{
	unsigned expected[PORTS] = { a, b, c, d };

	for (unsigned i = 0; i < PORTS; i++) {
		assert_int_equal(f->guests[i].received, expected[i]);
		f->guests[i].received = 0;
	}
	assert_int_equal(f->up_count, up);
	f->up_count = 0;
}

static void test_forward(void **state)
{
	struct fixture *f = *state;
	uint8_t mac[6], own[6], unknown[6];

	mac_of(0, own);
	mac_of(2, mac);
	mac_of(77, unknown);
	send_frame(f, 0, mac, own, 100);
	check_received(f, 0, 0, 1, 0, 0);
	assert_int_equal(f->guests[2].last_len, 100);
	/* A guest vouches for nothing. */
	assert_int_equal(f->guests[2].last_offload.flags, 0);
	send_frame(f, 0, everybody, own, 100);
	check_received(f, 0, 1, 1, 1, 1);
	send_frame(f, 0, unknown, own, 100);
	check_received(f, 0, 1, 1, 1, 1);
	send_frame(f, 0, own, own, 100); /* to itself */
	check_received(f, 0, 0, 0, 0, 0);
	vswitch_set_uplink(f->sw, &(struct vswitch_uplink){ 0 });
	send_frame(f, 0, unknown, own, 100);
	check_received(f, 0, 1, 1, 1, 0);
}

static void test_spoofing(void **state)
{
	struct fixture *f = *state;
	struct vswitch_port_info info;
	uint8_t mac[6], own[6], other[6];
	unsigned dropped = 0;

	mac_of(0, own);
	mac_of(2, mac);
	mac_of(9, other);
	send_frame(f, 0, mac, other, 100);
	send_frame(f, 0, mac, everybody, 100);
	check_received(f, 0, 0, 0, 0, 0);
	/* One who may: but the address of another port stays there. */
	send_frame(f, 3, mac, other, 100);
	check_received(f, 0, 0, 1, 0, 0);
	send_frame(f, 3, mac, own, 100);
	send_frame(f, 2, own, mac, 100);
	check_received(f, 1, 0, 1, 0, 0);
	send_frame(f, 2, other, mac, 100);
	check_received(f, 0, 0, 0, 1, 0);
	for (unsigned i = 0; vswitch_port_info(f->sw, i, &info); i++)
		dropped += info.dropped_spoofed;
	assert_int_equal(dropped, 2);
}

static void test_learned_limit(void **state)
{
	struct fixture *f = *state;
	struct vswitch_port_info info;
	uint8_t mac[6], source[6] = { 2, 9 };
	unsigned learned = 0;

	mac_of(2, mac);
	for (unsigned i = 0; i < 1000; i++) {
		source[4] = (uint8_t)(i >> 8);
		source[5] = (uint8_t)i;
		send_frame(f, 3, mac, source, 60);
	}
	for (unsigned i = 0; vswitch_port_info(f->sw, i, &info); i++)
		learned = MAX(learned, info.learned);
	assert_int_equal(learned, VSWITCH_MAX_LEARNED);
	/* Those that were there before are known still. */
	check_received(f, 0, 0, 1000, 0, 0);
	mac_of(0, source);
	send_frame(f, 0, mac, source, 60);
	check_received(f, 0, 0, 1, 0, 0);
}

static void test_uplink(void **state)
{
	struct fixture *f = *state;
	uint8_t frame[200] = { 0 }, own[6];
	static const uint8_t gateway[6] = { 0x52, 0x55, 1, 2, 3, 4 };

	mac_of(1, frame);
	memcpy(frame + 6, gateway, 6);
	vswitch_uplink_input(f->sw, frame, sizeof(frame));
	run(f);
	check_received(f, 0, 0, 0, 0, 0);
	vswitch_flush(f->sw);
	run(f);
	check_received(f, 0, 1, 0, 0, 0);
	assert_int_equal(f->guests[1].last_offload.flags, FRAME_CSUM_VALID);
	/* Its address was learned. */
	mac_of(0, own);
	send_frame(f, 0, gateway, own, 100);
	check_received(f, 0, 0, 0, 0, 1);
	memcpy(frame, everybody, 6);
	vswitch_uplink_input(f->sw, frame, sizeof(frame));
	vswitch_flush(f->sw);
	run(f);
	check_received(f, 1, 1, 1, 1, 0);
}

/* A guest that takes nothing loses frames of its own only, and a bounded number waits for it. */
static void test_slow_port(void **state)
{
	struct fixture *f = *state;
	struct vswitch_port_info info = { 0 };
	uint8_t slow[6], quick[6], own[6];

	mac_of(0, own);
	mac_of(1, slow);
	mac_of(2, quick);
	f->guests[1].refuses = true;
	for (unsigned i = 0; i < 5000; i++) {
		send_frame(f, 0, slow, own, 1500);
		if (i % 10 == 0)
			send_frame(f, 0, quick, own, 1500);
	}
	check_received(f, 0, 0, 500, 0, 0);
	for (unsigned i = 0; vswitch_port_info(f->sw, i, &info); i++)
		if (strcmp(info.id, "port 1") == 0)
			break;
	assert_true(info.dropped_queue > 1000 && info.dropped_queue < 4900);
	f->guests[1].refuses = false;
	port_resume(f->guests[1].port);
	for (unsigned i = 0; i < 100; i++)
		run(f);
	assert_int_equal(f->guests[1].received, 5000 - info.dropped_queue);
}

static void test_ports(void **state)
{
	struct fixture *f = *state;
	struct vswitch_port_config config = { .id = "port 1" };
	struct error err;
	uint8_t own[6], mac[6];
	int fds[2];

	assert_int_equal(port_socketpair(fds, NULL), 0);
	assert_int_equal(vswitch_add_port(f->sw, &config, fds[0], &err), -ERR_EXISTS);
	config.id = "new";
	config.has_mac = true;
	mac_of(2, config.mac);
	assert_int_equal(vswitch_add_port(f->sw, &config, fds[1], &err), -ERR_EXISTS);
	assert_non_null(strstr(err.text, "port 2"));
	assert_int_equal(vswitch_remove_port(f->sw, "none", &err), -ERR_NOT_FOUND);
	/* The peer of port 3 has ended, which nobody has noticed: its name is free. */
	port_free(f->guests[3].port);
	config = (struct vswitch_port_config){ .id = "port 3" };
	assert_int_equal(port_socketpair(fds, NULL), 0);
	assert_int_equal(vswitch_add_port(f->sw, &config, fds[0], &err), 0);
	assert_int_equal(port_new(f->loop, fds[1], &ops, &f->guests[3], &f->guests[3].port, NULL),
			 0);
	config.id = "new";
	config.has_mac = true;
	mac_of(2, config.mac);
	/* The peer of port 1 ends, port 2 is removed: their addresses are nobody's. */
	port_free(f->guests[1].port);
	f->guests[1].port = NULL;
	run(f);
	assert_int_equal(f->gone, 2);
	assert_int_equal(vswitch_port_count(f->sw), PORTS - 1);
	assert_int_equal(vswitch_remove_port(f->sw, "port 2", &err), 0);
	run(f);
	assert_false(port_is_open(f->guests[2].port));
	mac_of(0, own);
	mac_of(2, mac);
	send_frame(f, 0, mac, own, 100);
	check_received(f, 0, 0, 0, 1, 1);
	assert_int_equal(port_socketpair(fds, NULL), 0);
	assert_int_equal(vswitch_add_port(f->sw, &config, fds[0], &err), 0);
	close(fds[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_forward), TEST(test_spoofing),  TEST(test_learned_limit),
		TEST(test_uplink),  TEST(test_slow_port), TEST(test_ports),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
