/* Cmdlets about whole virtual machines. */
#include "cmdlets.h"

#include "base/clock.h"
#include "base/macros.h"
#include "base/text.h"
#include "checkpoints.h"
#include "objects.h"
#include "run.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SHUTDOWN_SECONDS   300
#define REQUEST_TIMEOUT_NS (10 * NS_PER_SEC)

static void show_vm(struct request *request, struct vm *vm)
{
	request_result(request, object_vm(vm));
}

/* ---- New-VM ---- */

static int take_settings(struct request *request, struct config_vm *config, struct error *err)
{
	const char *backend = request_string(request, "Backend");
	const char *start = request_string(request, "AutomaticStartAction");
	const char *stop = request_string(request, "AutomaticStopAction");
	const char *recovery = request_string(request, "AutomaticRecoveryAction");
	const char *critical = request_string(request, "AutomaticCriticalErrorAction");
	const char *const names[] = { "LinuxKernelPath", "LinuxInitrdPath", "LinuxCommandLine",
				      "Notes" };
	char **const fields[] = { &config->kernel_path, &config->initrd_path,
				  &config->kernel_cmdline, &config->notes };
	int r;

	if (backend)
		config_backend_from_name(backend, &config->backend);
	if (start)
		config_start_action_from_name(start, &config->start_action);
	if (stop)
		config_stop_action_from_name(stop, &config->stop_action);
	if (recovery)
		config_recovery_action_from_name(recovery, &config->recovery_action);
	if (critical)
		config_critical_action_from_name(critical, &config->critical_action);
	config->critical_minutes = (unsigned)request_integer(
	    request, "AutomaticCriticalErrorActionTimeout", config->critical_minutes);
	config->start_delay_seconds =
	    (unsigned)request_integer(request, "AutomaticStartDelay", config->start_delay_seconds);
	config->processor_count =
	    (unsigned)request_integer(request, "ProcessorCount", config->processor_count);
	config->code_cache_bytes =
	    (uint64_t)request_integer(request, "CodeCacheBytes", (int64_t)config->code_cache_bytes);
	r = cmdlets_take_memory(request, config, err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(names); i++) {
		const char *value = request_string(request, names[i]);

		if (value)
			r = config_set_string(fields[i], value[0] ? value : NULL, err);
	}
	return r;
}

/* disk_path NULL: no disk. */
static int describe_new(struct request *request, struct config_vm *config, const char *disk_path,
			struct error *err)
{
	struct config_disk disk = { .path = (char *)disk_path };
	int r;

	if (request_integer(request, "Generation", 2) != 2)
		return error_set(err, ERR_UNSUPPORTED,
				 "generation 1 is not there yet; use -Generation 2");
	if (vm_find(request->daemon, config->name))
		return error_set(err, ERR_EXISTS,
				 "there is a virtual machine of this name already");
	r = cmdlets_check_version(request, err);
	if (r == 0)
		r = take_settings(request, config, err);
	if (r == 0)
		r = cmdlets_add_nic(request->daemon, config, "Network Adapter",
				    request_string(request, "SwitchName"), NULL, err);
	if (r == 0 && disk.path)
		r = cmdlets_add_disk_file(config, &disk, false, err);
	if (r == 0)
		r = cmdlets_take_boot_device(request, config, err);
	if (r == 0)
		r = config_vm_check(config, err);
	return r;
}

static int store_new(struct request *request, struct config_vm *config, struct vm **ret,
		     struct error *err)
{
	const char *path = request_string(request, "Path");
	AUTO_FREE char *folder = NULL;

	if (!path || !path[0])
		path = request->daemon->vm_path;
	if (path) {
		if (strchr(config->name, '/') || config->name[0] == '.') {
			config_vm_free(config);
			return error_set(err, ERR_INVALID, "a name with '/' can't name a folder");
		}
		if (asprintf(&folder, "%s/%s", path, config->name) < 0)
			abort();
	}
	return vm_create(request->daemon, config, folder, ret, err);
}

