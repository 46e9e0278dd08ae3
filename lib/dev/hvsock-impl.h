/*
 * Private to hvsock.
 * hvsock.c         connections: who asks, offers, time-outs, the end
 * hvsock-stream.c  what flows through an open one
 */
#ifndef DEV_HVSOCK_IMPL_H
#define DEV_HVSOCK_IMPL_H

#include "dev/hvsock.h"
#include "spec/hvsock.h"

enum hvsock_state {
	HVSOCK_ASKED,   /* by the guest; no answer of the host yet */
	HVSOCK_OFFERED, /* the guest has not opened the channel yet */
	HVSOCK_OPEN,
};

struct hvsock_socket {
	struct hvsock *owner;
	struct hvsock_socket *next, **link;
	enum hvsock_state state;
	struct guid service, endpoint;
	uint64_t ticket;
	struct vmbus_channel *channel;        /* NULL: not offered */
	struct loop_timer *timer;             /* until it is open */
	void (*done)(void *user, int result); /* owed to who connects from the host */
	void *user;

	int fd; /* -1: not there yet */
	struct loop_fd *watch;
	bool host_left; /* its end of the socket is closed both ways */
	bool host_deaf; /* reads nothing more: what the guest sends is dropped */

	bool host_ended; /* sends nothing more */
	bool end_sent;   /* and the guest knows */
	uint8_t to_guest[HVSOCK_DATA_MAX];
	uint32_t to_guest_at, to_guest_end;
	uint32_t packet_max; /* data in a packet that fits into the guest's ring */

	struct loop_timer *linger; /* until the guest's ring is looked at again */
	uint64_t linger_ns;

	bool guest_ended;
	bool end_passed;  /* and the host's program knows */
	uint8_t *to_host; /* what the guest sent and the host's program has not got yet; owned */
	uint32_t to_host_at, to_host_end, to_host_size;
};

struct hvsock {
	struct hvsock_config config;
	struct hvsock_socket *first;
	unsigned count;
	uint64_t last_ticket;
};

/* hvsock.c: withdraws the channel, closes the socket, frees. */
void hvsock_end(struct hvsock_socket *socket);

/* hvsock-stream.c */
int hvsock_stream_start(struct hvsock_socket *socket, struct error *err);
/* Moves what can be moved; may end the connection. */
void hvsock_stream_run(struct hvsock_socket *socket);

#endif
