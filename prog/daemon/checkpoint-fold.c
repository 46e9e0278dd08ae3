#include "checkpoint-fold.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/macros.h"
#include "base/mark.h"
#include "base/parent-paths.h"
#include "checkpoint-below.h"
#include "checkpoint-disks.h"
#include "checkpoints.h"
#include "config/config-json.h"
#include "disk-job.h"
#include "files.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL           "merge.json"
#define MARK              "merge.mark"
#define WORKER_TIMEOUT_NS (60 * NS_PER_SEC)
#define RETRY_NS          NS_PER_SEC
#define RETRY_DOUBLINGS   8 /* to some four minutes */

/*
 * For each disk "parents" tells the names of its chain, and from them and those that the
 * checkpoints have follows what can be merged, or the merge is one that somebody asked for; then
 *that disk is looked at again.
 *
 *	RECALLING -> LOOKING -> OFFLINE, LIVE -> LOOKING ... -> the end
 *
 * Nothing is kept from one look to the next: what is found is what counts. RECALLING comes first
 * where the journal has a merge of which nobody knows how far it got: it was done if the layer
 *above it has the merge's target as its parent.
 */
enum fold_at { FOLD_RECALLING, FOLD_LOOKING, FOLD_OFFLINE, FOLD_LIVE };

struct folding {
	struct vm *vm;
	enum fold_at at;
	unsigned index;     /* in the description: the disk at work */
	json_t *paths;      /* its chain, leaf first */
	size_t first, into; /* what is being merged (disk/merge.h) */
	struct disk_job *job;
	bool again; /* from the first disk on, when this is done */
	bool stopping;
	bool begun, resend; /* LIVE: the worker has begun; it can't yet, so it is asked again */
	struct loop_timer *retry; /* NULL until it is needed */
	unsigned percent;
	struct request *watcher; /* NULL: nobody */
	/* Merge-VHD: from this layer to that one (NULL: its parent). asked_done NULL: nobody asked.
	 */
	char *asked_path, *asked_into;
	fold_merged *asked_done;
	void *asked_user;
};

static void next(struct folding *folding);

static const char *path_at(const json_t *paths, size_t i)
{
	const char *path = json_string_value(json_array_get(paths, i));

	return path ? path : "";
}

/* ---- the journal ---- */

static int open_folder(const struct vm *vm, struct error *err)
{
	int fd = open(vm->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, errno, "opening the folder '%.200s'", vm->folder) : fd;
}

bool fold_is_wanted(const struct vm *vm)
{
	AUTO_CLOSE int fd = open_folder(vm, NULL);

	return fd >= 0 && faccessat(fd, JOURNAL, F_OK, 0) == 0;
}

bool fold_is_unsettled(const struct vm *vm)
{
	AUTO_CLOSE int fd = open_folder(vm, NULL);
	json_t *journal = NULL;
	bool empty = fd >= 0 && config_load_json(fd, JOURNAL, &journal, NULL) == 0 &&
		     json_is_object(journal) && json_object_size(journal) == 0;

	json_decref(journal);
	return fold_is_wanted(vm) && !empty;
}

/* Takes journal. */
static int write_journal(const struct vm *vm, json_t *journal, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm, err);
	int r = fd < 0 ? fd : config_save_json(fd, JOURNAL, journal, err);

	json_decref(journal);
	return r;
}

/* The journal before the mark: alone, the mark says nothing. */
void fold_remove_files(int folder_fd)
{
	unlinkat(folder_fd, JOURNAL, 0);
	unlinkat(folder_fd, "." JOURNAL ".new", 0);
	unlinkat(folder_fd, MARK, 0);
}

static void nothing_wanted(const struct vm *vm)
{
	AUTO_CLOSE int fd = open_folder(vm, NULL);

	if (fd >= 0)
		fold_remove_files(fd);
	below_tidy(vm);
}

