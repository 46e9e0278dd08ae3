/*
 * Which parts of a VHDX file are in use, in units of 1 MiB, and where the next block goes. Private
 * to this room; knows nothing of the format.
 *
 * A unit is free (and perhaps stale: it may hold bytes other than zero), used, or, while only a
 * part of the file's tables has been looked at, of unknown use. Unknown units are neither handed
 * out nor lost: whoever finds their owner claims them, and space_settle frees the rest.
 */
#ifndef DISK_SPACE_H
#define DISK_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#define SPACE_UNIT UINT64_C(0x100000)

struct space {
	/* Two bits per unit: used and stale. 00 free; 01 free, stale; 11 used; 10 unknown. */
	uint64_t *used, *stale;
	uint64_t capacity_units;
	uint64_t end_units; /* all units from here on are free and not stale */
	uint64_t run_units; /* length of a large run */
	/* No run of 1 unit (of run_units) starts below. */
	uint64_t small_hint, large_hint;
};

/* A file of file_bytes, all of it unknown. False: no memory. */
bool space_init(struct space *space, uint64_t file_bytes, uint64_t run_bytes);
void space_done(struct space *space);

/* Marks [offset, offset + length), multiples of the unit, as used. False if a part of it is used
 * already or lies beyond the file's end. */
bool space_claim(struct space *space, uint64_t offset, uint64_t length);
/* Everything that has not been claimed is free. */
void space_settle(struct space *space);

/* A free run of run_bytes (large) or of one unit: a hole, or at the end. *ret_stale: it may hold
 * bytes other than zero. False: no memory. */
bool space_alloc(struct space *space, bool large, uint64_t *ret_offset, bool *ret_stale);
/* Gives a run back. `zeroed`: it reads as zeros. */
void space_free(struct space *space, uint64_t offset, uint64_t length, bool zeroed);
/* The first free run at or behind *offset, up to the file's end. False: there is none. */
bool space_next_hole(const struct space *space, uint64_t *offset, uint64_t *ret_length);
/* One past the last byte that is used or unknown. */
uint64_t space_used_end(const struct space *space);

#endif
