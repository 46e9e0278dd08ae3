#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/macros.h"
#include "dev/balloon.h"
#include "dev/hvsock.h"
#include "ic/ic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* How often status and key-value pairs are looked at for changes. */
#define WATCH_NS NS_PER_SEC

_Static_assert((int)IC_SERVICE_COUNT == (int)CONFIG_IC_COUNT, "one list of services");

struct synthetic {
	struct machine *machine;
	struct hvsock *sockets;
	struct ic *ic;
	struct loop_timer *watch;
	struct ic_status seen_status[IC_SERVICE_COUNT];
	/* What was told last of KVP; owned. */
	struct machine_kvp *kvp;
	size_t kvp_count;
};

/* ---- sockets ---- */

static void on_socket_asked(void *user, uint64_t ticket, const struct guid *service)
{
	const struct machine_events *events = &((struct machine *)user)->events;

	events->socket_asked(events->user, ticket, service);
}

static int new_sockets(struct synthetic *synthetic, struct error *err)
{
	struct machine *machine = synthetic->machine;
	const struct hvsock_config config = { .loop = machine->loop,
					      .bus = machine->vmbus,
					      .user = machine,
					      .asked = on_socket_asked };

	return hvsock_new(&config, &synthetic->sockets, err);
}

/* ---- integration services ---- */

static bool status_changed(struct synthetic *synthetic)
{
	bool changed = false;

	for (unsigned i = 0; i < IC_SERVICE_COUNT; i++) {
		struct ic_status *seen = &synthetic->seen_status[i], now;

		ic_status(synthetic->ic, (enum ic_service)i, &now);
		changed |= now.state != seen->state || now.major != seen->major ||
			   now.minor != seen->minor || now.applications != seen->applications;
		*seen = now;
	}
	return changed;
}

static void free_kvp(struct synthetic *synthetic)
{
	for (size_t i = 0; i < synthetic->kvp_count; i++) {
		free(synthetic->kvp[i].key);
		free(synthetic->kvp[i].value);
	}
	free(synthetic->kvp);
	synthetic->kvp = NULL;
	synthetic->kvp_count = 0;
}

static bool same_kvp(const struct synthetic *synthetic, const struct ic_pair *pairs, unsigned count)
{
	if (count != synthetic->kvp_count)
		return false;
	for (unsigned i = 0; i < count; i++)
		if (strcmp(pairs[i].key, synthetic->kvp[i].key) != 0 ||
		    strcmp(pairs[i].value, synthetic->kvp[i].value) != 0)
			return false;
	return true;
}

static bool kvp_changed(struct synthetic *synthetic)
{
	const struct ic_pair *pairs;
	unsigned count = ic_kvp_known(synthetic->ic, IC_POOL_INTRINSIC, &pairs);

	if (same_kvp(synthetic, pairs, count))
		return false;
	free_kvp(synthetic);
	synthetic->kvp = calloc(count ? count : 1, sizeof(*synthetic->kvp));
	for (unsigned i = 0; synthetic->kvp && i < count; i++) {
		struct machine_kvp *kvp = &synthetic->kvp[i];

		kvp->key = strdup(pairs[i].key);
		kvp->value = strdup(pairs[i].value);
		synthetic->kvp_count = i + 1;
	}
	return true;
}

static void watch(void *user)
{
	struct synthetic *synthetic = user;
	const struct machine_events *events = &synthetic->machine->events;

	if (status_changed(synthetic))
		events->services_changed(events->user);
	if (kvp_changed(synthetic))
		events->kvp_changed(events->user);
	loop_timer_arm(synthetic->watch, clock_now_ns() + WATCH_NS);
}

/* Only read, though the type would let the callee write. */
#define FACT(key, value)                                                                           \
	{                                                                                          \
		(char *)(key), (char *)(value)                                                     \
	}

static int new_services(struct synthetic *synthetic, struct error *err)
{
	struct machine *machine = synthetic->machine;
	struct utsname host;
	char id[GUID_TEXT_SIZE];
	int r;

	uname(&host);
	guid_format(&machine->config->id, id);
	const struct ic_pair facts[] = {
		FACT("HostName", host.nodename),
		FACT("HostingSystemNestedLevel", "0"),
		FACT("HostingSystemOsMajor", "10"),
		FACT("HostingSystemOsMinor", "0"),
		FACT("PhysicalHostName", host.nodename),
		FACT("PhysicalHostNameFullyQualified", host.nodename),
		FACT("VirtualMachineDynamicMemoryBalancingEnabled",
		     machine->config->dynamic_memory.enabled ? "1" : "0"),
		FACT("VirtualMachineId", id),
		FACT("VirtualMachineName", machine->config->name),
	};
	const struct ic_config config = { machine->loop, machine->vmbus, facts, ARRAY_SIZE(facts) };

	r = ic_new(&config, &synthetic->ic, err);
	for (unsigned i = 0; r == 0 && i < IC_SERVICE_COUNT; i++)
		r = ic_enable(synthetic->ic, (enum ic_service)i, machine->config->ic_enabled[i],
			      err);
	if (r == 0)
		r = loop_timer_new(machine->loop, watch, synthetic, &synthetic->watch, err);
	if (r == 0)
		loop_timer_arm(synthetic->watch, clock_now_ns() + WATCH_NS);
	return r;
}

/* ---- life ---- */

