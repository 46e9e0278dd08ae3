/*
 * An NBD server: one disk, for any number of clients on stream sockets. Fixed newstyle negotiation,
 * structured replies, block status ("base:allocation"), flush, FUA, trim, write zeroes; several
 * connections see each other's writes, and a flush on one covers what was completed on all.
 * Requests and lengths are whole logical sectors of the disk.
 *
 * Clients are not trusted: what is no NBD ends the connection, what is NBD but can't be is answered
 * with its error, and a client holds no more memory than NBD_CLIENT_BYTES and one request.
 *
 * Belongs to the loop.
 */
#ifndef NBD_NBD_H
#define NBD_NBD_H

#include "blk/layers.h"

struct loop;
struct nbd_server;

#define NBD_MAX_CLIENTS  8u
#define NBD_MAX_PAYLOAD  (32u << 20) /* of a request; what clients may rely on */
#define NBD_CLIENT_BYTES (32u << 20)

struct nbd_events {
	/* A client has gone; `count` are left. May be NULL. */
	void (*client_gone)(void *user, unsigned count);
};

/* The disk is borrowed, with its layers, until nbd_server_free. */
int nbd_server_new(struct loop *loop, const struct blk_layers *disk,
		   const struct nbd_events *events, void *user, struct nbd_server **ret,
		   struct error *err);
/* Ends all connections when the requests in flight are done. */
void nbd_server_free(struct nbd_server *server);
/* Takes a listening socket, non-blocking. */
int nbd_server_listen(struct nbd_server *server, int fd, struct error *err);
/* Takes a connected one. */
int nbd_server_add(struct nbd_server *server, int fd, struct error *err);

#endif
