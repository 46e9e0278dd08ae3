/* What the host that we run on has. */
#ifndef BASE_HOST_H
#define BASE_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether a stock kernel can run on this host's KVM, and in reason a sentence why (not). fd: an
 * open /dev/kvm, or 0 or less to try to open it. */
bool host_kvm_usable(int fd, char *reason, size_t reason_size);
uint64_t host_memory_bytes(void);
unsigned host_processors(void);

#define HOST_LARGE_PAGE ((size_t)2 << 20)

/* mmap() of a shared file from its beginning, to where its large pages can be large ones of the
 * mapping, too. flags: beside MAP_SHARED. MAP_FAILED and errno like mmap(). */
void *host_map_large(int fd, size_t size, int protection, int flags);
/* Makes the large page at p, of such a mapping, out of what is there, now (madvise(2),
 * MADV_COLLAPSE). False: it isn't possible, or this kernel can't (before Linux 6.1). */
bool host_collapse(void *p);

/* What this thread has written as code it may execute from here on. Where it writes through another
 * mapping than it executes, the processor doesn't see to that itself: what it had fetched from
 * there before may still be executed until a serializing instruction (Intel SDM Vol. 3A, 8.1.3
 * "Handling Self- and Cross-Modifying Code", 11.6). Some 0.1 us. */
void host_serialize(void);

/* Writes code: as memcpy(), but never with a string instruction (REP MOVSB, with which glibc copies
 * 2 KiB and more). Lines of the memory that such one overwrote are now and then executed as they
 * were before, on some processors, by one mapping and by two, behind host_serialize() too: seen
 * about once in ten million copies of 2 to 4 KiB, and not once in 70 million by plain stores. */
void host_copy_code(uint8_t *to, const uint8_t *from, size_t size);

#endif
