/*
 * Pages of 4 KiB of the BAT and of sector bitmaps in memory, found by their offset in the file and
 * loaded when a request needs them, so that opening a disk costs the same whatever its size. About
 * VHDX_CACHE_PAGES stay; the clock takes what was not used lately. Pages that are dirty, that an
 * operation is going to change, that a round of the flush machine is writing, or that requests wait
 * for stay in any case.
 */
#include "disk/vhdx-impl.h"

#include "base/macros.h"

#include <stdlib.h>

void vhdx_cache_init(struct vhdx *vhdx)
{
	vhdx->cache.limit = VHDX_CACHE_PAGES;
}

static struct vhdx_page **bucket(struct vhdx_cache *cache, uint64_t offset)
{
	uint64_t key = offset / VHDX_SECTOR_BYTES * UINT64_C(0x9e3779b97f4a7c15);

	return &cache->hash[key >> (64 - VHDX_HASH_BITS)];
}

static struct vhdx_page *find(struct vhdx_cache *cache, uint64_t offset)
{
	struct vhdx_page *page = *bucket(cache, offset);

	while (page && page->offset != offset)
		page = page->hash_next;
	return page;
}

struct vhdx_page *vhdx_page_find(struct vhdx *vhdx, uint64_t offset)
{
	struct vhdx_page *page = find(&vhdx->cache, offset);

	return page && page->state == VHDX_PAGE_READY ? page : NULL;
}

/* ---- coming and going ---- */

static void insert(struct vhdx_cache *cache, struct vhdx_page *page)
{
	struct vhdx_page **head = bucket(cache, page->offset);

	page->hash_next = *head;
	*head = page;
	if (cache->hand) {
		page->ring_next = cache->hand;
		page->ring_prev = cache->hand->ring_prev;
		page->ring_prev->ring_next = page;
		page->ring_next->ring_prev = page;
	} else {
		page->ring_next = page->ring_prev = page;
		cache->hand = page;
	}
	cache->count++;
}

static void drop(struct vhdx_cache *cache, struct vhdx_page *page)
{
	struct vhdx_page **link = bucket(cache, page->offset);

	while (*link != page)
		link = &(*link)->hash_next;
	*link = page->hash_next;
	if (cache->hand == page)
		cache->hand = page->ring_next == page ? NULL : page->ring_next;
	page->ring_prev->ring_next = page->ring_next;
	page->ring_next->ring_prev = page->ring_prev;
	cache->count--;
	free(page);
}

void vhdx_cache_done(struct vhdx *vhdx)
{
	while (vhdx->cache.hand)
		drop(&vhdx->cache, vhdx->cache.hand);
	free(vhdx->overlay.zeroed);
	free(vhdx->overlay.page);
}

static bool may_go(const struct vhdx_page *page)
{
	return page->state != VHDX_PAGE_LOADING && !page->dirty && !page->pins && !page->from_log;
}

void vhdx_cache_trim(struct vhdx *vhdx)
{
	struct vhdx_cache *cache = &vhdx->cache;

	for (unsigned turns = 2 * cache->count; cache->count > cache->limit && turns > 0; turns--) {
		struct vhdx_page *page = cache->hand;

		cache->hand = page->ring_next;
		if (page->used_lately)
			page->used_lately = false;
		else if (may_go(page))
			drop(cache, page);
	}
}

static struct vhdx_page *new_page(struct vhdx *vhdx, enum vhdx_page_kind kind, uint64_t offset)
{
	struct vhdx_page *page = malloc(sizeof(*page));

	if (!page)
		return NULL;
	*page = (struct vhdx_page){ .vhdx = vhdx, .kind = kind, .offset = offset };
	vhdx_list_init(&page->waiters);
	insert(&vhdx->cache, page);
	return page;
}

/* ---- loading ---- */

static bool zeroed_by_log(const struct vhdx *vhdx, uint64_t offset)
{
	for (size_t i = 0; i < vhdx->overlay.zeroed_count; i++)
		if (offset >= vhdx->overlay.zeroed[i].offset &&
		    offset - vhdx->overlay.zeroed[i].offset < vhdx->overlay.zeroed[i].length)
			return true;
	return false;
}

static void loaded(struct file_request *req, int result)
{
	struct vhdx_page *page = container_of(req, struct vhdx_page, req);
	struct vhdx *vhdx = page->vhdx;
	struct vhdx_io *io;
	bool ok = result == 0;

	if (zeroed_by_log(vhdx, page->offset))
		memset(page->word, 0, sizeof(page->word));
	if (ok && page->kind == VHDX_PAGE_BAT)
		ok = vhdx_bat_check_page(vhdx, page, NULL) == 0;
	page->state = ok ? VHDX_PAGE_READY : VHDX_PAGE_BAD;
	vhdx->background--;
	/* What is known to be wrong is not written to. */
	if (!ok && result == 0)
		vhdx->write_state = VHDX_FAILED;
	page->pins++;
	while ((io = vhdx_list_take(&page->waiters)))
		vhdx_io_resume(vhdx, io, ok);
	page->pins--;
	/* The host's failure to read may pass. (A pin: vhdx_page_now looks first.) */
	if (result < 0 && !page->pins)
		drop(&vhdx->cache, page);
}

static void start_loading(struct vhdx_page *page)
{
	page->iov = (struct iovec){ page->word, sizeof(page->word) };
	page->req = (struct file_request){ .op = FILE_READ,
					   .offset = page->offset,
					   .length = sizeof(page->word),
					   .iov = &page->iov,
					   .iov_count = 1,
					   .done = loaded };
	page->vhdx->background++;
	file_submit(page->vhdx->file, &page->req);
}

