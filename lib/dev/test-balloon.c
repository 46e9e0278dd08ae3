/* Dynamic memory against a driver that does what hv_balloon does. */
#include "vmbus-guest.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "dev/balloon-state.h"
#include "dev/balloon.h"
#include "spec/dynmem.h"
#include "state/check-state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define RAM   (16 * MIB)
#define REACH (512 * MIB)

static const struct guid class_id =
    GUID_INIT(0x525074dc, 0x8985, 0x46e2, 0x80, 0x57, 0xa3, 0x07, 0xdc, 0x18, 0xa5, 0x02);

struct fixture {
	struct vmbus_guest *guest;
	struct balloon *balloon;
	struct vmbus_guest_channel *channel;
	bool refuse_growth;
	unsigned changes;
};

static int on_grow(void *user, uint64_t size_bytes)
{
	struct fixture *f = user;

	if (f->refuse_growth)
		return -ERR_NO_MEMORY;
	mem_grow(f->guest->mem, size_bytes);
	return 0;
}

static void on_changed(void *user)
{
	((struct fixture *)user)->changes++;
}

static void new_balloon(void *user, struct vmbus_guest *guest)
{
	struct fixture *f = user;
	struct balloon_config config = { .bus = guest->bus,
					 .loop = guest->loop,
					 .mem = guest->mem,
					 .first_bytes = RAM,
					 .grow = on_grow,
					 .changed = on_changed,
					 .user = f };

	assert_int_equal(balloon_new(&config, &f->balloon, NULL), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->guest = vmbus_guest_new_growable(1, RAM, REACH);
	new_balloon(f, f->guest);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	f->channel = vmbus_guest_open(f->guest, vmbus_guest_offer(f->guest, &class_id, 0), 4, 4);
	assert_non_null(f->channel);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	balloon_free(f->balloon);
	vmbus_guest_forget(f->channel);
	vmbus_guest_free(f->guest);
	free(f);
	return 0;
}

static void say(struct fixture *f, enum dynmem_type type, void *message, size_t bytes)
{
	struct dynmem_header header = { (uint16_t)type, (uint16_t)bytes, 7 };

	memcpy(message, &header, sizeof(header));
	assert_true(vmbus_guest_send(f->channel, 0, false, message, (uint32_t)bytes));
	for (int i = 0; i < 3; i++)
		vmbus_guest_step(f->guest);
}

static void hear(struct fixture *f, enum dynmem_type type, void *ret, size_t bytes)
{
	struct vmbus_guest_packet packet;

	assert_true(vmbus_guest_recv(f->channel, &packet));
	assert_int_equal(load_le16(packet.payload), type);
	assert_true(packet.payload_len >= bytes);
	memcpy(ret, packet.payload, bytes);
}

static void negotiate(struct fixture *f, uint64_t capabilities)
{
	struct dynmem_version_request version = { .version = 0x30000 };
	struct dynmem_capabilities caps = { .capabilities = capabilities, .max_page = UINT64_MAX };
	struct dynmem_accepted answer;

	say(f, DYNMEM_VERSION_REQUEST, &version, sizeof(version));
	hear(f, DYNMEM_VERSION_RESPONSE, &answer, sizeof(answer));
	assert_int_equal(answer.accepted, 0);
	version.version = DYNMEM_VERSION_3;
	say(f, DYNMEM_VERSION_REQUEST, &version, sizeof(version));
	hear(f, DYNMEM_VERSION_RESPONSE, &answer, sizeof(answer));
	assert_int_equal(answer.accepted, 1);
	say(f, DYNMEM_CAPABILITIES_REPORT, &caps, sizeof(caps));
	hear(f, DYNMEM_CAPABILITIES_RESPONSE, &answer, sizeof(answer));
	assert_int_equal(answer.accepted, 1);
}

#define CAPABILITIES (DYNMEM_CAN_BALLOON | DYNMEM_CAN_HOT_ADD | 7 << 2)

static struct balloon_status status(struct fixture *f)
{
	struct balloon_status status;

	balloon_status(f->balloon, &status);
	return status;
}

static void give(struct fixture *f, const uint64_t *ranges, uint32_t count, bool more)
{
	struct {
		struct dynmem_balloon_response head;
		uint64_t ranges[16];
	} message = { .head.more_and_count = count << 1 | more };

	memcpy(message.ranges, ranges, count * sizeof(*ranges));
	say(f, DYNMEM_BALLOON_RESPONSE, &message, sizeof(message.head) + count * 8);
}

static void test_reports(void **state)
{
	struct fixture *f = *state;
	struct dynmem_status report = { .available_pages = 1024, .committed_pages = 512 };

	assert_int_equal(status(f).version, 0);
	negotiate(f, CAPABILITIES);
	assert_int_equal(status(f).version, DYNMEM_VERSION_3);
	assert_int_equal(status(f).assigned_bytes, RAM);
	assert_int_equal(status(f).demand_bytes, 0);
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).available_bytes, 4 * MIB);
	assert_int_equal(status(f).demand_bytes, 12 * MIB);
	/* promised, if not touched yet */
	report.committed_pages = 8192;
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).demand_bytes, 32 * MIB);
	report.available_pages = report.committed_pages = UINT64_MAX;
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).available_bytes, RAM);
	assert_int_equal(status(f).demand_bytes, REACH);
	assert_true(f->changes >= 4);
}

