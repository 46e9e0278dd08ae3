/* The hypervisor interface against a partition without processors. */
#include "fake-part.h"

#include "base/clock.h"
#include "base/macros.h"
#include "hv/hv-state.h"
#include "state/check-state.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define SIMP     UINT64_C(0x10000)
#define SIEFP    UINT64_C(0x11000)
#define INPUT    UINT64_C(0x12000)
#define PAGE     UINT64_C(0x13000)
#define OUTSIDE  UINT64_C(0x40000000)
#define SINT     2
#define VECTOR   0xF3
#define LINUX_ID ((UINT64_C(0x8100) << 48) | (UINT64_C(0x060100) << 16))

struct fixture {
	struct loop *loop;
	struct mem *mem;
	struct part part;
	struct hv *hv;
	unsigned resets, crashes;
	uint64_t crash_params[HV_CRASH_PARAMS];
	char crash_text[HV_CRASH_TEXT_MAX + 1];
	/* what came in through the ports */
	uint32_t connection, type;
	uint16_t flag;
	uint8_t payload[HV_MESSAGE_PAYLOAD_MAX];
	size_t len;
};

static void on_reset(void *user, unsigned vp)
{
	((struct fixture *)user)->resets++;
}

static void on_crash(void *user, unsigned vp, const struct hv_crash *crash)
{
	struct fixture *f = user;

	f->crashes++;
	memcpy(f->crash_params, crash->params, sizeof(f->crash_params));
	strcpy(f->crash_text, crash->text ? crash->text : "(none)");
}

static enum hv_status on_post(void *user, unsigned vp, uint32_t connection, uint32_t type,
			      const void *payload, size_t len)
{
	struct fixture *f = user;

	f->connection = connection;
	f->type = type;
	f->len = len;
	memcpy(f->payload, payload, len);
	return connection == 1 ? HV_STATUS_SUCCESS : HV_STATUS_INVALID_CONNECTION_ID;
}

static enum hv_status on_signal(void *user, unsigned vp, uint32_t connection, uint16_t flag)
{
	struct fixture *f = user;

	f->connection = connection;
	f->flag = flag;
	return HV_STATUS_SUCCESS;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct hv_config config = { .vp_count = 2,
				    .features = { true, true, true, true, true },
				    .events = { f, on_reset, on_crash } };
	struct hv_ports ports = { f, on_post, on_signal };

	assert_int_equal(loop_new(&f->loop, NULL), 0);
	assert_int_equal(mem_new(2 * MIB, &f->mem, NULL), 0);
	config.loop = f->loop;
	config.mem = f->mem;
	assert_int_equal(hv_new(&config, &f->hv, NULL), 0);
	hv_set_part(f->hv, &f->part);
	hv_set_ports(f->hv, &ports);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	hv_free(f->hv);
	loop_free(f->loop);
	mem_free(f->mem);
	free(f);
	return 0;
}

static uint64_t rd(struct fixture *f, uint32_t msr)
{
	uint64_t value = 0;

	assert_true(hv_msr_read(f->hv, 0, msr, &value));
	return value;
}

static void wr(struct fixture *f, uint32_t msr, uint64_t value)
{
	assert_true(hv_msr_write(f->hv, 0, msr, value));
}

static void synic_on(struct fixture *f)
{
	wr(f, HV_MSR_SIMP, SIMP | 1);
	wr(f, HV_MSR_SIEFP, SIEFP | 1);
	wr(f, HV_MSR_SINT0 + SINT, VECTOR);
	wr(f, HV_MSR_SCONTROL, 1);
}

static struct hv_spec_message *slot(struct fixture *f, unsigned sint)
{
	return mem_ptr(f->mem, SIMP + sint * 256, 256);
}

/* ---- detection ---- */

static void leaves_are_those_that_guests_want(void **state)
{
	struct part_cpuid leaf[HV_CPUID_COUNT];
	struct hv_features features = { .reference_tsc = true, .synthetic_timers = true };
	char vendor[13] = { 0 };

	hv_cpuid(4, &features, leaf);
	memcpy(vendor, &leaf[0].ebx, 4);
	memcpy(vendor + 4, &leaf[0].ecx, 4);
	memcpy(vendor + 8, &leaf[0].edx, 4);
	assert_string_equal(vendor, "Microsoft Hv");
	assert_true(leaf[0].eax >= 0x40000005);
	assert_memory_equal(&leaf[1].eax, "Hv#1", 4);
	assert_int_equal(leaf[3].eax, 0xA7E);
	assert_int_equal(leaf[3].ebx, 0x30);
	assert_int_equal(leaf[3].edx, 0x80500);
	assert_int_equal(leaf[4].eax, 0x220);
	assert_int_equal(leaf[4].ebx, 0xFFFFFFFF);
	assert_int_equal(leaf[5].eax, 4);
	for (unsigned i = 0; i < HV_CPUID_COUNT; i++)
		assert_int_equal(leaf[i].leaf, 0x40000000 + i);
	features = (struct hv_features){ .tsc_invariant = true };
	hv_cpuid(4, &features, leaf);
	assert_int_equal(leaf[3].eax, 0x8876);
	assert_int_equal(leaf[3].edx, 0x500);
	features = (struct hv_features){ .overcommitted = true };
	hv_cpuid(4, &features, leaf);
	assert_int_equal(leaf[3].eax, 0xC76);
	assert_int_equal(leaf[3].edx, 0x520);
	assert_int_equal(leaf[4].eax, 0x620);
}

