#include "vm.h"

#include "automatic.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "base/text.h"
#include "checkpoint-below.h"
#include "checkpoint-disks.h"
#include "checkpoint-fold.h"
#include "checkpoints.h"
#include "config/config-json.h"
#include "metering.h"
#include "saved.h"
#include "undo.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>

#define CONFIG_FILE    "vm.json"
#define BOOT_FOLDER    "boot"
#define LAST_STOP_FILE "last-stop.json"
#define REMOVED_FILE   "removed.json" /* what was vm.json: the VM is being removed */
#define REMOVED_LINK   ".removed-"    /* before a link's name: its folder is */

struct vm_waiter {
	struct vm *vm;
	enum vm_wait what;
	vm_done done;
	void *user;
	const void *owner;
	struct vm_waiter *next;
};

const char *vm_state_name(enum vm_state state)
{
	static const char *const names[] = {
		[VM_OFF] = "Off",         [VM_STARTING] = "Starting",
		[VM_RUNNING] = "Running", [VM_STOPPING] = "Stopping",
		[VM_PAUSED] = "Paused",   [VM_SAVED] = "Saved",
		[VM_SAVING] = "Saving",   [VM_CRITICAL] = "PausedCritical",
	};

	return names[state];
}

/* ---- objects ---- */

struct vm *vm_ref(struct vm *vm)
{
	vm->references++;
	return vm;
}

void vm_unref(struct vm *vm)
{
	if (!vm || --vm->references)
		return;
	if (vm->early_console >= 0)
		close(vm->early_console);
	config_vm_free(vm->config);
	json_decref(vm->last_stop);
	metering_free(vm->metering);
	loop_timer_free(vm->fold_retry);
	free(vm->folder);
	free(vm);
}

/* Takes config and folder. */
static struct vm *vm_new(struct daemon *daemon, struct config_vm *config, char *folder)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		abort();
	*vm = (struct vm){ .daemon = daemon,
			   .references = 1,
			   .config = config,
			   .folder = folder,
			   .state = config->saved_state ? VM_SAVED : VM_OFF,
			   .early_console = -1 };
	guid_format(&config->id, vm->id);
	return vm;
}

static void add_to_list(struct vm *vm)
{
	struct daemon *daemon = vm->daemon;

	daemon->vms = reallocarray(daemon->vms, daemon->vm_count + 1, sizeof(struct vm *));
	if (!daemon->vms)
		abort();
	daemon->vms[daemon->vm_count++] = vm;
}

static void take_from_list(struct vm *vm)
{
	struct daemon *daemon = vm->daemon;

	for (size_t i = 0; i < daemon->vm_count; i++)
		if (daemon->vms[i] == vm) {
			daemon->vm_count--;
			memmove(&daemon->vms[i], &daemon->vms[i + 1],
				(daemon->vm_count - i) * sizeof(struct vm *));
			return;
		}
}

struct vm *vm_find(struct daemon *daemon, const char *name)
{
	for (size_t i = 0; i < daemon->vm_count; i++)
		if (strcasecmp(daemon->vms[i]->config->name, name) == 0)
			return daemon->vms[i];
	return NULL;
}

struct vm *vm_find_id(struct daemon *daemon, const char *id)
{
	for (size_t i = 0; i < daemon->vm_count; i++)
		if (strcasecmp(daemon->vms[i]->id, id) == 0)
			return daemon->vms[i];
	return NULL;
}

void vm_free_all(struct daemon *daemon)
{
	for (size_t i = 0; i < daemon->vm_count; i++)
		vm_unref(daemon->vms[i]);
	free(daemon->vms);
	daemon->vms = NULL;
	daemon->vm_count = 0;
}

/* ---- the store ---- */

char *vm_store_path(struct daemon *daemon, const char *id)
{
	char *path = NULL;

	if (asprintf(&path, "%s/vms%s%s", daemon->paths.state, id ? "/" : "", id ? id : "") < 0)
		abort();
	return path;
}

static int open_folder(const char *folder, struct error *err)
{
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, errno, "opening the folder '%.200s'", folder) : fd;
}

/* Takes config. */
static struct vm *vm_in(struct daemon *daemon, const char *folder, struct config_vm *config)
{
	/* The store may hold only a link to it. */
	char *real = realpath(folder, NULL);

