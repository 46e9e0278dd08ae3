#include "net/port.h"

#include "base/macros.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define SOCKET_BYTES   (1024 * 1024) /* asked for; the kernel gives up to net.core.wmem_max */
#define HEADER_VERSION 1

/* In front of each frame. Same host, same byte order. */
struct port_header {
	uint8_t version;
	uint8_t flags; /* FRAME_NEEDS_CSUM ... */
	uint16_t gso_bytes;
	uint32_t reserved[3];
};
_Static_assert(sizeof(struct port_header) == 16, "keeps frames aligned");

#define SLOT_BYTES ALIGN_UP(sizeof(struct port_header) + FRAME_MAX_BYTES + 1, 64)

struct port {
	struct loop *loop;
	int fd;
	struct loop_fd *watch;
	const struct port_ops *ops;
	void *user;
	struct port_stats stats;
	bool closed;
	bool want_writable; /* a send was refused */
	bool paused;        /* `received` refused frames */

	/* Frames that were received: [first, count) are not taken yet. */
	uint8_t *slots; /* PORT_BATCH of SLOT_BYTES; pages that no frame reached stay untouched */
	struct port_frame frames[PORT_BATCH];
	struct iovec frame_iov[PORT_BATCH];
	unsigned first, count;

	struct mmsghdr messages[PORT_BATCH];
	struct iovec message_iov[PORT_BATCH];
};

static void watch_events(struct port *port)
{
	uint32_t events = 0;

	if (!port->paused)
		events |= EPOLLIN;
	if (port->want_writable)
		events |= EPOLLOUT;
	loop_fd_set(port->watch, events);
}

static void go_down(struct port *port)
{
	if (port->closed)
		return;
	port->closed = true;
	loop_fd_remove(port->watch);
	port->watch = NULL;
	if (port->ops->closed)
		port->ops->closed(port->user);
}

/* ---- receiving ---- */

/* Checks the message in slot i; false if it is no frame. */
static bool accept_message(struct port *port, unsigned i, struct port_frame *ret, struct iovec *iov)
{
	const struct mmsghdr *message = &port->messages[i];
	uint8_t *slot = port->slots + i * SLOT_BYTES;
	struct port_header header;

	if (message->msg_hdr.msg_flags & MSG_TRUNC ||
	    message->msg_len < sizeof(header) + FRAME_MIN_BYTES ||
	    message->msg_len > sizeof(header) + FRAME_MAX_BYTES)
		return false;
	memcpy(&header, slot, sizeof(header));
	if (header.version != HEADER_VERSION)
		return false;
	*iov = (struct iovec){ slot + sizeof(header), message->msg_len - sizeof(header) };
	ret->offload = (struct frame_offload){ header.flags, header.gso_bytes };
	ret->iov = iov;
	ret->iov_count = 1;
	return true;
}

static void collect_frames(struct port *port, unsigned message_count)
{
	port->first = port->count = 0;
	for (unsigned i = 0; i < message_count; i++) {
		unsigned n = port->count;

		if (!accept_message(port, i, &port->frames[n], &port->frame_iov[n])) {
			port->stats.malformed++;
			continue;
		}
		port->stats.received++;
		port->stats.received_bytes += port->frame_iov[n].iov_len;
		port->count++;
	}
}

/* Hands what is there to the owner; false if it did not take all. */
static bool deliver(struct port *port)
{
	unsigned left = port->count - port->first, taken;

	if (!left)
		return true;
	taken = port->ops->received(port->user, port->frames + port->first, left);
	port->first += MIN(taken, left);
	return port->first == port->count;
}

static void receive_batch(struct port *port)
{
	int n;
	bool end = false;

	for (unsigned i = 0; i < PORT_BATCH; i++) {
		port->message_iov[i] = (struct iovec){ port->slots + i * SLOT_BYTES, SLOT_BYTES };
		port->messages[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = &port->message_iov[i],
								   .msg_iovlen = 1 } };
	}
	n = recvmmsg(port->fd, port->messages, PORT_BATCH, MSG_DONTWAIT, NULL);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			go_down(port);
		return;
	}
	/* A message of no bytes is how the end of a SEQPACKET socket looks. */
	for (int i = 0; i < n; i++)
		if (port->messages[i].msg_len == 0) {
			n = i;
			end = true;
		}
	collect_frames(port, (unsigned)n);
	if (!deliver(port)) {
		port->paused = true;
		watch_events(port);
	} else if (end) {
		go_down(port);
	}
}

