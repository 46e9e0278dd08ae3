/*
 * Hostile paths to the parent: a child names its parent by two texts out of the input (the first
 * zero byte parts them), in a folder where the parent is under several names, and is looked for.
 */
#include "base/macros.h"
#include "disk/chain.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK_BYTES (3 * MIB)

static char folder[] = "/tmp/oyako-fuzz-chain-XXXXXX";
static struct disk_details parent;
static char child_path[128], parent_path[128], other_folder[128], other_path[160];

static void die(const char *what)
{
	fprintf(stderr, "fuzz-chain: %s\n", what);
	abort();
}

static void clean_up(void)
{
	unlink(child_path);
	unlink(parent_path);
	unlink(other_path);
	rmdir(other_folder);
	rmdir(folder);
}

static void set_up(void)
{
	const struct disk_create_options options = { .format = DISK_VHD,
						     .type = DISK_DYNAMIC,
						     .size_bytes = DISK_BYTES };
	int fd;

	if (!mkdtemp(folder))
		die("no folder");
	snprintf(child_path, sizeof(child_path), "%s/child.vhd", folder);
	snprintf(parent_path, sizeof(parent_path), "%s/Parent.vhd", folder);
	snprintf(other_folder, sizeof(other_folder), "%s/sub", folder);
	snprintf(other_path, sizeof(other_path), "%s/Other Parent.vhd", other_folder);
	atexit(clean_up);
	fd = open(parent_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (disk_create(fd, &options, NULL) < 0 || disk_describe(fd, &parent, NULL) < 0 ||
	    mkdir(other_folder, 0700) < 0 || link(parent_path, other_path) < 0)
		die("no parent");
	close(fd);
}

static void resolve(void)
{
	struct error err = { 0 };
	struct chain chain;

	if (chain_resolve(child_path, &chain, &err) == 0) {
		if (chain.count != 2)
			die("another chain");
		chain_done(&chain);
	} else if (!err.text[0]) {
		die("refused without a reason");
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[2][600] = { "", "" };
	struct disk_create_options options = { .format = DISK_VHD,
					       .type = DISK_DIFFERENCING,
					       .parent = &parent,
					       .parent_absolute = text[0],
					       .parent_relative = text[1] };
	const uint8_t *end = memchr(data, 0, size);
	size_t first = end ? (size_t)(end - data) : size, second = end ? size - first - 1 : 0;
	int fd;

	if (size == 0)
		return 0;
	if (!parent.size_bytes)
		set_up();
	memcpy(text[0], data, MIN(first, sizeof(text[0]) - 1));
	if (second > 0)
		memcpy(text[1], end + 1, MIN(second, sizeof(text[1]) - 1));
	if (!text[0][0])
		options.parent_absolute = NULL;
	if (!text[1][0])
		options.parent_relative = NULL;
	fd = open(child_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (disk_create(fd, &options, NULL) == 0)
		resolve();
	close(fd);
	return 0;
}
