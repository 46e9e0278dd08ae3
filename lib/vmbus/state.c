/*
 * The bus's state: connection, channels, GPADLs, the guest's unread messages. Rings are in guest
 * RAM; ours are only the positions up to which we have read and written.
 *
 * Signals that the guest gave are not saved: after a restore every open channel is looked at.
 */
#include "vmbus/vmbus-state.h"

#include "base/clock.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

static const struct state_field channel_fields[] = {
	STATE_BYTES(1, struct vmbus_channel_saved, class_id),
	STATE_BYTES(2, struct vmbus_channel_saved, instance_id),
	STATE(3, struct vmbus_channel_saved, subchannel_index),
	STATE(4, struct vmbus_channel_saved, offered),
	STATE(5, struct vmbus_channel_saved, open),
	STATE(6, struct vmbus_channel_saved, relid, .max = VMBUS_MAX_RELID),
	STATE(7, struct vmbus_channel_saved, target_vp),
	STATE(8, struct vmbus_channel_saved, ring_gpadl),
	STATE(9, struct vmbus_channel_saved, downstream_page),
	STATE(10, struct vmbus_channel_saved, in_index),
	STATE(11, struct vmbus_channel_saved, out_index),
	STATE(12, struct vmbus_channel_saved, in_masked),
	STATE(13, struct vmbus_channel_saved, damaged),
	STATE(14, struct vmbus_channel_saved, waits_for_room),
	STATE(15, struct vmbus_channel_saved, socket),
	STATE_END,
};
const struct state_desc vmbus_channel_saved_desc = { "channel", sizeof(struct vmbus_channel_saved),
						     channel_fields, NULL };

static const struct state_field gpadl_fields[] = {
	STATE(1, struct vmbus_gpadl_state, id),
	STATE(2, struct vmbus_gpadl_state, relid, .max = VMBUS_MAX_RELID),
	STATE(3, struct vmbus_gpadl_state, byte_count),
	STATE(4, struct vmbus_gpadl_state, byte_offset, .max = VMBUS_PAGE_BYTES - 1),
	STATE(5, struct vmbus_gpadl_state, page_count, .max = VMBUS_GPADL_PAGES_MAX),
	STATE(6, struct vmbus_gpadl_state, pages_seen),
	STATE_END,
};
const struct state_desc vmbus_gpadl_state_desc = { "gpadl", sizeof(struct vmbus_gpadl_state),
						   gpadl_fields, NULL };

static const struct state_field message_fields[] = {
	STATE(1, struct vmbus_message_state, len, .max = VMBUS_MSG_MAX),
	STATE_BYTES(2, struct vmbus_message_state, bytes),
	STATE_END,
};
const struct state_desc vmbus_message_state_desc = { "message", sizeof(struct vmbus_message_state),
						     message_fields, NULL };

static const struct state_field leaving_fields[] = {
	STATE_BYTES(1, struct vmbus_leaving_state, instance_id),
	STATE(2, struct vmbus_leaving_state, relid, .max = VMBUS_MAX_RELID),
	STATE_END,
};
const struct state_desc vmbus_leaving_state_desc = { "leaving", sizeof(struct vmbus_leaving_state),
						     leaving_fields, NULL };

static const char *check_gpadls(const struct vmbus_state *s)
{
	uint64_t pages = 0;

	for (uint32_t i = 0; i < s->gpadl_count; i++) {
		const struct vmbus_gpadl_state *g = &s->gpadls[i];
		uint64_t needed =
		    ((uint64_t)g->byte_offset + g->byte_count + VMBUS_PAGE_BYTES - 1) /
		    VMBUS_PAGE_BYTES;

		if (!g->id || !g->byte_count || needed > g->page_count ||
		    g->pages_seen > g->page_count)
			return "a GPADL is impossible";
		pages += g->page_count;
	}
	return pages == s->gpadl_page_count ? NULL : "the GPADLs have other pages than are there";
}

static const char *check(const void *state)
{
	const struct vmbus_state *s = state;

	if (s->sint == 0 || s->sint >= HV_SINT_COUNT)
		return "the bus has no such SINT";
	for (uint32_t i = 0; i <= VMBUS_MAX_RELID; i++)
		if (s->relid_state[i] > VMBUS_RELID_RESCINDED)
			return "a channel number's state is impossible";
	for (uint32_t i = 0; i < s->channel_count; i++)
		if (!s->channels[i].relid ||
		    s->relid_state[s->channels[i].relid] != VMBUS_RELID_USED ||
		    (s->channels[i].open && !s->channels[i].offered))
			return "a channel is impossible";
	for (uint32_t i = 0; i < s->message_count; i++)
		if (s->messages[i].len < sizeof(struct vmbus_spec_header))
			return "a message is too short";
	return check_gpadls(s);
}

