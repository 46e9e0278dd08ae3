/*
 * The synthetic network adapter: NVSP and RNDIS on VMBus towards the guest, a switch port
 * (net/port.h) towards the network.
 *
 * Belongs to the worker's loop. Works without a port: then the guest sees an unplugged cable.
 *
 *	netvsp_new(&(struct netvsp_config){ .bus = bus, ..., .port_fd = fd }, &nic, &err);
 *
 * What the guest does wrong is answered by NVSP's or RNDIS's own status; what it does to itself
 * (unanswered receive packets, a full ring) stops only its own traffic.
 */
#ifndef DEV_NETVSP_H
#define DEV_NETVSP_H

#include "base/error.h"
#include "base/guid.h"
#include "base/loop.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

#include <stdbool.h>
#include <stdint.h>

struct netvsp;

struct netvsp_config {
	struct vmbus *bus;
	struct loop *loop;
	struct guid instance;
	uint8_t mac[6];
	unsigned vp_count; /* bounds the number of queues */
	int port_fd;       /* of a switch; taken, also on failure. -1: not connected */
	const char *name;  /* what the guest's administrator sees; NULL: "Network Adapter" */
	bool mac_change;   /* the guest may change its address */
};

struct netvsp_counters {
	uint64_t frames, bytes;
};

enum netvsp_cast { NETVSP_DIRECTED, NETVSP_MULTICAST, NETVSP_BROADCAST, NETVSP_CASTS };

/* Directions are the guest's. */
struct netvsp_stats {
	struct netvsp_counters sent[NETVSP_CASTS], received[NETVSP_CASTS];
	uint64_t sent_errors;        /* packets that RNDIS or the offload rules forbid */
	uint64_t sent_dropped;       /* no link */
	uint64_t received_errors;    /* frames that don't fit the guest's MTU, or damaged ones */
	uint64_t received_no_buffer; /* times that the guest had no free buffer */
};

struct netvsp_status {
	bool connected;   /* to a switch, and not unplugged */
	bool running;     /* the guest's driver is at work */
	uint32_t version; /* of NVSP; 0: none yet */
	uint32_t mtu;
	unsigned queues; /* channels that are open */
	uint8_t mac[6];  /* the current one */
};

int netvsp_new(const struct netvsp_config *config, struct netvsp **ret, struct error *err);
void netvsp_free(struct netvsp *nic); /* NULL allowed; rescinds its channels */

/* Plugs the cable into another switch (takes fd), or out (-1). */
int netvsp_set_port(struct netvsp *nic, int fd, struct error *err);
/* The cable at this end; up at first. */
void netvsp_set_link(struct netvsp *nic, bool up);
/* The guest's interface is up: it may send. */
bool netvsp_is_up(const struct netvsp *nic);
/* Completes all that the guest has sent so far, sent or not: to be called before netvsp_free while
 * the guest runs. */
void netvsp_drain(struct netvsp *nic);
/* Tells the guest that it may be on another network now: it asks for a new address. */
void netvsp_network_changed(struct netvsp *nic);

/*
 * State, while the VPs stand still. netvsp_quiesce gives up frames that the switch has not taken,
 * and takes nothing from guest or switch until netvsp_unquiesce; save between the two. What the
 * network sends meanwhile may be lost, as on any network.
 */
void netvsp_quiesce(struct netvsp *nic);
void netvsp_unquiesce(struct netvsp *nic);
void netvsp_save(struct netvsp *nic, struct state_out *out);
int netvsp_restore(struct netvsp *nic, struct state_in *in, struct error *err);

const struct netvsp_stats *netvsp_stats(const struct netvsp *nic);
void netvsp_status(const struct netvsp *nic, struct netvsp_status *ret);

#endif
