/* Resource metering of VMs. */
#include "cmdlets.h"
#include "metering.h"

#include <stddef.h>

static int check_metered(const struct vm *vm, struct error *err)
{
	return vm->metering ? 0
			    : error_set(err, ERR_STATE,
					"it is not metered: Enable-VMResourceMetering begins that");
}

static void report(struct request *request, const struct vm *vm, int r, const struct error *err)
{
	if (r < 0)
		request_error(request, vm->config->name, err);
}

static void enable(struct request *request, struct vm *vm)
{
	struct error err;

	if (!vm->metering)
		report(request, vm, metering_enable(vm, &err), &err);
}

static void disable(struct request *request, struct vm *vm)
{
	struct error err;

	if (vm->metering)
		report(request, vm, metering_disable(vm, &err), &err);
}

static void reset(struct request *request, struct vm *vm)
{
	struct error err;
	int r = check_metered(vm, &err);

	if (r == 0)
		r = metering_enable(vm, &err);
	report(request, vm, r, &err);
}

static void measure(struct request *request, struct vm *vm)
{
	struct error err;
	int r = check_metered(vm, &err);

	if (r == 0) {
		metering_save(vm);
		request_result(request, metering_describe(vm));
	}
	report(request, vm, r, &err);
}

void cmdlet_enable_metering(struct request *request)
{
	request_for_vms(request, "VMName", enable);
}

void cmdlet_disable_metering(struct request *request)
{
	request_for_vms(request, "VMName", disable);
}

void cmdlet_reset_metering(struct request *request)
{
	cmdlets_show_fresh(request, "VMName", reset);
}

void cmdlet_measure_vm(struct request *request)
{
	cmdlets_show_fresh(request, "Name", measure);
}
