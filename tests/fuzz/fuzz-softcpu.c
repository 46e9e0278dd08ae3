/*
 * The software CPU against a guest that means harm: random bytes as code, page tables, descriptor
 * tables and registers, in all modes. Whatever it does stays in its 4 MiB, and in lockstep
 * translator and interpreter do the same.
 *
 * Input: byte 0 chooses the mode and lockstep, byte 1 what else is random, then 16 bytes of
 * register seeds, 8 per table that is random, the rest is code.
 */
#include "base/macros.h"
#include "part/softcpu/softcpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM             (4 * MIB)
#define CODE            0x8000u
#define GDT             0x1000u
#define IDT             0x2000u
#define TSS             0x3000u
#define STACK           0x7000u
#define PML4            0x100000u
#define PDPT            0x101000u
#define PD              0x102000u
#define PT              0x103000u
#define INSTRUCTIONS    2000
#define TRANSLATE_NEVER UINT16_MAX /* more often than it runs */

/* byte 1 */
#define RANDOM_PAGE_TABLES 1
#define RANDOM_GDT         2
#define RANDOM_IDT         4
#define USER               8
#define STEPWISE           16
#define LIMITS             32
#define TRANSLATE          64 /* blocks at once, */
#define EXACT_FLAGS        128

/* byte 0 */
#define LOCKSTEP 128

static struct {
	struct mem *mem;
	struct part *part;
} partitions[2]; /* [1] in lockstep */
/* That of the input. */
static struct mem *mem;
static struct part *part;
static uint64_t seed;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static uint32_t pio_read(void *user, unsigned vp, uint16_t port, unsigned size)
{
	return (uint32_t)next_random() & (uint32_t)(BIT(size * 8) - 1);
}

static void pio_write(void *user, unsigned vp, uint16_t port, unsigned size, uint32_t value)
{
}

static uint64_t mmio_read(void *user, unsigned vp, uint64_t gpa, unsigned size)
{
	if (size != 1 && size != 2 && size != 4 && size != 8)
		abort();
	if ((gpa & 7) + size > 8 || gpa < RAM)
		abort();
	return next_random();
}

static void mmio_write(void *user, unsigned vp, uint64_t gpa, unsigned size, uint64_t value)
{
	mmio_read(user, vp, gpa, size);
}

static bool msr_read(void *user, unsigned vp, uint32_t msr, uint64_t *ret)
{
	*ret = 0;
	return msr & 1;
}

static bool msr_write(void *user, unsigned vp, uint32_t msr, uint64_t value)
{
	return msr & 1;
}

static void hypercall(void *user, unsigned vp, struct part_hypercall *call)
{
	call->result = 2;
}

static void eoi(void *user, uint8_t vector)
{
}

static int extint_ack(void *user)
{
	return -1;
}

static void nothing(void *user, unsigned vp)
{
}

static void fatal(void *user, unsigned vp, const char *text)
{
	fprintf(stderr, "%s\n", text);
	abort();
}

/* The leak checker can't see what hangs on a VP, which lies in memory of its own. */
static void free_partitions(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(partitions); i++) {
		part_free(partitions[i].part);
		mem_free(partitions[i].mem);
	}
}

static void make_partition(unsigned which)
{
	struct part_config config = {
		.backend = which ? PART_SOFT_LOCKSTEP : PART_SOFT,
		.vp_count = 1,
		.host = { NULL, pio_read, pio_write, mmio_read, mmio_write, msr_read, msr_write,
			  hypercall, eoi, extint_ack, nothing, nothing, fatal },
	};
	struct error err;

	if (mem_new(RAM, &partitions[which].mem, &err) < 0)
		abort();
	config.mem = partitions[which].mem;
	if (part_new(&config, &partitions[which].part, &err) < 0)
		abort();
}

static void choose_partition(unsigned which)
{
	if (!partitions[0].part)
		atexit(free_partitions);
	for (unsigned i = 0; i < ARRAY_SIZE(partitions); i++)
		if (!partitions[i].part)
			make_partition(i);
	mem = partitions[which].mem;
	part = partitions[which].part;
}

static void put(uint64_t gpa, const void *data, size_t len)
{
	mem_write(mem, gpa, data, len);
}

static void put64(uint64_t gpa, uint64_t v)
{
	put(gpa, &v, sizeof(v));
}

