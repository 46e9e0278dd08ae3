/*
 * Memory and state into a file. A thread copies all memory while the guest runs and the dirty log
 * notes what it writes meanwhile; that is copied again, as long as each round is shorter than the
 * one before. Then the guest is paused for its devices' state and the pages that are left, of which
 * a copy is kept, and the thread writes that and syncs the file.
 *
 * The loop decides and pauses; the thread only writes, and kicks the loop when a round is over.
 */
#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "state/file.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_ROUNDS 8
/* What is copied while the guest stands still: some milliseconds. */
#define FINAL_PAGES 2048
/* Pages that are written by one call. */
#define RUN_PAGES 256
/* What is kept in memory then, to be written behind the guest: much faster than writing it. */
#define KEPT_PAGES (256 * MIB / MEM_PAGE_SIZE)

enum work { WORK_COPY, WORK_FINISH };

struct save {
	struct machine *machine;
	int fd;
	bool stop;
	struct layering *layering; /* what the disks get at the same instant; NULL: nothing */
	machine_save_done done;
	void *user;

	pthread_t thread;
	bool has_thread;
	struct loop_kick *kick;
	enum work work;
	bool cancelled;        /* atomic */
	struct error failure;  /* of the work; code 0: none */
	uint64_t pages_copied; /* of all rounds; atomic */

	uint64_t *pages; /* bitmap: what is to be copied */
	uint64_t page_count, words;
	bool rewrite; /* not the first round: pages in the file may have contents */
	uint64_t last_round;
	uint8_t *kept; /* kept_room pages, the first kept_count used, in the order of the bitmap */
	uint64_t *kept_pages;
	uint64_t kept_room, kept_count;
	struct machine_saved saved;
	struct state_out *out;
	const uint8_t *stream;
	size_t stream_bytes;
};

/* ---- the pages ---- */

static bool is_zero(const uint8_t *page)
{
	const uint64_t *words = (const uint64_t *)page;
	uint64_t any = 0;

	for (unsigned i = 0; i < MEM_PAGE_SIZE / 8; i += 8) {
		any = words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] |
		      words[i + 5] | words[i + 6] | words[i + 7];
		if (any)
			return false;
	}
	return true;
}

static uint64_t file_offset(uint64_t page)
{
	return STATE_FILE_RAM + page * MEM_PAGE_SIZE;
}

