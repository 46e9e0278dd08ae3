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

#endif
