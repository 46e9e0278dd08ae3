/* Cmdlets about firmware settings, the floppy disk drive and serial ports. */
#include "cmdlets.h"

#include "base/macros.h"
#include "com-ports.h"
#include "objects.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static bool has_generation(struct request *request, const struct vm *vm, unsigned generation,
			   const char *other)
{
	struct error err;

	if (vm->config->generation == generation)
		return true;
	error_set(&err, ERR_UNSUPPORTED, "it is of generation %u, which has %s",
		  vm->config->generation, other);
	request_error(request, vm->config->name, &err);
	return false;
}

static bool has_firmware(struct request *request, const struct vm *vm)
{
	return has_generation(request, vm, 2, "a BIOS (Get-VMBios, Set-VMBios)");
}

static bool has_bios(struct request *request, const struct vm *vm)
{
	return has_generation(request, vm, 1, "UEFI firmware (Get-VMFirmware, Set-VMFirmware)");
}

/* ---- generation 2 ---- */

static void show_firmware(struct request *request, struct vm *vm)
{
	if (has_firmware(request, vm))
		request_result(request, object_firmware(vm));
}

void cmdlet_get_firmware(struct request *request)
{
	cmdlets_show_settings(request, show_firmware);
}

static int find_boot(const struct config_vm *config, const char *text, struct config_boot *ret,
		     unsigned *ret_count, struct error *err)
{
	*ret_count = config_boot_find(config, text, ret);
	if (*ret_count)
		return 0;
	return error_set(err, ERR_NOT_FOUND,
			 "it has no drive or network adapter '%.100s' (a drive is SCSI:0:1)", text);
}

static int take_boot_order(struct request *request, struct config_vm *config, struct error *err)
{
	const json_t *list = json_object_get(request->params, "BootOrder");
	struct config_boot order[CONFIG_MAX_DISKS + 2 * CONFIG_MAX_NICS];
	unsigned count = 0, found;
	int r;

	for (size_t i = 0; i < json_array_size(list); i++) {
		if (count > CONFIG_MAX_DISKS + CONFIG_MAX_NICS)
			return error_set(err, ERR_LIMIT, "-BootOrder: too many devices");
		r = find_boot(config, json_string_value(json_array_get(list, i)), &order[count],
			      &found, err);
		if (r < 0)
			return r;
		count += found;
	}
	config_set_boot_order(config, order, count);
	return 0;
}

static int take_first(struct config_vm *config, const char *text, struct error *err)
{
	struct config_boot found[CONFIG_MAX_NICS];
	unsigned count;
	int r = find_boot(config, text, found, &count, err);

	if (r == 0 && count > 1)
		return error_set(err, ERR_INVALID, "%u of its network adapters are named '%.100s'",
				 count, text);
	if (r == 0)
		config_boot_first(config, &found[0]);
	return r;
}

/* Words are of the table, so they are known. */
static void take_word(const struct request *request, const char *name,
		      const struct config_words *words, unsigned *ret)
{
	config_word(words, request_string(request, name), ret);
}

static void take_on_off(const struct request *request, const char *name, bool *ret)
{
	const char *word = request_string(request, name);

	if (word)
		*ret = strcmp(word, "On") == 0;
}

static int mutate_firmware(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_firmware *firmware = &config->firmware;
	const char *first = request_string(request, "FirstBootDevice");
	const char *id = request_string(request, "SecureBootTemplateId");
	int r = 0;

	take_on_off(request, "EnableSecureBoot", &firmware->secure_boot);
	take_on_off(request, "PauseAfterBootFailure", &firmware->pause_after_boot_failure);
	take_word(request, "SecureBootTemplate", &config_secure_boot_templates,
		  &firmware->secure_boot_template);
	take_word(request, "PreferredNetworkBootProtocol", &config_boot_protocols,
		  &firmware->network_protocol);
	take_word(request, "ConsoleMode", &config_console_modes, &firmware->console_mode);
	if (id && !config_secure_boot_from_id(id, &firmware->secure_boot_template))
		return error_set(err, ERR_NOT_FOUND, "there is no Secure Boot template %.40s", id);
	if (json_object_get(request->params, "BootOrder"))
		r = take_boot_order(request, config, err);
	if (r == 0 && first)
		r = take_first(config, first, err);
	return r;
}

/* The boot order may be changed at any time. */
static bool needs_off(const struct request *request)
{
	return request_string(request, "EnableSecureBoot") ||
	       request_string(request, "SecureBootTemplate") ||
	       request_string(request, "SecureBootTemplateId");
}

static void set_firmware(struct request *request, struct vm *vm)
{
	if (has_firmware(request, vm) &&
	    cmdlets_change(request, vm, needs_off(request), mutate_firmware))
		show_firmware(request, vm);
}

void cmdlet_set_firmware(struct request *request)
{
	request_for_vms(request, "VMName", set_firmware);
}

int cmdlets_take_boot_device(struct request *request, struct config_vm *config, struct error *err)
{
	const char *device = request_string(request, "BootDevice");
	struct config_boot first = { 0 };
	unsigned controller, lun;
	int r = 0;

	if (!device)
		return 0;
	if (strcmp(device, "CD") == 0) {
		r = config_free_location(config, CONFIG_BUS_SCSI, -1, &controller, &lun, err);
		if (r == 0)
			first.disk =
			    config_add_disk(config,
					    &(struct config_disk){ .kind = CONFIG_DISK_DVD,
								   .controller_number = controller,
								   .lun = lun },
					    err);
	} else if (strcmp(device, "VHD") == 0) {
		first.disk = config->disk_count ? &config->disks[0] : NULL;
	} else if (strcmp(device, "NetworkAdapter") == 0) {
		first.nic = config->nic_count ? &config->nics[0] : NULL;
	} else {
		r = error_set(err, ERR_UNSUPPORTED,
			      "-BootDevice %s is of generation 1; generation 2 has VHD, CD and "
			      "NetworkAdapter",
			      device);
	}
	if (r == 0 && (first.disk || first.nic))
		config_boot_first(config, &first);
	return r;
}

