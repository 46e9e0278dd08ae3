/*
 * Cmdlets about the devices of a virtual machine: SCSI controllers, drives, network adapters.
 *
 * The same change is made to the description and, where the VM runs, by its worker. What is added
 * is in the description first, so that nobody else takes its place, and is taken out again if the
 * worker refuses it; all else is done by the worker first. A daemon that ends between the two
 * leaves a description that holds from the next start on.
 */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "disk-job.h"
#include "files.h"
#include "objects.h"
#include "run.h"
#include "switches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A disk that is taken away is synced first, which may take its time. */
#define WORKER_TIMEOUT_NS (60 * NS_PER_SEC)

/* ---- one change ---- */

struct change {
	struct request *request;
	struct vm *vm;
	int (*mutate)(struct change *change, struct config_vm *config, struct error *err);
	/* The worker refused after something was done already: what holds then. NULL: nothing was.
	 */
	int (*refused)(struct change *change, struct config_vm *config, struct error *err);
	/* Asks the worker; change_answered follows. */
	void (*ask)(struct change *change);
	json_t *(*show)(struct change *change); /* NULL: shown is it */
	json_t *shown;
	bool early; /* the description first */
	bool asked; /* the worker */

	/* What it is about; each kind of change uses some of these. */
	struct guid id;          /* of the controller or the adapter */
	struct config_disk from; /* the drive as it was; path is owned */
	struct config_disk disk; /* as it shall be; path is owned */
	uint64_t size_bytes;
	struct config_nic nic; /* strings are owned */
	int fd;
	bool taken_away; /* step one of a move is done */
};

static struct change *change_new(struct request *request, struct vm *vm)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change)
		abort();
	change->request = request;
	change->vm = vm_ref(vm);
	change->fd = -1;
	request_hold(request);
	return change;
}

/* The end of every change; err NULL: it was made. */
static void change_end(struct change *change, const struct error *err)
{
	if (err)
		request_error(change->request, change->vm->config->name, err);
	else
		request_result(change->request,
			       change->show ? change->show(change) : json_incref(change->shown));
	request_release(change->request);
	change->vm->changing -= change->asked;
	vm_unref(change->vm);
	json_decref(change->shown);
	free(change->from.path);
	free(change->disk.path);
	free(change->nic.name);
	free(change->nic.switch_name);
	if (change->fd >= 0)
		close(change->fd);
	free(change);
}

static int change_description(struct change *change,
			      int (*mutate)(struct change *change, struct config_vm *config,
					    struct error *err),
			      struct error *err)
{
	struct config_vm *copy = vm_config_copy(change->vm, err);
	int r = copy ? mutate(change, copy, err) : -ERR_NO_MEMORY;

	if (r == 0)
		return vm_change(change->vm, copy, err);
	config_vm_free(copy);
	return r;
}

static void change_answered(void *user, const json_t *reply, const struct error *failure)
{
	struct change *change = user;
	struct error err, other;

	if (!failure) {
		bool ok = change->early || change_description(change, change->mutate, &err) == 0;

		change_end(change, ok ? NULL : &err);
		return;
	}
	err = *failure;
	if (change->refused && change_description(change, change->refused, &other) < 0)
		err = other;
	change_end(change, &err);
}

static void change_ask(struct change *change, json_t *message, int fd, peer_done answered)
{
	run_request_fd(change->vm, message, fd, WORKER_TIMEOUT_NS, answered, change);
}

static bool runs(const struct vm *vm)
{
	return (vm->state == VM_RUNNING || vm->state == VM_PAUSED) && vm->run;
}

static int check_state(const struct vm *vm, struct error *err)
{
	if (vm->state == VM_OFF || runs(vm))
		return 0;
	return error_set(err, ERR_STATE, "this is not possible in its present state (%s)",
			 vm_state_name(vm->state));
}

static void change_run(struct change *change)
{
	bool online = runs(change->vm);
	struct error err;
	int r = check_state(change->vm, &err);

	if (r == 0)
		r = vm_check_busy(change->vm, &err);
	if (r == 0 && (change->early || !online))
		r = change_description(change, change->mutate, &err);
	if (r < 0 || !online)
		change_end(change, r < 0 ? &err : NULL);
	else {
		change->asked = true;
		change->vm->changing++;
		change->ask(change);
	}
}

