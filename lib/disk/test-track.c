/* Change tracking: what is named as changed, over restarts and power cuts. */
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/power-cut.h"
#include "disk/raw.h"
#include "disk/track-impl.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define DISK_BYTES (200 * MIB)
#define UNIT       65536u
#define UNITS      (DISK_BYTES / UNIT)
#define MAX_FILE   (16 * MIB)

static uint64_t random_state = 4711;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

struct world {
	struct loop *loop;
	struct cut *cut; /* of the tracking file */
	struct blk *tracked;
	long fault_after;
};

static struct blk *new_disk(struct world *w, struct cut *cut)
{
	struct file_mem_options options = { .max_bytes = DISK_BYTES };
	struct file *file;
	struct blk *disk;

	if (cut) {
		options.observe = cut_observe;
		options.user = cut;
	}
	assert_int_equal(file_mem_new(w->loop, &options, DISK_BYTES, &file), 0);
	assert_int_equal(raw_open(file, &(struct disk_options){ 0 }, &disk, NULL), 0);
	return disk;
}

static int attach(struct world *w, struct file *file, const struct track_options *options,
		  struct error *err)
{
	struct blk *disk = new_disk(w, NULL);
	int rc = track_attach(disk, file, options, &w->tracked, err);

	if (rc < 0)
		blk_close(disk, NULL);
	return rc;
}

static void setup(struct world *w)
{
	*w = (struct world){ .cut = cut_new(NULL) };
	assert_int_equal(loop_new(&w->loop, NULL), 0);
}

static void teardown(struct world *w)
{
	cut_free(w->cut);
	loop_free(w->loop);
}

static int fault(void *user, const struct file_request *req)
{
	struct world *w = user;

	return w->fault_after && --w->fault_after == 0 ? -EIO : 0;
}

static struct file *file_at(struct world *w, uint64_t moment, enum cut_style style, bool recorded)
{
	struct file_mem_options options = { .max_bytes = MAX_FILE, .fault = fault, .user = w };

	if (recorded) {
		options.observe = cut_observe;
		options.user = w->cut;
		options.fault = NULL;
	}
	return cut_file(w->cut, w->loop, moment, style, moment, &options);
}

static void write_at(struct world *w, uint64_t offset)
{
	static uint8_t buf[4096];

	memset(buf, (int)next_random(), sizeof(buf));
	assert_int_equal(blk_write_now(w->tracked, offset, buf, sizeof(buf)), BLK_OK);
}

/* ---- what is named ---- */

static int note(void *user, uint64_t offset, uint64_t length)
{
	uint8_t *units = user;

	assert_true(length > 0 && offset % UNIT == 0 && offset + length <= DISK_BYTES);
	memset(units + offset / UNIT, 1, (length + UNIT - 1) / UNIT);
	return 0;
}

static unsigned changed_units(struct world *w, const struct guid *since, uint8_t *units)
{
	unsigned count = 0;

	memset(units, 0, UNITS);
	assert_int_equal(track_changes(w->tracked, since, note, units, NULL), 0);
	for (unsigned i = 0; i < UNITS; i++)
		count += units[i];
	return count;
}

static void test_exact_over_restarts(void **state)
{
	uint8_t units[UNITS];
	struct guid first, second;
	struct world w;
	struct track_point points[TRACK_MAX_POINTS];

	setup(&w);
	assert_int_equal(attach(&w, file_at(&w, 0, CUT_ANY, true),
				&(struct track_options){ .create = true }, NULL),
			 0);
	write_at(&w, 0);
	assert_int_equal(track_mark(w.tracked, &first, NULL), 0);
	assert_int_equal(changed_units(&w, &first, units), 0);
	write_at(&w, 5 * UNIT - 512);
	assert_int_equal(blk_run_now(w.tracked, BLK_UNMAP, 0, 100 * UNIT, NULL, 3 * UNIT), BLK_OK);
	assert_int_equal(changed_units(&w, &first, units), 5);
	assert_int_equal(blk_close(w.tracked, NULL), 0);

	assert_int_equal(attach(&w, file_at(&w, cut_now(w.cut), CUT_DURABLE, true),
				&(struct track_options){ 0 }, NULL),
			 0);
	assert_int_equal(changed_units(&w, &first, units), 5);
	assert_true(units[4] && units[5] && units[100] && units[101] && units[102]);
	assert_int_equal(track_mark(w.tracked, &second, NULL), 0);
	write_at(&w, DISK_BYTES - 4096);
	assert_int_equal(changed_units(&w, &second, units), 1);
	assert_int_equal(changed_units(&w, &first, units), 6);
	assert_int_equal(track_points(w.tracked, points), 2);
	assert_true(guid_equal(&points[1].id, &second));
	assert_int_equal(track_forget(w.tracked, &first, NULL), 0);
	assert_int_equal(track_changes(w.tracked, &first, note, units, NULL), -ERR_NOT_FOUND);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	teardown(&w);
}

