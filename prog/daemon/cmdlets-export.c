/*
 * Export-VM and Export-VMSnapshot: a folder of the VM's name with Hyper-V's three in it. Its
 * description is written last, so that an export that was cut short is none:
 *
 *	PATH/NAME/Virtual Machines/ID/vm.json, boot/ (kernel and initial RAM disk),
 *		saved-ID/ (memory and mark, as of a saved VM)
 *	PATH/NAME/Virtual Hard Disks/
 *	PATH/NAME/Snapshots/
 *
 * A differencing disk goes with its parents. A VM that runs is exported as of a checkpoint that is
 * taken for it and removed at the end. The VM's checkpoints stay behind.
 */
#include "cmdlets.h"

#include "base/log.h"
#include "base/macros.h"
#include "checkpoint-disks.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
#include "checkpoints.h"
#include "config/config-json.h"
#include "disk-job.h"
#include "files.h"
#include "objects.h"
#include "run.h"
#include "saved.h"
#include "transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct item {
	struct vm *vm;
	char checkpoint[GUID_TEXT_SIZE]; /* "": the VM as it is now */
	bool temporary;                  /* taken for this */
	bool began;                      /* the VM is busy with it */
};

/* One request: VMs or checkpoints, one after the other. */
struct export
{
	struct request *request;
	struct item *items;
	size_t count, index;
	struct transfer *transfer;
	char *memory;             /* that goes along; NULL: none */
	struct config_vm *config; /* of the copy */
	json_t *parents;          /* of its disks, the direct one first: a list for each disk */
	struct disk_job *job;     /* finds them */
	char *folder;             /* of its description */
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- what is copied ---- */

/* Replaces *field, the path of a file, by that of its copy in `folder`. */
static int copy_to(struct export *export, char **field, const char *folder, struct error *err)
{
	AUTO_FREE char *to = transfer_path(folder, base_name(*field));

	transfer_file(export->transfer, *field, to);
	return config_set_string(field, to, err);
}

static int check_names(const struct config_vm *config, struct error *err)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		for (unsigned k = 0; k < i; k++) {
			const char *one = config->disks[i].path, *other = config->disks[k].path;

			if (one && other && config->disks[i].kind == CONFIG_DISK_HARD &&
			    config->disks[k].kind == CONFIG_DISK_HARD &&
			    strcmp(base_name(one), base_name(other)) == 0)
				return error_set(err, ERR_EXISTS,
						 "two of its disks have the name '%.200s', which "
						 "one folder can't hold",
						 base_name(one));
		}
	return 0;
}

static bool same_folder(const char *one, const char *other)
{
	AUTO_FREE char *real_one = realpath(one, NULL);
	AUTO_FREE char *real_other = realpath(other, NULL);
	size_t length = real_one ? (size_t)(base_name(real_one) - real_one) : 0;

	return real_other && length == (size_t)(base_name(real_other) - real_other) &&
	       strncmp(real_one, real_other, length) == 0;
}

/* A child names its parent by the way from its own folder: that way must be the same in the copy.
 */
static int copy_parents(struct export *export, unsigned disk, const char *folder, struct error *err)
{
	const char *child = export->config->disks[disk].path;
	const json_t *parents = json_array_get(export->parents, disk);

	for (size_t i = 0; i < json_array_size(parents); i++) {
		const char *parent = json_string_value(json_array_get(parents, i));
		AUTO_FREE char *to = parent ? transfer_path(folder, base_name(parent)) : NULL;

		if (!parent || !same_folder(child, parent))
			return error_set(err, ERR_UNSUPPORTED,
					 "the parent '%.150s' of '%.150s' lies in another folder; "
					 "Convert-VHD makes one disk of them",
					 parent ? parent : "", child);
		transfer_file(export->transfer, parent, to);
	}
	return 0;
}

