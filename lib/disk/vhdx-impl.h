/*
 * The open VHDX, shared by the files of its implementation:
 *   vhdx-open.c  reading and checking the structures, log replay, closing
 *   vhdx-io.c    requests: mapping blocks, allocating and freeing them
 *   vhdx-meta.c  making metadata durable: headers, log, flush
 */
#ifndef DISK_VHDX_IMPL_H
#define DISK_VHDX_IMPL_H

#include "blk/blk-backend.h"
#include "blk/pool.h"
#include "disk/file.h"
#include "disk/space.h"
#include "disk/vhdx-format.h"

#include <endian.h>
#include <string.h>

#define VHDX_ENTRIES_PER_PAGE (VHDX_SECTOR_BYTES / VHDX_BAT_ENTRY_BYTES)

/* A block request under way. */
struct vhdx_io {
	struct blk_request *req;
	uint64_t cursor;  /* bytes of the request that have been started */
	unsigned pending; /* file operations in flight, plus one while it is being started */
	enum blk_result result;
	bool throttled; /* goes on when some of its operations are done */
	struct vhdx_io *next;
	struct file_request defer_req;
};

struct vhdx_io_list {
	struct vhdx_io *first, **tail;
};

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

	/* The BAT pages of the running round. */
	unsigned page_count, max_pages;
	uint64_t *page_offsets;
	uint8_t *pages, *entry;
	unsigned applied;
	uint64_t durable_bytes; /* file size that the round's first sync makes stable */

	/* The log. */
	bool log_open;
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
	VHDX_FAILED, /* metadata could not be written: no change any more */
};

struct vhdx {
	struct blk blk;
	struct file *file;
	struct vhdx_geometry geometry;
	struct vhdx_range bat_region, metadata_region, log_region;
	bool submitting; /* inside vhdx_submit: completions are deferred */

	/* Current header and the slot that it is in; the other slot gets the next one. */
	struct vhdx_header header;
	unsigned header_slot;
	struct vhdx_header header_image[2];

	/* The BAT as reads see it, host byte order, geometry.bat_entries of it. */
	uint64_t *bat;
	/* One bit per BAT page that differs from what was last logged. */
	uint64_t *dirty_map;
	uint64_t bat_pages, dirty_pages;
	uint32_t *block_users; /* file operations in flight per payload block */

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

/* ---- vhdx-io.c ---- */

extern const struct blk_ops vhdx_blk_ops;
void vhdx_io_pools_init(struct vhdx *vhdx);
/* Ends a request, at once or (inside submit) a little later. */
void vhdx_io_finish(struct vhdx *vhdx, struct vhdx_io *io, enum blk_result result);
/* Starts a change that waited for the activation. */
void vhdx_io_start(struct vhdx *vhdx, struct vhdx_io *io);
/* Gives the places of a logged round (emptied) back to the host and to the allocator. */
void vhdx_release_places(struct vhdx *vhdx, struct vhdx_places *places);

/* ---- vhdx-meta.c ---- */

/* Starts giving the headers new GUIDs; waiting_activation is started (or failed) when it is done.
 */
void vhdx_activate(struct vhdx *vhdx);
void vhdx_mark_dirty(struct vhdx *vhdx, uint64_t bat_index);
/* Queues a flush; io NULL: in the background. */
void vhdx_flush(struct vhdx *vhdx, struct vhdx_io *io);
void vhdx_meta_free(struct vhdx *vhdx);
/* Blocking: flushes, empties the log, trims the file. */
int vhdx_settle(struct vhdx *vhdx, struct error *err);
/* Blocking header update of both slots, from vhdx->header. 0 or -errno. */
int vhdx_write_headers_now(struct vhdx *vhdx);

/* ---- vhdx-open.c ---- */

int vhdx_close(struct blk *blk, struct error *err);

#endif
