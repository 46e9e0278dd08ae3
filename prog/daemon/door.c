#include "door.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "tls/tunnel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define IDLE_SECONDS  60 /* without a byte, before it is closed */
#define HEAD_SECONDS  30 /* from the connection, or the last answer, to the end of a head */
#define SWEEP_SECONDS 2
#define ADDRESS_TEXT  80

/* One of the descriptors of a visitor in the loop. */
struct side {
	int fd;
	struct loop_fd *watch; /* NULL: nothing is wanted of it */
};

/* A connection. A local one is libmicrohttpd's alone. */
struct visitor {
	struct door *door;
	char address[ADDRESS_TEXT], host[INET6_ADDRSTRLEN];
	uint64_t deadline_ns; /* 0: none */
	unsigned requests;    /* whole heads that it sent */
	bool served;          /* libmicrohttpd has it */
	/* Of a remote one, while it is connected. */
	bool connected;
	gnutls_session_t session;
	struct tls_tunnel *tunnel; /* NULL: hands are being shaken */
	struct side net, plain;
	struct visitor *next, **link;
};

struct door {
	struct loop *loop;
	struct door_options options;
	bool remote;
	struct MHD_Daemon *http;
	struct loop_fd *watch;
	struct loop_timer *timer;
	struct visitor *visitors;
	/* Of a remote one. */
	gnutls_certificate_credentials_t credentials;
	struct loop_fd *listener;
	struct loop_timer *sweep;
	struct visitor *arriving; /* whose connection libmicrohttpd is given just now */
};

/* ---- running libmicrohttpd inside the loop ---- */

static void run_http(void *user)
{
	struct door *door = user;
	MHD_UNSIGNED_LONG_LONG timeout_ms;

	MHD_run(door->http);
	if (MHD_get_timeout(door->http, &timeout_ms) == MHD_YES)
		loop_timer_arm(door->timer, clock_now_ns() + timeout_ms * NS_PER_MSEC);
	else
		loop_timer_cancel(door->timer);
}

static void http_ready(void *user, uint32_t events)
{
	run_http(user);
}

void door_run_soon(struct door *door)
{
	loop_timer_arm(door->timer, clock_now_ns());
}

static void log_http(void *user, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
static void log_http(void *user, const char *fmt, va_list ap)
{
	char text[300];

	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	log_debug("http: %s", text);
}

/* ---- visitors ---- */

static struct visitor *visitor_new(struct door *door)
{
	struct visitor *visitor = calloc(1, sizeof(*visitor));

	if (!visitor)
		abort();
	visitor->door = door;
	snprintf(visitor->address, sizeof(visitor->address), "this host");
	visitor->next = door->visitors;
	visitor->link = &door->visitors;
	if (visitor->next)
		visitor->next->link = &visitor->next;
	door->visitors = visitor;
	return visitor;
}

/* When neither side has it any more. */
static void visitor_release(struct visitor *visitor)
{
	if (visitor->served || visitor->connected)
		return;
	*visitor->link = visitor->next;
	if (visitor->next)
		visitor->next->link = visitor->link;
	free(visitor);
}

static void on_connection(void *user, struct MHD_Connection *connection, void **context,
			  enum MHD_ConnectionNotificationCode code)
{
	struct door *door = user;
	struct visitor *visitor;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		visitor = door->remote ? door->arriving : visitor_new(door);
		visitor->served = true;
		*context = visitor;
	} else if (*context) {
		visitor = TAKE(*context);
		visitor->served = false;
		visitor_release(visitor);
	}
}

static struct visitor *visitor_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info =
	    MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info->socket_context;
}

struct door *door_of(struct MHD_Connection *connection)
{
	return visitor_of(connection)->door;
}

const char *door_address_of(struct MHD_Connection *connection)
{
	return visitor_of(connection)->address;
}

