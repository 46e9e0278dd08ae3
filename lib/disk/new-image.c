#include "disk/new-image.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

int new_image_write(int fd, uint64_t offset, const void *buf, size_t len, struct error *err)
{
	const char *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set_errno(err, errno, "writing the new image at %#lx", offset);
		p += n;
		offset += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int new_image_sync(int fd, struct error *err)
{
	return fsync(fd) < 0 ? error_set_errno(err, errno, "syncing the new image") : 0;
}

int new_image_reserve(int fd, uint64_t offset, uint64_t length, struct error *err)
{
	if (fallocate(fd, 0, (off_t)offset, (off_t)length) < 0 && errno != EOPNOTSUPP)
		return error_set_errno(err, errno, "reserving %lu bytes for the new image", length);
	return 0;
}
