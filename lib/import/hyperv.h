/*
 * A VM out of Hyper-V's own configuration file (.vmcx, or XML of version 5.0), as our description,
 * and a report: what of it has no counterpart here, what had to be changed, what stands in the way.
 *
 * Keys that this file knows are those of docs/import.md. A value that is not understood is named in
 * the report rather than guessed.
 */
#ifndef IMPORT_HYPERV_H
#define IMPORT_HYPERV_H

#include "config/config.h"
#include "import/keytree.h"

enum import_severity {
	IMPORT_LOST,    /* has no counterpart here; the VM works without it */
	IMPORT_CHANGED, /* is another one now */
	IMPORT_BLOCKS,  /* the import can't go on before it is mended */
};

/* Numbers of Hyper-V's incompatibilities, as Compare-VM shows them. */
#define IMPORT_NO_SWITCH 33012
/* Scripts take the switch's name out of it. */
#define IMPORT_NO_SWITCH_TEXT "Could not find Ethernet switch '%s'."
#define IMPORT_NO_DISK        40010
#define IMPORT_NO_FLOPPY_TEXT "the floppy disk image was not found: the drive is empty"
#define IMPORT_NO_STATE       40004

struct import_note {
	enum import_severity severity;
	int message_id; /* Hyper-V's number of the incompatibility, or 0 */
	char *source;   /* the object: "Network Adapter", a path, ... */
	char *text;
};

struct import_vm {
	struct config_vm *config;
	unsigned hyperv_version; /* major << 8 | minor */
	bool is_checkpoint;
	int64_t checkpoint_count; /* that the file tells of: they have files of their own */
	int64_t created;          /* UTC, seconds since 1970; 0: the file does not say */
	struct import_note *notes;
	size_t note_count;
};

/* What the importer asks of its caller. */
struct import_env {
	void *user;
	/* The file that a path of the Windows host names here: absolute, the importer's to free;
	 * NULL: there is none. */
	char *(*find_file)(void *user, const char *windows_path);
	/* Whether there is a virtual switch of that name. */
	bool (*has_switch)(void *user, const char *name);
	/* A MAC address out of the host's pool. */
	int (*new_mac)(void *user, const struct config_vm *config, uint8_t ret[6],
		       struct error *err);
};

/* Reads a configuration file's bytes, whichever of the two kinds they are. */
int import_read(const uint8_t *data, size_t size, struct key **ret, struct error *err);
/* ERR_INVALID: the tree is no VM's. What stands in the way of an import is in the notes, and the
 * description then lacks it. */
int import_hyperv(const struct key *root, const struct import_env *env, struct import_vm **ret,
		  struct error *err);
/* Takes config. */
struct import_vm *import_vm_new(struct config_vm *config);
void import_vm_free(struct import_vm *vm);
/* The description (the VM's own, or one of its checkpoints') is one of ours, exported from
 * elsewhere and now in `folder`: looks for its disks, media, switches and boot files, and notes
 * what is not there. */
void import_relocate(struct import_vm *vm, struct config_vm *config, const struct import_env *env,
		     const char *folder);
/* What was noted already is not noted again. */
void import_note(struct import_vm *vm, enum import_severity severity, int message_id,
		 const char *source, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* Forgets all notes but those of what is lost. */
void import_forget(struct import_vm *vm);
bool import_vm_blocked(const struct import_vm *vm);
const char *import_severity_name(enum import_severity severity);

/* Looks for the file that windows_path names: by its name in vhd_folder (may be NULL), beside the
 * configuration file, in "Virtual Hard Disks" below it, beside its folder and (exports of ours)
 * beside that one's; then, if it is a path of this host, where it says. Case is ignored where
 * nothing has the exact name. NULL: nowhere. */
char *import_find_file(const char *config_path, const char *vhd_folder, const char *windows_path);
/* What stands behind the last separator, of this host or of Windows. */
const char *import_base_name(const char *path);

#endif
