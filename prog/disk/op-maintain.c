/* Changes of an image in its place: size, room, properties. Each is crash safe by itself. */
#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/loop.h"
#include "base/macros.h"
#include "base/parent-paths.h"
#include "disk/maintain.h"

#include <string.h>
#include <unistd.h>

static struct disk_progress progress_of(struct job *job)
{
	return (struct disk_progress){ job_progress, job };
}

/* Finds the image that the job is about, to be changed, and enters the working sandbox. */
static int begin(struct job *job, unsigned flags, struct image *ret, struct error *err)
{
	const char *path;
	int r = job_path(job, "path", &path, err);

	if (r == 0)
		r = image_find(path, IMAGE_WRITES | flags, ret, err);
	if (r < 0)
		return r;
	r = sandbox_enter_working(err);
	if (r < 0)
		image_close(ret, NULL);
	return r;
}

/* The answer of all of them. r: of what was done. */
static int end(struct image *image, int r, json_t **ret, struct error *err)
{
	json_t *vhd;

	if (r == 0)
		r = image_describe_file(image->chain.layers[0].fd, image->parent, &vhd, err);
	if (r == 0)
		*ret = json_pack("{s:o}", "vhd", vhd);
	image_close(image, NULL);
	return r;
}

/* ---- resize ---- */

/* Work on the disk itself, before or after its size changes. */
static int with_disk(struct image *image, unsigned flags,
		     int (*work)(struct blk *disk, uint64_t *size_bytes, struct error *err),
		     uint64_t *size_bytes, struct error *err)
{
	struct loop *loop;
	int r = loop_new(&loop, err);

	if (r < 0)
		return r;
	r = image_open(image, loop, flags, err);
	if (r == 0)
		r = work(image->layers[0], size_bytes, err);
	if (r < 0)
		image_shut(image, NULL);
	else
		r = image_shut(image, err);
	loop_free(loop);
	return r;
}

static int find_minimum(struct blk *disk, uint64_t *size_bytes, struct error *err)
{
	return disk_minimum_bytes(disk, size_bytes, err);
}

static int move_gpt(struct blk *disk, uint64_t *size_bytes, struct error *err)
{
	return disk_move_gpt(disk, *size_bytes, err);
}

static int resize(struct job *job, struct image *image, struct error *err)
{
	uint64_t now = image_details(image)->size_bytes;
	struct disk_resize_options options = { .size_bytes = job_bytes(job, "size") };
	const struct disk_progress progress = progress_of(job);
	bool to_minimum = job_flag(job, "to_minimum");
	int r = 0;

	if (to_minimum || options.size_bytes < now)
		r = with_disk(image, 0, find_minimum, &options.minimum_bytes, err);
	if (r < 0)
		return r;
	/* The partition table is the guest's, and its second copy is left where it is, or cut off;
	 * as Hyper-V does. But the minimum is made of the first copy, which has to be true then. */
	if (to_minimum) {
		options.size_bytes = options.minimum_bytes;
		if (options.size_bytes < now)
			r = with_disk(image, IMAGE_WRITES, move_gpt, &options.size_bytes, err);
	}
	return r < 0 ? r : disk_resize(image->fd, &options, &progress, err);
}

int op_resize(struct job *job, json_t **ret, struct error *err)
{
	struct image image;
	int r = begin(job, 0, &image, err);

	return r < 0 ? r : end(&image, resize(job, &image, err), ret, err);
}

/* ---- compact ---- */

int op_compact(struct job *job, json_t **ret, struct error *err)
{
	const struct disk_progress progress = progress_of(job);
	enum disk_compact_mode mode =
	    job_flag(job, "quick") ? DISK_COMPACT_QUICK : DISK_COMPACT_FULL;
	struct image image;
	int r = begin(job, 0, &image, err);

	return r < 0 ? r : end(&image, disk_compact(image.fd, mode, &progress, err), ret, err);
}

/* ---- properties ---- */

static bool is_known_parent(const struct disk_details *child, const struct disk_details *parent)
{
	static const struct guid none;

	return guid_equal(&child->parent_id, &parent->link_id) ||
	       (!guid_equal(&child->parent_id2, &none) &&
		guid_equal(&child->parent_id2, &parent->link_id));
}

static int link_parent(struct job *job, struct image *image, const struct image *parent,
		       const struct parent_paths *locators, struct error *err)
{
	const struct disk_parent_link link = { .parent = image_details(parent),
					       .absolute = locators->absolute,
					       .relative = locators->relative };
	int r;

	if (image_details(image)->type != DISK_DIFFERENCING)
		return error_set(err, ERR_INVALID, "it is no differencing disk: it has no parent");
	if (!job_flag(job, "ignore_mismatch") &&
	    !is_known_parent(image_details(image), link.parent))
		return error_set(
		    err, ERR_INVALID,
		    "'%.200s' is not the disk that it was made over, or has been changed since "
		    "(-IgnoreIdMismatch takes it all the same; what was changed is damaged then)",
		    parent->chain.layers[0].path);
	r = image_sync(parent, err);
	return r < 0 ? r : disk_set_parent(image->fd, &link, err);
}

/* Whatever names a file comes before the sandbox that knows no files. */
static int set_parent(struct job *job, struct image *image, const char *path, struct error *err)
{
	struct parent_paths locators;
	struct image parent;
	int r = image_find(path, 0, &parent, err);

	if (r < 0)
		return error_prefix(err, "the parent '%.200s'", path);
	r = parent_paths_make(image->chain.layers[0].path, path, &locators, err);
	if (r == 0) {
		r = sandbox_enter_working(err);
		if (r == 0)
			r = link_parent(job, image, &parent, &locators, err);
		parent_paths_done(&locators);
	}
	free(image->parent);
	image->parent = strdup(path);
	image_close(&parent, NULL);
	return r;
}

static int set(struct job *job, struct image *image, struct error *err)
{
	const char *parent = job_text(job, "parent");
	uint32_t physical = (uint32_t)job_bytes(job, "physical");
	int r = 0;

	if (parent)
		return set_parent(job, image, parent, err);
	r = sandbox_enter_working(err);
	if (r == 0 && physical)
		r = disk_set_physical_sector(image->fd, physical, err);
	if (r == 0 && job_flag(job, "reset_id")) {
		struct guid id;

		guid_generate(&id);
		r = disk_set_id(image->fd, &id, err);
	}
	return r;
}

int op_set(struct job *job, json_t **ret, struct error *err)
{
	struct image image;
	const char *path;
	int r = job_path(job, "path", &path, err);

	/* Its parent may be what is wrong. */
	if (r == 0)
		r = image_find(path, IMAGE_WRITES | IMAGE_LOOSE, &image, err);
	return r < 0 ? r : end(&image, set(job, &image, err), ret, err);
}
