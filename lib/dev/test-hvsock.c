/* VMBus sockets as a guest's driver sees them, with a program of the host at the other end. */
#include "dev/hvsock.h"

#include "base/clock.h"
#include "base/macros.h"
#include "spec/hvsock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <vmbus-guest.h>

#include <cmocka.h>

#define PORT         1234u
#define NO_RESULT    12345
#define LINUX_PACKET 4088u /* data in each packet of a Linux guest that streams */

struct fixture {
	struct vmbus_guest *guest;
	struct hvsock *sockets;
	uint64_t ticket; /* of the last question */
	unsigned questions;
	struct guid service;
	int result; /* of hvsock_connect */
	struct vmbus_guest_channel *channel;
	int host; /* the end of the host's program */
};

/* The code under test finds the socket full so many times. */
static unsigned sends_refused;

ssize_t send(int fd, const void *data, size_t len, int flags)
{
	if (sends_refused) {
		sends_refused--;
		errno = EAGAIN;
		return -1;
	}
	return sendto(fd, data, len, flags, NULL, 0);
}

static void on_asked(void *user, uint64_t ticket, const struct guid *service)
{
	struct fixture *f = user;

	f->questions++;
	f->ticket = ticket;
	f->service = *service;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct hvsock_config config = { .user = f, .asked = on_asked };

	f->guest = vmbus_guest_new(1, 16 * MIB);
	f->result = NO_RESULT;
	f->host = -1;
	config.loop = f->guest->loop;
	config.bus = f->guest->bus;
	assert_int_equal(hvsock_new(&config, &f->sockets, NULL), 0);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	f->service = hvsock_service_of_port(PORT);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	hvsock_free(f->sockets);
	if (f->channel)
		vmbus_guest_forget(f->channel);
	if (f->host >= 0)
		close(f->host);
	vmbus_guest_free(f->guest);
	free(f);
	return 0;
}

static void on_done(void *user, int result)
{
	((struct fixture *)user)->result = result;
}

/* A pair of stream sockets; the host program's end is f->host. */
static int host_socket(struct fixture *f)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	if (f->host >= 0)
		close(f->host);
	f->host = pair[0];
	return pair[1];
}

static void connect_host(struct fixture *f, unsigned out_pages, unsigned in_pages)
{
	const struct vmbus_spec_offer *offer;

	assert_int_equal(
	    hvsock_connect(f->sockets, &f->service, host_socket(f), NS_PER_SEC, on_done, f, NULL),
	    0);
	offer = vmbus_guest_offer(f->guest, &f->service, 0);
	assert_non_null(offer);
	assert_int_equal(offer->flags, 0x2011);
	assert_int_equal(offer->user_defined[HVSOCK_OFFER_FROM_HOST], 1);
	assert_int_equal(f->result, NO_RESULT);
	f->channel = vmbus_guest_open(f->guest, offer, out_pages, in_pages);
	assert_non_null(f->channel);
	assert_int_equal(f->result, 0);
}

static void step(struct fixture *f)
{
	for (int i = 0; i < 5; i++)
		vmbus_guest_step(f->guest);
}

static bool guest_send(struct fixture *f, const void *data, uint32_t len)
{
	uint8_t packet[8 + HVSOCK_DATA_MAX];
	struct hvsock_spec_header header = { HVSOCK_PIPE_DATA, len };

	memcpy(packet, &header, sizeof(header));
	if (len)
		memcpy(packet + sizeof(header), data, len);
	return vmbus_guest_send(f->channel, 0, false, packet, len + (uint32_t)sizeof(header));
}

static uint32_t guest_recv(struct fixture *f, uint8_t *ret)
{
	struct vmbus_guest_packet packet;
	struct hvsock_spec_header header;

	assert_true(vmbus_guest_recv(f->channel, &packet));
	assert_int_equal(packet.type, VMBUS_INBAND);
	memcpy(&header, packet.payload, sizeof(header));
	assert_int_equal(header.type, HVSOCK_PIPE_DATA);
	assert_true(header.len <= packet.payload_len - sizeof(header));
	memcpy(ret, packet.payload + sizeof(header), header.len);
	return header.len;
}

static bool is_rescinded(struct fixture *f)
{
	struct vmbus_guest_message message;

	return vmbus_guest_wait(f->guest, VMBUS_MSG_RESCIND, &message) &&
	       ((struct vmbus_spec_relid *)message.bytes)->relid == f->channel->relid;
}

/* ---- tests ---- */

