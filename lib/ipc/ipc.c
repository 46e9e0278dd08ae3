#include "ipc/ipc.h"

#include "base/macros.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* Room for the descriptors of one message; the union aligns it for struct cmsghdr. */
union control {
	char bytes[CMSG_SPACE(IPC_MAX_FDS * sizeof(int))];
	struct cmsghdr align;
};

static int send_failed(struct error *err)
{
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return error_set(err, ERR_BUSY, "the peer does not read its messages");
	if (errno == EPIPE || errno == ECONNRESET)
		return error_set(err, ERR_CANCELLED, "the process at the other end has ended");
	return error_set_errno(err, errno, "sending a message");
}

int ipc_send(int fd, const json_t *msg, const int *fds, unsigned fd_count, struct error *err)
{
	AUTO_FREE char *text = json_dumps(msg, JSON_COMPACT);
	struct iovec iov = { text, text ? strlen(text) : 0 };
	union control control = { 0 };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	ssize_t n;

	if (!text)
		return error_set(err, ERR_NO_MEMORY, "no memory for a message");
	if (iov.iov_len > IPC_MAX_BYTES || fd_count > IPC_MAX_FDS)
		return error_set(err, ERR_LIMIT,
				 "a message of %zu bytes and %u descriptors is too large",
				 iov.iov_len, fd_count);
	if (fd_count) {
		struct cmsghdr *cmsg;

		header.msg_control = control.bytes;
		header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&header);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, fd_count * sizeof(int));
	}
	do
		n = sendmsg(fd, &header, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? send_failed(err) : 0;
}

static unsigned take_fds(struct msghdr *header, int *fds)
{
	unsigned count = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		size_t bytes;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		bytes = c->cmsg_len - CMSG_LEN(0);
		memcpy(fds + count, CMSG_DATA(c), bytes);
		count += (unsigned)(bytes / sizeof(int));
	}
	return count;
}

static void close_fds(const int *fds, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		close(fds[i]);
}

int ipc_recv(int fd, json_t **ret, int *fds, unsigned *ret_fd_count, struct error *err)
{
	AUTO_FREE char *text = malloc(IPC_MAX_BYTES);
	struct iovec iov = { text, IPC_MAX_BYTES };
	union control control;
	struct msghdr header = { .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes) };
	int got[IPC_MAX_FDS];
	unsigned count;
	json_error_t reason;
	json_t *msg;
	ssize_t n;

	if (!text)
		return error_set(err, ERR_NO_MEMORY, "no memory for a message");
	do
		n = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return error_set(err, ERR_BUSY, "no message yet");
	if (n < 0 && errno == ECONNRESET)
		return 0;
	if (n < 0)
		return error_set_errno(err, errno, "receiving a message");
	count = take_fds(&header, got);
	if (n == 0) {
		close_fds(got, count);
		return 0;
	}
	if (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		close_fds(got, count);
		return error_set(err, ERR_CORRUPT, "the peer sent a message that is too large");
	}
	msg = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &reason);
	if (!json_is_object(msg)) {
		json_decref(msg);
		close_fds(got, count);
		return error_set(err, ERR_CORRUPT, "the peer sent what is no JSON object");
	}
	if (fds) {
		memcpy(fds, got, count * sizeof(int));
		*ret_fd_count = count;
	} else {
		close_fds(got, count);
	}
	*ret = msg;
	return 1;
}
