#include "control-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices.h"
#include "disk/live.h"
#include "../disk/track-json.h"
#include "ipc/ipc.h"
#include "viewers.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void client_free(struct client *client)
{
	struct control *control = client->control;

	for (unsigned i = 0; i < control->client_count; i++)
		if (control->clients[i] == client)
			control->clients[i] = control->clients[--control->client_count];
	loop_fd_remove(client->lfd);
	close(client->fd);
	free(client);
}

/* ---- what is told ---- */

json_t *control_kvp_event(struct machine *machine)
{
	size_t count;
	const struct machine_kvp *items = machine_kvp(machine, &count);
	json_t *object = json_object();

	for (size_t i = 0; i < count; i++)
		json_object_set_new(object, items[i].key, json_string(items[i].value));
	return json_pack("{s:s, s:i, s:o}", "event", "kvp", "pool", 2, "items", object);
}

static json_t *services_json(struct machine *machine)
{
	struct machine_service services[CONFIG_IC_COUNT];
	json_t *list = json_array();

	machine_services(machine, services);
	for (unsigned i = 0; i < CONFIG_IC_COUNT; i++)
		json_array_append_new(
		    list, json_pack("{s:s, s:b, s:s, s:s}", "name", services[i].name, "enabled",
				    services[i].enabled, "status", services[i].status, "version",
				    services[i].version));
	return list;
}

json_t *control_services_event(struct machine *machine)
{
	return json_pack("{s:s, s:s, s:o}", "event", "integration", "heartbeat",
			 machine_heartbeat(machine), "services", services_json(machine));
}

static json_t *state_event(struct machine *machine)
{
	return json_pack("{s:s, s:s, s:b, s:b}", "event", "state", "state",
			 machine_paused(machine) ? "paused" : "running", "saving",
			 machine_saving(machine), "critical", machine_critical(machine));
}

void control_critical(struct control *control, const char *text)
{
	json_t *event = state_event(control->machine);

	if (text)
		json_object_set_new(event, "text", json_string(text));
	control_event(control, event);
}

static json_t *memory_json(struct machine *machine)
{
	struct machine_memory memory;

	machine_memory(machine, &memory);
	return json_pack(
	    "{s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "version", (int)memory.version, "assigned_bytes",
	    (json_int_t)memory.assigned_bytes, "target_bytes", (json_int_t)memory.target_bytes,
	    "demand_bytes", (json_int_t)memory.demand_bytes, "available_bytes",
	    (json_int_t)memory.available_bytes, "growth_bytes", (json_int_t)memory.growth_bytes,
	    "backed_bytes", (json_int_t)memory.backed_bytes);
}

static json_t *usage_json(const struct machine *machine)
{
	struct machine_usage usage;

	machine_usage(machine, &usage);
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "disk_reads",
			 (json_int_t)usage.disk_reads, "disk_writes", (json_int_t)usage.disk_writes,
			 "disk_read_bytes", (json_int_t)usage.disk_read_bytes, "disk_written_bytes",
			 (json_int_t)usage.disk_written_bytes, "disk_capacity_bytes",
			 (json_int_t)usage.disk_capacity_bytes, "sent_bytes",
			 (json_int_t)usage.sent_bytes, "received_bytes",
			 (json_int_t)usage.received_bytes);
}

json_t *control_memory_event(struct machine *machine)
{
	return json_pack("{s:s, s:o}", "event", "memory", "memory", memory_json(machine));
}

