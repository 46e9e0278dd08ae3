/* DVD-ROM drive commands (MMC-5): a drive that reads, with one data track on the disc. */
#include "scsi/scsi-impl.h"

#include <string.h>

const uint8_t scsi_dvd_vpd_pages[] = { SCSI_VPD_SUPPORTED, SCSI_VPD_IDENTITY };
const unsigned scsi_dvd_vpd_page_count = ARRAY_SIZE(scsi_dvd_vpd_pages);

/* ---- READ TOC (MMC-5 6.26) ---- */

#define TRACK_LEADOUT  0xAA
#define TRACK_DATA     0x14 /* ADR 1: position; control 4: data track */
#define FRAMES_PER_SEC 75
#define SECS_PER_MIN   60
#define LEADIN_FRAMES  150 /* LBA 0 is at 00:02:00 */

/* An address as LBA, or as minute, second, frame. */
static void put_address(uint8_t *to, uint64_t lba, bool msf)
{
	uint64_t frames = lba + LEADIN_FRAMES;

	if (!msf) {
		store_be32(to, (uint32_t)MIN(lba, (uint64_t)UINT32_MAX));
		return;
	}
	to[0] = 0;
	to[1] = (uint8_t)MIN(frames / (FRAMES_PER_SEC * SECS_PER_MIN), UINT64_C(255));
	to[2] = (uint8_t)(frames / FRAMES_PER_SEC % SECS_PER_MIN);
	to[3] = (uint8_t)(frames % FRAMES_PER_SEC);
}

static uint32_t put_track(uint8_t *to, uint8_t track, uint64_t lba, bool msf)
{
	to[0] = 0;
	to[1] = TRACK_DATA;
	to[2] = track;
	to[3] = 0;
	put_address(to + 4, lba, msf);
	return 8;
}

/* Format 0: track 1 and the lead-out, from the wanted track on. */
static uint32_t put_toc(struct scsi_call *call, uint8_t *data, bool msf)
{
	uint8_t first = call->cdb[6];
	uint32_t len = 4;

	data[2] = 1;
	data[3] = 1;
	if (first <= 1)
		len += put_track(data + len, 1, 0, msf);
	len += put_track(data + len, TRACK_LEADOUT, scsi_block_count(call->unit), msf);
	return len;
}

/* Format 1: one session, whose first track is track 1. */
static uint32_t put_sessions(uint8_t *data, bool msf)
{
	data[2] = 1;
	data[3] = 1;
	return 4 + put_track(data + 4, 1, 0, msf);
}

static uint32_t put_raw_entry(uint8_t *to, uint8_t point, uint8_t minute, uint8_t second,
			      uint8_t frame)
{
	const uint8_t entry[11] = { 1, TRACK_DATA, 0, point, 0, 0, 0, 0, minute, second, frame };

	memcpy(to, entry, sizeof(entry));
	return sizeof(entry);
}

/* Format 2: first track, last track, lead-out and track 1, addresses always as MSF. */
static uint32_t put_full_toc(struct scsi_call *call, uint8_t *data)
{
	uint8_t end[4];
	uint32_t len = 4;

	put_address(end, scsi_block_count(call->unit), true);
	data[2] = 1;
	data[3] = 1;
	len += put_raw_entry(data + len, 0xA0, 1, 0, 0);
	len += put_raw_entry(data + len, 0xA1, 1, 0, 0);
	len += put_raw_entry(data + len, 0xA2, end[1], end[2], end[3]);
	len += put_raw_entry(data + len, 1, 0, 2, 0);
	return len;
}

static void run_read_toc(struct scsi_call *call)
{
	uint8_t *data = call->reply->data, format = call->cdb[2] & 0x0F, first = call->cdb[6];
	bool msf = call->cdb[1] & 0x02;
	uint32_t len;

	/* Old hosts have the format in the control byte. */
	if (!format)
		format = call->cdb[9] >> 6;
	if (format > 2 || (format == 0 && first > 1 && first != TRACK_LEADOUT)) {
		scsi_invalid_cdb(call);
		return;
	}
	if (format == 0)
		len = put_toc(call, data, msf);
	else if (format == 1)
		len = put_sessions(data, msf);
	else
		len = put_full_toc(call, data);
	store_be16(data, (uint16_t)(len - 2));
	scsi_answer(call, len, load_be16(call->cdb + 7));
}

