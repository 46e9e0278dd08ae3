/* Cmdlets about the controllers and drives of a virtual machine. */
#include "change.h"
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

/* ---- drives ---- */

static enum config_disk_kind kind_of(const struct request *request)
{
	return strstr(request->cmdlet->name, "Dvd") ? CONFIG_DISK_DVD : CONFIG_DISK_HARD;
}

/* The bus that a parameter names, or the one that is meant without it. */
static enum config_bus bus_of(const struct request *request, const char *name, enum config_bus dflt)
{
	const char *type = request_string(request, name);

	if (!type)
		return dflt;
	return strcmp(type, "IDE") == 0 ? CONFIG_BUS_IDE : CONFIG_BUS_SCSI;
}

/* Does the request's place, as far as it is given, fit the drive? */
static bool is_meant(const struct request *request, const struct config_disk *disk)
{
	int64_t controller = request_integer(request, "ControllerNumber", -1);
	int64_t location = request_integer(request, "ControllerLocation", -1);

	return disk->kind == kind_of(request) &&
	       disk->bus == bus_of(request, "ControllerType", disk->bus) &&
	       (controller < 0 || disk->controller_number == (unsigned)controller) &&
	       (location < 0 || disk->lun == (unsigned)location);
}

static void show_drives(struct request *request, struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->disk_count; i++)
		if (is_meant(request, &vm->config->disks[i]))
			request_result(request, object_disk(vm, &vm->config->disks[i]));
}

void cmdlet_get_disk(struct request *request)
{
	cmdlets_show_settings(request, show_drives);
}

void cmdlet_get_dvd(struct request *request)
{
	cmdlets_show_settings(request, show_drives);
}

static json_t *show_drive(struct change *change)
{
	const struct config_disk *place = &change->disk;
	const struct config_disk *disk =
	    config_find_disk(change->vm->config, place->bus, place->controller_number, place->lun);

	return disk ? object_disk(change->vm, disk) : json_null();
}

/* The bus of generation 1 can't be changed under a running guest, as on real hardware. */
static int check_online(const struct change *change, struct error *err)
{
	if (change_runs(change->vm) &&
	    (change->disk.bus == CONFIG_BUS_IDE || change->from.bus == CONFIG_BUS_IDE))
		return error_set(err, ERR_STATE,
				 "drives on IDE can be changed only while it is off");
	return 0;
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

/* Where the new drive goes: as asked for, or the first free place. In generation 1 that is on IDE,
 * as in Hyper-V; hard disks may also be on SCSI. */
static int place(struct request *request, const struct config_vm *config, struct config_disk *disk,
		 struct error *err)
{
	int64_t controller = request_integer(request, "ControllerNumber", -1);
	int64_t location = request_integer(request, "ControllerLocation", -1);
	bool named = request_string(request, "ControllerType");
	enum config_bus usual = config->generation == 1 ? CONFIG_BUS_IDE : CONFIG_BUS_SCSI;
	int r;

	disk->bus = bus_of(request, "ControllerType", usual);
	if (location >= 0) {
		disk->controller_number = controller < 0 ? 0 : (unsigned)controller;
		disk->lun = (unsigned)location;
		return 0;
	}
	r = config_free_location(config, disk->bus, (int)controller, &disk->controller_number,
				 &disk->lun, err);
	if (r == 0 || named || disk->bus == CONFIG_BUS_SCSI || disk->kind == CONFIG_DISK_DVD)
		return r;
	disk->bus = CONFIG_BUS_SCSI;
	return config_free_location(config, disk->bus, (int)controller, &disk->controller_number,
				    &disk->lun, err);
}

static int mutate_add_drive(struct change *change, struct config_vm *config, struct error *err)
{
	int r = place(change->request, config, &change->disk, err);

	if (r == 0)
		r = check_online(change, err);
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
	run_request_fds(change->vm, message, files.fds, files.count, CHANGE_TIMEOUT_NS,
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
	change->disk.path = path && path[0] ? change_text(path) : NULL;
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
	struct config_disk *found = NULL;
	unsigned count = 0;

	for (unsigned i = 0; i < config->disk_count; i++) {
		if (!is_meant(request, &config->disks[i]))
			continue;
		found = &config->disks[i];
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
	change->from.path = change_text(drive->path);
	change->disk.path = change_text(drive->path);
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
	struct error err;

	if (!change)
		return;
	change->mutate = mutate_remove_drive;
	change->ask = ask_remove_drive;
	if (check_online(change, &err) < 0)
		change_end(change, &err);
	else
		change_run(change);
}

void cmdlet_remove_disk(struct request *request)
{
	request_for_vms(request, "VMName", remove_drive);
}

void cmdlet_remove_dvd(struct request *request)
{
	request_for_vms(request, "VMName", remove_drive);
}

/* -- moved, or with another file -- */

static bool same_place(const struct config_disk *a, const struct config_disk *b)
{
	return a->bus == b->bus && a->controller_number == b->controller_number && a->lun == b->lun;
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

	disk->bus = bus_of(request, "ToControllerType", disk->bus);
	if (controller < 0 && location < 0 && !request_string(request, "ToControllerType"))
		return 0;
	if (controller >= 0)
		disk->controller_number = (unsigned)controller;
	if (location < 0)
		return config_free_location(config, disk->bus,
					    request_string(request, "ToControllerType") &&
						    controller < 0
						? -1
						: (int)disk->controller_number,
					    &disk->controller_number, &disk->lun, err);
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
		change->disk.path = path[0] ? change_text(path) : NULL;
	}
	take_iops(request, &change->disk);
	change->mutate = mutate_set_drive;
	change->refused = refused_set_drive;
	change->ask = ask_set_drive;
	change->show = show_drive;
	r = new_place(request, vm->config, &change->disk, &err);
	if (r == 0)
		r = check_online(change, &err);
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
	if (!change_runs(vm)) {
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
	cmdlets_show_settings(request, show_controllers);
}

static void show_ide(struct request *request, struct vm *vm)
{
	int64_t number = request_integer(request, "ControllerNumber", -1);

	for (unsigned i = 0; vm->config->generation == 1 && i < CONFIG_MAX_IDE; i++)
		if (number < 0 || number == (int64_t)i)
			request_result(request, object_ide(vm, i));
}

void cmdlet_get_ide(struct request *request)
{
	cmdlets_show_settings(request, show_ide);
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
