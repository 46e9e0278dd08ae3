/* Hypercalls (TLFS 3, 14): the input is copied out of guest memory once, checked, then used. */
#include "hv/hv-impl.h"

#include "base/bytes.h"
#include "base/macros.h"

struct call {
	struct hv *hv;
	unsigned vp;
	bool fast;
	uint64_t input;  /* a GPA, or the first eight bytes themselves when fast */
	uint64_t output; /* likewise; or the second eight */
	unsigned reps;
};

/* 8-byte aligned, within one page, RAM. */
static enum hv_status read_input(const struct call *call, uint64_t offset, void *buf, size_t len)
{
	uint64_t in_page = (call->input & (MEM_PAGE_SIZE - 1)) + offset;

	if (call->input % 8 || !RANGE_OK(in_page, len, MEM_PAGE_SIZE) ||
	    !mem_read(call->hv->mem, call->input + offset, buf, len))
		return HV_STATUS_INVALID_ALIGNMENT;
	return HV_STATUS_SUCCESS;
}

static enum hv_status post_message(const struct call *call)
{
	const struct hv_ports *ports = &call->hv->ports;
	struct hv_spec_post_message in;
	enum hv_status status;

	status = read_input(call, 0, &in, offsetof(struct hv_spec_post_message, payload));
	if (status)
		return status;
	if (in.payload_size > sizeof(in.payload) || !in.message_type ||
	    (in.message_type & HV_MESSAGE_TYPE_HV))
		return HV_STATUS_INVALID_PARAMETER;
	status = read_input(call, offsetof(struct hv_spec_post_message, payload), in.payload,
			    in.payload_size);
	if (status)
		return status;
	if (!ports->post_message)
		return HV_STATUS_INVALID_CONNECTION_ID;
	return ports->post_message(ports->user, call->vp, in.connection_id, in.message_type,
				   in.payload, in.payload_size);
}

static enum hv_status signal_event(const struct call *call)
{
	const struct hv_ports *ports = &call->hv->ports;
	struct hv_spec_signal_event in;
	enum hv_status status = HV_STATUS_SUCCESS;

	if (call->fast)
		memcpy(&in, &call->input, sizeof(in));
	else
		status = read_input(call, 0, &in, sizeof(in));
	if (status)
		return status;
	if (!ports->signal_event)
		return HV_STATUS_INVALID_CONNECTION_ID;
	return ports->signal_event(ports->user, call->vp, in.connection_id, in.flag_number);
}

/* A hint that the VP spins: nothing has to follow from it. */
static enum hv_status notify_long_spin_wait(const struct call *call)
{
	return HV_STATUS_SUCCESS;
}

static enum hv_status send_cluster_ipi(const struct call *call)
{
	struct hv *hv = call->hv;
	struct hv_spec_cluster_ipi in;
	enum hv_status status = HV_STATUS_SUCCESS;

	if (!hv->features.overcommitted)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (call->fast) {
		memcpy(&in, &call->input, 8);
		in.processors = call->output;
	} else {
		status = read_input(call, 0, &in, sizeof(in));
	}
	if (status)
		return status;
	if (in.vector < HV_FIRST_VALID_VECTOR || in.vector > UINT8_MAX || in.target_vtl)
		return HV_STATUS_INVALID_PARAMETER;
	for (unsigned i = 0; i < hv->vp_count; i++) {
		if (!(in.processors & BIT(i)))
			continue;
		part_interrupt(hv->part, i, (uint8_t)in.vector, false);
		hv_wake(&hv->vp[i]);
	}
	return HV_STATUS_SUCCESS;
}

static enum hv_status ext_capabilities(const struct call *call)
{
	uint8_t capabilities[8];

	if (!call->hv->features.memory_hints)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	store_le64(capabilities, HV_EXT_COLD_DISCARD_HINT);
	if (call->output % 8 || !mem_write(call->hv->mem, call->output, capabilities, 8))
		return HV_STATUS_INVALID_ALIGNMENT;
	return HV_STATUS_SUCCESS;
}

/* Pages that the guest has in no use: what is no RAM of it is passed over. */
static void release_range(struct mem *mem, uint64_t range)
{
	bool large = range & HV_GPA_RANGE_LARGE;
	uint64_t unit = !large ? MEM_PAGE_SIZE : range & HV_GPA_RANGE_GIB ? GIB : 2 * MIB;

	mem_release(mem, ALIGN_DOWN(range, large ? 2 * MIB : (uint64_t)MEM_PAGE_SIZE),
		    HV_GPA_RANGE_PAGES(range) * unit);
}

static enum hv_status memory_heat_hint(const struct call *call)
{
	struct hv_spec_memory_hint hint;
	enum hv_status status;
	uint8_t range[8];

	if (!call->hv->features.memory_hints)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	status = read_input(call, 0, &hint, sizeof(hint));
	if (status)
		return status;
	if (hint.type != HV_MEMORY_HINT_COLD_DISCARD)
		return HV_STATUS_INVALID_PARAMETER;
	for (unsigned i = 0; i < call->reps && !status; i++) {
		status = read_input(call, sizeof(hint) + 8 * i, range, sizeof(range));
		if (!status)
			release_range(call->hv->mem, load_le64(range));
	}
	return status;
}

static const struct {
	uint16_t code;
	bool slow_form, fast_form, repeats;
	enum hv_status (*run)(const struct call *call);
} calls[] = {
	{ HV_CALL_NOTIFY_LONG_SPIN_WAIT, false, true, false, notify_long_spin_wait },
	{ HV_CALL_SEND_CLUSTER_IPI, true, true, false, send_cluster_ipi },
	{ HV_CALL_POST_MESSAGE, true, false, false, post_message },
	{ HV_CALL_SIGNAL_EVENT, true, true, false, signal_event },
	{ HV_CALL_EXT_CAPABILITIES, true, false, false, ext_capabilities },
	{ HV_CALL_EXT_MEMORY_HEAT_HINT, true, false, true, memory_heat_hint },
};

/* None of ours has a variable header, or begins in the middle: all repetitions are done at once. */
static bool is_well_formed(uint64_t control, bool repeats)
{
	return !(control & HV_CONTROL_RESERVED) && !HV_CONTROL_VAR_HEADER(control) &&
	       (HV_CONTROL_REP_COUNT(control) != 0) == repeats && !HV_CONTROL_REP_START(control);
}

static enum hv_status dispatch(const struct call *call, uint64_t control)
{
	for (unsigned i = 0; i < ARRAY_SIZE(calls); i++) {
		if (calls[i].code != HV_CONTROL_CODE(control))
			continue;
		if (!is_well_formed(control, calls[i].repeats))
			return HV_STATUS_INVALID_HYPERCALL_INPUT;
		if (call->fast ? !calls[i].fast_form : !calls[i].slow_form)
			return HV_STATUS_INVALID_HYPERCALL_INPUT;
		return calls[i].run(call);
	}
	return HV_STATUS_INVALID_HYPERCALL_CODE;
}

void hv_hypercall(struct hv *hv, unsigned vp, struct part_hypercall *part_call)
{
	struct call call = { .hv = hv,
			     .vp = vp,
			     .fast = part_call->control & HV_CONTROL_FAST,
			     .input = part_call->input,
			     .output = part_call->output,
			     .reps = HV_CONTROL_REP_COUNT(part_call->control) };

	part_call->result = dispatch(&call, part_call->control);
	if (part_call->result == HV_STATUS_SUCCESS)
		part_call->result |= HV_RESULT_REPS(call.reps);
}
