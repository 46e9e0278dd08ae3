#include "package.h"

#include "base/macros.h"
#include "checkpoint-below.h"
#include "checkpoint-disks.h"
#include "config/config-json.h"
#include "saved.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

void package_done(struct package *package)
{
	for (size_t i = 0; i < package->checkpoint_count; i++) {
		struct package_checkpoint *one = &package->checkpoints[i];

		free(one->info.name);
		free(one->info.created);
		free(one->info.parent);
		config_vm_free(one->config);
		free(one->memory);
	}
	free(package->checkpoints);
	config_vm_free(package->config);
	free(package->memory);
	json_decref(package->boot);
	json_decref(package->below);
	*package = (struct package){ 0 };
}

struct config_vm *package_config(const struct package *package, size_t n)
{
	if (n == 0)
		return package->config;
	return n <= package->checkpoint_count ? package->checkpoints[n - 1].config : NULL;
}

char *package_folder(const char *path, const char *name)
{
	char *folder = transfer_path(path, name), *at = folder + strlen(path) + 1;

	if (*at == '.')
		*at = '_';
	for (; *at; at++)
		if (*at == '/')
			*at = '_';
	return folder;
}

/* ---- reading checkpoints ---- */

static char *copy_text(const char *text)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		abort();
	return copy;
}

static int add_one(struct package *package, const char *folder, const struct checkpoint *checkpoint,
		   struct error *err)
{
	struct package_checkpoint one = { .info = *checkpoint };
	int r = checkpoint_config_from(folder, checkpoint->id, &one.config, err);

	if (r < 0)
		return error_prefix(err, "the checkpoint '%.100s'", checkpoint->name);
	one.info.name = copy_text(checkpoint->name);
	one.info.created = copy_text(checkpoint->created);
	one.info.parent = copy_text(checkpoint->parent);
	if (checkpoint->has_memory)
		one.memory = checkpoint_memory_in(folder, checkpoint->id);
	package->checkpoints =
	    reallocarray(package->checkpoints, package->checkpoint_count + 1, sizeof(one));
	if (!package->checkpoints)
		abort();
	package->checkpoints[package->checkpoint_count++] = one;
	return 0;
}

int package_add_checkpoints(struct package *package, const char *folder, struct error *err)
{
	struct checkpoints all;
	size_t unreadable = checkpoints_load_from(folder, &all);
	int r = 0;

	if (unreadable)
		r = error_set(err, ERR_CORRUPT, "%zu of its checkpoints can't be read", unreadable);
	for (size_t i = 0; r == 0 && i < all.count; i++)
		if (!all.list[i].temporary)
			r = add_one(package, folder, &all.list[i], err);
	checkpoints_done(&all);
	return r;
}

/* ---- the tree ---- */

static struct package_checkpoint *find(const struct package *package, const char *id)
{
	for (size_t i = 0; id && i < package->checkpoint_count; i++)
		if (strcasecmp(package->checkpoints[i].info.id, id) == 0)
			return &package->checkpoints[i];
	return NULL;
}

/* Ends after as many steps as there are checkpoints: a file may say anything. */
static bool is_in_circle(const struct package *package, const struct package_checkpoint *one)
{
	const struct package_checkpoint *above = one;

	for (size_t i = 0; i < package->checkpoint_count; i++) {
		above = find(package, above->info.parent);
		if (!above)
			return false;
	}
	return true;
}

int package_check(struct package *package, struct error *err)
{
	struct config_vm *config = package->config;

	if (package->checkpoint_count > CHECKPOINTS_MAX)
		return error_set(err, ERR_LIMIT, "it has more than %d checkpoints",
				 CHECKPOINTS_MAX);
	for (size_t i = 0; i < package->checkpoint_count; i++) {
		struct package_checkpoint *one = &package->checkpoints[i];
		int r = config_check_name(one->info.name, "a checkpoint's name", err);

		if (r < 0)
			return r;
		if (is_in_circle(package, one))
			return error_set(err, ERR_CORRUPT,
					 "the checkpoint '%.100s' would come from itself",
					 one->info.name);
		if (one->info.parent && !find(package, one->info.parent)) {
			free(one->info.parent);
			one->info.parent = NULL;
		}
	}
	if (config->parent_checkpoint && !find(package, config->parent_checkpoint))
		return config_set_string(&config->parent_checkpoint, NULL, err);
	return 0;
}

static void rename_parent(char **parent, const char *old, const char *new)
{
	if (!*parent || strcasecmp(*parent, old) != 0)
		return;
	free(*parent);
	*parent = copy_text(new);
}

