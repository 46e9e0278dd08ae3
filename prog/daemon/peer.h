/*
 * One connection to a worker or a switch: requests with an id, their answers, and events that come
 * by themselves (docs/worker-protocol.md). Belongs to the loop.
 *
 * The other side is not trusted: an answer to nothing is ignored, anything that is not a message
 * ends the connection. Every request is answered exactly once: by the peer, by the time-out, or
 * with ERR_CANCELLED when the connection ends or is freed.
 */
#ifndef DAEMON_PEER_H
#define DAEMON_PEER_H

#include "base/error.h"
#include "base/loop.h"

#include <jansson.h>
#include <stdint.h>

struct peer;

struct peer_events {
	void (*event)(void *user, const char *name, const json_t *event);
	/* The connection has ended; the peer still has to be freed, here or later. */
	void (*closed)(void *user);
};

/* err is NULL where the peer answered with "ok". Both are borrowed. */
typedef void (*peer_done)(void *user, const json_t *reply, const struct error *err);

/* Takes fd. */
int peer_new(struct loop *loop, int fd, const struct peer_events *events, void *user,
	     struct peer **ret, struct error *err);
void peer_free(struct peer *peer);
/* Takes what has arrived already: for when the process has ended. */
void peer_drain(struct peer *peer);
/* Takes request, borrows the descriptors. done may be NULL, and is never called from within. */
void peer_request(struct peer *peer, json_t *request, const int *fds, unsigned fd_count,
		  uint64_t timeout_ns, peer_done done, void *user);

#endif
