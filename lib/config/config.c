#include "config/config.h"

#include "base/macros.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const ic_names[CONFIG_IC_COUNT] = {
	[CONFIG_IC_SHUTDOWN] = "Shutdown",
	[CONFIG_IC_TIME_SYNC] = "Time Synchronization",
	[CONFIG_IC_HEARTBEAT] = "Heartbeat",
	[CONFIG_IC_KVP] = "Key-Value Pair Exchange",
	[CONFIG_IC_VSS] = "VSS",
	[CONFIG_IC_COPY] = "Guest Service Interface",
};

static const char *const backend_names[] = {
	[CONFIG_BACKEND_AUTO] = "auto",
	[CONFIG_BACKEND_KVM] = "kvm",
	[CONFIG_BACKEND_SOFT] = "soft",
	[CONFIG_BACKEND_SOFT_INTERPRETER] = "soft-interpreter",
	[CONFIG_BACKEND_SOFT_LOCKSTEP] = "soft-lockstep",
};

static const char *const video_type_names[] = {
	[CONFIG_VIDEO_MAXIMUM] = "Maximum",
	[CONFIG_VIDEO_SINGLE] = "Single",
	[CONFIG_VIDEO_DEFAULT] = "Default",
};
static const char *const start_actions[] = { "Nothing", "StartIfRunning", "Start" };
static const char *const stop_actions[] = { "TurnOff", "Save", "ShutDown" };
static const char *const recovery_actions[] = { "None", "Restart" };
static const char *const critical_actions[] = { "None", "Pause" };
static const char *const session_names[] = { "VMBus", "HvSocket" };

/* ---- names ---- */

const char *config_video_type_name(enum config_video_type type)
{
	return video_type_names[type];
}

bool config_video_type_from_name(const char *name, enum config_video_type *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(video_type_names); i++)
		if (strcasecmp(name, video_type_names[i]) == 0) {
			*ret = (enum config_video_type)i;
			return true;
		}
	return false;
}

const char *config_ic_name(enum config_ic ic)
{
	return ic_names[ic];
}

const char *config_checkpoint_type_name(enum config_checkpoint_type type)
{
	static const char *const names[CONFIG_CHECKPOINT_COUNT] = {
		[CONFIG_CHECKPOINT_PRODUCTION] = "Production",
		[CONFIG_CHECKPOINT_PRODUCTION_ONLY] = "ProductionOnly",
		[CONFIG_CHECKPOINT_STANDARD] = "Standard",
		[CONFIG_CHECKPOINT_DISABLED] = "Disabled",
	};

	return names[type];
}

bool config_checkpoint_type_from_name(const char *name, enum config_checkpoint_type *ret)
{
	for (unsigned i = 0; i < CONFIG_CHECKPOINT_COUNT; i++)
		if (strcmp(config_checkpoint_type_name(i), name) == 0) {
			*ret = i;
			return true;
		}
	return false;
}

const char *config_backend_name(enum config_backend backend)
{
	return backend_names[backend];
}

bool config_backend_from_name(const char *name, enum config_backend *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(backend_names); i++)
		if (strcasecmp(name, backend_names[i]) == 0) {
			*ret = (enum config_backend)i;
			return true;
		}
	return false;
}

char *config_mac_format(const uint8_t mac[6], char ret[static CONFIG_MAC_TEXT_SIZE])
{
	snprintf(ret, CONFIG_MAC_TEXT_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
		 mac[3], mac[4], mac[5]);
	return ret;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static int index_of(const char *const *names, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcasecmp(names[i], name) == 0)
			return (int)i;
	return -1;
}

const char *config_start_action_name(enum config_start_action action)
{
	return start_actions[action];
}

const char *config_stop_action_name(enum config_stop_action action)
{
	return stop_actions[action];
}

bool config_start_action_from_name(const char *name, enum config_start_action *ret)
{
	int index = index_of(start_actions, ARRAY_SIZE(start_actions), name);

	if (index >= 0)
		*ret = (enum config_start_action)index;
	return index >= 0;
}

bool config_stop_action_from_name(const char *name, enum config_stop_action *ret)
{
	int index = index_of(stop_actions, ARRAY_SIZE(stop_actions), name);

	if (index >= 0)
		*ret = (enum config_stop_action)index;
	return index >= 0;
}

