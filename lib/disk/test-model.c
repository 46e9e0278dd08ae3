/*
 * Random work on chains of disks, compared with a model in memory: reads, writes, unmaps, flushes,
 * several at a time, and between them the chain is reopened, gets a new leaf, loses one, is merged,
 * resized, compacted. OYAKO_LONG=1: 10 million operations;
 * OYAKO_MODEL_STEPS and OYAKO_MODEL_SEED choose others.
 */
#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/disk.h"
#include "disk/live.h"
#include "disk/maintain.h"
#include "disk/merge.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define SECTOR       512u
#define MAX_DEPTH    6u
#define IN_FLIGHT    8u
#define MAX_DISK     (24 * MIB)
#define MAX_TRANSFER (256 * KIB)
#define SHORT_RUN    20000u
#define LONG_RUN     1700000u /* of each test: 10 million in all */

struct world;

struct job {
	struct blk_request req;
	struct world *world;
	bool busy;
	uint8_t *buf;
	struct iovec iov[4];
};

/* What the sectors of a disk hold: each the same 8 bytes over and over, 0 for zeros. */
struct content {
	uint64_t size_bytes;
	uint64_t *tag;
};

struct world {
	enum disk_format format;
	uint32_t sector_bytes;
	struct loop *loop;
	struct blk *disk;
	int fds[MAX_DEPTH];              /* root first */
	struct content below[MAX_DEPTH]; /* of each layer when its child was made */
	unsigned depth;
	struct content now;
	struct job jobs[IN_FLIGHT];
	uint64_t random, next_tag;
	bool live;    /* the chain changes under the requests */
	bool merging; /* live: [merge_first, merge_into) */
	/* That merge was ended: its target is neither what it was nor what it will be. */
	bool unfinished;
	unsigned merge_first, merge_into;
	uint64_t done[16]; /* how often each kind of step was taken */
};

static uint64_t rnd(struct world *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (w->random >> 11) % below;
}

/* ---- content ---- */

static struct content copy_of(const struct content *from)
{
	struct content copy = { from->size_bytes, malloc(MAX_DISK / SECTOR * sizeof(uint64_t)) };

	assert_non_null(copy.tag);
	memcpy(copy.tag, from->tag, MAX_DISK / SECTOR * sizeof(uint64_t));
	return copy;
}

static void fill(uint8_t *buf, uint64_t tag)
{
	for (unsigned i = 0; i < SECTOR; i += sizeof(tag))
		memcpy(buf + i, &tag, sizeof(tag));
}

static void check_range(const struct world *w, uint64_t offset, const uint8_t *buf, uint64_t len)
{
	uint8_t wanted[SECTOR];

	for (uint64_t at = 0; at < len; at += SECTOR) {
		fill(wanted, w->now.tag[(offset + at) / SECTOR]);
		if (memcmp(wanted, buf + at, SECTOR) != 0)
			fail_msg("sector %lu differs: %#lx, not %#lx (step %lu, depth %u)",
				 (offset + at) / SECTOR, *(uint64_t *)(buf + at),
				 w->now.tag[(offset + at) / SECTOR], w->done[0], w->depth);
	}
}

static void check_all(struct world *w)
{
	uint8_t *buf = malloc(MIB);

	blk_drain(w->disk);
	assert_int_equal(blk_info(w->disk)->size_bytes, w->now.size_bytes);
	for (uint64_t at = 0; at < w->now.size_bytes; at += MIB) {
		uint64_t len = MIN(MIB, w->now.size_bytes - at);

		assert_int_equal(blk_read_now(w->disk, at, buf, len), BLK_OK);
		check_range(w, at, buf, len);
	}
	free(buf);
}

/* ---- requests ---- */

static void job_done(struct blk_request *req, enum blk_result result)
{
	struct job *job = container_of(req, struct job, req);

	if (result != BLK_OK)
		fail_msg("%s: %s", blk_op_name(req->op), blk_result_name(result));
	if (req->op == BLK_READ)
		check_range(job->world, req->offset, job->buf, req->length);
	job->busy = false;
}

static enum blk_op choose_op(struct world *w)
{
	unsigned n = (unsigned)rnd(w, 100);

