#include "disk/vhdx-edit.h"

#include "base/macros.h"
#include "disk/vhdx-log.h"

#include <errno.h>

static int io_error(int rc, struct error *err)
{
	return rc < 0 ? error_set_errno(err, -rc, "changing the VHDX file's structures") : 0;
}

int vhdx_edit_begin(struct vhdx *vhdx, bool visible, struct error *err)
{
	int rc;

	if (!vhdx->log_region.length)
		return error_set(err, ERR_CORRUPT,
				 "the VHDX file has no log: its structures can't be changed "
				 "safely");
	vhdx->found_header = vhdx->header;
	guid_generate(&vhdx->header.file_write_guid);
	if (visible)
		guid_generate(&vhdx->header.data_write_guid);
	rc = vhdx_write_headers_now(vhdx);
	if (rc < 0)
		(void)vhdx_take_guids_back(vhdx);
	return io_error(rc, err);
}

/* ---- collecting ---- */

static uint8_t *page_of(struct vhdx_edit *edit, uint64_t offset, int *ret_rc)
{
	unsigned i = 0;

	while (i < edit->count && edit->offset[i] != offset)
		i++;
	*ret_rc = 0;
	if (i < edit->count)
		return edit->page[i];
	if (edit->count == VHDX_EDIT_PAGES)
		return NULL;
	*ret_rc = file_read_now(edit->vhdx->file, offset, edit->page[i], VHDX_SECTOR_BYTES);
	edit->offset[i] = offset;
	edit->count++;
	return edit->page[i];
}

int vhdx_edit_put(struct vhdx_edit *edit, uint64_t offset, const void *bytes, size_t len,
		  struct error *err)
{
	const uint8_t *from = bytes;

	while (len > 0) {
		uint64_t in_page = offset % VHDX_SECTOR_BYTES;
		size_t part = MIN(len, VHDX_SECTOR_BYTES - in_page);
		int rc;
		uint8_t *page = page_of(edit, offset - in_page, &rc);

		if (!page)
			return error_set(
			    err, ERR_LIMIT,
			    "the change of the VHDX file's structures is too large for "
			    "one step");
		if (rc < 0)
			return error_set_errno(err, -rc, "reading the VHDX file at %#lx", offset);
		memcpy(page + in_page, from, part);
		offset += part;
		from += part;
		len -= part;
	}
	return 0;
}

bool vhdx_edit_has_room(const struct vhdx_edit *edit, size_t len)
{
	return edit->count + len / VHDX_SECTOR_BYTES + 2 <= VHDX_EDIT_PAGES;
}

/* ---- writing ---- */

static int write_log(struct vhdx *vhdx, const struct vhdx_log_entry *entry)
{
	struct vhdx_meta *meta = &vhdx->meta;
	uint32_t len = vhdx_log_entry_bytes(entry->page_count);
	uint32_t log_len = (uint32_t)vhdx->log_region.length;
	uint32_t first = MIN(len, log_len - meta->log_next);
	AUTO_FREE uint8_t *bytes = malloc(len);
	int rc;

	if (!bytes)
		return -ENOMEM;
	vhdx_log_compose(entry, bytes);
	rc = file_write_durable_now(vhdx->file, vhdx->log_region.offset + meta->log_next, bytes,
				    first);
	if (rc == 0 && first < len)
		rc = file_write_durable_now(vhdx->file, vhdx->log_region.offset, bytes + first,
					    len - first);
	meta->log_next = (meta->log_next + len) % log_len;
	return rc;
}

static struct vhdx_log_entry new_entry(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;

	return (struct vhdx_log_entry){
		.guid = meta->log_guid,
		.sequence_number = ++meta->log_sequence,
		.tail = meta->log_next,
		.flushed_file_bytes = ALIGN_DOWN(vhdx->file->size_bytes, VHDX_MIB),
		.last_file_bytes = ALIGN_UP(vhdx->file->size_bytes, VHDX_MIB),
	};
}

/* As in vhdx-meta.c: a header never names a log without a valid entry. */
static int open_log(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;
	struct vhdx_log_entry entry;
	int rc;

	guid_generate(&meta->log_guid);
	entry = new_entry(vhdx);
	rc = write_log(vhdx, &entry);
	vhdx->header.log_guid = meta->log_guid;
	vhdx->header.log_version = htole16(VHDX_LOG_VERSION);
	if (rc == 0)
		rc = vhdx_write_headers_now(vhdx);
	meta->log_open = rc == 0;
	return rc;
}

static int commit(struct vhdx_edit *edit)
{
	struct vhdx *vhdx = edit->vhdx;
	struct vhdx_log_entry entry;
	int rc = file_sync_now(vhdx->file);

	if (rc == 0 && !vhdx->meta.log_open)
		rc = open_log(vhdx);
	if (rc < 0)
		return rc;
	entry = new_entry(vhdx);
	entry.page_count = edit->count;
	entry.page_offsets = edit->offset;
	entry.pages = edit->page[0];
	rc = write_log(vhdx, &entry);
	for (unsigned i = 0; i < edit->count && rc == 0; i++)
		rc = file_write_now(vhdx->file, edit->offset[i], edit->page[i], VHDX_SECTOR_BYTES);
	return rc == 0 ? file_sync_now(vhdx->file) : rc;
}

int vhdx_edit_commit(struct vhdx_edit *edit, struct error *err)
{
	int rc = edit->count ? commit(edit) : 0;

	edit->count = 0;
	/* What is in place is unknown now: the log must stay, to be replayed at the next open. */
	if (rc < 0)
		edit->vhdx->write_state = VHDX_FAILED;
	return io_error(rc, err);
}

int vhdx_edit_end(struct vhdx *vhdx, struct error *err)
{
	int rc;

	if (vhdx->write_state == VHDX_FAILED)
		return error_set(err, ERR_IO, "the VHDX file's structures could not be written");
	rc = file_sync_now(vhdx->file);
	if (rc == 0 && vhdx->meta.log_open) {
		memset(&vhdx->header.log_guid, 0, sizeof(vhdx->header.log_guid));
		rc = vhdx_write_headers_now(vhdx);
		vhdx->meta.log_open = false;
	}
	return io_error(rc, err);
}
