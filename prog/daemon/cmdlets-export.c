/*
 * Export-VM: a folder of the VM's name with Hyper-V's three in it. Its description is written last,
 * so that an export that was cut short is none:
 *
 *	PATH/NAME/Virtual Machines/ID/vm.json, boot/ (kernel and initial RAM disk)
 *	PATH/NAME/Virtual Hard Disks/
 *	PATH/NAME/Snapshots/
 *
 * A differencing disk goes with its parents. Checkpoints stay behind: what is exported is the VM as
 *it is now.
 */
#include "cmdlets.h"

#include "base/macros.h"
#include "config/config-json.h"
#include "disk-job.h"
#include "files.h"
#include "objects.h"
#include "transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One request: VMs one after the other. */
struct export
{
	struct request *request;
	struct vm **vms;
	size_t count, index;
	struct transfer *transfer;
	struct config_vm *config; /* of the copy */
	json_t *parents;          /* of its disks, the direct one first: a list for each disk */
	struct disk_job *job;     /* finds them */
	char *folder;             /* of its description */
};

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* ---- what is copied ---- */

/* Replaces *field, the path of a file, by that of its copy in `folder`. */
static int copy_to(struct export *export, char **field, const char *folder, struct error *err)
{
	AUTO_FREE char *to = transfer_path(folder, base_name(*field));

	transfer_file(export->transfer, *field, to);
	return config_set_string(field, to, err);
}

static int check_names(const struct config_vm *config, struct error *err)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		for (unsigned k = 0; k < i; k++) {
			const char *one = config->disks[i].path, *other = config->disks[k].path;

			if (one && other && config->disks[i].kind == CONFIG_DISK_HARD &&
			    config->disks[k].kind == CONFIG_DISK_HARD &&
			    strcmp(base_name(one), base_name(other)) == 0)
				return error_set(err, ERR_EXISTS,
						 "two of its disks have the name '%.200s', which "
						 "one folder can't hold",
						 base_name(one));
		}
	return 0;
}

static bool same_folder(const char *one, const char *other)
{
	AUTO_FREE char *real_one = realpath(one, NULL);
	AUTO_FREE char *real_other = realpath(other, NULL);
	size_t length = real_one ? (size_t)(base_name(real_one) - real_one) : 0;

	return real_other && length == (size_t)(base_name(real_other) - real_other) &&
	       strncmp(real_one, real_other, length) == 0;
}

/* A child names its parent by the way from its own folder: that way must be the same in the copy.
 */
static int copy_parents(struct export *export, unsigned disk, const char *folder, struct error *err)
{
	const char *child = export->config->disks[disk].path;
	const json_t *parents = json_array_get(export->parents, disk);

	for (size_t i = 0; i < json_array_size(parents); i++) {
		const char *parent = json_string_value(json_array_get(parents, i));
		AUTO_FREE char *to = parent ? transfer_path(folder, base_name(parent)) : NULL;

		if (!parent || !same_folder(child, parent))
			return error_set(err, ERR_UNSUPPORTED,
					 "the parent '%.150s' of '%.150s' lies in another folder; "
					 "Convert-VHD makes one disk of them",
					 parent ? parent : "", child);
		transfer_file(export->transfer, parent, to);
	}
	return 0;
}

/* ISO images stay where they are, as Hyper-V leaves them. */
static int copy_disks(struct export *export, const char *folder, struct error *err)
{
	struct config_vm *config = export->config;
	int r = check_names(config, err);

	for (unsigned i = 0; r == 0 && i < config->disk_count; i++) {
		if (config->disks[i].kind != CONFIG_DISK_HARD)
			continue;
		r = copy_parents(export, i, folder, err);
		if (r == 0)
			r = copy_to(export, &config->disks[i].path, folder, err);
	}
	return r;
}

static int copy_boot(struct export *export, struct error *err)
{
	AUTO_FREE char *folder = transfer_path(export->folder, "boot");
	int r;

	if (!export->config->kernel_path)
		return 0;
	r = transfer_folder(export->transfer, folder, err);
	if (r == 0)
		r = copy_to(export, &export->config->kernel_path, folder, err);
	if (r == 0 && export->config->initrd_path)
		r = copy_to(export, &export->config->initrd_path, folder, err);
	return r;
}

/* A VM's name may hold what a folder's can't. */
static char *top_folder(const char *path, const char *name)
{
	char *folder = transfer_path(path, name), *at = folder + strlen(path) + 1;

	if (*at == '.')
		*at = '_';
	for (; *at; at++)
		if (*at == '/')
			*at = '_';
	return folder;
}

