#include "bus/bus.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct recorder {
	uint64_t offset, value;
	unsigned size;
};

static uint64_t record_read(void *dev, uint64_t offset, unsigned size)
{
	*(struct recorder *)dev = (struct recorder){ offset, 0, size };
	return 0x1122334455667788;
}

static void record_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	*(struct recorder *)dev = (struct recorder){ offset, value, size };
}

static const struct bus_ops recorder_ops = { record_read, record_write };

static void test_routing(void **state)
{
	struct recorder a = { 0 }, b = { 0 };
	struct bus *bus;

	bus_new(&bus, NULL);
	assert_int_equal(bus_add_pio(bus, 0x3f8, 8, &recorder_ops, &a, NULL), 0);
	assert_int_equal(bus_add_pio(bus, 0x70, 2, &recorder_ops, &b, NULL), 0);
	assert_int_equal(bus_pio_read(bus, 0x3fa, 1), 0x88);
	assert_int_equal(a.offset, 2);
	bus_pio_write(bus, 0x71, 1, 0x1234);
	assert_int_equal(b.offset, 1);
	assert_int_equal(b.value, 0x34);
	/* Next to a region, or only partly inside it: nobody's. */
	assert_int_equal(bus_pio_read(bus, 0x3f7, 1), 0xff);
	assert_int_equal(bus_pio_read(bus, 0x400, 2), 0xffff);
	assert_int_equal(bus_pio_read(bus, 0x3ff, 2), 0xffff);
	bus_remove(bus, &a);
	assert_int_equal(bus_pio_read(bus, 0x3fa, 4), 0xffffffff);
	bus_free(bus);
}

static void test_overlap_is_refused(void **state)
{
	struct recorder a;
	struct bus *bus;

	bus_new(&bus, NULL);
	assert_int_equal(bus_add_mmio(bus, 0xfec00000, 0x1000, &recorder_ops, &a, NULL), 0);
	assert_int_equal(bus_add_mmio(bus, 0xfec00fff, 1, &recorder_ops, &a, NULL), -ERR_EXISTS);
	assert_int_equal(bus_add_mmio(bus, 0xfebfffff, 2, &recorder_ops, &a, NULL), -ERR_EXISTS);
	assert_int_equal(bus_add_mmio(bus, 0xfebff000, 0x3000, &recorder_ops, &a, NULL),
			 -ERR_EXISTS);
	assert_int_equal(bus_add_mmio(bus, 0xfec01000, 0x1000, &recorder_ops, &a, NULL), 0);
	assert_int_equal(bus_add_mmio(bus, 0xfffffffffffff000, 0x1000, &recorder_ops, &a, NULL), 0);
	assert_int_equal(bus_mmio_read(bus, 0xfffffffffffffff8, 8), 0x1122334455667788);
	bus_free(bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_routing),
		cmocka_unit_test(test_overlap_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
