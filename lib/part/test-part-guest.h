/* Where the test guests of test-part.c have what; for C and for the assembler. */
#ifndef PART_TEST_PART_GUEST_H
#define PART_TEST_PART_GUEST_H

#define GUEST_PML4      0x1000
#define GUEST_PDPT      0x2000
#define GUEST_PD        0x3000 /* four pages: 4 GiB in pages of 2 MiB, identity */
#define GUEST_GDT       0x7000
#define GUEST_IDT       0x8000
#define GUEST_STACK_TOP 0xA000
#define GUEST_TSS       0xA000
#define GUEST_RESULT    0xB000
#define GUEST_HANDLERS  0xC000
#define GUEST_CODE      0x10000
#define GUEST_AP_CODE   0x20000
#define GUEST_AP_VECTOR 0x20 /* GUEST_AP_CODE >> 12 */
#define GUEST_HYPERCALL 0x30000
#define GUEST_DATA      0x100000
#define GUEST_MMIO      0xF8001000

#define GUEST_CS64   0x08
#define GUEST_DATA_S 0x10
#define GUEST_CS32   0x18
#define GUEST_CS64_3 0x23 /* with RPL 3 */
#define GUEST_DATA_3 0x2B
#define GUEST_TR     0x30

#define GUEST_PORT_DONE 0xF4 /* the guest has done its work */
#define GUEST_PORT_NOTE 0xF5 /* something happened that the test waits for */
#define GUEST_PORT_TEST 0x3F8

/* Counters of the handlers, 32 bits, in the page GUEST_RESULT. */
#define GUEST_COUNT_GP  0x800
#define GUEST_COUNT_UD  0x804
#define GUEST_COUNT_NMI 0x808
#define GUEST_COUNT_IRQ 0x80C

/* Entry points in the blob of handlers. */
#define GUEST_HANDLER_SIZE   64
#define GUEST_HANDLER_GP     0
#define GUEST_HANDLER_UD     1
#define GUEST_HANDLER_NMI    2
#define GUEST_HANDLER_EOI    3
#define GUEST_HANDLER_NO_EOI 4

#endif
