/*
 * The target is open for writing at the bottom of the merged layers, which are open for reading
 * above it. Where one of them has something it is copied down; so through the layers nothing ever
 * changes, and a merge that ended somewhere is started again from the beginning.
 */
#include "disk/merge.h"

#include "base/loop.h"
#include "base/macros.h"
#include "blk/sync.h"
#include "disk/track.h"

#include <fcntl.h>

#define COPY_BYTES (1 * MIB)
#define STEP_BYTES (16 * MIB)

struct merge {
	const struct disk_merge_options *options;
	const struct disk_progress *progress;
	struct loop *loop;
	struct blk **layers; /* by index in the chain, from `first` on; each owns the next */
	struct guid coming_id;
};

static int check_options(const struct disk_merge_options *options, struct error *err)
{
	if (options->first >= options->into || options->into >= options->count)
		return error_set(err, ERR_INVALID,
				 "layers %u to %u of a chain of %u disks can't be merged",
				 options->first, options->into, options->count);
	return 0;
}

/* ---- opening ---- */

static int open_layer(struct merge *m, unsigned index, struct error *err)
{
	const struct disk_merge_options *options = m->options;
	bool target = index == options->into;
	struct disk_options how = { .read_only = !target };
	int fd = fcntl(options->fds[index], F_DUPFD_CLOEXEC, 3), rc;

	if (fd < 0)
		return error_set(err, ERR_LIMIT, "too many open files for a chain of %u disks",
				 options->count);
	if (index + 1 < options->count)
		how.parent = m->layers[index + 1];
	if (target)
		how.data_write_id = m->coming_id;
	rc = disk_open(m->loop, fd, &how, &m->layers[index], err);
	if (rc < 0)
		close(fd);
	else if (how.parent)
		m->layers[index + 1] = NULL; /* closed by its child */
	return rc;
}

/* The uppermost open layer closes those below. */
static int close_layers(struct merge *m, struct error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->options->count; i++)
		if (m->layers[i] && rc == 0)
			rc = blk_close(m->layers[i], err);
		else
			blk_close(m->layers[i], NULL);
	return rc;
}

/* ---- links ---- */

/* The child accepts the id that the target's first change will give it, before it is given. */
static int announce(const struct disk_merge_options *options, struct guid *ret_id,
		    struct error *err)
{
	struct disk_details target;
	int rc = disk_sync(options->fds[options->into], err);

	memset(ret_id, 0, sizeof(*ret_id));
	if (rc == 0)
		rc = disk_describe(options->fds[options->into], &target, err);
	if (rc < 0)
		return rc;
	if (target.format == DISK_VHDX) {
		guid_generate(ret_id);
		rc = disk_set_parent(
		    options->fds[options->into - 1],
		    &(struct disk_parent_link){ .parent = &target, .second_id = *ret_id }, err);
	}
	disk_details_done(&target);
	return rc;
}

/* What was above the merged layers is above the target now. */
static int relink(const struct disk_merge_options *options, struct error *err)
{
	struct disk_details target;
	int rc;

	if (options->first == 0)
		return 0;
	rc = disk_describe(options->fds[options->into], &target, err);
	if (rc < 0)
		return rc;
	rc = disk_set_parent(options->fds[options->first - 1],
			     &(struct disk_parent_link){ .parent = &target,
							 .absolute = options->absolute,
							 .relative = options->relative,
							 .volume = options->volume },
			     err);
	disk_details_done(&target);
	return rc;
}

static int check_links(const struct disk_merge_options *options, struct error *err)
{
	struct disk_details child = { 0 }, parent;
	unsigned from = options->first > 0 ? options->first - 1 : 0;
	int rc = disk_describe(options->fds[from], &child, err);

	for (unsigned i = from + 1; rc == 0 && i <= options->into; i++) {
		rc = disk_describe(options->fds[i], &parent, err);
		if (rc < 0)
			break;
		rc = disk_check_parent(&child, &parent, err);
		disk_details_done(&child);
		child = parent;
	}
	disk_details_done(&child);
	return rc;
}

/* ---- size ---- */

