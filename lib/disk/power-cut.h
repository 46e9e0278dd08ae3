/*
 * Power cuts, for tests of anything that must survive them. A recorder watches a file in memory
 * (file-mem.h) and keeps every operation with the moments when it was submitted and completed. From
 * that, files are put together as a cut at any moment could have left them: what a completed sync
 * covers is there; of all else that was under way some is there, some isn't, and some is torn at
 * sector boundaries.
 *
 *	struct cut *cut = cut_new(NULL);
 *	cut_initial(cut, bytes, size);
 *	options.observe = cut_observe; options.user = cut; file = cut_file(cut, loop, 0, ...,
 *&options);
 *	... work on the file; note moment = cut_tick(cut) when a flush is done ...
 *	for (m = 0; m <= cut_now(cut); m++)
 *		check(cut_file(cut, loop, m, CUT_ANY, seed, &plain_options));
 *
 * Several files that belong together (a chain) share one clock: give cut_new the first one's.
 * Failures of the tests' own making abort.
 */
#ifndef DISK_POWER_CUT_H
#define DISK_POWER_CUT_H

#include "disk/file-mem.h"

struct cut;

enum cut_style {
	CUT_ANY,       /* any part of what is not durable, torn and out of order */
	CUT_COMPLETED, /* what was completed is there, what was in flight isn't */
	CUT_SUBMITTED, /* what was submitted is there */
	CUT_DURABLE,   /* nothing but what is durable */
	CUT_STYLES
};

/* clock: NULL for an own one, or a recorder that lives longer. */
struct cut *cut_new(struct cut *clock);
void cut_free(struct cut *cut);
/* What the file holds when the record begins; copied. */
void cut_initial(struct cut *cut, const uint8_t *bytes, uint64_t size_bytes);
void cut_initial_file(struct cut *cut, int fd);
/* The observer for struct file_mem_options; user is the recorder. */
void cut_observe(void *user, enum file_mem_event event, const struct file_request *req,
		 uint64_t size_bytes);
/* The present moment; the tick makes a new one, for an event of the test. */
uint64_t cut_now(const struct cut *cut);
uint64_t cut_tick(struct cut *cut);

/* A file as a cut at the moment leaves it; at moment 0 the initial one. The same seed gives the
 * same file. */
struct file *cut_file(struct cut *cut, struct loop *loop, uint64_t moment, enum cut_style style,
		      uint64_t seed, const struct file_mem_options *options);

#endif
