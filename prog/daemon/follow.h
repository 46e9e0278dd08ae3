/*
 * The event log as it grows: an answer without an end, a JSON object a line for each event that is
 * wanted, and an empty line now and then, so that a client that is gone is noticed. One who reads
 * too slowly is cut off.
 */
#ifndef DAEMON_FOLLOW_H
#define DAEMON_FOLLOW_H

#include "daemon.h"

#include <microhttpd.h>

struct followers;

struct followers *followers_new(struct daemon *daemon);
/* None may be left: MHD has ended. NULL is allowed. */
void followers_free(struct followers *followers);
/* An answer for the connection, whose arguments say what is wanted: last (how many of the past),
 * vm (patterns, any number), level. The caller's; NULL: there are too many followers. */
struct MHD_Response *followers_answer(struct followers *followers,
				      struct MHD_Connection *connection);
/* Ends those of a door, or all (NULL). */
struct door;
void followers_end(struct followers *followers, const struct door *door);

#endif
