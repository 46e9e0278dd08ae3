/* The balloon's saved state; for balloon.c and its test. */
#ifndef DEV_BALLOON_STATE_H
#define DEV_BALLOON_STATE_H

#include "state/state.h"

struct balloon_state {
	uint64_t reach_bytes, target_bytes, added_bytes, added_end;
	uint64_t capabilities, offered_bytes, return_pages, return_cursor;
	uint64_t demand_bytes, available_bytes;
	uint64_t *pages; /* bit n: page n is in the balloon; as long as its last one needs */
	uint32_t page_words;
	uint32_t version, transaction_id;
	uint8_t operation;
	bool ready;
	uint8_t reserved[2];
};

extern const struct state_desc balloon_state_desc;

#endif
