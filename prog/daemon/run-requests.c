#include "run-private.h"

#include "metering.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STATUS_TIMEOUT_NS (1 * NS_PER_SEC)
/* Of the answer: the disks are synced before. */
#define CHECKPOINT_TIMEOUT_NS (60 * NS_PER_SEC)

/* ---- requests ---- */

struct refused {
	peer_done done;
	void *user;
};

static void tell_refused(void *user)
{
	struct refused *refused = user;
	struct error err;

	error_set(&err, ERR_STATE, "it is not running");
	refused->done(refused->user, NULL, &err);
	free(refused);
}

void run_request_fds(struct vm *vm, json_t *request, const int *fds, unsigned fd_count,
		     uint64_t timeout_ns, peer_done done, void *user)
{
	struct refused *refused;

	if (vm->run && vm->run->peer) {
		peer_request(vm->run->peer, request, fds, fd_count, timeout_ns, done, user);
		return;
	}
	json_decref(request);
	if (!done)
		return;
	refused = malloc(sizeof(*refused));
	if (!refused)
		abort();
	*refused = (struct refused){ done, user };
	loop_post(vm->daemon->loop, tell_refused, refused);
}

void run_request_fd(struct vm *vm, json_t *request, int fd, uint64_t timeout_ns, peer_done done,
		    void *user)
{
	run_request_fds(vm, request, &fd, fd >= 0, timeout_ns, done, user);
}

void run_request(struct vm *vm, json_t *request, uint64_t timeout_ns, peer_done done, void *user)
{
	run_request_fd(vm, request, -1, timeout_ns, done, user);
}

static void turn_off_answered(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;

	if (err && err->code != ERR_CANCELLED && vm->run)
		spawn_kill(&vm->run->process);
	vm_unref(vm);
}

void run_turn_off(struct vm *vm)
{
	struct run *run = vm->run;

	if (!run)
		return;
	run_set_state(vm, VM_STOPPING);
	if (run->starting) {
		error_set(&run->failure, ERR_CANCELLED, "it was turned off while it started");
		spawn_kill(&run->process);
		return;
	}
	run_arm_timer(run, RUN_END_TIMEOUT_NS);
	if (!run->peer) {
		snprintf(run->off_reason, sizeof(run->off_reason), "turned-off");
		spawn_kill(&run->process);
		return;
	}
	run_request(vm, json_pack("{s:s}", "op", "turn-off"), RUN_REQUEST_TIMEOUT_NS,
		    turn_off_answered, vm_ref(vm));
}

/* ---- save ---- */

static void save_begun(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;

	/* ERR_CANCELLED: it ended; that tells whoever waits. */
	if (err && err->code != ERR_CANCELLED && vm->run && vm->run->saving_id[0])
		run_end_of_save(vm->run, err);
	vm_unref(vm);
}

/* Each descriptor is lent. */
static void begin_save(struct vm *vm, json_t *request, const int *fds, unsigned fd_count,
		       uint64_t timeout_ns, peer_done done)
{
	if (vm->run->peer)
		peer_request(vm->run->peer, request, fds, fd_count, timeout_ns, done, vm_ref(vm));
	else
		run_request(vm, request, timeout_ns, done, vm_ref(vm));
}

void run_save(struct vm *vm, int fd, const char *id)
{
	struct run *run = vm->run;

	snprintf(run->saving_id, sizeof(run->saving_id), "%s", id);
	run->saving_stops = run->saving_memory = true;
	run->was_paused = vm->state == VM_PAUSED;
	run_set_state(vm, VM_SAVING);
	begin_save(vm, json_pack("{s:s, s:b}", "op", "save", "stop", 1), &fd, 1,
		   RUN_REQUEST_TIMEOUT_NS, save_begun);
	close(fd);
}

static void checkpoint_answered(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;
	struct run *run = vm->run;

	/* As above; without memory that was all. */
	if (run && run->saving_id[0] && !run->saving_stops &&
	    (!err || err->code != ERR_CANCELLED) && (err || !run->saving_memory))
		run_end_of_save(run, err);
	vm_unref(vm);
}

void run_checkpoint(struct vm *vm, const char *id, json_t *request, const int *fds,
		    unsigned fd_count, bool memory)
{
	struct run *run = vm->run;

	snprintf(run->saving_id, sizeof(run->saving_id), "%s", id);
	run->saving_stops = false;
	run->saving_memory = memory;
	begin_save(vm, request, fds, fd_count, CHECKPOINT_TIMEOUT_NS, checkpoint_answered);
}

/* ---- status ---- */

struct refresh {
	struct vm *vm;
	vm_done done;
	void *owner;
};

static void status_answered(void *user, const json_t *reply, const struct error *err)
{
	struct refresh *refresh = user;
	struct run *run = refresh->vm->run;

	if (!err && run) {
		run_take_status(run, reply);
		metering_sample(refresh->vm, reply);
		vm_wake(refresh->vm, VM_WAIT_CHANGED, NULL);
	}
	if (refresh->done)
		refresh->done(refresh->owner, refresh->vm, err);
	vm_unref(refresh->vm);
	free(refresh);
}

void run_refresh(struct vm *vm, vm_done done, void *owner)
{
	struct refresh *refresh = malloc(sizeof(*refresh));

	if (!refresh)
		abort();
	*refresh = (struct refresh){ vm_ref(vm), done, owner };
	run_request(vm, json_pack("{s:s}", "op", "status"), STATUS_TIMEOUT_NS, status_answered,
		    refresh);
}