const void *door_certificate_of(struct MHD_Connection *connection, size_t *ret_size)
{
	const struct visitor *visitor = visitor_of(connection);
	const gnutls_datum_t *list;
	unsigned count = 0;

	if (!visitor->connected)
		return NULL;
	list = gnutls_certificate_get_peers(visitor->session, &count);
	if (!list || !count)
		return NULL;
	*ret_size = list[0].size;
	return list[0].data;
}

void door_allow(struct MHD_Connection *connection, unsigned seconds)
{
	struct visitor *visitor = visitor_of(connection);

	visitor->requests++;
	visitor->deadline_ns = seconds ? clock_now_ns() + seconds * NS_PER_SEC : 0;
}

/* ---- TLS ---- */

static void visitor_work(struct visitor *visitor);

static void net_ready(void *user, uint32_t events)
{
	visitor_work(user);
}

/* One that nothing is wanted of is not watched: that it has hung up would be reported for ever. */
static void watch_side(struct visitor *visitor, struct side *side, short wanted)
{
	uint32_t events =
	    (wanted & POLLIN ? EPOLLIN : 0u) | (wanted & POLLOUT ? (uint32_t)EPOLLOUT : 0u);
	struct error err;

	if (!events)
		loop_fd_remove(TAKE(side->watch));
	else if (side->watch)
		loop_fd_set(side->watch, events);
	else if (loop_fd_add(visitor->door->loop, side->fd, events, net_ready, visitor,
			     &side->watch, &err) < 0)
		log_warn("a connection from elsewhere is not watched: %s", err.text);
}

/* why: what is wrong with a connection that brought no request; NULL: nothing is. */
static void disconnect(struct visitor *visitor, const char *why)
{
	struct door *door = visitor->door;

	if (why || visitor->requests == 0)
		door->options.on_rubbish(door->options.user, visitor->address,
					 why ? why : "it ended without a whole request");
	loop_fd_remove(TAKE(visitor->net.watch));
	loop_fd_remove(TAKE(visitor->plain.watch));
	if (visitor->tunnel) {
		tls_tunnel_free(TAKE(visitor->tunnel));
		door_run_soon(door);
	} else {
		gnutls_deinit(visitor->session);
		close(visitor->net.fd);
	}
	visitor->connected = false;
	visitor_release(visitor);
}

/* TLS stands: the rest is libmicrohttpd's, behind a socket pair. False: it could not be. */
static bool let_in(struct visitor *visitor)
{
	const struct sockaddr_un nobody = { .sun_family = AF_UNIX };
	struct door *door = visitor->door;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		return false;
	door->arriving = visitor;
	if (MHD_add_connection(door->http, ends[1], (const struct sockaddr *)&nobody,
			       sizeof(nobody)) != MHD_YES) {
		close(ends[0]);
		return false;
	}
	visitor->plain.fd = ends[0];
	visitor->tunnel = tls_tunnel_new(visitor->session, true, visitor->net.fd, ends[0]);
	door_run_soon(door);
	return true;
}

static void shake_hands(struct visitor *visitor)
{
	int r = gnutls_handshake(visitor->session);
	char why[120];

	if (r == 0) {
		if (let_in(visitor))
			visitor_work(visitor);
		else
			disconnect(visitor, "there is no room for it");
	} else if (gnutls_error_is_fatal(r)) {
		snprintf(why, sizeof(why), "no TLS: %s", gnutls_strerror(r));
		disconnect(visitor, why);
	} else {
		watch_side(visitor, &visitor->net,
			   gnutls_record_get_direction(visitor->session) ? POLLOUT : POLLIN);
	}
}

static void visitor_work(struct visitor *visitor)
{
	short net, plain;

	if (!visitor->tunnel) {
		shake_hands(visitor);
	} else if (!tls_tunnel_step(visitor->tunnel)) {
		disconnect(visitor, NULL);
	} else {
		tls_tunnel_wants(visitor->tunnel, &net, &plain);
		watch_side(visitor, &visitor->net, net);
		watch_side(visitor, &visitor->plain, plain);
	}
}

