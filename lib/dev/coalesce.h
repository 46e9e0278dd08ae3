/*
 * Interrupt coalescing: whether the guest is told of a finished request at once or together with
 * those that will follow. A guest that keeps several requests under way is slowed down by one
 * interrupt for each; a guest that waits for its only request must have it at once.
 *
 * The rule needs no clock and no rate: news is held back while fewer requests are outstanding
 * (in flight, or finished and not told) than the guest is thought to keep outstanding, because then
 * it is about to issue more. Where the disk is the slow side, all of them are in flight, and
 * nothing is held back. The wait is over when nothing has come for some times as long as requests
 * lately lay apart; the guest then keeps no more than are outstanding.
 *
 * A guest that is told of each request before it can issue the next one never shows how many it
 * would keep. So now and then news waits for one request more; after each vain try, twice as many
 * go by until the next one.
 *
 * Pure bookkeeping for one queue; the caller owns it, its thread, and the timer.
 */
#ifndef DEV_COALESCE_H
#define DEV_COALESCE_H

#include "base/macros.h"

#include <stdbool.h>
#include <stdint.h>

/* At most so many times news is told between two tries. */
#define COALESCE_MAX_BACKOFF 256u
/* The bounds of a wait, and how many times the mean distance of requests it is. */
#define COALESCE_MIN_NS 30000u
#define COALESCE_MAX_NS 1000000u
#define COALESCE_GAPS   3u

struct coalesce {
	unsigned depth;   /* how many the guest lately kept outstanding */
	unsigned held;    /* finished and not told */
	unsigned told;    /* how often news was told since the last try */
	unsigned backoff; /* how often it shall be, until the next one */
	uint64_t last_ns; /* when the last request came */
	uint64_t gap_ns;  /* mean distance of requests */
};

static inline void coalesce_reset(struct coalesce *c)
{
	*c = (struct coalesce){ .depth = 1, .backoff = 1 };
}

/* A request came; in_flight counts it. */
static inline void coalesce_arrived(struct coalesce *c, unsigned in_flight, uint64_t now_ns)
{
	uint64_t gap = MIN(now_ns - c->last_ns, (uint64_t)COALESCE_MAX_NS);

	c->last_ns = now_ns;
	c->gap_ns = (c->gap_ns * 7 + gap) / 8;
	if (in_flight + c->held <= c->depth)
		return;
	c->depth = in_flight + c->held;
	c->backoff = 1;
}

/* A request ended; in_flight no longer counts it. True: tell the guest now of all that are held. */
static inline bool coalesce_finished(struct coalesce *c, unsigned in_flight)
{
	unsigned wanted = c->told >= c->backoff ? c->depth + 1 : c->depth;

	c->held++;
	if (in_flight + c->held < wanted)
		return false;
	c->held = 0;
	c->told++;
	return true;
}

/* The guest was told of all that are held, for another reason. */
static inline void coalesce_told(struct coalesce *c)
{
	c->held = 0;
}

/* While news is held: when the wait is over, unless another request comes. */
static inline uint64_t coalesce_deadline_ns(const struct coalesce *c)
{
	uint64_t wait = c->gap_ns * COALESCE_GAPS;

	wait = MAX(wait, (uint64_t)COALESCE_MIN_NS);
	return c->last_ns + MIN(wait, (uint64_t)COALESCE_MAX_NS);
}

/* The wait is over: the guest is told now. */
static inline void coalesce_timed_out(struct coalesce *c, unsigned in_flight)
{
	unsigned outstanding = in_flight + c->held;

	c->depth = MAX(outstanding, 1u);
	c->held = c->told = 0;
	if (c->backoff < COALESCE_MAX_BACKOFF)
		c->backoff *= 2;
}

#endif
