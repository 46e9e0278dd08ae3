/* Cmdlets about saved states and checkpoints. */
#include "cmdlets.h"

#include "base/macros.h"
#include "checkpoints.h"
#include "objects.h"
#include "run.h"
#include "saved.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_running(const struct vm *vm)
{
	return (vm->state == VM_RUNNING || vm->state == VM_PAUSED) && vm->run;
}

static void refuse_state(struct request *request, const struct vm *vm)
{
	struct error err;

	error_set(&err, ERR_STATE, "this is not possible in its present state (%s)",
		  vm_state_name(vm->state));
	request_error(request, vm->config->name, &err);
}

/* ---- Save-VM, Remove-VMSavedState ---- */

static void saved(void *user, struct vm *vm, const struct error *err)
{
	struct request *request = user;

	if (err)
		request_error(request, vm->config->name, err);
	else
		request_result(request, object_vm(vm));
	request_release(request);
}

void cmdlets_save_vm(struct request *request, struct vm *vm)
{
	char id[GUID_TEXT_SIZE];
	struct error err;
	int fd;

	if (vm->state == VM_SAVED) {
		request_result(request, object_vm(vm)); /* as Hyper-V: no error */
		return;
	}
	if (!is_running(vm) || vm->run->saving_id[0]) {
		refuse_state(request, vm);
		return;
	}
	fd = saved_begin(vm, id, &err);
	if (fd < 0) {
		request_error(request, vm->config->name, &err);
		return;
	}
	request_hold(request);
	request_progress(request, vm->config->name, "saving");
	vm_wait(vm, VM_WAIT_SAVED, saved, request, request);
	run_save(vm, fd, id, true);
}

void cmdlet_save_vm(struct request *request)
{
	request_for_vms(request, "Name", cmdlets_save_vm);
}

static void remove_saved_state(struct request *request, struct vm *vm)
{
	struct error err;

	if (vm->state != VM_SAVED) {
		refuse_state(request, vm);
		return;
	}
	if (saved_drop(vm, &err) < 0) {
		request_error(request, vm->config->name, &err);
		return;
	}
	run_set_state(vm, VM_OFF);
	vm_event(vm, EVENT_VM_CHANGED, NULL, "The saved state of '%s' was removed.",
		 vm->config->name);
}

void cmdlet_remove_saved_state(struct request *request)
{
	request_for_vms(request, "VMName", remove_saved_state);
}

/* ---- objects ---- */

static json_t *object_checkpoint(const struct vm *vm, const struct checkpoints *all,
				 const struct checkpoint *checkpoint)
{
	const struct checkpoint *parent = checkpoints_find(all, checkpoint->parent);
	bool current = vm->config->parent_checkpoint &&
		       strcmp(vm->config->parent_checkpoint, checkpoint->id) == 0;

	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s?, s:s?, s:s, s:b, s:b}", "VMName",
			 vm->config->name, "Name", checkpoint->name, "SnapshotType", "Standard",
			 "CreationTime", checkpoint->created, "Id", checkpoint->id,
			 "ParentSnapshotName", parent ? parent->name : NULL, "ParentSnapshotId",
			 parent ? parent->id : NULL, "VMId", vm->id, "HasMemory",
			 checkpoint->has_memory, "IsCurrent", current);
}

static void show_checkpoint(struct request *request, struct vm *vm, const char *id)
{
	const struct checkpoint *checkpoint;
	struct checkpoints all;

	checkpoints_load(vm, &all);
	checkpoint = checkpoints_find(&all, id);
	if (checkpoint)
		request_result(request, object_checkpoint(vm, &all, checkpoint));
	checkpoints_done(&all);
}

/* ---- Checkpoint-VM ---- */

struct taking {
	struct request *request;
	char id[GUID_TEXT_SIZE];
	char *name;
};

static void taking_free(struct taking *taking)
{
	free(taking->name);
	free(taking);
}

static int commit(struct taking *taking, struct vm *vm, struct error *err)
{
	int r = checkpoint_commit(vm, taking->id, taking->name, err);

	if (r < 0) {
		checkpoint_abandon(vm, taking->id);
		return r;
	}
	vm_event(vm, EVENT_VM_CHECKPOINT, NULL, "The checkpoint '%s' of '%s' was taken.",
		 taking->name, vm->config->name);
	show_checkpoint(taking->request, vm, taking->id);
	return 0;
}