static json_t *status_json(struct control *control)
{
	struct machine *machine = control->machine;
	json_t *vps = json_array();
	json_t *kvp = control_kvp_event(machine);
	json_t *status;

	for (unsigned i = 0; i < control->config->processor_count; i++)
		json_array_append_new(vps,
				      json_integer((json_int_t)machine_vp_runtime_ns(machine, i)));
	status = json_pack(
	    "{s:s, s:b, s:i, s:s, s:s, s:I, s:o, s:s, s:o, s:o, s:O, s:o}", "state",
	    machine_paused(machine) ? "paused" : "running", "saving", machine_saving(machine),
	    "save_percent", (int)machine_save_percent(machine), "backend",
	    machine_backend_name(machine), "backend_reason", machine_backend_reason(machine),
	    "uptime_ns", (json_int_t)machine_uptime_ns(machine), "memory", memory_json(machine),
	    "heartbeat", machine_heartbeat(machine), "vp_runtime_ns", vps, "integration",
	    services_json(machine), "kvp", json_object_get(kvp, "items"), "usage",
	    usage_json(machine));
	json_decref(kvp);
	return status;
}

/* ---- requests ---- */

static int op_shutdown(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	bool force = json_is_true(json_object_get(request, "force"));

	return machine_shutdown_guest(control->machine, false, force, err);
}

static int op_reboot(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	bool force = json_is_true(json_object_get(request, "force"));

	return machine_shutdown_guest(control->machine, true, force, err);
}

static int op_turn_off(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	machine_turn_off(control->machine);
	return 0;
}

static int op_reset(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	machine_reset(control->machine);
	return 0;
}

static int op_pause(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	machine_pause(control->machine);
	control_event(control, state_event(control->machine));
	return 0;
}

static int op_resume(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	machine_resume(control->machine);
	control_event(control, state_event(control->machine));
	return 0;
}

static int op_nmi(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	machine_nmi(control->machine);
	return 0;
}

static int op_set_critical(struct control *control, json_t *request, json_t **ret,
			   struct error *err)
{
	machine_set_critical_pause(control->machine,
				   json_is_true(json_object_get(request, "pause")));
	return 0;
}

static int op_status(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	*ret = status_json(control);
	return 0;
}

static int op_set_memory(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	json_int_t bytes = json_integer_value(json_object_get(request, "bytes"));

	if (bytes <= 0)
		return error_set(err, ERR_INVALID, "'bytes' is no size");
	machine_set_memory(control->machine, (uint64_t)bytes);
	return 0;
}

static void on_saved(void *user, const struct machine_saved *saved, const struct error *err)
{
	struct control *control = user;

	if (err)
		control_event(control,
			      json_pack("{s:s, s:{s:s, s:s}}", "event", "save-failed", "error",
					"code", err_code_name(err->code), "text", err->text));
	else
		control_event(control,
			      json_pack("{s:s, s:I, s:I, s:i}", "event", "saved", "pause_ns",
					(json_int_t)saved->pause_ns, "ram_bytes_written",
					(json_int_t)saved->ram_bytes_written, "rounds",
					(int)saved->rounds));
}

static int op_save(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	bool stop = json_is_true(json_object_get(request, "stop"));
	int r, fd = control_take_fd(control, err);

	if (fd < 0)
		return fd;
	r = machine_save(control->machine, fd, stop, on_saved, control, err);
	if (r == 0)
		control_event(control, state_event(control->machine));
	return r;
}

/* ---- checkpoints ---- */

static int get_place(const json_t *request, struct guid *ret_controller, unsigned *ret_location,
		     struct error *err)
{
	const char *controller = json_string_value(json_object_get(request, "controller"));
	json_int_t location = json_integer_value(json_object_get(request, "location"));

	if (!controller || !guid_parse(controller, ret_controller) || location < 0 ||
	    location > UINT16_MAX)
		return error_set(err, ERR_INVALID, "\"controller\" and \"location\" name no disk");
	*ret_location = (unsigned)location;
	return 0;
}

/* Its descriptors: mark, memory where it is wanted, one for each disk. They stay the control's. */
static int read_checkpoint(struct control *control, const json_t *request,
			   struct machine_layer *layers, struct machine_checkpoint *ret,
			   struct error *err)
{
	const json_t *disks = json_object_get(request, "disks");
	bool memory = json_is_true(json_object_get(request, "memory"));
	unsigned first = memory ? 2 : 1, count = (unsigned)json_array_size(disks);
	int r = 0;

