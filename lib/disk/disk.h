/*
 * Opens a disk image on a descriptor and gives it as a block device (blk/blk.h); creates and
 * describes images. The worker has no paths; it is handed descriptors. What works on paths is in
 * chain.h, what changes an image that is not in use in maintain.h, merging in merge.h. docs/disk.md
 * is the design.
 *
 * Formats: raw (file or block device, ISO images too), VHD and VHDX. Images are hostile input:
 * every offset, length and checksum is checked, and the error says what is wrong and where in the
 * file.
 *
 * Durability: what was written before a flush that succeeded survives a power cut at any later
 * point; the file is valid after a power cut at any point (vhdx-meta.c and vhd-io.c tell how). A
 * disk whose metadata could not be written refuses changes until it is opened again.
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

enum disk_format { DISK_PROBE, DISK_RAW, DISK_VHD, DISK_VHDX };
enum disk_type { DISK_FIXED, DISK_DYNAMIC, DISK_DIFFERENCING };
enum disk_engine { DISK_ENGINE_AUTO, DISK_ENGINE_URING, DISK_ENGINE_THREADS };

/* "raw", "vhd", "vhdx"; "fixed", "dynamic", "differencing" */
const char *disk_format_name(enum disk_format format);
const char *disk_type_name(enum disk_type type);

struct disk_options {
	enum disk_format format;
	enum disk_engine engine; /* AUTO: io_uring, or threads where it is refused */
	bool read_only;
	/* Go past the host's page cache (direct I/O) where its file system can do that in units of
	 * 512 bytes; elsewhere, and for the parents of a chain that are shared, through it. */
	bool bypass_cache;
	/* With read_only: takes no lock. For a look at a disk that others may be changing: what it
	 * reads may be half of the old and half of the new. */
	bool unlocked;
	/* Raw only; 0: 512. (2048 for ISO images.) */
	uint32_t logical_sector_bytes, physical_sector_bytes;
	/* The open parent (and its own parents below it) of a differencing image, of the same
	 * format and on the same loop. Taken on success. Its identity is not checked here
	 * (disk_open_chain does). */
	struct blk *parent;
	/* VHDX, zero: new. The DataWriteGuid that the first change gives the file: by it a merge
	 * can announce the change to the children first. */
	struct guid data_write_id;
};

/* Takes fd on success; on failure it stays the caller's. fd is open for reading, and for writing
 * unless options->read_only. options may be NULL. Blocks while it reads the image's metadata. */
int disk_open(struct loop *loop, int fd, const struct disk_options *options, struct blk **ret,
	      struct error *err);
/* The link_id (struct disk_details) of an open disk; false for those that keep none, or one that
 * writing does not change: only VHDX has one that does. */
bool disk_link_id(const struct blk *disk, struct guid *ret);
/* What the image looks like, by its signatures; raw if by none. */
int disk_probe(int fd, enum disk_format *ret, struct error *err);

#define DISK_CHAIN_MAX 1024u /* layers, as Hyper-V's limit is by memory only */

/* Opens fds[0], the leaf, over its parents fds[1..count-1], and checks that each is the parent that
 * its child names and that the last one needs none. The parents are opened read-only; options are
 * the leaf's (parent must be NULL). Takes all descriptors on success, none on failure. */
int disk_open_chain(struct loop *loop, const int *fds, unsigned count,
		    const struct disk_options *options, struct blk **ret, struct error *err);

/* 0 if each file is the parent that the one before it names and the last one needs none. */
int disk_check_links(const int *fds, unsigned count, struct error *err);

/* ---- what an image says of itself ---- */

/* One path to the parent. VHDX: keys as in [MS-VHDX] 2.6.2.6.1 ("relative_path", "volume_path",
 * "absolute_win32_path", others); VHD: the locator code ("W2ru", "W2ku", "Wi2r", "Wi2k", "MacX") or
 * "parent_name" for the name in the header. UTF-8. */
struct disk_locator {
	char *key, *value;
};