/* ---- arrivals ---- */

static void set_address(struct visitor *visitor, const struct sockaddr_storage *address)
{
	const struct sockaddr_in6 *v6 = (const void *)address;
	const struct sockaddr_in *v4 = (const void *)address;
	unsigned port = 0;

	if (address->ss_family == AF_INET) {
		inet_ntop(AF_INET, &v4->sin_addr, visitor->host, sizeof(visitor->host));
		port = ntohs(v4->sin_port);
	} else if (address->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &v6->sin6_addr, visitor->host, sizeof(visitor->host));
		port = ntohs(v6->sin6_port);
	}
	snprintf(visitor->address, sizeof(visitor->address), "%s port %u", visitor->host, port);
}

/* Any certificate will do here, for it is known by its digest; so no names of authorities are sent,
 * from which a client would choose. */
static void start_session(struct visitor *visitor)
{
	gnutls_session_t session;

	if (gnutls_init(&session, GNUTLS_SERVER | GNUTLS_NONBLOCK) < 0 ||
	    gnutls_priority_set_direct(session, TLS_PRIORITIES, NULL) < 0)
		abort();
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, visitor->door->credentials);
	gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUEST);
	gnutls_certificate_send_x509_rdn_sequence(session, 1);
	gnutls_transport_set_int(session, visitor->net.fd);
	visitor->session = session;
}

/* Is there room for it? */
static bool is_welcome(const struct visitor *newcomer)
{
	const struct door_options *options = &newcomer->door->options;
	unsigned all = 0, same = 0;

	for (const struct visitor *v = newcomer->door->visitors; v; v = v->next) {
		all++;
		same += strcmp(v->host, newcomer->host) == 0;
	}
	return all <= options->max_connections && same <= options->max_per_address;
}

static void arrive(struct door *door, int fd, const struct sockaddr_storage *address)
{
	struct visitor *visitor = visitor_new(door);

	visitor->connected = true;
	visitor->net.fd = fd;
	visitor->deadline_ns = clock_now_ns() + HEAD_SECONDS * NS_PER_SEC;
	set_address(visitor, address);
	start_session(visitor);
	if (is_welcome(visitor))
		visitor_work(visitor);
	else
		disconnect(visitor, "there are too many connections");
}

static void someone_knocks(void *user, uint32_t events)
{
	struct sockaddr_storage address = { 0 };
	socklen_t len = sizeof(address);
	struct door *door = user;
	int fd = accept4(door->options.listen_fd, (struct sockaddr *)&address, &len,
			 SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		arrive(door, fd, &address);
	else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
		loop_fd_set(door->listener, 0); /* until the next sweep */
}

static void sweep(void *user)
{
	struct door *door = user;
	struct visitor *visitor = door->visitors;
	uint64_t now = clock_now_ns();

	while (visitor) {
		struct visitor *next = visitor->next;

		if (visitor->connected && visitor->deadline_ns && visitor->deadline_ns < now)
			disconnect(visitor, visitor->requests ? NULL : "it was too slow");
		visitor = next;
	}
	loop_fd_set(door->listener, EPOLLIN);
	loop_timer_arm(door->sweep, now + SWEEP_SECONDS * NS_PER_SEC);
}

/* ---- life ---- */

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode code)
{
	struct door *door = user;

	door_allow(connection, HEAD_SECONDS);
	door->options.on_completed(door->options.user, connection, state, code);
}

static struct MHD_Daemon *start_http(struct door *door)
{
	const struct door_options *options = &door->options;
	const unsigned common =
	    MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_ERROR_LOG;
	const struct MHD_OptionItem listen[] = {
		{ MHD_OPTION_LISTEN_SOCKET, options->listen_fd, NULL },
		{ MHD_OPTION_END, 0, NULL },
	};

