#include "checkpoint-disks.h"

#include "base/log.h"
#include "base/macros.h"
#include "checkpoint-below.h"
#include "checkpoint-fold.h"
#include "checkpoints.h"
#include "config/config-json.h"
#include "disk-job.h"
#include "files.h"
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* "_" and a GUID, between a disk's name and its ending */
#define MARK_LEN (1 + GUID_TEXT_SIZE - 1)

struct layering {
	struct vm *vm;
	struct config_vm *config;
	json_t *plan;
	checkpoint_disks_done done;
	void *user;
	size_t index; /* in the plan: the one at work */
	struct output output;
	int track_fd; /* of what tracks the changes of the disk at work; -1: nothing */
	struct disk_job *job;
};

static void next(struct layering *layering);

/* ---- names ---- */

static bool needs_one(const struct config_disk *disk)
{
	return disk->kind == CONFIG_DISK_HARD && !disk->read_only && disk->path;
}

bool checkpoint_disks_any(const struct config_vm *config)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (needs_one(&config->disks[i]))
			return true;
	return false;
}

/* VHD under VHD, VHDX under VHDX. */
static const char *format_of(const char *path)
{
	const char *dot = strrchr(path, '.');

	if (dot && (strcasecmp(dot, ".vhdx") == 0 || strcasecmp(dot, ".avhdx") == 0))
		return "vhdx";
	if (dot && (strcasecmp(dot, ".vhd") == 0 || strcasecmp(dot, ".avhd") == 0))
		return "vhd";
	return NULL;
}

/* Length of path without ending and mark. *ret_marked: it had one. */
static size_t stem(const char *path, bool *ret_marked)
{
	size_t len = (size_t)(strrchr(path, '.') - path);
	char text[GUID_TEXT_SIZE];
	struct guid guid;

	*ret_marked = false;
	if (len <= MARK_LEN || path[len - MARK_LEN] != '_')
		return len;
	snprintf(text, sizeof(text), "%.*s", GUID_TEXT_SIZE - 1, path + len - MARK_LEN + 1);
	*ret_marked = guid_parse(text, &guid);
	return *ret_marked ? len - MARK_LEN : len;
}

bool checkpoint_disk_was_made_here(const char *path)
{
	const char *dot = strrchr(path, '.');
	bool marked = false;

	if (!dot || (strcasecmp(dot, ".avhdx") != 0 && strcasecmp(dot, ".avhd") != 0))
		return false;
	stem(path, &marked);
	return marked;
}

bool checkpoint_disk_is_below(const char *above, const char *path)
{
	bool marked;
	size_t len;

	if (!format_of(above) || !format_of(path))
		return false;
	len = stem(above, &marked);
	return stem(path, &marked) == len && strncmp(above, path, len) == 0;
}

static char *new_path(const char *path, const char *format)
{
	char text[GUID_TEXT_SIZE];
	struct guid guid;
	char *ret = NULL;
	bool marked;

	guid_generate(&guid);
	guid_format(&guid, text);
	if (asprintf(&ret, "%.*s_%s.a%s", (int)stem(path, &marked), path, text, format) < 0)
		abort();
	return ret;
}

/* ---- the plan ---- */

static bool has_disk(const struct config_vm *config, const char *path)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (config->disks[i].path && strcmp(config->disks[i].path, path) == 0)
			return true;
	return false;
}

int checkpoint_disks_plan(const struct config_vm *config, json_t **ret, struct error *err)
{
	json_t *plan = json_array();

	for (unsigned i = 0; i < config->disk_count; i++) {
		const char *old = config->disks[i].path, *format;
		AUTO_FREE char *new = NULL;

		if (!needs_one(&config->disks[i]))
			continue;
		format = format_of(old);
		if (!format) {
			json_decref(plan);
			return error_set(err, ERR_UNSUPPORTED,
					 "a new disk over '%.200s': it is no virtual hard disk by "
					 "its name (.vhdx or .vhd), and others can't have "
					 "checkpoints",
					 old);
		}
		new = new_path(old, format);
		json_array_append_new(plan, json_pack("{s:s, s:s}", "old", old, "new", new));
	}
	*ret = plan;
	return 0;
}

static const char *path_in(const json_t *entry, const char *name)
{
	const char *path = json_string_value(json_object_get(entry, name));

	return path ? path : "";
}

int checkpoint_disks_rename(struct config_vm *config, const char *old, const char *new,
			    struct error *err)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (needs_one(&config->disks[i]) && strcmp(config->disks[i].path, old) == 0)
			return config_set_string(&config->disks[i].path, new, err) < 0
				   ? -(int)err->code
				   : 1;
	return 0;
}

