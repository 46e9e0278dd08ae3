/*
 * Enhanced sessions: any RDP client connects to a TCP port of this host, and through it to the RDP
 * server of the guest, over the VM's sockets. No network of the guest has a part in it.
 */
#ifndef CLI_SESSION_H
#define CLI_SESSION_H

#include "base/error.h"
#include "client.h"

/* Checks that the guest's server answers, listens on address ("ADDRESS", "ADDRESS:PORT", ":PORT";
 * NULL: a free port of 127.0.0.1), and serves until SIGINT or SIGTERM. ready (may be NULL) hears
 * where. 0 after a signal, or -code. */
int session_run(struct client *client, const char *vm, const char *address,
		void (*ready)(void *user, const char *host, const char *port), void *user,
		struct error *err);

#endif
