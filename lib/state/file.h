/*
 * The file of a saved VM or of a checkpoint's memory: guest RAM and one stream.
 *
 *	0		header: magic, version, whether it is whole, where things are, checksums
 *	STATE_FILE_RAM	guest RAM, page after page in the order of the memfd; zeros are holes
 *	behind it	the stream (state.h)
 *
 * It is written in any order, and the header last, after everything else is on the disk: a file
 * whose header says so is whole, whatever happened to its writer. Numbers are little-endian.
 */
#ifndef STATE_FILE_H
#define STATE_FILE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define STATE_FILE_RAM (UINT64_C(64) * 1024)
/* What a stream may have at most; real ones have some hundred kilobytes. */
#define STATE_FILE_STREAM_MAX (UINT64_C(256) << 20)

struct state_file {
	uint64_t ram_bytes;
	uint64_t stream_bytes;
};

/* Writes the stream, and when all of the file is on the disk the header, and that, too. The RAM was
 * written before by whoever has it. */
int state_file_finish(int fd, uint64_t ram_bytes, const uint8_t *stream, uint64_t stream_bytes,
		      struct error *err);
/* Refuses what is not whole. */
int state_file_open(int fd, struct state_file *ret, struct error *err);
/* The stream, its checksum checked; the caller's. */
int state_file_read_stream(int fd, const struct state_file *file, uint8_t **ret, struct error *err);
/* Fills RAM, which is all zeros, with what is in the file. */
int state_file_read_ram(int fd, const struct state_file *file, void *ram, struct error *err);

#endif
