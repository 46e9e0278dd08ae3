#include "checkpoints.h"

#include "base/log.h"
#include "base/macros.h"
#include "base/mark.h"
#include "base/text.h"
#include "checkpoint-disks.h"
#include "config/config-json.h"
#include "run.h"
#include "saved.h"
#include "state/file.h"

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
#define LAYERS_FILE "layers.json"
#define MARK_FILE   "mark"
#define PRODUCTION  "Production"
#define STANDARD    "Standard"

/* ---- paths ---- */

char *checkpoints_folder(const char *vm_folder, const struct config_vm *config)
{
	char *path = NULL;

	if (config->checkpoint_folder)
		path = strdup(config->checkpoint_folder);
	else if (asprintf(&path, "%s/" FOLDER, vm_folder) < 0)
		path = NULL;
	if (!path)
		abort();
	return path;
}

static char *path_in(const char *folder, const char *id, const char *suffix, const char *file)
{
	char *path = NULL;

	if (asprintf(&path, "%s%s%s%s%s%s", folder, id ? "/" : "", id ? id : "",
		     suffix ? suffix : "", file ? "/" : "", file ? file : "") < 0)
		abort();
	return path;
}

/* Any of the three may be NULL or "". */
static char *path_of(const struct vm *vm, const char *id, const char *suffix, const char *file)
{
	AUTO_FREE char *folder = checkpoints_folder(vm->folder, vm->config);

	return path_in(folder, id, suffix, file);
}

char *checkpoint_memory_in(const char *folder, const char *id)
{
	return path_in(folder, id, NULL, MEMORY_FILE);
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
	static const char *const files[] = { DESCRIPTION,
					     CONFIG_FILE,
					     MEMORY_FILE,
					     LAYERS_FILE,
					     MARK_FILE,
					     "." DESCRIPTION ".new",
					     "." CONFIG_FILE ".new",
					     "." LAYERS_FILE ".new" };
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

static int load_one(const char *folder, const char *id, struct checkpoint *ret, struct error *err)
{
	AUTO_FREE char *path = path_in(folder, id, NULL, NULL);
	AUTO_CLOSE int fd = open_folder(path, err);
	const char *name, *created, *parent, *type;
	struct guid guid;
	json_t *json;
	int r = fd < 0 ? fd : config_load_json(fd, DESCRIPTION, &json, err);

	if (r < 0)
		return r;
	name = json_string_value(json_object_get(json, "name"));
	created = json_string_value(json_object_get(json, "created"));
	parent = json_string_value(json_object_get(json, "parent"));
	type = json_string_value(json_object_get(json, "type"));
	if (!name || !created || (parent && !guid_parse(parent, &guid))) {
		json_decref(json);
		return error_set(err, ERR_CORRUPT, "'%s' of %s lacks name or time", DESCRIPTION,
				 id);
	}
	*ret = (struct checkpoint){ .name = strdup(name),
				    .created = strdup(created),
				    .parent = parent ? strdup(parent) : NULL,
				    .has_memory = has_file(fd, MEMORY_FILE),
				    .production = type && strcmp(type, PRODUCTION) == 0,
				    .automatic = json_is_true(json_object_get(json, "automatic")),
				    .temporary = json_is_true(json_object_get(json, "temporary")) };
	snprintf(ret->id, sizeof(ret->id), "%s", id);
	json_decref(json);
	return 0;
}

static int compare_times(const void *a, const void *b)
{
	return strcmp(((const struct checkpoint *)a)->created,
		      ((const struct checkpoint *)b)->created);
}

size_t checkpoints_load_from(const char *path, struct checkpoints *ret)
{
	size_t unreadable = 0;
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
		if (load_one(path, entry->d_name, &ret->list[ret->count], &err) == 0)
			ret->count++;
		else if (++unreadable)
			log_error("a checkpoint in '%s' can't be read: %s", path, err.text);
	}
	if (folder)
		closedir(folder);
	if (ret->count)
		qsort(ret->list, ret->count, sizeof(*ret->list), compare_times);
	return unreadable;
}

size_t checkpoints_load(const struct vm *vm, struct checkpoints *ret)
{
	AUTO_FREE char *folder = checkpoints_folder(vm->folder, vm->config);

	return checkpoints_load_from(folder, ret);
}

static void checkpoint_done(struct checkpoint *checkpoint)
{
	free(checkpoint->name);
	free(checkpoint->created);
	free(checkpoint->parent);
}

