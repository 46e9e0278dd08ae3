/*
 * The partition on /dev/kvm, with the split irqchip: the local APICs are the kernel's; PIC, IOAPIC
 * and PIT are the host's (struct part_host). Linux 5.10 or later.
 *
 * Where it differs from the software CPU:
 * - INIT is the kernel's affair and leaves no trace: vp_reset comes with part_reset only. Guests
 *   switch a processor's synthetic interrupts off themselves before they send it INIT.
 * - auto_eoi: the vector goes into service, and the EOI is written for the guest as soon as that is
 *   seen, after some 50 us; meanwhile vectors of the same or lower priority wait (irq.c). The
 *   kernel's KVM needs its Hyper-V emulation for it, as distributions build it.
 * - The first part_dirty_log_collect after mem_dirty_log_start reports every page: writes were not
 *   logged until then.
 * - Hypercalls leave the guest by OUT to port 0xE7: of any code at CPL 0, not only of the page.
 * - Device memory that an instruction reaches across a page border comes in pieces of 1, 2, 4 or 8.
 *
 * The process's signal SIGRTMIN+4 belongs to the VP threads. System calls once part_new is through:
 * ioctl (of type KVMIO only), clone, futex, tgkill, timer_create, timer_settime, timer_delete.
 */
#ifndef PART_KVM_KVM_H
#define PART_KVM_KVM_H

struct part_backend_ops;

extern const struct part_backend_ops kvm_backend_ops;

#endif
