/* CRC-32C (Castagnoli), as VHDX uses it. Private to this room. */
#ifndef DISK_CRC32C_H
#define DISK_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of a whole buffer: crc32c(buf, len). In parts: crc32c_update over the parts, starting from
 * CRC32C_START, then crc32c_finish. */
#define CRC32C_START UINT32_C(0xffffffff)
uint32_t crc32c_update(uint32_t state, const void *buf, size_t len);
static inline uint32_t crc32c_finish(uint32_t state)
{
	return ~state;
}
static inline uint32_t crc32c(const void *buf, size_t len)
{
	return crc32c_finish(crc32c_update(CRC32C_START, buf, len));
}

#endif
