#include "files.h"

#include "base/host.h"
#include "base/log.h"
#include "saved.h"
#include "base/macros.h"
#include "ipc/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

int files_lock(int fd, bool exclusive, struct error *err)
{
	struct flock lock = { .l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return error_set(err, ERR_BUSY, "it is in use");
	return error_set_errno(err, errno, "locking it");
}

static void read_holder(int fd, char *ret, size_t size)
{
	ssize_t len = pread(fd, ret, size - 1, 0);

	ret[len > 0 ? len : 0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

int files_lock_holder(const char *path, const char *who, struct error *err)
{
	AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char holder[200], host[65] = "";
	int len;

	if (fd < 0)
		return error_set_errno(err, errno, "opening '%.200s'", path);
	if (files_lock(fd, true, err) < 0) {
		if (!err || err->code != ERR_BUSY)
			return error_prefix(err, "'%.200s'", path);
		read_holder(fd, holder, sizeof(holder));
		return error_set(err, ERR_BUSY, "'%.150s' is in use by %s", path,
				 holder[0] ? holder : "another process");
	}
	gethostname(host, sizeof(host) - 1);
	len = snprintf(holder, sizeof(holder), "%s, process %d on %s\n", who, (int)getpid(), host);
	if (ftruncate(fd, 0) < 0 || pwrite(fd, holder, (size_t)len, 0) != len)
		return error_set_errno(err, errno, "writing '%.200s'", path);
	return TAKE_FD(fd);
}

/* ---- the list of descriptors ---- */

void files_add(struct files *files, const char *role, const char *key, int index, int fd)
{
	json_t *description = json_pack("{s:s}", "role", role);

	if (index >= 0)
		json_object_set_new(description, key, json_integer(index));
	json_array_append_new(files->descriptions, description);
	if (files->count == files->capacity) {
		files->capacity = MAX(files->capacity * 2, 16u);
		files->fds = realloc(files->fds, files->capacity * sizeof(*files->fds));
		if (!files->fds)
			abort();
	}
	files->fds[files->count++] = fd;
}

void files_done(struct files *files)
{
	for (unsigned i = 0; i < files->count; i++)
		close(files->fds[i]);
	if (files->lock_fd >= 0)
		close(files->lock_fd);
	json_decref(files->descriptions);
	free(files->fds);
	files->fds = NULL;
	files->count = files->capacity = 0;
	files->lock_fd = -1;
	files->descriptions = NULL;
}

static int open_regular(const char *path, int flags, struct error *err)
{
	/* O_NONBLOCK: a FIFO in the file's place must not stop the daemon. */
	AUTO_CLOSE int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, ERR_INVALID, "'%.300s' is no file", path);
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	return TAKE_FD(fd);
}

/* Which of our VMs runs on that file, for the error's text. */
static const struct vm *user_of(const struct vm *vm, int fd)
{
	const struct daemon *daemon = vm->daemon;
	struct stat wanted, st;

	if (fstat(fd, &wanted) < 0)
		return NULL;
	for (size_t i = 0; i < daemon->vm_count; i++) {
		const struct vm *other = daemon->vms[i];

		if (other == vm || !other->run)
			continue;
		for (unsigned k = 0; k < other->config->disk_count; k++) {
			const char *path = other->config->disks[k].path;

			if (path && stat(path, &st) == 0 && st.st_dev == wanted.st_dev &&
			    st.st_ino == wanted.st_ino)
				return other;
		}
	}
	return NULL;
}

static int lock_disk(const struct vm *vm, const char *path, int fd, bool writes, struct error *err)
{
	const struct vm *other;

	if (files_lock(fd, writes, err) == 0)
		return 0;
	other = user_of(vm, fd);
	if (err && err->code == ERR_BUSY)
		return error_set(err, ERR_BUSY, "the disk '%.250s' is in use by %s%.100s%s", path,
				 other ? "virtual machine '" : "another process",
				 other ? other->config->name : "", other ? "'" : "");
	return error_prefix(err, "the disk '%.150s'", path);
}

static bool must_write(const struct config_disk *disk)
{
	return disk->kind == CONFIG_DISK_HARD && !disk->read_only;
}

int files_open_disk(const struct vm *vm, const struct config_disk *disk, struct error *err)
{
	bool writes = must_write(disk);
	AUTO_CLOSE int fd = open_regular(disk->path, writes ? O_RDWR : O_RDONLY, err);
	int r;

	if (fd < 0)
		return error_prefix(err, "opening the disk");
	r = lock_disk(vm, disk->path, fd, writes, err);
	return r < 0 ? r : TAKE_FD(fd);
}

bool files_are_free(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->disk_count; i++) {
		const struct config_disk *disk = &vm->config->disks[i];
		AUTO_CLOSE int fd = disk->path ? open_regular(disk->path, O_RDONLY, NULL) : -1;
		struct flock lock = { .l_type = must_write(disk) ? F_WRLCK : F_RDLCK,
				      .l_whence = SEEK_SET };

		if (fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
			return false;
	}
	return true;
}

bool files_is_image_name(const char *path)
{
	static const char *const endings[] = { ".vhdx", ".avhdx", ".vhd", ".avhd" };
	const char *dot = strrchr(path, '.');

	for (size_t i = 0; dot && i < ARRAY_SIZE(endings); i++)
		if (strcasecmp(dot, endings[i]) == 0)
			return true;
	return false;
}

/* Hyper-V goes by the name, too. And it must be so: in a raw image a guest can write what looks
 * like a differencing disk whose parent is any file of the host. */
bool files_may_have_parent(const struct config_disk *disk)
{
	return disk->path && disk->kind == CONFIG_DISK_HARD && files_is_image_name(disk->path);
}

int files_open_layer(const char *path, int flags, struct error *err)
{
	if (!files_is_image_name(path))
		return error_set(err, ERR_INVALID, "'%.300s' can't be a disk's layer by its name",
				 path);
	return open_regular(path, flags, err);
}

/* The paths come out of an image. */
static int open_parent(const struct vm *vm, const char *path, struct error *err)
{
	AUTO_CLOSE int fd = -1;
	int r;

	if (!files_is_image_name(path))
		return error_set(err, ERR_INVALID, "'%.300s' can't be a disk's parent by its name",
				 path);
	fd = open_regular(path, O_RDONLY, err);
	if (fd < 0)
		return error_prefix(err, "opening a disk's parent");
	r = lock_disk(vm, path, fd, false, err);
	return r < 0 ? r : TAKE_FD(fd);
}

static int add_parents(struct vm *vm, const json_t *list, struct files *files, unsigned index,
		       struct error *err)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const char *path = json_string_value(json_array_get(list, i));
		int fd = open_parent(vm, path ? path : "", err);

		if (fd < 0)
			return fd;
		files_add(files, "parent", "index", (int)index, fd);
	}
	return 0;
}

