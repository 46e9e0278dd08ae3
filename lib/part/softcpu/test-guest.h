/*
 * For the tests of the software CPU: a partition with 4 MiB of RAM whose VP 0 is put into a mode,
 * given code and stepped. Guest code is assembled with the test: GUEST(name, "instructions").
 *
 * Memory map of a guest: GDT 0x1000, IDT 0x2000, TSS 0x3000, page tables from 0x100000, code
 * 0x8000, data 0x10000.., stacks below 0x7000 (supervisor) and 0x78000 (user). Linear addresses are
 * physical ones; long mode maps the first 2 MiB with 4 KiB pages, user-accessible.
 */
#ifndef PART_SOFTCPU_TEST_GUEST_H
#define PART_SOFTCPU_TEST_GUEST_H

#include "part/softcpu/softcpu.h"

#define GUEST(name, bits, text)                                                                    \
	extern const uint8_t name[], name##_end[];                                                 \
	asm(".pushsection .rodata\n.globl " #name "\n.globl " #name "_end\n" #name                 \
	    ":\n.code" #bits "\n" text "\n" #name "_end:\n.code64\n.popsection\n")

#define GUEST_RAM    (4 * 1024 * 1024)
#define GUEST_GDT    0x1000u
#define GUEST_IDT    0x2000u
#define GUEST_TSS    0x3000u
#define GUEST_CODE   0x8000u
#define GUEST_DATA   0x10000u
#define GUEST_STACK  0x7000u
#define GUEST_USTACK 0x78000u
#define GUEST_PML4   0x100000u
#define GUEST_PDPT   0x101000u
#define GUEST_PD     0x102000u
#define GUEST_PT     0x103000u
#define GUEST_PDE32  0x104000u /* 32-bit paging */
#define GUEST_PTE32  0x105000u

/* selectors in the GDT that guest_new makes */
enum {
	SEL_CODE64 = 0x08,
	SEL_DATA = 0x10,
	SEL_CODE32 = 0x18,
	SEL_UCODE32 = 0x20 | 3,
	SEL_UDATA = 0x28 | 3,
	SEL_UCODE64 = 0x30 | 3,
	SEL_CODE16 = 0x38,
	SEL_DATA16 = 0x40,
	SEL_TSS = 0x48, /* 16 bytes */
};

struct guest {
	struct mem *mem;
	struct part *part;
	struct part_vp_state s; /* of VP 0: set before, read after guest_run */
	struct softcpu_result result;
	/* what the host saw */
	struct {
		uint64_t gpa, value;
		unsigned size;
		bool write;
	} mmio[16];
	unsigned mmio_count;
	uint64_t mmio_value; /* what reads give */
	uint16_t port;
	uint32_t port_value;
	_Atomic unsigned port_writes;
	_Atomic unsigned triple_faults;
	unsigned hypercalls;
	char *fatal_text; /* where the partition's last words go; NULL: there must be none */
	size_t fatal_size;
};

/* With OYAKO_TRANSLATE_AT_ONCE in the environment blocks are translated when they run first. */
struct guest *guest_new(unsigned vps);
/* Of the partitions made from now on: */
extern size_t guest_code_cache_bytes;   /* 0: as usual */
extern enum part_backend guest_backend; /* PART_SOFT */
extern bool guest_compatible;           /* without what only some hosts have */
void guest_free(struct guest *g);
/* For cmocka: *state is a guest in long mode whose blocks are translated before their second run,
 * and whose flags are those that are read (unlike with OYAKO_TRANSLATE_AT_ONCE alone). */
int guest_setup_translated(void **state);
int guest_teardown(void **state);
/* A guest in long mode that is only interpreted: what translated ones are compared with. */
struct guest *guest_interpreted(void);
/* Registers, flags, segments, x87 and SSE state of their VPs 0, and what is at GUEST_DATA (256
 * bytes): cmocka's assertions. */
void guest_assert_same(struct guest *a, struct guest *b);
void guest_load(struct guest *g, uint64_t gpa, const void *bytes, size_t len);
#define GUEST_LOAD(g, name) guest_load(g, GUEST_CODE, name, (size_t)(name##_end - name))

/* Set g->s; code starts at GUEST_CODE with a stack. */
void guest_real(struct guest *g);
void guest_protected(struct guest *g);
void guest_long(struct guest *g);
/* Of long or protected mode: to privilege level 3. */
void guest_user(struct guest *g);

/* User code from RIP, with the VP's registers, until HLT, which it may not do: anything else is a
 * failure of the test. Unlike setting the whole state, that keeps translations. */
void guest_run_user(struct guest *g, uint64_t rip);
/* Runs at most count instructions from g->s. */
void guest_run(struct guest *g, uint64_t count, bool deliver);
/* Loads the code, runs it to HLT with exceptions as results. */
#define guest_execute(g, name)                                                                     \
	do {                                                                                       \
		GUEST_LOAD(g, name);                                                               \
		guest_run(g, 100000, false);                                                       \
	} while (0)

/* Starts the VPs' threads with VP 0 at g->s; returns when VP 0 has halted with IF = 0, or false
 * after some seconds. The partition is paused then. */
bool guest_start_and_wait_halt(struct guest *g);
/* The same after a change of g->s. */
bool guest_resume_and_wait_halt(struct guest *g);

/* Loads the code and starts it as above; these are cmocka's assertions again. */
void guest_run_code(struct guest *g, const uint8_t *code, const uint8_t *end);
void guest_assert_translated(struct guest *g);
/* Runs the code, in an interpreted guest, too: both must be the same then. */
void guest_assert_as_interpreted(struct guest *g, const uint8_t *code, const uint8_t *end);

uint64_t guest_read(struct guest *g, uint64_t gpa, unsigned size);
void guest_write(struct guest *g, uint64_t gpa, uint64_t v, unsigned size);
/* Interrupt gate to handler at privilege dpl; in long mode with an IST slot. */
void guest_gate(struct guest *g, unsigned vector, uint64_t handler, unsigned dpl, unsigned ist);
void guest_gate32(struct guest *g, unsigned vector, uint32_t handler, unsigned dpl);
/* The page table entry that maps linear address va (4 KiB pages of guest_long). */
uint64_t guest_pte(struct guest *g, uint64_t va);
void guest_set_pte(struct guest *g, uint64_t va, uint64_t pte);

#endif
