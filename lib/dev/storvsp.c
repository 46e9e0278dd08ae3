/*
 * A request's way: vmbus_recv -> handle_packet -> (EXECUTE_SRB) the command engine -> block
 * requests into the guest's own pages -> finish -> completion on the channel that it came on.
 *
 * A request holds its channel, so that the bus answers a close or goes on with a reset only when
 * the disk no longer writes into guest memory. A session number tells whether the channel that a
 * finished request belongs to is still the one that it was: if not, the completion is dropped.
 *
 * Completions that find the ring full wait in the channel's list and no further request is taken
 * from the guest until they are gone. So what a guest can make us hold is bounded: MAX_IN_FLIGHT
 * requests per channel.
 *
 * A LUN that lost its unit stays empty to the guest until it has noticed: until a command was
 * refused and none came for SETTLE_NS. A unit attached there meanwhile is shown then. Otherwise a
 * guest could take the new disk for the old one, and write on it what belongs on the other.
 */
#include "dev/storvsp.h"
#include "dev/storvsp-state.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "blk/blk-backend.h"
#include "blk/pool.h"
#include "dev/coalesce.h"
#include "spec/storvsp.h"

#include <string.h>

#define MAX_IN_FLIGHT      256u
#define MAX_SUB_CHANNELS   7u
#define MAX_TRANSFER_BYTES (512u * 1024)
#define MAX_REQUEST_IOV    257u /* 1 MiB that begins inside a page */
#define SETTLE_NS          NS_PER_SEC
#define SETTLE_POLL_NS     (SETTLE_NS / 4)
#define SETTLE_MAX_NS      (60 * NS_PER_SEC) /* of a guest that never asks */
#define RETIRE_NS          (10 * NS_PER_SEC) /* of a controller's units that need no flush */

enum init_state { INIT_NONE, INIT_BEGUN, INIT_DONE };

struct lun {
	bool attached;
	bool leaving;        /* the guest may still know the unit that was here before */
	bool left;           /* a unit was here once: a slow guest may flush it long after */
	bool missed;         /* the guest has found it gone */
	bool flushed;        /* and flushes it, with which it lets a disk go */
	uint64_t quiet_from; /* the detaching, or the last command that found nothing */
	struct blk *blk;     /* NULL: an empty drive */
	struct scsi_unit unit;
};

struct request {
	struct storvsp *sp;
	struct channel *channel;
	struct vmbus_channel *held;
	uint64_t session; /* of the channel, when it came */
	uint64_t number;  /* of the controller: older is smaller */
	uint64_t transaction_id;
	bool wants_completion;
	uint64_t waits_for; /* resets: how many older requests are in flight */
	struct request *next;
	struct storvsp_packet packet; /* becomes the answer */

	/* The guest's buffer. */
	struct iovec iov[MAX_REQUEST_IOV];
	uint64_t iov_gpa[MAX_REQUEST_IOV];
	unsigned iov_count;
	uint64_t iov_bytes;

	struct blk_request io;
	struct blk *blk;
	unsigned next_range;
	struct scsi_reply reply;
};

struct request_list {
	struct request *first, **tail;
};

struct channel {
	struct vmbus_channel *vmbus; /* NULL: not offered */
	bool open;
	bool receiving, stalled;
	uint64_t session;
	unsigned in_flight;
	struct request_list unsent; /* finished, waiting for ring space */
	struct coalesce coalesce;   /* the channel is plugged while completions are held */
};

struct storvsp {
	struct vmbus *bus;
	struct mem *mem;
	struct guid instance_id;
	unsigned max_sub_channels;
	void (*ejected)(void *user, unsigned lun, struct blk *medium);
	void *eject_user;

	enum init_state init_state;
	bool enumerate_wanted; /* an ENUMERATE_BUS that found no ring space */
	bool quiet;            /* between quiesce and unquiesce */
	uint64_t sessions, requests;
	unsigned in_flight;
	struct loop_timer *hold_timer; /* until held completions are told */
	bool hold_armed;
	struct channel channels[1 + MAX_SUB_CHANNELS];
	struct lun luns[STORVSP_MAX_LUNS];
	uint64_t plugged;    /* LUNs whose disks collect requests just now */
	uint64_t quiet_from; /* as of a LUN, of all of them */
	struct loop_timer *settle_timer;
	void (*settled)(void *user); /* storvsp_retire */
	void *settled_user;
	struct request *resets;
	struct pool pool;
};

static void receive(struct storvsp *sp, struct channel *channel);

/* ---- lists ---- */

static void list_init(struct request_list *list)
{
	list->first = NULL;
	list->tail = &list->first;
}

static void list_add(struct request_list *list, struct request *r)
{
	r->next = NULL;
	*list->tail = r;
	list->tail = &r->next;
}

static struct request *list_take(struct request_list *list)
{
	struct request *r = list->first;

	list->first = r->next;
	if (!list->first)
		list->tail = &list->first;
	return r;
}

/* ---- answers ---- */

static void free_request(struct request *r)
{
	struct vmbus_channel *held = r->held;

	pool_put(&r->sp->pool, r);
	vmbus_channel_drop(held);
}

static bool session_lives(const struct request *r)
{
	return r->channel->open && r->channel->session == r->session;
}

