/*
 * Boots one VM on oyako-worker without the daemon, and shows its serial console: for the rig, which
 * has no daemon, and for work on the worker.
 *
 *	boot-worker WORKER kernel=FILE [initrd=FILE] [cmdline=TEXT] [backend=auto|kvm|soft]
 *		[memory=MIB] [cpus=N] [disk=FILE]... [pauses=N]
 *
 * pauses: so many times the VM is paused for a moment and resumed, ten times a second.
 * The guest's console goes to stdout, the worker's events to stderr. Exit status 0 if the guest
 * powered itself off, 1 if it ended otherwise, 2 if it never started.
 */
#include "base/clock.h"
#include "base/macros.h"
#include "config/config-json.h"
#include "ipc/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define JOB_FD 3

struct boot {
	struct config_vm *vm;
	json_t *roles;
	int fds[IPC_MAX_FDS];
	unsigned fd_count;
	unsigned pauses;
};

static void fail(const char *what)
{
	fprintf(stderr, "boot-worker: %s\n", what);
	exit(2);
}

static void add_fd(struct boot *boot, int fd, json_t *role)
{
	if (fd < 0)
		fail(strerror(errno));
	json_array_append_new(boot->roles, role);
	boot->fds[boot->fd_count++] = fd;
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		fprintf(stderr, "boot-worker: %s: ", path);
	return fd;
}

/* Listens at an address that the kernel chooses. */
static int listen_somewhere(int type, struct sockaddr_un *ret, socklen_t *ret_len)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	*ret_len = sizeof(*ret);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(sa_family_t)) < 0 ||
	    listen(fd, 1) < 0 || getsockname(fd, (struct sockaddr *)ret, ret_len) < 0)
		fail(strerror(errno));
	return fd;
}

static int connect_to(int type, const struct sockaddr_un *address, socklen_t len)
{
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, len) < 0)
		fail(strerror(errno));
	return fd;
}

static void add_disk(struct boot *boot, const char *path)
{
	struct config_disk disk = { .kind = CONFIG_DISK_HARD, .path = (char *)path };
	struct error err;
	json_int_t index = boot->vm->disk_count;

	if (config_free_location(boot->vm, CONFIG_BUS_SCSI, -1, &disk.controller_number, &disk.lun,
				 &err) < 0 ||
	    !config_add_disk(boot->vm, &disk, &err))
		fail(err.text);
	add_fd(boot, open_file(path, O_RDWR),
	       json_pack("{s:s, s:I}", "role", "disk", "index", index));
}

static void take_argument(struct boot *boot, char *argument)
{
	char *value = strchr(argument, '=');
	struct config_vm *vm = boot->vm;

	if (!value)
		fail("arguments are name=value");
	*value++ = '\0';
	if (strcmp(argument, "kernel") == 0) {
		config_set_string(&vm->kernel_path, value, NULL);
		add_fd(boot, open_file(value, O_RDONLY), json_pack("{s:s}", "role", "kernel"));
	} else if (strcmp(argument, "initrd") == 0) {
		config_set_string(&vm->initrd_path, value, NULL);
		add_fd(boot, open_file(value, O_RDONLY), json_pack("{s:s}", "role", "initrd"));
	} else if (strcmp(argument, "cmdline") == 0) {
		config_set_string(&vm->kernel_cmdline, value, NULL);
	} else if (strcmp(argument, "memory") == 0) {
		vm->memory_bytes = strtoul(value, NULL, 10) * MIB;
	} else if (strcmp(argument, "cpus") == 0) {
		vm->processor_count = (unsigned)strtoul(value, NULL, 10);
	} else if (strcmp(argument, "pauses") == 0) {
		boot->pauses = (unsigned)strtoul(value, NULL, 10);
	} else if (strcmp(argument, "disk") == 0) {
		add_disk(boot, value);
	} else if (strcmp(argument, "backend") != 0 ||
		   !config_backend_from_name(value, &vm->backend)) {
		fail("unknown argument");
	}
}

static pid_t start_worker(const char *program, int job_fd)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	dup2(job_fd, JOB_FD);
	execl(program, program, NULL);
	fail(strerror(errno));
	return -1;
}

static json_t *receive(int fd)
{
	struct error err;
	json_t *msg;

	switch (ipc_recv(fd, &msg, NULL, NULL, &err)) {
	case 1:
		return msg;
	case 0:
		return NULL;
	default:
		fail(err.text);
		return NULL;
	}
}

