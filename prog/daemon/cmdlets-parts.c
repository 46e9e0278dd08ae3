/* Cmdlets about the parts of a virtual machine: services, drives, adapters, processors, memory. */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "objects.h"
#include "run.h"
#include "switches.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_TIMEOUT_NS (10 * NS_PER_SEC)

static bool list_matches(const struct request *request, const char *name, const char *text)
{
	const json_t *patterns = json_object_get(request->params, name);

	if (json_is_string(patterns))
		return cmdlet_wildcard_match(json_string_value(patterns), text);
	for (size_t i = 0; i < json_array_size(patterns); i++)
		if (cmdlet_wildcard_match(json_string_value(json_array_get(patterns, i)), text))
			return true;
	return false;
}

/* ---- integration services ---- */

/* Names of services that there are none of are errors of the request. */
static void check_service_names(struct request *request)
{
	const json_t *names = json_object_get(request->params, "Name");

	for (size_t i = 0; i < json_array_size(names); i++) {
		const char *name = json_string_value(json_array_get(names, i));
		bool found = cmdlet_has_wildcard(name);
		struct error err;

		for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
			found |= cmdlet_wildcard_match(name, config_ic_name((enum config_ic)ic));
		if (found)
			continue;
		error_set(&err, ERR_NOT_FOUND, "there is no integration service of this name");
		request_error(request, name, &err);
	}
}

static void show_services(struct request *request, struct vm *vm)
{
	for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
		if (list_matches(request, "Name", config_ic_name((enum config_ic)ic)))
			request_result(request, object_service(vm, (enum config_ic)ic));
}

void cmdlet_get_service(struct request *request)
{
	check_service_names(request);
	cmdlets_show_fresh(request, "VMName", show_services);
}

static bool enabling(const struct request *request)
{
	return strncmp(request->cmdlet->name, "Enable", 6) == 0;
}

static int mutate_services(struct request *request, struct config_vm *config, struct error *err)
{
	for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
		if (list_matches(request, "Name", config_ic_name((enum config_ic)ic)))
			config->ic_enabled[ic] = enabling(request);
	return 0;
}

static void tell_worker(struct vm *vm, enum config_ic ic, bool enabled)
{
	run_request(vm,
		    json_pack("{s:s, s:s, s:b}", "op", "set-integration", "name",
			      config_ic_name(ic), "enabled", enabled),
		    REQUEST_TIMEOUT_NS, NULL, NULL);
}

static void change_services(struct request *request, struct vm *vm)
{
	if (!cmdlets_change(request, vm, false, mutate_services))
		return;
	for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
		if (list_matches(request, "Name", config_ic_name((enum config_ic)ic)) && vm->run)
			tell_worker(vm, (enum config_ic)ic, enabling(request));
	show_services(request, vm);
}

void cmdlet_enable_service(struct request *request)
{
	check_service_names(request);
	request_for_vms(request, "VMName", change_services);
}

void cmdlet_disable_service(struct request *request)
{
	cmdlet_enable_service(request);
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
	struct error err;

	if (!type || strcmp(type, "SCSI") == 0)
		return true;
	error_set(&err, ERR_UNSUPPORTED, "IDE controllers are not there yet");
	request_error(request, NULL, &err);
	return false;
}

static void show_drives(struct request *request, struct vm *vm)
{
	int64_t controller = request_integer(request, "ControllerNumber", -1);
	int64_t location = request_integer(request, "ControllerLocation", -1);

	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		const struct config_disk *disk = &vm->config->disks[i];

		if (disk->kind == kind_of(request) &&
		    (controller < 0 || disk->controller_number == (unsigned)controller) &&
		    (location < 0 || disk->lun == (unsigned)location))
			request_result(request, object_disk(vm, disk));
	}
}

void cmdlet_get_disk(struct request *request)
{
	if (controller_there(request))
		request_for_vms(request, "VMName", show_drives);
}

void cmdlet_get_dvd(struct request *request)
{
	request_for_vms(request, "VMName", show_drives);
}

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

static int mutate_add_drive(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_disk disk = { .kind = kind_of(request),
				    .path = (char *)request_string(request, "Path"),
				    .read_only = request_switch(request, "ReadOnly") };
	int r = place(request, config, &disk, err);

	if (disk.path && !disk.path[0])
		disk.path = NULL;
	if (r == 0)
		r = cmdlets_add_disk_file(config, &disk,
					  request_switch(request, "AllowUnverifiedPaths"), err);
	return r;
}

