/*
 * For tests: writes a tree of keys as a .vmcx container, the way that Hyper-V's look: two headers,
 * one object table, an empty replay log, key tables of one page.
 */
#ifndef IMPORT_TEST_VMCX_WRITER_H
#define IMPORT_TEST_VMCX_WRITER_H

#include "import/keytree.h"

#define VMCX_WRITER_LOG_OFFSET 0x3000u
#define VMCX_WRITER_LOG_BYTES  0x4000u
#define VMCX_WRITER_FIRST_KEYS (VMCX_WRITER_LOG_OFFSET + VMCX_WRITER_LOG_BYTES)
#define VMCX_WRITER_PAGE       4096u

/* The caller's (free). long_values: values of 64 bytes and more go into file objects. */
uint8_t *vmcx_write(const struct key *root, bool long_values, size_t *ret_size);
/* Puts a finished transaction of one entry into the log: data goes to `target` when it is read. */
void vmcx_write_log(uint8_t *file, uint64_t target, const void *data, uint32_t size);
/* Makes the checksum of `size` bytes right that stands at `at` in them. */
void vmcx_seal(uint8_t *bytes, size_t size, size_t at);

#endif
