/*
 * From a path to the files of a disk's chain: reads who the parent is out of each image, finds it
 * as Hyper-V does, and checks it. For those who have paths: daemon and tools, not the worker.
 *
 * Where a parent is looked for, first found first taken:
 *   1. the relative path, from the child's folder;
 *   2. the absolute path, then the volume path: as it stands, then without its drive letter or
 *      volume name;
 *   3. the last component of each path in the child's folder.
 * A `\` separates like a `/`; a component that is not there as written is looked for regardless of
 * case. A file that is there but isn't the parent (other id) is remembered for the error and the
 * search goes on.
 *
 *	struct chain chain;
 *	if (chain_resolve("/vms/a_1234.avhdx", &chain, &err) == 0) {
 *		... chain.layers[0..count-1], leaf first ...
 *		chain_done(&chain);
 *	}
 */
#ifndef DISK_CHAIN_H
#define DISK_CHAIN_H

#include "disk/disk.h"

struct chain_layer {
	char *path; /* the child's folder + what was found; absolute if the given path was */
	int fd;     /* open for reading */
	struct disk_details details;
};

struct chain {
	struct chain_layer *layers; /* leaf first */
	unsigned count;
};

/* ERR_NOT_FOUND: a parent is nowhere; ERR_INVALID: one is there but isn't the parent; both name the
 * files and what to do. ERR_LIMIT: deeper than DISK_CHAIN_MAX. ERR_CORRUPT: a circle. */
int chain_resolve(const char *path, struct chain *ret, struct error *err);
void chain_done(struct chain *chain);

/* A new descriptor of a layer's file (locks of different openings don't share); negative: an error.
 */
int chain_layer_open(const struct chain_layer *layer, bool writable, struct error *err);
/* Opens the whole chain; options are the leaf's. The descriptors of chain stay its own. */
int chain_open(struct loop *loop, const struct chain *chain, const struct disk_options *options,
	       struct blk **ret, struct error *err);

#endif
