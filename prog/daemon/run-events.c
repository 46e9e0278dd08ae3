#include "run-private.h"

#include "balancer.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
#include "checkpoints.h"
#include "cmdlets.h"
#include "guest-sockets.h"
#include "saved.h"
#include "sockets.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

static void take_json(json_t **where, const json_t *value)
{
	if (!value)
		return;
	json_decref(*where);
	*where = json_incref((json_t *)value);
}

static void take_text(char *ret, size_t size, const json_t *value)
{
	if (!json_is_string(value))
		return;
	snprintf(ret, size, "%s", json_string_value(value));
	text_mend(ret);
}

void run_end_of_save(struct run *run, const struct error *err)
{
	struct vm *vm = run->vm;
	struct error why;

	if (!run->saving_stops) {
		if (run_settle(run, &why) == 0)
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
	run_end_of_save(run, &err);
}

/* The first that it says to a new service. It may be at what an earlier one began, or have done it
 * already. */
static void take_over(struct run *run, bool saving)
{
	struct vm *vm = run->vm;
	bool under_way = checkpoints_under_way(vm, run->saving_id);
	struct error err;

	run->adopting = false;
	vm->busy = NULL;
	if (under_way)
		run_request(vm, json_pack("{s:s}", "op", "vss-thaw"), RUN_REQUEST_TIMEOUT_NS, NULL,
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
	text_mend(run->critical_text);
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

/* ---- events ---- */

static struct config_disk *disk_of_event(struct config_vm *config, const json_t *event)
{
	const char *id = json_string_value(json_object_get(event, "controller"));
	json_int_t location = json_integer_value(json_object_get(event, "location"));
	char its_id[GUID_TEXT_SIZE];

	for (unsigned i = 0; id && i < config->scsi_count; i++)
		if (strcasecmp(guid_format(&config->scsi_ids[i], its_id), id) == 0)
			return config_find_disk(config, CONFIG_BUS_SCSI, i, (unsigned)location);
	return NULL;
}

static void on_disk_slow(struct run *run, const json_t *event)
{
	const struct config_disk *disk = disk_of_event(run->vm->config, event);
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
		run_end_of_save(run, NULL);
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
		run_end_of_save(run, &err);
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
	struct config_vm *copy = vm_config_copy(run->vm, NULL);
	struct config_disk *disk = copy ? disk_of_event(copy, event) : NULL;
	struct error err;

	if (!disk || disk->kind != CONFIG_DISK_DVD || !disk->path) {
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
	run_arm_timer(run, RUN_END_TIMEOUT_NS);
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

void run_take_status(struct run *run, const json_t *status)
{
	const json_t *services = json_object_get(status, "integration");
	const json_t *memory = json_object_get(status, "memory");
	const json_t *kvp = json_object_get(status, "kvp");

	take_json(&run->status, status);
	if (json_is_array(services))
		take_json(&run->services, services);
	if (json_is_object(memory))
		take_json(&run->memory, memory);
	if (json_is_object(kvp))
		take_json(&run->kvp, kvp);
	take_text(run->heartbeat, sizeof(run->heartbeat), json_object_get(status, "heartbeat"));
	sample_cpu(run);
}

/* ---- the connection ---- */

/* The worker cuts off whoever is too far behind; while it lives we come back. */
static void reconnect(void *user)
{
	struct vm *vm = user;

	if (vm->run && !vm->run->peer && !vm->run->starting && run_connect(vm->run, NULL) == 0) {
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

int run_connect(struct run *run, struct error *err)
{
	AUTO_FREE char *path = run_path(run->vm, "control");
	int fd = sockets_connect(path, SOCK_SEQPACKET, err);

	if (fd < 0)
		return fd;
	return peer_new(run->vm->daemon->loop, fd, &control_events, run, &run->peer, err);
}
