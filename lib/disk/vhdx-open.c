/*
 * Opening a VHDX: header, log, region table, metadata, BAT, in this order, because the log may
 * change all that follows it. A writable open replays the log into the file; a read-only open keeps
 * what the log says in memory and looks at the file through it.
 *
 * A BAT of usual size is read and checked as a whole now. A huge one is checked page by page when
 * it is used; until then all of the file counts as in use, and new blocks go behind its end.
 */
#include "disk/vhdx.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "disk/vhdx-impl.h"
#include "disk/vhdx-log.h"

#include <errno.h>

/* What is needed only while opening. */
struct opening {
	struct vhdx *vhdx;
	struct vhdx_regions *regions;
	uint8_t *log_bytes; /* set while the log has to be looked through */
	struct vhdx_log_area log;
	struct vhdx_log_sequence sequence;
	uint64_t file_bytes; /* as it is after replay */
	bool whole_bat;
};

/* ---- reading through a log that must not be written ---- */

struct overlay_read {
	uint64_t offset;
	uint8_t *buf;
	size_t len;
};

static int overlay_record(void *user, const struct vhdx_log_record *record, struct error *err)
{
	struct overlay_read *read = user;
	uint64_t from = MAX(record->file_offset, read->offset);
	uint64_t to = MIN(record->file_offset + record->length, read->offset + read->len);

	if (from >= to)
		return 0;
	if (record->data)
		memcpy(read->buf + (from - read->offset),
		       record->data + (from - record->file_offset), to - from);
	else
		memset(read->buf + (from - read->offset), 0, to - from);
	return 0;
}

static int read_at(struct opening *o, uint64_t offset, void *buf, size_t len, struct error *err)
{
	struct overlay_read overlay = { offset, buf, len };
	int rc;

	if (!RANGE_OK(offset, len, o->file_bytes))
		return error_set(err, ERR_CORRUPT,
				 "the VHDX file ends at %#lx, before its structure at %#lx+%#zx",
				 o->file_bytes, offset, len);
	rc = file_read_now(o->vhdx->file, offset, buf, len);
	if (rc < 0)
		return error_set_errno(err, -rc, "reading the VHDX file at %#lx", offset);
	if (!o->log_bytes)
		return 0;
	return vhdx_log_replay(&o->log, &o->sequence, o->file_bytes, overlay_record, &overlay, err);
}

/* ---- identifier, headers, log ---- */

static int read_headers(struct opening *o, struct error *err)
{
	AUTO_FREE struct vhdx_header *slots = malloc(2 * sizeof(*slots));
	struct vhdx *vhdx = o->vhdx;
	uint64_t signature;
	int rc;

	if (!slots)
		return error_set(err, ERR_NO_MEMORY, "no memory to open a VHDX");
	rc = read_at(o, VHDX_IDENTIFIER_OFFSET, &signature, sizeof(signature), err);
	if (rc < 0)
		return rc;
	if (le64toh(signature) != VHDX_IDENTIFIER_SIGNATURE)
		return error_set(err, ERR_INVALID, "no VHDX: the signature at 0 is missing");
	for (unsigned slot = 0; slot < 2; slot++) {
		rc = read_at(o, VHDX_HEADER_OFFSET(slot), &slots[slot], sizeof(slots[slot]), err);
		if (rc < 0)
			return rc;
	}
	rc = vhdx_header_choose(slots, &vhdx->header, &vhdx->header_slot, err);
	if (rc < 0)
		return rc;
	vhdx->log_region = (struct vhdx_range){ le64toh(vhdx->header.log_offset),
						le32toh(vhdx->header.log_length) };
	return 0;
}

bool vhdx_log_in_use(const struct vhdx *vhdx)
{
	static const struct guid none;

	return !guid_equal(&vhdx->header.log_guid, &none);
}

static int load_log(struct opening *o, struct error *err)
{
	struct vhdx_range *region = &o->vhdx->log_region;
	int rc;

	if (!RANGE_OK(region->offset, region->length, o->file_bytes))
		return error_set(err, ERR_CORRUPT,
				 "the VHDX file ends at %#lx, before its log at %#lx+%#lx",
				 o->file_bytes, region->offset, region->length);
	o->log_bytes = malloc(region->length);
	if (!o->log_bytes)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX log of %lu bytes",
				 region->length);
	rc = file_read_now(o->vhdx->file, region->offset, o->log_bytes, region->length);
	if (rc < 0)
		return error_set_errno(err, -rc, "reading the VHDX log at %#lx", region->offset);
	o->log = (struct vhdx_log_area){ o->log_bytes, (uint32_t)region->length, region->offset,
					 o->vhdx->header.log_guid };
	rc = vhdx_log_find(&o->log, &o->sequence, err);
	if (rc < 0)
		return rc;
	if (o->file_bytes < o->sequence.flushed_file_bytes)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX file was cut: it has %lu bytes, its log knows of %lu",
				 o->file_bytes, o->sequence.flushed_file_bytes);
	if (o->sequence.last_file_bytes > VHDX_MAX_DISK_BYTES * 2)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX log at %#lx asks for a file of %lu bytes",
				 region->offset, o->sequence.last_file_bytes);
	return 0;
}

