#include "vmbus-guest.h"

#include "base/clock.h"
#include "base/macros.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WRITE_INDEX  offsetof(struct vmbus_spec_ring_control, write_index)
#define READ_INDEX   offsetof(struct vmbus_spec_ring_control, read_index)
#define MASK         offsetof(struct vmbus_spec_ring_control, interrupt_mask)
#define PENDING_SIZE offsetof(struct vmbus_spec_ring_control, pending_send_size)
#define FEATURES     offsetof(struct vmbus_spec_ring_control, feature_bits)

#define PFNS_IN_HEADER 26
#define PFNS_IN_BODY   28

#define require(condition, ...)                                                                    \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "vmbus-guest: " __VA_ARGS__);                              \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* ---- life cycle ---- */

static uint64_t msr_read(struct vmbus_guest *guest, unsigned vp, uint32_t msr)
{
	uint64_t value = 0;

	require(hv_msr_read(guest->hv, vp, msr, &value), "#GP on rdmsr %#x", msr);
	return value;
}

static void msr_write(struct vmbus_guest *guest, unsigned vp, uint32_t msr, uint64_t value)
{
	require(hv_msr_write(guest->hv, vp, msr, value), "#GP on wrmsr %#x", msr);
}

static void synic_on(struct vmbus_guest *guest, unsigned vp, uint64_t simp, uint64_t siefp)
{
	uint64_t sint = msr_read(guest, vp, HV_MSR_SINT0 + VMBUS_SINT);

	sint &= ~(HV_SINT_VECTOR_MASK | HV_SINT_MASKED);
	msr_write(guest, vp, HV_MSR_SIMP, simp | HV_PAGE_MSR_ENABLE);
	msr_write(guest, vp, HV_MSR_SIEFP, siefp | HV_PAGE_MSR_ENABLE);
	msr_write(guest, vp, HV_MSR_SINT0 + VMBUS_SINT, sint | VMBUS_GUEST_VECTOR);
	msr_write(guest, vp, HV_MSR_SCONTROL, HV_SCONTROL_ENABLE);
}

static void new_host(struct vmbus_guest *guest)
{
	struct hv_config config = { .loop = guest->loop,
				    .mem = guest->mem,
				    .vp_count = guest->vp_count,
				    .features = { .reference_tsc = true,
						  .synthetic_timers = true } };
	struct error err;

	require(hv_new(&config, &guest->hv, &err) == 0, "%s", err.text);
	hv_set_part(guest->hv, &guest->part);
	require(vmbus_new(guest->loop, guest->mem, guest->hv, &guest->bus, &err) == 0, "%s",
		err.text);
}

static int restore(struct vmbus_guest *guest, const struct vmbus_guest_move *ops, void *user,
		   struct state_in *in, struct error *err)
{
	int rc = hv_restore(guest->hv, in, err);

	if (rc == 0)
		rc = vmbus_restore(guest->bus, in, err);
	if (rc == 0 && ops->restore)
		rc = ops->restore(user, in, err);
	if (rc == 0)
		rc = vmbus_restore_finish(guest->bus, err);
	if (rc == 0)
		rc = state_in_finish(in, err);
	return rc;
}

bool vmbus_guest_move(struct vmbus_guest *guest, const struct vmbus_guest_move *ops, void *user,
		      struct error *err)
{
	struct state_out *out = state_out_new(clock_now_ns());
	const uint8_t *bytes;
	struct state_in *in;
	size_t size;
	int rc;

	hv_save(guest->hv, out);
	vmbus_save(guest->bus, out);
	if (ops->save)
		ops->save(user, out);
	require(state_out_bytes(out, &bytes, &size, err) == 0, "%s", err->text);
	/* The guest's memory is as it was then: what ends now must not reach it. */
	AUTO_FREE uint8_t *ram = malloc(mem_size_bytes(guest->mem));
	memcpy(ram, mem_ptr(guest->mem, 0, 1), mem_size_bytes(guest->mem));
	if (ops->end)
		ops->end(user);
	vmbus_free(guest->bus);
	hv_free(guest->hv);
	memcpy(mem_ptr(guest->mem, 0, 1), ram, mem_size_bytes(guest->mem));
	new_host(guest);
	if (ops->begin)
		ops->begin(user, guest);
	require(state_in_new(bytes, size, clock_now_ns(), &in, err) == 0, "%s", err->text);
	rc = restore(guest, ops, user, in, err);
	state_in_free(in);
	state_out_free(out);
	return rc == 0;
}

