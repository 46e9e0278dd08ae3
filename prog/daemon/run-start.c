#include "run-private.h"

#include "automatic.h"
#include "balancer.h"
#include "base/host.h"
#include "base/log.h"
#include "base/macros.h"
#include "cgroup.h"
#include "checkpoint-fold.h"
#include "checkpoint-take.h"
#include "checkpoints.h"
#include "com-ports.h"
#include "config/config-json.h"
#include "disk-job.h"
#include "files.h"
#include "ipc/ipc.h"
#include "metering.h"
#include "saved.h"
#include "sockets.h"
#include "switches.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define START_TIMEOUT_NS (60 * NS_PER_SEC)

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

	run_close_job(run);
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
	run_close_job(run);
	/* Its process ends by itself. */
	run_arm_timer(run, RUN_END_TIMEOUT_NS);
}

void run_job_ready(void *user, uint32_t events)
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
		run_close_job(run);
		spawn_kill(&run->process);
		return;
	}
	if (r == 0) {
		/* It ends: how, says more than an error here. */
		run_close_job(run);
		run_arm_timer(run, RUN_END_TIMEOUT_NS);
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
		run_close_job(run);
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
	AUTO_FREE char *control = run_path(run->vm, "control");
	AUTO_FREE char *console = run_path(run->vm, "console1");
	AUTO_FREE char *second = run_path(run->vm, "console2");
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
	fd = run_connect(run, err);
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
	run_remove_folder(run->folder);
	return config_make_private_folder(run->folder, err);
}

static int start_process(struct run *run, int lock_fd, struct error *err)
{
	struct daemon *daemon = run->vm->daemon;
	AUTO_FREE char *log_file = run_path(run->vm, "worker.log");
	int pair[2], r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_set_errno(err, errno, "making the job socket");
	run->job_fd = pair[0];
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	r = spawn(daemon->worker_program, pair[1], lock_fd, log_file, &run->process, err);
	close(pair[1]);
	if (r < 0)
		return r;
	return loop_fd_add(daemon->loop, run->process.pidfd, EPOLLIN, run_process_ended, run,
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
		r = loop_fd_add(run->vm->daemon->loop, run->job_fd, EPOLLIN, run_job_ready, run,
				&run->job_watch, err);
	files_done(&files);
	if (r == 0)
		run_arm_timer(run, START_TIMEOUT_NS);
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
	run_fail_start(run, &err);
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
