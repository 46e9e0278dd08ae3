#include "direct/direct.h"

#include "base/macros.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

int direct_receive(struct direct_reader *reader, int fd)
{
	ssize_t n;

	memmove(reader->bytes, reader->bytes + reader->at, reader->end - reader->at);
	reader->end -= reader->at;
	reader->at = 0;
	do
		n = read(fd, reader->bytes + reader->end, sizeof(reader->bytes) - reader->end);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		reader->end += (uint32_t)n;
	return n > 0 ? 1 : (int)n;
}

int direct_next(struct direct_reader *reader, struct direct_frame *ret)
{
	uint32_t have = reader->end - reader->at;
	struct direct_header header;

	if (have < sizeof(header))
		return 0;
	memcpy(&header, reader->bytes + reader->at, sizeof(header));
	if (header.len > DIRECT_FRAME_MAX || header.reserved[0] || header.reserved[1] ||
	    header.reserved[2])
		return -1;
	if (have - sizeof(header) < header.len)
		return 0;
	*ret = (struct direct_frame){ header.type, reader->bytes + reader->at + sizeof(header),
				      header.len };
	reader->at += (uint32_t)sizeof(header) + header.len;
	return 1;
}

static bool wait_for_room(int fd)
{
	struct pollfd poll_fd = { fd, POLLOUT, 0 };

	return poll(&poll_fd, 1, -1) > 0 || errno == EINTR;
}

static bool send_all(int fd, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EAGAIN && wait_for_room(fd))
			continue;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

bool direct_send(int fd, enum direct_type type, const void *data, size_t len)
{
	uint8_t bytes[sizeof(struct direct_header) + DIRECT_FRAME_MAX];
	struct direct_header header = { .type = (uint8_t)type, .len = (uint32_t)len };

	if (len > DIRECT_FRAME_MAX)
		return false;
	memcpy(bytes, &header, sizeof(header));
	if (len)
		memcpy(bytes + sizeof(header), data, len);
	return send_all(fd, bytes, sizeof(header) + len);
}

bool direct_send_text(int fd, enum direct_type type, const char *text)
{
	return direct_send(fd, type, text, strlen(text));
}
