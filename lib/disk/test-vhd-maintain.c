/*
 * Offline changes of VHD files: power cuts at any moment leave a file with the old or the new state
 * and the same content; damage is found and repaired; what comes out is as other readers expect.
 */
#include "base/loop.h"
#include "base/macros.h"
#include "disk/blk-pattern.h"
#include "blk/sync.h"
#include "disk/merge.h"
#include "disk/power-cut.h"
#include "disk/vhd-format.h"
#include "disk/vhd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MAX_FILE (128 * MIB)
#define SECTOR   512u

struct world {
	struct loop *loop;
	struct cut *cut;
	enum disk_type type;
	uint64_t size_bytes, new_size_bytes;
	uint8_t *file; /* as created */
	uint64_t file_bytes;
	struct error err;
};

static uint64_t parent_value(uint64_t offset)
{
	return UINT64_C(1) << 40 | offset;
}

/* What was written: every third of the disk's 256 KiB pieces. */
static bool is_written(uint64_t offset)
{
	return offset / (256 * KIB) % 3 == 1;
}

static uint64_t value_at(const struct world *w, uint64_t offset)
{
	if (offset >= w->size_bytes)
		return 0;
	if (is_written(offset))
		return 77 + offset / SECTOR;
	return w->type == DISK_DIFFERENCING ? parent_value(offset) : 0;
}

static void fill(const struct world *w, uint8_t *buf, uint64_t offset, uint64_t length)
{
	for (uint64_t at = 0; at < length; at += 8) {
		uint64_t value = value_at(w, ALIGN_DOWN(offset + at, (uint64_t)SECTOR));

		memcpy(buf + at, &value, 8);
	}
}

static struct blk *open_file(struct world *w, struct file *file, bool read_only)
{
	struct disk_options options = { .read_only = read_only };
	struct blk *disk;

	if (w->type == DISK_DIFFERENCING)
		options.parent = blk_pattern_new(w->loop, w->size_bytes, SECTOR, parent_value);
	if (vhd_open(file, &options, &disk, &w->err) < 0)
		fail_msg("%s", w->err.text);
	return disk;
}

static void check_content(struct world *w, struct blk *disk)
{
	uint8_t *buf = malloc(256 * KIB), *wanted = malloc(256 * KIB);
	uint64_t size = blk_info(disk)->size_bytes;

	for (uint64_t at = 0; at < size; at += 256 * KIB) {
		uint64_t len = MIN(256 * KIB, size - at);

		assert_int_equal(blk_read_now(disk, at, buf, len), BLK_OK);
		fill(w, wanted, at, len);
		if (memcmp(buf, wanted, len) != 0)
			fail_msg("content differs near %#lx", at);
	}
	free(buf);
	free(wanted);
}

/* A disk with blocks in disorder, with holes between them. */
static void write_disk(struct world *w, struct blk *disk)
{
	uint8_t *buf = malloc(256 * KIB);
	unsigned pieces = (unsigned)((w->size_bytes + 256 * KIB - 1) / (256 * KIB));

	for (unsigned i = 0; i < pieces; i++) {
		uint64_t at = (uint64_t)(i * 7 % pieces) * 256 * KIB;
		uint64_t len = MIN(256 * KIB, w->size_bytes - at);

		fill(w, buf, at, len);
		if (is_written(at) || (w->type == DISK_DYNAMIC && pieces % 7))
			assert_int_equal(blk_write_now(disk, at, buf, len), BLK_OK);
	}
	for (uint64_t at = 0; w->type == DISK_DYNAMIC && at + 512 * KIB <= w->size_bytes;
	     at += 512 * KIB)
		if (!is_written(at) && !is_written(at + 256 * KIB))
			assert_int_equal(blk_run_now(disk, BLK_UNMAP, 0, at, NULL, 512 * KIB),
					 BLK_OK);
	free(buf);
}

static void setup(struct world *w, enum disk_type type, uint64_t size_bytes, bool written)
{
	struct disk_details parent = { .format = DISK_VHD,
				       .size_bytes = size_bytes,
				       .link_id = { { 1 } } };
	struct disk_create_options options = { .format = DISK_VHD,
					       .type = type,
					       .size_bytes = size_bytes,
					       .block_bytes = type == DISK_FIXED ? 0 : 512 * KIB,
					       .sparse = true,
					       .parent = &parent,
					       .parent_relative = ".\\parent.vhd" };
	struct file *file;
	int fd = memfd_create("vhd", 0);

	*w = (struct world){ .type = type, .size_bytes = size_bytes, .new_size_bytes = size_bytes };
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	assert_int_equal(disk_create(fd, &options, NULL), 0);
	assert_int_equal(file_open_blocking(dup(fd), FILE_UNLOCKED, &file, NULL), 0);
	{
		struct blk *disk = open_file(w, file, false);

		if (written)
			write_disk(w, disk);
		assert_int_equal(blk_close(disk, NULL), 0);
	}
	w->file_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	w->file = malloc(w->file_bytes);
	assert_int_equal(pread(fd, w->file, w->file_bytes, 0), w->file_bytes);
	close(fd);
	w->cut = cut_new(NULL);
	cut_initial(w->cut, w->file, w->file_bytes);
}