/* above: the layer whose link the merge changes. asked: the files are to go, whoever made them. */
static int write_step(const struct folding *folding, struct error *err)
{
	json_t *files = json_array(), *above = NULL;

	for (size_t i = folding->first; i < folding->into; i++)
		json_array_append(files, json_array_get(folding->paths, i));
	if (folding->first > 0)
		above = json_array_get(folding->paths, folding->first - 1);
	return write_journal(folding->vm,
			     json_pack("{s:O, s:O, s:o, s:O*, s:b}", "old",
				       json_array_get(folding->paths, folding->first), "new",
				       json_array_get(folding->paths, folding->into), "files",
				       files, "above", above, "asked", folding->asked_done != NULL),
			     err);
}

static const char *text_in(const json_t *journal, const char *name)
{
	return json_string_value(json_object_get(journal, name));
}

/* NULL: no merge is under way. The caller's. */
static json_t *load_step(int folder_fd)
{
	json_t *journal = NULL;

	if (config_load_json(folder_fd, JOURNAL, &journal, NULL) == 0 && text_in(journal, "old") &&
	    text_in(journal, "new"))
		return journal;
	json_decref(journal);
	return NULL;
}

static int rename_in_vm(struct vm *vm, const char *old, const char *new, struct error *err)
{
	struct config_vm *config = vm_config_copy(vm, err);
	int r;

	if (!config)
		return -(int)err->code;
	r = checkpoint_disks_rename(config, old, new, err);
	if (r == 1)
		return vm_follow(vm, config, err);
	config_vm_free(config);
	return r;
}

/* A VM's folder may be on storage that others write to, too: what its journal says is no reason to
 * delete any file. */
static bool may_go(const char *path, bool asked)
{
	return asked ? files_is_image_name(path) : checkpoint_disk_was_made_here(path);
}

/* From the lowest layer on, for the nearest of these files counts. */
static void drop_merged(const json_t *journal)
{
	const json_t *files = json_object_get(journal, "files");
	bool asked = json_is_true(json_object_get(journal, "asked"));

	for (size_t i = json_array_size(files); i-- > 0;) {
		const char *path = json_string_value(json_array_get(files, i));

		if (!path || !may_go(path, asked))
			continue;
		files_keep_track(path, text_in(journal, "new"));
		unlink(path);
	}
}

/* The merge has been done: whoever had the uppermost of the merged layers has what it was merged
 * into, and the merged ones go. */
static int apply(struct vm *vm, const json_t *journal, struct error *err)
{
	const char *old = text_in(journal, "old"), *new = text_in(journal, "new");
	int r = checkpoints_rename_disk(vm, old, new, err);

	if (r == 0)
		r = rename_in_vm(vm, old, new, err);
	if (r == 0)
		drop_merged(journal);
	return r;
}

/* That it was done is written down first: applying it takes several steps, of which the names that
 * are changed already would tell nobody who comes after an interruption. */
static int note_done(const struct vm *vm, json_t *journal, struct error *err)
{
	if (json_is_true(json_object_get(journal, "done")))
		return 0;
	json_object_set_new(journal, "done", json_true());
	return write_journal(vm, json_incref(journal), err);
}

/* Settles it, done or not. */
static int close_step(struct vm *vm, int folder_fd, json_t *journal, bool done, struct error *err)
{
	int r = done ? note_done(vm, journal, err) : 0;

	if (r == 0 && done)
		r = apply(vm, journal, err);
	if (r == 0)
		r = write_journal(vm, json_object(), err);
	if (r == 0)
		unlinkat(folder_fd, MARK, 0);
	return r;
}

/* done: it is known to be; else mark or journal say it. Without them the leaf is what it was; but
 * the link of a layer that lies higher may have been changed: that is recalled later. 1: it was
 * done. */
static int settle(struct vm *vm, bool done, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm, err);
	json_t *journal = fd < 0 ? NULL : load_step(fd);
	int r = fd < 0 ? fd : 0;

	if (journal) {
		done =
		    mark_close(fd, MARK) || done || json_is_true(json_object_get(journal, "done"));
		if (done || !text_in(journal, "above"))
			r = close_step(vm, fd, journal, done, err);
		if (r == 0)
			r = done;
	}
	json_decref(journal);
	return r < 0 ? error_prefix(err, "finishing the merge of a disk") : r;
}

int fold_settle(struct vm *vm, struct error *err)
{
	int r = settle(vm, false, err);

	return r < 0 ? r : 0;
}

