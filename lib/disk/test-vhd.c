/*
 * VHD files as others see them (QEMU, libvhdi), where these are installed; footers of all sorts;
 * geometry; Azure's rules.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/disk.h"
#include "disk/vhd-format.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#define DISK_BYTES (9 * MIB + 3 * 512)

struct fixture {
	char folder[64];
	struct loop *loop;
	struct error err;
	uint8_t *content;
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

	strcpy(f.folder, "/tmp/oyako-test-vhd-XXXXXX");
	assert_non_null(mkdtemp(f.folder));
	assert_int_equal(chdir(f.folder), 0);
	assert_int_equal(loop_new(&f.loop, NULL), 0);
	f.content = calloc(1, DISK_BYTES);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	free(f->content);
	loop_free(f->loop);
	assert_int_equal(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -r %s", f->folder);
	return system(command);
}

static void must(struct fixture *f, int rc)
{
	if (rc < 0)
		fail_msg("%s", f->err.text);
}

static void create(struct fixture *f, const char *path, enum disk_type type, const char *parent)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	AUTO_CLOSE int parent_fd = parent ? open(parent, O_RDONLY) : -1;
	struct disk_details details = { 0 };
	struct disk_create_options options = { .format = DISK_VHD,
					       .type = type,
					       .size_bytes = DISK_BYTES,
					       .parent = &details,
					       .parent_absolute = "C:\\vhd\\parent.vhd",
					       .parent_relative = ".\\parent.vhd" };

	if (parent)
		must(f, disk_describe(parent_fd, &details, &f->err));
	must(f, disk_create(fd, &options, &f->err));
	disk_details_done(&details);
}

static struct blk *open_disk(struct fixture *f, const char *path, const char *parent)
{
	int fds[2] = { open(path, O_RDWR), parent ? open(parent, O_RDONLY) : -1 };
	struct blk *disk;

	must(f, disk_open_chain(f->loop, fds, parent ? 2 : 1, NULL, &disk, &f->err));
	return disk;
}

static void work(struct fixture *f, struct blk *disk)
{
	for (unsigned i = 0; i < 60; i++) {
		uint64_t at = next_random() % (DISK_BYTES / 512) * 512;
		uint64_t len = MIN((1 + next_random() % 100) * 512, DISK_BYTES - at);

		for (uint64_t k = 0; k < len; k++)
			f->content[at + k] = (uint8_t)next_random();
		assert_int_equal(blk_write_now(disk, at, f->content + at, len), BLK_OK);
	}
	assert_int_equal(blk_close(disk, NULL), 0);
}

static bool installed(const char *test)
{
	char command[256];

	snprintf(command, sizeof(command), "%s >/dev/null 2>&1", test);
	if (system(command) == 0)
		return true;
	print_message("not there, so not asked: %s\n", test);
	return false;
}

/* The command leaves what it read in "read.raw". */
static void reads_the_same(struct fixture *f, const char *command)
{
	uint8_t *read = malloc(DISK_BYTES + 1);
	FILE *file;

	assert_int_equal(system(command), 0);
	file = fopen("read.raw", "rb");
	assert_int_equal(fread(read, 1, DISK_BYTES + 1, file), DISK_BYTES);
	fclose(file);
	assert_memory_equal(read, f->content, DISK_BYTES);
	free(read);
}

#define BY_QEMU "qemu-img convert -f vpc -O raw disk.vhd read.raw"
#define BY_LIBVHDI                                                                                 \
	"/usr/bin/python3 -c \"import pyvhdi\n"                                                    \
	"f = pyvhdi.file()\n"                                                                      \
	"f.open('disk.vhd')\n"                                                                     \
	"if f.get_parent_identifier():\n"                                                          \
	"    p = pyvhdi.file()\n"                                                                  \
	"    p.open('parent.vhd')\n"                                                               \
	"    f.set_parent(p)\n"                                                                    \
	"out = open('read.raw', 'wb')\n"                                                           \
	"for at in range(0, f.get_media_size(), 512):\n"                                           \
	"    out.write(f.read_buffer_at_offset(512, at))\""

