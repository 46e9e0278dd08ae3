#include "direct.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct direct_state direct_state;

/* No case knows this page, see nothing_mapped() in generate.c. */
#define EXIT_DISTANCE 0x80000u
static uint64_t exit_address;

/* Of direct_enter()'s frame. */
__attribute__((used)) static uint64_t home_rsp;
__attribute__((used)) static const uint32_t default_mxcsr = 0x1f80;

_Static_assert(offsetof(struct direct_state, rip) == 128, "as below");
_Static_assert(offsetof(struct direct_state, rflags) == 136, "as below");
_Static_assert(offsetof(struct direct_state, xsave) == 192, "as below");

/* RSP is home_rsp. Compiled code expects this of flags and vectors. */
#define TO_C_CODE                                                                                  \
	"pushq $2\n\t"                                                                             \
	"popfq\n\t"                                                                                \
	"fninit\n\t"                                                                               \
	"ldmxcsr default_mxcsr(%rip)\n\t"                                                          \
	"vzeroupper\n\t"

#define RETURN                                                                                     \
	"popq %r15\n\t"                                                                            \
	"popq %r14\n\t"                                                                            \
	"popq %r13\n\t"                                                                            \
	"popq %r12\n\t"                                                                            \
	"popq %rbp\n\t"                                                                            \
	"popq %rbx\n\t"                                                                            \
	"ret\n\t"

__attribute__((naked)) bool direct_enter(void)
{
	__asm__("pushq %rbx\n\t"
		"pushq %rbp\n\t"
		"pushq %r12\n\t"
		"pushq %r13\n\t"
		"pushq %r14\n\t"
		"pushq %r15\n\t"
		"movq %rsp, home_rsp(%rip)\n\t"
		"leaq direct_state(%rip), %rdi\n\t"
		"movl $7, %eax\n\t"
		"xorl %edx, %edx\n\t"
		"xrstor64 192(%rdi)\n\t"
		"pushq 136(%rdi)\n\t"
		"popfq\n\t"
		"movq (%rdi), %rax\n\t"
		"movq 8(%rdi), %rcx\n\t"
		"movq 16(%rdi), %rdx\n\t"
		"movq 24(%rdi), %rbx\n\t"
		"movq 32(%rdi), %rsp\n\t"
		"movq 40(%rdi), %rbp\n\t"
		"movq 48(%rdi), %rsi\n\t"
		"movq 64(%rdi), %r8\n\t"
		"movq 72(%rdi), %r9\n\t"
		"movq 80(%rdi), %r10\n\t"
		"movq 88(%rdi), %r11\n\t"
		"movq 96(%rdi), %r12\n\t"
		"movq 104(%rdi), %r13\n\t"
		"movq 112(%rdi), %r14\n\t"
		"movq 120(%rdi), %r15\n\t"
		"movq 56(%rdi), %rdi\n\t"
		"jmpq *128+direct_state(%rip)");
}

/* Behind the code. */
__attribute__((naked)) static void come_out(void)
{
	__asm__("movq %rdi, 56+direct_state(%rip)\n\t"
		"leaq direct_state(%rip), %rdi\n\t"
		"movq %rax, (%rdi)\n\t"
		"movq %rcx, 8(%rdi)\n\t"
		"movq %rdx, 16(%rdi)\n\t"
		"movq %rbx, 24(%rdi)\n\t"
		"movq %rsp, 32(%rdi)\n\t"
		"movq %rbp, 40(%rdi)\n\t"
		"movq %rsi, 48(%rdi)\n\t"
		"movq %r8, 64(%rdi)\n\t"
		"movq %r9, 72(%rdi)\n\t"
		"movq %r10, 80(%rdi)\n\t"
		"movq %r11, 88(%rdi)\n\t"
		"movq %r12, 96(%rdi)\n\t"
		"movq %r13, 104(%rdi)\n\t"
		"movq %r14, 112(%rdi)\n\t"
		"movq %r15, 120(%rdi)\n\t"
		"movq home_rsp(%rip), %rsp\n\t"
		"pushfq\n\t"
		"popq 136(%rdi)\n\t"
		"movl $7, %eax\n\t"
		"xorl %edx, %edx\n\t"
		"xsave64 192(%rdi)\n\t" TO_C_CODE "movl $1, %eax\n\t" RETURN);
}

__attribute__((naked)) void direct_leave(void)
{
	__asm__("movq home_rsp(%rip), %rsp\n\t" TO_C_CODE "xorl %eax, %eax\n\t" RETURN);
}

bool direct_is_possible(void)
{
	return __builtin_cpu_supports("avx");
}

void direct_map(uint64_t code)
{
	/* To what the 8 bytes at offset 8 say: cases may check alignment. */
	static const uint8_t jump[] = { 0xff, 0x25, 2, 0, 0, 0, 0, 0 };
	uint64_t destination = (uintptr_t)come_out;
	uint8_t *page;

	exit_address = code + EXIT_DISTANCE;
	page = mmap((void *)(uintptr_t)exit_address, 4096, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (page == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	memcpy(page, jump, sizeof(jump));
	memcpy(page + sizeof(jump), &destination, 8);
	mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

void direct_jump(uint64_t address, uint8_t ret[DIRECT_JUMP_SIZE])
{
	uint32_t distance = (uint32_t)(exit_address - (address + DIRECT_JUMP_SIZE));

	ret[0] = 0xe9;
	memcpy(ret + 1, &distance, 4);
}
