/*
 * For the unit tests of every room that has state: one call proves a description.
 *
 *	STATE_CHECK(struct pit_state, pit_desc);
 *
 * - each byte of the struct is a field's, or the compiler's padding (as far as it tells);
 * - fields don't overlap, tags are unique, lists and counts are in the struct;
 * - random states within the bounds come back from a stream as they were (or the description's own
 *   check refuses them).
 */
#ifndef STATE_CHECK_STATE_H
#define STATE_CHECK_STATE_H

#include "state/state.h"

#include <stdlib.h>
#include <string.h>

/* padding: nonzero where the compiler put padding. Aborts with a text on what it finds. */
void state_check_desc(const struct state_desc *desc, const uint8_t *padding);

#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
#define STATE_CLEAR_PADDING(p) __builtin_clear_padding(p)
#endif
#endif
#ifndef STATE_CLEAR_PADDING
/* Unknown: all that is no field's counts as padding. */
#define STATE_CLEAR_PADDING(p) memset(p, 0, sizeof(*(p)))
#endif

#define STATE_CHECK(type, desc)                                                                    \
	do {                                                                                       \
		static type check_object_;                                                         \
		static uint8_t check_padding_[sizeof(type)];                                       \
		memset(&check_object_, 0xff, sizeof(type));                                        \
		STATE_CLEAR_PADDING(&check_object_);                                               \
		for (size_t check_i_ = 0; check_i_ < sizeof(type); check_i_++)                     \
			check_padding_[check_i_] = !((uint8_t *)&check_object_)[check_i_];         \
		if ((desc).size != sizeof(type))                                                   \
			abort();                                                                   \
		state_check_desc(&(desc), check_padding_);                                         \
	} while (0)

#endif