static int make_vm(struct request *request, const char *disk_path, json_t **ret, struct error *err)
{
	struct config_vm *config = config_vm_new(request_string(request, "Name"));
	struct vm *vm;
	int r;

	if (!config)
		abort();
	r = describe_new(request, config, disk_path, err);
	if (r < 0)
		config_vm_free(config);
	else
		r = store_new(request, config, &vm, err);
	if (r < 0)
		return r;
	vm_event(vm, EVENT_VM_CREATED, NULL, "'%s' was created.", vm->config->name);
	*ret = object_vm(vm);
	return 0;
}

/* The disk is there. Without the virtual machine it would be a file that nobody asked for. */
static int end_new_disk(struct disk_task *task, const json_t *result, struct process *process,
			json_t **ret, struct error *err)
{
	int r = make_vm(task->request, task->path, ret, err);

	if (r < 0)
		unlink(task->path);
	return r;
}

/* Would the virtual machine be refused? Then no disk is made. */
static int check_new(struct request *request, struct error *err)
{
	struct config_vm *config = config_vm_new(request_string(request, "Name"));
	int r;

	if (!config)
		abort();
	r = describe_new(request, config, NULL, err);
	config_vm_free(config);
	return r;
}

void cmdlet_new_vm(struct request *request)
{
	static const struct disk_task_ops disk_ops = {
		.activity = "making the disk",
		.begin = cmdlets_begin_new_disk,
		.end = end_new_disk,
	};
	const char *new_disk = request_string(request, "NewVHDPath");
	json_t *object = NULL;
	struct error err;
	int r;

	r = new_disk ? check_new(request, &err)
		     : make_vm(request, request_string(request, "VHDPath"), &object, &err);
	if (r < 0)
		request_error(request, request_string(request, "Name"), &err);
	else if (new_disk)
		disk_task_run(request, json_pack("[s]", new_disk), &disk_ops);
	else
		request_result(request, object);
}

/* ---- Get-VM ---- */

void cmdlet_get_vm(struct request *request)
{
	const char *id = request_string(request, "Id");
	struct error err;
	struct vm *vm;

	if (!id) {
		cmdlets_show_fresh(request, "Name", show_vm);
		return;
	}
	vm = vm_find_id(request->daemon, id);
	if (!vm || !request_may_see(request->visitor, vm)) {
		error_set(&err, ERR_NOT_FOUND, "there is no virtual machine with this identifier");
		request_error(request, id, &err);
		return;
	}
	json_object_set_new(request->params, "Name", json_pack("[s]", vm->config->name));
	cmdlets_show_fresh(request, "Name", show_vm);
}

/* ---- Set-VM, Rename-VM ---- */

static int rename_to(struct request *request, struct config_vm *config, const char *name,
		     struct error *err)
{
	struct vm *other = vm_find(request->daemon, name);

	if (other && !guid_equal(&other->config->id, &config->id))
		return error_set(err, ERR_EXISTS, "there is a virtual machine '%.100s' already",
				 name);
	return config_set_string(&config->name, name, err);
}

static int check_folder(const struct request *request, const char *path, struct error *err)
{
	struct stat st;

	if (!path[0] || request_switch(request, "AllowUnverifiedPaths") ||
	    (stat(path, &st) == 0 && S_ISDIR(st.st_mode)))
		return 0;
	return error_set(err, ERR_NOT_FOUND, "there is no folder '%.200s'", path);
}

/* As with Import-VM -SnapshotFilePath, below it each VM has a folder of its own. */
static int take_checkpoint_folder(struct request *request, struct config_vm *config,
				  const char *path, struct error *err)
{
	char id[GUID_TEXT_SIZE];
	AUTO_FREE char *all = text_format("%s/Snapshots", path);
	AUTO_FREE char *own = text_format("%s/%s", all, guid_format(&config->id, id));
	struct vm *vm = vm_find_id(request->daemon, id);
	struct checkpoints there;
	size_t count;
	int r = check_folder(request, path, err);

	if (r < 0)
		return r;
	count = checkpoints_load(vm, &there) + there.count;
	checkpoints_done(&there);
	if (count)
		return error_set(err, ERR_STATE,
				 "-SnapshotFileLocation can't be changed while it has checkpoints");
	if (path[0] && mkdir(all, 0755) < 0 && errno != EEXIST)
		return error_set_errno(err, errno, "making the folder '%.200s'", all);
	return config_set_string(&config->checkpoint_folder, path[0] ? own : NULL, err);
}

