#include "disk/guest-record.h"

#include "base/macros.h"
#include "blk/sync.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECTOR 512u

/* A change of a run of sectors to a value (0: zeros), and flushes (length 0). */
struct guest_change {
	struct blk_request req;
	struct guest *guest;
	uint64_t value;
	uint64_t submitted, completed; /* completed 0: it is not, or it failed */
	bool ended;
	struct iovec iov;
};

static void change_done(struct blk_request *req, enum blk_result result)
{
	struct guest_change *c = container_of(req, struct guest_change, req);

	if (!c->guest->may_fail)
		assert_int_equal(result, BLK_OK);
	if (result == BLK_OK)
		c->completed = cut_tick(c->guest->clock);
	c->ended = true;
	c->guest->in_flight--;
	free(c->iov.iov_base);
}

bool guest_overlaps(const struct guest *guest, uint64_t offset, uint64_t length)
{
	for (size_t i = 0; i < guest->change_count; i++) {
		const struct guest_change *c = guest->changes[i];

		if (!c->ended && offset < c->req.offset + c->req.length &&
		    c->req.offset < offset + length)
			return true;
	}
	return false;
}

static void fill(uint8_t *buf, uint64_t length, uint64_t value)
{
	for (uint64_t i = 0; i < length; i += 8)
		memcpy(buf + i, &value, 8);
}

void guest_submit(struct guest *guest, enum blk_op op, uint64_t offset, uint64_t length,
		  uint32_t flags)
{
	struct guest_change *c = calloc(1, sizeof(*c));

	c->guest = guest;
	c->req = (struct blk_request){
		.op = op, .flags = flags, .offset = offset, .length = length, .done = change_done
	};
	if (op == BLK_WRITE) {
		c->value = guest->change_count + 1;
		c->iov = (struct iovec){ malloc(length), length };
		fill(c->iov.iov_base, length, c->value);
		c->req.iov = &c->iov;
		c->req.iov_count = 1;
	}
	guest->changes =
	    realloc(guest->changes, (guest->change_count + 1) * sizeof(*guest->changes));
	guest->changes[guest->change_count++] = c;
	guest->in_flight++;
	c->submitted = cut_tick(guest->clock);
	blk_submit(guest->disk, &c->req);
}

/* ---- checking ---- */

/* What happened by a moment, for those who look at a place of the disk. */
struct history {
	const struct guest *guest;
	uint64_t moment;
	uint64_t covered; /* submit moment of the last flush that is done */
	/* The changes of the place, in order. */
	const struct guest_change **relevant;
	size_t count;
};

static uint64_t covered_by(const struct guest *guest, uint64_t moment)
{
	uint64_t covered = 0;

	for (size_t i = 0; i < guest->change_count; i++) {
		const struct guest_change *c = guest->changes[i];

		if (c->req.op == BLK_FLUSH && c->completed && c->completed <= moment)
			covered = MAX(covered, c->submitted);
	}
	return covered;
}

static bool changes_range(const struct guest_change *c, uint64_t offset, uint64_t length)
{
	return c->req.offset < offset + length && offset < c->req.offset + c->req.length;
}

static void find_relevant(struct history *h, uint64_t offset, uint64_t length)
{
	h->count = 0;
	for (size_t i = 0; i < h->guest->change_count; i++)
		if (changes_range(h->guest->changes[i], offset, length))
			h->relevant[h->count++] = h->guest->changes[i];
}

/* Of the relevant changes, one behind the one that the sector surely has; 0: it has none. */
static size_t first_possible(const struct history *h, uint64_t offset)
{
	size_t first = 0;

	for (size_t i = 0; i < h->count; i++) {
		const struct guest_change *c = h->relevant[i];
		bool kept =
		    c->completed && (c->completed <= h->covered ||
				     ((c->req.flags & BLK_FUA) && c->completed <= h->moment));

		if (kept && changes_range(c, offset, SECTOR))
			first = i + 1;
	}
	return first;
}

static uint64_t initial_value(const struct guest *guest, uint64_t offset)
{
	return guest->initial ? guest->initial(offset) : 0;
}

static void check_sector(const struct history *h, const uint8_t *content, uint64_t offset)
{
	size_t first = first_possible(h, offset);
	uint64_t flushed = first ? h->relevant[first - 1]->value : initial_value(h->guest, offset);
	uint64_t value;

	memcpy(&value, content, 8);
	if (memcmp(content, content + 8, SECTOR - 8) != 0)
		fail_msg("cut at %lu: sector at %#lx is mixed", h->moment, offset);
	if (value == flushed)
		return;
	for (size_t i = first; i < h->count; i++) {
		const struct guest_change *c = h->relevant[i];

		if (c->submitted <= h->moment && c->value == value &&
		    changes_range(c, offset, SECTOR))
			return;
	}
	fail_msg("cut at %lu: sector at %#lx holds %#lx, flushed was %#lx", h->moment, offset,
		 value, flushed);
}

void guest_check(const struct guest *guest, struct blk *disk, uint64_t offset, uint64_t length,
		 uint64_t moment)
{
	struct history h = { .guest = guest,
			     .moment = moment,
			     .covered = covered_by(guest, moment),
			     .relevant = malloc((guest->change_count + 1) * sizeof(*h.relevant)) };
	uint8_t *buf = malloc(length);

	find_relevant(&h, offset, length);
	assert_int_equal(blk_read_now(disk, offset, buf, length), BLK_OK);
	for (uint64_t at = 0; at < length; at += SECTOR)
		check_sector(&h, buf + at, offset + at);
	free(buf);
	free(h.relevant);
}

void guest_done(struct guest *guest)
{
	for (size_t i = 0; i < guest->change_count; i++)
		free(guest->changes[i]);
	free(guest->changes);
	guest->changes = NULL;
	guest->change_count = 0;
}
