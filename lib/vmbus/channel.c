/*
 * Channels: offer, open, close, modify, rescind, and the holds that keep answers back while the
 * host still works on guest pages.
 *
 * A channel object outlives vmbus_rescind while it is held or one of its callbacks runs. Its relid
 * is used again only after the guest released it, and a device that comes back is offered again
 * only then: Linux works on a rescind and on an offer at the same time, and takes an offer of an
 * instance that it still has for a broken one.
 */
#include "vmbus/vmbus-impl.h"
#include "vmbus/vmbus-state.h"

#include "base/log.h"
#include "base/macros.h"

#include <string.h>

/* Reads a flag and clears it. */
#define TAKE_FLAG(flag)                                                                            \
	__extension__({                                                                            \
		bool taken_ = (flag);                                                              \
		(flag) = false;                                                                    \
		taken_;                                                                            \
	})

static bool is_primary(const struct vmbus_channel *channel)
{
	return channel->offer.subchannel_index == 0;
}

static bool is_same_device(const struct vmbus_channel *a, const struct vmbus_channel *b)
{
	return guid_equal(&a->offer.class_id, &b->offer.class_id) &&
	       guid_equal(&a->offer.instance_id, &b->offer.instance_id);
}

bool vmbus_channel_is_open(const struct vmbus_channel *channel)
{
	return channel->state != VMBUS_CHANNEL_CLOSED;
}

uint16_t vmbus_channel_subindex(const struct vmbus_channel *channel)
{
	return channel->offer.subchannel_index;
}

struct vmbus_channel *vmbus_channel_find(struct vmbus *bus, uint32_t relid)
{
	struct vmbus_channel *channel = relid <= VMBUS_MAX_RELID ? bus->by_relid[relid] : NULL;

	return channel && channel->offered && !channel->rescinded ? channel : NULL;
}

/* ---- life of the object ---- */

static uint32_t take_relid(struct vmbus *bus)
{
	for (uint32_t relid = 1; relid <= VMBUS_MAX_RELID; relid++) {
		if (bus->relid_state[relid] != VMBUS_RELID_FREE)
			continue;
		bus->relid_state[relid] = VMBUS_RELID_USED;
		return relid;
	}
	return 0;
}

/* The offers that waited for it follow. */
static void free_relid(struct vmbus *bus, uint32_t relid)
{
	bus->relid_state[relid] = VMBUS_RELID_FREE;
	for (struct vmbus_channel *c = bus->channels; c && bus->offers_requested; c = c->next)
		if (!c->offered && guid_equal(&c->offer.instance_id, &bus->leaving[relid]))
			vmbus_channel_send_offer(c);
	bus->leaving[relid] = (struct guid){ 0 };
}

static void free_if_done(struct vmbus_channel *channel)
{
	struct vmbus *bus = channel->bus;

	if (!channel->rescinded || channel->holds || channel->entered)
		return;
	vmbus_gpadls_settle(bus, channel->relid, true);
	bus->by_relid[channel->relid] = NULL;
	if (channel->released)
		free_relid(bus, channel->relid);
	free(channel->packet);
	free(channel->iov);
	free(channel->iov_gpa);
	free(channel);
}

static void leave(struct vmbus_channel *channel)
{
	channel->entered--;
	free_if_done(channel);
}

void vmbus_channel_hold(struct vmbus_channel *channel)
{
	channel->holds++;
	channel->bus->holds++;
}

void vmbus_channel_drop(struct vmbus_channel *channel)
{
	struct vmbus *bus = channel->bus;

	channel->holds--;
	bus->holds--;
	if (!channel->holds) {
		vmbus_gpadls_settle(bus, channel->relid, false);
		free_if_done(channel);
	}
	vmbus_drain_continue(bus);
}

/* ---- offer ---- */

/* Does the guest still have an earlier channel of this instance? */
static bool is_leaving(const struct vmbus *bus, const struct guid *instance_id)
{
	for (uint32_t relid = 1; relid <= VMBUS_MAX_RELID; relid++)
		if (bus->relid_state[relid] == VMBUS_RELID_RESCINDED &&
		    guid_equal(&bus->leaving[relid], instance_id))
			return true;
	return false;
}

