/*
 * The synthetic mouse (hid_hyperv): a HID device with five buttons, a wheel, and a position in
 * absolute units. Belongs to the worker's loop.
 */
#ifndef DEV_MOUSE_H
#define DEV_MOUSE_H

#include "base/error.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

#define MOUSE_MAX_POSITION 32767

struct mouse;

struct mouse_state {
	uint16_t x, y;   /* 0..MOUSE_MAX_POSITION: from the left and the top edge of the screen */
	uint8_t buttons; /* bit 0: left, 1: right, 2: middle, 3 and 4: further ones */
	int16_t wheel;   /* since the last one; up is positive */
};

int mouse_new(struct vmbus *bus, struct mouse **ret, struct error *err);
void mouse_free(struct mouse *mouse); /* NULL allowed */
/* ERR_STATE: the guest has no driver at work; ERR_BUSY: it does not keep up. */
int mouse_set(struct mouse *mouse, const struct mouse_state *state, struct error *err);

/* State (docs/state.md). */
void mouse_save(const struct mouse *mouse, struct state_out *out);
int mouse_restore(struct mouse *mouse, struct state_in *in, struct error *err);

#endif