static void teardown(struct world *w)
{
	free(w->file);
	cut_free(w->cut);
	loop_free(w->loop);
}

static struct file *file_at(struct world *w, uint64_t moment, enum cut_style style)
{
	return cut_file(w->cut, w->loop, moment, style, moment,
			&(struct file_mem_options){ .max_bytes = MAX_FILE });
}

static void on_finding(void *user, const struct disk_finding *finding)
{
	if (finding->severity == DISK_DAMAGE && !finding->repairable)
		fail_msg("%s at %#lx", finding->what, finding->offset);
}

typedef int change_fn(struct world *w, struct file *file, struct error *err);

static void must(struct world *w, int rc)
{
	if (rc < 0)
		fail_msg("%s", w->err.text);
}

/* Opens, holds the content, can be repaired, and the change can be made again. */
static void check_cut(struct world *w, uint64_t moment, enum cut_style style, change_fn *again)
{
	struct disk_check_options options = { .repair = true, .report = on_finding };
	struct blk *disk = open_file(w, file_at(w, moment, style), true);
	uint64_t size = blk_info(disk)->size_bytes;
	enum disk_severity worst;
	struct file *file;

	if (size != w->size_bytes && size != w->new_size_bytes)
		fail_msg("cut at %lu: the disk has %lu bytes", moment, size);
	check_content(w, disk);
	assert_int_equal(blk_close(disk, NULL), 0);
	file = file_at(w, moment, style);
	must(w, vhd_check(file, &options, &worst, &w->err));
	assert_true(worst < DISK_DAMAGE);
	must(w, again(w, file, &w->err));
	disk = open_file(w, file, false);
	assert_int_equal(blk_info(disk)->size_bytes, w->new_size_bytes);
	check_content(w, disk);
	assert_int_equal(blk_close(disk, NULL), 0);
}

static void run(struct world *w, change_fn *change)
{
	struct file_mem_options options = { .max_bytes = MAX_FILE,
					    .observe = cut_observe,
					    .user = w->cut };
	struct file *file = cut_file(w->cut, w->loop, 0, CUT_ANY, 0, &options);
	uint64_t cuts;

	must(w, change(w, file, &w->err));
	file_close(file);
	cuts = MIN(cut_now(w->cut), getenv("OYAKO_LONG") ? UINT64_C(100000) : UINT64_C(120));
	for (uint64_t i = 0; i <= cuts; i++)
		check_cut(w, cut_now(w->cut) * i / cuts, (enum cut_style)(i % CUT_STYLES), change);
	check_cut(w, cut_now(w->cut), CUT_DURABLE, change);
	teardown(w);
}

static int grow(struct world *w, struct file *file, struct error *err)
{
	return vhd_resize(file, w->new_size_bytes, NULL, err);
}

static void test_grow_fixed(void **state)
{
	struct world w;

	setup(&w, DISK_FIXED, 3 * MIB + SECTOR, true);
	w.new_size_bytes = 5 * MIB;
	run(&w, grow);
	setup(&w, DISK_FIXED, 3 * MIB, true);
	w.new_size_bytes = 3 * MIB + SECTOR; /* less than the old footer */
	run(&w, grow);
}

/* The table's sector has room for the new entries. */
static void test_grow_dynamic(void **state)
{
	struct world w;

	setup(&w, DISK_DYNAMIC, 6 * MIB - 7 * SECTOR, true);
	w.new_size_bytes = 9 * MIB;
	run(&w, grow);
}

/* Blocks lie where the longer table goes. */
static void test_grow_moves_blocks(void **state)
{
	struct world w;

	setup(&w, DISK_DYNAMIC, 6 * MIB - 7 * SECTOR, true);
	w.new_size_bytes = 700 * MIB;
	run(&w, grow);
}

static int compact_fully(struct world *w, struct file *file, struct error *err)
{
	return vhd_compact(file, DISK_COMPACT_FULL, NULL, err);
}

static void test_compact(void **state)
{
	struct world w;

	setup(&w, DISK_DYNAMIC, 8 * MIB + SECTOR, true);
	run(&w, compact_fully);
	setup(&w, DISK_DIFFERENCING, 5 * MIB, true);
	run(&w, compact_fully);
}

