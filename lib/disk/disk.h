/*
 * Opens a disk image on a descriptor and gives it as a block device (blk/blk.h). The worker has no
 * paths; it is handed descriptors.
 *
 * Formats: raw (file or block device, ISO images too) and VHDX, fixed and dynamic. Differencing
 * VHDX and VHD are refused for now with ERR_UNSUPPORTED. Images are hostile input: every offset,
 * length and checksum is checked, and the error says what is wrong and where in the file.
 *
 * Durability: what was written before a flush that succeeded survives a power cut at any later
 * point; the file is valid after a power cut at any point (vhdx-meta.c tells how). A disk whose
 * metadata could not be written refuses changes until it is opened again.
 *
 * A read-only open never writes; the log of a VHDX that was not closed is replayed in memory.
 *
 * While a disk is open its file is locked: one writer, or any number of readers (ERR_BUSY).
 *
 * disk/file.h lists the system calls that a seccomp filter has to allow.
 */
#ifndef DISK_DISK_H
#define DISK_DISK_H

#include "blk/blk.h"

struct loop;

enum disk_format { DISK_PROBE, DISK_RAW, DISK_VHDX };
enum disk_engine { DISK_ENGINE_AUTO, DISK_ENGINE_URING, DISK_ENGINE_THREADS };

struct disk_options {
	enum disk_format format;
	enum disk_engine engine; /* AUTO: io_uring, or threads where it is refused */
	bool read_only;
	/* Raw only; 0: 512. (2048 for ISO images.) */
	uint32_t logical_sector_bytes, physical_sector_bytes;
};

/* Takes fd on success; on failure it stays the caller's. fd is open for reading, and for writing
 * unless options->read_only. options may be NULL. Blocks while it reads the image's metadata. */
int disk_open(struct loop *loop, int fd, const struct disk_options *options, struct blk **ret,
	      struct error *err);
/* What the image looks like, by its signatures; raw if by none. */
int disk_probe(int fd, enum disk_format *ret, struct error *err);

struct vhdx_create_options {
	uint64_t size_bytes;            /* multiple of the logical sector, up to 64 TiB */
	uint32_t block_bytes;           /* 1 MiB .. 256 MiB, power of two; 0: 32 MiB */
	uint32_t logical_sector_bytes;  /* 512 or 4096; 0: 512 */
	uint32_t physical_sector_bytes; /* 512 or 4096; 0: 4096 */
	bool fixed;                     /* all blocks allocated from the start */
	bool sparse;    /* fixed: don't reserve the host's space (the file has holes) */
	struct guid id; /* virtual disk id; zero: a new one */
};

/* Writes a new, clean VHDX into an empty regular file open for reading and writing, and syncs it.
 * Borrows fd. The file is no VHDX until all else is on disk. */
int vhdx_create(int fd, const struct vhdx_create_options *options, struct error *err);

#endif
