/*
 * Copies of translations: user code that the page tables show at many linear addresses, compared
 * with the interpreter at the same address.
 */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* All of the first GiB again at each multiple of 512 GiB, and at 1, 2 and 3 GiB. */
#define PLACES   256u
#define PLACE(i) ((uint64_t)(i) << 39)

static void show_everywhere(struct guest *g)
{
	for (unsigned i = 1; i < PLACES; i++)
		guest_write(g, GUEST_PML4 + i * 8, GUEST_PDPT | 7, 8);
	for (unsigned i = 1; i < 4; i++)
		guest_write(g, GUEST_PDPT + i * 8, GUEST_PD | 7, 8);
}

static void begin(struct guest *g)
{
	show_everywhere(g);
	guest_long(g);
	guest_user(g);
	part_vp_set_state(g->part, 0, &g->s);
}

/* Until HLT, which user code may not do; all registers but RDI are 0 before. Setting the whole
 * state would forget all translations. */
static void run_at(struct guest *g, uint64_t place)
{
	struct vp *c = softcpu_vp(g->part, 0);

	for (unsigned i = 0; i < 16; i++)
		if (i != PART_RDI)
			c->gpr[i] = 0;
	c->gpr[PART_RSP] = place + GUEST_USTACK;
	guest_run_user(g, place + GUEST_CODE);
}

static uint64_t copied(struct guest *g)
{
	struct softcpu_stats stats;

	softcpu_stats(g->part, 0, &stats);
	return stats.copied;
}

/* Everything whose translation depends on its address: returns, addresses relative to RIP, a jump
 * table, links to another page, an instruction on two pages, what x87 notes of itself. */
GUEST(code_places, 64,
      "fninit; mov $20, %ecx\n"
      "1: .byte 0xe8; .long 0x60000 - (0x8000 + 2f - code_places); 2:\n"
      ".byte 0xe8; .long 0x61ffe - (0x8000 + 2f - code_places); 2:\n"
      "lea 7f(%rip), %rax; call *%rax\n"
      ".byte 0x48, 0x8b, 0x15; .long 0x10000 - (0x8000 + 3f - code_places); 3:\n" /* mov rdx */
      "add %rdx, %rbx\n"
      ".byte 0x48, 0x89, 0x1d; .long 0x10008 - (0x8000 + 4f - code_places); 4:\n" /* mov rbx */
      ".byte 0x67, 0x8d, 0x35; .long 0x10010\n" /* lea esi, [eip+] */
      "fld1; fld %st(0); faddp\n"
      ".byte 0xdd, 0x1d; .long 0x10010 - (0x8000 + 5f - code_places); 5:\n" /* fstp qword */
      "lea 8f(%rip), %r8; mov %ecx, %edi; and $3, %edi; movslq (%r8,%rdi,4), %r9; add %r8, %r9; "
      "jmp *%r9\n"
      "6: add $1, %r12\n"
      "9: add $2, %r12; dec %ecx; jnz 1b; hlt\n"
      "7: add $3, %r13; push %rbx; pop %r14; ret\n"
      ".balign 4; 8: .long 6b - 8b, 9b - 8b, 6b - 8b, 9b - 8b\n");
GUEST(code_other_page, 64, "add $5, %rbx; adc $0, %rbp; ret");
GUEST(code_another_page, 64, "add $0x500, %rbx; adc $0, %rbp; ret");

static void load(struct guest *g)
{
	begin(g);
	GUEST_LOAD(g, code_places);
	guest_load(g, 0x60000, code_other_page, (size_t)(code_other_page_end - code_other_page));
	guest_load(g, 0x61ffe, code_other_page, (size_t)(code_other_page_end - code_other_page));
	guest_write(g, GUEST_DATA, 0x1234567, 8);
}

static void same_at(struct guest *g, struct guest *interpreted, uint64_t place)
{
	run_at(g, place);
	run_at(interpreted, place);
	guest_assert_same(g, interpreted);
}

static void expect_same(struct guest *g, const uint64_t *places, unsigned count)
{
	struct guest *interpreted = guest_interpreted();

	load(g);
	load(interpreted);
	for (unsigned i = 0; i < count; i++)
		same_at(g, interpreted, places[i]);
	guest_free(interpreted);
}

/* As programs are loaded: at addresses of 47 bits. */
static void at_high_addresses(void **state)
{
	const uint64_t places[] = { PLACE(170), PLACE(254), PLACE(255), PLACE(1), PLACE(170) };

	expect_same(*state, places, ARRAY_SIZE(places));
	assert_in_range(copied(*state), 3 * 7, UINT64_MAX);
}

