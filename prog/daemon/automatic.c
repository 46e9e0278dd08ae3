#include "automatic.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "config/config-json.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK_FILE    "running"
#define BOOT_FILE    "boot.json"
#define BOOT_ID_SIZE 37

/* A VM whose delay is not over. */
struct automatic {
	struct vm *vm;
	struct loop_timer *timer;
	struct automatic *next;
};

/* ---- marks ---- */

static int open_folder(const struct vm *vm)
{
	return open(vm->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

void automatic_note_running(const struct vm *vm)
{
	AUTO_CLOSE int folder = open_folder(vm);
	AUTO_CLOSE int fd = -1;

	if (folder >= 0)
		fd = openat(folder, MARK_FILE, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || fsync(folder) < 0)
		log_warn("virtual machine '%s': that it runs could not be written down",
			 vm->config->name);
}

void automatic_note_off(const struct vm *vm)
{
	AUTO_CLOSE int folder = open_folder(vm);

	if (folder >= 0 && !vm->host_stops)
		unlinkat(folder, MARK_FILE, 0);
}

static bool ran_before(const struct vm *vm)
{
	AUTO_CLOSE int folder = open_folder(vm);

	return folder >= 0 && faccessat(folder, MARK_FILE, F_OK, 0) == 0;
}

/* ---- once for each boot ---- */

static bool read_boot_id(char ret[static BOOT_ID_SIZE])
{
	const char *file = getenv("OYAKO_BOOT_ID_FILE"); /* tests boot no hosts */
	AUTO_CLOSE int fd =
	    open(file ? file : "/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	ret[BOOT_ID_SIZE - 1] = 0;
	return fd >= 0 && read(fd, ret, BOOT_ID_SIZE - 1) == BOOT_ID_SIZE - 1;
}

/* True for the first daemon since the host started. */
static bool is_first(struct daemon *daemon)
{
	AUTO_CLOSE int fd = open(daemon->paths.state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char now[BOOT_ID_SIZE];
	const char *before;
	json_t *boot = NULL;
	struct error err;
	bool first;

	if (fd < 0 || !read_boot_id(now))
		return false;
	config_load_json(fd, BOOT_FILE, &boot, NULL);
	before = json_string_value(json_object_get(boot, "boot_id"));
	first = !before || strcmp(before, now) != 0;
	json_decref(boot);
	if (!first)
		return false;
	boot = json_pack("{s:s}", "boot_id", now);
	/* Rather no automatic start than one at each start of the service. */
	if (config_save_json(fd, BOOT_FILE, boot, &err) < 0) {
		log_error("no virtual machine is started automatically: %s", err.text);
		first = false;
	}
	json_decref(boot);
	return first;
}

/* ---- starting ---- */

static void start(struct vm *vm)
{
	struct error err;

	if (vm->removed || !vm_is_down(vm) || run_start(vm, &err) == 0)
		return;
	vm_event(vm, EVENT_VM_START_FAILED, NULL, "'%s' was not started automatically: %s",
		 vm->config->name, err.text);
}

static void forget(struct daemon *daemon, struct automatic *automatic)
{
	struct automatic **link = &daemon->automatic;

	while (*link != automatic)
		link = &(*link)->next;
	*link = automatic->next;
	loop_timer_free(automatic->timer);
	vm_unref(automatic->vm);
	free(automatic);
}

static void delay_over(void *user)
{
	struct automatic *automatic = user;
	struct vm *vm = vm_ref(automatic->vm);

	forget(vm->daemon, automatic);
	start(vm);
	vm_unref(vm);
}

static void start_later(struct vm *vm)
{
	struct automatic *automatic = calloc(1, sizeof(*automatic));

	if (!automatic ||
	    loop_timer_new(vm->daemon->loop, delay_over, automatic, &automatic->timer, NULL) < 0)
		abort();
	automatic->vm = vm_ref(vm);
	automatic->next = vm->daemon->automatic;
	vm->daemon->automatic = automatic;
	loop_timer_arm(automatic->timer,
		       clock_now_ns() + vm->config->start_delay_seconds * NS_PER_SEC);
}

void automatic_begin(struct daemon *daemon)
{
	if (!is_first(daemon))
		return;
	for (size_t i = 0; i < daemon->vm_count; i++) {
		struct vm *vm = daemon->vms[i];
		enum config_start_action action = vm->config->start_action;
		bool ran = ran_before(vm);

		if (!vm_is_down(vm))
			continue;
		automatic_note_off(vm);
		if (action == CONFIG_START_ALWAYS || (action == CONFIG_START_IF_RUNNING && ran))
			start_later(vm);
	}
}

void automatic_end(struct daemon *daemon)
{
	while (daemon->automatic)
		forget(daemon, daemon->automatic);
}
