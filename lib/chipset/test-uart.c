#include "chipset/uart.h"

#include "chipset/test-env.h"

#include <string.h>

struct fixture {
	struct test_env env;
	struct uart *uart;
	char out[2 * UART_OUTPUT_SIZE];
	size_t out_len;
	unsigned room;
};

static void on_output(void *user, const void *data, size_t len)
{
	struct fixture *f = user;

	assert_true(len <= sizeof(f->out) - f->out_len);
	memcpy(f->out + f->out_len, data, len);
	f->out_len += len;
}

static void on_room(void *user)
{
	((struct fixture *)user)->room++;
}

static int set_up(void **state)
{
	static struct fixture f;
	struct uart_config config;

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config = (struct uart_config){
		.bus = f.env.bus,
		.loop = f.env.loop,
		.port = UART_COM1_PORT,
		.irq = test_irq(&f.env),
		.user = &f,
		.output = on_output,
		.room = on_room,
	};
	assert_int_equal(uart_new(&config, &f.uart, NULL), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	uart_free(f->uart);
	test_env_done(&f->env);
	return 0;
}

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };

static uint8_t get(struct fixture *f, unsigned reg)
{
	return in8(&f->env, (uint16_t)(UART_COM1_PORT + reg));
}

static void set(struct fixture *f, unsigned reg, uint8_t value)
{
	out8(&f->env, (uint16_t)(UART_COM1_PORT + reg), value);
}

static void test_reset_values(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, IER), 0);
	assert_int_equal(get(f, IIR), 0x01);
	assert_int_equal(get(f, LCR), 0);
	assert_int_equal(get(f, MCR), 0);
	assert_int_equal(get(f, LSR), 0x60);
	assert_int_equal(get(f, MSR), 0xb0);
}

static void test_register_widths(void **state)
{
	struct fixture *f = *state;

	set(f, IER, 0xff);
	assert_int_equal(get(f, IER), 0x0f); /* how Linux tells that there is a UART */
	set(f, MCR, 0xff);
	assert_int_equal(get(f, MCR), 0x1f);
	set(f, SCR, 0xa5);
	assert_int_equal(get(f, SCR), 0xa5);
	set(f, IIR, 0x01); /* FCR: a 16550A shows its FIFOs */
	assert_int_equal(get(f, IIR) & 0xc0, 0xc0);
	set(f, IIR, 0x00);
	assert_int_equal(get(f, IIR) & 0xc0, 0x00);
}

static void test_divisor_latch(void **state)
{
	struct fixture *f = *state;

	set(f, LCR, 0x83);
	set(f, DATA, 0x01);
	set(f, IER, 0x02);
	assert_int_equal(get(f, DATA), 0x01);
	assert_int_equal(get(f, IER), 0x02);
	set(f, LCR, 0x03);
	assert_int_equal(get(f, IER), 0);
	test_step(&f->env);
	assert_int_equal(f->out_len, 0); /* nothing was sent */
}

static void test_output_reaches_the_host(void **state)
{
	struct fixture *f = *state;

	for (const char *p = "Hello"; *p; p++)
		set(f, DATA, (uint8_t)*p);
	assert_int_equal(f->out_len, 0); /* by the loop, not by the VP */
	test_step(&f->env);
	assert_int_equal(f->out_len, 5);
	assert_memory_equal(f->out, "Hello", 5);
}

static void test_thr_interrupt(void **state)
{
	struct fixture *f = *state;

	set(f, MCR, 0x08);
	set(f, IER, 0x02); /* empty already: at once */
	assert_true(f->env.level);
	assert_int_equal(get(f, IIR), 0x02);
	assert_int_equal(get(f, IIR), 0x01); /* reading it cleared it */
	assert_false(f->env.level);
	set(f, DATA, 'x'); /* sent at once, so empty again */
	assert_true(f->env.level);
	assert_int_equal(f->env.rises, 2);
	set(f, DATA, 'y'); /* each byte makes an edge */
	assert_int_equal(f->env.rises, 3);
	set(f, IER, 0x00);
	assert_false(f->env.level);
	set(f, IER, 0x02); /* Linux tests that it comes back */
	assert_int_equal(get(f, IIR), 0x02);
}

static void test_full_buffer_holds_thre_back(void **state)
{
	struct fixture *f = *state;
	unsigned sent = 0;

	set(f, MCR, 0x08);
	set(f, IER, 0x02);
	while (get(f, LSR) & 0x20) {
		set(f, DATA, (uint8_t)sent++);
		assert_true(sent <= UART_OUTPUT_SIZE);
	}
	/* A guest that fills a whole FIFO after THRE never loses a byte. */
	assert_true(sent >= UART_OUTPUT_SIZE - 2 * UART_FIFO_SIZE);
	assert_false(f->env.level);
	f->env.rises = 0;
	test_step(&f->env);
	assert_int_equal(f->out_len, sent);
	assert_int_equal(get(f, LSR), 0x60);
	assert_int_equal(f->env.rises, 1);
	/* A guest that does not look loses what does not fit. */
	for (unsigned i = 0; i < UART_OUTPUT_SIZE + 100; i++)
		set(f, DATA, 'z');
	f->out_len = 0;
	test_step(&f->env);
	assert_int_equal(f->out_len, UART_OUTPUT_SIZE);
}

