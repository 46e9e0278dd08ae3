/* Exceptions and their delivery, privilege changes, modes. */
#include "base/macros.h"
#include "part/softcpu/test-guest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum {
	DE = 0,
	DB = 1,
	BP = 3,
	OF = 4,
	BR = 5,
	UD = 6,
	NM = 7,
	DF = 8,
	TS = 10,
	NP = 11,
	SS = 12,
	GP = 13,
	PF = 14,
	MF = 16,
	AC = 17,
	XM = 19
};

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

static void expect(struct guest *g, unsigned vector, int error, uint64_t rip)
{
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	assert_int_equal(g->result.vector, vector);
	assert_int_equal(g->result.has_error, error >= 0);
	if (error >= 0)
		assert_int_equal(g->result.error, error);
	assert_int_equal(g->s.rip, rip);
}

/* ---- what raises what ---- */

#define RAISES(name, text, vector, error, setup_code)                                              \
	GUEST(code_##name, 64, text);                                                              \
	static void name(void **state)                                                             \
	{                                                                                          \
		struct guest *g = *state;                                                          \
                                                                                                   \
		guest_long(g);                                                                     \
		setup_code;                                                                        \
		guest_execute(g, code_##name);                                                     \
		expect(g, vector, error, GUEST_CODE + 1);                                          \
	}

RAISES(divide_by_zero, "nop; div %rcx", DE, -1, )
RAISES(divide_overflow, "nop; div %ecx", DE, -1, {
	g->s.gpr[PART_RCX] = 1;
	g->s.gpr[PART_RDX] = 1;
})
RAISES(signed_divide_overflow, "nop; idiv %rcx", DE, -1, {
	g->s.gpr[PART_RCX] = UINT64_MAX;
	g->s.gpr[PART_RAX] = BIT(63);
	g->s.gpr[PART_RDX] = UINT64_MAX;
})
RAISES(signed_divide_byte_overflow, "nop; idiv %cl", DE, -1, {
	g->s.gpr[PART_RCX] = 1;
	g->s.gpr[PART_RAX] = 0x80;
})
RAISES(undefined, "nop; ud2", UD, -1, )
RAISES(breakpoint, "nop; int3", BP, -1, )
RAISES(software_interrupt, "nop; int $0x80", 0x80, -1, )
RAISES(vex, "nop; vpxor %xmm0, %xmm0, %xmm0", UD, -1, )
RAISES(xgetbv, "nop; xgetbv", UD, -1, )
RAISES(vmmcall, "nop; vmmcall", UD, -1, )
RAISES(monitor, "nop; monitor", UD, -1, )
RAISES(unknown_msr_read, "nop; rdmsr", GP, 0, g->s.gpr[PART_RCX] = 0x12345)
RAISES(unknown_msr_write, "nop; wrmsr", GP, 0, g->s.gpr[PART_RCX] = 0x12345)
RAISES(sysenter_without_cs, "nop; sysenter", GP, 0, )
RAISES(cr4_reserved, "nop; mov %rax, %cr4", GP, 0, g->s.gpr[PART_RAX] = BIT(31) | 0x20)
RAISES(cr4_pae_off, "nop; mov %rax, %cr4", GP, 0, g->s.gpr[PART_RAX] = 0x680)
RAISES(cr0_paging_off, "nop; mov %rax, %cr0", GP, 0, g->s.gpr[PART_RAX] = 0x11)
RAISES(cr0_high, "nop; mov %rax, %cr0", GP, 0, g->s.gpr[PART_RAX] = BIT(40) | 0x80010033)
RAISES(cr8_high, "nop; mov %rax, %cr8", GP, 0, g->s.gpr[PART_RAX] = 16)
RAISES(cr1, "nop; .byte 0x0f, 0x20, 0xc8", UD, -1, )
RAISES(dr4_with_de, "nop; mov %db4, %rax", UD, -1, g->s.cr4 |= 8)
RAISES(stack_non_canonical, "nop; push %rax", SS, 0, g->s.gpr[PART_RSP] = UINT64_C(0x800000000008))
RAISES(rbp_non_canonical, "nop; mov (%rbp), %rax", SS, 0,
       g->s.gpr[PART_RBP] = UINT64_C(0x800000000000))
RAISES(jump_non_canonical, "nop; jmp *%rax", GP, 0, g->s.gpr[PART_RAX] = UINT64_C(0x800000000000))
RAISES(cmpxchg16b_misaligned, "nop; cmpxchg16b (%rbx)", GP, 0, g->s.gpr[PART_RBX] = GUEST_DATA + 8)
RAISES(movaps_misaligned, "nop; movaps (%rbx), %xmm0", GP, 0, g->s.gpr[PART_RBX] = GUEST_DATA + 8)
RAISES(sse_without_osfxsr, "nop; movaps %xmm1, %xmm0", UD, -1, g->s.cr4 &= ~BIT(9))
RAISES(sse_with_ts, "nop; movaps %xmm1, %xmm0", NM, -1, g->s.cr0 |= 8)
RAISES(x87_with_em, "nop; fld1", NM, -1, g->s.cr0 |= 4)
RAISES(wait_with_ts, "nop; fwait", NM, -1, g->s.cr0 |= 8 | 2)
RAISES(bad_selector, "nop; mov %eax, %ds", GP, 0x100, g->s.gpr[PART_RAX] = 0x100)
RAISES(null_stack, "nop; mov %eax, %ss", GP, 0, g->s.gpr[PART_RAX] = 1)
RAISES(code_as_stack, "nop; mov %eax, %ss", GP, SEL_CODE64, g->s.gpr[PART_RAX] = SEL_CODE64)
RAISES(absent_segment, "nop; mov %eax, %ds", NP, SEL_DATA, {
	g->s.gpr[PART_RAX] = SEL_DATA;
	guest_write(g, GUEST_GDT + SEL_DATA, UINT64_C(0x00cf13000000ffff), 8);
})
RAISES(lock_on_register, "nop; .byte 0xf0, 0x01, 0xc0", UD, -1, )
RAISES(rdfsbase_off, "nop; rdfsbase %rax", UD, -1, )
RAISES(too_long, "nop; .fill 15, 1, 0x66; nop", GP, 0, )

/* ---- privileged instructions at CPL 3 ---- */

#define PRIVILEGED(name, text)                                                                     \
	GUEST(code_user_##name, 64, text);                                                         \
	static void user_##name(void **state)                                                      \
	{                                                                                          \
		struct guest *g = *state;                                                          \
                                                                                                   \
		guest_long(g);                                                                     \
		guest_user(g);                                                                     \
		guest_execute(g, code_user_##name);                                                \
		expect(g, GP, 0, GUEST_CODE);                                                      \
	}

PRIVILEGED(hlt, "hlt")
PRIVILEGED(cli, "cli")
PRIVILEGED(sti, "sti")
PRIVILEGED(in, "in $0x20, %al")
PRIVILEGED(out, "outl %eax, %dx")
PRIVILEGED(ins, "insb")
PRIVILEGED(rdmsr, "rdmsr")
PRIVILEGED(wrmsr, "wrmsr")
PRIVILEGED(mov_from_cr, "mov %cr0, %rax")
PRIVILEGED(mov_to_cr, "mov %rax, %cr3")
PRIVILEGED(mov_dr, "mov %dr7, %rax")
PRIVILEGED(lgdt, "lgdt (%rax)")
PRIVILEGED(lidt, "lidt (%rax)")
PRIVILEGED(lldt, "lldt %ax")
PRIVILEGED(ltr, "ltr %ax")
PRIVILEGED(clts, "clts")
PRIVILEGED(lmsw, "lmsw %ax")
PRIVILEGED(invlpg, "invlpg (%rax)")
PRIVILEGED(wbinvd, "wbinvd")
PRIVILEGED(swapgs, "swapgs")
PRIVILEGED(sysret, "sysretq")

GUEST(code_vmcall, 64, "vmcall; hlt");

static void hypercalls_need_privilege(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	g->s.gpr[PART_RCX] = 1;
	g->s.gpr[PART_RDX] = 20;
	g->s.gpr[8] = 300;
	guest_execute(g, code_vmcall);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], 321);
	guest_long(g);
	guest_user(g);
	guest_execute(g, code_vmcall);
	expect(g, UD, -1, GUEST_CODE);
	assert_int_equal(g->hypercalls, 1);
}

/* The TSS's bitmap opens ports. */
GUEST(code_port, 64, "in (%dx), %al; hlt");

static void port_bitmap(void **state)
{
	struct guest *g = *state;

	guest_write(g, GUEST_TSS + 104 + 4, 0xfffd, 2); /* port 0x21 is open */
	for (unsigned port = 0x20; port < 0x23; port++) {
		guest_long(g);
		guest_user(g);
		g->s.seg[PART_TR].limit = 0x80;
		g->s.gpr[PART_RDX] = port;
		g->port_value = 0x5a;
		guest_execute(g, code_port);
		expect(g, GP, 0, port == 0x21 ? GUEST_CODE + 1 : GUEST_CODE);
		assert_int_equal(g->s.gpr[PART_RAX], port == 0x21 ? 0x5a : 0);
	}
}

GUEST(code_align, 64, "mov 1(%rbx), %eax; hlt");

static void alignment_check(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_user(g);
	g->s.cr0 |= BIT(18);
	g->s.rflags |= BIT(18);
	g->s.gpr[PART_RBX] = GUEST_DATA;
	guest_execute(g, code_align);
	expect(g, AC, 0, GUEST_CODE);
	g->s.rip = GUEST_CODE;
	g->s.gpr[PART_RBX] = GUEST_DATA + 3;
	guest_execute(g, code_align);
	expect(g, GP, 0, GUEST_CODE + 3);
}

GUEST(code_x87_status, 64, "fninit; fld1; fnstsw %ax; hlt");

/* What the host's own x87 code has raised is not the guest's. */
static void hosts_x87_exceptions(void **state)
{
	volatile long double third = 1;
	struct guest *g = *state;

	third /= 3;
	guest_long(g);
	guest_execute(g, code_x87_status);
	assert_int_equal(g->s.gpr[PART_RAX] & 0xffff, 7 << 11);
	assert_true(third > 0);
}

/* ---- delivery in long mode ---- */

#define HANDLER_AT 0x9000u
GUEST(code_handler, 64, "pop %rax; pop %rbx; pop %rcx; pop %rdx; pop %rsi; pop %rdi; hlt");

static void with_handler(struct guest *g, unsigned vector, unsigned dpl, unsigned ist)
{
	guest_load(g, HANDLER_AT, code_handler, (size_t)(code_handler_end - code_handler));
	guest_gate(g, vector, HANDLER_AT, dpl, ist);
}

GUEST(code_ud, 64, "nop; ud2");

static void frame_of_a_fault_from_user(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_user(g);
	with_handler(g, UD, 0, 0);
	g->s.rflags = 0x202;
	GUEST_LOAD(g, code_ud);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], GUEST_CODE + 1);
	assert_int_equal(g->s.gpr[PART_RBX], SEL_UCODE64);
	assert_int_equal(g->s.gpr[PART_RCX], 0x10202); /* RF is set for a fault */
	assert_int_equal(g->s.gpr[PART_RDX], GUEST_USTACK);
	assert_int_equal(g->s.gpr[PART_RSI], SEL_UDATA);
	assert_int_equal(g->s.seg[PART_SS].selector, 0);
	assert_int_equal(g->s.seg[PART_CS].selector, SEL_CODE64);
	assert_int_equal(g->s.rflags & 0x10300, 0);
}

