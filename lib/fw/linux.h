/*
 * Direct Linux boot, the way of a "LinuxKernelDirect" VM: kernel, initramfs and command line are
 * put into guest RAM, with the zero page of the x86 boot protocol
 * (Documentation/arch/x86/boot.rst), and the VP starts in 64-bit mode at the kernel's entry.
 *
 * The kernel is a bzImage or a vmlinux ELF. A bzImage's payload is expanded on the host, which is
 * much faster than in the guest; one whose compression we don't know expands itself. The kernel
 * then runs where it was linked: its address is not randomized (KASLR is the decompressor's work).
 * Its random generator is seeded by the boot protocol's setup_data.
 *
 * Files are hostile input: everything is checked against the file's and RAM's size.
 */
#ifndef FW_LINUX_H
#define FW_LINUX_H

#include "base/error.h"
#include "mem/mem.h"

#include <stdint.h>

/* Below 1 MiB, in RAM that the kernel reclaims after it has read it. */
#define LINUX_GDT_GPA        0x1000
#define LINUX_ZERO_PAGE_GPA  0x7000
#define LINUX_SETUP_DATA_GPA 0x8000
#define LINUX_PAGE_TABLE_GPA 0x9000 /* 6 pages: the first 4 GiB, one to one */
#define LINUX_CMDLINE_GPA    0x20000
#define LINUX_LOW_RAM_END    0x9fc00
#define LINUX_HIGH_RAM_BASE  0x100000

struct linux_boot {
	int kernel_fd;
	int initrd_fd;       /* -1: none */
	const char *cmdline; /* NULL: empty */
	uint64_t rsdp_gpa;   /* 0: none */
};

/* How VP 0 starts. */
struct linux_entry {
	uint64_t rip, rsi, cr3;
	uint64_t gdt_base;
	uint16_t gdt_limit, code_selector, data_selector;
};

/* Leaves the descriptors open and their offsets where they were. */
int linux_load(struct mem *mem, const struct linux_boot *boot, struct linux_entry *ret,
	       struct error *err);

#endif
