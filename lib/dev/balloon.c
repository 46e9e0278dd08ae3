/*
 * One operation at a time: asked for by act(), ended by the guest's answer. A guest that never
 * answers changes nothing any more; whatever it does, only pages that it named itself in this
 * session, and that are RAM, go into the balloon or come out of it. When the channel closes, the
 * balloon is forgotten: another kernel may be at work then (kexec), to which these pages are memory
 * like any other.
 */
#include "dev/balloon.h"
#include "dev/balloon-state.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "spec/dynmem.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES      (128 * MIB)
#define MAX_HOT_ADD      4 /* blocks in one request: the guest takes 5 s for each at worst */
#define SLACK_BYTES      (2 * MIB)   /* a difference that is not worth a message */
#define BALLOON_BYTES    (512 * MIB) /* in one request, so that a change of mind is not far */
#define RANGES_PER_SEND  128
#define RETRY_NS         (10 * NS_PER_SEC) /* after the guest could not do it */
#define TICK_NS          NS_PER_SEC
#define MAX_REPORT_PAGES (UINT64_C(1) << 40)

static const struct guid class_dynamic_memory =
    GUID_INIT(0x525074dc, 0x8985, 0x46e2, 0x80, 0x57, 0xa3, 0x07, 0xdc, 0x18, 0xa5, 0x02);
static const struct guid instance_dynamic_memory =
    GUID_INIT(0x1eccfd72, 0x4b41, 0x45ef, 0xb7, 0x3a, 0x4a, 0x6e, 0x44, 0xc1, 0x29, 0x24);

enum operation { IDLE, BALLOONING, UNBALLOONING, HOT_ADDING };

struct balloon {
	struct balloon_config config;
	struct vmbus_channel *channel;
	struct loop_timer *timer;
	uint64_t first_bytes; /* booted with */
	uint64_t target_bytes;

	uint64_t added_bytes; /* that the guest took */
	uint64_t added_end;   /* offset in mem behind the last block that was offered and taken */

	/* From here on: of the session. */
	uint32_t version;
	uint64_t capabilities;
	bool ready; /* capabilities are agreed on */
	enum operation operation;
	uint32_t transaction_id;
	uint64_t retry_ns;      /* no balloon request before */
	uint64_t *pages;        /* bit n: page n of mem is in the balloon */
	uint64_t page_count;    /* of them */
	uint64_t return_pages;  /* UNBALLOONING: still to be named */
	uint64_t return_cursor; /* page to look at next */
	uint64_t offered_bytes; /* HOT_ADDING */
	uint64_t demand_bytes, available_bytes;
	uint64_t growth_bytes; /* of the demand in a second; fades */
	uint64_t report_ns;    /* when demand_bytes came */
};

static uint64_t ballooned_bytes(const struct balloon *b)
{
	return b->page_count * MEM_PAGE_SIZE;
}

static uint64_t assigned_bytes(const struct balloon *b)
{
	return b->first_bytes + b->added_bytes - ballooned_bytes(b);
}

/* ---- messages ---- */

/* The header's size is that of the message. */
static int send(struct balloon *b, enum dynmem_type type, void *message, size_t bytes)
{
	struct iovec iov = { message, bytes };
	struct dynmem_header header = { (uint16_t)type, (uint16_t)bytes, ++b->transaction_id };

	memcpy(message, &header, sizeof(header));
	return vmbus_send(b->channel, 0, false, &iov, 1);
}

/* Copies at least `min` bytes; what the packet lacks is zero. */
static bool get(const struct vmbus_packet *packet, void *ret, size_t bytes, size_t min)
{
	memset(ret, 0, bytes);
	if (packet->payload_len < min)
		return false;
	memcpy(ret, packet->payload, MIN(bytes, (size_t)packet->payload_len));
	return true;
}

static void on_version(struct balloon *b, const struct vmbus_packet *packet)
{
	struct dynmem_accepted answer = { 0 };
	struct dynmem_version_request in;

	if (!get(packet, &in, sizeof(in), sizeof(in)))
		return;
	answer.accepted = in.version == DYNMEM_VERSION_3 || in.version == DYNMEM_VERSION_2 ||
			  in.version == DYNMEM_VERSION_1;
	if (answer.accepted)
		b->version = in.version;
	send(b, DYNMEM_VERSION_RESPONSE, &answer, sizeof(answer));
}

