/*
 * Change tracking (Hyper-V's RCT): a block filter over any disk that knows which parts changed
 *since a reference point, over restarts and power cuts. It may name too much, never too little.
 *
 * What it knows lies in a file of its own beside the image (`<image>.rct`); docs/disk.md has the
 * layout. The image can be read without it. If the image is written without it, the file is stale:
 * that is noticed by the image's link_id (disk_details), and tracking has to start anew.
 *
 *	track_new(disk, &tracked, &err);              tracked is used instead of disk
 *	options = { .link_now = details.link_id, .link_next = what disk_options.data_write_id got };
 *	track_start(tracked, loop, fd, &options, &err);
 *	track_mark(tracked, &id, &err);               reference point: now
 *	track_changes(tracked, &id, back_up_range, user, &err);    later, perhaps after restarts
 *
 * Until track_start, and after track_stop, requests pass through, and all else is ERR_STATE.
 */
#ifndef DISK_TRACK_H
#define DISK_TRACK_H

#include "blk/blk.h"

struct loop;

#define TRACK_MAX_POINTS 100u

struct track_point {
	struct guid id;
	uint64_t time; /* seconds since 1970 */
};

struct track_options {
	bool create; /* begin anew, whatever the file holds: an empty or stale one */
	/* The caller knows that the file is one of this very disk: the links are not looked at. */
	bool trusted;
	/* The image's link_id now, and what the first change of the image will make of it. Zero for
	 * images that have none: then nobody notices if they are changed without tracking. */
	struct guid link_now, link_next;
	/* Of a new file, bytes, power of two; 0: 64 KiB, more for disks beyond 1 TiB. */
	uint32_t unit_bytes;
};

/* Takes disk on success: closing the result closes it. */
int track_new(struct blk *disk, struct blk **ret, struct error *err);
/* Takes fd on success. ERR_STATE: the file is stale or of another disk; ERR_CORRUPT: it is damaged;
 * either way begin anew. Waits for what is in flight. */
int track_start(struct blk *tracked, struct loop *loop, int fd, const struct track_options *options,
		struct error *err);
/* What is known is durable then; the file can go, or tracking go on with it later if the disk was
 * not changed meanwhile. */
int track_stop(struct blk *tracked, struct error *err);
bool track_running(const struct blk *tracked);
/* Writes what is known now into another file (empty; fd is borrowed), for a disk that reads as this
 * one did since the point that will be asked for: that names a little more then. Blocking. */
int track_copy(const struct blk *tracked, int fd, struct error *err);
/* The image got other ids: it was flushed and changes its file, as for a checkpoint. */
int track_relink(struct blk *tracked, const struct guid *link_now, const struct guid *link_next,
		 struct error *err);
/* The file of a disk that is not in use and is about to get another leaf, of the same content: the
 * file is to be that of either. known, coming: link_id of the leaf as it is, and as it will be. fd
 * is borrowed. 1: done, durably; 0: it is the file of another disk or stale, and stays so. */
int track_follow(int fd, const struct guid *known, const struct guid *coming, struct error *err);
/* Frees the filter (stopped) and gives the disk back. */
struct blk *track_free(struct blk *tracked);

/* Makes a reference point. Blocking. Requests may be in flight: they count as before and after it.
 */
int track_mark(struct blk *tracked, struct guid *ret_id, struct error *err);
/* ERR_NOT_FOUND: no such point. */
int track_forget(struct blk *tracked, const struct guid *id, struct error *err);
/* The points, oldest first; at most TRACK_MAX_POINTS. */
unsigned track_points(const struct blk *tracked, struct track_point ret[static TRACK_MAX_POINTS]);
/* Calls range for each run that may have changed since the point, in order; a negative result ends
 * it and is returned. */
int track_changes(const struct blk *tracked, const struct guid *since,
		  int (*range)(void *user, uint64_t offset, uint64_t length), void *user,
		  struct error *err);

#endif
