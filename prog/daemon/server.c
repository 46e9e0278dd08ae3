#include "server.h"

#include "access/access.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "door.h"
#include "follow.h"
#include "guest-sockets.h"
#include "relay.h"
#include "request.h"
#include "run.h"
#include "sockets.h"
#include "vm.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#define MAX_BODY_BYTES         (1 * MIB)
#define MAX_CONNECTIONS        200
#define MAX_REMOTE_CONNECTIONS 200
#define MAX_PER_ADDRESS        50
#define MAX_WAIT_SECONDS       60 /* of one look at a job */
#define BODY_SECONDS           60 /* in which a client elsewhere must have sent its body */

struct server {
	struct daemon *daemon;
	struct door *local, *remote; /* remote may be NULL */
	struct call *calls;
	struct followers *followers;
	struct carried *carried;
	struct log_limit refused_limit;
};

/* One HTTP request. */
struct call {
	struct server *server;
	struct MHD_Connection *connection;
	const struct access_user *user; /* NULL: somebody on this host; valid only in a callback */
	char *body;
	size_t body_len;
	bool too_large;
	/* Waiting for a cmdlet: the connection is suspended. */
	struct request *request;
	unsigned seen_version; /* answers when the request's is another one */
	bool whole;            /* answers only when it is done */
	bool suspended;
	/* Waiting for a program in a guest: NULL, or its result. */
	struct guest_call *guest;
	int handed_fd; /* for the client, once it has been told; -1: nothing */
	struct loop_timer *timer;
	struct call *next;
};

/* Outlives its call where that ends first. */
struct guest_call {
	struct call *call; /* NULL: gone */
	bool done;
	int fd;
	struct error err;
};

typedef enum MHD_Result result_t;

/* A socket that is carried over the network. */
struct carried {
	struct server *server;
	struct door *door;
	struct MHD_UpgradeResponseHandle *handle;
	struct relay *relay;
	struct carried *next;
};

static bool is_remote(const struct call *call)
{
	return door_is_remote(door_of(call->connection));
}

/* ---- what is refused ---- */

static void log_refusal(struct server *server, const char *address, const char *user,
			const char *why)
{
	char text[700];

	if (!log_limit_allows(&server->refused_limit))
		return;
	snprintf(text, sizeof(text), "A request%s%s from %s was refused: %.500s",
		 user ? " of the user " : "", user ? user : "", address, why);
	events_write(
	    server->daemon->events,
	    &(struct event){ .kind = EVENT_REQUEST_REFUSED,
			     .message = text,
			     .data = json_pack("{s:s, s:s*}", "address", address, "user", user) });
}

static void on_rubbish(void *user, const char *address, const char *why)
{
	char text[200];

	snprintf(text, sizeof(text), "the connection: %s", why);
	log_refusal(user, address, NULL, text);
}

/* ---- answers ---- */

static unsigned status_of(enum err_code code)
{
	switch (code) {
	case ERR_INVALID:
	case ERR_LIMIT:
		return MHD_HTTP_BAD_REQUEST;
	case ERR_DENIED:
		return MHD_HTTP_FORBIDDEN;
	case ERR_NOT_FOUND:
		return MHD_HTTP_NOT_FOUND;
	case ERR_EXISTS:
	case ERR_BUSY:
	case ERR_STATE:
		return MHD_HTTP_CONFLICT;
	case ERR_UNSUPPORTED:
		return MHD_HTTP_NOT_IMPLEMENTED;
	default:
		return MHD_HTTP_INTERNAL_SERVER_ERROR;
	}
}

/* Takes json. */
static result_t answer(struct call *call, unsigned status, json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);
	struct MHD_Response *response;
	result_t r;

	json_decref(json);
	if (!text)
		return MHD_NO;
	response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	MHD_add_response_header(response, "Content-Type", "application/json");
	r = MHD_queue_response(call->connection, status, response);
	MHD_destroy_response(response);
	return r;
}

static result_t answer_error(struct call *call, unsigned status, const struct error *err)
{
	if (is_remote(call))
		log_refusal(call->server, door_address_of(call->connection),
			    call->user ? call->user->name : NULL, err->text);
	return answer(call, status ? status : status_of(err->code),
		      json_pack("{s:{s:s, s:s}}", "error", "code", err_code_name(err->code), "text",
				err->text));
}

static result_t refuse(struct call *call, unsigned status, enum err_code code, const char *text)
{
	struct error err;

	error_set(&err, code, "%s", text);
	return answer_error(call, status, &err);
}

