/* What is kept of the host itself: host.json in the state folder. Members that this version does
 * not know stay. */
#ifndef DAEMON_HOST_H
#define DAEMON_HOST_H

#include "daemon.h"

/* The state folder, for the files in it: a descriptor that is the caller's. */
int host_open_state(const struct daemon *daemon, struct error *err);
/* Into the daemon: mac_prefix (drawn where there is none yet), api_address, enhanced_sessions. */
int host_load(struct daemon *daemon, struct error *err);
/* As they are in the daemon, now. */
int host_save(struct daemon *daemon, struct error *err);

#endif
