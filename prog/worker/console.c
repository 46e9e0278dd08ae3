#include "console.h"

#include "base/log.h"
#include "base/macros.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define MAX_CLIENTS 16

/* Output is one stream with positions counted from the VM's start; each client has its own place in
 * it. The ring holds the last CONSOLE_BACKLOG bytes. */
struct client {
	struct console *console;
	int fd;
	struct loop_fd *lfd;
	uint64_t sent; /* stream position of the next byte to send */
	bool want_output;
	char input[1024]; /* typed, but not taken by the guest yet */
	size_t input_len;
};

struct console {
	struct loop *loop;
	int listen_fd;
	struct loop_fd *listen_lfd;
	size_t (*input)(void *user, const void *data, size_t len);
	void *user;
	char ring[CONSOLE_BACKLOG];
	uint64_t written; /* bytes ever put into the ring */
	struct client *clients[MAX_CLIENTS];
	unsigned client_count;
};

static void client_free(struct client *client)
{
	struct console *console = client->console;

	for (unsigned i = 0; i < console->client_count; i++)
		if (console->clients[i] == client)
			console->clients[i] = console->clients[--console->client_count];
	loop_fd_remove(client->lfd);
	close(client->fd);
	free(client);
}

static void client_watch(struct client *client)
{
	uint32_t events = client->want_output ? EPOLLOUT : 0;

	if (client->input_len < sizeof(client->input))
		events |= EPOLLIN;
	loop_fd_set(client->lfd, events);
}

/* False: the client is gone. */
static bool client_send(struct client *client)
{
	struct console *console = client->console;

	if (console->written - client->sent > CONSOLE_BACKLOG)
		client->sent = console->written - CONSOLE_BACKLOG;
	while (client->sent < console->written) {
		size_t at = client->sent % CONSOLE_BACKLOG;
		size_t len = MIN(console->written - client->sent, CONSOLE_BACKLOG - at);
		ssize_t n = send(client->fd, console->ring + at, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			break;
		if (n < 0)
			return false;
		client->sent += (uint64_t)n;
	}
	if (client->want_output != (client->sent < console->written)) {
		client->want_output = !client->want_output;
		client_watch(client);
	}
	return true;
}

static void client_pass_input(struct client *client)
{
	struct console *console = client->console;
	size_t taken = console->input(console->user, client->input, client->input_len);

	memmove(client->input, client->input + taken, client->input_len - taken);
	client->input_len -= taken;
}

static void client_ready(void *user, uint32_t events)
{
	struct client *client = user;

	if ((events & EPOLLOUT) && !client_send(client)) {
		client_free(client);
		return;
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n = recv(client->fd, client->input + client->input_len,
				 sizeof(client->input) - client->input_len, MSG_DONTWAIT);

		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			client_free(client);
			return;
		}
		if (n > 0) {
			client->input_len += (size_t)n;
			client_pass_input(client);
			client_watch(client);
		}
	}
}

static void on_connect(void *user, uint32_t events)
{
	struct console *console = user;
	int fd = accept4(console->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *client;

	if (fd < 0)
		return;
	client = console->client_count < MAX_CLIENTS ? calloc(1, sizeof(*client)) : NULL;
	if (!client) {
		close(fd);
		return;
	}
	client->console = console;
	client->fd = fd;
	client->sent = console->written > CONSOLE_BACKLOG ? console->written - CONSOLE_BACKLOG : 0;
	if (loop_fd_add(console->loop, fd, EPOLLIN, client_ready, client, &client->lfd, NULL) < 0) {
		close(fd);
		free(client);
		return;
	}
	console->clients[console->client_count++] = client;
	if (!client_send(client))
		client_free(client);
}

int console_new(struct loop *loop, int listen_fd,
		size_t (*input)(void *user, const void *data, size_t len), void *user,
		struct console **ret, struct error *err)
{
	struct console *console = calloc(1, sizeof(*console));

	if (!console)
		return error_set(err, ERR_NO_MEMORY, "no memory for a console");
	console->loop = loop;
	console->listen_fd = listen_fd;
	console->input = input;
	console->user = user;
	if (loop_fd_add(loop, listen_fd, EPOLLIN, on_connect, console, &console->listen_lfd, err) <
	    0) {
		free(console);
		return error_prefix(err, "console socket");
	}
	*ret = console;
	return 0;
}

/* Gives a client the end of the output: half a second, then it is cut off. */
static void client_drain(struct client *client)
{
	struct pollfd poll_fd = { client->fd, POLLOUT, 0 };

	for (int i = 0; i < 50 && client_send(client) && client->want_output; i++)
		poll(&poll_fd, 1, 10);
}

void console_free(struct console *console)
{
	if (!console)
		return;
	while (console->client_count) {
		client_drain(console->clients[0]);
		client_free(console->clients[0]);
	}
	loop_fd_remove(console->listen_lfd);
	close(console->listen_fd);
	free(console);
}

static void ring_put(struct console *console, const char *data, size_t len)
{
	if (len > CONSOLE_BACKLOG) {
		console->written += len - CONSOLE_BACKLOG;
		data += len - CONSOLE_BACKLOG;
		len = CONSOLE_BACKLOG;
	}
	while (len) {
		size_t at = console->written % CONSOLE_BACKLOG;
		size_t n = MIN(len, CONSOLE_BACKLOG - at);

		memcpy(console->ring + at, data, n);
		console->written += n;
		data += n;
		len -= n;
	}
}

void console_output(struct console *console, const void *data, size_t len)
{
	ring_put(console, data, len);
	for (unsigned i = console->client_count; i-- > 0;)
		if (!client_send(console->clients[i]))
			client_free(console->clients[i]);
}

void console_resume_input(struct console *console)
{
	for (unsigned i = 0; i < console->client_count; i++) {
		struct client *client = console->clients[i];

		if (client->input_len) {
			client_pass_input(client);
			client_watch(client);
		}
	}
}
