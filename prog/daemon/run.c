#include "run.h"

#include "automatic.h"
#include "balancer.h"
#include "cgroup.h"
#include "base/clock.h"
#include "base/host.h"
#include "base/log.h"
#include "base/macros.h"
#include "cmdlets.h"
#include "config/config-json.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
#include "com-ports.h"
#include "checkpoints.h"
#include "disk-job.h"
#include "files.h"
#include "guest-sockets.h"
#include "metering.h"
#include "saved.h"
#include "ipc/ipc.h"
#include "sockets.h"
#include "switches.h"
#include "worker-log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define START_TIMEOUT_NS   (60 * NS_PER_SEC)
#define END_TIMEOUT_NS     (10 * NS_PER_SEC) /* from "off" to the end of the process */
#define REQUEST_TIMEOUT_NS (5 * NS_PER_SEC)
#define MAX_LOG_BYTES      (1 * MIB)
#define STATUS_TIMEOUT_NS  (1 * NS_PER_SEC)
/* Of the answer: the disks are synced before. */
#define CHECKPOINT_TIMEOUT_NS (60 * NS_PER_SEC)

static int connect_control(struct run *run, struct error *err);
static void job_ready(void *user, uint32_t events);

/* ---- the object ---- */

static char *runtime_path(const struct vm *vm, const char *file)
{
	char *path = NULL;

	if (asprintf(&path, "%s/vm/%s%s%s", vm->daemon->paths.runtime, vm->id, file ? "/" : "",
		     file ? file : "") < 0)
		abort();
	return path;
}

static struct run *run_new(struct vm *vm)
{
	struct run *run = calloc(1, sizeof(*run));

	if (!run)
		abort();
	run->vm = vm_ref(vm);
	run->folder = runtime_path(vm, NULL);
	run->process.pidfd = -1;
	run->job_fd = -1;
	for (unsigned i = 0; i < CONFIG_MAX_NICS; i++)
		run->port_fds[i] = -1;
	run->parents = json_object();
	snprintf(run->heartbeat, sizeof(run->heartbeat), "No Contact");
	vm->run = run;
	return run;
}

static void close_job(struct run *run)
{
	loop_fd_remove(run->job_watch);
	run->job_watch = NULL;
	if (run->job_fd >= 0)
		close(run->job_fd);
	run->job_fd = -1;
}

