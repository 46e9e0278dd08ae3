/* Code that changes under the CPU, and string instructions. */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state)
{
	*state = guest_new(1);
	return 0;
}

static int teardown(void **state)
{
	guest_free(*state);
	return 0;
}

/* With blocks as they are in real life, not step by step. */
static void run_threaded(struct guest *g, const uint8_t *code, const uint8_t *end)
{
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->triple_faults, 0);
}

#define RUN(g, name) run_threaded(g, name, name##_end)

/* ---- self-modifying code ---- */

GUEST(code_same_block, 64,
      "movb $2, 1f+1(%rip)\n"
      "1: mov $1, %al\n"
      "hlt");

static void next_instruction_of_the_same_block(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	RUN(g, code_same_block);
	assert_int_equal(g->s.gpr[PART_RAX], 2);
}

GUEST(code_loop, 64,
      "mov $100, %ecx\n"
      "1: movb %cl, 2f+1(%rip)\n"
      "jmp 2f\n"
      ".fill 200, 1, 0x90\n"
      "2: mov $0, %al\n"
      "movzbl %al, %eax\n"
      "add %rax, %rbx\n"
      "dec %ecx\n"
      "jnz 1b\n"
      "hlt");

static void another_block_again_and_again(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	RUN(g, code_loop);
	assert_int_equal(g->s.gpr[PART_RBX], 5050);
}

/* By another virtual address of the same page. */
GUEST(code_alias, 64,
      "mov $10, %ecx\n"
      "1: movb %cl, 0x20000 + (2f + 1 - code_alias)\n"
      "2: mov $0, %al\n"
      "movzbl %al, %eax\n"
      "add %rax, %rbx\n"
      "dec %ecx\n"
      "jnz 1b\n"
      "hlt");

static void through_an_alias(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_set_pte(g, 0x20000, GUEST_CODE | 7);
	RUN(g, code_alias);
	assert_int_equal(g->s.gpr[PART_RBX], 55);
}

/* A string store over the code that executes it. */
GUEST(code_stos, 64,
      "lea 1f(%rip), %rdi\n"
      "mov $0x90, %al\n"
      "mov $5, %ecx\n"
      "rep stosb\n"
      "1: mov $7, %ebx\n" /* becomes nops */
      "hlt");

static void string_store_into_the_block(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	RUN(g, code_stos);
	assert_int_equal(g->s.gpr[PART_RBX], 0);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
}

/* The same over all that follows, into the next page. The TLB knows both; what goes on is the REP
 * itself, as the block is not what it was. */
GUEST(code_stos_pages, 64,
      "movb $0xf4, 0x8f00; movb $0xf4, 0x9f00; lea 1f(%rip), %rdi\n"
      "mov $0x90, %al\n"
      "mov $0x1008, %ecx\n"
      "rep stosb\n"
      "1: mov $7, %ebx\n"
      "hlt");

static void string_store_over_pages_of_code(void **state)
{
	static const uint8_t halts[64] = { [0 ... 63] = 0xf4 };
	struct guest *g = *state;

	guest_long(g);
	guest_load(g, 0x9000, halts, sizeof(halts));
	RUN(g, code_stos_pages);
	assert_int_equal(g->s.gpr[PART_RBX], 0);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
	assert_int_equal(g->s.rip, g->s.gpr[PART_RDI] + 1);
	assert_in_range(g->s.rip, 0x9008, 0x9040);
}

/* Again and again over the function called next, by a copy of it with another number. */
GUEST(code_copied, 64,
      "mov $0x60, %ebp\n"
      "1: mov $0xa000, %esi; mov $0xb000, %edi; mov %ebp, 1(%rsi); mov $8, %ecx\n"
      "test $1, %ebp; jz 2f; rep movsb; jmp 3f\n"
      "2: movsq\n"
      "3: mov $0xb000, %eax; call *%rax; add %rax, %rbx\n"
      "dec %ebp; jnz 1b; hlt");
