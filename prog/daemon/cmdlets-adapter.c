/* Cmdlets about the network adapters of a virtual machine. */
#include "change.h"
#include "cmdlets.h"

#include "base/macros.h"
#include "objects.h"
#include "run.h"
#include "switches.h"

#include <stdlib.h>
#include <string.h>

static void show_adapters(struct request *request, struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->nic_count; i++)
		if (cmdlets_list_matches(request, "Name", vm->config->nics[i].name))
			request_result(request, object_nic(vm, &vm->config->nics[i]));
}

void cmdlet_get_adapter(struct request *request)
{
	if (request_switch(request, "All"))
		json_object_set_new(request->params, "VMName", json_pack("[s]", "*"));
	cmdlets_show_fresh(request, "VMName", show_adapters);
}

static struct config_nic *find_adapter(const struct config_vm *config, const struct guid *id)
{
	for (unsigned i = 0; i < config->nic_count; i++)
		if (guid_equal(&config->nics[i].id, id))
			return &config->nics[i];
	return NULL;
}

static json_t *show_adapter(struct change *change)
{
	const struct config_nic *nic = find_adapter(change->vm->config, &change->id);

	return nic ? object_nic(change->vm, nic) : json_null();
}

static void keep_adapter(struct change *change, const struct config_nic *nic)
{
	change->id = nic->id;
	change->nic = *nic;
	change->nic.name = change_text(nic->name);
	change->nic.switch_name = change_text(nic->switch_name);
}

static json_t *adapter_message(const struct change *change, const char *op)
{
	char id[GUID_TEXT_SIZE], mac[CONFIG_MAC_TEXT_SIZE];

	return json_pack("{s:s, s:s, s:s, s:s}", "op", op, "adapter", guid_format(&change->id, id),
			 "name", change->nic.name, "mac", config_mac_format(change->nic.mac, mac));
}

/* A new port on a switch, and then the worker. */
static void port_there(void *user, int fd, const struct error *err)
{
	struct change *change = user;

	change->fd = fd;
	if (err) {
		change_answered(change, NULL, err);
		return;
	}
	change_ask(change, adapter_message(change, change->early ? "add-adapter" : "plug-adapter"),
		   fd, change_answered);
}

static void ask_with_port(struct change *change)
{
	if (change->nic.switch_name)
		switches_add_port(change->vm->daemon->switches, &change->nic, port_there, change);
	else
		port_there(change, -1, NULL);
}

/* -- added -- */

static int mutate_add_adapter(struct change *change, struct config_vm *config, struct error *err)
{
	struct request *request = change->request;
	int r = cmdlets_add_nic(request->daemon, config, request_string(request, "Name"),
				request_string(request, "SwitchName"),
				request_string(request, "StaticMacAddress"), err);

	if (r == 0)
		keep_adapter(change, &config->nics[config->nic_count - 1]);
	return r;
}

static int mutate_remove_adapter(struct change *change, struct config_vm *config, struct error *err)
{
	struct config_nic *nic = find_adapter(config, &change->id);

	if (!nic)
		return error_set(err, ERR_NOT_FOUND, "the network adapter is gone already");
	switches_remove_port(change->vm->daemon->switches, nic);
	config_remove_nic(config, (unsigned)(nic - config->nics));
	return 0;
}

static void add_adapter(struct request *request, struct vm *vm)
{
	struct change *change = change_new(request, vm);

	change->early = true;
	change->mutate = mutate_add_adapter;
	change->refused = mutate_remove_adapter;
	change->ask = ask_with_port;
	change->show = show_adapter;
	change_run(change);
}

void cmdlet_add_adapter(struct request *request)
{
	request_for_vms(request, "VMName", add_adapter);
}

/* -- those that are there -- */

/* Runs a change of each adapter that the request names. */
static void for_adapters(struct request *request, struct vm *vm,
			 void (*begin)(struct change *change))
{
	const json_t *names = json_object_get(request->params, "Name");
	struct change *changes[CONFIG_MAX_NICS];
	unsigned count = 0;
	struct error err;

	for (unsigned i = 0; i < vm->config->nic_count; i++) {
		const struct config_nic *nic = &vm->config->nics[i];

		if (!cmdlets_list_matches(request, "Name", nic->name))
			continue;
		changes[count] = change_new(request, vm);
		changes[count]->shown = object_nic(vm, nic);
		keep_adapter(changes[count++], nic);
	}
	if (count == 0) {
		error_set(&err, ERR_NOT_FOUND, "it has no network adapter '%.100s'",
			  json_string_value(json_array_get(names, 0)));
		request_error(request, vm->config->name, &err);
	}
	/* Each changes the description under what was found. */
	for (unsigned i = 0; i < count; i++)
		begin(changes[i]);
}

static void ask_remove_adapter(struct change *change)
{
	change_ask(change, adapter_message(change, "remove-adapter"), -1, change_answered);
}

static void begin_remove(struct change *change)
{
	change->mutate = mutate_remove_adapter;
	change->ask = ask_remove_adapter;
	change_run(change);
}

static void remove_adapters(struct request *request, struct vm *vm)
{
	for_adapters(request, vm, begin_remove);
}

void cmdlet_remove_adapter(struct request *request)
{
	request_for_vms(request, "VMName", remove_adapters);
}

