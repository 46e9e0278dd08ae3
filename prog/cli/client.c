#include "client.h"

#include "remote.h"
#include "start.h"

#include "base/macros.h"
#include "config/paths.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#define MAX_HEAD_BYTES  16384
#define MAX_BODY_BYTES  (256 * MIB)
#define MAX_EVENT_BYTES 65536
#define WAIT_SECONDS    30 /* of one look at a job */

struct client {
	struct remote *remote; /* NULL: this host */
	char *socket_path;
	bool start;
	int fd;
	const volatile bool *interrupted;
};

/* ---- the connection ---- */

static int connect_again(struct client *client, struct error *err)
{
	if (client->fd >= 0)
		close(client->fd);
	client->fd = client->remote ? remote_connect(client->remote, err)
				    : start_connect(client->socket_path, client->start, err);
	return client->fd < 0 ? client->fd : 0;
}

/* Root's command line speaks to the service of the whole machine where there is one. */
static bool is_for_system(void)
{
	const char *wanted = getenv("OYAKO_SYSTEM");

	if (wanted && wanted[0])
		return strcmp(wanted, "0") != 0;
	return geteuid() == 0 && access("/run/oyako/api.sock", F_OK) == 0;
}

static int find_socket(struct client *client, bool start, struct error *err)
{
	bool system = is_for_system();
	struct config_paths paths;
	int r = config_paths_init(&paths, system, err);

	if (r < 0)
		return r;
	client->start = start && !system; /* systemd starts that one */
	client->socket_path = TAKE(paths.socket);
	config_paths_done(&paths);
	return 0;
}

int client_open(const char *host, bool start, struct client **ret, struct error *err)
{
	struct client *client = calloc(1, sizeof(*client));
	int r;

	if (!client)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	client->fd = -1;
	r = host ? remote_new(host, &client->remote, err) : find_socket(client, start, err);
	if (r == 0)
		r = connect_again(client, err);
	if (r < 0) {
		client_close(client);
		return r;
	}
	*ret = client;
	return 0;
}

int client_open_like(const struct client *like, struct client **ret, struct error *err)
{
	return client_open(like->remote ? remote_name(like->remote) : NULL, false, ret, err);
}

void client_close(struct client *client)
{
	if (!client)
		return;
	if (client->fd >= 0)
		close(client->fd);
	remote_free(client->remote);
	free(client->socket_path);
	free(client);
}

static int send_all(struct client *client, const char *data, size_t len, struct error *err)
{
	while (len) {
		ssize_t n = send(client->fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, ERR_CANCELLED, "the management service went away");
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

/* One receive; a descriptor that comes along goes to *ret_fd (may be NULL). 0: closed. */
static ssize_t receive(struct client *client, char *data, size_t size, int *ret_fd)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { data, size };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };
	struct cmsghdr *cmsg;
	ssize_t n;

	do
		n = recvmsg(client->fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR && !(client->interrupted && *client->interrupted));
	cmsg = n >= 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (cmsg && cmsg->cmsg_level == SOL_SOCKET && cmsg->cmsg_type == SCM_RIGHTS) {
		int fd;

		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
		if (ret_fd && *ret_fd < 0)
			*ret_fd = fd;
		else
			close(fd);
	}
	return n;
}

/* ---- HTTP ---- */

struct response {
	char head[MAX_HEAD_BYTES + 1];
	size_t len; /* in head: the head itself, then what came behind it */
	size_t head_len;
	unsigned status;
	char *body;
	size_t body_len;
	int fd; /* came along; -1: none */
};

static int lost(struct client *client, ssize_t n, struct error *err)
{
	if (n < 0 && errno == EINTR && client->interrupted && *client->interrupted)
		return error_set(err, ERR_CANCELLED, "interrupted");
	return error_set(err, ERR_CANCELLED, "the management service went away");
}

/* exact: nothing of what comes behind the head, for that is somebody else's to read. */
static int read_head(struct client *client, bool exact, struct response *response,
		     struct error *err)
{
	char *end;

	while (!(end = strstr(response->head, "\r\n\r\n"))) {
		ssize_t n;

		if (response->len >= MAX_HEAD_BYTES)
			return error_set(err, ERR_CORRUPT, "the service's answer is no HTTP");
		n = receive(client, response->head + response->len,
			    exact ? 1 : MAX_HEAD_BYTES - response->len, &response->fd);
		if (n <= 0)
			return lost(client, n, err);
		response->len += (size_t)n;
		response->head[response->len] = '\0';
	}
	response->head_len = (size_t)(end + 4 - response->head);
	if (sscanf(response->head, "HTTP/1.1 %u", &response->status) != 1)
		return error_set(err, ERR_CORRUPT, "the service's answer is no HTTP");
	return 0;
}