GUEST(code_number, 64, "mov $0, %eax; ret; nop; nop");

static void copied_code(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_load(g, 0xa000, code_number, (size_t)(code_number_end - code_number));
	RUN(g, code_copied);
	assert_int_equal(g->s.gpr[PART_RBX], 0x60 * 0x61 / 2);
}

/* An instruction that lies in two pages, of which the second is mapped to another page then. */
static void straddling_instruction(void **state)
{
	struct guest *g = *state;
	/* mov $imm32, %ebx at the end of a page; hlt */
	static const uint8_t head[] = { 0xbb, 0x11 }, tail[] = { 0x22, 0x33, 0x44, 0xf4 },
			     other[] = { 0x55, 0x66, 0x77, 0xf4 };

	guest_long(g);
	guest_load(g, 0x20ffe, head, sizeof(head));
	guest_load(g, 0x21000, tail, sizeof(tail));
	guest_load(g, 0x30000, other, sizeof(other));
	g->s.rip = 0x20ffe;
	guest_run(g, 10, false);
	assert_int_equal(g->s.gpr[PART_RBX], 0x44332211);
	/* a write to the second page counts */
	g->s.rip = 0x20ffe;
	g->s.halted = false;
	guest_write(g, 0x21000, 0xee, 1);
	guest_run(g, 10, false);
	assert_int_equal(g->s.gpr[PART_RBX], 0x4433ee11);
	/* another page behind the first */
	guest_set_pte(g, 0x21000, 0x30000 | 7);
	g->s.rip = 0x20ffe;
	g->s.halted = false;
	guest_run(g, 10, false);
	assert_int_equal(g->s.gpr[PART_RBX], 0x77665511);
	/* none: the fault's address is the second page's */
	guest_set_pte(g, 0x21000, 0);
	g->s.rip = 0x20ffe;
	g->s.halted = false;
	guest_run(g, 10, false);
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	assert_int_equal(g->result.cr2, 0x21000);
	assert_int_equal(g->result.error, 0x10);
	assert_int_equal(g->s.rip, 0x20ffe);
}

/* Code written by a device, while the guest executes it in a loop. */
GUEST(code_wait, 64,
      "1: mov $0, %al\n"
      "test %al, %al\n"
      "jz 1b\n"
      "hlt");

static void written_by_a_device(void **state)
{
	struct guest *g = *state;
	struct error err;

	guest_long(g);
	GUEST_LOAD(g, code_wait);
	part_vp_set_state(g->part, 0, &g->s);
	assert_int_equal(part_start(g->part, &err), 0);
	part_pause(g->part);
	part_resume(g->part);
	guest_write(g, GUEST_CODE + 1, 9, 1);
	part_pause(g->part);
	part_vp_get_state(g->part, 0, &g->s);
	assert_true(guest_resume_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RAX] & 0xff, 9);
}

/* Data next to code, in the same 64 bytes and in others. */
GUEST(code_data, 64,
      "mov $1000, %ecx\n"
      "1: incl 2f(%rip)\n"
      "incl 3f(%rip)\n"
      "loop 1b\n"
      "mov 2f(%rip), %eax\n"
      "mov 3f(%rip), %ebx\n"
      "hlt\n"
      "2: .long 0\n"
      ".fill 256\n"
      "3: .long 0\n");

static void data_beside_code(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	RUN(g, code_data);
	assert_int_equal(g->s.gpr[PART_RAX], 1000);
	assert_int_equal(g->s.gpr[PART_RBX], 1000);
}

/* ---- string instructions ---- */

static void fill_pattern(struct guest *g, uint64_t gpa, unsigned len)
{
	uint8_t bytes[0x3000];

	for (unsigned i = 0; i < len; i++)
		bytes[i] = (uint8_t)(i * 7 + 1);
	guest_load(g, gpa, bytes, len);
}

static void expect_copy(struct guest *g, uint64_t a, uint64_t b, unsigned len)
{
	assert_memory_equal(mem_ptr(g->mem, a, len), mem_ptr(g->mem, b, len), len);
}

