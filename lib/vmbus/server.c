/*
 * The bus: messages from the guest (queued by VP threads, handled on the loop), connection,
 * signals.
 *
 * When the client says goodbye or a new one appears, all channels are closed at once; the answer,
 * and any further message, waits until nothing is in flight into guest memory (bus->drain).
 */
#include "vmbus/vmbus-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"

#include <string.h>

/* ---- to the guest ---- */

void vmbus_post(struct vmbus *bus, void *message, size_t len, enum vmbus_spec_msg_type type)
{
	struct vmbus_spec_header header = { .type = type };

	memcpy(message, &header, sizeof(header));
	if (hv_post_message(bus->hv, bus->connect_vp, bus->sint, VMBUS_MESSAGE_TYPE, message, len) <
	    0)
		log_guest("does not take its VMBus messages: one of type %d is lost", (int)type);
}

/* ---- from VP threads ---- */

static bool push_message(struct vmbus *bus, const void *payload, size_t len)
{
	struct vmbus_message *message;
	bool ok;

	pthread_mutex_lock(&bus->lock);
	ok = bus->count < VMBUS_MESSAGES_MAX;
	if (ok) {
		message = &bus->messages[(bus->first + bus->count) % VMBUS_MESSAGES_MAX];
		message->len = (uint32_t)len;
		memcpy(message->bytes, payload, len);
		bus->count++;
	}
	pthread_mutex_unlock(&bus->lock);
	return ok;
}

static bool guest_lags(struct vmbus *bus)
{
	uint32_t vp = __atomic_load_n(&bus->connect_vp, __ATOMIC_RELAXED);
	uint32_t sint = __atomic_load_n(&bus->sint, __ATOMIC_RELAXED);

	return hv_message_backlog(bus->hv, vp, sint) >= VMBUS_BACKLOG_MAX;
}

static enum hv_status on_post_message(void *user, unsigned vp, uint32_t connection_id,
				      uint32_t type, const void *payload, size_t len)
{
	struct vmbus *bus = user;

	if (connection_id != VMBUS_CONNECTION_MESSAGE && connection_id != VMBUS_CONNECTION_CONTACT)
		return HV_STATUS_INVALID_CONNECTION_ID;
	if (len < sizeof(struct vmbus_spec_header))
		return HV_STATUS_INVALID_PARAMETER;
	if (guest_lags(bus) || !push_message(bus, payload, len))
		return HV_STATUS_INSUFFICIENT_BUFFERS; /* the guest tries again */
	loop_kick(bus->message_kick);
	return HV_STATUS_SUCCESS;
}

static enum hv_status on_signal_event(void *user, unsigned vp, uint32_t connection_id,
				      uint16_t flag)
{
	struct vmbus *bus = user;
	uint32_t relid = connection_id - VMBUS_CONNECTION_CHANNEL;

	if (connection_id == VMBUS_CONNECTION_EVENT) {
		__atomic_store_n(&bus->page_signalled, 1, __ATOMIC_SEQ_CST);
		loop_kick(bus->signal_kick);
		return HV_STATUS_SUCCESS;
	}
	if (relid > VMBUS_MAX_RELID ||
	    !(__atomic_load_n(&bus->connected[relid / 64], __ATOMIC_ACQUIRE) & BIT(relid % 64)))
		return HV_STATUS_INVALID_CONNECTION_ID;
	vmbus_kick_channel(bus, relid);
	return HV_STATUS_SUCCESS;
}

/* ---- signals, on the loop ---- */

void vmbus_kick_channel(struct vmbus *bus, uint32_t relid)
{
	uint64_t bit = BIT(relid % 64);
	uint64_t before = __atomic_fetch_or(&bus->signalled[relid / 64], bit, __ATOMIC_SEQ_CST);

	if (!(before & bit))
		loop_kick(bus->signal_kick);
}

void vmbus_look_again(struct vmbus_channel *channel)
{
	vmbus_kick_channel(channel->bus, channel->relid);
}

static void run_channels(struct vmbus *bus, uint32_t first_relid, uint64_t bits)
{
	while (bits) {
		uint32_t relid = first_relid + (uint32_t)__builtin_ctzll(bits);
		struct vmbus_channel *channel = vmbus_channel_find(bus, relid);

		bits &= bits - 1;
		if (channel)
			vmbus_channel_run(channel);
	}
}

