/*
 * GUIDs in wire order: first three fields little-endian, last eight bytes as written
 * ("mixed-endian", as in VMBus offers, VHDX and Hyper-V configuration files).
 */
#ifndef BASE_GUID_H
#define BASE_GUID_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

struct guid {
	uint8_t b[16];
};

#define GUID_TEXT_SIZE 37 /* "f8615163-df3e-46c5-913f-f2d2f965ed0e" and a NUL */

/* GUID_INIT(0xf8615163, 0xdf3e, 0x46c5, 0x91,0x3f,0xf2,0xd2,0xf9,0x65,0xed,0x0e) */
#define GUID_INIT(a, b_, c, d0, d1, d2, d3, d4, d5, d6, d7)                                        \
	{                                                                                          \
		{                                                                                  \
			(uint8_t)(a), (uint8_t)((a) >> 8), (uint8_t)((a) >> 16),                   \
			    (uint8_t)((a) >> 24), (uint8_t)(b_), (uint8_t)((b_) >> 8),             \
			    (uint8_t)(c), (uint8_t)((c) >> 8), d0, d1, d2, d3, d4, d5, d6, d7      \
		}                                                                                  \
	}

static inline bool guid_equal(const struct guid *a, const struct guid *b)
{
	return memcmp(a, b, sizeof(*a)) == 0;
}

/* Accepts upper or lower case, with or without braces. False if it is not a GUID. */
bool guid_parse(const char *text, struct guid *ret);
/* Lower case, no braces. Returns ret. */
char *guid_format(const struct guid *guid, char ret[static GUID_TEXT_SIZE]);
/* A random (version 4) GUID from the host's generator. */
void guid_generate(struct guid *ret);

#endif