	if (json_array_size(disks) > IPC_MAX_FDS - first)
		return error_set(err, ERR_LIMIT, "a checkpoint has at most %u disks",
				 IPC_MAX_FDS - first);
	for (unsigned i = 0; r == 0 && i < count; i++) {
		layers[i].fd = control->fds[first + i];
		r = get_place(json_array_get(disks, i), &layers[i].controller, &layers[i].location,
			      err);
	}
	for (unsigned i = 0; r == 0 && i < first + count; i++)
		if (control->fds[i] < 0)
			r = error_set(err, ERR_INVALID, "it lacks descriptors");
	*ret = (struct machine_checkpoint){ .memory_fd = memory ? control->fds[1] : -1,
					    .mark_fd = control->fds[0],
					    .layers = layers,
					    .layer_count = count,
					    .done = on_saved,
					    .user = control };
	return r;
}

static int op_checkpoint(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct machine_layer layers[IPC_MAX_FDS];
	struct machine_checkpoint checkpoint;
	int r = read_checkpoint(control, request, layers, &checkpoint, err);

	if (r == 0 && json_is_true(json_object_get(request, "frozen")) &&
	    !ic_vss_frozen(machine_ic(control->machine)))
		r = error_set(err, ERR_TIMEOUT,
			      "the guest's file systems did not stand still until its disks had "
			      "their layers");
	if (r < 0)
		return r;
	for (unsigned i = 0; i < checkpoint.layer_count + (checkpoint.memory_fd >= 0 ? 2 : 1); i++)
		control->fds[i] = -1;
	r = machine_checkpoint(control->machine, &checkpoint, err);
	if (r == 0 && checkpoint.memory_fd >= 0)
		control_event(control, state_event(control->machine));
	return r;
}

static int op_set_integration(struct control *control, json_t *request, json_t **ret,
			      struct error *err)
{
	const char *name = json_string_value(json_object_get(request, "name"));
	struct machine_service services[CONFIG_IC_COUNT];

	machine_services(control->machine, services);
	for (unsigned i = 0; name && i < CONFIG_IC_COUNT; i++)
		if (strcasecmp(services[i].name, name) == 0)
			return machine_set_service(
			    control->machine, (enum config_ic)i,
			    json_is_true(json_object_get(request, "enabled")), err);
	return error_set(err, ERR_NOT_FOUND, "there is no integration service '%s'",
			 name ? name : "");
}

/* ---- disks ---- */

#define PROGRESS_NS (NS_PER_SEC / 4)

struct merge_watch {
	struct control *control;
	char controller[GUID_TEXT_SIZE];
	unsigned location;
	uint64_t told_ns;
};

static json_t *merge_event(const struct merge_watch *watch, const char *name)
{
	return json_pack("{s:s, s:s, s:i}", "event", name, "controller", watch->controller,
			 "location", (int)watch->location);
}

static void on_merge_progress(void *user, uint64_t done, uint64_t total)
{
	struct merge_watch *watch = user;
	json_t *event;

	if (clock_now_ns() - watch->told_ns < PROGRESS_NS)
		return;
	watch->told_ns = clock_now_ns();
	event = merge_event(watch, "disk-merging");
	json_object_set_new(event, "done", json_integer((json_int_t)done));
	json_object_set_new(event, "total", json_integer((json_int_t)total));
	control_event(watch->control, event);
}

static void on_merged(void *user, const struct error *err)
{
	struct merge_watch *watch = user;
	json_t *event = merge_event(watch, "disk-merged");

	if (err)
		json_object_set_new(
		    event, "error",
		    json_pack("{s:s, s:s}", "code", err_code_name(err->code), "text", err->text));
	control_event(watch->control, event);
	free(watch);
}

/* Its own descriptors: those of the request, the mark's and one for each layer that is named. */
static int take_layers(struct control *control, const json_t *request, struct live_file *files,
		       struct live_merge *merge, struct error *err)
{
	const json_t *layers = json_object_get(request, "layers");
	size_t count = json_array_size(layers);