GUEST(code_gp, 64, "nop; mov %eax, %ds");

static void frame_with_an_error_code_aligns_the_stack(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	with_handler(g, GP, 0, 1);
	g->s.gpr[PART_RAX] = 0x100;
	g->s.gpr[PART_RSP] = GUEST_STACK - 5;
	GUEST_LOAD(g, code_gp);
	guest_run(g, 3, true); /* nop, the fault, one pop */
	assert_int_equal(g->s.gpr[PART_RAX], 0x100);
	assert_int_equal(g->s.gpr[PART_RSP], GUEST_STACK - 0x800 - 40);
	assert_int_equal(guest_read(g, GUEST_STACK - 0x800 - 16, 8), GUEST_STACK - 5);
}

GUEST(code_int, 64, "int $0x40; hlt");

static void int_checks_the_gate(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_user(g);
	with_handler(g, 0x40, 0, 0);
	with_handler(g, GP, 0, 0);
	GUEST_LOAD(g, code_int);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], 0x40 * 8 + 2); /* error code of #GP */
	assert_int_equal(g->s.gpr[PART_RBX], GUEST_CODE);

	guest_long(g);
	guest_user(g);
	with_handler(g, 0x40, 3, 0);
	guest_run(g, 100, true);
	assert_int_equal(g->s.gpr[PART_RAX], GUEST_CODE + 2);
	assert_int_equal(g->s.gpr[PART_RCX] & 0x10000, 0);
}

