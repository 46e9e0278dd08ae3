/*
 * A guest's side of VMBus inside a test's process: guest RAM, the real lib/hv and lib/vmbus over a
 * fake partition, and what a driver does: SynIC set-up, contact, offers, GPADLs, rings, packets. It
 * goes through hypercalls, MSRs and guest memory only, as a guest does; nothing is short-circuited.
 *
 * Everything runs on the calling thread: waiting functions step the loop until the host has
 * answered, or VMBUS_GUEST_TIMEOUT_MS and VMBUS_GUEST_TURNS of the loop have passed. A test offers
 * devices on guest->bus first, then:
 *
 *	guest = vmbus_guest_new(1, 16 * MIB);
 *	... storvsp_new(guest->bus, ...) ...
 *	vmbus_guest_connect(guest, VMBUS_VERSION_5_3);
 *	offer = vmbus_guest_offer(guest, &class_id, 0);
 *	channel = vmbus_guest_open(guest, offer, 16, 16);
 *	vmbus_guest_send(channel, 1, true, request, sizeof(request));
 *	vmbus_guest_recv(channel, &packet);
 *
 * Misuse of it by the test ends in an abort with a message.
 */
#ifndef TESTS_VMBUS_GUEST_H
#define TESTS_VMBUS_GUEST_H

#include "fake-part.h"
#include "hv/hv.h"
#include "spec/vmbus.h"
#include "vmbus/vmbus-server.h"

#define VMBUS_GUEST_TIMEOUT_MS 2000
#define VMBUS_GUEST_TURNS      100u
#define VMBUS_GUEST_MAX_OFFERS 256
#define VMBUS_GUEST_VECTOR     0xF3

struct vmbus_guest_message {
	uint32_t type;
	uint32_t len;
	uint8_t bytes[HV_MESSAGE_PAYLOAD_MAX];
};

struct vmbus_guest {
	struct loop *loop;
	struct mem *mem;
	struct part part;
	struct hv *hv;
	struct vmbus *bus;
	unsigned vp_count;
	bool loop_elsewhere; /* the test runs the loop on a thread of its own */
	uint32_t version;    /* agreed on; 0: not connected */
	uint64_t next_page;
	uint32_t next_gpadl;
	uint64_t message_page, event_page; /* of VP 0 */
	uint64_t interrupt_page, monitor_pages[2];
	uint64_t post_page;
	struct vmbus_spec_offer offers[VMBUS_GUEST_MAX_OFFERS];
	bool offer_live[VMBUS_GUEST_MAX_OFFERS]; /* false: rescinded */
	unsigned offer_count;
	/* Messages that came while another one was waited for, oldest first. */
	struct vmbus_guest_message stash[64];
	unsigned stash_count;
};

struct vmbus_guest *vmbus_guest_new(unsigned vp_count, uint64_t ram_bytes);
struct vmbus_guest *vmbus_guest_new_growable(unsigned vp_count, uint64_t ram_bytes,
					     uint64_t reach_bytes);
/* The devices must be gone from the bus. */
void vmbus_guest_free(struct vmbus_guest *guest);

/* What a test does with its devices while the host under the guest is replaced. Each may be NULL.
 */
struct vmbus_guest_move {
	void (*save)(void *user, struct state_out *out);      /* quiet first */
	void (*end)(void *user);                              /* frees the devices */
	void (*begin)(void *user, struct vmbus_guest *guest); /* new ones, on guest->bus */
	int (*restore)(void *user, struct state_in *in, struct error *err);
};
/* Saves hypervisor interface, bus and devices, frees them, and restores them as new ones. False:
 * refused, for the reason in err; the new ones are there, as if never used. */
bool vmbus_guest_move(struct vmbus_guest *guest, const struct vmbus_guest_move *ops, void *user,
		      struct error *err);

/* Steps the loop while it has something to do; about a millisecond when it hasn't. */
void vmbus_guest_step(struct vmbus_guest *guest);

/* ---- guest memory ---- */

/* GPA of zeroed pages in a row; never given back. */
uint64_t vmbus_guest_alloc(struct vmbus_guest *guest, unsigned pages);
/* Pages that are not neighbours, in falling order. */
void vmbus_guest_alloc_scattered(struct vmbus_guest *guest, unsigned pages, uint64_t *ret_gpa);

/* ---- messages ---- */

/* Retries while the host has no buffer, as drivers do. */
enum hv_status vmbus_guest_post(struct vmbus_guest *guest, uint32_t connection_id, void *message,
				size_t len, enum vmbus_spec_msg_type type);
/* The next message of that type (offers and rescinds are noted in guest->offers as they pass);
 * false after the time-out. */
