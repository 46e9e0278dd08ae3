/* The files of a VM's folder, on storage that others write to: its list of layers, what is left of
 * an interrupted checkpoint, merge or removal, and a checkpoint. Whatever they say, the machine can
 * be shown, its checkpoints be removed, and no disk goes that has not the name of a layer of its
 * own, unless a merge of it was asked for; nor, then, does anything but disks. The input is a row
 * of files: "=NAME" on a line of its own, then what is in it. Paths within them begin with DISKS
 * for the folder of the disks. */
#include "daemon.h"

#include "../../prog/daemon/checkpoint-below.h"
#include "../../prog/daemon/checkpoint-fold.h"
#include "../../prog/daemon/checkpoints.h"
#include "base/macros.h"
#include "base/text.h"
#include "config/config-json.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ONE   "11111111-2222-3333-4444-555555555555"
#define TWO   "22222222-2222-3333-4444-555555555555"
#define PLACE "DISKS"
#define MOST  16384

/* "1" stands for a checkpoint, "n" for one that is being taken, "r" for one that was being removed.
 */
static const struct {
	const char *name, *path;
} places[] = {
	{ "below", "below.json" },
	{ "replaced", "replaced.json" },
	{ "merge", "merge.json" },
	{ "mark", "merge.mark" },
	{ "stop", "last-stop.json" },
	{ "metering", "metering.json" },
	{ "1", "checkpoints/" ONE "/checkpoint.json" },
	{ "2", "checkpoints/" TWO "/checkpoint.json" },
	{ "n", "checkpoints/" ONE ".new/checkpoint.json" },
	{ "layers", "checkpoints/" ONE ".new/layers.json" },
	{ "nmark", "checkpoints/" ONE ".new/mark" },
	{ "memory", "checkpoints/" ONE ".new/memory" },
	{ "r", "checkpoints/" TWO ".removed/checkpoint.json" },
};
static const char *const folders[] = { "checkpoints", "checkpoints/" ONE, "checkpoints/" TWO,
				       "checkpoints/" ONE ".new", "checkpoints/" TWO ".removed" };
/* Somebody's disks: a disk, and what is no layer of ours by its name. */
static const char *const kept[] = { "notes", "disk.vhdx", "other.avhdx", "disk_.avhdx" };

static char *expand(const char *text)
{
	AUTO_FREE char *disks = fuzz_path("");
	char *all = strdup(""), *more;
	const char *at;

	for (; (at = strstr(text, PLACE)); text = at + strlen(PLACE)) {
		more = text_format("%s%.*s%s", all, (int)(at - text), text, disks);
		free(all);
		all = more;
	}
	more = text_format("%s%s", all, text);
	free(all);
	return more;
}

static void write_file(const struct vm *vm, const char *name, const char *text)
{
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		AUTO_FREE char *path = NULL, *all = NULL;

		if (strcmp(places[i].name, name) != 0)
			continue;
		path = text_format("%s/%s", vm->folder, places[i].path);
		all = expand(text);
		fuzz_write(path, all, strlen(all));
	}
}

static void write_all(const struct vm *vm, const uint8_t *data, size_t size)
{
	char *name = strdup("below"), *text = strdup(""), *line;
	size_t len;

	while ((line = fuzz_line(&data, &size, &len))) {
		char *more;

		if (line[0] == '=') {
			write_file(vm, name, text);
			free(name);
			free(text);
			name = strdup(line + 1);
			text = strdup("");
		} else {
			more = text_format("%s%s\n", text, line);
			free(text);
			text = more;
		}
		free(line);
	}
	write_file(vm, name, text);
	free(name);
	free(text);
}

static void write_config(const struct vm *vm, const char *checkpoint)
{
	AUTO_FREE char *path = text_format("%s/checkpoints/%s", vm->folder, checkpoint);
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || config_save(fd, "vm.json", vm->config, NULL) < 0)
		abort();
}

static void set_up(const struct vm *vm)
{
	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		AUTO_FREE char *path = text_format("%s/%s", vm->folder, folders[i]);

		mkdir(path, 0700);
	}
	write_config(vm, ONE);
	write_config(vm, TWO);
	write_config(vm, ONE ".new");
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		AUTO_FREE char *path = fuzz_path(kept[i]);

		fuzz_write(path, "x", 1);
	}
}

static void check_kept(bool asked)
{
	for (size_t i = 0; i < (asked ? 1 : ARRAY_SIZE(kept)); i++) {
		AUTO_FREE char *path = fuzz_path(kept[i]);

		if (access(path, F_OK) < 0)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err;
	struct vm *vm;

	if (size > MOST || !size || data[0] != '=')
		return 0;
	fuzz_daemon();
	vm = vm_ref(fuzz_vm());
	set_up(vm);
	write_all(vm, data, size);
	if (checkpoints_clean_up(vm, &err) == 0)
		fold_settle(vm, &err);
	below_tidy(vm);
	fuzz_cmdlet("Get-VM", "{\"Name\":[\"a\"]}");
	fuzz_cmdlet("Get-VMSnapshot", "{\"VMName\":[\"a\"]}");
	fuzz_cmdlet("Remove-VMSnapshot", "{\"VMName\":[\"a\"],\"Name\":[\"one\"],"
					 "\"IncludeAllChildSnapshots\":true}");
	fuzz_cmdlet("Remove-VMSnapshot", "{\"VMName\":[\"a\"]}");
	fuzz_cmdlet("Get-VMSnapshot", "{\"VMName\":[\"a\"]}");
	check_kept(memmem(data, size, "asked", strlen("asked")) != NULL);
	fuzz_vm_end(vm);
	vm_unref(vm);
	return 0;
}
