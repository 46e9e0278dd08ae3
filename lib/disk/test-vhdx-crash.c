/*
 * Power cuts under a VHDX or VHD (power-cut.h). A disk is worked on while its file is recorded.
 * Each file that a cut could leave must open, pass our checks, hold everything that the guest had
 * flushed, and nothing that it never wrote.
 */
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/power-cut.h"
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

/* ---- the guest's view ---- */

/* A change of a run of sectors to a value (0: zeros), and flushes (length 0). */
struct change {
	struct blk_request req;
	uint64_t value;
	uint64_t submitted, completed; /* completed 0: it is not, or it failed */
	bool ended;
	struct iovec iov;
};

struct world {
	struct loop *loop;
	struct cut *cut;
	struct blk *disk;
	uint64_t disk_bytes;
	struct change **changes;
	size_t change_count, in_flight;
	/* The offsets (multiples of 64 KiB) that the guest works on. */
	uint64_t spots[64];
	unsigned spot_count;
	bool frees_often;
	/* The n-th operation on the file, counted down, fails; 0: none. */
	long fault_after;
	bool faulty;
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

/* What a sector holds that was never written. */
static uint64_t initial_value(const struct world *w, uint64_t offset)
{
	return w->differencing ? parent_value(offset) : 0;
}

static unsigned long cut_points; /* that were checked */
static struct world *the_world;  /* done() has no other way to find it */

static void change_done(struct blk_request *req, enum blk_result result)
{
	struct change *c = container_of(req, struct change, req);

	if (!the_world->faulty)
		assert_int_equal(result, BLK_OK);
	if (result == BLK_OK)
		c->completed = cut_tick(the_world->cut);
	c->ended = true;
	the_world->in_flight--;
	free(c->iov.iov_base);
}

static bool overlaps_in_flight(const struct world *w, uint64_t offset, uint64_t length)
{
	for (size_t i = 0; i < w->change_count; i++) {
		const struct change *c = w->changes[i];

		if (!c->ended && offset < c->req.offset + c->req.length &&
		    c->req.offset < offset + length)
			return true;
	}
	return false;
}

static void fill(uint8_t *buf, uint64_t length, uint64_t value)
{
	for (uint64_t i = 0; i < length; i += 8)
		memcpy(buf + i, &value, 8);
}

static void submit_change(struct world *w, enum blk_op op, uint64_t offset, uint64_t length,
			  uint32_t flags)
{
	struct change *c = calloc(1, sizeof(*c));

	c->req = (struct blk_request){
		.op = op, .flags = flags, .offset = offset, .length = length, .done = change_done
	};
	if (op == BLK_WRITE) {
		c->value = w->change_count + 1;
		c->iov = (struct iovec){ malloc(length), length };
		fill(c->iov.iov_base, length, c->value);
		c->req.iov = &c->iov;
		c->req.iov_count = 1;
	}
	w->changes = realloc(w->changes, (w->change_count + 1) * sizeof(struct change *));
	w->changes[w->change_count++] = c;
	w->in_flight++;
	c->submitted = cut_tick(w->cut);
	blk_submit(w->disk, &c->req);
}

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
		submit_change(w, BLK_FLUSH, 0, 0, 0);
		return;
	case 3:
		if (!overlaps_in_flight(w, block, MIB))
			submit_change(w,
				      blk_info(w->disk)->can_unmap && next_random() % 2
					  ? BLK_UNMAP
					  : BLK_WRITE_ZEROES,
				      block, MIB, BLK_MAY_UNMAP);
		return;
	case 4:
		if (!overlaps_in_flight(w, offset, length))
			submit_change(w, BLK_WRITE_ZEROES, offset, length,
				      next_random() % 2 ? BLK_MAY_UNMAP : 0);
		return;
	default:
		if (!overlaps_in_flight(w, offset, length))
			submit_change(w, BLK_WRITE, offset, length,
				      next_random() % 12 == 0 ? BLK_FUA : 0);
		return;
	}
}

static void work(struct world *w, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		while (w->in_flight >= 12)
			loop_step(w->loop, 100);
		random_change(w);
		if (next_random() % 3 == 0)
			loop_step(w->loop, 0);
	}
	blk_drain(w->disk);
}

/* ---- checking ---- */

/* What happened by a moment, for those who look at a place of the disk. */
struct history {
	const struct world *w;
	uint64_t moment;
	uint64_t covered;       /* submit moment of the last flush that is done */
	const size_t *relevant; /* the changes of the place, by index */
	size_t count;
};

static uint64_t covered_by(const struct world *w, uint64_t moment)
{
	uint64_t covered = 0;

	for (size_t i = 0; i < w->change_count; i++) {
		const struct change *c = w->changes[i];

		if (c->req.op == BLK_FLUSH && c->completed && c->completed <= moment)
			covered = MAX(covered, c->submitted);
	}
	return covered;
}

/* Those of a place, into room for all. */
static size_t find_relevant(const struct world *w, uint64_t offset, uint64_t length, size_t *ret)
{
	size_t count = 0;

	for (size_t i = 0; i < w->change_count; i++) {
		const struct blk_request *req = &w->changes[i]->req;

		if (req->length && req->offset < offset + length &&
		    offset < req->offset + req->length)
			ret[count++] = i;
	}
	return count;
}

static bool changes_sector(const struct change *c, uint64_t offset)
{
	return c->req.offset <= offset && offset < c->req.offset + c->req.length;
}

/* Of the relevant changes, one behind the one that the sector surely has; 0: it has none. */
static size_t first_possible(const struct history *h, uint64_t offset)
{
	size_t first = 0;

	for (size_t i = 0; i < h->count; i++) {
		const struct change *c = h->w->changes[h->relevant[i]];
		bool kept =
		    c->completed && (c->completed <= h->covered ||
				     ((c->req.flags & BLK_FUA) && c->completed <= h->moment));

		if (kept && changes_sector(c, offset))
			first = i + 1;
	}
	return first;
}