static void taken(void *user, struct vm *vm, const struct error *err)
{
	struct taking *taking = user;
	struct error failure;

	if (err)
		checkpoint_abandon(vm, taking->id);
	else if (commit(taking, vm, &failure) < 0)
		err = &failure;
	if (err)
		request_error(taking->request, vm->config->name, err);
	request_release(taking->request);
	taking_free(taking);
}

static int check_type(const struct vm *vm, struct error *err)
{
	switch (vm->config->checkpoint_type) {
	case CONFIG_CHECKPOINT_DISABLED:
		return error_set(err, ERR_DENIED,
				 "its CheckpointType is Disabled; Set-VM changes that");
	case CONFIG_CHECKPOINT_PRODUCTION_ONLY:
		return error_set(err, ERR_UNSUPPORTED,
				 "production checkpoints are not there yet; Set-VM -CheckpointType "
				 "Production takes standard ones instead");
	default:
		return 0;
	}
}

/* The disks' part of a checkpoint is a differencing disk under each: not there yet. A disk that the
 * guest can't write stays as it is. */
static int check_disks(const struct vm *vm, struct error *err)
{
	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		const struct config_disk *disk = &vm->config->disks[i];

		if (disk->kind == CONFIG_DISK_HARD && !disk->read_only)
			return error_set(err, ERR_UNSUPPORTED,
					 "checkpoints of virtual machines with hard disks are not "
					 "there yet (it has '%.200s')",
					 disk->path ? disk->path : "");
	}
	return 0;
}

static int check_count(const struct vm *vm, struct error *err)
{
	struct checkpoints all;
	size_t count;

	checkpoints_load(vm, &all);
	count = all.count;
	checkpoints_done(&all);
	return count < CHECKPOINTS_MAX
		   ? 0
		   : error_set(err, ERR_LIMIT, "it has %d checkpoints already", CHECKPOINTS_MAX);
}

static int check_can_take(const struct vm *vm, const char *name, struct error *err)
{
	int r = check_type(vm, err);

	if (r == 0)
		r = check_disks(vm, err);
	if (r == 0)
		r = check_count(vm, err);
	if (r == 0 && name)
		r = config_check_name(name, "the checkpoint's name", err);
	return r;
}

/* 1: the worker writes the memory, and `taken` ends it. */
static int take(struct taking *taking, struct vm *vm, struct error *err)
{
	int r = 0, fd;

	if (vm->state == VM_SAVED)
		r = checkpoint_link_memory(vm, taking->id, err);
	if (r < 0 || vm_is_down(vm))
		return r;
	fd = checkpoint_make_memory(vm, taking->id, err);
	if (fd < 0)
		return fd;
	request_hold(taking->request);
	request_progress(taking->request, vm->config->name, "taking the checkpoint");
	vm_wait(vm, VM_WAIT_SAVED, taken, taking, taking->request);
	run_save(vm, fd, taking->id, false);
	return 1;
}

static void checkpoint_vm(struct request *request, struct vm *vm)
{
	const char *name = request_string(request, "SnapshotName");
	struct taking *taking;
	struct error err;
	int r;

	if (!vm_is_down(vm) && (!is_running(vm) || vm->run->saving_id[0])) {
		refuse_state(request, vm);
		return;
	}
	taking = calloc(1, sizeof(*taking));
	if (!taking)
		abort();
	taking->request = request;
	taking->name = name && name[0] ? strdup(name) : checkpoint_default_name(vm);
	r = check_can_take(vm, name && name[0] ? name : NULL, &err);
	if (r == 0)
		r = checkpoint_begin(vm, taking->id, &err);
	if (r == 0) {
		r = take(taking, vm, &err);
		if (r == 0)
			r = commit(taking, vm, &err);
		else if (r < 0)
			checkpoint_abandon(vm, taking->id);
	}
	if (r < 0)
		request_error(request, vm->config->name, &err);
	if (r != 1)
		taking_free(taking);
}

void cmdlet_checkpoint_vm(struct request *request)
{
	request_for_vms(request, "Name", checkpoint_vm);
}

/* ---- Get-VMSnapshot ---- */

static bool is_wanted(const struct request *request, const struct checkpoint *checkpoint)
{
	const char *name = request_string(request, "Name"), *id = request_string(request, "Id");
	const char *type = request_string(request, "SnapshotType");

	return (!name || cmdlet_wildcard_match(name, checkpoint->name)) &&
	       (!id || strcasecmp(id, checkpoint->id) == 0) &&
	       (!type || strcasecmp(type, "Standard") == 0);
}

