#include "base/mark.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * One byte: no write of it can be half. It is there from the beginning and only changes, for then
 * the file has nothing new to be noted in its file system's journal, and making it durable does not
 * wait for what others have written.
 */
#define NOT_YET "0"
#define PASSED  "1"

static int set_lock(int fd, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET };
	int r;

	do
		r = fcntl(fd, F_OFD_SETLKW, &lock);
	while (r < 0 && errno == EINTR);
	return r;
}

int mark_make(int folder_fd, const char *name, struct error *err)
{
	int fd = openat(folder_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd >= 0 && pwrite(fd, NOT_YET, 1, 0) == 1 && fsync(fd) == 0)
		return fd;
	error_set_errno(err, errno, "making '%.100s'", name);
	if (fd >= 0)
		close(fd);
	return -(int)ERR_IO;
}

int mark_hold(int fd, struct error *err)
{
	struct stat st;

	if (set_lock(fd, F_WRLCK) < 0)
		return error_set_errno(err, errno, "locking the mark");
	if (fstat(fd, &st) == 0 && st.st_nlink > 0)
		return 0;
	mark_let_go(fd);
	return error_set(err, ERR_CANCELLED, "it was given up meanwhile");
}

int mark_set(int fd, struct error *err)
{
	if (pwrite(fd, PASSED, 1, 0) == 1 && fdatasync(fd) == 0) {
		mark_let_go(fd);
		return 0;
	}
	error_set_errno(err, errno, "writing the mark");
	/* A write that is not durable must not be seen by those who read it from memory. */
	if (pwrite(fd, NOT_YET, 1, 0) != 1)
		return error_prefix(err, "it can't be taken back");
	return -(int)ERR_IO;
}

void mark_let_go(int fd)
{
	set_lock(fd, F_UNLCK);
}

bool mark_close(int folder_fd, const char *name)
{
	AUTO_CLOSE int fd = openat(folder_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	bool passed;
	char byte;

	if (fd < 0)
		return false;
	set_lock(fd, F_WRLCK);
	passed = pread(fd, &byte, 1, 0) == 1 && byte == PASSED[0];
	if (!passed)
		unlinkat(folder_fd, name, 0);
	return passed;
}
