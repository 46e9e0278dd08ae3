/* The part of the table about the host itself and who may use it from elsewhere. */
#include "cmdlet/table.h"

#include "base/macros.h"

#define USER_NAMES(flags_, help_)                                                                  \
	{                                                                                          \
		.name = "UserName", .aliases = "UserId Sid", .type = CMDLET_STRING, .position = 2, \
		.flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE | (flags_),               \
		.help = (help_)                                                                    \
	}

static const struct cmdlet_output user_output = {
	"VMApiUser",
	(const struct cmdlet_column[]){ { "UserName", "UserName", CMDLET_SHOW_TEXT },
					{ "Role", "Role", CMDLET_SHOW_TEXT },
					{ "Proof", "Proof", CMDLET_SHOW_TEXT },
					{ "Expires", "Expires", CMDLET_SHOW_TEXT },
					{ "Token", NULL, CMDLET_SHOW_TEXT },
					{ "Fingerprint", NULL, CMDLET_SHOW_TEXT },
					{ "Created", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output new_user_output = {
	"VMApiUser",
	(const struct cmdlet_column[]){ { "UserName", "UserName", CMDLET_SHOW_TEXT },
					{ "Role", "Role", CMDLET_SHOW_TEXT },
					{ "Expires", "Expires", CMDLET_SHOW_TEXT },
					{ "Token", "Token", CMDLET_SHOW_TEXT },
					{ "Proof", NULL, CMDLET_SHOW_TEXT },
					{ "Fingerprint", NULL, CMDLET_SHOW_TEXT },
					{ "Created", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_output connect_access_output = {
	"VMConnectAce",
	(const struct cmdlet_column[]){ { "VMName", "VMName", CMDLET_SHOW_TEXT },
					{ "UserName", "UserName", CMDLET_SHOW_TEXT },
					{ "VMId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_param add_user_params[] = {
	{ .name = "UserName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 1,
	  .help = "1 to 64 letters, digits and . - _ @ as a name." },
	{ .name = "Role",
	  .type = CMDLET_ENUM,
	  .values = "Administrator Operator Reader Console",
	  .position = 2,
	  .dflt = "Console",
	  .help =
	      "Reader sees virtual machines and the host; Operator also starts, stops, saves and "
	      "checkpoints them and reaches consoles and guests; Administrator may all; Console "
	      "only what Grant-VMConnectAccess grants." },
	{ .name = "CertificatePath",
	  .type = CMDLET_FILE,
	  .offer = CMDLET_OFFER_FILE,
	  .help = "A certificate in PEM that the user shows instead of a token." },
	{ .name = "ExpiresInDays",
	  .type = CMDLET_INTEGER,
	  .min = 1,
	  .max = 36500,
	  .help = "Refused after so many days. Without it: never." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example add_user_examples[] = {
	{ "add-vmapiuser ci -Role Operator", "Prints a token. It is not shown again." },
	{ "add-vmapiuser ada -Role Administrator -CertificatePath ada.pem",
	  "One who comes with a certificate." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_user_params[] = {
	{ .name = "UserName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .position = 1,
	  .dflt = "*",
	  .help = "Names; * and ? match." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_user_examples[] = {
	{ "get-vmapiuser", "Who may use this host from elsewhere." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_user_params[] = {
	{ .name = "UserName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE | CMDLET_MANDATORY,
	  .position = 1,
	  .help = "Names; * and ? match." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example remove_user_examples[] = {
	{ "remove-vmapiuser ci", "The token is worthless from now on." },
	END_EXAMPLES,
};

#define VMS_OF_SET(extra)                                                                          \
	{                                                                                          \
		.name = "VMName", .aliases = "VM", .type = CMDLET_STRING,                          \
		.flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE | (extra),                \
		.sets = SET(0), .position = 1, .offer = CMDLET_OFFER_VM,                           \
		.help = "Names of the virtual machines; * and ? match."                            \
	}
#define VM_IDS                                                                                     \
	{                                                                                          \
		.name = "VMId", .type = CMDLET_GUID, .flags = CMDLET_MANDATORY | CMDLET_LIST,      \
		.sets = SET(1), .help = "Identifiers of the virtual machines."                     \
	}
static const char *const access_sets[] = { "Virtual machine", "Identifier", NULL };

static const struct cmdlet_param grant_params[] = {
	VMS_OF_SET(CMDLET_MANDATORY),
	VM_IDS,
	USER_NAMES(CMDLET_MANDATORY, "Users of the API (Add-VMApiUser)."),
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example grant_examples[] = {
	{ "grant-vmconnectaccess web -UserName ada", "Ada may use the console of web." },
	END_EXAMPLES,
};
static const struct cmdlet_example revoke_examples[] = {
	{ "revoke-vmconnectaccess web -UserName ada", "And now no more." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_access_params[] = {
	{ .name = "VMName",
	  .aliases = "VM Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD | CMDLET_PIPELINE,
	  .sets = SET(0),
	  .position = 1,
	  .dflt = "*",
	  .offer = CMDLET_OFFER_VM,
	  .help = "Names of the virtual machines; * and ? match." },
	USER_NAMES(0, "Only these users."),
	VM_IDS,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_access_examples[] = {
	{ "get-vmconnectaccess", "All grants." },
	END_EXAMPLES,
};

static const struct cmdlet_param openapi_params[] = {
	END_PARAMS,
};
static const struct cmdlet_example openapi_examples[] = {
	{ "get-vmapidescription", "For a generator of clients." },
	END_EXAMPLES,
};

static const struct cmdlet_output numa_output = {
	"VMHostNumaNode",
	(const struct cmdlet_column[]){
	    { "NodeId", "NodeId", CMDLET_SHOW_TEXT },
	    { "ProcessorsAvailability", "ProcessorsAvailability", CMDLET_SHOW_TEXT },
	    { "MemoryAvailable", "MemoryAvailable", CMDLET_SHOW_TEXT },
	    { "MemoryTotal", "MemoryTotal", CMDLET_SHOW_TEXT },
	    END_COLUMNS },
};
static const struct cmdlet_param numa_params[] = {
	{ .name = "Id",
	  .type = CMDLET_INTEGER,
	  .position = 1,
	  .min = 0,
	  .max = 1023,
	  .help = "Only this node." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example numa_examples[] = {
	{ "get-vmhostnumanode", "All nodes of the host." },
	END_EXAMPLES,
};

const struct cmdlet cmdlet_table_host[] = {
	{ .name = "Get-VMHostNumaNode",
	  .synopsis = "Shows the host's NUMA nodes",
	  .description = "Shows each node with its memory in MB and how idle each of its "
			 "processors is, in percent, since the host was started.",
	  .params = numa_params,
	  .output = &numa_output,
	  .examples = numa_examples },
	{ .name = "Get-VMApiDescription",
	  .synopsis = "Prints the API as an OpenAPI document",
	  .description = "Prints what a service of this version serves as /v1/openapi.json.",
	  .params = openapi_params,
	  .examples = openapi_examples,
	  .place = CMDLET_IN_CLIENT,
	  .ours = true },
	{ .name = "Add-VMApiUser",
	  .synopsis = "Lets somebody use the API from elsewhere",
	  .description = "Makes a user with a role, and shows the token that it proves itself by. "
			 "Only the token's SHA-256 is kept. See Set-VMHost -ApiAddress.",
	  .params = add_user_params,
	  .output = &new_user_output,
	  .examples = add_user_examples,
	  .ours = true },
	{ .name = "Get-VMApiUser",
	  .synopsis = "Lists the users of the API",
	  .description = "Shows who may use the API from elsewhere, and as what.",
	  .params = get_user_params,
	  .output = &user_output,
	  .examples = get_user_examples,
	  .ours = true },
	{ .name = "Remove-VMApiUser",
	  .synopsis = "Removes a user of the API",
	  .description = "Takes effect with the next request. A console that is open stays open.",
	  .params = remove_user_params,
	  .output = &user_output,
	  .examples = remove_user_examples,
	  .output_if_passthru = true,
	  .ours = true },
	{ .name = "Grant-VMConnectAccess",
	  .synopsis = "Lets a user of the API use consoles",
	  .description = "One with the role Console or Reader may then use the console of the "
			 "virtual machine; operators and administrators may anyway.",
	  .sets = access_sets,
	  .params = grant_params,
	  .output = &connect_access_output,
	  .examples = grant_examples,
	  .output_if_passthru = true },
	{ .name = "Revoke-VMConnectAccess",
	  .synopsis = "Takes a grant of a console back",
	  .description = "Undoes Grant-VMConnectAccess. A console that is open stays open.",
	  .sets = access_sets,
	  .params = grant_params,
	  .output = &connect_access_output,
	  .examples = revoke_examples,
	  .output_if_passthru = true },
	{ .name = "Get-VMConnectAccess",
	  .synopsis = "Lists the grants of consoles",
	  .description = "Shows what Grant-VMConnectAccess granted.",
	  .sets = access_sets,
	  .params = get_access_params,
	  .output = &connect_access_output,
	  .examples = get_access_examples },
};
const size_t cmdlet_table_host_count = ARRAY_SIZE(cmdlet_table_host);
