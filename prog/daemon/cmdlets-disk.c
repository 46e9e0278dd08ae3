/* Cmdlets about disk images. What they need to know of an image, oyako-disk tells. */
#include "cmdlets.h"

#include "base/macros.h"
#include "disk-task.h"
#include "disk-user.h"
#include "files.h"
#include "mounts.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- paths and formats ---- */

json_t *cmdlets_paths_of(const struct request *request, const char *name)
{
	json_t *value = json_object_get(request->params, name);

	return json_is_array(value) ? json_incref(value) : json_pack("[O]", value);
}

static bool ends_with(const char *path, const char *end)
{
	size_t len = strlen(path), end_len = strlen(end);

	return len > end_len && strcasecmp(path + len - end_len, end) == 0;
}

/* A VHD Set names other files, which hold its content: it is no image by itself. */
static int refuse_set(const char *path, struct error *err)
{
	return ends_with(path, ".vhds")
		   ? error_set(err, ERR_UNSUPPORTED, "VHD Sets (.vhds) are not there yet")
		   : 0;
}

/* As Hyper-V, by the name. */
static int format_of(const char *path, const char **ret, struct error *err)
{
	static const struct {
		const char *end, *format;
	} names[] = {
		{ ".vhdx", "vhdx" }, { ".avhdx", "vhdx" }, { ".vhd", "vhd" }, { ".avhd", "vhd" }
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (ends_with(path, names[i].end)) {
			*ret = names[i].format;
			return 0;
		}
	if (refuse_set(path, err) < 0)
		return -(int)err->code;
	return error_set(err, ERR_INVALID, "a virtual hard disk's name ends in .vhdx or .vhd");
}

/* ---- what is shown ---- */

/* Does anybody hold a lock on the file: a running VM, a mounted disk, another program? */
static bool is_attached(const char *path)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	return fd >= 0 && fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

/* Hyper-V's object, of what oyako-disk says: no member but these gets through. */
json_t *cmdlets_object_vhd(const struct daemon *daemon, const char *path, const json_t *result)
{
	static const char *const members[] = {
		"VhdFormat", "VhdType",        "FileSize",
		"Size",      "MinimumSize",    "LogicalSectorSize",
		"BlockSize", "ParentPath",     "PhysicalSectorSize",
		"Alignment", "DiskIdentifier", "FragmentationPercentage",
	};
	static const char *const numbers[] = { "DiskNumber", "Number" };
	const struct mount *mount = mounts_by_path(daemon->mounts, path);
	json_t *vhd = json_object_get(result, "vhd"), *object;
	char host[65] = "";

	gethostname(host, sizeof(host) - 1);
	object = json_pack("{s:s, s:s}", "ComputerName", host, "Path", path);
	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		json_t *value = json_object_get(vhd, members[i]);

		json_object_set_new(object, members[i], value ? json_incref(value) : json_null());
	}
	json_object_set_new(object, "Attached", json_boolean(is_attached(path)));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_set_new(object, numbers[i],
				    mount ? json_integer(mount->number) : json_null());
	json_object_set_new(object, "NbdSocket", mount ? json_string(mount->socket) : json_null());
	return object;
}

static int show_vhd(struct disk_task *task, const json_t *result, struct process *process,
		    json_t **ret, struct error *err)
{
	*ret = cmdlets_object_vhd(task->request->daemon, task->path, result);
	return 0;
}

/* ---- Get-VHD ---- */

static int begin_get(struct disk_task *task, json_t **ret, struct error *err)
{
	int r = refuse_set(task->path, err);

	if (r == 0)
		*ret = json_pack("{s:s, s:s}", "op", "describe", "path", task->path);
	return r;
}

static const struct disk_task_ops get_ops = {
	.activity = "looking at it",
	.begin = begin_get,
	.end = show_vhd,
};

void cmdlets_show_vhd(struct request *request, const char *path)
{
	disk_task_run(request, json_pack("[s]", path), &get_ops);
}

