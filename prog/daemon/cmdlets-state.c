/* Cmdlets about saved states and checkpoints. */
#include "cmdlets.h"

#include "base/macros.h"
#include "checkpoint-below.h"
#include "checkpoint-disks.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
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
	fd = vm_check_busy(vm, &err);
	if (fd == 0)
		fd = saved_begin(vm, id, &err);
	if (fd < 0) {
		request_error(request, vm->config->name, &err);
		return;
	}
	request_hold(request);
	request_progress(request, vm->config->name, "saving");
	vm_wait(vm, VM_WAIT_SAVED, saved, request, request);
	run_save(vm, fd, id);
}

void cmdlet_save_vm(struct request *request)
{
	request_for_vms(request, "Name", cmdlets_save_vm);
}

/* ---- objects ---- */

static json_t *object_checkpoint(const struct vm *vm, const struct checkpoints *all,
				 const struct checkpoint *checkpoint)
{
	const struct checkpoint *parent = checkpoints_find(all, checkpoint->parent);
	bool current = vm->config->parent_checkpoint &&
		       strcmp(vm->config->parent_checkpoint, checkpoint->id) == 0;

	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:s?, s:s?, s:s, s:b, s:b}", "VMName",
			 vm->config->name, "Name", checkpoint->name, "SnapshotType", "Standard",
			 "CheckpointType", checkpoint->production ? "Production" : "Standard",
			 "CreationTime", checkpoint->created, "Id", checkpoint->id,
			 "IsAutomaticCheckpoint", checkpoint->automatic, "ParentSnapshotName",
			 parent ? parent->name : NULL, "ParentSnapshotId",
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

static void taken(void *user, struct vm *vm, const char *id, const struct error *err)
{
	struct request *request = user;

	if (err)
		request_error(request, vm->config->name, err);
	else
		show_checkpoint(request, vm, id);
	request_release(request);
}

static void checkpoint_vm(struct request *request, struct vm *vm)
{
	const char *name = request_string(request, "SnapshotName");

	if (!vm_is_down(vm) && (!is_running(vm) || vm->run->saving_id[0])) {
		refuse_state(request, vm);
		return;
	}
	request_hold(request);
	checkpoint_take(vm, name && name[0] ? name : NULL, request, taken, request);
}

void cmdlet_checkpoint_vm(struct request *request)
{
	request_for_vms(request, "Name", checkpoint_vm);
}

/* ---- Get-VMSnapshot ---- */

static bool is_called(const struct checkpoint *checkpoint, const char *text)
{
	return checkpoint &&
	       (strcasecmp(checkpoint->name, text) == 0 || strcasecmp(checkpoint->id, text) == 0);
}

/* Does the checkpoint, or the machine as it is now, that goes by a name come from this one? */
static bool is_parent_of(const struct vm *vm, const struct checkpoints *all,
			 const struct checkpoint *checkpoint, const char *name)
{
	const char *current = vm->config->parent_checkpoint;

	if (current && strcasecmp(name, vm->config->name) == 0)
		return strcmp(current, checkpoint->id) == 0;
	for (size_t i = 0; i < all->count; i++)
		if (is_called(&all->list[i], name) && all->list[i].parent &&
		    strcasecmp(all->list[i].parent, checkpoint->id) == 0)
			return true;
	return false;
}

static bool is_related(const struct request *request, const struct vm *vm,
		       const struct checkpoints *all, const struct checkpoint *checkpoint)
{
	const char *child = request_string(request, "ParentOf");
	const char *parent = request_string(request, "ChildOf");

	return (!child || is_parent_of(vm, all, checkpoint, child)) &&
	       (!parent || is_called(checkpoints_find(all, checkpoint->parent), parent));
}

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
		if (is_wanted(request, &all.list[i]) &&
		    is_related(request, vm, &all, &all.list[i])) {
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
	if (request_string(request, "Id"))
		json_object_set_new(request->params, "VMName", json_pack("[s]", "*"));
	request_for_vms(request, "VMName", get_checkpoints);
}

/* ---- one checkpoint by name ---- */

static bool is_named(const struct checkpoint *checkpoint, const char *name)
{
	return cmdlet_wildcard_match(name, checkpoint->name) ||
	       strcasecmp(name, checkpoint->id) == 0;
}

/* Does something with each checkpoint that a name, pattern or identifier selects; a name that
 * selects none is an error. */
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
		found += is_named(&all.list[i], name);
	if (!found && !cmdlet_has_wildcard(name))
		r = error_set(&err, ERR_NOT_FOUND, "it has no checkpoint '%.100s'", name);
	else if (found > 1 && only_one)
		r = error_set(&err, ERR_INVALID, "%zu of its checkpoints are named '%.100s'", found,
			      name);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		if (is_named(&all.list[i], name))
			r = work(request, vm, &all, &all.list[i], &err);
	if (r < 0)
		request_error(request, vm->config->name, &err);
	checkpoints_done(&all);
}

/* ---- Remove-VMSavedState ---- */

