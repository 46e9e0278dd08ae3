/*
 * Import-VM and Compare-VM: a VM out of an export of ours (vm.json) or of Hyper-V (.vmcx, XML).
 * Both are looked at the same way, and give the same report; Import-VM then acts, unless something
 * in the report stands in the way.
 */
#include "cmdlets.h"

#include "base/macros.h"
#include "config/config-json.h"
#include "import/hyperv.h"
#include "objects.h"
#include "switches.h"
#include "transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define MAX_FILE_BYTES (64 * MIB)
#define OUR_FILE       "vm.json"

struct import {
	struct request *request;
	char *path;           /* of the configuration file */
	bool ours;            /* it is a vm.json */
	struct import_vm *vm; /* its report, too */
	struct transfer *transfer;
};

static void import_free(struct import *import)
{
	import_vm_free(import->vm);
	free(import->path);
	free(import);
}

static char *folder_of(const char *path)
{
	char *folder = strdup(path), *slash;

	if (!folder)
		abort();
	slash = strrchr(folder, '/');
	if (slash)
		*slash = 0;
	return folder;
}

/* ---- reading ---- */

/* The file that -Path names: a folder stands for the description in it. */
static int find_config(struct import *import, struct error *err)
{
	const char *path = request_string(import->request, "Path");
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	import->path = S_ISDIR(st.st_mode) ? transfer_path(path, OUR_FILE) : strdup(path);
	if (!import->path)
		abort();
	import->ours = strcmp(strrchr(import->path, '/') + 1, OUR_FILE) == 0;
	return 0;
}

static char *find_disk(void *user, const char *windows_path)
{
	struct import *import = user;

	return import_find_file(import->path, request_string(import->request, "VhdSourcePath"),
				windows_path);
}

static bool has_switch(void *user, const char *name)
{
	return switches_exists(name);
}

static int new_mac(void *user, const struct config_vm *config, uint8_t ret[6], struct error *err)
{
	struct import *import = user;

	return cmdlets_choose_mac(import->request->daemon, config, ret, err);
}

static int read_bytes(const char *path, uint8_t **ret, size_t *ret_size, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	AUTO_FREE uint8_t *bytes = NULL;
	struct stat st;
	size_t done = 0;
	ssize_t n = 1;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "opening '%.300s'", path);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)MAX_FILE_BYTES)
		return error_set(err, ERR_INVALID, "'%.300s' is no file of at most 64 MB", path);
	bytes = malloc((size_t)st.st_size + 1);
	if (!bytes)
		return error_set(err, ERR_NO_MEMORY, "no memory to read '%.300s'", path);
	while (done < (size_t)st.st_size && n > 0) {
		n = read(fd, bytes + done, (size_t)st.st_size - done);
		if (n < 0)
			return error_set_errno(err, errno, "reading '%.300s'", path);
		done += (size_t)n;
	}
	*ret = TAKE(bytes);
	*ret_size = done;
	return 0;
}

static int read_hyperv(struct import *import, struct error *err)
{
	const struct import_env env = { import, find_disk, has_switch, new_mac };
	AUTO_FREE uint8_t *bytes = NULL;
	struct key *root;
	size_t size = 0;
	int r = read_bytes(import->path, &bytes, &size, err);

	if (r == 0)
		r = import_read(bytes, size, &root, err);
	if (r < 0)
		return r;
	r = import_hyperv(root, &env, &import->vm, err);
	key_free(root);
	return r;
}

static int read_ours(struct import *import, struct error *err)
{
	AUTO_FREE char *folder = folder_of(import->path);
	AUTO_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct config_vm *config;
	int r;

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.300s'", folder);
	r = config_load(fd, OUR_FILE, &config, err);
	if (r < 0)
		return r;
	import->vm = import_vm_new(config);
	if (config->saved_state && request_switch(import->request, "Copy")) {
		import_note(import->vm, IMPORT_LOST, 0, config->name,
			    "its saved state is not copied: it will be off, as after a power cut");
		config_set_string(&config->saved_state, NULL, NULL);
	}
	import_relocate(import->vm, &(struct import_env){ import, find_disk, has_switch, new_mac },
			folder);
	return 0;
}

/* ---- what this host has to say ---- */

static void check_identity(struct import *import)
{
	const char *new_name = request_string(import->request, "NewName");
	struct daemon *daemon = import->request->daemon;
	struct config_vm *config = import->vm->config;
	char id[GUID_TEXT_SIZE];

	if (request_switch(import->request, "GenerateNewId"))
		guid_generate(&config->id);
	if (new_name)
		config_set_string(&config->name, new_name, NULL);
	guid_format(&config->id, id);
	if (vm_find_id(daemon, id))
		import_note(import->vm, IMPORT_BLOCKS, 0, id,
			    "a virtual machine with this identifier is registered already; -Copy "
			    "-GenerateNewId makes another one of it");
	if (vm_find(daemon, config->name))
		import_note(import->vm, IMPORT_BLOCKS, 0, config->name,
			    "there is a virtual machine of this name already; -NewName gives it "
			    "another one");
}

static void change_address(struct import *import, struct config_nic *nic, const uint8_t mac[6])
{
	memcpy(nic->mac, mac, sizeof(nic->mac));
	import_note(import->vm, IMPORT_CHANGED, 0, nic->name,
		    "it gets another dynamic MAC address: its own is in use here");
}

static void check_addresses(struct import *import)
{
	struct config_vm *config = import->vm->config;
	struct error err;

	for (unsigned i = 0; i < config->nic_count; i++) {
		struct config_nic *nic = &config->nics[i];
		uint8_t mac[6];

		if (!cmdlets_mac_in_use(import->request->daemon, NULL, nic->mac))
			continue;
		if (nic->static_mac)
			import_note(import->vm, IMPORT_BLOCKS, 0, nic->name,
				    "another virtual machine's adapter has its static MAC address");
		else if (new_mac(import, config, mac, &err) < 0)
			import_note(import->vm, IMPORT_BLOCKS, 0, nic->name, "%s", err.text);
		else
			change_address(import, nic, mac);
	}
}

