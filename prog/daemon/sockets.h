/* Unix sockets by path. Paths may be longer than a socket address holds: they are reached through
 * the descriptor of their folder. The results are close-on-exec and non-blocking. */
#ifndef DAEMON_SOCKETS_H
#define DAEMON_SOCKETS_H

#include "base/error.h"

#include <sys/types.h>

/* type: SOCK_STREAM or SOCK_SEQPACKET. Replaces what is at path. Returns the descriptor or -code.
 */
int sockets_listen(const char *path, int type, struct error *err);
int sockets_connect(const char *path, int type, struct error *err);

/* Which file a name stood for; of zeros: none. */
struct sockets_file {
	dev_t device;
	ino_t inode;
};
struct sockets_file sockets_file_at(const char *path);
/* Only if it still is that file: somebody may have made the folder anew, and another service
 * listens there. */
void sockets_unlink(const char *path, struct sockets_file own);

#endif