/* libvhdi 20210425 takes some sectors of a parent for zeros; this follows the specification. */
#define BY_SPECIFICATION                                                                           \
	"/usr/bin/python3 -c \"import struct\n"                                                    \
	"files = [open(n, 'rb').read() for n in ('disk.vhd', 'parent.vhd')]\n"                     \
	"def sector(f, n):\n"                                                                      \
	"    table, = struct.unpack('>Q', f[528:536])\n"                                           \
	"    at, = struct.unpack('>I', f[table + n // 4096 * 4:table + n // 4096 * 4 + 4])\n"      \
	"    if at != 0xffffffff and f[at * 512 + n % 4096 // 8] >> 7 - n % 8 & 1:\n"              \
	"        return f[(at + 1 + n % 4096) * 512:(at + 2 + n % 4096) * 512]\n"                  \
	"with open('read.raw', 'wb') as out:\n"                                                    \
	"    for n in range(struct.unpack('>Q', files[0][48:56])[0] // 512):\n"                    \
	"        out.write(sector(files[0], n) or sector(files[1], n) or bytes(512))\""

static void ask_others(struct fixture *f, bool qemu)
{
	if (qemu && installed("command -v qemu-img"))
		reads_the_same(f, BY_QEMU);
	if (installed("/usr/bin/python3 -c 'import pyvhdi'"))
		reads_the_same(f, BY_LIBVHDI);
}

static void test_fixed(void **state)
{
	struct fixture *f = *state;

	create(f, "disk.vhd", DISK_FIXED, NULL);
	work(f, open_disk(f, "disk.vhd", NULL));
	ask_others(f, true);
}

static void test_dynamic(void **state)
{
	struct fixture *f = *state;

	create(f, "disk.vhd", DISK_DYNAMIC, NULL);
	ask_others(f, true);
	work(f, open_disk(f, "disk.vhd", NULL));
	ask_others(f, true);
	work(f, open_disk(f, "disk.vhd", NULL));
	ask_others(f, true);
}

/* QEMU knows no differencing VHD. */
static void test_differencing(void **state)
{
	struct fixture *f = *state;

	create(f, "parent.vhd", DISK_DYNAMIC, NULL);
	work(f, open_disk(f, "parent.vhd", NULL));
	create(f, "disk.vhd", DISK_DIFFERENCING, "parent.vhd");
	ask_others(f, false);
	work(f, open_disk(f, "disk.vhd", "parent.vhd"));
	if (installed("/usr/bin/python3 --version"))
		reads_the_same(f, BY_SPECIFICATION);
}

/* ---- footers ---- */

static void opens(struct fixture *f, bool repaired)
{
	struct disk_options options = { .read_only = true };
	AUTO_CLOSE int fd = open("disk.vhd", O_RDWR);
	uint8_t *read = malloc(DISK_BYTES), cookie[8];
	struct blk *disk;

	must(f, disk_open(f->loop, dup(fd), &options, &disk, &f->err));
	assert_int_equal(blk_read_now(disk, 0, read, DISK_BYTES), BLK_OK);
	assert_memory_equal(read, f->content, DISK_BYTES);
	assert_int_equal(blk_close(disk, NULL), 0);
	free(read);
	must(f, disk_open(f->loop, dup(fd), NULL, &disk, &f->err));
	work(f, disk);
	if (!repaired)
		return;
	assert_int_equal(pread(fd, cookie, 8, lseek(fd, -512, SEEK_END)), 8);
	assert_memory_equal(cookie, "conectix", 8);
}

static void test_short_footer(void **state)
{
	static const enum disk_type types[] = { DISK_FIXED, DISK_DYNAMIC };
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		struct stat st;

		memset(f->content, 0, DISK_BYTES);
		create(f, "disk.vhd", types[i], NULL);
		work(f, open_disk(f, "disk.vhd", NULL));
		assert_int_equal(stat("disk.vhd", &st), 0);
		assert_int_equal(truncate("disk.vhd", st.st_size - 1), 0);
		opens(f, false);
	}
}