static size_t content_length(const struct response *response)
{
	for (const char *line = response->head; line && line < response->head + response->head_len;
	     line = strstr(line, "\r\n")) {
		line += line == response->head ? 0 : 2;
		if (strncasecmp(line, "Content-Length:", 15) == 0)
			return strtoul(line + 15, NULL, 10);
	}
	return 0;
}

static int read_body(struct client *client, struct response *response, struct error *err)
{
	size_t have = response->len - response->head_len;

	response->body_len = content_length(response);
	if (response->body_len > MAX_BODY_BYTES || have > response->body_len)
		return error_set(err, ERR_CORRUPT, "the service's answer is too long");
	response->body = malloc(response->body_len + 1);
	if (!response->body)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	memcpy(response->body, response->head + response->head_len, have);
	while (have < response->body_len) {
		ssize_t n = receive(client, response->body + have, response->body_len - have, NULL);

		if (n <= 0)
			return lost(client, n, err);
		have += (size_t)n;
	}
	return 0;
}

/* The text of a request; NULL: no memory. */
static char *write_request(const struct client *client, const char *method, const char *path,
			   const char *headers, const char *body)
{
	const char *token = client->remote ? remote_token(client->remote) : NULL;
	char *text = NULL;

	if (asprintf(&text,
		     "%s %s HTTP/1.1\r\nHost: oyako\r\n%s%s%s%sContent-Length: %zu\r\n\r\n%s",
		     method, path, token ? "Authorization: Bearer " : "", token ? token : "",
		     token ? "\r\n" : "", headers, body ? strlen(body) : 0, body ? body : "") < 0)
		return NULL;
	return text;
}

static int exchange(struct client *client, const char *method, const char *path,
		    const char *headers, const char *body, struct response *response,
		    struct error *err)
{
	AUTO_FREE char *text = write_request(client, method, path, headers, body);
	bool exact = client->remote && strstr(headers, "Upgrade:");
	int r;

	if (!text)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	*response = (struct response){ .fd = -1 };
	r = send_all(client, text, strlen(text), err);
	if (r == 0)
		r = read_head(client, exact, response, err);
	if (r == 0 && response->status != 101)
		r = read_body(client, response, err);
	if (r < 0) {
		/* The next one begins afresh. */
		close(client->fd);
		client->fd = -1;
	}
	return r;
}

