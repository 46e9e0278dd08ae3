#include "chipset/pic.h"

#include "chipset/test-env.h"

struct fixture {
	struct test_env env;
	struct pic *pic;
	bool intr;
};

static void set_intr(void *user, bool level)
{
	struct fixture *f = user;

	assert_int_not_equal(f->intr, level); /* called for changes only */
	f->intr = level;
}

static void program(struct fixture *f, uint8_t icw4)
{
	out8(&f->env, 0x20, 0x11);
	out8(&f->env, 0x21, 0x30);
	out8(&f->env, 0x21, 0x04);
	out8(&f->env, 0x21, icw4);
	out8(&f->env, 0xa0, 0x11);
	out8(&f->env, 0xa1, 0x38);
	out8(&f->env, 0xa1, 0x02);
	out8(&f->env, 0xa1, icw4);
	out8(&f->env, 0x21, 0x00);
	out8(&f->env, 0xa1, 0x00);
}

static int set_up(void **state)
{
	static struct fixture f;
	struct pic_config config = { .intr = set_intr, .user = &f };

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config.bus = f.env.bus;
	assert_int_equal(pic_new(&config, &f.pic, NULL), 0);
	program(&f, 0x01);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	pic_free(f->pic);
	test_env_done(&f->env);
	return 0;
}

static void test_power_on_masks_everything(void **state)
{
	struct fixture *f = *state;

	pic_reset(f->pic);
	pic_set_irq(f->pic, 3, true);
	assert_false(f->intr);
	assert_int_equal(in8(&f->env, 0x21), 0xff);
	assert_int_equal(pic_ack(f->pic), -1);
}

static void test_edge_is_served_once(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 4, true);
	assert_true(f->intr);
	assert_int_equal(in8(&f->env, 0x20), 0x10); /* IRR */
	assert_int_equal(pic_ack(f->pic), 0x34);
	assert_false(f->intr);
	out8(&f->env, 0x20, 0x0b); /* OCW3: read ISR */
	assert_int_equal(in8(&f->env, 0x20), 0x10);
	out8(&f->env, 0x20, 0x20);
	assert_int_equal(in8(&f->env, 0x20), 0x00);
	/* The line is still high, but an edge-triggered input wants to see it rise. */
	assert_int_equal(pic_ack(f->pic), -1);
	pic_set_irq(f->pic, 4, false);
	pic_set_irq(f->pic, 4, true);
	assert_int_equal(pic_ack(f->pic), 0x34);
}

static void test_request_goes_with_its_line(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 4, true);
	pic_set_irq(f->pic, 4, false);
	assert_false(f->intr);
	assert_int_equal(pic_ack(f->pic), -1);
}

static void test_level_is_served_again(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x4d1, 0xff);
	assert_int_equal(in8(&f->env, 0x4d1), 0xde); /* 8 and 13 can't be level-triggered */
	out8(&f->env, 0x4d0, 0xff);
	assert_int_equal(in8(&f->env, 0x4d0), 0xf8);
	pic_set_irq(f->pic, 11, true);
	assert_int_equal(pic_ack(f->pic), 0x3b);
	out8(&f->env, 0xa0, 0x20);
	out8(&f->env, 0x20, 0x20);
	assert_true(f->intr);
	assert_int_equal(pic_ack(f->pic), 0x3b);
	pic_set_irq(f->pic, 11, false);
	out8(&f->env, 0xa0, 0x20);
	out8(&f->env, 0x20, 0x20);
	assert_false(f->intr);
}

static void test_priorities_nest(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 5, true);
	assert_int_equal(pic_ack(f->pic), 0x35);
	pic_set_irq(f->pic, 6, true); /* less urgent: waits */
	assert_false(f->intr);
	pic_set_irq(f->pic, 1, true); /* more urgent: interrupts */
	assert_int_equal(pic_ack(f->pic), 0x31);
	out8(&f->env, 0x20, 0x20); /* ends the most urgent one, 1 */
	assert_false(f->intr);
	out8(&f->env, 0x20, 0x65); /* specific EOI of 5 */
	assert_int_equal(pic_ack(f->pic), 0x36);
}

