#include "control.h"

#include "base/log.h"
#include "base/macros.h"
#include "ipc/ipc.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

struct request {
	json_t *msg;
	int fd; /* what came with it, or -1; who takes it sets -1 */
};

static const char *text_of(const struct request *request, const char *key)
{
	return json_string_value(json_object_get(request->msg, key));
}

/* ---- configure ---- */

static int parse_nat(const struct request *request, struct nat_config *ret, struct error *err)
{
	const char *subnet = text_of(request, "subnet"), *subnet6 = text_of(request, "subnet6");
	const json_t *loopback = json_object_get(request->msg, "host_loopback");

	if (!subnet || !nat_parse_subnet(subnet, &ret->network, &ret->prefix_bits))
		return error_set(err, ERR_INVALID,
				 "'%s' is no subnet for a NAT switch: it takes one like "
				 "172.30.5.0/24, with 16 to 28 bits",
				 subnet ? subnet : "");
	if (subnet6) {
		ret->ipv6 = true;
		if (inet_pton(AF_INET6, subnet6, &ret->network6) != 1)
			return error_set(err, ERR_INVALID, "'%s' is no IPv6 network", subnet6);
		memset(ret->network6.s6_addr + 8, 0, 8);
	}
	ret->host_loopback = !json_is_false(loopback);
	ret->domain = text_of(request, "domain");
	return 0;
}

static void on_connect(void *user, uint32_t events);

/* What came with the request is where a later daemon connects. */
static int listen_for_others(struct control *control, struct request *request, struct error *err)
{
	if (request->fd < 0)
		return 0;
	control->listen_fd = TAKE_FD(request->fd);
	return loop_fd_add(control->loop, control->listen_fd, EPOLLIN, on_connect, control,
			   &control->listen_watch, err);
}

static int op_configure(struct control *control, struct request *request, json_t **ret,
			struct error *err)
{
	const char *type = text_of(request, "type"), *name = text_of(request, "name");
	struct nat_config nat = { 0 };
	int r;

	(void)ret;
	if (control->type)
		return error_set(err, ERR_STATE, "switch '%s' is configured already",
				 control->name);
	snprintf(control->name, sizeof(control->name), "%s", name ? name : "");
	if (type && strcmp(type, "nat") == 0) {
		r = parse_nat(request, &nat, err);
		if (r == 0)
			r = nat_new(control->loop, control->sw, &nat, &control->nat, err);
		if (r < 0)
			return error_prefix(err, "switch '%s'", control->name);
		control->type = "nat";
	} else if (type && strcmp(type, "private") == 0) {
		control->type = "private";
	} else {
		return error_set(err, ERR_UNSUPPORTED,
				 "switch '%s': there is no switch type '%s'; it is nat or private",
				 control->name, type ? type : "");
	}
	control->keep = json_is_true(json_object_get(request->msg, "keep"));
	return listen_for_others(control, request, err);
}

/* ---- ports ---- */

static bool parse_mac(const char *text, uint8_t ret[FRAME_MAC_BYTES])
{
	int end = 0;

	return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &ret[0], &ret[1], &ret[2],
		      &ret[3], &ret[4], &ret[5], &end) == 6 &&
	       !text[end];
}

static bool is_port_socket(int fd)
{
	int domain = 0, type = 0;
	socklen_t len = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain == AF_UNIX &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_SEQPACKET;
}

static int op_add_port(struct control *control, struct request *request, json_t **ret,
		       struct error *err)
{
	const char *mac = text_of(request, "mac");
	struct vswitch_port_config config = {
		.id = text_of(request, "port"),
		.has_mac = mac,
		.mac_spoofing = json_is_true(json_object_get(request->msg, "mac_spoofing")),
	};

	(void)ret;
	if (!control->type)
		return error_set(err, ERR_STATE, "the switch is not configured yet");
	if (!config.id)
		return error_set(err, ERR_INVALID, "add-port without \"port\"");
	if (mac && !parse_mac(mac, config.mac))
		return error_set(err, ERR_INVALID, "port '%s': '%s' is no MAC address", config.id,
				 mac);
	if (request->fd < 0 || !is_port_socket(request->fd))
		return error_set(err, ERR_INVALID, "port '%s' comes without a SEQPACKET socket",
				 config.id);
	return vswitch_add_port(control->sw, &config, TAKE_FD(request->fd), err);
}

static void check_finished(struct control *control)
{
	if (control->fd < 0 && (!control->keep || vswitch_port_count(control->sw) == 0))
		control->finished = true;
}

static int op_remove_port(struct control *control, struct request *request, json_t **ret,
			  struct error *err)
{
	const char *id = text_of(request, "port");

	(void)ret;
	return vswitch_remove_port(control->sw, id ? id : "", err);
}

static void on_port_gone(void *user, const char *id)
{
	struct control *control = user;
	json_t *event = json_pack("{s:s, s:s}", "event", "port-gone", "port", id);

	if (control->fd >= 0 && event)
		ipc_send(control->fd, event, NULL, 0, NULL);
	json_decref(event);
	check_finished(control);
}

