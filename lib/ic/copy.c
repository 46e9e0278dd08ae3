/* File copy to the guest: one file, a piece at a time, each answered before the next. */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/macros.h"
#include "base/utf16.h"
#include "spec/vmbus.h"

#include <stdlib.h>
#include <string.h>

/* The guest itself gives up on its daemon after 30 s. */
#define LOST_NS (60 * NS_PER_SEC)

static void finish(struct ic_copy_state *copy, int result)
{
	if (copy->phase == IC_COPY_IDLE)
		return;
	copy->phase = IC_COPY_IDLE;
	if (copy->request.done)
		copy->request.done(copy->request.user, result);
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
	uint64_t left = copy->request.size - copy->offset;
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

static void go_on(struct ic_copy_state *copy)
{
	if (copy->cancelled)
		cancel(copy, -ERR_CANCELLED);
	else if (copy->offset < copy->request.size)
		send_piece(copy);
	else
		send_plain(copy, IC_COPY_COMPLETE, IC_COPY_COMPLETING);
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
	if (copy->request.progress)
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
			finish(copy, result);
		else
			go_on(copy);
		break;
	case IC_COPY_WRITING:
		wrote(copy, result);
		break;
	case IC_COPY_CANCELLING:
		finish(copy, copy->result);
		break;
	default:
		finish(copy, result);
	}
}

/* ---- requests ---- */

static int fill_start(const struct ic_copy_request *request, struct ic_spec_copy_start *packet,
		      struct error *err)
{
	packet->copy.operation = IC_COPY_START;
	packet->flags = (request->overwrite ? IC_COPY_OVERWRITE : 0u) |
			(request->create_folder ? IC_COPY_CREATE_PATH : 0u);
	packet->file_size = request->size;
	if (!utf16_from_utf8(request->name, packet->file_name, sizeof(packet->file_name)) ||
	    !utf16_from_utf8(request->folder, packet->path_name, sizeof(packet->path_name)))
		return error_set(
		    err, ERR_INVALID,
		    "the file's name or folder in the guest is not UTF-8 or longer than "
		    "%d characters",
		    IC_COPY_NAME_BYTES / 2 - 1);
	if (!*request->name)
		return error_set(err, ERR_INVALID, "the file in the guest needs a name");
	return 0;
}

int ic_copy_file(struct ic *ic, const struct ic_copy_request *request, struct error *err)
{
	struct ic_copy_state *copy = &ic->copy;
	struct ic_spec_copy_start packet = { 0 };
	int r = fill_start(request, &packet, err);

	if (r < 0)
		return r;
	if (copy->link.state != IC_LINK_READY)
		return error_set(err, ERR_STATE,
				 "the guest's file copy service is not in contact: its daemon "
				 "does not run, or Linux has none any more (6.10 and later; "
				 "copy-item needs none)");
	if (copy->phase != IC_COPY_IDLE || copy->link.busy)
		return error_set(err, ERR_BUSY, "a file is being copied to the guest");
	copy->request = *request;
	copy->request.folder = copy->request.name = NULL;
	copy->offset = 0;
	copy->cancelled = false;
	copy->phase = IC_COPY_STARTING;
	ic_link_send(&copy->link, &packet, sizeof(packet));
	return 0;
}

void ic_copy_cancel(struct ic *ic)
{
	ic->copy.cancelled = true;
}

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE(1, struct ic_copy_saved, phase, .max = IC_COPY_CANCELLING),
	STATE_END,
};
const struct state_desc ic_copy_saved_desc = { "file-copy", sizeof(struct ic_copy_saved), fields,
					       NULL };

void ic_copy_save(struct ic *ic, struct state_out *out)
{
	const struct ic_copy_saved s = { .phase = (uint8_t)ic->copy.phase };

	state_put(out, &ic_copy_saved_desc, NULL, &s);
}

/* The file was the host's, and who copied it is not there any more: the guest removes its part. */
int ic_copy_restore(struct ic *ic, struct state_in *in, struct error *err)
{
	struct ic_copy_state *copy = &ic->copy;
	struct ic_copy_saved s = { 0 };
	int r = 0;

	if (state_has(in, ic_copy_saved_desc.name, NULL))
		r = state_get(in, &ic_copy_saved_desc, NULL, &s, err);
	/* In each phase the guest owes an answer. */
	if (r < 0 || copy->link.state != IC_LINK_READY || !copy->link.busy)
		return r;
	copy->request = (struct ic_copy_request){ 0 };
	copy->phase = s.phase;
	copy->cancelled = true;
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

void ic_copy_init(struct ic *ic)
{
	ic->copy.link.ic = ic;
	ic->copy.link.ops = &ops;
}
