/*
 * Loops whose addresses are looked up before them: random ones, compared with the interpreter.
 * Their pointers move by all kinds of steps, in both directions, over pages that can be written,
 * that can't and that are missing; tables lie anywhere.
 */
#include "base/macros.h"
#include "mem/mem.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"
#include "part/softcpu/translate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define AREA       0x10000u
#define AREA_SIZE  0x10000u
#define READ_ONLY  0x1a000u
#define MISSING    0x1e000u
#define HANDLER_AT 0x9000u

GUEST(handler, 64, "mov %cr2, %rsi; pop %rax; hlt");

struct maker {
	uint64_t random;
	uint8_t code[512];
	unsigned length, exits;
	unsigned exit[8]; /* where rel32 of branches out of the loop are */
};

static unsigned below(struct maker *m, unsigned n)
{
	m->random = m->random * 6364136223846793005u + 1442695040888963407u;
	return (unsigned)(m->random >> 33) % n;
}

static void put(struct maker *m, unsigned count, ...)
{
	va_list args;

	va_start(args, count);
	for (unsigned i = 0; i < count; i++)
		m->code[m->length++] = (uint8_t)va_arg(args, int);
	va_end(args);
}

/* One of RDI, RSI, RBX as ModRM.rm. */
static unsigned pointer(struct maker *m)
{
	static const uint8_t registers[] = { 7, 6, 3 };

	return registers[below(m, 3)];
}

static int displacement(struct maker *m)
{
	static const int8_t some[] = { 0, 0, 8, 4, -8, 16, 32, -64, 100, 1 };

	return some[below(m, ARRAY_SIZE(some))];
}

static int step(struct maker *m)
{
	static const int8_t some[] = { 1, 2, 3, 4, 8, 8, 16, 24, 100, -1, -8, -24, 127 };

	return some[below(m, ARRAY_SIZE(some))];
}

/* Out of the loop, on some values of RAX. */
static void put_exit(struct maker *m)
{
	if (m->exits == ARRAY_SIZE(m->exit))
		return;
	put(m, 8, 0xa9, 0x38, 0x10, 0x60, 0x04, 0x0f, 0x84, 0); /* test eax, imm; jz */
	m->length--;
	m->exit[m->exits++] = m->length;
	put(m, 4, 0, 0, 0, 0);
}

static void put_random(struct maker *m)
{
	unsigned p = pointer(m), d = (uint8_t)displacement(m);

	switch (below(m, 19)) {
	case 0: /* mov eax, [p + d] */
		put(m, 3, 0x8b, 0x40 | p, d);
		break;
	case 1: /* mov [p + d], eax */
		put(m, 3, 0x89, 0x40 | p, d);
		break;
	case 2: /* add rax, [p + d] */
		put(m, 4, 0x48, 0x03, 0x40 | p, d);
		break;
	case 3: /* add [p + d], al */
		put(m, 3, 0x00, 0x40 | p, d);
		break;
	case 4: /* add [p + 8 * rcx + d], rax */
		put(m, 5, 0x48, 0x01, 0x44, 0xc8 | p, d);
		break;
	case 5: /* movzx edx, al; add r8, [r9 + 8 * rdx] */
		put(m, 7, 0x0f, 0xb6, 0xd0, 0x4d, 0x03, 0x04, 0xd1);
		break;
	case 6: /* movzx edx, byte [p + d]; add [rdx + r9], cl */
		put(m, 8, 0x0f, 0xb6, 0x50 | p, d, 0x42, 0x00, 0x0c, 0x0a);
		break;
	case 7: /* and edx, 31; xor eax, [r9 + 4 * rdx + d] */
		put(m, 8, 0x83, 0xe2, 31, 0x41, 0x33, 0x44, 0x91, d);
		break;
	case 8: /* movups xmm0, [p + d]; paddd xmm1, xmm0 */
		put(m, 8, 0x0f, 0x10, 0x40 | p, d, 0x66, 0x0f, 0xfe, 0xc8);
		break;
	case 9: /* movups [p + d], xmm1 */
		put(m, 4, 0x0f, 0x11, 0x48 | p, d);
		break;
	case 10: /* movaps xmm2, [r9 + d] or [rbx + d] */
		if (p == 3)
			put(m, 4, 0x0f, 0x28, 0x53, d & 0xf0);
		else
			put(m, 5, 0x41, 0x0f, 0x28, 0x51, d & 0xf0);
		break;
	case 11: /* adc rax, r8; rol r8, 7 */
		put(m, 7, 0x4c, 0x11, 0xc0, 0x49, 0xc1, 0xc0, 7);
		break;
	case 12: /* xchg [p + d], rax */
		put(m, 4, 0x48, 0x87, 0x40 | p, d);
		break;
	case 13: /* mov r10, [p + d]; add r10, r11; mov r11, r10 */
		put(m, 10, 0x4c, 0x8b, 0x50 | p, d, 0x4d, 0x01, 0xda, 0x4d, 0x89, 0xd3);
		break;
	case 14: /* mov [r9 + d], r10 */
		put(m, 4, 0x4d, 0x89, 0x51, d);
		break;
	case 15:
		put_exit(m);
		break;
	case 16: /* lea p, [p + step] */
		put(m, 4, 0x48, 0x8d, 0x40 | p << 3 | p, (uint8_t)step(m));
		break;
	default: /* add p, step */
		put(m, 4, 0x48, 0x83, 0xc0 | p, (uint8_t)step(m));
	}
}

