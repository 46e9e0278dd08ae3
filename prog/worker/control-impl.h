/*
 * Private to the control socket.
 * control.c        clients, messages, the operations on the machine as a whole
 * control-guest.c  the operations that go to programs and services in the guest
 */
#ifndef WORKER_CONTROL_IMPL_H
#define WORKER_CONTROL_IMPL_H

#include "control.h"

#include "ipc/ipc.h"

#define MAX_CLIENTS 8

struct client {
	struct control *control;
	uint64_t number; /* never used again */
	int fd;
	struct loop_fd *lfd;
};

struct control {
	struct loop *loop;
	int listen_fd;
	struct loop_fd *listen_lfd;
	const struct config_vm *config;
	struct machine *machine;
	struct viewers *viewers;
	struct client *clients[MAX_CLIENTS];
	unsigned client_count;
	uint64_t last_client;
	/* The request that is being carried out. */
	uint64_t calling; /* the client's number */
	json_t *calling_id;
	int fds[IPC_MAX_FDS]; /* came with it; -1: none, or taken */
	struct copy *copy;    /* the file copy to the guest that is under way */
};

/* Returned by an operation that answers later. */
#define CONTROL_LATER 1

struct control_operation {
	const char *name;
	/* 0: done, *ret (may stay NULL) is the answer; CONTROL_LATER; or an error. */
	int (*run)(struct control *control, json_t *request, json_t **ret, struct error *err);
};

extern const struct control_operation control_guest_operations[];
extern const size_t control_guest_operation_count;

/* An answer that is owed; inside an operation only. */
struct control_later {
	struct control *control;
	uint64_t client;
	json_t *id;
};
struct control_later *control_later(struct control *control);
/* Sends it, if the client is still there. Takes later, and result (may be NULL). err NULL: it went
 * well. */
void control_answer(struct control_later *later, json_t *result, const struct error *err);
/* Somebody waits for it still. */
bool control_later_wanted(const struct control_later *later);
/* For an operation that fails at once after all. */
void control_later_drop(struct control_later *later);

/* The first descriptor that came with the request, now the caller's; or -code. */
int control_take_fd(struct control *control, struct error *err);

#endif