/* False when the ring is full. */
static bool try_send(struct request *r)
{
	struct iovec iov = { &r->packet, sizeof(r->packet) };

	return !r->wants_completion ||
	       vmbus_send_completion(r->channel->vmbus, r->transaction_id, &iov, 1) != -ERR_BUSY;
}

/* A completion was put into the ring. */
static void tell_guest(struct storvsp *sp, struct channel *channel)
{
	if (coalesce_finished(&channel->coalesce, channel->in_flight)) {
		vmbus_channel_unplug(channel->vmbus);
	} else if (!sp->hold_armed) {
		sp->hold_armed = true;
		loop_timer_arm(sp->hold_timer, coalesce_deadline_ns(&channel->coalesce));
	}
}

static void hold_is_over(void *user)
{
	struct storvsp *sp = user;
	uint64_t now = clock_now_ns(), next = UINT64_MAX;

	for (unsigned i = 0; i <= MAX_SUB_CHANNELS; i++) {
		struct channel *channel = &sp->channels[i];
		uint64_t deadline = coalesce_deadline_ns(&channel->coalesce);

		if (!channel->open || !channel->coalesce.held)
			continue;
		if (deadline > now) {
			next = MIN(next, deadline);
			continue;
		}
		coalesce_timed_out(&channel->coalesce, channel->in_flight);
		vmbus_channel_unplug(channel->vmbus);
	}
	sp->hold_armed = next != UINT64_MAX;
	if (sp->hold_armed)
		loop_timer_arm(sp->hold_timer, next);
}

static void answer(struct request *r)
{
	struct channel *channel = r->channel;

	r->packet.operation = STORVSP_COMPLETE_IO;
	if (!session_lives(r)) {
		free_request(r);
		return;
	}
	vmbus_channel_plug(channel->vmbus);
	if (channel->unsent.first || !try_send(r)) {
		coalesce_told(&channel->coalesce);
		vmbus_channel_unplug(channel->vmbus);
		list_add(&channel->unsent, r);
		return;
	}
	channel->in_flight--;
	tell_guest(r->sp, channel);
	free_request(r);
}

static void send_unsent(struct channel *channel)
{
	while (channel->unsent.first && try_send(channel->unsent.first)) {
		channel->in_flight--;
		free_request(list_take(&channel->unsent));
	}
}

static void send_enumerate(struct storvsp *sp)
{
	struct storvsp_packet packet = { .operation = STORVSP_ENUMERATE_BUS };
	struct iovec iov = { &packet, sizeof(packet) };
	struct channel *primary = &sp->channels[0];

	sp->enumerate_wanted = false;
	if (primary->open && sp->init_state == INIT_DONE)
		sp->enumerate_wanted = vmbus_send(primary->vmbus, 0, false, &iov, 1) == -ERR_BUSY;
}

/* A reset is answered after all requests that are older. */
static void count_down_resets(struct storvsp *sp, uint64_t finished_number)
{
	struct request **link = &sp->resets;

	while (*link) {
		struct request *reset = *link;

		if (finished_number < reset->number)
			reset->waits_for--;
		if (reset->waits_for > 0) {
			link = &reset->next;
			continue;
		}
		*link = reset->next;
		answer(reset);
	}
}

/* Ends an EXECUTE_SRB. */
static void finish(struct request *r)
{
	struct storvsp *sp = r->sp;
	struct channel *channel = r->channel;
	uint64_t number = r->number;

	sp->in_flight--;
	answer(r);
	if (sp->resets)
		count_down_resets(sp, number);
	if (channel->stalled)
		receive(sp, channel);
}

static void answer_status(struct request *r, uint32_t status)
{
	r->packet.status = status;
	answer(r);
}

/* ---- the guest's buffer ---- */

static void note_written(struct request *r, uint64_t len)
{
	for (unsigned i = 0; i < r->iov_count && len > 0; i++) {
		uint64_t part = MIN(len, (uint64_t)r->iov[i].iov_len);

		mem_written(r->sp->mem, r->iov_gpa[i], part);
		len -= part;
	}
}

static void copy_to_guest(struct request *r, const uint8_t *data, uint64_t len)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < r->iov_count && at < len; i++) {
		uint64_t part = MIN(len - at, (uint64_t)r->iov[i].iov_len);

		memcpy(r->iov[i].iov_base, data + at, part);
		at += part;
	}
	note_written(r, len);
}

static uint32_t copy_from_guest(const struct request *r, uint8_t *data, uint64_t len)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < r->iov_count && at < len; i++) {
		uint64_t part = MIN(len - at, (uint64_t)r->iov[i].iov_len);

		memcpy(data + at, r->iov[i].iov_base, part);
		at += part;
	}
	return (uint32_t)at;
}

/* ---- SCSI commands ---- */

/* Puts status and sense of the reply into the packet. */
static void finish_command(struct request *r, uint64_t bytes_moved)
{
	struct storvsp_srb *srb = &r->packet.srb;

	srb->scsi_status = r->reply.status;
	srb->data_transfer_length = (uint32_t)bytes_moved;
	srb->srb_status = STORVSP_SRB_SUCCESS;
	if (r->reply.status == SCSI_CHECK_CONDITION) {
		srb->srb_status = STORVSP_SRB_ERROR | STORVSP_SRB_AUTOSENSE_VALID;
		srb->data_transfer_length = 0;
		memset(srb->sense, 0, sizeof(srb->sense));
		memcpy(srb->sense, r->reply.sense, SCSI_SENSE_BYTES);
		srb->sense_length = SCSI_SENSE_BYTES;
	}
	finish(r);
}

