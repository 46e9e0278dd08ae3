/*
 * The file of change tracking: two header slots, the active regions, and 16 bits for each unit of
 * the disk: the epoch in which it changed last. A reference point is the end of an epoch.
 *
 * Storing each change before it happens would cost a sync per write. So the disk has regions, much
 * larger than units; the first change of a region marks it active, durably, and from then on the
 * epochs of its units live in memory. After a power cut, all units of active regions count as
 * changed in the present epoch: too much, never too little. A clean close stores the epochs, then
 * clears the marks. A torn write of the marks is no harm, for nothing was changed before its sync;
 * nor is one of the epochs, for only those of active regions differ.
 */
#include "disk/track-impl.h"

#include "base/macros.h"
#include "disk/crc32c.h"

#include <errno.h>
#include <string.h>

static uint32_t checksum_of(const struct track_header *header)
{
	struct track_header copy = *header;

	copy.checksum = 0;
	return crc32c(&copy, sizeof(copy));
}

/* ---- dimensions ---- */

bool track_state_fits(const struct track_state *state, uint64_t disk_bytes)
{
	return disk_bytes <= INT64_MAX && disk_bytes / state->header.unit_bytes < TRACK_MAX_UNITS &&
	       disk_bytes / state->header.region_bytes < TRACK_MAX_REGIONS;
}

static bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

static int set_up(struct track_state *state, struct error *err)
{
	const struct track_header *h = &state->header;

	state->unit_count = (h->disk_bytes + h->unit_bytes - 1) / h->unit_bytes;
	state->region_count = (unsigned)((h->disk_bytes + h->region_bytes - 1) / h->region_bytes);
	state->page_count = (state->unit_count + TRACK_EPOCHS_A_PAGE - 1) / TRACK_EPOCHS_A_PAGE;
	state->epochs = calloc(state->page_count, TRACK_PAGE);
	state->dirty = calloc(state->page_count, 1);
	if (state->epochs && state->dirty)
		return 0;
	track_state_done(state);
	return error_set(err, ERR_NO_MEMORY, "no memory for change tracking");
}

void track_state_done(struct track_state *state)
{
	free(state->epochs);
	free(state->dirty);
	state->epochs = NULL;
	state->dirty = NULL;
}

/* ---- storing ---- */

int track_state_store_header(struct track_state *state)
{
	int rc;

	state->slot ^= 1;
	state->header.sequence++;
	state->header.checksum = checksum_of(&state->header);
	rc = file_write_now(state->file, TRACK_HEADER_AT(state->slot), &state->header, TRACK_PAGE);
	return rc == 0 ? file_sync_now(state->file) : rc;
}

int track_state_store_active(struct track_state *state)
{
	int rc = file_write_now(state->file, TRACK_ACTIVE_AT, state->active, TRACK_PAGE);

	return rc == 0 ? file_sync_now(state->file) : rc;
}

int track_state_store(struct track_state *state, bool quiet)
{
	int rc = 0;

	for (uint64_t page = 0; page < state->page_count && rc == 0; page++) {
		if (!state->dirty[page])
			continue;
		rc = file_write_now(state->file, TRACK_EPOCHS_AT + page * TRACK_PAGE,
				    state->epochs + page * TRACK_EPOCHS_A_PAGE, TRACK_PAGE);
		state->dirty[page] = rc != 0;
	}
	if (rc == 0)
		rc = file_sync_now(state->file);
	if (rc < 0 || !quiet)
		return rc;
	memset(state->active, 0, sizeof(state->active));
	return track_state_store_active(state);
}

/* ---- a new file ---- */

static int choose_dimensions(struct track_header *h, uint64_t disk_bytes, uint32_t unit_bytes,
			     struct error *err)
{
	uint64_t unit = unit_bytes ?: TRACK_DEFAULT_UNIT, region = TRACK_MIN_REGION;

	if (!is_power_of_two(unit) || unit < TRACK_MIN_UNIT || unit > TRACK_MIN_REGION)
		return error_set(err, ERR_INVALID,
				 "changes can't be tracked in units of %u bytes: a power of two, "
				 "4 KiB to 16 MiB",
				 unit_bytes);
	while (disk_bytes / unit >= TRACK_MAX_UNITS)
		unit *= 2;
	while (disk_bytes / region >= TRACK_MAX_REGIONS || region < unit)
		region *= 2;
	h->unit_bytes = (uint32_t)unit;
	h->region_bytes = region;
	return 0;
}

/* All of the file's space is there from the start: marking must not fail for want of it. */
static int write_new(struct track_state *state)
{
	uint64_t size = TRACK_EPOCHS_AT + state->page_count * TRACK_PAGE;
	int rc = file_set_size(state->file, 0);

	if (rc == 0)
		rc = file_set_size(state->file, size);
	if (rc == 0)
		rc = file_zero_now(state->file, 0, size);
	if (rc == 0)
		rc = file_sync_now(state->file);
	return rc == 0 ? track_state_store_header(state) : rc;
}

