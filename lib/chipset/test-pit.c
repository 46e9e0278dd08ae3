#include "chipset/pit.h"

#include "chipset/test-env.h"

/* n clocks of the PIT, rounded up */
#define TICKS(n) (((n)*NS_PER_SEC + PIT_HZ - 1) / PIT_HZ)

struct fixture {
	struct test_env env;
	struct pit *pit;
};

static int set_up(void **state)
{
	static struct fixture f;
	struct pit_config config = { 0 };

	test_env_init(&f.env);
	config = (struct pit_config){ f.env.bus, f.env.loop, test_irq(&f.env) };
	assert_int_equal(pit_new(&config, &f.pit, NULL), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	pit_free(f->pit);
	test_env_done(&f->env);
	return 0;
}

static void program(struct fixture *f, unsigned channel, uint8_t mode, uint16_t count)
{
	out8(&f->env, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
	out8(&f->env, (uint16_t)(0x40 + channel), (uint8_t)count);
	out8(&f->env, (uint16_t)(0x40 + channel), (uint8_t)(count >> 8));
}

static unsigned read_count(struct fixture *f, unsigned channel)
{
	unsigned low;

	out8(&f->env, 0x43, (uint8_t)(channel << 6)); /* latch */
	low = in8(&f->env, (uint16_t)(0x40 + channel));
	return low | (unsigned)in8(&f->env, (uint16_t)(0x40 + channel)) << 8;
}

static void test_mode_2_ticks(void **state)
{
	struct fixture *f = *state;
	unsigned rises;

	program(f, 0, 2, 11932); /* 100 Hz */
	rises = f->env.rises;
	for (unsigned i = 1; i <= 10; i++) {
		test_advance(&f->env, TICKS(11932));
		assert_int_equal(f->env.rises - rises, i);
	}
	assert_true(f->env.level);
	test_advance(&f->env, TICKS(11932) / 2);
	assert_int_equal(f->env.rises - rises, 10);
}

static void test_latch_and_count_down(void **state)
{
	struct fixture *f = *state;
	unsigned low;

	program(f, 0, 2, 1000);
	assert_int_equal(read_count(f, 0), 1000);
	test_advance(&f->env, TICKS(400));
	assert_int_equal(read_count(f, 0), 600);
	out8(&f->env, 0x43, 0x00);
	test_advance(&f->env, TICKS(100));
	out8(&f->env, 0x43, 0x00); /* the first latch holds until it is read */
	low = in8(&f->env, 0x40);
	assert_int_equal(low | (unsigned)in8(&f->env, 0x40) << 8, 600);
	assert_int_equal(read_count(f, 0), 500);
}

static void test_new_count_waits_for_the_cycle(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 1000);
	test_advance(&f->env, TICKS(400));
	out8(&f->env, 0x40, 0xd0); /* 2000 */
	out8(&f->env, 0x40, 0x07);
	assert_int_equal(read_count(f, 0), 600);
	test_advance(&f->env, TICKS(700));
	assert_in_range(read_count(f, 0), 1898, 1901);
}

static void test_mode_0_interrupts_once(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 0, 5000);
	assert_false(f->env.level);
	f->env.rises = 0;
	test_advance(&f->env, TICKS(4990));
	assert_int_equal(f->env.rises, 0);
	test_advance(&f->env, TICKS(10));
	assert_int_equal(f->env.rises, 1);
	test_advance(&f->env, TICKS(70000)); /* wraps, silently */
	assert_int_equal(f->env.rises, 1);
	assert_true(f->env.level);
	/* The first byte of a new count stops it and lowers the output. */
	out8(&f->env, 0x40, 0x10);
	assert_false(f->env.level);
}

static void test_port_61_and_channel_2(void **state)
{
	struct fixture *f = *state;

	/* As Linux calibrates: gate on, speaker off, mode 0, wait for bit 5. */
	out8(&f->env, 0x61, (uint8_t)((in8(&f->env, 0x61) & ~0x02) | 0x01));
	program(f, 2, 0, 11932);
	assert_false(in8(&f->env, 0x61) & 0x20);
	test_advance(&f->env, TICKS(11931));
	assert_false(in8(&f->env, 0x61) & 0x20);
	test_advance(&f->env, TICKS(1));
	assert_true(in8(&f->env, 0x61) & 0x20);
	assert_int_equal(in8(&f->env, 0x61) & 0x0f, 0x01);
	/* The gate stops the count in mode 0. */
	program(f, 2, 0, 1000);
	test_advance(&f->env, TICKS(300));
	out8(&f->env, 0x61, 0);
	test_advance(&f->env, TICKS(5000));
	assert_in_range(read_count(f, 2), 699, 700);
	out8(&f->env, 0x61, 1);
	test_advance(&f->env, TICKS(300));
	assert_in_range(read_count(f, 2), 399, 400);
}

