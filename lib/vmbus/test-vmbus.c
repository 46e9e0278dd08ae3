/* The bus against a guest that does what Linux, iPXE and FreeBSD do. */
#include "vmbus-guest.h"

#include "base/macros.h"
#include "state/check-state.h"
#include "vmbus/vmbus-state.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct guid class_a = GUID_INIT(0x11111111, 0x2222, 0x3333, 1, 2, 3, 4, 5, 6, 7, 8);
static const struct guid instance_a = GUID_INIT(0xaaaaaaaa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1);

/* A device that echoes every in-band payload, as a completion if one is asked for. */
struct echo {
	struct vmbus_channel *channel;
	unsigned opened, closed, received;
	bool refuse_open, greet, stop_reading, hold_on_packet;
	uint64_t gpa_bytes;
	uint8_t gpa_sum;
	int last_recv;
	uint8_t *unsent;
	uint32_t unsent_len;
	uint64_t unsent_id;
};

static int echo_opened(void *dev, struct vmbus_channel *channel, const uint8_t *user_data)
{
	struct echo *echo = dev;
	struct iovec iov = { .iov_base = (void *)(uintptr_t) "hello", .iov_len = 6 };

	echo->opened++;
	if (echo->greet)
		assert_int_equal(vmbus_send(channel, 0, false, &iov, 1), 0);
	return echo->refuse_open ? -ERR_BUSY : 0;
}

static void echo_closed(void *dev, struct vmbus_channel *channel)
{
	struct echo *echo = dev;

	echo->closed++;
	assert_false(vmbus_channel_is_open(channel));
	free(TAKE(echo->unsent));
}

static int echo_send(struct echo *echo, struct vmbus_channel *channel, uint64_t id,
		     const void *payload, uint32_t len)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)payload, .iov_len = len };

	return vmbus_send_completion(channel, id, &iov, 1);
}

static bool echo_flush(struct echo *echo, struct vmbus_channel *channel)
{
	if (!echo->unsent)
		return true;
	if (echo_send(echo, channel, echo->unsent_id, echo->unsent, echo->unsent_len) < 0)
		return false;
	free(TAKE(echo->unsent));
	return true;
}

static void echo_sum(struct echo *echo, const struct vmbus_packet *packet)
{
	for (unsigned i = 0; i < packet->iov_count; i++)
		for (size_t k = 0; k < packet->iov[i].iov_len; k++)
			echo->gpa_sum += ((const uint8_t *)packet->iov[i].iov_base)[k];
	echo->gpa_bytes = packet->iov_bytes;
}

static void echo_ready(void *dev, struct vmbus_channel *channel)
{
	struct echo *echo = dev;
	struct vmbus_packet packet;

	while (!echo->stop_reading && echo_flush(echo, channel) &&
	       (echo->last_recv = vmbus_recv(channel, &packet)) > 0) {
		echo->received++;
		echo_sum(echo, &packet);
		if (echo->hold_on_packet)
			vmbus_channel_hold(channel);
		if (!packet.wants_completion)
			continue;
		if (echo_send(echo, channel, packet.transaction_id, packet.payload,
			      packet.payload_len) == -ERR_BUSY) {
			echo->unsent = malloc(packet.payload_len);
			memcpy(echo->unsent, packet.payload, packet.payload_len);
			echo->unsent_len = packet.payload_len;
			echo->unsent_id = packet.transaction_id;
		}
	}
}

static const struct vmbus_channel_ops echo_ops = { echo_opened, echo_closed, echo_ready };

struct fixture {
	struct vmbus_guest *guest;
	struct echo echo, sub;
	bool stop;
};

