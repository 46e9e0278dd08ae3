#include "events.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "config/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_FILE_BYTES (4 * MIB)
#define OLD_FILES      4

struct events {
	int dir_fd, fd;
	off_t size;
	void (*heard)(void *user, const json_t *event); /* NULL: nobody listens */
	void *user;
};

static const struct {
	const char *name;
	unsigned id;
	enum event_level level;
} kinds[EVENT_KIND_COUNT] = {
	[EVENT_VM_CREATED] = { "vm-created", 13002, EVENT_INFORMATION },
	[EVENT_VM_REMOVED] = { "vm-removed", 13003, EVENT_INFORMATION },
	[EVENT_VM_EXPORTED] = { "vm-exported", 0, EVENT_INFORMATION },
	[EVENT_VM_IMPORTED] = { "vm-imported", 0, EVENT_INFORMATION },
	[EVENT_VM_CHANGED] = { "vm-changed", 0, EVENT_INFORMATION },
	[EVENT_VM_STARTED] = { "vm-started", 18500, EVENT_INFORMATION },
	[EVENT_VM_START_FAILED] = { "vm-start-failed", 12030, EVENT_ERROR },
	[EVENT_VM_TURNED_OFF] = { "vm-turned-off", 18502, EVENT_INFORMATION },
	[EVENT_VM_SHUT_DOWN_BY_SERVICE] = { "vm-shut-down", 18504, EVENT_INFORMATION },
	[EVENT_VM_SHUT_DOWN_BY_GUEST] = { "vm-shut-down-by-guest", 18508, EVENT_INFORMATION },
	[EVENT_VM_RESET] = { "vm-reset", 18512, EVENT_INFORMATION },
	[EVENT_VM_RESET_BY_GUEST] = { "vm-reset-by-guest", 18514, EVENT_INFORMATION },
	[EVENT_VM_SAVED] = { "vm-saved", 18510, EVENT_INFORMATION },
	[EVENT_VM_RESTORED] = { "vm-restored", 18596, EVENT_INFORMATION },
	[EVENT_VM_CHECKPOINT] = { "vm-checkpoint", 0, EVENT_INFORMATION },
	[EVENT_VM_CHECKPOINT_FELL_BACK] = { "vm-checkpoint-fell-back", 0, EVENT_WARNING },
	[EVENT_VM_PAUSED] = { "vm-paused", 18516, EVENT_INFORMATION },
	[EVENT_VM_RESUMED] = { "vm-resumed", 18518, EVENT_INFORMATION },
	[EVENT_VM_GUEST_CRASHED] = { "vm-guest-crashed", 18590, EVENT_ERROR },
	[EVENT_VM_WORKER_FAILED] = { "vm-worker-failed", 0, EVENT_ERROR },
	[EVENT_VM_ADOPTED] = { "vm-found-again", 0, EVENT_INFORMATION },
	[EVENT_VM_UNLIMITED] = { "vm-limits-not-applied", 0, EVENT_WARNING },
	[EVENT_VM_CRITICAL] = { "vm-paused-critical", 0, EVENT_ERROR },
	[EVENT_VM_CRITICAL_OVER] = { "vm-critical-over", 0, EVENT_INFORMATION },
	[EVENT_VM_DISK_SLOW] = { "disk-below-minimum", 0, EVENT_WARNING },
	[EVENT_VM_DISK_SLOW_OVER] = { "disk-above-minimum", 0, EVENT_INFORMATION },
	[EVENT_VM_UNREADABLE] = { "vm-unreadable", 0, EVENT_ERROR },
	[EVENT_SERVICE_STARTED] = { "service-started", 0, EVENT_INFORMATION },
	[EVENT_SERVICE_STOPPED] = { "service-stopped", 0, EVENT_INFORMATION },
	[EVENT_REQUEST_REFUSED] = { "request-refused", 0, EVENT_WARNING },
	[EVENT_SIGN_IN_REFUSED] = { "sign-in-refused", 0, EVENT_WARNING },
	[EVENT_REMOTE_CHANGED] = { "remote-api-changed", 0, EVENT_INFORMATION },
	[EVENT_REMOTE_FAILED] = { "remote-api-failed", 0, EVENT_ERROR },
	[EVENT_ACCESS_CHANGED] = { "access-changed", 0, EVENT_INFORMATION },
};

static const char *const level_names[] = { "Information", "Warning", "Error" };

/* The n-th file: events.jsonl, events.1.jsonl (older), ... */
static void file_name(unsigned n, char ret[32])
{
	if (n == 0)
		snprintf(ret, 32, "events.jsonl");
	else
		snprintf(ret, 32, "events.%u.jsonl", n);
}

