/*
 * Power cuts under a VHDX or VHD (power-cut.h). A disk is worked on while its file is recorded.
 * Each file that a cut could leave must open, pass our checks, hold everything that the guest had
 * flushed, and nothing that it never wrote.
 */
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/guest-record.h"
#include "disk/vhd.h"
#include "disk/vhdx.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define FILE_MAX_BYTES (512 * MIB)
#define SECTOR         512u

static uint64_t random_state;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* ---- the guest's work ---- */

struct world {
	struct loop *loop;
	struct cut *cut;
	struct guest guest;
	uint64_t disk_bytes;
	/* The offsets (multiples of 64 KiB) that the guest works on. */
	uint64_t spots[64];
	unsigned spot_count;
	bool frees_often;
	/* The n-th operation on the file, counted down, fails; 0: none. */
	long fault_after;
	uint64_t cut_seed;
	uint32_t block_bytes; /* 0: 1 MiB */
	bool differencing;    /* over a parent that holds parent_value */
	bool vhd;
};

#define SPOT_BYTES (64 * KIB)

static uint64_t parent_value(uint64_t offset)
{
	return UINT64_C(1) << 40 | offset;
}

static unsigned long cut_points; /* that were checked */
static struct world *the_world;  /* fault() has no other way to find it */

static void random_change(struct world *w)
{
	uint64_t spot = w->spots[next_random() % w->spot_count];
	uint64_t start = next_random() % (SPOT_BYTES / SECTOR);
	uint64_t count = 1 + next_random() % MIN(UINT64_C(24), SPOT_BYTES / SECTOR - start);
	uint64_t offset = spot + start * SECTOR, length = count * SECTOR;
	uint64_t block = ALIGN_DOWN(spot, MIB);

	unsigned dice = next_random() % 16;

	/* Blocks come and go between two flushes, and places change hands. */
	if (w->frees_often && dice >= 10)
		dice = 3;
	if (w->frees_often && dice < 2)
		dice = 15;
	switch (dice) {
	case 0:
	case 1:
	case 2:
		guest_submit(&w->guest, BLK_FLUSH, 0, 0, 0);
		return;
	case 3:
		if (!guest_overlaps(&w->guest, block, MIB))
			guest_submit(&w->guest,
				     blk_info(w->guest.disk)->can_unmap && next_random() % 2
					 ? BLK_UNMAP
					 : BLK_WRITE_ZEROES,
				     block, MIB, BLK_MAY_UNMAP);
		return;
	case 4:
		if (!guest_overlaps(&w->guest, offset, length))
			guest_submit(&w->guest, BLK_WRITE_ZEROES, offset, length,
				     next_random() % 2 ? BLK_MAY_UNMAP : 0);
		return;
	default:
		if (!guest_overlaps(&w->guest, offset, length))
			guest_submit(&w->guest, BLK_WRITE, offset, length,
				     next_random() % 12 == 0 ? BLK_FUA : 0);
		return;
	}
}

static void work(struct world *w, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		while (w->guest.in_flight >= 12)
			loop_step(w->loop, 100);
		random_change(w);
		if (next_random() % 3 == 0)
			loop_step(w->loop, 0);
	}
	blk_drain(w->guest.disk);
}

/* ---- checking ---- */

static void check_content(const struct world *w, struct blk *disk, uint64_t moment)
{
	for (unsigned i = 0; i < w->spot_count; i++)
		guest_check(&w->guest, disk, w->spots[i], SPOT_BYTES, moment);
}

static struct blk *open_or_fail(struct world *w, struct file *file, bool read_only, uint64_t moment)
{
	struct disk_options options = { .read_only = read_only };
	struct error err;
	struct blk *disk;

	if (w->differencing)
		options.parent = blk_pattern_new(w->loop, w->disk_bytes, 512, parent_value);
	if ((w->vhd ? vhd_open : vhdx_open)(file, &options, &disk, &err) < 0)
		fail_msg("cut at %lu: %s", moment, err.text);
	return disk;
}