static void test_ports(void **state)
{
	struct guid service;
	char text[GUID_TEXT_SIZE];
	uint32_t port;

	service = hvsock_service_of_port(0x12345678);
	assert_string_equal(guid_format(&service, text), "12345678-facb-11e6-bd58-64006a7986d3");
	assert_true(hvsock_port_of_service(&service, &port));
	assert_int_equal(port, 0x12345678);
	service.b[15]++;
	assert_false(hvsock_port_of_service(&service, &port));
}

static void test_host_connects(void **state)
{
	struct fixture *f = *state;
	uint8_t data[HVSOCK_DATA_MAX];
	char text[16];

	connect_host(f, 6, 6);
	assert_int_equal(send(f->host, "question", 8, 0), 8);
	assert_int_equal(guest_recv(f, data), 8);
	assert_memory_equal(data, "question", 8);
	assert_true(guest_send(f, "answer", 6));
	step(f);
	assert_int_equal(recv(f->host, text, sizeof(text), 0), 6);
	assert_memory_equal(text, "answer", 6);
}

static void test_nobody_listens(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_message message;

	assert_int_equal(hvsock_connect(f->sockets, &f->service, host_socket(f), 20 * NS_PER_MSEC,
					on_done, f, NULL),
			 0);
	assert_non_null(vmbus_guest_offer(f->guest, &f->service, 0));
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_RESCIND, &message));
	assert_int_equal(f->result, -ERR_TIMEOUT);
	assert_int_equal(recv(f->host, &message, 1, 0), 0);
}

static void ask(struct fixture *f, const struct guid *endpoint)
{
	struct vmbus_spec_tl_connect_request request = { .endpoint_id = *endpoint,
							 .service_id = f->service };

	vmbus_guest_post(f->guest, VMBUS_CONNECTION_MESSAGE, &request, sizeof(request),
			 VMBUS_MSG_TL_CONNECT_REQUEST);
	step(f);
}

static void test_guest_connects(void **state)
{
	struct fixture *f = *state;
	const struct vmbus_spec_offer *offer;
	struct guid endpoint;
	char text[16];

	guid_generate(&endpoint);
	ask(f, &endpoint);
	assert_int_equal(f->questions, 1);
	assert_int_equal(hvsock_accept(f->sockets, f->ticket, host_socket(f), NULL), 0);
	offer = vmbus_guest_offer(f->guest, &f->service, 0);
	assert_non_null(offer);
	assert_memory_equal(&offer->instance_id, &endpoint, sizeof(endpoint));
	assert_int_equal(offer->user_defined[HVSOCK_OFFER_FROM_HOST], 0);
	f->channel = vmbus_guest_open(f->guest, offer, 6, 6);
	assert_true(guest_send(f, "hello", 5));
	step(f);
	assert_int_equal(recv(f->host, text, sizeof(text), 0), 5);
	assert_int_equal(hvsock_accept(f->sockets, f->ticket, dup(f->host), NULL), -ERR_NOT_FOUND);
}

static void test_guest_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_message message;
	struct vmbus_spec_tl_connect_result result;
	struct guid endpoint;

	guid_generate(&endpoint);
	ask(f, &endpoint);
	ask(f, &endpoint); /* a second time, before the first was answered */
	assert_int_equal(f->questions, 1);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_TL_CONNECT_RESULT, &message));
	hvsock_refuse(f->sockets, f->ticket);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_TL_CONNECT_RESULT, &message));
	memcpy(&result, message.bytes, sizeof(result));
	assert_int_equal(result.status, VMBUS_STATUS_CONNECTION_REFUSED);
	assert_memory_equal(&result.endpoint_id, &endpoint, sizeof(endpoint));
}

static void test_half_close(void **state)
{
	struct fixture *f = *state;
	uint8_t data[HVSOCK_DATA_MAX];
	char text[16];

	connect_host(f, 6, 6);
	assert_int_equal(send(f->host, "all", 3, 0), 3);
	assert_int_equal(shutdown(f->host, SHUT_WR), 0);
	assert_int_equal(guest_recv(f, data), 3);
	assert_int_equal(guest_recv(f, data), 0);
	assert_true(guest_send(f, "still here", 10));
	step(f);
	assert_int_equal(recv(f->host, text, sizeof(text), 0), 10);
	assert_true(guest_send(f, NULL, 0));
	assert_true(is_rescinded(f));
	assert_int_equal(recv(f->host, text, sizeof(text), 0), 0);
}

