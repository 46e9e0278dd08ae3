/*
 * A learning Ethernet switch between ports (net/port.h) and at most one uplink.
 *
 * Frames of a port with a MAC address come only from that address, unless the port may spoof; other
 * frames are dropped (Hyper-V: MacAddressSpoofing off). Such an address is known for good. Learned
 * addresses age, and a port can have only so many: a guest can't push out the others' to see their
 * frames.
 *
 * Each port has a queue of bounded size for frames that its socket has no room for. When that is
 * full, new frames to the port are dropped and counted; nobody waits for a slow port.
 *
 * The switch belongs to its loop.
 */
#ifndef NET_VSWITCH_H
#define NET_VSWITCH_H

#include "base/error.h"
#include "base/loop.h"
#include "net/frame.h"

#include <stdbool.h>
#include <stdint.h>

#define VSWITCH_MAX_PORTS        256
#define VSWITCH_MAX_LEARNED      64 /* addresses that one port may have */
#define VSWITCH_AGE_NS           (300 * UINT64_C(1000000000))
#define VSWITCH_PORT_QUEUE_BYTES (2u * 1024 * 1024)
#define VSWITCH_PORT_ID_BYTES    64

struct vswitch;

struct vswitch_port_config {
	const char *id; /* any text but empty, shorter than VSWITCH_PORT_ID_BYTES */
	bool has_mac;
	uint8_t mac[FRAME_MAC_BYTES];
	bool mac_spoofing;
};

struct vswitch_port_info {
	const char *id;
	uint64_t received, received_bytes; /* from the guest */
	uint64_t sent, sent_bytes;         /* to the guest */
	uint64_t dropped_queue, dropped_spoofed, malformed;
	unsigned learned;
};

/* What the switch sends up: the frame is complete (frame_finish), can be longer than any MTU when
 * it was a large TCP frame, and is valid during the call only. */
struct vswitch_uplink {
	void (*send)(void *user, const uint8_t *frame, size_t len);
	void *user;
};

int vswitch_new(struct loop *loop, struct vswitch **ret, struct error *err);
void vswitch_free(struct vswitch *sw); /* NULL allowed */

/* Takes fd, also when it fails. ERR_EXISTS: the id or the MAC is in use. Not from inside a callback
 * of the switch or of one of its ports. */
int vswitch_add_port(struct vswitch *sw, const struct vswitch_port_config *config, int fd,
		     struct error *err);
int vswitch_remove_port(struct vswitch *sw, const char *id, struct error *err);
unsigned vswitch_port_count(const struct vswitch *sw);
/* False: there is no port of that index (0 ..). */
bool vswitch_port_info(const struct vswitch *sw, unsigned index, struct vswitch_port_info *ret);
/* Called after a port went away by itself, because its peer closed. */
void vswitch_on_port_gone(struct vswitch *sw, void (*gone)(void *user, const char *id), void *user);

/* Copied. A zeroed one: no uplink. */
void vswitch_set_uplink(struct vswitch *sw, const struct vswitch_uplink *uplink);
/* A frame from the uplink; trusted to carry right checksums. Copied; sent by vswitch_flush. */
void vswitch_uplink_input(struct vswitch *sw, const uint8_t *frame, size_t len);
/* Sends what vswitch_uplink_input queued. */
void vswitch_flush(struct vswitch *sw);

#endif
