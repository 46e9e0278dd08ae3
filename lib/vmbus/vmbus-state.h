/* What is saved of the bus; for lib/vmbus and its test. */
#ifndef VMBUS_VMBUS_STATE_H
#define VMBUS_VMBUS_STATE_H

#include "vmbus/vmbus-impl.h"

struct vmbus_channel_saved {
	struct guid class_id, instance_id;
	uint16_t subchannel_index;
	bool offered, open;
	uint32_t relid;
	/* The rest is 0 of a channel that is not open. */
	uint32_t target_vp;
	uint32_t ring_gpadl, downstream_page; /* of the GPADL: where the ring to the guest begins */
	uint32_t in_index, out_index;         /* ours: what is read, what is written */
	bool in_masked, damaged, waits_for_room;
	bool socket; /* of dev/hvsock: one connection, which does not survive */
};

struct vmbus_gpadl_state {
	uint32_t id, relid;
	uint32_t byte_count, byte_offset;
	uint32_t page_count, pages_seen; /* pages are in one list of all GPADLs, in their order */
};

struct vmbus_leaving_state {
	struct guid instance_id;
	uint32_t relid;
};

struct vmbus_message_state {
	uint32_t len;
	uint8_t bytes[VMBUS_MSG_MAX];
};

struct vmbus_state {
	uint32_t version, connect_vp, sint;
	bool offers_requested, has_interrupt_page;
	uint8_t reserved[2];
	uint64_t interrupt_page;
	uint8_t relid_state[VMBUS_MAX_RELID + 1]; /* enum vmbus_relid_state */
	struct vmbus_channel_saved *channels;
	struct vmbus_gpadl_state *gpadls;
	uint64_t *gpadl_pages;
	struct vmbus_message_state *messages; /* of the guest, not handled yet */
	struct vmbus_leaving_state *leaving;  /* what is not 0 of struct vmbus's */
	uint32_t channel_count, gpadl_count, gpadl_page_count, message_count, leaving_count;
};

extern const struct state_desc vmbus_channel_saved_desc, vmbus_gpadl_state_desc,
    vmbus_leaving_state_desc, vmbus_message_state_desc, vmbus_state_desc;

#endif
