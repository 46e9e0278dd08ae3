#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/macros.h"
#include "dev/netvsp.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/*
 * Linux waits for ever for what it had sent when an adapter is withdrawn (its driver takes no more
 * completions then). So an adapter that is up loses its link first, which stops the guest's sending
 * within two seconds, and is withdrawn once the guest has been silent.
 */
#define SILENCE_NS     (500 * NS_PER_MSEC)
#define SILENCES_FIRST 5
#define SILENCES_MAX   20 /* then it goes whatever the guest does */

struct adapter {
	struct guid id;
	struct netvsp *vsp;          /* NULL: a free place */
	struct loop_timer *retiring; /* NULL: it stays */
	unsigned silences;           /* since it retires */
	uint64_t sent;               /* by the guest, when we last looked */
};

struct adapters {
	struct adapter places[CONFIG_MAX_NICS];
};

static struct adapter *place_of(struct adapters *adapters, const struct guid *id)
{
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (adapters->places[i].vsp && guid_equal(&adapters->places[i].id, id))
			return &adapters->places[i];
	return NULL;
}

static struct adapter *find_adapter(struct adapters *adapters, const struct guid *id,
				    struct error *err)
{
	struct adapter *adapter = place_of(adapters, id);

	if (adapter && !adapter->retiring)
		return adapter;
	error_set(err, ERR_NOT_FOUND, "there is no such network adapter");
	return NULL;
}

static void withdraw(struct adapter *adapter)
{
	loop_timer_free(TAKE(adapter->retiring));
	netvsp_drain(adapter->vsp);
	netvsp_free(TAKE(adapter->vsp));
}

static struct adapter *free_place(struct adapters *adapters, const struct guid *id,
				  struct error *err)
{
	if (place_of(adapters, id)) {
		error_set(err, ERR_EXISTS, "there is such a network adapter already");
		return NULL;
	}
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (!adapters->places[i].vsp)
			return &adapters->places[i];
	/* One that retires makes room at once. */
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (adapters->places[i].retiring) {
			withdraw(&adapters->places[i]);
			return &adapters->places[i];
		}
	error_set(err, ERR_LIMIT, "a virtual machine has at most %d network adapters",
		  CONFIG_MAX_NICS);
	return NULL;
}

void adapters_usage(const struct adapters *adapters, struct machine_usage *ret)
{
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++) {
		const struct netvsp *nic = adapters->places[i].vsp;
		const struct netvsp_stats *stats = nic ? netvsp_stats(nic) : NULL;

		for (int cast = 0; stats && cast < NETVSP_CASTS; cast++) {
			ret->sent_bytes += stats->sent[cast].bytes;
			ret->received_bytes += stats->received[cast].bytes;
		}
	}
}

int machine_add_adapter(struct machine *machine, const struct config_nic *nic, int port_fd,
			struct error *err)
{
	struct adapter *adapter = free_place(machine->adapters, &nic->id, err);
	struct netvsp_config config = {
		.bus = machine->vmbus,
		.loop = machine->loop,
		.instance = nic->id,
		.vp_count = machine->config->processor_count,
		.port_fd = port_fd,
		.name = nic->name,
	};

	if (!adapter) {
		if (port_fd >= 0)
			close(port_fd);
		return err ? -(int)err->code : -ERR_INVALID;
	}
	memcpy(config.mac, nic->mac, sizeof(config.mac));
	if (netvsp_new(&config, &adapter->vsp, err) < 0)
		return error_prefix(err, "network adapter '%s'", nic->name);
	adapter->id = nic->id;
	return 0;
}

/* ---- removal ---- */

static uint64_t sent_by_guest(const struct adapter *adapter)
{
	const struct netvsp_stats *stats = netvsp_stats(adapter->vsp);
	uint64_t sent = stats->sent_errors + stats->sent_dropped;

	for (int cast = 0; cast < NETVSP_CASTS; cast++)
		sent += stats->sent[cast].frames;
	return sent;
}

static void look_whether_silent(void *user)
{
	struct adapter *adapter = user;
	uint64_t sent = sent_by_guest(adapter);
	bool silent = sent == adapter->sent;

	adapter->silences++;
	adapter->sent = sent;
	if ((silent && adapter->silences >= SILENCES_FIRST) || adapter->silences >= SILENCES_MAX)
		withdraw(adapter);
	else
		loop_timer_arm(adapter->retiring, clock_now_ns() + SILENCE_NS);
}

int machine_remove_adapter(struct machine *machine, const struct guid *id, struct error *err)
{
	struct adapter *adapter = find_adapter(machine->adapters, id, err);

	if (!adapter)
		return -ERR_NOT_FOUND;
	if (!netvsp_is_up(adapter->vsp) || loop_timer_new(machine->loop, look_whether_silent,
							  adapter, &adapter->retiring, NULL) < 0) {
		withdraw(adapter);
		return 0;
	}
	netvsp_set_link(adapter->vsp, false);
	adapter->silences = 0;
	adapter->sent = sent_by_guest(adapter);
	loop_timer_arm(adapter->retiring, clock_now_ns() + SILENCE_NS);
	return 0;
}

int machine_plug_adapter(struct machine *machine, const struct guid *id, int port_fd,
			 struct error *err)
{
	struct adapter *adapter = find_adapter(machine->adapters, id, err);

	if (adapter)
		return netvsp_set_port(adapter->vsp, port_fd, err);
	if (port_fd >= 0)
		close(port_fd);
	return -ERR_NOT_FOUND;
}

int adapters_new(struct machine *machine, struct adapters **ret, struct error *err)
{
	struct adapters *adapters = calloc(1, sizeof(*adapters));
	int r = 0;

	if (!adapters)
		return error_set(err, ERR_NO_MEMORY, "no memory for the network adapters");
	*ret = adapters; /* machine_free frees it, however far this comes */
	for (unsigned i = 0; r == 0 && i < machine->config->nic_count; i++) {
		int fd = machine->files.nics[i];

		machine->files.nics[i] = -1;
		r = machine_add_adapter(machine, &machine->config->nics[i], fd, err);
	}
	return r;
}

void adapters_free(struct adapters *adapters)
{
	if (!adapters)
		return;
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++) {
		loop_timer_free(adapters->places[i].retiring);
		netvsp_free(adapters->places[i].vsp);
	}
	free(adapters);
}

/* ---- state ---- */

/* One that retires is gone from the description, and so from the state. */
void adapters_quiesce(struct adapters *adapters)
{
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++) {
		struct adapter *adapter = &adapters->places[i];

		if (adapter->retiring)
			withdraw(adapter);
		else if (adapter->vsp)
			netvsp_quiesce(adapter->vsp);
	}
}

void adapters_unquiesce(struct adapters *adapters)
{
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (adapters->places[i].vsp)
			netvsp_unquiesce(adapters->places[i].vsp);
}

void adapters_save(struct adapters *adapters, struct state_out *out)
{
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (adapters->places[i].vsp)
			netvsp_save(adapters->places[i].vsp, out);
}

int adapters_restore(struct adapters *adapters, struct state_in *in, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < CONFIG_MAX_NICS; i++)
		if (adapters->places[i].vsp)
			r = netvsp_restore(adapters->places[i].vsp, in, err);
	return r;
}