/* Where shorter encodings hold the first address, but not all that follow. */
static void at_low_addresses_first(void **state)
{
	const uint64_t places[] = { 0, 1 * GIB, 2 * GIB, 3 * GIB, PLACE(100), PLACE(101), 1 * GIB };

	expect_same(*state, places, ARRAY_SIZE(places));
	assert_in_range(copied(*state), 3 * 7, UINT64_MAX);
}

static void at_high_addresses_first(void **state)
{
	const uint64_t places[] = { PLACE(100), 0, 1 * GIB, 2 * GIB, 3 * GIB };

	expect_same(*state, places, ARRAY_SIZE(places));
	assert_in_range(copied(*state), 4 * 7, UINT64_MAX);
}

/* Copies are linked to what was on the other page. */
static void target_mapped_elsewhere(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();

	load(g);
	load(interpreted);
	same_at(g, interpreted, PLACE(3));
	same_at(g, interpreted, PLACE(4));
	for (unsigned i = 0; i < 2; i++) {
		struct guest *both[] = { g, interpreted };

		for (unsigned k = 0; k < 2; k++) {
			guest_load(both[k], 0x63000, code_another_page,
				   (size_t)(code_another_page_end - code_another_page));
			guest_set_pte(both[k], 0x60000, 0x63007 - i * 0x3000);
		}
		same_at(g, interpreted, PLACE(4));
		same_at(g, interpreted, PLACE(5 + i));
		same_at(g, interpreted, PLACE(3));
	}
	guest_free(interpreted);
}

/* All copies of code that was written are of no use. */
static void code_is_written(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();

	load(g);
	load(interpreted);
	for (unsigned i = 0; i < 5; i++)
		same_at(g, interpreted, PLACE(10 + i));
	guest_write(g, 0x60000 + 3, 9, 1);
	guest_write(interpreted, 0x60000 + 3, 9, 1);
	for (unsigned i = 0; i < 6; i++)
		same_at(g, interpreted, PLACE(10 + i));
	assert_int_equal(g->s.gpr[PART_RBP], 0);
	guest_free(interpreted);
}

/* ---- more copies than fit ---- */

#define PIECE_SIZE 32
#define PIECES     300u
#define PIECES_GPA 0x200000u

GUEST(code_pieces, 64, "call *%rdi; hlt");

/* The last so many. */
static void run_pieces(struct guest *g, uint64_t place, unsigned count)
{
	unsigned first = PIECES - count;

	softcpu_vp(g->part, 0)->gpr[PART_RDI] = place + PIECES_GPA + first * PIECE_SIZE;
	run_at(g, place);
	assert_int_equal(g->s.gpr[PART_RBX], (first + PIECES - 1) * count / 2);
	assert_int_equal(g->s.gpr[PART_RCX], count);
	assert_int_equal(g->s.gpr[PART_RSP], place + GUEST_USTACK);
}

/* Each piece adds its number, calls the next one and counts when that returns: places for copies
 * are emptied while calls wait to return there. */
static void places_are_used_again(void **state)
{
	struct softcpu_stats stats;
	struct guest *g;

	guest_code_cache_bytes = 1;
	g = guest_new(1);
	guest_code_cache_bytes = 0;
	softcpu_tune(g->part, 0, 1, false);
	begin(g);
	GUEST_LOAD(g, code_pieces);
	for (uint32_t i = 0; i < PIECES; i++) {
		/* add $i, %rbx; call the next; inc %rcx; ret */
		uint8_t piece[] = { 0x48, 0x81, 0xc3, 0,    0,    0,    0,   0xe8, PIECE_SIZE - 12,
				    0,    0,    0,    0x48, 0xff, 0xc1, 0xc3 };

		memcpy(piece + 3, &i, sizeof(i));
		guest_load(g, PIECES_GPA + i * PIECE_SIZE, piece, sizeof(piece));
	}
	guest_load(g, PIECES_GPA + PIECES * PIECE_SIZE, "\xc3", 1);
	guest_write(g, GUEST_PD + 8, PIECES_GPA | 0x87, 8); /* a page of 2 MiB */
	for (unsigned i = 0; i < 40; i++) {
		run_pieces(g, PLACE(1 + i % 30), PIECES);
		for (unsigned k = 0; k < 6; k++)
			run_pieces(g, PLACE(1 + (i + k % 3) % 30), 30 + 20 * (k % 3));
	}
	softcpu_stats(g->part, 0, &stats);
	assert_int_equal(stats.flushes, 0);
	assert_in_range(stats.copied, 29 * PIECES, UINT64_MAX);
	guest_free(g);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, guest_setup_translated, guest_teardown)
	const struct CMUnitTest tests[] = {
		T(at_high_addresses),       T(at_low_addresses_first),
		T(at_high_addresses_first), T(target_mapped_elsewhere),
		T(code_is_written),         cmocka_unit_test(places_are_used_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
