/*
 * The command line's end of the API: a small HTTP/1.1 client over the daemon's Unix socket, or over
 * TLS to another host (remote.h). It starts a per-user daemon when none runs. One connection is
 * used for everything, and made again when the daemon was restarted.
 */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>

struct client;

/* host NULL: this one. start: starts a daemon if there is none; else that is ERR_NOT_FOUND. */
int client_open(const char *host, bool start, struct client **ret, struct error *err);
/* Another connection to where that one goes; starts no daemon. */
int client_open_like(const struct client *like, struct client **ret, struct error *err);
void client_close(struct client *client);

/* body may be NULL. The API's own errors become err; *ret, the caller's, is the answer's body. */
int client_call(struct client *client, const char *method, const char *path, const json_t *body,
		json_t **ret, struct error *err);

/* Carries a cmdlet out and waits for its end. progress (may be NULL) is called with what it does
 * meanwhile; when *interrupted becomes true, the waiting is cancelled. *ret has "results" and
 * "errors". */
int client_run(struct client *client, const char *cmdlet, const json_t *params,
	       void (*progress)(void *user, const json_t *progress), void *user,
	       const volatile bool *interrupted, json_t **ret, struct error *err);

/* Begins a cmdlet as a job that is kept; *ret_id is its number. */
int client_begin(struct client *client, const char *cmdlet, const json_t *params, unsigned *ret_id,
		 struct error *err);

/* Follows the event log: parameters are those of Get-VMEvent. Returns when the service has gone. */
int client_follow(struct client *client, const json_t *params,
		  void (*heard)(void *user, const json_t *event), void *user, struct error *err);

/* The console of a VM: the descriptor of a stream socket, or -code. */
int client_console(struct client *client, const char *vm, struct error *err);
/* A connection to a program in a guest: service is an AF_VSOCK port or a GUID. The same result. */
int client_socket(struct client *client, const char *vm, const char *service, struct error *err);
/* The guest's RDP server: as client_socket. */
int client_session(struct client *client, const char *vm, struct error *err);

#endif
