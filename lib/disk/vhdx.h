/*
 * VHDX behind the block interface, and its offline operations, which disk.c, maintain.c and merge.c
 * dispatch to (their headers say what each does). Private to this room. The functions on a struct
 * file borrow it, open for reading and writing, with nothing in flight.
 */
#ifndef DISK_VHDX_H
#define DISK_VHDX_H

#include "disk/disk.h"
#include "disk/file.h"
#include "disk/maintain.h"

/* Takes file on success. Of the options: read_only, parent, data_write_id. */
int vhdx_open(struct file *file, const struct disk_options *options, struct blk **ret,
	      struct error *err);
int vhdx_create(int fd, const struct disk_create_options *options, struct error *err);
/* Fills all but format, file_bytes and allocated_bytes. */
int vhdx_describe(struct file *file, struct disk_details *ret, struct error *err);

int vhdx_resize(struct file *file, uint64_t size_bytes, const struct disk_progress *progress,
		struct error *err);
int vhdx_compact(struct file *file, enum disk_compact_mode mode,
		 const struct disk_progress *progress, struct error *err);
int vhdx_set_parent(struct file *file, const struct disk_parent_link *link, struct error *err);
int vhdx_set_id(struct file *file, const struct guid *id, struct error *err);
int vhdx_set_physical_sector(struct file *file, uint32_t bytes, struct error *err);
int vhdx_check(struct file *file, const struct disk_check_options *options,
	       enum disk_severity *ret_worst, struct error *err);

/* The DataWriteGuid of an open disk; false: it is no VHDX. */
bool vhdx_link_id(const struct blk *disk, struct guid *ret);

#endif
