/*
 * Makes copies of files for a cmdlet, one after the other, by oyako-disk (holes stay holes, and
 * where the file system can share blocks nothing is copied). Either all of it is there at the end,
 * durably, or nothing that it made: an error, a cancel, and an interruption of the service at any
 * point (undo.h) take it away again.
 *
 *	transfer = transfer_new(request);
 *	transfer_add(transfer, UNDO_OWN_FOLDER, "/srv/export/web");
 *	transfer_file(transfer, "/srv/web.vhdx", "/srv/export/web/web.vhdx");
 *	transfer_run(transfer, done, user);		(frees it after done)
 */
#ifndef DAEMON_TRANSFER_H
#define DAEMON_TRANSFER_H

#include "request.h"
#include "undo.h"

struct transfer;

/* FOLDER/NAME, the caller's. */
char *transfer_path(const char *folder, const char *name);
/* Holds the request until it is run or freed; one at a time for a request. */
struct transfer *transfer_new(struct request *request);
/* A folder that is made before the copies; a file or link that done makes. */
void transfer_add(struct transfer *transfer, enum undo_kind kind, const char *path);
/* Copies from to to, which must not be there then. */
void transfer_file(struct transfer *transfer, const char *from, const char *to);
/* Both are copies of virtual hard disks: the child then finds its parent there. Called with the
 * lowest first. */
void transfer_parent(struct transfer *transfer, const char *child, const char *parent);
/* done is called once, perhaps before this returns: err NULL, all was copied. It makes what is
 * left, and says by transfer_commit that all of it is to stay; otherwise all is taken away. */
void transfer_run(struct transfer *transfer, void (*done)(void *user, const struct error *err),
		  void *user);
/* In done. From here on what was made is there, whatever happens. */
int transfer_commit(struct transfer *transfer, struct error *err);
/* Instead of transfer_run. NULL is allowed. */
void transfer_free(struct transfer *transfer);

#endif
