/* The container: every kind of value, order, long values, the log, and damage. */
#include "import/test-vmcx-writer.h"
#include "import/vmcx.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct key *leaf(struct key *parent, const char *name, enum key_type type)
{
	struct key *key = key_new(name, type);

	key_append(parent, key);
	return key;
}

static struct key *node(struct key *parent, const char *name)
{
	return leaf(parent, name, KEY_NODE);
}

static void text(struct key *parent, const char *name, const char *value)
{
	leaf(parent, name, KEY_TEXT)->text = strdup(value);
}

/* Some hundred keys, so that there are several tables. */
static struct key *sample(void)
{
	struct key *root = key_new("", KEY_NODE), *configuration = node(root, "configuration");
	struct key *many = node(configuration, "many"), *bytes;
	char name[16];

	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "key%d", i);
		leaf(many, name, KEY_INTEGER)->integer = i * INT64_C(-1234567890123);
	}
	for (int i = 0; i < 3; i++)
		text(node(configuration, "twin"), "which",
		     i == 0   ? "one"
		     : i == 1 ? "two"
			      : "three");
	leaf(configuration, "yes", KEY_BOOL)->integer = 1;
	leaf(configuration, "real", KEY_REAL)->real = 2.5;
	bytes = leaf(configuration, "bytes", KEY_BYTES);
	bytes->size = 100;
	bytes->bytes = malloc(100);
	memset(bytes->bytes, 0x5A, 100);
	text(configuration, "empty", "");
	return root;
}

static uint8_t *sample_file(bool long_values, size_t *ret_size)
{
	struct key *root = sample();
	uint8_t *file = vmcx_write(root, long_values, ret_size);

	key_free(root);
	return file;
}

static void check_sample(const uint8_t *file, size_t size)
{
	const struct key *configuration, *twin, *bytes;
	struct error err = { 0 };
	struct key *root;
	char name[32];

	if (vmcx_read(file, size, &root, &err) < 0)
		fail_msg("%s", err.text);
	configuration = key_find(root, "Configuration");
	assert_non_null(configuration);
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "many/key%d", i);
		assert_int_equal(key_integer(configuration, name, 1), i * INT64_C(-1234567890123));
	}
	twin = key_child(configuration, "twin", NULL);
	assert_string_equal(key_text(twin, "which", ""), "one");
	twin = key_child(configuration, "twin", twin);
	assert_string_equal(key_text(twin, "which", ""), "two");
	twin = key_child(configuration, "twin", twin);
	assert_string_equal(key_text(twin, "which", ""), "three");
	assert_null(key_child(configuration, "twin", twin));
	assert_true(key_bool(configuration, "yes", false));
	assert_true(key_find(configuration, "real")->real == 2.5);
	bytes = key_find(configuration, "bytes");
	assert_int_equal(bytes->size, 100);
	assert_int_equal(bytes->bytes[99], 0x5A);
	assert_string_equal(key_text(configuration, "empty", "?"), "");
	assert_string_equal(key_text(configuration, "not/there", "?"), "?");
	key_free(root);
}

static void test_values(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);

	assert_true(vmcx_probe(file, size));
	check_sample(file, size);
}

static void test_long_values(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(true, &size);

	check_sample(file, size);
}

static void test_one_header_is_enough(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);

	memset(file, 0, 46);
	check_sample(file, size);
	memset(file + 4096, 0, 46);
	assert_int_equal(vmcx_read(file, size, &(struct key *){ 0 }, NULL), -ERR_CORRUPT);
}

/* What the log says counts, once it is whole. */
static void test_log_is_replayed(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);
	uint8_t page[VMCX_WRITER_PAGE];

	memcpy(page, file + VMCX_WRITER_FIRST_KEYS, sizeof(page));
	vmcx_write_log(file, VMCX_WRITER_FIRST_KEYS, page, sizeof(page));
	memset(file + VMCX_WRITER_FIRST_KEYS, 0xFF, sizeof(page));
	check_sample(file, size);
}

