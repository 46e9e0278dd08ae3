#include "job.h"

#include "base/macros.h"
#include "config/config-json.h"
#include "disk/disk.h"
#include "ipc/ipc.h"

#include <errno.h>
#include <string.h>

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void job_init(struct job *job)
{
	memset(job, 0, sizeof(*job));
	job->files.kernel = job->files.initrd = job->files.kvm = job->files.saved = -1;
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		job->files.disks[i] = job->files.tracks[i] = -1;
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		job->files.nics[i] = -1;
	job->control_fd = job->console_fds[0] = job->console_fds[1] = job->mark_fd = -1;
}

void job_done(struct job *job)
{
	close_fd(&job->files.kernel);
	close_fd(&job->files.initrd);
	close_fd(&job->files.kvm);
	close_fd(&job->files.saved);
	close_fd(&job->mark_fd);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		close_fd(&job->files.disks[i]);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		close_fd(&job->files.tracks[i]);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		machine_parents_done(&job->files.parents[i]);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		close_fd(&job->files.nics[i]);
	close_fd(&job->control_fd);
	close_fd(&job->console_fds[0]);
	close_fd(&job->console_fds[1]);
	config_vm_free(job->vm);
	job->vm = NULL;
}

/* Where a descriptor of that role and number goes, or NULL. */
static int *slot(struct job *job, const char *role, unsigned number)
{
	if (strcmp(role, "control") == 0)
		return &job->control_fd;
	if (strcmp(role, "console") == 0 && number >= 1 && number <= 2)
		return &job->console_fds[number - 1];
	if (strcmp(role, "kernel") == 0)
		return &job->files.kernel;
	if (strcmp(role, "initrd") == 0)
		return &job->files.initrd;
	if (strcmp(role, "kvm") == 0)
		return &job->files.kvm;
	if (strcmp(role, "saved-state") == 0)
		return &job->files.saved;
	if (strcmp(role, "saved-mark") == 0)
		return &job->mark_fd;
	if (strcmp(role, "disk") == 0 && number < CONFIG_MAX_DISKS)
		return &job->files.disks[number];
	if (strcmp(role, "track") == 0 && number < CONFIG_MAX_DISKS)
		return &job->files.tracks[number];
	if (strcmp(role, "switch") == 0 && number < CONFIG_MAX_NICS)
		return &job->files.nics[number];
	return NULL;
}

/* Takes fd. */
static int add_parent(struct job *job, unsigned index, int fd, struct error *err)
{
	struct machine_parents *parents = &job->files.parents[index];
	int *bigger = realloc(parents->fds, (parents->count + 1) * sizeof(*bigger));

	if (bigger)
		parents->fds = bigger;
	if (!bigger || parents->count == DISK_CHAIN_MAX) {
		close(fd);
		return error_set(err, ERR_LIMIT, "disk %u has too many parents", index);
	}
	parents->fds[parents->count++] = fd;
	return 0;
}

static int place_fd(struct job *job, const json_t *description, int fd, struct error *err)
{
	const char *role = json_string_value(json_object_get(description, "role"));
	const char *key = role && strcmp(role, "console") == 0 ? "port" : "index";
	json_int_t number = json_integer_value(json_object_get(description, key));
	int *where = NULL;

	if (role && strcmp(role, "parent") == 0 && number >= 0 && number < CONFIG_MAX_DISKS)
		return add_parent(job, (unsigned)number, fd, err);
	if (role && number >= 0 && number <= CONFIG_MAX_DISKS)
		where = slot(job, role, (unsigned)number);
	if (!where || *where >= 0) {
		close(fd);
		return error_set(err, ERR_INVALID, "a descriptor for '%s' is not expected",
				 role ? role : "");
	}
	*where = fd;
	return 0;
}

static int place_fds(struct job *job, const json_t *msg, const int *fds, unsigned fd_count,
		     struct error *err)
{
	const json_t *descriptions = json_object_get(msg, "descriptors");
	int r = 0;

	if (json_array_size(descriptions) != fd_count)
		r = error_set(err, ERR_INVALID, "%u descriptors came, %zu were announced", fd_count,
			      json_array_size(descriptions));
	for (unsigned i = 0; i < fd_count; i++) {
		if (r < 0)
			close(fds[i]);
		else
			r = place_fd(job, json_array_get(descriptions, i), fds[i], err);
	}
	return r;
}

static int take_message(struct job *job, const json_t *msg, const int *fds, unsigned fd_count,
			struct error *err)
{
	const json_t *vm = json_object_get(msg, "vm");
	int r = place_fds(job, msg, fds, fd_count, err);

	if (r == 0 && vm && !job->vm)
		r = config_vm_from_json(vm, &job->vm, err);
	return r;
}

int job_read(int fd, struct job *ret, struct error *err)
{
	struct job job;
	bool more = true;
	int r = 0;

	job_init(&job);
	while (r == 0 && more) {
		int fds[IPC_MAX_FDS];
		unsigned fd_count = 0;
		json_t *msg;

		r = ipc_recv(fd, &msg, fds, &fd_count, err);
		if (r == 0)
			r = error_set(err, ERR_CANCELLED, "the daemon went away");
		if (r < 0)
			break;
		more = json_is_true(json_object_get(msg, "more"));
		r = take_message(&job, msg, fds, fd_count, err);
		json_decref(msg);
	}
	if (r == 0 && (!job.vm || job.control_fd < 0))
		r = error_set(err, ERR_INVALID, "the job has no description or no control socket");
	if (r < 0) {
		job_done(&job);
		return error_prefix(err, "reading the job");
	}
	*ret = job;
	return 0;
}

static int send_and_drop(int fd, json_t *msg)
{
	int r = ipc_send(fd, msg, NULL, 0, NULL);

	json_decref(msg);
	return r;
}

int job_mark_used(const struct job *job, struct error *err)
{
	static const char used[] = "used\n";

	if (job->mark_fd < 0)
		return 0;
	if (pwrite(job->mark_fd, used, sizeof(used) - 1, 0) != (ssize_t)sizeof(used) - 1 ||
	    fdatasync(job->mark_fd) < 0)
		return error_set_errno(err, errno, "marking the saved state as used");
	return 0;
}

int job_started(int fd, const char *backend, const char *reason)
{
	return send_and_drop(fd, json_pack("{s:s, s:s, s:s}", "type", "started", "backend", backend,
					   "backend_reason", reason));
}

int job_failed(int fd, const struct error *failure)
{
	return send_and_drop(fd, json_pack("{s:s, s:{s:s, s:s}}", "type", "failed", "error", "code",
					   err_code_name(failure->code), "text", failure->text));
}
