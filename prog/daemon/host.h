/* What is kept of the host itself: host.json in the state folder. Members that this version does
 * not know stay. */
#ifndef DAEMON_HOST_H
#define DAEMON_HOST_H

#include "daemon.h"

#include <stdint.h>

/* The state folder, for the files in it: a descriptor that is the caller's. */
int host_open_state(const struct daemon *daemon, struct error *err);
/* Into the daemon: mac_prefix (drawn where there is none yet), the pool of MAC addresses,
 * api_address, vm_path, vhd_path, enhanced_sessions, metering_save_seconds. */
int host_load(struct daemon *daemon, struct error *err);
/* As they are in the daemon, now. */
int host_save(struct daemon *daemon, struct error *err);

/* vm_path and vhd_path. */
void host_free(struct daemon *daemon);

#define HOST_MAX_MACS             65536
#define HOST_MAX_METERING_SECONDS 86400
/* The pool as it is where none was set: 256 addresses of mac_prefix. */
void host_default_macs(struct daemon *daemon);
/* A pool from first to last? */
int host_check_macs(const uint8_t first[6], const uint8_t last[6], struct error *err);
/* As one number, in the order of the addresses. */
uint64_t host_mac_number(const uint8_t mac[6]);

#endif
