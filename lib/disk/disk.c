#include "disk/disk.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/new-image.h"
#include "disk/raw.h"
#include "disk/vhd.h"
#include "disk/vhdx.h"
#include "spec/vhdx.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define POOL_THREADS 4u

static const char *const format_names[] = {
	[DISK_PROBE] = "probe", [DISK_RAW] = "raw", [DISK_VHD] = "vhd", [DISK_VHDX] = "vhdx"
};
static const char *const type_names[] = {
	[DISK_FIXED] = "fixed", [DISK_DYNAMIC] = "dynamic", [DISK_DIFFERENCING] = "differencing"
};

const char *disk_format_name(enum disk_format format)
{
	return (size_t)format < ARRAY_SIZE(format_names) ? format_names[format] : "?";
}

const char *disk_type_name(enum disk_type type)
{
	return (size_t)type < ARRAY_SIZE(type_names) ? type_names[type] : "?";
}

/* ---- opening ---- */

int disk_probe(int fd, enum disk_format *ret, struct error *err)
{
	uint8_t start[8] = { 0 };
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_set_errno(err, errno, "reading the disk image");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, ERR_INVALID,
				 "a disk image is a regular file or a block device");
	if (pread(fd, start, sizeof(start), 0) < 0)
		return error_set_errno(err, errno, "reading the disk image");
	if (load_le64(start) == VHDX_IDENTIFIER_SIGNATURE)
		*ret = DISK_VHDX;
	else if (vhd_probe(fd))
		*ret = DISK_VHD;
	else
		*ret = DISK_RAW;
	return 0;
}

static int open_file(struct loop *loop, int fd, enum disk_engine engine, struct file **ret,
		     struct error *err)
{
	if (engine != DISK_ENGINE_THREADS && file_open_uring(loop, fd, ret, err) == 0)
		return 0;
	if (engine == DISK_ENGINE_URING)
		return err ? -(int)err->code : -ERR_UNSUPPORTED;
	return file_open_threads(loop, fd, POOL_THREADS, ret, err);
}

static int open_format(struct file *file, enum disk_format format,
		       const struct disk_options *options, struct blk **ret, struct error *err)
{
	switch (format) {
	case DISK_VHD:
		return vhd_open(file, options, ret, err);
	case DISK_VHDX:
		return vhdx_open(file, options, ret, err);
	default:
		return raw_open(file, options, ret, err);
	}
}

int disk_open(struct loop *loop, int fd, const struct disk_options *options, struct blk **ret,
	      struct error *err)
{
	static const struct disk_options defaults;
	enum disk_format format;
	struct file *file;
	int rc;

	if (!options)
		options = &defaults;
	format = options->format;
	if (format == DISK_PROBE && (rc = disk_probe(fd, &format, err)) < 0)
		return rc;
	rc = options->unlocked ? 0 : file_lock(fd, !options->read_only, err);
	if (rc < 0)
		return rc;
	rc = open_file(loop, fd, options->engine, &file, err);
	if (rc < 0) {
		file_unlock(fd);
		return rc;
	}
	rc = open_format(file, format, options, ret, err);
	if (rc < 0)
		file_abandon(file);
	else if (options->bypass_cache) /* not before: structures are read in pieces of any size */
		file_bypass_cache(file, fd);
	return rc;
}

bool disk_link_id(const struct blk *disk, struct guid *ret)
{
	return vhdx_link_id(disk, ret);
}

/* ---- chains ---- */

/* The layers from `index` down. On failure the descriptors are the caller's again: they were
 * duplicated. */
static int open_layers(struct loop *loop, const int *fds, unsigned count, unsigned index,
		       const struct disk_options *options, struct blk **ret, struct error *err)
{
	struct disk_options layer =
	    index == 0 ? *options
		       : (struct disk_options){ .engine = options->engine, .read_only = true };
	int fd = fcntl(fds[index], F_DUPFD_CLOEXEC, 3), rc = 0;

	if (fd < 0)
		return error_set_errno(err, errno, "opening layer %u of the disk's chain", index);
	if (index + 1 < count)
		rc = open_layers(loop, fds, count, index + 1, options, &layer.parent, err);
	if (rc == 0)
		rc = disk_open(loop, fd, &layer, ret, err);
	if (rc < 0) {
		if (layer.parent)
			blk_close(layer.parent, NULL);
		close(fd);
	}
	return rc;
}

