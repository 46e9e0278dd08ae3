#include "machine/machine-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/hvsock.h"
#include "dev/netvsp.h"
#include "dev/storvsp.h"
#include "disk/live.h"
#include "ic/ic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* How often status and key-value pairs are looked at for changes. */
#define WATCH_NS NS_PER_SEC
#define MAX_SCSI 4

_Static_assert((int)IC_SERVICE_COUNT == (int)CONFIG_IC_COUNT, "one list of services");

struct synthetic {
	struct machine *machine;
	struct storvsp *scsi[MAX_SCSI];
	struct blk *disks[CONFIG_MAX_DISKS]; /* lent to storvsp */
	bool live[CONFIG_MAX_DISKS];         /* opened by live_open: its chain can change */
	struct netvsp *nics[CONFIG_MAX_NICS];
	struct hvsock *sockets;
	struct ic *ic;
	struct loop_timer *watch;
	struct ic_status seen_status[IC_SERVICE_COUNT];
	/* What was told last of KVP; owned. */
	struct machine_kvp *kvp;
	size_t kvp_count;
};

/* ---- disks ---- */

static void close_disk(void *user)
{
	struct blk *disk = user;
	struct error err;

	if (blk_close(disk, &err) < 0)
		log_error("closing a disk: %s", err.text);
}

/* The guest opened a DVD drive: its medium is ours again. Closed after the request that did it. */
static void on_ejected(void *user, unsigned lun, struct blk *medium)
{
	struct synthetic *synthetic = user;

	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
		if (synthetic->disks[i] != medium)
			continue;
		synthetic->disks[i] = NULL;
		loop_post(synthetic->machine->loop, close_disk, medium);
	}
}

static bool can_have_layers(const struct config_disk *disk, int fd)
{
	enum disk_format format;

	return disk->kind == CONFIG_DISK_HARD && !disk->read_only &&
	       disk_probe(fd, &format, NULL) == 0 && format != DISK_RAW;
}

static int open_disk(struct synthetic *synthetic, unsigned index, struct error *err)
{
	const struct config_disk *disk = &synthetic->machine->config->disks[index];
	struct machine_parents *parents = &synthetic->machine->files.parents[index];
	int *fd = &synthetic->machine->files.disks[index];
	AUTO_FREE int *chain = calloc(1 + parents->count, sizeof(*chain));
	const struct disk_options options = {
		.format = disk->kind == CONFIG_DISK_DVD ? DISK_RAW : DISK_PROBE,
		.read_only = disk->read_only || disk->kind == CONFIG_DISK_DVD,
		.logical_sector_bytes = disk->kind == CONFIG_DISK_DVD ? 2048 : 0,
	};
	int r;

	if (!chain)
		return error_set(err, ERR_NO_MEMORY, "no memory for a disk");
	chain[0] = *fd;
	if (parents->count > 0)
		memcpy(chain + 1, parents->fds, parents->count * sizeof(*chain));
	synthetic->live[index] = can_have_layers(disk, *fd);
	r = (synthetic->live[index] ? live_open : disk_open_chain)(synthetic->machine->loop, chain,
								   1 + parents->count, &options,
								   &synthetic->disks[index], err);
	if (r < 0)
		return error_prefix(err, "disk '%s'", disk->path);
	*fd = -1; /* the disk's now, like its parents' */
	parents->count = 0;
	return 0;
}

static int attach_disk(struct synthetic *synthetic, unsigned index, struct error *err)
{
	const struct config_disk *disk = &synthetic->machine->config->disks[index];
	int r = 0;

	if (disk->bus != CONFIG_BUS_SCSI)
		return error_set(err, ERR_UNSUPPORTED,
				 "disk '%s': IDE controllers are not there yet",
				 disk->path ? disk->path : "");
	if (disk->controller_number >= MAX_SCSI || !synthetic->scsi[disk->controller_number])
		return error_set(err, ERR_INVALID, "there is no SCSI controller %u",
				 disk->controller_number);
	if (synthetic->machine->files.disks[index] >= 0)
		r = open_disk(synthetic, index, err);
	else if (disk->kind == CONFIG_DISK_HARD)
		r = error_set(err, ERR_INVALID, "disk '%s' came without a descriptor", disk->path);
	if (r < 0)
		return r;
	return storvsp_attach(synthetic->scsi[disk->controller_number], disk->lun,
			      synthetic->disks[index],
			      disk->kind == CONFIG_DISK_DVD ? SCSI_KIND_DVD : SCSI_KIND_DISK, err);
}

static int new_storage(struct synthetic *synthetic, struct error *err)
{
	struct machine *machine = synthetic->machine;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < MIN(machine->config->scsi_count, MAX_SCSI); i++) {
		r = storvsp_new(machine->vmbus, machine->loop, machine->mem,
				&machine->config->scsi_ids[i], machine->config->processor_count,
				&synthetic->scsi[i], err);
		if (r == 0)
			storvsp_set_eject_hook(synthetic->scsi[i], on_ejected, synthetic);
	}
	for (unsigned i = 0; r == 0 && i < machine->config->disk_count; i++)
		r = attach_disk(synthetic, i, err);
	return r;
}

