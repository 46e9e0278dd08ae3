#include "mem/mem.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <string.h>

#include <cmocka.h>

static void test_layout_has_the_hole(void **state)
{
	struct mem *mem;
	struct mem_range ranges[2];
	uint64_t high = 64 * MIB;

	assert_int_equal(mem_new(MEM_LOW_TOP + high, &mem, NULL), 0);
	assert_int_equal(mem_ranges(mem, ranges), 2);
	assert_int_equal(ranges[0].size_bytes, MEM_LOW_TOP);
	assert_int_equal(ranges[1].gpa, MEM_HIGH_BASE);
	assert_int_equal(mem_top_gpa(mem), MEM_HIGH_BASE + high);
	assert_non_null(mem_ptr(mem, MEM_LOW_TOP - 8, 8));
	assert_null(mem_ptr(mem, MEM_LOW_TOP - 8, 9));
	assert_null(mem_ptr(mem, MEM_LOW_TOP, 1));
	assert_null(mem_ptr(mem, MEM_HIGH_BASE - 1, 2));
	assert_non_null(mem_ptr(mem, MEM_HIGH_BASE + high - 1, 1));
	assert_null(mem_ptr(mem, MEM_HIGH_BASE + high - 1, 2));
	assert_null(mem_ptr(mem, UINT64_MAX, 2));
	assert_null(mem_ptr(mem, 8, UINT64_MAX));
	mem_free(mem);
}

static void test_read_write_clear(void **state)
{
	struct mem *mem;
	uint32_t value = 0xdeadbeef, got = 0;

	assert_int_equal(mem_new(2 * MIB, &mem, NULL), 0);
	assert_true(mem_write(mem, 2 * MIB - 4, &value, 4));
	assert_false(mem_write(mem, 2 * MIB - 3, &value, 4));
	assert_true(mem_read(mem, 2 * MIB - 4, &got, 4));
	assert_int_equal(got, value);
	mem_clear(mem);
	assert_true(mem_read(mem, 2 * MIB - 4, &got, 4));
	assert_int_equal(got, 0);
	mem_free(mem);
}

struct hook_call {
	unsigned count;
	uint64_t gpa, len;
};

/* Large pages of what is looked up often: contents stay, and what isn't there costs nothing. */
static void test_lookups_cost_no_memory(void **state)
{
	const uint64_t large = 2u << 20, pages = large / MEM_PAGE_SIZE;
	uint8_t *whole, *part;
	struct mem *mem;
	uint64_t backed;

	assert_int_equal(mem_new(7u << 20, &mem, NULL), 0);
	whole = mem_ptr(mem, large, large);
	part = mem_ptr(mem, 2 * large, large);
	for (uint64_t i = 0; i < large; i += MEM_PAGE_SIZE)
		whole[i] = (uint8_t)(i / MEM_PAGE_SIZE % 251);
	part[5] = 1;
	backed = mem_backed_bytes(mem);
	for (unsigned n = 0; n < 3000; n++) {
		mem_looked_up(mem, pages + n % pages);
		mem_looked_up(mem, 2 * pages);
		mem_looked_up(mem, (7u << 20) / MEM_PAGE_SIZE - 1); /* no whole one */
	}
	assert_int_equal(mem_backed_bytes(mem), backed);
	for (uint64_t i = 0; i < large; i += MEM_PAGE_SIZE)
		assert_int_equal(whole[i], i / MEM_PAGE_SIZE % 251);
	mem_release(mem, large + MEM_PAGE_SIZE, MEM_PAGE_SIZE);
	assert_int_equal(whole[MEM_PAGE_SIZE], 0);
	assert_int_equal(whole[2 * MEM_PAGE_SIZE], 2);
	mem_release(mem, large, large);
	assert_true(mem_backed_bytes(mem) <= backed - large);
	mem_free(mem);
}

/* Where something was touched, and not where the guest did without pages. */
static void test_touched_is_enlarged(void **state)
{
	const uint64_t large = 2u << 20;
	uint64_t backed;
	struct mem *mem;
	uint8_t *ram;

	assert_int_equal(mem_new(11u << 20, &mem, NULL), 0);
	ram = mem_ptr(mem, 0, 11u << 20);
	assert_int_equal(mem_enlarge_touched(mem), 0);
	assert_int_equal(mem_backed_bytes(mem), 0);
	ram[large + 12345] = 1;
	ram[3 * large] = 3;
	ram[11 * MIB - 1] = 5; /* in no whole one */
	assert_int_equal(mem_enlarge_touched(mem), 2);
	assert_int_equal(mem_enlarge_touched(mem), 0);
	backed = mem_backed_bytes(mem);
	if (backed == 3 * MEM_PAGE_SIZE)
		print_message("no large pages here (before Linux 6.1)\n");
	else
		assert_int_equal(backed, 2 * large + MEM_PAGE_SIZE);
	assert_int_equal(ram[large + 12345], 1);
	assert_int_equal(ram[3 * large], 3);

	mem_release(mem, large + MEM_PAGE_SIZE, 2 * MEM_PAGE_SIZE);
	mem_release(mem, 2 * large, large);
	ram[2 * large] = 1;
	backed = mem_backed_bytes(mem);
	assert_int_equal(mem_enlarge_touched(mem), 0);
	assert_int_equal(mem_backed_bytes(mem), backed);
	ram[large + MEM_PAGE_SIZE] = ram[large + 2 * MEM_PAGE_SIZE] = 1;
	if (backed > 2 * large) /* whole again */
		assert_int_equal(mem_enlarge_touched(mem), 1);

	mem_clear(mem);
	ram[2 * large] = 1;
	assert_int_equal(mem_enlarge_touched(mem), 1);
	mem_free(mem);
}

