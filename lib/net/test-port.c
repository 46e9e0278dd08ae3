#include "net/port.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

struct end {
	struct port *port;
	unsigned received, limit; /* limit: takes no more than that in all */
	unsigned next;            /* number that the next frame must have */
	unsigned writable, closed;
	size_t last_len;
	struct frame_offload last_offload;
};

struct fixture {
	struct loop *loop;
	struct end a, b;
};

static unsigned on_received(void *user, struct port_frame *frames, unsigned count)
{
	struct end *end = user;
	unsigned taken = 0;

	for (; taken < count && end->received < end->limit; taken++) {
		const uint8_t *data = frames[taken].iov->iov_base;

		assert_int_equal(frames[taken].iov_count, 1);
		assert_int_equal(data[20] | data[21] << 8, end->next++ & 0xFFFF);
		end->received++;
		end->last_len = frames[taken].iov->iov_len;
		end->last_offload = frames[taken].offload;
		assert_int_equal(data[end->last_len - 1], 0xA5);
	}
	return taken;
}

static void on_writable(void *user)
{
	((struct end *)user)->writable++;
}

static void on_closed(void *user)
{
	((struct end *)user)->closed++;
}

static const struct port_ops ops = { on_received, on_writable, on_closed };

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fds[2];

	f->a.limit = f->b.limit = UINT32_MAX;
	assert_int_equal(loop_new(&f->loop, NULL), 0);
	assert_int_equal(port_socketpair(fds, NULL), 0);
	assert_int_equal(port_new(f->loop, fds[0], &ops, &f->a, &f->a.port, NULL), 0);
	assert_int_equal(port_new(f->loop, fds[1], &ops, &f->b, &f->b.port, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	port_free(f->a.port);
	port_free(f->b.port);
	loop_free(f->loop);
	free(f);
	return 0;
}

static void run(struct fixture *f)
{
	for (unsigned i = 0; i < 20; i++)
		loop_step(f->loop, 0);
}

/* A frame with a number in it, in pieces. */
static unsigned send_number(struct end *end, unsigned number, size_t len)
{
	static uint8_t data[FRAME_MAX_BYTES + 100];
	struct iovec iov[3] = { { data, 10 }, { data + 10, 20 }, { data + 30, len - 30 } };
	struct port_frame frame = { { FRAME_NEEDS_CSUM, 1234 }, iov, 3 };

	data[20] = (uint8_t)number;
	data[21] = (uint8_t)(number >> 8);
	data[len - 1] = 0xA5;
	number = port_send(end->port, &frame, 1);
	data[len - 1] = 0;
	return number;
}

static void test_frames(void **state)
{
	static const size_t sizes[] = { 60, 1514, 9014, 65535, FRAME_MAX_BYTES };
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(send_number(&f->a, i, sizes[i]), 1);
		assert_int_equal(send_number(&f->b, i, sizes[i]), 1);
		run(f);
		assert_int_equal(f->b.received, i + 1);
		assert_int_equal(f->a.received, i + 1);
		assert_int_equal(f->b.last_len, sizes[i]);
		assert_int_equal(f->b.last_offload.flags, FRAME_NEEDS_CSUM);
		assert_int_equal(f->b.last_offload.gso_bytes, 1234);
	}
	/* What no frame can be is dropped, and keeps nobody up. */
	assert_int_equal(send_number(&f->a, 0, FRAME_MAX_BYTES + 1), 1);
	assert_int_equal(port_stats(f->a.port)->malformed, 1);
	run(f);
	assert_int_equal(f->b.received, ARRAY_SIZE(sizes));
}

/* Nobody reads: the sender is refused, told once when there is room, and nothing is lost. */
static void test_back_pressure(void **state)
{
	struct fixture *f = *state;
	unsigned sent = 0;

	f->b.limit = 0;
	while (send_number(&f->a, sent, 1514))
		sent++;
	assert_true(sent > 10);
	run(f);
	while (send_number(&f->a, sent, 1514))
		sent++;
	run(f);
	assert_int_equal(f->b.received, 0);
	assert_int_equal(send_number(&f->a, sent, 1514), 0);
	f->a.writable = 0;
	f->b.limit = 40; /* in the middle of a batch */
	port_resume(f->b.port);
	run(f);
	assert_int_equal(f->b.received, 40);
	f->b.limit = UINT32_MAX;
	port_resume(f->b.port);
	for (unsigned i = 0; i < 100 && f->b.received < sent; i++)
		run(f);
	assert_int_equal(f->b.received, sent);
	assert_int_equal(f->a.writable, 1);
	assert_int_equal(send_number(&f->a, sent, 1514), 1);
	run(f);
	assert_int_equal(f->b.received, sent + 1);
}

static void test_batch(void **state)
{
	struct fixture *f = *state;
	static uint8_t data[100][64];
	struct iovec iov[100];
	struct port_frame frames[100];
	unsigned done = 0;

	for (unsigned i = 0; i < 100; i++) {
		data[i][20] = (uint8_t)i;
		data[i][63] = 0xA5;
		/* every tenth is none */
		iov[i] = (struct iovec){ data[i], i % 10 == 9 ? 13 : 64 };
		frames[i] = (struct port_frame){ { 0 }, &iov[i], 1 };
	}
	for (unsigned i = 0; i < 100; i++)
		if (i % 10 != 9)
			data[i][20] = (uint8_t)done++;
	assert_int_equal(port_send(f->a.port, frames, 100), 100);
	run(f);
	assert_int_equal(f->b.received, 90);
	assert_int_equal(port_stats(f->a.port)->sent, 90);
	assert_int_equal(port_stats(f->b.port)->received_bytes, 90 * 64);
}

static void test_closed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(send_number(&f->a, 0, 100), 1);
	port_free(f->a.port);
	f->a.port = NULL;
	run(f);
	assert_int_equal(f->b.received, 1);
	assert_int_equal(f->b.closed, 1);
	assert_false(port_is_open(f->b.port));
	assert_int_equal(send_number(&f->b, 0, 100), 1);
	port_resume(f->b.port);
	run(f);
	assert_int_equal(f->b.closed, 1);
}

static void test_closed_while_full(void **state)
{
	struct fixture *f = *state;
	unsigned sent = 0;

	f->b.limit = 0;
	while (send_number(&f->a, sent, 1514))
		sent++;
	run(f);
	port_free(f->b.port);
	f->b.port = NULL;
	run(f);
	assert_int_equal(f->a.closed, 1);
}

/* The other end sends what is no message of ours. */
static void test_hostile(void **state)
{
	struct fixture *f = *state;
	static uint8_t junk[80000];
	int fds[2];

	assert_int_equal(port_socketpair(fds, NULL), 0);
	port_free(f->a.port);
	assert_int_equal(port_new(f->loop, fds[0], &ops, &f->a, &f->a.port, NULL), 0);
	for (size_t len = 1; len < sizeof(junk); len = len * 3 / 2 + 1) {
		junk[0] = (uint8_t)(len & 1 ? 0 : 7);
		send(fds[1], junk, len, MSG_DONTWAIT);
		run(f);
	}
	junk[0] = 1; /* right version, too short */
	send(fds[1], junk, 29, 0);
	run(f);
	assert_int_equal(f->a.received, 0);
	assert_true(port_stats(f->a.port)->malformed > 10);
	assert_int_equal(f->a.closed, 0);
	send(fds[1], junk, 0, 0);
	run(f);
	assert_int_equal(f->a.closed, 1);
	close(fds[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_frames), TEST(test_back_pressure),     TEST(test_batch),
		TEST(test_closed), TEST(test_closed_while_full), TEST(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