/* ---- GET CONFIGURATION (MMC-5 6.5, features in 5.3) ---- */

#define PROFILE_CD_ROM     0x0008
#define PROFILE_DVD_ROM    0x0010
#define FEATURE_CURRENT    0x01
#define FEATURE_PERSISTENT 0x02

struct feature {
	uint16_t code;
	uint8_t version_flags; /* version << 2 | persistent | current */
	bool with_medium;      /* current only while a medium is in */
	uint8_t len;
	uint8_t data[12];
};

#define ALWAYS (FEATURE_PERSISTENT | FEATURE_CURRENT)

static const struct feature features[] = {
	/* profile list */
	{ 0x0000,
	  ALWAYS,
	  false,
	  8,
	  { PROFILE_DVD_ROM >> 8, PROFILE_DVD_ROM, 0, 0, PROFILE_CD_ROM >> 8, PROFILE_CD_ROM, 0,
	    0 } },
	/* core: SCSI family */
	{ 0x0001, 1 << 2 | ALWAYS, false, 8, { 0, 0, 0, 1, 0, 0, 0, 0 } },
	/* morphing: events by GET EVENT STATUS */
	{ 0x0002, 1 << 2 | ALWAYS, false, 4, { 0x02, 0, 0, 0 } },
	/* removable medium: tray, can eject, can lock */
	{ 0x0003, ALWAYS, false, 4, { 0x29, 0, 0, 0 } },
	/* random readable: 2048 bytes, one block */
	{ 0x0010, 0, true, 8, { 0, 0, 0x08, 0, 0, 1, 0, 0 } },
	/* CD read */
	{ 0x001E, 2 << 2, false, 4, { 0, 0, 0, 0 } },
	/* DVD read */
	{ 0x001F, 0, true, 0, { 0 } },
};

static bool feature_is_current(const struct scsi_unit *unit, const struct feature *feature)
{
	return (feature->version_flags & FEATURE_CURRENT) || (feature->with_medium && unit->medium);
}

static uint32_t put_feature(uint8_t *to, const struct scsi_unit *unit,
			    const struct feature *feature)
{
	store_be16(to, feature->code);
	to[2] = feature->version_flags | (feature_is_current(unit, feature) ? FEATURE_CURRENT : 0);
	to[3] = feature->len;
	memcpy(to + 4, feature->data, feature->len);
	if (feature->code == 0 && unit->medium)
		to[4 + 2] = FEATURE_CURRENT; /* the DVD-ROM profile's descriptor */
	return 4u + feature->len;
}

static void run_get_configuration(struct scsi_call *call)
{
	unsigned which = call->cdb[1] & 0x03, start = load_be16(call->cdb + 2);
	uint8_t *data = call->reply->data;
	uint32_t len = 8;

	if (which == 3) {
		scsi_invalid_cdb(call);
		return;
	}
	memset(data, 0, 8);
	store_be16(data + 6, call->unit->medium ? PROFILE_DVD_ROM : 0);
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];

		if (f->code < start || (which == 2 && f->code != start) ||
		    (which == 1 && !feature_is_current(call->unit, f)))
			continue;
		len += put_feature(data + len, call->unit, f);
	}
	store_be32(data, len - 4);
	scsi_answer(call, len, load_be16(call->cdb + 7));
}

/* ---- GET EVENT STATUS NOTIFICATION (MMC-5 6.7) ---- */

#define EVENT_CLASS_MEDIA 4
#define EVENT_NONE        0x80
#define MEDIA_PRESENT     0x02