static void test_refresh_bit_toggles(void **state)
{
	struct fixture *f = *state;
	uint8_t before = in8(&f->env, 0x61) & 0x10;

	test_advance(&f->env, 15085);
	assert_int_not_equal(in8(&f->env, 0x61) & 0x10, before);
}

static void test_mode_1_is_triggered_by_the_gate(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x61, 0);
	program(f, 2, 1, 1000);
	test_advance(&f->env, TICKS(5000));
	assert_true(in8(&f->env, 0x61) & 0x20); /* not triggered */
	out8(&f->env, 0x61, 1);
	assert_false(in8(&f->env, 0x61) & 0x20);
	test_advance(&f->env, TICKS(999));
	assert_false(in8(&f->env, 0x61) & 0x20);
	test_advance(&f->env, TICKS(1));
	assert_true(in8(&f->env, 0x61) & 0x20);
	out8(&f->env, 0x61, 0);
	out8(&f->env, 0x61, 1); /* again */
	assert_false(in8(&f->env, 0x61) & 0x20);
}

static void test_mode_3_is_a_square_wave(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x61, 1);
	program(f, 2, 3, 1000);
	assert_true(in8(&f->env, 0x61) & 0x20);
	test_advance(&f->env, TICKS(499));
	assert_true(in8(&f->env, 0x61) & 0x20);
	assert_in_range(read_count(f, 2), 2, 4); /* counts by two */
	test_advance(&f->env, TICKS(2));
	assert_false(in8(&f->env, 0x61) & 0x20);
	test_advance(&f->env, TICKS(500));
	assert_true(in8(&f->env, 0x61) & 0x20);
}

static void test_mode_4_strobes_once(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 4, 1000);
	f->env.rises = 0;
	test_advance(&f->env, TICKS(1000));
	assert_int_equal(f->env.rises, 1);
	test_advance(&f->env, TICKS(100000));
	assert_int_equal(f->env.rises, 1);
}

static void test_read_back(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x43, 0x34);
	out8(&f->env, 0x43, 0xe2);                  /* status of channel 0 */
	assert_int_equal(in8(&f->env, 0x40), 0xf4); /* out high, no count yet, mode 2 */
	out8(&f->env, 0x40, 0xe8);
	out8(&f->env, 0x40, 0x03);
	out8(&f->env, 0x43, 0xc2); /* status and count: status is read first */
	test_advance(&f->env, TICKS(100));
	assert_int_equal(in8(&f->env, 0x40), 0xb4);
	assert_int_equal(in8(&f->env, 0x40), 0xe8);
	assert_int_equal(in8(&f->env, 0x40), 0x03);
}

static void test_bcd_and_single_bytes(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x43, 0x35); /* mode 2, BCD */
	out8(&f->env, 0x40, 0x00);
	out8(&f->env, 0x40, 0x10); /* 1000 */
	test_advance(&f->env, TICKS(1));
	assert_int_equal(read_count(f, 0), 0x0999);
	out8(&f->env, 0x43, 0x24); /* high byte only */
	out8(&f->env, 0x40, 0x02);
	assert_int_equal(in8(&f->env, 0x40), 0x02);
	test_advance(&f->env, TICKS(1));
	assert_int_equal(in8(&f->env, 0x40), 0x01);
	out8(&f->env, 0x43, 0x14); /* low byte only; 0 is 65536 */
	out8(&f->env, 0x40, 0x00);
	test_advance(&f->env, TICKS(0x10001));
	assert_int_equal(in8(&f->env, 0x40), 0xff);
}

static void test_fast_ticks_are_bounded(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 2);
	f->env.rises = 0;
	for (unsigned i = 0; i < 1000; i++)
		test_advance(&f->env, 1000);
	assert_in_range(f->env.rises, 10, 21);
}

static void test_reset_stops(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 11932);
	pit_reset(f->pit);
	f->env.rises = 0;
	test_advance(&f->env, NS_PER_SEC / 10);
	assert_int_equal(f->env.rises, 0);
	assert_false(f->env.level);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_mode_2_ticks),
		T(test_latch_and_count_down),
		T(test_new_count_waits_for_the_cycle),
		T(test_mode_0_interrupts_once),
		T(test_port_61_and_channel_2),
		T(test_refresh_bit_toggles),
		T(test_mode_1_is_triggered_by_the_gate),
		T(test_mode_3_is_a_square_wave),
		T(test_mode_4_strobes_once),
		T(test_read_back),
		T(test_bcd_and_single_bytes),
		T(test_fast_ticks_are_bounded),
		T(test_reset_stops),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