static void offer_echo(struct fixture *f, struct echo *echo, uint16_t index)
{
	struct vmbus_offer offer = { .class_id = class_a,
				     .instance_id = instance_a,
				     .subchannel_index = index,
				     .ops = &echo_ops,
				     .dev = echo };

	assert_int_equal(vmbus_offer(f->guest->bus, &offer, &echo->channel, NULL), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->guest = vmbus_guest_new(2, 16 * MIB);
	offer_echo(f, &f->echo, 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vmbus_guest_free(f->guest);
	free(f);
	return 0;
}

static struct vmbus_guest_channel *open_echo(struct fixture *f, unsigned pages)
{
	const struct vmbus_spec_offer *offer = vmbus_guest_offer(f->guest, &class_a, 0);
	struct vmbus_guest_channel *channel;

	assert_non_null(offer);
	channel = vmbus_guest_open(f->guest, offer, pages, pages);
	assert_non_null(channel);
	return channel;
}

static void expect_echo(struct vmbus_guest_channel *channel, uint64_t id, const void *payload,
			uint32_t len)
{
	struct vmbus_guest_packet packet;

	assert_true(vmbus_guest_recv(channel, &packet));
	assert_int_equal(packet.type, VMBUS_COMPLETION);
	assert_int_equal(packet.transaction_id, id);
	assert_int_equal(packet.payload_len, ALIGN_UP(len, 8u));
	assert_memory_equal(packet.payload, payload, len);
}

/* ---- connection ---- */

static void every_version_connects(void **state)
{
	static const uint32_t versions[] = { VMBUS_VERSION_5_3, VMBUS_VERSION_5_2,
					     VMBUS_VERSION_5_1, VMBUS_VERSION_5_0,
					     VMBUS_VERSION_4_1, VMBUS_VERSION_4_0,
					     VMBUS_VERSION_3_0, VMBUS_VERSION_2_4,
					     VMBUS_VERSION_1_1, VMBUS_VERSION_0_13 };
	struct fixture *f = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(versions); i++) {
		struct vmbus_guest_channel *channel;

		assert_true(vmbus_guest_connect(f->guest, versions[i]));
		assert_int_equal(vmbus_version(f->guest->bus), versions[i]);
		assert_int_equal(f->guest->offer_count, 1);
		channel = open_echo(f, 3);
		assert_true(vmbus_guest_send(channel, 7, true, "ping", 5));
		expect_echo(channel, 7, "ping", 5);
		assert_true(vmbus_guest_take_event(channel));
		vmbus_guest_close(channel);
	}
	assert_int_equal(f->echo.opened, ARRAY_SIZE(versions));
	assert_int_equal(f->echo.closed, ARRAY_SIZE(versions));
}

static void unknown_versions_are_refused(void **state)
{
	struct fixture *f = *state;

	assert_false(vmbus_guest_connect(f->guest, VMBUS_VERSION(6, 0)));
	assert_false(vmbus_guest_connect(f->guest, VMBUS_VERSION(5, 4)));
	assert_int_equal(vmbus_version(f->guest->bus), 0);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
}

static void offer_says_what_the_guest_needs(void **state)
{
	struct fixture *f = *state;
	const struct vmbus_spec_offer *offer;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	offer = vmbus_guest_offer(f->guest, &class_a, 0);
	assert_non_null(offer);
	assert_true(guid_equal(&offer->instance_id, &instance_a));
	assert_in_range(offer->relid, 1, VMBUS_MAX_RELID);
	assert_int_equal(offer->connection_id, VMBUS_CONNECTION_CHANNEL + offer->relid);
	assert_int_equal(offer->dedicated_interrupt, 1);
	assert_int_equal(offer->monitor_allocated, 0);
	assert_int_equal(offer->monitor_id, 0xFF);
}

static void contact_again_closes_everything(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	assert_true(vmbus_guest_contact(f->guest, VMBUS_VERSION_4_0));
	assert_int_equal(f->echo.closed, 1);
	assert_int_equal(f->guest->offer_count, 0); /* only when asked for */
	vmbus_guest_forget(channel);
	vmbus_guest_request_offers(f->guest);
	vmbus_guest_close(open_echo(f, 3));
}

static void ipxe_flow(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;

	assert_true(vmbus_guest_contact(f->guest, VMBUS_VERSION_3_0));
	vmbus_guest_unload(f->guest);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_0_13));
	for (unsigned i = 0; i < 2; i++) {
		channel = open_echo(f, 2);
		assert_true(vmbus_guest_send(channel, 9, true, "abc", 4));
		expect_echo(channel, 9, "abc", 4);
		vmbus_guest_close(channel);
	}
	/* No goodbye: the operating system's contact resets all. */
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	vmbus_guest_close(open_echo(f, 2));
}

static void unload_forgets_the_guest(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	vmbus_guest_unload(f->guest);
	assert_int_equal(f->echo.closed, 1);
	assert_int_equal(vmbus_version(f->guest->bus), 0);
	vmbus_guest_forget(channel);
	vmbus_guest_unload(f->guest); /* answered even now */
}

static void note_done(void *user)
{
	*(bool *)user = true;
}

static void reset_waits_for_holds(void **state)
{
	struct fixture *f = *state;
	bool done = false;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	vmbus_guest_forget(open_echo(f, 3));
	vmbus_channel_hold(f->echo.channel);
	vmbus_reset(f->guest->bus, note_done, &done);
	assert_int_equal(f->echo.closed, 1);
	assert_false(done);
	vmbus_channel_drop(f->echo.channel);
	assert_true(done);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
}

