#include "run-private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "cgroup.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
#include "checkpoints.h"
#include "com-ports.h"
#include "config/config-json.h"
#include "files.h"
#include "metering.h"
#include "saved.h"
#include "switches.h"
#include "worker-log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_LOG_BYTES (1 * MIB)

/* ---- the object ---- */

char *run_path(const struct vm *vm, const char *file)
{
	char *path = NULL;

	if (asprintf(&path, "%s/vm/%s%s%s", vm->daemon->paths.runtime, vm->id, file ? "/" : "",
		     file ? file : "") < 0)
		abort();
	return path;
}

struct run *run_new(struct vm *vm)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		abort();
	run->vm = vm_ref(vm);
	run->folder = run_path(vm, NULL);
	run->process.pidfd = -1;
	run->job_fd = -1;
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		run->port_fds[i] = -1;
	run->parents = json_object();
	snprintf(run->heartbeat, sizeof(run->heartbeat), "No Contact");
	vm->run = run;
	return run;
}

void run_close_job(struct run *run)
{
	loop_fd_remove(run->job_watch);
	run->job_watch = NULL;
	if (run->job_fd >= 0)
		close(run->job_fd);
	run->job_fd = -1;
}

void run_free(struct run *run)
{
	struct vm *vm = run->vm;

	run_close_job(run);
	loop_fd_remove(run->process_watch);
	if (run->process.pidfd >= 0)
		close(run->process.pidfd);
	loop_timer_free(run->timer);
	loop_timer_free(run->critical_timer);
	loop_timer_free(run->end_timer);
	vm->run = NULL;
	metering_save(vm);
	peer_free(run->peer);
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		if (run->port_fds[i] >= 0)
			close(run->port_fds[i]);
	json_decref(run->parents);
	json_decref(run->status);
	json_decref(run->services);
	json_decref(run->kvp);
	json_decref(run->crash);
	json_decref(run->memory);
	json_decref(run->last_save);
	free(run->backend);
	free(run->backend_reason);
	free(run->folder);
	free(run);
	vm_unref(vm);
}

void run_remove_folder(const char *path)
{
	static const char *const files[] = { "control",  "console1",      "console2",
					     "run.json", ".run.json.new", "worker.log" };
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(files); i++)
		unlinkat(fd, files[i], 0);
	rmdir(path);
}

void run_trim_log(const struct vm *vm)
{
	AUTO_FREE char *path = run_path(vm, "worker.log");
	struct stat st;

	/* The worker appends: it goes on at the new end. */
	if (stat(path, &st) == 0 && st.st_size > (off_t)MAX_LOG_BYTES && truncate(path, 0) == 0)
		log_warn("virtual machine '%s': the log of its worker was emptied",
			 vm->config->name);
}

void run_set_state(struct vm *vm, enum vm_state state)
{
	vm->state = state;
	vm_wake(vm, VM_WAIT_CHANGED, NULL);
}

/* ---- the end ---- */

static void remove_ports(struct run *run)
{
	for (unsigned i = 0; i < run->vm->config->nic_count; i++)
		switches_remove_port(run->vm->daemon->switches, &run->vm->config->nics[i]);
}

/* The worker is at a checkpoint no more. */
int run_settle(struct run *run, struct error *err)
{
	char id[GUID_TEXT_SIZE];

	memcpy(id, run->saving_id, sizeof(id));
	run->saving_id[0] = '\0';
	run->vm->busy = NULL;
	return checkpoint_settle(run->vm, id, err);
}

/* What was being saved when the worker ended: done, or given up. 0: saved, or nothing was. */
static int end_save(struct run *run, struct error *err)
{
	struct vm *vm = run->vm;
	bool saved = strcmp(run->off_reason, "saved") == 0;
	int r = 0;

	if (run->adopting) {
		vm->busy = NULL;
		r = checkpoints_clean_up(vm, err);
	}
	if (!run->saving_id[0]) {
		/* An earlier daemon may have begun it, and its end not been heard. */
		saved_clean_up(vm);
		return r;
	}
	if (!run->saving_stops) {
		if (saved)
			saved_clean_up(vm);
		return run_settle(run, err);
	}
	if (saved)
		r = saved_commit(vm, run->saving_id, err);
	else
		r = error_set(err, ERR_CANCELLED, "it ended while it was being saved");
	if (r < 0)
		saved_remove(vm, run->saving_id);
	return r;
}