/* The error that the API answered with. */
static int take_error(const struct client *client, const json_t *answer, unsigned status,
		      struct error *err)
{
	const json_t *error = json_object_get(answer, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *text = json_string_value(json_object_get(error, "text"));

	if (!text)
		return error_set(err, ERR_INTERNAL, "the service answered with HTTP status %u",
				 status);
	if (status == 401 && client->remote)
		return error_set(err, ERR_DENIED,
				 "%.100s: %.150s; a token goes into '%.150s/token' or OYAKO_TOKEN",
				 remote_name(client->remote), text, remote_folder(client->remote));
	return error_set(err, err_code_from_name(code ? code : ""), "%s", text);
}

static int call(struct client *client, const char *method, const char *path, const char *headers,
		const json_t *body, json_t **ret, struct error *err)
{
	AUTO_FREE char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	struct response *response = malloc(sizeof(*response));
	json_t *answer;
	int r;

	if (!response || (body && !text)) {
		free(response);
		return error_set(err, ERR_NO_MEMORY, "no memory");
	}
	r = client->fd < 0 ? connect_again(client, err) : 0;
	if (r == 0)
		r = exchange(client, method, path, headers, text, response, err);
	if (r == 0) {
		answer = json_loadb(response->body, response->body_len, 0, NULL);
		if (!answer)
			r = error_set(err, ERR_CORRUPT, "the service's answer is no JSON");
		else if (response->status >= 400)
			r = take_error(client, answer, response->status, err);
		else
			*ret = json_incref(answer);
		json_decref(answer);
		free(response->body);
	}
	free(response);
	return r;
}

int client_call(struct client *client, const char *method, const char *path, const json_t *body,
		json_t **ret, struct error *err)
{
	return call(client, method, path, "", body, ret, err);
}

/* ---- cmdlets ---- */

static bool is_done(const json_t *answer)
{
	const char *state = json_string_value(json_object_get(answer, "state"));

	return state && strcmp(state, "done") == 0;
}

static int look_again(struct client *client, json_t **answer, struct error *err)
{
	char path[100];
	json_t *next;
	int r;

	snprintf(path, sizeof(path), "/v1/job/%lld?version=%lld&wait=%d",
		 (long long)json_integer_value(json_object_get(*answer, "job")),
		 (long long)json_integer_value(json_object_get(*answer, "version")), WAIT_SECONDS);
	r = client_call(client, "GET", path, NULL, &next, err);
	if (r < 0)
		return r;
	json_decref(*answer);
	*answer = next;
	return 0;
}

/* Ends the waiting; the connection was cut in the middle of an answer, so it is a new one. */
static int cancel(struct client *client, json_t **answer, struct error *err)
{
	char path[60];
	json_t *ignored;

	client->interrupted = NULL;
	snprintf(path, sizeof(path), "/v1/job/%lld",
		 (long long)json_integer_value(json_object_get(*answer, "job")));
	if (client_call(client, "DELETE", path, NULL, &ignored, err) < 0)
		return -(int)err->code;
	json_decref(ignored);
	return look_again(client, answer, err);
}

/* Only looks, so it may be asked twice. */
static bool is_harmless(const char *cmdlet)
{
	return strncasecmp(cmdlet, "Get-", 4) == 0;
}

int client_run(struct client *client, const char *cmdlet, const json_t *params,
	       void (*progress)(void *user, const json_t *progress), void *user,
	       const volatile bool *interrupted, json_t **ret, struct error *err)
{
	static const char headers[] = "Prefer: respond-async\r\nContent-Type: application/json\r\n";
	char path[100];
	json_t *answer;
	int r;

	snprintf(path, sizeof(path), "/v1/cmdlet/%.60s", cmdlet);
	r = call(client, "POST", path, headers, params, &answer, err);
	/* The service may have ended just then; the next one knows as much. */
	if (r == -ERR_CANCELLED && is_harmless(cmdlet))
		r = call(client, "POST", path, headers, params, &answer, err);
	if (r < 0)
		return r;
	client->interrupted = interrupted;
	while (r == 0 && !is_done(answer)) {
		const json_t *what = json_object_get(answer, "progress");

		if (what && progress)
			progress(user, what);
		/* It may have come while nothing was waited for. */
		if (client->interrupted && *client->interrupted) {
			r = cancel(client, &answer, err);
			continue;
		}
		r = look_again(client, &answer, err);
		if (r < 0 && interrupted && *interrupted)
			r = cancel(client, &answer, err);
	}
	client->interrupted = NULL;
	if (r < 0)
		json_decref(answer);
	else
		*ret = answer;
	return r;
}

int client_begin(struct client *client, const char *cmdlet, const json_t *params, unsigned *ret_id,
		 struct error *err)
{
	char path[100];
	json_t *answer;
	int r;