static void sockets_are_refused(void **state)
{
	struct fixture *f = *state;
	struct vmbus_spec_tl_connect_request msg = { .endpoint_id = class_a,
						     .service_id = instance_a };
	struct vmbus_spec_tl_connect_result result;
	struct vmbus_guest_message message;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	vmbus_guest_post(f->guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg),
			 VMBUS_MSG_TL_CONNECT_REQUEST);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_TL_CONNECT_RESULT, &message));
	memcpy(&result, message.bytes, sizeof(result));
	assert_int_equal(result.status, VMBUS_STATUS_CONNECTION_REFUSED);
	assert_true(guid_equal(&result.endpoint_id, &class_a));
	assert_true(guid_equal(&result.service_id, &instance_a));
}

/* ---- channels ---- */

static void open_may_be_refused(void **state)
{
	struct fixture *f = *state;
	const struct vmbus_spec_offer *offer;

	f->echo.refuse_open = true;
	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	offer = vmbus_guest_offer(f->guest, &class_a, 0);
	assert_null(vmbus_guest_open(f->guest, offer, 3, 3));
	assert_int_equal(f->echo.opened, 1);
	assert_int_equal(f->echo.closed, 0);
	f->echo.refuse_open = false;
	vmbus_guest_close(open_echo(f, 3));
	assert_null(vmbus_guest_open(f->guest, offer, 1, 3)); /* no data page */
}

static void greeting_comes_after_the_result(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct vmbus_guest_packet packet;

	f->echo.greet = true;
	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	assert_true(vmbus_guest_take_event(channel));
	assert_true(vmbus_guest_recv(channel, &packet));
	assert_int_equal(packet.type, VMBUS_INBAND);
	assert_string_equal((char *)packet.payload, "hello");
	vmbus_guest_close(channel);
}

static void release(struct fixture *f, uint32_t relid)
{
	struct vmbus_spec_relid msg = { .relid = relid };

	vmbus_guest_post(f->guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg),
			 VMBUS_MSG_RELID_RELEASED);
	vmbus_guest_step(f->guest);
}

/* A device that comes back waits until the guest let go of what it was. */
static void rescind_and_relid_reuse(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_message message;
	struct vmbus_guest_channel *channel;
	uint32_t relid;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	relid = channel->relid;
	vmbus_rescind(f->echo.channel);
	assert_int_equal(f->echo.closed, 1);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_RESCIND, &message));
	offer_echo(f, &f->echo, 0);
	assert_null(vmbus_guest_offer(f->guest, &class_a, 0));
	vmbus_guest_close(channel); /* late, but answered */
	assert_null(vmbus_guest_offer(f->guest, &class_a, 0));
	release(f, relid);
	assert_int_not_equal(vmbus_guest_offer(f->guest, &class_a, 0)->relid, relid);

	vmbus_rescind(f->echo.channel);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_RESCIND, &message));
	offer_echo(f, &f->echo, 0); /* and goes again, unseen by the guest */
	vmbus_rescind(f->echo.channel);
	offer_echo(f, &f->echo, 0);
	assert_null(vmbus_guest_offer(f->guest, &class_a, 0));
	/* A guest that starts anew has nothing to let go of. */
	vmbus_guest_unload(f->guest);
	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	assert_non_null(vmbus_guest_offer(f->guest, &class_a, 0));
}

static void subchannels_go_with_their_primary(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel, *sub;
	const struct vmbus_spec_offer *offer;
	struct vmbus_guest_message message;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	offer_echo(f, &f->sub, 1);
	offer = vmbus_guest_offer(f->guest, &class_a, 1);
	assert_non_null(offer);
	sub = vmbus_guest_open(f->guest, offer, 3, 3);
	assert_non_null(sub);
	assert_int_equal(vmbus_channel_subindex(f->sub.channel), 1);
	assert_true(vmbus_guest_send(sub, 3, true, "x", 1));
	expect_echo(sub, 3, "x", 1);
	vmbus_guest_close(channel);
	assert_int_equal(f->sub.closed, 1);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_RESCIND, &message));
	vmbus_guest_forget(sub);
}

