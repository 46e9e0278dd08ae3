/* The kernel inside a bzImage's payload. */
#ifndef FW_LINUX_PAYLOAD_H
#define FW_LINUX_PAYLOAD_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* An expanded kernel is not larger than this. */
#define LINUX_PAYLOAD_MAX (512u << 20)

/*
 * Expands a payload (LZ4 legacy, XZ, gzip or zstd; its last four bytes are the expanded size). 1:
 * *ret is the caller's to free; 0: the compression is not one of those; negative: damaged.
 */
int linux_payload_expand(const uint8_t *payload, size_t len, uint8_t **ret, size_t *ret_len,
			 struct error *err);

#endif
