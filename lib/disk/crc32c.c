#include "disk/crc32c.h"

#include "base/bytes.h"

#if defined(__x86_64__)

/* Bitwise; for processors without SSE 4.2, which no supported host has but a software CPU may. */
static uint32_t update_plain(uint32_t state, const uint8_t *p, size_t len)
{
	while (len--) {
		state ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			state = state >> 1 ^ (state & 1 ? 0x82F63B78u : 0);
	}
	return state;
}

__attribute__((target("sse4.2"))) static uint32_t update_sse42(uint32_t state, const uint8_t *p,
							       size_t len)
{
	uint64_t wide = state;

	for (; len >= 8; p += 8, len -= 8)
		wide = __builtin_ia32_crc32di(wide, load_le64(p));
	state = (uint32_t)wide;
	for (; len > 0; p++, len--)
		state = __builtin_ia32_crc32qi(state, *p);
	return state;
}

uint32_t crc32c_update(uint32_t state, const void *buf, size_t len)
{
	return __builtin_cpu_supports("sse4.2") ? update_sse42(state, buf, len)
						: update_plain(state, buf, len);
}

#else
#error "CRC-32C has no implementation for this processor"
#endif
