/* What is saved of a network adapter; for netvsp-state.c and the test. */
#ifndef DEV_NETVSP_STATE_H
#define DEV_NETVSP_STATE_H

#include "dev/netvsp-impl.h"

#define NETVSP_RESPONSE_BYTES 1024 /* the longest answer is of some 600 bytes */

/* A buffer of the guest, divided into sections. */
struct netvsp_buffer_state {
	bool set;
	uint8_t reserved;
	uint16_t id;
	uint32_t gpadl, section_bytes, section_count;
};

/* A section of the receive buffer that the guest has: by which packet. In the packets' order. */
struct netvsp_lent_state {
	uint32_t slot, generation, section;
};

/* A section that is filled, but not sent. */
struct netvsp_staged_state {
	uint32_t queue, section, byte_count, byte_offset;
};

struct netvsp_completion_state {
	uint64_t transaction_id;
	uint32_t queue, bytes;
	uint8_t body[NVSP_MESSAGE_BYTES];
};

struct netvsp_response_state {
	uint32_t bytes;
	uint8_t message[NETVSP_RESPONSE_BYTES];
};

struct netvsp_state {
	uint32_t queue_count, version, mtu, packet_filter;
	uint64_t capabilities;
	struct netvsp_buffer_state receive, send;
	bool rndis_ready, indirection_due, link_told;
	uint8_t offloads[sizeof(struct netvsp_offloads)]; /* in the order of that struct */
	uint8_t mac[6], multicast[NETVSP_MAX_MULTICAST][6];
	uint32_t multicast_count;
	bool rss_enabled;
	uint8_t rss_key[NDIS_RSS_KEY_BYTES], rss_table[NDIS_RSS_MAX_ENTRIES];
	uint32_t rss_hash_types, rss_entries;
	uint32_t next_generation;
	uint16_t next_rsc_id, reserved;
	uint64_t counters[sizeof(struct netvsp_stats) / sizeof(uint64_t)];
	struct netvsp_lent_state *lent;
	struct netvsp_staged_state *staged;
	struct netvsp_completion_state *completions;
	struct netvsp_response_state *responses;
	uint32_t lent_count, staged_count, completion_count, response_count;
};

extern const struct state_desc netvsp_buffer_state_desc, netvsp_lent_state_desc,
    netvsp_staged_state_desc, netvsp_completion_state_desc, netvsp_response_state_desc,
    netvsp_state_desc;

#endif
