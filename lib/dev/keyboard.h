/*
 * The synthetic keyboard (hyperv_keyboard): keys as scan codes of set 1. Belongs to the worker's
 * loop.
 *
 * keymap.h says which keys make a character.
 */
#ifndef DEV_KEYBOARD_H
#define DEV_KEYBOARD_H

#include "base/error.h"
#include "state/state.h"
#include "vmbus/vmbus.h"

/* Presses and releases that wait for room in the guest's ring. */
#define KEYBOARD_QUEUE_MAX 4096

struct keyboard;

struct keyboard_key {
	uint16_t code; /* make code of set 1 */
	bool extended; /* with the prefix E0 */
};

int keyboard_new(struct vmbus *bus, struct keyboard **ret, struct error *err);
void keyboard_free(struct keyboard *keyboard); /* NULL allowed */
/* ERR_STATE: the guest has no driver at work; ERR_BUSY: it does not take what was typed before. */
int keyboard_press(struct keyboard *keyboard, struct keyboard_key key, bool down,
		   struct error *err);
/* How many more presses and releases are taken now. */
unsigned keyboard_room(const struct keyboard *keyboard);

/* State (docs/state.md). */
void keyboard_save(const struct keyboard *keyboard, struct state_out *out);
int keyboard_restore(struct keyboard *keyboard, struct state_in *in, struct error *err);

#endif
