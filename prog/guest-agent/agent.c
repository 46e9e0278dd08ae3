#include "agent.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* For the whole sign-in: who is slower is gone. */
#define SIGN_IN_SECONDS 120

bool agent_next(struct agent *agent, struct direct_frame *ret)
{
	int r;

	while ((r = direct_next(&agent->reader, ret)) == 0)
		if (direct_receive(&agent->reader, agent->fd) <= 0)
			return false;
	return r > 0;
}

void agent_refuse(struct agent *agent, const char *why)
{
	direct_send_text(agent->fd, DIRECT_REFUSED, why);
}

int main(int argc, char **argv)
{
	static struct agent agent = { .fd = STDIN_FILENO };
	struct direct_frame frame;
	int type;
	socklen_t len = sizeof(type);

	if (argc > 1 || getsockopt(agent.fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0) {
		fprintf(stderr, "oyako-guest-agent is started by systemd for each connection: "
				"systemctl enable --now oyako-guest-agent.socket\n");
		return 2;
	}
	openlog("oyako-guest-agent", LOG_PID, LOG_AUTHPRIV);
	signal(SIGPIPE, SIG_IGN);
	alarm(SIGN_IN_SECONDS);
	direct_send_text(agent.fd, DIRECT_HELLO, "1");
	if (!sign_in(&agent)) {
		sign_out(&agent);
		return 1;
	}
	if (agent_next(&agent, &frame) && frame.type == DIRECT_RUN) {
		alarm(0);
		run_command(&agent, &frame);
	}
	sign_out(&agent);
	return 0;
}
