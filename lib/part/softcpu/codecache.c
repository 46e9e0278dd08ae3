/*
 * Memory of the translator: code in one memfd that is mapped twice, writable and executable, and
 * the tables that go with it. Both are filled from one end and emptied as a whole.
 */
#include "base/host.h"
#include "part/softcpu/translate.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static int map_twice(struct code_cache *cache, struct error *err)
{
	int fd = memfd_create("oyako-translations", MFD_CLOEXEC), saved;

	if (fd < 0)
		return error_set_errno(err, errno, "creating memory for translated code");
	if (ftruncate(fd, (off_t)cache->size) == 0) {
		cache->rw = host_map_large(fd, cache->size, PROT_READ | PROT_WRITE, 0);
		cache->rx = host_map_large(fd, cache->size, PROT_READ | PROT_EXEC, 0);
	}
	saved = errno;
	close(fd);
	if (cache->rw == MAP_FAILED || cache->rx == MAP_FAILED)
		return error_set_errno(err, saved, "mapping memory for translated code");
	return 0;
}

void code_cache_enlarge_pages(struct code_cache *cache)
{
	size_t next = cache->large_end;

	if (next + HOST_LARGE_PAGE > cache->size)
		return;
	cache->large_end += HOST_LARGE_PAGE;
	if (host_collapse(cache->rw + next))
		host_collapse(cache->rx + next);
}

/* Three fifths for code: it is about that much larger than what is kept of it. */
int code_cache_init(struct code_cache *cache, size_t bytes, struct error *err)
{
	int rc;

	*cache = (struct code_cache){ .rw = MAP_FAILED, .rx = MAP_FAILED };
	cache->size = ALIGN_UP(bytes / 5 * 3, MEM_PAGE_SIZE);
	cache->data_size = ALIGN_UP(bytes - cache->size, MEM_PAGE_SIZE);
	rc = map_twice(cache, err);
	if (rc < 0)
		return rc;
	cache->data = sc_map(cache->data_size);
	if (!cache->data)
		return error_set(err, ERR_NO_MEMORY, "no memory for the translator's tables");
	return 0;
}

void code_cache_done(struct code_cache *cache)
{
	if (cache->rw != MAP_FAILED)
		munmap(cache->rw, cache->size);
	if (cache->rx != MAP_FAILED)
		munmap(cache->rx, cache->size);
	sc_unmap(cache->data, cache->data_size);
}

void *code_cache_data(struct code_cache *cache, size_t size)
{
	void *p = cache->data + cache->data_used;

	size = ALIGN_UP(size, 8);
	if (cache->data_used + size > cache->data_size)
		return NULL;
	cache->data_used += size;
	return p;
}

size_t code_cache_held(const struct code_cache *cache)
{
	return cache->used - cache->shared_end + cache->data_used;
}

void code_cache_release(struct code_cache *cache)
{
	size_t first = ALIGN_UP(cache->shared_end, MEM_PAGE_SIZE);
	size_t end = MIN(ALIGN_UP(cache->used, HOST_LARGE_PAGE), cache->size);

	if (end > first)
		madvise(cache->rw + first, end - first, MADV_REMOVE);
	cache->large_end = 0;
	/* its pages are large ones */
	madvise(cache->data, ALIGN_UP(cache->data_used, 2 * MIB), MADV_DONTNEED);
}