/* Blocks that the work never used may get places that hold left-overs: nothing of it may show. */
static void check_new_block(struct world *w, struct blk *disk, uint64_t offset)
{
	uint8_t *block = malloc(MIB), sector[SECTOR];

	memset(sector, 0x5a, SECTOR);
	assert_int_equal(blk_write_now(disk, offset + 3 * SECTOR, sector, SECTOR), BLK_OK);
	assert_int_equal(blk_read_now(disk, offset, block, MIB), BLK_OK);
	assert_memory_equal(block + 3 * SECTOR, sector, SECTOR);
	for (uint64_t i = 0; i < MIB; i += 8) {
		uint64_t at = ALIGN_DOWN(offset + i, (uint64_t)SECTOR);
		uint64_t value = w->differencing ? parent_value(at) : 0;

		if (i / SECTOR != 3 && memcmp(block + i, &value, 8) != 0)
			fail_msg("a new block holds old bytes at %#lx", offset + i);
	}
	free(block);
}

static struct file *file_after_cut(struct world *w, uint64_t moment, enum cut_style style)
{
	const struct file_mem_options options = { .max_bytes = FILE_MAX_BYTES };

	return cut_file(w->cut, w->loop, moment, style, moment + (w->cut_seed << 32), &options);
}

/* Reads it without writing, then for writing (which replays), changes something, reads it again. */
static void check_cut(struct world *w, uint64_t moment, enum cut_style style)
{
	struct file *file = file_after_cut(w, moment, style), *again;
	struct blk *disk = open_or_fail(w, file, true, moment);

	cut_points++;
	check_content(w, disk, moment);
	blk_close(disk, NULL);
	again = file_after_cut(w, moment, style);
	disk = open_or_fail(w, again, false, moment);
	check_content(w, disk, moment);
	check_new_block(w, disk, w->disk_bytes - 1 * MIB);
	assert_int_equal(blk_flush_now(disk), BLK_OK);
	check_new_block(w, disk, w->disk_bytes - 2 * MIB);
	check_content(w, disk, moment);
	assert_int_equal(blk_close(disk, NULL), 0);
}

/* ---- scenarios ---- */

static void load_new_disk(struct world *w, uint64_t disk_bytes, bool fixed)
{
	struct disk_create_options options = { .format = w->vhd ? DISK_VHD : DISK_VHDX,
					       .size_bytes = disk_bytes,
					       .block_bytes = w->block_bytes
								  ?: w->vhd ? 512 * KIB
									    : MIB,
					       .type = fixed ? DISK_FIXED : DISK_DYNAMIC,
					       .sparse = true };
	struct disk_details parent = { .format = options.format,
				       .size_bytes = disk_bytes,
				       .logical_sector_bytes = 512,
				       .physical_sector_bytes = 512,
				       .link_id = { { 1 } } };
	int fd = memfd_create("vhdx", 0);
	uint64_t file_bytes;
	uint8_t *bytes;

	if (w->differencing) {
		options.type = DISK_DIFFERENCING;
		options.parent = &parent;
		options.parent_relative = ".\\parent.vhdx";
	}
	assert_int_equal(disk_create(fd, &options, NULL), 0);
	w->disk_bytes = disk_bytes;
	file_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	bytes = malloc(file_bytes);
	assert_int_equal(pread(fd, bytes, file_bytes, 0), file_bytes);
	cut_initial(w->cut, bytes, file_bytes);
	free(bytes);
	close(fd);
}

static int fault(void *user, const struct file_request *req)
{
	struct world *w = the_world;

	if (!w->fault_after || --w->fault_after > 0)
		return 0;
	return w->guest.change_count % 2 ? -EIO : -ENOSPC;
}

