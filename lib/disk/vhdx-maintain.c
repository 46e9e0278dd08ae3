#include "disk/vhdx.h"

static int unsupported(const char *what, struct error *err)
{
	return error_set(err, ERR_UNSUPPORTED, "%s VHDX disks is not supported yet", what);
}

int vhdx_resize(struct file *file, uint64_t size_bytes, const struct disk_progress *progress,
		struct error *err)
{
	return unsupported("resizing", err);
}

int vhdx_compact(struct file *file, enum disk_compact_mode mode,
		 const struct disk_progress *progress, struct error *err)
{
	return unsupported("compacting", err);
}

int vhdx_set_parent(struct file *file, const struct disk_parent_link *link, struct error *err)
{
	return unsupported("changing the parent of", err);
}

int vhdx_set_id(struct file *file, const struct guid *id, struct error *err)
{
	return unsupported("changing the id of", err);
}

int vhdx_set_physical_sector(struct file *file, uint32_t bytes, struct error *err)
{
	return unsupported("changing the sector size of", err);
}

int vhdx_check(struct file *file, const struct disk_check_options *options,
	       enum disk_severity *ret_worst, struct error *err)
{
	return unsupported("checking", err);
}
