/*
 * How the metadata of a VHDX gets onto the disk so that a power cut at any point leaves a valid
 * file that holds everything flushed before.
 *
 * Activation, once per open, before the first change: an empty entry with a new LogGuid is written
 * into the still unused log, then both headers get that LogGuid (so a header never names a log
 * without a valid entry), a new FileWriteGuid and DataWriteGuid (others see by them that the file
 * was changed).
 *
 * Flush. One round serves all flushes that wait when it begins:
 *   1. Copy the dirty pages. Every block that the copies name was zeroed, or lies beyond the old
 *      end of file, or is partially present; its data so far, and that of every sector whose bit is
 *      set in the copies, has been given to the host.
 *   2. Sync. Now that data is durable - and so are the in-place pages of the round before, whose
 *      log entry is therefore no longer needed.
 *   3. If there are dirty pages: write one log entry with all of them, its tail pointing to itself,
 *      durably. The flushes are done here.
 *   4. Write the pages to their places; give freed blocks back to the host.
 * A guest's flush costs one sync, and one small durable write if blocks were allocated or freed.
 *
 * When there are more dirty pages than an entry takes, a cut may come between two entries. So bits
 * go first, then the BAT from its end: what a block's entry relies on - its bits are right, its
 * chunk has a bitmap block, whose entry stands behind those of the chunk's blocks - is durable no
 * later than the entry. The other way round there is nothing to fear: bits matter only while a
 * block is partially present; it becomes that only once, from not present, and its place and the
 * bits of what it holds stay until it is freed (vhdx-io.c).
 *
 * A torn log entry is invalid, and the entry before it, which is still there because two entries
 * never fill the log, makes the sequence. An entry is at most about half of the log.
 *
 * If anything here fails, what is on disk is unknown: the disk refuses changes until it is opened
 * again (VHDX_FAILED), where the log is replayed. The DataWriteGuid must not stay unknown, for a
 * child may be made over the file, and would have the wrong one after a power cut. Where activation
 * failed nothing else was changed yet, so closing writes the GUIDs that were found once more.
 */
#include "disk/vhdx-impl.h"

#include "base/macros.h"
#include "disk/vhdx-log.h"

#include <assert.h>
#include <errno.h>

#define DESCRIPTORS_IN_FIRST_SECTOR 126u

/* ---- steps ---- */

static void run_step(struct vhdx_steps *steps);

static void step_done(struct file_request *req, int result)
{
	struct vhdx_steps *steps = container_of(req, struct vhdx_steps, req);

	steps->index++;
	if (result < 0 || steps->index == steps->count)
		steps->then(steps->vhdx, result);
	else
		run_step(steps);
}

static void run_step(struct vhdx_steps *steps)
{
	const struct vhdx_step *step = &steps->step[steps->index];

	steps->iov = (struct iovec){ (void *)step->buf, step->len };
	steps->req = (struct file_request){ .op = step->op,
					    .offset = step->offset,
					    .length = step->len,
					    .iov = &steps->iov,
					    .iov_count = 1,
					    .done = step_done };
	file_submit(steps->vhdx->file, &steps->req);
}

static void begin_steps(struct vhdx *vhdx, struct vhdx_steps *steps)
{
	steps->vhdx = vhdx;
	steps->count = 0;
	steps->index = 0;
}

static void add_write(struct vhdx_steps *steps, uint64_t offset, const void *buf, size_t len)
{
	assert(steps->count < VHDX_MAX_STEPS);
	steps->step[steps->count++] = (struct vhdx_step){ FILE_WRITE, offset, buf, len };
}

static void add_durable_write(struct vhdx_steps *steps, uint64_t offset, const void *buf,
			      size_t len)
{
	add_write(steps, offset, buf, len);
	steps->step[steps->count - 1].op = FILE_WRITE_DURABLE;
}

static void add_sync(struct vhdx_steps *steps)
{
	assert(steps->count < VHDX_MAX_STEPS);
	steps->step[steps->count++] = (struct vhdx_step){ FILE_SYNC, 0, NULL, 0 };
}

