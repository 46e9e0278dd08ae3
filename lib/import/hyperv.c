#include "import/hyperv.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "import/vmcx.h"
#include "import/vmxml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Classes of devices in the manifest, and the keys of those that a VM has once. */
#define CLASS_NETWORK  "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778"
#define CLASS_SCSI     "d422512d-2bf2-4752-809d-7b82b5fcb1b4"
#define CLASS_TPM      "736e6aa9-a3f8-49c0-9550-a963214d259a"
#define KEY_IDE        "_83f8638b-8dca-4152-9eda-2ca8b33039b4_"
#define KEY_FLOPPY     "_8f0d2762-0b00-4e04-af4f-19010527cb93_"
#define KEY_SERIAL     "_8e3a359f-559a-4b6a-98a9-1690a6100ed7_"
#define KEY_FIRMWARE   "_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_"
#define KEY_GUEST_FILE "_917bd8cb-3bb6-4124-9383-b7d21ac07f79_"

#define VERSION_5_0    0x0500u
#define VERSION_NEWEST 0x0c00u /* that is publicly known: Windows Server 2025 */

struct import {
	const struct key *key; /* "configuration" */
	const struct import_env *env;
	struct import_vm *vm;
	struct error *err;
};

#define note(in, ...) import_note((in)->vm, __VA_ARGS__)

/* ---- names of devices ---- */

static bool same_guid(const char *a, const char *b)
{
	struct guid left, right;

	return a && guid_parse(a, &left) && guid_parse(b, &right) && guid_equal(&left, &right);
}

/* The settings of the n-th device of a class, by the manifest; NULL: there are no more. They may
 * be missing: then *ret_instance alone says that there is one. */
static bool find_device(const struct import *in, const char *class, unsigned n,
			const struct key **ret, struct guid *ret_instance)
{
	const struct key *manifest = key_find(in->key, "manifest");

	for (const struct key *vdev = manifest ? manifest->first : NULL; vdev; vdev = vdev->next) {
		const char *instance = key_text(vdev, "instance", "");
		char name[GUID_TEXT_SIZE + 2];

		if (!same_guid(key_text(vdev, "device", NULL), class) ||
		    !guid_parse(instance, ret_instance) || n--)
			continue;
		name[0] = '_';
		guid_format(ret_instance, name + 1);
		strcat(name, "_");
		*ret = key_find(in->key, name);
		return true;
	}
	return false;
}

/* The instance that the guest saw, so that it takes the device for the same one. */
static void channel_instance(const struct key *device, const struct guid *instance,
			     struct guid *ret)
{
	if (!guid_parse(key_text(device, "ChannelInstanceGuid", ""), ret))
		*ret = *instance;
}

/* ---- who and how large ---- */

#define FILETIME_PER_SECOND 10000000
#define FILETIME_OF_1970    INT64_C(11644473600)  /* seconds since 1601 */
#define LATEST_TIME         INT64_C(253402300799) /* the year 9999 ends */

static int64_t creation_time(const struct import *in)
{
	const struct key *key = key_find(in->key, "properties/creation_time");

	if (!key || key->type != KEY_BYTES || key->size != 8)
		return 0;
	return (int64_t)(load_le64(key->bytes) / FILETIME_PER_SECOND) - FILETIME_OF_1970;
}

static int take_identity(struct import *in)
{
	struct config_vm *config = in->vm->config;
	const char *id = key_text(in->key, "properties/global_id", "");
	const char *name = key_text(in->key, "properties/name", "");
	const char *notes = key_text(in->key, "properties/notes", "");
	int64_t subtype = key_integer(in->key, "properties/subtype", 0);
	int r;

	if (!guid_parse(id, &config->id))
		return error_set(in->err, ERR_INVALID, "'%.60s' is no identifier of a VM", id);
	if (subtype != 0 && subtype != 1)
		return error_set(in->err, ERR_UNSUPPORTED, "subtype %lld of a VM is not known",
				 (long long)subtype);
	config->generation = (unsigned)subtype + 1;
	in->vm->created = MIN(MAX(creation_time(in), INT64_C(0)), LATEST_TIME);
	in->vm->is_checkpoint =
	    strcasecmp(key_text(in->key, "properties/type_id", ""), "Snapshots") == 0;
	in->vm->hyperv_version = (unsigned)key_integer(in->key, "properties/version", VERSION_5_0);
	if (in->vm->hyperv_version > VERSION_NEWEST)
		note(in, IMPORT_LOST, 0, "Version",
		     "its configuration version %u.%u is newer than what is known here: what that "
		     "added is not taken over",
		     in->vm->hyperv_version >> 8, in->vm->hyperv_version & 0xff);
	r = config_set_string(&config->name, name, in->err);
	if (r == 0)
		r = config_set_string(&config->notes, notes[0] ? notes : NULL, in->err);
	return r;
}

