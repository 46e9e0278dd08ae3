#include "disk-files.h"

#include "base/macros.h"
#include "disk-job.h"
#include "files.h"

#include <errno.h>
#include <string.h>

struct finding {
	struct request *request;
	json_t *paths;
	size_t index;
	char *path; /* of the disk at work: the real one */
	struct disk_files *files;
	struct disk_job *job;
	bool cancelled;
	void (*found)(void *user, struct disk_files *files, const struct error *err);
	void *user;
};

static void next(struct finding *finding);

/* ---- the list ---- */

static struct disk_file *find(const struct disk_files *files, const char *path)
{
	for (size_t i = 0; i < files->count; i++)
		if (strcmp(files->list[i].path, path) == 0)
			return &files->list[i];
	return NULL;
}

static void add(struct disk_files *files, const char *path, const char *parent)
{
	if (find(files, path))
		return;
	files->list = reallocarray(files->list, files->count + 1, sizeof(*files->list));
	if (!files->list)
		abort();
	files->list[files->count++] =
	    (struct disk_file){ strdup(path), parent ? strdup(parent) : NULL, NULL };
}

/* parents: the direct one first. */
static void add_chain(struct disk_files *files, const char *path, const json_t *parents)
{
	for (size_t i = json_array_size(parents); i-- > 0;) {
		const char *one = json_string_value(json_array_get(parents, i));

		if (one)
			add(files, one, json_string_value(json_array_get(parents, i + 1)));
	}
	add(files, path, json_string_value(json_array_get(parents, 0)));
}

static void add_failure(struct disk_files *files, const char *path, const struct error *err)
{
	files->failures =
	    reallocarray(files->failures, files->failure_count + 1, sizeof(*files->failures));
	if (!files->failures)
		abort();
	files->failures[files->failure_count++] = (struct disk_failure){ strdup(path), *err };
}

void disk_files_free(struct disk_files *files)
{
	if (!files)
		return;
	for (size_t i = 0; i < files->count; i++) {
		free(files->list[i].path);
		free(files->list[i].parent);
		free(files->list[i].copy);
	}
	for (size_t i = 0; i < files->failure_count; i++)
		free(files->failures[i].path);
	free(files->list);
	free(files->failures);
	free(files);
}

/* ---- finding ---- */

static void finish(struct finding *finding, const struct error *err)
{
	struct request *request = finding->request;

	if (err) {
		disk_files_free(finding->files);
		finding->files = NULL;
	}
	request->cancel = NULL;
	finding->found(finding->user, finding->files, err);
	json_decref(finding->paths);
	free(finding->path);
	free(finding);
	request_release(request);
}

static void parents_found(void *user, const json_t *result, struct process *process,
			  const struct error *err)
{
	struct finding *finding = user;

	finding->job = NULL;
	if (err)
		add_failure(finding->files, finding->path, err);
	else
		add_chain(finding->files, finding->path, json_object_get(result, "parents"));
	finding->index++;
	next(finding);
}

/* 1: the answer comes later. */
static int look_at(struct finding *finding, const char *path, struct error *err)
{
	static const struct disk_job_events events = { NULL, parents_found };
	const struct config_disk disk = { .kind = CONFIG_DISK_HARD, .path = (char *)path };
	int r;

	free(finding->path);
	finding->path = realpath(path, NULL);
	if (!finding->path)
		return error_set_errno(err, errno, "'%.300s'", path);
	if (find(finding->files, finding->path))
		return 0;
	if (!files_may_have_parent(&disk)) {
		add(finding->files, finding->path, NULL);
		return 0;
	}
	r = disk_job_start(finding->request->daemon,
			   json_pack("{s:s, s:s}", "op", "parents", "path", finding->path), NULL, 0,
			   0, &events, finding, &finding->job, err);
	return r < 0 ? r : 1;
}

static void next(struct finding *finding)
{
	struct error err;

	while (!finding->cancelled && finding->index < json_array_size(finding->paths)) {
		const char *path =
		    json_string_value(json_array_get(finding->paths, finding->index));
		int r = look_at(finding, path, &err);

		if (r == 1)
			return;
		if (r < 0)
			add_failure(finding->files, path, &err);
		finding->index++;
	}
	if (finding->cancelled)
		error_set(&err, ERR_CANCELLED, "it was cancelled");
	finish(finding, finding->cancelled ? &err : NULL);
}

static void cancel(struct request *request)
{
	struct finding *finding = request->context;

	finding->cancelled = true;
	if (finding->job)
		disk_job_cancel(finding->job);
}

void disk_files_find(struct request *request, const json_t *paths,
		     void (*found)(void *user, struct disk_files *files, const struct error *err),
		     void *user)
{
	struct finding *finding = calloc(1, sizeof(*finding));
	struct disk_files *files = calloc(1, sizeof(*files));

	if (!finding || !files)
		abort();
	*finding = (struct finding){ .request = request,
				     .paths = json_deep_copy(paths),
				     .files = files,
				     .found = found,
				     .user = user };
	request_hold(request);
	request->context = finding;
	request->cancel = cancel;
	next(finding);
}

/* ---- copying ---- */

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int check_name(const struct disk_files *files, size_t index, struct error *err)
{
	const char *name = base_name(files->list[index].path);

	for (size_t i = 0; i < index; i++)
		if (strcmp(base_name(files->list[i].path), name) == 0)
			return error_set(err, ERR_EXISTS,
					 "two of its disks have the name '%.200s', which one "
					 "folder can't hold",
					 name);
	return 0;
}

int disk_files_copy(struct disk_files *files, const char *folder, struct transfer *transfer,
		    struct error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < files->count; i++) {
		struct disk_file *file = &files->list[i];

		r = check_name(files, i, err);
		if (r < 0)
			break;
		file->copy = transfer_path(folder, base_name(file->path));
		transfer_file(transfer, file->path, file->copy);
		if (file->parent)
			transfer_parent(transfer, file->copy, find(files, file->parent)->copy);
	}
	return r;
}

const struct disk_file *disk_files_get(const struct disk_files *files, const char *path)
{
	AUTO_FREE char *real = realpath(path, NULL);

	return real ? find(files, real) : NULL;
}

const char *disk_files_copy_of(const struct disk_files *files, const char *path)
{
	const struct disk_file *file = disk_files_get(files, path);

	return file ? file->copy : NULL;
}