static int take_folders(struct request *request, struct config_vm *config, struct error *err)
{
	const char *checkpoints = request_string(request, "SnapshotFileLocation");
	const char *paging = request_string(request, "SmartPagingFilePath");
	int r = 0;

	if (paging)
		r = check_folder(request, paging, err);
	if (r == 0 && paging)
		r = config_set_string(&config->smart_paging_folder, paging[0] ? paging : NULL, err);
	if (r == 0 && checkpoints)
		r = take_checkpoint_folder(request, config, checkpoints, err);
	return r;
}

static int mutate_set(struct request *request, struct config_vm *config, struct error *err)
{
	const char *name = request_string(request, "NewVMName");
	const char *type = request_string(request, "CheckpointType");
	const char *session = request_string(request, "EnhancedSessionTransportType");
	int r = take_settings(request, config, err);

	const json_t *automatic = json_object_get(request->params, "AutomaticCheckpointsEnabled");

	if (type)
		config_checkpoint_type_from_name(type, &config->checkpoint_type);
	if (automatic)
		config->automatic_checkpoints = json_is_true(automatic);
	if (session)
		config_session_from_name(session, &config->session);
	if (r == 0)
		r = take_folders(request, config, err);
	if (r == 0 && name)
		r = rename_to(request, config, name, err);
	return r;
}

static void set_vm(struct request *request, struct vm *vm)
{
	bool needs_off = json_object_get(request->params, "ProcessorCount");

	/* While it runs, memory has rules of its own. */
	if (vm->run && !cmdlets_change_memory(request, vm))
		return;
	if (!cmdlets_change(request, vm, needs_off, mutate_set))
		return;
	if (vm->run && json_object_get(request->params, "AutomaticCriticalErrorAction"))
		run_request(vm,
			    json_pack("{s:s, s:b}", "op", "set-critical", "pause",
				      vm->config->critical_action == CONFIG_CRITICAL_PAUSE),
			    REQUEST_TIMEOUT_NS, NULL, NULL);
	if (json_object_get(request->params, "AutomaticCriticalErrorActionTimeout"))
		run_arm_critical(vm);
	vm_event(vm, EVENT_VM_CHANGED, NULL, "The settings of '%s' were changed.",
		 vm->config->name);
	show_vm(request, vm);
}

void cmdlet_set_vm(struct request *request)
{
	request_for_vms(request, "Name", set_vm);
}

static int mutate_rename(struct request *request, struct config_vm *config, struct error *err)
{
	return rename_to(request, config, request_string(request, "NewName"), err);
}

static void rename_vm(struct request *request, struct vm *vm)
{
	AUTO_FREE char *old = strdup(vm->config->name);

	if (!cmdlets_change(request, vm, false, mutate_rename))
		return;
	vm_event(vm, EVENT_VM_CHANGED, NULL, "'%s' was renamed to '%s'.", old ? old : "",
		 vm->config->name);
	show_vm(request, vm);
}

void cmdlet_rename_vm(struct request *request)
{
	request_for_vms(request, "Name", rename_vm);
}

/* ---- Remove-VM ---- */

static void remove_vm(struct request *request, struct vm *vm)
{
	json_t *object = object_vm(vm);
	struct error err;

	if (vm_remove(vm, &err) < 0) {
		json_decref(object);
		request_error(request, vm->config->name, &err);
		return;
	}
	vm_event(vm, EVENT_VM_REMOVED, NULL, "'%s' was removed.", vm->config->name);
	request_result(request, object);
}

void cmdlet_remove_vm(struct request *request)
{
	request_for_vms(request, "Name", remove_vm);
}

/* ---- waiting for one VM after the other's fashion ---- */

/* The end of a wait: its result or error, and the request is let go. */
static void wait_done(void *user, struct vm *vm, const struct error *err)
{
	struct request *request = user;

	if (err)
		request_error(request, vm->config->name, err);
	else
		show_vm(request, vm);
	request_release(request);
}

/* Refused in any other state than these two. */
static bool check_state(struct request *request, struct vm *vm, enum vm_state one,
			enum vm_state other)
{
	struct error err;