static void add_drive(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_add_drive))
		request_result(request,
			       object_disk(vm, &vm->config->disks[vm->config->disk_count - 1]));
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

		if (disk->kind != kind_of(request) ||
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

static int mutate_remove_drive(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_disk *disk = named_drive(request, config, err);

	if (!disk)
		return -(int)err->code;
	config_remove_disk(config, (unsigned)(disk - config->disks));
	return 0;
}

/* Shown as it was. */
static void remove_drive(struct request *request, struct vm *vm)
{
	struct config_disk *disk = named_drive(request, vm->config, NULL);
	json_t *object = disk ? object_disk(vm, disk) : NULL;

	if (cmdlets_change(request, vm, true, mutate_remove_drive))
		request_result(request, json_incref(object));
	json_decref(object);
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

static int mutate_medium(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_disk *disk = named_drive(request, config, err);
	const char *path = request_string(request, "Path");

	if (!disk)
		return -(int)err->code;
	if (!path)
		return 1;
	if (path[0] && access(path, F_OK) < 0)
		return error_set_errno(err, errno, "the file '%.300s'", path);
	return config_set_string(&disk->path, path[0] ? path : NULL, err);
}

static void set_medium(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_medium))
		show_drives(request, vm);
}

void cmdlet_set_dvd(struct request *request)
{
	request_for_vms(request, "VMName", set_medium);
}

/* ---- network adapters ---- */

static void show_adapters(struct request *request, struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->nic_count; i++)
		if (list_matches(request, "Name", vm->config->nics[i].name))
			request_result(request, object_nic(vm, &vm->config->nics[i]));
}

void cmdlet_get_adapter(struct request *request)
{
	cmdlets_show_fresh(request, "VMName", show_adapters);
}

static int mutate_add_adapter(struct request *request, struct config_vm *config, struct error *err)
{
	return cmdlets_add_nic(request->daemon, config, request_string(request, "Name"),
			       request_string(request, "SwitchName"),
			       request_string(request, "StaticMacAddress"), err);
}

static void add_adapter(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_add_adapter))
		request_result(request,
			       object_nic(vm, &vm->config->nics[vm->config->nic_count - 1]));
}

void cmdlet_add_adapter(struct request *request)
{
	request_for_vms(request, "VMName", add_adapter);
}

static int no_adapter(const struct request *request, struct error *err)
{
	return error_set(err, ERR_NOT_FOUND, "it has no network adapter '%.100s'",
			 request_string(request, "Name"));
}

static int mutate_remove_adapter(struct request *request, struct config_vm *config,
				 struct error *err)
{
	unsigned count = config->nic_count;

	for (unsigned i = config->nic_count; i-- > 0;)
		if (list_matches(request, "Name", config->nics[i].name))
			config_remove_nic(config, i);
	return config->nic_count == count ? no_adapter(request, err) : 0;
}

static void remove_adapter(struct request *request, struct vm *vm)
{
	cmdlets_change(request, vm, true, mutate_remove_adapter);
}

void cmdlet_remove_adapter(struct request *request)
{
	request_for_vms(request, "VMName", remove_adapter);
}

/* SwitchName of Connect-VMNetworkAdapter; none of Disconnect-. */
static int mutate_plug(struct request *request, struct config_vm *config, struct error *err)
{
	const char *name = request_string(request, "SwitchName");
	bool found = false;
	int r = 0;

	if (name && !switches_exists(name))
		return error_set(err, ERR_NOT_FOUND, "there is no virtual switch '%.100s'", name);
	for (unsigned i = 0; r == 0 && i < config->nic_count; i++)
		if (list_matches(request, "Name", config->nics[i].name)) {
			r = config_set_string(&config->nics[i].switch_name,
					      name ? SWITCHES_DEFAULT : NULL, err);
			found = true;
		}
	return found ? r : no_adapter(request, err);
}

static void plug(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_plug))
		show_adapters(request, vm);
}

void cmdlet_connect_adapter(struct request *request)
{
	request_for_vms(request, "VMName", plug);
}

void cmdlet_disconnect_adapter(struct request *request)
{
	request_for_vms(request, "VMName", plug);
}

/* ---- processors and memory ---- */

static void show_processor(struct request *request, struct vm *vm)
{
	request_result(request, object_processor(vm));
}

void cmdlet_get_processor(struct request *request)
{
	request_for_vms(request, "VMName", show_processor);
}

static int mutate_processor(struct request *request, struct config_vm *config, struct error *err)
{
	config->processor_count =
	    (unsigned)request_integer(request, "Count", config->processor_count);
	return 0;
}

static void set_processor(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_processor))
		show_processor(request, vm);
}

void cmdlet_set_processor(struct request *request)
{
	request_for_vms(request, "VMName", set_processor);
}

static void show_memory(struct request *request, struct vm *vm)
{
	request_result(request, object_memory(vm));
}

void cmdlet_get_memory(struct request *request)
{
	request_for_vms(request, "VMName", show_memory);
}

static int mutate_memory(struct request *request, struct config_vm *config, struct error *err)
{
	if (json_is_true(json_object_get(request->params, "DynamicMemoryEnabled")))
		return error_set(err, ERR_UNSUPPORTED, "dynamic memory is not there yet");
	config->memory_bytes =
	    (uint64_t)request_integer(request, "StartupBytes", (int64_t)config->memory_bytes);
	return 0;
}

static void set_memory(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_memory))
		show_memory(request, vm);
}

void cmdlet_set_memory(struct request *request)
{
	request_for_vms(request, "VMName", set_memory);
}
