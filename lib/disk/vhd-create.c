/*
 * New VHD files, laid out as Windows 10 does it: footer copy, dynamic header, and then for a
 * dynamic disk the block table at 0x600; for a differencing one the absolute path at 0x1000, the
 * table at 0x2000 and the relative path behind the table. The footers are written last.
 */
#include "disk/vhd.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "base/utf16.h"
#include "disk/new-image.h"
#include "disk/vhd-format.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>

#define HEADER_OFFSET       512u
#define DEFAULT_BLOCK_BYTES (2u << 20)
#define SMALL_BLOCK_BYTES   (512u << 10)
#define WINDOWS_10          0x000a0000u
#define PATH_ALIGNMENT      4096u
#define TABLE_WRITE_BYTES   65536u

struct creation {
	int fd;
	const struct disk_create_options *options;
	struct vhd_footer footer;
	struct vhd_header header;
	struct vhd_geometry geometry;
	uint64_t end; /* of what has been laid out */
};

static int check_options(const struct disk_create_options *options, uint64_t size_bytes,
			 struct error *err)
{
	if (size_bytes < VHD_MIN_BYTES || size_bytes > VHD_MAX_BYTES ||
	    size_bytes % VHD_SECTOR_BYTES)
		return error_set(err, ERR_INVALID,
				 "a VHD disk of %lu bytes: it has whole sectors of 512 bytes, 3 "
				 "MiB to 2040 GiB",
				 size_bytes);
	if (options->block_bytes && options->block_bytes != DEFAULT_BLOCK_BYTES &&
	    options->block_bytes != SMALL_BLOCK_BYTES)
		return error_set(err, ERR_INVALID,
				 "a VHD block size of %u bytes: it is 512 KiB or 2 MiB",
				 options->block_bytes);
	if ((options->logical_sector_bytes && options->logical_sector_bytes != VHD_SECTOR_BYTES) ||
	    (options->physical_sector_bytes && options->physical_sector_bytes != VHD_SECTOR_BYTES))
		return error_set(err, ERR_INVALID, "a VHD disk has sectors of 512 bytes, no other");
	return 0;
}

static int check_parent(const struct disk_create_options *options, struct error *err)
{
	if (options->size_bytes && options->size_bytes != options->parent->size_bytes)
		return error_set(err, ERR_INVALID,
				 "a differencing VHD disk has its parent's size, %lu bytes",
				 options->parent->size_bytes);
	if (!options->parent_absolute && !options->parent_relative)
		return error_set(err, ERR_INVALID,
				 "a differencing disk needs a path to its parent");
	return 0;
}

static void fill_footer(struct creation *c, uint64_t size_bytes)
{
	static const uint32_t types[] = { [DISK_FIXED] = VHD_FIXED,
					  [DISK_DYNAMIC] = VHD_DYNAMIC,
					  [DISK_DIFFERENCING] = VHD_DIFFERENCING };
	static const struct guid none;
	bool fixed = c->options->type == DISK_FIXED;

	c->footer = (struct vhd_footer){
		.features = htobe32(VHD_FEATURES_RESERVED),
		.format_version = htobe32(VHD_VERSION),
		.data_offset = htobe64(fixed ? VHD_NO_OFFSET : HEADER_OFFSET),
		.time_stamp = htobe32((uint32_t)(time(NULL) - VHD_EPOCH_UNIX)),
		.creator_version = htobe32(WINDOWS_10),
		.original_size = htobe64(size_bytes),
		.disk_type = htobe32(types[c->options->type]),
		.unique_id = c->options->id,
	};
	memcpy(c->footer.cookie, VHD_FOOTER_COOKIE, sizeof(c->footer.cookie));
	/* By these other readers know which order the id has and that the size is exact. */
	memcpy(c->footer.creator_application, VHD_CREATOR_WINDOWS, 4);
	memcpy(c->footer.creator_host_os, VHD_CREATOR_HOST_WINDOWS, 4);
	if (guid_equal(&c->footer.unique_id, &none))
		guid_generate(&c->footer.unique_id);
	vhd_footer_set_size(&c->footer, size_bytes);
	vhd_footer_seal(&c->footer);
}

/* ---- dynamic and differencing ---- */

static int write_path(struct creation *c, unsigned slot, const char *code, const char *path,
		      struct error *err)
{
	struct vhd_locator *locator = &c->header.locators[slot];
	AUTO_FREE uint8_t *text = malloc(VHD_MAX_PATH_BYTES);
	uint32_t bytes;
	int rc;

