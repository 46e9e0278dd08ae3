/* The integration services against a guest that answers as Linux's hv_utils does: in place. */
#include "vmbus-guest.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/macros.h"
#include "ic/ic-impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "state/check-state.h"

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

struct fixture {
	struct vmbus_guest *guest;
	struct ic *ic;
	enum ic_service contacted;
	struct vmbus_guest_channel *channel;
	struct vmbus_guest_packet packet; /* the last request */
	struct ic_spec_header header;     /* its header */
	int result;
	unsigned results;
	struct ic_pair pairs[8];
	unsigned pair_count;
};

static int setup(void **state)
{
	static const struct ic_pair facts[] = { { (char *)(uintptr_t) "HostName",
						  (char *)(uintptr_t) "paris" } };
	struct fixture *f = calloc(1, sizeof(*f));
	struct ic_config config = { .facts = facts, .fact_count = 1 };

	f->guest = vmbus_guest_new(1, 16 * MIB);
	config.loop = f->guest->loop;
	config.bus = f->guest->bus;
	assert_int_equal(ic_new(&config, &f->ic, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ic_free(f->ic);
	if (f->channel)
		vmbus_guest_forget(f->channel);
	vmbus_guest_free(f->guest);
	for (unsigned i = 0; i < ARRAY_SIZE(f->pairs); i++) {
		free(f->pairs[i].key);
		free(f->pairs[i].value);
	}
	free(f);
	return 0;
}

/* ---- the guest ---- */

static void next_request(struct fixture *f, uint16_t type, uint32_t len)
{
	assert_true(vmbus_guest_recv(f->channel, &f->packet));
	assert_int_equal(f->packet.type, VMBUS_INBAND);
	assert_int_equal(f->packet.payload_len, ALIGN_UP(len, 8u));
	memcpy(&f->header, f->packet.payload, sizeof(f->header));
	assert_int_equal(f->header.message_type, type);
	assert_int_equal(f->header.pipe_type, IC_PIPE_DATA);
	assert_int_equal(f->header.pipe_bytes, len - 8);
	assert_int_equal(f->header.body_bytes, len - 28);
	assert_int_equal(f->header.flags, IC_FLAG_TRANSACTION | IC_FLAG_REQUEST);
	assert_int_not_equal(f->packet.transaction_id, 0);
}

static void answer(struct fixture *f, uint32_t status)
{
	f->header.flags = IC_FLAG_TRANSACTION | IC_FLAG_RESPONSE;
	f->header.status = status;
	memcpy(f->packet.payload, &f->header, sizeof(f->header));
	assert_true(vmbus_guest_send(f->channel, f->packet.transaction_id, false, f->packet.payload,
				     f->packet.payload_len));
	vmbus_guest_step(f->guest);
}

static void contact(struct fixture *f, enum ic_service service)
{
	const struct vmbus_spec_offer *offer;

	f->contacted = service;
	assert_int_equal(ic_enable(f->ic, service, true, NULL), 0);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	offer = vmbus_guest_offer(f->guest, &class_of[service], 0);
	assert_non_null(offer);
	assert_int_equal(offer->flags, 0x11);
	assert_int_equal(offer->user_defined[0], VMBUS_PIPE_TYPE_MESSAGE);
	f->channel = vmbus_guest_open(f->guest, offer, 4, 4);
	assert_non_null(f->channel);
}

static void negotiate(struct fixture *f, unsigned version_count, uint16_t major, uint16_t minor)
{
	struct ic_spec_version chosen[2] = { { 3, 0 }, { major, minor } };
	struct ic_spec_negotiate reply;

	next_request(f, IC_MSG_NEGOTIATE, 36 + 4 * (2 + version_count));
	memcpy(&reply, f->packet.payload, sizeof(reply));
	assert_int_equal(reply.framework_count, 2);
	assert_int_equal(reply.message_count, version_count);
	reply.framework_count = reply.message_count = 1;
	memcpy(f->packet.payload, &reply, sizeof(reply));
	memcpy(f->packet.payload + sizeof(reply), chosen, sizeof(chosen));
	answer(f, IC_S_OK);
}

static void expect_state(struct fixture *f, enum ic_service service, enum ic_state state,
			 unsigned major, unsigned minor)
{
	struct ic_status status;

	ic_status(f->ic, service, &status);
	assert_int_equal(status.state, state);
	assert_int_equal(status.major, major);
	assert_int_equal(status.minor, minor);
}

/* ---- link ---- */

static void states_follow_the_guest(void **state)
{
	struct fixture *f = *state;

	expect_state(f, IC_HEARTBEAT, IC_STATE_DISABLED, 0, 0);
	contact(f, IC_HEARTBEAT);
	expect_state(f, IC_HEARTBEAT, IC_STATE_NO_CONTACT, 0, 0);
	negotiate(f, 2, 3, 0);
	expect_state(f, IC_HEARTBEAT, IC_STATE_OK, 3, 0);
	vmbus_guest_close(TAKE(f->channel));
	expect_state(f, IC_HEARTBEAT, IC_STATE_NO_CONTACT, 0, 0);
	ic_enable(f->ic, IC_HEARTBEAT, false, NULL);
	expect_state(f, IC_HEARTBEAT, IC_STATE_DISABLED, 0, 0);
	assert_null(vmbus_guest_offer(f->guest, &class_of[IC_HEARTBEAT], 0));
}

static void no_common_version(void **state)
{
	struct fixture *f = *state;

	contact(f, IC_HEARTBEAT);
	negotiate(f, 2, 9, 0); /* not offered */
	expect_state(f, IC_HEARTBEAT, IC_STATE_NO_CONTACT, 0, 0);
	assert_false(vmbus_guest_try_recv(f->channel, &f->packet));
}

static void stray_answers_are_ignored(void **state)
{
	struct fixture *f = *state;
	uint8_t payload[4] = { 0 };

	contact(f, IC_HEARTBEAT);
	assert_true(vmbus_guest_send(f->channel, 1, false, payload, sizeof(payload)));
	negotiate(f, 2, 3, 0);
	next_request(f, IC_MSG_HEARTBEAT, 68);
	f->header.transaction_id++;
	answer(f, IC_S_OK);
	assert_true(f->ic->heartbeat.link.busy);
	f->header.transaction_id--;
	answer(f, IC_S_OK);
	assert_false(f->ic->heartbeat.link.busy);
}

static void applications_say_how_they_are(void **state)
{
	static const enum ic_applications expected[] = { IC_APPS_UNKNOWN, IC_APPS_HEALTHY,
							 IC_APPS_CRITICAL, IC_APPS_UNKNOWN };
	struct fixture *f = *state;
	struct ic_status status;

	contact(f, IC_HEARTBEAT);
	negotiate(f, 2, 3, 0);
	for (uint32_t said = 0; said < ARRAY_SIZE(expected); said++) {
		next_request(f, IC_MSG_HEARTBEAT, 68);
		store_le32(f->packet.payload + 36, said);
		answer(f, IC_S_OK);
		ic_status(f->ic, IC_HEARTBEAT, &status);
		assert_int_equal(status.applications, expected[said]);
		loop_timer_arm(f->ic->heartbeat.timer, 1);
		vmbus_guest_step(f->guest);
	}
	vmbus_guest_close(TAKE(f->channel));
	ic_status(f->ic, IC_HEARTBEAT, &status);
	assert_int_equal(status.applications, IC_APPS_UNKNOWN);
}

static void silence_is_lost_communication(void **state)
{
	struct fixture *f = *state;

	contact(f, IC_HEARTBEAT);
	negotiate(f, 2, 3, 0);
	next_request(f, IC_MSG_HEARTBEAT, 68);
	f->ic->heartbeat.link.sent_at_ns -= 11 * NS_PER_SEC;
	expect_state(f, IC_HEARTBEAT, IC_STATE_LOST, 3, 0);
	answer(f, IC_S_OK);
	expect_state(f, IC_HEARTBEAT, IC_STATE_OK, 3, 0);
}

/* ---- shutdown ---- */

static void note_result(void *user, int result)
{
	struct fixture *f = user;

	f->result = result;
	f->results++;
}

static void shut_down(struct fixture *f, bool restart, bool force, int expected)
{
	struct ic_shutdown_request request = {
		.restart = restart, .force = force, .message = "bye", .done = note_result, .user = f
	};

	assert_int_equal(ic_shutdown(f->ic, &request, NULL), expected);
}

static void shutdown_asks_and_reports(void **state)
{
	struct fixture *f = *state;
	struct ic_spec_shutdown packet;

	shut_down(f, false, false, -ERR_STATE);
	contact(f, IC_SHUTDOWN_SERVICE);
	negotiate(f, 4, 3, 2);
	for (unsigned i = 0; i < 4; i++) {
		shut_down(f, i & 2, i & 1, 0);
		shut_down(f, false, false, -ERR_BUSY);
		next_request(f, IC_MSG_SHUTDOWN, 2088);
		memcpy(&packet, f->packet.payload, sizeof(packet));
		assert_int_equal(packet.flags, i);
		assert_string_equal(packet.message, "bye");
		answer(f, i == 3 ? IC_E_FAIL : IC_S_OK);
		assert_int_equal(f->results, i + 1);
		assert_int_equal(f->result, i == 3 ? -ERR_DENIED : 0);
	}
	shut_down(f, false, false, 0);
	ic_enable(f->ic, IC_SHUTDOWN_SERVICE, false, NULL);
	assert_int_equal(f->results, 5);
	assert_int_equal(f->result, -ERR_CANCELLED);
}

/* ---- time ---- */

static void time_is_synced_then_sampled(void **state)
{
	struct fixture *f = *state;
	struct ic_spec_time_v4 packet;
	uint64_t now = clock_wall_ns() / 100 + UINT64_C(116444736000000000);

	contact(f, IC_TIME_SYNC);
	negotiate(f, 3, 4, 0);
	next_request(f, IC_MSG_TIME_SYNC, 50);
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.flags, IC_TIME_SYNC_FLAG);
	assert_in_range(packet.parent_time, now, now + 20 * HV_TIME_HZ);
	assert_true(packet.reference_time <= hv_reference_time(f->guest->hv));
	answer(f, IC_S_OK);
	loop_timer_arm(f->ic->time.timer, 0);
	next_request(f, IC_MSG_TIME_SYNC, 50);
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.flags, IC_TIME_SAMPLE_FLAG);
	answer(f, IC_S_OK);
	f->ic->time.slept_ns -= 3 * NS_PER_SEC; /* the host slept meanwhile */
	loop_timer_arm(f->ic->time.timer, 0);
	next_request(f, IC_MSG_TIME_SYNC, 50);
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.flags, IC_TIME_SYNC_FLAG);
	/* Asked for while the last one is unanswered: it follows. */
	ic_time_resync(f->ic);
	answer(f, IC_S_OK);
	next_request(f, IC_MSG_TIME_SYNC, 50);
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.flags, IC_TIME_SYNC_FLAG);
}

