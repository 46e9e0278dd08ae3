/* Private to lib/vmbus. Everything belongs to the loop but what is marked otherwise. */
#ifndef VMBUS_VMBUS_IMPL_H
#define VMBUS_VMBUS_IMPL_H

#include "spec/vmbus.h"
#include "vmbus/vmbus-server.h"

#include <pthread.h>

/* Limits on what a guest can make us keep. */
#define VMBUS_MESSAGES_MAX    128  /* unread from the guest; more: "insufficient buffers" */
#define VMBUS_BACKLOG_MAX     1024 /* to the guest; more: nothing further is taken from it */
#define VMBUS_GPADLS_MAX      4096
#define VMBUS_GPADL_PAGES_MAX (1u << 20) /* of all GPADLs together: 4 GiB of guest memory */
#define VMBUS_GPADL_BUCKETS   256

/* How often a guest that won't tell of free room in its ring is looked at. */
#define VMBUS_ROOM_POLL_NS (5 * NS_PER_MSEC)

struct vmbus_state;
struct vmbus_channel_saved;
struct vmbus_gpadl_state;

/* ---- rings ---- */

/* One direction. The pages were checked to be RAM; they stay mapped as long as the VM lives. */
struct vmbus_ring {
	uint8_t *control;
	uint64_t control_gpa;
	uint8_t **page; /* data pages as host memory; owned */
	uint64_t *gpa;  /* the same, owned together with page */
	uint32_t size;  /* bytes of data */
	uint32_t index; /* the one that we write: never read back from the guest */
};

/* gpa: the control page, then the data pages; at least two in all. our_index: offset of the index
 * that we write in the control page. False: not usable. */
bool vmbus_ring_init(struct vmbus_ring *ring, struct mem *mem, const uint64_t *gpa,
		     uint32_t page_count, size_t our_index);
void vmbus_ring_done(struct vmbus_ring *ring);
uint32_t vmbus_ring_load(const struct vmbus_ring *ring, size_t field);
void vmbus_ring_store(struct vmbus_ring *ring, struct mem *mem, size_t field, uint32_t value);
/* The other side's index; false if it is impossible. */
bool vmbus_ring_other_index(const struct vmbus_ring *ring, size_t field, uint32_t *ret);
/* Both take a position below size, wrap, and return the position after len bytes. */
uint32_t vmbus_ring_read(const struct vmbus_ring *ring, uint32_t at, void *buf, uint32_t len);
uint32_t vmbus_ring_write(struct vmbus_ring *ring, struct mem *mem, uint32_t at, const void *buf,
			  uint32_t len);
/* Bytes from `from` forward to `to`. */
uint32_t vmbus_ring_distance(const struct vmbus_ring *ring, uint32_t from, uint32_t to);
uint32_t vmbus_ring_advance(const struct vmbus_ring *ring, uint32_t at, uint32_t len);

/* ---- GPADLs ---- */

struct vmbus_gpadl {
	struct vmbus_gpadl *next; /* in its bucket */
	uint32_t id, relid;
	uint32_t byte_count, byte_offset;
	uint32_t page_count, pages_seen;
	bool torn_down; /* GPADL_TORNDOWN is owed once the channel has no holds */
	uint64_t gpa[];
};

static inline bool vmbus_gpadl_complete(const struct vmbus_gpadl *gpadl)
{
	return gpadl->pages_seen == gpadl->page_count && !gpadl->torn_down;
}

/* ---- channels ---- */

enum vmbus_channel_state {
	VMBUS_CHANNEL_CLOSED,
	VMBUS_CHANNEL_OPENING, /* inside ops->opened */
	VMBUS_CHANNEL_OPEN,
};

struct vmbus_channel {
	struct vmbus *bus;
	struct vmbus_channel *next; /* in bus->channels, in the order of the offers */
	struct vmbus_offer offer;
	uint32_t relid;
	bool offered;   /* the guest knows of it */
	bool rescinded; /* gone for device and guest; lives on while it is held */
	bool released;  /* rescinded, and the guest gave the relid back */
	unsigned holds;
	unsigned entered; /* callbacks under way */

	enum vmbus_channel_state state;
	uint32_t target_vp;
	uint32_t ring_gpadl;
	struct vmbus_ring in, out; /* guest to host, host to guest */
	bool in_masked;            /* we told the guest not to signal */
	bool damaged;
	bool waits_for_room;
	bool plugged;     /* the device has more to send */
	bool signal_owed; /* while opening, since the result comes first, or while plugged */

	uint8_t *packet; /* private copy of the last packet */
	uint32_t packet_capacity;
	struct iovec *iov;
	uint64_t *iov_gpa;
	unsigned iov_capacity;
};

/* ---- the bus ---- */

struct vmbus_message {
	uint32_t len;
	uint8_t bytes[VMBUS_MSG_MAX];
};

enum vmbus_relid_state { VMBUS_RELID_FREE, VMBUS_RELID_USED, VMBUS_RELID_RESCINDED };

