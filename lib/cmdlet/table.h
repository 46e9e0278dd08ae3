/* What the files of the table share: how its entries are written, and the files' names. A file is a
 * subject; cmdlet_at() (lookup.c) joins them. */
#ifndef CMDLET_TABLE_H
#define CMDLET_TABLE_H

#include "cmdlet/cmdlet.h"

#define SET(n) (1u << (n))
#define END_PARAMS                                                                                 \
	{                                                                                          \
		.name = NULL                                                                       \
	}
#define END_COLUMNS                                                                                \
	{                                                                                          \
		NULL, NULL, CMDLET_SHOW_TEXT                                                       \
	}
#define END_EXAMPLES                                                                               \
	{                                                                                          \
		NULL, NULL                                                                         \
	}

/* ---- parameters that many cmdlets have ---- */

#define COMPUTER_NAME                                                                              \
	{                                                                                          \
		.name = "ComputerName", .aliases = "PSComputerName", .type = CMDLET_STRING,        \
		.flags = CMDLET_LIST | CMDLET_LOCAL,                                               \
		.help = "Hosts to run on, as host or host:port, instead of this one."              \
	}
#define PASSTHRU                                                                                   \
	{                                                                                          \
		.name = "Passthru", .type = CMDLET_SWITCH,                                         \
		.help = "Shows the object that was made or changed."                               \
	}
#define FORCE(text)                                                                                \
	{                                                                                          \
		.name = "Force", .type = CMDLET_SWITCH, .help = (text)                             \
	}
/* Hyper-V's, but refused: why. */
#define NOT_YET(param, kind, reason)                                                               \
	{                                                                                          \
		.name = (param), .type = (kind), .flags = CMDLET_NOT_YET, .help = (reason)         \
	}
/* The same, but for the one value that it has without being set: that asks for nothing. */
#define ONLY(param, kind, words, value, reason)                                                    \
	{                                                                                          \
		.name = (param), .type = (kind), .flags = CMDLET_NOT_YET, .values = (words),       \
		.dflt = (value), .help = (reason)                                                  \
	}
#define ONLY_OFF(param, reason)   ONLY(param, CMDLET_ENUM, "On Off", "Off", reason)
#define ONLY_FALSE(param, reason) ONLY(param, CMDLET_BOOLEAN, NULL, "false", reason)
#define ONLY_0(param, reason)     ONLY(param, CMDLET_SIZE, NULL, "0", reason)
/* Hyper-V's for objects. */
#define BY_PIPE(param)                                                                             \
	{                                                                                          \
		.name = (param), .type = CMDLET_OBJECTS,                                           \
		.help = "Objects as another cmdlet shows them, in place of a pipe: "               \
			"\"$(oyako get-...)\"."                                                    \
	}
/* Of Get- cmdlets: what it was like in a checkpoint. */
#define OF_CHECKPOINT                                                                              \
	{                                                                                          \
		.name = "VMSnapshot", .aliases = "VMCheckpoint", .type = CMDLET_STRING,            \
		.flags = CMDLET_PIPELINE, .offer = CMDLET_OFFER_CHECKPOINT,                        \
		.help = "Name or identifier of a checkpoint: shows how it was then."               \
	}
#define CHECKPOINT_COLUMN                                                                          \
	{                                                                                          \
		"VMSnapshotName", "VMSnapshotName", CMDLET_SHOW_IF_THERE                           \
	}
/* The VMs that a cmdlet works on, by the name Name or VMName. */
#define VMS(param, other)                                                                          \
	{                                                                                          \
		.name = (param), .aliases = other " VM", .type = CMDLET_STRING,                    \
		.flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,       \
		.position = 1, .offer = CMDLET_OFFER_VM,                                           \
		.help = "Names of the virtual machines; * and ? match."                            \
	}
#define VM_BY_NAME   VMS("Name", "VMName")
#define VM_BY_VMNAME VMS("VMName", "")
#define ONE_VM                                                                                     \
	{                                                                                          \
		.name = "VMName", .aliases = "VM", .type = CMDLET_STRING,                          \
		.flags = CMDLET_MANDATORY | CMDLET_PIPELINE, .position = 1,                        \
		.offer = CMDLET_OFFER_VM, .help = "Name of the virtual machine."                   \
	}

/* ---- the files ---- */

extern const struct cmdlet cmdlet_table_vm[];       /* table.c */
extern const struct cmdlet cmdlet_table_disk[];     /* table-disk.c */
extern const struct cmdlet cmdlet_table_import[];   /* table-import.c */
extern const struct cmdlet cmdlet_table_guest[];    /* table-guest.c */
extern const struct cmdlet cmdlet_table_state[];    /* table-state.c */
extern const struct cmdlet cmdlet_table_network[];  /* table-network.c */
extern const struct cmdlet cmdlet_table_firmware[]; /* table-firmware.c */
extern const struct cmdlet cmdlet_table_host[];     /* table-host.c */
extern const struct cmdlet cmdlet_table_job[];      /* table-job.c */
extern const struct cmdlet cmdlet_table_group[];    /* table-group.c */
extern const struct cmdlet cmdlet_table_metering[]; /* table-metering.c */
extern const struct cmdlet cmdlet_table_object[];   /* table-object.c */
extern const size_t cmdlet_table_network_count, cmdlet_table_firmware_count;
extern const size_t cmdlet_table_vm_count, cmdlet_table_object_count, cmdlet_table_metering_count,
    cmdlet_table_group_count, cmdlet_table_job_count, cmdlet_table_host_count,
    cmdlet_table_disk_count, cmdlet_table_state_count, cmdlet_table_import_count,
    cmdlet_table_guest_count;

#endif
