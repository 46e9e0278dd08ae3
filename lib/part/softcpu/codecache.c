/*
 * Memory of the translator: code in one memfd that is mapped twice, writable and executable, and
 * the tables that go with it. Both are filled from one end and emptied as a whole.
 */
#include "part/softcpu/translate.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

#define LARGE_PAGE (2 * MIB)

/* Where a large page can begin. */
static uint8_t *map_aligned(int fd, size_t size, int protection)
{
	uint8_t *room = mmap(NULL, size + LARGE_PAGE, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint8_t *start = (uint8_t *)ALIGN_UP((uintptr_t)room, LARGE_PAGE);
	size_t before = (size_t)(start - room);

	if (room == MAP_FAILED)
		return MAP_FAILED;
	if (before)
		munmap(room, before);
	munmap(start + size, LARGE_PAGE - before);
	if (mmap(start, size, protection, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		munmap(start, size);
		return MAP_FAILED;
	}
	return start;
}

static int map_twice(struct code_cache *cache, struct error *err)
{
	int fd = memfd_create("oyako-translations", MFD_CLOEXEC), saved;

	if (fd < 0)
		return error_set_errno(err, errno, "creating memory for translated code");
	if (ftruncate(fd, (off_t)cache->size) == 0) {
		cache->rw = map_aligned(fd, cache->size, PROT_READ | PROT_WRITE);
		cache->rx = map_aligned(fd, cache->size, PROT_READ | PROT_EXEC);
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

	if (next + LARGE_PAGE > cache->size)
		return;
	cache->large_end += LARGE_PAGE;
	cache->rw[cache->used] = 0; /* a page of it must be there */
	if (madvise(cache->rw + next, LARGE_PAGE, MADV_COLLAPSE) == 0)
		madvise(cache->rx + next, LARGE_PAGE, MADV_COLLAPSE);
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
	size_t end = ALIGN_UP(cache->used, MEM_PAGE_SIZE);

	if (end > first)
		madvise(cache->rw + first, end - first, MADV_REMOVE);
	cache->large_end = 0;
	/* its pages are large ones */
	madvise(cache->data, ALIGN_UP(cache->data_used, 2 * MIB), MADV_DONTNEED);
}
