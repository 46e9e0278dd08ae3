/* Configuration versions: what a VM's description and its saved states hold. So far there is one.
 */
#include "cmdlets.h"

#include "base/macros.h"
#include "objects.h"

#include <string.h>

static const struct version {
	unsigned number; /* of the description */
	const char *name, *text;
} versions[] = {
	{ CONFIG_VERSION, "Oyako " OYAKO_VERSION, CONFIG_VERSION_TEXT },
};

static bool is_default(const struct version *version)
{
	return version->number == CONFIG_VERSION;
}

void cmdlet_get_supported_version(struct request *request)
{
	bool only_default = request_switch(request, "Default");

	for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
		if (is_default(&versions[i]) || !only_default)
			request_result(request,
				       json_pack("{s:s, s:s, s:b}", "Name", versions[i].name,
						 "Version", versions[i].text, "IsDefault",
						 is_default(&versions[i])));
}

int cmdlets_check_version(const struct request *request, struct error *err)
{
	const char *wanted = request_string(request, "Version");

	for (size_t i = 0; i < ARRAY_SIZE(versions); i++)
		if (!wanted || strcmp(wanted, versions[i].text) == 0)
			return 0;
	return error_set(err, ERR_UNSUPPORTED,
			 "there is no configuration version '%.20s' here; "
			 "Get-VMHostSupportedVersion lists those that are",
			 wanted);
}

/* As on Hyper-V one that has the newest already stays as it is. */
static int raise_version(struct request *request, struct config_vm *config, struct error *err)
{
	if (config->version == CONFIG_VERSION)
		return 1;
	config->version = CONFIG_VERSION;
	return 0;
}

static void update(struct request *request, struct vm *vm)
{
	struct error err;

	if (vm->state != VM_OFF) {
		error_set(&err, ERR_STATE, "it is not off (its state is %s)",
			  vm_state_name(vm->state));
		request_error(request, vm->config->name, &err);
	} else if (cmdlets_change(request, vm, true, raise_version)) {
		request_result(request, object_vm(vm));
	}
}

void cmdlet_update_version(struct request *request)
{
	request_for_vms(request, "Name", update);
}
