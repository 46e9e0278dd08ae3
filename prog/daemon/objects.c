#include "objects.h"

#include "base/host.h"
#include "base/macros.h"
#include "base/text.h"
#include "cgroup.h"
#include "checkpoint-fold.h"
#include "com-ports.h"
#include "run.h"
#include "spec/hvsock.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

static void put_text(json_t *object, const char *name, const char *value)
{
	json_object_set_new(object, name, value ? json_string(value) : json_null());
}

static void put(json_t *object, const char *name, const json_t *value)
{
	json_object_set_new(object, name, value ? json_incref((json_t *)value) : json_null());
}

static const char *kvp(const struct vm *vm, const char *key)
{
	return vm->run ? json_string_value(json_object_get(vm->run->kvp, key)) : NULL;
}

/* Appends the parts of "a;b;c" to list. */
static void split(const char *text, json_t *list)
{
	while (text && *text) {
		size_t len = strcspn(text, ";");

		if (len)
			json_array_append_new(list, json_stringn(text, len));
		text += len + (text[len] == ';');
	}
}

json_t *object_addresses(const struct vm *vm)
{
	json_t *list = json_array();

	split(kvp(vm, "NetworkAddressIPv4"), list);
	split(kvp(vm, "NetworkAddressIPv6"), list);
	return list;
}

/* ---- the VM ---- */

static const char *status_text(const struct vm *vm)
{
	switch (vm->state) {
	case VM_STARTING:
		return "Starting";
	case VM_STOPPING:
		return "Stopping";
	case VM_SAVING:
		return "Saving";
	case VM_CRITICAL:
		return vm->run->critical_text[0] ? vm->run->critical_text
						 : "The host's storage has failed";
	default:
		if (vm->run && vm->run->saving_id[0])
			return "Creating checkpoint";
		return fold_is_pending(vm) ? "Merging disks" : "Operating normally";
	}
}

static json_int_t status_integer(const struct vm *vm, const char *name)
{
	return vm->run ? json_integer_value(json_object_get(vm->run->status, name)) : 0;
}

/* "Up to date" is what Hyper-V says of services whose versions it finds current. */
static const char *services_state(const struct vm *vm)
{
	const json_t *services = vm->run ? vm->run->services : NULL;

	for (size_t i = 0; i < json_array_size(services); i++) {
		const char *status =
		    json_string_value(json_object_get(json_array_get(services, i), "status"));

		if (status && strcmp(status, "OK") == 0)
			return "Up to date";
	}
	return "";
}

static void put_guest(json_t *object, const struct vm *vm)
{
	const char *system = kvp(vm, "OSName");
	const char *major = kvp(vm, "OSMajorVersion");
	char text[256];

	put_text(object, "Heartbeat", vm->run ? vm->run->heartbeat : NULL);
	put_text(object, "IntegrationServicesState", services_state(vm));
	put_text(object, "GuestHostName", kvp(vm, "FullyQualifiedDomainName"));
	/* Linux has the distribution's version apart; Windows names its own in OSName. */
	if (system && major && !strpbrk(system, "0123456789")) {
		snprintf(text, sizeof(text), "%.120s %.120s", system, major);
		text_mend(text);
		system = text;
	}
	put_text(object, "GuestOperatingSystem", system);
	put_text(object, "GuestKernel", kvp(vm, "OSBuildNumber"));
	json_object_set_new(object, "IPAddresses", object_addresses(vm));
	put(object, "KeyValuePairs", vm->run ? vm->run->kvp : NULL);
}

static uint64_t memory(const struct vm *vm, const char *name)
{
	return vm->run ? run_memory(vm->run, name) : 0;
}

/* Hyper-V's words for how much of the buffer is there. */
static const char *memory_status(const struct vm *vm)
{
	uint64_t assigned = memory(vm, "assigned_bytes"), demand = memory(vm, "demand_bytes");
	uint64_t buffer = demand / 100 * vm->config->dynamic_memory.buffer_percent;

	if (!vm->config->dynamic_memory.enabled || !demand)
		return "";
	if (assigned >= demand + buffer / 10 * 8 ||
	    assigned >= vm->config->dynamic_memory.maximum_bytes)
		return "OK";
	return assigned > demand ? "Low" : "Warning";
}

static void put_bytes(json_t *object, const char *name, uint64_t bytes)
{
	json_object_set_new(object, name, json_integer((json_int_t)bytes));
}

