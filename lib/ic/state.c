/* What is saved of the services: each one's link. What they exchange, they exchange anew. */
#include "ic/ic-impl.h"

#include "base/macros.h"

#include <stdlib.h>
#include <string.h>

#define UNSENT_MAX 16384 /* the longest message is of some 5 KiB */

static const struct state_field link_fields[] = {
	STATE(1, struct ic_link_saved, state, .max = IC_LINK_REFUSED),
	STATE(2, struct ic_link_saved, enabled),
	STATE(3, struct ic_link_saved, busy),
	STATE(4, struct ic_link_saved, transaction_id),
	STATE(5, struct ic_link_saved, framework_major),
	STATE(6, struct ic_link_saved, framework_minor),
	STATE(7, struct ic_link_saved, message_major),
	STATE(8, struct ic_link_saved, message_minor),
	STATE(9, struct ic_link_saved, sent_at_ns, .clock = true),
	STATE_LIST(10, struct ic_link_saved, unsent, unsent_bytes, UNSENT_MAX),
	STATE_END,
};
const struct state_desc ic_link_saved_desc = { "integration", sizeof(struct ic_link_saved),
					       link_fields, NULL };

static void save_link(const struct ic_link *link, const char *name, struct state_out *out)
{
	const struct ic_link_saved s = {
		.state = (uint8_t)link->state,
		.enabled = link->channel != NULL,
		.busy = link->busy,
		.transaction_id = link->transaction_id,
		.framework_major = link->framework.major,
		.framework_minor = link->framework.minor,
		.message_major = link->message.major,
		.message_minor = link->message.minor,
		.sent_at_ns = link->sent_at_ns,
		.unsent = link->unsent,
		.unsent_bytes = link->unsent ? link->unsent_len : 0,
	};

	state_put(out, &ic_link_saved_desc, name, &s);
}

void ic_save(struct ic *ic, struct state_out *out)
{
	for (unsigned i = 0; i < IC_SERVICE_COUNT; i++)
		save_link(ic_link_of(ic, i), ic_service_name(i), out);
	ic_vss_save(ic, out);
	ic_copy_save(ic, out);
}

/* A service that came after the state was saved is not in it, and was not there for the guest. */
static int get_saved(struct state_in *in, enum ic_service service, struct ic_link_saved *ret,
		     struct error *err)
{
	const char *name = ic_service_name(service);

	if (state_has(in, ic_link_saved_desc.name, name))
		return state_get(in, &ic_link_saved_desc, name, ret, err);
	*ret = (struct ic_link_saved){ 0 };
	return 0;
}

int ic_restore_begin(struct ic *ic, struct state_in *in, struct error *err)
{
	for (unsigned i = 0; i < IC_SERVICE_COUNT; i++) {
		struct ic_link_saved s;
		int rc = get_saved(in, i, &s, err);

		if (rc == 0)
			rc = ic_enable(ic, i, s.enabled, err);
		state_clear(&ic_link_saved_desc, &s);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int restore_link(struct ic_link *link, struct ic_link_saved *s, struct error *err)
{
	bool open = link->channel && vmbus_channel_is_open(link->channel);

	if (open != (s->state != IC_LINK_CLOSED))
		return error_set(err, ERR_CORRUPT,
				 "state of 'integration': a service and its channel disagree");
	link->state = s->state;
	link->busy = s->busy;
	link->transaction_id = s->transaction_id;
	link->framework = (struct ic_spec_version){ s->framework_major, s->framework_minor };
	link->message = (struct ic_spec_version){ s->message_major, s->message_minor };
	link->sent_at_ns = s->sent_at_ns;
	if (s->unsent_bytes) {
		link->unsent = TAKE(s->unsent);
		link->unsent_len = s->unsent_bytes;
	}
	if (link->state == IC_LINK_READY)
		link->ops->restored(link);
	return 0;
}

int ic_restore(struct ic *ic, struct state_in *in, struct error *err)
{
	int r;

	for (unsigned i = 0; i < IC_SERVICE_COUNT; i++) {
		struct ic_link_saved s;
		int rc = get_saved(in, i, &s, err);

		if (rc == 0)
			rc = restore_link(ic_link_of(ic, i), &s, err);
		state_clear(&ic_link_saved_desc, &s);
		if (rc < 0)
			return rc;
	}
	r = ic_vss_restore(ic, in, err);
	return r < 0 ? r : ic_copy_restore(ic, in, err);
}
