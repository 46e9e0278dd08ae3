/*
 * A hostile guest's packets to the SCSI controller. The bus is replaced by the functions below:
 * they take packets from the input, and check what comes back: one answer of 64 bytes for each
 * request that wants one, none after a close, every hold dropped. Input: a stream of actions.
 */
#include "base/bytes.h"
#include "base/loop.h"
#include "base/macros.h"
#include "blk/blk-backend.h"
#include "dev/storvsp.h"
#include "spec/storvsp.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_CHANNELS 8
#define RAM_BYTES    (1 * MIB)
#define DISK_BYTES   (256 * KIB)
#define MAX_WAITING  4096

static void die(const char *what)
{
	fprintf(stderr, "fuzz-storvsp: %s\n", what);
	abort();
}

/* ---- input ---- */

struct input {
	const uint8_t *data;
	size_t size;
};

static uint8_t take_byte(struct input *in)
{
	if (in->size == 0)
		return 0;
	in->size--;
	return *in->data++;
}

static void take_bytes(struct input *in, void *to, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((uint8_t *)to)[i] = take_byte(in);
}

/* ---- the bus ---- */

struct vmbus_channel {
	struct vmbus *bus;
	struct vmbus_offer offer;
	bool open, rescinded, plugged;
	unsigned holds;
	uint64_t waiting[MAX_WAITING]; /* ids of requests that want an answer */
	unsigned waiting_count;
};

struct vmbus {
	struct input *in;
	struct vmbus_channel *channels[MAX_CHANNELS];
	unsigned packets_now; /* how many vmbus_recv hands out before "empty" */
	bool ring_full;
	struct mem *mem;
	uint8_t payload[128];
	struct iovec iov[300];
	uint64_t gpa[300];
	uint64_t next_id;
};

int vmbus_offer(struct vmbus *bus, const struct vmbus_offer *offer, struct vmbus_channel **ret,
		struct error *err)
{
	unsigned index = offer->subchannel_index;
	struct vmbus_channel *channel = calloc(1, sizeof(*channel));

	if (index >= MAX_CHANNELS || bus->channels[index])
		die("offered twice");
	channel->bus = bus;
	channel->offer = *offer;
	bus->channels[index] = channel;
	*ret = channel;
	return 0;
}

static void free_if_done(struct vmbus_channel *channel)
{
	if (channel->rescinded && !channel->holds)
		free(channel);
}

static void close_one(struct vmbus_channel *channel)
{
	if (!channel->open)
		return;
	channel->open = false;
	channel->waiting_count = 0;
	channel->offer.ops->closed(channel->offer.dev, channel);
}

static void rescind_one(struct vmbus_channel *channel)
{
	close_one(channel);
	channel->bus->channels[channel->offer.subchannel_index] = NULL;
	channel->rescinded = true;
	free_if_done(channel);
}

static void close_channel(struct vmbus_channel *channel)
{
	struct vmbus *bus = channel->bus;

	if (channel->offer.subchannel_index == 0 && channel->open)
		for (unsigned i = 1; i < MAX_CHANNELS; i++)
			if (bus->channels[i])
				rescind_one(bus->channels[i]);
	close_one(channel);
}

void vmbus_rescind(struct vmbus_channel *channel)
{
	close_channel(channel);
	rescind_one(channel);
}

bool vmbus_saved_channel(const struct vmbus *bus, const struct guid *class_id,
			 const struct guid *instance_id, uint16_t subchannel_index)
{
	return false;
}

bool vmbus_channel_is_open(const struct vmbus_channel *channel)
{
	return channel->open;
}

uint16_t vmbus_channel_subindex(const struct vmbus_channel *channel)
{
	return channel->offer.subchannel_index;
}

void vmbus_channel_hold(struct vmbus_channel *channel)
{
	channel->holds++;
}

void vmbus_channel_drop(struct vmbus_channel *channel)
{
	if (!channel->holds)
		die("dropped too often");
	channel->holds--;
	free_if_done(channel);
}

static void take_pages(struct vmbus *bus, struct vmbus_packet *packet)
{
	unsigned count = take_byte(bus->in) % 4;
	uint64_t ram = mem_size_bytes(bus->mem);

	if (count == 3)
		count = take_byte(bus->in) + 40u;
	for (unsigned i = 0; i < count; i++) {
		uint64_t gpa = (uint64_t)take_byte(bus->in) * 4096 + (i ? 0 : 24);
		uint64_t len = MIN(4096u - gpa % 4096, ram - gpa);

		bus->gpa[i] = gpa;
		bus->iov[i] = (struct iovec){ mem_ptr(bus->mem, gpa, len), len };
		packet->iov_bytes += len;
	}
	packet->iov = bus->iov;
	packet->iov_gpa = bus->gpa;
	packet->iov_count = count;
	packet->type = VMBUS_GPA_DIRECT;
}