static void test_stale(void **state)
{
	struct track_options options = { .create = true,
					 .link_now = { { 1 } },
					 .link_next = { { 2 } } };
	struct world w;
	struct error err;
	struct file *file;

	setup(&w);
	assert_int_equal(attach(&w, file_at(&w, 0, CUT_ANY, true), &options, NULL), 0);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	options = (struct track_options){ .link_now = { { 2 } }, .link_next = { { 3 } } };
	assert_int_equal(attach(&w, file_at(&w, cut_now(w.cut), CUT_DURABLE, true), &options, NULL),
			 0);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	options.link_now.b[0] = 77;
	file = file_at(&w, cut_now(w.cut), CUT_DURABLE, false);
	assert_int_equal(attach(&w, file, &options, &err), -ERR_STATE);
	assert_non_null(strstr(err.text, "without its changes being tracked"));
	/* a damaged header leaves the other; both are too much */
	file_mem_bytes(file)[100] ^= 1;
	options.link_now.b[0] = 2;
	file_mem_bytes(file)[TRACK_PAGE + 100] ^= 1;
	assert_int_equal(attach(&w, file, &options, &err), -ERR_CORRUPT);
	file_close(file);
	teardown(&w);
}

/* The disk gets another leaf while nobody uses it: the file is that of either, with its points,
 * until one of them is used. */
static void test_follow(void **state)
{
	const struct guid leaf = { { 1 } }, child = { { 2 } }, other = { { 3 } };
	struct track_options options = { .create = true, .link_now = leaf, .link_next = leaf };
	FILE *file = tmpfile();
	uint8_t units[UNITS];
	struct guid since;
	struct world w;
	char path[40];
	int fd;

	setup(&w);
	assert_int_equal(track_new(new_disk(&w, NULL), &w.tracked, NULL), 0);
	assert_int_equal(track_start(w.tracked, w.loop, dup(fileno(file)), &options, NULL), 0);
	assert_int_equal(track_mark(w.tracked, &since, NULL), 0);
	write_at(&w, 3 * UNIT);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fileno(file));
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_int_equal(track_follow(fd, &leaf, &child, NULL), -ERR_BUSY);
	close(fd);
	assert_int_equal(track_stop(w.tracked, NULL), 0);
	assert_int_equal(track_follow(fileno(file), &other, &child, NULL), 0);
	assert_int_equal(track_follow(fileno(file), &leaf, &child, NULL), 1);
	options = (struct track_options){ .link_now = other, .link_next = other };
	assert_int_equal(track_start(w.tracked, w.loop, fileno(file), &options, NULL), -ERR_STATE);
	options = (struct track_options){ .link_now = leaf, .link_next = leaf };
	assert_int_equal(track_start(w.tracked, w.loop, dup(fileno(file)), &options, NULL), 0);
	assert_int_equal(track_stop(w.tracked, NULL), 0);
	options = (struct track_options){ .link_now = child, .link_next = child };
	assert_int_equal(track_start(w.tracked, w.loop, fileno(file), &options, NULL), -ERR_STATE);
	assert_int_equal(track_follow(fileno(file), &leaf, &child, NULL), 1);
	assert_int_equal(track_start(w.tracked, w.loop, dup(fileno(file)), &options, NULL), 0);
	assert_true(changed_units(&w, &since, units) > 0 && units[3]);
	assert_int_equal(track_stop(w.tracked, NULL), 0);
	options.link_now = leaf;
	assert_int_equal(track_start(w.tracked, w.loop, fileno(file), &options, NULL), -ERR_STATE);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	fclose(file);
	teardown(&w);
}

