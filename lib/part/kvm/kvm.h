/*
 * The partition on /dev/kvm, with the split irqchip: the local APICs are the kernel's; PIC, IOAPIC
 * and PIT are the host's (struct part_host).
 */
#ifndef PART_KVM_KVM_H
#define PART_KVM_KVM_H

#include <stdbool.h>
#include <stddef.h>

struct part_backend_ops;

extern const struct part_backend_ops kvm_backend_ops;

/* Whether a stock kernel can run on this host's KVM, and in reason a sentence why (not). fd: an
 * open /dev/kvm, or 0 or less to try to open it. */
bool kvm_usable(int fd, char *reason, size_t reason_size);

#endif