	if (vm->state == one || vm->state == other)
		return true;
	error_set(&err, ERR_STATE, "this is not possible in its present state (%s)",
		  vm_state_name(vm->state));
	request_error(request, vm->config->name, &err);
	return false;
}

/* ---- Start-VM ---- */

static void start_vm(struct request *request, struct vm *vm)
{
	struct error err;

	if (vm->state == VM_RUNNING) {
		show_vm(request, vm); /* as Hyper-V: no error */
		return;
	}
	vm->console_wanted = request_switch(request, "Console");
	if (vm->state != VM_STARTING && run_start(vm, &err) < 0) {
		request_error(request, vm->config->name, &err);
		return;
	}
	request_hold(request);
	request_progress(request, vm->config->name, "starting");
	vm_wait(vm, VM_WAIT_STARTED, wait_done, request, request);
}

void cmdlet_start_vm(struct request *request)
{
	request_for_vms(request, "Name", start_vm);
}

/* ---- Stop-VM ---- */

/* One guest that is shutting down. Ends in stop_end, by the VM's end or by a cancelled wait. */
struct stop {
	struct request *request;
	struct vm *vm;
	struct loop_timer *timer;
	unsigned seconds;
	bool force;
	bool answered, ended; /* freed when both are true */
};

static void stop_free(struct stop *stop)
{
	if (!stop->answered || !stop->ended)
		return;
	vm_unref(stop->vm);
	free(stop);
}

static void stop_end(void *user, struct vm *vm, const struct error *err)
{
	struct stop *stop = user;

	loop_timer_free(stop->timer);
	stop->timer = NULL;
	stop->ended = true;
	wait_done(stop->request, vm, err);
	stop_free(stop);
}

/* It goes on: the state says so again. */
static void back_to_running(struct vm *vm)
{
	if (vm->state != VM_STOPPING || !vm->run)
		return;
	vm->run->shutdown_asked = false;
	run_set_state(vm, VM_RUNNING);
}

static void stop_timed_out(struct stop *stop)
{
	struct vm *vm = stop->vm;
	struct error err;

	if (stop->force) {
		request_progress(stop->request, vm->config->name,
				 "the guest is not off after %d minutes: turning it off",
				 SHUTDOWN_SECONDS / 60);
		stop->force = false;
		run_turn_off(vm);
		return;
	}
	back_to_running(vm);
	error_set(
	    &err, ERR_TIMEOUT,
	    "the guest did not shut down within %d minutes; -TurnOff turns it off, -Force does "
	    "so after waiting",
	    SHUTDOWN_SECONDS / 60);
	vm_cancel_waits(vm->daemon, stop, &err);
}

static void stop_refused(struct stop *stop, const struct error *err)
{
	struct error failure = *err;

	if (stop->force) {
		stop->force = false;
		run_turn_off(stop->vm);
		return;
	}
	back_to_running(stop->vm);
	error_prefix(&failure, "the guest can't be shut down (-TurnOff turns it off)");
	vm_cancel_waits(stop->vm->daemon, stop, &failure);
}

static void stop_tick(void *user)
{
	struct stop *stop = user;
	struct run *run = stop->vm->run;

	loop_timer_arm(stop->timer, clock_now_ns() + NS_PER_SEC);
	if (run && run->shutdown_asked && run->shutdown_failure.code) {
		run->shutdown_asked = false;
		stop_refused(stop, &run->shutdown_failure);
	} else if (++stop->seconds == SHUTDOWN_SECONDS) {
		stop_timed_out(stop);
	} else {
		request_progress(stop->request, stop->vm->config->name,
				 "waiting for the guest to shut down, %u s", stop->seconds);
	}
}

static void stop_answered(void *user, const json_t *reply, const struct error *err)
{
	struct stop *stop = user;

	/* ERR_CANCELLED: the worker has ended meanwhile, and that is what is waited for. */
	if (err && err->code != ERR_CANCELLED && !stop->ended)
		stop_refused(stop, err);
	stop->answered = true;
	stop_free(stop);
}

