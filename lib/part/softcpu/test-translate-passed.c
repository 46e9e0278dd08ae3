/* Blocks that go on behind branches which aren't taken, compared with the interpreter. */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"
#include "part/softcpu/translate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* The block with that key at an offset in the guest's code. */
static struct block *block_at(struct guest *g, unsigned off, unsigned key)
{
	struct block *b = softcpu_vp(g->part, 0)->page_blocks[GUEST_CODE >> MEM_PAGE_SHIFT];

	while (b && !(b->live && b->gpa == GUEST_CODE + off && b->key == key))
		b = b->page_next[0];
	return b;
}

/* Whether the block's translation has a way out to there. */
static bool leads_to(const struct block *b, unsigned off)
{
	assert_non_null(b->xls);
	for (const struct xl_exit *x = b->xls->exits; x; x = x->next)
		if (!x->apart && x->target == GUEST_CODE + off)
			return true;
	return false;
}

/* Both ways of three branches in a row, in random order, with flags that are read behind them on
 * one way, the other or both, and accesses near each other before and behind. */
GUEST(code_both_ways, 64,
      "mov $0x10000, %edi; mov $1, %eax; mov $2000, %ecx\n"
      "1: imul $1103515245, %eax, %eax; add $12345, %eax; mov %eax, (%rdi); mov %eax, %edx\n"
      "shr $9, %edx; cmp $0x600000, %edx; jae 2f\n"
      "adc $7, %rbx; add 8(%rdi), %rbx; cmpl $0, 4(%rdi); jg 3f\n"
      "sub %edx, 4(%rdi); rcl $1, %rsi; addl $5, 12(%rdi); jc 4f\n"
      "xor %rbx, %rsi; adc $1, %r12; jmp 5f\n"
      "2: sbb %r8, %r8; add %r8, %rbx; jmp 5f\n"
      "3: setz %r9b; movl $-77, 4(%rdi); adc %rbx, 16(%rdi); jmp 5f\n"
      "4: adc $3, %r10; push %r10; pop %r11\n"
      "5: mov %eax, %edx; shr $28, %edx; bt $5, %eax; mov 200(%rdi), %r13; dec %edx; jz 6f\n"
      "add %r13, %rbx; jmp 7f\n"
      "6: adc $1, %rsi\n"
      "7: dec %ecx; jnz 1b; hlt");

static void both_ways(void **state)
{
	guest_assert_as_interpreted(*state, code_both_ways, code_both_ways_end);
}

/* What is behind a branch is translated with what is before it, unless it is mostly taken. */
#define LOOP(jcc)                                                                                  \
	"mov $1000, %ecx\n"                                                                        \
	"1: cmp $1, %ecx; " jcc " 2f; add $3, %ebx; nop\n"                                         \
	"2: dec %ecx; jnz 1b; hlt"
GUEST(code_rarely, 64, LOOP("je"));
GUEST(code_mostly, 64, LOOP("jne"));
enum { LOOP_AT = 5, BEHIND_AT = 10, TARGET_AT = 14 };

static void goes_on_where_that_is_likely(void **state)
{
	struct guest *g = *state;
	struct block *b;

	softcpu_tune(g->part, 0, TRANSLATE_HOT, false);
	guest_run_code(g, code_rarely, code_rarely_end);
	assert_int_equal(g->s.gpr[PART_RBX], 3 * 999);
	b = block_at(g, LOOP_AT, MODE_64);
	assert_true(leads_to(b, TARGET_AT));
	assert_false(leads_to(b, BEHIND_AT));
	assert_true(leads_to(b, LOOP_AT));
}

static void ends_where_that_is_not(void **state)
{
	struct guest *g = *state;
	struct block *b;

	softcpu_tune(g->part, 0, TRANSLATE_HOT, false);
	guest_run_code(g, code_mostly, code_mostly_end);
	assert_int_equal(g->s.gpr[PART_RBX], 3);
	b = block_at(g, LOOP_AT, MODE_64);
	assert_true(leads_to(b, TARGET_AT));
	assert_true(leads_to(b, BEHIND_AT));
	assert_false(leads_to(b, LOOP_AT));
}

/* A store behind a branch isn't looked up with the load before it: where the branch is taken the
 * page may be one that can't be written. */
#define READ_ONLY 0x20000u
GUEST(code_store_behind, 64,
      "mov $1000, %ecx; mov $0x20000, %esi\n"
      "1: mov $0x10000, %edi; test $7, %ecx; cmovz %esi, %edi\n"
      "cmpl $0, (%rdi); jne 2f; addl $1, 4(%rdi)\n"
      "2: dec %ecx; jnz 1b; hlt");

static bool any_apart(struct guest *g)
{
	struct block *b = softcpu_vp(g->part, 0)->page_blocks[GUEST_CODE >> MEM_PAGE_SHIFT];

	while (b && !(b->key & KEY_APART))
		b = b->page_next[0];
	return b;
}

static void stores_behind_are_looked_up_there(void **state)
{
	struct guest *g = *state;

	softcpu_tune(g->part, 0, TRANSLATE_HOT, false);
	guest_write(g, READ_ONLY, 7, 4);
	guest_set_pte(g, READ_ONLY, guest_pte(g, READ_ONLY) & ~BIT(1));
	g->s.cr0 |= CR0_WP;
	guest_run_code(g, code_store_behind, code_store_behind_end);
	assert_int_equal(guest_read(g, GUEST_DATA + 4, 4), 1000 - 1000 / 8);
	assert_false(any_apart(g));
}

/* A block that writes what it has behind the next branch, once in 16 times, so that it is
 * translated in between. */
GUEST(code_changes_itself, 64,
      "mov $400, %ecx; mov $0x10000, %edi\n"
      "1: lea 2f + 1(%rip), %rsi; test $15, %ecx; cmovnz %rdi, %rsi; mov %cl, (%rsi)\n"
      "cmp $50, %ecx; je 3f; cmp $20, %ecx; je 3f\n"
      "2: mov $0, %al; add %eax, %ebx; rol $3, %ebx\n"
      "3: dec %ecx; jnz 1b; hlt");

static void changes_behind_are_seen(void **state)
{
	guest_assert_as_interpreted(*state, code_changes_itself, code_changes_itself_end);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, guest_setup_translated, guest_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(both_ways),
		TEST(goes_on_where_that_is_likely),
		TEST(ends_where_that_is_not),
		TEST(stores_behind_are_looked_up_there),
		TEST(changes_behind_are_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
