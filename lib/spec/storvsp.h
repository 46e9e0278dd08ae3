/*
 * The storage protocol of Hyper-V's synthetic SCSI controller (VSTOR), as public guest drivers
 * speak it over VMBus. All fields are little-endian. A packet's payload is always 64 bytes.
 */
#ifndef SPEC_STORVSP_H
#define SPEC_STORVSP_H

#include "base/guid.h"

#include <stdint.h>

#define STORVSP_CLASS_SCSI                                                                         \
	GUID_INIT(0xba6163d9, 0x04a1, 0x4d29, 0xb6, 0x05, 0x72, 0xe2, 0xff, 0xb1, 0xdc, 0x7f)

enum storvsp_operation {
	STORVSP_COMPLETE_IO = 1,
	STORVSP_REMOVE_DEVICE = 2,
	STORVSP_EXECUTE_SRB = 3,
	STORVSP_RESET_LUN = 4,
	STORVSP_RESET_ADAPTER = 5,
	STORVSP_RESET_BUS = 6,
	STORVSP_BEGIN_INITIALIZATION = 7,
	STORVSP_END_INITIALIZATION = 8,
	STORVSP_QUERY_PROTOCOL_VERSION = 9,
	STORVSP_QUERY_PROPERTIES = 10,
	STORVSP_ENUMERATE_BUS = 11,
	STORVSP_FCHBA_DATA = 12,
	STORVSP_CREATE_SUB_CHANNELS = 13,
};

/* (major << 8) + minor */
#define STORVSP_VERSION_WIN6   0x0200
#define STORVSP_VERSION_WIN7   0x0402
#define STORVSP_VERSION_WIN8   0x0501
#define STORVSP_VERSION_WIN8_1 0x0600
#define STORVSP_VERSION_WIN10  0x0602

#define STORVSP_CDB_BYTES   16
#define STORVSP_SENSE_BYTES 20

/* data_in */
#define STORVSP_WRITE   0
#define STORVSP_READ    1
#define STORVSP_NO_DATA 2

/* srb_status */
#define STORVSP_SRB_SUCCESS         0x01
#define STORVSP_SRB_ERROR           0x04
#define STORVSP_SRB_INVALID_REQUEST 0x06
#define STORVSP_SRB_INVALID_LUN     0x20
#define STORVSP_SRB_AUTOSENSE_VALID 0x80

/* status: the NTSTATUS values that occur */
#define STORVSP_STATUS_SUCCESS              0x00000000u
#define STORVSP_STATUS_UNSUCCESSFUL         0xC0000001u
#define STORVSP_STATUS_INVALID_PARAMETER    0xC000000Du
#define STORVSP_STATUS_INVALID_DEVICE_STATE 0xC0000184u
#define STORVSP_STATUS_REVISION_MISMATCH    0xC0000059u

struct storvsp_srb {
	uint16_t length;
	uint8_t srb_status;
	uint8_t scsi_status;
	uint8_t port, path, target, lun;
	uint8_t cdb_length;
	uint8_t sense_length;
	uint8_t data_in;
	uint8_t reserved;
	uint32_t data_transfer_length;
	union {
		uint8_t cdb[STORVSP_CDB_BYTES];
		uint8_t sense[STORVSP_SENSE_BYTES];
	};
	uint16_t reserve;
	uint8_t queue_tag, queue_action;
	uint32_t srb_flags;
	uint32_t timeout;
	uint32_t queue_sort_key;
} __attribute__((packed));
_Static_assert(sizeof(struct storvsp_srb) == 52, "SRB");

struct storvsp_properties {
	uint32_t reserved;
	uint16_t max_channel_count; /* sub-channels */
	uint16_t reserved2;
	uint32_t flags;
	uint32_t max_transfer_bytes;
	uint64_t reserved3;
} __attribute__((packed));
#define STORVSP_MULTI_CHANNEL 0x1u

struct storvsp_packet {
	uint32_t operation;
	uint32_t flags;
	uint32_t status;
	union {
		struct storvsp_srb srb;
		struct storvsp_properties properties;
		struct {
			uint16_t version;
			uint16_t revision;
		};
		uint16_t sub_channel_count;
		uint8_t bytes[52];
	};
} __attribute__((packed));
_Static_assert(sizeof(struct storvsp_packet) == 64, "packet");

/* Before Windows 8 packets ended 14 bytes earlier (padded to 8): nothing of it is needed. */
#define STORVSP_MIN_REQUEST_BYTES 48u

#endif