static void remove_own_state(struct request *request, struct vm *vm)
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

static int remove_state_of(struct request *request, struct vm *vm, const struct checkpoints *all,
			   const struct checkpoint *checkpoint, struct error *err)
{
	int r = vm_check_busy(vm, err);

	if (r == 0 && !checkpoint->has_memory)
		r = error_set(err, ERR_STATE, "its checkpoint '%.100s' has no saved state",
			      checkpoint->name);
	if (r == 0)
		r = checkpoint_remove_memory(vm, checkpoint, err);
	if (r == 0)
		vm_event(vm, EVENT_VM_CHANGED, NULL,
			 "The saved state of the checkpoint '%s' of '%s' was removed.",
			 checkpoint->name, vm->config->name);
	return r;
}

static void remove_saved_state(struct request *request, struct vm *vm)
{
	const char *checkpoint = request_string(request, "VMSnapshot");

	if (checkpoint)
		for_named(request, vm, checkpoint, false, remove_state_of);
	else
		remove_own_state(request, vm);
}

void cmdlet_remove_saved_state(struct request *request)
{
	request_for_vms(request, "VMName", remove_saved_state);
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

/* Ends after as many steps as there are checkpoints: on shared storage they may say anything. */
static bool comes_from(const struct checkpoints *all, const struct checkpoint *one, const char *id)
{
	for (size_t i = 0; one && i < all->count; i++) {
		if (one->parent && strcasecmp(one->parent, id) == 0)
			return true;
		one = checkpoints_find(all, one->parent);
	}
	return false;
}

static bool has_children(const struct checkpoints *all, const struct checkpoint *one)
{
	for (size_t i = 0; i < all->count; i++)
		if (all->list[i].parent && strcasecmp(all->list[i].parent, one->id) == 0)
			return true;
	return false;
}

/* One that comes from the checkpoint and that none comes from; else that checkpoint itself. */
static const struct checkpoint *leaf_of(const struct checkpoints *all, const char *id)
{
	for (size_t i = 0; i < all->count; i++)
		if (comes_from(all, &all->list[i], id) && !has_children(all, &all->list[i]))
			return &all->list[i];
	return checkpoints_find(all, id);
}

static int remove_with_children(struct vm *vm, const char *id, struct error *err)
{
	bool removed = false;
	int r = 0;

	while (r == 0 && !removed) {
		const struct checkpoint *leaf;
		struct checkpoints all;

		checkpoints_load(vm, &all);
		leaf = leaf_of(&all, id);
		removed = !leaf || strcasecmp(leaf->id, id) == 0;
		if (leaf)
			r = checkpoint_disks_remove_with(vm, &all, leaf, err);
		checkpoints_done(&all);
	}
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
			r = checkpoint_disks_remove_with(vm, &now, checkpoint, err);
		checkpoints_done(&now);
	}
	if (r == 0)
		request_result(request, object);
	else
		json_decref(object);
	return r;
}

static void folded(void *user, struct vm *vm, const struct error *err)
{
	struct request *request = user;

	fold_forget(vm, request);
	/* Cancelled: it goes on without us. */
	if (err && err->code != ERR_CANCELLED)
		request_error(request, vm->config->name, err);
	request_release(request);
}

/* With a checkpoint goes the layer that only it needed. */
static void fold_disks(struct request *request, struct vm *vm)
{
	request_hold(request);
	vm_wait(vm, VM_WAIT_FOLDED, folded, request, request);
	fold_begin(vm, request);
}

static void remove_checkpoint(struct request *request, struct vm *vm);

static void remove_named(struct request *request, struct vm *vm)
{
	const json_t *names = json_object_get(request->params, "Name");

	if (!json_array_size(names))
		for_named(request, vm, "*", false, remove_one);
	for (size_t i = 0; i < json_array_size(names); i++)
		for_named(request, vm, json_string_value(json_array_get(names, i)), false,
			  remove_one);
	fold_disks(request, vm);
}

static void merge_ended(void *user, struct vm *vm, const struct error *err)
{
	struct request *request = user;

	if (err)
		request_error(request, vm->config->name, err);
	else
		remove_checkpoint(request, vm);
	request_release(request);
}

static void remove_checkpoint(struct request *request, struct vm *vm)
{
	if (!fold_holds(vm)) {
		remove_named(request, vm);
		return;
	}
	request_hold(request);
	fold_wait(vm, request, merge_ended, request);
}

void cmdlet_remove_checkpoint(struct request *request)
{
	request_for_vms(request, "VMName", remove_checkpoint);
}

/* ---- Restore-VMSnapshot ---- */

/* What it was when the checkpoint was taken, but for its identity, its name and its places. */
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
	if (r == 0)
		r = config_set_string(&config->checkpoint_folder, vm->config->checkpoint_folder,
				      err);
	if (r == 0)
		r = config_set_string(&config->smart_paging_folder, vm->config->smart_paging_folder,
				      err);
	if (r < 0)
		config_vm_free(config);
	else
		*ret = config;
	return r;
}

