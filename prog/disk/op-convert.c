/* A disk into a new image of another kind. */
#include "ops.h"

#include "child.h"
#include "image.h"
#include "sandbox.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/copy.h"
#include "blk/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the job leaves open is as the source has it. */
static void complete_options(const struct job *job, const struct disk_details *source,
			     struct disk_create_options *options)
{
	if (!job_text(job, "type"))
		options->type = source->type == DISK_FIXED ? DISK_FIXED : DISK_DYNAMIC;
	options->size_bytes = source->size_bytes;
	if (job_flag(job, "azure")) {
		options->type = DISK_FIXED;
		options->size_bytes = ALIGN_UP(source->size_bytes, MIB);
	}
	options->logical_sector_bytes = source->logical_sector_bytes;
	/* A raw image knows nothing of it. */
	if (options->format == DISK_VHDX && source->format == DISK_VHDX)
		options->physical_sector_bytes = source->physical_sector_bytes;
	if (options->format == DISK_RAW) {
		/* With holes, unless it was asked for: to other programs it is the same. */
		options->sparse = !job_text(job, "type") || options->type != DISK_FIXED;
		options->logical_sector_bytes = 0;
	}
}

static int copy(struct job *job, struct loop *loop, const struct image *source, int fd,
		const struct disk_create_options *options, struct error *err)
{
	struct disk_options target_options = { .format = options->format };
	struct blk_copy copy = { .loop = loop, .source = &source->disk, .user = job };
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0), r;

	if (own < 0)
		return error_set_errno(err, errno, "opening the new image");
	r = disk_open(loop, own, &target_options, &copy.target, err);
	if (r < 0) {
		close(own);
		return error_prefix(err, "the new image");
	}
	copy.step = job_progress;
	r = blk_copy(&copy, err);
	if (r < 0)
		blk_close(copy.target, NULL);
	else
		r = blk_close(copy.target, err);
	return r;
}

static int check_azure(int fd, struct error *err)
{
	struct disk_details details;
	int r = disk_describe(fd, &details, err);

	if (r < 0)
		return r;
	r = disk_check_azure(&details, err);
	disk_details_done(&details);
	return r;
}

static int convert(struct job *job, struct image *source, int fd, json_t **ret, struct error *err)
{
	struct disk_create_options options;
	struct loop *loop = NULL;
	json_t *vhd;
	int r = ops_new_disk(job, &options, err);

	if (r == 0)
		r = sandbox_enter_working(err);
	if (r == 0)
		r = loop_new(&loop, err);
	if (r == 0)
		r = image_open(source, loop, 0, err);
	if (r == 0) {
		complete_options(job, image_details(source), &options);
		r = disk_create(fd, &options, err);
	}
	if (r == 0)
		r = copy(job, loop, source, fd, &options, err);
	if (r == 0 && job_flag(job, "azure"))
		r = check_azure(fd, err);
	if (r == 0)
		r = image_describe_file(fd, NULL, &vhd, err);
	if (r == 0)
		*ret = json_pack("{s:o}", "vhd", vhd);
	image_close(source, NULL);
	loop_free(loop);
	return r;
}

/* ---- into a differencing disk ---- */

#define PIECE_BYTES (1 * MIB)
#define GRAIN_BYTES 4096u /* smaller differences are written with what is around them */

struct difference {
	struct job *job;
	const struct image *source;
	struct child child;
	uint64_t size_bytes;
	uint8_t *wanted, *there; /* PIECE_BYTES each */
};

static size_t grain_at(size_t at, size_t len)
{
	return MIN(len - at, (size_t)GRAIN_BYTES);
}

static bool differs(const struct difference *d, size_t at, size_t len)
{
	return memcmp(d->wanted + at, d->there + at, grain_at(at, len)) != 0;
}

/* Runs of grains that differ. */
static int put_differences(struct difference *d, uint64_t offset, size_t len, struct error *err)
{
	size_t end;
	int r = 0;

	for (size_t at = 0; r == 0 && at < len; at = end) {
		bool different = differs(d, at, len);

		for (end = at; end < len && differs(d, end, len) == different;)
			end += grain_at(end, len);
		if (different)
			r = child_put(&d->child, offset + at, d->wanted + at, end - at, err);
	}
	return r;
}

