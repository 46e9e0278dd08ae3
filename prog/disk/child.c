#include "child.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int child_find(const char *parent_path, const char *path, struct child *ret, struct error *err)
{
	int r;

	*ret = (struct child){ .parent = { .fd = -1 } };
	r = image_find(parent_path, 0, &ret->parent, err);
	if (r == 0 && (r = parent_paths_make(path, parent_path, &ret->locators, err)) < 0)
		image_close(&ret->parent, NULL);
	return r < 0 ? error_prefix(err, "the parent '%.200s'", parent_path) : 0;
}

static int list_layers(struct child *child, struct error *err)
{
	unsigned count = child->parent.chain.count;
	struct blk **layers = calloc(1 + count, sizeof(*layers));

	if (!layers)
		return error_set(err, ERR_NO_MEMORY, "no memory for a chain of %u images", count);
	layers[0] = child->disk;
	memcpy(layers + 1, child->parent.layers, count * sizeof(*layers));
	child->all = (struct blk_layers){ layers, 1 + count };
	return 0;
}

int child_create(struct child *child, struct loop *loop, int fd,
		 const struct disk_create_options *options, struct error *err)
{
	struct disk_create_options all = { .format = options->format,
					   .type = DISK_DIFFERENCING,
					   .block_bytes = options->block_bytes,
					   .parent = image_details(&child->parent),
					   .parent_absolute = child->locators.absolute,
					   .parent_relative = child->locators.relative };
	struct disk_options how = { .format = options->format };
	int own, r = image_sync(&child->parent, err);

	if (r == 0)
		r = disk_create(fd, &all, err);
	if (r == 0)
		r = image_open(&child->parent, loop, 0, err);
	if (r < 0)
		return r;
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return error_set_errno(err, errno, "opening the new image");
	how.parent = child->parent.layers[0];
	r = disk_open(loop, own, &how, &child->disk, err);
	if (r < 0) {
		close(own);
		return error_prefix(err, "the new image");
	}
	r = list_layers(child, err);
	/* They are closed with the child from now on. */
	memset(child->parent.layers, 0, child->parent.chain.count * sizeof(struct blk *));
	return r;
}

static bool is_zero(const uint8_t *buf, size_t len)
{
	return len == 0 || (buf[0] == 0 && memcmp(buf, buf + 1, len - 1) == 0);
}

int child_put(struct child *child, uint64_t offset, void *buf, size_t len, struct error *err)
{
	enum blk_result result = is_zero(buf, len) ? blk_run_now(child->disk, BLK_WRITE_ZEROES,
								 BLK_MAY_UNMAP, offset, NULL, len)
						   : blk_write_now(child->disk, offset, buf, len);

	if (result == BLK_OK)
		return 0;
	return error_set(err, result == BLK_NO_SPACE ? ERR_NO_SPACE : ERR_IO,
			 "writing at %#lx of the new disk: %s", offset, blk_result_name(result));
}

int child_close(struct child *child, struct error *err)
{
	int r = blk_close(child->disk, err);

	child->disk = NULL;
	free((void *)child->all.layers);
	child->all = (struct blk_layers){ NULL, 0 };
	parent_paths_done(&child->locators);
	image_close(&child->parent, NULL);
	return r;
}
