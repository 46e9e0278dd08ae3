/*
 * The worker's control socket: the daemon (or who holds a descriptor of it) connects, gets the
 * present state and from then on every event, and may send requests. The messages are described in
 * docs/worker-protocol.md. Belongs to the loop.
 */
#ifndef WORKER_CONTROL_H
#define WORKER_CONTROL_H

#include "base/error.h"
#include "base/loop.h"
#include "machine/machine.h"

#include <jansson.h>

struct control;
struct viewers;

/* Takes listen_fd; borrows viewers. */
int control_new(struct loop *loop, int listen_fd, const struct config_vm *config,
		struct viewers *viewers, struct control **ret, struct error *err);
void control_free(struct control *control);
/* From here on requests reach the machine. */
void control_set_machine(struct control *control, struct machine *machine);
/* Sends to all clients; takes event. */
void control_event(struct control *control, json_t *event);
/* The machine entered its critical state (text: why), or left it (NULL). */
void control_critical(struct control *control, const char *text);

/* Asks the clients whether the guest may connect to a service of the host. */
void control_socket_asked(struct control *control, uint64_t ticket, const struct guid *service);

/* The events that have content. */
json_t *control_kvp_event(struct machine *machine);
json_t *control_services_event(struct machine *machine);
json_t *control_memory_event(struct machine *machine);

#endif
