#include "scsi/scsi-impl.h"

#include <stdio.h>
#include <string.h>

/* ---- units ---- */

/* GET EVENT STATUS, media class (MMC-5 6.7.2.6). */
#define MEDIA_EVENT_EJECT_REQUEST 1
#define MEDIA_EVENT_NEW_MEDIA     2
#define MEDIA_EVENT_REMOVAL       3

void scsi_unit_init(struct scsi_unit *unit, enum scsi_kind kind, const struct blk_info *medium,
		    const struct guid *id)
{
	*unit = (struct scsi_unit){ .kind = kind, .medium = medium, .id = *id };
}

void scsi_unit_attention(struct scsi_unit *unit, enum scsi_additional_sense asc)
{
	for (unsigned i = 0; i < unit->attention_count; i++)
		if (unit->attentions[i] == asc)
			return;
	if (unit->attention_count < SCSI_MAX_ATTENTIONS)
		unit->attentions[unit->attention_count++] = (uint16_t)asc;
}

static enum scsi_additional_sense take_attention(struct scsi_unit *unit)
{
	enum scsi_additional_sense asc = unit->attentions[0];

	unit->attention_count--;
	memmove(unit->attentions, unit->attentions + 1,
		unit->attention_count * sizeof(unit->attentions[0]));
	return asc;
}

void scsi_unit_set_medium(struct scsi_unit *unit, const struct blk_info *medium)
{
	if (medium)
		scsi_unit_attention(unit, SCSI_ASC_MEDIUM_MAY_HAVE_CHANGED);
	if (medium || unit->medium)
		unit->media_event = medium ? MEDIA_EVENT_NEW_MEDIA : MEDIA_EVENT_REMOVAL;
	unit->medium = medium;
}

void scsi_unit_power_on(struct scsi_unit *unit)
{
	unit->removal_prevented = false;
	unit->media_event = 0;
	unit->attention_count = 0;
}

void scsi_unit_reset(struct scsi_unit *unit)
{
	unit->removal_prevented = false;
	scsi_unit_attention(unit, SCSI_ASC_RESET_OCCURRED);
}

static const struct state_field unit_fields[] = {
	STATE(1, struct scsi_unit_state, medium),
	STATE(2, struct scsi_unit_state, removal_prevented),
	STATE(3, struct scsi_unit_state, media_event),
	STATE(4, struct scsi_unit_state, attention_count, .max = SCSI_MAX_ATTENTIONS),
	STATE(5, struct scsi_unit_state, attentions),
	STATE_END,
};
const struct state_desc scsi_unit_state_desc = { "unit", sizeof(struct scsi_unit_state),
						 unit_fields, NULL };

void scsi_unit_save(const struct scsi_unit *unit, struct scsi_unit_state *ret)
{
	*ret = (struct scsi_unit_state){
		.medium = unit->medium,
		.removal_prevented = unit->removal_prevented,
		.media_event = unit->media_event,
		.attention_count = (uint8_t)unit->attention_count,
	};
	memcpy(ret->attentions, unit->attentions, sizeof(ret->attentions));
}

void scsi_unit_restore(struct scsi_unit *unit, const struct scsi_unit_state *from)
{
	unit->removal_prevented = from->removal_prevented;
	unit->media_event = from->media_event;
	unit->attention_count = from->attention_count;
	memcpy(unit->attentions, from->attentions, sizeof(unit->attentions));
}

uint32_t scsi_block_bytes(const struct scsi_unit *unit)
{
	return unit->kind == SCSI_KIND_DVD ? SCSI_DVD_SECTOR_BYTES
					   : unit->medium->logical_sector_bytes;
}

uint64_t scsi_block_count(const struct scsi_unit *unit)
{
	return unit->medium->size_bytes / scsi_block_bytes(unit);
}

/* ---- results ---- */

