#include "daemon.h"

#include "../../prog/daemon/balancer.h"
#include "../../prog/daemon/cgroup.h"
#include "../../prog/daemon/host.h"
#include "../../prog/daemon/mounts.h"
#include "../../prog/daemon/request.h"
#include "../../prog/daemon/run-private.h"
#include "../../prog/daemon/switches.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"

#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEPS 4

static char folder[64];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
	remove(path);
	return 0;
}

static void remove_all(const char *path)
{
	nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void remove_folder(void)
{
	remove_all(folder);
}

char *fuzz_path(const char *name)
{
	return text_format("%s/%s", folder, name);
}

static void no_log(void *user, enum log_level level, const char *text)
{
}

static void must(int r)
{
	if (r < 0)
		abort();
}

static void make_folder(void)
{
	snprintf(folder, sizeof(folder), "%s/oyako-fuzz-XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	if (!mkdtemp(folder))
		abort();
	atexit(remove_folder);
}

struct daemon *fuzz_daemon(void)
{
	static struct daemon daemon;
	struct error err;

	if (daemon.loop)
		return &daemon;
	make_folder();
	log_set_sink(no_log, NULL);
	/* There is none: nothing is done to the host's groups. */
	setenv("OYAKO_CGROUP", folder, 1);
	daemon.paths.state = fuzz_path("state");
	daemon.paths.runtime = fuzz_path("run");
	daemon.paths.socket = fuzz_path("run/api.sock");
	daemon.lock_fd = -1;
	daemon.worker_program = daemon.switch_program = daemon.disk_program = strdup("/bin/false");
	must(loop_new(&daemon.loop, &err));
	must(config_make_private_folder(daemon.paths.state, &err));
	must(config_make_private_folder(daemon.paths.runtime, &err));
	must(host_load(&daemon, &err));
	must(events_open(daemon.paths.state, &daemon.events, &err));
	must(requests_new(&daemon, &daemon.requests, &err));
	must(switches_new(&daemon, &daemon.switches, &err));
	must(mounts_new(&daemon, &daemon.mounts, &err));
	daemon.cgroup = cgroup_new();
	must(vm_load_all(&daemon, &err));
	must(balancer_new(&daemon, &daemon.balancer, &err));
	return &daemon;
}

void fuzz_settle(void)
{
	for (unsigned i = 0; i < STEPS; i++)
		loop_step(fuzz_daemon()->loop, 0);
}

/* ---- a machine ---- */

struct vm *fuzz_vm(void)
{
	struct config_vm *config = config_vm_new("a");
	AUTO_FREE char *path = fuzz_path("disk.vhdx"), *iso = fuzz_path("dvd.iso");
	struct vm *vm;
	struct error err;

	if (!config ||
	    !config_add_disk(
		config, &(struct config_disk){ .kind = CONFIG_DISK_HARD, .path = path }, &err) ||
	    !config_add_disk(
		config, &(struct config_disk){ .kind = CONFIG_DISK_DVD, .path = iso, .lun = 1 },
		&err) ||
	    !config_add_nic(config,
			    &(struct config_nic){ .name = (char *)"Network Adapter",
						  .id = { { 1 } },
						  .mac = { 0, 0x15, 0x5d, 1, 2, 3 },
						  .switch_name = (char *)"Default Switch" },
			    &err))
		abort();
	config->dynamic_memory.enabled = true;
	must(vm_create(fuzz_daemon(), config, NULL, &vm, &err));
	return vm;
}

void fuzz_vm_end(struct vm *vm)
{
	AUTO_FREE char *path = strdup(vm->folder);
	struct daemon *daemon = fuzz_daemon();
	struct error err;

	error_set(&err, ERR_CANCELLED, "the end");
	if (vm->run)
		run_process_ended(vm->run, 0);
	for (unsigned wait = 0; wait <= VM_WAIT_IDLE; wait++)
		vm_wake(vm, (enum vm_wait)wait, &err);
	fuzz_settle();
	vm->removed = true;
	for (size_t i = 0; i < daemon->vm_count; i++)
		if (daemon->vms[i] == vm)
			daemon->vms[i] = daemon->vms[--daemon->vm_count];
	vm_unref(vm);
	remove_all(path);
}

/* ---- cmdlets ---- */

void fuzz_cmdlet(const char *name, const char *params)
{
	json_t *json = json_loads(params, 0, NULL), *answer;
	struct request *request;
	struct error err;
	char *text;

	if (request_begin(fuzz_daemon(), NULL, name, json, &request, &err) < 0) {
		fprintf(stderr, "%s %s: %s\n", name, params, err.text);
		abort();
	}
	fuzz_settle();
	answer = request_describe(request);
	text = json_dumps(answer, JSON_COMPACT);
	if (!text)
		abort();
	free(text);
	json_decref(answer);
	json_decref(json);
	request_cancel(request);
	request_receive(request);
}

/* ---- the input ---- */

char *fuzz_line(const uint8_t **data, size_t *size, size_t *ret_len)
{
	const uint8_t *end = *size ? memchr(*data, '\n', *size) : NULL;
	size_t len = end ? (size_t)(end - *data) : *size;
	char *line;

	if (!*size)
		return NULL;
	line = strndup((const char *)*data, len);
	if (!line)
		abort();
	*ret_len = strlen(line);
	*data += len + (end != NULL);
	*size -= len + (end != NULL);
	return line;
}

void fuzz_write(const char *path, const void *data, size_t size)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		abort();
}