static void renew_checkpoint(struct package *package, struct package_checkpoint *one)
{
	char old[GUID_TEXT_SIZE];
	struct guid id;

	memcpy(old, one->info.id, sizeof(old));
	guid_generate(&id);
	guid_format(&id, one->info.id);
	for (size_t i = 0; i < package->checkpoint_count; i++)
		rename_parent(&package->checkpoints[i].info.parent, old, one->info.id);
	rename_parent(&package->config->parent_checkpoint, old, one->info.id);
}

void package_renew(struct package *package)
{
	guid_generate(&package->config->id);
	for (size_t i = 0; i < package->checkpoint_count; i++)
		renew_checkpoint(package, &package->checkpoints[i]);
}

/* ---- disks ---- */

json_t *package_disks(const struct package *package)
{
	json_t *paths = json_array();
	struct config_vm *config;

	for (size_t n = 0; (config = package_config(package, n)); n++)
		for (unsigned i = 0; i < config->disk_count; i++)
			if (config->disks[i].kind == CONFIG_DISK_HARD && config->disks[i].path)
				json_array_append_new(paths, json_string(config->disks[i].path));
	return paths;
}

/* ISO images stay where they are, as Hyper-V leaves them. */
static int name_disks(struct config_vm *config, const struct disk_files *files, struct error *err)
{
	int r = 0;

	for (unsigned i = 0; r == 0 && i < config->disk_count; i++) {
		struct config_disk *disk = &config->disks[i];
		const char *copy = disk->kind == CONFIG_DISK_HARD && disk->path
				       ? disk_files_copy_of(files, disk->path)
				       : NULL;

		if (copy)
			r = config_set_string(&disk->path, copy, err);
	}
	return r;
}

/* ---- layers of checkpoints that are gone ---- */

static const struct disk_file *file_of(const struct disk_files *files,
				       const struct config_disk *disk)
{
	return disk->kind == CONFIG_DISK_HARD && disk->path ? disk_files_get(files, disk->path)
							    : NULL;
}

/* By the index in files: those that a description has. */
static bool *find_owned(const struct package *package, const struct disk_files *files)
{
	bool *owned = calloc(files->count + 1, sizeof(*owned));
	const struct config_vm *config;

	if (!owned)
		abort();
	for (size_t n = 0; (config = package_config(package, n)); n++)
		for (unsigned i = 0; i < config->disk_count; i++) {
			const struct disk_file *file = file_of(files, &config->disks[i]);

			if (file)
				owned[file - files->list] = true;
		}
	return owned;
}

/* What an image calls its parent may be anything; what is under a layer has the name for that.
 * True: there is something under it that nobody has, be it a layer or not. */
static bool add_layers(json_t *layers, const struct config_disk *disk,
		       const struct disk_files *files, const bool *owned)
{
	const struct disk_file *file = file_of(files, disk);
	const char *top = file && file->copy ? file->copy : disk->path;
	bool any = false;

	while (file && file->parent && (file = disk_files_get(files, file->parent))) {
		const char *path = file->copy ? file->copy : file->path;

		if (owned[file - files->list] || !checkpoint_disk_is_below(top, path))
			continue;
		any = true;
		if (checkpoint_disk_was_made_here(path))
			json_array_append_new(layers, json_string(path));
	}
	return any && checkpoint_disk_was_made_here(top);
}

void package_find_below(struct package *package, const struct disk_files *files)
{
	AUTO_FREE bool *owned = find_owned(package, files);
	const struct config_vm *config;

	json_decref(package->below);
	package->below = json_object();
	package->mergeable = false;
	for (size_t n = 0; (config = package_config(package, n)); n++) {
		const char *key = n == 0 ? BELOW_VM : package->checkpoints[n - 1].info.id;
		json_t *layers = json_array();

		for (unsigned i = 0; i < config->disk_count; i++)
			if (add_layers(layers, &config->disks[i], files, owned) && n == 0)
				package->mergeable = true;
		if (json_array_size(layers))
			json_object_set(package->below, key, layers);
		json_decref(layers);
	}
}

/* ---- boot files ---- */

static bool is_taken(const struct package *package, const char *to)
{
	const char *from;
	json_t *taken;

	json_object_foreach(package->boot, from,
			    taken) if (strcmp(json_string_value(taken), to) == 0) return true;
	return false;
}

/* Two of one name may come from two folders. */
static char *free_boot_name(const struct package *package, const char *folder, const char *from)
{
	const char *name = strrchr(from, '/') + 1;
	char *to = transfer_path(folder, name);

	for (unsigned n = 2; is_taken(package, to); n++) {
		free(to);
		if (asprintf(&to, "%s/%u-%s", folder, n, name) < 0)
			abort();
	}
	return to;
}

