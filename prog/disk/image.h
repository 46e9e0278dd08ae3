/*
 * An image and its parents, opened for a job. Opening what may be written comes first, then the
 * sandbox (which lets only parents be opened, for reading), then looking into them:
 *
 *	image_find(path, IMAGE_WRITES, &image, &err)	names, descriptors, what they say of
 *themselves sandbox_enter_working(&err) image_open(&image, loop, &err)			as a disk:
 *image.disk image_close(&image, &err)
 */
#ifndef DISK_PROGRAM_IMAGE_H
#define DISK_PROGRAM_IMAGE_H

#include "blk/layers.h"
#include "disk/chain.h"

#include <jansson.h>

/* The leaf is opened for writing, too. */
#define IMAGE_WRITES 1u
/* A parent that is not there, or not the right one, is no error yet: chain_failure has it. */
#define IMAGE_LOOSE 2u
/* It is raw, whatever stands in it: a guest may write there what looks like an image. */
#define IMAGE_RAW 4u
/* Only to look, while others may write: nothing is locked. */
#define IMAGE_LOOKS 8u

struct image {
	struct chain chain;
	struct error chain_failure; /* code ERR_OK: the chain is whole */
	char *parent;               /* path of the leaf's; NULL: none, or not found */
	int fd;                     /* of the leaf, for writing; -1: only reading */
	struct blk **layers;        /* leaf first; NULL: not opened as a disk */
	struct blk_layers disk;     /* the same, for those who read */
};

/* Enters the opening sandbox, too. */
int image_find(const char *path, unsigned flags, struct image *ret, struct error *err);
/* flags: IMAGE_WRITES (of an image that was found with it) or IMAGE_LOOKS. */
int image_open(struct image *image, struct loop *loop, unsigned flags, struct error *err);
/* Its chain becomes durable (disk_sync of each layer): before a child is linked to it. */
int image_sync(const struct image *image, struct error *err);
/* Ends image_open; it may be opened again. An error: what was written may not be durable. */
int image_shut(struct image *image, struct error *err);
/* Closes and frees everything. An error: what was written may not be durable. */
int image_close(struct image *image, struct error *err);

static inline const struct disk_details *image_details(const struct image *image)
{
	return &image->chain.layers[0].details;
}

/* What Get-VHD shows of it, but for what only oyakod knows. minimum_bytes 0: not known. */
json_t *image_describe(const struct image *image, uint64_t minimum_bytes);
/* The same of a file that has just been made or changed; parent may be NULL. */
int image_describe_file(int fd, const char *parent, json_t **ret, struct error *err);

#endif
