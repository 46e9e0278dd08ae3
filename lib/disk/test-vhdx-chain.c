/* Chains of differencing VHDX disks: random work on each leaf in turn, compared with a model. */
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/disk.h"
#include "disk/vhdx-impl.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MAX_LAYERS 6
#define IN_FLIGHT  12
#define MAX_LENGTH (3 * MIB)

struct world {
	struct loop *loop;
	enum disk_engine engine;
	int fds[MAX_LAYERS]; /* leaf first */
	unsigned count;
	struct blk *disk;
	uint64_t size;
	uint32_t sector;
	uint8_t *model;
};

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void ok(int rc, const struct error *err)
{
	if (rc < 0)
		fail_msg("%s", err->text);
}

static void add_layer(struct world *w, struct disk_create_options *options)
{
	struct disk_details parent = { 0 };
	struct error err;
	int fd = memfd_create("layer", MFD_CLOEXEC);

	options->format = DISK_VHDX;
	options->type = w->count ? DISK_DIFFERENCING : DISK_DYNAMIC;
	if (w->count) {
		ok(disk_describe(w->fds[0], &parent, &err), &err);
		options->parent = &parent;
		options->parent_relative = ".\\parent.vhdx";
	}
	ok(disk_create(fd, options, &err), &err);
	disk_details_done(&parent);
	memmove(&w->fds[1], &w->fds[0], w->count * sizeof(int));
	w->fds[0] = fd;
	w->count++;
}

static void open_chain(struct world *w, bool read_only)
{
	struct disk_options options = { .engine = w->engine, .read_only = read_only };
	int fds[MAX_LAYERS];
	struct error err;

	/* a descriptor of its own each, for locks belong to open files */
	for (unsigned i = 0; i < w->count; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/self/fd/%d", w->fds[i]);
		fds[i] = open(path, O_RDWR | O_CLOEXEC);
	}
	ok(disk_open_chain(w->loop, fds, w->count, &options, &w->disk, &err), &err);
}

static void close_chain(struct world *w)
{
	struct error err;

	ok(blk_close(w->disk, &err), &err);
	w->disk = NULL;
}

/* ---- work ---- */

struct job {
	struct blk_request req;
	struct world *w;
	struct iovec iov[3];
	uint8_t *buf;
	bool busy;
};

static void job_done(struct blk_request *req, enum blk_result result)
{
	struct job *job = container_of(req, struct job, req);

	assert_int_equal(result, BLK_OK);
	if (req->op == BLK_READ && memcmp(job->buf, job->w->model + req->offset, req->length) != 0)
		fail_msg("read of %#lx+%#lx differs", req->offset, req->length);
	free(job->buf);
	job->busy = false;
}

static bool overlaps(const struct job *jobs, const struct blk_request *req)
{
	for (int i = 0; i < IN_FLIGHT; i++)
		if (jobs[i].busy && req->offset < jobs[i].req.offset + jobs[i].req.length &&
		    jobs[i].req.offset < req->offset + req->length)
			return true;
	return false;
}

static struct blk_request choose(struct world *w)
{
	static const enum blk_op ops[] = { BLK_READ,  BLK_READ,  BLK_WRITE, BLK_WRITE,
					   BLK_WRITE, BLK_FLUSH, BLK_UNMAP, BLK_WRITE_ZEROES };
	uint64_t longest = next_random() % 6 == 0 ? MAX_LENGTH : 64 * KIB;
	uint64_t sectors = w->size / w->sector, start = next_random() % sectors;
	struct blk_request req = { .op = ops[next_random() % ARRAY_SIZE(ops)], .done = job_done };

	if (req.op == BLK_FLUSH)
		return req;
	req.offset = start * w->sector;
	req.length = (1 + next_random() % MIN(longest / w->sector, sectors - start)) * w->sector;
	if (req.op >= BLK_UNMAP && next_random() % 2) {
		req.offset = ALIGN_DOWN(req.offset, 4 * MIB);
		req.length = MIN(4 * MIB, w->size - req.offset);
	}
	req.flags =
	    (next_random() % 16 == 0 ? BLK_FUA : 0) | (next_random() % 2 ? BLK_MAY_UNMAP : 0);
	return req;
}

