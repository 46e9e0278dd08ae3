/*
 * The two directions of one open connection. Each stops while its reader does not take what was
 * read last; the ring, or the socket, then says when there is room.
 */
#include "dev/hvsock-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/* Packets that are moved in each direction before others have their turn. */
#define TURN 64

/*
 * A guest that streams (its packets are whole pages) need not wake us for each packet, nor we it
 * for each that we have read: it is left alone, without signals, until its ring may be half full.
 * It never waits for us then, and both work at the same time. How long that takes follows from how
 * full the ring was the last time.
 */
#define STREAM_BYTES     4096u
#define GATHER_BYTES     65536u /* of the guest's packets that are passed on together */
#define LINGER_MIN_NS    (10 * UINT64_C(1000))
#define LINGER_MAX_NS    (500 * UINT64_C(1000))
#define LINGER_INITIALLY (50 * UINT64_C(1000))

static void on_socket(void *user, uint32_t events);

/* ---- the host's socket ---- */

static bool wants_host_data(const struct hvsock_socket *socket)
{
	return !socket->host_ended && socket->to_guest_at == socket->to_guest_end;
}

static bool has_guest_data(const struct hvsock_socket *socket)
{
	return socket->to_host_at < socket->to_host_end;
}

/* A socket whose other end is closed is reported all the time: it is looked at only while there is
 * something to do with it. */
static int watch(struct hvsock_socket *socket, struct error *err)
{
	uint32_t events =
	    (wants_host_data(socket) ? EPOLLIN : 0u) | (has_guest_data(socket) ? EPOLLOUT : 0u);

	if (!events && socket->host_left) {
		loop_fd_remove(TAKE(socket->watch));
		return 0;
	}
	if (!socket->watch)
		return loop_fd_add(socket->owner->config.loop, socket->fd, events, on_socket,
				   socket, &socket->watch, err);
	loop_fd_set(socket->watch, events);
	return 0;
}

static bool has_left(int fd)
{
	struct pollfd poll_fd = { fd, 0, 0 };

	return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLHUP | POLLERR));
}

static void note_host_ended(struct hvsock_socket *socket)
{
	socket->host_ended = true;
	socket->host_left |= has_left(socket->fd);
}

/* ---- to the guest ---- */

static void read_host(struct hvsock_socket *socket)
{
	ssize_t n = recv(socket->fd, socket->to_guest, sizeof(socket->to_guest), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		note_host_ended(socket);
		return;
	}
	socket->to_guest_at = 0;
	socket->to_guest_end = (uint32_t)n;
}

/* 0, or as vmbus_send. */
static int send_packet(struct hvsock_socket *socket, const uint8_t *data, uint32_t len)
{
	struct hvsock_spec_header header = { HVSOCK_PIPE_DATA, len };
	struct iovec iov[2] = { { &header, sizeof(header) }, { (void *)(uintptr_t)data, len } };

	return vmbus_send(socket->channel, 0, false, iov, 2);
}

/* 1: gone; 0: the guest's ring is full; negative: it will never take it. */
static int send_some(struct hvsock_socket *socket)
{
	uint32_t len = MIN(socket->to_guest_end - socket->to_guest_at, socket->packet_max);
	int r = send_packet(socket, socket->to_guest + socket->to_guest_at, len);

	/* The guest chose a small ring. */
	while (r == -ERR_INVALID && socket->packet_max > 64) {
		socket->packet_max /= 2;
		len = MIN(len, socket->packet_max);
		r = send_packet(socket, socket->to_guest + socket->to_guest_at, len);
	}
	if (r == 0)
		socket->to_guest_at += len;
	return r == 0 ? 1 : r == -ERR_BUSY ? 0 : r;
}

/* False: the connection is broken. */
static bool run_to_guest(struct hvsock_socket *socket)
{
	int r = 1;

	for (unsigned i = 0; r > 0 && i < TURN; i++) {
		if (wants_host_data(socket))
			read_host(socket);
		if (socket->to_guest_at == socket->to_guest_end)
			break;
		r = send_some(socket);
	}
	if (r > 0 && socket->host_ended && !socket->end_sent && !socket->guest_ended &&
	    !socket->host_left && socket->to_guest_at == socket->to_guest_end) {
		r = send_packet(socket, NULL, 0);
		socket->end_sent = r == 0;
		r = r == -ERR_BUSY ? 0 : r;
	}
	return r >= 0;
}

/* ---- to the host ---- */

/* Sends as much as the socket takes; returns that. */
static uint32_t write_host(struct hvsock_socket *socket, const uint8_t *data, uint32_t len)
{
	ssize_t n;

	if (socket->host_deaf)
		return len;
	n = send(socket->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n >= 0)
		return (uint32_t)n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	socket->host_deaf = true;
	return len;
}

/* Sends what has been gathered; false: the socket does not take all of it now. */
static bool flush(struct hvsock_socket *socket)
{
	if (has_guest_data(socket))
		socket->to_host_at += write_host(socket, socket->to_host + socket->to_host_at,
						 socket->to_host_end - socket->to_host_at);
	if (has_guest_data(socket))
		return false;
	socket->to_host_at = socket->to_host_end = 0;
	return true;
}

