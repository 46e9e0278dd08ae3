#include "chipset/i8042.h"

#include "chipset/test-env.h"

struct fixture {
	struct test_env env;
	struct i8042 *i8042;
	unsigned resets;
};

static void on_reset(void *user)
{
	((struct fixture *)user)->resets++;
}

static int set_up(void **state)
{
	static struct fixture f;
	struct i8042_config config;

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config = (struct i8042_config){
		.bus = f.env.bus,
		.keyboard_irq = test_irq(&f.env),
		.user = &f,
		.reset = on_reset,
	};
	assert_int_equal(i8042_new(&config, &f.i8042, NULL), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	i8042_free(f->i8042);
	test_env_done(&f->env);
	return 0;
}

static void test_ways_to_reset(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x64, 0xfe);
	assert_int_equal(f->resets, 1);
	out8(&f->env, 0x64, 0xff); /* pulses no line */
	assert_int_equal(f->resets, 1);
	out8(&f->env, 0x64, 0xd1);
	out8(&f->env, 0x60, 0x02);
	assert_int_equal(f->resets, 2);
	out8(&f->env, 0x64, 0xd1);
	out8(&f->env, 0x60, 0x03);
	assert_int_equal(f->resets, 2);
	assert_int_equal(in8(&f->env, 0x92), 0x02);
	out8(&f->env, 0x92, 0x03);
	assert_int_equal(f->resets, 3);
}

static void test_controller_answers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in8(&f->env, 0x64) & 0x03, 0);
	out8(&f->env, 0x64, 0xaa);
	assert_int_equal(in8(&f->env, 0x64) & 0x21, 0x01);
	assert_int_equal(in8(&f->env, 0x60), 0x55);
	assert_int_equal(in8(&f->env, 0x64) & 0x01, 0);
	out8(&f->env, 0x64, 0x60);
	out8(&f->env, 0x60, 0x45);
	out8(&f->env, 0x64, 0x20);
	assert_int_equal(in8(&f->env, 0x60), 0x45);
	out8(&f->env, 0x64, 0xab); /* the interface test fails: nothing there */
	assert_int_equal(in8(&f->env, 0x60), 0x01);
}

static void test_no_device_answers(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x64, 0x60);
	out8(&f->env, 0x60, 0x01); /* keyboard interrupt on */
	out8(&f->env, 0x60, 0xff); /* reset the keyboard: time-out at once */
	assert_true(f->env.level);
	assert_int_equal(in8(&f->env, 0x64) & 0x61, 0x41);
	assert_int_equal(in8(&f->env, 0x60), 0xfe);
	assert_false(f->env.level);
	out8(&f->env, 0x64, 0xd4);
	out8(&f->env, 0x60, 0xf2); /* a mouse's, then */
	assert_false(f->env.level);
	assert_int_equal(in8(&f->env, 0x64) & 0x61, 0x61);
	assert_int_equal(in8(&f->env, 0x60), 0xfe);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_ways_to_reset),
		T(test_controller_answers),
		T(test_no_device_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
