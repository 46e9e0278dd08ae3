#include "nbd/nbd-impl.h"

#include "base/loop.h"
#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_IN_FLIGHT 64u

/* ---- the end of a client ---- */

static void free_outputs(struct client *client)
{
	while (client->first) {
		struct output *output = client->first;

		client->first = output->next;
		free(output->payload);
		free(output);
	}
	client->last = &client->first;
}

static void close_socket(struct client *client)
{
	if (client->closed)
		return;
	client->closed = client->ending = true;
	loop_fd_remove(client->lfd);
	close(client->fd);
	free_outputs(client);
	transmit_forget(client);
}

static void client_free(struct client *client)
{
	struct nbd_server *server = client->server;
	struct client **link = &server->clients;

	close_socket(client);
	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	server->client_count--;
	free(client);
	if (server->events && server->events->client_gone)
		server->events->client_gone(server->user, server->client_count);
}

void client_release(struct client *client)
{
	if (--client->busy == 0 && client->ending && client->at_disk == 0 &&
	    (client->closed || !client->first))
		client_free(client);
}

void client_end(struct client *client)
{
	client->ending = true;
}

void client_drop(struct client *client)
{
	close_socket(client);
}

/* ---- sending ---- */

struct output *client_output(struct client *client)
{
	struct output *output = calloc(1, sizeof(*output));

	if (!output)
		client_drop(client);
	return output;
}

/* How much of it went; 0: the socket is full; -1: it is broken. */
static ssize_t send_piece(int fd, const struct output *output)
{
	struct iovec iov[2] = { { (void *)output->head, output->head_len },
				{ output->payload, output->payload_len } };
	struct msghdr msg = { .msg_iov = iov, .msg_iovlen = output->payload_len ? 2 : 1 };
	size_t skip = output->sent;
	ssize_t n;

	if (skip >= iov[0].iov_len) {
		skip -= iov[0].iov_len;
		iov[0] = iov[1];
		msg.msg_iovlen = 1;
	}
	iov[0].iov_base = (uint8_t *)iov[0].iov_base + skip;
	iov[0].iov_len -= skip;
	do
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 && errno == EAGAIN ? 0 : n;
}

static void output_sent(struct client *client, struct output *output)
{
	client->first = output->next;
	if (!client->first)
		client->last = &client->first;
	client->held_bytes -= output->held_bytes;
	client->in_flight -= output->is_reply;
	free(output->payload);
	free(output);
}

static void send_some(struct client *client)
{
	while (client->first && !client->closed) {
		struct output *output = client->first;
		ssize_t n = send_piece(client->fd, output);

		if (n < 0) {
			client_drop(client);
			return;
		}
		if (n == 0)
			return;
		output->sent += (size_t)n;
		if (output->sent == output->head_len + output->payload_len)
			output_sent(client, output);
	}
}

/* Beyond its allowance a client is not read from until its answers have gone; but the rest of a
 * request that has begun is. */
static bool may_receive(const struct client *client)
{
	return !client->ending && (client->request || (client->in_flight < MAX_IN_FLIGHT &&
						       client->held_bytes < NBD_CLIENT_BYTES));
}

static void set_events(struct client *client)
{
	bool reads = may_receive(client);

	if (!client->closed)
		loop_fd_set(client->lfd, (reads ? EPOLLIN : 0u) | (client->first ? EPOLLOUT : 0u));
}

void client_send(struct client *client, struct output *output)
{
	if (client->closed) {
		free(output->payload);
		free(output);
		return;
	}
	output->next = NULL;
	*client->last = output;
	client->last = &output->next;
	send_some(client);
	set_events(client);
}

void client_send_copy(struct client *client, const void *head, size_t head_len, const void *data,
		      size_t data_len)
{
	struct output *output = client_output(client);

	if (!output)
		return;
	memcpy(output->head, head, head_len);
	output->head_len = head_len;
	if (data_len) {
		output->payload = malloc(data_len);
		if (!output->payload) {
			free(output);
			client_drop(client);
			return;
		}
		memcpy(output->payload, data, data_len);
		output->payload_len = data_len;
	}
	client_send(client, output);
}

/* ---- receiving ---- */

void client_want(struct client *client, void *into, size_t bytes,
		 void (*take)(struct client *client))
{
	client->into = into;
	client->wanted = bytes;
	client->have = 0;
	client->take = take;
}

/* True: there may be more. */
static bool receive_piece(struct client *client)
{
	ssize_t n = recv(client->fd, client->into + client->have, client->wanted - client->have,
			 MSG_DONTWAIT);

	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0) {
		client_drop(client);
		return false;
	}
	client->have += (size_t)n;
	return true;
}

static void receive_some(struct client *client)
{
	bool more = true;

	while (more && may_receive(client)) {
		if (client->have < client->wanted)
			more = receive_piece(client);
		if (!client->closed && client->have == client->wanted)
			client->take(client);
	}
}

static void client_ready(void *user, uint32_t events)
{
	struct client *client = user;

	client->busy++;
	if (events & EPOLLOUT)
		send_some(client);
	if (!client->closed && (events & EPOLLIN))
		receive_some(client);
	else if (!client->closed && (events & (EPOLLERR | EPOLLHUP)))
		client_drop(client);
	set_events(client);
	client_release(client);
}

/* ---- clients ---- */

int nbd_server_add(struct nbd_server *server, int fd, struct error *err)
{
	struct client *client;
	int r;

	if (server->client_count >= NBD_MAX_CLIENTS) {
		close(fd);
		return error_set(err, ERR_LIMIT, "more than %u NBD clients", NBD_MAX_CLIENTS);
	}
	client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		return error_set(err, ERR_NO_MEMORY, "no memory for an NBD client");
	}
	client->server = server;
	client->fd = fd;
	client->last = &client->first;
	r = loop_fd_add(server->loop, fd, EPOLLIN, client_ready, client, &client->lfd, err);
	if (r < 0) {
		close(fd);
		free(client);
		return r;
	}
	client->next = server->clients;
	server->clients = client;
	server->client_count++;
	client->busy++;
	negotiate_start(client);
	client_release(client);
	return 0;
}

static void accept_one(void *user, uint32_t events)
{
	struct nbd_server *server = user;
	int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		nbd_server_add(server, fd, NULL);
}

int nbd_server_listen(struct nbd_server *server, int fd, struct error *err)
{
	int r =
	    loop_fd_add(server->loop, fd, EPOLLIN, accept_one, server, &server->listen_watch, err);

	if (r < 0)
		close(fd);
	else
		server->listen_fd = fd;
	return r;
}

int nbd_server_new(struct loop *loop, const struct blk_layers *disk,
		   const struct nbd_events *events, void *user, struct nbd_server **ret,
		   struct error *err)
{
	struct nbd_server *server = calloc(1, sizeof(*server));

	if (!server)
		return error_set(err, ERR_NO_MEMORY, "no memory for an NBD server");
	*server = (struct nbd_server){
		.loop = loop, .disk = disk, .events = events, .user = user, .listen_fd = -1
	};
	*ret = server;
	return 0;
}

void nbd_server_free(struct nbd_server *server)
{
	if (!server)
		return;
	server->events = NULL;
	loop_fd_remove(server->listen_watch);
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	/* What the disk still has comes back before a client can go. */
	blk_drain(server->disk->layers[0]);
	while (server->clients)
		client_free(server->clients);
	free(server);
}
