/* A guest that says what it likes to its keyboard, mouse and screen, while the host types and
 * points. Whatever mode it sets, the screen lies inside video memory. */
#include "vmbus-guest.h"

#include "base/log.h"
#include "base/macros.h"
#include "dev/keymap.h"
#include "dev/mouse.h"
#include "dev/video.h"

#include <string.h>

static const struct guid class_of[3] = {
	GUID_INIT(0xf912ad6d, 0x2b17, 0x48ea, 0xbd, 0x65, 0xf9, 0x27, 0xa6, 0x1c, 0x76, 0x84),
	GUID_INIT(0xcfa8b69e, 0x5b4a, 0x4cc0, 0xb9, 0x8b, 0x8b, 0xa1, 0xa1, 0xf3, 0xf9, 0x5a),
	GUID_INIT(0xda0a7802, 0xe377, 0x4aac, 0x8e, 0x77, 0x05, 0x58, 0xeb, 0x10, 0x73, 0xf8),
};

struct devices {
	struct keyboard *keyboard;
	struct mouse *mouse;
	struct video *video;
};

static bool on_map(void *user, uint64_t gpa)
{
	return gpa % MIB == 0;
}

static void check_screen(struct devices *d)
{
	struct video_rect rects[VIDEO_MAX_DAMAGE];
	struct video_mode mode;
	unsigned count = video_take_damage(d->video, rects);
	uint64_t bytes;

	video_memory(d->video, &bytes);
	video_mode(d->video, &mode);
	if (mode.active &&
	    (mode.pitch_bytes < mode.width * 4 ||
	     !RANGE_OK(mode.offset, (uint64_t)mode.pitch_bytes * mode.height, bytes)))
		__builtin_trap();
	for (unsigned i = 0; i < count; i++)
		if (rects[i].x1 >= rects[i].x2 || rects[i].y1 >= rects[i].y2 ||
		    rects[i].x2 > mode.width || rects[i].y2 > mode.height)
			__builtin_trap();
}

static void on_news(void *user)
{
}

static void host_acts(struct devices *d, uint8_t what)
{
	struct mouse_state state = { .x = what, .buttons = what };

	keyboard_press(d->keyboard, (struct keyboard_key){ what, what & 1 }, what & 2, NULL);
	mouse_set(d->mouse, &state, NULL);
}

/* What a driver says first, behind a header of the right kind. */
static void say(struct vmbus_guest_channel *channel, bool piped, uint8_t type, const uint8_t *data,
		size_t size)
{
	struct vmbus_guest_packet packet;
	uint8_t message[160] = { 0 };
	size_t head = piped ? 16 : 4;

	size = MIN(size, sizeof(message) - head);
	message[0] = piped ? 1 : type;
	if (piped)
		message[8] = type;
	memcpy(message + head, data, size);
	vmbus_guest_send(channel, type, type & 1, message, (uint32_t)(head + size));
	loop_step(channel->guest->loop, 0);
	while (vmbus_guest_try_recv(channel, &packet))
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vmbus_guest *guest = vmbus_guest_new(1, 4 * MIB);
	struct video_config config = { .bus = guest->bus,
				       .width = 1024,
				       .height = 768,
				       .map = on_map,
				       .mode_changed = on_news,
				       .damaged = on_news };
	struct vmbus_guest_channel *channel;
	unsigned which = size ? data[0] % 3 : 0;
	struct devices d;

	log_set_level(LOG_ERROR);
	if (keyboard_new(guest->bus, &d.keyboard, NULL) < 0 ||
	    mouse_new(guest->bus, &d.mouse, NULL) < 0 || video_new(&config, &d.video, NULL) < 0)
		__builtin_trap();
	vmbus_guest_connect(guest, VMBUS_VERSION_5_3);
	channel = vmbus_guest_open(guest, vmbus_guest_offer(guest, &class_of[which], 0), 3, 3);
	for (size_t at = 1; at + 2 <= size;) {
		size_t len = MIN((size_t)data[at + 1], size - at - 2);

		if (data[at] & 0x80)
			host_acts(&d, data[at + 1]);
		else
			say(channel, which != 0, data[at] & 0x1F, data + at + 2, len);
		check_screen(&d);
		at += data[at] & 0x80 ? 2 : 2 + len;
	}
	video_free(d.video);
	mouse_free(d.mouse);
	keyboard_free(d.keyboard);
	vmbus_guest_forget(channel);
	vmbus_guest_free(guest);
	return 0;
}
