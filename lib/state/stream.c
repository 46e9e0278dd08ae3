#include "state/stream.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <string.h>

bool stream_take(struct stream *s, size_t len, const uint8_t **ret)
{
	if ((size_t)(s->end - s->at) < len)
		return false;
	*ret = s->at;
	s->at += len;
	return true;
}

static bool take_u8(struct stream *s, uint8_t *ret)
{
	const uint8_t *p;

	if (!stream_take(s, 1, &p))
		return false;
	*ret = *p;
	return true;
}

bool stream_u16(struct stream *s, uint16_t *ret)
{
	const uint8_t *p;

	if (!stream_take(s, 2, &p))
		return false;
	*ret = load_le16(p);
	return true;
}

bool stream_u32(struct stream *s, uint32_t *ret)
{
	const uint8_t *p;

	if (!stream_take(s, 4, &p))
		return false;
	*ret = load_le32(p);
	return true;
}

bool stream_text(struct stream *s, struct stream_text *ret)
{
	const uint8_t *p;

	if (!take_u8(s, &ret->len) || !stream_take(s, ret->len, &p))
		return false;
	ret->chars = (const char *)p;
	return true;
}

static bool take_part(struct stream *s, struct stream *ret)
{
	const uint8_t *p;
	uint32_t len;

	if (!stream_u32(s, &len) || !stream_take(s, len, &p))
		return false;
	*ret = (struct stream){ p, p + len };
	return true;
}

bool stream_field(struct stream *s, struct stream_field *ret)
{
	const uint8_t *p;
	uint32_t len;

	if (!stream_u16(s, &ret->tag) || !take_u8(s, &ret->kind) || !take_u8(s, &ret->elem_bytes) ||
	    !stream_u32(s, &ret->count) || !stream_u32(s, &len) || !stream_text(s, &ret->name) ||
	    !stream_take(s, len, &p))
		return false;
	ret->payload = (struct stream){ p, p + len };
	ret->optional = ret->kind & STREAM_OPTIONAL;
	ret->kind &= (uint8_t)~STREAM_OPTIONAL;
	return true;
}

bool stream_object(struct stream *s, struct stream_object *ret)
{
	ret->taken = false;
	return take_part(s, &ret->fields) && stream_text(&ret->fields, &ret->name) &&
	       stream_text(&ret->fields, &ret->instance);
}

bool stream_head(struct stream *s, uint32_t *ret_version, uint32_t *ret_count)
{
	const uint8_t *magic;

	return stream_take(s, sizeof(STREAM_MAGIC) - 1, &magic) &&
	       memcmp(magic, STREAM_MAGIC, sizeof(STREAM_MAGIC) - 1) == 0 &&
	       stream_u32(s, ret_version) && stream_u32(s, ret_count);
}
