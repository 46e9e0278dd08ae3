/*
 * Integration services: shutdown, time synchronization, heartbeat, key-value pair exchange (KVP),
 * backup (VSS) and file copy, the host's side of the guest's hv_utils and daemons.
 *
 * A service that is enabled is offered on the bus; disabling it rescinds the offer. Each may be
 * changed while the VM runs. Everything belongs to the loop; callbacks run on it, and exactly once
 * for each request that was accepted, perhaps with -ERR_CANCELLED when the guest goes away or the
 * service is disabled. Texts are UTF-8.
 *
 *	ic_new(&config, &ic, &err);
 *	ic_enable(ic, IC_HEARTBEAT, true, &err);
 *	ic_status(ic, IC_HEARTBEAT, &status);
 */
#ifndef IC_IC_H
#define IC_IC_H

#include "base/error.h"
#include "base/loop.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

#include <stdbool.h>
#include <stdint.h>

struct ic;

/* In the order of config_vm.ic_enabled. */
enum ic_service {
	IC_SHUTDOWN_SERVICE,
	IC_TIME_SYNC,
	IC_HEARTBEAT,
	IC_KVP,
	IC_VSS,
	IC_COPY,
	IC_SERVICE_COUNT
};

/* As Hyper-V names them: "Shutdown", "Time Synchronization", "Heartbeat",
 * "Key-Value Pair Exchange", "VSS", "Guest Service Interface". */
const char *ic_service_name(enum ic_service service);

struct ic_pair {
	char *key, *value;
};

struct ic_config {
	struct loop *loop; /* borrowed */
	struct vmbus *bus; /* borrowed */
	/* What the guest is told of its host (KVP pool 3), in this order; copied. Customary keys:
	 * HostName, HostingSystemOsMajor, HostingSystemOsMinor, HostingSystemNestedLevel,
	 * PhysicalHostName, PhysicalHostNameFullyQualified, VirtualMachineId, VirtualMachineName,
	 * VirtualMachineDynamicMemoryBalancingEnabled. */
	const struct ic_pair *facts;
	unsigned fact_count;
};

/* All services are disabled at first. */
int ic_new(const struct ic_config *config, struct ic **ret, struct error *err);
void ic_free(struct ic *ic); /* disables all; NULL allowed */

int ic_enable(struct ic *ic, enum ic_service service, bool enabled, struct error *err);

/* ---- state: while the VPs stand still ---- */

void ic_save(struct ic *ic, struct state_out *out);
/* Before the bus is restored: the services that were enabled then are offered. */
int ic_restore_begin(struct ic *ic, struct state_in *in, struct error *err);
/* After it. Whoever waited for an answer of the guest's waits no more; the guest's clock is set,
 * and key-value pairs are exchanged anew. */
int ic_restore(struct ic *ic, struct state_in *in, struct error *err);

/* ---- status ---- */

enum ic_state {
	IC_STATE_DISABLED,
	IC_STATE_NO_CONTACT, /* no driver has agreed on a version yet */
	IC_STATE_OK,
	IC_STATE_LOST, /* was in contact, does not answer any more */
	IC_STATE_COUNT
};

/* "Disabled", "No Contact", "OK", "Lost Communication". */
const char *ic_state_name(enum ic_state state);

/* Of the programs in the guest, by their own word (heartbeat only). */
enum ic_applications {
	IC_APPS_UNKNOWN,
	IC_APPS_HEALTHY,
	IC_APPS_CRITICAL,
};

struct ic_status {
	enum ic_state state;
	enum ic_applications applications;
	uint16_t major, minor; /* of the service's protocol; 0.0 before an agreement */
};
void ic_status(const struct ic *ic, enum ic_service service, struct ic_status *ret);

/* ---- shutdown ---- */

struct ic_shutdown_request {
	bool restart;
	bool force;          /* programs that refuse are ended */
	uint32_t timeout_s;  /* told to the guest; it may ignore it */
	const char *message; /* for people in the guest; may be NULL */
	/* The guest agreed (0) or not (-ERR_DENIED, -ERR_TIMEOUT, -ERR_CANCELLED). It turns the VM
	 * off later, by the platform's means. */
	void (*done)(void *user, int result);
	void *user;
};

/* -ERR_STATE: no contact. -ERR_BUSY: a request is under way. done is not called then. */
int ic_shutdown(struct ic *ic, const struct ic_shutdown_request *request, struct error *err);

/* ---- time ---- */

/* Has the guest step its clock soon: after the VM was paused, saved or moved. (At the start, and
 * after the host slept, this happens by itself.) */
void ic_time_resync(struct ic *ic);

/* ---- KVP ---- */

enum ic_kvp_pool {
	IC_POOL_EXTERNAL = 0,  /* the host writes, the guest reads */
	IC_POOL_GUEST = 1,     /* the guest writes */
	IC_POOL_INTRINSIC = 2, /* the guest's facts: FullyQualifiedDomainName, OSName, ... */
	IC_POOL_HOST = 3,      /* the host's facts */
};

