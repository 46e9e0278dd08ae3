/*
 * The NAT uplink of a switch: a small router in user space, so that guests reach what the host
 * reaches, without rights on the host. Address translation and DNS are libslirp's, DHCP is ours
 * (net/dhcp.h).
 *
 * On subnet a.b.c.0/24: .1 is the gateway, and the host itself (its services on 127.0.0.1, unless
 * host_loopback is off); .2 answers DNS from the host's resolver; DHCP leases start at .16.
 *
 * libslirp wants to be asked before and after each poll(), so the process runs nat_step() in place
 * of loop_step(). Belongs to the loop.
 */
#ifndef NET_NAT_H
#define NET_NAT_H

#include "base/error.h"
#include "base/loop.h"
#include "net/vswitch.h"

#include <netinet/in.h>

struct nat;

struct nat_config {
	struct in_addr network; /* network byte order */
	unsigned prefix_bits;   /* 16 to 28 */
	bool ipv6;
	struct in6_addr network6; /* of 64 bits */
	bool host_loopback;
	const char *domain; /* NULL: none */
};

/* "172.30.5.0/24"; false if it is not a usable network. */
bool nat_parse_subnet(const char *text, struct in_addr *ret_network, unsigned *ret_prefix_bits);

/* Becomes sw's uplink; sw must outlive it. config is copied. */
int nat_new(struct loop *loop, struct vswitch *sw, const struct nat_config *config,
	    struct nat **ret, struct error *err);
void nat_free(struct nat *nat); /* NULL allowed */
/* As loop_step(), with libslirp's descriptors and timers beside the loop's. nat may be NULL. */
void nat_step(struct nat *nat, struct loop *loop, int timeout_ms);

#endif
