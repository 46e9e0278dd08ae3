/*
 * A DHCP server (RFC 2131) for the network behind NAT: addresses, router, name server, domain. It
 * only turns a request's frame into an answer's frame; who has the network sends it.
 *
 * A client's address follows from its MAC address, unless another one has that already: it stays
 * the same over restarts of VM and switch, with nothing kept on disk. When all addresses are taken,
 * the one whose lease ended longest ago is given again.
 *
 * Belongs to one thread.
 */
#ifndef NET_DHCP_H
#define NET_DHCP_H

#include "base/error.h"
#include "net/frame.h"

#define DHCP_MAX_LEASES    4096
#define DHCP_LEASE_SECONDS 86400
#define DHCP_REPLY_BYTES   600

struct dhcp;

struct dhcp_config {
	uint32_t server, netmask, nameserver; /* addresses in host byte order */
	uint32_t first, last;                 /* of those to lease; at most DHCP_MAX_LEASES are */
	uint8_t server_mac[FRAME_MAC_BYTES];
	const char *domain; /* NULL: none */
};

int dhcp_new(const struct dhcp_config *config, struct dhcp **ret, struct error *err);
void dhcp_free(struct dhcp *dhcp); /* NULL allowed */
/* Whether a complete frame is a DHCP client's: nobody else should get it. */
bool dhcp_is_request(const uint8_t *frame, size_t len);
/* Writes the answer to a request and returns its length; 0: none is due. */
size_t dhcp_answer(struct dhcp *dhcp, const uint8_t *frame, size_t len, uint64_t now_ns,
		   uint8_t ret[static DHCP_REPLY_BYTES]);

#endif
