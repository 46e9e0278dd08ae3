#include "disk/power-cut.h"

#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECTOR 512u
#define PAGE   4096u
#define NEVER  UINT64_MAX

struct record {
	enum file_op op;
	bool resize;
	uint64_t offset, length; /* resize: offset is the new size */
	uint8_t *data;
	const struct file_request *req;
	uint64_t submitted, completed; /* moments */
	uint64_t durable;              /* when the first sync that covers it was complete */
};

struct cut {
	struct cut *clock;
	uint64_t now; /* counts events; of the clock */
	struct record *records;
	size_t count, capacity;
	bool settled; /* `durable` is right */
	/* The initial file without its zeros. */
	uint64_t initial_bytes;
	uint64_t *page_offset;
	uint8_t *pages;
	size_t page_count, page_capacity;
};

static void *must(void *pointer)
{
	if (!pointer) {
		fprintf(stderr, "power-cut: no memory\n");
		abort();
	}
	return pointer;
}

struct cut *cut_new(struct cut *clock)
{
	struct cut *cut = must(calloc(1, sizeof(*cut)));

	cut->clock = clock ? clock : cut;
	return cut;
}

void cut_free(struct cut *cut)
{
	if (!cut)
		return;
	for (size_t i = 0; i < cut->count; i++)
		free(cut->records[i].data);
	free(cut->records);
	free(cut->page_offset);
	free(cut->pages);
	free(cut);
}

static void add_page(struct cut *cut, uint64_t at, const uint8_t *bytes, size_t len)
{
	static const uint8_t zeros[PAGE];

	if (memcmp(bytes, zeros, len) == 0)
		return;
	if (cut->page_count == cut->page_capacity) {
		cut->page_capacity = MAX(cut->page_capacity * 2, (size_t)64);
		cut->page_offset =
		    must(realloc(cut->page_offset, cut->page_capacity * sizeof(uint64_t)));
		cut->pages = must(realloc(cut->pages, cut->page_capacity * PAGE));
	}
	memset(cut->pages + cut->page_count * PAGE, 0, PAGE);
	memcpy(cut->pages + cut->page_count * PAGE, bytes, len);
	cut->page_offset[cut->page_count++] = at;
}

void cut_initial(struct cut *cut, const uint8_t *bytes, uint64_t size_bytes)
{
	cut->initial_bytes = size_bytes;
	cut->page_count = 0;
	for (uint64_t at = 0; at < size_bytes; at += PAGE)
		add_page(cut, at, bytes + at, MIN((uint64_t)PAGE, size_bytes - at));
}

void cut_initial_file(struct cut *cut, int fd)
{
	uint8_t page[PAGE];
	ssize_t len;

	cut->initial_bytes = (uint64_t)lseek(fd, 0, SEEK_END);
	cut->page_count = 0;
	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += PAGE) {
		at = ALIGN_DOWN(at, (off_t)PAGE);
		len = pread(fd, page, PAGE, at);
		if (len <= 0)
			abort();
		add_page(cut, (uint64_t)at, page, (size_t)len);
	}
}

uint64_t cut_now(const struct cut *cut)
{
	return cut->clock->now;
}

uint64_t cut_tick(struct cut *cut)
{
	return ++cut->clock->now;
}

/* ---- recording ---- */

static struct record *add_record(struct cut *cut)
{
	if (cut->count == cut->capacity) {
		cut->capacity = MAX(cut->capacity * 2, (size_t)1024);
		cut->records = must(realloc(cut->records, cut->capacity * sizeof(*cut->records)));
	}
	cut->records[cut->count] =
	    (struct record){ .submitted = cut_tick(cut), .completed = NEVER, .durable = NEVER };
	cut->settled = false;
	return &cut->records[cut->count++];
}

static void record_submit(struct cut *cut, const struct file_request *req)
{
	struct record *record = add_record(cut);
	uint64_t at = 0;

	record->op = req->op;
	record->offset = req->offset;
	record->length = req->length;
	record->req = req;
	if (req->op != FILE_WRITE && req->op != FILE_WRITE_DURABLE)
		return;
	record->data = must(malloc(req->length));
	for (unsigned i = 0; i < req->iov_count; at += req->iov[i].iov_len, i++)
		memcpy(record->data + at, req->iov[i].iov_base, req->iov[i].iov_len);
}

static void record_complete(struct cut *cut, const struct file_request *req)
{
	for (size_t i = cut->count; i-- > 0;) {
		struct record *record = &cut->records[i];

		if (record->req != req)
			continue;
		/* What failed may have happened or not, and no sync promises it. */
		if (req->result >= 0)
			record->completed = cut_tick(cut);
		record->req = NULL;
		cut->settled = false;
		return;
	}
	fprintf(stderr, "power-cut: an operation completed that was never submitted\n");
	abort();
}

