/* Saving: objects into a growing stream. */
#include "state/state.h"
#include "state/stream.h"

#include "base/bytes.h"
#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

struct state_out {
	uint8_t *bytes;
	size_t size, capacity;
	uint64_t now_ns;
	uint32_t objects;
	bool no_memory, too_long;
};

/* ---- the buffer ---- */

/* Room for len more bytes, counted as used; NULL without memory. */
static uint8_t *grow(struct state_out *out, size_t len)
{
	size_t wanted = out->size + len;

	if (wanted > out->capacity) {
		size_t capacity = MAX(wanted, out->capacity * 2);
		uint8_t *bytes = realloc(out->bytes, capacity);

		if (!bytes) {
			out->no_memory = true;
			return NULL;
		}
		out->bytes = bytes;
		out->capacity = capacity;
	}
	out->size = wanted;
	return out->bytes + wanted - len;
}

static void put_bytes(struct state_out *out, const void *bytes, size_t len)
{
	uint8_t *to = grow(out, len);

	if (to && len)
		memcpy(to, bytes, len);
}

static void put_number(struct state_out *out, uint64_t value, unsigned bytes)
{
	uint8_t le[8];

	store_le64(le, value);
	put_bytes(out, le, bytes);
}

static void put_text(struct state_out *out, const char *text)
{
	size_t len = MIN(strlen(text), (size_t)STREAM_TEXT_MAX);

	put_number(out, len, 1);
	put_bytes(out, text, len);
}

/* A length in front of what follows: filled in once that is known. */
static size_t begin_part(struct state_out *out)
{
	put_number(out, 0, 4);
	return out->size;
}

/* skip: bytes behind the length that don't count. */
static void end_part(struct state_out *out, size_t start, size_t skip)
{
	size_t len = out->size - start - skip;

	if (len > UINT32_MAX)
		out->too_long = true;
	else if (!out->no_memory)
		store_le32(out->bytes + start - 4, (uint32_t)len);
}

/* ---- fields ---- */

/* The structs whose fields are put, one behind the other in an array. */
struct structs {
	const uint8_t *const *at;
	size_t count;
};

static uint64_t load(const uint8_t *from, unsigned bytes)
{
	uint64_t value = 0;

	memcpy(&value, from, bytes); /* this code runs on little-endian machines only */
	return value;
}

static const uint8_t *elements_of(const struct state_field *field, const uint8_t *object)
{
	const uint8_t *p = object + field->offset;

	if (field->list)
		memcpy(&p, object + field->offset, sizeof(p));
	return p;
}

static uint32_t count_of(const struct state_field *field, const uint8_t *object)
{
	return field->list ? (uint32_t)load(object + field->count_offset, 4) : field->count;
}

static void put_numbers(struct state_out *out, const struct state_field *field,
			const struct structs *structs, uint32_t count)
{
	for (size_t i = 0; i < structs->count; i++) {
		const uint8_t *p = elements_of(field, structs->at[i]);

		if (!field->clock) {
			put_bytes(out, p, (size_t)count * field->elem_bytes);
			continue;
		}
		for (uint32_t k = 0; k < count; k++)
			put_number(out, load(p + 8 * k, 8) - out->now_ns, 8);
	}
}

static void put_fields(struct state_out *out, const struct state_desc *desc,
		       const struct structs *structs);

static void put_structs(struct state_out *out, const struct state_field *field,
			const struct structs *structs, uint32_t count)
{
	size_t total = structs->count * count;
	AUTO_FREE const uint8_t **at = malloc((total ? total : 1) * sizeof(*at));
	struct structs inner = { at, total };

	if (!at) {
		out->no_memory = true;
		return;
	}
	for (size_t i = 0; i < total; i++)
		at[i] = elements_of(field, structs->at[i / count]) + i % count * field->elem_bytes;
	put_fields(out, field->desc, &inner);
}

static void put_field(struct state_out *out, const struct state_field *field,
		      const struct structs *structs)
{
	uint32_t count = structs->count ? count_of(field, structs->at[0]) : field->count;
	enum state_kind kind = field->clock ? STATE_INT : field->kind;
	size_t start, name;

	put_number(out, field->tag, 2);
	put_number(out, kind | (field->optional ? STREAM_OPTIONAL : 0), 1);
	put_number(out, kind == STATE_STRUCT ? 0 : field->elem_bytes, 1);
	put_number(out, structs->count * count, 4);
	start = begin_part(out);
	put_text(out, field->name);
	name = out->size - start;
	if (kind == STATE_STRUCT)
		put_structs(out, field, structs, count);
	else
		put_numbers(out, field, structs, count);
	/* The length stands before the name, and is of what is behind it. */
	end_part(out, start, name);
}

static void put_fields(struct state_out *out, const struct state_desc *desc,
		       const struct structs *structs)
{
	unsigned count = 0;

	while (desc->fields[count].tag)
		count++;
	put_number(out, count, 2);
	for (unsigned i = 0; i < count && !out->no_memory; i++)
		put_field(out, &desc->fields[i], structs);
}

/* ---- the stream ---- */

struct state_out *state_out_new(uint64_t now_ns)
{
	struct state_out *out = calloc(1, sizeof(*out));

	if (!out)
		return NULL;
	out->now_ns = now_ns;
	put_bytes(out, STREAM_MAGIC, sizeof(STREAM_MAGIC) - 1);
	put_number(out, STATE_VERSION, 4);
	put_number(out, 0, 4);
	return out;
}

void state_out_free(struct state_out *out)
{
	if (!out)
		return;
	free(out->bytes);
	free(out);
}

void state_put(struct state_out *out, const struct state_desc *desc, const char *instance,
	       const void *state)
{
	const uint8_t *at = state;
	struct structs one = { &at, 1 };
	size_t start = begin_part(out);

	put_text(out, desc->name);
	put_text(out, instance ? instance : "");
	put_fields(out, desc, &one);
	end_part(out, start, 0);
	out->objects++;
}

int state_out_bytes(struct state_out *out, const uint8_t **ret, size_t *ret_size, struct error *err)
{
	if (out->no_memory)
		return error_set(err, ERR_NO_MEMORY, "no memory for the state of the devices");
	if (out->too_long)
		return error_set(err, ERR_LIMIT, "the state of a device is too large");
	store_le32(out->bytes + sizeof(STREAM_MAGIC) - 1 + 4, out->objects);
	*ret = out->bytes;
	*ret_size = out->size;
	return 0;
}
