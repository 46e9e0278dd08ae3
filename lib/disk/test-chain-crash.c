/*
 * Power cuts, and a host that fails, under what is done to whole chains: layers merged under a
 * running guest and offline, a checkpoint's new leaf, growing and new paths while the guest works,
 * a disk copied into a new one. The library works as it does for others, on descriptors; but what
 * opens a file in memory that is watched gets an engine that records (file-mem.h).
 *
 * For each cut: the files that may make up the disk then open, pass our checks and hold what the
 * guest had flushed.
 */
#include "base/loop.h"
#include "base/macros.h"
#include "base/mark.h"
#include "blk/copy.h"
#include "blk/sync.h"
#include "disk/blk-pattern.h"
#include "disk/guest-record.h"
#include "disk/live.h"
#include "disk/new-image.h"
#include "disk/track-impl.h"
#include "disk/vhd.h"
#include "disk/vhdx.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define MAX_BYTES  (64 * MIB)
#define DISK_BYTES (12 * MIB)
#define SPOT_BYTES (64 * KIB)
#define SPOTS      12u
#define MAX_FILES  6u
#define SECTOR     512u
#define FOREVER    UINT64_MAX

/* Files, the leaf first, that make up the disk. */
struct candidate {
	unsigned files[MAX_FILES], count;
	/* The disk is these, and nothing else, from one moment to the other. */
	uint64_t must_from, must_until;
	/* It may be: if their links are right they hold what they should. */
	uint64_t may_from, may_until;
};

struct world {
	struct loop *loop;
	struct cut *clock;
	enum disk_format format;
	struct {
		int fd;
		struct cut *cut;
		struct file *left; /* by the cut that is being checked; NULL: not asked for yet */
	} files[MAX_FILES];
	unsigned file_count;
	/* The cut that is being checked. */
	uint64_t moment;
	enum cut_style style;
	/* The file that tracks the disk's changes, from a moment on; 0: none. */
	unsigned track_file;
	uint64_t tracked_from;
	struct guest guest;
	struct candidate candidates[2];
	unsigned candidate_count;
	long fault_after; /* the n-th operation since it is armed fails; 0: none */
	bool armed;
	int fault_errno;
	bool fault_performs; /* what fails was done all the same */
	long kill_after;     /* after the n-th operation nothing is done any more; 0: never */
	bool killed;
	int mark_fd;
	uint64_t marked_at;
	bool merging, failed;
	uint64_t random;
};

static unsigned long cut_points; /* that were checked */
static struct world *the_world;  /* while files are watched */

static uint64_t next_random(struct world *w)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random >> 8;
}

static void must(int rc, const struct error *err)
{
	if (rc < 0)
		fail_msg("%s", err->text);
}

/* ---- what the library calls is recorded ---- */

int __real_file_open_uring(struct loop *loop, int fd, struct file **ret, struct error *err);
int __real_file_open_blocking(int fd, enum file_locking locking, struct file **ret,
			      struct error *err);
int __real_new_image_write(int fd, uint64_t offset, const void *buf, size_t len, struct error *err);
int __real_new_image_sync(int fd, struct error *err);
int __real_mark_set(int fd, struct error *err);
int __wrap_file_open_uring(struct loop *loop, int fd, struct file **ret, struct error *err);
int __wrap_file_open_blocking(int fd, enum file_locking locking, struct file **ret,
			      struct error *err);
int __wrap_new_image_write(int fd, uint64_t offset, const void *buf, size_t len, struct error *err);
int __wrap_new_image_sync(int fd, struct error *err);
int __wrap_mark_set(int fd, struct error *err);

static struct cut *cut_of(int fd)
{
	struct stat wanted, st;

	if (!the_world || fstat(fd, &wanted) < 0)
		return NULL;
	for (unsigned i = 0; i < the_world->file_count; i++)
		if (fstat(the_world->files[i].fd, &st) == 0 && st.st_ino == wanted.st_ino)
			return the_world->files[i].cut;
	return NULL;
}

static int fd_of(const struct world *w, const struct cut *cut)
{
	for (unsigned i = 0; i < w->file_count; i++)
		if (w->files[i].cut == cut)
			return w->files[i].fd;
	return -1;
}

