/* VHDX behind the block interface. Private to this room. */
#ifndef DISK_VHDX_H
#define DISK_VHDX_H

#include "disk/disk.h"
#include "disk/file.h"

/* Takes file on success. */
int vhdx_open(struct file *file, bool read_only, struct blk **ret, struct error *err);

#endif