static void test_unfinished_log_is_ignored(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);
	uint8_t page[VMCX_WRITER_PAGE] = { 1, 2, 3 };

	vmcx_write_log(file, VMCX_WRITER_FIRST_KEYS, page, sizeof(page));
	file[VMCX_WRITER_LOG_OFFSET + 4096] ^= 1; /* the data is not all there */
	check_sample(file, size);
}

/* A newer table of the same index replaces the older one, wherever it stands. */
static void test_newer_table_wins(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);
	AUTO_FREE uint8_t *longer = calloc(1, size + VMCX_WRITER_PAGE);
	uint8_t *object = longer + 8192 + 8 + 226 * 18, *stale = longer + size;

	memcpy(longer, file, size);
	memset(stale, 0xEE, VMCX_WRITER_PAGE);
	store_le16(stale, 2);
	store_le16(stale + 2, 1);
	store_le16(stale + 4, 0); /* the live one has 1 */
	vmcx_seal(stale, 10, 6);
	object[0] = 2;
	store_le64(object + 5, size);
	store_le32(object + 13, VMCX_WRITER_PAGE);
	vmcx_seal(object, 18, 1);
	check_sample(longer, size + VMCX_WRITER_PAGE);
}

static uint8_t *entry(uint8_t *file, unsigned n)
{
	uint8_t *e = file + VMCX_WRITER_FIRST_KEYS + 10;

	while (n--)
		e += load_le32(e + 2);
	return e;
}

static void seal_entry(uint8_t *e, size_t value_bytes)
{
	vmcx_seal(e, 21 + e[20] + value_bytes, 12);
}

static void test_a_key_that_is_its_own_parent(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);
	uint8_t *e = entry(file, 1);
	struct error err;
	struct key *root;

	store_le16(e + 6, 1);
	store_le32(e + 8, (uint32_t)(e - file - VMCX_WRITER_FIRST_KEYS));
	seal_entry(e, 12);
	assert_int_equal(vmcx_read(file, size, &root, &err), -ERR_CORRUPT);
	assert_non_null(strstr(err.text, "hangs on no other key"));
}

static void test_nesting_ends(void **state)
{
	struct key *root = key_new("", KEY_NODE), *key = root;
	struct error err;
	size_t size;
	uint8_t *file;

	for (int i = 0; i < KEY_MAX_DEPTH + 1; i++)
		key = node(key, "deeper");
	file = vmcx_write(root, false, &size);
	key_free(root);
	assert_int_equal(vmcx_read(file, size, &root, &err), -ERR_LIMIT);
	free(file);
}

/* No byte of the structures can change unnoticed, except in what is documented as slack. */
static void test_every_damage_is_found(void **state)
{
	size_t size, missed = 0;
	AUTO_FREE uint8_t *file = sample_file(false, &size);
	uint8_t *end = entry(file, 20);
	struct error err;
	struct key *root;

	for (uint8_t *p = file + VMCX_WRITER_FIRST_KEYS; p < end; p++) {
		*p ^= 0x10;
		if (vmcx_read(file, size, &root, &err) == 0) {
			missed++;
			key_free(root);
		}
		*p ^= 0x10;
	}
	assert_int_equal(missed, 20 * 12); /* the slack behind each value */
}

static void test_truncation(void **state)
{
	size_t size;
	AUTO_FREE uint8_t *file = sample_file(false, &size);
	struct key *root;

	for (size_t cut = 0; cut < size; cut += 511) {
		AUTO_FREE uint8_t *part = malloc(cut ? cut : 1);

		memcpy(part, file, cut);
		assert_true(vmcx_read(part, cut, &root, NULL) < 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_long_values),
		cmocka_unit_test(test_one_header_is_enough),
		cmocka_unit_test(test_log_is_replayed),
		cmocka_unit_test(test_unfinished_log_is_ignored),
		cmocka_unit_test(test_newer_table_wins),
		cmocka_unit_test(test_a_key_that_is_its_own_parent),
		cmocka_unit_test(test_nesting_ends),
		cmocka_unit_test(test_every_damage_is_found),
		cmocka_unit_test(test_truncation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
