#include "cmdlets.h"

#include "base/macros.h"
#include "checkpoints.h"
#include "host.h"
#include "objects.h"
#include "run.h"
#include "switches.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

static const struct {
	const char *name;
	request_run run;
} functions[] = {
	{ "New-VM", cmdlet_new_vm },
	{ "Get-VM", cmdlet_get_vm },
	{ "Set-VM", cmdlet_set_vm },
	{ "Start-VM", cmdlet_start_vm },
	{ "Stop-VM", cmdlet_stop_vm },
	{ "Restart-VM", cmdlet_restart_vm },
	{ "Suspend-VM", cmdlet_suspend_vm },
	{ "Resume-VM", cmdlet_resume_vm },
	{ "Save-VM", cmdlet_save_vm },
	{ "Remove-VMSavedState", cmdlet_remove_saved_state },
	{ "Checkpoint-VM", cmdlet_checkpoint_vm },
	{ "Get-VMSnapshot", cmdlet_get_checkpoint },
	{ "Rename-VMSnapshot", cmdlet_rename_checkpoint },
	{ "Remove-VMSnapshot", cmdlet_remove_checkpoint },
	{ "Restore-VMSnapshot", cmdlet_restore_checkpoint },
	{ "Remove-VM", cmdlet_remove_vm },
	{ "Rename-VM", cmdlet_rename_vm },
	{ "Debug-VM", cmdlet_debug_vm },
	{ "Get-VMIntegrationService", cmdlet_get_service },
	{ "Enable-VMIntegrationService", cmdlet_enable_service },
	{ "Disable-VMIntegrationService", cmdlet_disable_service },
	{ "Add-VMHardDiskDrive", cmdlet_add_disk },
	{ "Get-VMHardDiskDrive", cmdlet_get_disk },
	{ "Remove-VMHardDiskDrive", cmdlet_remove_disk },
	{ "Set-VMHardDiskDrive", cmdlet_set_disk },
	{ "Get-VMIdeController", cmdlet_get_ide },
	{ "Get-VMFirmware", cmdlet_get_firmware },
	{ "Set-VMFirmware", cmdlet_set_firmware },
	{ "Get-VMBios", cmdlet_get_bios },
	{ "Get-VMFloppyDiskDrive", cmdlet_get_floppy },
	{ "Set-VMFloppyDiskDrive", cmdlet_set_floppy },
	{ "Set-VMBios", cmdlet_set_bios },
	{ "Get-VMComPort", cmdlet_get_com },
	{ "Set-VMComPort", cmdlet_set_com },
	{ "Enable-VMConsoleSupport", cmdlet_enable_console },
	{ "Disable-VMConsoleSupport", cmdlet_disable_console },
	{ "Get-VMHostNumaNode", cmdlet_get_numa },
	{ "Rename-VMNetworkAdapter", cmdlet_rename_adapter },
	{ "Set-VMNetworkAdapter", cmdlet_set_adapter },
	{ "Add-VMDvdDrive", cmdlet_add_dvd },
	{ "Get-VMDvdDrive", cmdlet_get_dvd },
	{ "Set-VMDvdDrive", cmdlet_set_dvd },
	{ "Remove-VMDvdDrive", cmdlet_remove_dvd },
	{ "Add-VMScsiController", cmdlet_add_controller },
	{ "Get-VMScsiController", cmdlet_get_controller },
	{ "Remove-VMScsiController", cmdlet_remove_controller },
	{ "Add-VMNetworkAdapter", cmdlet_add_adapter },
	{ "Get-VMNetworkAdapter", cmdlet_get_adapter },
	{ "Remove-VMNetworkAdapter", cmdlet_remove_adapter },
	{ "Connect-VMNetworkAdapter", cmdlet_connect_adapter },
	{ "Disconnect-VMNetworkAdapter", cmdlet_disconnect_adapter },
	{ "Get-VMProcessor", cmdlet_get_processor },
	{ "Set-VMProcessor", cmdlet_set_processor },
	{ "Get-VMMemory", cmdlet_get_memory },
	{ "Set-VMMemory", cmdlet_set_memory },
	{ "Get-VMVideo", cmdlet_get_video },
	{ "Set-VMVideo", cmdlet_set_video },
	{ "Send-VMText", cmdlet_send_text },
	{ "Send-VMKey", cmdlet_send_key },
	{ "Send-VMMouse", cmdlet_send_mouse },
	{ "Save-VMScreenshot", cmdlet_save_screenshot },
	{ "Get-VMHost", cmdlet_get_host },
	{ "Set-VMHost", cmdlet_set_host },
	{ "Enable-VMResourceMetering", cmdlet_enable_metering },
	{ "Disable-VMResourceMetering", cmdlet_disable_metering },
	{ "Reset-VMResourceMetering", cmdlet_reset_metering },
	{ "Measure-VM", cmdlet_measure_vm },
	{ "New-VMGroup", cmdlet_new_group },
	{ "Get-VMGroup", cmdlet_get_group },
	{ "Rename-VMGroup", cmdlet_rename_group },
	{ "Remove-VMGroup", cmdlet_remove_group },
	{ "Add-VMGroupMember", cmdlet_add_group_member },
	{ "Remove-VMGroupMember", cmdlet_remove_group_member },
	{ "Get-Job", cmdlet_get_job },
	{ "Wait-Job", cmdlet_wait_job },
	{ "Stop-Job", cmdlet_stop_job },
	{ "Remove-Job", cmdlet_remove_job },
	{ "Add-VMApiUser", cmdlet_add_user },
	{ "Get-VMApiUser", cmdlet_get_user },
	{ "Remove-VMApiUser", cmdlet_remove_user },
	{ "Grant-VMConnectAccess", cmdlet_grant_access },
	{ "Revoke-VMConnectAccess", cmdlet_revoke_access },
	{ "Get-VMConnectAccess", cmdlet_get_access },
	{ "Get-VMSwitch", cmdlet_get_switch },
	{ "Get-VMEvent", cmdlet_get_event },
	{ "Add-VMGuestCommunicationService", cmdlet_add_socket },
	{ "Get-VMGuestCommunicationService", cmdlet_get_socket },
	{ "Remove-VMGuestCommunicationService", cmdlet_remove_socket },
	{ "Get-VMKeyValuePair", cmdlet_get_pair },
	{ "Set-VMKeyValuePair", cmdlet_set_pair },
	{ "Remove-VMKeyValuePair", cmdlet_remove_pair },
	{ "Set-VMGuestNetworkAdapter", cmdlet_set_guest_adapter },
	{ "Copy-VMFile", cmdlet_copy_file },
	{ "Export-VM", cmdlet_export_vm },
	{ "Export-VMSnapshot", cmdlet_export_checkpoint },
	{ "Import-VM", cmdlet_import_vm },
	{ "Get-VMHostSupportedVersion", cmdlet_get_supported_version },
	{ "Update-VMVersion", cmdlet_update_version },
	{ "Compare-VM", cmdlet_compare_vm },
	{ "New-VHD", cmdlet_new_vhd },
	{ "Get-VHD", cmdlet_get_vhd },
	{ "Test-VHD", cmdlet_test_vhd },
	{ "Convert-VHD", cmdlet_convert_vhd },
	{ "Mount-VHD", cmdlet_mount_vhd },
	{ "Resize-VHD", cmdlet_resize_vhd },
	{ "Optimize-VHD", cmdlet_optimize_vhd },
	{ "Set-VHD", cmdlet_set_vhd },
	{ "New-VFD", cmdlet_new_vfd },
	{ "Merge-VHD", cmdlet_merge_vhd },
	{ "Enable-VHDChangeTracking", cmdlet_enable_tracking },
	{ "Disable-VHDChangeTracking", cmdlet_disable_tracking },
	{ "New-VHDReferencePoint", cmdlet_new_point },
	{ "Get-VHDReferencePoint", cmdlet_get_point },
	{ "Remove-VHDReferencePoint", cmdlet_remove_point },
	{ "Get-VHDChange", cmdlet_get_change },
	{ "Export-VHDChange", cmdlet_export_change },
	{ "Dismount-VHD", cmdlet_dismount_vhd },
};

