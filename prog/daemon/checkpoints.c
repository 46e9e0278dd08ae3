#include "checkpoints.h"

#include "base/log.h"
#include "base/macros.h"
#include "config/config-json.h"
#include "saved.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FOLDER      "checkpoints"
#define DESCRIPTION "checkpoint.json"
#define CONFIG_FILE "vm.json"
#define MEMORY_FILE "memory"

/* ---- paths ---- */

/* Any of the three may be NULL or "". */
static char *path_of(const struct vm *vm, const char *id, const char *suffix, const char *file)
{
	char *path = NULL;

	if (asprintf(&path, "%s/" FOLDER "%s%s%s%s%s", vm->folder, id ? "/" : "", id ? id : "",
		     suffix ? suffix : "", file ? "/" : "", file ? file : "") < 0)
		abort();
	return path;
}

char *checkpoint_memory_path(const struct vm *vm, const char *id)
{
	return path_of(vm, id, NULL, MEMORY_FILE);
}

static int open_folder(const char *path, struct error *err)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_set_errno(err, errno, "opening the folder '%.200s'", path) : fd;
}

static void sync_folder(const char *path)
{
	AUTO_CLOSE int fd = open_folder(path, NULL);

	if (fd >= 0)
		fsync(fd);
}

static void delete_folder(const char *path)
{
	static const char *const files[] = { DESCRIPTION, CONFIG_FILE, MEMORY_FILE,
					     "." DESCRIPTION ".new", "." CONFIG_FILE ".new" };
	AUTO_CLOSE int fd = open_folder(path, NULL);

	for (size_t i = 0; fd >= 0 && i < ARRAY_SIZE(files); i++)
		unlinkat(fd, files[i], 0);
	rmdir(path);
}

/* ---- the list ---- */

static bool has_file(int fd, const char *file)
{
	return faccessat(fd, file, F_OK, 0) == 0;
}

static int load_one(const struct vm *vm, const char *id, struct checkpoint *ret, struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, NULL, NULL);
	AUTO_CLOSE int fd = open_folder(path, err);
	const char *name, *created, *parent;
	struct guid guid;
	json_t *json;
	int r = fd < 0 ? fd : config_load_json(fd, DESCRIPTION, &json, err);

	if (r < 0)
		return r;
	name = json_string_value(json_object_get(json, "name"));
	created = json_string_value(json_object_get(json, "created"));
	parent = json_string_value(json_object_get(json, "parent"));
	if (!name || !created || (parent && !guid_parse(parent, &guid))) {
		json_decref(json);
		return error_set(err, ERR_CORRUPT, "'%s' of %s lacks name or time", DESCRIPTION,
				 id);
	}
	*ret = (struct checkpoint){ .name = strdup(name),
				    .created = strdup(created),
				    .parent = parent ? strdup(parent) : NULL,
				    .has_memory = has_file(fd, MEMORY_FILE) };
	snprintf(ret->id, sizeof(ret->id), "%s", id);
	json_decref(json);
	return 0;
}

static int compare_times(const void *a, const void *b)
{
	return strcmp(((const struct checkpoint *)a)->created,
		      ((const struct checkpoint *)b)->created);
}

void checkpoints_load(const struct vm *vm, struct checkpoints *ret)
{
	AUTO_FREE char *path = path_of(vm, NULL, NULL, NULL);
	DIR *folder = opendir(path);
	struct dirent *entry;
	struct guid guid;

	*ret = (struct checkpoints){ 0 };
	while (folder && (entry = readdir(folder))) {
		struct checkpoint *grown;
		struct error err;

		if (strlen(entry->d_name) != GUID_TEXT_SIZE - 1 ||
		    !guid_parse(entry->d_name, &guid))
			continue;
		grown = realloc(ret->list, (ret->count + 1) * sizeof(*grown));
		if (!grown)
			abort();
		ret->list = grown;
		if (load_one(vm, entry->d_name, &ret->list[ret->count], &err) == 0)
			ret->count++;
		else
			log_error("virtual machine '%s': a checkpoint can't be read: %s",
				  vm->config->name, err.text);
	}
	if (folder)
		closedir(folder);
	if (ret->count)
		qsort(ret->list, ret->count, sizeof(*ret->list), compare_times);
}

void checkpoints_done(struct checkpoints *checkpoints)
{
	for (size_t i = 0; i < checkpoints->count; i++) {
		free(checkpoints->list[i].name);
		free(checkpoints->list[i].created);
		free(checkpoints->list[i].parent);
	}
	free(checkpoints->list);
	*checkpoints = (struct checkpoints){ 0 };
}

const struct checkpoint *checkpoints_find(const struct checkpoints *checkpoints, const char *id)
{
	for (size_t i = 0; id && i < checkpoints->count; i++)
		if (strcasecmp(checkpoints->list[i].id, id) == 0)
			return &checkpoints->list[i];
	return NULL;
}