char *files_track_path(const char *disk, const json_t *parents)
{
	for (size_t i = 0; disk; disk = json_string_value(json_array_get(parents, i++))) {
		char *path = NULL;

		if (asprintf(&path, "%s" TRACK_ENDING, disk) < 0)
			abort();
		if (access(path, F_OK) == 0)
			return path;
		free(path);
	}
	return NULL;
}

int files_open_track(const char *path, int flags, struct error *err)
{
	AUTO_CLOSE int fd =
	    open(path, flags | O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW, 0600);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "'%.300s'", path);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERR_INVALID, "'%.300s' is no file", path);
	return TAKE_FD(fd);
}

int files_open_track_of(const char *disk, const json_t *parents, int *ret, struct error *err)
{
	AUTO_FREE char *path = files_track_path(disk, parents);
	int fd = path ? files_open_track(path, 0, err) : -1;

	if (path && fd < 0)
		return error_prefix(err, "opening the change tracking file");
	*ret = fd;
	return 0;
}

void files_keep_track(const char *layer, const char *target)
{
	AUTO_FREE char *from = NULL, *to = NULL;

	if (asprintf(&from, "%s" TRACK_ENDING, layer) < 0 ||
	    asprintf(&to, "%s" TRACK_ENDING, target) < 0)
		abort();
	if (access(from, F_OK) == 0 && rename(from, to) < 0)
		log_error("renaming '%s', by which changes are tracked: %s", from, strerror(errno));
}

/* Changes of a disk are tracked if there is the file for it. */
static int add_track(const struct config_disk *disk, const json_t *parents, struct files *files,
		     unsigned index, struct error *err)
{
	int fd = -1, r;

	if (!files_may_have_parent(disk) || disk->read_only)
		return 0;
	r = files_open_track_of(disk->path, parents, &fd, err);
	if (r == 0 && fd >= 0)
		files_add(files, "track", "index", (int)index, fd);
	return r;
}