static const struct state_field bus_fields[] = {
	STATE(1, struct vmbus_state, version),
	STATE(2, struct vmbus_state, connect_vp),
	STATE(3, struct vmbus_state, sint),
	STATE(4, struct vmbus_state, offers_requested),
	STATE(5, struct vmbus_state, has_interrupt_page),
	STATE(6, struct vmbus_state, reserved),
	STATE(7, struct vmbus_state, interrupt_page),
	STATE(8, struct vmbus_state, relid_state),
	STATE_LIST_OF(9, struct vmbus_state, channels, channel_count, VMBUS_MAX_RELID,
		      vmbus_channel_saved_desc),
	STATE_LIST_OF(10, struct vmbus_state, gpadls, gpadl_count, VMBUS_GPADLS_MAX,
		      vmbus_gpadl_state_desc),
	STATE_LIST(11, struct vmbus_state, gpadl_pages, gpadl_page_count, VMBUS_GPADL_PAGES_MAX),
	STATE_LIST_OF(12, struct vmbus_state, messages, message_count, VMBUS_MESSAGES_MAX,
		      vmbus_message_state_desc),
	STATE_LIST_OF(13, struct vmbus_state, leaving, leaving_count, VMBUS_MAX_RELID,
		      vmbus_leaving_state_desc),
	STATE_END,
};
const struct state_desc vmbus_state_desc = { "vmbus", sizeof(struct vmbus_state), bus_fields,
					     check };

/* ---- save ---- */

static void *allocate(size_t count, size_t size)
{
	void *p = calloc(count + 1, size);

	if (!p)
		abort(); /* at most some megabytes: the host is beyond help */
	return p;
}

static void save_channel(const struct vmbus_channel *channel, struct vmbus_channel_saved *ret)
{
	*ret = (struct vmbus_channel_saved){
		.class_id = channel->offer.class_id,
		.instance_id = channel->offer.instance_id,
		.subchannel_index = channel->offer.subchannel_index,
		.offered = channel->offered,
		.relid = channel->relid,
		.socket = channel->offer.flags & VMBUS_OFFER_TLNPI,
	};
	if (channel->state != VMBUS_CHANNEL_OPEN)
		return;
	ret->open = true;
	ret->target_vp = channel->target_vp;
	ret->ring_gpadl = channel->ring_gpadl;
	ret->downstream_page = channel->in.size / VMBUS_PAGE_BYTES + 1;
	ret->in_index = channel->in.index;
	ret->out_index = channel->out.index;
	ret->in_masked = channel->in_masked;
	ret->damaged = channel->damaged;
	ret->waits_for_room = channel->waits_for_room;
}

static void save_channels(struct vmbus *bus, struct vmbus_state *ret)
{
	uint32_t count = 0;

	for (const struct vmbus_channel *c = bus->channels; c; c = c->next)
		count++;
	ret->channels = allocate(count, sizeof(*ret->channels));
	for (const struct vmbus_channel *c = bus->channels; c; c = c->next)
		save_channel(c, &ret->channels[ret->channel_count++]);
}

static void save_gpadls(struct vmbus *bus, struct vmbus_state *ret)
{
	ret->gpadls = allocate(bus->gpadl_count, sizeof(*ret->gpadls));
	ret->gpadl_pages = allocate(bus->gpadl_pages, sizeof(*ret->gpadl_pages));
	for (unsigned i = 0; i < VMBUS_GPADL_BUCKETS; i++)
		for (const struct vmbus_gpadl *g = bus->gpadls[i]; g; g = g->next) {
			ret->gpadls[ret->gpadl_count++] = (struct vmbus_gpadl_state){
				.id = g->id,
				.relid = g->relid,
				.byte_count = g->byte_count,
				.byte_offset = g->byte_offset,
				.page_count = g->page_count,
				.pages_seen = g->pages_seen,
			};
			memcpy(ret->gpadl_pages + ret->gpadl_page_count, g->gpa,
			       g->page_count * sizeof(g->gpa[0]));
			ret->gpadl_page_count += g->page_count;
		}
}