/* ---- the end ---- */

/* Whoever asked for a merge is told how it ended. */
static void tell_asked(struct folding *folding, const struct error *err)
{
	fold_merged *done = folding->asked_done;

	if (!done)
		return;
	folding->asked_done = NULL;
	done(folding->asked_user, err ? NULL : path_at(folding->paths, folding->into), err);
}

static bool holds(const struct folding *folding)
{
	return folding->at == FOLD_OFFLINE || folding->at == FOLD_RECALLING;
}

/* Lets go of the VM. */
static void folding_free(struct folding *folding)
{
	struct vm *vm = folding->vm;

	vm->folding = NULL;
	json_decref(folding->paths);
	free(folding->asked_path);
	free(folding->asked_into);
	loop_timer_free(folding->retry);
	free(folding);
	vm_unref(vm);
}

static void resume(void *user)
{
	fold_resume(user);
}

/* What stood in the way may go by itself: another program that has a file open, a full disk. */
static void retry_later(struct vm *vm)
{
	uint64_t delay = RETRY_NS << MIN(vm->fold_failures, (unsigned)RETRY_DOUBLINGS);

	vm->fold_failures++;
	if (!vm->fold_retry &&
	    loop_timer_new(vm->daemon->loop, resume, vm, &vm->fold_retry, NULL) < 0)
		return;
	loop_timer_arm(vm->fold_retry, clock_now_ns() + delay);
}

/* goes_on: it is resumed soon, and whoever waits for it waits on. */
static void end(struct folding *folding, bool goes_on, const struct error *err)
{
	struct vm *vm = vm_ref(folding->vm);
	struct error gone;

	if (!err)
		error_set(&gone, ERR_CANCELLED, "the virtual machine stopped meanwhile");
	tell_asked(folding, err ? err : &gone);
	if (holds(folding))
		vm->busy = NULL;
	folding_free(folding);
	if (err && !goes_on) {
		log_error("virtual machine '%s': merging its disks: %s", vm->config->name,
			  err->text);
		retry_later(vm);
	}
	/* First, for those who were idle may begin another one. */
	if (!goes_on)
		vm_wake(vm, VM_WAIT_FOLDED, err);
	vm_wake(vm, VM_WAIT_IDLE, NULL);
	vm_unref(vm);
}

static bool runs(const struct vm *vm)
{
	return (vm->state == VM_RUNNING || vm->state == VM_PAUSED) && vm->run && vm->run->peer;
}

static void fail(struct folding *folding, struct error *err)
{
	if (json_array_size(folding->paths))
		error_prefix(err, "merging '%.200s'",
			     json_string_value(json_array_get(folding->paths, 0)));
	end(folding, folding->stopping, err);
}

/* This disk once more. */
static void look_again(struct folding *folding)
{
	if (holds(folding))
		folding->vm->busy = NULL;
	folding->at = FOLD_LOOKING;
	json_decref(folding->paths);
	folding->paths = NULL;
	next(folding);
}

static void merged(struct folding *folding, bool done)
{
	struct error err;

	if (settle(folding->vm, done, &err) < 0) {
		fail(folding, &err);
		return;
	}
	tell_asked(folding, NULL);
	look_again(folding);
}

static void note_progress(struct folding *folding, uint64_t done, uint64_t total)
{
	folding->percent = (unsigned)(MIN(done, total) * 100.0 / MAX(total, UINT64_C(1)));
	if (folding->watcher)
		request_progress(folding->watcher, folding->vm->config->name,
				 "merging its disks, %u %%", folding->percent);
}

/* ---- what can be merged ---- */

/* The names come out of images, and what is under the layers is written to: only what was under
 * them when they were made will do. Returns the lowest. */
static size_t lowest_of_ours(const json_t *paths)
{
	for (size_t i = 1; i < json_array_size(paths); i++) {
		if (!checkpoint_disk_is_below(path_at(paths, 0), path_at(paths, i)))
			return i - 1;
		if (!checkpoint_disk_was_made_here(path_at(paths, i)))
			return i;
	}
	return json_array_size(paths) - 1;
}

