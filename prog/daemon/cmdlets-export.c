/*
 * Export-VM and Export-VMSnapshot: a folder of the VM's name with Hyper-V's three in it. Its
 * description is written last, so that an export that was cut short is none:
 *
 *	PATH/NAME/Virtual Machines/ID/vm.json, boot/ (kernel and initial RAM disk),
 *		saved-ID/ (memory and mark, as of a saved VM), below.json (checkpoint-below.h)
 *	PATH/NAME/Virtual Hard Disks/
 *	PATH/NAME/Snapshots/ID/ (its checkpoints: checkpoints.h)
 *
 * A differencing disk goes with its parents. A VM that runs is exported as of a checkpoint that is
 * taken for it and removed at the end. While disks are being merged the export of them waits.
 */
#include "cmdlets.h"

#include "base/macros.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
#include "checkpoints.h"
#include "config/config-json.h"
#include "disk-files.h"
#include "objects.h"
#include "package.h"
#include "run.h"
#include "saved.h"
#include "transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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
	struct package package;
	struct disk_files *files;            /* of its disks */
	char *machine, *checkpoints, *disks; /* folders of the copy */
};

/* ---- what is copied ---- */

static struct package_places places_of(const struct export *export)
{
	return (struct package_places){ export->machine, export->checkpoints, export->disks };
}

static int prepare(struct export *export, struct vm *vm, struct error *err)
{
	const char *path = request_string(export->request, "Path");
	AUTO_FREE char *top = package_folder(path, vm->config->name);
	AUTO_FREE char *machines = transfer_path(top, "Virtual Machines");
	struct package_places places;
	int r;

	export->machine = transfer_path(machines, vm->id);
	export->checkpoints = transfer_path(top, "Snapshots");
	export->disks = transfer_path(top, "Virtual Hard Disks");
	transfer_add(export->transfer, UNDO_SHARED_FOLDER, path);
	transfer_add(export->transfer, UNDO_OWN_FOLDER, top);
	transfer_add(export->transfer, UNDO_OWN_FOLDER, machines);
	transfer_add(export->transfer, UNDO_OWN_FOLDER, export->disks);
	r = config_set_string(&export->package.config->checkpoint_folder, export->checkpoints, err);
	places = places_of(export);
	return r < 0
		   ? r
		   : package_copy(&export->package, export->files, &places, export->transfer, err);
}

/* ---- one VM after the other ---- */

static void next(void *user);

static struct item *item_of(struct export *export)
{
	return &export->items[export->index];
}

/* The next one follows from the loop: there may be thousands. */
static void end_one(struct export *export)
{
	struct item *item = item_of(export);

	if (item->began)
		item->vm->busy = NULL;
	if (item->temporary)
		checkpoint_give_back(item->vm);
	if (item->began && item->vm->state == VM_OFF)
		checkpoint_remove_automatic(item->vm);
	fold_resume(item->vm);
	vm_unref(item->vm);
	package_done(&export->package);
	disk_files_free(TAKE(export->files));
	free(TAKE(export->machine));
	free(TAKE(export->checkpoints));
	free(TAKE(export->disks));
	export->index++;
	loop_post(export->request->daemon->loop, next, export);
}

