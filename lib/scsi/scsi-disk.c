/* Disk commands (SBC-3). */
#include "scsi/scsi-impl.h"

#include <string.h>

#define CDB_PROTECT 0xE0 /* RDPROTECT, WRPROTECT: there is no protection information */
#define CDB_FUA     0x08

/* ---- VPD ---- */

const uint8_t scsi_disk_vpd_pages[] = { SCSI_VPD_SUPPORTED, SCSI_VPD_SERIAL,
					SCSI_VPD_IDENTITY,  SCSI_VPD_LIMITS,
					SCSI_VPD_CHARACTER, SCSI_VPD_PROVISIONING };
const unsigned scsi_disk_vpd_page_count = ARRAY_SIZE(scsi_disk_vpd_pages);

#define LIMITS_BYTES       0x3C
#define CHARACTER_BYTES    0x3C
#define PROVISIONING_BYTES 4

static int limits_page(const struct scsi_unit *unit, uint8_t *body)
{
	const struct blk_info *info = unit->medium;
	uint8_t *page = body - 4; /* offsets below are those of SBC-3, with the header */

	memset(body, 0, LIMITS_BYTES);
	store_be16(page + 6, (uint16_t)(info->physical_sector_bytes / info->logical_sector_bytes));
	if (!info->can_unmap)
		return LIMITS_BYTES;
	store_be32(page + 20, UINT32_MAX); /* blocks in one UNMAP */
	store_be32(page + 24, SCSI_MAX_RANGES);
	store_be32(page + 28, info->unmap_granularity_bytes / info->logical_sector_bytes);
	store_be32(page + 32, 0x80000000); /* alignment 0, valid */
	return LIMITS_BYTES;
}

static int character_page(uint8_t *body)
{
	memset(body, 0, CHARACTER_BYTES);
	store_be16(body, 1); /* does not rotate */
	return CHARACTER_BYTES;
}

static int provisioning_page(const struct scsi_unit *unit, uint8_t *body)
{
	bool unmap = unit->medium->can_unmap;

	body[0] = 0;
	/* UNMAP, WRITE SAME(16) and (10) with the unmap bit; what is unmapped reads as zeros */
	body[1] = unmap ? 0xE4 : 0;
	body[2] = unmap ? 0x02 : 0x00; /* thin */
	body[3] = 0;
	return PROVISIONING_BYTES;
}

int scsi_disk_vpd(const struct scsi_unit *unit, uint8_t page, uint8_t *body)
{
	switch (page) {
	case SCSI_VPD_LIMITS:
		return limits_page(unit, body);
	case SCSI_VPD_CHARACTER:
		return character_page(body);
	case SCSI_VPD_PROVISIONING:
		return provisioning_page(unit, body);
	default:
		return -1;
	}
}

/* ---- capacity and mode ---- */

static void run_service_action_in(struct scsi_call *call)
{
	const struct blk_info *info = call->unit->medium;
	uint8_t *data = call->reply->data;

	if ((call->cdb[1] & 0x1F) != SCSI_SERVICE_READ_CAPACITY_16) {
		scsi_invalid_cdb(call);
		return;
	}
	memset(data, 0, 32);
	store_be64(data, scsi_block_count(call->unit) - 1);
	store_be32(data + 8, info->logical_sector_bytes);
	data[13] = (uint8_t)__builtin_ctz(info->physical_sector_bytes / info->logical_sector_bytes);
	data[14] = info->can_unmap ? 0xC0 : 0; /* provisioning management, reads zeros */
	scsi_answer(call, 32, load_be32(call->cdb + 10));
}

static void fill_caching(const struct scsi_unit *unit, uint8_t *page)
{
	page[2] = 0x04; /* write cache on: the guest must flush */
}

static void fill_control(const struct scsi_unit *unit, uint8_t *page)
{
	page[3] = 0x10; /* commands may be reordered */
}

static void fill_nothing(const struct scsi_unit *unit, uint8_t *page)
{
}

static const struct scsi_mode_page mode_pages[] = {
	{ SCSI_MODE_PAGE_CACHING, 20, fill_caching },
	{ SCSI_MODE_PAGE_CONTROL, 12, fill_control },
	{ SCSI_MODE_PAGE_EXCEPTIONS, 12, fill_nothing },
};

static void run_mode_sense(struct scsi_call *call)
{
	const struct blk_info *info = call->unit->medium;

	scsi_mode_sense(call, mode_pages, ARRAY_SIZE(mode_pages), 0, info->read_only ? 0x80 : 0,
			info->logical_sector_bytes);
}

/* ---- read, write ---- */

