#include "part/softcpu/test-guest.h"

#include "part/softcpu/cpu.h"

#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/macros.h"

#define PTE_FLAGS 0x7 /* present, writable, user */

/* ---- the host ---- */

static uint32_t pio_read(void *user, unsigned vp, uint16_t port, unsigned size)
{
	struct guest *g = user;

	return g->port_value & (uint32_t)(BIT(size * 8) - 1);
}

static void pio_write(void *user, unsigned vp, uint16_t port, unsigned size, uint32_t value)
{
	struct guest *g = user;

	g->port = port;
	g->port_value = value;
	g->port_writes++;
}

static void note_mmio(struct guest *g, uint64_t gpa, unsigned size, uint64_t value, bool write)
{
	if (g->mmio_count == ARRAY_SIZE(g->mmio))
		return;
	g->mmio[g->mmio_count].gpa = gpa;
	g->mmio[g->mmio_count].size = size;
	g->mmio[g->mmio_count].value = value;
	g->mmio[g->mmio_count].write = write;
	g->mmio_count++;
}

static uint64_t mmio_read(void *user, unsigned vp, uint64_t gpa, unsigned size)
{
	struct guest *g = user;

	note_mmio(g, gpa, size, g->mmio_value, false);
	return size == 8 ? g->mmio_value : g->mmio_value & (BIT(size * 8) - 1);
}

static void mmio_write(void *user, unsigned vp, uint64_t gpa, unsigned size, uint64_t value)
{
	note_mmio(user, gpa, size, value, true);
}

static bool msr_read(void *user, unsigned vp, uint32_t msr, uint64_t *ret)
{
	*ret = msr;
	return msr == 0x40000000;
}

static bool msr_write(void *user, unsigned vp, uint32_t msr, uint64_t value)
{
	return msr == 0x40000000;
}

static void hypercall(void *user, unsigned vp, struct part_hypercall *call)
{
	struct guest *g = user;

	g->hypercalls++;
	call->result = call->control + call->input + call->output;
}

static void eoi(void *user, uint8_t vector)
{
}

static int extint_ack(void *user)
{
	return -1;
}

static void triple_fault(void *user, unsigned vp)
{
	struct guest *g = user;

	g->triple_faults++;
}

static void vp_reset(void *user, unsigned vp)
{
}

static void fatal(void *user, unsigned vp, const char *text)
{
	struct guest *g = user;

	if (!g->fatal_text) {
		fprintf(stderr, "%s\n", text);
		abort();
	}
	snprintf(g->fatal_text, g->fatal_size, "%s", text);
}

/* ---- memory ---- */

void guest_load(struct guest *g, uint64_t gpa, const void *bytes, size_t len)
{
	if (!mem_write(g->mem, gpa, bytes, len))
		abort();
}

uint64_t guest_read(struct guest *g, uint64_t gpa, unsigned size)
{
	uint64_t v = 0;

	if (!mem_read(g->mem, gpa, &v, size))
		abort();
	return v;
}

void guest_write(struct guest *g, uint64_t gpa, uint64_t v, unsigned size)
{
	guest_load(g, gpa, &v, size);
}

static void make_gdt(struct guest *g)
{
	static const uint64_t gdt[] = {
		0,
		UINT64_C(0x00af9b000000ffff), /* SEL_CODE64 */
		UINT64_C(0x00cf93000000ffff), /* SEL_DATA */
		UINT64_C(0x00cf9b000000ffff), /* SEL_CODE32 */
		UINT64_C(0x00cffb000000ffff), /* SEL_UCODE32 */
		UINT64_C(0x00cff3000000ffff), /* SEL_UDATA */
		UINT64_C(0x00affb000000ffff), /* SEL_UCODE64 */
		UINT64_C(0x00009b000000ffff), /* SEL_CODE16 */
		UINT64_C(0x000093000000ffff), /* SEL_DATA16 */
		UINT64_C(0x0000890030000067), /* SEL_TSS at GUEST_TSS */
		0,
	};

	guest_load(g, GUEST_GDT, gdt, sizeof(gdt));
}

