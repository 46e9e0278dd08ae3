/*
 * A file in memory, for tests and fuzzing of disk formats: sparse, bounded, with completions in a
 * random but repeatable order. Whoever observes it can tell what a power cut at any moment would
 * leave.
 */
#ifndef DISK_FILE_MEM_H
#define DISK_FILE_MEM_H

#include "disk/file.h"

enum file_mem_event { FILE_MEM_SUBMITTED, FILE_MEM_COMPLETED, FILE_MEM_RESIZED };

struct file_mem_options {
	uint64_t max_bytes; /* larger: no space */
	uint8_t *bytes;     /* max_bytes of page-aligned private memory; NULL: the file's own */
	/* Greater than 0: all is done to this file instead, at once (taken, as by other engines).
	 */
	int fd;
	uint64_t seed; /* of the order of completions; 0: in order of submission */
	/* Called for every operation but reads, when it is submitted and before it is completed,
	 * and (req NULL) when the size was set. May be NULL. */
	void (*observe)(void *user, enum file_mem_event event, const struct file_request *req,
			uint64_t size_bytes);
	void *user;
	/* Asked before each operation (req NULL: a change of the size); a result other than 0 (a
	 * negative errno) makes it fail. May be NULL. */
	int (*fault)(void *user, const struct file_request *req);
};

/* size_bytes of zeros, or of what is in options->bytes (borrowed); of a file: what it has. */
int file_mem_new(struct loop *loop, const struct file_mem_options *options, uint64_t size_bytes,
		 struct file **ret);
/* Direct access, outside of any operation: the file's bytes up to max_bytes. */
uint8_t *file_mem_bytes(struct file *file);
/* Zeroes a range; whole pages cost nothing. */
void file_mem_zero(struct file *file, uint64_t offset, uint64_t length);

#endif
