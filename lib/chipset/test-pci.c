#include "chipset/pci.h"

#include "chipset/test-env.h"

struct fixture {
	struct test_env env;
	struct pci *pci;
	unsigned resets;
};

static void on_reset(void *user)
{
	((struct fixture *)user)->resets++;
}

static int set_up(void **state)
{
	static struct fixture f;
	struct pci_config config;

	f = (struct fixture){ 0 };
	test_env_init(&f.env);
	config = (struct pci_config){ f.env.bus, &f, on_reset };
	assert_int_equal(pci_new(&config, &f.pci, NULL), 0);
	*state = &f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	pci_free(f->pci);
	test_env_done(&f->env);
	return 0;
}

/* Linux's pci_check_type1(): a byte to CFBh, then the address must read back. */
static void test_mechanism_1_is_found_and_empty(void **state)
{
	struct fixture *f = *state;

	bus_pio_write(f->env.bus, 0xcfb, 1, 0x01);
	assert_int_equal(bus_pio_read(f->env.bus, 0xcf8, 4), 0);
	bus_pio_write(f->env.bus, 0xcf8, 4, 0x80000000);
	assert_int_equal(bus_pio_read(f->env.bus, 0xcf8, 4), 0x80000000);
	assert_int_equal(bus_pio_read(f->env.bus, 0xcfc, 4), 0xffffffff);
	assert_int_equal(bus_pio_read(f->env.bus, 0xcfe, 2), 0xffff);
	pci_reset(f->pci);
	assert_int_equal(bus_pio_read(f->env.bus, 0xcf8, 4), 0);
}

static void test_reset_register(void **state)
{
	struct fixture *f = *state;

	out8(&f->env, 0xcf9, 0x02);
	assert_int_equal(f->resets, 0);
	assert_int_equal(in8(&f->env, 0xcf9), 0x02);
	out8(&f->env, 0xcf9, 0x06);
	assert_int_equal(f->resets, 1);
	pci_reset(f->pci);
	assert_int_equal(in8(&f->env, 0xcf9), 0);
	out8(&f->env, 0xcf9, PCI_RESET_VALUE); /* at once, as FADT's reset value is written */
	assert_int_equal(f->resets, 2);
	/* A configuration address is no reset. */
	bus_pio_write(f->env.bus, 0xcf8, 4, 0x80000600);
	assert_int_equal(f->resets, 2);
}

#define T(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_mechanism_1_is_found_and_empty),
		T(test_reset_register),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