static void teardown_waits_for_holds(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct vmbus_spec_relid close_msg;
	struct vmbus_spec_gpadl_teardown msg;
	struct vmbus_guest_message message;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	close_msg.relid = msg.relid = channel->relid;
	msg.gpadl = channel->ring_gpadl;
	vmbus_channel_hold(f->echo.channel);
	vmbus_guest_post(f->guest, 1, &close_msg, sizeof(close_msg), VMBUS_MSG_CLOSECHANNEL);
	vmbus_guest_post(f->guest, 1, &msg, sizeof(msg), VMBUS_MSG_GPADL_TEARDOWN);
	for (unsigned i = 0; i < 5; i++)
		vmbus_guest_step(f->guest);
	assert_int_equal(f->echo.closed, 1);
	assert_false(vmbus_guest_poll(f->guest, &message));
	vmbus_channel_drop(f->echo.channel);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_GPADL_TORNDOWN, &message));
	vmbus_guest_forget(channel);
}

static void modify_is_answered_from_5_3(void **state)
{
	struct fixture *f = *state;
	struct vmbus_spec_modify_channel msg = { .target_vp = 1 };
	struct vmbus_spec_modify_channel_response response;
	struct vmbus_guest_message message;
	struct vmbus_guest_channel *channel;
	struct vmbus_guest_packet packet;
	unsigned before;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	msg.relid = channel->relid;
	vmbus_guest_post(f->guest, 1, &msg, sizeof(msg), VMBUS_MSG_MODIFYCHANNEL);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_MODIFYCHANNEL_RESPONSE, &message));
	memcpy(&response, message.bytes, sizeof(response));
	assert_int_equal(response.status, 0);
	before = f->guest->part.interrupts[1];
	vmbus_guest_send(channel, 1, true, "x", 1);
	assert_true(vmbus_guest_recv(channel, &packet));
	assert_int_equal(f->guest->part.interrupts[1], before + 1);
	msg.target_vp = 2;
	vmbus_guest_post(f->guest, 1, &msg, sizeof(msg), VMBUS_MSG_MODIFYCHANNEL);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_MODIFYCHANNEL_RESPONSE, &message));
	memcpy(&response, message.bytes, sizeof(response));
	assert_int_not_equal(response.status, 0);
	vmbus_guest_close(channel);
}

/* ---- packets ---- */

static void packets_wrap(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	uint8_t payload[1500];

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	for (unsigned i = 1; i < 400; i++) {
		uint32_t len = i * 37 % sizeof(payload) + 1;

		memset(payload, (int)i, sizeof(payload));
		assert_true(vmbus_guest_send(channel, i, true, payload, len));
		expect_echo(channel, i, payload, len);
	}
	vmbus_guest_close(channel);
}

static void full_ring_to_the_guest(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	uint8_t payload[1000];
	unsigned sent = 0, received = 0;

	memset(payload, 0x5A, sizeof(payload));
	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 2);
	/* The host's ring fills up first, then the guest's: nobody reads. */
	for (unsigned idle = 0; idle < 3;) {
		if (vmbus_guest_send(channel, sent + 1, true, payload, sizeof(payload)))
			sent++;
		else
			idle++;
		vmbus_guest_step(f->guest);
	}
	assert_true(vmbus_guest_ring_field(channel, true, 12) >= sizeof(payload));
	while (received < sent)
		expect_echo(channel, ++received, payload, sizeof(payload));
	assert_int_equal(vmbus_guest_ring_field(channel, true, 12), 0);
	assert_true(sent >= 6);
	vmbus_guest_close(channel);
}

static void room_is_polled_for_a_guest_without_the_feature(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	uint8_t payload[1000] = { 0 };
	unsigned received = 0;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 2);
	vmbus_guest_ring_set(channel, true, 64, 0);
	for (unsigned i = 1; i <= 6; i++) {
		assert_true(vmbus_guest_send(channel, i, true, payload, sizeof(payload)));
		vmbus_guest_step(f->guest);
	}
	assert_true(f->echo.unsent != NULL);
	/* A pending size of 0 in the guest's eyes: it won't signal. */
	vmbus_guest_ring_set(channel, true, 12, 0);
	while (received < 6)
		expect_echo(channel, ++received, payload, sizeof(payload));
	vmbus_guest_close(channel);
}

static void guest_is_told_of_room(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	uint8_t payload[1000] = { 0 };
	unsigned sent = 0;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 2);
	f->echo.stop_reading = true;
	while (vmbus_guest_send(channel, 0, false, payload, sizeof(payload)))
		sent++;
	vmbus_guest_ring_set(channel, false, 12, sizeof(payload) + 24);
	vmbus_guest_step(f->guest);
	assert_false(vmbus_guest_take_event(channel));
	f->echo.stop_reading = false;
	vmbus_guest_signal(channel);
	vmbus_guest_step(f->guest);
	assert_int_equal(f->echo.received, sent);
	assert_true(vmbus_guest_take_event(channel));
	vmbus_guest_close(channel);
}

