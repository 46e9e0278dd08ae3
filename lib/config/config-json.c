#include "config/config-json.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

/* ---- reading: one object and the members that it may have ---- */

/* `name?` is optional. Types: s string, n integer >= 0, b boolean, o object, a array. */
struct member {
	const char *name;
	char type;
	bool optional;
};

static bool has_type(const json_t *value, char type)
{
	switch (type) {
	case 's':
		return json_is_string(value);
	case 'n':
		return json_is_integer(value) && json_integer_value(value) >= 0;
	case 'b':
		return json_is_boolean(value);
	case 'o':
		return json_is_object(value);
	default:
		return json_is_array(value);
	}
}

static const char *type_name(char type)
{
	switch (type) {
	case 's':
		return "a text";
	case 'n':
		return "a number that is not negative";
	case 'b':
		return "true or false";
	case 'o':
		return "an object";
	default:
		return "a list";
	}
}

static int check_members(const json_t *object, const struct member *members, size_t count,
			 struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		const json_t *value = json_object_get(object, members[i].name);

		if (!value && members[i].optional)
			continue;
		if (!value)
			return error_set(err, ERR_INVALID, "'%s' is missing", members[i].name);
		if (!has_type(value, members[i].type))
			return error_set(err, ERR_INVALID, "'%s' is not %s", members[i].name,
					 type_name(members[i].type));
	}
	return 0;
}

static bool is_known(const char *name, const struct member *members, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(members[i].name, name) == 0)
			return true;
	return false;
}

/* For what is nested: nothing that we would drop on writing. */
static int check_object(const json_t *object, const struct member *members, size_t count,
			struct error *err)
{
	const char *name;
	json_t *value;

	if (!json_is_object(object))
		return error_set(err, ERR_INVALID, "not an object");
	json_object_foreach((json_t *)object, name, value)
	{
		if (!is_known(name, members, count))
			return error_set(err, ERR_UNSUPPORTED, "the member '%.60s' is not known",
					 name);
	}
	return check_members(object, members, count, err);
}

static int read_string(const json_t *object, const char *name, char **ret, struct error *err)
{
	return config_set_string(ret, json_string_value(json_object_get(object, name)), err);
}

static int read_unsigned(const json_t *object, const char *name, unsigned *ret, struct error *err)
{
	json_int_t value = json_integer_value(json_object_get(object, name));

	if (value > UINT32_MAX)
		return error_set(err, ERR_INVALID, "'%s' is too large", name);
	*ret = (unsigned)value;
	return 0;
}

static int read_guid(const json_t *object, const char *name, struct guid *ret, struct error *err)
{
	if (!guid_parse(json_string_value(json_object_get(object, name)), ret))
		return error_set(err, ERR_INVALID, "'%s' is not a GUID", name);
	return 0;
}

/* ---- the parts ---- */

static int read_linux(struct config_vm *vm, const json_t *boot, struct error *err)
{
	static const struct member boot_members[] = { { "linux", 'o', true } };
	static const struct member members[] = { { "kernel", 's', false },
						 { "initrd", 's', true },
						 { "command_line", 's', true } };
	const json_t *linux_boot;
	int r;

	if (!boot)
		return 0;
	r = check_object(boot, boot_members, ARRAY_SIZE(boot_members), err);
	linux_boot = json_object_get(boot, "linux");
	if (r < 0 || !linux_boot)
		return r;
	r = check_object(linux_boot, members, ARRAY_SIZE(members), err);
	if (r == 0)
		r = read_string(linux_boot, "kernel", &vm->kernel_path, err);
	if (r == 0)
		r = read_string(linux_boot, "initrd", &vm->initrd_path, err);
	if (r == 0)
		r = read_string(linux_boot, "command_line", &vm->kernel_cmdline, err);
	return r;
}

/* 0 is never. */
static int read_boot_position(const json_t *json, unsigned *ret, struct error *err)
{
	int r = read_unsigned(json, "boot_position", ret, err);

	if (r == 0 && *ret > CONFIG_MAX_DISKS + CONFIG_MAX_NICS)
		return error_set(err, ERR_INVALID, "'boot_position' is too large");
	if (r == 0 && *ret == 0 && json_object_get(json, "boot_position"))
		*ret = CONFIG_BOOT_NEVER;
	return r;
}