struct disk_details {
	enum disk_format format;
	enum disk_type type;
	uint64_t size_bytes;      /* of the virtual disk */
	uint64_t file_bytes;      /* length of the file */
	uint64_t allocated_bytes; /* what the file uses of the host's storage */
	uint32_t block_bytes;     /* 0: none (raw, fixed VHD) */
	uint32_t logical_sector_bytes, physical_sector_bytes;
	struct guid id;      /* of the virtual disk; VHD: of the file. Zero for raw */
	struct guid link_id; /* what a child stores to know its parent again: VHDX DataWriteGuid,
			      * VHD unique id */
	/* Differencing: what link_id of the parent must be. A second one may hold (VHDX, while a
	 * merge is under way), zero if not. */
	struct guid parent_id, parent_id2;
	struct disk_locator *locators; /* all the paths to the parent */
	unsigned locator_count;
	char creator[260];         /* UTF-8; may be empty */
	bool log_dirty;            /* VHDX: the log has to be replayed, the disk was not closed */
	uint64_t blocks_allocated; /* payload blocks that have a place in the file */
	uint64_t block_runs;       /* runs of blocks that follow each other in disk and file */
};

/* Reads only, takes no lock: for disks in use, too. Borrows fd. On success disk_details_done frees
 * what ret has. */
int disk_describe(int fd, struct disk_details *ret, struct error *err);
void disk_details_done(struct disk_details *details);
/* How many of a hundred allocated blocks do not follow their predecessor. */
unsigned disk_fragmentation_percent(const struct disk_details *details);
/* The value of a locator, or NULL. */
const char *disk_locator_value(const struct disk_details *details, const char *key);
/* What was written into the image becomes durable, whoever wrote it: a process that was killed may
 * have left its link_id in the host's memory only, and a child that names it would have no parent
 * after a power cut. To be called before a child is linked to it. Borrows fd, open for reading at
 * least; takes no lock. */
int disk_sync(int fd, struct error *err);
/* 0 if parent is what child names as its parent (by id, format and sector size); the error does not
 * name the files. */
int disk_check_parent(const struct disk_details *child, const struct disk_details *parent,
		      struct error *err);

/* ---- new images ---- */

#define VHD_MIN_BYTES (UINT64_C(3) << 20)    /* what Windows creates at least */
#define VHD_MAX_BYTES (UINT64_C(2040) << 30) /* what Windows opens at most */

struct disk_create_options {
	enum disk_format format; /* not DISK_PROBE */
	enum disk_type type;
	/* Multiple of the logical sector. VHDX up to 64 TiB; VHD 3 MiB to 2040 GiB, whole sectors
	 * of 512 bytes. Differencing: 0 or the parent's size. */
	uint64_t size_bytes;
	/* VHDX: 1 MiB .. 256 MiB, power of two; 0: 32 MiB, 2 MiB if differencing. VHD: 512 KiB or
	 * 2 MiB; 0: 2 MiB. */
	uint32_t block_bytes;
	/* VHDX: 512 or 4096; 0: 512, 4096. VHD: 512 or 0. Differencing: 0 or the parent's. */
	uint32_t logical_sector_bytes, physical_sector_bytes;
	bool sparse;    /* fixed and raw: don't reserve the host's space (the file has holes) */
	struct guid id; /* zero: a new one; VHDX differencing: the parent's, always */
	/* Differencing: the parent (after disk_sync), and its paths as they go into the file, in
	 * Windows' form (base/parent-paths.h makes them). At least one of them. */
	const struct disk_details *parent;
	const char *parent_absolute, *parent_relative, *parent_volume;
};

/* Writes a new, clean image into an empty regular file open for reading and writing, and syncs it.
 * Borrows fd. A creation that was cut short leaves no file that passes for an image. */
int disk_create(int fd, const struct disk_create_options *options, struct error *err);

/* Azure's rules for uploads: 0 if the image keeps them; the error says which it breaks and what to
 * do. */
int disk_check_azure(const struct disk_details *details, struct error *err);

#endif
