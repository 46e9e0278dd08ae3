/*
 * A change of a virtual machine's devices: the same to its description and, where it runs, by its
 * worker. What is added is in the description first, so that nobody else takes its place, and is
 * taken out again if the worker refuses it; all else is done by the worker first. A daemon that
 *ends between the two leaves a description that holds from the next start on.
 *
 *	change = change_new(request, vm);	(holds the request)
 *	change->mutate = ...; change->ask = ...;
 *	change_run(change);			(ends in change_end, now or later)
 */
#ifndef DAEMON_CHANGE_H
#define DAEMON_CHANGE_H

#include "request.h"

struct change {
	struct request *request;
	struct vm *vm;
	int (*mutate)(struct change *change, struct config_vm *config, struct error *err);
	/* The worker refused after something was done already: what holds then. NULL: nothing was.
	 */
	int (*refused)(struct change *change, struct config_vm *config, struct error *err);
	/* Asks the worker; change_answered follows. */
	void (*ask)(struct change *change);
	json_t *(*show)(struct change *change); /* NULL: shown is it */
	json_t *shown;
	bool early; /* the description first */
	bool asked; /* the worker */

	/* What it is about; each kind of change uses some of these. */
	struct guid id;          /* of the controller or the adapter */
	struct config_disk from; /* the drive as it was; path is owned */
	struct config_disk disk; /* as it shall be; path is owned */
	uint64_t size_bytes;
	struct config_nic nic; /* strings are owned */
	int fd;
	bool taken_away; /* step one of a move is done */
};

struct change *change_new(struct request *request, struct vm *vm);
void change_run(struct change *change);
/* The end of every change; err NULL: it was made. */
void change_end(struct change *change, const struct error *err);
/* For ask: sends message (taken) with fd (borrowed; -1: none). */
void change_ask(struct change *change, json_t *message, int fd,
		void (*answered)(void *user, const json_t *reply, const struct error *err));
/* The worker's last answer, or that it could not be asked. */
void change_answered(void *user, const json_t *reply, const struct error *failure);
/* It has a worker that can be asked. */
bool change_runs(const struct vm *vm);
/* A copy, the caller's; NULL of NULL. */
char *change_text(const char *text);

/* A drive that is taken away is synced first, which may take its time. */
#define CHANGE_TIMEOUT_NS (60 * NS_PER_SEC)

#endif
