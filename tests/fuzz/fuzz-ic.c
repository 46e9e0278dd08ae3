/*
 * A guest that opens one integration service's channel and answers as it likes: any part of a
 * request changed, packets of its own, closing and opening again; the host asks for things
 * meanwhile.
 */
#include "vmbus-guest.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "ic/ic.h"
#include "spec/ic.h"

#include <string.h>

struct input {
	const uint8_t *data;
	size_t left;
};

static const struct guid class_of[IC_SERVICE_COUNT] = {
	[IC_SHUTDOWN_SERVICE] =
	    GUID_INIT(0x0e0b6031, 0x5213, 0x4934, 0x81, 0x8b, 0x38, 0xd9, 0x0c, 0xed, 0x39, 0xdb),
	[IC_TIME_SYNC] =
	    GUID_INIT(0x9527e630, 0xd0ae, 0x497b, 0xad, 0xce, 0xe8, 0x0a, 0xb0, 0x17, 0x5c, 0xaf),
	[IC_HEARTBEAT] =
	    GUID_INIT(0x57164f39, 0x9115, 0x4e78, 0xab, 0x55, 0x38, 0x2f, 0x3b, 0xd5, 0x42, 0x2d),
	[IC_KVP] =
	    GUID_INIT(0xa9a0f4e7, 0x5a45, 0x4d96, 0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6),
	[IC_VSS] =
	    GUID_INIT(0x35fa2e29, 0xea23, 0x4236, 0x96, 0xae, 0x3a, 0x6e, 0xba, 0xcb, 0xa4, 0x40),
	[IC_COPY] =
	    GUID_INIT(0x34d14be3, 0xdee4, 0x41c8, 0x9a, 0xe7, 0x6b, 0x17, 0x49, 0x77, 0xc1, 0x92),
};

static uint64_t take(struct input *in, unsigned bytes)
{
	uint64_t value = 0;

	bytes = (unsigned)MIN(bytes, in->left);
	memcpy(&value, in->data, bytes);
	in->data += bytes;
	in->left -= bytes;
	return value;
}

/* ---- the host ---- */

static unsigned owed; /* callbacks that must come */

static void on_shutdown(void *user, int result)
{
	owed--;
}

static void on_kvp(void *user, int result, const struct ic_pair *pairs, unsigned count)
{
	size_t *sum = user;

	for (unsigned i = 0; i < count; i++)
		*sum += strlen(pairs[i].key) + strlen(pairs[i].value);
	owed--;
}

static int read_file(void *user, uint64_t offset, void *buf, uint32_t len)
{
	memset(buf, 7, len);
	return offset > 15000 ? -ERR_IO : 0;
}

static int copy_file(struct ic *ic, uint64_t op)
{
	const struct ic_copy_request request = {
		.folder = "/tmp",
		.name = "file",
		.overwrite = op & 8,
		.size = op * 100,
		.read = read_file,
		.done = on_shutdown,
	};

	return ic_copy_file(ic, &request, NULL);
}

static int use_vss(struct ic *ic, uint64_t op)
{
	if (op & 8)
		return ic_vss_freeze(ic, NS_PER_SEC, on_shutdown, NULL, NULL);
	return ic_vss_thaw(ic, on_shutdown, NULL, NULL);
}

static void host_acts(struct ic *ic, uint64_t op, size_t *sum)
{
	static const uint8_t mac[6] = { 0 };
	struct ic_shutdown_request request = { .force = op & 8, .done = on_shutdown };
	int rc = -1;

	switch (op & 7) {
	case 0:
		rc = ic_shutdown(ic, &request, NULL);
		break;
	case 1:
		rc = ic_kvp_set(ic, IC_POOL_EXTERNAL, "key", "value", on_kvp, sum, NULL);
		break;
	case 2:
		rc = ic_kvp_delete(ic, IC_POOL_EXTERNAL, "key", on_kvp, sum, NULL);
		break;
	case 3:
		rc = ic_kvp_enumerate(ic, IC_POOL_GUEST, on_kvp, sum, NULL);
		break;
	case 4:
		rc = ic_kvp_get_ip(ic, mac, on_kvp, sum, NULL);
		break;
	case 5:
		if (op & 8)
			ic_time_resync(ic);
		else
			ic_copy_cancel(ic);
		break;
	case 6:
		rc = use_vss(ic, op);
		break;
	case 7:
		rc = copy_file(ic, op);
		break;
	}
	if (rc == 0)
		owed++;
}