static int read_drive(struct config_vm *vm, enum config_bus bus, unsigned controller,
		      const json_t *json, struct error *err)
{
	static const struct member members[] = {
		{ "location", 'n', false },    { "kind", 's', false },
		{ "path", 's', true },         { "read_only", 'b', true },
		{ "minimum_iops", 'n', true }, { "maximum_iops", 'n', true },
		{ "boot_position", 'n', true }
	};
	struct config_disk disk = { .bus = bus, .controller_number = controller };
	const char *kind;
	int r = check_object(json, members, ARRAY_SIZE(members), err);

	if (r == 0)
		r = read_unsigned(json, "location", &disk.lun, err);
	if (r == 0)
		r = read_unsigned(json, "minimum_iops", &disk.minimum_iops, err);
	if (r == 0)
		r = read_unsigned(json, "maximum_iops", &disk.maximum_iops, err);
	if (r == 0)
		r = read_boot_position(json, &disk.boot_position, err);
	if (r < 0)
		return r;
	kind = json_string_value(json_object_get(json, "kind"));
	if (strcmp(kind, "dvd") == 0)
		disk.kind = CONFIG_DISK_DVD;
	else if (strcmp(kind, "hard-disk") != 0)
		return error_set(err, ERR_INVALID, "'%.40s' is no kind of drive", kind);
	disk.path = (char *)json_string_value(json_object_get(json, "path"));
	disk.read_only = json_is_true(json_object_get(json, "read_only"));
	return config_add_disk(vm, &disk, err) ? 0 : -ERR_INVALID;
}

static int read_drives(struct config_vm *vm, enum config_bus bus, unsigned number,
		       const json_t *list, struct error *err)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_drive(vm, bus, number, json_array_get(list, i), err) < 0)
			return error_prefix(err, "drive %zu", i);
	return 0;
}

static int read_controller(struct config_vm *vm, unsigned number, const json_t *json,
			   struct error *err)
{
	static const struct member members[] = { { "id", 's', false }, { "drives", 'a', false } };
	int r = check_object(json, members, ARRAY_SIZE(members), err);

	if (r == 0)
		r = read_guid(json, "id", &vm->scsi_ids[number], err);
	if (r == 0)
		r = read_drives(vm, CONFIG_BUS_SCSI, number, json_object_get(json, "drives"), err);
	return r;
}

static int read_ide(struct config_vm *vm, const json_t *list, struct error *err)
{
	static const struct member members[] = { { "drives", 'a', false } };

	for (unsigned i = 0; i < json_array_size(list); i++) {
		const json_t *json = json_array_get(list, i);

		if (check_object(json, members, ARRAY_SIZE(members), err) < 0 ||
		    read_drives(vm, CONFIG_BUS_IDE, i, json_object_get(json, "drives"), err) < 0)
			return error_prefix(err, "IDE controller %u", i);
	}
	return 0;
}

static int read_controllers(struct config_vm *vm, const json_t *list, struct error *err)
{
	size_t count = json_array_size(list);

	if (count > CONFIG_MAX_SCSI)
		return error_set(err, ERR_LIMIT, "%zu SCSI controllers are more than %d", count,
				 CONFIG_MAX_SCSI);
	vm->scsi_count = (unsigned)count;
	for (unsigned i = 0; i < count; i++)
		if (read_controller(vm, i, json_array_get(list, i), err) < 0)
			return error_prefix(err, "SCSI controller %u", i);
	return 0;
}

static int read_nic(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = {
		{ "id", 's', false },          { "name", 's', false },
		{ "switch", 's', true },       { "mac", 's', false },
		{ "static_mac", 'b', true },   { "mac_spoofing", 'b', true },
		{ "boot_position", 'n', true }
	};
	struct config_nic nic = { 0 };
	int r = check_object(json, members, ARRAY_SIZE(members), err);

	if (r == 0)
		r = read_guid(json, "id", &nic.id, err);
	if (r == 0)
		r = read_boot_position(json, &nic.boot_position, err);
	if (r < 0)
		return r;
	if (!config_mac_parse(json_string_value(json_object_get(json, "mac")), nic.mac))
		return error_set(err, ERR_INVALID, "'mac' is not a MAC address");
	nic.name = (char *)json_string_value(json_object_get(json, "name"));
	nic.switch_name = (char *)json_string_value(json_object_get(json, "switch"));
	nic.static_mac = json_is_true(json_object_get(json, "static_mac"));
	nic.mac_spoofing = json_is_true(json_object_get(json, "mac_spoofing"));
	return config_add_nic(vm, &nic, err) ? 0 : -ERR_INVALID;
}

