/*
 * SCSI commands from a hostile guest, many in a row on one unit. Input: a byte that chooses the
 * unit, then records of CDB (16), buffer length (2) and parameter length (1) with that many bytes.
 */
#include "base/bytes.h"
#include "base/macros.h"
#include "scsi/scsi.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_reply(const struct scsi_unit *unit, const struct scsi_command *command,
			const struct scsi_reply *reply)
{
	const struct blk_info *info = unit->medium;

	if (reply->data_bytes > command->buffer_bytes || reply->data_bytes > SCSI_MAX_DATA)
		abort();
	if (reply->status == SCSI_CHECK_CONDITION &&
	    (reply->action != SCSI_ACTION_NONE || reply->data_bytes || reply->sense[0] != 0x70))
		abort();
	if (reply->range_count > SCSI_MAX_RANGES)
		abort();
	if (reply->action != SCSI_ACTION_TRANSFER && reply->action != SCSI_ACTION_RANGES)
		return;
	for (unsigned i = 0; i < reply->range_count; i++)
		if (!RANGE_OK(reply->ranges[i].offset, reply->ranges[i].length, info->size_bytes) ||
		    reply->ranges[i].offset % info->logical_sector_bytes ||
		    reply->ranges[i].length % info->logical_sector_bytes)
			abort();
	if (reply->action == SCSI_ACTION_TRANSFER &&
	    (reply->range_count != 1 || reply->ranges[0].length > command->buffer_bytes ||
	     (reply->op == BLK_WRITE && info->read_only)))
		abort();
}

static size_t run_one(struct scsi_unit *unit, const uint8_t *data, size_t size)
{
	uint8_t exact[256];
	struct scsi_command command = { 0 };
	static struct scsi_reply reply;
	uint32_t len, wanted;

	memcpy(command.cdb, data, sizeof(command.cdb));
	command.buffer_bytes = load_le16(data + 16);
	len = (uint32_t)MIN((size_t)data[18], size - 19);
	memcpy(exact, data + 19, len);
	wanted = scsi_parameter_bytes(unit, command.cdb);
	if (wanted > SCSI_MAX_PARAMETERS)
		abort();
	command.parameter_bytes = MIN(MIN(wanted, len), command.buffer_bytes);
	command.parameters = exact;
	scsi_execute(unit, &command, &reply);
	check_reply(unit, &command, &reply);
	if (reply.action == SCSI_ACTION_EJECT)
		scsi_unit_set_medium(unit, NULL);
	if (reply.action == SCSI_ACTION_TRANSFER || reply.action == SCSI_ACTION_RANGES)
		scsi_io_result(&reply, (enum blk_result)(data[15] % BLK_RESULT_COUNT));
	scsi_absent_unit(&command, command.cdb[1] & 1, &reply);
	scsi_report_luns(&command, load_le64(data + 2), &reply);
	if (reply.data_bytes > command.buffer_bytes)
		abort();
	return 19 + len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct guid id;
	struct blk_info info = { .size_bytes = 100 * MIB,
				 .logical_sector_bytes = 512,
				 .physical_sector_bytes = 4096,
				 .unmap_granularity_bytes = 65536 };
	struct scsi_unit unit;

	if (size < 1)
		return 0;
	info.can_unmap = data[0] & 2;
	info.read_only = data[0] & 4;
	if ((data[0] & 9) == 8)
		info.logical_sector_bytes = 4096;
	if (data[0] & 16)
		info.size_bytes = UINT64_C(64) << 40;
	scsi_unit_init(&unit, data[0] & 1 ? SCSI_KIND_DVD : SCSI_KIND_DISK,
		       (data[0] & 33) == 33 ? NULL : &info, &id);
	if (data[0] & 64)
		scsi_unit_reset(&unit);
	for (size_t at = 1; size - at >= 19;)
		at += run_one(&unit, data + at, size - at);
	return 0;
}