	return vm_new(daemon, config, real ? real : strdup(folder));
}

/* A link of the store, and the empty folder that it leads to. */
static void drop_linked(const char *link)
{
	AUTO_FREE char *real = realpath(link, NULL);

	if (real)
		rmdir(real);
	unlink(link);
}

/* An empty one, and the link to it if it is not in the store itself. A link that leads nowhere
 * would say nothing: its storage may only not be there. So it says first what is happening. */
static void drop_folder(struct daemon *daemon, const char *stored)
{
	AUTO_FREE char *store = vm_store_path(daemon, NULL), *removed = NULL;
	char to[8];

	if (readlink(stored, to, sizeof(to)) < 0) {
		rmdir(stored);
		return;
	}
	if (asprintf(&removed, "%s/" REMOVED_LINK "%s", store, strrchr(stored, '/') + 1) < 0)
		abort();
	rename(stored, removed);
	drop_linked(removed);
}

/* It was interrupted in between. */
static void finish_drop(const char *store, const char *name)
{
	AUTO_FREE char *removed = NULL;

	if (asprintf(&removed, "%s/%s", store, name) < 0)
		abort();
	drop_linked(removed);
}

static void delete_folder(struct vm *vm);

/* There is no description: a VM that was being removed, or made. */
static void finish_removal(struct daemon *daemon, const char *folder, int fd)
{
	struct config_vm *config;
	struct vm *vm;

	if (config_load(fd, REMOVED_FILE, &config, NULL) == 0) {
		vm = vm_in(daemon, folder, config);
		delete_folder(vm);
		vm_unref(vm);
		return;
	}
	unlinkat(fd, "." CONFIG_FILE ".new", 0);
	drop_folder(daemon, folder);
}

static int load(struct daemon *daemon, const char *id, struct error *err)
{
	AUTO_FREE char *folder = vm_store_path(daemon, id);
	AUTO_CLOSE int fd = open_folder(folder, err);
	char config_id[GUID_TEXT_SIZE];
	struct config_vm *config;
	struct vm *vm;
	int r;

	if (fd < 0)
		return fd;
	r = config_load(fd, CONFIG_FILE, &config, err);
	if (r == -ERR_NOT_FOUND)
		finish_removal(daemon, folder, fd);
	if (r < 0)
		return r;
	if (strcmp(guid_format(&config->id, config_id), id) != 0) {
		config_vm_free(config);
		return error_set(err, ERR_CORRUPT, "the description in the folder is of %s",
				 config_id);
	}
	vm = vm_in(daemon, folder, config);
	config_load_json(fd, LAST_STOP_FILE, &vm->last_stop, NULL);
	metering_load(vm, fd);
	add_to_list(vm);
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	struct vm *const *left = a, *const *right = b;

	return strcasecmp((*left)->config->name, (*right)->config->name);
}

int vm_load_all(struct daemon *daemon, struct error *err)
{
	AUTO_FREE char *store = vm_store_path(daemon, NULL);
	struct dirent *entry;
	struct guid guid;
	DIR *folder;
	int r = config_make_private_folder(store, err);

	if (r < 0)
		return r;
	folder = opendir(store);
	if (!folder)
		return error_set_errno(err, errno, "opening the folder '%.200s'", store);
	while ((entry = readdir(folder))) {
		struct error failure;

		if (strncmp(entry->d_name, REMOVED_LINK, strlen(REMOVED_LINK)) == 0)
			finish_drop(store, entry->d_name);
		if (!guid_parse(entry->d_name, &guid))
			continue;
		/* Without a description it is what is left of a VM that was removed. */
		r = load(daemon, entry->d_name, &failure);
		if (r == 0 || r == -ERR_NOT_FOUND)
			continue;
		log_error("virtual machine %s can't be read: %s", entry->d_name, failure.text);
		events_write(daemon->events, &(struct event){ .kind = EVENT_VM_UNREADABLE,
							      .vm_id = entry->d_name,
							      .message = failure.text });
	}
	closedir(folder);
	if (daemon->vm_count)
		qsort(daemon->vms, daemon->vm_count, sizeof(struct vm *), compare_names);
	return 0;
}