/* ---- waiting for a request ---- */

static bool is_worth_telling(const struct call *call)
{
	const struct request *request = call->request;

	return request->done || (!call->whole && request->version != call->seen_version);
}

static void wake_call(struct call *call)
{
	if (!call->suspended)
		return;
	call->suspended = false;
	MHD_resume_connection(call->connection);
	door_run_soon(door_of(call->connection));
}

static void request_changed(void *user, struct request *request)
{
	struct server *server = user;

	for (struct call *call = server->calls; call; call = call->next)
		if (call->request == request && is_worth_telling(call))
			wake_call(call);
}

static void wait_expired(void *user)
{
	struct call *call = user;

	call->whole = false;
	call->seen_version = call->request->version - 1;
	wake_call(call);
}

static void attach(struct call *call, struct request *request)
{
	call->request = request;
	request->changed = request_changed;
	request->user = call->server;
}

/* A request is told of changes while a call looks at it; without one it may be forgotten. */
static void detach(struct call *call)
{
	struct request *request = call->request;

	call->request = NULL;
	for (struct call *c = call->server->calls; request && c; c = c->next)
		if (c->request == request)
			return;
	if (request)
		request->changed = NULL;
}

/* Is the argument there, with whatever value but 0? */
static bool has_argument(struct call *call, const char *name)
{
	const char *text =
	    MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, name);

	return text && strcmp(text, "0") != 0;
}

static result_t answer_request(struct call *call)
{
	struct request *request = call->request;
	unsigned status = request->done ? MHD_HTTP_OK : MHD_HTTP_ACCEPTED;
	json_t *answer_json = request_describe(request);

	/* What is kept is not gone by being looked at. */
	if (request->done && !request->kept)
		request->fetched = true;
	else if (request->done && has_argument(call, "receive"))
		request_receive(request);
	return answer(call, status, answer_json);
}

static result_t suspend(struct call *call, unsigned seconds)
{
	if (seconds) {
		if (!call->timer && loop_timer_new(call->server->daemon->loop, wait_expired, call,
						   &call->timer, NULL) < 0)
			return MHD_NO;
		loop_timer_arm(call->timer, clock_now_ns() + seconds * NS_PER_SEC);
	}
	call->suspended = true;
	MHD_suspend_connection(call->connection);
	return MHD_YES;
}

/* ---- POST /v1/cmdlet/NAME ---- */

static bool prefers_async(struct call *call)
{
	const char *prefer =
	    MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, "Prefer");

	return prefer && strstr(prefer, "respond-async");
}

static result_t post_cmdlet(struct call *call, const char *name)
{
	json_t *params = json_loadb(call->body ? call->body : "{}", call->body ? call->body_len : 2,
				    JSON_REJECT_DUPLICATES, NULL);
	struct request *request;
	struct error err;
	int r;

	if (!params)
		return refuse(call, 0, ERR_INVALID, "the body is not JSON");
	r = request_begin(call->server->daemon, call->user, name, params, &request, &err);
	json_decref(params);
	if (r < 0)
		return answer_error(call, 0, &err);
	attach(call, request);
	if (has_argument(call, "keep"))
		request_keep(request);
	if (request->done || prefers_async(call))
		return answer_request(call);
	call->whole = true;
	return suspend(call, 0);
}

/* ---- GET and DELETE /v1/job/ID ---- */

static unsigned argument(struct call *call, const char *name, unsigned dflt)
{
	const char *text =
	    MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, name);
	char *end;
	unsigned long value = text ? strtoul(text, &end, 10) : dflt;

	return text && (*end || end == text || value > UINT32_MAX) ? dflt : (unsigned)value;
}

static struct request *find_request(struct call *call, const char *id)
{
	char *end;
	unsigned long number = strtoul(id, &end, 10);
	struct request *request = *id && !*end && number <= UINT32_MAX
				      ? request_find(call->server->daemon, (unsigned)number)
				      : NULL;

	return request && request_is_of(request, call->user) ? request : NULL;
}

static result_t get_job(struct call *call, const char *id)
{
	struct request *request = find_request(call, id);
	unsigned wait = MIN(argument(call, "wait", 0), MAX_WAIT_SECONDS);

	if (!request)
		return refuse(call, 0, ERR_NOT_FOUND, "there is no such job");
	attach(call, request);
	call->seen_version = argument(call, "version", request->version - 1);
	if (is_worth_telling(call) || !wait)
		return answer_request(call);
	return suspend(call, wait);
}