struct vmbus_guest *vmbus_guest_new(unsigned vp_count, uint64_t ram_bytes)
{
	return vmbus_guest_new_growable(vp_count, ram_bytes, ram_bytes);
}

struct vmbus_guest *vmbus_guest_new_growable(unsigned vp_count, uint64_t ram_bytes,
					     uint64_t reach_bytes)
{
	struct vmbus_guest *guest = calloc(1, sizeof(*guest));
	struct error err;

	require(guest, "no memory");
	guest->vp_count = vp_count;
	guest->next_page = 16 * VMBUS_PAGE_BYTES;
	guest->next_gpadl = 0xE1E10;
	require(loop_new(&guest->loop, &err) == 0, "%s", err.text);
	require(mem_new_growable(ram_bytes, reach_bytes, &guest->mem, &err) == 0, "%s", err.text);
	new_host(guest);
	guest->post_page = vmbus_guest_alloc(guest, 1);
	guest->interrupt_page = vmbus_guest_alloc(guest, 1);
	guest->monitor_pages[0] = vmbus_guest_alloc(guest, 1);
	guest->monitor_pages[1] = vmbus_guest_alloc(guest, 1);
	for (unsigned vp = vp_count; vp-- > 0;) {
		guest->message_page = vmbus_guest_alloc(guest, 1);
		guest->event_page = vmbus_guest_alloc(guest, 1);
		synic_on(guest, vp, guest->message_page, guest->event_page);
	}
	return guest;
}

void vmbus_guest_free(struct vmbus_guest *guest)
{
	if (!guest)
		return;
	vmbus_free(guest->bus);
	hv_free(guest->hv);
	loop_free(guest->loop);
	mem_free(guest->mem);
	free(guest);
}

void vmbus_guest_step(struct vmbus_guest *guest)
{
	if (guest->loop_elsewhere)
		sched_yield();
	else
		loop_step(guest->loop, 1);
}

/* ---- guest memory ---- */

uint64_t vmbus_guest_alloc(struct vmbus_guest *guest, unsigned pages)
{
	uint64_t gpa = guest->next_page;
	uint64_t bytes = (uint64_t)pages * VMBUS_PAGE_BYTES;

	require(mem_ptr(guest->mem, gpa, bytes), "out of guest memory");
	memset(mem_ptr(guest->mem, gpa, bytes), 0, bytes);
	guest->next_page += bytes;
	return gpa;
}

void vmbus_guest_alloc_scattered(struct vmbus_guest *guest, unsigned pages, uint64_t *ret_gpa)
{
	for (unsigned i = pages; i-- > 0;) {
		ret_gpa[i] = vmbus_guest_alloc(guest, 1);
		vmbus_guest_alloc(guest, 1);
	}
}

/* ---- messages ---- */

enum hv_status vmbus_guest_post(struct vmbus_guest *guest, uint32_t connection_id, void *message,
				size_t len, enum vmbus_spec_msg_type type)
{
	struct vmbus_spec_header header = { .type = type };
	struct hv_spec_post_message in = { .connection_id = connection_id,
					   .message_type = VMBUS_MESSAGE_TYPE,
					   .payload_size = (uint32_t)len };
	struct part_hypercall call = { .long_mode = true,
				       .control = HV_CALL_POST_MESSAGE,
				       .input = guest->post_page };

	memcpy(message, &header, sizeof(header));
	memcpy(in.payload, message, len);
	mem_write(guest->mem, guest->post_page, &in, sizeof(in));
	for (unsigned attempt = 0; attempt < 100; attempt++) {
		hv_hypercall(guest->hv, 0, &call);
		if ((uint16_t)call.result != HV_STATUS_INSUFFICIENT_BUFFERS)
			break;
		vmbus_guest_step(guest);
	}
	return (uint16_t)call.result;
}

