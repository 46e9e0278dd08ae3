/*
 * Shared by the parts of netvsp: the device's state, and who does what.
 *
 * netvsp.c	     life, channels, NVSP messages
 * netvsp-control.c  RNDIS control messages: OIDs, indications
 * netvsp-transmit.c guest to port
 * netvsp-receive.c  port to guest: sections of the receive buffer, RSS
 * netvsp-state.c    save and restore
 *
 * A queue is a channel: 0 the primary, others sub-channels. One queue at a time reads its ring; it
 * gathers frames in `tx`, which is emptied before another queue gets its turn. While the port or
 * the ring towards the guest is full, no queue that would add to what waits reads on: the guest's
 * own ring fills, and it stops.
 */
#ifndef DEV_NETVSP_IMPL_H
#define DEV_NETVSP_IMPL_H

#include "dev/netvsp.h"
#include "net/port.h"
#include "spec/nvsp.h"
#include "spec/rndis.h"

#define NETVSP_MAX_QUEUES          16
#define NETVSP_MAX_MTU             65521u
#define NETVSP_DEFAULT_MTU         1500u
#define NETVSP_LINK_SPEED_MBIT     10000u
#define NETVSP_SEND_SECTION_BYTES  6144u
#define NETVSP_MIN_SECTION_BYTES   1728u /* MTU 1500, tag and all per-packet information */
#define NETVSP_MAX_SECTIONS        65536u
#define NETVSP_MAX_LSO_BYTES       62768u
#define NETVSP_RSC_BYTES           30000u /* what one large receive carries at most */
#define NETVSP_MESSAGES_PER_PACKET 8      /* what RNDIS is told */
#define NETVSP_PACKETS_PER_BATCH   32     /* VMBus packets gathered before frames go out */
#define NETVSP_FRAMES_PER_BATCH    64
#define NETVSP_RANGES_PER_PACKET   32 /* iPXE takes no packet with more than 55 ranges */
#define NETVSP_MAX_CONTROL_BYTES   4096u
#define NETVSP_MAX_RESPONSES       32
#define NETVSP_MAX_MULTICAST       32

struct netvsp_completion {
	uint64_t transaction_id;
	uint32_t bytes;
	uint8_t body[NVSP_MESSAGE_BYTES];
};

/* Sections filled for one transfer-page packet that is not sent yet. */
struct netvsp_stage {
	struct vmbus_xfer_range ranges[NETVSP_RANGES_PER_PACKET];
	uint32_t sections[NETVSP_RANGES_PER_PACKET];
	unsigned count;
};

struct netvsp_queue {
	struct netvsp *nic;
	unsigned index;
	struct vmbus_channel *channel;
	bool open;
	/* Answers that the ring had no room for; nothing is read while there are any. */
	struct netvsp_completion completions[NETVSP_PACKETS_PER_BATCH + 4];
	unsigned completion_first, completion_count;
	struct netvsp_stage stage;
};

/* A transfer-page packet that the guest has not completed. */
struct netvsp_transaction {
	bool in_use;
	uint32_t generation;
	uint32_t first_section; /* chained by section_next */
};

struct netvsp_receive_buffer {
	bool set;
	uint32_t gpadl;
	uint16_t id;
	uint32_t section_bytes, section_count;
	/* Stacks of what is free. There are as many transactions as sections. */
	uint32_t *free_sections, free_section_count;
	uint32_t *free_transactions, free_transaction_count;
	uint32_t *section_next;
	struct netvsp_transaction *transactions;
};

struct netvsp_send_buffer {
	bool set;
	uint32_t gpadl;
	uint16_t id;
	uint32_t section_bytes, section_count;
};

struct netvsp_tx_packet {
	uint64_t transaction_id;
	bool wants_completion;
	uint32_t status;
};

struct netvsp_tx {
	struct netvsp_queue *queue; /* whose packets these are */
	struct netvsp_tx_packet packets[NETVSP_PACKETS_PER_BATCH];
	unsigned packet_count;
	struct port_frame frames[NETVSP_FRAMES_PER_BATCH];
	struct iovec iov[NETVSP_FRAMES_PER_BATCH][PORT_MAX_IOV];
	uint8_t tags[NETVSP_FRAMES_PER_BATCH][FRAME_VLAN_BYTES];
	uint8_t *bounce[NETVSP_FRAMES_PER_BATCH]; /* frames in too many pieces; owned */
	unsigned frame_count, frames_sent;
	bool blocked; /* the port is full */
};

struct netvsp_response {
	struct netvsp_response *next;
	uint32_t bytes;
	uint8_t message[];
};

struct netvsp_offloads {
	bool tx_ip4, tx_tcp4, tx_udp4, tx_tcp6, tx_udp6;
	bool rx_ip4, rx_tcp4, rx_udp4, rx_tcp6, rx_udp6;
	bool lso4, lso6, rsc4, rsc6;
};

struct netvsp_rss {
	bool enabled;
	unsigned hash_types; /* FRAME_HASH_* */
	uint8_t key[NDIS_RSS_KEY_BYTES];
	uint8_t table[NDIS_RSS_MAX_ENTRIES]; /* queue numbers; may name queues that are not open */
	unsigned entries;
};