static char *copy_text(const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		abort();
	return copy;
}

/* ---- drives ---- */

static enum config_disk_kind kind_of(const struct request *request)
{
	return strstr(request->cmdlet->name, "Dvd") ? CONFIG_DISK_DVD : CONFIG_DISK_HARD;
}

/* IDE is of generation 1, which is not there yet. */
static bool controller_there(struct request *request)
{
	const char *type = request_string(request, "ControllerType");
	const char *to = request_string(request, "ToControllerType");
	struct error err;

	if ((!type || strcmp(type, "SCSI") == 0) && (!to || strcmp(to, "SCSI") == 0))
		return true;
	error_set(&err, ERR_UNSUPPORTED, "IDE controllers are not there yet");
	request_error(request, NULL, &err);
	return false;
}

static void show_drives(struct request *request, struct vm *vm)
{
	int64_t controller = request_integer(request, "ControllerNumber", -1);
	int64_t location = request_integer(request, "ControllerLocation", -1);
	const char *type = request_string(request, "ControllerType");

	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		const struct config_disk *disk = &vm->config->disks[i];

		/* IDE is of generation 1: none has it. */
		if (type && strcmp(type, "SCSI") != 0)
			return;

		if (disk->kind == kind_of(request) &&
		    (controller < 0 || disk->controller_number == (unsigned)controller) &&
		    (location < 0 || disk->lun == (unsigned)location))
			request_result(request, object_disk(vm, disk));
	}
}

void cmdlet_get_disk(struct request *request)
{
	request_for_vms(request, "VMName", show_drives);
}

void cmdlet_get_dvd(struct request *request)
{
	request_for_vms(request, "VMName", show_drives);
}

static json_t *show_drive(struct change *change)
{
	const struct config_disk *place = &change->disk;
	const struct config_disk *disk =
	    config_find_disk(change->vm->config, place->bus, place->controller_number, place->lun);

	return disk ? object_disk(change->vm, disk) : json_null();
}

static json_t *drive_message(const struct change *change, const char *op,
			     const struct config_disk *disk)
{
	const struct config_vm *config = change->vm->config;
	char id[GUID_TEXT_SIZE];
	json_t *message =
	    json_pack("{s:s, s:s, s:i, s:s, s:b}", "op", op, "controller",
		      guid_format(&config->scsi_ids[disk->controller_number], id), "location",
		      (int)disk->lun, "kind", disk->kind == CONFIG_DISK_DVD ? "dvd" : "hard-disk",
		      "read_only", disk->read_only);

	if (disk->path)
		json_object_set_new(message, "path", json_string(disk->path));
	if (disk->minimum_iops)
		json_object_set_new(message, "minimum_iops", json_integer(disk->minimum_iops));
	if (disk->maximum_iops)
		json_object_set_new(message, "maximum_iops", json_integer(disk->maximum_iops));
	return message;
}

static int remove_from(struct change *change, struct config_vm *config,
		       const struct config_disk *disk, struct error *err)
{
	struct config_disk *found =
	    config_find_disk(config, disk->bus, disk->controller_number, disk->lun);

	if (!found)
		return error_set(err, ERR_NOT_FOUND, "the drive is gone already");
	config_remove_disk(config, (unsigned)(found - config->disks));
	return 0;
}

/* -- added -- */

/* Where the new drive goes: as asked for, or the first free place. */
static int place(struct request *request, const struct config_vm *config, struct config_disk *disk,
		 struct error *err)
{
	int64_t controller = request_integer(request, "ControllerNumber", -1);
	int64_t location = request_integer(request, "ControllerLocation", -1);

	if (location < 0)
		return config_free_location(config, (int)controller, &disk->controller_number,
					    &disk->lun, err);
	disk->controller_number = controller < 0 ? 0 : (unsigned)controller;
	disk->lun = (unsigned)location;
	return 0;
}