int checkpoint_disks_follow(struct config_vm *config, const json_t *plan, struct error *err)
{
	int r = 0;

	for (size_t k = 0; r >= 0 && k < json_array_size(plan); k++) {
		const json_t *entry = json_array_get(plan, k);

		r = checkpoint_disks_rename(config, path_in(entry, "old"), path_in(entry, "new"),
					    err);
	}
	return r < 0 ? r : 0;
}

void checkpoint_disks_undo(const struct vm *vm, const json_t *plan)
{
	for (size_t k = 0; k < json_array_size(plan); k++) {
		const char *path = path_in(json_array_get(plan, k), "new");

		if (checkpoint_disk_was_made_here(path) && !has_disk(vm->config, path))
			unlink(path);
	}
}

/* ---- making them ---- */

static void finish(struct layering *layering, const struct error *err)
{
	struct config_vm *config = layering->config;
	struct vm *vm = layering->vm;
	struct error failure;

	vm->busy = NULL;
	if (!err && checkpoint_disks_follow(config, layering->plan, &failure) < 0)
		err = &failure;
	if (err) {
		checkpoint_disks_undo(vm, layering->plan);
		config_vm_free(config);
		config = NULL;
	}
	layering->done(layering->user, vm, config, err);
	vm_unref(vm);
	json_decref(layering->plan);
	free(layering);
}

static void end_one(struct layering *layering)
{
	output_done(&layering->output);
	if (layering->track_fd >= 0)
		close(layering->track_fd);
	layering->track_fd = -1;
}

static void fail(struct layering *layering, struct error *err)
{
	end_one(layering);
	error_prefix(err, "a new disk over '%.200s'",
		     path_in(json_array_get(layering->plan, layering->index), "old"));
	finish(layering, err);
}

static void made_one(void *user, const json_t *result, struct process *process,
		     const struct error *err)
{
	struct layering *layering = user;
	struct error failure;
	int r;

	if (err)
		failure = *err;
	r = err ? -(int)err->code : output_commit(&layering->output, &failure);
	if (r < 0) {
		fail(layering, &failure);
		return;
	}
	end_one(layering);
	layering->index++;
	next(layering);
}

static void progress(void *user, uint64_t done, uint64_t total)
{
}

static int begin_one(struct layering *layering, struct error *err)
{
	static const struct disk_job_events events = { progress, made_one };
	const json_t *entry = json_array_get(layering->plan, layering->index);
	const char *path = path_in(entry, "new"), *format = format_of(path);
	json_t *message;
	int fds[2], r = output_open(path, &layering->output, err);

	if (r < 0)
		return r;
	fds[0] = layering->output.fd;
	fds[1] = layering->track_fd;
	message = json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:s, s:b}", "op", "create",
			    "path", path, "format", format ? format : "", "type", "differencing",
			    "size", 0, "block", 0, "logical", 0, "physical", 0, "parent",
			    path_in(entry, "old"), "tracked", fds[1] >= 0);
	return disk_job_start(layering->vm->daemon, message, fds, fds[1] >= 0 ? 2 : 1, 0, &events,
			      layering, &layering->job, err);
}

static void chain_known(void *user, const json_t *result, struct process *process,
			const struct error *err)
{
	struct layering *layering = user;
	const json_t *entry = json_array_get(layering->plan, layering->index);
	struct error failure;
	int r = err ? -(int)err->code : 0;

	if (err)
		failure = *err;
	if (r == 0)
		r = files_open_track_of(path_in(entry, "old"), json_object_get(result, "parents"),
					&layering->track_fd, &failure);
	if (r == 0)
		r = begin_one(layering, &failure);
	if (r < 0)
		fail(layering, &failure);
}

/* What tracks the changes of a disk lies beside it or one of its parents. A worker has it, and lets
 * it follow by itself. */
static int find_track(struct layering *layering, struct error *err)
{
	static const struct disk_job_events events = { progress, chain_known };
	const char *path = path_in(json_array_get(layering->plan, layering->index), "old");

	return disk_job_start(layering->vm->daemon,
			      json_pack("{s:s, s:s}", "op", "parents", "path", path), NULL, 0, 0,
			      &events, layering, &layering->job, err);
}

static void next(struct layering *layering)
{
	struct error err;

	if (layering->index == json_array_size(layering->plan))
		finish(layering, NULL);
	else if ((vm_has_no_worker(layering->vm) ? find_track : begin_one)(layering, &err) < 0)
		fail(layering, &err);
}

void checkpoint_disks_make(struct vm *vm, struct config_vm *config, const json_t *plan,
			   checkpoint_disks_done done, void *user)
{
	struct layering *layering = calloc(1, sizeof(*layering));

	if (!layering)
		abort();
	*layering = (struct layering){ .vm = vm_ref(vm),
				       .config = config,
				       .plan = json_incref((json_t *)plan),
				       .done = done,
				       .user = user,
				       .output = { .fd = -1, .folder_fd = -1 },
				       .track_fd = -1 };
	vm->busy = "its disks are being made for a checkpoint";
	next(layering);
}