static int write_record(void *user, const struct vhdx_log_record *record, struct error *err)
{
	struct opening *o = user;
	int rc = record->data ? file_write_now(o->vhdx->file, record->file_offset, record->data,
					       record->length)
			      : file_zero_now(o->vhdx->file, record->file_offset, record->length);

	if (rc < 0)
		return error_set_errno(err, -rc, "replaying the VHDX log to %#lx",
				       record->file_offset);
	return 0;
}

static int replay_into_file(struct opening *o, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;
	int rc;

	/* First of all, others must be able to see that the file was written to. */
	guid_generate(&vhdx->header.file_write_guid);
	rc = vhdx_write_headers_now(vhdx);
	if (rc == 0 && vhdx->file->size_bytes < o->file_bytes)
		rc = file_set_size(vhdx->file, o->file_bytes);
	if (rc < 0)
		return error_set_errno(err, -rc, "preparing the VHDX file for its log's replay");
	rc = vhdx_log_replay(&o->log, &o->sequence, o->file_bytes, write_record, o, err);
	if (rc < 0)
		return rc;
	rc = file_sync_now(vhdx->file);
	if (rc == 0) {
		memset(&vhdx->header.log_guid, 0, sizeof(vhdx->header.log_guid));
		rc = vhdx_write_headers_now(vhdx);
	}
	if (rc < 0)
		return error_set_errno(err, -rc, "ending the VHDX log's replay");
	free(o->log_bytes);
	o->log_bytes = NULL;
	return 0;
}

static int handle_log(struct opening *o, struct error *err)
{
	int rc;

	if (!vhdx_log_in_use(o->vhdx))
		return 0;
	rc = load_log(o, err);
	if (rc < 0)
		return rc;
	o->file_bytes = MAX(o->file_bytes, o->sequence.last_file_bytes);
	return o->vhdx->blk.info.read_only ? 0 : replay_into_file(o, err);
}

/* ---- regions, metadata, BAT ---- */

static int read_regions(struct opening *o, struct error *err)
{
	AUTO_FREE uint8_t *tables = malloc(2 * VHDX_REGION_TABLE_BYTES);
	struct vhdx *vhdx = o->vhdx;
	int rc;

	if (!tables)
		return error_set(err, ERR_NO_MEMORY, "no memory to open a VHDX");
	rc = read_at(o, VHDX_REGION_TABLE_OFFSET(0), tables, 2 * VHDX_REGION_TABLE_BYTES, err);
	if (rc == 0)
		rc = vhdx_regions_parse(tables, o->regions, err);
	if (rc < 0)
		return rc;
	vhdx->bat_region = o->regions->bat;
	vhdx->metadata_region = o->regions->metadata;
	if (vhdx->metadata_region.length > VHDX_MAX_METADATA_BYTES)
		return error_set(err, ERR_LIMIT, "the VHDX metadata region has %lu bytes",
				 vhdx->metadata_region.length);
	return 0;
}

static int read_metadata_part(void *user, uint64_t offset, void *buf, size_t len, struct error *err)
{
	struct opening *o = user;

	return read_at(o, o->vhdx->metadata_region.offset + offset, buf, len, err);
}

static int read_locator(struct opening *o, struct error *err)
{
	const struct vhdx_geometry *g = &o->vhdx->geometry;
	AUTO_FREE uint8_t *item = malloc(g->locator_bytes);
	int rc;

	if (!item)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX parent locator");
	rc = read_metadata_part(o, g->locator_at, item, g->locator_bytes, err);
	return rc < 0 ? rc : vhdx_locator_parse(item, g->locator_bytes, &o->vhdx->locator, err);
}