static struct hv_spec_message *message_slot(struct vmbus_guest *guest)
{
	return mem_ptr(guest->mem,
		       guest->message_page + VMBUS_SINT * sizeof(struct hv_spec_message),
		       sizeof(struct hv_spec_message));
}

static void note_offer(struct vmbus_guest *guest, const struct vmbus_guest_message *message)
{
	require(message->len >= sizeof(struct vmbus_spec_offer), "short offer");
	require(guest->offer_count < VMBUS_GUEST_MAX_OFFERS, "too many offers");
	memcpy(&guest->offers[guest->offer_count], message->bytes, sizeof(struct vmbus_spec_offer));
	guest->offer_live[guest->offer_count++] = true;
}

static void note_rescind(struct vmbus_guest *guest, const struct vmbus_guest_message *message)
{
	struct vmbus_spec_relid msg;

	memcpy(&msg, message->bytes, sizeof(msg));
	for (unsigned i = 0; i < guest->offer_count; i++)
		if (guest->offers[i].relid == msg.relid)
			guest->offer_live[i] = false;
}

bool vmbus_guest_poll(struct vmbus_guest *guest, struct vmbus_guest_message *ret)
{
	struct hv_spec_message *slot = message_slot(guest);
	uint32_t type = __atomic_load_n(&slot->type, __ATOMIC_ACQUIRE);
	struct vmbus_spec_header header;

	if (!type)
		return false;
	require(type == VMBUS_MESSAGE_TYPE, "message type %#x in the slot", type);
	ret->len = slot->payload_size;
	memcpy(ret->bytes, slot->payload, ret->len);
	__atomic_store_n(&slot->type, 0, __ATOMIC_SEQ_CST);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (slot->flags & HV_MESSAGE_FLAG_PENDING)
		msr_write(guest, 0, HV_MSR_EOM, 0);
	memcpy(&header, ret->bytes, sizeof(header));
	ret->type = header.type;
	if (ret->type == VMBUS_MSG_OFFERCHANNEL)
		note_offer(guest, ret);
	else if (ret->type == VMBUS_MSG_RESCIND)
		note_rescind(guest, ret);
	return true;
}

static bool take_stashed(struct vmbus_guest *guest, enum vmbus_spec_msg_type type,
			 struct vmbus_guest_message *ret)
{
	for (unsigned i = 0; i < guest->stash_count; i++) {
		if (guest->stash[i].type != type)
			continue;
		*ret = guest->stash[i];
		guest->stash_count--;
		memmove(&guest->stash[i], &guest->stash[i + 1],
			(guest->stash_count - i) * sizeof(guest->stash[0]));
		return true;
	}
	return false;
}

static void stash(struct vmbus_guest *guest, const struct vmbus_guest_message *message)
{
	if (message->type == VMBUS_MSG_OFFERCHANNEL)
		return; /* noted */
	require(guest->stash_count < ARRAY_SIZE(guest->stash), "too many unread messages");
	guest->stash[guest->stash_count++] = *message;
}

/* The other side has had its time, and turns enough to use it, however busy the machine is. */
struct patience {
	uint64_t until_ns;
	unsigned turns;
};

static struct patience patience(void)
{
	return (struct patience){ clock_now_ns() + VMBUS_GUEST_TIMEOUT_MS * NS_PER_MSEC,
				  VMBUS_GUEST_TURNS };
}

static bool wait_on(struct patience *p)
{
	p->turns -= p->turns > 0;
	return p->turns > 0 || clock_now_ns() < p->until_ns;
}

bool vmbus_guest_wait(struct vmbus_guest *guest, enum vmbus_spec_msg_type type,
		      struct vmbus_guest_message *ret)
{
	struct patience p = patience();

	if (take_stashed(guest, type, ret))
		return true;
	while (wait_on(&p)) {
		while (vmbus_guest_poll(guest, ret)) {
			if (ret->type == (uint32_t)type)
				return true;
			stash(guest, ret);
		}
		vmbus_guest_step(guest);
	}
	return false;
}

/* ---- connection ---- */