static void get_checkpoints(struct request *request, struct vm *vm)
{
	const char *name = request_string(request, "Name");
	struct checkpoints all;
	struct error err;
	bool found = false;

	checkpoints_load(vm, &all);
	for (size_t i = 0; i < all.count; i++)
		if (is_wanted(request, &all.list[i])) {
			request_result(request, object_checkpoint(vm, &all, &all.list[i]));
			found = true;
		}
	checkpoints_done(&all);
	if (!found && name && !cmdlet_has_wildcard(name)) {
		error_set(&err, ERR_NOT_FOUND, "it has no checkpoint '%.100s'", name);
		request_error(request, vm->config->name, &err);
	}
}

void cmdlet_get_checkpoint(struct request *request)
{
	request_for_vms(request, "VMName", get_checkpoints);
}

/* ---- one checkpoint by name ---- */

/* Does something with each checkpoint that Name selects; a name that selects none is an error. */
static void for_named(struct request *request, struct vm *vm, const char *name, bool only_one,
		      int (*work)(struct request *request, struct vm *vm,
				  const struct checkpoints *all,
				  const struct checkpoint *checkpoint, struct error *err))
{
	struct checkpoints all;
	struct error err;
	size_t found = 0;
	int r = 0;

	checkpoints_load(vm, &all);
	for (size_t i = 0; i < all.count; i++)
		found += cmdlet_wildcard_match(name, all.list[i].name);
	if (!found && !cmdlet_has_wildcard(name))
		r = error_set(&err, ERR_NOT_FOUND, "it has no checkpoint '%.100s'", name);
	else if (found > 1 && only_one)
		r = error_set(&err, ERR_INVALID, "%zu of its checkpoints are named '%.100s'", found,
			      name);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		if (cmdlet_wildcard_match(name, all.list[i].name))
			r = work(request, vm, &all, &all.list[i], &err);
	if (r < 0)
		request_error(request, vm->config->name, &err);
	checkpoints_done(&all);
}

/* ---- Rename-VMSnapshot, Remove-VMSnapshot ---- */

static int rename_one(struct request *request, struct vm *vm, const struct checkpoints *all,
		      const struct checkpoint *checkpoint, struct error *err)
{
	const char *name = request_string(request, "NewName");
	int r = config_check_name(name, "the checkpoint's name", err);

	if (r == 0)
		r = checkpoint_rename(vm, checkpoint, name, err);
	if (r == 0)
		show_checkpoint(request, vm, checkpoint->id);
	return r;
}

static void rename_checkpoint(struct request *request, struct vm *vm)
{
	for_named(request, vm, request_string(request, "Name"), true, rename_one);
}

void cmdlet_rename_checkpoint(struct request *request)
{
	request_for_vms(request, "VMName", rename_checkpoint);
}