static void shut_down(struct request *request, struct vm *vm)
{
	struct stop *stop = calloc(1, sizeof(*stop));

	if (!stop)
		abort();
	*stop = (struct stop){ .request = request,
			       .vm = vm_ref(vm),
			       .force = request_switch(request, "Force") || vm->host_stops };
	if (loop_timer_new(vm->daemon->loop, stop_tick, stop, &stop->timer, NULL) < 0)
		abort();
	loop_timer_arm(stop->timer, clock_now_ns() + NS_PER_SEC);
	request_hold(request);
	request_progress(request, vm->config->name, "waiting for the guest to shut down");
	vm->run->shutdown_asked = true;
	vm->run->shutdown_failure.code = ERR_OK;
	run_set_state(vm, VM_STOPPING);
	vm_wait(vm, VM_WAIT_OFF, stop_end, stop, request);
	run_request(vm, json_pack("{s:s, s:b}", "op", "shutdown", "force", stop->force),
		    REQUEST_TIMEOUT_NS, stop_answered, stop);
}

static void stop_vm(struct request *request, struct vm *vm)
{
	struct error err;

	if (vm->state == VM_OFF) {
		show_vm(request, vm);
		return;
	}
	vm->host_stops = request_switch(request, "HostStops");
	if (request_switch(request, "Save")) {
		cmdlets_save_vm(request, vm);
		return;
	}
	if (vm->state == VM_SAVED) {
		if (vm->host_stops)
			show_vm(request, vm); /* nothing of it runs */
		else
			check_state(request, vm, VM_RUNNING, VM_PAUSED);
		return;
	}
	if (vm->host_stops && vm->config->stop_action == CONFIG_STOP_SAVE &&
	    (vm->state == VM_RUNNING || vm->state == VM_PAUSED)) {
		cmdlets_save_vm(request, vm);
		return;
	}
	if (request_switch(request, "TurnOff") ||
	    (vm->host_stops && vm->config->stop_action == CONFIG_STOP_TURN_OFF)) {
		request_hold(request);
		vm_wait(vm, VM_WAIT_OFF, wait_done, request, request);
		run_turn_off(vm);
		return;
	}
	if (vm->state == VM_RUNNING || vm->state == VM_STOPPING) {
		shut_down(request, vm);
		return;
	}
	error_set(&err, ERR_STATE,
		  "a guest can be shut down only while it is running (its state is %s)",
		  vm_state_name(vm->state));
	request_error(request, vm->config->name, &err);
}

void cmdlet_stop_vm(struct request *request)
{
	request_for_vms(request, "Name", stop_vm);
}

/* ---- plain requests to the worker: pause, resume, NMI, reset, reboot ---- */

struct ask {
	struct request *request;
	struct vm *vm;
	void (*then)(struct ask *ask); /* after an answer without error; frees ask */
	/* Restart-VM -Wait */
	struct loop_timer *timer;
	unsigned resets;
};

static void ask_free(struct ask *ask)
{
	loop_timer_free(ask->timer);
	vm_unref(ask->vm);
	free(ask);
}

static void ask_show(struct ask *ask)
{
	wait_done(ask->request, ask->vm, NULL);
	ask_free(ask);
}

static void ask_answered(void *user, const json_t *reply, const struct error *err)
{
	struct ask *ask = user;

	if (err) {
		wait_done(ask->request, ask->vm, err);
		ask_free(ask);
		return;
	}
	ask->then(ask);
}

/* Takes message. */
static void ask_worker(struct request *request, struct vm *vm, json_t *message,
		       void (*then)(struct ask *ask))
{
	struct ask *ask = calloc(1, sizeof(*ask));

	if (!ask)
		abort();
	*ask = (struct ask){
		.request = request, .vm = vm_ref(vm), .then = then, .resets = vm->run->resets
	};
	request_hold(request);
	run_request(vm, message, REQUEST_TIMEOUT_NS, ask_answered, ask);
}

static void paused(struct ask *ask)
{
	if (ask->vm->state == VM_RUNNING)
		run_set_state(ask->vm, VM_PAUSED);
	vm_event(ask->vm, EVENT_VM_PAUSED, NULL, "'%s' was paused.", ask->vm->config->name);
	ask_show(ask);
}

