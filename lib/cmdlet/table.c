/* The table itself. Names, parameters, sets and defaults are Hyper-V's; what is ours is marked. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

/* Positions: 0 where Hyper-V has none. */
#define CONTROLLER_TYPE(extra, place)                                                              \
	{                                                                                          \
		.name = "ControllerType", .type = CMDLET_ENUM, .flags = (extra),                   \
		.position = (place), .values = "SCSI IDE",                                         \
		.help = "Kind of controller. IDE is of generation 1."                              \
	}
#define CONTROLLER_NUMBER(extra, place)                                                            \
	{                                                                                          \
		.name = "ControllerNumber", .type = CMDLET_INTEGER, .flags = (extra),              \
		.position = (place), .min = 0, .max = 3, .help = "Number of the controller."       \
	}
#define CONTROLLER_LOCATION(extra, place)                                                          \
	{                                                                                          \
		.name = "ControllerLocation", .type = CMDLET_INTEGER, .flags = (extra),            \
		.position = (place), .min = 0, .max = 63, .help = "Location on the controller."    \
	}
/* A drive that comes through a pipe tells its place. */
#define PIPED        CMDLET_PIPELINE
#define PIPED_NEEDED (CMDLET_PIPELINE | CMDLET_MANDATORY)
#define MEMORY_HELP  "Memory at the start, in bytes or with MB, GB; a multiple of 2 MB."

/* ---- outputs ---- */

