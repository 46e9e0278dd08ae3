#include "dev/mouse.h"
#include "dev/console-state.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"
#include "spec/input.h"

#include <stdlib.h>
#include <string.h>

static const struct guid class_mouse =
    GUID_INIT(0xcfa8b69e, 0x5b4a, 0x4cc0, 0xb9, 0x8b, 0x8b, 0xa1, 0xa1, 0xf3, 0xf9, 0x5a);
static const struct guid instance_mouse =
    GUID_INIT(0x58f75a6d, 0xd949, 0x4320, 0x99, 0xe1, 0xa2, 0xa2, 0x57, 0x6d, 0x58, 0x1c);

/* struct mouse_report, in the words of the HID usage tables. */
static const uint8_t report_descriptor[] = {
	0x05, 0x01,                   /* usage page: generic desktop */
	0x09, 0x02,                   /* usage: mouse */
	0xA1, 0x01,                   /* collection: application */
	0x09, 0x01,                   /*   usage: pointer */
	0xA1, 0x00,                   /*   collection: physical */
	0x05, 0x09,                   /*     usage page: buttons */
	0x19, 0x01, 0x29, 0x05,       /*     1 to 5 */
	0x15, 0x00, 0x25, 0x01,       /*     0 or 1 */
	0x95, 0x05, 0x75, 0x01,       /*     five of one bit */
	0x81, 0x02,                   /*     input: variable, absolute */
	0x95, 0x01, 0x75, 0x03,       /*     three bits */
	0x81, 0x03,                   /*     input: constant */
	0x05, 0x01,                   /*     usage page: generic desktop */
	0x09, 0x30, 0x09, 0x31,       /*     X, Y */
	0x15, 0x00, 0x26, 0xFF, 0x7F, /*     0 to 32767 */
	0x75, 0x10, 0x95, 0x02,       /*     two of 16 bits */
	0x81, 0x02,                   /*     input: variable, absolute */
	0x09, 0x38,                   /*     wheel */
	0x16, 0x01, 0x80,             /*     -32767 */
	0x26, 0xFF, 0x7F,             /*     to 32767 */
	0x75, 0x10, 0x95, 0x01,       /*     one of 16 bits */
	0x81, 0x06,                   /*     input: variable, relative */
	0xC0, 0xC0,                   /* both collections end */
};

struct mouse {
	struct vmbus_channel *channel;
	bool ready;
};

static int send(struct mouse *m, enum mouse_message type, void *message, size_t bytes,
		const void *more, size_t more_bytes)
{
	struct iovec iov[2] = { { message, bytes }, { (void *)(uintptr_t)more, more_bytes } };
	struct mouse_header header = {
		.pipe_type = 1,
		.pipe_bytes = (uint32_t)(bytes + more_bytes - 8),
		.type = type,
		.bytes = (uint32_t)(bytes + more_bytes - sizeof(header)),
	};

	memcpy(message, &header, sizeof(header));
	return vmbus_send(m->channel, 0, false, iov, more_bytes ? 2 : 1);
}

static void send_device_info(struct mouse *m)
{
	struct mouse_device_info info = {
		.attributes_bytes = 32,
		.vendor = 0x045E,
		.product = 0x0621,
		.version = 1,
		.hid_length = 9,
		.hid_type = 0x21,
		.hid_version = 0x0111,
		.descriptor_count = 1,
		.report_type = 0x22,
		.report_length = sizeof(report_descriptor),
	};

	send(m, MOUSE_DEVICE_INFO, &info, sizeof(info), report_descriptor,
	     sizeof(report_descriptor));
}

/* The guest waits for both answers. */
static void on_request(struct mouse *m, const struct vmbus_packet *packet)
{
	struct mouse_protocol_response answer = { .version = MOUSE_VERSION };

	if (packet->payload_len < sizeof(struct mouse_protocol_request))
		return;
	answer.approved = load_le32(packet->payload + sizeof(struct mouse_header)) == MOUSE_VERSION;
	send(m, MOUSE_PROTOCOL_RESPONSE, &answer, sizeof(answer), NULL, 0);
	if (answer.approved)
		send_device_info(m);
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct mouse *m = dev;
	struct vmbus_packet packet;

	while (vmbus_recv(channel, &packet) > 0) {
		if (packet.wants_completion)
			vmbus_send_completion(channel, packet.transaction_id, NULL, 0);
		if (packet.type != VMBUS_INBAND || packet.payload_len < sizeof(struct mouse_header))
			continue;
		switch (load_le32(packet.payload + offsetof(struct mouse_header, type))) {
		case MOUSE_PROTOCOL_REQUEST:
			on_request(m, &packet);
			break;
		case MOUSE_DEVICE_INFO_ACK:
			m->ready = true;
			break;
		default:
			log_guest("mouse: an unexpected message");
		}
	}
}

static void on_closed(void *dev, struct vmbus_channel *channel)
{
	((struct mouse *)dev)->ready = false;
}

static const struct vmbus_channel_ops channel_ops = { .closed = on_closed, .ready = on_ready };

int mouse_new(struct vmbus *bus, struct mouse **ret, struct error *err)
{
	struct mouse *m = calloc(1, sizeof(*m));
	struct vmbus_offer offer = { .class_id = class_mouse,
				     .instance_id = instance_mouse,
				     .ops = &channel_ops,
				     .dev = m };
	int r;

	if (!m)
		return error_set(err, ERR_NO_MEMORY, "no memory for a mouse");
	r = vmbus_offer(bus, &offer, &m->channel, err);
	if (r < 0) {
		free(m);
		return r;
	}
	*ret = m;
	return 0;
}

void mouse_free(struct mouse *m)
{
	if (!m)
		return;
	vmbus_rescind(m->channel);
	free(m);
}

int mouse_set(struct mouse *m, const struct mouse_state *state, struct error *err)
{
	struct mouse_report report = { state->buttons & 0x1F, MIN(state->x, MOUSE_MAX_POSITION),
				       MIN(state->y, MOUSE_MAX_POSITION), state->wheel };
	uint8_t message[sizeof(struct mouse_header) + sizeof(report)];

	if (!m->ready)
		return error_set(err, ERR_STATE, "the guest has no driver for its mouse at work");
	memcpy(message + sizeof(struct mouse_header), &report, sizeof(report));
	if (send(m, MOUSE_REPORT, message, sizeof(message), NULL, 0) < 0)
		return error_set(err, ERR_BUSY, "the guest does not take the mouse's reports");
	return 0;
}

/* ---- state ---- */

static const struct state_field state_fields[] = {
	STATE(1, struct mouse_state_saved, ready),
	STATE(2, struct mouse_state_saved, reserved),
	STATE_END,
};
const struct state_desc mouse_state_desc = { "mouse", sizeof(struct mouse_state_saved),
					     state_fields, NULL };

void mouse_save(const struct mouse *m, struct state_out *out)
{
	const struct mouse_state_saved s = { .ready = m->ready };

	state_put(out, &mouse_state_desc, NULL, &s);
}

int mouse_restore(struct mouse *m, struct state_in *in, struct error *err)
{
	struct mouse_state_saved s;
	int r = state_get(in, &mouse_state_desc, NULL, &s, err);

	if (r == 0)
		m->ready = s.ready;
	return r;
}
