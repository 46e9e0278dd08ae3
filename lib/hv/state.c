/* What is saved of the hypervisor interface: registers, reference time, timers, waiting messages.
 */
#include "hv/hv-impl.h"
#include "hv/hv-state.h"

#include "base/clock.h"
#include "base/macros.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct state_field hv_fields[] = {
	STATE(1, struct hv_state, guest_os_id),
	STATE(2, struct hv_state, hypercall),
	STATE(3, struct hv_state, reference_tsc),
	STATE(4, struct hv_state, tsc_invariant),
	STATE(5, struct hv_state, crash_param),
	STATE(6, struct hv_state, reference_time),
	STATE(7, struct hv_state, tsc_sequence),
	STATE(8, struct hv_state, reference_tsc_offered),
	STATE(9, struct hv_state, tsc_invariant_offered),
	STATE(10, struct hv_state, synthetic_timers_offered),
	STATE(11, struct hv_state, reserved),
	STATE(12, struct hv_state, memory_hints_offered),
	/* Not there: of a time when nobody was offered it. */
	STATE(13, struct hv_state, overcommitted_offered, .optional = true),
	STATE(14, struct hv_state, reserved2, .optional = true),
	STATE_END,
};
const struct state_desc hv_state_desc = { "hypervisor", sizeof(struct hv_state), hv_fields, NULL };

static const struct state_field message_fields[] = {
	STATE(1, struct hv_message_state, type),
	STATE(2, struct hv_message_state, sint, .max = HV_SINT_COUNT - 1),
	STATE(3, struct hv_message_state, len, .max = HV_MESSAGE_PAYLOAD_MAX),
	STATE(4, struct hv_message_state, timer, .max = HV_STIMER_COUNT),
	STATE(5, struct hv_message_state, reserved),
	STATE_BYTES(6, struct hv_message_state, payload),
	STATE_END,
};
const struct state_desc hv_message_state_desc = { "message", sizeof(struct hv_message_state),
						  message_fields, NULL };

static const char *check_vp(const void *state)
{
	const struct hv_vp_state *s = state;
	bool seen[HV_STIMER_COUNT + 1] = { false };

	for (unsigned i = 0; i < HV_STIMER_COUNT; i++)
		if (!hv_stimer_config_valid(s->timer_config[i]))
			return "a synthetic timer's configuration is impossible";
	for (uint32_t i = 0; i < s->message_count; i++) {
		const struct hv_message_state *m = &s->messages[i];

		if (!m->type)
			return "a message without a type";
		if (m->timer && seen[m->timer])
			return "a synthetic timer with two messages";
		seen[m->timer] = true;
	}
	return NULL;
}

static const struct state_field vp_fields[] = {
	STATE(1, struct hv_vp_state, scontrol),
	STATE(2, struct hv_vp_state, simp),
	STATE(3, struct hv_vp_state, siefp),
	STATE(4, struct hv_vp_state, assist_page),
	STATE(5, struct hv_vp_state, sint),
	STATE(6, struct hv_vp_state, timer_config),
	STATE(7, struct hv_vp_state, timer_count),
	STATE(8, struct hv_vp_state, timer_expiry),
	STATE_LIST_OF(9, struct hv_vp_state, messages, message_count,
		      HV_SINT_COUNT *HV_MESSAGE_QUEUE_MAX, hv_message_state_desc),
	STATE(10, struct hv_vp_state, reserved),
	STATE_END,
};
const struct state_desc hv_vp_state_desc = { "synic", sizeof(struct hv_vp_state), vp_fields,
					     check_vp };

static void name_vp(char ret[static 12], unsigned vp)
{
	snprintf(ret, 12, "%u", vp);
}

/* ---- save ---- */

static void save_message(struct hv_vp *vp, unsigned sint, const struct hv_queued_message *message,
			 struct hv_message_state *ret)
{
	*ret = (struct hv_message_state){ .type = message->type,
					  .sint = (uint8_t)sint,
					  .len = message->len };
	for (unsigned i = 0; i < HV_STIMER_COUNT; i++)
		if (message == &vp->stimer[i].message)
			ret->timer = (uint8_t)(i + 1);
	memcpy(ret->payload, message->payload, message->len);
}

static void save_messages(struct hv_vp *vp, struct hv_vp_state *ret)
{
	uint32_t count = 0;

	for (unsigned sint = 0; sint < HV_SINT_COUNT; sint++)
		count += vp->queue[sint].count;
	ret->messages = calloc(count + 1, sizeof(*ret->messages));
	if (!ret->messages)
		abort(); /* at most some megabytes: the host is beyond help */
	for (unsigned sint = 0; sint < HV_SINT_COUNT; sint++)
		for (const struct hv_queued_message *m = vp->queue[sint].head; m; m = m->next)
			save_message(vp, sint, m, &ret->messages[ret->message_count++]);
}

static void save_vp(struct hv_vp *vp, struct state_out *out)
{
	struct hv_vp_state s = { 0 };
	char name[12];

	pthread_mutex_lock(&vp->lock);
	s.scontrol = vp->scontrol;
	s.simp = vp->simp.msr;
	s.siefp = vp->siefp.msr;
	s.assist_page = vp->assist_page;
	memcpy(s.sint, vp->sint, sizeof(s.sint));
	for (unsigned i = 0; i < HV_STIMER_COUNT; i++) {
		s.timer_config[i] = vp->stimer[i].config;
		s.timer_count[i] = vp->stimer[i].count;
		s.timer_expiry[i] = vp->stimer[i].expiry;
	}
	save_messages(vp, &s);
	pthread_mutex_unlock(&vp->lock);
	name_vp(name, vp->index);
	state_put(out, &hv_vp_state_desc, name, &s);
	free(s.messages);
}

