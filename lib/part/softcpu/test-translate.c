/* What only translated code can get wrong: links, flags across blocks, faults inside a block,
 * polls. */
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

#define RUN(g, name) guest_run_code(g, name, name##_end)

/* ---- registers and flags ---- */

/* Every register in every role, those without a host register too. */
GUEST(code_registers, 64,
      "mov $8, %ecx\n"
      "1: mov %rcx, %r10; lea 3(%r10,%rcx,4), %r11; mov %r11, %r15\n"
      "xchg %r10, %r15; add %r15, %r11; push %r11; pop %r10\n"
      "imul %r10, %r11; movzbl %r11b, %r10d; add %r10d, %r15d\n"
      "mov %r15, 0x10000; add 0x10000, %r10; xadd %r10, 0x10000; lea 0x10000, %r11\n"
      "add %rsp, (%r11); sub (%r11), %rsp; add (%r11), %rsp; mov %rsp, %r10; sub %rsp, (%r11)\n"
      "add (%r11), %rax; bt %r10, %r15; adc %r11, %rax; mov %ah, %bl; add %bl, %sil\n"
      "loop 1b\n"
      "hlt");

static void all_registers(void **state)
{
	guest_assert_as_interpreted(*state, code_registers, code_registers_end);
}

/* Carry through memory accesses, a back edge and a call. */
GUEST(code_carry, 64,
      "mov $0x10000, %edi; mov $20, %ecx; movq $-3, (%rdi); movq $-1, 8(%rdi); clc\n"
      "1: mov (%rdi), %rax; adc 8(%rdi), %rax; mov %rax, 16(%rdi); lea 8(%rdi), %rdi\n"
      "inc %rdx; dec %rcx; jnz 1b\n"
      "setc %bl; stc; call 2f; adc $0, %ebx; hlt\n"
      "2: push %rax; pop %rax; ret");

static void carry_survives(void **state)
{
	guest_assert_as_interpreted(*state, code_carry, code_carry_end);
}

/* A jump's target that did not read flags is changed into code that does. */
GUEST(code_flags_smc, 64,
      "mov $6, %ecx\n"
      "1: cmp $3, %ecx\n"
      "jne 3f\n"
      "movl $0x90c0920f, 2f(%rip)\n" /* setc %al */
      "3: cmp $100, %ecx\n"
      "jmp 2f\n"
      ".fill 40, 1, 0x90\n"
      "2: nop; nop; nop; nop\n"
      "mov %al, %bl\n"
      "mov 0x10000, %rdx\n"
      "test %eax, %eax\n"
      "loop 1b\n"
      "hlt");

static void flags_of_changed_successor(void **state)
{
	struct guest *g = *state;

	RUN(g, code_flags_smc);
	assert_int_equal(g->s.gpr[PART_RBX] & 0xff, 1);
}

/* ---- code that is written again and again ---- */

/* EBX generations of a function, called ECX times each: the sum of what it returns is in RDX. */
GUEST(code_generations, 64,
      "mov $0x2a000, %edi\n"
      "movl $0x000000b8, (%rdi); movl $0x9090c300, 4(%rdi)\n" /* mov $0, %eax; ret */
      "1: mov %bl, 1(%rdi); mov %ecx, %esi\n"
      "2: call *%rdi; add %rax, %rdx; dec %esi; jnz 2b\n"
      "dec %ebx; jnz 1b\n"
      "hlt");

static void run_generations(struct guest *g, unsigned count, unsigned calls)
{
	guest_long(g);
	g->s.gpr[PART_RBX] = count;
	g->s.gpr[PART_RCX] = calls;
	g->s.gpr[PART_RDX] = 0;
	guest_load(g, GUEST_CODE, code_generations,
		   (size_t)(code_generations_end - code_generations));
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RDX], calls * count * (count + 1) / 2);
}

/* The same again. */
static void run_resumed(struct guest *g, unsigned count, unsigned calls)
{
	g->s.halted = false;
	g->s.rip = GUEST_CODE;
	g->s.gpr[PART_RBX] = count;
	g->s.gpr[PART_RCX] = calls;
	g->s.gpr[PART_RDX] = 0;
	assert_true(guest_resume_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RDX], calls * count * (count + 1) / 2);
}

static uint64_t rewritten(struct guest *g)
{
	return softcpu_vp(g->part, 0)->rewritten[0x2a000 >> MEM_PAGE_SHIFT];
}

static void rewritten_code_is_translated_soon(void **state)
{
	struct guest *g = *state;
	struct softcpu_stats before, after;

	softcpu_tune(g->part, 0, 16, false);
	run_generations(g, 3, 40);
	assert_int_equal(rewritten(g), 1);
	softcpu_stats(g->part, 0, &before);
	run_resumed(g, 6, 4);
	softcpu_stats(g->part, 0, &after);
	assert_true(after.translated - before.translated >= 5 * 2);
}

/* Not any more when there is too little to do for it. */
static void rewritten_code_cools_down(void **state)
{
	struct guest *g = *state;

	softcpu_tune(g->part, 0, 16, false);
	run_generations(g, 3, 40);
	assert_int_equal(rewritten(g), 1);
	run_resumed(g, 30, 4);
	assert_int_equal(rewritten(g), 0);
}

/* ---- faults inside a block ---- */

/* BMI with registers that the host has and that lie in the VP, up to as many as there are scratch
 * registers for, and more. */
GUEST(code_bmi, 64,
      "mov $9, %ecx; mov $0x123456789abcdef, %rdx; mov $0x10000, %ebx; mov $0x5a5a1234, %eax; mov "
      "%rax, %r10; mov %rdx, %r11; mov %rax, %r15; mov %rdx, (%rbx)\n"
      "1: shlx %rdx, %rcx, %rax; shrx %r10, %r11, %r15; sarx %r11, (%rbx), %rsi; rorx $7, %r15, "
      "%r10; andn %r10, %r15, %r11; andn (%rbx), %r11, %rdi\n"
      "mulx %r10, %r11, %r15; mulx %rax, %rbp, %rbp; mulx (%rbx), %r10, %rax; mulx (%rbx), %r10, "
      "%r11; bextr %rcx, %r10, %r8; bzhi %r10d, (%rbx), %r15d; pdep %r11, %r10, %r9; pext %r15, "
      "%rdx, "
      "%r12; blsr %r10, %r11; setc %r13b; blsi (%rbx), %r15; setc %r14b; blsmsk %r15, %rbp\n"
      "add %r11, (%rbx); tzcnt %r10, %r15; lzcnt (%rbx), %r11; setc 8(%rbx)\n"
      "adcx %r10, %r15; adox (%rbx), %r11; movbe 3(%rbx), %r10; movbe %r15d, 16(%rbx)\n"
      "add %r11, %r10; dec %ecx; jnz 1b; hlt\n");
static const uint8_t shlx[] = { 0xc4, 0xe2, 0xe9, 0xf7, 0xc1 }; /* the first of them */

