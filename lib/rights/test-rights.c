#include "rights/rights.h"

#include "base/macros.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef OYAKO_SANITIZE
/* The leak checker traces its own process when it ends, which a filter takes for an intrusion. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}
#endif

static const int own_calls[] = { SCMP_SYS(getppid) };
static const struct rights_call own_some[] = {
	RIGHTS_OPEN_READING,
	RIGHTS_MMAP_NO_EXEC,
};
static const struct rights_filter own = { own_calls, ARRAY_SIZE(own_calls), own_some,
					  ARRAY_SIZE(own_some) };

/* Exit status of a process that does it behind the filter, or minus the signal that ended it. */
static int behind_filter(int (*what)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct error err;

		if (rights_no_new(&err) < 0 || rights_filter(&own, 1, &err) < 0)
			_exit(100);
		_exit(what());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int opens(int flags)
{
	int fd = open("/dev/null", flags);

	return fd >= 0 ? 0 : errno;
}

static int opens_to_read(void)
{
	return opens(O_RDONLY | O_CLOEXEC);
}

static int opens_to_write(void)
{
	return opens(O_RDWR | O_CLOEXEC);
}

static int maps(int protection)
{
	void *p = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p != MAP_FAILED ? 0 : errno;
}

static int maps_data(void)
{
	return maps(PROT_READ | PROT_WRITE);
}

static int maps_code(void)
{
	return maps(PROT_READ | PROT_EXEC);
}

static int asks_its_own(void)
{
	return getppid() > 0 ? 0 : 1;
}

static int asks_another(void)
{
	return getpgid(0) >= 0 ? 0 : errno;
}

static int starts_a_program(void)
{
	execl("/bin/true", "true", (char *)NULL);
	return errno;
}

static void test_filter(void **state)
{
	assert_int_equal(behind_filter(opens_to_read), 0);
	assert_int_equal(behind_filter(opens_to_write), EPERM);
	assert_int_equal(behind_filter(maps_data), 0);
	assert_int_equal(behind_filter(maps_code), EPERM);
	assert_int_equal(behind_filter(asks_its_own), 0);
	assert_int_equal(behind_filter(asks_another), EPERM);
	assert_int_equal(behind_filter(starts_a_program), -SIGSYS);
}

static int leaves_root(void)
{
	struct error err;

	if (rights_leave_root(&err) < 0)
		return 1;
	rights_drop_capabilities();
	if (rights_no_new(&err) < 0)
		return 2;
	return getuid() != 0 && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 3;
}

static void test_nobody_is_root(void **state)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(leaves_root());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_filter),
		cmocka_unit_test(test_nobody_is_root),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