static int mutate_plug(struct change *change, struct config_vm *config, struct error *err)
{
	struct config_nic *nic = find_adapter(config, &change->id);

	if (!nic)
		return error_set(err, ERR_NOT_FOUND, "the network adapter is gone already");
	if (!change->nic.switch_name)
		switches_remove_port(change->vm->daemon->switches, nic);
	return config_set_string(&nic->switch_name, change->nic.switch_name, err);
}

/* SwitchName of Connect-VMNetworkAdapter; none of Disconnect-. */
static void begin_plug(struct change *change)
{
	const char *name = request_string(change->request, "SwitchName");
	bool was_plugged = change->nic.switch_name != NULL;

	/* The old port goes before the new one comes: an adapter has one. */
	if (was_plugged && name && change_runs(change->vm))
		switches_remove_port(change->vm->daemon->switches, &change->nic);
	free(change->nic.switch_name);
	change->nic.switch_name = name ? change_text(SWITCHES_DEFAULT) : NULL;
	change->mutate = mutate_plug;
	change->ask = ask_with_port;
	change->show = show_adapter;
	change_run(change);
}

static void plug_adapters(struct request *request, struct vm *vm)
{
	const char *name = request_string(request, "SwitchName");
	struct error err;

	if (!name || switches_exists(name)) {
		for_adapters(request, vm, begin_plug);
		return;
	}
	error_set(&err, ERR_NOT_FOUND, "there is no virtual switch '%.100s'", name);
	request_error(request, vm->config->name, &err);
}

void cmdlet_connect_adapter(struct request *request)
{
	request_for_vms(request, "VMName", plug_adapters);
}

void cmdlet_disconnect_adapter(struct request *request)
{
	request_for_vms(request, "VMName", plug_adapters);
}

/* -- renamed -- */

static int mutate_rename(struct change *change, struct config_vm *config, struct error *err)
{
	struct config_nic *nic = find_adapter(config, &change->id);

	if (!nic)
		return error_set(err, ERR_NOT_FOUND, "the network adapter is gone already");
	return config_set_string(&nic->name, request_string(change->request, "NewName"), err);
}

/* The worker knows adapters by their identifiers. */
static void ask_nothing(struct change *change)
{
	change_answered(change, NULL, NULL);
}

static void begin_rename(struct change *change)
{
	change->mutate = mutate_rename;
	change->ask = ask_nothing;
	change->show = show_adapter;
	change_run(change);
}

static void rename_adapters(struct request *request, struct vm *vm)
{
	for_adapters(request, vm, begin_rename);
}

void cmdlet_rename_adapter(struct request *request)
{
	request_for_vms(request, "VMName", rename_adapters);
}

/* -- its address, and what it may -- */

/* What the request says of the address. */
static int take_mac(const struct request *request, const struct config_vm *config,
		    struct config_nic *nic, struct error *err)
{
	const char *text = request_string(request, "StaticMacAddress");
	uint8_t mac[6];
	int r = 0;

	if (request_switch(request, "DynamicMacAddress") && nic->static_mac) {
		r = cmdlets_choose_mac(request->daemon, config, nic->mac, err);
		nic->static_mac = false;
	}
	if (!text)
		return r;
	if (!config_mac_parse(text, mac))
		return error_set(err, ERR_INVALID, "'%.40s' is not a MAC address", text);
	if (memcmp(mac, nic->mac, sizeof(mac)) != 0 &&
	    cmdlets_mac_in_use(request->daemon, config, mac))
		return error_set(err, ERR_EXISTS, "the MAC address %.40s is another adapter's",
				 text);
	memcpy(nic->mac, mac, sizeof(mac));
	nic->static_mac = true;
	return 0;
}

static int mutate_set(struct change *change, struct config_vm *config, struct error *err)
{
	const struct request *request = change->request;
	struct config_nic *nic = find_adapter(config, &change->id);
	const char *spoofing = request_string(request, "MacAddressSpoofing");
	bool moves = request_string(request, "StaticMacAddress") ||
		     request_switch(request, "DynamicMacAddress");

	if (!nic)
		return error_set(err, ERR_NOT_FOUND, "the network adapter is gone already");
	if (moves && change->vm->state != VM_OFF)
		return error_set(err, ERR_STATE,
				 "a MAC address can be changed only while it is off (its state is "
				 "%s)",
				 vm_state_name(change->vm->state));
	if (spoofing)
		nic->mac_spoofing = change->nic.mac_spoofing = strcmp(spoofing, "On") == 0;
	return moves ? take_mac(request, config, nic, err) : 0;
}

static void begin_set(struct change *change)
{
	bool on = change->nic.mac_spoofing;
	const char *spoofing = request_string(change->request, "MacAddressSpoofing");

	change->mutate = mutate_set;
	change->show = show_adapter;
	change->ask = ask_nothing;
	/* What a port may is settled when it is made. */
	if (spoofing && (strcmp(spoofing, "On") == 0) != on && change->nic.switch_name &&
	    change_runs(change->vm)) {
		switches_remove_port(change->vm->daemon->switches, &change->nic);
		change->nic.mac_spoofing = !on;
		change->ask = ask_with_port;
	}
	change_run(change);
}

static void set_adapters(struct request *request, struct vm *vm)
{
	for_adapters(request, vm, begin_set);
}

void cmdlet_set_adapter(struct request *request)
{
	request_for_vms(request, "VMName", set_adapters);
}