static bool gather(struct hvsock_socket *socket, const uint8_t *data, uint32_t len)
{
	if (len > socket->to_host_size - socket->to_host_end) {
		uint32_t size = MAX(socket->to_host_end + len, GATHER_BYTES);
		uint8_t *grown = realloc(socket->to_host, size);

		if (!grown)
			return false;
		socket->to_host = grown;
		socket->to_host_size = size;
	}
	if (len)
		memcpy(socket->to_host + socket->to_host_end, data, len);
	socket->to_host_end += len;
	return true;
}

static bool take_packet(struct hvsock_socket *socket, const struct vmbus_packet *packet)
{
	struct hvsock_spec_header header;

	if (packet->type != VMBUS_INBAND || packet->payload_len < sizeof(header))
		return false;
	memcpy(&header, packet->payload, sizeof(header));
	if (header.type != HVSOCK_PIPE_DATA || header.len > packet->payload_len - sizeof(header))
		return false;
	if (socket->guest_ended)
		return true; /* it said that nothing would come */
	socket->guest_ended = header.len == 0;
	return gather(socket, packet->payload + sizeof(header), header.len);
}

/* bytes: what was read in this turn. */
static bool linger(struct hvsock_socket *socket, uint32_t bytes)
{
	if (bytes < STREAM_BYTES || vmbus_has_packet(socket->channel))
		return false;
	loop_timer_arm(socket->linger, clock_now_ns() + socket->linger_ns);
	return true;
}

/* After a linger: its next length, at most twice or half of the last. */
static void set_pace(struct hvsock_socket *socket)
{
	uint32_t half = vmbus_guest_ring_bytes(socket->channel) / 2;
	uint32_t waiting = vmbus_waiting_bytes(socket->channel);
	uint64_t last = socket->linger_ns;

	if (!waiting)
		return; /* it has paused, which says nothing of its speed */
	last = MIN(MAX(last * half / waiting, last / 2), last * 2);
	socket->linger_ns = MIN(MAX(last, LINGER_MIN_NS), LINGER_MAX_NS);
}

/* 1: there may be more; 0: something will tell when there is; negative: the guest broke it. */
static int read_guest(struct hvsock_socket *socket)
{
	struct vmbus_packet packet;
	uint32_t bytes = 0;

	for (unsigned i = 0; i < TURN; i++) {
		int r;

		if (socket->to_host_end >= GATHER_BYTES && !flush(socket))
			return 1;
		if (linger(socket, bytes))
			return 0;
		r = vmbus_recv(socket->channel, &packet);
		if (r <= 0)
			return r;
		bytes += packet.payload_len;
		if (!take_packet(socket, &packet)) {
			log_guest("a socket's packet is not one: the connection is ended");
			return -ERR_CORRUPT;
		}
	}
	return 1;
}

/* False: the connection is broken. What the socket does not take now it asks for itself, and runs
 * this again. */
static bool run_to_host(struct hvsock_socket *socket)
{
	int r;

	if (!flush(socket))
		return true;
	r = read_guest(socket);
	if (flush(socket) && r > 0)
		vmbus_look_again(socket->channel);
	return r >= 0;
}

/* ---- both ---- */

/* The socket of the host is told of the guest's end once everything before it is through. */
static void pass_guest_end(struct hvsock_socket *socket)
{
	if (!socket->guest_ended || socket->end_passed || has_guest_data(socket))
		return;
	shutdown(socket->fd, SHUT_WR);
	socket->end_passed = true;
}

static bool is_over(const struct hvsock_socket *socket)
{
	bool all_sent = socket->host_ended && socket->to_guest_at == socket->to_guest_end;

	return all_sent && !has_guest_data(socket) && (socket->guest_ended || socket->host_left);
}

/* A guest that waits for room is woken when all of its ring has been read: it fills it at once
 * then. */
static bool run(struct hvsock_socket *socket)
{
	bool sound;

	vmbus_channel_plug(socket->channel);
	sound = run_to_host(socket);
	if (sound)
		pass_guest_end(socket);
	sound = sound && run_to_guest(socket);
	vmbus_channel_unplug(socket->channel);
	return sound;
}

void hvsock_stream_run(struct hvsock_socket *socket)
{
	bool sound = run(socket);

	if (!sound || is_over(socket) || watch(socket, NULL) < 0)
		hvsock_end(socket);
}

static void on_socket(void *user, uint32_t events)
{
	struct hvsock_socket *socket = user;

	if (events & (EPOLLHUP | EPOLLERR))
		socket->host_left = true;
	hvsock_stream_run(socket);
}

static void on_linger(void *user)
{
	set_pace(user);
	hvsock_stream_run(user);
}

int hvsock_stream_start(struct hvsock_socket *socket, struct error *err)
{
	int r = loop_timer_new(socket->owner->config.loop, on_linger, socket, &socket->linger, err);

	socket->linger_ns = LINGER_INITIALLY;
	return r < 0 ? r : watch(socket, err);
}
