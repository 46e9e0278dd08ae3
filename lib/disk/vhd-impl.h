/*
 * The open VHD, shared by the files of its implementation:
 *   vhd-open.c  reading and checking the structures, describing, closing
 *   vhd-io.c    requests, allocating blocks, flushing
 */
#ifndef DISK_VHD_IMPL_H
#define DISK_VHD_IMPL_H

#include "disk/image.h"
#include "disk/vhd-format.h"
#include "disk/vhd.h"

/* Numbers to be worked off, each at most once. */
struct vhd_dirty {
	uint32_t *item;
	size_t count;
	uint64_t *map; /* one bit per number: it is in item */
};

/* Free space for a block. */
struct vhd_place {
	uint64_t offset;
	bool stale; /* may hold bytes other than zero */
};

struct vhd_places {
	struct vhd_place *place;
	size_t count, capacity;
};

/* A file write of a flush. */
struct vhd_write {
	struct file_request req;
	struct iovec iov;
	struct vhd *vhd;
};

struct vhd_flush {
	bool running;
	bool background_wanted; /* a flush that nobody waits for */
	bool again;             /* more is dirty than fits into one round */
	struct image_io_list waiting, current;
	struct file_request sync;
	struct vhd_write *writes;
	unsigned write_count, writes_pending;
	uint8_t *bytes; /* copies of what is written */
	size_t bytes_used;
	int result;
};

/* Makes room for blocks at the end of the file. */
struct vhd_growth {
	bool running;
	uint64_t file_bytes, old_footer; /* to be; to go */
	struct vhd_footer footer;
	struct iovec iov;
	struct file_request req;
	struct image_io_list waiters;
};

#define VHD_OTHER_STRUCTURES 3u

struct vhd_range {
	uint64_t offset, length;
};

struct vhd {
	struct image image;
	struct vhd_geometry geometry;
	struct vhd_footer footer;
	uint64_t footer_offset;
	bool footer_damaged; /* the one at the end: it is the copy that counts */
	bool failed;         /* metadata could not be written: no change any more */

	/* By block; not for fixed disks. */
	uint32_t *bat;        /* as in the file, host byte order */
	uint32_t bat_entries; /* in bat: block_count, and the rest of the table's last sector */
	uint8_t **bitmap;     /* NULL: not read yet; vhd_full: all bits are set */
	uint32_t *users;      /* operations in flight */
	unsigned bitmaps_held;
	uint32_t hand; /* the next block whose bitmap may be dropped */

	struct vhd_dirty dirty_blocks;  /* their bitmaps */
	struct vhd_dirty dirty_sectors; /* of the BAT */

	/* The footer's copy, the header, the table; then the paths to the parent (length 0: none).
	 */
	struct vhd_range structures[VHD_OTHER_STRUCTURES + VHD_LOCATORS];
	uint64_t structures_end; /* no block lies below, unless it did before */
	uint64_t end;            /* all of the file from here on is free */
	uint64_t opened_end;     /* what it was: behind it lies only what we have put there */
	uint64_t room_end;       /* blocks may lie below; a footer is durable behind */
	uint64_t stale_end;      /* bytes below may be other than zero */
	bool layout_changed;
	bool short_block;          /* another block begins within the full length of the last one */
	struct vhd_places free;    /* holes below `end` */
	struct vhd_places freed;   /* since the table was last written */
	struct vhd_places freeing; /* in the running flush */
	struct vhd_job *jobs;
	struct vhd_first_bitmap *first_bitmaps; /* on their way */
	uint8_t *full_bitmap;                   /* what they write; NULL: not yet */
	unsigned background;                    /* file operations that no request waits for */
	struct vhd_growth growth;
	struct vhd_flush flush;
};

/* Stands for every bitmap whose bits are all set; holds nothing. */
extern uint8_t vhd_full[];

static inline uint64_t vhd_place_of(const struct vhd *vhd, uint32_t block)
{
	return (uint64_t)vhd->bat[block] * VHD_SECTOR_BYTES;
}
static inline uint32_t vhd_sectors_per_block(const struct vhd *vhd)
{
	return vhd->geometry.block_bytes / VHD_SECTOR_BYTES;
}
/* What a new block takes. */
static inline uint64_t vhd_slot_bytes(const struct vhd_geometry *geometry)
{
	return (uint64_t)geometry->bitmap_bytes + geometry->block_bytes;
}

/* ---- vhd-open.c ---- */

/* Reads and checks everything; for vhd_open and for what works offline on a file. Borrows file. */
int vhd_load(struct file *file, struct vhd **ret, struct error *err);
void vhd_free(struct vhd *vhd);
/* Blocking: puts a footer where a file of file_bytes ends (the file becomes as long as that if it
 * is shorter), and syncs. 0 or -errno. */
int vhd_write_footer_now(struct vhd *vhd, uint64_t file_bytes);
/* The allocated blocks by their place: sector in the upper half, block in the lower. NULL: no
 * memory. */
uint64_t *vhd_sorted_places(const struct vhd *vhd, size_t *ret_count);
/* The first place for a block at or behind offset that touches no structure. */
uint64_t vhd_free_place(const struct vhd *vhd, uint64_t offset);
/* Blocking: cuts the file behind its last block. 0 or -errno. */
int vhd_trim(struct vhd *vhd);
/* Blocking: puts the footer at the end of the file, if it was found elsewhere. */
int vhd_repair_footer(struct vhd *vhd, struct error *err);
/* 1: the footer's copy at the start of the file is another one. 0: it isn't, or the disk is fixed
 * and has none. */
int vhd_copy_differs(struct vhd *vhd, struct error *err);
/* Blocking: writes the copy anew. */
int vhd_repair_copy(struct vhd *vhd, struct error *err);
bool vhd_places_add(struct vhd_places *places, struct vhd_place place);

/* ---- vhd-io.c ---- */

extern const struct blk_ops vhd_blk_ops;
extern const struct image_ops vhd_image_ops;
/* Blocking. *ret is vhd_full or the bitmap's bytes, which stay until the next request. */
int vhd_bitmap_now(struct vhd *vhd, uint32_t block, const uint8_t **ret, struct error *err);
/* Blocking: flushes, cuts the file behind its last block. */
int vhd_settle(struct vhd *vhd, struct error *err);

#endif