static void save_messages(struct vmbus *bus, struct vmbus_state *ret)
{
	pthread_mutex_lock(&bus->lock);
	ret->messages = allocate(bus->count, sizeof(*ret->messages));
	for (unsigned i = 0; i < bus->count; i++) {
		const struct vmbus_message *m =
		    &bus->messages[(bus->first + i) % VMBUS_MESSAGES_MAX];
		struct vmbus_message_state *to = &ret->messages[ret->message_count++];

		to->len = m->len;
		memcpy(to->bytes, m->bytes, m->len);
	}
	pthread_mutex_unlock(&bus->lock);
}

static void save_leaving(struct vmbus *bus, struct vmbus_state *ret)
{
	static const struct guid none;

	ret->leaving = allocate(VMBUS_MAX_RELID, sizeof(*ret->leaving));
	for (uint32_t relid = 1; relid <= VMBUS_MAX_RELID; relid++)
		if (!guid_equal(&bus->leaving[relid], &none))
			ret->leaving[ret->leaving_count++] = (struct vmbus_leaving_state){
				.instance_id = bus->leaving[relid],
				.relid = relid,
			};
}

void vmbus_save(struct vmbus *bus, struct state_out *out)
{
	struct vmbus_state s = {
		.version = bus->version,
		.connect_vp = bus->connect_vp,
		.sint = bus->sint,
		.offers_requested = bus->offers_requested,
		.has_interrupt_page = bus->interrupt_page != NULL,
		.interrupt_page = bus->interrupt_page ? bus->interrupt_page_gpa : 0,
	};

	memcpy(s.relid_state, bus->relid_state, sizeof(s.relid_state));
	save_channels(bus, &s);
	save_gpadls(bus, &s);
	save_messages(bus, &s);
	save_leaving(bus, &s);
	state_put(out, &vmbus_state_desc, NULL, &s);
	state_clear(&vmbus_state_desc, &s);
}

/* ---- restore ---- */

static bool restore_gpadls(struct vmbus *bus, const struct vmbus_state *s)
{
	const uint64_t *pages = s->gpadl_pages;

	for (uint32_t i = 0; i < s->gpadl_count; i++) {
		const struct vmbus_gpadl_state *from = &s->gpadls[i];

		if (!vmbus_gpadl_restore(bus, from, pages))
			return false;
		pages += from->page_count;
	}
	return true;
}

static struct vmbus_channel_saved *find_saved(const struct vmbus *bus, const struct guid *class_id,
					      const struct guid *instance_id, uint16_t index)
{
	const struct vmbus_state *s = bus->restoring;

	for (uint32_t i = 0; s && i < s->channel_count; i++) {
		struct vmbus_channel_saved *c = &s->channels[i];

		if (c->relid && c->subchannel_index == index &&
		    guid_equal(&c->class_id, class_id) && guid_equal(&c->instance_id, instance_id))
			return c;
	}
	return NULL;
}

bool vmbus_saved_channel(const struct vmbus *bus, const struct guid *class_id,
			 const struct guid *instance_id, uint16_t subchannel_index)
{
	return find_saved(bus, class_id, instance_id, subchannel_index) != NULL;
}

int vmbus_channel_take_saved(struct vmbus_channel *channel, struct error *err)
{
	const struct vmbus_offer *offer = &channel->offer;
	struct vmbus_channel_saved *from = find_saved(channel->bus, &offer->class_id,
						      &offer->instance_id, offer->subchannel_index);

	if (!from)
		return 0;
	if (!vmbus_channel_restore(channel, from))
		return error_set(err, ERR_CORRUPT, "state of 'vmbus': channel %u is impossible",
				 from->relid);
	from->relid = 0; /* taken */
	return 0;
}

static int restore_bus(struct vmbus *bus, const struct vmbus_state *s, struct error *err)
{
	if (s->connect_vp >= hv_vp_count(bus->hv))
		return error_set(err, ERR_CORRUPT, "state of 'vmbus': there is no processor %u",
				 s->connect_vp);
	bus->version = s->version;
	bus->connect_vp = s->connect_vp;
	bus->sint = s->sint;
	bus->offers_requested = s->offers_requested;
	if (s->has_interrupt_page) {
		bus->interrupt_page = mem_ptr(bus->mem, s->interrupt_page, VMBUS_PAGE_BYTES);
		bus->interrupt_page_gpa = s->interrupt_page;
		if (!bus->interrupt_page || s->interrupt_page % VMBUS_PAGE_BYTES)
			return error_set(err, ERR_CORRUPT,
					 "state of 'vmbus': the interrupt page is not in memory");
	}
	for (uint32_t i = 0; i < s->message_count; i++) {
		bus->messages[i].len = s->messages[i].len;
		memcpy(bus->messages[i].bytes, s->messages[i].bytes, VMBUS_MSG_MAX);
	}
	bus->first = 0;
	bus->count = s->message_count;
	return 0;
}

