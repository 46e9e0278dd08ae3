/*
 * Private to Copy-Item: direct-copy.c copies files, direct-folder.c folders. What the guest says is
 * not trusted; what its user may not read or write there, it refuses.
 */
#ifndef CLI_DIRECT_COPY_H
#define CLI_DIRECT_COPY_H

#include "direct.h"

#include <sys/stat.h>

struct copy {
	struct client *client;
	const char *vm, *destination;
	bool recurse;
	bool into_folder; /* the destination is a folder, which is made in a guest if need be */
	const struct direct_credential *credential;
};

/* Runs a script (taken) of /bin/sh in the guest, whatever the user's shell is: its exit status, or
 * -code. */
int copy_run_script(const struct copy *copy, char *script, int in, int out, struct error *err);
/* Makes an error of an exit status other than 0. */
int copy_judge(int status, const char *what, struct error *err);

/* Each goes on behind what is there of the file already. */
int copy_file_to_guest(const struct copy *copy, const char *path, int fd, const struct stat *st,
		       struct error *err);
int copy_file_from_guest(const struct copy *copy, const char *path, struct error *err);

int copy_folder_to_guest(const struct copy *copy, const char *path, struct error *err);
int copy_folder_from_guest(const struct copy *copy, const char *path, struct error *err);

#endif