bool vmbus_guest_contact(struct vmbus_guest *guest, uint32_t version)
{
	bool modern = version >= VMBUS_VERSION_5_0;
	struct vmbus_spec_initiate_contact msg = { .version = version,
						   .monitor_page1 = guest->monitor_pages[0],
						   .monitor_page2 = guest->monitor_pages[1] };
	struct vmbus_spec_version_response response;
	struct vmbus_guest_message message;

	if (modern)
		msg.msg_sint = VMBUS_SINT;
	else
		msg.interrupt_page = guest->interrupt_page;
	guest->offer_count = guest->stash_count = 0;
	guest->version = 0;
	require(vmbus_guest_post(guest,
				 modern ? VMBUS_CONNECTION_CONTACT : VMBUS_CONNECTION_MESSAGE, &msg,
				 sizeof(msg), VMBUS_MSG_INITIATE_CONTACT) == 0,
		"INITIATE_CONTACT failed");
	require(vmbus_guest_wait(guest, VMBUS_MSG_VERSION_RESPONSE, &message),
		"no VERSION_RESPONSE");
	memcpy(&response, message.bytes, sizeof(response));
	require(response.connection_id_or_version == (modern ? VMBUS_CONNECTION_MESSAGE : version),
		"VERSION_RESPONSE says %#x", response.connection_id_or_version);
	if (response.version_supported)
		guest->version = version;
	return response.version_supported;
}

void vmbus_guest_request_offers(struct vmbus_guest *guest)
{
	struct vmbus_spec_header msg;
	struct vmbus_guest_message message;

	require(vmbus_guest_post(guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg),
				 VMBUS_MSG_REQUESTOFFERS) == 0,
		"REQUESTOFFERS failed");
	require(vmbus_guest_wait(guest, VMBUS_MSG_ALLOFFERS_DELIVERED, &message),
		"no ALLOFFERS_DELIVERED");
}

bool vmbus_guest_connect(struct vmbus_guest *guest, uint32_t version)
{
	if (!vmbus_guest_contact(guest, version))
		return false;
	vmbus_guest_request_offers(guest);
	return true;
}

void vmbus_guest_unload(struct vmbus_guest *guest)
{
	struct vmbus_spec_header msg;
	struct vmbus_guest_message message;

	vmbus_guest_post(guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg), VMBUS_MSG_UNLOAD);
	require(vmbus_guest_wait(guest, VMBUS_MSG_UNLOAD_RESPONSE, &message), "no UNLOAD_RESPONSE");
	guest->version = 0;
	guest->offer_count = 0;
}

static const struct vmbus_spec_offer *find_offer(struct vmbus_guest *guest,
						 const struct guid *class_id, uint16_t index)
{
	for (unsigned i = 0; i < guest->offer_count; i++)
		if (guest->offer_live[i] && guid_equal(&guest->offers[i].class_id, class_id) &&
		    guest->offers[i].subchannel_index == index)
			return &guest->offers[i];
	return NULL;
}

const struct vmbus_spec_offer *
vmbus_guest_offer(struct vmbus_guest *guest, const struct guid *class_id, uint16_t subchannel_index)
{
	struct vmbus_guest_message message;

	for (unsigned i = 0; i < 20; i++) {
		const struct vmbus_spec_offer *offer;

		while (vmbus_guest_poll(guest, &message))
			stash(guest, &message);
		offer = find_offer(guest, class_id, subchannel_index);
		if (offer)
			return offer;
		vmbus_guest_step(guest);
	}
	return NULL;
}

/* ---- GPADLs ---- */

static unsigned put_pfns(uint8_t *to, const uint64_t *gpa, unsigned pages, unsigned max)
{
	unsigned count = MIN(pages, max);

	for (unsigned i = 0; i < count; i++) {
		uint64_t pfn = gpa[i] / VMBUS_PAGE_BYTES;

		memcpy(to + i * sizeof(pfn), &pfn, sizeof(pfn));
	}
	return count;
}