static int read_nics(struct config_vm *vm, const json_t *list, struct error *err)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_nic(vm, json_array_get(list, i), err) < 0)
			return error_prefix(err, "network adapter %zu", i);
	return 0;
}

static int read_socket(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = { { "service", 's', false },
						 { "name", 's', false },
						 { "path", 's', true } };
	struct config_socket socket = { 0 };
	int r = check_object(json, members, ARRAY_SIZE(members), err);

	if (r == 0)
		r = read_guid(json, "service", &socket.service, err);
	if (r < 0)
		return r;
	socket.name = (char *)json_string_value(json_object_get(json, "name"));
	socket.path = (char *)json_string_value(json_object_get(json, "path"));
	return config_add_socket(vm, &socket, err);
}

static int read_sockets(struct config_vm *vm, const json_t *list, struct error *err)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_socket(vm, json_array_get(list, i), err) < 0)
			return error_prefix(err, "communication service %zu", i);
	return 0;
}

static int read_services(struct config_vm *vm, const json_t *json, struct error *err)
{
	struct member members[CONFIG_IC_COUNT];
	int r;

	if (!json)
		return 0;
	for (int i = 0; i < CONFIG_IC_COUNT; i++)
		members[i] = (struct member){ config_ic_name((enum config_ic)i), 'b', true };
	r = check_object(json, members, CONFIG_IC_COUNT, err);
	for (int i = 0; r == 0 && i < CONFIG_IC_COUNT; i++) {
		const json_t *value = json_object_get(json, members[i].name);

		if (value)
			vm->ic_enabled[i] = json_is_true(value);
	}
	return r;
}

static int read_actions(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = {
		{ "start", 's', false },   { "start_delay_seconds", 'n', true },
		{ "stop", 's', false },    { "recovery", 's', true },
		{ "critical", 's', true }, { "critical_minutes", 'n', true }
	};
	const char *start, *stop, *critical, *recovery;
	int r;

	if (!json)
		return 0;
	r = check_object(json, members, ARRAY_SIZE(members), err);
	if (r == 0)
		r = read_unsigned(json, "start_delay_seconds", &vm->start_delay_seconds, err);
	if (r < 0)
		return r;
	recovery = json_string_value(json_object_get(json, "recovery"));
	if (recovery && !config_recovery_action_from_name(recovery, &vm->recovery_action))
		return error_set(err, ERR_INVALID, "'%.40s' is no recovery action", recovery);
	critical = json_string_value(json_object_get(json, "critical"));
	if (critical && !config_critical_action_from_name(critical, &vm->critical_action))
		return error_set(err, ERR_INVALID, "'%.40s' is no critical error action", critical);
	if (json_object_get(json, "critical_minutes"))
		r = read_unsigned(json, "critical_minutes", &vm->critical_minutes, err);
	if (r < 0)
		return r;
	start = json_string_value(json_object_get(json, "start"));
	stop = json_string_value(json_object_get(json, "stop"));
	if (!config_start_action_from_name(start, &vm->start_action))
		return error_set(err, ERR_INVALID, "'%.40s' is no automatic start action", start);
	if (!config_stop_action_from_name(stop, &vm->stop_action))
		return error_set(err, ERR_INVALID, "'%.40s' is no automatic stop action", stop);
	return 0;
}

static int read_word(const json_t *json, const char *name, const struct config_words *words,
		     unsigned *ret, struct error *err)
{
	const char *word = json_string_value(json_object_get(json, name));

	return !word || config_word(words, word, ret)
		   ? 0
		   : error_set(err, ERR_INVALID, "'%.40s' is no value of '%s'", word, name);
}

static int read_startup_order(struct config_vm *vm, const json_t *list, struct error *err)
{
	if (list && json_array_size(list) != CONFIG_BOOT_KINDS)
		return error_set(err, ERR_INVALID, "'startup_order' has not %d elements",
				 CONFIG_BOOT_KINDS);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (!config_word(&config_boot_kinds, json_string_value(json_array_get(list, i)),
				 &vm->firmware.startup_order[i]))
			return error_set(err, ERR_INVALID,
					 "element %zu of 'startup_order' is no kind of device", i);
	return 0;
}

