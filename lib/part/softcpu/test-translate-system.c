/* What translated code does itself of what kernels do: entering and leaving them, bases, bit
 * strings. The interpreter must have the same results. */
#include "base/macros.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* The APIC's page at its own address, by a 2 MiB page in the fourth GiB. */
static void with_apic(struct guest *g)
{
	guest_write(g, GUEST_PDPT + 3 * 8, 0x106000 | 7, 8);
	guest_write(g, 0x106000 + (0xfee00000 >> 21 & 511) * 8, 0xfee00000 | 0x87, 8);
}

/* What the two handlers stand for: interrupts at 0x9000, system calls at 0xa000. */
static void load_handlers(struct guest *g, const uint8_t *irq, size_t irq_len, const uint8_t *call,
			  size_t call_len)
{
	with_apic(g);
	guest_load(g, 0x9000, irq, irq_len);
	guest_load(g, 0xa000, call, call_len);
	guest_gate(g, 0x50, 0x9000, 0, 1);
}

GUEST(code_irq, 64,
      "push %rax; mov 8(%rsp), %rax; mov %rax, 0x10000; mov 24(%rsp), %rax; mov %rax, 0x10010\n"
      "incl 0x10008; mov $0xfee000b0, %eax; movl $0, (%rax); pop %rax; iretq");

static void run_both(struct guest *g, const uint8_t *code, size_t len, const uint8_t *call,
		     size_t call_len)
{
	const size_t irq_len = (size_t)(code_irq_end - code_irq);
	struct guest *both[2] = { g, guest_interpreted() };

	for (unsigned i = 0; i < 2; i++) {
		load_handlers(both[i], code_irq, irq_len, call, call_len);
		guest_load(both[i], GUEST_CODE, code, len);
		assert_true(guest_start_and_wait_halt(both[i]));
		assert_int_equal(both[i]->triple_faults, 0);
	}
	guest_assert_same(g, both[1]);
	guest_free(both[1]);
}

#define RUN_BOTH(g, code, call)                                                                    \
	run_both(g, code, (size_t)(code##_end - code), call, (size_t)(call##_end - call))

/* EFER.SCE, STAR, LSTAR, SFMASK (IF, DF and all arithmetic flags but OF). */
#define ENABLE_CALLS                                                                               \
	"mov $0xc0000080, %ecx; rdmsr; or $1, %eax; wrmsr\n"                                       \
	"mov $0xc0000081, %ecx; xor %eax, %eax; mov $0x00200008, %edx; wrmsr\n"                    \
	"mov $0xc0000082, %ecx; mov $0xa000, %eax; xor %edx, %edx; wrmsr\n"                        \
	"mov $0xc0000084, %ecx; mov $0x6d5, %eax; wrmsr\n"

/* ---- SYSCALL and SYSRET ---- */

/* Flags, segments and the stacks of returns on both sides, many times. RDX: end. */
GUEST(code_calls, 64,
      ENABLE_CALLS "xor %edx, %edx; mov $60, %ebx; lea 1f(%rip), %rcx; mov $0x246, %r11d; sysretq\n"
		   "1: call 2f; pushfq; pop %rbp; add %rbp, %r8; imul $3, %r8, %r8\n"
		   "mov %cs, %eax; add %eax, 0x10020; mov %ss, %eax; add %eax, 0x10028\n"
		   "dec %ebx; jnz 1b\n"
		   "mov $1, %edx; syscall\n"
		   "2: imul $0x47654321, %ebx, %eax; test $1, %bl; jz 3f; std\n"
		   "3: add %eax, %eax; syscall; mov $0, %eax; ret");
GUEST(code_call_handler, 64,
      "pushfq; pop %r9; add %r9, %r10; imul $5, %r10, %r10\n"
      "mov %cs, %eax; add %rax, %r12; mov %ss, %eax; add %rax, %r13\n"
      "add %r11, %r14; imul $7, %r14, %r14; add %rcx, %r15; imul $9, %r15, %r15\n"
      "test %edx, %edx; jnz 1f; call 2f; sysretq\n"
      "1: hlt\n"
      "2: and $~0x400, %r11d; ret");

static void calls(void **state)
{
	RUN_BOTH(*state, code_calls, code_call_handler);
}

/* SYSRET sets IF while an interrupt is pending: it comes before the first instruction there, which
 * hasn't added to RSI. */
GUEST(code_pending, 64,
      ENABLE_CALLS "mov $0xfee00000, %edi; movl $0x1ff, 0xf0(%rdi)\n"
		   "xor %edx, %edx; mov $40, %ebx; lea 1f(%rip), %rcx; mov $2, %r11d; sysretq\n"
		   "1: syscall\n"
		   "2: inc %esi; dec %ebx; jnz 1b\n"
		   "mov 0x10008, %r8d; lea 2b(%rip), %rbp; mov $1, %edx; syscall");
GUEST(code_pending_handler, 64,
      "test %edx, %edx; jnz 1f\n"
      "movl $0x44050, 0x300(%rdi); or $0x200, %r11d; sysretq\n"
      "1: hlt");

static void interrupt_behind_sysret(void **state)
{
	struct guest *g = *state;

	RUN_BOTH(g, code_pending, code_pending_handler);
	assert_int_equal(guest_read(g, 0x10008, 4), 40);
	assert_int_equal(guest_read(g, 0x10000, 8), g->s.gpr[PART_RBP]);
}

/* Once the pages that were hit are gone, SYSCALL without SCE is #UD, SYSRET to nowhere #GP. */
GUEST(code_no_sce, 64,
      ENABLE_CALLS "xor %edx, %edx; mov $30, %ebx; lea 1f(%rip), %rcx; mov $2, %r11d; sysretq\n"
		   "1: syscall; dec %ebx; jnz 1b; mov $1, %edx; syscall\n");
GUEST(code_no_sce_handler, 64,
      "test %edx, %edx; jz 1f\n"
      "movabs $0x8000000000000000, %rcx\n"
      "1: sysretq");
GUEST(code_gp, 64, "mov (%rsp), %rax; mov 8(%rsp), %rbx; hlt");

static void sysret_to_no_address(void **state)
{
	struct guest *g = *state;

	guest_load(g, 0xb000, code_gp, (size_t)(code_gp_end - code_gp));
	guest_gate(g, 13, 0xb000, 0, 1);
	load_handlers(g, code_irq, (size_t)(code_irq_end - code_irq), code_no_sce_handler,
		      (size_t)(code_no_sce_handler_end - code_no_sce_handler));
	GUEST_LOAD(g, code_no_sce);
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RAX], 0);
	assert_int_equal(g->s.gpr[PART_RBX],
			 0xa000 + (size_t)(code_no_sce_handler_end - code_no_sce_handler) - 3);
}

