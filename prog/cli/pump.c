#include "pump.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>

/* One direction; a shorter buffer would cost more calls, a longer one no fewer. */
struct flow {
	int from, to;
	char data[65536];
	size_t at, end;
	bool ended;
};

static bool is_empty(const struct flow *flow)
{
	return flow->at == flow->end;
}

static void fill(struct flow *flow)
{
	ssize_t n = read(flow->from, flow->data, sizeof(flow->data));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		flow->ended = true;
	flow->at = 0;
	flow->end = n > 0 ? (size_t)n : 0;
}

/* False: nobody takes it. */
static bool drain(struct flow *flow)
{
	ssize_t n = write(flow->to, flow->data + flow->at, flow->end - flow->at);

	if (n > 0)
		flow->at += (size_t)n;
	return n >= 0 || errno == EAGAIN || errno == EINTR;
}

/* Where the flow waits: for data, or for room. */
static struct pollfd wait_of(const struct flow *flow)
{
	if (!is_empty(flow))
		return (struct pollfd){ flow->to, POLLOUT, 0 };
	return (struct pollfd){ flow->ended ? -1 : flow->from, POLLIN, 0 };
}

static bool move(struct flow *flow, short events)
{
	if (!events)
		return true;
	if (is_empty(flow))
		fill(flow);
	return is_empty(flow) || drain(flow);
}

int pump_run(int fd, int in, int out)
{
	struct flow there = { .from = in, .to = fd }, back = { .from = fd, .to = out };
	bool told = false;
	int r = 0;

	signal(SIGPIPE, SIG_IGN);
	/* Else a long write would wait for the other end, which may wait for us to read. */
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (r == 0 && !(back.ended && is_empty(&back))) {
		struct pollfd fds[2] = { wait_of(&there), wait_of(&back) };

		if (poll(fds, 2, -1) < 0)
			continue;
		/* What is not taken there any more is dropped; answers may still come. */
		if (!move(&there, fds[0].revents)) {
			there.ended = true;
			there.at = there.end;
		}
		if (!move(&back, fds[1].revents))
			r = -1;
		if (there.ended && is_empty(&there) && !told) {
			shutdown(fd, SHUT_WR);
			told = true;
		}
	}
	close(fd);
	return r;
}