static void test_slave_through_cascade(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 3, true);
	pic_set_irq(f->pic, 8, true); /* as urgent as IRQ 2: before 3 */
	assert_int_equal(pic_ack(f->pic), 0x38);
	out8(&f->env, 0xa0, 0x20);
	out8(&f->env, 0x20, 0x62);
	assert_int_equal(pic_ack(f->pic), 0x33);
}

static void test_mask(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0x21, 0x10);
	pic_set_irq(f->pic, 4, true);
	assert_false(f->intr);
	out8(&f->env, 0x21, 0x00); /* the edge was remembered */
	assert_true(f->intr);
	out8(&f->env, 0x21, 0x10);
	assert_false(f->intr);
}

static void test_rotation(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 4, true);
	assert_int_equal(pic_ack(f->pic), 0x34);
	out8(&f->env, 0x20, 0xa0); /* rotate on non-specific EOI: 4 is the least urgent now */
	pic_set_irq(f->pic, 4, false);
	pic_set_irq(f->pic, 4, true);
	pic_set_irq(f->pic, 0, true);
	pic_set_irq(f->pic, 5, true);
	assert_int_equal(pic_ack(f->pic), 0x35);
	out8(&f->env, 0x20, 0x20);
	assert_int_equal(pic_ack(f->pic), 0x30);
	out8(&f->env, 0x20, 0x20);
	assert_int_equal(pic_ack(f->pic), 0x34);
	out8(&f->env, 0x20, 0x20);
	out8(&f->env, 0x20, 0xc7); /* set priority: the usual order again */
	pic_set_irq(f->pic, 1, true);
	pic_set_irq(f->pic, 6, true);
	assert_int_equal(pic_ack(f->pic), 0x31);
}

static void test_auto_eoi(void **state)
{
	struct fixture *f = *state;

	program(f, 0x03);
	pic_set_irq(f->pic, 6, true);
	assert_int_equal(pic_ack(f->pic), 0x36);
	out8(&f->env, 0x20, 0x0b);
	assert_int_equal(in8(&f->env, 0x20), 0);
	pic_set_irq(f->pic, 7, true);
	assert_int_equal(pic_ack(f->pic), 0x37);
}

static void test_special_mask_and_poll(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 1, true);
	assert_int_equal(pic_ack(f->pic), 0x31);
	pic_set_irq(f->pic, 5, true);
	assert_false(f->intr);
	out8(&f->env, 0x21, 0x02); /* masks the one in service ... */
	out8(&f->env, 0x20, 0x68); /* ... which then blocks nobody in special mask mode */
	assert_true(f->intr);
	out8(&f->env, 0x20, 0x0c); /* poll: the next read acknowledges */
	assert_int_equal(in8(&f->env, 0x20), 0x85);
	assert_false(f->intr);
	out8(&f->env, 0x20, 0x0c);
	assert_int_equal(in8(&f->env, 0x20), 0x00);
}

static void test_special_fully_nested(void **state)
{
	struct fixture *f = *state;

	program(f, 0x11);
	pic_set_irq(f->pic, 12, true);
	assert_int_equal(pic_ack(f->pic), 0x3c);
	pic_set_irq(f->pic, 9, true); /* more urgent, same slave */
	assert_int_equal(pic_ack(f->pic), 0x39);
}

static void test_initialisation_forgets(void **state)
{
	struct fixture *f = *state;

	pic_set_irq(f->pic, 4, true);
	assert_true(f->intr);
	out8(&f->env, 0x20,
	     0x11); /* ICW1 resets the edge detection, and nothing comes before ICW4 */
	assert_false(f->intr);
	pic_set_irq(f->pic, 5, true);
	assert_false(f->intr);
	out8(&f->env, 0x21, 0x40);
	out8(&f->env, 0x21, 0x04);
	out8(&f->env, 0x21, 0x01);
	assert_int_equal(pic_ack(f->pic), 0x45);
	out8(&f->env, 0x20, 0x20);
	assert_int_equal(pic_ack(f->pic), -1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_power_on_masks_everything),
		T(test_edge_is_served_once),
		T(test_request_goes_with_its_line),
		T(test_level_is_served_again),
		T(test_priorities_nest),
		T(test_slave_through_cascade),
		T(test_mask),
		T(test_rotation),
		T(test_auto_eoi),
		T(test_special_mask_and_poll),
		T(test_special_fully_nested),
		T(test_initialisation_forgets),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