static void bit_manipulation(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();
	const struct code_cache *cache = &softcpu_vp(g->part, 0)->translator->cache;

	if (!softcpu_vp(g->part, 0)->vm->has[HOSTOP_FEATURE_BMI2])
		skip();
	assert_memory_equal(memmem(code_bmi, 96, shlx, sizeof(shlx)), shlx, sizeof(shlx));
	RUN(g, code_bmi);
	RUN(interpreted, code_bmi);
	guest_assert_same(g, interpreted);
	assert_non_null(memmem(cache->rw, cache->used, shlx, sizeof(shlx))); /* the host's own */
	guest_free(interpreted);
}

GUEST(code_fault, 64,
      "mov $5, %ecx\n"
      "1: mov $0x40000, %edi\n"
      "cmp $1, %ecx; jne 2f; mov $0x41ff8, %edi; 2:\n"
      "inc %eax; mov %ecx, (%rdi); add $1, %edx; movq %rcx, 4(%rdi); inc %ebx\n"
      "loop 1b\n"
      "hlt");
GUEST(handler_halt, 64, "mov (%rsp), %rax; mov 8(%rsp), %rbp; mov %cr2, %rsi; hlt");

/* sbb $imm32, %ebx at a page's end; adc $0, %rbp; ret. Called in loops before and after the second
 * page is written, mapped to another one, mapped back, and gone. */
GUEST(code_two_pages, 64,
      "mov $0x20ffe, %esi; call 8f\n"
      "movb $0xee, 0x21001; call 8f\n"
      "movq $0x30007, 0x103108; invlpg 0x21000; call 8f\n"
      "movq $0x21007, 0x103108; invlpg 0x21000; call 8f\n"
      "movq $0, 0x103108; invlpg 0x21000; call 8f\n"
      "hlt\n"
      "8: mov $20, %ecx; 1: add $0x70000001, %edi; call *%rsi; dec %ecx; jnz 1b; ret\n");

static void run_on_two_pages(struct guest *g)
{
	static const uint8_t head[] = { 0x81, 0xdb },
			     tail[] = { 0x22, 0x33, 0x44, 0x00, 0x48, 0x83, 0xd5, 0x00, 0xc3 },
			     other[] = { 0x55, 0x66, 0x07, 0x00, 0x48, 0x83, 0xd5, 0x00, 0xc3 };

	_Static_assert(GUEST_PT + 0x21 * 8 == 0x103108, "the code's page table entry");
	guest_load(g, 0x20ffe, head, sizeof(head));
	guest_load(g, 0x21000, tail, sizeof(tail));
	guest_load(g, 0x30000, other, sizeof(other));
	GUEST_LOAD(g, code_two_pages);
	guest_run(g, SOFTCPU_BLOCKS, false);
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	assert_int_equal(g->result.vector, VEC_PF);
	assert_int_equal(g->result.cr2, 0x21000);
	assert_int_equal(g->result.error, 0x10);
	assert_int_equal(g->s.rip, 0x20ffe);
}

static void instruction_on_two_pages(void **state)
{
	struct guest *g = *state, *i = guest_interpreted();

	run_on_two_pages(g);
	run_on_two_pages(i);
	guest_assert_same(g, i);
	guest_free(i);
}

/* The second page of the crossing store is missing: nothing of it is done. */
static void page_fault_at_the_second_page(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 14, 0x9000, 0, 0);
	guest_set_pte(g, 0x42000, 0);
	RUN(g, code_fault);
	assert_int_equal(g->s.gpr[PART_RAX], 2); /* error code */
	assert_int_equal(g->s.gpr[PART_RSI], 0x42000);
	assert_int_equal(g->s.gpr[PART_RDX], 5);
	assert_int_equal(g->s.gpr[PART_RBX], 4);
	assert_int_equal(guest_read(g, 0x41ff8, 4), 1);
	assert_int_equal(guest_read(g, 0x41ffc, 4), 0);
}

GUEST(code_divide, 64,
      "mov $6, %ecx\n"
      "1: xor %edx, %edx; mov $1000, %eax; dec %ecx; div %ecx; add %eax, %ebx\n"
      "mov $-1000, %eax; cltd; lea (%rcx,%rcx), %esi; idiv %esi; add %eax, %ebx; jmp 1b");
GUEST(handler_count, 64, "mov %rbx, %rax; mov (%rsp), %rsi; hlt");

static void divide_error(void **state)
{
	struct guest *g = *state;
	int expected = 0;

	guest_load(g, 0x9000, handler_count, (size_t)(handler_count_end - handler_count));
	guest_gate(g, 0, 0x9000, 0, 0);
	RUN(g, code_divide);
	for (int i = 5; i > 0; i--)
		expected += 1000 / i + -1000 / (2 * i);
	assert_int_equal((int)g->s.gpr[PART_RAX], expected);
	assert_int_equal(g->s.gpr[PART_RCX], 0);
}

GUEST(code_sse, 64,
      "mov $4, %ecx; mov $0x10000, %edi\n"
      "1: movd %ecx, %xmm1; paddd %xmm1, %xmm0; movaps %xmm0, (%rdi); movups (%rdi), %xmm2\n"
      "cvtsi2sd %ecx, %xmm3; addsd %xmm3, %xmm4; cmp $1, %ecx; jne 2f; lea 8(%rdi), %rdi; 2:\n"
      "movaps (%rdi), %xmm5; loop 1b; hlt");

static void misaligned_sse(void **state)
{
	struct guest *g = *state;
	double sum;

	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 13, 0x9000, 0, 0);
	RUN(g, code_sse);
	assert_int_equal(g->s.gpr[PART_RCX], 1);
	assert_int_equal(guest_read(g, 0x10000, 4), 10);
	memcpy(&sum, softcpu_fpu(g->part, 0)->xmm[4], 8);
	assert_true(sum == 10.0);
	guest_assert_translated(g);
}

/* Division by zero is unmasked meanwhile: #XM, and the translator leaves SSE to the interpreter. */
GUEST(code_unmasked, 64,
      "mov $6, %ecx\n"
      "1: cvtsi2sd %ecx, %xmm0; addsd %xmm0, %xmm1; cmp $2, %ecx; jne 2f\n"
      "movl $0x1d80, 0x10000; ldmxcsr 0x10000; xorps %xmm2, %xmm2; divsd %xmm2, %xmm0\n"
      "2: loop 1b; hlt");

static void unmasked_sse_exception(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 19, 0x9000, 0, 0);
	RUN(g, code_unmasked);
	assert_int_equal(g->s.gpr[PART_RCX], 2);
	assert_int_equal(softcpu_fpu(g->part, 0)->mxcsr & 4, 4);
}

/* ---- x87 ---- */

