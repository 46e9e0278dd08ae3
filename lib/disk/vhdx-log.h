/*
 * The VHDX log ([MS-VHDX] 2.3): finding the active sequence of entries in the bytes of the log
 * area, walking its records, and composing new entries. Pure; private to this room.
 */
#ifndef DISK_VHDX_LOG_H
#define DISK_VHDX_LOG_H

#include "base/error.h"
#include "spec/vhdx.h"

#include <stdbool.h>
#include <stddef.h>

/* The log area as read, and where in the file it came from. */
struct vhdx_log_area {
	const uint8_t *bytes;
	uint32_t length; /* multiple of 4096 */
	uint64_t file_offset;
	struct guid guid; /* of the header: only its entries count */
};

/* The active sequence: from the entry at `tail` to the one at `head`. */
struct vhdx_log_sequence {
	uint32_t tail, head;
	uint64_t head_sequence_number;
	uint64_t flushed_file_bytes; /* the file must be at least this long */
	uint64_t last_file_bytes;    /* the file must become at least this long */
};

int vhdx_log_find(const struct vhdx_log_area *area, struct vhdx_log_sequence *ret,
		  struct error *err);

/* One update of the file: data (4096 bytes put together from descriptor and data sector), or zeros
 * when data is NULL. */
struct vhdx_log_record {
	uint64_t file_offset, length;
	const uint8_t *data;
};

/* Calls apply for each record in order of replay; stops at the first negative result. Records that
 * point outside of [VHDX_FIRST_LOGGED_OFFSET, limit) or into the log are refused. */
int vhdx_log_replay(const struct vhdx_log_area *area, const struct vhdx_log_sequence *sequence,
		    uint64_t limit,
		    int (*apply)(void *user, const struct vhdx_log_record *record,
				 struct error *err),
		    void *user, struct error *err);

/* ---- writing ---- */

struct vhdx_log_entry {
	struct guid guid;
	uint64_t sequence_number;
	uint32_t tail;
	uint64_t flushed_file_bytes, last_file_bytes;
	/* Pages of 4096 bytes and their places in the file. */
	unsigned page_count;
	const uint64_t *page_offsets;
	const uint8_t *pages;
};

/* Bytes of an entry with that many data pages. */
static inline uint32_t vhdx_log_entry_bytes(unsigned page_count)
{
	uint64_t descriptors = sizeof(struct vhdx_log_entry_header) +
			       (uint64_t)page_count * sizeof(struct vhdx_log_descriptor);

	return (uint32_t)((descriptors + VHDX_SECTOR_BYTES - 1) / VHDX_SECTOR_BYTES *
			      VHDX_SECTOR_BYTES +
			  (uint64_t)page_count * VHDX_SECTOR_BYTES);
}

/* Writes the entry into buf (vhdx_log_entry_bytes of it). */
void vhdx_log_compose(const struct vhdx_log_entry *entry, uint8_t *buf);

#endif