static result_t delete_job(struct call *call, const char *id)
{
	struct request *request = find_request(call, id);

	if (!request)
		return refuse(call, 0, ERR_NOT_FOUND, "there is no such job");
	request_cancel(request);
	attach(call, request);
	return answer_request(call);
}

/* ---- sockets that are handed over ---- */

/* Hands the socket itself to a client on this host: it goes on when the daemon is restarted. */
static void send_descriptor(int to, int fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	char byte = 'C';
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	if (sendmsg(to, &msg, MSG_NOSIGNAL) < 0)
		log_warn("a socket could not be handed over: %s", strerror(errno));
}

static void carried_ended(void *user)
{
	struct carried *carried = user, **link = &carried->server->carried;

	while (*link != carried)
		link = &(*link)->next;
	*link = carried->next;
	MHD_upgrade_action(carried->handle, MHD_UPGRADE_ACTION_CLOSE);
	door_run_soon(carried->door);
	free(carried);
}

/* Takes fd. */
static void carry(struct server *server, struct MHD_Connection *connection,
		  struct MHD_UpgradeResponseHandle *handle, int socket, int fd, const char *extra,
		  size_t extra_size)
{
	struct carried *carried = malloc(sizeof(*carried));

	if (!carried)
		abort();
	*carried = (struct carried){ .server = server,
				     .door = door_of(connection),
				     .handle = handle,
				     .next = server->carried };
	server->carried = carried;
	carried->relay = relay_new(server->daemon->loop, socket, fd, carried_ended, carried);
	if (extra_size)
		relay_put(carried->relay, extra, extra_size);
}

static void end_carried(struct server *server, const struct door *door)
{
	struct carried *carried = server->carried;

	while (carried) {
		struct carried *next = carried->next;

		if (carried->door == door)
			relay_end(carried->relay);
		carried = next;
	}
}

static void upgraded(void *user, struct MHD_Connection *connection, void *state, const char *extra,
		     size_t extra_size, MHD_socket socket, struct MHD_UpgradeResponseHandle *handle)
{
	struct call *call = state;
	int fd = TAKE_FD(call->handed_fd);

	door_allow(connection, 0);
	if (door_is_remote(door_of(connection))) {
		carry(call->server, connection, handle, socket, fd, extra, extra_size);
	} else {
		send_descriptor(socket, fd);
		close(fd);
		MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
	}
}

/* Takes fd. A client that is gone before it could be told gets nothing: the call closes it. */
static result_t hand_over(struct call *call, const char *protocol, int fd)
{
	struct MHD_Response *response = MHD_create_response_for_upgrade(upgraded, NULL);
	result_t r;

	call->handed_fd = fd;
	MHD_add_response_header(response, "Upgrade", protocol);
	r = MHD_queue_response(call->connection, MHD_HTTP_SWITCHING_PROTOCOLS, response);
	MHD_destroy_response(response);
	return r;
}

static bool wants(struct call *call, const char *protocol)
{
	const char *wanted =
	    MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, "Upgrade");

	return wanted && strcasecmp(wanted, protocol) == 0;
}

static struct vm *find_vm(struct call *call, const char *name)
{
	struct vm *vm = vm_find(call->server->daemon, name);

	if (!vm)
		vm = vm_find_id(call->server->daemon, name);
	return vm && request_may_see(call->user, vm) ? vm : NULL;
}

/* What runs or reaches into virtual machines as they are. */
static bool is_operator(const struct call *call)
{
	return !call->user || call->user->role >= CMDLET_ROLE_OPERATOR;
}

/* ---- GET /v1/console/NAME ---- */

static int open_console(struct vm *vm, struct error *err)
{
	AUTO_FREE char *path = NULL;
	int fd = TAKE_FD(vm->early_console);

	if (fd >= 0)
		return fd;
	if (!vm->run)
		return error_set(err, ERR_STATE, "it is off");
	if (asprintf(&path, "%s/console1", vm->run->folder) < 0)
		abort();
	return sockets_connect(path, SOCK_STREAM, err);
}

