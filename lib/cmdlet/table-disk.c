/* The table's cmdlets about disk images. Names, parameters, sets and defaults are Hyper-V's; what
 * is ours is marked. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

/* ---- parameters that several have ---- */

#define PATHS(set, text)                                                                           \
	{                                                                                          \
		.name = "Path", .aliases = "FullName", .type = CMDLET_FILE,                        \
		.flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_PIPELINE, .sets = (set),          \
		.position = 1, .offer = CMDLET_OFFER_FILE, .help = (text)                          \
	}
#define BLOCK_SIZE(set)                                                                            \
	{                                                                                          \
		.name = "BlockSizeBytes", .type = CMDLET_SIZE, .sets = (set), .min = 1,            \
		.max = 256 * (int64_t)MIB,                                                         \
		.help = "Size of the pieces in which the file grows. VHDX: a power of two from "   \
			"1MB to 256MB, 32MB without it (2MB for a differencing disk). VHD: 512KB " \
			"or 2MB, 2MB without it."                                                  \
	}
#define SECTOR_SIZE(which, dflt_text)                                                              \
	{                                                                                          \
		.name = which "SectorSizeBytes", .type = CMDLET_SIZE, .min = 512, .max = 4096,     \
		.help = "512 or 4096; " dflt_text                                                  \
	}

#define DISK_NUMBER(set)                                                                           \
	{                                                                                          \
		.name = "DiskNumber", .aliases = "Number", .type = CMDLET_INTEGER,                 \
		.flags = CMDLET_MANDATORY | CMDLET_PIPELINE, .sets = (set), .min = 0,              \
		.max = INT32_MAX, .help = "Number of a mounted disk."                              \
	}

/* ---- outputs ---- */