int disk_check_links(const int *fds, unsigned count, struct error *err)
{
	struct disk_details child = { 0 }, parent;
	int rc = disk_describe(fds[0], &child, err);

	for (unsigned i = 1; rc == 0 && i < count; i++) {
		rc = disk_describe(fds[i], &parent, err);
		if (rc < 0)
			break;
		rc = disk_check_parent(&child, &parent, err);
		if (rc < 0)
			error_prefix(err, "layers %u and %u of the disk's chain", i - 1, i);
		disk_details_done(&child);
		child = parent;
	}
	if (rc == 0 && child.type == DISK_DIFFERENCING)
		rc = error_set(err, ERR_INVALID,
			       "the last of the %u layers of the disk's chain is a differencing "
			       "disk: its parent is missing",
			       count);
	disk_details_done(&child);
	return rc;
}

int disk_open_chain(struct loop *loop, const int *fds, unsigned count,
		    const struct disk_options *options, struct blk **ret, struct error *err)
{
	static const struct disk_options defaults;
	int rc;

	if (count == 0 || count > DISK_CHAIN_MAX)
		return error_set(err, ERR_LIMIT, "a disk's chain has 1 to %u layers, not %u",
				 DISK_CHAIN_MAX, count);
	if (!options)
		options = &defaults;
	if (count == 1)
		return disk_open(loop, fds[0], options, ret, err);
	rc = disk_check_links(fds, count, err);
	if (rc == 0)
		rc = open_layers(loop, fds, count, 0, options, ret, err);
	for (unsigned i = 0; rc == 0 && i < count; i++)
		close(fds[i]);
	return rc;
}

/* ---- describing ---- */

static void describe_raw(struct disk_details *ret)
{
	ret->type = DISK_FIXED;
	ret->size_bytes = ret->file_bytes;
	ret->logical_sector_bytes = ret->physical_sector_bytes = 512;
}

static int describe_format(struct file *file, enum disk_format format, struct disk_details *ret,
			   struct error *err)
{
	if (format == DISK_VHD)
		return vhd_describe(file, ret, err);
	if (format == DISK_VHDX)
		return vhdx_describe(file, ret, err);
	describe_raw(ret);
	return 0;
}

int disk_describe(int fd, struct disk_details *ret, struct error *err)
{
	struct disk_details details = { 0 };
	enum disk_format format;
	struct file *file;
	struct stat st;
	int rc = disk_probe(fd, &format, err);

	if (rc == 0)
		rc = file_open_blocking(fd, FILE_UNLOCKED, &file, err);
	if (rc < 0)
		return rc;
	details.file_bytes = file->size_bytes;
	rc = describe_format(file, format, &details, err);
	file_abandon(file);
	if (rc < 0)
		return rc;
	details.format = format;
	details.file_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	if (fstat(fd, &st) == 0)
		details.allocated_bytes = (uint64_t)st.st_blocks * 512;
	*ret = details;
	return 0;
}

int disk_sync(int fd, struct error *err)
{
	struct file *file;
	int rc = file_open_blocking(fd, FILE_UNLOCKED, &file, err);

	if (rc < 0)
		return rc;
	rc = file_sync_now(file);
	file_abandon(file);
	return rc < 0 ? error_set_errno(err, -rc, "making the image durable") : 0;
}

void disk_details_done(struct disk_details *details)
{
	for (unsigned i = 0; i < details->locator_count; i++) {
		free(details->locators[i].key);
		free(details->locators[i].value);
	}
	free(details->locators);
	details->locators = NULL;
	details->locator_count = 0;
}

unsigned disk_fragmentation_percent(const struct disk_details *details)
{
	uint64_t breaks = details->block_runs ? details->block_runs - 1 : 0;

	return details->blocks_allocated > 1
		   ? (unsigned)(breaks * 100 / (details->blocks_allocated - 1))
		   : 0;
}