static void read_flag(const json_t *json, const char *name, bool *ret)
{
	const json_t *value = json_object_get(json, name);

	if (value)
		*ret = json_is_true(value);
}

static int read_firmware(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = {
		{ "secure_boot", 'b', true },  { "secure_boot_template", 's', true },
		{ "network_boot", 's', true }, { "console_mode", 's', true },
		{ "num_lock", 'b', true },     { "pause_after_boot_failure", 'b', true },
		{ "startup_order", 'a', true }
	};
	struct config_firmware *firmware = &vm->firmware;
	int r;

	if (!json)
		return 0;
	r = check_object(json, members, ARRAY_SIZE(members), err);
	if (r == 0)
		r = read_word(json, "secure_boot_template", &config_secure_boot_templates,
			      &firmware->secure_boot_template, err);
	if (r == 0)
		r = read_word(json, "network_boot", &config_boot_protocols,
			      &firmware->network_protocol, err);
	if (r == 0)
		r = read_word(json, "console_mode", &config_console_modes, &firmware->console_mode,
			      err);
	if (r == 0)
		r = read_startup_order(vm, json_object_get(json, "startup_order"), err);
	read_flag(json, "secure_boot", &firmware->secure_boot);
	read_flag(json, "pause_after_boot_failure", &firmware->pause_after_boot_failure);
	read_flag(json, "num_lock", &firmware->num_lock);
	return r < 0 ? error_prefix(err, "firmware") : 0;
}

static int read_com_port(struct config_com *com, const json_t *json, struct error *err)
{
	static const struct member members[] = { { "path", 's', true },
						 { "debugger_mode", 'b', true } };
	int r = check_object(json, members, ARRAY_SIZE(members), err);

	if (r == 0)
		r = read_string(json, "path", &com->path, err);
	com->debugger_mode = json_is_true(json_object_get(json, "debugger_mode"));
	return r;
}

static int read_com_ports(struct config_vm *vm, const json_t *list, struct error *err)
{
	if (json_array_size(list) > CONFIG_COM_PORTS)
		return error_set(err, ERR_LIMIT, "there are more than %d COM ports",
				 CONFIG_COM_PORTS);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (read_com_port(&vm->com[i], json_array_get(list, i), err) < 0)
			return error_prefix(err, "COM port %zu", i + 1);
	return 0;
}

static const struct member top_members[] = {
	{ "version", 'n', false },
	{ "requires", 'a', true },
	{ "id", 's', false },
	{ "name", 's', false },
	{ "notes", 's', true },
	{ "generation", 'n', false },
	{ "memory_bytes", 'n', false },
	{ "dynamic_memory", 'o', true },
	{ "video", 'o', true },
	{ "processor_count", 'n', false },
	{ "processor_controls", 'o', true },
	{ "backend", 's', true },
	{ "code_cache_bytes", 'n', true },
	{ "boot", 'o', true },
	{ "ide_controllers", 'a', true },
	{ "scsi_controllers", 'a', true },
	{ "network_adapters", 'a', true },
	{ "integration_services", 'o', true },
	{ "communication_services", 'a', true },
	{ "firmware", 'o', true },
	{ "com_ports", 'a', true },
	{ "floppy", 's', true },
	{ "checkpoint_type", 's', true },
	{ "automatic_checkpoints", 'b', true },
	{ "parent_checkpoint", 's', true },
	{ "saved_state", 's', true },
	{ "checkpoint_folder", 's', true },
	{ "smart_paging_folder", 's', true },
	{ "automatic_actions", 'o', true },
	{ "enhanced_session_transport", 's', true },
};

static int check_version(const json_t *json, struct error *err)
{
	const json_t *version = json_object_get(json, "version");
	const json_t *requires;

	if (!json_is_object(json) || !has_type(version, 'n'))
		return error_set(err, ERR_INVALID, "this is no description of a virtual machine");
	if (json_integer_value(version) != CONFIG_VERSION)
		return error_set(err, ERR_UNSUPPORTED,
				 "the description has version %lld; this Oyako reads version %d "
				 "(New-VM -VHDPath makes a new machine of its disks)",
				 (long long)json_integer_value(version), CONFIG_VERSION);
	requires = json_object_get(json, "requires");
	/* So far nothing that a description could require goes by a name. */
	if (json_array_size(requires) > 0) {
		const char *name = json_string_value(json_array_get(requires, 0));

		return error_set(err, ERR_UNSUPPORTED,
				 "the description requires '%.60s', which this Oyako does not know",
				 name ? name : "?");
	}
	return 0;
}

