/* The saved states of keyboard, mouse and video; for their files and their test. */
#ifndef DEV_CONSOLE_STATE_H
#define DEV_CONSOLE_STATE_H

#include "state/state.h"

struct keyboard_state {
	uint8_t *queue; /* struct keyboard_event of spec/input.h, oldest first */
	uint32_t queue_bytes;
	bool ready;
	uint8_t reserved[3];
};

struct mouse_state_saved {
	bool ready;
	uint8_t reserved[3];
};

struct video_state {
	uint64_t gpa, offset;
	uint32_t width, height, pitch_bytes;
	bool mapped, active, feature_owed;
	uint8_t reserved;
	uint8_t *memory; /* up to its last byte that is not 0 */
	uint32_t memory_bytes;
	uint32_t reserved2;
};

extern const struct state_desc keyboard_state_desc, mouse_state_desc, video_state_desc;

#endif