static int mutate_add_drive(struct change *change, struct config_vm *config, struct error *err)
{
	int r = place(change->request, config, &change->disk, err);

	if (r == 0)
		r = cmdlets_add_disk_file(config, &change->disk,
					  request_switch(change->request, "AllowUnverifiedPaths"),
					  err);
	return r;
}

static int unmutate_add_drive(struct change *change, struct config_vm *config, struct error *err)
{
	return remove_from(change, config, &change->disk, err);
}

static void add_chain(struct change *change, const json_t *parents)
{
	struct files files = { .lock_fd = -1 };
	json_t *message;
	struct error err;

	if (change->disk.path &&
	    files_open_chain(change->vm, &change->disk, parents, &files, &err) < 0) {
		change_answered(change, NULL, &err);
		return;
	}
	message = drive_message(change, "add-drive", &change->disk);
	json_object_set_new(message, "tracked", json_boolean(files_have(&files, "track")));
	run_request_fds(change->vm, message, files.fds, files.count, WORKER_TIMEOUT_NS,
			change_answered, change);
	files_done(&files);
}

static void parents_found(void *user, const json_t *result, struct process *process,
			  const struct error *err)
{
	struct change *change = user;

	if (err)
		change_answered(change, NULL, err);
	else
		add_chain(change, json_object_get(result, "parents"));
}

/* The daemon reads no image itself: whether it is a differencing one has to be asked. */
static void ask_add_drive(struct change *change)
{
	static const struct disk_job_events events = { NULL, parents_found };
	struct disk_job *job;
	json_t *request;
	struct error err;

	if (!files_may_have_parent(&change->disk)) {
		add_chain(change, NULL);
		return;
	}
	request = json_pack("{s:s, s:s}", "op", "parents", "path", change->disk.path);
	if (disk_job_start(change->vm->daemon, request, NULL, 0, 0, &events, change, &job, &err) <
	    0)
		change_answered(change, NULL, &err);
}

static void take_iops(const struct request *request, struct config_disk *disk)
{
	disk->minimum_iops = (unsigned)request_integer(request, "MinimumIOPS", disk->minimum_iops);
	disk->maximum_iops = (unsigned)request_integer(request, "MaximumIOPS", disk->maximum_iops);
}

static void add_drive(struct request *request, struct vm *vm)
{
	struct change *change = change_new(request, vm);
	const char *path = request_string(request, "Path");

	change->disk.kind = kind_of(request);
	change->disk.read_only = request_switch(request, "ReadOnly");
	change->disk.path = path && path[0] ? copy_text(path) : NULL;
	take_iops(request, &change->disk);
	change->early = true;
	change->mutate = mutate_add_drive;
	change->refused = unmutate_add_drive;
	change->ask = ask_add_drive;
	change->show = show_drive;
	change_run(change);
}

void cmdlet_add_disk(struct request *request)
{
	if (controller_there(request))
		request_for_vms(request, "VMName", add_drive);
}

void cmdlet_add_dvd(struct request *request)
{
	request_for_vms(request, "VMName", add_drive);
}

/* -- one that is there -- */

/* The drive that the request names, or the only one of its kind. */
static struct config_disk *named_drive(struct request *request, struct config_vm *config,
				       struct error *err)
{
	int64_t controller = request_integer(request, "ControllerNumber", -1);
	int64_t location = request_integer(request, "ControllerLocation", -1);
	struct config_disk *found = NULL;
	unsigned count = 0;

	for (unsigned i = 0; i < config->disk_count; i++) {
		struct config_disk *disk = &config->disks[i];

		if (disk->kind != kind_of(request) || disk->bus != CONFIG_BUS_SCSI ||
		    (controller >= 0 && disk->controller_number != (unsigned)controller) ||
		    (location >= 0 && disk->lun != (unsigned)location))
			continue;
		found = disk;
		count++;
	}
	if (count == 1)
		return found;
	if (count == 0)
		error_set(err, ERR_NOT_FOUND, "there is no such drive");
	else
		error_set(err, ERR_INVALID,
			  "it has %u such drives: say which one by -ControllerNumber and "
			  "-ControllerLocation",
			  count);
	return NULL;
}

