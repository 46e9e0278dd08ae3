#include "disk/vhd.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOOTER_BYTES 512

/* "conectix": at the start of a dynamic or differencing VHD, and in the last sector of any. */
static bool is_cookie(const uint8_t *bytes)
{
	return memcmp(bytes, "conectix", 8) == 0;
}

bool vhd_probe(int fd)
{
	uint8_t cookie[8];
	struct stat st;

	if (pread(fd, cookie, sizeof(cookie), 0) == sizeof(cookie) && is_cookie(cookie))
		return true;
	return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size >= FOOTER_BYTES &&
	       pread(fd, cookie, sizeof(cookie), st.st_size - FOOTER_BYTES) == sizeof(cookie) &&
	       is_cookie(cookie);
}

static int unsupported(struct error *err)
{
	return error_set(err, ERR_UNSUPPORTED,
			 "VHD images are not supported yet; VHDX and raw ones are");
}

int vhd_open(struct file *file, const struct disk_options *options, struct blk **ret,
	     struct error *err)
{
	return unsupported(err);
}

int vhd_create(int fd, const struct disk_create_options *options, struct error *err)
{
	return unsupported(err);
}

int vhd_describe(struct file *file, struct disk_details *ret, struct error *err)
{
	return unsupported(err);
}

int vhd_resize(struct file *file, uint64_t size_bytes, const struct disk_progress *progress,
	       struct error *err)
{
	return unsupported(err);
}

int vhd_compact(struct file *file, enum disk_compact_mode mode,
		const struct disk_progress *progress, struct error *err)
{
	return unsupported(err);
}

int vhd_set_parent(struct file *file, const struct disk_parent_link *link, struct error *err)
{
	return unsupported(err);
}

int vhd_set_id(struct file *file, const struct guid *id, struct error *err)
{
	return unsupported(err);
}

int vhd_check(struct file *file, const struct disk_check_options *options,
	      enum disk_severity *ret_worst, struct error *err)
{
	return unsupported(err);
}