uint32_t vmbus_guest_gpadl_create(struct vmbus_guest *guest, uint32_t relid, const uint64_t *gpa,
				  unsigned pages)
{
	uint8_t bytes[HV_MESSAGE_PAYLOAD_MAX];
	struct vmbus_spec_gpadl_header header = { .relid = relid,
						  .gpadl = guest->next_gpadl++,
						  .range_buflen = (uint16_t)(8 + pages * 8),
						  .range_count = 1,
						  .byte_count = pages * VMBUS_PAGE_BYTES };
	struct vmbus_spec_gpadl_body body = { .gpadl = header.gpadl };
	struct vmbus_spec_gpadl_created created;
	struct vmbus_guest_message message;
	unsigned done;

	memcpy(bytes, &header, sizeof(header));
	done = put_pfns(bytes + sizeof(header), gpa, pages, PFNS_IN_HEADER);
	require(vmbus_guest_post(guest, VMBUS_CONNECTION_MESSAGE, bytes, sizeof(header) + done * 8,
				 VMBUS_MSG_GPADL_HEADER) == 0,
		"GPADL_HEADER failed");
	while (done < pages) {
		unsigned n;

		memcpy(bytes, &body, sizeof(body));
		n = put_pfns(bytes + sizeof(body), gpa + done, pages - done, PFNS_IN_BODY);
		require(vmbus_guest_post(guest, VMBUS_CONNECTION_MESSAGE, bytes,
					 sizeof(body) + n * 8, VMBUS_MSG_GPADL_BODY) == 0,
			"GPADL_BODY failed");
		done += n;
	}
	require(vmbus_guest_wait(guest, VMBUS_MSG_GPADL_CREATED, &message), "no GPADL_CREATED");
	memcpy(&created, message.bytes, sizeof(created));
	require(created.gpadl == header.gpadl && created.relid == relid, "GPADL_CREATED differs");
	return created.status ? 0 : header.gpadl;
}

bool vmbus_guest_gpadl_teardown(struct vmbus_guest *guest, uint32_t relid, uint32_t gpadl)
{
	struct vmbus_spec_gpadl_teardown msg = { .relid = relid, .gpadl = gpadl };
	struct vmbus_spec_gpadl_torndown torndown;
	struct vmbus_guest_message message;

	vmbus_guest_post(guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg),
			 VMBUS_MSG_GPADL_TEARDOWN);
	if (!vmbus_guest_wait(guest, VMBUS_MSG_GPADL_TORNDOWN, &message))
		return false;
	memcpy(&torndown, message.bytes, sizeof(torndown));
	require(torndown.gpadl == gpadl, "GPADL_TORNDOWN of %#x", torndown.gpadl);
	return true;
}

/* ---- channels ---- */

static uint32_t *control_field(struct vmbus_guest *guest, const struct vmbus_guest_ring *ring,
			       size_t field)
{
	return mem_ptr(guest->mem, ring->gpa[0] + field, sizeof(uint32_t));
}

static uint32_t load(struct vmbus_guest_channel *channel, const struct vmbus_guest_ring *ring,
		     size_t field)
{
	return __atomic_load_n(control_field(channel->guest, ring, field), __ATOMIC_ACQUIRE);
}

static void store(struct vmbus_guest_channel *channel, const struct vmbus_guest_ring *ring,
		  size_t field, uint32_t value)
{
	__atomic_store_n(control_field(channel->guest, ring, field), value, __ATOMIC_SEQ_CST);
}

static struct vmbus_guest_channel *channel_new(struct vmbus_guest *guest,
					       const struct vmbus_spec_offer *offer,
					       unsigned out_pages, unsigned in_pages)
{
	struct vmbus_guest_channel *channel = calloc(1, sizeof(*channel));

	require(channel, "no memory");
	channel->guest = guest;
	channel->relid = offer->relid;
	channel->connection_id = offer->connection_id;
	channel->page_count = out_pages + in_pages;
	channel->pages = calloc(channel->page_count, sizeof(*channel->pages));
	require(channel->pages, "no memory");
	vmbus_guest_alloc_scattered(guest, channel->page_count, channel->pages);
	channel->out.gpa = channel->pages;
	channel->out.size = (out_pages - 1) * VMBUS_PAGE_BYTES;
	channel->in.gpa = channel->pages + out_pages;
	channel->in.size = (in_pages - 1) * VMBUS_PAGE_BYTES;
	store(channel, &channel->out, FEATURES, VMBUS_RING_FEATURE_PENDING_SIZE);
	store(channel, &channel->in, FEATURES, VMBUS_RING_FEATURE_PENDING_SIZE);
	return channel;
}