static void unknown_msrs_fault(void **state)
{
	static const uint32_t bad[] = {
		0x40000004, 0x40000070, 0x40000072, 0x40000085, 0x400000A0,
		0x400000B8, 0x400000F1, 0x40000106, 0x40000119, 0x400010FF
	};
	static const uint32_t read_only[] = { HV_MSR_VP_INDEX,      HV_MSR_TIME_REF_COUNT,
					      HV_MSR_TSC_FREQUENCY, HV_MSR_APIC_FREQUENCY,
					      HV_MSR_SVERSION,      HV_MSR_VP_RUNTIME };
	struct fixture *f = *state;
	uint64_t value;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(hv_msr_read(f->hv, 0, bad[i], &value));
		assert_false(hv_msr_write(f->hv, 0, bad[i], 0));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(read_only); i++) {
		assert_true(hv_msr_read(f->hv, 0, read_only[i], &value));
		assert_false(hv_msr_write(f->hv, 0, read_only[i], 0));
	}
}

static void plain_registers(void **state)
{
	struct fixture *f = *state;
	uint64_t value;

	assert_true(hv_msr_read(f->hv, 1, HV_MSR_VP_INDEX, &value));
	assert_int_equal(value, 1);
	assert_int_equal(rd(f, HV_MSR_TSC_FREQUENCY), FAKE_PART_TSC_HZ);
	assert_int_equal(rd(f, HV_MSR_APIC_FREQUENCY), FAKE_PART_APIC_HZ);
	assert_int_equal(rd(f, HV_MSR_VP_RUNTIME), 1234);
	assert_int_equal(rd(f, HV_MSR_SVERSION), 1);
	wr(f, HV_MSR_VP_ASSIST_PAGE, PAGE | 1);
	assert_int_equal(rd(f, HV_MSR_VP_ASSIST_PAGE), PAGE | 1);
	wr(f, HV_MSR_TSC_INVARIANT_CONTROL, 1);
	assert_int_equal(rd(f, HV_MSR_TSC_INVARIANT_CONTROL), 1);
	wr(f, HV_MSR_RESET, 1);
	assert_int_equal(f->resets, 1);
}

/* ---- hypercalls ---- */

static void hypercall_page_follows_the_os_id(void **state)
{
	struct fixture *f = *state;
	uint8_t page[64];
	uint8_t code[64];
	unsigned len = part_hypercall_code(&f->part, code);

	wr(f, HV_MSR_HYPERCALL, PAGE | 1);
	assert_int_equal(rd(f, HV_MSR_HYPERCALL), PAGE);
	wr(f, HV_MSR_GUEST_OS_ID, LINUX_ID);
	wr(f, HV_MSR_HYPERCALL, PAGE | 1);
	assert_int_equal(rd(f, HV_MSR_HYPERCALL), PAGE | 1);
	mem_read(f->mem, PAGE, page, sizeof(page));
	assert_memory_equal(page, code, len);
	assert_false(hv_msr_write(f->hv, 0, HV_MSR_HYPERCALL, OUTSIDE | 1));
	wr(f, HV_MSR_GUEST_OS_ID, 0);
	assert_int_equal(rd(f, HV_MSR_HYPERCALL), PAGE);
	wr(f, HV_MSR_GUEST_OS_ID, LINUX_ID);
	wr(f, HV_MSR_HYPERCALL, PAGE | 3);
	wr(f, HV_MSR_HYPERCALL, 0); /* locked */
	assert_int_equal(rd(f, HV_MSR_HYPERCALL), PAGE | 3);
	hv_reset(f->hv);
	assert_int_equal(rd(f, HV_MSR_HYPERCALL), 0);
}

