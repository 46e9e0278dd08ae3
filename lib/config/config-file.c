/* Descriptions in files. */
#include "config/config-json.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES (4 * MIB)

static int read_all(int fd, char *text, size_t size, const char *file, struct error *err)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = read(fd, text + done, size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "reading '%.200s'", file);
		if (n == 0)
			return error_set(err, ERR_IO, "'%.200s' became shorter while it was read",
					 file);
		done += (size_t)n;
	}
	return 0;
}

int config_load_json(int dir_fd, const char *file, json_t **ret, struct error *err)
{
	AUTO_CLOSE int fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	AUTO_FREE char *text = NULL;
	json_error_t reason;
	struct stat st;
	json_t *json;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "opening '%.200s'", file);
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)MAX_FILE_BYTES)
		return error_set(err, ERR_INVALID, "'%.200s' is no file of at most 4 MB", file);
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return error_set(err, ERR_NO_MEMORY, "no memory to read '%.200s'", file);
	r = read_all(fd, text, (size_t)st.st_size, file, err);
	if (r < 0)
		return r;
	json = json_loadb(text, (size_t)st.st_size, JSON_REJECT_DUPLICATES, &reason);
	if (!json)
		return error_set(err, ERR_CORRUPT, "'%.200s', line %d: %s", file, reason.line,
				 reason.text);
	*ret = json;
	return 0;
}

int config_load(int dir_fd, const char *file, struct config_vm **ret, struct error *err)
{
	json_t *json;
	int r = config_load_json(dir_fd, file, &json, err);

	if (r < 0)
		return r;
	r = config_vm_from_json(json, ret, err);
	json_decref(json);
	return r < 0 ? error_prefix(err, "'%.100s'", file) : 0;
}

static int write_synced(int fd, const char *text, const char *file, struct error *err)
{
	size_t len = strlen(text);

	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "writing '%.200s'", file);
		text += n;
		len -= (size_t)n;
	}
	if (fsync(fd) < 0)
		return error_set_errno(err, errno, "syncing '%.200s'", file);
	return 0;
}

static int save_text(int dir_fd, const char *file, const char *text, struct error *err)
{
	char temporary[300];
	AUTO_CLOSE int fd = -1;
	int r;

	/* A fixed name: what a crash left behind is overwritten by the next save. */
	snprintf(temporary, sizeof(temporary), ".%.200s.new", file);
	unlinkat(dir_fd, temporary, 0);
	fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return error_set_errno(err, errno, "creating '%.200s'", temporary);
	r = write_synced(fd, text, file, err);
	if (r == 0 && renameat(dir_fd, temporary, dir_fd, file) < 0)
		r = error_set_errno(err, errno, "replacing '%.200s'", file);
	if (r < 0) {
		unlinkat(dir_fd, temporary, 0);
		return r;
	}
	if (fsync(dir_fd) < 0)
		return error_set_errno(err, errno, "syncing the folder of '%.200s'", file);
	return 0;
}

int config_save_json(int dir_fd, const char *file, const json_t *json, struct error *err)
{
	AUTO_FREE char *text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
	AUTO_FREE char *line = NULL;

	if (!text || asprintf(&line, "%s\n", text) < 0)
		return error_set(err, ERR_NO_MEMORY, "no memory to write '%.200s'", file);
	return save_text(dir_fd, file, line, err);
}

int config_save(int dir_fd, const char *file, const struct config_vm *vm, struct error *err)
{
	json_t *json = config_vm_to_json(vm);
	int r = config_save_json(dir_fd, file, json, err);

	json_decref(json);
	return r;
}
