/*
 * The open VHDX, shared by the files of its implementation:
 *   vhdx-open.c   reading and checking the structures, log replay, closing
 *   vhdx-cache.c  pages of metadata (BAT, sector bitmaps) in memory
 *   vhdx-describe.c  what the image says of itself, and what it has where
 *   vhdx-bat.c    block entries and sector bits: where they are, what they may say
 *   vhdx-io.c     requests: mapping blocks, allocating and freeing them
 *   vhdx-meta.c   making metadata durable: headers, log, flush
 */
#ifndef DISK_VHDX_IMPL_H
#define DISK_VHDX_IMPL_H

#include "blk/blk-backend.h"
#include "blk/pool.h"
#include "disk/file.h"
#include "disk/space.h"
#include "disk/vhdx-format.h"
#include "disk/vhdx-locator.h"

#include <endian.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pages are used as they are on disk");

#define VHDX_PAGE_ENTRIES (VHDX_SECTOR_BYTES / VHDX_BAT_ENTRY_BYTES)
#define VHDX_PAGE_BITS    (VHDX_SECTOR_BYTES * 8)

/* A block request under way. */
struct vhdx_io {
	struct blk_request *req;
	uint64_t cursor;  /* bytes of the request that have been started */
	unsigned pending; /* operations in flight, plus one while it is being started */
	enum blk_result result;
	bool throttled; /* goes on when some of its operations are done */
	struct vhdx_io *next;
	struct file_request defer_req;
};

struct vhdx_io_list {
	struct vhdx_io *first, **tail;
};

/* ---- metadata in memory ---- */

enum vhdx_page_kind { VHDX_PAGE_BITMAP, VHDX_PAGE_BAT, VHDX_PAGE_KINDS };
enum vhdx_page_state { VHDX_PAGE_LOADING, VHDX_PAGE_READY, VHDX_PAGE_BAD };

struct vhdx_page {
	struct vhdx *vhdx;
	uint64_t offset; /* in the file */
	enum vhdx_page_kind kind;
	enum vhdx_page_state state;
	bool dirty; /* differs from what was last logged */
	bool used_lately;
	bool from_log; /* of a log that may not be replayed: must stay */
	unsigned pins; /* operations that will change it; the round that writes it */
	struct vhdx_page *hash_next, *ring_prev, *ring_next, *dirty_prev, *dirty_next;
	struct vhdx_io_list waiters;
	struct file_request req;
	struct iovec iov;
	uint64_t word[VHDX_PAGE_ENTRIES];
};

#define VHDX_HASH_BITS   10
#define VHDX_CACHE_PAGES 2048u

struct vhdx_cache {
	struct vhdx_page *hash[1u << VHDX_HASH_BITS];
	struct vhdx_page *hand; /* of the clock: some page of the ring, or NULL */
	unsigned count, limit;
	struct vhdx_page *dirty[VHDX_PAGE_KINDS];
	unsigned dirty_count[VHDX_PAGE_KINDS];
};

/* A log that may not be replayed into the file: the ranges that it zeroes, and the offsets, sorted,
 * of the pages that it writes (which are in the cache). */
struct vhdx_overlay {
	struct vhdx_range *zeroed;
	uint64_t *page;
	size_t zeroed_count, page_count;
};

/* ---- making it durable ---- */

/* A few blocking-order file operations, one after the other. */
struct vhdx_step {
	enum file_op op; /* FILE_WRITE or FILE_SYNC */
	uint64_t offset;
	const void *buf;
	size_t len;
};

#define VHDX_MAX_STEPS 8

struct vhdx_steps {
	struct vhdx *vhdx;
	struct file_request req;
	struct iovec iov;
	struct vhdx_step step[VHDX_MAX_STEPS];
	unsigned count, index;
	void (*then)(struct vhdx *vhdx, int result); /* 0 or -errno */
};

/* The flush machine: see vhdx-meta.c. */
struct vhdx_meta {
	bool running;
	bool background_wanted;      /* a flush that nobody waits for */
	struct vhdx_io_list waiting; /* flushes for the next round */
	struct vhdx_io_list current; /* flushes that the running round serves */
	bool another_round;          /* more dirty pages than fit into one log entry */
	struct vhdx_steps steps;

	/* The pages of the running round, by offset, and copies of them. */
	unsigned page_count, max_pages;
	struct vhdx_page **round;
	uint64_t *page_offsets;
	uint8_t *pages, *entry;
	unsigned applied;
	uint64_t durable_bytes; /* file size that the round's first sync makes stable */