static int write_pages(struct save *save, const uint8_t *from, uint64_t page, uint64_t count)
{
	uint64_t size = count * MEM_PAGE_SIZE, done = 0;

	while (done < size) {
		ssize_t n =
		    pwrite(save->fd, from + done, size - done, (off_t)(file_offset(page) + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(&save->failure, errno, "writing the guest's memory");
		done += (uint64_t)n;
	}
	save->saved.ram_bytes_written += size;
	return 0;
}

/* A page that is zero now, and was not when it was copied before. */
static int clear_page(struct save *save, const uint8_t *from, uint64_t page)
{
	if (fallocate(save->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)file_offset(page), MEM_PAGE_SIZE) == 0)
		return 0;
	return write_pages(save, from, page, 1);
}

static bool is_set(const uint64_t *bitmap, uint64_t page)
{
	return bitmap[page / 64] >> page % 64 & 1;
}

static bool wanted(const struct save *save, uint64_t page)
{
	return is_set(save->pages, page);
}

/* From page on: wanted pages with contents, as one write. */
static uint64_t run_length(const struct save *save, const uint8_t *ram, uint64_t page)
{
	uint64_t count = 0;

	while (count < RUN_PAGES && page + count < save->page_count && wanted(save, page + count) &&
	       !is_zero(ram + (page + count) * MEM_PAGE_SIZE))
		count++;
	return count;
}

static int copy_pages(struct save *save)
{
	struct mem_range ranges[2];
	const uint8_t *ram;

	mem_ranges(save->machine->mem, ranges);
	ram = ranges[0].host; /* both ranges are one mapping */
	for (uint64_t page = 0; page < save->page_count;) {
		uint64_t count;
		int rc = 0;

		if (page % 64 == 0 && !save->pages[page / 64]) {
			page += 64;
			continue;
		}
		if (__atomic_load_n(&save->cancelled, __ATOMIC_RELAXED))
			return error_set(&save->failure, ERR_CANCELLED, "saving was given up");
		count = run_length(save, ram, page);
		if (count)
			rc = write_pages(save, ram + page * MEM_PAGE_SIZE, page, count);
		else if (wanted(save, page) && save->rewrite)
			rc = clear_page(save, ram + page * MEM_PAGE_SIZE, page);
		if (rc < 0)
			return rc;
		page += count ? count : 1;
		__atomic_fetch_add(&save->pages_copied, count ? count : 1, __ATOMIC_RELAXED);
	}
	return 0;
}

/* Room to keep as many as are to be copied now, and some more, which the guest writes until it
 * stands still. Without it they are just written then. */
static void make_room(struct save *save, uint64_t pages)
{
	uint64_t room =
	    MIN(MIN(pages + pages / 4 + FINAL_PAGES, (uint64_t)KEPT_PAGES), save->page_count);
	void *at = mmap(NULL, room * MEM_PAGE_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	save->kept_pages = at == MAP_FAILED ? NULL : calloc(save->words, sizeof(*save->kept_pages));
	if (save->kept_pages) {
		save->kept = at;
		save->kept_room = room;
	} else if (at != MAP_FAILED) {
		munmap(at, room * MEM_PAGE_SIZE);
	}
}

/* Takes what it keeps away from what is to be copied. */
static void keep_pages(struct save *save)
{
	struct mem_range ranges[2];
	const uint8_t *ram;

	mem_ranges(save->machine->mem, ranges);
	ram = ranges[0].host;
	for (uint64_t w = 0; w < save->words; w++)
		while (save->pages[w] && save->kept_count < save->kept_room) {
			unsigned bit = (unsigned)__builtin_ctzll(save->pages[w]);

			memcpy(save->kept + save->kept_count++ * MEM_PAGE_SIZE,
			       ram + (w * 64 + bit) * MEM_PAGE_SIZE, MEM_PAGE_SIZE);
			save->kept_pages[w] |= BIT(bit);
			save->pages[w] &= ~BIT(bit);
		}
}

/* Adds what was written since the last call. */
static void collect_dirty(struct save *save)
{
	part_dirty_log_collect(save->machine->part);
	mem_dirty_log_take(save->machine->mem, save->pages);
}

static uint64_t count_pages(const struct save *save)
{
	uint64_t count = 0;

	for (uint64_t w = 0; w < save->words; w++)
		count += (uint64_t)__builtin_popcountll(save->pages[w]);
	return count;
}

/* ---- the thread ---- */

/* Pages that were kept when the guest stood still, from where they were kept. */
static int copy_kept(struct save *save)
{
	uint64_t kept = 0;

	for (uint64_t page = 0; kept < save->kept_count; page++) {
		const uint8_t *from = save->kept + kept * MEM_PAGE_SIZE;
		uint64_t count = 1;
		int rc;

		if (!is_set(save->kept_pages, page))
			continue;
		if (is_zero(from)) {
			rc = clear_page(save, from, page);
		} else {
			while (count < RUN_PAGES && kept + count < save->kept_count &&
			       is_set(save->kept_pages, page + count) &&
			       !is_zero(from + count * MEM_PAGE_SIZE))
				count++;
			rc = write_pages(save, from, page, count);
		}
		if (rc < 0)
			return rc;
		kept += count;
		page += count - 1;
	}
	return 0;
}

static void finish_file(struct save *save)
{
	if (copy_kept(save) == 0)
		state_file_finish(save->fd, mem_size_bytes(save->machine->mem), save->stream,
				  save->stream_bytes, &save->failure);
}

static void *work(void *user)
{
	struct save *save = user;

	if (save->work == WORK_COPY)
		copy_pages(save);
	else
		finish_file(save);
	loop_kick(save->kick);
	return NULL;
}

static bool start_work(struct save *save, enum work kind)
{
	int r;

	save->work = kind;
	r = pthread_create(&save->thread, NULL, work, save);
	save->has_thread = r == 0;
	if (r != 0)
		error_set_errno(&save->failure, r, "starting a thread");
	return r == 0;
}

static void join(struct save *save)
{
	if (save->has_thread)
		pthread_join(save->thread, NULL);
	save->has_thread = false;
}

/* ---- the end ---- */

static void stop_logging(struct save *save)
{
	mem_dirty_log_stop(save->machine->mem);
	part_dirty_log_collect(save->machine->part);
}

static void save_free(struct save *save)
{
	join(save);
	stop_logging(save);
	save->machine->save = NULL;
	loop_kick_free(save->kick);
	state_out_free(save->out);
	layering_free(save->layering);
	close(save->fd);
	if (save->kept)
		munmap(save->kept, save->kept_room * MEM_PAGE_SIZE);
	free(save->kept_pages);
	free(save->pages);
	free(save);
}

void machine_stand_still(struct machine *machine)
{
	if (!machine->paused)
		part_pause(machine->part);
	synthetic_quiesce(machine->synthetic);
	platform_flush(machine->platform);
}

/* But for one that the administrator has paused. */
void machine_let_go(struct machine *machine)
{
	synthetic_unquiesce(machine->synthetic);
	if (!machine->paused && !machine->resetting)
		part_resume(machine->part);
}

static void finish(struct save *save)
{
	struct machine *machine = save->machine;
	struct machine_saved saved = save->saved;
	struct error failure = save->failure;
	machine_save_done done = save->done;
	void *user = save->user;
	bool stop = save->stop, stands = save->out && stop;

	if (stands && failure.code)
		machine_let_go(machine);
	save_free(save);
	done(user, &saved, failure.code ? &failure : NULL);
	if (stop && !failure.code)
		machine_go_off(machine, MACHINE_OFF_SAVED, "saved");
}

/* ---- on the loop ---- */

/* The guest stands still from here on. */
static void take_state(struct save *save)
{
	struct machine *machine = save->machine;
	uint64_t began;

	if (!save->stop)
		make_room(save, count_pages(save));
	began = clock_now_ns();
	machine_stand_still(machine);
	collect_dirty(save);
	save->rewrite = true;
	keep_pages(save);
	copy_pages(save);
	save->out = state_out_new(clock_now_ns());
	if (!save->out)
		error_set(&save->failure, ERR_NO_MEMORY, "no memory for the state of the devices");
	else
		machine_put_state(machine, save->out);
	if (save->out && !save->failure.code)
		state_out_bytes(save->out, &save->stream, &save->stream_bytes, &save->failure);
	/* Last, since only this can't be given up any more. */
	if (save->layering && !save->failure.code)
		layering_push(save->layering, machine->storage, &save->failure);
	stop_logging(save);
	if (!save->stop)
		machine_let_go(machine);
	save->saved.pause_ns = clock_now_ns() - began;
	if (save->failure.code || !start_work(save, WORK_FINISH))
		finish(save);
}

/* Another round behind the running guest, or the last one. */
static void next_round(struct save *save)
{
	uint64_t left;

	memset(save->pages, 0, save->words * sizeof(*save->pages));
	collect_dirty(save);
	left = count_pages(save);
	save->saved.rounds++;
	if (save->machine->paused || left <= FINAL_PAGES || save->saved.rounds >= MAX_ROUNDS ||
	    (save->saved.rounds > 2 && left > save->last_round * 3 / 4)) {
		take_state(save);
		return;
	}
	save->last_round = left;
	save->rewrite = true;
	if (!start_work(save, WORK_COPY))
		finish(save);
}

static void on_work_done(void *user)
{
	struct save *save = user;

	join(save);
	if (save->failure.code || save->work == WORK_FINISH)
		finish(save);
	else
		next_round(save);
}

int save_check(const struct machine *machine, struct error *err)
{
	if (machine->save)
		return error_set(err, ERR_BUSY, "it is being saved already");
	if (machine->off || machine->resetting)
		return error_set(err, ERR_STATE, "it is stopping or restarting");
	return 0;
}

int save_begin(struct machine *machine, int fd, bool stop, struct layering *layering,
	       machine_save_done done, void *user, struct error *err)
{
	struct save *save;
	int r = save_check(machine, err);

	if (r < 0) {
		layering_free(layering);
		close(fd);
		return r;
	}
	save = calloc(1, sizeof(*save));
	if (!save)
		abort(); /* a few bytes: the host is beyond help */
	*save = (struct save){ .machine = machine,
			       .fd = fd,
			       .stop = stop,
			       .layering = layering,
			       .done = done,
			       .user = user,
			       .page_count = mem_size_bytes(machine->mem) >> MEM_PAGE_SHIFT };
	save->words = (save->page_count + 63) / 64;
	save->pages = malloc(save->words * sizeof(*save->pages));
	r = save->pages ? loop_kick_new(machine->loop, on_work_done, save, &save->kick, err)
			: error_set(err, ERR_NO_MEMORY, "no memory to save memory");
	if (r == 0) {
		/* From here on it is known what has been written since it was copied. */
		mem_dirty_log_start(machine->mem);
		collect_dirty(save);
		memset(save->pages, 0xff, save->words * sizeof(*save->pages));
		if (save->page_count % 64)
			save->pages[save->words - 1] = BIT(save->page_count % 64) - 1;
		if (!start_work(save, WORK_COPY)) {
			*err = save->failure;
			r = -(int)err->code;
		}
	}
	if (r < 0) {
		save_free(save);
		return r;
	}
	machine->save = save;
	return 0;
}

int machine_save(struct machine *machine, int fd, bool stop, machine_save_done done, void *user,
		 struct error *err)
{
	return save_begin(machine, fd, stop, NULL, done, user, err);
}

void save_cancel(struct machine *machine)
{
	struct save *save = machine->save;
	struct error err;

	if (!save)
		return;
	__atomic_store_n(&save->cancelled, true, __ATOMIC_RELAXED);
	join(save);
	error_set(&err, ERR_CANCELLED, "the virtual machine was stopped meanwhile");
	save->done(save->user, &save->saved, &err);
	save_free(save);
}

bool save_has_guest(const struct machine *machine)
{
	return machine->save && machine->save->stop && machine->save->out;
}

bool machine_saving(const struct machine *machine)
{
	return machine->save != NULL;
}

unsigned machine_save_percent(const struct machine *machine)
{
	const struct save *save = machine->save;
	uint64_t copied;

	if (!save)
		return 0;
	copied = __atomic_load_n(&save->pages_copied, __ATOMIC_RELAXED);
	return (unsigned)MIN(copied * 100 / save->page_count, 100u);
}
