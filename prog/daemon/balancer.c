#include "balancer.h"

#include "balance/balance.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "base/macros.h"
#include "cmdlet/cmdlet.h"
#include "run.h"

#include <stdio.h>
#include <stdlib.h>

#define PERIOD_NS    NS_PER_SEC
#define MIN_PAUSE_NS (NS_PER_SEC / 10) /* however often guests report */
#define MIN_RESERVE  (512 * MIB)
#define REQUEST_NS   (5 * NS_PER_SEC)
#define SMALL_CHANGE (2 * MIB) /* of a target, not worth a message */

struct balancer {
	struct daemon *daemon;
	struct loop_timer *timer;
	uint64_t last_ns;     /* when it balanced */
	uint64_t limit_bytes; /* of all VMs; UINT64_MAX: none */
};

/* ---- the host ---- */

/* What a new program could have without swapping. */
static uint64_t available_bytes(void)
{
	FILE *f = fopen("/proc/meminfo", "re");
	unsigned long long kib = 0;
	char line[128];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib * KIB;
}

static uint64_t reserve_bytes(void)
{
	uint64_t host = host_memory_bytes();

	return MIN(MAX(host / 16, MIN_RESERVE), host / 4);
}

static uint64_t configured_limit(void)
{
	const char *text = getenv("OYAKO_MEMORY_LIMIT");
	int64_t bytes;

	if (!text)
		return UINT64_MAX;
	if (cmdlet_parse_size(text, &bytes) && bytes > 0)
		return (uint64_t)bytes;
	log_error("OYAKO_MEMORY_LIMIT '%.40s' is no size: it is not heeded", text);
	return UINT64_MAX;
}

/* ---- the VMs ---- */

static bool runs(const struct vm *vm)
{
	return (vm->state == VM_RUNNING || vm->state == VM_PAUSED) && vm->run && vm->run->peer;
}

/* A worker's word, and a guest may have got hold of the worker: not more than it can have. */
static uint64_t assigned_bytes(const struct vm *vm)
{
	const struct config_dynamic_memory *dynamic = &vm->config->dynamic_memory;
	uint64_t most = vm->config->memory_bytes;

	if (!runs(vm))
		return 0;
	if (dynamic->enabled)
		most = MAX(most, dynamic->maximum_bytes);
	return MIN(run_memory(vm->run, "assigned_bytes"), most);
}

/* Only a guest whose driver is there can be given or take. */
static bool is_dynamic(const struct vm *vm)
{
	return runs(vm) && vm->config->dynamic_memory.enabled &&
	       run_memory(vm->run, "version") != 0;
}

static struct balance_vm describe(const struct vm *vm)
{
	const struct config_dynamic_memory *dynamic = &vm->config->dynamic_memory;

	return (struct balance_vm){ .minimum_bytes = dynamic->minimum_bytes,
				    .maximum_bytes = dynamic->maximum_bytes,
				    .buffer_percent = dynamic->buffer_percent,
				    .priority = dynamic->priority,
				    .assigned_bytes = assigned_bytes(vm),
				    .demand_bytes = run_memory(vm->run, "demand_bytes"),
				    .growth_bytes = run_memory(vm->run, "growth_bytes") };
}

static uint64_t difference(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static void set_target(struct vm *vm, uint64_t bytes)
{
	/* What the worker works towards already; its bounds may be finer than a target. */
	if (difference(run_memory(vm->run, "target_bytes"), bytes) < SMALL_CHANGE)
		return;
	run_request(vm, json_pack("{s:s, s:I}", "op", "set-memory", "bytes", (json_int_t)bytes),
		    REQUEST_NS, NULL, NULL);
}

/* What the dynamic VMs may have together: what they have, and what the host can spare. Memory that
 * a guest was assigned but has not touched yet is spoken for. */
static uint64_t pool_bytes(const struct balancer *balancer)
{
	const struct daemon *daemon = balancer->daemon;
	uint64_t dynamic = 0, fixed = 0, untouched = 0, free = available_bytes(), taken, limit;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		const struct vm *vm = daemon->vms[i];
		uint64_t assigned = assigned_bytes(vm);
		uint64_t backed = runs(vm) ? run_memory(vm->run, "backed_bytes") : 0;

		if (is_dynamic(vm))
			dynamic += assigned;
		else
			fixed += assigned;
		untouched += assigned - MIN(assigned, backed);
	}
	taken = reserve_bytes() + untouched;
	limit = balancer->limit_bytes - MIN(balancer->limit_bytes, fixed);
	return MIN(dynamic + free - MIN(dynamic + free, taken), limit);
}

