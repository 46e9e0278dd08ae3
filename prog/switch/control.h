/*
 * The daemon's requests to the switch, on the control socket (JSON messages of ipc/ipc.h):
 *
 *	{"op":"configure", "id":1, "name":"Default Switch", "type":"nat", "subnet":"172.30.5.0/24",
 *	 "subnet6":"fd00:...::", "host_loopback":true, "keep":false}
 *	{"op":"add-port", "id":2, "port":"<id>", "mac":"00:15:5d:00:00:01", "mac_spoofing":false}
 *	                                          and one descriptor: the switch's end of the port
 *	{"op":"remove-port", "id":3, "port":"<id>"}
 *	{"op":"status", "id":4}
 *
 * Answers: {"id":1, "ok":true, ...} or {"id":1, "error":{"code":"exists", "text":"..."}}. Event:
 * {"event":"port-gone", "port":"<id>"}, when the other end of a port closed.
 *
 * "type" is "nat" or "private" (no uplink). With "keep" the switch lives on without the daemon
 *while it has ports; without it, it ends when the control socket closes. "configure" comes once,
 *first.
 */
#ifndef SWITCH_CONTROL_H
#define SWITCH_CONTROL_H

#include "base/error.h"
#include "base/loop.h"
#include "net/nat.h"
#include "net/vswitch.h"

struct control {
	struct loop *loop;
	int fd; /* -1: the daemon is gone */
	struct loop_fd *watch;
	struct vswitch *sw;
	struct nat *nat; /* NULL: private, or not configured yet */
	char name[128];
	const char *type; /* NULL: not configured yet */
	bool keep;
	bool finished; /* the program is to end */
};

/* Takes fd, also on failure. */
int control_init(struct control *control, struct loop *loop, int fd, struct error *err);
void control_done(struct control *control);

#endif
