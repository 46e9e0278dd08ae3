#include "relay.h"

#include "base/log.h"
#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define BUFFER_BYTES 32768

struct end {
	struct relay *relay;
	int fd;
	struct loop_fd *watch;   /* NULL: it has hung up */
	char data[BUFFER_BYTES]; /* that was read here, for the other end */
	size_t at, filled;
	bool ended, told; /* nothing more comes from here; the other end knows */
};

struct relay {
	struct end ends[2];
	void (*ended)(void *user);
	void *user;
};

static struct end *other(struct end *end)
{
	return &end->relay->ends[end == end->relay->ends];
}

static void take(struct end *end)
{
	ssize_t n;

	if (end->ended || end->at < end->filled)
		return;
	n = recv(end->fd, end->data, sizeof(end->data), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	end->ended = n <= 0;
	end->at = 0;
	end->filled = n > 0 ? (size_t)n : 0;
}

/* What came here goes to the other end; *moved when some of it did. False: nobody takes it. */
static bool give(struct end *from, bool *moved)
{
	struct end *to = other(from);
	ssize_t n;

	if (from->at < from->filled) {
		n = send(to->fd, from->data + from->at, from->filled - from->at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR;
		from->at += (size_t)n;
		*moved = true;
	}
	if (from->ended && from->at == from->filled && !from->told) {
		shutdown(to->fd, SHUT_WR);
		from->told = true;
	}
	return true;
}

static void watch(struct end *end)
{
	const struct end *peer = other(end);
	uint32_t events = 0;

	if (!end->watch)
		return;
	if (!end->ended && end->at == end->filled)
		events |= EPOLLIN;
	if (peer->at < peer->filled)
		events |= EPOLLOUT;
	loop_fd_set(end->watch, events);
}

/* The second end, the virtual machine's, has the last word: when it is closed, all is over. */
static bool is_over(const struct relay *relay)
{
	const struct end *a = &relay->ends[0], *b = &relay->ends[1];

	return (b->ended && b->told) || (!a->watch && a->ended && a->told);
}

static void step(void *user, uint32_t events)
{
	struct end *end = user;
	struct relay *relay = end->relay;
	bool moved, taken = true;

	/* It would be reported for ever, while what it sent may have to wait for the other end. */
	if (events & (EPOLLHUP | EPOLLERR))
		loop_fd_remove(TAKE(end->watch));
	do {
		moved = false;
		take(&relay->ends[0]);
		take(&relay->ends[1]);
		taken = give(&relay->ends[0], &moved) && give(&relay->ends[1], &moved);
	} while (taken && moved);
	if (!taken || is_over(relay)) {
		relay_end(relay);
		return;
	}
	watch(&relay->ends[0]);
	watch(&relay->ends[1]);
}

struct relay *relay_new(struct loop *loop, int a, int b, void (*ended)(void *user), void *user)
{
	const int fds[2] = { a, b };
	struct relay *relay = calloc(1, sizeof(*relay));
	struct error err;

	if (!relay)
		abort();
	relay->ended = ended;
	relay->user = user;
	for (int i = 0; i < 2; i++) {
		struct end *end = &relay->ends[i];

		end->relay = relay;
		end->fd = fds[i];
		if (loop_fd_add(loop, end->fd, EPOLLIN, step, end, &end->watch, &err) < 0)
			log_warn("a console is not carried: %s", err.text);
	}
	return relay;
}

void relay_put(struct relay *relay, const char *data, size_t size)
{
	struct end *end = &relay->ends[0];

	end->filled = MIN(size, sizeof(end->data));
	memcpy(end->data, data, end->filled);
	watch(&relay->ends[1]);
}

void relay_end(struct relay *relay)
{
	for (int i = 0; i < 2; i++)
		loop_fd_remove(relay->ends[i].watch);
	close(relay->ends[1].fd);
	relay->ended(relay->user);
	free(relay);
}
