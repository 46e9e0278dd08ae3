/* Copies between two disks in memory: content, what is left out, and how it ends when one fails. */
#include "blk/copy.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/blk-backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define SIZE (8 * MIB)

/* A disk in memory that says of each 64 KiB what it is told to. */
struct memory {
	struct blk blk;
	struct loop *loop;
	uint8_t *bytes;
	char kinds[SIZE / (64 * KIB) + 1]; /* 'd', 'z', 'p'; empty: all data */
	uint64_t written, read;
	uint64_t fail_at; /* a request that touches it fails; UINT64_MAX: none */
	enum blk_result failure;
};

struct pending {
	struct blk_request *req;
	enum blk_result result;
};

static void complete(void *user)
{
	struct pending *pending = user;

	blk_complete(pending->req, pending->result);
	free(pending);
}

static void finish(struct memory *m, struct blk_request *req, enum blk_result result)
{
	struct pending *pending = malloc(sizeof(*pending));

	*pending = (struct pending){ req, result };
	loop_post(m->loop, complete, pending);
}

static void memory_submit(struct blk *blk, struct blk_request *req)
{
	struct memory *m = container_of(blk, struct memory, blk);

	if (req->op != BLK_FLUSH && m->fail_at >= req->offset &&
	    m->fail_at < req->offset + req->length) {
		finish(m, req, m->failure);
		return;
	}
	if (req->op == BLK_READ) {
		memcpy(req->iov[0].iov_base, m->bytes + req->offset, req->length);
		m->read += req->length;
	} else if (req->op == BLK_WRITE) {
		memcpy(m->bytes + req->offset, req->iov[0].iov_base, req->length);
		m->written += req->length;
	}
	finish(m, req, BLK_OK);
}

static void memory_wait(struct blk *blk)
{
	loop_step(container_of(blk, struct memory, blk)->loop, -1);
}

static int memory_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes,
			 struct blk_extent *ret, struct error *err)
{
	struct memory *m = container_of(blk, struct memory, blk);
	uint64_t at = offset / (64 * KIB), end = at + 1;
	char kind = m->kinds[0] ? m->kinds[at] : 'd';

	while (end < SIZE / (64 * KIB) && (!m->kinds[0] || m->kinds[end] == kind))
		end++;
	ret->kind = kind == 'd'   ? BLK_EXTENT_DATA
		    : kind == 'z' ? BLK_EXTENT_ZERO
				  : BLK_EXTENT_PARENT;
	ret->length_bytes = MIN(end * 64 * KIB - offset, max_bytes);
	return 0;
}

static const struct blk_ops memory_ops = {
	.name = "memory", .submit = memory_submit, .wait = memory_wait, .extent = memory_extent
};

static void memory_init(struct memory *m, struct loop *loop)
{
	const struct blk_info info = { .size_bytes = SIZE,
				       .logical_sector_bytes = 512,
				       .physical_sector_bytes = 512 };

	memset(m, 0, sizeof(*m));
	blk_init(&m->blk, &memory_ops, &info);
	m->loop = loop;
	m->bytes = calloc(1, SIZE);
	m->fail_at = UINT64_MAX;
}

struct pair {
	struct loop *loop;
	struct memory source, target;
};

static int setup(void **state)
{
	struct pair *pair = calloc(1, sizeof(*pair));

	loop_new(&pair->loop, NULL);
	memory_init(&pair->source, pair->loop);
	memory_init(&pair->target, pair->loop);
	*state = pair;
	return 0;
}

static int teardown(void **state)
{
	struct pair *pair = *state;

	free(pair->source.bytes);
	free(pair->target.bytes);
	loop_free(pair->loop);
	free(pair);
	return 0;
}

static int run(struct pair *pair, bool (*step)(void *, uint64_t, uint64_t), struct error *err)
{
	struct blk *layers[] = { &pair->source.blk };
	struct blk_layers source = { layers, 1 };
	const struct blk_copy copy = { .loop = pair->loop,
				       .source = &source,
				       .target = &pair->target.blk,
				       .step = step,
				       .user = pair };

	return blk_copy(&copy, err);
}