static void finish_srb_status(struct request *r, uint8_t srb_status)
{
	r->packet.srb.srb_status = srb_status;
	r->packet.srb.scsi_status = SCSI_GOOD;
	r->packet.srb.data_transfer_length = 0;
	finish(r);
}

static void submit_range(struct request *r);

static void range_done(struct blk_request *io, enum blk_result result)
{
	struct request *r = container_of(io, struct request, io);

	if (result == BLK_OK && r->next_range < r->reply.range_count) {
		submit_range(r);
		return;
	}
	if (io->op == BLK_READ && result == BLK_OK)
		note_written(r, io->length);
	scsi_io_result(&r->reply, result);
	finish_command(r, io->op == BLK_READ || io->op == BLK_WRITE ? io->length : 0);
}

static void submit_range(struct request *r)
{
	const struct scsi_range *range = &r->reply.ranges[r->next_range++];

	r->io.op = r->reply.op;
	r->io.flags = r->reply.op_flags;
	r->io.offset = range->offset;
	r->io.length = range->length;
	r->io.done = range_done;
	blk_submit(r->blk, &r->io);
}

/* The transfer may be shorter than the guest's buffer. */
static void submit_transfer(struct request *r)
{
	uint64_t len = r->reply.ranges[0].length;
	unsigned count = 0;

	for (uint64_t sum = 0; sum < len; count++) {
		r->iov[count].iov_len = MIN((uint64_t)r->iov[count].iov_len, len - sum);
		sum += r->iov[count].iov_len;
	}
	r->iov_count = count;
	r->io.iov = r->iov;
	r->io.iov_count = count;
	submit_range(r);
}

static void plug(struct storvsp *sp, unsigned lun)
{
	if (sp->plugged & BIT(lun))
		return;
	sp->plugged |= BIT(lun);
	blk_plug(sp->luns[lun].blk);
}

static void unplug(struct storvsp *sp, uint64_t luns)
{
	luns &= sp->plugged;
	sp->plugged &= ~luns;
	for (; luns; luns &= luns - 1)
		blk_unplug(sp->luns[__builtin_ctzll(luns)].blk);
}

/* Takes the block device away from the LUN and waits until nothing uses it. */
static struct blk *release_blk(struct storvsp *sp, unsigned lun)
{
	struct blk *blk = sp->luns[lun].blk;

	unplug(sp, BIT(lun));
	sp->luns[lun].blk = NULL;
	if (blk)
		blk_drain(blk);
	return blk;
}

static void eject(struct storvsp *sp, unsigned lun)
{
	struct blk *medium;

	scsi_unit_set_medium(&sp->luns[lun].unit, NULL);
	medium = release_blk(sp, lun);
	if (sp->ejected)
		sp->ejected(sp->eject_user, lun, medium);
}

static void run_command(struct request *r, struct scsi_command *command, unsigned index)
{
	struct storvsp *sp = r->sp;
	struct lun *lun = &sp->luns[index];
	uint8_t parameters[SCSI_MAX_PARAMETERS];
	uint32_t wanted = scsi_parameter_bytes(&lun->unit, command->cdb);

	command->parameters = parameters;
	command->parameter_bytes =
	    copy_from_guest(r, parameters, MIN(wanted, command->buffer_bytes));
	scsi_execute(&lun->unit, command, &r->reply);
	r->blk = lun->blk;
	r->next_range = 0;
	switch (r->reply.action) {
	case SCSI_ACTION_NONE:
		copy_to_guest(r, r->reply.data, r->reply.data_bytes);
		finish_command(r, r->reply.data_bytes);
		return;
	case SCSI_ACTION_TRANSFER:
		plug(sp, index);
		submit_transfer(r);
		return;
	case SCSI_ACTION_RANGES:
		plug(sp, index);
		submit_range(r);
		return;
	case SCSI_ACTION_EJECT:
		finish_command(r, 0);
		eject(sp, index);
		return;
	}
}

static bool is_visible(const struct lun *lun)
{
	return lun->attached && !lun->leaving;
}

static uint64_t visible_luns(const struct storvsp *sp)
{
	uint64_t luns = 0;

	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++)
		if (is_visible(&sp->luns[i]))
			luns |= BIT(i);
	return luns;
}

/* A command found nothing: a flush that may succeed (scsi_absent_unit), or another. */
static void note_miss(struct storvsp *sp, struct lun *lun, bool flush)
{
	if (flush)
		lun->flushed = true;
	else
		lun->missed = true;
	lun->quiet_from = sp->quiet_from = clock_now_ns();
}