/* Reserve and limit are in thousandths of a percent; here they are whole ones. */
static void take_processor_controls(struct import *in)
{
	int64_t weight = key_integer(in->key, "settings/processors/weight", 100);
	int64_t reserve = key_integer(in->key, "settings/processors/reservation", 0);
	int64_t limit = key_integer(in->key, "settings/processors/limit", 100000);

	if (weight < 1 || weight > CONFIG_MAX_WEIGHT || reserve < 0 || reserve > limit ||
	    limit > 100000) {
		note(in, IMPORT_LOST, 0, "Processor", "weight, reserve and limit are no good");
		return;
	}
	in->vm->config->processor =
	    (struct config_processor){ .weight = (unsigned)weight,
				       .reserve_percent = (unsigned)(reserve / 1000),
				       .maximum_percent = (unsigned)((limit + 999) / 1000),
				       .compatible = in->vm->config->processor.compatible };
}

static void take_processors(struct import *in)
{
	struct config_vm *config = in->vm->config;
	int64_t count = key_integer(in->key, "settings/processors/count", 1);

	if (count < 1 || count > CONFIG_MAX_PROCESSORS) {
		int64_t wanted = count;

		count = count < 1 ? 1 : CONFIG_MAX_PROCESSORS;
		note(in, IMPORT_CHANGED, 0, "Processor", "%lld processors: %lld now",
		     (long long)wanted, (long long)count);
	}
	config->processor_count = (unsigned)count;
	config->processor.compatible =
	    key_bool(in->key, "settings/processors/features/limit", false);
	take_processor_controls(in);
	if (key_bool(in->key, "settings/processors/nested_virtualization/enabled", false))
		note(in, IMPORT_LOST, 0, "Processor", "nested virtualization is not there yet");
}

#define BANK "settings/memory/bank/"

/* A size in MB, as a description can have it: Hyper-V's own are multiples of 2 MB. */
static uint64_t take_size(struct import *in, const char *key, int64_t dflt, const char *what,
			  int64_t max_mb)
{
	int64_t mb = key_integer(in->key, key, dflt);
	int64_t taken =
	    MIN(MAX(ALIGN_DOWN(mb, 2), (int64_t)(CONFIG_MIN_MEMORY_BYTES / MIB)), max_mb);

	if (taken != mb)
		note(in, IMPORT_CHANGED, 0, "Memory", "%lld MB of %s memory: %lld MB now",
		     (long long)mb, what, (long long)taken);
	return (uint64_t)taken * MIB;
}

static void take_dynamic_memory(struct import *in, int64_t max_mb)
{
	struct config_vm *config = in->vm->config;
	struct config_dynamic_memory *dynamic = &config->dynamic_memory;
	int64_t buffer = key_integer(in->key, BANK "target_memory_buffer", 20);
	int64_t priority = key_integer(in->key, BANK "priority", 5000);

	dynamic->enabled = true;
	dynamic->minimum_bytes = take_size(in, BANK "reservation", 512, "minimum", max_mb);
	dynamic->maximum_bytes = take_size(in, BANK "limit", 1048576, "maximum", max_mb);
	/* Else it is nothing that Hyper-V would have written. */
	dynamic->minimum_bytes = MIN(dynamic->minimum_bytes, config->memory_bytes);
	dynamic->maximum_bytes = MAX(dynamic->maximum_bytes, config->memory_bytes);
	dynamic->buffer_percent = (unsigned)MIN(MAX(buffer, 5), 2000);
	/* 0 to 10000 there */
	dynamic->priority = (unsigned)MIN(MAX(priority, 0), 10000) / 100;
}

static void take_memory(struct import *in)
{
	struct config_vm *config = in->vm->config;
	uint64_t max = config->generation == 1 ? UINT64_C(1) << 40 : CONFIG_MAX_MEMORY_BYTES;

	config->memory_bytes = take_size(in, BANK "size", 512, "startup", (int64_t)(max / MIB));
	if (key_bool(in->key, BANK "dynamic_memory_enabled", false))
		take_dynamic_memory(in, (int64_t)(max / MIB));
}