static void hook(void *user, uint64_t gpa, uint64_t len)
{
	struct hook_call *call = user;

	*call = (struct hook_call){ call->count + 1, gpa, len };
}

static void test_code_hook_only_for_code_pages(void **state)
{
	struct mem *mem;
	struct hook_call call = { 0 };

	mem_new(MIB, &mem, NULL);
	mem_set_code_hook(mem, hook, &call);
	mem_page_flags(mem)[3] = MEM_PAGE_CODE;
	mem_written(mem, 0x2000, 0x1000);
	mem_written(mem, 0x4000, 1);
	assert_int_equal(call.count, 0);
	mem_written(mem, 0x2fff, 2);
	assert_int_equal(call.count, 1);
	assert_int_equal(call.gpa, 0x2fff);
	assert_int_equal(call.len, 2);
	mem_free(mem);
}

static void test_dirty_log(void **state)
{
	struct mem *mem;
	uint64_t bitmap[4] = { 0 };

	mem_new(MIB, &mem, NULL);
	mem_written(mem, 0, 1);
	mem_dirty_log_start(mem);
	mem_written(mem, 0x1fff, 2);
	mem_written(mem, 0xff000, 0x1000);
	mem_dirty_log_take(mem, bitmap);
	assert_int_equal(bitmap[0], BIT(1) | BIT(2));
	assert_int_equal(bitmap[3], BIT(63));
	memset(bitmap, 0, sizeof(bitmap));
	mem_dirty_log_take(mem, bitmap);
	assert_int_equal(bitmap[0] | bitmap[3], 0);
	mem_written(mem, 0x1000, 1);
	mem_dirty_log_take(mem, bitmap);
	assert_int_equal(bitmap[0], BIT(1));
	mem_dirty_log_stop(mem);
	assert_int_equal(mem_page_flags(mem)[1], 0);
	mem_free(mem);
}

/*
 * Writers count in pages of their own and, two of them, in the halves of shared ones, while a taker
 * copies what the log says, as a live save does. Once all stand still and the rest is copied, the
 * copy is the memory.
 */
#define LOGGED_PAGES 8u
#define LOG_ROUNDS   20000u

struct log_writer {
	struct mem *mem;
	unsigned half;
	bool stop;
};

static void *write_logged(void *user)
{
	struct log_writer *w = user;

	for (uint64_t n = 1; !__atomic_load_n(&w->stop, __ATOMIC_RELAXED); n++) {
		uint64_t gpa = n % LOGGED_PAGES * MEM_PAGE_SIZE + w->half * MEM_PAGE_SIZE / 2;

		__atomic_store_n((uint64_t *)mem_ptr(w->mem, gpa, 8), n, __ATOMIC_RELAXED);
		mem_written(w->mem, gpa, 8);
	}
	return NULL;
}

static void copy_logged(struct mem *mem, uint8_t *copy)
{
	uint64_t bitmap[4] = { 0 };

	mem_dirty_log_take(mem, bitmap);
	for (unsigned page = 0; page < LOGGED_PAGES; page++)
		if (bitmap[0] & BIT(page))
			mem_read(mem, page * MEM_PAGE_SIZE, copy + page * MEM_PAGE_SIZE,
				 MEM_PAGE_SIZE);
}

static void test_dirty_log_misses_no_write(void **state)
{
	static uint8_t copy[LOGGED_PAGES * MEM_PAGE_SIZE];
	struct log_writer writers[2];
	pthread_t threads[2];
	struct mem *mem;

	mem_new(MIB, &mem, NULL);
	mem_dirty_log_start(mem);
	for (unsigned i = 0; i < 2; i++) {
		writers[i] = (struct log_writer){ .mem = mem, .half = i };
		assert_int_equal(pthread_create(&threads[i], NULL, write_logged, &writers[i]), 0);
	}
	for (unsigned round = 0; round < LOG_ROUNDS; round++)
		copy_logged(mem, copy);
	for (unsigned i = 0; i < 2; i++) {
		__atomic_store_n(&writers[i].stop, true, __ATOMIC_RELAXED);
		pthread_join(threads[i], NULL);
	}
	copy_logged(mem, copy);
	assert_memory_equal(copy, mem_ptr(mem, 0, sizeof(copy)), sizeof(copy));
	mem_dirty_log_stop(mem);
	mem_free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layout_has_the_hole),
		cmocka_unit_test(test_read_write_clear),
		cmocka_unit_test(test_lookups_cost_no_memory),
		cmocka_unit_test(test_touched_is_enlarged),
		cmocka_unit_test(test_code_hook_only_for_code_pages),
		cmocka_unit_test(test_dirty_log),
		cmocka_unit_test(test_dirty_log_misses_no_write),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