/* Commands that don't reach a unit: the target's own, and those to LUNs that are not there. */
static bool run_target_command(struct request *r, const struct scsi_command *command)
{
	const struct storvsp_srb *srb = &r->packet.srb;
	bool our_target = srb->path == 0 && srb->target == 0;
	struct lun *lun = our_target && srb->lun < STORVSP_MAX_LUNS ? &r->sp->luns[srb->lun] : NULL;

	if (command->cdb[0] == SCSI_REPORT_LUNS) {
		scsi_report_luns(command, our_target ? visible_luns(r->sp) : 0, &r->reply);
	} else if (lun && is_visible(lun)) {
		return false;
	} else if (!scsi_absent_unit(command, lun && lun->left, &r->reply)) {
		if (lun)
			note_miss(r->sp, lun, false);
		finish_srb_status(r, STORVSP_SRB_INVALID_LUN);
		return true;
	} else if (lun && command->cdb[0] != SCSI_INQUIRY) {
		note_miss(r->sp, lun, true);
	}
	copy_to_guest(r, r->reply.data, r->reply.data_bytes);
	finish_command(r, r->reply.data_bytes);
	return true;
}

static void execute_srb(struct request *r)
{
	const struct storvsp_srb *srb = &r->packet.srb;
	struct scsi_command command = { 0 };

	r->sp->in_flight++;
	if (srb->cdb_length > STORVSP_CDB_BYTES || r->iov_bytes < srb->data_transfer_length) {
		finish_srb_status(r, STORVSP_SRB_INVALID_REQUEST);
		return;
	}
	memcpy(command.cdb, srb->cdb, srb->cdb_length);
	command.buffer_bytes = srb->data_transfer_length;
	if (!run_target_command(r, &command))
		run_command(r, &command, srb->lun);
}

/* ---- controller operations ---- */

static void query_version(struct request *r)
{
	static const uint16_t versions[] = { STORVSP_VERSION_WIN10, STORVSP_VERSION_WIN8_1,
					     STORVSP_VERSION_WIN8, STORVSP_VERSION_WIN7,
					     STORVSP_VERSION_WIN6 };
	uint32_t status = STORVSP_STATUS_REVISION_MISMATCH;

	for (unsigned i = 0; i < ARRAY_SIZE(versions); i++)
		if (r->packet.version == versions[i])
			status = STORVSP_STATUS_SUCCESS;
	answer_status(r, status);
}

static void query_properties(struct request *r)
{
	unsigned subs = r->sp->max_sub_channels;

	memset(&r->packet.properties, 0, sizeof(r->packet.properties));
	r->packet.properties.max_channel_count = (uint16_t)subs;
	r->packet.properties.flags = subs ? STORVSP_MULTI_CHANNEL : 0;
	r->packet.properties.max_transfer_bytes = MAX_TRANSFER_BYTES;
	answer_status(r, STORVSP_STATUS_SUCCESS);
}

static const struct vmbus_channel_ops channel_ops;

static int offer(struct storvsp *sp, unsigned index, struct error *err)
{
	struct vmbus_offer offer = {
		.class_id = STORVSP_CLASS_SCSI,
		.instance_id = sp->instance_id,
		.subchannel_index = (uint16_t)index,
		.ops = &channel_ops,
		.dev = sp,
	};

	return vmbus_offer(sp->bus, &offer, &sp->channels[index].vmbus, err);
}

static void forget_channel(struct channel *channel)
{
	channel->vmbus = NULL;
	channel->open = false;
}

static bool offer_sub_channels(struct storvsp *sp, unsigned count)
{
	for (unsigned i = 1; i <= count; i++) {
		if (offer(sp, i, NULL) == 0)
			continue;
		while (--i > 0) {
			vmbus_rescind(sp->channels[i].vmbus);
			forget_channel(&sp->channels[i]);
		}
		return false;
	}
	return true;
}

/* Grants all or nothing: the guest counts on as many offers as it was promised. */
static void create_sub_channels(struct request *r)
{
	struct storvsp *sp = r->sp;
	unsigned count = r->packet.sub_channel_count;

	if (sp->init_state != INIT_DONE || r->channel != &sp->channels[0] || sp->channels[1].vmbus)
		answer_status(r, STORVSP_STATUS_INVALID_DEVICE_STATE);
	else if (count == 0 || count > sp->max_sub_channels)
		answer_status(r, STORVSP_STATUS_INVALID_PARAMETER);
	else
		answer_status(r, offer_sub_channels(sp, count) ? STORVSP_STATUS_SUCCESS
							       : STORVSP_STATUS_UNSUCCESSFUL);
}

static void reset(struct request *r, uint64_t luns)
{
	struct storvsp *sp = r->sp;

	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++)
		if (sp->luns[i].attached && (luns & BIT(i)))
			scsi_unit_reset(&sp->luns[i].unit);
	r->packet.status = STORVSP_STATUS_SUCCESS;
	r->waits_for = sp->in_flight;
	if (!r->waits_for) {
		answer(r);
		return;
	}
	r->next = sp->resets;
	sp->resets = r;
}

static void reset_lun(struct request *r)
{
	const struct storvsp_srb *srb = &r->packet.srb;
	bool there = srb->path == 0 && srb->target == 0 && srb->lun < STORVSP_MAX_LUNS;

	reset(r, there ? BIT(srb->lun) : 0);
}

static void set_init_state(struct request *r, enum init_state state)
{
	/* Sub-channels need no initialisation of their own; one that comes is only answered. */
	if (r->channel == &r->sp->channels[0])
		r->sp->init_state = state;
	answer_status(r, STORVSP_STATUS_SUCCESS);
}