/* A copy names the same, for whoever trusts that it is this disk's. */
static void test_copy(void **state)
{
	struct track_options options = { .link_now = { { 9 } }, .link_next = { { 9 } } };
	uint8_t units[UNITS];
	struct guid since;
	struct world w;
	struct file *file;
	int fd = memfd_create("copy", MFD_CLOEXEC);

	setup(&w);
	assert_int_equal(attach(&w, file_at(&w, 0, CUT_ANY, true),
				&(struct track_options){ .create = true }, NULL),
			 0);
	assert_int_equal(track_mark(w.tracked, &since, NULL), 0);
	write_at(&w, 3 * UNIT);
	write_at(&w, DISK_BYTES - 4096);
	assert_int_equal(track_copy(w.tracked, fd, NULL), 0);
	write_at(&w, 5 * UNIT);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	assert_int_equal(file_open_blocking(fd, FILE_UNLOCKED, &file, NULL), 0);
	assert_int_equal(attach(&w, file, &options, NULL), -ERR_STATE);
	options.trusted = true;
	assert_int_equal(attach(&w, file, &options, NULL), 0);
	assert_int_equal(changed_units(&w, &since, units), 2);
	assert_true(units[3] && units[UNITS - 1]);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	teardown(&w);
}

#define SMALL_BYTES (100 * MIB + 4096)

static struct blk *small_disk(struct world *w)
{
	struct file_mem_options options = { .max_bytes = DISK_BYTES };
	struct file *file;
	struct blk *disk;

	assert_int_equal(file_mem_new(w->loop, &options, SMALL_BYTES, &file), 0);
	assert_int_equal(raw_open(file, &(struct disk_options){ 0 }, &disk, NULL), 0);
	return disk;
}

static void check_grown(struct world *w, const struct guid *since)
{
	uint8_t units[UNITS];

	changed_units(w, since, units);
	assert_true(units[3] && !units[4]);
	for (unsigned i = SMALL_BYTES / UNIT; i < UNITS; i++)
		assert_true(units[i]);
}

/* What is new counts as changed. A cut in between leaves a file that is one of another disk, or a
 * whole one. */
static void test_grow(void **state)
{
	struct track_options again = { 0 };
	uint64_t before, after;
	struct guid since;
	struct world w;

	setup(&w);
	assert_int_equal(track_attach(small_disk(&w), file_at(&w, 0, CUT_ANY, true),
				      &(struct track_options){ .create = true }, &w.tracked, NULL),
			 0);
	assert_int_equal(track_mark(w.tracked, &since, NULL), 0);
	write_at(&w, 3 * UNIT);
	before = cut_now(w.cut);
	assert_int_equal(blk_grow(w.tracked, DISK_BYTES, NULL), 0);
	after = cut_now(w.cut);
	assert_int_equal(blk_info(w.tracked)->size_bytes, DISK_BYTES);
	check_grown(&w, &since);
	write_at(&w, DISK_BYTES - 4096);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	for (uint64_t moment = before; moment <= after; moment++) {
		struct file *file = file_at(&w, moment, CUT_ANY, false);
		int rc = attach(&w, file, &again, NULL);

		assert_true(rc == 0 || (rc == -ERR_STATE && moment < after));
		if (rc < 0) {
			file_close(file);
			continue;
		}
		changed_units(&w, &since, (uint8_t[UNITS]){ 0 });
		assert_int_equal(blk_close(w.tracked, NULL), 0);
	}
	assert_int_equal(attach(&w, file_at(&w, cut_now(w.cut), CUT_DURABLE, false), &again, NULL),
			 0);
	check_grown(&w, &since);
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	teardown(&w);
}