static int open_file(struct events *events, struct error *err)
{
	struct stat st;

	events->fd = openat(events->dir_fd, "events.jsonl",
			    O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (events->fd < 0 || fstat(events->fd, &st) < 0)
		return error_set_errno(err, errno, "opening the event log");
	events->size = st.st_size;
	return 0;
}

int events_open(const char *state_folder, struct events **ret, struct error *err)
{
	struct events *events = calloc(1, sizeof(*events));
	AUTO_FREE char *folder = NULL;
	int r;

	if (!events || asprintf(&folder, "%s/events", state_folder) < 0) {
		free(events);
		folder = NULL;
		return error_set(err, ERR_NO_MEMORY, "no memory for the event log");
	}
	events->fd = -1;
	events->dir_fd = -1;
	r = config_make_private_folder(folder, err);
	if (r == 0) {
		events->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (events->dir_fd < 0)
			r = error_set_errno(err, errno, "opening the folder '%.200s'", folder);
	}
	if (r == 0)
		r = open_file(events, err);
	if (r < 0) {
		events_close(events);
		return r;
	}
	*ret = events;
	return 0;
}

void events_close(struct events *events)
{
	if (!events)
		return;
	if (events->fd >= 0)
		close(events->fd);
	if (events->dir_fd >= 0)
		close(events->dir_fd);
	free(events);
}

static void rotate(struct events *events)
{
	char from[32], to[32];

	for (unsigned n = OLD_FILES; n > 0; n--) {
		file_name(n - 1, from);
		file_name(n, to);
		renameat(events->dir_fd, from, events->dir_fd, to);
	}
	close(events->fd);
	if (open_file(events, NULL) < 0)
		log_error("the event log can't be written any more: %s", strerror(errno));
}

/* "2026-11-24T02:17:29.123Z" */
static void format_time(char ret[40])
{
	uint64_t now = clock_wall_ns();
	time_t seconds = (time_t)(now / NS_PER_SEC);
	struct tm tm;
	size_t len;

	gmtime_r(&seconds, &tm);
	len = strftime(ret, 40, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(ret + len, 40 - len, ".%03uZ", (unsigned)(now % NS_PER_SEC / NS_PER_MSEC));
}

void events_write(struct events *events, const struct event *event)
{
	AUTO_FREE char *text = NULL, *line = NULL, *message = text_format("%s", event->message);
	char time_text[40];
	json_t *json;
	int len;

	text_mend(message);
	format_time(time_text);
	json = json_pack("{s:s, s:i, s:s, s:s, s:s*, s:s*, s:s, s:o*}", "TimeCreated", time_text,
			 "Id", (int)kinds[event->kind].id, "LevelDisplayName",
			 level_names[kinds[event->kind].level], "Event", kinds[event->kind].name,
			 "VMName", event->vm_name, "VMId", event->vm_id, "Message", message, "Data",
			 event->data);
	text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	if (json && events->heard)
		events->heard(events->user, json);
	json_decref(json);
	if (!text)
		return;
	len = asprintf(&line, "%s\n", text);
	if (len < 0) {
		line = NULL;
		return;
	}
	if (events->size + len > (off_t)MAX_FILE_BYTES)
		rotate(events);
	/* One write: a line is there as a whole or, after a crash, is skipped by the reader. */
	if (write(events->fd, line, (size_t)len) == len)
		events->size += len;
	else
		log_error("an event could not be written: %s", text);
}

void events_follow(struct events *events, void (*heard)(void *user, const json_t *event),
		   void *user)
{
	events->heard = heard;
	events->user = user;
}

/* ---- reading ---- */

static char *read_file(struct events *events, unsigned n, size_t *ret_len)
{
	char name[32];
	AUTO_CLOSE int fd = -1;
	struct stat st;
	char *text;
	ssize_t len;

	file_name(n, name);
	fd = openat(events->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0 || st.st_size > (off_t)(2 * MAX_FILE_BYTES))
		return NULL;
	text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	len = read(fd, text, (size_t)st.st_size);
	*ret_len = len > 0 ? (size_t)len : 0;
	return text;
}

static void take_line(const char *line, size_t len, const struct events_query *query, json_t *list)
{
	json_t *event = json_loadb(line, len, 0, NULL);

	if (event && query->wanted(query->user, event))
		json_array_append(list, event);
	json_decref(event);
}

json_t *events_read(struct events *events, const struct events_query *query)
{
	json_t *list = json_array();

	for (unsigned n = 0; n <= OLD_FILES && json_array_size(list) < query->max; n++) {
		size_t end = 0;
		AUTO_FREE char *text = read_file(events, n, &end);

		while (text && end > 0 && json_array_size(list) < query->max) {
			size_t start = end - 1; /* before the line's end */

			while (start > 0 && text[start - 1] != '\n')
				start--;
			take_line(text + start, end - start, query, list);
			end = start;
		}
	}
	return list;
}