static int compare_piece(struct difference *d, uint64_t offset, size_t len, struct error *err)
{
	enum blk_result result = blk_read_now(d->source->disk.layers[0], offset, d->wanted, len);

	if (result == BLK_OK)
		result = blk_read_now(d->child.disk, offset, d->there, len);
	return result == BLK_OK ? put_differences(d, offset, len, err)
				: error_set(err, ERR_IO, "reading at %#lx of the disks: %s", offset,
					    blk_result_name(result));
}

/* How much from offset on both disks are sure to have zeros of. */
static int common_zeros(const struct difference *d, uint64_t offset, uint64_t *ret,
			struct error *err)
{
	struct blk_extent source, there;
	uint64_t left = d->size_bytes - offset;
	int r = blk_layers_extent(&d->source->disk, offset, left, &source, err);

	if (r == 0)
		r = blk_layers_extent(&d->child.all, offset, left, &there, err);
	if (r < 0)
		return r;
	*ret = source.kind == BLK_EXTENT_ZERO && there.kind == BLK_EXTENT_ZERO
		   ? MIN(source.length_bytes, there.length_bytes)
		   : 0;
	return 0;
}

static int write_differences(struct difference *d, struct error *err)
{
	uint64_t len;
	int r = 0;

	for (uint64_t at = 0; r == 0 && at < d->size_bytes; at += len) {
		r = common_zeros(d, at, &len, err);
		if (r == 0 && len == 0) {
			len = MIN(PIECE_BYTES - at % PIECE_BYTES, d->size_bytes - at);
			r = compare_piece(d, at, len, err);
		}
		if (r == 0 && !job_progress(d->job, at + len, d->size_bytes))
			r = job_cancelled(err);
	}
	return r;
}

static int make_child(struct difference *d, struct loop *loop, int fd, struct error *err)
{
	const struct disk_details *parent = image_details(&d->child.parent);
	struct disk_create_options options;
	int r = ops_new_disk(d->job, &options, err);

	if (r == 0 && parent->size_bytes != d->size_bytes)
		r = error_set(err, ERR_INVALID,
			      "the disk has %lu bytes and its parent to be %lu: they must be equal",
			      d->size_bytes, parent->size_bytes);
	if (r == 0 && parent->format != options.format)
		r = error_set(err, ERR_INVALID, "a differencing disk has its parent's format: %s",
			      disk_format_name(parent->format));
	if (r == 0)
		r = child_create(&d->child, loop, fd, &options, err);
	if (r == 0)
		r = write_differences(d, err);
	if (r == 0)
		r = child_close(&d->child, err);
	return r;
}

static int convert_to_child(struct job *job, struct image *source, const char *parent, int fd,
			    json_t **ret, struct error *err)
{
	struct difference d = { .job = job,
				.source = source,
				.size_bytes = image_details(source)->size_bytes,
				.wanted = malloc(PIECE_BYTES),
				.there = malloc(PIECE_BYTES) };
	struct loop *loop = NULL;
	const char *path;
	json_t *vhd;
	int r = job_path(job, "path", &path, err);

	if (r == 0 && (!d.wanted || !d.there))
		r = error_set(err, ERR_NO_MEMORY, "no memory to compare disks");
	if (r == 0 && (r = child_find(parent, path, &d.child, err)) == 0) {
		r = sandbox_enter_working(err);
		if (r == 0)
			r = loop_new(&loop, err);
		if (r == 0)
			r = image_open(source, loop, 0, err);
		if (r == 0)
			r = make_child(&d, loop, fd, err);
		if (r == 0)
			r = image_describe_file(fd, parent, &vhd, err);
		if (r == 0)
			*ret = json_pack("{s:o}", "vhd", vhd);
		child_close(&d.child, NULL);
	}
	image_close(source, NULL);
	loop_free(loop);
	free(d.wanted);
	free(d.there);
	return r;
}

int op_convert(struct job *job, json_t **ret, struct error *err)
{
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	const char *path, *parent = job_text(job, "parent");
	struct image source;
	int r = fd < 0 ? fd : job_path(job, "source", &path, err);

	if (r == 0)
		r = image_find(path, job_flag(job, "source_raw") ? IMAGE_RAW : 0, &source, err);
	if (r < 0)
		return r;
	return parent ? convert_to_child(job, &source, parent, fd, ret, err)
		      : convert(job, &source, fd, ret, err);
}