static void start(struct world *w, struct job *job)
{
	uint64_t len = job->req.length, a = len / 3, b = len / 2;

	job->w = w;
	job->busy = true;
	job->buf = NULL;
	if (job->req.op == BLK_READ || job->req.op == BLK_WRITE) {
		job->buf = malloc(len);
		memset(job->buf, 0, len);
		job->iov[0] = (struct iovec){ job->buf, a };
		job->iov[1] = (struct iovec){ job->buf + a, b - a };
		job->iov[2] = (struct iovec){ job->buf + b, len - b };
		job->req.iov = job->iov;
		job->req.iov_count = 3;
	}
	if (job->req.op == BLK_WRITE) {
		/* sometimes zeros */
		for (uint64_t i = 0; i < len && next_random() % 8; i += 512)
			memcpy(job->buf + i, &(uint64_t){ next_random() }, 8);
		memcpy(w->model + job->req.offset, job->buf, len);
	} else if (job->req.op == BLK_UNMAP || job->req.op == BLK_WRITE_ZEROES) {
		memset(w->model + job->req.offset, 0, len);
	}
	blk_submit(w->disk, &job->req);
}

static void work(struct world *w, unsigned count)
{
	struct job jobs[IN_FLIGHT] = { 0 };

	for (unsigned i = 0; i < count; i++) {
		struct job *job = &jobs[next_random() % IN_FLIGHT];
		struct blk_request req = choose(w);

		while (job->busy)
			loop_step(w->loop, 1000);
		if (overlaps(jobs, &req))
			continue;
		job->req = req;
		start(w, job);
		if (next_random() % 4 == 0)
			loop_step(w->loop, 0);
	}
	blk_drain(w->disk);
}

static void compare(struct world *w)
{
	uint8_t *buf = malloc(MAX_LENGTH);

	for (uint64_t at = 0; at < w->size; at += MAX_LENGTH) {
		size_t len = MIN(MAX_LENGTH, w->size - at);

		assert_int_equal(blk_read_now(w->disk, at, buf, len), BLK_OK);
		if (memcmp(buf, w->model + at, len) != 0)
			fail_msg("layer %u: content differs within %#lx+%#zx", w->count, at, len);
	}
	free(buf);
}

static bool zero_in_model(const struct world *w, uint64_t offset, uint64_t length)
{
	const uint8_t *m = w->model + offset;

	return m[0] == 0 && memcmp(m, m + 1, length - 1) == 0;
}

static void check_extents(struct world *w)
{
	struct blk_extent extent;
	struct error err;

	for (uint64_t at = 0; at < w->size; at += extent.length_bytes) {
		ok(blk_extent(w->disk, at, w->size - at, &extent, &err), &err);
		assert_true(extent.length_bytes > 0 && extent.length_bytes <= w->size - at &&
			    extent.length_bytes % w->sector == 0);
		if (extent.kind == BLK_EXTENT_ZERO)
			assert_true(zero_in_model(w, at, extent.length_bytes));
		if (extent.kind == BLK_EXTENT_PARENT)
			assert_true(w->count > 1);
	}
}

/* ---- scenarios ---- */

static void run(struct world w, uint32_t base_block, uint32_t child_block, unsigned ops)
{
	unsigned layers = MAX_LAYERS;

	assert_int_equal(loop_new(&w.loop, NULL), 0);
	w.model = calloc(1, w.size);
	for (unsigned i = 0; i < layers; i++) {
		struct disk_create_options options = {
			.size_bytes = i ? 0 : w.size,
			.block_bytes = i ? child_block : base_block,
			.logical_sector_bytes = i ? 0 : w.sector,
		};

		add_layer(&w, &options);
		open_chain(&w, false);
		/* few pages stay in memory, so that they come and go */
		container_of(w.disk, struct vhdx, blk)->cache.limit = 2;
		compare(&w);
		work(&w, ops);
		compare(&w);
		check_extents(&w);
		close_chain(&w);
		open_chain(&w, true);
		compare(&w);
		close_chain(&w);
	}
	for (unsigned i = 0; i < w.count; i++)
		close(w.fds[i]);
	free(w.model);
	loop_free(w.loop);
}

