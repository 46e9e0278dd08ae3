/*
 * A port of a virtual switch: Ethernet frames with offload metadata, both ways, over one
 * SOCK_SEQPACKET socket. The worker has one end, the switch the other, and both use this module;
 * neither needs a right beyond the descriptor, and neither trusts the other.
 *
 * One message is struct port_header (private) and one frame of at most FRAME_MAX_BYTES. Both ends
 * take frames of that size with any offload metadata: who receives one finishes or segments it
 * (net/frame.h) where it must.
 *
 * Nothing here blocks or queues. A port takes frames while the socket has room, and says how many
 *it took; after a refusal it calls `writable` once. Frames that arrive are read only while the
 *owner takes them: the owner returns how many it took, and calls port_resume() when it wants the
 *rest. So a slow guest fills its socket, and the switch, whose own queue is bounded, drops
 *(vswitch.h).
 *
 * A port belongs to its loop.
 *
 *	port_new(loop, TAKE_FD(fd), &ops, dev, &port, &err);
 *	taken = port_send(port, frames, count);
 */
#ifndef NET_PORT_H
#define NET_PORT_H

#include "base/error.h"
#include "base/loop.h"
#include "net/frame.h"

#include <sys/uio.h>

struct port;

#define PORT_BATCH   32 /* frames that `received` gets at most in one call */
#define PORT_MAX_IOV 40 /* pieces of a frame to send */

struct port_frame {
	struct frame_offload offload;
	const struct iovec *iov;
	unsigned iov_count; /* received frames are in one piece */
};

struct port_ops {
	/* Returns how many of the frames were taken, from the first on; less than count: the rest
	 * comes again after port_resume(). Frames may be changed in place; they are gone after
	 * they are taken. Must not free the port. */
	unsigned (*received)(void *user, struct port_frame *frames, unsigned count);
	/* There is room again, after port_send() took less than it was given. */
	void (*writable)(void *user);
	/* The other side is gone or broke the protocol; called once; sending takes all and drops
	 * it. May free the port. */
	void (*closed)(void *user);
};

struct port_stats {
	uint64_t sent, sent_bytes, received, received_bytes, malformed;
};

/* Takes fd, also when it fails. ops are borrowed. */
int port_new(struct loop *loop, int fd, const struct port_ops *ops, void *user, struct port **ret,
	     struct error *err);
void port_free(struct port *port); /* NULL allowed */
/* Returns how many were taken; a frame of an impossible size counts as taken, and is dropped. */
unsigned port_send(struct port *port, const struct port_frame *frames, unsigned count);
/* Delivers what `received` refused, and reads on. Not from inside `received`. */
void port_resume(struct port *port);
bool port_is_open(const struct port *port);
/* Whether the other side is gone, before the loop has got to it. */
bool port_peer_gone(const struct port *port);
const struct port_stats *port_stats(const struct port *port);

/* A connected pair of sockets fit for two ports: for the daemon and for tests. */
int port_socketpair(int ret[static 2], struct error *err);

#endif