static uint64_t call_with_output(struct fixture *f, uint64_t control, uint64_t input,
				 uint64_t output)
{
	struct part_hypercall part_call = { .long_mode = true,
					    .control = control,
					    .input = input,
					    .output = output,
					    .result = 0xDEAD };

	hv_hypercall(f->hv, 0, &part_call);
	return part_call.result;
}

static unsigned call(struct fixture *f, uint64_t control, uint64_t input)
{
	return (unsigned)call_with_output(f, control, input, 0);
}

static void post_message_is_checked(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_post_message in = {
		.connection_id = 1, .message_type = 1, .payload_size = 5, .payload = "four"
	};

	mem_write(f->mem, INPUT, &in, sizeof(in));
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, INPUT), HV_STATUS_SUCCESS);
	assert_int_equal(f->len, 5);
	assert_string_equal((char *)f->payload, "four");
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE | HV_CONTROL_FAST, INPUT),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE | BIT(27), INPUT),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE | BIT(32), INPUT),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE | BIT(17), INPUT),
			 HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, INPUT + 4), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, OUTSIDE), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, UINT64_MAX - 7),
			 HV_STATUS_INVALID_ALIGNMENT);
	mem_write(f->mem, INPUT + 4096 - 24, &in, 24);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, INPUT + 4096 - 24), HV_STATUS_SUCCESS);
	in.payload_size = 9;
	mem_write(f->mem, INPUT + 4096 - 24, &in, 24);
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, INPUT + 4096 - 24),
			 HV_STATUS_INVALID_ALIGNMENT);
	in.payload_size = 241;
	mem_write(f->mem, INPUT, &in, sizeof(in));
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, INPUT), HV_STATUS_INVALID_PARAMETER);
	in.payload_size = 240;
	in.connection_id = 3;
	mem_write(f->mem, INPUT, &in, sizeof(in));
	assert_int_equal(call(f, HV_CALL_POST_MESSAGE, INPUT), HV_STATUS_INVALID_CONNECTION_ID);
}

static void signal_event_both_forms(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_signal_event in = { .connection_id = 2, .flag_number = 7 };

	assert_int_equal(
	    call(f, HV_CALL_SIGNAL_EVENT | HV_CONTROL_FAST, 0x2001 | UINT64_C(5) << 32),
	    HV_STATUS_SUCCESS);
	assert_int_equal(f->connection, 0x2001);
	assert_int_equal(f->flag, 5);
	mem_write(f->mem, INPUT, &in, sizeof(in));
	assert_int_equal(call(f, HV_CALL_SIGNAL_EVENT, INPUT), HV_STATUS_SUCCESS);
	assert_int_equal(f->connection, 2);
	assert_int_equal(f->flag, 7);
}

static void cluster_ipi_both_forms(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_cluster_ipi in = { .vector = 0xFD, .processors = 3 };
	const uint64_t fast = HV_CALL_SEND_CLUSTER_IPI | HV_CONTROL_FAST;

	assert_int_equal(call_with_output(f, fast, 0xF7, 2 | BIT(40)), HV_STATUS_SUCCESS);
	assert_int_equal(f->part.interrupts[0], 0);
	assert_int_equal(f->part.interrupts[1], 1);
	assert_int_equal(f->part.last_vector[1], 0xF7);
	mem_write(f->mem, INPUT, &in, sizeof(in));
	assert_int_equal(call(f, HV_CALL_SEND_CLUSTER_IPI, INPUT), HV_STATUS_SUCCESS);
	assert_int_equal(f->part.interrupts[0], 1);
	assert_int_equal(f->part.interrupts[1], 2);
	assert_int_equal(call(f, HV_CALL_SEND_CLUSTER_IPI, OUTSIDE), HV_STATUS_INVALID_ALIGNMENT);
	assert_int_equal(call_with_output(f, fast, 15, 1), HV_STATUS_INVALID_PARAMETER);
	assert_int_equal(call_with_output(f, fast, 256, 1), HV_STATUS_INVALID_PARAMETER);
	assert_int_equal(call_with_output(f, fast, 0xF7 | BIT(32), 1), HV_STATUS_INVALID_PARAMETER);
	assert_int_equal(f->part.interrupts[0], 1);
}

static void *idle_once(void *user)
{
	struct fixture *f = user;
	uint64_t value;

	assert_true(hv_msr_read(f->hv, 1, HV_MSR_GUEST_IDLE, &value));
	return NULL;
}

/* It ends by itself, also when nobody wakes the VP; and at once when somebody has done so before.
 */
