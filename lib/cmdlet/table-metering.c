/* The part of the table about resource metering. Pools are not there. */
#include "cmdlet/table.h"

#include "base/macros.h"

#define POOL                                                                                       \
	{ .name = "ResourcePoolName",                                                              \
	  .type = CMDLET_STRING,                                                                   \
	  .flags = CMDLET_NOT_YET,                                                                 \
	  .help = "There are no resource pools." },                                                \
	{                                                                                          \
		.name = "ResourcePoolType", .type = CMDLET_STRING, .flags = CMDLET_NOT_YET,        \
		.help = "There are no resource pools."                                             \
	}

static const struct cmdlet_output report_output = {
	"VMMeteringReportForVirtualMachine",
	(const struct cmdlet_column[]){
	    { "VMName", "VMName", CMDLET_SHOW_TEXT },
	    { "AvgCPU", "AvgCPU(MHz)", CMDLET_SHOW_TEXT },
	    { "AvgRAM", "AvgRAM(M)", CMDLET_SHOW_TEXT },
	    { "MaxRAM", "MaxRAM(M)", CMDLET_SHOW_TEXT },
	    { "MinRAM", "MinRAM(M)", CMDLET_SHOW_TEXT },
	    { "TotalDisk", "TotalDisk(M)", CMDLET_SHOW_TEXT },
	    { "NetworkInbound", "NetworkInbound(M)", CMDLET_SHOW_TEXT },
	    { "NetworkOutbound", "NetworkOutbound(M)", CMDLET_SHOW_TEXT },
	    { "MeteringDuration", NULL, CMDLET_SHOW_DURATION },
	    { "CPUSeconds", NULL, CMDLET_SHOW_TEXT },
	    { "AggregatedDiskDataRead", NULL, CMDLET_SHOW_TEXT },
	    { "AggregatedDiskDataWritten", NULL, CMDLET_SHOW_TEXT },
	    { "AggregatedDiskReads", NULL, CMDLET_SHOW_TEXT },
	    { "AggregatedDiskWrites", NULL, CMDLET_SHOW_TEXT },
	    { "VMId", NULL, CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};

static const struct cmdlet_param by_vm_params[] = {
	VM_BY_VMNAME,
	POOL,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_param measure_params[] = {
	VM_BY_NAME,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example enable_examples[] = {
	{ "enable-vmresourcemetering web", "Counts from now on." },
	END_EXAMPLES,
};
static const struct cmdlet_example disable_examples[] = {
	{ "disable-vmresourcemetering web", "What was counted is forgotten." },
	END_EXAMPLES,
};
static const struct cmdlet_example reset_examples[] = {
	{ "reset-vmresourcemetering web", "Counts anew." },
	END_EXAMPLES,
};
static const struct cmdlet_example measure_examples[] = {
	{ "measure-vm web -FormatList", "What it used since metering was enabled or reset." },
	END_EXAMPLES,
};

const struct cmdlet cmdlet_table_metering[] = {
	{ .name = "Enable-VMResourceMetering",
	  .synopsis = "Begins to count what virtual machines use",
	  .description = "Counts processor time, memory, disk and network. The sums stay with the "
			 "virtual machine when it or the service is restarted. Enabled already, it "
			 "goes on.",
	  .params = by_vm_params,
	  .examples = enable_examples },
	{ .name = "Disable-VMResourceMetering",
	  .synopsis = "Ends counting what virtual machines use",
	  .description = "Forgets what was counted.",
	  .params = by_vm_params,
	  .examples = disable_examples },
	{ .name = "Reset-VMResourceMetering",
	  .synopsis = "Counts anew what virtual machines use",
	  .description = "Sets all sums to nothing.",
	  .params = by_vm_params,
	  .examples = reset_examples },
	{ .name = "Measure-VM",
	  .synopsis = "Shows what virtual machines used",
	  .description =
	      "Averages are over the whole time of metering, also while it was off. Memory, disk "
	      "and network are in MB, disk is how large its hard disks are for the guest.",
	  .params = measure_params,
	  .output = &report_output,
	  .examples = measure_examples },
};
const size_t cmdlet_table_metering_count = ARRAY_SIZE(cmdlet_table_metering);