	if (count >= IPC_MAX_FDS || control->fds[0] < 0)
		return error_set(err, ERR_INVALID, "no mark, or too many layers");
	for (size_t i = 0; i < count; i++) {
		json_int_t layer = json_integer_value(json_array_get(layers, i));

		if (control->fds[1 + i] < 0 || layer < 0 || layer >= DISK_CHAIN_MAX)
			return error_set(err, ERR_INVALID, "a layer without a descriptor");
	}
	for (size_t i = 0; i < count; i++)
		files[i] =
		    (struct live_file){ (unsigned)json_integer_value(json_array_get(layers, i)),
					TAKE_FD(control->fds[1 + i]) };
	merge->mark_fd = TAKE_FD(control->fds[0]);
	merge->files = files;
	merge->file_count = (unsigned)count;
	return 0;
}

static unsigned number_of(const json_t *request, const char *name)
{
	json_int_t number = json_integer_value(json_object_get(request, name));

	return number >= 0 && number < UINT32_MAX ? (unsigned)number : UINT32_MAX;
}

static int op_merge_disk(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct merge_watch *watch = calloc(1, sizeof(*watch));
	struct live_file files[IPC_MAX_FDS];
	struct guid controller;
	struct live_merge merge = {
		.first = number_of(request, "first"),
		.into = number_of(request, "into"),
		.absolute = json_string_value(json_object_get(request, "absolute")),
		.relative = json_string_value(json_object_get(request, "relative")),
		.progress = on_merge_progress,
		.done = on_merged,
		.user = watch,
	};
	int r;

	if (!watch)
		return error_set(err, ERR_NO_MEMORY, "no memory to merge disks");
	watch->control = control;
	r = get_place(request, &controller, &watch->location, err);
	if (r == 0)
		r = take_layers(control, request, files, &merge, err);
	if (r == 0) {
		guid_format(&controller, watch->controller);
		r = machine_disk_merge(control->machine, &controller, watch->location, &merge, err);
	}
	if (r < 0)
		free(watch);
	return r;
}

/* Descriptors: of the layer, open for writing, and of its parent. */
static int op_set_parent_path(struct control *control, json_t *request, json_t **ret,
			      struct error *err)
{
	struct live_paths paths = {
		.child_fd = control->fds[0],
		.parent_fd = control->fds[1],
		.absolute = json_string_value(json_object_get(request, "absolute")),
		.relative = json_string_value(json_object_get(request, "relative")),
	};
	struct guid controller;
	unsigned location;
	int r = get_place(request, &controller, &location, err);

	if (r == 0 && (paths.child_fd < 0 || paths.parent_fd < 0))
		r = error_set(err, ERR_INVALID, "a layer without a descriptor");
	return r < 0 ? r
		     : machine_disk_set_paths(control->machine, &controller, location, &paths, err);
}

static int op_cancel_merge(struct control *control, json_t *request, json_t **ret,
			   struct error *err)
{
	struct guid controller;
	unsigned location;
	int r = get_place(request, &controller, &location, err);

	return r < 0 ? r : machine_disk_merge_cancel(control->machine, &controller, location, err);
}

static int op_track_drive(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	unsigned location;
	struct guid id;
	int r = devices_get_place(request, &id, &location, err), fd;

	if (r < 0)
		return r;
	fd = control_take_fd(control, err);
	return fd < 0 ? fd : machine_drive_track(control->machine, &id, location, fd, err);
}

static int get_tracked(struct control *control, const json_t *request, struct blk **ret,
		       struct error *err)
{
	unsigned location;
	struct guid id;
	int r = devices_get_place(request, &id, &location, err);

	return r < 0 ? r : machine_drive_tracked(control->machine, &id, location, ret, err);
}

static int op_untrack_drive(struct control *control, json_t *request, json_t **ret,
			    struct error *err)
{
	struct blk *disk = NULL;
	int r = get_tracked(control, request, &disk, err);