static void start(struct world *w, uint64_t disk_bytes, unsigned spots, bool fixed)
{
	struct file_mem_options options = { .max_bytes = FILE_MAX_BYTES,
					    .seed = next_random(),
					    .observe = cut_observe,
					    .fault = fault };

	the_world = w;
	w->cut = cut_new(NULL);
	w->guest.clock = w->cut;
	w->guest.initial = w->differencing ? parent_value : NULL;
	options.user = w->cut;
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	load_new_disk(w, disk_bytes, fixed);
	w->guest.disk =
	    open_or_fail(w, cut_file(w->cut, w->loop, 0, CUT_ANY, 0, &options), false, 0);
	w->spot_count = spots;
	for (unsigned i = 0; i < spots; i++)
		w->spots[i] = ALIGN_DOWN((disk_bytes - 2 * MIB) / spots * i, SPOT_BYTES);
}

static void finish(struct world *w)
{
	guest_done(&w->guest);
	cut_free(w->cut);
	loop_free(w->loop);
}

static void run_scenario_on(struct world w, uint64_t seed, uint64_t disk_bytes, unsigned spots,
			    bool fixed, unsigned changes, unsigned cuts)
{
	random_state = seed;
	start(&w, disk_bytes, spots, fixed);
	work(&w, changes);
	assert_int_equal(blk_close(w.guest.disk, NULL), 0);
	/* OYAKO_LONG: more than 100,000 cut points in all. */
	cuts *= getenv("OYAKO_LONG") ? 80 : 1;
	for (unsigned i = 0; i <= cuts; i++) {
		w.cut_seed = i;
		check_cut(&w, cut_now(w.cut) * i / cuts, i % CUT_STYLES);
	}
	finish(&w);
}

static void run_scenario(uint64_t seed, uint64_t disk_bytes, unsigned spots, bool fixed,
			 unsigned changes, unsigned cuts)
{
	run_scenario_on((struct world){ 0 }, seed, disk_bytes, spots, fixed, changes, cuts);
}

/* Every single moment of a short history. */
static void test_each_moment(void **state)
{
	run_scenario(7, 8 * MIB, 6, false, 40, 260);
}

static void test_allocations(void **state)
{
	run_scenario(99, 3 * GIB, 24, false, 300, 150);
}

/* Enough flushes to go around the log several times. */
static void test_log_wraps(void **state)
{
	run_scenario(12345, 40 * MIB, 30, false, 1500, 60);
}

static void test_places_change_hands(void **state)
{
	run_scenario_on((struct world){ .frees_often = true }, 31337, 14 * MIB, 12, false, 500,
			200);
}

static void test_fixed(void **state)
{
	run_scenario(4711, 8 * MIB, 6, true, 200, 60);
}

static void test_differencing(void **state)
{
	run_scenario_on((struct world){ .differencing = true }, 271828, 24 * MIB, 20, false, 300,
			200);
}

static void test_differencing_frees(void **state)
{
	run_scenario_on((struct world){ .differencing = true, .frees_often = true }, 314159,
			14 * MIB, 12, false, 400, 200);
}

/* The bits of a block fill two pages, and the entry of the bitmap block lies far behind. */
static void test_differencing_large_blocks(void **state)
{
	run_scenario_on((struct world){ .differencing = true, .block_bytes = 32 * MIB }, 161803,
			160 * MIB, 24, false, 200, 100);
}

/* The host fails once. What was flushed before, or is flushed later, is there in any case. */
static void run_with_fault(struct world w, long n, bool *ret_reached)
{
	w.guest.may_fail = true;
	random_state = 1000 + (uint64_t)n;
	start(&w, 14 * MIB, 12, false);
	w.fault_after = n;
	work(&w, 60);
	*ret_reached = w.fault_after == 0;
	w.fault_after = 0;
	blk_close(w.guest.disk, NULL);
	for (enum cut_style style = 0; style < CUT_STYLES; style++)
		check_cut(&w, cut_now(w.cut), style);
	finish(&w);
}

static void test_faults(void **state)
{
	long step = getenv("OYAKO_LONG") ? 1 : 9;
	bool reached = true;

	for (long n = 1; reached; n += step)
		run_with_fault((struct world){ .frees_often = true }, n, &reached);
	reached = true;
	for (long n = 1; reached; n += step)
		run_with_fault((struct world){ .differencing = true, .frees_often = n % 2 }, n,
			       &reached);
}