static int set_target_size(const struct disk_merge_options *options, bool grow, struct error *err)
{
	struct disk_details top, target;
	int rc = disk_describe(options->fds[options->first], &top, err);

	if (rc < 0)
		return rc;
	disk_details_done(&top);
	rc = disk_describe(options->fds[options->into], &target, err);
	if (rc < 0)
		return rc;
	disk_details_done(&target);
	if (grow ? top.size_bytes <= target.size_bytes : top.size_bytes >= target.size_bytes)
		return 0;
	/* The layers have that size already: whoever made it so has looked at the partitions. */
	return disk_resize(
	    options->fds[options->into],
	    &(struct disk_resize_options){ .size_bytes = top.size_bytes, .unsafe_shrink = true },
	    NULL, err);
}

static int set_target_sector(const struct disk_merge_options *options, struct error *err)
{
	struct disk_details top, target;
	int rc = disk_describe(options->fds[options->first], &top, err);

	if (rc < 0)
		return rc;
	disk_details_done(&top);
	rc = disk_describe(options->fds[options->into], &target, err);
	if (rc < 0)
		return rc;
	disk_details_done(&target);
	if (top.physical_sector_bytes == target.physical_sector_bytes)
		return 0;
	return disk_set_physical_sector(options->fds[options->into], top.physical_sector_bytes,
					err);
}

/* ---- copying ---- */

int disk_merged_extent(struct blk *const *layers, unsigned count, uint64_t offset,
		       uint64_t max_bytes, struct blk_extent *ret, struct error *err)
{
	*ret = (struct blk_extent){ BLK_EXTENT_PARENT, max_bytes };
	for (unsigned i = 0; i < count && ret->kind == BLK_EXTENT_PARENT; i++) {
		struct blk_extent extent = { BLK_EXTENT_ZERO, ret->length_bytes };
		uint64_t size = blk_info(layers[i])->size_bytes;
		int rc = 0;

		/* Where a layer has ended, what is below does not show. */
		if (offset < size)
			rc = blk_extent(layers[i], offset, ret->length_bytes, &extent, err);
		if (rc < 0)
			return rc;
		ret->kind = extent.kind;
		ret->length_bytes = MIN(ret->length_bytes, extent.length_bytes);
	}
	return 0;
}

static int failed(enum blk_result result, const char *what, uint64_t offset, struct error *err)
{
	return error_set(err, result == BLK_NO_SPACE ? ERR_NO_SPACE : ERR_IO,
			 "%s at %#lx of the disk: %s", what, offset, blk_result_name(result));
}

struct copy {
	struct blk *from, *to;
	uint8_t *buf;
};

static int copy_run(const struct copy *c, uint64_t offset, const struct blk_extent *extent,
		    struct error *err)
{
	uint64_t end = offset + extent->length_bytes;
	enum blk_result result = BLK_OK;

	if (extent->kind == BLK_EXTENT_ZERO) {
		result = blk_run_now(c->to, BLK_WRITE_ZEROES, BLK_MAY_UNMAP, offset, NULL,
				     extent->length_bytes);
		return result == BLK_OK ? 0 : failed(result, "zeroing the target", offset, err);
	}
	for (uint64_t len; extent->kind == BLK_EXTENT_DATA && offset < end; offset += len) {
		len = MIN(end - offset, COPY_BYTES);
		result = blk_read_now(c->from, offset, c->buf, len);
		if (result != BLK_OK)
			return failed(result, "reading the merged disks", offset, err);
		result = blk_write_now(c->to, offset, c->buf, len);
		if (result != BLK_OK)
			return failed(result, "writing the target", offset, err);
	}
	return 0;
}

int disk_merge_range(struct blk *const *layers, unsigned count, struct blk *target, uint64_t offset,
		     uint64_t length, struct error *err)
{
	uint64_t size = MIN(blk_info(layers[0])->size_bytes, blk_info(target)->size_bytes);
	uint64_t end = MIN(offset + length, size);
	AUTO_FREE uint8_t *buf = malloc(COPY_BYTES);
	struct copy copy = { layers[0], target, buf };
	struct blk_extent extent;
	int rc = 0;

	if (!buf)
		return error_set(err, ERR_NO_MEMORY, "no memory to merge disks");
	for (uint64_t at = offset; rc == 0 && at < end; at += extent.length_bytes) {
		rc = disk_merged_extent(layers, count, at, end - at, &extent, err);
		if (rc == 0)
			rc = copy_run(&copy, at, &extent, err);
	}
	return rc;
}

