/* XML of version 5.0: types, encodings, damage. */
#include "import/vmxml.h"

#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char sample[] = "<?xml version=\"1.0\" encoding=\"UTF-16\" standalone=\"yes\"?>\r\n"
			     "<configuration>\r\n"
			     "  <properties>\r\n"
			     "    <name type=\"string\">a &amp; b</name>\r\n"
			     "    <version type=\"integer\">-1280</version>\r\n"
			     "    <empty type=\"string\"></empty>\r\n"
			     "    <none type=\"string\"/>\r\n"
			     "    <on type=\"bool\">True</on>\r\n"
			     "    <off type=\"bool\">False</off>\r\n"
			     "    <blob type=\"bytes\">AAEC\r\n/w==\r\n</blob>\r\n"
			     "  </properties>\r\n"
			     "  <twin><n type=\"integer\">1</n></twin>\r\n"
			     "  <twin><n type=\"integer\">2</n></twin>\r\n"
			     "</configuration>";

static void check(const uint8_t *data, size_t size)
{
	const struct key *configuration, *twin, *blob;
	struct error err = { 0 };
	struct key *root;

	if (vmxml_read(data, size, &root, &err) < 0)
		fail_msg("%s", err.text);
	configuration = key_find(root, "configuration");
	assert_string_equal(key_text(configuration, "properties/name", ""), "a & b");
	assert_int_equal(key_integer(configuration, "properties/version", 0), -1280);
	assert_string_equal(key_text(configuration, "properties/empty", "?"), "");
	assert_string_equal(key_text(configuration, "properties/none", "?"), "");
	assert_true(key_bool(configuration, "properties/on", false));
	assert_false(key_bool(configuration, "properties/off", true));
	blob = key_find(configuration, "properties/blob");
	assert_int_equal(blob->size, 4);
	assert_memory_equal(blob->bytes, "\0\1\2\xFF", 4);
	twin = key_child(configuration, "twin", key_child(configuration, "twin", NULL));
	assert_int_equal(key_integer(twin, "n", 0), 2);
	key_free(root);
}

/* Two bytes a character, the wanted end first, with or without a mark. */
static uint8_t *as_utf16(bool big, bool mark, size_t *ret_size)
{
	size_t length = strlen(sample), size = 0;
	uint8_t *data = malloc(2 * length + 2);

	if (mark) {
		data[size++] = big ? 0xFE : 0xFF;
		data[size++] = big ? 0xFF : 0xFE;
	}
	for (size_t i = 0; i < length; i++) {
		data[size++] = big ? 0 : (uint8_t)sample[i];
		data[size++] = big ? (uint8_t)sample[i] : 0;
	}
	*ret_size = size;
	return data;
}

static void test_encodings(void **state)
{
	check((const uint8_t *)sample, strlen(sample)); /* not what its declaration says */
	for (int i = 0; i < 4; i++) {
		size_t size;
		AUTO_FREE uint8_t *data = as_utf16(i & 1, i & 2, &size);

		check(data, size);
	}
}

static void test_damage(void **state)
{
	static const struct {
		const char *text, *says;
	} cases[] = {
		{ "", "no element" },
		{ "<a>", "no element" },
		{ "<a><b></a>", "mismatched" },
		{ "<a><n type=\"integer\">12x</n></a>", "not of its type" },
		{ "<a><n type=\"integer\">99999999999999999999</n></a>", "not of its type" },
		{ "<a><n type=\"bool\">maybe</n></a>", "not of its type" },
		{ "<a><n type=\"bytes\">A*</n></a>", "not of its type" },
		{ "<a><n type=\"object\"/></a>", "unknown type" },
		{ "<a><n type=\"string\">x<b/></n></a>", "inside a value" },
		{ "<!DOCTYPE a [<!ENTITY e \"x\">]><a>&e;</a>", "document type" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct error err = { 0 };
		struct key *root;
		int r =
		    vmxml_read((const uint8_t *)cases[i].text, strlen(cases[i].text), &root, &err);

		assert_int_equal(r, -ERR_CORRUPT);
		if (!strstr(err.text, cases[i].says))
			fail_msg("'%s' says: %s", cases[i].text, err.text);
	}
}

static void test_nesting_ends(void **state)
{
	char text[8 * KEY_MAX_DEPTH] = "";

	for (int i = 0; i < KEY_MAX_DEPTH + 1; i++)
		strcat(text, "<a>");
	assert_int_equal(
	    vmxml_read((const uint8_t *)text, strlen(text), &(struct key *){ 0 }, NULL),
	    -ERR_CORRUPT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_encodings),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_nesting_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
