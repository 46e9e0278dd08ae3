#include "state/check-state.h"
#include "state/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct point {
	uint32_t x;
	int64_t y[2];
	bool seen;
	uint8_t reserved[3];
};

static const struct state_field point_fields[] = {
	STATE(1, struct point, x, .max = 1000),
	STATE(2, struct point, y),
	STATE(3, struct point, seen),
	STATE(4, struct point, reserved),
	STATE_END,
};
static const struct state_desc point_desc = { "point", sizeof(struct point), point_fields, NULL };

struct device {
	uint64_t since_ns;
	uint16_t reload[3];
	struct point corner[2];
	struct point *path;
	uint32_t path_count;
	uint32_t number_count;
	uint64_t *numbers;
	uint8_t added;
};

static const char *device_check(const void *state)
{
	const struct device *d = state;

	return d->reload[0] == 13 ? "13 is unlucky" : NULL;
}

#define DEVICE_FIELDS                                                                              \
	STATE(1, struct device, since_ns, .clock = true), STATE(2, struct device, reload),         \
	    STATE_PART(3, struct device, corner, 2, point_desc),                                   \
	    STATE_LIST_OF(4, struct device, path, path_count, 100, point_desc),                    \
	    STATE_LIST(5, struct device, numbers, number_count, 100)

static const struct state_field device_fields[] = {
	DEVICE_FIELDS, STATE(6, struct device, added, .since = 0x0101, .dflt = 7), STATE_END
};
static const struct state_field newer_fields[] = { DEVICE_FIELDS, STATE(6, struct device, added),
						   STATE_END };
static const struct state_field optional_fields[] = {
	DEVICE_FIELDS, STATE(6, struct device, added, .optional = true), STATE_END
};
static const struct state_field older_fields[] = { DEVICE_FIELDS, STATE_END };
static const struct state_desc device_desc = { "device", sizeof(struct device), device_fields,
					       device_check };
static const struct state_desc newer_desc = { "device", sizeof(struct device), newer_fields, NULL };
static const struct state_desc optional_desc = { "device", sizeof(struct device), optional_fields,
						 NULL };
static const struct state_desc older_desc = { "device", sizeof(struct device), older_fields, NULL };

static struct point path[3] = { { 1, { -1, 2 } }, { 2, { 3, -4 } }, { 1000, { 5, 6 }, true } };
static uint64_t numbers[2] = { 1, UINT64_MAX };

static struct device sample(void)
{
	return (struct device){ .since_ns = 900,
				.reload = { 1, 2, 0xffff },
				.corner = { { 4, { 5, 6 }, true }, { 7, { 8, 9 } } },
				.path = path,
				.path_count = 3,
				.numbers = numbers,
				.number_count = 2,
				.added = 3 };
}

struct saved {
	struct state_out *out;
	const uint8_t *bytes;
	size_t size;
};

static struct saved save(const struct state_desc *desc, const struct device *device)
{
	struct saved saved = { .out = state_out_new(1000) };

	state_put(saved.out, desc, NULL, device);
	assert_int_equal(state_out_bytes(saved.out, &saved.bytes, &saved.size, NULL), 0);
	return saved;
}

static int restore(const struct saved *saved, const struct state_desc *desc, struct device *ret,
		   struct error *err)
{
	struct state_in *in;
	int rc = state_in_new(saved->bytes, saved->size, 5000, &in, err);

	if (rc < 0)
		return rc;
	rc = state_get(in, desc, NULL, ret, err);
	state_in_free(in);
	return rc;
}

static void test_round_trip(void **unused)
{
	struct device device = sample(), back;
	struct saved saved = save(&newer_desc, &device);

	assert_int_equal(restore(&saved, &newer_desc, &back, NULL), 0);
	/* As long ago as it was then. */
	assert_int_equal(back.since_ns, 4900);
	assert_memory_equal(back.reload, device.reload, sizeof(back.reload));
	assert_memory_equal(back.corner, device.corner, sizeof(back.corner));
	assert_int_equal(back.path_count, 3);
	assert_memory_equal(back.path, path, sizeof(path));
	assert_int_equal(back.number_count, 2);
	assert_memory_equal(back.numbers, numbers, sizeof(numbers));
	assert_int_equal(back.added, 3);
	state_clear(&newer_desc, &back);
	assert_null(back.path);
	assert_int_equal(back.path_count, 0);
	state_out_free(saved.out);
}

static void expect_refusal(const struct state_desc *from, const struct device *device,
			   const struct state_desc *to, const char *text)
{
	struct saved saved = save(from, device);
	struct device back;
	struct error err;

	assert_true(restore(&saved, to, &back, &err) < 0);
	if (!strstr(err.text, text))
		fail_msg("'%s' is not in '%s'", text, err.text);
	state_out_free(saved.out);
}

static void test_refusals(void **unused)
{
	struct device device = sample();

	expect_refusal(&older_desc, &device, &newer_desc, "field 'added': it is missing");
	expect_refusal(&newer_desc, &device, &older_desc, "'added' (6 of 'device') is not known");
	path[0].x = 1001;
	expect_refusal(&newer_desc, &device, &newer_desc, "field 'x': 1001 is more than 1000");
	path[0].x = 1;
	device.reload[0] = 13;
	expect_refusal(&newer_desc, &device, &device_desc, "13 is unlucky");
}

