/* Opening the largest disks reads and takes little: metadata is loaded on demand. Counted, not
 * timed. */
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/file.h"
#include "disk/vhdx.h"

#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MOST_READ_BYTES   (5 * MIB) /* a BAT of up to 4 MiB is checked as a whole */
#define MOST_MEMORY_BYTES (16 * MIB)

/* ---- what goes to the file ---- */

static struct file_ops counting;
static const struct file_ops *real;
static uint64_t read_bytes, other_operations;

static void count_and_submit(struct file *file, struct file_request *req)
{
	if (req->op == FILE_READ)
		read_bytes += req->length;
	else
		other_operations++;
	real->submit(file, req);
}

static struct file *open_counted(int fd)
{
	struct file *file;

	assert_int_equal(file_open_blocking(fd, FILE_UNLOCKED, &file, NULL), 0);
	real = file->ops;
	counting = *real;
	counting.submit = count_and_submit;
	file->ops = &counting;
	read_bytes = other_operations = 0;
	return file;
}

/* Of the heap, with what malloc maps by itself. Always 0 under the address sanitizer. */
static size_t memory_bytes(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

static void check_cost(uint32_t block_bytes)
{
	const struct disk_create_options how = { .format = DISK_VHDX,
						 .type = DISK_DYNAMIC,
						 .size_bytes = UINT64_C(64) << 40,
						 .block_bytes = block_bytes };
	int fd = memfd_create("huge", 0);
	size_t before;
	uint8_t sector[512];
	struct file *file;
	struct blk *disk;
	struct error err;

	if (disk_create(fd, &how, &err) < 0)
		fail_msg("%s", err.text);
	file = open_counted(fd);
	before = memory_bytes();
	if (vhdx_open(file, &(struct disk_options){ 0 }, &disk, &err) < 0)
		fail_msg("%s", err.text);
	print_message("blocks of %u MiB: %lu KiB read, %zu KiB of memory\n", block_bytes >> 20,
		      read_bytes >> 10, (memory_bytes() - before) >> 10);
	assert_in_range(read_bytes, 1, MOST_READ_BYTES);
	assert_int_equal(other_operations, 0);
	assert_in_range(memory_bytes() - before, 0, MOST_MEMORY_BYTES);
	/* and it is a disk: its end can be read, for one page more */
	assert_int_equal(blk_read_now(disk, how.size_bytes - 512, sector, 512), BLK_OK);
	assert_in_range(read_bytes, 1, MOST_READ_BYTES);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_64_tib(void **state)
{
	check_cost(1 * MIB);
	check_cost(32 * MIB);
	check_cost(256 * MIB);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_64_tib) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