static void test_small_blocks(void **state)
{
	run((struct world){ .size = 40 * MIB + 512, .sector = 512 }, MIB, MIB, 250);
}

static void test_default_blocks(void **state)
{
	run((struct world){ .size = 70 * MIB, .sector = 512 }, 0, 0, 250);
}

static void test_native_4k(void **state)
{
	run((struct world){ .size = 48 * MIB + 4096, .sector = 4096 }, 2 * MIB, MIB, 250);
}

static void test_largest_blocks(void **state)
{
	run((struct world){ .size = 300 * MIB, .sector = 512 }, MIB, 256 * MIB, 120);
	run((struct world){ .size = 300 * MIB, .sector = 4096 }, 256 * MIB, 256 * MIB, 60);
}

static void test_threads(void **state)
{
	run((struct world){ .size = 40 * MIB, .sector = 512, .engine = DISK_ENGINE_THREADS },
	    4 * MIB, 8 * MIB, 250);
}

/* ---- who is whose parent ---- */

static void test_changed_parent_is_refused(void **state)
{
	struct world w = { .size = 8 * MIB, .sector = 512 };
	struct disk_create_options options = { .size_bytes = w.size }, child = { 0 };
	struct error err;
	struct blk *disk;
	int dups[2];

	assert_int_equal(loop_new(&w.loop, NULL), 0);
	add_layer(&w, &options);
	add_layer(&w, &child);
	open_chain(&w, false);
	close_chain(&w);
	/* somebody writes to the parent */
	assert_int_equal(disk_open(w.loop, dup(w.fds[1]), NULL, &disk, NULL), 0);
	assert_int_equal(blk_write_now(disk, 0, "x", 0), BLK_OK);
	assert_int_equal(blk_run_now(disk, BLK_WRITE_ZEROES, 0, 0, NULL, 512), BLK_OK);
	assert_int_equal(blk_close(disk, NULL), 0);
	dups[0] = w.fds[0];
	dups[1] = w.fds[1];
	assert_int_equal(disk_open_chain(w.loop, dups, 2, NULL, &disk, &err), -ERR_INVALID);
	assert_non_null(strstr(err.text, "was changed"));
	close(w.fds[0]);
	close(w.fds[1]);
	loop_free(w.loop);
}

/* ---- size ---- */

/* 64 TiB: little is read when it is opened, and what is written is found again. */
static void test_huge(void **state)
{
	struct world w = { 0 };
	struct disk_create_options options = { .size_bytes = UINT64_C(64) << 40,
					       .block_bytes = MIB };
	uint64_t places[] = { 0, UINT64_C(40) << 40, (UINT64_C(64) << 40) - 4096 };
	uint8_t buf[4096], back[4096];

	assert_int_equal(loop_new(&w.loop, NULL), 0);
	add_layer(&w, &options);
	for (int round = 0; round < 2; round++) {
		open_chain(&w, false);
		for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
			memset(buf, round ? 'a' + (int)i : 0, sizeof(buf));
			assert_int_equal(blk_read_now(w.disk, places[i], back, 4096), BLK_OK);
			assert_memory_equal(buf, back, 4096);
			memset(buf, 'a' + (int)i, sizeof(buf));
			assert_int_equal(blk_write_now(w.disk, places[i], buf, 4096), BLK_OK);
		}
		assert_true(container_of(w.disk, struct vhdx, blk)->cache.count <= 8);
		close_chain(&w);
	}
	close(w.fds[0]);
	loop_free(w.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_small_blocks),
		cmocka_unit_test(test_default_blocks),
		cmocka_unit_test(test_native_4k),
		cmocka_unit_test(test_largest_blocks),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_changed_parent_is_refused),
		cmocka_unit_test(test_huge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
