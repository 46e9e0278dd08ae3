#include "output.h"

#include "base/guid.h"
#include "base/macros.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_folder(const char *path, struct output *output, struct error *err)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char *folder = NULL;

	if (!slash || !slash[1])
		return error_set(err, ERR_INVALID, "'%.300s' names no file", path);
	folder = strndup(path, (size_t)(slash - path) + 1);
	output->name = strdup(slash + 1);
	if (!folder || !output->name)
		abort();
	output->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (output->folder_fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.300s'", folder);
	return 0;
}

/* An error before hours of work, not after; what counts is the check by the commit. */
static int refuse_existing(const struct output *output, const char *path, struct error *err)
{
	struct stat st;

	if (fstatat(output->folder_fd, output->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return error_set(err, ERR_EXISTS, "there is a file '%.300s' already", path);
	return 0;
}

/* The name may be as long as the file system allows; ours is 14 longer. */
#define TEMPORARY_NAME "." NAME_PART ".%.8s" TEMPORARY_END
#define NAME_PART      "%.200s"
#define TEMPORARY_END  ".new"
#define TEMPORARY_TAIL (1 + 8 + sizeof(TEMPORARY_END) - 1)

static int open_named(struct output *output)
{
	char id[GUID_TEXT_SIZE];
	struct guid guid;

	guid_generate(&guid);
	guid_format(&guid, id);
	if (asprintf(&output->temporary, TEMPORARY_NAME, output->name, id) < 0)
		abort();
	return openat(output->folder_fd, output->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC,
		      0644);
}

int output_open(const char *path, struct output *ret, struct error *err)
{
	struct output output = { .fd = -1, .folder_fd = -1 };
	int r = open_folder(path, &output, err);

	if (r == 0)
		r = refuse_existing(&output, path, err);
	if (r == 0)
		output.fd = openat(output.folder_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0644);
	if (r == 0 && output.fd < 0 &&
	    (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL))
		output.fd = open_named(&output);
	if (r == 0 && output.fd < 0)
		r = error_set_errno(err, errno, "making '%.300s'", path);
	if (r < 0)
		output_done(&output);
	else
		*ret = output;
	return r;
}

static int give_name(struct output *output)
{
	char self[40];

	if (output->temporary) {
		if (renameat2(output->folder_fd, output->temporary, output->folder_fd, output->name,
			      RENAME_NOREPLACE) == 0)
			return 0;
		if (errno != EINVAL && errno != ENOSYS)
			return -1;
		/* No such rename here: a link, which never replaces either. */
		if (linkat(output->folder_fd, output->temporary, output->folder_fd, output->name,
			   0) < 0)
			return -1;
		unlinkat(output->folder_fd, output->temporary, 0);
		return 0;
	}
	snprintf(self, sizeof(self), "/proc/self/fd/%d", output->fd);
	return linkat(AT_FDCWD, self, output->folder_fd, output->name, AT_SYMLINK_FOLLOW);
}

int output_commit(struct output *output, struct error *err)
{
	if (give_name(output) < 0)
		return error_set_errno(err, errno, "naming the finished file '%.300s'",
				       output->name);
	free(output->temporary);
	output->temporary = NULL;
	/* From here on it is there; that a power cut may still take its name is all that can fail.
	 */
	if (fsync(output->folder_fd) < 0 && errno != EINVAL && errno != EROFS)
		return error_set_errno(err, errno, "syncing the folder of '%.300s'", output->name);
	return 0;
}

void output_done(struct output *output)
{
	if (output->temporary)
		unlinkat(output->folder_fd, output->temporary, 0);
	if (output->fd >= 0)
		close(output->fd);
	if (output->folder_fd >= 0)
		close(output->folder_fd);
	free(output->temporary);
	free(output->name);
	*output = (struct output){ .fd = -1, .folder_fd = -1 };
}

static bool is_temporary_of(const char *entry, const char *name)
{
	char start[210];
	size_t len = (size_t)snprintf(start, sizeof(start), "." NAME_PART ".", name);

	return strncmp(entry, start, len) == 0 && strlen(entry) == len - 1 + TEMPORARY_TAIL &&
	       strcmp(entry + len + 8, TEMPORARY_END) == 0;
}

void output_sweep(const char *path)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : NULL;
	DIR *dir = folder ? opendir(folder) : NULL;
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (is_temporary_of(entry->d_name, slash + 1))
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
}
