#include "machine/machine-impl.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/macros.h"
#include "dev/keymap.h"
#include "dev/mouse.h"
#include "dev/video.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(MACHINE_MAX_DAMAGE == VIDEO_MAX_DAMAGE, "as many rectangles");

struct display {
	struct machine *machine;
	struct keyboard *keyboard;
	struct mouse *mouse;
	struct video *video;
	bool mapped;
	uint64_t gpa; /* of video memory */
};

/* ---- video memory in the guest's address space ---- */

/* Where the partition does not map it, its accesses come here. */
static uint64_t vram_read(void *dev, uint64_t offset, unsigned size)
{
	uint64_t bytes, value = 0;
	const uint8_t *memory = video_memory(((struct display *)dev)->video, &bytes);

	if (RANGE_OK(offset, size, bytes))
		memcpy(&value, memory + offset, size);
	return value;
}

static void vram_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
	uint64_t bytes;
	uint8_t *memory = video_memory(((struct display *)dev)->video, &bytes);

	if (RANGE_OK(offset, size, bytes))
		memcpy(memory + offset, &value, size);
}

static const struct bus_ops vram_ops = { vram_read, vram_write };

/* VPs are paused. */
static bool move_memory(struct display *d, uint64_t gpa)
{
	struct machine *machine = d->machine;
	struct bus *bus = platform_bus(machine->platform);
	struct error err;
	uint64_t bytes;
	uint8_t *memory = video_memory(d->video, &bytes);

	if (d->mapped)
		bus_remove(bus, d);
	d->mapped = bus_add_mmio(bus, gpa, bytes, &vram_ops, d, &err) == 0;
	if (!d->mapped) {
		part_map_device(machine->part, 0, NULL, 0, &err);
		return false;
	}
	d->gpa = gpa;
	if (part_map_device(machine->part, gpa, memory, bytes, &err) < 0 &&
	    err.code != ERR_UNSUPPORTED)
		log_warn("video memory is slow: %s", err.text);
	return true;
}

static bool map(void *user, uint64_t gpa)
{
	struct display *d = user;
	struct machine *machine = d->machine;
	bool runs = machine->running && !machine->paused && !machine->resetting, mapped;
	uint64_t bytes;

	video_memory(d->video, &bytes);
	if (d->mapped && d->gpa == gpa)
		return true;
	if (gpa % MEM_PAGE_SIZE || !platform_in_window(machine, gpa, bytes) || machine->off)
		return false;
	if (runs)
		part_pause(machine->part);
	mapped = move_memory(d, gpa);
	if (runs)
		part_resume(machine->part);
	return mapped;
}

static void mode_changed(void *user)
{
	const struct machine_events *events = &((struct display *)user)->machine->events;

	events->display_changed(events->user);
}

static void damaged(void *user)
{
	const struct machine_events *events = &((struct display *)user)->machine->events;

	events->display_damaged(events->user);
}

/* ---- life ---- */

int display_new(struct machine *machine, struct display **ret, struct error *err)
{
	const struct config_video *wanted = &machine->config->video;
	struct display *d = calloc(1, sizeof(*d));
	struct video_config config = {
		.bus = machine->vmbus,
		.choice = wanted->type == CONFIG_VIDEO_SINGLE ? VIDEO_ONLY : VIDEO_UP_TO,
		.width = wanted->width,
		.height = wanted->height,
		.map = map,
		.mode_changed = mode_changed,
		.damaged = damaged,
		.user = d,
	};
	int r;

	if (!d)
		return error_set(err, ERR_NO_MEMORY, "no memory for a display");
	d->machine = machine;
	*ret = d; /* machine_free frees it, however far this comes */
	r = keyboard_new(machine->vmbus, &d->keyboard, err);
	if (r == 0)
		r = mouse_new(machine->vmbus, &d->mouse, err);
	if (r == 0)
		r = video_new(&config, &d->video, err);
	return r;
}

void display_free(struct display *d)
{
	if (!d)
		return;
	video_free(d->video);
	mouse_free(d->mouse);
	keyboard_free(d->keyboard);
	free(d);
}

void display_save(const struct display *d, struct state_out *out)
{
	keyboard_save(d->keyboard, out);
	mouse_save(d->mouse, out);
	video_save(d->video, out);
}

int display_restore(struct display *d, struct state_in *in, struct error *err)
{
	int r = keyboard_restore(d->keyboard, in, err);

	if (r == 0)
		r = mouse_restore(d->mouse, in, err);
	if (r == 0)
		r = video_restore(d->video, in, err);
	return r;
}

/* ---- for the administrator ---- */

static int get_display(struct machine *machine, struct display **ret, struct error *err)
{
	*ret = machine->display;
	if (*ret)
		return 0;
	return error_set(err, ERR_STATE,
			 "it has no keyboard, mouse and screen (Set-VMVideo -Enabled true gives "
			 "it some while it is off)");
}

