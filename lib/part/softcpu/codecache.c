/*
 * Memory for translated code: one memfd that is mapped twice, writable and executable. Originals
 * are filled in from one end and all go at once; copies have areas of their own.
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

void copy_area_empty(struct copy_area *area)
{
	area->used = area->start;
	area->data_used = area->data;
	area->copies = NULL;
}

/* A quarter is for copies. */
static void divide(struct code_cache *cache, uint8_t *data, size_t data_bytes)
{
	size_t from = cache->size / 4 * 3, each, data_each = ALIGN_DOWN(data_bytes / COPY_AREAS, 8);

	if (cache->size - from > HOST_LARGE_PAGE)
		from = ALIGN_UP(from, HOST_LARGE_PAGE);
	each = (cache->size - from) / COPY_AREAS;
	cache->end = cache->copies_large = from;
	for (unsigned i = 0; i < COPY_AREAS; i++) {
		struct copy_area *area = &cache->copies[i];

		area->start = ALIGN_UP(from + i * each, 64);
		area->end = from + (i + 1) * each;
		area->data = data + i * data_each;
		area->data_end = area->data + data_each;
	}
}

void code_cache_empty(struct code_cache *cache)
{
	cache->used = cache->shared_end;
	for (unsigned i = 0; i < COPY_AREAS; i++)
		copy_area_empty(&cache->copies[i]);
	cache->filling = 0;
}

int code_cache_init(struct code_cache *cache, size_t bytes, uint8_t *data, size_t data_bytes,
		    struct error *err)
{
	int rc;

	*cache = (struct code_cache){ .rw = MAP_FAILED, .rx = MAP_FAILED, .size = bytes };
	rc = map_twice(cache, err);
	if (rc < 0)
		return rc;
	divide(cache, data, data_bytes);
	return 0;
}

void code_cache_done(struct code_cache *cache)
{
	if (cache->rw != MAP_FAILED)
		munmap(cache->rw, cache->size);
	if (cache->rx != MAP_FAILED)
		munmap(cache->rx, cache->size);
}

size_t code_cache_held(const struct code_cache *cache)
{
	size_t bytes = cache->used - cache->shared_end;

	for (unsigned i = 0; i < COPY_AREAS; i++)
		bytes += cache->copies[i].used - cache->copies[i].start;
	return bytes;
}

static void release(struct code_cache *cache, size_t start, size_t end)
{
	size_t first = ALIGN_UP(start, MEM_PAGE_SIZE);

	end = MIN(ALIGN_UP(end, HOST_LARGE_PAGE), cache->size);
	if (end > first)
		madvise(cache->rw + first, end - first, MADV_REMOVE);
}

void code_cache_release(struct code_cache *cache)
{
	release(cache, cache->shared_end, cache->used);
	release(cache, cache->end, cache->size);
	cache->originals_large = 0;
	cache->copies_large = cache->end;
}