/* With a slow path (a store that crosses a page), another rounding, flags, and FIP, FOP, FDP. */
GUEST(code_x87, 64,
      "fninit; mov $6, %ecx; mov $0x10000, %edi; fld1; fldpi\n"
      "1: fadd %st(1), %st; fstpt (%rdi); fldt (%rdi); fstl 0x10ffc\n"
      "fnstcw 16(%rdi); movw $0x0f7f, 18(%rdi); fldcw 18(%rdi); fistl 24(%rdi); fldcw 16(%rdi)\n"
      "fildl 24(%rdi); fxch; fsubp; fcomi %st(1), %st; adc %rcx, %rbx; fnstsw %ax\n"
      "cvtsi2sd %ecx, %xmm0; addsd %xmm0, %xmm1; fincstp; fdecstp; loop 1b; hlt");

static void x87_state(void **state)
{
	guest_assert_as_interpreted(*state, code_x87, code_x87_end);
}

/* Loads and stores (one crosses a page), general registers on either side, x87 and SSE in between.
 */
GUEST(code_mmx, 64,
      "fninit; mov $6, %ecx; mov $0x10000, %edi; mov $0x0123456789abcdef, %r11; fldpi; fstp %st\n"
      "1: movd %ecx, %mm0; movq %r11, %mm1; paddb %mm0, %mm1; movq %mm1, 0x10ffc; movq 0x10ffc, "
      "%mm2\n"
      "pshufw $0x1b, %mm2, %mm3; pinsrw $2, %ecx, %mm3; pmovmskb %mm3, %r10d; add %r10, %rbx\n"
      "punpcklbw 4(%rdi), %mm1; movq %mm1, (%rdi); pmaddwd %mm2, %mm3; movd %mm3, %r15; adc %r15, "
      "%rbx\n"
      "movq2dq %mm3, %xmm0; paddq %xmm0, %xmm1; movntq %mm3, 8(%rdi); emms\n"
      "fldl (%rdi); fstpl 16(%rdi); xor %rbx, %r11; loop 1b; pextrw $1, %mm1, %eax; hlt");

static void mmx_state(void **state)
{
	guest_assert_as_interpreted(*state, code_mmx, code_mmx_end);
}

/* The control word unmasks an exception that is flagged already: the next instruction raises it. */
GUEST(code_x87_unmasked, 64,
      "fninit; mov $5, %ecx; mov $0x10000, %edi\n"
      "1: fldz; fld1; fdiv %st(1), %st; fstp %st; fstp %st; cmp $2, %ecx; jne 2f\n"
      "movl $0x37b, (%rdi); fldcw (%rdi); 2: loop 1b; hlt");

static void unmasked_x87_exception(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 16, 0x9000, 0, 0);
	RUN(g, code_x87_unmasked);
	assert_int_equal(g->s.gpr[PART_RCX], 1);
	assert_int_equal(softcpu_fpu(g->part, 0)->fcw, 0x37b);
	guest_assert_translated(g);
}

/* ---- small tables ---- */

/* Indices by MOVZX from a register and from memory, AND and SHR; with the table's register in
 * either place and without one; then the tables move, across pages and misaligned. */
GUEST(code_tables, 64,
      "mov $0x10000, %edi; mov $0x400, %ecx\n"
      "1: imul $0x61c88647, %rcx, %rax; mov %rax, (%rdi); add $8, %edi; loop 1b\n"
      "mov $0x10000, %esi; mov $200, %ecx\n"
      "2: cmp $100, %ecx; jne 3f; mov $0x107fd, %esi\n"
      "3: movzbl %cl, %eax; xor (%rsi,%rax,8), %rbx\n"
      "mov %ebx, %edx; shr $24, %edx; adc (%rsi,%rdx,4), %r10d\n"
      "mov %ebx, %edx; and $0x3f, %edx; movzwl 0x10100(,%rdx,2), %r11d; add %r11, %rbx\n"
      "movzbl 0x10200(%rdx), %edi; mov (%rdi,%rsi), %r15b; add %r15, %rbx\n"
      "loop 2b; hlt");

static void small_tables(void **state)
{
	guest_assert_as_interpreted(*state, code_tables, code_tables_end);
}

/* Tables on two pages that don't lie behind one another, then at other offsets, on other pages with
 * the same offset, and last where the second or the first page is missing. Indices of all sizes go
 * through; flags are read behind the loads. */
#define TABLES_ON_TWO(last)                                                                        \
	"mov $0x10000, %edi; mov $0x800, %ecx\n"                                                   \
	"1: imul $0x61c88647, %rcx, %rax; mov %rax, (%rdi); add $8, %edi; loop 1b\n"               \
	"mov $0x10e00, %esi; mov $0x10c40, %edi; mov $800, %ecx\n"                                 \
	"2: cmp $600, %ecx; jne 3f; mov $0x11a44, %esi; mov $0x10b80, %edi\n"                      \
	"3: cmp $400, %ecx; jne 4f; mov $0x12e00, %esi; mov $0x12c40, %edi\n"                      \
	"4: cmp $200, %ecx; jne 5f; mov $" last ", %esi\n"                                         \
	"5: movzbl %cl, %eax; add (%rsi,%rax,4), %ebx; movzbl %bl, %edx\n"                         \
	"adc (%rdi,%rdx,4), %r9d; mov (%rsi,%rax,8), %rdx; setc %r10b; add %rdx, %rbx\n"           \
	"mov %ebx, %edx; shr $24, %edx; adc 0x10f00(,%rdx,2), %r11w\n"                             \
	"movzbl %bl, %edx; movss 0x10d00(,%rdx,4), %xmm1; paddd %xmm1, %xmm2\n"                    \
	"mov 0x10f80(%rdx), %bpl; add %rbp, %rbx; dec %ecx; jnz 2b; movq %xmm2, %rdx; hlt"
GUEST(code_tables_on_two, 64, TABLES_ON_TWO("0x10e00"));
GUEST(code_second_page_missing, 64, TABLES_ON_TWO("0x40e00"));
GUEST(code_first_page_missing, 64, TABLES_ON_TWO("0x41e00"));

static void run_with_pages(struct guest *g, const uint8_t *code, const uint8_t *end)
{
	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 14, 0x9000, 0, 0);
	guest_set_pte(g, 0x11000, 0x20003);
	guest_set_pte(g, 0x13000, 0x25003);
	guest_set_pte(g, 0x41000, 0);
	guest_run_code(g, code, end);
}

static void run_tables(struct guest *g, const uint8_t *code, const uint8_t *end, bool missing)
{
	struct guest *i = guest_interpreted();

	run_with_pages(i, code, end);
	run_with_pages(g, code, end);
	guest_assert_translated(g);
	if (missing) /* flags that nothing reads may be old ones */
		g->s.rflags = i->s.rflags;
	guest_assert_same(g, i);
	assert_int_equal(g->s.gpr[PART_RCX] != 0, missing);
	guest_free(i);
}

static void tables_on_two_pages(void **state)
{
	run_tables(*state, code_tables_on_two, code_tables_on_two_end, false);
}

static void second_page_of_a_table_missing(void **state)
{
	run_tables(*state, code_second_page_missing, code_second_page_missing_end, true);
}

static void first_page_of_a_table_missing(void **state)
{
	run_tables(*state, code_first_page_missing, code_first_page_missing_end, true);
}

