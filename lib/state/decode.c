/* Restoring: a hostile stream into structs, by their tables. */
#include "state/state.h"
#include "state/stream.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Structs in structs in structs: more is no table of ours. */
#define MAX_DEPTH 8

struct state_in {
	uint32_t version;
	uint64_t now_ns;
	uint32_t count;
	struct stream_object *objects;
};

/* What is being decoded, for the texts of errors. */
struct context {
	const struct state_in *in;
	const struct state_desc *object;
	const char *instance;
	struct error *err;
};

__attribute__((format(printf, 3, 4))) static int refuse(const struct context *c, const char *field,
							const char *fmt, ...)
{
	char why[160];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	return error_set(c->err, ERR_CORRUPT, "state of '%s'%s%s%s%s%s: %s", c->object->name,
			 c->instance ? " " : "", c->instance ? c->instance : "",
			 field ? ", field '" : "", field ? field : "", field ? "'" : "", why);
}

/* ---- the outline ---- */

static int read_outline(struct state_in *in, struct stream s, struct error *err)
{
	for (uint32_t i = 0; i < in->count; i++)
		if (!stream_object(&s, &in->objects[i]))
			return error_set(err, ERR_CORRUPT, "the saved state ends too early");
	if (s.at != s.end)
		return error_set(err, ERR_CORRUPT, "the saved state is longer than it says");
	return 0;
}

int state_in_new(const uint8_t *bytes, size_t size, uint64_t now_ns, struct state_in **ret,
		 struct error *err)
{
	struct stream s = { bytes, bytes + size };
	struct state_in *in;
	uint32_t version, count;
	int rc;

	if (!stream_head(&s, &version, &count))
		return error_set(err, ERR_CORRUPT, "this is no saved state");
	if (version > STATE_VERSION)
		return error_set(err, ERR_UNSUPPORTED,
				 "the saved state is of configuration version %u.%u; this service "
				 "knows up to %u.%u",
				 version >> 8, version & 0xff, STATE_VERSION >> 8,
				 STATE_VERSION & 0xff);
	if (count > size / 8)
		return error_set(err, ERR_CORRUPT, "the saved state ends too early");
	in = calloc(1, sizeof(*in));
	if (in)
		in->objects = calloc(count + 1, sizeof(*in->objects));
	if (!in || !in->objects) {
		free(in);
		return error_set(err, ERR_NO_MEMORY, "no memory for a saved state");
	}
	in->version = version;
	in->now_ns = now_ns;
	in->count = count;
	rc = read_outline(in, s, err);
	if (rc < 0) {
		state_in_free(in);
		return rc;
	}
	*ret = in;
	return 0;
}

void state_in_free(struct state_in *in)
{
	if (!in)
		return;
	free(in->objects);
	free(in);
}

static bool text_is(const struct stream_text *text, const char *wanted)
{
	return strlen(wanted) == text->len && memcmp(text->chars, wanted, text->len) == 0;
}

static struct stream_object *find(const struct state_in *in, const char *name, const char *instance)
{
	for (uint32_t i = 0; i < in->count; i++)
		if (text_is(&in->objects[i].name, name) &&
		    text_is(&in->objects[i].instance, instance ? instance : ""))
			return &in->objects[i];
	return NULL;
}

bool state_has(const struct state_in *in, const char *name, const char *instance)
{
	return find(in, name, instance) != NULL;
}

int state_in_finish(const struct state_in *in, struct error *err)
{
	for (uint32_t i = 0; i < in->count; i++) {
		const struct stream_object *o = &in->objects[i];

		if (!o->taken)
			return error_set(err, ERR_UNSUPPORTED,
					 "the saved state has a '%.*s'%s%.*s, which this virtual "
					 "machine has not",
					 o->name.len, o->name.chars, o->instance.len ? " " : "",
					 o->instance.len, o->instance.chars);
	}
	return 0;
}

/* ---- fields ---- */

struct structs {
	uint8_t *const *at;
	size_t count;
};

static void store(uint8_t *to, uint64_t value, unsigned bytes)
{
	memcpy(to, &value, bytes);
}

/* The element k of a field of one struct. */
static uint8_t *element(const struct state_field *field, uint8_t *object, size_t k)
{
	uint8_t *p = object + field->offset;

	if (field->list)
		memcpy(&p, object + field->offset, sizeof(p));
	return p + k * field->elem_bytes;
}

static int take_number(const struct context *c, const struct state_field *field,
		       const uint8_t *from, uint8_t *to)
{
	uint64_t value = 0;

	memcpy(&value, from, field->elem_bytes);
	if (field->clock)
		value += c->in->now_ns;
	else if (field->kind == STATE_BOOL && value > 1)
		return refuse(c, field->name, "%" PRIu64 " is no truth value", value);
	else if (field->max && value > field->max)
		return refuse(c, field->name, "%" PRIu64 " is more than %" PRIu64, value,
			      field->max);
	store(to, value, field->elem_bytes);
	return 0;
}

static int take_numbers(const struct context *c, const struct state_field *field,
			const struct stream_field *from, const struct structs *structs,
			uint32_t count)
{
	const uint8_t *p = from->payload.at;

	if ((uint64_t)from->count * field->elem_bytes != (uint64_t)(from->payload.end - p))
		return refuse(c, field->name, "its length is not that of %u elements", from->count);
	for (size_t i = 0; i < structs->count; i++)
		for (uint32_t k = 0; k < count; k++, p += field->elem_bytes) {
			int rc = take_number(c, field, p, element(field, structs->at[i], k));

			if (rc < 0)
				return rc;
		}
	return 0;
}

static int take_fields(const struct context *c, const struct state_desc *desc, struct stream *s,
		       const struct structs *structs, unsigned depth);