static bool send_open(struct vmbus_guest_channel *channel, unsigned out_pages)
{
	struct vmbus_spec_open msg = { .relid = channel->relid,
				       .open_id = channel->relid,
				       .ring_gpadl = channel->ring_gpadl,
				       .downstream_page_offset = out_pages };
	struct vmbus_spec_open_result result;
	struct vmbus_guest_message message;

	vmbus_guest_post(channel->guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg),
			 VMBUS_MSG_OPENCHANNEL);
	require(vmbus_guest_wait(channel->guest, VMBUS_MSG_OPENCHANNEL_RESULT, &message),
		"no OPENCHANNEL_RESULT");
	memcpy(&result, message.bytes, sizeof(result));
	require(result.relid == channel->relid && result.open_id == channel->relid,
		"OPENCHANNEL_RESULT differs");
	return result.status == 0;
}

struct vmbus_guest_channel *vmbus_guest_open(struct vmbus_guest *guest,
					     const struct vmbus_spec_offer *offer,
					     unsigned out_pages, unsigned in_pages)
{
	struct vmbus_guest_channel *channel = channel_new(guest, offer, out_pages, in_pages);

	channel->ring_gpadl =
	    vmbus_guest_gpadl_create(guest, channel->relid, channel->pages, channel->page_count);
	if (channel->ring_gpadl && send_open(channel, out_pages))
		return channel;
	if (channel->ring_gpadl)
		vmbus_guest_gpadl_teardown(guest, channel->relid, channel->ring_gpadl);
	vmbus_guest_forget(channel);
	return NULL;
}

void vmbus_guest_forget(struct vmbus_guest_channel *channel)
{
	free(channel->pages);
	free(channel);
}

void vmbus_guest_close(struct vmbus_guest_channel *channel)
{
	struct vmbus_spec_relid msg = { .relid = channel->relid };

	vmbus_guest_post(channel->guest, VMBUS_CONNECTION_MESSAGE, &msg, sizeof(msg),
			 VMBUS_MSG_CLOSECHANNEL);
	require(vmbus_guest_gpadl_teardown(channel->guest, channel->relid, channel->ring_gpadl),
		"no GPADL_TORNDOWN");
	vmbus_guest_forget(channel);
}

/* ---- packets ---- */

static void signal_legacy(struct vmbus_guest_channel *channel)
{
	struct vmbus_guest *guest = channel->guest;
	struct hv_spec_signal_event in = { .connection_id = VMBUS_CONNECTION_EVENT };
	struct part_hypercall call = { .control = HV_CALL_SIGNAL_EVENT, .input = guest->post_page };
	uint8_t *out = mem_ptr(guest->mem, guest->interrupt_page + VMBUS_INTERRUPT_TO_HOST, 256);

	__atomic_fetch_or(&out[channel->relid / 8], (uint8_t)(1u << channel->relid % 8),
			  __ATOMIC_SEQ_CST);
	mem_write(guest->mem, guest->post_page, &in, sizeof(in));
	hv_hypercall(guest->hv, 0, &call);
	channel->signals_refused += call.result != 0;
}

void vmbus_guest_signal(struct vmbus_guest_channel *channel)
{
	struct part_hypercall call = { .long_mode = true,
				       .control = HV_CALL_SIGNAL_EVENT | HV_CONTROL_FAST,
				       .input = channel->connection_id };

	channel->signals_sent++;
	if (channel->guest->version < VMBUS_VERSION_2_4) {
		signal_legacy(channel);
		return;
	}
	hv_hypercall(channel->guest->hv, 0, &call);
	channel->signals_refused += call.result != 0;
}

static uint32_t copy_in(struct vmbus_guest_channel *channel, const struct vmbus_guest_ring *ring,
			uint32_t at, const void *buf, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++, at = (at + 1) % ring->size)
		*(uint8_t *)mem_ptr(channel->guest->mem,
				    ring->gpa[1 + at / VMBUS_PAGE_BYTES] + at % VMBUS_PAGE_BYTES,
				    1) = ((const uint8_t *)buf)[i];
	return at;
}