const char *config_recovery_action_name(enum config_recovery_action action)
{
	return recovery_actions[action];
}

bool config_recovery_action_from_name(const char *name, enum config_recovery_action *ret)
{
	int index = index_of(recovery_actions, ARRAY_SIZE(recovery_actions), name);

	if (index >= 0)
		*ret = (enum config_recovery_action)index;
	return index >= 0;
}

const char *config_critical_action_name(enum config_critical_action action)
{
	return critical_actions[action];
}

bool config_critical_action_from_name(const char *name, enum config_critical_action *ret)
{
	int index = index_of(critical_actions, ARRAY_SIZE(critical_actions), name);

	if (index >= 0)
		*ret = (enum config_critical_action)index;
	return index >= 0;
}

const char *config_session_name(enum config_session session)
{
	return session_names[session];
}

bool config_session_from_name(const char *name, enum config_session *ret)
{
	int index = index_of(session_names, ARRAY_SIZE(session_names), name);

	if (index >= 0)
		*ret = (enum config_session)index;
	return index >= 0;
}

bool config_mac_parse(const char *text, uint8_t ret[6])
{
	uint8_t mac[6];

	for (int i = 0; i < 6; i++) {
		int high, low;

		if (i > 0 && (*text == ':' || *text == '-'))
			text++;
		high = hex_value(text[0]);
		low = high < 0 ? -1 : hex_value(text[1]);
		if (low < 0)
			return false;
		mac[i] = (uint8_t)(high << 4 | low);
		text += 2;
	}
	if (*text)
		return false;
	memcpy(ret, mac, sizeof(mac));
	return true;
}

/* ---- life ---- */

struct config_vm *config_vm_new(const char *name)
{
	struct config_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->version = CONFIG_VERSION;
	guid_generate(&vm->id);
	vm->name = strdup(name);
	vm->generation = 2;
	vm->memory_bytes = 512 * MIB;
	vm->dynamic_memory = (struct config_dynamic_memory){ .minimum_bytes = 512 * MIB,
							     .maximum_bytes = GIB << 10,
							     .buffer_percent = 20,
							     .priority = 50 };
	vm->video = (struct config_video){ .type = CONFIG_VIDEO_DEFAULT,
					   .width = CONFIG_VIDEO_WIDTH,
					   .height = CONFIG_VIDEO_HEIGHT };
	vm->processor_count = 1;
	vm->processor = (struct config_processor){ .maximum_percent = 100, .weight = 100 };
	guid_generate(&vm->scsi_ids[0]);
	vm->scsi_count = 1;
	for (int i = 0; i < CONFIG_IC_COUNT; i++)
		vm->ic_enabled[i] = i != CONFIG_IC_COPY;
	vm->start_action = CONFIG_START_IF_RUNNING;
	vm->stop_action = CONFIG_STOP_SAVE;
	vm->critical_action = CONFIG_CRITICAL_PAUSE;
	vm->critical_minutes = CONFIG_CRITICAL_MINUTES;
	vm->firmware = config_firmware_default;
	if (!vm->name) {
		config_vm_free(vm);
		return NULL;
	}
	return vm;
}

static void nic_done(struct config_nic *nic)
{
	free(nic->name);
	free(nic->switch_name);
}

static void socket_done(struct config_socket *socket)
{
	free(socket->name);
	free(socket->path);
}

void config_vm_free(struct config_vm *vm)
{
	if (!vm)
		return;
	for (unsigned i = 0; i < vm->disk_count; i++)
		free(vm->disks[i].path);
	for (unsigned i = 0; i < vm->nic_count; i++)
		nic_done(&vm->nics[i]);
	for (unsigned i = 0; i < vm->socket_count; i++)
		socket_done(&vm->sockets[i]);
	for (unsigned i = 0; i < CONFIG_COM_PORTS; i++)
		free(vm->com[i].path);
	free(vm->disks);
	free(vm->nics);
	free(vm->sockets);
	free(vm->name);
	free(vm->notes);
	free(vm->saved_state);
	free(vm->parent_checkpoint);
	free(vm->checkpoint_folder);
	free(vm->smart_paging_folder);
	free(vm->floppy_path);
	free(vm->kernel_path);
	free(vm->initrd_path);
	free(vm->kernel_cmdline);
	json_decref(vm->unknown);
	free(vm);
}

