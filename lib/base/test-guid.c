#include "base/guid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* The synthetic network class as guest-side drivers spell it and as it travels. */
static const char network_text[] = "f8615163-df3e-46c5-913f-f2d2f965ed0e";
static const uint8_t network_wire[16] = { 0x63, 0x51, 0x61, 0xf8, 0x3e, 0xdf, 0xc5, 0x46,
					  0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e };

static void test_wire_order(void **state)
{
	static const struct guid constant =
	    GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91, 0x3f, 0xf2, 0xd2, 0xf9, 0x65, 0xed, 0x0e);
	struct guid guid;
	char text[GUID_TEXT_SIZE];

	assert_true(guid_parse(network_text, &guid));
	assert_memory_equal(guid.b, network_wire, 16);
	assert_true(guid_equal(&guid, &constant));
	assert_string_equal(guid_format(&guid, text), network_text);
	assert_true(guid_parse("{F8615163-DF3E-46C5-913F-F2D2F965ED0E}", &guid));
	assert_memory_equal(guid.b, network_wire, 16);
}

static void test_refuses_what_is_no_guid(void **state)
{
	static const char *const bad[] = { "",
					   "{",
					   "f8615163",
					   "f8615163-df3e-46c5-913f-f2d2f965ed0",
					   "f8615163-df3e-46c5-913f-f2d2f965ed0e0",
					   "{f8615163-df3e-46c5-913f-f2d2f965ed0e",
					   "f8615163-df3e-46c5-913f-f2d2f965ed0g",
					   "f8615163xdf3e-46c5-913f-f2d2f965ed0e" };
	struct guid guid;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(guid_parse(bad[i], &guid));
}

static void test_generated_are_version_4_and_differ(void **state)
{
	struct guid a, b;

	guid_generate(&a);
	guid_generate(&b);
	assert_false(guid_equal(&a, &b));
	assert_int_equal(a.b[7] >> 4, 4);
	assert_int_equal(a.b[8] >> 6, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_wire_order),
		cmocka_unit_test(test_refuses_what_is_no_guid),
		cmocka_unit_test(test_generated_are_version_4_and_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
