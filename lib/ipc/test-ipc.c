#include "ipc/ipc.h"

#include "base/macros.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void make_pair(int pair[2])
{
	assert_int_equal(
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
}

static unsigned open_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void test_message_with_descriptors(void **state)
{
	int pair[2], fds[IPC_MAX_FDS], sent[2];
	unsigned fd_count = 0;
	struct stat a, b;
	json_t *msg;

	make_pair(pair);
	assert_int_equal(pipe(sent), 0);
	msg = json_pack("{s:s, s:i}", "op", "start", "id", 7);
	assert_int_equal(ipc_send(pair[0], msg, sent, 2, NULL), 0);
	json_decref(msg);
	assert_int_equal(ipc_recv(pair[1], &msg, fds, &fd_count, NULL), 1);
	assert_int_equal(json_integer_value(json_object_get(msg, "id")), 7);
	assert_int_equal(fd_count, 2);
	fstat(sent[0], &a);
	fstat(fds[0], &b);
	assert_int_equal(a.st_ino, b.st_ino);
	json_decref(msg);
	assert_int_equal(ipc_recv(pair[1], &msg, fds, &fd_count, NULL), -ERR_BUSY);
	close(pair[0]);
	assert_int_equal(ipc_recv(pair[1], &msg, fds, &fd_count, NULL), 0);
	close(pair[1]);
	for (int i = 0; i < 2; i++) {
		close(sent[i]);
		close(fds[i]);
	}
}

static void test_nobody_at_the_other_end(void **state)
{
	json_t *msg = json_pack("{s:s}", "op", "start");
	int pair[2];

	make_pair(pair);
	close(pair[1]);
	assert_int_equal(ipc_send(pair[0], msg, NULL, 0, NULL), -ERR_CANCELLED);
	json_decref(msg);
	close(pair[0]);
}

static void test_rubbish_is_refused_and_leaks_nothing(void **state)
{
	static const char *const bad[] = { "{", "[1]", "17", "{\"a\":1,\"a\":2}",
					   "{\"a\":\"\xff\"}" };
	unsigned before, fd_count;
	int pair[2], fds[IPC_MAX_FDS];
	json_t *msg;

	make_pair(pair);
	before = open_descriptors();
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		send(pair[0], bad[i], strlen(bad[i]), 0);
		assert_int_equal(ipc_recv(pair[1], &msg, fds, &fd_count, NULL), -ERR_CORRUPT);
	}
	msg = json_object();
	assert_int_equal(ipc_send(pair[0], msg, &pair[0], 1, NULL), 0);
	json_decref(msg);
	assert_int_equal(ipc_recv(pair[1], &msg, NULL, NULL, NULL), 1);
	json_decref(msg);
	assert_int_equal(open_descriptors(), before);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_message_with_descriptors),
		cmocka_unit_test(test_nobody_at_the_other_end),
		cmocka_unit_test(test_rubbish_is_refused_and_leaks_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