	return MHD_start_daemon(
	    door->remote ? common | MHD_USE_NO_LISTEN_SOCKET : common, 0, NULL, NULL,
	    options->on_request, options->user, MHD_OPTION_EXTERNAL_LOGGER, log_http, NULL,
	    MHD_OPTION_CONNECTION_LIMIT, options->max_connections, MHD_OPTION_CONNECTION_TIMEOUT,
	    (unsigned)IDLE_SECONDS, MHD_OPTION_NOTIFY_COMPLETED, on_completed, door,
	    MHD_OPTION_NOTIFY_CONNECTION, on_connection, door, MHD_OPTION_ARRAY,
	    door->remote ? listen + 1 : listen, MHD_OPTION_END);
}

static int open_http(struct door *door, struct error *err)
{
	const union MHD_DaemonInfo *info;
	int r;

	door->http = start_http(door);
	if (!door->http)
		return error_set(err, ERR_INTERNAL, "the HTTP server could not be started");
	info = MHD_get_daemon_info(door->http, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		return error_set(err, ERR_INTERNAL, "the HTTP server has no epoll descriptor");
	r = loop_timer_new(door->loop, run_http, door, &door->timer, err);
	if (r == 0)
		r = loop_fd_add(door->loop, info->epoll_fd, EPOLLIN, http_ready, door, &door->watch,
				err);
	return r;
}

static int open_tls(struct door *door, struct error *err)
{
	const char *certificate = door->options.certificate_pem, *key = door->options.key_pem;
	const gnutls_datum_t texts[2] = {
		{ (unsigned char *)certificate, (unsigned)strlen(certificate) },
		{ (unsigned char *)key, (unsigned)strlen(key) },
	};
	int r;

	if (gnutls_certificate_allocate_credentials(&door->credentials) < 0)
		abort();
	r = gnutls_certificate_set_x509_key_mem(door->credentials, &texts[0], &texts[1],
						GNUTLS_X509_FMT_PEM);
	if (r < 0)
		return error_set(err, ERR_INVALID, "the host's certificate and its key: %s",
				 gnutls_strerror(r));
	r = loop_fd_add(door->loop, door->options.listen_fd, EPOLLIN, someone_knocks, door,
			&door->listener, err);
	if (r == 0)
		r = loop_timer_new(door->loop, sweep, door, &door->sweep, err);
	if (r == 0)
		sweep(door);
	return r;
}

int door_new(struct loop *loop, const struct door_options *options, struct door **ret,
	     struct error *err)
{
	struct door *door = calloc(1, sizeof(*door));
	int r;

	if (!door)
		abort();
	door->loop = loop;
	door->options = *options;
	door->remote = options->certificate_pem != NULL;
	r = open_http(door, err);
	if (r == 0 && door->remote)
		r = open_tls(door, err);
	if (r < 0) {
		/* A local one's is libmicrohttpd's, once that runs. */
		if (!door->http)
			close(options->listen_fd);
		door_free(door);
	} else {
		*ret = door;
	}
	return r;
}

static void disconnect_all(struct door *door)
{
	while (door->visitors) {
		door->visitors->requests = 1; /* it is not its fault */
		disconnect(door->visitors, NULL);
	}
}

void door_free(struct door *door)
{
	if (!door)
		return;
	loop_fd_remove(door->listener);
	loop_timer_free(door->sweep);
	loop_fd_remove(door->watch);
	if (door->http)
		MHD_stop_daemon(door->http);
	disconnect_all(door);
	loop_timer_free(door->timer);
	if (door->credentials)
		gnutls_certificate_free_credentials(door->credentials);
	if (door->remote && door->http)
		close(door->options.listen_fd);
	free(door);
}

void door_leave_listening(struct door *door)
{
	int fd = MHD_quiesce_daemon(door->http);

	if (fd >= 0)
		close(fd);
}

unsigned door_connections(const struct door *door)
{
	const union MHD_DaemonInfo *info =
	    MHD_get_daemon_info(door->http, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);

	return info ? info->num_connections : 0;
}

bool door_is_remote(const struct door *door)
{
	return door->remote;
}
