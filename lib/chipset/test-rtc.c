#include "chipset/rtc.h"

#include "chipset/test-env.h"

#include <time.h>

#define SECOND NS_PER_SEC

struct fixture {
	struct test_env env;
	struct rtc *rtc;
};

static int set_up(void **state)
{
	static struct fixture f;
	struct rtc_config config;

	test_env_init(&f.env);
	test_wall_ns = UINT64_C(1795487100) * SECOND; /* 2026-11-24 02:25:00, a Tuesday */
	config = (struct rtc_config){ f.env.bus, f.env.loop, test_irq(&f.env) };
	assert_int_equal(rtc_new(&config, &f.rtc, NULL), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	rtc_free(f->rtc);
	test_env_done(&f->env);
	return 0;
}

static uint8_t get(struct fixture *f, uint8_t reg)
{
	out8(&f->env, 0x70, reg);
	return in8(&f->env, 0x71);
}

static void set(struct fixture *f, uint8_t reg, uint8_t value)
{
	out8(&f->env, 0x70, reg);
	out8(&f->env, 0x71, value);
}

static void check_time(struct fixture *f, const uint8_t expected[8])
{
	static const uint8_t regs[] = { 0x32, 9, 8, 7, 6, 4, 2, 0 };

	for (unsigned i = 0; i < 8; i++)
		assert_int_equal(get(f, regs[i]), expected[i]);
}

static void test_shows_the_wall_clock(void **state)
{
	struct fixture *f = *state;

	/* century, year, month, day, day of week, hour, minute, second */
	check_time(f, (uint8_t[]){ 0x20, 0x26, 0x11, 0x24, 3, 0x02, 0x25, 0x00 });
	test_advance(&f->env, 21 * 3600 * SECOND + 35 * 60 * SECOND);
	check_time(f, (uint8_t[]){ 0x20, 0x26, 0x11, 0x25, 4, 0x00, 0x00, 0x00 });
	set(f, 0x0b, 0x06); /* binary */
	check_time(f, (uint8_t[]){ 20, 26, 11, 25, 4, 0, 0, 0 });
}

static void test_twelve_hours(void **state)
{
	struct fixture *f = *state;
	static const uint8_t hours[] = { 0x12, 0x01, 0x11, 0x92, 0x81, 0x91 };
	static const unsigned at[] = { 0, 1, 11, 12, 13, 23 };

	set(f, 0x0b, 0x00);
	for (unsigned i = 0; i < sizeof(hours); i++) {
		test_wall_ns = (UINT64_C(1795478400) + at[i] * 3600) * SECOND;
		assert_int_equal(get(f, 4), hours[i]);
	}
}

static void test_guest_sets_the_time(void **state)
{
	struct fixture *f = *state;

	set(f, 0x0b, 0x82); /* SET */
	set(f, 0x32, 0x19);
	set(f, 9, 0x99);
	set(f, 8, 0x12);
	set(f, 7, 0x31);
	set(f, 4, 0x23);
	set(f, 2, 0x59);
	set(f, 0, 0x58);
	test_advance(&f->env, 5 * SECOND); /* the clock stands */
	assert_int_equal(get(f, 0), 0x58);
	set(f, 0x0b, 0x02);
	check_time(f, (uint8_t[]){ 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58 });
	test_advance(&f->env, 2 * SECOND);
	check_time(f, (uint8_t[]){ 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00 });
	rtc_reset(f->rtc); /* the battery keeps it */
	check_time(f, (uint8_t[]){ 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00 });
}

static void test_leap_years(void **state)
{
	struct fixture *f = *state;
	struct tm tm;
	time_t t;

	for (t = 0; t < (time_t)4102444800; t += 86400 * 13 + 4321) {
		test_wall_ns = (uint64_t)t * SECOND;
		gmtime_r(&t, &tm);
		set(f, 0x0b, 0x06);
		assert_int_equal(get(f, 9), tm.tm_year % 100);
		assert_int_equal(get(f, 8), tm.tm_mon + 1);
		assert_int_equal(get(f, 7), tm.tm_mday);
		assert_int_equal(get(f, 6), tm.tm_wday + 1);
		assert_int_equal(get(f, 4), tm.tm_hour);
	}
}

static void test_update_in_progress(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0x0a), 0x26);
	test_advance(&f->env, SECOND - 244000);
	assert_int_equal(get(f, 0x0a), 0xa6);
	test_advance(&f->env, 244000);
	assert_int_equal(get(f, 0x0a), 0x26);
}