	if (!text)
		return error_set(err, ERR_NO_MEMORY, "no memory to create a VHD");
	bytes = utf16_from_utf8(path, text, VHD_MAX_PATH_BYTES);
	if (bytes <= 2)
		return error_set(err, ERR_INVALID,
				 "the path '%s' of the parent is empty, too long or no UTF-8",
				 path);
	bytes -= 2;
	c->end = ALIGN_UP(c->end, (uint64_t)PATH_ALIGNMENT);
	memcpy(locator->code, code, sizeof(locator->code));
	locator->data_space = htobe32(ALIGN_UP(bytes, PATH_ALIGNMENT));
	locator->data_length = htobe32(bytes);
	locator->data_offset = htobe64(c->end);
	rc = new_image_write(c->fd, c->end, text, bytes, err);
	c->end += ALIGN_UP(bytes, PATH_ALIGNMENT);
	return rc;
}

static int write_table(struct creation *c, struct error *err)
{
	AUTO_FREE uint8_t *unused = malloc(TABLE_WRITE_BYTES);
	uint64_t bytes =
	    ALIGN_UP((uint64_t)c->geometry.block_count * VHD_BAT_ENTRY_BYTES, VHD_SECTOR_BYTES);
	int rc = 0;

	if (!unused)
		return error_set(err, ERR_NO_MEMORY, "no memory to create a VHD");
	memset(unused, 0xff, TABLE_WRITE_BYTES);
	c->header.table_offset = htobe64(c->end);
	c->header.max_table_entries = htobe32(c->geometry.block_count);
	for (uint64_t at = 0; rc == 0 && at < bytes; at += TABLE_WRITE_BYTES)
		rc = new_image_write(c->fd, c->end + at, unused,
				     MIN(bytes - at, (uint64_t)TABLE_WRITE_BYTES), err);
	c->end += bytes;
	return rc;
}

static int write_parent(struct creation *c, struct error *err)
{
	const struct disk_create_options *options = c->options;
	int rc = 0;

	c->header.parent_unique_id = options->parent->link_id;
	vhd_header_set_parent_name(&c->header,
				   options->parent_absolute ?: options->parent_relative);
	if (options->parent_absolute)
		rc = write_path(c, 0, VHD_LOCATOR_ABSOLUTE, options->parent_absolute, err);
	c->end = ALIGN_UP(c->end, (uint64_t)PATH_ALIGNMENT);
	if (rc == 0)
		rc = write_table(c, err);
	if (rc == 0 && options->parent_relative)
		rc = write_path(c, 1, VHD_LOCATOR_RELATIVE, options->parent_relative, err);
	return rc;
}

static int write_dynamic(struct creation *c, struct error *err)
{
	int rc;

	memcpy(c->header.cookie, VHD_HEADER_COOKIE, sizeof(c->header.cookie));
	c->header.data_offset = htobe64(VHD_NO_OFFSET);
	c->header.header_version = htobe32(VHD_VERSION);
	c->header.block_size = htobe32(c->geometry.block_bytes);
	c->end = HEADER_OFFSET + sizeof(c->header);
	rc = c->options->type == DISK_DIFFERENCING ? write_parent(c, err) : write_table(c, err);
	vhd_header_seal(&c->header);
	return rc < 0 ? rc
		      : new_image_write(c->fd, HEADER_OFFSET, &c->header, sizeof(c->header), err);
}

static int reserve_fixed(const struct creation *c, struct error *err)
{
	uint64_t bytes = c->geometry.disk_bytes;

	return c->options->sparse ? 0 : new_image_reserve(c->fd, 0, bytes, err);
}

/* Windows' dynamic files end at a multiple of 4 KiB; a fixed one is the disk and its footer. */
static int finish(const struct creation *c, struct error *err)
{
	bool fixed = c->options->type == DISK_FIXED;
	uint64_t bytes =
	    fixed ? c->geometry.disk_bytes + sizeof(c->footer) : vhd_file_bytes(c->end);
	int rc = new_image_sync(c->fd, err);

	if (rc == 0)
		rc = new_image_write(c->fd, bytes - sizeof(c->footer), &c->footer,
				     sizeof(c->footer), err);
	if (rc == 0 && !fixed)
		rc = new_image_write(c->fd, 0, &c->footer, sizeof(c->footer), err);
	return rc < 0 ? rc : new_image_sync(c->fd, err);
}

int vhd_create(int fd, const struct disk_create_options *options, struct error *err)
{
	struct creation c = { .fd = fd, .options = options };
	bool differencing = options->type == DISK_DIFFERENCING;
	uint64_t size = differencing ? options->parent->size_bytes : options->size_bytes;
	int rc = differencing ? check_parent(options, err) : 0;

	if (rc == 0)
		rc = check_options(options, size, err);
	if (rc < 0)
		return rc;
	c.geometry.disk_bytes = size;
	vhd_geometry_derive(&c.geometry, options->block_bytes ?: DEFAULT_BLOCK_BYTES);
	fill_footer(&c, size);
	if (ftruncate(fd, 0) < 0)
		return error_set_errno(err, errno, "emptying the new VHD file");
	rc = options->type == DISK_FIXED ? reserve_fixed(&c, err) : write_dynamic(&c, err);
	return rc < 0 ? rc : finish(&c, err);
}
