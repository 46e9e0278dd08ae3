/* The rate of a disk, and requests that wait for storage to come back. */
#include "blk/gate.h"

#include "base/clock.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/blk-backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define SIZE (64 * MIB)
#define MANY 64

/* A disk that answers at the loop's next turn. */
struct memory {
	struct blk blk;
	struct loop *loop;
	enum blk_result result;
	struct blk_request *pending[MANY];
	unsigned count;
	uint64_t offsets[MANY]; /* of what came, in order */
	unsigned came;
	bool closed;
};

static void answer(void *user)
{
	struct memory *m = user;

	/* Not those that come meanwhile. */
	for (unsigned now = m->count; now > 0; now--) {
		struct blk_request *req = m->pending[0];

		m->count--;
		for (unsigned i = 0; i < m->count; i++)
			m->pending[i] = m->pending[i + 1];
		blk_complete(req, req->result != BLK_OK ? req->result : m->result);
	}
}

static void memory_submit(struct blk *blk, struct blk_request *req)
{
	struct memory *m = container_of(blk, struct memory, blk);

	assert_in_range(m->count, 0, MANY - 1);
	m->pending[m->count++] = req;
	m->offsets[m->came++ % MANY] = req->offset;
	loop_post(m->loop, answer, m);
}

static void memory_wait(struct blk *blk)
{
	answer(container_of(blk, struct memory, blk));
}

static int memory_grow(struct blk *blk, uint64_t size_bytes, struct error *err)
{
	blk->info.size_bytes = size_bytes;
	return 0;
}

static int memory_close(struct blk *blk, struct error *err)
{
	container_of(blk, struct memory, blk)->closed = true;
	return 0;
}

struct fixture {
	struct memory memory;
	struct loop *loop;
	struct blk *gate;
	bool holds;
	unsigned held, recovered, slow, fast;
	struct blk_request requests[MANY];
	uint8_t buffer[64 * KIB];
	struct iovec iov;
	unsigned done;
	bool endless; /* each is followed by the same again */
	enum blk_result last;
};

static bool on_hold(void *user, enum blk_result result)
{
	struct fixture *f = user;

	f->held++;
	return f->holds;
}

static void on_recovered(void *user)
{
	struct fixture *f = user;

	f->recovered++;
}

static void on_slow(void *user, bool slow)
{
	struct fixture *f = user;

	*(slow ? &f->slow : &f->fast) += 1;
}

static int set_up(void **state)
{
	static const struct blk_ops ops = { .name = "memory",
					    .submit = memory_submit,
					    .defer = memory_submit,
					    .wait = memory_wait,
					    .grow = memory_grow,
					    .close = memory_close };
	const struct blk_info info = { .size_bytes = SIZE,
				       .logical_sector_bytes = 512,
				       .physical_sector_bytes = 4096 };
	struct fixture *f = test_calloc(1, sizeof(*f));
	const struct gate_events events = { f, on_hold, on_recovered, on_slow };

	assert_int_equal(loop_new(&f->loop, NULL), 0);
	f->memory.loop = f->loop;
	blk_init(&f->memory.blk, &ops, &info);
	assert_int_equal(gate_new(f->loop, &f->memory.blk, &events, &f->gate, NULL), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(blk_close(f->gate, NULL), 0);
	assert_true(f->memory.closed);
	loop_free(f->loop);
	test_free(f);
	return 0;
}

static struct fixture *current;

static void submit(struct fixture *f, unsigned index, uint64_t bytes);

static void on_done(struct blk_request *req, enum blk_result result)
{
	struct fixture *f = current;

	f->done++;
	f->last = result;
	if (f->endless)
		submit(f, (unsigned)(req - f->requests), req->length);
}

static void submit(struct fixture *f, unsigned index, uint64_t bytes)
{
	current = f;
	f->iov = (struct iovec){ f->buffer, bytes };
	f->requests[index] = (struct blk_request){ .op = BLK_WRITE,
						   .offset = index * UINT64_C(65536),
						   .length = bytes,
						   .iov = &f->iov,
						   .iov_count = 1,
						   .done = on_done };
	blk_submit(f->gate, &f->requests[index]);
}

static void run_until(struct fixture *f, unsigned done)
{
	while (f->done < done)
		loop_step(f->loop, -1);
}

static void test_no_rate(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 32; i++)
		submit(f, i, 4096);
	assert_int_equal(f->memory.came, 32);
	run_until(f, 32);
	assert_int_equal(f->last, BLK_OK);
}

/* So many normalized requests take at least so long, whatever the host is at; and they come in
 * order. A write of 64 KiB counts as 8. */