/* Numbers that the saved channels don't have go to channels that are new. */
static int restore_relids(struct vmbus *bus, const struct vmbus_state *s, struct error *err)
{
	memset(bus->by_relid, 0, sizeof(bus->by_relid));
	memcpy(bus->relid_state, s->relid_state, sizeof(bus->relid_state));
	memset(bus->leaving, 0, sizeof(bus->leaving));
	for (uint32_t i = 0; i < s->leaving_count; i++)
		bus->leaving[s->leaving[i].relid] = s->leaving[i].instance_id;
	for (struct vmbus_channel *c = bus->channels; c; c = c->next) {
		int rc = vmbus_channel_take_saved(c, err);

		if (rc < 0)
			return rc;
		if (bus->by_relid[c->relid] != c && !vmbus_channel_renumber(c))
			return error_set(err, ERR_LIMIT, "no VMBus channel number is free");
	}
	return 0;
}

int vmbus_restore(struct vmbus *bus, struct state_in *in, struct error *err)
{
	int rc;

	bus->restoring = allocate(1, sizeof(*bus->restoring));
	rc = state_get(in, &vmbus_state_desc, NULL, bus->restoring, err);
	if (rc == 0)
		rc = restore_bus(bus, bus->restoring, err);
	if (rc == 0 && !restore_gpadls(bus, bus->restoring))
		rc = error_set(err, ERR_CORRUPT, "state of 'vmbus': a GPADL is impossible");
	if (rc == 0)
		rc = restore_relids(bus, bus->restoring, err);
	return rc;
}

void vmbus_restore_forget(struct vmbus *bus)
{
	if (!bus->restoring)
		return;
	state_clear(&vmbus_state_desc, bus->restoring);
	free(bus->restoring);
	bus->restoring = NULL;
}

static int find_left_over(const struct vmbus_state *s, struct error *err)
{
	for (uint32_t i = 0; i < s->channel_count; i++) {
		char class_id[GUID_TEXT_SIZE], instance_id[GUID_TEXT_SIZE];

		if (s->channels[i].relid)
			return error_set(err, ERR_UNSUPPORTED,
					 "the saved state has the VMBus device %s of class %s, "
					 "which this virtual machine has not",
					 guid_format(&s->channels[i].instance_id, instance_id),
					 guid_format(&s->channels[i].class_id, class_id));
	}
	return 0;
}

/* The host's ends of the sockets are gone: the guest hears that the connections are. */
static void rescind_sockets(struct vmbus *bus, struct vmbus_state *s)
{
	for (uint32_t i = 0; i < s->channel_count; i++) {
		struct vmbus_channel_saved *c = &s->channels[i];
		struct vmbus_spec_relid msg = { .relid = c->relid };

		if (!c->socket || !c->relid)
			continue;
		bus->relid_state[c->relid] = c->offered ? VMBUS_RELID_RESCINDED : VMBUS_RELID_FREE;
		vmbus_gpadls_settle(bus, c->relid, true);
		if (c->offered)
			vmbus_post(bus, &msg, sizeof(msg), VMBUS_MSG_RESCIND);
		c->relid = 0;
	}
}

int vmbus_restore_finish(struct vmbus *bus, struct error *err)
{
	int rc;

	rescind_sockets(bus, bus->restoring);
	rc = find_left_over(bus->restoring, err);

	vmbus_restore_forget(bus);
	for (struct vmbus_channel *c = bus->channels; rc == 0 && c; c = c->next) {
		if (!c->offered && bus->offers_requested)
			vmbus_channel_send_offer(c);
		if (c->state == VMBUS_CHANNEL_OPEN)
			vmbus_kick_channel(bus, c->relid);
	}
	__atomic_store_n(&bus->page_signalled, 1, __ATOMIC_SEQ_CST);
	loop_kick(bus->message_kick);
	loop_kick(bus->signal_kick);
	loop_timer_arm(bus->room_timer, clock_now_ns());
	return rc;
}