const char *disk_locator_value(const struct disk_details *details, const char *key)
{
	for (unsigned i = 0; i < details->locator_count; i++)
		if (strcmp(details->locators[i].key, key) == 0)
			return details->locators[i].value;
	return NULL;
}

static bool names_parent(const struct disk_details *child, const struct guid *id)
{
	static const struct guid none;

	return guid_equal(&child->parent_id, id) ||
	       (guid_equal(&child->parent_id2, id) && !guid_equal(id, &none));
}

int disk_check_parent(const struct disk_details *child, const struct disk_details *parent,
		      struct error *err)
{
	char wanted[GUID_TEXT_SIZE], found[GUID_TEXT_SIZE];

	if (child->type != DISK_DIFFERENCING)
		return error_set(err, ERR_INVALID,
				 "the child is not a differencing disk: it has no parent");
	if (child->format != parent->format)
		return error_set(err, ERR_INVALID, "the child is a %s, its parent a %s disk",
				 disk_format_name(child->format), disk_format_name(parent->format));
	if (!names_parent(child, &parent->link_id))
		return error_set(err, ERR_INVALID,
				 "the child was made over a parent with the id %s, this one has "
				 "%s: it is another disk, or it was changed",
				 guid_format(&child->parent_id, wanted),
				 guid_format(&parent->link_id, found));
	if (child->logical_sector_bytes != parent->logical_sector_bytes)
		return error_set(err, ERR_INVALID,
				 "the child has sectors of %u bytes, its parent of %u",
				 child->logical_sector_bytes, parent->logical_sector_bytes);
	return 0;
}

/* ---- creating ---- */

static int create_raw(int fd, const struct disk_create_options *options, struct error *err)
{
	int rc = 0;

	if (options->type == DISK_DIFFERENCING)
		return error_set(err, ERR_INVALID, "a raw image can't be differencing");
	if (!options->size_bytes || options->size_bytes % 512)
		return error_set(err, ERR_INVALID,
				 "a raw disk has whole sectors of 512 bytes, not %lu bytes",
				 options->size_bytes);
	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)options->size_bytes) < 0)
		return error_set_errno(err, errno, "setting the size of the new raw image");
	if (options->type == DISK_FIXED && !options->sparse)
		rc = new_image_reserve(fd, 0, options->size_bytes, err);
	return rc < 0 ? rc : new_image_sync(fd, err);
}

int disk_create(int fd, const struct disk_create_options *options, struct error *err)
{
	bool differencing = options->type == DISK_DIFFERENCING;

	if (differencing && !options->parent)
		return error_set(err, ERR_INVALID, "a differencing disk needs a parent");
	if (differencing && options->parent->format != options->format)
		return error_set(err, ERR_INVALID,
				 "a differencing disk has its parent's format, %s",
				 disk_format_name(options->parent->format));
	switch (options->format) {
	case DISK_RAW:
		return create_raw(fd, options, err);
	case DISK_VHD:
		return vhd_create(fd, options, err);
	case DISK_VHDX:
		return vhdx_create(fd, options, err);
	default:
		return error_set(err, ERR_INVALID, "a new disk needs a format");
	}
}

int disk_check_azure(const struct disk_details *details, struct error *err)
{
	if (details->format != DISK_VHD || details->type != DISK_FIXED)
		return error_set(err, ERR_INVALID,
				 "Azure takes fixed VHD disks, this is a %s %s: convert it",
				 disk_type_name(details->type), disk_format_name(details->format));
	if (details->size_bytes % MIB)
		return error_set(err, ERR_INVALID,
				 "Azure takes disks of whole MiB, this one has %lu bytes: resize "
				 "it to %lu",
				 details->size_bytes, ALIGN_UP(details->size_bytes, MIB));
	if (details->size_bytes < 20 * MIB)
		return error_set(err, ERR_INVALID,
				 "Azure takes disks of at least 20 MiB, this one has %lu bytes: "
				 "resize it",
				 details->size_bytes);
	if (details->file_bytes != details->size_bytes + 512)
		return error_set(err, ERR_INVALID,
				 "Azure takes files of exactly the disk's size and 512 bytes, this "
				 "one has %lu instead of %lu: convert it",
				 details->file_bytes, details->size_bytes + 512);
	return 0;
}