static int copy_boot_file(struct package *package, char **field, const char *folder,
			  struct transfer *transfer, struct error *err)
{
	AUTO_FREE char *to = NULL;
	const json_t *known;

	if (!*field || (package->boot_optional && access(*field, F_OK) < 0))
		return 0;
	known = json_object_get(package->boot, *field);
	if (known)
		return config_set_string(field, json_string_value(known), err);
	to = free_boot_name(package, folder, *field);
	json_object_set_new(package->boot, *field, json_string(to));
	transfer_file(transfer, *field, to);
	return config_set_string(field, to, err);
}

static int copy_boot(struct package *package, const char *machine, struct transfer *transfer,
		     struct error *err)
{
	AUTO_FREE char *folder = transfer_path(machine, "boot");
	struct config_vm *config;
	int r = 0;

	package->boot = json_object();
	for (size_t n = 0; r == 0 && (config = package_config(package, n)); n++) {
		r = copy_boot_file(package, &config->kernel_path, folder, transfer, err);
		if (r == 0)
			r = copy_boot_file(package, &config->initrd_path, folder, transfer, err);
	}
	if (json_object_size(package->boot))
		transfer_add(transfer, UNDO_OWN_FOLDER, folder);
	return r;
}

/* ---- memory ---- */

static int copy_memory(struct package *package, const char *machine, struct transfer *transfer,
		       struct error *err)
{
	AUTO_FREE char *folder = NULL, *to = NULL;
	char id[GUID_TEXT_SIZE];
	struct guid guid;

	if (!package->memory)
		return config_set_string(&package->config->saved_state, NULL, err);
	guid_generate(&guid);
	guid_format(&guid, id);
	folder = saved_path_in(machine, id, NULL);
	to = saved_path_in(machine, id, "memory");
	transfer_add(transfer, UNDO_OWN_FOLDER, folder);
	transfer_file(transfer, package->memory, to);
	return config_set_string(&package->config->saved_state, id, err);
}

static int settle(const struct config_vm *config, struct config_vm *one, struct error *err)
{
	int r = config_set_string(&one->saved_state, NULL, err);

	one->id = config->id;
	if (r == 0)
		r = config_set_string(&one->checkpoint_folder, config->checkpoint_folder, err);
	return r < 0
		   ? r
		   : config_set_string(&one->smart_paging_folder, config->smart_paging_folder, err);
}

int package_settle(struct package *package, struct error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < package->checkpoint_count; i++)
		r = settle(package->config, package->checkpoints[i].config, err);
	return r;
}

static void copy_checkpoint(const struct package_checkpoint *one, const char *checkpoints,
			    struct transfer *transfer)
{
	AUTO_FREE char *folder = transfer_path(checkpoints, one->info.id);
	AUTO_FREE char *memory = checkpoint_memory_in(checkpoints, one->info.id);

	transfer_add(transfer, UNDO_OWN_FOLDER, folder);
	if (one->memory)
		transfer_file(transfer, one->memory, memory);
}

/* ---- all of it ---- */

int package_copy(struct package *package, struct disk_files *files,
		 const struct package_places *places, struct transfer *transfer, struct error *err)
{
	struct config_vm *config;
	int r = package_settle(package, err);

	transfer_add(transfer, UNDO_OWN_FOLDER, places->machine);
	transfer_add(transfer, UNDO_OWN_FOLDER, places->checkpoints);
	if (r == 0 && places->disks)
		r = disk_files_copy(files, places->disks, transfer, err);
	if (r == 0)
		package_find_below(package, files);
	for (size_t n = 0; r == 0 && (config = package_config(package, n)); n++)
		r = name_disks(config, files, err);
	if (r == 0)
		r = copy_boot(package, places->machine, transfer, err);
	if (r == 0)
		r = copy_memory(package, places->machine, transfer, err);
	for (size_t i = 0; i < package->checkpoint_count; i++)
		copy_checkpoint(&package->checkpoints[i], places->checkpoints, transfer);
	return r;
}

int package_write(const struct package *package, const struct package_places *places,
		  struct error *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < package->checkpoint_count; i++)
		r = checkpoint_write(places->checkpoints, &package->checkpoints[i].info,
				     package->checkpoints[i].config, err);
	if (r == 0)
		r = below_write(places->machine, package->below, err);
	if (r == 0 && package->memory)
		r = saved_mark_in(places->machine, package->config->saved_state, err);
	return r;
}
