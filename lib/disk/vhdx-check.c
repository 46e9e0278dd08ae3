/*
 * Test-VHD: what is wrong with a VHDX, and the repairs that can't cost content. First the copies of
 * headers and region tables, then whether it opens at all, then each entry of the BAT, then space.
 */
#include "disk/vhdx.h"

#include "base/macros.h"
#include "disk/vhdx-edit.h"

#include <stdio.h>

struct check {
	struct file *file;
	const struct disk_check_options *options;
	enum disk_severity worst;
};

static void report(struct check *check, struct disk_finding finding)
{
	if (!finding.repaired)
		check->worst = MAX(check->worst, finding.severity);
	if (check->options->report)
		check->options->report(check->options->user, &finding);
}

/* ---- copies ---- */

struct copies {
	struct vhdx_header headers[2];
	uint8_t tables[2 * VHDX_REGION_TABLE_BYTES];
};

static int read_copies(struct file *file, struct copies *ret, struct error *err)
{
	int rc = 0;

	for (unsigned slot = 0; slot < 2 && rc == 0; slot++)
		rc = file_read_now(file, VHDX_HEADER_OFFSET(slot), &ret->headers[slot],
				   sizeof(ret->headers[slot]));
	if (rc == 0)
		rc = file_read_now(file, VHDX_REGION_TABLE_OFFSET(0), ret->tables,
				   sizeof(ret->tables));
	return rc < 0 ? error_set_errno(err, -rc, "reading the VHDX file") : 0;
}

static bool one_is_bad(unsigned valid)
{
	return valid == 1 || valid == 2;
}

/* The good copy again in both places. */
static bool repair_tables(struct vhdx *vhdx, const struct copies *copies)
{
	AUTO_FREE struct vhdx_edit *edit = calloc(1, sizeof(*edit));
	const uint8_t *good = vhdx_region_table_choose(copies->tables);
	int rc = edit && good ? 0 : -1;

	if (rc == 0)
		edit->vhdx = vhdx;
	for (unsigned slot = 0; slot < 2 && rc == 0; slot++)
		rc = vhdx_edit_put(edit, VHDX_REGION_TABLE_OFFSET(slot), good,
				   VHDX_REGION_TABLE_BYTES, NULL);
	return rc == 0 && vhdx_edit_commit(edit, NULL) == 0;
}

/* Opening for writing replays the log, beginning a change writes both headers. */
static bool repair(struct check *check, const struct copies *copies, bool tables)
{
	struct vhdx_load how = { .whole_bat = true };
	struct vhdx *vhdx;
	bool ok;

	if (!check->options->repair || vhdx_load(check->file, &how, &vhdx, NULL) < 0)
		return false;
	ok = vhdx_edit_begin(vhdx, false, NULL) == 0;
	if (ok && tables)
		ok = repair_tables(vhdx, copies);
	ok = vhdx_edit_end(vhdx, NULL) == 0 && ok;
	vhdx_unload(vhdx);
	return ok;
}

static void check_headers(struct check *check, const struct copies *copies)
{
	unsigned valid = vhdx_headers_valid(copies->headers);

	if (!one_is_bad(valid))
		return;
	report(check, (struct disk_finding){
			  .severity = DISK_DAMAGE,
			  .offset = VHDX_HEADER_OFFSET(valid == 1 ? 1 : 0),
			  .what = "one of the two headers is damaged; the other one is used",
			  .advice = "repair writes both anew",
			  .repairable = true,
			  .repaired = repair(check, copies, false) });
}

static void check_tables(struct check *check, const struct copies *copies)
{
	unsigned valid = vhdx_region_tables_valid(copies->tables);
	bool differ = valid == 3 && memcmp(copies->tables, copies->tables + VHDX_REGION_TABLE_BYTES,
					   VHDX_REGION_TABLE_BYTES) != 0;

	if (!one_is_bad(valid) && !differ)
		return;
	report(check,
	       (struct disk_finding){
		   .severity = DISK_DAMAGE,
		   .offset = VHDX_REGION_TABLE_OFFSET(valid == 2 ? 0 : 1),
		   .what = differ ? "the two region tables differ; the first one is used"
				  : "one of the two region tables is damaged; the other one is "
				    "used",
		   .advice = "repair makes them equal",
		   .repairable = true,
		   .repaired = repair(check, copies, true) });
}

/* ---- the log ---- */