int config_set_string(char **field, const char *value, struct error *err)
{
	char *copy = value ? strdup(value) : NULL;

	if (value && !copy)
		return error_set(err, ERR_NO_MEMORY,
				 "no memory for a virtual machine's description");
	free(*field);
	*field = copy;
	return 0;
}

/* ---- drives and adapters ---- */

const char *config_bus_name(enum config_bus bus)
{
	return bus == CONFIG_BUS_IDE ? "IDE" : "SCSI";
}

struct config_disk *config_find_disk(const struct config_vm *vm, enum config_bus bus,
				     unsigned controller, unsigned lun)
{
	for (unsigned i = 0; i < vm->disk_count; i++) {
		struct config_disk *disk = &vm->disks[i];

		if (disk->bus == bus && disk->controller_number == controller && disk->lun == lun)
			return disk;
	}
	return NULL;
}

static unsigned controllers_of(const struct config_vm *vm, enum config_bus bus)
{
	if (bus == CONFIG_BUS_SCSI)
		return vm->scsi_count;
	return vm->generation == 1 ? CONFIG_MAX_IDE : 0;
}

static unsigned locations_of(enum config_bus bus)
{
	return bus == CONFIG_BUS_IDE ? CONFIG_LOCATIONS_PER_IDE : CONFIG_LOCATIONS_PER_SCSI;
}

int config_free_location(const struct config_vm *vm, enum config_bus bus, int controller,
			 unsigned *ret_controller, unsigned *ret_lun, struct error *err)
{
	for (unsigned c = 0; c < controllers_of(vm, bus); c++) {
		if (controller >= 0 && (unsigned)controller != c)
			continue;
		for (unsigned lun = 0; lun < locations_of(bus); lun++)
			if (!config_find_disk(vm, bus, c, lun)) {
				*ret_controller = c;
				*ret_lun = lun;
				return 0;
			}
	}
	if (controllers_of(vm, bus) == 0)
		return error_set(err, ERR_NOT_FOUND, "it has no %s controllers%s",
				 config_bus_name(bus),
				 bus == CONFIG_BUS_IDE ? ": they are of generation 1" : "");
	if (controller >= (int)controllers_of(vm, bus))
		return error_set(err, ERR_NOT_FOUND, "there is no %s controller %d",
				 config_bus_name(bus), controller);
	return error_set(err, ERR_LIMIT, "no location is free on the %s controllers",
			 config_bus_name(bus));
}

static int check_disk_place(const struct config_vm *vm, const struct config_disk *disk,
			    struct error *err)
{
	bool ide = disk->bus == CONFIG_BUS_IDE;
	unsigned controllers = controllers_of(vm, disk->bus);
	unsigned locations = locations_of(disk->bus);

	if (disk->controller_number >= controllers)
		return error_set(err, ERR_INVALID, "there is no %s controller %u%s",
				 config_bus_name(disk->bus), disk->controller_number,
				 ide && !controllers ? " in generation 2" : "");
	if (disk->lun >= locations)
		return error_set(err, ERR_INVALID,
				 "location %u is beyond the last one (%u) of %s controllers",
				 disk->lun, locations - 1, config_bus_name(disk->bus));
	return 0;
}

static int check_disk(const struct config_vm *vm, const struct config_disk *disk, struct error *err)
{
	int r = check_disk_place(vm, disk, err);

	if (r < 0)
		return r;
	if (disk->kind == CONFIG_DISK_HARD && !disk->path)
		return error_set(err, ERR_INVALID, "a hard disk drive needs a path");
	if (disk->maximum_iops > CONFIG_MAX_IOPS || disk->minimum_iops > CONFIG_MAX_IOPS)
		return error_set(err, ERR_LIMIT, "a disk's IOPS are at most %d", CONFIG_MAX_IOPS);
	if (disk->maximum_iops && disk->minimum_iops > disk->maximum_iops)
		return error_set(err, ERR_INVALID,
				 "the disk's minimum of %u IOPS is above its maximum of %u",
				 disk->minimum_iops, disk->maximum_iops);
	if (disk->path && disk->path[0] != '/')
		return error_set(err, ERR_INVALID, "the path '%.200s' is not absolute", disk->path);
	return 0;
}

