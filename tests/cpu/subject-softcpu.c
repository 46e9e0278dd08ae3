/*
 * The software CPU: a partition with one VP in user mode, whose page tables show it the pages where
 * the native process has them. As "softcpu" it decodes each instruction for itself, as
 * "softcpu-blocks" whole blocks as it does in earnest. As "translator" it executes translated code.
 * As "translator-copies" it executes the code elsewhere first, and then copies of what it
 * translated. "engines" are two, softcpu-blocks and a translator.
 */
#include "case.h"

#include "mem/mem.h"
#include "part/part.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/softcpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM_SIZE (4u << 20)

/* Guest physical addresses. */
#define DATA_GPA     0x200000u /* two pages, then the read-only one */
#define READONLY_GPA 0x202000u
#define CODE_GPA     0x204000u
#define PML4_GPA     0x100000u /* page tables: PML4, PDPT, PD, one PT per 2 MiB used */
#define PDPT_GPA     0x101000u
#define PD_GPA       0x102000u /* two */
#define DATA_PT_GPA  0x104000u
#define CODE_PT_GPA  0x105000u
#define TSS_PT_GPA   0x106000u
#define TSS_ADDRESS  0x70000000u /* where no case goes; no port is allowed */
#define TSS_GPA      0x107000u
#define TSS_LIMIT    0x67u

/* For copies, the same pages once more, so far above: with other low bits, where addresses are
 * sign-extended or have 64 bits. */
#define ELSEWHERE_LOW  0x40000000u
#define ELSEWHERE_HIGH 0x7f0000000000u

enum { PTE_PRESENT = 1, PTE_WRITABLE = 2, PTE_USER = 4 };
#define PTE_TABLE (PTE_PRESENT | PTE_WRITABLE | PTE_USER)

struct softcpu_subject {
	struct mem *mem;
	struct part *part;
	struct part_vp_state user; /* what all cases have in common */
	uint64_t count;
	bool live_flags_only;
	bool copies;
	bool loaded; /* the VP has had a case of the mode */
};

/* ---- a host that has nothing ---- */

static uint32_t no_pio_read(void *user, unsigned vp, uint16_t port, unsigned size)
{
	return UINT32_MAX;
}

static void no_pio_write(void *user, unsigned vp, uint16_t port, unsigned size, uint32_t value)
{
}

static uint64_t no_mmio_read(void *user, unsigned vp, uint64_t gpa, unsigned size)
{
	return UINT64_MAX;
}

static void no_mmio_write(void *user, unsigned vp, uint64_t gpa, unsigned size, uint64_t value)
{
}

static bool no_msr_read(void *user, unsigned vp, uint32_t msr, uint64_t *ret)
{
	return false;
}

static bool no_msr_write(void *user, unsigned vp, uint32_t msr, uint64_t value)
{
	return false;
}

static void no_hypercall(void *user, unsigned vp, struct part_hypercall *call)
{
}

static void no_eoi(void *user, uint8_t vector)
{
}

static int no_extint(void *user)
{
	return -1;
}

static void no_event(void *user, unsigned vp)
{
}

static void fatal(void *user, unsigned vp, const char *text)
{
	fprintf(stderr, "the partition gave up: %s\n", text);
	abort();
}

static const struct part_host host = {
	.pio_read = no_pio_read,
	.pio_write = no_pio_write,
	.mmio_read = no_mmio_read,
	.mmio_write = no_mmio_write,
	.msr_read = no_msr_read,
	.msr_write = no_msr_write,
	.hypercall = no_hypercall,
	.eoi = no_eoi,
	.extint_ack = no_extint,
	.triple_fault = no_event,
	.vp_reset = no_event,
	.fatal = fatal,
};

/* ---- the guest ---- */

static void poke(struct softcpu_subject *s, uint64_t gpa, const void *bytes, size_t length)
{
	if (!mem_write(s->mem, gpa, bytes, length))
		abort();
}

static void set_entry(struct softcpu_subject *s, uint64_t table, unsigned index, uint64_t entry)
{
	poke(s, table + index * 8, &entry, 8);
}

