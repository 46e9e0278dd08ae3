#include "mounts.h"

#include "base/log.h"
#include "base/macros.h"
#include "config/config-json.h"
#include "sockets.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct mounts {
	struct daemon *daemon;
	int folder_fd;
	struct mount *list;
};

static void unlink_files(struct mounts *mounts, unsigned number)
{
	char name[32];

	snprintf(name, sizeof(name), "%u.sock", number);
	unlinkat(mounts->folder_fd, name, 0);
	snprintf(name, sizeof(name), "%u.json", number);
	unlinkat(mounts->folder_fd, name, 0);
}

static void mount_free(struct mount *mount)
{
	loop_fd_remove(mount->watch);
	free(mount->path);
	free(mount->socket);
	free(mount);
}

void mounts_forget(struct mount *mount)
{
	struct mount **link = &mount->mounts->list;

	unlink_files(mount->mounts, mount->number);
	while (*link != mount)
		link = &(*link)->next;
	*link = mount->next;
	mount_free(mount);
}

static void process_ended(void *user, uint32_t events)
{
	struct mount *mount = user;
	char how[128];

	loop_fd_remove(mount->watch);
	mount->watch = NULL;
	spawn_reap(&mount->process, how, sizeof(how));
	if (mount->ended)
		mount->ended(mount->user, mount, how);
	else
		log_warn("the mounted disk %u ('%s'): its oyako-disk %s", mount->number,
			 mount->path, how);
	mounts_forget(mount);
}

static int watch(struct mount *mount, struct error *err)
{
	return loop_fd_add(mount->mounts->daemon->loop, mount->process.pidfd, EPOLLIN,
			   process_ended, mount, &mount->watch, err);
}

static struct mount *add(struct mounts *mounts, unsigned number, const char *path, bool read_only)
{
	struct mount *mount = calloc(1, sizeof(*mount));

	if (!mount)
		abort();
	*mount = (struct mount){ .mounts = mounts,
				 .next = mounts->list,
				 .number = number,
				 .path = strdup(path),
				 .read_only = read_only,
				 .process = { .pidfd = -1 } };
	if (!mount->path ||
	    asprintf(&mount->socket, "%s/disk/%u.sock", mounts->daemon->paths.runtime, number) < 0)
		abort();
	mounts->list = mount;
	return mount;
}

/* ---- looking up ---- */

struct mount *mounts_by_number(struct mounts *mounts, unsigned number)
{
	for (struct mount *mount = mounts->list; mount; mount = mount->next)
		if (mount->number == number)
			return mount;
	return NULL;
}

struct mount *mounts_by_path(struct mounts *mounts, const char *path)
{
	struct stat wanted, st;
	bool there = stat(path, &wanted) == 0;

	for (struct mount *mount = mounts->list; mount; mount = mount->next)
		if (strcmp(mount->path, path) == 0 ||
		    (there && stat(mount->path, &st) == 0 && st.st_dev == wanted.st_dev &&
		     st.st_ino == wanted.st_ino))
			return mount;
	return NULL;
}

/* ---- coming and going ---- */

int mounts_begin(struct mounts *mounts, const char *path, bool read_only, struct mount **ret,
		 int *ret_fd, struct error *err)
{
	struct mount *mount = mounts_by_path(mounts, path);
	unsigned number = 1;
	int fd;

	if (mount)
		return error_set(err, ERR_BUSY, "it is mounted");
	while (mounts_by_number(mounts, number))
		number++;
	mount = add(mounts, number, path, read_only);
	fd = sockets_listen(mount->socket, SOCK_STREAM, err);
	if (fd < 0) {
		mounts_forget(mount);
		return fd;
	}
	*ret = mount;
	*ret_fd = fd;
	return 0;
}

int mounts_started(struct mount *mount, const struct process *process, struct error *err)
{
	json_t *json = json_pack("{s:i, s:I, s:s, s:b}", "pid", (int)process->pid, "start_ticks",
				 (json_int_t)process->start_ticks, "path", mount->path, "read_only",
				 mount->read_only);
	char name[32];
	int r;

	mount->process = *process;
	snprintf(name, sizeof(name), "%u.json", mount->number);
	r = config_save_json(mount->mounts->folder_fd, name, json, err);
	json_decref(json);
	if (r == 0)
		r = watch(mount, err);
	if (r < 0)
		spawn_kill(process);
	return r;
}

void mounts_end(struct mount *mount,
		void (*ended)(void *user, struct mount *mount, const char *how), void *user)
{
	mount->ended = ended;
	mount->user = user;
	spawn_end(&mount->process);
}

/* ---- those of an earlier daemon ---- */

static void adopt(struct mounts *mounts, const char *name)
{
	struct process process;
	struct mount *mount;
	struct error err;
	unsigned number;
	json_t *json;
	const char *path;

	if (sscanf(name, "%u.json", &number) != 1 ||
	    config_load_json(mounts->folder_fd, name, &json, &err) < 0)
		return;
	path = json_string_value(json_object_get(json, "path"));
	if (path &&
	    spawn_find((pid_t)json_integer_value(json_object_get(json, "pid")),
		       (unsigned long long)json_integer_value(json_object_get(json, "start_ticks")),
		       &process, &err) == 0) {
		mount = add(mounts, number, path, json_is_true(json_object_get(json, "read_only")));
		mount->process = process;
		if (watch(mount, &err) < 0)
			abort();
	} else {
		unlink_files(mounts, number);
	}
	json_decref(json);
}

static void adopt_all(struct mounts *mounts)
{
	DIR *folder = fdopendir(openat(mounts->folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *entry;

	while (folder && (entry = readdir(folder)))
		if (strstr(entry->d_name, ".json") && entry->d_name[0] != '.')
			adopt(mounts, entry->d_name);
		/* Of a conversion, which ended with the service. */
		else if (strncmp(entry->d_name, "convert-", 8) == 0)
			unlinkat(mounts->folder_fd, entry->d_name, 0);
	if (folder)
		closedir(folder);
}

int mounts_new(struct daemon *daemon, struct mounts **ret, struct error *err)
{
	struct mounts *mounts = calloc(1, sizeof(*mounts));
	AUTO_FREE char *folder = NULL;
	int r;

	if (!mounts || asprintf(&folder, "%s/disk", daemon->paths.runtime) < 0)
		abort();
	mounts->daemon = daemon;
	mounts->folder_fd = -1;
	r = config_make_private_folder(folder, err);
	if (r == 0) {
		mounts->folder_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (mounts->folder_fd < 0)
			r = error_set_errno(err, errno, "opening '%.200s'", folder);
	}
	if (r < 0) {
		mounts_free(mounts);
		return r;
	}
	adopt_all(mounts);
	*ret = mounts;
	return 0;
}

void mounts_free(struct mounts *mounts)
{
	if (!mounts)
		return;
	while (mounts->list) {
		struct mount *mount = mounts->list;

		mounts->list = mount->next;
		if (mount->process.pidfd >= 0) {
			loop_fd_remove(mount->watch);
			mount->watch = NULL;
			close(mount->process.pidfd);
		}
		mount_free(mount);
	}
	if (mounts->folder_fd >= 0)
		close(mounts->folder_fd);
	free(mounts);
}