request_run cmdlets_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++)
		if (strcmp(functions[i].name, name) == 0)
			return functions[i].run;
	return NULL;
}

/* ---- fresh state ---- */

struct gather {
	struct request *request;
	void (*describe)(struct request *request, struct vm *vm);
	struct vm **vms;
	size_t count, waiting;
};

static void gather_end(struct gather *gather)
{
	for (size_t i = 0; i < gather->count; i++) {
		if (!gather->vms[i]->removed)
			gather->describe(gather->request, gather->vms[i]);
		vm_unref(gather->vms[i]);
	}
	request_release(gather->request);
	free(gather->vms);
	free(gather);
}

static void gather_one_there(struct gather *gather)
{
	if (--gather->waiting == 0)
		gather_end(gather);
}

static void gather_refreshed(void *user, struct vm *vm, const struct error *err)
{
	gather_one_there(user);
}

static void gather_vm(struct request *request, struct vm *vm)
{
	struct gather *gather = request->context;

	gather->vms[gather->count++] = vm_ref(vm);
	if (vm->run && !vm->run->starting) {
		gather->waiting++;
		run_refresh(vm, gather_refreshed, gather);
	}
}

void cmdlets_show_fresh(struct request *request, const char *name,
			void (*describe)(struct request *request, struct vm *vm))
{
	struct gather *gather;

	if (request_string(request, "VMSnapshot")) {
		cmdlets_show_settings(request, describe);
		return;
	}
	gather = calloc(1, sizeof(*gather));
	if (!gather)
		abort();
	gather->request = request;
	gather->describe = describe;
	gather->vms = calloc(request->daemon->vm_count + 1, sizeof(struct vm *));
	if (!gather->vms)
		abort();
	gather->waiting = 1;
	request_hold(request);
	request->context = gather;
	request_for_vms(request, name, gather_vm);
	gather_one_there(gather);
}