void checkpoints_done(struct checkpoints *checkpoints)
{
	for (size_t i = 0; i < checkpoints->count; i++)
		checkpoint_done(&checkpoints->list[i]);
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
	text_mend(name);
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

static int write_description(const char *folder, const struct checkpoint *checkpoint,
			     struct error *err)
{
	AUTO_CLOSE int fd = open_folder(folder, err);
	json_t *json = json_pack(
	    "{s:i, s:s, s:s, s:s, s:s, s:b, s:b, s:s*}", "version", 1, "id", checkpoint->id, "name",
	    checkpoint->name, "created", checkpoint->created, "type",
	    checkpoint->production ? PRODUCTION : STANDARD, "automatic", checkpoint->automatic,
	    "temporary", checkpoint->temporary, "parent", checkpoint->parent);
	int r = fd < 0 ? fd : config_save_json(fd, DESCRIPTION, json, err);

	json_decref(json);
	return r;
}

static void time_of_now(char ret[static 40])
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(ret, 40, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(ret + strlen(ret), 8, ".%03uZ", (unsigned)(now.tv_nsec / 1000000) % 1000);
}

static int fill(struct vm *vm, const struct checkpoint *checkpoint, const json_t *plan,
		struct error *err)
{
	AUTO_FREE char *path = path_of(vm, checkpoint->id, ".new", NULL);
	AUTO_CLOSE int fd = open_folder(path, err);
	struct checkpoint first = *checkpoint;
	char created[40];
	int r = fd < 0 ? fd : save_config(vm, fd, err);

	time_of_now(created);
	first.created = created;
	first.parent = vm->config->parent_checkpoint;
	if (r == 0)
		r = write_description(path, &first, err);
	/* Last: from here on disks may be made. */
	return r < 0 ? r : config_save_json(fd, LAYERS_FILE, plan, err);
}

int checkpoint_begin(struct vm *vm, struct checkpoint *ret, const json_t *plan, struct error *err)
{
	AUTO_FREE char *parent = path_of(vm, NULL, NULL, NULL), *path = NULL;
	struct guid id;
	int r;

	guid_generate(&id);
	guid_format(&id, ret->id);
	r = config_make_private_folder(parent, err);
	if (r < 0)
		return r;
	path = path_of(vm, ret->id, ".new", NULL);
	if (mkdir(path, 0700) < 0)
		return error_set_errno(err, errno, "making the folder '%.200s'", path);
	r = fill(vm, ret, plan, err);
	if (r < 0)
		checkpoint_abandon(vm, ret->id);
	else
		sync_folder(parent);
	return r;
}

static int load_new(const struct vm *vm, const char *id, struct checkpoint *ret, struct error *err)
{
	AUTO_FREE char *folder = checkpoints_folder(vm->folder, vm->config);
	char name[GUID_TEXT_SIZE + sizeof(".new")];

	snprintf(name, sizeof(name), "%s.new", id);
	return load_one(folder, name, ret, err);
}

int checkpoint_make_standard(struct vm *vm, struct checkpoint *checkpoint, struct error *err)
{
	AUTO_FREE char *path = path_of(vm, checkpoint->id, ".new", NULL);
	struct checkpoint was;
	int r = load_new(vm, checkpoint->id, &was, err);

	if (r < 0)
		return r;
	checkpoint->production = was.production = false;
	r = write_description(path, &was, err);
	checkpoint_done(&was);
	return r;
}

int checkpoint_make_memory(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", MEMORY_FILE);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

	return fd < 0 ? error_set_errno(err, errno, "making '%.200s'", path) : fd;
}

int checkpoint_make_mark(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", NULL);
	AUTO_CLOSE int folder = open_folder(path, err);
	int fd = folder < 0 ? folder : mark_make(folder, MARK_FILE, err);

	/* With the names of mark and memory. */
	if (fd >= 0)
		fsync(folder);
	return fd;
}

int checkpoint_link_memory(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *from = saved_memory_path(vm, vm->config->saved_state);
	AUTO_FREE char *to = path_of(vm, id, ".new", MEMORY_FILE);

	return link(from, to) < 0 ? error_set_errno(err, errno, "linking '%.200s'", to) : 0;
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

static int settle_name(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *from = path_of(vm, id, ".new", NULL), *to = path_of(vm, id, NULL, NULL);
	AUTO_FREE char *layers = path_of(vm, id, ".new", LAYERS_FILE);
	AUTO_FREE char *mark = path_of(vm, id, ".new", MARK_FILE);
	AUTO_FREE char *parent = path_of(vm, NULL, NULL, NULL);

	unlink(layers);
	unlink(mark);
	if (rename(from, to) < 0)
		return error_set_errno(err, errno, "naming '%.200s'", to);
	sync_folder(parent);
	return 0;
}

/* For the event: how long the guest stood still, where it ran on. */
static json_t *pause_of(const struct vm *vm)
{
	const json_t *save = vm->run ? vm->run->last_save : NULL;
	json_t *pause = json_object_get(save, "pause_ns");

	return pause ? json_pack("{s:f, s:O*}", "PauseMilliseconds",
				 (double)json_integer_value(pause) / 1e6, "BytesWritten",
				 json_object_get(save, "ram_bytes_written"))
		     : NULL;
}

/* The tree hangs together by what is the VM's checkpoint now. */
static int complete(struct vm *vm, const char *id, struct config_vm *config, struct checkpoint *ret,
		    struct error *err)
{
	AUTO_FREE char *folder = path_of(vm, id, ".new", NULL);
	struct checkpoint described;
	int r = load_new(vm, id, ret, err);

	if (r < 0)
		return r;
	snprintf(ret->id, sizeof(ret->id), "%s", id);
	described = *ret;
	described.parent = vm->config->parent_checkpoint;
	r = write_description(folder, &described, err);
	if (r == 0)
		r = config_set_string(&config->parent_checkpoint, id, err);
	if (r < 0)
		checkpoint_done(ret);
	return r;
}

/* Takes config. ret_durable: vm.json has it. */
static int commit(struct vm *vm, const char *id, struct config_vm *config, bool *ret_durable,
		  struct error *err)
{
	AUTO_FREE char *folder = path_of(vm, id, ".new", NULL);
	AUTO_FREE char *parent = path_of(vm, NULL, NULL, NULL);
	struct checkpoint checkpoint;
	int r = complete(vm, id, config, &checkpoint, err);

	*ret_durable = false;
	if (r < 0) {
		config_vm_free(config);
		return r;
	}
	sync_folder(folder);
	sync_folder(parent);
	r = vm_change(vm, config, err);
	*ret_durable = r == 0;
	if (r == 0)
		r = settle_name(vm, id, err);
	if (r == 0)
		vm_event(vm, EVENT_VM_CHECKPOINT, pause_of(vm),
			 "The checkpoint '%s' of '%s' was taken.", checkpoint.name,
			 vm->config->name);
	checkpoint_done(&checkpoint);
	return r;
}

int checkpoint_commit(struct vm *vm, const char *id, struct config_vm *config, struct error *err)
{
	bool durable;
	int r = commit(vm, id, config, &durable, err);

	if (r < 0 && !durable)
		checkpoint_abandon(vm, id);
	return r;
}

static json_t *load_plan(const struct vm *vm, const char *id)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", NULL);
	AUTO_CLOSE int fd = open_folder(path, NULL);
	json_t *plan = NULL;

	if (fd >= 0)
		config_load_json(fd, LAYERS_FILE, &plan, NULL);
	return plan;
}

void checkpoint_abandon(struct vm *vm, const char *id)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", NULL);
	json_t *plan = load_plan(vm, id);

	checkpoint_disks_undo(vm, plan);
	json_decref(plan);
	delete_folder(path);
}