static void put_rel32(struct maker *m, unsigned at, unsigned target)
{
	int32_t rel = (int32_t)(target - at - 4);

	memcpy(m->code + at, &rel, sizeof(rel));
}

static void make_loop(struct maker *m)
{
	unsigned count = 1 + below(m, 12);

	m->length = m->exits = 0;
	while (count--)
		put_random(m);
	if (below(m, 2))
		put(m, 3, 0x48, 0xff, 0xc9); /* dec rcx */
	else
		put(m, 4, 0x48, 0x83, 0xe9, 1); /* sub rcx, 1 */
	put(m, 6, 0x0f, 0x85, 0, 0, 0, 0);      /* jnz */
	put_rel32(m, m->length - 4, 0);
	for (unsigned i = 0; i < m->exits; i++)
		put_rel32(m, m->exit[i], m->length);
	put(m, 1, 0xf4);
}

/* The area's pages lie elsewhere, in another order, so that what goes beyond a page is seen. */
#define MEMORY 0x300000u

static void map_area(struct guest *g, uint64_t flags)
{
	for (unsigned page = 0; page < AREA_SIZE / MEM_PAGE_SIZE; page++) {
		unsigned other = (page * 7 + 3) % (AREA_SIZE / MEM_PAGE_SIZE);

		guest_set_pte(g, AREA + page * MEM_PAGE_SIZE,
			      (MEMORY + other * MEM_PAGE_SIZE) | flags);
	}
}

static void fill(struct maker *m, uint8_t area[AREA_SIZE])
{
	for (unsigned k = 0; k < AREA_SIZE; k++)
		area[k] = (uint8_t)below(m, 256);
}

static struct guest *prepare(const struct maker *m, const uint8_t *area, bool interpreted)
{
	struct guest *g = interpreted ? guest_interpreted() : guest_new(1);
	struct maker values = { .random = m->random };