/* A change of the named drive, or NULL, and the request has its error. */
static struct change *change_of_drive(struct request *request, struct vm *vm)
{
	struct error err;
	struct config_disk *drive = named_drive(request, vm->config, &err);
	struct change *change;

	if (!drive) {
		request_error(request, vm->config->name, &err);
		return NULL;
	}
	change = change_new(request, vm);
	change->from = change->disk = *drive;
	change->from.path = copy_text(drive->path);
	change->disk.path = copy_text(drive->path);
	change->shown = object_disk(vm, drive); /* as it was */
	return change;
}

static int mutate_remove_drive(struct change *change, struct config_vm *config, struct error *err)
{
	return remove_from(change, config, &change->from, err);
}

static void ask_remove_drive(struct change *change)
{
	change_ask(change, drive_message(change, "remove-drive", &change->from), -1,
		   change_answered);
}

static void remove_drive(struct request *request, struct vm *vm)
{
	struct change *change = change_of_drive(request, vm);

	if (!change)
		return;
	change->mutate = mutate_remove_drive;
	change->ask = ask_remove_drive;
	change_run(change);
}

void cmdlet_remove_disk(struct request *request)
{
	if (controller_there(request))
		request_for_vms(request, "VMName", remove_drive);
}

void cmdlet_remove_dvd(struct request *request)
{
	request_for_vms(request, "VMName", remove_drive);
}

/* -- moved, or with another file -- */

static bool same_place(const struct config_disk *a, const struct config_disk *b)
{
	return a->controller_number == b->controller_number && a->lun == b->lun;
}

static bool same_file(const struct change *change)
{
	const char *from = change->from.path, *to = change->disk.path;

	return from == to || (from && to && strcmp(from, to) == 0);
}

static int mutate_set_drive(struct change *change, struct config_vm *config, struct error *err)
{
	int r = remove_from(change, config, &change->from, err);

	if (r == 0)
		r = cmdlets_add_disk_file(config, &change->disk,
					  request_switch(change->request, "AllowUnverifiedPaths"),
					  err);
	return r;
}

/* The drive was taken away and could not be put back: then there is none. */
static int refused_set_drive(struct change *change, struct config_vm *config, struct error *err)
{
	return change->taken_away ? remove_from(change, config, &change->from, err) : 1;
}

static void drive_taken_away(void *user, const json_t *reply, const struct error *err)
{
	struct change *change = user;

	if (err) {
		change_answered(change, reply, err);
		return;
	}
	change->taken_away = true;
	ask_add_drive(change);
}

static bool stays(const struct change *change)
{
	return same_file(change) && same_place(&change->from, &change->disk);
}

static void ask_set_drive(struct change *change)
{
	struct error err;

	if (stays(change)) {
		change_ask(change, drive_message(change, "set-iops", &change->disk), -1,
			   change_answered);
		return;
	}
	/* The new file first, as far as it is not our own: what is wrong with it shows before
	 * anything is done. */
	if (!same_file(change) && change->disk.path) {
		change->fd = files_open_disk(change->vm, &change->disk, &err);
		if (change->fd < 0) {
			change_answered(change, NULL, &err);
			return;
		}
	}
	if (change->disk.kind == CONFIG_DISK_DVD && same_place(&change->from, &change->disk)) {
		change_ask(change, drive_message(change, "set-medium", &change->disk), change->fd,
			   change_answered);
		return;
	}
	if (change->fd >= 0)
		close(TAKE_FD(change->fd));
	change_ask(change, drive_message(change, "remove-drive", &change->from), -1,
		   drive_taken_away);
}

/* The place that To... names; what it leaves out is as before. */
static int new_place(struct request *request, const struct config_vm *config,
		     struct config_disk *disk, struct error *err)
{
	int64_t controller = request_integer(request, "ToControllerNumber", -1);
	int64_t location = request_integer(request, "ToControllerLocation", -1);

	if (controller < 0 && location < 0)
		return 0;
	if (controller < 0)
		controller = (int64_t)disk->controller_number;
	if (location < 0)
		return config_free_location(config, (int)controller, &disk->controller_number,
					    &disk->lun, err);
	disk->controller_number = (unsigned)controller;
	disk->lun = (unsigned)location;
	return 0;
}

