#include "control-impl.h"

#include "base/clock.h"
#include "base/macros.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define CONNECT_SECONDS     10 /* unless the request says otherwise */
#define CONNECT_MAX_SECONDS 60

/* ---- sockets ---- */

/* 0 becomes CONTROL_LATER. */
static int owe(struct control_later *later, int r)
{
	if (r == 0)
		return CONTROL_LATER;
	control_later_drop(later);
	return r;
}

static int get_guid(const json_t *request, const char *name, struct guid *ret, struct error *err)
{
	const char *text = json_string_value(json_object_get(request, name));

	if (!text || !guid_parse(text, ret))
		return error_set(err, ERR_INVALID, "\"%s\" is no GUID", name);
	return 0;
}

static void connected(void *user, int result)
{
	struct error err;

	if (result == -ERR_TIMEOUT)
		error_set(&err, ERR_TIMEOUT, "nobody in the guest listens there");
	else if (result < 0)
		error_set(&err, ERR_CANCELLED, "the guest went away");
	control_answer(user, NULL, result < 0 ? &err : NULL);
}

static int op_socket_connect(struct control *control, json_t *request, json_t **ret,
			     struct error *err)
{
	const json_t *seconds = json_object_get(request, "seconds");
	json_int_t timeout =
	    json_is_integer(seconds) ? json_integer_value(seconds) : CONNECT_SECONDS;
	struct control_later *later;
	struct guid service;
	int fd, r = get_guid(request, "service", &service, err);

	if (r < 0)
		return r;
	fd = control_take_fd(control, err);
	if (fd < 0)
		return fd;
	timeout = MAX(1, MIN(timeout, CONNECT_MAX_SECONDS));
	later = control_later(control);
	return owe(later,
		   machine_socket_connect(control->machine, &service, fd,
					  (uint64_t)timeout * NS_PER_SEC, connected, later, err));
}

static uint64_t ticket_of(const json_t *request)
{
	return (uint64_t)json_integer_value(json_object_get(request, "ticket"));
}

static int op_socket_accept(struct control *control, json_t *request, json_t **ret,
			    struct error *err)
{
	int fd = control_take_fd(control, err);

	return fd < 0 ? fd : machine_socket_accept(control->machine, ticket_of(request), fd, err);
}

static int op_socket_refuse(struct control *control, json_t *request, json_t **ret,
			    struct error *err)
{
	machine_socket_refuse(control->machine, ticket_of(request));
	return 0;
}

/* ---- services ---- */

static const char *text_of(const json_t *request, const char *name)
{
	const char *text = json_string_value(json_object_get(request, name));

	return text ? text : "";
}

static bool flag_of(const json_t *request, const char *name)
{
	return json_is_true(json_object_get(request, name));
}

/* What the guest's services answer, in words. */
static const struct error *service_error(int result, const char *what, struct error *err)
{
	switch (result) {
	case 0:
		return NULL;
	case -ERR_EXISTS:
		error_set(err, ERR_EXISTS, "the file is there already");
		break;
	case -ERR_NO_SPACE:
		error_set(err, ERR_NO_SPACE, "the guest's disk is full");
		break;
	case -ERR_TIMEOUT:
		error_set(err, ERR_TIMEOUT, "%s did not happen in time", what);
		break;
	case -ERR_CANCELLED:
		error_set(err, ERR_CANCELLED, "%s was cancelled, or the service ended", what);
		break;
	case -ERR_NOT_FOUND:
		error_set(err, ERR_NOT_FOUND, "the guest has no such thing");
		break;
	case -ERR_IO:
		error_set(err, ERR_IO, "reading the file failed");
		break;
	default:
		error_set(err, ERR_DENIED,
			  "the guest refused %s: its daemon does not run, or could not do it",
			  what);
	}
	return err;
}

static void answer_service(struct control_later *later, json_t *result, int code, const char *what)
{
	struct error err;

	control_answer(later, result, service_error(code, what, &err));
}

/* ---- VSS ---- */

#define FREEZE_SECONDS     60 /* unless the request says otherwise */
#define FREEZE_MAX_SECONDS 900

static void freeze_done(void *user, int result)
{
	answer_service(user, NULL, result, "the freeze");
}

