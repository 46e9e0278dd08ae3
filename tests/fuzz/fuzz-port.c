/*
 * Messages of a hostile worker to the switch: what is no frame, frames with metadata that lie, many
 * at once. Two ports and an uplink; input: {u16 length, bytes} ...
 */
#include "base/bytes.h"
#include "base/macros.h"
#include "net/port.h"
#include "net/vswitch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint8_t sink;

static void touch(const uint8_t *data, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++)
		sum += data[i];
	sink = sum;
}

static void uplink_send(void *user, const uint8_t *frame, size_t len)
{
	uint8_t *copy = malloc(len);

	(void)user;
	memcpy(copy, frame, len);
	touch(copy, len);
	free(copy);
}

static unsigned received(void *user, struct port_frame *frames, unsigned count)
{
	(void)user;
	for (unsigned i = 0; i < count; i++) {
		if (frames[i].iov_count != 1 || frames[i].iov->iov_len < FRAME_MIN_BYTES ||
		    frames[i].iov->iov_len > FRAME_MAX_BYTES)
			abort();
		/* The switch lets no guest vouch for checksums. */
		if (frames[i].offload.flags & FRAME_CSUM_VALID)
			abort();
		touch(frames[i].iov->iov_base, frames[i].iov->iov_len);
	}
	return count;
}

static const struct port_ops peer_ops = { .received = received };

struct setup {
	struct loop *loop;
	struct vswitch *sw;
	struct port *peer;
	int fd; /* the hostile end */
};

static struct setup *set_up(void)
{
	static struct setup s;
	struct vswitch_port_config a = { .id = "a" };
	struct vswitch_port_config b = { .id = "b", .has_mac = true, .mac = { 2, 0, 0, 0, 0, 2 } };
	struct vswitch_uplink uplink = { uplink_send, NULL };
	int a_fds[2], b_fds[2];

	if (s.loop)
		return &s;
	if (loop_new(&s.loop, NULL) < 0 || vswitch_new(s.loop, &s.sw, NULL) < 0 ||
	    port_socketpair(a_fds, NULL) < 0 || port_socketpair(b_fds, NULL) < 0 ||
	    vswitch_add_port(s.sw, &a, a_fds[0], NULL) < 0 ||
	    vswitch_add_port(s.sw, &b, b_fds[0], NULL) < 0 ||
	    port_new(s.loop, b_fds[1], &peer_ops, NULL, &s.peer, NULL) < 0)
		abort();
	vswitch_set_uplink(s.sw, &uplink);
	s.fd = a_fds[1];
	return &s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct setup *s = set_up();

	while (size >= 2) {
		size_t len = MIN(load_le16(data), size - 2);

		/* A message of no bytes would end the connection. */
		if (len)
			send(s->fd, data + 2, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		data += 2 + len;
		size -= 2 + len;
		for (unsigned i = 0; i < 4; i++)
			loop_step(s->loop, 0);
	}
	return 0;
}
