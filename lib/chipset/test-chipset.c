#include "chipset/chipset.h"

#include "chipset/ioapic.h"
#include "chipset/i8042.h"
#include "chipset/pci.h"
#include "chipset/pic.h"
#include "chipset/pit.h"
#include "chipset/pm.h"
#include "chipset/rtc.h"
#include "chipset/test-env.h"
#include "state/check-state.h"

#include <pthread.h>
#include <string.h>

struct fixture {
	struct test_env env;
	struct chipset *chipset;
	unsigned messages, routes, power_offs, resets, room;
	uint32_t data;
	bool intr;
	char out[64];
	size_t out_len;
	unsigned out_port;
};

static void on_msi(void *user, uint64_t address, uint32_t data)
{
	struct fixture *f = user;

	f->messages++;
	f->data = data;
}

static void on_route(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	((struct fixture *)user)->routes++;
}

static void on_intr(void *user, bool level)
{
	((struct fixture *)user)->intr = level;
}

static void on_output(void *user, unsigned port, const void *data, size_t len)
{
	struct fixture *f = user;

	memcpy(f->out, data, len);
	f->out_len = len;
	f->out_port = port;
}

static void on_room(void *user, unsigned port)
{
	((struct fixture *)user)->room++;
}

static void on_power_off(void *user)
{
	((struct fixture *)user)->power_offs++;
}

static void on_reset(void *user)
{
	((struct fixture *)user)->resets++;
}

static int set_up_board(void **state, bool legacy)
{
	static struct fixture f;
	struct chipset_config config;

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config = (struct chipset_config){
		.bus = f.env.bus,
		.loop = f.env.loop,
		.legacy = legacy,
		.ioapic_id = 1,
		.host = { &f, on_msi, on_route, on_intr, on_output, on_room, on_power_off,
			  on_reset },
	};
	assert_int_equal(chipset_new(&config, &f.chipset, NULL), 0);
	*state = &f;
	return 0;
}

static int set_up(void **state)
{
	return set_up_board(state, true);
}

static int set_up_modern(void **state)
{
	return set_up_board(state, false);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	chipset_free(f->chipset);
	assert_int_equal(in8(&f->env, 0x3fd), 0xff); /* nothing is left on the bus */
	test_env_done(&f->env);
	return 0;
}

static void write_entry(struct fixture *f, unsigned pin, uint32_t low)
{
	bus_mmio_write(f->env.bus, IOAPIC_BASE, 4, 0x10 + 2 * pin);
	bus_mmio_write(f->env.bus, IOAPIC_BASE + 0x10, 4, low);
}

static void program_pic(struct fixture *f)
{
	static const uint8_t icw[] = { 0x11, 0x30, 0x04, 0x01 };

	out8(&f->env, 0x20, icw[0]);
	for (unsigned i = 1; i < 4; i++)
		out8(&f->env, 0x21, icw[i]);
	out8(&f->env, 0x21, 0x00);
}

static void test_timer_reaches_both_controllers(void **state)
{
	struct fixture *f = *state;

	program_pic(f);
	write_entry(f, 2, 0x30);
	out8(&f->env, 0x43, 0x34);
	out8(&f->env, 0x40, 0x9c);
	out8(&f->env, 0x40, 0x2e);
	f->messages = 0;
	test_advance(&f->env, NS_PER_SEC / 100 + 1000);
	assert_int_equal(f->messages, 1);
	assert_int_equal(f->data, 0x30);
	assert_true(f->intr);
	assert_int_equal(chipset_extint_ack(f->chipset), 0x30);
}

static void test_serial_ports(void **state)
{
	struct fixture *f = *state;

	write_entry(f, 3, 0x33);
	write_entry(f, 4, 0x34);
	out8(&f->env, 0x2fc, 0x08);
	out8(&f->env, 0x2f9, 0x02);
	assert_int_equal(f->data, 0x33);
	out8(&f->env, 0x3fc, 0x08);
	out8(&f->env, 0x3f9, 0x02);
	assert_int_equal(f->data, 0x34);
	out8(&f->env, 0x2f8, 'x');
	chipset_flush(f->chipset);
	assert_int_equal(f->out_port, 1);
	assert_int_equal(f->out_len, 1);
	assert_int_equal(chipset_uart_input(f->chipset, 0, "ab", 2), 1);
	assert_int_equal(in8(&f->env, 0x3f8), 'a');
	test_step(&f->env);
	assert_int_equal(f->room, 1);
}

