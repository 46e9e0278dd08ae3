#include "balance/balance.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct balance_vm vm(uint64_t assigned_mib, uint64_t demand_mib, unsigned priority)
{
	return (struct balance_vm){ .minimum_bytes = 128 * MIB,
				    .maximum_bytes = 4096 * MIB,
				    .buffer_percent = 20,
				    .priority = priority,
				    .assigned_bytes = assigned_mib * MIB,
				    .demand_bytes = demand_mib * MIB };
}

static void test_enough_for_all(void **state)
{
	struct balance_vm vms[] = { vm(512, 1000, 50), vm(2048, 100, 50), vm(512, 10000, 50),
				    vm(300, 0, 50) };

	balance_memory(vms, 4, 16 * GIB);
	assert_int_equal(vms[0].target_bytes, 1200 * MIB);
	assert_int_equal(vms[1].target_bytes, 128 * MIB);
	assert_int_equal(vms[2].target_bytes, 4096 * MIB);
	assert_int_equal(vms[3].target_bytes, 300 * MIB);
}

static void test_room_to_grow(void **state)
{
	struct balance_vm vms[] = { vm(512, 500, 50), vm(512, 500, 50) };

	vms[0].growth_bytes = 50 * MIB;
	vms[1].growth_bytes = UINT64_MAX;
	balance_memory(vms, 2, 16 * GIB);
	assert_int_equal(vms[0].target_bytes, 800 * MIB);
	assert_int_equal(vms[1].target_bytes, 4096 * MIB);
}

static void test_small_changes_are_left_alone(void **state)
{
	struct balance_vm vms[] = { vm(620, 500, 50), vm(640, 500, 50), vm(700, 500, 50) };

	balance_memory(vms, 3, 16 * GIB);
	assert_int_equal(vms[0].target_bytes, 620 * MIB);
	assert_int_equal(vms[1].target_bytes, 640 * MIB);
	assert_int_equal(vms[2].target_bytes, 600 * MIB);
	/* but not when others need it */
	balance_memory(vms, 3, 1800 * MIB);
	assert_int_equal(vms[1].target_bytes, 600 * MIB);
}

static void test_scarce(void **state)
{
	struct balance_vm vms[] = { vm(512, 2000, 90), vm(512, 2000, 0), vm(512, 100, 0) };

	balance_memory(vms, 3, (128 * 3 + 1100) * MIB);
	assert_int_equal(vms[0].target_bytes, (128 + 1000) * MIB);
	assert_int_equal(vms[1].target_bytes, (128 + 100) * MIB);
	assert_int_equal(vms[2].target_bytes, 128 * MIB);
	/* not even the minimum is there: none is starved all the same */
	balance_memory(vms, 3, 100 * MIB);
	for (int i = 0; i < 3; i++)
		assert_int_equal(vms[i].target_bytes, 128 * MIB);
	balance_memory(vms, 3, 0);
	assert_int_equal(vms[0].target_bytes, 128 * MIB);
}

/* Whatever they want, all of it is within bounds, and no more than there is. */
static void test_random(void **state)
{
	struct balance_vm vms[20];

	srandom(1);
	for (int round = 0; round < 2000; round++) {
		size_t count = (size_t)random() % 20 + 1;
		uint64_t pool = (uint64_t)random() % (20 * GIB), sum = 0, least = 0;

		for (size_t i = 0; i < count; i++) {
			vms[i] = vm((uint64_t)random() % 4096, (uint64_t)random() % 8192,
				    (unsigned)random() % 101);
			least += vms[i].minimum_bytes;
		}
		balance_memory(vms, count, pool);
		for (size_t i = 0; i < count; i++) {
			assert_in_range(vms[i].target_bytes, vms[i].minimum_bytes,
					vms[i].maximum_bytes);
			sum += vms[i].target_bytes;
		}
		assert_true(sum <= MAX(pool, least));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_enough_for_all),
		cmocka_unit_test(test_room_to_grow),
		cmocka_unit_test(test_small_changes_are_left_alone),
		cmocka_unit_test(test_scarce),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