static void on_capabilities(struct balloon *b, const struct vmbus_packet *packet)
{
	struct dynmem_accepted answer = { .accepted = 1 };
	struct dynmem_capabilities in;

	if (!b->version ||
	    !get(packet, &in, sizeof(in), offsetof(struct dynmem_capabilities, min_pages)))
		return;
	b->capabilities = in.capabilities;
	b->ready = true;
	send(b, DYNMEM_CAPABILITIES_RESPONSE, &answer, sizeof(answer));
	b->config.changed(b->config.user);
}

/* A guest that takes more and more is seen at once, and one that stops not before some seconds have
 * passed: what it takes comes in bursts. */
static void note_demand(struct balloon *b, uint64_t demand)
{
	uint64_t now = clock_now_ns(), ms = MAX((now - b->report_ns) / NS_PER_MSEC, UINT64_C(500));
	uint64_t rise = b->demand_bytes ? demand - MIN(demand, b->demand_bytes) : 0;

	b->growth_bytes = MAX(rise / ms * 1000, b->growth_bytes / 4 * 3);
	b->demand_bytes = demand;
	b->report_ns = now;
}

/*
 * What the guest has promised counts, too, before it is touched: else the news came too late. While
 * pages come and go, what the guest has free and what it has at all are of different moments: such
 * a report would show a demand of what is on its way.
 */
static void on_status(struct balloon *b, const struct vmbus_packet *packet)
{
	uint64_t assigned = assigned_bytes(b), used, committed;
	struct dynmem_status in;

	if (!get(packet, &in, sizeof(in), offsetof(struct dynmem_status, page_file_pages)) ||
	    b->operation != IDLE)
		return;
	b->available_bytes =
	    MIN(MIN(in.available_pages, MAX_REPORT_PAGES) * MEM_PAGE_SIZE, assigned);
	used = assigned - b->available_bytes;
	committed = MIN(in.committed_pages, MAX_REPORT_PAGES) * MEM_PAGE_SIZE;
	committed -= MIN(committed, ballooned_bytes(b));
	note_demand(b, MIN(MAX(used, committed), mem_reach_bytes(b->config.mem)));
	b->config.changed(b->config.user);
}

/* ---- the balloon ---- */

static bool is_ballooned(const struct balloon *b, uint64_t page)
{
	return b->pages[page / 64] >> page % 64 & 1;
}

static void take_range(struct balloon *b, uint64_t range)
{
	struct mem *mem = b->config.mem;
	uint64_t gpa = DYNMEM_RANGE_PAGE(range) * MEM_PAGE_SIZE;
	uint64_t count = DYNMEM_RANGE_COUNT(range), first;

	if (!count || !mem_ptr(mem, gpa, count * MEM_PAGE_SIZE)) {
		log_guest("dynamic memory: %#llx pages at %#llx are no memory",
			  (unsigned long long)count, (unsigned long long)gpa);
		return;
	}
	first = mem_page_index(mem, gpa);
	for (uint64_t page = first; page < first + count; page++) {
		b->page_count += !is_ballooned(b, page);
		b->pages[page / 64] |= BIT(page % 64);
	}
	mem_release(mem, gpa, count * MEM_PAGE_SIZE);
}

static void on_ballooned(struct balloon *b, const struct vmbus_packet *packet)
{
	const uint8_t *ranges = packet->payload + sizeof(struct dynmem_balloon_response);
	struct dynmem_balloon_response in;
	uint64_t before = b->page_count;
	uint32_t count;

	if (b->operation != BALLOONING || !get(packet, &in, sizeof(in), sizeof(in)))
		return;
	count = in.more_and_count >> 1;
	count = MIN(count, (packet->payload_len - (uint32_t)sizeof(in)) / 8);
	for (uint32_t i = 0; i < count; i++)
		take_range(b, load_le64(ranges + 8 * i));
	if (!(in.more_and_count & 1))
		b->operation = IDLE;
	/* Nothing more to spare: asked again later. */
	if (b->page_count == before)
		b->retry_ns = clock_now_ns() + RETRY_NS;
	b->config.changed(b->config.user);
}

