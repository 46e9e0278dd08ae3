/* What is saved of a SCSI controller; for storvsp.c and its test. */
#ifndef DEV_STORVSP_STATE_H
#define DEV_STORVSP_STATE_H

#include "dev/storvsp.h"
#include "spec/storvsp.h"

/* A finished request whose completion found the ring full. */
struct storvsp_unsent_state {
	uint64_t transaction_id;
	uint8_t packet[sizeof(struct storvsp_packet)];
	uint8_t channel; /* 0: primary */
};

struct storvsp_lun_state {
	bool attached;
	uint8_t kind; /* enum scsi_kind */
	struct scsi_unit_state unit;
};

struct storvsp_state {
	uint8_t init_state;
	bool enumerate_wanted;
	uint16_t reserved;
	uint32_t unsent_count;
	struct storvsp_unsent_state *unsent; /* in their order */
	struct storvsp_lun_state luns[STORVSP_MAX_LUNS];
};

extern const struct state_desc storvsp_unsent_state_desc, storvsp_lun_state_desc,
    storvsp_state_desc;

#endif
