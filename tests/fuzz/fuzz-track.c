/*
 * Hostile change tracking files. The input is laid over a new one; with the first bit of its first
 * byte the headers' checksums are made right. What loads is used, closed and must load again.
 *
 * Input: one byte of options, then records: offset in the file (2), length - 1 (1), bytes.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/crc32c.h"
#include "disk/file-mem.h"
#include "disk/raw.h"
#include "disk/track-impl.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK_BYTES (64 * MIB)
#define MAX_BYTES  (1 * MIB)

static struct loop *loop;

static void die(const char *what)
{
	fprintf(stderr, "fuzz-track: %s\n", what);
	abort();
}

static struct file *new_memory(uint64_t bytes)
{
	const struct file_mem_options options = { .max_bytes = bytes };
	struct file *file;

	if (file_mem_new(loop, &options, bytes, &file) < 0)
		die("no memory");
	return file;
}

static struct blk *new_disk(void)
{
	struct blk *disk;

	if (raw_open(new_memory(DISK_BYTES), &(struct disk_options){ 0 }, &disk, NULL) < 0)
		die("no disk");
	return disk;
}

static void seal(uint8_t *bytes)
{
	for (unsigned slot = 0; slot < 2; slot++) {
		struct track_header *h = (void *)(bytes + TRACK_HEADER_AT(slot));

		h->checksum = 0;
		h->checksum = crc32c(h, sizeof(*h));
	}
}

/* A file with two points, not closed. */
static void make_file(struct file *file)
{
	struct track_options options = { .create = true };
	struct file *own = new_memory(MAX_BYTES);
	struct blk *tracked;
	struct guid id;

	if (track_attach(new_disk(), own, &options, &tracked, NULL) < 0 ||
	    track_mark(tracked, &id, NULL) < 0 || track_mark(tracked, &id, NULL) < 0)
		die("no file");
	blk_run_now(tracked, BLK_WRITE_ZEROES, 0, 20 * MIB, NULL, MIB);
	memcpy(file_mem_bytes(file), file_mem_bytes(own), MAX_BYTES);
	blk_close(tracked, NULL);
}

static int count(void *user, uint64_t offset, uint64_t length)
{
	if (length == 0 || !RANGE_OK(offset, length, DISK_BYTES))
		die("a range outside the disk");
	*(uint64_t *)user += length;
	return 0;
}

static uint64_t changed_bytes(struct blk *tracked)
{
	struct track_point points[TRACK_MAX_POINTS];
	unsigned n = track_points(tracked, points);
	uint64_t sum = 0;

	if (n && track_changes(tracked, &points[0].id, count, &sum, NULL) < 0)
		die("a point can't be asked for");
	return sum;
}

static void use(struct file *file)
{
	struct track_options options = { 0 };
	struct blk *disk = new_disk(), *tracked;
	struct error err = { 0 };
	struct guid id;

	if (track_attach(disk, file, &options, &tracked, &err) < 0) {
		if (!err.text[0])
			die("refused without a reason");
		blk_close(disk, NULL);
		file_close(file);
		return;
	}
	changed_bytes(tracked);
	blk_run_now(tracked, BLK_WRITE_ZEROES, 0, 3 * MIB, NULL, 40 * MIB);
	if (track_mark(tracked, &id, NULL) == 0 && track_forget(tracked, &id, NULL) < 0)
		die("a new point can't be forgotten");
	blk_close(tracked, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct file *file;

	if (size < 1)
		return 0;
	if (!loop && loop_new(&loop, NULL) < 0)
		die("no loop");
	file = new_memory(MAX_BYTES);
	make_file(file);
	for (size_t at = 1; size - at > 3;) {
		size_t len = MIN((size_t)data[at + 2] + 1, size - at - 3);

		memcpy(file_mem_bytes(file) + load_le16(data + at), data + at + 3, len);
		at += 3 + len;
	}
	if (data[0] & 1)
		seal(file_mem_bytes(file));
	use(file);
	loop_step(loop, 0);
	return 0;
}
