#include "mem/mem.h"

#include "base/host.h"
#include "base/macros.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

struct mem {
	int fd;
	uint8_t *base; /* the whole memfd */
	uint64_t first_bytes, reach_bytes;
	uint64_t low_top;    /* of the reach: where the memfd goes on at 4 GiB */
	uint64_t size_bytes; /* atomic: changes while the loop's devices read it */
	uint8_t *page_flags; /* one per page; written with atomics */
	/* Per large page of the host: how often pages in it were looked up, or LARGE; bool: some
	 * were given back. */
	uint16_t *lookups;
	uint8_t *given_back;
	uint64_t *dirty; /* one bit per page; NULL until the first log */
	bool logging;
	void (*code_hook)(void *user, uint64_t gpa, uint64_t len);
	void *code_hook_user;
};

static uint64_t page_count(const struct mem *mem)
{
	return mem->reach_bytes >> MEM_PAGE_SHIFT;
}

#define LARGE UINT16_MAX
/* Page walks of a guest that are worth the millisecond that it takes. */
#define LOOKUPS_WORTH 256u

static uint64_t large_count(const struct mem *mem)
{
	return ALIGN_UP(mem->reach_bytes, HOST_LARGE_PAGE) / HOST_LARGE_PAGE;
}

static uint64_t lookups_bytes(const struct mem *mem)
{
	return large_count(mem) * sizeof(mem->lookups[0]);
}

static uint64_t dirty_words(const struct mem *mem)
{
	return (page_count(mem) + 63) / 64;
}

static uint64_t size_now(const struct mem *mem)
{
	return __atomic_load_n(&mem->size_bytes, __ATOMIC_RELAXED);
}

static uint64_t low_bytes(const struct mem *mem)
{
	return MIN(size_now(mem), mem->low_top);
}

static void *map_anonymous(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int mem_new(uint64_t size_bytes, struct mem **ret, struct error *err)
{
	return mem_new_growable(size_bytes, size_bytes, ret, err);
}

int mem_new_growable(uint64_t size_bytes, uint64_t reach_bytes, struct mem **ret, struct error *err)
{
	struct mem *mem = calloc(1, sizeof(*mem));

	assert(size_bytes >= MIB && size_bytes % MIB == 0);
	assert(reach_bytes >= size_bytes && reach_bytes % MIB == 0);
	if (!mem)
		return error_set(err, ERR_NO_MEMORY, "no memory for guest RAM's description");
	mem->size_bytes = mem->first_bytes = size_bytes;
	mem->reach_bytes = reach_bytes;
	mem->low_top = MIN(reach_bytes, MEM_LOW_TOP);
	mem->fd = memfd_create("guest-ram", MFD_CLOEXEC);
	if (mem->fd < 0 || ftruncate(mem->fd, (off_t)reach_bytes) < 0)
		goto fail;
	mem->base = host_map_large(mem->fd, reach_bytes, PROT_READ | PROT_WRITE, MAP_NORESERVE);
	if (mem->base == MAP_FAILED) {
		mem->base = NULL;
		goto fail;
	}
	/* Guest memory is large and touched at random; a core dump must not hold it. */
	madvise(mem->base, reach_bytes, MADV_HUGEPAGE);
	madvise(mem->base, reach_bytes, MADV_DONTDUMP);
	mem->page_flags = map_anonymous(page_count(mem));
	mem->lookups = map_anonymous(lookups_bytes(mem));
	mem->given_back = map_anonymous(large_count(mem));
	if (!mem->page_flags || !mem->lookups || !mem->given_back)
		goto fail;
	*ret = mem;
	return 0;
fail:
	error_set_errno(err, errno, "allocating %llu MiB of guest RAM",
			(unsigned long long)(size_bytes / MIB));
	mem_free(mem);
	return err ? -(int)err->code : -ERR_NO_MEMORY;
}

void mem_free(struct mem *mem)
{
	if (!mem)
		return;
	if (mem->dirty)
		munmap(mem->dirty, dirty_words(mem) * 8);
	if (mem->page_flags)
		munmap(mem->page_flags, page_count(mem));
	if (mem->lookups)
		munmap(mem->lookups, lookups_bytes(mem));
	if (mem->given_back)
		munmap(mem->given_back, large_count(mem));
	if (mem->base)
		munmap(mem->base, mem->reach_bytes);
	if (mem->fd >= 0)
		close(mem->fd);
	free(mem);
}

/* All of it is there. */
static bool is_backed(const struct mem *mem, uint64_t large_page)
{
	uint64_t end = (large_page + 1) * HOST_LARGE_PAGE;

	return end <= mem->reach_bytes &&
	       lseek(mem->fd, (off_t)(end - HOST_LARGE_PAGE), SEEK_HOLE) >= (off_t)end;
}

/* Not tried again if it fails. */
static void make_large(struct mem *mem, uint64_t large_page)
{
	__atomic_store_n(&mem->lookups[large_page], LARGE, __ATOMIC_RELAXED);
	host_collapse(mem->base + large_page * HOST_LARGE_PAGE);
}

/* Two threads may count as one: it is only about how often. */
void mem_looked_up(struct mem *mem, uint64_t page_index)
{
	uint64_t large_page = page_index / (HOST_LARGE_PAGE / MEM_PAGE_SIZE);
	uint16_t *lookups = &mem->lookups[large_page];
	uint16_t count = __atomic_load_n(lookups, __ATOMIC_RELAXED);

	if (count == LARGE)
		return;
	count = (uint16_t)((count + 1u) % LOOKUPS_WORTH);
	__atomic_store_n(lookups, count, __ATOMIC_RELAXED);
	if (count == 0 && is_backed(mem, large_page))
		make_large(mem, large_page);
}

unsigned mem_enlarge_touched(struct mem *mem)
{
	uint64_t count = mem->reach_bytes / HOST_LARGE_PAGE;
	unsigned made = 0;
	off_t data = 0; /* none between here and where it was looked for */

	for (uint64_t i = 0; i < count; i++) {
		off_t start = (off_t)(i * HOST_LARGE_PAGE);

		if (__atomic_load_n(&mem->lookups[i], __ATOMIC_RELAXED) == LARGE)
			continue;
		if (data <= start)
			data = lseek(mem->fd, start, SEEK_DATA);
		if (data < 0)
			break;
		if (data >= start + (off_t)HOST_LARGE_PAGE ||
		    (__atomic_load_n(&mem->given_back[i], __ATOMIC_RELAXED) && !is_backed(mem, i)))
			continue;
		make_large(mem, i);
		made++;
	}
	return made;
}

/* Reads as zeros afterwards. back: by the guest. */
static void punch(struct mem *mem, uint64_t offset, uint64_t len, bool back)
{
	for (uint64_t i = offset / HOST_LARGE_PAGE; i * HOST_LARGE_PAGE < offset + len; i++) {
		__atomic_store_n(&mem->given_back[i], back, __ATOMIC_RELAXED);
		__atomic_store_n(&mem->lookups[i], 0, __ATOMIC_RELAXED);
	}
	if (fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		      (off_t)len) < 0)
		memset(mem->base + offset, 0, len);
}

