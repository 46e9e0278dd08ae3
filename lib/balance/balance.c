#include "balance/balance.h"

#include "base/macros.h"

#include <stdbool.h>

/* A guest whose demand moves a little shall not be given and taken pages all the time. */
#define MIN_STEP_BYTES   (32 * MIB)
#define STEP_OF_ASSIGNED 10 /* a tenth */

/* A guest tells its demand once a second, and what it is given has to get there: for so long it
 * must do with what it has. */
#define GROWTH_SECONDS 4

static uint64_t clamp(const struct balance_vm *vm, uint64_t bytes)
{
	return MAX(MIN(bytes, vm->maximum_bytes), vm->minimum_bytes);
}

static uint64_t wanted(const struct balance_vm *vm)
{
	uint64_t growth = MIN(vm->growth_bytes, vm->maximum_bytes) * GROWTH_SECONDS, bytes;

	if (!vm->demand_bytes)
		return clamp(vm, vm->assigned_bytes);
	bytes = vm->demand_bytes / 100 * (100 + vm->buffer_percent) + growth;
	return clamp(vm, ALIGN_UP(bytes, BALANCE_UNIT));
}

static uint64_t sum_of_targets(const struct balance_vm *vms, size_t count)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += vms[i].target_bytes;
	return sum;
}

/* Those that would give back little keep it, as far as the pool goes. */
static void keep_small_change(struct balance_vm *vms, size_t count, uint64_t spare)
{
	for (size_t i = 0; i < count; i++) {
		struct balance_vm *vm = &vms[i];
		uint64_t assigned = clamp(vm, vm->assigned_bytes), change;

		if (assigned <= vm->target_bytes)
			continue;
		change = assigned - vm->target_bytes;
		if (change > spare || change >= MAX(MIN_STEP_BYTES, assigned / STEP_OF_ASSIGNED))
			continue;
		vm->target_bytes = assigned;
		spare -= change;
	}
}

static uint64_t weight(const struct balance_vm *vm)
{
	return 10 + vm->priority;
}

static bool is_short(const struct balance_vm *vm)
{
	return vm->target_bytes < wanted(vm);
}

/* One round: each that is short gets its share of what is left, but not more than it wants. */
static uint64_t hand_out(struct balance_vm *vms, size_t count, uint64_t left)
{
	uint64_t weights = 0, given = 0;

	for (size_t i = 0; i < count; i++)
		weights += is_short(&vms[i]) ? weight(&vms[i]) : 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t share, lacks;

		if (!is_short(&vms[i]))
			continue;
		lacks = wanted(&vms[i]) - vms[i].target_bytes;
		share = ALIGN_DOWN(left / weights * weight(&vms[i]), BALANCE_UNIT);
		share = MIN(share, lacks);
		vms[i].target_bytes += share;
		given += share;
	}
	return given;
}

static void share_out(struct balance_vm *vms, size_t count, uint64_t pool_bytes)
{
	uint64_t minimum = 0, left, given = 1;

	for (size_t i = 0; i < count; i++) {
		vms[i].target_bytes = vms[i].minimum_bytes;
		minimum += vms[i].minimum_bytes;
	}
	left = pool_bytes - MIN(pool_bytes, minimum);
	while (left && given) {
		given = hand_out(vms, count, left);
		left -= given;
	}
}

void balance_memory(struct balance_vm *vms, size_t count, uint64_t pool_bytes)
{
	uint64_t sum;

	for (size_t i = 0; i < count; i++)
		vms[i].target_bytes = wanted(&vms[i]);
	sum = sum_of_targets(vms, count);
	if (sum <= pool_bytes)
		keep_small_change(vms, count, pool_bytes - sum);
	else
		share_out(vms, count, pool_bytes);
}
