/*
 * Offline changes of VHDX disks: what they do, and that a power cut or a failing host at any point
 * leaves the old or the new state with the same content.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/power-cut.h"
#include "disk/vhdx.h"
#include "disk/vhdx-format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define MAX_BYTES  (256 * MIB)
#define DISK_BYTES (24 * MIB)
#define SECTOR     512u

static unsigned long cut_points; /* that were checked */
static uint64_t random_state = 20201;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

struct world {
	struct loop *loop;
	struct cut *cut;
	bool differencing;
	uint64_t size; /* of the disk as created */
	uint8_t *model;
	long fault_after; /* the n-th operation fails; 0: none */
	int fault_errno;
};

static uint64_t parent_value(uint64_t offset)
{
	return UINT64_C(1) << 40 | offset;
}

static const struct disk_details parent_details = { .format = DISK_VHDX,
						    .size_bytes = DISK_BYTES,
						    .logical_sector_bytes = 512,
						    .physical_sector_bytes = 512,
						    .link_id = { { 1, 2, 3 } } };

static struct blk *open_disk(struct world *w, struct file *file, bool read_only)
{
	struct disk_options options = { .read_only = read_only };
	struct error err;
	struct blk *disk;

	if (w->differencing)
		options.parent = blk_pattern_new(w->loop, DISK_BYTES, 512, parent_value);
	if (vhdx_open(file, &options, &disk, &err) < 0)
		fail_msg("%s", err.text);
	return disk;
}

/* Blocks in disorder, some freed again, some of zeros. */
static void fill(struct world *w, struct blk *disk)
{
	uint8_t buf[8 * SECTOR];

	for (unsigned i = 0; i < 60; i++) {
		uint64_t at = next_random() % (w->size / SECTOR - 8) * SECTOR;

		for (unsigned b = 0; b < sizeof(buf); b += 8)
			store_le64(buf + b, next_random());
		assert_int_equal(blk_write_now(disk, at, buf, sizeof(buf)), BLK_OK);
		memcpy(w->model + at, buf, sizeof(buf));
	}
	/* a fixed disk takes no hints */
	for (uint64_t at = 2 * MIB; at < w->size && blk_info(disk)->can_unmap; at += 5 * MIB) {
		assert_int_equal(blk_run_now(disk, BLK_UNMAP, 0, at, NULL, MIB), BLK_OK);
		memset(w->model + at, 0, MIB);
	}
	for (uint64_t at = 4 * MIB; at < w->size; at += 7 * MIB) {
		assert_int_equal(blk_run_now(disk, BLK_WRITE_ZEROES, 0, at, NULL, MIB), BLK_OK);
		memset(w->model + at, 0, MIB);
	}
}

static void load(struct world *w, int fd)
{
	uint64_t bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	uint8_t *image = malloc(bytes);

	assert_int_equal(pread(fd, image, bytes, 0), bytes);
	cut_initial(w->cut, image, bytes);
	free(image);
	close(fd);
}

static void start(struct world *w, enum disk_type type)
{
	struct disk_create_options options = { .format = DISK_VHDX,
					       .type = type,
					       .size_bytes = DISK_BYTES,
					       .block_bytes = MIB,
					       .sparse = true,
					       .parent_relative = ".\\p.vhdx" };
	struct disk_options open_options = { 0 };
	int fd = memfd_create("vhdx", 0);
	struct blk *disk;

	*w = (struct world){ .size = DISK_BYTES, .differencing = type == DISK_DIFFERENCING };
	w->model = calloc(1, 4 * DISK_BYTES);
	w->cut = cut_new(NULL);
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	if (w->differencing) {
		options.parent = &parent_details;
		open_options.parent = blk_pattern_new(w->loop, DISK_BYTES, 512, parent_value);
		for (uint64_t at = 0; at < DISK_BYTES; at += 8)
			store_le64(w->model + at, parent_value(ALIGN_DOWN(at, (uint64_t)SECTOR)));
	}
	assert_int_equal(disk_create(fd, &options, NULL), 0);
	assert_int_equal(disk_open(w->loop, dup(fd), &open_options, &disk, NULL), 0);
	fill(w, disk);
	assert_int_equal(blk_close(disk, NULL), 0);
	load(w, fd);
}

static void finish(struct world *w)
{
	cut_free(w->cut);
	free(w->model);
	loop_free(w->loop);
}

static int fault(void *user, const struct file_request *req)
{
	struct world *w = user;

	return w->fault_after && --w->fault_after == 0 ? -w->fault_errno : 0;
}