void cut_observe(void *user, enum file_mem_event event, const struct file_request *req,
		 uint64_t size_bytes)
{
	struct cut *cut = user;

	if (event == FILE_MEM_SUBMITTED) {
		record_submit(cut, req);
	} else if (event == FILE_MEM_RESIZED) {
		struct record *record = add_record(cut);

		record->resize = true;
		record->offset = size_bytes;
		record->completed = cut_now(cut);
	} else {
		record_complete(cut, req);
	}
}

static bool is_good_sync(const struct record *record)
{
	return record->op == FILE_SYNC && !record->resize && record->completed != NEVER;
}

/* From the last record to the first: of all syncs submitted later, the earliest completion. Records
 * are in order of submission. */
static void settle(struct cut *cut)
{
	uint64_t *best_sync = must(malloc((cut->count + 1) * sizeof(uint64_t)));

	if (cut->settled) {
		free(best_sync);
		return;
	}
	best_sync[cut->count] = NEVER;
	for (size_t i = cut->count; i-- > 0;) {
		const struct record *record = &cut->records[i];

		best_sync[i] = best_sync[i + 1];
		if (is_good_sync(record))
			best_sync[i] = MIN(best_sync[i], record->completed);
	}
	for (size_t i = 0; i < cut->count; i++) {
		size_t next = i + 1;

		while (next < cut->count &&
		       cut->records[next].submitted < cut->records[i].completed)
			next++;
		cut->records[i].durable = cut->records[i].completed == NEVER ? NEVER
					  : cut->records[i].op == FILE_WRITE_DURABLE
					      ? cut->records[i].completed
					      : best_sync[next];
	}
	free(best_sync);
	cut->settled = true;
}

/* ---- putting files together ---- */

struct making {
	struct file *file;
	uint64_t max_bytes, moment, random;
	enum cut_style style;
};

static uint64_t next_random(struct making *m)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return m->random;
}

static void apply_part(struct making *m, const struct record *record, uint64_t from, uint64_t to)
{
	uint8_t *bytes = file_mem_bytes(m->file);

	to = MIN(to, m->max_bytes - MIN(m->max_bytes, record->offset));
	if (from >= to)
		return;
	if (record->data)
		memcpy(bytes + record->offset + from, record->data + from, to - from);
	else
		file_mem_zero(m->file, record->offset + from, to - from);
	m->file->size_bytes = MAX(m->file->size_bytes, record->offset + to);
}

/* Some sectors of it, or a part from the start. */
static void apply_torn(struct making *m, const struct record *record)
{
	uint64_t limit = next_random(m) % (record->length / SECTOR + 1) * SECTOR;
	bool prefix = next_random(m) % 2;

	if (prefix || !record->data) {
		apply_part(m, record, 0, limit);
		return;
	}
	for (uint64_t at = 0; at < record->length; at += SECTOR)
		if (next_random(m) % 2)
			apply_part(m, record, at, MIN(at + SECTOR, record->length));
}

static void apply_resize(struct making *m, const struct record *record)
{
	uint64_t old = m->file->size_bytes;

	if (record->offset < old)
		file_mem_zero(m->file, record->offset, old - record->offset);
	m->file->size_bytes = record->offset;
}

enum fate { GONE, WHOLE, TORN };

static enum fate choose_fate(struct making *m, const struct record *record)
{
	if (record->durable <= m->moment)
		return WHOLE;
	switch (m->style) {
	case CUT_SUBMITTED:
		return WHOLE;
	case CUT_COMPLETED:
		return record->completed <= m->moment ? WHOLE : GONE;
	case CUT_DURABLE:
		return GONE;
	default:
		return (enum fate)(next_random(m) % 3);
	}
}

static void apply(struct making *m, const struct record *record)
{
	enum fate fate;

	if (record->op == FILE_SYNC && !record->resize)
		return;
	fate = choose_fate(m, record);
	if (fate == GONE)
		return;
	if (record->resize)
		apply_resize(m, record);
	else if (fate == TORN && record->length >= SECTOR)
		apply_torn(m, record);
	else
		apply_part(m, record, 0, record->length);
}

struct file *cut_file(struct cut *cut, struct loop *loop, uint64_t moment, enum cut_style style,
		      uint64_t seed, const struct file_mem_options *options)
{
	struct making m = { .max_bytes = options->max_bytes,
			    .moment = moment,
			    .random = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15),
			    .style = style };

	settle(cut);
	if (file_mem_new(loop, options, cut->initial_bytes, &m.file) < 0)
		abort();
	/* Page by page, faults would take most of the time. */
	madvise(file_mem_bytes(m.file), options->max_bytes, MADV_HUGEPAGE);
	for (size_t i = 0; i < cut->page_count; i++)
		memcpy(file_mem_bytes(m.file) + cut->page_offset[i], cut->pages + i * PAGE, PAGE);
	for (size_t i = 0; i < cut->count && cut->records[i].submitted <= moment; i++)
		apply(&m, &cut->records[i]);
	return m.file;
}
