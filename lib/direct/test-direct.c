#include "direct/direct.h"
#include "direct/listing.h"

#include <fcntl.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

struct pair {
	int here, there;
	struct direct_reader reader;
};

static int setup(void **state)
{
	static struct pair pair;
	int fds[2];

	pair = (struct pair){ 0 };
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	pair.here = fds[0];
	pair.there = fds[1];
	fcntl(pair.there, F_SETFL, O_NONBLOCK);
	*state = &pair;
	return 0;
}

static int teardown(void **state)
{
	struct pair *pair = *state;

	close(pair->here);
	close(pair->there);
	return 0;
}

static void test_frames(void **state)
{
	struct pair *pair = *state;
	uint8_t data[DIRECT_FRAME_MAX];
	struct direct_frame frame;

	memset(data, 5, sizeof(data));
	assert_true(direct_send_text(pair->here, DIRECT_USER, "root"));
	assert_true(direct_send(pair->here, DIRECT_INPUT, NULL, 0));
	assert_true(direct_send(pair->here, DIRECT_INPUT, data, sizeof(data)));
	assert_int_equal(direct_receive(&pair->reader, pair->there), 1);
	assert_int_equal(direct_next(&pair->reader, &frame), 1);
	assert_int_equal(frame.type, DIRECT_USER);
	assert_memory_equal(frame.data, "root", 4);
	assert_int_equal(direct_next(&pair->reader, &frame), 1);
	assert_int_equal(frame.len, 0);
	while (direct_next(&pair->reader, &frame) == 0)
		assert_int_equal(direct_receive(&pair->reader, pair->there), 1);
	assert_int_equal(frame.len, sizeof(data));
	assert_memory_equal(frame.data, data, sizeof(data));
	assert_int_equal(direct_receive(&pair->reader, pair->there), -1);
	assert_int_equal(errno, EAGAIN);
	shutdown(pair->here, SHUT_WR);
	assert_int_equal(direct_receive(&pair->reader, pair->there), 0);
}

static void test_byte_by_byte(void **state)
{
	struct pair *pair = *state;
	const uint8_t bytes[] = { 'o', 0, 0, 0, 3, 0, 0, 0, 'a', 'b', 'c' };
	struct direct_frame frame;

	for (size_t i = 0; i < sizeof(bytes); i++) {
		assert_int_equal(direct_next(&pair->reader, &frame), 0);
		assert_int_equal(write(pair->here, bytes + i, 1), 1);
		assert_int_equal(direct_receive(&pair->reader, pair->there), 1);
	}
	assert_int_equal(direct_next(&pair->reader, &frame), 1);
	assert_memory_equal(frame.data, "abc", 3);
}

static void test_what_is_no_frame(void **state)
{
	struct pair *pair = *state;
	struct direct_header header = { .type = 'o', .len = DIRECT_FRAME_MAX + 1 };
	struct direct_frame frame;
	char much[DIRECT_FRAME_MAX + 1] = "";

	assert_int_equal(write(pair->here, &header, sizeof(header)), sizeof(header));
	assert_int_equal(direct_receive(&pair->reader, pair->there), 1);
	assert_int_equal(direct_next(&pair->reader, &frame), -1);
	assert_false(direct_send(pair->here, DIRECT_INPUT, much, sizeof(much)));
	close(pair->there);
	assert_false(direct_send(pair->here, DIRECT_INPUT, much, 1));
	pair->there = -1;
}

static void test_a_listing(void **state)
{
	char text[] = "d 4096 1700000000.0000000000 \0"
		      "f 12 1700000001.1234567890 a b/..c\0"
		      "l 3 0.0000000010 x";
	char *at = text, *end = text + sizeof(text);
	struct direct_item item;

	assert_int_equal(direct_listing_next(&at, end, &item), 1);
	assert_int_equal(item.type, 'd');
	assert_string_equal(item.path, "");
	assert_int_equal(direct_listing_next(&at, end, &item), 1);
	assert_int_equal(item.size, 12);
	assert_int_equal(item.modified.tv_sec, 1700000001);
	assert_int_equal(item.modified.tv_nsec, 123456789);
	assert_string_equal(item.path, "a b/..c");
	assert_int_equal(direct_listing_next(&at, end, &item), 1);
	assert_int_equal(item.type, 'l');
	assert_int_equal(item.modified.tv_nsec, 1);
	assert_int_equal(direct_listing_next(&at, end, &item), 0);
}

static void test_what_is_no_listing(void **state)
{
	static const char *const bad[] = {
		"f 1 1.0000000000 /etc/passwd",
		"f 1 1.0000000000 ../x",
		"f 1 1.0000000000 a/../../x",
		"f 1 1.0000000000 a/..",
		"f 1 1.0000000000 a//b",
		"f 1 1.0000000000 ./a",
		"f 1 1.0000000000 a/",
		"f -1 1.0000000000 a",
		"f 99999999999999999999 1.0000000000 a",
		"f 1 1.5 a",
		"f 1 1 a",
		"f 1",
		"f",
		"",
	};
	struct direct_item item;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		char text[100], *at = text;

		strcpy(text, bad[i]);
		if (direct_listing_next(&at, text + strlen(text) + 1, &item) != -1)
			fail_msg("'%s' is taken", bad[i]);
	}
	/* The end is missing. */
	char cut[] = "f 1 1.0000000000 a", *at = cut;

	assert_int_equal(direct_listing_next(&at, cut + strlen(cut), &item), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_frames),
		TEST(test_byte_by_byte),
		TEST(test_what_is_no_frame),
		cmocka_unit_test(test_a_listing),
		cmocka_unit_test(test_what_is_no_listing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
