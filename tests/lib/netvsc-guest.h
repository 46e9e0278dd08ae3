/*
 * A network driver of a guest inside a test's process, over tests/lib/vmbus-guest.h: what Linux's
 * netvsc does, with its length checks, and with knobs for what a hostile one does.
 *
 *	nic = netvsc_guest_open(guest, &options);
 *	netvsc_guest_start(nic, 0x0D);
 *	netvsc_guest_send(nic, frame, len, NULL);
 *	netvsc_guest_receive(nic, &frame);
 *
 * Misuse and answers that a driver would choke on end in an abort with a message.
 */
#ifndef TESTS_NETVSC_GUEST_H
#define TESTS_NETVSC_GUEST_H

#include "spec/nvsp.h"
#include "spec/rndis.h"
#include "vmbus-guest.h"

#define NETVSC_GUEST_MAX_FRAMES   4096
#define NETVSC_GUEST_MAX_CHANNELS 17
#define NETVSC_GUEST_PAGE_SET     0xCAFE

struct netvsc_guest_options {
	uint32_t version; /* of NVSP */
	uint32_t mtu;     /* 0: no NDIS_CONFIG is sent */
	uint64_t capabilities;
	unsigned receive_pages, send_pages; /* 0: 256 and 64 */
	unsigned ring_pages;                /* each direction; 0: 32 */
};

struct netvsc_guest_frame {
	uint8_t *data; /* valid until the frame is received again or the driver is closed */
	size_t len;
	unsigned channel;
	bool has_checksum, has_hash, has_vlan;
	unsigned fragments; /* of a large receive; 1: none */
	uint32_t checksum, hash, vlan;
};

struct netvsc_guest {
	struct vmbus_guest *guest;
	struct netvsc_guest_options options;
	struct vmbus_guest_channel *channels[NETVSC_GUEST_MAX_CHANNELS];
	unsigned channel_count;
	uint64_t *receive_gpa, *send_gpa;
	uint32_t receive_gpadl, send_gpadl;
	uint32_t section_bytes, section_count, send_section_bytes;
	uint64_t next_transaction;
	uint32_t next_request;
	struct netvsc_guest_frame frames[NETVSC_GUEST_MAX_FRAMES];
	unsigned frame_first, frame_count;
	struct netvsc_guest_frame last; /* what netvsc_guest_receive gave */
	uint8_t control[64][4096];      /* RNDIS control messages, oldest first */
	unsigned control_count;
	/* Completions of our requests since netvsc_guest_take_completion. */
	struct {
		uint64_t transaction_id;
		uint32_t len;
		uint8_t payload[64];
		unsigned channel;
	} completions[1024];
	unsigned completion_count;
	uint32_t indirection[NVSP_INDIRECTION_ENTRIES]; /* what the host sent last */
	unsigned indirection_count;
	/* Receive packets that are not completed, while hold is set. */
	bool hold;
	struct {
		uint64_t transaction_id;
		unsigned channel;
	} held[1024];
	unsigned held_count;
	bool in_large_receive; /* the last fragment has not come */
	unsigned max_ranges;   /* seen in one packet */
	unsigned packets;      /* transfer-page packets seen */
};

/* Opens the channel and runs NVSP up to the send buffer. NULL: the host refused the version. */
struct netvsc_guest *netvsc_guest_open(struct vmbus_guest *guest,
				       const struct netvsc_guest_options *options);
/* Closes all channels as Linux does: revoke, close, tear down. */
void netvsc_guest_close(struct netvsc_guest *nic);
/* After the host took the channel away: only frees. */
void netvsc_guest_forget(struct netvsc_guest *nic);

/* RNDIS INITIALIZE, and the packet filter. */
void netvsc_guest_start(struct netvsc_guest *nic, uint32_t filter);
/* Returns the RNDIS status; *len: room in data, then the answer's length. */
uint32_t netvsc_guest_query(struct netvsc_guest *nic, uint32_t oid, void *data, uint32_t *len);
uint32_t netvsc_guest_set(struct netvsc_guest *nic, uint32_t oid, const void *data, uint32_t len);
/* Asks for all offloads, as Linux does: value is one of NDIS_OFFLOAD_OFF, NDIS_OFFLOAD_BOTH. */
uint32_t netvsc_guest_offloads(struct netvsc_guest *nic, uint8_t value, bool rsc);
/* RSS on, with Microsoft's verification key, over queues; the table is 0, 1, 2, ... */
uint32_t netvsc_guest_rss(struct netvsc_guest *nic, unsigned queues);
extern const uint8_t netvsc_guest_rss_key[NDIS_RSS_KEY_BYTES];
/* Any control message, with its answer, which must have type | RNDIS_COMPLETE. */
const uint8_t *netvsc_guest_request(struct netvsc_guest *nic, uint32_t type, const void *body,
				    uint32_t bytes);
/* The next indication's status, or 0 if none comes. */
uint32_t netvsc_guest_indication(struct netvsc_guest *nic);
/* Asks for count more channels and opens what is granted; returns how many there are then. */
unsigned netvsc_guest_open_subchannels(struct netvsc_guest *nic, unsigned count);

/* ---- frames ---- */

struct netvsc_guest_ppi {
	uint32_t type, value;
};
struct netvsc_guest_send {
	const struct netvsc_guest_ppi *ppi;
	unsigned ppi_count;
	bool by_section; /* in the send buffer; else by pages */
	unsigned channel;
	unsigned piece_bytes; /* by pages: size of each range; 0: pages as they come */
};
/* Waits for the host's completion. False: the status was not success. */
bool netvsc_guest_send(struct netvsc_guest *nic, const void *frame, size_t len,
		       const struct netvsc_guest_send *how);
/* Sends bytes as an RNDIS message (or what looks like one) by pages; returns the transaction id, 0:
 * the ring is full. */
uint64_t netvsc_guest_send_raw(struct netvsc_guest *nic, unsigned channel, uint32_t nvsp_channel,
			       const void *message, size_t len);
/* Waits for the completion; returns its status word (payload offset 4). */
uint32_t netvsc_guest_wait_completion(struct netvsc_guest *nic, uint64_t transaction_id);
/* The next received frame, waiting for it; false after timeout_ms. */
bool netvsc_guest_receive(struct netvsc_guest *nic, struct netvsc_guest_frame *ret,
			  unsigned timeout_ms);
/* Takes what is in the rings now; true if there was anything. */
bool netvsc_guest_poll(struct netvsc_guest *nic);
/* Gives back what was held. */
void netvsc_guest_release(struct netvsc_guest *nic);

#endif