/* ---- generation 1 ---- */

static void show_bios(struct request *request, struct vm *vm)
{
	if (has_bios(request, vm))
		request_result(request, object_bios(vm));
}

void cmdlet_get_bios(struct request *request)
{
	cmdlets_show_settings(request, show_bios);
}

static int mutate_bios(struct request *request, struct config_vm *config, struct error *err)
{
	const json_t *order = json_object_get(request->params, "StartupOrder");
	struct config_firmware *firmware = &config->firmware;

	if (request_switch(request, "EnableNumLock") && request_switch(request, "DisableNumLock"))
		return error_set(err, ERR_INVALID,
				 "-EnableNumLock and -DisableNumLock exclude each other");
	if (request_switch(request, "EnableNumLock"))
		firmware->num_lock = true;
	if (request_switch(request, "DisableNumLock"))
		firmware->num_lock = false;
	if (order && json_array_size(order) != CONFIG_BOOT_KINDS)
		return error_set(err, ERR_INVALID, "-StartupOrder names all four kinds of devices");
	for (size_t i = 0; i < json_array_size(order); i++)
		config_word(&config_boot_kinds, json_string_value(json_array_get(order, i)),
			    &firmware->startup_order[i]);
	return config_firmware_check(firmware, err);
}

static void set_bios(struct request *request, struct vm *vm)
{
	if (has_bios(request, vm) && cmdlets_change(request, vm, true, mutate_bios))
		show_bios(request, vm);
}

void cmdlet_set_bios(struct request *request)
{
	request_for_vms(request, "VMName", set_bios);
}

/* ---- the floppy disk drive ---- */

static bool has_floppy(struct request *request, const struct vm *vm)
{
	return has_generation(request, vm, 1, "no floppy disk drive");
}

static void show_floppy(struct request *request, struct vm *vm)
{
	if (has_floppy(request, vm))
		request_result(request, object_floppy(vm));
}

void cmdlet_get_floppy(struct request *request)
{
	cmdlets_show_settings(request, show_floppy);
}

static int check_floppy(const char *path, struct error *err)
{
	const char *dot = strrchr(path, '.');
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	if (!dot || strcasecmp(dot, ".vfd") != 0 || !S_ISREG(st.st_mode) ||
	    st.st_size != CONFIG_FLOPPY_BYTES)
		return error_set(err, ERR_INVALID,
				 "'%.300s' is no virtual floppy disk: a .vfd file of 1.44 MB, as "
				 "New-VFD makes it",
				 path);
	return 0;
}

static int mutate_floppy(struct request *request, struct config_vm *config, struct error *err)
{
	const char *path = request_string(request, "Path");
	int r = path && *path ? check_floppy(path, err) : 0;

	return r < 0 ? r
		     : config_set_string(&config->floppy_path, path && *path ? path : NULL, err);
}

static void set_floppy(struct request *request, struct vm *vm)
{
	if (has_floppy(request, vm) && cmdlets_change(request, vm, false, mutate_floppy))
		show_floppy(request, vm);
}

void cmdlet_set_floppy(struct request *request)
{
	request_for_vms(request, "VMName", set_floppy);
}

/* ---- serial ports ---- */

static void show_com(struct request *request, struct vm *vm)
{
	int64_t number = request_integer(request, "Number", 0);

	for (unsigned port = 0; port < CONFIG_COM_PORTS; port++)
		if (!number || number == port + 1)
			request_result(request, object_com(vm, port));
}

void cmdlet_get_com(struct request *request)
{
	cmdlets_show_settings(request, show_com);
}

static int mutate_com(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_com *com = &config->com[request_integer(request, "Number", 1) - 1];
	const char *path = request_string(request, "Path");

	take_on_off(request, "DebuggerMode", &com->debugger_mode);
	return path ? config_set_com_path(com, path, err) : 0;
}

/* The new path again without what was refused. */
static int unmutate_com(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_com *com = &config->com[request_integer(request, "Number", 1) - 1];

	return config_set_com_path(com, request->context, err);
}

static void set_com(struct request *request, struct vm *vm)
{
	unsigned port = (unsigned)request_integer(request, "Number", 1) - 1;
	AUTO_FREE char *before =
	    vm->config->com[port].path ? strdup(vm->config->com[port].path) : NULL;
	struct error err;

	if (vm->run)
		com_ports_withdraw(vm);
	if (!cmdlets_change(request, vm, false, mutate_com)) {
		if (vm->run)
			com_ports_serve(vm, NULL);
		return;
	}
	if (vm->run && com_ports_serve(vm, &err) < 0) {
		request_error(request, vm->config->name, &err);
		request->context = before;
		cmdlets_change(request, vm, false, unmutate_com);
		com_ports_serve(vm, NULL);
		return;
	}
	show_com(request, vm);
}

void cmdlet_set_com(struct request *request)
{
	request_for_vms(request, "VMName", set_com);
}
