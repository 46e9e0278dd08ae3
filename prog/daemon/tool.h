/*
 * A program of the host that works for us (qemu-img): its output is read, its end waited for.
 * Belongs to the loop.
 */
#ifndef DAEMON_TOOL_H
#define DAEMON_TOOL_H

#include "daemon.h"

struct tool;

struct tool_events {
	/* What stands in its standard output so far; may be NULL. */
	void (*output)(void *user, const char *text);
	/* Called once, and the tool is freed after it. text is all its output; err is NULL if it
	 * ended with status 0, else has its last words. */
	void (*done)(void *user, const char *text, const struct error *err);
};

/* arguments[0] is looked for in PATH: ERR_UNSUPPORTED where it is not there. Ends with NULL. */
int tool_start(struct daemon *daemon, const char *const *arguments,
	       const struct tool_events *events, void *user, struct tool **ret, struct error *err);
void tool_kill(struct tool *tool);

#endif