static void test_sci_is_level_triggered(void **state)
{
	struct fixture *f = *state;

	write_entry(f, 9, 0x8041);
	bus_pio_write(f->env.bus, PM_BASE + 2, 2, 0x0100);
	chipset_power_button(f->chipset);
	assert_int_equal(f->messages, 1);
	chipset_eoi(f->chipset, 0x41);
	assert_int_equal(f->messages, 2); /* not handled yet */
	bus_pio_write(f->env.bus, PM_BASE, 2, 0x0100);
	chipset_eoi(f->chipset, 0x41);
	assert_int_equal(f->messages, 2);
}

static void test_power_and_reset(void **state)
{
	struct fixture *f = *state;

	bus_pio_write(f->env.bus, PM_BASE + 4, 2, 0x2001);
	assert_int_equal(f->power_offs, 1);
	out8(&f->env, 0x64, 0xfe);
	out8(&f->env, 0xcf9, 0x06);
	assert_int_equal(f->resets, 2);
	chipset_reset(f->chipset);
	out8(&f->env, 0xcf9, 0x06);
	assert_int_equal(f->resets, 3);
	out8(&f->env, 0x80, 0xaa);
	assert_int_equal(in8(&f->env, 0x80), 0xff);
}

static void test_reset_silences(void **state)
{
	struct fixture *f = *state;

	write_entry(f, 2, 0x30);
	out8(&f->env, 0x43, 0x34);
	out8(&f->env, 0x40, 0x9c);
	out8(&f->env, 0x40, 0x2e);
	chipset_reset(f->chipset);
	f->messages = 0;
	test_advance(&f->env, NS_PER_SEC);
	assert_int_equal(f->messages, 0);
	assert_false(f->intr);
}

static void test_generation_2_has_no_legacy(void **state)
{
	struct fixture *f = *state;
	static const uint16_t ports[] = { 0x20, 0xa1, 0x40, 0x60, 0x64, 0x92, 0x4d0 };

	for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++)
		assert_int_equal(in8(&f->env, ports[i]), 0xff);
	/* No error of the board is the reason for an NMI, whatever is written there. */
	out8(&f->env, 0x61, 0xff);
	assert_int_equal(in8(&f->env, 0x61), 0x20);
	assert_int_equal(chipset_extint_ack(f->chipset), -1);
	chipset_reset(f->chipset);
	write_entry(f, 4, 0x34);
	out8(&f->env, 0x3fc, 0x08);
	out8(&f->env, 0x3f9, 0x02);
	assert_int_equal(f->data, 0x34);
}

/* The locks: several processors and the loop at the same devices (for the thread sanitizer). */
static void *hammer(void *user)
{
	struct fixture *f = user;
	uint32_t random = (uint32_t)(uintptr_t)&random | 1;
	static const uint16_t ports[] = { 0x20,  0x21,  0x40,  0x43,  0x61,  0x70,  0x71, 0x3f8,
					  0x3f9, 0x3fa, 0x3fc, 0x400, 0x402, 0x408, 0x60 };

	for (unsigned i = 0; i < 20000; i++) {
		uint16_t port;

		random = random * 1664525 + 1013904223;
		port = ports[(random >> 16) % (sizeof(ports) / sizeof(ports[0]))];
		if (random & 0x100)
			out8(&f->env, port, (uint8_t)random);
		else
			in8(&f->env, port);
		if (i % 64 == 0)
			chipset_extint_ack(f->chipset);
	}
	return NULL;
}

static void test_many_processors(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[3];

	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, f), 0);
	for (unsigned i = 0; i < 100; i++) {
		chipset_uart_input(f->chipset, 0, "x", 1);
		loop_step(f->env.loop, 0);
		f->out_len = 0;
	}
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}

/* What the hammer writes may be more than `out` holds. */
static void drop_output(void *user, unsigned port, const void *data, size_t len)
{
}

static void drop_intr(void *user, bool level)
{
}

static void drop_msi(void *user, uint64_t address, uint32_t data)
{
}

