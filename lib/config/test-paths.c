#include "config/paths.h"

#include "base/macros.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

static void expect_paths(bool system, const char *state, const char *socket)
{
	struct config_paths paths;

	assert_int_equal(config_paths_init(&paths, system, NULL), 0);
	assert_string_equal(paths.state, state);
	assert_string_equal(paths.socket, socket);
	config_paths_done(&paths);
}

static void test_where_things_are(void **state)
{
	char fallback[64];

	setenv("HOME", "/home/u", 1);
	setenv("XDG_DATA_HOME", "/data", 1);
	setenv("XDG_RUNTIME_DIR", "/run/u", 1);
	expect_paths(false, "/data/oyako", "/run/u/oyako/api.sock");
	expect_paths(true, "/var/lib/oyako", "/run/oyako/api.sock");
	unsetenv("XDG_DATA_HOME");
	/* As its specification wants it, a relative path is ignored. */
	setenv("XDG_RUNTIME_DIR", "run", 1);
	snprintf(fallback, sizeof(fallback), "/tmp/oyako-%u/api.sock", (unsigned)getuid());
	expect_paths(false, "/home/u/.local/share/oyako", fallback);
}

static void test_private_folders(void **state)
{
	char top[] = "/tmp/test-paths-XXXXXX", path[64];
	struct error err;
	struct stat st;

	assert_non_null(mkdtemp(top));
	snprintf(path, sizeof(path), "%s/a/b", top);
	assert_int_equal(config_make_private_folder(path, &err), 0);
	assert_int_equal(config_make_private_folder(path, &err), 0);
	chmod(path, 0777);
	assert_int_equal(config_make_private_folder(path, &err), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	rmdir(path);
	/* Neither a link nor a file will do. */
	assert_int_equal(symlink("/", path), 0);
	assert_int_equal(config_make_private_folder(path, &err), -ERR_DENIED);
	unlink(path);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(config_make_private_folder(path, &err), -ERR_DENIED);
	unlink(path);
	snprintf(path, sizeof(path), "%s/a", top);
	rmdir(path);
	rmdir(top);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_where_things_are),
		cmocka_unit_test(test_private_folders),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