int disk_merge_layers(struct blk *const *layers, unsigned count, struct blk *target,
		      const struct disk_progress *progress, struct error *err)
{
	uint64_t size = blk_info(layers[0])->size_bytes;
	int rc = 0;

	for (uint64_t at = 0; rc == 0 && at < size; at += STEP_BYTES) {
		if (progress && !progress->step(progress->user, at, size))
			return error_set(err, ERR_CANCELLED, "the merge was ended");
		rc = disk_merge_range(layers, count, target, at, STEP_BYTES, err);
	}
	if (rc == 0 && blk_flush_now(target) != BLK_OK)
		rc = error_set(err, ERR_IO, "the merge's target can't be made durable");
	return rc;
}

static int merge_layers(struct merge *m, struct error *err)
{
	const struct disk_merge_options *options = m->options;
	unsigned count = options->into - options->first;
	struct blk *layers[DISK_CHAIN_MAX]; /* of the chain: all, also those owned by others */
	int rc = 0, closed;

	for (unsigned i = options->count; rc == 0 && i-- > options->first;) {
		rc = open_layer(m, i, err);
		layers[i] = m->layers[i];
	}
	if (rc == 0)
		rc = disk_merge_layers(layers + options->first, count, layers[options->into],
				       m->progress, err);
	closed = close_layers(m, rc == 0 ? err : NULL);
	return rc < 0 ? rc : closed;
}

int disk_merge_begin(const struct disk_merge_options *options, struct guid *ret_id,
		     struct error *err)
{
	int rc = check_options(options, err);

	if (rc == 0)
		rc = check_links(options, err);
	if (rc == 0)
		rc = announce(options, ret_id, err);
	return rc < 0 ? rc : set_target_size(options, true, err);
}

int disk_merge_end(const struct disk_merge_options *options, struct error *err)
{
	int rc = set_target_size(options, false, err);

	if (rc == 0)
		rc = set_target_sector(options, err);
	return rc < 0 ? rc : relink(options, err);
}

static int link_of(int fd, struct guid *ret, struct error *err)
{
	struct disk_details details;
	int rc = disk_describe(fd, &details, err);

	if (rc < 0)
		return rc;
	*ret = details.link_id;
	disk_details_done(&details);
	return 0;
}

/* What tracks the changes of the leaf knows the target as its disk, too, by that id. */
static int announce_to_track(const struct disk_merge_options *options, const struct guid *target,
			     struct error *err)
{
	struct guid leaf;
	int rc;

	if (!options->track_fd || options->first > 0)
		return 0;
	rc = link_of(options->fds[0], &leaf, err);
	return rc < 0 ? rc : track_follow(*options->track_fd, &leaf, target, err);
}

static int run(struct merge *m, struct error *err)
{
	struct guid target;
	int rc = disk_merge_begin(m->options, &m->coming_id, err);

	if (rc == 0)
		rc = announce_to_track(m->options, &m->coming_id, err);
	if (rc >= 0)
		rc = merge_layers(m, err);
	if (rc == 0)
		rc = disk_merge_end(m->options, err);
	/* It has the coming id only if something was written to it. */
	if (rc == 0)
		rc = link_of(m->options->fds[m->options->into], &target, err);
	if (rc == 0 && !guid_equal(&target, &m->coming_id))
		rc = announce_to_track(m->options, &target, err);
	return rc < 0 ? rc : 0;
}

int disk_merge(const struct disk_merge_options *options, const struct disk_progress *progress,
	       struct error *err)
{
	struct merge m = { .options = options, .progress = progress };
	int rc = check_options(options, err);

	if (rc == 0)
		rc = loop_new(&m.loop, err);
	if (rc < 0)
		return rc;
	m.layers = calloc(options->count, sizeof(struct blk *));
	if (m.layers)
		rc = run(&m, err);
	else
		rc = error_set(err, ERR_NO_MEMORY, "no memory to merge disks");
	loop_free(m.loop);
	free(m.layers);
	return rc;
}