/* More dirty BAT pages at a flush than one log entry takes. */
static void test_many_pages(void **state)
{
	struct world w = { 0 };

	random_state = 5;
	start(&w, 80 * GIB, 64, false);
	for (unsigned page = 0; page < 150; page++)
		guest_submit(&w.guest, BLK_WRITE, page * 512 * MIB + 7 * SECTOR, SECTOR, 0);
	blk_drain(w.guest.disk);
	guest_submit(&w.guest, BLK_FLUSH, 0, 0, 0);
	blk_drain(w.guest.disk);
	assert_int_equal(blk_close(w.guest.disk, NULL), 0);
	for (unsigned i = 0; i < 60; i++) {
		uint64_t moment = cut_now(w.cut) - cut_now(w.cut) / 2 * i / 60;
		struct blk *disk =
		    open_or_fail(&w, file_after_cut(&w, moment, CUT_ANY), false, moment);

		for (unsigned page = 0; page < 150; page++)
			guest_check(&w.guest, disk, page * 512 * MIB + 7 * SECTOR, SECTOR, moment);
		assert_int_equal(blk_close(disk, NULL), 0);
	}
	finish(&w);
}

static void test_vhd(void **state)
{
	run_scenario_on((struct world){ .vhd = true }, 1618, 8 * MIB, 6, false, 60, 300);
	run_scenario_on((struct world){ .vhd = true }, 1619, 300 * MIB, 40, false, 200, 100);
}

/* The data of a block's first write is there, its bitmap is not, when the flush begins: in one of
 * some seeds the bitmap is the last thing that the host does. */
static void test_vhd_first_bitmap_is_late(void **state)
{
	for (unsigned seed = 0; seed < 150; seed++) {
		struct world w = { .vhd = true };
		struct blk *after;
		uint64_t flushed;

		random_state = 88172645463325252u + seed;
		start(&w, 8 * MIB, 1, false);
		guest_submit(&w.guest, BLK_WRITE, w.spots[0] + 4 * SECTOR, SECTOR, 0);
		blk_drain(w.guest.disk);
		guest_submit(&w.guest, BLK_FLUSH, 0, 0, 0);
		blk_drain(w.guest.disk);
		flushed = cut_now(w.cut);
		assert_int_equal(blk_close(w.guest.disk, NULL), 0);
		after = open_or_fail(&w, file_after_cut(&w, flushed, CUT_DURABLE), true, flushed);
		check_content(&w, after, flushed);
		blk_close(after, NULL);
		finish(&w);
	}
}

static void test_vhd_frees(void **state)
{
	run_scenario_on((struct world){ .vhd = true, .frees_often = true }, 2718, 14 * MIB, 12,
			false, 500, 200);
}

static void test_vhd_differencing(void **state)
{
	run_scenario_on((struct world){ .vhd = true, .differencing = true }, 3141, 24 * MIB, 20,
			false, 300, 200);
}

static void test_vhd_fixed(void **state)
{
	run_scenario_on((struct world){ .vhd = true }, 4242, 8 * MIB, 6, true, 100, 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_moment),
		cmocka_unit_test(test_allocations),
		cmocka_unit_test(test_log_wraps),
		cmocka_unit_test(test_fixed),
		cmocka_unit_test(test_many_pages),
		cmocka_unit_test(test_places_change_hands),
		cmocka_unit_test(test_differencing),
		cmocka_unit_test(test_differencing_frees),
		cmocka_unit_test(test_differencing_large_blocks),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_vhd),
		cmocka_unit_test(test_vhd_first_bitmap_is_late),
		cmocka_unit_test(test_vhd_frees),
		cmocka_unit_test(test_vhd_differencing),
		cmocka_unit_test(test_vhd_fixed),
	};

	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	print_message("%lu cut points\n", cut_points);
	return rc;
}