	if (!interpreted)
		softcpu_tune(g->part, 0, 2, false);
	guest_long(g);
	guest_load(g, GUEST_CODE, m->code, m->length);
	guest_load(g, MEMORY, area, AREA_SIZE);
	guest_load(g, HANDLER_AT, handler, (size_t)(handler_end - handler));
	guest_gate(g, VEC_PF, HANDLER_AT, 0, 0);
	guest_gate(g, VEC_GP, HANDLER_AT, 0, 0);
	map_area(g, BIT(0) | BIT(1));
	guest_set_pte(g, READ_ONLY, guest_pte(g, READ_ONLY) & ~BIT(1));
	guest_set_pte(g, MISSING, 0);
	g->s.cr0 |= CR0_WP;
	g->s.gpr[PART_RCX] = 1 + below(&values, 900);
	g->s.gpr[PART_RDI] = AREA + below(&values, 0xb000);
	g->s.gpr[PART_RSI] = AREA + below(&values, 0xb000);
	g->s.gpr[PART_RBX] = AREA + below(&values, 0xb000) / 16 * 16;
	g->s.gpr[9] = AREA + below(&values, 0xb000) / 16 * 16;
	return g;
}

static void compare(struct guest *g, struct guest *i)
{
	static uint8_t a[AREA_SIZE], b[AREA_SIZE];

	g->s.rflags = i->s.rflags; /* where a fault comes old ones may be seen */
	assert_true(mem_read(g->mem, MEMORY, a, AREA_SIZE));
	assert_true(mem_read(i->mem, MEMORY, b, AREA_SIZE));
	assert_memory_equal(a, b, AREA_SIZE);
	guest_assert_same(g, i);
}

/* Whether the loop's fast body ran. */
static bool one_loop(uint64_t seed)
{
	struct maker m = { .random = seed * 0x9e3779b97f4a7c15u };
	static uint8_t area[AREA_SIZE];
	struct guest *i, *g;
	bool fast;

	fill(&m, area);
	make_loop(&m);
	i = prepare(&m, area, true);
	g = prepare(&m, area, false);
	assert_true(guest_start_and_wait_halt(i));
	assert_true(guest_start_and_wait_halt(g));
	compare(g, i);
	fast = softcpu_vp(g->part, 0)->loop_more;
	guest_free(i);
	guest_free(g);
	return fast;
}

#define LOOPS 400

static uint64_t first_seed(void)
{
	const char *seed = getenv("OYAKO_SEED");

	return seed ? strtoull(seed, NULL, 0) : 1;
}

static void random_loops(void **state)
{
	uint64_t first = first_seed();
	unsigned fast = 0;

	for (uint64_t n = first; n < first + LOOPS; n++)
		fast += one_loop(n);
	assert_true(fast > LOOPS / 4);
}

/* ---- copies, for user code at another address ---- */

#define COPY_AT 0x50000u

static void prepare_user(struct guest *g, const struct maker *m)
{
	static uint8_t area[AREA_SIZE];
	struct maker values = *m;

	fill(&values, area);
	guest_long(g);
	guest_user(g);
	map_area(g, BIT(0) | BIT(1) | BIT(2));
	guest_set_pte(g, COPY_AT, GUEST_CODE | BIT(0) | BIT(2));
	guest_load(g, MEMORY, area, AREA_SIZE);
	guest_load(g, GUEST_CODE, m->code, m->length);
	part_vp_set_state(g->part, 0, &g->s);
}

/* In the middle of the area: it doesn't get out of it. */
static void run_user(struct guest *g, const struct maker *m, uint64_t rip)
{
	struct vp *c = softcpu_vp(g->part, 0);
	struct maker values = *m;

	memset(c->gpr, 0, 16 * sizeof(c->gpr[0]));
	c->gpr[PART_RCX] = 1 + below(&values, 25);
	c->gpr[PART_RDI] = AREA + 0x7000 + below(&values, 0x2000);
	c->gpr[PART_RSI] = AREA + 0x7000 + below(&values, 0x2000);
	c->gpr[PART_RBX] = AREA + 0x7000 + below(&values, 0x2000) / 16 * 16;
	c->gpr[9] = AREA + 0x7000 + below(&values, 0x2000) / 16 * 16;
	guest_run_user(g, rip);
}