/* Test-and-clear of the guest's half of the interrupt page (versions before 2.4). */
static void take_page_signals(struct vmbus *bus)
{
	uint64_t *words = (uint64_t *)(bus->interrupt_page + VMBUS_INTERRUPT_TO_HOST);

	for (uint32_t i = 0; i < VMBUS_RELID_WORDS; i++) {
		uint64_t bits = __atomic_load_n(&words[i], __ATOMIC_RELAXED);

		if (bits)
			bits = __atomic_exchange_n(&words[i], 0, __ATOMIC_SEQ_CST);
		if (bits)
			__atomic_fetch_or(&bus->signalled[i], bits, __ATOMIC_SEQ_CST);
	}
	mem_written(bus->mem, bus->interrupt_page_gpa + VMBUS_INTERRUPT_TO_HOST,
		    VMBUS_RELID_WORDS * sizeof(*words));
}

static void on_signal_kick(void *user)
{
	struct vmbus *bus = user;

	if (__atomic_exchange_n(&bus->page_signalled, 0, __ATOMIC_SEQ_CST) && bus->interrupt_page)
		take_page_signals(bus);
	for (uint32_t i = 0; i < VMBUS_RELID_WORDS; i++) {
		uint64_t bits = __atomic_load_n(&bus->signalled[i], __ATOMIC_RELAXED);

		if (bits)
			bits = __atomic_exchange_n(&bus->signalled[i], 0, __ATOMIC_SEQ_CST);
		run_channels(bus, i * 64, bits);
	}
}

/* Channels whose guest does not announce free room are tried again now and then. */
static void on_room_timer(void *user)
{
	struct vmbus *bus = user;
	bool again = false;

	for (struct vmbus_channel *channel = bus->channels; channel; channel = channel->next) {
		if (channel->state != VMBUS_CHANNEL_OPEN || !channel->waits_for_room)
			continue;
		vmbus_kick_channel(bus, channel->relid);
		again = true;
	}
	if (again)
		loop_timer_arm(bus->room_timer, clock_now_ns() + VMBUS_ROOM_POLL_NS);
}

/* ---- connection ---- */

static const uint32_t versions[] = {
	VMBUS_VERSION_5_3, VMBUS_VERSION_5_2,  VMBUS_VERSION_5_1, VMBUS_VERSION_5_0,
	VMBUS_VERSION_4_1, VMBUS_VERSION_4_0,  VMBUS_VERSION_3_0, VMBUS_VERSION_2_4,
	VMBUS_VERSION_1_1, VMBUS_VERSION_0_13,
};

uint32_t vmbus_version(const struct vmbus *bus)
{
	return bus->version;
}

uint64_t vmbus_reference_time(const struct vmbus *bus)
{
	return hv_reference_time(bus->hv);
}

static bool is_supported(uint32_t version)
{
	for (unsigned i = 0; i < ARRAY_SIZE(versions); i++)
		if (versions[i] == version)
			return true;
	return false;
}

/* Where the new client wants its messages; what the old one left unread would mislead it. */
static void set_message_target(struct vmbus *bus, uint32_t vp, uint32_t sint)
{
	hv_message_flush(bus->hv, bus->connect_vp, bus->sint);
	__atomic_store_n(&bus->connect_vp, vp, __ATOMIC_RELAXED);
	__atomic_store_n(&bus->sint, sint, __ATOMIC_RELAXED);
	hv_message_flush(bus->hv, vp, sint);
}

static void set_interrupt_page(struct vmbus *bus, uint64_t gpa)
{
	bus->interrupt_page = NULL;
	if (bus->version >= VMBUS_VERSION_5_0 || !gpa || gpa % VMBUS_PAGE_BYTES)
		return;
	bus->interrupt_page = mem_ptr(bus->mem, gpa, VMBUS_PAGE_BYTES);
	bus->interrupt_page_gpa = gpa;
}

static void finish_contact(struct vmbus *bus)
{
	const struct vmbus_spec_initiate_contact *msg = &bus->contact;
	bool modern = msg->version >= VMBUS_VERSION_5_0;
	uint32_t vp = msg->version >= VMBUS_VERSION_3_0 ? msg->target_vp : 0;
	uint32_t sint = VMBUS_SINT;
	bool ok = is_supported(msg->version) && vp < hv_vp_count(bus->hv);
	struct vmbus_spec_version_response response = {
		.version_supported = ok,
		.connection_id_or_version = modern ? VMBUS_CONNECTION_MESSAGE : msg->version,
	};

	if (modern && msg->msg_sint > 0 && msg->msg_sint < HV_SINT_COUNT)
		sint = msg->msg_sint;
	set_message_target(bus, vp < hv_vp_count(bus->hv) ? vp : 0, sint);
	bus->version = ok ? msg->version : 0;
	set_interrupt_page(bus, ok ? msg->interrupt_page : 0);
	log_debug("VMBus version %u.%u %s", msg->version >> 16, msg->version & 0xFFFF,
		  ok ? "accepted" : "refused");
	vmbus_post(bus, &response, sizeof(response), VMBUS_MSG_VERSION_RESPONSE);
}