/* The order of the file, which counts drives for whoever goes by their number. */
static bool comes_before(const struct config_disk *a, const struct config_disk *b)
{
	if (a->bus != b->bus)
		return a->bus < b->bus;
	return a->controller_number < b->controller_number;
}

struct config_disk *config_add_disk(struct config_vm *vm, const struct config_disk *disk,
				    struct error *err)
{
	struct config_disk *disks;
	unsigned at = vm->disk_count;
	char *path = NULL;

	if (vm->disk_count >= CONFIG_MAX_DISKS) {
		error_set(err, ERR_LIMIT, "a virtual machine has at most %d drives",
			  CONFIG_MAX_DISKS);
		return NULL;
	}
	if (check_disk(vm, disk, err) < 0)
		return NULL;
	if (config_find_disk(vm, disk->bus, disk->controller_number, disk->lun)) {
		error_set(err, ERR_EXISTS, "location %u of %s controller %u is taken", disk->lun,
			  config_bus_name(disk->bus), disk->controller_number);
		return NULL;
	}
	if (config_set_string(&path, disk->path, err) < 0)
		return NULL;
	disks = reallocarray(vm->disks, vm->disk_count + 1, sizeof(*disks));
	if (!disks) {
		free(path);
		error_set(err, ERR_NO_MEMORY, "no memory for a drive");
		return NULL;
	}
	vm->disks = disks;
	while (at > 0 && comes_before(disk, &disks[at - 1]))
		at--;
	memmove(&disks[at + 1], &disks[at], (vm->disk_count++ - at) * sizeof(*disks));
	disks[at] = *disk;
	disks[at].path = path;
	return &disks[at];
}

static int check_nic(const struct config_nic *nic, struct error *err)
{
	static const uint8_t none[6];

	if (config_check_name(nic->name, "a network adapter's name", err) < 0)
		return -ERR_INVALID;
	if (nic->switch_name && config_check_name(nic->switch_name, "a switch's name", err) < 0)
		return -ERR_INVALID;
	if ((nic->mac[0] & 1) || memcmp(nic->mac, none, sizeof(none)) == 0)
		return error_set(err, ERR_INVALID,
				 "network adapter '%s': not a unicast MAC address", nic->name);
	return 0;
}

struct config_nic *config_add_nic(struct config_vm *vm, const struct config_nic *nic,
				  struct error *err)
{
	struct config_nic copy = *nic, *nics;

	if (vm->nic_count >= CONFIG_MAX_NICS) {
		error_set(err, ERR_LIMIT, "a virtual machine has at most %d network adapters",
			  CONFIG_MAX_NICS);
		return NULL;
	}
	if (check_nic(nic, err) < 0)
		return NULL;
	copy.name = copy.switch_name = NULL;
	nics = reallocarray(vm->nics, vm->nic_count + 1, sizeof(*nics));
	if (nics)
		vm->nics = nics;
	if (!nics || config_set_string(&copy.name, nic->name, err) < 0 ||
	    config_set_string(&copy.switch_name, nic->switch_name, err) < 0) {
		nic_done(&copy);
		error_set(err, ERR_NO_MEMORY, "no memory for a network adapter");
		return NULL;
	}
	nics[vm->nic_count] = copy;
	return &nics[vm->nic_count++];
}

void config_remove_disk(struct config_vm *vm, unsigned index)
{
	free(vm->disks[index].path);
	vm->disk_count--;
	memmove(&vm->disks[index], &vm->disks[index + 1],
		(vm->disk_count - index) * sizeof(*vm->disks));
}

int config_add_controller(struct config_vm *vm, struct error *err)
{
	if (vm->scsi_count >= CONFIG_MAX_SCSI)
		return error_set(err, ERR_LIMIT,
				 "a virtual machine has at most %d SCSI controllers",
				 CONFIG_MAX_SCSI);
	guid_generate(&vm->scsi_ids[vm->scsi_count++]);
	return 0;
}

