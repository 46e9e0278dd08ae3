/*
 * Connections between programs of the host and of a guest (VMBus sockets, in the guest AF_VSOCK).
 * The worker moves the bytes; the daemon hands it one end of a socket pair, or a connection to a
 * program of the host, and decides who may connect to what: guests only to the communication
 * services of their description that have a path.
 */
#ifndef DAEMON_GUEST_SOCKETS_H
#define DAEMON_GUEST_SOCKETS_H

#include "vm.h"

/* "1234" (a port) or a GUID. */
int guest_socket_parse(const char *text, struct guid *ret, struct error *err);

/* The service behind which the guest's RDP server listens; ERR_STATE where its enhanced sessions go
 * another way, ERR_DENIED where the host has none. */
int guest_socket_session(const struct vm *vm, struct guid *ret, struct error *err);

/* Connects to a service of the guest. done is called once, from the loop: with the host's end (the
 * callee's) and err NULL, or with -1. */
typedef void (*guest_socket_done)(void *user, int fd, const struct error *err);
void guest_socket_connect(struct vm *vm, const struct guid *service, guest_socket_done done,
			  void *user);

/* The worker's question whether its guest may connect to a service of the host. */
void guest_socket_asked(struct vm *vm, const json_t *event);

#endif
