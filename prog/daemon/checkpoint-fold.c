/* The layers over a VM's disks back into them, when no checkpoint needs them any more. */
#include "checkpoint-disks.h"

#include "base/macros.h"
#include "disk-job.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* For each disk, one after the other, two jobs: "parents" tells the chain's names, which are judged
 * here, and "merge" does it. vm.json comes after that, and then the merged files go: a chain reads
 * the same before and after, whenever it ends. */
struct folding {
	struct vm *vm;
	struct config_vm *config; /* with the merged ones, as far as it has come */
	struct request *request;
	checkpoint_disks_folded done;
	void *user;
	unsigned index;
	json_t *paths;  /* the chain of the one at work, leaf first; NULL: not yet asked for */
	size_t into;    /* which of them is merged into */
	json_t *merged; /* files that go */
	struct disk_job *job;
};

static void next(struct folding *folding);

static void finish(struct folding *folding, const struct error *err)
{
	struct vm *vm = folding->vm;
	struct error failure;

	vm->busy = NULL;
	if (!json_array_size(folding->merged))
		config_vm_free(folding->config);
	else if (vm_change(vm, folding->config, &failure) < 0)
		err = &failure;
	else
		for (size_t i = 0; i < json_array_size(folding->merged); i++)
			unlink(json_string_value(json_array_get(folding->merged, i)));
	folding->done(folding->user, vm, err);
	request_release(folding->request);
	vm_unref(vm);
	json_decref(folding->paths);
	json_decref(folding->merged);
	free(folding);
}

static void fail(struct folding *folding, struct error *err)
{
	error_prefix(err, "merging '%.200s'", folding->config->disks[folding->index].path);
	finish(folding, err);
}

/* The names come out of images, and what is under the layers is written to: only what was under
 * them when they were made will do. */
static int judge(const char *leaf, const json_t *parents, size_t *ret, struct error *err)
{
	for (size_t i = 0; i < json_array_size(parents); i++) {
		const char *path = json_string_value(json_array_get(parents, i));

		if (!path || !checkpoint_disk_is_below(leaf, path))
			break;
		*ret = i + 1;
		if (!checkpoint_disk_was_made_here(path))
			return 0;
	}
	return error_set(err, ERR_STATE,
			 "the disk under it is not the one that a checkpoint was taken of");
}

static int take_merged(struct folding *folding, struct error *err)
{
	struct config_disk *disk = &folding->config->disks[folding->index];
	const json_t *base = json_array_get(folding->paths, folding->into);
	int r = config_set_string(&disk->path, json_string_value(base), err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < folding->into; i++)
		json_array_append(folding->merged, json_array_get(folding->paths, i));
	json_decref(folding->paths);
	folding->paths = NULL;
	folding->index++;
	return 0;
}

static void step_done(void *user, const json_t *result, struct process *process,
		      const struct error *err);

static void progress(void *user, uint64_t done, uint64_t total)
{
	struct folding *folding = user;

	request_progress(folding->request, folding->vm->config->name, "merging its disks, %u %%",
			 (unsigned)(MIN(done, total) * 100.0 / MAX(total, UINT64_C(1))));
}

/* Takes message. */
static int start(struct folding *folding, json_t *message, struct error *err)
{
	static const struct disk_job_events events = { progress, step_done };

	return disk_job_start(folding->vm->daemon, message, NULL, 0, 0, &events, folding,
			      &folding->job, err);
}

static int ask_for_merge(struct folding *folding, const json_t *result, struct error *err)
{
	const char *leaf = folding->config->disks[folding->index].path;
	json_t *parents = json_object_get(result, "parents");
	int r = judge(leaf, parents, &folding->into, err);

	if (r < 0)
		return r;
	folding->paths = json_pack("[s]", leaf);
	json_array_extend(folding->paths, parents);
	return start(folding,
		     json_pack("{s:s, s:s, s:O, s:I}", "op", "merge", "path", leaf, "paths",
			       folding->paths, "into", (json_int_t)folding->into),
		     err);
}

static void step_done(void *user, const json_t *result, struct process *process,
		      const struct error *err)
{
	struct folding *folding = user;
	struct error failure;
	bool merged = folding->paths != NULL;
	int r;

	if (err) {
		failure = *err;
		r = -(int)err->code;
	} else if (merged) {
		r = take_merged(folding, &failure);
	} else {
		r = ask_for_merge(folding, result, &failure);
	}
	if (r < 0)
		fail(folding, &failure);
	else if (merged)
		next(folding);
}

static void next(struct folding *folding)
{
	const struct config_vm *config = folding->config;
	const struct config_disk *disk = NULL;
	struct error err;

	for (; folding->index < config->disk_count; folding->index++) {
		disk = &config->disks[folding->index];
		if (disk->kind == CONFIG_DISK_HARD && !disk->read_only && disk->path &&
		    checkpoint_disk_was_made_here(disk->path))
			break;
	}
	if (folding->index == config->disk_count) {
		finish(folding, NULL);
		return;
	}
	if (start(folding, json_pack("{s:s, s:s}", "op", "parents", "path", disk->path), &err) < 0)
		fail(folding, &err);
}

void checkpoint_disks_fold(struct vm *vm, struct request *request, checkpoint_disks_folded done,
			   void *user)
{
	struct folding *folding = calloc(1, sizeof(*folding));
	struct error err;

	if (!folding)
		abort();
	*folding = (struct folding){ .vm = vm_ref(vm),
				     .config = vm_config_copy(vm, &err),
				     .request = request,
				     .done = done,
				     .user = user,
				     .merged = json_array() };
	if (!folding->config)
		abort();
	vm->busy = "the disks of its checkpoints are being merged";
	request_hold(request);
	next(folding);
}
