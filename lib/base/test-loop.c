#include "base/clock.h"
#include "base/loop.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cmocka.h>

struct probe {
	struct loop *loop;
	struct loop_fd *lfd;
	struct loop_kick *kick;
	struct loop_timer *timer;
	unsigned fired, kicked, read_ready, posted;
};

static void on_timer(void *user)
{
	struct probe *p = user;

	p->fired++;
	loop_stop(p->loop);
}

static void on_kick(void *user)
{
	((struct probe *)user)->kicked++;
}

static void on_ready(void *user, uint32_t events)
{
	struct probe *p = user;

	p->read_ready++;
	loop_fd_remove(p->lfd);
}

static void on_post(void *user)
{
	((struct probe *)user)->posted++;
}

static void test_timer_fires_once_and_not_early(void **state)
{
	struct probe p = { 0 };
	uint64_t deadline;

	assert_int_equal(loop_new(&p.loop, NULL), 0);
	assert_int_equal(loop_timer_new(p.loop, on_timer, &p, &p.timer, NULL), 0);
	deadline = clock_now_ns() + 5 * NS_PER_MSEC;
	loop_timer_arm(p.timer, deadline);
	loop_run(p.loop);
	assert_true(clock_now_ns() >= deadline);
	assert_int_equal(p.fired, 1);
	/* Re-armed earlier than before, cancelled: must not fire. */
	loop_timer_arm(p.timer, clock_now_ns() + NS_PER_MSEC);
	loop_timer_cancel(p.timer);
	loop_step(p.loop, 10);
	loop_step(p.loop, 10);
	assert_int_equal(p.fired, 1);
	loop_free(p.loop);
}

static void test_earlier_deadline_wins(void **state)
{
	struct probe p = { 0 };
	struct loop_timer *late;
	uint64_t start = clock_now_ns();

	loop_new(&p.loop, NULL);
	loop_timer_new(p.loop, on_timer, &p, &p.timer, NULL);
	loop_timer_new(p.loop, on_timer, &p, &late, NULL);
	loop_timer_arm(late, start + 60 * NS_PER_SEC);
	loop_timer_arm(p.timer, start + 2 * NS_PER_MSEC);
	loop_run(p.loop);
	assert_true(clock_now_ns() - start < 30 * NS_PER_SEC);
	loop_free(p.loop);
}

static void *kick_often(void *user)
{
	struct probe *p = user;

	for (int i = 0; i < 10000; i++)
		loop_kick(p->kick);
	loop_post(p->loop, on_post, p);
	return NULL;
}

static void test_kicks_merge_and_none_is_lost(void **state)
{
	struct probe p = { 0 };
	pthread_t thread;
	unsigned before;

	loop_new(&p.loop, NULL);
	loop_kick_new(p.loop, on_kick, &p, &p.kick, NULL);
	pthread_create(&thread, NULL, kick_often, &p);
	while (!p.posted)
		loop_step(p.loop, 1000);
	pthread_join(thread, NULL);
	loop_step(p.loop, 0);
	assert_in_range(p.kicked, 1, 10000);
	before = p.kicked;
	loop_kick(p.kick);
	loop_step(p.loop, 1000);
	assert_int_equal(p.kicked, before + 1);
	/* Freed while queued: never called. */
	loop_kick(p.kick);
	loop_kick_free(p.kick);
	loop_step(p.loop, 10);
	assert_int_equal(p.kicked, before + 1);
	loop_free(p.loop);
}

static void test_descriptor_removed_in_its_callback(void **state)
{
	struct probe p = { 0 };
	int fds[2];

	loop_new(&p.loop, NULL);
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(loop_fd_add(p.loop, fds[0], EPOLLIN, on_ready, &p, &p.lfd, NULL), 0);
	assert_int_equal(write(fds[1], "x", 1), 1);
	loop_step(p.loop, 1000);
	loop_step(p.loop, 10);
	assert_int_equal(p.read_ready, 1);
	close(fds[0]);
	close(fds[1]);
	loop_free(p.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_timer_fires_once_and_not_early),
		cmocka_unit_test(test_earlier_deadline_wins),
		cmocka_unit_test(test_kicks_merge_and_none_is_lost),
		cmocka_unit_test(test_descriptor_removed_in_its_callback),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
