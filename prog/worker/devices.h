/* The operations of the control socket that give devices to a VM and take them away
 * (docs/worker-protocol.md). Belongs to the loop. */
#ifndef WORKER_DEVICES_H
#define WORKER_DEVICES_H

#include "base/error.h"
#include "machine/machine.h"

#include <jansson.h>

/* "controller" and "location" of a request. */
int devices_get_place(const json_t *request, struct guid *controller, unsigned *location,
		      struct error *err);
bool devices_knows(const char *op);
/* Carries out a request that devices_knows. fds: IPC_MAX_FDS of them, those that came with it and
 * -1 from there on; set to -1 where one was taken. */
int devices_run(struct machine *machine, const char *op, const json_t *request, int *fds,
		struct error *err);

#endif
