/* What change tracking keeps, without the disk: loading, checking, marking, storing. Private. */
#ifndef DISK_TRACK_IMPL_H
#define DISK_TRACK_IMPL_H

#include "disk/file.h"
#include "disk/track.h"

#include <endian.h>

#define TRACK_PAGE          4096u
#define TRACK_SIGNATURE     UINT64_C(0x316b636172546f4f) /* "OoTrack1" */
#define TRACK_HEADER_AT(n)  ((uint64_t)TRACK_PAGE * (n)) /* two slots */
#define TRACK_ACTIVE_AT     ((uint64_t)TRACK_PAGE * 2)
#define TRACK_EPOCHS_AT     ((uint64_t)TRACK_PAGE * 4)
#define TRACK_MAX_REGIONS   (TRACK_PAGE * 8u)
#define TRACK_MAX_UNITS     (UINT64_C(1) << 24)
#define TRACK_MIN_UNIT      4096u
#define TRACK_DEFAULT_UNIT  65536u
#define TRACK_MIN_REGION    (UINT64_C(16) << 20)
#define TRACK_EPOCHS_A_PAGE (TRACK_PAGE / 2)

/* On disk, little-endian. */
struct track_header {
	uint64_t signature;
	uint32_t checksum; /* CRC-32C of the page with this as zero */
	uint16_t epoch;    /* the present one, from 1 on */
	uint16_t point_count;
	uint64_t sequence; /* the valid slot with the higher one counts */
	uint64_t disk_bytes;
	uint64_t region_bytes; /* power of two, whole units */
	uint32_t unit_bytes;   /* power of two */
	uint32_t reserved;
	struct guid links[2]; /* link_id of the image: either */
	struct {
		struct guid id;
		uint64_t time;
		uint16_t epoch; /* changed since: epochs greater than this */
		uint8_t reserved[6];
	} __attribute__((packed)) points[TRACK_MAX_POINTS];
	/* Of the layer that was the leaf before the chain changed: a power cut may leave it the
	 * leaf. Until the next reference point: behind that, what changed since is not named. */
	struct guid earlier[2];
	uint8_t unused[TRACK_PAGE - 80 - 32 * TRACK_MAX_POINTS - 32];
} __attribute__((packed));
_Static_assert(sizeof(struct track_header) == TRACK_PAGE, "one page");

struct track_state {
	struct file *file;
	struct track_header header; /* host byte order is disk byte order: little-endian */
	unsigned slot;              /* that holds it */
	uint64_t unit_count, page_count;
	unsigned region_count;
	uint16_t *epochs; /* of each unit: when it changed last; 0: never */
	uint8_t *dirty;   /* of each page of epochs */
	/* Regions that were written to since the epochs were last stored: after a cut, all of their
	 * units count as changed. */
	uint8_t active[TRACK_PAGE];
};

/* Borrow file until track_state_done. */
int track_state_create(struct track_state *state, struct file *file, uint64_t disk_bytes,
		       const struct track_options *options, struct error *err);
int track_state_load(struct track_state *state, struct file *file, uint64_t disk_bytes,
		     const struct track_options *options, struct error *err);
void track_state_done(struct track_state *state);

/* Blocking: all of it into another file. 0 or -errno. */
int track_state_copy(const struct track_state *state, struct file *to);
/* Can it keep track of a disk of that size, in the units and regions that it has? */
bool track_state_fits(const struct track_state *state, uint64_t disk_bytes);
/* Blocking: the disk has become larger, to a size that fits. What is new counts as changed. 0 or
 * -errno, and then the state is of no use any more. */
int track_state_grow(struct track_state *state, uint64_t disk_bytes);

/* Notes a change in the present epoch. */
void track_state_touch(struct track_state *state, uint64_t offset, uint64_t length);
/* Sets the active bits of the range, which must be on disk before it is changed. */
void track_state_activate(struct track_state *state, uint64_t offset, uint64_t length);
/* Blocking: stores the epochs; `quiet`: nothing is in flight, so no region stays active. 0 or
 * -errno. */
int track_state_store(struct track_state *state, bool quiet);
/* Blocking: the active regions. */
int track_state_store_active(struct track_state *state);
/* Blocking: track_follow on an open file. */
int track_state_follow(struct file *file, const struct guid *known, const struct guid *coming,
		       struct error *err);
/* The image is to be known by other ids, and those of before. */
void track_state_relink(struct track_state *state, const struct guid *now, const struct guid *next);
/* Blocking: the header, in the other slot. */
int track_state_store_header(struct track_state *state);

/* track_new and track_start on an open file; takes disk and file on success. */
int track_attach(struct blk *disk, struct file *file, const struct track_options *options,
		 struct blk **ret, struct error *err);

#endif