static int prepare(struct export *export, struct vm *vm, struct error *err)
{
	const char *path = request_string(export->request, "Path");
	AUTO_FREE char *top = top_folder(path, vm->config->name);
	AUTO_FREE char *machines = transfer_path(top, "Virtual Machines");
	AUTO_FREE char *disks = transfer_path(top, "Virtual Hard Disks");
	AUTO_FREE char *snapshots = transfer_path(top, "Snapshots");
	const char *const folders[] = { path, top, machines, disks, snapshots };
	struct stat st;
	int r = 0;

	if (vm->state != VM_OFF)
		return error_set(err, ERR_STATE,
				 "only a virtual machine that is off can be exported so far (its "
				 "state is %s)",
				 vm_state_name(vm->state));
	if (stat(top, &st) == 0)
		return error_set(err, ERR_EXISTS, "there is '%.300s' already", top);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(folders); i++)
		r = transfer_folder(export->transfer, folders[i], err);
	export->folder = transfer_path(machines, vm->id);
	if (r == 0)
		r = transfer_folder(export->transfer, export->folder, err);
	if (r == 0)
		r = copy_disks(export, disks, err);
	if (r == 0)
		r = copy_boot(export, err);
	return r;
}

/* ---- one VM after the other ---- */

static void next(struct export *export);

static void end_one(struct export *export)
{
	vm_unref(export->vms[export->index]);
	config_vm_free(export->config);
	export->config = NULL;
	json_decref(export->parents);
	export->parents = NULL;
	free(export->folder);
	export->folder = NULL;
	export->index++;
}

static int write_description(struct export *export, struct error *err)
{
	AUTO_CLOSE int fd = open(export->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.200s'", export->folder);
	return config_save(fd, "vm.json", export->config, err);
}

static int copied(void *user, const struct error *err)
{
	struct export *export = user;
	struct vm *vm = export->vms[export->index];
	struct error failure;
	int r = 0;

	if (err)
		failure = *err;
	else
		r = write_description(export, &failure);
	if (err || r < 0) {
		request_error(export->request, vm->config->name, &failure);
		r = -(int)failure.code;
	} else {
		vm_event(vm, EVENT_VM_EXPORTED, NULL, "'%s' was exported to '%.300s'.",
			 vm->config->name, export->folder);
		request_result(export->request, object_vm(vm));
	}
	end_one(export);
	next(export);
	return r;
}

static void copy_all(struct export *export)
{
	struct vm *vm = export->vms[export->index];
	struct error err;

	export->transfer = transfer_new(export->request);
	if (prepare(export, vm, &err) == 0) {
		transfer_run(export->transfer, copied, export);
		return;
	}
	transfer_free(export->transfer);
	request_error(export->request, vm->config->name, &err);
	end_one(export);
	next(export);
}

/* ---- the parents of its disks, one disk after the other ---- */

static void find_parents(struct export *export);

static void skip(struct export *export, const struct error *err)
{
	request_error(export->request, export->vms[export->index]->config->name, err);
	end_one(export);
	next(export);
}

static void parents_found(void *user, const json_t *result, struct process *process,
			  const struct error *err)
{
	struct export *export = user;
	struct error failure;

	export->job = NULL;
	if (err) {
		failure = *err;
		error_prefix(&failure, "disk '%.200s'",
			     export->config->disks[json_array_size(export->parents)].path);
		skip(export, &failure);
		return;
	}
	json_array_append(export->parents, json_object_get(result, "parents"));
	find_parents(export);
}

static void find_parents(struct export *export)
{
	static const struct disk_job_events events = { NULL, parents_found };
	size_t disk;
	struct error err;

	while ((disk = json_array_size(export->parents)) < export->config->disk_count) {
		const struct config_disk *config = &export->config->disks[disk];

		if (!files_may_have_parent(config)) {
			json_array_append_new(export->parents, json_array());
			continue;
		}
		if (disk_job_start(export->request->daemon,
				   json_pack("{s:s, s:s}", "op", "parents", "path", config->path),
				   NULL, 0, 0, &events, export, &export->job, &err) < 0)
			skip(export, &err);
		return;
	}
	copy_all(export);
}

static void next(struct export *export)
{
	struct error err;

	if (export->index == export->count) {
		request_release(export->request);
		free(export->vms);
		free(export);
		return;
	}
	export->config = vm_config_copy(export->vms[export->index], &err);
	export->parents = json_array();
	if (!export->config) {
		skip(export, &err);
		return;
	}
	config_set_string(&export->config->saved_state, NULL, NULL);
	config_set_string(&export->config->parent_checkpoint, NULL, NULL);
	find_parents(export);
}

static void add_vm(struct request *request, struct vm *vm)
{
	struct export *export = request->context;

	export->vms[export->count++] = vm_ref(vm);
}

void cmdlet_export_vm(struct request *request)
{
	struct export *export = calloc(1, sizeof(*export));

	if (!export)
		abort();
	export->request = request;
	export->vms = calloc(request->daemon->vm_count + 1, sizeof(struct vm *));
	if (!export->vms)
		abort();
	request->context = export;
	request_for_vms(request, "Name", add_vm);
	request_hold(request);
	next(export);
}
