/*
 * The block layer alone: patterns of reads and writes on an image file, no guest.
 *
 *	bench-disk PATTERN IMAGE[,PARENT...] [option=value ...]
 *	bench-disk create IMAGE [format=...] [size=MIB] [block=MIB] [parent=IMAGE] [type=fixed]
 *	bench-disk convert IMAGE source=IMAGE [format=...] [type=fixed]
 *
 * Options: format=raw|vhd|vhdx engine=uring|threads depth=N count=N cache=host|none flush=N (a
 *flush after so many writes; 0: one at the end). The image is opened as it is; see `run`, which
 *makes images and compares with others. Prints one line: seconds for all (a last flush of writes
 * included), operations per second, MiB per second.
 *
 * Patterns: seq-read, seq-write (1 MiB); read-4k, write-4k (random); first-4k (a write into each 2
 * MiB of the disk, in random order); open (seconds and memory to open it, count times).
 */
#include "base/clock.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/copy.h"
#include "blk/sync.h"
#include "disk/disk.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAX_DEPTH  256u
#define MAX_LAYERS 64u
#define SPREAD     (2 * MIB) /* of first-4k */

enum order { SEQUENTIAL, RANDOM, ONE_EACH };

struct pattern {
	const char *name;
	enum blk_op op;
	uint32_t bytes;
	enum order order;
};

static const struct pattern patterns[] = {
	{ "seq-read", BLK_READ, MIB, SEQUENTIAL }, { "seq-write", BLK_WRITE, MIB, SEQUENTIAL },
	{ "read-4k", BLK_READ, 4096, RANDOM },     { "write-4k", BLK_WRITE, 4096, RANDOM },
	{ "first-4k", BLK_WRITE, 4096, ONE_EACH },
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
	unsigned depth, in_flight, flush_each;
	uint64_t count, started, random;
	bool flush_due;
	struct slot slots[MAX_DEPTH];
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "bench-disk: %s: %s\n", what, why);
	exit(1);
}

/* ---- options ---- */

static const char *option(int argc, char **argv, const char *name, const char *otherwise)
{
	size_t len = strlen(name);

	for (int i = 3; i < argc; i++)
		if (strncmp(argv[i], name, len) == 0 && argv[i][len] == '=')
			return argv[i] + len + 1;
	return otherwise;
}

static uint64_t number(int argc, char **argv, const char *name, const char *otherwise)
{
	return strtoull(option(argc, argv, name, otherwise), NULL, 0);
}

static enum disk_format format_of(int argc, char **argv)
{
	const char *name = option(argc, argv, "format", "vhdx");

	for (enum disk_format f = DISK_RAW; f <= DISK_VHDX; f++)
		if (strcmp(disk_format_name(f), name) == 0)
			return f;
	die(name, "no such format");
	return DISK_PROBE;
}

static enum disk_type type_of(int argc, char **argv)
{
	if (option(argc, argv, "parent", NULL))
		return DISK_DIFFERENCING;
	return strcmp(option(argc, argv, "type", "dynamic"), "fixed") == 0 ? DISK_FIXED
									   : DISK_DYNAMIC;
}

/* ---- creating ---- */

static int create(int argc, char **argv)
{
	const char *parent_path = option(argc, argv, "parent", NULL);
	struct disk_create_options options = {
		.format = format_of(argc, argv),
		.type = type_of(argc, argv),
		.size_bytes = number(argc, argv, "size", "0") * MIB,
		.block_bytes = (uint32_t)(number(argc, argv, "block", "0") * MIB),
		.parent_absolute = parent_path,
	};
	struct disk_details parent = { 0 };
	int fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct error err;

	if (fd < 0)
		die(argv[2], "can't be created");
	if (parent_path) {
		if (disk_describe(open(parent_path, O_RDONLY | O_CLOEXEC), &parent, &err) < 0)
			die(parent_path, err.text);
		options.parent = &parent;
	}
	if (disk_create(fd, &options, &err) < 0)
		die(argv[2], err.text);
	disk_details_done(&parent);
	close(fd);
	return 0;
}

/* ---- converting ---- */

static int convert(struct loop *loop, int argc, char **argv)
{
	struct disk_create_options options = { .format = format_of(argc, argv),
					       .type = type_of(argc, argv),
					       .sparse = true };
	const char *source_path = option(argc, argv, "source", "");
	int from = open(source_path, O_RDONLY | O_CLOEXEC);
	int to = open(argv[2], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct blk_layers source;
	struct blk_copy copy = { .loop = loop, .source = &source };
	struct blk *disk;
	struct error err;

	if (from < 0 || to < 0)
		die(from < 0 ? source_path : argv[2], "can't be opened");
	if (disk_open(loop, from, &(struct disk_options){ .read_only = true }, &disk, &err) < 0)
		die(source_path, err.text);
	options.size_bytes = blk_info(disk)->size_bytes;
	if (disk_create(to, &options, &err) < 0 ||
	    disk_open(loop, to, &(struct disk_options){ .format = options.format }, &copy.target,
		      &err) < 0)
		die(argv[2], err.text);
	source = (struct blk_layers){ &disk, 1 };
	if (blk_copy(&copy, &err) < 0 || blk_close(copy.target, &err) < 0)
		die("convert", err.text);
	blk_close(disk, NULL);
	return 0;
}

/* ---- opening ---- */

static void open_image(struct run *run, char *paths, int argc, char **argv)
{
	struct disk_options options = {
		.format = format_of(argc, argv),
		.engine = strcmp(option(argc, argv, "engine", "uring"), "threads") == 0
			      ? DISK_ENGINE_THREADS
			      : DISK_ENGINE_URING,
		.bypass_cache = strcmp(option(argc, argv, "cache", "host"), "none") == 0,
	};
	int fds[MAX_LAYERS];
	unsigned count = 0;
	struct error err;

	for (char *path = strtok(paths, ","); path && count < MAX_LAYERS;
	     path = strtok(NULL, ",")) {
		fds[count] = open(path, O_RDWR | O_CLOEXEC);
		if (fds[count++] < 0)
			die(path, "can't be opened");
	}
	if (disk_open_chain(run->loop, fds, count, &options, &run->disk, &err) < 0)
		die(argv[2], err.text);
}

static long resident_kib(void)
{
	char line[256];
	long kib = 0;
	FILE *f = fopen("/proc/self/status", "r");

	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "VmRSS: %ld", &kib);
	if (f)
		fclose(f);
	return kib;
}

