/*
 * One COM port of the guest, offered on a listening Unix stream socket to any number of clients
 * (connect-vm). A new client first gets the last CONSOLE_BACKLOG bytes; what any client types goes
 * to the guest. A client that does not read loses bytes, never the guest its time.
 */
#ifndef WORKER_CONSOLE_H
#define WORKER_CONSOLE_H

#include "base/error.h"
#include "base/loop.h"

#include <stddef.h>

#define CONSOLE_BACKLOG (64 * 1024)

struct console;

/* Takes listen_fd. input returns how many bytes the guest took. */
int console_new(struct loop *loop, int listen_fd,
		size_t (*input)(void *user, const void *data, size_t len), void *user,
		struct console **ret, struct error *err);
/* Closes the clients after giving them what is still to be sent, as far as they take it. */
void console_free(struct console *console);
void console_output(struct console *console, const void *data, size_t len);
/* The guest has room for input again. */
void console_resume_input(struct console *console);

#endif
