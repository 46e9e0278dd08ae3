/* The NAT uplink without processes: a port, the switch, libslirp, and a server on the host. */
#include "net/nat.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"
#include "net/port.h"
#include "tiny-ip.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

struct fixture {
	struct loop *loop;
	struct vswitch *sw;
	struct nat *nat;
	struct port *port;
	struct tiny_ip ip;
	size_t len; /* of the received frame in data; 0: none */
	uint8_t data[TINY_IP_FRAME_BYTES];
};

static unsigned on_received(void *user, struct port_frame *frames, unsigned count)
{
	struct fixture *f = user;

	(void)count;
	if (f->len)
		return 0;
	f->len = frames[0].iov->iov_len;
	memcpy(f->data, frames[0].iov->iov_base, f->len);
	if (frames[0].offload.gso_bytes)
		assert_true(frame_finish(f->data, f->len, &frames[0].offload));
	return 1;
}

static const struct port_ops ops = { .received = on_received };

static void link_send_large(void *user, const uint8_t *data, size_t len, uint16_t segment_bytes)
{
	struct fixture *f = user;
	struct iovec iov = { (void *)(uintptr_t)data, len };
	struct port_frame frame = { { 0, segment_bytes }, &iov, 1 };

	while (port_send(f->port, &frame, 1) == 0)
		nat_step(f->nat, f->loop, 10);
}

static void link_send(void *user, const uint8_t *data, size_t len)
{
	link_send_large(user, data, len, 0);
}

static size_t link_receive(void *user, uint8_t *buf, unsigned timeout_ms)
{
	struct fixture *f = user;
	uint64_t end = clock_now_ns() + timeout_ms * NS_PER_MSEC;
	size_t len;

	port_resume(f->port);
	while (!f->len && clock_now_ns() < end)
		nat_step(f->nat, f->loop, 10);
	len = f->len;
	memcpy(buf, f->data, len);
	f->len = 0;
	return len;
}

static int set_up_with(void **state, bool host_loopback)
{
	static const uint8_t mac[6] = { 2, 0, 0, 0, 0, 1 };
	struct fixture *f = calloc(1, sizeof(*f));
	struct tiny_ip_link link = { f, link_send, link_send_large, link_receive };
	struct nat_config config = { .ipv6 = true, .host_loopback = host_loopback };
	struct vswitch_port_config port = { .id = "p" };
	int fds[2];

	assert_true(nat_parse_subnet("10.99.0.0/16", &config.network, &config.prefix_bits));
	config.network6.s6_addr[0] = 0xFD;
	assert_int_equal(loop_new(&f->loop, NULL), 0);
	assert_int_equal(vswitch_new(f->loop, &f->sw, NULL), 0);
	assert_int_equal(nat_new(f->loop, f->sw, &config, &f->nat, NULL), 0);
	assert_int_equal(port_socketpair(fds, NULL), 0);
	assert_int_equal(vswitch_add_port(f->sw, &port, fds[0], NULL), 0);
	assert_int_equal(port_new(f->loop, fds[1], &ops, f, &f->port, NULL), 0);
	tiny_ip_init(&f->ip, &link, mac);
	*state = f;
	return 0;
}

static int setup(void **state)
{
	return set_up_with(state, true);
}

static int setup_closed(void **state)
{
	return set_up_with(state, false);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	nat_free(f->nat);
	port_free(f->port);
	vswitch_free(f->sw);
	loop_free(f->loop);
	free(f);
	return 0;
}

