/*
 * One run of a VM: from the start of its worker to the worker's end. It is made by run_start, or by
 * run_adopt_all after the daemon was restarted under running VMs.
 *
 *	Off -> Starting: files opened and locked, switch ports, worker, job
 *	Starting -> Running when the worker says "started"; -> Off when it says "failed" or ends
 *	Running <-> Paused, Running -> Stopping by requests; Running, Paused -> Saving
 *	any -> Off, or Saved after Saving, when the worker's process has ended and its disks are
 *	free, and only then
 *
 * Runtime folder, runtime/vm/ID: control, console1, console2 (sockets), com1, com2 (com-ports.h),
 * run.json (the process, for adoption), worker.log (its stderr).
 */
#ifndef DAEMON_RUN_H
#define DAEMON_RUN_H

#include "peer.h"
#include "spawn.h"
#include "vm.h"

struct run {
	struct vm *vm;
	char *folder; /* runtime folder */
	struct process process;
	struct loop_fd *process_watch;
	int job_fd; /* until the start is done */
	struct loop_fd *job_watch;
	struct peer *peer;        /* control; NULL: not connected */
	struct loop_timer *timer; /* start time-out, then kills a worker that does not end */
	struct loop_timer *critical_timer; /* turns off what the storage does not come back for */
	char critical_text[300];           /* why it is paused; empty: not known */
	int port_fds[CONFIG_MAX_NICS];
	struct json_t *parents; /* of its disks, as files_open wants them */
	unsigned waiting;       /* for ports and parents */
	bool ports_lost;        /* the switch has died; its adapters wait for new ports */
	bool starting;
	char *backend, *backend_reason;
	/* What the worker last said. */
	json_t *status, *services, *kvp, *crash, *memory;
	char heartbeat[32];
	char ended[128]; /* how its process has */
	uint64_t ended_ns;
	struct loop_timer *end_timer; /* until the kernel, too, has let go of the disks */
	char off_reason[32];
	char off_text[512];
	uint64_t sampled_ns, sampled_vp_ns; /* for the CPU usage */
	unsigned cpu_usage_percent;
	bool shutdown_asked;
	/* Saving: the folder that is being written (saved.h, or a checkpoint's); "" : none. */
	char saving_id[GUID_TEXT_SIZE];
	bool saving_stops;             /* Save-VM; else a checkpoint */
	bool saving_memory;            /* "saved" tells the end; else the answer does */
	bool adopting;                 /* until the worker has said what it is at */
	bool reconnected;              /* likewise */
	bool was_paused;               /* before */
	json_t *last_save;             /* what the worker said of it */
	struct error shutdown_failure; /* what the guest made of it; code ERR_OK: nothing yet */
	unsigned resets;               /* of the guest, since the start */
	struct error failure;          /* of the start */
};

/* The time that a critical VM waits for its storage begins, as its description says. */
void run_arm_critical(struct vm *vm);
/* Gives a running VM's worker what processors its description says, now. Where that can't be done
 * the event log says so. */
void run_limit(struct vm *vm);
/* Can the VM have the reserve that config asks for, beside those that run? ERR_LIMIT. */
int run_admit_reserve(const struct vm *vm, const struct config_vm *config, struct error *err);
/* The switch has died: notes it with all that have a port of it. True: there are such VMs. */
bool run_ports_lost(struct daemon *daemon);
/* Asks for new ports for them. True: some can't have theirs yet. */
bool run_restore_ports(struct daemon *daemon);

/* Begins; vm_wait(VM_WAIT_STARTED) tells the end. An error here is the end, too. */
int run_start(struct vm *vm, struct error *err);
/* Finds the workers of an earlier daemon and cleans up after those that have ended. */
void run_adopt_all(struct daemon *daemon);
/* Has one of them not said yet what it is at? Until then its VM is busy. */
bool run_is_adopting(const struct daemon *daemon);
/* The daemon ends, the worker goes on. */
void run_detach(struct vm *vm);

/* Asks the worker; as peer_request. Fails by callback where the VM does not run. */
void run_request(struct vm *vm, json_t *request, uint64_t timeout_ns, peer_done done, void *user);
/* The same with a descriptor (borrowed; -1: none). */
void run_request_fd(struct vm *vm, json_t *request, int fd, uint64_t timeout_ns, peer_done done,
		    void *user);
/* The same with several. */
void run_request_fds(struct vm *vm, json_t *request, const int *fds, unsigned fd_count,
		     uint64_t timeout_ns, peer_done done, void *user);
/* As run_request with "turn-off"; a worker that does not obey is killed. */
void run_turn_off(struct vm *vm);
void run_set_state(struct vm *vm, enum vm_state state);
/* A number of what the worker last said of the guest's memory (docs/worker-protocol.md); 0: it
 * hasn't. */
uint64_t run_memory(const struct run *run, const char *name);
/* Save-VM: has the worker write memory and state to fd (taken); id names the folder. The VM is then
 * saved and its worker ends. VM_WAIT_SAVED tells the end. */
void run_save(struct vm *vm, int fd, const char *id);
/* Has the worker take the checkpoint id, by request (taken) and descriptors (borrowed). It is
 * settled, and the VM not busy any more, when VM_WAIT_SAVED tells the end. */
void run_checkpoint(struct vm *vm, const char *id, json_t *request, const int *fds,
		    unsigned fd_count, bool memory);
/* The guest begins anew: what it had said of itself holds no more. */
void run_note_reset(struct run *run);

/* Empties the log of a worker whose guest makes it write more than anybody reads. */
void run_trim_log(const struct vm *vm);

/* Asks for a fresh status; done when it is there, or is not to be had. */
void run_refresh(struct vm *vm, vm_done done, void *owner);

#endif