static void signals_follow_mask_and_emptiness(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct vmbus_guest_packet packet;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	assert_true(vmbus_guest_send(channel, 1, true, "a", 1));
	vmbus_guest_step(f->guest);
	assert_true(vmbus_guest_take_event(channel));
	/* The ring is not empty: no second signal. */
	assert_true(vmbus_guest_send(channel, 2, true, "b", 1));
	vmbus_guest_step(f->guest);
	assert_false(vmbus_guest_take_event(channel));
	assert_true(vmbus_guest_try_recv(channel, &packet));
	assert_true(vmbus_guest_try_recv(channel, &packet));
	/* Empty, but masked. */
	vmbus_guest_ring_set(channel, true, 8, 1);
	assert_true(vmbus_guest_send(channel, 3, true, "c", 1));
	vmbus_guest_step(f->guest);
	assert_true(vmbus_guest_try_recv(channel, &packet));
	assert_false(vmbus_guest_take_event(channel));
	/* The host asks for signals again once it has read everything. */
	assert_int_equal(vmbus_guest_ring_field(channel, false, 8), 0);
	vmbus_guest_close(channel);
}

static void a_plugged_channel_signals_once(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct vmbus_guest_packet packet;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	vmbus_channel_plug(f->echo.channel);
	for (unsigned i = 0; i < 3; i++) {
		assert_true(vmbus_guest_send(channel, i, true, "a", 1));
		vmbus_guest_step(f->guest);
		assert_true(vmbus_guest_try_recv(channel, &packet));
	}
	assert_false(vmbus_guest_take_event(channel));
	vmbus_channel_unplug(f->echo.channel);
	assert_true(vmbus_guest_take_event(channel));
	/* Nothing was sent since. */
	vmbus_channel_plug(f->echo.channel);
	vmbus_channel_unplug(f->echo.channel);
	assert_false(vmbus_guest_take_event(channel));
	/* A close ends it. */
	vmbus_channel_plug(f->echo.channel);
	vmbus_guest_close(channel);
	channel = open_echo(f, 3);
	assert_true(vmbus_guest_send(channel, 9, true, "a", 1));
	vmbus_guest_step(f->guest);
	assert_true(vmbus_guest_take_event(channel));
	vmbus_guest_close(channel);
}

static void gpa_direct_reaches_guest_memory(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	uint64_t pages[3], row = vmbus_guest_alloc(f->guest, 2);
	uint64_t row_pages[2] = { row, row + VMBUS_PAGE_BYTES };
	struct vmbus_guest_range ranges[2] = { { 9000, 100, pages }, { 4096, 2048, row_pages } };
	uint8_t sum = 0;

	vmbus_guest_alloc_scattered(f->guest, 3, pages);
	for (unsigned i = 0; i < 9000; i++) {
		uint64_t at = i + 100;
		uint8_t byte = (uint8_t)(i * 7 + 1);

		mem_write(f->guest->mem, pages[at / 4096] + at % 4096, &byte, 1);
		sum += byte;
	}
	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	assert_true(vmbus_guest_send_gpa_direct(channel, 5, ranges, 2, "payload", 8));
	expect_echo(channel, 5, "payload", 8);
	assert_int_equal(f->echo.gpa_bytes, 9000 + 4096);
	assert_int_equal(f->echo.gpa_sum, sum);
	vmbus_guest_close(channel);
}

static void damaged_rings_kill_the_channel_only(void **state)
{
	static const struct vmbus_spec_descriptor bad[] = {
		{ .type = 6, .data_offset8 = 2, .length8 = 1 },
		{ .type = 6, .data_offset8 = 2, .length8 = 600 },
		{ .type = 6, .data_offset8 = 9, .length8 = 8 },
		{ .type = 6, .data_offset8 = 1, .length8 = 8 },
		{ .type = 9, .data_offset8 = 2, .length8 = 8 },
	};
	uint8_t bytes[64] = { 0 };
	struct fixture *f = *state;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		struct vmbus_guest_channel *channel = open_echo(f, 2);

		memcpy(bytes, &bad[i], sizeof(bad[i]));
		assert_true(vmbus_guest_send_raw(channel, bytes, sizeof(bytes)));
		vmbus_guest_step(f->guest);
		assert_int_equal(f->echo.last_recv, -ERR_CORRUPT);
		vmbus_guest_close(channel);
	}
	struct vmbus_guest_channel *channel = open_echo(f, 2);

	vmbus_guest_ring_set(channel, false, 0, 4096 + 8);
	vmbus_guest_signal(channel);
	vmbus_guest_step(f->guest);
	assert_int_equal(f->echo.last_recv, -ERR_CORRUPT);
	vmbus_guest_close(channel);
	channel = open_echo(f, 2);
	assert_true(vmbus_guest_send(channel, 1, true, "ok", 3));
	expect_echo(channel, 1, "ok", 3);
	vmbus_guest_close(channel);
}

