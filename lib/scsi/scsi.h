/*
 * The SCSI command engine: what a disk or DVD drive of Hyper-V answers to a command. Pure: a CDB
 *and what is known about the unit go in; status, sense and data come out, or a plan of block
 *requests for the caller to run, whose result scsi_io_result turns into status and sense. No I/O,
 *no allocation.
 *
 * A CDB is the guest's and may be anything. The caller copies it, and the parameter data of
 *commands that have some (scsi_parameter_bytes), before it calls.
 *
 *	scsi_execute(&unit, &command, &reply);
 *	if (reply.action == SCSI_ACTION_TRANSFER)
 *		... blk_submit(reply.op, reply.ranges[0]) ... then scsi_io_result(&reply, result);
 *
 * Targets (which LUNs exist) are the caller's: scsi_absent_unit and scsi_report_luns.
 */
#ifndef SCSI_SCSI_H
#define SCSI_SCSI_H

#include "blk/blk.h"
#include "spec/scsi.h"
#include "state/state.h"

#define SCSI_CDB_BYTES      16
#define SCSI_MAX_DATA       2088 /* REPORT LUNS of 256 LUNs, the longest answer, and some */
#define SCSI_MAX_RANGES     64
#define SCSI_MAX_PARAMETERS 4096
#define SCSI_MAX_ATTENTIONS 4

enum scsi_kind { SCSI_KIND_DISK, SCSI_KIND_DVD };

/* What a unit is, and what a guest can notice of its past. */
struct scsi_unit {
	enum scsi_kind kind;
	const struct blk_info *medium; /* NULL: an empty drive (DVD only); borrowed */
	struct guid id;                /* identity in the VPD pages */

	bool removal_prevented;
	uint8_t media_event;                      /* GET EVENT STATUS: next event code, 0 none */
	uint16_t attentions[SCSI_MAX_ATTENTIONS]; /* enum scsi_additional_sense, oldest first */
	unsigned attention_count;
};

void scsi_unit_init(struct scsi_unit *unit, enum scsi_kind kind, const struct blk_info *medium,
		    const struct guid *id);
/* The next command gets CHECK CONDITION with this unit attention. A repeated one counts once. */
void scsi_unit_attention(struct scsi_unit *unit, enum scsi_additional_sense asc);
/* DVD: a medium was put in or taken out (NULL) by the host. */
void scsi_unit_set_medium(struct scsi_unit *unit, const struct blk_info *medium);
/* The guest that knew the unit is gone: forget what it did and what it was to be told. */
void scsi_unit_power_on(struct scsi_unit *unit);
/* Reset of the bus or the unit. */
void scsi_unit_reset(struct scsi_unit *unit);

/* What is saved of a unit; the medium is told by whether there is one. */
struct scsi_unit_state {
	bool medium, removal_prevented;
	uint8_t media_event, attention_count;
	uint16_t attentions[SCSI_MAX_ATTENTIONS];
};
extern const struct state_desc scsi_unit_state_desc;
void scsi_unit_save(const struct scsi_unit *unit, struct scsi_unit_state *ret);
/* The unit has its medium, or is empty, already. */
void scsi_unit_restore(struct scsi_unit *unit, const struct scsi_unit_state *from);

struct scsi_command {
	uint8_t cdb[SCSI_CDB_BYTES]; /* zero padded */
	uint32_t buffer_bytes;       /* of the guest's data buffer, either direction */
	const uint8_t *parameters;   /* the first scsi_parameter_bytes of it */
	uint32_t parameter_bytes;
};

/* How many bytes of the guest's buffer scsi_execute wants as command->parameters; at most
 * SCSI_MAX_PARAMETERS. 0 for most commands. */
uint32_t scsi_parameter_bytes(const struct scsi_unit *unit,
			      const uint8_t cdb[static SCSI_CDB_BYTES]);

enum scsi_action {
	SCSI_ACTION_NONE,     /* finished: status, sense and data are there */
	SCSI_ACTION_TRANSFER, /* run op (BLK_READ, BLK_WRITE) on ranges[0] with the guest's buffer
			       */
	SCSI_ACTION_RANGES,   /* run op (BLK_FLUSH, BLK_UNMAP, BLK_WRITE_ZEROES) on each range */
	SCSI_ACTION_EJECT,    /* finished; the drive is to be opened and the medium let go */
};

struct scsi_range {
	uint64_t offset, length; /* bytes */
};

struct scsi_reply {
	enum scsi_action action;
	enum blk_op op;
	uint32_t op_flags;
	unsigned range_count;
	struct scsi_range ranges[SCSI_MAX_RANGES];

	uint8_t status;                  /* enum scsi_status */
	uint8_t sense[SCSI_SENSE_BYTES]; /* with CHECK CONDITION */
	uint32_t data_bytes;             /* for the guest's buffer, from data */
	uint8_t data[SCSI_MAX_DATA];
};

void scsi_execute(struct scsi_unit *unit, const struct scsi_command *command,
		  struct scsi_reply *ret);
/* After the planned requests: the first result that was not BLK_OK, or BLK_OK. */
void scsi_io_result(struct scsi_reply *reply, enum blk_result result);

/* INQUIRY of a LUN that is not there is answered with data that says so. left: the guest may not
 * know yet that the unit has left; what it wrote is written back with that, so flushing has nothing
 * to do. For any other command false is returned (no such LUN). */
bool scsi_absent_unit(const struct scsi_command *command, bool left, struct scsi_reply *ret);
/* luns: bit n for LUN n. */
void scsi_report_luns(const struct scsi_command *command, uint64_t luns, struct scsi_reply *ret);

#endif
