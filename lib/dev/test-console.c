/* Keyboard, mouse and video against drivers that do what Linux's do. */
#include "vmbus-guest.h"

#include "base/bytes.h"
#include "base/macros.h"
#include "dev/console-state.h"
#include "dev/keymap.h"
#include "dev/mouse.h"
#include "dev/video.h"
#include "spec/input.h"
#include "spec/synthvid.h"
#include "state/check-state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static const struct guid class_keyboard =
    GUID_INIT(0xf912ad6d, 0x2b17, 0x48ea, 0xbd, 0x65, 0xf9, 0x27, 0xa6, 0x1c, 0x76, 0x84);
static const struct guid class_mouse =
    GUID_INIT(0xcfa8b69e, 0x5b4a, 0x4cc0, 0xb9, 0x8b, 0x8b, 0xa1, 0xa1, 0xf3, 0xf9, 0x5a);
static const struct guid class_video =
    GUID_INIT(0xda0a7802, 0xe377, 0x4aac, 0x8e, 0x77, 0x05, 0x58, 0xeb, 0x10, 0x73, 0xf8);

#define VRAM_GPA UINT64_C(0xF8000000)

struct fixture {
	struct vmbus_guest *guest;
	struct keyboard *keyboard;
	struct mouse *mouse;
	struct video *video;
	struct vmbus_guest_channel *channel;
	unsigned modes, damages;
};

static bool on_map(void *user, uint64_t gpa)
{
	return gpa == VRAM_GPA;
}

static void on_mode(void *user)
{
	((struct fixture *)user)->modes++;
}

static void on_damage(void *user)
{
	((struct fixture *)user)->damages++;
}

static void new_devices(void *user, struct vmbus_guest *guest)
{
	struct fixture *f = user;
	struct video_config config = { .bus = guest->bus,
				       .choice = VIDEO_UP_TO,
				       .width = 1920,
				       .height = 1080,
				       .map = on_map,
				       .mode_changed = on_mode,
				       .damaged = on_damage,
				       .user = f };

	assert_int_equal(keyboard_new(guest->bus, &f->keyboard, NULL), 0);
	assert_int_equal(mouse_new(guest->bus, &f->mouse, NULL), 0);
	assert_int_equal(video_new(&config, &f->video, NULL), 0);
}

static void free_devices(void *user)
{
	struct fixture *f = user;

	video_free(f->video);
	mouse_free(f->mouse);
	keyboard_free(f->keyboard);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->guest = vmbus_guest_new(1, 16 * MIB);
	new_devices(f, f->guest);
	assert_true(vmbus_guest_connect(f->guest, VMBUS_VERSION_5_3));
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	free_devices(f);
	if (f->channel)
		vmbus_guest_forget(f->channel);
	vmbus_guest_free(f->guest);
	free(f);
	return 0;
}

static void open_channel(struct fixture *f, const struct guid *class_id)
{
	f->channel = vmbus_guest_open(f->guest, vmbus_guest_offer(f->guest, class_id, 0), 4, 4);
	assert_non_null(f->channel);
}

/* The next in-band packet; completions are passed over. */
static void hear(struct fixture *f, void *ret, size_t bytes)
{
	struct vmbus_guest_packet packet;

	do
		assert_true(vmbus_guest_recv(f->channel, &packet));
	while (packet.type != VMBUS_INBAND);
	assert_true(packet.payload_len >= bytes);
	memcpy(ret, packet.payload, bytes);
}

static void steps(struct fixture *f)
{
	for (int i = 0; i < 3; i++)
		vmbus_guest_step(f->guest);
}

/* ---- keyboard ---- */

static void test_keyboard(void **state)
{
	struct fixture *f = *state;
	struct keyboard_protocol request = { KEYBOARD_PROTOCOL_REQUEST, KEYBOARD_VERSION }, answer;
	struct keyboard_event event;
	struct error err;

	assert_int_equal(keyboard_press(f->keyboard, KEYMAP_SHIFT, true, &err), -ERR_STATE);
	open_channel(f, &class_keyboard);
	vmbus_guest_send(f->channel, 1, true, &request, sizeof(request));
	hear(f, &answer, sizeof(answer));
	assert_int_equal(answer.type, KEYBOARD_PROTOCOL_RESPONSE);
	assert_int_equal(answer.value, 1);
	assert_int_equal(
	    keyboard_press(f->keyboard, (struct keyboard_key){ 0x53, true }, false, NULL), 0);
	hear(f, &event, sizeof(event));
	assert_int_equal(event.type, KEYBOARD_EVENT);
	assert_int_equal(event.make_code, 0x53);
	assert_int_equal(event.flags, KEYBOARD_BREAK | KEYBOARD_E0);
}

