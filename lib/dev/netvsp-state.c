#include "dev/netvsp-state.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define NO_SECTION UINT32_MAX

_Static_assert(sizeof(struct netvsp_offloads) == 14, "all of them are truth values");
_Static_assert(sizeof(struct netvsp_stats) % sizeof(uint64_t) == 0, "all of them are counters");

/* ---- tables ---- */

static const struct state_field buffer_fields[] = {
	STATE(1, struct netvsp_buffer_state, set),
	STATE(2, struct netvsp_buffer_state, reserved),
	STATE(3, struct netvsp_buffer_state, id),
	STATE(4, struct netvsp_buffer_state, gpadl),
	STATE(5, struct netvsp_buffer_state, section_bytes),
	STATE(6, struct netvsp_buffer_state, section_count),
	STATE_END,
};
const struct state_desc netvsp_buffer_state_desc = { "buffer", sizeof(struct netvsp_buffer_state),
						     buffer_fields, NULL };

static const struct state_field lent_fields[] = {
	STATE(1, struct netvsp_lent_state, slot),
	STATE(2, struct netvsp_lent_state, generation),
	STATE(3, struct netvsp_lent_state, section),
	STATE_END,
};
const struct state_desc netvsp_lent_state_desc = { "lent", sizeof(struct netvsp_lent_state),
						   lent_fields, NULL };

static const struct state_field staged_fields[] = {
	STATE(1, struct netvsp_staged_state, queue, .max = NETVSP_MAX_QUEUES - 1),
	STATE(2, struct netvsp_staged_state, section),
	STATE(3, struct netvsp_staged_state, byte_count),
	STATE(4, struct netvsp_staged_state, byte_offset),
	STATE_END,
};
const struct state_desc netvsp_staged_state_desc = { "staged", sizeof(struct netvsp_staged_state),
						     staged_fields, NULL };

static const struct state_field completion_fields[] = {
	STATE(1, struct netvsp_completion_state, transaction_id),
	STATE(2, struct netvsp_completion_state, queue, .max = NETVSP_MAX_QUEUES - 1),
	STATE(3, struct netvsp_completion_state, bytes, .max = NVSP_MESSAGE_BYTES),
	STATE_BYTES(4, struct netvsp_completion_state, body),
	STATE_END,
};
const struct state_desc netvsp_completion_state_desc = { "completion",
							 sizeof(struct netvsp_completion_state),
							 completion_fields, NULL };

static const struct state_field response_fields[] = {
	STATE(1, struct netvsp_response_state, bytes, .max = NETVSP_RESPONSE_BYTES),
	STATE_BYTES(2, struct netvsp_response_state, message),
	STATE_END,
};
const struct state_desc netvsp_response_state_desc = { "response",
						       sizeof(struct netvsp_response_state),
						       response_fields, NULL };

static bool buffer_ok(const struct netvsp_buffer_state *b)
{
	return !b->set ||
	       (b->section_bytes && b->section_count && b->section_count <= NETVSP_MAX_SECTIONS);
}

static const char *check(const void *state)
{
	const struct netvsp_state *s = state;

	if (!s->queue_count || !buffer_ok(&s->receive) ||
	    (s->send.set && (!s->send.section_bytes || !s->send.section_count)))
		return "a buffer without sections";
	/* Frames are put into sections of that size without looking again. */
	if (s->receive.set && s->receive.section_bytes < NETVSP_MIN_SECTION_BYTES)
		return "the sections of the receive buffer are too small";
	if (!s->receive.set && (s->lent_count || s->staged_count))
		return "sections without a buffer";
	for (unsigned i = 0; i < sizeof(s->offloads); i++)
		if (s->offloads[i] > 1)
			return "an offload is neither on nor off";
	return NULL;
}