/* As a write that reached the host's cache but not its storage: the file reads so, until a cut. */
static void perform_all_the_same(struct world *w, const struct cut *cut,
				 const struct file_request *req)
{
	struct file_request again = *req;
	int fd = fd_of(w, cut);

	while (fd >= 0 && !file_advance(&again, file_perform(fd, &again)))
		;
}

static int fault(void *user, const struct file_request *req)
{
	struct world *w = the_world;

	if (w && w->killed && w->kill_after == 0)
		return -EIO;
	if (w && w->killed)
		w->kill_after = 0; /* this was the last one */
	if (!w || !w->armed || !w->fault_after || --w->fault_after > 0)
		return 0;
	if (w->fault_performs && req && (req->op == FILE_WRITE || req->op == FILE_WRITE_DURABLE))
		perform_all_the_same(w, user, req);
	return -w->fault_errno;
}

/* The last operation of a process that is killed is done but for its sync. */
static void observe(void *user, enum file_mem_event event, const struct file_request *req,
		    uint64_t size)
{
	struct world *w = the_world;

	if (w->killed && (event != FILE_MEM_COMPLETED || req->result < 0))
		return;
	if (event == FILE_MEM_SUBMITTED && w->kill_after > 0 && --w->kill_after == 0) {
		w->killed = true;
		w->kill_after = -1;
		if (req->op == FILE_WRITE_DURABLE)
			((struct file_request *)req)->op = FILE_WRITE;
	}
	cut_observe(user, event, req, size);
}

static int open_recorded(struct loop *loop, int fd, struct cut *cut, struct file **ret)
{
	struct file_mem_options options = { .max_bytes = MAX_BYTES,
					    .fd = fd,
					    .seed = next_random(the_world) | 1,
					    .observe = observe,
					    .user = cut,
					    .fault = fault };

	return file_mem_new(loop, &options, 0, ret);
}

int __wrap_file_open_uring(struct loop *loop, int fd, struct file **ret, struct error *err)
{
	struct cut *cut = cut_of(fd);

	return cut ? open_recorded(loop, fd, cut, ret) : __real_file_open_uring(loop, fd, ret, err);
}

int __wrap_file_open_blocking(int fd, enum file_locking locking, struct file **ret,
			      struct error *err)
{
	struct cut *cut = cut_of(fd);

	return cut ? open_recorded(the_world->loop, fd, cut, ret)
		   : __real_file_open_blocking(fd, locking, ret, err);
}

/* What writes a new image goes without an engine, and sets its size before. */
static int record_new_image(int fd, struct file_request *req, struct error *err)
{
	struct cut *cut = cut_of(fd);
	uint64_t size = (uint64_t)lseek(fd, 0, SEEK_END);
	int rc = fault(NULL, NULL);

	if (rc < 0)
		return error_set_errno(err, -rc, "writing the new image");
	if (req->op != FILE_SYNC)
		cut_observe(cut, FILE_MEM_RESIZED, NULL, size);
	cut_observe(cut, FILE_MEM_SUBMITTED, req, size);
	if (req->op == FILE_SYNC)
		rc = __real_new_image_sync(fd, err);
	else
		rc = __real_new_image_write(fd, req->offset, req->iov->iov_base, req->length, err);
	cut_observe(cut, FILE_MEM_COMPLETED, req, size);
	return rc;
}

int __wrap_new_image_write(int fd, uint64_t offset, const void *buf, size_t len, struct error *err)
{
	struct iovec iov = { (void *)buf, len };
	struct file_request req = {
		.op = FILE_WRITE, .offset = offset, .length = len, .iov = &iov, .iov_count = 1
	};

	return cut_of(fd) ? record_new_image(fd, &req, err)
			  : __real_new_image_write(fd, offset, buf, len, err);
}

int __wrap_new_image_sync(int fd, struct error *err)
{
	struct file_request req = { .op = FILE_SYNC };

	return cut_of(fd) ? record_new_image(fd, &req, err) : __real_new_image_sync(fd, err);
}

int __wrap_mark_set(int fd, struct error *err)
{
	int rc = __real_mark_set(fd, err);

	if (rc == 0 && the_world && fd == the_world->mark_fd)
		the_world->marked_at = cut_tick(the_world->clock);
	return rc;
}

/* ---- the chain ---- */

/* What lies at the bottom of every chain. */
static uint64_t root_value(uint64_t offset)
{
	return UINT64_C(1) << 40 | offset;
}