static void make_page_tables(struct guest *g)
{
	guest_write(g, GUEST_PML4, GUEST_PDPT | PTE_FLAGS, 8);
	guest_write(g, GUEST_PDPT, GUEST_PD | PTE_FLAGS, 8);
	guest_write(g, GUEST_PD, GUEST_PT | PTE_FLAGS, 8);
	for (uint64_t page = 0; page < 512; page++)
		guest_write(g, GUEST_PT + page * 8, page << 12 | PTE_FLAGS, 8);
	guest_write(g, GUEST_PDE32, GUEST_PTE32 | PTE_FLAGS, 4);
	for (uint64_t page = 0; page < 1024; page++)
		guest_write(g, GUEST_PTE32 + page * 4, page << 12 | PTE_FLAGS, 4);
}

uint64_t guest_pte(struct guest *g, uint64_t va)
{
	return guest_read(g, GUEST_PT + (va >> 12) * 8, 8);
}

void guest_set_pte(struct guest *g, uint64_t va, uint64_t pte)
{
	guest_write(g, GUEST_PT + (va >> 12) * 8, pte, 8);
}

void guest_gate(struct guest *g, unsigned vector, uint64_t handler, unsigned dpl, unsigned ist)
{
	uint64_t lo = (handler & 0xffff) | (uint64_t)SEL_CODE64 << 16 | (uint64_t)ist << 32 |
		      (uint64_t)(0x8e | dpl << 5) << 40 | (handler >> 16 & 0xffff) << 48;

	guest_write(g, GUEST_IDT + vector * 16, lo, 8);
	guest_write(g, GUEST_IDT + vector * 16 + 8, handler >> 32, 8);
}

void guest_gate32(struct guest *g, unsigned vector, uint32_t handler, unsigned dpl)
{
	guest_write(g, GUEST_IDT + vector * 8,
		    (handler & 0xffff) | (uint64_t)SEL_CODE32 << 16 |
			(uint64_t)(0x8e | dpl << 5) << 40 | (uint64_t)(handler >> 16) << 48,
		    8);
}

/* ---- life cycle ---- */

size_t guest_code_cache_bytes;
enum part_backend guest_backend = PART_SOFT;
bool guest_compatible;

struct guest *guest_new(unsigned vps)
{
	struct guest *g = calloc(1, sizeof(*g));
	struct part_config config = {
		.backend = guest_backend,
		.vp_count = vps,
		.code_cache_bytes = guest_code_cache_bytes,
		.compatible = guest_compatible,
		.host = { g, pio_read, pio_write, mmio_read, mmio_write, msr_read, msr_write,
			  hypercall, eoi, extint_ack, triple_fault, vp_reset, fatal },
	};
	struct error err;

	if (!g || mem_new(GUEST_RAM, &g->mem, &err) < 0)
		abort();
	config.mem = g->mem;
	if (part_new(&config, &g->part, &err) < 0)
		abort();
	for (unsigned i = 0; i < vps && getenv("OYAKO_TRANSLATE_AT_ONCE"); i++)
		softcpu_tune(g->part, i, 1, true);
	make_gdt(g);
	make_page_tables(g);
	return g;
}

void guest_free(struct guest *g)
{
	part_free(g->part);
	mem_free(g->mem);
	free(g);
}

/* ---- modes ---- */

static void flat(struct guest *g, enum part_seg seg, uint16_t selector, uint16_t attributes)
{
	g->s.seg[seg] = (struct part_segment){ 0, UINT32_MAX, selector, attributes };
}

static void common(struct guest *g)
{
	part_vp_state_at_reset(&g->s);
	g->s.rip = GUEST_CODE;
	g->s.gpr[PART_RSP] = GUEST_STACK;
	g->s.gdt_base = GUEST_GDT;
	g->s.gdt_limit = 0x57;
	g->s.idt_base = GUEST_IDT;
	g->s.idt_limit = 0xfff;
}

void guest_real(struct guest *g)
{
	common(g);
	g->s.idt_base = 0;
	g->s.idt_limit = 0x3ff;
	g->s.seg[PART_CS].base = 0;
	g->s.seg[PART_CS].selector = 0;
}

void guest_protected(struct guest *g)
{
	common(g);
	g->s.cr0 = 0x11;
	flat(g, PART_CS, SEL_CODE32, 0xc09b);
	for (unsigned i = 0; i < 6; i++)
		if (i != PART_CS)
			flat(g, (enum part_seg)i, SEL_DATA, 0xc093);
	g->s.seg[PART_TR] = (struct part_segment){ GUEST_TSS, 0x67, SEL_TSS, 0x8b };
}

