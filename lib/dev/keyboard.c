#include "dev/keyboard.h"
#include "dev/console-state.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"
#include "spec/input.h"

#include <stdlib.h>
#include <string.h>

static const struct guid class_keyboard =
    GUID_INIT(0xf912ad6d, 0x2b17, 0x48ea, 0xbd, 0x65, 0xf9, 0x27, 0xa6, 0x1c, 0x76, 0x84);
static const struct guid instance_keyboard =
    GUID_INIT(0xd34b2567, 0xb9b6, 0x42b9, 0x87, 0x78, 0x0a, 0x4e, 0xc0, 0xb9, 0x55, 0xbf);

struct keyboard {
	struct vmbus_channel *channel;
	bool ready; /* the protocol is agreed on */
	struct keyboard_event queue[KEYBOARD_QUEUE_MAX];
	unsigned first, count;
};

static void send_queue(struct keyboard *k)
{
	while (k->count) {
		struct iovec iov = { &k->queue[k->first], sizeof(k->queue[0]) };

		if (vmbus_send(k->channel, 0, false, &iov, 1) == -ERR_BUSY)
			return;
		k->first = (k->first + 1) % KEYBOARD_QUEUE_MAX;
		k->count--;
	}
}

static void on_request(struct keyboard *k, const struct vmbus_packet *packet)
{
	struct keyboard_protocol answer = { KEYBOARD_PROTOCOL_RESPONSE };
	struct iovec iov = { &answer, sizeof(answer) };

	if (packet->payload_len < sizeof(struct keyboard_protocol))
		return;
	answer.value = load_le32(packet->payload + 4) == KEYBOARD_VERSION;
	k->ready = answer.value;
	vmbus_send(k->channel, 0, false, &iov, 1);
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct keyboard *k = dev;
	struct vmbus_packet packet;

	while (vmbus_recv(channel, &packet) > 0) {
		if (packet.wants_completion)
			vmbus_send_completion(channel, packet.transaction_id, NULL, 0);
		if (packet.type != VMBUS_INBAND || packet.payload_len < 4)
			continue;
		if (load_le32(packet.payload) == KEYBOARD_PROTOCOL_REQUEST)
			on_request(k, &packet);
		else if (load_le32(packet.payload) != KEYBOARD_LEDS)
			log_guest("keyboard: message %u is not expected",
				  load_le32(packet.payload));
	}
	send_queue(k);
}

static void on_closed(void *dev, struct vmbus_channel *channel)
{
	struct keyboard *k = dev;

	k->ready = false;
	k->first = k->count = 0;
}

static const struct vmbus_channel_ops channel_ops = { .closed = on_closed, .ready = on_ready };

int keyboard_new(struct vmbus *bus, struct keyboard **ret, struct error *err)
{
	struct keyboard *k = calloc(1, sizeof(*k));
	struct vmbus_offer offer = { .class_id = class_keyboard,
				     .instance_id = instance_keyboard,
				     .ops = &channel_ops,
				     .dev = k };
	int r;

	if (!k)
		return error_set(err, ERR_NO_MEMORY, "no memory for a keyboard");
	r = vmbus_offer(bus, &offer, &k->channel, err);
	if (r < 0) {
		free(k);
		return r;
	}
	*ret = k;
	return 0;
}

void keyboard_free(struct keyboard *k)
{
	if (!k)
		return;
	vmbus_rescind(k->channel);
	free(k);
}

unsigned keyboard_room(const struct keyboard *k)
{
	return KEYBOARD_QUEUE_MAX - k->count;
}

int keyboard_press(struct keyboard *k, struct keyboard_key key, bool down, struct error *err)
{
	if (!k->ready)
		return error_set(err, ERR_STATE,
				 "the guest has no driver for its keyboard at work");
	if (k->count == KEYBOARD_QUEUE_MAX)
		return error_set(err, ERR_BUSY, "the guest does not take what was typed before");
	k->queue[(k->first + k->count++) % KEYBOARD_QUEUE_MAX] =
	    (struct keyboard_event){ .type = KEYBOARD_EVENT,
				     .make_code = key.code,
				     .flags = (down ? 0 : KEYBOARD_BREAK) |
					      (key.extended ? KEYBOARD_E0 : 0) };
	send_queue(k);
	return 0;
}

/* ---- state ---- */

static const char *check_state(const void *state)
{
	const struct keyboard_state *s = state;

	return s->queue_bytes % sizeof(struct keyboard_event) ? "half a key" : NULL;
}

static const struct state_field state_fields[] = {
	STATE_LIST(1, struct keyboard_state, queue, queue_bytes,
		   KEYBOARD_QUEUE_MAX * sizeof(struct keyboard_event)),
	STATE(2, struct keyboard_state, ready),
	STATE(3, struct keyboard_state, reserved),
	STATE_END,
};
const struct state_desc keyboard_state_desc = { "keyboard", sizeof(struct keyboard_state),
						state_fields, check_state };

void keyboard_save(const struct keyboard *k, struct state_out *out)
{
	struct keyboard_event queue[KEYBOARD_QUEUE_MAX];
	const struct keyboard_state s = { .queue = (uint8_t *)queue,
					  .queue_bytes = k->count * (uint32_t)sizeof(queue[0]),
					  .ready = k->ready };

	for (unsigned i = 0; i < k->count; i++)
		queue[i] = k->queue[(k->first + i) % KEYBOARD_QUEUE_MAX];
	state_put(out, &keyboard_state_desc, NULL, &s);
}

int keyboard_restore(struct keyboard *k, struct state_in *in, struct error *err)
{
	struct keyboard_state s;
	int r = state_get(in, &keyboard_state_desc, NULL, &s, err);

	if (r < 0)
		return r;
	k->ready = s.ready;
	k->first = 0;
	k->count = s.queue_bytes / (unsigned)sizeof(k->queue[0]);
	if (k->count)
		memcpy(k->queue, s.queue, s.queue_bytes);
	state_clear(&keyboard_state_desc, &s);
	return 0;
}