static bool is_in(const json_t *paths, const char *path)
{
	for (size_t i = 0; i < json_array_size(paths); i++)
		if (strcmp(path_at(paths, i), path) == 0)
			return true;
	return false;
}

/* Which layers a checkpoint has as its disk. False: one has a disk of this family that is none of
 * them, so it may lie on any of them, or can't be read. */
static bool find_needed(const struct vm *vm, const json_t *paths, bool *needed)
{
	struct checkpoints all;
	bool ok = true;

	checkpoints_load(vm, &all);
	for (size_t k = 0; ok && k < all.count; k++) {
		struct config_vm *config;

		if (checkpoint_config(vm, all.list[k].id, &config, NULL) < 0) {
			ok = false;
			break;
		}
		for (unsigned i = 0; ok && i < config->disk_count; i++) {
			const char *path = config->disks[i].path;

			if (!path || !checkpoint_disk_is_below(path_at(paths, 0), path))
				continue;
			ok = is_in(paths, path);
			for (size_t n = 0; n < json_array_size(paths); n++)
				needed[n] |= strcmp(path_at(paths, n), path) == 0;
		}
		config_vm_free(config);
	}
	checkpoints_done(&all);
	return ok;
}

/* The first layers that nobody needs, with what lies over them: all of it goes into the last. */
static bool choose(struct folding *folding)
{
	size_t lowest = lowest_of_ours(folding->paths), i = 1;
	AUTO_FREE bool *needed = calloc(json_array_size(folding->paths) + 1, sizeof(*needed));

	if (!needed || !find_needed(folding->vm, folding->paths, needed))
		return false;
	while (i <= lowest && needed[i])
		i++;
	if (i > lowest)
		return false;
	folding->first = i - 1;
	while (i < lowest && !needed[i + 1])
		i++;
	folding->into = i;
	return true;
}

static bool is_same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* SIZE_MAX: it is none of them. */
static size_t layer_of(const json_t *paths, const char *path)
{
	for (size_t i = 0; i < json_array_size(paths); i++)
		if (is_same_file(path_at(paths, i), path))
			return i;
	return SIZE_MAX;
}

/* What was asked for: layers that checkpoints have must stay, but for the uppermost one, for what
 * it reads as is what its target will. */
static int choose_asked(struct folding *folding, struct error *err)
{
	size_t count = json_array_size(folding->paths);
	AUTO_FREE bool *needed = calloc(count + 1, sizeof(*needed));
	size_t first = layer_of(folding->paths, folding->asked_path);
	size_t into =
	    folding->asked_into ? layer_of(folding->paths, folding->asked_into) : first + 1;

	if (first == SIZE_MAX || into >= count || first >= into)
		return error_set(err, ERR_BUSY, "its chain was changed just now: try again");
	if (!needed || !find_needed(folding->vm, folding->paths, needed))
		return error_set(err, ERR_STATE,
				 "a checkpoint of '%.100s' may need one of these layers: remove it "
				 "first",
				 folding->vm->config->name);
	for (size_t i = first + 1; i <= into; i++)
		if (needed[i])
			return error_set(err, ERR_STATE,
					 "a checkpoint of '%.100s' needs '%.200s' as it is: remove "
					 "it first",
					 folding->vm->config->name, path_at(folding->paths, i));
	folding->first = first;
	folding->into = into;
	return 0;
}

/* ---- of a VM that is down ---- */

static void offline_progress(void *user, uint64_t done, uint64_t total)
{
	note_progress(user, done, total);
}

static void offline_done(void *user, const json_t *result, struct process *process,
			 const struct error *err)
{
	struct folding *folding = user;
	struct error failure;

	folding->job = NULL;
	if (!err) {
		merged(folding, true);
		return;
	}
	failure = *err;
	fail(folding, &failure);
}