static result_t get_console(struct call *call, const char *name)
{
	struct vm *vm = find_vm(call, name);
	struct error err;
	int fd;

	if (!vm)
		return refuse(call, 0, ERR_NOT_FOUND, "there is no virtual machine of this name");
	if (!is_operator(call) && !access_is_granted(call->user, vm->id))
		return refuse(call, 0, ERR_DENIED,
			      "this needs the role Operator, or Grant-VMConnectAccess");
	if (!wants(call, "oyako-console"))
		return refuse(call, MHD_HTTP_UPGRADE_REQUIRED, ERR_INVALID,
			      "a console needs 'Upgrade: oyako-console'");
	fd = open_console(vm, &err);
	return fd < 0 ? answer_error(call, 0, &err) : hand_over(call, "oyako-console", fd);
}

/* ---- GET /v1/socket/NAME?service=PORT-OR-GUID ---- */

static void guest_connected(void *user, int fd, const struct error *err)
{
	struct guest_call *guest = user;

	if (!guest->call) {
		if (fd >= 0)
			close(fd);
		free(guest);
		return;
	}
	guest->done = true;
	guest->fd = fd;
	if (err)
		guest->err = *err;
	wake_call(guest->call);
}

static result_t answer_guest(struct call *call)
{
	struct guest_call *guest = call->guest;

	return guest->fd < 0 ? answer_error(call, 0, &guest->err)
			     : hand_over(call, "oyako-socket", TAKE_FD(guest->fd));
}

static void detach_guest(struct call *call)
{
	struct guest_call *guest = TAKE(call->guest);

	if (!guest)
		return;
	guest->call = NULL;
	if (!guest->done)
		return;
	if (guest->fd >= 0)
		close(guest->fd);
	free(guest);
}

/* which: the service, from the call. granted_too: also for those who may use the console. */
static result_t connect_guest(struct call *call, const char *name, bool granted_too,
			      int (*which)(struct call *, const struct vm *, struct guid *,
					   struct error *))
{
	struct vm *vm = find_vm(call, name);
	struct guid service;
	struct error err;

	if (!vm)
		return refuse(call, 0, ERR_NOT_FOUND, "there is no virtual machine of this name");
	if (!is_operator(call) && !(granted_too && access_is_granted(call->user, vm->id)))
		return refuse(call, 0, ERR_DENIED, "this needs the role Operator");
	if (!wants(call, "oyako-socket"))
		return refuse(call, MHD_HTTP_UPGRADE_REQUIRED, ERR_INVALID,
			      "a guest's socket needs 'Upgrade: oyako-socket'");
	if (which(call, vm, &service, &err) < 0)
		return answer_error(call, 0, &err);
	call->guest = calloc(1, sizeof(*call->guest));
	if (!call->guest)
		abort();
	*call->guest = (struct guest_call){ .call = call, .fd = -1 };
	guest_socket_connect(vm, &service, guest_connected, call->guest);
	return suspend(call, 0);
}

static int any_service(struct call *call, const struct vm *vm, struct guid *ret, struct error *err)
{
	const char *text =
	    MHD_lookup_connection_value(call->connection, MHD_GET_ARGUMENT_KIND, "service");

	return guest_socket_parse(text ? text : "", ret, err);
}

static result_t get_socket(struct call *call, const char *name)
{
	return connect_guest(call, name, false, any_service);
}

/* ---- GET /v1/enhanced-session/NAME ---- */

static int session_service(struct call *call, const struct vm *vm, struct guid *ret,
			   struct error *err)
{
	return guest_socket_session(vm, ret, err);
}

static result_t get_session(struct call *call, const char *name)
{
	return connect_guest(call, name, true, session_service);
}

/* ---- POST /v1/refused/NAME ---- */

/* A client that a guest refused to sign in says so, for the event log. */
static result_t post_refused(struct call *call, const char *name)
{
	struct vm *vm = find_vm(call, name);
	json_t *body = json_loadb(call->body ? call->body : "", call->body_len, 0, NULL);
	const char *user = json_string_value(json_object_get(body, "user"));

	if (!vm || !user || !is_operator(call)) {
		json_decref(body);
		return refuse(call, 0, ERR_INVALID, "no such virtual machine, or no \"user\"");
	}
	vm->refused_sign_ins++;
	vm_event(
	    vm, EVENT_SIGN_IN_REFUSED,
	    json_pack("{s:s, s:i}", "user", user, "count", (int)vm->refused_sign_ins),
	    "The guest of '%s' refused to sign in '%.60s'; %u times since the service started.",
	    vm->config->name, user, vm->refused_sign_ins);
	json_decref(body);
	return answer(call, MHD_HTTP_OK, json_object());
}

/* ---- GET /v1/events, /v1/openapi.json, /v1/version ---- */

