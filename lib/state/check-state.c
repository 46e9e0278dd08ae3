#include "state/check-state.h"

#include "base/macros.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS   50
#define MAX_LIST 7

__attribute__((format(printf, 2, 3), noreturn)) static void fail(const struct state_desc *desc,
								 const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "state '%s': ", desc->name);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	abort();
}

static uint64_t next_random(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

/* ---- the table ---- */

static void cover(const struct state_desc *desc, const struct state_field *field, uint8_t *covered,
		  size_t offset, size_t len)
{
	for (size_t i = offset; i < offset + len; i++) {
		if (i >= desc->size)
			fail(desc, "field '%s' ends beyond the struct", field->name);
		if (covered[i]++)
			fail(desc, "field '%s' overlaps another one", field->name);
	}
}

static void check_table(const struct state_desc *desc, const uint8_t *padding)
{
	AUTO_FREE uint8_t *covered = calloc(1, desc->size);

	for (const struct state_field *f = desc->fields; f->tag; f++) {
		cover(desc, f, covered, f->offset,
		      f->list ? sizeof(void *) : (size_t)f->count * f->elem_bytes);
		if (f->list)
			cover(desc, f, covered, f->count_offset, 4);
		for (const struct state_field *g = desc->fields; g < f; g++)
			if (g->tag == f->tag)
				fail(desc, "'%s' and '%s' have one tag", g->name, f->name);
		if (f->kind == STATE_STRUCT && f->desc->size != f->elem_bytes)
			fail(desc, "field '%s' and its description differ in size", f->name);
		if (f->clock && (f->elem_bytes != 8 || f->kind != STATE_UINT))
			fail(desc, "field '%s' can't be a moment", f->name);
	}
	for (size_t i = 0; i < desc->size; i++)
		if (!covered[i] && !padding[i])
			fail(desc, "byte %zu is no field's", i);
}

/* ---- round trips ---- */

static void fill(const struct state_desc *desc, uint8_t *object);

static void fill_element(const struct state_field *f, uint8_t *p)
{
	uint64_t value = next_random();

	if (f->kind == STATE_STRUCT) {
		fill(f->desc, p);
		return;
	}
	if (f->kind == STATE_BOOL)
		value &= 1;
	else if (f->max && f->max < UINT64_MAX)
		value %= f->max + 1;
	memcpy(p, &value, f->elem_bytes);
}

static void fill(const struct state_desc *desc, uint8_t *object)
{
	for (const struct state_field *f = desc->fields; f->tag; f++) {
		uint32_t count = f->count;
		uint8_t *p = object + f->offset;

		if (f->list) {
			count = (uint32_t)(next_random() % MIN(f->max_count + 1, MAX_LIST));
			p = calloc(count + 1, f->elem_bytes);
			memcpy(object + f->offset, &p, sizeof(p));
			memcpy(object + f->count_offset, &count, sizeof(count));
		}
		for (uint32_t i = 0; i < count; i++)
			fill_element(f, p + i * f->elem_bytes);
	}
}

static bool same(const struct state_desc *desc, const uint8_t *a, const uint8_t *b);

static bool same_elements(const struct state_field *f, const uint8_t *a, const uint8_t *b,
			  uint32_t count)
{
	if (f->kind != STATE_STRUCT)
		return count == 0 || memcmp(a, b, (size_t)count * f->elem_bytes) == 0;
	for (uint32_t i = 0; i < count; i++)
		if (!same(f->desc, a + i * f->elem_bytes, b + i * f->elem_bytes))
			return false;
	return true;
}

static bool same(const struct state_desc *desc, const uint8_t *a, const uint8_t *b)
{
	for (const struct state_field *f = desc->fields; f->tag; f++) {
		const uint8_t *pa = a + f->offset, *pb = b + f->offset;
		uint32_t count = f->count, other;

		if (f->list) {
			memcpy(&pa, a + f->offset, sizeof(pa));
			memcpy(&pb, b + f->offset, sizeof(pb));
			memcpy(&count, a + f->count_offset, sizeof(count));
			memcpy(&other, b + f->count_offset, sizeof(other));
			if (count != other)
				return false;
		}
		if (!same_elements(f, pa, pb, count))
			return false;
	}
	return true;
}

static void round_trip(const struct state_desc *desc)
{
	AUTO_FREE uint8_t *object = calloc(1, desc->size), *back = calloc(1, desc->size);
	struct state_out *out = state_out_new(1000);
	struct state_in *in = NULL;
	const uint8_t *bytes;
	struct error err;
	size_t size;
	int rc;

	fill(desc, object);
	state_put(out, desc, "one", object);
	if (state_out_bytes(out, &bytes, &size, &err) < 0 ||
	    state_in_new(bytes, size, 1000, &in, &err) < 0)
		fail(desc, "%s", err.text);
	rc = state_get(in, desc, "one", back, &err);
	/* A random state is often impossible; that is for check to say, and for it alone. */
	if (rc < 0 && !desc->check)
		fail(desc, "%s", err.text);
	if (rc == 0 && !same(desc, object, back))
		fail(desc, "came back different");
	if (rc == 0)
		state_clear(desc, back);
	state_clear(desc, object);
	state_in_free(in);
	state_out_free(out);
}

void state_check_desc(const struct state_desc *desc, const uint8_t *padding)
{
	check_table(desc, padding);
	for (unsigned i = 0; i < ROUNDS; i++)
		round_trip(desc);
}
