/*
 * Changes of an image that is not in use, and its check. All block until done, lock the file, and
 * borrow fd (open for reading and writing). Each can be ended at any moment, by a power cut or by
 * its progress callback, and leaves a valid image with the old or the new state and the content
 * unchanged.
 */
#ifndef DISK_MAINTAIN_H
#define DISK_MAINTAIN_H

#include "disk/disk.h"

/* May be NULL wherever it is a parameter. step is called now and then with what is done of total
 * (units of the callee's choice); false ends the work with ERR_CANCELLED. */
struct disk_progress {
	bool (*step)(void *user, uint64_t done, uint64_t total);
	void *user;
};

/* ---- size ---- */

/* The smallest size that keeps all partitions, by MBR or GPT (with its backup table): a multiple of
 * the logical sector. ERR_UNSUPPORTED if the disk has no partition table. */
int disk_minimum_bytes(struct blk *disk, uint64_t *ret, struct error *err);

/* Puts the second copy of a GPT where it belongs on a disk of size_bytes: at the end. Before a disk
 * is made smaller; a disk without a GPT, or whose first copy is
 * damaged, is left as it is. Safe against power cuts. */
int disk_move_gpt(struct blk *disk, uint64_t size_bytes, struct error *err);

struct disk_resize_options {
	uint64_t size_bytes;
	/* The result of disk_minimum_bytes over the whole chain: shrinking below it is refused. 0:
	 * not known, which refuses to shrink unless unsafe_shrink. */
	uint64_t minimum_bytes;
	bool unsafe_shrink;
};

/* VHDX and raw both ways; VHD grows only, differencing VHD not at all. A disk that has children
 * must not be resized (not known here). */
int disk_resize(int fd, const struct disk_resize_options *options,
		const struct disk_progress *progress, struct error *err);

/* ---- compaction ---- */

enum disk_compact_mode {
	DISK_COMPACT_FULL,  /* find blocks that hold only zeros, then as QUICK */
	DISK_COMPACT_QUICK, /* give back unmapped blocks, fill holes of the file from its end, cut
			       it */
};

/* Dynamic and differencing images; others have nothing to compact (ERR_INVALID). */
int disk_compact(int fd, enum disk_compact_mode mode, const struct disk_progress *progress,
		 struct error *err);

/* ---- properties ---- */

struct disk_parent_link {
	const struct disk_details
	    *parent; /* after disk_sync; its link_id is what the child names */
	/* VHDX: a second id that counts, too (disk_details.parent_id2); zero: none. */
	struct guid second_id;
	/* As in disk_create_options; all NULL: the paths stay as they are. */
	const char *absolute, *relative, *volume;
};

/* Re-parents a differencing image. Whether the parent has the content that the child was made over
 * is the caller's business. */
int disk_set_parent(int fd, const struct disk_parent_link *link, struct error *err);
/* VHDX: the virtual disk's id; VHD: the file's unique id (children no longer know it). */
int disk_set_id(int fd, const struct guid *id, struct error *err);
/* VHDX: 512 or 4096. */
int disk_set_physical_sector(int fd, uint32_t bytes, struct error *err);

/* ---- check ---- */

enum disk_severity {
	DISK_NOTE,   /* unusual, harmless           */
	DISK_LEAK,   /* space that nobody uses      */
	DISK_DAMAGE, /* content or structure is lost or at risk */
};

struct disk_finding {
	enum disk_severity severity;
	uint64_t offset;  /* in the file */
	const char *what; /* one line */
	const char *advice;
	bool repairable, repaired;
};

struct disk_check_options {
	bool repair; /* what can be repaired without risk for the content; else fd may be read-only
		      */
	void (*report)(void *user, const struct disk_finding *finding);
	void *user;
};

/* 0: checked, whatever was found (the worst of what remains unrepaired in *ret_worst, which is
 * DISK_NOTE if nothing was). Parents are not looked at. */
int disk_check(int fd, const struct disk_check_options *options, enum disk_severity *ret_worst,
	       struct error *err);

#endif
