#include "peer.h"

#include "base/clock.h"
#include "base/macros.h"
#include "ipc/ipc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>

struct pending {
	struct peer *peer;
	json_int_t id;
	peer_done done;
	void *user;
	struct loop_timer *timer;
	struct error failure; /* code is set: fails when the timer fires */
	struct pending *next;
};

struct peer {
	struct loop *loop;
	int fd;
	struct loop_fd *lfd;
	const struct peer_events *events;
	void *user;
	json_int_t last_id;
	struct pending *pending;
	bool busy, freed; /* inside a callback; freed there */
};

static void pending_free(struct pending *pending)
{
	struct pending **link = &pending->peer->pending;

	while (*link != pending)
		link = &(*link)->next;
	*link = pending->next;
	loop_timer_free(pending->timer);
	free(pending);
}

static void pending_finish(struct pending *pending, const json_t *reply, const struct error *err)
{
	peer_done done = pending->done;
	void *user = pending->user;

	pending_free(pending);
	if (done)
		done(user, reply, err);
}

static void cancel_all(struct peer *peer)
{
	struct error err;

	error_set(&err, ERR_CANCELLED, "the process that was asked has ended");
	while (peer->pending)
		pending_finish(peer->pending, NULL, &err);
}

static void close_connection(struct peer *peer)
{
	if (peer->fd < 0)
		return;
	loop_fd_remove(peer->lfd);
	close(peer->fd);
	peer->fd = -1;
}

static void take_answer(struct peer *peer, json_int_t id, const json_t *reply)
{
	const json_t *failure = json_object_get(reply, "error");
	struct pending *pending = peer->pending;
	struct error err;

	while (pending && pending->id != id)
		pending = pending->next;
	if (!pending)
		return;
	if (failure) {
		const char *code = json_string_value(json_object_get(failure, "code"));
		const char *text = json_string_value(json_object_get(failure, "text"));

		error_set(&err, err_code_from_name(code ? code : ""), "%s",
			  text ? text : "failed without saying why");
	}
	pending_finish(pending, reply, failure ? &err : NULL);
}

static void take_message(struct peer *peer, const json_t *msg)
{
	const char *event = json_string_value(json_object_get(msg, "event"));
	const json_t *id = json_object_get(msg, "id");

	if (event)
		peer->events->event(peer->user, event, msg);
	else if (json_is_integer(id))
		take_answer(peer, json_integer_value(id), msg);
}

/* False: there is nothing more to receive. */
static bool receive(struct peer *peer)
{
	json_t *msg;
	int r = ipc_recv(peer->fd, &msg, NULL, NULL, NULL);

	if (r == 1) {
		take_message(peer, msg);
		json_decref(msg);
		return peer->fd >= 0;
	}
	if (r != -ERR_BUSY) {
		close_connection(peer);
		cancel_all(peer);
		if (!peer->freed)
			peer->events->closed(peer->user);
	}
	return false;
}

static void peer_ready(void *user, uint32_t events)
{
	struct peer *peer = user;

	peer->busy = true;
	receive(peer);
	peer->busy = false;
	if (peer->freed)
		free(peer);
}

void peer_drain(struct peer *peer)
{
	if (peer->fd < 0 || peer->busy)
		return;
	peer->busy = true;
	while (receive(peer))
		;
	peer->busy = false;
	if (peer->freed)
		free(peer);
}

int peer_new(struct loop *loop, int fd, const struct peer_events *events, void *user,
	     struct peer **ret, struct error *err)
{
	struct peer *peer = calloc(1, sizeof(*peer));
	int r;

	if (!peer) {
		close(fd);
		return error_set(err, ERR_NO_MEMORY, "no memory for a connection");
	}
	*peer = (struct peer){ .loop = loop, .fd = fd, .events = events, .user = user };
	r = loop_fd_add(loop, fd, EPOLLIN, peer_ready, peer, &peer->lfd, err);
	if (r < 0) {
		close(fd);
		free(peer);
		return r;
	}
	*ret = peer;
	return 0;
}

void peer_free(struct peer *peer)
{
	if (!peer || peer->freed)
		return;
	peer->freed = true;
	close_connection(peer);
	cancel_all(peer);
	if (!peer->busy)
		free(peer);
}

static void pending_expired(void *user)
{
	struct pending *pending = user;
	struct error err = pending->failure;

	if (!err.code)
		error_set(&err, ERR_TIMEOUT, "no answer in time");
	pending_finish(pending, NULL, &err);
}

void peer_request(struct peer *peer, json_t *request, const int *fds, unsigned fd_count,
		  uint64_t timeout_ns, peer_done done, void *user)
{
	struct pending *pending = calloc(1, sizeof(*pending));
	int r;

	if (!pending)
		abort(); /* a few bytes: the host is beyond help */
	*pending = (struct pending){ .peer = peer,
				     .id = ++peer->last_id,
				     .done = done,
				     .user = user,
				     .next = peer->pending };
	if (loop_timer_new(peer->loop, pending_expired, pending, &pending->timer, NULL) < 0)
		abort();
	peer->pending = pending;
	json_object_set_new(request, "id", json_integer(pending->id));
	if (peer->fd < 0)
		r = error_set(&pending->failure, ERR_CANCELLED, "the connection has ended");
	else
		r = ipc_send(peer->fd, request, fds, fd_count, &pending->failure);
	json_decref(request);
	if (r == 0)
		pending->failure.code = ERR_OK;
	/* A failure is told from the loop, not from within. */
	loop_timer_arm(pending->timer, clock_now_ns() + (r < 0 ? 0 : timeout_ns));
}