void mem_clear(struct mem *mem)
{
	struct mem_range ranges[2];
	unsigned count = mem_ranges(mem, ranges);

	for (unsigned i = 0; i < count; i++) {
		punch(mem, ranges[i].file_offset, ranges[i].size_bytes, false);
		mem_written(mem, ranges[i].gpa, ranges[i].size_bytes);
	}
	__atomic_store_n(&mem->size_bytes, mem->first_bytes, __ATOMIC_RELAXED);
}

void mem_grow(struct mem *mem, uint64_t size_bytes)
{
	assert(size_bytes >= size_now(mem) && size_bytes <= mem->reach_bytes);
	assert(size_bytes % MIB == 0);
	__atomic_store_n(&mem->size_bytes, size_bytes, __ATOMIC_RELAXED);
}

int mem_fd(const struct mem *mem)
{
	return mem->fd;
}

uint64_t mem_size_bytes(const struct mem *mem)
{
	return size_now(mem);
}

uint64_t mem_reach_bytes(const struct mem *mem)
{
	return mem->reach_bytes;
}

uint64_t mem_gpa_of(const struct mem *mem, uint64_t offset)
{
	return offset < mem->low_top ? offset : offset - mem->low_top + MEM_HIGH_BASE;
}

uint64_t mem_top_gpa(const struct mem *mem)
{
	return mem_gpa_of(mem, mem->reach_bytes - 1) + 1;
}

uint64_t mem_backed_bytes(const struct mem *mem)
{
	struct stat st;

	return fstat(mem->fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * 512;
}

unsigned mem_ranges(const struct mem *mem, struct mem_range ranges[static 2])
{
	uint64_t low = low_bytes(mem), high = size_now(mem) - low;

	ranges[0] = (struct mem_range){ 0, low, mem->base, 0 };
	if (!high)
		return 1;
	ranges[1] = (struct mem_range){ MEM_HIGH_BASE, high, mem->base + low, low };
	return 2;
}

/* Offset in the memfd of a range, or UINT64_MAX if a byte of it is not RAM. */
static uint64_t range_offset(const struct mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t low = low_bytes(mem);

	if (RANGE_OK(gpa, len, low))
		return gpa;
	if (gpa >= MEM_HIGH_BASE && RANGE_OK(gpa - MEM_HIGH_BASE, len, size_now(mem) - low))
		return gpa - MEM_HIGH_BASE + low;
	return UINT64_MAX;
}

void mem_release(struct mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t offset = range_offset(mem, gpa, len);

	assert(gpa % MEM_PAGE_SIZE == 0 && len % MEM_PAGE_SIZE == 0);
	if (offset == UINT64_MAX || !len)
		return;
	punch(mem, offset, len, true);
	mem_written(mem, gpa, len);
}

void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t offset = range_offset(mem, gpa, len);

	return offset == UINT64_MAX ? NULL : mem->base + offset;
}