/* A report from amid an operation counts pages that are on their way: it is no demand. */
static void test_report_amid_an_operation(void **state)
{
	struct fixture *f = *state;
	struct dynmem_status report = { .available_pages = 2048 };
	const uint64_t range = DYNMEM_RANGE(0x800, 1024);
	struct dynmem_balloon_request request;

	negotiate(f, CAPABILITIES);
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).demand_bytes, RAM - 8 * MIB);
	balloon_set_target(f->balloon, RAM - 4 * MIB);
	hear(f, DYNMEM_BALLOON_REQUEST, &request, sizeof(request));
	report.available_pages = 1024;
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).demand_bytes, RAM - 8 * MIB);
	give(f, &range, 1, false);
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).demand_bytes, RAM - 8 * MIB);
	assert_int_equal(status(f).growth_bytes, 0);
}

static void test_growth(void **state)
{
	struct fixture *f = *state;
	struct dynmem_status report = { .available_pages = 3072 };
	uint64_t growth;

	negotiate(f, CAPABILITIES);
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).growth_bytes, 0);
	report.available_pages = 1024;
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	growth = status(f).growth_bytes;
	assert_true(growth > 0 && growth <= 16 * MIB);
	report.available_pages = 2048;
	say(f, DYNMEM_STATUS_REPORT, &report, sizeof(report));
	assert_int_equal(status(f).growth_bytes, growth / 4 * 3);
}

/* What the guest gives is zero and the host's; it comes back page for page. */
static void test_balloon(void **state)
{
	struct fixture *f = *state;
	const uint64_t ranges[] = { DYNMEM_RANGE(0x800, 512), DYNMEM_RANGE(0xA00, 1),
				    DYNMEM_RANGE(0xA02, 3) };
	struct dynmem_balloon_request request;
	uint8_t message[64], byte = 0x77;
	uint64_t backed;

	negotiate(f, CAPABILITIES);
	for (uint64_t gpa = 8 * MIB; gpa < 12 * MIB; gpa += MEM_PAGE_SIZE)
		mem_write(f->guest->mem, gpa, &byte, 1);
	backed = mem_backed_bytes(f->guest->mem);
	balloon_set_target(f->balloon, RAM - 4 * MIB);
	hear(f, DYNMEM_BALLOON_REQUEST, &request, sizeof(request));
	assert_int_equal(request.pages, 1024);
	give(f, ranges, 2, true);
	give(f, ranges + 1, 2, false); /* one of them a second time */
	assert_int_equal(status(f).ballooned_bytes, 516 * MEM_PAGE_SIZE);
	assert_int_equal(status(f).assigned_bytes, RAM - 516 * MEM_PAGE_SIZE);
	assert_true(backed - mem_backed_bytes(f->guest->mem) >= 512 * MEM_PAGE_SIZE);
	mem_read(f->guest->mem, 0x9FF000, &byte, 1);
	assert_int_equal(byte, 0);
	mem_read(f->guest->mem, 0xA01000, &byte, 1);
	assert_int_equal(byte, 0x77);

	balloon_set_target(f->balloon, RAM);
	hear(f, DYNMEM_UNBALLOON_REQUEST, message, 16 + 2 * 8);
	assert_int_equal(load_le32(message + 8), 0);
	assert_int_equal(load_le32(message + 12), 2);
	assert_int_equal(load_le64(message + 16), DYNMEM_RANGE(0x800, 513));
	assert_int_equal(load_le64(message + 24), DYNMEM_RANGE(0xA02, 3));
	say(f, DYNMEM_UNBALLOON_RESPONSE, message, sizeof(struct dynmem_header));
	assert_int_equal(status(f).assigned_bytes, RAM);
}