void vmbus_channel_send_offer(struct vmbus_channel *channel)
{
	const struct vmbus_offer *offer = &channel->offer;
	struct vmbus_spec_offer msg = {
		.class_id = offer->class_id,
		.instance_id = offer->instance_id,
		.flags = offer->flags,
		.mmio_megabytes = offer->mmio_megabytes,
		.subchannel_index = offer->subchannel_index,
		.relid = channel->relid,
		.monitor_id = VMBUS_NO_MONITOR,
		.dedicated_interrupt = 1,
		.connection_id = VMBUS_CONNECTION_CHANNEL + channel->relid,
	};

	if (channel->bus->version < offer->min_version ||
	    is_leaving(channel->bus, &offer->instance_id))
		return;
	memcpy(msg.user_defined, offer->user_defined, sizeof(msg.user_defined));
	channel->offered = true;
	vmbus_post(channel->bus, &msg, sizeof(msg), VMBUS_MSG_OFFERCHANNEL);
}

static bool has_open_primary(struct vmbus *bus, const struct vmbus_offer *offer)
{
	const struct vmbus_channel *channel = bus->channels;

	while (channel && !(is_primary(channel) && channel->state != VMBUS_CHANNEL_CLOSED &&
			    guid_equal(&channel->offer.class_id, &offer->class_id) &&
			    guid_equal(&channel->offer.instance_id, &offer->instance_id)))
		channel = channel->next;
	return channel != NULL;
}

int vmbus_offer(struct vmbus *bus, const struct vmbus_offer *offer, struct vmbus_channel **ret,
		struct error *err)
{
	struct vmbus_channel *channel, **end = &bus->channels;
	uint32_t relid;

	if (offer->subchannel_index && !has_open_primary(bus, offer))
		return error_set(err, ERR_STATE, "the primary channel is not open");
	relid = take_relid(bus);
	if (!relid)
		return error_set(err, ERR_LIMIT, "no VMBus channel number is free");
	channel = calloc(1, sizeof(*channel));
	if (!channel) {
		bus->relid_state[relid] = VMBUS_RELID_FREE;
		return error_set(err, ERR_NO_MEMORY, "no memory for a VMBus channel");
	}
	channel->bus = bus;
	channel->offer = *offer;
	channel->relid = relid;
	bus->by_relid[relid] = channel;
	while (*end)
		end = &(*end)->next;
	*end = channel;
	*ret = channel;
	if (bus->restoring)
		return vmbus_channel_take_saved(channel, err);
	if (bus->offers_requested)
		vmbus_channel_send_offer(channel);
	return 0;
}

/* ---- close ---- */

static struct vmbus_channel *find_subchannel(struct vmbus_channel *primary)
{
	struct vmbus_channel *channel = primary->bus->channels;

	while (channel && (is_primary(channel) || !is_same_device(channel, primary)))
		channel = channel->next;
	return channel;
}

static void rescind_subchannels(struct vmbus_channel *primary)
{
	struct vmbus_channel *sub;

	while (is_primary(primary) && (sub = find_subchannel(primary)))
		vmbus_rescind(sub);
}

