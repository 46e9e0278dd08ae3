/*
 * What an operation makes, so that an interruption leaves nothing of it behind. It is written down,
 * durably, before it is made, in a journal of its own (state/unfinished/GUID.json). Journals that
 * are there when the service starts are of operations that were interrupted: what they name is
 * taken away before anybody looks at the VMs.
 *
 * Nothing goes that the operation did not make: files and folders are known by inode and time of
 * birth, not by their names alone.
 *
 *	undo = undo_new(daemon);
 *	undo_add(undo, UNDO_OWN_FOLDER, "/srv/export/web");
 *	r = undo_begin(undo, &err);		makes the folder
 *	...					and whatever is in it
 *	r = undo_commit(undo, &err);		it stays
 *	undo_free(undo);			without the commit: all goes
 */
#ifndef DAEMON_UNDO_H
#define DAEMON_UNDO_H

#include "daemon.h"

enum undo_kind {
	UNDO_SHARED_FOLDER, /* made if it is not there, and those above it; goes if it is empty */
	UNDO_OWN_FOLDER,    /* must not be there; goes with all that is in it */
	UNDO_FILE,          /* must not be there; in no folder of its own */
	UNDO_LINK,          /* a symbolic one; must not be there */
	UNDO_KIND_COUNT
};

struct undo;

struct undo *undo_new(struct daemon *daemon);
/* Before undo_begin; a folder comes before what is in it. */
void undo_add(struct undo *undo, enum undo_kind kind, const char *path);
/* Checks that the way is free, writes the journal, and makes the folders. */
int undo_begin(struct undo *undo, struct error *err);
/* The file of that path will be the one that fd is: said before it gets its name. */
int undo_made(struct undo *undo, const char *path, int fd, struct error *err);
/* All of it stays: from here on it is done. */
int undo_commit(struct undo *undo, struct error *err);
/* Takes away what was made, unless it was committed. NULL is allowed. */
void undo_free(struct undo *undo);

/* At the start, before the VMs are read. */
void undo_interrupted(struct daemon *daemon);

#endif