void config_remove_controller(struct config_vm *vm, unsigned number)
{
	for (unsigned i = vm->disk_count; i-- > 0;) {
		struct config_disk *disk = &vm->disks[i];

		if (disk->bus == CONFIG_BUS_SCSI && disk->controller_number == number)
			config_remove_disk(vm, i);
		else if (disk->bus == CONFIG_BUS_SCSI && disk->controller_number > number)
			disk->controller_number--;
	}
	vm->scsi_count--;
	memmove(&vm->scsi_ids[number], &vm->scsi_ids[number + 1],
		(vm->scsi_count - number) * sizeof(*vm->scsi_ids));
}

void config_remove_nic(struct config_vm *vm, unsigned index)
{
	nic_done(&vm->nics[index]);
	vm->nic_count--;
	memmove(&vm->nics[index], &vm->nics[index + 1],
		(vm->nic_count - index) * sizeof(*vm->nics));
}

/* ---- sockets ---- */

const struct config_socket *config_find_socket(const struct config_vm *vm,
					       const struct guid *service)
{
	for (unsigned i = 0; i < vm->socket_count; i++)
		if (guid_equal(&vm->sockets[i].service, service))
			return &vm->sockets[i];
	return NULL;
}

static int check_socket(const struct config_vm *vm, const struct config_socket *socket,
			struct error *err)
{
	char text[GUID_TEXT_SIZE];

	if (config_check_name(socket->name, "a communication service's name", err) < 0)
		return -ERR_INVALID;
	if (socket->path && socket->path[0] != '/')
		return error_set(err, ERR_INVALID, "the socket '%.200s' is no absolute path",
				 socket->path);
	if (config_find_socket(vm, &socket->service))
		return error_set(err, ERR_EXISTS, "there is a communication service %s already",
				 guid_format(&socket->service, text));
	if (vm->socket_count >= CONFIG_MAX_SOCKETS)
		return error_set(err, ERR_LIMIT,
				 "a virtual machine has at most %d communication services",
				 CONFIG_MAX_SOCKETS);
	return 0;
}

int config_add_socket(struct config_vm *vm, const struct config_socket *socket, struct error *err)
{
	struct config_socket copy = { .service = socket->service }, *sockets;
	int r = check_socket(vm, socket, err);

	if (r < 0)
		return r;
	sockets = reallocarray(vm->sockets, vm->socket_count + 1, sizeof(*sockets));
	if (sockets)
		vm->sockets = sockets;
	if (!sockets || config_set_string(&copy.name, socket->name, err) < 0 ||
	    config_set_string(&copy.path, socket->path, err) < 0) {
		socket_done(&copy);
		return error_set(err, ERR_NO_MEMORY, "no memory for a communication service");
	}
	sockets[vm->socket_count++] = copy;
	return 0;
}

void config_remove_socket(struct config_vm *vm, unsigned index)
{
	socket_done(&vm->sockets[index]);
	vm->socket_count--;
	memmove(&vm->sockets[index], &vm->sockets[index + 1],
		(vm->socket_count - index) * sizeof(*vm->sockets));
}

/* ---- rules ---- */

int config_check_name(const char *name, const char *what, struct error *err)
{
	size_t characters = 0;

	if (!name || !*name)
		return error_set(err, ERR_INVALID, "%s must not be empty", what);
	for (const unsigned char *p = (const unsigned char *)name; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			return error_set(err, ERR_INVALID, "%s must not hold control characters",
					 what);
		characters += (*p & 0xc0) != 0x80;
	}
	if (characters > CONFIG_NAME_MAX)
		return error_set(err, ERR_LIMIT, "%s is longer than %d characters", what,
				 CONFIG_NAME_MAX);
	return 0;
}

static int check_size(uint64_t bytes, uint64_t max, const char *what, struct error *err)
{
	if (bytes % (2 * MIB))
		return error_set(err, ERR_INVALID,
				 "the %s memory of %llu bytes is not a multiple of 2 MB", what,
				 (unsigned long long)bytes);
	if (bytes < CONFIG_MIN_MEMORY_BYTES || bytes > max)
		return error_set(
		    err, ERR_LIMIT, "the %s memory of %llu MB is not between 32 MB and %llu TB",
		    what, (unsigned long long)(bytes / MIB), (unsigned long long)(max >> 40));
	return 0;
}

