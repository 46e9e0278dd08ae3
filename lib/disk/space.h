/*
 * Which parts of a VHDX file are in use, in units of 1 MiB, and where the next block goes. Private
 * to this room; knows nothing of the format.
 */
#ifndef DISK_SPACE_H
#define DISK_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#define SPACE_UNIT UINT64_C(0x100000)

struct space {
	uint64_t *used;  /* one bit per unit */
	uint64_t *stale; /* one bit per unit: may hold bytes other than zero */
	uint64_t capacity_units;
	uint64_t end_units; /* all units from here on are free and not stale */
	uint64_t hint_unit; /* no run of run_units starts below */
	uint64_t run_units; /* length of every allocation */
};

/* A file of file_bytes, all of it free and stale. False: no memory. */
bool space_init(struct space *space, uint64_t file_bytes, uint64_t run_bytes);
void space_done(struct space *space);

/* Marks [offset, offset + length), multiples of the unit, as used. False if a part of it is used
 * already or lies beyond the file's end. */
bool space_claim(struct space *space, uint64_t offset, uint64_t length);
/* True if a byte of the range is in use. */
bool space_overlaps(const struct space *space, uint64_t offset, uint64_t length);

/* A free run of run_bytes: a hole, or at the end. *ret_stale: it has to be zeroed first. False: no
 * memory. */
bool space_alloc(struct space *space, uint64_t *ret_offset, bool *ret_stale);
/* Gives a run back. `zeroed`: it reads as zeros. */
void space_free(struct space *space, uint64_t offset, bool zeroed);
/* One past the last used byte. */
uint64_t space_used_end(const struct space *space);

#endif