	return n < 45   ? BLK_WRITE
	       : n < 83 ? BLK_READ
	       : n < 90 ? BLK_UNMAP
	       : n < 95 ? BLK_WRITE_ZEROES
			: BLK_FLUSH;
}

static void choose_range(struct world *w, struct blk_request *req)
{
	uint64_t max = rnd(w, 4) ? 16 * KIB : MAX_TRANSFER;
	uint64_t unit = w->sector_bytes;

	if (req->op >= BLK_UNMAP && rnd(w, 3) == 0) {
		max = 4 * MIB;
		unit = 512 * KIB;
	}
	req->offset = ALIGN_DOWN(rnd(w, w->now.size_bytes), unit);
	req->length = ALIGN_UP(1 + rnd(w, max), unit);
	req->length = MIN(req->length, w->now.size_bytes - req->offset);
}

static bool collides(const struct world *w, const struct blk_request *req)
{
	for (unsigned i = 0; i < IN_FLIGHT; i++) {
		const struct job *job = &w->jobs[i];

		if (job->busy && job->req.op != BLK_FLUSH &&
		    req->offset < job->req.offset + job->req.length &&
		    job->req.offset < req->offset + req->length)
			return true;
	}
	return false;
}

static void set_tags(struct world *w, const struct blk_request *req, uint64_t tag)
{
	for (uint64_t at = 0; at < req->length; at += SECTOR)
		w->now.tag[(req->offset + at) / SECTOR] = tag ? tag + at : 0;
}

/* The buffer in up to four pieces of any length. */
static void set_buffers(struct world *w, struct job *job)
{
	uint64_t at = 0;
	unsigned count = 1 + (unsigned)rnd(w, 4);

	for (unsigned i = 0; i < count; i++) {
		uint64_t len =
		    i + 1 == count ? job->req.length - at : rnd(w, job->req.length - at + 1);

		job->iov[i] = (struct iovec){ job->buf + at, len };
		at += len;
	}
	job->req.iov = job->iov;
	job->req.iov_count = count;
}

static void change_model(struct world *w, struct job *job)
{
	const struct blk_request *req = &job->req;

	if (req->op == BLK_WRITE) {
		set_tags(w, req, w->next_tag);
		w->next_tag += MIB;
		for (uint64_t at = 0; at < req->length; at += SECTOR)
			fill(job->buf + at, w->now.tag[(req->offset + at) / SECTOR]);
	} else if (req->op == BLK_WRITE_ZEROES ||
		   (req->op == BLK_UNMAP && blk_info(w->disk)->can_unmap)) {
		set_tags(w, req, 0);
	}
}

static void start_request(struct world *w)
{
	struct job *job = &w->jobs[rnd(w, IN_FLIGHT)];
	struct blk_request req = { .op = choose_op(w), .done = job_done };

	while (job->busy)
		loop_step(w->loop, 1000);
	if (req.op != BLK_FLUSH)
		choose_range(w, &req);
	if (req.op != BLK_FLUSH && collides(w, &req))
		return;
	req.flags = rnd(w, 30) == 0 ? BLK_FUA : 0;
	if (req.op == BLK_WRITE_ZEROES && rnd(w, 2))
		req.flags |= BLK_MAY_UNMAP;
	job->req = req;
	job->world = w;
	job->busy = true;
	if (req.op == BLK_READ || req.op == BLK_WRITE)
		set_buffers(w, job);
	change_model(w, job);
	blk_submit(w->disk, &job->req);
	if (rnd(w, 4) == 0)
		loop_step(w->loop, 0);
}

/* ---- the chain ---- */

static void must(int rc, const struct error *err)
{
	if (rc < 0)
		fail_msg("%s", err->text);
}

static void open_chain(struct world *w)
{
	struct disk_options options = { .engine =
					    rnd(w, 2) ? DISK_ENGINE_THREADS : DISK_ENGINE_AUTO };
	int fds[MAX_DEPTH];
	struct error err;

	for (unsigned i = 0; i < w->depth; i++)
		fds[i] = dup(w->fds[w->depth - 1 - i]);
	must((w->live ? live_open : disk_open_chain)(w->loop, fds, w->depth, &options, &w->disk,
						     &err),
	     &err);
}