static const struct cmdlet_output vm_output = {
	"VirtualMachine",
	(const struct cmdlet_column[]){
	    { "Name", "Name", CMDLET_SHOW_TEXT },
	    { "State", "State", CMDLET_SHOW_TEXT },
	    { "CPUUsage", "CPUUsage(%)", CMDLET_SHOW_TEXT },
	    { "MemoryAssigned", "MemoryAssigned(M)", CMDLET_SHOW_MB },
	    { "Uptime", "Uptime", CMDLET_SHOW_DURATION },
	    { "Status", "Status", CMDLET_SHOW_TEXT },
	    { "Version", "Version", CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    { "Generation", NULL, CMDLET_SHOW_TEXT },
	    { "ProcessorCount", NULL, CMDLET_SHOW_TEXT },
	    { "MemoryDemand", NULL, CMDLET_SHOW_TEXT },
	    { "MemoryStatus", NULL, CMDLET_SHOW_TEXT },
	    { "DynamicMemoryEnabled", NULL, CMDLET_SHOW_TEXT },
	    { "MemoryMinimum", NULL, CMDLET_SHOW_TEXT },
	    { "MemoryStartup", NULL, CMDLET_SHOW_TEXT },
	    { "MemoryMaximum", NULL, CMDLET_SHOW_TEXT },
	    { "CheckpointType", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticCheckpointsEnabled", NULL, CMDLET_SHOW_TEXT },
	    { "ParentSnapshotId", NULL, CMDLET_SHOW_TEXT },
	    { "Notes", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticStartAction", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticStartDelay", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticStopAction", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticRecoveryAction", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticCriticalErrorAction", NULL, CMDLET_SHOW_TEXT },
	    { "AutomaticCriticalErrorActionTimeout", NULL, CMDLET_SHOW_TEXT },
	    { "ResourceMeteringEnabled", NULL, CMDLET_SHOW_TEXT },
	    { "EnhancedSessionTransportType", NULL, CMDLET_SHOW_TEXT },
	    { "Heartbeat", NULL, CMDLET_SHOW_TEXT },
	    { "IntegrationServicesState", NULL, CMDLET_SHOW_TEXT },
	    { "GuestHostName", NULL, CMDLET_SHOW_TEXT },
	    { "GuestOperatingSystem", NULL, CMDLET_SHOW_TEXT },
	    { "GuestKernel", NULL, CMDLET_SHOW_TEXT },
	    { "IPAddresses", NULL, CMDLET_SHOW_TEXT },
	    { "Backend", NULL, CMDLET_SHOW_TEXT },
	    { "BackendReason", NULL, CMDLET_SHOW_TEXT },
	    { "ResidentMemory", NULL, CMDLET_SHOW_TEXT },
	    { "WorkerProcessId", NULL, CMDLET_SHOW_TEXT },
	    { "LinuxKernelPath", NULL, CMDLET_SHOW_TEXT },
	    { "LinuxInitrdPath", NULL, CMDLET_SHOW_TEXT },
	    { "LinuxCommandLine", NULL, CMDLET_SHOW_TEXT },
	    { "Path", NULL, CMDLET_SHOW_TEXT },
	    { "ConfigurationLocation", NULL, CMDLET_SHOW_TEXT },
	    { "SnapshotFileLocation", NULL, CMDLET_SHOW_TEXT },
	    { "SmartPagingFilePath", NULL, CMDLET_SHOW_TEXT },
	    { "LastStopReason", NULL, CMDLET_SHOW_TEXT },
	    { "LastStopTime", NULL, CMDLET_SHOW_TEXT },
	    { "GuestCrash", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output service_output = {
	"VMIntegrationComponent",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "Name", "Name", CMDLET_SHOW_TEXT },
	    { "Enabled", "Enabled", CMDLET_SHOW_TEXT },
	    { "PrimaryStatusDescription", "PrimaryStatusDescription", CMDLET_SHOW_TEXT },
	    { "SecondaryStatusDescription", "SecondaryStatusDescription", CMDLET_SHOW_TEXT },
	    { "PrimaryOperationalStatus", NULL, CMDLET_SHOW_TEXT },
	    { "SecondaryOperationalStatus", NULL, CMDLET_SHOW_TEXT },
	    { "Version", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output hard_disk_output = {
	"HardDiskDrive",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "ControllerType", "ControllerType", CMDLET_SHOW_TEXT },
	    { "ControllerNumber", "ControllerNumber", CMDLET_SHOW_TEXT },
	    { "ControllerLocation", "ControllerLocation", CMDLET_SHOW_TEXT },
	    { "Path", "Path", CMDLET_SHOW_TEXT },
	    { "ReadOnly", NULL, CMDLET_SHOW_TEXT },
	    { "MinimumIOPS", NULL, CMDLET_SHOW_TEXT },
	    { "MaximumIOPS", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output controller_output = {
	"VMScsiController",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "ControllerNumber", "ControllerNumber", CMDLET_SHOW_TEXT },
	    { "Drives", "Drives", CMDLET_SHOW_TEXT },
	    { "Name", NULL, CMDLET_SHOW_TEXT },
	    { "Id", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output dvd_output = {
	"DvdDrive",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "ControllerType", "ControllerType", CMDLET_SHOW_TEXT },
	    { "ControllerNumber", "ControllerNumber", CMDLET_SHOW_TEXT },
	    { "ControllerLocation", "ControllerLocation", CMDLET_SHOW_TEXT },
	    { "DvdMediaType", "DvdMediaType", CMDLET_SHOW_TEXT },
	    { "Path", "Path", CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output processor_output = {
	"VMProcessor",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "Count", "Count", CMDLET_SHOW_TEXT },
	    { "Reserve", "Reserve", CMDLET_SHOW_TEXT },
	    { "Maximum", "Maximum", CMDLET_SHOW_TEXT },
	    { "RelativeWeight", "RelativeWeight", CMDLET_SHOW_TEXT },
	    { "CompatibilityForMigrationEnabled", NULL, CMDLET_SHOW_TEXT },
	    { "ResourceControl", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output memory_output = {
	"VMMemory",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "DynamicMemoryEnabled", "DynamicMemoryEnabled", CMDLET_SHOW_TEXT },
	    { "Minimum", "Minimum(M)", CMDLET_SHOW_MB },
	    { "Startup", "Startup(M)", CMDLET_SHOW_MB },
	    { "Maximum", "Maximum(M)", CMDLET_SHOW_MB },
	    { "Buffer", NULL, CMDLET_SHOW_TEXT },
	    { "Priority", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output host_output = {
	"VMHost",
	(const struct cmdlet_column[]){
	    { "Name", "Name", CMDLET_SHOW_TEXT },
	    { "LogicalProcessorCount", "LogicalProcessorCount", CMDLET_SHOW_TEXT },
	    { "MemoryCapacity", "MemoryCapacity(M)", CMDLET_SHOW_MB },
	    { "Backend", "Backend", CMDLET_SHOW_TEXT },
	    { "Version", "Version", CMDLET_SHOW_TEXT },
	    { "BackendReason", NULL, CMDLET_SHOW_TEXT },
	    { "VirtualMachinePath", NULL, CMDLET_SHOW_TEXT },
	    { "VirtualHardDiskPath", NULL, CMDLET_SHOW_TEXT },
	    { "MacAddressMinimum", NULL, CMDLET_SHOW_TEXT },
	    { "MacAddressMaximum", NULL, CMDLET_SHOW_TEXT },
	    { "ApiAddress", NULL, CMDLET_SHOW_TEXT },
	    { "ApiFingerprint", NULL, CMDLET_SHOW_TEXT },
	    { "EnableEnhancedSessionMode", NULL, CMDLET_SHOW_TEXT },
	    { "NumaSpanningEnabled", NULL, CMDLET_SHOW_TEXT },
	    { "ResourceMeteringSaveInterval", NULL, CMDLET_SHOW_TEXT },
	    { "VirtualMachineCount", NULL, CMDLET_SHOW_TEXT },
	    { "ProcessId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output event_output = {
	"VMEvent",
	(const struct cmdlet_column[]){
	    { "TimeCreated", "TimeCreated", CMDLET_SHOW_TEXT },
	    { "Id", "Id", CMDLET_SHOW_TEXT },
	    { "LevelDisplayName", "LevelDisplayName", CMDLET_SHOW_TEXT },
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    { "Message", "Message", CMDLET_SHOW_TEXT },
	    { "Event", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    { "Data", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

/* ---- parameters and examples of each cmdlet ---- */

static const char *const new_vm_sets[] = { "No VHD", "Existing VHD", "New VHD", NULL };
static const struct cmdlet_param new_vm_params[] = {
	{ .name = "Name",
	  .aliases = "VMName",
	  .type = CMDLET_STRING,
	  .position = 1,
	  .dflt = "New Virtual Machine",
	  .help = "Name of the new virtual machine." },
	{ .name = "MemoryStartupBytes",
	  .type = CMDLET_SIZE,
	  .position = 2,
	  .dflt = "512MB",
	  .help = MEMORY_HELP },
	{ .name = "Generation",
	  .type = CMDLET_INTEGER,
	  .position = 3,
	  .min = 1,
	  .max = 2,
	  .dflt = "2",
	  .help = "Generation of the virtual hardware. Only 2 is there yet, and it is the default "
		  "(as in Hyper-V's wizard since 2025; Hyper-V's cmdlet has 1)." },
	{ .name = "NoVHD",
	  .type = CMDLET_SWITCH,
	  .sets = SET(0),
	  .help = "Makes the virtual machine without a disk. This is the default." },
	{ .name = "VHDPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Disk file to attach." },
	{ .name = "NewVHDPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(2),
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Disk file to make, dynamic, and to attach." },
	{ .name = "NewVHDSizeBytes",
	  .type = CMDLET_SIZE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(2),
	  .help = "Size of the new disk." },
	{ .name = "SwitchName",
	  .type = CMDLET_STRING,
	  .offer = CMDLET_OFFER_SWITCH,
	  .help = "Virtual switch that the network adapter is connected to." },
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Folder in which the virtual machine's own folder, named as it, is made." },
	{ .name = "BootDevice",
	  .type = CMDLET_ENUM,
	  .values = "Floppy CD IDE LegacyNetworkAdapter NetworkAdapter VHD",
	  .help = "What comes first in the boot order: VHD, NetworkAdapter, or CD, which adds an "
		  "empty DVD drive. It is kept for the firmware that is not there yet (see "
		  "Set-VMFirmware); the others are of generation 1." },
	{ .name = "Version",
	  .type = CMDLET_STRING,
	  .help = "Its configuration version, one of Get-VMHostSupportedVersion." },
	{ .name = "ProcessorCount",
	  .type = CMDLET_INTEGER,
	  .flags = CMDLET_OURS,
	  .min = 1,
	  .max = 64,
	  .dflt = "1",
	  .help = "Number of virtual processors (Hyper-V: Set-VMProcessor -Count)." },
	{ .name = "Notes",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_OURS,
	  .help = "Text kept with the virtual machine (Hyper-V: Set-VM -Notes)." },
	{ .name = "Backend",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_OURS,
	  .values = "auto kvm soft soft-interpreter soft-lockstep",
	  .dflt = "auto",
	  .help = "What runs the guest's instructions: kvm, or soft, the software CPU; auto takes "
		  "kvm where the host has it. soft-interpreter is slow, and there for comparing; "
		  "soft-lockstep does the comparing, and stops the machine at a difference." },
	{ .name = "LinuxKernelPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_OURS,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Linux kernel that is started directly, without firmware." },
	{ .name = "LinuxInitrdPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_OURS,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Initial RAM disk for -LinuxKernelPath." },
	{ .name = "LinuxCommandLine",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_OURS,
	  .help = "Kernel command line for -LinuxKernelPath." },
	NOT_YET("SourceGuestStatePath", CMDLET_STRING,
		"There is no firmware whose state could be taken over."),
	NOT_YET("GuestStateIsolationType", CMDLET_STRING, "Memory of guests is not encrypted."),
	NOT_YET("Prerelease", CMDLET_SWITCH, "There is one configuration version."),
	NOT_YET("Experimental", CMDLET_SWITCH, "There is one configuration version."),
	FORCE("Accepted for Hyper-V's sake."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example new_vm_examples[] = {
	{ "new-vm -Name web -MemoryStartupBytes 1GB -VHDPath web.vhdx -SwitchName 'Default Switch' "
	  "-LinuxKernelPath vmlinuz -LinuxInitrdPath initrd.img -LinuxCommandLine "
	  "'root=/dev/sda ro console=ttyS0'",
	  "A virtual machine with a disk and a network." },
	{ "new-vm -Name t -Generation 2 -MemoryStartupBytes 512MB -ProcessorCount 1 "
	  "-LinuxKernelPath K -LinuxInitrdPath I -LinuxCommandLine 'console=ttyS0' -NoVHD",
	  "A kernel and its RAM disk, and nothing else." },
	END_EXAMPLES,
};

static const char *const get_vm_sets[] = { "Name", "Id", NULL };
static const struct cmdlet_param get_vm_params[] = {
	{ .name = "Name",
	  .aliases = "VMName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .sets = SET(0),
	  .position = 1,
	  .dflt = "*",
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match. Without it: all." },
	{ .name = "Id",
	  .type = CMDLET_GUID,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "Identifier of one virtual machine." },
	NOT_YET("ClusterObject", CMDLET_STRING, "There are no clusters."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_vm_examples[] = {
	{ "get-vm", "All virtual machines as a table." },
	{ "get-vm -Name 'web*' -FormatList", "All that is known about some of them." },
	{ "get-vm web --json", "The same for programs." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_vm_params[] = {
	VM_BY_NAME,
	{ .name = "ProcessorCount",
	  .type = CMDLET_INTEGER,
	  .min = 1,
	  .max = 64,
	  .help = "Number of virtual processors. The virtual machine must be off." },
	{ .name = "MemoryStartupBytes", .type = CMDLET_SIZE, .help = MEMORY_HELP },
	{ .name = "StaticMemory",
	  .type = CMDLET_SWITCH,
	  .help = "The guest keeps the memory that it is given. This is the default." },
	{ .name = "DynamicMemory",
	  .type = CMDLET_SWITCH,
	  .help = "The memory follows the guest's demand; see Set-VMMemory." },
	{ .name = "MemoryMinimumBytes",
	  .type = CMDLET_SIZE,
	  .help = "Least memory with dynamic memory." },
	{ .name = "MemoryMaximumBytes",
	  .type = CMDLET_SIZE,
	  .help = "Most memory with dynamic memory." },
	{ .name = "NewVMName", .type = CMDLET_STRING, .help = "Gives it another name." },
	{ .name = "Notes", .type = CMDLET_STRING, .help = "Text kept with the virtual machine." },
	{ .name = "AutomaticStartAction",
	  .type = CMDLET_ENUM,
	  .values = "Nothing StartIfRunning Start",
	  .help = "What is done when the service starts for the first time after the host did." },
	{ .name = "AutomaticStartDelay",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = 86400,
	  .help = "Seconds that an automatic start waits." },
	{ .name = "AutomaticStopAction",
	  .type = CMDLET_ENUM,
	  .values = "TurnOff Save ShutDown",
	  .help = "What is done when the host stops (Stop-VM -HostStops)." },
	{ .name = "AutomaticRecoveryAction",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_OURS,
	  .values = "None Restart",
	  .help = "What is done when its worker fails (Hyper-V: AutomaticRecoveryAction of "
		  "Msvm_VirtualSystemSettingData): Restart starts it again, three times in ten "
		  "minutes; None unless set." },
	{ .name = "AutomaticCriticalErrorAction",
	  .type = CMDLET_ENUM,
	  .values = "None Pause",
	  .help =
	      "What is done when the host's storage fails: Pause, which is the default, until it "
	      "is back; or None, and the guest gets the errors." },
	{ .name = "AutomaticCriticalErrorActionTimeout",
	  .type = CMDLET_INTEGER,
	  .min = 1,
	  .max = 1440,
	  .help = "Minutes that it is paused before it is turned off; 30 unless set." },
	ONLY_FALSE("GuestControlledCacheTypes",
		   "What kind of cache memory has is the host's affair."),
	NOT_YET("LowMemoryMappedIoSpace", CMDLET_INTEGER, "It is for assigned devices."),
	NOT_YET("HighMemoryMappedIoSpace", CMDLET_INTEGER, "It is for assigned devices."),
	ONLY_OFF("LockOnDisconnect", "A console can't lock the guest."),
	{ .name = "SnapshotFileLocation",
	  .aliases = "CheckpointFileLocation",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Folder in which its checkpoints have a folder of their own, Snapshots; '' for "
		  "its own folder. Only while it has no checkpoints. Differencing disks stay "
		  "beside the disks." },
	{ .name = "SmartPagingFilePath",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Folder for smart paging, which is not there: it is kept and shown." },
	{ .name = "EnhancedSessionTransportType",
	  .type = CMDLET_ENUM,
	  .values = "VMBus HvSocket",
	  .help = "How enhanced sessions reach the guest: HvSocket for Linux with xrdp, VMBus (the "
		  "default) for Windows, which is not there yet." },
	{ .name = "CheckpointType",
	  .type = CMDLET_ENUM,
	  .values = "Disabled Production ProductionOnly Standard",
	  .help =
	      "What Checkpoint-VM takes of a running VM. Production: its disks, while the guest "
	      "has its "
	      "file systems stand still, or where it can't a standard one; ProductionOnly: without "
	      "that way out. Standard: memory, devices and disks." },
	{ .name = "AutomaticCheckpointsEnabled",
	  .type = CMDLET_BOOLEAN,
	  .help = "Takes a checkpoint at each start, which is removed when the machine is off "
		  "again." },
	{ .name = "Backend",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_OURS,
	  .values = "auto kvm soft soft-interpreter soft-lockstep",
	  .help = "What runs the guest's instructions; see New-VM. Takes effect at the next "
		  "start." },
	{ .name = "CodeCacheBytes",
	  .type = CMDLET_SIZE,
	  .flags = CMDLET_OURS,
	  .help =
	      "Memory for translated code and its tables, of each processor on the software CPU: "
	      "1MB to 1GB. Default: 64MB, less when there are more than 16 processors. Takes "
	      "effect at the next start." },
	{ .name = "LinuxKernelPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_OURS,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Linux kernel that is started directly, without firmware." },
	{ .name = "LinuxInitrdPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_OURS,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Initial RAM disk for the kernel." },
	{ .name = "LinuxCommandLine",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_OURS,
	  .help = "Kernel command line." },
	{ .name = "AllowUnverifiedPaths",
	  .type = CMDLET_SWITCH,
	  .help = "Does not check that the folders are there." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_vm_examples[] = {
	{ "set-vm web -ProcessorCount 4 -MemoryStartupBytes 2GB", "More of everything." },
	{ "set-vm 'web*' -AutomaticStartAction StartIfRunning -AutomaticStopAction ShutDown",
	  "What becomes of them when the host stops and starts." },
	END_EXAMPLES,
};

static const struct cmdlet_param start_vm_params[] = {
	VM_BY_NAME,
	{ .name = "Console",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_OURS,
	  .help =
	      "Ties the serial console (COM1) to the terminal or pipe until the virtual machine "
	      "is off. On a terminal Ctrl-] leaves the console and the guest runs on. Fails if "
	      "the start failed or the guest or its worker crashed." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example start_vm_examples[] = {
	{ "start-vm web,db", "Starts two." },
	{ "get-vm 'web*' | oyako start-vm", "Starts those that another cmdlet finds." },
	{ "start-vm -Name t -Console", "Starts one and shows its serial console." },
	END_EXAMPLES,
};

static const char *const stop_vm_sets[] = { "Shut down", "Turn off", "Save", "Host stops", NULL };
static const struct cmdlet_param stop_vm_params[] = {
	VM_BY_NAME,
	{ .name = "TurnOff",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "As pulling the plug: at once, and the guest does not know." },
	{ .name = "Save",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(2),
	  .help = "Saves its memory and state, as Save-VM does; Start-VM goes on from there." },
	{ .name = "HostStops",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY | CMDLET_OURS,
	  .sets = SET(3),
	  .help = "Does what each one's automatic stop action says, and remembers that it ran." },
	FORCE("Shuts the guest down even if it objects, and turns it off if it is not off after "
	      "five minutes."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example stop_vm_examples[] = {
	{ "stop-vm web", "The guest shuts down; waits until it is off, five minutes at most." },
	{ "stop-vm '*' -TurnOff", "Turns all off." },
	END_EXAMPLES,
};

static const char *const restart_vm_sets[] = { "Restart", "Wait", NULL };
static const struct cmdlet_param restart_vm_params[] = {
	VM_BY_NAME,
	{ .name = "Type",
	  .type = CMDLET_ENUM,
	  .values = "Reset Reboot",
	  .dflt = "Reset",
	  .help = "Reset: as the reset button. Reboot: the guest restarts itself by the shutdown "
		  "service." },
	FORCE("Reboot: even if the guest objects."),
	{ .name = "Wait",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "Waits until the guest is back: see -For." },
	{ .name = "For",
	  .type = CMDLET_ENUM,
	  .sets = SET(1),
	  .values = "Heartbeat IPAddress",
	  .dflt = "Heartbeat",
	  .help = "What -Wait waits for." },
	{ .name = "Timeout",
	  .aliases = "TimeoutSec",
	  .type = CMDLET_INTEGER,
	  .sets = SET(1),
	  .min = 1,
	  .max = 86400,
	  .dflt = "300",
	  .help = "Seconds that -Wait waits." },
	{ .name = "Delay",
	  .type = CMDLET_INTEGER,
	  .sets = SET(1),
	  .min = 1,
	  .max = 65535,
	  .help = "Seconds between Hyper-V's looks at the guest. Accepted for its sake: here the "
		  "guest's news is waited for." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example restart_vm_examples[] = {
	{ "restart-vm web -Type Reboot", "The guest reboots." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_vm_params[] = {
	VM_BY_NAME, FORCE("Does not ask."), PASSTHRU, COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example remove_vm_examples[] = {
	{ "remove-vm web -Force", "Removes it; its disk files stay." },
	END_EXAMPLES,
};

static const struct cmdlet_param rename_vm_params[] = {
	VM_BY_NAME,
	{ .name = "NewName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .help = "The new name." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example rename_vm_examples[] = {
	{ "rename-vm web www", "web is called www." },
	END_EXAMPLES,
};

static const struct cmdlet_param plain_vm_params[] = { VM_BY_NAME, PASSTHRU, COMPUTER_NAME,
						       END_PARAMS };
static const struct cmdlet_example suspend_vm_examples[] = {
	{ "suspend-vm web", "The guest stands still; its memory stays." },
	END_EXAMPLES,
};
static const struct cmdlet_example resume_vm_examples[] = {
	{ "resume-vm web", "It runs again." },
	END_EXAMPLES,
};

static const struct cmdlet_param debug_vm_params[] = {
	VM_BY_NAME,
	{ .name = "InjectNonMaskableInterrupt",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .help = "Sends an NMI to the guest." },
	FORCE("Does not ask."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example debug_vm_examples[] = {
	{ "debug-vm web -InjectNonMaskableInterrupt -Force", "Makes a guest that hangs dump." },
	END_EXAMPLES,
};

static const struct cmdlet_param connect_vm_params[] = {
	{ .name = "Name",
	  .aliases = "VMName VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 1,
	  .offer = CMDLET_OFFER_VM,
	  .help = "Name of the virtual machine." },
	{ .name = "EnhancedSession",
	  .type = CMDLET_SWITCH,
	  .help =
	      "Opens a port for RDP clients instead; the guest needs an RDP server that listens "
	      "on port 3389 of AF_VSOCK (xrdp: port=vsock://-1:3389)." },
	{ .name = "ListenAddress",
	  .type = CMDLET_STRING,
	  .help = "With -EnhancedSession: where RDP clients connect, as ADDRESS:PORT. By default a "
		  "free port of 127.0.0.1." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example connect_vm_examples[] = {
	{ "connect-vm web", "The serial console of web; Ctrl-] leaves it." },
	{ "connect-vm web -EnhancedSession -ListenAddress :3390",
	  "'xfreerdp /v:127.0.0.1:3390' then shows its desktop, with no network of the guest." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_service_params[] = {
	VM_BY_VMNAME,
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .position = 2,
	  .dflt = "*",
	  .offer = CMDLET_OFFER_SERVICE,
	  .help = "Names of the services." },
	OF_CHECKPOINT,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_service_examples[] = {
	{ "get-vmintegrationservice web", "The services of web and how they do." },
	END_EXAMPLES,
};

static const struct cmdlet_param change_service_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .position = 1,
	  .offer = CMDLET_OFFER_SERVICE,
	  .help = "Names of the services." },
	{ .name = "VMName",
	  .aliases = "VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .position = 2,
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match." },
	BY_PIPE("VMIntegrationService"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example enable_service_examples[] = {
	{ "enable-vmintegrationservice -Name Heartbeat -VMName web", "Offers it to the guest." },
	{ "get-vm | oyako enable-vmintegrationservice 'Guest Service Interface'",
	  "So that Copy-VMFile works with all." },
	END_EXAMPLES,
};
static const struct cmdlet_example disable_service_examples[] = {
	{ "disable-vmintegrationservice 'Time Synchronization' web", "Takes it away." },
	END_EXAMPLES,
};

#define IOPS(which, text)                                                                          \
	{                                                                                          \
		.name = which "IOPS", .type = CMDLET_INTEGER, .min = 0, .max = 1000000000,         \
		.help = text                                                                       \
	}

/* Of Add- and Set-VMHardDiskDrive: what the disk gets and gives. */
#define SERVICE_OF_DISK                                                                            \
	IOPS("Maximum",                                                                            \
	     "Requests a second, of 8 KiB or a part of it, that the guest gets at most; 0, "       \
	     "which is the default, for no limit."),                                               \
	    IOPS("Minimum",                                                                        \
		 "An event tells when a busy disk does fewer requests a second; 0 unless set."),   \
	    NOT_YET("SupportPersistentReservations", CMDLET_SWITCH, "A disk is one guest's."),     \
	    NOT_YET("QoSPolicyID", CMDLET_STRING, "Policies are of Storage Spaces Direct."),       \
	    NOT_YET("QoSPolicy", CMDLET_STRING, "Policies are of Storage Spaces Direct."),         \
	    NOT_YET("OverrideCacheAttributes", CMDLET_STRING,                                      \
		    "Guests see a disk with a write cache, which they flush."),                    \
	    NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools.")

#define UNVERIFIED_PATHS                                                                           \
	{                                                                                          \
		.name = "AllowUnverifiedPaths", .type = CMDLET_SWITCH,                             \
		.help = "Does not check that the file is there."                                   \
	}

static const struct cmdlet_param add_disk_params[] = {
	VM_BY_VMNAME,
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .position = 5,
	  .offer = CMDLET_OFFER_FILE,
	  .flags = CMDLET_MANDATORY,
	  .help = "Disk file." },
	CONTROLLER_TYPE(0, 2),
	CONTROLLER_NUMBER(PIPED, 3),
	CONTROLLER_LOCATION(0, 4),
	{ .name = "ReadOnly",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_OURS,
	  .help = "The guest can't write." },
	{ .name = "DiskNumber",
	  .type = CMDLET_INTEGER,
	  .flags = CMDLET_NOT_YET,
	  .help = "Disks of the host go by their device, as -Path /dev/sdb." },
	SERVICE_OF_DISK,
	UNVERIFIED_PATHS,
	BY_PIPE("VMDriveController"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example add_disk_examples[] = {
	{ "add-vmharddiskdrive -VMName web -Path data.vhdx", "At the first free location." },
	{ "get-vmscsicontroller web -ControllerNumber 1 | oyako add-vmharddiskdrive -Path d.vhdx",
	  "On the second controller." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_disk_params[] = {
	VM_BY_VMNAME,
	CONTROLLER_TYPE(0, 2),
	CONTROLLER_NUMBER(PIPED, 3),
	CONTROLLER_LOCATION(0, 4),
	OF_CHECKPOINT,
	BY_PIPE("VMDriveController"),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_disk_examples[] = {
	{ "get-vmharddiskdrive '*'", "Every attached disk." },
	{ "get-vm web | oyako get-vmharddiskdrive | oyako get-vhd", "What the disks of web are." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_disk_params[] = {
	ONE_VM,
	CONTROLLER_TYPE(PIPED, 2),
	CONTROLLER_NUMBER(PIPED_NEEDED, 3),
	CONTROLLER_LOCATION(PIPED_NEEDED, 4),
	BY_PIPE("VMHardDiskDrive"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_disk_examples[] = {
	{ "remove-vmharddiskdrive -VMName web -ControllerType SCSI -ControllerNumber 0 "
	  "-ControllerLocation 1",
	  "Detaches it; the file stays." },
	{ "get-vmharddiskdrive web | oyako remove-vmharddiskdrive", "Detaches all of them." },
	END_EXAMPLES,
};

#define TO_CONTROLLER_NUMBER                                                                       \
	{                                                                                          \
		.name = "ToControllerNumber", .type = CMDLET_INTEGER, .min = 0, .max = 3,          \
		.help = "Moves it to this controller."                                             \
	}
#define TO_CONTROLLER_LOCATION                                                                     \
	{                                                                                          \
		.name = "ToControllerLocation", .type = CMDLET_INTEGER, .min = 0, .max = 63,       \
		.help = "Moves it to this location."                                               \
	}

static const struct cmdlet_param set_disk_params[] = {
	ONE_VM,
	CONTROLLER_TYPE(PIPED, 2),
	CONTROLLER_NUMBER(PIPED, 3),
	CONTROLLER_LOCATION(PIPED, 4),
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .position = 5,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Disk file to attach in place of the present one." },
	NOT_YET("DiskNumber", CMDLET_INTEGER,
		"Disks of the host go by their device, as -Path /dev/sdb."),
	{ .name = "ToControllerType",
	  .type = CMDLET_ENUM,
	  .values = "SCSI IDE",
	  .help = "Kind of controller to move to. IDE is of generation 1." },
	TO_CONTROLLER_NUMBER,
	TO_CONTROLLER_LOCATION,
	{ .name = "SizeBytes",
	  .type = CMDLET_SIZE,
	  .flags = CMDLET_OURS,
	  .min = 1,
	  .max = INT64_MAX,
	  .help = "Makes the disk of a running virtual machine larger, as Resize-VHD does." },
	SERVICE_OF_DISK,
	UNVERIFIED_PATHS,
	BY_PIPE("VMHardDiskDrive"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_disk_examples[] = {
	{ "set-vmharddiskdrive -VMName web -ControllerLocation 1 -Path data2.vhdx",
	  "Takes the disk at location 1 away and attaches another one there." },
	{ "get-vmharddiskdrive web -ControllerLocation 0 | oyako set-vmharddiskdrive "
	  "-ToControllerLocation 5",
	  "Moves it." },
	END_EXAMPLES,
};

static const struct cmdlet_param controller_params[] = { VM_BY_VMNAME, PASSTHRU, COMPUTER_NAME,
							 END_PARAMS };
static const struct cmdlet_param get_controller_params[] = {
	VM_BY_VMNAME, CONTROLLER_NUMBER(0, 2), OF_CHECKPOINT, COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_output ide_output = {
	"VMIdeController",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "ControllerNumber", "ControllerNumber", CMDLET_SHOW_TEXT },
	    { "Drives", "Drives", CMDLET_SHOW_TEXT },
	    { "ControllerType", NULL, CMDLET_SHOW_TEXT },
	    { "Name", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};
static const struct cmdlet_param get_ide_params[] = {
	VM_BY_VMNAME,
	{ .name = "ControllerNumber",
	  .type = CMDLET_INTEGER,
	  .position = 2,
	  .min = 0,
	  .max = 1,
	  .help = "Number of the controller." },
	OF_CHECKPOINT,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_ide_examples[] = {
	{ "get-vmidecontroller old -ControllerNumber 0", "The first one with its drives." },
	END_EXAMPLES,
};
static const struct cmdlet_param remove_controller_params[] = {
	VM_BY_VMNAME,  CONTROLLER_NUMBER(PIPED_NEEDED, 2),
	PASSTHRU,      BY_PIPE("VMScsiController"),
	COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example add_controller_examples[] = {
	{ "add-vmscsicontroller web", "One more, four at most." },
	END_EXAMPLES,
};
static const struct cmdlet_example get_controller_examples[] = {
	{ "get-vmscsicontroller web -ControllerNumber 0", "The first one with its drives." },
	END_EXAMPLES,
};
static const struct cmdlet_example remove_controller_examples[] = {
	{ "remove-vmscsicontroller web -ControllerNumber 1",
	  "The second one with its drives; the files stay." },
	END_EXAMPLES,
};

static const struct cmdlet_param add_dvd_params[] = {
	VM_BY_VMNAME,
	CONTROLLER_NUMBER(PIPED, 2),
	CONTROLLER_LOCATION(0, 3),
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .position = 4,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "ISO file; without it the drive is empty." },
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	BY_PIPE("VMDriveController"),
	UNVERIFIED_PATHS,
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example add_dvd_examples[] = {
	{ "add-vmdvddrive -VMName web -Path debian.iso", "A drive with a medium." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_dvd_params[] = {
	VM_BY_VMNAME,  CONTROLLER_NUMBER(PIPED, 2),  CONTROLLER_LOCATION(0, 3),
	OF_CHECKPOINT, BY_PIPE("VMDriveController"), COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_dvd_examples[] = {
	{ "get-vmdvddrive web", "Its DVD drives." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_dvd_params[] = {
	ONE_VM,
	CONTROLLER_NUMBER(PIPED, 2),
	CONTROLLER_LOCATION(PIPED, 3),
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .position = 4,
	  .offer = CMDLET_OFFER_FILE,
	  .flags = CMDLET_NULLABLE,
	  .help = "ISO file to insert; '' or $null ejects." },
	TO_CONTROLLER_NUMBER,
	TO_CONTROLLER_LOCATION,
	UNVERIFIED_PATHS,
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	BY_PIPE("VMDvdDrive"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_dvd_examples[] = {
	{ "set-vmdvddrive -VMName web -Path tools.iso", "Changes the medium of its only drive." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_dvd_params[] = {
	ONE_VM,
	CONTROLLER_NUMBER(PIPED_NEEDED, 2),
	CONTROLLER_LOCATION(PIPED_NEEDED, 3),
	BY_PIPE("VMDvdDrive"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_dvd_examples[] = {
	{ "remove-vmdvddrive -VMName web -ControllerNumber 0 -ControllerLocation 1",
	  "Takes the drive away." },
	END_EXAMPLES,
};

static const struct cmdlet_param by_vmname_params[] = { VM_BY_VMNAME, OF_CHECKPOINT, COMPUTER_NAME,
							END_PARAMS };
static const struct cmdlet_param set_processor_params[] = {
	VM_BY_VMNAME,
	{ .name = "Count",
	  .type = CMDLET_INTEGER,
	  .position = 2,
	  .min = 1,
	  .max = 64,
	  .help = "Number of virtual processors. The virtual machine must be off." },
	{ .name = "Reserve",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = 100,
	  .help = "Percentage of each of its processors that the host must have to spare for it to "
		  "start; 0 unless set." },
	{ .name = "Maximum",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = 100,
	  .help = "Percentage of its processors that it gets at most; 100 unless set. The control "
		  "group's cpu.max, if the service has one (ResourceControl of Get-VMProcessor)." },
	{ .name = "RelativeWeight",
	  .type = CMDLET_INTEGER,
	  .min = 1,
	  .max = 10000,
	  .help = "What each of its processors counts where all of the host's are busy; 100 unless "
		  "set. The control group's cpu.weight." },
	ONLY_FALSE("ExposeVirtualizationExtensions",
		   "Guests can't run virtual machines themselves."),
	{ .name = "CompatibilityForMigrationEnabled",
	  .type = CMDLET_BOOLEAN,
	  .help = "Whether the guest sees only what all processors of x86-64-v2 have, so that its "
		  "saved "
		  "state and checkpoints run on any of them: else it also sees AVX2, FMA, BMI, "
		  "AES, SHA "
		  "and their like where the host has them. The virtual machine must be off." },
	ONLY_FALSE("CompatibilityForOlderOperatingSystemsEnabled",
		   "Guests see one processor, which Windows NT 4.0 does not know."),
	NOT_YET("HwThreadCountPerCore", CMDLET_INTEGER, "Each processor is a core."),
	NOT_YET("MaximumCountPerNumaNode", CMDLET_INTEGER, "Guests have one NUMA node."),
	NOT_YET("MaximumCountPerNumaSocket", CMDLET_INTEGER, "Guests have one socket."),
	NOT_YET("Perfmon", CMDLET_STRING, "Guests have no performance counters."),
	ONLY("EnableHostResourceProtection", CMDLET_BOOLEAN, NULL, "true",
	     "What a guest can ask of the host is always bounded."),
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	BY_PIPE("VMProcessor"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_processor_examples[] = {
	{ "get-vmprocessor web", "How many it has." },
	END_EXAMPLES,
};
static const struct cmdlet_example set_processor_examples[] = {
	{ "set-vmprocessor web -Count 2", "Two processors from the next start on." },
	{ "set-vmprocessor web -CompatibilityForMigrationEnabled true",
	  "From the next start on its state can be taken to hosts with other processors." },
	{ "set-vmprocessor web -Maximum 50 -RelativeWeight 200",
	  "Half of what its processors could use at most, but twice the share of others." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_memory_params[] = {
	VM_BY_VMNAME,
	{ .name = "StartupBytes", .type = CMDLET_SIZE, .help = MEMORY_HELP },
	{ .name = "DynamicMemoryEnabled",
	  .type = CMDLET_BOOLEAN,
	  .help = "Whether the memory follows the guest's demand. Only while it is off." },
	{ .name = "MinimumBytes",
	  .type = CMDLET_SIZE,
	  .help = "Dynamic memory never takes more from the guest; 512 MB unless set. While the "
		  "guest runs it can only be lowered." },
	{ .name = "MaximumBytes",
	  .type = CMDLET_SIZE,
	  .help = "Dynamic memory never gives it more; 1 TB unless set. While the guest runs it "
		  "can only be raised." },
	{ .name = "Buffer",
	  .type = CMDLET_INTEGER,
	  .min = 5,
	  .max = 2000,
	  .help = "Percentage of its demand that the guest is to have spare; 20 unless set." },
	{ .name = "Priority",
	  .type = CMDLET_INTEGER,
	  .min = 0,
	  .max = 100,
	  .help = "Who gets memory when it is scarce; 50 unless set." },
	NOT_YET("MaximumAmountPerNumaNodeBytes", CMDLET_SIZE, "Guests have one NUMA node."),
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	BY_PIPE("VMMemory"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_memory_examples[] = {
	{ "get-vmmemory web", "What it has." },
	END_EXAMPLES,
};
static const struct cmdlet_example set_memory_examples[] = {
	{ "set-vmmemory web -StartupBytes 2GB", "2 GB." },
	{ "set-vmmemory web -DynamicMemoryEnabled true -MinimumBytes 256MB -MaximumBytes 4GB",
	  "As much as it needs, within these bounds." },
	END_EXAMPLES,
};

static const struct cmdlet_output video_output = {
	"VMVideo",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "Enabled", "Enabled", CMDLET_SHOW_TEXT },
	    { "ResolutionType", "ResolutionType", CMDLET_SHOW_TEXT },
	    { "HorizontalResolution", "HorizontalResolution", CMDLET_SHOW_TEXT },
	    { "VerticalResolution", "VerticalResolution", CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};
static const struct cmdlet_param set_video_params[] = {
	VM_BY_VMNAME,
	{ .name = "ResolutionType",
	  .type = CMDLET_ENUM,
	  .values = "Maximum Single Default",
	  .position = 2,
	  .help = "Maximum: the guest chooses up to the resolution; Single: only that one; "
		  "Default: up to 1920 x 1080." },
	{ .name = "HorizontalResolution",
	  .type = CMDLET_INTEGER,
	  .position = 3,
	  .min = 640,
	  .max = 7680,
	  .help = "Pixels across; an even number." },
	{ .name = "VerticalResolution",
	  .type = CMDLET_INTEGER,
	  .position = 4,
	  .min = 480,
	  .max = 4320,
	  .help = "Pixels down." },
	{ .name = "Enabled",
	  .type = CMDLET_BOOLEAN,
	  .flags = CMDLET_OURS,
	  .help = "Whether it has a screen, a keyboard and a mouse at all; not unless set, since "
		  "a Linux that is started directly has its console on COM1." },
	BY_PIPE("VMVideo"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_video_examples[] = {
	{ "get-vmvideo web", "What it has." },
	END_EXAMPLES,
};
static const struct cmdlet_example set_video_examples[] = {
	{ "set-vmvideo web Single 1280 1024 -Enabled true", "A screen of that size." },
	END_EXAMPLES,
};

static const struct cmdlet_param plain_vmname_params[] = { VM_BY_VMNAME, PASSTHRU, COMPUTER_NAME,
							   END_PARAMS };
static const struct cmdlet_example enable_console_examples[] = {
	{ "enable-vmconsolesupport web",
	  "With screen, keyboard and mouse from the next start on." },
	END_EXAMPLES,
};
static const struct cmdlet_example disable_console_examples[] = {
	{ "disable-vmconsolesupport web", "The serial console stays." },
	END_EXAMPLES,
};

static const struct cmdlet_param send_text_params[] = {
	VM_BY_VMNAME,
	{ .name = "Text",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .help = "What to type, as on a US keyboard; ASCII only." },
	{ .name = "Enter", .type = CMDLET_SWITCH, .help = "Presses Enter at the end." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example send_text_examples[] = {
	{ "send-vmtext web root -Enter", "Types root and Enter." },
	END_EXAMPLES,
};
static const struct cmdlet_param send_key_params[] = {
	VM_BY_VMNAME,
	{ .name = "Key",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST,
	  .position = 2,
	  .help = "Keys to press one after the other; those joined by + together: F2, "
		  "Ctrl+Alt+Delete, Alt+F4, a." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example send_key_examples[] = {
	{ "send-vmkey web Ctrl+Alt+Delete", "The three at once." },
	{ "send-vmkey web Down,Down,Enter", "One after the other." },
	END_EXAMPLES,
};
static const struct cmdlet_param send_mouse_params[] = {
	VM_BY_VMNAME,
	{ .name = "X",
	  .type = CMDLET_INTEGER,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .min = 0,
	  .max = 65535,
	  .help = "Pixels from the left edge." },
	{ .name = "Y",
	  .type = CMDLET_INTEGER,
	  .flags = CMDLET_MANDATORY,
	  .position = 3,
	  .min = 0,
	  .max = 65535,
	  .help = "Pixels from the upper edge." },
	{ .name = "Button",
	  .type = CMDLET_ENUM,
	  .values = "Left Right Middle",
	  .help = "Clicks there." },
	{ .name = "Wheel",
	  .type = CMDLET_INTEGER,
	  .min = -100,
	  .max = 100,
	  .help = "Turns the wheel; up is positive." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example send_mouse_examples[] = {
	{ "send-vmmouse web 100 200 -Button Left", "Clicks there." },
	END_EXAMPLES,
};
static const struct cmdlet_param screenshot_params[] = {
	ONE_VM,
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "PNG file to write." },
	FORCE("Overwrites a file that is there."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_output screenshot_output = {
	"VMScreenshot",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					{ "Path", "Path", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};
static const struct cmdlet_example screenshot_examples[] = {
	{ "save-vmscreenshot web web.png", "What its screen shows." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_host_params[] = {
	{ .name = "ApiAddress",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_OURS,
	  .help = "Where the API is listened for over TLS: 192.0.2.1:2180, [::1]:2180, or 2180 for "
		  "all addresses; '' for nowhere, which is the default. Only on the host itself." },
	{ .name = "VirtualMachinePath",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help =
	      "Folder in which New-VM without -Path makes the folders of virtual machines; '' for "
	      "the service's own, which is the default." },
	{ .name = "VirtualHardDiskPath",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Folder for disk files, for people and programs to heed; no cmdlet does. '' for "
		  "none." },
	{ .name = "MacAddressMinimum",
	  .type = CMDLET_MAC,
	  .help = "The first dynamic MAC address of this host." },
	{ .name = "MacAddressMaximum",
	  .type = CMDLET_MAC,
	  .help = "The last one; a host has at most 65536, and 256 unless set." },
	{ .name = "NumaSpanningEnabled",
	  .type = CMDLET_BOOLEAN,
	  .help = "Always true: nothing binds a virtual machine's memory to a NUMA node." },
	{ .name = "EnableEnhancedSessionMode",
	  .type = CMDLET_BOOLEAN,
	  .help =
	      "Lets RDP clients into the guests whose EnhancedSessionTransportType is HvSocket. It "
	      "is so by default." },
	{ .name = "ResourceMeteringSaveInterval",
	  .type = CMDLET_STRING,
	  .help =
	      "How often what running virtual machines used is written down, hh:mm:ss; 00:05:00 "
	      "unless set." },
	NOT_YET("MaximumStorageMigrations", CMDLET_INTEGER, "There is no migration yet."),
	NOT_YET("MaximumVirtualMachineMigrations", CMDLET_INTEGER, "There is no migration yet."),
	NOT_YET("VirtualMachineMigrationAuthenticationType", CMDLET_STRING,
		"There is no migration yet."),
	NOT_YET("VirtualMachineMigrationPerformanceOption", CMDLET_STRING,
		"There is no migration yet."),
	ONLY_FALSE("UseAnyNetworkForMigration", "There is no migration yet."),
	NOT_YET("FibreChannelWwnn", CMDLET_STRING, "There is no Fibre Channel."),
	NOT_YET("FibreChannelWwpnMaximum", CMDLET_STRING, "There is no Fibre Channel."),
	NOT_YET("FibreChannelWwpnMinimum", CMDLET_STRING, "There is no Fibre Channel."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_host_examples[] = {
	{ "set-vmhost -ApiAddress 192.0.2.1:2180", "Listens on one address." },
	{ "set-vmhost -VirtualMachinePath /srv/vms", "Where new virtual machines go." },
	END_EXAMPLES,
};

static const struct cmdlet_param host_params[] = { COMPUTER_NAME, END_PARAMS };
static const struct cmdlet_example host_examples[] = {
	{ "get-vmhost", "What the host has." },
	END_EXAMPLES,
};

static const struct cmdlet_param event_params[] = {
	{ .name = "VMName",
	  .aliases = "VM Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .position = 1,
	  .dflt = "*",
	  .offer = CMDLET_OFFER_VM,
	  .help = "Only events of these virtual machines." },
	{ .name = "MaxEvents",
	  .type = CMDLET_INTEGER,
	  .min = 1,
	  .max = 100000,
	  .dflt = "100",
	  .help = "The newest so many." },
	{ .name = "Level",
	  .type = CMDLET_ENUM,
	  .values = "Error Warning Information",
	  .help = "Only events of this level." },
	{ .name = "Oldest", .type = CMDLET_SWITCH, .help = "Shows the oldest of them first." },
	{ .name = "Wait",
	  .type = CMDLET_SWITCH,
	  .help = "Goes on with what happens from now on, the oldest first, a line for each." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example event_examples[] = {
	{ "get-vmevent web", "What happened to web." },
	END_EXAMPLES,
};

static const struct cmdlet_param help_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .position = 1,
	  .offer = CMDLET_OFFER_CMDLET,
	  .help = "Name of a cmdlet; without it: an overview." },
	END_PARAMS,
};
static const struct cmdlet_example help_examples[] = {
	{ "help new-vm", "All about one cmdlet." },
	END_EXAMPLES,
};

static const struct cmdlet_param command_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .position = 1,
	  .dflt = "*",
	  .offer = CMDLET_OFFER_CMDLET,
	  .help = "Names; * and ? match." },
	{ .name = "All",
	  .type = CMDLET_SWITCH,
	  .help = "Also names of Hyper-V's that are not there yet." },
	END_PARAMS,
};
static const struct cmdlet_output command_output = {
	"CommandInfo",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "Status", "Status", CMDLET_SHOW_TEXT },
					{ "Synopsis", "Synopsis", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};
static const struct cmdlet_example command_examples[] = {
	{ "get-command '*disk*'", "Cmdlets about disks." },
	END_EXAMPLES,
};

static const struct cmdlet_param completion_params[] = {
	{ .name = "Shell",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_MANDATORY,
	  .position = 1,
	  .values = "bash zsh fish",
	  .help = "Which shell." },
	END_PARAMS,
};
static const struct cmdlet_example completion_examples[] = {
	{ "completion bash", "To use it at once: . <(oyako completion bash)" },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_vm[] = {
	{ .name = "New-VM",
	  .synopsis = "Makes a virtual machine",
	  .description =
	      "Makes a virtual machine that is off, with one network adapter and one SCSI "
	      "controller. Disk files are used where they are. A name that is taken is "
	      "refused.",
	  .sets = new_vm_sets,
	  .params = new_vm_params,
	  .output = &vm_output,
	  .examples = new_vm_examples },
	{ .name = "Get-VM",
	  .synopsis = "Lists virtual machines with state, load and uptime",
	  .description =
	      "Shows virtual machines. -FormatList and --json show all properties, among "
	      "them what the guest says of itself by the integration services and why it "
	      "was last stopped.",
	  .sets = get_vm_sets,
	  .params = get_vm_params,
	  .output = &vm_output,
	  .examples = get_vm_examples },
	{ .name = "Set-VM",
	  .synopsis = "Changes a virtual machine",
	  .description =
	      "Changes settings of virtual machines. Processors can be changed only while it is "
	      "off; for memory see Set-VMMemory.",
	  .params = set_vm_params,
	  .output = &vm_output,
	  .examples = set_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Start-VM",
	  .synopsis = "Starts virtual machines",
	  .description = "Starts virtual machines that are off.",
	  .params = start_vm_params,
	  .output = &vm_output,
	  .examples = start_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Stop-VM",
	  .synopsis = "Shuts down or turns off virtual machines",
	  .description =
	      "Asks the guest by its shutdown service to shut down and waits until it is "
	      "off, five minutes at most. -TurnOff does not ask.",
	  .sets = stop_vm_sets,
	  .params = stop_vm_params,
	  .output = &vm_output,
	  .examples = stop_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Restart-VM",
	  .synopsis = "Resets or reboots virtual machines",
	  .description = "Resets a running virtual machine, or lets its guest reboot.",
	  .sets = restart_vm_sets,
	  .params = restart_vm_params,
	  .output = &vm_output,
	  .examples = restart_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Suspend-VM",
	  .synopsis = "Pauses virtual machines",
	  .description = "Lets the virtual processors stand still; the memory stays where it is.",
	  .params = plain_vm_params,
	  .output = &vm_output,
	  .examples = suspend_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Resume-VM",
	  .synopsis = "Lets paused virtual machines run again",
	  .description = "Ends what Suspend-VM began.",
	  .params = plain_vm_params,
	  .output = &vm_output,
	  .examples = resume_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Remove-VM",
	  .synopsis = "Removes virtual machines; their disk files stay",
	  .description = "Deletes the description of virtual machines that are off. Disk files are "
			 "not touched.",
	  .params = remove_vm_params,
	  .output = &vm_output,
	  .examples = remove_vm_examples,
	  .output_if_passthru = true,
	  .confirm = true },
	{ .name = "Rename-VM",
	  .synopsis = "Gives a virtual machine another name",
	  .description = "Changes the name; the virtual machine may be running.",
	  .params = rename_vm_params,
	  .output = &vm_output,
	  .examples = rename_vm_examples,
	  .output_if_passthru = true },
	{ .name = "Debug-VM",
	  .synopsis = "Sends an NMI to a guest",
	  .description = "Injects a non-maskable interrupt into a running guest.",
	  .params = debug_vm_params,
	  .output = &vm_output,
	  .examples = debug_vm_examples,
	  .output_if_passthru = true,
	  .confirm = true },
	{ .name = "Connect-VM",
	  .synopsis = "Connects to the serial console, or opens an enhanced session",
	  .description =
	      "Ties the serial console (COM1) of a running virtual machine to the terminal "
	      "or pipe, until it is off or Ctrl-] is typed. First come the last 64 KiB that "
	      "the guest has written. With -EnhancedSession it is a door for RDP clients, open "
	      "until "
	      "Ctrl-C, to the guest's RDP server; see Set-VM -EnhancedSessionTransportType. The "
	      "counterpart of vmconnect; the name is ours.",
	  .params = connect_vm_params,
	  .examples = connect_vm_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Get-VMIntegrationService",
	  .synopsis = "Lists integration services and how they do",
	  .description =
	      "Shows for each service whether it is enabled and whether the guest uses it.",
	  .params = get_service_params,
	  .output = &service_output,
	  .examples = get_service_examples },
	{ .name = "Enable-VMIntegrationService",
	  .synopsis = "Offers an integration service to a guest",
	  .description = "Enables services; the virtual machine may be running.",
	  .params = change_service_params,
	  .output = &service_output,
	  .examples = enable_service_examples,
	  .output_if_passthru = true },
	{ .name = "Disable-VMIntegrationService",
	  .synopsis = "Takes an integration service away from a guest",
	  .description = "Disables services; the virtual machine may be running.",
	  .params = change_service_params,
	  .output = &service_output,
	  .examples = disable_service_examples,
	  .output_if_passthru = true },
	{ .name = "Add-VMHardDiskDrive",
	  .synopsis = "Attaches a disk file",
	  .description =
	      "Attaches a VHDX or raw disk file to a SCSI controller; the virtual machine may be "
	      "running.",
	  .params = add_disk_params,
	  .output = &hard_disk_output,
	  .examples = add_disk_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMHardDiskDrive",
	  .synopsis = "Lists attached disks",
	  .description = "Shows the disks of virtual machines with their places.",
	  .params = get_disk_params,
	  .output = &hard_disk_output,
	  .examples = get_disk_examples },
	{ .name = "Remove-VMHardDiskDrive",
	  .synopsis = "Detaches a disk; its file stays",
	  .description = "Detaches the disk at a place. A guest that is using it loses it at once.",
	  .params = remove_disk_params,
	  .output = &hard_disk_output,
	  .examples = remove_disk_examples,
	  .output_if_passthru = true },
	{ .name = "Set-VMHardDiskDrive",
	  .synopsis = "Changes the file or the place of a disk",
	  .description = "Attaches another file in place of a disk, moves a disk to another place, "
			 "or makes it larger. To a running guest, a change of file or place is a "
			 "disk that goes and one that comes.",
	  .params = set_disk_params,
	  .output = &hard_disk_output,
	  .examples = set_disk_examples,
	  .output_if_passthru = true },
	{ .name = "Add-VMScsiController",
	  .synopsis = "Adds a SCSI controller",
	  .description = "Adds a SCSI controller; the virtual machine may be running.",
	  .params = controller_params,
	  .output = &controller_output,
	  .examples = add_controller_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMScsiController",
	  .synopsis = "Lists SCSI controllers with their drives",
	  .description = "Shows the SCSI controllers of virtual machines.",
	  .params = get_controller_params,
	  .output = &controller_output,
	  .examples = get_controller_examples },
	{ .name = "Remove-VMScsiController",
	  .synopsis = "Takes a SCSI controller away, with its drives",
	  .description =
	      "Removes a SCSI controller and detaches its drives; the virtual machine may "
	      "be running. The numbers of the controllers behind it move up.",
	  .params = remove_controller_params,
	  .output = &controller_output,
	  .examples = remove_controller_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMIdeController",
	  .synopsis = "Lists IDE controllers with their drives",
	  .description = "Shows the two IDE controllers of virtual machines of generation 1; those "
			 "of generation 2 have none.",
	  .params = get_ide_params,
	  .output = &ide_output,
	  .examples = get_ide_examples },
	{ .name = "Add-VMDvdDrive",
	  .synopsis = "Adds a DVD drive",
	  .description = "Adds a DVD drive, with or without an ISO file in it.",
	  .params = add_dvd_params,
	  .output = &dvd_output,
	  .examples = add_dvd_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMDvdDrive",
	  .synopsis = "Lists DVD drives and their media",
	  .description = "Shows the DVD drives of virtual machines.",
	  .params = get_dvd_params,
	  .output = &dvd_output,
	  .examples = get_dvd_examples },
	{ .name = "Set-VMDvdDrive",
	  .synopsis = "Changes the medium of a DVD drive",
	  .description = "Inserts an ISO file. Without a place, the virtual machine must have one "
			 "DVD drive.",
	  .params = set_dvd_params,
	  .output = &dvd_output,
	  .examples = set_dvd_examples,
	  .output_if_passthru = true },
	{ .name = "Remove-VMDvdDrive",
	  .synopsis = "Takes a DVD drive away",
	  .description = "Removes the DVD drive at a place.",
	  .params = remove_dvd_params,
	  .output = &dvd_output,
	  .examples = remove_dvd_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMProcessor",
	  .synopsis = "Shows the processors of virtual machines",
	  .description = "Shows the number of virtual processors, and what the host's do for them. "
			 "ResourceControl says OK, or why Maximum and RelativeWeight have no "
			 "effect: they need a control group that is the service's.",
	  .params = by_vmname_params,
	  .output = &processor_output,
	  .examples = get_processor_examples },
	{ .name = "Set-VMProcessor",
	  .synopsis = "Changes the processors of virtual machines",
	  .description =
	      "Changes the number of virtual processors while it is off, and at any time "
	      "what the host's do for them.",
	  .params = set_processor_params,
	  .output = &processor_output,
	  .examples = set_processor_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMMemory",
	  .synopsis = "Shows the memory of virtual machines",
	  .description = "Shows the memory settings.",
	  .params = by_vmname_params,
	  .output = &memory_output,
	  .examples = get_memory_examples },
	{ .name = "Set-VMMemory",
	  .synopsis = "Changes the memory of virtual machines",
	  .description =
	      "Changes the memory. Of a running virtual machine it changes how much a static one "
	      "has, as far as its guest goes along (Get-VM shows what it has), and of a dynamic "
	      "one the bounds, buffer and priority.",
	  .params = set_memory_params,
	  .output = &memory_output,
	  .examples = set_memory_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMVideo",
	  .synopsis = "Shows the screens of virtual machines",
	  .description = "Shows whether it has a screen, and which resolutions it may have.",
	  .params = by_vmname_params,
	  .output = &video_output,
	  .examples = get_video_examples },
	{ .name = "Set-VMVideo",
	  .synopsis = "Changes the screens of virtual machines",
	  .description =
	      "Changes the screen while it is off. With the screen come keyboard and mouse.",
	  .params = set_video_params,
	  .output = &video_output,
	  .examples = set_video_examples,
	  .output_if_passthru = true },
	{ .name = "Enable-VMConsoleSupport",
	  .synopsis = "Gives virtual machines a screen, a keyboard and a mouse",
	  .description = "The same as Set-VMVideo -Enabled true; only while it is off.",
	  .params = plain_vmname_params,
	  .output = &vm_output,
	  .examples = enable_console_examples,
	  .output_if_passthru = true },
	{ .name = "Disable-VMConsoleSupport",
	  .synopsis = "Takes screen, keyboard and mouse of virtual machines away",
	  .description = "The same as Set-VMVideo -Enabled false; only while it is off.",
	  .params = plain_vmname_params,
	  .output = &vm_output,
	  .examples = disable_console_examples,
	  .output_if_passthru = true },
	{ .name = "Send-VMText",
	  .synopsis = "Types a text on a virtual machine's keyboard",
	  .description =
	      "Types a text. The counterpart of TypeText of Hyper-V's Msvm_Keyboard; the "
	      "name is ours.",
	  .params = send_text_params,
	  .examples = send_text_examples,
	  .ours = true },
	{ .name = "Send-VMKey",
	  .synopsis = "Presses keys on a virtual machine's keyboard",
	  .description = "Presses keys and lets them go. The counterpart of TypeKey and "
			 "TypeCtrlAltDel of Hyper-V's Msvm_Keyboard; the name is ours.",
	  .params = send_key_params,
	  .examples = send_key_examples,
	  .ours = true },
	{ .name = "Send-VMMouse",
	  .synopsis = "Moves a virtual machine's mouse",
	  .description = "Puts the pointer somewhere, and clicks. The counterpart of Hyper-V's "
			 "Msvm_SyntheticMouse; the name is ours.",
	  .params = send_mouse_params,
	  .examples = send_mouse_examples,
	  .ours = true },
	{ .name = "Save-VMScreenshot",
	  .synopsis = "Writes what a virtual machine's screen shows to a file",
	  .description = "Writes a PNG file. The counterpart of Hyper-V's "
			 "GetVirtualSystemThumbnailImage; the name is ours.",
	  .params = screenshot_params,
	  .output = &screenshot_output,
	  .examples = screenshot_examples,
	  .ours = true },
	{ .name = "Get-VMHost",
	  .synopsis = "Shows the host",
	  .description =
	      "Shows what the host has, which backend it runs guests on and why, and where "
	      "things are.",
	  .params = host_params,
	  .output = &host_output,
	  .examples = host_examples },
	{ .name = "Set-VMHost",
	  .synopsis = "Changes the host",
	  .description =
	      "Changes defaults of the host. "
	      "Lets the management service listen for other hosts, whose users Add-VMApiUser "
	      "makes. Its certificate is tls/certificate.pem in the state folder; there is made "
	      "one where there is none. Clients are told its fingerprint, ApiFingerprint.",
	  .params = set_host_params,
	  .output = &host_output,
	  .examples = set_host_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMEvent",
	  .synopsis = "Shows what happened",
	  .description =
	      "Reads the event log, the newest first. The counterpart of Get-WinEvent for "
	      "Hyper-V's logs; the name is ours.",
	  .params = event_params,
	  .output = &event_output,
	  .examples = event_examples,
	  .ours = true },
	{ .name = "Help",
	  .synopsis = "Explains a cmdlet",
	  .description = "Shows syntax, parameters and examples.",
	  .params = help_params,
	  .examples = help_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Get-Command",
	  .synopsis = "Lists cmdlets",
	  .description = "Lists the cmdlets, on request also those that are not there yet.",
	  .params = command_params,
	  .output = &command_output,
	  .examples = command_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Completion",
	  .synopsis = "Prints the completion script of a shell",
	  .description = "Prints a script that teaches the shell to complete oyako's command line.",
	  .params = completion_params,
	  .examples = completion_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
};

const size_t cmdlet_table_vm_count = ARRAY_SIZE(cmdlet_table_vm);