static int read_metadata(struct opening *o, struct error *err)
{
	struct vhdx_metadata_source source = { read_metadata_part, o,
					       o->vhdx->metadata_region.length };
	int rc = vhdx_metadata_parse(&source, &o->vhdx->geometry, err);

	return rc == 0 && o->vhdx->geometry.has_parent ? read_locator(o, err) : rc;
}

/* Reserves what isn't payload: nothing else may lie there. */
static int claim_structures(struct opening *o, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;

	vhdx->file_bytes = o->file_bytes;
	if (!space_init(&vhdx->space, o->file_bytes, vhdx->geometry.block_bytes))
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX of %lu bytes",
				 o->file_bytes);
	if (!space_claim(&vhdx->space, 0, VHDX_HEADER_SECTION_BYTES))
		return error_set(err, ERR_CORRUPT, "the VHDX file ends within its headers");
	if (vhdx->log_region.length &&
	    !space_claim(&vhdx->space, vhdx->log_region.offset, vhdx->log_region.length))
		return error_set(err, ERR_CORRUPT,
				 "the VHDX log at %#lx+%#lx lies outside the file of %lu bytes",
				 vhdx->log_region.offset, vhdx->log_region.length, o->file_bytes);
	for (unsigned i = 0; i < o->regions->count; i++) {
		const struct vhdx_range *range = &o->regions->all[i];

		if (!space_claim(&vhdx->space, range->offset, range->length))
			return error_set(err, ERR_CORRUPT,
					 "the VHDX region at %#lx+%#lx overlaps the log or lies "
					 "outside the file of %lu bytes",
					 range->offset, range->length, o->file_bytes);
	}
	return 0;
}

#define SCAN_BYTES     (UINT64_C(1) << 20)
#define MAX_SCAN_BYTES (UINT64_C(4) << 20)

/* Checks all entries and learns which places are free. */
static int scan_bat(struct opening *o, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;
	uint64_t entries = vhdx->geometry.bat_entries, step = SCAN_BYTES / VHDX_BAT_ENTRY_BYTES;
	AUTO_FREE uint64_t *part = malloc(MIN(SCAN_BYTES, entries * VHDX_BAT_ENTRY_BYTES));

	if (!part)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX BAT");
	for (uint64_t first = 0; first < entries; first += step) {
		uint64_t count = MIN(step, entries - first);
		int rc = read_at(o, vhdx->bat_region.offset + first * VHDX_BAT_ENTRY_BYTES, part,
				 count * VHDX_BAT_ENTRY_BYTES, err);

		if (rc == 0)
			rc = vhdx_bat_check(vhdx, first, part, count, true, err);
		if (rc < 0)
			return rc;
	}
	space_settle(&vhdx->space);
	return 0;
}

static int prepare_bat(struct opening *o, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;
	uint64_t bytes = vhdx->geometry.bat_entries * VHDX_BAT_ENTRY_BYTES;

	if (bytes > vhdx->bat_region.length)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX BAT region at %#lx has %lu bytes; the disk needs %lu",
				 vhdx->bat_region.offset, vhdx->bat_region.length, bytes);
	if (bytes <= MAX_SCAN_BYTES || o->whole_bat)
		return scan_bat(o, err);
	vhdx->bat_known = calloc(bytes / VHDX_SECTOR_BYTES / 64 + 1, sizeof(uint64_t));
	return vhdx->bat_known ? 0 : error_set(err, ERR_NO_MEMORY, "no memory for a VHDX BAT");
}

/* ---- a log that stays in memory ---- */

static int keep_record(void *user, const struct vhdx_log_record *record, struct error *err)
{
	struct opening *o = user;

	return vhdx_overlay_add(o->vhdx, record->file_offset, record->length, record->data, err);
}

static int keep_log(struct opening *o, struct error *err)
{
	int rc = vhdx_log_replay(&o->log, &o->sequence, o->file_bytes, keep_record, o, err);

	if (rc == 0)
		vhdx_overlay_sort(o->vhdx);
	return rc;
}

/* ---- putting it together ---- */

static int read_structures(struct opening *o, struct error *err)
{
	int rc = read_headers(o, err);

	if (rc == 0)
		rc = handle_log(o, err);
	if (rc == 0)
		rc = read_regions(o, err);
	if (rc == 0)
		rc = read_metadata(o, err);
	if (rc == 0)
		rc = claim_structures(o, err);
	if (rc == 0 && o->log_bytes)
		rc = keep_log(o, err);
	if (rc == 0)
		rc = prepare_bat(o, err);
	if (rc == 0 && o->log_bytes)
		rc = vhdx_overlay_check(o->vhdx, err);
	return rc;
}

