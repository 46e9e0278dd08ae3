#include "checkpoint-take.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "checkpoint-below.h"
#include "checkpoint-disks.h"
#include "checkpoint-fold.h"
#include "checkpoints.h"
#include "files.h"
#include "ipc/ipc.h"
#include "run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long the guest may take to have its file systems stand still, and the worker to answer. */
#define FREEZE_SECONDS    60
#define FREEZE_TIMEOUT_NS ((FREEZE_SECONDS + 30) * NS_PER_SEC)
#define THAW_TIMEOUT_NS   (30 * NS_PER_SEC)
#define WHAT              "a production checkpoint"

/*
 *	VM down		begin, [link the saved memory], make disks, commit
 *	VM running	begin, make disks, [freeze], the worker does it, settle (run.c), [thaw]
 *
 * The VM is busy from beginning to end. While its disks are being merged, the beginning waits.
 */
struct taking {
	struct vm *vm;
	struct request *request;
	checkpoint_taken done;
	void *user;
	struct checkpoint checkpoint; /* id, name, production, automatic; name is owned */
	enum checkpoint_kind kind;    /* as asked for */
	json_t *plan;
	bool freezes;         /* the guest's file systems */
	bool only_production; /* without falling back */
	bool frozen;
};

static void thaw(struct taking *taking)
{
	if (taking->frozen)
		run_request(taking->vm, json_pack("{s:s}", "op", "vss-thaw"), THAW_TIMEOUT_NS, NULL,
			    NULL);
	taking->frozen = false;
}

/* Hyper-V's rule: a production checkpoint that can't be had becomes a standard one, and says so. */
static void note_fall_back(const struct taking *taking, const struct error *err)
{
	vm_event(taking->vm, EVENT_VM_CHECKPOINT_FELL_BACK, NULL,
		 "Production checkpoints cannot be created for '%s' (%s). A standard checkpoint is "
		 "taken instead.",
		 taking->vm->config->name, err->text);
}

static void taking_end(struct taking *taking, const struct error *err)
{
	struct vm *vm = taking->vm;

	thaw(taking);
	if (!err && taking->checkpoint.temporary)
		vm->lent++;
	taking->done(taking->user, vm, err ? NULL : taking->checkpoint.id, err);
	json_decref(taking->plan);
	free(taking->checkpoint.name);
	free(taking);
	/* A layer without a checkpoint may be left. */
	fold_resume(vm);
	vm_unref(vm);
}

/* The worker has not been asked, or has refused. */
static void give_up(struct taking *taking, const struct error *err)
{
	taking->vm->busy = NULL;
	checkpoint_abandon(taking->vm, taking->checkpoint.id);
	taking_end(taking, err);
}

/* ---- may it be taken? ---- */

static int check_type(const struct vm *vm, struct error *err)
{
	if (vm->config->checkpoint_type != CONFIG_CHECKPOINT_DISABLED)
		return 0;
	return error_set(err, ERR_DENIED, "its CheckpointType is Disabled; Set-VM changes that");
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

/* About to start: it has no worker yet. */
static bool stands(const struct vm *vm)
{
	return vm_is_down(vm) || vm->state == VM_STARTING;
}

static int check_state(const struct vm *vm, struct error *err)
{
	bool runs = (vm->state == VM_RUNNING || vm->state == VM_PAUSED) && vm->run &&
		    !vm->run->saving_id[0];

	if (vm->removed)
		return error_set(err, ERR_NOT_FOUND, "it was removed meanwhile");
	return stands(vm) || runs
		   ? 0
		   : error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
			       vm_state_name(vm->state));
}

static bool merges(const struct vm *vm)
{
	return fold_is_live(vm) || fold_holds(vm);
}