/* The next pages in a row that go back to the guest, at most `max`. */
static uint64_t next_return(struct balloon *b, uint64_t max)
{
	uint64_t first = b->return_cursor, count = 0;

	while (!is_ballooned(b, first))
		first++;
	/* A row may not cross from below the hole to above it. */
	while (count < max && is_ballooned(b, first + count) &&
	       mem_gpa_of(b->config.mem, (first + count) * MEM_PAGE_SIZE) ==
		   mem_gpa_of(b->config.mem, first * MEM_PAGE_SIZE) + count * MEM_PAGE_SIZE)
		count++;
	b->return_cursor = first + count;
	return DYNMEM_RANGE(mem_gpa_of(b->config.mem, first * MEM_PAGE_SIZE) / MEM_PAGE_SIZE,
			    count);
}

static void forget_pages(struct balloon *b, uint64_t range)
{
	uint64_t first = mem_page_index(b->config.mem, DYNMEM_RANGE_PAGE(range) * MEM_PAGE_SIZE);

	for (uint64_t page = first; page < first + DYNMEM_RANGE_COUNT(range); page++)
		b->pages[page / 64] &= ~BIT(page % 64);
	b->page_count -= DYNMEM_RANGE_COUNT(range);
}

/* One message; false if the ring is full, and nothing has changed. */
static bool return_some(struct balloon *b)
{
	struct {
		struct dynmem_unballoon_request head;
		uint64_t ranges[RANGES_PER_SEND];
	} DYNMEM_PACKED message = { 0 };
	uint64_t left = b->return_pages, cursor = b->return_cursor;
	uint32_t count = 0;

	while (left && count < RANGES_PER_SEND) {
		uint64_t range = next_return(b, MIN(left, DYNMEM_RANGE_COUNT_MAX));

		message.ranges[count++] = range;
		left -= DYNMEM_RANGE_COUNT(range);
	}
	message.head.more = left > 0;
	message.head.range_count = count;
	if (send(b, DYNMEM_UNBALLOON_REQUEST, &message, sizeof(message.head) + count * 8) ==
	    -ERR_BUSY) {
		b->return_cursor = cursor;
		return false;
	}
	for (uint32_t i = 0; i < count; i++)
		forget_pages(b, message.ranges[i]);
	b->return_pages = left;
	return true;
}

static void return_all(struct balloon *b)
{
	while (b->operation == UNBALLOONING && b->return_pages && return_some(b))
		;
}

static void on_unballooned(struct balloon *b)
{
	if (b->operation != UNBALLOONING || b->return_pages)
		return;
	b->operation = IDLE;
	b->config.changed(b->config.user);
}

/* ---- hot add ---- */

static uint64_t block_bytes(const struct balloon *b)
{
	uint64_t alignment = MIB << DYNMEM_HOT_ADD_ALIGNMENT(b->capabilities);

	return MAX(alignment, BLOCK_BYTES);
}

/* Where the next block begins: in address space of whole blocks, of which none crosses the hole. */
static uint64_t next_block(const struct balloon *b)
{
	const struct mem *mem = b->config.mem;
	uint64_t block = block_bytes(b), offset = MAX(b->added_end, b->first_bytes), gpa;

	for (;;) {
		gpa = mem_gpa_of(mem, offset);
		if (gpa % block)
			offset += block - gpa % block;
		else if (mem_gpa_of(mem, offset + block - 1) != gpa + block - 1)
			offset += MEM_HIGH_BASE <= gpa ? block : MEM_LOW_TOP - gpa;
		else
			return offset;
		/* Rounding up may have crossed the hole. */
		if (gpa < MEM_LOW_TOP && offset > MEM_LOW_TOP)
			offset = MEM_LOW_TOP;
	}
}

