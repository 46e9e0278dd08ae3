/* What a hostile worker says to the service, among cmdlets that ask it for things: no message
 * brings the service down, and all that it shows of the machine can be written down. A line of the
 * input is a message, or begins with the letter of a cmdlet. */
#include "daemon.h"

#include "../../prog/daemon/objects.h"
#include "../../prog/daemon/run-private.h"
#include "../../prog/daemon/sockets.h"
#include "base/macros.h"
#include "base/text.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_LINES 64
#define LETTERS   "cCdDgikmMnprRsSTv"

static const struct {
	char letter;
	const char *name, *params;
} cmdlets[] = {
	{ 'c', "Checkpoint-VM", "{\"Name\":[\"a\"]}" },
	{ 'C', "Export-VM", "{\"Name\":[\"a\"],\"Path\":\"/nowhere/at/all\"}" },
	{ 'd', "Set-VMDvdDrive", "{\"VMName\":\"a\",\"Path\":\"\"}" },
	{ 'D', "Debug-VM", "{\"Name\":[\"a\"],\"InjectNonMaskableInterrupt\":true}" },
	{ 'g', "Get-VM", "{\"Name\":[\"a\"]}" },
	{ 'i', "Get-VMIntegrationService", "{\"VMName\":[\"a\"]}" },
	{ 'k', "Get-VMKeyValuePair", "{\"VMName\":[\"a\"]}" },
	{ 'm', "Enable-VMResourceMetering", "{\"VMName\":[\"a\"]}" },
	{ 'M', "Measure-VM", "{\"Name\":[\"a\"]}" },
	{ 'n', "Get-VMNetworkAdapter", "{\"VMName\":[\"a\"]}" },
	{ 'p', "Suspend-VM", "{\"Name\":[\"a\"]}" },
	{ 'r', "Resume-VM", "{\"Name\":[\"a\"]}" },
	{ 'R', "Restart-VM", "{\"Name\":[\"a\"],\"Force\":true}" },
	{ 's', "Save-VM", "{\"Name\":[\"a\"]}" },
	{ 'S', "Stop-VM", "{\"Name\":[\"a\"]}" },
	{ 'T', "Stop-VM", "{\"Name\":[\"a\"],\"TurnOff\":true}" },
	{ 'v', "Remove-VMScsiController", "{\"VMName\":[\"a\"],\"ControllerNumber\":0}" },
};

static void make_runtime_folder(const struct vm *vm)
{
	AUTO_FREE char *all = text_format("%s/vm", vm->daemon->paths.runtime);
	AUTO_FREE char *own = run_path(vm, NULL);

	config_make_private_folder(all, NULL);
	config_make_private_folder(own, NULL);
}

/* The worker's ends of its connections. */
struct worker {
	int control, job;
};

static int control(struct vm *vm)
{
	AUTO_FREE char *path = run_path(vm, "control");
	AUTO_CLOSE int listener = sockets_listen(path, SOCK_SEQPACKET, NULL);

	if (listener < 0 || run_connect(vm->run, NULL) < 0)
		abort();
	return accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
}

static int job(struct run *run)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0 ||
	    loop_fd_add(run->vm->daemon->loop, pair[0], EPOLLIN, run_job_ready, run,
			&run->job_watch, NULL) < 0)
		abort();
	run->job_fd = pair[0];
	run->starting = true;
	run_arm_timer(run, 60 * NS_PER_SEC);
	return pair[1];
}

/* It runs, or starts. */
static struct worker begin(struct vm *vm, bool starts)
{
	struct worker worker = { -1, -1 };

	make_runtime_folder(vm);
	run_new(vm);
	worker.control = control(vm);
	if (starts)
		worker.job = job(vm->run);
	run_set_state(vm, starts ? VM_STARTING : VM_RUNNING);
	return worker;
}

static void read_all(int fd)
{
	char bytes[4096];

	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_TRUNC) > 0)
		;
}

static void say(int fd, const char *line, size_t len)
{
	if (fd >= 0 && len)
		send(fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void play(const struct worker *worker, const char *line, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(cmdlets); i++)
		if (cmdlets[i].letter == line[0]) {
			fuzz_cmdlet(cmdlets[i].name, cmdlets[i].params);
			return;
		}
	if (line[0] == '!')
		say(worker->job, line + 1, len - 1);
	else
		say(worker->control, line, len);
	fuzz_settle();
}

static void check(const struct vm *vm)
{
	static const char *const members[] = { "Name", "State", "Status", "Heartbeat", "Backend" };
	json_t *object = object_vm(vm);

	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (!json_object_get(object, members[i]))
			abort();
	json_decref(object);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct worker worker;
	struct vm *vm;
	size_t len;
	char *line;

	if (!size || !strchr("{!" LETTERS, data[0]))
		return 0;
	fuzz_daemon();
	vm = vm_ref(fuzz_vm());
	worker = begin(vm, size && data[0] == '!');
	for (unsigned i = 0; i < MAX_LINES && (line = fuzz_line(&data, &size, &len)); i++) {
		play(&worker, line, len);
		read_all(worker.control);
		check(vm);
		free(line);
	}
	close(worker.control);
	if (worker.job >= 0)
		close(worker.job);
	fuzz_settle();
	fuzz_vm_end(vm);
	vm_unref(vm);
	return 0;
}