static void old_guests_get_the_old_layout(void **state)
{
	struct fixture *f = *state;
	struct ic_spec_time_v3 packet;

	contact(f, IC_TIME_SYNC);
	negotiate(f, 3, 3, 0);
	next_request(f, IC_MSG_TIME_SYNC, 53);
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.flags, IC_TIME_SYNC_FLAG);
}

/* ---- KVP ---- */

static void note_pairs(void *user, int result, const struct ic_pair *pairs, unsigned count)
{
	struct fixture *f = user;

	f->result = result;
	f->results++;
	f->pair_count = count;
	assert_true(count <= ARRAY_SIZE(f->pairs));
	for (unsigned i = 0; i < count; i++) {
		free(f->pairs[i].key);
		free(f->pairs[i].value);
		f->pairs[i].key = strdup(pairs[i].key);
		f->pairs[i].value = strdup(pairs[i].value);
	}
}

static void next_kvp(struct fixture *f, struct ic_spec_kvp *packet, uint8_t operation, uint8_t pool)
{
	next_request(f, IC_MSG_KVP, 2608);
	memcpy(packet, f->packet.payload, sizeof(*packet));
	assert_int_equal(packet->operation, operation);
	assert_int_equal(packet->pool, pool);
}

static void expect_utf16(const uint8_t *text, uint32_t bytes, const char *expected)
{
	char *utf8 = utf8_from_utf16(text, bytes);

	assert_string_equal(utf8, expected);
	assert_int_equal(load_le16(text + bytes - 2), 0);
	free(utf8);
}