static void test_maximum(void **state)
{
	struct fixture *f = *state;
	uint64_t begin = clock_now_ns();

	gate_set_rates(f->gate, 0, 400);
	for (unsigned i = 0; i < 16; i++)
		submit(f, i, 64 * KIB);
	assert_in_range(f->memory.came, 1, 8);
	run_until(f, 16);
	/* 128 / 400 s; the burst, and the last one, whose share of time is not waited for. */
	assert_in_range(clock_now_ns() - begin, 240 * NS_PER_MSEC, UINT64_MAX);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(f->memory.offsets[i], i * UINT64_C(65536));
}

static void test_changed_while_they_wait(void **state)
{
	struct fixture *f = *state;

	gate_set_rates(f->gate, 0, 1);
	for (unsigned i = 0; i < 4; i++)
		submit(f, i, 8192);
	assert_int_equal(f->memory.came, 1);
	gate_set_rates(f->gate, 0, 0);
	assert_int_equal(f->memory.came, 4);
	run_until(f, 4);
}

static void test_drain(void **state)
{
	struct fixture *f = *state;

	gate_set_rates(f->gate, 0, 1);
	for (unsigned i = 0; i < 8; i++)
		submit(f, i, 8192);
	blk_drain(f->gate);
	assert_int_equal(f->done, 8);
	assert_int_equal(f->last, BLK_OK);
}

static void test_storage_fails_and_returns(void **state)
{
	struct fixture *f = *state;

	f->holds = true;
	f->memory.result = BLK_NO_SPACE;
	submit(f, 0, 4096);
	submit(f, 1, 4096);
	while (f->held < 2)
		loop_step(f->loop, -1);
	assert_int_equal(f->done, 0);
	/* Not yet. */
	gate_retry(f->gate);
	while (f->held < 4)
		loop_step(f->loop, -1);
	assert_int_equal(f->done + f->recovered, 0);
	f->memory.result = BLK_OK;
	gate_retry(f->gate);
	run_until(f, 2);
	assert_int_equal(f->last, BLK_OK);
	assert_int_equal(f->recovered, 1);
	assert_int_equal(f->memory.offsets[4], 0);
	assert_int_equal(f->memory.offsets[5], 65536);
}

static void test_not_held(void **state)
{
	struct fixture *f = *state;

	f->memory.result = BLK_IO_ERROR;
	submit(f, 0, 4096);
	run_until(f, 1);
	assert_int_equal(f->last, BLK_IO_ERROR);
	assert_int_equal(f->held, 1);
	/* What a guest does wrong is no failure of the storage. */
	f->memory.result = BLK_OK;
	f->holds = true;
	submit(f, 1, 100);
	run_until(f, 2);
	assert_int_equal(f->last, BLK_OUT_OF_RANGE);
	assert_int_equal(f->held, 1);
}

static void test_given_up(void **state)
{
	struct fixture *f = *state;

	f->holds = true;
	f->memory.result = BLK_IO_ERROR;
	submit(f, 0, 4096);
	submit(f, 1, 4096);
	while (f->held < 2)
		loop_step(f->loop, -1);
	gate_give_up(f->gate);
	assert_int_equal(f->done, 2);
	assert_int_equal(f->last, BLK_IO_ERROR);
	assert_int_equal(f->recovered, 1);
	/* So does a drain: whoever takes the disk away has to get it. */
	submit(f, 2, 4096);
	blk_drain(f->gate);
	assert_int_equal(f->done, 3);
}

static void test_minimum(void **state)
{
	struct fixture *f = *state;

	/* Always one in flight, at far less than the minimum. */
	f->endless = true;
	gate_set_rates(f->gate, UINT32_MAX, 1000);
	submit(f, 0, 512);
	submit(f, 1, 512);
	while (!f->slow)
		loop_step(f->loop, -1);
	gate_set_rates(f->gate, 1, 0);
	while (!f->fast)
		loop_step(f->loop, -1);
	assert_int_equal(f->slow, 1);
	f->endless = false;
	blk_drain(f->gate);
}

static void test_grow(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(blk_grow(f->gate, 2 * SIZE, NULL), 0);
	assert_int_equal(blk_info(f->gate)->size_bytes, 2 * SIZE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_no_rate),
		TEST(test_maximum),
		TEST(test_changed_while_they_wait),
		TEST(test_drain),
		TEST(test_storage_fails_and_returns),
		TEST(test_not_held),
		TEST(test_given_up),
		TEST(test_minimum),
		TEST(test_grow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
