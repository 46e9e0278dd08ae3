#include "disk/file.h"

#include "base/macros.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h> /* not <sys/stat.h>: it lacks what direct I/O needs */
#include <sys/syscall.h>
#include <unistd.h>
#include <string.h>
#include <time.h>

#define ZEROS_BYTES 65536

static const uint8_t zeros[ZEROS_BYTES];

static bool moves_bytes(enum file_op op)
{
	return op == FILE_READ || op == FILE_WRITE || op == FILE_WRITE_DURABLE;
}

/* One at a time: a callback may wait for another request of the list. */
static void run_one_deferred(struct file *file)
{
	struct file_request *req = file->deferred;

	file->deferred = req->next;
	if (!file->deferred)
		file->deferred_tail = &file->deferred;
	file->deferred_count--;
	file_finish(req);
}

static void kicked(void *user)
{
	struct file *file = user;

	/* Only as many as there are now: callbacks that defer again must not starve the loop. */
	for (unsigned n = file->deferred_count; n > 0 && file->deferred; n--)
		run_one_deferred(file);
	if (file->deferred)
		loop_kick(file->kick);
}

/* ---- direct I/O ---- */

#define BOUNCE_CLASSES 9u /* 4 KiB << class */
#define BOUNCE_KEEP    8u /* of each */

struct bounce_pool {
	uint8_t *kept[BOUNCE_CLASSES][BOUNCE_KEEP];
	unsigned count[BOUNCE_CLASSES];
};

static unsigned class_of(uint64_t length)
{
	unsigned class = 0;

	while (class < BOUNCE_CLASSES && (UINT64_C(4096) << class) < length)
		class ++;
	return class;
}

static uint8_t *bounce_get(struct bounce_pool *pool, uint64_t length)
{
	unsigned class = class_of(length);

	if (class < BOUNCE_CLASSES && pool->count[class])
		return pool->kept[class][--pool->count[class]];
	return aligned_alloc(
	    4096,
	    class < BOUNCE_CLASSES ? UINT64_C(4096) << class : ALIGN_UP(length, UINT64_C(4096)));
}

static void bounce_put(struct bounce_pool *pool, uint8_t *buf, uint64_t length)
{
	unsigned class = class_of(length);

	if (class < BOUNCE_CLASSES && pool->count[class] < BOUNCE_KEEP)
		pool->kept[class][pool->count[class]++] = buf;
	else
		free(buf);
}

static void bounces_done(struct file *file)
{
	for (unsigned class = 0; file->bounces && class < BOUNCE_CLASSES; class ++)
		for (unsigned i = 0; i < file->bounces->count[class]; i++)
			free(file->bounces->kept[class][i]);
	free(file->bounces);
}

static bool aligned(const struct file *file, const struct file_request *req)
{
	uintptr_t bits = 0;

	if (!moves_bytes(req->op))
		return true;
	for (unsigned i = 0; i < req->iov_count; i++)
		bits |= (uintptr_t)req->iov[i].iov_base | (req->iov[i].iov_len & 511);
	return bits % file->direct_align == 0 && bits % 512 % file->direct_align == 0;
}

static void copy(struct file_request *req, bool out)
{
	uint8_t *at = req->bounce;

	for (unsigned i = 0; i < req->iov_count; at += req->iov[i].iov_len, i++) {
		if (out)
			memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
		else
			memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
	}
}

/* Without memory it is tried as it is: the host will refuse it. */
static void bounce(struct file *file, struct file_request *req)
{
	req->bounce = bounce_get(file->bounces, req->length);
	if (req->bounce && req->op != FILE_READ)
		copy(req, false);
}

static void unbounce(struct file *file, struct file_request *req)
{
	if (req->op == FILE_READ && req->result == 0)
		copy(req, true);
	bounce_put(file->bounces, req->bounce, req->length);
}