static void test_odd_answers(void **state)
{
	struct fixture *f = *state;
	const uint64_t ranges[] = { DYNMEM_RANGE(0x100000, 16), DYNMEM_RANGE(0xFFF, 2),
				    DYNMEM_RANGE(0, 0), DYNMEM_RANGE(0xFFFFFFFFFF, 0xFFFFFF) };
	struct dynmem_balloon_request request;
	struct dynmem_balloon_response lie = { .more_and_count = UINT32_MAX };

	/* before negotiation, and without being asked */
	give(f, (uint64_t[]){ DYNMEM_RANGE(0x800, 16) }, 1, false);
	negotiate(f, CAPABILITIES);
	give(f, (uint64_t[]){ DYNMEM_RANGE(0x800, 16) }, 1, false);
	assert_int_equal(status(f).ballooned_bytes, 0);
	balloon_set_target(f->balloon, RAM - 8 * MIB);
	hear(f, DYNMEM_BALLOON_REQUEST, &request, sizeof(request));
	give(f, ranges, 4, true);
	say(f, DYNMEM_BALLOON_RESPONSE, &lie, sizeof(lie));
	assert_int_equal(status(f).ballooned_bytes, 0);
	assert_int_equal(status(f).assigned_bytes, RAM);
}

static void test_hot_add(void **state)
{
	struct fixture *f = *state;
	struct dynmem_hot_add_response answer = { .pages = 32768, .result = 1 };
	struct dynmem_hot_add_request request;
	struct dynmem_balloon_request balloon;
	uint8_t byte;

	negotiate(f, CAPABILITIES);
	balloon_set_target(f->balloon, RAM + 64 * MIB);
	hear(f, DYNMEM_HOT_ADD_REQUEST, &request, sizeof(request));
	/* The first whole block behind what it has; RAM by now. */
	assert_int_equal(request.range, DYNMEM_RANGE(32768, 32768));
	assert_true(mem_read(f->guest->mem, 256 * MIB - 1, &byte, 1));
	assert_int_equal(status(f).assigned_bytes, RAM);
	say(f, DYNMEM_HOT_ADD_RESPONSE, &answer, sizeof(answer));
	assert_int_equal(status(f).assigned_bytes, RAM + 128 * MIB);
	/* What is over goes into the balloon. */
	hear(f, DYNMEM_BALLOON_REQUEST, &balloon, sizeof(balloon));
	assert_int_equal(balloon.pages, 64 * MIB / MEM_PAGE_SIZE);
	give(f, (uint64_t[]){ DYNMEM_RANGE(32768, 16384) }, 1, false);
	assert_int_equal(status(f).assigned_bytes, RAM + 64 * MIB);
	/* A reset takes it all away. */
	mem_clear(f->guest->mem);
	balloon_reset(f->balloon);
	assert_int_equal(status(f).assigned_bytes, RAM);
	assert_false(mem_read(f->guest->mem, RAM, &byte, 1));
}

