#include "checkpoint-below.h"

#include "base/log.h"
#include "base/macros.h"
#include "checkpoint-disks.h"
#include "config/config-json.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int open_folder(const char *folder)
{
	return open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* An object, the caller's. */
static json_t *load(const struct vm *vm)
{
	AUTO_CLOSE int fd = open_folder(vm->folder);
	json_t *below = NULL;

	if (fd < 0 || config_load_json(fd, BELOW_FILE, &below, NULL) < 0 ||
	    !json_is_object(below)) {
		json_decref(below);
		below = json_object();
	}
	return below;
}

int below_write(const char *folder, const json_t *below, struct error *err)
{
	AUTO_CLOSE int fd = open_folder(folder);

	if (fd < 0)
		return error_set_errno(err, errno, "opening the folder '%.200s'", folder);
	if (json_object_size(below))
		return config_save_json(fd, BELOW_FILE, below, err);
	return unlinkat(fd, BELOW_FILE, 0) < 0 && errno != ENOENT
		   ? error_set_errno(err, errno, "removing '%s'", BELOW_FILE)
		   : 0;
}

/* Takes below. */
static int save(const struct vm *vm, json_t *below, struct error *err)
{
	int r = below_write(vm->folder, below, err);

	json_decref(below);
	return r;
}

static bool lists(const json_t *paths, const char *path)
{
	size_t i;
	json_t *each;

	json_array_foreach(paths, i, each)
	{
		if (json_is_string(each) && strcmp(json_string_value(each), path) == 0)
			return true;
	}
	return false;
}

/* The layers that are there, once each; what is no layer of ours is never deleted. */
static void add_all(json_t *to, const json_t *paths)
{
	size_t i;
	json_t *each;

	json_array_foreach(paths, i, each)
	{
		const char *path = json_string_value(each);

		if (path && checkpoint_disk_was_made_here(path) && access(path, F_OK) == 0 &&
		    !lists(to, path))
			json_array_append(to, each);
	}
}

static bool is_below_one(const json_t *disks, const char *path)
{
	size_t i;
	json_t *each;

	json_array_foreach(disks, i, each)
	{
		if (path && json_is_string(each) &&
		    checkpoint_disk_is_below(json_string_value(each), path))
			return true;
	}
	return false;
}

/* Of what the file says is below these disks only what can be, by its name: it may have come from
 * elsewhere with the VM's folder, or a disk's place have been given to another disk. */
static void add_believed(json_t *to, const json_t *paths)
{
	json_t *believed = json_array(), *each;
	size_t i;

	json_array_foreach(paths, i, each)
	{
		if (is_below_one(to, json_string_value(each)))
			json_array_append(believed, each);
	}
	add_all(to, believed);
	json_decref(believed);
}

static void give(json_t *below, const char *key, const json_t *paths)
{
	json_t *to = json_array();

	add_all(to, json_object_get(below, key));
	add_all(to, paths);
	if (json_array_size(to))
		json_object_set(below, key, to);
	json_decref(to);
}

int below_inherit(const struct vm *vm, const struct checkpoints *all, const struct checkpoint *gone,
		  const json_t *disks, struct error *err)
{
	json_t *below = load(vm), *paths = json_array();
	const char *current = vm->config->parent_checkpoint;

	add_all(paths, disks);
	add_believed(paths, json_object_get(below, gone->id));
	if (current && strcmp(current, gone->id) == 0)
		give(below, BELOW_VM, paths);
	for (size_t i = 0; i < all->count; i++)
		if (all->list[i].parent && strcmp(all->list[i].parent, gone->id) == 0)
			give(below, all->list[i].id, paths);
	json_decref(paths);
	return save(vm, below, err);
}

int below_leave(const struct vm *vm, const json_t *disks, struct error *err)
{
	json_t *below = load(vm);

	give(below, BELOW_VM, disks);
	return save(vm, below, err);
}

int below_begin(const struct vm *vm, const char *id, struct error *err)
{
	json_t *below = load(vm);
	const json_t *own = json_object_get(below, BELOW_VM);

	if (!own) {
		json_decref(below);
		return 0;
	}
	give(below, id, own);
	return save(vm, below, err);
}

/* Takes below. What it has too much does no harm. */
static void save_anyhow(const struct vm *vm, json_t *below)
{
	struct error err;

	if (save(vm, below, &err) < 0)
		log_error("virtual machine '%s': %s", vm->config->name, err.text);
}

void below_clear_vm(const struct vm *vm)
{
	json_t *below = load(vm);

	if (json_object_del(below, BELOW_VM) < 0)
		json_decref(below);
	else
		save_anyhow(vm, below);
}

void below_tidy(const struct vm *vm)
{
	json_t *below = load(vm), *rest = json_object(), *paths;
	const char *key;

	json_object_foreach(below, key, paths)
	{
		give(rest, key, paths);
	}
	if (json_object_size(below) && !json_equal(below, rest))
		save_anyhow(vm, json_incref(rest));
	json_decref(below);
	json_decref(rest);
}

void below_add(const struct vm *vm, const char *id, json_t *paths)
{
	json_t *below = load(vm);

	add_believed(paths, json_object_get(below, id ? id : BELOW_VM));
	json_decref(below);
}

bool below_has(const struct vm *vm, const struct checkpoints *all, const char *path)
{
	json_t *below = load(vm);
	bool has = lists(json_object_get(below, BELOW_VM), path);

	for (size_t i = 0; !has && i < all->count; i++)
		has = lists(json_object_get(below, all->list[i].id), path);
	json_decref(below);
	return has;
}
