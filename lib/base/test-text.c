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

static void expect_folder(const char *path, const char *folder)
{
	char *text = text_folder(path);

	assert_string_equal(text, folder);
	free(text);
}

static void test_folder(void **state)
{
	expect_folder("/a/b/c", "/a/b");
	expect_folder("/a/b//", "/a");
	expect_folder("/a", "/");
	expect_folder("/", "/");
	expect_folder("a", ".");
}

static void expect_mended(const char *text, const char *mended)
{
	char *copy = text_format("%s", text);

	text_mend(copy);
	assert_string_equal(copy, mended);
	free(copy);
}

static void test_mend(void **state)
{
	expect_mended("", "");
	expect_mended("plain", "plain");
	expect_mended("\xe8\xa6\xaa\xe5\xad\x90 \xf0\x9f\x98\x80 \xc3\xa9",
		      "\xe8\xa6\xaa\xe5\xad\x90 \xf0\x9f\x98\x80 \xc3\xa9");
	/* Cut behind one, two, three bytes. */
	expect_mended("a\xc3", "a");
	expect_mended("a\xe8\xa6", "a");
	expect_mended("a\xf0\x9f\x98", "a");
	expect_mended("\xe8", "");
	/* No characters: a byte of another encoding, overlong, a surrogate, beyond the last one. */
	expect_mended("a\xe9z", "a?z");
	expect_mended("\xa9", "?");
	expect_mended("\xc0\x80z", "??z");
	expect_mended("\xe0\x80\x80z", "???z");
	expect_mended("\xed\xa0\x80z", "???z");
	expect_mended("\xf4\x90\x80\x80z", "????z");
	expect_mended("\xf5\x80\x80\x80z", "????z");
	expect_mended("\xff\xfe", "??");
	expect_mended("\xe8\xa6z\xc3", "??z");
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_addresses),
					    cmocka_unit_test(test_mend),
					    cmocka_unit_test(test_format),
					    cmocka_unit_test(test_folder) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
