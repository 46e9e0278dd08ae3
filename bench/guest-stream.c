/*
 * The guest's end of the stream that bench/run measures: says by one byte that it is there, reads
 * BYTES and says so by a byte, then writes as many and waits for a byte.
 *	guest-stream vsock PORT BYTES	over a connection that comes to that port
 *	guest-stream FILE BYTES		over a character device (a port of virtio-serial)
 * Exit status 0: all of it came.
 */
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char data[65536];

/* The first connection to a port. Linux makes the rings of a channel as large as the listening
 * socket's buffers; unless asked, of 24 KiB. */
static int accepted(unsigned port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK,
				       .svm_cid = VMADDR_CID_ANY,
				       .svm_port = port };
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0), size = 1 << 18;

	setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 1) < 0)
		return -1;
	return accept(listener, NULL, NULL);
}

static size_t piece(unsigned long long left)
{
	return left < sizeof(data) ? (size_t)left : sizeof(data);
}

/* move is read or write. */
static int all(ssize_t (*move)(int fd, char *buf, size_t len), int fd, unsigned long long bytes)
{
	while (bytes) {
		ssize_t n = move(fd, data, piece(bytes));

		if (n <= 0)
			return 0;
		bytes -= (unsigned long long)n;
	}
	return 1;
}

static ssize_t take(int fd, char *buf, size_t len)
{
	return read(fd, buf, len);
}

static ssize_t put(int fd, char *buf, size_t len)
{
	return write(fd, buf, len);
}

int main(int argc, char **argv)
{
	int vsock = argc == 4 && strcmp(argv[1], "vsock") == 0, fd;
	unsigned long long bytes;

	if (!vsock && argc != 3)
		return 2;
	fd = vsock ? accepted((unsigned)atoi(argv[2])) : open(argv[1], O_RDWR);
	bytes = strtoull(argv[argc - 1], NULL, 10);
	if (fd < 0) {
		perror(argv[1]);
		return 1;
	}
	return all(put, fd, 1) && all(take, fd, bytes) && all(put, fd, 1) && all(put, fd, bytes) &&
		       all(take, fd, 1)
		   ? 0
		   : 1;
}