static void set_connected(struct vmbus_channel *channel, bool connected)
{
	uint64_t *word = &channel->bus->connected[channel->relid / 64];
	uint64_t bit = BIT(channel->relid % 64);

	if (connected)
		__atomic_fetch_or(word, bit, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(word, ~bit, __ATOMIC_SEQ_CST);
}

static void shut(struct vmbus_channel *channel)
{
	channel->state = VMBUS_CHANNEL_CLOSED;
	set_connected(channel, false);
	vmbus_ring_done(&channel->in);
	vmbus_ring_done(&channel->out);
}

void vmbus_channel_close(struct vmbus_channel *channel)
{
	bool was_open = channel->state == VMBUS_CHANNEL_OPEN;

	if (channel->state == VMBUS_CHANNEL_CLOSED)
		return;
	channel->entered++;
	shut(channel);
	rescind_subchannels(channel);
	/* Not for a channel that is rescinded inside `opened`: it never was open. */
	if (was_open && channel->offer.ops->closed)
		channel->offer.ops->closed(channel->offer.dev, channel);
	leave(channel);
}

static void unlink_channel(struct vmbus_channel *channel)
{
	struct vmbus_channel **link = &channel->bus->channels;

	while (*link && *link != channel)
		link = &(*link)->next;
	if (*link)
		*link = channel->next;
}

void vmbus_rescind(struct vmbus_channel *channel)
{
	struct vmbus *bus = channel->bus;
	struct vmbus_spec_relid msg = { .relid = channel->relid };

	if (channel->rescinded)
		return;
	channel->entered++;
	vmbus_channel_close(channel);
	if (!channel->rescinded) {
		rescind_subchannels(channel);
		channel->rescinded = true;
		unlink_channel(channel);
		bus->relid_state[channel->relid] = VMBUS_RELID_RESCINDED;
		if (channel->offered && is_primary(channel))
			bus->leaving[channel->relid] = channel->offer.instance_id;
		if (channel->offered)
			vmbus_post(bus, &msg, sizeof(msg), VMBUS_MSG_RESCIND);
		else
			channel->released = true; /* the guest never heard of the relid */
	}
	leave(channel);
}

void vmbus_channel_relid_released(struct vmbus *bus, uint32_t relid)
{
	struct vmbus_channel *channel;

	if (relid > VMBUS_MAX_RELID)
		return;
	channel = bus->by_relid[relid];
	if (channel && !channel->rescinded) {
		/* A client that lets go of a live offer: it is made again on the next contact. */
		vmbus_channel_close(channel);
		channel = bus->by_relid[relid];
		if (channel && !channel->holds)
			vmbus_gpadls_settle(bus, relid, true);
		if (channel)
			channel->offered = false;
		return;
	}
	if (channel)
		channel->released = true;
	else if (bus->relid_state[relid] == VMBUS_RELID_RESCINDED)
		free_relid(bus, relid);
}

/* ---- open ---- */

static bool ring_pages_ok(const struct vmbus_gpadl *gpadl, const struct vmbus_spec_open *msg)
{
	uint32_t offset = msg->downstream_page_offset;

	return gpadl && vmbus_gpadl_complete(gpadl) && gpadl->relid == msg->relid &&
	       !gpadl->byte_offset && gpadl->byte_count % VMBUS_PAGE_BYTES == 0 && offset >= 2 &&
	       offset < gpadl->page_count && gpadl->page_count - offset >= 2;
}

static bool map_rings(struct vmbus_channel *channel, const struct vmbus_spec_open *msg)
{
	struct vmbus *bus = channel->bus;
	const struct vmbus_gpadl *gpadl = vmbus_gpadl_find(bus, msg->ring_gpadl);
	uint32_t offset = msg->downstream_page_offset;

	if (!ring_pages_ok(gpadl, msg))
		return false;
	if (!vmbus_ring_init(&channel->in, bus->mem, gpadl->gpa, offset,
			     offsetof(struct vmbus_spec_ring_control, read_index)))
		return false;
	if (!vmbus_ring_init(&channel->out, bus->mem, gpadl->gpa + offset,
			     gpadl->page_count - offset,
			     offsetof(struct vmbus_spec_ring_control, write_index))) {
		vmbus_ring_done(&channel->in);
		return false;
	}
	return true;
}

static bool vp_ok(struct vmbus *bus, uint32_t vp)
{
	return vp == VMBUS_NO_VP || vp < hv_vp_count(bus->hv);
}

static void prepare(struct vmbus_channel *channel, const struct vmbus_spec_open *msg)
{
	channel->ring_gpadl = msg->ring_gpadl;
	/* Before 2.4 all interrupts go through the interrupt page. */
	channel->target_vp = msg->target_vp;
	channel->in_masked = channel->damaged = false;
	channel->waits_for_room = channel->plugged = channel->signal_owed = false;
	channel->state = VMBUS_CHANNEL_OPENING;
	set_connected(channel, true);
}

static uint32_t try_open(struct vmbus_channel *channel, const struct vmbus_spec_open *msg)
{
	const struct vmbus_channel_ops *ops = channel->offer.ops;

	/* While held, the previous session's I/O is still under way: the guest did not wait. */
	if (channel->state != VMBUS_CHANNEL_CLOSED || channel->holds ||
	    !vp_ok(channel->bus, msg->target_vp) || !map_rings(channel, msg))
		return VMBUS_STATUS_INVALID_PARAMETER;
	prepare(channel, msg);
	if (ops->opened && ops->opened(channel->offer.dev, channel, msg->user_data) < 0) {
		if (channel->state != VMBUS_CHANNEL_CLOSED)
			shut(channel);
		rescind_subchannels(channel);
		return VMBUS_STATUS_UNSUCCESSFUL;
	}
	if (channel->state != VMBUS_CHANNEL_OPENING) /* rescinded inside `opened` */
		return VMBUS_STATUS_UNSUCCESSFUL;
	channel->state = VMBUS_CHANNEL_OPEN;
	return VMBUS_STATUS_SUCCESS;
}

static void send_open_result(struct vmbus *bus, const struct vmbus_spec_open *msg, uint32_t status)
{
	struct vmbus_spec_open_result result = { .relid = msg->relid,
						 .open_id = msg->open_id,
						 .status = status };

	if (status)
		log_guest("channel %u can't be opened: status %#x", msg->relid, status);
	vmbus_post(bus, &result, sizeof(result), VMBUS_MSG_OPENCHANNEL_RESULT);
}

void vmbus_channel_open(struct vmbus *bus, const struct vmbus_spec_open *msg)
{
	struct vmbus_channel *channel = vmbus_channel_find(bus, msg->relid);

	if (!channel) {
		send_open_result(bus, msg, VMBUS_STATUS_INVALID_PARAMETER);
		return;
	}
	channel->entered++;
	send_open_result(bus, msg, try_open(channel, msg));
	if (channel->state == VMBUS_CHANNEL_OPEN) {
		if (!channel->plugged && TAKE_FLAG(channel->signal_owed))
			vmbus_channel_signal(channel);
		/* The guest may have filled its ring before it saw the result. */
		vmbus_kick_channel(bus, channel->relid);
	}
	leave(channel);
}

/* ---- while open ---- */

void vmbus_channel_modify(struct vmbus *bus, const struct vmbus_spec_modify_channel *msg)
{
	struct vmbus_channel *channel = vmbus_channel_find(bus, msg->relid);
	struct vmbus_spec_modify_channel_response response = { .relid = msg->relid };

	if (channel && vp_ok(bus, msg->target_vp))
		channel->target_vp = msg->target_vp;
	else
		response.status = VMBUS_STATUS_INVALID_PARAMETER;
	if (bus->version >= VMBUS_VERSION_5_3)
		vmbus_post(bus, &response, sizeof(response), VMBUS_MSG_MODIFYCHANNEL_RESPONSE);
}

void vmbus_channel_run(struct vmbus_channel *channel)
{
	if (channel->state != VMBUS_CHANNEL_OPEN)
		return;
	channel->entered++;
	channel->offer.ops->ready(channel->offer.dev, channel);
	leave(channel);
}

static void signal_by_page(struct vmbus *bus, uint32_t relid)
{
	uint64_t offset = VMBUS_INTERRUPT_TO_GUEST + relid / 32 * sizeof(uint32_t);

	if (!bus->interrupt_page)
		return;
	__atomic_fetch_or((uint32_t *)(bus->interrupt_page + offset), 1u << relid % 32,
			  __ATOMIC_SEQ_CST);
	mem_written(bus->mem, bus->interrupt_page_gpa + offset, sizeof(uint32_t));
	hv_signal_event(bus->hv, bus->connect_vp, VMBUS_SINT, 0);
}

void vmbus_channel_signal(struct vmbus_channel *channel)
{
	struct vmbus *bus = channel->bus;

	if (channel->state == VMBUS_CHANNEL_OPENING || channel->plugged) {
		channel->signal_owed = true;
		return;
	}
	if (bus->version < VMBUS_VERSION_2_4)
		signal_by_page(bus, channel->relid);
	else if (channel->target_vp != VMBUS_NO_VP)
		hv_signal_event(bus->hv, channel->target_vp, VMBUS_SINT, channel->relid);
}

/* ---- plug ---- */

void vmbus_channel_plug(struct vmbus_channel *channel)
{
	channel->plugged = true;
}

void vmbus_channel_unplug(struct vmbus_channel *channel)
{
	if (!TAKE_FLAG(channel->plugged) || channel->state != VMBUS_CHANNEL_OPEN)
		return;
	if (TAKE_FLAG(channel->signal_owed))
		vmbus_channel_signal(channel);
}

/* ---- restore ---- */

static void set_relid(struct vmbus_channel *channel, uint32_t relid)
{
	struct vmbus *bus = channel->bus;

	if (bus->by_relid[channel->relid] == channel) {
		bus->by_relid[channel->relid] = NULL;
		bus->relid_state[channel->relid] = VMBUS_RELID_FREE;
	}
	channel->relid = relid;
	bus->by_relid[relid] = channel;
	bus->relid_state[relid] = VMBUS_RELID_USED;
}

bool vmbus_channel_renumber(struct vmbus_channel *channel)
{
	uint32_t relid = take_relid(channel->bus);

	if (relid)
		set_relid(channel, relid);
	return relid;
}

static bool restore_open(struct vmbus_channel *channel, const struct vmbus_channel_saved *from)
{
	const struct vmbus_spec_open msg = {
		.relid = from->relid,
		.ring_gpadl = from->ring_gpadl,
		.target_vp = from->target_vp,
		.downstream_page_offset = from->downstream_page,
	};

	if (!vp_ok(channel->bus, msg.target_vp) || !map_rings(channel, &msg) ||
	    from->in_index >= channel->in.size || from->in_index % 8 ||
	    from->out_index >= channel->out.size || from->out_index % 8)
		return false;
	prepare(channel, &msg);
	channel->in.index = from->in_index;
	channel->out.index = from->out_index;
	channel->in_masked = from->in_masked;
	channel->damaged = from->damaged;
	channel->waits_for_room = from->waits_for_room;
	channel->state = VMBUS_CHANNEL_OPEN;
	return true;
}

bool vmbus_channel_restore(struct vmbus_channel *channel, const struct vmbus_channel_saved *from)
{
	const struct vmbus_channel *holder = channel->bus->by_relid[from->relid];

	if (holder && holder != channel)
		return false;
	set_relid(channel, from->relid);
	channel->offered = from->offered;
	return !from->open || restore_open(channel, from);
}

/* ---- the whole bus ---- */

static struct vmbus_channel *first_open(struct vmbus *bus)
{
	struct vmbus_channel *channel = bus->channels;

	while (channel && channel->state != VMBUS_CHANNEL_OPEN)
		channel = channel->next;
	return channel;
}

static void forget_offers(struct vmbus *bus)
{
	memset(bus->leaving, 0, sizeof(bus->leaving));
	for (uint32_t relid = 1; relid <= VMBUS_MAX_RELID; relid++) {
		struct vmbus_channel *channel = bus->by_relid[relid];

		if (channel && channel->rescinded)
			channel->released = true;
		else if (channel)
			channel->offered = false;
		else
			bus->relid_state[relid] = VMBUS_RELID_FREE;
	}
}

/* Devices may offer and rescind in their callbacks: start over after each. Sub-channels go with
 * their primary, which was offered before them and so comes first. */
void vmbus_channels_disconnect(struct vmbus *bus)
{
	struct vmbus_channel *channel;

	bus->offers_requested = false;
	forget_offers(bus);
	while ((channel = first_open(bus)))
		vmbus_channel_close(channel);
}

void vmbus_channels_free(struct vmbus *bus)
{
	while (bus->channels)
		vmbus_rescind(bus->channels);
	for (uint32_t relid = 1; relid <= VMBUS_MAX_RELID; relid++) {
		struct vmbus_channel *channel = bus->by_relid[relid];

		if (channel) {
			channel->holds = 0;
			free_if_done(channel);
		}
	}
}