	/* The log. */
	bool log_open;
	uint8_t first_entry[VHDX_SECTOR_BYTES];
	struct guid log_guid;
	uint32_t log_next; /* log offset of the next entry */
	uint64_t log_sequence;
};

/* Places of freed blocks that metadata on disk may still point to. */
struct vhdx_places {
	uint64_t *offset;
	size_t count, capacity;
};

enum vhdx_write_state {
	VHDX_UNTOUCHED,  /* no change since open: the file is as it was found */
	VHDX_ACTIVATING, /* the headers get new GUIDs; changes wait */
	VHDX_WRITABLE,
	VHDX_FAILED, /* metadata is wrong or could not be written: no change any more */
};

#define VHDX_BUSY_SLOTS 1024u

struct vhdx {
	struct blk blk;
	struct file *file;
	struct blk *parent; /* owned; NULL: no differencing disk */
	struct vhdx_geometry geometry;
	struct vhdx_locator locator; /* of a differencing disk */
	struct guid data_write_id;   /* what the first change makes of it; zero: a new one */
	struct vhdx_range bat_region, metadata_region, log_region;
	/* NULL: a wrong entry fails. Else it is told, and counts as not present. */
	void (*bad_entry)(void *user, uint64_t file_offset, const char *what);
	void *bad_entry_user;
	uint64_t file_bytes; /* when it was opened, the log's doing included */
	bool submitting;     /* inside vhdx_submit: completions are deferred */

	/* Current header and the slot that it is in; the other slot gets the next one. */
	struct vhdx_header header;
	unsigned header_slot;
	struct vhdx_header header_image[2];
	struct vhdx_header found_header; /* before it got new GUIDs */
	bool guids_unsure;               /* the new ones could not be written: see vhdx-meta.c */

	struct vhdx_cache cache;
	struct vhdx_overlay overlay;
	/* One bit per page of the BAT whose entries have been checked and claimed; NULL: all. */
	uint64_t *bat_known;
	/* Operations in flight on the blocks that share a slot. */
	uint32_t busy[VHDX_BUSY_SLOTS];

	struct space space;
	struct vhdx_places freed;     /* since the last logged state of the BAT */
	struct vhdx_places freeing;   /* in the running round */
	struct vhdx_places releasing; /* to be given back to the host, a few at a time */
	size_t release_next;
	unsigned releases_in_flight;
	unsigned background; /* file operations that no request waits for */
	struct vhdx_prepare *preparing;

	enum vhdx_write_state write_state;
	struct vhdx_steps activation;
	struct vhdx_io_list waiting_activation;

	struct vhdx_meta meta;
	struct pool ios, segments, prepares;
};

static inline void vhdx_list_init(struct vhdx_io_list *list)
{
	list->first = NULL;
	list->tail = &list->first;
}

static inline void vhdx_list_add(struct vhdx_io_list *list, struct vhdx_io *io)
{
	io->next = NULL;
	*list->tail = io;
	list->tail = &io->next;
}

static inline struct vhdx_io *vhdx_list_take(struct vhdx_io_list *list)
{
	struct vhdx_io *io = list->first;

	if (io) {
		list->first = io->next;
		if (!list->first)
			list->tail = &list->first;
	}
	return io;
}

/* ---- vhdx-cache.c ---- */

void vhdx_cache_init(struct vhdx *vhdx);
void vhdx_cache_done(struct vhdx *vhdx);
/* Lets pages go that are too many. Only here: a page that was got stays until the next call. */
void vhdx_cache_trim(struct vhdx *vhdx);
/* The page if it is in memory, else NULL. */
struct vhdx_page *vhdx_page_find(struct vhdx *vhdx, uint64_t offset);
/* The page, if it is in memory and good. Else NULL: *ret_loading tells that io waits and will be
 * resumed by vhdx_io_resume, or that there is no way. */
struct vhdx_page *vhdx_page_want(struct vhdx *vhdx, enum vhdx_page_kind kind, uint64_t offset,
				 struct vhdx_io *io, bool *ret_loading);
/* Blocking. */
int vhdx_page_now(struct vhdx *vhdx, enum vhdx_page_kind kind, uint64_t offset,
		  struct vhdx_page **ret, struct error *err);
void vhdx_page_dirty(struct vhdx_page *page);
void vhdx_page_clean(struct vhdx_page *page);
/* What a log that can't be replayed says about metadata: one record after the other. */
int vhdx_overlay_add(struct vhdx *vhdx, uint64_t offset, uint64_t length, const uint8_t *data,
		     struct error *err);
void vhdx_overlay_sort(struct vhdx *vhdx);
int vhdx_overlay_check(struct vhdx *vhdx, struct error *err);