static void check_sector(const struct history *h, const uint8_t *content, uint64_t offset)
{
	size_t first = first_possible(h, offset);
	uint64_t value, flushed = first ? h->w->changes[h->relevant[first - 1]]->value
					: initial_value(h->w, offset);

	memcpy(&value, content, 8);
	if (memcmp(content, content + 8, SECTOR - 8) != 0)
		fail_msg("cut at %lu: sector at %#lx is mixed", h->moment, offset);
	if (value == flushed)
		return;
	for (size_t i = first; i < h->count; i++) {
		const struct change *c = h->w->changes[h->relevant[i]];

		if (c->submitted <= h->moment && c->value == value && changes_sector(c, offset))
			return;
	}
	fail_msg("cut at %lu: sector at %#lx holds %lu, flushed was %lu", h->moment, offset, value,
		 flushed);
}

static void check_range(struct history *h, struct blk *disk, uint64_t offset, uint64_t length)
{
	size_t *relevant = malloc((h->w->change_count + 1) * sizeof(size_t));
	uint8_t *buf = malloc(length);

	h->relevant = relevant;
	h->count = find_relevant(h->w, offset, length, relevant);
	assert_int_equal(blk_read_now(disk, offset, buf, length), BLK_OK);
	for (uint64_t at = 0; at < length; at += SECTOR)
		check_sector(h, buf + at, offset + at);
	free(buf);
	free(relevant);
}

static void check_content(const struct world *w, struct blk *disk, uint64_t moment)
{
	struct history history = { .w = w, .moment = moment, .covered = covered_by(w, moment) };

	for (unsigned i = 0; i < w->spot_count; i++)
		check_range(&history, disk, w->spots[i], SPOT_BYTES);
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

	fill(sector, SECTOR, 12345);
	assert_int_equal(blk_write_now(disk, offset + 3 * SECTOR, sector, SECTOR), BLK_OK);
	assert_int_equal(blk_read_now(disk, offset, block, MIB), BLK_OK);
	assert_memory_equal(block + 3 * SECTOR, sector, SECTOR);
	for (uint64_t i = 0; i < MIB; i += 8) {
		uint64_t at = ALIGN_DOWN(offset + i, (uint64_t)SECTOR);
		uint64_t value = initial_value(w, at);

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
	return w->change_count % 2 ? -EIO : -ENOSPC;
}

static void start(struct world *w, uint64_t disk_bytes, unsigned spots, bool fixed)
{
	struct file_mem_options options = { .max_bytes = FILE_MAX_BYTES,
					    .seed = next_random(),
					    .observe = cut_observe,
					    .fault = fault };

	the_world = w;
	w->cut = cut_new(NULL);
	options.user = w->cut;
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	load_new_disk(w, disk_bytes, fixed);
	w->disk = open_or_fail(w, cut_file(w->cut, w->loop, 0, CUT_ANY, 0, &options), false, 0);
	w->spot_count = spots;
	for (unsigned i = 0; i < spots; i++)
		w->spots[i] = ALIGN_DOWN((disk_bytes - 2 * MIB) / spots * i, SPOT_BYTES);
}

static void finish(struct world *w)
{
	for (size_t i = 0; i < w->change_count; i++)
		free(w->changes[i]);
	free(w->changes);
	cut_free(w->cut);
	loop_free(w->loop);
}

static void run_scenario_on(struct world w, uint64_t seed, uint64_t disk_bytes, unsigned spots,
			    bool fixed, unsigned changes, unsigned cuts)
{
	random_state = seed;
	start(&w, disk_bytes, spots, fixed);
	work(&w, changes);
	assert_int_equal(blk_close(w.disk, NULL), 0);
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
	w.faulty = true;
	random_state = 1000 + (uint64_t)n;
	start(&w, 14 * MIB, 12, false);
	w.fault_after = n;
	work(&w, 60);
	*ret_reached = w.fault_after == 0;
	w.fault_after = 0;
	blk_close(w.disk, NULL);
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
		submit_change(&w, BLK_WRITE, page * 512 * MIB + 7 * SECTOR, SECTOR, 0);
	blk_drain(w.disk);
	submit_change(&w, BLK_FLUSH, 0, 0, 0);
	blk_drain(w.disk);
	assert_int_equal(blk_close(w.disk, NULL), 0);
	for (unsigned i = 0; i < 60; i++) {
		uint64_t moment = cut_now(w.cut) - cut_now(w.cut) / 2 * i / 60;
		struct history history = { &w, moment, covered_by(&w, moment), NULL, 0 };
		struct blk *disk =
		    open_or_fail(&w, file_after_cut(&w, moment, CUT_ANY), false, moment);

		for (unsigned page = 0; page < 150; page++)
			check_range(&history, disk, page * 512 * MIB + 7 * SECTOR, SECTOR);
		assert_int_equal(blk_close(disk, NULL), 0);
	}
	finish(&w);
}

static void test_vhd(void **state)
{
	run_scenario_on((struct world){ .vhd = true }, 1618, 8 * MIB, 6, false, 60, 300);
	run_scenario_on((struct world){ .vhd = true }, 1619, 300 * MIB, 40, false, 200, 100);
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
		cmocka_unit_test(test_vhd_frees),
		cmocka_unit_test(test_vhd_differencing),
		cmocka_unit_test(test_vhd_fixed),
	};

	int rc = cmocka_run_group_tests(tests, NULL, NULL);

	print_message("%lu cut points\n", cut_points);
	return rc;
}
