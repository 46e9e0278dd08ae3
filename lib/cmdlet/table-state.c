/* The table's cmdlets about saved states and checkpoints. Names, parameters, sets and defaults are
 * Hyper-V's; what is ours is marked. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

/* ---- parameters that several have ---- */

#define CHECKPOINTED_VM                                                                            \
	{                                                                                          \
		.name = "VMName", .aliases = "VM", .type = CMDLET_STRING,                          \
		.flags = CMDLET_MANDATORY | CMDLET_PIPELINE, .position = 2,                        \
		.offer = CMDLET_OFFER_VM, .help = "Name of the virtual machine."                   \
	}
#define CHECKPOINT_NAME                                                                            \
	{                                                                                          \
		.name = "Name", .aliases = "SnapshotName", .type = CMDLET_STRING,                  \
		.flags = CMDLET_MANDATORY | CMDLET_PIPELINE, .position = 1,                        \
		.offer = CMDLET_OFFER_CHECKPOINT, .help = "Name of the checkpoint."                \
	}
#define PIPED_CHECKPOINT BY_PIPE("VMSnapshot")

/* ---- outputs ---- */

static const struct cmdlet_output vm_output = {
	"VirtualMachine",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "State", "State", CMDLET_SHOW_TEXT },
					{ "CPUUsage", "CPUUsage(%)", CMDLET_SHOW_TEXT },
					{ "MemoryAssigned", "MemoryAssigned(M)", CMDLET_SHOW_MB },
					{ "Uptime", "Uptime", CMDLET_SHOW_DURATION },
					{ "Status", "Status", CMDLET_SHOW_TEXT },
					{ "Version", "Version", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output checkpoint_output = {
	"VMSnapshot",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    { "Name", "Name", CMDLET_SHOW_TEXT },
	    { "SnapshotType", "SnapshotType", CMDLET_SHOW_TEXT },
	    { "CreationTime", "CreationTime", CMDLET_SHOW_TEXT },
	    { "ParentSnapshotName", "ParentSnapshotName", CMDLET_SHOW_TEXT },
	    { "Id", NULL, CMDLET_SHOW_TEXT },
	    { "ParentSnapshotId", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    { "CheckpointType", NULL, CMDLET_SHOW_TEXT },
	    { "IsAutomaticCheckpoint", NULL, CMDLET_SHOW_TEXT },
	    { "HasMemory", NULL, CMDLET_SHOW_TEXT },
	    { "IsCurrent", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

/* ---- parameters and examples of each cmdlet ---- */

static const struct cmdlet_param save_vm_params[] = {
	VMS("Name", "VMName"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example save_vm_examples[] = {
	{ "save-vm web", "Start-VM lets it go on where it was." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_saved_params[] = {
	VMS("VMName", "Name"),
	{ .name = "VMSnapshot",
	  .aliases = "VMCheckpoint",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_PIPELINE,
	  .offer = CMDLET_OFFER_CHECKPOINT,
	  .help =
	      "Name or identifier of a checkpoint: its memory goes, and it starts from its disks "
	      "when it is applied." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_saved_examples[] = {
	{ "remove-vmsavedstate web", "What was in its memory is lost; it starts anew." },
	{ "get-vmsnapshot web 'before update' | oyako remove-vmsavedstate",
	  "The checkpoint keeps its disks only, which takes less space." },
	END_EXAMPLES,
};

static const struct cmdlet_param checkpoint_params[] = {
	VMS("Name", "VMName"),
	{ .name = "SnapshotName",
	  .aliases = "CheckpointName",
	  .type = CMDLET_STRING,
	  .position = 2,
	  .help = "Name of the checkpoint. Without it: the virtual machine's name and the time." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example checkpoint_examples[] = {
	{ "checkpoint-vm web -SnapshotName 'before update'", "The guest runs on meanwhile." },
	END_EXAMPLES,
};

static const char *const get_sets[] = { "Virtual machine", "Id", NULL };
static const struct cmdlet_param get_params[] = {
	{ .name = "VMName",
	  .aliases = "VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .sets = SET(0),
	  .position = 1,
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match." },
	{ .name = "Name",
	  .aliases = "SnapshotName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_WILDCARD,
	  .position = 2,
	  .offer = CMDLET_OFFER_CHECKPOINT,
	  .help = "Name of the checkpoints; * and ? match. Without it: all." },
	{ .name = "SnapshotType",
	  .aliases = "CheckpointType VMRecoveryCheckpoint",
	  .type = CMDLET_ENUM,
	  .values = "Standard Recovery Planned Missing Replica AppConsistentReplica SyncedReplica",
	  .help = "Kind of checkpoints. There are standard ones so far." },
	{ .name = "Id",
	  .type = CMDLET_GUID,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "Identifier of one checkpoint." },
	{ .name = "ParentOf",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_PIPELINE,
	  .sets = SET(0),
	  .offer = CMDLET_OFFER_CHECKPOINT,
	  .help = "Only the one that this checkpoint, or the virtual machine itself, comes from; a "
		  "name or identifier." },
	{ .name = "ChildOf",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_PIPELINE,
	  .sets = SET(0),
	  .offer = CMDLET_OFFER_CHECKPOINT,
	  .help = "Only those that come from this checkpoint; a name or identifier." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_examples[] = {
	{ "get-vmsnapshot web", "Its checkpoints, and which comes from which." },
	{ "get-vm | oyako get-vmsnapshot", "Those of all virtual machines." },
	END_EXAMPLES,
};

static const struct cmdlet_param rename_params[] = {
	CHECKPOINT_NAME,
	CHECKPOINTED_VM,
	{ .name = "NewName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 3,
	  .help = "Its new name." },
	PIPED_CHECKPOINT,
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example rename_examples[] = {
	{ "rename-vmsnapshot old -VMName web -NewName 'before update'", "Another name." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_params[] = {
	VMS("VMName", ""),
	{ .name = "Name",
	  .aliases = "SnapshotName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .position = 2,
	  .offer = CMDLET_OFFER_CHECKPOINT,
	  .help = "Names of the checkpoints; * and ? match. Without it: all." },
	{ .name = "IncludeAllChildSnapshots",
	  .aliases = "IncludeAllChildCheckpoints",
	  .type = CMDLET_SWITCH,
	  .help = "Also those that come from them." },
	PIPED_CHECKPOINT,
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_examples[] = {
	{ "remove-vmsnapshot web 'before update' -IncludeAllChildSnapshots", "A whole branch." },
	END_EXAMPLES,
};

static const struct cmdlet_param restore_params[] = {
	CHECKPOINT_NAME, CHECKPOINTED_VM, PIPED_CHECKPOINT, PASSTHRU, COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example restore_examples[] = {
	{ "restore-vmsnapshot 'before update' -VMName web", "Back to how it was then." },
	{ "get-vmsnapshot 'web*' -Name 'before update' | oyako restore-vmsnapshot",
	  "The same for several." },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_state[] = {
	{ .name = "Save-VM",
	  .synopsis = "Saves virtual machines and stops them",
	  .description =
	      "Writes memory and state of running or paused virtual machines to the disk. "
	      "Start-VM lets them go on from there.",
	  .params = save_vm_params,
	  .output = &vm_output,
	  .examples = save_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Remove-VMSavedState",
	  .synopsis = "Throws a saved state away",
	  .description = "The virtual machine is then off.",
	  .params = remove_saved_params,
	  .examples = remove_saved_examples },
	{ .name = "Checkpoint-VM",
	  .synopsis = "Takes checkpoints of virtual machines",
	  .description =
	      "Keeps settings, memory and state as they are now, to come back to them by "
	      "Restore-VMSnapshot. Of a running guest the memory is copied while it runs on, or "
	      "its file systems stand still meanwhile: see Set-VM -CheckpointType.",
	  .params = checkpoint_params,
	  .output = &checkpoint_output,
	  .examples = checkpoint_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMSnapshot",
	  .aliases = "Get-VMCheckpoint",
	  .synopsis = "Lists checkpoints",
	  .description = "Shows the checkpoints of virtual machines, the oldest first.",
	  .sets = get_sets,
	  .params = get_params,
	  .output = &checkpoint_output,
	  .examples = get_examples },
	{ .name = "Rename-VMSnapshot",
	  .aliases = "Rename-VMCheckpoint",
	  .synopsis = "Gives a checkpoint another name",
	  .description = "Changes the name and nothing else.",
	  .params = rename_params,
	  .output = &checkpoint_output,
	  .examples = rename_examples,
	  .output_if_passthru = true },
	{ .name = "Remove-VMSnapshot",
	  .aliases = "Remove-VMCheckpoint",
	  .synopsis = "Removes checkpoints",
	  .description = "The virtual machine stays as it is. What comes from a removed checkpoint "
			 "then comes from that one's parent.",
	  .params = remove_params,
	  .output = &checkpoint_output,
	  .examples = remove_examples,
	  .output_if_passthru = true },
	{ .name = "Restore-VMSnapshot",
	  .aliases = "Restore-VMCheckpoint",
	  .synopsis = "Applies a checkpoint",
	  .description =
	      "Gives the virtual machine the settings and the state of the checkpoint. If it runs, "
	      "it is turned off first. Afterwards it is saved, if the checkpoint has its memory, "
	      "and else off.",
	  .params = restore_params,
	  .output = &checkpoint_output,
	  .examples = restore_examples,
	  .output_if_passthru = true },
};

const size_t cmdlet_table_state_count = ARRAY_SIZE(cmdlet_table_state);
