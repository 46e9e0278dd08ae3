/*
 * File copy to the guest: one file, a piece at a time, each answered before the next.
 *
 * The guest's daemon keeps the file open from START to COMPLETE or CANCEL and writes each piece
 * where the host says; START empties the file. So a copy goes on only as long as that daemon does,
 * but then whatever became of the host: a guest that was saved amid a copy has the file open still.
 * Nobody here has the source then. The copy is held until the same one is asked for again (struct
 * ic_copy_target), which goes on behind what the guest has; or another one is, or nobody came for
 * HOLD_NS: then the guest is told to remove its part.
 */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/macros.h"
#include "base/utf16.h"
#include "spec/vmbus.h"

#include <stdlib.h>
#include <string.h>

/* The guest itself gives up on its daemon after 30 s. */
#define LOST_NS (60 * NS_PER_SEC)
#define HOLD_NS (3600 * NS_PER_SEC)

static void finish(struct ic_copy_state *copy, int result)
{
	struct ic_copy_request request = copy->request;

	if (copy->phase == IC_COPY_IDLE)
		return;
	copy->phase = IC_COPY_IDLE;
	copy->replaces = false;
	copy->request = (struct ic_copy_request){ 0 };
	if (request.done)
		request.done(request.user, result);
}

/* ---- to the guest ---- */

static void send_plain(struct ic_copy_state *copy, enum ic_spec_copy_operation operation,
		       enum ic_copy_phase phase)
{
	struct ic_spec_copy packet = { .operation = operation };

	copy->phase = phase;
	ic_link_send(&copy->link, &packet, sizeof(packet));
}

static void cancel(struct ic_copy_state *copy, int result)
{
	copy->result = result;
	send_plain(copy, IC_COPY_CANCEL, IC_COPY_CANCELLING);
}

static void send_piece(struct ic_copy_state *copy)
{
	struct ic_spec_copy_write packet = { .copy.operation = IC_COPY_WRITE,
					     .offset = copy->offset };
	uint64_t left = copy->target.size - copy->offset;
	int r;

	copy->under_way = (uint32_t)MIN(left, sizeof(packet.data));
	packet.size = copy->under_way;
	r = copy->request.read(copy->request.user, copy->offset, packet.data, packet.size);
	if (r < 0) {
		cancel(copy, r);
		return;
	}
	copy->phase = IC_COPY_WRITING;
	ic_link_send(&copy->link, &packet, sizeof(packet));
}

static void send_start(struct ic_copy_state *copy)
{
	const struct ic_copy_target *target = &copy->target;
	struct ic_spec_copy_start packet = {
		.copy.operation = IC_COPY_START,
		.flags = (copy->request.overwrite ? IC_COPY_OVERWRITE : 0u) |
			 (copy->request.create_folder ? IC_COPY_CREATE_PATH : 0u),
		.file_size = target->size,
	};

	memcpy(packet.file_name, target->file_name, sizeof(packet.file_name));
	memcpy(packet.path_name, target->path_name, sizeof(packet.path_name));
	copy->offset = 0;
	copy->cancelled = false;
	copy->phase = IC_COPY_STARTING;
	ic_link_send(&copy->link, &packet, sizeof(packet));
}

static void hold(struct ic_copy_state *copy)
{
	copy->phase = IC_COPY_HELD;
	loop_timer_arm(copy->hold_timer, clock_now_ns() + HOLD_NS);
}

static void held_long_enough(void *user)
{
	struct ic_copy_state *copy = user;

	if (copy->phase == IC_COPY_HELD)
		cancel(copy, -ERR_CANCELLED);
}

static void go_on(struct ic_copy_state *copy)
{
	if (copy->cancelled)
		cancel(copy, -ERR_CANCELLED);
	else if (!copy->request.read)
		hold(copy);
	else if (copy->offset < copy->target.size)
		send_piece(copy);
	else
		send_plain(copy, IC_COPY_COMPLETE, IC_COPY_COMPLETING);
}

/* The guest has no file open any more. */
static void ended(struct ic_copy_state *copy, int result)
{
	if (copy->replaces) {
		copy->replaces = false;
		copy->target = copy->next_target;
		send_start(copy);
	} else {
		finish(copy, result);
	}
}

/* ---- answers ---- */

static int result_of(uint32_t status)
{
	switch (status) {
	case IC_S_OK:
		return 0;
	case IC_E_FILE_EXISTS:
		return -ERR_EXISTS;
	case IC_E_DISK_FULL:
		return -ERR_NO_SPACE;
	}
	return -ERR_DENIED;
}