static void put_memory(json_t *object, const struct vm *vm)
{
	const struct config_dynamic_memory *dynamic = &vm->config->dynamic_memory;

	put_bytes(object, "MemoryDemand", memory(vm, "demand_bytes"));
	put_text(object, "MemoryStatus", memory_status(vm));
	put_bytes(object, "MemoryStartup", vm->config->memory_bytes);
	json_object_set_new(object, "DynamicMemoryEnabled", json_boolean(dynamic->enabled));
	put_bytes(object, "MemoryMinimum",
		  dynamic->enabled ? dynamic->minimum_bytes : vm->config->memory_bytes);
	put_bytes(object, "MemoryMaximum",
		  dynamic->enabled ? dynamic->maximum_bytes : vm->config->memory_bytes);
	put_bytes(object, "ResidentMemory", memory(vm, "backed_bytes"));
}

static void put_run(json_t *object, const struct vm *vm)
{
	const struct run *run = vm->run;
	bool runs = !vm_is_down(vm) && vm->state != VM_STARTING;

	json_object_set_new(object, "CPUUsage",
			    json_integer(vm->state == VM_RUNNING ? run->cpu_usage_percent : 0));
	put_bytes(object, "MemoryAssigned", runs ? memory(vm, "assigned_bytes") : 0);
	json_object_set_new(
	    object, "Uptime",
	    json_real((double)(status_integer(vm, "uptime_ns") / 1000000) / 1000.0));
	put_text(object, "Backend",
		 run && run->backend ? run->backend : config_backend_name(vm->config->backend));
	put_text(object, "BackendReason", run ? run->backend_reason : NULL);
	json_object_set_new(object, "WorkerProcessId",
			    run ? json_integer(run->process.pid) : json_null());
}

static void put_last_stop(json_t *object, const struct vm *vm)
{
	const json_t *stop = vm->run ? NULL : vm->last_stop;

	put(object, "LastStopReason", json_object_get(stop, "text"));
	put(object, "LastStopCode", json_object_get(stop, "reason"));
	put(object, "LastStopTime", json_object_get(stop, "time"));
	put(object, "GuestCrash", vm->run ? vm->run->crash : json_object_get(stop, "crash"));
}

/* The folder that was named for its checkpoints: theirs is Snapshots/ID in it. */
static void put_checkpoint_folder(json_t *object, const struct vm *vm)
{
	const char *folder = vm->config->checkpoint_folder;
	AUTO_FREE char *own = text_format("/Snapshots/%s", vm->id);
	size_t length = folder ? strlen(folder) : 0;

	if (length > strlen(own) && strcmp(folder + length - strlen(own), own) == 0)
		json_object_set_new(object, "SnapshotFileLocation",
				    json_stringn(folder, length - strlen(own)));
	else
		put_text(object, "SnapshotFileLocation", folder ? folder : vm->folder);
}

/* Where its files are, by Hyper-V's names. */
static void put_places(json_t *object, const struct vm *vm)
{
	const struct config_vm *config = vm->config;

	put_text(object, "ConfigurationLocation", vm->folder);
	put_checkpoint_folder(object, vm);
	put_text(object, "SmartPagingFilePath",
		 config->smart_paging_folder ? config->smart_paging_folder : vm->folder);
}

json_t *object_vm(const struct vm *vm)
{
	const struct config_vm *config = vm->config;
	json_t *object = json_object();

	put_text(object, "Name", config->name);
	put_text(object, "State", vm_state_name(vm->state));
	put_run(object, vm);
	put_text(object, "Status", status_text(vm));
	put_text(object, "Version", CONFIG_VERSION_TEXT);
	put_text(object, "VMId", vm->id);
	json_object_set_new(object, "Generation", json_integer(config->generation));
	json_object_set_new(object, "ProcessorCount", json_integer(config->processor_count));
	put_memory(object, vm);
	put_text(object, "CheckpointType", config_checkpoint_type_name(config->checkpoint_type));
	json_object_set_new(object, "AutomaticCheckpointsEnabled",
			    json_boolean(config->automatic_checkpoints));
	put_text(object, "ParentSnapshotId", config->parent_checkpoint);
	put_text(object, "Notes", config->notes ? config->notes : "");
	put_text(object, "AutomaticStartAction", config_start_action_name(config->start_action));
	json_object_set_new(object, "AutomaticStartDelay",
			    json_integer(config->start_delay_seconds));
	json_object_set_new(object, "ResourceMeteringEnabled", json_boolean(vm->metering != NULL));
	put_text(object, "AutomaticRecoveryAction",
		 config_recovery_action_name(config->recovery_action));
	put_text(object, "AutomaticCriticalErrorAction",
		 config_critical_action_name(config->critical_action));
	json_object_set_new(object, "AutomaticCriticalErrorActionTimeout",
			    json_integer(config->critical_minutes));
	put_text(object, "AutomaticStopAction", config_stop_action_name(config->stop_action));
	put_text(object, "EnhancedSessionTransportType", config_session_name(config->session));
	put_guest(object, vm);
	put_text(object, "LinuxKernelPath", config->kernel_path);
	put_text(object, "LinuxInitrdPath", config->initrd_path);
	put_text(object, "LinuxCommandLine", config->kernel_cmdline);
	put_text(object, "Path", vm->folder);
	put_places(object, vm);
	put_last_stop(object, vm);
	return object;
}