	return r < 0 ? r : track_stop(disk, err);
}

static int op_track_copy(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	AUTO_CLOSE int fd = control_take_fd(control, err);
	struct blk *disk;
	int r = fd < 0 ? fd : get_tracked(control, request, &disk, err);

	return r < 0 ? r : track_copy(disk, fd, err);
}

static int run_tracked(struct control *control, const char *op, const json_t *request, json_t **ret,
		       struct error *err)
{
	struct blk *disk = NULL;
	int r = get_tracked(control, request, &disk, err);

	return r < 0 ? r : track_json_run(disk, op, request, ret, err);
}

static const struct control_operation operations[] = {
	{ "status", op_status },
	{ "shutdown", op_shutdown },
	{ "reboot", op_reboot },
	{ "turn-off", op_turn_off },
	{ "reset", op_reset },
	{ "pause", op_pause },
	{ "resume", op_resume },
	{ "nmi", op_nmi },
	{ "save", op_save },
	{ "set-memory", op_set_memory },
	{ "set-critical", op_set_critical },
	{ "set-integration", op_set_integration },
	{ "checkpoint", op_checkpoint },
	{ "merge-disk", op_merge_disk },
	{ "set-parent-path", op_set_parent_path },
	{ "cancel-merge-disk", op_cancel_merge },
	{ "track-drive", op_track_drive },
	{ "untrack-drive", op_untrack_drive },
	{ "track-copy", op_track_copy },
};

static const struct control_operation *find_operation(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		if (strcmp(operations[i].name, name) == 0)
			return &operations[i];
	for (size_t i = 0; i < control_guest_operation_count; i++)
		if (strcmp(control_guest_operations[i].name, name) == 0)
			return &control_guest_operations[i];
	return NULL;
}

static int run_request(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	const char *op = json_string_value(json_object_get(request, "op"));
	const struct control_operation *operation = op ? find_operation(op) : NULL;

	if (!op)
		return error_set(err, ERR_INVALID, "a request without \"op\"");
	if (!control->machine)
		return error_set(err, ERR_STATE, "the virtual machine is not running yet");
	if (devices_knows(op))
		return devices_run(control->machine, op, request, control->fds, err);
	if (track_json_knows(op))
		return run_tracked(control, op, request, ret, err);
	if (viewers_knows(op))
		return viewers_run(control->viewers, op, request, &control->fds[0], err);
	if (!operation)
		return error_set(err, ERR_UNSUPPORTED, "the worker knows no operation '%s'", op);
	return operation->run(control, request, ret, err);
}

/* ---- answers ---- */

static struct client *find_client(struct control *control, uint64_t number)
{
	for (unsigned i = 0; i < control->client_count; i++)
		if (control->clients[i]->number == number)
			return control->clients[i];
	return NULL;
}

/* Takes result, which may be NULL; err NULL: it went well. */
static void send_answer(struct client *client, json_t *id, json_t *result, const struct error *err)
{
	json_t *reply = result ? result : json_object();

	if (err)
		json_object_set_new(
		    reply, "error",
		    json_pack("{s:s, s:s}", "code", err_code_name(err->code), "text", err->text));
	else
		json_object_set_new(reply, "ok", json_true());
	if (id)
		json_object_set(reply, "id", id);
	ipc_send(client->fd, reply, NULL, 0, NULL);
	json_decref(reply);
}

struct control_later *control_later(struct control *control)
{
	struct control_later *later = malloc(sizeof(*later));

	if (!later)
		abort(); /* a few bytes: the host is beyond help */
	*later =
	    (struct control_later){ control, control->calling, json_incref(control->calling_id) };
	return later;
}

void control_answer(struct control_later *later, json_t *result, const struct error *err)
{
	struct client *client = find_client(later->control, later->client);

	if (client)
		send_answer(client, later->id, result, err);
	else
		json_decref(result);
	json_decref(later->id);
	free(later);
}