/* Tracking file and disk under one clock: whatever changed on the disk must be named. */
static void test_cuts(void **state)
{
	struct file_mem_options plain = { .max_bytes = DISK_BYTES };
	unsigned cuts = getenv("OYAKO_LONG") ? 4000 : 150;
	struct world w;
	struct cut *disk_cut;
	struct guid since;
	uint64_t marked_at, end;
	uint8_t units[UNITS], touched[UNITS] = { 0 }, *before = malloc(DISK_BYTES);
	unsigned least = UNITS;
	struct blk *disk;
	struct file *file;

	setup(&w);
	disk_cut = cut_new(w.cut);
	disk = new_disk(&w, disk_cut);
	file = file_at(&w, 0, CUT_ANY, true);
	assert_int_equal(
	    track_attach(disk, file, &(struct track_options){ .create = true }, &w.tracked, NULL),
	    0);
	for (unsigned i = 0; i < 40; i++)
		write_at(&w, next_random() % (DISK_BYTES / 4096) * 4096);
	assert_int_equal(blk_flush_now(w.tracked), BLK_OK);
	assert_int_equal(track_mark(w.tracked, &since, NULL), 0);
	marked_at = cut_tick(w.cut);
	for (unsigned i = 0; i < 120; i++) {
		/* one region after the other */
		uint64_t offset = i / 30 * (48 * MIB) + next_random() % 4096 * 4096;

		touched[offset / UNIT] = 1;
		write_at(&w, offset);
		if (next_random() % 16 == 0)
			assert_int_equal(blk_flush_now(w.tracked), BLK_OK);
	}
	assert_int_equal(blk_close(w.tracked, NULL), 0);
	end = cut_now(w.cut);
	file = cut_file(disk_cut, w.loop, marked_at, CUT_COMPLETED, 0, &plain);
	memcpy(before, file_mem_bytes(file), DISK_BYTES);
	file_close(file);
	for (unsigned i = 0; i <= cuts; i++) {
		uint64_t moment = marked_at + (end - marked_at) * i / cuts;
		enum cut_style style = i % CUT_STYLES;
		struct file *image = cut_file(disk_cut, w.loop, moment, style, i, &plain);
		const uint8_t *after = file_mem_bytes(image);

		assert_int_equal(attach(&w, file_at(&w, moment, style, false),
					&(struct track_options){ 0 }, NULL),
				 0);
		least = MIN(least, changed_units(&w, &since, units));
		for (unsigned u = 0; u < UNITS; u++)
			if (touched[u] && !units[u] &&
			    memcmp(before + u * (size_t)UNIT, after + u * (size_t)UNIT, UNIT) != 0)
				fail_msg("cut at %lu: a change of unit %u was missed", moment, u);
		assert_int_equal(blk_close(w.tracked, NULL), 0);
		file_close(image);
	}
	assert_int_equal(least, 0); /* soon after the mark */
	free(before);
	cut_free(disk_cut);
	teardown(&w);
}

/* A change that can't be noted does not happen, and is not missed later. */
static void test_faults(void **state)
{
	uint8_t units[UNITS], buf[4096] = { 1 };

	for (long n = 1; n < 20; n++) {
		struct world w;
		struct guid since;
		enum blk_result result;

		setup(&w);
		assert_int_equal(attach(&w, file_at(&w, 0, CUT_ANY, false),
					&(struct track_options){ .create = true }, NULL),
				 0);
		assert_int_equal(track_mark(w.tracked, &since, NULL), 0);
		w.fault_after = n;
		result = blk_write_now(w.tracked, 64 * MIB, buf, sizeof(buf));
		assert_true(result == BLK_OK || w.fault_after == 0);
		w.fault_after = 0;
		assert_int_equal(blk_write_now(w.tracked, 64 * MIB, buf, sizeof(buf)), BLK_OK);
		assert_int_equal(changed_units(&w, &since, units), 1);
		assert_int_equal(blk_close(w.tracked, NULL), 0);
		teardown(&w);
	}
}

