#include "net/frame-queue.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define JOINED_BYTES 62768 /* no joined frame is larger */

void frame_queue_init(struct frame_queue *queue, size_t max_bytes)
{
	*queue = (struct frame_queue){ .last_link = &queue->first, .max_bytes = max_bytes };
}

void frame_queue_done(struct frame_queue *queue)
{
	while (queue->first)
		frame_queue_drop_first(queue);
}

void frame_queue_drop_first(struct frame_queue *queue)
{
	struct queued_frame *q = queue->first;

	if (queue->last_link == &q->next || !q->next)
		queue->last_link = &queue->first;
	queue->first = q->next;
	queue->bytes -= sizeof(*q) + q->len;
	free(q);
}

/* Room for len bytes in the last frame; its address can change. */
static struct queued_frame *grow_last(struct frame_queue *queue, size_t len)
{
	struct queued_frame *q = *queue->last_link;
	size_t capacity = MIN(MAX(len, q->capacity * 2), (size_t)JOINED_BYTES);

	if (q->capacity >= len)
		return q;
	q = realloc(q, sizeof(*q) + capacity);
	if (!q)
		return NULL;
	q->capacity = capacity;
	*queue->last_link = q;
	return q;
}

static bool join_last(struct frame_queue *queue, const uint8_t *frame, size_t len)
{
	struct queued_frame *q = *queue->last_link;
	size_t offset, bytes;
	uint16_t gso;

	if (!q ||
	    !frame_continues(q->data, q->len, q->offload.gso_bytes, frame, len, &offset, &gso))
		return false;
	bytes = len - offset;
	if (q->len + bytes > JOINED_BYTES)
		return false;
	q = grow_last(queue, q->len + bytes);
	if (!q)
		return false;
	memcpy(q->data + q->len, frame + offset, bytes);
	frame_join_flags(q->data, frame);
	q->len += bytes;
	q->offload.gso_bytes = gso;
	queue->bytes += bytes;
	return true;
}

bool frame_queue_push(struct frame_queue *queue, const uint8_t *frame, size_t len,
		      const struct frame_offload *offload, bool join)
{
	struct queued_frame *q;

	if (queue->bytes + sizeof(*q) + len > queue->max_bytes)
		return false;
	if (join && join_last(queue, frame, len))
		return true;
	q = malloc(sizeof(*q) + len);
	if (!q)
		return false;
	*q = (struct queued_frame){ .offload = *offload, .len = len, .capacity = len };
	memcpy(q->data, frame, len);
	if (*queue->last_link)
		queue->last_link = &(*queue->last_link)->next;
	*queue->last_link = q;
	queue->bytes += sizeof(*q) + len;
	return true;
}
