/*
 * The synthetic video device (hyperv_drm, hyperv_fb): a framebuffer of 32-bit pixels in video
 * memory, whose place in the guest's address space the guest chooses, and damage that it tells of.
 *
 * Video memory is a memfd of its own, so that a viewer can be given it. Belongs to the worker's
 * loop. The guest draws whenever it likes: who reads pixels reads what is there just now.
 */
#ifndef DEV_VIDEO_H
#define DEV_VIDEO_H

#include "base/error.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

#define VIDEO_MAX_WIDTH  7680
#define VIDEO_MAX_HEIGHT 4320
#define VIDEO_MIN_WIDTH  640
#define VIDEO_MIN_HEIGHT 480
#define VIDEO_MAX_DAMAGE 16

struct video;

/* Which resolutions the guest may choose of; width and height bound them, or are the only one. */
enum video_choice { VIDEO_UP_TO, VIDEO_ONLY };

struct video_rect {
	unsigned x1, y1, x2, y2; /* right and bottom exclusive; inside the screen */
};

struct video_mode {
	bool active;
	unsigned width, height;
	unsigned pitch_bytes;
	uint64_t offset; /* of the first pixel in video memory; the whole screen is inside */
};

struct video_config {
	struct vmbus *bus;
	enum video_choice choice;
	unsigned width, height;
	/* Puts video memory at gpa, where it was not yet; false: that is no place for it. */
	bool (*map)(void *user, uint64_t gpa);
	/* The mode is another one. */
	void (*mode_changed)(void *user);
	/* Something was drawn: video_take_damage(). */
	void (*damaged)(void *user);
	void *user;
};

int video_new(const struct video_config *config, struct video **ret, struct error *err);
void video_free(struct video *video); /* NULL allowed */
void video_mode(const struct video *video, struct video_mode *ret);
/* Borrowed; as large as the largest mode, in whole MiB. */
uint8_t *video_memory(const struct video *video, uint64_t *ret_bytes);
int video_memory_fd(const struct video *video);
/* What was drawn since the last call: fills rects, returns how many; more than VIDEO_MAX_DAMAGE
 * become one that holds them all. */
unsigned video_take_damage(struct video *video, struct video_rect rects[static VIDEO_MAX_DAMAGE]);

/* State (docs/state.md). */
void video_save(const struct video *video, struct state_out *out);
int video_restore(struct video *video, struct state_in *in, struct error *err);

#endif