static void thaw_done(void *user, int result)
{
	answer_service(user, NULL, result, "the thaw");
}

static int op_vss_freeze(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	const json_t *seconds = json_object_get(request, "seconds");
	json_int_t timeout =
	    json_is_integer(seconds) ? json_integer_value(seconds) : FREEZE_SECONDS;
	struct control_later *later;

	if (machine_paused(control->machine))
		return error_set(err, ERR_STATE, "it is paused");
	timeout = MAX(1, MIN(timeout, FREEZE_MAX_SECONDS));
	later = control_later(control);
	return owe(later, ic_vss_freeze(machine_ic(control->machine),
					(uint64_t)timeout * NS_PER_SEC, freeze_done, later, err));
}

static int op_vss_thaw(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct control_later *later = control_later(control);

	return owe(later, ic_vss_thaw(machine_ic(control->machine), thaw_done, later, err));
}

/* ---- file copy ---- */

#define PROGRESS_NS (500 * NS_PER_MSEC)

struct copy {
	struct control *control;
	struct control_later *later;
	int fd;
	uint64_t size, told_ns;
};

static int copy_read(void *user, uint64_t offset, void *buf, uint32_t len)
{
	struct copy *copy = user;

	return pread(copy->fd, buf, len, (off_t)offset) == (ssize_t)len ? 0 : -ERR_IO;
}

static void copy_progress(void *user, uint64_t bytes)
{
	struct copy *copy = user;
	uint64_t now = clock_now_ns();

	if (now - copy->told_ns < PROGRESS_NS)
		return;
	copy->told_ns = now;
	control_event(copy->control, json_pack("{s:s, s:I, s:I}", "event", "copy-progress", "bytes",
					       (json_int_t)bytes, "total", (json_int_t)copy->size));
}

static void copy_done(void *user, int result)
{
	struct copy *copy = user;

	if (copy->control->copy == copy)
		copy->control->copy = NULL;
	answer_service(copy->later, NULL, result, "the copy");
	close(copy->fd);
	free(copy);
}

/* A daemon that was restarted knows nothing of a copy that it began; we go on with it meanwhile. */
static bool copy_is_orphan(const struct control *control)
{
	return control->copy && !control_later_wanted(control->copy->later);
}

