/* Raw images and block devices behind the block interface. Private to this room. */
#ifndef DISK_RAW_H
#define DISK_RAW_H

#include "disk/disk.h"
#include "disk/file.h"

/* Takes file on success. */
int raw_open(struct file *file, const struct disk_options *options, struct blk **ret,
	     struct error *err);

#endif