static void run_read_write(struct scsi_call *call, enum blk_op op,
			   void (*decode)(const uint8_t *cdb, uint64_t *lba, uint64_t *count))
{
	bool six = decode == scsi_decode_6;
	uint64_t lba, count;

	decode(call->cdb, &lba, &count);
	if (!six && (call->cdb[1] & CDB_PROTECT)) {
		scsi_invalid_cdb(call);
		return;
	}
	if (op == BLK_WRITE && call->unit->medium->read_only) {
		scsi_fail(call, SCSI_KEY_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
		return;
	}
	if (op == BLK_WRITE && !six && (call->cdb[1] & CDB_FUA))
		call->reply->op_flags = BLK_FUA;
	scsi_transfer(call, op, lba, count, scsi_block_bytes(call->unit));
}

#define DEFINE_READ_WRITE(n)                                                                       \
	static void run_read_##n(struct scsi_call *call)                                           \
	{                                                                                          \
		run_read_write(call, BLK_READ, scsi_decode_##n);                                   \
	}                                                                                          \
	static void run_write_##n(struct scsi_call *call)                                          \
	{                                                                                          \
		run_read_write(call, BLK_WRITE, scsi_decode_##n);                                  \
	}

DEFINE_READ_WRITE(6)
DEFINE_READ_WRITE(10)
DEFINE_READ_WRITE(12)
DEFINE_READ_WRITE(16)

/* Medium verification only (BYTCHK 0): there is nothing that a check here could find. */
static void run_verify(struct scsi_call *call)
{
	uint64_t lba, count;

	if (call->cdb[0] == SCSI_VERIFY_16)
		scsi_decode_16(call->cdb, &lba, &count);
	else if (call->cdb[0] == SCSI_VERIFY_12)
		scsi_decode_12(call->cdb, &lba, &count);
	else
		scsi_decode_10(call->cdb, &lba, &count);
	if (call->cdb[1] & (CDB_PROTECT | 0x06))
		scsi_invalid_cdb(call);
	else
		scsi_check_range(call, lba, count, scsi_block_bytes(call->unit));
}

/* All of the cache is flushed, whatever range is asked for. */
static void run_synchronize_cache(struct scsi_call *call)
{
	uint64_t lba, count;

	if (call->cdb[0] == SCSI_SYNCHRONIZE_CACHE_16)
		scsi_decode_16(call->cdb, &lba, &count);
	else
		scsi_decode_10(call->cdb, &lba, &count);
	if (!scsi_check_range(call, lba, count, scsi_block_bytes(call->unit)))
		return;
	call->reply->action = SCSI_ACTION_RANGES;
	call->reply->op = BLK_FLUSH;
	call->reply->range_count = 1;
	call->reply->ranges[0] = (struct scsi_range){ 0, 0 };
}

/* ---- UNMAP, WRITE SAME ---- */

static bool check_writable(struct scsi_call *call)
{
	if (!call->unit->medium->read_only)
		return true;
	scsi_fail(call, SCSI_KEY_DATA_PROTECT, SCSI_ASC_WRITE_PROTECTED);
	return false;
}

static void add_range(struct scsi_call *call, uint64_t lba, uint64_t count)
{
	uint32_t block_bytes = scsi_block_bytes(call->unit);
	struct scsi_reply *reply = call->reply;

	if (count)
		reply->ranges[reply->range_count++] =
		    (struct scsi_range){ lba * block_bytes, count * block_bytes };
}

/* The descriptors of a parameter list that fits what was announced in the limits page. */
static void add_unmap_ranges(struct scsi_call *call, const uint8_t *descriptors, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		const uint8_t *d = descriptors + 16 * (size_t)i;
		uint64_t lba = load_be64(d), blocks = load_be32(d + 8);

		if (!scsi_check_range(call, lba, blocks, scsi_block_bytes(call->unit)))
			return;
		add_range(call, lba, blocks);
	}
	call->reply->op = BLK_UNMAP;
	if (call->reply->range_count)
		call->reply->action = SCSI_ACTION_RANGES;
}

static void run_unmap(struct scsi_call *call)
{
	uint32_t list_bytes = load_be16(call->cdb + 7), descriptor_bytes;
	const uint8_t *list = call->command->parameters;

	if (!call->unit->medium->can_unmap && !call->unit->medium->read_only) {
		scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_INVALID_OPCODE);
		return;
	}
	if (!check_writable(call) || list_bytes == 0)
		return;
	if (list_bytes < 8 || call->command->parameter_bytes < 8) {
		scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_PARAMETER_LIST_LENGTH);
		return;
	}
	descriptor_bytes = MIN((uint32_t)load_be16(list + 2), list_bytes - 8);
	if (descriptor_bytes > call->command->parameter_bytes - 8 ||
	    descriptor_bytes / 16 > SCSI_MAX_RANGES) {
		scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_PARAMETERS);
		return;
	}
	add_unmap_ranges(call, list + 8, descriptor_bytes / 16);
}

