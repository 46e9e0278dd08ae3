#include "devices.h"

#include "base/macros.h"
#include "ipc/ipc.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- members of a request ---- */

static const char *text(const json_t *request, const char *name)
{
	return json_string_value(json_object_get(request, name));
}

static int get_guid(const json_t *request, const char *name, struct guid *ret, struct error *err)
{
	const char *value = text(request, name);

	if (!value || !guid_parse(value, ret))
		return error_set(err, ERR_INVALID, "'%s' is not a GUID", name);
	return 0;
}

int devices_get_place(const json_t *request, struct guid *controller, unsigned *location,
		      struct error *err)
{
	json_int_t value = json_integer_value(json_object_get(request, "location"));

	if (value < 0 || value >= CONFIG_LOCATIONS_PER_SCSI)
		return error_set(err, ERR_INVALID, "there is no location %lld", (long long)value);
	*location = (unsigned)value;
	return get_guid(request, "controller", controller, err);
}

/* None where it is not said, or nonsense. */
static unsigned iops(const json_t *request, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(request, name));

	return value > 0 && value <= CONFIG_MAX_IOPS ? (unsigned)value : 0;
}

static int get_drive(const json_t *request, struct machine_drive *ret, struct error *err)
{
	const char *kind = text(request, "kind");

	*ret = (struct machine_drive){
		.kind = kind && strcmp(kind, "dvd") == 0 ? CONFIG_DISK_DVD : CONFIG_DISK_HARD,
		.read_only = json_is_true(json_object_get(request, "read_only")),
		.path = text(request, "path"),
		.minimum_iops = iops(request, "minimum_iops"),
		.maximum_iops = iops(request, "maximum_iops"),
	};
	return devices_get_place(request, &ret->controller, &ret->location, err);
}

/* ---- operations ---- */

static int add_controller(struct machine *machine, const json_t *request, int *fds,
			  struct error *err)
{
	struct guid id;
	int r = get_guid(request, "controller", &id, err);

	return r < 0 ? r : machine_add_controller(machine, &id, err);
}

static int remove_controller(struct machine *machine, const json_t *request, int *fds,
			     struct error *err)
{
	struct guid id;
	int r = get_guid(request, "controller", &id, err);

	return r < 0 ? r : machine_remove_controller(machine, &id, err);
}

static void take_parents(int *fds, unsigned max, struct machine_parents *ret)
{
	ret->fds = calloc(max, sizeof(*ret->fds));
	if (!ret->fds)
		abort(); /* some hundred bytes: the host is beyond help */
	while (ret->count < max && fds[ret->count] >= 0) {
		ret->fds[ret->count] = TAKE_FD(fds[ret->count]);
		ret->count++;
	}
}

/* Takes track_fd (-1: its changes are not tracked). */
static int add_tracked(struct machine *machine, const struct machine_drive *drive, int fd,
		       struct machine_parents *parents, int track_fd, struct error *err)
{
	int r = machine_add_drive(machine, drive, fd, parents, err);

	if (track_fd < 0)
		return r;
	if (r < 0) {
		close(track_fd);
		return r;
	}
	r = machine_drive_track(machine, &drive->controller, drive->location, track_fd, err);
	if (r < 0)
		machine_remove_drive(machine, &drive->controller, drive->location, NULL);
	return r;
}

static int add_drive(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	unsigned tracked = json_is_true(json_object_get(request, "tracked"));
	struct machine_parents parents = { 0 };
	struct machine_drive drive;
	int r = get_drive(request, &drive, err);

	if (r < 0)
		return r;
	take_parents(fds + 1 + tracked, IPC_MAX_FDS - 1 - tracked, &parents);
	r = add_tracked(machine, &drive, TAKE_FD(fds[0]), &parents, tracked ? TAKE_FD(fds[1]) : -1,
			err);
	machine_parents_done(&parents);
	return r;
}

static int remove_drive(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	struct guid controller;
	unsigned location;
	int r = devices_get_place(request, &controller, &location, err);

	return r < 0 ? r : machine_remove_drive(machine, &controller, location, err);
}

static int set_medium(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	struct machine_drive drive;
	int r = get_drive(request, &drive, err);

	drive.kind = CONFIG_DISK_DVD;
	return r < 0 ? r : machine_set_medium(machine, &drive, TAKE_FD(fds[0]), err);
}

static int grow_drive(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	json_int_t bytes = json_integer_value(json_object_get(request, "size_bytes"));
	struct guid controller;
	unsigned location;
	int r = devices_get_place(request, &controller, &location, err);

	if (r == 0 && bytes <= 0)
		r = error_set(err, ERR_INVALID, "'size_bytes' is no size");
	if (r == 0)
		r = machine_grow_drive(machine, &controller, location, (uint64_t)bytes, err);
	return r;
}

static int set_iops(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	struct guid controller;
	unsigned location;
	int r = devices_get_place(request, &controller, &location, err);

	return r < 0
		   ? r
		   : machine_set_iops(machine, &controller, location, iops(request, "minimum_iops"),
				      iops(request, "maximum_iops"), err);
}

static int add_adapter(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	struct config_nic nic = { .name = (char *)text(request, "name") };
	const char *mac = text(request, "mac");
	int r = get_guid(request, "adapter", &nic.id, err);

	if (r == 0)
		r = config_check_name(nic.name, "a network adapter's name", err);
	if (r == 0 && (!mac || !config_mac_parse(mac, nic.mac)))
		r = error_set(err, ERR_INVALID, "'mac' is not a MAC address");
	return r < 0 ? r : machine_add_adapter(machine, &nic, TAKE_FD(fds[0]), err);
}

static int remove_adapter(struct machine *machine, const json_t *request, int *fds,
			  struct error *err)
{
	struct guid id;
	int r = get_guid(request, "adapter", &id, err);

	return r < 0 ? r : machine_remove_adapter(machine, &id, err);
}

static int plug_adapter(struct machine *machine, const json_t *request, int *fds, struct error *err)
{
	struct guid id;
	int r = get_guid(request, "adapter", &id, err);

	return r < 0 ? r : machine_plug_adapter(machine, &id, TAKE_FD(fds[0]), err);
}

typedef int (*operation)(struct machine *machine, const json_t *request, int *fds,
			 struct error *err);

static const struct {
	const char *name;
	operation run;
} operations[] = {
	{ "add-controller", add_controller }, { "remove-controller", remove_controller },
	{ "add-drive", add_drive },           { "remove-drive", remove_drive },
	{ "set-medium", set_medium },         { "grow-drive", grow_drive },
	{ "add-adapter", add_adapter },       { "remove-adapter", remove_adapter },
	{ "plug-adapter", plug_adapter },     { "set-iops", set_iops },
};

static operation find(const char *op)
{
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		if (strcmp(operations[i].name, op) == 0)
			return operations[i].run;
	return NULL;
}

bool devices_knows(const char *op)
{
	return find(op) != NULL;
}

int devices_run(struct machine *machine, const char *op, const json_t *request, int *fds,
		struct error *err)
{
	/* What is taken down must not change meanwhile. */
	if (machine_saving(machine))
		return error_set(err, ERR_BUSY, "it is being saved");
	return find(op)(machine, request, fds, err);
}
