/* Cmdlets about parts of a virtual machine: services, processors, memory. */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "objects.h"
#include "run.h"

#include <string.h>

#define REQUEST_TIMEOUT_NS (10 * NS_PER_SEC)

/* ---- integration services ---- */

/* Names of services that there are none of are errors of the request. */
static void check_service_names(struct request *request)
{
	const json_t *names = json_object_get(request->params, "Name");

	for (size_t i = 0; i < json_array_size(names); i++) {
		const char *name = json_string_value(json_array_get(names, i));
		bool found = cmdlet_has_wildcard(name);
		struct error err;

		for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
			found |= cmdlet_wildcard_match(name, config_ic_name((enum config_ic)ic));
		if (found)
			continue;
		error_set(&err, ERR_NOT_FOUND, "there is no integration service of this name");
		request_error(request, name, &err);
	}
}

static void show_services(struct request *request, struct vm *vm)
{
	for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
		if (cmdlets_list_matches(request, "Name", config_ic_name((enum config_ic)ic)))
			request_result(request, object_service(vm, (enum config_ic)ic));
}

void cmdlet_get_service(struct request *request)
{
	check_service_names(request);
	cmdlets_show_fresh(request, "VMName", show_services);
}

static bool enabling(const struct request *request)
{
	return strncmp(request->cmdlet->name, "Enable", 6) == 0;
}

static int mutate_services(struct request *request, struct config_vm *config, struct error *err)
{
	for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
		if (cmdlets_list_matches(request, "Name", config_ic_name((enum config_ic)ic)))
			config->ic_enabled[ic] = enabling(request);
	return 0;
}

static void tell_worker(struct vm *vm, enum config_ic ic, bool enabled)
{
	run_request(vm,
		    json_pack("{s:s, s:s, s:b}", "op", "set-integration", "name",
			      config_ic_name(ic), "enabled", enabled),
		    REQUEST_TIMEOUT_NS, NULL, NULL);
}

static void change_services(struct request *request, struct vm *vm)
{
	if (!cmdlets_change(request, vm, false, mutate_services))
		return;
	for (int ic = 0; ic < CONFIG_IC_COUNT; ic++)
		if (cmdlets_list_matches(request, "Name", config_ic_name((enum config_ic)ic)) &&
		    vm->run)
			tell_worker(vm, (enum config_ic)ic, enabling(request));
	show_services(request, vm);
}

void cmdlet_enable_service(struct request *request)
{
	check_service_names(request);
	request_for_vms(request, "VMName", change_services);
}

void cmdlet_disable_service(struct request *request)
{
	cmdlet_enable_service(request);
}

/* ---- processors and memory ---- */

static void show_processor(struct request *request, struct vm *vm)
{
	request_result(request, object_processor(vm));
}

void cmdlet_get_processor(struct request *request)
{
	request_for_vms(request, "VMName", show_processor);
}

static int mutate_processor(struct request *request, struct config_vm *config, struct error *err)
{
	config->processor_count =
	    (unsigned)request_integer(request, "Count", config->processor_count);
	return 0;
}

static void set_processor(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_processor))
		show_processor(request, vm);
}

void cmdlet_set_processor(struct request *request)
{
	request_for_vms(request, "VMName", set_processor);
}

static void show_memory(struct request *request, struct vm *vm)
{
	request_result(request, object_memory(vm));
}

void cmdlet_get_memory(struct request *request)
{
	request_for_vms(request, "VMName", show_memory);
}

static int mutate_memory(struct request *request, struct config_vm *config, struct error *err)
{
	if (json_is_true(json_object_get(request->params, "DynamicMemoryEnabled")))
		return error_set(err, ERR_UNSUPPORTED, "dynamic memory is not there yet");
	config->memory_bytes =
	    (uint64_t)request_integer(request, "StartupBytes", (int64_t)config->memory_bytes);
	return 0;
}

static void set_memory(struct request *request, struct vm *vm)
{
	if (cmdlets_change(request, vm, true, mutate_memory))
		show_memory(request, vm);
}

void cmdlet_set_memory(struct request *request)
{
	request_for_vms(request, "VMName", set_memory);
}