static int check_dynamic_memory(const struct config_vm *vm, uint64_t max, struct error *err)
{
	const struct config_dynamic_memory *dynamic = &vm->dynamic_memory;
	int r = check_size(dynamic->minimum_bytes, max, "minimum", err);

	if (r == 0)
		r = check_size(dynamic->maximum_bytes, max, "maximum", err);
	if (r == 0 && (dynamic->buffer_percent < 5 || dynamic->buffer_percent > 2000))
		r = error_set(err, ERR_LIMIT, "a memory buffer of %u %% is not between 5 and 2000",
			      dynamic->buffer_percent);
	if (r == 0 && dynamic->priority > 100)
		r = error_set(err, ERR_LIMIT, "a memory priority of %u is not between 0 and 100",
			      dynamic->priority);
	if (r < 0 || !dynamic->enabled)
		return r;
	if (vm->memory_bytes < dynamic->minimum_bytes || vm->memory_bytes > dynamic->maximum_bytes)
		return error_set(err, ERR_INVALID,
				 "the startup memory of %llu MB is not between the minimum of %llu "
				 "MB and the maximum of %llu MB",
				 (unsigned long long)(vm->memory_bytes / MIB),
				 (unsigned long long)(dynamic->minimum_bytes / MIB),
				 (unsigned long long)(dynamic->maximum_bytes / MIB));
	return 0;
}

static int check_memory(const struct config_vm *vm, struct error *err)
{
	uint64_t max = vm->generation == 1 ? UINT64_C(1) << 40 : CONFIG_MAX_MEMORY_BYTES;
	int r = check_size(vm->memory_bytes, max, "startup", err);

	return r < 0 ? r : check_dynamic_memory(vm, max, err);
}

static int check_processor(const struct config_vm *vm, struct error *err)
{
	const struct config_processor *processor = &vm->processor;

	if (vm->processor_count < 1 || vm->processor_count > CONFIG_MAX_PROCESSORS)
		return error_set(err, ERR_LIMIT, "%u processors are not between 1 and %d",
				 vm->processor_count, CONFIG_MAX_PROCESSORS);
	if (processor->maximum_percent > 100)
		return error_set(err, ERR_LIMIT,
				 "a processor maximum of %u %% is not between 0 and 100",
				 processor->maximum_percent);
	if (processor->reserve_percent > processor->maximum_percent)
		return error_set(err, ERR_INVALID,
				 "the processor reserve of %u %% is above the maximum of %u %%",
				 processor->reserve_percent, processor->maximum_percent);
	if (processor->weight < 1 || processor->weight > CONFIG_MAX_WEIGHT)
		return error_set(err, ERR_LIMIT, "a processor weight of %u is not between 1 and %d",
				 processor->weight, CONFIG_MAX_WEIGHT);
	return 0;
}

static int check_video(const struct config_vm *vm, struct error *err)
{
	unsigned width = vm->video.width, height = vm->video.height;

	if (width < 640 || width > 7680 || height < 480 || height > 4320 || width % 2)
		return error_set(err, ERR_LIMIT,
				 "a screen of %u x %u pixels is not between 640 x 480 and 7680 x "
				 "4320, with an even width",
				 width, height);
	return 0;
}

static int check_boot(const struct config_vm *vm, struct error *err)
{
	if (!vm->kernel_path && (vm->initrd_path || vm->kernel_cmdline))
		return error_set(err, ERR_INVALID,
				 "an initial RAM disk or a kernel command line needs a kernel");
	if (vm->kernel_path && vm->kernel_path[0] != '/')
		return error_set(err, ERR_INVALID, "the kernel's path is not absolute");
	if (vm->initrd_path && vm->initrd_path[0] != '/')
		return error_set(err, ERR_INVALID, "the initial RAM disk's path is not absolute");
	if (vm->kernel_cmdline && strlen(vm->kernel_cmdline) > CONFIG_CMDLINE_MAX)
		return error_set(err, ERR_LIMIT,
				 "the kernel command line is longer than %d characters",
				 CONFIG_CMDLINE_MAX);
	return 0;
}