void port_resume(struct port *port)
{
	if (!port->paused || port->closed)
		return;
	if (!deliver(port))
		return;
	port->paused = false;
	watch_events(port);
}

/* ---- sending ---- */

static size_t frame_bytes(const struct port_frame *frame)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < frame->iov_count; i++)
		bytes += frame->iov[i].iov_len;
	return bytes;
}

struct outgoing {
	struct port_header header;
	struct iovec iov[1 + PORT_MAX_IOV];
};

static bool fill_message(const struct port_frame *frame, struct outgoing *out, struct mmsghdr *ret)
{
	size_t bytes = frame_bytes(frame);

	if (frame->iov_count > PORT_MAX_IOV || bytes < FRAME_MIN_BYTES || bytes > FRAME_MAX_BYTES)
		return false;
	out->header = (struct port_header){ .version = HEADER_VERSION,
					    .flags = frame->offload.flags,
					    .gso_bytes = frame->offload.gso_bytes };
	out->iov[0] = (struct iovec){ &out->header, sizeof(out->header) };
	memcpy(out->iov + 1, frame->iov, frame->iov_count * sizeof(*frame->iov));
	*ret = (struct mmsghdr){
		.msg_hdr = { .msg_iov = out->iov, .msg_iovlen = 1 + frame->iov_count },
	};
	return true;
}

static void refuse(struct port *port)
{
	if (port->want_writable)
		return;
	port->want_writable = true;
	watch_events(port);
}

/* Sends messages; returns how many went out. */
static unsigned send_messages(struct port *port, struct mmsghdr *messages, unsigned count)
{
	int n = sendmmsg(port->fd, messages, count, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ENOMEM)
			return 0;
		/* The reading side will see the end and report it; drop until then. */
		return count;
	}
	for (int i = 0; i < n; i++) {
		port->stats.sent++;
		port->stats.sent_bytes += messages[i].msg_len - sizeof(struct port_header);
	}
	return (unsigned)n;
}

unsigned port_send(struct port *port, const struct port_frame *frames, unsigned count)
{
	struct mmsghdr messages[PORT_BATCH];
	struct outgoing out[PORT_BATCH];
	unsigned source[PORT_BATCH]; /* index of the frame behind each message */
	unsigned done = 0;

	while (done < count && !port->closed) {
		unsigned filled = 0, next = done, sent;

		while (next < count && filled < PORT_BATCH) {
			if (fill_message(&frames[next], &out[filled], &messages[filled]))
				source[filled++] = next;
			else
				port->stats.malformed++;
			next++;
		}
		sent = filled ? send_messages(port, messages, filled) : 0;
		if (sent < filled) {
			refuse(port);
			return source[sent];
		}
		done = next;
	}
	return count;
}

static void on_ready(void *user, uint32_t events)
{
	struct port *port = user;

	if (events & EPOLLOUT && port->want_writable) {
		port->want_writable = false;
		watch_events(port);
		if (port->ops->writable)
			port->ops->writable(port->user);
		return; /* level-triggered: what else is ready comes again */
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		if (!port->paused)
			receive_batch(port);
		else if (events & (EPOLLHUP | EPOLLERR))
			go_down(port);
	}
}

/* ---- life ---- */

int port_new(struct loop *loop, int fd, const struct port_ops *ops, void *user, struct port **ret,
	     struct error *err)
{
	struct port *port = calloc(1, sizeof(*port));
	int size = SOCKET_BYTES, r;

	if (port)
		port->slots = malloc(PORT_BATCH * SLOT_BYTES);
	if (!port || !port->slots) {
		free(port);
		close(fd);
		return error_set(err, ERR_NO_MEMORY, "no memory for a switch port");
	}
	port->loop = loop;
	port->fd = fd;
	port->ops = ops;
	port->user = user;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	r = loop_fd_add(loop, fd, EPOLLIN, on_ready, port, &port->watch, err);
	if (r < 0) {
		port_free(port);
		return r;
	}
	*ret = port;
	return 0;
}

void port_free(struct port *port)
{
	if (!port)
		return;
	loop_fd_remove(port->watch);
	close(port->fd);
	free(port->slots);
	free(port);
}

bool port_is_open(const struct port *port)
{
	return !port->closed;
}

bool port_peer_gone(const struct port *port)
{
	struct pollfd p = { .fd = port->fd };

	return port->closed || (poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR));
}

const struct port_stats *port_stats(const struct port *port)
{
	return &port->stats;
}

int port_socketpair(int ret[static 2], struct error *err)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ret) < 0)
		return error_set_errno(err, errno, "creating the sockets of a switch port");
	return 0;
}