/* ---- network adapters ---- */

static int new_nics(struct synthetic *synthetic, struct error *err)
{
	struct machine *machine = synthetic->machine;
	int r = 0;

	for (unsigned i = 0; r == 0 && i < machine->config->nic_count; i++) {
		const struct config_nic *nic = &machine->config->nics[i];
		struct netvsp_config config = {
			.bus = machine->vmbus,
			.loop = machine->loop,
			.instance = nic->id,
			.vp_count = machine->config->processor_count,
			.port_fd = machine->files.nics[i],
			.name = nic->name,
		};

		memcpy(config.mac, nic->mac, sizeof(config.mac));
		machine->files.nics[i] = -1;
		r = netvsp_new(&config, &synthetic->nics[i], err);
		if (r < 0)
			error_prefix(err, "network adapter '%s'", nic->name);
	}
	return r;
}

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
			   now.minor != seen->minor;
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
		FACT("VirtualMachineDynamicMemoryBalancingEnabled", "0"),
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
	r = new_storage(synthetic, err);
	if (r == 0)
		r = new_nics(synthetic, err);
	if (r == 0)
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
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		netvsp_free(synthetic->nics[i]);
	for (unsigned i = 0; i < MAX_SCSI; i++)
		storvsp_free(synthetic->scsi[i]);
	for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++)
		close_disk(synthetic->disks[i]);
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
	for (unsigned i = 0; i < MAX_SCSI; i++)
		if (synthetic->scsi[i])
			storvsp_quiesce(synthetic->scsi[i]);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (synthetic->nics[i])
			netvsp_quiesce(synthetic->nics[i]);
}

void synthetic_unquiesce(struct synthetic *synthetic)
{
	for (unsigned i = 0; i < MAX_SCSI; i++)
		if (synthetic->scsi[i])
			storvsp_unquiesce(synthetic->scsi[i]);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (synthetic->nics[i])
			netvsp_unquiesce(synthetic->nics[i]);
}

void synthetic_save(struct synthetic *synthetic, struct state_out *out)
{
	for (unsigned i = 0; i < MAX_SCSI; i++)
		if (synthetic->scsi[i])
			storvsp_save(synthetic->scsi[i], out);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (synthetic->nics[i])
			netvsp_save(synthetic->nics[i], out);
	ic_save(synthetic->ic, out);
}

int synthetic_restore_begin(struct synthetic *synthetic, struct state_in *in, struct error *err)
{
	return ic_restore_begin(synthetic->ic, in, err);
}

int synthetic_restore(struct synthetic *synthetic, struct state_in *in, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < MAX_SCSI; i++)
		if (synthetic->scsi[i])
			r = storvsp_restore(synthetic->scsi[i], in, err);
	for (unsigned i = 0; r == 0 && i < CONFIG_MAX_NICS; i++)
		if (synthetic->nics[i])
			r = netvsp_restore(synthetic->nics[i], in, err);
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

/* ---- machine.h: disks ---- */

static int find_live(struct machine *machine, unsigned index, struct blk **ret, struct error *err)
{
	struct synthetic *synthetic = machine->synthetic;

	if (index >= machine->config->disk_count || !synthetic->disks[index])
		return error_set(err, ERR_NOT_FOUND, "there is no disk %u", index);
	if (!synthetic->live[index])
		return error_set(err, ERR_INVALID,
				 "disk '%s' is no writable VHD or VHDX: its chain can't change",
				 machine->config->disks[index].path);
	*ret = synthetic->disks[index];
	return 0;
}

int machine_disk_push(struct machine *machine, unsigned index, int fd, struct error *err)
{
	struct blk *disk = NULL;
	int r = find_live(machine, index, &disk, err);

	if (r < 0)
		close(fd);
	else
		r = live_push(disk, fd, err);
	return r;
}

int machine_disk_merge(struct machine *machine, unsigned index, const struct live_merge *merge,
		       struct error *err)
{
	struct blk *disk = NULL;
	int r = find_live(machine, index, &disk, err);

	if (r == 0)
		return live_merge_start(disk, merge, err);
	for (unsigned i = 0; i < merge->file_count; i++)
		close(merge->files[i].fd);
	return r;
}

int machine_disk_merge_cancel(struct machine *machine, unsigned index, struct error *err)
{
	struct blk *disk = NULL;
	int r = find_live(machine, index, &disk, err);

	if (r == 0)
		live_merge_cancel(disk);
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
	return ic_state_name(status.state);
}

const struct machine_kvp *machine_kvp(struct machine *machine, size_t *ret_count)
{
	*ret_count = machine->synthetic->kvp_count;
	return machine->synthetic->kvp;
}
