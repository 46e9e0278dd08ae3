/*
 * VMBus, the host's side: what a synthetic device uses. (Towards the machine: vmbus-server.h.)
 *
 * A device is offered as a channel with a class and an instance GUID. The guest opens it with a
 * ring pair; packets then flow both ways. All functions and all callbacks belong to the worker's
 * loop (base/loop.h); the guest's signals arrive there as kicks. Guest-written bytes are read once
 * into a private buffer and checked there, before a device sees them.
 *
 * Life of a channel: vmbus_offer -> [opened -> packets ... -> closed] any number of times ->
 * vmbus_rescind. A VM reset, UNLOAD or a new INITIATE_CONTACT closes all channels (closed is
 * called) and revokes the offers, which are made again by themselves when the guest asks.
 * Sub-channels are gone with their primary's close: before the primary's `closed` is called, the
 * bus rescinds them
 * (`closed` of each open one first), and their pointers are dead. The device offers them anew.
 *
 * A device may send, offer, close over vmbus_rescind, hold and drop inside any callback.
 */
#ifndef VMBUS_VMBUS_H
#define VMBUS_VMBUS_H

#include "base/error.h"
#include "base/guid.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct vmbus;
struct vmbus_channel;

struct vmbus_channel_ops {
	/* The guest opened it; user_data is the 120 bytes of OPENCHANNEL. A negative result refuses
	 * the open. Rings are usable from here on. May be NULL. */
	int (*opened)(void *dev, struct vmbus_channel *channel, const uint8_t *user_data);
	/* The guest closed it, or it is being taken away: send nothing more. Host I/O that is still
	 * under way keeps the channel busy by vmbus_channel_hold. May be NULL. */
	void (*closed)(void *dev, struct vmbus_channel *channel);
	/* Packets may be there (or ring space came free): read until vmbus_recv returns 0. */
	void (*ready)(void *dev, struct vmbus_channel *channel);
};

#define VMBUS_OFFER_ENUMERATE_DEVICE_INTERFACE 0x1
#define VMBUS_OFFER_NAMED_PIPE_MODE            0x10
#define VMBUS_OFFER_TLNPI                      0x2000 /* hvsocket */

struct vmbus_offer {
	struct guid class_id, instance_id;
	uint16_t flags;            /* VMBUS_OFFER_* */
	uint16_t mmio_megabytes;   /* video: size of VRAM */
	uint16_t subchannel_index; /* 0: primary */
	uint32_t min_version;      /* guests that speak an older one are not told; 0: all are */
	uint8_t user_defined[120];
	const struct vmbus_channel_ops *ops; /* borrowed */
	void *dev;
};

/* The channel is the bus's until vmbus_rescind. ERR_LIMIT when no relid is free, ERR_STATE for a
 * sub-channel whose primary is not open. */
int vmbus_offer(struct vmbus *bus, const struct vmbus_offer *offer, struct vmbus_channel **ret,
		struct error *err);
/* Closes (closed is called first) and withdraws it; the pointer is dead afterwards. */
void vmbus_rescind(struct vmbus_channel *channel);

bool vmbus_channel_is_open(const struct vmbus_channel *channel);
/* In a restore: the sub-channel had been offered when the state was saved. */
bool vmbus_saved_channel(const struct vmbus *bus, const struct guid *class_id,
			 const struct guid *instance_id, uint16_t subchannel_index);
uint16_t vmbus_channel_subindex(const struct vmbus_channel *channel);
/* The negotiated version, (major << 16) + minor; 0 when not connected. */
uint32_t vmbus_version(const struct vmbus *bus);
/* The partition's reference counter (100 ns), as the guest reads it: for time synchronization. */
uint64_t vmbus_reference_time(const struct vmbus *bus);

/* ---- packets ---- */

enum vmbus_packet_type {
	VMBUS_INBAND = 6,
	VMBUS_XFER_PAGES = 7,
	VMBUS_GPA_DIRECT = 9,
	VMBUS_CANCEL = 10,
	VMBUS_COMPLETION = 11,
};

struct vmbus_packet {
	uint16_t type;
	bool wants_completion;
	uint64_t transaction_id;
	const uint8_t *payload; /* a private copy, valid until the next vmbus_recv on the channel */
	uint32_t payload_len;
	/* GPA direct: the guest's pages as host memory, checked to be RAM; valid while the channel
	 * is open, as is what they point to. */
	const struct iovec *iov;
	unsigned iov_count;
	uint64_t iov_bytes;
	/* Same ranges as GPAs, one entry per iov entry: for mem_written() after DMA. */
	const uint64_t *iov_gpa;
};

