/*
 * A hostile NBD client. Input: one byte of options, then the bytes that it sends, in pieces whose
 * length the option byte tells. With some options it has negotiated already, so that what follows
 * are requests. What the server answers is thrown away, or left lying.
 */
#include "nbd/nbd.h"

#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "disk/file-mem.h"
#include "disk/raw.h"

#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK_BYTES (1 * MIB)

enum option {
	NEGOTIATED = 1,
	STRUCTURED = 2,
	READ_ONLY = 4,
	DEAF = 8, /* doesn't listen */
	SMALL_PIECES = 16,
};

static struct loop *loop;

static void die(const char *what)
{
	fprintf(stderr, "fuzz-nbd: %s\n", what);
	abort();
}

static struct blk *new_disk(bool read_only)
{
	const struct file_mem_options memory = { .max_bytes = 2 * DISK_BYTES, .seed = 1 };
	struct disk_options options = { .format = DISK_RAW, .read_only = read_only };
	struct file *file;
	struct blk *disk = NULL;

	if (file_mem_new(loop, &memory, DISK_BYTES, &file) < 0 ||
	    raw_open(file, &options, &disk, NULL) < 0)
		die("no disk");
	return disk;
}

static void listen_to(int fd)
{
	char answers[65536];

	while (recv(fd, answers, sizeof(answers), MSG_DONTWAIT) > 0)
		;
}

static void say(int fd, const uint8_t *data, size_t size, uint8_t options)
{
	size_t piece = options & SMALL_PIECES ? 7 : 4096;

	while (size) {
		ssize_t n = send(fd, data, MIN(size, piece), MSG_DONTWAIT | MSG_NOSIGNAL);

		loop_step(loop, 0);
		if (!(options & DEAF))
			listen_to(fd);
		if (n <= 0)
			return;
		data += n;
		size -= (size_t)n;
	}
}

static void negotiate(int fd, uint8_t options)
{
	static const uint8_t flags[] = { 0, 0, 0, 3 };
	static const uint8_t structured[] = "IHAVEOPT\0\0\0\10\0\0\0\0"
					    "IHAVEOPT\0\0\0\12\0\0\0\33"
					    "\0\0\0\0\0\0\0\1\0\0\0\17base:allocation";
	static const uint8_t go[] = "IHAVEOPT\0\0\0\7\0\0\0\6\0\0\0\0\0";

	say(fd, flags, sizeof(flags), 0);
	if (options & STRUCTURED)
		say(fd, structured, sizeof(structured) - 1, 0);
	say(fd, go, sizeof(go), 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_server *server;
	struct blk_layers layers;
	struct blk *disk = NULL;
	int pair[2];

	if (size < 1)
		return 0;
	if (!loop && loop_new(&loop, NULL) < 0)
		die("no loop");
	disk = new_disk(data[0] & READ_ONLY);
	layers = (struct blk_layers){ &disk, 1 };
	if (nbd_server_new(loop, &layers, NULL, NULL, &server, NULL) < 0 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0 ||
	    nbd_server_add(server, pair[1], NULL) < 0)
		die("no server");
	if (data[0] & NEGOTIATED)
		negotiate(pair[0], data[0]);
	say(pair[0], data + 1, size - 1, data[0]);
	for (int i = 0; i < 4; i++) {
		loop_step(loop, 0);
		if (!(data[0] & DEAF))
			listen_to(pair[0]);
	}
	close(pair[0]);
	loop_step(loop, 0);
	nbd_server_free(server);
	blk_close(disk, NULL);
	return 0;
}