int track_state_create(struct track_state *state, struct file *file, uint64_t disk_bytes,
		       const struct track_options *options, struct error *err)
{
	int rc;

	*state = (struct track_state){
		.file = file,
		.header = { .signature = TRACK_SIGNATURE,
			    .epoch = 1,
			    .disk_bytes = disk_bytes,
			    .links = { options->link_now, options->link_next } },
	};
	rc = choose_dimensions(&state->header, disk_bytes, options->unit_bytes, err);
	if (rc == 0)
		rc = set_up(state, err);
	if (rc < 0)
		return rc;
	rc = write_new(state);
	if (rc < 0) {
		track_state_done(state);
		return error_set_errno(err, -rc, "writing the change tracking file");
	}
	return 0;
}

/* ---- loading ---- */

static bool header_counts(const struct track_header *h)
{
	return h->signature == TRACK_SIGNATURE && h->checksum == checksum_of(h) &&
	       h->point_count <= TRACK_MAX_POINTS && h->epoch > 0;
}

static int read_header(struct track_state *state, struct error *err)
{
	AUTO_FREE struct track_header *slots = malloc(2 * sizeof(*slots));
	bool counts[2];
	int rc;

	if (!slots)
		return error_set(err, ERR_NO_MEMORY, "no memory for change tracking");
	rc = file_read_now(state->file, 0, slots, 2 * sizeof(*slots));
	if (rc < 0)
		return error_set_errno(err, -rc, "reading the change tracking file");
	counts[0] = header_counts(&slots[0]);
	counts[1] = header_counts(&slots[1]);
	if (!counts[0] && !counts[1])
		return error_set(err, ERR_CORRUPT,
				 "the change tracking file has no valid header: begin anew");
	state->slot = counts[1] && (!counts[0] || slots[1].sequence > slots[0].sequence);
	state->header = slots[state->slot];
	return 0;
}

static int check_dimensions(const struct track_state *state, struct error *err)
{
	const struct track_header *h = &state->header;

	if (!is_power_of_two(h->unit_bytes) || h->unit_bytes < TRACK_MIN_UNIT ||
	    !is_power_of_two(h->region_bytes) || h->region_bytes < h->unit_bytes ||
	    h->disk_bytes == 0 || !track_state_fits(state, h->disk_bytes))
		return error_set(err, ERR_CORRUPT,
				 "the change tracking file has impossible dimensions: begin anew");
	return 0;
}

/* As a point's id and number: points follow each other. */
static int check_points(const struct track_header *h, struct error *err)
{
	unsigned last = 0;

	for (unsigned i = 0; i < h->point_count; i++) {
		if (h->points[i].epoch <= last || h->points[i].epoch >= h->epoch)
			return error_set(err, ERR_CORRUPT,
					 "the change tracking file's reference points are in "
					 "disorder: begin anew");
		last = h->points[i].epoch;
	}
	return 0;
}

/* Zero is the id of disks that keep none, and never an earlier one. */
static bool is_of(const struct track_header *h, const struct guid *link)
{
	const struct guid none = { 0 };
	bool earlier = guid_equal(&h->earlier[0], link) || guid_equal(&h->earlier[1], link);

	return guid_equal(&h->links[0], link) || guid_equal(&h->links[1], link) ||
	       (earlier && !guid_equal(link, &none));
}

static int check_identity(const struct track_state *state, uint64_t disk_bytes,
			  const struct track_options *options, struct error *err)
{
	const struct track_header *h = &state->header;

	if (h->disk_bytes != disk_bytes)
		return error_set(err, ERR_STATE,
				 "changes were tracked of a disk of %lu bytes, this one has %lu: "
				 "begin anew",
				 h->disk_bytes, disk_bytes);
	if (!options->trusted && !is_of(h, &options->link_now))
		return error_set(err, ERR_STATE,
				 "the disk was changed without its changes being tracked: begin "
				 "anew");
	return 0;
}

static void touch_active_regions(struct track_state *state)
{
	const struct track_header *h = &state->header;

	for (unsigned r = 0; r < state->region_count; r++) {
		uint64_t offset = r * h->region_bytes;

		if (state->active[r / 8] >> (r % 8) & 1)
			track_state_touch(state, offset,
					  MIN(h->region_bytes, h->disk_bytes - offset));
	}
}

static int load_rest(struct track_state *state)
{
	int rc = file_read_now(state->file, TRACK_ACTIVE_AT, state->active, TRACK_PAGE);

	if (rc == 0)
		rc = file_read_now(state->file, TRACK_EPOCHS_AT, state->epochs,
				   state->page_count * TRACK_PAGE);
	if (rc < 0)
		return rc;
	/* It was not closed. */
	touch_active_regions(state);
	rc = track_state_store(state, true);
	return rc == 0 ? track_state_store_header(state) : rc;
}