static void map_page(struct softcpu_subject *s, uint64_t table, uint64_t va, uint64_t gpa,
		     uint64_t flags)
{
	set_entry(s, table, va >> 12 & 511, gpa | flags | PTE_PRESENT | PTE_USER);
}

static void make_page_tables(struct softcpu_subject *s)
{
	set_entry(s, PML4_GPA, 0, PDPT_GPA | PTE_TABLE);
	set_entry(s, PDPT_GPA, 0, PD_GPA | PTE_TABLE);
	set_entry(s, PDPT_GPA, 1, (PD_GPA + PAGE) | PTE_TABLE);
	set_entry(s, PD_GPA, DATA_ADDRESS >> 21, DATA_PT_GPA | PTE_TABLE);
	set_entry(s, PD_GPA, CODE_ADDRESS >> 21, CODE_PT_GPA | PTE_TABLE);
	for (unsigned page = 0; page < 2; page++) {
		map_page(s, DATA_PT_GPA, DATA_ADDRESS + page * PAGE, DATA_GPA + page * PAGE,
			 PTE_WRITABLE);
		map_page(s, CODE_PT_GPA, CODE_ADDRESS + page * PAGE, CODE_GPA + page * PAGE, 0);
	}
	map_page(s, DATA_PT_GPA, READONLY_ADDRESS, READONLY_GPA, 0);
}

static void map_elsewhere(struct softcpu_subject *s)
{
	set_entry(s, PML4_GPA, ELSEWHERE_HIGH >> 39, PDPT_GPA | PTE_TABLE);
	set_entry(s, PD_GPA + PAGE, DATA_ADDRESS >> 21, DATA_PT_GPA | PTE_TABLE);
	set_entry(s, PD_GPA + PAGE, CODE_ADDRESS >> 21, CODE_PT_GPA | PTE_TABLE);
}

static void fill_pages(struct softcpu_subject *s)
{
	static const uint16_t port_map_base = UINT16_MAX;
	uint8_t code[CODE_SIZE], readonly[PAGE];

	memset(code, 0xcc, sizeof(code));
	for (unsigned i = 0; i < PAGE; i++)
		readonly[i] = READONLY_BYTE(i);
	poke(s, CODE_GPA, code, sizeof(code));
	poke(s, READONLY_GPA, readonly, sizeof(readonly));
	set_entry(s, PD_GPA + PAGE, TSS_ADDRESS >> 21 & 511, TSS_PT_GPA | PTE_TABLE);
	set_entry(s, TSS_PT_GPA, TSS_ADDRESS >> 12 & 511, TSS_GPA | PTE_PRESENT);
	poke(s, TSS_GPA + 102, &port_map_base, sizeof(port_map_base));
}

/* CR0 of a Linux kernel; long mode, 64-bit user segments. */
static void make_user_state(struct part_vp_state *state)
{
	part_vp_state_at_reset(state);
	state->cr0 = 0x80050033;
	state->cr3 = PML4_GPA;
	state->cr4 = 0x620;  /* PAE, OSFXSR, OSXMMEXCPT */
	state->efer = 0xd01; /* SCE, LME, LMA, NXE */
	state->seg[PART_FS] = state->seg[PART_GS] = (struct part_segment){ 0, 0, 0, 0 };
	state->seg[PART_TR] = (struct part_segment){ TSS_ADDRESS, TSS_LIMIT, 0x40, 0x008b };
	state->halted = state->wait_for_sipi = false;
}

static struct softcpu_subject *create_with(uint64_t count, enum part_backend backend)
{
	struct softcpu_subject *s = calloc(1, sizeof(*s));
	struct part_config config = { .backend = backend, .vp_count = 1, .host = host };
	struct error err;