static void start_steps(struct vhdx_steps *steps, void (*then)(struct vhdx *vhdx, int result))
{
	steps->then = then;
	run_step(steps);
}

/* ---- headers ---- */

/* The next header, ready to be written; returns its slot. */
static unsigned next_header(struct vhdx *vhdx)
{
	unsigned slot = vhdx->header_slot ^ 1;

	vhdx->header.sequence_number = htole64(le64toh(vhdx->header.sequence_number) + 1);
	vhdx_header_seal(&vhdx->header);
	vhdx->header_image[slot] = vhdx->header;
	vhdx->header_slot = slot;
	return slot;
}

/* Both slots, one after the other, get the same content with consecutive numbers. Only the first
 * must be durable at once: if the second is torn, the first counts. A sync comes before either is
 * written again. */
static void add_headers(struct vhdx *vhdx, struct vhdx_steps *steps)
{
	unsigned slot = next_header(vhdx);

	add_durable_write(steps, VHDX_HEADER_OFFSET(slot), &vhdx->header_image[slot],
			  sizeof(vhdx->header_image[slot]));
	slot = next_header(vhdx);
	add_write(steps, VHDX_HEADER_OFFSET(slot), &vhdx->header_image[slot],
		  sizeof(vhdx->header_image[slot]));
}

int vhdx_write_headers_now(struct vhdx *vhdx)
{
	unsigned slot = next_header(vhdx);
	int rc = file_write_durable_now(vhdx->file, VHDX_HEADER_OFFSET(slot), &vhdx->header,
					sizeof(vhdx->header));

	if (rc < 0)
		return rc;
	slot = next_header(vhdx);
	return file_write_now(vhdx->file, VHDX_HEADER_OFFSET(slot), &vhdx->header,
			      sizeof(vhdx->header));
}

/* The header that failed goes to the same slot, or is outranked. */
int vhdx_take_guids_back(struct vhdx *vhdx)
{
	vhdx->header.file_write_guid = vhdx->found_header.file_write_guid;
	vhdx->header.data_write_guid = vhdx->found_header.data_write_guid;
	vhdx->header.log_guid = vhdx->found_header.log_guid;
	return vhdx_write_headers_now(vhdx);
}

/* ---- activation ---- */

static void activated(struct vhdx *vhdx, int result)
{
	struct vhdx_io_list list = vhdx->waiting_activation;
	struct vhdx_io *io;

	if (!list.first)
		list.tail = &list.first;
	vhdx_list_init(&vhdx->waiting_activation);
	vhdx->write_state = result == 0 ? VHDX_WRITABLE : VHDX_FAILED;
	vhdx->guids_unsure = result < 0;
	vhdx->meta.log_open = result == 0 && vhdx->log_region.length > 0;
	while ((io = vhdx_list_take(&list))) {
		if (result == 0)
			vhdx_io_start(vhdx, io);
		else
			vhdx_io_finish(vhdx, io, BLK_IO_ERROR);
	}
}

static void add_first_entry(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;
	struct vhdx_log_entry entry = {
		.sequence_number = ++meta->log_sequence,
		.flushed_file_bytes = ALIGN_DOWN(vhdx->file_bytes, VHDX_MIB),
		.last_file_bytes = ALIGN_UP(vhdx->file->size_bytes, VHDX_MIB),
	};

	guid_generate(&meta->log_guid);
	vhdx->header.log_guid = entry.guid = meta->log_guid;
	vhdx->header.log_version = htole16(VHDX_LOG_VERSION);
	vhdx_log_compose(&entry, meta->first_entry);
	meta->log_next = sizeof(meta->first_entry);
	add_durable_write(&vhdx->activation, vhdx->log_region.offset, meta->first_entry,
			  sizeof(meta->first_entry));
}

