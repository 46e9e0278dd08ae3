/*
 * oyako-guest-agent: Direct's side in the guest (lib/direct, docs/direct.md). systemd starts one
 * process for each connection, with the socket as standard input (oyako-guest-agent.socket).
 *
 * agent.c    sign-in, then the command
 * sign-in.c  PAM, passwords, keys
 * run.c      one command with its input and output, until it ends
 */
#ifndef GUEST_AGENT_AGENT_H
#define GUEST_AGENT_AGENT_H

#include "direct/direct.h"

#include <pwd.h>
#include <security/pam_appl.h>

struct agent {
	int fd;
	struct direct_reader reader;
	char user[256];
	char *password;
	pam_handle_t *pam;
	struct passwd *account;
};

/* The next frame of the client, waiting for it; false: it has gone, or sends rubbish. */
bool agent_next(struct agent *agent, struct direct_frame *ret);

/* Sends the client away: no reason that would help a guesser. */
void agent_refuse(struct agent *agent, const char *why);

/* Does what the client asks for until it is signed in with an open PAM session. False: refused, and
 * told so. */
bool sign_in(struct agent *agent);
void sign_out(struct agent *agent);

/* Runs what the DIRECT_RUN frame says as the user, and sends how it ended. */
void run_command(struct agent *agent, const struct direct_frame *frame);

#endif