static int take_structs(const struct context *c, const struct state_field *field,
			const struct stream_field *from, const struct structs *structs,
			uint32_t count, unsigned depth)
{
	struct stream payload = from->payload;
	size_t total = structs->count * count;
	AUTO_FREE uint8_t **at = malloc((total ? total : 1) * sizeof(*at));
	struct structs inner = { at, total };
	int rc;

	if (!at)
		return error_set(c->err, ERR_NO_MEMORY, "no memory for a saved state");
	if (depth == MAX_DEPTH)
		return refuse(c, field->name, "it is nested too deeply");
	for (size_t i = 0; i < total; i++)
		at[i] = element(field, structs->at[i / count], i % count);
	rc = take_fields(c, field->desc, &payload, &inner, depth + 1);
	if (rc == 0 && payload.at != payload.end)
		return refuse(c, field->name, "it is longer than it says");
	return rc;
}

/* The count of a list is known only now: its memory. Bounded by the bytes that are really there. */
static int make_list(const struct context *c, const struct state_field *field,
		     const struct stream_field *from, uint8_t *object)
{
	void *list;

	if (from->count > field->max_count)
		return refuse(c, field->name, "%u elements, of at most %u", from->count,
			      field->max_count);
	list = calloc((size_t)from->count + 1, field->elem_bytes);
	if (!list)
		return error_set(c->err, ERR_NO_MEMORY, "no memory for a saved state");
	memcpy(object + field->offset, &list, sizeof(list));
	memcpy(object + field->count_offset, &from->count, sizeof(from->count));
	return 0;
}

static int take_field(const struct context *c, const struct state_field *field,
		      const struct stream_field *from, const struct structs *structs,
		      unsigned depth)
{
	enum state_kind kind = field->clock ? STATE_INT : field->kind;
	uint32_t count = field->list ? from->count : field->count;
	int rc = 0;

	if (from->kind != kind || (kind != STATE_STRUCT && from->elem_bytes != field->elem_bytes))
		return refuse(c, field->name, "it is of another kind");
	if ((uint64_t)count * structs->count != from->count)
		return refuse(c, field->name, "%u elements instead of %zu", from->count,
			      count * structs->count);
	if (field->list)
		rc = make_list(c, field, from, structs->at[0]);
	if (rc < 0)
		return rc;
	if (kind == STATE_STRUCT)
		return take_structs(c, field, from, structs, count, depth);
	return take_numbers(c, field, from, structs, count);
}

static void set_default(const struct state_field *field, const struct structs *structs)
{
	for (size_t i = 0; i < structs->count && !field->list; i++)
		for (uint32_t k = 0; k < field->count && field->kind != STATE_STRUCT; k++)
			store(element(field, structs->at[i], k), field->dflt, field->elem_bytes);
}

#define MAX_FIELDS 256

static int find_field(const struct state_desc *desc, uint16_t tag)
{
	for (int i = 0; desc->fields[i].tag; i++)
		if (desc->fields[i].tag == tag)
			return i;
	return -1;
}

static int take_fields(const struct context *c, const struct state_desc *desc, struct stream *s,
		       const struct structs *structs, unsigned depth)
{
	bool seen[MAX_FIELDS] = { false };
	struct stream_field from;
	uint16_t count;
	int rc, at;

	if (!stream_u16(s, &count))
		return refuse(c, NULL, "it ends too early");
	while (count--) {
		if (!stream_field(s, &from) || !from.tag)
			return refuse(c, NULL, "it ends too early");
		at = find_field(desc, from.tag);
		if (at < 0 && from.optional)
			continue;
		if (at < 0)
			return refuse(c, NULL, "the field '%.*s' (%u of '%s') is not known",
				      from.name.len, from.name.chars, from.tag, desc->name);
		if (seen[at])
			return refuse(c, desc->fields[at].name, "it is there twice");
		seen[at] = true;
		rc = take_field(c, &desc->fields[at], &from, structs, depth);
		if (rc < 0)
			return rc;
	}
	for (at = 0; desc->fields[at].tag; at++) {
		const struct state_field *field = &desc->fields[at];

		if (seen[at])
			continue;
		if (field->since <= c->in->version && !field->optional)
			return refuse(c, field->name, "it is missing");
		set_default(field, structs);
	}
	return 0;
}

/* ---- objects ---- */

void state_clear(const struct state_desc *desc, void *state)
{
	for (const struct state_field *field = desc->fields; field->tag; field++) {
		void *list;

		if (!field->list)
			continue;
		memcpy(&list, (uint8_t *)state + field->offset, sizeof(list));
		free(list);
		memset((uint8_t *)state + field->offset, 0, sizeof(list));
		memset((uint8_t *)state + field->count_offset, 0, sizeof(uint32_t));
	}
}

static int decode(const struct context *c, struct stream fields, uint8_t *ret)
{
	struct structs one = { &ret, 1 };
	const char *why;
	int rc = take_fields(c, c->object, &fields, &one, 0);

	if (rc < 0)
		return rc;
	if (fields.at != fields.end)
		return refuse(c, NULL, "it is longer than it says");
	why = c->object->check ? c->object->check(ret) : NULL;
	return why ? refuse(c, NULL, "%s", why) : 0;
}

int state_get(struct state_in *in, const struct state_desc *desc, const char *instance, void *ret,
	      struct error *err)
{
	struct stream_object *object = find(in, desc->name, instance);
	struct context c = { in, desc, instance, err };
	int rc;

	memset(ret, 0, desc->size);
	if (!object)
		return error_set(err, ERR_CORRUPT, "the saved state has no '%s'%s%s", desc->name,
				 instance ? " " : "", instance ? instance : "");
	object->taken = true;
	rc = decode(&c, object->fields, ret);
	if (rc < 0)
		state_clear(desc, ret);
	return rc;
}