/* ISO images stay where they are, as Hyper-V leaves them. */
static int copy_disks(struct export *export, const char *folder, struct error *err)
{
	struct config_vm *config = export->config;
	int r = check_names(config, err);

	for (unsigned i = 0; r == 0 && i < config->disk_count; i++) {
		if (config->disks[i].kind != CONFIG_DISK_HARD)
			continue;
		r = copy_parents(export, i, folder, err);
		if (r == 0)
			r = copy_to(export, &config->disks[i].path, folder, err);
	}
	return r;
}

static int copy_boot(struct export *export, struct error *err)
{
	AUTO_FREE char *folder = transfer_path(export->folder, "boot");
	int r;

	if (!export->config->kernel_path)
		return 0;
	r = transfer_folder(export->transfer, folder, err);
	if (r == 0)
		r = copy_to(export, &export->config->kernel_path, folder, err);
	if (r == 0 && export->config->initrd_path)
		r = copy_to(export, &export->config->initrd_path, folder, err);
	return r;
}

/* A VM's name may hold what a folder's can't. */
static char *top_folder(const char *path, const char *name)
{
	char *folder = transfer_path(path, name), *at = folder + strlen(path) + 1;

	if (*at == '.')
		*at = '_';
	for (; *at; at++)
		if (*at == '/')
			*at = '_';
	return folder;
}

static int copy_memory(struct export *export, struct error *err)
{
	const char *id = export->config->saved_state;
	AUTO_FREE char *folder = NULL, *to = NULL;
	int r;

	if (!export->memory)
		return 0;
	folder = saved_path_in(export->folder, id, NULL);
	to = saved_path_in(export->folder, id, "memory");
	r = transfer_folder(export->transfer, folder, err);
	if (r == 0)
		transfer_file(export->transfer, export->memory, to);
	return r;
}

static int prepare(struct export *export, struct vm *vm, struct error *err)
{
	const char *path = request_string(export->request, "Path");
	AUTO_FREE char *top = top_folder(path, vm->config->name);
	AUTO_FREE char *machines = transfer_path(top, "Virtual Machines");
	AUTO_FREE char *disks = transfer_path(top, "Virtual Hard Disks");
	AUTO_FREE char *snapshots = transfer_path(top, "Snapshots");
	const char *const folders[] = { path, top, machines, disks, snapshots };
	struct stat st;
	int r = 0;

	if (stat(top, &st) == 0)
		return error_set(err, ERR_EXISTS, "there is '%.300s' already", top);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(folders); i++)
		r = transfer_folder(export->transfer, folders[i], err);
	export->folder = transfer_path(machines, vm->id);
	if (r == 0)
		r = transfer_folder(export->transfer, export->folder, err);
	if (r == 0)
		r = copy_disks(export, disks, err);
	if (r == 0)
		r = copy_boot(export, err);
	return r == 0 ? copy_memory(export, err) : r;
}

/* ---- one VM after the other ---- */

static void next(struct export *export);

static struct item *item_of(struct export *export)
{
	return &export->items[export->index];
}

static void remove_temporary(const struct item *item)
{
	const struct checkpoint *checkpoint;
	struct checkpoints all;
	struct error err;

	checkpoints_load(item->vm, &all);
	checkpoint = checkpoints_find(&all, item->checkpoint);
	if (checkpoint && checkpoint_disks_remove_with(item->vm, &all, checkpoint, &err) < 0)
		log_error("virtual machine '%s': removing the checkpoint of its export: %s",
			  item->vm->config->name, err.text);
	checkpoints_done(&all);
	fold_begin(item->vm, NULL);
}

static void end_one(struct export *export)
{
	struct item *item = item_of(export);

	if (item->began)
		item->vm->busy = NULL;
	if (item->temporary)
		remove_temporary(item);
	if (item->began && item->vm->state == VM_OFF)
		checkpoint_remove_automatic(item->vm);
	fold_resume(item->vm);
	vm_unref(item->vm);
	free(export->memory);
	export->memory = NULL;
	config_vm_free(export->config);
	export->config = NULL;
	json_decref(export->parents);
	export->parents = NULL;
	free(export->folder);
	export->folder = NULL;
	export->index++;
}

