/* Which keys of a US keyboard make a character, and what keys are called. */
#ifndef DEV_KEYMAP_H
#define DEV_KEYMAP_H

#include "dev/keyboard.h"

#define KEYMAP_SHIFT                                                                               \
	(struct keyboard_key)                                                                      \
	{                                                                                          \
		0x2a, false                                                                        \
	}

/* False: no key makes it (only ASCII has keys; '\n' is Enter, '\t' Tab). */
bool keymap_character(unsigned char c, struct keyboard_key *ret, bool *ret_shift);
/* "Enter", "F5", "Ctrl", "Delete", "a", ...; case is ignored. */
bool keymap_name(const char *name, size_t len, struct keyboard_key *ret);

#endif