/* Presses and releases that a text takes; negative: it can't be typed. */
static int count_strokes(const char *text, struct error *err)
{
	struct keyboard_key key;
	int count = 0;
	bool shift;

	for (const char *p = text; *p; p++) {
		if (!keymap_character((unsigned char)*p, &key, &shift))
			return error_set(err, ERR_INVALID,
					 "no key of a US keyboard makes the character at place %d "
					 "of the text",
					 (int)(p - text) + 1);
		count += shift ? 4 : 2;
	}
	return count;
}

static int type_character(struct keyboard *keyboard, unsigned char c, struct error *err)
{
	struct keyboard_key key;
	bool shift;
	int r = 0;

	keymap_character(c, &key, &shift);
	if (shift)
		r = keyboard_press(keyboard, KEYMAP_SHIFT, true, err);
	if (r == 0)
		r = keyboard_press(keyboard, key, true, err);
	if (r == 0)
		r = keyboard_press(keyboard, key, false, err);
	if (r == 0 && shift)
		r = keyboard_press(keyboard, KEYMAP_SHIFT, false, err);
	return r;
}

int machine_type(struct machine *machine, const char *text, struct error *err)
{
	struct display *d = NULL;
	int r = get_display(machine, &d, err), count;

	if (r < 0)
		return r;
	count = count_strokes(text, err);
	if (count < 0)
		return count;
	if ((unsigned)count > keyboard_room(d->keyboard))
		return error_set(err, ERR_BUSY,
				 "the guest does not take so much at once: type less, or later");
	for (const char *p = text; r == 0 && *p; p++)
		r = type_character(d->keyboard, (unsigned char)*p, err);
	return r;
}

#define MAX_KEYS 8

static int find_keys(const char *keys, struct keyboard_key ret[static MAX_KEYS],
		     unsigned *ret_count, struct error *err)
{
	unsigned count = 0;

	for (const char *p = keys;; p++) {
		size_t len = strcspn(p, "+");

		if (count == MAX_KEYS)
			return error_set(err, ERR_LIMIT, "more than %d keys at once", MAX_KEYS);
		if (!keymap_name(p, len, &ret[count++]))
			return error_set(err, ERR_INVALID, "there is no key '%.*s'",
					 (int)MIN(len, (size_t)40), p);
		p += len;
		if (!*p)
			break;
	}
	*ret_count = count;
	return 0;
}

int machine_press(struct machine *machine, const char *keys, struct error *err)
{
	struct keyboard_key key[MAX_KEYS];
	struct display *d = NULL;
	unsigned count = 0;
	int r = get_display(machine, &d, err);

	if (r == 0)
		r = find_keys(keys, key, &count, err);
	if (r == 0 && keyboard_room(d->keyboard) < 2 * count)
		r = error_set(err, ERR_BUSY, "the guest does not take what was typed before");
	for (unsigned i = 0; r == 0 && i < count; i++)
		r = keyboard_press(d->keyboard, key[i], true, err);
	for (unsigned i = count; r == 0 && i-- > 0;)
		r = keyboard_press(d->keyboard, key[i], false, err);
	return r;
}

/* Pixels to the mouse's units. */
static uint16_t scale(unsigned at, unsigned size)
{
	if (size < 2)
		return 0;
	return (uint16_t)(MIN(at, size - 1) * MOUSE_MAX_POSITION / (size - 1));
}

int machine_point(struct machine *machine, unsigned x, unsigned y, unsigned buttons, int wheel,
		  struct error *err)
{
	struct machine_screen screen;
	struct mouse_state state = { .buttons = (uint8_t)buttons, .wheel = (int16_t)wheel };
	int r = machine_screen(machine, &screen, err);

	if (r < 0)
		return r;
	state.x = scale(x, screen.width);
	state.y = scale(y, screen.height);
	return mouse_set(machine->display->mouse, &state, err);
}

int machine_screen(struct machine *machine, struct machine_screen *ret, struct error *err)
{
	struct display *d = NULL;
	struct video_mode mode;
	uint64_t bytes;
	int r = get_display(machine, &d, err);

	if (r < 0)
		return r;
	video_mode(d->video, &mode);
	if (!mode.active)
		return error_set(err, ERR_STATE, "the guest shows nothing on its screen");
	*ret = (struct machine_screen){
		.width = mode.width,
		.height = mode.height,
		.pitch_bytes = mode.pitch_bytes,
		.pixels = video_memory(d->video, &bytes) + mode.offset,
		.memory_fd = video_memory_fd(d->video),
		.offset = mode.offset,
	};
	return 0;
}

unsigned machine_take_damage(struct machine *machine,
			     struct machine_rect rects[static MACHINE_MAX_DAMAGE])
{
	struct video_rect damage[VIDEO_MAX_DAMAGE];
	unsigned count = machine->display ? video_take_damage(machine->display->video, damage) : 0;

	for (unsigned i = 0; i < count; i++)
		rects[i] =
		    (struct machine_rect){ damage[i].x1, damage[i].y1, damage[i].x2, damage[i].y2 };
	return count;
}
