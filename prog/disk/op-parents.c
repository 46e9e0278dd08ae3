#include "ops.h"

#include "image.h"

#include "base/macros.h"

#include <stdlib.h>

/* The paths of an image's parents, the direct one first: whoever runs on it has to open them. */
int op_parents(struct job *job, json_t **ret, struct error *err)
{
	struct image image;
	const char *path;
	json_t *parents;
	int r = job_path(job, "path", &path, err);

	if (r == 0)
		r = image_find(path, 0, &image, err);
	if (r < 0)
		return r;
	parents = json_array();
	for (unsigned i = 1; i < image.chain.count; i++) {
		/* Without the "." and ".." that relative names are joined by. */
		AUTO_FREE char *path_of_parent = realpath(image.chain.layers[i].path, NULL);

		json_array_append_new(
		    parents,
		    json_string(path_of_parent ? path_of_parent : image.chain.layers[i].path));
	}
	*ret = json_pack("{s:o}", "parents", parents);
	image_close(&image, NULL);
	return 0;
}
