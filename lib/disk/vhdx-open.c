/*
 * Opening a VHDX: header, log, region table, metadata, BAT, in this order, because the log may
 * change all that follows it. A writable open replays the log into the file; a read-only open keeps
 * the log in memory and looks at the file through it while it reads the structures.
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

static bool log_in_use(const struct vhdx *vhdx)
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

	if (!log_in_use(o->vhdx))
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

static int read_metadata(struct opening *o, struct error *err)
{
	struct vhdx_metadata_source source = { read_metadata_part, o,
					       o->vhdx->metadata_region.length };
	int rc = vhdx_metadata_parse(&source, &o->vhdx->geometry, err);

	if (rc < 0)
		return rc;
	if (o->vhdx->geometry.has_parent)
		return error_set(err, ERR_UNSUPPORTED,
				 "a differencing VHDX: parent chains are not supported yet");
	return 0;
}

/* Reserves what isn't payload: nothing else may lie there. */
static int claim_structures(struct opening *o, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;

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

static int bad_entry(const struct vhdx *vhdx, uint64_t block, const char *why, struct error *err)
{
	uint64_t index = vhdx_bat_index(&vhdx->geometry, block);

	return error_set(err, ERR_CORRUPT, "VHDX block %lu: its BAT entry %#lx at %#lx %s", block,
			 vhdx->bat[index], vhdx->bat_region.offset + index * VHDX_BAT_ENTRY_BYTES,
			 why);
}

static int check_block(struct opening *o, uint64_t block, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;
	uint64_t *entry = &vhdx->bat[vhdx_bat_index(&vhdx->geometry, block)];
	uint64_t offset = VHDX_BAT_FILE_OFFSET(*entry), length = vhdx->geometry.block_bytes;

	if (VHDX_BAT_RESERVED(*entry))
		return bad_entry(vhdx, block, "has reserved bits set", err);
	switch (VHDX_BAT_STATE(*entry)) {
	case VHDX_BLOCK_FULLY_PRESENT:
		if (!RANGE_OK(offset, length, o->file_bytes))
			return bad_entry(vhdx, block, "points beyond the end of the file", err);
		if (!space_claim(&vhdx->space, offset, length))
			return bad_entry(vhdx, block, "points into another structure", err);
		return 0;
	case VHDX_BLOCK_UNDEFINED:
	case VHDX_BLOCK_UNMAPPED:
		/* A kept place is only a reservation: a wrong one is forgotten. */
		if (offset && (!RANGE_OK(offset, length, o->file_bytes) ||
			       !space_claim(&vhdx->space, offset, length)))
			*entry = VHDX_BAT_STATE(*entry);
		return 0;
	case VHDX_BLOCK_NOT_PRESENT:
	case VHDX_BLOCK_ZERO:
		*entry = VHDX_BAT_STATE(*entry);
		return 0;
	default:
		return bad_entry(vhdx, block, "has a state that is not possible", err);
	}
}

static int read_bat(struct opening *o, struct error *err)
{
	struct vhdx *vhdx = o->vhdx;
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t bytes = g->bat_entries * VHDX_BAT_ENTRY_BYTES;
	int rc;

	if (bytes > vhdx->bat_region.length)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX BAT region at %#lx has %lu bytes; the disk needs %lu",
				 vhdx->bat_region.offset, vhdx->bat_region.length, bytes);
	vhdx->bat_pages = (bytes + VHDX_SECTOR_BYTES - 1) / VHDX_SECTOR_BYTES;
	vhdx->bat = malloc(bytes);
	vhdx->dirty_map = calloc((vhdx->bat_pages + 63) / 64, sizeof(uint64_t));
	vhdx->block_users = calloc(g->block_count, sizeof(*vhdx->block_users));
	if (!vhdx->bat || !vhdx->dirty_map || !vhdx->block_users)
		return error_set(err, ERR_NO_MEMORY, "no memory for a VHDX BAT of %lu bytes",
				 bytes);
	rc = read_at(o, vhdx->bat_region.offset, vhdx->bat, bytes, err);
	for (uint64_t i = 0; rc == 0 && i < g->bat_entries; i++)
		vhdx->bat[i] = le64toh(vhdx->bat[i]);
	for (uint64_t block = 0; rc == 0 && block < g->block_count; block++)
		rc = check_block(o, block, err);
	return rc;
}

/* ---- putting it together ---- */