void vhdx_activate(struct vhdx *vhdx)
{
	static const struct guid none;

	vhdx->write_state = VHDX_ACTIVATING;
	vhdx->found_header = vhdx->header;
	guid_generate(&vhdx->header.file_write_guid);
	if (guid_equal(&vhdx->data_write_id, &none))
		guid_generate(&vhdx->header.data_write_guid);
	else
		vhdx->header.data_write_guid = vhdx->data_write_id;
	begin_steps(vhdx, &vhdx->activation);
	if (vhdx->log_region.length)
		add_first_entry(vhdx);
	add_headers(vhdx, &vhdx->activation);
	start_steps(&vhdx->activation, activated);
}

/* ---- dirty pages ---- */

static void take_page(struct vhdx_meta *meta, struct vhdx_page *page)
{
	vhdx_page_clean(page);
	page->pins++;
	meta->round[meta->page_count++] = page;
}

/* The page with the highest offset. */
static struct vhdx_page *last_of(struct vhdx_page *list)
{
	struct vhdx_page *last = list;

	for (; list; list = list->dirty_next)
		if (list->offset > last->offset)
			last = list;
	return last;
}

static int by_offset(const void *a, const void *b)
{
	const struct vhdx_page *x = *(struct vhdx_page *const *)a;
	const struct vhdx_page *y = *(struct vhdx_page *const *)b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* What doesn't fit is left for the next log entry, in the order that is told above. */
static void choose_pages(struct vhdx *vhdx)
{
	struct vhdx_cache *cache = &vhdx->cache;
	struct vhdx_meta *meta = &vhdx->meta;
	unsigned bat_pages = cache->dirty_count[VHDX_PAGE_BAT];

	while (cache->dirty[VHDX_PAGE_BITMAP] && meta->page_count < meta->max_pages)
		take_page(meta, cache->dirty[VHDX_PAGE_BITMAP]);
	while (cache->dirty[VHDX_PAGE_BAT] && meta->page_count < meta->max_pages)
		take_page(meta, bat_pages <= meta->max_pages - meta->page_count
				    ? cache->dirty[VHDX_PAGE_BAT]
				    : last_of(cache->dirty[VHDX_PAGE_BAT]));
	if (meta->page_count)
		qsort(meta->round, meta->page_count, sizeof(struct vhdx_page *), by_offset);
}

static void copy_dirty_pages(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;

	meta->page_count = 0;
	choose_pages(vhdx);
	for (unsigned i = 0; i < meta->page_count; i++) {
		meta->page_offsets[i] = meta->round[i]->offset;
		memcpy(meta->pages + (size_t)i * VHDX_SECTOR_BYTES, meta->round[i]->word,
		       VHDX_SECTOR_BYTES);
	}
}

static void let_pages_go(struct vhdx_meta *meta)
{
	for (unsigned i = 0; i < meta->page_count; i++)
		meta->round[i]->pins--;
	meta->page_count = 0;
}

static bool any_dirty(const struct vhdx *vhdx)
{
	return vhdx->cache.dirty_count[VHDX_PAGE_BAT] || vhdx->cache.dirty_count[VHDX_PAGE_BITMAP];
}

/* ---- the flush machine ---- */

static void round_begin(struct vhdx *vhdx);

static void finish_list(struct vhdx *vhdx, struct vhdx_io_list *list, enum blk_result result)
{
	struct vhdx_io *io;

	while ((io = vhdx_list_take(list)))
		vhdx_io_finish(vhdx, io, result);
}

static void round_failed(struct vhdx *vhdx)
{
	vhdx->write_state = VHDX_FAILED;
	vhdx->meta.running = false;
	/* The round's pages stay pinned: memory alone is sure to be right now. */
	finish_list(vhdx, &vhdx->meta.current, BLK_IO_ERROR);
	finish_list(vhdx, &vhdx->meta.waiting, BLK_IO_ERROR);
}

static void take_waiting(struct vhdx_meta *meta)
{
	struct vhdx_io *io;

	while ((io = vhdx_list_take(&meta->waiting)))
		vhdx_list_add(&meta->current, io);
}

static void round_end(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;

	if (!meta->another_round && !meta->waiting.first && !meta->background_wanted) {
		meta->running = false;
		return;
	}
	if (!meta->another_round)
		take_waiting(meta);
	round_begin(vhdx);
}

/* 4: pages that follow each other go in one write. */
static void apply_next(struct vhdx *vhdx, int result)
{
	struct vhdx_meta *meta = &vhdx->meta;
	unsigned first = meta->applied, count = 1;

	if (result < 0) {
		round_failed(vhdx);
		return;
	}
	if (first == meta->page_count) {
		let_pages_go(meta);
		round_end(vhdx);
		return;
	}
	while (first + count < meta->page_count &&
	       meta->page_offsets[first + count] ==
		   meta->page_offsets[first] + (uint64_t)count * VHDX_SECTOR_BYTES)
		count++;
	meta->applied = first + count;
	begin_steps(vhdx, &meta->steps);
	add_write(&meta->steps, meta->page_offsets[first],
		  meta->pages + (size_t)first * VHDX_SECTOR_BYTES,
		  (size_t)count * VHDX_SECTOR_BYTES);
	start_steps(&meta->steps, apply_next);
}

static void round_durable(struct vhdx *vhdx)
{
	if (!vhdx->meta.another_round)
		finish_list(vhdx, &vhdx->meta.current, BLK_OK);
	vhdx_release_places(vhdx, &vhdx->freeing);
	vhdx->meta.applied = 0;
	apply_next(vhdx, 0);
}

static void entry_logged(struct vhdx *vhdx, int result)
{
	if (result < 0)
		round_failed(vhdx);
	else
		round_durable(vhdx);
}

static void compose_entry(struct vhdx *vhdx, unsigned page_count)
{
	struct vhdx_meta *meta = &vhdx->meta;
	struct vhdx_log_entry entry = {
		.guid = meta->log_guid,
		.sequence_number = ++meta->log_sequence,
		.tail = meta->log_next,
		.flushed_file_bytes = ALIGN_DOWN(meta->durable_bytes, VHDX_MIB),
		.last_file_bytes = ALIGN_UP(vhdx->file->size_bytes, VHDX_MIB),
		.page_count = page_count,
		.page_offsets = meta->page_offsets,
		.pages = meta->pages,
	};

	vhdx_log_compose(&entry, meta->entry);
}

/* An entry may wrap around the end of the log. */
static void add_entry_writes(struct vhdx *vhdx, unsigned page_count)
{
	struct vhdx_meta *meta = &vhdx->meta;
	uint32_t len = vhdx_log_entry_bytes(page_count);
	uint32_t log_len = (uint32_t)vhdx->log_region.length;
	uint32_t first = MIN(len, log_len - meta->log_next);

	compose_entry(vhdx, page_count);
	add_durable_write(&meta->steps, vhdx->log_region.offset + meta->log_next, meta->entry,
			  first);
	if (first < len)
		add_durable_write(&meta->steps, vhdx->log_region.offset, meta->entry + first,
				  len - first);
	meta->log_next = (meta->log_next + len) % log_len;
}

static void write_entry(struct vhdx *vhdx, int result)
{
	struct vhdx_meta *meta = &vhdx->meta;

	if (result < 0) {
		round_failed(vhdx);
		return;
	}
	begin_steps(vhdx, &meta->steps);
	add_entry_writes(vhdx, meta->page_count);
	start_steps(&meta->steps, entry_logged);
}

/* 2 is done. */
static void data_synced(struct vhdx *vhdx, int result)
{
	if (result < 0)
		round_failed(vhdx);
	else if (vhdx->meta.page_count == 0)
		round_durable(vhdx);
	else
		write_entry(vhdx, 0);
}

/* Two entries must not fill the log. */
static unsigned pages_per_entry(const struct vhdx *vhdx)
{
	uint64_t sectors = vhdx->log_region.length / VHDX_SECTOR_BYTES;

	return (unsigned)MIN(sectors / 2 - 2, (uint64_t)DESCRIPTORS_IN_FIRST_SECTOR);
}

static bool meta_prepare_buffers(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;

	if (meta->entry)
		return true;
	meta->max_pages = pages_per_entry(vhdx);
	meta->round = calloc(meta->max_pages, sizeof(struct vhdx_page *));
	meta->page_offsets = calloc(meta->max_pages, sizeof(*meta->page_offsets));
	meta->pages = malloc((size_t)meta->max_pages * VHDX_SECTOR_BYTES);
	meta->entry = malloc(vhdx_log_entry_bytes(meta->max_pages));
	return meta->round && meta->page_offsets && meta->pages && meta->entry;
}

/* 1 and the start of 2. */
static void round_begin(struct vhdx *vhdx)
{
	struct vhdx_meta *meta = &vhdx->meta;

	meta->running = true;
	meta->background_wanted = false;
	meta->page_count = 0;
	if (any_dirty(vhdx) && (!vhdx->log_region.length || !meta_prepare_buffers(vhdx))) {
		round_failed(vhdx);
		return;
	}
	copy_dirty_pages(vhdx);
	meta->another_round = any_dirty(vhdx);
	if (!meta->another_round) {
		struct vhdx_places empty = vhdx->freeing;

		/* All entries that no longer name these places are in the copies. */
		vhdx->freeing = vhdx->freed;
		vhdx->freed = empty;
	}
	meta->durable_bytes = vhdx->file->size_bytes;
	begin_steps(vhdx, &meta->steps);
	add_sync(&meta->steps);
	start_steps(&meta->steps, data_synced);
}

void vhdx_flush(struct vhdx *vhdx, struct vhdx_io *io)
{
	struct vhdx_meta *meta = &vhdx->meta;

	if (vhdx->blk.info.read_only || vhdx->write_state == VHDX_FAILED) {
		if (io)
			vhdx_io_finish(vhdx, io, vhdx->blk.info.read_only ? BLK_OK : BLK_IO_ERROR);
		return;
	}
	if (io)
		vhdx_list_add(&meta->waiting, io);
	else
		meta->background_wanted = true;
	if (meta->running)
		return;
	take_waiting(meta);
	round_begin(vhdx);
}

void vhdx_meta_free(struct vhdx *vhdx)
{
	free(vhdx->meta.round);
	free(vhdx->meta.page_offsets);
	free(vhdx->meta.pages);
	free(vhdx->meta.entry);
}

/* ---- closing ---- */

static int close_log(struct vhdx *vhdx)
{
	int rc = file_sync_now(vhdx->file);

	if (rc < 0)
		return rc;
	memset(&vhdx->header.log_guid, 0, sizeof(vhdx->header.log_guid));
	return vhdx_write_headers_now(vhdx);
}

/* Growing goes ahead of need; a fixed file keeps its size. */
static void trim_file(struct vhdx *vhdx)
{
	uint64_t end = space_used_end(&vhdx->space);

	if (!vhdx->geometry.fixed && end < vhdx->file->size_bytes)
		file_set_size(vhdx->file, end);
}

static void settle_background(struct vhdx *vhdx)
{
	while (vhdx->meta.running || vhdx->background > 0)
		file_wait(vhdx->file);
}

int vhdx_settle(struct vhdx *vhdx, struct error *err)
{
	int rc = 0;

	settle_background(vhdx);
	if (vhdx->write_state == VHDX_WRITABLE) {
		vhdx_flush(vhdx, NULL);
		settle_background(vhdx);
	}
	/* Where that fails, too, there is nothing left to be done. */
	if (vhdx->guids_unsure)
		(void)vhdx_take_guids_back(vhdx);
	if (vhdx->write_state == VHDX_FAILED)
		return error_set(err, ERR_IO, "the VHDX file's metadata could not be written");
	if (vhdx->write_state != VHDX_WRITABLE)
		return 0;
	if (vhdx->meta.log_open)
		rc = close_log(vhdx);
	if (rc < 0)
		return error_set_errno(err, -rc, "ending the VHDX file's log");
	trim_file(vhdx);
	return 0;
}
