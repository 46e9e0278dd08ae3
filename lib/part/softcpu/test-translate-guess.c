/* Jumps of user mode through tables, compared with the interpreter. */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* RCX times; each index comes from a row of random numbers in RBX. Behind a table of distances, as
 * position-independent code has it; through one of addresses, with the index kept; the same with
 * a register between; calls of both kinds. What comes out in R12 and R13 depends on all targets,
 * their order and the flags before them. RDI is a table of the second half of the targets. */
#define NEXT_INDEX                                                                                 \
	"imul $1103515245, %rbx; add $12345, %rbx; mov %rbx, %rdx; shr $16, %rdx; and $7, %edx\n"
GUEST(
    code_tables, 64,
    "lea 20f(%rip), %r8; mov $0x10000, %edi; xor %edx, %edx\n"
    "1: movslq (%r8,%rdx,4), %rax; add %r8, %rax; mov %rax, (%rdi,%rdx,8)\n"
    "lea 30f(%rip), %r9; mov %rdx, %rbp; and $1, %ebp; neg %rbp; and $31f - 30f, %rbp\n"
    "add %rbp, %r9; mov %r9, 64(%rdi,%rdx,8); inc %edx; cmp $8, %edx; jne 1b\n"
    "2: " NEXT_INDEX "mov $3f - 20f, %rsi\n"
    "movslq (%r8,%rdx,4), %rdx; add %r8, %rdx; jmp *%rdx\n"
    "3: " NEXT_INDEX "mov $4f - 20f, %rsi; jmp *(%rdi,%rdx,8)\n"
    "4: " NEXT_INDEX "mov $5f - 20f, %rsi; mov 0x10000(,%rdx,8), %rdx; jmp *%rdx\n"
    "5: " NEXT_INDEX "mov $6f - 20f, %rsi; mov 0x10000(,%rdx,8), %rax; jmp *%rax\n"
    "6: " NEXT_INDEX "call *64(%rdi,%rdx,8)\n" NEXT_INDEX
    "mov 64(%rdi,%rdx,8), %rax; adc %rdx, %r13; call *%rax\n"
    "dec %ecx; jnz 2b; hlt\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7\n"
    "1\\n\\()0: lea (%r12,%r12,2), %r12; lea 1 + \\n(%r12), %r12; adc $\\n, %r13; lea (%r8,%rsi), "
    "%rax; jmp *%rax\n"
    ".endr\n"
    "30: add $5, %r12; adc %r12, %r13; ret\n"
    "31: lea (%r12,%r12,4), %r12; rol $7, %r13; stc; ret\n"
    ".balign 4\n"
    "20: .irp n, 0, 1, 2, 3, 4, 5, 6, 7\n"
    ".long 1\\n\\()0b - 20b\n"
    ".endr");

static void begin(struct guest *g, const uint8_t *code, const uint8_t *end)
{
	guest_long(g);
	guest_user(g);
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	part_vp_set_state(g->part, 0, &g->s);
}

/* Until HLT, which user code may not do. Translations stay known. */
static void run(struct guest *g, uint64_t times)
{
	struct vp *c = softcpu_vp(g->part, 0);

	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[PART_RCX] = times;
	c->gpr[PART_RBX] = 77;
	c->gpr[PART_RSP] = GUEST_USTACK;
	guest_run_user(g, GUEST_CODE);
}

static void same(struct guest *g, struct guest *interpreted, uint64_t times)
{
	run(g, times);
	run(interpreted, times);
	guest_assert_same(g, interpreted);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
}

static unsigned guesses(struct guest *g)
{
	const struct vp *c = softcpu_vp(g->part, 0);
	unsigned n = 0;

	for (unsigned i = 0; i < GUESSES; i++)
		n += c->guesses[i].rip != JUMP_FREE;
	return n;
}

/* Six jumps: four with eight targets, two that call one of two by eight indices. */
static void every_kind_of_table(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();

	begin(g, code_tables, code_tables_end);
	begin(interpreted, code_tables, code_tables_end);
	same(g, interpreted, 3);
	same(g, interpreted, 20000);
	assert_in_range(guesses(g), 40, 48);
	guest_free(interpreted);
}

