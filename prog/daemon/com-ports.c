#include "com-ports.h"

#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "config/paths.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *com_port_place(const struct vm *vm, unsigned port)
{
	const char *path = vm->config->com[port].path;
	const char *pipe = path ? config_pipe_name(path) : NULL;

	if (pipe)
		return text_format("%s/pipe/%s", vm->daemon->paths.runtime, pipe);
	return path ? text_format("%s", path) : NULL;
}

/* The socket of the worker. */
static char *console_of(const struct vm *vm, unsigned port)
{
	return text_format("%s/vm/%s/console%u", vm->daemon->paths.runtime, vm->id, port + 1);
}

static char *note_of(const struct vm *vm, unsigned port)
{
	return text_format("%s/vm/%s/com%u", vm->daemon->paths.runtime, vm->id, port + 1);
}

/* What a link leads to, the caller's; NULL: it is none. */
static char *target_of(const char *link)
{
	char target[PATH_MAX];
	ssize_t length = readlink(link, target, sizeof(target) - 1);

	return length < 0 ? NULL : text_format("%.*s", (int)length, target);
}

/* A link of ours whose machine has ended, as after a crash of the host or the service. */
static bool is_left_over(const struct vm *vm, const char *target)
{
	AUTO_FREE char *ours = text_format("%s/vm/", vm->daemon->paths.runtime);

	return strncmp(target, ours, strlen(ours)) == 0 && access(target, F_OK) < 0;
}

static int make_room(const struct vm *vm, const char *place, const char *console, struct error *err)
{
	AUTO_FREE char *target = target_of(place);
	struct stat st;

	if (lstat(place, &st) < 0 && errno == ENOENT)
		return 0;
	if (target && (strcmp(target, console) == 0 || is_left_over(vm, target)))
		return unlink(place) == 0 ? 0 : error_set_errno(err, errno, "'%.200s'", place);
	return error_set(err, ERR_EXISTS, "there is already something at '%.200s'", place);
}

static int serve(const struct vm *vm, unsigned port, struct error *err)
{
	AUTO_FREE char *place = com_port_place(vm, port), *console = console_of(vm, port);
	AUTO_FREE char *note = note_of(vm, port);
	int r;

	if (!place)
		return 0;
	r = make_room(vm, place, console, err);
	if (r < 0)
		return r;
	unlink(note);
	if (symlink(place, note) < 0)
		return error_set_errno(err, errno, "making '%.200s'", note);
	if (symlink(console, place) < 0)
		return error_set_errno(err, errno, "making the socket '%.200s'", place);
	return 0;
}

int com_ports_serve(const struct vm *vm, struct error *err)
{
	AUTO_FREE char *pipes = text_format("%s/pipe", vm->daemon->paths.runtime);
	int r = config_make_private_folder(pipes, err);

	for (unsigned port = 0; r == 0 && port < CONFIG_COM_PORTS; port++) {
		r = serve(vm, port, err);
		if (r < 0)
			error_prefix(err, "COM %u", port + 1);
	}
	if (r < 0)
		com_ports_withdraw(vm);
	return r;
}

void com_ports_withdraw(const struct vm *vm)
{
	for (unsigned port = 0; port < CONFIG_COM_PORTS; port++) {
		AUTO_FREE char *note = note_of(vm, port), *console = console_of(vm, port);
		AUTO_FREE char *place = target_of(note);
		AUTO_FREE char *target = place ? target_of(place) : NULL;

		if (target && strcmp(target, console) == 0 && unlink(place) < 0)
			log_warn("virtual machine '%s': '%s' stays: %s", vm->config->name, place,
				 strerror(errno));
		unlink(note);
	}
}