static int remove_with_children(struct vm *vm, const char *id, struct error *err)
{
	const struct checkpoint *checkpoint;
	struct checkpoints all;
	int r = 0;

	checkpoints_load(vm, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		if (all.list[i].parent && strcmp(all.list[i].parent, id) == 0)
			r = remove_with_children(vm, all.list[i].id, err);
	checkpoint = checkpoints_find(&all, id);
	if (r == 0 && checkpoint)
		r = checkpoint_remove(vm, checkpoint, err);
	checkpoints_done(&all);
	return r;
}

static int remove_one(struct request *request, struct vm *vm, const struct checkpoints *all,
		      const struct checkpoint *checkpoint, struct error *err)
{
	json_t *object = object_checkpoint(vm, all, checkpoint);
	struct checkpoints now;
	int r = 0;

	/* Read anew: those that went before may have given it another parent, or taken it along. */
	if (request_switch(request, "IncludeAllChildSnapshots")) {
		r = remove_with_children(vm, checkpoint->id, err);
	} else {
		checkpoints_load(vm, &now);
		checkpoint = checkpoints_find(&now, checkpoint->id);
		if (checkpoint)
			r = checkpoint_remove(vm, checkpoint, err);
		checkpoints_done(&now);
	}
	if (r == 0)
		request_result(request, object);
	else
		json_decref(object);
	return r;
}

static void remove_checkpoint(struct request *request, struct vm *vm)
{
	const json_t *names = json_object_get(request->params, "Name");

	if (!json_array_size(names))
		for_named(request, vm, "*", false, remove_one);
	for (size_t i = 0; i < json_array_size(names); i++)
		for_named(request, vm, json_string_value(json_array_get(names, i)), false,
			  remove_one);
}

void cmdlet_remove_checkpoint(struct request *request)
{
	request_for_vms(request, "VMName", remove_checkpoint);
}

/* ---- Restore-VMSnapshot ---- */

/* What it was when the checkpoint was taken, but for its identity and its name. */
static int restored_config(struct vm *vm, const struct checkpoint *checkpoint, const char *saved,
			   struct config_vm **ret, struct error *err)
{
	struct config_vm *config;
	int r = checkpoint_config(vm, checkpoint->id, &config, err);

	if (r < 0)
		return r;
	config->id = vm->config->id;
	r = config_set_string(&config->name, vm->config->name, err);
	if (r == 0)
		r = config_set_string(&config->parent_checkpoint, checkpoint->id, err);
	if (r == 0)
		r = config_set_string(&config->saved_state, saved, err);
	if (r < 0)
		config_vm_free(config);
	else
		*ret = config;
	return r;
}

/* The VM is down. vm.json is what decides: before it is replaced nothing has changed. */
static int apply(struct vm *vm, const struct checkpoint *checkpoint, struct error *err)
{
	AUTO_FREE char *old = vm->config->saved_state ? strdup(vm->config->saved_state) : NULL;
	AUTO_FREE char *memory = checkpoint_memory_path(vm, checkpoint->id);
	char id[GUID_TEXT_SIZE] = "";
	struct config_vm *config;
	int r = checkpoint->has_memory ? saved_link(vm, memory, id, err) : 0;

	if (r == 0)
		r = restored_config(vm, checkpoint, id[0] ? id : NULL, &config, err);
	if (r == 0)
		r = vm_change(vm, config, err);
	if (r < 0) {
		if (id[0])
			saved_remove(vm, id);
		return r;
	}
	if (id[0])
		r = saved_mark(vm, id, err);
	if (old)
		saved_remove(vm, old);
	run_set_state(vm, id[0] ? VM_SAVED : VM_OFF);
	vm_event(vm, EVENT_VM_CHECKPOINT, NULL, "The checkpoint '%s' was applied to '%s'.",
		 checkpoint->name, vm->config->name);
	return r;
}

struct applying {
	struct request *request;
	char id[GUID_TEXT_SIZE];
};

static void is_down(void *user, struct vm *vm, const struct error *err)
{
	struct applying *applying = user;
	const struct checkpoint *checkpoint;
	struct checkpoints all;
	struct error failure;

	checkpoints_load(vm, &all);
	checkpoint = checkpoints_find(&all, applying->id);
	if (!err && !checkpoint) {
		error_set(&failure, ERR_NOT_FOUND, "the checkpoint is gone");
		err = &failure;
	} else if (!err && apply(vm, checkpoint, &failure) < 0) {
		err = &failure;
	}
	if (err)
		request_error(applying->request, vm->config->name, err);
	else
		show_checkpoint(applying->request, vm, applying->id);
	checkpoints_done(&all);
	request_release(applying->request);
	free(applying);
}

static int restore_one(struct request *request, struct vm *vm, const struct checkpoints *all,
		       const struct checkpoint *checkpoint, struct error *err)
{
	struct applying *applying;
	int r;

	if (vm_is_down(vm)) {
		r = apply(vm, checkpoint, err);
		if (r == 0)
			show_checkpoint(request, vm, checkpoint->id);
		return r;
	}
	if (!is_running(vm) || vm->run->saving_id[0])
		return error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
				 vm_state_name(vm->state));
	applying = calloc(1, sizeof(*applying));
	if (!applying)
		abort();
	applying->request = request;
	memcpy(applying->id, checkpoint->id, sizeof(applying->id));
	request_hold(request);
	vm_wait(vm, VM_WAIT_OFF, is_down, applying, request);
	run_turn_off(vm);
	return 0;
}

static void restore_checkpoint(struct request *request, struct vm *vm)
{
	for_named(request, vm, request_string(request, "Name"), true, restore_one);
}

void cmdlet_restore_checkpoint(struct request *request)
{
	request_for_vms(request, "VMName", restore_checkpoint);
}