static void dispatch(struct request *r)
{
	switch (r->packet.operation) {
	case STORVSP_BEGIN_INITIALIZATION:
		set_init_state(r, INIT_BEGUN);
		return;
	case STORVSP_END_INITIALIZATION:
		set_init_state(r, INIT_DONE);
		return;
	case STORVSP_QUERY_PROTOCOL_VERSION:
		query_version(r);
		return;
	case STORVSP_QUERY_PROPERTIES:
		query_properties(r);
		return;
	case STORVSP_CREATE_SUB_CHANNELS:
		create_sub_channels(r);
		return;
	case STORVSP_EXECUTE_SRB:
		if (r->sp->init_state == INIT_DONE)
			execute_srb(r);
		else
			answer_status(r, STORVSP_STATUS_INVALID_DEVICE_STATE);
		return;
	case STORVSP_RESET_LUN:
		reset_lun(r);
		return;
	case STORVSP_RESET_ADAPTER:
	case STORVSP_RESET_BUS:
		reset(r, UINT64_MAX);
		return;
	default:
		log_guest("storage: operation %u is unknown", r->packet.operation);
		answer_status(r, STORVSP_STATUS_INVALID_PARAMETER);
		return;
	}
}

/* ---- channels ---- */

static struct request *new_request(struct storvsp *sp, struct channel *channel,
				   const struct vmbus_packet *packet)
{
	struct request *r = pool_get(&sp->pool);

	/* Without memory for one request nothing else would work either. */
	if (!r)
		abort();
	r->sp = sp;
	r->channel = channel;
	r->held = channel->vmbus;
	r->session = channel->session;
	r->number = ++sp->requests;
	r->transaction_id = packet->transaction_id;
	r->wants_completion = packet->wants_completion;
	memset(&r->packet, 0, sizeof(r->packet));
	memcpy(&r->packet, packet->payload, MIN((size_t)packet->payload_len, sizeof(r->packet)));
	r->iov_count = 0;
	r->iov_bytes = 0;
	channel->in_flight++;
	coalesce_arrived(&channel->coalesce, channel->in_flight, clock_now_ns());
	vmbus_channel_hold(r->held);
	return r;
}

static bool take_buffer(struct request *r, const struct vmbus_packet *packet)
{
	if (packet->type != VMBUS_GPA_DIRECT)
		return true;
	if (packet->iov_count > MAX_REQUEST_IOV)
		return false;
	memcpy(r->iov, packet->iov, packet->iov_count * sizeof(*r->iov));
	memcpy(r->iov_gpa, packet->iov_gpa, packet->iov_count * sizeof(*r->iov_gpa));
	r->iov_count = packet->iov_count;
	r->iov_bytes = packet->iov_bytes;
	return true;
}

static void handle_packet(struct storvsp *sp, struct channel *channel,
			  const struct vmbus_packet *packet)
{
	struct request *r;

	if (packet->type != VMBUS_INBAND && packet->type != VMBUS_GPA_DIRECT) {
		log_guest("storage: packet of type %u is not expected", packet->type);
		return;
	}
	r = new_request(sp, channel, packet);
	if (packet->payload_len < STORVSP_MIN_REQUEST_BYTES || !take_buffer(r, packet)) {
		log_guest("storage: packet of %u bytes with %u pages is not possible",
			  packet->payload_len, packet->iov_count);
		answer_status(r, STORVSP_STATUS_INVALID_PARAMETER);
		return;
	}
	dispatch(r);
}

/* Takes requests until the ring is empty or enough of them are under way. */
static void receive(struct storvsp *sp, struct channel *channel)
{
	struct vmbus_packet packet;
	uint64_t session = channel->session;
	int rc = 1;

	if (channel->receiving || sp->quiet)
		return;
	channel->receiving = true;
	channel->stalled = false;
	while (channel->open && channel->session == session && rc > 0) {
		if (channel->unsent.first || channel->in_flight >= MAX_IN_FLIGHT) {
			channel->stalled = true;
			break;
		}
		rc = vmbus_recv(channel->vmbus, &packet);
		if (rc > 0)
			handle_packet(sp, channel, &packet);
	}
	channel->receiving = false;
	unplug(sp, UINT64_MAX);
}

static struct channel *channel_of(struct storvsp *sp, struct vmbus_channel *vmbus)
{
	return &sp->channels[vmbus_channel_subindex(vmbus)];
}

static int channel_opened(void *dev, struct vmbus_channel *vmbus, const uint8_t *user_data)
{
	struct storvsp *sp = dev;
	struct channel *channel = channel_of(sp, vmbus);

	channel->open = true;
	channel->session = ++sp->sessions;
	channel->in_flight = 0;
	channel->stalled = false;
	coalesce_reset(&channel->coalesce);
	if (channel != &sp->channels[0])
		return 0;
	sp->init_state = INIT_NONE;
	sp->enumerate_wanted = false;
	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++) {
		sp->luns[i].leaving = false;
		scsi_unit_power_on(&sp->luns[i].unit);
	}
	return 0;
}