/* Why the bus waits for the last hold to be dropped; guest messages wait meanwhile. */
enum vmbus_drain { VMBUS_DRAIN_NONE, VMBUS_DRAIN_CONTACT, VMBUS_DRAIN_UNLOAD, VMBUS_DRAIN_RESET };

#define VMBUS_RELID_WORDS ((VMBUS_MAX_RELID + 1) / 64)

struct vmbus {
	struct loop *loop;
	struct mem *mem;
	struct hv *hv;
	struct loop_kick *message_kick, *signal_kick;
	struct loop_timer *room_timer;

	/* Shared with VP threads. */
	pthread_mutex_t lock; /* messages, first, count */
	struct vmbus_message messages[VMBUS_MESSAGES_MAX];
	unsigned first, count;
	uint64_t signalled[VMBUS_RELID_WORDS]; /* atomic: by relid */
	uint64_t connected[VMBUS_RELID_WORDS]; /* atomic: connection ids that exist */
	uint32_t page_signalled;               /* atomic: look at the interrupt page */
	uint32_t connect_vp, sint;             /* atomic: where messages go */

	uint32_t version; /* 0: not connected */
	uint8_t *interrupt_page;
	uint64_t interrupt_page_gpa;
	bool offers_requested;
	unsigned holds; /* of all channels */

	enum vmbus_drain drain;
	struct vmbus_spec_initiate_contact contact; /* VMBUS_DRAIN_CONTACT */
	void (*reset_done)(void *user);             /* VMBUS_DRAIN_RESET */
	void *reset_user;

	void (*socket_asked)(void *user, const struct guid *endpoint_id,
			     const struct guid *service_id);
	void *socket_user;

	struct vmbus_channel *channels;
	struct vmbus_channel *by_relid[VMBUS_MAX_RELID + 1];
	uint8_t relid_state[VMBUS_MAX_RELID + 1];
	/* The instance behind a rescinded relid, while the guest has it; otherwise 0. */
	struct guid leaving[VMBUS_MAX_RELID + 1];

	struct vmbus_gpadl *gpadls[VMBUS_GPADL_BUCKETS];
	unsigned gpadl_count, gpadl_pages;

	struct vmbus_state *restoring; /* from vmbus_restore to vmbus_restore_finish */
};

/* server.c */
void vmbus_post(struct vmbus *bus, void *message, size_t len, enum vmbus_spec_msg_type type);
void vmbus_kick_channel(struct vmbus *bus, uint32_t relid); /* as if the guest had signalled */
void vmbus_drain_continue(struct vmbus *bus);

/* channel.c */
struct vmbus_channel *vmbus_channel_find(struct vmbus *bus, uint32_t relid);
void vmbus_channel_send_offer(struct vmbus_channel *channel);
void vmbus_channel_open(struct vmbus *bus, const struct vmbus_spec_open *msg);
void vmbus_channel_close(struct vmbus_channel *channel);
void vmbus_channel_modify(struct vmbus *bus, const struct vmbus_spec_modify_channel *msg);
void vmbus_channel_relid_released(struct vmbus *bus, uint32_t relid);
void vmbus_channel_run(struct vmbus_channel *channel); /* calls ops->ready */
void vmbus_channel_signal(struct vmbus_channel *channel);
/* The guest forgot everything: closes, and takes back all offers without a word. */
void vmbus_channels_disconnect(struct vmbus *bus);
void vmbus_channels_free(struct vmbus *bus);
/* As it was saved. False: it can't have been so. */
bool vmbus_channel_restore(struct vmbus_channel *channel, const struct vmbus_channel_saved *from);
/* Another number, for a channel whose own is somebody else's. False: none is free. */
bool vmbus_channel_renumber(struct vmbus_channel *channel);

/* state.c */
/* The saved state of a channel that was just offered becomes its own. */
int vmbus_channel_take_saved(struct vmbus_channel *channel, struct error *err);
void vmbus_restore_forget(struct vmbus *bus);

/* gpadl.c */
struct vmbus_gpadl *vmbus_gpadl_find(struct vmbus *bus, uint32_t id);
void vmbus_gpadl_header(struct vmbus *bus, const uint8_t *bytes, uint32_t len);
void vmbus_gpadl_body(struct vmbus *bus, const uint8_t *bytes, uint32_t len);
void vmbus_gpadl_teardown(struct vmbus *bus, const struct vmbus_spec_gpadl_teardown *msg);
/* The last hold of relid's channel is gone: answers what is owed; all: drops the others, too. */
void vmbus_gpadls_settle(struct vmbus *bus, uint32_t relid, bool all);
void vmbus_gpadls_forget(struct vmbus *bus);
/* False: its pages are not RAM, or it is there already. */
bool vmbus_gpadl_restore(struct vmbus *bus, const struct vmbus_gpadl_state *from,
			 const uint64_t *pages);

#endif