static int relink(struct world *w, struct file *file, struct error *err)
{
	struct disk_details parent = { .link_id = { { 9 } } };

	return vhd_set_parent(file,
			      &(struct disk_parent_link){ .parent = &parent,
							  .absolute = "C:\\moved\\parent.vhd",
							  .relative = "..\\moved\\parent.vhd" },
			      err);
}

static void test_set_parent(void **state)
{
	struct disk_details details = { 0 };
	struct file *file;
	struct world w;

	setup(&w, DISK_DIFFERENCING, 4 * MIB, true);
	file = file_at(&w, 0, CUT_ANY);
	must(&w, relink(&w, file, &w.err));
	must(&w, vhd_describe(file, &details, &w.err));
	assert_int_equal(details.parent_id.b[0], 9);
	assert_string_equal(disk_locator_value(&details, "W2ru"), "..\\moved\\parent.vhd");
	assert_string_equal(disk_locator_value(&details, "W2ku"), "C:\\moved\\parent.vhd");
	assert_string_equal(disk_locator_value(&details, "parent_name"), "C:\\moved\\parent.vhd");
	disk_details_done(&details);
	file_close(file);
	run(&w, relink);
}

static int new_id(struct world *w, struct file *file, struct error *err)
{
	return vhd_set_id(file, &(struct guid){ { 5 } }, err);
}

static void test_set_id(void **state)
{
	struct world w;

	setup(&w, DISK_DYNAMIC, 3 * MIB, true);
	run(&w, new_id);
}

/* ---- merging ---- */

/* A child over an empty child over the pattern: through the upper one all stays as it is, whatever
 * the lower one has got of it. */
static struct blk *open_two(struct world *source, struct world *target, struct file *file,
			    bool read_only, struct blk **ret_target)
{
	struct disk_options options = { .read_only = true };
	struct blk *disk;

	*ret_target = options.parent = open_file(target, file, read_only);
	if (vhd_open(file_at(source, 0, CUT_ANY), &options, &disk, &source->err) < 0)
		fail_msg("%s", source->err.text);
	return disk;
}

static void test_merge(void **state)
{
	struct world source, target;
	struct file_mem_options options = { .max_bytes = MAX_FILE, .observe = cut_observe };
	struct blk *disk, *lower;
	uint64_t cuts;

	setup(&source, DISK_DIFFERENCING, 6 * MIB, true);
	setup(&target, DISK_DIFFERENCING, 6 * MIB, false);
	options.user = target.cut;
	disk = open_two(&source, &target,
			cut_file(target.cut, target.loop, 0, CUT_ANY, 0, &options), false, &lower);
	must(&source, disk_merge_layers(&disk, 1, lower, NULL, &source.err));
	assert_int_equal(blk_close(disk, NULL), 0);
	cuts = MIN(cut_now(target.cut), UINT64_C(100));
	for (uint64_t i = 0; i <= cuts; i++) {
		uint64_t moment = cut_now(target.cut) * i / cuts;
		enum cut_style style = (enum cut_style)(i % CUT_STYLES);

		disk = open_two(&source, &target, file_at(&target, moment, style), true, &lower);
		check_content(&source, disk);
		assert_int_equal(blk_close(disk, NULL), 0);
	}
	disk = open_file(&target, file_at(&target, cut_now(target.cut), CUT_DURABLE), true);
	check_content(&source, disk);
	assert_int_equal(blk_close(disk, NULL), 0);
	teardown(&target);
	teardown(&source);
}

/* ---- the host fails ---- */

#define SPOTS  40u
#define VALUES 16u

struct faults {
	uint64_t countdown;
	int error;
	uint64_t file_bytes;
};

/* A sector, and what it may hold: the last is what was written last. */
struct spot {
	uint64_t possible[VALUES];
	unsigned count;
	bool failed; /* the last change of it */
};

static int fail_once(void *user, const struct file_request *req)
{
	struct faults *f = user;

	return f->countdown && --f->countdown == 0 ? f->error : 0;
}

static void note_size(void *user, enum file_mem_event event, const struct file_request *req,
		      uint64_t size_bytes)
{
	struct faults *f = user;

	f->file_bytes = size_bytes;
}

static uint64_t spot_offset(unsigned spot)
{
	return (uint64_t)spot * 150 * SECTOR;
}

static void change_spot(struct blk *disk, struct spot *spots, unsigned number, uint64_t value)
{
	struct spot *spot = &spots[number];
	uint64_t sector[SECTOR / 8];
	enum blk_result result;

	for (unsigned k = 0; k < SECTOR / 8; k++)
		sector[k] = value;
	result = value ? blk_write_now(disk, spot_offset(number), sector, SECTOR)
		       : blk_run_now(disk, BLK_WRITE_ZEROES, BLK_MAY_UNMAP, spot_offset(number),
				     NULL, SECTOR);
	assert_true(spot->count < VALUES);
	spot->possible[spot->count++] = value;
	spot->failed = result != BLK_OK;
}