static void absent_gate(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	with_handler(g, UD, 0, 0);
	with_handler(g, NP, 0, 0);
	guest_write(g, GUEST_IDT + UD * 16 + 5, 0x0e, 1);
	GUEST_LOAD(g, code_ud);
	guest_run(g, 100, true);
	assert_int_equal(g->s.gpr[PART_RAX], UD * 8 + 3); /* IDT and EXT */
}

/* #PF on the stack while delivering #GP: a contributory one and a page fault make #DF; its own
 * stack by IST. */
static void double_fault(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_set_pte(g, 0x6000, 0);
	with_handler(g, GP, 0, 0);
	with_handler(g, PF, 0, 0);
	with_handler(g, DF, 0, 1);
	guest_write(g, GUEST_TSS + 36, 0x50000, 8);
	g->s.gpr[PART_RSP] = 0x6800;
	g->s.gpr[PART_RAX] = 0x100;
	GUEST_LOAD(g, code_gp);
	guest_run(g, 100, true);
	/* #GP: pushing gives #PF, whose delivery faults again: #DF */
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], 0);
	assert_int_equal(g->s.gpr[PART_RBX], GUEST_CODE + 1);
	assert_int_equal(g->s.cr2, 0x67f8);
}

static void triple_fault(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	g->s.idt_limit = 0;
	GUEST_LOAD(g, code_ud);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_SHUTDOWN);
}