/* ---- GPADLs ---- */

static void large_gpadl_reads_and_writes(void **state)
{
	enum { PAGES = 300 };
	struct fixture *f = *state;
	uint64_t pages[PAGES];
	uint8_t buf[6000], back[6000];
	struct iovec iov[4];
	uint64_t gpa[4];
	uint32_t relid, id;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	relid = vmbus_guest_offer(f->guest, &class_a, 0)->relid;
	vmbus_guest_alloc_scattered(f->guest, PAGES, pages);
	id = vmbus_guest_gpadl_create(f->guest, relid, pages, PAGES);
	assert_int_not_equal(id, 0);
	assert_int_equal(vmbus_gpadl_bytes(f->echo.channel, id), PAGES * 4096);
	for (unsigned i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 13);
	assert_true(vmbus_gpadl_write(f->echo.channel, id, 4000, buf, sizeof(buf)));
	assert_true(vmbus_gpadl_read(f->echo.channel, id, 4000, back, sizeof(back)));
	assert_memory_equal(buf, back, sizeof(buf));
	mem_read(f->guest->mem, pages[1], back, 4096);
	assert_memory_equal(back, buf + 96, 4096);
	assert_int_equal(vmbus_gpadl_map(f->echo.channel, id, 4000, 6000, iov, gpa, 4), 3);
	assert_int_equal(iov[0].iov_len, 96);
	assert_int_equal(gpa[2], pages[2]);
	assert_int_equal(vmbus_gpadl_map(f->echo.channel, id, 4000, 6000, iov, gpa, 2), 0);
	assert_false(vmbus_gpadl_write(f->echo.channel, id, PAGES * 4096 - 1, buf, 2));
	assert_true(vmbus_guest_gpadl_teardown(f->guest, relid, id));
	assert_int_equal(vmbus_gpadl_bytes(f->echo.channel, id), 0);
	assert_true(vmbus_guest_gpadl_teardown(f->guest, relid, id)); /* unknown: answered */
}

static void bad_gpadls_are_refused(void **state)
{
	struct fixture *f = *state;
	uint64_t page = vmbus_guest_alloc(f->guest, 1), outside = 64 * MIB;
	uint32_t relid;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	relid = vmbus_guest_offer(f->guest, &class_a, 0)->relid;
	assert_int_equal(vmbus_guest_gpadl_create(f->guest, relid, &outside, 1), 0);
	assert_int_equal(vmbus_guest_gpadl_create(f->guest, relid + 1, &page, 1), 0);
	assert_int_not_equal(vmbus_guest_gpadl_create(f->guest, relid, &page, 1), 0);
	f->guest->next_gpadl--; /* the same id again */
	assert_int_equal(vmbus_guest_gpadl_create(f->guest, relid, &page, 1), 0);
}

static void transfer_pages_packet(void **state)
{
	static const struct vmbus_xfer_range ranges[2] = { { 100, 0 }, { 200, 1728 } };
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct vmbus_guest_packet packet;
	struct vmbus_spec_xfer_pages header;
	struct iovec iov = { .iov_base = (void *)(uintptr_t) "nvsp", .iov_len = 5 };

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 3);
	assert_int_equal(vmbus_send_xfer_pages(f->echo.channel, 77, 0xCAFE, ranges, 2, &iov, 1), 0);
	assert_true(vmbus_guest_recv(channel, &packet));
	assert_int_equal(packet.type, VMBUS_XFER_PAGES);
	assert_int_equal(packet.flags, 1);
	memcpy(&header, packet.bytes, sizeof(header));
	assert_int_equal(header.page_set_id, 0xCAFE);
	assert_int_equal(header.range_count, 2);
	assert_memory_equal(packet.bytes + sizeof(header), ranges, sizeof(ranges));
	assert_string_equal((char *)packet.payload, "nvsp");
	assert_int_equal(packet.payload - packet.bytes, 40);
	vmbus_guest_close(channel);
}