/* ---- a new one ---- */

char *checkpoint_default_name(const struct vm *vm)
{
	time_t now = time(NULL);
	char *name = NULL;
	struct tm tm;
	int hour;

	localtime_r(&now, &tm);
	hour = tm.tm_hour % 12 ? tm.tm_hour % 12 : 12;
	if (asprintf(&name, "%.60s - (%d/%d/%d - %d:%02d:%02d %s)", vm->config->name, tm.tm_mon + 1,
		     tm.tm_mday, tm.tm_year + 1900, hour, tm.tm_min, tm.tm_sec,
		     tm.tm_hour < 12 ? "AM" : "PM") < 0)
		abort();
	return name;
}

/* The description as the checkpoint keeps it: of a VM that goes on from no saved state. */
static int save_config(struct vm *vm, int fd, struct error *err)
{
	struct config_vm *config = vm_config_copy(vm, err);
	int r;

	if (!config)
		return -(int)err->code;
	config_set_string(&config->saved_state, NULL, NULL);
	r = config_save(fd, CONFIG_FILE, config, err);
	config_vm_free(config);
	return r;
}

int checkpoint_begin(struct vm *vm, char ret_id[static GUID_TEXT_SIZE], struct error *err)
{
	AUTO_FREE char *parent = path_of(vm, NULL, NULL, NULL), *path = NULL;
	struct guid id;
	int r, fd;

	guid_generate(&id);
	guid_format(&id, ret_id);
	r = config_make_private_folder(parent, err);
	if (r < 0)
		return r;
	path = path_of(vm, ret_id, ".new", NULL);
	if (mkdir(path, 0700) < 0)
		return error_set_errno(err, errno, "making the folder '%.200s'", path);
	fd = open_folder(path, err);
	r = fd < 0 ? fd : save_config(vm, fd, err);
	if (fd >= 0)
		close(fd);
	if (r < 0)
		checkpoint_abandon(vm, ret_id);
	return r;
}

int checkpoint_make_memory(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", MEMORY_FILE);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? error_set_errno(err, errno, "making '%.200s'", path) : fd;
}

int checkpoint_link_memory(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *from = saved_memory_path(vm, vm->config->saved_state);
	AUTO_FREE char *to = path_of(vm, id, ".new", MEMORY_FILE);

	return link(from, to) < 0 ? error_set_errno(err, errno, "linking '%.200s'", to) : 0;
}

static int write_description(const char *folder, const struct checkpoint *checkpoint,
			     struct error *err)
{
	AUTO_CLOSE int fd = open_folder(folder, err);
	json_t *json =
	    json_pack("{s:i, s:s, s:s, s:s, s:s, s:s*}", "version", 1, "id", checkpoint->id, "name",
		      checkpoint->name, "created", checkpoint->created, "type", "Standard",
		      "parent", checkpoint->parent);
	int r = fd < 0 ? fd : config_save_json(fd, DESCRIPTION, json, err);

	json_decref(json);
	return r;
}

static int set_parent(struct vm *vm, const char *id, struct error *err)
{
	struct config_vm *config = vm_config_copy(vm, err);

	if (!config)
		return -(int)err->code;
	if (config_set_string(&config->parent_checkpoint, id, err) < 0) {
		config_vm_free(config);
		return -(int)err->code;
	}
	return vm_change(vm, config, err);
}

static void describe(struct checkpoint *checkpoint, char created[static 40])
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(created, 40, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(created + strlen(created), 8, ".%03uZ", (unsigned)(now.tv_nsec / 1000000) % 1000);
	checkpoint->created = created;
}

static int settle(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *from = path_of(vm, id, ".new", NULL), *to = path_of(vm, id, NULL, NULL);
	AUTO_FREE char *parent = path_of(vm, NULL, NULL, NULL);

	if (rename(from, to) < 0)
		return error_set_errno(err, errno, "naming '%.200s'", to);
	sync_folder(parent);
	return 0;
}

int checkpoint_commit(struct vm *vm, const char *id, const char *name, struct config_vm *config,
		      struct error *err)
{
	AUTO_FREE char *folder = path_of(vm, id, ".new", NULL);
	AUTO_FREE char *parent = path_of(vm, NULL, NULL, NULL);
	struct checkpoint checkpoint = { .name = (char *)name,
					 .parent = vm->config->parent_checkpoint };
	char created[40];
	int r;