static void wrote(struct ic_copy_state *copy, int result)
{
	if (result < 0) {
		cancel(copy, result);
		return;
	}
	copy->offset += copy->under_way;
	if (copy->request.progress && !copy->replaces)
		copy->request.progress(copy->request.user, copy->offset);
	go_on(copy);
}

static void on_reply(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_copy_state *copy = container_of(link, struct ic_copy_state, link);
	struct ic_spec_header header;
	int result;

	memcpy(&header, packet, sizeof(header));
	result = result_of(header.status);
	switch (copy->phase) {
	case IC_COPY_STARTING:
		if (result < 0)
			ended(copy, result);
		else
			go_on(copy);
		break;
	case IC_COPY_WRITING:
		wrote(copy, result);
		break;
	case IC_COPY_CANCELLING:
		ended(copy, copy->result);
		break;
	case IC_COPY_COMPLETING:
		ended(copy, result);
		break;
	default: /* nothing was asked */
		break;
	}
}

/* ---- requests ---- */

static int fill_target(const struct ic_copy_request *request, struct ic_copy_target *ret,
		       struct error *err)
{
	*ret = (struct ic_copy_target){ .size = request->size,
					.source_id = request->source_id,
					.source_time_ns = request->source_time_ns };
	if (!utf16_from_utf8(request->name, ret->file_name, sizeof(ret->file_name)) ||
	    !utf16_from_utf8(request->folder, ret->path_name, sizeof(ret->path_name)))
		return error_set(
		    err, ERR_INVALID,
		    "the file's name or folder in the guest is not UTF-8 or longer than "
		    "%d characters",
		    IC_COPY_NAME_BYTES / 2 - 1);
	if (!*request->name)
		return error_set(err, ERR_INVALID, "the file in the guest needs a name");
	return 0;
}

static void set_request(struct ic_copy_state *copy, const struct ic_copy_request *request)
{
	copy->request = *request;
	copy->request.folder = copy->request.name = NULL;
}

static bool same_target(const struct ic_copy_target *a, const struct ic_copy_target *b)
{
	return a->size == b->size && a->source_id == b->source_id &&
	       a->source_time_ns == b->source_time_ns &&
	       memcmp(a->file_name, b->file_name, sizeof(a->file_name)) == 0 &&
	       memcmp(a->path_name, b->path_name, sizeof(a->path_name)) == 0;
}

/* Nobody waits for the copy that is under way. */
static void take_over(struct ic_copy_state *copy, const struct ic_copy_request *request,
		      const struct ic_copy_target *target)
{
	bool goes_on = !copy->cancelled && same_target(&copy->target, target);

	set_request(copy, request);
	if (!goes_on) {
		copy->replaces = copy->cancelled = true;
		copy->next_target = *target;
	}
	if (copy->phase == IC_COPY_HELD)
		go_on(copy);
}

/* Who asked for the copy is told that it is nobody's now. */
static void disown(struct ic_copy_state *copy)
{
	struct ic_copy_request request = copy->request;

	copy->request = (struct ic_copy_request){ 0 };
	if (request.done)
		request.done(request.user, -ERR_CANCELLED);
}

int ic_copy_file(struct ic *ic, const struct ic_copy_request *request, struct error *err)
{
	struct ic_copy_state *copy = &ic->copy;
	struct ic_copy_target target;
	int r = fill_target(request, &target, err);

	if (r < 0)
		return r;
	if (copy->link.state != IC_LINK_READY)
		return error_set(err, ERR_STATE,
				 "the guest's file copy service is not in contact: its daemon "
				 "does not run, or Linux has none any more (6.10 and later; "
				 "copy-item needs none)");
	if (request->take_over && !copy->replaces && same_target(&copy->target, &target))
		disown(copy);
	if (copy->phase == IC_COPY_IDLE && !copy->link.busy) {
		set_request(copy, request);
		copy->target = target;
		send_start(copy);
		return 0;
	}
	if (copy->phase == IC_COPY_IDLE || copy->request.read)
		return error_set(err, ERR_BUSY, "a file is being copied to the guest");
	take_over(copy, request, &target);
	return 0;
}

/* What was to come behind it does not. */
void ic_copy_cancel(struct ic *ic)
{
	ic->copy.cancelled = true;
	ic->copy.replaces = false;
}

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE(1, struct ic_copy_saved, phase, .max = IC_COPY_HELD),
	STATE_END,
};
const struct state_desc ic_copy_saved_desc = { "file-copy", sizeof(struct ic_copy_saved), fields,
					       NULL };

