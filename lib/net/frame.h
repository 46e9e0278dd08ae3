/*
 * What the network code does to Ethernet frames: find the headers, fill in checksums, cut a large
 * TCP frame into segments, hash a flow. A frame comes from a guest or the network: nothing in it is
 * believed, every offset is checked against the length. No I/O, no state; any thread.
 */
#ifndef NET_FRAME_H
#define NET_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_HEADER_BYTES 14
#define FRAME_VLAN_BYTES   4
#define FRAME_MAC_BYTES    6
#define FRAME_MIN_BYTES    FRAME_HEADER_BYTES
/* An IP packet of 65535 bytes in a tagged frame. */
#define FRAME_MAX_BYTES (FRAME_HEADER_BYTES + FRAME_VLAN_BYTES + 65535)
/* Ethernet, tag, IP and TCP headers of a frame that can be segmented. */
#define FRAME_MAX_TCP_HEADERS 256

/* The offload metadata of a frame, as it travels beside it. */
#define FRAME_NEEDS_CSUM    0x01 /* TCP or UDP checksum is to be filled in */
#define FRAME_CSUM_VALID    0x02 /* TCP or UDP checksum is known to be right */
#define FRAME_NEEDS_IP_CSUM 0x04 /* IPv4 header checksum is to be filled in */

struct frame_offload {
	uint8_t flags;
	uint16_t gso_bytes; /* not 0: TCP payload of each segment; IP lengths are not filled in */
};

/* Offsets from the start of the frame. An offset of 0: not there. */
struct frame_layout {
	uint16_t ethertype; /* behind a tag, if there is one */
	uint16_t l3, l4, payload;
	uint32_t end; /* of the IP packet: padding of short frames is beyond */
	uint8_t l4_protocol;
	bool ipv4, ipv6, fragment;
};

static inline bool frame_is_multicast(const uint8_t *frame)
{
	return frame[0] & 1;
}
static inline bool frame_is_broadcast(const uint8_t *frame)
{
	return (frame[0] & frame[1] & frame[2] & frame[3] & frame[4] & frame[5]) == 0xFF;
}

/* False: not even an Ethernet header. A frame whose IP or transport header is damaged or not known
 * gives the layout up to there. gso: the IP length fields are not filled in, take the frame's. */
bool frame_parse(const uint8_t *frame, size_t len, bool gso, struct frame_layout *ret);

/* Makes the frame complete: IP length and header checksum, TCP or UDP checksum, as offload asks. It
 * keeps its size. False if the metadata don't fit the frame: drop it. */
bool frame_finish(uint8_t *frame, size_t len, const struct frame_offload *offload);
/* Whether the TCP or UDP checksum of a complete frame is right; false as well where there is none.
 */
bool frame_checksum_ok(const uint8_t *frame, size_t len);

/*
 * Cuts a TCP frame with offload->gso_bytes into frames of at most that payload. Each call of next
 * gives one: headers_len bytes in headers, then payload_len bytes of the original frame; all
 * checksums filled in.
 *
 *	if (frame_segmenter_init(&s, frame, len, mss))
 *		while (frame_segmenter_next(&s))
 *			send(s.headers, s.headers_len, s.payload, s.payload_len);
 */
struct frame_segmenter {
	uint8_t headers[FRAME_MAX_TCP_HEADERS];
	size_t headers_len;
	const uint8_t *payload;
	size_t payload_len;
	/* private */
	const uint8_t *frame;
	struct frame_layout layout;
	uint32_t position, segment_bytes, index;
};
bool frame_segmenter_init(struct frame_segmenter *s, const uint8_t *frame, size_t len,
			  uint16_t segment_bytes);
bool frame_segmenter_next(struct frame_segmenter *s);
/* How many calls of next give a segment, for a segmenter that was just initialised. */
unsigned frame_segmenter_count(const struct frame_segmenter *s);

/*
 * Whether next continues the TCP stream of frame (complete, or large with gso_bytes) with nothing
 * in between: then its bytes from *ret_offset up to its end can be appended to frame, which is a
 * large one with *ret_gso afterwards, after frame_join_flags(). Checksums of both are trusted.
 */
bool frame_continues(const uint8_t *frame, size_t len, uint16_t gso_bytes, const uint8_t *next,
		     size_t next_len, size_t *ret_offset, uint16_t *ret_gso);
void frame_join_flags(uint8_t *frame, const uint8_t *next);

/* Sum of 16-bit big-endian words, not folded; sums of even-sized pieces can be added. */
uint64_t frame_sum(const void *data, size_t len);
uint16_t frame_fold(uint64_t sum);

#define FRAME_HASH_IPV4     0x01
#define FRAME_HASH_TCP_IPV4 0x02
#define FRAME_HASH_IPV6     0x04
#define FRAME_HASH_TCP_IPV6 0x08
/* Toeplitz hash of addresses (and ports) as NDIS defines it, of the types (FRAME_HASH_*) asked for.
 * False: the frame is of none of them. */
bool frame_rss_hash(const uint8_t *frame, const struct frame_layout *layout, unsigned types,
		    const uint8_t key[static 40], uint32_t *ret);

#endif
