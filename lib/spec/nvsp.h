/*
 * NVSP: the network device's protocol on its VMBus channel (MS-NVSP is not published; names and
 * numbers are those of the public guest drivers). All fields little-endian and packed.
 *
 * A message is a u32 type and a body. Guests give and expect messages of NVSP_MESSAGE_BYTES
 * (Linux's union of all bodies, and its check of completion lengths); shorter requests come from
 * iPXE.
 */
#ifndef SPEC_NVSP_H
#define SPEC_NVSP_H

#include <stdint.h>

#define NVSP_MESSAGE_BYTES 40

#define NVSP_VERSION_1   0x00002u
#define NVSP_VERSION_2   0x30002u
#define NVSP_VERSION_4   0x40000u
#define NVSP_VERSION_5   0x50000u
#define NVSP_VERSION_6   0x60000u
#define NVSP_VERSION_6_1 0x60001u

enum nvsp_type {
	NVSP_INIT = 1,
	NVSP_INIT_COMPLETE = 2,
	NVSP_SEND_NDIS_VERSION = 100,
	NVSP_SEND_RECEIVE_BUFFER = 101,
	NVSP_SEND_RECEIVE_BUFFER_COMPLETE = 102,
	NVSP_REVOKE_RECEIVE_BUFFER = 103,
	NVSP_SEND_SEND_BUFFER = 104,
	NVSP_SEND_SEND_BUFFER_COMPLETE = 105,
	NVSP_REVOKE_SEND_BUFFER = 106,
	NVSP_SEND_RNDIS_PACKET = 107,
	NVSP_SEND_RNDIS_PACKET_COMPLETE = 108,
	NVSP_SEND_NDIS_CONFIG = 125, /* from version 2 on */
	NVSP_SEND_VF_ASSOCIATION = 128,
	NVSP_SWITCH_DATA_PATH = 129,
	NVSP_SUBCHANNEL = 133, /* from version 5 on */
	NVSP_SEND_INDIRECTION_TABLE = 134,
};

enum nvsp_status {
	NVSP_STATUS_NONE = 0,
	NVSP_STATUS_SUCCESS = 1,
	NVSP_STATUS_FAIL = 2,
	NVSP_STATUS_TOO_NEW = 3,
	NVSP_STATUS_TOO_OLD = 4,
	NVSP_STATUS_BAD_RNDIS_PACKET = 5,
	NVSP_STATUS_BUSY = 6,
	NVSP_STATUS_UNSUPPORTED = 7,
};

struct nvsp_init {
	uint32_t type, min_version, max_version;
} __attribute__((packed));

struct nvsp_init_complete {
	uint32_t type, negotiated_version, max_mdl_chain_length, status;
} __attribute__((packed));

struct nvsp_ndis_version {
	uint32_t type, major, minor;
} __attribute__((packed));

/* Types 101 and 104: the buffer's GPADL and the page set id that names it from now on. */
struct nvsp_send_buffer {
	uint32_t type, gpadl;
	uint16_t id;
} __attribute__((packed));

struct nvsp_receive_buffer_complete {
	uint32_t type, status, section_count;
	struct {
		uint32_t offset, suballocation_bytes, suballocation_count, end_offset;
	} __attribute__((packed)) section;
} __attribute__((packed));

struct nvsp_send_buffer_complete {
	uint32_t type, status, section_bytes;
} __attribute__((packed));

#define NVSP_CHANNEL_DATA    0
#define NVSP_CHANNEL_CONTROL 1
#define NVSP_NO_SECTION      0xFFFFFFFFu
struct nvsp_rndis_packet {
	uint32_t type, channel, section_index, section_bytes;
} __attribute__((packed));

struct nvsp_rndis_packet_complete {
	uint32_t type, status;
} __attribute__((packed));

#define NVSP_CAPABILITY_VLAN 0x08u
#define NVSP_CAPABILITY_RSC  0x80u
struct nvsp_ndis_config {
	uint32_t type, mtu /* with the Ethernet header */, reserved;
	uint64_t capabilities;
} __attribute__((packed));

struct nvsp_switch_data_path {
	uint32_t type, path; /* 0 synthetic, 1 VF */
} __attribute__((packed));

#define NVSP_SUBCHANNEL_ALLOCATE 1
struct nvsp_subchannel {
	uint32_t type, operation, count;
} __attribute__((packed));

struct nvsp_subchannel_complete {
	uint32_t type, status, count;
} __attribute__((packed));

#define NVSP_INDIRECTION_ENTRIES 16
struct nvsp_indirection_table {
	uint32_t type, count, offset; /* offset counts from the start of the message */
	uint32_t entries[NVSP_INDIRECTION_ENTRIES];
} __attribute__((packed));

_Static_assert(sizeof(struct nvsp_receive_buffer_complete) == 28, "NVSP layout");
_Static_assert(sizeof(struct nvsp_ndis_config) == 20, "NVSP layout");

#endif
