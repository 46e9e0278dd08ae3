#include "disk/space.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

static bool test_bit(const uint64_t *map, uint64_t bit)
{
	return map[bit / 64] >> (bit % 64) & 1;
}

static void set_bit(uint64_t *map, uint64_t bit)
{
	map[bit / 64] |= BIT(bit % 64);
}

static void clear_bit(uint64_t *map, uint64_t bit)
{
	map[bit / 64] &= ~BIT(bit % 64);
}

static bool grow_map(uint64_t **map, uint64_t old_words, uint64_t new_words)
{
	uint64_t *bigger = realloc(*map, new_words * sizeof(**map));

	if (!bigger)
		return false;
	memset(bigger + old_words, 0, (new_words - old_words) * sizeof(**map));
	*map = bigger;
	return true;
}

static bool reserve(struct space *space, uint64_t units)
{
	uint64_t old_words = space->capacity_units / 64, words;

	if (units <= space->capacity_units)
		return true;
	words = MAX((units + 63) / 64, old_words * 2);
	if (!grow_map(&space->used, old_words, words) || !grow_map(&space->stale, old_words, words))
		return false;
	space->capacity_units = words * 64;
	return true;
}

bool space_init(struct space *space, uint64_t file_bytes, uint64_t run_bytes)
{
	uint64_t units = (file_bytes + SPACE_UNIT - 1) / SPACE_UNIT;
	uint64_t words = MAX((units + 63) / 64, UINT64_C(1));

	/* calloc: a map of a large file that is never touched costs nothing */
	*space = (struct space){ .run_units = run_bytes / SPACE_UNIT,
				 .used = calloc(words, sizeof(uint64_t)),
				 .stale = calloc(words, sizeof(uint64_t)),
				 .capacity_units = words * 64,
				 .end_units = units,
				 .small_hint = units,
				 .large_hint = units };
	if (!space->used || !space->stale)
		return false;
	memset(space->used, 0xff, units / 64 * 8);
	for (uint64_t unit = ALIGN_DOWN(units, 64); unit < units; unit++)
		set_bit(space->used, unit);
	return true;
}

void space_done(struct space *space)
{
	free(space->used);
	free(space->stale);
	*space = (struct space){ 0 };
}

bool space_claim(struct space *space, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / SPACE_UNIT, count = length / SPACE_UNIT;

	if (!RANGE_OK(first, count, space->end_units))
		return false;
	for (uint64_t unit = first; unit < first + count; unit++)
		if (!test_bit(space->used, unit) || test_bit(space->stale, unit))
			return false;
	for (uint64_t unit = first; unit < first + count; unit++)
		set_bit(space->stale, unit);
	return true;
}

void space_settle(struct space *space)
{
	uint64_t words = (space->end_units + 63) / 64;

	/* unknown (10) becomes free and stale (01) */
	for (uint64_t i = 0; i < words; i++) {
		uint64_t unknown = space->used[i] & ~space->stale[i];

		space->used[i] &= ~unknown;
		space->stale[i] |= unknown;
	}
	space->small_hint = space->large_hint = 0;
}

/* The first free run at or after the hint; it may lie partly or wholly beyond the end. */
static uint64_t find_run(const struct space *space, uint64_t start, uint64_t units)
{
	for (uint64_t unit = start; unit < start + units && unit < space->end_units; unit++)
		if (test_bit(space->used, unit))
			start = unit + 1;
	return start;
}

bool space_alloc(struct space *space, bool large, uint64_t *ret_offset, bool *ret_stale)
{
	uint64_t *hint = large ? &space->large_hint : &space->small_hint;
	uint64_t units = large ? space->run_units : 1;
	uint64_t start = find_run(space, *hint, units), end = start + units;

	if (!reserve(space, end))
		return false;
	*ret_stale = false;
	for (uint64_t unit = start; unit < end; unit++) {
		*ret_stale |= test_bit(space->stale, unit);
		set_bit(space->used, unit);
		set_bit(space->stale, unit);
	}
	space->end_units = MAX(space->end_units, end);
	*hint = end;
	*ret_offset = start * SPACE_UNIT;
	return true;
}

void space_free(struct space *space, uint64_t offset, uint64_t length, bool zeroed)
{
	uint64_t start = offset / SPACE_UNIT, end = start + length / SPACE_UNIT;

	for (uint64_t unit = start; unit < end; unit++) {
		clear_bit(space->used, unit);
		if (zeroed)
			clear_bit(space->stale, unit);
	}
	/* A run may now begin below it. */
	space->small_hint = MIN(space->small_hint, start);
	space->large_hint = MIN(space->large_hint, start - MIN(start, space->run_units - 1));
}

bool space_next_hole(const struct space *space, uint64_t *offset, uint64_t *ret_length)
{
	uint64_t first = *offset / SPACE_UNIT, end;

	while (first < space->end_units && test_bit(space->used, first))
		first++;
	for (end = first; end < space->end_units && !test_bit(space->used, end); end++)
		;
	*offset = first * SPACE_UNIT;
	*ret_length = (end - first) * SPACE_UNIT;
	return end > first;
}

uint64_t space_used_end(const struct space *space)
{
	uint64_t unit = space->end_units;

	while (unit > 0 && !test_bit(space->used, unit - 1))
		unit--;
	return unit * SPACE_UNIT;
}
