/*
 * The io_uring engine. At most RING_ENTRIES operations are in the kernel; more wait in a list here.
 *
 * The first file of a loop lends it its ring to wait in, in which the loop's descriptor is then
 * polled: what follows from a completion begins in the call that waits for the next. Others' rings
 * are descriptors in the loop, readable while completions wait.
 */
#include "disk/file.h"

#include "base/macros.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define RING_ENTRIES 256u
#define FIXED        0 /* the ring's one registered file */

struct file_uring {
	struct file file;
	int fd;
	struct io_uring ring;
	struct loop *borrower; /* of `wait`; NULL: the loop watches the ring's descriptor */
	struct loop_wait wait;
	bool polls; /* the loop's descriptor, in the ring */
	struct loop_fd *watch;
	struct loop_kick *retry;
	unsigned in_kernel; /* taken from the submission queue, completion not seen yet */
	unsigned plug_depth;
	struct file_request *backlog, **backlog_tail;
};

static void give_to_kernel(struct file_uring *f)
{
	int rc;

	if (f->plug_depth > 0 || io_uring_sq_ready(&f->ring) == 0)
		return;
	do
		rc = io_uring_submit(&f->ring);
	while (rc == -EINTR);
	/* The kernel is short of something for the moment: the entries stay in the ring. */
	if (rc < 0)
		loop_kick(f->retry);
}

/* What one operation takes; file_advance goes on with the rest. */
static unsigned io_bytes(const struct iovec *iov)
{
	return (unsigned)MIN(iov->iov_len, (size_t)1 << 30);
}

static void prepare(struct file_uring *f, struct file_request *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&f->ring);
	const struct iovec *iov;
	unsigned iov_count;
	uint64_t offset;

	switch (file_piece(req, &iov, &iov_count, &offset)) {
	case FILE_READ:
		if (iov_count == 1)
			io_uring_prep_read(sqe, FIXED, iov->iov_base, io_bytes(iov), offset);
		else
			io_uring_prep_readv(sqe, FIXED, iov, iov_count, offset);
		break;
	case FILE_WRITE:
		if (iov_count == 1)
			io_uring_prep_write(sqe, FIXED, iov->iov_base, io_bytes(iov), offset);
		else
			io_uring_prep_writev(sqe, FIXED, iov, iov_count, offset);
		break;
	case FILE_WRITE_DURABLE:
		io_uring_prep_writev2(sqe, FIXED, iov, iov_count, offset, RWF_DSYNC);
		break;
	case FILE_SYNC:
		io_uring_prep_fsync(sqe, FIXED, IORING_FSYNC_DATASYNC);
		break;
	case FILE_ZERO:
	case FILE_PUNCH:
	case FILE_DISCARD:
		io_uring_prep_fallocate(sqe, FIXED, file_fallocate_mode(req->op),
					(off_t)req->offset, (off_t)req->length);
		break;
	}
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, req);
	f->in_kernel++;
}

static bool has_room(const struct file_uring *f)
{
	return f->in_kernel + f->polls < RING_ENTRIES;
}

static void start(struct file_uring *f, struct file_request *req)
{
	if (has_room(f) && !f->backlog) {
		prepare(f, req);
		return;
	}
	req->next = NULL;
	*f->backlog_tail = req;
	f->backlog_tail = &req->next;
}

static void start_backlog(struct file_uring *f)
{
	while (f->backlog && has_room(f)) {
		struct file_request *req = f->backlog;

		f->backlog = req->next;
		if (!f->backlog)
			f->backlog_tail = &f->backlog;
		prepare(f, req);
	}
}

static void uring_submit(struct file *file, struct file_request *req)
{
	struct file_uring *f = container_of(file, struct file_uring, file);

	start(f, req);
	give_to_kernel(f);
}

/* goes_to_wait: the ring is about to be waited in, so what follows from the last completion begins
 * there. Returns how many requests moved on. */
static unsigned reap(struct file_uring *f, bool goes_to_wait)
{
	struct io_uring_cqe *cqe;
	unsigned count = 0;

	while (io_uring_peek_cqe(&f->ring, &cqe) == 0) {
		struct file_request *req = io_uring_cqe_get_data(cqe);
		int result = cqe->res;

		io_uring_cqe_seen(&f->ring, cqe);
		if (!req) {
			f->polls = false;
			continue;
		}
		f->in_kernel--;
		count++;
		/* What follows from one completion goes together, but does not wait for the next:
		 * the disk would run out of work meanwhile. */
		f->plug_depth++;
		if (file_advance(req, result))
			file_finish(req);
		else
			start(f, req);
		start_backlog(f);
		f->plug_depth--;
		if (!goes_to_wait || io_uring_cq_ready(&f->ring))
			give_to_kernel(f);
	}
	return count;
}

static void uring_ready(void *user, uint32_t events)
{
	reap(user, false);
}

/* ---- the loop's wait ---- */

/* One poll tells once what is. It is begun anew each time, so whoever is ready and did not get all
 * that he has is told of again. */
