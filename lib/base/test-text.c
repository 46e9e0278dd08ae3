#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect(const char *text, const char *host, const char *port)
{
	char *its_host, *its_port;

	text_split_address(text, &its_host, &its_port);
	assert_string_equal(its_host, host);
	if (port)
		assert_string_equal(its_port, port);
	else
		assert_null(its_port);
	free(its_host);
	free(its_port);
}

static void test_addresses(void **state)
{
	expect("host", "host", NULL);
	expect("host:2180", "host", "2180");
	expect(":2180", "", "2180");
	expect("10.0.0.1:1", "10.0.0.1", "1");
	expect("::1", "::1", NULL);
	expect("[::1]", "::1", NULL);
	expect("[::1]:2180", "::1", "2180");
	expect("host:", "host", "");
	expect("", "", NULL);
	expect("]", "]", NULL);
	expect("[", "[", NULL);
	expect("[]:", "", "");
	expect("a]b:c", "a]b", "c");
	expect("[a:1", "[a", "1");
}

static void test_format(void **state)
{
	char *text = text_format("%s %d", "a", 5);

	assert_string_equal(text, "a 5");
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_addresses),
					    cmocka_unit_test(test_format) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