	if (!s || mem_new(RAM_SIZE, &s->mem, &err) < 0)
		exit(2);
	config.mem = s->mem;
	if (part_new(&config, &s->part, &err) < 0) {
		fprintf(stderr, "cpu-diff: %s\n", err.text);
		exit(2);
	}
	if (__builtin_cpu_is("amd"))
		softcpu_do_as_amd(s->part);
	s->count = count;
	make_page_tables(s);
	fill_pages(s);
	make_user_state(&s->user);
	return s;
}

#define ENOUGH 1000000 /* instructions, for a repeated one too */

static void *create_steps(void)
{
	return create_with(ENOUGH, PART_SOFT_INTERPRETER);
}

static void *create_blocks(void)
{
	return create_with(SOFTCPU_BLOCKS, PART_SOFT_INTERPRETER);
}

static struct softcpu_subject *create_translating(bool exact_flags)
{
	struct softcpu_subject *s = create_with(SOFTCPU_BLOCKS, PART_SOFT);

	softcpu_tune(s->part, 0, 1, exact_flags);
	s->live_flags_only = !exact_flags;
	return s;
}

/* Everything is translated at once, and flags are kept where nobody would see them, */
static void *create_translator(void)
{
	return create_translating(true);
}

/* or not, as in earnest. */
static void *create_translator_live(void)
{
	return create_translating(false);
}

static void *create_copies(void)
{
	struct softcpu_subject *s = create_translating(true);

	s->copies = true;
	map_elsewhere(s);
	return s;
}

static void destroy(void *subject)
{
	struct softcpu_subject *s = subject;

	part_free(s->part);
	mem_free(s->mem);
	free(s);
}

/* ---- a case ---- */

static void put_code(struct softcpu_subject *s, const struct cpu_case *c, bool present)
{
	uint64_t offset = case_code_address(c) - CODE_ADDRESS;
	uint8_t blank[CASE_MAX_CODE];

	memset(blank, 0xcc, sizeof(blank));
	poke(s, CODE_GPA + offset, present ? c->code : blank, case_present_length(c));
}

static void set_segments(struct part_vp_state *state, enum cpu_mode mode)
{
	static const uint16_t code_attributes[] = {
		[CPU_MODE_64] = 0xa0fb,
		[CPU_MODE_32] = 0xc0fb,
		[CPU_MODE_16] = 0x00fb,
	};
	const struct cpu_layout *layout = &cpu_layouts[mode];
	uint32_t limit = mode == CPU_MODE_16 ? 0xffff : UINT32_MAX;
	uint16_t data_attributes = mode == CPU_MODE_16 ? 0x00f3 : 0xc0f3;

	for (unsigned i = PART_ES; i <= PART_DS; i++)
		state->seg[i] =
		    (struct part_segment){ layout->data_base, limit, 0x2b, data_attributes };
	state->seg[PART_CS] =
	    (struct part_segment){ layout->code_base, limit, 0x33, code_attributes[mode] };
}

/* Takes long: everything that the VP knows of memory is forgotten. */
static void reset_vp(struct softcpu_subject *s, enum cpu_mode mode)
{
	struct part_vp_state state = s->user;

	set_segments(&state, mode);
	part_vp_set_state(s->part, 0, &state);
	softcpu_enable_avx(s->part, 0);
	s->loaded = true;
}

/* Most cases find some of the pages in the TLB, and some not. */
static void forget_pages(struct softcpu_subject *s, const struct cpu_case *c)
{
	struct vp *vp = softcpu_vp(s->part, 0);

	if (!s->loaded || (c->id % 256 == 0 && c->variant == 0)) {
		reset_vp(s, c->mode);
		return;
	}
	for (unsigned page = 0; page < 3; page++)
		if (c->id >> (8 + page) & 1)
			sc_tlb_flush_page(vp, DATA_ADDRESS + page * PAGE);
}

static void load_case(struct softcpu_subject *s, const struct cpu_case *c)
{
	struct vp *vp = softcpu_vp(s->part, 0);

	forget_pages(s, c);
	memcpy(vp->gpr, c->before.gpr, sizeof(c->before.gpr));
	RIP(vp) = c->before.rip;
	sc_set_rflags(vp, c->before.rflags);
	*softcpu_fpu(s->part, 0) = c->before.fpu;
	memcpy(softcpu_ymm_high(s->part, 0), c->before.ymm_high, sizeof(c->before.ymm_high));
	poke(s, DATA_GPA, c->before.data, DATA_SIZE);
}

