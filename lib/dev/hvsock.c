#include "dev/hvsock-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "spec/vmbus.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

/* ---- the list ---- */

static struct hvsock_socket *socket_new(struct hvsock *sockets, const struct guid *service,
					const struct guid *endpoint)
{
	struct hvsock_socket *socket =
	    sockets->count < HVSOCK_MAX ? calloc(1, sizeof(*socket)) : NULL;

	if (!socket)
		return NULL;
	socket->owner = sockets;
	socket->service = *service;
	socket->endpoint = *endpoint;
	socket->ticket = ++sockets->last_ticket;
	socket->fd = -1;
	socket->packet_max = HVSOCK_DATA_MAX;
	socket->next = sockets->first;
	socket->link = &sockets->first;
	if (socket->next)
		socket->next->link = &socket->next;
	sockets->first = socket;
	sockets->count++;
	return socket;
}

static struct hvsock_socket *find_ticket(struct hvsock *sockets, uint64_t ticket)
{
	struct hvsock_socket *socket = sockets->first;

	while (socket && (socket->ticket != ticket || socket->state != HVSOCK_ASKED))
		socket = socket->next;
	return socket;
}

static void tell_done(struct hvsock_socket *socket, int result)
{
	void (*done)(void *user, int result) = TAKE(socket->done);

	if (done)
		done(socket->user, result);
}

/* Called again while the channel is rescinded, which ends nothing more. */
void hvsock_end(struct hvsock_socket *socket)
{
	struct hvsock *sockets = socket->owner;

	if (!socket->link)
		return;
	*socket->link = socket->next;
	if (socket->next)
		socket->next->link = socket->link;
	socket->link = NULL;
	sockets->count--;
	if (socket->channel)
		vmbus_rescind(TAKE(socket->channel));
	loop_timer_free(socket->timer);
	loop_timer_free(socket->linger);
	loop_fd_remove(socket->watch);
	if (socket->fd >= 0)
		close(socket->fd);
	tell_done(socket, -ERR_CANCELLED);
	free(socket->to_host);
	free(socket);
}

/* ---- channels ---- */

static int on_opened(void *dev, struct vmbus_channel *channel, const uint8_t *user_data)
{
	struct hvsock_socket *socket = dev;

	/* A channel that was closed is not used again: it was one connection. */
	if (socket->state != HVSOCK_OFFERED || hvsock_stream_start(socket, NULL) < 0)
		return -ERR_STATE;
	socket->state = HVSOCK_OPEN;
	loop_timer_free(TAKE(socket->timer));
	tell_done(socket, 0);
	return 0;
}

static void on_closed(void *dev, struct vmbus_channel *channel)
{
	hvsock_end(dev);
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	hvsock_stream_run(dev);
}

static const struct vmbus_channel_ops channel_ops = { on_opened, on_closed, on_ready };

static int offer(struct hvsock_socket *socket, bool from_host, struct error *err)
{
	struct vmbus_offer offer = {
		.class_id = socket->service,
		.instance_id = socket->endpoint,
		.flags = VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE | VMBUS_OFFER_NAMED_PIPE_MODE |
			 VMBUS_OFFER_TLNPI,
		.ops = &channel_ops,
		.dev = socket,
	};

	offer.user_defined[HVSOCK_OFFER_FROM_HOST] = from_host;
	socket->state = HVSOCK_OFFERED;
	return vmbus_offer(socket->owner->config.bus, &offer, &socket->channel, err);
}

/* ---- what never became a connection ---- */

static void refuse(struct hvsock_socket *socket)
{
	vmbus_refuse_socket(socket->owner->config.bus, &socket->endpoint, &socket->service);
	hvsock_end(socket);
}

static void on_timeout(void *user)
{
	struct hvsock_socket *socket = user;

	if (socket->state == HVSOCK_ASKED) {
		refuse(socket);
		return;
	}
	tell_done(socket, -ERR_TIMEOUT);
	hvsock_end(socket);
}

static int start_timer(struct hvsock_socket *socket, uint64_t timeout_ns, struct error *err)
{
	int r = 0;

	if (!socket->timer)
		r = loop_timer_new(socket->owner->config.loop, on_timeout, socket, &socket->timer,
				   err);
	if (r == 0)
		loop_timer_arm(socket->timer, clock_now_ns() + timeout_ns);
	return r;
}