/* A handler that is no address: of #GP, so that its own delivery fails twice; then of another. */
static void handlers_that_can_not_be(void **state)
{
	const uint64_t nowhere = UINT64_C(0x800000000000);
	struct guest *g = *state;

	guest_long(g);
	with_handler(g, GP, 0, 0);
	guest_gate(g, UD, nowhere, 0, 0);
	GUEST_LOAD(g, code_ud);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], 1); /* EXT; nothing of #UD is on the stack */
	assert_int_equal(g->s.gpr[PART_RBX], GUEST_CODE + 1);
	assert_int_equal(g->s.gpr[PART_RSI], GUEST_STACK);

	guest_long(g);
	guest_gate(g, GP, nowhere, 0, 0);
	guest_gate(g, DF, nowhere, 0, 0);
	g->s.gpr[PART_RAX] = 0x100;
	GUEST_LOAD(g, code_gp);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_SHUTDOWN);
}

/* ---- IRET, SYSCALL ---- */

GUEST(code_iret, 64,
      "push %rsi\n" /* SS */
      "push %rdi\n" /* RSP */
      "push $0x3002\n"
      "push %rbx\n" /* CS */
      "push %rcx\n" /* RIP */
      "iretq");

static void iret_to(struct guest *g, uint16_t cs, uint16_t ss)
{
	guest_long(g);
	g->s.gpr[PART_RSI] = ss;
	g->s.gpr[PART_RDI] = GUEST_USTACK;
	g->s.gpr[PART_RBX] = cs;
	g->s.gpr[PART_RCX] = GUEST_CODE + 0x100;
	guest_write(g, GUEST_CODE + 0x100, 0xf4, 1);
	guest_execute(g, code_iret);
}

static void iret_to_user(void **state)
{
	struct guest *g = *state;

	iret_to(g, SEL_UCODE64, SEL_UDATA);
	expect(g, GP, 0, GUEST_CODE + 0x100); /* HLT there */
	assert_int_equal(g->s.seg[PART_CS].selector, SEL_UCODE64);
	assert_int_equal(g->s.gpr[PART_RSP], GUEST_USTACK);
	assert_int_equal(g->s.rflags, 0x3002);
	/* compatibility mode */
	iret_to(g, SEL_UCODE32, SEL_UDATA);
	expect(g, GP, 0, GUEST_CODE + 0x100);
	assert_true(g->s.seg[PART_CS].attributes & BIT(14));
	/* data segments that user code may not see are gone */
	assert_int_equal(g->s.seg[PART_DS].selector, 0);
}