static void run_free(struct run *run)
{
	struct vm *vm = run->vm;

	close_job(run);
	loop_fd_remove(run->process_watch);
	if (run->process.pidfd >= 0)
		close(run->process.pidfd);
	loop_timer_free(run->timer);
	loop_timer_free(run->critical_timer);
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

static void remove_runtime_folder(const char *path)
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
	AUTO_FREE char *path = runtime_path(vm, "worker.log");
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
static int settle(struct run *run, struct error *err)
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

	if (!run->saving_id[0]) {
		/* An earlier daemon may have begun it, and its end not been heard. */
		saved_clean_up(vm);
		return 0;
	}
	if (!run->saving_stops) {
		if (saved)
			saved_clean_up(vm);
		return settle(run, err);
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
	remove_runtime_folder(run->folder);
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

static void fail_start(struct run *run, const struct error *err)
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

static void process_ended(void *user, uint32_t events)
{
	struct run *run = user;
	AUTO_FREE char *log_file = runtime_path(run->vm, "worker.log");
	char how[128], last[200];
	struct error err;

	loop_fd_remove(run->process_watch);
	run->process_watch = NULL;
	spawn_reap(&run->process, how, sizeof(how));
	/* What it said last may not have been heard yet. */
	if (run->job_fd >= 0)
		job_ready(run, 0);
	if (run->peer)
		peer_drain(run->peer);
	worker_log_last(log_file, last, sizeof(last));
	if (run->starting) {
		if (!run->failure.code)
			error_set(&run->failure, ERR_INTERNAL, "the worker %s%s%s", how,
				  last[0] ? ": " : "", last);
		err = run->failure;
		fail_start(run, &err);
		return;
	}
	if (!run->off_reason[0]) {
		snprintf(run->off_reason, sizeof(run->off_reason), "worker-error");
		snprintf(run->off_text, sizeof(run->off_text), "the worker process %d %s%s%s",
			 (int)run->process.pid, how, last[0] ? "; its last message: " : "", last);
	}
	end_run(run, worker_log_crash(log_file));
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

static void arm_timer(struct run *run, uint64_t after_ns)
{
	if (!run->timer &&
	    loop_timer_new(run->vm->daemon->loop, timer_fired, run, &run->timer, NULL) < 0)
		abort();
	loop_timer_arm(run->timer, clock_now_ns() + after_ns);
}

/* ---- what the worker says ---- */

static void take_json(json_t **where, const json_t *value)
{
	if (!value)
		return;
	json_decref(*where);
	*where = json_incref((json_t *)value);
}

static void take_text(char *ret, size_t size, const json_t *value)
{
	if (json_is_string(value))
		snprintf(ret, size, "%s", json_string_value(value));
}

static void end_of_save(struct run *run, const struct error *err)
{
	struct vm *vm = run->vm;
	struct error why;

	if (!run->saving_stops) {
		if (settle(run, &why) == 0)
			err = NULL; /* the worker may have ended, or not be heard */
		else if (!err)
			err = &why;
		vm_wake(vm, VM_WAIT_SAVED, err);
		/* Nobody waited for one of an earlier service. */
		checkpoint_remove_temporary(vm);
		return;
	}
	if (err) {
		saved_remove(vm, run->saving_id);
		if (vm->state == VM_SAVING)
			run_set_state(vm, run->was_paused ? VM_PAUSED : VM_RUNNING);
	}
	/* What went well ends with the worker. */
	if (!err)
		return;
	run->saving_id[0] = '\0';
	vm_wake(vm, VM_WAIT_SAVED, err);
}

/* The connection was lost while it was at a checkpoint: what it said of the end was not heard. */
static void end_unheard(struct run *run)
{
	struct error err;

	error_set(&err, ERR_CANCELLED, "the worker did not say what became of it");
	end_of_save(run, &err);
}

/* The first that it says to a new service. It may be at what an earlier one began, or have done it
 * already. */
static void take_over(struct run *run, bool saving)
{
	struct vm *vm = run->vm;
	bool under_way = checkpoints_under_way(vm, run->saving_id);
	struct error err;

	run->adopting = false;
	if (under_way)
		run_request(vm, json_pack("{s:s}", "op", "vss-thaw"), REQUEST_TIMEOUT_NS, NULL,
			    NULL);
	if (under_way && saving) {
		run->saving_memory = true;
		vm->busy = "a checkpoint of it is being taken";
		return;
	}
	run->saving_id[0] = '\0';
	if (saving)
		run_set_state(vm, VM_SAVING);
	if (!saving && (checkpoints_clean_up(vm, &err) < 0 || fold_settle(vm, &err) < 0)) {
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
		return;
	}
	if (!saving)
		checkpoint_remove_temporary(vm);
	fold_resume(vm);
}

/* ---- storage that fails ---- */

static void critical_too_long(void *user)
{
	struct run *run = user;
	struct vm *vm = run->vm;

	vm_event(vm, EVENT_VM_CRITICAL, NULL,
		 "'%s' is turned off: the storage was not back in %u minutes.", vm->config->name,
		 vm->config->critical_minutes);
	run_turn_off(vm);
}

void run_arm_critical(struct vm *vm)
{
	struct run *run = vm->run;

	if (vm->state != VM_CRITICAL)
		return;
	if (!run->critical_timer && loop_timer_new(vm->daemon->loop, critical_too_long, run,
						   &run->critical_timer, NULL) < 0)
		abort();
	loop_timer_arm(run->critical_timer,
		       clock_now_ns() + vm->config->critical_minutes * 60 * NS_PER_SEC);
}

static void enter_critical(struct run *run, const char *text)
{
	struct vm *vm = run->vm;

	snprintf(run->critical_text, sizeof(run->critical_text), "%s", text ? text : "");
	vm_event(vm, EVENT_VM_CRITICAL, NULL, "'%s' was paused: %s.", vm->config->name,
		 text ? text : "the host's storage has failed");
	run_set_state(vm, VM_CRITICAL);
	run_arm_critical(vm);
}

static void leave_critical(struct run *run, bool paused)
{
	if (run->critical_timer)
		loop_timer_cancel(run->critical_timer);
	vm_event(run->vm, EVENT_VM_CRITICAL_OVER, NULL, "The storage of '%s' is back.",
		 run->vm->config->name);
	run_set_state(run->vm, paused ? VM_PAUSED : VM_RUNNING);
}

static const struct config_disk *disk_of_event(const struct vm *vm, const json_t *event)
{
	const char *id = json_string_value(json_object_get(event, "controller"));
	json_int_t location = json_integer_value(json_object_get(event, "location"));
	char its_id[GUID_TEXT_SIZE];

	for (unsigned i = 0; id && i < vm->config->scsi_count; i++)
		if (strcasecmp(guid_format(&vm->config->scsi_ids[i], its_id), id) == 0)
			return config_find_disk(vm->config, CONFIG_BUS_SCSI, i, (unsigned)location);
	return NULL;
}

static void on_disk_slow(struct run *run, const json_t *event)
{
	const struct config_disk *disk = disk_of_event(run->vm, event);
	bool slow = json_is_true(json_object_get(event, "slow"));

	if (disk)
		vm_event(run->vm, slow ? EVENT_VM_DISK_SLOW : EVENT_VM_DISK_SLOW_OVER, NULL,
			 "The disk '%s' of '%s' is %s its minimum of %u IOPS.", disk->path,
			 run->vm->config->name, slow ? "slower than" : "as fast as",
			 disk->minimum_iops);
}

static void on_state(struct run *run, const json_t *event)
{
	const char *state = json_string_value(json_object_get(event, "state"));
	bool paused = state && strcmp(state, "paused") == 0;
	bool critical = json_is_true(json_object_get(event, "critical"));
	bool saving = json_is_true(json_object_get(event, "saving"));

	if (run->starting || !state)
		return;
	if (run->adopting)
		take_over(run, saving);
	else if (run->reconnected && run->saving_id[0] && !run->saving_stops && !saving)
		end_unheard(run);
	run->reconnected = false;
	/* Begun under an earlier daemon: a checkpoint does not show in the state. */
	if (saving || (run->vm->state == VM_SAVING && run->saving_id[0]))
		return;
	if (run->vm->state == VM_SAVING)
		run_set_state(run->vm, VM_RUNNING);
	if (critical && (run->vm->state == VM_RUNNING || run->vm->state == VM_PAUSED))
		enter_critical(run, json_string_value(json_object_get(event, "text")));
	else if (!critical && run->vm->state == VM_CRITICAL)
		leave_critical(run, paused);
	else if (paused && run->vm->state == VM_RUNNING)
		run_set_state(run->vm, VM_PAUSED);
	else if (!paused && run->vm->state == VM_PAUSED)
		run_set_state(run->vm, VM_RUNNING);
}

static void on_saved(struct run *run, const json_t *event)
{
	take_json(&run->last_save, event);
	if (run->saving_id[0] && run->saving_memory)
		end_of_save(run, NULL);
}

static void on_save_failed(struct run *run, const json_t *event)
{
	const json_t *error = json_object_get(event, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *text = json_string_value(json_object_get(error, "text"));
	struct error err;

	error_set(&err, err_code_from_name(code ? code : ""), "%s",
		  text ? text : "the worker did not say why");
	if (run->saving_id[0] && run->saving_memory)
		end_of_save(run, &err);
	else if (run->vm->state == VM_SAVING) /* begun under an earlier daemon */
		run_set_state(run->vm, VM_RUNNING);
}

static void on_integration(struct run *run, const json_t *event)
{
	const json_t *services = json_object_get(event, "services");

	take_text(run->heartbeat, sizeof(run->heartbeat), json_object_get(event, "heartbeat"));
	if (json_is_array(services))
		take_json(&run->services, services);
	vm_wake(run->vm, VM_WAIT_CHANGED, NULL);
}

static void on_memory(struct run *run, const json_t *event)
{
	const json_t *memory = json_object_get(event, "memory");

	if (json_is_object(memory))
		take_json(&run->memory, memory);
	if (run->vm->config->dynamic_memory.enabled)
		balancer_wake(run->vm->daemon->balancer);
	vm_wake(run->vm, VM_WAIT_CHANGED, NULL);
}

uint64_t run_memory(const struct run *run, const char *name)
{
	json_int_t value = json_integer_value(json_object_get(run->memory, name));

	return value > 0 ? (uint64_t)value : 0;
}

static void on_kvp(struct run *run, const json_t *event)
{
	const json_t *items = json_object_get(event, "items");

	if (json_is_object(items))
		take_json(&run->kvp, items);
	vm_wake(run->vm, VM_WAIT_CHANGED, NULL);
}

void run_note_reset(struct run *run)
{
	run->resets++;
	json_decref(run->kvp);
	run->kvp = NULL;
	snprintf(run->heartbeat, sizeof(run->heartbeat), "No Contact");
	if (run->vm->state == VM_STOPPING && !run->off_reason[0]) {
		run->shutdown_asked = false;
		run_set_state(run->vm, VM_RUNNING);
	}
}

static void on_guest_reset(struct run *run, const json_t *event)
{
	run_note_reset(run);
	vm_event(run->vm, EVENT_VM_RESET_BY_GUEST, NULL,
		 "'%s' was reset by the guest operating system.", run->vm->config->name);
}

/* The drive is empty from now on, also after the next start. */
static void on_ejected(struct run *run, const json_t *event)
{
	const char *id = json_string_value(json_object_get(event, "controller"));
	json_int_t location = json_integer_value(json_object_get(event, "location"));
	struct config_vm *copy = vm_config_copy(run->vm, NULL);
	struct config_disk *disk = NULL;
	char its_id[GUID_TEXT_SIZE];
	struct error err;

	for (unsigned i = 0; copy && id && i < copy->scsi_count; i++)
		if (strcasecmp(guid_format(&copy->scsi_ids[i], its_id), id) == 0)
			disk = config_find_disk(copy, CONFIG_BUS_SCSI, i, (unsigned)location);
	if (!disk || disk->kind != CONFIG_DISK_DVD) {
		config_vm_free(copy);
		return;
	}
	if (config_set_string(&disk->path, NULL, &err) == 0 && vm_follow(run->vm, copy, &err) < 0)
		log_error("virtual machine '%s': noting that the guest ejected a DVD: %s",
			  run->vm->config->name, err.text);
}

static void on_shutdown_failed(struct run *run, const json_t *event)
{
	const char *text = json_string_value(json_object_get(event, "text"));

	if (run->shutdown_asked)
		error_set(&run->shutdown_failure, ERR_DENIED, "%.200s", text ? text : "it says no");
}

/* Of the last kernel messages that a guest gives at its end: from where it says what happened. */
static const char *crash_cause(const char *message)
{
	const char *cause = message ? strstr(message, "Kernel panic") : NULL;

	return cause ? cause : message;
}

static void on_guest_crash(struct run *run, const json_t *event)
{
	const json_t *parameters = json_object_get(event, "parameters");
	const json_t *message = json_object_get(event, "message");
	AUTO_FREE char *codes = json_dumps(parameters, JSON_COMPACT | JSON_ENCODE_ANY);

	json_decref(run->crash);
	run->crash = json_pack("{s:O*, s:O*}", "parameters", parameters, "message", message);
	vm_event(run->vm, EVENT_VM_GUEST_CRASHED, json_incref(run->crash),
		 "'%s' has encountered a fatal error; the guest reported %.200s%s%.300s",
		 run->vm->config->name, codes ? codes : "nothing more",
		 json_string_length(message) ? ": " : "",
		 json_is_string(message) ? crash_cause(json_string_value(message)) : "");
}

static void on_socket_asked(struct run *run, const json_t *event)
{
	guest_socket_asked(run->vm, event);
}

static void on_copy_progress(struct run *run, const json_t *event)
{
	cmdlets_copy_progress(run->vm, event);
}

static void on_off(struct run *run, const json_t *event)
{
	take_text(run->off_reason, sizeof(run->off_reason), json_object_get(event, "reason"));
	take_text(run->off_text, sizeof(run->off_text), json_object_get(event, "text"));
	arm_timer(run, END_TIMEOUT_NS);
}

static void on_disk_merging(struct run *run, const json_t *event)
{
	fold_event(run->vm, "disk-merging", event);
}

static void on_disk_merged(struct run *run, const json_t *event)
{
	fold_event(run->vm, "disk-merged", event);
}

static void on_event(void *user, const char *name, const json_t *event)
{
	static const struct {
		const char *name;
		void (*take)(struct run *run, const json_t *event);
	} events[] = {
		{ "state", on_state },
		{ "integration", on_integration },
		{ "kvp", on_kvp },
		{ "memory", on_memory },
		{ "guest-reset", on_guest_reset },
		{ "ejected", on_ejected },
		{ "disk-slow", on_disk_slow },
		{ "shutdown-failed", on_shutdown_failed },
		{ "guest-crash", on_guest_crash },
		{ "saved", on_saved },
		{ "save-failed", on_save_failed },
		{ "off", on_off },
		{ "disk-merging", on_disk_merging },
		{ "disk-merged", on_disk_merged },
		{ "socket-asked", on_socket_asked },
		{ "copy-progress", on_copy_progress },
	};

	for (size_t i = 0; i < ARRAY_SIZE(events); i++)
		if (strcmp(events[i].name, name) == 0)
			events[i].take(user, event);
}

/* The worker cuts off whoever is too far behind; while it lives we come back. */
static void reconnect(void *user)
{
	struct vm *vm = user;

	if (vm->run && !vm->run->peer && !vm->run->starting &&
	    connect_control(vm->run, NULL) == 0) {
		vm->run->reconnected = true;
		fold_worker_lost(vm);
	}
	vm_unref(vm);
}

static void on_closed(void *user)
{
	struct run *run = user;

	peer_free(run->peer);
	run->peer = NULL;
	if (run->off_reason[0] || run->starting || !run->process_watch)
		return;
	loop_post(run->vm->daemon->loop, reconnect, vm_ref(run->vm));
}

static const struct peer_events control_events = { on_event, on_closed };

static int connect_control(struct run *run, struct error *err)
{
	AUTO_FREE char *path = runtime_path(run->vm, "control");
	int fd = sockets_connect(path, SOCK_SEQPACKET, err);

	if (fd < 0)
		return fd;
	return peer_new(run->vm->daemon->loop, fd, &control_events, run, &run->peer, err);
}

/* ---- the start ---- */

static bool has_controls(const struct config_processor *processor)
{
	return processor->maximum_percent != 100 || processor->weight != 100;
}

void run_limit(struct vm *vm)
{
	struct cgroup *cgroup = vm->daemon->cgroup;
	struct error err;
	int r;

	if (!vm->run || vm->run->process.pidfd < 0)
		return;
	r = cgroup_add(cgroup, vm->id, vm->run->process.pid, &err);
	if (r == 0)
		r = cgroup_limit(cgroup, vm->id, vm->config, &err);
	if (r < 0 && has_controls(&vm->config->processor))
		vm_event(vm, EVENT_VM_UNLIMITED, NULL,
			 "The processor maximum and weight of '%s' are not applied: %s",
			 vm->config->name, err.text);
}

int run_admit_reserve(const struct vm *vm, const struct config_vm *config, struct error *err)
{
	unsigned wanted = config->processor.reserve_percent * config->processor_count;
	unsigned all = host_processors() * 100, taken = 0;

	for (size_t i = 0; i < vm->daemon->vm_count; i++) {
		const struct vm *other = vm->daemon->vms[i];

		if (other != vm && !vm_is_down(other))
			taken += other->config->processor.reserve_percent *
				 other->config->processor_count;
	}
	if (!wanted || wanted + taken <= all)
		return 0;
	return error_set(err, ERR_LIMIT,
			 "the host has not enough processor resources for its reserve: it needs "
			 "%u %% of a processor; of %u %%, running virtual machines have reserved "
			 "%u %%",
			 wanted, all, taken);
}

static void started(struct run *run, const json_t *answer)
{
	const char *backend = json_string_value(json_object_get(answer, "backend"));
	const char *reason = json_string_value(json_object_get(answer, "backend_reason"));
	struct vm *vm = run->vm;
	struct error err;
	bool restored;

	close_job(run);
	/* Unless it is off already, and that timer runs. */
	if (!run->off_reason[0])
		loop_timer_cancel(run->timer);
	run->starting = false;
	run->backend = strdup(backend ? backend : "");
	run->backend_reason = strdup(reason ? reason : "");
	run_set_state(vm, VM_RUNNING);
	vm->host_stops = false;
	automatic_note_running(vm);
	restored = vm->config->saved_state != NULL;
	if (saved_drop(vm, &err) < 0)
		log_error("virtual machine '%s': its saved state can't be removed: %s",
			  vm->config->name, err.text);
	vm_event(vm, restored ? EVENT_VM_RESTORED : EVENT_VM_STARTED, NULL, "'%s' %s.",
		 vm->config->name,
		 restored ? "was restored from its saved state" : "started successfully");
	vm_wake(vm, VM_WAIT_STARTED, NULL);
	fold_resume(vm);
}

static void start_refused(struct run *run, const json_t *answer)
{
	const json_t *error = json_object_get(answer, "error");
	const char *code = json_string_value(json_object_get(error, "code"));
	const char *text = json_string_value(json_object_get(error, "text"));

	error_set(&run->failure, err_code_from_name(code ? code : ""), "%s",
		  text ? text : "the worker did not say why");
	close_job(run);
	/* Its process ends by itself. */
	arm_timer(run, END_TIMEOUT_NS);
}

static void job_ready(void *user, uint32_t events)
{
	struct run *run = user;
	struct error err;
	const char *type;
	json_t *answer;
	int r = ipc_recv(run->job_fd, &answer, NULL, NULL, &err);

	if (r == -ERR_BUSY)
		return;
	if (r < 0) {
		run->failure = err;
		close_job(run);
		spawn_kill(&run->process);
		return;
	}
	if (r == 0) {
		/* It ends: how, says more than an error here. */
		close_job(run);
		arm_timer(run, END_TIMEOUT_NS);
		return;
	}
	type = json_string_value(json_object_get(answer, "type"));
	if (type && strcmp(type, "started") == 0) {
		started(run, answer);
	} else if (type && strcmp(type, "failed") == 0) {
		start_refused(run, answer);
	} else {
		error_set(&run->failure, ERR_CORRUPT,
			  "the worker answered what nobody understands");
		spawn_kill(&run->process);
		close_job(run);
	}
	json_decref(answer);
}

static int send_job(struct run *run, struct files *files, struct error *err)
{
	unsigned sent = 0;
	int r = 0;

	while (r == 0) {
		unsigned count = MIN(files->count - sent, (unsigned)IPC_MAX_FDS);
		bool more = sent + count < files->count;
		json_t *list = json_array(), *msg;

		for (unsigned i = 0; i < count; i++)
			json_array_append(list, json_array_get(files->descriptions, sent + i));
		msg = json_pack("{s:s, s:b, s:o}", "type", "start", "more", more, "descriptors",
				list);
		if (sent == 0)
			json_object_set_new(msg, "vm", config_vm_to_json(run->vm->config));
		r = ipc_send(run->job_fd, msg, files->fds + sent, count, err);
		json_decref(msg);
		sent += count;
		if (!more)
			break;
	}
	return r < 0 ? error_prefix(err, "giving the worker its job") : 0;
}

static int add_sockets(struct run *run, struct files *files, struct error *err)
{
	AUTO_FREE char *control = runtime_path(run->vm, "control");
	AUTO_FREE char *console = runtime_path(run->vm, "console1");
	AUTO_FREE char *second = runtime_path(run->vm, "console2");
	int fd = sockets_listen(control, SOCK_SEQPACKET, err);

	if (fd < 0)
		return fd;
	files_add(files, "control", NULL, -1, fd);
	fd = sockets_listen(console, SOCK_STREAM, err);
	if (fd < 0)
		return fd;
	files_add(files, "console", "port", 1, fd);
	fd = sockets_listen(second, SOCK_STREAM, err);
	if (fd < 0)
		return fd;
	files_add(files, "console", "port", 2, fd);
	/* Before there is a worker: nothing that it says can be missed. */
	fd = connect_control(run, err);
	if (fd < 0)
		return fd;
	if (!run->vm->console_wanted)
		return 0;
	/* Likewise for what the guest writes. */
	run->vm->early_console = sockets_connect(console, SOCK_STREAM, err);
	return run->vm->early_console < 0 ? run->vm->early_console : 0;
}

static void add_ports(struct run *run, struct files *files)
{
	for (unsigned i = 0; i < run->vm->config->nic_count; i++)
		if (run->port_fds[i] >= 0)
			files_add(files, "switch", "index", (int)i, TAKE_FD(run->port_fds[i]));
}

/* Written before the job is sent: a worker without a job ends with the daemon, one with a job is
 * found again. */
static int write_run_file(struct run *run, struct error *err)
{
	AUTO_CLOSE int fd = open(run->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	json_t *json = json_pack("{s:i, s:I}", "pid", (int)run->process.pid, "start_ticks",
				 (json_int_t)run->process.start_ticks);
	int r = fd < 0 ? error_set_errno(err, errno, "opening '%.200s'", run->folder)
		       : config_save_json(fd, "run.json", json, err);

	json_decref(json);
	return r;
}

static int make_runtime_folder(struct run *run, struct error *err)
{
	AUTO_FREE char *parent = NULL;
	int r;

	if (asprintf(&parent, "%s/vm", run->vm->daemon->paths.runtime) < 0)
		abort();
	r = config_make_private_folder(parent, err);
	if (r < 0)
		return r;
	com_ports_withdraw(run->vm);
	remove_runtime_folder(run->folder);
	return config_make_private_folder(run->folder, err);
}

static int start_process(struct run *run, int lock_fd, struct error *err)
{
	struct daemon *daemon = run->vm->daemon;
	AUTO_FREE char *log_file = runtime_path(run->vm, "worker.log");
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set_errno(err, errno, "making the job socket");
	run->job_fd = pair[0];
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	r = spawn(daemon->worker_program, pair[1], lock_fd, log_file, &run->process, err);
	close(pair[1]);
	if (r < 0)
		return r;
	return loop_fd_add(daemon->loop, run->process.pidfd, EPOLLIN, process_ended, run,
			   &run->process_watch, err);
}

static int launch(struct run *run, struct error *err)
{
	struct files files;
	int r = files_open(run->vm, run->parents, &files, err);

	if (r < 0)
		return r;
	r = make_runtime_folder(run, err);
	if (r == 0)
		r = add_sockets(run, &files, err);
	if (r == 0)
		r = com_ports_serve(run->vm, err);
	if (r == 0) {
		add_ports(run, &files);
		r = start_process(run, files.lock_fd, err);
	}
	if (r == 0)
		r = write_run_file(run, err);
	if (r == 0)
		run_limit(run->vm);
	if (r == 0)
		r = send_job(run, &files, err);
	if (r == 0)
		r = loop_fd_add(run->vm->daemon->loop, run->job_fd, EPOLLIN, job_ready, run,
				&run->job_watch, err);
	files_done(&files);
	if (r == 0)
		arm_timer(run, START_TIMEOUT_NS);
	return r;
}

/* All ports and parents are there, or one is not to be had. */
static void all_ready(struct run *run)
{
	struct error err = run->failure;

	if (!err.code && launch(run, &err) == 0)
		return;
	if (run->process_watch) {
		/* The process is there already: its end finishes the start. */
		run->failure = err;
		spawn_kill(&run->process);
		return;
	}
	fail_start(run, &err);
}

struct port_wait {
	struct run *run;
	unsigned index;
};

static void port_done(void *user, int fd, const struct error *err)
{
	struct port_wait *wait = user;
	struct run *run = wait->run;

	run->port_fds[wait->index] = fd;
	free(wait);
	if (err && !run->failure.code) {
		run->failure = *err;
		error_prefix(&run->failure, "connecting the network adapter");
	}
	if (--run->waiting == 0)
		all_ready(run);
}

struct parents_wait {
	struct run *run;
	struct disk_job *job;
	unsigned index;
};

static void parents_done(void *user, const json_t *result, struct process *process,
			 const struct error *err)
{
	struct parents_wait *wait = user;
	struct run *run = wait->run;
	char key[16];

	snprintf(key, sizeof(key), "%u", wait->index);
	if (!err) {
		json_object_set(run->parents, key, json_object_get(result, "parents"));
	} else if (!run->failure.code) {
		run->failure = *err;
		error_prefix(&run->failure, "disk '%.200s'",
			     run->vm->config->disks[wait->index].path);
	}
	free(wait);
	if (--run->waiting == 0)
		all_ready(run);
}

/* The daemon reads no image itself. */
static void find_parents(struct run *run, unsigned index)
{
	static const struct disk_job_events events = { NULL, parents_done };
	struct parents_wait *wait = malloc(sizeof(*wait));
	json_t *request =
	    json_pack("{s:s, s:s}", "op", "parents", "path", run->vm->config->disks[index].path);

	if (!wait || !request)
		abort();
	*wait = (struct parents_wait){ .run = run, .index = index };
	run->waiting++;
	if (disk_job_start(run->vm->daemon, request, NULL, 0, 0, &events, wait, &wait->job,
			   &run->failure) < 0) {
		run->waiting--;
		free(wait);
	}
}

static void prepare(struct run *run)
{
	const struct config_vm *config = run->vm->config;

	/* One more than there are, so that the last one's callback does not come too early. */
	run->waiting = 1;
	for (unsigned i = 0; i < config->nic_count; i++) {
		struct port_wait *wait;

		if (!config->nics[i].switch_name)
			continue;
		wait = malloc(sizeof(*wait));
		if (!wait)
			abort();
		*wait = (struct port_wait){ run, i };
		run->waiting++;
		switches_add_port(run->vm->daemon->switches, &config->nics[i], port_done, wait);
	}
	for (unsigned i = 0; i < config->disk_count && !run->failure.code; i++)
		if (files_may_have_parent(&config->disks[i]))
			find_parents(run, i);
	if (--run->waiting == 0)
		all_ready(run);
}

/* A start does not fail for it. */
static void automatic_taken(void *user, struct vm *vm, const char *id, const struct error *err)
{
	if (err)
		log_error("virtual machine '%s': its automatic checkpoint: %s", vm->config->name,
			  err->text);
	prepare(user);
}

static void begin(void *user);

static void idle(void *user, struct vm *vm, const struct error *err)
{
	begin(user);
}

static void begin(void *user)
{
	struct run *run = user;

	if (run->vm->folding) {
		vm_wait(run->vm, VM_WAIT_IDLE, idle, run, run);
		fold_stop(run->vm);
		return;
	}
	if (!checkpoint_take_automatic(run->vm, automatic_taken, run))
		prepare(run);
}

int run_start(struct vm *vm, struct error *err)
{
	struct run *run;

	if (!vm_is_down(vm))
		return error_set(err, ERR_STATE, "it is not off (its state is %s)",
				 vm_state_name(vm->state));
	if (balancer_admit(vm->daemon->balancer, vm->config->memory_bytes, err) < 0 ||
	    run_admit_reserve(vm, vm->config, err) < 0)
		return -(int)err->code;
	/* A merge is ended for it, and goes on behind the guest. */
	if (!fold_holds(vm) && (vm_check_busy(vm, err) < 0 || checkpoints_clean_up(vm, err) < 0 ||
				fold_settle(vm, err) < 0))
		return -(int)err->code;
	if (vm->early_console >= 0)
		close(vm->early_console);
	vm->early_console = -1;
	run = run_new(vm);
	run->starting = true;
	metering_run_begins(vm);
	run_set_state(vm, VM_STARTING);
	/* From the loop, so that the caller can begin to wait. */
	loop_post(vm->daemon->loop, begin, run);
	return 0;
}

/* ---- ports of a switch that has died ---- */

static bool has_port(const struct vm *vm)
{
	for (unsigned i = 0; i < vm->config->nic_count; i++)
		if (vm->config->nics[i].switch_name)
			return true;
	return false;
}

bool run_ports_lost(struct daemon *daemon)
{
	bool any = false;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct run *run = daemon->vms[i]->run;

		if (!run || !has_port(run->vm))
			continue;
		run->ports_lost = any = true;
	}
	return any;
}

struct port_restore {
	struct vm *vm;
	struct guid nic;
};

static void port_plugged(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;

	if (err)
		log_error("virtual machine '%s': connecting it to its switch again: %s",
			  vm->config->name, err->text);
	vm_unref(vm);
}

static void port_restored(void *user, int fd, const struct error *err)
{
	struct port_restore *restore = user;
	char id[GUID_TEXT_SIZE];

	if (err)
		port_plugged(restore->vm, NULL, err);
	else
		run_request_fd(restore->vm,
			       json_pack("{s:s, s:s}", "op", "plug-adapter", "adapter",
					 guid_format(&restore->nic, id)),
			       fd, REQUEST_TIMEOUT_NS, port_plugged, restore->vm);
	if (fd >= 0)
		close(fd);
	free(restore);
}

static void restore_ports(struct run *run)
{
	const struct config_vm *config = run->vm->config;

	for (unsigned i = 0; i < config->nic_count; i++) {
		struct port_restore *restore;

		if (!config->nics[i].switch_name)
			continue;
		restore = malloc(sizeof(*restore));
		if (!restore)
			abort();
		*restore = (struct port_restore){ vm_ref(run->vm), config->nics[i].id };
		switches_add_port(run->vm->daemon->switches, &config->nics[i], port_restored,
				  restore);
	}
}

bool run_restore_ports(struct daemon *daemon)
{
	bool some_wait = false;

	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct run *run = daemon->vms[i]->run;

		if (!run || !run->ports_lost)
			continue;
		if (run->starting) {
			some_wait = true;
			continue;
		}
		run->ports_lost = false;
		restore_ports(run);
	}
	return some_wait;
}

/* ---- workers of an earlier daemon ---- */

static int read_run_file(const struct vm *vm, struct process *ret, struct error *err)
{
	AUTO_FREE char *path = runtime_path(vm, NULL);
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
	if (loop_fd_add(vm->daemon->loop, process->pidfd, EPOLLIN, process_ended, run,
			&run->process_watch, &err) < 0 ||
	    connect_control(run, &err) < 0) {
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
	vm_event(vm, EVENT_VM_ADOPTED, NULL, "'%s' was found running, as process %d.",
		 vm->config->name, (int)process->pid);
	run_refresh(vm_ref(vm), adopt_status, NULL);
}

static void clean_up_after(struct vm *vm)
{
	AUTO_FREE char *path = runtime_path(vm, NULL);
	const char *text = "The worker ended while the management service was not running.";
	struct error err;

	saved_clean_up(vm);
	if (checkpoints_clean_up(vm, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
	vm->state = vm->config->saved_state ? VM_SAVED : VM_OFF;
	if (access(path, F_OK) < 0)
		return;
	com_ports_withdraw(vm);
	if (vm->state == VM_SAVED) {
		remove_runtime_folder(path);
		return;
	}
	vm_note_stop(vm, "worker-error", text, NULL);
	vm_event(vm, EVENT_VM_WORKER_FAILED, NULL, "'%s' is off. %s", vm->config->name, text);
	remove_runtime_folder(path);
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
	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct process process;
		struct error err;

		if (read_run_file(daemon->vms[i], &process, &err) == 0)
			adopt(daemon->vms[i], &process);
		else
			clean_up_after(daemon->vms[i]);
	}
	if (!switches_running(daemon->switches) && run_ports_lost(daemon))
		switches_restore_ports(daemon->switches);
	loop_post(daemon->loop, tidy, daemon);
}

void run_detach(struct vm *vm)
{
	if (vm->run)
		run_free(vm->run);
}

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
	arm_timer(run, END_TIMEOUT_NS);
	if (!run->peer) {
		snprintf(run->off_reason, sizeof(run->off_reason), "turned-off");
		spawn_kill(&run->process);
		return;
	}
	run_request(vm, json_pack("{s:s}", "op", "turn-off"), REQUEST_TIMEOUT_NS, turn_off_answered,
		    vm_ref(vm));
}

/* ---- save ---- */

static void save_begun(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;

	/* ERR_CANCELLED: it ended; that tells whoever waits. */
	if (err && err->code != ERR_CANCELLED && vm->run && vm->run->saving_id[0])
		end_of_save(vm->run, err);
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
	begin_save(vm, json_pack("{s:s, s:b}", "op", "save", "stop", 1), &fd, 1, REQUEST_TIMEOUT_NS,
		   save_begun);
	close(fd);
}

static void checkpoint_answered(void *user, const json_t *reply, const struct error *err)
{
	struct vm *vm = user;
	struct run *run = vm->run;

	/* As above; without memory that was all. */
	if (run && run->saving_id[0] && !run->saving_stops &&
	    (!err || err->code != ERR_CANCELLED) && (err || !run->saving_memory))
		end_of_save(run, err);
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

static uint64_t vp_runtime_ns(const json_t *status)
{
	const json_t *list = json_object_get(status, "vp_runtime_ns");
	uint64_t sum = 0;

	for (size_t i = 0; i < json_array_size(list); i++)
		sum += (uint64_t)json_integer_value(json_array_get(list, i));
	return sum;
}

/* The share of its processors that the VM used since the last sample. */
static void sample_cpu(struct run *run)
{
	uint64_t now = clock_now_ns(), vp_ns = vp_runtime_ns(run->status);
	uint64_t passed = now - run->sampled_ns;

	if (run->sampled_ns && passed < 200 * NS_PER_MSEC)
		return;
	if (run->sampled_ns && vp_ns >= run->sampled_vp_ns) {
		uint64_t possible = passed * run->vm->config->processor_count;

		run->cpu_usage_percent =
		    (unsigned)MIN((vp_ns - run->sampled_vp_ns) * 100 / possible, 100u);
	}
	run->sampled_ns = now;
	run->sampled_vp_ns = vp_ns;
}

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
		take_json(&run->status, reply);
		if (json_is_array(json_object_get(reply, "integration")))
			take_json(&run->services, json_object_get(reply, "integration"));
		if (json_is_object(json_object_get(reply, "memory")))
			take_json(&run->memory, json_object_get(reply, "memory"));
		if (json_is_object(json_object_get(reply, "kvp")))
			take_json(&run->kvp, json_object_get(reply, "kvp"));
		take_text(run->heartbeat, sizeof(run->heartbeat),
			  json_object_get(reply, "heartbeat"));
		sample_cpu(run);
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
