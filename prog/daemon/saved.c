#include "saved.h"

#include "base/log.h"
#include "base/macros.h"
#include "state/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PREFIX "saved-"
#define FRESH  "saved\n"

char *saved_path_in(const char *vm_folder, const char *id, const char *file)
{
	char *path = NULL;

	if (asprintf(&path, "%s/" PREFIX "%s%s%s", vm_folder, id, file ? "/" : "",
		     file ? file : "") < 0)
		abort();
	return path;
}

static char *path_of(struct vm *vm, const char *id, const char *file)
{
	return saved_path_in(vm->folder, id, file);
}

char *saved_memory_path(struct vm *vm, const char *id)
{
	return path_of(vm, id, "memory");
}

static void sync_folder(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0)
		fsync(fd);
}

static int make_folder(struct vm *vm, char ret_id[static GUID_TEXT_SIZE], struct error *err)
{
	AUTO_FREE char *path = NULL;
	struct guid id;

	guid_generate(&id);
	guid_format(&id, ret_id);
	path = path_of(vm, ret_id, NULL);
	if (mkdir(path, 0700) < 0)
		return error_set_errno(err, errno, "making the folder '%.200s'", path);
	return 0;
}

static int make_file(const char *vm_folder, const char *id, const char *file, struct error *err)
{
	AUTO_FREE char *path = saved_path_in(vm_folder, id, file);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? error_set_errno(err, errno, "making '%.200s'", path) : fd;
}

int saved_mark_in(const char *vm_folder, const char *id, struct error *err)
{
	AUTO_FREE char *folder = saved_path_in(vm_folder, id, NULL);
	AUTO_CLOSE int fd = make_file(vm_folder, id, "mark", err);

	if (fd < 0)
		return fd;
	if (write(fd, FRESH, sizeof(FRESH) - 1) != (ssize_t)sizeof(FRESH) - 1 || fsync(fd) < 0)
		return error_set_errno(err, errno, "marking a saved state");
	sync_folder(folder);
	return 0;
}

int saved_mark(struct vm *vm, const char *id, struct error *err)
{
	return saved_mark_in(vm->folder, id, err);
}

int saved_begin(struct vm *vm, char ret_id[static GUID_TEXT_SIZE], struct error *err)
{
	int r = make_folder(vm, ret_id, err), fd;

	if (r < 0)
		return r;
	fd = make_file(vm->folder, ret_id, "memory", err);
	r = fd < 0 ? fd : saved_mark(vm, ret_id, err);
	if (r < 0) {
		if (fd >= 0)
			close(fd);
		saved_remove(vm, ret_id);
		return r;
	}
	return fd;
}

void saved_remove(struct vm *vm, const char *id)
{
	static const char *const files[] = { "memory", "mark" };
	AUTO_FREE char *folder = path_of(vm, id, NULL);

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		AUTO_FREE char *path = path_of(vm, id, files[i]);

		unlink(path);
	}
	rmdir(folder);
}

int saved_link(struct vm *vm, const char *memory_path, char ret_id[static GUID_TEXT_SIZE],
	       struct error *err)
{
	AUTO_FREE char *folder = NULL, *path = NULL;
	int r = make_folder(vm, ret_id, err);

	if (r < 0)
		return r;
	folder = path_of(vm, ret_id, NULL);
	path = path_of(vm, ret_id, "memory");
	if (link(memory_path, path) < 0) {
		r = error_set_errno(err, errno, "linking '%.200s'", path);
		saved_remove(vm, ret_id);
		return r;
	}
	sync_folder(folder);
	return 0;
}

static bool is_whole(struct vm *vm, const char *id)
{
	AUTO_FREE char *path = path_of(vm, id, "memory");
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct state_file file;

	return fd >= 0 && state_file_open(fd, &file, NULL) == 0;
}

static bool set_saved_state(struct vm *vm, const char *id, struct error *err)
{
	struct config_vm *config = vm_config_copy(vm, err);

	if (!config)
		return false;
	if (config_set_string(&config->saved_state, id, err) < 0) {
		config_vm_free(config);
		return false;
	}
	return vm_change(vm, config, err) == 0;
}

int saved_commit(struct vm *vm, const char *id, struct error *err)
{
	sync_folder(vm->folder);
	if (!is_whole(vm, id))
		return error_set(err, ERR_CORRUPT, "the saved state is not whole");
	return set_saved_state(vm, id, err) ? 0 : -(int)err->code;
}

int saved_open(struct vm *vm, int *ret_memory, int *ret_mark, struct error *err)
{
	AUTO_FREE char *memory = path_of(vm, vm->config->saved_state, "memory");
	AUTO_FREE char *mark = path_of(vm, vm->config->saved_state, "mark");
	AUTO_CLOSE int memory_fd = open(memory, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	int mark_fd;

	if (memory_fd < 0)
		return error_set_errno(err, errno, "the saved state '%.200s'", memory);
	mark_fd = open(mark, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (mark_fd < 0)
		return error_set_errno(err, errno, "the saved state '%.200s'", mark);
	*ret_memory = TAKE_FD(memory_fd);
	*ret_mark = mark_fd;
	return 0;
}

int saved_drop(struct vm *vm, struct error *err)
{
	AUTO_FREE char *id = vm->config->saved_state ? strdup(vm->config->saved_state) : NULL;

	if (!id)
		return 0;
	if (!set_saved_state(vm, NULL, err))
		return -(int)err->code;
	saved_remove(vm, id);
	return 0;
}

/* ---- after a restart ---- */

/* "saved", "used", or there is none. */
static bool read_mark(struct vm *vm, const char *id, bool *ret_used)
{
	AUTO_FREE char *path = path_of(vm, id, "mark");
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char text[8] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return false;
	*ret_used = strncmp(text, "used", 4) == 0;
	return true;
}

static void clean_up_one(struct vm *vm, const char *id)
{
	bool used = false, has_mark = read_mark(vm, id, &used);
	struct error err;

	if (vm->config->saved_state && strcmp(vm->config->saved_state, id) == 0) {
		if (!has_mark)
			saved_mark(vm, id, &err); /* what Restore-VMSnapshot was about to do */
		else if (used)
			saved_drop(vm, &err); /* the guest ran on, and has ended since */
		return;
	}
	if (has_mark && !used && !vm->config->saved_state && is_whole(vm, id) &&
	    saved_commit(vm, id, &err) == 0) {
		log_info("virtual machine '%s': it was saved while the service was not running",
			 vm->config->name);
		return;
	}
	saved_remove(vm, id);
}

static void for_each(struct vm *vm, void (*work)(struct vm *vm, const char *id))
{
	DIR *folder = opendir(vm->folder);
	struct dirent *entry;
	struct guid guid;

	while (folder && (entry = readdir(folder)))
		if (strncmp(entry->d_name, PREFIX, sizeof(PREFIX) - 1) == 0 &&
		    guid_parse(entry->d_name + sizeof(PREFIX) - 1, &guid))
			work(vm, entry->d_name + sizeof(PREFIX) - 1);
	if (folder)
		closedir(folder);
}

void saved_remove_all(struct vm *vm)
{
	for_each(vm, saved_remove);
}

void saved_clean_up(struct vm *vm)
{
	for_each(vm, clean_up_one);
	if (vm->config->saved_state && !is_whole(vm, vm->config->saved_state))
		log_error("virtual machine '%s': its saved state is not there or damaged; "
			  "Remove-VMSavedState lets it start anew",
			  vm->config->name);
}
