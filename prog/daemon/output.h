/*
 * A file in the making. It gets its name when it is complete, so that whatever happens before,
 * there is either the whole file or none. Where the host's file system can, it has no name at all
 * until then and is gone by itself after a crash; elsewhere it is `.NAME.XXXXXXXX.new` beside.
 */
#ifndef DAEMON_OUTPUT_H
#define DAEMON_OUTPUT_H

#include "base/error.h"

struct output {
	int fd, folder_fd; /* -1: there is none */
	char *name;        /* in the folder */
	char *temporary;   /* NULL: it has no name yet */
};

/* Begins a file at path, an absolute one. A file that is there is refused, ERR_EXISTS. */
int output_open(const char *path, struct output *ret, struct error *err);
/* Gives it its name, durably. Its content has been synced by who wrote it. */
int output_commit(struct output *output, struct error *err);
/* Frees, and lets go of a file that was not committed. May be repeated. */
void output_done(struct output *output);
/* Removes what an interrupted one for that path may have left beside it. */
void output_sweep(const char *path);

#endif
