/* Lockstep: what is right goes on, what is wrong is found. */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"
#include "part/softcpu/translate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static char last_words[1200];

static int setup_of(void **state, unsigned vps)
{
	struct guest *g;

	guest_backend = PART_SOFT_LOCKSTEP;
	g = guest_new(vps);
	last_words[0] = '\0';
	g->fatal_text = last_words;
	g->fatal_size = sizeof(last_words);
	guest_long(g);
	*state = g;
	return 0;
}

static int setup(void **state)
{
	return setup_of(state, 1);
}

static int setup_two(void **state)
{
	return setup_of(state, 2);
}

static int teardown(void **state)
{
	guest_free(*state);
	return 0;
}

static struct softcpu_stats stats(struct guest *g)
{
	struct softcpu_stats s;

	softcpu_stats(g->part, 0, &s);
	return s;
}

/* Stack, memory, SSE, x87, flags over blocks, a fault with its handler, device memory, ports,
 * strings, code that changes itself. */
GUEST(code_all, 64,
      "fninit; mov $20, %ecx; mov $0x10000, %edi\n"
      "1: push %rcx; push %rdi; call 2f; pop %rdi; pop %rcx\n"
      "add %rcx, (%rdi); adc 8(%rdi), %rbx; lock xadd %rbx, 16(%rdi); cmpxchg %rax, 24(%rdi)\n"
      "movups (%rdi), %xmm0; paddd %xmm0, %xmm1; movups %xmm1, 32(%rdi)\n"
      "fildl (%rdi); fsqrt; fstpl 48(%rdi)\n"
      "cmp $10, %rcx; mov 64(%rdi), %rdx; setb %bl; pushfq; pop %r10\n"
      "mov %ecx, 0x10ffe(%rip); add %rax, 0xffd(%rdi); ud2a\n"
      "mov %cl, 3f + 1(%rip)\n"
      "3: mov $0, %al; add %rax, %r15\n"
      "push %rdi; push %rcx; mov $100, %ecx; rep stosb; pop %rcx\n"
      "push %rcx; mov $0xf3d, %ecx; mov %rdi, %rsi; add $3, %rdi; rep movsb; stosl; movsw; lodsl\n"
      "pop %rcx; pop %rdi\n"
      "mov $0x40000000, %eax; in $0x80, %al\n"
      "dec %ecx; jnz 1b\n"
      "hlt\n"
      "2: mov %rsp, %rbp; sub $64, %rsp; mov %rdi, 8(%rsp); xor 16(%rsp), %rax; mov %rbp, %rsp; "
      "ret\n");

/* Goes on behind UD2. */
GUEST(code_skip, 64, "addq $2, (%rsp); iretq");

static void all_is_the_same(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, code_skip, (size_t)(code_skip_end - code_skip));
	guest_gate(g, VEC_UD, 0x9000, 0, 0);
	GUEST_LOAD(g, code_all);
	assert_true(guest_start_and_wait_halt(g));
	assert_string_equal(last_words, "");
	assert_int_equal(g->triple_faults, 0);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
	assert_int_equal(g->s.gpr[15] & 0xff, 20 * 21 / 2);
	assert_true(stats(g).compared > 100);
	assert_int_equal(stats(g).races, 0);
}

/* What another VP writes between the interpreter's turn and the translation's makes results and
 * flags differ, also those that a later block looks at. */
GUEST(code_race, 64,
      "mov $300000, %ecx\n"
      "1: lock subl $3, 0x10000; call 2f\n"
      "dec %ecx; jnz 1b\n"
      "lock incl 0x11000\n"
      "3: cmpl $2, 0x11000; pause; jne 3b\n"
      "hlt\n"
      "2: pushfq; pop %rax; ret");

static void races_are_no_differences(void **state)
{
	struct guest *g = *state;
	struct part_vp_state other = g->s;

	GUEST_LOAD(g, code_race);
	other.gpr[PART_RSP] -= 0x1000;
	part_vp_set_state(g->part, 1, &other);
	assert_true(guest_start_and_wait_halt(g));
	assert_string_equal(last_words, "");
	assert_int_equal((int32_t)guest_read(g, 0x10000, 4), -3 * 2 * 300000);
}

/* Behind 1 << 39 the same memory once more, whose entry is wrong while the TLB knows better: at the
 * beginning of a block that mends it, the interpreter finds a fault, the translation none. */
GUEST(code_tables, 64,
      "mov $20, %ecx; mov $1, %r8d; shl $39, %r8; mov 0x100000, %rax; mov %rax, 0x100008\n"
      "1: mov 0x10000(%r8), %rax; xorb $8, 0x10000e; jmp 2f\n"
      "2: mov 0x10000(%r8), %rax; xorb $8, 0x10000e; dec %ecx; jnz 1b\n"
      "hlt");

static void changed_tables_are_no_difference(void **state)
{
	struct guest *g = *state;

	GUEST_LOAD(g, code_tables);
	assert_true(guest_start_and_wait_halt(g));
	assert_string_equal(last_words, "");
	assert_int_equal(g->triple_faults, 0);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
	assert_true(stats(g).races > 0);
}

/* The second pass over the block is translated wrongly: by a hand that changes its code. */
GUEST(code_wrong, 64,
      "mov $4, %ecx\n"
      "1: mov $0x11223344, %eax; mov %eax, 0x10008\n"
      "dec %ecx; jnz 1b\n"
      "hlt");

static uint8_t *emitted(struct vp *c, uint32_t constant)
{
	struct code_cache *cache = &c->translator->cache;

	return memmem(cache->rw + cache->shared_end, cache->used - cache->shared_end, &constant,
		      sizeof(constant));
}

static void difference_is_told(void **state)
{
	struct guest *g = *state;
	struct vp *c = softcpu_vp(g->part, 0);

	struct timespec ms = { 0, 1000000 };

	GUEST_LOAD(g, code_wrong);
	assert_true(guest_start_and_wait_halt(g));
	assert_string_equal(last_words, "");
	while (emitted(c, 0x11223344))
		*emitted(c, 0x11223344) = 0x45;
	g->s.rip = GUEST_CODE;
	g->s.halted = false;
	part_vp_set_state(g->part, 0, &g->s);
	part_resume(g->part);
	while (!g->triple_faults) /* it shuts down */
		nanosleep(&ms, NULL);
	assert_non_null(strstr(last_words, "code at 0x80"));
	assert_non_null(strstr(last_words, "b844332211890425"));
	assert_non_null(strstr(last_words, "RAX 0x11223344 interpreted, 0x11223345 translated"));
	assert_non_null(strstr(last_words, "GPA 0x10000+0x8 4433221100000000 interpreted, "
					   "4533221100000000 translated"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_is_the_same, setup, teardown),
		cmocka_unit_test_setup_teardown(races_are_no_differences, setup_two, teardown),
		cmocka_unit_test_setup_teardown(changed_tables_are_no_difference, setup, teardown),
		cmocka_unit_test_setup_teardown(difference_is_told, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