/* A file that stands in a description, if an import has copied it into the VM's folder. */
static void delete_boot_file(const struct vm *vm, const char *path)
{
	AUTO_FREE char *inside = NULL;
	size_t length;

	if (asprintf(&inside, "%s/" BOOT_FOLDER "/", vm->folder) < 0)
		abort();
	length = strlen(inside);
	if (path && strncmp(path, inside, length) == 0 && !strchr(path + length, '/'))
		unlink(path);
}

static void delete_boot_files(struct vm *vm)
{
	AUTO_FREE char *folder = NULL;
	struct checkpoints all;

	delete_boot_file(vm, vm->config->kernel_path);
	delete_boot_file(vm, vm->config->initrd_path);
	checkpoints_load(vm, &all);
	for (size_t i = 0; i < all.count; i++) {
		struct config_vm *config;

		if (checkpoint_config(vm, all.list[i].id, &config, NULL) < 0)
			continue;
		delete_boot_file(vm, config->kernel_path);
		delete_boot_file(vm, config->initrd_path);
		config_vm_free(config);
	}
	checkpoints_done(&all);
	if (asprintf(&folder, "%s/" BOOT_FOLDER, vm->folder) < 0)
		abort();
	rmdir(folder);
}

static void delete_file(int fd, const char *name)
{
	char temporary[64];

	unlinkat(fd, name, 0);
	/* What an interrupted config_save leaves. */
	snprintf(temporary, sizeof(temporary), ".%s.new", name);
	unlinkat(fd, temporary, 0);
}

/* The description, by whichever name, goes last: it says what else there is to delete. */
static void delete_folder(struct vm *vm)
{
	AUTO_FREE char *link = vm_store_path(vm->daemon, vm->id);
	static const char *const files[] = { LAST_STOP_FILE, "lock",        "worker.log",
					     "running",      METERING_FILE, "replaced.json",
					     BELOW_FILE,     REMOVED_FILE,  CONFIG_FILE };
	AUTO_CLOSE int fd = open_folder(vm->folder, NULL);

	if (fd >= 0)
		fold_remove_files(fd);
	delete_boot_files(vm);
	checkpoints_remove_all(vm);
	saved_remove_all(vm);
	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(files); i++)
		delete_file(fd, files[i]);
	drop_folder(vm->daemon, link);
}

static void sync_store(struct daemon *daemon)
{
	AUTO_FREE char *store = vm_store_path(daemon, NULL);
	AUTO_CLOSE int fd = open_folder(store, NULL);

	if (fd >= 0)
		fsync(fd);
}

static int save(struct vm *vm, const struct config_vm *config, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm->folder, err);

	return fd < 0 ? fd : config_save(fd, CONFIG_FILE, config, err);
}

void vm_enlist(struct vm *vm)
{
	struct daemon *daemon = vm->daemon;

	sync_store(daemon);
	add_to_list(vm);
	qsort(daemon->vms, daemon->vm_count, sizeof(struct vm *), compare_names);
}

/* What is interrupted here is a folder without a description: it goes at the next start. */
static int create_in_store(struct vm *vm, struct error *err)
{
	int r;

	if (mkdir(vm->folder, 0700) < 0)
		return error_set_errno(err, errno, "making the folder '%.200s'", vm->folder);
	r = save(vm, vm->config, err);
	if (r < 0)
		delete_folder(vm);
	return r;
}

static int create_elsewhere(struct vm *vm, struct error *err)
{
	AUTO_FREE char *link = vm_store_path(vm->daemon, vm->id);
	AUTO_FREE char *parent = text_folder(vm->folder);
	struct undo *undo = undo_new(vm->daemon);
	int r;

	undo_add(undo, UNDO_SHARED_FOLDER, parent);
	undo_add(undo, UNDO_OWN_FOLDER, vm->folder);
	undo_add(undo, UNDO_LINK, link);
	r = undo_begin(undo, err);
	if (r == 0)
		r = save(vm, vm->config, err);
	if (r == 0 && symlink(vm->folder, link) < 0)
		r = error_set_errno(err, errno, "making the link '%.200s'", link);
	if (r == 0)
		r = undo_commit(undo, err);
	undo_free(undo);
	return r;
}