/* The code that is guessed is rewritten, and so is a table. */
GUEST(code_changing, 64,
      "mov $0x10000, %edi; lea 3f(%rip), %rax; mov %rax, (%rdi); mov %rax, 16(%rdi)\n"
      "lea 4f(%rip), %rax; mov %rax, 8(%rdi); mov %rax, 24(%rdi); lea 2f(%rip), %rsi\n"
      "1: mov %ecx, %edx; and $3, %edx; jmp *(%rdi,%rdx,8)\n"
      "3: add $1, %r12; jmp *%rsi\n"
      "4: add $0x11, %r13\n"
      "2: test $0x3ff, %ecx; jnz 5f; mov (%rdi), %rax; xchg %rax, 8(%rdi); mov %rax, (%rdi)\n"
      "add $0x10, %r14; mov %r14b, 3b + 3(%rip)\n"
      "5: dec %ecx; jnz 1b; hlt");

static void targets_change(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();

	begin(g, code_changing, code_changing_end);
	begin(interpreted, code_changing, code_changing_end);
	for (unsigned i = 0; i < 3; i++)
		same(g, interpreted, 8000);
	assert_in_range(guesses(g), 3, 4);
	guest_free(interpreted);
}

/* The page of two of the targets is another one. */
GUEST(code_elsewhere, 64,
      "mov $0x10000, %edi; lea 2f(%rip), %rax; mov %rax, (%rdi); movq $0x60000, 8(%rdi)\n"
      "mov %rax, 16(%rdi); movq $0x60010, 24(%rdi); lea 3f(%rip), %rsi\n"
      "1: mov %ecx, %edx; and $3, %edx; mov (%rdi,%rdx,8), %rdx; jmp *%rdx\n"
      "2: add $1, %r12\n"
      "3: dec %ecx; jnz 1b; hlt");
/* 16 bytes apart */
GUEST(target_a, 64, "add $1, %r13; jmp *%rsi; .skip 10; add $3, %r14; jmp *%rsi");
GUEST(target_b, 64, "add $5, %r14; jmp *%rsi; .skip 10; add $7, %r13; jmp *%rsi");

static void page_of_targets_changes(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();
	struct guest *both[] = { g, interpreted };

	for (unsigned k = 0; k < 2; k++) {
		begin(both[k], code_elsewhere, code_elsewhere_end);
		guest_load(both[k], 0x60000, target_a, (size_t)(target_a_end - target_a));
		guest_load(both[k], 0x63000, target_b, (size_t)(target_b_end - target_b));
	}
	for (unsigned i = 0; i < 4; i++) {
		same(g, interpreted, 2000);
		for (unsigned k = 0; k < 2; k++) {
			guest_set_pte(both[k], 0x60000, i & 1 ? 0x60007 : 0x63007);
			sc_tlb_flush_all(softcpu_vp(both[k]->part, 0));
		}
	}
	assert_in_range(guesses(g), 3, 4);
	guest_free(interpreted);
}

/* The address that marks what is free, for an index that nothing was guessed for. */
GUEST(code_no_address, 64,
      "mov $0x10000, %edi; lea 2f(%rip), %rax; mov %rax, 8(%rdi); mov %rax, 16(%rdi)\n"
      "movabs $0x8000000000000000, %rax; mov %rax, (%rdi)\n"
      "1: mov %ecx, %edx; mov $0, %eax; cmp $2, %rcx; cmovb %eax, %edx; and $1, %edx\n"
      "lea (%rdx,%rcx), %r14; and $3, %edx; inc %r13; jmp *(%rdi,%rdx,8)\n"
      "2: sub $2, %rcx; jmp 1b");

static void no_address(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();

	begin(g, code_no_address, code_no_address_end);
	begin(interpreted, code_no_address, code_no_address_end);
	run(g, 2001);
	run(interpreted, 2001);
	guest_assert_same(g, interpreted);
	assert_int_equal(g->s.gpr[13], 1001);
	guest_free(interpreted);
}

/* ---- copies, of which there are more than fit ---- */

