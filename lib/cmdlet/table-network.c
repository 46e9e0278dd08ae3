/* The table's cmdlets about networks. Names, parameters, sets and defaults are Hyper-V's; what is
 * ours is marked. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

/* ---- outputs ---- */

static const struct cmdlet_output adapter_output = {
	"VMNetworkAdapter",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "VMName", "VMName", CMDLET_SHOW_TEXT },
					CHECKPOINT_COLUMN,
					{ "SwitchName", "SwitchName", CMDLET_SHOW_TEXT },
					{ "MacAddress", "MacAddress", CMDLET_SHOW_TEXT },
					{ "Status", "Status", CMDLET_SHOW_TEXT },
					{ "IPAddresses", "IPAddresses", CMDLET_SHOW_TEXT },
					{ "DynamicMacAddressEnabled", NULL, CMDLET_SHOW_TEXT },
					{ "MacAddressSpoofing", NULL, CMDLET_SHOW_TEXT },
					{ "IsLegacy", NULL, CMDLET_SHOW_TEXT },
					{ "Connected", NULL, CMDLET_SHOW_TEXT },
					{ "AdapterId", NULL, CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output switch_output = {
	"VMSwitch",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "SwitchType", "SwitchType", CMDLET_SHOW_TEXT },
					{ "NetAdapterInterfaceDescription",
					  "NetAdapterInterfaceDescription", CMDLET_SHOW_TEXT },
					{ "Id", NULL, CMDLET_SHOW_TEXT },
					{ "Notes", NULL, CMDLET_SHOW_TEXT },
					{ "PortCount", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

/* ---- parameters and examples of each cmdlet ---- */

static const char *const add_adapter_sets[] = { "Dynamic address", "Static address", NULL };
static const struct cmdlet_param add_adapter_params[] = {
	VM_BY_VMNAME,
	{ .name = "SwitchName",
	  .type = CMDLET_STRING,
	  .offer = CMDLET_OFFER_SWITCH,
	  .help = "Virtual switch to connect to." },
	{ .name = "Name",
	  .aliases = "VMNetworkAdapterName",
	  .type = CMDLET_STRING,
	  .dflt = "Network Adapter",
	  .help = "Name of the adapter." },
	{ .name = "DynamicMacAddress",
	  .type = CMDLET_SWITCH,
	  .sets = SET(0),
	  .help = "A MAC address of the host's pool. This is the default." },
	{ .name = "StaticMacAddress",
	  .type = CMDLET_MAC,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "MAC address." },
	ONLY_FALSE("IsLegacy", "Emulated adapters need generation 1."),
	ONLY_OFF("DeviceNaming", "Guests are not told the names of adapters."),
	NOT_YET("ManagementOS", CMDLET_SWITCH, "The host has no virtual adapters."),
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example add_adapter_examples[] = {
	{ "add-vmnetworkadapter -VMName web -SwitchName 'Default Switch'",
	  "An adapter behind NAT." },
	END_EXAMPLES,
};

#define ADAPTER_NAME(place)                                                                        \
	{                                                                                          \
		.name = "Name", .aliases = "VMNetworkAdapterName", .type = CMDLET_STRING,          \
		.flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE, .position = (place),     \
		.dflt = "*", .help = "Names of the adapters; * and ? match. Without it: all."      \
	}

static const struct cmdlet_param disconnect_adapter_params[] = {
	VM_BY_VMNAME, ADAPTER_NAME(2), BY_PIPE("VMNetworkAdapter"),
	PASSTHRU,     COMPUTER_NAME,   END_PARAMS,
};
static const struct cmdlet_param remove_adapter_params[] = {
	VM_BY_VMNAME,
	ADAPTER_NAME(2),
	NOT_YET("ManagementOS", CMDLET_SWITCH, "The host has no virtual adapters."),
	NOT_YET("SwitchName", CMDLET_STRING, "The host has no virtual adapters."),
	BY_PIPE("VMNetworkAdapter"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const char *const get_adapter_sets[] = { "Virtual machine", "All", NULL };
static const struct cmdlet_param get_adapter_params[] = {
	{ .name = "VMName",
	  .aliases = "VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .sets = SET(0),
	  .position = 1,
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match." },
	{ .name = "All",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "Those of all virtual machines. The host itself has none here." },
	ADAPTER_NAME(2),
	ONLY_FALSE("IsLegacy", "Emulated adapters need generation 1."),
	NOT_YET("ManagementOS", CMDLET_SWITCH, "The host has no virtual adapters."),
	NOT_YET("SwitchName", CMDLET_STRING, "The host has no virtual adapters."),
	OF_CHECKPOINT,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_param connect_adapter_params[] = {
	VM_BY_VMNAME,
	ADAPTER_NAME(2),
	{ .name = "SwitchName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_PIPELINE,
	  .position = 3,
	  .offer = CMDLET_OFFER_SWITCH,
	  .help = "Virtual switch." },
	NOT_YET("UseAutomaticConnection", CMDLET_SWITCH, "There are no resource pools."),
	BY_PIPE("VMNetworkAdapter"),
	BY_PIPE("VMSwitch"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_adapter_examples[] = {
	{ "get-vmnetworkadapter '*'", "Every adapter with its addresses." },
	END_EXAMPLES,
};
static const struct cmdlet_example remove_adapter_examples[] = {
	{ "remove-vmnetworkadapter web -Name 'Network Adapter'", "Takes the adapter away." },
	END_EXAMPLES,
};
static const struct cmdlet_example connect_adapter_examples[] = {
	{ "connect-vmnetworkadapter web -SwitchName 'Default Switch'", "Plugs it in." },
	{ "get-vmnetworkadapter '*' | oyako connect-vmnetworkadapter -SwitchName 'Default Switch'",
	  "All adapters of all virtual machines." },
	END_EXAMPLES,
};
static const struct cmdlet_example disconnect_adapter_examples[] = {
	{ "disconnect-vmnetworkadapter web", "Unplugs all its adapters." },
	END_EXAMPLES,
};

static const struct cmdlet_param rename_adapter_params[] = {
	VM_BY_VMNAME,
	ADAPTER_NAME(2),
	{ .name = "NewName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 3,
	  .help = "The new name." },
	NOT_YET("ManagementOS", CMDLET_SWITCH, "The host has no virtual adapters."),
	BY_PIPE("VMNetworkAdapter"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example rename_adapter_examples[] = {
	{ "rename-vmnetworkadapter web -Name 'Network Adapter' -NewName Office",
	  "Two adapters may have one name." },
	END_EXAMPLES,
};

#define NO_QOS   "The switch does not share out bandwidth yet."
#define NO_HARD  "It is for adapters of the host that do work of guests."
#define NO_GUARD "The switch does not look into frames yet."

static const char *const set_adapter_sets[] = { "As it is", "Dynamic address", "Static address",
						NULL };
static const struct cmdlet_param set_adapter_params[] = {
	VM_BY_VMNAME,
	ADAPTER_NAME(2),
	{ .name = "DynamicMacAddress",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "Gives it a MAC address of the host's pool. Only while the machine is off." },
	{ .name = "StaticMacAddress",
	  .type = CMDLET_MAC,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(2),
	  .help = "Gives it this MAC address. Only while the machine is off." },
	{ .name = "MacAddressSpoofing",
	  .type = CMDLET_ENUM,
	  .values = "On Off",
	  .help = "Whether the switch lets it send from other MAC addresses than its own; Off "
		  "unless set. To a running guest, a change is a cable that is pulled and plugged "
		  "in again." },
	ONLY_OFF("DhcpGuard", NO_GUARD),
	ONLY_OFF("RouterGuard", NO_GUARD),
	ONLY("PortMirroring", CMDLET_ENUM, "None Source Destination", "None", NO_GUARD),
	ONLY_OFF("IeeePriorityTag", NO_GUARD),
	ONLY_0("StormLimit", NO_GUARD),
	ONLY_0("DynamicIPAddressLimit", NO_GUARD),
	ONLY_0("VirtualSubnetId", NO_GUARD),
	ONLY_0("MaximumBandwidth", NO_QOS),
	ONLY_0("MinimumBandwidthAbsolute", NO_QOS),
	ONLY_0("MinimumBandwidthWeight", NO_QOS),
	ONLY_0("VmqWeight", NO_HARD),
	ONLY_FALSE("VmmqEnabled", NO_HARD),
	NOT_YET("VmmqQueuePairs", CMDLET_INTEGER, NO_HARD),
	ONLY_FALSE("VrssEnabled", NO_HARD),
	ONLY_0("IovWeight", NO_HARD),
	NOT_YET("IovQueuePairsRequested", CMDLET_INTEGER, NO_HARD),
	NOT_YET("IovInterruptModeration", CMDLET_STRING, NO_HARD),
	ONLY_0("IPsecOffloadMaximumSecurityAssociation", NO_HARD),
	NOT_YET("PacketDirectNumProcs", CMDLET_INTEGER, NO_HARD),
	NOT_YET("PacketDirectModerationCount", CMDLET_INTEGER, NO_HARD),
	NOT_YET("PacketDirectModerationInterval", CMDLET_INTEGER, NO_HARD),
	ONLY_OFF("FixSpeed10G", NO_HARD),
	ONLY("AllowTeaming", CMDLET_ENUM, "On Off", "On", "Any guest may team its adapters."),
	ONLY_OFF("DeviceNaming", "Guests are not told the names of adapters."),
	NOT_YET("MandatoryFeatureId", CMDLET_STRING, "The switch has no extensions."),
	ONLY_FALSE("NotMonitoredInCluster", "There are no clusters."),
	NOT_YET("TestReplicaPoolName", CMDLET_STRING, "There is no replication."),
	NOT_YET("TestReplicaSwitchName", CMDLET_STRING, "There is no replication."),
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	NOT_YET("ManagementOS", CMDLET_SWITCH, "The host has no virtual adapters."),
	BY_PIPE("VMNetworkAdapter"),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_adapter_examples[] = {
	{ "set-vmnetworkadapter web -StaticMacAddress 00155D010203", "An address of one's own." },
	{ "set-vmnetworkadapter web -MacAddressSpoofing On", "For guests that are switches." },
	END_EXAMPLES,
};

static const struct cmdlet_param switch_params[] = {
	{ .name = "Name",
	  .aliases = "SwitchName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .position = 1,
	  .dflt = "*",
	  .offer = CMDLET_OFFER_SWITCH,
	  .help = "Names of the switches; * and ? match. Without it: all." },
	{ .name = "SwitchType",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_LIST,
	  .values = "External Internal Private NAT",
	  .help = "Only switches of these types. NAT is ours." },
	{ .name = "Id",
	  .aliases = "SwitchId",
	  .type = CMDLET_GUID,
	  .flags = CMDLET_LIST,
	  .help = "Only the switches with these identifiers." },
	NOT_YET("ResourcePoolName", CMDLET_STRING, "There are no resource pools."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example switch_examples[] = {
	{ "get-vmswitch", "The virtual switches." },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_network[] = {
	{ .name = "Add-VMNetworkAdapter",
	  .synopsis = "Adds a network adapter",
	  .description = "Adds a synthetic network adapter; the virtual machine may be running.",
	  .sets = add_adapter_sets,
	  .params = add_adapter_params,
	  .output = &adapter_output,
	  .examples = add_adapter_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMNetworkAdapter",
	  .synopsis = "Lists network adapters with their addresses",
	  .description = "Shows the adapters of virtual machines; addresses are what the guest "
			 "reports by the data exchange service.",
	  .sets = get_adapter_sets,
	  .params = get_adapter_params,
	  .output = &adapter_output,
	  .examples = get_adapter_examples },
	{ .name = "Remove-VMNetworkAdapter",
	  .synopsis = "Takes a network adapter away",
	  .description = "Removes adapters; the virtual machine may be running.",
	  .params = remove_adapter_params,
	  .output = &adapter_output,
	  .examples = remove_adapter_examples,
	  .output_if_passthru = true },
	{ .name = "Connect-VMNetworkAdapter",
	  .synopsis = "Plugs a network adapter into a switch",
	  .description = "Connects adapters; the virtual machine may be running.",
	  .params = connect_adapter_params,
	  .output = &adapter_output,
	  .examples = connect_adapter_examples,
	  .output_if_passthru = true },
	{ .name = "Disconnect-VMNetworkAdapter",
	  .synopsis = "Unplugs a network adapter from its switch",
	  .description = "Disconnects adapters; the virtual machine may be running.",
	  .params = disconnect_adapter_params,
	  .output = &adapter_output,
	  .examples = disconnect_adapter_examples,
	  .output_if_passthru = true },
	{ .name = "Rename-VMNetworkAdapter",
	  .synopsis = "Gives a network adapter another name",
	  .description = "Changes the name; the virtual machine may be running.",
	  .params = rename_adapter_params,
	  .output = &adapter_output,
	  .examples = rename_adapter_examples,
	  .output_if_passthru = true },
	{ .name = "Set-VMNetworkAdapter",
	  .synopsis = "Changes addresses and rights of a network adapter",
	  .description = "Changes the MAC address, and whether others may be used.",
	  .sets = set_adapter_sets,
	  .params = set_adapter_params,
	  .output = &adapter_output,
	  .examples = set_adapter_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMSwitch",
	  .synopsis = "Lists virtual switches",
	  .description = "Shows the virtual switches. There is one so far, the Default Switch: a "
			 "network behind NAT that needs no rights on the host.",
	  .params = switch_params,
	  .output = &switch_output,
	  .examples = switch_examples },
};

const size_t cmdlet_table_network_count = ARRAY_SIZE(cmdlet_table_network);