/* More than the ring holds waits, in order; more than that is refused. */
static void test_keyboard_full(void **state)
{
	struct fixture *f = *state;
	struct keyboard_protocol request = { KEYBOARD_PROTOCOL_REQUEST, KEYBOARD_VERSION }, answer;
	struct keyboard_event event;
	unsigned typed = 0;
	struct error err;

	open_channel(f, &class_keyboard);
	vmbus_guest_send(f->channel, 1, true, &request, sizeof(request));
	hear(f, &answer, sizeof(answer));
	while (keyboard_press(f->keyboard, (struct keyboard_key){ (uint16_t)typed, false }, true,
			      &err) == 0)
		typed++;
	assert_int_equal(err.code, ERR_BUSY);
	assert_true(typed > KEYBOARD_QUEUE_MAX);
	for (unsigned i = 0; i < typed; i++) {
		hear(f, &event, sizeof(event));
		assert_int_equal(event.make_code, i);
	}
	assert_int_equal(keyboard_room(f->keyboard), KEYBOARD_QUEUE_MAX);
}

static void test_keyboard_odd(void **state)
{
	struct fixture *f = *state;
	struct keyboard_protocol request = { KEYBOARD_PROTOCOL_REQUEST, 0x20000 }, answer;

	open_channel(f, &class_keyboard);
	vmbus_guest_send(f->channel, 1, false, "ab", 2);
	vmbus_guest_send(f->channel, 1, false, &request, 4);
	vmbus_guest_send(f->channel, 1, false, &request, sizeof(request));
	hear(f, &answer, sizeof(answer));
	assert_int_equal(answer.value, 0);
	assert_int_equal(keyboard_press(f->keyboard, KEYMAP_SHIFT, true, NULL), -ERR_STATE);
}

static void test_keymap(void **state)
{
	struct keyboard_key key;
	unsigned there = 0;
	bool shift;

	for (int c = 0; c < 256; c++)
		there += keymap_character((unsigned char)c, &key, &shift);
	assert_int_equal(there, 95 + 2); /* printable ASCII, Enter and Tab */
	assert_true(keymap_character('a', &key, &shift));
	assert_true(key.code == 0x1e && !shift);
	assert_true(keymap_character('|', &key, &shift));
	assert_true(key.code == 0x2b && shift);
	assert_true(keymap_character(' ', &key, &shift));
	assert_int_equal(key.code, 0x39);
	assert_true(keymap_character('?', &key, &shift));
	assert_true(key.code == 0x35 && shift);
	assert_true(keymap_character('\n', &key, &shift));
	assert_int_equal(key.code, 0x1c);
	assert_true(keymap_name("delete+", 6, &key));
	assert_true(key.code == 0x53 && key.extended);
	assert_true(keymap_name("x", 1, &key));
	assert_false(keymap_name("X", 1, &key));
	assert_false(keymap_name("Nokey", 5, &key));
	assert_false(keymap_name("", 0, &key));
}

/* ---- mouse ---- */

static void test_mouse(void **state)
{
	struct fixture *f = *state;
	struct mouse_protocol_request request = { { 1, 12, MOUSE_PROTOCOL_REQUEST, 4 },
						  MOUSE_VERSION };
	struct mouse_header ack = { 1, 9, MOUSE_DEVICE_INFO_ACK, 1 };
	struct mouse_state there = { .x = 40000, .y = 5, .buttons = 0xFF, .wheel = -1 };
	struct mouse_protocol_response response;
	struct mouse_device_info info;
	struct {
		struct mouse_header header;
		struct mouse_report report;
	} INPUT_PACKED report;

	assert_int_equal(mouse_set(f->mouse, &there, NULL), -ERR_STATE);
	open_channel(f, &class_mouse);
	vmbus_guest_send(f->channel, 1, true, &request, sizeof(request));
	hear(f, &response, sizeof(response));
	assert_int_equal(response.header.pipe_bytes, 13);
	assert_int_equal(response.header.bytes, 5);
	assert_int_equal(response.approved, 1);
	hear(f, &info, sizeof(info));
	assert_int_equal(info.header.type, MOUSE_DEVICE_INFO);
	assert_int_equal(info.header.bytes, 32 + 9 + info.report_length);
	vmbus_guest_send(f->channel, 2, false, &ack, sizeof(ack));
	steps(f);
	assert_int_equal(mouse_set(f->mouse, &there, NULL), 0);
	hear(f, &report, sizeof(report));
	assert_int_equal(report.header.bytes, sizeof(report.report));
	assert_int_equal(report.report.x, MOUSE_MAX_POSITION);
	assert_int_equal(report.report.y, 5);
	assert_int_equal(report.report.buttons, 0x1F);
	assert_int_equal(report.report.wheel, -1);
}