static void resumed(struct ask *ask)
{
	if (ask->vm->state == VM_PAUSED)
		run_set_state(ask->vm, VM_RUNNING);
	vm_event(ask->vm, EVENT_VM_RESUMED, NULL, "'%s' was resumed.", ask->vm->config->name);
	ask_show(ask);
}

static void suspend_vm(struct request *request, struct vm *vm)
{
	if (check_state(request, vm, VM_RUNNING, VM_RUNNING))
		ask_worker(request, vm, json_pack("{s:s}", "op", "pause"), paused);
}

void cmdlet_suspend_vm(struct request *request)
{
	request_for_vms(request, "Name", suspend_vm);
}

static void resume_vm(struct request *request, struct vm *vm)
{
	if (check_state(request, vm, VM_PAUSED, VM_CRITICAL))
		ask_worker(request, vm, json_pack("{s:s}", "op", "resume"),
			   vm->state == VM_CRITICAL ? ask_show : resumed);
}

void cmdlet_resume_vm(struct request *request)
{
	request_for_vms(request, "Name", resume_vm);
}

static void debug_vm(struct request *request, struct vm *vm)
{
	if (check_state(request, vm, VM_RUNNING, VM_RUNNING))
		ask_worker(request, vm, json_pack("{s:s}", "op", "nmi"), ask_show);
}

void cmdlet_debug_vm(struct request *request)
{
	request_for_vms(request, "Name", debug_vm);
}

/* ---- Restart-VM ---- */

static bool is_back(const struct ask *ask)
{
	const struct run *run = ask->vm->run;
	const char *wanted = request_string(ask->request, "For");
	bool there = false;

	if (!run || run->resets == ask->resets)
		return false;
	if (strcmp(wanted, "IPAddress") == 0) {
		json_t *addresses = object_addresses(ask->vm);

		there = json_array_size(addresses) > 0;
		json_decref(addresses);
		return there;
	}
	return strncmp(run->heartbeat, "OK", 2) == 0;
}

static void back_changed(void *user, struct vm *vm, const struct error *err)
{
	struct ask *ask = user;
	struct error off;

	if (!err && !vm->run) {
		error_set(&off, ERR_STATE, "it went off instead of restarting");
		err = &off;
	}
	if (!err && !is_back(ask)) {
		vm_wait(vm, VM_WAIT_CHANGED, back_changed, ask, ask->request);
		return;
	}
	wait_done(ask->request, vm, err);
	ask_free(ask);
}

static void back_timed_out(void *user)
{
	struct ask *ask = user;
	struct error err;

	error_set(&err, ERR_TIMEOUT, "the guest was not back in time");
	vm_cancel_waits(ask->vm->daemon, ask, &err);
}

static void wait_until_back(struct ask *ask)
{
	uint64_t seconds = (uint64_t)request_integer(ask->request, "Timeout", 300);

	if (!request_switch(ask->request, "Wait")) {
		ask_show(ask);
		return;
	}
	if (loop_timer_new(ask->vm->daemon->loop, back_timed_out, ask, &ask->timer, NULL) < 0)
		abort();
	loop_timer_arm(ask->timer, clock_now_ns() + seconds * NS_PER_SEC);
	request_progress(ask->request, ask->vm->config->name, "waiting for the guest to be back");
	vm_wait(ask->vm, VM_WAIT_CHANGED, back_changed, ask, ask->request);
}

static void was_reset(struct ask *ask)
{
	vm_event(ask->vm, EVENT_VM_RESET, NULL, "'%s' was reset.", ask->vm->config->name);
	if (ask->vm->run)
		run_note_reset(ask->vm->run);
	wait_until_back(ask);
}

static void restart_vm(struct request *request, struct vm *vm)
{
	bool reboot = strcmp(request_string(request, "Type"), "Reboot") == 0;

	if (!check_state(request, vm, VM_RUNNING, reboot ? VM_RUNNING : VM_PAUSED))
		return;
	if (reboot)
		ask_worker(request, vm,
			   json_pack("{s:s, s:b}", "op", "reboot", "force",
				     request_switch(request, "Force")),
			   wait_until_back);
	else
		ask_worker(request, vm, json_pack("{s:s}", "op", "reset"), was_reset);
}

void cmdlet_restart_vm(struct request *request)
{
	request_for_vms(request, "Name", restart_vm);
}