int track_state_load(struct track_state *state, struct file *file, uint64_t disk_bytes,
		     const struct track_options *options, struct error *err)
{
	int rc;

	*state = (struct track_state){ .file = file };
	rc = read_header(state, err);
	if (rc == 0)
		rc = check_dimensions(state, err);
	if (rc == 0)
		rc = check_points(&state->header, err);
	if (rc == 0)
		rc = check_identity(state, disk_bytes, options, err);
	if (rc == 0)
		rc = set_up(state, err);
	if (rc < 0)
		return rc;
	state->header.links[0] = options->link_now;
	state->header.links[1] = options->link_next;
	memset(state->header.earlier, 0, sizeof(state->header.earlier));
	rc = load_rest(state);
	if (rc < 0) {
		track_state_done(state);
		return error_set_errno(err, -rc, "loading the change tracking file");
	}
	return 0;
}

/* ---- another leaf ---- */

void track_state_relink(struct track_state *state, const struct guid *now, const struct guid *next)
{
	struct track_header *h = &state->header;

	memcpy(h->earlier, h->links, sizeof(h->earlier));
	h->links[0] = *now;
	h->links[1] = *next;
}

int track_state_follow(struct file *file, const struct guid *known, const struct guid *coming,
		       struct error *err)
{
	struct track_state state = { .file = file };
	int rc = read_header(&state, err);

	if (rc < 0)
		return rc;
	if (!is_of(&state.header, known))
		return 0;
	state.header.links[0] = state.header.links[1] = *known;
	track_state_relink(&state, coming, coming);
	rc = track_state_store_header(&state);
	return rc < 0 ? error_set_errno(err, -rc, "storing the change tracking file") : 1;
}

/* ---- changes ---- */

void track_state_touch(struct track_state *state, uint64_t offset, uint64_t length)
{
	uint64_t first = offset / state->header.unit_bytes;
	uint64_t end = (offset + length + state->header.unit_bytes - 1) / state->header.unit_bytes;

	for (uint64_t unit = first; unit < end; unit++) {
		if (state->epochs[unit] == state->header.epoch)
			continue;
		state->epochs[unit] = state->header.epoch;
		state->dirty[unit / TRACK_EPOCHS_A_PAGE] = 1;
	}
}

void track_state_activate(struct track_state *state, uint64_t offset, uint64_t length)
{
	uint64_t last = (offset + length - 1) / state->header.region_bytes;

	for (uint64_t r = offset / state->header.region_bytes; r <= last; r++)
		state->active[r / 8] |= (uint8_t)(1u << (r % 8));
}

/* ---- a copy ---- */

int track_state_copy(const struct track_state *state, struct file *to)
{
	struct track_state copy = *state;
	size_t bytes = state->page_count * TRACK_PAGE;
	int rc = file_set_size(to, TRACK_EPOCHS_AT + bytes);

	copy.file = to;
	if (rc == 0)
		rc = file_zero_now(to, 0, TRACK_EPOCHS_AT);
	if (rc == 0)
		rc = file_write_now(to, TRACK_EPOCHS_AT, state->epochs, bytes);
	return rc == 0 ? track_state_store_header(&copy) : rc;
}

/* ---- another size ---- */

static bool make_room(struct track_state *state, uint64_t page_count)
{
	uint16_t *epochs = realloc(state->epochs, page_count * TRACK_PAGE);
	uint8_t *dirty;

	if (!epochs)
		return false;
	state->epochs = epochs;
	dirty = realloc(state->dirty, page_count);
	if (!dirty)
		return false;
	state->dirty = dirty;
	memset(epochs + state->page_count * TRACK_EPOCHS_A_PAGE, 0,
	       (page_count - state->page_count) * TRACK_PAGE);
	memset(dirty + state->page_count, 0, page_count - state->page_count);
	return true;
}

int track_state_grow(struct track_state *state, uint64_t disk_bytes)
{
	struct track_header *h = &state->header;
	uint64_t before = h->disk_bytes, units = (disk_bytes + h->unit_bytes - 1) / h->unit_bytes;
	uint64_t pages = (units + TRACK_EPOCHS_A_PAGE - 1) / TRACK_EPOCHS_A_PAGE;
	uint64_t old_end = TRACK_EPOCHS_AT + state->page_count * TRACK_PAGE;
	uint64_t end = TRACK_EPOCHS_AT + pages * TRACK_PAGE;
	int rc = make_room(state, pages) ? 0 : -ENOMEM;

	if (rc == 0 && end > old_end)
		rc = file_set_size(state->file, end);
	if (rc == 0 && end > old_end)
		rc = file_zero_now(state->file, old_end, end - old_end);
	if (rc < 0)
		return rc;
	h->disk_bytes = disk_bytes;
	state->unit_count = units;
	state->page_count = pages;
	state->region_count = (unsigned)((disk_bytes + h->region_bytes - 1) / h->region_bytes);
	track_state_touch(state, before, disk_bytes - before);
	rc = track_state_store(state, false);
	return rc == 0 ? track_state_store_header(state) : rc;
}