static int keep_unknown(struct config_vm *vm, const json_t *json, struct error *err)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)json, name, value)
	{
		if (is_known(name, top_members, ARRAY_SIZE(top_members)))
			continue;
		if (!vm->unknown)
			vm->unknown = json_object();
		if (json_object_set_new(vm->unknown, name, json_deep_copy(value)) < 0)
			return error_set(err, ERR_NO_MEMORY, "no memory for '%.60s'", name);
	}
	return 0;
}

/* Names of folders: nothing else than a GUID. */
static int read_guid_text(const json_t *object, const char *name, char **ret, struct error *err)
{
	const char *text = json_string_value(json_object_get(object, name));
	char plain[GUID_TEXT_SIZE];
	struct guid guid;

	if (!text)
		return 0;
	if (!guid_parse(text, &guid))
		return error_set(err, ERR_INVALID, "'%s' is not a GUID", name);
	return config_set_string(ret, guid_format(&guid, plain), err);
}

static int read_checkpoints(struct config_vm *vm, const json_t *json, struct error *err)
{
	const char *type = json_string_value(json_object_get(json, "checkpoint_type"));
	int r = 0;

	vm->automatic_checkpoints = json_is_true(json_object_get(json, "automatic_checkpoints"));
	if (type && !config_checkpoint_type_from_name(type, &vm->checkpoint_type))
		r = error_set(err, ERR_INVALID, "'%.40s' is no type of checkpoint", type);
	if (r == 0)
		r = read_guid_text(json, "parent_checkpoint", &vm->parent_checkpoint, err);
	if (r == 0)
		r = read_guid_text(json, "saved_state", &vm->saved_state, err);
	if (r == 0)
		r = read_string(json, "checkpoint_folder", &vm->checkpoint_folder, err);
	if (r == 0)
		r = read_string(json, "smart_paging_folder", &vm->smart_paging_folder, err);
	return r;
}

static int read_plain(struct config_vm *vm, const json_t *json, struct error *err)
{
	const char *backend = json_string_value(json_object_get(json, "backend"));
	const char *session =
	    json_string_value(json_object_get(json, "enhanced_session_transport"));
	int r = read_guid(json, "id", &vm->id, err);

	if (r == 0)
		r = read_string(json, "name", &vm->name, err);
	if (r == 0)
		r = read_string(json, "notes", &vm->notes, err);
	if (r == 0)
		r = read_unsigned(json, "generation", &vm->generation, err);
	if (r == 0)
		r = read_unsigned(json, "processor_count", &vm->processor_count, err);
	if (r == 0 && backend && !config_backend_from_name(backend, &vm->backend))
		r = error_set(err, ERR_INVALID, "'%.40s' is no backend", backend);
	if (r == 0 && session && !config_session_from_name(session, &vm->session))
		r = error_set(err, ERR_INVALID, "'%.40s' is no transport of enhanced sessions",
			      session);
	vm->memory_bytes = (uint64_t)json_integer_value(json_object_get(json, "memory_bytes"));
	vm->code_cache_bytes =
	    (uint64_t)json_integer_value(json_object_get(json, "code_cache_bytes"));
	return r;
}

static int read_processor(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = { { "reserve_percent", 'n', false },
						 { "maximum_percent", 'n', false },
						 { "weight", 'n', false },
						 { "compatible", 'b', false } };
	struct config_processor *processor = &vm->processor;
	int r;

	if (!json)
		return 0;
	r = check_object(json, members, ARRAY_SIZE(members), err);
	if (r == 0)
		r = read_unsigned(json, "reserve_percent", &processor->reserve_percent, err);
	if (r == 0)
		r = read_unsigned(json, "maximum_percent", &processor->maximum_percent, err);
	if (r == 0)
		r = read_unsigned(json, "weight", &processor->weight, err);
	processor->compatible = json_is_true(json_object_get(json, "compatible"));
	return r < 0 ? error_prefix(err, "processor_controls") : 0;
}