static void test_versions(void **unused)
{
	struct device device = sample(), back;
	struct saved saved = save(&older_desc, &device);

	/* A field that came later has its default. */
	assert_int_equal(restore(&saved, &device_desc, &back, NULL), 0);
	assert_int_equal(back.added, 7);
	state_clear(&device_desc, &back);
	state_out_free(saved.out);
	/* One that may be done without is skipped. */
	saved = save(&optional_desc, &device);
	assert_int_equal(restore(&saved, &older_desc, &back, NULL), 0);
	state_clear(&older_desc, &back);
	state_out_free(saved.out);
}

static void test_objects(void **unused)
{
	struct state_out *out = state_out_new(0);
	struct point a = { 1, { 2, 3 }, true }, back;
	const uint8_t *bytes;
	struct state_in *in;
	struct error err;
	size_t size;

	state_put(out, &point_desc, "left", &a);
	a.x = 2;
	state_put(out, &point_desc, "right", &a);
	assert_int_equal(state_out_bytes(out, &bytes, &size, NULL), 0);
	assert_int_equal(state_in_new(bytes, size, 0, &in, NULL), 0);
	assert_true(state_has(in, "point", "left"));
	assert_false(state_has(in, "point", NULL));
	assert_int_equal(state_get(in, &point_desc, "right", &back, NULL), 0);
	assert_int_equal(back.x, 2);
	assert_true(state_in_finish(in, &err) < 0);
	assert_non_null(strstr(err.text, "'point' left"));
	assert_true(state_get(in, &point_desc, "middle", &back, &err) < 0);
	assert_non_null(strstr(err.text, "has no 'point' middle"));
	assert_int_equal(state_get(in, &point_desc, "left", &back, NULL), 0);
	assert_int_equal(state_in_finish(in, NULL), 0);
	state_in_free(in);
	state_out_free(out);
}

/* Every prefix, and every byte changed: refused or taken, and nothing else. */
static void test_damage(void **unused)
{
	struct device device = sample(), back;
	struct saved saved = save(&newer_desc, &device);
	uint8_t *copy = malloc(saved.size);
	struct saved damaged = { NULL, copy, saved.size };

	for (size_t i = 0; i < saved.size; i++) {
		memcpy(copy, saved.bytes, saved.size);
		damaged.size = i;
		assert_true(restore(&damaged, &newer_desc, &back, NULL) < 0);
		damaged.size = saved.size;
		copy[i] ^= 0x81;
		if (restore(&damaged, &newer_desc, &back, NULL) == 0)
			state_clear(&newer_desc, &back);
	}
	free(copy);
	state_out_free(saved.out);
}

static void test_show(void **unused)
{
	struct device device = sample();
	struct saved saved = save(&newer_desc, &device);
	char *text = NULL;
	size_t len;
	FILE *to = open_memstream(&text, &len);

	assert_int_equal(state_show(saved.bytes, saved.size, to, NULL), 0);
	fclose(to);
	assert_non_null(strstr(text, "device\n"));
	assert_non_null(strstr(text, "since_ns: -100\n"));
	assert_non_null(strstr(text, "path: 3\n"));
	free(text);
	state_out_free(saved.out);
}

static void test_tables(void **unused)
{
	STATE_CHECK(struct point, point_desc);
	STATE_CHECK(struct device, newer_desc);
	STATE_CHECK(struct device, device_desc);
}

/* ---- the file ---- */

#define RAM_BYTES (3 * 4096u)

static void test_file(void **unused)
{
	uint8_t ram[RAM_BYTES] = { 0 }, back[RAM_BYTES] = { 0 }, *stream;
	FILE *temporary = tmpfile();
	int fd = fileno(temporary);
	struct state_file file;
	struct error err;

	memset(ram + 4096, 0x5a, 4096);
	assert_true(state_file_open(fd, &file, &err) < 0);
	assert_int_equal(pwrite(fd, ram + 4096, 4096, STATE_FILE_RAM + 4096), 4096);
	assert_true(state_file_open(fd, &file, &err) < 0);
	assert_int_equal(state_file_finish(fd, RAM_BYTES, (const uint8_t *)"hello", 5, &err), 0);
	assert_int_equal(state_file_open(fd, &file, &err), 0);
	assert_int_equal(file.ram_bytes, RAM_BYTES);
	assert_int_equal(state_file_read_ram(fd, &file, back, &err), 0);
	assert_memory_equal(back, ram, RAM_BYTES);
	assert_int_equal(state_file_read_stream(fd, &file, &stream, &err), 0);
	assert_memory_equal(stream, "hello", 5);
	free(stream);
	/* Damage is noticed. */
	assert_int_equal(pwrite(fd, "H", 1, STATE_FILE_RAM + RAM_BYTES), 1);
	assert_int_equal(state_file_read_stream(fd, &file, &stream, &err), -ERR_CORRUPT);
	assert_int_equal(pwrite(fd, "H", 1, 20), 1);
	assert_int_equal(state_file_open(fd, &file, &err), -ERR_CORRUPT);
	fclose(temporary);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_versions),   cmocka_unit_test(test_objects),
		cmocka_unit_test(test_damage),     cmocka_unit_test(test_show),
		cmocka_unit_test(test_tables),     cmocka_unit_test(test_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
