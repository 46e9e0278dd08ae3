/*
 * A disk that a guest runs on while the chain below it changes: a block device that passes requests
 * to the chain's leaf and can hold them for a moment, in which the chain is closed and opened anew.
 *
 * Grows by blk_grow, which blocks for a moment. Belongs to the loop. One change at a time. Where
 * the chain can't be opened again (which takes a file that somebody damages meanwhile) the disk
 * answers everything with I/O errors. Where the chain can't be made durable before a change, the
 * change fails, and so does all but reading from then on, until the disk is opened anew.
 */
#ifndef DISK_LIVE_H
#define DISK_LIVE_H

#include "disk/merge.h"

/* As disk_open_chain; ret is closed by blk_close, which ends a merge, too (it can be begun again).
 */
int live_open(struct loop *loop, const int *fds, unsigned count, const struct disk_options *options,
	      struct blk **ret, struct error *err);
/* The leaf's ids for track.h; false: it has none (a VHD). They are others after a change of the
 * chain, of which `changed` is told, before the first request goes on. */
bool live_links(const struct blk *disk, struct guid *ret_now, struct guid *ret_next);
void live_on_change(struct blk *disk, void (*changed)(void *user), void *user);
/* Files in the chain. */
unsigned live_layers(const struct blk *disk);

/* done (on the loop, not from within the call): err NULL, or why the chain is as it was. */
typedef void live_done(void *user, const struct error *err);

/* Puts a new, empty differencing image (fd, taken, open for writing) above the leaf, whose content
 * as of the last request before it then stays: a checkpoint. Its link to the leaf is made here; the
 * paths in it stay. Blocks for a moment. On failure fd is closed, and the chain as it was. */
int live_push(struct blk *disk, int fd, struct error *err);
/* Undoes it, before anything was written. */
void live_pop(struct blk *disk);

/* Where the parent of a layer is now, for the layer's file: it was moved, and stays the same file.
 * Both descriptors are borrowed, child_fd is open for writing. Blocks for a moment. */
struct live_paths {
	int child_fd, parent_fd;
	const char *absolute, *relative;
};
int live_set_paths(struct blk *disk, const struct live_paths *paths, struct error *err);

/* A descriptor for a layer that has to be written for a merge. */
struct live_file {
	unsigned layer;
	int fd;
};

struct live_merge {
	/* As in disk_merge_options. Needed for writing: layers into, into - 1, and first - 1 if
	 * first > 0. The leaf is already. All are taken. */
	unsigned first, into;
	const struct live_file *files;
	unsigned file_count;
	/* base/mark.h: set when the merged layers are not needed any more, before the guest's next
	 * write. Taken; -1: none. */
	int mark_fd;
	const char *absolute, *relative, *volume;
	/* done of total bytes; may be NULL */
	void (*progress)(void *user, uint64_t done, uint64_t total);
	live_done *done;
	void *user;
};

/* Merges behind the running guest. When done without error the layers [first, into) are no longer
 * open, and their files can go. */
int live_merge_start(struct blk *disk, const struct live_merge *merge, struct error *err);
/* The descriptors of one that is not begun. */
void live_merge_close(const struct live_merge *merge);
/* done follows with ERR_CANCELLED, unless it is too late. */
void live_merge_cancel(struct blk *disk);

#endif