static int look(struct import *import, struct error *err)
{
	int r = find_config(import, err);

	if (r == 0)
		r = import->ours ? read_ours(import, err) : read_hyperv(import, err);
	if (r < 0)
		return r;
	check_identity(import);
	check_addresses(import);
	return 0;
}

static struct import *import_begin(struct request *request)
{
	struct import *import = calloc(1, sizeof(*import));
	struct error err;

	if (!import)
		abort();
	import->request = request;
	if (look(import, &err) == 0)
		return import;
	request_error(request, request_string(request, "Path"), &err);
	import_free(import);
	return NULL;
}

/* ---- Compare-VM ---- */

static json_t *object_note(const char *vm_name, const struct import_note *note)
{
	return json_pack("{s:s, s:s, s:i, s:s, s:s}", "VMName", vm_name, "Severity",
			 import_severity_name(note->severity), "MessageId", note->message_id,
			 "Source", note->source, "Message", note->text);
}

void cmdlet_compare_vm(struct request *request)
{
	struct import *import = import_begin(request);

	if (!import)
		return;
	for (size_t i = 0; i < import->vm->note_count; i++)
		request_result(request,
			       object_note(import->vm->config->name, &import->vm->notes[i]));
	import_free(import);
}

/* ---- Import-VM ---- */

static bool refuse_blocked(struct import *import)
{
	bool blocked = false;

	for (size_t i = 0; i < import->vm->note_count; i++) {
		const struct import_note *note = &import->vm->notes[i];
		struct error err;

		if (note->severity != IMPORT_BLOCKS)
			continue;
		error_set(&err, ERR_INVALID, "%s", note->text);
		request_error(import->request, note->source, &err);
		blocked = true;
	}
	return blocked;
}

static void imported(struct import *import, struct vm *vm)
{
	json_t *notes = json_array(), *object;

	for (size_t i = 0; i < import->vm->note_count; i++)
		json_array_append_new(notes, object_note(vm->config->name, &import->vm->notes[i]));
	vm_event(vm, EVENT_VM_IMPORTED, json_pack("{s:O}", "Incompatibilities", notes),
		 "'%s' was imported from '%.300s', with %zu remarks.", vm->config->name,
		 import->path, json_array_size(notes));
	object = object_vm(vm);
	json_object_set_new(object, "Incompatibilities", notes);
	request_result(import->request, object);
}

/* Where a new VM of that name has its folder; NULL: in the store. */
static char *machine_folder(const struct import *import)
{
	const char *path = request_string(import->request, "VirtualMachinePath");

	return path ? transfer_path(path, import->vm->config->name) : NULL;
}

static int create(struct import *import, struct error *err)
{
	AUTO_FREE char *folder = machine_folder(import);
	struct vm *vm;
	int r = vm_create(import->request->daemon, TAKE(import->vm->config), folder, &vm, err);

	if (r == 0)
		imported(import, vm);
	return r;
}

/* In place: an export of ours is registered where it lies; of Hyper-V's only the disks stay. */
static void import_in_place(struct import *import)
{
	AUTO_FREE char *folder = folder_of(import->path);
	struct error err;
	struct vm *vm;
	int r;

	if (!import->ours) {
		r = create(import, &err);
	} else {
		r = vm_register(import->request->daemon, TAKE(import->vm->config), folder, &vm,
				&err);
		if (r == 0)
			imported(import, vm);
	}
	if (r < 0)
		request_error(import->request, import->path, &err);
	import_free(import);
}

static int copied(void *user, const struct error *err)
{
	struct import *import = user;
	struct error failure;
	int r = err ? -(int)err->code : create(import, &failure);

	if (r < 0)
		request_error(import->request, import->path, err ? err : &failure);
	import_free(import);
	return r;
}

static int copy_to(struct import *import, char **field, const char *folder, struct error *err)
{
	AUTO_FREE char *to = transfer_path(folder, strrchr(*field, '/') + 1);

	transfer_file(import->transfer, *field, to);
	return config_set_string(field, to, err);
}

static int add_copies(struct import *import, const char *folder, struct error *err)
{
	struct config_vm *config = import->vm->config;
	const char *machines = request_string(import->request, "VirtualMachinePath");
	int r = transfer_folder(import->transfer, folder, err);

	if (r == 0 && machines)
		r = transfer_folder(import->transfer, machines, err);
	for (unsigned i = 0; r == 0 && i < config->disk_count; i++)
		if (config->disks[i].kind == CONFIG_DISK_HARD)
			r = copy_to(import, &config->disks[i].path, folder, err);
	return r;
}

static void import_copy(struct import *import)
{
	const char *wanted = request_string(import->request, "VhdDestinationPath");
	AUTO_FREE char *folder =
	    wanted ? strdup(wanted)
		   : transfer_path(import->request->daemon->paths.state, "Virtual Hard Disks");
	struct error err;

	import->transfer = transfer_new(import->request);
	if (add_copies(import, folder, &err) == 0) {
		transfer_run(import->transfer, copied, import);
		return;
	}
	transfer_free(import->transfer);
	request_error(import->request, import->path, &err);
	import_free(import);
}

void cmdlet_import_vm(struct request *request)
{
	struct import *import = import_begin(request);

	if (!import)
		return;
	if (refuse_blocked(import))
		import_free(import);
	else if (request_switch(request, "Copy"))
		import_copy(import);
	else
		import_in_place(import);
}