static int merge_offline(struct folding *folding, struct error *err)
{
	static const struct disk_job_events events = { offline_progress, offline_done };
	struct vm *vm = folding->vm;
	AUTO_CLOSE int track_fd = -1;
	int r = folding->first > 0 ? 0
				   : files_open_track_of(path_at(folding->paths, 0), folding->paths,
							 &track_fd, err);

	if (r < 0)
		return r;
	r = disk_job_start(vm->daemon,
			   json_pack("{s:s, s:s, s:O, s:I, s:I, s:b}", "op", "merge", "path",
				     path_at(folding->paths, 0), "paths", folding->paths, "first",
				     (json_int_t)folding->first, "into", (json_int_t)folding->into,
				     "tracked", track_fd >= 0),
			   &track_fd, track_fd >= 0, 0, &events, folding, &folding->job, err);
	if (r == 0) {
		folding->at = FOLD_OFFLINE;
		vm->busy = "the disks of its checkpoints are being merged";
	}
	return r;
}

/* ---- of a VM that runs ---- */

struct sending {
	json_t *layers;
	int fds[4]; /* the mark, and at most three layers */
	unsigned count;
};

static int add_layer(const struct folding *folding, struct sending *sending, size_t layer,
		     struct error *err)
{
	int fd = files_open_layer(path_at(folding->paths, layer), O_RDWR, err);

	if (fd < 0)
		return fd;
	sending->fds[sending->count++] = fd;
	json_array_append_new(sending->layers, json_integer((json_int_t)layer));
	return 0;
}

static int collect(const struct folding *folding, struct sending *sending, struct error *err)
{
	AUTO_CLOSE int folder = open_folder(folding->vm, err);
	int r = folder < 0 ? folder : mark_make(folder, MARK, err);

	if (r < 0)
		return r;
	sending->fds[sending->count++] = r;
	fsync(folder);
	r = add_layer(folding, sending, folding->into, err);
	if (r == 0 && folding->into > 1)
		r = add_layer(folding, sending, folding->into - 1, err);
	if (r == 0 && folding->first > 1)
		r = add_layer(folding, sending, folding->first - 1, err);
	return r;
}

static const struct config_disk *disk_of(const struct folding *folding)
{
	return &folding->vm->config->disks[folding->index];
}

/* Is that event, or this, about the disk at work? */
static json_t *place_of(const struct folding *folding)
{
	const struct config_vm *config = folding->vm->config;
	char id[GUID_TEXT_SIZE];

	return json_pack("{s:s, s:i}", "controller",
			 guid_format(&config->scsi_ids[disk_of(folding)->controller_number], id),
			 "location", (int)disk_of(folding)->lun);
}

static int merge_live(struct folding *folding, struct error *err);

static void try_again(void *user)
{
	struct folding *folding = user;
	struct error err;

	if (folding->at == FOLD_LIVE && folding->resend && merge_live(folding, &err) < 0)
		fail(folding, &err);
}

/* The worker may be at a merge that an earlier service began, which can't succeed any more, and
 * ends; or somebody else still has the file of a layer. */
static void ask_later(struct folding *folding)
{
	struct error err;

	folding->resend = true;
	if (!folding->retry && loop_timer_new(folding->vm->daemon->loop, try_again, folding,
					      &folding->retry, &err) < 0)
		fail(folding, &err);
	else
		loop_timer_arm(folding->retry, clock_now_ns() + RETRY_NS);
}

static void live_answered(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;
	struct folding *folding = vm->folding;
	struct error failure;

	if (folding && folding->at == FOLD_LIVE && !folding->begun) {
		folding->begun = !err;
		if (err && err->code == ERR_BUSY) {
			ask_later(folding);
		} else if (err && err->code != ERR_CANCELLED) {
			failure = *err;
			fail(folding, &failure);
		}
	}
	vm_unref(vm);
}

static void ask_worker(struct folding *folding, const struct sending *sending,
		       const struct parent_paths *names)
{
	json_t *message = place_of(folding);

	json_object_update_new(message,
			       json_pack("{s:s, s:i, s:i, s:O, s:s*, s:s*}", "op", "merge-disk",
					 "first", (int)folding->first, "into", (int)folding->into,
					 "layers", sending->layers, "absolute", names->absolute,
					 "relative", names->relative));
	folding->at = FOLD_LIVE;
	folding->begun = folding->resend = false;
	peer_request(folding->vm->run->peer, message, sending->fds, sending->count,
		     WORKER_TIMEOUT_NS, live_answered, vm_ref(folding->vm));
}

