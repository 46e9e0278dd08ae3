#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/macros.h"
#include "base/parent-paths.h"
#include "disk/track.h"

#include <string.h>
#include <unistd.h>

static enum disk_format format_of(const char *name)
{
	for (int format = DISK_RAW; format <= DISK_VHDX; format++)
		if (name && strcmp(name, disk_format_name((enum disk_format)format)) == 0)
			return (enum disk_format)format;
	return DISK_PROBE;
}

static enum disk_type type_of(const char *name)
{
	for (int type = DISK_FIXED; type <= DISK_DIFFERENCING; type++)
		if (name && strcmp(name, disk_type_name((enum disk_type)type)) == 0)
			return (enum disk_type)type;
	return DISK_DYNAMIC;
}

int ops_new_disk(const struct job *job, struct disk_create_options *ret, struct error *err)
{
	*ret = (struct disk_create_options){
		.format = format_of(job_text(job, "format")),
		.type = type_of(job_text(job, "type")),
		.size_bytes = job_bytes(job, "size"),
		.block_bytes = (uint32_t)job_bytes(job, "block"),
		.logical_sector_bytes = (uint32_t)job_bytes(job, "logical"),
		.physical_sector_bytes = (uint32_t)job_bytes(job, "physical"),
		.sparse = job_flag(job, "sparse"),
	};
	return ret->format == DISK_PROBE ? error_set(err, ERR_INTERNAL, "the job has no format")
					 : 0;
}

/* The parent's changes are tracked: as those of the new disk, if the parent is not one that was
 * changed since. What tracks them is damaged or stale: the next start begins anew. */
static int let_track_follow(int track_fd, int fd, const struct disk_details *parent,
			    struct error *err)
{
	struct disk_details details;
	int r = disk_describe(fd, &details, err);

	if (r < 0)
		return r;
	r = track_follow(track_fd, &parent->link_id, &details.link_id, err);
	disk_details_done(&details);
	return r < 0 && err->code != ERR_CORRUPT ? r : 0;
}

/* image: the parent; NULL: none. track_fd -1: nobody tracks the parent's changes. */
static int create(int fd, int track_fd, const struct disk_create_options *options,
		  const struct image *image, const char *parent, json_t **ret, struct error *err)
{
	json_t *vhd;
	int r = sandbox_enter_working(err);

	if (r == 0 && image)
		r = image_sync(image, err);
	if (r == 0)
		r = disk_create(fd, options, err);
	if (r == 0 && track_fd >= 0)
		r = let_track_follow(track_fd, fd, options->parent, err);
	if (r == 0)
		r = image_describe_file(fd, parent, &vhd, err);
	if (r == 0)
		*ret = json_pack("{s:o}", "vhd", vhd);
	return r;
}

/* The parent's own chain must be whole: else the new disk could never be read. */
static int create_child(struct job *job, int fd, struct disk_create_options *options, json_t **ret,
			struct error *err)
{
	const char *path, *parent = job_text(job, "parent");
	AUTO_CLOSE int track_fd = job_flag(job, "tracked") ? job_take_fd(job, 1, err) : -1;
	struct parent_paths locators;
	struct image image;
	int r = job_path(job, "path", &path, err);

	if (job_flag(job, "tracked") && track_fd < 0)
		return -(int)err->code;
	if (r == 0 && image_find(parent, 0, &image, err) < 0)
		r = error_prefix(err, "the parent '%.200s'", parent);
	if (r < 0)
		return r;
	options->parent = image_details(&image);
	r = parent_paths_make(path, parent, &locators, err);
	if (r == 0) {
		options->parent_absolute = locators.absolute;
		options->parent_relative = locators.relative;
		r = create(fd, track_fd, options, &image, parent, ret, err);
		parent_paths_done(&locators);
	}
	image_close(&image, NULL);
	return r;
}

int op_create(struct job *job, json_t **ret, struct error *err)
{
	struct disk_create_options options;
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	int r = fd < 0 ? fd : ops_new_disk(job, &options, err);

	if (r < 0)
		return r;
	if (options.type == DISK_DIFFERENCING)
		return create_child(job, fd, &options, ret, err);
	r = sandbox_enter_opening(err);
	return r < 0 ? r : create(fd, -1, &options, NULL, NULL, ret, err);
}
