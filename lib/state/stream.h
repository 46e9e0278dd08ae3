/*
 * The stream's format, for lib/state only. All numbers are little-endian.
 *
 *	stream: "OYAKOSTA", version (u32), number of objects (u32), objects
 *	object: bytes behind this field (u32), name, instance, fields
 *	fields: their number (u16), then each: tag (u16), kind (u8, | OPTIONAL), element bytes (u8,
 *		0 for structs), elements (u32), payload bytes (u32), name, payload
 *	text:   length (u8), bytes
 *
 * The payload of numbers is the numbers; of structs, the fields of their description, each with the
 * elements of all structs one after the other: names stand once, however long an array is.
 */
#ifndef STATE_STREAM_H
#define STATE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAM_MAGIC    "OYAKOSTA"
#define STREAM_OPTIONAL 0x80u
#define STREAM_TEXT_MAX 255

struct stream {
	const uint8_t *at, *end;
};

struct stream_text {
	const char *chars;
	uint8_t len;
};

struct stream_field {
	uint16_t tag;
	uint8_t kind; /* enum state_kind */
	bool optional;
	uint8_t elem_bytes;
	uint32_t count;
	struct stream_text name;
	struct stream payload;
};

struct stream_object {
	struct stream_text name, instance;
	struct stream fields;
	bool taken;
};

/* Each takes something off the front; false: the stream is too short. */
bool stream_take(struct stream *s, size_t len, const uint8_t **ret);
bool stream_u16(struct stream *s, uint16_t *ret);
bool stream_u32(struct stream *s, uint32_t *ret);
bool stream_text(struct stream *s, struct stream_text *ret);
bool stream_field(struct stream *s, struct stream_field *ret);
bool stream_object(struct stream *s, struct stream_object *ret);
bool stream_head(struct stream *s, uint32_t *ret_version, uint32_t *ret_count);

#endif