static int check_new_drive(struct change *change, struct error *err)
{
	struct config_vm *copy = vm_config_copy(change->vm, err);
	int r = copy ? mutate_set_drive(change, copy, err) : -ERR_NO_MEMORY;

	config_vm_free(copy);
	return r;
}

static void set_drive(struct request *request, struct vm *vm)
{
	struct change *change = change_of_drive(request, vm);
	const char *path = request_string(request, "Path");
	struct error err;
	int r;

	if (!change)
		return;
	if (path) {
		free(change->disk.path);
		change->disk.path = path[0] ? copy_text(path) : NULL;
	}
	take_iops(request, &change->disk);
	change->mutate = mutate_set_drive;
	change->refused = refused_set_drive;
	change->ask = ask_set_drive;
	change->show = show_drive;
	r = new_place(request, vm->config, &change->disk, &err);
	if (r == 0)
		r = check_new_drive(change, &err);
	if (r < 0)
		change_end(change, &err);
	else if (stays(change) && change->from.minimum_iops == change->disk.minimum_iops &&
		 change->from.maximum_iops == change->disk.maximum_iops)
		change_end(change, NULL); /* nothing to change */
	else
		change_run(change);
}

static int mutate_nothing(struct change *change, struct config_vm *config, struct error *err)
{
	return 0;
}

static void ask_grow(struct change *change)
{
	json_t *message = drive_message(change, "grow-drive", &change->disk);

	json_object_set_new(message, "size_bytes", json_integer((json_int_t)change->size_bytes));
	change_ask(change, message, -1, change_answered);
}

static void grow_drive(struct request *request, struct vm *vm)
{
	struct change *change = change_of_drive(request, vm);
	struct error err;

	if (!change)
		return;
	if (!runs(vm)) {
		error_set(&err, ERR_STATE,
			  "-SizeBytes is for a running virtual machine; while it is off, its "
			  "file is resized by itself");
		change_end(change, &err);
		return;
	}
	change->size_bytes = (uint64_t)request_integer(request, "SizeBytes", 0);
	change->mutate = mutate_nothing;
	change->ask = ask_grow;
	change_run(change);
}

void cmdlet_set_disk(struct request *request)
{
	bool grows = json_object_get(request->params, "SizeBytes") != NULL;

	if (controller_there(request))
		request_for_vms(request, "VMName", grows ? grow_drive : set_drive);
}

void cmdlet_set_dvd(struct request *request)
{
	request_for_vms(request, "VMName", set_drive);
}

/* ---- controllers ---- */

static int find_controller(const struct config_vm *config, const struct guid *id)
{
	for (unsigned i = 0; i < config->scsi_count; i++)
		if (guid_equal(&config->scsi_ids[i], id))
			return (int)i;
	return -1;
}

static void show_controllers(struct request *request, struct vm *vm)
{
	int64_t number = request_integer(request, "ControllerNumber", -1);

	for (unsigned i = 0; i < vm->config->scsi_count; i++)
		if (number < 0 || number == (int64_t)i)
			request_result(request, object_controller(vm, i));
}

void cmdlet_get_controller(struct request *request)
{
	request_for_vms(request, "VMName", show_controllers);
}

static json_t *show_controller(struct change *change)
{
	int number = find_controller(change->vm->config, &change->id);

	return number < 0 ? json_null() : object_controller(change->vm, (unsigned)number);
}

static int mutate_add_controller(struct change *change, struct config_vm *config, struct error *err)
{
	int r = config_add_controller(config, err);

	if (r == 0)
		change->id = config->scsi_ids[config->scsi_count - 1];
	return r;
}

static int mutate_remove_controller(struct change *change, struct config_vm *config,
				    struct error *err)
{
	int number = find_controller(config, &change->id);

	if (number < 0)
		return error_set(err, ERR_NOT_FOUND, "the controller is gone already");
	config_remove_controller(config, (unsigned)number);
	return 0;
}