/* ---- its parts ---- */

static json_t *part(const struct vm *vm)
{
	return json_pack("{s:s, s:s}", "VMName", vm->config->name, "VMId", vm->id);
}

json_t *object_disk(const struct vm *vm, const struct config_disk *disk)
{
	json_t *object = part(vm);

	put_text(object, "ControllerType", config_bus_name(disk->bus));
	json_object_set_new(object, "ControllerNumber", json_integer(disk->controller_number));
	json_object_set_new(object, "ControllerLocation", json_integer(disk->lun));
	if (disk->kind == CONFIG_DISK_DVD)
		put_text(object, "DvdMediaType", disk->path ? "ISO" : "None");
	put_text(object, "Path", disk->path);
	if (disk->kind == CONFIG_DISK_HARD) {
		json_object_set_new(object, "ReadOnly", json_boolean(disk->read_only));
		json_object_set_new(object, "MinimumIOPS", json_integer(disk->minimum_iops));
		json_object_set_new(object, "MaximumIOPS", json_integer(disk->maximum_iops));
	}
	return object;
}

static json_t *controller(const struct vm *vm, enum config_bus bus, unsigned number)
{
	json_t *object = part(vm);
	json_t *drives = json_array();

	for (unsigned i = 0; i < vm->config->disk_count; i++)
		if (vm->config->disks[i].bus == bus &&
		    vm->config->disks[i].controller_number == number)
			json_array_append_new(drives, object_disk(vm, &vm->config->disks[i]));
	put_text(object, "ControllerType", config_bus_name(bus));
	json_object_set_new(object, "ControllerNumber", json_integer(number));
	json_object_set_new(object, "Drives", drives);
	return object;
}

json_t *object_ide(const struct vm *vm, unsigned number)
{
	json_t *object = controller(vm, CONFIG_BUS_IDE, number);
	char name[40];

	snprintf(name, sizeof(name), "IDE Controller %u", number);
	put_text(object, "Name", name);
	return object;
}

json_t *object_controller(const struct vm *vm, unsigned number)
{
	json_t *object = controller(vm, CONFIG_BUS_SCSI, number);
	char id[GUID_TEXT_SIZE];

	put_text(object, "Name", "SCSI Controller");
	put_text(object, "Id", guid_format(&vm->config->scsi_ids[number], id));
	return object;
}

static void put_on_off(json_t *object, const char *name, bool on)
{
	put_text(object, name, on ? "On" : "Off");
}

static void put_mac(json_t *object, const char *name, const uint8_t mac[6])
{
	char text[13];

	for (int i = 0; i < 6; i++)
		snprintf(text + 2 * i, 3, "%02X", mac[i]);
	put_text(object, name, text);
}

/* As a TimeSpan: "01:00:00". */
static void put_duration(json_t *object, const char *name, unsigned seconds)
{
	char text[32];

	snprintf(text, sizeof(text), "%02u:%02u:%02u", seconds / 3600, seconds / 60 % 60,
		 seconds % 60);
	put_text(object, name, text);
}

json_t *object_nic(const struct vm *vm, const struct config_nic *nic)
{
	json_t *object = part(vm);
	char id[GUID_TEXT_SIZE];

	put_text(object, "Name", nic->name);
	put_text(object, "SwitchName", nic->switch_name);
	put_mac(object, "MacAddress", nic->mac);
	put_text(object, "Status", vm->run && nic->switch_name ? "Ok" : "");
	/* What the guest reports is not told apart by adapter: it is right where there is one. */
	json_object_set_new(object, "IPAddresses",
			    vm->config->nic_count == 1 ? object_addresses(vm) : json_array());
	json_object_set_new(object, "DynamicMacAddressEnabled", json_boolean(!nic->static_mac));
	put_on_off(object, "MacAddressSpoofing", nic->mac_spoofing);
	json_object_set_new(object, "IsLegacy", json_false());
	json_object_set_new(object, "Connected", json_boolean(nic->switch_name != NULL));
	put_text(object, "AdapterId", guid_format(&nic->id, id));
	return object;
}