static void add_paths_of_vm(struct request *request, json_t *paths, const char *id)
{
	const struct vm *vm = vm_find_id(request->daemon, id);
	struct error err;

	if (!vm) {
		error_set(&err, ERR_NOT_FOUND, "there is no virtual machine with this identifier");
		request_error(request, id, &err);
		return;
	}
	for (unsigned i = 0; i < vm->config->disk_count; i++)
		if (vm->config->disks[i].kind == CONFIG_DISK_HARD && vm->config->disks[i].path)
			json_array_append_new(paths, json_string(vm->config->disks[i].path));
}

/* The mounted disk of that number, or an error of the request. */
static struct mount *numbered_mount(struct request *request)
{
	unsigned number = (unsigned)request_integer(request, "DiskNumber", 0);
	struct mount *mount = mounts_by_number(request->daemon->mounts, number);
	char text[24];
	struct error err;

	if (!mount) {
		snprintf(text, sizeof(text), "%u", number);
		error_set(&err, ERR_NOT_FOUND, "no disk of this number is mounted");
		request_error(request, text, &err);
	}
	return mount;
}

void cmdlet_get_vhd(struct request *request)
{
	const json_t *ids = json_object_get(request->params, "VMId");
	json_t *paths;

	if (json_object_get(request->params, "DiskNumber")) {
		struct mount *mount = numbered_mount(request);

		paths = mount ? json_pack("[s]", mount->path) : json_array();
	} else if (ids) {
		paths = json_array();
		for (size_t i = 0; i < json_array_size(ids); i++)
			add_paths_of_vm(request, paths, json_string_value(json_array_get(ids, i)));
	} else {
		paths = cmdlets_paths_of(request, "Path");
	}
	disk_task_run(request, paths, &get_ops);
}

/* ---- New-VHD ---- */

static const char *type_of(const struct request *request)
{
	if (request_string(request, "ParentPath"))
		return "differencing";
	return request_switch(request, "Fixed") ? "fixed" : "dynamic";
}

static json_t *create_message(const struct request *request, const char *path, const char *format)
{
	bool with_vm = request_string(request, "NewVHDPath") != NULL;

	return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:s*}", "op", "create", "path",
			 path, "format", format, "type", type_of(request), "size",
			 request_integer(request, with_vm ? "NewVHDSizeBytes" : "SizeBytes", 0),
			 "block", request_integer(request, "BlockSizeBytes", 0), "logical",
			 request_integer(request, "LogicalSectorSizeBytes", 0), "physical",
			 request_integer(request, "PhysicalSectorSizeBytes", 0), "parent",
			 request_string(request, "ParentPath"));
}

/* The content of a disk of the host. */
static json_t *copy_message(const struct request *request, const char *source, const char *format)
{
	return json_pack("{s:s, s:s, s:s, s:s, s:b, s:I}", "op", "convert", "source", source,
			 "format", format, "type", type_of(request), "source_raw", 1, "block",
			 request_integer(request, "BlockSizeBytes", 0));
}

int cmdlets_begin_new_disk(struct disk_task *task, json_t **ret, struct error *err)
{
	const char *format = NULL;
	int r = format_of(task->path, &format, err);

	if (r == 0)
		r = output_open(task->path, &task->output, err);
	if (r < 0)
		return r;
	if (request_string(task->request, "SourceDisk"))
		*ret = copy_message(task->request, request_string(task->request, "SourceDisk"),
				    format);
	else
		*ret = create_message(task->request, task->path, format);
	return 0;
}

static const struct disk_task_ops new_ops = {
	.activity = "making it",
	.begin = cmdlets_begin_new_disk,
	.end = show_vhd,
};

void cmdlet_new_vhd(struct request *request)
{
	disk_task_run(request, cmdlets_paths_of(request, "Path"), &new_ops);
}

/* ---- Convert-VHD ---- */

bool cmdlets_is_raw(const char *path)
{
	struct stat st;

	if (ends_with(path, ".img") || ends_with(path, ".raw") || ends_with(path, ".iso"))
		return true;
	return stat(path, &st) == 0 && S_ISBLK(st.st_mode);
}

/* Of a file to be made; raw ones, too. */
int cmdlets_target_format(const struct request *request, const char *path, const char **ret,
			  struct error *err)
{
	int r = 0;

