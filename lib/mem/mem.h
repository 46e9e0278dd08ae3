/*
 * Guest RAM: one memfd, mapped once, seen by guest physical address (GPA).
 *
 * Layout, as Hyper-V has it: RAM from 0 to at most MEM_LOW_TOP, then a hole for MMIO up to 4 GiB,
 * the rest of RAM from 4 GiB on. In the memfd the two parts follow each other without the hole.
 *
 * RAM may grow while the VM runs (memory hot add): the memfd and the address space are as large as
 * it may ever become, its reach; what lies between size and reach is no RAM to anybody yet. A
 * sparse memfd costs the host what the guest has touched, and mem_release() gives that back.
 *
 * Any thread may call everything but new and free. The guest's processors write the same bytes at
 * the same time: copy what you are going to check, check the copy, use the copy.
 *
 * Whoever writes guest RAM other than by mem_write() (through a pointer from mem_ptr(), by DMA into
 * an iovec) calls mem_written() once the bytes are in place. It keeps the dirty log, and lets the
 * software CPU drop instructions that it decoded from that page.
 */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define MEM_PAGE_SIZE  4096u
#define MEM_PAGE_SHIFT 12
#define MEM_LOW_TOP    UINT64_C(0xF8000000) /* end of low RAM, start of the MMIO hole */
#define MEM_HIGH_BASE  UINT64_C(0x100000000)

struct mem;

struct mem_range {
	uint64_t gpa, size_bytes;
	void *host;           /* size_bytes of mapped memory */
	uint64_t file_offset; /* in mem_fd() */
};

/* size_bytes: a multiple of 1 MiB, at least 1 MiB. */
int mem_new(uint64_t size_bytes, struct mem **ret, struct error *err);
/* The same, of size_bytes at first and reach_bytes at most. */
int mem_new_growable(uint64_t size_bytes, uint64_t reach_bytes, struct mem **ret,
		     struct error *err);
void mem_free(struct mem *mem);
/* Fills all RAM with zeros again and gives it back to the host, and makes it as large as it was at
 * first (VM reset). Only while no VP runs; part_memory_changed() has to follow. */
void mem_clear(struct mem *mem);
/* More RAM, up to the reach; multiple of 1 MiB, not less than now. As for mem_clear. */
void mem_grow(struct mem *mem, uint64_t size_bytes);
/* The guest does without these whole pages, which must be RAM, until it writes them again: they
 * read as zeros and cost the host nothing. Any thread. */
void mem_release(struct mem *mem, uint64_t gpa, uint64_t len);
/* A software TLB has looked up the page of that index. Where that happens again and again the host
 * gets a large page, if all of it is there already: it costs no memory. Any thread. */
void mem_looked_up(struct mem *mem, uint64_t page_index);
/* Makes large pages of all that the guest has touched something of, except where it has given
 * pages back, which it may do without: nested paging then has 2 MiB to find where it had 4 KiB, as
 * of other memory in programs that have large pages. Returns how many it made; it looks only where
 * there may be some. Any thread. */
unsigned mem_enlarge_touched(struct mem *mem);
/* Bytes that RAM costs the host just now. */
uint64_t mem_backed_bytes(const struct mem *mem);

int mem_fd(const struct mem *mem);
uint64_t mem_size_bytes(const struct mem *mem);
uint64_t mem_reach_bytes(const struct mem *mem);
/* One past the highest GPA that ever can be RAM. */
uint64_t mem_top_gpa(const struct mem *mem);
/* GPA of the offset-th byte of RAM, in the order of the memfd; below the reach. */
uint64_t mem_gpa_of(const struct mem *mem, uint64_t offset);
/* What is RAM now. Fills ranges[2]; returns how many (1 or 2). */
unsigned mem_ranges(const struct mem *mem, struct mem_range ranges[static 2]);

/* Host address of [gpa, gpa + len), or NULL if a byte of it is not RAM. */
void *mem_ptr(const struct mem *mem, uint64_t gpa, uint64_t len);
/* Copies; false (and nothing copied) if a byte of the range is not RAM. */
bool mem_read(const struct mem *mem, uint64_t gpa, void *buf, size_t len);
bool mem_write(struct mem *mem, uint64_t gpa, const void *buf, size_t len);
void mem_written(struct mem *mem, uint64_t gpa, uint64_t len);

/*
 * Page flags, one byte per page up to the reach, indexed by mem_page_index(). A write to a page
 * goes through mem_written() (the software CPU's own stores check the byte themselves and take
 * their slow path when it is not 0): MEM_PAGE_CODE: decoded instructions exist; the code hook is
 * called with the written range. MEM_PAGE_CLEAN: the dirty log runs and has not seen a write to the
 * page yet.
 */
#define MEM_PAGE_CODE  0x01
#define MEM_PAGE_CLEAN 0x02
uint8_t *mem_page_flags(struct mem *mem);
/* Index of the page of a RAM address (mem_ptr would not return NULL). */
uint64_t mem_page_index(const struct mem *mem, uint64_t gpa);
/* Set before the VM starts. The hook may run on any thread. */
void mem_set_code_hook(struct mem *mem, void (*hook)(void *user, uint64_t gpa, uint64_t len),
		       void *user);

/*
 * Dirty log of writes that pass mem_written(); the partition adds what its processors wrote
 * (part_dirty_log_collect). Bitmap: one bit per page index, least significant first, size rounded
 * up to 8 bytes.
 */
void mem_dirty_log_start(struct mem *mem);
void mem_dirty_log_stop(struct mem *mem);
bool mem_dirty_log_active(const struct mem *mem);
void mem_dirty_log_set(struct mem *mem, uint64_t page_index);
/* ORs the log into bitmap and clears the log. Others may write meanwhile: what they write to a page
 * after it was taken is in the next log, at the latest when they have been stopped. */
void mem_dirty_log_take(struct mem *mem, uint64_t *bitmap);

#endif
