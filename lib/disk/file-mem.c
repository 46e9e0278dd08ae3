#include "disk/file-mem.h"

#include "base/macros.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u

struct file_mem {
	struct file file;
	struct file_mem_options options;
	uint8_t *bytes;
	struct loop_kick *kick;
	struct file_request **queue;
	unsigned count, capacity;
	uint64_t random;
};

static uint64_t next_random(struct file_mem *f)
{
	f->random ^= f->random << 13;
	f->random ^= f->random >> 7;
	f->random ^= f->random << 17;
	return f->random;
}

static void observe(struct file_mem *f, enum file_mem_event event, const struct file_request *req)
{
	if (f->options.observe && !(req && req->op == FILE_READ))
		f->options.observe(f->options.user, event, req, f->file.size_bytes);
}

/* Whole pages go back to the host, so that large holes cost nothing. */
static void zero_range(struct file_mem *f, uint64_t offset, uint64_t length)
{
	uint64_t end = offset + length, first = ALIGN_UP(offset, (uint64_t)PAGE);
	uint64_t last = ALIGN_DOWN(end, (uint64_t)PAGE);

	if (first >= last) {
		memset(f->bytes + offset, 0, length);
		return;
	}
	memset(f->bytes + offset, 0, first - offset);
	memset(f->bytes + last, 0, end - last);
	madvise(f->bytes + first, last - first, MADV_DONTNEED);
}

static int64_t transfer(struct file_mem *f, struct file_request *req)
{
	uint64_t at = req->offset;

	for (unsigned i = 0; i < req->iov_count; at += req->iov[i].iov_len, i++) {
		if (req->op == FILE_READ)
			memcpy(req->iov[i].iov_base, f->bytes + at, req->iov[i].iov_len);
		else
			memcpy(f->bytes + at, req->iov[i].iov_base, req->iov[i].iov_len);
	}
	return (int64_t)req->length;
}

/* Beyond the end a short read is enough to test the layer above; writes must stay inside. */
static int64_t perform(struct file_mem *f, struct file_request *req)
{
	int rc = f->options.fault ? f->options.fault(f->options.user, req) : 0;

	if (rc)
		return rc;
	if (f->options.fd > 0)
		return file_perform(f->options.fd, req);
	if (req->op == FILE_SYNC)
		return 0;
	if (!RANGE_OK(req->offset, req->length, f->options.max_bytes))
		return req->op == FILE_READ ? 0 : -ENOSPC;
	if (req->op == FILE_READ || req->op == FILE_WRITE || req->op == FILE_WRITE_DURABLE)
		return transfer(f, req);
	zero_range(f, req->offset, req->length);
	return 0;
}

static void complete_one(struct file_mem *f)
{
	unsigned index = f->options.seed ? (unsigned)(next_random(f) % f->count) : 0;
	struct file_request *req = f->queue[index];

	f->count--;
	memmove(&f->queue[index], &f->queue[index + 1],
		(f->count - index) * sizeof(struct file_request *));
	observe(f, FILE_MEM_COMPLETED, req);
	file_finish(req);
}

static void kicked(void *user)
{
	struct file_mem *f = user;
	unsigned some =
	    f->options.seed && f->count ? 1 + (unsigned)(next_random(f) % f->count) : f->count;

	while (some-- > 0 && f->count > 0)
		complete_one(f);
	if (f->count > 0)
		loop_kick(f->kick);
}

static void mem_submit(struct file *file, struct file_request *req)
{
	struct file_mem *f = container_of(file, struct file_mem, file);

	observe(f, FILE_MEM_SUBMITTED, req);
	while (!file_advance(req, perform(f, req)))
		;
	if (f->count == f->capacity) {
		f->capacity = MAX(f->capacity * 2, 64u);
		f->queue = realloc(f->queue, f->capacity * sizeof(struct file_request *));
		if (!f->queue)
			abort();
	}
	f->queue[f->count++] = req;
	loop_kick(f->kick);
}

static void mem_wait(struct file *file)
{
	complete_one(container_of(file, struct file_mem, file));
}

static int mem_set_size(struct file *file, uint64_t size_bytes)
{
	struct file_mem *f = container_of(file, struct file_mem, file);
	int rc = f->options.fault ? f->options.fault(f->options.user, NULL) : 0;

	if (rc)
		return rc;
	if (size_bytes > f->options.max_bytes)
		return -EFBIG;
	if (f->options.fd > 0 && ftruncate(f->options.fd, (off_t)size_bytes) < 0)
		return -errno;
	if (f->options.fd <= 0 && size_bytes < file->size_bytes)
		zero_range(f, size_bytes, file->size_bytes - size_bytes);
	file->size_bytes = size_bytes;
	observe(f, FILE_MEM_RESIZED, NULL);
	return 0;
}

static bool is_zero_page(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, PAGE - 1) == 0;
}

/* Pages of zeros are holes. */
static int mem_extent(struct file *file, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
	struct file_mem *f = container_of(file, struct file_mem, file);
	uint64_t page = ALIGN_DOWN(offset, (uint64_t)PAGE);

	if (f->options.fd > 0)
		return file_extent_of_fd(f->options.fd, offset, ret_data, ret_end);
	*ret_data = !is_zero_page(f->bytes + page);
	do
		page += PAGE;
	while (page < file->size_bytes && is_zero_page(f->bytes + page) != *ret_data);
	*ret_end = MIN(page, file->size_bytes);
	return 0;
}

static void mem_free(struct file *file, bool close_fd)
{
	struct file_mem *f = container_of(file, struct file_mem, file);

	loop_kick_free(f->kick);
	file_done(file);
	if (!f->options.bytes)
		munmap(f->bytes, f->options.max_bytes);
	if (f->options.fd > 0 && close_fd)
		close(f->options.fd);
	free(f->queue);
	free(f);
}

static const struct file_ops mem_ops = {
	.name = "memory",
	.submit = mem_submit,
	.wait = mem_wait,
	.set_size = mem_set_size,
	.extent = mem_extent,
	.free = mem_free,
};

int file_mem_new(struct loop *loop, const struct file_mem_options *options, uint64_t size_bytes,
		 struct file **ret)
{
	struct file_mem *f = calloc(1, sizeof(*f));

	if (!f)
		return -ERR_NO_MEMORY;
	f->options = *options;
	f->random = options->seed;
	f->bytes = options->bytes;
	if (options->fd > 0)
		size_bytes = (uint64_t)lseek(options->fd, 0, SEEK_END);
	if (!f->bytes)
		f->bytes = mmap(NULL, options->max_bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (f->bytes == MAP_FAILED || file_init(&f->file, &mem_ops, loop, size_bytes, NULL) < 0 ||
	    loop_kick_new(loop, kicked, f, &f->kick, NULL) < 0)
		abort();
	*ret = &f->file;
	return 0;
}

uint8_t *file_mem_bytes(struct file *file)
{
	return container_of(file, struct file_mem, file)->bytes;
}

void file_mem_zero(struct file *file, uint64_t offset, uint64_t length)
{
	zero_range(container_of(file, struct file_mem, file), offset, length);
}