GUEST(code_table_fault, 64,
      "mov $0x40000, %esi; mov $40, %ecx\n"
      "1: cmp $10, %ecx; jne 2f; mov $0x40fae, %esi\n"
      "2: inc %edx; movzbl %cl, %eax; add (%rsi,%rax,8), %rbx; inc %edx; loop 1b; hlt");

/* From where a table begins to where it is missing. */
static void table_across_a_missing_page(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 14, 0x9000, 0, 0);
	guest_set_pte(g, 0x41000, 0);
	RUN(g, code_table_fault);
	assert_int_equal(g->s.gpr[PART_RAX], 0); /* error code */
	assert_int_equal(g->s.gpr[PART_RSI], 0x41000);
	assert_int_equal(g->s.gpr[PART_RCX], 10);
	assert_int_equal(g->s.gpr[PART_RDX], 2 * 30 + 1);
}

/* The TLB has lost the page of the table's middle: an element on the page behind is there only. */
GUEST(code_table_middle, 64,
      "mov $0x20f08, %ebx; mov $100, %ecx; movb $1, 0x20007; movb $2, 0x21007; mov $255, %esi\n"
      "1: mov 0x20f80, %al; mov 0x21000, %al; invlpg 0x20000\n"
      "movzbl %sil, %edx; movzbl (%rbx,%rdx), %eax; add %eax, %edi; dec %ecx; jnz 1b; hlt");

static void middle_of_a_table_flushed(void **state)
{
	struct guest *g = *state;

	g->s.gpr[PART_RDI] = 0;
	RUN(g, code_table_middle);
	assert_int_equal(g->s.gpr[PART_RDI], 2 * 100);
}

/* An index that nothing bounds: as far away as what a free entry of the TLB has as its tag. */
GUEST(code_table_far, 64,
      "mov $0x20000, %ebx; lea 3f(%rip), %rax; mov %rax, (%rbx); mov $100, %ecx; xor %edx, %edx\n"
      "1: cmp $1, %ecx; jne 2f; mov $0x400000, %edx\n"
      "2: invlpg (%rbx); jmp *(%rbx,%rdx,8)\n"
      "3: dec %ecx; jnz 1b; hlt");

static void index_as_far_as_a_free_tag(void **state)
{
	struct guest *g = *state;

	_Static_assert(0x20000 + 8 * 0x400000 == (0x20 ^ TLB_SIZE / 2) << 12, "that tag");
	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 14, 0x9000, 0, 0);
	RUN(g, code_table_far);
	assert_int_equal(g->s.gpr[PART_RSI], 0x2020000);
	assert_int_equal(g->s.gpr[PART_RCX], 1);
}

/* ---- computed calls ---- */

GUEST(code_calls, 64,
      "mov $60, %ecx; mov $0x10000, %edi; lea 5f(%rip), %rax; lea 6f(%rip), %r10\n"
      "mov %rax, (%rdi); mov %r10, 8(%rdi)\n"
      "1: mov %ecx, %esi; and $1, %esi; call *%rax; call *%r10; call *(%rdi,%rsi,8)\n"
      "cmp $30, %ecx; jae 2f; movq $0xc3, -64(%rsp); lea -64(%rsp), %rsp; call *%rsp; lea "
      "64(%rsp), %rsp\n"
      "2: loop 1b; hlt\n"
      "5: add %rsi, %rbx; adc $3, %rbx; ret\n"
      "6: lea (%rbx,%rbx,2), %rbx; stc; ret");

static void computed_calls(void **state)
{
	guest_assert_as_interpreted(*state, code_calls, code_calls_end);
}

/* The address in RAX is called, from the 32nd call on. */
GUEST(code_call_of, 64,
      "mov $0x41000, %esp; mov $40, %ecx; mov %rax, %rdi; lea 5f(%rip), %rax\n"
      "1: movq $7, -8(%rsp); cmp $9, %ecx; cmovb %rdi, %rax\n"
      "call *%rax; inc %edx; loop 1b; hlt\n"
      "5: ret");
/* RBX: RIP; RBP: RSP; RDX: what is below the stack. */
GUEST(handler_call, 64, "mov 8(%rsp), %rbx; mov 32(%rsp), %rbp; mov -8(%rbp), %rdx; hlt");

static void expect_called(struct guest *g, unsigned vector, uint64_t target)
{
	guest_load(g, 0x9000, handler_call, (size_t)(handler_call_end - handler_call));
	guest_gate(g, vector, 0x9000, 0, 1);
	g->s.gpr[PART_RAX] = target;
	RUN(g, code_call_of);
	assert_int_equal(g->s.gpr[PART_RCX], 8);
	guest_assert_translated(g);
}

/* It faults before it pushes. */
static void call_of_no_address(void **state)
{
	struct guest *g = *state;

	expect_called(g, 13, UINT64_C(0x800000000000));
	assert_in_range(g->s.gpr[PART_RBX], GUEST_CODE, GUEST_CODE + 0x100);
	assert_int_equal(g->s.gpr[PART_RBP], 0x41000);
	assert_int_equal(g->s.gpr[PART_RDX], 7);
}

/* The fault is the target's, behind the call. */
static void call_of_a_missing_page(void **state)
{
	struct guest *g = *state;

	guest_set_pte(g, 0x50000, 0);
	expect_called(g, 14, 0x50000);
	assert_int_equal(g->s.gpr[PART_RBX], 0x50000);
	assert_int_equal(g->s.gpr[PART_RBP], 0x40ff8);
}

/* ---- the stack ---- */

GUEST(code_stack_row, 64,
      "mov $5, %ecx\n"
      "1: mov $0x40800, %esp; cmp $2, %ecx; ja 2f; mov $0x41010, %esp; je 2f; mov $0x40010, %esp\n"
      "2: push %rcx; inc %edx; push %rdx; mov 8(%rsp), %rbx; push %rbx; inc %edx\n"
      "sub $16, %rsp; mov %rdx, 8(%rsp); add $40, %rsp; loop 1b; hlt");
GUEST(handler_stack, 64, "mov 32(%rsp), %rdi; mov %cr2, %rsi; hlt");

/* Within a page, across two, and where the second is missing: the first two pushes are done. */
static void row_across_pages(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_stack, (size_t)(handler_stack_end - handler_stack));
	guest_gate(g, 14, 0x9000, 0, 1);
	guest_set_pte(g, 0x3f000, 0);
	RUN(g, code_stack_row);
	assert_int_equal(g->s.gpr[PART_RDI], 0x40000);
	assert_int_equal(g->s.gpr[PART_RSI], 0x3fff8);
	assert_int_equal(g->s.gpr[PART_RDX], 9);
	assert_int_equal(g->s.gpr[PART_RBX], 1);
	assert_int_equal(guest_read(g, 0x40008, 8), 1);
	assert_int_equal(guest_read(g, 0x40000, 8), 9);
	assert_int_equal(guest_read(g, 0x41008, 8), 2);
	assert_int_equal(guest_read(g, 0x40ff8, 8), 2);
	assert_int_equal(guest_read(g, 0x40ff0, 8), 8);
	guest_assert_translated(g);
}