static bool set_direct(int fd, bool direct)
{
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

void file_bypass_cache(struct file *file, int fd)
{
	struct statx stx = { 0 };

	if (file->size_bytes % 512 ||
	    syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
	    !(stx.stx_mask & STATX_DIOALIGN) || stx.stx_dio_offset_align == 0 ||
	    stx.stx_dio_offset_align > 512 || stx.stx_dio_mem_align > 4096)
		return;
	file->bounces = calloc(1, sizeof(*file->bounces));
	if (!file->bounces || !set_direct(fd, true))
		return;
	file->direct_align = stx.stx_dio_mem_align;
	file->direct_fd = fd;
}

int file_init(struct file *file, const struct file_ops *ops, struct loop *loop, uint64_t size_bytes,
	      struct error *err)
{
	*file = (struct file){ .ops = ops, .size_bytes = size_bytes };
	file->deferred_tail = &file->deferred;
	return loop_kick_new(loop, kicked, file, &file->kick, err);
}

void file_done(struct file *file)
{
	bounces_done(file);
	/* Others may hold the same open file. */
	if (file->direct_align)
		set_direct(file->direct_fd, false);
	loop_kick_free(file->kick);
}

void file_submit(struct file *file, struct file_request *req)
{
	req->file = file;
	req->progress_bytes = 0;
	req->write_zeros = false;
	req->bounce = NULL;
	if (file->direct_align && !aligned(file, req))
		bounce(file, req);
	file->in_flight++;
	file->ops->submit(file, req);
}

void file_defer(struct file *file, struct file_request *req, int result)
{
	req->file = file;
	req->result = result;
	req->next = NULL;
	file->in_flight++;
	*file->deferred_tail = req;
	file->deferred_tail = &req->next;
	file->deferred_count++;
	loop_kick(file->kick);
}

void file_wait(struct file *file)
{
	assert(file->in_flight > 0);
	if (file->deferred)
		run_one_deferred(file);
	else
		file->ops->wait(file);
}

void file_plug(struct file *file)
{
	if (file->ops->plug)
		file->ops->plug(file);
}

void file_unplug(struct file *file)
{
	if (file->ops->unplug)
		file->ops->unplug(file);
}

int file_set_size(struct file *file, uint64_t size_bytes)
{
	int rc = file->ops->set_size(file, size_bytes);

	if (rc == 0)
		file->size_bytes = size_bytes;
	return rc;
}

int file_extent(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	assert(offset < file->size_bytes);
	if (file->ops->extent)
		return file->ops->extent(file, offset, ret_data, ret_end);
	*ret_data = true;
	*ret_end = file->size_bytes;
	return 0;
}

void file_close(struct file *file)
{
	assert(file->in_flight == 0);
	file->ops->free(file, true);
}

void file_abandon(struct file *file)
{
	assert(file->in_flight == 0);
	file->ops->free(file, false);
}

/* ---- locks ---- */

/* A process that has just ended may hold its locks a little longer: its io_uring goes afterwards.
 */
#define LOCK_TRIES    50
#define LOCK_PAUSE_MS 10

int file_lock(int fd, bool exclusive, struct error *err)
{
	const struct timespec pause = { 0, LOCK_PAUSE_MS * 1000000 };

	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		struct flock lock = { .l_type = exclusive ? F_WRLCK : F_RDLCK,
				      .l_whence = SEEK_SET };

		if (fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES))
			return 0;
		nanosleep(&pause, NULL);
	}
	return error_set(err, ERR_BUSY, "the disk image is in use by another process");
}

void file_unlock(int fd)
{
	struct flock lock = { .l_type = F_UNLCK, .l_whence = SEEK_SET };

	fcntl(fd, F_OFD_SETLK, &lock);
}

/* ---- engines' part ---- */

enum file_op file_piece(struct file_request *req, const struct iovec **iov, unsigned *iov_count,
			uint64_t *offset)
{
	uint64_t skip = req->progress_bytes;

	*offset = req->offset + skip;
	*iov = &req->piece;
	*iov_count = 1;
	if (req->write_zeros) {
		req->piece.iov_base = (void *)zeros;
		req->piece.iov_len = MIN(req->length - skip, (uint64_t)ZEROS_BYTES);
		return FILE_WRITE;
	}
	if (req->bounce) {
		req->piece = (struct iovec){ req->bounce + skip, req->length - skip };
		return req->op;
	}
	if (skip == 0) {
		*iov = req->iov;
		*iov_count = req->iov_count;
		return req->op;
	}
	/* The rest of a short transfer goes one iovec entry at a time. */
	for (const struct iovec *v = req->iov;; v++) {
		if (skip < v->iov_len) {
			req->piece.iov_base = (char *)v->iov_base + skip;
			req->piece.iov_len = v->iov_len - skip;
			return req->op;
		}
		skip -= v->iov_len;
	}
}

int64_t file_perform(int fd, struct file_request *req)
{
	const struct iovec *iov;
	unsigned iov_count;
	uint64_t offset;
	enum file_op op = file_piece(req, &iov, &iov_count, &offset);
	ssize_t n = 0;

	switch (op) {
	case FILE_READ:
		n = preadv(fd, iov, (int)iov_count, (off_t)offset);
		break;
	case FILE_WRITE:
		n = pwritev(fd, iov, (int)iov_count, (off_t)offset);
		break;
	case FILE_WRITE_DURABLE:
		n = pwritev2(fd, iov, (int)iov_count, (off_t)offset, RWF_DSYNC);
		break;
	case FILE_SYNC:
		n = fdatasync(fd);
		break;
	case FILE_ZERO:
	case FILE_PUNCH:
	case FILE_DISCARD:
		n = fallocate(fd, file_fallocate_mode(op), (off_t)req->offset, (off_t)req->length);
		break;
	}
	return n < 0 ? -errno : n;
}

