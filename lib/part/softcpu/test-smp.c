/* Two VPs on one memory; interrupts against instructions. */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <ucontext.h>

#include <cmocka.h>

#define ROUNDS 50000

static int setup(void **state)
{
	*state = guest_new(2);
	return 0;
}

static int teardown(void **state)
{
	guest_free(*state);
	return 0;
}

/* VP 1 starts like VP 0, at rip with a stack of its own. */
static void second_vp(struct guest *g, uint64_t rip)
{
	struct part_vp_state s = g->s;

	s.rip = rip;
	s.gpr[PART_RSP] = GUEST_STACK - 0x1000;
	part_vp_set_state(g->part, 1, &s);
}

/* ---- locked instructions ---- */

#define LOCK_BODY(insns)                                                                           \
	"mov $50000, %ecx\n"                                                                       \
	"1: " insns "\n"                                                                           \
	"dec %ecx; jnz 1b\n"                                                                       \
	"lock incl 0x10100\n" /* the last one to come here finds 2 */                              \
	"2: cmpl $2, 0x10100; pause; jne 2b\n"                                                     \
	"cli; hlt"

GUEST(code_lock_add, 64, LOCK_BODY("lock addl $1, 0x10000"));
GUEST(code_xadd, 64, LOCK_BODY("mov $1, %eax; lock xadd %eax, 0x10000"));
GUEST(code_cmpxchg, 64,
      LOCK_BODY("3: mov 0x10000, %eax; lea 1(%rax), %edx; lock cmpxchg %edx, 0x10000; jne 3b"));
GUEST(code_cmpxchg16b, 64,
      LOCK_BODY("3: mov 0x10000, %rax; mov 0x10008, %rdx; lea 1(%rax), %rbx; push %rcx\n"
		"xor %ecx, %ecx; lock cmpxchg16b 0x10000; pop %rcx; jne 3b"));
GUEST(code_spinlock, 64,
      LOCK_BODY("3: mov $1, %al; xchg %al, 0x10200; test %al, %al; jnz 3b\n"
		"incl 0x10000; movb $0, 0x10200"));
/* across a page: no single host instruction can do it */
GUEST(code_split, 64, LOCK_BODY("lock addl $1, 0x11ffe"));

static void count_together(struct guest *g, const uint8_t *code, const uint8_t *end, uint64_t at)
{
	guest_long(g);
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	second_vp(g, GUEST_CODE);
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(guest_read(g, at, 4), 2 * ROUNDS);
}

