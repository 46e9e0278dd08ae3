/* The table's cmdlets about export and import. Names, parameters, sets and defaults are Hyper-V's;
 * what is ours is marked. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

/* ---- outputs ---- */

static const struct cmdlet_output import_output = {
	"VirtualMachine",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "State", "State", CMDLET_SHOW_TEXT },
					{ "Generation", "Generation", CMDLET_SHOW_TEXT },
					{ "ProcessorCount", "ProcessorCount", CMDLET_SHOW_TEXT },
					{ "MemoryStartup", "MemoryStartup(M)", CMDLET_SHOW_MB },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					{ "Path", NULL, CMDLET_SHOW_TEXT },
					{ "Incompatibilities", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output report_output = {
	"VMCompatibilityReport",
	(const struct cmdlet_column[]){
	    { "VMName", "VM", CMDLET_SHOW_TEXT },
	    { "OperationType", "OperationType", CMDLET_SHOW_TEXT },
	    { "Destination", "Destination", CMDLET_SHOW_TEXT },
	    { "Path", NULL, CMDLET_SHOW_TEXT },
	    { "SnapshotPath", NULL, CMDLET_SHOW_TEXT },
	    { "VhdDestinationPath", NULL, CMDLET_SHOW_TEXT },
	    { "VhdSourcePath", NULL, CMDLET_SHOW_TEXT },
	    { "Incompatibilities", "Incompatibilities", CMDLET_SHOW_TEXT },
	    { "Parameters", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

/* ---- Export-VMSnapshot ---- */

static const struct cmdlet_param export_checkpoint_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .position = 1,
	  .offer = CMDLET_OFFER_CHECKPOINT,
	  .help = "Names of checkpoints; * and ? match." },
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Folder in which a folder of the virtual machine's name is made." },
	{ .name = "VMName",
	  .aliases = "VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .position = 3,
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match." },
	BY_PIPE("VMSnapshot"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example export_checkpoint_examples[] = {
	{ "export-vmsnapshot 'before update' /srv/export -VMName web",
	  "Makes a virtual machine of it that can be imported." },
	END_EXAMPLES,
};

/* ---- Export-VM ---- */

static const struct cmdlet_param export_params[] = {
	{ .name = "Name",
	  .aliases = "VMName VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .position = 1,
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match." },
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Folder in which a folder of the virtual machine's name is made." },
	{ .name = "CaptureLiveState",
	  .type = CMDLET_ENUM,
	  .values = "CaptureCrashConsistentState CaptureSavedState CaptureDataConsistentState",
	  .help = "Of a running one: its disks as after a power cut; with its memory (default), so "
		  "that the "
		  "copy goes on from there; its disks, while its file systems stand still." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example export_examples[] = {
	{ "export-vm web -Path /srv/export", "Copies it to /srv/export/web." },
	{ "get-vm | oyako export-vm -Path /srv/export", "Copies all." },
	END_EXAMPLES,
};

/* ---- Import-VM, Compare-VM ---- */

static const char *const import_sets[] = { "Register", "Copy", "CompatibilityReport", NULL };

#define FROM_PATH (SET(0) | SET(1))

#define IMPORT_PARAMS                                                                              \
	{ .name = "Path",                                                                          \
	  .type = CMDLET_FILE,                                                                     \
	  .flags = CMDLET_MANDATORY,                                                               \
	  .sets = FROM_PATH,                                                                       \
	  .position = 1,                                                                           \
	  .offer = CMDLET_OFFER_FILE,                                                              \
	  .help = "The configuration: Hyper-V's .vmcx or .xml file, or the vm.json (or its "       \
		  "folder) of an export of ours." },                                               \
	    { .name = "Register",                                                                  \
	      .type = CMDLET_SWITCH,                                                               \
	      .sets = SET(0),                                                                      \
	      .help = "Takes the files where they are; so it is without -Copy." },                 \
	    { .name = "Copy",                                                                      \
	      .type = CMDLET_SWITCH,                                                               \
	      .flags = CMDLET_MANDATORY,                                                           \
	      .sets = SET(1),                                                                      \
	      .help = "Copies all of it, and leaves the export as it is." },                       \
	    { .name = "GenerateNewId",                                                             \
	      .type = CMDLET_SWITCH,                                                               \
	      .sets = SET(1),                                                                      \
	      .help = "Makes it another virtual machine than the exported one." },                 \
	    { .name = "VhdDestinationPath",                                                        \
	      .type = CMDLET_FILE,                                                                 \
	      .sets = SET(1),                                                                      \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help =                                                                              \
		  "Folder for the copied disks; else \"Virtual Hard Disks\" in the service's own " \
		  "folder." },                                                                     \
	    { .name = "VirtualMachinePath",                                                        \
	      .type = CMDLET_FILE,                                                                 \
	      .sets = SET(1),                                                                      \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help = "Folder in which the virtual machine's own folder is made; else the "        \
		      "service's." },                                                              \
	    { .name = "SnapshotFilePath",                                                          \
	      .type = CMDLET_FILE,                                                                 \
	      .sets = SET(1),                                                                      \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help = "Folder in which its checkpoints are, in one of their own below "            \
		      "\"Snapshots\"; else in the virtual machine's." },                           \
	    { .name = "SmartPagingFilePath",                                                       \
	      .type = CMDLET_FILE,                                                                 \
	      .sets = SET(1),                                                                      \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help = "Kept and shown: there is no smart paging, so nothing is written there." },  \
	    { .name = "VhdSourcePath",                                                             \
	      .type = CMDLET_FILE,                                                                 \
	      .sets = FROM_PATH,                                                                   \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help = "Folder in which the disks are, if not where an export has them." },         \
	    { .name = "NewName",                                                                   \
	      .type = CMDLET_STRING,                                                               \
	      .flags = CMDLET_OURS,                                                                \
	      .sets = FROM_PATH,                                                                   \
	      .help = "Another name for the virtual machine." },                                   \
	{                                                                                          \
		.name = "CompatibilityReport", .type = CMDLET_FILE, .flags = CMDLET_MANDATORY,     \
		.sets = SET(2), .offer = CMDLET_OFFER_FILE,                                        \
		.help =                                                                            \
		    "What `compare-vm --json` wrote, mended where that was needed: its member "    \
		    "VM is the description that the virtual machine gets."                         \
	}

static const struct cmdlet_param import_params[] = { IMPORT_PARAMS, COMPUTER_NAME, END_PARAMS };
static const struct cmdlet_param compare_params[] = {
	IMPORT_PARAMS,
	NOT_YET("Name", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("VM", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("DestinationHost", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("DestinationCredential", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("DestinationCimSession", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("IncludeStorage", CMDLET_SWITCH, "There is no migration yet."),
	NOT_YET("DestinationStoragePath", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There is no migration yet."),
	NOT_YET("RetainVhdCopiesOnSource", CMDLET_SWITCH, "There is no migration yet."),
	NOT_YET("Vhds", CMDLET_STRING, "There is no migration yet."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example import_examples[] = {
	{ "import-vm '/srv/web/Virtual Machines/1F3E.vmcx'",
	  "Takes over a virtual machine of Hyper-V with its disks where they are." },
	{ "import-vm /srv/export/web/Virtual\\ Machines/*/vm.json -Copy -GenerateNewId -NewName "
	  "web2",
	  "Makes a second one of an export." },
	{ "import-vm -CompatibilityReport report.json",
	  "Imports what Compare-VM looked at, as its report was mended." },
	END_EXAMPLES,
};
static const struct cmdlet_example compare_examples[] = {
	{ "compare-vm /srv/web/machine.xml",
	  "What would not be as it was on Hyper-V; nothing is changed." },
	{ "compare-vm /srv/web/machine.xml --json",
	  "As a file, and mended where something stands in the way: what Import-VM takes as "
	  "-CompatibilityReport. Its member VM is the description that the machine gets." },
	END_EXAMPLES,
};

/* ---- versions ---- */

static const struct cmdlet_output version_output = {
	"VMHostSupportedVersion",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "Version", "Version", CMDLET_SHOW_TEXT },
					{ "IsDefault", "IsDefault", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_param supported_params[] = {
	{ .name = "Default",
	  .type = CMDLET_SWITCH,
	  .help = "Only the one that a new virtual machine gets." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example supported_examples[] = {
	{ "get-vmhostsupportedversion", "What an imported virtual machine may have." },
	END_EXAMPLES,
};

static const struct cmdlet_param update_params[] = {
	VM_BY_NAME, FORCE("Does not ask."), PASSTHRU, COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example update_examples[] = {
	{ "update-vmversion web -Force", "Raises it to this host's newest." },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_import[] = {
	{ .name = "Export-VM",
	  .synopsis = "Copies a virtual machine out, with all that belongs to it",
	  .description = "Copies virtual machines, with their checkpoints, saved state, disks and "
			 "boot files, to "
			 "a folder from which Import-VM takes them, on this host or another. One "
			 "that runs goes "
			 "on. ISO images stay where they are. While disks are being merged it "
			 "waits; Stop-Job or Ctrl-C ends that.",
	  .params = export_params,
	  .output = &import_output,
	  .examples = export_examples,
	  .output_if_passthru = true },
	{ .name = "Export-VMSnapshot",
	  .aliases = "Export-VMCheckpoint",
	  .synopsis = "Copies a checkpoint out as a virtual machine",
	  .description = "As Export-VM, but of the virtual machine as it was at its checkpoint, "
			 "with the memory "
			 "that this has. It may run. The disks come with all layers under them, "
			 "which Import-VM merges.",
	  .params = export_checkpoint_params,
	  .output = &import_output,
	  .examples = export_checkpoint_examples,
	  .output_if_passthru = true },
	{ .name = "Import-VM",
	  .synopsis = "Takes over a virtual machine from files",
	  .description = "Registers a virtual machine from an export of ours, or from the "
			 "configuration file of "
			 "Hyper-V (.vmcx, or .xml of version 5.0) with its disks. Compare-VM tells "
			 "before what "
			 "has no counterpart here; what stands in the way refuses the import.",
	  .sets = import_sets,
	  .params = import_params,
	  .output = &import_output,
	  .examples = import_examples },
	{ .name = "Compare-VM",
	  .synopsis = "Tells what an import would change",
	  .description = "Looks at a configuration file as Import-VM does and reports "
			 "(Incompatibilities) what "
			 "would be lost or changed, and what stands in the way (Error). The report "
			 "can be mended "
			 "and given to Import-VM.",
	  .sets = import_sets,
	  .params = compare_params,
	  .output = &report_output,
	  .examples = compare_examples },
	{ .name = "Get-VMHostSupportedVersion",
	  .synopsis = "Lists the configuration versions that this host can run",
	  .description =
	      "A virtual machine's configuration version says what its description and its "
	      "saved states hold. One that is newer is refused by Import-VM.",
	  .params = supported_params,
	  .output = &version_output,
	  .examples = supported_examples },
	{ .name = "Update-VMVersion",
	  .synopsis = "Raises a virtual machine's configuration version",
	  .description = "It must be off. There is no way back. So far there is one version, so "
			 "that there is nothing to raise where it has that.",
	  .params = update_params,
	  .output = &import_output,
	  .examples = update_examples,
	  .output_if_passthru = true,
	  .confirm = true,
	  .what_if = "Name" },
};

const size_t cmdlet_table_import_count = ARRAY_SIZE(cmdlet_table_import);