/* ---- video ---- */

static void say(struct fixture *f, enum synthvid_type type, void *message, size_t bytes)
{
	struct synthvid_header header = { 1, (uint32_t)bytes - 8, type, (uint32_t)bytes - 8 };

	memcpy(message, &header, sizeof(header));
	assert_true(vmbus_guest_send(f->channel, 1, false, message, (uint32_t)bytes));
	steps(f);
}

static void map_memory(struct fixture *f)
{
	struct synthvid_vram_location location = { .context = 7,
						   .is_specified = 1,
						   .gpa = VRAM_GPA };
	struct synthvid_ack ack;

	open_channel(f, &class_video);
	say(f, SYNTHVID_VRAM_LOCATION, &location, sizeof(location));
	hear(f, &ack, sizeof(ack));
	assert_int_equal(ack.header.type, SYNTHVID_VRAM_ACK);
	assert_int_equal(ack.context, 7);
}

static struct video_mode set_mode(struct fixture *f, struct synthvid_situation situation)
{
	struct video_mode mode;

	say(f, SYNTHVID_SITUATION, &situation, sizeof(situation));
	video_mode(f->video, &mode);
	return mode;
}

#define SITUATION                                                                                  \
	{                                                                                          \
		.context = 9, .output_count = 1, .active = 1, .depth = 32, .width = 1024,          \
		.height = 768, .pitch = 4096                                                       \
	}

static void test_video(void **state)
{
	struct fixture *f = *state;
	struct synthvid_version_request version = { .version = SYNTHVID_VERSION_3_5 };
	struct synthvid_version_response accepted;
	struct {
		struct synthvid_resolution_response head;
		struct synthvid_resolution list[64];
	} SYNTHVID_PACKED resolutions;
	struct synthvid_header request;
	struct synthvid_situation situation = SITUATION;
	struct synthvid_feature_change feature;
	struct synthvid_ack ack;
	uint64_t bytes;

	map_memory(f);
	say(f, SYNTHVID_VERSION_REQUEST, &version, sizeof(version));
	hear(f, &accepted, sizeof(accepted));
	assert_int_equal(accepted.accepted, 1);
	say(f, SYNTHVID_RESOLUTION_REQUEST, &request, sizeof(request));
	hear(f, &resolutions, sizeof(resolutions.head));
	assert_in_range(resolutions.head.count, 1, 64);
	assert_true(resolutions.head.default_index < resolutions.head.count);
	video_memory(f->video, &bytes);
	assert_true(bytes >= 1920 * 1080 * 4);
	assert_true(set_mode(f, situation).active);
	hear(f, &feature, sizeof(feature));
	assert_int_equal(feature.header.type, SYNTHVID_FEATURE_CHANGE);
	assert_int_equal(feature.dirt, 1);
	hear(f, &ack, sizeof(ack));
	assert_int_equal(ack.context, 9);
	/* repeated: no news, and it is not asked again */
	assert_true(set_mode(f, situation).active);
	hear(f, &ack, sizeof(ack));
	assert_int_equal(ack.header.type, SYNTHVID_SITUATION_ACK);
	assert_int_equal(f->modes, 2); /* the place of the memory, the mode */
}

static void test_modes_outside(void **state)
{
	struct fixture *f = *state;
	struct synthvid_situation situation = SITUATION;

	map_memory(f);
	situation.vram_offset = 8 * MIB;
	assert_false(set_mode(f, situation).active);
	situation = (struct synthvid_situation)SITUATION;
	situation.pitch = 1024;
	assert_false(set_mode(f, situation).active);
	situation.pitch = UINT32_MAX - 3;
	assert_false(set_mode(f, situation).active);
	situation = (struct synthvid_situation)SITUATION;
	situation.width = situation.pitch = UINT32_MAX;
	assert_false(set_mode(f, situation).active);
	situation = (struct synthvid_situation)SITUATION;
	situation.depth = 16;
	assert_false(set_mode(f, situation).active);
	situation.depth = 32;
	assert_true(set_mode(f, situation).active);
}

static void test_no_place(void **state)
{
	struct fixture *f = *state;
	struct synthvid_vram_location location = { .is_specified = 1, .gpa = 0x1000 };
	struct synthvid_situation situation = SITUATION;

	open_channel(f, &class_video);
	say(f, SYNTHVID_VRAM_LOCATION, &location, sizeof(location));
	assert_false(set_mode(f, situation).active);
}

