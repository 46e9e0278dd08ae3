/*
 * A new differencing image that is filled with what differs from its parent:
 *
 *	child_find(parent_path, path, &child, &err)	before the working sandbox
 *	child_create(&child, loop, fd, options, &err)
 *	child_put(&child, offset, buf, length, &err)	...
 *	child_close(&child, &err)			durable then
 */
#ifndef DISK_PROGRAM_CHILD_H
#define DISK_PROGRAM_CHILD_H

#include "image.h"

#include "base/parent-paths.h"

struct child {
	struct image parent;
	struct parent_paths locators;
	struct blk *disk;      /* NULL: not created yet */
	struct blk_layers all; /* the same, with the parent's layers */
};

/* path: where the new image will be. */
int child_find(const char *parent_path, const char *path, struct child *ret, struct error *err);
/* Of options: format, block_bytes. fd is borrowed. */
int child_create(struct child *child, struct loop *loop, int fd,
		 const struct disk_create_options *options, struct error *err);
/* Whole sectors. What is all zeros takes no space where it can be said without. */
int child_put(struct child *child, uint64_t offset, void *buf, size_t len, struct error *err);
/* Also after a failure. An error: what was written may not be durable. */
int child_close(struct child *child, struct error *err);

#endif