/* ---- drives ---- */

/* A disk that is not there stands in the way; the medium of a DVD drive does not. */
static void take_drive(struct import *in, const struct key *drive, const struct config_disk *place)
{
	const char *path = key_text(drive, "pathname", ""), *type = key_text(drive, "type", "NONE");
	struct config_disk disk = *place;
	AUTO_FREE char *found = path[0] ? in->env->find_file(in->env->user, path) : NULL;

	if (strcasecmp(type, "ISO") == 0)
		disk.kind = CONFIG_DISK_DVD;
	else if (strcasecmp(type, "VHD") != 0)
		return;
	disk.path = found;
	if (disk.kind == CONFIG_DISK_HARD && !found) {
		note(in, IMPORT_BLOCKS, IMPORT_NO_DISK, path,
		     "the hard disk image '%s' was not found; -VhdSourcePath names its folder",
		     import_base_name(path));
		return;
	}
	if (path[0] && !found)
		note(in, IMPORT_CHANGED, IMPORT_NO_DISK, path,
		     "the medium '%s' was not found: the drive is empty", import_base_name(path));
	if (!config_add_disk(in->vm->config, &disk, in->err))
		note(in, IMPORT_BLOCKS, 0, path, "%s", in->err->text);
	if (key_integer(drive, "iops_limit", 0) || key_integer(drive, "iops_reservation", 0))
		note(in, IMPORT_LOST, 0, path, "limits of I/O operations are not there yet");
}

/* The number behind a prefix: 12 of "drive12"; -1: not such a name. */
static int number_of(const char *name, const char *prefix)
{
	size_t length = strlen(prefix);
	char *end;
	long number;

	if (strncasecmp(name, prefix, length) != 0 || !name[length])
		return -1;
	number = strtol(name + length, &end, 10);
	return *end || number < 0 || number > 255 ? -1 : (int)number;
}

static void take_drives(struct import *in, const struct key *controller,
			const struct config_disk *place)
{
	for (const struct key *drive = controller ? controller->first : NULL; drive;
	     drive = drive->next) {
		struct config_disk disk = *place;
		int number = number_of(drive->name, "drive");

		disk.lun = (unsigned)number;
		if (number >= 0)
			take_drive(in, drive, &disk);
	}
}

static void take_ide(struct import *in)
{
	const struct key *ide = key_find(in->key, KEY_IDE);

	for (const struct key *controller = ide ? ide->first : NULL; controller;
	     controller = controller->next) {
		int number = number_of(controller->name, "controller");

		if (number >= 0)
			take_drives(in, controller,
				    &(struct config_disk){ .bus = CONFIG_BUS_IDE,
							   .controller_number = (unsigned)number });
	}
}

static void take_scsi(struct import *in)
{
	struct config_vm *config = in->vm->config;
	const struct key *device;
	struct guid instance;

	config->scsi_count = 0;
	for (unsigned n = 0; find_device(in, CLASS_SCSI, n, &device, &instance); n++) {
		if (n == CONFIG_MAX_SCSI) {
			note(in, IMPORT_BLOCKS, 0, "SCSI Controller",
			     "it has more than %d SCSI controllers", CONFIG_MAX_SCSI);
			return;
		}
		channel_instance(device, &instance, &config->scsi_ids[n]);
		config->scsi_count++;
		take_drives(
		    in, key_find(device, "controller0"),
		    &(struct config_disk){ .bus = CONFIG_BUS_SCSI, .controller_number = n });
	}
}

/* ---- network adapters ---- */

static int take_mac(struct import *in, const struct key *device, struct config_nic *nic)
{
	static const uint8_t none[6];
	const char *text = key_text(device, "MacAddress", "");

	nic->static_mac = key_bool(device, "MacAddressIsStatic", false);
	if (config_mac_parse(text, nic->mac) && memcmp(nic->mac, none, sizeof(none)) != 0 &&
	    !(nic->mac[0] & 1))
		return 0;
	if (nic->static_mac)
		note(in, IMPORT_CHANGED, 0, nic->name,
		     "'%s' is no MAC address: it gets another one", text);
	nic->static_mac = false;
	return in->env->new_mac(in->env->user, in->vm->config, nic->mac, in->err);
}

static const char *switch_name(const struct key *device)
{
	const char *name = key_text(device, "Connection/AltSwitchName", "");

	return key_bool(device, "IsConnected", false) ? name : "";
}