static int add_chain(struct vm *vm, const struct config_disk *disk, const json_t *parents,
		     struct files *files, unsigned index, struct error *err)
{
	int fd = files_open_disk(vm, disk, err), r;

	if (fd < 0)
		return fd;
	files_add(files, "disk", "index", (int)index, fd);
	r = add_track(disk, parents, files, index, err);
	return r < 0 ? r : add_parents(vm, parents, files, index, err);
}

bool files_have(const struct files *files, const char *role)
{
	for (size_t i = 0; i < json_array_size(files->descriptions); i++)
		if (strcmp(role, json_string_value(json_object_get(
				     json_array_get(files->descriptions, i), "role"))) == 0)
			return true;
	return false;
}

int files_open_chain(struct vm *vm, const struct config_disk *disk, const json_t *parents,
		     struct files *ret, struct error *err)
{
	int r;

	*ret = (struct files){ .descriptions = json_array(), .lock_fd = -1 };
	r = json_array_size(parents) + 1 < IPC_MAX_FDS
		? add_chain(vm, disk, parents, ret, 0, err)
		: error_set(err, ERR_LIMIT,
			    "a disk with %zu parents can't be added to a running virtual machine",
			    json_array_size(parents));
	if (r < 0)
		files_done(ret);
	return r;
}

static int add_disks(struct vm *vm, const json_t *parents, struct files *files, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < vm->config->disk_count; i++) {
		char key[16];
		const json_t *list;

		if (!vm->config->disks[i].path)
			continue;
		snprintf(key, sizeof(key), "%u", i);
		list = json_object_get(parents, key);
		r = add_chain(vm, &vm->config->disks[i], list, files, i, err);
	}
	return r;
}

static int add_boot(struct vm *vm, struct files *files, struct error *err)
{
	const struct config_vm *config = vm->config;
	int fd;

	if (!config->kernel_path)
		return error_set(err, ERR_UNSUPPORTED,
				 "there is no firmware yet: set -LinuxKernelPath to start a Linux "
				 "kernel directly");
	fd = open_regular(config->kernel_path, O_RDONLY, err);
	if (fd < 0)
		return error_prefix(err, "opening the kernel");
	files_add(files, "kernel", NULL, -1, fd);
	if (!config->initrd_path)
		return 0;
	fd = open_regular(config->initrd_path, O_RDONLY, err);
	if (fd < 0)
		return error_prefix(err, "opening the initial RAM disk");
	files_add(files, "initrd", NULL, -1, fd);
	return 0;
}

/* With "auto" the worker chooses, and says why; it can't open the device itself. */
static int add_kvm(struct vm *vm, struct files *files, struct error *err)
{
	char reason[256];
	int fd;

	if (vm->config->backend != CONFIG_BACKEND_AUTO && vm->config->backend != CONFIG_BACKEND_KVM)
		return 0;
	if (vm->config->backend == CONFIG_BACKEND_KVM &&
	    !host_kvm_usable(-1, reason, sizeof(reason)))
		return error_set(err, ERR_UNSUPPORTED, "the backend kvm is not there: %s", reason);
	fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		files_add(files, "kvm", NULL, -1, fd);
	return 0;
}

static int add_saved_state(struct vm *vm, struct files *files, struct error *err)
{
	int memory, mark, r;

	if (!vm->config->saved_state)
		return 0;
	r = saved_open(vm, &memory, &mark, err);
	if (r < 0)
		return r;
	files_add(files, "saved-state", NULL, -1, memory);
	files_add(files, "saved-mark", NULL, -1, mark);
	return 0;
}

int files_open(struct vm *vm, const json_t *parents, struct files *ret, struct error *err)
{
	AUTO_FREE char *lock_path = NULL;
	int r = 0;

	*ret = (struct files){ .descriptions = json_array(), .lock_fd = -1 };
	if (asprintf(&lock_path, "%s/lock", vm->folder) < 0)
		abort();
	ret->lock_fd = files_lock_holder(lock_path, "oyako-worker of oyakod", err);
	if (ret->lock_fd < 0)
		r = ret->lock_fd;
	if (r == 0)
		r = add_boot(vm, ret, err);
	if (r == 0)
		r = add_disks(vm, parents, ret, err);
	if (r == 0)
		r = add_kvm(vm, ret, err);
	if (r == 0)
		r = add_saved_state(vm, ret, err);
	if (r < 0)
		files_done(ret);
	return r;
}