static void begin_poll(struct file_uring *f, int poll_fd)
{
	struct io_uring_sqe *sqe;

	if (f->polls || !has_room(f))
		return;
	sqe = io_uring_get_sqe(&f->ring);
	io_uring_prep_poll_add(sqe, poll_fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
	f->polls = true;
}

static int submit_and_wait(struct file_uring *f, int timeout_ms)
{
	struct __kernel_timespec limit = { .tv_sec = timeout_ms / 1000,
					   .tv_nsec = timeout_ms % 1000 * 1000000LL };
	struct io_uring_cqe *cqe;

	return timeout_ms < 0 ? io_uring_submit_and_wait(&f->ring, 1)
			      : io_uring_submit_and_wait_timeout(&f->ring, &cqe, 1, &limit, NULL);
}

static bool loop_waits(void *user, int poll_fd, int *timeout_ms)
{
	struct file_uring *f = user;
	int rc;

	/* Who waits in a ring counts as waiting for disks, which an idle guest's worker does not.
	 */
	if (f->in_kernel == 0)
		return true;
	begin_poll(f, poll_fd);
	rc = submit_and_wait(f, *timeout_ms);
	*timeout_ms = 0;
	reap(f, true);
	if (f->polls && (rc >= 0 || rc == -ETIME || rc == -EINTR))
		return false;
	/* What others do may take some time. */
	give_to_kernel(f);
	return true;
}

static void loop_waits_no_more(void *user)
{
	give_to_kernel(user);
}

static void uring_retry(void *user)
{
	give_to_kernel(user);
}

static void uring_wait(struct file *file)
{
	struct file_uring *f = container_of(file, struct file_uring, file);
	unsigned plug_depth = f->plug_depth;
	struct io_uring_cqe *cqe;

	/* Whoever waits wants it to start, plugged or not. */
	f->plug_depth = 0;
	give_to_kernel(f);
	f->plug_depth = plug_depth;
	do
		io_uring_wait_cqe(&f->ring, &cqe);
	while (reap(f, false) == 0);
}

static void uring_plug(struct file *file)
{
	container_of(file, struct file_uring, file)->plug_depth++;
}

static void uring_unplug(struct file *file)
{
	struct file_uring *f = container_of(file, struct file_uring, file);

	f->plug_depth--;
	give_to_kernel(f);
}

static int uring_set_size(struct file *file, uint64_t size_bytes)
{
	struct file_uring *f = container_of(file, struct file_uring, file);

	return ftruncate(f->fd, (off_t)size_bytes) < 0 ? -errno : 0;
}

static int uring_extent(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	return file_extent_of_fd(container_of(file, struct file_uring, file)->fd, offset, ret_data,
				 ret_end);
}

static void uring_free(struct file *file, bool close_fd)
{
	struct file_uring *f = container_of(file, struct file_uring, file);

	if (f->borrower)
		loop_take_back(f->borrower);
	loop_fd_remove(f->watch);
	loop_kick_free(f->retry);
	file_done(&f->file);
	/* The kernel ends a ring some time later; the file must not be held, locked or full until
	 * then. */
	io_uring_unregister_files(&f->ring);
	io_uring_queue_exit(&f->ring);
	file_unlock(f->fd);
	if (close_fd)
		close(f->fd);
	free(f);
}

static const struct file_ops uring_ops = {
	.name = "io_uring",
	.submit = uring_submit,
	.wait = uring_wait,
	.plug = uring_plug,
	.unplug = uring_unplug,
	.set_size = uring_set_size,
	.extent = uring_extent,
	.free = uring_free,
};

static bool supports_our_operations(struct io_uring *ring)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool ok;

	if (!probe)
		return false;
	ok = io_uring_opcode_supported(probe, IORING_OP_READ) &&
	     io_uring_opcode_supported(probe, IORING_OP_WRITE) &&
	     io_uring_opcode_supported(probe, IORING_OP_READV) &&
	     io_uring_opcode_supported(probe, IORING_OP_WRITEV) &&
	     io_uring_opcode_supported(probe, IORING_OP_FSYNC) &&
	     io_uring_opcode_supported(probe, IORING_OP_FALLOCATE);
	io_uring_free_probe(probe);
	return ok;
}

static int attach(struct file_uring *f, struct loop *loop, struct error *err)
{
	off_t size = lseek(f->fd, 0, SEEK_END);
	int rc;

	if (size < 0)
		return error_set_errno(err, errno, "reading the size of the disk's file");
	rc = file_init(&f->file, &uring_ops, loop, (uint64_t)size, err);
	if (rc < 0)
		return rc;
	rc = loop_kick_new(loop, uring_retry, f, &f->retry, err);
	if (rc < 0)
		return rc;
	f->wait = (struct loop_wait){ loop_waits, loop_waits_no_more, f };
	if ((f->ring.features & IORING_FEAT_EXT_ARG) && loop_lend_wait(loop, &f->wait)) {
		f->borrower = loop;
		return 0;
	}
	return loop_fd_add(loop, f->ring.ring_fd, EPOLLIN, uring_ready, f, &f->watch, err);
}

int file_open_uring(struct loop *loop, int fd, struct file **ret, struct error *err)
{
	struct file_uring *f = calloc(1, sizeof(*f));
	int rc;

	if (!f)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	f->fd = fd;
	f->backlog_tail = &f->backlog;
	/* Completions wait for the loop to look, rather than interrupt it. */
	rc = io_uring_queue_init(RING_ENTRIES, &f->ring, IORING_SETUP_COOP_TASKRUN);
	if (rc == -EINVAL)
		rc = io_uring_queue_init(RING_ENTRIES, &f->ring, 0);
	if (rc < 0) {
		free(f);
		return error_set_errno(err, -rc, "setting up io_uring");
	}
	rc = supports_our_operations(&f->ring) && io_uring_register_files(&f->ring, &fd, 1) == 0
		 ? attach(f, loop, err)
		 : error_set(err, ERR_UNSUPPORTED, "this kernel's io_uring lacks an operation");
	if (rc < 0) {
		uring_free(&f->file, false);
		return rc;
	}
	*ret = &f->file;
	return 0;
}