void vhdx_unload(struct vhdx *vhdx)
{
	vhdx_locator_done(&vhdx->locator);
	vhdx_meta_free(vhdx);
	space_done(&vhdx->space);
	vhdx_cache_done(vhdx);
	free(vhdx->bat_known);
	free(vhdx->freed.offset);
	free(vhdx->freeing.offset);
	free(vhdx->releasing.offset);
	pool_done(&vhdx->ios);
	pool_done(&vhdx->segments);
	pool_done(&vhdx->prepares);
	free(vhdx);
}

#define UNMAP_GRANULARITY 65536u

static void fill_info(struct vhdx *vhdx, bool read_only)
{
	const struct vhdx_geometry *g = &vhdx->geometry;

	vhdx->blk.info = (struct blk_info){
		.size_bytes = g->disk_bytes,
		.logical_sector_bytes = g->logical_sector_bytes,
		.physical_sector_bytes = MAX(g->physical_sector_bytes, g->logical_sector_bytes),
		.read_only = read_only,
		.can_unmap = !read_only && !g->fixed,
		.unmap_granularity_bytes = UNMAP_GRANULARITY,
		.has_id = true,
		.id = g->id,
	};
}

int vhdx_load(struct file *file, const struct vhdx_load *how, struct vhdx **ret, struct error *err)
{
	struct vhdx *vhdx = calloc(1, sizeof(*vhdx));
	struct opening o = { .vhdx = vhdx,
			     .file_bytes = file->size_bytes,
			     .whole_bat = how->whole_bat };
	int rc;

	o.regions = malloc(sizeof(*o.regions));
	if (!vhdx || !o.regions) {
		free(vhdx);
		free(o.regions);
		return error_set(err, ERR_NO_MEMORY, "no memory to open a VHDX");
	}
	blk_init(&vhdx->blk, &vhdx_blk_ops, &(struct blk_info){ .read_only = how->read_only });
	vhdx->file = file;
	vhdx->bad_entry = how->bad_entry;
	vhdx->bad_entry_user = how->user;
	vhdx_cache_init(vhdx);
	vhdx_list_init(&vhdx->waiting_activation);
	vhdx_list_init(&vhdx->meta.waiting);
	vhdx_list_init(&vhdx->meta.current);
	vhdx_io_pools_init(vhdx);
	rc = read_structures(&o, err);
	free(o.log_bytes);
	free(o.regions);
	if (rc < 0) {
		vhdx_unload(vhdx);
		return rc;
	}
	fill_info(vhdx, how->read_only);
	*ret = vhdx;
	return 0;
}

static int check_parent(const struct vhdx *vhdx, const struct blk *parent, struct error *err)
{
	uint32_t sector = vhdx->geometry.logical_sector_bytes;

	if (!vhdx->geometry.has_parent && parent)
		return error_set(err, ERR_INVALID,
				 "the VHDX is no differencing disk, but it was given a parent");
	if (vhdx->geometry.has_parent && !parent)
		return error_set(err, ERR_INVALID,
				 "a differencing VHDX can't be opened without its parent disk");
	if (parent && blk_info(parent)->logical_sector_bytes != sector)
		return error_set(err, ERR_INVALID,
				 "the differencing VHDX has sectors of %u bytes, its parent has "
				 "%u",
				 sector, blk_info(parent)->logical_sector_bytes);
	return 0;
}

int vhdx_open(struct file *file, const struct disk_options *options, struct blk **ret,
	      struct error *err)
{
	struct vhdx_load how = { .read_only = options->read_only };
	struct vhdx *vhdx;
	int rc = vhdx_load(file, &how, &vhdx, err);

	if (rc < 0)
		return rc;
	rc = check_parent(vhdx, options->parent, err);
	if (rc < 0) {
		vhdx_unload(vhdx);
		return rc;
	}
	vhdx->parent = options->parent;
	vhdx->data_write_id = options->data_write_id;
	*ret = &vhdx->blk;
	return 0;
}

int vhdx_close(struct blk *blk, struct error *err)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);
	int rc = vhdx_settle(vhdx, err);

	file_close(vhdx->file);
	/* It was read only: nothing of it can be lost. */
	blk_close(vhdx->parent, NULL);
	vhdx_unload(vhdx);
	return rc;
}

bool vhdx_link_id(const struct blk *disk, struct guid *ret)
{
	if (disk->ops != &vhdx_blk_ops)
		return false;
	*ret = container_of(disk, struct vhdx, blk)->header.data_write_guid;
	return true;
}