static void finish_unload(struct vmbus *bus)
{
	struct vmbus_spec_header response;

	vmbus_post(bus, &response, sizeof(response), VMBUS_MSG_UNLOAD_RESPONSE);
}

static void finish_reset(struct vmbus *bus)
{
	void (*done)(void *user) = bus->reset_done;

	hv_message_flush(bus->hv, bus->connect_vp, bus->sint);
	bus->connect_vp = 0;
	bus->sint = VMBUS_SINT;
	bus->reset_done = NULL;
	if (done)
		done(bus->reset_user);
}

void vmbus_drain_continue(struct vmbus *bus)
{
	enum vmbus_drain drain = bus->drain;

	if (drain == VMBUS_DRAIN_NONE || bus->holds)
		return;
	bus->drain = VMBUS_DRAIN_NONE;
	vmbus_gpadls_forget(bus);
	if (drain == VMBUS_DRAIN_CONTACT)
		finish_contact(bus);
	else if (drain == VMBUS_DRAIN_UNLOAD)
		finish_unload(bus);
	else
		finish_reset(bus);
	loop_kick(bus->message_kick);
}

static void disconnect(struct vmbus *bus, enum vmbus_drain drain)
{
	/* Keeps a drop() inside a device's `closed` from finishing before all are closed. */
	bus->drain = VMBUS_DRAIN_NONE;
	vmbus_channels_disconnect(bus);
	bus->version = 0;
	bus->interrupt_page = NULL;
	bus->drain = drain;
	vmbus_drain_continue(bus);
}

/* ---- messages, on the loop ---- */

static void on_initiate_contact(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	memcpy(&bus->contact, bytes, sizeof(bus->contact));
	disconnect(bus, VMBUS_DRAIN_CONTACT);
}

static void on_unload(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	disconnect(bus, VMBUS_DRAIN_UNLOAD);
}

static void on_request_offers(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_header done;

	bus->offers_requested = true;
	for (struct vmbus_channel *channel = bus->channels; channel; channel = channel->next)
		if (!channel->offered)
			vmbus_channel_send_offer(channel);
	vmbus_post(bus, &done, sizeof(done), VMBUS_MSG_ALLOFFERS_DELIVERED);
}

static void on_open(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_open msg;

	memcpy(&msg, bytes, sizeof(msg));
	vmbus_channel_open(bus, &msg);
}

static uint32_t relid_of(const uint8_t *bytes)
{
	struct vmbus_spec_relid msg;

	memcpy(&msg, bytes, sizeof(msg));
	return msg.relid;
}

static void on_close(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_channel *channel = vmbus_channel_find(bus, relid_of(bytes));

	if (channel)
		vmbus_channel_close(channel);
}

static void on_relid_released(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	vmbus_channel_relid_released(bus, relid_of(bytes));
}

static void on_gpadl_teardown(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_gpadl_teardown msg;

	memcpy(&msg, bytes, sizeof(msg));
	vmbus_gpadl_teardown(bus, &msg);
}

static void on_modify_channel(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_modify_channel msg;

	memcpy(&msg, bytes, sizeof(msg));
	vmbus_channel_modify(bus, &msg);
}

void vmbus_set_socket_handler(struct vmbus *bus,
			      void (*asked)(void *user, const struct guid *endpoint_id,
					    const struct guid *service_id),
			      void *user)
{
	bus->socket_asked = asked;
	bus->socket_user = user;
}

void vmbus_refuse_socket(struct vmbus *bus, const struct guid *endpoint_id,
			 const struct guid *service_id)
{
	struct vmbus_spec_tl_connect_result result = { .endpoint_id = *endpoint_id,
						       .service_id = *service_id,
						       .status = VMBUS_STATUS_CONNECTION_REFUSED };

	if (bus->version)
		vmbus_post(bus, &result, sizeof(result), VMBUS_MSG_TL_CONNECT_RESULT);
}

static void on_tl_connect(struct vmbus *bus, const uint8_t *bytes, uint32_t len)
{
	struct vmbus_spec_tl_connect_request msg;

	memcpy(&msg, bytes, sizeof(msg));
	if (bus->socket_asked)
		bus->socket_asked(bus->socket_user, &msg.endpoint_id, &msg.service_id);
	else
		vmbus_refuse_socket(bus, &msg.endpoint_id, &msg.service_id);
}

