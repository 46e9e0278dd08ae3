/*
 * What making an image has in common in all formats: plain writes to a file that nobody else has
 * yet. Private to this room. The descriptor is borrowed; all block.
 */
#ifndef DISK_NEW_IMAGE_H
#define DISK_NEW_IMAGE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

int new_image_write(int fd, uint64_t offset, const void *buf, size_t len, struct error *err);
int new_image_sync(int fd, struct error *err);
/* Space of the host's, where its file system can promise any. */
int new_image_reserve(int fd, uint64_t offset, uint64_t length, struct error *err);

#endif