/* What is still in flight ends later and is dropped then. */
static void channel_closed(void *dev, struct vmbus_channel *vmbus)
{
	struct storvsp *sp = dev;
	struct channel *channel = channel_of(sp, vmbus);

	channel->open = false;
	while (channel->unsent.first)
		free_request(list_take(&channel->unsent));
	if (channel != &sp->channels[0])
		return;
	sp->init_state = INIT_NONE;
	/* The bus takes sub-channels away before it closes the primary. */
	for (unsigned i = 1; i <= MAX_SUB_CHANNELS; i++)
		forget_channel(&sp->channels[i]);
}

static void channel_ready(void *dev, struct vmbus_channel *vmbus)
{
	struct storvsp *sp = dev;
	struct channel *channel = channel_of(sp, vmbus);

	send_unsent(channel);
	if (sp->enumerate_wanted && channel == &sp->channels[0])
		send_enumerate(sp);
	receive(sp, channel);
}

static const struct vmbus_channel_ops channel_ops = {
	.opened = channel_opened,
	.closed = channel_closed,
	.ready = channel_ready,
};

/* ---- LUNs that lost their unit ---- */

/* Of a whole controller the guest lets one disk go after the other, with a flush each: while it is
 * busy with one, the others wait. */
static bool has_settled(const struct storvsp *sp, const struct lun *lun, uint64_t now)
{
	if (!lun->missed)
		return now - lun->quiet_from >= SETTLE_MAX_NS;
	if (!sp->settled)
		return now - lun->quiet_from >= SETTLE_NS;
	return now - sp->quiet_from >= (lun->flushed ? SETTLE_NS : RETIRE_NS);
}

static void settle(void *user)
{
	struct storvsp *sp = user;
	uint64_t now = clock_now_ns();
	bool shown = false, waiting = false;

	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++) {
		struct lun *lun = &sp->luns[i];

		if (lun->leaving && has_settled(sp, lun, now)) {
			lun->leaving = false;
			shown |= lun->attached;
		}
		waiting |= lun->leaving;
	}
	if (shown)
		send_enumerate(sp);
	if (waiting)
		loop_timer_arm(sp->settle_timer, now + SETTLE_POLL_NS);
	else if (sp->settled)
		sp->settled(sp->settled_user); /* frees sp */
}

/* Only to a guest that has found its disks: any other has nothing to forget. */
static void begin_leaving(struct storvsp *sp, struct lun *lun)
{
	if (!sp->channels[0].open || sp->init_state != INIT_DONE)
		return;
	if (!lun->leaving)
		lun->missed = lun->flushed = false;
	lun->leaving = lun->left = true;
	lun->quiet_from = sp->quiet_from = clock_now_ns();
	loop_timer_arm(sp->settle_timer, lun->quiet_from + SETTLE_POLL_NS);
}

/* ---- state ---- */

void storvsp_quiesce(struct storvsp *sp)
{
	sp->quiet = true;
	unplug(sp, UINT64_MAX);
	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++)
		if (sp->luns[i].blk)
			blk_drain(sp->luns[i].blk);
	/* A signal that is still owed would be owed for ever by whoever is restored from here. */
	for (unsigned i = 0; i <= MAX_SUB_CHANNELS; i++) {
		coalesce_told(&sp->channels[i].coalesce);
		if (sp->channels[i].open)
			vmbus_channel_unplug(sp->channels[i].vmbus);
	}
}

void storvsp_unquiesce(struct storvsp *sp)
{
	sp->quiet = false;
	for (unsigned i = 0; i <= MAX_SUB_CHANNELS; i++)
		if (sp->channels[i].open)
			receive(sp, &sp->channels[i]);
}

static const struct state_field unsent_fields[] = {
	STATE(1, struct storvsp_unsent_state, transaction_id),
	STATE_BYTES(2, struct storvsp_unsent_state, packet),
	STATE(3, struct storvsp_unsent_state, channel, .max = MAX_SUB_CHANNELS),
	STATE_END,
};
const struct state_desc storvsp_unsent_state_desc = { "unsent", sizeof(struct storvsp_unsent_state),
						      unsent_fields, NULL };

static const struct state_field lun_fields[] = {
	STATE(1, struct storvsp_lun_state, attached),
	STATE(2, struct storvsp_lun_state, kind, .max = SCSI_KIND_DVD),
	STATE_PART(3, struct storvsp_lun_state, unit, 1, scsi_unit_state_desc),
	STATE_END,
};
const struct state_desc storvsp_lun_state_desc = { "lun", sizeof(struct storvsp_lun_state),
						   lun_fields, NULL };

static const struct state_field state_fields[] = {
	STATE(1, struct storvsp_state, init_state, .max = INIT_DONE),
	STATE(2, struct storvsp_state, enumerate_wanted),
	STATE(3, struct storvsp_state, reserved),
	STATE_LIST_OF(4, struct storvsp_state, unsent, unsent_count,
		      MAX_IN_FLIGHT *(1 + MAX_SUB_CHANNELS), storvsp_unsent_state_desc),
	STATE_PART(5, struct storvsp_state, luns, STORVSP_MAX_LUNS, storvsp_lun_state_desc),
	STATE_END,
};
const struct state_desc storvsp_state_desc = { "scsi", sizeof(struct storvsp_state), state_fields,
					       NULL };