static void guest_idle_ends(void **state)
{
	struct fixture *f = *state;
	pthread_t thread;

	pthread_create(&thread, NULL, idle_once, f);
	pthread_join(thread, NULL);
	call_with_output(f, HV_CALL_SEND_CLUSTER_IPI | HV_CONTROL_FAST, 0xF7, 2);
	idle_once(f);
	pthread_create(&thread, NULL, idle_once, f);
	call_with_output(f, HV_CALL_SEND_CLUSTER_IPI | HV_CONTROL_FAST, 0xF7, 2);
	pthread_join(thread, NULL);
	assert_false(hv_msr_write(f->hv, 0, HV_MSR_GUEST_IDLE, 0));
}

static void other_codes(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(call(f, HV_CALL_NOTIFY_LONG_SPIN_WAIT | HV_CONTROL_FAST, 0),
			 HV_STATUS_SUCCESS);
	assert_int_equal(call(f, 0x0046, 0), HV_STATUS_INVALID_HYPERCALL_CODE);
	assert_int_equal(call(f, 0x0002 | HV_CONTROL_FAST, 0), HV_STATUS_INVALID_HYPERCALL_CODE);
	assert_int_equal(call(f, 0x8002, 0), HV_STATUS_INVALID_HYPERCALL_CODE);
}

static uint64_t hint(struct fixture *f, uint64_t type, const uint64_t *ranges, unsigned count)
{
	mem_write(f->mem, INPUT, &type, 8);
	mem_write(f->mem, INPUT + 8, ranges, count * 8);
	return call_with_output(f, HV_CALL_EXT_MEMORY_HEAT_HINT | (uint64_t)count << 32, INPUT, 0);
}

/* Pages that the guest reports are given back to the host, and nothing else is. */
static void reported_pages_are_released(void **state)
{
	struct fixture *f = *state;
	uint64_t capabilities = 0, byte = 0x55;
	/* four pages from 0x100000 on; outside RAM; far too many */
	const uint64_t ranges[] = { 0x100000 | 3, OUTSIDE, HV_GPA_RANGE_LARGE | 0x1FFF };

	assert_int_equal(call_with_output(f, HV_CALL_EXT_CAPABILITIES, 0, PAGE), 0);
	mem_read(f->mem, PAGE, &capabilities, 8);
	assert_int_equal(capabilities, 1 << 8);
	assert_int_equal(call_with_output(f, HV_CALL_EXT_CAPABILITIES, 0, OUTSIDE),
			 HV_STATUS_INVALID_ALIGNMENT);
	for (uint64_t gpa = 0xFF000; gpa <= 0x104000; gpa += 0x1000)
		mem_write(f->mem, gpa, &byte, 1);
	assert_int_equal(hint(f, 2, ranges, 3), HV_RESULT_REPS(3));
	for (uint64_t gpa = 0xFF000; gpa <= 0x104000; gpa += 0x1000) {
		mem_read(f->mem, gpa, &byte, 1);
		assert_int_equal(byte, gpa < 0x100000 || gpa == 0x104000 ? 0x55 : 0);
	}
	assert_int_equal((unsigned)hint(f, 1, ranges, 1), HV_STATUS_INVALID_PARAMETER);
	assert_int_equal((unsigned)hint(f, 2, ranges, 0), HV_STATUS_INVALID_HYPERCALL_INPUT);
	assert_int_equal((unsigned)call_with_output(
			     f, HV_CALL_EXT_MEMORY_HEAT_HINT | UINT64_C(511) << 32, INPUT + 8, 0),
			 HV_STATUS_INVALID_PARAMETER);
}

/* ---- SynIC ---- */

static void post(struct fixture *f, uint8_t n)
{
	assert_int_equal(hv_post_message(f->hv, 0, SINT, 1, &n, 1), 0);
}

/* As Linux: takes the message, and writes EOM only if asked to. */
static int take(struct fixture *f)
{
	struct hv_spec_message *s = slot(f, SINT);
	int n = s->type ? s->payload[0] : -1;

	s->type = 0;
	if (s->flags & HV_MESSAGE_FLAG_PENDING)
		wr(f, HV_MSR_EOM, 0);
	return n;
}

static void messages_keep_their_order(void **state)
{
	struct fixture *f = *state;

	synic_on(f);
	for (uint8_t i = 0; i < 100; i++)
		post(f, i);
	assert_int_equal(f->part.interrupts[0], 1);
	assert_int_equal(f->part.last_vector[0], VECTOR);
	assert_int_equal(hv_message_backlog(f->hv, 0, SINT), 99);
	for (int i = 0; i < 100; i++)
		assert_int_equal(take(f), i);
	assert_int_equal(take(f), -1);
	assert_int_equal(f->part.interrupts[0], 100);
	assert_int_equal(f->part.auto_eoi[0], 0);
}