static void close_chain(struct world *w)
{
	struct error err;

	blk_drain(w->disk);
	must(blk_close(w->disk, &err), &err);
	w->disk = NULL;
}

static void add_layer(struct world *w, const struct disk_create_options *options)
{
	int fd = memfd_create("disk", MFD_CLOEXEC);
	struct error err;

	must(disk_create(fd, options, &err), &err);
	w->fds[w->depth++] = fd;
}

static void add_child(struct world *w)
{
	struct disk_details parent;
	struct error err;

	must(disk_describe(w->fds[w->depth - 1], &parent, &err), &err);
	w->below[w->depth - 1] = copy_of(&w->now);
	add_layer(w, &(struct disk_create_options){ .format = w->format,
						    .type = DISK_DIFFERENCING,
						    .parent = &parent,
						    .parent_relative = ".\\parent" });
	disk_details_done(&parent);
}

static void drop_layer(struct world *w)
{
	close(w->fds[--w->depth]);
}

/* Back to what the parent holds. */
static void drop_leaf(struct world *w)
{
	drop_layer(w);
	free(w->now.tag);
	w->now = w->below[w->depth - 1];
}

/* True unless the format can't do that. */
static bool done(int rc, const struct error *err)
{
	if (rc == -ERR_UNSUPPORTED)
		return false;
	must(rc, err);
	return true;
}

/* Layers [first, into), counted from the leaf, are in layer `into` now. */
static void merged(struct world *w, unsigned first, unsigned into)
{
	unsigned target = w->depth - 1 - into, top = w->depth - 1 - first;

	for (unsigned i = target + 1; i <= top; i++)
		close(w->fds[i]);
	for (unsigned i = target; i < top; i++)
		free(w->below[i].tag);
	for (unsigned i = top; i < w->depth; i++) {
		w->below[i - top + target] = w->below[i];
		if (i > top)
			w->fds[i - top + target] = w->fds[i];
	}
	w->depth -= top - target;
}

static void merge_range(struct world *w, unsigned first, unsigned into)
{
	int fds[MAX_DEPTH];
	struct error err;

	for (unsigned i = 0; i < w->depth; i++)
		fds[i] = w->fds[w->depth - 1 - i];
	if (done(disk_merge(&(struct disk_merge_options){ .fds = fds,
							  .count = w->depth,
							  .first = first,
							  .into = into,
							  .relative = ".\\merged" },
			    NULL, &err),
		 &err))
		merged(w, first, into);
}

static void merge(struct world *w)
{
	unsigned first = (unsigned)rnd(w, w->depth - 1);

	merge_range(w, first, first + 1 + (unsigned)rnd(w, w->depth - 1 - first));
}

static void resize(struct world *w)
{
	uint64_t size = w->now.size_bytes, change = (1 + rnd(w, 4000)) * SECTOR;
	struct disk_resize_options options = { .unsafe_shrink = true };
	struct error err;

	if (w->format == DISK_VHD && w->depth > 1)
		return;
	/* A child that was made smaller shows its parent's content when it becomes larger again. */
	options.size_bytes = w->format == DISK_VHDX && w->depth == 1 && size > 4 * MIB && rnd(w, 2)
				 ? size - change
				 : MIN(size + change, MAX_DISK);
	if (!done(disk_resize(w->fds[w->depth - 1], &options, NULL, &err), &err))
		return;
	w->now.size_bytes = options.size_bytes;
	for (uint64_t at = MIN(size, options.size_bytes); at < MAX_DISK; at += SECTOR)
		w->now.tag[at / SECTOR] = 0;
}

static void compact(struct world *w)
{
	int fd = w->fds[rnd(w, w->depth)];
	struct disk_details details;
	struct error err;

	must(disk_describe(fd, &details, &err), &err);
	disk_details_done(&details);
	if (details.type != DISK_FIXED)
		done(disk_compact(fd, rnd(w, 2) ? DISK_COMPACT_FULL : DISK_COMPACT_QUICK, NULL,
				  &err),
		     &err);
}