static void give_item(struct fixture *f, uint8_t pool, uint32_t index, const char *key,
		      const char *value)
{
	struct ic_spec_kvp packet;
	struct ic_spec_kvp_value *data = &packet.enumerate.data;

	next_kvp(f, &packet, IC_KVP_ENUMERATE, pool);
	assert_int_equal(packet.enumerate.index, index);
	data->type = IC_KVP_STRING;
	data->key_bytes = utf16_from_utf8(key, data->key, sizeof(data->key));
	data->value_bytes = utf16_from_utf8(value, data->value, sizeof(data->value));
	memcpy(f->packet.payload, &packet, sizeof(packet));
	answer(f, IC_S_OK);
}

static void end_of_items(struct fixture *f, uint8_t pool)
{
	struct ic_spec_kvp packet;

	next_kvp(f, &packet, IC_KVP_ENUMERATE, pool);
	answer(f, IC_E_NO_MORE_ITEMS);
}

/* Facts, the guest's own pool, its intrinsic pool. */
static void kvp_start(struct fixture *f)
{
	struct ic_spec_kvp packet;

	contact(f, IC_KVP);
	negotiate(f, 3, 4, 0);
	next_kvp(f, &packet, IC_KVP_SET, IC_KVP_POOL_AUTO_EXTERNAL);
	assert_int_equal(packet.get_set.type, IC_KVP_STRING);
	expect_utf16(packet.get_set.key, packet.get_set.key_bytes, "HostName");
	expect_utf16(packet.get_set.value, packet.get_set.value_bytes, "paris");
	answer(f, IC_S_OK);
	give_item(f, IC_KVP_POOL_GUEST, 0, "mine", "1");
	end_of_items(f, IC_KVP_POOL_GUEST);
	give_item(f, IC_KVP_POOL_AUTO, 0, "OSName", "Debian GNU/Linux");
	give_item(f, IC_KVP_POOL_AUTO, 1, "NetworkAddressIPv4", "10.0.0.2");
	end_of_items(f, IC_KVP_POOL_AUTO);
}

