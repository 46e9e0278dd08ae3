#include "follow.h"

#include "base/clock.h"
#include "base/macros.h"
#include "cmdlet/cmdlet.h"
#include "door.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_FOLLOWERS     64
#define MAX_BACKLOG_BYTES (4 * MIB) /* what `last` gives may be long */
#define MAX_LAST          100000
#define BEAT_NS           (30 * NS_PER_SEC)
#define BLOCK_BYTES       16384

struct follower {
	struct followers *followers;
	struct MHD_Connection *connection;
	json_t *patterns; /* of VM names; empty: all events */
	char *level;      /* NULL: all */
	char *data;       /* not sent yet */
	size_t at, len;
	bool suspended, ended;
	struct follower *next;
};

struct followers {
	struct daemon *daemon;
	struct loop_timer *beat;
	struct follower *list;
	unsigned count;
};

/* ---- one ---- */

static void wake(struct follower *follower)
{
	if (!follower->suspended)
		return;
	follower->suspended = false;
	MHD_resume_connection(follower->connection);
	door_run_soon(door_of(follower->connection));
}

static void end(struct follower *follower)
{
	follower->ended = true;
	wake(follower);
}

static void put(struct follower *follower, const char *text, size_t len)
{
	size_t kept = follower->len - follower->at;
	char *grown;

	if (follower->ended)
		return;
	if (follower->at)
		memmove(follower->data, follower->data + follower->at, kept);
	follower->at = 0;
	follower->len = kept;
	grown =
	    kept + len + 1 <= MAX_BACKLOG_BYTES ? realloc(follower->data, kept + len + 1) : NULL;
	if (!grown) {
		end(follower);
		return;
	}
	memcpy(grown + kept, text, len);
	grown[kept + len] = '\n';
	follower->data = grown;
	follower->len = kept + len + 1;
	wake(follower);
}

static void put_event(struct follower *follower, const json_t *event)
{
	AUTO_FREE char *text = json_dumps(event, JSON_COMPACT);

	if (text)
		put(follower, text, strlen(text));
}

static bool is_wanted(void *user, const json_t *event)
{
	const struct follower *follower = user;
	const char *level = json_string_value(json_object_get(event, "LevelDisplayName"));
	const char *name = json_string_value(json_object_get(event, "VMName"));

	if (follower->level && (!level || strcasecmp(follower->level, level) != 0))
		return false;
	for (size_t i = 0; name && i < json_array_size(follower->patterns); i++)
		if (cmdlet_wildcard_match(json_string_value(json_array_get(follower->patterns, i)),
					  name))
			return true;
	return json_array_size(follower->patterns) == 0;
}

/* ---- what libmicrohttpd asks ---- */

static ssize_t read_more(void *user, uint64_t position, char *data, size_t max)
{
	struct follower *follower = user;
	size_t len = MIN(max, follower->len - follower->at);

	if (len) {
		memcpy(data, follower->data + follower->at, len);
		follower->at += len;
		return (ssize_t)len;
	}
	if (follower->ended)
		return MHD_CONTENT_READER_END_OF_STREAM;
	follower->suspended = true;
	MHD_suspend_connection(follower->connection);
	return 0;
}

static void follower_free(void *user)
{
	struct follower *follower = user, **link = &follower->followers->list;

	while (*link != follower)
		link = &(*link)->next;
	*link = follower->next;
	follower->followers->count--;
	json_decref(follower->patterns);
	free(follower->level);
	free(follower->data);
	free(follower);
}

/* ---- all ---- */

static void hear(void *user, const json_t *event)
{
	struct followers *followers = user;

	for (struct follower *f = followers->list; f; f = f->next)
		if (is_wanted(f, event))
			put_event(f, event);
}

static void beat(void *user)
{
	struct followers *followers = user;

	for (struct follower *f = followers->list; f; f = f->next)
		put(f, "", 0);
	loop_timer_arm(followers->beat, clock_now_ns() + BEAT_NS);
}

struct followers *followers_new(struct daemon *daemon)
{
	struct followers *followers = calloc(1, sizeof(*followers));

	if (!followers || loop_timer_new(daemon->loop, beat, followers, &followers->beat, NULL) < 0)
		abort();
	followers->daemon = daemon;
	events_follow(daemon->events, hear, followers);
	beat(followers);
	return followers;
}

void followers_free(struct followers *followers)
{
	if (!followers)
		return;
	events_follow(followers->daemon->events, NULL, NULL);
	loop_timer_free(followers->beat);
	free(followers);
}

void followers_end(struct followers *followers, const struct door *door)
{
	for (struct follower *f = followers->list; f; f = f->next)
		if (!door || door_of(f->connection) == door)
			end(f);
}

static enum MHD_Result take_argument(void *user, enum MHD_ValueKind kind, const char *key,
				     const char *value)
{
	struct follower *follower = user;

	if (strcmp(key, "vm") == 0 && value) {
		json_array_append_new(follower->patterns, json_string(value));
	} else if (strcmp(key, "level") == 0 && value) {
		free(follower->level);
		follower->level = strdup(value);
	}
	return MHD_YES;
}

static void put_past(struct follower *follower)
{
	const char *text =
	    MHD_lookup_connection_value(follower->connection, MHD_GET_ARGUMENT_KIND, "last");
	struct events_query query = { is_wanted, follower, 0 };
	json_t *events;

	query.max = text ? MIN(strtoul(text, NULL, 10), (unsigned long)MAX_LAST) : 0;
	if (!query.max)
		return;
	events = events_read(follower->followers->daemon->events, &query);
	for (size_t i = json_array_size(events); i > 0; i--)
		put_event(follower, json_array_get(events, i - 1));
	json_decref(events);
}

struct MHD_Response *followers_answer(struct followers *followers,
				      struct MHD_Connection *connection)
{
	struct MHD_Response *response;
	struct follower *follower;

	if (followers->count >= MAX_FOLLOWERS)
		return NULL;
	follower = calloc(1, sizeof(*follower));
	if (!follower)
		abort();
	*follower = (struct follower){ .followers = followers,
				       .connection = connection,
				       .patterns = json_array(),
				       .next = followers->list };
	followers->list = follower;
	followers->count++;
	MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, take_argument, follower);
	put_past(follower);
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_more,
						     follower, follower_free);
	MHD_add_response_header(response, "Content-Type", "application/x-ndjson");
	return response;
}
