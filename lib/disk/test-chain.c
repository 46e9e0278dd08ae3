/* Finding the parents of a disk by the paths in it. */
#include "base/loop.h"
#include "base/macros.h"
#include "base/parent-paths.h"
#include "blk/sync.h"
#include "disk/chain.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

struct fixture {
	char folder[64];
	struct loop *loop;
	struct error err;
};

static int setup(void **state)
{
	static struct fixture f;

	strcpy(f.folder, "/tmp/oyako-test-chain-XXXXXX");
	assert_non_null(mkdtemp(f.folder));
	assert_int_equal(chdir(f.folder), 0);
	assert_int_equal(mkdir("sub", 0700), 0);
	assert_int_equal(loop_new(&f.loop, NULL), 0);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[128];

	loop_free(f->loop);
	assert_int_equal(chdir("/"), 0);
	snprintf(command, sizeof(command), "rm -r %s", f->folder);
	return system(command);
}

static enum disk_format format_of(const char *path)
{
	return strstr(path, "vhdx") ? DISK_VHDX : DISK_VHD;
}

static void create_root(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(disk_create(fd,
				     &(struct disk_create_options){ .format = format_of(path),
								    .type = DISK_DYNAMIC,
								    .size_bytes = 4 * MIB },
				     NULL),
			 0);
}

/* With the paths as given; NULL: as base/parent-paths.h makes them. */
static void create_child_as(const char *path, const char *parent, const char *absolute,
			    const char *relative)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	AUTO_CLOSE int parent_fd = open(parent, O_RDONLY);
	struct parent_paths made = { 0 };
	struct disk_details details;
	struct error err;

	assert_int_equal(disk_describe(parent_fd, &details, NULL), 0);
	if (!absolute && !relative) {
		assert_int_equal(parent_paths_make(path, parent, &made, NULL), 0);
		absolute = made.absolute;
		relative = made.relative;
	}
	if (disk_create(fd,
			&(struct disk_create_options){ .format = format_of(path),
						       .type = DISK_DIFFERENCING,
						       .parent = &details,
						       .parent_absolute = absolute,
						       .parent_relative = relative },
			&err) < 0)
		fail_msg("%s", err.text);
	parent_paths_done(&made);
	disk_details_done(&details);
}

static void create_child(const char *path, const char *parent)
{
	create_child_as(path, parent, NULL, NULL);
}