	describe(&checkpoint, created);
	snprintf(checkpoint.id, sizeof(checkpoint.id), "%s", id);
	r = write_description(folder, &checkpoint, err);
	if (r == 0)
		r = config_set_string(&config->parent_checkpoint, id, err);
	if (r < 0) {
		config_vm_free(config);
	} else {
		sync_folder(folder);
		sync_folder(parent);
		r = vm_change(vm, config, err);
	}
	if (r == 0)
		return settle(vm, id, err);
	checkpoint_abandon(vm, id);
	return r;
}

void checkpoint_abandon(struct vm *vm, const char *id)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", NULL);

	delete_folder(path);
}

/* ---- what is done with them ---- */

int checkpoint_config(const struct vm *vm, const char *id, struct config_vm **ret,
		      struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, NULL, NULL);
	AUTO_CLOSE int fd = open_folder(path, err);

	return fd < 0 ? fd : config_load(fd, CONFIG_FILE, ret, err);
}

int checkpoint_rename(struct vm *vm, const struct checkpoint *checkpoint, const char *name,
		      struct error *err)
{
	AUTO_FREE char *path = path_of(vm, checkpoint->id, NULL, NULL);
	struct checkpoint renamed = *checkpoint;

	renamed.name = (char *)name;
	return write_description(path, &renamed, err);
}

static int adopt_children(struct vm *vm, const struct checkpoint *gone, struct error *err)
{
	struct checkpoints all;
	int r = 0;

	checkpoints_load(vm, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		AUTO_FREE char *path = path_of(vm, all.list[i].id, NULL, NULL);
		struct checkpoint child = all.list[i];

		if (!child.parent || strcmp(child.parent, gone->id) != 0)
			continue;
		child.parent = gone->parent;
		r = write_description(path, &child, err);
	}
	checkpoints_done(&all);
	if (r == 0 && vm->config->parent_checkpoint &&
	    strcmp(vm->config->parent_checkpoint, gone->id) == 0)
		r = set_parent(vm, gone->parent, err);
	return r;
}

int checkpoint_remove(struct vm *vm, const struct checkpoint *checkpoint, struct error *err)
{
	AUTO_FREE char *folder = path_of(vm, NULL, NULL, NULL);
	AUTO_FREE char *path = path_of(vm, checkpoint->id, NULL, NULL);
	AUTO_FREE char *removed = path_of(vm, checkpoint->id, ".removed", NULL);
	int r;

	/* The name decides. Were the children given away before, an interruption would leave a
	 * checkpoint that seems to have none, and whose disks then go although they lie on them. */
	if (rename(path, removed) < 0)
		return error_set_errno(err, errno, "removing '%.200s'", path);
	sync_folder(folder);
	r = adopt_children(vm, checkpoint, err);
	if (r < 0) {
		if (rename(removed, path) < 0)
			log_error("virtual machine '%s': the removal of a checkpoint is finished "
				  "when the service starts again",
				  vm->config->name);
		return r;
	}
	delete_folder(removed);
	return 0;
}

/* Its removal was interrupted behind the name. */
static void finish_removal(struct vm *vm, const char *name)
{
	struct checkpoint gone;
	struct error err;

	if (load_one(vm, name, &gone, &err) < 0)
		return; /* its folder was being deleted: the children are away already */
	if (adopt_children(vm, &gone, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
	free(gone.name);
	free(gone.created);
	free(gone.parent);
}

static void finish_removals(struct vm *vm)
{
	AUTO_FREE char *path = path_of(vm, NULL, NULL, NULL);
	DIR *folder = opendir(path);
	struct dirent *entry;

	while (folder && (entry = readdir(folder)))
		if (strstr(entry->d_name, ".removed"))
			finish_removal(vm, entry->d_name);
	if (folder)
		closedir(folder);
}

/* The service was interrupted between vm.json and the name. */
static void settle_own(struct vm *vm)
{
	const char *id = vm->config->parent_checkpoint;
	AUTO_FREE char *path = id ? path_of(vm, id, ".new", NULL) : NULL;
	struct error err;

	if (path && access(path, F_OK) == 0 && settle(vm, id, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
}

static void sweep(struct vm *vm, bool all)
{
	AUTO_FREE char *path = path_of(vm, NULL, NULL, NULL);
	DIR *folder = opendir(path);
	struct dirent *entry;

	while (folder && (entry = readdir(folder))) {
		AUTO_FREE char *child = path_of(vm, entry->d_name, NULL, NULL);
		bool rest = strstr(entry->d_name, ".new") || strstr(entry->d_name, ".removed");

		if (entry->d_name[0] != '.' && (all || rest))
			delete_folder(child);
	}
	if (folder)
		closedir(folder);
	if (all)
		rmdir(path);
}

void checkpoints_clean_up(struct vm *vm)
{
	settle_own(vm);
	finish_removals(vm);
	sweep(vm, false);
}

void checkpoints_remove_all(struct vm *vm)
{
	sweep(vm, true);
}