static const struct state_field state_fields[] = {
	STATE(1, struct netvsp_state, queue_count, .max = NETVSP_MAX_QUEUES),
	STATE(2, struct netvsp_state, version),
	STATE(3, struct netvsp_state, mtu, .max = NETVSP_MAX_MTU),
	STATE(4, struct netvsp_state, packet_filter),
	STATE(5, struct netvsp_state, capabilities),
	STATE_PART(6, struct netvsp_state, receive, 1, netvsp_buffer_state_desc),
	STATE_PART(7, struct netvsp_state, send, 1, netvsp_buffer_state_desc),
	STATE(8, struct netvsp_state, rndis_ready),
	STATE(9, struct netvsp_state, indirection_due),
	STATE(10, struct netvsp_state, link_told),
	STATE(11, struct netvsp_state, offloads),
	STATE(12, struct netvsp_state, mac),
	STATE_BYTES(13, struct netvsp_state, multicast),
	STATE(14, struct netvsp_state, multicast_count, .max = NETVSP_MAX_MULTICAST),
	STATE(15, struct netvsp_state, rss_enabled),
	STATE(16, struct netvsp_state, rss_key),
	STATE(17, struct netvsp_state, rss_table),
	STATE(18, struct netvsp_state, rss_hash_types),
	STATE(19, struct netvsp_state, rss_entries, .max = NDIS_RSS_MAX_ENTRIES),
	STATE(20, struct netvsp_state, next_generation),
	STATE(21, struct netvsp_state, next_rsc_id),
	STATE(22, struct netvsp_state, reserved),
	STATE(23, struct netvsp_state, counters),
	STATE_LIST_OF(24, struct netvsp_state, lent, lent_count, NETVSP_MAX_SECTIONS,
		      netvsp_lent_state_desc),
	STATE_LIST_OF(25, struct netvsp_state, staged, staged_count,
		      NETVSP_MAX_QUEUES *NETVSP_RANGES_PER_PACKET, netvsp_staged_state_desc),
	STATE_LIST_OF(26, struct netvsp_state, completions, completion_count,
		      NETVSP_MAX_QUEUES *(NETVSP_PACKETS_PER_BATCH + 4),
		      netvsp_completion_state_desc),
	STATE_LIST_OF(27, struct netvsp_state, responses, response_count, NETVSP_MAX_RESPONSES,
		      netvsp_response_state_desc),
	STATE_END,
};
const struct state_desc netvsp_state_desc = { "network", sizeof(struct netvsp_state), state_fields,
					      check };

/* ---- save ---- */

static void *allocate(size_t count, size_t size)
{
	void *p = calloc(count + 1, size);

	if (!p)
		abort(); /* at most a megabyte: the host is beyond help */
	return p;
}

static void save_lent(const struct netvsp_receive_buffer *rb, struct netvsp_state *ret)
{
	ret->lent = allocate(rb->section_count, sizeof(*ret->lent));
	for (uint32_t slot = 0; slot < rb->section_count; slot++) {
		const struct netvsp_transaction *t = &rb->transactions[slot];

		for (uint32_t s = t->in_use ? t->first_section : NO_SECTION; s != NO_SECTION;
		     s = rb->section_next[s])
			ret->lent[ret->lent_count++] =
			    (struct netvsp_lent_state){ slot, t->generation, s };
	}
}

static void save_queue(const struct netvsp_queue *queue, struct netvsp_state *ret)
{
	for (unsigned i = 0; i < queue->stage.count; i++)
		ret->staged[ret->staged_count++] =
		    (struct netvsp_staged_state){ queue->index, queue->stage.sections[i],
						  queue->stage.ranges[i].byte_count,
						  queue->stage.ranges[i].byte_offset };
	for (unsigned i = 0; i < queue->completion_count; i++) {
		unsigned at = (queue->completion_first + i) % ARRAY_SIZE(queue->completions);
		const struct netvsp_completion *c = &queue->completions[at];
		struct netvsp_completion_state *to = &ret->completions[ret->completion_count++];

		*to = (struct netvsp_completion_state){ .transaction_id = c->transaction_id,
							.queue = queue->index,
							.bytes = c->bytes };
		memcpy(to->body, c->body, sizeof(to->body));
	}
}

static void save_responses(const struct netvsp *nic, struct netvsp_state *ret)
{
	ret->responses = allocate(nic->response_count, sizeof(*ret->responses));
	for (const struct netvsp_response *r = nic->responses; r; r = r->next) {
		struct netvsp_response_state *to = &ret->responses[ret->response_count++];

		to->bytes = MIN(r->bytes, (uint32_t)NETVSP_RESPONSE_BYTES);
		memcpy(to->message, r->message, to->bytes);
	}
}

