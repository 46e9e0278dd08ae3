/* The part of the table about groups of virtual machines. */
#include "cmdlet/table.h"

#include "base/macros.h"

#define GROUP_NAME                                                                                 \
	{                                                                                          \
		.name = "Name", .aliases = "VMGroup", .type = CMDLET_STRING,                       \
		.flags = CMDLET_MANDATORY | CMDLET_PIPELINE, .sets = SET(0), .position = 1,        \
		.help = "Name of the group."                                                       \
	}
#define GROUP_ID                                                                                   \
	{                                                                                          \
		.name = "Id", .type = CMDLET_GUID, .flags = CMDLET_MANDATORY, .sets = SET(1),      \
		.help = "Identifier of the group."                                                 \
	}
#define MEMBERS                                                                                    \
	{ .name = "VM",                                                                            \
	  .type = CMDLET_STRING,                                                                   \
	  .flags = CMDLET_LIST,                                                                    \
	  .position = 2,                                                                           \
	  .offer = CMDLET_OFFER_VM,                                                                \
	  .help = "Names of virtual machines, for a VMCollectionType." },                          \
	{                                                                                          \
		.name = "VMGroupMember", .type = CMDLET_STRING, .flags = CMDLET_LIST,              \
		.help = "Names of groups, for a ManagementCollectionType."                         \
	}

static const char *const sets[] = { "Name", "Id", NULL };

static const struct cmdlet_output group_output = {
	"VMGroup",
	(const struct cmdlet_column[]){ { "Name", "Name", CMDLET_SHOW_TEXT },
					{ "GroupType", "GroupType", CMDLET_SHOW_TEXT },
					{ "VMMembers", "VMMembers", CMDLET_SHOW_TEXT },
					{ "VMGroupMembers", "VMGroupMembers", CMDLET_SHOW_TEXT },
					{ "InstanceId", NULL, CMDLET_SHOW_TEXT },
					END_COLUMNS },
};

static const struct cmdlet_param new_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 1,
	  .help = "Name of the group." },
	{ .name = "GroupType",
	  .type = CMDLET_ENUM,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .values = "VMCollectionType ManagementCollectionType",
	  .help = "Of virtual machines, or of groups." },
	{ .name = "Id",
	  .type = CMDLET_GUID,
	  .position = 3,
	  .help = "An identifier of one's choice." },
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example new_examples[] = {
	{ "new-vmgroup web VMCollectionType", "A group without members so far." },
	END_EXAMPLES,
};

static const struct cmdlet_param get_params[] = {
	{ .name = "Name",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_LIST | CMDLET_WILDCARD,
	  .sets = SET(0),
	  .position = 1,
	  .dflt = "*",
	  .help = "Names of groups; * and ? match." },
	GROUP_ID,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example get_examples[] = {
	{ "get-vmgroup", "All groups." },
	END_EXAMPLES,
};

static const struct cmdlet_param rename_params[] = {
	GROUP_NAME,
	GROUP_ID,
	{ .name = "NewName",
	  .type = CMDLET_STRING,
	  .flags = CMDLET_MANDATORY,
	  .position = 2,
	  .help = "The new name." },
	PASSTHRU,
	COMPUTER_NAME,
	END_PARAMS,
};
static const struct cmdlet_example rename_examples[] = {
	{ "rename-vmgroup web shop", "The members stay." },
	END_EXAMPLES,
};

static const struct cmdlet_param remove_params[] = {
	GROUP_NAME, GROUP_ID, FORCE("Does not ask."), COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example remove_examples[] = {
	{ "remove-vmgroup web -Force", "The virtual machines stay." },
	END_EXAMPLES,
};

static const struct cmdlet_param member_params[] = {
	GROUP_NAME, GROUP_ID, MEMBERS, PASSTHRU, COMPUTER_NAME, END_PARAMS,
};
static const struct cmdlet_example add_examples[] = {
	{ "add-vmgroupmember web -VM web1,web2", "Two more." },
	END_EXAMPLES,
};
static const struct cmdlet_example remove_member_examples[] = {
	{ "remove-vmgroupmember web -VM web2", "One less." },
	END_EXAMPLES,
};

const struct cmdlet cmdlet_table_group[] = {
	{ .name = "New-VMGroup",
	  .synopsis = "Makes a group",
	  .description = "Groups are labels: they hold virtual machines or, as management "
			 "collections, groups. One virtual machine may be in many.",
	  .params = new_params,
	  .output = &group_output,
	  .examples = new_examples },
	{ .name = "Get-VMGroup",
	  .synopsis = "Lists groups",
	  .description = "Shows the groups and their members.",
	  .sets = sets,
	  .params = get_params,
	  .output = &group_output,
	  .examples = get_examples },
	{ .name = "Rename-VMGroup",
	  .synopsis = "Gives a group another name",
	  .description = "The identifier stays.",
	  .sets = sets,
	  .params = rename_params,
	  .output = &group_output,
	  .examples = rename_examples,
	  .output_if_passthru = true },
	{ .name = "Remove-VMGroup",
	  .synopsis = "Removes a group",
	  .description = "Its members stay as they are.",
	  .sets = sets,
	  .params = remove_params,
	  .examples = remove_examples,
	  .confirm = true },
	{ .name = "Add-VMGroupMember",
	  .synopsis = "Adds members to a group",
	  .description = "Virtual machines, or groups, according to the group's type.",
	  .sets = sets,
	  .params = member_params,
	  .output = &group_output,
	  .examples = add_examples,
	  .output_if_passthru = true },
	{ .name = "Remove-VMGroupMember",
	  .synopsis = "Takes members out of a group",
	  .description = "The members themselves stay.",
	  .sets = sets,
	  .params = member_params,
	  .output = &group_output,
	  .examples = remove_member_examples,
	  .output_if_passthru = true },
};
const size_t cmdlet_table_group_count = ARRAY_SIZE(cmdlet_table_group);