static int set_up_hammer(void **state)
{
	static struct fixture f;
	struct chipset_config config;

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config = (struct chipset_config){
		.bus = f.env.bus,
		.loop = f.env.loop,
		.legacy = true,
		.host = { &f, drop_msi, on_route, drop_intr, drop_output, on_room, on_power_off,
			  on_reset },
	};
	assert_int_equal(chipset_new(&config, &f.chipset, NULL), 0);
	*state = &f;
	return 0;
}

/* ---- state ---- */

/* The board is saved and replaced by a new one, while the host's clock goes on from elsewhere. */
static void move(struct fixture *f)
{
	struct state_out *out = state_out_new(clock_now_ns());
	struct chipset_config config = {
		.bus = f->env.bus,
		.loop = f->env.loop,
		.legacy = true,
		.host = { f, on_msi, on_route, on_intr, on_output, on_room, on_power_off,
			  on_reset },
	};
	const uint8_t *bytes;
	struct state_in *in;
	struct error err;
	size_t size;

	chipset_save(f->chipset, out);
	assert_int_equal(state_out_bytes(out, &bytes, &size, NULL), 0);
	chipset_free(f->chipset);
	assert_int_equal(chipset_new(&config, &f->chipset, NULL), 0);
	test_now_ns += 1000 * NS_PER_SEC;
	assert_int_equal(state_in_new(bytes, size, clock_now_ns(), &in, NULL), 0);
	if (chipset_restore(f->chipset, in, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(state_in_finish(in, NULL), 0);
	state_in_free(in);
	state_out_free(out);
}

static void test_saved_board_goes_on(void **state)
{
	struct fixture *f = *state;
	unsigned count, messages;

	program_pic(f);
	write_entry(f, 4, 0x34);
	out8(&f->env, 0x43, 0x34); /* channel 0: mode 2, 10 ms */
	out8(&f->env, 0x40, 11932 & 0xff);
	out8(&f->env, 0x40, 11932 >> 8);
	out8(&f->env, 0x3fc, 0x08);
	out8(&f->env, 0x3f9, 0x01);
	out8(&f->env, 0x70, 0x40);
	out8(&f->env, 0x71, 0x5a);
	assert_int_equal(chipset_uart_input(f->chipset, 0, "a", 1), 1);
	messages = f->messages;
	test_advance(&f->env, 4 * NS_PER_MSEC);
	move(f);
	/* No interrupt comes a second time, none is lost. */
	assert_int_equal(f->messages, messages);
	assert_true(f->routes >= IOAPIC_PINS);
	assert_int_equal(in8(&f->env, 0x3f8), 'a');
	out8(&f->env, 0x70, 0x40);
	assert_int_equal(in8(&f->env, 0x71), 0x5a);
	/* The timer's cycle goes on where it was, not anew. */
	out8(&f->env, 0x43, 0);
	count = in8(&f->env, 0x40);
	count |= (unsigned)in8(&f->env, 0x40) << 8;
	assert_in_range(count, 7155, 7165);
}

static void test_state_tables(void **state)
{
	STATE_CHECK(struct pic_chip_state, pic_chip_state_desc);
	STATE_CHECK(struct pic_state, pic_state_desc);
	STATE_CHECK(struct pit_channel_state, pit_channel_state_desc);
	STATE_CHECK(struct pit_state, pit_state_desc);
	STATE_CHECK(struct ioapic_state, ioapic_state_desc);
	STATE_CHECK(struct rtc_state, rtc_state_desc);
	STATE_CHECK(struct pm_state, pm_state_desc);
	STATE_CHECK(struct pci_state, pci_state_desc);
	STATE_CHECK(struct i8042_state, i8042_state_desc);
	STATE_CHECK(struct uart_state, uart_state_desc);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_timer_reaches_both_controllers),
		T(test_serial_ports),
		T(test_sci_is_level_triggered),
		T(test_power_and_reset),
		T(test_reset_silences),
		cmocka_unit_test_setup_teardown(test_generation_2_has_no_legacy, set_up_modern,
						tear_down),
		T(test_saved_board_goes_on),
		cmocka_unit_test(test_state_tables),
		cmocka_unit_test_setup_teardown(test_many_processors, set_up_hammer, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