/* Cut off, overwritten; the copy at the start overwritten. */
static void test_damaged_footer(void **state)
{
	struct fixture *f = *state;
	AUTO_CLOSE int fd = -1;
	struct stat st;
	char byte;

	create(f, "disk.vhd", DISK_DYNAMIC, NULL);
	work(f, open_disk(f, "disk.vhd", NULL));
	assert_int_equal(stat("disk.vhd", &st), 0);
	assert_int_equal(truncate("disk.vhd", st.st_size - 512), 0);
	opens(f, true);
	fd = open("disk.vhd", O_RDWR);
	assert_int_equal(pwrite(fd, "x", 1, lseek(fd, -400, SEEK_END)), 1);
	opens(f, true);
	assert_int_equal(pwrite(fd, "x", 1, 100), 1);
	opens(f, true);
	/* The copy is mended, too: when the file grows next it may be the only one. */
	assert_int_equal(pread(fd, &byte, 1, 100), 1);
	assert_int_not_equal(byte, 'x');
	assert_int_equal(pwrite(fd, "x", 1, 100), 1);
	assert_int_equal(pwrite(fd, "x", 1, lseek(fd, -400, SEEK_END)), 1);
	assert_int_equal(disk_open(f->loop, fd, NULL, &(struct blk *){ 0 }, &f->err), -ERR_CORRUPT);
}

static void test_geometry(void **state)
{
	static const struct {
		uint64_t bytes;
		unsigned cylinders, heads, sectors;
	} cases[] = {
		{ 4194304, 120, 4, 17 },       { 10485760, 301, 4, 17 },
		{ 41943040, 963, 5, 17 },      { 1 * GIB, 2080, 16, 63 },
		{ 127 * GIB, 65278, 16, 255 }, { 2040 * GIB, 65535, 16, 255 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct vhd_footer footer = { 0 };

		vhd_footer_set_size(&footer, cases[i].bytes);
		assert_int_equal(be16toh(footer.cylinders), cases[i].cylinders);
		assert_int_equal(footer.heads, cases[i].heads);
		assert_int_equal(footer.sectors_per_track, cases[i].sectors);
	}
}

static void test_sizes_are_checked(void **state)
{
	static const uint64_t bad[] = { 0, 3 * MIB - 512, 3 * MIB + 1, 2040 * GIB + 512 };
	AUTO_CLOSE int fd = open("disk.vhd", O_RDWR | O_CREAT, 0600);
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(disk_create(fd,
					     &(struct disk_create_options){ .format = DISK_VHD,
									    .type = DISK_DYNAMIC,
									    .size_bytes = bad[i] },
					     &f->err),
				 -ERR_INVALID);
	must(f,
	     disk_create(fd,
			 &(struct disk_create_options){
			     .format = DISK_VHD, .type = DISK_DYNAMIC, .size_bytes = 2040 * GIB },
			 &f->err));
}

static void check_azure(struct fixture *f, enum disk_type type, uint64_t bytes, const char *words)
{
	AUTO_CLOSE int fd = open("disk.vhd", O_RDWR | O_CREAT | O_TRUNC, 0600);
	struct disk_details details;

	must(f, disk_create(
		    fd,
		    &(struct disk_create_options){
			.format = DISK_VHD, .type = type, .size_bytes = bytes, .sparse = true },
		    &f->err));
	must(f, disk_describe(fd, &details, &f->err));
	assert_int_equal(disk_check_azure(&details, &f->err), words ? -ERR_INVALID : 0);
	if (words)
		assert_non_null(strstr(f->err.text, words));
	disk_details_done(&details);
}

static void test_azure(void **state)
{
	struct fixture *f = *state;

	check_azure(f, DISK_FIXED, 30 * MIB, NULL);
	check_azure(f, DISK_FIXED, 30 * MIB + 512, "whole MiB");
	check_azure(f, DISK_DYNAMIC, 30 * MIB, "convert");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_fixed),
		TEST(test_dynamic),
		TEST(test_differencing),
		TEST(test_short_footer),
		TEST(test_damaged_footer),
		TEST(test_geometry),
		TEST(test_sizes_are_checked),
		TEST(test_azure),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
