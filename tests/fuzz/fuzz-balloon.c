/* A guest that speaks the Dynamic Memory protocol as it likes, while the host wants more and less
 * of it. After each message what it has adds up. */
#include "vmbus-guest.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/balloon.h"
#include "spec/dynmem.h"

#include <string.h>

#define RAM   (16 * MIB)
#define REACH (4 * GIB)

static const struct guid class_id =
    GUID_INIT(0x525074dc, 0x8985, 0x46e2, 0x80, 0x57, 0xa3, 0x07, 0xdc, 0x18, 0xa5, 0x02);

static int on_grow(void *user, uint64_t size_bytes)
{
	mem_grow(((struct vmbus_guest *)user)->mem, size_bytes);
	return 0;
}

static void on_changed(void *user)
{
}

static void check(struct vmbus_guest *guest, struct balloon *balloon)
{
	struct balloon_status status;

	balloon_status(balloon, &status);
	if (status.assigned_bytes + status.ballooned_bytes < RAM ||
	    status.assigned_bytes + status.ballooned_bytes > mem_size_bytes(guest->mem))
		__builtin_trap();
}

static void drain(struct vmbus_guest_channel *channel)
{
	struct vmbus_guest_packet packet;

	while (vmbus_guest_try_recv(channel, &packet))
		;
}

/* A guest may give away the pages of its own rings and then reads rubbish there, which our double
 * takes for the host's mistake. So it keeps its first MiB, where they are. */
static void keep_own_pages(uint8_t message[static 64])
{
	for (size_t at = sizeof(struct dynmem_balloon_response); at + 8 <= 64; at += 8)
		store_le64(message + at, load_le64(message + at) | MIB / MEM_PAGE_SIZE);
}

/* A message of the guest's: its type, and up to 56 bytes. */
static void say(struct vmbus_guest_channel *channel, uint8_t type, const uint8_t *data, size_t size)
{
	uint8_t message[64] = { type };

	memcpy(message + 8, data, MIN(size, sizeof(message) - 8));
	if (type == DYNMEM_BALLOON_RESPONSE)
		keep_own_pages(message);
	vmbus_guest_send(channel, 0, false, message, (uint32_t)MIN(size + 8, sizeof(message)));
	loop_step(channel->guest->loop, 0);
	drain(channel);
}

static void negotiate(struct vmbus_guest_channel *channel)
{
	static const uint8_t version[] = { 0, 0, 2, 0, 0, 0, 0, 0 };
	static const uint8_t capabilities[24] = { 0x1F };

	say(channel, DYNMEM_VERSION_REQUEST, version, sizeof(version));
	say(channel, DYNMEM_CAPABILITIES_REPORT, capabilities, sizeof(capabilities));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vmbus_guest *guest = vmbus_guest_new_growable(1, RAM, REACH);
	struct balloon_config config = { .bus = guest->bus,
					 .loop = guest->loop,
					 .mem = guest->mem,
					 .first_bytes = RAM,
					 .grow = on_grow,
					 .changed = on_changed,
					 .user = guest };
	struct vmbus_guest_channel *channel;
	struct balloon *balloon;

	log_set_level(LOG_ERROR);
	if (balloon_new(&config, &balloon, NULL) < 0)
		__builtin_trap();
	vmbus_guest_connect(guest, VMBUS_VERSION_5_3);
	channel = vmbus_guest_open(guest, vmbus_guest_offer(guest, &class_id, 0), 4, 4);
	if (size && data[0] & 0x80)
		negotiate(channel);
	while (size >= 2) {
		size_t len = MIN((size_t)data[1] & 0x3F, size - 2);

		if (data[0] & 0x40)
			balloon_set_target(balloon, (uint64_t)data[1] * 16 * MIB);
		else
			say(channel, data[0] & 0xF, data + 2, len);
		check(guest, balloon);
		len = data[0] & 0x40 ? 0 : len;
		data += 2 + len;
		size -= 2 + len;
	}
	balloon_free(balloon);
	vmbus_guest_forget(channel);
	vmbus_guest_free(guest);
	return 0;
}
