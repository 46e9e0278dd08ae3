/* Copies a file's bytes, whatever they are: for export and import. Descriptors: the new, empty
 * file, then the one to copy. */
#include "ops.h"

#include "sandbox.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES (4 * MIB)

struct copy {
	struct job *job;
	int to, from;
	uint64_t size, done;
	uint8_t *buffer;
};

static int failed(const char *what, struct error *err)
{
	return error_set_errno(err, errno, "%s", what);
}

static int write_piece(struct copy *copy, uint64_t at, size_t length, struct error *err)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n =
		    pwrite(copy->to, copy->buffer + done, length - done, (off_t)(at + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return failed("writing the copy", err);
		done += (size_t)n;
	}
	return 0;
}

static int copy_range(struct copy *copy, uint64_t at, uint64_t end, struct error *err)
{
	while (at < end) {
		ssize_t n =
		    pread(copy->from, copy->buffer, (size_t)MIN(end - at, PIECE_BYTES), (off_t)at);
		int r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return failed("reading", err);
		if (n == 0)
			return error_set(err, ERR_IO,
					 "the file became shorter while it was copied");
		r = write_piece(copy, at, (size_t)n, err);
		if (r < 0)
			return r;
		at += (uint64_t)n;
		if (!job_progress(copy->job, at, copy->size))
			return job_cancelled(err);
	}
	return 0;
}

/* Holes stay holes. A file system that can't tell them says that all is data. */
static int copy_all(struct copy *copy, struct error *err)
{
	uint64_t at = 0;
	int r = 0;

	while (r == 0 && at < copy->size) {
		off_t data = lseek(copy->from, (off_t)at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			break;
		if (data < 0)
			data = (off_t)at;
		hole = lseek(copy->from, data, SEEK_HOLE);
		if (hole <= data)
			hole = (off_t)copy->size;
		r = copy_range(copy, (uint64_t)data, MIN((uint64_t)hole, copy->size), err);
		at = (uint64_t)hole;
	}
	return r;
}

static int copy_bytes(struct job *job, int to, int from, uint64_t size, struct error *err)
{
	AUTO_FREE uint8_t *buffer = malloc(PIECE_BYTES);
	struct copy copy = { job, to, from, size, 0, buffer };

	if (!buffer)
		return error_set(err, ERR_NO_MEMORY, "no memory to copy with");
	if (ftruncate(to, (off_t)size) < 0)
		return failed("making room for the copy", err);
	return copy_all(&copy, err);
}

int op_copy_file(struct job *job, json_t **ret, struct error *err)
{
	AUTO_CLOSE int to = job_take_fd(job, 0, err);
	AUTO_CLOSE int from = to < 0 ? -1 : job_take_fd(job, 1, err);
	struct stat st;
	bool shared;
	int r;

	if (from < 0 || fstat(from, &st) < 0)
		return from < 0 ? -(int)err->code : failed("reading", err);
	if (!S_ISREG(st.st_mode))
		return error_set(err, ERR_INVALID, "it is no regular file");
	shared = ioctl(to, FICLONE, from) == 0;
	r = sandbox_enter_opening(err);
	if (r == 0)
		r = sandbox_enter_working(err);
	if (r == 0 && !shared)
		r = copy_bytes(job, to, from, (uint64_t)st.st_size, err);
	if (r == 0 && fsync(to) < 0)
		r = failed("syncing the copy", err);
	if (r == 0)
		*ret = json_pack("{s:I, s:b}", "bytes", (json_int_t)st.st_size, "shared", shared);
	return r;
}