static void save_settings(const struct netvsp *nic, struct netvsp_state *ret)
{
	*ret = (struct netvsp_state){
		.queue_count = nic->queue_count,
		.version = nic->version,
		.mtu = nic->mtu,
		.packet_filter = nic->packet_filter,
		.capabilities = nic->capabilities,
		.receive = { nic->receive.set, 0, nic->receive.id, nic->receive.gpadl,
			     nic->receive.section_bytes, nic->receive.section_count },
		.send = { nic->send.set, 0, nic->send.id, nic->send.gpadl, nic->send.section_bytes,
			  nic->send.section_count },
		.rndis_ready = nic->rndis_ready,
		.indirection_due = nic->indirection_due,
		.link_told = nic->link_told,
		.multicast_count = nic->multicast_count,
		.rss_enabled = nic->rss.enabled,
		.rss_hash_types = nic->rss.hash_types,
		.rss_entries = nic->rss.entries,
		.next_generation = nic->next_generation,
		.next_rsc_id = nic->next_rsc_id,
	};
	memcpy(ret->offloads, &nic->offloads, sizeof(ret->offloads));
	memcpy(ret->mac, nic->mac, sizeof(ret->mac));
	memcpy(ret->multicast, nic->multicast, sizeof(ret->multicast));
	memcpy(ret->rss_key, nic->rss.key, sizeof(ret->rss_key));
	memcpy(ret->rss_table, nic->rss.table, sizeof(ret->rss_table));
	memcpy(ret->counters, &nic->stats, sizeof(ret->counters));
}

void netvsp_save(struct netvsp *nic, struct state_out *out)
{
	char name[GUID_TEXT_SIZE];
	struct netvsp_state s;

	save_settings(nic, &s);
	save_lent(&nic->receive, &s);
	save_responses(nic, &s);
	s.staged = allocate(NETVSP_MAX_QUEUES * NETVSP_RANGES_PER_PACKET, sizeof(*s.staged));
	s.completions =
	    allocate(NETVSP_MAX_QUEUES * (NETVSP_PACKETS_PER_BATCH + 4), sizeof(*s.completions));
	for (unsigned i = 0; i < nic->queue_count; i++)
		save_queue(&nic->queues[i], &s);
	state_put(out, &netvsp_state_desc, guid_format(&nic->instance, name), &s);
	state_clear(&netvsp_state_desc, &s);
}

/* ---- restore ---- */

static void restore_settings(struct netvsp *nic, const struct netvsp_state *s)
{
	nic->version = s->version;
	nic->mtu = s->mtu;
	nic->packet_filter = s->packet_filter;
	nic->capabilities = s->capabilities;
	nic->rndis_ready = s->rndis_ready;
	nic->indirection_due = s->indirection_due;
	nic->link_told = s->link_told;
	nic->multicast_count = s->multicast_count;
	nic->rss.enabled = s->rss_enabled;
	nic->rss.hash_types = s->rss_hash_types;
	nic->rss.entries = s->rss_entries;
	nic->next_generation = s->next_generation;
	nic->next_rsc_id = s->next_rsc_id;
	memcpy(&nic->offloads, s->offloads, sizeof(s->offloads));
	memcpy(nic->mac, s->mac, sizeof(s->mac));
	memcpy(nic->multicast, s->multicast, sizeof(s->multicast));
	memcpy(nic->rss.key, s->rss_key, sizeof(s->rss_key));
	memcpy(nic->rss.table, s->rss_table, sizeof(s->rss_table));
	memcpy(&nic->stats, s->counters, sizeof(s->counters));
}

static int restore_queues(struct netvsp *nic, const struct netvsp_state *s, struct error *err)
{
	nic->queues[0].open = vmbus_channel_is_open(nic->queues[0].channel);
	for (unsigned i = 1; i < s->queue_count; i++) {
		int rc;

		if (!vmbus_saved_channel(nic->bus, &netvsp_class, &nic->instance, (uint16_t)i))
			return error_set(err, ERR_CORRUPT,
					 "state of 'network': queue %u has no "
					 "channel",
					 i);
		rc = netvsp_offer_queue(nic, i, err);
		if (rc < 0)
			return rc;
		nic->queue_count = i + 1;
		nic->queues[i].open = vmbus_channel_is_open(nic->queues[i].channel);
	}
	return 0;
}

static bool buffer_fits(struct netvsp *nic, const struct netvsp_buffer_state *b)
{
	return (uint64_t)b->section_bytes * b->section_count <=
	       vmbus_gpadl_bytes(nic->queues[0].channel, b->gpadl);
}