/* ---- the guest ---- */

/* Answers the next request with some of its bytes changed. */
static void answer(struct vmbus_guest_channel *channel, struct input *in)
{
	struct vmbus_guest_packet packet;
	struct ic_spec_header header;
	uint32_t len;

	loop_step(channel->guest->loop, 0);
	if (!vmbus_guest_try_recv(channel, &packet))
		return;
	memcpy(&header, packet.payload, sizeof(header));
	header.flags = IC_FLAG_TRANSACTION | IC_FLAG_RESPONSE;
	header.status =
	    (uint32_t[]){ IC_S_OK, IC_S_OK, IC_E_NO_MORE_ITEMS, IC_E_FAIL }[take(in, 1) & 3];
	memcpy(packet.payload, &header, sizeof(header));
	for (uint64_t changes = take(in, 1) & 7; changes; changes--) {
		uint32_t at = (uint32_t)take(in, 2) % packet.payload_len;
		uint32_t n = (uint32_t)MIN(MIN(4u, packet.payload_len - at), in->left);
		uint64_t bytes = take(in, n);

		memcpy(packet.payload + at, &bytes, n);
	}
	len = take(in, 1) & 1 ? packet.payload_len : (uint32_t)take(in, 2) % packet.payload_len;
	vmbus_guest_send(channel, packet.transaction_id, false, packet.payload, len);
}

/* A correct negotiation, so that what follows is reached. */
static void negotiate(struct vmbus_guest_channel *channel, bool newest)
{
	struct vmbus_guest_packet packet;
	struct ic_spec_negotiate body;
	struct ic_spec_version version[2];

	if (!vmbus_guest_recv(channel, &packet))
		__builtin_trap();
	memcpy(&body, packet.payload, sizeof(body));
	memcpy(&version[0], packet.payload + sizeof(body), sizeof(version[0]));
	memcpy(&version[1],
	       packet.payload + sizeof(body) +
		   sizeof(version[0]) *
		       (body.framework_count + (newest ? 0 : body.message_count - 1u)),
	       sizeof(version[1]));
	body.framework_count = body.message_count = 1;
	body.header.flags = IC_FLAG_TRANSACTION | IC_FLAG_RESPONSE;
	memcpy(packet.payload, &body, sizeof(body));
	memcpy(packet.payload + sizeof(body), version, sizeof(version));
	vmbus_guest_send(channel, packet.transaction_id, false, packet.payload, packet.payload_len);
	loop_step(channel->guest->loop, 0);
}

static void run(struct ic *ic, struct vmbus_guest_channel *channel, struct input *in)
{
	static size_t sum; /* callbacks may come later */

	while (in->left) {
		uint64_t op = take(in, 1);

		switch (op >> 6) {
		case 0:
			host_acts(ic, op, &sum);
			break;
		case 1:
			vmbus_guest_send(channel, op, op & 1, in->data,
					 (uint32_t)MIN(in->left, op & 0x3F));
			loop_step(channel->guest->loop, 0);
			break;
		default:
			answer(channel, in);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint64_t first = take(&in, 1);
	enum ic_service service = (first & 3) | (first & 0x10 ? 4 : 0);
	struct vmbus_guest *guest = vmbus_guest_new(1, 4 * MIB);
	struct ic_config config = { .loop = guest->loop, .bus = guest->bus };
	struct vmbus_guest_channel *channel;
	struct ic *ic;

	if (service >= IC_SERVICE_COUNT)
		service -= 2;
	log_set_level(LOG_ERROR);
	owed = 0;
	if (ic_new(&config, &ic, NULL) < 0 || ic_enable(ic, service, true, NULL) < 0)
		__builtin_trap();
	vmbus_guest_connect(guest, VMBUS_VERSION_5_3);
	channel = vmbus_guest_open(guest, vmbus_guest_offer(guest, &class_of[service], 0), 5, 5);
	if (first & 4)
		negotiate(channel, first & 8);
	run(ic, channel, &in);
	ic_free(ic);
	if (owed)
		__builtin_trap();
	vmbus_guest_forget(channel);
	vmbus_guest_free(guest);
	return 0;
}