/* Everything is over: state, notes, whoever waits. start_failure: the start ended so. */
static void finish(struct run *run, const struct error *start_failure)
{
	struct vm *vm = vm_ref(run->vm);
	struct error failure, no_start, no_save;
	bool started = !run->starting;
	int save_failed = end_save(run, &no_save);

	if (start_failure) {
		failure = *start_failure;
		start_failure = &failure;
	}
	remove_ports(run);
	cgroup_remove(vm->daemon->cgroup, vm->id);
	com_ports_withdraw(vm);
	run_remove_folder(run->folder);
	run_free(run);
	/* A worker that an earlier daemon began may have used it. */
	if (vm->config->saved_state)
		saved_clean_up(vm);
	fold_worker_ended(vm);
	run_set_state(vm, vm->config->saved_state ? VM_SAVED : VM_OFF);
	vm_wake(vm, VM_WAIT_SAVED, save_failed < 0 ? &no_save : NULL);
	if (started) {
		error_set(&no_start, ERR_STATE, "it is off");
		start_failure = &no_start;
	}
	vm_wake(vm, VM_WAIT_STARTED, start_failure);
	vm_wake(vm, VM_WAIT_OFF, NULL);
	if (vm->state == VM_OFF && !vm->busy)
		checkpoint_remove_automatic(vm);
	fold_resume(vm);
	vm_unref(vm);
}

void run_fail_start(struct run *run, const struct error *err)
{
	vm_note_stop(run->vm, "start-failed", err->text, run->crash);
	vm_event(run->vm, EVENT_VM_START_FAILED, NULL, "'%s' failed to start: %s",
		 run->vm->config->name, err->text);
	finish(run, err);
}

static enum event_kind off_event(const struct run *run)
{
	if (strcmp(run->off_reason, "guest-shutdown") == 0)
		return run->shutdown_asked ? EVENT_VM_SHUT_DOWN_BY_SERVICE
					   : EVENT_VM_SHUT_DOWN_BY_GUEST;
	if (strcmp(run->off_reason, "turned-off") == 0)
		return EVENT_VM_TURNED_OFF;
	if (strcmp(run->off_reason, "guest-crash") == 0)
		return EVENT_VM_GUEST_CRASHED;
	if (strcmp(run->off_reason, "saved") == 0)
		return EVENT_VM_SAVED;
	return EVENT_VM_WORKER_FAILED;
}

static const char *off_sentence(const struct run *run)
{
	switch (off_event(run)) {
	case EVENT_VM_SHUT_DOWN_BY_SERVICE:
		return "was shut down using the shutdown service";
	case EVENT_VM_SHUT_DOWN_BY_GUEST:
		return "was shut down by the guest operating system";
	case EVENT_VM_TURNED_OFF:
		return "was turned off";
	case EVENT_VM_SAVED:
		return "was saved";
	case EVENT_VM_GUEST_CRASHED:
		return "was stopped because the guest crashed";
	default:
		return "was stopped because its worker failed";
	}
}

/* Takes trace, that of the worker's crash; NULL: none. The worker's own words say more where
 * something went wrong. */
static void note_off(struct run *run, json_t *trace)
{
	enum event_kind kind = off_event(run);
	bool wrong = kind == EVENT_VM_GUEST_CRASHED || kind == EVENT_VM_WORKER_FAILED;
	bool says_more = wrong && run->off_text[0];
	char text[768];

	snprintf(text, sizeof(text), "'%s' %s%s%s.", run->vm->config->name, off_sentence(run),
		 says_more ? ": " : "", says_more ? run->off_text : "");
	text_mend(text);
	vm_note_stop(run->vm, run->off_reason, text, run->crash);
	if (run->crash) {
		json_decref(trace);
		trace = json_incref(run->crash);
	}
	vm_event(run->vm, kind, trace, "%s", text);
}

/* ---- a worker that failed ---- */

/* In so long it is started again VM_MAX_RECOVERIES times. */
#define RECOVERY_NS (600 * NS_PER_SEC)

static void recover(struct vm *vm)
{
	unsigned oldest = vm->recoveries++ % VM_MAX_RECOVERIES;
	uint64_t now = clock_now_ns();
	struct error err;

	if (vm->recovered_ns[oldest] && now - vm->recovered_ns[oldest] < RECOVERY_NS) {
		vm_event(vm, EVENT_VM_START_FAILED, NULL,
			 "'%s' is not started again: its worker failed %d times in ten minutes.",
			 vm->config->name, VM_MAX_RECOVERIES + 1);
		return;
	}
	vm->recovered_ns[oldest] = now;
	if (run_start(vm, &err) < 0)
		vm_event(vm, EVENT_VM_START_FAILED, NULL, "'%s' was not started again: %s",
			 vm->config->name, err.text);
}

