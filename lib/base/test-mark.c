#include "base/mark.h"

#include "base/macros.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/test-mark-XXXXXX";
static int folder_fd;

/* The other side's own opening of the file, as a message brings it: a lock belongs to it. */
static int theirs(void)
{
	int fd = openat(folder_fd, "mark", O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void make(void)
{
	int fd;

	unlinkat(folder_fd, "mark", 0);
	fd = mark_make(folder_fd, "mark", NULL);
	assert_true(fd >= 0);
	close(fd);
}

static void test_passed(void **state)
{
	int fd;

	make();
	fd = theirs();
	assert_int_equal(mark_hold(fd, NULL), 0);
	assert_int_equal(mark_set(fd, NULL), 0);
	close(fd);
	assert_true(mark_close(folder_fd, "mark"));
	assert_true(mark_close(folder_fd, "mark")); /* as often as is asked */
}

static void test_closed(void **state)
{
	struct error err;
	int fd;

	make();
	fd = theirs();
	assert_false(mark_close(folder_fd, "mark"));
	assert_int_equal(mark_hold(fd, &err), -ERR_CANCELLED);
	assert_false(mark_close(folder_fd, "mark"));
	close(fd);
}

static void *close_it(void *user)
{
	return mark_close(folder_fd, "mark") ? user : NULL;
}

/* Who closes waits for who holds, and sees what came of it. */
static void test_held(void **state)
{
	for (int set = 0; set < 2; set++) {
		pthread_t thread;
		void *passed;
		int fd;

		make();
		fd = theirs();
		assert_int_equal(mark_hold(fd, NULL), 0);
		assert_int_equal(pthread_create(&thread, NULL, close_it, folder), 0);
		usleep(10000);
		if (set)
			assert_int_equal(mark_set(fd, NULL), 0);
		else
			mark_let_go(fd);
		pthread_join(thread, &passed);
		assert_int_equal(passed != NULL, set != 0);
		assert_int_equal(mark_hold(fd, NULL), set ? 0 : -(int)ERR_CANCELLED);
		close(fd);
	}
}

static int set_up(void **state)
{
	if (!mkdtemp(folder))
		return -1;
	folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return folder_fd < 0 ? -1 : 0;
}

static int tear_down(void **state)
{
	unlinkat(folder_fd, "mark", 0);
	close(folder_fd);
	return rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_passed),
		cmocka_unit_test(test_closed),
		cmocka_unit_test(test_held),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
