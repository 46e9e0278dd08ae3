/*
 * VMBus on the wire: channel messages, offers, GPADLs, ring control pages and packet descriptors.
 * Everything is little-endian and packed. No behaviour.
 */
#ifndef SPEC_VMBUS_H
#define SPEC_VMBUS_H

#include "base/guid.h"

#include <stddef.h>
#include <stdint.h>

#define VMBUS_SPEC_PACKED            __attribute__((packed))
#define VMBUS_SPEC_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#define VMBUS_SPEC_AT(type, field, offset)                                                         \
	_Static_assert(offsetof(struct type, field) == (offset), #type "." #field)

/* ---- transport ---- */

#define VMBUS_MESSAGE_TYPE       1 /* of the SynIC message and of HvPostMessage */
#define VMBUS_SINT               2
#define VMBUS_CONNECTION_MESSAGE 1      /* HvPostMessage */
#define VMBUS_CONNECTION_EVENT   2      /* HvSignalEvent of the shared interrupt page */
#define VMBUS_CONNECTION_CONTACT 4      /* INITIATE_CONTACT of 5.0 and later */
#define VMBUS_CONNECTION_CHANNEL 0x2000 /* plus the relid: HvSignalEvent of a channel */

#define VMBUS_MAX_RELID 2047 /* 0 is not a channel */
#define VMBUS_NO_VP     0xFFFFFFFFu

#define VMBUS_VERSION(major, minor) (((uint32_t)(major) << 16) | (minor))
#define VMBUS_VERSION_0_13          VMBUS_VERSION(0, 13)
#define VMBUS_VERSION_1_1           VMBUS_VERSION(1, 1)
#define VMBUS_VERSION_2_4           VMBUS_VERSION(2, 4)
#define VMBUS_VERSION_3_0           VMBUS_VERSION(3, 0)
#define VMBUS_VERSION_4_0           VMBUS_VERSION(4, 0)
#define VMBUS_VERSION_4_1           VMBUS_VERSION(4, 1)
#define VMBUS_VERSION_5_0           VMBUS_VERSION(5, 0)
#define VMBUS_VERSION_5_1           VMBUS_VERSION(5, 1)
#define VMBUS_VERSION_5_2           VMBUS_VERSION(5, 2)
#define VMBUS_VERSION_5_3           VMBUS_VERSION(5, 3)

/* The interrupt page of versions before 2.4: one bit per relid in each half. */
#define VMBUS_INTERRUPT_TO_GUEST 0x000
#define VMBUS_INTERRUPT_TO_HOST  0x800
#define VMBUS_INTERRUPT_BYTES    0x800

/* ---- channel messages ---- */

enum vmbus_spec_msg_type {
	VMBUS_MSG_OFFERCHANNEL = 1,
	VMBUS_MSG_RESCIND = 2,
	VMBUS_MSG_REQUESTOFFERS = 3,
	VMBUS_MSG_ALLOFFERS_DELIVERED = 4,
	VMBUS_MSG_OPENCHANNEL = 5,
	VMBUS_MSG_OPENCHANNEL_RESULT = 6,
	VMBUS_MSG_CLOSECHANNEL = 7,
	VMBUS_MSG_GPADL_HEADER = 8,
	VMBUS_MSG_GPADL_BODY = 9,
	VMBUS_MSG_GPADL_CREATED = 10,
	VMBUS_MSG_GPADL_TEARDOWN = 11,
	VMBUS_MSG_GPADL_TORNDOWN = 12,
	VMBUS_MSG_RELID_RELEASED = 13,
	VMBUS_MSG_INITIATE_CONTACT = 14,
	VMBUS_MSG_VERSION_RESPONSE = 15,
	VMBUS_MSG_UNLOAD = 16,
	VMBUS_MSG_UNLOAD_RESPONSE = 17,
	VMBUS_MSG_TL_CONNECT_REQUEST = 21,
	VMBUS_MSG_MODIFYCHANNEL = 22,
	VMBUS_MSG_TL_CONNECT_RESULT = 23,
	VMBUS_MSG_MODIFYCHANNEL_RESPONSE = 24,
};

#define VMBUS_MSG_MAX 240

struct vmbus_spec_header {
	uint32_t type;
	uint32_t padding;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_header, 8);

#define VMBUS_USER_DEFINED_BYTES 120
#define VMBUS_PIPE_TYPE_BYTE     0 /* u32 at the start of user_defined with NAMED_PIPE_MODE */
#define VMBUS_PIPE_TYPE_MESSAGE  4

struct vmbus_spec_offer {
	struct vmbus_spec_header header;
	struct guid class_id;
	struct guid instance_id;
	uint8_t reserved[16];
	uint16_t flags;
	uint16_t mmio_megabytes;
	uint8_t user_defined[VMBUS_USER_DEFINED_BYTES];
	uint16_t subchannel_index;
	uint16_t reserved2;
	uint32_t relid;
	uint8_t monitor_id;
	uint8_t monitor_allocated;
	uint16_t dedicated_interrupt;
	uint32_t connection_id;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_offer, 196);
VMBUS_SPEC_AT(vmbus_spec_offer, flags, 56);
VMBUS_SPEC_AT(vmbus_spec_offer, subchannel_index, 180);
VMBUS_SPEC_AT(vmbus_spec_offer, connection_id, 192);

#define VMBUS_NO_MONITOR 0xFF

/* RESCIND, CLOSECHANNEL, RELID_RELEASED */
struct vmbus_spec_relid {
	struct vmbus_spec_header header;
	uint32_t relid;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_relid, 12);

struct vmbus_spec_open {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t open_id;
	uint32_t ring_gpadl;
	uint32_t target_vp;
	uint32_t downstream_page_offset;
	uint8_t user_data[VMBUS_USER_DEFINED_BYTES];
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_open, 148);

struct vmbus_spec_open_result {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t open_id;
	uint32_t status;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_open_result, 20);

struct vmbus_spec_gpadl_header {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t gpadl;
	uint16_t range_buflen;
	uint16_t range_count;
	uint32_t byte_count; /* of the first range; its PFNs follow */
	uint32_t byte_offset;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpadl_header, 28);

struct vmbus_spec_gpadl_body {
	struct vmbus_spec_header header;
	uint32_t message_number;
	uint32_t gpadl;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpadl_body, 16);

struct vmbus_spec_gpadl_created {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t gpadl;
	uint32_t status;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpadl_created, 20);

struct vmbus_spec_gpadl_teardown {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t gpadl;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpadl_teardown, 16);

struct vmbus_spec_gpadl_torndown {
	struct vmbus_spec_header header;
	uint32_t gpadl;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpadl_torndown, 12);

struct vmbus_spec_initiate_contact {
	struct vmbus_spec_header header;
	uint32_t version;
	uint32_t target_vp;
	union {
		uint64_t interrupt_page; /* before 5.0 */
		struct {
			uint8_t msg_sint;
			uint8_t msg_vtl;
			uint16_t reserved;
			uint32_t feature_flags;
		} VMBUS_SPEC_PACKED;
	};
	uint64_t monitor_page1;
	uint64_t monitor_page2;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_initiate_contact, 40);
VMBUS_SPEC_AT(vmbus_spec_initiate_contact, interrupt_page, 16);

struct vmbus_spec_version_response {
	struct vmbus_spec_header header;
	uint8_t version_supported;
	uint8_t connection_state;
	uint16_t reserved;
	uint32_t connection_id_or_version; /* the connection id from 5.0 on, the version before */
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_version_response, 16);

struct vmbus_spec_modify_channel {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t target_vp;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_modify_channel, 16);

struct vmbus_spec_modify_channel_response {
	struct vmbus_spec_header header;
	uint32_t relid;
	uint32_t status;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_modify_channel_response, 16);

struct vmbus_spec_tl_connect_request {
	struct vmbus_spec_header header;
	struct guid endpoint_id;
	struct guid service_id;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_tl_connect_request, 40);

struct vmbus_spec_tl_connect_result {
	struct vmbus_spec_header header;
	struct guid endpoint_id;
	struct guid service_id;
	uint32_t status;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_tl_connect_result, 44);

/* NTSTATUS values in replies */
#define VMBUS_STATUS_SUCCESS                0u
#define VMBUS_STATUS_UNSUCCESSFUL           0xC0000001u
#define VMBUS_STATUS_INVALID_PARAMETER      0xC000000Du
#define VMBUS_STATUS_INSUFFICIENT_RESOURCES 0xC000009Au
#define VMBUS_STATUS_CONNECTION_REFUSED     0xC0000236u

/* ---- rings ---- */

#define VMBUS_PAGE_BYTES 4096u

struct vmbus_spec_ring_control {
	uint32_t write_index;
	uint32_t read_index;
	uint32_t interrupt_mask;
	uint32_t pending_send_size;
	uint32_t reserved[12];
	uint32_t feature_bits;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_AT(vmbus_spec_ring_control, feature_bits, 64);

#define VMBUS_RING_FEATURE_PENDING_SIZE 0x1u

struct vmbus_spec_descriptor {
	uint16_t type;
	uint16_t data_offset8; /* in units of 8 bytes */
	uint16_t length8;
	uint16_t flags;
	uint64_t transaction_id;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_descriptor, 16);

#define VMBUS_DESCRIPTOR_COMPLETION_REQUESTED 0x1
#define VMBUS_TRAILER_BYTES                   8u

struct vmbus_spec_gpa_direct {
	struct vmbus_spec_descriptor descriptor;
	uint32_t reserved;
	uint32_t range_count;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpa_direct, 24);

/* Header of each range; ceil((offset + count) / 4096) u64 PFNs follow. */
struct vmbus_spec_gpa_range {
	uint32_t byte_count;
	uint32_t byte_offset;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_gpa_range, 8);

struct vmbus_spec_xfer_pages {
	struct vmbus_spec_descriptor descriptor;
	uint16_t page_set_id;
	uint8_t sender_owns_set;
	uint8_t reserved;
	uint32_t range_count;
} VMBUS_SPEC_PACKED;
VMBUS_SPEC_SIZE(vmbus_spec_xfer_pages, 24);

#endif