/* Frees run; the VM is down. */
static void end_run(struct run *run, json_t *trace)
{
	struct vm *vm = vm_ref(run->vm);
	bool failed = off_event(run) == EVENT_VM_WORKER_FAILED;

	note_off(run, trace ? json_pack("{s:o}", "trace", trace) : NULL);
	finish(run, NULL);
	if (failed && vm->config->recovery_action == CONFIG_RECOVERY_RESTART && !vm->host_stops &&
	    vm_is_down(vm))
		recover(vm);
	vm_unref(vm);
}

/* Of a worker that is gone. */
static void all_over(struct run *run)
{
	AUTO_FREE char *log_file = run_path(run->vm, "worker.log");
	char last[200];
	struct error err;

	worker_log_last(log_file, last, sizeof(last));
	if (run->starting) {
		if (!run->failure.code)
			error_set(&run->failure, ERR_INTERNAL, "the worker %s%s%s", run->ended,
				  last[0] ? ": " : "", last);
		err = run->failure;
		run_fail_start(run, &err);
		return;
	}
	if (!run->off_reason[0]) {
		snprintf(run->off_reason, sizeof(run->off_reason), "worker-error");
		snprintf(run->off_text, sizeof(run->off_text), "the worker process %d %s%s%s",
			 (int)run->process.pid, run->ended, last[0] ? "; its last message: " : "",
			 last);
	}
	end_run(run, worker_log_crash(log_file));
}

/* A process that was killed is gone before what it had under way to its disks. */
#define FREE_PAUSE_NS   (20 * NS_PER_MSEC)
#define FREE_TIMEOUT_NS (30 * NS_PER_SEC)
#define ADOPT_LIMIT_NS  (3 * NS_PER_SEC) /* of all, while nobody is served */

static void await_disks(void *user)
{
	struct run *run = user;
	uint64_t now = clock_now_ns();
	bool late = now - run->ended_ns > FREE_TIMEOUT_NS;

	if (!late && !files_are_free(run->vm)) {
		if (run->vm->state == VM_RUNNING || run->vm->state == VM_PAUSED)
			run_set_state(run->vm, VM_STOPPING);
		loop_timer_arm(run->end_timer, now + FREE_PAUSE_NS);
		return;
	}
	if (late)
		log_warn("virtual machine '%s': its worker is gone, but not the locks of its disks",
			 run->vm->config->name);
	all_over(run);
}

void run_process_ended(void *user, uint32_t events)
{
	struct run *run = user;

	loop_fd_remove(run->process_watch);
	run->process_watch = NULL;
	spawn_reap(&run->process, run->ended, sizeof(run->ended));
	run->ended_ns = clock_now_ns();
	/* What it said last may not have been heard yet. */
	if (run->job_fd >= 0)
		run_job_ready(run, 0);
	if (run->peer)
		peer_drain(run->peer);
	if (loop_timer_new(run->vm->daemon->loop, await_disks, run, &run->end_timer, NULL) < 0)
		abort();
	await_disks(run);
}

static void timer_fired(void *user)
{
	struct run *run = user;

	if (run->starting && !run->failure.code)
		error_set(&run->failure, ERR_TIMEOUT, "the worker did not start in a minute");
	else
		log_warn("virtual machine '%s': its worker does not end and is killed",
			 run->vm->config->name);
	spawn_kill(&run->process);
}

void run_arm_timer(struct run *run, uint64_t after_ns)
{
	if (!run->timer &&
	    loop_timer_new(run->vm->daemon->loop, timer_fired, run, &run->timer, NULL) < 0)
		abort();
	loop_timer_arm(run->timer, clock_now_ns() + after_ns);
}

/* ---- workers of an earlier daemon ---- */

static int read_run_file(const struct vm *vm, struct process *ret, struct error *err)
{
	AUTO_FREE char *path = run_path(vm, NULL);
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *json;
	int r;

	if (fd < 0)
		return error_set(err, ERR_NOT_FOUND, "no run");
	r = config_load_json(fd, "run.json", &json, err);
	if (r < 0)
		return r;
	r = spawn_find((pid_t)json_integer_value(json_object_get(json, "pid")),
		       (unsigned long long)json_integer_value(json_object_get(json, "start_ticks")),
		       ret, err);
	json_decref(json);
	return r;
}