	if (cmdlets_is_raw(path))
		*ret = "raw";
	else if (format_of(path, ret, NULL) < 0)
		r = error_set(err, ERR_INVALID,
			      "the new file's name ends in .vhdx, .vhd, .img, .raw, .qcow2, .vmdk "
			      "or .vdi");
	if (r == 0 && request_switch(request, "ForAzure") && strcmp(*ret, "vhd") != 0)
		r = error_set(err, ERR_INVALID,
			      "Azure takes only VHD: the new file's name ends in .vhd");
	return r;
}

static json_t *convert_message(const struct request *request, const char *source,
			       const char *format)
{
	const char *type = request_string(request, "VHDType");
	const char *parent = request_string(request, "ParentPath");
	json_t *message = json_pack("{s:s, s:s, s:s, s:b, s:I, s:b}", "op", "convert", "source",
				    source, "format", format, "source_raw", cmdlets_is_raw(source),
				    "block", request_integer(request, "BlockSizeBytes", 0), "azure",
				    request_switch(request, "ForAzure"));

	if (parent) {
		json_object_set_new(message, "type", json_string("differencing"));
		json_object_set_new(message, "parent", json_string(parent));
		json_object_set_new(message, "path",
				    json_string(request_string(request, "DestinationPath")));
	} else if (type) {
		json_object_set_new(message, "type",
				    json_string(strcmp(type, "Fixed") == 0 ? "fixed" : "dynamic"));
	}
	return message;
}

/* -ParentPath and -VHDType Differencing belong together; the first alone is enough. */
static int check_parent(const struct request *request, struct error *err)
{
	const char *type = request_string(request, "VHDType");
	const char *parent = request_string(request, "ParentPath");

	if (!parent && type && strcmp(type, "Differencing") == 0)
		return error_set(err, ERR_INVALID, "a differencing disk needs -ParentPath");
	if (parent &&
	    ((type && strcmp(type, "Differencing") != 0) || request_switch(request, "ForAzure")))
		return error_set(err, ERR_INVALID, "only a differencing disk has a -ParentPath");
	return 0;
}

static int begin_convert(struct disk_task *task, json_t **ret, struct error *err)
{
	const char *target = request_string(task->request, "DestinationPath");
	const char *format = NULL;
	int r = refuse_set(task->path, err);

	if (r == 0)
		r = refuse_set(target, err);
	if (r == 0)
		r = cmdlets_target_format(task->request, target, &format, err);
	if (r == 0)
		r = check_parent(task->request, err);
	if (r == 0)
		r = output_open(target, &task->output, err);
	if (r == 0)
		*ret = convert_message(task->request, task->path, format);
	return r;
}

static int end_convert(struct disk_task *task, const json_t *result, struct process *process,
		       json_t **ret, struct error *err)
{
	*ret = cmdlets_object_vhd(task->request->daemon,
				  request_string(task->request, "DestinationPath"), result);
	if (request_switch(task->request, "DeleteSource") && unlink(task->path) < 0)
		return error_set_errno(err, errno, "it was converted, but deleting it failed");
	return 0;
}

static const struct disk_task_ops convert_ops = {
	.activity = "converting it",
	.begin = begin_convert,
	.end = end_convert,
};

void cmdlet_convert_vhd(struct request *request)
{
	if (!request_string(request, "ParentPath") &&
	    (cmdlets_foreign_format(request_string(request, "Path")) ||
	     cmdlets_foreign_format(request_string(request, "DestinationPath"))))
		cmdlets_convert_foreign(request);
	else
		disk_task_run(request, cmdlets_paths_of(request, "Path"), &convert_ops);
}

/* ---- Test-VHD ---- */

static int begin_test(struct disk_task *task, json_t **ret, struct error *err)
{
	*ret = json_pack("{s:s, s:s, s:b, s:b}", "op", "check", "path", task->path, "repair",
			 request_switch(task->request, "Repair"), "azure",
			 request_switch(task->request, "ForAzure"));
	return 0;
}

/* Each finding is a result, and one that is not good makes the cmdlet fail. */
static int end_test(struct disk_task *task, const json_t *result, struct process *process,
		    json_t **ret, struct error *err)
{
	const char *verdict = json_string_value(json_object_get(result, "verdict"));
	json_t *findings = json_object_get(result, "findings");

	*ret = json_pack("{s:s, s:b, s:O*}", "Path", task->path, "Healthy", verdict == NULL,
			 "Findings", findings);
	return verdict ? error_set(err, ERR_CORRUPT, "%s", verdict) : 0;
}