static void test_update_interrupt(void **state)
{
	struct fixture *f = *state;

	set(f, 0x0b, 0x12);
	assert_false(f->env.level);
	test_advance(&f->env, SECOND);
	assert_true(f->env.level);
	test_advance(&f->env, 3 * SECOND);
	assert_int_equal(get(f, 0x0c), 0x90 | 0x40); /* periodic flag, too, but not its interrupt */
	assert_false(f->env.level);
	assert_int_equal(get(f, 0x0c), 0);
	test_advance(&f->env, SECOND);
	assert_true(f->env.level);
	assert_int_equal(f->env.rises, 2);
}

static void test_periodic_interrupt(void **state)
{
	struct fixture *f = *state;

	set(f, 0x0b, 0x42); /* 1024 Hz */
	for (unsigned i = 0; i < 1024; i++) {
		test_advance(&f->env, SECOND / 1024 + 1);
		if (f->env.level)
			get(f, 0x0c);
	}
	assert_in_range(f->env.rises, 1023, 1024);
	set(f, 0x0a, 0x20); /* rate 0: none */
	get(f, 0x0c);
	f->env.rises = 0;
	test_advance(&f->env, SECOND);
	assert_int_equal(f->env.rises, 0);
	assert_int_equal(get(f, 0x0c) & 0x40, 0);
}

static void test_alarm(void **state)
{
	struct fixture *f = *state;

	set(f, 5, 0x02);
	set(f, 3, 0x25);
	set(f, 1, 0x10);
	set(f, 0x0b, 0x22);
	test_advance(&f->env, 9 * SECOND);
	assert_false(f->env.level);
	test_advance(&f->env, SECOND);
	assert_true(f->env.level);
	assert_int_equal(get(f, 0x0c) & 0xa0, 0xa0);
	test_advance(&f->env, SECOND);
	assert_false(f->env.level);
	/* every minute at :10 */
	set(f, 5, 0xff);
	set(f, 3, 0xc0);
	test_advance(&f->env, 58 * SECOND);
	assert_false(f->env.level);
	test_advance(&f->env, SECOND);
	assert_true(f->env.level);
	get(f, 0x0c);
	/* a second that does not exist never comes */
	set(f, 1, 0x77);
	test_advance(&f->env, 70 * SECOND);
	assert_false(f->env.level);
	assert_int_equal(get(f, 0x0c) & 0x20, 0);
}

static void test_alarm_beyond_midnight(void **state)
{
	struct fixture *f = *state;

	set(f, 5, 0x01);
	set(f, 3, 0x00);
	set(f, 1, 0x00);
	get(f, 0x0c);
	test_wall_ns += (22 * 3600 + 34 * 60 + 59) * SECOND;
	assert_int_equal(get(f, 0x0c) & 0x20, 0);
	test_wall_ns += SECOND;
	assert_int_equal(get(f, 0x0c) & 0x20, 0x20);
}

static void test_memory(void **state)
{
	struct fixture *f = *state;

	set(f, 0x7f, 0xa5);
	set(f, 0x8f, 0x5a); /* bit 7 is no part of the index */
	assert_int_equal(get(f, 0x7f), 0xa5);
	assert_int_equal(get(f, 0x0f), 0x5a);
	assert_int_equal(get(f, 0x0d), 0x80);
	rtc_set_cmos(f->rtc, 0x5f, 3);
	assert_int_equal(get(f, 0x5f), 3);
	assert_int_equal(in8(&f->env, 0x70), 0xff);
}

static void test_nonsense_is_survived(void **state)
{
	struct fixture *f = *state;

	set(f, 0x0b, 0x82);
	for (uint8_t reg = 0; reg < 10; reg++)
		set(f, reg, 0xff);
	set(f, 0x32, 0xff);
	set(f, 0x0b, 0x02);
	test_advance(&f->env, 2 * SECOND);
	get(f, 9);
	set(f, 0x0b, 0x82);
	for (uint8_t reg = 0; reg < 10; reg++)
		set(f, reg, 0);
	set(f, 0x32, 0);
	set(f, 0x0b, 0x02);
	assert_int_equal(get(f, 9), 0x70);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_shows_the_wall_clock),  T(test_twelve_hours),
		T(test_guest_sets_the_time),   T(test_leap_years),
		T(test_update_in_progress),    T(test_update_interrupt),
		T(test_periodic_interrupt),    T(test_alarm),
		T(test_alarm_beyond_midnight), T(test_memory),
		T(test_nonsense_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
