#include "track-json.h"

#include "base/macros.h"

#include <string.h>

/* As many as a message surely holds. */
#define MAX_RANGES 2000u

int track_json_point(const json_t *params, struct guid *ret, struct error *err)
{
	const char *text = json_string_value(json_object_get(params, "point"));

	if (!text || !guid_parse(text, ret))
		return error_set(err, ERR_INVALID, "'point' is not a GUID");
	return 0;
}

static json_t *point_json(const struct track_point *point)
{
	char text[GUID_TEXT_SIZE];

	return json_pack("{s:s, s:I}", "point", guid_format(&point->id, text), "time",
			 (json_int_t)point->time);
}

static int mark(struct blk *tracked, const json_t *params, json_t **ret, struct error *err)
{
	struct track_point points[TRACK_MAX_POINTS];
	struct guid id;
	int r = track_mark(tracked, &id, err);

	if (r == 0)
		*ret = point_json(&points[track_points(tracked, points) - 1]);
	return r;
}

static int forget(struct blk *tracked, const json_t *params, json_t **ret, struct error *err)
{
	struct guid id;
	int r = track_json_point(params, &id, err);

	return r < 0 ? r : track_forget(tracked, &id, err);
}

static int points(struct blk *tracked, const json_t *params, json_t **ret, struct error *err)
{
	struct track_point points[TRACK_MAX_POINTS];
	unsigned count = track_points(tracked, points);
	json_t *list;

	if (!track_running(tracked))
		return error_set(err, ERR_STATE, "changes of the disk are not tracked");
	list = json_array();
	for (unsigned i = 0; i < count; i++)
		json_array_append_new(list, point_json(&points[i]));
	*ret = json_pack("{s:o}", "points", list);
	return 0;
}

struct listing {
	json_t *ranges;
	uint64_t from, next; /* next 0: no more */
};

static int add_range(void *user, uint64_t offset, uint64_t length)
{
	struct listing *listing = user;
	uint64_t end = offset + length;

	offset = MAX(offset, listing->from);
	if (offset >= end)
		return 0;
	if (json_array_size(listing->ranges) == MAX_RANGES) {
		listing->next = offset;
		return -ERR_LIMIT;
	}
	json_array_append_new(listing->ranges,
			      json_pack("[I, I]", (json_int_t)offset, (json_int_t)(end - offset)));
	return 0;
}

static int changes(struct blk *tracked, const json_t *params, json_t **ret, struct error *err)
{
	json_int_t from = json_integer_value(json_object_get(params, "from"));
	struct listing listing = { .ranges = json_array(), .from = from > 0 ? (uint64_t)from : 0 };
	struct guid id;
	int r = track_json_point(params, &id, err);

	if (r == 0)
		r = track_changes(tracked, &id, add_range, &listing, err);
	if (r < 0 && !listing.next) {
		json_decref(listing.ranges);
		return r;
	}
	*ret = json_pack("{s:o}", "ranges", listing.ranges);
	if (listing.next)
		json_object_set_new(*ret, "next", json_integer((json_int_t)listing.next));
	return 0;
}

static const struct {
	const char *op;
	int (*run)(struct blk *tracked, const json_t *params, json_t **ret, struct error *err);
} ops[] = {
	{ "track-mark", mark },
	{ "track-points", points },
	{ "track-forget", forget },
	{ "track-changes", changes },
};

bool track_json_knows(const char *op)
{
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		if (strcmp(ops[i].op, op) == 0)
			return true;
	return false;
}

int track_json_run(struct blk *tracked, const char *op, const json_t *params, json_t **ret,
		   struct error *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		if (strcmp(ops[i].op, op) == 0)
			return ops[i].run(tracked, params, ret, err);
	return error_set(err, ERR_UNSUPPORTED, "there is no operation '%.40s'", op);
}