/* True if the log was, or is no longer, in use: what lies in place is what counts. */
static bool check_log(struct check *check, const struct copies *copies)
{
	static const struct guid none;
	struct vhdx_header header;
	unsigned slot;
	bool repaired;

	if (vhdx_header_choose(copies->headers, &header, &slot, NULL) < 0 ||
	    guid_equal(&header.log_guid, &none))
		return true;
	repaired = repair(check, copies, false);
	report(check,
	       (struct disk_finding){ .severity = DISK_NOTE,
				      .offset = le64toh(header.log_offset),
				      .what = "the disk was not closed: its log has to be replayed",
				      .advice = "repair, or opening it for writing, does that",
				      .repairable = true,
				      .repaired = repaired });
	return repaired;
}

/* ---- entries and space ---- */

static void bad_entry(void *user, uint64_t file_offset, const char *what)
{
	report(user,
	       (struct disk_finding){
		   .severity = DISK_DAMAGE,
		   .offset = file_offset,
		   .what = what,
		   .advice = "what the block held is lost or uncertain: restore the disk from "
			     "a backup, or convert it to save the rest" });
}

/* A partially present block without bits. */
static int check_bitmaps(struct check *check, struct vhdx *vhdx, struct error *err)
{
	const struct vhdx_geometry *g = &vhdx->geometry;
	uint64_t run = g->chunk_ratio + 1, entry, bitmap;
	int rc = 0;

	for (uint64_t b = 0; g->has_parent && b < g->block_count && rc == 0; b++) {
		uint64_t index = vhdx_bat_index(g, b);
		char text[128];

		vhdx_cache_trim(vhdx);
		rc = vhdx_entry_now(vhdx, index, &entry, err);
		if (rc < 0 || VHDX_BAT_STATE(entry) != VHDX_BLOCK_PARTIALLY_PRESENT)
			continue;
		rc = vhdx_entry_now(vhdx, index / run * run + run - 1, &bitmap, err);
		if (rc < 0 || VHDX_BAT_FILE_OFFSET(bitmap))
			continue;
		snprintf(text, sizeof(text),
			 "VHDX block %lu is partially present, but its chunk has no sector bitmap",
			 b);
		bad_entry(check, vhdx->bat_region.offset + index * VHDX_BAT_ENTRY_BYTES, text);
	}
	return rc;
}

static void check_space(struct check *check, struct vhdx *vhdx)
{
	uint64_t offset = 0, length, first = 0, sum = 0;
	char text[160];

	while (space_next_hole(&vhdx->space, &offset, &length)) {
		first = sum ? first : offset;
		sum += length;
		offset += length;
	}
	if (sum == 0)
		return;
	snprintf(text, sizeof(text), "%lu MiB of the file are used by nothing", sum / VHDX_MIB);
	report(check, (struct disk_finding){
			  .severity = DISK_LEAK,
			  .offset = first,
			  .what = text,
			  .advice = "new blocks will use them; compacting gives them back" });
}

static int check_contents(struct check *check, struct error *err)
{
	struct vhdx_load how = {
		.read_only = true, .whole_bat = true, .bad_entry = bad_entry, .user = check
	};
	struct vhdx *vhdx;
	struct error found;
	int rc = vhdx_load(check->file, &how, &vhdx, &found);

	if (rc == -ERR_IO || rc == -ERR_NO_MEMORY) {
		if (err)
			*err = found;
		return rc;
	}
	if (rc < 0) {
		report(check, (struct disk_finding){
				  .severity = DISK_DAMAGE,
				  .what = found.text,
				  .advice = "the disk can't be opened: restore it from a backup" });
		return 0;
	}
	/* Entries were told once; looking at them again must not repeat it. */
	vhdx->bad_entry = vhdx_ignore_bad_entry;
	rc = check_bitmaps(check, vhdx, err);
	if (rc == 0)
		check_space(check, vhdx);
	vhdx_unload(vhdx);
	return rc;
}

int vhdx_check(struct file *file, const struct disk_check_options *options,
	       enum disk_severity *ret_worst, struct error *err)
{
	struct check check = { .file = file, .options = options, .worst = DISK_NOTE };
	AUTO_FREE struct copies *copies = malloc(sizeof(*copies));
	int rc = copies ? read_copies(file, copies, err)
			: error_set(err, ERR_NO_MEMORY, "no memory to check a VHDX");

	if (rc < 0)
		return rc;
	check_headers(&check, copies);
	if (check_log(&check, copies)) {
		rc = read_copies(file, copies, err);
		if (rc < 0)
			return rc;
		check_tables(&check, copies);
	}
	rc = check_contents(&check, err);
	*ret_worst = check.worst;
	return rc;
}