void hv_save(struct hv *hv, struct state_out *out)
{
	struct hv_state s = {
		.reference_time = hv_reference_time(hv),
		.reference_tsc_offered = hv->features.reference_tsc,
		.tsc_invariant_offered = hv->features.tsc_invariant,
		.synthetic_timers_offered = hv->features.synthetic_timers,
		.memory_hints_offered = hv->features.memory_hints,
		.overcommitted_offered = hv->features.overcommitted,
	};

	pthread_mutex_lock(&hv->lock);
	s.guest_os_id = hv->guest_os_id;
	s.hypercall = hv->hypercall;
	s.reference_tsc = hv->reference_tsc;
	s.tsc_invariant = hv->tsc_invariant;
	s.tsc_sequence = hv->tsc_sequence;
	memcpy(s.crash_param, hv->crash_param, sizeof(s.crash_param));
	pthread_mutex_unlock(&hv->lock);
	state_put(out, &hv_state_desc, NULL, &s);
	for (unsigned i = 0; i < hv->vp_count; i++)
		save_vp(&hv->vp[i], out);
}

/* ---- restore ---- */

int hv_saved_features(struct state_in *in, struct hv_features *ret, struct error *err)
{
	struct hv_state s;
	int rc = state_get(in, &hv_state_desc, NULL, &s, err);

	if (rc < 0)
		return rc;
	*ret = (struct hv_features){ .reference_tsc = s.reference_tsc_offered,
				     .tsc_invariant = s.tsc_invariant_offered,
				     .synthetic_timers = s.synthetic_timers_offered,
				     .memory_hints = s.memory_hints_offered,
				     .overcommitted = s.overcommitted_offered };
	return 0;
}

static bool restore_message(struct hv_vp *vp, const struct hv_message_state *from)
{
	struct hv_queued_message *m =
	    from->timer ? &vp->stimer[from->timer - 1].message : calloc(1, sizeof(*m));

	if (!m)
		return false;
	m->embedded = from->timer;
	m->type = from->type;
	m->len = from->len;
	memcpy(m->payload, from->payload, from->len);
	hv_synic_append(vp, from->sint, m);
	return true;
}

static bool restore_registers(struct hv_vp *vp, const struct hv_vp_state *s)
{
	if (!hv_synic_set_page(vp, &vp->simp, s->simp) ||
	    !hv_synic_set_page(vp, &vp->siefp, s->siefp))
		return false;
	for (unsigned i = 0; i < HV_SINT_COUNT; i++)
		if (!hv_synic_set_sint(vp, i, s->sint[i]))
			return false;
	vp->scontrol = s->scontrol;
	vp->assist_page = s->assist_page;
	for (unsigned i = 0; i < HV_STIMER_COUNT; i++) {
		vp->stimer[i].config = s->timer_config[i];
		vp->stimer[i].count = s->timer_count[i];
		vp->stimer[i].expiry = s->timer_expiry[i];
	}
	for (uint32_t i = 0; i < s->message_count; i++)
		if (!restore_message(vp, &s->messages[i]))
			return false;
	return true;
}

static int restore_vp(struct hv_vp *vp, struct state_in *in, struct error *err)
{
	struct hv_vp_state s;
	char name[12];
	bool ok;
	int rc;

	name_vp(name, vp->index);
	rc = state_get(in, &hv_vp_state_desc, name, &s, err);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&vp->lock);
	ok = restore_registers(vp, &s);
	pthread_mutex_unlock(&vp->lock);
	state_clear(&hv_vp_state_desc, &s);
	if (!ok)
		return error_set(err, ERR_CORRUPT,
				 "the SynIC's state of processor %u is impossible", vp->index);
	/* What is due by now fires, and the loop's timer is armed for the rest. */
	loop_timer_arm(vp->timer, clock_now_ns());
	return 0;
}

static bool restore_pages(struct hv *hv)
{
	if (hv->hypercall & HV_PAGE_MSR_ENABLE &&
	    !hv_write_hypercall_page(hv, hv->hypercall & HV_PAGE_MSR_ADDRESS))
		return false;
	return hv_reference_tsc_write(hv, hv->reference_tsc);
}

int hv_restore(struct hv *hv, struct state_in *in, struct error *err)
{
	struct hv_state s;
	int rc = state_get(in, &hv_state_desc, NULL, &s, err);

	if (rc < 0)
		return rc;
	hv->guest_os_id = s.guest_os_id;
	hv->hypercall = s.hypercall;
	hv->reference_tsc = s.reference_tsc;
	hv->tsc_invariant = s.tsc_invariant;
	memcpy(hv->crash_param, s.crash_param, sizeof(hv->crash_param));
	hv_time_set(hv, s.reference_time);
	/* 0 and all ones say that the page is not to be used. */
	hv->tsc_sequence = s.tsc_sequence >= UINT32_MAX - 1 ? 1 : s.tsc_sequence + 1;
	if (!restore_pages(hv))
		return error_set(err, ERR_CORRUPT,
				 "the hypercall page or the TSC page is not in memory");
	for (unsigned i = 0; rc == 0 && i < hv->vp_count; i++)
		rc = restore_vp(&hv->vp[i], in, err);
	return rc;
}
