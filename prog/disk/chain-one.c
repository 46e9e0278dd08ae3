/* Chains of one image, until lib/disk finds parents: weak, so that its own functions win. */
#include "disk/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((weak)) int chain_resolve(const char *path, struct chain *ret, struct error *err)
{
	struct chain_layer *layer = calloc(1, sizeof(*layer));
	int r;

	if (!layer)
		return error_set(err, ERR_NO_MEMORY, "no memory for an image");
	*ret = (struct chain){ layer, 1 };
	layer->path = strdup(path);
	layer->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (layer->fd < 0)
		r = error_set_errno(err, errno, "opening it");
	else
		r = disk_describe(layer->fd, &layer->details, err);
	if (r == 0 && layer->details.type == DISK_DIFFERENCING)
		r = error_set(err, ERR_UNSUPPORTED, "differencing disks are not there yet");
	if (r < 0)
		chain_done(ret);
	return r;
}

__attribute__((weak)) void chain_done(struct chain *chain)
{
	for (unsigned i = 0; i < chain->count; i++) {
		if (chain->layers[i].fd >= 0)
			close(chain->layers[i].fd);
		disk_details_done(&chain->layers[i].details);
		free(chain->layers[i].path);
	}
	free(chain->layers);
}

__attribute__((weak)) int chain_locators(const char *child_path, const char *parent_path,
					 struct chain_locators *ret, struct error *err)
{
	return error_set(err, ERR_UNSUPPORTED, "differencing disks are not there yet");
}

__attribute__((weak)) void chain_locators_done(struct chain_locators *locators)
{
}
