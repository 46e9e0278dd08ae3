/*
 * Backup: the guest's file systems stand still while the host takes a snapshot. A thaw follows
 *every freeze, also one that failed or that nobody waits for any more, and comes by itself when the
 *host takes too long.
 *
 *	idle -> asking -> freezing -> frozen -> thawing -> completing -> idle
 */
#include "ic/ic-impl.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/macros.h"
#include "spec/vmbus.h"

#include <string.h>

/* Linux gives its daemon so long for a freeze. */
#define LOST_NS (16 * 60 * NS_PER_SEC)

static void tell(struct ic_vss_state *vss, int result)
{
	void (*done)(void *user, int result) = TAKE(vss->done);

	if (done)
		done(vss->user, result);
}

static void send_operation(struct ic_vss_state *vss, enum ic_spec_vss_operation operation,
			   enum ic_vss_phase phase)
{
	struct ic_spec_vss packet = { .operation = (uint8_t)operation };

	vss->phase = phase;
	ic_link_send(&vss->link, &packet, sizeof(packet));
}

static void thaw(struct ic_vss_state *vss)
{
	loop_timer_cancel(vss->timer);
	send_operation(vss, IC_VSS_THAW, IC_VSS_THAWING);
}

/* ---- answers ---- */

static void asked(struct ic_vss_state *vss, bool ok)
{
	if (ok && !vss->given_up) {
		send_operation(vss, IC_VSS_FREEZE, IC_VSS_FREEZING);
		return;
	}
	loop_timer_cancel(vss->timer);
	vss->phase = IC_VSS_IDLE;
	tell(vss, -ERR_DENIED);
}

static void froze(struct ic_vss_state *vss, bool ok)
{
	if (ok && !vss->given_up) {
		vss->phase = IC_VSS_FROZEN;
		loop_timer_arm(vss->timer, clock_now_ns() + IC_VSS_FROZEN_MAX_NS);
		tell(vss, 0);
		return;
	}
	/* Some of the file systems may be frozen. */
	thaw(vss);
	tell(vss, -ERR_DENIED);
}

static void thawed(struct ic_vss_state *vss, bool ok)
{
	if (!ok && !vss->given_up)
		log_guest("its file systems could not be thawed");
	send_operation(vss, IC_VSS_BACKUP_COMPLETE, IC_VSS_COMPLETING);
	tell(vss, ok ? 0 : -ERR_DENIED);
}

static void on_reply(struct ic_link *link, const uint8_t *packet, uint32_t len)
{
	struct ic_vss_state *vss = container_of(link, struct ic_vss_state, link);
	struct ic_spec_header header;
	bool ok;

	memcpy(&header, packet, sizeof(header));
	ok = header.status == IC_S_OK;
	switch (vss->phase) {
	case IC_VSS_ASKING:
		asked(vss, ok);
		break;
	case IC_VSS_FREEZING:
		froze(vss, ok);
		break;
	case IC_VSS_THAWING:
		thawed(vss, ok);
		break;
	default:
		vss->phase = IC_VSS_IDLE;
	}
}

/* ---- time ---- */

static void on_timeout(void *user)
{
	struct ic_vss_state *vss = user;

	if (vss->phase == IC_VSS_FROZEN) {
		log_warn("the guest's file systems were frozen for too long and are thawed");
		vss->expired = true;
		thaw(vss);
		return;
	}
	vss->given_up = true;
	tell(vss, -ERR_TIMEOUT);
}

/* ---- requests ---- */

int ic_vss_freeze(struct ic *ic, uint64_t timeout_ns, void (*done)(void *user, int result),
		  void *user, struct error *err)
{
	struct ic_vss_state *vss = &ic->vss;

	if (vss->link.state != IC_LINK_READY)
		return error_set(err, ERR_STATE, "the guest's backup service is not in contact");
	if (vss->phase != IC_VSS_IDLE || vss->link.busy)
		return error_set(err, ERR_BUSY, "a backup of the guest is under way");
	vss->given_up = vss->expired = false;
	vss->done = done;
	vss->user = user;
	loop_timer_arm(vss->timer, clock_now_ns() + timeout_ns);
	send_operation(vss, IC_VSS_HOT_BACKUP, IC_VSS_ASKING);
	return 0;
}

