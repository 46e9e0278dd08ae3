/*
 * A guest that has connected and opened a channel properly, then posts any messages, writes
 * anything into its rings and signals; the device on the other side sends, holds, drops, rescinds
 * and offers sub-channels meanwhile.
 */
#include "vmbus-guest.h"

#include "base/log.h"
#include "base/macros.h"

#include <string.h>

#define CHANNELS 3

struct input {
	const uint8_t *data;
	size_t left;
};

struct device {
	struct vmbus *bus;
	struct vmbus_channel *channel[CHANNELS]; /* [0]: the primary */
	struct vmbus_channel *held;
	unsigned holds;
	uint8_t sum;
};

static const struct guid class_id = GUID_INIT(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11);

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t value = 0;

	bytes = (unsigned)MIN(bytes, in->left);
	memcpy(&value, in->data, bytes);
	in->data += bytes;
	in->left -= bytes;
	return value;
}

static size_t take_bytes(struct input *in, void *buf, size_t max)
{
	size_t n = take(in, 1) % (max + 1);

	n = MIN(n, in->left);
	memcpy(buf, in->data, n);
	in->data += n;
	in->left -= n;
	return n;
}

/* ---- the device ---- */

static void read_all(struct device *device, const struct vmbus_packet *packet)
{
	for (uint32_t i = 0; i < packet->payload_len; i++)
		device->sum += packet->payload[i];
	for (unsigned i = 0; i < packet->iov_count; i++) {
		device->sum += *(uint8_t *)packet->iov[i].iov_base;
		device->sum += ((uint8_t *)packet->iov[i].iov_base)[packet->iov[i].iov_len - 1];
	}
}

static void on_closed(void *dev, struct vmbus_channel *channel)
{
	struct device *device = dev;

	if (channel != device->channel[0])
		return;
	for (unsigned i = 1; i < CHANNELS; i++)
		device->channel[i] = NULL;
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct device *device = dev;
	struct vmbus_packet packet;
	struct iovec iov = { .iov_base = (void *)(uintptr_t) "reply", .iov_len = 6 };

	while (vmbus_recv(channel, &packet) > 0) {
		read_all(device, &packet);
		if (packet.wants_completion)
			vmbus_send_completion(channel, packet.transaction_id, &iov, 1);
	}
}

static const struct vmbus_channel_ops ops = { NULL, on_closed, on_ready };

static void offer(struct device *device, unsigned index)
{
	struct vmbus_offer vmbus_offer_ = { .class_id = class_id,
					    .instance_id = class_id,
					    .subchannel_index = (uint16_t)index,
					    .ops = &ops,
					    .dev = device };

	if (!device->channel[index] && (index == 0 || device->channel[0]))
		vmbus_offer(device->bus, &vmbus_offer_, &device->channel[index], NULL);
}

static void rescind(struct device *device, unsigned index)
{
	struct vmbus_channel *channel = device->channel[index];

	if (!channel)
		return;
	if (index == 0)
		memset(device->channel, 0, sizeof(device->channel));
	device->channel[index] = NULL;
	vmbus_rescind(channel);
}

static void use_gpadl(struct device *device, struct vmbus_channel *channel, struct input *in)
{
	uint32_t id = 0xE1E10 + (uint32_t)take(in, 1) % 8;
	uint64_t offset = take(in, 2);
	uint8_t buf[100] = { 0 };
	struct iovec iov[4];

	vmbus_gpadl_write(channel, id, offset, buf, sizeof(buf));
	vmbus_gpadl_read(channel, id, offset, buf, take(in, 1) % sizeof(buf));
	if (vmbus_gpadl_map(channel, id, offset, take(in, 2), iov, NULL, 4))
		device->sum += *(uint8_t *)iov[0].iov_base;
}

static void device_acts(struct device *device, struct input *in)
{
	static const struct vmbus_xfer_range ranges[2] = { { 1, 0 }, { 2, 64 } };
	static uint8_t payload[5000];
	uint64_t op = take(in, 1);
	unsigned index = (unsigned)(op >> 4) % CHANNELS;
	struct vmbus_channel *channel = device->channel[index];
	struct iovec iov = { payload, take(in, 2) % sizeof(payload) };

	switch (op & 7) {
	case 0:
		offer(device, index);
		break;
	case 1:
		rescind(device, index);
		break;
	case 2:
		if (channel)
			vmbus_send(channel, op, op & 8, &iov, 1);
		break;
	case 3:
		if (channel)
			vmbus_send_xfer_pages(channel, op, 1, ranges, 2, &iov, 1);
		break;
	case 4:
		if (channel && (!device->held || device->held == channel)) {
			device->held = channel;
			device->holds++;
			vmbus_channel_hold(channel);
		}
		break;
	case 5:
		if (device->holds) {
			vmbus_channel_drop(device->held);
			if (--device->holds == 0)
				device->held = NULL;
		}
		break;
	case 6:
		if (channel)
			use_gpadl(device, channel, in);
		break;
	}
}