#define IC_KVP_QUEUE_MAX 256  /* requests that wait; more: -ERR_LIMIT */
#define IC_KVP_PAIRS_MAX 1024 /* of one pool */

/* result: 0, -ERR_DENIED (the guest refused), -ERR_NOT_FOUND, -ERR_CANCELLED. pairs are borrowed
 * for the call. */
typedef void ic_kvp_done(void *user, int result, const struct ic_pair *pairs, unsigned count);

/* One request at a time goes to the guest, the others wait, also for a guest that isn't there yet:
 * its daemon may be started late. done may be NULL. */
int ic_kvp_set(struct ic *ic, enum ic_kvp_pool pool, const char *key, const char *value,
	       ic_kvp_done *done, void *user, struct error *err);
int ic_kvp_delete(struct ic *ic, enum ic_kvp_pool pool, const char *key, ic_kvp_done *done,
		  void *user, struct error *err);
int ic_kvp_enumerate(struct ic *ic, enum ic_kvp_pool pool, ic_kvp_done *done, void *user,
		     struct error *err);
/* Pairs IPAddresses, Subnets, Gateways, DNSServers (each a list separated by ';'), DHCPEnabled. */
int ic_kvp_get_ip(struct ic *ic, const uint8_t mac[static 6], ic_kvp_done *done, void *user,
		  struct error *err);

struct ic_ip_config {
	const struct guid *adapter; /* instance of the network adapter */
	bool dhcp;                  /* the lists are of no account then */
	/* Lists separated by ';', NULL: none. */
	const char *addresses, *subnets, *gateways, *dns_servers;
};
/* Lets the guest configure an adapter. -ERR_NOT_FOUND: it has no such adapter; -ERR_DENIED: its
 * daemon can't (Debian's has no script for it). */
int ic_kvp_set_ip(struct ic *ic, const struct ic_ip_config *config, ic_kvp_done *done, void *user,
		  struct error *err);

/* What the guest said last in IC_POOL_GUEST or IC_POOL_INTRINSIC (read every few seconds while it
 * is in contact). Borrowed until the loop runs on. Returns the count. */
unsigned ic_kvp_known(const struct ic *ic, enum ic_kvp_pool pool, const struct ic_pair **ret);

/* ---- VSS: file systems that stand still for a snapshot ---- */

/* After so long the guest is thawed, whoever forgot it: longer nothing in it could write. */
#define IC_VSS_FROZEN_MAX_NS (60 * UINT64_C(1000000000))

/*
 * Freezes the guest's file systems. done: 0, now take the snapshot and call ic_vss_thaw;
 * -ERR_DENIED, the guest has no daemon or could not; -ERR_TIMEOUT, not in time (what it does late
 * is undone); -ERR_CANCELLED. -ERR_STATE: no contact; -ERR_BUSY: a backup is under way.
 */
int ic_vss_freeze(struct ic *ic, uint64_t timeout_ns, void (*done)(void *user, int result),
		  void *user, struct error *err);
/* -ERR_TIMEOUT: it was thawed already, after IC_VSS_FROZEN_MAX_NS: the snapshot may not be
 * consistent. -ERR_STATE: it is not frozen. done may be NULL. */
int ic_vss_thaw(struct ic *ic, void (*done)(void *user, int result), void *user, struct error *err);
/* What a snapshot of this moment holds is consistent. */
bool ic_vss_frozen(const struct ic *ic);

/* ---- file copy, to the guest ---- */

struct ic_copy_request {
	const char *folder, *name; /* in the guest; folder with a slash at its end */
	bool overwrite, create_folder;
	uint64_t size;
	/* Tell the source from others, and from what it was before it was changed. */
	uint64_t source_id, source_time_ns;
	/* If just this copy is under way, whoever asked for it is gone: it goes on for this
	 * request, and the old one is done (-ERR_CANCELLED). */
	bool take_over;
	/* Fills buf with the file's bytes: 0, or a negative code. */
	int (*read)(void *user, uint64_t offset, void *buf, uint32_t len);
	void (*progress)(void *user, uint64_t bytes); /* the guest has so many; may be NULL */
	/* 0, -ERR_EXISTS, -ERR_NO_SPACE, -ERR_DENIED (no daemon, or it could not), -ERR_CANCELLED,
	 * or what `read` returned. */
	void (*done)(void *user, int result);
	void *user;
};

/* One file at a time: else -ERR_BUSY. -ERR_STATE: no contact. Texts are copied. A copy that a saved
 * state holds goes on, if it is the same one (of the same source, to the same place); the guest
 * removes its part if it is another, or if nobody asks for an hour. */
int ic_copy_file(struct ic *ic, const struct ic_copy_request *request, struct error *err);
/* The guest removes what it has. done follows, with -ERR_CANCELLED. */
void ic_copy_cancel(struct ic *ic);

#endif