static bool hot_add(struct balloon *b, uint64_t wanted)
{
	struct dynmem_hot_add_request request = { 0 };
	uint64_t block = block_bytes(b), offset = next_block(b), len = block;
	uint64_t reach = mem_reach_bytes(b->config.mem);
	uint64_t gpa = mem_gpa_of(b->config.mem, offset);

	if (offset >= reach || block > reach - offset)
		return false;
	while (len < wanted && len < MAX_HOT_ADD * block && len + block <= reach - offset &&
	       mem_gpa_of(b->config.mem, offset + len) == gpa + len)
		len += block;
	/* It is RAM before the guest hears of it. */
	if (offset + len > mem_size_bytes(b->config.mem) &&
	    b->config.grow(b->config.user, offset + len) < 0)
		return false;
	request.range = DYNMEM_RANGE(gpa / MEM_PAGE_SIZE, len / MEM_PAGE_SIZE);
	if (send(b, DYNMEM_HOT_ADD_REQUEST, &request, sizeof(request)) < 0)
		return false;
	b->operation = HOT_ADDING;
	b->added_end = offset; /* until it is taken */
	b->offered_bytes = len;
	return true;
}

static void on_hot_added(struct balloon *b, const struct vmbus_packet *packet)
{
	struct dynmem_hot_add_response in;
	uint64_t taken;

	if (b->operation != HOT_ADDING || !get(packet, &in, sizeof(in), sizeof(in)))
		return;
	b->operation = IDLE;
	taken = in.result & 1 ? MIN((uint64_t)in.pages * MEM_PAGE_SIZE, b->offered_bytes) : 0;
	b->added_bytes += taken;
	b->added_end += taken;
	if (!taken)
		b->retry_ns = clock_now_ns() + RETRY_NS;
	b->config.changed(b->config.user);
}

/* ---- towards the target ---- */

static void shrink(struct balloon *b, uint64_t bytes)
{
	struct dynmem_balloon_request request = { 0 };

	request.pages = (uint32_t)(MIN(bytes, BALLOON_BYTES) / MEM_PAGE_SIZE);
	if (send(b, DYNMEM_BALLOON_REQUEST, &request, sizeof(request)) == 0)
		b->operation = BALLOONING;
}

static void grow(struct balloon *b, uint64_t bytes)
{
	if (b->page_count) {
		b->operation = UNBALLOONING;
		b->return_pages = MIN(bytes / MEM_PAGE_SIZE, b->page_count);
		b->return_cursor = 0;
		return_all(b);
	} else if (b->capabilities & DYNMEM_CAN_HOT_ADD && clock_now_ns() >= b->retry_ns) {
		hot_add(b, bytes);
	}
}

static void act(struct balloon *b)
{
	uint64_t assigned = assigned_bytes(b), target = b->target_bytes;

	if (!b->ready || b->operation != IDLE)
		return;
	if (target >= assigned + SLACK_BYTES)
		grow(b, target - assigned);
	else if (target + SLACK_BYTES <= assigned && (b->capabilities & DYNMEM_CAN_BALLOON) &&
		 clock_now_ns() >= b->retry_ns)
		shrink(b, assigned - target);
}

static void tick(void *user)
{
	struct balloon *b = user;

	loop_timer_arm(b->timer, clock_now_ns() + TICK_NS);
	act(b);
}

/* ---- the channel ---- */

static void handle(struct balloon *b, const struct vmbus_packet *packet)
{
	if (packet->type != VMBUS_INBAND || packet->payload_len < sizeof(struct dynmem_header))
		return;
	switch (load_le16(packet->payload)) {
	case DYNMEM_VERSION_REQUEST:
		on_version(b, packet);
		return;
	case DYNMEM_CAPABILITIES_REPORT:
		on_capabilities(b, packet);
		return;
	case DYNMEM_STATUS_REPORT:
		on_status(b, packet);
		return;
	case DYNMEM_BALLOON_RESPONSE:
		on_ballooned(b, packet);
		return;
	case DYNMEM_UNBALLOON_RESPONSE:
		on_unballooned(b);
		return;
	case DYNMEM_HOT_ADD_RESPONSE:
		on_hot_added(b, packet);
		return;
	default:
		log_guest("dynamic memory: message %u is not expected", load_le16(packet->payload));
	}
}

static void on_ready(void *dev, struct vmbus_channel *channel)
{
	struct balloon *b = dev;
	struct vmbus_packet packet;

	return_all(b);
	while (vmbus_recv(channel, &packet) > 0)
		handle(b, &packet);
	act(b);
}

static void forget_session(struct balloon *b)
{
	b->version = 0;
	b->capabilities = 0;
	b->ready = false;
	b->operation = IDLE;
	b->retry_ns = 0;
	b->return_pages = b->return_cursor = 0;
	b->demand_bytes = b->available_bytes = b->growth_bytes = 0;
	if (b->page_count)
		memset(b->pages, 0, mem_reach_bytes(b->config.mem) / MEM_PAGE_SIZE / 8 + 8);
	b->page_count = 0;
}