static void zero_rest(struct file_request *req)
{
	uint64_t skip = req->progress_bytes;

	if (req->bounce)
		memset(req->bounce + skip, 0, req->length - skip);
	for (unsigned i = 0; i < req->iov_count && !req->bounce; i++) {
		const struct iovec *v = &req->iov[i];

		if (skip < v->iov_len) {
			memset((char *)v->iov_base + skip, 0, v->iov_len - skip);
			skip = 0;
		} else {
			skip -= v->iov_len;
		}
	}
}

static bool finished(struct file_request *req, int result)
{
	req->result = result;
	return true;
}

bool file_advance(struct file_request *req, int64_t piece_result)
{
	if (piece_result == -EINTR || piece_result == -EAGAIN)
		return false;
	if (piece_result == -EOPNOTSUPP && !req->write_zeros &&
	    (req->op == FILE_ZERO || req->op == FILE_PUNCH)) {
		req->write_zeros = true;
		return req->length == 0 ? finished(req, 0) : false;
	}
	if (piece_result < 0)
		return finished(req, (int)piece_result);
	if (!moves_bytes(req->op) && !req->write_zeros)
		return finished(req, 0);
	/* The end of the file; direct I/O can't go on from the middle of a sector to see it. */
	if (req->op == FILE_READ && piece_result % 512 && req->file->direct_align)
		req->progress_bytes += (uint64_t)piece_result;
	if (req->op == FILE_READ &&
	    (piece_result == 0 || (piece_result % 512 && req->file->direct_align))) {
		zero_rest(req);
		return finished(req, 0);
	}
	if (piece_result == 0)
		return finished(req, req->length == 0 ? 0 : -EIO);
	req->progress_bytes += (uint64_t)piece_result;
	return req->progress_bytes >= req->length ? finished(req, 0) : false;
}

void file_finish(struct file_request *req)
{
	if (req->bounce)
		unbounce(req->file, req);
	req->file->in_flight--;
	req->done(req, req->result);
}

/* A host that knows no holes says that all is data; one that fails is asked no more. */
int file_extent_of_fd(int fd, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	off_t size = lseek(fd, 0, SEEK_END), data = lseek(fd, (off_t)offset, SEEK_DATA), end;

	if (size < 0)
		return -errno;
	*ret_data = data == (off_t)offset || (data < 0 && errno != ENXIO);
	end = *ret_data ? lseek(fd, (off_t)offset, SEEK_HOLE) : data;
	*ret_end = (uint64_t)(end <= (off_t)offset ? size : end);
	return 0;
}

int file_fallocate_mode(enum file_op op)
{
	return op == FILE_ZERO ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE
			       : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
}

/* ---- blocking forms ---- */

struct now {
	struct file_request req;
	bool done;
	int result;
};

static void now_done(struct file_request *req, int result)
{
	struct now *now = container_of(req, struct now, req);

	now->done = true;
	now->result = result;
}

static int run_now(struct file *file, enum file_op op, uint64_t offset, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct now now = { .req = { .op = op,
				    .offset = offset,
				    .length = len,
				    .iov = &iov,
				    .iov_count = 1,
				    .done = now_done } };

	file_submit(file, &now.req);
	while (!now.done)
		file_wait(file);
	return now.result;
}

int file_read_now(struct file *file, uint64_t offset, void *buf, size_t len)
{
	return run_now(file, FILE_READ, offset, buf, len);
}

int file_write_now(struct file *file, uint64_t offset, const void *buf, size_t len)
{
	return run_now(file, FILE_WRITE, offset, (void *)buf, len);
}

int file_write_durable_now(struct file *file, uint64_t offset, const void *buf, size_t len)
{
	return run_now(file, FILE_WRITE_DURABLE, offset, (void *)buf, len);
}

int file_zero_now(struct file *file, uint64_t offset, uint64_t len)
{
	return run_now(file, FILE_ZERO, offset, NULL, len);
}

int file_punch_now(struct file *file, uint64_t offset, uint64_t len)
{
	return run_now(file, FILE_PUNCH, offset, NULL, len);
}

int file_sync_now(struct file *file)
{
	return run_now(file, FILE_SYNC, 0, NULL, 0);
}