/* ---- fields ---- */

GUEST(code_fields, 64,
      "mov %cr4, %rax; or $0x10000, %rax; mov %rax, %cr4; mov $20, %ecx\n"
      "1: mov %rcx, %r11; shl $33, %r11; wrfsbase %r11; wrgsbase %ecx\n"
      "rdfsbase %rax; rdgsbase %r15; rdfsbase %r10d; add %rax, %rbx; add %r15, %rbx\n"
      "add %r10, %rbx; mov %ecx, %eax; wrfsbase %eax; mov %fs:0x10000, %rax; add %rax, %rbx\n"
      "mov $-1, %rsi; mov %cs, %esi; mov $-1, %rdi; mov %ss, %di; mov %ds, %r10\n"
      "mov %rcx, %cr2; mov %cr2, %r11; mov %cr0, %rdx; mov %cr3, %r8; mov %cr4, %r9\n"
      "xor %rdx, %rbx; add %r11, %rbx; add %r10, %rbx\n"
      "dec %ecx; jnz 1b\n"
      "hlt");
GUEST(code_none, 64, "hlt");

static void fields(void **state)
{
	RUN_BOTH(*state, code_fields, code_none);
}

/* The TSC goes on, and RDTSCP says which processor it is. */
GUEST(code_tsc, 64,
      "mov $0xc0000103, %ecx; mov $77, %eax; xor %edx, %edx; wrmsr; mov $50, %ebx\n"
      "1: rdtsc; shl $32, %rdx; or %rdx, %rax; cmp %rsi, %rax; jb 2f; mov %rax, %rsi\n"
      "rdtscp; shl $32, %rdx; or %rdx, %rax; cmp %rsi, %rax; jb 2f; mov %rax, %rsi\n"
      "cmp $77, %ecx; jne 2f; dec %ebx; jnz 1b\n"
      "mov $0x10, %ecx; mov $1, %edx; xor %eax, %eax; wrmsr; mov $20, %ebx\n"
      "3: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rdi; shr $32, %rax\n"
      "dec %ebx; jnz 3b\n"
      "2: hlt");

static void time_stamps(void **state)
{
	struct guest *g = *state;

	GUEST_LOAD(g, code_tsc);
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RBX], 0);
	assert_true(g->s.gpr[PART_RDI] >> 32 >= 1 && g->s.gpr[PART_RDI] >> 32 < 100);
}

/* ---- bit strings ---- */

/* Both ways, all sizes, with and without LOCK, indexes that have no host register; other flags
 * stay. */
GUEST(
    code_bits, 64,
    "mov $200, %ecx; mov $0x10080, %ebp\n"
    "1: imul $0x1234567, %ecx, %r11d; sar $21, %r11d; movslq %r11d, %r11; mov %r11, %rdx\n"
    "sub %rax, %rax; bts %r11, (%rbp); sbb %rax, %rax; pushfq; pop %rsi; and $0x45, %esi\n"
    "add %rax, %rbx; add %rsi, %rbx; lock btr %edx, 8(%rbp); adc $3, %rbx\n"
    "add $5, %edx; btc %edx, -4(%rbp); adc %rbx, %rbx; bt %r11, (%rbp); adc %rbx, %rbx\n"
    "lock btc %r11w, (%rbp); adc $0, %rbx; bt %r11d, (%rbp,%rcx); setc %r8b; add %r8, %r9\n"
    "movslq %edx, %rdx; cmp $100, %ecx; bt %rdx, (%rbp); seta %r10b; adc %r10, %r9; rol $1, %rbx\n"
    "dec %ecx; jnz 1b\n"
    "hlt");

static void bit_strings(void **state)
{
	RUN_BOTH(*state, code_bits, code_none);
}

/* Bits of the code that runs: the change is seen at once. */
GUEST(code_bits_smc, 64,
      "mov $20, %ecx; lea 2f(%rip), %rdi; mov $24, %edx\n"
      "1: btc %rdx, (%rdi)\n"
      "2: add $0, %eax\n" /* 83 c0 00: the byte behind it is a NOP, 90 or 91 */
      "nop\n"
      "dec %ecx; jnz 1b\n"
      "hlt");

static void bits_of_code(void **state)
{
	RUN_BOTH(*state, code_bits_smc, code_none);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, guest_setup_translated, guest_teardown)
	const struct CMUnitTest tests[] = {
		TEST(calls),        TEST(interrupt_behind_sysret),
		TEST(fields),       TEST(sysret_to_no_address),
		TEST(time_stamps),  TEST(bit_strings),
		TEST(bits_of_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