static void run_get_event_status(struct scsi_call *call)
{
	struct scsi_unit *unit = call->unit;
	uint8_t *data = call->reply->data;

	if (!(call->cdb[1] & 0x01)) { /* only polling */
		scsi_invalid_cdb(call);
		return;
	}
	memset(data, 0, 8);
	data[3] = 1 << EVENT_CLASS_MEDIA;
	if (!(call->cdb[4] & (1 << EVENT_CLASS_MEDIA))) {
		store_be16(data, 2);
		data[2] = EVENT_NONE;
		scsi_answer(call, 4, load_be16(call->cdb + 7));
		return;
	}
	store_be16(data, 6);
	data[2] = EVENT_CLASS_MEDIA;
	data[4] = unit->media_event;
	data[5] = unit->medium ? MEDIA_PRESENT : 0;
	if (load_be16(call->cdb + 7) > 4)
		unit->media_event = 0;
	scsi_answer(call, 8, load_be16(call->cdb + 7));
}

/* ---- the disc ---- */

/* MMC-5 6.22: a complete, finalised disc with one session and one track. */
static void run_read_disc_information(struct scsi_call *call)
{
	uint8_t *data = call->reply->data;

	if (call->cdb[1] & 0x07) {
		scsi_invalid_cdb(call);
		return;
	}
	memset(data, 0, 34);
	store_be16(data, 32);
	data[2] = 0x0E; /* last session complete, disc complete */
	data[3] = 1;    /* first track */
	data[4] = 1;    /* sessions */
	data[5] = 1;    /* first and last track of the last session */
	data[6] = 1;
	data[7] = 0x20;             /* unrestricted use */
	memset(data + 16, 0xFF, 8); /* no further lead-in and lead-out: the disc can't be written */
	scsi_answer(call, 34, load_be16(call->cdb + 7));
}

/* MMC-5 6.27. */
static void run_read_track_information(struct scsi_call *call)
{
	uint8_t *data = call->reply->data;
	uint64_t blocks = scsi_block_count(call->unit);
	unsigned kind = call->cdb[1] & 0x03;
	uint32_t where = load_be32(call->cdb + 2);

	if (kind == 3 || (kind == 0 && where >= blocks) || (kind != 0 && where != 1)) {
		scsi_invalid_cdb(call);
		return;
	}
	memset(data, 0, 36);
	store_be16(data, 34);
	data[2] = 1;    /* track */
	data[3] = 1;    /* session */
	data[5] = 0x04; /* data track */
	data[6] = 0x01; /* data mode 1 */
	store_be32(data + 24, (uint32_t)MIN(blocks, (uint64_t)UINT32_MAX));
	scsi_answer(call, 36, load_be16(call->cdb + 7));
}

/* MMC-5 6.23, format 0: physical format information of layer 0. */
static void run_read_dvd_structure(struct scsi_call *call)
{
	uint8_t *data = call->reply->data;
	uint64_t blocks = scsi_block_count(call->unit);

	if ((call->cdb[1] & 0x0F) != 0 || call->cdb[7] != 0 || call->cdb[6] != 0) {
		scsi_invalid_cdb(call);
		return;
	}
	memset(data, 0, 4 + 2048);
	store_be16(data, 2 + 2048);
	data[4] = 0x01;                /* DVD-ROM, version 1 */
	data[5] = 0x0F;                /* 120 mm, no maximum rate given */
	data[6] = 0x01;                /* one layer, embossed data */
	store_be32(data + 8, 0x30000); /* first sector of the data area */
	store_be32(data + 12, (uint32_t)(0x30000 + MIN(blocks, (uint64_t)0xFFFFFF) - 1));
	scsi_answer(call, 4 + 2048, load_be16(call->cdb + 8));
}

static void run_mechanism_status(struct scsi_call *call)
{
	memset(call->reply->data, 0, 8);
	scsi_answer(call, 8, load_be16(call->cdb + 8));
}

/* ---- mode ---- */

static void fill_recovery(const struct scsi_unit *unit, uint8_t *page)
{
	page[3] = 5; /* read retries */
}

/* MMC-3 5.5.10 (legacy, but what drivers look at). */
static void fill_capabilities(const struct scsi_unit *unit, uint8_t *page)
{
	page[2] = 0x08;                                        /* reads DVD-ROM */
	page[4] = 0x40;                                        /* multi-session */
	page[6] = 0x29 | (unit->removal_prevented ? 0x02 : 0); /* tray, eject, lock */
	store_be16(page + 8, 0x1600);                          /* 5632 KB/s: 4x DVD */
	store_be16(page + 12, 128);                            /* buffer, KB */
	store_be16(page + 14, 0x1600);
}

