#include "disk-user.h"

#include "base/clock.h"
#include "base/macros.h"
#include "cmdlets.h"
#include "disk-job.h"
#include "files.h"
#include "run.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define WORKER_TIMEOUT_NS (60 * NS_PER_SEC)

static bool is_file(const char *path, const struct stat *wanted)
{
	struct stat st;

	return path && stat(path, &st) == 0 && st.st_dev == wanted->st_dev &&
	       st.st_ino == wanted->st_ino;
}

struct disk_user disk_user_of(const struct daemon *daemon, const char *path)
{
	struct stat wanted;

	if (stat(path, &wanted) < 0)
		return (struct disk_user){ 0 };
	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct vm *vm = daemon->vms[i];

		for (unsigned k = 0; vm->run && k < vm->config->disk_count; k++)
			if (is_file(vm->config->disks[k].path, &wanted))
				return (struct disk_user){ vm, k };
	}
	return (struct disk_user){ 0 };
}

/* ---- by a layer of its chain ---- */

/* One disk after the other that may have a chain is asked for it. */
struct search {
	struct daemon *daemon;
	struct stat wanted;
	json_t *leaves; /* their paths */
	size_t index;
	disk_user_found *found;
	void *user;
};

static void search_next(void *user);

static void search_end(struct search *search, struct disk_user who, const struct error *err)
{
	search->found(search->user, who, err);
	json_decref(search->leaves);
	free(search);
}

static bool has_layer(const struct search *search, const json_t *parents)
{
	for (size_t i = 0; i < json_array_size(parents); i++)
		if (is_file(json_string_value(json_array_get(parents, i)), &search->wanted))
			return true;
	return false;
}

static void chain_known(void *user, const json_t *result, struct process *process,
			const struct error *err)
{
	struct search *search = user;
	const char *leaf = json_string_value(json_array_get(search->leaves, search->index++));

	/* What can't be read is not the one that is looked for: that has been read. */
	if (!err && has_layer(search, json_object_get(result, "parents")))
		search_end(search, disk_user_of(search->daemon, leaf), NULL);
	else
		search_next(search);
}

static void search_next(void *user)
{
	static const struct disk_job_events events = { NULL, chain_known };
	struct search *search = user;
	struct disk_job *job;
	struct error err;

	if (search->index == json_array_size(search->leaves)) {
		search_end(search, (struct disk_user){ 0 }, NULL);
		return;
	}
	if (disk_job_start(search->daemon,
			   json_pack("{s:s, s:O}", "op", "parents", "path",
				     json_array_get(search->leaves, search->index)),
			   NULL, 0, 0, &events, search, &job, &err) < 0)
		search_end(search, (struct disk_user){ 0 }, &err);
}

static json_t *leaves_of(const struct daemon *daemon)
{
	json_t *leaves = json_array();

	for (size_t i = 0; i < daemon->vm_count; i++) {
		const struct vm *vm = daemon->vms[i];

		for (unsigned k = 0; vm->run && k < vm->config->disk_count; k++)
			if (files_may_have_parent(&vm->config->disks[k]))
				json_array_append_new(leaves,
						      json_string(vm->config->disks[k].path));
	}
	return leaves;
}

struct at_once {
	struct disk_user who;
	disk_user_found *found;
	void *user;
};

static void tell_at_once(void *user)
{
	struct at_once *at_once = user;

	at_once->found(at_once->user, at_once->who, NULL);
	if (at_once->who.vm)
		vm_unref(at_once->who.vm);
	free(at_once);
}

void disk_user_find(struct daemon *daemon, const char *path, disk_user_found *found, void *user)
{
	struct disk_user who = disk_user_of(daemon, path);
	struct at_once *at_once = malloc(sizeof(*at_once));
	struct search *search = calloc(1, sizeof(*search));

	if (!search || !at_once)
		abort();
	*search = (struct search){ .daemon = daemon, .found = found, .user = user };
	if (who.vm || stat(path, &search->wanted) < 0) {
		free(search);
		if (who.vm)
			vm_ref(who.vm);
		*at_once = (struct at_once){ who, found, user };
		loop_post(daemon->loop, tell_at_once, at_once);
		return;
	}
	free(at_once);
	search->leaves = leaves_of(daemon);
	loop_post(daemon->loop, search_next, search);
}

/* ---- asking its worker ---- */

void disk_user_place(struct disk_user who, json_t *message)
{
	const struct config_vm *config = who.vm->config;
	const struct config_disk *disk = &config->disks[who.disk];
	char id[GUID_TEXT_SIZE];

	guid_format(&config->scsi_ids[disk->controller_number], id);
	json_object_set_new(message, "controller", json_string(id));
	json_object_set_new(message, "location", json_integer(disk->lun));
}

struct asking {
	struct request *request;
	char *path;
};

static void answered(void *user, const json_t *reply, const struct error *err)
{
	struct asking *asking = user;

	if (err)
		request_error(asking->request, asking->path, err);
	else
		cmdlets_show_vhd(asking->request, asking->path);
	request_release(asking->request);
	free(asking->path);
	free(asking);
}

void disk_user_ask(struct request *request, const char *path, struct disk_user who, json_t *message,
		   const int *fds, unsigned fd_count)
{
	struct asking *asking = malloc(sizeof(*asking));

	if (!asking || !message)
		abort();
	*asking = (struct asking){ request, strdup(path) };
	if (!asking->path)
		abort();
	request_hold(request);
	disk_user_place(who, message);
	run_request_fds(who.vm, message, fds, fd_count, WORKER_TIMEOUT_NS, answered, asking);
}
