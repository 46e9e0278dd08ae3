/*
 * Merging: the layers [first, into) of a chain are copied into layer `into`, so that the chain
 * reads the same without them. Offline here; live.h does it under a running guest.
 *
 * Crash safe: after a power cut at any point the chain reads the same, merged or not, and the merge
 * can be started again. The merged files are not changed but for their link to the layer below; the
 * caller deletes them after success. If first > 0, layer first - 1 then has `into` as its parent.
 */
#ifndef DISK_MERGE_H
#define DISK_MERGE_H

#include "disk/maintain.h"

struct disk_merge_options {
	/* The chain, leaf first, down to the root. Layers first - 1, into - 1 (the child of `into`)
	 * and into are open for writing. Borrowed. */
	const int *fds;
	unsigned count;
	unsigned first, into;
	/* first == 0: the file that tracks the changes of the disk (track.h): it follows the disk
	 * into its target. Borrowed; NULL: there is none. Not for a disk in use. */
	const int *track_fd;
	/* first > 0: paths of layer `into`, for layer first - 1 (as in disk_parent_link). */
	const char *absolute, *relative, *volume;
};

/* What the uppermost of some layers that has something at offset has there; PARENT: none has. */
int disk_merged_extent(struct blk *const *layers, unsigned count, uint64_t offset,
		       uint64_t max_bytes, struct blk_extent *ret, struct error *err);

/* Copies what the layers (each lies over the next, the last one over target) have into target, and
 * makes it durable. */
int disk_merge_layers(struct blk *const *layers, unsigned count, struct blk *target,
		      const struct disk_progress *progress, struct error *err);

/* The same for a part of the disk (cut at its end), without the last step. */
int disk_merge_range(struct blk *const *layers, unsigned count, struct blk *target, uint64_t offset,
		     uint64_t length, struct error *err);
/* What has to be done with the files of a chain that is not open, before the copying: checks, the
 * announcement of *ret_id, which the target has to be opened with (data_write_id), and its size. */
int disk_merge_begin(const struct disk_merge_options *options, struct guid *ret_id,
		     struct error *err);
/* And after it: size, sector size, the link above the merged layers. */
int disk_merge_end(const struct disk_merge_options *options, struct error *err);

int disk_merge(const struct disk_merge_options *options, const struct disk_progress *progress,
	       struct error *err);

#endif
