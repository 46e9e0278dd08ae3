/*
 * Direct: commands and terminals in a guest without a network (docs/direct.md). A session is one
 * command: over the agent in the guest, or where there is none over its sshd, by ssh.
 */
#ifndef CLI_DIRECT_H
#define CLI_DIRECT_H

#include "client.h"

#include <stdbool.h>

enum direct_transport { DIRECT_AUTO, DIRECT_AGENT, DIRECT_SSH };

/* Who signs in, and how: by password or by key, never without. */
struct direct_credential {
	const char *user;
	char *password;       /* NULL: by key */
	const char *key_file; /* private key of OpenSSH; NULL: by password */
	enum direct_transport transport;
};

struct direct_command {
	const char *text; /* for the user's shell; "" with a terminal: a login shell */
	bool terminal;    /* ties the guest's terminal to ours */
	int in, out, err; /* in -1: nothing to read */
};

/* Exit status where the command could not be run, or its end is not known. */
#define DIRECT_FAILED 255

/* Signs in, runs the command, and returns its exit status (128 + signal where one ended it), or
 * -code: see err. */
int direct_run(struct client *client, const char *vm, const struct direct_credential *credential,
	       const struct direct_command *command, struct error *err);

/* 'it'"'"'s' for a shell; the caller's. */
char *direct_quote(const char *text);

/* Prints what went wrong; returns DIRECT_FAILED. vm may be NULL. */
int direct_complain(const char *vm, const struct error *err);

/* Who signs in by -Credential and the like; asks for a password where none is given. Forget it in
 * any case. */
int direct_take_credential(const json_t *params, struct direct_credential *ret, struct error *err);
void direct_forget_credential(struct direct_credential *credential);

/* A text of params, or NULL. */
const char *direct_text(const json_t *object, const char *name);

/* direct-agent.c: over a connection to the agent (taken). */
int direct_run_by_agent(int fd, const struct direct_credential *credential,
			const struct direct_command *command, struct error *err);
/* direct-ssh.c */
int direct_run_by_ssh(const char *vm_id, const struct direct_credential *credential,
		      const struct direct_command *command, struct error *err);

/* direct-cmdlets.c: each returns the exit status of oyako. */
int direct_invoke_command(struct client *client, const json_t *params, bool as_json);
int direct_enter_session(struct client *client, const json_t *params);
/* direct-copy.c */
int direct_copy_item(struct client *client, const json_t *params);

#endif