static uint64_t spot_offset(unsigned spot)
{
	return ALIGN_DOWN((DISK_BYTES - SPOT_BYTES) / (SPOTS - 1) * spot, SPOT_BYTES);
}

/* A file that is recorded from now on; returns its number. */
static unsigned watch(struct world *w, int fd)
{
	assert_true(w->file_count < MAX_FILES);
	w->files[w->file_count].fd = fd;
	w->files[w->file_count].cut = cut_new(w->clock);
	cut_initial_file(w->files[w->file_count].cut, fd);
	return w->file_count++;
}

static int new_image(const struct world *w, int parent_fd)
{
	struct disk_create_options options = { .format = w->format,
					       .type = DISK_DYNAMIC,
					       .size_bytes = DISK_BYTES,
					       .block_bytes =
						   w->format == DISK_VHD ? 512 * KIB : MIB };
	struct disk_details parent = { 0 };
	int fd = memfd_create("disk", MFD_CLOEXEC);
	struct error err;

	if (parent_fd >= 0) {
		must(disk_describe(parent_fd, &parent, &err), &err);
		options.type = DISK_DIFFERENCING;
		options.size_bytes = 0;
		options.parent = &parent;
		options.parent_relative = ".\\parent";
	}
	must(disk_create(fd, &options, &err), &err);
	disk_details_done(&parent);
	return fd;
}

/* Which layer's content of a spot shows: every layer above the root has some spots. */
static unsigned top_layer(unsigned spot, unsigned depth)
{
	return MIN(spot % 5, depth - 1);
}

/* What shows is what the pattern says, and what is covered by upper layers isn't. */
static void fill_spot(struct blk *disk, unsigned spot, bool shows)
{
	uint64_t words[SPOT_BYTES / 8];

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = root_value(spot_offset(spot) + ALIGN_DOWN(i * 8, SECTOR)) |
			   (shows ? 0 : UINT64_C(1) << 50);
	assert_int_equal(blk_write_now(disk, spot_offset(spot), words, sizeof(words)), BLK_OK);
}

/* fds: this layer, and those below it. */
static void fill_layer(struct world *w, const int *fds, unsigned layer, unsigned depth)
{
	int own[MAX_FILES];
	struct blk *disk;
	struct error err;

	for (unsigned i = 0; i < depth - layer; i++)
		own[i] = dup(fds[i]);
	must(disk_open_chain(w->loop, own, depth - layer, NULL, &disk, &err), &err);
	for (unsigned spot = 0; spot < SPOTS; spot++)
		if (layer + 1 == depth || top_layer(spot, depth) == layer)
			fill_spot(disk, spot, top_layer(spot, depth) == layer);
	must(blk_close(disk, &err), &err);
}

/* A chain of so many files, number 0 the leaf. */
static void start(struct world *w, enum disk_format format, unsigned depth, uint64_t seed)
{
	int fds[MAX_FILES];
	struct error err;

	*w = (struct world){ .format = format, .random = seed * 0x9E3779B97F4A7C15, .mark_fd = -1 };
	must(loop_new(&w->loop, &err), &err);
	w->clock = cut_new(NULL);
	w->guest = (struct guest){ .clock = w->clock, .initial = root_value };
	for (unsigned i = depth; i-- > 0;) {
		fds[i] = new_image(w, i + 1 < depth ? fds[i + 1] : -1);
		fill_layer(w, fds + i, i, depth);
	}
	for (unsigned i = 0; i < depth; i++)
		watch(w, fds[i]);
	the_world = w;
}

static void finish(struct world *w)
{
	the_world = NULL;
	guest_done(&w->guest);
	for (unsigned i = 0; i < w->file_count; i++) {
		cut_free(w->files[i].cut);
		close(w->files[i].fd);
	}
	cut_free(w->clock);
	loop_free(w->loop);
}

/* ---- the guest's work ---- */

static void open_live(struct world *w, unsigned depth)
{
	int fds[MAX_FILES];
	struct error err;

	for (unsigned i = 0; i < depth; i++)
		fds[i] = dup(w->files[i].fd);
	must(live_open(w->loop, fds, depth, NULL, &w->guest.disk, &err), &err);
	w->armed = true;
}