static void send_job(struct boot *boot, int fd)
{
	json_t *job = json_pack("{s:s, s:o, s:O}", "type", "start", "vm",
				config_vm_to_json(boot->vm), "descriptors", boot->roles);
	struct error err;
	json_t *answer;

	if (ipc_send(fd, job, boot->fds, boot->fd_count, &err) < 0)
		fail(err.text);
	json_decref(job);
	answer = receive(fd);
	if (!answer)
		fail("the worker ended without an answer");
	json_dumpf(answer, stderr, 0);
	fputc('\n', stderr);
	if (strcmp(json_string_value(json_object_get(answer, "type")), "started") != 0)
		exit(2);
	json_decref(answer);
}

/* True: the VM is off. */
static bool show_event(int control, int *ret_status)
{
	json_t *event = receive(control);
	const char *name, *reason;
	bool off;

	if (!event)
		return true;
	name = json_string_value(json_object_get(event, "event"));
	if (name ? strcmp(name, "state") != 0 : !json_is_true(json_object_get(event, "ok"))) {
		json_dumpf(event, stderr, 0);
		fputc('\n', stderr);
	}
	reason = json_string_value(json_object_get(event, "reason"));
	off = name && strcmp(name, "off") == 0;
	if (off && reason && strcmp(reason, "guest-shutdown") == 0)
		*ret_status = 0;
	json_decref(event);
	return off;
}

/* False: closed. */
static bool show_console(int console)
{
	char buf[4096];
	ssize_t n = read(console, buf, sizeof(buf));

	if (n <= 0)
		return false;
	for (ssize_t done = 0, w; done < n; done += w)
		if ((w = write(STDOUT_FILENO, buf + done, (size_t)(n - done))) <= 0)
			return false;
	return true;
}

static void ask(int control, const char *op)
{
	json_t *request = json_pack("{s:i, s:s}", "id", 1, "op", op);

	ipc_send(control, request, NULL, 0, NULL);
	json_decref(request);
}

static int watch(int control, int console, unsigned pauses)
{
	struct pollfd polls[2] = { { control, POLLIN, 0 }, { console, POLLIN, 0 } };
	uint64_t next_pause = clock_now_ns();
	int status = 1;

	while (polls[0].fd >= 0 || polls[1].fd >= 0) {
		if (poll(polls, 2, pauses ? 50 : -1) < 0 && errno != EINTR)
			fail(strerror(errno));
		if (pauses && polls[0].fd >= 0 && clock_now_ns() >= next_pause) {
			ask(control, "pause");
			ask(control, "resume");
			next_pause = clock_now_ns() + 100 * NS_PER_MSEC;
			pauses--;
		}
		if (polls[1].revents && !show_console(console))
			polls[1].fd = -1;
		if (polls[0].revents && show_event(control, &status))
			polls[0].fd = -1;
	}
	return status;
}

int main(int argc, char **argv)
{
	struct boot boot = { config_vm_new("rig"), json_array(), { 0 }, 0, 0 };
	struct sockaddr_un control, console;
	socklen_t control_len, console_len;
	int pair[2], status, kvm, worker_status;
	pid_t pid;

	if (argc < 3)
		fail("usage: boot-worker WORKER kernel=FILE [...]");
	add_fd(&boot, listen_somewhere(SOCK_SEQPACKET, &control, &control_len),
	       json_pack("{s:s}", "role", "control"));
	add_fd(&boot, listen_somewhere(SOCK_STREAM, &console, &console_len),
	       json_pack("{s:s, s:i}", "role", "console", "port", 1));
	for (int i = 2; i < argc; i++)
		take_argument(&boot, argv[i]);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm >= 0)
		add_fd(&boot, kvm, json_pack("{s:s}", "role", "kvm"));
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		fail(strerror(errno));
	pid = start_worker(argv[1], pair[1]);
	close(pair[1]);
	send_job(&boot, pair[0]);
	for (unsigned i = 0; i < boot.fd_count; i++)
		close(boot.fds[i]);
	status = watch(connect_to(SOCK_SEQPACKET, &control, control_len),
		       connect_to(SOCK_STREAM, &console, console_len), boot.pauses);
	waitpid(pid, &worker_status, 0);
	if (worker_status != 0)
		fprintf(stderr, "boot-worker: the worker's exit status is 0x%x\n",
			(unsigned)worker_status);
	return status;
}