/* ---- settings of now or of a checkpoint ---- */

/* As it was then, for the functions that show parts of a VM: off, and with its name of today, by
 * which it is met. */
static int show_checkpoint(struct request *request, struct vm *vm,
			   const struct checkpoint *checkpoint, struct error *err,
			   void (*describe)(struct request *request, struct vm *vm))
{
	size_t shown = json_array_size(request->results);
	struct vm view = *vm;
	int r = checkpoint_config(vm, checkpoint->id, &view.config, err);

	if (r < 0)
		return r;
	view.run = NULL;
	view.state = VM_OFF;
	r = config_set_string(&view.config->name, vm->config->name, err);
	if (r == 0)
		describe(request, &view);
	config_vm_free(view.config);
	for (; shown < json_array_size(request->results); shown++) {
		json_t *object = json_array_get(request->results, shown);

		json_object_set_new(object, "VMSnapshotName", json_string(checkpoint->name));
		json_object_set_new(object, "VMSnapshotId", json_string(checkpoint->id));
	}
	return r;
}

static void show_checkpoints(struct request *request, struct vm *vm)
{
	void (**describe)(struct request * request, struct vm * vm) = request->context;
	const char *wanted = request_string(request, "VMSnapshot");
	struct checkpoints all;
	struct error err;
	size_t found = 0;
	int r = 0;

	checkpoints_load(vm, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		if (cmdlet_wildcard_match(wanted, all.list[i].name) ||
		    strcasecmp(wanted, all.list[i].id) == 0) {
			found++;
			r = show_checkpoint(request, vm, &all.list[i], &err, *describe);
		}
	checkpoints_done(&all);
	if (!found && !cmdlet_has_wildcard(wanted))
		r = error_set(&err, ERR_NOT_FOUND, "it has no checkpoint '%.100s'", wanted);
	if (r < 0)
		request_error(request, vm->config->name, &err);
}

void cmdlets_show_settings(struct request *request,
			   void (*describe)(struct request *request, struct vm *vm))
{
	if (!request_string(request, "VMSnapshot")) {
		request_for_vms(request, "VMName", describe);
		return;
	}
	request->context = &describe;
	request_for_vms(request, "VMName", show_checkpoints);
	request->context = NULL;
}

bool cmdlets_list_matches(const struct request *request, const char *name, const char *text)
{
	const json_t *patterns = json_object_get(request->params, name);

	if (json_is_string(patterns))
		return cmdlet_wildcard_match(json_string_value(patterns), text);
	for (size_t i = 0; i < json_array_size(patterns); i++)
		if (cmdlet_wildcard_match(json_string_value(json_array_get(patterns, i)), text))
			return true;
	return false;
}

/* ---- changing a description ---- */

bool cmdlets_change(struct request *request, struct vm *vm, bool needs_off,
		    int (*mutate)(struct request *request, struct config_vm *config,
				  struct error *err))
{
	struct config_vm *copy;
	struct error err;
	int r;

	if (needs_off && vm->state != VM_OFF) {
		error_set(&err, ERR_STATE,
			  "this can be changed only while it is off (its state is %s)",
			  vm_state_name(vm->state));
		request_error(request, vm->config->name, &err);
		return false;
	}
	copy = vm_config_copy(vm, &err);
	if (!copy) {
		request_error(request, vm->config->name, &err);
		return false;
	}
	r = mutate(request, copy, &err);
	if (r != 0)
		config_vm_free(copy);
	else
		r = vm_change(vm, copy, &err);
	if (r < 0)
		request_error(request, vm->config->name, &err);
	return r >= 0;
}

/* ---- parts ---- */

bool cmdlets_mac_in_use(const struct daemon *daemon, const struct config_vm *also,
			const uint8_t mac[6])
{
	for (size_t i = 0; i <= daemon->vm_count; i++) {
		const struct config_vm *config =
		    i < daemon->vm_count ? daemon->vms[i]->config : also;

		for (unsigned k = 0; config && k < config->nic_count; k++)
			if (memcmp(config->nics[k].mac, mac, 6) == 0)
				return true;
	}
	return false;
}

#define FURTHER_TRIES 100

/* Notes each address of the host's pool, by its place there. */
static void note_used(const struct daemon *daemon, const struct config_vm *config, bool *used)
{
	uint64_t first = host_mac_number(daemon->mac_first);

	for (unsigned i = 0; config && i < config->nic_count; i++) {
		uint64_t mac = host_mac_number(config->nics[i].mac);

		if (mac >= first && mac <= host_mac_number(daemon->mac_last))
			used[mac - first] = true;
	}
}

/* False: the pool is used up. */
static bool choose_of_pool(const struct daemon *daemon, const struct config_vm *config,
			   uint8_t ret[6])
{
	uint64_t first = host_mac_number(daemon->mac_first), mac;
	uint64_t count = host_mac_number(daemon->mac_last) - first + 1, place = 0;
	AUTO_FREE bool *used = calloc(count, sizeof(*used));

	if (!used)
		abort();
	note_used(daemon, config, used);
	for (size_t i = 0; i < daemon->vm_count; i++)
		note_used(daemon, daemon->vms[i]->config, used);
	while (place < count && used[place])
		place++;
	mac = first + place;
	for (int i = 5; i >= 0; i--, mac >>= 8)
		ret[i] = (uint8_t)mac;
	return place < count;
}

/* As Hyper-V: of the host's own pool, 256 addresses of 00-15-5D unless another is set. Here an
 * adapter has its address from the beginning, so there may be more of them: those behind have any
 * address of the same manufacturer that is free. */
int cmdlets_choose_mac(const struct daemon *daemon, const struct config_vm *config, uint8_t ret[6],
		       struct error *err)
{
	if (choose_of_pool(daemon, config, ret))
		return 0;
	memcpy(ret, daemon->mac_prefix, 3);
	for (int i = 0; i < FURTHER_TRIES; i++) {
		if (getrandom(ret + 3, 3, 0) != 3)
			abort();
		if (!cmdlets_mac_in_use(daemon, config, ret))
			return 0;
	}
	return error_set(err, ERR_LIMIT, "no dynamic MAC address is free: give a static one");
}

int cmdlets_add_nic(struct daemon *daemon, struct config_vm *config, const char *name,
		    const char *switch_name, const char *mac, struct error *err)
{
	struct config_nic nic = { .name = (char *)name, .switch_name = (char *)switch_name };
	int r = 0;

	if (switch_name && !switches_exists(switch_name))
		return error_set(err, ERR_NOT_FOUND,
				 "there is no virtual switch '%.100s'; there is: %s", switch_name,
				 SWITCHES_DEFAULT);
	if (switch_name)
		nic.switch_name = (char *)SWITCHES_DEFAULT;
	guid_generate(&nic.id);
	if (!mac)
		r = cmdlets_choose_mac(daemon, config, nic.mac, err);
	else if (!config_mac_parse(mac, nic.mac))
		r = error_set(err, ERR_INVALID, "'%.40s' is not a MAC address", mac);
	else
		nic.static_mac = true;
	if (r == 0 && mac && cmdlets_mac_in_use(daemon, config, nic.mac))
		r = error_set(err, ERR_EXISTS, "the MAC address %.40s is another adapter's", mac);
	if (r < 0)
		return r;
	return config_add_nic(config, &nic, err) ? 0 : -(int)err->code;
}

int cmdlets_add_disk_file(struct config_vm *config, const struct config_disk *disk, bool unverified,
			  struct error *err)
{
	if (disk->path && !unverified && access(disk->path, F_OK) < 0)
		return error_set_errno(err, errno, "the file '%.300s'", disk->path);
	for (unsigned i = 0; disk->path && i < config->disk_count; i++)
		if (config->disks[i].path && disk->kind == CONFIG_DISK_HARD &&
		    strcmp(config->disks[i].path, disk->path) == 0)
			return error_set(err, ERR_EXISTS, "the disk '%.300s' is attached already",
					 disk->path);
	return config_add_disk(config, disk, err) ? 0 : -(int)err->code;
}

/* ---- host, switches, events ---- */

void cmdlet_get_host(struct request *request)
{
	request_result(request, object_host(request->daemon));
}

/* Without the parameter all are. */
static bool list_names(const struct request *request, const char *param, const char *text)
{
	return !json_object_get(request->params, param) ||
	       cmdlets_list_matches(request, param, text);
}

static bool switch_wanted(const struct request *request, const json_t *object)
{
	const char *type = json_string_value(json_object_get(object, "SwitchType"));
	const char *id = json_string_value(json_object_get(object, "Id"));

	return list_names(request, "SwitchType", type) && list_names(request, "Id", id);
}

static void show_switches(struct request *request, const json_t *switches, const char *pattern)
{
	bool found = false;
	struct error err;

	for (size_t i = 0; i < json_array_size(switches); i++) {
		json_t *object = json_array_get(switches, i);
		const char *name = json_string_value(json_object_get(object, "Name"));

		if (!cmdlet_wildcard_match(pattern, name))
			continue;
		found = true;
		if (switch_wanted(request, object))
			request_result(request, json_incref(object));
	}
	if (!found && !cmdlet_has_wildcard(pattern)) {
		error_set(&err, ERR_NOT_FOUND, "there is no virtual switch of this name");
		request_error(request, pattern, &err);
	}
}

void cmdlet_get_switch(struct request *request)
{
	json_t *switches = switches_describe(request->daemon->switches);
	const json_t *names = json_object_get(request->params, "Name");

	for (size_t i = 0; i < json_array_size(names); i++)
		show_switches(request, switches, json_string_value(json_array_get(names, i)));
	json_decref(switches);
}

static bool event_wanted(void *user, const json_t *event)
{
	const struct request *request = user;
	const json_t *patterns = json_object_get(request->params, "VMName");
	const char *level = request_string(request, "Level");
	const char *its_level = json_string_value(json_object_get(event, "LevelDisplayName"));
	const char *name = json_string_value(json_object_get(event, "VMName"));

	if (level && (!its_level || strcmp(level, its_level) != 0))
		return false;
	for (size_t i = 0; i < json_array_size(patterns); i++) {
		const char *pattern = json_string_value(json_array_get(patterns, i));

		if (strcmp(pattern, "*") == 0 || (name && cmdlet_wildcard_match(pattern, name)))
			return true;
	}
	return false;
}

void cmdlet_get_event(struct request *request)
{
	struct events_query query = { event_wanted, request,
				      (size_t)request_integer(request, "MaxEvents", 100) };
	json_t *events = events_read(request->daemon->events, &query);
	size_t count = json_array_size(events);

	for (size_t i = 0; i < count; i++) {
		size_t at = request_switch(request, "Oldest") ? count - 1 - i : i;

		request_result(request, json_incref(json_array_get(events, at)));
	}
	json_decref(events);
}