static void change_something(struct world *w)
{
	uint64_t start = next_random(w) % (SPOT_BYTES / SECTOR);
	uint64_t count = 1 + next_random(w) % MIN(UINT64_C(24), SPOT_BYTES / SECTOR - start);
	uint64_t offset = spot_offset(next_random(w) % SPOTS) + start * SECTOR;
	unsigned dice = next_random(w) % 12;

	if (dice < 2)
		guest_submit(&w->guest, BLK_FLUSH, 0, 0, 0);
	else if (!guest_overlaps(&w->guest, offset, count * SECTOR))
		guest_submit(&w->guest, dice == 2 ? BLK_WRITE_ZEROES : BLK_WRITE, offset,
			     count * SECTOR,
			     dice == 2   ? BLK_MAY_UNMAP
			     : dice == 3 ? BLK_FUA
					 : 0);
}

static void work(struct world *w, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		while (w->guest.in_flight >= 6)
			loop_step(w->loop, 100);
		change_something(w);
		if (next_random(w) % 3 == 0)
			loop_step(w->loop, 0);
	}
}

static void close_disk(struct world *w)
{
	struct error err;
	int rc;

	blk_drain(w->guest.disk);
	rc = blk_close(w->guest.disk, &err);
	if (!w->guest.may_fail)
		must(rc, &err);
}

/* ---- checking ---- */

static int refuse_writes(void *user, const struct file_request *req)
{
	return req && (req->op == FILE_READ || req->op == FILE_SYNC) ? 0 : -EROFS;
}

/* What a cut leaves is put together once. All that read it have its bytes in common; after the
 * first that may write, drop_left(). */
static struct file *left_by(struct world *w, unsigned number, bool read_only)
{
	struct file_mem_options options = { .max_bytes = MAX_BYTES };
	struct file **left = &w->files[number].left, *file;

	if (!*left)
		*left = cut_file(w->files[number].cut, w->loop, w->moment, w->style,
				 w->moment * MAX_FILES + number, &options);
	options.bytes = file_mem_bytes(*left);
	options.fault = read_only ? refuse_writes : NULL;
	assert_int_equal(file_mem_new(w->loop, &options, (*left)->size_bytes, &file), 0);
	return file;
}

static void drop_left(struct world *w)
{
	for (unsigned i = 0; i < w->file_count; i++) {
		if (w->files[i].left)
			file_close(w->files[i].left);
		w->files[i].left = NULL;
	}
}

static int describe(struct world *w, unsigned number, struct disk_details *ret)
{
	struct file *file = left_by(w, number, true);
	int rc = (w->format == DISK_VHD ? vhd_describe : vhdx_describe)(file, ret, NULL);

	file_close(file);
	if (rc == 0)
		ret->format = w->format;
	return rc;
}

static bool links_right(struct world *w, const struct candidate *c)
{
	struct disk_details child, parent;
	int rc = describe(w, c->files[0], &child);

	if (rc < 0)
		return false;
	for (unsigned i = 1; rc == 0 && i < c->count; i++) {
		rc = describe(w, c->files[i], &parent);
		if (rc < 0)
			break;
		rc = child.type == DISK_DIFFERENCING ? disk_check_parent(&child, &parent, NULL)
						     : -ERR_INVALID;
		disk_details_done(&child);
		child = parent;
	}
	if (child.type == DISK_DIFFERENCING)
		rc = -ERR_INVALID;
	disk_details_done(&child);
	return rc == 0;
}

static void on_finding(void *user, const struct disk_finding *finding)
{
	if (finding->severity == DISK_DAMAGE && !finding->repairable)
		fail_msg("%s at %#lx", finding->what, finding->offset);
}

static void check_file(struct world *w, unsigned number)
{
	struct disk_check_options options = { .report = on_finding };
	struct file *file = left_by(w, number, true);
	enum disk_severity worst;
	struct error err;

	must((w->format == DISK_VHD ? vhd_check : vhdx_check)(file, &options, &worst, &err), &err);
	file_close(file);
}

static void check_content(struct world *w, const struct candidate *c, bool read_only)
{
	struct blk *disk = NULL;
	struct error err;

	for (unsigned i = c->count; i-- > 0;) {
		struct disk_options options = { .read_only = read_only || i > 0, .parent = disk };

		if ((w->format == DISK_VHD ? vhd_open : vhdx_open)(
			left_by(w, c->files[i], options.read_only), &options, &disk, &err) < 0)
			fail_msg("cut at %lu: file %u: %s", w->moment, c->files[i], err.text);
	}
	for (unsigned i = 0; i < SPOTS; i++)
		guest_check(&w->guest, disk, spot_offset(i), SPOT_BYTES, w->moment);
	blk_close(disk, NULL);
}