int ic_vss_thaw(struct ic *ic, void (*done)(void *user, int result), void *user, struct error *err)
{
	struct ic_vss_state *vss = &ic->vss;

	if (vss->expired)
		return error_set(err, ERR_TIMEOUT,
				 "the guest was thawed already, after %u s: what was taken may not "
				 "be consistent",
				 (unsigned)(IC_VSS_FROZEN_MAX_NS / NS_PER_SEC));
	if (vss->phase != IC_VSS_FROZEN)
		return error_set(err, ERR_STATE, "the guest's file systems are not frozen");
	vss->done = done;
	vss->user = user;
	thaw(vss);
	return 0;
}

bool ic_vss_frozen(const struct ic *ic)
{
	return ic->vss.phase == IC_VSS_FROZEN;
}

/* ---- state ---- */

static const struct state_field fields[] = {
	STATE(1, struct ic_vss_saved, phase, .max = IC_VSS_COMPLETING),
	STATE_END,
};
const struct state_desc ic_vss_saved_desc = { "backup", sizeof(struct ic_vss_saved), fields, NULL };

void ic_vss_save(struct ic *ic, struct state_out *out)
{
	const struct ic_vss_saved s = { .phase = (uint8_t)ic->vss.phase };

	state_put(out, &ic_vss_saved_desc, NULL, &s);
}

/* Who asked for the freeze is not there any more: it is undone. */
int ic_vss_restore(struct ic *ic, struct state_in *in, struct error *err)
{
	struct ic_vss_state *vss = &ic->vss;
	struct ic_vss_saved s = { 0 };
	int r = 0;

	if (state_has(in, ic_vss_saved_desc.name, NULL))
		r = state_get(in, &ic_vss_saved_desc, NULL, &s, err);
	if (r < 0 || vss->link.state != IC_LINK_READY)
		return r;
	vss->phase = s.phase;
	vss->given_up = true;
	if (vss->phase == IC_VSS_FROZEN && !vss->link.busy)
		thaw(vss);
	return 0;
}

/* ---- life ---- */

static void on_ready(struct ic_link *link)
{
}

static void on_closed(struct ic_link *link)
{
	struct ic_vss_state *vss = container_of(link, struct ic_vss_state, link);

	loop_timer_cancel(vss->timer);
	vss->phase = IC_VSS_IDLE;
	vss->expired = false;
	tell(vss, -ERR_CANCELLED);
}

static const struct ic_spec_version versions[] = { { 5, 0 } };

static const struct ic_link_ops ops = {
	.class_id =
	    GUID_INIT(0x35fa2e29, 0xea23, 0x4236, 0x96, 0xae, 0x3a, 0x6e, 0xba, 0xcb, 0xa4, 0x40),
	.instance_id =
	    GUID_INIT(0x2450ee40, 0x33bf, 0x4fbd, 0x89, 0x2e, 0x9f, 0xb0, 0x6e, 0x92, 0x14, 0xcf),
	.min_vmbus_version = VMBUS_VERSION_3_0, /* as Linux has it: Windows 8.1 */
	.message_type = IC_MSG_VSS,
	.versions = versions,
	.version_count = ARRAY_SIZE(versions),
	.lost_after_ns = LOST_NS,
	.ready = on_ready,
	.reply = on_reply,
	.closed = on_closed,
	.restored = on_ready,
};

int ic_vss_init(struct ic *ic, struct error *err)
{
	ic->vss.link.ic = ic;
	ic->vss.link.ops = &ops;
	return loop_timer_new(ic->loop, on_timeout, &ic->vss, &ic->vss.timer, err);
}

void ic_vss_done(struct ic *ic)
{
	loop_timer_free(ic->vss.timer);
}