static const struct state_field open_fields[] = {
	STATE(1, struct ic_copy_open_saved, target.size),
	STATE(2, struct ic_copy_open_saved, target.source_id),
	STATE(3, struct ic_copy_open_saved, target.source_time_ns),
	STATE_BYTES(4, struct ic_copy_open_saved, target.file_name),
	STATE_BYTES(5, struct ic_copy_open_saved, target.path_name),
	STATE(6, struct ic_copy_open_saved, offset),
	STATE(7, struct ic_copy_open_saved, under_way, .max = IC_COPY_DATA_BYTES),
	STATE_END,
};

static const char *check_open(const void *state)
{
	const struct ic_copy_open_saved *s = state;

	return RANGE_OK(s->offset, s->under_way, s->target.size) ? NULL
								 : "more was copied than there is";
}

const struct state_desc ic_copy_open_saved_desc = { "file-copy-open",
						    sizeof(struct ic_copy_open_saved), open_fields,
						    check_open };

void ic_copy_save(struct ic *ic, struct state_out *out)
{
	const struct ic_copy_state *copy = &ic->copy;
	const struct ic_copy_saved s = { .phase = (uint8_t)copy->phase };
	const struct ic_copy_open_saved open = {
		.target = copy->target,
		.offset = copy->offset,
		.under_way = copy->phase == IC_COPY_WRITING ? copy->under_way : 0,
	};

	state_put(out, &ic_copy_saved_desc, NULL, &s);
	if (copy->phase != IC_COPY_IDLE && copy->phase != IC_COPY_CANCELLING && !copy->cancelled)
		state_put(out, &ic_copy_open_saved_desc, NULL, &open);
}

/* The source was the host's, and who copied it is not there any more. */
int ic_copy_restore(struct ic *ic, struct state_in *in, struct error *err)
{
	struct ic_copy_state *copy = &ic->copy;
	struct ic_copy_open_saved open = { 0 };
	struct ic_copy_saved s = { 0 };
	bool goes_on = state_has(in, ic_copy_open_saved_desc.name, NULL);
	int r = 0;

	if (state_has(in, ic_copy_saved_desc.name, NULL))
		r = state_get(in, &ic_copy_saved_desc, NULL, &s, err);
	if (r == 0 && goes_on)
		r = state_get(in, &ic_copy_open_saved_desc, NULL, &open, err);
	/* In each phase but the last the guest owes an answer. */
	if (r < 0 || copy->link.state != IC_LINK_READY ||
	    copy->link.busy == (s.phase == IC_COPY_HELD))
		return r;
	copy->request = (struct ic_copy_request){ 0 };
	copy->target = open.target;
	copy->offset = open.offset;
	copy->under_way = open.under_way;
	copy->phase = s.phase;
	copy->cancelled = !goes_on;
	if (s.phase == IC_COPY_HELD)
		go_on(copy);
	return 0;
}

/* ---- life ---- */

static void on_ready(struct ic_link *link)
{
}

static void on_closed(struct ic_link *link)
{
	finish(container_of(link, struct ic_copy_state, link), -ERR_CANCELLED);
}

static const struct ic_spec_version versions[] = { { 1, 1 } };

static const struct ic_link_ops ops = {
	.class_id =
	    GUID_INIT(0x34d14be3, 0xdee4, 0x41c8, 0x9a, 0xe7, 0x6b, 0x17, 0x49, 0x77, 0xc1, 0x92),
	.instance_id =
	    GUID_INIT(0xeb765408, 0x105f, 0x49b6, 0xb4, 0xaa, 0xc1, 0x23, 0xb6, 0x4d, 0x17, 0xd4),
	.min_vmbus_version = VMBUS_VERSION_3_0, /* as Linux has it: Windows 8.1 */
	.message_type = IC_MSG_FILE_COPY,
	.versions = versions,
	.version_count = ARRAY_SIZE(versions),
	.lost_after_ns = LOST_NS,
	.ready = on_ready,
	.reply = on_reply,
	.closed = on_closed,
	.restored = on_ready,
};

int ic_copy_init(struct ic *ic, struct error *err)
{
	ic->copy.link.ic = ic;
	ic->copy.link.ops = &ops;
	return loop_timer_new(ic->loop, held_long_enough, &ic->copy, &ic->copy.hold_timer, err);
}

void ic_copy_done(struct ic *ic)
{
	loop_timer_free(ic->copy.hold_timer);
}