static struct blk *any_disk(struct world *w)
{
	return blk_pattern_new(w->loop, DISK_BYTES, SECTOR, root_value);
}

/* What tracks changes is the file of the disk that there is now. */
static void check_track(struct world *w, const struct candidate *c)
{
	struct disk_details details;
	struct blk *tracked;
	struct error err;

	if (!w->track_file || w->moment < w->tracked_from)
		return;
	assert_int_equal(describe(w, c->files[0], &details), 0);
	if (track_attach(any_disk(w), left_by(w, w->track_file, false),
			 &(struct track_options){ .link_now = details.link_id }, &tracked,
			 &err) < 0)
		fail_msg("cut at %lu: %s", w->moment, err.text);
	disk_details_done(&details);
	assert_int_equal(blk_close(tracked, NULL), 0);
}

static void check_cut(struct world *w, uint64_t moment, enum cut_style style)
{
	bool found = false;

	cut_points++;
	w->moment = moment;
	w->style = style;
	for (unsigned i = 0; i < w->candidate_count; i++) {
		const struct candidate *c = &w->candidates[i];
		bool must_be = c->must_from <= moment && moment <= c->must_until;
		bool may_be = c->may_from <= moment && moment <= c->may_until;

		if (!must_be && !(may_be && links_right(w, c)))
			continue;
		if (must_be && !links_right(w, c))
			fail_msg("cut at %lu: the links of candidate %u are wrong", moment, i);
		for (unsigned k = 0; k < c->count; k++)
			check_file(w, c->files[k]);
		check_content(w, c, true);
		if (must_be) {
			check_track(w, c);
			check_content(w, c, false);
			drop_left(w);
		}
		found = true;
	}
	drop_left(w);
	if (!found)
		fail_msg("cut at %lu: nothing makes up the disk", moment);
}

static struct candidate *candidate(struct world *w, unsigned from, unsigned count)
{
	struct candidate *c = &w->candidates[w->candidate_count++];

	*c = (struct candidate){ .count = count, .must_from = FOREVER, .may_from = FOREVER };
	for (unsigned i = 0; i < count; i++)
		c->files[i] = from + i;
	return c;
}

/* ---- scenarios ---- */

/* What is done; the candidates are named. A failure is noted. */
typedef void scenario(struct world *w);

static void note(struct world *w, int rc, const struct error *err)
{
	if (rc == 0)
		return;
	if (!w->guest.may_fail)
		fail_msg("%s", err->text);
	assert_true(err->text[0]);
	w->failed = true;
}

/* A checkpoint: file 2 comes above files 0 and 1. */
static void push(struct world *w)
{
	struct candidate *old = candidate(w, 0, 2), *with = candidate(w, 0, 0);
	unsigned leaf;
	struct error err;
	int rc;

	open_live(w, 2);
	work(w, 40);
	w->armed = false;
	leaf = watch(w, new_image(w, w->files[0].fd));
	w->armed = true;
	with->may_from = cut_now(w->clock);
	rc = live_push(w->guest.disk, dup(w->files[leaf].fd), &err);
	note(w, rc, &err);
	*with = (struct candidate){ .files = { leaf, 0, 1 },
				    .count = 3,
				    .must_from = rc == 0 ? cut_tick(w->clock) : FOREVER,
				    .must_until = FOREVER,
				    .may_from = with->may_from,
				    .may_until = rc == 0 ? FOREVER : 0 };
	old->must_from = 0;
	old->must_until = rc == 0 ? with->must_from : FOREVER;
	work(w, 40);
	close_disk(w);
}

static void merge_done(void *user, const struct error *err)
{
	struct world *w = user;

	w->merging = false;
	note(w, err ? -(int)err->code : 0, err);
}

/* Its name stays as long as the test: a mark without one was given up. */
static char mark_folder[] = "/tmp/chain-crash-XXXXXX";

static int new_mark(void)
{
	int folder = open(mark_folder, O_DIRECTORY | O_CLOEXEC), fd;
	struct error err;

	assert_true(folder >= 0);
	unlinkat(folder, "mark", 0);
	fd = mark_make(folder, "mark", &err);
	must(fd, &err);
	close(folder);
	return fd;
}