/* The file as it was filled, recorded from now on. */
static struct file *recorded_file(struct world *w)
{
	struct file_mem_options options = { .max_bytes = MAX_BYTES,
					    .observe = cut_observe,
					    .user = w->cut };

	return cut_file(w->cut, w->loop, 0, CUT_ANY, 0, &options);
}

/* ---- what must hold ---- */

static void found(void *user, const struct disk_finding *finding)
{
	if (finding->severity == DISK_DAMAGE)
		fail_msg("at %#lx: %s", finding->offset, finding->what);
}

static void check_structure(struct file *file)
{
	const struct disk_check_options options = { .report = found };
	enum disk_severity worst;
	struct error err;

	if (vhdx_check(file, &options, &worst, &err) < 0)
		fail_msg("%s", err.text);
}

/* Everything up to the smaller of both sizes, and zeros where it grew. */
static void check_content(struct world *w, struct file *file, bool read_only)
{
	struct blk *disk = open_disk(w, file, read_only);
	uint64_t size = blk_info(disk)->size_bytes;
	uint8_t *buf = malloc(MIB);

	for (uint64_t at = 0; at < size; at += MIB) {
		size_t len = MIN(MIB, size - at);

		assert_int_equal(blk_read_now(disk, at, buf, len), BLK_OK);
		if (memcmp(buf, w->model + at, len) != 0)
			fail_msg("content differs within %#lx+%#zx", at, len);
	}
	free(buf);
	assert_int_equal(blk_close(disk, NULL), 0);
}

typedef int (*change_fn)(struct file *file, struct error *err);

/* The change succeeds; then every cut of it. Returns the file's final size. */
static uint64_t change_and_cut(struct world *w, change_fn change)
{
	struct file_mem_options plain = { .max_bytes = MAX_BYTES };
	unsigned step = getenv("OYAKO_LONG") ? 1 : 12;
	struct file *file = recorded_file(w);
	struct error err;
	uint64_t size;

	if (change(file, &err) < 0)
		fail_msg("%s", err.text);
	size = file->size_bytes;
	check_structure(file);
	check_content(w, file, true);
	for (uint64_t m = 0; m <= cut_now(w->cut); m += 1 + next_random() % step)
		for (enum cut_style style = 0; style < CUT_STYLES; style++) {
			cut_points++;
			file = cut_file(w->cut, w->loop, m, style, m, &plain);
			check_structure(file);
			check_content(w, file, false);
		}
	return size;
}

/* Each operation of the change in turn fails. */
static void change_with_faults(struct world *w, change_fn change)
{
	static const int errnos[] = { EIO, ENOSPC };

	for (long n = 1;; n++) {
		struct file_mem_options options = { .max_bytes = MAX_BYTES,
						    .fault = fault,
						    .user = w };
		struct file *file = cut_file(w->cut, w->loop, 0, CUT_ANY, 0, &options);
		struct error err = { 0 };
		int rc;

		w->fault_after = n;
		w->fault_errno = errnos[n % 2];
		rc = change(file, &err);
		if (rc < 0)
			assert_true(err.text[0]);
		/* a fault that was not reached: all have been tried */
		if (w->fault_after > 0) {
			assert_int_equal(rc, 0);
			file_close(file);
			return;
		}
		w->fault_after = 0;
		check_structure(file);
		check_content(w, file, false);
	}
}

static void all_of(enum disk_type type, change_fn change, uint64_t most_bytes)
{
	struct world w;

	start(&w, type);
	change_with_faults(&w, change);
	assert_true(change_and_cut(&w, change) <= most_bytes);
	finish(&w);
}

/* ---- the changes ---- */

static int compact_full(struct file *file, struct error *err)
{
	return vhdx_compact(file, DISK_COMPACT_FULL, NULL, err);
}

static int compact_quick(struct file *file, struct error *err)
{
	return vhdx_compact(file, DISK_COMPACT_QUICK, NULL, err);
}

static int grow_a_little(struct file *file, struct error *err)
{
	return vhdx_resize(file, DISK_BYTES + 3 * MIB + 512, NULL, err);
}

/* Shrinks into a block and grows again: nothing of what was cut off may show. */
static uint64_t shrunk_bytes;

static int shrink_and_grow(struct file *file, struct error *err)
{
	int rc = vhdx_resize(file, shrunk_bytes, NULL, err);

	return rc < 0 ? rc : vhdx_resize(file, DISK_BYTES, NULL, err);
}

static int set_properties(struct file *file, struct error *err)
{
	int rc = vhdx_set_id(file, &(struct guid){ { 9, 9 } }, err);

	return rc < 0 ? rc : vhdx_set_physical_sector(file, 512, err);
}