/* A row on one page, then one on a page that lies elsewhere and begins with what is left to the
 * interpreter. */
GUEST(code_row_interpreted, 64,
      "mov $6, %ecx\n"
      "1: mov $0x40100, %esp; mov (%rsp), %rdi; mov 8(%rsp), %rsi\n"
      "mov $0x41100, %esp; mov 0x20(%rsp), %dh; mov 0x28(%rsp), %rbx\n"
      "loop 1b; hlt");

static void row_begins_interpreted(void **state)
{
	static const uint8_t there[16] = { 0x5a, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8 };
	struct guest *g = *state;

	guest_load(g, 0x50120, there, sizeof(there));
	guest_set_pte(g, 0x41000, 0x50003);
	RUN(g, code_row_interpreted);
	assert_int_equal(g->s.gpr[PART_RDX] >> 8 & 0xff, 0x5a);
	assert_int_equal(g->s.gpr[PART_RBX], 0x0807060504030201);
	guest_assert_translated(g);
}

/* A frame on one page, then on two at all places, often enough to be translated so. With flags
 * before and behind its accesses, SSE and x87. The last ones are on a page with code, which is
 * watched. */
GUEST(
    code_frames, 64,
    "fninit; mov $70, %ebp\n"
    "1: lea 0x40f00(,%rbp,8), %rsp; mov $8, %ecx\n"
    "2: call 8f; dec %ecx; jnz 2b; dec %ebp; jnz 1b\n"
    "lea 4f(%rip), %rsp; add $40, %rsp; mov $12, %ecx\n"
    "3: call 8f; dec %ecx; jnz 3b; fstp %st; hlt\n"
    "8: push %rbx; push %r10; sub $24, %rsp; fld1; add %rdi, %rax; mov %rax, (%rsp)\n"
    "adc $5, %rbx; mov %rbx, 8(%rsp); movq 8(%rsp), %xmm1; paddq %xmm1, %xmm0\n"
    "movq %xmm0, 16(%rsp); fiaddl 8(%rsp); fistpl 4(%rsp); add 2(%rsp), %rdi; adc 16(%rsp), %r15\n"
    "lea 24(%rsp), %rsp; pop %r10; pop %r11; lea 1(%r11,%rdi), %rbx; adc %rbx, %r10; ret\n"
    ".balign 4096; .skip 4072; 4: .skip 64, 0xcc\n");

static void frames_on_two_pages(void **state)
{
	guest_assert_as_interpreted(*state, code_frames, code_frames_end);
}

/* Groups of accesses: by several registers in turn, which constants move, with an index, relative
 * to RIP, aligned ones, with the flags of one instruction used behind others, and registers that
 * the host doesn't have; at a page's end, too. */
GUEST(code_groups, 64,
      "mov $40, %ecx; mov $0x20f80, %edi; mov $0x30000, %esi; mov $0x10000, %r10d; mov $3, %edx\n"
      "1: mov %rcx, (%rdi); add %rcx, 8(%rdi); lea (%rcx,%rcx,2), %r11; mov %r11, 16(%rdi)\n"
      "add $24, %rdi; cmp $20, %ecx; mov %ecx, -4(%rdi); mov -20(%rdi), %eax; adc %rax, %rbx\n"
      "dec %rdi; mov %bl, (%rdi); inc %rdi; xor -8(%rdi), %rbx; lea -16(%rdi), %rdi\n"
      "mov %rbx, 8(%rsi,%rdx,8); mov 8(%rsi,%rdx,8), %r15; inc %rdx; mov %r15, (%rsi,%rdx,8)\n"
      "push %r15; push %rbx; mov %r10, 8(%rsp); pop %r8; xchg %r8, (%rsp); pop %r9\n"
      "mov 3f(%rip), %r11; add %r11, 3f+8(%rip); xor %r9, (%r10); add %r11, (%r10)\n"
      "movups (%rsi), %xmm0; paddq 16(%rsi), %xmm0; movaps %xmm0, 32(%rsi); paddq (%rsi), %xmm0\n"
      "movdqa %xmm0, 64(%rsi); mov 40(%rsi), %r8; add %r8, (%r10)\n"
      "mov (%rdi), %rax; mov %rdi, %rbp; mov 8(%rbp), %rbp; add %rbp, %rax; mov %rax, 16(%rdi)\n"
      "dec %ecx; jnz 1b; hlt; .balign 64; 3: .quad 5, 7");

static void groups_of_accesses(void **state)
{
	guest_assert_as_interpreted(*state, code_groups, code_groups_end);
}

/* One that isn't aligned faults at its own instruction, after the stores before it. */
GUEST(code_group_misaligned, 64,
      "mov $8, %ecx; mov $0x20000, %esi\n"
      "1: cmp $2, %ecx; jne 2f; add $8, %esi\n"
      "2: mov %rcx, 0x20(%rsi); mov %rcx, 0x38(%rsi); movaps 0x10(%rsi), %xmm0; mov %rcx, "
      "0x30(%rsi)\n"
      "loop 1b; hlt");
GUEST(handler_group_misaligned, 64, "mov $0x77, %edi; hlt");

static void group_misaligned(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_group_misaligned,
		   (size_t)(handler_group_misaligned_end - handler_group_misaligned));
	guest_gate(g, 13, 0x9000, 0, 1);
	RUN(g, code_group_misaligned);
	assert_int_equal(g->s.gpr[PART_RDI], 0x77);
	assert_int_equal(g->s.gpr[PART_RCX], 2);
	assert_int_equal(guest_read(g, 0x20040, 8), 2);
	assert_int_equal(guest_read(g, 0x20038, 8), 3);
	guest_assert_translated(g);
}

/* Several stores in a row change the block that they are in, behind them, once it is translated. */
GUEST(code_group_changes_itself, 64,
      "mov $12, %ecx; mov $0x10040, %edi; mov $0x00000000c3ff9090, %rax\n"
      "1: cmp $3, %ecx; jne 3f; lea 2f(%rip), %rdi\n"
      "3: mov %eax, (%rdi); movl $0x90c3ff90, 4(%rdi); nop\n"
      ".balign 4, 0x90; 2: nop; nop; nop; nop; nop; nop; nop; nop\n"
      "loop 1b; hlt");

static void group_changes_itself(void **state)
{
	guest_assert_as_interpreted(*state, code_group_changes_itself,
				    code_group_changes_itself_end);
}

/* Deeper than returns are remembered, and returns that skip a caller, or two. */
GUEST(code_returns, 64,
      "mov $0x40000, %esp; mov $4, %ecx\n"
      "1: mov $2500, %edx; call 2f; call 4f; add $1, %rbx; loop 1b; hlt\n"
      "2: dec %edx; jz 3f; call 2b; add %rcx, %rbx; 3: ret\n"
      "4: call 5f; add $0x100000, %rbx; call 7f; ret\n"
      "5: call 6f; add $0x1000000, %rbx; ret\n"
      "6: add $8, %rsp; add $0x10000000, %rbx; ret\n"
      "7: call 8f; hlt\n"
      "8: call 9f; hlt\n"
      "9: add $24, %rsp; ret");

