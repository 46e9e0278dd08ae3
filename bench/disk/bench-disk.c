/*
 * The block layer alone: patterns of reads and writes on an image file, no guest.
 *
 *	bench-disk IMAGE PATTERN [raw|vhdx] [uring|threads] [depth] [count]
 *
 * The image is opened as it is; see `run`, which makes images and compares with qemu-img bench.
 *Prints one line: seconds for all, operations per second, MiB per second.
 *
 * Patterns: seq-read, seq-write (256 KiB steps); read-4k, write-4k (strides that jump around the
 *disk); sync-4k (a flush after each write).
 */
#include "base/clock.h"
#include "base/loop.h"
#include "base/macros.h"
#include "disk/disk.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEPTH  256u
#define FLUSH_EACH 256u /* writes: as a file system's commits do */

struct pattern {
	const char *name;
	enum blk_op op;
	uint32_t bytes;
	uint64_t stride; /* from one operation to the next, around the disk */
	unsigned flush_each;
};

static const struct pattern patterns[] = {
	{ "seq-read", BLK_READ, 256 * 1024, 256 * 1024, 0 },
	{ "seq-write", BLK_WRITE, 256 * 1024, 256 * 1024, FLUSH_EACH },
	{ "read-4k", BLK_READ, 4096, 4096 * 7919, 0 },
	{ "write-4k", BLK_WRITE, 4096, 4096 * 7919, FLUSH_EACH },
	{ "sync-4k", BLK_WRITE, 4096, 4096 * 7919, 1 },
};

struct slot {
	struct blk_request req;
	struct run *run;
	struct iovec iov;
};

struct run {
	struct loop *loop;
	struct blk *disk;
	const struct pattern *pattern;
	unsigned depth, in_flight;
	uint64_t count, started, finished;
	bool flush_due;
	struct slot slots[MAX_DEPTH];
};

static void start(struct run *run, struct slot *slot)
{
	const struct pattern *p = run->pattern;
	uint64_t places = blk_info(run->disk)->size_bytes / p->bytes;
	uint64_t place = run->started * (p->stride / p->bytes) % places;
	bool flush = run->flush_due;

	run->flush_due = false;
	if (!flush) {
		run->started++;
		run->flush_due = p->flush_each && run->started % p->flush_each == 0;
	}
	slot->req.op = flush ? BLK_FLUSH : p->op;
	slot->req.offset = flush ? 0 : place * p->bytes;
	slot->req.length = flush ? 0 : p->bytes;
	run->in_flight++;
	blk_submit(run->disk, &slot->req);
}

static bool more(const struct run *run)
{
	return run->started < run->count || run->flush_due;
}

static void done(struct blk_request *req, enum blk_result result)
{
	struct slot *slot = container_of(req, struct slot, req);
	struct run *run = slot->run;

	if (result != BLK_OK) {
		fprintf(stderr, "bench-disk: %s: %s\n", blk_op_name(req->op),
			blk_result_name(result));
		exit(1);
	}
	run->in_flight--;
	if (more(run))
		start(run, slot);
	else if (run->in_flight == 0)
		loop_stop(run->loop);
}

static uint64_t measure(struct run *run)
{
	uint64_t from = clock_now_ns();

	for (unsigned i = 0; i < run->depth; i++) {
		struct slot *slot = &run->slots[i];

		slot->run = run;
		slot->iov =
		    (struct iovec){ aligned_alloc(4096, run->pattern->bytes), run->pattern->bytes };
		memset(slot->iov.iov_base, 'o', run->pattern->bytes);
		slot->req.iov = &slot->iov;
		slot->req.iov_count = 1;
		slot->req.done = done;
	}
	blk_plug(run->disk);
	for (unsigned i = 0; i < run->depth && more(run); i++)
		start(run, &run->slots[i]);
	blk_unplug(run->disk);
	loop_run(run->loop);
	return clock_now_ns() - from;
}

static const struct pattern *find_pattern(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(patterns); i++)
		if (strcmp(patterns[i].name, name) == 0)
			return &patterns[i];
	fprintf(stderr, "bench-disk: there is no pattern '%s'\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	static struct run run;
	struct disk_options options = { 0 };
	struct error err;
	double seconds;
	int fd;

	if (argc < 3) {
		fprintf(stderr, "usage: bench-disk IMAGE PATTERN [raw|vhdx] [uring|threads] "
				"[depth] [count]\n");
		return 2;
	}
	run.pattern = find_pattern(argv[2]);
	options.format = argc > 3 && strcmp(argv[3], "raw") == 0 ? DISK_RAW : DISK_VHDX;
	options.engine =
	    argc > 4 && strcmp(argv[4], "threads") == 0 ? DISK_ENGINE_THREADS : DISK_ENGINE_URING;
	run.depth = argc > 5 ? MIN((unsigned)atoi(argv[5]), MAX_DEPTH) : 32;
	run.count = argc > 6 ? strtoull(argv[6], NULL, 0) : 20000;
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0 || loop_new(&run.loop, &err) < 0 ||
	    disk_open(run.loop, fd, &options, &run.disk, &err) < 0) {
		fprintf(stderr, "bench-disk: %s: %s\n", argv[1],
			fd < 0 ? "cannot be opened" : err.text);
		return 1;
	}
	seconds = (double)measure(&run) / 1e9;
	printf("%.3f s  %.0f/s  %.1f MiB/s\n", seconds, (double)run.count / seconds,
	       (double)run.count * run.pattern->bytes / 1048576.0 / seconds);
	for (unsigned i = 0; i < run.depth; i++)
		free(run.slots[i].iov.iov_base);
	blk_close(run.disk, NULL);
	loop_free(run.loop);
	return 0;
}
