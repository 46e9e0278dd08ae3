/* Synthetic video on the wire: messages behind a pipe header, little-endian. */
#ifndef SPEC_SYNTHVID_H
#define SPEC_SYNTHVID_H

#include <stddef.h>
#include <stdint.h>

#define SYNTHVID_PACKED            __attribute__((packed))
#define SYNTHVID_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)

/* major in the low half, minor in the high one */
#define SYNTHVID_VERSION_3_2 0x00020003u
#define SYNTHVID_VERSION_3_5 0x00050003u

#define SYNTHVID_MAX_RESOLUTIONS 64
#define SYNTHVID_EDID_BYTES      128
#define SYNTHVID_DEPTH           32 /* XRGB8888 */

enum synthvid_type {
	SYNTHVID_VERSION_REQUEST = 1,
	SYNTHVID_VERSION_RESPONSE = 2,
	SYNTHVID_VRAM_LOCATION = 3,
	SYNTHVID_VRAM_ACK = 4,
	SYNTHVID_SITUATION = 5,
	SYNTHVID_SITUATION_ACK = 6,
	SYNTHVID_POINTER_POSITION = 7,
	SYNTHVID_POINTER_SHAPE = 8,
	SYNTHVID_FEATURE_CHANGE = 9,
	SYNTHVID_DIRT = 10,
	SYNTHVID_RESOLUTION_REQUEST = 13,
	SYNTHVID_RESOLUTION_RESPONSE = 14,
};

struct synthvid_header {
	uint32_t pipe_type;  /* 1 */
	uint32_t pipe_bytes; /* that follow this field */
	uint32_t type;
	uint32_t bytes; /* from `type` on */
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_header, 16);

struct synthvid_version_request {
	struct synthvid_header header;
	uint32_t version;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_version_request, 20);

struct synthvid_version_response {
	struct synthvid_header header;
	uint32_t version;
	uint8_t accepted, max_outputs;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_version_response, 22);

struct synthvid_vram_location {
	struct synthvid_header header;
	uint64_t context;
	uint8_t is_specified;
	uint64_t gpa;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_vram_location, 33);

struct synthvid_ack { /* types 4 and 6 */
	struct synthvid_header header;
	uint64_t context;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_ack, 24);

struct synthvid_situation {
	struct synthvid_header header;
	uint64_t context;
	uint8_t output_count;
	uint8_t active;
	uint32_t vram_offset;
	uint8_t depth;
	uint32_t width, height, pitch;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_situation, 43);

struct synthvid_feature_change {
	struct synthvid_header header;
	uint8_t dirt, pointer_position, pointer_shape, situation;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_feature_change, 20);

struct synthvid_rect {
	int32_t x1, y1, x2, y2; /* right and bottom exclusive */
} SYNTHVID_PACKED;

/* Rectangles follow. */
struct synthvid_dirt {
	struct synthvid_header header;
	uint8_t output, count;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_dirt, 18);

struct synthvid_resolution {
	uint16_t width, height;
} SYNTHVID_PACKED;

/* `count` resolutions follow. */
struct synthvid_resolution_response {
	struct synthvid_header header;
	uint8_t edid[SYNTHVID_EDID_BYTES];
	uint8_t count, default_index, is_standard;
} SYNTHVID_PACKED;
SYNTHVID_SIZE(synthvid_resolution_response, 147);

#endif