static void adopt_status(void *owner, struct vm *vm, const struct error *err)
{
	const char *backend =
	    vm->run ? json_string_value(json_object_get(vm->run->status, "backend")) : NULL;
	const char *reason =
	    vm->run ? json_string_value(json_object_get(vm->run->status, "backend_reason")) : NULL;

	if (vm->run && !vm->run->backend) {
		vm->run->backend = strdup(backend ? backend : "");
		vm->run->backend_reason = strdup(reason ? reason : "");
	}
	vm_unref(vm);
}

static void adopt(struct vm *vm, struct process *process)
{
	struct run *run = run_new(vm);
	struct error err;

	run->process = *process;
	run->adopting = true;
	if (loop_fd_add(vm->daemon->loop, process->pidfd, EPOLLIN, run_process_ended, run,
			&run->process_watch, &err) < 0 ||
	    run_connect(run, &err) < 0) {
		log_error("virtual machine '%s': its worker can't be reached (%s) and is killed",
			  vm->config->name, err.text);
		snprintf(run->off_reason, sizeof(run->off_reason), "worker-error");
		snprintf(run->off_text, sizeof(run->off_text),
			 "the worker could not be reached after a restart of the service");
		run_set_state(vm, VM_STOPPING);
		spawn_kill(process);
		return;
	}
	run_limit(vm);
	run_set_state(vm, VM_RUNNING);
	/* A checkpoint that is begun now would be taken for one of the earlier service. */
	vm->busy = "its worker has not said yet what it is at";
	vm_event(vm, EVENT_VM_ADOPTED, NULL, "'%s' was found running, as process %d.",
		 vm->config->name, (int)process->pid);
	run_refresh(vm_ref(vm), adopt_status, NULL);
}

/* Until `limit`, as above, for a worker that may have been killed together with the service. */
static void wait_for_disks(const struct vm *vm, uint64_t limit)
{
	const struct timespec pause = { 0, FREE_PAUSE_NS };

	while (!files_are_free(vm) && clock_now_ns() < limit)
		nanosleep(&pause, NULL);
}

static void clean_up_after(struct vm *vm, uint64_t limit)
{
	AUTO_FREE char *path = run_path(vm, NULL);
	const char *text = "The worker ended while the management service was not running.";
	struct error err;

	saved_clean_up(vm);
	if (checkpoints_clean_up(vm, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
	vm->state = vm->config->saved_state ? VM_SAVED : VM_OFF;
	if (access(path, F_OK) < 0)
		return;
	wait_for_disks(vm, limit);
	com_ports_withdraw(vm);
	if (vm->state == VM_SAVED) {
		run_remove_folder(path);
		return;
	}
	vm_note_stop(vm, "worker-error", text, NULL);
	vm_event(vm, EVENT_VM_WORKER_FAILED, NULL, "'%s' is off. %s", vm->config->name, text);
	run_remove_folder(path);
}

static void tidy(void *user)
{
	struct daemon *daemon = user;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct vm *vm = daemon->vms[i];

		if (vm->state == VM_OFF)
			checkpoint_remove_automatic(vm);
		else if (vm->state == VM_SAVED)
			checkpoint_remove_temporary(vm);
		if (vm_is_down(vm))
			fold_resume(vm);
	}
}

void run_adopt_all(struct daemon *daemon)
{
	uint64_t limit = clock_now_ns() + ADOPT_LIMIT_NS;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct process process;
		struct error err;

		if (read_run_file(daemon->vms[i], &process, &err) == 0)
			adopt(daemon->vms[i], &process);
		else
			clean_up_after(daemon->vms[i], limit);
	}
	if (!switches_running(daemon->switches) && run_ports_lost(daemon))
		switches_restore_ports(daemon->switches);
	loop_post(daemon->loop, tidy, daemon);
}

bool run_is_adopting(const struct daemon *daemon)
{
	for (size_t i = 0; i < daemon->vm_count; i++)
		if (daemon->vms[i]->run && daemon->vms[i]->run->adopting)
			return true;
	return false;
}

void run_detach(struct vm *vm)
{
	if (vm->run)
		run_free(vm->run);
}
