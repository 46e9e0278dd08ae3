/*
 * What the data paths of image formats have in common: a request is walked piece by piece; for each
 * piece the format starts an operation on the file or a read of the parent, or answers it at once,
 * or lets the request wait for something. When all of it is done the request is complete. Private
 * to this room.
 *
 * The format embeds struct image as its first member and gives the image_* functions in its
 * blk_ops.
 */
#ifndef DISK_IMAGE_H
#define DISK_IMAGE_H

#include "blk/blk-backend.h"
#include "blk/pool.h"
#include "disk/file.h"

#define IMAGE_SEGMENT_IOV 64u

/* A block request under way. */
struct image_io {
	struct blk_request *req;
	uint64_t cursor;  /* bytes of the request that have been started */
	unsigned pending; /* operations in flight, plus one while it is being started */
	enum blk_result result;
	bool throttled; /* goes on when some of its operations are done */
	struct image_io *next;
	struct file_request defer_req;
};

struct image_io_list {
	struct image_io *first, **tail;
};

enum image_progress {
	IMAGE_STARTED, /* the piece is under way or done, the cursor moved */
	IMAGE_PARKED,  /* someone will call image_run for this io */
	IMAGE_FAILED,  /* io->result says how */
};

/* One operation for a piece of a request. block, in_block: the format's own. */
struct image_segment {
	struct file_request req;
	struct blk_request parent_req;
	struct image *image;
	struct image_io *io;
	uint64_t block, in_block;
	struct iovec iov[IMAGE_SEGMENT_IOV];
};

struct image_ops {
	/* Starts the piece at io->cursor by one of the image_start_* functions. */
	enum image_progress (*run_piece)(struct image *image, struct image_io *io);
	/* A piece's operation on the file ended; before its request can be complete. */
	void (*piece_done)(struct image *image, const struct image_segment *segment, int result);
	/* Ends io by image_finish when what was complete before is durable. */
	void (*flush)(struct image *image, struct image_io *io);
};

struct image {
	struct blk blk;
	struct file *file;
	struct blk *parent; /* owned; NULL if none */
	const struct image_ops *ops;
	bool submitting; /* inside submit: completions are deferred */
	struct pool ios, segments;
};

void image_init(struct image *image, struct file *file, struct blk *parent,
		const struct image_ops *ops, const struct blk_ops *blk_ops,
		const struct blk_info *info);
/* Frees the pools only. */
void image_done(struct image *image);

/* ---- for blk_ops ---- */

void image_submit(struct blk *blk, struct blk_request *req);
void image_defer(struct blk *blk, struct blk_request *req);
void image_wait(struct blk *blk);
void image_plug(struct blk *blk);
void image_unplug(struct blk *blk);

/* ---- for the format ---- */

/* Goes on with the request until everything is started, it fails, or it has to wait. */
void image_run(struct image *image, struct image_io *io);
/* Ends a request that waits, with what io->result says if it failed before. */
void image_fail_waiting(struct image *image, struct image_io *io, enum blk_result result);
/* Ends a request that has nothing in flight. */
void image_finish(struct image *image, struct image_io *io, enum blk_result result);

/* What is left of the request. */
static inline uint64_t image_left(const struct image_io *io)
{
	return io->req->length - io->cursor;
}

/* Each starts at most len bytes at the cursor and moves it: */
/* FILE_READ, FILE_WRITE with the request's data; FILE_ZERO, FILE_PUNCH. */
enum image_progress image_start_file(struct image *image, struct image_io *io, enum file_op op,
				     uint64_t file_offset, uint64_t len, uint64_t block,
				     uint64_t in_block);
/* From the parent, or zeros where there is none or it has ended. */
enum image_progress image_start_parent(struct image *image, struct image_io *io, uint64_t len);
/* Read as zeros. */
enum image_progress image_read_zeros(struct image_io *io, uint64_t len);
/* Nothing has to be done. */
enum image_progress image_skip(struct image_io *io, uint64_t len);
enum image_progress image_fail(struct image_io *io, enum blk_result result);

/* rc: 0 or -errno */
enum blk_result image_result_of(int rc);

static inline void image_list_init(struct image_io_list *list)
{
	list->first = NULL;
	list->tail = &list->first;
}

static inline void image_list_add(struct image_io_list *list, struct image_io *io)
{
	io->next = NULL;
	*list->tail = io;
	list->tail = &io->next;
}

static inline struct image_io *image_list_take(struct image_io_list *list)
{
	struct image_io *io = list->first;

	if (io) {
		list->first = io->next;
		if (!list->first)
			list->tail = &list->first;
	}
	return io;
}

#endif
