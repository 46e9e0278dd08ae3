/*
 * Copies files for a cmdlet, one after the other, by oyako-disk (holes stay holes, and where the
 *file system can share blocks nothing is copied). Either all of it is there at the end, durably, or
 * nothing that it made: files and folders of a transfer that fails or is cancelled are taken away.
 *
 *	transfer = transfer_new(request);
 *	r = transfer_folder(transfer, "/srv/export/web", &err);
 *	transfer_file(transfer, "/srv/web.vhdx", "/srv/export/web/web.vhdx");
 *	transfer_run(transfer, done, user);		(frees it after done)
 */
#ifndef DAEMON_TRANSFER_H
#define DAEMON_TRANSFER_H

#include "request.h"

struct transfer;

/* FOLDER/NAME, the caller's. */
char *transfer_path(const char *folder, const char *name);
/* Holds the request until it is run or freed; one at a time for a request. */
struct transfer *transfer_new(struct request *request);
/* Makes a folder at once; one that is there is fine, and stays. */
int transfer_folder(struct transfer *transfer, const char *path, struct error *err);
/* Later copies from to to, which must not be there then. */
void transfer_file(struct transfer *transfer, const char *from, const char *to);
/* done is called once, perhaps before this returns: err NULL, all was copied. An error that done
 * returns takes everything away again, too. */
void transfer_run(struct transfer *transfer, int (*done)(void *user, const struct error *err),
		  void *user);
/* Instead of transfer_run: takes the folders away again. NULL is allowed. */
void transfer_free(struct transfer *transfer);

#endif
