/* Shared by the command engine's files. */
#ifndef SCSI_SCSI_IMPL_H
#define SCSI_SCSI_IMPL_H

#include "base/bytes.h"
#include "base/macros.h"
#include "scsi/scsi.h"

/* One command being executed. */
struct scsi_call {
	struct scsi_unit *unit;
	const struct scsi_command *command;
	const uint8_t *cdb;
	struct scsi_reply *reply;
};

#define SCSI_OP_MEDIUM 0x1u /* needs a medium: else NOT READY */
/* Is executed although a unit attention waits: what SAM names, and MODE SENSE. Linux's storvsc
 * takes every answer to that for a good one (as to INQUIRY), so that the news would be lost on it.
 */
#define SCSI_OP_PAST_ATTENTION 0x2u

struct scsi_op {
	uint8_t opcode;
	uint8_t flags;
	void (*run)(struct scsi_call *call);
};

extern const struct scsi_op scsi_disk_ops[], scsi_dvd_ops[];
extern const unsigned scsi_disk_op_count, scsi_dvd_op_count;

void scsi_fail(struct scsi_call *call, enum scsi_sense_key key, enum scsi_additional_sense asc);
static inline void scsi_invalid_cdb(struct scsi_call *call)
{
	scsi_fail(call, SCSI_KEY_ILLEGAL_REQUEST, SCSI_ASC_INVALID_FIELD_IN_CDB);
}
/* Answers with the first len bytes of reply->data, cut to the command's allocation length and to
 * the guest's buffer. */
void scsi_answer(struct scsi_call *call, uint32_t len, uint64_t allocation_length);
/* Plans a read or write of count blocks of block_bytes. */
void scsi_transfer(struct scsi_call *call, enum blk_op op, uint64_t lba, uint64_t count,
		   uint32_t block_bytes);
/* False, with the error set, if [lba, lba + count) is not on the medium. */
bool scsi_check_range(struct scsi_call *call, uint64_t lba, uint64_t count, uint32_t block_bytes);

/* Where READ and WRITE commands of each length keep LBA and count. */
void scsi_decode_6(const uint8_t *cdb, uint64_t *lba, uint64_t *count);
void scsi_decode_10(const uint8_t *cdb, uint64_t *lba, uint64_t *count);
void scsi_decode_12(const uint8_t *cdb, uint64_t *lba, uint64_t *count);
void scsi_decode_16(const uint8_t *cdb, uint64_t *lba, uint64_t *count);

/* Commands that disks and DVD drives share. */
void scsi_run_good(struct scsi_call *call);
void scsi_run_inquiry(struct scsi_call *call);
void scsi_run_request_sense(struct scsi_call *call);
void scsi_run_read_capacity_10(struct scsi_call *call);

/* VPD pages: writes the page's body (behind its 4-byte header) and returns its length, -1 if the
 * unit has no such page. */
int scsi_vpd_serial(const struct scsi_unit *unit, uint8_t *body);
int scsi_vpd_identity(const struct scsi_unit *unit, uint8_t *body);
int scsi_disk_vpd(const struct scsi_unit *unit, uint8_t page, uint8_t *body);
extern const uint8_t scsi_disk_vpd_pages[], scsi_dvd_vpd_pages[];
extern const unsigned scsi_disk_vpd_page_count, scsi_dvd_vpd_page_count;

/* MODE SENSE: a page and how to write it (with its 2-byte header) for "current" values. */
struct scsi_mode_page {
	uint8_t page;
	uint8_t len;
	void (*fill)(const struct scsi_unit *unit, uint8_t *page);
};
void scsi_mode_sense(struct scsi_call *call, const struct scsi_mode_page *pages,
		     unsigned page_count, uint8_t medium_type, uint8_t device_specific,
		     uint32_t block_bytes);

uint32_t scsi_block_bytes(const struct scsi_unit *unit);
uint64_t scsi_block_count(const struct scsi_unit *unit);

#endif