static uint64_t one_copied_loop(uint64_t seed)
{
	struct maker m = { .random = seed * 0x9e3779b97f4a7c15u };
	struct guest *g = guest_new(1), *i = guest_interpreted();
	struct softcpu_stats stats;

	softcpu_tune(g->part, 0, 2, false);
	make_loop(&m);
	prepare_user(g, &m);
	prepare_user(i, &m);
	for (unsigned n = 0; n < 4; n++) {
		run_user(g, &m, n < 2 ? GUEST_CODE : COPY_AT);
		run_user(i, &m, n < 2 ? GUEST_CODE : COPY_AT);
		compare(g, i);
	}
	softcpu_stats(g->part, 0, &stats);
	guest_free(g);
	guest_free(i);
	return stats.copied;
}

static void copied_loops(void **state)
{
	uint64_t first = first_seed(), copied = 0;

	for (uint64_t n = first; n < first + LOOPS; n++)
		copied += one_copied_loop(n) != 0;
	assert_true(copied > LOOPS / 4);
}

/* ---- loops that were made by hand ---- */

/* One iteration each, at last RBP of them and with RDX added to the pointer: what was aligned
 * isn't. The exception is the guest's. */
#define ALIGNED(step)                                                                              \
	"mov $100, %esi\n"                                                                         \
	"1: mov $0x10000, %ebx; mov $1, %ecx; cmp $1, %esi; jne 2f; mov %rbp, %rcx\n"              \
	"add %rdx, %rbx; jmp 2f\n"                                                                 \
	"2: movaps (%rbx), %xmm2; add $" step ", %rbx; dec %rcx; jnz 2b; dec %esi; jnz 1b; hlt"
GUEST(code_aligned_8, 64, ALIGNED("8"));
GUEST(code_aligned_16, 64, ALIGNED("16"));

static void run_aligned(const uint8_t *code, const uint8_t *end, uint64_t first, uint64_t times)
{
	struct maker m = { .length = (unsigned)(end - code) };
	static const uint8_t area[AREA_SIZE];
	struct guest *g;

	memcpy(m.code, code, m.length);
	g = prepare(&m, area, false);
	g->s.gpr[PART_RDX] = first;
	g->s.gpr[PART_RBP] = times;
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RBX], AREA + 8);
	assert_int_equal(g->s.gpr[PART_RCX], first ? times : times - 1);
	assert_int_equal(softcpu_vp(g->part, 0)->loop_more != 0, first != 0);
	guest_free(g);
}

static void begins_misaligned(void **state)
{
	run_aligned(code_aligned_16, code_aligned_16_end, 8, 3);
}

static void becomes_misaligned(void **state)
{
	run_aligned(code_aligned_8, code_aligned_8_end, 0, 5);
}

/* Stores to a page with code are looked at: where they were is asked when the index has changed. */
GUEST(code_index_exchanged, 64,
      "mov $300, %ecx; mov $0x8800, %r9d; mov $0x10000, %edi\n"
      "1: movzbl (%rdi), %edx; and $63, %edx; xchg %rdx, (%r9,%rdx,8); add %rdx, %rax\n"
      "inc %rdi; dec %rcx; jnz 1b; hlt");

static void index_is_exchanged(void **state)
{
	struct maker m = { .length = (unsigned)(code_index_exchanged_end - code_index_exchanged) };
	uint8_t area[AREA_SIZE];
	struct guest *g, *i;

	fill(&m, area);
	memcpy(m.code, code_index_exchanged, m.length);
	i = prepare(&m, area, true);
	g = prepare(&m, area, false);
	guest_load(i, 0x8800, area, 512);
	guest_load(g, 0x8800, area, 512);
	assert_true(guest_start_and_wait_halt(i));
	assert_true(guest_start_and_wait_halt(g));
	compare(g, i);
	guest_free(i);
	guest_free(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_loops),       cmocka_unit_test(copied_loops),
		cmocka_unit_test(begins_misaligned),  cmocka_unit_test(becomes_misaligned),
		cmocka_unit_test(index_is_exchanged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