static void on_closed(void *dev, struct vmbus_channel *channel)
{
	struct balloon *b = dev;

	forget_session(b);
	b->config.changed(b->config.user);
}

static const struct vmbus_channel_ops channel_ops = { .closed = on_closed, .ready = on_ready };

/* ---- for the machine ---- */

int balloon_new(const struct balloon_config *config, struct balloon **ret, struct error *err)
{
	struct balloon *b = calloc(1, sizeof(*b));
	struct vmbus_offer offer = { .class_id = class_dynamic_memory,
				     .instance_id = instance_dynamic_memory,
				     .ops = &channel_ops,
				     .dev = b };
	int r = 0;

	if (!b)
		return error_set(err, ERR_NO_MEMORY, "no memory for dynamic memory");
	b->config = *config;
	b->first_bytes = b->target_bytes = config->first_bytes;
	b->pages = calloc(mem_reach_bytes(config->mem) / MEM_PAGE_SIZE / 64 + 1, 8);
	if (!b->pages)
		r = error_set(err, ERR_NO_MEMORY, "no memory for dynamic memory");
	if (r == 0)
		r = loop_timer_new(config->loop, tick, b, &b->timer, err);
	if (r == 0)
		r = vmbus_offer(config->bus, &offer, &b->channel, err);
	if (r < 0) {
		balloon_free(b);
		return r;
	}
	loop_timer_arm(b->timer, clock_now_ns() + TICK_NS);
	*ret = b;
	return 0;
}

void balloon_free(struct balloon *b)
{
	if (!b)
		return;
	if (b->channel)
		vmbus_rescind(b->channel);
	loop_timer_free(b->timer);
	free(b->pages);
	free(b);
}

void balloon_set_target(struct balloon *b, uint64_t bytes)
{
	b->target_bytes = bytes;
	act(b);
}

void balloon_status(const struct balloon *b, struct balloon_status *ret)
{
	*ret = (struct balloon_status){
		.version = b->ready ? b->version : 0,
		.can_balloon = b->capabilities & DYNMEM_CAN_BALLOON,
		.can_hot_add = b->capabilities & DYNMEM_CAN_HOT_ADD,
		.assigned_bytes = assigned_bytes(b),
		.ballooned_bytes = ballooned_bytes(b),
		.target_bytes = b->target_bytes,
		.demand_bytes = b->demand_bytes,
		.available_bytes = b->available_bytes,
		.growth_bytes = b->growth_bytes,
	};
}

void balloon_reset(struct balloon *b)
{
	b->added_bytes = b->added_end = 0;
	forget_session(b);
}

/* ---- state ---- */

/* Pages of 256 TiB, which is more than any guest has. */
#define MAX_PAGE_WORDS (UINT32_C(1) << 30)

static const char *check_state(const void *state)
{
	const struct balloon_state *s = state;
	uint64_t pages = s->reach_bytes / MEM_PAGE_SIZE;

	if (s->reach_bytes % MIB || !s->reach_bytes || s->reach_bytes >> 60 ||
	    s->page_words > pages / 64 + 1 || s->added_bytes > s->reach_bytes ||
	    s->added_end > s->reach_bytes || s->offered_bytes > s->reach_bytes ||
	    s->return_pages > pages || s->return_cursor > pages)
		return "memory beyond its bounds";
	return NULL;
}

static const struct state_field state_fields[] = {
	STATE(1, struct balloon_state, reach_bytes),
	STATE(2, struct balloon_state, target_bytes),
	STATE(3, struct balloon_state, added_bytes),
	STATE(4, struct balloon_state, added_end),
	STATE(5, struct balloon_state, capabilities),
	STATE(6, struct balloon_state, offered_bytes),
	STATE(7, struct balloon_state, return_pages),
	STATE(8, struct balloon_state, return_cursor),
	STATE(9, struct balloon_state, demand_bytes),
	STATE(10, struct balloon_state, available_bytes),
	STATE_LIST(11, struct balloon_state, pages, page_words, MAX_PAGE_WORDS),
	STATE(12, struct balloon_state, version),
	STATE(13, struct balloon_state, transaction_id),
	STATE(14, struct balloon_state, operation, .max = HOT_ADDING),
	STATE(15, struct balloon_state, ready),
	STATE(16, struct balloon_state, reserved),
	STATE_END,
};
const struct state_desc balloon_state_desc = { "memory", sizeof(struct balloon_state), state_fields,
					       check_state };

