#include "run-private.h"

#include "base/log.h"
#include "switches.h"

#include <stdlib.h>
#include <unistd.h>

static bool has_port(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->nic_count; i++)
		if (vm->config->nics[i].switch_name)
			return true;
	return false;
}

bool run_ports_lost(struct daemon *daemon)
{
	bool any = false;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct run *run = daemon->vms[i]->run;

		if (!run || !has_port(run->vm))
			continue;
		run->ports_lost = any = true;
	}
	return any;
}

struct port_restore {
	struct vm *vm;
	struct guid nic;
};

static void port_plugged(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;

	if (err)
		log_error("virtual machine '%s': connecting it to its switch again: %s",
			  vm->config->name, err->text);
	vm_unref(vm);
}

static void port_restored(void *user, int fd, const struct error *err)
{
	struct port_restore *restore = user;
	char id[GUID_TEXT_SIZE];

	if (err)
		port_plugged(restore->vm, NULL, err);
	else
		run_request_fd(restore->vm,
			       json_pack("{s:s, s:s}", "op", "plug-adapter", "adapter",
					 guid_format(&restore->nic, id)),
			       fd, RUN_REQUEST_TIMEOUT_NS, port_plugged, restore->vm);
	if (fd >= 0)
		close(fd);
	free(restore);
}

static void restore_ports(struct run *run)
{
	const struct config_vm *config = run->vm->config;

	for (unsigned i = 0; i < config->nic_count; i++) {
		struct port_restore *restore;

		if (!config->nics[i].switch_name)
			continue;
		restore = malloc(sizeof(*restore));
		if (!restore)
			abort();
		*restore = (struct port_restore){ vm_ref(run->vm), config->nics[i].id };
		switches_add_port(run->vm->daemon->switches, &config->nics[i], port_restored,
				  restore);
	}
}

bool run_restore_ports(struct daemon *daemon)
{
	bool some_wait = false;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct run *run = daemon->vms[i]->run;

		if (!run || !run->ports_lost)
			continue;
		if (run->starting) {
			some_wait = true;
			continue;
		}
		run->ports_lost = false;
		restore_ports(run);
	}
	return some_wait;
}