static void kvp_reads_and_writes_at_the_start(void **state)
{
	struct fixture *f = *state;
	const struct ic_pair *known;

	kvp_start(f);
	assert_int_equal(ic_kvp_known(f->ic, IC_POOL_INTRINSIC, &known), 2);
	assert_string_equal(known[0].key, "OSName");
	assert_string_equal(known[1].value, "10.0.0.2");
	assert_int_equal(ic_kvp_known(f->ic, IC_POOL_GUEST, &known), 1);
	assert_string_equal(known[0].value, "1");
	vmbus_guest_close(TAKE(f->channel));
	assert_int_equal(ic_kvp_known(f->ic, IC_POOL_INTRINSIC, &known), 0);
}

static void kvp_requests_wait_their_turn(void **state)
{
	struct fixture *f = *state;
	struct ic_spec_kvp packet;

	kvp_start(f);
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "k\xc3\xa9y", "\xf0\x9f\x98\x80",
				    note_pairs, f, NULL),
			 0);
	assert_int_equal(ic_kvp_delete(f->ic, IC_POOL_EXTERNAL, "old", note_pairs, f, NULL), 0);
	assert_int_equal(ic_kvp_enumerate(f->ic, IC_POOL_EXTERNAL, note_pairs, f, NULL), 0);
	next_kvp(f, &packet, IC_KVP_SET, IC_KVP_POOL_EXTERNAL);
	assert_int_equal(packet.get_set.key_bytes, 8);
	assert_int_equal(packet.get_set.value_bytes, 6);
	expect_utf16(packet.get_set.value, 6, "\xf0\x9f\x98\x80");
	answer(f, IC_S_OK);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, 0);
	next_kvp(f, &packet, IC_KVP_DELETE, IC_KVP_POOL_EXTERNAL);
	expect_utf16(packet.remove.key, packet.remove.key_bytes, "old");
	answer(f, IC_E_FAIL);
	assert_int_equal(f->result, -ERR_DENIED);
	give_item(f, IC_KVP_POOL_EXTERNAL, 0, "a", "b");
	end_of_items(f, IC_KVP_POOL_EXTERNAL);
	assert_int_equal(f->results, 3);
	assert_int_equal(f->pair_count, 1);
	assert_string_equal(f->pairs[0].key, "a");
}

static void kvp_ip_info(void **state)
{
	static const uint8_t mac[6] = { 0x00, 0x15, 0x5D, 0xab, 0xcd, 0xef };
	struct fixture *f = *state;
	struct ic_spec_kvp_ip *packet = calloc(1, sizeof(*packet));

	kvp_start(f);
	assert_int_equal(ic_kvp_get_ip(f->ic, mac, note_pairs, f, NULL), 0);
	next_request(f, IC_MSG_KVP, 7456);
	memcpy(packet, f->packet.payload, sizeof(*packet));
	assert_int_equal(packet->operation, IC_KVP_GET_IP_INFO);
	expect_utf16(packet->adapter_id, 36, "00:15:5D:AB:CD:EF");
	utf16_from_utf8("10.0.0.2;fe80::1", packet->ip_addresses, sizeof(packet->ip_addresses));
	packet->dhcp_enabled = 1;
	memcpy(f->packet.payload, packet, sizeof(*packet));
	answer(f, IC_S_OK);
	assert_int_equal(f->result, 0);
	assert_int_equal(f->pair_count, 5);
	assert_string_equal(f->pairs[0].value, "10.0.0.2;fe80::1");
	assert_string_equal(f->pairs[4].value, "1");
	free(packet);
}

static void kvp_requests_end_with_the_service(void **state)
{
	struct fixture *f = *state;
	char long_value[1100];

	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "a", "b", note_pairs, f, NULL),
			 -ERR_STATE);
	ic_enable(f->ic, IC_KVP, true, NULL);
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "a", "b", note_pairs, f, NULL), 0);
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "", "b", NULL, NULL, NULL),
			 -ERR_INVALID);
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "\xff", "b", NULL, NULL, NULL),
			 -ERR_INVALID);
	memset(long_value, 'x', sizeof(long_value));
	long_value[1023] = '\0';
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "a", long_value, NULL, NULL, NULL), 0);
	long_value[1023] = 'x';
	long_value[1024] = '\0';
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "a", long_value, NULL, NULL, NULL),
			 -ERR_INVALID);
	ic_enable(f->ic, IC_KVP, false, NULL);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, -ERR_CANCELLED);
}