static void iret_refuses(void **state)
{
	struct guest *g = *state;

	iret_to(g, SEL_UCODE64, SEL_DATA);
	assert_int_equal(g->result.vector, GP);
	assert_int_equal(g->result.error, SEL_DATA & ~3);
	assert_int_equal(g->s.gpr[PART_RSP], GUEST_STACK - 40); /* restartable */
	iret_to(g, SEL_DATA, SEL_DATA);
	assert_int_equal(g->result.error, SEL_DATA);
	iret_to(g, 0, SEL_UDATA);
	assert_int_equal(g->result.error, 0);
}

GUEST(code_syscall, 64, "nop; syscall; hlt");
GUEST(code_msrs, 64,
      "mov $0xc0000081, %ecx; mov $0, %eax; mov $0x00200008, %edx; wrmsr\n"
      "mov $0xc0000082, %ecx; mov $0x9000, %eax; mov $0, %edx; wrmsr\n"
      "mov $0xc0000084, %ecx; mov $0x601, %eax; mov $0, %edx; wrmsr\n"
      "hlt");
GUEST(code_sysret, 64, "sysretq");

static void syscall_and_sysret(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	guest_execute(g, code_msrs);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	g->s.halted = false;
	g->s.rip = GUEST_CODE;
	guest_user(g);
	g->s.rflags = 0x603;
	guest_load(g, HANDLER_AT, code_sysret, (size_t)(code_sysret_end - code_sysret));
	GUEST_LOAD(g, code_syscall);
	guest_run(g, 2, false);
	assert_int_equal(g->result.reason, SOFTCPU_COUNT);
	assert_int_equal(g->s.rip, HANDLER_AT);
	assert_int_equal(g->s.gpr[PART_RCX], GUEST_CODE + 3);
	assert_int_equal(g->s.gpr[11], 0x603);
	assert_int_equal(g->s.rflags, 2);
	assert_int_equal(g->s.seg[PART_CS].selector, 8);
	assert_int_equal(g->s.seg[PART_SS].selector, 0x10);
	guest_run(g, 1, false);
	assert_int_equal(g->s.rip, GUEST_CODE + 3);
	assert_int_equal(g->s.seg[PART_CS].selector, 0x33);
	assert_int_equal(g->s.seg[PART_SS].selector, 0x2b);
	assert_int_equal(g->s.rflags, 0x603);
}

/* ---- 32-bit protected mode ---- */

GUEST(code_handler32, 32, "pop %eax; pop %ebx; pop %ecx; pop %edx; pop %esi; hlt");
GUEST(code_ud32, 32, "nop; ud2");

static void delivery_32(void **state)
{
	struct guest *g = *state;

	guest_protected(g);
	guest_user(g);
	guest_write(g, GUEST_TSS + 4, GUEST_STACK, 4);
	guest_write(g, GUEST_TSS + 8, SEL_DATA, 4);
	guest_load(g, HANDLER_AT, code_handler32, (size_t)(code_handler32_end - code_handler32));
	guest_gate32(g, UD, HANDLER_AT, 0);
	GUEST_LOAD(g, code_ud32);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RAX], GUEST_CODE + 1);
	assert_int_equal(g->s.gpr[PART_RBX], SEL_UCODE32);
	assert_int_equal(g->s.gpr[PART_RDX], GUEST_USTACK);
	assert_int_equal(g->s.gpr[PART_RSI], SEL_UDATA);
	assert_int_equal(g->s.gpr[PART_RSP], GUEST_STACK);
	assert_int_equal(g->s.seg[PART_SS].selector, SEL_DATA);
}

/* Limits and types of segments. */
GUEST(code_limit, 32, "mov (%ebx), %eax; hlt");
GUEST(code_limit_write, 32, "mov %eax, (%ebx); hlt");

static void segment_limit(void **state)
{
	struct guest *g = *state;

	guest_protected(g);
	g->s.seg[PART_DS] = (struct part_segment){ GUEST_DATA, 0xfff, 0x50, 0x4093 };
	guest_write(g, GUEST_DATA + 0xffc, 0x12345678, 4);
	g->s.gpr[PART_RBX] = 0xffc;
	guest_execute(g, code_limit);
	assert_int_equal(g->s.gpr[PART_RAX], 0x12345678);
	g->s.rip = GUEST_CODE;
	g->s.halted = false;
	g->s.gpr[PART_RBX] = 0xffd;
	guest_execute(g, code_limit);
	expect(g, GP, 0, GUEST_CODE);
	/* expand down: the other side of the limit */
	g->s.seg[PART_DS].attributes = 0x4097;
	g->s.gpr[PART_RBX] = 0x1000;
	guest_execute(g, code_limit);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	g->s.rip = GUEST_CODE;
	g->s.halted = false;
	g->s.gpr[PART_RBX] = 0xfff;
	guest_execute(g, code_limit);
	expect(g, GP, 0, GUEST_CODE);
	/* read-only */
	g->s.seg[PART_DS] = (struct part_segment){ GUEST_DATA, 0xfff, 0x50, 0x4091 };
	g->s.gpr[PART_RBX] = 0;
	guest_execute(g, code_limit_write);
	expect(g, GP, 0, GUEST_CODE);
}