/* One Restore-VMSnapshot. The request is held until applying_end. */
struct applying {
	struct request *request;
	char id[GUID_TEXT_SIZE];       /* of the checkpoint */
	char saved_id[GUID_TEXT_SIZE]; /* of the new saved state; "": off */
};

static void applying_end(struct applying *applying, struct vm *vm, const struct error *err)
{
	if (err)
		request_error(applying->request, vm->config->name, err);
	else
		show_checkpoint(applying->request, vm, applying->id);
	checkpoint_disks_replaced(vm);
	request_release(applying->request);
	free(applying);
	fold_resume(vm);
}

/* What the VM no longer goes on from. */
static void drop_old(struct vm *vm, const struct config_vm *old)
{
	if (old->saved_state)
		saved_remove(vm, old->saved_state);
}

/* Takes config. vm.json is what decides: before it is replaced nothing has changed. */
static int apply(struct applying *applying, struct vm *vm, struct config_vm *config,
		 struct error *err)
{
	const char *saved_id = applying->saved_id;
	struct config_vm *old = vm_config_copy(vm, err);
	int r;

	if (!old) {
		config_vm_free(config);
		return -(int)err->code;
	}
	r = vm_change(vm, config, err);
	if (r == 0) {
		r = saved_id[0] ? saved_mark(vm, saved_id, err) : 0;
		drop_old(vm, old);
		below_clear_vm(vm);
		run_set_state(vm, saved_id[0] ? VM_SAVED : VM_OFF);
		vm_event(vm, EVENT_VM_CHECKPOINT, NULL, "A checkpoint was applied to '%s'.",
			 vm->config->name);
	} else if (saved_id[0]) {
		saved_remove(vm, saved_id);
	}
	config_vm_free(old);
	return r;
}

static void apply_with_disks(void *user, struct vm *vm, struct config_vm *config,
			     const struct error *err)
{
	struct applying *applying = user;
	struct error failure;

	if (err) {
		if (applying->saved_id[0])
			saved_remove(vm, applying->saved_id);
	} else if (apply(applying, vm, config, &failure) < 0) {
		err = &failure;
	}
	applying_end(applying, vm, err);
}

static int begin_apply(struct applying *applying, struct vm *vm, struct config_vm **ret,
		       struct error *err)
{
	const struct checkpoint *checkpoint;
	struct checkpoints all;
	int r = vm_check_busy(vm, err);

	checkpoints_load(vm, &all);
	checkpoint = checkpoints_find(&all, applying->id);
	if (r == 0 && !checkpoint)
		r = error_set(err, ERR_NOT_FOUND, "the checkpoint is gone");
	if (r == 0 && checkpoint->has_memory) {
		AUTO_FREE char *memory = checkpoint_memory_path(vm, checkpoint->id);

		r = saved_link(vm, memory, applying->saved_id, err);
	}
	if (r == 0) {
		const char *saved_id = applying->saved_id;

		r = restored_config(vm, checkpoint, saved_id[0] ? saved_id : NULL, ret, err);
		if (r < 0 && saved_id[0])
			saved_remove(vm, saved_id);
	}
	checkpoints_done(&all);
	return r;
}

static int check_down(const struct vm *vm, struct error *err)
{
	return vm_is_down(vm)
		   ? 0
		   : error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
			       vm_state_name(vm->state));
}

/* Or was: a merge is waited for, and then anything may have become of the VM. */
static void is_down(void *user, struct vm *vm, const struct error *err)
{
	struct applying *applying = user;
	struct config_vm *config = NULL;
	struct error failure;
	json_t *plan = NULL;

	if (!err && fold_holds(vm)) {
		fold_wait(vm, applying->request, is_down, applying);
		return;
	}
	if (!err && check_down(vm, &failure) < 0)
		err = &failure;
	if (!err && begin_apply(applying, vm, &config, &failure) < 0)
		err = &failure;
	if (!err && (checkpoint_disks_plan(config, &plan, &failure) < 0 ||
		     checkpoint_disks_replace(vm, plan, &failure) < 0)) {
		json_decref(plan);
		config_vm_free(config);
		err = &failure;
		apply_with_disks(applying, vm, NULL, err);
		return;
	}
	if (err)
		applying_end(applying, vm, err);
	else
		checkpoint_disks_make(vm, config, plan, apply_with_disks, applying);
	json_decref(plan);
}

static int restore_one(struct request *request, struct vm *vm, const struct checkpoints *all,
		       const struct checkpoint *checkpoint, struct error *err)
{
	struct applying *applying;

	if (!vm_is_down(vm) && (!is_running(vm) || vm->run->saving_id[0]))
		return error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
				 vm_state_name(vm->state));
	applying = calloc(1, sizeof(*applying));
	if (!applying)
		abort();
	applying->request = request;
	memcpy(applying->id, checkpoint->id, sizeof(applying->id));
	request_hold(request);
	if (vm_is_down(vm)) {
		is_down(applying, vm, NULL);
		return 0;
	}
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