static void test_content(void **state)
{
	struct pair *pair = *state;

	for (size_t i = 0; i < SIZE; i += 1000)
		pair->source.bytes[i] = (uint8_t)(i / 1000 + 1);
	assert_int_equal(run(pair, NULL, NULL), 0);
	assert_memory_equal(pair->source.bytes, pair->target.bytes, SIZE);
}

static void test_zeros_are_left_out(void **state)
{
	struct pair *pair = *state;

	/* Data that is zero, zeros that are told, and a single byte at the very end. */
	memset(pair->source.kinds, 'd', SIZE / (64 * KIB));
	memset(pair->source.kinds, 'z', 16);
	memset(pair->source.kinds + 32, 'p', 16);
	pair->source.bytes[SIZE - 1] = 1;
	pair->source.bytes[20 * 64 * KIB] = 2;
	assert_int_equal(run(pair, NULL, NULL), 0);
	assert_memory_equal(pair->source.bytes, pair->target.bytes, SIZE);
	assert_int_equal(pair->target.written, 2 * 64 * KIB);
	assert_int_equal(pair->source.read, SIZE - 32 * 64 * KIB);
}

static void test_failures(void **state)
{
	struct pair *pair = *state;
	struct error err;

	memset(pair->source.bytes, 5, SIZE);
	pair->source.fail_at = 3 * MIB;
	pair->source.failure = BLK_IO_ERROR;
	assert_int_equal(run(pair, NULL, &err), -ERR_IO);
	assert_non_null(strstr(err.text, "reading the disk at 0x300000"));
	pair->source.fail_at = UINT64_MAX;
	pair->target.fail_at = 5 * MIB;
	pair->target.failure = BLK_NO_SPACE;
	assert_int_equal(run(pair, NULL, &err), -ERR_NO_SPACE);
}

static bool stop_half(void *user, uint64_t done, uint64_t total)
{
	assert_int_equal(total, SIZE);
	return done < total / 2;
}

static void test_cancel(void **state)
{
	struct pair *pair = *state;
	struct error err;

	memset(pair->source.bytes, 5, SIZE);
	assert_int_equal(run(pair, stop_half, &err), -ERR_CANCELLED);
	assert_true(pair->target.written < SIZE);
}

/* A child over a parent that is half as large. */
static void test_layers(void **state)
{
	struct pair *pair = *state;
	struct blk *blks[] = { &pair->source.blk, &pair->target.blk };
	struct blk_layers layers = { blks, 2 };
	struct blk_extent extent;

	pair->target.blk.info.size_bytes = SIZE / 2;
	memset(pair->source.kinds, 'p', SIZE / (64 * KIB));
	memset(pair->target.kinds, 'z', SIZE / (64 * KIB));
	memset(pair->source.kinds, 'd', 2);
	memset(pair->target.kinds + 4, 'd', 2);
	assert_int_equal(blk_layers_extent(&layers, 0, SIZE, &extent, NULL), 0);
	assert_int_equal(extent.kind, BLK_EXTENT_DATA);
	assert_int_equal(extent.length_bytes, 2 * 64 * KIB);
	assert_int_equal(blk_layers_extent(&layers, 2 * 64 * KIB, SIZE, &extent, NULL), 0);
	assert_int_equal(extent.kind, BLK_EXTENT_ZERO);
	assert_int_equal(extent.length_bytes, 2 * 64 * KIB);
	assert_int_equal(blk_layers_extent(&layers, 4 * 64 * KIB, 512, &extent, NULL), 0);
	assert_int_equal(extent.kind, BLK_EXTENT_DATA);
	assert_int_equal(extent.length_bytes, 512);
	assert_int_equal(blk_layers_extent(&layers, SIZE / 2, SIZE / 2, &extent, NULL), 0);
	assert_int_equal(extent.kind, BLK_EXTENT_ZERO);
	assert_int_equal(extent.length_bytes, SIZE / 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_content, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zeros_are_left_out, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_layers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