/* Layers [first, into) under the guest. */
static void merge_live(struct world *w, unsigned depth, unsigned first, unsigned into)
{
	struct candidate *old = candidate(w, 0, depth), *merged = candidate(w, into, depth - into);
	struct live_file files[MAX_FILES];
	struct live_merge merge = { .first = first,
				    .into = into,
				    .files = files,
				    .relative = ".\\merged",
				    .done = merge_done,
				    .user = w };
	uint64_t begun;
	struct error err;
	int rc;

	merge.mark_fd = new_mark();
	w->mark_fd = merge.mark_fd;
	for (unsigned i = first ? first - 1 : 0; i <= into; i++)
		if (i + 1 == first || i + 1 == into || i == into)
			files[merge.file_count++] = (struct live_file){ i, dup(w->files[i].fd) };
	open_live(w, depth);
	work(w, 20);
	begun = cut_now(w->clock);
	w->merging = true;
	rc = live_merge_start(w->guest.disk, &merge, &err);
	if (rc < 0)
		merge_done(w, &err);
	while (w->merging) {
		work(w, 1);
		loop_step(w->loop, 0);
	}
	old->must_from = 0;
	old->must_until = w->marked_at ? w->marked_at : FOREVER;
	if (w->marked_at) {
		merged->must_from = w->marked_at;
		merged->must_until = FOREVER;
	}
	if (first > 0) {
		memmove(merged->files + first, merged->files,
			merged->count * sizeof(merged->files[0]));
		for (unsigned i = 0; i < first; i++)
			merged->files[i] = i;
		merged->count += first;
		/* The link above is switched before the mark is set. */
		old->must_until = w->marked_at || w->failed ? begun : FOREVER;
		old->may_from = merged->may_from = begun;
		old->may_until = merged->may_until = w->marked_at ? w->marked_at : FOREVER;
	}
	work(w, 20);
	close_disk(w);
}

static void merge_leaf(struct world *w)
{
	merge_live(w, 3, 0, 1);
}

static void merge_all(struct world *w)
{
	merge_live(w, 3, 0, 2);
}

static void merge_middle(struct world *w)
{
	merge_live(w, 4, 1, 2);
}

static void track_changes_of(struct world *w, int leaf_fd)
{
	struct track_options options = { .create = true };
	int fd = memfd_create("track", MFD_CLOEXEC);
	struct disk_details details;
	struct blk *tracked;
	struct error err;

	must(disk_describe(leaf_fd, &details, &err), &err);
	options.link_now = options.link_next = details.link_id;
	disk_details_done(&details);
	must(track_new(any_disk(w), &tracked, &err), &err);
	must(track_start(tracked, w->loop, dup(fd), &options, &err), &err);
	must(blk_close(tracked, &err), &err);
	w->track_file = watch(w, fd);
	/* What failed before may be there all the same after a cut: with another link it is another
	 * disk than was tracked, and that is what it says then. */
	w->tracked_from = w->guest.may_fail && w->fault_after == 0 ? FOREVER : cut_now(w->clock);
}

/* The guest works, then the layers are merged while nobody uses them. */
static void merge_offline(struct world *w)
{
	struct candidate *old = candidate(w, 0, 3), *merged = candidate(w, 1, 2);
	int fds[3] = { w->files[0].fd, w->files[1].fd, w->files[2].fd };
	struct disk_merge_options options = { .fds = fds, .count = 3, .first = 0, .into = 1 };
	struct error err;
	int rc;

	open_live(w, 3);
	work(w, 40);
	close_disk(w);
	w->armed = false;
	track_changes_of(w, fds[0]);
	options.track_fd = &w->files[w->track_file].fd;
	w->armed = true;
	rc = disk_merge(&options, NULL, &err);
	note(w, rc, &err);
	old->must_until = FOREVER;
	old->must_from = 0;
	if (rc == 0) {
		merged->must_from = cut_tick(w->clock);
		merged->must_until = FOREVER;
	}
}

static void one_chain(struct world *w, unsigned depth)
{
	struct candidate *c = candidate(w, 0, depth);

	c->must_from = 0;
	c->must_until = FOREVER;
	open_live(w, depth);
	work(w, 25);
}

static void grow(struct world *w)
{
	struct error err;

	one_chain(w, w->file_count);
	note(w, blk_grow(w->guest.disk, 20 * MIB + SECTOR, &err), &err);
	work(w, 25);
	close_disk(w);
}