GUEST(code_movsb, 64, "rep movsb; hlt");
GUEST(code_movsq, 64, "rep movsq; hlt");

static void copies_over_pages(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	fill_pattern(g, 0x20123, 0x2345);
	g->s.gpr[PART_RSI] = 0x20123;
	g->s.gpr[PART_RDI] = 0x30ff1;
	g->s.gpr[PART_RCX] = 0x2345;
	RUN(g, code_movsb);
	expect_copy(g, 0x20123, 0x30ff1, 0x2345);
	assert_int_equal(g->s.gpr[PART_RSI], 0x20123 + 0x2345);
	assert_int_equal(g->s.gpr[PART_RDI], 0x30ff1 + 0x2345);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
}

/* Elements that themselves cross pages. */
static void copies_misaligned_quadwords(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	fill_pattern(g, 0x20003, 0x2000);
	g->s.gpr[PART_RSI] = 0x20003;
	g->s.gpr[PART_RDI] = 0x30ffd;
	g->s.gpr[PART_RCX] = 0x400;
	RUN(g, code_movsq);
	expect_copy(g, 0x20003, 0x30ffd, 0x2000);
}

/* Forward copies over themselves repeat a pattern. */
static void overlapping_copy(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_write(g, 0x20000, 0xcafe, 2);
	g->s.gpr[PART_RSI] = 0x20000;
	g->s.gpr[PART_RDI] = 0x20002;
	g->s.gpr[PART_RCX] = 0x1800;
	RUN(g, code_movsb);
	expect_copy(g, 0x20000, 0x20002, 0x1800);
	assert_int_equal(guest_read(g, 0x21800, 2), 0xcafe);
}

GUEST(code_backward, 64, "std; rep movsb; cld; hlt");

static void backward_copy(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	fill_pattern(g, 0x20f00, 0x200);
	g->s.gpr[PART_RSI] = 0x210ff;
	g->s.gpr[PART_RDI] = 0x310ff;
	g->s.gpr[PART_RCX] = 0x200;
	RUN(g, code_backward);
	expect_copy(g, 0x20f00, 0x30f00, 0x200);
	assert_int_equal(g->s.gpr[PART_RSI], 0x20eff);
}

static void fault_in_the_middle(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	fill_pattern(g, 0x20000, 0x2000);
	guest_set_pte(g, 0x31000, 0x31000 | 5); /* read-only */
	g->s.gpr[PART_RSI] = 0x20010;
	g->s.gpr[PART_RDI] = 0x30ff0;
	g->s.gpr[PART_RCX] = 0x100;
	guest_execute(g, code_movsb);
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	assert_int_equal(g->result.vector, 14);
	assert_int_equal(g->result.error, 3);
	assert_int_equal(g->result.cr2, 0x31000);
	assert_int_equal(g->s.rip, GUEST_CODE);
	assert_int_equal(g->s.gpr[PART_RSI], 0x20020);
	assert_int_equal(g->s.gpr[PART_RDI], 0x31000);
	assert_int_equal(g->s.gpr[PART_RCX], 0xf0);
	expect_copy(g, 0x20010, 0x30ff0, 0x10);
}

GUEST(code_scas, 64,
      "repne scasb; pushfq; pop %rdx; mov %rcx, %rsi; mov $0x20000, %edi; mov $100, %ecx\n"
      "repe scasb; hlt");

static void scan(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_write(g, 0x20000 + 10, 0x55, 1);
	g->s.gpr[PART_RDI] = 0x20000;
	g->s.gpr[PART_RCX] = 100;
	g->s.gpr[PART_RAX] = 0x55;
	RUN(g, code_scas);
	assert_int_equal(g->s.gpr[PART_RSI], 89);
	assert_true(g->s.gpr[PART_RDX] & BIT(6));
	assert_int_equal(g->s.gpr[PART_RDI], 0x20001);
	assert_int_equal(g->s.gpr[PART_RCX], 99);
}