static void relink(struct world *w)
{
	unsigned child = 1 + (unsigned)rnd(w, w->depth - 1);
	struct disk_details parent;
	char path[1000];
	struct error err;

	memset(path, 'p', sizeof(path));
	path[1 + rnd(w, sizeof(path) - 1)] = '\0';
	must(disk_describe(w->fds[child - 1], &parent, &err), &err);
	done(disk_set_parent(w->fds[child],
			     &(struct disk_parent_link){ .parent = &parent, .relative = path },
			     &err),
	     &err);
	disk_details_done(&parent);
}

static void on_finding(void *user, const struct disk_finding *finding)
{
	if (finding->severity == DISK_DAMAGE)
		fail_msg("%s at %#lx", finding->what, finding->offset);
}

static void check_files(struct world *w)
{
	struct disk_check_options options = { .report = on_finding };
	enum disk_severity worst;
	struct error err;

	for (unsigned i = 0; i < w->depth; i++)
		done(disk_check(w->fds[i], &options, &worst, &err), &err);
}

/* One structural change of the closed chain. */
static void restructure(struct world *w)
{
	unsigned kind = (unsigned)rnd(w, 10);

	if (w->unfinished)
		merge_range(w, w->merge_first, w->merge_into);
	w->unfinished = false;
	w->done[1 + kind]++;
	if (getenv("OYAKO_MODEL_TRACE"))
		print_message("step %lu: change %u at depth %u, %lu bytes\n", w->done[0], kind,
			      w->depth, w->now.size_bytes);
	if (kind < 3 && w->depth < MAX_DEPTH)
		add_child(w);
	else if (kind == 3 && w->depth > 1)
		drop_leaf(w);
	else if (kind == 4 && w->depth > 1)
		merge(w);
	else if (kind == 5)
		resize(w);
	else if (kind == 6)
		compact(w);
	else if (kind == 7 && w->depth > 1)
		relink(w);
	else if (kind == 8)
		check_files(w);
}

/* ---- changes under the requests ---- */

static void push(struct world *w)
{
	struct error err;

	if (w->depth == MAX_DEPTH || w->merging || w->unfinished)
		return;
	add_child(w);
	must(live_push(w->disk, dup(w->fds[w->depth - 1]), &err), &err);
}

static void live_merged(void *user, const struct error *err)
{
	struct world *w = user;

	w->merging = false;
	w->unfinished = err;
	if (!err)
		merged(w, w->merge_first, w->merge_into);
	else if (err->code != ERR_CANCELLED)
		fail_msg("%s", err->text);
}

static void merge_live(struct world *w)
{
	struct live_merge merge = {
		.relative = ".\\merged", .mark_fd = -1, .done = live_merged, .user = w
	};
	struct live_file files[3];
	struct error err;

	if (w->depth < 2 || w->merging)
		return;
	if (!w->unfinished) {
		w->merge_first = (unsigned)rnd(w, w->depth - 1);
		w->merge_into =
		    w->merge_first + 1 + (unsigned)rnd(w, w->depth - 1 - w->merge_first);
	}
	merge.first = w->merge_first;
	merge.into = w->merge_into;
	merge.files = files;
	for (unsigned i = merge.first ? merge.first - 1 : 0; i <= merge.into; i++)
		if (i + 1 == merge.first || i + 1 == merge.into || i == merge.into)
			files[merge.file_count++] =
			    (struct live_file){ i, dup(w->fds[w->depth - 1 - i]) };
	w->merging = true;
	must(live_merge_start(w->disk, &merge, &err), &err);
}

static void grow_live(struct world *w)
{
	uint64_t size = MIN(w->now.size_bytes + (1 + rnd(w, 1000)) * SECTOR, MAX_DISK);
	struct error err;

	if (w->merging || w->unfinished || (w->format == DISK_VHD && w->depth > 1))
		return;
	must(blk_grow(w->disk, size, &err), &err);
	assert_int_equal(blk_info(w->disk)->size_bytes, size);
	w->now.size_bytes = size;
}