static bool all_zero(const uint8_t *bytes, uint32_t len)
{
	return len == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, len - 1) == 0);
}

#define WRITE_SAME_UNMAP   0x08
#define WRITE_SAME_NO_DATA 0x01 /* WRITE SAME(16): the pattern is zeros */

/* Only zeros can be written this way. */
static void run_write_same(struct scsi_call *call)
{
	bool sixteen = call->cdb[0] == SCSI_WRITE_SAME_16, unmap = call->cdb[1] & WRITE_SAME_UNMAP;
	bool no_data = sixteen && (call->cdb[1] & WRITE_SAME_NO_DATA);
	uint32_t block_bytes = scsi_block_bytes(call->unit);
	uint64_t lba, count;

	if (sixteen)
		scsi_decode_16(call->cdb, &lba, &count);
	else
		scsi_decode_10(call->cdb, &lba, &count);
	if (call->cdb[1] & CDB_PROTECT) {
		scsi_invalid_cdb(call);
		return;
	}
	/* A count of 0 means up to the end. */
	if (count == 0 && lba < scsi_block_count(call->unit))
		count = scsi_block_count(call->unit) - lba;
	if (!check_writable(call) || !scsi_check_range(call, lba, count, block_bytes))
		return;
	if (!no_data && (call->command->parameter_bytes < block_bytes ||
			 !all_zero(call->command->parameters, block_bytes))) {
		scsi_invalid_cdb(call);
		return;
	}
	add_range(call, lba, count);
	call->reply->op = BLK_WRITE_ZEROES;
	call->reply->op_flags = unmap ? BLK_MAY_UNMAP : 0;
	if (call->reply->range_count)
		call->reply->action = SCSI_ACTION_RANGES;
}

/* ---- the table ---- */

const struct scsi_op scsi_disk_ops[] = {
	{ SCSI_TEST_UNIT_READY, SCSI_OP_MEDIUM, scsi_run_good },
	{ SCSI_REQUEST_SENSE, SCSI_OP_PAST_ATTENTION, scsi_run_request_sense },
	{ SCSI_INQUIRY, SCSI_OP_MEDIUM | SCSI_OP_PAST_ATTENTION, scsi_run_inquiry },
	{ SCSI_READ_6, SCSI_OP_MEDIUM, run_read_6 },
	{ SCSI_READ_10, SCSI_OP_MEDIUM, run_read_10 },
	{ SCSI_READ_12, SCSI_OP_MEDIUM, run_read_12 },
	{ SCSI_READ_16, SCSI_OP_MEDIUM, run_read_16 },
	{ SCSI_WRITE_6, SCSI_OP_MEDIUM, run_write_6 },
	{ SCSI_WRITE_10, SCSI_OP_MEDIUM, run_write_10 },
	{ SCSI_WRITE_12, SCSI_OP_MEDIUM, run_write_12 },
	{ SCSI_WRITE_16, SCSI_OP_MEDIUM, run_write_16 },
	{ SCSI_VERIFY_10, SCSI_OP_MEDIUM, run_verify },
	{ SCSI_VERIFY_12, SCSI_OP_MEDIUM, run_verify },
	{ SCSI_VERIFY_16, SCSI_OP_MEDIUM, run_verify },
	{ SCSI_SYNCHRONIZE_CACHE_10, SCSI_OP_MEDIUM, run_synchronize_cache },
	{ SCSI_SYNCHRONIZE_CACHE_16, SCSI_OP_MEDIUM, run_synchronize_cache },
	{ SCSI_UNMAP, SCSI_OP_MEDIUM, run_unmap },
	{ SCSI_WRITE_SAME_10, SCSI_OP_MEDIUM, run_write_same },
	{ SCSI_WRITE_SAME_16, SCSI_OP_MEDIUM, run_write_same },
	{ SCSI_READ_CAPACITY_10, SCSI_OP_MEDIUM, scsi_run_read_capacity_10 },
	{ SCSI_SERVICE_ACTION_IN_16, SCSI_OP_MEDIUM, run_service_action_in },
	{ SCSI_MODE_SENSE_6, SCSI_OP_MEDIUM | SCSI_OP_PAST_ATTENTION, run_mode_sense },
	{ SCSI_MODE_SENSE_10, SCSI_OP_MEDIUM | SCSI_OP_PAST_ATTENTION, run_mode_sense },
	{ SCSI_START_STOP_UNIT, SCSI_OP_MEDIUM, scsi_run_good },
};
const unsigned scsi_disk_op_count = ARRAY_SIZE(scsi_disk_ops);
