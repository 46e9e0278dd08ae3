#include "chipset/ioapic.h"

#include "chipset/test-env.h"

struct fixture {
	struct test_env env;
	struct ioapic *ioapic;
	unsigned messages, routes;
	uint64_t address, route_address;
	uint32_t data, route_data;
	unsigned route_pin;
	bool route_masked;
};

static void on_msi(void *user, uint64_t address, uint32_t data)
{
	struct fixture *f = user;

	f->messages++;
	f->address = address;
	f->data = data;
}

static void on_route(void *user, unsigned pin, uint64_t address, uint32_t data, bool masked)
{
	struct fixture *f = user;

	f->routes++;
	f->route_pin = pin;
	f->route_address = address;
	f->route_data = data;
	f->route_masked = masked;
}

static void write_reg(struct fixture *f, uint8_t index, uint32_t value)
{
	bus_mmio_write(f->env.bus, IOAPIC_BASE, 4, index);
	bus_mmio_write(f->env.bus, IOAPIC_BASE + 0x10, 4, value);
}

static uint32_t read_reg(struct fixture *f, uint8_t index)
{
	bus_mmio_write(f->env.bus, IOAPIC_BASE, 4, index);
	assert_int_equal(bus_mmio_read(f->env.bus, IOAPIC_BASE, 4), index);
	return (uint32_t)bus_mmio_read(f->env.bus, IOAPIC_BASE + 0x10, 4);
}

static void write_entry(struct fixture *f, unsigned pin, uint32_t high, uint32_t low)
{
	write_reg(f, (uint8_t)(0x11 + 2 * pin), high);
	write_reg(f, (uint8_t)(0x10 + 2 * pin), low);
}

static int set_up(void **state)
{
	static struct fixture f;
	struct ioapic_config config = { .id = 5, .msi = on_msi, .route = on_route, .user = &f };

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config.bus = f.env.bus;
	assert_int_equal(ioapic_new(&config, &f.ioapic, NULL), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	ioapic_free(f->ioapic);
	test_env_done(&f->env);
	return 0;
}

static void test_identity_and_reset(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(read_reg(f, 0), 0x05000000);
	assert_int_equal(read_reg(f, 1), 0x00170020);
	for (uint8_t pin = 0; pin < 24; pin++) {
		assert_int_equal(read_reg(f, (uint8_t)(0x10 + 2 * pin)), 0x10000);
		assert_int_equal(read_reg(f, (uint8_t)(0x11 + 2 * pin)), 0);
	}
	assert_int_equal(read_reg(f, 0x40), 0); /* beyond the table */
	write_reg(f, 0, 0x07000000);
	assert_int_equal(read_reg(f, 0), 0x07000000);
	write_entry(f, 4, 0, 0x34);
	ioapic_reset(f->ioapic);
	assert_int_equal(read_reg(f, 0), 0x05000000);
	assert_int_equal(read_reg(f, 0x18), 0x10000);
	assert_true(f->route_masked);
}

static void test_edge(void **state)
{
	struct fixture *f = *state;

	ioapic_set_irq(f->ioapic, 4, true); /* masked: lost */
	ioapic_set_irq(f->ioapic, 4, false);
	write_entry(f, 4, 0x03000000, 0x34);
	assert_int_equal(f->messages, 0);
	assert_int_equal(f->route_pin, 4);
	assert_false(f->route_masked);
	assert_int_equal(f->route_address, 0xfee03000);
	assert_int_equal(f->route_data, 0x34);
	ioapic_set_irq(f->ioapic, 4, true);
	ioapic_set_irq(f->ioapic, 4, true);
	assert_int_equal(f->messages, 1);
	assert_int_equal(f->address, 0xfee03000);
	assert_int_equal(f->data, 0x34);
	ioapic_set_irq(f->ioapic, 4, false);
	ioapic_set_irq(f->ioapic, 4, true);
	assert_int_equal(f->messages, 2);
}

static void test_message_formats(void **state)
{
	struct fixture *f = *state;

	/* logical destination, lowest priority, level */
	write_entry(f, 9, 0xff000000, 0x8000 | 0x800 | 0x100 | 0x41);
	ioapic_set_irq(f->ioapic, 9, true);
	assert_int_equal(f->address, 0xfeeff00c);
	assert_int_equal(f->data, 0xc141);
	/* extended destination id, NMI */
	write_entry(f, 10, 0x01020000, 0x400);
	ioapic_set_irq(f->ioapic, 10, true);
	assert_int_equal(f->address, 0xfee01020);
	assert_int_equal(f->data, 0x400);
	/* ExtINT has nobody to ask for the vector */
	f->messages = 0;
	write_entry(f, 0, 0, 0x700);
	ioapic_set_irq(f->ioapic, 0, true);
	assert_int_equal(f->messages, 0);
}

static void test_level_and_eoi(void **state)
{
	struct fixture *f = *state;

	write_entry(f, 9, 0, 0x8041);
	ioapic_set_irq(f->ioapic, 9, true);
	assert_int_equal(f->messages, 1);
	assert_int_equal(read_reg(f, 0x22), 0xc041); /* remote IRR */
	ioapic_set_irq(f->ioapic, 9, false);
	ioapic_set_irq(f->ioapic, 9, true); /* still in service */
	assert_int_equal(f->messages, 1);
	ioapic_eoi(f->ioapic, 0x42); /* somebody else's */
	assert_int_equal(f->messages, 1);
	ioapic_eoi(f->ioapic, 0x41); /* still asserted: again */
	assert_int_equal(f->messages, 2);
	ioapic_set_irq(f->ioapic, 9, false);
	bus_mmio_write(f->env.bus, IOAPIC_BASE + 0x40, 4, 0x41); /* the EOI register does it, too */
	assert_int_equal(f->messages, 2);
	assert_int_equal(read_reg(f, 0x22), 0x8041);
}

static void test_level_waits_behind_mask(void **state)
{
	struct fixture *f = *state;

	write_entry(f, 9, 0, 0x18041);
	ioapic_set_irq(f->ioapic, 9, true);
	assert_int_equal(f->messages, 0);
	write_reg(f, 0x22, 0x8041);
	assert_int_equal(f->messages, 1);
	write_reg(f, 0x22, 0x18041);
	ioapic_eoi(f->ioapic, 0x41);
	assert_int_equal(f->messages, 1);
	assert_int_equal(read_reg(f, 0x22), 0x18041);
}

static void test_read_only_bits(void **state)
{
	struct fixture *f = *state;
	unsigned routes;

	write_entry(f, 3, 0xffffffff, 0xffffffff);
	assert_int_equal(read_reg(f, 0x16), 0x1afff);
	assert_int_equal(read_reg(f, 0x17), 0xffff0000);
	routes = f->routes;
	write_reg(f, 0x16, 0xffffffff); /* nothing new: no route */
	assert_int_equal(f->routes, routes);
	/* An entry made edge-triggered forgets its remote IRR (Linux clears a stuck one so). */
	write_entry(f, 9, 0, 0x8041);
	ioapic_set_irq(f->ioapic, 9, true);
	write_reg(f, 0x22, 0x10041);
	write_reg(f, 0x22, 0x18041);
	assert_int_equal(read_reg(f, 0x22), 0x18041);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_identity_and_reset),      T(test_edge),
		T(test_message_formats),         T(test_level_and_eoi),
		T(test_level_waits_behind_mask), T(test_read_only_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
