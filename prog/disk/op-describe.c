#include "ops.h"

#include "image.h"
#include "sandbox.h"

#include "base/loop.h"
#include "disk/maintain.h"

/* 0: not known. Of VHDX only, as Hyper-V: nothing else can be made smaller. */
static uint64_t minimum_of(struct image *image)
{
	uint64_t minimum = 0;
	struct loop *loop;

	if (image_details(image)->format != DISK_VHDX || loop_new(&loop, NULL) < 0)
		return 0;
	if (image_open(image, loop, IMAGE_LOOKS, NULL) == 0 &&
	    disk_minimum_bytes(image->layers[0], &minimum, NULL) < 0)
		minimum = 0;
	image_shut(image, NULL);
	loop_free(loop);
	return minimum;
}

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
		*ret = json_pack("{s:o}", "vhd", image_describe(&image, minimum_of(&image)));
	image_close(&image, NULL);
	return r;
}