static const struct scsi_mode_page mode_pages[] = {
	{ SCSI_MODE_PAGE_RECOVERY, 12, fill_recovery },
	{ SCSI_MODE_PAGE_CAPABILITIES, 22, fill_capabilities },
};

static void run_mode_sense(struct scsi_call *call)
{
	scsi_mode_sense(call, mode_pages, ARRAY_SIZE(mode_pages), 0, 0, 0);
}

/* ---- reading ---- */

static void run_read_10(struct scsi_call *call)
{
	uint64_t lba, count;

	scsi_decode_10(call->cdb, &lba, &count);
	scsi_transfer(call, BLK_READ, lba, count, SCSI_DVD_SECTOR_BYTES);
}

static void run_read_12(struct scsi_call *call)
{
	uint64_t lba, count;

	scsi_decode_12(call->cdb, &lba, &count);
	scsi_transfer(call, BLK_READ, lba, count, SCSI_DVD_SECTOR_BYTES);
}

static void run_verify_10(struct scsi_call *call)
{
	uint64_t lba, count;

	scsi_decode_10(call->cdb, &lba, &count);
	if (call->cdb[1] & 0x06)
		scsi_invalid_cdb(call);
	else
		scsi_check_range(call, lba, count, SCSI_DVD_SECTOR_BYTES);
}

/* ---- the drive ---- */

static void run_prevent_allow(struct scsi_call *call)
{
	call->unit->removal_prevented = call->cdb[4] & 0x01;
}

/* Start and stop mean nothing here; with "load/eject" the tray moves. */
static void run_start_stop(struct scsi_call *call)
{
	bool load_eject = call->cdb[4] & 0x02, start = call->cdb[4] & 0x01;

	if (!load_eject || start || !call->unit->medium)
		return;
	if (call->unit->removal_prevented)
		scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_REMOVAL_PREVENTED);
	else
		call->reply->action = SCSI_ACTION_EJECT;
}

const struct scsi_op scsi_dvd_ops[] = {
	{ SCSI_TEST_UNIT_READY, SCSI_OP_MEDIUM, scsi_run_good },
	{ SCSI_REQUEST_SENSE, SCSI_OP_PAST_ATTENTION, scsi_run_request_sense },
	{ SCSI_INQUIRY, SCSI_OP_PAST_ATTENTION, scsi_run_inquiry },
	{ SCSI_READ_10, SCSI_OP_MEDIUM, run_read_10 },
	{ SCSI_READ_12, SCSI_OP_MEDIUM, run_read_12 },
	{ SCSI_VERIFY_10, SCSI_OP_MEDIUM, run_verify_10 },
	{ SCSI_READ_CAPACITY_10, SCSI_OP_MEDIUM, scsi_run_read_capacity_10 },
	{ SCSI_READ_TOC, SCSI_OP_MEDIUM, run_read_toc },
	{ SCSI_READ_DISC_INFORMATION, SCSI_OP_MEDIUM, run_read_disc_information },
	{ SCSI_READ_TRACK_INFORMATION, SCSI_OP_MEDIUM, run_read_track_information },
	{ SCSI_READ_DVD_STRUCTURE, SCSI_OP_MEDIUM, run_read_dvd_structure },
	{ SCSI_GET_CONFIGURATION, SCSI_OP_PAST_ATTENTION, run_get_configuration },
	{ SCSI_GET_EVENT_STATUS, SCSI_OP_PAST_ATTENTION, run_get_event_status },
	{ SCSI_MECHANISM_STATUS, 0, run_mechanism_status },
	{ SCSI_MODE_SENSE_6, SCSI_OP_PAST_ATTENTION, run_mode_sense },
	{ SCSI_MODE_SENSE_10, SCSI_OP_PAST_ATTENTION, run_mode_sense },
	{ SCSI_PREVENT_ALLOW_REMOVAL, 0, run_prevent_allow },
	{ SCSI_START_STOP_UNIT, 0, run_start_stop },
	{ SCSI_SET_CD_SPEED, 0, scsi_run_good },
};
const unsigned scsi_dvd_op_count = ARRAY_SIZE(scsi_dvd_ops);
