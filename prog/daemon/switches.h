/*
 * The virtual switches. There is one so far, "Default Switch": NAT, served by one oyako-switch
 * process that is started when the first adapter needs it and ends when nobody holds its sockets
 * any more. It outlives the daemon, with the VMs that it serves, and the next daemon finds it
 * again. When it dies, a new one is started for the VMs that run, and their adapters are connected
 * to it.
 *
 * Runtime folder: switch.sock (for the next daemon), switch.json (the process), switch.log.
 */
#ifndef DAEMON_SWITCHES_H
#define DAEMON_SWITCHES_H

#include "config/config.h"
#include "daemon.h"

#include <jansson.h>

#define SWITCHES_DEFAULT "Default Switch"

int switches_new(struct daemon *daemon, struct switches **ret, struct error *err);
void switches_free(struct switches *switches);
/* Is there a process, so that ports which it gave out still work? */
bool switches_running(const struct switches *switches);
/* Soon connects the VMs whose ports are lost (run_ports_lost) to a new process. */
void switches_restore_ports(struct switches *switches);
bool switches_exists(const char *name);
/* Get-VMSwitch's objects. */
json_t *switches_describe(struct switches *switches);

/* Asks the switch of an adapter for a port; done gets the worker's end of it (taken), or err. */
void switches_add_port(struct switches *switches, const struct config_nic *nic,
		       void (*done)(void *user, int fd, const struct error *err), void *user);
void switches_remove_port(struct switches *switches, const struct config_nic *nic);

#endif