static int check(const struct taking *taking, struct error *err)
{
	const struct vm *vm = taking->vm;
	int r = taking->kind == CHECKPOINT_AS_SET ? check_type(vm, err) : 0;

	if (r == 0)
		r = check_state(vm, err);
	if (r == 0 && !merges(vm))
		r = vm_check_busy(vm, err);
	if (r == 0 && vm->changing)
		r = error_set(err, ERR_BUSY, "its devices are being changed");
	if (r == 0)
		r = check_count(vm, err);
	if (r == 0)
		r = config_check_name(taking->checkpoint.name, "the checkpoint's name", err);
	return r;
}

/* ---- a VM that is down ---- */

static void down_made(void *user, struct vm *vm, struct config_vm *config, const struct error *err)
{
	struct taking *taking = user;
	struct error failure;

	if (err) {
		give_up(taking, err);
		return;
	}
	if (checkpoint_commit(vm, taking->checkpoint.id, config, &failure) < 0)
		err = &failure;
	taking_end(taking, err);
}

/* ---- a VM that runs ---- */

static void start(struct taking *taking);

/* The guest did not stand still for so long: its checkpoint came to nothing. */
static void retake(struct taking *taking, const struct error *err)
{
	thaw(taking);
	note_fall_back(taking, err);
	taking->checkpoint.production = taking->freezes = false;
	json_decref(taking->plan);
	taking->plan = NULL;
	start(taking);
}

static void settled(void *user, struct vm *vm, const struct error *err)
{
	struct taking *taking = user;
	bool production = err && err->code == ERR_TIMEOUT && taking->checkpoint.production;
	struct error failure;

	if (production && !taking->only_production && vm->run) {
		retake(taking, err);
		return;
	}
	if (production) {
		failure = *err;
		error_prefix(&failure, WHAT);
		err = &failure;
	}
	taking_end(taking, err);
}

struct sending {
	json_t *disks;
	int fds[IPC_MAX_FDS];
	unsigned count;
};

static void sending_done(struct sending *sending)
{
	for (unsigned i = 0; i < sending->count; i++)
		close(sending->fds[i]);
	json_decref(sending->disks);
}

static int add_fd(struct sending *sending, int fd)
{
	if (fd < 0)
		return fd;
	sending->fds[sending->count++] = fd;
	return 0;
}

static int add_layer(struct sending *sending, const struct vm *vm, const json_t *entry,
		     struct error *err)
{
	const char *old = json_string_value(json_object_get(entry, "old"));
	const char *new = json_string_value(json_object_get(entry, "new"));
	const struct config_vm *config = vm->config;
	const struct config_disk *disk = NULL;
	struct config_disk layer;
	char id[GUID_TEXT_SIZE];

	for (unsigned i = 0; i < config->disk_count && !disk; i++)
		if (config->disks[i].path && strcmp(config->disks[i].path, old) == 0)
			disk = &config->disks[i];
	if (!disk || disk->controller_number >= config->scsi_count)
		return error_set(err, ERR_NOT_FOUND, "the disk '%.200s' is gone", old);
	if (sending->count == IPC_MAX_FDS)
		return error_set(err, ERR_LIMIT,
				 "it has too many disks for a checkpoint while it runs");
	layer = *disk;
	layer.path = (char *)new;
	json_array_append_new(sending->disks,
			      json_pack("{s:s, s:i}", "controller",
					guid_format(&config->scsi_ids[disk->controller_number], id),
					"location", (int)disk->lun));
	return add_fd(sending, files_open_disk(vm, &layer, err));
}

static int collect(struct taking *taking, struct sending *sending, struct error *err)
{
	struct vm *vm = taking->vm;
	const char *id = taking->checkpoint.id;
	int r = add_fd(sending, checkpoint_make_mark(vm, id, err));

	if (r == 0 && !taking->checkpoint.production)
		r = add_fd(sending, checkpoint_make_memory(vm, id, err));
	for (size_t i = 0; r == 0 && i < json_array_size(taking->plan); i++)
		r = add_layer(sending, vm, json_array_get(taking->plan, i), err);
	return r;
}