static result_t get_events(struct call *call)
{
	struct MHD_Response *response;
	result_t r;

	if (call->user && call->user->role < CMDLET_ROLE_READER)
		return refuse(call, 0, ERR_DENIED, "this needs the role Reader");
	response = followers_answer(call->server->followers, call->connection);
	if (!response)
		return refuse(call, 0, ERR_LIMIT, "too many follow the event log already");
	r = MHD_queue_response(call->connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return r;
}

static result_t get_version(struct call *call)
{
	return answer(call, MHD_HTTP_OK,
		      json_pack("{s:s, s:s, s:i}", "service", "oyakod", "version", OYAKO_VERSION,
				"pid", (int)getpid()));
}

/* ---- dispatch ---- */

static const char *after(const char *url, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(url, prefix, len) == 0 ? url + len : NULL;
}

static result_t dispatch(struct call *call, const char *url, const char *method)
{
	bool get = strcmp(method, "GET") == 0;
	const char *rest;

	if ((rest = after(url, "/v1/cmdlet/")) && strcmp(method, "POST") == 0)
		return post_cmdlet(call, rest);
	if ((rest = after(url, "/v1/job/")) && get)
		return get_job(call, rest);
	if ((rest = after(url, "/v1/job/")) && strcmp(method, "DELETE") == 0)
		return delete_job(call, rest);
	if ((rest = after(url, "/v1/console/")) && get)
		return get_console(call, rest);
	if ((rest = after(url, "/v1/socket/")) && get)
		return get_socket(call, rest);
	if ((rest = after(url, "/v1/enhanced-session/")) && get)
		return get_session(call, rest);
	if ((rest = after(url, "/v1/refused/")) && strcmp(method, "POST") == 0)
		return post_refused(call, rest);
	if (strcmp(url, "/v1/events") == 0 && get)
		return get_events(call);
	if (strcmp(url, "/v1/openapi.json") == 0 && get)
		return answer(call, MHD_HTTP_OK, cmdlet_openapi(OYAKO_VERSION));
	if (strcmp(url, "/v1/version") == 0 && get)
		return get_version(call);
	return refuse(call, MHD_HTTP_NOT_FOUND, ERR_NOT_FOUND, "there is nothing here");
}

/* ---- who asks ---- */

/* Is the other end of the socket our own user, or root? */
static bool is_trusted(struct call *call)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(call->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred peer;
	socklen_t len = sizeof(peer);
	char name[40];

	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return false;
	if (peer.uid == geteuid() || peer.uid == 0)
		return true;
	snprintf(name, sizeof(name), "with the number %u", (unsigned)peer.uid);
	log_refusal(call->server, "this host", name, "this service is another user's");
	return false;
}

/* TLS has proved that the client holds the certificate's key. */
static const struct access_user *user_by_certificate(struct call *call)
{
	size_t size = 0;
	const void *der = door_certificate_of(call->connection, &size);

	return der ? access_by_certificate(call->server->daemon->access, der, size, time(NULL))
		   : NULL;
}

static bool identify(struct call *call)
{
	const char *header;

	if (!is_remote(call))
		return is_trusted(call);
	header = MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, "Authorization");
	call->user = access_by_token(call->server->daemon->access, header, time(NULL));
	if (!call->user)
		call->user = user_by_certificate(call);
	return call->user != NULL;
}

static result_t refuse_stranger(struct call *call)
{
	if (is_remote(call))
		return refuse(call, MHD_HTTP_UNAUTHORIZED, ERR_DENIED,
			      "no token and no certificate that this host knows");
	return refuse(call, 0, ERR_DENIED, "this service is another user's");
}

/* ---- requests ---- */

static bool announces_too_much(struct call *call)
{
	const char *length =
	    MHD_lookup_connection_value(call->connection, MHD_HEADER_KIND, "Content-Length");

	return length && strtoull(length, NULL, 10) > MAX_BODY_BYTES;
}

static struct call *call_new(struct server *server, struct MHD_Connection *connection)
{
	struct call *call = calloc(1, sizeof(*call));

	if (!call)
		return NULL;
	call->server = server;
	call->handed_fd = -1;
	call->connection = connection;
	call->next = server->calls;
	server->calls = call;
	return call;
}

static void take_body(struct call *call, const char *data, size_t size)
{
	char *grown;

	if (call->too_large || call->body_len + size > MAX_BODY_BYTES) {
		call->too_large = true;
		return;
	}
	grown = realloc(call->body, call->body_len + size);
	if (!grown) {
		call->too_large = true;
		return;
	}
	memcpy(grown + call->body_len, data, size);
	call->body = grown;
	call->body_len += size;
}