static bool within_structure(const struct opening *o, const struct vhdx_log_record *record)
{
	if (record->file_offset < VHDX_HEADER_SECTION_BYTES)
		return record->file_offset + record->length <= VHDX_HEADER_SECTION_BYTES;
	for (unsigned i = 0; i < o->regions->count; i++)
		if (record->file_offset >= o->regions->all[i].offset &&
		    RANGE_OK(record->file_offset - o->regions->all[i].offset, record->length,
			     o->regions->all[i].length))
			return true;
	return false;
}

/* Reads of payload go to the file directly, so a log that is not written may not update payload.
 * (Nothing else than structures is ever logged; a long range elsewhere need not be looked at.) */
static int check_record_off_payload(void *user, const struct vhdx_log_record *record,
				    struct error *err)
{
	struct opening *o = user;

	if (within_structure(o, record))
		return 0;
	if (record->length > VHDX_MAX_BLOCK_BYTES ||
	    space_overlaps(&o->vhdx->space, record->file_offset, record->length))
		return error_set(err, ERR_CORRUPT, "the VHDX log updates payload at %#lx+%#lx",
				 record->file_offset, record->length);
	return 0;
}

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
	if (rc == 0)
		rc = read_bat(o, err);
	if (rc == 0 && o->log_bytes)
		rc = vhdx_log_replay(&o->log, &o->sequence, o->file_bytes, check_record_off_payload,
				     o, err);
	return rc;
}

static void vhdx_free(struct vhdx *vhdx)
{
	vhdx_meta_free(vhdx);
	space_done(&vhdx->space);
	free(vhdx->bat);
	free(vhdx->dirty_map);
	free(vhdx->block_users);
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

static void describe(const struct vhdx *vhdx, struct disk_details *ret)
{
	const struct vhdx_geometry *g = &vhdx->geometry;

	*ret = (struct disk_details){
		.type = g->fixed ? DISK_FIXED : DISK_DYNAMIC,
		.size_bytes = g->disk_bytes,
		.block_bytes = g->block_bytes,
		.logical_sector_bytes = g->logical_sector_bytes,
		.physical_sector_bytes = g->physical_sector_bytes,
		.id = g->id,
		.link_id = vhdx->header.data_write_guid,
		.log_dirty = log_in_use(vhdx),
	};
	for (uint64_t block = 0, last = 0; block < g->block_count; block++) {
		uint64_t entry = vhdx->bat[vhdx_bat_index(g, block)];

		if (VHDX_BAT_STATE(entry) != VHDX_BLOCK_FULLY_PRESENT) {
			last = 0;
			continue;
		}
		ret->blocks_allocated++;
		ret->block_runs += VHDX_BAT_FILE_OFFSET(entry) != last;
		last = VHDX_BAT_FILE_OFFSET(entry) + g->block_bytes;
	}
}

int vhdx_describe(struct file *file, struct disk_details *ret, struct error *err)
{
	struct disk_options options = { .read_only = true };
	struct blk *blk;
	struct vhdx *vhdx;
	int rc = vhdx_open(file, &options, &blk, err);

	if (rc < 0)
		return rc;
	vhdx = container_of(blk, struct vhdx, blk);
	describe(vhdx, ret);
	vhdx_free(vhdx);
	return 0;
}

int vhdx_open(struct file *file, const struct disk_options *options, struct blk **ret,
	      struct error *err)
{
	struct vhdx *vhdx = calloc(1, sizeof(*vhdx));
	struct opening o = { .vhdx = vhdx, .file_bytes = file->size_bytes };
	int rc;

	o.regions = malloc(sizeof(*o.regions));
	if (!vhdx || !o.regions) {
		free(vhdx);
		free(o.regions);
		return error_set(err, ERR_NO_MEMORY, "no memory to open a VHDX");
	}
	blk_init(&vhdx->blk, &vhdx_blk_ops, &(struct blk_info){ .read_only = options->read_only });
	vhdx->file = file;
	vhdx_list_init(&vhdx->waiting_activation);
	vhdx_list_init(&vhdx->meta.waiting);
	vhdx_list_init(&vhdx->meta.current);
	vhdx_io_pools_init(vhdx);
	rc = read_structures(&o, err);
	free(o.log_bytes);
	free(o.regions);
	if (rc < 0) {
		vhdx_free(vhdx);
		return rc;
	}
	fill_info(vhdx, options->read_only);
	*ret = &vhdx->blk;
	return 0;
}

int vhdx_close(struct blk *blk, struct error *err)
{
	struct vhdx *vhdx = container_of(blk, struct vhdx, blk);
	int rc = vhdx_settle(vhdx, err);

	file_close(vhdx->file);
	vhdx_free(vhdx);
	return rc;
}
