/* Cmdlets that go to programs and services inside a guest. */
#include "cmdlet/table.h"

#include "base/macros.h"

#include <stddef.h>

/* ---- sockets ---- */

static const struct cmdlet_output socket_output = {
	"VMGuestCommunicationService",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					{ "Name", "Name", CMDLET_SHOW_TEXT },
					{ "Port", "Port", CMDLET_SHOW_TEXT },
					{ "Path", "Path", CMDLET_SHOW_TEXT },
					{ "ServiceId", NULL, CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

#define SERVICE(extra_flags, where, text)                                                          \
	{                                                                                          \
		.name = "Service", .aliases = "Port ServiceId", .type = CMDLET_STRING,             \
		.flags = (extra_flags), .position = (where), .help = (text)                        \
	}

static const struct cmdlet_param add_socket_params[] = {
	VM_BY_VMNAME,
	SERVICE(CMDLET_MANDATORY, 2, "AF_VSOCK port, or the GUID of the service."),
	{ .name = "Path",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .position = 3,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Unix socket that a program of this host listens on." },
	{ .name = "Name",
	  .aliases = "ElementName",
	  .type = CMDLET_STRING,
	  .help = "Name of the service; without it: its port or GUID." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example add_socket_examples[] = {
	{ "add-vmguestcommunicationservice web 5000 /run/log.sock",
	  "Programs in web that connect to port 5000 of the host reach who listens there." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_socket_params[] = { VM_BY_VMNAME, COMPUTER_NAME, END_PARAMS };
static const struct cmdlet_example get_socket_examples[] = {
	{ "get-vmguestcommunicationservice web", "What web may connect to." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_socket_params[] = {
	VM_BY_VMNAME,
	SERVICE(CMDLET_MANDATORY, 2, "AF_VSOCK port, or the GUID of the service."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_socket_examples[] = {
	{ "remove-vmguestcommunicationservice web 5000", "Nobody is let in there any more." },
	END_EXAMPLES,
};

static const struct cmdlet_param connect_socket_params[] = {
	ONE_VM,
	SERVICE(CMDLET_MANDATORY, 2, "AF_VSOCK port of the guest, or the GUID of a service."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example connect_socket_examples[] = {
	{ "connect-vmsocket web 5000", "Talks to what listens on port 5000 in web." },
	{ "connect-vmsocket web 22", "To sign in by sshd without a network: ssh -o "
				     "ProxyCommand='oyako connect-vmsocket web 22'." },
	END_EXAMPLES,
};

/* ---- services ---- */

static const struct cmdlet_param copy_file_params[] = {
	VM_BY_NAME,
	{ .name = "SourcePath",
	  .type = CMDLET_FILE,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "File of this host." },
	{ .name = "DestinationPath",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 3,
	  .help = "File in the guest, absolute; with a / at the end: a folder." },
	{ .name = "FileSource",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_MANDATORY,
	  .position = 4,
	  .values = "Host Guest",
	  .help = "Host: to the guest. Guest is refused: the protocol knows no such way, but "
		  "Copy-Item -FromSession does." },
	{ .name = "CreateFullPath", .type = CMDLET_SWITCH, .help = "Makes the folders, too." },
	FORCE("Writes over a file that is there already."),
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example copy_file_examples[] = {
	{ "copy-vmfile web oyako-guest-agent.deb /root/ -FileSource Host", "Needs no sign-in." },
	END_EXAMPLES,
};

static const struct cmdlet_output pair_output = {
	"VMKeyValuePair",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					{ "Pool", "Pool", CMDLET_SHOW_TEXT },
					{ "Key", "Key", CMDLET_SHOW_TEXT },
					{ "Value", "Value", CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

#define PAIR_KEY                                                                                   \
	{                                                                                          \
		.name = "Key", .type = CMDLET_STRING, .flags = CMDLET_MANDATORY, .position = 2,    \
		.help = "Its name, up to 255 characters."                                          \
	}

static const struct cmdlet_param get_pair_params[] = {
	VM_BY_VMNAME,
	{ .name = "Pool",
	  .type = CMDLET_ENUM,
	  .position = 2,
	  .values = "Guest Intrinsic External Host",
	  .dflt = "Guest",
	  .help = "Guest: what programs in the guest wrote. Intrinsic: what its daemon says of it. "
		  "External: what Set-VMKeyValuePair wrote. Host: what it is told of its host." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_pair_examples[] = {
	{ "get-vmkeyvaluepair web Intrinsic", "Operating system, name and addresses." },
	END_EXAMPLES,
};
static const struct cmdlet_param set_pair_params[] = {
	VM_BY_VMNAME,
	PAIR_KEY,
	{ .name = "Value",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 3,
	  .help = "Up to 1023 characters." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example set_pair_examples[] = {
	{ "set-vmkeyvaluepair web Role frontend", "The guest finds it in its pool 0." },
	END_EXAMPLES,
};
static const struct cmdlet_param remove_pair_params[] = { VM_BY_VMNAME, PAIR_KEY, COMPUTER_NAME,
							  END_PARAMS };
static const struct cmdlet_example remove_pair_examples[] = {
	{ "remove-vmkeyvaluepair web Role", "Takes it away." },
	END_EXAMPLES,
};

#define ADDRESSES(param, other, text)                                                              \
	{                                                                                          \
		.name = (param), .aliases = other, .type = CMDLET_STRING, .flags = CMDLET_LIST,    \
		.sets = SET(0), .help = (text)                                                     \
	}

static const char *const guest_adapter_sets[] = { "Static addresses", "DHCP", NULL };
static const struct cmdlet_param guest_adapter_params[] = {
	VM_BY_VMNAME,
	{ .name = "Name",
	  .aliases = "VMNetworkAdapterName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_WILDCARD,
	  .position = 2,
	  .dflt = "*",
	  .help = "Name of the adapter; without it: the only one." },
	ADDRESSES("IPAddress", "IPAddresses", "IPv4 and IPv6 addresses."),
	ADDRESSES("Subnet", "Subnets", "Subnet mask or prefix length of each address."),
	ADDRESSES("DefaultGateway", "DefaultGateways", "Default gateways."),
	ADDRESSES("DNSServer", "DNSServers", "DNS servers."),
	{ .name = "DHCP",
	  .aliases = "DHCPEnabled",
	  .type = CMDLET_SWITCH,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .help = "Addresses come from the network." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example guest_adapter_examples[] = {
	{ "set-vmguestnetworkadapter web -IPAddress 192.168.7.2 -Subnet 255.255.255.0 "
	  "-DefaultGateway 192.168.7.1",
	  "Lets the guest's daemon configure its only adapter." },
	END_EXAMPLES,
};

/* ---- Direct ---- */

#define CREDENTIALS                                                                                \
	{ .name = "Credential",                                                                    \
	  .type = CMDLET_STRING,                                                                   \
	  .help = "User of the guest who signs in; without it: root." },                           \
	    { .name = "PasswordFilePath",                                                          \
	      .type = CMDLET_FILE,                                                                 \
	      .flags = CMDLET_OURS,                                                                \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help =                                                                              \
		  "File whose first line is the password; without it, and without a key, it is "   \
		  "asked for on the terminal." },                                                  \
	    { .name = "KeyFilePath",                                                               \
	      .aliases = "IdentityFilePath",                                                       \
	      .type = CMDLET_FILE,                                                                 \
	      .offer = CMDLET_OFFER_FILE,                                                          \
	      .help = "Private key of OpenSSH, instead of a password; the user's authorized_keys " \
		      "in the guest must name it." },                                              \
	{                                                                                          \
		.name = "Transport", .type = CMDLET_ENUM, .flags = CMDLET_OURS,                    \
		.values = "Auto Agent SSH",                                                        \
		.help =                                                                            \
		    "Agent: oyako-guest-agent in the guest. SSH: its sshd on AF_VSOCK port 22. "   \
		    "Auto: the first one that answers."                                            \
	}

static const struct cmdlet_param invoke_params[] = {
	{ .name = "VMName",
	  .aliases = "VM",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .offer = CMDLET_OFFER_VM,
	  .position = 1,
	  .help = "Names of the virtual machines; * and ? match." },
	{ .name = "ScriptBlock",
	  .aliases = "Command",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .help = "Command for the user's shell in the guest." },
	CREDENTIALS,
	{ .name = "ThrottleLimit",
	  .type = CMDLET_INTEGER,
	  .min = 1,
	  .max = 256,
	  .dflt = "32",
	  .help = "Virtual machines at a time." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example invoke_examples[] = {
	{ "invoke-command -VMName web -ScriptBlock 'uname -a'",
	  "As root, who types the password." },
	{ "invoke-command web,db 'systemctl is-active nginx' -Credential admin -KeyFilePath id",
	  "In two at once; each line has the name before it." },
	END_EXAMPLES,
};

static const struct cmdlet_param enter_params[] = { ONE_VM, CREDENTIALS, COMPUTER_NAME,
						    END_PARAMS };
static const struct cmdlet_example enter_examples[] = {
	{ "enter-pssession -VMName web -Credential admin", "A shell in web." },
	END_EXAMPLES,
};

static const char *const copy_sets[] = { "To a guest", "From a guest", NULL };
static const struct cmdlet_param copy_params[] = {
	{ .name = "Path",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY | CMDLET_LIST,
	  .position = 1,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "What is copied: of this host with -ToSession, of the guest with -FromSession." },
	{ .name = "Destination",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "Where to: a file or a folder of the other side." },
	{ .name = "ToSession",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(0),
	  .offer = CMDLET_OFFER_VM,
	  .help = "Name of the virtual machine that gets it." },
	{ .name = "FromSession",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .sets = SET(1),
	  .offer = CMDLET_OFFER_VM,
	  .help = "Name of the virtual machine that has it." },
	{ .name = "Recurse", .type = CMDLET_SWITCH, .help = "A folder with all that is in it." },
	CREDENTIALS,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example copy_examples[] = {
	{ "copy-item site.conf /etc/nginx/ -ToSession web", "One file." },
	{ "copy-item /var/log logs -FromSession web -Recurse", "A folder, into logs." },
	END_EXAMPLES,
};

/* ---- the table ---- */

const struct cmdlet cmdlet_table_guest[] = {
	{ .name = "Add-VMGuestCommunicationService",
	  .synopsis = "Lets programs in a guest connect to one of the host",
	  .description =
	      "Registers a service of the host for a virtual machine: programs in the guest "
	      "connect "
	      "to its AF_VSOCK port of the host (CID 2), without a network, and reach the Unix "
	      "socket at -Path. Guests reach only what is registered for them. The counterpart of "
	      "the registry key GuestCommunicationServices; the name is ours.",
	  .params = add_socket_params,
	  .output = &socket_output,
	  .examples = add_socket_examples,
	  .output_if_passthru = true,
	  .ours = true },
	{ .name = "Get-VMGuestCommunicationService",
	  .synopsis = "Lists the services of the host that guests may connect to",
	  .description = "Shows what is registered for virtual machines.",
	  .params = get_socket_params,
	  .output = &socket_output,
	  .examples = get_socket_examples,
	  .ours = true },
	{ .name = "Remove-VMGuestCommunicationService",
	  .synopsis = "Takes a service of the host away from a guest",
	  .description = "Connections that exist go on.",
	  .params = remove_socket_params,
	  .examples = remove_socket_examples,
	  .ours = true },
	{ .name = "Connect-VMSocket",
	  .synopsis = "Connects to a program in a guest, without a network",
	  .description =
	      "Ties standard input and output to an AF_VSOCK port of a running guest. The end of "
	      "the input ends that direction only.",
	  .params = connect_socket_params,
	  .examples = connect_socket_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Copy-VMFile",
	  .synopsis = "Copies a file into guests by their file copy service",
	  .description =
	      "Copies a file to a running guest through the Guest Service Interface, which is "
	      "disabled at first (Enable-VMIntegrationService) and needs hv_fcopy_daemon in a "
	      "Linux "
	      "guest. Nobody signs in: the file is root's.",
	  .params = copy_file_params,
	  .examples = copy_file_examples },
	{ .name = "Get-VMKeyValuePair",
	  .synopsis = "Shows what host and guest tell each other by data exchange",
	  .description = "Reads a pool of key-value pairs of a running guest. The counterpart of "
			 "WMI's GuestExchangeItems; the name is ours.",
	  .params = get_pair_params,
	  .output = &pair_output,
	  .examples = get_pair_examples,
	  .ours = true },
	{ .name = "Set-VMKeyValuePair",
	  .synopsis = "Tells a guest something by data exchange",
	  .description = "Writes a pair into the pool External of a running guest, which keeps it. "
			 "The counterpart of WMI's AddKvpItems; the name is ours.",
	  .params = set_pair_params,
	  .examples = set_pair_examples,
	  .ours = true },
	{ .name = "Remove-VMKeyValuePair",
	  .synopsis = "Takes a pair back that a guest was told",
	  .description = "Removes a pair of the pool External of a running guest.",
	  .params = remove_pair_params,
	  .examples = remove_pair_examples,
	  .ours = true },
	{ .name = "Set-VMGuestNetworkAdapter",
	  .synopsis = "Lets a guest configure a network adapter's addresses",
	  .description =
	      "Hands addresses to the guest by data exchange. The guest's daemon carries it out "
	      "with "
	      "a script of its distribution (hv_set_ifconfig), which Debian does not have. The "
	      "counterpart of WMI's SetGuestNetworkAdapterConfiguration; the name is ours.",
	  .sets = guest_adapter_sets,
	  .params = guest_adapter_params,
	  .examples = guest_adapter_examples,
	  .ours = true },
	{ .name = "Invoke-Command",
	  .synopsis = "Runs a command in guests, without a network",
	  .description =
	      "Signs in to running guests and runs a command of the user's shell. With one guest "
	      "the "
	      "command has our input, output and exit status (128 and the signal where one ended "
	      "it); "
	      "255 means that it could not be run. With several, the lines have the name before "
	      "them, and the exit status is 0 only if every one's was.",
	  .params = invoke_params,
	  .examples = invoke_examples,
	  .place = CMDLET_IN_CLIENT },
	{ .name = "Enter-PSSession",
	  .synopsis = "Opens a terminal in a guest, without a network",
	  .description =
	      "Signs in to a running guest and opens the user's login shell on a terminal "
	      "of the size of ours.",
	  .params = enter_params,
	  .examples = enter_examples,
	  .place = CMDLET_IN_CLIENT },
	{ .name = "Copy-Item",
	  .synopsis = "Copies files to and from a guest, without a network",
	  .description =
	      "Signs in to a running guest and copies. A file takes its place only when "
	      "all of it is there; a copy that was interrupted goes on when it is "
	      "repeated, folders file by file. Sessions are named by their virtual machine.",
	  .sets = copy_sets,
	  .params = copy_params,
	  .examples = copy_examples,
	  .place = CMDLET_IN_CLIENT },
};

const size_t cmdlet_table_guest_count = ARRAY_SIZE(cmdlet_table_guest);