/* The head is there. From elsewhere, a stranger's body, or one that is too large, is not waited
 * for. */
static result_t begin(struct call *call)
{
	door_allow(call->connection, BODY_SECONDS);
	if (!is_remote(call))
		return MHD_YES;
	if (!identify(call))
		return refuse_stranger(call);
	if (announces_too_much(call))
		return refuse(call, MHD_HTTP_CONTENT_TOO_LARGE, ERR_LIMIT,
			      "the body is larger than 1 MB");
	return MHD_YES;
}

static result_t on_request(void *user, struct MHD_Connection *connection, const char *url,
			   const char *method, const char *version, const char *data, size_t *size,
			   void **state)
{
	struct call *call = *state;

	if (!call) {
		call = call_new(user, connection);
		*state = call;
		return call ? begin(call) : MHD_NO;
	}
	if (*size) {
		take_body(call, data, *size);
		*size = 0;
		return MHD_YES;
	}
	door_allow(connection, 0);
	if (call->request) /* resumed */
		return answer_request(call);
	if (call->guest)
		return answer_guest(call);
	/* Again: meanwhile the user may have been removed. */
	if (!identify(call))
		return refuse_stranger(call);
	if (call->too_large)
		return refuse(call, MHD_HTTP_CONTENT_TOO_LARGE, ERR_LIMIT,
			      "the body is larger than 1 MB");
	return dispatch(call, url, method);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode code)
{
	struct call *call = *state, **link;
	struct server *server = user;

	if (!call)
		return;
	for (link = &server->calls; *link != call; link = &(*link)->next)
		;
	*link = call->next;
	detach(call);
	detach_guest(call);
	if (call->handed_fd >= 0)
		close(call->handed_fd);
	loop_timer_free(call->timer);
	free(call->body);
	free(call);
	*state = NULL;
}

/* ---- life ---- */

static int open_door(struct server *server, struct door_options *options, struct door **ret,
		     struct error *err)
{
	options->on_request = on_request;
	options->on_completed = on_completed;
	options->on_rubbish = on_rubbish;
	options->user = server;
	return door_new(server->daemon->loop, options, ret, err);
}

int server_new(struct daemon *daemon, int listen_fd, struct server **ret, struct error *err)
{
	struct door_options options = { .listen_fd = listen_fd,
					.max_connections = MAX_CONNECTIONS };
	struct server *server = calloc(1, sizeof(*server));
	int r;

	if (!server)
		abort();
	server->daemon = daemon;
	server->followers = followers_new(daemon);
	r = open_door(server, &options, &server->local, err);
	if (r < 0) {
		server_free(server);
		return r;
	}
	*ret = server;
	return 0;
}

int server_open_remote(struct server *server, int listen_fd, const char *certificate_pem,
		       const char *key_pem, struct error *err)
{
	struct door_options options = { .listen_fd = listen_fd,
					.max_connections = MAX_REMOTE_CONNECTIONS,
					.max_per_address = MAX_PER_ADDRESS,
					.certificate_pem = certificate_pem,
					.key_pem = key_pem };

	server_close_remote(server);
	return open_door(server, &options, &server->remote, err);
}

/* libmicrohttpd insists that nobody is suspended, or upgraded, when it ends. */
static void close_door(struct server *server, struct door *door)
{
	if (!door)
		return;
	end_carried(server, door);
	followers_end(server->followers, door);
	for (struct call *call = server->calls; call; call = call->next)
		if (call->suspended && door_of(call->connection) == door) {
			call->suspended = false;
			MHD_resume_connection(call->connection);
		}
	door_free(door);
}

void server_close_remote(struct server *server)
{
	close_door(server, TAKE(server->remote));
}

void server_free(struct server *server)
{
	if (!server)
		return;
	server_close_remote(server);
	close_door(server, server->local);
	followers_free(server->followers);
	free(server);
}

unsigned server_connections(const struct server *server)
{
	return door_connections(server->local) +
	       (server->remote ? door_connections(server->remote) : 0);
}

void server_leave_listening(struct server *server)
{
	door_leave_listening(server->local);
}

void server_end_streams(struct server *server)
{
	followers_end(server->followers, NULL);
}

bool server_is_open(const struct server *server)
{
	return server->remote != NULL;
}
