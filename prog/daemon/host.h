/* What the host has. */
#ifndef DAEMON_HOST_H
#define DAEMON_HOST_H

#include <stddef.h>
#include <stdint.h>

/* A descriptor of /dev/kvm that can run stock kernels, or -1 with the reason. A /dev/kvm on a
 * processor with neither vmx nor svm (paravirtual KVM of some sandboxes) can't. */
int host_open_kvm(char *ret_reason, size_t size);
uint64_t host_memory_bytes(void);
unsigned host_processors(void);

#endif
