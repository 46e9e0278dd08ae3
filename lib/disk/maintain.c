#include "disk/maintain.h"

#include "base/macros.h"
#include "disk/vhd.h"
#include "disk/vhdx.h"

/* An image opened for offline work. */
struct offline {
	enum disk_format format;
	struct file *file;
};

static int offline_open(int fd, enum file_locking locking, struct offline *ret, struct error *err)
{
	int rc = disk_probe(fd, &ret->format, err);

	return rc < 0 ? rc : file_open_blocking(fd, locking, &ret->file, err);
}

static int not_for(enum disk_format format, const char *what, struct error *err)
{
	return error_set(err, ERR_INVALID, "a %s disk has no %s", disk_format_name(format), what);
}

/* ---- size ---- */

static int resize_raw(struct file *file, uint64_t size_bytes, struct error *err)
{
	int rc = file_set_size(file, size_bytes);

	if (rc == 0)
		rc = file_sync_now(file);
	return rc < 0 ? error_set_errno(err, -rc, "resizing the raw image") : 0;
}

static int check_size(const struct disk_details *details, const struct disk_resize_options *options,
		      struct error *err)
{
	uint64_t to = options->size_bytes;

	if (to == 0 || to % details->logical_sector_bytes)
		return error_set(err, ERR_INVALID,
				 "a disk size of %lu bytes: it has whole sectors of %u bytes", to,
				 details->logical_sector_bytes);
	if (to >= details->size_bytes || options->unsafe_shrink)
		return 0;
	if (details->format == DISK_VHD)
		return error_set(err, ERR_INVALID, "a VHD disk can't be made smaller");
	if (!options->minimum_bytes)
		return error_set(err, ERR_INVALID,
				 "the disk has no partition table that tells how small it can be");
	if (to < options->minimum_bytes)
		return error_set(err, ERR_INVALID,
				 "the disk can't have less than %lu bytes: partitions end there",
				 options->minimum_bytes);
	return 0;
}

int disk_resize(int fd, const struct disk_resize_options *options,
		const struct disk_progress *progress, struct error *err)
{
	struct disk_details details;
	struct offline image;
	int rc = disk_describe(fd, &details, err);

	if (rc < 0)
		return rc;
	rc = check_size(&details, options, err);
	disk_details_done(&details);
	if (rc < 0 || options->size_bytes == details.size_bytes)
		return rc;
	rc = offline_open(fd, FILE_EXCLUSIVE, &image, err);
	if (rc < 0)
		return rc;
	if (image.format == DISK_VHD)
		rc = vhd_resize(image.file, options->size_bytes, progress, err);
	else if (image.format == DISK_VHDX)
		rc = vhdx_resize(image.file, options->size_bytes, progress, err);
	else
		rc = resize_raw(image.file, options->size_bytes, err);
	file_abandon(image.file);
	return rc;
}

/* ---- compaction ---- */

int disk_compact(int fd, enum disk_compact_mode mode, const struct disk_progress *progress,
		 struct error *err)
{
	struct offline image;
	int rc = offline_open(fd, FILE_EXCLUSIVE, &image, err);

	if (rc < 0)
		return rc;
	if (image.format == DISK_VHD)
		rc = vhd_compact(image.file, mode, progress, err);
	else if (image.format == DISK_VHDX)
		rc = vhdx_compact(image.file, mode, progress, err);
	else
		rc = not_for(image.format, "blocks to compact", err);
	file_abandon(image.file);
	return rc;
}

/* ---- properties ---- */

int disk_set_parent(int fd, const struct disk_parent_link *link, struct error *err)
{
	struct offline image;
	int rc = offline_open(fd, FILE_EXCLUSIVE, &image, err);

	if (rc < 0)
		return rc;
	if (image.format == DISK_VHD)
		rc = vhd_set_parent(image.file, link, err);
	else if (image.format == DISK_VHDX)
		rc = vhdx_set_parent(image.file, link, err);
	else
		rc = not_for(image.format, "parent", err);
	file_abandon(image.file);
	return rc;
}

int disk_set_id(int fd, const struct guid *id, struct error *err)
{
	struct offline image;
	int rc = offline_open(fd, FILE_EXCLUSIVE, &image, err);

	if (rc < 0)
		return rc;
	if (image.format == DISK_VHD)
		rc = vhd_set_id(image.file, id, err);
	else if (image.format == DISK_VHDX)
		rc = vhdx_set_id(image.file, id, err);
	else
		rc = not_for(image.format, "id", err);
	file_abandon(image.file);
	return rc;
}

int disk_set_physical_sector(int fd, uint32_t bytes, struct error *err)
{
	struct offline image;
	int rc = offline_open(fd, FILE_EXCLUSIVE, &image, err);

	if (rc < 0)
		return rc;
	if (image.format == DISK_VHDX)
		rc = vhdx_set_physical_sector(image.file, bytes, err);
	else
		rc = not_for(image.format, "physical sector size of its own", err);
	file_abandon(image.file);
	return rc;
}

/* ---- check ---- */

int disk_check(int fd, const struct disk_check_options *options, enum disk_severity *ret_worst,
	       struct error *err)
{
	struct offline image;
	int rc = offline_open(fd, options->repair ? FILE_EXCLUSIVE : FILE_SHARED, &image, err);

	*ret_worst = DISK_NOTE;
	if (rc < 0)
		return rc;
	if (image.format == DISK_VHD)
		rc = vhd_check(image.file, options, ret_worst, err);
	else if (image.format == DISK_VHDX)
		rc = vhdx_check(image.file, options, ret_worst, err);
	file_abandon(image.file);
	return rc;
}
