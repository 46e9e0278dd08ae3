/*
 * The Dynamic Memory protocol on the wire: what hv_balloon and its host say to each other, as
 * in-band packets without a pipe header and without completions. Little-endian; pages are of 4 KiB.
 */
#ifndef SPEC_DYNMEM_H
#define SPEC_DYNMEM_H

#include <stddef.h>
#include <stdint.h>

#define DYNMEM_PACKED            __attribute__((packed))
#define DYNMEM_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)

#define DYNMEM_MAX_MESSAGE_BYTES 4096

/* (major << 16) + minor: Windows 10, Windows 8, Windows 7 */
#define DYNMEM_VERSION_3 0x20000u
#define DYNMEM_VERSION_2 0x10000u
#define DYNMEM_VERSION_1 0x00003u

enum dynmem_type {
	DYNMEM_ERROR = 0,
	DYNMEM_VERSION_REQUEST = 1,
	DYNMEM_VERSION_RESPONSE = 2,
	DYNMEM_CAPABILITIES_REPORT = 3,
	DYNMEM_CAPABILITIES_RESPONSE = 4,
	DYNMEM_STATUS_REPORT = 5,
	DYNMEM_BALLOON_REQUEST = 6,
	DYNMEM_BALLOON_RESPONSE = 7,
	DYNMEM_UNBALLOON_REQUEST = 8,
	DYNMEM_UNBALLOON_RESPONSE = 9,
	DYNMEM_HOT_ADD_REQUEST = 10,
	DYNMEM_HOT_ADD_RESPONSE = 11,
};

struct dynmem_header {
	uint16_t type;
	uint16_t bytes; /* of the whole message */
	uint32_t transaction_id;
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_header, 8);

/* Types 1 and 3 have the same place for what counts. */
struct dynmem_version_request {
	struct dynmem_header header;
	uint32_t version;
	uint32_t last_attempt; /* bit 0 */
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_version_request, 16);

/* Types 2 and 4. */
struct dynmem_accepted {
	struct dynmem_header header;
	uint64_t accepted; /* bit 0 */
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_accepted, 16);

#define DYNMEM_CAN_BALLOON UINT64_C(0x1)
#define DYNMEM_CAN_HOT_ADD UINT64_C(0x2)
/* log2 of the alignment of what is added, in MiB */
#define DYNMEM_HOT_ADD_ALIGNMENT(caps) (((caps) >> 2) & 0xF)

struct dynmem_capabilities {
	struct dynmem_header header;
	uint64_t capabilities;
	uint64_t min_pages;
	uint64_t max_page;
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_capabilities, 32);

struct dynmem_status {
	struct dynmem_header header;
	uint64_t available_pages;
	uint64_t committed_pages; /* with those in the balloon */
	uint64_t page_file_pages;
	uint64_t zero_and_free_pages;
	uint32_t page_file_writes;
	uint32_t io_difference;
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_status, 48);

struct dynmem_balloon_request {
	struct dynmem_header header;
	uint32_t pages;
	uint32_t reserved;
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_balloon_request, 16);

/* Ranges follow. */
struct dynmem_balloon_response {
	struct dynmem_header header;
	uint32_t reserved;
	uint32_t more_and_count; /* bit 0: more to come; 31:1 ranges */
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_balloon_response, 16);

/* Ranges follow. */
struct dynmem_unballoon_request {
	struct dynmem_header header;
	uint32_t more; /* bit 0 */
	uint32_t range_count;
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_unballoon_request, 16);

struct dynmem_hot_add_request {
	struct dynmem_header header;
	uint64_t range;
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_hot_add_request, 16);

struct dynmem_hot_add_response {
	struct dynmem_header header;
	uint32_t pages;
	uint32_t result; /* 1: done */
} DYNMEM_PACKED;
DYNMEM_SIZE(dynmem_hot_add_response, 16);

/* A range: the first page's number in 39:0, how many in 63:40. */
#define DYNMEM_RANGE(page, count) ((uint64_t)(page) | (uint64_t)(count) << 40)
#define DYNMEM_RANGE_PAGE(range)  ((range) & ((UINT64_C(1) << 40) - 1))
#define DYNMEM_RANGE_COUNT(range) ((range) >> 40)
#define DYNMEM_RANGE_COUNT_MAX    ((UINT64_C(1) << 24) - 1)

#endif