/* Mostly well-formed EXECUTE_SRB packets; the rest as the input has it. */
static void take_payload(struct vmbus *bus, struct vmbus_packet *packet, uint8_t how)
{
	struct storvsp_packet *p = (void *)bus->payload;

	packet->payload = bus->payload;
	packet->payload_len = how & 8 ? take_byte(bus->in) % sizeof(bus->payload) : 64;
	if (how & 16) {
		take_bytes(bus->in, bus->payload, sizeof(bus->payload));
		return;
	}
	memset(p, 0, sizeof(*p));
	p->operation = how & 32 ? take_byte(bus->in) : STORVSP_EXECUTE_SRB;
	if (p->operation == STORVSP_CREATE_SUB_CHANNELS) {
		p->sub_channel_count = take_byte(bus->in) % 16;
		return;
	}
	p->srb.length = 52;
	p->srb.lun = take_byte(bus->in) % 5;
	p->srb.cdb_length = 16;
	p->srb.data_in = how >> 6;
	p->srb.data_transfer_length = (uint32_t)MIN(packet->iov_bytes, UINT64_C(0xffffff));
	take_bytes(bus->in, p->srb.cdb, 12);
}

int vmbus_recv(struct vmbus_channel *channel, struct vmbus_packet *ret)
{
	struct vmbus *bus = channel->bus;
	uint8_t how;

	if (!channel->open)
		die("received from a closed channel");
	if (!bus->packets_now || !bus->in->size || channel->waiting_count == MAX_WAITING)
		return 0;
	bus->packets_now--;
	how = take_byte(bus->in);
	*ret = (struct vmbus_packet){ .type = how & 1 ? VMBUS_INBAND : VMBUS_GPA_DIRECT,
				      .wants_completion = (how & 6) != 6,
				      .transaction_id = ++bus->next_id };
	if (how == 0xff)
		ret->type = take_byte(bus->in);
	if (ret->type == VMBUS_GPA_DIRECT)
		take_pages(bus, ret);
	take_payload(bus, ret, how);
	if (ret->wants_completion && (ret->type == VMBUS_INBAND || ret->type == VMBUS_GPA_DIRECT))
		channel->waiting[channel->waiting_count++] = ret->transaction_id;
	return 1;
}

int vmbus_send(struct vmbus_channel *channel, uint64_t transaction_id, bool wants_completion,
	       const struct iovec *iov, unsigned iov_count)
{
	if (!channel->open || transaction_id || wants_completion || iov->iov_len != 64)
		die("a packet that should not be");
	return channel->bus->ring_full ? -ERR_BUSY : 0;
}

void vmbus_channel_plug(struct vmbus_channel *channel)
{
	channel->plugged = true;
}

void vmbus_channel_unplug(struct vmbus_channel *channel)
{
	channel->plugged = false;
}

int vmbus_send_completion(struct vmbus_channel *channel, uint64_t transaction_id,
			  const struct iovec *iov, unsigned iov_count)
{
	if (!channel->open || iov_count != 1 || iov->iov_len != 64 ||
	    load_le32(iov->iov_base) != STORVSP_COMPLETE_IO)
		die("an answer that should not be");
	if (channel->bus->ring_full)
		return -ERR_BUSY;
	for (unsigned i = 0; i < channel->waiting_count; i++) {
		if (channel->waiting[i] == transaction_id) {
			channel->waiting[i] = channel->waiting[--channel->waiting_count];
			return 0;
		}
	}
	die("an answer that nobody waits for");
	return 0;
}

/* ---- disks that answer when the input says ---- */

struct test_disk {
	struct blk blk;
	uint8_t *bytes;
	struct blk_request *queue;
};

static void disk_move(struct test_disk *disk, const struct blk_request *req)
{
	uint8_t *at = disk->bytes + req->offset;

	for (unsigned i = 0; i < req->iov_count; at += req->iov[i].iov_len, i++) {
		if (req->op == BLK_READ)
			memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
		else
			memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
	}
}

static void disk_run_one(struct test_disk *disk)
{
	struct blk_request *req = disk->queue;
	enum blk_result result = req->result;

	disk->queue = req->next;
	if (result == BLK_OK && (req->op == BLK_READ || req->op == BLK_WRITE))
		disk_move(disk, req);
	blk_complete(req, result);
}

/* Last in, first out. */
static void disk_submit(struct blk *blk, struct blk_request *req)
{
	struct test_disk *disk = container_of(blk, struct test_disk, blk);

	req->next = disk->queue;
	disk->queue = req;
}

static void disk_wait(struct blk *blk)
{
	disk_run_one(container_of(blk, struct test_disk, blk));
}

static const struct blk_ops disk_ops = {
	.name = "fuzz",
	.submit = disk_submit,
	.defer = disk_submit,
	.wait = disk_wait,
};

static void disk_init(struct test_disk *disk, bool read_only)
{
	const struct blk_info info = { .size_bytes = DISK_BYTES,
				       .logical_sector_bytes = 512,
				       .physical_sector_bytes = 512,
				       .can_unmap = !read_only,
				       .unmap_granularity_bytes = 4096,
				       .read_only = read_only };

	blk_init(&disk->blk, &disk_ops, &info);
	disk->bytes = calloc(1, DISK_BYTES);
	disk->queue = NULL;
}