static void ask_controller(struct change *change)
{
	char id[GUID_TEXT_SIZE];

	change_ask(change,
		   json_pack("{s:s, s:s}", "op",
			     change->early ? "add-controller" : "remove-controller", "controller",
			     guid_format(&change->id, id)),
		   -1, change_answered);
}

static void add_controller(struct request *request, struct vm *vm)
{
	struct change *change = change_new(request, vm);

	change->early = true;
	change->mutate = mutate_add_controller;
	change->refused = mutate_remove_controller;
	change->ask = ask_controller;
	change->show = show_controller;
	change_run(change);
}

void cmdlet_add_controller(struct request *request)
{
	request_for_vms(request, "VMName", add_controller);
}

static void remove_controller(struct request *request, struct vm *vm)
{
	int64_t number = request_integer(request, "ControllerNumber", 0);
	struct change *change;
	struct error err;

	if (number >= (int64_t)vm->config->scsi_count) {
		error_set(&err, ERR_NOT_FOUND, "it has no SCSI controller %d", (int)number);
		request_error(request, vm->config->name, &err);
		return;
	}
	change = change_new(request, vm);
	change->id = vm->config->scsi_ids[number];
	change->shown = object_controller(vm, (unsigned)number);
	change->mutate = mutate_remove_controller;
	change->ask = ask_controller;
	change_run(change);
}

void cmdlet_remove_controller(struct request *request)
{
	request_for_vms(request, "VMName", remove_controller);
}

/* ---- network adapters ---- */

static void show_adapters(struct request *request, struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->nic_count; i++)
		if (cmdlets_list_matches(request, "Name", vm->config->nics[i].name))
			request_result(request, object_nic(vm, &vm->config->nics[i]));
}

void cmdlet_get_adapter(struct request *request)
{
	if (request_switch(request, "All"))
		json_object_set_new(request->params, "VMName", json_pack("[s]", "*"));
	cmdlets_show_fresh(request, "VMName", show_adapters);
}

static struct config_nic *find_adapter(const struct config_vm *config, const struct guid *id)
{
	for (unsigned i = 0; i < config->nic_count; i++)
		if (guid_equal(&config->nics[i].id, id))
			return &config->nics[i];
	return NULL;
}

static json_t *show_adapter(struct change *change)
{
	const struct config_nic *nic = find_adapter(change->vm->config, &change->id);

	return nic ? object_nic(change->vm, nic) : json_null();
}

static void keep_adapter(struct change *change, const struct config_nic *nic)
{
	change->id = nic->id;
	change->nic = *nic;
	change->nic.name = copy_text(nic->name);
	change->nic.switch_name = copy_text(nic->switch_name);
}

static json_t *adapter_message(const struct change *change, const char *op)
{
	char id[GUID_TEXT_SIZE], mac[CONFIG_MAC_TEXT_SIZE];

	return json_pack("{s:s, s:s, s:s, s:s}", "op", op, "adapter", guid_format(&change->id, id),
			 "name", change->nic.name, "mac", config_mac_format(change->nic.mac, mac));
}

/* A new port on a switch, and then the worker. */
static void port_there(void *user, int fd, const struct error *err)
{
	struct change *change = user;

	change->fd = fd;
	if (err) {
		change_answered(change, NULL, err);
		return;
	}
	change_ask(change, adapter_message(change, change->early ? "add-adapter" : "plug-adapter"),
		   fd, change_answered);
}

static void ask_with_port(struct change *change)
{
	if (change->nic.switch_name)
		switches_add_port(change->vm->daemon->switches, &change->nic, port_there, change);
	else
		port_there(change, -1, NULL);
}

/* -- added -- */

static int mutate_add_adapter(struct change *change, struct config_vm *config, struct error *err)
{
	struct request *request = change->request;
	int r = cmdlets_add_nic(request->daemon, config, request_string(request, "Name"),
				request_string(request, "SwitchName"),
				request_string(request, "StaticMacAddress"), err);

	if (r == 0)
		keep_adapter(change, &config->nics[config->nic_count - 1]);
	return r;
}

