/* The table's cmdlets about firmware, floppy disk drives and serial ports. Names, parameters, sets
 * and defaults are Hyper-V's; what is ours is marked. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

#define ON_OFF(param, text)                                                                        \
	{                                                                                          \
		.name = param, .type = CMDLET_ENUM, .values = "On Off", .help = text               \
	}
#define NO_FIRMWARE                                                                                \
	"There is no firmware yet: machines start the Linux kernel of New-VM -LinuxKernelPath. "   \
	"These settings are kept, checkpointed, exported and imported for the firmware that will " \
	"use them, and have no effect before."

/* ---- outputs ---- */

static const struct cmdlet_output firmware_output = {
	"VMFirmware",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    CHECKPOINT_COLUMN,
	    { "SecureBoot", "SecureBoot", CMDLET_SHOW_TEXT },
	    { "SecureBootTemplate", "SecureBootTemplate", CMDLET_SHOW_TEXT },
	    { "PreferredNetworkBootProtocol", "PreferredNetworkBootProtocol", CMDLET_SHOW_TEXT },
	    { "BootOrder", "BootOrder", CMDLET_SHOW_TEXT },
	    { "PauseAfterBootFailure", "PauseAfterBootFailure", CMDLET_SHOW_TEXT },
	    { "Status", "Status", CMDLET_SHOW_TEXT },
	    { "SecureBootTemplateId", NULL, CMDLET_SHOW_TEXT },
	    { "ConsoleMode", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_output bios_output = {
	"VMBios",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					CHECKPOINT_COLUMN,
					{ "StartupOrder", "StartupOrder", CMDLET_SHOW_TEXT },
					{ "NumLockEnabled", "NumLockEnabled", CMDLET_SHOW_TEXT },
					{ "Status", "Status", CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output floppy_output = {
	"VMFloppyDiskDrive",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					CHECKPOINT_COLUMN,
					{ "DiskType", "DiskType", CMDLET_SHOW_TEXT },
					{ "Path", "Path", CMDLET_SHOW_TEXT },
					{ "Name", NULL, CMDLET_SHOW_TEXT },
					{ "Status", NULL, CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output com_output = {
	"VMComPort",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					CHECKPOINT_COLUMN,
					{ "Name", "Name", CMDLET_SHOW_TEXT },
					{ "Path", "Path", CMDLET_SHOW_TEXT },
					{ "Number", "Number", CMDLET_SHOW_TEXT },
					{ "DebuggerMode", NULL, CMDLET_SHOW_TEXT },
					{ "SocketPath", NULL, CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

/* ---- parameters and examples of each cmdlet ---- */

static const struct cmdlet_param get_params[] = { VM_BY_VMNAME, OF_CHECKPOINT, COMPUTER_NAME,
						  END_PARAMS };
static const struct cmdlet_example get_firmware_examples[] = {
	{ "get-vmfirmware web", "Its boot order and Secure Boot." },
	{ "get-vmfirmware web --json | oyako select-object -ExpandProperty BootOrder",
	  "One device on a line, as -BootOrder takes them." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_firmware_params[] = {
	VM_BY_VMNAME,
	{ .name = "BootOrder",
	  .type = CMDLET_DEVICE,
	  .flags = CMDLET_LIST,
	  .help = "The devices that it boots from, and no others: drives as SCSI:0:1, adapters by "
		  "their names, or what Get-VMHardDiskDrive, Get-VMDvdDrive or "
		  "Get-VMNetworkAdapter shows." },
	{ .name = "FirstBootDevice",
	  .type = CMDLET_DEVICE,
	  .help = "The one that comes first; the others stay behind it as they are. As with "
		  "-BootOrder; \"$(oyako get-vmdvddrive web)\" is the only DVD drive of web." },
	ON_OFF("EnableSecureBoot", "Whether Secure Boot is on; it is unless set."),
	{ .name = "SecureBootTemplate",
	  .type = CMDLET_ENUM,
	  .values = "MicrosoftWindows MicrosoftUEFICertificateAuthority OpenSourceShieldedVM",
	  .help = "Whose signatures Secure Boot takes: MicrosoftWindows unless set." },
	{ .name = "SecureBootTemplateId",
	  .type = CMDLET_GUID,
	  .help = "The same, by Hyper-V's identifier of the template." },
	{ .name = "PreferredNetworkBootProtocol",
	  .type = CMDLET_ENUM,
	  .values = "IPv4 IPv6",
	  .help = "By which protocol it boots from a network; IPv4 unless set." },
	{ .name = "ConsoleMode",
	  .type = CMDLET_ENUM,
	  .values = "Default COM1 COM2 None",
	  .help = "Where the firmware shows its messages." },
	ON_OFF("PauseAfterBootFailure", "Whether it waits when nothing can be booted; Off unless "
					"set."),
	BY_PIPE("VMFirmware"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_firmware_examples[] = {
	{ "set-vmfirmware web -EnableSecureBoot On -SecureBootTemplate "
	  "MicrosoftUEFICertificateAuthority",
	  "As most Linux distributions need it." },
	{ "set-vmfirmware web -FirstBootDevice SCSI:0:1", "The drive at location 1 comes first." },
	{ "set-vmfirmware web -BootOrder SCSI:0:0,'Network Adapter'", "These two, in this order." },
	END_EXAMPLES,
};

static const struct cmdlet_example get_bios_examples[] = {
	{ "get-vmbios old", "Which kinds of devices it boots from." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_bios_params[] = {
	VM_BY_VMNAME,
	{ .name = "StartupOrder",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_LIST,
	  .values = "CD IDE LegacyNetworkAdapter Floppy",
	  .help = "The order of the kinds of devices that it boots from, all four." },
	{ .name = "EnableNumLock", .type = CMDLET_SWITCH, .help = "Num Lock is on at the start." },
	{ .name = "DisableNumLock",
	  .type = CMDLET_SWITCH,
	  .help = "Num Lock is off at the start, which is the default." },
	BY_PIPE("VMBios"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_bios_examples[] = {
	{ "set-vmbios old -StartupOrder IDE,CD,LegacyNetworkAdapter,Floppy", "Disks come first." },
	END_EXAMPLES,
};

#define PORT_NUMBER(extra)                                                                         \
	{                                                                                          \
		.name = "Number", .type = CMDLET_INTEGER, .flags = (extra), .position = 2,         \
		.min = 1, .max = 2, .help = "1 for COM 1, 2 for COM 2."                            \
	}

static const struct cmdlet_param get_com_params[] = {
	VM_BY_VMNAME, PORT_NUMBER(0), OF_CHECKPOINT, COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example get_com_examples[] = {
	{ "get-vmcomport web -FormatList", "Its ports, and the sockets that serve them." },
	END_EXAMPLES,
};

static const struct cmdlet_param set_com_params[] = {
	VM_BY_VMNAME,
	PORT_NUMBER(CMDLET_MANDATORY | CMDLET_PIPELINE),
	{ .name = "Path",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_NULLABLE,
	  .position = 3,
	  .help =
	      "'\\\\.\\pipe\\NAME': the Unix socket pipe/NAME of the service's runtime folder, or "
	      "the absolute path of a Unix socket. It is there while the machine runs. '' or "
	      "$null for none." },
	ON_OFF("DebuggerMode", "Kept; a debugger needs nothing else than the port here."),
	BY_PIPE("VMComPort"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_com_examples[] = {
	{ "set-vmcomport web 2 '\\\\.\\pipe\\web2'", "COM 2, for whoever connects to the socket." },
	{ "set-vmcomport web 1 /run/user/1000/web.com1", "COM 1, which Connect-VM shows as well." },
	END_EXAMPLES,
};

static const struct cmdlet_example get_floppy_examples[] = {
	{ "get-vmfloppydiskdrive old", "Which image is in its drive." },
	END_EXAMPLES,
};
static const struct cmdlet_param set_floppy_params[] = {
	VM_BY_VMNAME,
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .flags = CMDLET_NULLABLE,
	  .help =
	      "Image to insert, a .vfd file of 1.44 MB (New-VFD); '' or $null ejects, and so it "
	      "is without -Path." },
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	BY_PIPE("VMFloppyDiskDrive"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_floppy_examples[] = {
	{ "set-vmfloppydiskdrive old drivers.vfd", "Inserts an image." },
	{ "set-vmfloppydiskdrive old $null", "Ejects it." },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_firmware[] = {
	{ .name = "Get-VMFirmware",
	  .synopsis = "Shows boot order and Secure Boot of generation 2",
	  .description = "Shows the firmware settings. " NO_FIRMWARE,
	  .params = get_params,
	  .output = &firmware_output,
	  .examples = get_firmware_examples },
	{ .name = "Set-VMFirmware",
	  .synopsis = "Changes boot order and Secure Boot of generation 2",
	  .description = "Changes the firmware settings. " NO_FIRMWARE,
	  .params = set_firmware_params,
	  .output = &firmware_output,
	  .examples = set_firmware_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMBios",
	  .synopsis = "Shows startup order and Num Lock of generation 1",
	  .description = "Shows the BIOS settings. " NO_FIRMWARE,
	  .params = get_params,
	  .output = &bios_output,
	  .examples = get_bios_examples },
	{ .name = "Set-VMBios",
	  .synopsis = "Changes startup order and Num Lock of generation 1",
	  .description = "Changes the BIOS settings. " NO_FIRMWARE,
	  .params = set_bios_params,
	  .output = &bios_output,
	  .examples = set_bios_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMFloppyDiskDrive",
	  .synopsis = "Shows the floppy disk drive of generation 1",
	  .description =
	      "Shows the image in the one floppy disk drive of generation 1. " NO_FIRMWARE,
	  .params = get_params,
	  .output = &floppy_output,
	  .examples = get_floppy_examples },
	{ .name = "Set-VMFloppyDiskDrive",
	  .synopsis = "Changes the medium of the floppy disk drive of generation 1",
	  .description =
	      "Inserts an image, or ejects it. Of a virtual machine that is exported the "
	      "image stays where it is. " NO_FIRMWARE,
	  .params = set_floppy_params,
	  .output = &floppy_output,
	  .examples = set_floppy_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMComPort",
	  .synopsis = "Shows what serial ports are connected to",
	  .description =
	      "Shows COM 1 and COM 2. SocketPath is the Unix socket that serves the port "
	      "while the machine runs.",
	  .params = get_com_params,
	  .output = &com_output,
	  .examples = get_com_examples },
	{ .name = "Set-VMComPort",
	  .synopsis = "Connects a serial port to a Unix socket",
	  .description =
	      "Serves a serial port at a Unix socket, at once if the machine runs. What connects "
	      "to "
	      "it gets the last 64 KiB that the guest has written, and then all that it writes; "
	      "several may be connected.",
	  .params = set_com_params,
	  .output = &com_output,
	  .examples = set_com_examples,
	  .output_if_passthru = true },
};

const size_t cmdlet_table_firmware_count = ARRAY_SIZE(cmdlet_table_firmware);