/* ---- VSS ---- */

static void next_vss(struct fixture *f, enum ic_spec_vss_operation operation, uint32_t status)
{
	struct ic_spec_vss packet;

	next_request(f, IC_MSG_VSS, sizeof(packet));
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.operation, operation);
	answer(f, status);
}

static void contact_vss(struct fixture *f)
{
	contact(f, IC_VSS);
	negotiate(f, 1, 5, 0);
}

static int freeze(struct fixture *f, uint64_t timeout_ns)
{
	f->results = 0;
	return ic_vss_freeze(f->ic, timeout_ns, note_result, f, NULL);
}

static void backup_freezes_and_thaws(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(freeze(f, NS_PER_SEC), -ERR_STATE);
	contact_vss(f);
	for (int round = 0; round < 2; round++) {
		assert_int_equal(freeze(f, NS_PER_SEC), 0);
		assert_int_equal(ic_vss_freeze(f->ic, NS_PER_SEC, note_result, f, NULL), -ERR_BUSY);
		next_vss(f, IC_VSS_HOT_BACKUP, IC_S_OK);
		assert_int_equal(f->results, 0);
		next_vss(f, IC_VSS_FREEZE, IC_S_OK);
		assert_int_equal(f->results, 1);
		assert_int_equal(f->result, 0);
		assert_int_equal(ic_vss_thaw(f->ic, note_result, f, NULL), 0);
		next_vss(f, IC_VSS_THAW, IC_S_OK);
		assert_int_equal(f->results, 2);
		assert_int_equal(f->result, 0);
		next_vss(f, IC_VSS_BACKUP_COMPLETE, IC_S_OK);
		assert_int_equal(ic_vss_thaw(f->ic, note_result, f, NULL), -ERR_STATE);
	}
}

static void no_backup_without_a_daemon(void **state)
{
	struct fixture *f = *state;

	contact_vss(f);
	assert_int_equal(freeze(f, NS_PER_SEC), 0);
	next_vss(f, IC_VSS_HOT_BACKUP, IC_E_FAIL);
	assert_int_equal(f->result, -ERR_DENIED);
	/* A freeze that fails half-way is undone. */
	assert_int_equal(freeze(f, NS_PER_SEC), 0);
	next_vss(f, IC_VSS_HOT_BACKUP, IC_S_OK);
	next_vss(f, IC_VSS_FREEZE, IC_E_FAIL);
	assert_int_equal(f->result, -ERR_DENIED);
	next_vss(f, IC_VSS_THAW, IC_S_OK);
	next_vss(f, IC_VSS_BACKUP_COMPLETE, IC_S_OK);
	assert_int_equal(f->results, 1);
}

static void a_late_freeze_is_undone(void **state)
{
	struct fixture *f = *state;

	contact_vss(f);
	assert_int_equal(freeze(f, 1 * NS_PER_MSEC), 0);
	next_vss(f, IC_VSS_HOT_BACKUP, IC_S_OK);
	while (!f->results)
		vmbus_guest_step(f->guest);
	assert_int_equal(f->result, -ERR_TIMEOUT);
	next_vss(f, IC_VSS_FREEZE, IC_S_OK);
	next_vss(f, IC_VSS_THAW, IC_S_OK);
	assert_int_equal(f->results, 1);
}

static void a_forgotten_freeze_is_undone(void **state)
{
	struct fixture *f = *state;

	contact_vss(f);
	assert_int_equal(freeze(f, NS_PER_SEC), 0);
	next_vss(f, IC_VSS_HOT_BACKUP, IC_S_OK);
	next_vss(f, IC_VSS_FREEZE, IC_S_OK);
	loop_timer_arm(f->ic->vss.timer, clock_now_ns()); /* as if a minute had passed */
	next_vss(f, IC_VSS_THAW, IC_S_OK);
	assert_int_equal(ic_vss_thaw(f->ic, note_result, f, NULL), -ERR_TIMEOUT);
	next_vss(f, IC_VSS_BACKUP_COMPLETE, IC_S_OK);
	assert_int_equal(freeze(f, NS_PER_SEC), 0);
	vmbus_guest_close(TAKE(f->channel));
	assert_int_equal(f->result, -ERR_CANCELLED);
}

static void save_services(void *user, struct state_out *out)
{
	ic_save(((struct fixture *)user)->ic, out);
}

static void end_services(void *user)
{
	ic_free(((struct fixture *)user)->ic);
}