static void eom_delivers_without_the_flag(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_message *s = slot(f, SINT);

	synic_on(f);
	post(f, 1);
	post(f, 2);
	s->flags = 0;
	s->type = 0;
	wr(f, HV_MSR_EOM, 0);
	assert_int_equal(s->payload[0], 2);
}

static void messages_wait_for_the_synic(void **state)
{
	struct fixture *f = *state;

	post(f, 9);
	wr(f, HV_MSR_SINT0 + SINT, VECTOR | HV_SINT_AUTO_EOI);
	wr(f, HV_MSR_SIMP, SIMP | 1);
	assert_int_equal(slot(f, SINT)->type, 0);
	wr(f, HV_MSR_SCONTROL, 1);
	assert_int_equal(take(f), 9);
	assert_int_equal(f->part.interrupts[0], 1);
	assert_int_equal(f->part.auto_eoi[0], 1);
	wr(f, HV_MSR_SINT0 + SINT, VECTOR | HV_SINT_MASKED);
	post(f, 10);
	assert_int_equal(take(f), -1);
	wr(f, HV_MSR_SINT0 + SINT, VECTOR | HV_SINT_POLLING);
	assert_int_equal(take(f), 10);
	assert_int_equal(f->part.interrupts[0], 1);
	assert_false(hv_msr_write(f->hv, 0, HV_MSR_SINT0 + SINT, 15)); /* a reserved vector */
	assert_false(hv_msr_write(f->hv, 0, HV_MSR_SIMP, OUTSIDE | 1));
}

static void queue_has_a_limit(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < HV_MESSAGE_QUEUE_MAX; i++)
		post(f, 0);
	assert_int_equal(hv_post_message(f->hv, 0, SINT, 1, NULL, 0), -ERR_LIMIT);
	hv_message_flush(f->hv, 0, SINT);
	assert_int_equal(hv_message_backlog(f->hv, 0, SINT), 0);
	assert_int_equal(hv_post_message(f->hv, 2, SINT, 1, NULL, 0), -ERR_INVALID);
}

static void event_interrupts_when_the_flag_was_clear(void **state)
{
	struct fixture *f = *state;
	uint8_t *flags = mem_ptr(f->mem, SIEFP + SINT * 256, 256);

	assert_false(hv_signal_event(f->hv, 0, SINT, 9));
	synic_on(f);
	assert_true(hv_signal_event(f->hv, 0, SINT, 9));
	assert_int_equal(flags[1], 2);
	assert_int_equal(f->part.interrupts[0], 1);
	assert_true(hv_signal_event(f->hv, 0, SINT, 9));
	assert_int_equal(f->part.interrupts[0], 1);
	flags[1] = 0;
	assert_true(hv_signal_event(f->hv, 0, SINT, 9));
	assert_int_equal(f->part.interrupts[0], 2);
	assert_true(hv_signal_event(f->hv, 0, SINT, 2047));
	assert_int_equal(flags[255], 0x80);
	assert_false(hv_signal_event(f->hv, 0, SINT, 2048));
	assert_false(hv_signal_event(f->hv, 1, SINT, 9));
}

static void vp_reset_forgets_the_synic(void **state)
{
	struct fixture *f = *state;

	synic_on(f);
	post(f, 1);
	post(f, 2);
	hv_vp_reset(f->hv, 0);
	assert_int_equal(rd(f, HV_MSR_SIMP), 0);
	assert_int_equal(rd(f, HV_MSR_SIEFP), 0);
	assert_int_equal(rd(f, HV_MSR_SCONTROL), 0);
	assert_int_equal(rd(f, HV_MSR_SINT0 + SINT), HV_SINT_MASKED);
	slot(f, SINT)->type = 0;
	synic_on(f);
	assert_int_equal(take(f), -1);
}

/* ---- time ---- */

static void page_and_counter_agree(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_tsc_page *page = mem_ptr(f->mem, PAGE, sizeof(*page));
	uint64_t first = rd(f, HV_MSR_TIME_REF_COUNT);

	assert_in_range(first, 0, HV_TIME_HZ);
	wr(f, HV_MSR_REFERENCE_TSC, PAGE | 1);
	assert_int_not_equal(page->sequence, 0);
	assert_int_not_equal(page->sequence, 0xFFFFFFFF);
	for (uint64_t i = 1; i < 1000; i++) {
		uint64_t by_page;

		f->part.frozen_tsc = clock_now_ns() * 2 + i * 7919 * FAKE_PART_TSC_HZ;
		by_page = (uint64_t)(((unsigned __int128)f->part.frozen_tsc * page->scale) >> 64) +
			  (uint64_t)page->offset;
		assert_int_equal(rd(f, HV_MSR_TIME_REF_COUNT), by_page);
	}
	f->part.frozen_tsc = clock_now_ns() * 2;
	first = hv_reference_time(f->hv);
	f->part.frozen_tsc += FAKE_PART_TSC_HZ;
	assert_in_range(hv_reference_time(f->hv) - first, HV_TIME_HZ - 1, HV_TIME_HZ + 1);
	assert_false(hv_msr_write(f->hv, 0, HV_MSR_REFERENCE_TSC, OUTSIDE | 1));
	assert_int_equal(rd(f, HV_MSR_REFERENCE_TSC), PAGE | 1);
}