static int mutate_remove_adapter(struct change *change, struct config_vm *config, struct error *err)
{
	struct config_nic *nic = find_adapter(config, &change->id);

	if (!nic)
		return error_set(err, ERR_NOT_FOUND, "the network adapter is gone already");
	switches_remove_port(change->vm->daemon->switches, nic);
	config_remove_nic(config, (unsigned)(nic - config->nics));
	return 0;
}

static void add_adapter(struct request *request, struct vm *vm)
{
	struct change *change = change_new(request, vm);

	change->early = true;
	change->mutate = mutate_add_adapter;
	change->refused = mutate_remove_adapter;
	change->ask = ask_with_port;
	change->show = show_adapter;
	change_run(change);
}

void cmdlet_add_adapter(struct request *request)
{
	request_for_vms(request, "VMName", add_adapter);
}

/* -- those that are there -- */

/* Runs a change of each adapter that the request names. */
static void for_adapters(struct request *request, struct vm *vm,
			 void (*begin)(struct change *change))
{
	const json_t *names = json_object_get(request->params, "Name");
	struct change *changes[CONFIG_MAX_NICS];
	unsigned count = 0;
	struct error err;

	for (unsigned i = 0; i < vm->config->nic_count; i++) {
		const struct config_nic *nic = &vm->config->nics[i];

		if (!cmdlets_list_matches(request, "Name", nic->name))
			continue;
		changes[count] = change_new(request, vm);
		changes[count]->shown = object_nic(vm, nic);
		keep_adapter(changes[count++], nic);
	}
	if (count == 0) {
		error_set(&err, ERR_NOT_FOUND, "it has no network adapter '%.100s'",
			  json_string_value(json_array_get(names, 0)));
		request_error(request, vm->config->name, &err);
	}
	/* Each changes the description under what was found. */
	for (unsigned i = 0; i < count; i++)
		begin(changes[i]);
}

static void ask_remove_adapter(struct change *change)
{
	change_ask(change, adapter_message(change, "remove-adapter"), -1, change_answered);
}

static void begin_remove(struct change *change)
{
	change->mutate = mutate_remove_adapter;
	change->ask = ask_remove_adapter;
	change_run(change);
}

static void remove_adapters(struct request *request, struct vm *vm)
{
	for_adapters(request, vm, begin_remove);
}

void cmdlet_remove_adapter(struct request *request)
{
	request_for_vms(request, "VMName", remove_adapters);
}

static int mutate_plug(struct change *change, struct config_vm *config, struct error *err)
{
	struct config_nic *nic = find_adapter(config, &change->id);

	if (!nic)
		return error_set(err, ERR_NOT_FOUND, "the network adapter is gone already");
	if (!change->nic.switch_name)
		switches_remove_port(change->vm->daemon->switches, nic);
	return config_set_string(&nic->switch_name, change->nic.switch_name, err);
}

/* SwitchName of Connect-VMNetworkAdapter; none of Disconnect-. */
static void begin_plug(struct change *change)
{
	const char *name = request_string(change->request, "SwitchName");
	bool was_plugged = change->nic.switch_name != NULL;

	/* The old port goes before the new one comes: an adapter has one. */
	if (was_plugged && name && runs(change->vm))
		switches_remove_port(change->vm->daemon->switches, &change->nic);
	free(change->nic.switch_name);
	change->nic.switch_name = name ? copy_text(SWITCHES_DEFAULT) : NULL;
	change->mutate = mutate_plug;
	change->ask = ask_with_port;
	change->show = show_adapter;
	change_run(change);
}

static void plug_adapters(struct request *request, struct vm *vm)
{
	const char *name = request_string(request, "SwitchName");
	struct error err;

	if (!name || switches_exists(name)) {
		for_adapters(request, vm, begin_plug);
		return;
	}
	error_set(&err, ERR_NOT_FOUND, "there is no virtual switch '%.100s'", name);
	request_error(request, vm->config->name, &err);
}

void cmdlet_connect_adapter(struct request *request)
{
	request_for_vms(request, "VMName", plug_adapters);
}

void cmdlet_disconnect_adapter(struct request *request)
{
	request_for_vms(request, "VMName", plug_adapters);
}