static int merge_live(struct folding *folding, struct error *err)
{
	struct sending sending = { .layers = json_array() };
	struct parent_paths names = { 0 };
	int r = collect(folding, &sending, err);

	if (r == 0 && folding->first > 0)
		r = parent_paths_make(path_at(folding->paths, folding->first - 1),
				      path_at(folding->paths, folding->into), &names, err);
	if (r == 0)
		ask_worker(folding, &sending, &names);
	parent_paths_done(&names);
	for (unsigned i = 0; i < sending.count; i++)
		close(sending.fds[i]);
	json_decref(sending.layers);
	return r;
}

static bool is_about(const struct folding *folding, const json_t *event)
{
	json_t *place = place_of(folding);
	const char *mine = json_string_value(json_object_get(place, "controller"));
	const char *its = json_string_value(json_object_get(event, "controller"));
	bool same =
	    its && strcasecmp(mine, its) == 0 &&
	    json_equal(json_object_get(place, "location"), json_object_get(event, "location"));

	json_decref(place);
	return same;
}

static void live_ended(struct folding *folding, const json_t *event)
{
	const json_t *error = json_object_get(event, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *text = json_string_value(json_object_get(error, "text"));
	struct error err;

	if (folding->resend) {
		merged(folding, false);
	} else if (folding->begun && error) {
		error_set(&err, err_code_from_name(code ? code : ""), "%.300s",
			  text ? text : "the worker did not say why");
		fold_settle(folding->vm, NULL);
		/* It was only cancelled by whoever asked for it. */
		if (folding->asked_done && err.code == ERR_CANCELLED) {
			tell_asked(folding, &err);
			look_again(folding);
		} else {
			fail(folding, &err);
		}
	} else if (folding->begun) {
		merged(folding, false);
	}
}

void fold_event(struct vm *vm, const char *name, const json_t *event)
{
	struct folding *folding = vm->folding;

	if (!folding || folding->at != FOLD_LIVE || !is_about(folding, event))
		return;
	if (strcmp(name, "disk-merging") == 0)
		note_progress(folding, (uint64_t)json_integer_value(json_object_get(event, "done")),
			      (uint64_t)json_integer_value(json_object_get(event, "total")));
	else
		live_ended(folding, event);
}

void fold_worker_ended(struct vm *vm)
{
	struct folding *folding = vm->folding;
	struct error err;
	int r = fold_is_wanted(vm) ? settle(vm, false, &err) : 0;

	if (r < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
	if (r == 1 && folding)
		tell_asked(folding, NULL);
	if (folding && folding->at == FOLD_LIVE)
		end(folding, true, NULL);
}

void fold_worker_lost(struct vm *vm)
{
	struct folding *folding = vm->folding;

	if (!folding || folding->at != FOLD_LIVE)
		return;
	fold_worker_ended(vm);
	fold_resume(vm);
}

/* ---- one disk after the other ---- */

/* One that an interruption has left, of a merge that is settled: it must not speak for this one. */
static int drop_stale_mark(const struct vm *vm, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm, err);

	if (fd < 0)
		return fd;
	if (unlinkat(fd, MARK, 0) < 0)
		return errno == ENOENT ? 0 : error_set_errno(err, errno, "removing '%s'", MARK);
	fsync(fd);
	return 0;
}

static int begin_merge(struct folding *folding, struct error *err)
{
	bool live = runs(folding->vm);
	int r = drop_stale_mark(folding->vm, err);

	if (r == 0)
		r = write_step(folding, err);

	if (r < 0)
		return r;
	return live ? merge_live(folding, err) : merge_offline(folding, err);
}

static void chain_known(void *user, const json_t *result, struct process *process,
			const struct error *err)
{
	struct folding *folding = user;
	const char *leaf = path_at(folding->paths, 0);
	struct vm *vm = folding->vm;
	struct error failure;

	folding->job = NULL;
	if (err) {
		failure = *err;
		fail(folding, &failure);
		return;
	}
	/* Meanwhile other things may have happened to the VM. */
	if (folding->index >= vm->config->disk_count || !disk_of(folding)->path ||
	    strcmp(disk_of(folding)->path, leaf) != 0) {
		look_again(folding);
		return;
	}
	if (folding->stopping || vm->busy || (!vm_is_down(vm) && !runs(vm))) {
		end(folding, true, NULL);
		return;
	}
	json_array_extend(folding->paths, json_object_get(result, "parents"));
	if (folding->asked_done) {
		if (choose_asked(folding, &failure) < 0 || begin_merge(folding, &failure) < 0)
			fail(folding, &failure);
	} else if (!choose(folding)) {
		folding->index++;
		look_again(folding);
	} else if (begin_merge(folding, &failure) < 0) {
		fail(folding, &failure);
	}
}

static bool has_layers(const struct config_disk *disk)
{
	return disk->kind == CONFIG_DISK_HARD && !disk->read_only && disk->path &&
	       checkpoint_disk_was_made_here(disk->path);
}

static void chain_recalled(void *user, const json_t *result, struct process *process,
			   const struct error *err)
{
	struct folding *folding = user;
	struct vm *vm = folding->vm;
	AUTO_CLOSE int fd = open_folder(vm, NULL);
	json_t *journal = fd < 0 ? NULL : load_step(fd);
	struct error failure;
	bool done;
	int r = 0;

	folding->job = NULL;
	if (err && err->code == ERR_CANCELLED) {
		json_decref(journal);
		end(folding, true, NULL);
		return;
	}
	done =
	    !err && journal &&
	    is_same_file(path_at(json_object_get(result, "parents"), 0), text_in(journal, "new"));
	if (journal)
		r = close_step(vm, fd, journal, done, &failure);
	json_decref(journal);
	if (r < 0)
		fail(folding, &failure);
	else
		look_again(folding);
}

/* False: the journal has no merge that may or may not have been done. */
static bool recall(struct folding *folding, int *ret, struct error *err)
{
	static const struct disk_job_events events = { NULL, chain_recalled };
	AUTO_CLOSE int fd = open_folder(folding->vm, NULL);
	json_t *journal = fd < 0 ? NULL : load_step(fd);
	const char *above = text_in(journal, "above");

	if (above) {
		*ret = disk_job_start(folding->vm->daemon,
				      json_pack("{s:s, s:s}", "op", "parents", "path", above), NULL,
				      0, 0, &events, folding, &folding->job, err);
		if (*ret == 0) {
			folding->at = FOLD_RECALLING;
			folding->vm->busy = "a merge of its disks that was interrupted is being "
					    "finished";
		}
	}
	json_decref(journal);
	return above != NULL;
}

/* Asks for the chain of the disk at work. */
static int look(struct folding *folding, struct error *err)
{
	static const struct disk_job_events events = { NULL, chain_known };
	const char *path = disk_of(folding)->path;

	folding->paths = json_pack("[s]", path);
	return disk_job_start(folding->vm->daemon,
			      json_pack("{s:s, s:s}", "op", "parents", "path", path), NULL, 0, 0,
			      &events, folding, &folding->job, err);
}

static void next(struct folding *folding)
{
	const struct config_vm *config = folding->vm->config;
	struct error err;
	int r = settle(folding->vm, false, &err);

	if (r < 0) {
		fail(folding, &err);
		return;
	}
	if (recall(folding, &r, &err)) {
		if (r < 0)
			fail(folding, &err);
		return;
	}
	while (!folding->asked_done && folding->index < config->disk_count &&
	       !has_layers(disk_of(folding)))
		folding->index++;
	if (folding->index < config->disk_count) {
		if (look(folding, &err) < 0)
			fail(folding, &err);
	} else if (folding->again) {
		folding->again = false;
		folding->index = 0;
		next(folding);
	} else {
		nothing_wanted(folding->vm);
		folding->vm->fold_failures = 0;
		end(folding, false, NULL);
	}
}

/* ---- from outside ---- */

int fold_want(struct vm *vm, struct error *err)
{
	return vm->folding || fold_is_wanted(vm) ? 0 : write_journal(vm, json_object(), err);
}

void fold_begin(struct vm *vm, struct request *watcher)
{
	struct folding *folding = vm->folding;
	struct error err;

	if (!folding && !fold_is_wanted(vm) && write_journal(vm, json_object(), &err) < 0) {
		vm_wake(vm, VM_WAIT_FOLDED, &err);
		return;
	}
	if (!folding && (vm->busy || (!vm_is_down(vm) && !runs(vm))))
		return; /* fold_resume comes */
	if (folding) {
		folding->again = true;
		folding->watcher = watcher ? watcher : folding->watcher;
		return;
	}
	folding = calloc(1, sizeof(*folding));
	if (!folding)
		abort();
	*folding = (struct folding){ .vm = vm_ref(vm), .at = FOLD_LOOKING, .watcher = watcher };
	vm->folding = folding;
	next(folding);
}

int fold_merge(struct vm *vm, const struct fold_merge *merge, struct error *err)
{
	struct folding *folding;

	if (vm->folding)
		return error_set(err, ERR_BUSY, "its disks are being merged already");
	if (vm_check_busy(vm, err) < 0)
		return -(int)err->code;
	if (!runs(vm))
		return error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
				 vm_state_name(vm->state));
	folding = calloc(1, sizeof(*folding));
	if (!folding)
		abort();
	*folding = (struct folding){ .vm = vm_ref(vm),
				     .at = FOLD_LOOKING,
				     .index = merge->disk,
				     .again = true, /* whatever else there is, afterwards */
				     .watcher = merge->watcher,
				     .asked_path = strdup(merge->path),
				     .asked_into = merge->into ? strdup(merge->into) : NULL,
				     .asked_done = merge->done,
				     .asked_user = merge->user };
	if (!folding->asked_path || (merge->into && !folding->asked_into))
		abort();
	vm->folding = folding;
	next(folding);
	return 0;
}

