/*
 * oyako-worker: one running VM. It is started by oyakod with its job on descriptor 3 and knows no
 * path and no other process. docs/worker-protocol.md describes what it says and hears.
 */
#include "console.h"
#include "crash.h"
#include "control.h"
#include "job.h"
#include "sandbox.h"
#include "viewers.h"

#include "base/log.h"
#include "base/macros.h"
#include "machine/machine.h"
#include "state/file.h"
#include "state/state.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define JOB_FD 3

struct worker {
	struct loop *loop;
	struct job job;
	struct control *control;
	struct viewers *viewers;
	struct console *consoles[2];
	struct machine *machine;
	bool off;
};

/* ---- events of the machine ---- */

static void on_off(void *user, enum machine_off_reason reason, const char *text)
{
	struct worker *worker = user;

	control_event(worker->control,
		      json_pack("{s:s, s:s, s:s}", "event", "off", "reason",
				machine_off_reason_name(reason), "text", text ? text : ""));
	worker->off = true;
	loop_stop(worker->loop);
}

static void on_guest_reset(void *user)
{
	struct worker *worker = user;

	control_event(worker->control, json_pack("{s:s}", "event", "guest-reset"));
}

static void on_ejected(void *user, const struct guid *controller, unsigned location)
{
	struct worker *worker = user;
	char id[GUID_TEXT_SIZE];

	control_event(worker->control,
		      json_pack("{s:s, s:s, s:i}", "event", "ejected", "controller",
				guid_format(controller, id), "location", (int)location));
}

static void on_disk_slow(void *user, const struct guid *controller, unsigned location, bool slow)
{
	struct worker *worker = user;
	char id[GUID_TEXT_SIZE];

	control_event(worker->control, json_pack("{s:s, s:s, s:i, s:b}", "event", "disk-slow",
						 "controller", guid_format(controller, id),
						 "location", (int)location, "slow", slow));
}

static void on_critical(void *user, const char *text)
{
	struct worker *worker = user;

	if (worker->machine)
		control_critical(worker->control, text);
}

static void on_shutdown_failed(void *user, const char *text)
{
	struct worker *worker = user;

	control_event(worker->control,
		      json_pack("{s:s, s:s}", "event", "shutdown-failed", "text", text));
}

static void on_guest_crash(void *user, const uint64_t parameters[5], const char *message)
{
	struct worker *worker = user;
	json_t *list = json_array();
	json_t *text = message ? json_string(message) : NULL;
	char number[24];

	for (int i = 0; i < 5; i++) {
		snprintf(number, sizeof(number), "0x%llx", (unsigned long long)parameters[i]);
		json_array_append_new(list, json_string(number));
	}
	/* A guest's message that is no UTF-8 is left out; the parameters tell enough. */
	control_event(worker->control,
		      json_pack("{s:s, s:o, s:o}", "event", "guest-crash", "parameters", list,
				"message", text ? text : json_string("")));
}

static void on_kvp_changed(void *user)
{
	struct worker *worker = user;

	control_event(worker->control, control_kvp_event(worker->machine));
}

static void on_display_changed(void *user)
{
	viewers_screen_changed(((struct worker *)user)->viewers);
}

static void on_display_damaged(void *user)
{
	viewers_screen_damaged(((struct worker *)user)->viewers);
}

static void on_memory_changed(void *user)
{
	struct worker *worker = user;

	if (worker->machine)
		control_event(worker->control, control_memory_event(worker->machine));
}

static void on_services_changed(void *user)
{
	struct worker *worker = user;

	control_event(worker->control, control_services_event(worker->machine));
}

static void on_console_output(void *user, unsigned port, const void *data, size_t len)
{
	struct worker *worker = user;

	if (worker->consoles[port])
		console_output(worker->consoles[port], data, len);
}

static void on_console_room(void *user, unsigned port)
{
	struct worker *worker = user;

	if (worker->consoles[port])
		console_resume_input(worker->consoles[port]);
}

static void on_socket_asked(void *user, uint64_t ticket, const struct guid *service)
{
	struct worker *worker = user;

	control_socket_asked(worker->control, ticket, service);
}

static size_t type_com1(void *user, const void *data, size_t len)
{
	struct worker *worker = user;

	return worker->machine ? machine_console_input(worker->machine, 0, data, len) : 0;
}

static size_t type_com2(void *user, const void *data, size_t len)
{
	struct worker *worker = user;

	return worker->machine ? machine_console_input(worker->machine, 1, data, len) : 0;
}