static int read_dynamic_memory(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = { { "enabled", 'b', false },
						 { "minimum_bytes", 'n', false },
						 { "maximum_bytes", 'n', false },
						 { "buffer_percent", 'n', false },
						 { "priority", 'n', false } };
	struct config_dynamic_memory *dynamic = &vm->dynamic_memory;
	int r;

	if (!json)
		return 0;
	r = check_object(json, members, ARRAY_SIZE(members), err);
	if (r < 0)
		return error_prefix(err, "dynamic_memory");
	dynamic->enabled = json_is_true(json_object_get(json, "enabled"));
	dynamic->minimum_bytes =
	    (uint64_t)json_integer_value(json_object_get(json, "minimum_bytes"));
	dynamic->maximum_bytes =
	    (uint64_t)json_integer_value(json_object_get(json, "maximum_bytes"));
	r = read_unsigned(json, "buffer_percent", &dynamic->buffer_percent, err);
	return r < 0 ? r : read_unsigned(json, "priority", &dynamic->priority, err);
}

static int read_video(struct config_vm *vm, const json_t *json, struct error *err)
{
	static const struct member members[] = { { "enabled", 'b', false },
						 { "type", 's', false },
						 { "width", 'n', false },
						 { "height", 'n', false } };
	int r;

	if (!json)
		return 0;
	r = check_object(json, members, ARRAY_SIZE(members), err);
	if (r < 0)
		return error_prefix(err, "video");
	vm->video.enabled = json_is_true(json_object_get(json, "enabled"));
	if (!config_video_type_from_name(json_string_value(json_object_get(json, "type")),
					 &vm->video.type))
		return error_set(err, ERR_INVALID, "video: there is no such type");
	r = read_unsigned(json, "width", &vm->video.width, err);
	return r < 0 ? r : read_unsigned(json, "height", &vm->video.height, err);
}

int config_vm_from_json(const json_t *json, struct config_vm **ret, struct error *err)
{
	struct config_vm *vm;
	int r = check_version(json, err);

	if (r == 0)
		r = check_members(json, top_members, ARRAY_SIZE(top_members), err);
	if (r < 0)
		return r;
	vm = config_vm_new("");
	if (!vm)
		return error_set(err, ERR_NO_MEMORY, "no memory for a description");
	vm->scsi_count = 0;
	r = read_plain(vm, json, err);
	if (r == 0)
		r = read_processor(vm, json_object_get(json, "processor_controls"), err);
	if (r == 0)
		r = read_dynamic_memory(vm, json_object_get(json, "dynamic_memory"), err);
	if (r == 0)
		r = read_video(vm, json_object_get(json, "video"), err);
	if (r == 0)
		r = read_linux(vm, json_object_get(json, "boot"), err);
	if (r == 0)
		r = read_controllers(vm, json_object_get(json, "scsi_controllers"), err);
	if (r == 0)
		r = read_ide(vm, json_object_get(json, "ide_controllers"), err);
	if (r == 0)
		r = read_nics(vm, json_object_get(json, "network_adapters"), err);
	if (r == 0)
		r = read_services(vm, json_object_get(json, "integration_services"), err);
	if (r == 0)
		r = read_sockets(vm, json_object_get(json, "communication_services"), err);
	if (r == 0)
		r = read_firmware(vm, json_object_get(json, "firmware"), err);
	if (r == 0)
		r = read_com_ports(vm, json_object_get(json, "com_ports"), err);
	if (r == 0)
		r = read_string(json, "floppy", &vm->floppy_path, err);
	if (r == 0)
		r = read_checkpoints(vm, json, err);
	if (r == 0)
		r = read_actions(vm, json_object_get(json, "automatic_actions"), err);
	if (r == 0)
		r = keep_unknown(vm, json, err);
	if (r == 0)
		r = config_vm_check(vm, err);
	if (r < 0) {
		config_vm_free(vm);
		return r;
	}
	*ret = vm;
	return 0;
}

/* ---- writing ---- */

static void put(json_t *object, const char *name, const char *value)
{
	if (value)
		json_object_set_new(object, name, json_string(value));
}

static json_t *guid_json(const struct guid *guid)
{
	char text[GUID_TEXT_SIZE];

	return json_string(guid_format(guid, text));
}

static void put_boot_position(json_t *json, unsigned position)
{
	if (position != CONFIG_BOOT_LAST)
		json_object_set_new(json, "boot_position",
				    json_integer(position == CONFIG_BOOT_NEVER ? 0 : position));
}