#define COUNT_TEST(name, at)                                                                       \
	static void name(void **state)                                                             \
	{                                                                                          \
		count_together(*state, code_##name, code_##name##_end, at);                        \
	}

COUNT_TEST(lock_add, 0x10000)
COUNT_TEST(xadd, 0x10000)
COUNT_TEST(cmpxchg, 0x10000)
COUNT_TEST(cmpxchg16b, 0x10000)
COUNT_TEST(spinlock, 0x10000)
COUNT_TEST(split, 0x11ffe)

/* ---- code that one VP writes and the other executes ---- */

/* VP 0 writes an immediate, then asks VP 1 for a round; VP 1 must see the new one. */
GUEST(code_writer, 64,
      "xor %ecx, %ecx\n"
      "1: inc %ecx\n"
      "mov %ecx, 0x9001\n"
      "mov %ecx, 0x10000\n"
      "2: cmp %ecx, 0x10004; pause; jne 2b\n"
      "mov 0x10008, %eax; cmp %ecx, %eax; jne 3f\n"
      "cmp $2000, %ecx; jne 1b\n"
      "3: cli; hlt");
GUEST(code_runner, 64,
      "xor %edx, %edx\n"
      "1: inc %edx\n"
      "2: cmp %edx, 0x10000; pause; jne 2b\n"
      "mov $0x9000, %esi; call *%rsi\n"
      "mov %eax, 0x10008\n"
      "mov %edx, 0x10004\n"
      "jmp 1b");
GUEST(code_patched, 64, "mov $0, %eax; ret");

static void cross_modified_code(void **state)
{
	struct guest *g = *state;

	guest_long(g);
	GUEST_LOAD(g, code_writer);
	guest_load(g, 0x9000, code_patched, (size_t)(code_patched_end - code_patched));
	guest_load(g, 0xa000, code_runner, (size_t)(code_runner_end - code_runner));
	second_vp(g, 0xa000);
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(g->s.gpr[PART_RCX], 2000);
	assert_int_equal(g->s.gpr[PART_RAX], 2000);
}

/* ---- interrupts ---- */

GUEST(code_irq_handler, 64,
      "push %rax; mov 8(%rsp), %rax; mov %rax, 0x10000; incl 0x10008\n"
      "mov $0xfee000b0, %eax; movl $0, (%rax); pop %rax; iretq");

static void with_apic(struct guest *g)
{
	guest_long(g);
	/* the APIC's page at its own address, by a 2 MiB page in the fourth GiB */
	guest_write(g, GUEST_PDPT + 3 * 8, 0x106000 | 7, 8);
	guest_write(g, 0x106000 + (0xfee00000 >> 21 & 511) * 8, 0xfee00000 | 0x87, 8);
	guest_load(g, 0x9000, code_irq_handler, (size_t)(code_irq_handler_end - code_irq_handler));
	guest_gate(g, 0x50, 0x9000, 0, 0);
}

/* An interrupt to itself is pending when IF is set: it comes behind the instruction after STI. */
GUEST(code_shadow, 64,
      "mov $0xfee00000, %ebx; movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0x44050, 0x300(%rbx)\n" /* ICR: self, vector 0x50 */
      "sti\n"
      "1: nop\n"
      "2: nop; nop\n"
      "cli; lea 2b(%rip), %rdx; hlt");

static void interrupt_shadow(void **state)
{
	struct guest *g = *state;

	with_apic(g);
	GUEST_LOAD(g, code_shadow);
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(guest_read(g, 0x10008, 4), 1);
	assert_int_equal(guest_read(g, 0x10000, 8), g->s.gpr[PART_RDX]);
}

/* STI; HLT never sleeps over an interrupt that came before, wherever the block ends. */
GUEST(code_sti_hlt, 64,
      "mov $0xfee00000, %ebx; movl $0x1ff, 0xf0(%rbx); mov $2000, %ecx\n"
      "1: cli\n"
      "movl $0x44050, 0x300(%rbx)\n"
      "jmp 2f\n"
      ".fill 0xfff - (. - code_sti_hlt), 1, 0x90\n"
      "2: sti\n" /* the last byte of a page */
      "hlt\n"
      "dec %ecx; jnz 1b\n"
      "cli; hlt");

static void sti_hlt(void **state)
{
	struct guest *g = *state;

	with_apic(g);
	/* not over the handler, not over data */
	guest_load(g, 0x20000, code_sti_hlt, (size_t)(code_sti_hlt_end - code_sti_hlt));
	g->s.rip = 0x20000;
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(guest_read(g, 0x10008, 4), 2000);
}

/* A long REP is interrupted, and goes on. */
GUEST(code_long_rep, 64,
      "mov $0xfee00000, %ebx; movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0xb, 0x3e0(%rbx); movl $0x50, 0x320(%rbx)\n"
      "sti\n"
      "movl $20000, 0x380(%rbx)\n" /* 100 us */
      "mov $0x30000, %edi; mov $0x100000000, %rcx; xor %eax, %eax\n"
      "1: scasb\n"
      "2: cmpl $0, 0x10008; jne 3f\n"
      "mov $0x10000, %ecx; mov $0x30000, %edi; rep stosb; jmp 2b\n"
      "3: cli; hlt");

static void interrupt_in_a_repeated_instruction(void **state)
{
	struct guest *g = *state;

	with_apic(g);
	GUEST_LOAD(g, code_long_rep);
	assert_true(guest_start_and_wait_halt(g));
	assert_int_equal(guest_read(g, 0x10008, 4), 1);
}

/* A timer ends HLT in time. */
GUEST(code_timer, 64,
      "mov $0xfee00000, %ebx; movl $0x1ff, 0xf0(%rbx)\n"
      "movl $0xb, 0x3e0(%rbx); movl $0x50, 0x320(%rbx)\n"
      "mov $50, %ecx\n"
      "1: movl $200000, 0x380(%rbx)\n" /* 1 ms */
      "sti; hlt; cli\n"
      "dec %ecx; jnz 1b; hlt");

static void timer_ends_hlt(void **state)
{
	struct guest *g = *state;
	struct timespec a, b;
	uint64_t ms;

	with_apic(g);
	GUEST_LOAD(g, code_timer);
	clock_gettime(CLOCK_MONOTONIC, &a);
	assert_true(guest_start_and_wait_halt(g));
	clock_gettime(CLOCK_MONOTONIC, &b);
	ms = (uint64_t)((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000);
	assert_int_equal(guest_read(g, 0x10008, 4), 50);
	assert_in_range(ms, 49, 20000);
}

/* ---- signals ---- */

#define SIGNALS 5

static struct {
	struct guest *guest;
	_Atomic unsigned elsewhere, in_translations;
} signalled;

static bool inside(const void *start, size_t size, uint64_t address)
{
	return address - (uintptr_t)start < size;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	struct vp *vp = softcpu_vp(signalled.guest->part, 0);

	if (!inside(vp->signal_stack, sizeof(vp->signal_stack), (uintptr_t)&uc))
		atomic_fetch_add(&signalled.elsewhere, 1);
	if (inside(vp->returns, sizeof(vp->returns), (uint64_t)uc->uc_mcontext.gregs[REG_RSP]))
		atomic_fetch_add(&signalled.in_translations, 1);
}

/* Signals to the VP's thread until enough of them interrupted translated code, then lets it halt.
 */
static void *send_signals(void *arg)
{
	struct guest *g = arg;
	struct timespec ms = { 0, 1000000 };

	while (!guest_read(g, 0x10004, 4))
		nanosleep(&ms, NULL);
	for (unsigned i = 0; i < 10000 && atomic_load(&signalled.in_translations) < SIGNALS; i++) {
		pthread_kill(softcpu_vp(g->part, 0)->thread, SIGUSR1);
		nanosleep(&ms, NULL);
	}
	guest_write(g, 0x10000, 1, 4);
	return NULL;
}

GUEST(code_wait, 64, "1: incl 0x10004; cmpl $0, 0x10000; je 1b; cli; hlt");

static void signals_have_a_stack(void **state)
{
	struct sigaction action = { .sa_sigaction = on_signal,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	struct guest *g = *state;
	struct sigaction before;
	pthread_t sender;

	signalled.guest = g;
	sigaction(SIGUSR1, &action, &before);
	guest_long(g);
	GUEST_LOAD(g, code_wait);
	assert_int_equal(pthread_create(&sender, NULL, send_signals, g), 0);
	assert_true(guest_start_and_wait_halt(g));
	pthread_join(sender, NULL);
	sigaction(SIGUSR1, &before, NULL);
	assert_in_range(signalled.in_translations, SIGNALS, UINT32_MAX);
	assert_int_equal(signalled.elsewhere, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(lock_add),
		T(xadd),
		T(cmpxchg),
		T(cmpxchg16b),
		T(spinlock),
		T(split),
		T(cross_modified_code),
		T(interrupt_shadow),
		T(sti_hlt),
		T(interrupt_in_a_repeated_instruction),
		T(timer_ends_hlt),
		T(signals_have_a_stack),
	};

	return cmocka_run_group_tests_name("softcpu-smp", tests, NULL, NULL);
}
