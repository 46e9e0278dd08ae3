#include "base/parent-paths.h"

#include "base/macros.h"
#include "base/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One `..` for each folder of the child's that the parent isn't in. */
static char *relative_to(const char *folder, const char *path)
{
	size_t common = 0, ups = 0, i;
	char *ret, *to;

	for (i = 0; folder[i] && folder[i] == path[i]; i++)
		if (path[i] == '/')
			common = i;
	if (!folder[i] && path[i] == '/')
		common = i;
	for (const char *p = folder + common; *p; p++)
		ups += *p == '/' && p[1];
	ret = to = malloc(ups * 3 + strlen(path) + 3);
	if (!ret)
		return NULL;
	if (ups == 0)
		to = stpcpy(to, "./");
	while (ups-- > 0)
		to = stpcpy(to, "../");
	strcpy(to, path + common + (path[common] == '/'));
	return ret;
}

static void backslashes(char *path)
{
	for (; *path; path++)
		if (*path == '/')
			*path = '\\';
}

int parent_paths_make(const char *child_path, const char *parent_path, struct parent_paths *ret,
		      struct error *err)
{
	AUTO_FREE char *written = text_folder(child_path), *folder = NULL;
	struct parent_paths paths = { 0 };

	folder = realpath(written, NULL);
	if (!folder)
		return error_set_errno(err, errno, "folder '%s'", written);
	paths.absolute = realpath(parent_path, NULL);
	if (!paths.absolute)
		return error_set_errno(err, errno, "disk '%s'", parent_path);
	if (strchr(paths.absolute, '\\')) {
		parent_paths_done(&paths);
		return error_set(err, ERR_INVALID,
				 "disk '%s' can't be a parent: its path has a '\\' in it",
				 parent_path);
	}
	paths.relative = relative_to(folder, paths.absolute);
	if (!paths.relative) {
		parent_paths_done(&paths);
		return error_set(err, ERR_NO_MEMORY, "no memory for a parent's paths");
	}
	backslashes(paths.absolute);
	backslashes(paths.relative);
	*ret = paths;
	return 0;
}

void parent_paths_done(struct parent_paths *paths)
{
	free(paths->absolute);
	free(paths->relative);
	*paths = (struct parent_paths){ 0 };
}