static void resolves(struct fixture *f, const char *leaf, unsigned count, const char *root)
{
	struct chain chain;
	struct stat found, wanted;

	if (chain_resolve(leaf, &chain, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_int_equal(chain.count, count);
	assert_int_equal(fstat(chain.layers[count - 1].fd, &found), 0);
	assert_int_equal(stat(root, &wanted), 0);
	assert_int_equal(found.st_ino, wanted.st_ino);
	chain_done(&chain);
}

static void refused(struct fixture *f, const char *leaf, enum err_code code, const char *words)
{
	struct chain chain;

	assert_int_equal(chain_resolve(leaf, &chain, &f->err), -(int)code);
	if (!strstr(f->err.text, words))
		fail_msg("%s", f->err.text);
}

static void test_three_layers(void **state)
{
	struct fixture *f = *state;
	char absolute[128];

	create_root("a.vhdx");
	create_child("sub/b.avhdx.vhdx", "a.vhdx");
	create_child("c.vhdx", "sub/b.avhdx.vhdx");
	resolves(f, "c.vhdx", 3, "a.vhdx");
	snprintf(absolute, sizeof(absolute), "%s/c.vhdx", f->folder);
	resolves(f, absolute, 3, "a.vhdx");
	create_root("a.vhd");
	create_child("sub/b.vhd", "a.vhd");
	resolves(f, "sub/b.vhd", 2, "a.vhd");
	assert_int_equal(chdir("sub"), 0);
	resolves(f, "b.vhd", 2, "../a.vhd");
}

/* Both moved together, the parent moved next to the child, the child moved away. */
static void test_moved(void **state)
{
	struct fixture *f = *state;

	create_root("a.vhd");
	create_child("b.vhd", "a.vhd");
	assert_int_equal(rename("a.vhd", "sub/a.vhd"), 0);
	refused(f, "b.vhd", ERR_NOT_FOUND, "Set-VHD -ParentPath");
	assert_int_equal(rename("b.vhd", "sub/b.vhd"), 0);
	resolves(f, "sub/b.vhd", 2, "sub/a.vhd");
	assert_int_equal(rename("sub/a.vhd", "a.vhd"), 0);
	resolves(f, "sub/b.vhd", 2, "a.vhd"); /* by the absolute path */
}

static void test_windows_paths(void **state)
{
	struct fixture *f = *state;
	char path[160];

	create_root("Base Disk.vhdx");
	create_child_as("1.vhdx", "Base Disk.vhdx", NULL, ".\\BASE disk.VHDX");
	resolves(f, "1.vhdx", 2, "Base Disk.vhdx");
	create_child_as("2.vhdx", "Base Disk.vhdx", "\\\\?\\C:\\VMs\\base disk.vhdx", NULL);
	resolves(f, "2.vhdx", 2, "Base Disk.vhdx");
	snprintf(path, sizeof(path), "D:%s\\Base Disk.vhdx", f->folder);
	create_child_as("sub/3.vhdx", "Base Disk.vhdx", path, "..\\..\\elsewhere\\x.vhdx");
	resolves(f, "sub/3.vhdx", 2, "Base Disk.vhdx");
	create_child_as("sub/4.vhdx", "Base Disk.vhdx", NULL, "..\\SUB\\..\\base DISK.vhdx");
	resolves(f, "sub/4.vhdx", 2, "Base Disk.vhdx");
}

static void write_to(struct fixture *f, const char *path)
{
	uint8_t sector[512] = { 1 };
	struct blk *disk;

	assert_int_equal(disk_open(f->loop, open(path, O_RDWR), NULL, &disk, NULL), 0);
	assert_int_equal(blk_write_now(disk, 0, sector, sizeof(sector)), BLK_OK);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void test_wrong_parent(void **state)
{
	struct fixture *f = *state;

	create_root("a.vhdx");
	create_child("b.vhdx", "a.vhdx");
	write_to(f, "a.vhdx");
	refused(f, "b.vhdx", ERR_INVALID, "it was changed");
	create_root("c.vhd");
	create_child("d.vhd", "c.vhd");
	create_root("c.vhd");
	refused(f, "d.vhd", ERR_INVALID, "is not the parent");
	/* What is not right in one place may be in another. */
	create_root("sub/e.vhd");
	create_child_as("g.vhd", "sub/e.vhd", NULL, ".\\e.vhd");
	create_root("e.vhd");
	refused(f, "g.vhd", ERR_INVALID, "is not the parent");
	assert_int_equal(unlink("e.vhd"), 0);
	assert_int_equal(mkfifo("e.vhd", 0600), 0);
	refused(f, "g.vhd", ERR_INVALID, "regular file");
}

/* A child that names a copy of itself: its parent's id is made its own. */
static void test_circle(void **state)
{
	struct fixture *f = *state;
	struct disk_details details = { .format = DISK_VHD,
					.size_bytes = 4 * MIB,
					.link_id = { { 7 } } };
	AUTO_CLOSE int fd = open("a.vhd", O_RDWR | O_CREAT, 0600);

	assert_int_equal(disk_create(fd,
				     &(struct disk_create_options){ .format = DISK_VHD,
								    .type = DISK_DIFFERENCING,
								    .id = { { 7 } },
								    .parent = &details,
								    .parent_relative = ".\\a.vhd" },
				     NULL),
			 0);
	refused(f, "a.vhd", ERR_CORRUPT, "circle");
}

static void test_open(void **state)
{
	struct fixture *f = *state;
	uint8_t sector[512];
	struct chain chain;
	struct blk *disk;

	create_root("a.vhdx");
	write_to(f, "a.vhdx");
	create_child("b.vhdx", "a.vhdx");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(chain_resolve("b.vhdx", &chain, NULL), 0);
		assert_int_equal(chain_open(f->loop, &chain, NULL, &disk, NULL), 0);
		assert_int_equal(blk_read_now(disk, 0, sector, sizeof(sector)), BLK_OK);
		assert_int_equal(sector[0], 1 + i);
		sector[0]++;
		assert_int_equal(blk_write_now(disk, 0, sector, sizeof(sector)), BLK_OK);
		assert_int_equal(blk_close(disk, NULL), 0);
		chain_done(&chain);
	}
	/* the parent is as it was */
	resolves(f, "b.vhdx", 2, "a.vhdx");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_three_layers), TEST(test_moved),  TEST(test_windows_paths),
		TEST(test_wrong_parent), TEST(test_circle), TEST(test_open),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
