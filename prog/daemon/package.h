/*
 * A VM with its checkpoints, as a whole that is copied: what Export-VM writes and Import-VM reads.
 *
 *	FOLDER/vm.json		written last, by the caller
 *	FOLDER/below.json	layers of checkpoints that are gone (checkpoint-below.h)
 *	FOLDER/boot/		kernels and initial RAM disks
 *	FOLDER/saved-ID/	memory and mark of its saved state
 *	CHECKPOINTS/ID/		checkpoint.json, vm.json, memory (checkpoints.h)
 *
 * and its disks, in a folder of their own.
 */
#ifndef DAEMON_PACKAGE_H
#define DAEMON_PACKAGE_H

#include "checkpoints.h"
#include "disk-files.h"
#include "transfer.h"

struct package_checkpoint {
	struct checkpoint info;
	struct config_vm *config;
	char *memory; /* path; NULL: none */
};

struct package {
	struct config_vm *config;
	char *memory; /* of its saved state; NULL: none */
	struct package_checkpoint *checkpoints;
	size_t checkpoint_count;
	json_t *below;      /* checkpoint-below.h; NULL: not looked for yet */
	bool mergeable;     /* likewise: layers of the VM's disks are needed by no checkpoint */
	bool boot_optional; /* a boot file that is not there is none that is copied */
	json_t *boot;       /* of the copy: the path of each boot file, by where it comes from */
};

/* Frees what hangs on it. */
void package_done(struct package *package);
/* Reads the checkpoints in a folder, but for temporary ones. ERR_CORRUPT: there are some that can't
 * be read. */
int package_add_checkpoints(struct package *package, const char *folder, struct error *err);
/* They hang together as a tree, and have identifiers and names. The VM may come from none. */
int package_check(struct package *package, struct error *err);
/* Gives VM and checkpoints other identifiers. */
void package_renew(struct package *package);
/* The n-th description: the VM's own, then those of its checkpoints; NULL behind the last. */
struct config_vm *package_config(const struct package *package, size_t n);
/* Paths of all hard disks; the caller's. */
json_t *package_disks(const struct package *package);

/* PATH/NAME, the caller's; a VM's name may hold what a folder's can't. */
char *package_folder(const char *path, const char *name);
/* Its checkpoints are of this VM, and where its description says. */
int package_settle(struct package *package, struct error *err);

/* Looks for layers of checkpoints that are gone: those under its disks that none of its
 * descriptions has. files: of its disks, with their copies' names if they are to be copied. */
void package_find_below(struct package *package, const struct disk_files *files);

struct package_places {
	const char *machine, *checkpoints; /* absolute */
	const char *disks;                 /* NULL: they stay where they are */
};

/* Has all of it copied by the transfer, which makes the first two folders; the descriptions are
 * those of the copy then. The VM's own says where the checkpoints are to be. */
int package_copy(struct package *package, struct disk_files *files,
		 const struct package_places *places, struct transfer *transfer, struct error *err);
/* When that is done: the checkpoints' descriptions, below.json and the saved state's mark. */
int package_write(const struct package *package, const struct package_places *places,
		  struct error *err);

#endif