static bool restore_buffers(struct netvsp *nic, const struct netvsp_state *s)
{
	if (s->send.set && !buffer_fits(nic, &s->send))
		return false;
	nic->send = (struct netvsp_send_buffer){ s->send.set, s->send.gpadl, s->send.id,
						 s->send.section_bytes, s->send.section_count };
	if (!s->receive.set)
		return true;
	return buffer_fits(nic, &s->receive) &&
	       netvsp_receive_init(&nic->receive, s->receive.gpadl, s->receive.id,
				   s->receive.section_bytes, s->receive.section_count);
}

/* Who has each section. What nobody has is free. */
static bool restore_sections(struct netvsp *nic, const struct netvsp_state *s, bool *taken)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	uint32_t *last = NULL, slot = NO_SECTION;

	for (uint32_t i = 0; i < s->lent_count; i++) {
		const struct netvsp_lent_state *l = &s->lent[i];

		if (l->slot >= rb->section_count || l->section >= rb->section_count ||
		    taken[l->section])
			return false;
		taken[l->section] = true;
		if (l->slot != slot) {
			struct netvsp_transaction *t = &rb->transactions[l->slot];

			if (t->in_use)
				return false;
			*t = (struct netvsp_transaction){ true, l->generation, NO_SECTION };
			last = &t->first_section;
			slot = l->slot;
		}
		*last = l->section;
		last = &rb->section_next[l->section];
		*last = NO_SECTION;
	}
	return true;
}

static bool restore_staged(struct netvsp *nic, const struct netvsp_state *s, bool *taken)
{
	struct netvsp_receive_buffer *rb = &nic->receive;

	for (uint32_t i = 0; i < s->staged_count; i++) {
		const struct netvsp_staged_state *from = &s->staged[i];
		struct netvsp_stage *stage = &nic->queues[from->queue].stage;

		if (from->queue >= nic->queue_count || from->section >= rb->section_count ||
		    taken[from->section] || stage->count == NETVSP_RANGES_PER_PACKET)
			return false;
		taken[from->section] = true;
		stage->sections[stage->count] = from->section;
		stage->ranges[stage->count++] =
		    (struct vmbus_xfer_range){ from->byte_count, from->byte_offset };
	}
	return true;
}

static bool restore_receive(struct netvsp *nic, const struct netvsp_state *s)
{
	struct netvsp_receive_buffer *rb = &nic->receive;
	AUTO_FREE bool *taken = calloc(rb->section_count + 1, sizeof(*taken));

	if (!taken || !restore_sections(nic, s, taken) || !restore_staged(nic, s, taken))
		return false;
	rb->free_section_count = rb->free_transaction_count = 0;
	for (uint32_t i = rb->section_count; i-- > 0;) {
		if (!taken[i])
			rb->free_sections[rb->free_section_count++] = i;
		if (!rb->transactions[i].in_use)
			rb->free_transactions[rb->free_transaction_count++] = i;
	}
	return true;
}

static bool restore_answers(struct netvsp *nic, const struct netvsp_state *s)
{
	for (uint32_t i = 0; i < s->completion_count; i++) {
		const struct netvsp_completion_state *from = &s->completions[i];
		struct netvsp_queue *queue = &nic->queues[from->queue];
		struct netvsp_completion *to = &queue->completions[queue->completion_count];

		if (queue->completion_count == ARRAY_SIZE(queue->completions))
			return false;
		to->transaction_id = from->transaction_id;
		to->bytes = from->bytes;
		memcpy(to->body, from->body, sizeof(to->body));
		queue->completion_count++;
	}
	for (uint32_t i = 0; i < s->response_count; i++)
		if (!netvsp_keep_response(nic, s->responses[i].message, s->responses[i].bytes))
			return false;
	return true;
}

int netvsp_restore(struct netvsp *nic, struct state_in *in, struct error *err)
{
	char name[GUID_TEXT_SIZE];
	struct netvsp_state s;
	int rc = state_get(in, &netvsp_state_desc, guid_format(&nic->instance, name), &s, err);

	if (rc < 0)
		return rc;
	restore_settings(nic, &s);
	rc = restore_queues(nic, &s, err);
	if (rc == 0 &&
	    (!restore_buffers(nic, &s) || !restore_receive(nic, &s) || !restore_answers(nic, &s)))
		rc = error_set(err, ERR_CORRUPT, "state of 'network': a buffer is impossible");
	state_clear(&netvsp_state_desc, &s);
	if (rc == 0)
		netvsp_indicate_link(nic); /* the switch may be another one */
	return rc;
}