#define PLACES     30u /* all of the first GiB again */
#define PLACE(i)   ((uint64_t)(i) << 39)
#define PIECES     100u
#define PIECE_SIZE 32u
#define PIECES_GPA 0x200000u
#define CALLED_GPA (PIECES_GPA + (PIECES + 1) * PIECE_SIZE)

GUEST(code_pieces, 64, "call *%rsi; hlt");

/* Each piece adds its number, calls one of eight functions by what comes out, calls the next piece
 * and counts when that returns. */
static void load_pieces(struct guest *g)
{
	for (uint32_t i = 0; i < PIECES; i++) {
		/* add $i, %rbx; mov %ebx, %edx; and $7, %edx; call *(%rdi,%rdx,8); call the
		 * next; inc %rcx; ret */
		uint8_t piece[] =
		    "\x48\x81\xc3....\x89\xda\x83\xe2\x07\xff\x14\xd7\xe8....\x48\xff\xc1\xc3";
		uint32_t next = PIECE_SIZE - 20;

		memcpy(piece + 3, &i, sizeof(i));
		memcpy(piece + 16, &next, sizeof(next));
		guest_load(g, PIECES_GPA + i * PIECE_SIZE, piece, sizeof(piece) - 1);
	}
	guest_load(g, PIECES_GPA + PIECES * PIECE_SIZE, "\xc3", 1);
	for (unsigned i = 0; i < 8; i++) {
		/* lea 1 + i(%r12,%r12,2), %r12; ret */
		uint8_t called[] = { 0x4f, 0x8d, 0x64, 0x64, (uint8_t)(1 + i), 0xc3 };

		guest_load(g, CALLED_GPA + i * 16, called, sizeof(called));
	}
	guest_write(g, GUEST_PD + 8, PIECES_GPA | 0x87, 8); /* a page of 2 MiB */
	for (unsigned i = 1; i < PLACES; i++)
		guest_write(g, GUEST_PML4 + i * 8, GUEST_PDPT | 7, 8);
}

static void run_pieces(struct guest *g, uint64_t place, unsigned first)
{
	struct vp *c = softcpu_vp(g->part, 0);

	for (unsigned i = 0; i < 8; i++)
		guest_write(g, GUEST_DATA + i * 8, place + CALLED_GPA + i * 16, 8);
	memset(c->gpr, 0, sizeof(c->gpr));
	c->gpr[PART_RSI] = place + PIECES_GPA + first * PIECE_SIZE;
	c->gpr[PART_RDI] = place + GUEST_DATA;
	c->gpr[PART_RSP] = place + GUEST_USTACK;
	guest_run_user(g, place + GUEST_CODE);
	assert_int_equal(g->s.gpr[PART_RCX], PIECES - first);
}

static void places_are_used_again(void **state)
{
	struct guest *g, *interpreted = guest_interpreted();
	struct softcpu_stats stats;

	guest_code_cache_bytes = 1;
	g = guest_new(1);
	guest_code_cache_bytes = 0;
	softcpu_tune(g->part, 0, 1, false);
	begin(g, code_pieces, code_pieces_end);
	begin(interpreted, code_pieces, code_pieces_end);
	load_pieces(g);
	load_pieces(interpreted);
	for (unsigned i = 0; i < 1500; i++) {
		uint64_t place = PLACE((i / 8 + i % 3) % PLACES);
		unsigned first = i % 5 * 15;

		run_pieces(g, place, first);
		run_pieces(interpreted, place, first);
		guest_assert_same(g, interpreted);
	}
	softcpu_stats(g->part, 0, &stats);
	assert_int_equal(stats.flushes, 0);
	assert_in_range(stats.copied, 2 * PLACES * PIECES, UINT64_MAX);
	assert_int_not_equal(guesses(g), 0);
	guest_free(g);
	guest_free(interpreted);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, guest_setup_translated, guest_teardown)
	const struct CMUnitTest tests[] = {
		T(every_kind_of_table),
		T(targets_change),
		T(page_of_targets_changes),
		T(no_address),
		cmocka_unit_test(places_are_used_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
