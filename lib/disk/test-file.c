/* The I/O engines through raw disks, and their corner cases: both engines run the same tests. */
#include "base/clock.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/disk.h"
#include "disk/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	struct loop *loop;
	enum disk_engine engine;
	int fd;
};

static int setup(void **state)
{
	static struct fixture f;

	f = (struct fixture){ .engine = *state ? DISK_ENGINE_THREADS : DISK_ENGINE_URING };
	assert_int_equal(loop_new(&f.loop, NULL), 0);
	/* tmpfs can punch holes but has no FALLOC_FL_ZERO_RANGE: zeroing falls back to writing */
	f.fd = memfd_create("disk", 0);
	assert_int_equal(ftruncate(f.fd, 1 * MIB), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->fd);
	loop_free(f->loop);
	return 0;
}

static struct blk *open_raw(struct fixture *f, const struct disk_options *more)
{
	struct disk_options options = *more;
	struct error err;
	struct blk *disk;

	options.format = DISK_RAW;
	options.engine = f->engine;
	if (disk_open(f->loop, dup(f->fd), &options, &disk, &err) < 0) {
		if (options.engine == DISK_ENGINE_URING) {
			print_message("%s: skipped\n", err.text);
			skip();
		}
		fail_msg("%s", err.text);
	}
	return disk;
}

