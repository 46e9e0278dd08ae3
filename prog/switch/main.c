/*
 * oyako-switch: one virtual switch. It is started by oyakod with its control socket on descriptor 3
 * (control.h has the messages) and gets its ports over that.
 */
#include "control.h"
#include "sandbox.h"

#include "base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#define CONTROL_FD 3

static int run(struct error *err)
{
	struct loop *loop;
	struct control control;
	int r = sandbox_enter(err);

	if (r == 0)
		r = loop_new(&loop, err);
	if (r < 0)
		return r;
	r = control_init(&control, loop, CONTROL_FD, err);
	if (r == 0) {
		while (!control.finished)
			nat_step(control.nat, loop, -1);
		control_done(&control);
	}
	loop_free(loop);
	return r;
}

int main(int argc, char **argv)
{
	struct error err = { 0 };
	struct stat st;

	(void)argv;
	if (argc > 1 || fstat(CONTROL_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr, "oyako-switch is started by oyakod, which controls it over "
				"descriptor 3\n");
		return 2;
	}
	fcntl(CONTROL_FD, F_SETFD, FD_CLOEXEC);
	signal(SIGPIPE, SIG_IGN);
	if (run(&err) < 0) {
		log_error("%s", err.text);
		return 1;
	}
	return 0;
}
