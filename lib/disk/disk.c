#include "disk/disk.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/raw.h"
#include "disk/vhdx.h"
#include "spec/vhdx.h"

#include <errno.h>
#include <sys/stat.h>

#define POOL_THREADS     4u
#define VHD_FOOTER_BYTES 512

/* "conectix": at the start of a dynamic or differencing VHD, and in the last sector of any. */
static bool is_vhd_cookie(const uint8_t *bytes)
{
	return memcmp(bytes, "conectix", 8) == 0;
}

static bool has_vhd_footer(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	uint8_t footer[8];

	return size >= VHD_FOOTER_BYTES &&
	       pread(fd, footer, sizeof(footer), size - VHD_FOOTER_BYTES) == sizeof(footer) &&
	       is_vhd_cookie(footer);
}

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
	else if (is_vhd_cookie(start) || (S_ISREG(st.st_mode) && has_vhd_footer(fd)))
		return error_set(err, ERR_UNSUPPORTED,
				 "VHD images are not supported yet; VHDX and "
				 "raw ones are");
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
	rc = file_lock(fd, !options->read_only, err);
	if (rc < 0)
		return rc;
	rc = open_file(loop, fd, options->engine, &file, err);
	if (rc < 0) {
		file_unlock(fd);
		return rc;
	}
	rc = format == DISK_VHDX ? vhdx_open(file, options->read_only, NULL, ret, err)
				 : raw_open(file, options, ret, err);
	if (rc < 0)
		file_abandon(file);
	return rc;
}
