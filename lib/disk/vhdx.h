/* VHDX behind the block interface. Private to this room. */
#ifndef DISK_VHDX_H
#define DISK_VHDX_H

#include "disk/disk.h"
#include "disk/file.h"

/* Takes file and parent on success. parent: of a differencing disk, opened read-only; else NULL. */
int vhdx_open(struct file *file, bool read_only, struct blk *parent, struct blk **ret,
	      struct error *err);

#endif