/* Through descriptors, as others use it. */
static void test_open(void **state)
{
	struct loop *loop;
	FILE *image = tmpfile(), *tracking = tmpfile();
	struct guid since;
	struct blk *disk, *tracked;
	uint8_t buf[4096] = { 1 };
	struct error err;

	assert_int_equal(loop_new(&loop, NULL), 0);
	assert_int_equal(ftruncate(fileno(image), DISK_BYTES), 0);
	assert_int_equal(disk_open(loop, dup(fileno(image)),
				   &(struct disk_options){ .format = DISK_RAW }, &disk, &err),
			 0);
	assert_int_equal(track_new(disk, &tracked, &err), 0);
	assert_int_equal(blk_write_now(tracked, 0, buf, sizeof(buf)), BLK_OK);
	assert_int_equal(track_mark(tracked, &since, &err), -ERR_STATE);
	assert_int_equal(track_start(tracked, loop, dup(fileno(tracking)),
				     &(struct track_options){ .create = true }, &err),
			 0);
	assert_true(track_running(tracked));
	assert_int_equal(track_mark(tracked, &since, &err), 0);
	assert_int_equal(blk_write_now(tracked, 0, buf, sizeof(buf)), BLK_OK);
	assert_int_equal(blk_read_now(tracked, 0, buf, sizeof(buf)), BLK_OK);
	assert_int_equal(blk_flush_now(tracked), BLK_OK);
	assert_int_equal(blk_write_now(tracked, DISK_BYTES, buf, sizeof(buf)), BLK_OUT_OF_RANGE);
	assert_int_equal(blk_close(tracked, &err), 0);
	fclose(image);
	fclose(tracking);
	loop_free(loop);
}

static unsigned count_changes(struct blk *tracked, const struct guid *since)
{
	uint8_t units[UNITS] = { 0 };
	unsigned count = 0;

	assert_int_equal(track_changes(tracked, since, note, units, NULL), 0);
	for (unsigned i = 0; i < UNITS; i++)
		count += units[i] != 0;
	return count;
}

/* It is ended and begun again under a disk at work; the image's ids change meanwhile. */
static void test_start_stop(void **state)
{
	struct track_options options = { .create = true,
					 .link_now = { { 1 } },
					 .link_next = { { 2 } } };
	const struct guid now = { { 3 } }, next = { { 4 } };
	FILE *tracking = tmpfile();
	struct blk *tracked;
	struct guid since;
	struct error err;
	struct world w;

	setup(&w);
	assert_int_equal(track_new(new_disk(&w, NULL), &tracked, &err), 0);
	w.tracked = tracked;
	assert_int_equal(track_start(tracked, w.loop, dup(fileno(tracking)), &options, &err), 0);
	assert_int_equal(track_mark(tracked, &since, &err), 0);
	write_at(&w, 3 * MIB);
	assert_int_equal(track_relink(tracked, &now, &next, &err), 0);
	assert_int_equal(track_stop(tracked, &err), 0);
	assert_false(track_running(tracked));
	assert_int_equal(track_stop(tracked, &err), -ERR_STATE);

	options.create = false;
	options.link_now = (struct guid){ { 9 } };
	assert_int_equal(track_start(tracked, w.loop, fileno(tracking), &options, &err),
			 -ERR_STATE); /* stale */
	options.link_now = next;
	assert_int_equal(track_start(tracked, w.loop, dup(fileno(tracking)), &options, &err), 0);
	assert_int_equal(track_start(tracked, w.loop, fileno(tracking), &options, &err),
			 -ERR_EXISTS);
	/* The region's units are unsure: it was stopped with the disk at work. */
	assert_in_range(count_changes(tracked, &since), 1, TRACK_MIN_REGION / UNIT);
	assert_int_equal(track_forget(tracked, &since, &err), 0);
	assert_int_equal(track_mark(tracked, &since, &err), 0);
	write_at(&w, 40 * MIB);
	assert_int_equal(count_changes(tracked, &since), 1);
	assert_int_equal(blk_close(tracked, &err), 0);
	fclose(tracking);
	teardown(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_exact_over_restarts),
		cmocka_unit_test(test_stale),
		cmocka_unit_test(test_grow),
		cmocka_unit_test(test_follow),
		cmocka_unit_test(test_copy),
		cmocka_unit_test(test_cuts),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_open),
		cmocka_unit_test(test_start_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