bool vmbus_guest_wait(struct vmbus_guest *guest, enum vmbus_spec_msg_type type,
		      struct vmbus_guest_message *ret);
/* Takes what is there now; true if there was a message. */
bool vmbus_guest_poll(struct vmbus_guest *guest, struct vmbus_guest_message *ret);

/* SynIC on, contact, offers. False: the host refused the version. */
bool vmbus_guest_connect(struct vmbus_guest *guest, uint32_t version);
/* INITIATE_CONTACT and its answer only. */
bool vmbus_guest_contact(struct vmbus_guest *guest, uint32_t version);
/* REQUESTOFFERS up to ALLOFFERS_DELIVERED. */
void vmbus_guest_request_offers(struct vmbus_guest *guest);
void vmbus_guest_unload(struct vmbus_guest *guest);
/* NULL if there is no live offer. Waits a moment for one that is on its way (sub-channels). */
const struct vmbus_spec_offer *vmbus_guest_offer(struct vmbus_guest *guest,
						 const struct guid *class_id,
						 uint16_t subchannel_index);

/* ---- GPADLs ---- */

/* 0 if the host refused. */
uint32_t vmbus_guest_gpadl_create(struct vmbus_guest *guest, uint32_t relid, const uint64_t *gpa,
				  unsigned pages);
/* False if no GPADL_TORNDOWN came. */
bool vmbus_guest_gpadl_teardown(struct vmbus_guest *guest, uint32_t relid, uint32_t gpadl);

/* ---- channels ---- */

struct vmbus_guest_ring {
	uint64_t *gpa;  /* the control page, then data */
	uint32_t size;  /* of data */
	uint32_t index; /* ours: write or read */
};

struct vmbus_guest_channel {
	struct vmbus_guest *guest;
	uint32_t relid, connection_id, ring_gpadl;
	struct vmbus_guest_ring out, in;        /* guest to host, host to guest */
	unsigned signals_sent, signals_refused; /* a driver would not look at refusals */
	unsigned page_count;
	uint64_t *pages;
};

/* Pages of each direction with the control page: at least 2. NULL: refused. user_data (120 bytes)
 * may be NULL. */
struct vmbus_guest_channel *vmbus_guest_open(struct vmbus_guest *guest,
					     const struct vmbus_spec_offer *offer,
					     unsigned out_pages, unsigned in_pages);
/* CLOSECHANNEL, and the ring's GPADL torn down. Frees channel. */
void vmbus_guest_close(struct vmbus_guest_channel *channel);
/* After a rescind or UNLOAD: only frees. */
void vmbus_guest_forget(struct vmbus_guest_channel *channel);

/* ---- packets ---- */

struct vmbus_guest_packet {
	uint16_t type, flags;
	uint64_t transaction_id;
	uint32_t len;     /* of bytes: descriptor to padded payload */
	uint8_t *bytes;   /* with the descriptor; valid until the next receive of any channel */
	uint8_t *payload; /* inside bytes */
	uint32_t payload_len;
};

/* Each returns false when the ring is full. Signals the host as Linux does. */
bool vmbus_guest_send(struct vmbus_guest_channel *channel, uint64_t transaction_id,
		      bool wants_completion, const void *payload, uint32_t len);
bool vmbus_guest_send_completion(struct vmbus_guest_channel *channel, uint64_t transaction_id,
				 const void *payload, uint32_t len);

struct vmbus_guest_range {
	uint32_t byte_count, byte_offset; /* offset into the first page */
	const uint64_t *gpa;              /* of each page */
};
bool vmbus_guest_send_gpa_direct(struct vmbus_guest_channel *channel, uint64_t transaction_id,
				 const struct vmbus_guest_range *ranges, unsigned range_count,
				 const void *payload, uint32_t len);
/* Any packet: bytes is everything but the trailer, a multiple of 8 long. */
bool vmbus_guest_send_raw(struct vmbus_guest_channel *channel, const void *bytes, uint32_t len);
void vmbus_guest_signal(struct vmbus_guest_channel *channel);

/* The next packet, waiting for it; false after the time-out. */
bool vmbus_guest_recv(struct vmbus_guest_channel *channel, struct vmbus_guest_packet *ret);
/* The same without waiting or stepping. */
bool vmbus_guest_try_recv(struct vmbus_guest_channel *channel, struct vmbus_guest_packet *ret);
/* True if the host raised the channel's event flag since the last call. */
bool vmbus_guest_take_event(struct vmbus_guest_channel *channel);
/* A field of a ring's control page, as guest memory. */
uint32_t vmbus_guest_ring_field(struct vmbus_guest_channel *channel, bool in, size_t field);
void vmbus_guest_ring_set(struct vmbus_guest_channel *channel, bool in, size_t field,
			  uint32_t value);

#endif
