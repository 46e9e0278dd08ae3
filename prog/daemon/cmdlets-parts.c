/* Cmdlets about parts of a virtual machine: services, processors, memory. */
#include "balancer.h"
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
	cmdlets_show_settings(request, show_processor);
}

#define COMPATIBILITY "CompatibilityForMigrationEnabled"

static int mutate_processor(struct request *request, struct config_vm *config, struct error *err)
{
	const struct vm *vm = request->context;
	const struct {
		const char *name;
		unsigned *field;
	} numbers[] = {
		{ "Count", &config->processor_count },
		{ "Reserve", &config->processor.reserve_percent },
		{ "Maximum", &config->processor.maximum_percent },
		{ "RelativeWeight", &config->processor.weight },
	};

	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		*numbers[i].field =
		    (unsigned)request_integer(request, numbers[i].name, *numbers[i].field);
	if (json_object_get(request->params, COMPATIBILITY))
		config->processor.compatible =
		    json_is_true(json_object_get(request->params, COMPATIBILITY));
	return vm->run ? run_admit_reserve(vm, config, err) : 0;
}

static void set_processor(struct request *request, struct vm *vm)
{
	bool needs_off = json_object_get(request->params, "Count") ||
			 json_object_get(request->params, COMPATIBILITY);

	request->context = vm;
	if (!cmdlets_change(request, vm, needs_off, mutate_processor))
		return;
	run_limit(vm);
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
	cmdlets_show_settings(request, show_memory);
}

/* Every setting by its name here and in Set-VM. */
int cmdlets_take_memory(struct request *request, struct config_vm *config, struct error *err)
{
	struct config_dynamic_memory *dynamic = &config->dynamic_memory;
	const struct {
		const char *names[2];
		uint64_t *field;
	} sizes[] = {
		{ { "StartupBytes", "MemoryStartupBytes" }, &config->memory_bytes },
		{ { "MinimumBytes", "MemoryMinimumBytes" }, &dynamic->minimum_bytes },
		{ { "MaximumBytes", "MemoryMaximumBytes" }, &dynamic->maximum_bytes },
	};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		for (size_t k = 0; k < ARRAY_SIZE(sizes[i].names); k++)
			*sizes[i].field = (uint64_t)request_integer(request, sizes[i].names[k],
								    (int64_t)*sizes[i].field);
	dynamic->buffer_percent =
	    (unsigned)request_integer(request, "Buffer", dynamic->buffer_percent);
	dynamic->priority = (unsigned)request_integer(request, "Priority", dynamic->priority);
	if (json_object_get(request->params, "DynamicMemoryEnabled"))
		dynamic->enabled =
		    json_is_true(json_object_get(request->params, "DynamicMemoryEnabled"));
	if (request_switch(request, "DynamicMemory") && request_switch(request, "StaticMemory"))
		return error_set(err, ERR_INVALID,
				 "-DynamicMemory and -StaticMemory exclude each other");
	if (request_switch(request, "DynamicMemory"))
		dynamic->enabled = true;
	if (request_switch(request, "StaticMemory"))
		dynamic->enabled = false;
	return 0;
}

/* What Hyper-V changes while a VM runs: how much a static one has; of a dynamic one the bounds,
 * outwards, and what decides between them. */
static int check_memory_online(const struct vm *vm, const struct config_vm *wanted,
			       struct error *err)
{
	const struct config_dynamic_memory *from = &vm->config->dynamic_memory;
	const struct config_dynamic_memory *to = &wanted->dynamic_memory;
	bool resized = wanted->memory_bytes != vm->config->memory_bytes;

	if (to->enabled != from->enabled)
		return error_set(err, ERR_STATE,
				 "dynamic memory can be switched on and off only while it is off");
	if (resized && from->enabled)
		return error_set(err, ERR_STATE,
				 "the startup memory of dynamic memory can be changed only while "
				 "it is off");
	if (from->enabled &&
	    (to->minimum_bytes > from->minimum_bytes || to->maximum_bytes < from->maximum_bytes))
		return error_set(err, ERR_STATE,
				 "while it runs, the minimum can only be lowered and the maximum "
				 "only be raised");
	if (resized && !run_memory(vm->run, "version"))
		return error_set(err, ERR_STATE,
				 "the guest has no driver for dynamic memory at work, without "
				 "which its memory can't be changed while it runs");
	if (wanted->memory_bytes > vm->config->memory_bytes)
		return balancer_admit(vm->daemon->balancer,
				      wanted->memory_bytes - vm->config->memory_bytes, err);
	return 0;
}

static int mutate_memory(struct request *request, struct config_vm *config, struct error *err)
{
	struct vm *vm = request->context;
	int r = cmdlets_take_memory(request, config, err);

	if (r == 0 && vm->run)
		r = check_memory_online(vm, config, err);
	return r;
}

bool cmdlets_change_memory(struct request *request, struct vm *vm)
{
	uint64_t before = vm->config->memory_bytes;

	request->context = vm;
	if (!cmdlets_change(request, vm, vm->run == NULL, mutate_memory))
		return false;
	if (vm->run && vm->config->memory_bytes != before)
		run_request(vm,
			    json_pack("{s:s, s:I}", "op", "set-memory", "bytes",
				      (json_int_t)vm->config->memory_bytes),
			    REQUEST_TIMEOUT_NS, NULL, NULL);
	return true;
}

static void set_memory(struct request *request, struct vm *vm)
{
	if (cmdlets_change_memory(request, vm))
		show_memory(request, vm);
}

void cmdlet_set_memory(struct request *request)
{
	request_for_vms(request, "VMName", set_memory);
}