static void begin_services(void *user, struct vmbus_guest *guest)
{
	struct fixture *f = user;
	struct ic_config config = { .loop = guest->loop, .bus = guest->bus };

	assert_int_equal(ic_new(&config, &f->ic, NULL), 0);
	/* As ic_restore_begin does, which needs the state before the bus has it. */
	assert_int_equal(ic_enable(f->ic, f->contacted, true, NULL), 0);
}

static int restore_services(void *user, struct state_in *in, struct error *err)
{
	return ic_restore(((struct fixture *)user)->ic, in, err);
}

/* The guest as it goes on from a saved state. */
static void move_on(struct fixture *f)
{
	static const struct vmbus_guest_move move = { save_services, end_services, begin_services,
						      restore_services };
	struct error err;

	if (!vmbus_guest_move(f->guest, &move, f, &err))
		fail_msg("%s", err.text);
}

/* Where a guest goes on that was saved in the middle of a backup, nobody thaws it but us. */
static void a_saved_freeze_is_undone(void **state)
{
	struct fixture *f = *state;

	contact_vss(f);
	assert_int_equal(freeze(f, NS_PER_SEC), 0);
	next_vss(f, IC_VSS_HOT_BACKUP, IC_S_OK);
	next_vss(f, IC_VSS_FREEZE, IC_S_OK);
	move_on(f);
	next_vss(f, IC_VSS_THAW, IC_S_OK);
	next_vss(f, IC_VSS_BACKUP_COMPLETE, IC_S_OK);
	/* And when the freeze itself was under way. */
	assert_int_equal(freeze(f, NS_PER_SEC), 0);
	next_vss(f, IC_VSS_HOT_BACKUP, IC_S_OK);
	move_on(f);
	next_vss(f, IC_VSS_FREEZE, IC_S_OK);
	next_vss(f, IC_VSS_THAW, IC_S_OK);
	next_vss(f, IC_VSS_BACKUP_COMPLETE, IC_S_OK);
}

static void state_tables(void **state)
{
	STATE_CHECK(struct ic_vss_saved, ic_vss_saved_desc);
	STATE_CHECK(struct ic_copy_saved, ic_copy_saved_desc);
	STATE_CHECK(struct ic_copy_open_saved, ic_copy_open_saved_desc);
	STATE_CHECK(struct ic_link_saved, ic_link_saved_desc);
}

/* ---- file copy ---- */

#define FILE_BYTES (2 * IC_COPY_DATA_BYTES + 100)

static int read_file(void *user, uint64_t offset, void *buf, uint32_t len)
{
	uint8_t *bytes = buf;

	for (uint32_t i = 0; i < len; i++)
		bytes[i] = (uint8_t)(offset + i);
	return offset + len > FILE_BYTES ? -ERR_IO : 0;
}

static struct ic_copy_request copy_request(struct fixture *f, uint64_t size)
{
	f->results = 0;
	return (struct ic_copy_request){
		.folder = "/tmp",
		.name = "file",
		.overwrite = true,
		.size = size,
		.read = read_file,
		.done = note_result,
		.user = f,
	};
}

static int start_copy(struct fixture *f, uint64_t size)
{
	const struct ic_copy_request request = copy_request(f, size);

	return ic_copy_file(f->ic, &request, NULL);
}

static void contact_copy(struct fixture *f)
{
	contact(f, IC_COPY);
	negotiate(f, 1, 1, 1);
}

static void next_plain(struct fixture *f, enum ic_spec_copy_operation operation)
{
	struct ic_spec_copy packet;

	next_request(f, IC_MSG_FILE_COPY, sizeof(packet));
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.operation, operation);
	answer(f, IC_S_OK);
}

static void next_start(struct fixture *f, uint32_t status)
{
	struct ic_spec_copy_start packet;

	next_request(f, IC_MSG_FILE_COPY, sizeof(packet));
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.copy.operation, IC_COPY_START);
	assert_int_equal(packet.flags, IC_COPY_OVERWRITE);
	assert_memory_equal(packet.file_name, "f\0i\0l\0e\0\0", 10);
	assert_memory_equal(packet.path_name, "/\0t\0m\0p\0\0", 10);
	answer(f, status);
}

static void next_write(struct fixture *f, uint64_t offset, uint32_t size, uint32_t status)
{
	struct ic_spec_copy_write packet;

	next_request(f, IC_MSG_FILE_COPY, sizeof(packet));
	memcpy(&packet, f->packet.payload, sizeof(packet));
	assert_int_equal(packet.copy.operation, IC_COPY_WRITE);
	assert_int_equal(packet.offset, offset);
	assert_int_equal(packet.size, size);
	for (uint32_t i = 0; i < size; i++)
		assert_int_equal(packet.data[i], (uint8_t)(offset + i));
	answer(f, status);
}