static void set_paths(struct world *w)
{
	struct live_paths paths = { .child_fd = w->files[0].fd,
				    .parent_fd = w->files[1].fd,
				    .absolute = "C:\\where\\it\\was\\moved\\to\\parent",
				    .relative = "..\\moved\\parent" };
	struct error err;

	one_chain(w, 2);
	note(w, live_set_paths(w->guest.disk, &paths, &err), &err);
	work(w, 25);
	close_disk(w);
}

/* A checkpoint while nobody uses the disk: as oyako-disk makes it. */
static void push_offline(struct world *w)
{
	struct candidate *old = candidate(w, 0, 2), *with = candidate(w, 0, 0);
	struct disk_details below, above;
	unsigned leaf;
	struct error err;
	int rc;

	open_live(w, 2);
	work(w, 40);
	close_disk(w);
	w->armed = false;
	must(disk_sync(w->files[0].fd, &err), &err);
	track_changes_of(w, w->files[0].fd);
	leaf = watch(w, new_image(w, w->files[0].fd));
	must(disk_describe(w->files[0].fd, &below, &err), &err);
	must(disk_describe(w->files[leaf].fd, &above, &err), &err);
	w->armed = true;
	rc = track_follow(w->files[w->track_file].fd, &below.link_id, &above.link_id, &err);
	note(w, rc < 0 ? rc : 0, &err);
	disk_details_done(&below);
	disk_details_done(&above);
	*with = (struct candidate){ .files = { leaf, 0, 1 },
				    .count = 3,
				    .must_from = rc > 0 ? cut_tick(w->clock) : FOREVER,
				    .must_until = FOREVER };
	old->must_from = 0;
	old->must_until = FOREVER;
}

static int copy_into(struct world *w, int fd, struct error *err)
{
	struct blk *layers[2] = { NULL };
	struct blk_layers source = { layers, 2 };
	struct blk_copy copy = { .loop = w->loop, .source = &source };
	int rc = 0;

	for (unsigned i = 2; rc == 0 && i-- > 0;)
		rc = disk_open(
		    w->loop, dup(w->files[i].fd),
		    &(struct disk_options){ .read_only = true, .parent = i ? NULL : layers[1] },
		    &layers[i], err);
	if (rc == 0)
		rc = disk_open(w->loop, dup(fd), NULL, &copy.target, err);
	if (rc == 0)
		rc = blk_copy(&copy, err);
	if (rc == 0)
		rc = blk_close(copy.target, err);
	else
		blk_close(copy.target, NULL);
	blk_close(layers[0] ? layers[0] : layers[1], NULL);
	return rc;
}

/* A new disk of what the guest has left in the chain. */
static void convert(struct world *w)
{
	struct disk_create_options options = { .format = w->format,
					       .type = DISK_DYNAMIC,
					       .size_bytes = DISK_BYTES,
					       .block_bytes =
						   w->format == DISK_VHD ? 2 * MIB : 4 * MIB };
	struct candidate *converted = candidate(w, 2, 1);
	int fd = memfd_create("new", MFD_CLOEXEC);
	struct error err;
	int rc;

	one_chain(w, 2);
	close_disk(w);
	watch(w, fd);
	rc = disk_create(fd, &options, &err);
	if (rc == 0)
		rc = copy_into(w, fd, &err);
	note(w, rc, &err);
	if (rc == 0) {
		converted->must_from = cut_tick(w->clock);
		converted->must_until = FOREVER;
	}
}

/* ---- running them ---- */

struct named {
	scenario *run;
	unsigned depth, vhd_depth;
};

static unsigned depth_of(const struct named *what, enum disk_format format)
{
	return format == DISK_VHD && what->vhd_depth ? what->vhd_depth : what->depth;
}

static uint64_t cut_count(void)
{
	return getenv("OYAKO_LONG") ? 3000 : 60;
}

static void run_with_cuts(const struct named *what, enum disk_format format, uint64_t seed)
{
	uint64_t cuts = cut_count(), end;
	struct world w;

	start(&w, format, depth_of(what, format), seed);
	what->run(&w);
	the_world = NULL;
	end = cut_now(w.clock);
	for (uint64_t i = 0; i <= cuts; i++)
		check_cut(&w, end * i / cuts, (enum cut_style)(i % CUT_STYLES));
	finish(&w);
}

