/*
 * Synthetic keyboard and mouse on the wire. The keyboard's messages are plain in-band packets; the
 * mouse speaks HID behind a pipe header. Little-endian.
 */
#ifndef SPEC_INPUT_H
#define SPEC_INPUT_H

#include <stddef.h>
#include <stdint.h>

#define INPUT_PACKED            __attribute__((packed))
#define INPUT_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)

/* ---- keyboard ---- */

#define KEYBOARD_VERSION 0x00010000u

enum keyboard_message {
	KEYBOARD_PROTOCOL_REQUEST = 1,
	KEYBOARD_PROTOCOL_RESPONSE = 2,
	KEYBOARD_EVENT = 3,
	KEYBOARD_LEDS = 4,
};

struct keyboard_protocol { /* types 1 (version) and 2 (bit 0: accepted) */
	uint32_t type;
	uint32_t value;
} INPUT_PACKED;
INPUT_SIZE(keyboard_protocol, 8);

#define KEYBOARD_BREAK 0x2u
#define KEYBOARD_E0    0x4u
#define KEYBOARD_E1    0x8u

struct keyboard_event {
	uint32_t type;
	uint16_t make_code; /* set 1, without the break bit */
	uint16_t reserved;
	uint32_t flags;
} INPUT_PACKED;
INPUT_SIZE(keyboard_event, 12);

/* ---- mouse ---- */

#define MOUSE_VERSION 0x00020000u

enum mouse_message {
	MOUSE_PROTOCOL_REQUEST = 0,
	MOUSE_PROTOCOL_RESPONSE = 1,
	MOUSE_DEVICE_INFO = 2,
	MOUSE_DEVICE_INFO_ACK = 3,
	MOUSE_REPORT = 4,
};

struct mouse_header {
	uint32_t pipe_type;  /* 1 */
	uint32_t pipe_bytes; /* that follow this field */
	uint32_t type;
	uint32_t bytes; /* that follow this field */
} INPUT_PACKED;
INPUT_SIZE(mouse_header, 16);

struct mouse_protocol_request {
	struct mouse_header header;
	uint32_t version;
} INPUT_PACKED;
INPUT_SIZE(mouse_protocol_request, 20);

struct mouse_protocol_response {
	struct mouse_header header;
	uint32_t version;
	uint8_t approved;
} INPUT_PACKED;
INPUT_SIZE(mouse_protocol_response, 21);

/* The report descriptor follows. */
struct mouse_device_info {
	struct mouse_header header;
	uint32_t attributes_bytes; /* 32 */
	uint16_t vendor, product, version;
	uint16_t reserved[11];
	/* HID descriptor (HID 1.11, 6.2.1) */
	uint8_t hid_length, hid_type;
	uint16_t hid_version;
	uint8_t country, descriptor_count, report_type;
	uint16_t report_length;
} INPUT_PACKED;
INPUT_SIZE(mouse_device_info, 57);

struct mouse_report {
	uint8_t buttons; /* bit 0: left, 1: right, 2: middle */
	uint16_t x, y;   /* 0..32767 */
	int16_t wheel;
} INPUT_PACKED;
INPUT_SIZE(mouse_report, 7);

#endif