static const struct cmdlet_output vhd_output = {
	"VirtualHardDisk",
	(const struct cmdlet_column[]){ { "ComputerName", NULL, CMDLET_SHOW_TEXT },
					{ "Path", "Path", CMDLET_SHOW_TEXT },
					{ "VhdFormat", "VhdFormat", CMDLET_SHOW_TEXT },
					{ "VhdType", "VhdType", CMDLET_SHOW_TEXT },
					{ "FileSize", "FileSize(M)", CMDLET_SHOW_MB },
					{ "Size", "Size(M)", CMDLET_SHOW_MB },
					{ "MinimumSize", NULL, CMDLET_SHOW_TEXT },
					{ "LogicalSectorSize", NULL, CMDLET_SHOW_TEXT },
					{ "PhysicalSectorSize", NULL, CMDLET_SHOW_TEXT },
					{ "BlockSize", NULL, CMDLET_SHOW_TEXT },
					{ "ParentPath", NULL, CMDLET_SHOW_TEXT },
					{ "DiskIdentifier", NULL, CMDLET_SHOW_TEXT },
					{ "FragmentationPercentage", NULL, CMDLET_SHOW_TEXT },
					{ "Alignment", NULL, CMDLET_SHOW_TEXT },
					{ "Attached", "Attached", CMDLET_SHOW_TEXT },
					{ "DiskNumber", NULL, CMDLET_SHOW_TEXT },
					{ "Number", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output mount_output = {
	"VirtualHardDisk",
	(const struct cmdlet_column[]){ { "DiskNumber", "DiskNumber", CMDLET_SHOW_TEXT },
					{ "Path", "Path", CMDLET_SHOW_TEXT },
					{ "NbdSocket", "NbdSocket", CMDLET_SHOW_TEXT },
					{ "Size", NULL, CMDLET_SHOW_TEXT },
					{ "VhdFormat", NULL, CMDLET_SHOW_TEXT },
					{ "VhdType", NULL, CMDLET_SHOW_TEXT },
					{ "Use", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output check_output = {
	"VirtualHardDiskCheck",
	(const struct cmdlet_column[]){ { "Path", "Path", CMDLET_SHOW_TEXT },
					{ "Healthy", "Healthy", CMDLET_SHOW_TEXT },
					{ "Findings", "Findings", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

/* ---- parameters and examples of each cmdlet ---- */

static const char *const new_vhd_sets[] = { "Dynamic",      "Fixed",      "Differencing",
					    "Dynamic copy", "Fixed copy", NULL };
static const struct cmdlet_param new_vhd_params[] = {
	PATHS(0, "Files to make; .vhdx or .vhd (.avhdx, .avhd) says which format."),
	{ .name = "SizeBytes",
	  .type = CMDLET_SIZE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(0) | SET(1),
	  .position = 2,
	  .min = 1,
	  .max = INT64_MAX,
	  .help = "Size of the disk: up to 64TB for VHDX, 3MB to 2040GB for VHD." },
	{ .name = "Dynamic",
	  .type = CMDLET_SWITCH,
	  .sets = SET(0) | SET(3),
	  .help = "The file grows as the disk is written to. This is the default." },
	{ .name = "Fixed",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1) | SET(4),
	  .help = "The whole file is there from the start." },
	{ .name = "Differencing",
	  .type = CMDLET_SWITCH,
	  .sets = SET(2),
	  .help = "Keeps only what differs from -ParentPath, which must not change any more. "
		  "-ParentPath says it already." },
	{ .name = "ParentPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(2),
	  .offer = CMDLET_OFFER_FILE,
	  .help = "The disk that a differencing disk begins as." },
	{ .name = "SourceDisk",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(3) | SET(4),
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Disk of the host whose content is copied: a device such as /dev/sdb, where "
		  "Hyper-V takes a number." },
	BLOCK_SIZE(0),
	SECTOR_SIZE("Logical", "512 without it. VHD has 512 only."),
	SECTOR_SIZE("Physical", "4096 without it. VHD has 512 only."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example new_vhd_examples[] = {
	{ "new-vhd web.vhdx 100GB", "A disk of 100 GB whose file has 4 MB at first." },
	{ "new-vhd -Path azure.vhd -SizeBytes 30GB -Fixed", "A VHD with all its space." },
	{ "new-vhd -Path test.vhdx -ParentPath base.vhdx -Differencing",
	  "A disk that begins as base.vhdx and leaves it alone." },
	END_EXAMPLES,
};

static const char *const get_vhd_sets[] = { "Path", "VM", "Mounted", NULL };
static const struct cmdlet_param get_vhd_params[] = {
	PATHS(SET(0), "Disk files."),
	{ .name = "VMId",
	  .aliases = "Id",
	  .type = CMDLET_GUID,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_PIPELINE,
	  .sets = SET(1),
	  .help = "All disk files of virtual machines, by their identifiers." },
	DISK_NUMBER(SET(2)),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_vhd_examples[] = {
	{ "get-vhd web.vhdx -FormatList", "All that the file says of itself." },
	{ "get-vhd web.vhdx --json", "The same for programs." },
	END_EXAMPLES,
};

static const struct cmdlet_param test_vhd_params[] = {
	PATHS(0, "Disk files. The parents of a differencing disk are checked with it."),
	{ .name = "Repair",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_OURS,
	  .help =
	      "Mends what can be mended without risk for the content. Parents are left alone." },
	{ .name = "ForAzure",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_OURS,
	  .help = "Also checks Azure's rules for uploads: a fixed VHD of whole MB." },
	{ .name = "SupportPersistentReservations",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_NOT_YET,
	  .help = "Shared disks are not there yet." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example test_vhd_examples[] = {
	{ "test-vhd web.vhdx", "Is the file, and the chain of its parents, as it should be?" },
	{ "test-vhd web.vhdx -Repair", "Mends what can be mended safely." },
	END_EXAMPLES,
};

#define ONE_PATH(text)                                                                             \
	{                                                                                          \
		.name = "Path", .aliases = "FullName", .type = CMDLET_FILE,                        \
		.flags = CMDLET_MANDATORY | CMDLET_PIPELINE, .position = 1,                        \
		.offer = CMDLET_OFFER_FILE, .help = (text)                                         \
	}

static const char *const resize_vhd_sets[] = { "Size", "Minimum", NULL };
static const struct cmdlet_param resize_vhd_params[] = {
	PATHS(0, "Disk files. A disk that other disks were made over must not be resized."),
	{ .name = "SizeBytes",
	  .type = CMDLET_SIZE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(0),
	  .position = 2,
	  .min = 1,
	  .max = INT64_MAX,
	  .help = "The new size. Smaller than now only where the partition table allows: see "
		  "-ToMinimumSize." },
	{ .name = "ToMinimumSize",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "As small as the partitions on it let it be." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example resize_vhd_examples[] = {
	{ "resize-vhd web.vhdx 200GB", "The guest finds more room behind its last partition." },
	{ "resize-vhd web.vhdx -ToMinimumSize -Passthru", "Cuts off what no partition uses." },
	END_EXAMPLES,
};

static const struct cmdlet_param optimize_vhd_params[] = {
	PATHS(0, "Dynamic or differencing disk files."),
	{ .name = "Mode",
	  .type = CMDLET_ENUM,
	  .values = "Full Quick Retrim Pretrimmed Prezeroed",
	  .dflt = "Full",
	  .help = "Full and Prezeroed give back blocks that hold only zeros, and what the others "
		  "do. Quick, Retrim and Pretrimmed give back what the guest has trimmed." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example optimize_vhd_examples[] = {
	{ "optimize-vhd web.vhdx", "The file becomes as small as it can be." },
	{ "optimize-vhd web.vhdx -Mode Quick", "The same without reading the disk." },
	END_EXAMPLES,
};

static const char *const set_vhd_sets[] = { "Parent", "Sector", "Identifier", NULL };
static const struct cmdlet_param set_vhd_params[] = {
	ONE_PATH("Disk file to change."),
	{ .name = "ParentPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(0),
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Where the parent of a differencing disk is now." },
	{ .name = "LeafPath",
	  .type = CMDLET_FILE,
	  .sets = SET(0),
	  .offer = CMDLET_OFFER_FILE,
	  .help =
	      "The disk that a running virtual machine has the chain by: its parent was moved, and "
	      "is the same file. Of a chain that nobody uses it is not needed." },
	{ .name = "IgnoreIdMismatch",
	  .type = CMDLET_SWITCH,
	  .sets = SET(0),
	  .help = "Takes a parent that is not the one it was made over, or has been changed since: "
		  "the disk may hold anything then." },
	{ .name = "PhysicalSectorSizeBytes",
	  .type = CMDLET_INTEGER,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .min = 512,
	  .max = 4096,
	  .help = "512 or 4096; VHDX only." },
	{ .name = "ResetDiskIdentifier",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(2),
	  .help =
	      "Gives the disk a new identity. Disks that were made over it no longer know it if "
	      "it is a VHD." },
	FORCE("Does not ask."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_vhd_examples[] = {
	{ "set-vhd web_1234.avhdx -ParentPath /srv/web.vhdx",
	  "Mends a chain whose parent was moved." },
	{ "set-vhd copy.vhdx -ResetDiskIdentifier",
	  "A copy that may be used beside the original." },
	END_EXAMPLES,
};

static const struct cmdlet_param merge_vhd_params[] = {
	ONE_PATH("Differencing disk to merge into its parent, or into another ancestor."),
	{ .name = "DestinationPath",
	  .type = CMDLET_FILE,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "The ancestor that takes it all; without it the parent." },
	FORCE("Accepted for Hyper-V's sake."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example merge_vhd_examples[] = {
	{ "merge-vhd web_1234.avhdx", "Its parent has its content then, and it is deleted." },
	{ "merge-vhd web_5678.avhdx -DestinationPath web.vhdx",
	  "All layers down to web.vhdx; behind the guest, if one runs on them." },
	END_EXAMPLES,
};

static const struct cmdlet_param mount_vhd_params[] = {
	PATHS(0, "Disk files to mount."),
	{ .name = "ReadOnly", .type = CMDLET_SWITCH, .help = "Nothing can be written." },
	{ .name = "NoDriveLetter",
	  .type = CMDLET_SWITCH,
	  .help = "Accepted for Hyper-V's sake: there are no drive letters." },
	{ .name = "SnapshotId",
	  .type = CMDLET_GUID,
	  .flags = CMDLET_NOT_YET,
	  .help = "VHD Sets are not there yet." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example mount_vhd_examples[] = {
	{ "mount-vhd web.vhdx -ReadOnly", "Says where the disk can be reached." },
	{ "mount-vhd web.vhdx --json", "The socket is NbdSocket, for a script." },
	END_EXAMPLES,
};

static const char *const dismount_vhd_sets[] = { "Path", "Number", NULL };
static const struct cmdlet_param dismount_vhd_params[] = {
	PATHS(SET(0), "Disk files that are mounted."),
	DISK_NUMBER(SET(1)),
	{ .name = "SnapshotId",
	  .type = CMDLET_GUID,
	  .flags = CMDLET_NOT_YET,
	  .help = "VHD Sets are not there yet." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example dismount_vhd_examples[] = {
	{ "dismount-vhd web.vhdx", "What was written is on the host's disk when this returns." },
	{ "dismount-vhd -DiskNumber 1", "The same by the number." },
	END_EXAMPLES,
};

static const struct cmdlet_param convert_vhd_params[] = {
	{ .name = "Path",
	  .aliases = "FullName",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY | CMDLET_PIPELINE,
	  .position = 1,
	  .offer = CMDLET_OFFER_FILE,
	  .help =
	      "Disk file to convert. A name that ends in .img, .raw or .iso, and a device, says "
	      "that it is raw." },
	{ .name = "DestinationPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "File to make: .vhdx, .vhd, .img or .raw says which format; .qcow2, .vmdk and "
		  ".vdi are written by qemu-img, where it is installed." },
	{ .name = "VHDType",
	  .type = CMDLET_ENUM,
	  .values = "Dynamic Fixed Differencing",
	  .help = "Type of the new disk; without it that of the old one, and dynamic for a "
		  "differencing one." },
	{ .name = "ParentPath",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Makes a differencing disk over this one, of the same format and size, that "
		  "holds only what differs." },
	BLOCK_SIZE(0),
	{ .name = "ForAzure",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_OURS,
	  .help =
	      "Makes a disk that Azure accepts: a fixed VHD, its size rounded up to whole MB." },
	{ .name = "DeleteSource",
	  .type = CMDLET_SWITCH,
	  .help = "Deletes the old file when the new one is complete." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example convert_vhd_examples[] = {
	{ "convert-vhd old.vhd new.vhdx", "VHD becomes VHDX, of the same type." },
	{ "convert-vhd web.vhdx upload.vhd -ForAzure", "A disk to upload to Azure." },
	{ "convert-vhd web_1234.avhdx whole.vhdx",
	  "A checkpoint's disk and its parents in one file." },
	{ "convert-vhd appliance.vmdk appliance.vhdx -VHDType Dynamic",
	  "A disk of VMware's, read by qemu-img." },
	{ "convert-vhd debian.raw debian.vhdx -VHDType Dynamic -DeleteSource",
	  "An image for other programs becomes a virtual hard disk." },
	END_EXAMPLES,
};

static const struct cmdlet_output point_output = {
	"VHDReferencePoint",
	(const struct cmdlet_column[]){ { "Path", "Path", CMDLET_SHOW_TEXT },
					{ "CreationTime", "CreationTime", CMDLET_SHOW_TEXT },
					{ "Id", "Id", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};
static const struct cmdlet_output change_output = {
	"VHDChange",
	(const struct cmdlet_column[]){ { "Path", NULL, CMDLET_SHOW_TEXT },
					{ "Offset", "Offset", CMDLET_SHOW_TEXT },
					{ "Length", "Length", CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

#define POINT_ID(text)                                                                             \
	{                                                                                          \
		.name = "Id", .type = CMDLET_GUID, .flags = CMDLET_MANDATORY | CMDLET_PIPELINE,    \
		.position = 2, .help = (text)                                                      \
	}

static const struct cmdlet_param tracking_params[] = {
	PATHS(0, "VHDX files; of a virtual machine with checkpoints the one that it runs on."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example enable_tracking_examples[] = {
	{ "enable-vhdchangetracking web.vhdx", "From now on it is known what changes." },
	END_EXAMPLES,
};
static const struct cmdlet_example disable_tracking_examples[] = {
	{ "disable-vhdchangetracking web.vhdx", "All reference points are forgotten." },
	END_EXAMPLES,
};
static const struct cmdlet_example new_point_examples[] = {
	{ "new-vhdreferencepoint web.vhdx --json", "The present state, for the next backup." },
	END_EXAMPLES,
};
static const struct cmdlet_example get_point_examples[] = {
	{ "get-vhdreferencepoint web.vhdx", "All of them, oldest first." },
	END_EXAMPLES,
};
static const struct cmdlet_param remove_point_params[] = {
	ONE_PATH("VHDX file."),
	POINT_ID("Identifier of the reference point."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_point_examples[] = {
	{ "remove-vhdreferencepoint web.vhdx 0a1b2c3d-0000-4000-8000-000000000001",
	  "It is needed no more." },
	END_EXAMPLES,
};
static const struct cmdlet_param get_change_params[] = {
	ONE_PATH("VHDX file."),
	POINT_ID("Reference point since which."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_change_examples[] = {
	{ "get-vhdchange web.vhdx 0a1b2c3d-0000-4000-8000-000000000001 --json",
	  "Offsets and lengths, in bytes of the disk." },
	END_EXAMPLES,
};
static const struct cmdlet_param export_change_params[] = {
	ONE_PATH("VHDX file; no virtual machine may run on it."),
	POINT_ID("Reference point since which."),
	{ .name = "ParentPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "The backup that was made at the reference point, a VHDX." },
	{ .name = "DestinationPath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "File to make: a differencing disk over that backup." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example export_change_examples[] = {
	{ "export-vhdchange web.vhdx 0a1b2c3d-0000-4000-8000-000000000001 -ParentPath sunday.vhdx "
	  "-DestinationPath monday.avhdx",
	  "monday.avhdx reads as web.vhdx does now and holds what changed since." },
	END_EXAMPLES,
};

static const struct cmdlet_param new_vfd_params[] = {
	PATHS(0, "Files to make; their names end in .vfd."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example new_vfd_examples[] = {
	{ "new-vfd drivers.vfd", "An empty floppy disk of 1.44 MB." },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_disk[] = {
	{ .name = "New-VHD",
	  .what_if = "Path",
	  .synopsis = "Makes a virtual hard disk",
	  .description =
	      "Makes disk files: dynamic, fixed or differencing, VHDX or VHD by the name's ending. "
	      "A file that is there is left alone. A fixed disk has its space reserved and no "
	      "block "
	      "written.",
	  .sets = new_vhd_sets,
	  .params = new_vhd_params,
	  .output = &vhd_output,
	  .examples = new_vhd_examples },
	{ .name = "Get-VHD",
	  .synopsis = "Shows format, type, sizes and parent of disk files",
	  .description =
	      "Reads disk files without changing them, even while a virtual machine runs "
	      "on them. Attached says whether something has the file open as a disk.",
	  .sets = get_vhd_sets,
	  .params = get_vhd_params,
	  .output = &vhd_output,
	  .examples = get_vhd_examples },
	{ .name = "Convert-VHD",
	  .what_if = "Path",
	  .synopsis = "Copies a disk into another format, type or block size",
	  .description =
	      "Makes a new disk file with the content of another one, of a whole chain if that is "
	      "a "
	      "differencing disk. What holds only zeros is not written. The new file appears when "
	      "it "
	      "is complete; interrupting leaves none. The disk must not be in use for writing.",
	  .params = convert_vhd_params,
	  .output = &vhd_output,
	  .examples = convert_vhd_examples,
	  .output_if_passthru = true },
	{ .name = "Mount-VHD",
	  .what_if = "Path",
	  .synopsis = "Makes disk files reachable for programs of the host",
	  .description =
	      "Serves a disk, with the parents of a differencing one, as an NBD export on a Unix "
	      "socket. No kernel module and no rights are needed: qemu, libnbd, nbdkit, guestfish "
	      "and, where the host has them, nbdfuse and nbd-client take it. No virtual machine "
	      "can "
	      "use the disk meanwhile (unless both only read). Shows the socket even without "
	      "-Passthru. The disk stays mounted until Dismount-VHD.",
	  .params = mount_vhd_params,
	  .output = &mount_output,
	  .examples = mount_vhd_examples },
	{ .name = "Dismount-VHD",
	  .what_if = "Path",
	  .synopsis = "Ends what Mount-VHD began",
	  .description = "Ends the connections of all clients, writes what is left and closes the "
			 "disk file.",
	  .sets = dismount_vhd_sets,
	  .params = dismount_vhd_params,
	  .examples = dismount_vhd_examples },
	{ .name = "Resize-VHD",
	  .what_if = "Path",
	  .synopsis = "Makes a disk larger or smaller",
	  .description =
	      "Changes the size of a disk. VHDX becomes larger or, where the partition table "
	      "allows, "
	      "smaller; VHD only larger; a differencing VHD neither. The disk of a running virtual "
	      "machine only becomes larger, and the guest sees it at once. "
	      "Partitions, file systems and the second copy of a GPT at the disk's old end are the "
	      "guest's business; only -ToMinimumSize moves that copy to the new end. "
	      "Interrupting leaves the old or the new size.",
	  .sets = resize_vhd_sets,
	  .params = resize_vhd_params,
	  .output = &vhd_output,
	  .examples = resize_vhd_examples,
	  .output_if_passthru = true },
	{ .name = "Optimize-VHD",
	  .what_if = "Path",
	  .synopsis = "Makes a dynamic disk's file smaller",
	  .description =
	      "Gives back what the file of a dynamic or differencing disk holds for nothing, moves "
	      "blocks from its end into the holes, and cuts it. The disk must not be in use. "
	      "Interrupting leaves a valid disk.",
	  .params = optimize_vhd_params,
	  .output = &vhd_output,
	  .examples = optimize_vhd_examples,
	  .output_if_passthru = true },
	{ .name = "Set-VHD",
	  .what_if = "Path",
	  .synopsis = "Mends a parent link, changes sector size or identity",
	  .description = "Changes what a disk file says of itself. The disk must not be in use.",
	  .sets = set_vhd_sets,
	  .params = set_vhd_params,
	  .output = &vhd_output,
	  .examples = set_vhd_examples,
	  .output_if_passthru = true },
	{ .name = "Merge-VHD",
	  .what_if = "Path",
	  .synopsis = "Folds differencing disks into an ancestor",
	  .description =
	      "Writes what differencing disks hold into one of their ancestors and deletes them. "
	      "Of a chain that a running virtual machine has, this is done behind the guest, which "
	      "then has the ancestor instead; layers that checkpoints need stay. Other disks that "
	      "were made over the ancestor become useless. Interrupting leaves everything as "
	      "readable as it was, and the merge can "
	      "be started again.",
	  .params = merge_vhd_params,
	  .output = &vhd_output,
	  .examples = merge_vhd_examples,
	  .output_if_passthru = true },
	{ .name = "Test-VHD",
	  .synopsis = "Checks disk files and their parents",
	  .description =
	      "Checks the structure of disk files and whether the parents of differencing disks "
	      "are "
	      "there and the right ones. Says what is wrong, where, and what to do. Fails for a "
	      "file that is damaged.",
	  .params = test_vhd_params,
	  .output = &check_output,
	  .examples = test_vhd_examples },
	{ .name = "Enable-VHDChangeTracking",
	  .what_if = "Path",
	  .synopsis = "Begins to track the changes of a disk",
	  .description =
	      "Makes a file beside the disk (NAME.track) in which is kept what changes, over "
	      "restarts and power cuts, also of a disk that a virtual machine runs on. It names "
	      "too much after a power cut, never too little. Where a VHDX was changed without it "
	      "(by Resize-VHD, say, or by another program), tracking begins anew and the "
	      "reference points are gone. Hyper-V's .rct files are another format and left alone.",
	  .params = tracking_params,
	  .examples = enable_tracking_examples,
	  .ours = true },
	{ .name = "Disable-VHDChangeTracking",
	  .what_if = "Path",
	  .synopsis = "Ends the tracking of a disk's changes",
	  .description = "Deletes the file that was made for it.",
	  .params = tracking_params,
	  .examples = disable_tracking_examples,
	  .ours = true },
	{ .name = "New-VHDReferencePoint",
	  .what_if = "Path",
	  .synopsis = "Notes the present state of a disk whose changes are tracked",
	  .description =
	      "From now on it can be asked what changed since. A disk has at most 100 of them.",
	  .params = tracking_params,
	  .output = &point_output,
	  .examples = new_point_examples,
	  .ours = true },
	{ .name = "Get-VHDReferencePoint",
	  .synopsis = "Shows the reference points of a disk",
	  .description = "What New-VHDReferencePoint made, oldest first.",
	  .params = tracking_params,
	  .output = &point_output,
	  .examples = get_point_examples,
	  .ours = true },
	{ .name = "Remove-VHDReferencePoint",
	  .what_if = "Path",
	  .synopsis = "Forgets a reference point of a disk",
	  .description = "What changed since it can't be asked any more.",
	  .params = remove_point_params,
	  .examples = remove_point_examples,
	  .ours = true },
	{ .name = "Get-VHDChange",
	  .synopsis = "Lists what changed on a disk since a reference point",
	  .description = "Ranges of the disk in ascending order; units of 64 KiB, larger ones for "
			 "disks beyond 1 TiB.",
	  .params = get_change_params,
	  .output = &change_output,
	  .examples = get_change_examples,
	  .ours = true },
	{ .name = "Export-VHDChange",
	  .what_if = "Path",
	  .synopsis = "Makes an incremental backup of a disk",
	  .description =
	      "Makes a differencing disk over an earlier backup, which holds what changed since a "
	      "reference point and reads as the disk does now. Merge-VHD folds it into the "
	      "backup. Interrupting leaves no file.",
	  .params = export_change_params,
	  .output = &vhd_output,
	  .examples = export_change_examples,
	  .ours = true },
	{ .name = "New-VFD",
	  .what_if = "Path",
	  .synopsis = "Makes an empty floppy disk",
	  .description = "Makes files of 1.44 MB that hold zeros; any tool can format them. "
			 "Set-VMFloppyDiskDrive inserts one.",
	  .params = new_vfd_params,
	  .examples = new_vfd_examples },
};

const size_t cmdlet_table_disk_count = ARRAY_SIZE(cmdlet_table_disk);