static int write_description(struct export *export, struct error *err)
{
	AUTO_CLOSE int fd = open(export->machine, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct package_places places = places_of(export);
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.200s'", export->machine);
	r = package_write(&export->package, &places, err);
	if (r == 0)
		r = config_save(fd, "vm.json", export->package.config, err);
	return r == 0 ? transfer_commit(export->transfer, err) : r;
}

static void skip(struct export *export, const struct error *err)
{
	request_error(export->request, item_of(export)->vm->config->name, err);
	end_one(export);
}

static void copied(void *user, const struct error *err)
{
	struct export *export = user;
	struct vm *vm = item_of(export)->vm;
	struct error failure;

	if (!err && write_description(export, &failure) < 0)
		err = &failure;
	if (err) {
		skip(export, err);
		return;
	}
	vm_event(vm, EVENT_VM_EXPORTED, NULL, "'%s' was exported to '%.300s'.", vm->config->name,
		 export->machine);
	request_result(export->request, object_vm(vm));
	end_one(export);
}

static void copy_all(struct export *export)
{
	struct error err;

	export->transfer = transfer_new(export->request);
	if (prepare(export, item_of(export)->vm, &err) == 0) {
		transfer_run(export->transfer, copied, export);
		return;
	}
	transfer_free(export->transfer);
	skip(export, &err);
}

/* Its disks and their parents. */
static void disks_found(void *user, struct disk_files *files, const struct error *err)
{
	struct export *export = user;
	struct error failure;

	export->files = files;
	if (files && files->failure_count) {
		failure = files->failures[0].why;
		error_prefix(&failure, "disk '%.200s'", files->failures[0].path);
		err = &failure;
	}
	if (err)
		skip(export, err);
	else
		copy_all(export);
}

/* Of the memory that goes along the name changes. */
static void choose_memory(struct export *export)
{
	const struct item *item = item_of(export);
	struct package *package = &export->package;

	if (!item->checkpoint[0] && package->config->saved_state) {
		package->memory = saved_memory_path(item->vm, package->config->saved_state);
	} else if (item->checkpoint[0]) {
		package->memory = checkpoint_memory_path(item->vm, item->checkpoint);
		if (access(package->memory, F_OK) < 0)
			free(TAKE(package->memory));
	}
}

/* With the VM go its checkpoints; one of them alone becomes a VM without any. */
static int choose_checkpoints(struct export *export, struct error *err)
{
	const struct item *item = item_of(export);
	AUTO_FREE char *folder = checkpoints_folder(item->vm->folder, item->vm->config);
	struct package *package = &export->package;

	if (item->checkpoint[0] && !item->temporary)
		return config_set_string(&package->config->parent_checkpoint, NULL, err);
	return package_add_checkpoints(package, folder, err);
}

static int begin_one(struct export *export, struct error *err)
{
	struct item *item = item_of(export);
	struct vm *vm = item->vm;
	int r = vm_check_busy(vm, err);

	if (r < 0)
		return r;
	/* Neither disks nor checkpoints change meanwhile. */
	vm->busy = "it is being exported";
	item->began = true;
	if (item->checkpoint[0])
		r = checkpoint_config(vm, item->checkpoint, &export->package.config, err);
	else
		r = (export->package.config = vm_config_copy(vm, err)) ? 0 : -(int)err->code;
	if (r < 0)
		return r;
	choose_memory(export);
	return choose_checkpoints(export, err);
}

static void begin(struct export *export)
{
	struct error err;
	json_t *disks;

	if (begin_one(export, &err) < 0) {
		skip(export, &err);
		return;
	}
	disks = package_disks(&export->package);
	disk_files_find(export->request, disks, disks_found, export);
	json_decref(disks);
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
	next(export);
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

/* It is exported as it stands: the VM as it is now, or a checkpoint that is there. */
static bool stands(const struct item *item)
{
	return item->checkpoint[0] || vm_is_down(item->vm);
}

static int check(const struct export *export, const struct item *item, struct error *err)
{
	const struct vm *vm = item->vm;

	if (export->request->cancelled)
		return error_set(err, ERR_CANCELLED, "it was cancelled");
	if (vm->removed)
		return error_set(err, ERR_NOT_FOUND, "it was removed meanwhile");
	if (!stands(item) &&
	    ((vm->state != VM_RUNNING && vm->state != VM_PAUSED) || vm->run->saving_id[0]))
		return error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
				 vm_state_name(vm->state));
	return 0;
}

static void merge_ended(void *user, struct vm *vm, const struct error *err)
{
	if (err)
		skip(user, err);
	else
		next(user);
}

/* Also after a wait, in which anything may have become of the VM. */
static void next(void *user)
{
	struct export *export = user;
	struct item *item = item_of(export);
	struct error err;

	if (export->index == export->count) {
		request_release(export->request);
		free(export->items);
		free(export);
	} else if (check(export, item, &err) < 0) {
		skip(export, &err);
	} else if (stands(item) && item->vm->folding) {
		fold_wait(item->vm, export->request, merge_ended, export);
	} else if (stands(item)) {
		begin(export);
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