static void test_hot_add_refused(void **state)
{
	struct fixture *f = *state;
	struct dynmem_hot_add_response answer = { .pages = 0, .result = 1 };
	struct dynmem_hot_add_request request;

	negotiate(f, CAPABILITIES);
	f->refuse_growth = true;
	balloon_set_target(f->balloon, REACH);
	f->refuse_growth = false;
	balloon_set_target(f->balloon, REACH);
	hear(f, DYNMEM_HOT_ADD_REQUEST, &request, sizeof(request));
	/* up to the reach */
	assert_int_equal(request.range, DYNMEM_RANGE(32768, 3 * 32768));
	say(f, DYNMEM_HOT_ADD_RESPONSE, &answer, sizeof(answer));
	assert_int_equal(status(f).assigned_bytes, RAM);
	/* more than was offered */
	say(f, DYNMEM_HOT_ADD_RESPONSE, &answer, sizeof(answer));
	assert_int_equal(status(f).assigned_bytes, RAM);
}

/* Another kernel may be at work behind a new session: it has no balloon. */
static void test_new_session(void **state)
{
	struct fixture *f = *state;
	struct dynmem_balloon_request request;

	negotiate(f, CAPABILITIES);
	balloon_set_target(f->balloon, RAM - 4 * MIB);
	hear(f, DYNMEM_BALLOON_REQUEST, &request, sizeof(request));
	give(f, (uint64_t[]){ DYNMEM_RANGE(0x800, 1024) }, 1, false);
	assert_int_equal(status(f).ballooned_bytes, 4 * MIB);
	vmbus_guest_close(f->channel);
	assert_int_equal(status(f).ballooned_bytes, 0);
	assert_int_equal(status(f).version, 0);
	f->channel = vmbus_guest_open(f->guest, vmbus_guest_offer(f->guest, &class_id, 0), 4, 4);
	assert_non_null(f->channel);
	negotiate(f, CAPABILITIES);
	hear(f, DYNMEM_BALLOON_REQUEST, &request, sizeof(request));
}

static void save_balloon(void *user, struct state_out *out)
{
	balloon_save(((struct fixture *)user)->balloon, out);
}

static void free_balloon(void *user)
{
	balloon_free(((struct fixture *)user)->balloon);
}

static int restore_balloon(void *user, struct state_in *in, struct error *err)
{
	uint64_t reach;
	int r = balloon_saved_reach(in, &reach, err);

	assert_int_equal(r, 0);
	assert_int_equal(reach, REACH);
	return balloon_restore(((struct fixture *)user)->balloon, in, err);
}

/* In the middle of a request: the answer comes after the restore, and so do the pages. */
static void test_save_and_restore(void **state)
{
	static const struct vmbus_guest_move ops = { save_balloon, free_balloon, new_balloon,
						     restore_balloon };
	struct fixture *f = *state;
	struct dynmem_balloon_request request;
	uint8_t message[64];
	struct error err;

	STATE_CHECK(struct balloon_state, balloon_state_desc);
	negotiate(f, CAPABILITIES);
	balloon_set_target(f->balloon, RAM - 4 * MIB);
	hear(f, DYNMEM_BALLOON_REQUEST, &request, sizeof(request));
	give(f, (uint64_t[]){ DYNMEM_RANGE(0x800, 512) }, 1, true);
	assert_true(vmbus_guest_move(f->guest, &ops, f, &err));
	assert_int_equal(status(f).version, DYNMEM_VERSION_3);
	assert_int_equal(status(f).ballooned_bytes, 2 * MIB);
	give(f, (uint64_t[]){ DYNMEM_RANGE(0xA00, 512) }, 1, false);
	assert_int_equal(status(f).ballooned_bytes, 4 * MIB);
	balloon_set_target(f->balloon, RAM);
	hear(f, DYNMEM_UNBALLOON_REQUEST, message, 16 + 8);
	assert_int_equal(load_le64(message + 16), DYNMEM_RANGE(0x800, 1024));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reports),          TEST(test_report_amid_an_operation),
		TEST(test_growth),           TEST(test_balloon),
		TEST(test_odd_answers),      TEST(test_hot_add),
		TEST(test_hot_add_refused),  TEST(test_new_session),
		TEST(test_save_and_restore),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