/* ---- from the guest ---- */

static bool is_under_way(struct hvsock *sockets, const struct guid *endpoint,
			 const struct guid *service)
{
	const struct hvsock_socket *socket = sockets->first;

	while (socket &&
	       !(guid_equal(&socket->endpoint, endpoint) && guid_equal(&socket->service, service)))
		socket = socket->next;
	return socket != NULL;
}

static void on_asked(void *user, const struct guid *endpoint, const struct guid *service)
{
	struct hvsock *sockets = user;
	struct hvsock_socket *socket = NULL;

	/* Two offers with the same names would confuse a guest. */
	if (!is_under_way(sockets, endpoint, service))
		socket = socket_new(sockets, service, endpoint);
	if (!socket) {
		log_guest("a socket connection is refused: under way already, or one too many");
		vmbus_refuse_socket(sockets->config.bus, endpoint, service);
		return;
	}
	socket->state = HVSOCK_ASKED;
	if (start_timer(socket, HVSOCK_ANSWER_NS, NULL) < 0) {
		refuse(socket);
		return;
	}
	sockets->config.asked(sockets->config.user, socket->ticket, service);
}

static int take_fd(struct hvsock_socket *socket, int fd, struct error *err)
{
	socket->fd = fd;
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return error_set_errno(err, errno, "a socket for the guest");
	return 0;
}

int hvsock_accept(struct hvsock *sockets, uint64_t ticket, int fd, struct error *err)
{
	struct hvsock_socket *socket = find_ticket(sockets, ticket);
	int r;

	if (!socket) {
		close(fd);
		return error_set(err, ERR_NOT_FOUND, "the guest does not wait for it any more");
	}
	r = take_fd(socket, fd, err);
	if (r == 0)
		r = start_timer(socket, HVSOCK_ANSWER_NS, err);
	if (r == 0)
		r = offer(socket, false, err);
	if (r < 0)
		refuse(socket);
	return r;
}

void hvsock_refuse(struct hvsock *sockets, uint64_t ticket)
{
	struct hvsock_socket *socket = find_ticket(sockets, ticket);

	if (socket)
		refuse(socket);
}

/* ---- from the host ---- */

static int begin(struct hvsock_socket *socket, int fd, uint64_t timeout_ns, struct error *err)
{
	int r = take_fd(socket, fd, err);

	if (r == 0)
		r = start_timer(socket, timeout_ns, err);
	return r == 0 ? offer(socket, true, err) : r;
}

int hvsock_connect(struct hvsock *sockets, const struct guid *service, int fd, uint64_t timeout_ns,
		   void (*done)(void *user, int result), void *user, struct error *err)
{
	struct hvsock_socket *socket;
	struct guid endpoint;
	int r;

	if (vmbus_version(sockets->config.bus) < VMBUS_VERSION_4_0) {
		close(fd);
		return error_set(err, ERR_STATE, "the guest has no VMBus sockets, or not yet");
	}
	guid_generate(&endpoint);
	socket = socket_new(sockets, service, &endpoint);
	if (!socket) {
		close(fd);
		return error_set(err, ERR_LIMIT, "a guest has at most %u socket connections",
				 HVSOCK_MAX);
	}
	r = begin(socket, fd, timeout_ns, err);
	if (r < 0) {
		hvsock_end(socket);
		return r;
	}
	socket->done = done;
	socket->user = user;
	return 0;
}

/* ---- life ---- */

int hvsock_new(const struct hvsock_config *config, struct hvsock **ret, struct error *err)
{
	struct hvsock *sockets = calloc(1, sizeof(*sockets));

	if (!sockets)
		return error_set(err, ERR_NO_MEMORY, "no memory for the guest's sockets");
	sockets->config = *config;
	vmbus_set_socket_handler(config->bus, on_asked, sockets);
	*ret = sockets;
	return 0;
}

void hvsock_free(struct hvsock *sockets)
{
	if (!sockets)
		return;
	vmbus_set_socket_handler(sockets->config.bus, NULL, NULL);
	while (sockets->first)
		hvsock_end(sockets->first);
	free(sockets);
}