/* ---- status ---- */

static json_t *port_json(const struct vswitch_port_info *info)
{
	return json_pack(
	    "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "port", info->id, "received",
	    (json_int_t)info->received, "received_bytes", (json_int_t)info->received_bytes, "sent",
	    (json_int_t)info->sent, "sent_bytes", (json_int_t)info->sent_bytes, "dropped_queue",
	    (json_int_t)info->dropped_queue, "dropped_spoofed", (json_int_t)info->dropped_spoofed,
	    "malformed", (json_int_t)info->malformed, "learned", (int)info->learned);
}

static int op_status(struct control *control, struct request *request, json_t **ret,
		     struct error *err)
{
	struct vswitch_port_info info;
	json_t *ports = json_array();

	(void)request, (void)err;
	for (unsigned i = 0; vswitch_port_info(control->sw, i, &info); i++)
		json_array_append_new(ports, port_json(&info));
	*ret = json_pack("{s:s, s:s, s:o}", "name", control->name, "type",
			 control->type ? control->type : "", "ports", ports);
	return 0;
}

/* ---- requests ---- */

static const struct {
	const char *name;
	int (*run)(struct control *control, struct request *request, json_t **ret,
		   struct error *err);
} operations[] = {
	{ "configure", op_configure },
	{ "add-port", op_add_port },
	{ "remove-port", op_remove_port },
	{ "status", op_status },
};

static int run_request(struct control *control, struct request *request, json_t **ret,
		       struct error *err)
{
	const char *op = text_of(request, "op");

	if (!op)
		return error_set(err, ERR_INVALID, "a request without \"op\"");
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		if (strcmp(operations[i].name, op) == 0)
			return operations[i].run(control, request, ret, err);
	return error_set(err, ERR_UNSUPPORTED, "the switch knows no operation '%s'", op);
}

static void answer(struct control *control, struct request *request)
{
	json_t *result = NULL, *reply, *id = json_object_get(request->msg, "id");
	struct error err;

	if (run_request(control, request, &result, &err) < 0) {
		reply = json_pack("{s:{s:s, s:s}}", "error", "code", err_code_name(err.code),
				  "text", err.text);
	} else {
		reply = result ? result : json_object();
		json_object_set_new(reply, "ok", json_true());
	}
	if (id)
		json_object_set(reply, "id", id);
	ipc_send(control->fd, reply, NULL, 0, NULL);
	json_decref(reply);
}

static void disconnect(struct control *control)
{
	loop_fd_remove(control->watch);
	control->watch = NULL;
	close(control->fd);
	control->fd = -1;
	check_finished(control);
}

static void on_control_ready(void *user, uint32_t events)
{
	struct control *control = user;
	int fds[IPC_MAX_FDS];
	unsigned fd_count = 0;
	struct request request = { .fd = -1 };
	struct error err;
	int r = ipc_recv(control->fd, &request.msg, fds, &fd_count, &err);

	(void)events;
	if (r == -ERR_BUSY)
		return;
	if (r <= 0) {
		if (r < 0)
			log_warn("control socket: %s", err.text);
		disconnect(control);
		return;
	}
	if (fd_count)
		request.fd = fds[0];
	for (unsigned i = 1; i < fd_count; i++)
		close(fds[i]);
	answer(control, &request);
	json_decref(request.msg);
	if (request.fd >= 0)
		close(request.fd);
}

/* A daemon has found us: it takes the place of the one that started us. */
static void on_connect(void *user, uint32_t events)
{
	struct control *control = user;
	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	struct loop_fd *watch;
	struct error err;

	(void)events;
	if (fd < 0)
		return;
	if (loop_fd_add(control->loop, fd, EPOLLIN, on_control_ready, control, &watch, &err) < 0) {
		log_error("control socket: %s", err.text);
		close(fd);
		return;
	}
	loop_fd_remove(control->watch);
	if (control->fd >= 0)
		close(control->fd);
	control->fd = fd;
	control->watch = watch;
}

int control_init(struct control *control, struct loop *loop, int fd, struct error *err)
{
	int r;

	*control = (struct control){ .loop = loop, .fd = fd, .listen_fd = -1 };
	r = vswitch_new(loop, &control->sw, err);
	if (r == 0)
		r = loop_fd_add(loop, fd, EPOLLIN, on_control_ready, control, &control->watch, err);
	if (r < 0) {
		control_done(control);
		return r;
	}
	vswitch_on_port_gone(control->sw, on_port_gone, control);
	return 0;
}

void control_done(struct control *control)
{
	nat_free(control->nat);
	vswitch_free(control->sw);
	loop_fd_remove(control->watch);
	if (control->fd >= 0)
		close(control->fd);
	loop_fd_remove(control->listen_watch);
	if (control->listen_fd >= 0)
		close(control->listen_fd);
}