static void write_sense(uint8_t sense[static SCSI_SENSE_BYTES], enum scsi_sense_key key,
			enum scsi_additional_sense asc)
{
	memset(sense, 0, SCSI_SENSE_BYTES);
	sense[0] = SCSI_SENSE_FIXED;
	sense[2] = (uint8_t)key;
	sense[7] = SCSI_SENSE_BYTES - 8;
	store_be16(sense + 12, (uint16_t)asc);
}

static void set_check_condition(struct scsi_reply *reply, enum scsi_sense_key key,
				enum scsi_additional_sense asc)
{
	reply->action = SCSI_ACTION_NONE;
	reply->status = SCSI_CHECK_CONDITION;
	reply->data_bytes = 0;
	write_sense(reply->sense, key, asc);
}

void scsi_fail(struct scsi_call *call, enum scsi_sense_key key, enum scsi_additional_sense asc)
{
	set_check_condition(call->reply, key, asc);
}

void scsi_answer(struct scsi_call *call, uint32_t len, uint64_t allocation_length)
{
	uint64_t room = MIN(allocation_length, (uint64_t)call->command->buffer_bytes);

	call->reply->data_bytes = (uint32_t)MIN((uint64_t)len, room);
}

void scsi_io_result(struct scsi_reply *reply, enum blk_result result)
{
	bool read = reply->op == BLK_READ;

	switch (result) {
	case BLK_OK:
		return;
	case BLK_NO_SPACE:
		set_check_condition(reply, SCSI_KEY_DATA_PROTECT, SCSI_ASC_SPACE_ALLOCATION_FAILED);
		return;
	case BLK_READ_ONLY:
		set_check_condition(reply, SCSI_KEY_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
		return;
	case BLK_OUT_OF_RANGE:
		set_check_condition(reply, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_LBA_OUT_OF_RANGE);
		return;
	default:
		set_check_condition(reply, SCSI_KEY_MEDIUM_ERROR,
				    read ? SCSI_ASC_UNRECOVERED_READ_ERROR : SCSI_ASC_WRITE_ERROR);
		return;
	}
}

/* ---- transfers ---- */

void scsi_decode_6(const uint8_t *cdb, uint64_t *lba, uint64_t *count)
{
	*lba = load_be32(cdb) & 0x1FFFFF;
	*count = cdb[4] ?: 256;
}

void scsi_decode_10(const uint8_t *cdb, uint64_t *lba, uint64_t *count)
{
	*lba = load_be32(cdb + 2);
	*count = load_be16(cdb + 7);
}

void scsi_decode_12(const uint8_t *cdb, uint64_t *lba, uint64_t *count)
{
	*lba = load_be32(cdb + 2);
	*count = load_be32(cdb + 6);
}

void scsi_decode_16(const uint8_t *cdb, uint64_t *lba, uint64_t *count)
{
	*lba = load_be64(cdb + 2);
	*count = load_be32(cdb + 10);
}

bool scsi_check_range(struct scsi_call *call, uint64_t lba, uint64_t count, uint32_t block_bytes)
{
	if (RANGE_OK(lba, count, call->unit->medium->size_bytes / block_bytes))
		return true;
	scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_LBA_OUT_OF_RANGE);
	return false;
}

void scsi_transfer(struct scsi_call *call, enum blk_op op, uint64_t lba, uint64_t count,
		   uint32_t block_bytes)
{
	struct scsi_reply *reply = call->reply;

	if (!scsi_check_range(call, lba, count, block_bytes) || count == 0)
		return;
	if (count * block_bytes > call->command->buffer_bytes) {
		scsi_invalid_cdb(call);
		return;
	}
	reply->action = SCSI_ACTION_TRANSFER;
	reply->op = op;
	reply->range_count = 1;
	reply->ranges[0] = (struct scsi_range){ lba * block_bytes, count * block_bytes };
}

/* ---- shared commands ---- */

void scsi_run_good(struct scsi_call *call)
{
}

static void put_text(uint8_t *to, const char *text, size_t width)
{
	memset(to, ' ', width);
	memcpy(to, text, strnlen(text, width));
}

