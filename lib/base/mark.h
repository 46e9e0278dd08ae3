/*
 * A file by which one process tells those that come after it that it went past a point of no
 * return, whatever became of it since, and by which they can close that way for it.
 *
 *	who does it		mark_hold, what can still be undone, mark_set (or mark_let_go)
 *	who comes after		mark_close: it was passed, or it never will be
 *
 * Both sides hold a lock on the file meanwhile, so they wait for each other: it must not take long.
 * The file is made and named by the one who comes after; the other has only a descriptor.
 */
#ifndef BASE_MARK_H
#define BASE_MARK_H

#include "base/error.h"

#include <stdbool.h>

/* Makes the file, not passed, durable but for its name in the folder. Returns the descriptor. */
int mark_make(int folder_fd, const char *name, struct error *err);
/* ERR_CANCELLED: it was closed. */
int mark_hold(int fd, struct error *err);
/* Passed, durably; and lets go. On failure it is not passed, and still held. */
int mark_set(int fd, struct error *err);
void mark_let_go(int fd);
/* True: it was passed. Else it is gone. A file that is not there was not passed. */
bool mark_close(int folder_fd, const char *name);

#endif