/* ---- the guest ---- */

static void post(struct vmbus_guest *guest, struct input *in)
{
	uint8_t bytes[HV_MESSAGE_PAYLOAD_MAX] = { 0 };
	enum vmbus_spec_msg_type type = take(in, 1) % 26;
	size_t len = 8 + take_bytes(in, bytes + 8, sizeof(bytes) - 8);
	struct hv_spec_post_message msg = { .connection_id = 1, .message_type = 1 };
	struct part_hypercall call = { .control = HV_CALL_POST_MESSAGE, .input = guest->post_page };

	/* Short inputs still make whole messages. */
	if (take(in, 1) & 1)
		len = MAX(len, sizeof(struct vmbus_spec_open));
	memcpy(bytes, &type, 4);
	msg.payload_size = (uint32_t)len;
	memcpy(msg.payload, bytes, len);
	mem_write(guest->mem, guest->post_page, &msg, sizeof(msg));
	hv_hypercall(guest->hv, 0, &call);
}

static void take_message(struct vmbus_guest *guest)
{
	uint64_t gpa = guest->message_page + VMBUS_SINT * sizeof(struct hv_spec_message);
	struct hv_spec_message *slot = mem_ptr(guest->mem, gpa, sizeof(*slot));

	slot->type = 0;
	hv_msr_write(guest->hv, 0, HV_MSR_EOM, 0);
}

static void raw_packet(struct vmbus_guest_channel *channel, struct input *in)
{
	uint8_t bytes[256] = { 0 };
	size_t len = ALIGN_UP(take_bytes(in, bytes, sizeof(bytes)), 8u);

	vmbus_guest_send_raw(channel, bytes, (uint32_t)len);
}

static void write_ring(struct vmbus_guest_channel *channel, struct input *in)
{
	uint64_t where = take(in, 1);
	bool in_ring = where & 1;

	if (where & 2)
		vmbus_guest_ring_set(channel, in_ring, (where >> 2 & 3) * 4,
				     (uint32_t)take(in, 2) & ~(where & 0x10 ? 0u : 7u));
	else
		mem_write(channel->guest->mem, channel->pages[where % channel->page_count],
			  in->data, MIN(in->left, 64u));
}

static void signal(struct vmbus_guest *guest, struct input *in)
{
	uint32_t connection = VMBUS_CONNECTION_CHANNEL + (uint32_t)take(in, 1) % 8;
	struct part_hypercall call = { .control = HV_CALL_SIGNAL_EVENT | HV_CONTROL_FAST,
				       .input = connection & 4 ? 2 : connection };

	hv_hypercall(guest->hv, 0, &call);
}

static void run(struct vmbus_guest *guest, struct device *device,
		struct vmbus_guest_channel *channel, struct input *in)
{
	while (in->left) {
		switch (take(in, 1) & 7) {
		case 0:
			post(guest, in);
			break;
		case 1:
			raw_packet(channel, in);
			break;
		case 2:
			write_ring(channel, in);
			break;
		case 3:
			signal(guest, in);
			break;
		case 4:
			take_message(guest);
			break;
		case 5:
			device_acts(device, in);
			break;
		default:
			loop_step(guest->loop, 0);
		}
	}
}

static void on_reset_done(void *user)
{
	*(bool *)user = true;
}

/* However it went: a reset ends once nothing is held, and the bus works again. */
static void must_recover(struct vmbus_guest *guest, struct device *device)
{
	bool done = false;

	vmbus_reset(guest->bus, on_reset_done, &done);
	if (done != (device->holds == 0))
		__builtin_trap();
	while (device->holds--)
		vmbus_channel_drop(device->held);
	if (!done)
		__builtin_trap();
	for (unsigned i = 0; i < CHANNELS; i++)
		rescind(device, CHANNELS - 1 - i);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t versions[] = { VMBUS_VERSION_5_3, VMBUS_VERSION_0_13,
					     VMBUS_VERSION_3_0, VMBUS_VERSION_5_0 };
	struct input in = { data, size };
	struct vmbus_guest *guest = vmbus_guest_new(2, 4 * MIB);
	struct device device = { .bus = guest->bus };
	struct vmbus_guest_channel *channel;

	log_set_level(LOG_ERROR);
	offer(&device, 0);
	vmbus_guest_connect(guest, versions[take(&in, 1) & 3]);
	channel = vmbus_guest_open(guest, vmbus_guest_offer(guest, &class_id, 0), 3, 3);
	run(guest, &device, channel, &in);
	must_recover(guest, &device);
	vmbus_guest_forget(channel);
	vmbus_guest_free(guest);
	return 0;
}
