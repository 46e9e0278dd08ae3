/*
 * The API: JSON over HTTP/1.1 on a Unix socket, for the daemon's own user and root, and over TLS,
 * for the users that `access` lists (docs/api.md).
 */
#ifndef DAEMON_SERVER_H
#define DAEMON_SERVER_H

#include "daemon.h"

struct server;

/* Takes listen_fd. */
int server_new(struct daemon *daemon, int listen_fd, struct server **ret, struct error *err);
void server_free(struct server *server);
/* Listens for clients elsewhere. Takes listen_fd, borrows the texts. Another remote door is closed
 * first; neither may be called on behalf of a remote client. */
int server_open_remote(struct server *server, int listen_fd, const char *certificate_pem,
		       const char *key_pem, struct error *err);
void server_close_remote(struct server *server);
bool server_is_open(const struct server *server); /* for clients elsewhere */
/* The socket of server_new goes on with whoever else has it; nobody new is answered here. */
void server_leave_listening(struct server *server);
/* Answers that would never end are ended. */
void server_end_streams(struct server *server);
/* Connections that are open now. */
unsigned server_connections(const struct server *server);

#endif
