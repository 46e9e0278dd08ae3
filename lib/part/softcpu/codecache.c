/*
 * Memory of the translator: code in one memfd that is mapped twice, writable and executable, and
 * the tables that go with it. Both are divided into areas, which are filled from one end and
 * emptied as a whole.
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

void code_cache_enlarge_pages(struct code_cache *cache, size_t *large, size_t end)
{
	size_t next = *large;

	if (next + HOST_LARGE_PAGE > end)
		return;
	*large += HOST_LARGE_PAGE;
	if (host_collapse(cache->rw + next))
		host_collapse(cache->rx + next);
}

void code_area_empty(struct code_area *area)
{
	area->used = area->start;
	area->data_used = area->data_start;
	area->copies = NULL;
}

static size_t held(const struct code_area *area)
{
	return area->used - area->start + area->data_used - area->data_start;
}

/* A quarter is for copies. */
static void divide(struct code_cache *cache)
{
	size_t from = cache->size / 4 * 3, data_from = cache->data_size / 4 * 3;
	size_t each, data_each;

	if (cache->size - from > HOST_LARGE_PAGE)
		from = ALIGN_UP(from, HOST_LARGE_PAGE);
	each = (cache->size - from) / COPY_AREAS;
	data_each = (cache->data_size - data_from) / COPY_AREAS;
	cache->originals = (struct code_area){ .end = from, .data_end = data_from };
	for (unsigned i = 0; i < COPY_AREAS; i++) {
		struct code_area *area = &cache->copies[i];

		area->start = ALIGN_UP(from + i * each, 64);
		area->end = from + (i + 1) * each;
		area->data_start = ALIGN_UP(data_from + i * data_each, 64);
		area->data_end = data_from + (i + 1) * data_each;
	}
}

void code_cache_empty(struct code_cache *cache)
{
	cache->originals.start = cache->shared_end;
	code_area_empty(&cache->originals);
	for (unsigned i = 0; i < COPY_AREAS; i++)
		code_area_empty(&cache->copies[i]);
	cache->filling = 0;
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
	divide(cache);
	cache->copies_large = cache->copies[0].start;
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

void *code_cache_data(const struct code_cache *cache, struct code_area *area, size_t size)
{
	void *p = cache->data + area->data_used;

	size = ALIGN_UP(size, 8);
	if (area->data_used + size > area->data_end)
		return NULL;
	area->data_used += size;
	return p;
}

size_t code_cache_held(const struct code_cache *cache)
{
	size_t bytes = held(&cache->originals);

	for (unsigned i = 0; i < COPY_AREAS; i++)
		bytes += held(&cache->copies[i]);
	return bytes;
}

static void release_code(struct code_cache *cache, size_t start, size_t end)
{
	size_t first = ALIGN_UP(start, MEM_PAGE_SIZE);

	end = MIN(ALIGN_UP(end, HOST_LARGE_PAGE), cache->size);
	if (end > first)
		madvise(cache->rw + first, end - first, MADV_REMOVE);
}

void code_cache_release(struct code_cache *cache)
{
	release_code(cache, cache->shared_end, cache->originals.used);
	release_code(cache, cache->copies[0].start, cache->size);
	cache->originals_large = 0;
	cache->copies_large = cache->copies[0].start;
	/* its pages are large ones */
	madvise(cache->data, cache->data_size, MADV_DONTNEED);
}