static void change_live(struct world *w)
{
	unsigned kind = (unsigned)rnd(w, 9);

	w->done[1 + kind]++;
	if (getenv("OYAKO_MODEL_TRACE"))
		print_message("step %lu: live change %u at depth %u\n", w->done[0], kind, w->depth);
	if (kind < 3)
		push(w);
	else if (kind < 6)
		merge_live(w);
	else if (kind == 6 && w->merging && rnd(w, 4) == 0)
		live_merge_cancel(w->disk);
	else if (kind == 7)
		check_all(w);
	else if (kind == 8)
		grow_live(w);
}

static void step(struct world *w)
{
	w->done[0]++;
	if (rnd(w, 400) > 0) {
		start_request(w);
		return;
	}
	if (w->live && rnd(w, 8)) {
		change_live(w);
		return;
	}
	close_chain(w);
	restructure(w);
	open_chain(w);
	if (rnd(w, 4) == 0)
		check_all(w);
}

static void run_as(enum disk_format format, enum disk_type type, uint64_t size_bytes,
		   uint32_t block_bytes, uint64_t seed, bool live)
{
	struct world *w = calloc(1, sizeof(*w));
	const char *wanted = getenv("OYAKO_MODEL_STEPS"), *other_seed = getenv("OYAKO_MODEL_SEED");
	uint64_t steps = wanted                 ? strtoull(wanted, NULL, 0)
			 : getenv("OYAKO_LONG") ? LONG_RUN
						: SHORT_RUN;

	assert_non_null(w);
	w->format = format;
	w->sector_bytes = SECTOR;
	w->live = live;
	w->random = (seed + (other_seed ? strtoull(other_seed, NULL, 0) : 0)) * 0x9E3779B97F4A7C15;
	w->next_tag = MIB;
	w->now = (struct content){ size_bytes, calloc(MAX_DISK / SECTOR, sizeof(uint64_t)) };
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		w->jobs[i].buf = malloc(4 * MIB);
	assert_int_equal(loop_new(&w->loop, NULL), 0);
	add_layer(w, &(struct disk_create_options){ .format = format,
						    .type = type,
						    .size_bytes = size_bytes,
						    .block_bytes = block_bytes });
	open_chain(w);
	while (w->done[0] < steps)
		step(w);
	close_chain(w);
	open_chain(w);
	check_all(w);
	close_chain(w);
	while (w->depth > 1)
		drop_leaf(w);
	drop_layer(w);
	loop_free(w->loop);
	for (unsigned i = 0; i < IN_FLIGHT; i++)
		free(w->jobs[i].buf);
	free(w->now.tag);
	free(w);
}

static void run(enum disk_format format, enum disk_type type, uint64_t size_bytes,
		uint32_t block_bytes, uint64_t seed)
{
	run_as(format, type, size_bytes, block_bytes, seed, false);
}

static void test_vhd_dynamic(void **state)
{
	run(DISK_VHD, DISK_DYNAMIC, 9 * MIB + 3 * SECTOR, 512 * KIB, 1);
}

static void test_vhd_fixed(void **state)
{
	run(DISK_VHD, DISK_FIXED, 7 * MIB + SECTOR, 0, 2);
}

static void test_vhd_large_blocks(void **state)
{
	run(DISK_VHD, DISK_DYNAMIC, 12 * MIB, 0, 3);
}

static void test_vhdx_dynamic(void **state)
{
	run(DISK_VHDX, DISK_DYNAMIC, 13 * MIB + 3 * SECTOR, 1 * MIB, 4);
}

static void test_vhd_live(void **state)
{
	run_as(DISK_VHD, DISK_DYNAMIC, 12 * MIB + SECTOR, 512 * KIB, 5, true);
}

static void test_vhdx_live(void **state)
{
	run_as(DISK_VHDX, DISK_DYNAMIC, 12 * MIB + SECTOR, 1 * MIB, 6, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vhd_dynamic),      cmocka_unit_test(test_vhd_fixed),
		cmocka_unit_test(test_vhd_large_blocks), cmocka_unit_test(test_vhdx_dynamic),
		cmocka_unit_test(test_vhd_live),         cmocka_unit_test(test_vhdx_live),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
