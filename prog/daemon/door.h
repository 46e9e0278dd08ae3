/*
 * One place where the API is listened for: libmicrohttpd without threads of its own inside the
 * daemon's loop. A remote door speaks TLS before that (tls/tunnel.h), asks each client for a
 * certificate, too (without insisting), and gives nobody more time than he was promised: whoever is
 * a stranger could else hold a connection for ever by a byte now and then.
 */
#ifndef DAEMON_DOOR_H
#define DAEMON_DOOR_H

#include "base/error.h"
#include "base/loop.h"

#include <microhttpd.h>
#include <stdbool.h>

struct door;

struct door_options {
	int listen_fd;                             /* taken, also on failure */
	const char *certificate_pem;               /* NULL: not remote */
	const char *key_pem;                       /* borrowed, like the certificate */
	unsigned max_connections, max_per_address; /* the latter of a remote door */
	MHD_AccessHandlerCallback on_request;
	MHD_RequestCompletedCallback on_completed;
	/* Of a remote door: a connection ended that never sent a whole request. */
	void (*on_rubbish)(void *user, const char *address, const char *why);
	void *user; /* of the three */
};

int door_new(struct loop *loop, const struct door_options *options, struct door **ret,
	     struct error *err);
/* Nobody may be suspended, and nothing be handed over, when it closes. NULL is allowed. */
void door_free(struct door *door);
/* Of a door that is not remote: takes no new connection. Who knocks meanwhile is the next one's who
 * has the socket, too; those that have come in are still answered. */
void door_leave_listening(struct door *door);
/* After a connection was resumed. */
void door_run_soon(struct door *door);
unsigned door_connections(const struct door *door);
bool door_is_remote(const struct door *door);

/* Whom the connection belongs to. */
struct door *door_of(struct MHD_Connection *connection);
/* "192.0.2.1 port 4711"; static storage. */
const char *door_address_of(struct MHD_Connection *connection);
/* The certificate that the client has shown, and whose key it holds; NULL: none. */
const void *door_certificate_of(struct MHD_Connection *connection, size_t *ret_size);
/* What comes next must have come in so many seconds; 0: no hurry any more. */
void door_allow(struct MHD_Connection *connection, unsigned seconds);

#endif