static void standard_inquiry(struct scsi_call *call)
{
	uint8_t *data = call->reply->data;
	bool dvd = call->unit->kind == SCSI_KIND_DVD;

	memset(data, 0, SCSI_INQUIRY_BYTES);
	data[0] = dvd ? SCSI_TYPE_DVD : SCSI_TYPE_DISK;
	data[1] = dvd ? 0x80 : 0; /* removable medium */
	data[2] = SCSI_VERSION_SPC3;
	data[3] = 0x02; /* response data format */
	data[4] = SCSI_INQUIRY_BYTES - 5;
	data[7] = 0x02; /* command queuing */
	put_text(data + 8, "Msft", 8);
	put_text(data + 16, dvd ? "Virtual DVD-ROM" : "Virtual Disk", 16);
	put_text(data + 32, "1.0", 4);
	scsi_answer(call, SCSI_INQUIRY_BYTES, load_be16(call->cdb + 3));
}

int scsi_vpd_serial(const struct scsi_unit *unit, uint8_t *body)
{
	static const char digits[] = "0123456789abcdef";

	for (unsigned i = 0; i < sizeof(unit->id); i++) {
		body[2 * i] = (uint8_t)digits[unit->id.b[i] >> 4];
		body[2 * i + 1] = (uint8_t)digits[unit->id.b[i] & 15];
	}
	return 2 * sizeof(unit->id);
}

/* SPC-3 7.6.3: a T10 vendor designator and an NAA one (registered extended, Microsoft's company id
 * 00-22-48), both made of the disk's identity. */
int scsi_vpd_identity(const struct scsi_unit *unit, uint8_t *body)
{
	uint8_t *t10 = body, *naa = body + 4 + 24;

	t10[0] = 0x01; /* binary */
	t10[1] = 0x01; /* T10 vendor id, of the logical unit */
	t10[2] = 0;
	t10[3] = 24;
	put_text(t10 + 4, "Msft", 8);
	memcpy(t10 + 12, unit->id.b, 16);
	naa[0] = 0x01;
	naa[1] = 0x03; /* NAA, of the logical unit */
	naa[2] = 0;
	naa[3] = 16;
	store_be32(naa + 4, 0x60022480);
	memcpy(naa + 8, unit->id.b, 4);
	memcpy(naa + 12, unit->id.b + 8, 8);
	return 4 + 24 + 4 + 16;
}

static int supported_pages(const struct scsi_unit *unit, uint8_t *body)
{
	bool dvd = unit->kind == SCSI_KIND_DVD;
	unsigned count = dvd ? scsi_dvd_vpd_page_count : scsi_disk_vpd_page_count;

	memcpy(body, dvd ? scsi_dvd_vpd_pages : scsi_disk_vpd_pages, count);
	return (int)count;
}

static int vpd_page(const struct scsi_unit *unit, uint8_t page, uint8_t *body)
{
	switch (page) {
	case SCSI_VPD_SUPPORTED:
		return supported_pages(unit, body);
	case SCSI_VPD_IDENTITY:
		return scsi_vpd_identity(unit, body);
	case SCSI_VPD_SERIAL:
		return unit->kind == SCSI_KIND_DISK ? scsi_vpd_serial(unit, body) : -1;
	default:
		return unit->kind == SCSI_KIND_DISK ? scsi_disk_vpd(unit, page, body) : -1;
	}
}

static void vpd_inquiry(struct scsi_call *call)
{
	uint8_t *data = call->reply->data, page = call->cdb[2];
	int len = vpd_page(call->unit, page, data + 4);

	if (len < 0) {
		scsi_invalid_cdb(call);
		return;
	}
	data[0] = call->unit->kind == SCSI_KIND_DVD ? SCSI_TYPE_DVD : SCSI_TYPE_DISK;
	data[1] = page;
	store_be16(data + 2, (uint16_t)len);
	scsi_answer(call, (uint32_t)len + 4, load_be16(call->cdb + 3));
}