static json_t *drive_json(const struct config_disk *disk)
{
	json_t *json = json_pack("{s:i, s:s}", "location", (int)disk->lun, "kind",
				 disk->kind == CONFIG_DISK_DVD ? "dvd" : "hard-disk");

	put(json, "path", disk->path);
	if (disk->read_only)
		json_object_set_new(json, "read_only", json_true());
	if (disk->minimum_iops)
		json_object_set_new(json, "minimum_iops", json_integer(disk->minimum_iops));
	if (disk->maximum_iops)
		json_object_set_new(json, "maximum_iops", json_integer(disk->maximum_iops));
	put_boot_position(json, disk->boot_position);
	return json;
}

static json_t *drives_json(const struct config_vm *vm, enum config_bus bus, unsigned controller)
{
	json_t *drives = json_array();

	for (unsigned i = 0; i < vm->disk_count; i++)
		if (vm->disks[i].bus == bus && vm->disks[i].controller_number == controller)
			json_array_append_new(drives, drive_json(&vm->disks[i]));
	return drives;
}

static json_t *controllers_json(const struct config_vm *vm)
{
	json_t *list = json_array();

	for (unsigned c = 0; c < vm->scsi_count; c++)
		json_array_append_new(list,
				      json_pack("{s:o, s:o}", "id", guid_json(&vm->scsi_ids[c]),
						"drives", drives_json(vm, CONFIG_BUS_SCSI, c)));
	return list;
}

static json_t *ide_json(const struct config_vm *vm)
{
	json_t *list = json_array();

	for (unsigned c = 0; c < CONFIG_MAX_IDE; c++)
		json_array_append_new(
		    list, json_pack("{s:o}", "drives", drives_json(vm, CONFIG_BUS_IDE, c)));
	return list;
}

static json_t *nics_json(const struct config_vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->nic_count; i++) {
		const struct config_nic *nic = &vm->nics[i];
		char mac[CONFIG_MAC_TEXT_SIZE];
		json_t *json = json_pack("{s:o, s:s, s:s}", "id", guid_json(&nic->id), "name",
					 nic->name, "mac", config_mac_format(nic->mac, mac));

		put(json, "switch", nic->switch_name);
		if (nic->static_mac)
			json_object_set_new(json, "static_mac", json_true());
		if (nic->mac_spoofing)
			json_object_set_new(json, "mac_spoofing", json_true());
		put_boot_position(json, nic->boot_position);
		json_array_append_new(list, json);
	}
	return list;
}

static json_t *services_json(const struct config_vm *vm)
{
	json_t *json = json_object();

	for (int i = 0; i < CONFIG_IC_COUNT; i++)
		json_object_set_new(json, config_ic_name((enum config_ic)i),
				    json_boolean(vm->ic_enabled[i]));
	return json;
}

static json_t *processor_json(const struct config_vm *vm)
{
	const struct config_processor *processor = &vm->processor;

	return json_pack("{s:i, s:i, s:i, s:b}", "reserve_percent", (int)processor->reserve_percent,
			 "maximum_percent", (int)processor->maximum_percent, "weight",
			 (int)processor->weight, "compatible", processor->compatible);
}

static json_t *dynamic_memory_json(const struct config_vm *vm)
{
	const struct config_dynamic_memory *dynamic = &vm->dynamic_memory;

	return json_pack("{s:b, s:I, s:I, s:i, s:i}", "enabled", dynamic->enabled, "minimum_bytes",
			 (json_int_t)dynamic->minimum_bytes, "maximum_bytes",
			 (json_int_t)dynamic->maximum_bytes, "buffer_percent",
			 (int)dynamic->buffer_percent, "priority", (int)dynamic->priority);
}

static json_t *video_json(const struct config_vm *vm)
{
	return json_pack("{s:b, s:s, s:i, s:i}", "enabled", vm->video.enabled, "type",
			 config_video_type_name(vm->video.type), "width", (int)vm->video.width,
			 "height", (int)vm->video.height);
}

static json_t *sockets_json(const struct config_vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->socket_count; i++) {
		const struct config_socket *socket = &vm->sockets[i];
		json_t *json = json_pack("{s:o, s:s}", "service", guid_json(&socket->service),
					 "name", socket->name);

		put(json, "path", socket->path);
		json_array_append_new(list, json);
	}
	return list;
}