/* A guest that never reads its messages is held back, and the host's memory with it. */
static void unread_messages_push_back(void **state)
{
	struct fixture *f = *state;
	struct vmbus_spec_gpadl_teardown msg = { .gpadl = 1 };
	enum hv_status status = HV_STATUS_SUCCESS;
	unsigned posted = 0;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	while (status == HV_STATUS_SUCCESS && posted < 100000) {
		status = vmbus_guest_post(f->guest, 1, &msg, sizeof(msg), VMBUS_MSG_GPADL_TEARDOWN);
		posted++;
	}
	assert_int_equal(status, HV_STATUS_INSUFFICIENT_BUFFERS);
	assert_in_range(posted, 1000, 1400);
}

/* ---- threads ---- */

static void *run_loop(void *user)
{
	loop_run(((struct fixture *)user)->guest->loop);
	return NULL;
}

/* A second processor that signals, re-programs its SynIC and posts messages without end. */
static void *disturb(void *user)
{
	struct fixture *f = user;
	struct hv *hv = f->guest->hv;
	uint64_t page = f->guest->next_page - 2 * VMBUS_PAGE_BYTES;

	while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
		struct part_hypercall call = { .control = HV_CALL_SIGNAL_EVENT | HV_CONTROL_FAST,
					       .input = VMBUS_CONNECTION_CHANNEL + 1 };
		uint64_t value;

		hv_hypercall(hv, 1, &call);
		hv_msr_read(hv, 1, HV_MSR_SIMP, &value);
		hv_msr_write(hv, 1, HV_MSR_SIMP, page | (value & 1 ? 0 : 1));
		hv_signal_event(hv, 1, VMBUS_SINT, 3);
		hv_post_message(hv, 1, VMBUS_SINT, 1, "x", 1);
		hv_message_flush(hv, 1, VMBUS_SINT);
		hv_msr_write(hv, 1, HV_MSR_STIMER0_CONFIG, 0xEDull << 4 | HV_STIMER_DIRECT | 8);
		hv_msr_write(hv, 1, HV_MSR_STIMER0_CONFIG + 1, hv_reference_time(hv) + 500);
	}
	return NULL;
}

static void loop_and_processors_at_once(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	pthread_t loop, other;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 4);
	f->guest->loop_elsewhere = true;
	assert_int_equal(pthread_create(&loop, NULL, run_loop, f), 0);
	assert_int_equal(pthread_create(&other, NULL, disturb, f), 0);
	for (unsigned i = 0; i < 3000; i += 3) {
		assert_true(vmbus_guest_send(channel, i, true, &i, sizeof(i)));
		assert_true(vmbus_guest_send(channel, i + 1, true, &i, sizeof(i)));
		assert_true(vmbus_guest_send(channel, i + 2, true, &i, sizeof(i)));
		for (unsigned k = 0; k < 3; k++)
			expect_echo(channel, i + k, &i, sizeof(i));
	}
	vmbus_guest_close(channel);
	__atomic_store_n(&f->stop, true, __ATOMIC_RELAXED);
	pthread_join(other, NULL);
	loop_stop(f->guest->loop);
	pthread_join(loop, NULL);
	f->guest->loop_elsewhere = false;
	assert_int_equal(f->echo.received, 3000);
}

/* ---- state ---- */

static void end_echo(void *user)
{
	struct fixture *f = user;

	vmbus_rescind(f->echo.channel);
}

static void begin_echo(void *user, struct vmbus_guest *guest)
{
	struct fixture *f = user;

	f->echo = (struct echo){ 0 };
	offer_echo(f, &f->echo, 0);
}

static int restore_echo(void *user, struct state_in *in, struct error *err)
{
	struct fixture *f = user;

	if (vmbus_saved_channel(f->guest->bus, &class_a, &instance_a, 1))
		offer_echo(f, &f->sub, 1);
	return 0;
}

static const struct vmbus_guest_move echo_move = { NULL, end_echo, begin_echo, restore_echo };

/* Rings go on where they were, wrapped or not, with packets in them; GPADLs are there. */
static void saved_rings_go_on(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct error err;
	uint32_t n = 0;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 2);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 50; i++, n++) {
			assert_true(vmbus_guest_send(channel, n, true, &n, sizeof(n)));
			expect_echo(channel, n, &n, sizeof(n));
		}
		/* One that the host has not seen. */
		f->echo.stop_reading = true;
		assert_true(vmbus_guest_send(channel, n, true, &n, sizeof(n)));
		vmbus_guest_step(f->guest);
		if (!vmbus_guest_move(f->guest, &echo_move, f, &err))
			fail_msg("%s", err.text);
		assert_int_equal(f->echo.opened, 0);
		expect_echo(channel, n, &n, sizeof(n));
		n++;
	}
	vmbus_guest_close(channel);
	assert_int_equal(f->echo.closed, 1);
}