static int measure_opening(struct run *run, int argc, char **argv)
{
	long before = resident_kib(), most = 0;
	uint64_t ns = 0;

	for (uint64_t i = 0; i < run->count; i++) {
		char *paths = strdup(argv[2]);
		uint64_t from = clock_now_ns();

		open_image(run, paths, argc, argv);
		ns += clock_now_ns() - from;
		most = MAX(most, resident_kib() - before);
		blk_close(run->disk, NULL);
		free(paths);
	}
	printf("%.6f s  %ld KiB\n", (double)ns / 1e9 / (double)run->count, most);
	return 0;
}

/* ---- running ---- */

static uint64_t next_random(struct run *run)
{
	run->random ^= run->random << 13;
	run->random ^= run->random >> 7;
	run->random ^= run->random << 17;
	return run->random;
}

static uint64_t next_offset(struct run *run)
{
	const struct pattern *p = run->pattern;
	uint64_t size = blk_info(run->disk)->size_bytes, spots = size / SPREAD;

	switch (p->order) {
	case SEQUENTIAL:
		return run->started % (size / p->bytes) * p->bytes;
	case RANDOM:
		return next_random(run) % (size / p->bytes) * p->bytes;
	default: /* the odd factor goes through all spots if they are a power of two */
		return run->started * UINT64_C(0x9e3779b1) % spots * SPREAD +
		       next_random(run) % (SPREAD / p->bytes) * p->bytes;
	}
}

static void start(struct run *run, struct slot *slot)
{
	const struct pattern *p = run->pattern;
	bool flush = run->flush_due;

	run->flush_due = false;
	slot->req.op = flush ? BLK_FLUSH : p->op;
	slot->req.offset = flush ? 0 : next_offset(run);
	slot->req.length = flush ? 0 : p->bytes;
	if (!flush) {
		run->started++;
		run->flush_due =
		    p->op == BLK_WRITE && run->flush_each && run->started % run->flush_each == 0;
	}
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

	if (result != BLK_OK)
		die(blk_op_name(req->op), blk_result_name(result));
	run->in_flight--;
	if (more(run))
		start(run, slot);
	else if (run->in_flight == 0)
		loop_stop(run->loop);
}

static uint64_t measure(struct run *run)
{
	/* In one piece, as fio and qemu-img have it: the host may give it large pages. */
	size_t bytes = run->pattern->bytes, all = ALIGN_UP(run->depth * bytes, 2 * MIB);
	uint8_t *buffers = aligned_alloc(2 * MIB, all);
	uint64_t from;

	if (!buffers)
		die("buffers", "no memory");
	memset(buffers, 'o', all);
	from = clock_now_ns();
	for (unsigned i = 0; i < run->depth; i++) {
		struct slot *slot = &run->slots[i];

		slot->run = run;
		slot->iov = (struct iovec){ buffers + i * bytes, bytes };
		slot->req.iov = &slot->iov;
		slot->req.iov_count = 1;
		slot->req.done = done;
	}
	blk_plug(run->disk);
	for (unsigned i = 0; i < run->depth && more(run); i++)
		start(run, &run->slots[i]);
	blk_unplug(run->disk);
	loop_run(run->loop);
	if (run->pattern->op == BLK_WRITE)
		blk_flush_now(run->disk);
	from = clock_now_ns() - from;
	free(buffers);
	return from;
}

static const struct pattern *find_pattern(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(patterns); i++)
		if (strcmp(patterns[i].name, name) == 0)
			return &patterns[i];
	die(name, "no such pattern");
	return NULL;
}

int main(int argc, char **argv)
{
	static struct run run;
	double seconds;

	if (argc < 3)
		die("usage", "bench-disk PATTERN|create|open IMAGE[,PARENT...] [option=value ...]");
	if (strcmp(argv[1], "create") == 0)
		return create(argc, argv);
	if (loop_new(&run.loop, NULL) < 0)
		die("loop", "none");
	run.count = number(argc, argv, "count", "100");
	if (strcmp(argv[1], "convert") == 0)
		return convert(run.loop, argc, argv);
	if (strcmp(argv[1], "open") == 0)
		return measure_opening(&run, argc, argv);
	run.pattern = find_pattern(argv[1]);
	run.random = number(argc, argv, "seed", "88172645463325252");
	run.depth = (unsigned)MIN(number(argc, argv, "depth", "32"), (uint64_t)MAX_DEPTH);
	run.flush_each = (unsigned)number(argc, argv, "flush", "0");
	open_image(&run, argv[2], argc, argv);
	seconds = (double)measure(&run) / 1e9;
	printf("%.4f s  %.0f/s  %.1f MiB/s\n", seconds, (double)run.count / seconds,
	       (double)run.count * run.pattern->bytes / 1048576.0 / seconds);
	blk_close(run.disk, NULL);
	loop_free(run.loop);
	return 0;
}