static int set_parent(struct file *file, struct error *err)
{
	static const struct disk_details details = { .link_id = { { 7, 7 } } };
	static const struct disk_parent_link link = {
		.parent = &details,
		.absolute = "C:\\a\\rather\\long\\path\\that\\needs\\a\\new\\place\\parent.vhdx"
	};

	return vhdx_set_parent(file, &link, err);
}

static void test_compact(void **state)
{
	all_of(DISK_DYNAMIC, compact_full, 24 * MIB);
	all_of(DISK_DYNAMIC, compact_quick, 28 * MIB);
}

static void test_compact_differencing(void **state)
{
	all_of(DISK_DIFFERENCING, compact_full, 27 * MIB);
}

static void test_grow(void **state)
{
	all_of(DISK_DYNAMIC, grow_a_little, MAX_BYTES);
	all_of(DISK_FIXED, grow_a_little, MAX_BYTES);
	all_of(DISK_DIFFERENCING, grow_a_little, MAX_BYTES);
}

static void test_properties(void **state)
{
	all_of(DISK_DYNAMIC, set_properties, MAX_BYTES);
}

static void test_set_parent(void **state)
{
	all_of(DISK_DIFFERENCING, set_parent, MAX_BYTES);
}

/* A cut in between leaves the smaller disk, or the larger one without what was cut off. */
static void shrink_and_grow_of(enum disk_type type, uint64_t bytes)
{
	struct file_mem_options plain = { .max_bytes = MAX_BYTES };
	struct world w;
	struct file *file;
	uint8_t *whole;

	shrunk_bytes = bytes;
	start(&w, type);
	whole = malloc(DISK_BYTES);
	memcpy(whole, w.model, DISK_BYTES);
	file = recorded_file(&w);
	assert_int_equal(shrink_and_grow(file, NULL), 0);
	memset(w.model + bytes, 0, DISK_BYTES - bytes);
	check_structure(file);
	check_content(&w, file, true);
	for (uint64_t m = 0; m <= cut_now(w.cut); m++) {
		struct disk_details details;
		bool grown;

		file = cut_file(w.cut, w.loop, m, (enum cut_style)(m % CUT_STYLES), m, &plain);
		check_structure(file);
		assert_int_equal(vhdx_describe(file, &details, NULL), 0);
		grown = details.size_bytes == DISK_BYTES;
		disk_details_done(&details);
		/* before or after? the last sector that was written tells */
		if (grown) {
			struct blk *disk = open_disk(&w, file, true);
			uint8_t *buf = malloc(DISK_BYTES);

			assert_int_equal(blk_read_now(disk, 0, buf, DISK_BYTES), BLK_OK);
			assert_true(memcmp(buf, whole, DISK_BYTES) == 0 ||
				    memcmp(buf, w.model, DISK_BYTES) == 0);
			free(buf);
			assert_int_equal(blk_close(disk, NULL), 0);
		} else {
			check_content(&w, file, false);
		}
	}
	free(whole);
	finish(&w);
}

static void test_shrink_and_grow(void **state)
{
	shrink_and_grow_of(DISK_DYNAMIC, 10 * MIB + 512);
}

/* The parent's content must not show either. Every end of a block of the disk: the block is not
 * there, is in part, is zero. */
static void test_shrink_and_grow_child(void **state)
{
	uint64_t step = getenv("OYAKO_LONG") ? 1 : 5;

	for (uint64_t block = 1; block < DISK_BYTES / MIB; block += step)
		shrink_and_grow_of(DISK_DIFFERENCING, block * MIB + 7 * SECTOR);
	shrink_and_grow_of(DISK_DIFFERENCING, 3 * MIB);
}

/* So large that the BAT needs a new place. */
static int grow_to_huge(struct file *file, struct error *err)
{
	return vhdx_resize(file, UINT64_C(1) << 40, NULL, err);
}

