/*
 * Layers of a chain into one of their ancestors. Of which files the chain consists stands in the
 * images, and some of them are written to. So it takes two jobs: "parents" reads the names, oyakod
 * judges them, and "merge" opens these files for writing before it has read a byte of any.
 */
#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/macros.h"
#include "base/parent-paths.h"
#include "disk/merge.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void close_all(int *fds, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	free(fds);
}

/* The files [0, into] for writing, those below for reading. */
static int open_all(const json_t *paths, size_t into, int **ret, struct error *err)
{
	size_t count = json_array_size(paths);
	int *fds = malloc(MAX(count, 1u) * sizeof(int));

	if (!fds || into >= count) {
		free(fds);
		return error_set(err, ERR_INTERNAL, "the job names no chain");
	}
	for (size_t i = 0; i < count; i++) {
		const char *path = json_string_value(json_array_get(paths, i));

		fds[i] = open(path ? path : "",
			      (i <= into ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
		if (fds[i] < 0) {
			int failure = errno;

			close_all(fds, i);
			return error_set_errno(err, failure, "opening '%.200s'", path ? path : "");
		}
	}
	*ret = fds;
	return 0;
}

/* The files that were opened are still those of the chain. */
static int check_chain(const struct image *image, const int *fds, size_t count, struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		struct stat x, y;

		if (count != image->chain.count || fstat(fds[i], &x) < 0 ||
		    fstat(image->chain.layers[i].fd, &y) < 0 || x.st_dev != y.st_dev ||
		    x.st_ino != y.st_ino)
			return error_set(err, ERR_BUSY,
					 "its chain was changed just now: try again");
	}
	return 0;
}

/* How the layer above what is merged names what is merged into. */
static int find_locators(const json_t *paths, size_t first, size_t into, struct parent_paths *ret,
			 struct error *err)
{
	const char *above = json_string_value(json_array_get(paths, first - 1));
	const char *below = json_string_value(json_array_get(paths, into));

	return parent_paths_make(above, below, ret, err);
}

static int merge(struct job *job, const int *fds, size_t count, size_t into, json_t **ret,
		 struct error *err)
{
	const struct disk_progress progress = { job_progress, job };
	AUTO_CLOSE int track_fd = job_flag(job, "tracked") ? job_take_fd(job, 0, err) : -1;
	const json_t *paths = json_object_get(job->params, "paths");
	size_t first = (size_t)job_bytes(job, "first");
	struct disk_merge_options options = { .fds = fds,
					      .count = (unsigned)count,
					      .first = (unsigned)first,
					      .into = (unsigned)into };
	struct parent_paths locators = { 0 };
	AUTO_FREE char *below = NULL; /* of what is merged into */
	struct image image;
	json_t *vhd;
	const char *path;
	int r = job_path(job, "path", &path, err);

	if (r == 0 && job_flag(job, "tracked") && track_fd < 0)
		r = -(int)err->code;
	if (r == 0)
		r = image_find(path, 0, &image, err);
	if (r < 0)
		return r;
	if (track_fd >= 0)
		options.track_fd = &track_fd;
	r = first < into ? check_chain(&image, fds, count, err)
			 : error_set(err, ERR_INTERNAL, "the job names no layers");
	if (r == 0 && first > 0)
		r = find_locators(paths, first, into, &locators, err);
	options.absolute = locators.absolute;
	options.relative = locators.relative;
	if (r == 0 && into + 1 < count)
		below = realpath(image.chain.layers[into + 1].path, NULL);
	if (r == 0)
		r = sandbox_enter_working(err);
	if (r == 0)
		r = disk_merge(&options, &progress, err);
	if (r == 0)
		r = image_describe_file(fds[into], below, &vhd, err);
	if (r == 0)
		*ret = json_pack("{s:o}", "vhd", vhd);
	parent_paths_done(&locators);
	image_close(&image, NULL);
	return r;
}

int op_merge(struct job *job, json_t **ret, struct error *err)
{
	const json_t *paths = json_object_get(job->params, "paths");
	size_t into = (size_t)job_bytes(job, "into");
	int *fds = NULL, r = open_all(paths, into, &fds, err);

	if (r < 0)
		return r;
	r = merge(job, fds, json_array_size(paths), into, ret, err);
	close_all(fds, json_array_size(paths));
	return r;
}
