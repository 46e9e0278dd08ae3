#include "ops.h"

#include "image.h"
#include "sandbox.h"

/* MinimumSize is looked for only where nobody uses the disk: elsewhere it could change meanwhile,
 * and looking would lock it. */
int op_describe(struct job *job, json_t **ret, struct error *err)
{
	struct image image;
	const char *path;
	int r = job_path(job, "path", &path, err);

	if (r == 0)
		r = image_find(path, IMAGE_LOOSE, &image, err);
	if (r < 0)
		return r;
	r = sandbox_enter_working(err);
	if (r == 0)
		*ret = json_pack("{s:o}", "vhd", image_describe(&image, 0));
	image_close(&image, NULL);
	return r;
}