/* What the worker says of a service, or NULL. */
static const json_t *running_service(const struct vm *vm, const char *name)
{
	const json_t *services = vm->run ? vm->run->services : NULL;

	for (size_t i = 0; i < json_array_size(services); i++) {
		const json_t *service = json_array_get(services, i);
		const char *its = json_string_value(json_object_get(service, "name"));

		if (its && strcasecmp(its, name) == 0)
			return service;
	}
	return NULL;
}

/* Hyper-V's words for what a service's status says. */
static const char *operational_status(const char *status)
{
	if (!status)
		return NULL;
	return strcmp(status, "OK") == 0           ? "Ok"
	       : strcmp(status, "No Contact") == 0 ? "NoContact"
						   : status;
}

json_t *object_service(const struct vm *vm, enum config_ic service)
{
	const char *name = config_ic_name(service);
	const json_t *running = running_service(vm, name);
	const char *status = json_string_value(json_object_get(running, "status"));
	bool enabled = vm->config->ic_enabled[service];
	json_t *object = part(vm);

	put_text(object, "Name", name);
	json_object_set_new(object, "Enabled", json_boolean(enabled));
	put_text(object, "PrimaryStatusDescription", enabled && status ? status : "");
	put_text(object, "PrimaryOperationalStatus", operational_status(enabled ? status : NULL));
	put_text(object, "SecondaryStatusDescription", "");
	put_text(object, "SecondaryOperationalStatus", NULL);
	put(object, "Version", json_object_get(running, "version"));
	return object;
}

json_t *object_socket(const struct vm *vm, const struct config_socket *socket)
{
	json_t *object = part(vm);
	char id[GUID_TEXT_SIZE];
	uint32_t port;

	put_text(object, "Name", socket->name);
	put_text(object, "ServiceId", guid_format(&socket->service, id));
	if (hvsock_port_of_service(&socket->service, &port))
		json_object_set_new(object, "Port", json_integer(port));
	put_text(object, "Path", socket->path ? socket->path : "");
	return object;
}

json_t *object_processor(const struct vm *vm)
{
	const struct config_processor *processor = &vm->config->processor;
	const char *missing = cgroup_missing(vm->daemon->cgroup);
	json_t *object = part(vm);

	json_object_set_new(object, "Count", json_integer(vm->config->processor_count));
	json_object_set_new(object, "Reserve", json_integer(processor->reserve_percent));
	json_object_set_new(object, "Maximum", json_integer(processor->maximum_percent));
	json_object_set_new(object, "RelativeWeight", json_integer(processor->weight));
	json_object_set_new(object, "CompatibilityForMigrationEnabled",
			    json_boolean(processor->compatible));
	put_text(object, "ResourceControl", missing ? missing : "OK");
	return object;
}

json_t *object_memory(const struct vm *vm)
{
	const struct config_dynamic_memory *dynamic = &vm->config->dynamic_memory;
	json_t *object = part(vm);

	json_object_set_new(object, "DynamicMemoryEnabled", json_boolean(dynamic->enabled));
	put_bytes(object, "Minimum", dynamic->minimum_bytes);
	put_bytes(object, "Startup", vm->config->memory_bytes);
	put_bytes(object, "Maximum", dynamic->maximum_bytes);
	json_object_set_new(object, "Buffer", json_integer(dynamic->buffer_percent));
	json_object_set_new(object, "Priority", json_integer(dynamic->priority));
	return object;
}

json_t *object_video(const struct vm *vm)
{
	const struct config_video *video = &vm->config->video;
	json_t *object = part(vm);

	json_object_set_new(object, "Enabled", json_boolean(video->enabled));
	put_text(object, "ResolutionType", config_video_type_name(video->type));
	json_object_set_new(object, "HorizontalResolution", json_integer(video->width));
	json_object_set_new(object, "VerticalResolution", json_integer(video->height));
	return object;
}

/* ---- firmware, serial ports ---- */

/* Said of every firmware: nothing that is there uses it. */
#define FIRMWARE_STATUS "Kept, not used yet"

