/*
 * A VM that is to be imported: what its files say, where its disks are, and what this host has to
 * say about it. Import-VM and Compare-VM look at it the same way.
 */
#ifndef DAEMON_INCOMING_H
#define DAEMON_INCOMING_H

#include "import/hyperv.h"
#include "package.h"

struct incoming {
	struct request *request;
	char *path;               /* of the configuration file */
	char *folder;             /* that it is in */
	bool ours;                /* it is a vm.json */
	struct import_vm *report; /* notes; the description is package.config */
	char *checkpoints;        /* folder of its checkpoints, of an export of ours; or NULL */
	struct package package;
	struct disk_files *files; /* of its disks, as far as they are there */
	json_t *wanted;           /* the description of a report that was mended; NULL: none */
	void (*done)(struct incoming *incoming);
};

/* Reads what the request's -Path, or its -CompatibilityReport, names. done gets it (incoming_free);
 * it may be called at once. Where nothing can be read the request has the error, and done is not
 * called. */
void incoming_read(struct request *request, void (*done)(struct incoming *incoming));
void incoming_free(struct incoming *incoming);
/* As Compare-VM shows them; the caller's. */
json_t *incoming_notes(const struct incoming *incoming, const char *vm_name);

#endif