int vm_create(struct daemon *daemon, struct config_vm *config, const char *folder, struct vm **ret,
	      struct error *err)
{
	char id[GUID_TEXT_SIZE];
	struct vm *vm;
	char *path;
	int r;

	guid_format(&config->id, id);
	path = folder ? strdup(folder) : vm_store_path(daemon, id);
	if (!path)
		abort();
	vm = vm_new(daemon, config, path);
	r = folder ? create_elsewhere(vm, err) : create_in_store(vm, err);
	if (r < 0) {
		vm_unref(vm);
		return r;
	}
	vm_enlist(vm);
	*ret = vm;
	return 0;
}

/* What is to be done with its disks after an interruption stands in the folder. That is to be
 * believed of our own, not of one from elsewhere. */
static int check_settled(const struct vm *vm, struct error *err)
{
	char id[GUID_TEXT_SIZE];

	if (!checkpoints_under_way(vm, id) && !fold_is_unsettled(vm) &&
	    !checkpoint_disks_unsettled(vm))
		return 0;
	return error_set(
	    err, ERR_STATE,
	    "a checkpoint or a merge of it was interrupted: the service that it was of "
	    "has to finish that before");
}

static bool is_same_folder(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int note_mergeable(struct vm *vm, bool mergeable, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm->folder, err);

	if (fd < 0)
		return fd;
	/* Of an attempt that was interrupted. */
	fold_remove_files(fd);
	return mergeable ? fold_want(vm, err) : 0;
}

int vm_place(struct daemon *daemon, struct config_vm *config, const char *folder, bool mergeable,
	     struct vm **ret, struct error *err)
{
	struct vm *vm = vm_new(daemon, config, realpath(folder, NULL));
	AUTO_FREE char *link = vm_store_path(daemon, vm->id);
	int r = 0;

	if (!vm->folder)
		r = error_set_errno(err, errno, "the folder '%.200s'", folder);
	if (r == 0)
		r = check_settled(vm, err);
	if (r == 0)
		r = note_mergeable(vm, mergeable, err);
	if (r == 0)
		r = save(vm, config, err);
	if (r == 0 && !is_same_folder(link, vm->folder) && symlink(vm->folder, link) < 0)
		r = error_set_errno(err, errno, "making the link '%.200s'", link);
	if (r < 0) {
		vm_unref(vm);
		return r;
	}
	*ret = vm;
	return 0;
}

int vm_register(struct daemon *daemon, struct config_vm *config, const char *folder, bool mergeable,
		struct vm **ret, struct error *err)
{
	int r = vm_place(daemon, config, folder, mergeable, ret, err);

	if (r == 0)
		vm_enlist(*ret);
	return r;
}

int vm_check_busy(const struct vm *vm, struct error *err)
{
	return vm->busy ? error_set(err, ERR_BUSY, "%s", vm->busy) : 0;
}

static int note_removed(struct vm *vm, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(vm->folder, NULL);

	/* Of a folder that is gone already there is nothing to remove. */
	if (fd < 0)
		return 0;
	if (renameat(fd, CONFIG_FILE, fd, REMOVED_FILE) < 0 && errno != ENOENT)
		return error_set_errno(err, errno, "removing its description");
	fsync(fd);
	return 0;
}

int vm_remove(struct vm *vm, struct error *err)
{
	int r = vm_check_busy(vm, err);

	if (r == 0 && vm->folding)
		r = error_set(err, ERR_BUSY, "its disks are being merged");
	if (r < 0)
		return r;
	if (!vm_is_down(vm))
		return error_set(err, ERR_STATE, "it is not off (its state is %s)",
				 vm_state_name(vm->state));
	/* From then on the VM does not exist. */
	r = note_removed(vm, err);
	if (r < 0)
		return r;
	delete_folder(vm);
	sync_store(vm->daemon);
	vm->removed = true;
	take_from_list(vm);
	vm_unref(vm);
	return 0;
}

struct config_vm *vm_config_copy(const struct vm *vm, struct error *err)
{
	json_t *json = config_vm_to_json(vm->config);
	struct config_vm *copy = NULL;