static const struct handler {
	uint32_t min_len;
	bool unconnected; /* also before a version was agreed on */
	void (*run)(struct vmbus *bus, const uint8_t *bytes, uint32_t len);
} handlers[] = {
	[VMBUS_MSG_REQUESTOFFERS] = { sizeof(struct vmbus_spec_header), false, on_request_offers },
	[VMBUS_MSG_OPENCHANNEL] = { sizeof(struct vmbus_spec_open), false, on_open },
	[VMBUS_MSG_CLOSECHANNEL] = { sizeof(struct vmbus_spec_relid), false, on_close },
	[VMBUS_MSG_GPADL_HEADER] = { sizeof(struct vmbus_spec_gpadl_header), false,
				     vmbus_gpadl_header },
	[VMBUS_MSG_GPADL_BODY] = { sizeof(struct vmbus_spec_gpadl_body), false, vmbus_gpadl_body },
	[VMBUS_MSG_GPADL_TEARDOWN] = { sizeof(struct vmbus_spec_gpadl_teardown), false,
				       on_gpadl_teardown },
	[VMBUS_MSG_RELID_RELEASED] = { sizeof(struct vmbus_spec_relid), false, on_relid_released },
	[VMBUS_MSG_INITIATE_CONTACT] = { sizeof(struct vmbus_spec_initiate_contact), true,
					 on_initiate_contact },
	[VMBUS_MSG_UNLOAD] = { sizeof(struct vmbus_spec_header), true, on_unload },
	[VMBUS_MSG_TL_CONNECT_REQUEST] = { sizeof(struct vmbus_spec_tl_connect_request), false,
					   on_tl_connect },
	[VMBUS_MSG_MODIFYCHANNEL] = { sizeof(struct vmbus_spec_modify_channel), false,
				      on_modify_channel },
};

static void handle(struct vmbus *bus, const struct vmbus_message *message)
{
	struct vmbus_spec_header header;
	const struct handler *handler;

	memcpy(&header, message->bytes, sizeof(header));
	handler = header.type < ARRAY_SIZE(handlers) ? &handlers[header.type] : NULL;
	if (!handler || !handler->run || message->len < handler->min_len ||
	    (!bus->version && !handler->unconnected)) {
		log_guest("VMBus message of type %u, %u bytes ignored", header.type, message->len);
		return;
	}
	handler->run(bus, message->bytes, message->len);
}

static bool pop_message(struct vmbus *bus, struct vmbus_message *ret)
{
	bool ok;

	pthread_mutex_lock(&bus->lock);
	ok = bus->count > 0;
	if (ok) {
		*ret = bus->messages[bus->first];
		bus->first = (bus->first + 1) % VMBUS_MESSAGES_MAX;
		bus->count--;
	}
	pthread_mutex_unlock(&bus->lock);
	return ok;
}

static void on_message_kick(void *user)
{
	struct vmbus *bus = user;
	struct vmbus_message message;

	while (bus->drain == VMBUS_DRAIN_NONE && pop_message(bus, &message))
		handle(bus, &message);
}

/* ---- life cycle ---- */

static int attach(struct vmbus *bus, struct error *err)
{
	int rc = loop_kick_new(bus->loop, on_message_kick, bus, &bus->message_kick, err);

	if (rc == 0)
		rc = loop_kick_new(bus->loop, on_signal_kick, bus, &bus->signal_kick, err);
	if (rc == 0)
		rc = loop_timer_new(bus->loop, on_room_timer, bus, &bus->room_timer, err);
	return rc;
}

int vmbus_new(struct loop *loop, struct mem *mem, struct hv *hv, struct vmbus **ret,
	      struct error *err)
{
	struct hv_ports ports = { .post_message = on_post_message,
				  .signal_event = on_signal_event };
	struct vmbus *bus = calloc(1, sizeof(*bus));
	int rc;

	if (!bus)
		return error_set(err, ERR_NO_MEMORY, "no memory for the VMBus");
	bus->loop = loop;
	bus->mem = mem;
	bus->hv = hv;
	bus->sint = VMBUS_SINT;
	pthread_mutex_init(&bus->lock, NULL);
	rc = attach(bus, err);
	if (rc < 0) {
		vmbus_free(bus);
		return rc;
	}
	ports.user = bus;
	hv_set_ports(hv, &ports);
	*ret = bus;
	return 0;
}

void vmbus_reset(struct vmbus *bus, void (*done)(void *user), void *user)
{
	pthread_mutex_lock(&bus->lock);
	bus->count = 0;
	pthread_mutex_unlock(&bus->lock);
	bus->reset_done = done;
	bus->reset_user = user;
	disconnect(bus, VMBUS_DRAIN_RESET);
}

void vmbus_free(struct vmbus *bus)
{
	if (!bus)
		return;
	hv_set_ports(bus->hv, NULL);
	bus->drain = VMBUS_DRAIN_NONE;
	vmbus_restore_forget(bus);
	vmbus_channels_free(bus);
	vmbus_gpadls_forget(bus);
	loop_kick_free(bus->message_kick);
	loop_kick_free(bus->signal_kick);
	if (bus->room_timer)
		loop_timer_free(bus->room_timer);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}