static void save_unsent(const struct storvsp *sp, struct storvsp_state *ret)
{
	ret->unsent = calloc(MAX_IN_FLIGHT * (1 + MAX_SUB_CHANNELS), sizeof(*ret->unsent));
	if (!ret->unsent)
		abort(); /* some hundred kilobytes: the host is beyond help */
	for (unsigned i = 0; i <= MAX_SUB_CHANNELS; i++)
		for (const struct request *r = sp->channels[i].unsent.first; r; r = r->next) {
			struct storvsp_unsent_state *to = &ret->unsent[ret->unsent_count++];

			to->transaction_id = r->transaction_id;
			to->channel = (uint8_t)i;
			memcpy(to->packet, &r->packet, sizeof(r->packet));
		}
}

void storvsp_save(struct storvsp *sp, struct state_out *out)
{
	struct storvsp_state s = { .init_state = (uint8_t)sp->init_state,
				   .enumerate_wanted = sp->enumerate_wanted };
	char name[GUID_TEXT_SIZE];

	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++) {
		if (!sp->luns[i].attached)
			continue;
		s.luns[i].attached = true;
		s.luns[i].kind = (uint8_t)sp->luns[i].unit.kind;
		scsi_unit_save(&sp->luns[i].unit, &s.luns[i].unit);
	}
	save_unsent(sp, &s);
	state_put(out, &storvsp_state_desc, guid_format(&sp->instance_id, name), &s);
	state_clear(&storvsp_state_desc, &s);
}

static int restore_luns(struct storvsp *sp, const struct storvsp_state *s, struct error *err)
{
	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++) {
		const struct storvsp_lun_state *from = &s->luns[i];
		struct lun *lun = &sp->luns[i];

		if (from->attached != lun->attached ||
		    (lun->attached && from->kind != (uint8_t)lun->unit.kind))
			return error_set(err, ERR_UNSUPPORTED,
					 "the saved state has %s at location %u of a SCSI "
					 "controller, this virtual machine has %s",
					 from->attached ? "a drive" : "nothing", i,
					 lun->attached ? "a drive" : "nothing");
		if (!lun->attached)
			continue;
		scsi_unit_restore(&lun->unit, &from->unit);
		if (from->unit.medium != (lun->unit.medium != NULL))
			scsi_unit_attention(&lun->unit, SCSI_ASC_MEDIUM_MAY_HAVE_CHANGED);
	}
	return 0;
}

static int restore_channels(struct storvsp *sp, struct error *err)
{
	for (unsigned i = 0; i <= MAX_SUB_CHANNELS; i++) {
		struct channel *channel = &sp->channels[i];
		struct guid class_id = STORVSP_CLASS_SCSI;
		int rc = 0;

		if (i && vmbus_saved_channel(sp->bus, &class_id, &sp->instance_id, (uint16_t)i))
			rc = offer(sp, i, err);
		if (rc < 0)
			return rc;
		channel->open = channel->vmbus && vmbus_channel_is_open(channel->vmbus);
		channel->session = ++sp->sessions;
		coalesce_reset(&channel->coalesce);
	}
	return 0;
}

/* They come off the list by the ring's room as before. */
static bool restore_unsent(struct storvsp *sp, const struct storvsp_state *s)
{
	for (uint32_t i = 0; i < s->unsent_count; i++) {
		const struct storvsp_unsent_state *from = &s->unsent[i];
		struct channel *channel = &sp->channels[from->channel];
		const struct vmbus_packet packet = { .transaction_id = from->transaction_id,
						     .wants_completion = true };
		struct request *r;

		if (!channel->open || channel->in_flight >= MAX_IN_FLIGHT)
			return false;
		r = new_request(sp, channel, &packet);
		memcpy(&r->packet, from->packet, sizeof(r->packet));
		list_add(&channel->unsent, r);
		channel->stalled = true;
	}
	return true;
}

int storvsp_restore(struct storvsp *sp, struct state_in *in, struct error *err)
{
	struct storvsp_state s;
	char name[GUID_TEXT_SIZE];
	int rc = state_get(in, &storvsp_state_desc, guid_format(&sp->instance_id, name), &s, err);

	if (rc < 0)
		return rc;
	rc = restore_luns(sp, &s, err);
	if (rc == 0)
		rc = restore_channels(sp, err);
	if (rc == 0 && !restore_unsent(sp, &s))
		rc = error_set(err, ERR_CORRUPT, "state of 'scsi': a completion without a channel");
	if (rc == 0) {
		sp->init_state = s.init_state;
		sp->enumerate_wanted = s.enumerate_wanted;
	}
	state_clear(&storvsp_state_desc, &s);
	return rc;
}

/* ---- for the machine ---- */

int storvsp_new(struct vmbus *bus, struct loop *loop, struct mem *mem,
		const struct guid *instance_id, unsigned vp_count, struct storvsp **ret,
		struct error *err)
{
	struct storvsp *sp = calloc(1, sizeof(*sp));
	int rc;