/* ---- the run ---- */

static void open_channel(struct vmbus_channel *channel)
{
	static const uint8_t user_data[120];

	if (channel->open || channel->holds)
		return;
	channel->open = true;
	channel->plugged = false;
	channel->offer.ops->opened(channel->offer.dev, channel, user_data);
}

static void ready(struct vmbus_channel *channel)
{
	if (channel->open)
		channel->offer.ops->ready(channel->offer.dev, channel);
}

/* Initialization as a good driver does it, so that the rest is reached. */
static void initialize(struct vmbus *bus)
{
	static const uint8_t begin[] = { 33, STORVSP_BEGIN_INITIALIZATION };
	static const uint8_t end[] = { 33, STORVSP_END_INITIALIZATION };
	struct input *in = bus->in, steps;

	for (unsigned i = 0; i < 2; i++) {
		uint8_t step[32] = { 0 };

		memcpy(step, i ? end : begin, 2);
		steps = (struct input){ step, sizeof(step) };
		bus->in = &steps;
		bus->packets_now = 1;
		ready(bus->channels[0]);
	}
	bus->in = in;
}

static void act(struct vmbus *bus, struct storvsp *sp, struct test_disk *disks)
{
	uint8_t action = take_byte(bus->in), which = take_byte(bus->in);
	struct vmbus_channel *channel = bus->channels[which % MAX_CHANNELS];
	struct test_disk *disk = &disks[which % 3];

	switch (action % 12) {
	case 0:
		if (channel)
			close_channel(channel);
		return;
	case 1:
		if (channel)
			open_channel(channel);
		if (channel == bus->channels[0] && channel->open)
			initialize(bus);
		return;
	case 2:
		bus->ring_full = which & 1;
		return;
	case 3:
		storvsp_detach(sp, which % 4, NULL);
		return;
	case 4:
		if (disk->blk.in_flight == 0)
			storvsp_attach(sp, which % 3, &disk->blk,
				       which % 3 == 2 ? SCSI_KIND_DVD : SCSI_KIND_DISK, NULL);
		return;
	case 5:
		storvsp_set_medium(sp, 2, which & 1 ? &disks[2].blk : NULL, NULL);
		return;
	case 6:
		storvsp_resized(sp, which % 3, NULL);
		return;
	case 7:
	case 8:
		for (unsigned i = which / 8 + 1u; i > 0 && disk->queue; i--)
			disk_run_one(disk);
		return;
	default:
		bus->packets_now = which / 8 + 1u;
		if (channel)
			ready(channel);
		return;
	}
}

/* Everything that is under way must come to its end. */
static void settle(struct vmbus *bus, struct test_disk *disks)
{
	bus->ring_full = false;
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 3; i++)
			while (disks[i].queue)
				disk_run_one(&disks[i]);
		for (unsigned i = 0; i < MAX_CHANNELS; i++)
			if (bus->channels[i])
				ready(bus->channels[i]);
	}
	for (unsigned i = 0; i < MAX_CHANNELS; i++)
		if (bus->channels[i] &&
		    (bus->channels[i]->holds || bus->channels[i]->waiting_count))
			die("a request was forgotten");
}

/* The guest is told of completions within some milliseconds, whatever it does. */
static void wait_for_signals(struct vmbus *bus, struct loop *loop)
{
	for (unsigned i = 0; i < MAX_CHANNELS; i++) {
		struct vmbus_channel *channel = bus->channels[i];

		for (unsigned steps = 0; channel && channel->open && channel->plugged; steps++) {
			if (steps == 100)
				die("a completion without a signal");
			loop_step(loop, 10);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct guid instance = { { 1 } };
	static struct mem *mem;
	static struct loop *loop;
	struct input in = { data, size };
	struct vmbus bus = { .in = &in };
	struct test_disk disks[3];
	struct storvsp *sp;

	if (!mem && (mem_new(RAM_BYTES, &mem, NULL) < 0 || loop_new(&loop, NULL) < 0))
		die("no memory");
	bus.mem = mem;
	for (unsigned i = 0; i < 3; i++)
		disk_init(&disks[i], i == 2);
	if (storvsp_new(&bus, loop, mem, &instance, 8, &sp, NULL) < 0)
		die("no controller");
	storvsp_attach(sp, 0, &disks[0].blk, SCSI_KIND_DISK, NULL);
	storvsp_attach(sp, 2, &disks[2].blk, SCSI_KIND_DVD, NULL);
	open_channel(bus.channels[0]);
	initialize(&bus);
	while (in.size > 0)
		act(&bus, sp, disks);
	bus.packets_now = 0;
	settle(&bus, disks);
	wait_for_signals(&bus, loop);
	storvsp_free(sp);
	for (unsigned i = 0; i < 3; i++) {
		if (disks[i].blk.in_flight || disks[i].blk.plug_depth)
			die("a disk is still in use");
		free(disks[i].bytes);
	}
	return 0;
}
