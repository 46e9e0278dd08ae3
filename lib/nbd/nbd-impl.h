/*
 * The two halves of a connection: negotiate.c until the client has chosen the disk, transmit.c from
 * then on; server.c moves the bytes. Private to this room.
 */
#ifndef NBD_NBD_IMPL_H
#define NBD_NBD_IMPL_H

#include "nbd/nbd.h"

#include "spec/nbd.h"

#include <stddef.h>

struct client;

/* Bytes to be sent: a head, and perhaps a payload that is freed afterwards. */
struct output {
	struct output *next;
	uint8_t head[64];
	size_t head_len;
	uint8_t *payload;
	size_t payload_len;
	size_t sent;
	uint64_t held_bytes; /* of the client's allowance, given back when it is sent */
	bool is_reply;       /* to a request in flight */
};

struct client {
	struct nbd_server *server;
	struct client *next;
	int fd;
	struct loop_fd *lfd;
	/* What is received next, and who takes it. */
	uint8_t *into;
	size_t wanted, have;
	void (*take)(struct client *client);
	struct output *first, **last;
	unsigned in_flight; /* requests whose answer is not sent yet */
	unsigned at_disk;   /* of them, those that the disk has */
	uint64_t held_bytes;
	unsigned busy; /* calls that still use it */
	bool ending;   /* no more is received; goes when all is answered */
	bool closed;   /* the socket is of no more use */
	/* negotiate.c */
	uint32_t flags;
	bool structured, block_status;
	union {
		uint32_t flags;
		struct nbd_option_request option;
		struct nbd_request_header request;
	} head;
	uint8_t data[NBD_MAX_STRING + 256]; /* of an option */
	struct request *request;            /* that is being received */
};

struct nbd_server {
	struct loop *loop;
	const struct blk_layers *disk;
	const struct nbd_events *events;
	void *user;
	int listen_fd;
	struct loop_fd *listen_watch;
	struct client *clients;
	unsigned client_count;
};

#define CONTEXT_ALLOCATION    "base:allocation"
#define CONTEXT_ALLOCATION_ID 1u

static inline const struct blk_info *disk_info(const struct client *client)
{
	return blk_info(client->server->disk->layers[0]);
}

/* ---- server.c ---- */

/* Receives that many bytes into `into`, then calls take. */
void client_want(struct client *client, void *into, size_t bytes,
		 void (*take)(struct client *client));
/* NULL: no memory, and the client is ended. */
struct output *client_output(struct client *client);
void client_send(struct client *client, struct output *output);
/* Sends head and data, both copied (head is at most 64 bytes). */
void client_send_copy(struct client *client, const void *head, size_t head_len, const void *data,
		      size_t data_len);
/* Answers what is in flight and goes. */
void client_end(struct client *client);
/* Broke the protocol: goes at once. */
void client_drop(struct client *client);
/* May be gone afterwards. */
void client_release(struct client *client);

/* ---- the halves ---- */

void negotiate_start(struct client *client);
void transmit_start(struct client *client);
uint16_t transmit_flags(const struct client *client);
/* The request that was being received, if any. */
void transmit_forget(struct client *client);

#endif