static void test_longer_bat(void **state)
{
	struct file_mem_options plain = { .max_bytes = MAX_BYTES };
	struct world w;
	struct file *file;
	uint8_t buf[SECTOR], back[SECTOR];
	struct blk *disk;

	start(&w, DISK_DYNAMIC);
	file = recorded_file(&w);
	assert_int_equal(grow_to_huge(file, NULL), 0);
	check_structure(file);
	for (uint64_t m = 0; m <= cut_now(w.cut); m++) {
		file_close(file);
		file = cut_file(w.cut, w.loop, m, (enum cut_style)(m % CUT_STYLES), m, &plain);
		check_structure(file);
	}
	disk = open_disk(&w, file, false);
	assert_int_equal(blk_info(disk)->size_bytes, UINT64_C(1) << 40);
	memset(buf, 'z', sizeof(buf));
	assert_int_equal(blk_write_now(disk, (UINT64_C(1) << 40) - SECTOR, buf, SECTOR), BLK_OK);
	assert_int_equal(blk_read_now(disk, (UINT64_C(1) << 40) - SECTOR, back, SECTOR), BLK_OK);
	assert_memory_equal(buf, back, SECTOR);
	assert_int_equal(blk_read_now(disk, 0, w.model + DISK_BYTES, DISK_BYTES), BLK_OK);
	assert_memory_equal(w.model, w.model + DISK_BYTES, DISK_BYTES);
	assert_int_equal(blk_close(disk, NULL), 0);
	finish(&w);
}

static void test_locator_is_kept(void **state)
{
	struct disk_details details;
	struct world w;
	struct file *file;

	start(&w, DISK_DIFFERENCING);
	file = recorded_file(&w);
	assert_int_equal(set_parent(file, NULL), 0);
	assert_int_equal(vhdx_describe(file, &details, NULL), 0);
	assert_int_equal(details.parent_id.b[0], 7);
	assert_string_equal(disk_locator_value(&details, "relative_path"), ".\\p.vhdx");
	assert_non_null(strstr(disk_locator_value(&details, "absolute_win32_path"), "rather"));
	disk_details_done(&details);
	file_close(file);
	finish(&w);
}

/* ---- check ---- */

struct findings {
	unsigned count, repaired;
	enum disk_severity worst;
};

static void count_finding(void *user, const struct disk_finding *finding)
{
	struct findings *f = user;

	f->count++;
	f->repaired += finding->repaired;
	f->worst = MAX(f->worst, finding->severity);
	assert_true(finding->what && finding->advice);
}

static struct findings check(struct file *file, bool repair)
{
	struct findings f = { 0 };
	struct disk_check_options options = { .repair = repair,
					      .report = count_finding,
					      .user = &f };
	enum disk_severity worst;

	assert_int_equal(vhdx_check(file, &options, &worst, NULL), 0);
	return f;
}

static void test_repairs(void **state)
{
	static const uint64_t damaged[] = { VHDX_HEADER_OFFSET(0), VHDX_HEADER_OFFSET(1),
					    VHDX_REGION_TABLE_OFFSET(0),
					    VHDX_REGION_TABLE_OFFSET(1) };
	struct file_mem_options plain = { .max_bytes = MAX_BYTES };
	struct world w;

	start(&w, DISK_DYNAMIC);
	for (unsigned i = 0; i < ARRAY_SIZE(damaged); i++) {
		struct file *file = cut_file(w.cut, w.loop, 0, CUT_ANY, 0, &plain);

		file_mem_bytes(file)[damaged[i] + 100] ^= 1;
		assert_int_equal(check(file, false).worst, DISK_DAMAGE);
		assert_int_equal(check(file, true).repaired, 1);
		assert_int_not_equal(check(file, false).worst, DISK_DAMAGE);
		check_content(&w, file, false);
	}
	finish(&w);
}

static void test_damage_is_told(void **state)
{
	struct file_mem_options plain = { .max_bytes = MAX_BYTES };
	struct findings f;
	struct world w;
	struct file *file;

	start(&w, DISK_DYNAMIC);
	file = cut_file(w.cut, w.loop, 0, CUT_ANY, 0, &plain);
	store_le64(file_mem_bytes(file) + 3 * MIB, UINT64_C(1) << 40 | 6);
	store_le64(file_mem_bytes(file) + 3 * MIB + 8, 4 * MIB | 4);
	f = check(file, true);
	assert_int_equal(f.worst, DISK_DAMAGE);
	assert_true(f.count >= 2 && f.repaired == 0);
	file_close(file);
	finish(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_compact),
		cmocka_unit_test(test_compact_differencing),
		cmocka_unit_test(test_grow),
		cmocka_unit_test(test_properties),
		cmocka_unit_test(test_set_parent),
		cmocka_unit_test(test_shrink_and_grow),
		cmocka_unit_test(test_shrink_and_grow_child),
		cmocka_unit_test(test_longer_bat),
		cmocka_unit_test(test_locator_is_kept),
		cmocka_unit_test(test_repairs),
		cmocka_unit_test(test_damage_is_told),
	};

	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	print_message("%lu cut points\n", cut_points);
	return rc;
}
