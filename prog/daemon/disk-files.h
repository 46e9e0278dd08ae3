/*
 * The files of which disks consist: each image and its parents, each file once, a parent before its
 * children. Found by oyako-disk, one disk after the other.
 */
#ifndef DAEMON_DISK_FILES_H
#define DAEMON_DISK_FILES_H

#include "transfer.h"

struct disk_file {
	char *path;   /* the real one */
	char *parent; /* NULL: none */
	char *copy;   /* where disk_files_copy has it copied to; NULL: nowhere yet */
};

struct disk_failure {
	char *path;
	struct error why;
};

struct disk_files {
	struct disk_file *list;
	size_t count;
	struct disk_failure *failures; /* disks of which not all was found */
	size_t failure_count;
};

/* paths: a list of texts, borrowed. found is called once, perhaps at once; files are the callee's
 * (disk_files_free), or NULL with err: it was cancelled. Holds the request. */
void disk_files_find(struct request *request, const json_t *paths,
		     void (*found)(void *user, struct disk_files *files, const struct error *err),
		     void *user);
void disk_files_free(struct disk_files *files);
/* Has all of them copied into a folder by the transfer, and the copies' parents be copies. */
int disk_files_copy(struct disk_files *files, const char *folder, struct transfer *transfer,
		    struct error *err);
/* The one of that path, borrowed; NULL: there is none. */
const struct disk_file *disk_files_get(const struct disk_files *files, const char *path);
/* The copy of the image of that path; NULL: there is none. */
const char *disk_files_copy_of(const struct disk_files *files, const char *path);

#endif