	snprintf(path, sizeof(path), "/v1/cmdlet/%.60s?keep=1", cmdlet);
	r = call(client, "POST", path, "Prefer: respond-async\r\n", params, &answer, err);
	if (r < 0)
		return r;
	*ret_id = (unsigned)json_integer_value(json_object_get(answer, "job"));
	json_decref(answer);
	return 0;
}

/* Everything but letters, digits and -._~ as %XX. */
static char *escape(const char *text)
{
	char *escaped = malloc(3 * strlen(text) + 1), *p = escaped;

	for (; escaped && *text; text++) {
		if (isalnum((unsigned char)*text) || strchr("-._~", *text))
			*p++ = *text;
		else
			p += sprintf(p, "%%%02X", (unsigned char)*text);
	}
	if (escaped)
		*p = '\0';
	return escaped;
}

/* ---- the event log ---- */

/* A chunked body, read a byte after the other: lines are few. */
struct stream {
	struct client *client;
	size_t left; /* of the chunk */
	bool first;
};

/* False: it is over. */
static bool stream_raw(struct stream *stream, char *ret)
{
	return receive(stream->client, ret, 1, NULL) == 1;
}

/* RFC 9112, 7.1: the size in hexadecimal, CR LF, so many bytes, CR LF. */
static bool next_chunk(struct stream *stream)
{
	char line[32], c;
	size_t len = 0;

	for (int i = 0; !stream->first && i < 2; i++)
		if (!stream_raw(stream, &c))
			return false;
	stream->first = false;
	while (stream_raw(stream, &c) && c != '\n')
		if (len < sizeof(line) - 1)
			line[len++] = c;
	line[len] = '\0';
	stream->left = strtoul(line, NULL, 16);
	return stream->left > 0;
}

static bool stream_byte(struct stream *stream, char *ret)
{
	if (!stream->left && !next_chunk(stream))
		return false;
	stream->left--;
	return stream_raw(stream, ret);
}

static int read_events(struct client *client, void (*heard)(void *user, const json_t *event),
		       void *user, struct error *err)
{
	struct stream stream = { client, 0, true };
	AUTO_FREE char *line = malloc(MAX_EVENT_BYTES);
	size_t len = 0;
	char c;

	if (!line)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	while (stream_byte(&stream, &c)) {
		json_t *event;

		if (c != '\n') {
			line[len] = c;
			len += len < MAX_EVENT_BYTES - 1;
			continue;
		}
		event = json_loadb(line, len, 0, NULL);
		if (event)
			heard(user, event);
		json_decref(event);
		len = 0;
	}
	return error_set(err, ERR_CANCELLED, "the management service went away");
}

static char *events_path(const json_t *params)
{
	const json_t *patterns = json_object_get(params, "VMName");
	const char *level = json_string_value(json_object_get(params, "Level"));
	char *path = NULL;
	size_t size;
	FILE *out = open_memstream(&path, &size);

	if (!out)
		return NULL;
	fprintf(out, "/v1/events?last=%lld",
		(long long)json_integer_value(json_object_get(params, "MaxEvents")));
	for (size_t i = 0; i < json_array_size(patterns); i++) {
		const char *pattern = json_string_value(json_array_get(patterns, i));
		AUTO_FREE char *escaped = escape(pattern);

		/* That would leave out what is of no VM. */
		if (escaped && strcmp(pattern, "*") != 0)
			fprintf(out, "&vm=%s", escaped);
	}
	if (level)
		fprintf(out, "&level=%s", level);
	fclose(out);
	return path;
}

int client_follow(struct client *client, const json_t *params,
		  void (*heard)(void *user, const json_t *event), void *user, struct error *err)
{
	AUTO_FREE char *path = events_path(params);
	AUTO_FREE struct response *response = calloc(1, sizeof(*response));
	AUTO_FREE char *text = path ? write_request(client, "GET", path, "", NULL) : NULL;
	json_t *answer;
	int r;

	if (!text || !response)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	response->fd = -1;
	r = send_all(client, text, strlen(text), err);
	if (r == 0)
		r = read_head(client, true, response, err);
	if (r < 0)
		return r;
	if (response->status == 200)
		return read_events(client, heard, user, err);
	r = read_body(client, response, err);
	if (r < 0)
		return r;
	answer = json_loadb(response->body, response->body_len, 0, NULL);
	r = take_error(client, answer, response->status, err);
	json_decref(answer);
	free(response->body);
	return r;
}

/* ---- sockets that are handed over ---- */

static int take_socket(struct client *client, struct response *response, struct error *err)
{
	json_t *answer;
	int r;

	if (response->status != 101) {
		answer = json_loadb(response->body, response->body_len, 0, NULL);
		r = take_error(client, answer, response->status, err);
		json_decref(answer);
		free(response->body);
		return r;
	}
	/* Over the network, the connection itself is the socket from now on. */
	if (client->remote)
		return TAKE_FD(client->fd);
	/* The descriptor comes with the byte after the head. */
	if (response->fd < 0) {
		char byte;

		receive(client, &byte, 1, &response->fd);
	}
	close(client->fd);
	client->fd = -1;
	if (response->fd < 0)
		return error_set(err, ERR_CORRUPT, "the service did not hand over the socket");
	return response->fd;
}

static int upgrade(struct client *client, const char *path, const char *protocol, struct error *err)
{
	struct response *response = malloc(sizeof(*response));
	int r = client->fd < 0 ? connect_again(client, err) : 0;
	char headers[80];

	if (!response)
		abort();
	snprintf(headers, sizeof(headers), "Connection: Upgrade\r\nUpgrade: %s\r\n", protocol);
	if (r == 0)
		r = exchange(client, "GET", path, headers, NULL, response, err);
	if (r == 0)
		r = take_socket(client, response, err);
	free(response);
	return r;
}

int client_console(struct client *client, const char *vm, struct error *err)
{
	AUTO_FREE char *name = escape(vm), *path = NULL;

	if (!name || asprintf(&path, "/v1/console/%s", name) < 0)
		abort();
	return upgrade(client, path, "oyako-console", err);
}

int client_session(struct client *client, const char *vm, struct error *err)
{
	AUTO_FREE char *name = escape(vm), *path = NULL;

	if (!name || asprintf(&path, "/v1/enhanced-session/%s", name) < 0)
		abort();
	return upgrade(client, path, "oyako-socket", err);
}

int client_socket(struct client *client, const char *vm, const char *service, struct error *err)
{
	AUTO_FREE char *name = escape(vm), *which = escape(service), *path = NULL;

	if (!name || !which || asprintf(&path, "/v1/socket/%s?service=%s", name, which) < 0)
		abort();
	return upgrade(client, path, "oyako-socket", err);
}