static void unusual_returns(void **state)
{
	guest_assert_as_interpreted(*state, code_returns, code_returns_end);
}

/* Address 0 is what marks the end of the remembered returns. */
GUEST(code_return_to_zero, 64,
      "mov $5, %ecx; lea 2f(%rip), %rbp\n"
      "1: xor %eax, %eax; push %rax; ret; 2: loop 1b; hlt");
GUEST(code_at_zero, 64, "add $1, %rbx; jmp *%rbp");

static void return_to_zero(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0, code_at_zero, (size_t)(code_at_zero_end - code_at_zero));
	RUN(g, code_return_to_zero);
	assert_int_equal(g->s.gpr[PART_RBX], 5);
	guest_assert_translated(g);
}

/* And this address marks what is free in the table of jumps. */
GUEST(code_return_nowhere, 64,
      "mov $5, %ecx\n"
      "1: lea 2f(%rip), %rdx; cmp $1, %ecx; jne 3f; movabs $0x8000000000000000, %rdx\n"
      "3: push %rdx; ret; 2: loop 1b; hlt");

static void return_to_no_address(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x9000, handler_halt, (size_t)(handler_halt_end - handler_halt));
	guest_gate(g, 13, 0x9000, 0, 0);
	RUN(g, code_return_nowhere);
	assert_int_equal(g->s.gpr[PART_RCX], 1);
	assert_int_equal(g->s.gpr[PART_RAX], 0); /* error code */
	guest_assert_translated(g);
}

/* ---- strings ---- */

/* RSI, RDI, RCX and RAX of one string instruction. */
struct string_case {
	uint64_t from, to, count, value;
};

#define STRING_CASES UINT64_C(0x70000)
#define STRING_BYTES 0x40000u /* from 0x20000 on; 0x60000 is an alias of 0x40000 */

static const struct string_case string_cases[] = {
	{ 0x30000, 0x40000, 1, 0x1122334455667788 },
	{ 0x30100, 0x40f00, 0x100, 0x99 }, /* to the page's end */
	{ 0x30100, 0x40f00, 0x20, UINT64_C(0xabcdef0123456789) },
	{ 0x30f80, 0x40000, 0x40, 0 },
	{ 0x30ff8, 0x40ff8, 1, 3 },
	{ 0x30001, 0x40ffd, 0x10, 0x8070605040302010 }, /* elements on two pages */
	{ 0x30ffd, 0x40001, 0x10, 5 },
	{ 0x30fff, 0x40fff, 2, 5 },
	{ 0x30ffd, 0x40ffe, 0xa00, 0x123456789abcdef },
	{ 0x30000, 0x41000, 0x1000, 6 },
	{ 0x30008, 0x40010, 0x1234, 0xfedcba9876543210 },
	{ 0x40000, 0x40001, 0x900, 7 }, /* overlapping */
	{ 0x40123, 0x40126, 0x900, 8 },
	{ 0x40009, 0x40004, 0x900, 9 },
	{ 0x40008, 0x40008, 0x300, 10 },
	{ 0x40000, 0x60005, 0x300, 11 }, /* through an alias */
	{ 0x60010, 0x40000, 0x300, 12 },
	{ UINT64_C(0x8000000000000000), UINT64_C(0x7fffffffffffffff), 0, 13 }, /* nowhere */
};

/* With each instruction on all cases but the last skip ones, three times; the carry flag lives over
 * it. */
#define STRING_LOOP(insn, skip)                                                                    \
	"mov $3, %ebp; mov $0x10000, %esp\n"                                                       \
	"1: mov $0x70000, %ebx; mov $18 - " #skip ", %r12d\n"                                      \
	"2: .irp s, b, w, l, q\n"                                                                  \
	"mov (%rbx), %rsi; mov 8(%rbx), %rdi; mov 16(%rbx), %rcx; mov 24(%rbx), %rax\n"            \
	"cmp %rax, %r8\n" insn "\n"                                                                \
	"adc %rsi, %r8; rol $5, %r8; adc %rdi, %r8; rol $5, %r8; add %rcx, %r8; add %rax, %r8\n"   \
	".endr\n"                                                                                  \
	"add $32, %rbx; dec %r12d; jnz 2b; dec %ebp; jnz 1b; hlt"

GUEST(code_rep_movs, 64, STRING_LOOP("rep movs\\s", 0));
GUEST(code_rep_stos, 64, STRING_LOOP("rep stos\\s", 0));
GUEST(code_movs, 64, STRING_LOOP("movs\\s; push %rax; movs\\s; pop %rax", 1));
GUEST(code_stos, 64, STRING_LOOP("stos\\s; stos\\s", 1));
GUEST(code_lods, 64, STRING_LOOP("lods\\s; lods\\s", 1));
GUEST(code_rep_lods, 64, STRING_LOOP("rep lods\\s", 0));
GUEST(code_rep_backward, 64, STRING_LOOP("std; rep movs\\s; cld; sbb $0, %rsi", 0));
GUEST(code_backward, 64, STRING_LOOP("std; movs\\s; stos\\s; lods\\s; cld", 1));
/* Base 0, but not for sure. */
GUEST(code_rep_fs, 64, STRING_LOOP("rep movs\\s %fs:(%rsi), %es:(%rdi)", 0));
GUEST(code_rep_narrow, 64,
      STRING_LOOP("rep movs\\s (%esi), %es:(%edi); addr32 rep stos\\s; xor %esi, %esi", 1));

static void string_guest(struct guest *g)
{
	uint8_t bytes[STRING_BYTES];

	_Static_assert(ARRAY_SIZE(string_cases) == 18, "STRING_LOOP knows it");
	for (unsigned i = 0; i < STRING_BYTES; i++)
		bytes[i] = (uint8_t)(i * 7 + (i >> 8) * 3 + 1);
	guest_load(g, 0x20000, bytes, STRING_BYTES);
	for (uint64_t va = 0x60000; va < 0x70000; va += MEM_PAGE_SIZE)
		guest_set_pte(g, va, (va - 0x20000) | 3);
	guest_load(g, STRING_CASES, string_cases, sizeof(string_cases));
}

static void strings_alike(const uint8_t *code, const uint8_t *end, enum part_backend backend)
{
	struct guest *g, *i = guest_interpreted();
	void *translated;

	guest_backend = backend;
	guest_setup_translated(&translated);
	guest_backend = PART_SOFT;
	g = translated;
	string_guest(g);
	string_guest(i);
	guest_run_code(i, code, end);
	guest_run_code(g, code, end);
	guest_assert_translated(g);
	assert_memory_equal(g->s.gpr, i->s.gpr, sizeof(g->s.gpr));
	assert_memory_equal(mem_ptr(g->mem, 0x20000, STRING_BYTES),
			    mem_ptr(i->mem, 0x20000, STRING_BYTES), STRING_BYTES);
	guest_free(g);
	guest_free(i);
}