static void test_input_without_fifo(void **state)
{
	struct fixture *f = *state;

	set(f, MCR, 0x08);
	set(f, IER, 0x01);
	assert_int_equal(uart_input(f->uart, "ab", 2), 1);
	assert_true(f->env.level);
	assert_int_equal(get(f, IIR), 0x04);
	assert_int_equal(get(f, LSR), 0x61);
	assert_int_equal(get(f, DATA), 'a');
	assert_false(f->env.level);
	assert_int_equal(get(f, LSR), 0x60);
	test_step(&f->env);
	assert_int_equal(f->room, 1);
	test_step(&f->env);
	assert_int_equal(f->room, 1);
}

static void test_input_with_fifo(void **state)
{
	struct fixture *f = *state;

	set(f, MCR, 0x08);
	set(f, IIR, 0x81); /* trigger level 8 */
	set(f, IER, 0x01);
	assert_int_equal(uart_input(f->uart, "abc", 3), 3);
	assert_int_equal(get(f, IIR), 0xcc); /* below the level: time-out */
	assert_int_equal(uart_input(f->uart, "defghijklmnopqrs", 16), 13);
	assert_int_equal(get(f, IIR), 0xc4);
	for (char c = 'a'; c <= 'i'; c++)
		assert_int_equal(get(f, DATA), c);
	assert_int_equal(get(f, IIR), 0xcc);
	for (char c = 'j'; c <= 'p'; c++)
		assert_int_equal(get(f, DATA), c);
	assert_int_equal(get(f, IIR), 0xc1);
	test_step(&f->env);
	assert_int_equal(f->room, 1);
	assert_int_equal(uart_input(f->uart, "qrs", 3), 3);
	set(f, IIR, 0x83); /* clears the receiver */
	assert_int_equal(get(f, LSR) & 0x01, 0);
}

static void test_loopback(void **state)
{
	struct fixture *f = *state;

	set(f, MCR, 0x1a); /* Linux's test: loop, RTS, OUT2 */
	assert_int_equal(get(f, MSR) & 0xf0, 0x90);
	set(f, DATA, 0x5a);
	test_step(&f->env);
	assert_int_equal(f->out_len, 0);
	assert_int_equal(get(f, LSR) & 0x01, 1);
	assert_int_equal(get(f, DATA), 0x5a);
	set(f, DATA, 1);
	set(f, DATA, 2); /* overruns the one-byte receiver */
	assert_int_equal(get(f, LSR) & 0x03, 0x03);
	assert_int_equal(get(f, LSR) & 0x02, 0); /* reading cleared it */
	assert_int_equal(get(f, DATA), 2);
	set(f, LCR, 0x40);
	assert_int_equal(get(f, LSR) & 0x11, 0x11); /* break */
	assert_int_equal(uart_input(f->uart, "a", 1), 0);
	set(f, MCR, 0x0a);
	test_step(&f->env);
	assert_int_equal(get(f, DATA), 0);
	test_step(&f->env);
	assert_true(f->room >= 1);
}

static void test_modem_deltas(void **state)
{
	struct fixture *f = *state;

	set(f, IER, 0x08);
	set(f, MCR, 0x08);
	assert_false(f->env.level);
	set(f, MCR, 0x18); /* CTS and DSR go away; DCD stays (OUT2) */
	assert_true(f->env.level);
	assert_int_equal(get(f, IIR), 0x00);
	assert_int_equal(get(f, MSR), 0x83);
	assert_false(f->env.level);
	set(f, MCR, 0x1c); /* RI on: no delta */
	assert_int_equal(get(f, MSR), 0xc0);
	set(f, MCR, 0x18); /* RI off: its trailing edge counts */
	assert_int_equal(get(f, MSR), 0x84);
}

static void test_priorities(void **state)
{
	struct fixture *f = *state;

	set(f, IER, 0x0f);
	set(f, MCR, 0x1c);
	set(f, DATA, 1);
	set(f, DATA, 2);
	assert_int_equal(get(f, IIR), 0x06);
	get(f, LSR);
	assert_int_equal(get(f, IIR), 0x04);
	get(f, DATA);
	assert_int_equal(get(f, IIR), 0x02);
	assert_int_equal(get(f, IIR), 0x00);
	get(f, MSR);
	assert_int_equal(get(f, IIR), 0x01);
}

static void test_out2_gates(void **state)
{
	struct fixture *f = *state;

	set(f, IER, 0x02);
	assert_false(f->env.level);
	set(f, MCR, 0x08);
	assert_true(f->env.level);
	uart_reset(f->uart);
	assert_false(f->env.level);
}

static void test_word_access(void **state)
{
	struct fixture *f = *state;

	bus_pio_write(f->env.bus, UART_COM1_PORT + LCR, 2, 0x0803);
	assert_int_equal(get(f, LCR), 0x03);
	assert_int_equal(get(f, MCR), 0x08);
	assert_int_equal(bus_pio_read(f->env.bus, UART_COM1_PORT + LCR, 2), 0x0803);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_reset_values),       T(test_register_widths),
		T(test_divisor_latch),      T(test_output_reaches_the_host),
		T(test_thr_interrupt),      T(test_full_buffer_holds_thre_back),
		T(test_input_without_fifo), T(test_input_with_fifo),
		T(test_loopback),           T(test_modem_deltas),
		T(test_priorities),         T(test_out2_gates),
		T(test_word_access),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