/* ---- settling one of a VM that runs or ran ---- */

static bool memory_is_whole(int folder)
{
	AUTO_CLOSE int fd =
	    openat(folder, MEMORY_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct state_file file;

	return fd < 0 ? errno == ENOENT : state_file_open(fd, &file, NULL) == 0;
}

/* The VM's disks are the new ones. */
static int follow(struct vm *vm, const char *id, bool whole, struct error *err)
{
	json_t *plan = load_plan(vm, id);
	struct config_vm *config = vm_config_copy(vm, err);
	bool durable;
	int r = config ? checkpoint_disks_follow(config, plan, err) : -(int)err->code;

	if (r == 0 && !whole)
		r = checkpoint_disks_leave(vm, plan, err);
	json_decref(plan);
	if (r < 0) {
		config_vm_free(config);
		return r;
	}
	return whole ? commit(vm, id, config, &durable, err) : vm_change(vm, config, err);
}

int checkpoint_settle(struct vm *vm, const char *id, struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", NULL);
	AUTO_CLOSE int folder = open_folder(path, err);
	bool passed, whole;
	int r;

	if (folder < 0)
		return folder;
	passed = mark_close(folder, MARK_FILE);
	whole = passed && memory_is_whole(folder);
	r = passed ? follow(vm, id, whole, err) : 0;
	if (r < 0 || whole)
		return r;
	checkpoint_abandon(vm, id);
	return error_set(err, ERR_CANCELLED, "the checkpoint was interrupted");
}

/* ---- what is done with them ---- */

int checkpoint_config_from(const char *folder, const char *id, struct config_vm **ret,
			   struct error *err)
{
	AUTO_FREE char *path = path_in(folder, id, NULL, NULL);
	AUTO_CLOSE int fd = open_folder(path, err);

	return fd < 0 ? fd : config_load(fd, CONFIG_FILE, ret, err);
}

int checkpoint_config(const struct vm *vm, const char *id, struct config_vm **ret,
		      struct error *err)
{
	AUTO_FREE char *folder = checkpoints_folder(vm->folder, vm->config);

	return checkpoint_config_from(folder, id, ret, err);
}

int checkpoint_write(const char *folder, const struct checkpoint *checkpoint,
		     const struct config_vm *config, struct error *err)
{
	AUTO_FREE char *path = path_in(folder, checkpoint->id, NULL, NULL);
	AUTO_CLOSE int fd = open_folder(path, err);
	int r = fd < 0 ? fd : config_save(fd, CONFIG_FILE, config, err);

	return r < 0 ? r : write_description(path, checkpoint, err);
}

static int rename_disk(struct vm *vm, const char *id, const char *old, const char *new,
		       struct error *err)
{
	AUTO_FREE char *path = path_of(vm, id, NULL, NULL);
	AUTO_CLOSE int fd = open_folder(path, err);
	struct config_vm *config;
	int r = fd < 0 ? fd : config_load(fd, CONFIG_FILE, &config, err);

	if (r < 0)
		return r;
	r = checkpoint_disks_rename(config, old, new, err);
	if (r == 1)
		r = config_save(fd, CONFIG_FILE, config, err);
	config_vm_free(config);
	return r;
}

int checkpoints_rename_disk(struct vm *vm, const char *old, const char *new, struct error *err)
{
	struct checkpoints all;
	int r = 0;

	checkpoints_load(vm, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		r = rename_disk(vm, all.list[i].id, old, new, err);
	checkpoints_done(&all);
	return r;
}

int checkpoint_rename(struct vm *vm, const struct checkpoint *checkpoint, const char *name,
		      struct error *err)
{
	AUTO_FREE char *path = path_of(vm, checkpoint->id, NULL, NULL);
	struct checkpoint renamed = *checkpoint;

	renamed.name = (char *)name;
	return write_description(path, &renamed, err);
}

int checkpoint_remove_memory(struct vm *vm, const struct checkpoint *checkpoint, struct error *err)
{
	AUTO_FREE char *path = checkpoint_memory_path(vm, checkpoint->id);
	AUTO_FREE char *folder = path_of(vm, checkpoint->id, NULL, NULL);

	if (unlink(path) < 0)
		return error_set_errno(err, errno, "removing '%.200s'", path);
	sync_folder(folder);
	return 0;
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
	AUTO_FREE char *folder = checkpoints_folder(vm->folder, vm->config);
	struct checkpoint gone;
	struct error err;

	if (load_one(folder, name, &gone, &err) < 0)
		return; /* its folder was being deleted: the children are away already */
	if (adopt_children(vm, &gone, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
	checkpoint_done(&gone);
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

	if (path && access(path, F_OK) == 0 && settle_name(vm, id, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
}

/* Else nothing has been made for it. */
static bool is_under_way(const struct vm *vm, const char *id)
{
	AUTO_FREE char *path = path_of(vm, id, ".new", LAYERS_FILE);

	return access(path, F_OK) == 0;
}

bool checkpoints_under_way(const struct vm *vm, char ret_id[static GUID_TEXT_SIZE])
{
	AUTO_FREE char *path = path_of(vm, NULL, NULL, NULL);
	DIR *folder = opendir(path);
	struct dirent *entry;
	struct guid guid;
	bool found = false;

	while (folder && !found && (entry = readdir(folder))) {
		const char *rest = strchr(entry->d_name, '.');

		if (!rest || strcmp(rest, ".new") != 0)
			continue;
		snprintf(ret_id, GUID_TEXT_SIZE, "%.*s", (int)(rest - entry->d_name),
			 entry->d_name);
		found = guid_parse(ret_id, &guid) && is_under_way(vm, ret_id);
	}
	if (folder)
		closedir(folder);
	return found;
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

int checkpoints_clean_up(struct vm *vm, struct error *err)
{
	char id[GUID_TEXT_SIZE];

	settle_own(vm);
	while (checkpoints_under_way(vm, id)) {
		struct error why;

		if (checkpoint_settle(vm, id, &why) < 0 && is_under_way(vm, id)) {
			if (err)
				*err = why;
			return error_prefix(err, "finishing an interrupted checkpoint");
		}
	}
	finish_removals(vm);
	checkpoint_disks_replaced(vm);
	sweep(vm, false);
	return 0;
}

void checkpoints_remove_all(struct vm *vm)
{
	sweep(vm, true);
}