static void a_file_is_copied(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(start_copy(f, FILE_BYTES), -ERR_STATE);
	contact_copy(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	assert_int_equal(start_copy(f, FILE_BYTES), -ERR_BUSY);
	next_start(f, IC_S_OK);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	next_write(f, IC_COPY_DATA_BYTES, IC_COPY_DATA_BYTES, IC_S_OK);
	next_write(f, 2 * IC_COPY_DATA_BYTES, 100, IC_S_OK);
	assert_int_equal(f->results, 0);
	next_plain(f, IC_COPY_COMPLETE);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, 0);
	/* An empty one has no pieces. */
	assert_int_equal(start_copy(f, 0), 0);
	next_start(f, IC_S_OK);
	next_plain(f, IC_COPY_COMPLETE);
	assert_int_equal(f->result, 0);
}

static void a_copy_fails_as_the_guest_says(void **state)
{
	struct fixture *f = *state;

	contact_copy(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_E_FILE_EXISTS);
	assert_int_equal(f->result, -ERR_EXISTS);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_E_DISK_FULL);
	assert_int_equal(f->results, 0);
	next_plain(f, IC_COPY_CANCEL);
	assert_int_equal(f->result, -ERR_NO_SPACE);
	/* The host can't read what it promised. */
	assert_int_equal(start_copy(f, 2 * FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	for (uint64_t at = 0; at + IC_COPY_DATA_BYTES <= FILE_BYTES; at += IC_COPY_DATA_BYTES)
		next_write(f, at, IC_COPY_DATA_BYTES, IC_S_OK);
	next_plain(f, IC_COPY_CANCEL);
	assert_int_equal(f->result, -ERR_IO);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	ic_copy_cancel(f->ic);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	next_plain(f, IC_COPY_CANCEL);
	assert_int_equal(f->result, -ERR_CANCELLED);
}

/* What the guest owes is taken, and leads to nothing; then its pools are read anew. */
static void a_saved_exchange_begins_anew(void **state)
{
	struct fixture *f = *state;
	struct ic_spec_kvp packet;

	kvp_start(f);
	assert_int_equal(ic_kvp_set(f->ic, IC_POOL_EXTERNAL, "a", "b", note_pairs, f, NULL), 0);
	move_on(f);
	assert_int_equal(f->result, -ERR_CANCELLED);
	assert_int_equal(ic_kvp_delete(f->ic, IC_POOL_EXTERNAL, "a", note_pairs, f, NULL), 0);
	next_kvp(f, &packet, IC_KVP_SET, IC_KVP_POOL_EXTERNAL);
	answer(f, IC_S_OK);
	give_item(f, IC_KVP_POOL_GUEST, 0, "mine", "1");
	end_of_items(f, IC_KVP_POOL_GUEST);
	end_of_items(f, IC_KVP_POOL_AUTO);
	next_kvp(f, &packet, IC_KVP_DELETE, IC_KVP_POOL_EXTERNAL);
	answer(f, IC_S_OK);
	assert_int_equal(f->result, 0);
}

/* The guest has the file open still, and gets the rest when the same copy is asked for again: while
 * it owes an answer, or later. */
static void a_saved_copy_goes_on(void **state)
{
	struct fixture *f = *state;

	contact_copy(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	move_on(f);
	assert_int_equal(f->result, -ERR_CANCELLED);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	assert_int_equal(start_copy(f, FILE_BYTES), -ERR_BUSY);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	move_on(f);
	next_write(f, IC_COPY_DATA_BYTES, IC_COPY_DATA_BYTES, IC_S_OK);
	assert_false(vmbus_guest_recv(f->channel, &f->packet));
	move_on(f); /* now it is saved as held */
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_write(f, 2 * IC_COPY_DATA_BYTES, 100, IC_S_OK);
	move_on(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_plain(f, IC_COPY_COMPLETE);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, 0);
}

/* Another one comes: the guest removes what it has first. */
static void a_saved_copy_gives_way(void **state)
{
	struct fixture *f = *state;
	struct ic_copy_request changed;

	contact_copy(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	move_on(f);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	changed = copy_request(f, FILE_BYTES);
	changed.source_time_ns = 1;
	assert_int_equal(ic_copy_file(f->ic, &changed, NULL), 0);
	next_plain(f, IC_COPY_CANCEL);
	assert_int_equal(f->results, 0);
	next_start(f, IC_S_OK);
	/* While the guest owes an answer to the old one, which may be that it failed. */
	move_on(f);
	assert_int_equal(start_copy(f, 0), 0);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_E_FAIL);
	next_plain(f, IC_COPY_CANCEL);
	next_start(f, IC_S_OK);
	next_plain(f, IC_COPY_COMPLETE);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, 0);
}

static void a_held_copy_is_cancelled(void **state)
{
	struct fixture *f = *state;

	contact_copy(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	move_on(f);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	/* An hour goes by. */
	loop_timer_arm(f->ic->copy.hold_timer, clock_now_ns());
	vmbus_guest_step(f->guest);
	next_plain(f, IC_COPY_CANCEL);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	/* What was cancelled before it was saved does not go on. */
	ic_copy_cancel(f->ic);
	move_on(f);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	next_plain(f, IC_COPY_CANCEL);
	/* Nor what comes behind an old one, if it is cancelled before. */
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	move_on(f);
	assert_int_equal(start_copy(f, 0), 0);
	ic_copy_cancel(f->ic);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	next_plain(f, IC_COPY_CANCEL);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, -ERR_CANCELLED);
}

/* Whoever asked for it is gone, but the guest gets it all the same. */
static void a_copy_is_taken_over(void **state)
{
	struct fixture *f = *state;
	struct ic_copy_request same;

	contact_copy(f);
	assert_int_equal(start_copy(f, FILE_BYTES), 0);
	next_start(f, IC_S_OK);
	same = copy_request(f, 100);
	same.take_over = true;
	assert_int_equal(ic_copy_file(f->ic, &same, NULL), -ERR_BUSY);
	assert_int_equal(f->results, 0);
	same.size = FILE_BYTES;
	assert_int_equal(ic_copy_file(f->ic, &same, NULL), 0);
	assert_int_equal(f->results, 1);
	assert_int_equal(f->result, -ERR_CANCELLED);
	next_write(f, 0, IC_COPY_DATA_BYTES, IC_S_OK);
	next_write(f, IC_COPY_DATA_BYTES, IC_COPY_DATA_BYTES, IC_S_OK);
	next_write(f, 2 * IC_COPY_DATA_BYTES, 100, IC_S_OK);
	next_plain(f, IC_COPY_COMPLETE);
	assert_int_equal(f->results, 2);
	assert_int_equal(f->result, 0);
}

static void kvp_sets_addresses(void **state)
{
	struct fixture *f = *state;
	struct guid adapter =
	    GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e);
	struct ic_ip_config config = { .adapter = &adapter,
				       .addresses = "10.0.0.2;fd00::2",
				       .subnets = "255.255.255.0",
				       .gateways = "10.0.0.1" };
	struct ic_spec_kvp_ip *packet = malloc(sizeof(*packet));

	f->ic->kvp.facts.count = 0;
	contact(f, IC_KVP);
	negotiate(f, 3, 4, 0);
	for (int i = 0; i < 2; i++) { /* what it reads by itself */
		next_request(f, IC_MSG_KVP, sizeof(struct ic_spec_kvp));
		answer(f, IC_E_NO_MORE_ITEMS);
	}
	assert_int_equal(ic_kvp_set_ip(f->ic, &config, NULL, NULL, NULL), 0);
	next_request(f, IC_MSG_KVP, sizeof(*packet));
	memcpy(packet, f->packet.payload, sizeof(*packet));
	assert_int_equal(packet->operation, IC_KVP_SET_IP_INFO);
	assert_int_equal(packet->address_family, 3);
	assert_int_equal(packet->dhcp_enabled, 0);
	assert_memory_equal(packet->adapter_id,
			    "{\0f\0"
			    "8\0",
			    6);
	assert_memory_equal(packet->ip_addresses,
			    "1\0"
			    "0\0"
			    ".\0",
			    6);
	answer(f, IC_S_OK);
	free(packet);
	f->ic->kvp.facts.count = 1;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(states_follow_the_guest),
		TEST(no_common_version),
		TEST(stray_answers_are_ignored),
		TEST(applications_say_how_they_are),
		TEST(silence_is_lost_communication),
		TEST(shutdown_asks_and_reports),
		TEST(time_is_synced_then_sampled),
		TEST(old_guests_get_the_old_layout),
		TEST(kvp_reads_and_writes_at_the_start),
		TEST(kvp_requests_wait_their_turn),
		TEST(kvp_ip_info),
		TEST(kvp_requests_end_with_the_service),
		TEST(backup_freezes_and_thaws),
		TEST(no_backup_without_a_daemon),
		TEST(a_late_freeze_is_undone),
		TEST(a_forgotten_freeze_is_undone),
		TEST(a_file_is_copied),
		TEST(a_saved_freeze_is_undone),
		cmocka_unit_test(state_tables),
		TEST(a_copy_fails_as_the_guest_says),
		TEST(a_saved_copy_goes_on),
		TEST(a_saved_copy_gives_way),
		TEST(a_held_copy_is_cancelled),
		TEST(a_copy_is_taken_over),
		TEST(a_saved_exchange_begins_anew),
		TEST(kvp_sets_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
