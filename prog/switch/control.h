/*
 * The daemon's requests to the switch, on the control socket: docs/switch-protocol.md.
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
	int listen_fd; /* where the next one connects; -1: it can't */
	struct loop_fd *listen_watch;
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