static const struct disk_task_ops test_ops = {
	.activity = "checking it",
	.begin = begin_test,
	.end = end_test,
};

void cmdlet_test_vhd(struct request *request)
{
	disk_task_run(request, cmdlets_paths_of(request, "Path"), &test_ops);
}

/* ---- Resize-VHD, Optimize-VHD, Set-VHD ---- */

static int begin_resize(struct disk_task *task, json_t **ret, struct error *err)
{
	*ret = json_pack("{s:s, s:s, s:I, s:b}", "op", "resize", "path", task->path, "size",
			 request_integer(task->request, "SizeBytes", 0), "to_minimum",
			 request_switch(task->request, "ToMinimumSize"));
	return 0;
}

static const struct disk_task_ops resize_ops = {
	.activity = "resizing it",
	.begin = begin_resize,
	.end = show_vhd,
};

void cmdlet_resize_vhd(struct request *request)
{
	json_t *paths = cmdlets_paths_of(request, "Path"), *idle = json_array();

	for (size_t i = 0; i < json_array_size(paths); i++) {
		const char *path = json_string_value(json_array_get(paths, i));
		struct disk_user who = disk_user_of(request->daemon, path);

		if (who.vm)
			cmdlets_grow_live(request, path, who);
		else
			json_array_append(idle, json_array_get(paths, i));
	}
	json_decref(paths);
	disk_task_run(request, idle, &resize_ops);
}

/* Which blocks the guest has given up is known by themselves here: Retrim and Pretrimmed ask for no
 * more than Quick does. Full and Prezeroed also look for blocks that hold only zeros. */
static int begin_optimize(struct disk_task *task, json_t **ret, struct error *err)
{
	const char *mode = request_string(task->request, "Mode");

	*ret = json_pack("{s:s, s:s, s:b}", "op", "compact", "path", task->path, "quick",
			 strcmp(mode, "Full") != 0 && strcmp(mode, "Prezeroed") != 0);
	return 0;
}

static const struct disk_task_ops optimize_ops = {
	.activity = "compacting it",
	.begin = begin_optimize,
	.end = show_vhd,
};

void cmdlet_optimize_vhd(struct request *request)
{
	disk_task_run(request, cmdlets_paths_of(request, "Path"), &optimize_ops);
}

static int begin_set(struct disk_task *task, json_t **ret, struct error *err)
{
	const struct request *request = task->request;

	*ret = json_pack("{s:s, s:s, s:s*, s:b, s:I, s:b}", "op", "set", "path", task->path,
			 "parent", request_string(request, "ParentPath"), "ignore_mismatch",
			 request_switch(request, "IgnoreIdMismatch"), "physical",
			 request_integer(request, "PhysicalSectorSizeBytes", 0), "reset_id",
			 request_switch(request, "ResetDiskIdentifier"));
	return 0;
}

static const struct disk_task_ops set_ops = {
	.activity = "changing it",
	.begin = begin_set,
	.end = show_vhd,
};

void cmdlet_set_vhd(struct request *request)
{
	const char *leaf = request_string(request, "LeafPath");
	struct disk_user who = { 0 };

	if (leaf)
		who = disk_user_of(request->daemon, leaf);
	if (who.vm)
		cmdlets_set_parent_live(request, who);
	else
		disk_task_run(request, cmdlets_paths_of(request, "Path"), &set_ops);
}

/* ---- Merge-VHD ---- */

