/* An export of ours on another host, or in another folder: its paths are looked for anew. */
#include "import/hyperv.h"

#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void relocate_disk(struct import_vm *vm, const struct import_env *env,
			  struct config_disk *disk)
{
	char *found = env->find_file(env->user, disk->path);

	if (found) {
		free(disk->path);
		disk->path = found;
		return;
	}
	if (disk->kind == CONFIG_DISK_HARD) {
		import_note(vm, IMPORT_BLOCKS, IMPORT_NO_DISK, disk->path,
			    "the hard disk image was not found; -VhdSourcePath names its folder");
		return;
	}
	import_note(vm, IMPORT_CHANGED, IMPORT_NO_DISK, disk->path,
		    "the medium was not found: the drive is empty");
	free(disk->path);
	disk->path = NULL;
}

static void relocate_floppy(struct import_vm *vm, const struct import_env *env, char **path)
{
	char *found = env->find_file(env->user, *path);

	if (!found)
		import_note(vm, IMPORT_CHANGED, IMPORT_NO_DISK, *path, IMPORT_NO_FLOPPY_TEXT);
	free(*path);
	*path = found;
}

/* In "boot" beside the description, where an export has it, or where it was. */
static void relocate_boot(struct import_vm *vm, char **field, const char *folder)
{
	const char *slash = *field ? strrchr(*field, '/') : NULL;
	AUTO_FREE char *exported = NULL;

	if (!slash)
		return;
	if (asprintf(&exported, "%s/boot%s", folder, slash) < 0)
		abort();
	if (access(exported, R_OK) == 0) {
		free(*field);
		*field = TAKE(exported);
	} else if (access(*field, R_OK) < 0) {
		import_note(
		    vm, IMPORT_CHANGED, 0, *field,
		    "it was not found: the machine can't start before Set-VM names another");
	}
}

static void relocate_adapter(struct import_vm *vm, const struct import_env *env,
			     struct config_nic *nic)
{
	if (!nic->switch_name || env->has_switch(env->user, nic->switch_name))
		return;
	import_note(vm, IMPORT_CHANGED, IMPORT_NO_SWITCH, nic->name, IMPORT_NO_SWITCH_TEXT,
		    nic->switch_name);
	free(nic->switch_name);
	nic->switch_name = NULL;
}

void import_relocate(struct import_vm *vm, struct config_vm *config, const struct import_env *env,
		     const char *folder)
{
	for (unsigned i = 0; i < config->disk_count; i++)
		if (config->disks[i].path)
			relocate_disk(vm, env, &config->disks[i]);
	for (unsigned i = 0; i < config->nic_count; i++)
		relocate_adapter(vm, env, &config->nics[i]);
	if (config->floppy_path)
		relocate_floppy(vm, env, &config->floppy_path);
	relocate_boot(vm, &config->kernel_path, folder);
	relocate_boot(vm, &config->initrd_path, folder);
}
