/* Which role of a user of the API a cmdlet needs. What is not named here needs an administrator: a
 * new cmdlet is closed until somebody has thought about it. */
#include "cmdlet/cmdlet.h"

#include "base/macros.h"

#include <string.h>
#include <strings.h>

static const char *const role_names[CMDLET_ROLE_COUNT] = {
	[CMDLET_ROLE_CONSOLE] = "Console",
	[CMDLET_ROLE_READER] = "Reader",
	[CMDLET_ROLE_OPERATOR] = "Operator",
	[CMDLET_ROLE_ADMINISTRATOR] = "Administrator",
};

/* Readers see virtual machines and host; Get-VHD is not among it, for it opens any file. Operators
 * run virtual machines as they are; what writes files of their choice or changes a description is
 * for administrators. */
static const struct {
	const char *name;
	enum cmdlet_role role;
} needs[] = {
	{ "Get-VM", CMDLET_ROLE_CONSOLE },
	{ "Get-Job", CMDLET_ROLE_READER }, /* these are about one's own jobs */
	{ "Receive-Job", CMDLET_ROLE_READER },
	{ "Remove-Job", CMDLET_ROLE_READER },
	{ "Stop-Job", CMDLET_ROLE_READER },
	{ "Wait-Job", CMDLET_ROLE_READER },
	{ "Get-VMBios", CMDLET_ROLE_READER },
	{ "Get-VMComPort", CMDLET_ROLE_READER },
	{ "Get-VMDvdDrive", CMDLET_ROLE_READER },
	{ "Get-VMEvent", CMDLET_ROLE_READER },
	{ "Get-VMFirmware", CMDLET_ROLE_READER },
	{ "Get-VMFloppyDiskDrive", CMDLET_ROLE_READER },
	{ "Get-VMGroup", CMDLET_ROLE_READER },
	{ "Get-VMGuestCommunicationService", CMDLET_ROLE_READER },
	{ "Get-VMHardDiskDrive", CMDLET_ROLE_READER },
	{ "Get-VMHost", CMDLET_ROLE_READER },
	{ "Get-VMHostNumaNode", CMDLET_ROLE_READER },
	{ "Get-VMIdeController", CMDLET_ROLE_READER },
	{ "Get-VMIntegrationService", CMDLET_ROLE_READER },
	{ "Get-VMKeyValuePair", CMDLET_ROLE_READER },
	{ "Get-VMMemory", CMDLET_ROLE_READER },
	{ "Get-VMNetworkAdapter", CMDLET_ROLE_READER },
	{ "Get-VMHostSupportedVersion", CMDLET_ROLE_READER },
	{ "Get-VMProcessor", CMDLET_ROLE_READER },
	{ "Get-VMScsiController", CMDLET_ROLE_READER },
	{ "Get-VMSnapshot", CMDLET_ROLE_READER },
	{ "Get-VMSwitch", CMDLET_ROLE_READER },
	{ "Get-VMVideo", CMDLET_ROLE_READER },
	{ "Measure-VM", CMDLET_ROLE_READER },
	{ "Checkpoint-VM", CMDLET_ROLE_OPERATOR },
	{ "Connect-VM", CMDLET_ROLE_OPERATOR },
	{ "Connect-VMSocket", CMDLET_ROLE_OPERATOR },
	{ "Copy-Item", CMDLET_ROLE_OPERATOR },
	{ "Debug-VM", CMDLET_ROLE_OPERATOR },
	{ "Enter-PSSession", CMDLET_ROLE_OPERATOR },
	{ "Invoke-Command", CMDLET_ROLE_OPERATOR },
	{ "Restart-VM", CMDLET_ROLE_OPERATOR },
	{ "Resume-VM", CMDLET_ROLE_OPERATOR },
	{ "Save-VM", CMDLET_ROLE_OPERATOR },
	{ "Send-VMKey", CMDLET_ROLE_OPERATOR },
	{ "Send-VMMouse", CMDLET_ROLE_OPERATOR },
	{ "Send-VMText", CMDLET_ROLE_OPERATOR },
	{ "Start-VM", CMDLET_ROLE_OPERATOR },
	{ "Stop-VM", CMDLET_ROLE_OPERATOR },
	{ "Suspend-VM", CMDLET_ROLE_OPERATOR },
};

enum cmdlet_role cmdlet_role_needed(const struct cmdlet *cmdlet)
{
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++)
		if (strcmp(needs[i].name, cmdlet->name) == 0)
			return needs[i].role;
	return CMDLET_ROLE_ADMINISTRATOR;
}

const char *cmdlet_role_name(enum cmdlet_role role)
{
	return role_names[role];
}

bool cmdlet_role_from_name(const char *name, enum cmdlet_role *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(role_names); i++)
		if (strcasecmp(role_names[i], name) == 0) {
			*ret = (enum cmdlet_role)i;
			return true;
		}
	return false;
}
