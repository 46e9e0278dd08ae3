#include "dev/coalesce.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/*
 * A guest that keeps `depth` requests outstanding, of which each takes gap_ns to issue, on a disk
 * that ends them at once. Returns how many requests it was told of per signal, times 100.
 */
static unsigned requests_per_signal(struct coalesce *c, unsigned depth, uint64_t gap_ns)
{
	unsigned issued = 0, signals = 0, done = 0;
	uint64_t now = 1000000;

	while (done < 10000) {
		if (issued < depth) {
			now += gap_ns;
			issued++;
			coalesce_arrived(c, 1, now);
			if (!coalesce_finished(c, 0))
				continue;
		} else {
			/* It waits for an answer. */
			now = coalesce_deadline_ns(c);
			coalesce_timed_out(c, 0);
		}
		signals++;
		done += issued;
		issued = 0;
	}
	return done * 100 / signals;
}

static void test_one_at_a_time_is_told_at_once(void **state)
{
	struct coalesce c;
	unsigned held = 0;
	uint64_t now = 0;

	coalesce_reset(&c);
	for (unsigned i = 0; i < 10000; i++) {
		now += 100000;
		coalesce_arrived(&c, 1, now);
		if (coalesce_finished(&c, 0))
			continue;
		held++;
		now = coalesce_deadline_ns(&c);
		coalesce_timed_out(&c, 0);
	}
	/* Now and then it is tried whether there are more. */
	assert_in_range(held, 1, 60);
}

static void test_a_deep_queue_is_told_in_batches(void **state)
{
	struct coalesce c;

	for (unsigned depth = 2; depth <= 64; depth *= 2) {
		coalesce_reset(&c);
		assert_in_range(requests_per_signal(&c, depth, 50000), depth * 80, depth * 100);
	}
	/* It gets used to fewer, and to more again. */
	assert_in_range(requests_per_signal(&c, 2, 10000), 150, 220);
	assert_in_range(requests_per_signal(&c, 32, 10000), 2000, 3200);
}

/* All of them are with the disk: each is told as it ends. */
static void test_a_slow_disk_delays_no_news(void **state)
{
	struct coalesce c;
	unsigned in_flight = 0, held = 0;

	coalesce_reset(&c);
	for (unsigned i = 0; i < 1000; i++) {
		while (in_flight < 8)
			coalesce_arrived(&c, ++in_flight, i * 100000);
		held += !coalesce_finished(&c, --in_flight);
		if (c.held)
			coalesce_timed_out(&c, in_flight);
	}
	assert_in_range(held, 0, 16);
}

static void test_the_wait_has_bounds(void **state)
{
	struct coalesce c;

	coalesce_reset(&c);
	coalesce_arrived(&c, 1, 5000000000ull);
	assert_in_range(coalesce_deadline_ns(&c) - 5000000000ull, COALESCE_MIN_NS, COALESCE_MAX_NS);
	for (unsigned i = 0; i < 100; i++)
		coalesce_arrived(&c, 1, 5000000000ull + i);
	assert_int_equal(coalesce_deadline_ns(&c) - 5000000099ull, COALESCE_MIN_NS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_at_a_time_is_told_at_once),
		cmocka_unit_test(test_a_deep_queue_is_told_in_batches),
		cmocka_unit_test(test_a_slow_disk_delays_no_news),
		cmocka_unit_test(test_the_wait_has_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