/* ---- start and end ---- */

static int build(struct worker *worker, struct error *err)
{
	static size_t (*const type[2])(void *, const void *, size_t) = { type_com1, type_com2 };
	const struct machine_events events = {
		.user = worker,
		.off = on_off,
		.guest_reset = on_guest_reset,
		.ejected = on_ejected,
		.disk_slow = on_disk_slow,
		.critical = on_critical,
		.guest_crash = on_guest_crash,
		.memory_changed = on_memory_changed,
		.display_changed = on_display_changed,
		.display_damaged = on_display_damaged,
		.shutdown_failed = on_shutdown_failed,
		.kvp_changed = on_kvp_changed,
		.services_changed = on_services_changed,
		.console_output = on_console_output,
		.console_room = on_console_room,
		.socket_asked = on_socket_asked,
	};
	int r = loop_new(&worker->loop, err);

	if (r == 0)
		r = viewers_new(worker->loop, &worker->viewers, err);
	if (r == 0)
		r = control_new(worker->loop, worker->job.control_fd, worker->job.vm,
				worker->viewers, &worker->control, err);
	if (r < 0)
		return r;
	worker->job.control_fd = -1; /* the control's now */
	for (unsigned i = 0; i < 2; i++) {
		if (worker->job.console_fds[i] < 0)
			continue;
		r = console_new(worker->loop, worker->job.console_fds[i], type[i], worker,
				&worker->consoles[i], err);
		if (r < 0)
			return r;
		worker->job.console_fds[i] = -1;
	}
	return machine_new(worker->loop, worker->job.vm, &worker->job.files, &events,
			   &worker->machine, err);
}

static int start(struct worker *worker, struct error *err)
{
	bool namespaces;
	int r = job_read(JOB_FD, &worker->job, err);

	if (r < 0)
		return r;
	r = sandbox_enter_namespaces(&namespaces, err);
	if (r == 0)
		r = build(worker, err);
	if (r == 0)
		r = sandbox_enter_filter(err);
	if (r == 0)
		r = job_mark_used(&worker->job, err);
	if (r == 0)
		r = machine_start(worker->machine, err);
	if (r < 0)
		return r;
	if (!namespaces)
		log_info("this host allows no namespaces: the worker runs without its own");
	return 0;
}

static void release(struct worker *worker)
{
	if (worker->control)
		control_set_machine(worker->control, NULL);
	if (worker->viewers)
		viewers_set_machine(worker->viewers, NULL);
	machine_free(worker->machine);
	worker->machine = NULL;
	for (unsigned i = 0; i < 2; i++)
		console_free(worker->consoles[i]);
	control_free(worker->control);
	viewers_free(worker->viewers);
	job_done(&worker->job);
	loop_free(worker->loop);
}

/* For people who want to see what is in a saved state. */
static int show_state(const char *path)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	AUTO_FREE uint8_t *stream = NULL;
	struct state_file file;
	struct error err;
	int r = fd < 0 ? error_set_errno(&err, errno, "opening '%.200s'", path)
		       : state_file_open(fd, &file, &err);

	if (r == 0)
		r = state_file_read_stream(fd, &file, &stream, &err);
	if (r == 0)
		r = state_show(stream, file.stream_bytes, stdout, &err);
	if (r < 0)
		fprintf(stderr, "oyako-worker: %s\n", err.text);
	return r < 0;
}

int main(int argc, char **argv)
{
	struct worker worker = { 0 };
	struct error err = { 0 };
	struct stat st;

	if (argc == 3 && strcmp(argv[1], "--show-state") == 0)
		return show_state(argv[2]);
	if (argc > 1 || fstat(JOB_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr, "oyako-worker is started by oyakod, which gives it its job on "
				"descriptor 3; use `oyako start-vm`\n"
				"--show-state FILE prints what a saved state holds\n");
		return 2;
	}
	crash_watch();
	if (start(&worker, &err) < 0) {
		job_failed(JOB_FD, &err);
		release(&worker);
		return 1;
	}
	job_started(JOB_FD, machine_backend_name(worker.machine),
		    machine_backend_reason(worker.machine));
	close(JOB_FD);
	viewers_set_machine(worker.viewers, worker.machine);
	control_set_machine(worker.control, worker.machine);
	while (!worker.off)
		loop_run(worker.loop);
	release(&worker);
	return 0;
}