static void test_guest_ends_first(void **state)
{
	struct fixture *f = *state;
	uint8_t data[HVSOCK_DATA_MAX];
	char text[16];

	connect_host(f, 6, 6);
	assert_true(guest_send(f, "bye", 3));
	assert_true(guest_send(f, NULL, 0));
	step(f);
	assert_int_equal(recv(f->host, text, sizeof(text), 0), 3);
	assert_int_equal(recv(f->host, text, sizeof(text), 0), 0);
	assert_int_equal(send(f->host, "so long", 7, 0), 7);
	assert_int_equal(guest_recv(f, data), 7);
	shutdown(f->host, SHUT_WR);
	assert_true(is_rescinded(f));
}

/* The host's program is gone, but everything that it wrote gets through. */
static void test_host_leaves(void **state)
{
	struct fixture *f = *state;
	uint8_t data[HVSOCK_DATA_MAX];
	uint8_t block[60000];
	size_t got = 0;

	memset(block, 7, sizeof(block));
	connect_host(f, 6, 6);
	assert_int_equal(send(f->host, block, sizeof(block), 0), sizeof(block));
	close(TAKE_FD(f->host));
	while (got < sizeof(block)) {
		uint32_t n = guest_recv(f, data);

		assert_true(n > 0 && data[0] == 7 && data[n - 1] == 7);
		got += n;
	}
	assert_int_equal(got, sizeof(block));
	assert_true(is_rescinded(f));
}

static void test_guest_closes(void **state)
{
	struct fixture *f = *state;
	char byte;

	connect_host(f, 6, 6);
	vmbus_guest_close(TAKE(f->channel));
	step(f);
	assert_int_equal(recv(f->host, &byte, 1, 0), 0);
	assert_null(vmbus_guest_offer(f->guest, &f->service, 0));
}

/* Neither side reads: nothing grows, nothing spins, and afterwards everything is there. */
static void test_flow_control(void **state)
{
	struct fixture *f = *state;
	uint8_t data[HVSOCK_DATA_MAX], block[4096];
	size_t sent = 0, got = 0, from_guest = 0;
	ssize_t n;

	connect_host(f, 6, 6);
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = (uint8_t)(i * 7);
	while ((n = send(f->host, block, sizeof(block), MSG_DONTWAIT)) > 0 || sent == got) {
		sent += n > 0 ? (size_t)n : 0;
		step(f);
		if (n < 0)
			break;
	}
	for (unsigned full = 0; full < 3;) {
		if (guest_send(f, block, 4000)) {
			from_guest += 4000;
			full = 0;
		} else {
			full++;
		}
		step(f);
	}
	assert_true(from_guest > 64 * KIB); /* the socket's buffer and the ring */
	for (size_t at = 0; got < sent; got += (size_t)n) {
		n = guest_recv(f, data);
		for (ssize_t i = 0; i < n; i++, at++)
			assert_int_equal(data[i], block[at % sizeof(block)]);
	}
	while (from_guest) {
		n = recv(f->host, data, sizeof(data), MSG_DONTWAIT);
		if (n > 0)
			from_guest -= (size_t)n;
		step(f);
	}
}

/* Takes what the host's program has got; true: it was as sent. */
static bool host_takes(struct fixture *f, size_t *got)
{
	uint8_t data[4096];
	ssize_t n = recv(f->host, data, sizeof(data), MSG_DONTWAIT);

	for (ssize_t i = 0; i < n; i++)
		if (data[i] != (uint8_t)((*got + (size_t)i) / LINUX_PACKET))
			return false;
	if (n > 0)
		*got += (size_t)n;
	return true;
}

/* More than the ring holds, without a wait between; then single bytes, with signals as before. */
static void test_guest_streams(void **state)
{
	struct fixture *f = *state;
	uint8_t page[LINUX_PACKET];
	size_t sent = 0, got = 0;

	connect_host(f, 8, 8);
	while (sent < 200) {
		memset(page, (int)sent, sizeof(page));
		if (guest_send(f, page, sizeof(page)))
			sent++;
		else
			step(f);
		assert_true(host_takes(f, &got));
	}
	while (got < sent * sizeof(page)) {
		step(f);
		assert_true(host_takes(f, &got));
	}
	for (unsigned i = 0; i < 3; i++) {
		memset(page, (int)sent, sizeof(page));
		while (!guest_send(f, page, 1))
			step(f);
		while (recv(f->host, page, sizeof(page), MSG_DONTWAIT) != 1)
			step(f);
	}
}

/* The socket is full at first and is read before it is tried again: nobody says that there is room
 * then. */