static uint32_t copy_out(struct vmbus_guest_channel *channel, const struct vmbus_guest_ring *ring,
			 uint32_t at, void *buf, uint32_t len)
{
	for (uint32_t i = 0; i < len; i++, at = (at + 1) % ring->size)
		((uint8_t *)buf)[i] = *(uint8_t *)mem_ptr(
		    channel->guest->mem,
		    ring->gpa[1 + at / VMBUS_PAGE_BYTES] + at % VMBUS_PAGE_BYTES, 1);
	return at;
}

static uint32_t used(const struct vmbus_guest_ring *ring, uint32_t read, uint32_t write)
{
	return (write + ring->size - read) % ring->size;
}

bool vmbus_guest_send_raw(struct vmbus_guest_channel *channel, const void *bytes, uint32_t len)
{
	struct vmbus_guest_ring *ring = &channel->out;
	uint32_t before = ring->index;
	uint64_t trailer = (uint64_t)before << 32;

	if (ring->size - used(ring, load(channel, ring, READ_INDEX), before) <= len + 8)
		return false;
	ring->index = copy_in(channel, ring, ring->index, bytes, len);
	ring->index = copy_in(channel, ring, ring->index, &trailer, sizeof(trailer));
	store(channel, ring, WRITE_INDEX, ring->index);
	if (!load(channel, ring, MASK) && load(channel, ring, READ_INDEX) == before)
		vmbus_guest_signal(channel);
	return true;
}

static bool send_simple(struct vmbus_guest_channel *channel, uint16_t type, uint16_t flags,
			uint64_t transaction_id, const uint8_t *ext, uint32_t ext_len,
			const void *payload, uint32_t len)
{
	uint32_t offset = (uint32_t)sizeof(struct vmbus_spec_descriptor) + ext_len;
	uint32_t total = ALIGN_UP(offset + len, 8u);
	struct vmbus_spec_descriptor desc = { .type = type,
					      .data_offset8 = (uint16_t)(offset / 8),
					      .length8 = (uint16_t)(total / 8),
					      .flags = flags,
					      .transaction_id = transaction_id };
	uint8_t *bytes = calloc(1, total);
	bool ok;

	require(bytes, "no memory");
	memcpy(bytes, &desc, sizeof(desc));
	if (ext_len)
		memcpy(bytes + sizeof(desc), ext, ext_len);
	if (len)
		memcpy(bytes + offset, payload, len);
	ok = vmbus_guest_send_raw(channel, bytes, total);
	free(bytes);
	return ok;
}

bool vmbus_guest_send(struct vmbus_guest_channel *channel, uint64_t transaction_id,
		      bool wants_completion, const void *payload, uint32_t len)
{
	return send_simple(channel, VMBUS_INBAND, wants_completion, transaction_id, NULL, 0,
			   payload, len);
}

bool vmbus_guest_send_completion(struct vmbus_guest_channel *channel, uint64_t transaction_id,
				 const void *payload, uint32_t len)
{
	return send_simple(channel, VMBUS_COMPLETION, 0, transaction_id, NULL, 0, payload, len);
}

bool vmbus_guest_send_gpa_direct(struct vmbus_guest_channel *channel, uint64_t transaction_id,
				 const struct vmbus_guest_range *ranges, unsigned range_count,
				 const void *payload, uint32_t len)
{
	uint8_t ext[8192] = { 0 };
	uint32_t at = 8;

	memcpy(ext + 4, &range_count, sizeof(uint32_t));
	for (unsigned i = 0; i < range_count; i++) {
		const struct vmbus_guest_range *range = &ranges[i];
		unsigned pages = (range->byte_offset + range->byte_count + VMBUS_PAGE_BYTES - 1) /
				 VMBUS_PAGE_BYTES;

		require(at + 8 + pages * 8 <= sizeof(ext), "too many pages in a packet");
		memcpy(ext + at, &range->byte_count, 4);
		memcpy(ext + at + 4, &range->byte_offset, 4);
		at += 8;
		at += 8 * put_pfns(ext + at, range->gpa, pages, pages);
	}
	return send_simple(channel, VMBUS_GPA_DIRECT, VMBUS_DESCRIPTOR_COMPLETION_REQUESTED,
			   transaction_id, ext, at, payload, len);
}

