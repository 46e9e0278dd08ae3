/* VHDX through files on disk: what is written is read back, by us and by others. */
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/disk.h"
#include "base/loop.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

struct fixture {
	struct loop *loop;
	enum disk_engine engine;
	char path[64];
	int fd;
	struct blk *disk;
	uint8_t *model; /* what the disk must hold */
	uint64_t size;
};

static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static int setup(void **state)
{
	static struct fixture f;

	f = (struct fixture){ .engine = *state ? DISK_ENGINE_THREADS : DISK_ENGINE_AUTO };
	assert_int_equal(loop_new(&f.loop, NULL), 0);
	strcpy(f.path, "/tmp/oyako-test-vhdx-XXXXXX");
	f.fd = mkstemp(f.path);
	assert_true(f.fd >= 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(blk_close(f->disk, NULL), 0);
	close(f->fd);
	unlink(f->path);
	free(f->model);
	loop_free(f->loop);
	return 0;
}

static void create(struct fixture *f, const struct disk_create_options *options)
{
	struct error err;

	f->size = options->size_bytes;
	f->model = calloc(1, f->size);
	assert_non_null(f->model);
	if (disk_create(f->fd, options, &err) < 0)
		fail_msg("%s", err.text);
}

static void open_disk(struct fixture *f, bool read_only)
{
	struct disk_options options = { .engine = f->engine, .read_only = read_only };
	struct error err;

	if (disk_open(f->loop, dup(f->fd), &options, &f->disk, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(blk_info(f->disk)->size_bytes, f->size);
}

static void close_disk(struct fixture *f)
{
	struct error err;

	if (blk_close(f->disk, &err) < 0)
		fail_msg("%s", err.text);
	f->disk = NULL;
}

static void compare(struct fixture *f)
{
	const size_t step = 3 * 1000 * 1000 / 4096 * 4096;
	uint8_t *buf = malloc(step);

	for (uint64_t at = 0; at < f->size; at += step) {
		size_t len = MIN(step, f->size - at);

		assert_int_equal(blk_read_now(f->disk, at, buf, len), BLK_OK);
		if (memcmp(buf, f->model + at, len) != 0)
			fail_msg("content differs within %#lx+%#zx", at, len);
	}
	free(buf);
}

/* Runs a shell command on the image; its status, or -1 when its first word is not installed. */
static int run_tool(const struct fixture *f, const char *format)
{
	char command[512], tool[64];

	sscanf(format, "%63s", tool);
	snprintf(command, sizeof(command), "command -v %s >/dev/null", tool);
	if (system(command) != 0)
		return -1;
	snprintf(command, sizeof(command), format, f->path, f->path);
	return WEXITSTATUS(system(command));
}

static void check_by_qemu(struct fixture *f)
{
	char raw[80];
	FILE *file;
	uint8_t *content;

	switch (run_tool(f, "qemu-img check -q -f vhdx %s >/dev/null")) {
	case -1:
		print_message("qemu-img is not installed: not checked by it\n");
		return;
	case 0:
		break;
	default:
		fail_msg("qemu-img check finds faults");
	}
	assert_int_equal(run_tool(f, "qemu-img convert -q -f vhdx -O raw %s %s.raw"), 0);
	snprintf(raw, sizeof(raw), "%s.raw", f->path);
	file = fopen(raw, "rb");
	content = malloc(f->size);
	assert_non_null(file);
	assert_int_equal(fread(content, 1, f->size, file), f->size);
	assert_memory_equal(content, f->model, f->size);
	fclose(file);
	free(content);
	unlink(raw);
}

/* ---- random work against a model ---- */

#define IN_FLIGHT 16

struct job {
	struct blk_request req;
	struct fixture *f;
	struct iovec iov[40];
	uint8_t *buf;
	bool busy;
};

static void job_done(struct blk_request *req, enum blk_result result)
{
	struct job *job = container_of(req, struct job, req);

	assert_int_equal(result, BLK_OK);
	if (req->op == BLK_READ)
		assert_memory_equal(job->buf, job->f->model + req->offset, req->length);
	free(job->buf);
	job->busy = false;
}

static bool overlaps_any(const struct job *jobs, uint64_t offset, uint64_t length)
{
	for (int i = 0; i < IN_FLIGHT; i++)
		if (jobs[i].busy && offset < jobs[i].req.offset + jobs[i].req.length &&
		    jobs[i].req.offset < offset + length)
			return true;
	return false;
}

/* Cuts the buffer into uneven pieces. */
static void cut_buffer(struct job *job)
{
	uint64_t rest = job->req.length, at = 0;
	unsigned n = 0;

	while (rest > 0 && n < ARRAY_SIZE(job->iov)) {
		uint64_t len = n == ARRAY_SIZE(job->iov) - 1 ? rest : 1 + next_random() % rest;

		job->iov[n++] = (struct iovec){ job->buf + at, len };
		at += len;
		rest -= len;
	}
	job->req.iov = job->iov;
	job->req.iov_count = n;
}

static void choose_job(struct fixture *f, struct job *job, uint32_t sector)
{
	static const enum blk_op ops[] = { BLK_READ,  BLK_WRITE, BLK_WRITE,        BLK_WRITE,
					   BLK_FLUSH, BLK_UNMAP, BLK_WRITE_ZEROES, BLK_READ };
	uint64_t sectors = f->size / sector, start = next_random() % sectors;
	uint64_t longest = next_random() % 8 == 0 ? 6 * MIB / sector : 128 * KIB / sector;
	uint64_t count = 1 + next_random() % MIN(longest, sectors - start);

	job->f = f;
	job->req = (struct blk_request){ .op = ops[next_random() % ARRAY_SIZE(ops)],
					 .offset = start * sector,
					 .length = count * sector,
					 .done = job_done };
	if (job->req.op == BLK_FLUSH)
		job->req.offset = job->req.length = 0;
	else if (next_random() % 16 == 0)
		job->req.flags |= BLK_FUA;
	if (next_random() % 2)
		job->req.flags |= BLK_MAY_UNMAP;
	/* Whole blocks, often enough. */
	if (job->req.op >= BLK_UNMAP && next_random() % 2) {
		job->req.offset = ALIGN_DOWN(job->req.offset, MIB);
		job->req.length = MIN(4 * MIB, f->size - job->req.offset);
	}
}

static void start_job(struct fixture *f, struct job *job)
{
	uint8_t *model = f->model + job->req.offset;

	job->buf = NULL;
	if (job->req.op == BLK_READ || job->req.op == BLK_WRITE) {
		job->buf = malloc(job->req.length);
		memset(job->buf, (int)next_random() | 1, job->req.length);
		cut_buffer(job);
	}
	if (job->req.op == BLK_WRITE) {
		for (uint64_t i = 0; i < job->req.length; i += 512)
			memcpy(job->buf + i, &(uint64_t){ next_random() }, 8);
		memcpy(model, job->buf, job->req.length);
	}
	if (job->req.op == BLK_WRITE_ZEROES ||
	    (job->req.op == BLK_UNMAP && blk_info(f->disk)->can_unmap))
		memset(model, 0, job->req.length);
	job->busy = true;
	blk_submit(f->disk, &job->req);
}

static void random_work(struct fixture *f, unsigned count)
{
	uint32_t sector = blk_info(f->disk)->logical_sector_bytes;
	struct job jobs[IN_FLIGHT] = { 0 };

	for (unsigned i = 0; i < count; i++) {
		struct job *job = &jobs[next_random() % IN_FLIGHT], wanted = { 0 };

		while (job->busy)
			loop_step(f->loop, 1000);
		choose_job(f, &wanted, sector);
		if (overlaps_any(jobs, wanted.req.offset, wanted.req.length))
			continue;
		job->req = wanted.req;
		job->f = f;
		start_job(f, job);
		if (next_random() % 4 == 0)
			loop_step(f->loop, 0);
	}
	blk_drain(f->disk);
}

static void work_and_check(struct fixture *f, const struct disk_create_options *options)
{
	/* QEMU knows only logical sectors of 512 bytes. */
	bool by_qemu = options->logical_sector_bytes != 4096;

	create(f, options);
	if (by_qemu)
		check_by_qemu(f);
	for (int open = 0; open < 3; open++) {
		open_disk(f, false);
		compare(f);
		random_work(f, 400);
		compare(f);
		close_disk(f);
	}
	open_disk(f, true);
	compare(f);
	assert_int_equal(blk_write_now(f->disk, 0, f->model, 4096), BLK_READ_ONLY);
	close_disk(f);
	if (by_qemu)
		check_by_qemu(f);
}

static void test_dynamic(void **state)
{
	work_and_check(*state, &(struct disk_create_options){ .format = DISK_VHDX,
							      .type = DISK_DYNAMIC,
							      .size_bytes = 50 * MIB + 512,
							      .block_bytes = 1 * MIB });
}

static void test_dynamic_large_blocks(void **state)
{
	work_and_check(*state, &(struct disk_create_options){ .format = DISK_VHDX,
							      .type = DISK_DYNAMIC,
							      .size_bytes = 40 * MIB });
}

static void test_dynamic_4k(void **state)
{
	work_and_check(*state, &(struct disk_create_options){ .format = DISK_VHDX,
							      .type = DISK_DYNAMIC,
							      .size_bytes = 30 * MIB,
							      .block_bytes = 2 * MIB,
							      .logical_sector_bytes = 4096 });
}

static void test_fixed(void **state)
{
	work_and_check(*state, &(struct disk_create_options){ .format = DISK_VHDX,
							      .size_bytes = 21 * MIB,
							      .block_bytes = 2 * MIB,
							      .type = DISK_FIXED });
}

static void check_by_libvhdi(struct fixture *f)
{
	uint8_t *content;
	FILE *pipe;
	char command[512];

	if (system("/usr/bin/python3 -c 'import pyvhdi' 2>/dev/null") != 0) {
		print_message("python3-libvhdi is not installed: not checked by it\n");
		return;
	}
	snprintf(command, sizeof(command),
		 "/usr/bin/python3 -c \"import pyvhdi, sys\n"
		 "f = pyvhdi.file()\n"
		 "f.open('%s')\n"
		 "for at in range(0, f.get_media_size(), 1 << 20):\n"
		 "    sys.stdout.buffer.write(f.read_buffer_at_offset(1 << 20, at))\"",
		 f->path);
	pipe = popen(command, "r");
	content = malloc(f->size);
	assert_non_null(pipe);
	assert_int_equal(fread(content, 1, f->size, pipe), f->size);
	assert_int_equal(pclose(pipe), 0);
	assert_memory_equal(content, f->model, f->size);
	free(content);
}

/* In one file after the other. QEMU knows no logical sectors of 4096 bytes. */
static void each_sector_size(struct fixture *f, struct disk_create_options options)
{
	static const uint32_t sectors[][2] = { { 512, 512 }, { 512, 4096 }, { 4096, 4096 } };

	for (unsigned i = 0; i < ARRAY_SIZE(sectors); i++) {
		options.logical_sector_bytes = sectors[i][0];
		options.physical_sector_bytes = sectors[i][1];
		assert_int_equal(ftruncate(f->fd, 0), 0);
		free(f->model);
		create(f, &options);
		open_disk(f, false);
		random_work(f, 60);
		close_disk(f);
		if (sectors[i][0] == 512)
			check_by_qemu(f);
		else
			check_by_libvhdi(f);
	}
}

/* Every block size with every sector size, dynamic and fixed, as others read it. */
static void test_each_geometry(void **state)
{
	struct fixture *f = *state;

	for (uint64_t block = MIB; block <= 256 * MIB; block *= 2)
		for (unsigned fixed = 0; fixed < 2; fixed++)
			each_sector_size(f, (struct disk_create_options){
						.format = DISK_VHDX,
						.type = fixed ? DISK_FIXED : DISK_DYNAMIC,
						.size_bytes = 11 * MIB,
						.block_bytes = (uint32_t)block,
						.sparse = true });
	open_disk(f, true);
}

/* One request over many blocks: what is in flight for it is bounded, its result isn't. */
static void test_zero_everything(void **state)
{
	struct fixture *f = *state;
	uint8_t byte[512];

	create(f, &(struct disk_create_options){ .format = DISK_VHDX,
						 .size_bytes = 300 * MIB,
						 .block_bytes = MIB,
						 .type = DISK_FIXED,
						 .sparse = true });
	open_disk(f, false);
	memset(byte, 'x', sizeof(byte));
	for (uint64_t at = 0; at < f->size; at += MIB)
		assert_int_equal(blk_write_now(f->disk, at + 4096, byte, sizeof(byte)), BLK_OK);
	assert_int_equal(blk_run_now(f->disk, BLK_WRITE_ZEROES, BLK_FUA, 0, NULL, f->size), BLK_OK);
	compare(f);
	close_disk(f);
}

/* All blocks are given back by one request. */
static void test_unmap_everything(void **state)
{
	struct fixture *f = *state;
	struct stat before, after;
	uint8_t byte[512];

	create(f, &(struct disk_create_options){ .format = DISK_VHDX,
						 .type = DISK_DYNAMIC,
						 .size_bytes = 600 * MIB,
						 .block_bytes = MIB });
	open_disk(f, false);
	memset(byte, 'x', sizeof(byte));
	for (uint64_t at = 0; at < f->size; at += MIB)
		assert_int_equal(blk_write_now(f->disk, at + 4096, byte, sizeof(byte)), BLK_OK);
	assert_int_equal(blk_flush_now(f->disk), BLK_OK);
	assert_int_equal(fstat(f->fd, &before), 0);
	assert_int_equal(blk_run_now(f->disk, BLK_UNMAP, 0, 0, NULL, f->size), BLK_OK);
	compare(f);
	close_disk(f);
	assert_int_equal(fstat(f->fd, &after), 0);
	assert_int_equal(after.st_size, 4 * MIB);
	assert_true(before.st_blocks - after.st_blocks >= 590 * 8);
	check_by_qemu(f);
}

#define BOTH(test)                                                                                 \
	cmocka_unit_test_prestate_setup_teardown(test, setup, teardown, NULL),                     \
	    cmocka_unit_test_prestate_setup_teardown(test, setup, teardown, (void *)1)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(test_dynamic),
		BOTH(test_dynamic_large_blocks),
		BOTH(test_dynamic_4k),
		BOTH(test_fixed),
		BOTH(test_zero_everything),
		BOTH(test_unmap_everything),
		cmocka_unit_test_setup_teardown(test_each_geometry, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
