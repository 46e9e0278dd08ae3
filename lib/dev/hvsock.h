/*
 * VMBus sockets (hvsocket): stream connections between programs of the host and of the guest,
 * without a network. In the guest they are AF_VSOCK (Linux: hv_sock), on the host connected stream
 * sockets that the caller hands in, one for each connection.
 *
 * A service is a GUID; AF_VSOCK ports are the services PPPPPPPP-facb-11e6-bd58-64006a7986d3
 *(spec/hvsock.h). Who may connect to what is the caller's to decide: nothing is accepted by itself.
 *
 * Each direction ends by itself (shutdown of the socket, an empty packet of the guest). When both
 * have ended, or the host's program is gone and the guest got everything, the channel is rescinded:
 * that is what completes the guest's close. What the guest has not read then stays readable there.
 * A slow reader on either side stops the other one; nothing is buffered beyond one packet.
 *
 * Belongs to the worker's loop, and so do the callbacks. Descriptors that are handed in are taken,
 * also on failure, and made non-blocking.
 *
 *	hvsock_new(&config, &sockets, &err);
 *	hvsock_connect(sockets, &service, fd, 2 * NS_PER_SEC, done, user, &err);
 */
#ifndef DEV_HVSOCK_H
#define DEV_HVSOCK_H

#include "base/loop.h"
#include "vmbus/vmbus.h"

/* Connections of one VM, with those that are being made; more: -ERR_LIMIT, the guest is refused. */
#define HVSOCK_MAX 1024u

struct hvsock;

struct hvsock_config {
	struct loop *loop; /* borrowed */
	struct vmbus *bus; /* borrowed */
	void *user;
	/* The guest wants to connect to a service of the host. To be answered, now or later, by
	 * hvsock_accept or hvsock_refuse; after HVSOCK_ANSWER_NS it is refused. */
	void (*asked)(void *user, uint64_t ticket, const struct guid *service);
};

#define HVSOCK_ANSWER_NS (10 * UINT64_C(1000000000))

int hvsock_new(const struct hvsock_config *config, struct hvsock **ret, struct error *err);
/* Ends all connections. NULL allowed. */
void hvsock_free(struct hvsock *sockets);

/* Connects to a service of the guest. done is called once, not from within: 0, -ERR_TIMEOUT (nobody
 * listens there; the guest does not say so) or -ERR_CANCELLED. */
int hvsock_connect(struct hvsock *sockets, const struct guid *service, int fd, uint64_t timeout_ns,
		   void (*done)(void *user, int result), void *user, struct error *err);

/* Answers `asked`. -ERR_NOT_FOUND: it is no longer wanted. */
int hvsock_accept(struct hvsock *sockets, uint64_t ticket, int fd, struct error *err);
void hvsock_refuse(struct hvsock *sockets, uint64_t ticket);

#endif