/* What succeeded last is what there is. */
static void flushed(struct spot *spots)
{
	for (unsigned i = 0; i < SPOTS; i++) {
		if (spots[i].failed)
			continue;
		spots[i].possible[0] = spots[i].possible[spots[i].count - 1];
		spots[i].count = 1;
	}
}

static void work_with_fault(struct blk *disk, struct spot *spots)
{
	for (unsigned i = 0; i < 100; i++) {
		change_spot(disk, spots, i * 7 % SPOTS, i % 9 == 4 ? 0 : 1000 + i);
		if (i % 8 == 7 && blk_flush_now(disk) == BLK_OK)
			flushed(spots);
	}
}

static void check_spots(struct world *w, struct blk *disk, const struct spot *spots, uint64_t nth)
{
	uint64_t sector[SECTOR / 8];

	for (unsigned i = 0; i < SPOTS; i++) {
		bool found = false;

		assert_int_equal(blk_read_now(disk, spot_offset(i), sector, SECTOR), BLK_OK);
		for (unsigned k = 0; k < spots[i].count; k++)
			found |= spots[i].possible[k] == sector[0];
		if (!found)
			fail_msg("operation %lu failed: spot %u holds %lu", nth, i, sector[0]);
	}
}

static void use_with_fault(struct world *w, struct file *file, struct spot *spots)
{
	struct disk_options options = { 0 };
	struct blk *disk;

	if (w->type == DISK_DIFFERENCING)
		options.parent = blk_pattern_new(w->loop, w->size_bytes, SECTOR, parent_value);
	if (vhd_open(file, &options, &disk, NULL) < 0) {
		blk_close(options.parent, NULL);
		file_close(file);
		return;
	}
	work_with_fault(disk, spots);
	blk_close(disk, NULL);
}

/* False if there was no nth operation. */
static bool fail_nth(struct world *w, uint64_t nth, int error)
{
	struct faults faults = { nth, error, w->file_bytes };
	struct file_mem_options options = {
		.max_bytes = MAX_FILE, .fault = fail_once, .observe = note_size, .user = &faults
	};
	struct spot spots[SPOTS];
	struct file *file;
	struct blk *disk;

	options.bytes = mmap(NULL, MAX_FILE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	memcpy(options.bytes, w->file, w->file_bytes);
	for (unsigned i = 0; i < SPOTS; i++)
		spots[i] = (struct spot){ { value_at(w, spot_offset(i)) }, 1, false };
	assert_int_equal(file_mem_new(w->loop, &options, w->file_bytes, &file), 0);
	use_with_fault(w, file, spots);
	options.fault = NULL;
	assert_int_equal(file_mem_new(w->loop, &options, faults.file_bytes, &file), 0);
	disk = open_file(w, file, true);
	check_spots(w, disk, spots, nth);
	assert_int_equal(blk_close(disk, NULL), 0);
	munmap(options.bytes, MAX_FILE);
	return faults.countdown == 0;
}

static void fail_each(enum disk_type type)
{
	struct world w;

	setup(&w, type, 4 * MIB, true);
	for (uint64_t nth = 1; fail_nth(&w, nth, nth % 2 ? -EIO : -ENOSPC); nth++)
		;
	teardown(&w);
}

static void test_each_operation_fails(void **state)
{
	fail_each(DISK_DYNAMIC);
	fail_each(DISK_DIFFERENCING);
	fail_each(DISK_FIXED);
}

/* ---- damage ---- */

static void test_damage_is_found(void **state)
{
	struct disk_check_options options = { .report = on_finding };
	enum disk_severity worst;
	struct file *file;
	struct world w;

	setup(&w, DISK_DYNAMIC, 4 * MIB, true);
	file = file_at(&w, 0, CUT_ANY);
	file_mem_bytes(file)[file->size_bytes - 100] ^= 1;
	must(&w, vhd_check(file, &options, &worst, &w.err));
	assert_int_equal(worst, DISK_DAMAGE);
	options.repair = true;
	must(&w, vhd_check(file, &options, &worst, &w.err));
	assert_true(worst < DISK_DAMAGE);
	file_mem_bytes(file)[100] ^= 1;
	must(&w, vhd_check(file, &options, &worst, &w.err));
	options.repair = false;
	must(&w, vhd_check(file, &options, &worst, &w.err));
	assert_true(worst < DISK_DAMAGE);
	file_close(file);
	teardown(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grow_fixed),           cmocka_unit_test(test_grow_dynamic),
		cmocka_unit_test(test_grow_moves_blocks),    cmocka_unit_test(test_compact),
		cmocka_unit_test(test_set_parent),           cmocka_unit_test(test_set_id),
		cmocka_unit_test(test_each_operation_fails), cmocka_unit_test(test_merge),
		cmocka_unit_test(test_damage_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
