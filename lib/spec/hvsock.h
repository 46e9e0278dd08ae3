/*
 * VMBus sockets on the wire. A connection is a channel of its own: its class is the service, its
 * instance the other end's address. What flows are in-band packets with a pipe header; the reader
 * joins them to one stream. Little-endian and packed. No behaviour.
 */
#ifndef SPEC_HVSOCK_H
#define SPEC_HVSOCK_H

#include "base/bytes.h"
#include "base/guid.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Where the 120 user-defined bytes of an offer say who connects: after the pipe type. */
#define HVSOCK_OFFER_FROM_HOST 4

#define HVSOCK_PIPE_DATA 1

struct hvsock_spec_header {
	uint32_t type; /* HVSOCK_PIPE_DATA */
	uint32_t len;  /* of the bytes that follow; 0: this side sends nothing more */
} __attribute__((packed));
_Static_assert(sizeof(struct hvsock_spec_header) == 8, "hvsock_spec_header");

/* The most that a receiver must be ready to take at once. */
#define HVSOCK_DATA_MAX 16384u

/* An AF_VSOCK port is the service PPPPPPPP-facb-11e6-bd58-64006a7986d3. */
static inline struct guid hvsock_service_of_port(uint32_t port)
{
	return (struct guid)GUID_INIT(port, 0xfacb, 0x11e6, 0xbd, 0x58, 0x64, 0x00, 0x6a, 0x79,
				      0x86, 0xd3);
}

/* False: the service is no port. */
static inline bool hvsock_port_of_service(const struct guid *service, uint32_t *ret)
{
	struct guid port_0 = hvsock_service_of_port(0);

	if (memcmp(service->b + 4, port_0.b + 4, sizeof(port_0.b) - 4) != 0)
		return false;
	*ret = load_le32(service->b);
	return true;
}

#endif
