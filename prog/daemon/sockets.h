/* Unix sockets by path. Paths may be longer than a socket address holds: they are reached through
 * the descriptor of their folder. The results are close-on-exec and non-blocking. */
#ifndef DAEMON_SOCKETS_H
#define DAEMON_SOCKETS_H

#include "base/error.h"

/* type: SOCK_STREAM or SOCK_SEQPACKET. Replaces what is at path. Returns the descriptor or -code.
 */
int sockets_listen(const char *path, int type, struct error *err);
int sockets_connect(const char *path, int type, struct error *err);

#endif