/* From here on the end is run.c's to tell. */
static void send(struct taking *taking)
{
	struct sending sending = { .disks = json_array() };
	struct vm *vm = taking->vm;
	bool memory = !taking->checkpoint.production;
	struct error err;
	int r = vm->run ? collect(taking, &sending, &err)
			: error_set(&err, ERR_CANCELLED, "it ended meanwhile");

	if (r < 0) {
		give_up(taking, &err);
	} else {
		vm_wait(vm, VM_WAIT_SAVED, settled, taking, taking);
		run_checkpoint(vm, taking->checkpoint.id,
			       json_pack("{s:s, s:b, s:b, s:O}", "op", "checkpoint", "memory",
					 memory, "frozen", taking->frozen, "disks", sending.disks),
			       sending.fds, sending.count, memory);
	}
	sending_done(&sending);
}

static void fall_back(struct taking *taking, const struct error *err)
{
	struct vm *vm = taking->vm;
	struct error failure = *err;

	if (taking->only_production) {
		error_prefix(&failure, WHAT);
		give_up(taking, &failure);
		return;
	}
	note_fall_back(taking, err);
	if (checkpoint_make_standard(vm, &taking->checkpoint, &failure) < 0)
		give_up(taking, &failure);
	else
		send(taking);
}

static void frozen(void *user, const json_t *reply, const struct error *err)
{
	struct taking *taking = user;

	taking->frozen = !err;
	if (!err)
		send(taking);
	else if (!taking->vm->run)
		give_up(taking, err);
	else
		fall_back(taking, err);
}

static void running_made(void *user, struct vm *vm, struct config_vm *config,
			 const struct error *err)
{
	struct taking *taking = user;

	config_vm_free(config);
	if (err) {
		give_up(taking, err);
		return;
	}
	vm->busy = "a checkpoint of it is being taken";
	if (taking->request)
		request_progress(taking->request, vm->config->name, "taking the checkpoint");
	if (taking->freezes)
		run_request(vm,
			    json_pack("{s:s, s:i}", "op", "vss-freeze", "seconds", FREEZE_SECONDS),
			    FREEZE_TIMEOUT_NS, frozen, taking);
	else
		send(taking);
}

/* ---- the beginning ---- */

static int begin(struct taking *taking, struct config_vm **ret, struct error *err)
{
	struct vm *vm = taking->vm;
	int r = checkpoint_disks_plan(vm->config, &taking->plan, err);

	if (r == 0)
		r = checkpoint_begin(vm, &taking->checkpoint, taking->plan, err);
	if (r < 0)
		return r;
	r = below_begin(vm, taking->checkpoint.id, err);
	if (r == 0 && vm->state == VM_SAVED)
		r = checkpoint_link_memory(vm, taking->checkpoint.id, err);
	*ret = r == 0 ? vm_config_copy(vm, err) : NULL;
	if (!*ret)
		checkpoint_abandon(vm, taking->checkpoint.id);
	return *ret ? 0 : -(int)err->code;
}

static void start(struct taking *taking)
{
	struct config_vm *config;
	struct error err;

	if (begin(taking, &config, &err) < 0)
		taking_end(taking, &err);
	else
		checkpoint_disks_make(taking->vm, config, taking->plan,
				      vm_has_no_worker(taking->vm) ? down_made : running_made,
				      taking);
}

static void choose_kind(struct taking *taking)
{
	enum config_checkpoint_type type = taking->vm->config->checkpoint_type;
	enum checkpoint_kind kind = taking->kind;

	if (kind == CHECKPOINT_AS_SET && type == CONFIG_CHECKPOINT_STANDARD)
		kind = CHECKPOINT_WITH_MEMORY;
	/* One that is off is consistent by itself. */
	taking->checkpoint.production =
	    !vm_has_no_worker(taking->vm) && kind != CHECKPOINT_WITH_MEMORY;
	taking->freezes = taking->checkpoint.production && kind != CHECKPOINT_DISKS;
	taking->only_production =
	    kind != CHECKPOINT_AS_SET || type == CONFIG_CHECKPOINT_PRODUCTION_ONLY;
}