struct netvsp {
	struct vmbus *bus;
	struct loop *loop;
	struct guid instance;
	uint8_t permanent_mac[6];
	char name[64];
	bool mac_change;
	unsigned max_queues;

	struct port *port; /* NULL: not connected */
	bool cable_up;     /* netvsp_set_link */
	bool link_told;    /* what the guest was told last */
	struct netvsp_stats stats;
	bool quiet; /* between quiesce and unquiesce */

	struct netvsp_queue queues[NETVSP_MAX_QUEUES];
	unsigned queue_count; /* offered, with the primary */

	/* From here on: gone with the primary's close. */
	uint32_t version;
	uint32_t mtu;
	uint64_t capabilities;
	struct netvsp_receive_buffer receive;
	struct netvsp_send_buffer send;
	struct netvsp_tx tx;
	bool rndis_ready;     /* INITIALIZE came */
	bool indirection_due; /* the guest has not got its send table */
	uint32_t packet_filter;
	uint8_t mac[6];
	uint8_t multicast[NETVSP_MAX_MULTICAST][6];
	unsigned multicast_count;
	struct netvsp_offloads offloads;
	struct netvsp_rss rss;
	struct netvsp_response *responses, **responses_tail;
	unsigned response_count;
	/* Segments of the port's first frame that have been put into sections already. */
	unsigned segments_done;
	bool receive_blocked; /* the port keeps frames for us */
	uint32_t next_generation;
	uint16_t next_rsc_id;
};

/* ---- netvsp.c ---- */

extern const struct guid netvsp_class;

/* Sends or keeps the answer to a packet of queue; bytes <= NVSP_MESSAGE_BYTES, sent zero-padded to
 * NVSP_MESSAGE_BYTES, or not padded if 0. */
void netvsp_complete(struct netvsp_queue *queue, uint64_t transaction_id, const void *body,
		     uint32_t bytes);
/* False: some are left, and nothing may be read. */
bool netvsp_flush_completions(struct netvsp_queue *queue);
/* What the guest is to be told of the cable. */
bool netvsp_link_up(const struct netvsp *nic);
/* All queues get a chance to read and send. */
void netvsp_service(struct netvsp *nic);

static inline void netvsp_count(struct netvsp_counters counters[static NETVSP_CASTS],
				const uint8_t *mac, size_t bytes)
{
	enum netvsp_cast cast = frame_is_broadcast(mac)   ? NETVSP_BROADCAST
				: frame_is_multicast(mac) ? NETVSP_MULTICAST
							  : NETVSP_DIRECTED;

	counters[cast].frames++;
	counters[cast].bytes += bytes;
}

/* Offers queue number index, a sub-channel. */
int netvsp_offer_queue(struct netvsp *nic, unsigned index, struct error *err);

/* ---- netvsp-control.c ---- */

/* Appends a copy of a whole message. False: no memory. */
bool netvsp_keep_response(struct netvsp *nic, const void *message, uint32_t bytes);

/* A control message, already copied. False: it is no RNDIS message. */
bool netvsp_control(struct netvsp *nic, const uint8_t *message, uint32_t bytes);
/* Sends what waits; after a completion or when there is room. */
void netvsp_flush_responses(struct netvsp *nic);
void netvsp_indicate_link(struct netvsp *nic);
void netvsp_indicate(struct netvsp *nic, uint32_t status, const void *data, uint32_t bytes);
void netvsp_control_reset(struct netvsp *nic);

/* ---- netvsp-transmit.c ---- */

/* Takes one SEND_RNDIS_PACKET into the batch, or answers it at once if it is a control message. */
void netvsp_transmit(struct netvsp_queue *queue, const struct vmbus_packet *packet,
		     const struct nvsp_rndis_packet *nvsp);
bool netvsp_transmit_has_room(const struct netvsp *nic);
/* False: the port is full; `tx` keeps what is left. */
bool netvsp_transmit_flush(struct netvsp *nic);
void netvsp_transmit_reset(struct netvsp *nic);
/* What the port has not taken is lost; its packets are completed. */
void netvsp_transmit_drop(struct netvsp *nic);

/* ---- netvsp-receive.c ---- */

bool netvsp_receive_set_buffer(struct netvsp *nic, uint32_t gpadl, uint16_t id);
void netvsp_receive_revoke(struct netvsp *nic);
/* All sections free. False: no memory. */
bool netvsp_receive_init(struct netvsp_receive_buffer *rb, uint32_t gpadl, uint16_t id,
			 uint32_t section_bytes, uint32_t section_count);
/* port_ops.received */
unsigned netvsp_receive(struct netvsp *nic, struct port_frame *frames, unsigned count);
/* The guest gave sections back. */
void netvsp_receive_completed(struct netvsp *nic, uint64_t transaction_id);
/* Puts an RNDIS message into a section and sends it to queue 0 as NVSP_CHANNEL_CONTROL. False: no
 * free section, or no room in the ring. */
bool netvsp_receive_control(struct netvsp *nic, const void *message, uint32_t bytes);
/* Sends staged sections of queue. False: its ring is full. */
bool netvsp_receive_flush(struct netvsp_queue *queue);

#endif