#define DIRECT_CONFIG (HV_STIMER_DIRECT | HV_STIMER_AUTO_ENABLE | 0xEDull << 4)
#define CONFIG(n)     (HV_MSR_STIMER0_CONFIG + 2 * (n))
#define COUNT(n)      (HV_MSR_STIMER0_CONFIG + 2 * (n) + 1)

static void run_for(struct fixture *f, unsigned ms)
{
	uint64_t end = clock_now_ns() + ms * NS_PER_MSEC;

	while (clock_now_ns() < end)
		loop_step(f->loop, 1);
}

static void one_shot_fires_once_at_its_time(void **state)
{
	struct fixture *f = *state;
	uint64_t due = hv_reference_time(f->hv) + 20 * 10000;

	wr(f, CONFIG(0), DIRECT_CONFIG);
	wr(f, COUNT(0), due);
	/* We may not have run for longer than that. */
	assert_true(rd(f, CONFIG(0)) & HV_STIMER_ENABLE || hv_reference_time(f->hv) >= due);
	run_for(f, 10);
	assert_true(f->part.interrupts[0] == 0 || hv_reference_time(f->hv) >= due);
	while (f->part.interrupts[0] == 0)
		loop_step(f->loop, 1);
	run_for(f, 20);
	assert_int_equal(f->part.interrupts[0], 1);
	assert_int_equal(f->part.last_vector[0], 0xED);
	assert_false(rd(f, CONFIG(0)) & HV_STIMER_ENABLE);
	wr(f, COUNT(0), 1); /* long past: at once */
	assert_int_equal(f->part.interrupts[0], 2);
	wr(f, COUNT(0), hv_reference_time(f->hv) + 20 * 10000);
	wr(f, COUNT(0), 0); /* stopped */
	assert_false(rd(f, CONFIG(0)) & HV_STIMER_ENABLE);
	run_for(f, 40);
	assert_int_equal(f->part.interrupts[0], 2);
}

static void periodic_keeps_firing(void **state)
{
	struct fixture *f = *state;

	wr(f, COUNT(1), 5 * 10000);
	wr(f, CONFIG(1), HV_STIMER_DIRECT | HV_STIMER_ENABLE | HV_STIMER_PERIODIC | 0xECull << 4);
	run_for(f, 100);
	assert_in_range(f->part.interrupts[0], 5, 20);
	wr(f, CONFIG(1), 0);
	f->part.interrupts[0] = 0;
	run_for(f, 20);
	assert_int_equal(f->part.interrupts[0], 0);
	/* One that would take all of the loop's time is slowed down. */
	wr(f, COUNT(1), 1);
	wr(f, CONFIG(1), HV_STIMER_DIRECT | HV_STIMER_ENABLE | HV_STIMER_PERIODIC | 0xECull << 4);
	run_for(f, 20);
	assert_in_range(f->part.interrupts[0], 1, 600);
}

static void message_mode_posts_to_its_sint(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_timer_payload payload;
	struct hv_spec_message *s = slot(f, 4);

	synic_on(f);
	wr(f, HV_MSR_SINT0 + 4, 0x50);
	wr(f, CONFIG(2), HV_STIMER_AUTO_ENABLE | 4ull << 16);
	wr(f, COUNT(2), 12);
	assert_int_equal(s->type, HV_MESSAGE_TIMER);
	assert_int_equal(s->payload_size, sizeof(payload));
	memcpy(&payload, s->payload, sizeof(payload));
	assert_int_equal(payload.timer_index, 2);
	assert_int_equal(payload.expiration_time, 12);
	assert_true(payload.delivery_time >= 12);
	assert_int_equal(f->part.last_vector[0], 0x50);
	wr(f, COUNT(2), 13); /* waits for the slot */
	wr(f, COUNT(2), 14); /* merged with it */
	assert_int_equal(hv_message_backlog(f->hv, 0, 4), 1);
	s->type = 0;
	wr(f, HV_MSR_EOM, 0);
	assert_int_equal(s->type, HV_MESSAGE_TIMER);
	assert_int_equal(hv_message_backlog(f->hv, 0, 4), 0);
	/* No SINT: can't be enabled. */
	wr(f, CONFIG(3), HV_STIMER_ENABLE);
	assert_int_equal(rd(f, CONFIG(3)), 0);
	assert_false(hv_msr_write(f->hv, 0, CONFIG(3), BIT(40)));
	assert_false(hv_msr_write(f->hv, 0, CONFIG(3), HV_STIMER_DIRECT | HV_STIMER_ENABLE));
}