static void code_limit_check(void **state)
{
	struct guest *g = *state;

	guest_protected(g);
	g->s.seg[PART_CS].limit = GUEST_CODE; /* the first byte only */
	guest_execute(g, code_ud32);
	expect(g, GP, 0, GUEST_CODE + 1);
	g->s.seg[PART_CS].limit = GUEST_CODE + 1; /* ends in the middle of ud2 */
	g->s.rip = GUEST_CODE;
	guest_execute(g, code_ud32);
	expect(g, GP, 0, GUEST_CODE + 1);
}

/* ---- single step, shadows ---- */

/* Each trap notes where it came from; a load of SS lets none happen behind it. */
GUEST(code_db_handler, 64,
      "push %rax; push %rbx; mov 16(%rsp), %rax; mov 0x10000, %rbx; mov %rax, 0x10008(,%rbx,8)\n"
      "incq 0x10000; pop %rbx; pop %rax; iretq");
GUEST(code_stepped, 64,
      "pushfq; orl $0x100, (%rsp); popfq\n" /* 9 bytes */
      "nop; mov %ss, %eax; mov %eax, %ss; nop; nop\n"
      "pushfq; andl $~0x100, (%rsp); popfq\n"
      "nop; hlt");

static void step_through(struct guest *g, const uint8_t *code, const uint8_t *end,
			 const uint8_t *offsets, unsigned count)
{
	guest_long(g);
	guest_load(g, HANDLER_AT, code_db_handler, (size_t)(code_db_handler_end - code_db_handler));
	guest_gate(g, DB, HANDLER_AT, 0, 0);
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(guest_read(g, GUEST_DATA, 8), count);
	for (unsigned i = 0; i < count; i++)
		assert_int_equal(guest_read(g, GUEST_DATA + 8 + i * 8, 8), GUEST_CODE + offsets[i]);
}

static void single_step(void **state)
{
	static const uint8_t offsets[] = { 10, 12, 15, 16, 17, 24, 25 };

	step_through(*state, code_stepped, code_stepped_end, offsets, ARRAY_SIZE(offsets));
}

/* A repeated instruction traps after each element. */
GUEST(code_elements, 64,
      "mov $0x11000, %edi; mov $3, %ecx\n" /* 10 bytes */
      "pushfq; orl $0x100, (%rsp); popfq\n"
      "rep stosb\n"
      "pushfq; andl $~0x100, (%rsp); popfq\n"
      "hlt");

static void single_step_of_elements(void **state)
{
	static const uint8_t offsets[] = { 19, 19, 21, 22, 29, 30 };

	step_through(*state, code_elements, code_elements_end, offsets, ARRAY_SIZE(offsets));
}

/* ---- modes: from real mode to long mode and back to compatibility mode ---- */

GUEST(code_boot, 16,
      "cli; xor %ax, %ax; mov %ax, %ds\n"
      "mov $0x1234, %bx; mov %bx, %es; mov %es, %cx\n"
      "lgdtl 0x9f00\n"
      "mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
      "ljmpl $0x18, $0x8000 + (1f - code_boot)\n"
      ".code32\n"
      "1: mov $0x10, %eax; mov %eax, %ds; mov %eax, %ss; mov %eax, %es; mov $0x7000, %esp\n"
      "push $0x55aa; pop %edi\n"
      "mov $0x20, %eax; mov %eax, %cr4; mov $0x100000, %eax; mov %eax, %cr3\n"
      "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr\n"
      "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
      "ljmpl $0x08, $0x8000 + (2f - code_boot)\n"
      ".code64\n"
      "2: mov $0x1122334455667788, %rsi\n"
      "push $0x18; lea 3f(%rip), %rax; push %rax; lretq\n"
      ".code32\n"
      "3: mov $-1, %eax; inc %edx\n"
      "hlt");

