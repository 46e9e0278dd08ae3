#include "sockets.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 32

/* Opens the folder; the address names it by its descriptor in /proc. */
static int make_address(const char *path, struct sockaddr_un *address, int *ret_folder,
			struct error *err)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char *folder = slash ? strndup(path, (size_t)(slash - path)) : NULL;
	int fd, len;

	if (!folder)
		return error_set(err, ERR_INVALID, "'%.200s' is no absolute path", path);
	fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.200s'", folder);
	*address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	len = snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d/%s", fd,
		       slash + 1);
	if (len < 0 || (size_t)len >= sizeof(address->sun_path)) {
		close(fd);
		return error_set(err, ERR_INVALID, "the socket's name '%.200s' is too long", path);
	}
	*ret_folder = fd;
	return 0;
}

static int open_socket(int type, struct error *err)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? error_set_errno(err, errno, "making a socket") : fd;
}

int sockets_listen(const char *path, int type, struct error *err)
{
	AUTO_CLOSE int folder = -1;
	AUTO_CLOSE int fd = open_socket(type, err);
	struct sockaddr_un address;

	if (fd < 0)
		return fd;
	if (make_address(path, &address, &folder, err) < 0)
		return -(int)err->code;
	unlink(path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
		return error_set_errno(err, errno, "listening on '%.200s'", path);
	return TAKE_FD(fd);
}

int sockets_connect(const char *path, int type, struct error *err)
{
	AUTO_CLOSE int folder = -1;
	AUTO_CLOSE int fd = open_socket(type, err);
	struct sockaddr_un address;

	if (fd < 0)
		return fd;
	if (make_address(path, &address, &folder, err) < 0)
		return -(int)err->code;
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set_errno(err, errno, "connecting to '%.200s'", path);
	return TAKE_FD(fd);
}

struct sockets_file sockets_file_at(const char *path)
{
	struct stat file;

	return lstat(path, &file) == 0 ? (struct sockets_file){ file.st_dev, file.st_ino }
				       : (struct sockets_file){ 0 };
}

void sockets_unlink(const char *path, struct sockets_file own)
{
	struct sockets_file there = sockets_file_at(path);

	if (own.inode && there.device == own.device && there.inode == own.inode)
		unlink(path);
}
