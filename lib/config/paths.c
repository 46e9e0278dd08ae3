#include "config/paths.h"

#include "base/macros.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* An environment variable with an absolute path, or NULL. */
static const char *path_variable(const char *name)
{
	const char *value = getenv(name);

	return value && value[0] == '/' ? value : NULL;
}

static const char *home_folder(void)
{
	const char *home = path_variable("HOME");
	const struct passwd *user = home ? NULL : getpwuid(getuid());

	if (home)
		return home;
	return user && user->pw_dir ? user->pw_dir : "/";
}

static int user_paths(struct config_paths *paths)
{
	const char *data = path_variable("XDG_DATA_HOME");
	const char *runtime = path_variable("XDG_RUNTIME_DIR");
	int r = data ? asprintf(&paths->state, "%s/oyako", data)
		     : asprintf(&paths->state, "%s/.local/share/oyako", home_folder());

	if (r < 0)
		paths->state = NULL;
	r = runtime ? asprintf(&paths->runtime, "%s/oyako", runtime)
		    : asprintf(&paths->runtime, "/tmp/oyako-%u", (unsigned)getuid());
	if (r < 0)
		paths->runtime = NULL;
	return paths->state && paths->runtime ? 0 : -1;
}

int config_paths_init(struct config_paths *ret, bool system, struct error *err)
{
	struct config_paths paths = { 0 };
	int r = 0;

	if (system) {
		paths.state = strdup("/var/lib/oyako");
		paths.runtime = strdup("/run/oyako");
	} else {
		r = user_paths(&paths);
	}
	if (r < 0 || !paths.state || !paths.runtime ||
	    asprintf(&paths.socket, "%s/api.sock", paths.runtime) < 0) {
		paths.socket = NULL;
		config_paths_done(&paths);
		return error_set(err, ERR_NO_MEMORY, "no memory for the folders' names");
	}
	*ret = paths;
	return 0;
}

void config_paths_done(struct config_paths *paths)
{
	free(paths->state);
	free(paths->runtime);
	free(paths->socket);
	memset(paths, 0, sizeof(*paths));
}

static int make_parents(char *path, struct error *err)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		int r;

		*slash = '\0';
		r = mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
		if (r < 0) {
			error_set_errno(err, -r, "making the folder '%.200s'", path);
			*slash = '/';
			return -(int)ERR_IO;
		}
		*slash = '/';
	}
	return 0;
}

int config_make_private_folder(const char *path, struct error *err)
{
	AUTO_FREE char *copy = strdup(path);
	struct stat st;

	if (!copy)
		return error_set(err, ERR_NO_MEMORY, "no memory");
	if (make_parents(copy, err) < 0)
		return err ? -(int)err->code : -(int)ERR_IO;
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "making the folder '%.200s'", path);
	if (lstat(path, &st) < 0)
		return error_set_errno(err, errno, "looking at the folder '%.200s'", path);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid())
		return error_set(err, ERR_DENIED, "'%.200s' is not a folder of ours", path);
	if ((st.st_mode & 077) && chmod(path, 0700) < 0)
		return error_set_errno(err, errno, "closing the folder '%.200s' to others", path);
	return 0;
}