/* ---- crash ---- */

static void crash_report(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(rd(f, HV_MSR_CRASH_CTL), HV_CRASH_CTL_NOTIFY | HV_CRASH_CTL_MESSAGE);
	mem_write(f->mem, PAGE, "Kernel panic", 12);
	for (unsigned i = 0; i < 3; i++)
		wr(f, HV_MSR_CRASH_P0 + i, i + 1);
	wr(f, HV_MSR_CRASH_P0 + 3, PAGE);
	wr(f, HV_MSR_CRASH_P4, 12);
	assert_int_equal(rd(f, HV_MSR_CRASH_P0 + 3), PAGE);
	wr(f, HV_MSR_CRASH_CTL, HV_CRASH_CTL_NOTIFY | HV_CRASH_CTL_MESSAGE);
	assert_int_equal(f->crashes, 1);
	assert_string_equal(f->crash_text, "Kernel panic");
	assert_int_equal(f->crash_params[2], 3);
	wr(f, HV_MSR_CRASH_P4, UINT64_MAX);
	wr(f, HV_MSR_CRASH_CTL, HV_CRASH_CTL_NOTIFY | HV_CRASH_CTL_MESSAGE);
	assert_int_equal(strlen(f->crash_text), 12);
	wr(f, HV_MSR_CRASH_P0 + 3, OUTSIDE);
	wr(f, HV_MSR_CRASH_CTL, HV_CRASH_CTL_NOTIFY | HV_CRASH_CTL_MESSAGE);
	assert_string_equal(f->crash_text, "(none)");
	wr(f, HV_MSR_CRASH_CTL, 0);
	assert_int_equal(f->crashes, 3);
}

/* ---- threads ---- */

enum { STRESS_MESSAGES = 20000 };

static void *post_many(void *user)
{
	struct fixture *f = user;

	for (uint32_t i = 0; i < STRESS_MESSAGES; i++)
		while (hv_post_message(f->hv, 0, SINT, 1, &i, sizeof(i)) < 0)
			sched_yield();
	return NULL;
}

/* The guest's side of the slot without the host's help but for EOM: no message may get stuck. */
static void slot_protocol_loses_nothing(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_message *s = slot(f, SINT);
	uint64_t end = clock_now_ns() + 60 * NS_PER_SEC;
	uint32_t expected = 0;
	pthread_t thread;

	synic_on(f);
	assert_int_equal(pthread_create(&thread, NULL, post_many, f), 0);
	while (expected < STRESS_MESSAGES && clock_now_ns() < end) {
		uint32_t n;

		if (!__atomic_load_n(&s->type, __ATOMIC_ACQUIRE))
			continue;
		memcpy(&n, s->payload, sizeof(n));
		assert_int_equal(n, expected);
		expected++;
		__atomic_store_n(&s->type, 0, __ATOMIC_SEQ_CST);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&s->flags, __ATOMIC_SEQ_CST) & HV_MESSAGE_FLAG_PENDING)
			wr(f, HV_MSR_EOM, 0);
	}
	assert_int_equal(expected, STRESS_MESSAGES);
	pthread_join(thread, NULL);
}

/* ---- state ---- */