void scsi_run_inquiry(struct scsi_call *call)
{
	bool vpd = call->cdb[1] & 0x01;

	if (vpd)
		vpd_inquiry(call);
	else if (call->cdb[2] != 0)
		scsi_invalid_cdb(call);
	else
		standard_inquiry(call);
}

void scsi_run_request_sense(struct scsi_call *call)
{
	struct scsi_unit *unit = call->unit;
	enum scsi_sense_key key = SCSI_KEY_NO_SENSE;
	enum scsi_additional_sense asc = SCSI_ASC_NONE;

	if (unit->attention_count) {
		key = SCSI_KEY_UNIT_ATTENTION;
		asc = take_attention(unit);
	} else if (!unit->medium) {
		key = SCSI_KEY_NOT_READY;
		asc = SCSI_ASC_MEDIUM_NOT_PRESENT;
	}
	write_sense(call->reply->data, key, asc);
	scsi_answer(call, SCSI_SENSE_BYTES, call->cdb[4]);
}

void scsi_run_read_capacity_10(struct scsi_call *call)
{
	uint64_t blocks = scsi_block_count(call->unit);
	uint64_t last = blocks ? blocks - 1 : 0;

	store_be32(call->reply->data, (uint32_t)MIN(last, (uint64_t)UINT32_MAX));
	store_be32(call->reply->data + 4, scsi_block_bytes(call->unit));
	scsi_answer(call, 8, 8);
}

/* ---- MODE SENSE ---- */

#define PAGE_CONTROL_CURRENT    0
#define PAGE_CONTROL_CHANGEABLE 1
#define PAGE_CONTROL_SAVED      3

static uint32_t put_block_descriptor(uint8_t *to, const struct scsi_unit *unit,
				     uint32_t block_bytes)
{
	uint64_t blocks = unit->medium ? scsi_block_count(unit) : 0;

	store_be32(to, (uint32_t)MIN(blocks, (uint64_t)UINT32_MAX));
	store_be32(to + 4, block_bytes);
	return 8;
}

/* Nothing is changeable: those values are all zeros. */
static uint32_t put_page(uint8_t *to, const struct scsi_unit *unit,
			 const struct scsi_mode_page *page, unsigned page_control)
{
	memset(to, 0, page->len);
	if (page_control != PAGE_CONTROL_CHANGEABLE)
		page->fill(unit, to);
	to[0] = page->page;
	to[1] = page->len - 2;
	return page->len;
}

void scsi_mode_sense(struct scsi_call *call, const struct scsi_mode_page *pages,
		     unsigned page_count, uint8_t medium_type, uint8_t device_specific,
		     uint32_t block_bytes)
{
	bool ten = call->cdb[0] == SCSI_MODE_SENSE_10;
	bool descriptor = !(call->cdb[1] & 0x08) && block_bytes;
	unsigned page_control = call->cdb[2] >> 6, wanted = call->cdb[2] & 0x3F;
	uint8_t *data = call->reply->data;
	uint32_t header = ten ? 8 : 4, len = header, found = 0;

	if (page_control == PAGE_CONTROL_SAVED) {
		scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_SAVING_PARAMETERS_UNSUPPORTED);
		return;
	}
	memset(data, 0, header);
	if (descriptor)
		len += put_block_descriptor(data + len, call->unit, block_bytes);
	for (unsigned i = 0; i < page_count; i++) {
		if (wanted != SCSI_MODE_PAGE_ALL && wanted != pages[i].page)
			continue;
		len += put_page(data + len, call->unit, &pages[i], page_control);
		found++;
	}
	if (!found || (call->cdb[3] && call->cdb[3] != SCSI_MODE_SUBPAGE_ALL)) {
		scsi_invalid_cdb(call);
		return;
	}
	data[ten ? 2 : 1] = medium_type;
	data[ten ? 3 : 2] = device_specific;
	data[ten ? 7 : 3] = descriptor ? 8 : 0;
	if (ten)
		store_be16(data, (uint16_t)(len - 2));
	else
		data[0] = (uint8_t)(len - 1);
	scsi_answer(call, len, ten ? load_be16(call->cdb + 7) : call->cdb[4]);
}