static int take_adapter(struct import *in, const struct key *device, const struct guid *instance)
{
	const char *name = key_text(device, "FriendlyName", "");
	const char *wanted = switch_name(device);
	struct config_nic nic = { .name = (char *)(name[0] ? name : "Network Adapter") };
	int r = take_mac(in, device, &nic);

	if (r < 0)
		return r;
	channel_instance(device, instance, &nic.id);
	if (wanted[0] && in->env->has_switch(in->env->user, wanted))
		nic.switch_name = (char *)wanted;
	else if (wanted[0])
		note(in, IMPORT_CHANGED, IMPORT_NO_SWITCH, nic.name, IMPORT_NO_SWITCH_TEXT, wanted);
	if (!config_add_nic(in->vm->config, &nic, in->err))
		note(in, IMPORT_BLOCKS, 0, nic.name, "%s", in->err->text);
	if (key_find(device, "Connection/Features"))
		note(in, IMPORT_LOST, 0, nic.name,
		     "settings of the switch's port (VLAN, security, bandwidth) are not there yet");
	return 0;
}

static int take_adapters(struct import *in)
{
	const struct key *device;
	struct guid instance;
	int r = 0;

	for (unsigned n = 0; r == 0 && find_device(in, CLASS_NETWORK, n, &device, &instance); n++)
		r = take_adapter(in, device, &instance);
	return r;
}

/* ---- services ---- */