/* 1: *ret filled; 0: ring empty (signalling is armed again); negative: the ring is damaged, the
 * channel is dead until it is re-opened (already logged). Consumes the packet. */
int vmbus_recv(struct vmbus_channel *channel, struct vmbus_packet *ret);
/* Something is there for vmbus_recv. Arms no signalling: after vmbus_recv gave a packet the guest
 * goes on without signals until vmbus_recv has found the ring empty. */
bool vmbus_has_packet(const struct vmbus_channel *channel);
/* What the guest has written and we have not read: packets with their headers. */
uint32_t vmbus_waiting_bytes(const struct vmbus_channel *channel);
/* What the ring that the guest writes holds at most. */
uint32_t vmbus_guest_ring_bytes(const struct vmbus_channel *channel);

/* Each sends one packet whose payload is the concatenation of iov, and signals the guest when it
 * needs that. 0, or -ERR_BUSY when the ring is full: keep the packet; `ready` is called when there
 * is room. Otherwise the packet is lost: -ERR_STATE when closed, -ERR_CORRUPT when the ring is
 * damaged, -ERR_INVALID when it could never fit. Transfer pages always ask for a completion. */
int vmbus_send(struct vmbus_channel *channel, uint64_t transaction_id, bool wants_completion,
	       const struct iovec *iov, unsigned iov_count);
int vmbus_send_completion(struct vmbus_channel *channel, uint64_t transaction_id,
			  const struct iovec *iov, unsigned iov_count);

/* Between the two, signals to the guest are only noted; unplug sends one if there was any. For a
 * device that has several packets to send, or soon will. It does not nest; an open channel begins
 * unplugged. */
void vmbus_channel_plug(struct vmbus_channel *channel);
void vmbus_channel_unplug(struct vmbus_channel *channel);

struct vmbus_xfer_range {
	uint32_t byte_count, byte_offset;
};
int vmbus_send_xfer_pages(struct vmbus_channel *channel, uint64_t transaction_id,
			  uint16_t page_set_id, const struct vmbus_xfer_range *ranges,
			  unsigned range_count, const struct iovec *iov, unsigned iov_count);

/* ---- GPADLs: guest buffers that outlive a packet (netvsp) ---- */

/* Size of a GPADL created on this channel (or its device's primary), or 0 if there is none. */
uint64_t vmbus_gpadl_bytes(struct vmbus_channel *channel, uint32_t gpadl_id);
/* Copies; false if out of bounds or the GPADL is gone. write includes mem_written(). */
bool vmbus_gpadl_read(struct vmbus_channel *channel, uint32_t gpadl_id, uint64_t offset, void *buf,
		      size_t len);
bool vmbus_gpadl_write(struct vmbus_channel *channel, uint32_t gpadl_id, uint64_t offset,
		       const void *buf, size_t len);
/* Direct view: fills iov (and gpa, may be NULL) with host memory; returns the count, or 0 if out of
 * bounds or if more than max entries are needed. Valid until the channel closes; mem_written()
 * after writing. */
unsigned vmbus_gpadl_map(struct vmbus_channel *channel, uint32_t gpadl_id, uint64_t offset,
			 size_t len, struct iovec *iov, uint64_t *gpa, unsigned max);

/* `ready` is called soon again, as if the guest had signalled: for who stops before vmbus_recv
 * returned 0, so that others have their turn. */
void vmbus_look_again(struct vmbus_channel *channel);

/* ---- sockets: the guest asks for a service of the host (dev/hvsock.h) ---- */

/* The handler offers a channel of class service_id and instance endpoint_id, now or later, or
 * refuses by vmbus_refuse_socket. NULL: everything is refused. */
void vmbus_set_socket_handler(struct vmbus *bus,
			      void (*asked)(void *user, const struct guid *endpoint_id,
					    const struct guid *service_id),
			      void *user);
void vmbus_refuse_socket(struct vmbus *bus, const struct guid *endpoint_id,
			 const struct guid *service_id);

/*
 * Requests that are still in flight in the host (disk I/O into guest pages) hold the channel: a
 * CLOSECHANNEL or GPADL_TEARDOWN that follows is answered, and reset continues, only when the last
 * hold is dropped. Guest RAM itself stays mapped as long as the worker lives.
 */
void vmbus_channel_hold(struct vmbus_channel *channel);
void vmbus_channel_drop(struct vmbus_channel *channel);

#endif