void fold_cancel(struct vm *vm, const void *user)
{
	struct folding *folding = vm->folding;
	json_t *message;

	if (!folding || !folding->asked_done || folding->asked_user != user)
		return;
	if (folding->job) {
		disk_job_cancel(folding->job);
		return;
	}
	message = place_of(folding);
	json_object_set_new(message, "op", json_string("cancel-merge-disk"));
	run_request(vm, message, WORKER_TIMEOUT_NS, NULL, NULL);
}

void fold_forget(struct vm *vm, const struct request *watcher)
{
	if (vm->folding && vm->folding->watcher == watcher)
		vm->folding->watcher = NULL;
}

struct fold_waiter {
	struct request *request;
	vm_done done;
	void *user;
};

static void waited(void *user, struct vm *vm, const struct error *err)
{
	struct fold_waiter waiter = *(struct fold_waiter *)user;

	free(user);
	if (waiter.request)
		fold_forget(vm, waiter.request);
	waiter.done(waiter.user, vm, err);
}

void fold_wait(struct vm *vm, struct request *request, vm_done done, void *user)
{
	struct folding *folding = vm->folding;
	struct fold_waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter)
		abort();
	*waiter = (struct fold_waiter){ request, done, user };
	if (request) {
		request_progress(request, vm->config->name,
				 "waiting until its disks are merged (%u %%)", folding->percent);
		if (!folding->watcher)
			folding->watcher = request;
	}
	vm_wait(vm, VM_WAIT_IDLE, waited, waiter, request);
}

void fold_resume(struct vm *vm)
{
	struct error err;

	if (vm->removed || vm->folding || !fold_is_wanted(vm))
		return;
	if (vm_is_down(vm) && fold_settle(vm, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
	else
		fold_begin(vm, NULL);
}

void fold_stop(struct vm *vm)
{
	struct folding *folding = vm->folding;

	if (!folding)
		return;
	folding->stopping = true;
	if (folding->job)
		disk_job_cancel(folding->job);
}

void fold_detach(struct vm *vm, const struct error *err)
{
	struct folding *folding = vm->folding;

	if (!folding)
		return;
	tell_asked(folding, err);
	if (folding->job)
		disk_job_leave(folding->job);
	folding_free(folding);
}

bool fold_is_pending(const struct vm *vm)
{
	return vm->folding || (vm->fold_failures > 0 && fold_is_wanted(vm));
}

bool fold_is_live(const struct vm *vm)
{
	return vm->folding && vm->folding->at == FOLD_LIVE;
}

bool fold_holds(const struct vm *vm)
{
	return vm->folding && holds(vm->folding);
}