/* ---- removing them ---- */

/* A checkpoint that can't be read may have it. */
static bool is_needed(const struct vm *vm, const struct checkpoints *all, const char *path)
{
	bool needed = has_disk(vm->config, path);

	for (size_t i = 0; !needed && i < all->count; i++) {
		struct config_vm *config;

		if (checkpoint_config(vm, all->list[i].id, &config, NULL) < 0)
			return true;
		needed = has_disk(config, path);
		config_vm_free(config);
	}
	return needed || below_has(vm, all, path);
}

/* ---- other disks for a VM ---- */

#define REPLACED_FILE "replaced.json"

static int open_folder(const struct vm *vm, struct error *err)
{
	int fd = open(vm->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, errno, "opening the folder '%.200s'", vm->folder) : fd;
}

static void add_disks(json_t *paths, const struct config_vm *config)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (needs_one(&config->disks[i]))
			json_array_append_new(paths, json_string(config->disks[i].path));
}

/* Takes paths. */
static int note_replaced(const struct vm *vm, json_t *paths, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm, err);
	int r = fd < 0 ? fd : config_save_json(fd, REPLACED_FILE, paths, err);

	json_decref(paths);
	return r;
}

int checkpoint_disks_replace(const struct vm *vm, const json_t *plan, struct error *err)
{
	json_t *paths = json_array();

	for (size_t i = 0; i < json_array_size(plan); i++)
		json_array_append_new(paths, json_string(path_in(json_array_get(plan, i), "new")));
	add_disks(paths, vm->config);
	below_add(vm, NULL, paths);
	return note_replaced(vm, paths, err);
}

int checkpoint_disks_leave(struct vm *vm, const json_t *plan, struct error *err)
{
	json_t *paths = json_array();
	int r;

	for (size_t i = 0; i < json_array_size(plan); i++)
		json_array_append_new(paths, json_string(path_in(json_array_get(plan, i), "old")));
	r = below_leave(vm, paths, err);
	json_decref(paths);
	return r == 0 ? fold_want(vm, err) : r;
}

bool checkpoint_disks_unsettled(const struct vm *vm)
{
	AUTO_CLOSE int fd = open_folder(vm, NULL);

	return fd >= 0 && faccessat(fd, REPLACED_FILE, F_OK, 0) == 0;
}

void checkpoint_disks_replaced(const struct vm *vm)
{
	AUTO_CLOSE int fd = open_folder(vm, NULL);
	json_t *paths = NULL;
	struct checkpoints all;

	if (fd < 0 || config_load_json(fd, REPLACED_FILE, &paths, NULL) < 0)
		return;
	checkpoints_load(vm, &all);
	for (size_t i = 0; i < json_array_size(paths); i++) {
		const char *path = json_string_value(json_array_get(paths, i));

		if (path && checkpoint_disk_was_made_here(path) && !is_needed(vm, &all, path))
			unlink(path);
	}
	checkpoints_done(&all);
	json_decref(paths);
	unlinkat(fd, REPLACED_FILE, 0);
}

/* Does anything come from it? Then its disks lie under others. */
static bool has_children(const struct vm *vm, const struct checkpoints *all, const char *id)
{
	if (vm->config->parent_checkpoint && strcmp(vm->config->parent_checkpoint, id) == 0)
		return true;
	for (size_t i = 0; i < all->count; i++)
		if (all->list[i].parent && strcmp(all->list[i].parent, id) == 0)
			return true;
	return false;
}

/* What is to be done behind its removal is written down before. */
static int note_removal(struct vm *vm, const struct checkpoints *all,
			const struct checkpoint *checkpoint, const struct config_vm *config,
			struct error *err)
{
	json_t *paths;
	int r = fold_want(vm, err);

	if (r < 0)
		return r;
	paths = json_array();
	add_disks(paths, config);
	if (!has_children(vm, all, checkpoint->id)) {
		below_add(vm, checkpoint->id, paths);
		return note_replaced(vm, paths, err);
	}
	r = below_inherit(vm, all, checkpoint, paths, err);
	json_decref(paths);
	return r;
}

int checkpoint_disks_remove_with(struct vm *vm, const struct checkpoints *all,
				 const struct checkpoint *checkpoint, struct error *err)
{
	struct config_vm *config;
	int r = vm_check_busy(vm, err);

	if (r == 0)
		r = checkpoint_config(vm, checkpoint->id, &config, err);
	if (r < 0)
		return r;
	r = note_removal(vm, all, checkpoint, config, err);
	if (r == 0)
		r = checkpoint_remove(vm, checkpoint, err);
	checkpoint_disks_replaced(vm);
	config_vm_free(config);
	return r;
}
