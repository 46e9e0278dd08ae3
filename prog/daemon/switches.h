/*
 * The virtual switches. There is one so far, "Default Switch": NAT, served by one oyako-switch
 * process that is started when the first adapter needs it and ends when nobody holds its sockets
 * any more. It outlives the daemon, with the VMs that it serves.
 */
#ifndef DAEMON_SWITCHES_H
#define DAEMON_SWITCHES_H

#include "config/config.h"
#include "daemon.h"

#include <jansson.h>

#define SWITCHES_DEFAULT "Default Switch"

int switches_new(struct daemon *daemon, struct switches **ret, struct error *err);
void switches_free(struct switches *switches);
bool switches_exists(const char *name);
/* Get-VMSwitch's objects. */
json_t *switches_describe(struct switches *switches);

/* Asks the switch of an adapter for a port; done gets the worker's end of it (taken), or err. */
void switches_add_port(struct switches *switches, const struct config_nic *nic,
		       void (*done)(void *user, int fd, const struct error *err), void *user);
void switches_remove_port(struct switches *switches, const struct config_nic *nic);

#endif