bool control_later_wanted(const struct control_later *later)
{
	return find_client(later->control, later->client) != NULL;
}

void control_later_drop(struct control_later *later)
{
	json_decref(later->id);
	free(later);
}

int control_take_fd(struct control *control, struct error *err)
{
	if (control->fds[0] < 0)
		return error_set(err, ERR_INVALID, "this needs a descriptor");
	return TAKE_FD(control->fds[0]);
}

static void answer(struct client *client, json_t *request)
{
	struct control *control = client->control;
	json_t *result = NULL;
	struct error err;
	int r;

	control->calling = client->number;
	control->calling_id = json_object_get(request, "id");
	r = run_request(control, request, &result, &err);
	/* An event that the operation caused may have cut the client off. */
	client = find_client(control, control->calling);
	if (r != CONTROL_LATER && client)
		send_answer(client, control->calling_id, result, r < 0 ? &err : NULL);
	else
		json_decref(result);
}

static void client_ready(void *user, uint32_t events)
{
	struct client *client = user;
	struct control *control = client->control;
	int fds[IPC_MAX_FDS];
	unsigned fd_count = 0;
	json_t *request;
	int r = ipc_recv(client->fd, &request, fds, &fd_count, NULL);

	if (r == 1) {
		for (unsigned i = 0; i < IPC_MAX_FDS; i++)
			control->fds[i] = i < fd_count ? fds[i] : -1;
		answer(client, request);
		for (unsigned i = 0; i < IPC_MAX_FDS; i++)
			if (control->fds[i] >= 0)
				close(control->fds[i]);
		json_decref(request);
	} else if (r != -ERR_BUSY) {
		client_free(client);
	}
}

static void greet(struct client *client)
{
	struct machine *machine = client->control->machine;
	json_t *events[4];

	if (!machine)
		return;
	events[0] = state_event(machine);
	events[1] = control_services_event(machine);
	events[2] = control_kvp_event(machine);
	events[3] = control_memory_event(machine);
	for (size_t i = 0; i < ARRAY_SIZE(events); i++) {
		ipc_send(client->fd, events[i], NULL, 0, NULL);
		json_decref(events[i]);
	}
}

static void on_connect(void *user, uint32_t events)
{
	struct control *control = user;
	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client;

	if (fd < 0)
		return;
	client = control->client_count < MAX_CLIENTS ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(fd);
		return;
	}
	client->control = control;
	client->number = ++control->last_client;
	client->fd = fd;
	if (loop_fd_add(control->loop, fd, EPOLLIN, client_ready, client, &client->lfd, NULL) < 0) {
		close(fd);
		free(client);
		return;
	}
	control->clients[control->client_count++] = client;
	greet(client);
}

int control_new(struct loop *loop, int listen_fd, const struct config_vm *config,
		struct viewers *viewers, struct control **ret, struct error *err)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control)
		return error_set(err, ERR_NO_MEMORY, "no memory for the control socket");
	control->loop = loop;
	control->listen_fd = listen_fd;
	control->config = config;
	control->viewers = viewers;
	if (loop_fd_add(loop, listen_fd, EPOLLIN, on_connect, control, &control->listen_lfd, err) <
	    0) {
		free(control);
		return error_prefix(err, "control socket");
	}
	*ret = control;
	return 0;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	while (control->client_count)
		client_free(control->clients[0]);
	loop_fd_remove(control->listen_lfd);
	close(control->listen_fd);
	free(control);
}

void control_set_machine(struct control *control, struct machine *machine)
{
	control->machine = machine;
	for (unsigned i = 0; machine && i < control->client_count; i++)
		greet(control->clients[i]);
}

/* A client that is so far behind that its socket is full is cut off: it can connect again and gets
 * the present state. */
void control_event(struct control *control, json_t *event)
{
	for (unsigned i = control->client_count; i-- > 0;)
		if (ipc_send(control->clients[i]->fd, event, NULL, 0, NULL) < 0)
			client_free(control->clients[i]);
	json_decref(event);
}
