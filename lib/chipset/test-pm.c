#include "chipset/pm.h"

#include "chipset/test-env.h"

struct fixture {
	struct test_env env;
	struct pm *pm;
	unsigned power_offs;
};

static void on_power_off(void *user)
{
	((struct fixture *)user)->power_offs++;
}

static int set_up_bits(void **state, bool timer_24_bit)
{
	static struct fixture f;
	struct pm_config config;

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config = (struct pm_config){
		.bus = f.env.bus,
		.loop = f.env.loop,
		.sci = test_irq(&f.env),
		.timer_24_bit = timer_24_bit,
		.user = &f,
		.power_off = on_power_off,
	};
	assert_int_equal(pm_new(&config, &f.pm, NULL), 0);
	*state = &f;
	return 0;
}

static int set_up(void **state)
{
	return set_up_bits(state, false);
}

static int set_up_24(void **state)
{
	return set_up_bits(state, true);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	pm_free(f->pm);
	test_env_done(&f->env);
	return 0;
}

static uint16_t in16(struct fixture *f, unsigned offset)
{
	return (uint16_t)bus_pio_read(f->env.bus, (uint16_t)(PM_BASE + offset), 2);
}

static void out16(struct fixture *f, unsigned offset, uint16_t value)
{
	bus_pio_write(f->env.bus, (uint16_t)(PM_BASE + offset), 2, value);
}

static uint32_t timer(struct fixture *f)
{
	return bus_pio_read(f->env.bus, PM_BASE + 8, 4);
}

static void test_timer_rate(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(timer(f), 0);
	test_advance(&f->env, NS_PER_SEC);
	assert_int_equal(timer(f), 3579545);
	test_now_ns += 3600 * NS_PER_SEC;
	assert_int_equal(timer(f), (uint32_t)(3601ull * 3579545));
}

static void test_timer_wraps_at_24_bits(void **state)
{
	struct fixture *f = *state;

	out16(f, 2, 0x0001); /* TMR_EN */
	test_advance(&f->env, UINT64_C(2300000000));
	assert_false(f->env.level);
	test_advance(&f->env, UINT64_C(50000000)); /* 2^23 ticks: 2.3435 s */
	assert_true(f->env.level);
	assert_int_equal(in16(f, 0), 0x0001);
	out16(f, 0, 0x0001);
	assert_false(f->env.level);
	test_advance(&f->env, UINT64_C(2350000000));
	assert_true(f->env.level);
	assert_in_range(timer(f), 0, 3579545);
}

static void test_power_button(void **state)
{
	struct fixture *f = *state;

	pm_power_button(f->pm);
	assert_false(f->env.level);
	assert_int_equal(in16(f, 0), 0x0100);
	out16(f, 2, 0x0100);
	assert_true(f->env.level);
	bus_pio_write(f->env.bus, PM_BASE, 1, 0xff); /* the low byte only */
	assert_true(f->env.level);
	out16(f, 0, 0x0100);
	assert_false(f->env.level);
	assert_int_equal(in16(f, 0), 0);
}

static void test_general_purpose_events(void **state)
{
	struct fixture *f = *state;

	out16(f, 14, 0x0001);
	pm_gpe(f->pm, 3);
	assert_false(f->env.level);
	pm_gpe(f->pm, 0);
	assert_true(f->env.level);
	assert_int_equal(in16(f, 12), 0x0009);
	out16(f, 12, 0x0001);
	assert_false(f->env.level);
	assert_int_equal(in16(f, 12), 0x0008);
}

static void test_power_off(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(in16(f, 4), 0x0001); /* ACPI mode is on */
	out16(f, 4, 0x1401);                  /* SLP_TYP without SLP_EN */
	assert_int_equal(in16(f, 4), 0x1401);
	out16(f, 4, 0x3401); /* a sleep state that does not exist */
	assert_int_equal(f->power_offs, 0);
	assert_int_equal(in16(f, 4), 0x1401); /* SLP_EN reads 0 */
	out16(f, 4, 0x2001);
	assert_int_equal(f->power_offs, 1);
	out16(f, 4, 0);
	assert_int_equal(in16(f, 4), 0x0001);
	assert_int_equal(f->power_offs, 1);
}

static void test_power_off_by_bytes(void **state)
{
	struct fixture *f = *state;

	bus_pio_write(f->env.bus, PM_BASE + 5, 1, 0x20);
	assert_int_equal(f->power_offs, 1);
}

static void test_reset_lowers_the_line(void **state)
{
	struct fixture *f = *state;

	out16(f, 2, 0x0100);
	pm_power_button(f->pm);
	assert_true(f->env.level);
	pm_reset(f->pm);
	assert_false(f->env.level);
	assert_int_equal(in16(f, 2), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_timer_rate),
		cmocka_unit_test_setup_teardown(test_timer_wraps_at_24_bits, set_up_24, tear_down),
		T(test_power_button),
		T(test_general_purpose_events),
		T(test_power_off),
		T(test_power_off_by_bytes),
		T(test_reset_lowers_the_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