GUEST(code_ins, 64, "mov $0x20000, %edi; mov $3, %ecx; mov $0x1f0, %edx; rep insw; hlt");

static void port_string(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	g->port_value = 0x1234;
	RUN(g, code_ins);
	assert_int_equal(guest_read(g, 0x20000, 8), 0x123412341234);
}

/* 16-bit addresses wrap. */
GUEST(code_wrap, 16, "mov $0xfffe, %di; mov $4, %cx; mov $0x41, %al; rep stosb; hlt");

static void address_wraps(void **state)
{
	struct guest *g = *state;

	guest_real(g);
	g->s.seg[PART_ES].base = 0x20000;
	guest_execute(g, code_wrap);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(guest_read(g, 0x2fffe, 2), 0x4141);
	assert_int_equal(guest_read(g, 0x20000, 4), 0x4141);
	assert_int_equal(g->s.gpr[PART_RDI] & 0xffff, 2);
}

/* ---- instructions that are more than one access ---- */

GUEST(code_pop_rsp, 64, "push $0x1234; popq 8(%rsp); mov (%rsp), %rax; pop %rcx; hlt");

static void pop_to_stack_memory(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	RUN(g, code_pop_rsp);
	/* the address uses RSP after the pop: 8 above the old top */
	assert_int_equal(guest_read(g, GUEST_STACK + 8, 8), 0x1234);
}

GUEST(code_bt, 64, "lock btsq %rcx, (%rbx); btq %rcx, (%rbx); setc %al; hlt");

static void bit_strings(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	g->s.gpr[PART_RBX] = 0x20100;
	g->s.gpr[PART_RCX] = (uint64_t)-65;
	RUN(g, code_bt);
	assert_int_equal(guest_read(g, 0x200f0, 8), BIT(63));
	assert_int_equal(g->s.gpr[PART_RAX] & 0xff, 1);
}

GUEST(code_bsf, 64,
      "mov $0x80, %ecx; xor %edx, %edx; mov $0x1111, %eax; mov $0x2222, %ebx\n"
      "rep bsf %rcx, %rax; rep bsf %rdx, %rbx; rep bsr %rcx, %rsi; hlt");

/* F3 BSF is TZCNT only on processors that have it, and F3 BSR is LZCNT. */
static void tzcnt_is_not_there(void **state)
{
	struct guest *g;

	guest_compatible = true;
	g = guest_new(1);
	guest_compatible = false;
	guest_long(g);
	RUN(g, code_bsf);
	assert_int_equal(g->s.gpr[PART_RAX], 7);
	assert_int_equal(g->s.gpr[PART_RBX], 0x2222);
	assert_int_equal(g->s.gpr[PART_RSI], 7);
	guest_free(g);
}

static void tzcnt_is_there(void **state)
{
	struct guest *g = *state;

	if (!softcpu_vp(g->part, 0)->vm->has[HOSTOP_FEATURE_LZCNT])
		skip();
	guest_long(g);
	RUN(g, code_bsf);
	assert_int_equal(g->s.gpr[PART_RAX], 7);
	assert_int_equal(g->s.gpr[PART_RBX], 64);
	assert_int_equal(g->s.gpr[PART_RSI], 56);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(next_instruction_of_the_same_block),
		T(another_block_again_and_again),
		T(through_an_alias),
		T(string_store_into_the_block),
		T(string_store_over_pages_of_code),
		T(copied_code),
		T(straddling_instruction),
		T(written_by_a_device),
		T(data_beside_code),
		T(copies_over_pages),
		T(copies_misaligned_quadwords),
		T(overlapping_copy),
		T(backward_copy),
		T(fault_in_the_middle),
		T(scan),
		T(port_string),
		T(address_wraps),
		T(pop_to_stack_memory),
		T(bit_strings),
		cmocka_unit_test(tzcnt_is_not_there),
		T(tzcnt_is_there),
	};

	return cmocka_run_group_tests_name("softcpu-code", tests, NULL, NULL);
}