static json_t *boot_order(const struct config_vm *config)
{
	struct config_boot order[CONFIG_MAX_DISKS + CONFIG_MAX_NICS];
	unsigned count = config_boot_order(config, order);
	json_t *list = json_array();

	for (unsigned i = 0; i < count; i++) {
		AUTO_FREE char *text = config_boot_text(&order[i]);

		json_array_append_new(list, json_string(text));
	}
	return list;
}

json_t *object_firmware(const struct vm *vm)
{
	const struct config_firmware *firmware = &vm->config->firmware;
	json_t *object = part(vm);

	put_on_off(object, "SecureBoot", firmware->secure_boot);
	put_text(object, "SecureBootTemplate",
		 config_secure_boot_templates.words[firmware->secure_boot_template]);
	put_text(object, "SecureBootTemplateId",
		 config_secure_boot_id(firmware->secure_boot_template));
	put_text(object, "PreferredNetworkBootProtocol",
		 config_boot_protocols.words[firmware->network_protocol]);
	json_object_set_new(object, "BootOrder", boot_order(vm->config));
	put_on_off(object, "PauseAfterBootFailure", firmware->pause_after_boot_failure);
	put_text(object, "ConsoleMode", config_console_modes.words[firmware->console_mode]);
	put_text(object, "Status", FIRMWARE_STATUS);
	return object;
}

json_t *object_bios(const struct vm *vm)
{
	const struct config_firmware *firmware = &vm->config->firmware;
	json_t *object = part(vm), *order = json_array();

	for (unsigned i = 0; i < CONFIG_BOOT_KINDS; i++)
		json_array_append_new(
		    order, json_string(config_boot_kinds.words[firmware->startup_order[i]]));
	json_object_set_new(object, "StartupOrder", order);
	json_object_set_new(object, "NumLockEnabled", json_boolean(firmware->num_lock));
	put_text(object, "Status", FIRMWARE_STATUS);
	return object;
}

json_t *object_floppy(const struct vm *vm)
{
	json_t *object = part(vm);

	put_text(object, "Name", "Diskette Drive");
	put_text(object, "DiskType", vm->config->floppy_path ? "VFD" : "None");
	put_text(object, "Path", vm->config->floppy_path);
	put_text(object, "Status", FIRMWARE_STATUS);
	return object;
}

json_t *object_com(const struct vm *vm, unsigned port)
{
	const struct config_com *com = &vm->config->com[port];
	AUTO_FREE char *place = com_port_place(vm, port);
	json_t *object = part(vm);
	char name[16];

	snprintf(name, sizeof(name), "COM %u", port + 1);
	put_text(object, "Name", name);
	json_object_set_new(object, "Number", json_integer(port + 1));
	put_text(object, "Path", com->path ? com->path : "");
	put_on_off(object, "DebuggerMode", com->debugger_mode);
	put_text(object, "SocketPath", place ? place : "");
	return object;
}

json_t *object_host(const struct daemon *daemon)
{
	char reason[200];
	bool kvm = host_kvm_usable(-1, reason, sizeof(reason));
	json_t *object = json_object();
	struct utsname names;

	uname(&names);
	put_text(object, "Name", names.nodename);
	json_object_set_new(object, "LogicalProcessorCount", json_integer(host_processors()));
	json_object_set_new(object, "MemoryCapacity",
			    json_integer((json_int_t)host_memory_bytes()));
	put_text(object, "Backend", kvm ? "kvm" : "soft");
	put_text(object, "BackendReason", reason);
	put_text(object, "Version", OYAKO_VERSION);
	put_text(object, "VirtualMachinePath",
		 daemon->vm_path ? daemon->vm_path : daemon->paths.state);
	put_text(object, "VirtualHardDiskPath", daemon->vhd_path);
	put_mac(object, "MacAddressMinimum", daemon->mac_first);
	put_mac(object, "MacAddressMaximum", daemon->mac_last);
	put_duration(object, "ResourceMeteringSaveInterval", daemon->metering_save_seconds);
	/* Nothing binds a guest's memory to a node. */
	json_object_set_new(object, "NumaSpanningEnabled", json_true());
	put_text(object, "ApiAddress", daemon->api_address ? daemon->api_address : "");
	put_text(object, "ApiFingerprint", daemon->api_fingerprint);
	json_object_set_new(object, "EnableEnhancedSessionMode",
			    json_boolean(daemon->enhanced_sessions));
	json_object_set_new(object, "VirtualMachineCount",
			    json_integer((json_int_t)daemon->vm_count));
	json_object_set_new(object, "ProcessId", json_integer(getpid()));
	return object;
}