/* False: there was no n-th operation. */
static bool run_with_fault(const struct named *what, enum disk_format format, long n, bool performs)
{
	struct world w;
	bool reached;

	start(&w, format, depth_of(what, format), 7);
	w.guest.may_fail = true;
	w.fault_after = n;
	w.fault_errno = n % 2 ? EIO : ENOSPC;
	w.fault_performs = performs;
	what->run(&w);
	reached = w.fault_after == 0;
	the_world = NULL;
	for (enum cut_style style = 0; style < CUT_STYLES; style++)
		check_cut(&w, cut_now(w.clock) - (style == CUT_ANY ? next_random(&w) % 40 : 0),
			  style);
	finish(&w);
	return reached;
}

static void run_all(const struct named *what)
{
	static const enum disk_format formats[] = { DISK_VHDX, DISK_VHD };
	long step = getenv("OYAKO_LONG") ? 1 : 37;

	for (unsigned f = 0; f < ARRAY_SIZE(formats); f++) {
		run_with_cuts(what, formats[f], 1);
		for (long n = 1 + (long)f; run_with_fault(what, formats[f], n, false); n += step)
			;
		for (long n = 1 + (long)f; run_with_fault(what, formats[f], n, true); n += step)
			;
	}
}

#define SCENARIO(name, depth)                                                                      \
	static void test_##name(void **state)                                                      \
	{                                                                                          \
		run_all(&(const struct named){ name, depth, 0 });                                  \
	}

SCENARIO(push, 2)
SCENARIO(merge_leaf, 3)
SCENARIO(merge_all, 3)
SCENARIO(merge_middle, 4)
SCENARIO(merge_offline, 3)
SCENARIO(push_offline, 2)
SCENARIO(set_paths, 2)
SCENARIO(convert, 2)

/* A VHD child does not grow. */
static void test_grow(void **state)
{
	run_all(&(const struct named){ grow, 2, 1 });
}

/* The process was killed at the n-th operation, so nobody has synced that, and then a checkpoint
 * was made. False: there was no n-th. */
static bool push_killed(enum disk_format format, long n)
{
	struct candidate *with;
	struct world w;
	struct error err;
	bool killed;

	start(&w, format, 2, 3);
	w.guest.may_fail = true;
	w.kill_after = n;
	open_live(&w, 2);
	work(&w, 20);
	blk_drain(w.guest.disk);
	killed = w.killed;
	w.killed = false;
	w.kill_after = 0;
	must(disk_sync(w.files[0].fd, &err), &err);
	watch(&w, new_image(&w, w.files[0].fd));
	with = candidate(&w, 0, 0);
	*with = (struct candidate){
		.files = { 2, 0, 1 }, .count = 3, .must_until = FOREVER, .may_from = FOREVER
	};
	for (enum cut_style style = 0; style < CUT_STYLES; style++)
		check_cut(&w, cut_now(w.clock), style);
	w.killed = killed;
	close_disk(&w);
	finish(&w);
	return killed;
}

static void test_push_killed(void **state)
{
	for (long n = 1; push_killed(DISK_VHDX, n); n++)
		;
	for (long n = 1; push_killed(DISK_VHD, n); n++)
		;
}

/* A leaf that can't even be described. */
static void test_unreadable_leaf(void **state)
{
	int fds[2] = { -1, -1 };
	struct error err;

	assert_true(disk_check_links(fds, 2, &err) < 0 && err.text[0]);
}

static int remove_mark(void **state)
{
	char path[sizeof(mark_folder) + 8];

	snprintf(path, sizeof(path), "%s/mark", mark_folder);
	unlink(path);
	return rmdir(mark_folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_push),
		cmocka_unit_test(test_merge_leaf),
		cmocka_unit_test(test_merge_all),
		cmocka_unit_test(test_merge_middle),
		cmocka_unit_test(test_merge_offline),
		cmocka_unit_test(test_set_paths),
		cmocka_unit_test(test_convert),
		cmocka_unit_test(test_grow),
		cmocka_unit_test(test_push_offline),
		cmocka_unit_test(test_push_killed),
		cmocka_unit_test(test_unreadable_leaf),
	};
	int rc;

	if (!mkdtemp(mark_folder))
		return 1;
	rc = cmocka_run_group_tests(tests, NULL, remove_mark);
	print_message("%lu cut points\n", cut_points);
	return rc;
}