	if (!json)
		error_set(err, ERR_NO_MEMORY, "no memory for a description");
	else
		config_vm_from_json(json, &copy, err);
	json_decref(json);
	return copy;
}

int vm_change(struct vm *vm, struct config_vm *config, struct error *err)
{
	int r = vm_check_busy(vm, err);

	if (r == 0)
		return vm_follow(vm, config, err);
	config_vm_free(config);
	return r;
}

int vm_follow(struct vm *vm, struct config_vm *config, struct error *err)
{
	int r = config_vm_check(config, err);

	if (r == 0)
		r = save(vm, config, err);
	if (r < 0) {
		config_vm_free(config);
		return r;
	}
	config_vm_free(vm->config);
	vm->config = config;
	qsort(vm->daemon->vms, vm->daemon->vm_count, sizeof(struct vm *), compare_names);
	return 0;
}

/* ---- what is kept of a run ---- */

static json_t *time_json(void)
{
	time_t now = time(NULL);
	char text[32];
	struct tm tm;

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	return json_string(text);
}

void vm_note_stop(struct vm *vm, const char *reason, const char *text, const json_t *crash)
{
	AUTO_CLOSE int fd = open_folder(vm->folder, NULL);
	json_t *stop =
	    json_pack("{s:s, s:s, s:o}", "reason", reason, "text", text, "time", time_json());
	struct error err;

	if (!stop)
		return;
	if (crash)
		json_object_set(stop, "crash", (json_t *)crash);
	automatic_note_off(vm);
	json_decref(vm->last_stop);
	vm->last_stop = stop;
	if (!vm->removed && (fd < 0 || config_save_json(fd, LAST_STOP_FILE, stop, &err) < 0))
		log_warn("virtual machine '%s': why it stopped could not be written down",
			 vm->config->name);
}

void vm_event(struct vm *vm, enum event_kind kind, json_t *data, const char *fmt, ...)
{
	char message[768];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	events_write(vm->daemon->events, &(struct event){ .kind = kind,
							  .vm_name = vm->config->name,
							  .vm_id = vm->id,
							  .message = message,
							  .data = data });
}

/* ---- waiting ---- */

void vm_wait(struct vm *vm, enum vm_wait what, vm_done done, void *user, void *owner)
{
	struct vm_waiter *waiter = malloc(sizeof(*waiter));

	if (!waiter)
		abort();
	*waiter = (struct vm_waiter){ vm_ref(vm), what, done, user, owner, vm->waiters };
	vm->waiters = waiter;
}

static void finish(struct vm_waiter *waiter, const struct error *err)
{
	struct vm *vm = waiter->vm;

	waiter->done(waiter->user, vm, err);
	free(waiter);
	vm_unref(vm);
}

void vm_wake(struct vm *vm, enum vm_wait what, const struct error *err)
{
	struct vm_waiter *matching = NULL, **link = &vm->waiters;

	/* First taken out of the list, then called: a callback may wait anew. */
	while (*link) {
		struct vm_waiter *waiter = *link;

		if (waiter->what != what) {
			link = &waiter->next;
			continue;
		}
		*link = waiter->next;
		waiter->next = matching;
		matching = waiter;
	}
	vm_ref(vm);
	while (matching) {
		struct vm_waiter *waiter = matching;

		matching = waiter->next;
		finish(waiter, err);
	}
	vm_unref(vm);
}

static struct vm_waiter *take_waiter(struct daemon *daemon, const void *owner)
{
	for (size_t i = 0; i < daemon->vm_count; i++)
		for (struct vm_waiter **link = &daemon->vms[i]->waiters; *link;
		     link = &(*link)->next)
			if ((*link)->owner == owner || (*link)->user == owner) {
				struct vm_waiter *waiter = *link;

				*link = waiter->next;
				return waiter;
			}
	return NULL;
}

void vm_cancel_waits(struct daemon *daemon, const void *owner, const struct error *err)
{
	struct vm_waiter *waiter;

	while ((waiter = take_waiter(daemon, owner)))
		finish(waiter, err);
}

void vm_end_waits(struct vm *vm, const struct error *err)
{
	struct vm_waiter *waiter;

	while ((waiter = vm->waiters)) {
		vm->waiters = waiter->next;
		finish(waiter, err);
	}
}
