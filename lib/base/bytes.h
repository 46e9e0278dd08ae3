/* Unaligned little- and big-endian loads and stores, for wire and disk formats. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BYTES_DEFINE(bits)                                                                         \
	static inline uint##bits##_t load_le##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof(v));                                                          \
		return le##bits##toh(v);                                                           \
	}                                                                                          \
	static inline uint##bits##_t load_be##bits(const void *p)                                  \
	{                                                                                          \
		uint##bits##_t v;                                                                  \
		memcpy(&v, p, sizeof(v));                                                          \
		return be##bits##toh(v);                                                           \
	}                                                                                          \
	static inline void store_le##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		v = htole##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}                                                                                          \
	static inline void store_be##bits(void *p, uint##bits##_t v)                               \
	{                                                                                          \
		v = htobe##bits(v);                                                                \
		memcpy(p, &v, sizeof(v));                                                          \
	}

BYTES_DEFINE(16)
BYTES_DEFINE(32)
BYTES_DEFINE(64)

#undef BYTES_DEFINE
#endif