/* ---- admission ---- */

/* What a VM has, or is about to have. */
static uint64_t spoken_for(const struct vm *vm)
{
	uint64_t assigned = assigned_bytes(vm);

	return assigned ? assigned : vm->run ? vm->config->memory_bytes : 0;
}

/* What a guest has beyond its demand and buffer. */
static uint64_t can_give_back(const struct vm *vm)
{
	struct balance_vm share;

	if (!is_dynamic(vm))
		return 0;
	share = describe(vm);
	balance_memory(&share, 1, UINT64_MAX);
	return share.assigned_bytes - MIN(share.assigned_bytes, share.target_bytes);
}

int balancer_admit(const struct balancer *balancer, uint64_t bytes, struct error *err)
{
	const struct daemon *daemon = balancer->daemon;
	bool limited = balancer->limit_bytes != UINT64_MAX;
	uint64_t taken = 0, returns = 0, room;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		const struct vm *vm = daemon->vms[i];
		uint64_t bound = spoken_for(vm);
		uint64_t backed = runs(vm) ? run_memory(vm->run, "backed_bytes") : 0;

		taken += limited ? bound : bound - MIN(bound, backed);
		returns += can_give_back(vm);
	}
	room = (limited ? balancer->limit_bytes : available_bytes()) + returns;
	room -= MIN(room, taken);
	if (bytes <= room)
		return 0;
	return error_set(err, ERR_NO_MEMORY,
			 "it needs %llu MB more memory, and %s %llu MB: stop another virtual "
			 "machine, or give this one less (-MemoryStartupBytes)",
			 (unsigned long long)(bytes / MIB),
			 limited ? "of OYAKO_MEMORY_LIMIT are left" : "this host can give it",
			 (unsigned long long)(room / MIB));
}

static void balance(struct balancer *balancer)
{
	const struct daemon *daemon = balancer->daemon;
	struct balance_vm *shares = calloc(daemon->vm_count + 1, sizeof(*shares));
	struct vm **vms = calloc(daemon->vm_count + 1, sizeof(struct vm *));
	size_t count = 0;

	for (size_t i = 0; shares && vms && i < daemon->vm_count; i++) {
		if (!is_dynamic(daemon->vms[i]))
			continue;
		vms[count] = daemon->vms[i];
		shares[count++] = describe(daemon->vms[i]);
	}
	if (count)
		balance_memory(shares, count, pool_bytes(balancer));
	for (size_t i = 0; i < count; i++)
		set_target(vms[i], shares[i].target_bytes);
	free(shares);
	free(vms);
}

static void tick(void *user)
{
	struct balancer *balancer = user;

	balancer->last_ns = clock_now_ns();
	loop_timer_arm(balancer->timer, balancer->last_ns + PERIOD_NS);
	if (balancer_busy(balancer))
		balance(balancer);
}

void balancer_wake(struct balancer *balancer)
{
	loop_timer_arm(balancer->timer, balancer->last_ns + MIN_PAUSE_NS);
}

bool balancer_busy(const struct balancer *balancer)
{
	const struct daemon *daemon = balancer->daemon;

	for (size_t i = 0; i < daemon->vm_count; i++)
		if (runs(daemon->vms[i]) && daemon->vms[i]->config->dynamic_memory.enabled)
			return true;
	return false;
}

int balancer_new(struct daemon *daemon, struct balancer **ret, struct error *err)
{
	struct balancer *balancer = calloc(1, sizeof(*balancer));
	int r;

	if (!balancer)
		return error_set(err, ERR_NO_MEMORY, "no memory for the balancer");
	balancer->daemon = daemon;
	balancer->limit_bytes = configured_limit();
	r = loop_timer_new(daemon->loop, tick, balancer, &balancer->timer, err);
	if (r < 0) {
		free(balancer);
		return r;
	}
	loop_timer_arm(balancer->timer, clock_now_ns() + PERIOD_NS);
	*ret = balancer;
	return 0;
}

uint64_t balancer_most_bytes(const struct balancer *balancer)
{
	return balancer->limit_bytes == UINT64_MAX ? host_memory_bytes() : balancer->limit_bytes;
}

void balancer_free(struct balancer *balancer)
{
	if (!balancer)
		return;
	loop_timer_free(balancer->timer);
	free(balancer);
}
