/* A disk into a new image of another kind. */
#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/copy.h"

#include <errno.h>
#include <fcntl.h>
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

int op_convert(struct job *job, json_t **ret, struct error *err)
{
	AUTO_CLOSE int fd = job_take_fd(job, 0, err);
	struct image source;
	const char *path;
	int r = fd < 0 ? fd : job_path(job, "source", &path, err);

	if (r == 0)
		r = image_find(path, job_flag(job, "source_raw") ? IMAGE_RAW : 0, &source, err);
	return r < 0 ? r : convert(job, &source, fd, ret, err);
}