/* The fixture's interface is saved and replaced by a new one that takes it over. */
static void move(struct fixture *f)
{
	struct state_out *out = state_out_new(0);
	struct hv_config config = { .loop = f->loop, .mem = f->mem, .vp_count = 2 };
	const uint8_t *bytes;
	struct state_in *in;
	struct error err;
	size_t size;

	hv_save(f->hv, out);
	assert_int_equal(state_out_bytes(out, &bytes, &size, NULL), 0);
	assert_int_equal(state_in_new(bytes, size, 0, &in, NULL), 0);
	hv_free(f->hv);
	assert_int_equal(hv_saved_features(in, &config.features, NULL), 0);
	assert_int_equal(hv_new(&config, &f->hv, NULL), 0);
	/* Another host's TSC. */
	f->part.frozen_tsc = f->part.frozen_tsc ? f->part.frozen_tsc + 1000000000 : 0;
	hv_set_part(f->hv, &f->part);
	if (hv_restore(f->hv, in, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(state_in_finish(in, NULL), 0);
	state_in_free(in);
	state_out_free(out);
}

static void saved_registers_come_back(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_tsc_page *page = mem_ptr(f->mem, PAGE + MEM_PAGE_SIZE, MEM_PAGE_SIZE);
	uint64_t before, offset;

	f->part.frozen_tsc = 5000000000;
	synic_on(f);
	wr(f, HV_MSR_GUEST_OS_ID, LINUX_ID);
	wr(f, HV_MSR_HYPERCALL, PAGE | 1);
	wr(f, HV_MSR_REFERENCE_TSC, (PAGE + MEM_PAGE_SIZE) | 1);
	wr(f, HV_MSR_CRASH_P0, 42);
	f->part.frozen_tsc += 2000000;
	before = rd(f, HV_MSR_TIME_REF_COUNT);
	offset = (uint64_t)page->offset;
	memset(mem_ptr(f->mem, PAGE, MEM_PAGE_SIZE), 0, MEM_PAGE_SIZE);
	move(f);
	assert_int_equal(rd(f, HV_MSR_TIME_REF_COUNT), before);
	assert_int_equal(rd(f, HV_MSR_GUEST_OS_ID), LINUX_ID);
	assert_int_equal(rd(f, HV_MSR_HYPERCALL), PAGE | 1);
	assert_int_equal(rd(f, HV_MSR_CRASH_P0), 42);
	assert_int_equal(rd(f, HV_MSR_SIMP), SIMP | 1);
	/* What was offered is there. */
	assert_int_equal(rd(f, HV_MSR_GUEST_IDLE), 0);
	/* The pages are this host's, and a reader of the old values notices. */
	assert_int_equal(*(uint8_t *)mem_ptr(f->mem, PAGE, 1), 0xF3);
	assert_int_equal(page->sequence, 2);
	assert_true((uint64_t)page->offset != offset);
}

static void saved_messages_keep_their_order(void **state)
{
	struct fixture *f = *state;
	struct hv_spec_message *first = slot(f, SINT);
	uint32_t number;

	synic_on(f);
	for (number = 1; number <= 3; number++)
		assert_int_equal(hv_post_message(f->hv, 0, SINT, 1, &number, sizeof(number)), 0);
	assert_int_equal(hv_message_backlog(f->hv, 0, SINT), 2);
	move(f);
	assert_int_equal(hv_message_backlog(f->hv, 0, SINT), 2);
	for (number = 1; number <= 3; number++) {
		assert_memory_equal(first->payload, &number, sizeof(number));
		first->type = 0;
		wr(f, HV_MSR_EOM, 0);
	}
}

static void saved_timer_fires_at_its_time(void **state)
{
	struct fixture *f = *state;
	unsigned before;

	synic_on(f);
	wr(f, HV_MSR_STIMER0_CONFIG, 1 << 12 | 0x40 << 4 | 1 << 3); /* direct, auto */
	wr(f, HV_MSR_STIMER0_CONFIG + 1, rd(f, HV_MSR_TIME_REF_COUNT) + 100000);
	before = f->part.interrupts[0];
	move(f);
	assert_int_equal(f->part.interrupts[0], before);
	for (int i = 0; i < 200 && f->part.interrupts[0] == before; i++)
		loop_step(f->loop, 10);
	assert_int_equal(f->part.interrupts[0], before + 1);
	assert_int_equal(f->part.last_vector[0], 0x40);
}

static void state_tables(void **state)
{
	STATE_CHECK(struct hv_state, hv_state_desc);
	STATE_CHECK(struct hv_message_state, hv_message_state_desc);
	STATE_CHECK(struct hv_vp_state, hv_vp_state_desc);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leaves_are_those_that_guests_want),
		TEST(unknown_msrs_fault),
		TEST(plain_registers),
		TEST(hypercall_page_follows_the_os_id),
		TEST(post_message_is_checked),
		TEST(signal_event_both_forms),
		TEST(cluster_ipi_both_forms),
		TEST(guest_idle_ends),
		TEST(other_codes),
		TEST(reported_pages_are_released),
		TEST(messages_keep_their_order),
		TEST(eom_delivers_without_the_flag),
		TEST(messages_wait_for_the_synic),
		TEST(queue_has_a_limit),
		TEST(event_interrupts_when_the_flag_was_clear),
		TEST(vp_reset_forgets_the_synic),
		TEST(page_and_counter_agree),
		TEST(one_shot_fires_once_at_its_time),
		TEST(periodic_keeps_firing),
		TEST(message_mode_posts_to_its_sint),
		TEST(crash_report),
		TEST(slot_protocol_loses_nothing),
		TEST(saved_registers_come_back),
		TEST(saved_messages_keep_their_order),
		TEST(saved_timer_fires_at_its_time),
		cmocka_unit_test(state_tables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