bool mem_read(const struct mem *mem, uint64_t gpa, void *buf, size_t len)
{
	const void *p = mem_ptr(mem, gpa, len);

	if (!p)
		return false;
	memcpy(buf, p, len);
	return true;
}

bool mem_write(struct mem *mem, uint64_t gpa, const void *buf, size_t len)
{
	void *p = mem_ptr(mem, gpa, len);

	if (!p)
		return false;
	memcpy(p, buf, len);
	mem_written(mem, gpa, len);
	return true;
}

uint8_t *mem_page_flags(struct mem *mem)
{
	return mem->page_flags;
}

uint64_t mem_page_index(const struct mem *mem, uint64_t gpa)
{
	return (gpa < mem->low_top ? gpa : gpa - MEM_HIGH_BASE + mem->low_top) >> MEM_PAGE_SHIFT;
}

void mem_set_code_hook(struct mem *mem, void (*hook)(void *user, uint64_t gpa, uint64_t len),
		       void *user)
{
	mem->code_hook = hook;
	mem->code_hook_user = user;
}

void mem_written(struct mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t offset = range_offset(mem, gpa, len);
	bool code = false;

	if (offset == UINT64_MAX || len == 0)
		return;
	for (uint64_t i = offset >> MEM_PAGE_SHIFT; i <= (offset + len - 1) >> MEM_PAGE_SHIFT;
	     i++) {
		uint8_t flags = __atomic_load_n(&mem->page_flags[i], __ATOMIC_SEQ_CST);

		if (flags & MEM_PAGE_CLEAN)
			mem_dirty_log_set(mem, i);
		code |= flags & MEM_PAGE_CODE;
	}
	if (code && mem->code_hook)
		mem->code_hook(mem->code_hook_user, gpa, len);
}

/* ---- dirty log ---- */

/* What other threads stored before they looked at flags that were not set yet can be seen. */
static void see_stores(void)
{
	syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

static void set_clean(struct mem *mem, uint64_t page)
{
	__atomic_fetch_or(&mem->page_flags[page], MEM_PAGE_CLEAN, __ATOMIC_SEQ_CST);
}

static void clear_clean(struct mem *mem, uint64_t page)
{
	__atomic_fetch_and(&mem->page_flags[page], (uint8_t)~MEM_PAGE_CLEAN, __ATOMIC_SEQ_CST);
}

void mem_dirty_log_start(struct mem *mem)
{
	if (mem->logging)
		return;
	if (!mem->dirty)
		mem->dirty = map_anonymous(dirty_words(mem) * 8);
	if (!mem->dirty)
		abort(); /* 32 KiB per GiB of guest RAM */
	syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	memset(mem->dirty, 0, dirty_words(mem) * 8);
	__atomic_store_n(&mem->logging, true, __ATOMIC_SEQ_CST);
	for (uint64_t i = 0; i < page_count(mem); i++)
		set_clean(mem, i);
	see_stores();
}

/* The bitmap stays: a writer may be about to set a bit. */
void mem_dirty_log_stop(struct mem *mem)
{
	if (!mem->logging)
		return;
	for (uint64_t i = 0; i < page_count(mem); i++)
		clear_clean(mem, i);
	__atomic_store_n(&mem->logging, false, __ATOMIC_SEQ_CST);
}

bool mem_dirty_log_active(const struct mem *mem)
{
	return mem->logging;
}

/*
 * A writer clears the flag, then sets the bit; the taker clears the bit, then sets the flag. So a
 * page without the flag has its bit, or will have it when the thread that is at it has gone on: no
 * write after the page is copied goes unseen.
 */
void mem_dirty_log_set(struct mem *mem, uint64_t page_index)
{
	if (!__atomic_load_n(&mem->logging, __ATOMIC_SEQ_CST))
		return;
	clear_clean(mem, page_index);
	__atomic_fetch_or(&mem->dirty[page_index / 64], BIT(page_index % 64), __ATOMIC_SEQ_CST);
}

void mem_dirty_log_take(struct mem *mem, uint64_t *bitmap)
{
	if (!mem->logging)
		return;
	for (uint64_t w = 0; w < dirty_words(mem); w++) {
		uint64_t bits;

		if (!__atomic_load_n(&mem->dirty[w], __ATOMIC_RELAXED))
			continue;
		bits = __atomic_exchange_n(&mem->dirty[w], 0, __ATOMIC_SEQ_CST);
		bitmap[w] |= bits;
		for (; bits; bits &= bits - 1)
			set_clean(mem, w * 64 + (unsigned)__builtin_ctzll(bits));
	}
	see_stores();
}