struct vhdx_page *vhdx_page_want(struct vhdx *vhdx, enum vhdx_page_kind kind, uint64_t offset,
				 struct vhdx_io *io, bool *ret_loading)
{
	struct vhdx_page *page = find(&vhdx->cache, offset);

	*ret_loading = false;
	if (!page) {
		page = new_page(vhdx, kind, offset);
		if (!page)
			return NULL;
		start_loading(page);
	}
	page->used_lately = true;
	if (page->state == VHDX_PAGE_READY)
		return page;
	if (page->state == VHDX_PAGE_LOADING) {
		vhdx_list_add(&page->waiters, io);
		*ret_loading = true;
	}
	return NULL;
}

/* Requests that want the page meanwhile wait for the same read. */
int vhdx_page_now(struct vhdx *vhdx, enum vhdx_page_kind kind, uint64_t offset,
		  struct vhdx_page **ret, struct error *err)
{
	struct vhdx_page *page = find(&vhdx->cache, offset);

	if (!page) {
		page = new_page(vhdx, kind, offset);
		if (!page)
			return error_set(err, ERR_NO_MEMORY, "no memory for VHDX metadata");
		start_loading(page);
	}
	page->pins++;
	while (page->state == VHDX_PAGE_LOADING)
		file_wait(vhdx->file);
	page->pins--;
	page->used_lately = true;
	*ret = page;
	if (page->state == VHDX_PAGE_READY)
		return 0;
	if (may_go(page))
		drop(&vhdx->cache, page);
	return error_set(err, ERR_CORRUPT, "the VHDX metadata at %#lx is damaged or can't be read",
			 offset);
}

/* ---- dirty pages ---- */

void vhdx_page_dirty(struct vhdx_page *page)
{
	struct vhdx_cache *cache = &page->vhdx->cache;
	struct vhdx_page **head = &cache->dirty[page->kind];

	if (page->dirty)
		return;
	page->dirty = true;
	page->dirty_prev = NULL;
	page->dirty_next = *head;
	if (*head)
		(*head)->dirty_prev = page;
	*head = page;
	cache->dirty_count[page->kind]++;
}

void vhdx_page_clean(struct vhdx_page *page)
{
	struct vhdx_cache *cache = &page->vhdx->cache;

	page->dirty = false;
	if (page->dirty_prev)
		page->dirty_prev->dirty_next = page->dirty_next;
	else
		cache->dirty[page->kind] = page->dirty_next;
	if (page->dirty_next)
		page->dirty_next->dirty_prev = page->dirty_prev;
	cache->dirty_count[page->kind]--;
}

/* ---- a log in memory ---- */

#define MAX_ZEROED_RANGES 1024u

/* Room for one more in an array whose room is always a power of two. */
static bool grow(void **array, size_t count, size_t item_bytes)
{
	void *more;

	if (count & (count - 1))
		return true;
	more = realloc(*array, MAX(count * 2, (size_t)1) * item_bytes);
	if (more)
		*array = more;
	return more;
}

static int put_page(struct vhdx *vhdx, uint64_t offset, const uint8_t *data, struct error *err)
{
	bool bat = offset >= vhdx->bat_region.offset &&
		   offset - vhdx->bat_region.offset < vhdx->bat_region.length;
	struct vhdx_page *page = find(&vhdx->cache, offset);

	if (!page)
		page = new_page(vhdx, bat ? VHDX_PAGE_BAT : VHDX_PAGE_BITMAP, offset);
	if (!page)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX log");
	page->from_log = true;
	page->state = VHDX_PAGE_READY;
	memcpy(page->word, data, sizeof(page->word));
	return 0;
}

static void zero_pages(struct vhdx *vhdx, uint64_t offset, uint64_t length)
{
	struct vhdx_page *page = vhdx->cache.hand;

	for (unsigned i = 0; i < vhdx->cache.count; i++, page = page->ring_next)
		if (page->offset >= offset && page->offset - offset < length)
			memset(page->word, 0, sizeof(page->word));
}

int vhdx_overlay_add(struct vhdx *vhdx, uint64_t offset, uint64_t length, const uint8_t *data,
		     struct error *err)
{
	struct vhdx_overlay *overlay = &vhdx->overlay;
	bool room = data ? grow((void **)&overlay->page, overlay->page_count, sizeof(uint64_t))
			 : grow((void **)&overlay->zeroed, overlay->zeroed_count,
				sizeof(struct vhdx_range));

	if (!room)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX log");
	if (data) {
		overlay->page[overlay->page_count++] = offset;
		return put_page(vhdx, offset, data, err);
	}
	if (overlay->zeroed_count == MAX_ZEROED_RANGES)
		return error_set(err, ERR_LIMIT,
				 "the VHDX log zeroes more than %u ranges; open the disk for "
				 "writing once, so that it is replayed",
				 MAX_ZEROED_RANGES);
	zero_pages(vhdx, offset, length);
	overlay->zeroed[overlay->zeroed_count++] = (struct vhdx_range){ offset, length };
	return 0;
}

static int compare_offsets(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* What the log says is as hostile as what the file says. */
int vhdx_overlay_check(struct vhdx *vhdx, struct error *err)
{
	struct vhdx_page *page = vhdx->cache.hand;
	int rc = 0;

	for (unsigned i = 0; i < vhdx->cache.count && rc == 0; i++, page = page->ring_next)
		if (page->kind == VHDX_PAGE_BAT)
			rc = vhdx_bat_check_page(vhdx, page, err);
	return rc;
}

void vhdx_overlay_sort(struct vhdx *vhdx)
{
	if (vhdx->overlay.page_count)
		qsort(vhdx->overlay.page, vhdx->overlay.page_count, sizeof(uint64_t),
		      compare_offsets);
}