static void every_string(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} codes[] = { { code_rep_movs, code_rep_movs_end },
		      { code_rep_stos, code_rep_stos_end },
		      { code_movs, code_movs_end },
		      { code_stos, code_stos_end },
		      { code_lods, code_lods_end },
		      { code_rep_lods, code_rep_lods_end },
		      { code_rep_backward, code_rep_backward_end },
		      { code_backward, code_backward_end },
		      { code_rep_fs, code_rep_fs_end },
		      { code_rep_narrow, code_rep_narrow_end } };

	for (unsigned i = 0; i < ARRAY_SIZE(codes); i++) {
		strings_alike(codes[i].code, codes[i].end, PART_SOFT);
		strings_alike(codes[i].code, codes[i].end, PART_SOFT_LOCKSTEP);
	}
}

/* The fifth copy runs into a page that isn't there. */
GUEST(code_rep_fault, 64,
      "mov $5, %ebp\n"
      "1: mov $0x100, %ecx; cmp $1, %ebp; jne 2f; mov $0x1020, %ecx\n"
      "2: mov %r8, %rsi; mov %r9, %rdi; add %ebp, %eax; rep movsb; dec %ebp; jnz 1b; hlt");
GUEST(handler_string, 64, "mov (%rsp), %rax; mov 8(%rsp), %rdx; mov %cr2, %rbx; hlt");

static void expect_string_fault(struct guest *g, uint64_t from, uint64_t to, uint64_t missing)
{
	uint64_t done = missing == 0x42000 ? missing - to : missing - from;

	guest_load(g, 0x9000, handler_string, (size_t)(handler_string_end - handler_string));
	guest_gate(g, 14, 0x9000, 0, 0);
	string_guest(g);
	guest_set_pte(g, missing, 0);
	g->s.gpr[8] = from;
	g->s.gpr[9] = to;
	RUN(g, code_rep_fault);
	guest_assert_translated(g);
	assert_int_equal(g->s.gpr[PART_RBX], missing);
	assert_int_equal(g->s.gpr[PART_RAX], missing == 0x42000 ? 2 : 0); /* error code */
	assert_int_equal(guest_read(g, g->s.gpr[PART_RDX], 2), 0xa4f3);
	assert_int_equal(g->s.gpr[PART_RSI], from + done);
	assert_int_equal(g->s.gpr[PART_RDI], to + done);
	assert_int_equal(g->s.gpr[PART_RCX], 0x1020 - done);
	assert_memory_equal(mem_ptr(g->mem, from, done), mem_ptr(g->mem, to, done), done);
}

static void fault_in_a_repeated_store(void **state)
{
	expect_string_fault(*state, 0x30010, 0x40ff0, 0x42000);
}

static void fault_in_a_repeated_load(void **state)
{
	expect_string_fault(*state, 0x30ff0, 0x40010, 0x32000);
}

/* Pages that the TLB has are seen by the dirty log, both of a copy. */
GUEST(loop_rep, 64,
      "1: mov $0x40ff0, %edi; mov $0x20, %ecx; rep stosb; lea -16(%rdi), %rsi\n"
      "mov $0x48ff0, %edi; mov $0x20, %ecx; rep movsb; jmp 1b");

static void dirty_log_of_strings(void **state)
{
	uint64_t before[GUEST_RAM / MEM_PAGE_SIZE / 64], log[ARRAY_SIZE(before)];
	struct timespec ms = { 0, 1000000 };
	struct guest *g = *state;
	struct error err;

	guest_load(g, GUEST_CODE, loop_rep, (size_t)(loop_rep_end - loop_rep));
	part_vp_set_state(g->part, 0, &g->s);
	assert_int_equal(part_start(g->part, &err), 0);
	for (unsigned round = 0; round < 10; round++) {
		nanosleep(&ms, NULL);
		part_pause(g->part);
		mem_dirty_log_start(g->mem);
		mem_dirty_log_take(g->mem, before);
		part_resume(g->part);
		memset(log, 0, sizeof(log));
		for (unsigned i = 0; i < 2000 && log[1] != 0x303; i++) {
			nanosleep(&ms, NULL);
			mem_dirty_log_take(g->mem, log);
		}
		assert_int_equal(log[1], 0x303); /* pages 0x40, 0x41, 0x48, 0x49 */
		mem_dirty_log_stop(g->mem);
	}
	guest_assert_translated(g);
}

/* What is left to do and where it goes on always fit together. */
GUEST(loop_long_rep, 64, "1: mov $0x20000, %edi; mov $0x40000, %ecx; rep stosb; jmp 1b");

static void pauses_in_a_repeated_store(void **state)
{
	const uint64_t rep = GUEST_CODE + 10;
	struct timespec moment = { 0, 50000 };
	struct guest *g = *state;
	struct error err;

	guest_load(g, GUEST_CODE, loop_long_rep, (size_t)(loop_long_rep_end - loop_long_rep));
	part_vp_set_state(g->part, 0, &g->s);
	assert_int_equal(part_start(g->part, &err), 0);
	for (unsigned i = 0; i < 200; i++) {
		nanosleep(&moment, NULL);
		part_pause(g->part);
		part_vp_get_state(g->part, 0, &g->s);
		assert_in_range(g->s.rip, GUEST_CODE, rep + 2);
		if (g->s.rip == rep)
			assert_int_equal(g->s.gpr[PART_RDI] + g->s.gpr[PART_RCX], 0x60000);
		part_resume(g->part);
	}
	guest_assert_translated(g);
}

/* ---- links and mappings ---- */

/* A function on another page, called directly and by register, while its page is mapped to and fro.
 */
GUEST(code_remap, 64,
      "mov $9, %ecx; mov $0x60000, %esi\n"
      "1: mov $0x60000, %eax; call *%rax; mov $0x60000, %eax; lea 2f(%rip), %rdx; push %rdx; push "
      "%rax; ret; 2:\n"
      ".byte 0xe8; .long 0x60000 - (0x8000 + 3f - code_remap); 3:\n"
      "xorq $0x3000, 0x103300; invlpg (%rsi)\n"
      "loop 1b; hlt");
GUEST(function_a, 64, "add $1, %rbx; ret");
GUEST(function_b, 64, "add $0x100, %rbx; ret");

static void target_mapped_elsewhere(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x60000, function_a, (size_t)(function_a_end - function_a));
	guest_load(g, 0x63000, function_b, (size_t)(function_b_end - function_b));
	RUN(g, code_remap);
	assert_int_equal(g->s.gpr[PART_RBX], 5 * 3 + 0x100 * 4 * 3);
	guest_assert_translated(g);
}

/* The return address is pushed over the immediate of an instruction of the function called. */
GUEST(code_push_on_code, 64,
      "mov $5, %ecx\n"
      "1: mov $0x60006, %eax; cmp $2, %ecx; jne 2f; mov $0x60010, %esp; 2:\n"
      "call *%rax; 3: mov $0x7000, %esp; add %rdx, %rbx; loop 1b\n"
      "lea 3b(%rip), %rsi; hlt");