static void test_damage(void **state)
{
	struct fixture *f = *state;
	struct synthvid_situation situation = SITUATION;
	struct {
		struct synthvid_dirt head;
		struct synthvid_rect rects[4];
	} SYNTHVID_PACKED dirt = { .head.count = 4,
				   .rects = { { 1, 2, 3, 4 },
					      { -5, -5, 2000, 2000 },
					      { 10, 10, 10, 20 },
					      { INT32_MAX, INT32_MIN, INT32_MIN, INT32_MAX } } };
	struct video_rect rects[VIDEO_MAX_DAMAGE];

	map_memory(f);
	set_mode(f, situation);
	say(f, SYNTHVID_DIRT, &dirt, sizeof(dirt));
	assert_int_equal(f->damages, 1);
	assert_int_equal(video_take_damage(f->video, rects), 2);
	assert_true(rects[0].x1 == 1 && rects[0].y1 == 2 && rects[0].x2 == 3 && rects[0].y2 == 4);
	assert_true(rects[1].x1 == 0 && rects[1].y1 == 0);
	assert_true(rects[1].x2 == 1024 && rects[1].y2 == 768);
	assert_int_equal(video_take_damage(f->video, rects), 0);
	/* more than are kept become one; a count that is a lie is cut */
	dirt.head.count = 255;
	for (int i = 0; i < 20; i++)
		say(f, SYNTHVID_DIRT, &dirt, sizeof(dirt));
	assert_in_range(video_take_damage(f->video, rects), 1, VIDEO_MAX_DAMAGE);
	assert_int_equal(rects[0].x2, 1024);
}

/* ---- state ---- */

static void save_devices(void *user, struct state_out *out)
{
	struct fixture *f = user;

	keyboard_save(f->keyboard, out);
	mouse_save(f->mouse, out);
	video_save(f->video, out);
}

static int restore_devices(void *user, struct state_in *in, struct error *err)
{
	struct fixture *f = user;
	int r = keyboard_restore(f->keyboard, in, err);

	if (r == 0)
		r = mouse_restore(f->mouse, in, err);
	return r < 0 ? r : video_restore(f->video, in, err);
}

static const struct vmbus_guest_move move = { save_devices, free_devices, new_devices,
					      restore_devices };

static void test_descriptions(void **state)
{
	STATE_CHECK(struct keyboard_state, keyboard_state_desc);
	STATE_CHECK(struct mouse_state_saved, mouse_state_desc);
	STATE_CHECK(struct video_state, video_state_desc);
}

/* The picture is there again, and what is drawn is heard. */
static void test_video_goes_on(void **state)
{
	struct fixture *f = *state;
	struct synthvid_situation situation = SITUATION;
	struct {
		struct synthvid_dirt head;
		struct synthvid_rect rect;
	} SYNTHVID_PACKED dirt = { .head.count = 1, .rect = { 1, 2, 3, 4 } };
	struct video_rect rects[VIDEO_MAX_DAMAGE];
	struct video_mode mode;
	struct error err;
	uint64_t bytes;

	map_memory(f);
	set_mode(f, situation);
	video_memory(f->video, &bytes)[4711] = 0x42;
	assert_true(vmbus_guest_move(f->guest, &move, f, &err));
	video_mode(f->video, &mode);
	assert_true(mode.active && mode.width == 1024);
	assert_int_equal(video_memory(f->video, &bytes)[4711], 0x42);
	say(f, SYNTHVID_DIRT, &dirt, sizeof(dirt));
	assert_int_equal(video_take_damage(f->video, rects), 1);
}

/* Keys that the guest had no room for come after the restore, in order. */
static void test_keys_go_on(void **state)
{
	struct fixture *f = *state;
	struct keyboard_protocol request = { KEYBOARD_PROTOCOL_REQUEST, KEYBOARD_VERSION }, answer;
	struct keyboard_event event;
	struct error err;

	open_channel(f, &class_keyboard);
	vmbus_guest_send(f->channel, 1, true, &request, sizeof(request));
	hear(f, &answer, sizeof(answer));
	for (uint16_t i = 0; i < 1000; i++)
		assert_int_equal(
		    keyboard_press(f->keyboard, (struct keyboard_key){ i, false }, true, NULL), 0);
	assert_true(keyboard_room(f->keyboard) < KEYBOARD_QUEUE_MAX);
	assert_true(vmbus_guest_move(f->guest, &move, f, &err));
	for (uint16_t i = 0; i < 1000; i++) {
		hear(f, &event, sizeof(event));
		assert_int_equal(event.make_code, i);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_keyboard),      TEST(test_keyboard_full),
		TEST(test_keyboard_odd),  cmocka_unit_test(test_keymap),
		TEST(test_mouse),         TEST(test_video),
		TEST(test_modes_outside), TEST(test_no_place),
		TEST(test_damage),        cmocka_unit_test(test_descriptions),
		TEST(test_video_goes_on), TEST(test_keys_go_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