static int listen_on_loopback(uint16_t *ret_port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_int_equal(bind(fd, (void *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(getsockname(fd, (void *)&address, &len), 0);
	*ret_port = ntohs(address.sin_port);
	return fd;
}

static void test_subnets(void **state)
{
	static const char *const bad[] = { "",
					   "10.0.0.0",
					   "10.0.0.0/",
					   "10.0.0.0/8",
					   "10.0.0.1/24",
					   "10.0.0.0/29",
					   "10.0.0.0/24x",
					   "10.0.0/24",
					   "x/24",
					   "111111111111111111111.0.0.0/24" };
	struct in_addr network;
	unsigned bits;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(nat_parse_subnet(bad[i], &network, &bits));
	assert_true(nat_parse_subnet("172.30.5.16/28", &network, &bits));
	assert_int_equal(ntohl(network.s_addr), 0xAC1E0510);
	assert_int_equal(bits, 28);
}

static void test_dhcp(void **state)
{
	struct fixture *f = *state;

	assert_true(tiny_ip_configure(&f->ip));
	assert_int_equal(f->ip.netmask, 0xFFFF0000);
	assert_int_equal(f->ip.gateway, 0x0A630001);
	assert_int_equal(f->ip.nameserver, 0x0A630002);
	assert_int_equal(f->ip.address & 0xFFFF0000, 0x0A630000);
	assert_true(tiny_ip_ping(&f->ip, f->ip.gateway));
}

static uint8_t pattern(uint64_t i)
{
	return (uint8_t)(i * 13 + (i >> 9));
}

static void test_connection(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[200000], back[300000];
	uint16_t port;
	int listener = listen_on_loopback(&port), fd;
	size_t done = 0;
	ssize_t n;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = pattern(i);
	assert_true(tiny_ip_configure(&f->ip));
	assert_true(tiny_ip_connect(&f->ip, f->ip.gateway, port));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	assert_int_equal(send(fd, data, sizeof(data), MSG_NOSIGNAL), sizeof(data));
	shutdown(fd, SHUT_WR);
	assert_int_equal(tiny_ip_download(&f->ip, pattern), sizeof(data));
	assert_int_equal(f->ip.bad_checksums, 0);
	assert_true(f->ip.largest > 1460);
	close(fd);

	/* And the other way, in frames larger than any wire takes. */
	assert_true(tiny_ip_connect(&f->ip, f->ip.gateway, port));
	fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	assert_true(tiny_ip_upload(&f->ip, 60000, 30000, pattern));
	while ((n = recv(fd, back + done, sizeof(back) - done, 0)) > 0)
		done += (size_t)n;
	assert_int_equal(done, 60000);
	for (size_t i = 0; i < done; i++)
		assert_int_equal(back[i], pattern(i));
	close(fd);
	close(listener);
}

/* An ICMPv6 message of bytes at frame + 54; returns the frame's length. */
static size_t make_icmp6(uint8_t *frame, const uint8_t *mac, const uint8_t *from, const uint8_t *to,
			 uint16_t bytes)
{
	static const uint8_t own[6] = { 2, 0, 0, 0, 0, 1 };
	uint8_t *ip = frame + 14, *icmp = frame + 54;

	memcpy(frame, mac, 6);
	memcpy(frame + 6, own, 6);
	store_be16(frame + 12, 0x86DD);
	memset(ip, 0, 8);
	ip[0] = 0x60;
	store_be16(ip + 4, bytes);
	ip[6] = 58;
	ip[7] = 255;
	memcpy(ip + 8, from, 16);
	memcpy(ip + 24, to, 16);
	store_be16(icmp + 2, 0);
	store_be16(icmp + 2,
		   frame_fold(frame_sum(ip + 8, 32) + 58 + bytes + frame_sum(icmp, bytes)));
	return 54u + bytes;
}

/* The next ICMPv6 message of that type. */
static uint8_t *receive_icmp6(struct fixture *f, uint8_t type)
{
	static uint8_t frame[TINY_IP_FRAME_BYTES];

	while (link_receive(f, frame, 3000))
		if (load_be16(frame + 12) == 0x86DD && frame[20] == 58 && frame[54] == type)
			return frame;
	fail_msg("no ICMPv6 message of type %u", type);
	return NULL;
}

/* Router solicitation, neighbour solicitation, echo. */
static void test_ipv6(void **state)
{
	struct fixture *f = *state;
	static const uint8_t all_routers[16] = { 0xFF, 2, [15] = 2 },
			     router[16] = { 0xFD, [15] = 1 };
	static const uint8_t local[16] = { 0xFE, 0x80, [15] = 9 }, own[16] = { 0xFD, [15] = 9 };
	static const uint8_t solicited[16] = { 0xFF, 2, [11] = 1, [12] = 0xFF, [15] = 1 };
	uint8_t frame[200] = { [54] = 133 }, mac[6], *back;

	link_send(f, frame,
		  make_icmp6(frame, (const uint8_t *)"\x33\x33\0\0\0\2", local, all_routers, 8));
	back = receive_icmp6(f, 134);
	assert_memory_equal(back, "\x33\x33\0\0\0\1", 6);

	memset(frame + 54, 0, 32);
	frame[54] = 135;
	memcpy(frame + 62, router, 16);
	frame[78] = frame[79] = 1;
	memcpy(frame + 80, "\2\0\0\0\0\1", 6);
	link_send(f, frame,
		  make_icmp6(frame, (const uint8_t *)"\x33\x33\xff\0\0\1", own, solicited, 32));
	back = receive_icmp6(f, 136);
	assert_memory_equal(back + 62, router, 16);
	memcpy(mac, back + 6, 6);

	memset(frame + 54, 0, 32);
	frame[54] = 128;
	link_send(f, frame, make_icmp6(frame, mac, own, router, 32));
	receive_icmp6(f, 129);
}

static void test_no_host_loopback(void **state)
{
	struct fixture *f = *state;
	uint16_t port;
	int listener = listen_on_loopback(&port);

	assert_true(tiny_ip_configure(&f->ip));
	assert_false(tiny_ip_connect(&f->ip, f->ip.gateway, port));
	assert_int_equal(accept4(listener, NULL, NULL, SOCK_CLOEXEC), -1);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_subnets),
		cmocka_unit_test_setup_teardown(test_dhcp, setup, teardown),
		cmocka_unit_test_setup_teardown(test_connection, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ipv6, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_host_loopback, setup_closed, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