/* As Linux: tells the host of room that it waits for, when reading makes it pass that mark. */
static void signal_room(struct vmbus_guest_channel *channel, uint32_t freed)
{
	struct vmbus_guest_ring *ring = &channel->in;
	uint32_t pending = load(channel, ring, PENDING_SIZE);
	uint32_t room = ring->size - used(ring, ring->index, load(channel, ring, WRITE_INDEX));

	if (pending && room > pending && room - freed <= pending)
		vmbus_guest_signal(channel);
}

bool vmbus_guest_try_recv(struct vmbus_guest_channel *channel, struct vmbus_guest_packet *ret)
{
	static uint8_t buffer[UINT16_MAX * 8];
	struct vmbus_guest_ring *ring = &channel->in;
	uint32_t available = used(ring, ring->index, load(channel, ring, WRITE_INDEX));
	struct vmbus_spec_descriptor desc;
	uint64_t trailer;
	uint32_t begin = ring->index, at;

	if (!available)
		return false;
	require(available >= sizeof(desc) + 8, "%u bytes in the ring", available);
	copy_out(channel, ring, begin, &desc, sizeof(desc));
	ret->type = desc.type;
	ret->flags = desc.flags;
	ret->transaction_id = desc.transaction_id;
	ret->len = desc.length8 * 8u;
	require(ret->len + 8 <= available && desc.data_offset8 >= 2 &&
		    desc.data_offset8 <= desc.length8,
		"bad packet from the host: %u bytes of %u", ret->len, available);
	at = copy_out(channel, ring, begin, buffer, ret->len);
	ring->index = copy_out(channel, ring, at, &trailer, sizeof(trailer));
	require(trailer == (uint64_t)begin << 32, "bad trailer");
	ret->bytes = buffer;
	ret->payload = buffer + desc.data_offset8 * 8u;
	ret->payload_len = ret->len - desc.data_offset8 * 8u;
	store(channel, ring, READ_INDEX, ring->index);
	signal_room(channel, ret->len + 8);
	return true;
}

bool vmbus_guest_recv(struct vmbus_guest_channel *channel, struct vmbus_guest_packet *ret)
{
	struct patience p = patience();

	do {
		if (vmbus_guest_try_recv(channel, ret))
			return true;
		vmbus_guest_step(channel->guest);
	} while (wait_on(&p));
	return false;
}

bool vmbus_guest_take_event(struct vmbus_guest_channel *channel)
{
	struct vmbus_guest *guest = channel->guest;
	bool legacy = guest->version < VMBUS_VERSION_2_4;
	uint64_t base =
	    legacy ? guest->interrupt_page : guest->event_page + VMBUS_SINT * HV_EVENT_FLAGS_BYTES;
	uint8_t *flags = mem_ptr(guest->mem, base, HV_EVENT_FLAGS_BYTES);
	uint8_t bit = (uint8_t)(1u << channel->relid % 8);
	uint8_t before;

	if (legacy) {
		uint8_t *summary =
		    mem_ptr(guest->mem, guest->event_page + VMBUS_SINT * HV_EVENT_FLAGS_BYTES, 1);

		if (!(__atomic_fetch_and(summary, 0xFE, __ATOMIC_SEQ_CST) & 1))
			return false;
	}
	before = __atomic_fetch_and(&flags[channel->relid / 8], (uint8_t)~bit, __ATOMIC_SEQ_CST);
	return before & bit;
}

uint32_t vmbus_guest_ring_field(struct vmbus_guest_channel *channel, bool in, size_t field)
{
	return load(channel, in ? &channel->in : &channel->out, field);
}

void vmbus_guest_ring_set(struct vmbus_guest_channel *channel, bool in, size_t field,
			  uint32_t value)
{
	store(channel, in ? &channel->in : &channel->out, field, value);
}