	if (!sp)
		return error_set(err, ERR_NO_MEMORY, "no memory for a SCSI controller");
	sp->bus = bus;
	sp->mem = mem;
	sp->instance_id = *instance_id;
	sp->max_sub_channels = vp_count > 0 ? MIN(vp_count - 1, MAX_SUB_CHANNELS) : 0;
	for (unsigned i = 0; i <= MAX_SUB_CHANNELS; i++)
		list_init(&sp->channels[i].unsent);
	pool_init(&sp->pool, sizeof(struct request));
	rc = loop_timer_new(loop, hold_is_over, sp, &sp->hold_timer, err);
	if (rc == 0)
		rc = loop_timer_new(loop, settle, sp, &sp->settle_timer, err);
	if (rc == 0)
		rc = offer(sp, 0, err);
	if (rc < 0) {
		loop_timer_free(sp->hold_timer);
		loop_timer_free(sp->settle_timer);
		free(sp);
		return error_prefix(err, "SCSI controller");
	}
	*ret = sp;
	return 0;
}

void storvsp_free(struct storvsp *sp)
{
	if (!sp)
		return;
	vmbus_rescind(sp->channels[0].vmbus);
	loop_timer_free(sp->hold_timer);
	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++)
		release_blk(sp, i);
	loop_timer_free(sp->settle_timer);
	pool_done(&sp->pool);
	free(sp);
}

static int find_lun(struct storvsp *sp, unsigned index, struct lun **ret, struct error *err)
{
	if (index >= STORVSP_MAX_LUNS || !sp->luns[index].attached)
		return error_set(err, ERR_NOT_FOUND, "nothing is attached at LUN %u", index);
	*ret = &sp->luns[index];
	return 0;
}

static int check_medium(const struct blk *blk, enum scsi_kind kind, unsigned index,
			struct error *err)
{
	if (!blk && kind == SCSI_KIND_DISK)
		return error_set(err, ERR_INVALID, "LUN %u: a disk needs a medium", index);
	if (blk && kind == SCSI_KIND_DVD &&
	    blk_info(blk)->logical_sector_bytes > SCSI_DVD_SECTOR_BYTES)
		return error_set(err, ERR_INVALID, "LUN %u: a DVD has sectors of %u bytes", index,
				 SCSI_DVD_SECTOR_BYTES);
	return 0;
}

/* Of a unit whose disk has none: stable as long as the controller and the LUN are. */
static struct guid identity_of_lun(const struct storvsp *sp, unsigned index)
{
	struct guid id = sp->instance_id;

	id.b[15] ^= (uint8_t)index;
	return id;
}

int storvsp_attach(struct storvsp *sp, unsigned index, struct blk *blk, enum scsi_kind kind,
		   struct error *err)
{
	struct lun *lun;
	struct guid id;
	int rc;

	if (index >= STORVSP_MAX_LUNS)
		return error_set(err, ERR_INVALID, "LUN %u: a controller has %u", index,
				 STORVSP_MAX_LUNS);
	lun = &sp->luns[index];
	if (lun->attached)
		return error_set(err, ERR_EXISTS, "LUN %u is taken", index);
	rc = check_medium(blk, kind, index, err);
	if (rc < 0)
		return rc;
	if (blk && blk_info(blk)->has_id)
		id = blk_info(blk)->id;
	else
		id = identity_of_lun(sp, index);
	scsi_unit_init(&lun->unit, kind, blk ? blk_info(blk) : NULL, &id);
	lun->blk = blk;
	lun->attached = true;
	send_enumerate(sp);
	return 0;
}

int storvsp_detach(struct storvsp *sp, unsigned index, struct error *err)
{
	struct lun *lun = NULL;
	int rc = find_lun(sp, index, &lun, err);

	if (rc < 0)
		return rc;
	lun->attached = false;
	release_blk(sp, index);
	begin_leaving(sp, lun);
	send_enumerate(sp);
	return 0;
}

void storvsp_retire(struct storvsp *sp, void (*settled)(void *user), void *user)
{
	for (unsigned i = 0; i < STORVSP_MAX_LUNS; i++)
		if (sp->luns[i].attached)
			storvsp_detach(sp, i, NULL);
	sp->settled = settled;
	sp->settled_user = user;
	loop_timer_arm(sp->settle_timer, clock_now_ns());
}

int storvsp_set_medium(struct storvsp *sp, unsigned index, struct blk *blk, struct error *err)
{
	struct lun *lun = NULL;
	int rc = find_lun(sp, index, &lun, err);

	if (rc < 0)
		return rc;
	if (lun->unit.kind != SCSI_KIND_DVD)
		return error_set(err, ERR_INVALID, "LUN %u is no DVD drive", index);
	rc = check_medium(blk, SCSI_KIND_DVD, index, err);
	if (rc < 0)
		return rc;
	scsi_unit_set_medium(&lun->unit, NULL);
	release_blk(sp, index);
	lun->blk = blk;
	if (blk)
		scsi_unit_set_medium(&lun->unit, blk_info(blk));
	return 0;
}

int storvsp_resized(struct storvsp *sp, unsigned index, struct error *err)
{
	struct lun *lun = NULL;
	int rc = find_lun(sp, index, &lun, err);

	if (rc < 0)
		return rc;
	scsi_unit_attention(&lun->unit, SCSI_ASC_CAPACITY_CHANGED);
	/* Makes a guest send a command, which then carries the news. */
	send_enumerate(sp);
	return 0;
}

void storvsp_set_eject_hook(struct storvsp *sp,
			    void (*ejected)(void *user, unsigned lun, struct blk *medium),
			    void *user)
{
	sp->ejected = ejected;
	sp->eject_user = user;
}
