/*
 * The event log: what happened to VMs, one JSON object a line in state/events/events.jsonl, rotated
 * at 4 MiB, four old files kept. Belongs to the loop.
 */
#ifndef DAEMON_EVENTS_H
#define DAEMON_EVENTS_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>

struct events;

enum event_level { EVENT_INFORMATION, EVENT_WARNING, EVENT_ERROR };

/* An event's name is ours, its number Hyper-V's where it has one for the same (else 0). */
enum event_kind {
	EVENT_VM_CREATED,
	EVENT_VM_REMOVED,
	EVENT_VM_CHANGED,
	EVENT_VM_EXPORTED,
	EVENT_VM_IMPORTED,
	EVENT_VM_STARTED,
	EVENT_VM_START_FAILED,
	EVENT_VM_TURNED_OFF,
	EVENT_VM_SHUT_DOWN_BY_SERVICE,
	EVENT_VM_SHUT_DOWN_BY_GUEST,
	EVENT_VM_RESET,
	EVENT_VM_RESET_BY_GUEST,
	EVENT_VM_PAUSED,
	EVENT_VM_RESUMED,
	EVENT_VM_SAVED,
	EVENT_VM_RESTORED,
	EVENT_VM_CHECKPOINT,
	EVENT_VM_CHECKPOINT_FELL_BACK,
	EVENT_VM_GUEST_CRASHED,
	EVENT_VM_WORKER_FAILED,
	EVENT_VM_ADOPTED,
	EVENT_VM_UNLIMITED,
	EVENT_VM_CRITICAL,
	EVENT_VM_CRITICAL_OVER,
	EVENT_VM_DISK_SLOW,
	EVENT_VM_DISK_SLOW_OVER,
	EVENT_VM_UNREADABLE,
	EVENT_SERVICE_STARTED,
	EVENT_SERVICE_STOPPED,
	EVENT_REQUEST_REFUSED,
	EVENT_SIGN_IN_REFUSED,
	EVENT_REMOTE_CHANGED,
	EVENT_REMOTE_FAILED,
	EVENT_ACCESS_CHANGED,
	EVENT_KIND_COUNT
};

int events_open(const char *state_folder, struct events **ret, struct error *err);
void events_close(struct events *events);

struct event {
	enum event_kind kind;
	const char *vm_name, *vm_id; /* NULL: about no VM */
	const char *message;
	json_t *data; /* taken; NULL: none */
};
void events_write(struct events *events, const struct event *event);

/* From now on, heard is called for each event that is written. NULL: no more. */
void events_follow(struct events *events, void (*heard)(void *user, const json_t *event),
		   void *user);

struct events_query {
	bool (*wanted)(void *user, const json_t *event);
	void *user;
	size_t max;
};
/* The newest `max` events that are wanted, newest first; the caller's. */
json_t *events_read(struct events *events, const struct events_query *query);

#endif