static void merge_ended(void *user, struct vm *vm, const struct error *err);

/* Also after a wait, in which anything may have become of the VM. */
static void carry_on(struct taking *taking)
{
	struct vm *vm = taking->vm;
	struct error err;

	if (check(taking, &err) < 0) {
		taking_end(taking, &err);
	} else if (merges(vm)) {
		fold_wait(vm, taking->request, merge_ended, taking);
	} else {
		choose_kind(taking);
		start(taking);
	}
}

static void merge_ended(void *user, struct vm *vm, const struct error *err)
{
	if (err)
		taking_end(user, err);
	else
		carry_on(user);
}

static void take(struct vm *vm, const char *name, bool automatic, bool temporary,
		 enum checkpoint_kind kind, struct request *request, checkpoint_taken done,
		 void *user)
{
	struct taking *taking = calloc(1, sizeof(*taking));

	if (!taking)
		abort();
	*taking = (struct taking){
		.vm = vm_ref(vm), .request = request, .done = done, .user = user, .kind = kind
	};
	taking->checkpoint.name = name ? strdup(name) : checkpoint_default_name(vm);
	taking->checkpoint.automatic = automatic;
	taking->checkpoint.temporary = temporary;
	carry_on(taking);
}

void checkpoint_take(struct vm *vm, const char *name, struct request *request,
		     checkpoint_taken done, void *user)
{
	take(vm, name, false, false, CHECKPOINT_AS_SET, request, done, user);
}

void checkpoint_take_for(struct vm *vm, const char *name, enum checkpoint_kind kind,
			 struct request *request, checkpoint_taken done, void *user)
{
	take(vm, name, true, true, kind, request, done, user);
}

/* ---- automatic ones ---- */

bool checkpoint_take_automatic(struct vm *vm, checkpoint_taken done, void *user)
{
	const struct config_vm *config = vm->config;
	AUTO_FREE char *name = NULL, *usual = NULL;

	if (!config->automatic_checkpoints || config->saved_state ||
	    config->checkpoint_type == CONFIG_CHECKPOINT_DISABLED || !checkpoint_disks_any(config))
		return false;
	/* What a host that went down has left. */
	checkpoint_remove_automatic(vm);
	usual = checkpoint_default_name(vm);
	name = text_format("Automatic Checkpoint - %.70s", usual);
	text_mend(name);
	take(vm, name, true, false, CHECKPOINT_AS_SET, NULL, done, user);
	return true;
}

static bool is_automatic(const struct checkpoint *checkpoint)
{
	return checkpoint->automatic;
}

static bool is_temporary(const struct checkpoint *checkpoint)
{
	return checkpoint->temporary;
}

static void remove_those(struct vm *vm, bool (*is_one)(const struct checkpoint *checkpoint))
{
	struct checkpoints all;
	bool removed = false;

	checkpoints_load(vm, &all);
	for (size_t i = 0; i < all.count; i++) {
		struct error err;

		if (!is_one(&all.list[i]) || (all.list[i].temporary && vm->lent))
			continue;
		if (checkpoint_disks_remove_with(vm, &all, &all.list[i], &err) < 0)
			log_error("virtual machine '%s': removing its automatic checkpoint: %s",
				  vm->config->name, err.text);
		else
			removed = true;
	}
	checkpoints_done(&all);
	if (removed)
		fold_begin(vm, NULL);
}

void checkpoint_remove_automatic(struct vm *vm)
{
	remove_those(vm, is_automatic);
}

void checkpoint_remove_temporary(struct vm *vm)
{
	if (!vm->busy)
		remove_those(vm, is_temporary);
}

void checkpoint_give_back(struct vm *vm)
{
	vm->lent--;
	checkpoint_remove_temporary(vm);
}