static uint32_t words_in_use(const struct balloon *b)
{
	uint64_t words = mem_reach_bytes(b->config.mem) / MEM_PAGE_SIZE / 64 + 1;

	while (words && !b->pages[words - 1])
		words--;
	return (uint32_t)words;
}

void balloon_save(const struct balloon *b, struct state_out *out)
{
	const struct balloon_state s = {
		.reach_bytes = mem_reach_bytes(b->config.mem),
		.target_bytes = b->target_bytes,
		.added_bytes = b->added_bytes,
		.added_end = b->added_end,
		.capabilities = b->capabilities,
		.offered_bytes = b->offered_bytes,
		.return_pages = b->return_pages,
		.return_cursor = b->return_cursor,
		.demand_bytes = b->demand_bytes,
		.available_bytes = b->available_bytes,
		.pages = b->pages,
		.page_words = b->page_count ? words_in_use(b) : 0,
		.version = b->version,
		.transaction_id = b->transaction_id,
		.operation = (uint8_t)b->operation,
		.ready = b->ready,
	};

	state_put(out, &balloon_state_desc, NULL, &s);
}

int balloon_saved_reach(struct state_in *in, uint64_t *ret, struct error *err)
{
	struct balloon_state s;
	int r = state_get(in, &balloon_state_desc, NULL, &s, err);

	if (r < 0)
		return r;
	*ret = s.reach_bytes;
	state_clear(&balloon_state_desc, &s);
	return 0;
}

static void take_pages(struct balloon *b, const struct balloon_state *s)
{
	uint64_t limit = mem_reach_bytes(b->config.mem) / MEM_PAGE_SIZE;

	b->page_count = 0;
	for (uint32_t i = 0; i < s->page_words; i++) {
		uint64_t below = limit - MIN(limit, (uint64_t)i * 64);

		b->pages[i] = s->pages[i] & (below < 64 ? BIT(below) - 1 : UINT64_MAX);
		b->page_count += (uint64_t)__builtin_popcountll(b->pages[i]);
	}
}

/* What is in the balloon and asked for must fit what there is. */
static bool is_consistent(const struct balloon *b)
{
	uint64_t left = 0, pages = mem_reach_bytes(b->config.mem) / MEM_PAGE_SIZE;

	for (uint64_t page = b->return_cursor; page < pages && left < b->return_pages; page++)
		left += is_ballooned(b, page);
	return left >= b->return_pages && ballooned_bytes(b) <= b->first_bytes + b->added_bytes;
}

int balloon_restore(struct balloon *b, struct state_in *in, struct error *err)
{
	struct balloon_state s;
	int r = state_get(in, &balloon_state_desc, NULL, &s, err);

	if (r < 0)
		return r;
	if (s.reach_bytes != mem_reach_bytes(b->config.mem) ||
	    s.added_bytes > mem_size_bytes(b->config.mem) - b->first_bytes) {
		state_clear(&balloon_state_desc, &s);
		return error_set(err, ERR_CORRUPT, "state of 'memory': more than there is");
	}
	b->target_bytes = s.target_bytes;
	b->added_bytes = s.added_bytes;
	b->added_end = s.added_end;
	b->capabilities = s.capabilities;
	b->offered_bytes = s.offered_bytes;
	b->return_pages = s.return_pages;
	b->return_cursor = s.return_cursor;
	b->demand_bytes = s.demand_bytes;
	b->available_bytes = s.available_bytes;
	b->version = s.version;
	b->transaction_id = s.transaction_id;
	b->operation = (enum operation)s.operation;
	b->ready = s.ready;
	take_pages(b, &s);
	state_clear(&balloon_state_desc, &s);
	if (is_consistent(b))
		return 0;
	forget_session(b);
	return error_set(err, ERR_CORRUPT, "state of 'memory': its balloon does not add up");
}
