/* What the network does to a frame of a guest or the network: parse, finish, segment, join, hash.
 */
#include "base/bytes.h"
#include "base/macros.h"
#include "net/frame-queue.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An exact copy, so that a byte too far is seen. */
static uint8_t *copy_of(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	memcpy(copy, data, size);
	return copy;
}

static void check_layout(const struct frame_layout *l, size_t len)
{
	if (l->end > len || l->l4 > l->end || l->payload > l->end || (l->l4 && l->l4 < l->l3) ||
	    (l->l4 && l->payload <= l->l4))
		abort();
}

static void segment(const uint8_t *frame, size_t len, uint16_t segment_bytes)
{
	struct frame_segmenter s;
	struct frame_layout l;
	uint8_t *whole;
	size_t sum = 0;
	unsigned count = 0;

	if (!frame_segmenter_init(&s, frame, len, segment_bytes))
		return;
	while (count < 200 && frame_segmenter_next(&s)) {
		size_t bytes = s.headers_len + s.payload_len;

		whole = malloc(bytes);
		memcpy(whole, s.headers, s.headers_len);
		memcpy(whole + s.headers_len, s.payload, s.payload_len);
		/* A segment is complete, unless options of IP said otherwise all along. */
		if (!frame_parse(whole, bytes, false, &l) || l.end != bytes ||
		    !frame_checksum_ok(whole, bytes))
			abort();
		free(whole);
		sum += s.payload_len;
		count++;
	}
	if (count < 200 && sum != s.layout.end - s.layout.payload)
		abort();
}

static void queue_pair(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len, uint16_t gso)
{
	struct frame_queue q;
	struct frame_offload offload = { FRAME_CSUM_VALID, gso };
	size_t offset;
	uint16_t joined;

	frame_queue_init(&q, 1 << 20);
	if (a_len >= FRAME_MIN_BYTES && b_len >= FRAME_MIN_BYTES) {
		frame_continues(a, a_len, gso, b, b_len, &offset, &joined);
		frame_queue_push(&q, a, a_len, &offload, true);
		frame_queue_push(&q, b, b_len, &offload, true);
		frame_queue_push(&q, b, b_len, &offload, true);
	}
	frame_queue_done(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t key[40] = { 1, 2, 3 };
	struct frame_offload offload;
	struct frame_layout l;
	uint8_t *frame;
	uint32_t hash;
	size_t len, first;

	if (size < 5)
		return 0;
	offload = (struct frame_offload){ data[0], load_le16(data + 1) };
	first = load_le16(data + 3);
	data += 5;
	len = size - 5;
	frame = copy_of(data, len);
	if (frame_parse(frame, len, offload.gso_bytes, &l)) {
		check_layout(&l, len);
		frame_rss_hash(frame, &l, 15, key, &hash);
	}
	frame_checksum_ok(frame, len);
	segment(frame, len, offload.gso_bytes);
	if (frame_finish(frame, len, &offload) && frame_parse(frame, len, false, &l) && l.l4 &&
	    l.l4_protocol == 6 && offload.flags & FRAME_NEEDS_CSUM &&
	    !frame_checksum_ok(frame, len))
		abort();
	free(frame);
	if (first <= len) {
		uint8_t *a = copy_of(data, first), *b = copy_of(data + first, len - first);

		queue_pair(a, first, b, len - first, offload.gso_bytes);
		free(a);
		free(b);
	}
	return 0;
}