static void test_program_reads_meanwhile(void **state)
{
	struct fixture *f = *state;
	uint8_t page[LINUX_PACKET];
	size_t sent = 0, got = 0;

	connect_host(f, 65, 65);
	for (memset(page, 0, sizeof(page)); guest_send(f, page, sizeof(page)); sent++)
		memset(page, (int)sent + 1, sizeof(page));
	assert_true(sent * sizeof(page) > 3 * 65536);
	sends_refused = 1;
	for (unsigned i = 0; i < 100 && got < sent * sizeof(page); i++) {
		step(f);
		for (size_t before = got - 1; before != got;) {
			before = got;
			assert_true(host_takes(f, &got));
		}
	}
	assert_int_equal(sends_refused, 0);
	assert_int_equal(got, sent * sizeof(page));
}

/* A guest whose ring is smaller than a packet of ours. */
static void test_small_ring(void **state)
{
	struct fixture *f = *state;
	uint8_t data[HVSOCK_DATA_MAX], block[10000];
	size_t got = 0;

	memset(block, 3, sizeof(block));
	connect_host(f, 2, 2);
	assert_int_equal(send(f->host, block, sizeof(block), 0), sizeof(block));
	while (got < sizeof(block))
		got += guest_recv(f, data);
	assert_int_equal(got, sizeof(block));
}

static void test_garbage(void **state)
{
	struct fixture *f = *state;
	struct hvsock_spec_header header = { HVSOCK_PIPE_DATA, 1000 };

	connect_host(f, 6, 6);
	vmbus_guest_send(f->channel, 0, false, &header, sizeof(header));
	assert_true(is_rescinded(f));
}

static void test_limit(void **state)
{
	struct fixture *f = *state;
	struct error err;
	int fd = host_socket(f);

	for (unsigned i = 0; i < HVSOCK_MAX; i++)
		assert_int_equal(
		    hvsock_connect(f->sockets, &f->service, dup(fd), NS_PER_SEC, NULL, NULL, &err),
		    0);
	assert_int_equal(hvsock_connect(f->sockets, &f->service, fd, NS_PER_SEC, NULL, NULL, &err),
			 -ERR_LIMIT);
}

static void test_old_guest(void **state)
{
	struct fixture *f = *state;

	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_2_4));
	assert_int_equal(
	    hvsock_connect(f->sockets, &f->service, host_socket(f), NS_PER_SEC, on_done, f, NULL),
	    -ERR_STATE);
}

/* A new guest finds none of the old one's connections. */
static void test_reset(void **state)
{
	struct fixture *f = *state;
	char byte;

	connect_host(f, 6, 6);
	vmbus_reset(f->guest->bus, NULL, NULL);
	step(f);
	assert_int_equal(recv(f->host, &byte, 1, 0), 0);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	assert_null(vmbus_guest_offer(f->guest, &f->service, 0));
}

static void begin_anew(void *user, struct vmbus_guest *guest)
{
	struct fixture *f = user;
	struct hvsock_config config = {
		.loop = guest->loop, .bus = guest->bus, .user = f, .asked = on_asked
	};

	assert_int_equal(hvsock_new(&config, &f->sockets, NULL), 0);
}

static void end_sockets(void *user)
{
	struct fixture *f = user;

	hvsock_free(f->sockets);
}

/* Where a saved guest goes on nobody is at the other end any more. */
static void test_saved_connections_are_gone(void **state)
{
	static const struct vmbus_guest_move move = { NULL, end_sockets, begin_anew, NULL };
	struct fixture *f = *state;
	struct vmbus_spec_relid released = { 0 };
	struct vmbus_guest_channel *old;
	struct error err;

	connect_host(f, 6, 6);
	if (!vmbus_guest_move(f->guest, &move, f, &err))
		fail_msg("%s", err.text);
	assert_true(is_rescinded(f));
	old = f->channel;
	released.relid = old->relid;
	vmbus_guest_post(f->guest, VMBUS_CONNECTION_MESSAGE, &released, sizeof(released),
			 VMBUS_MSG_RELID_RELEASED);
	step(f);
	f->result = NO_RESULT;
	connect_host(f, 6, 6);
	assert_int_equal(f->channel->relid, old->relid);
	vmbus_guest_forget(old);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ports),
		TEST(test_host_connects),
		TEST(test_nobody_listens),
		TEST(test_guest_connects),
		TEST(test_guest_is_refused),
		TEST(test_half_close),
		TEST(test_guest_ends_first),
		TEST(test_host_leaves),
		TEST(test_guest_closes),
		TEST(test_flow_control),
		TEST(test_guest_streams),
		TEST(test_program_reads_meanwhile),
		TEST(test_small_ring),
		TEST(test_garbage),
		TEST(test_limit),
		TEST(test_old_guest),
		TEST(test_reset),
		TEST(test_saved_connections_are_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
