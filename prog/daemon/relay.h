/*
 * Carries bytes between two connected stream sockets until one of them ends and what it said has
 * been delivered. For consoles that go over the network: to a client on this host the socket itself
 * is handed.
 */
#ifndef DAEMON_RELAY_H
#define DAEMON_RELAY_H

#include "base/loop.h"

#include <stddef.h>

struct relay;

/* Takes b, and a as far as closing goes: `ended` is called once, must give up a, and may not use
 * the relay any more. */
struct relay *relay_new(struct loop *loop, int a, int b, void (*ended)(void *user), void *user);
/* Ends it now; calls `ended`. */
void relay_end(struct relay *relay);
/* What the client had sent already, before there was a relay. */
void relay_put(struct relay *relay, const char *data, size_t size);

#endif