static int write_description(struct export *export, struct error *err)
{
	AUTO_CLOSE int fd = open(export->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	const char *saved = export->config->saved_state;
	int r = 0;

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.200s'", export->folder);
	if (export->memory)
		r = saved_mark_in(export->folder, saved, err);
	if (r == 0)
		r = config_save(fd, "vm.json", export->config, err);
	if (r < 0 && export->memory) {
		AUTO_FREE char *mark = saved_path_in(export->folder, saved, "mark");

		unlink(mark);
	}
	return r;
}

static int copied(void *user, const struct error *err)
{
	struct export *export = user;
	struct vm *vm = item_of(export)->vm;
	struct error failure;
	int r = 0;

	if (err)
		failure = *err;
	else
		r = write_description(export, &failure);
	if (err || r < 0) {
		request_error(export->request, vm->config->name, &failure);
		r = -(int)failure.code;
	} else {
		vm_event(vm, EVENT_VM_EXPORTED, NULL, "'%s' was exported to '%.300s'.",
			 vm->config->name, export->folder);
		request_result(export->request, object_vm(vm));
	}
	end_one(export);
	next(export);
	return r;
}

static void copy_all(struct export *export)
{
	struct vm *vm = item_of(export)->vm;
	struct error err;

	export->transfer = transfer_new(export->request);
	if (prepare(export, vm, &err) == 0) {
		transfer_run(export->transfer, copied, export);
		return;
	}
	transfer_free(export->transfer);
	request_error(export->request, vm->config->name, &err);
	end_one(export);
	next(export);
}

/* ---- the parents of its disks, one disk after the other ---- */

static void find_parents(struct export *export);

static void skip(struct export *export, const struct error *err)
{
	request_error(export->request, item_of(export)->vm->config->name, err);
	end_one(export);
	next(export);
}

static void parents_found(void *user, const json_t *result, struct process *process,
			  const struct error *err)
{
	struct export *export = user;
	struct error failure;

	export->job = NULL;
	if (err) {
		failure = *err;
		error_prefix(&failure, "disk '%.200s'",
			     export->config->disks[json_array_size(export->parents)].path);
		skip(export, &failure);
		return;
	}
	json_array_append(export->parents, json_object_get(result, "parents"));
	find_parents(export);
}

static void find_parents(struct export *export)
{
	static const struct disk_job_events events = { NULL, parents_found };
	size_t disk;
	struct error err;

	while ((disk = json_array_size(export->parents)) < export->config->disk_count) {
		const struct config_disk *config = &export->config->disks[disk];

		if (!files_may_have_parent(config)) {
			json_array_append_new(export->parents, json_array());
			continue;
		}
		if (disk_job_start(export->request->daemon,
				   json_pack("{s:s, s:s}", "op", "parents", "path", config->path),
				   NULL, 0, 0, &events, export, &export->job, &err) < 0)
			skip(export, &err);
		return;
	}
	copy_all(export);
}

/* Which memory goes along, and by what name. */
static int choose_memory(struct export *export, struct error *err)
{
	const struct item *item = item_of(export);
	struct config_vm *config = export->config;
	char id[GUID_TEXT_SIZE];
	struct guid guid;

	if (item->checkpoint[0]) {
		export->memory = checkpoint_memory_path(item->vm, item->checkpoint);
		if (access(export->memory, F_OK) < 0) {
			free(export->memory);
			export->memory = NULL;
		}
	} else if (config->saved_state) {
		export->memory = saved_memory_path(item->vm, config->saved_state);
	}
	guid_generate(&guid);
	guid_format(&guid, id);
	return config_set_string(&config->saved_state, export->memory ? id : NULL, err);
}

static int begin_one(struct export *export, struct error *err)
{
	struct item *item = item_of(export);
	struct vm *vm = item->vm;
	int r = vm_check_busy(vm, err);

	if (r == 0 && vm->folding)
		r = error_set(err, ERR_BUSY, "its disks are being merged");
	if (r < 0)
		return r;
	/* Neither disks nor checkpoints change meanwhile. */
	vm->busy = "it is being exported";
	item->began = true;
	if (item->checkpoint[0])
		r = checkpoint_config(vm, item->checkpoint, &export->config, err);
	else
		r = (export->config = vm_config_copy(vm, err)) ? 0 : -(int)err->code;
	if (r == 0)
		r = choose_memory(export, err);
	if (r == 0)
		r = config_set_string(&export->config->parent_checkpoint, NULL, err);
	return r;
}

static void begin(struct export *export)
{
	struct error err;

	export->parents = json_array();
	if (begin_one(export, &err) < 0)
		skip(export, &err);
	else
		find_parents(export);
}

static void taken(void *user, struct vm *vm, const char *id, const struct error *err)
{
	struct export *export = user;
	struct item *item = item_of(export);

	if (err) {
		skip(export, err);
		return;
	}
	snprintf(item->checkpoint, sizeof(item->checkpoint), "%s", id);
	item->temporary = true;
	begin(export);
}

/* Hyper-V's default is the memory, too. */
static enum checkpoint_kind kind_of(const struct request *request)
{
	const char *state = request_string(request, "CaptureLiveState");

	if (state && strcmp(state, "CaptureCrashConsistentState") == 0)
		return CHECKPOINT_DISKS;
	if (state && strcmp(state, "CaptureDataConsistentState") == 0)
		return CHECKPOINT_FROZEN;
	return CHECKPOINT_WITH_MEMORY;
}

static void next(struct export *export)
{
	struct item *item = item_of(export);
	struct error err;

	if (export->index == export->count) {
		request_release(export->request);
		free(export->items);
		free(export);
	} else if (item->checkpoint[0] || vm_is_down(item->vm)) {
		begin(export);
	} else if ((item->vm->state != VM_RUNNING && item->vm->state != VM_PAUSED) ||
		   item->vm->run->saving_id[0]) {
		error_set(&err, ERR_STATE, "this is not possible in its present state (%s)",
			  vm_state_name(item->vm->state));
		skip(export, &err);
	} else {
		checkpoint_take_for(item->vm, "Export", kind_of(export->request), export->request,
				    taken, export);
	}
}

static struct item *add_item(struct request *request, struct vm *vm)
{
	struct export *export = request->context;
	struct item *items = reallocarray(export->items, export->count + 2, sizeof(*items));

	if (!items)
		abort();
	export->items = items;
	items[export->count] = (struct item){ .vm = vm_ref(vm) };
	items[export->count + 1] = (struct item){ 0 };
	return &items[export->count++];
}

static void add_vm(struct request *request, struct vm *vm)
{
	add_item(request, vm);
}

static void add_checkpoints(struct request *request, struct vm *vm)
{
	const json_t *names = json_object_get(request->params, "Name");
	struct checkpoints all;
	struct error err;

	checkpoints_load(vm, &all);
	for (size_t k = 0; k < json_array_size(names); k++) {
		const char *name = json_string_value(json_array_get(names, k));
		bool found = false;

		for (size_t i = 0; i < all.count; i++)
			if (cmdlet_wildcard_match(name, all.list[i].name)) {
				memcpy(add_item(request, vm)->checkpoint, all.list[i].id,
				       GUID_TEXT_SIZE);
				found = true;
			}
		if (!found && !cmdlet_has_wildcard(name)) {
			error_set(&err, ERR_NOT_FOUND, "it has no checkpoint '%.100s'", name);
			request_error(request, vm->config->name, &err);
		}
	}
	checkpoints_done(&all);
}

static void run(struct request *request, const char *names,
		void (*add)(struct request *request, struct vm *vm))
{
	struct export *export = calloc(1, sizeof(*export));

	if (!export)
		abort();
	export->request = request;
	export->items = calloc(1, sizeof(*export->items));
	if (!export->items)
		abort();
	request->context = export;
	request_for_vms(request, names, add);
	request_hold(request);
	next(export);
}

void cmdlet_export_vm(struct request *request)
{
	run(request, "Name", add_vm);
}

void cmdlet_export_checkpoint(struct request *request)
{
	run(request, "VMName", add_checkpoints);
}