static json_t *firmware_json(const struct config_vm *vm)
{
	const struct config_firmware *firmware = &vm->firmware;
	json_t *order = json_array();

	if (vm->generation == 2) {
		json_decref(order);
		return json_pack("{s:b, s:s, s:s, s:s, s:b}", "secure_boot", firmware->secure_boot,
				 "secure_boot_template",
				 config_secure_boot_templates.words[firmware->secure_boot_template],
				 "network_boot",
				 config_boot_protocols.words[firmware->network_protocol],
				 "console_mode", config_console_modes.words[firmware->console_mode],
				 "pause_after_boot_failure", firmware->pause_after_boot_failure);
	}
	for (unsigned i = 0; i < CONFIG_BOOT_KINDS; i++)
		json_array_append_new(
		    order, json_string(config_boot_kinds.words[firmware->startup_order[i]]));
	return json_pack("{s:b, s:o}", "num_lock", firmware->num_lock, "startup_order", order);
}

static json_t *com_ports_json(const struct config_vm *vm)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < CONFIG_COM_PORTS; i++) {
		json_t *json = json_object();

		put(json, "path", vm->com[i].path);
		if (vm->com[i].debugger_mode)
			json_object_set_new(json, "debugger_mode", json_true());
		json_array_append_new(list, json);
	}
	return list;
}

static bool has_com_ports(const struct config_vm *vm)
{
	bool has = false;

	for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
		has |= vm->com[i].path || vm->com[i].debugger_mode;
	return has;
}

static json_t *boot_json(const struct config_vm *vm)
{
	json_t *linux_boot = json_object();

	put(linux_boot, "kernel", vm->kernel_path);
	put(linux_boot, "initrd", vm->initrd_path);
	put(linux_boot, "command_line", vm->kernel_cmdline);
	return json_pack("{s:o}", "linux", linux_boot);
}

json_t *config_vm_to_json(const struct config_vm *vm)
{
	json_t *json =
	    json_pack("{s:i, s:o, s:s, s:i, s:I, s:i, s:s}", "version", (int)vm->version, "id",
		      guid_json(&vm->id), "name", vm->name, "generation", (int)vm->generation,
		      "memory_bytes", (json_int_t)vm->memory_bytes, "processor_count",
		      (int)vm->processor_count, "backend", config_backend_name(vm->backend));

	if (!json)
		return NULL;
	put(json, "notes", vm->notes);
	if (vm->code_cache_bytes)
		json_object_set_new(json, "code_cache_bytes",
				    json_integer((json_int_t)vm->code_cache_bytes));
	json_object_set_new(json, "processor_controls", processor_json(vm));
	json_object_set_new(json, "dynamic_memory", dynamic_memory_json(vm));
	json_object_set_new(json, "video", video_json(vm));
	if (vm->kernel_path)
		json_object_set_new(json, "boot", boot_json(vm));
	if (vm->generation == 1)
		json_object_set_new(json, "ide_controllers", ide_json(vm));
	json_object_set_new(json, "scsi_controllers", controllers_json(vm));
	json_object_set_new(json, "network_adapters", nics_json(vm));
	json_object_set_new(json, "integration_services", services_json(vm));
	if (vm->socket_count)
		json_object_set_new(json, "communication_services", sockets_json(vm));
	json_object_set_new(json, "firmware", firmware_json(vm));
	if (has_com_ports(vm))
		json_object_set_new(json, "com_ports", com_ports_json(vm));
	put(json, "floppy", vm->floppy_path);
	put(json, "checkpoint_type", config_checkpoint_type_name(vm->checkpoint_type));
	if (vm->automatic_checkpoints)
		json_object_set_new(json, "automatic_checkpoints", json_true());
	put(json, "parent_checkpoint", vm->parent_checkpoint);
	put(json, "saved_state", vm->saved_state);
	put(json, "checkpoint_folder", vm->checkpoint_folder);
	put(json, "smart_paging_folder", vm->smart_paging_folder);
	json_object_set_new(json, "automatic_actions",
			    json_pack("{s:s, s:i, s:s, s:s, s:s, s:i}", "start",
				      config_start_action_name(vm->start_action),
				      "start_delay_seconds", (int)vm->start_delay_seconds, "stop",
				      config_stop_action_name(vm->stop_action), "recovery",
				      config_recovery_action_name(vm->recovery_action), "critical",
				      config_critical_action_name(vm->critical_action),
				      "critical_minutes", (int)vm->critical_minutes));
	put(json, "enhanced_session_transport", config_session_name(vm->session));
	if (vm->unknown)
		json_object_update(json, vm->unknown);
	return json;
}