static void test_read_write(void **state)
{
	struct fixture *f = *state;
	struct blk *disk = open_raw(f, &(struct disk_options){ 0 });
	uint8_t data[8192], back[8192];

	memset(data, 'x', sizeof(data));
	assert_int_equal(blk_write_now(disk, 512, data, sizeof(data)), BLK_OK);
	assert_int_equal(blk_read_now(disk, 512, back, sizeof(back)), BLK_OK);
	assert_memory_equal(data, back, sizeof(data));
	assert_int_equal(pread(f->fd, back, 512, 512), 512);
	assert_memory_equal(data, back, 512);
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	assert_int_equal(blk_run_now(disk, BLK_WRITE, BLK_FUA, 0, data, 512), BLK_OK);
	/* zero-length requests are fine */
	assert_int_equal(blk_read_now(disk, 0, back, 0), BLK_OK);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_contract(void **state)
{
	struct fixture *f = *state;
	struct blk *disk = open_raw(f, &(struct disk_options){ .logical_sector_bytes = 4096 });
	uint8_t data[8192];

	assert_int_equal(blk_info(disk)->physical_sector_bytes, 4096);
	assert_int_equal(blk_read_now(disk, 512, data, 4096), BLK_OUT_OF_RANGE);
	assert_int_equal(blk_read_now(disk, 0, data, 512), BLK_OUT_OF_RANGE);
	assert_int_equal(blk_read_now(disk, MIB - 4096, data, 8192), BLK_OUT_OF_RANGE);
	assert_int_equal(blk_read_now(disk, UINT64_MAX - 4095, data, 8192), BLK_OUT_OF_RANGE);
	assert_int_equal(blk_counters(disk)->failed[BLK_READ], 4);
	assert_int_equal(blk_close(disk, NULL), 0);
	disk = open_raw(f, &(struct disk_options){ .read_only = true });
	assert_int_equal(blk_write_now(disk, 0, data, 512), BLK_READ_ONLY);
	assert_int_equal(blk_run_now(disk, BLK_UNMAP, 0, 0, NULL, 512), BLK_READ_ONLY);
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	assert_int_equal(blk_close(disk, NULL), 0);
}

/* The file ends within the last sector: what it lacks reads as zeros. */
static void test_odd_size(void **state)
{
	struct fixture *f = *state;
	uint8_t data[4096];
	struct blk *disk;

	assert_int_equal(ftruncate(f->fd, 3 * 2048 + 100), 0);
	assert_int_equal(pwrite(f->fd, "end", 3, 3 * 2048 + 97), 3);
	disk =
	    open_raw(f, &(struct disk_options){ .logical_sector_bytes = 2048, .read_only = true });
	assert_int_equal(blk_info(disk)->size_bytes, 4 * 2048);
	memset(data, 'x', sizeof(data));
	assert_int_equal(blk_read_now(disk, 2 * 2048, data, 4096), BLK_OK);
	assert_memory_equal(data + 2048 + 97, "end\0\0", 5);
	assert_int_equal(data[4095], 0);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_zero_and_unmap(void **state)
{
	struct fixture *f = *state;
	struct blk *disk = open_raw(f, &(struct disk_options){ 0 });
	uint8_t *data = malloc(MIB), *back = malloc(MIB);
	struct stat before, after;

	memset(data, 'x', MIB);
	assert_int_equal(blk_write_now(disk, 0, data, MIB), BLK_OK);
	/* longer than the zeros that the fallback writes at once, and odd */
	assert_int_equal(blk_run_now(disk, BLK_WRITE_ZEROES, 0, 512, NULL, 200 * KIB), BLK_OK);
	memset(data + 512, 0, 200 * KIB);
	assert_int_equal(fstat(f->fd, &before), 0);
	assert_int_equal(blk_run_now(disk, BLK_UNMAP, 0, 512 * KIB, NULL, 256 * KIB), BLK_OK);
	memset(data + 512 * KIB, 0, 256 * KIB);
	assert_int_equal(fstat(f->fd, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(blk_read_now(disk, 0, back, MIB), BLK_OK);
	assert_memory_equal(data, back, MIB);
	assert_int_equal(blk_close(disk, NULL), 0);
	free(data);
	free(back);
}

/* ---- many at a time ---- */

struct many {
	struct blk_request req;
	struct iovec iov;
	uint8_t buf[512];
	unsigned *open;
};

static void many_done(struct blk_request *req, enum blk_result result)
{
	assert_int_equal(result, BLK_OK);
	--*container_of(req, struct many, req)->open;
}

static void submit_many(struct blk *disk, struct many *many, unsigned count, enum blk_op op)
{
	blk_plug(disk);
	for (unsigned i = 0; i < count; i++) {
		many[i].iov = (struct iovec){ many[i].buf, 512 };
		many[i].req = (struct blk_request){ .op = op,
						    .offset = i * 512,
						    .length = 512,
						    .iov = &many[i].iov,
						    .iov_count = 1,
						    .done = many_done };
		blk_submit(disk, &many[i].req);
	}
	blk_unplug(disk);
}

/* More than the ring has entries, once over the loop and once by draining. */
static void test_many_in_flight(void **state)
{
	struct fixture *f = *state;
	struct blk *disk = open_raw(f, &(struct disk_options){ 0 });
	const unsigned count = 1500;
	struct many *many = calloc(count, sizeof(*many));
	unsigned open = count;

	for (unsigned i = 0; i < count; i++) {
		memset(many[i].buf, (int)i, 512);
		many[i].open = &open;
	}
	submit_many(disk, many, count, BLK_WRITE);
	for (int i = 0; i < 5000 && open > 0; i++)
		loop_step(f->loop, 100);
	assert_int_equal(open, 0);
	for (unsigned i = 0; i < count; i++)
		memset(many[i].buf, 0, 512);
	open = count;
	submit_many(disk, many, count, BLK_READ);
	blk_drain(disk);
	assert_int_equal(open, 0);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(many[i].buf[511], (uint8_t)i);
	assert_int_equal(blk_close(disk, NULL), 0);
	free(many);
}

struct others {
	struct loop *loop;
	int pipes[2];
	unsigned ticks, bytes, posted;
	struct loop_timer *timer;
};

static void others_tick(void *user)
{
	struct others *o = user;

	if (++o->ticks < 3)
		loop_timer_arm(o->timer, clock_now_ns() + NS_PER_MSEC);
}

static void others_read(void *user, uint32_t events)
{
	struct others *o = user;
	char byte;

	/* One of several: what is left is told of again. */
	o->bytes += read(o->pipes[0], &byte, 1) == 1;
}

static void others_posted(void *user)
{
	((struct others *)user)->posted++;
}

static void check_others(struct fixture *f, unsigned *open)
{
	struct others o = { .loop = f->loop };
	struct loop_fd *watch;

	assert_int_equal(pipe(o.pipes), 0);
	loop_fd_add(f->loop, o.pipes[0], EPOLLIN, others_read, &o, &watch, NULL);
	loop_timer_new(f->loop, others_tick, &o, &o.timer, NULL);
	loop_timer_arm(o.timer, clock_now_ns() + NS_PER_MSEC);
	loop_post(f->loop, others_posted, &o);
	assert_int_equal(write(o.pipes[1], "abc", 3), 3);
	for (int i = 0; i < 5000 && (*open > 0 || o.ticks < 3 || o.bytes < 3 || !o.posted); i++)
		loop_step(f->loop, 100);
	assert_int_equal(*open, 0);
	assert_int_equal(o.ticks, 3);
	assert_int_equal(o.bytes, 3);
	assert_int_equal(o.posted, 1);
	loop_step(f->loop, 0);
	loop_fd_remove(watch);
	loop_timer_free(o.timer);
	close(o.pipes[0]);
	close(o.pipes[1]);
}

/* The loop waits in one of their rings: neither the other disk nor anybody else misses it, also
 * when that one is closed. */
static void test_several_on_a_loop(void **state)
{
	struct fixture *f = *state;
	struct blk *disks[3];
	struct many many[3][4];
	unsigned open = 0;

	for (unsigned i = 0; i < 3; i++)
		disks[i] = open_raw(f, &(struct disk_options){ 0 });
	for (unsigned closed = 0; closed < 3; closed++) {
		for (unsigned i = closed; i < 3; i++) {
			for (unsigned k = 0; k < 4; k++)
				many[i][k].open = &open;
			open += 4;
			submit_many(disks[i], many[i], 4, BLK_READ);
		}
		check_others(f, &open);
		assert_int_equal(blk_close(disks[closed], NULL), 0);
		/* The next one that comes lends its own. */
		if (closed == 0) {
			blk_close(disks[2], NULL);
			disks[2] = open_raw(f, &(struct disk_options){ 0 });
		}
	}
	check_others(f, &open);
}

/* done() waits for another request: the engine must not lose track. */
struct nested {
	struct many outer;
	struct blk *disk;
	uint8_t inner[512];
	bool ran;
};

static void nested_done(struct blk_request *req, enum blk_result result)
{
	struct nested *n = container_of(req, struct nested, outer.req);

	assert_int_equal(blk_read_now(n->disk, 1024, n->inner, 512), BLK_OK);
	n->ran = true;
}

static void test_nested_wait(void **state)
{
	struct fixture *f = *state;
	struct blk *disk = open_raw(f, &(struct disk_options){ 0 });
	struct nested n[4] = { 0 };

	for (int i = 0; i < 4; i++) {
		n[i].disk = disk;
		n[i].outer.iov = (struct iovec){ n[i].outer.buf, 512 };
		n[i].outer.req = (struct blk_request){ .op = BLK_READ,
						       .length = 512,
						       .iov = &n[i].outer.iov,
						       .iov_count = 1,
						       .done = nested_done };
		blk_submit(disk, &n[i].outer.req);
	}
	blk_drain(disk);
	for (int i = 0; i < 4; i++)
		assert_true(n[i].ran);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_write_error(void **state)
{
	struct fixture *f = *state;
	char path[64];
	struct blk *disk;
	struct error err;
	uint8_t data[512] = { 0 };
	int fd;

	/* opened for reading only, against the contract: every write must fail, and say so */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(
	    disk_open(f->loop, fd,
		      &(struct disk_options){ .format = DISK_RAW, .engine = f->engine }, &disk,
		      &err),
	    0);
	assert_int_equal(blk_write_now(disk, 0, data, 512), BLK_IO_ERROR);
	assert_int_equal(blk_run_now(disk, BLK_WRITE_ZEROES, 0, 0, NULL, 512), BLK_IO_ERROR);
	blk_close(disk, NULL);
}

/* One writer, or any number of readers; and a closed disk is free again. */
static void test_lock(void **state)
{
	const struct disk_options reading = { .format = DISK_RAW, .read_only = true };
	const struct disk_options writing = { .format = DISK_RAW };
	struct fixture *f = *state;
	struct blk *disk, *second;
	struct error err;
	char path[64];
	int other;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	other = open(path, O_RDWR | O_CLOEXEC);
	disk = open_raw(f, &writing);
	assert_int_equal(disk_open(f->loop, other, &reading, &second, &err), -ERR_BUSY);
	assert_int_equal(blk_close(disk, NULL), 0);
	disk = open_raw(f, &reading);
	assert_int_equal(disk_open(f->loop, other, &writing, &second, &err), -ERR_BUSY);
	assert_int_equal(disk_open(f->loop, other, &reading, &second, &err), 0);
	assert_int_equal(blk_close(second, NULL), 0);
	assert_int_equal(blk_close(disk, NULL), 0);
}

/* Whoever had it ends in a moment. */
static void test_lock_of_one_that_ends(void **state)
{
	const struct timespec moment = { 0, 100000000 };
	struct fixture *f = *state;
	struct error err;
	char path[64], byte;
	int other, ready[2];
	pid_t child;

	assert_int_equal(pipe(ready), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
	child = fork();
	if (child == 0) {
		other = open(path, O_RDWR | O_CLOEXEC);
		if (file_lock(other, true, &err) == 0 && write(ready[1], "", 1) == 1)
			nanosleep(&moment, NULL);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(file_lock(f->fd, true, &err), 0);
	file_unlock(f->fd);
	waitpid(child, NULL, 0);
	close(ready[0]);
	close(ready[1]);
}

/* ---- direct I/O ---- */

static bool is_direct(int fd)
{
	return fcntl(fd, F_GETFL) & O_DIRECT;
}

static bool host_can_bypass(int fd)
{
	struct statx stx = { 0 };

	return statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	       (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align > 0 &&
	       stx.stx_dio_offset_align <= 512;
}

/* Memory as no host wants it, in pieces, and a request longer than the bounce buffers that are
 * kept. */
static void work_unaligned(struct blk *disk)
{
	uint8_t *data = malloc(2 * MIB + 1), *back = malloc(2 * MIB + 1);

	for (unsigned i = 0; i < 2 * MIB + 1; i++)
		data[i] = (uint8_t)(i * 31 >> 3);
	assert_int_equal(blk_write_now(disk, 512, data + 1, 1536), BLK_OK);
	assert_int_equal(blk_write_now(disk, 4096, data + 1, 2 * MIB), BLK_OK);
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	assert_int_equal(blk_read_now(disk, 4096, back + 1, 2 * MIB), BLK_OK);
	assert_memory_equal(back + 1, data + 1, 2 * MIB);
	assert_int_equal(blk_read_now(disk, 512, back + 1, 1536), BLK_OK);
	assert_memory_equal(back + 1, data + 1, 1536);
	free(data);
	free(back);
}

static void check_bypass(struct fixture *f, int fd, enum disk_format format, bool expected)
{
	const struct disk_options options = { .format = format,
					      .engine = f->engine,
					      .bypass_cache = true };
	struct error err;
	struct blk *disk;

	if (disk_open(f->loop, dup(fd), &options, &disk, &err) < 0) {
		if (f->engine == DISK_ENGINE_URING)
			skip();
		fail_msg("%s", err.text);
	}
	assert_int_equal(is_direct(fd), expected);
	work_unaligned(disk);
	assert_int_equal(blk_close(disk, NULL), 0);
	/* Others have the same open file. */
	assert_false(is_direct(fd));
	close(fd);
}

static int new_image(int fd, enum disk_format format, enum disk_type type)
{
	const struct disk_create_options options = {
		.format = format, .type = type, .size_bytes = 16 * MIB, .sparse = true
	};
	struct error err;

	if (disk_create(fd, &options, &err) < 0)
		fail_msg("%s", err.text);
	return fd;
}

static void test_bypass(void **state)
{
	struct fixture *f = *state;
	int dir = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	bool can = dir >= 0 && host_can_bypass(dir);

	close(dir);
	if (!can) {
		print_message("the build's file system has no direct I/O\n");
		skip();
	}
	for (enum disk_format format = DISK_RAW; format <= DISK_VHDX; format++)
		for (enum disk_type type = DISK_FIXED; type <= DISK_DYNAMIC; type++)
			if (format != DISK_RAW || type == DISK_FIXED)
				check_bypass(
				    f,
				    new_image(open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600),
					      format, type),
				    format, true);
}

/* Where the host can't, and where the file ends within a sector, the cache is used. */
static void test_bypass_refused(void **state)
{
	struct fixture *f = *state;
	int fd = open(".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	assert_int_equal(ftruncate(f->fd, 16 * MIB), 0);
	if (!host_can_bypass(f->fd))
		check_bypass(f, dup(f->fd), DISK_RAW, false);
	if (fd < 0)
		return;
	assert_int_equal(ftruncate(fd, 16 * MIB + 100), 0);
	check_bypass(f, fd, DISK_RAW, false);
}

static void test_not_a_disk(void **state)
{
	struct fixture *f = *state;
	struct error err;
	struct blk *disk;
	int pipes[2];

	assert_int_equal(pipe(pipes), 0);
	assert_true(disk_open(f->loop, pipes[0], NULL, &disk, &err) < 0);
	print_message("%s\n", err.text);
	close(pipes[0]);
	close(pipes[1]);
}

#define BOTH(test)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(test, setup, teardown, NULL),                     \
	    cmocka_unit_test_prestate_setup_teardown(test, setup, teardown, (void *)1)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_read_write),
		BOTH(test_contract),
		BOTH(test_odd_size),
		BOTH(test_zero_and_unmap),
		BOTH(test_many_in_flight),
		BOTH(test_nested_wait),
		BOTH(test_write_error),
		BOTH(test_not_a_disk),
		BOTH(test_lock),
		BOTH(test_lock_of_one_that_ends),
		BOTH(test_bypass),
		BOTH(test_bypass_refused),
		BOTH(test_several_on_a_loop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