static int start_copy(struct copy *copy, const json_t *request, struct error *err)
{
	struct ic_copy_request wanted = {
		.take_over = copy_is_orphan(copy->control),
		.folder = text_of(request, "folder"),
		.name = text_of(request, "name"),
		.overwrite = flag_of(request, "overwrite"),
		.create_folder = flag_of(request, "create_folder"),
		.read = copy_read,
		.progress = copy_progress,
		.done = copy_done,
		.user = copy,
	};
	struct stat st;

	if (fstat(copy->fd, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(err, ERR_INVALID, "only regular files can be copied");
	wanted.size = copy->size = (uint64_t)st.st_size;
	wanted.source_id = st.st_ino;
	wanted.source_time_ns =
	    (uint64_t)st.st_mtim.tv_sec * NS_PER_SEC + (uint64_t)st.st_mtim.tv_nsec;
	return ic_copy_file(machine_ic(copy->control->machine), &wanted, err);
}

static int op_copy_file(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	int r, fd = control_take_fd(control, err);
	struct copy *copy = calloc(1, sizeof(*copy));

	if (fd < 0 || !copy) {
		free(copy);
		return fd < 0 ? fd : error_set(err, ERR_NO_MEMORY, "no memory for a copy");
	}
	*copy = (struct copy){ .control = control, .later = control_later(control), .fd = fd };
	r = start_copy(copy, request, err);
	if (r == 0) {
		control->copy = copy;
		return CONTROL_LATER;
	}
	control_later_drop(copy->later);
	close(fd);
	free(copy);
	return r;
}

static int op_copy_cancel(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	ic_copy_cancel(machine_ic(control->machine));
	return 0;
}

/* ---- key-value pairs ---- */

static const char *const pools[] = { "external", "guest", "intrinsic", "host" };

static int pool_of(const json_t *request, enum ic_kvp_pool *ret, struct error *err)
{
	const char *name = text_of(request, "pool");

	for (size_t i = 0; i < ARRAY_SIZE(pools); i++)
		if (strcmp(pools[i], name) == 0) {
			*ret = (enum ic_kvp_pool)i;
			return 0;
		}
	return error_set(err, ERR_INVALID, "there is no pool '%.40s'", name);
}

static int in_contact(struct control *control, struct error *err)
{
	struct ic_status status;

	ic_status(machine_ic(control->machine), IC_KVP, &status);
	if (status.state == IC_STATE_OK)
		return 0;
	return error_set(err, ERR_STATE, "the guest's data exchange service is not in contact");
}

static void pair_done(void *user, int result, const struct ic_pair *pairs, unsigned count)
{
	answer_service(user, NULL, result, "the change");
}

static void pairs_read(void *user, int result, const struct ic_pair *pairs, unsigned count)
{
	json_t *items = json_object();

	for (unsigned i = 0; i < count; i++)
		json_object_set_new(items, pairs[i].key, json_string(pairs[i].value));
	answer_service(user, json_pack("{s:o}", "items", items), result, "the reading");
}

static int op_kvp_get(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct control_later *later;
	enum ic_kvp_pool pool = IC_POOL_GUEST;
	int r = pool_of(request, &pool, err);

	if (r == 0)
		r = in_contact(control, err);
	if (r < 0)
		return r;
	later = control_later(control);
	return owe(later,
		   ic_kvp_enumerate(machine_ic(control->machine), pool, pairs_read, later, err));
}

static int op_kvp_set(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct control_later *later;
	int r = in_contact(control, err);

	if (r < 0)
		return r;
	later = control_later(control);
	return owe(later, ic_kvp_set(machine_ic(control->machine), IC_POOL_EXTERNAL,
				     text_of(request, "key"), text_of(request, "value"), pair_done,
				     later, err));
}

static int op_kvp_remove(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct control_later *later;
	int r = in_contact(control, err);

	if (r < 0)
		return r;
	later = control_later(control);
	return owe(later, ic_kvp_delete(machine_ic(control->machine), IC_POOL_EXTERNAL,
					text_of(request, "key"), pair_done, later, err));
}

static int op_ip_set(struct control *control, json_t *request, json_t **ret, struct error *err)
{
	struct control_later *later;
	struct guid adapter;
	struct ic_ip_config config = { .adapter = &adapter,
				       .dhcp = flag_of(request, "dhcp"),
				       .addresses = text_of(request, "addresses"),
				       .subnets = text_of(request, "subnets"),
				       .gateways = text_of(request, "gateways"),
				       .dns_servers = text_of(request, "dns_servers") };
	int r = get_guid(request, "adapter", &adapter, err);

	if (r == 0)
		r = in_contact(control, err);
	if (r < 0)
		return r;
	later = control_later(control);
	return owe(later,
		   ic_kvp_set_ip(machine_ic(control->machine), &config, pair_done, later, err));
}

/* ---- events and the table ---- */

void control_socket_asked(struct control *control, uint64_t ticket, const struct guid *service)
{
	char text[GUID_TEXT_SIZE];

	/* Nobody is there to decide. */
	if (!control->client_count) {
		machine_socket_refuse(control->machine, ticket);
		return;
	}
	control_event(control,
		      json_pack("{s:s, s:I, s:s}", "event", "socket-asked", "ticket",
				(json_int_t)ticket, "service", guid_format(service, text)));
}

const struct control_operation control_guest_operations[] = {
	{ "socket-connect", op_socket_connect },
	{ "socket-accept", op_socket_accept },
	{ "socket-refuse", op_socket_refuse },
	{ "vss-freeze", op_vss_freeze },
	{ "vss-thaw", op_vss_thaw },
	{ "copy-file", op_copy_file },
	{ "copy-cancel", op_copy_cancel },
	{ "kvp-get", op_kvp_get },
	{ "kvp-set", op_kvp_set },
	{ "kvp-remove", op_kvp_remove },
	{ "ip-set", op_ip_set },
};

const size_t control_guest_operation_count = ARRAY_SIZE(control_guest_operations);
