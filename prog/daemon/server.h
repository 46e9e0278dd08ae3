/*
 * The API: JSON over HTTP/1.1 on a Unix socket (docs/api.md), by libmicrohttpd without threads of
 * its own: it runs inside the daemon's loop. Only the daemon's own user and root are served.
 */
#ifndef DAEMON_SERVER_H
#define DAEMON_SERVER_H

#include "daemon.h"

struct server;

/* Takes listen_fd. */
int server_new(struct daemon *daemon, int listen_fd, struct server **ret, struct error *err);
void server_free(struct server *server);
/* Connections that are open now. */
unsigned server_connections(const struct server *server);

#endif