/* ---- vhdx-bat.c ---- */

/* Checks entries [first, first + count) as they were read, and puts what they mean in their place.
 * claim: it is the first time, so their places become used. */
int vhdx_bat_check(struct vhdx *vhdx, uint64_t first, uint64_t *entries, uint64_t count, bool claim,
		   struct error *err);
/* For those who have been told of bad entries already. */
void vhdx_ignore_bad_entry(void *user, uint64_t file_offset, const char *what);
/* A page of the BAT that was just read. */
int vhdx_bat_check_page(struct vhdx *vhdx, struct vhdx_page *page, struct error *err);

static inline uint64_t vhdx_bat_page_offset(const struct vhdx *vhdx, uint64_t index)
{
	return vhdx->bat_region.offset + index / VHDX_PAGE_ENTRIES * VHDX_SECTOR_BYTES;
}

/* Where the bits of a block are: in pages of the chunk's sector bitmap block. */
struct vhdx_bits {
	uint64_t page; /* offset of the (first) page in the bitmap block */
	unsigned bit;  /* in the page */
};

static inline struct vhdx_bits vhdx_bits_of(const struct vhdx_geometry *g, uint64_t block,
					    uint64_t sector_in_block)
{
	uint64_t bit =
	    block % g->chunk_ratio * (g->block_bytes / g->logical_sector_bytes) + sector_in_block;

	return (struct vhdx_bits){ bit / VHDX_PAGE_BITS * VHDX_SECTOR_BYTES,
				   (unsigned)(bit % VHDX_PAGE_BITS) };
}

/* How many of at most max bits, from `bit` on, are as the first one; *ret_set: it is 1. */
unsigned vhdx_bits_run(const struct vhdx_page *page, unsigned bit, unsigned max, bool *ret_set);
void vhdx_bits_set(struct vhdx_page *page, unsigned bit, unsigned count, bool value);

/* ---- vhdx-io.c ---- */

extern const struct blk_ops vhdx_blk_ops;
void vhdx_io_pools_init(struct vhdx *vhdx);
/* Ends a request, at once or (inside submit) a little later. */
void vhdx_io_finish(struct vhdx *vhdx, struct vhdx_io *io, enum blk_result result);
/* Starts a change that waited for the activation. */
void vhdx_io_start(struct vhdx *vhdx, struct vhdx_io *io);
/* Goes on with a request that waited for a page; ok false: fails it. */
void vhdx_io_resume(struct vhdx *vhdx, struct vhdx_io *io, bool ok);
/* Gives the places of a logged round (emptied) back to the host and to the allocator. */
void vhdx_release_places(struct vhdx *vhdx, struct vhdx_places *places);

/* ---- vhdx-meta.c ---- */

/* Starts giving the headers new GUIDs; waiting_activation is started (or failed) when it is done.
 */
void vhdx_activate(struct vhdx *vhdx);
/* Queues a flush; io NULL: in the background. */
void vhdx_flush(struct vhdx *vhdx, struct vhdx_io *io);
void vhdx_meta_free(struct vhdx *vhdx);
/* Blocking: flushes, empties the log, trims the file. */
int vhdx_settle(struct vhdx *vhdx, struct error *err);
/* Blocking header update of both slots, from vhdx->header. 0 or -errno. */
int vhdx_write_headers_now(struct vhdx *vhdx);
/* Blocking: gives the headers the GUIDs of found_header again. 0 or -errno. */
int vhdx_take_guids_back(struct vhdx *vhdx);

/* ---- vhdx-open.c ---- */

struct vhdx_load {
	bool read_only;
	bool whole_bat; /* check all of the BAT, however large: then all free space is known */
	void (*bad_entry)(void *user, uint64_t file_offset, const char *what);
	void *user;
};

/* The image without its parent: for looking at it and for offline work. Borrows file. */
int vhdx_load(struct file *file, const struct vhdx_load *how, struct vhdx **ret, struct error *err);
/* Frees without writing anything. */
void vhdx_unload(struct vhdx *vhdx);
bool vhdx_log_in_use(const struct vhdx *vhdx);
int vhdx_close(struct blk *blk, struct error *err);

/* ---- vhdx-describe.c ---- */

int vhdx_extent(struct blk *blk, uint64_t offset, uint64_t max_bytes, struct blk_extent *ret,
		struct error *err);
/* Blocking: the BAT entry of a block, of the bitmap block of a chunk. */
int vhdx_entry_now(struct vhdx *vhdx, uint64_t index, uint64_t *ret, struct error *err);

#endif