/* ---- dispatch ---- */

static const struct scsi_op *find_op(const struct scsi_unit *unit, uint8_t opcode)
{
	bool dvd = unit->kind == SCSI_KIND_DVD;
	const struct scsi_op *ops = dvd ? scsi_dvd_ops : scsi_disk_ops;
	unsigned count = dvd ? scsi_dvd_op_count : scsi_disk_op_count;

	for (unsigned i = 0; i < count; i++)
		if (ops[i].opcode == opcode)
			return &ops[i];
	return NULL;
}

static void reply_init(struct scsi_reply *reply)
{
	reply->action = SCSI_ACTION_NONE;
	reply->op_flags = 0;
	reply->range_count = 0;
	reply->status = SCSI_GOOD;
	reply->data_bytes = 0;
}

void scsi_execute(struct scsi_unit *unit, const struct scsi_command *command,
		  struct scsi_reply *ret)
{
	struct scsi_call call = { unit, command, command->cdb, ret };
	const struct scsi_op *op = find_op(unit, command->cdb[0]);

	reply_init(ret);
	if (!op)
		scsi_fail(&call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_INVALID_OPCODE);
	else if (unit->attention_count && !(op->flags & SCSI_OP_PAST_ATTENTION))
		scsi_fail(&call, SCSI_KEY_UNIT_ATTENTION, take_attention(unit));
	else if (!unit->medium && (op->flags & SCSI_OP_MEDIUM))
		scsi_fail(&call, SCSI_KEY_NOT_READY, SCSI_ASC_MEDIUM_NOT_PRESENT);
	else
		op->run(&call);
}

uint32_t scsi_parameter_bytes(const struct scsi_unit *unit,
			      const uint8_t cdb[static SCSI_CDB_BYTES])
{
	uint32_t wanted = 0;

	if (unit->kind != SCSI_KIND_DISK || !unit->medium)
		return 0;
	if (cdb[0] == SCSI_UNMAP)
		wanted = load_be16(cdb + 7);
	else if (cdb[0] == SCSI_WRITE_SAME_10 || cdb[0] == SCSI_WRITE_SAME_16)
		wanted = scsi_block_bytes(unit);
	return MIN(wanted, (uint32_t)SCSI_MAX_PARAMETERS);
}

/* ---- the target ---- */

static bool is_flush(uint8_t opcode)
{
	return opcode == SCSI_SYNCHRONIZE_CACHE_10 || opcode == SCSI_SYNCHRONIZE_CACHE_16;
}

bool scsi_absent_unit(const struct scsi_command *command, bool left, struct scsi_reply *ret)
{
	struct scsi_call call = { NULL, command, command->cdb, ret };

	reply_init(ret);
	if (left && is_flush(command->cdb[0]))
		return true;
	if (command->cdb[0] != SCSI_INQUIRY)
		return false;
	memset(ret->data, 0, SCSI_INQUIRY_BYTES);
	ret->data[0] = SCSI_TYPE_ABSENT;
	ret->data[4] = SCSI_INQUIRY_BYTES - 5;
	scsi_answer(&call, SCSI_INQUIRY_BYTES, load_be16(command->cdb + 3));
	return true;
}

void scsi_report_luns(const struct scsi_command *command, uint64_t luns, struct scsi_reply *ret)
{
	struct scsi_call call = { NULL, command, command->cdb, ret };
	uint32_t len = 8;

	reply_init(ret);
	memset(ret->data, 0, 8 + 64 * 8);
	for (unsigned lun = 0; lun < 64; lun++) {
		if (!(luns >> lun & 1))
			continue;
		ret->data[len + 1] = (uint8_t)lun; /* peripheral addressing */
		len += 8;
	}
	store_be32(ret->data, len - 8);
	scsi_answer(&call, len, load_be32(command->cdb + 6));
}