static void real_mode_to_long_mode(void **state)
{
	struct guest *g = *state;
	static const struct __attribute__((packed)) {
		uint16_t limit;
		uint32_t base;
	} gdtr = { 0x57, GUEST_GDT };

	guest_real(g);
	guest_load(g, 0x9f00, &gdtr, sizeof(gdtr));
	GUEST_LOAD(g, code_boot);
	guest_run(g, 1000, false);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RBX] & 0xffff, 0x1234);
	assert_int_equal(g->s.gpr[PART_RDI], 0x55aa);
	assert_int_equal(g->s.gpr[PART_RSI], 0x1122334455667788);
	assert_int_equal(g->s.gpr[PART_RAX], 0xffffffff);
	assert_int_equal(g->s.efer, 0x500);
	assert_int_equal(g->s.seg[PART_CS].selector, 0x18);
}

/* Real mode interrupts through the vector table at 0. */
GUEST(code_real_int, 16,
      "mov $0x6000, %sp; push $0; popf; int $0x21; hlt\n"
      ".fill 0x100 - (. - code_real_int), 1, 0x90\n"
      "mov %sp, %bp; mov (%bp), %ax; mov $0x77, %bl; iret");

static void real_mode_interrupt(void **state)
{
	struct guest *g = *state;

	guest_real(g);
	guest_write(g, 0x21 * 4, GUEST_CODE + 0x100, 4);
	GUEST_LOAD(g, code_real_int);
	guest_run(g, 100, true);
	assert_int_equal(g->result.reason, SOFTCPU_HALTED);
	assert_int_equal(g->s.gpr[PART_RBX] & 0xff, 0x77);
	assert_int_equal(g->s.gpr[PART_RSP] & 0xffff, 0x6000);
	assert_int_equal(g->s.gpr[PART_RAX] & 0xffff, GUEST_CODE + 8);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(divide_by_zero),
		T(divide_overflow),
		T(signed_divide_overflow),
		T(signed_divide_byte_overflow),
		T(undefined),
		T(breakpoint),
		T(software_interrupt),
		T(vex),
		T(xgetbv),
		T(vmmcall),
		T(monitor),
		T(unknown_msr_read),
		T(unknown_msr_write),
		T(sysenter_without_cs),
		T(cr4_reserved),
		T(cr4_pae_off),
		T(cr0_paging_off),
		T(cr0_high),
		T(cr8_high),
		T(cr1),
		T(dr4_with_de),
		T(stack_non_canonical),
		T(rbp_non_canonical),
		T(jump_non_canonical),
		T(cmpxchg16b_misaligned),
		T(movaps_misaligned),
		T(sse_without_osfxsr),
		T(sse_with_ts),
		T(x87_with_em),
		T(wait_with_ts),
		T(bad_selector),
		T(null_stack),
		T(code_as_stack),
		T(absent_segment),
		T(lock_on_register),
		T(rdfsbase_off),
		T(too_long),
		T(user_hlt),
		T(user_cli),
		T(user_sti),
		T(user_in),
		T(user_out),
		T(user_ins),
		T(user_rdmsr),
		T(user_wrmsr),
		T(user_mov_from_cr),
		T(user_mov_to_cr),
		T(user_mov_dr),
		T(user_lgdt),
		T(user_lidt),
		T(user_lldt),
		T(user_ltr),
		T(user_clts),
		T(user_lmsw),
		T(user_invlpg),
		T(user_wbinvd),
		T(user_swapgs),
		T(user_sysret),
		T(hypercalls_need_privilege),
		T(port_bitmap),
		T(alignment_check),
		T(frame_of_a_fault_from_user),
		T(frame_with_an_error_code_aligns_the_stack),
		T(int_checks_the_gate),
		T(absent_gate),
		T(double_fault),
		T(handlers_that_can_not_be),
		T(triple_fault),
		T(iret_to_user),
		T(iret_refuses),
		T(syscall_and_sysret),
		T(delivery_32),
		T(hosts_x87_exceptions),
		T(segment_limit),
		T(code_limit_check),
		T(single_step),
		T(single_step_of_elements),
		T(real_mode_to_long_mode),
		T(real_mode_interrupt),
	};

	return cmocka_run_group_tests_name("softcpu-exceptions", tests, NULL, NULL);
}