static void make_tables(unsigned what)
{
	static const uint64_t gdt[] = {
		0,
		UINT64_C(0x00af9b000000ffff),
		UINT64_C(0x00cf93000000ffff),
		UINT64_C(0x00cf9b000000ffff),
		UINT64_C(0x00cffb000000ffff),
		UINT64_C(0x00cff3000000ffff),
		UINT64_C(0x00affb000000ffff),
		UINT64_C(0x00009b000000ffff),
		UINT64_C(0x000093000000ffff),
		UINT64_C(0x0000890030000067),
		0,
	};

	put(GDT, gdt, sizeof(gdt));
	if (what & RANDOM_GDT)
		for (unsigned i = 0; i < 8; i++)
			put64(GDT + (next_random() & 15) * 8, next_random());
	put64(PML4, PDPT | 7);
	put64(PDPT, PD | 7);
	put64(PD, PT | 7);
	for (uint64_t page = 0; page < 512; page++)
		put64(PT + page * 8, page << 12 | 7);
	put64(PDPT + 3 * 8, 0x104000 | 7);
	put64(0x104000 + (0xfee00000 >> 21 & 511) * 8, 0xfee00087);
	if (what & RANDOM_PAGE_TABLES)
		for (unsigned i = 0; i < 64; i++)
			put64(PML4 + (next_random() & 0x7ff8),
			      (next_random() & UINT64_C(0x80000000003ff1ff)) | (next_random() & 1));
	for (unsigned v = 0; v < 32; v++) {
		put64(IDT + v * 16, UINT64_C(0x00008e0000080000) | (CODE + v * 16));
		put64(IDT + v * 16 + 8, 0);
	}
	if (what & RANDOM_IDT)
		for (unsigned i = 0; i < 16; i++)
			put64(IDT + (next_random() & 0x1f8), next_random());
	for (unsigned i = 0; i < 13; i++)
		put64(TSS + 4 + i * 8, STACK - i * 256);
}

static void flat(struct part_vp_state *s, enum part_seg seg, uint16_t selector, uint16_t attributes)
{
	s->seg[seg] = (struct part_segment){ 0, UINT32_MAX, selector, attributes };
}

static void set_mode(struct part_vp_state *s, unsigned mode, unsigned what)
{
	unsigned dpl = what & USER ? 3 : 0;

	part_vp_state_at_reset(s);
	s->rip = CODE;
	s->gdt_base = GDT;
	s->gdt_limit = 0x7f;
	s->idt_base = IDT;
	s->idt_limit = 0x1ff;
	s->cr4 = 0x6b0;
	s->seg[PART_CS].base = 0;
	s->seg[PART_CS].selector = 0;
	if (mode % 6 == 0)
		return;
	s->cr0 = 0x10033;
	for (unsigned i = 0; i < 6; i++)
		flat(s, (enum part_seg)i, (uint16_t)(dpl ? 0x2b : 0x10),
		     (uint16_t)(0xc093 | dpl << 5));
	flat(s, PART_CS, (uint16_t)(dpl ? 0x23 : 0x18), (uint16_t)(0xc09b | dpl << 5));
	s->seg[PART_TR] = (struct part_segment){ TSS, 0x67, 0x48, 0x8b };
	if (what & LIMITS)
		s->seg[PART_DS].limit = s->seg[PART_SS].limit = 0xffff;
	switch (mode % 6) {
	case 1: /* 16-bit protected */
		s->seg[PART_CS].attributes &= 0xbfff;
		break;
	case 2: /* 32-bit, no paging */
		s->cr4 = 0;
		break;
	case 3: /* PAE */
		put64(PDPT, PD | 1);
		put64(PDPT + 24, 0);
		s->cr3 = PDPT;
		s->cr0 |= BIT(31);
		break;
	case 4: /* compatibility */
	case 5:
		s->cr3 = PML4;
		s->cr0 |= BIT(31);
		s->efer = 0xd01;
		if (mode % 6 == 5)
			flat(s, PART_CS, (uint16_t)(dpl ? 0x33 : 8), (uint16_t)(0xa09b | dpl << 5));
		break;
	}
}

static void set_registers(struct part_vp_state *s, const uint8_t *bytes)
{
	static const uint64_t values[] = { 0,          1,          CODE,
					   STACK,      0x2000,     RAM - 4,
					   0xfee00300, 0x7fffffff, 0xffff,
					   0x80,       UINT64_MAX, UINT64_C(0x800000000000),
					   0x1ff8,     64,         UINT32_MAX - 7,
					   0x20ffd };

	for (unsigned i = 0; i < 16; i++)
		s->gpr[i] = bytes[i] & 0x80 ? next_random() : values[bytes[i] & 15];
	s->gpr[PART_RSP] = bytes[PART_RSP] & 0x40 ? s->gpr[PART_RSP] : STACK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct part_vp_state s;
	struct softcpu_result result;

	if (size < 19)
		return 0;
	choose_partition(data[0] & LOCKSTEP ? 1 : 0);
	mem_clear(mem);
	part_reset(part);
	memcpy(&seed, data + 2, sizeof(seed));
	seed |= 1;
	make_tables(data[1]);
	set_mode(&s, data[0], data[1]);
	set_registers(&s, data + 2);
	put(CODE, data + 18, MIN(size - 18, RAM - CODE));
	part_vp_set_state(part, 0, &s);
	softcpu_enable_avx(part, 0);
	softcpu_tune(part, 0, data[1] & TRANSLATE || data[0] & LOCKSTEP ? 1 : TRANSLATE_NEVER,
		     data[1] & EXACT_FLAGS);
	if (data[1] & STEPWISE)
		softcpu_run(part, 0, 200, true, &result);
	else
		softcpu_run_blocks(part, 0, INSTRUCTIONS, &result);
	return 0;
}
