/* Loops whose loads wait for themselves, compared with the interpreter. */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"
#include "part/softcpu/translate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

GUEST(handler, 64, "mov %cr2, %r9; hlt");

#define HANDLER_AT 0x9000u

/* From 0x40000 on every page but the first two and the last lies somewhere else; 0x48000 has none.
 */
static void prepare(struct guest *g)
{
	static const uint32_t elsewhere[] = { 0x50000, 0x51000, 0x59000, 0x52000,
					      0x61000, 0x57000, 0x53000, 0x47000 };

	for (unsigned i = 0; i < ARRAY_SIZE(elsewhere); i++)
		guest_set_pte(g, 0x40000 + i * 0x1000, elsewhere[i] | BIT(0) | BIT(1));
	guest_set_pte(g, 0x48000, 0);
	guest_load(g, HANDLER_AT, handler, (size_t)(handler_end - handler));
	guest_gate(g, 13, HANDLER_AT, 0, 0);
	guest_gate(g, 14, HANDLER_AT, 0, 0);
}

/* ret: the state of the VP then. */
static void compare_with_interpreter(const uint8_t *code, const uint8_t *end,
				     struct part_vp_state *ret)
{
	struct guest *i = guest_interpreted(), *g;
	void *state;

	guest_setup_translated(&state);
	g = state;
	prepare(g);
	prepare(i);
	guest_run_code(g, code, end);
	guest_run_code(i, code, end);
	guest_assert_translated(g);
	g->s.rflags = i->s.rflags; /* at a fault they may be old ones */
	guest_assert_same(g, i);
	*ret = g->s;
	guest_free(i);
	guest_teardown(&state);
}

/* Random bytes in all pages, then a table that is walked through, three times: the second of its
 * pages is another one meanwhile, and back again. */
#define FILL                                                                                       \
	"mov $0x40000, %edi; mov $0x8000, %ecx; mov $77777, %eax\n"                                \
	"1: imul $1103515245, %eax, %eax; add $12345, %eax; mov %eax, %edx; shr $16, %edx\n"       \
	"mov %dl, (%rdi); inc %rdi; dec %ecx; jnz 1b\n"
#define REMAP(gpa) "movl $" gpa " + 3, 0x103000 + 0x42 * 8; invlpg 0x42000\n"
#define AUTOMATON(base, shift)                                                                     \
	FILL "mov $3, %ebp; lea " base ", %r8; xor %ebx, %ebx\n"                                   \
	     "2: mov $3000, %ecx\n"                                                                \
	     "3: mov %ecx, %edx; and $63, %edx; shl $" shift ", %rbx; add %r8, %rbx\n"             \
	     "movzbl (%rbx,%rdx), %edx; movzbl %dl, %ebx; lea (%rsi,%rsi,2), %rsi\n"               \
	     "add %rdx, %rsi; cmp $7, %ecx; adc $0, %r10; dec %ecx; jnz 3b\n"                      \
	     "mov %rsi, (%rsp,%rbp,8); cmp $2, %ebp; je 4f\n" REMAP(                               \
		 "0x53000") "jmp 5f\n"                                                             \
			    "4: " REMAP("0x59000") "5: dec %ebp; jnz 2b; mov 8(%rsp), %rdi; add "  \
						   "16(%rsp), %rdi; hlt"
GUEST(code_on_one_page, 64, AUTOMATON("0x42100", "3"));
GUEST(code_on_two_pages, 64, AUTOMATON("0x41900", "4"));
GUEST(code_on_three_pages, 64, AUTOMATON("0x41f00", "5"));
GUEST(code_on_neighbours, 64, AUTOMATON("0x40800", "4"));
GUEST(code_on_five_pages, 64, AUTOMATON("0x40e00", "6"));

static void automata(void **state)
{
	struct part_vp_state end;

	compare_with_interpreter(code_on_one_page, code_on_one_page_end, &end);
	compare_with_interpreter(code_on_two_pages, code_on_two_pages_end, &end);
	compare_with_interpreter(code_on_three_pages, code_on_three_pages_end, &end);
	compare_with_interpreter(code_on_neighbours, code_on_neighbours_end, &end);
	compare_with_interpreter(code_on_five_pages, code_on_five_pages_end, &end);
}

/* 512 nodes of 64 bytes in an order in which each is followed by one on another page, then in their
 * own order. A node's fields are a group; the last walk counts with SSE registers and has the link
 * in a register that the host doesn't have. */
#define WALK(node, next)                                                                           \
	"mov $4000, %ecx; mov $0x40000, " node "\n"                                                \
	"3: add 8(" node "), %rsi; ror $7, %rsi; " next "; dec %ecx; jnz 3b; xor " node ", %rsi\n"
#define NODES(factor, off)                                                                         \
	"xor %eax, %eax; mov $512, %ecx\n"                                                         \
	"1: imul $" factor ", %rax, %rdx; add $" off ", %rdx; and $511, %edx; shl $6, %rdx\n"      \
	"add $0x40000, %rdx; mov %rax, %rbx; shl $6, %rbx; mov %rdx, 0x40000(%rbx)\n"              \
	"imul $0x61c88647, %rax, %rdx; mov %rdx, 0x40008(%rbx); inc %eax; dec %ecx; jnz 1b\n"
GUEST(code_lists, 64,
      NODES("197", "131") WALK("%rbx", "mov (%rbx), %rbx") WALK("%r11", "mov (%r11), %r11")
	  NODES("1", "1") WALK("%rbx", "mov (%rbx), %rbx") WALK("%r11", "mov (%r11), %r11")
	      NODES("197", "131")
		  WALK("%rbx", "mov (%rbx), %rbx") "mov $4000, %ecx; mov $0x40000, %r10d\n"
						   "3: paddq %xmm1, %xmm2; mov (%r10), %r10; movq "
						   "8(%r10), %xmm1; dec %ecx; jnz 3b\n"
						   "movq %xmm2, %rdx; hlt");

static void lists(void **state)
{
	struct part_vp_state end;

	compare_with_interpreter(code_lists, code_lists_end, &end);
}

/* The walk ends on a page that isn't there, or at an address that is none. */
#define LOST(address)                                                                              \
	NODES("5", "3")                                                                            \
	"mov $0x40000, %ebx; mov $3000, %ecx; mov $" address ", %rdi\n"                            \
	"3: mov %rcx, %rax; cmp $40, %ecx; cmove %rdi, %rbx; mov (%rbx), %rbx; add %rbx, %rsi\n"   \
	"dec %ecx; jnz 3b; hlt"
GUEST(code_missing, 64, LOST("0x48000"));
GUEST(code_crosses, 64, LOST("0x47ffc"));
GUEST(code_not_canonical, 64, LOST("0x4000000040000"));

static void lost(void **state)
{
	struct part_vp_state end;

	compare_with_interpreter(code_missing, code_missing_end, &end);
	assert_int_equal(end.gpr[9], 0x48000);
	compare_with_interpreter(code_crosses, code_crosses_end, &end);
	assert_int_equal(end.gpr[9], 0x48000);
	compare_with_interpreter(code_not_canonical, code_not_canonical_end, &end);
	assert_int_equal(end.gpr[PART_RCX], 40);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(automata),
		cmocka_unit_test(lists),
		cmocka_unit_test(lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