static void saved_subchannel_is_found_again(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel, *sub;
	struct error err;
	uint32_t n = 7;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 4);
	offer_echo(f, &f->sub, 1);
	sub = vmbus_guest_open(f->guest, vmbus_guest_offer(f->guest, &class_a, 1), 4, 4);
	assert_non_null(sub);
	f->sub.opened = 0;
	if (!vmbus_guest_move(f->guest, &echo_move, f, &err))
		fail_msg("%s", err.text);
	assert_int_equal(f->sub.opened, 0);
	assert_true(vmbus_guest_send(sub, n, true, &n, sizeof(n)));
	expect_echo(sub, n, &n, sizeof(n));
	assert_true(vmbus_guest_send(channel, n, true, &n, sizeof(n)));
	expect_echo(channel, n, &n, sizeof(n));
	vmbus_guest_forget(sub);
	vmbus_guest_close(channel);
}

/* The device is back, and the guest has not let go of what it was: also after a restore. */
static void saved_return_still_waits(void **state)
{
	struct fixture *f = *state;
	struct vmbus_guest_message message;
	struct vmbus_guest_channel *channel;
	struct error err;
	uint32_t relid;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 2);
	relid = channel->relid;
	vmbus_rescind(f->echo.channel);
	assert_true(vmbus_guest_wait(f->guest, VMBUS_MSG_RESCIND, &message));
	vmbus_guest_close(channel);
	offer_echo(f, &f->echo, 0);
	if (!vmbus_guest_move(f->guest, &echo_move, f, &err))
		fail_msg("%s", err.text);
	assert_null(vmbus_guest_offer(f->guest, &class_a, 0));
	release(f, relid);
	assert_non_null(vmbus_guest_offer(f->guest, &class_a, 0));
}

static void begin_nothing(void *user, struct vmbus_guest *guest)
{
}

static void saved_device_must_be_there(void **state)
{
	static const struct vmbus_guest_move without = { NULL, end_echo, begin_nothing, NULL };
	struct fixture *f = *state;
	struct vmbus_guest_channel *channel;
	struct error err;

	vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3);
	channel = open_echo(f, 4);
	assert_false(vmbus_guest_move(f->guest, &without, f, &err));
	assert_non_null(strstr(err.text, "aaaaaaaa-0000-0000-0000-000000000001"));
	vmbus_guest_forget(channel);
}

static void state_tables(void **state)
{
	STATE_CHECK(struct vmbus_channel_saved, vmbus_channel_saved_desc);
	STATE_CHECK(struct vmbus_gpadl_state, vmbus_gpadl_state_desc);
	STATE_CHECK(struct vmbus_leaving_state, vmbus_leaving_state_desc);
	STATE_CHECK(struct vmbus_message_state, vmbus_message_state_desc);
	STATE_CHECK(struct vmbus_state, vmbus_state_desc);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(every_version_connects),
		TEST(unknown_versions_are_refused),
		TEST(offer_says_what_the_guest_needs),
		TEST(contact_again_closes_everything),
		TEST(ipxe_flow),
		TEST(unload_forgets_the_guest),
		TEST(reset_waits_for_holds),
		TEST(sockets_are_refused),
		TEST(open_may_be_refused),
		TEST(greeting_comes_after_the_result),
		TEST(rescind_and_relid_reuse),
		TEST(subchannels_go_with_their_primary),
		TEST(teardown_waits_for_holds),
		TEST(modify_is_answered_from_5_3),
		TEST(packets_wrap),
		TEST(full_ring_to_the_guest),
		TEST(room_is_polled_for_a_guest_without_the_feature),
		TEST(guest_is_told_of_room),
		TEST(signals_follow_mask_and_emptiness),
		TEST(a_plugged_channel_signals_once),
		TEST(gpa_direct_reaches_guest_memory),
		TEST(damaged_rings_kill_the_channel_only),
		TEST(large_gpadl_reads_and_writes),
		TEST(bad_gpadls_are_refused),
		TEST(transfer_pages_packet),
		TEST(unread_messages_push_back),
		TEST(loop_and_processors_at_once),
		TEST(saved_rings_go_on),
		TEST(saved_subchannel_is_found_again),
		TEST(saved_return_still_waits),
		TEST(saved_device_must_be_there),
		cmocka_unit_test(state_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
