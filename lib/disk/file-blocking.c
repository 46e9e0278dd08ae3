/* The engine for offline work: everything is done inside file_submit, and completed by file_wait.
 */
#include "disk/file.h"

#include "base/macros.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

struct file_blocking {
	struct file file;
	int fd;
	bool locked;
	struct loop *loop; /* never runs: struct file wants one */
	struct file_request *done, **done_tail;
};

static void blocking_submit(struct file *file, struct file_request *req)
{
	struct file_blocking *f = container_of(file, struct file_blocking, file);

	while (!file_advance(req, file_perform(f->fd, req)))
		;
	req->next = NULL;
	*f->done_tail = req;
	f->done_tail = &req->next;
}

static void blocking_wait(struct file *file)
{
	struct file_blocking *f = container_of(file, struct file_blocking, file);
	struct file_request *req = f->done;

	f->done = req->next;
	if (!f->done)
		f->done_tail = &f->done;
	file_finish(req);
}

static int blocking_set_size(struct file *file, uint64_t size_bytes)
{
	int fd = container_of(file, struct file_blocking, file)->fd;

	return ftruncate(fd, (off_t)size_bytes) < 0 ? -errno : 0;
}

static int blocking_extent(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	return file_extent_of_fd(container_of(file, struct file_blocking, file)->fd, offset,
				 ret_data, ret_end);
}

static void blocking_free(struct file *file, bool close_fd)
{
	struct file_blocking *f = container_of(file, struct file_blocking, file);

	file_done(&f->file);
	loop_free(f->loop);
	if (f->locked)
		file_unlock(f->fd);
	if (close_fd)
		close(f->fd);
	free(f);
}

static const struct file_ops blocking_ops = {
	.name = "blocking",
	.submit = blocking_submit,
	.wait = blocking_wait,
	.set_size = blocking_set_size,
	.extent = blocking_extent,
	.free = blocking_free,
};

static int set_up(struct file_blocking *f, struct error *err)
{
	off_t size = lseek(f->fd, 0, SEEK_END);
	int rc;

	if (size < 0)
		return error_set_errno(err, errno, "reading the size of the disk's file");
	rc = loop_new(&f->loop, err);
	if (rc < 0)
		return rc;
	rc = file_init(&f->file, &blocking_ops, f->loop, (uint64_t)size, err);
	if (rc < 0)
		loop_free(f->loop);
	return rc;
}

int file_open_blocking(int fd, enum file_locking locking, struct file **ret, struct error *err)
{
	struct file_blocking *f = calloc(1, sizeof(*f));
	int rc = 0;

	if (!f)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	*f = (struct file_blocking){ .fd = fd, .locked = locking != FILE_UNLOCKED };
	f->done_tail = &f->done;
	if (f->locked)
		rc = file_lock(fd, locking == FILE_EXCLUSIVE, err);
	if (rc < 0) {
		free(f);
		return rc;
	}
	rc = set_up(f, err);
	if (rc < 0) {
		if (f->locked)
			file_unlock(fd);
		free(f);
		return rc;
	}
	*ret = &f->file;
	return 0;
}