static void take_services(struct import *in)
{
	static const struct {
		enum config_ic ic;
		const char *key;
	} services[] = {
		{ CONFIG_IC_SHUTDOWN, "_9f8233ac-be49-4c79-8ee3-e7e1985b2077_" },
		{ CONFIG_IC_TIME_SYNC, "_2497f4de-e9fa-4204-80e4-4b75c46419c0_" },
		{ CONFIG_IC_HEARTBEAT, "_84eaae65-2f2e-45f5-9bb5-0e857dc8eb47_" },
		{ CONFIG_IC_KVP, "_2a34b1c2-fd73-4043-8a5b-dd2159bc743f_" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(services); i++)
		in->vm->config->ic_enabled[services[i].ic] =
		    key_bool(key_find(in->key, services[i].key), "Enabled", true);
}

/* Hyper-V's numbers are in the order of our enumerations. */
static void take_actions(struct import *in)
{
	struct config_vm *config = in->vm->config;
	int64_t start = key_integer(in->key, "global_settings/power/host_startup/action", 1);
	int64_t stop = key_integer(in->key, "global_settings/power/host_shutdown/action", 1);

	if (start >= CONFIG_START_NOTHING && start <= CONFIG_START_ALWAYS)
		config->start_action = (enum config_start_action)start;
	if (stop >= CONFIG_STOP_TURN_OFF && stop <= CONFIG_STOP_SHUT_DOWN)
		config->stop_action = (enum config_stop_action)stop;
}

/* ---- firmware, serial ports ---- */

/* Hyper-V's words for kinds of devices, in the order of config_boot_kinds. Each is to be there
 * once, else the order stays the usual one. */
static void take_startup_order(struct import *in, const struct key *firmware)
{
	static const char *const words[] = { "Optical", "HardDrive", "Network", "Floppy" };
	const struct config_words kinds = { words, ARRAY_SIZE(words) };
	struct config_firmware wanted = in->vm->config->firmware;

	for (unsigned i = 0; i < CONFIG_BOOT_KINDS; i++) {
		char key[] = "boot/device0";

		key[strlen(key) - 1] = (char)('0' + i);
		if (!config_word(&kinds, key_text(firmware, key, NULL), &wanted.startup_order[i]))
			return;
	}
	if (config_firmware_check(&wanted, NULL) == 0)
		in->vm->config->firmware = wanted;
}

static void take_secure_boot(struct import *in, const struct key *key)
{
	struct config_firmware *firmware = &in->vm->config->firmware;
	const char *id = key_text(key, "secure_boot_template_id", "");
	struct guid none = { 0 }, guid;

	firmware->secure_boot = key_bool(key, "secure_boot_enabled", false);
	if (!config_secure_boot_from_id(id, &firmware->secure_boot_template) &&
	    guid_parse(id, &guid) && !guid_equal(&guid, &none))
		note(in, IMPORT_LOST, 0, "Firmware", "the Secure Boot template %.40s is not known",
		     id);
	if (firmware->secure_boot)
		note(in, IMPORT_LOST, 0, "Firmware",
		     "Secure Boot is kept, but has no effect: there is no firmware yet");
}

static void take_firmware(struct import *in)
{
	const struct key *key = key_find(in->key, KEY_FIRMWARE);
	struct config_firmware *firmware = &in->vm->config->firmware;

	if (!key)
		return;
	firmware->num_lock = key_bool(key, "num_lock", false);
	firmware->pause_after_boot_failure = key_bool(key, "pause_after_boot_failure", false);
	firmware->network_protocol = key_integer(key, "pxe_preferred_protocol", 4) == 6
					 ? CONFIG_BOOT_IPV6
					 : CONFIG_BOOT_IPV4;
	if (in->vm->config->generation == 1)
		take_startup_order(in, key);
	else
		take_secure_boot(in, key);
}

static void take_com_ports(struct import *in)
{
	for (unsigned port = 0; port < CONFIG_COM_PORTS; port++) {
		char key[sizeof(KEY_SERIAL) + 32];
		const char *pipe;

		snprintf(key, sizeof(key), KEY_SERIAL "/port%u/connection", port);
		pipe = key_text(in->key, key, "");
		if (config_set_com_path(&in->vm->config->com[port], pipe, NULL) < 0)
			note(in, IMPORT_LOST, 0, pipe,
			     "COM %u was connected to a pipe that is none of its own host",
			     port + 1);
	}
}

/* Of generation 1. */
static void take_floppy(struct import *in)
{
	const char *path = key_text(in->key, KEY_FLOPPY "/controller0/drive0/pathname", "");

	if (!path[0] || in->vm->config->generation != 1)
		return;
	in->vm->config->floppy_path = in->env->find_file(in->env->user, path);
	if (!in->vm->config->floppy_path)
		note(in, IMPORT_CHANGED, IMPORT_NO_DISK, path, IMPORT_NO_FLOPPY_TEXT);
}

/* ---- what has no counterpart ---- */

static void report_firmware(struct import *in)
{
	const struct key *firmware = key_find(in->key, KEY_FIRMWARE);

	if (key_find(firmware, "nvram/map") ||
	    key_text(in->key, KEY_GUEST_FILE "/StateFilePath", NULL))
		note(in, IMPORT_LOST, 0, "Firmware",
		     "firmware variables, boot order and TPM contents are not taken over");
	if (key_find(firmware, "bios_guid"))
		note(in, IMPORT_LOST, 0, "Firmware",
		     "identity and serial numbers of BIOS, board and chassis are not taken over");
}

static void report_checkpoints(struct import *in)
{
	in->vm->checkpoint_count = key_integer(in->key, "global_settings/snapshots/list/size", 0);
	if (key_bool(in->key, "global_settings/disk_merge_pending", false))
		note(in, IMPORT_LOST, 0, "Checkpoints",
		     "Hyper-V had not finished merging its disks: Merge-VHD does");
}

/* ---- all of it ---- */

static int take_all(struct import *in)
{
	int r = take_identity(in);

	if (r < 0)
		return r;
	take_processors(in);
	take_memory(in);
	if (in->vm->config->generation == 1)
		take_ide(in);
	take_scsi(in);
	r = take_adapters(in);
	if (r < 0)
		return r;
	take_services(in);
	take_actions(in);
	take_firmware(in);
	take_com_ports(in);
	take_floppy(in);
	report_firmware(in);
	report_checkpoints(in);
	return config_vm_check(in->vm->config, in->err);
}

int import_hyperv(const struct key *root, const struct import_env *env, struct import_vm **ret,
		  struct error *err)
{
	struct error scratch;
	struct import in = { .key = key_find(root, "configuration"),
			     .env = env,
			     .err = err ? err : &scratch };
	int r;

	if (!key_find(in.key, "properties"))
		return error_set(err, ERR_INVALID,
				 "the file holds no configuration of a virtual machine");
	in.vm = import_vm_new(config_vm_new(""));
	r = take_all(&in);
	if (r < 0) {
		import_vm_free(in.vm);
		return r;
	}
	*ret = in.vm;
	return 0;
}

int import_read(const uint8_t *data, size_t size, struct key **ret, struct error *err)
{
	return vmcx_probe(data, size) ? vmcx_read(data, size, ret, err)
				      : vmxml_read(data, size, ret, err);
}