int synthetic_new(struct machine *machine, struct synthetic **ret, struct error *err)
{
	struct synthetic *synthetic = calloc(1, sizeof(*synthetic));
	int r;

	if (!synthetic)
		return error_set(err, ERR_NO_MEMORY, "no memory for the synthetic devices");
	synthetic->machine = machine;
	r = new_sockets(synthetic, err);
	if (r == 0)
		r = new_services(synthetic, err);
	if (r < 0) {
		synthetic_free(synthetic);
		return r;
	}
	*ret = synthetic;
	return 0;
}

void synthetic_free(struct synthetic *synthetic)
{
	if (!synthetic)
		return;
	loop_timer_free(synthetic->watch);
	ic_free(synthetic->ic);
	free_kvp(synthetic);
	hvsock_free(synthetic->sockets);
	free(synthetic);
}

/* ---- machine.h: sockets ---- */

int machine_socket_connect(struct machine *machine, const struct guid *service, int fd,
			   uint64_t timeout_ns, void (*done)(void *user, int result), void *user,
			   struct error *err)
{
	return hvsock_connect(machine->synthetic->sockets, service, fd, timeout_ns, done, user,
			      err);
}

int machine_socket_accept(struct machine *machine, uint64_t ticket, int fd, struct error *err)
{
	return hvsock_accept(machine->synthetic->sockets, ticket, fd, err);
}

void machine_socket_refuse(struct machine *machine, uint64_t ticket)
{
	hvsock_refuse(machine->synthetic->sockets, ticket);
}

/* ---- state ---- */

void synthetic_quiesce(struct synthetic *synthetic)
{
	storage_quiesce(synthetic->machine->storage);
	adapters_quiesce(synthetic->machine->adapters);
}

void synthetic_unquiesce(struct synthetic *synthetic)
{
	storage_unquiesce(synthetic->machine->storage);
	adapters_unquiesce(synthetic->machine->adapters);
}

void synthetic_save(struct synthetic *synthetic, struct state_out *out)
{
	balloon_save(synthetic->machine->balloon, out);
	if (synthetic->machine->display)
		display_save(synthetic->machine->display, out);
	storage_save(synthetic->machine->storage, out);
	adapters_save(synthetic->machine->adapters, out);
	ic_save(synthetic->ic, out);
}

int synthetic_restore_begin(struct synthetic *synthetic, struct state_in *in, struct error *err)
{
	return ic_restore_begin(synthetic->ic, in, err);
}

int synthetic_restore(struct synthetic *synthetic, struct state_in *in, struct error *err)
{
	int r = balloon_restore(synthetic->machine->balloon, in, err);

	if (r == 0 && synthetic->machine->display)
		r = display_restore(synthetic->machine->display, in, err);
	if (r == 0)
		r = storage_restore(synthetic->machine->storage, in, err);
	if (r == 0)
		r = adapters_restore(synthetic->machine->adapters, in, err);
	if (r == 0)
		r = ic_restore(synthetic->ic, in, err);
	return r;
}

int synthetic_restore_finish(struct synthetic *synthetic, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < IC_SERVICE_COUNT; i++)
		r = ic_enable(synthetic->ic, (enum ic_service)i,
			      synthetic->machine->config->ic_enabled[i], err);
	return r;
}

/* ---- machine.h: services ---- */

/* If it agreed, the power-off comes by itself. */
static void shutdown_answered(void *user, int result)
{
	const struct machine_events *events = &((struct machine *)user)->events;

	if (result == -ERR_DENIED)
		events->shutdown_failed(events->user, "the guest refused the request");
	else if (result == -ERR_TIMEOUT)
		events->shutdown_failed(events->user, "the guest did not answer the request");
}

int machine_shutdown_guest(struct machine *machine, bool reboot, bool force, struct error *err)
{
	const struct ic_shutdown_request request = {
		.restart = reboot,
		.force = force,
		.timeout_s = 60,
		.message = reboot ? "The host restarts this virtual machine."
				  : "The host shuts this virtual machine down.",
		.done = shutdown_answered,
		.user = machine,
	};

	return ic_shutdown(machine->synthetic->ic, &request, err);
}

struct ic *machine_ic(struct machine *machine)
{
	return machine->synthetic->ic;
}

int machine_set_service(struct machine *machine, enum config_ic service, bool enabled,
			struct error *err)
{
	return ic_enable(machine->synthetic->ic, (enum ic_service)service, enabled, err);
}

void machine_services(struct machine *machine, struct machine_service *services)
{
	for (unsigned i = 0; i < IC_SERVICE_COUNT; i++) {
		struct machine_service *service = &services[i];
		struct ic_status status;

		ic_status(machine->synthetic->ic, (enum ic_service)i, &status);
		service->name = ic_service_name((enum ic_service)i);
		service->enabled = status.state != IC_STATE_DISABLED;
		service->status = ic_state_name(status.state);
		service->version[0] = '\0';
		if (status.major)
			snprintf(service->version, sizeof(service->version), "%u.%u", status.major,
				 status.minor);
	}
}

const char *machine_heartbeat(struct machine *machine)
{
	struct ic_status status;

	ic_status(machine->synthetic->ic, IC_HEARTBEAT, &status);
	if (status.state == IC_STATE_OK && status.applications == IC_APPS_HEALTHY)
		return "OK (Applications Healthy)";
	if (status.state == IC_STATE_OK && status.applications == IC_APPS_CRITICAL)
		return "OK (Applications Critical)";
	return ic_state_name(status.state);
}

const struct machine_kvp *machine_kvp(struct machine *machine, size_t *ret_count)
{
	*ret_count = machine->synthetic->kvp_count;
	return machine->synthetic->kvp;
}