static void save_outcome(struct softcpu_subject *s, const struct softcpu_result *result,
			 struct cpu_outcome *ret)
{
	const struct vp *vp = softcpu_vp(s->part, 0);

	memcpy(ret->state.gpr, vp->gpr, sizeof(ret->state.gpr));
	ret->state.rip = RIP(vp);
	ret->state.rflags = sc_rflags(vp);
	ret->state.fpu = *softcpu_fpu(s->part, 0);
	memcpy(ret->state.ymm_high, softcpu_ymm_high(s->part, 0), sizeof(ret->state.ymm_high));
	if (!mem_read(s->mem, DATA_GPA, ret->state.data, DATA_SIZE))
		abort();
	ret->vector = result->reason == SOFTCPU_EXCEPTION ? result->vector : 1000u + result->reason;
	ret->error_code = result->has_error ? result->error : 0;
	ret->stale_flags = s->live_flags_only && ret->vector != VECTOR_BP;
	ret->fault_address = ret->vector == VECTOR_PF ? result->cr2 : 0;
}

/* What comes of it doesn't matter. */
static void execute_elsewhere(struct softcpu_subject *s, const struct cpu_case *c)
{
	struct softcpu_result result;

	load_case(s, c);
	RIP(softcpu_vp(s->part, 0)) += c->id >> 12 & 1 ? ELSEWHERE_HIGH : ELSEWHERE_LOW;
	softcpu_run(s->part, 0, s->count, false, &result);
}

static void execute(struct softcpu_subject *s, const struct cpu_case *c, struct cpu_outcome *ret)
{
	struct softcpu_result result;

	if (s->copies)
		execute_elsewhere(s, c);
	load_case(s, c);
	softcpu_run(s->part, 0, s->count, false, &result);
	save_outcome(s, &result, ret);
}

static bool run(void *subject, const struct cpu_case *c, unsigned attempt, struct cpu_outcome *ret)
{
	struct softcpu_subject *s = subject;

	if (c->first)
		put_code(s, c, true);
	execute(s, c, ret);
	if (c->last)
		put_code(s, c, false);
	return true;
}

/* ---- both engines ---- */

struct engines {
	struct softcpu_subject *interpreter, *translator;
};

static void *create_engines(void)
{
	struct engines *e = calloc(1, sizeof(*e));

	if (!e)
		exit(2);
	e->interpreter = create_blocks();
	e->translator = create_translator();
	return e;
}

static void destroy_engines(void *subject)
{
	struct engines *e = subject;

	destroy(e->interpreter);
	destroy(e->translator);
	free(e);
}

/* Which flags a translation keeps is the case's choice. */
static bool run_engines(void *subject, const struct cpu_case *c, unsigned attempt,
			struct cpu_outcome *ret)
{
	struct engines *e = subject;
	bool exact_flags = c->id >> 16 & 1;

	if (attempt == 0)
		return run(e->interpreter, c, 0, ret);
	softcpu_tune(e->translator->part, 0, 1, exact_flags);
	e->translator->live_flags_only = !exact_flags;
	return run(e->translator, c, 0, ret);
}

const struct subject subject_softcpu = { "softcpu", 1, true, create_steps, destroy, run };
const struct subject subject_softcpu_blocks = { "softcpu-blocks", 1,       true,
						create_blocks,    destroy, run };
const struct subject subject_translator = {
	"translator", 1, true, create_translator, destroy, run
};
const struct subject subject_translator_live = { "translator-live",      1,       true,
						 create_translator_live, destroy, run };
const struct subject subject_translator_copies = { "translator-copies", 1,       true,
						   create_copies,       destroy, run };
const struct subject subject_engines = { "engines",       2,          true, create_engines,
					 destroy_engines, run_engines };