/* First the chain's names are asked for, then it is merged: docs/disk-protocol.md. */
static int begin_merge(struct disk_task *task, json_t **ret, struct error *err)
{
	*ret = json_pack("{s:s, s:s}", "op", "parents", "path", task->path);
	return 0;
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The names come out of the images: they must be of disks, and not more than there can be. The
 * index of the ancestor that is merged into. */
static int judge_chain(const struct request *request, const json_t *parents, size_t *ret,
		       struct error *err)
{
	const char *target = request_string(request, "DestinationPath"), *format;
	size_t found = target ? SIZE_MAX : 0;

	if (json_array_size(parents) == 0)
		return error_set(err, ERR_INVALID, "it is no differencing disk: it has no parent");
	for (size_t i = 0; i < json_array_size(parents); i++) {
		const char *path = json_string_value(json_array_get(parents, i));

		if (!path || path[0] != '/')
			return error_set(err, ERR_INVALID, "its parent has an impossible name");
		if (format_of(path, &format, err) < 0)
			return error_prefix(err, "its parent '%.200s'", path);
		if (target && found == SIZE_MAX && same_file(path, target))
			found = i;
	}
	if (found == SIZE_MAX)
		return error_set(err, ERR_INVALID, "'%.300s' is none of its parents", target);
	*ret = found;
	return 0;
}

static int ask_for_merge(struct disk_task *task, const json_t *parents, json_t **ret,
			 struct error *err)
{
	json_t *paths;
	size_t target = 0;
	int r = judge_chain(task->request, parents, &target, err);

	if (r < 0)
		return r;
	if (is_attached(task->path)) {
		cmdlets_merge_live(task->request, task->path,
				   json_string_value(json_array_get(parents, target)));
		return 0;
	}
	paths = json_pack("[s]", task->path);
	json_array_extend(paths, (json_t *)parents);
	r = files_open_track_of(task->path, parents, &task->fd, err);
	if (r < 0) {
		json_decref(paths);
		return r;
	}
	/* What has to be deleted afterwards, and what is left. */
	task->context = json_pack("{s:O, s:I}", "paths", paths, "into", (json_int_t)target + 1);
	*ret = json_pack("{s:s, s:s, s:o, s:I, s:b}", "op", "merge", "path", task->path, "paths",
			 paths, "into", (json_int_t)target + 1, "tracked", task->fd >= 0);
	return 1;
}

static void merge_over(struct disk_task *task)
{
	json_decref(task->context);
	task->context = NULL;
}

static int end_merge(struct disk_task *task, const json_t *result, struct process *process,
		     json_t **ret, struct error *err)
{
	const json_t *paths = json_object_get(task->context, "paths");
	size_t into = (size_t)json_integer_value(json_object_get(task->context, "into"));
	int r = 0;

	if (task->step == 0)
		return ask_for_merge(task, json_object_get(result, "parents"), ret, err);
	*ret = cmdlets_object_vhd(task->request->daemon,
				  json_string_value(json_array_get(paths, into)), result);
	for (size_t i = into; r == 0 && i-- > 0;) {
		const char *path = json_string_value(json_array_get(paths, i));

		files_keep_track(path, json_string_value(json_array_get(paths, into)));
		if (unlink(path) < 0)
			r = error_set_errno(err, errno,
					    "it was merged, but deleting '%.300s' failed", path);
	}
	if (r == 0)
		merge_over(task);
	return r;
}

static const struct disk_task_ops merge_ops = {
	.activity = "merging it",
	.begin = begin_merge,
	.end = end_merge,
	.failed = merge_over,
};

void cmdlet_merge_vhd(struct request *request)
{
	disk_task_run(request, cmdlets_paths_of(request, "Path"), &merge_ops);
}

/* ---- Mount-VHD ---- */

static int begin_mount(struct disk_task *task, json_t **ret, struct error *err)
{
	bool read_only = request_switch(task->request, "ReadOnly");
	struct mount *mount;
	int r = mounts_begin(task->request->daemon->mounts, task->path, read_only, &mount,
			     &task->fd, err);

	if (r < 0)
		return r;
	task->context = mount;
	*ret = json_pack("{s:s, s:s, s:b, s:b}", "op", "serve", "path", task->path, "read_only",
			 read_only, "raw", cmdlets_is_raw(task->path));
	return 0;
}

static void mount_failed(struct disk_task *task)
{
	if (task->context)
		mounts_forget(task->context);
	task->context = NULL;
}

static bool has_program(const char *name)
{
	const char *path = getenv("PATH");

	while (path && *path) {
		int len = (int)strcspn(path, ":");
		AUTO_FREE char *file = NULL;

		if (asprintf(&file, "%.*s/%s", len, path, name) < 0)
			abort();
		if (access(file, X_OK) == 0)
			return true;
		path += len + (path[len] == ':');
	}
	return false;
}

/* What the host has to look into it with. */
static json_t *hints(const struct mount *mount)
{
	json_t *list = json_array();
	char text[400];

	if (has_program("nbdfuse")) {
		snprintf(text, sizeof(text), "nbdfuse FILE nbd+unix:///?socket=%.250s",
			 mount->socket);
		json_array_append_new(list, json_string(text));
	}
	if (has_program("nbd-client") && access("/dev/nbd0", F_OK) == 0) {
		snprintf(text, sizeof(text), "nbd-client -unix %.250s /dev/nbd0", mount->socket);
		json_array_append_new(list, json_string(text));
	}
	snprintf(text, sizeof(text), "qemu-img info nbd+unix:///?socket=%.250s", mount->socket);
	json_array_append_new(list, json_string(text));
	return list;
}

static int end_mount(struct disk_task *task, const json_t *result, struct process *process,
		     json_t **ret, struct error *err)
{
	struct mount *mount = task->context;
	int r = mounts_started(mount, process, err);

	if (r < 0)
		return r;
	task->context = NULL;
	*ret = cmdlets_object_vhd(task->request->daemon, task->path, result);
	json_object_set_new(*ret, "Use", hints(mount));
	return 0;
}

static const struct disk_task_ops mount_ops = {
	.activity = "mounting it",
	.flags = DISK_JOB_SERVES | DISK_JOB_OUTLIVES,
	.begin = begin_mount,
	.end = end_mount,
	.failed = mount_failed,
};

void cmdlet_mount_vhd(struct request *request)
{
	disk_task_run(request, cmdlets_paths_of(request, "Path"), &mount_ops);
}

/* ---- Dismount-VHD ---- */

static void dismounted(void *user, struct mount *mount, const char *how)
{
	struct request *request = user;
	struct error err;

	/* An adopted process doesn't tell its status. */
	if (mount->process.child && strcmp(how, "ended with status 0") != 0) {
		error_set(&err, ERR_IO, "what was written last may be lost: its oyako-disk %s",
			  how);
		request_error(request, mount->path, &err);
	}
	request_release(request);
}

static void dismount(struct request *request, struct mount *mount)
{
	struct error err;

	if (!mount->watch || mount->ended) {
		error_set(&err, ERR_BUSY, "it is being mounted or dismounted");
		request_error(request, mount->path, &err);
		return;
	}
	request_hold(request);
	request_progress(request, mount->path, "dismounting it");
	mounts_end(mount, dismounted, request);
}

void cmdlet_dismount_vhd(struct request *request)
{
	json_t *paths = cmdlets_paths_of(request, "Path");
	struct error err;

	if (json_object_get(request->params, "DiskNumber")) {
		struct mount *mount = numbered_mount(request);

		if (mount)
			dismount(request, mount);
	}
	for (size_t i = 0; i < json_array_size(paths); i++) {
		const char *path = json_string_value(json_array_get(paths, i));
		struct mount *mount = path ? mounts_by_path(request->daemon->mounts, path) : NULL;

		if (mount) {
			dismount(request, mount);
		} else if (path) {
			error_set(&err, ERR_NOT_FOUND, "it is not mounted");
			request_error(request, path, &err);
		}
	}
	json_decref(paths);
}

/* ---- New-VFD ---- */

static int make_floppy(const char *path, struct error *err)
{
	struct output output;
	int r;

	if (!ends_with(path, ".vfd"))
		return error_set(err, ERR_INVALID, "a virtual floppy disk's name ends in .vfd");
	r = output_open(path, &output, err);
	if (r < 0)
		return r;
	if (ftruncate(output.fd, CONFIG_FLOPPY_BYTES) < 0 || fsync(output.fd) < 0)
		r = error_set_errno(err, errno, "writing it");
	else
		r = output_commit(&output, err);
	output_done(&output);
	return r;
}

void cmdlet_new_vfd(struct request *request)
{
	json_t *paths = cmdlets_paths_of(request, "Path");

	for (size_t i = 0; i < json_array_size(paths); i++) {
		const char *path = json_string_value(json_array_get(paths, i));
		struct error err;

		if (make_floppy(path, &err) < 0)
			request_error(request, path, &err);
	}
	json_decref(paths);
}
