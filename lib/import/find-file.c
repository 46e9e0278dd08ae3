/* Where a disk of an imported VM is: paths of a Windows host mean nothing here, names do. */
#include "import/hyperv.h"

#include "base/macros.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

const char *import_base_name(const char *path)
{
	const char *name = path;

	for (; *path; path++)
		if (*path == '\\' || *path == '/')
			name = path + 1;
	return name;
}

/* folder/name, if such a file is there: by its exact name or, else, by one that differs in case. */
static char *look_in(const char *folder, const char *name)
{
	DIR *dir = opendir(folder);
	struct dirent *entry;
	char *found = NULL, *real;
	bool exact = false;

	while (dir && !exact && (entry = readdir(dir))) {
		if (strcasecmp(entry->d_name, name) != 0)
			continue;
		exact = strcmp(entry->d_name, name) == 0;
		free(found);
		if (asprintf(&found, "%s/%s", folder, entry->d_name) < 0)
			abort();
	}
	if (dir)
		closedir(dir);
	real = found ? realpath(found, NULL) : NULL;
	free(found);
	return real;
}

static char *look_below(const char *folder, const char *below, const char *name)
{
	AUTO_FREE char *path = NULL;

	if (asprintf(&path, "%s/%s", folder, below) < 0)
		abort();
	return look_in(path, name);
}

char *import_find_file(const char *config_path, const char *vhd_folder, const char *windows_path)
{
	static const char *const places[] = { ".", "Virtual Hard Disks", "../Virtual Hard Disks",
					      "../../Virtual Hard Disks" };
	const char *name = import_base_name(windows_path);
	AUTO_FREE char *folder = strdup(config_path);
	char *found = NULL;

	if (!folder)
		abort();
	*(char *)import_base_name(folder) = 0;
	if (!name[0] || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return NULL;
	if (vhd_folder)
		found = look_in(vhd_folder, name);
	for (size_t i = 0; !found && i < ARRAY_SIZE(places); i++)
		found = look_below(folder[0] ? folder : ".", places[i], name);
	if (!found && windows_path[0] == '/')
		found = realpath(windows_path, NULL);
	return found;
}