GUEST(function_immediate, 64, "movabs $0x10000, %rdx; ret");

static void return_address_on_code(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0x60006, function_immediate,
		   (size_t)(function_immediate_end - function_immediate));
	RUN(g, code_push_on_code);
	assert_int_equal(g->s.gpr[PART_RBX], 3 * 0x10000 + 2 * g->s.gpr[PART_RSI]);
	guest_assert_translated(g);
}

/* ---- a full cache ---- */

#define PIECE_SIZE 32
#define PIECES     (0x100000u / PIECE_SIZE)
#define PIECES_GPA 0x200000u

/* A MiB of blocks, each of which adds its number and jumps to the next: more than fits, thrice. */
static void cache_overflows(void **state)
{
	static const uint8_t last[] = { 0xff, 0xc9,                         /* dec %ecx */
					0x0f, 0x85, 0xf8, 0xff, 0xef, 0xff, /* jnz to the first */
					0xf4 };                             /* hlt */
	struct softcpu_stats stats;
	struct guest *g;
	uint64_t sum = 0;

	guest_code_cache_bytes = 1;
	g = guest_new(1);
	guest_code_cache_bytes = 0;
	softcpu_tune(g->part, 0, 1, false);
	guest_long(g);
	for (uint32_t i = 0; i < PIECES; i++) {
		/* add $i, %rbx; jmp to the next */
		uint8_t piece[] = { 0x48, 0x81, 0xc3, 0, 0, 0, 0, 0xe9, PIECE_SIZE - 12, 0, 0, 0 };

		memcpy(piece + 3, &i, sizeof(i));
		guest_load(g, PIECES_GPA + i * PIECE_SIZE, piece, sizeof(piece));
		sum += i;
	}
	guest_load(g, PIECES_GPA + PIECES * PIECE_SIZE, last, sizeof(last));
	guest_write(g, GUEST_PD + 8, PIECES_GPA | 0x83, 8); /* a page of 2 MiB */
	g->s.rip = PIECES_GPA;
	g->s.gpr[PART_RCX] = 3;
	assert_true(guest_start_and_wait_halt(g));
	softcpu_stats(g->part, 0, &stats);
	assert_int_equal(g->s.gpr[PART_RBX], 3 * sum);
	assert_true(stats.flushes > 3);
	guest_free(g);
}

/* ---- leaving loops ---- */

static void expect_pausable(struct guest *g, const uint8_t *code, const uint8_t *end)
{
	struct error err;
	uint64_t rip;

	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	part_vp_set_state(g->part, 0, &g->s);
	assert_int_equal(part_start(g->part, &err), 0);
	for (unsigned i = 0; i < 20; i++) {
		part_pause(g->part);
		part_vp_get_state(g->part, 0, &g->s);
		rip = g->s.rip;
		assert_in_range(rip, GUEST_CODE, GUEST_CODE + (uint64_t)(end - code));
		part_resume(g->part);
	}
}

GUEST(loop_jmp, 64, "1: jmp 1b");
GUEST(loop_carry, 64, "1: adc %rax, %rbx; inc %rcx; jmp 1b");
GUEST(loop_ret, 64, "1: lea 1b(%rip), %rax; push %rax; ret");
GUEST(loop_call, 64, "1: mov $0x7000, %esp; call 1b");
/* Calls forward, 2^30 in all, and returns: no branch goes back. */
GUEST(loop_calls, 64, ".rept 30; call 9f; call 9f; ret; 9:; .endr; ret");
GUEST(loop_register, 64, "lea 1f(%rip), %rax; 1: jmp *%rax");

static void loops_can_be_paused(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} loops[] = { { loop_jmp, loop_jmp_end },     { loop_carry, loop_carry_end },
		      { loop_ret, loop_ret_end },     { loop_call, loop_call_end },
		      { loop_calls, loop_calls_end }, { loop_register, loop_register_end } };

	for (unsigned i = 0; i < ARRAY_SIZE(loops); i++) {
		struct guest *g = guest_new(1);

		softcpu_tune(g->part, 0, 2, false);
		guest_long(g);
		expect_pausable(g, loops[i].code, loops[i].end);
		guest_free(g);
	}
}

GUEST(loop_last, 64, "1: jmp 1b");

/* The last two bytes of the address space: the block's end is address 0. */
static void last_loop_can_be_paused(void **state)
{
	const uint64_t code = UINT64_MAX - 1, flags = 3; /* present, writable */
	struct guest *g = *state;
	struct error err;

	guest_write(g, GUEST_PML4 + 511 * 8, 0x106000 | flags, 8);
	guest_write(g, 0x106000 + 511 * 8, 0x107000 | flags, 8);
	guest_write(g, 0x107000 + 511 * 8, 0x108000 | flags, 8);
	guest_write(g, 0x108000 + 511 * 8, 0x50000 | flags, 8);
	guest_load(g, 0x50ffe, loop_last, 2);
	g->s.rip = code;
	part_vp_set_state(g->part, 0, &g->s);
	assert_int_equal(part_start(g->part, &err), 0);
	for (unsigned i = 0; i < 20; i++) {
		part_pause(g->part);
		part_vp_get_state(g->part, 0, &g->s);
		assert_int_equal(g->s.rip, code);
		part_resume(g->part);
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, guest_setup_translated, guest_teardown)
	const struct CMUnitTest tests[] = {
		TEST(all_registers),
		TEST(carry_survives),
		TEST(flags_of_changed_successor),
		TEST(bit_manipulation),
		TEST(rewritten_code_is_translated_soon),
		TEST(rewritten_code_cools_down),
		TEST(instruction_on_two_pages),
		TEST(page_fault_at_the_second_page),
		TEST(divide_error),
		TEST(misaligned_sse),
		TEST(unmasked_sse_exception),
		TEST(x87_state),
		TEST(mmx_state),
		TEST(unmasked_x87_exception),
		TEST(small_tables),
		TEST(tables_on_two_pages),
		TEST(second_page_of_a_table_missing),
		TEST(first_page_of_a_table_missing),
		TEST(table_across_a_missing_page),
		TEST(middle_of_a_table_flushed),
		TEST(index_as_far_as_a_free_tag),
		TEST(computed_calls),
		TEST(call_of_no_address),
		TEST(call_of_a_missing_page),
		TEST(row_across_pages),
		TEST(row_begins_interpreted),
		TEST(frames_on_two_pages),
		TEST(groups_of_accesses),
		TEST(group_misaligned),
		TEST(group_changes_itself),
		TEST(unusual_returns),
		cmocka_unit_test(every_string),
		TEST(fault_in_a_repeated_store),
		TEST(fault_in_a_repeated_load),
		TEST(dirty_log_of_strings),
		TEST(pauses_in_a_repeated_store),
		TEST(return_to_zero),
		TEST(return_to_no_address),
		TEST(target_mapped_elsewhere),
		TEST(return_address_on_code),
		cmocka_unit_test(cache_overflows),
		cmocka_unit_test(loops_can_be_paused),
		TEST(last_loop_can_be_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
