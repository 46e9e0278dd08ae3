/* A stream as text. It carries the names of all that is in it, so no table is needed. */
#include "state/state.h"
#include "state/stream.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <inttypes.h>
#include <string.h>

#define MAX_DEPTH 8

static void show_text(const struct stream_text *text, FILE *to)
{
	for (unsigned i = 0; i < text->len; i++)
		fputc(text->chars[i] >= 0x20 && text->chars[i] < 0x7f ? text->chars[i] : '?', to);
}

static void show_number(const struct stream_field *field, const uint8_t *p, FILE *to)
{
	uint64_t value = 0;

	memcpy(&value, p, field->elem_bytes);
	if (field->kind == STATE_INT && field->elem_bytes == 8)
		fprintf(to, " %" PRId64, (int64_t)value);
	else if (field->kind == STATE_BOOL)
		fprintf(to, " %s", value ? "true" : "false");
	else
		fprintf(to, " 0x%" PRIx64, value);
}

static bool show_fields(struct stream *s, unsigned depth, FILE *to);

static bool show_field(struct stream_field *field, unsigned depth, FILE *to)
{
	fprintf(to, "%*s", (int)depth * 2, "");
	show_text(&field->name, to);
	if (field->kind == STATE_STRUCT) {
		fprintf(to, ": %u\n", field->count);
		return depth < MAX_DEPTH && show_fields(&field->payload, depth + 1, to) &&
		       field->payload.at == field->payload.end;
	}
	fputc(':', to);
	if (field->elem_bytes < 1 || field->elem_bytes > 8 ||
	    (uint64_t)field->count * field->elem_bytes !=
		(uint64_t)(field->payload.end - field->payload.at))
		return false;
	for (uint32_t i = 0; i < field->count; i++)
		show_number(field, field->payload.at + (size_t)i * field->elem_bytes, to);
	fputc('\n', to);
	return true;
}

static bool show_fields(struct stream *s, unsigned depth, FILE *to)
{
	struct stream_field field;
	uint16_t count;

	if (!stream_u16(s, &count))
		return false;
	while (count--)
		if (!stream_field(s, &field) || !show_field(&field, depth, to))
			return false;
	return true;
}

static bool show_object(struct stream *s, FILE *to)
{
	struct stream_object object;

	if (!stream_object(s, &object))
		return false;
	show_text(&object.name, to);
	if (object.instance.len) {
		fputc(' ', to);
		show_text(&object.instance, to);
	}
	fputc('\n', to);
	return show_fields(&object.fields, 1, to) && object.fields.at == object.fields.end;
}

int state_show(const uint8_t *bytes, size_t size, FILE *to, struct error *err)
{
	struct stream s = { bytes, bytes + size };
	uint32_t version, count;
	bool ok = stream_head(&s, &version, &count);

	if (!ok)
		return error_set(err, ERR_CORRUPT, "this is no saved state");
	fprintf(to, "configuration version %u.%u\n", version >> 8, version & 0xff);
	while (ok && count--)
		ok = show_object(&s, to);
	return ok ? 0 : error_set(err, ERR_CORRUPT, "the saved state ends too early");
}
