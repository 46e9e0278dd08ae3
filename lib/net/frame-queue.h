/*
 * Frames that wait for a port, in copies of our own, bounded in bytes. TCP segments of one stream
 * that follow each other are joined into one large frame on the way in, so that a guest's network
 * stack, and all between here and there, handles one instead of forty.
 *
 * Belongs to one thread.
 */
#ifndef NET_FRAME_QUEUE_H
#define NET_FRAME_QUEUE_H

#include "net/frame.h"

#include <stdbool.h>

struct queued_frame {
	struct queued_frame *next;
	struct frame_offload offload;
	size_t len, capacity;
	uint8_t data[];
};

struct frame_queue {
	struct queued_frame *first;
	struct queued_frame **last_link; /* what points to the last one */
	size_t bytes, max_bytes;         /* with the book-keeping */
};

void frame_queue_init(struct frame_queue *queue, size_t max_bytes);
void frame_queue_done(struct frame_queue *queue);
/* Copies; joins it to the last one if join and if it can. False: no room, or no memory. */
bool frame_queue_push(struct frame_queue *queue, const uint8_t *frame, size_t len,
		      const struct frame_offload *offload, bool join);
void frame_queue_drop_first(struct frame_queue *queue);

#endif