static int check_folders(const struct config_vm *vm, struct error *err)
{
	if (vm->checkpoint_folder && vm->checkpoint_folder[0] != '/')
		return error_set(err, ERR_INVALID, "the folder of its checkpoints is not absolute");
	if (vm->smart_paging_folder && vm->smart_paging_folder[0] != '/')
		return error_set(err, ERR_INVALID, "the folder for smart paging is not absolute");
	return 0;
}

static int check_floppy(const struct config_vm *vm, struct error *err)
{
	if (vm->floppy_path && vm->generation != 1)
		return error_set(
		    err, ERR_INVALID,
		    "a floppy disk drive is of generation 1: 'floppy' is not possible");
	if (vm->floppy_path && vm->floppy_path[0] != '/')
		return error_set(err, ERR_INVALID,
				 "the path of the image in its floppy disk drive is not absolute");
	return 0;
}

static int check_drives(const struct config_vm *vm, struct error *err)
{
	for (unsigned i = 0; i < vm->disk_count; i++) {
		const struct config_disk *disk = &vm->disks[i];

		if (check_disk(vm, disk, err) < 0)
			return error_prefix(err, "drive %u", i);
		if (config_find_disk(vm, disk->bus, disk->controller_number, disk->lun) != disk)
			return error_set(
			    err, ERR_INVALID, "two drives are at location %u of %s controller %u",
			    disk->lun, config_bus_name(disk->bus), disk->controller_number);
	}
	return 0;
}

static int check_nics(const struct config_vm *vm, struct error *err)
{
	for (unsigned i = 0; i < vm->nic_count; i++) {
		if (check_nic(&vm->nics[i], err) < 0)
			return -ERR_INVALID;
		for (unsigned k = 0; k < i; k++)
			if (guid_equal(&vm->nics[i].id, &vm->nics[k].id))
				return error_set(err, ERR_INVALID,
						 "two network adapters have the same id");
	}
	return 0;
}

int config_vm_check(const struct config_vm *vm, struct error *err)
{
	int r = config_check_name(vm->name, "a virtual machine's name", err);

	if (r == 0 && vm->generation != 1 && vm->generation != 2)
		r = error_set(err, ERR_INVALID, "there is no generation %u", vm->generation);
	if (r == 0 && vm->code_cache_bytes &&
	    (vm->code_cache_bytes < CONFIG_MIN_CODE_CACHE ||
	     vm->code_cache_bytes > CONFIG_MAX_CODE_CACHE))
		r = error_set(err, ERR_INVALID,
			      "the code cache of a processor must be between 1 MiB and 1 GiB");
	if (r == 0)
		r = check_processor(vm, err);
	if (r == 0 && vm->notes && strlen(vm->notes) > CONFIG_NOTES_MAX)
		r = error_set(err, ERR_LIMIT, "the notes are longer than %d bytes",
			      CONFIG_NOTES_MAX);
	if (r == 0 && vm->start_delay_seconds > CONFIG_MAX_START_DELAY_SECONDS)
		r = error_set(err, ERR_LIMIT, "the automatic start's delay is longer than a day");
	if (r == 0 &&
	    (vm->critical_minutes < 1 || vm->critical_minutes > CONFIG_MAX_CRITICAL_MINUTES))
		r = error_set(err, ERR_LIMIT,
			      "the critical error action's timeout is not between 1 minute and a "
			      "day");
	if (r == 0)
		r = check_memory(vm, err);
	if (r == 0)
		r = check_video(vm, err);
	if (r == 0)
		r = check_boot(vm, err);
	if (r == 0)
		r = check_folders(vm, err);
	if (r == 0)
		r = config_firmware_check(&vm->firmware, err);
	for (unsigned i = 0; r == 0 && i < CONFIG_COM_PORTS; i++)
		r = config_com_check(&vm->com[i], err);
	if (r == 0)
		r = check_floppy(vm, err);
	if (r == 0)
		r = check_drives(vm, err);
	if (r == 0)
		r = check_nics(vm, err);
	return r;
}