void guest_long(struct guest *g)
{
	guest_protected(g);
	g->s.cr0 = 0x80010033;
	g->s.cr4 = 0x6a0; /* PAE, PGE, OSFXSR, OSXMMEXCPT */
	g->s.cr3 = GUEST_PML4;
	g->s.efer = 0xd01; /* SCE, LME, LMA, NXE */
	flat(g, PART_CS, SEL_CODE64, 0xa09b);
	/* RSP0, IST1, no port bitmap */
	guest_write(g, GUEST_TSS + 4, GUEST_STACK, 8);
	guest_write(g, GUEST_TSS + 36, GUEST_STACK - 0x800, 8);
	guest_write(g, GUEST_TSS + 102, 0x68, 2);
}

void guest_user(struct guest *g)
{
	bool wide = g->s.efer & BIT(10);

	flat(g, PART_CS, wide ? SEL_UCODE64 : SEL_UCODE32, wide ? 0xa0fb : 0xc0fb);
	for (unsigned i = 0; i < 6; i++)
		if (i != PART_CS)
			flat(g, (enum part_seg)i, SEL_UDATA, 0xc0f3);
	g->s.gpr[PART_RSP] = GUEST_USTACK;
}

int guest_setup_translated(void **state)
{
	struct guest *g = guest_new(1);

	softcpu_tune(g->part, 0, 2, false);
	guest_long(g);
	*state = g;
	return 0;
}

int guest_teardown(void **state)
{
	guest_free(*state);
	return 0;
}

struct guest *guest_interpreted(void)
{
	struct guest *g = guest_new(1);

	softcpu_tune(g->part, 0, UINT16_MAX, false);
	guest_long(g);
	return g;
}

void guest_assert_same(struct guest *a, struct guest *b)
{
	assert_memory_equal(a->s.gpr, b->s.gpr, sizeof(a->s.gpr));
	assert_int_equal(a->s.rflags, b->s.rflags);
	assert_int_equal(a->s.rip, b->s.rip);
	assert_memory_equal(a->s.seg, b->s.seg, sizeof(a->s.seg));
	assert_memory_equal(softcpu_fpu(a->part, 0), softcpu_fpu(b->part, 0),
			    sizeof(struct hostop_fpu));
	for (unsigned at = GUEST_DATA; at < GUEST_DATA + 0x100; at += 8)
		assert_int_equal(guest_read(a, at, 8), guest_read(b, at, 8));
}

void guest_run_user(struct guest *g, uint64_t rip)
{
	struct vp *c = softcpu_vp(g->part, 0);

	RIP(c) = rip;
	sc_set_rflags(c, RF_ONE);
	softcpu_run(g->part, 0, SOFTCPU_BLOCKS, false, &g->result);
	part_vp_get_state(g->part, 0, &g->s);
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	assert_int_equal(g->result.vector, VEC_GP);
}

void guest_run(struct guest *g, uint64_t count, bool deliver)
{
	part_vp_set_state(g->part, 0, &g->s);
	softcpu_run(g->part, 0, count, deliver, &g->result);
	part_vp_get_state(g->part, 0, &g->s);
}

/* ---- with threads ---- */

static bool wait_halt(struct guest *g)
{
	struct timespec ms = { 0, 1000000 };

	for (unsigned i = 0; i < 60000; i++) {
		nanosleep(&ms, NULL);
		part_pause(g->part);
		part_vp_get_state(g->part, 0, &g->s);
		if (g->s.halted && !(g->s.rflags & BIT(9)))
			return true;
		part_resume(g->part);
	}
	return false;
}

bool guest_start_and_wait_halt(struct guest *g)
{
	struct error err;

	part_vp_set_state(g->part, 0, &g->s);
	return part_start(g->part, &err) == 0 && wait_halt(g);
}

void guest_run_code(struct guest *g, const uint8_t *code, const uint8_t *end)
{
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->triple_faults, 0);
}

void guest_assert_translated(struct guest *g)
{
	struct softcpu_stats stats;

	softcpu_stats(g->part, 0, &stats);
	assert_true(stats.translated > 0);
}

void guest_assert_as_interpreted(struct guest *g, const uint8_t *code, const uint8_t *end)
{
	struct guest *i = guest_interpreted();

	guest_run_code(i, code, end);
	guest_run_code(g, code, end);
	guest_assert_translated(g);
	guest_assert_same(g, i);
	guest_free(i);
}

bool guest_resume_and_wait_halt(struct guest *g)
{
	part_vp_set_state(g->part, 0, &g->s);
	part_resume(g->part);
	return wait_halt(g);
}
