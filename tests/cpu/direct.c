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

/* All but RDI, which is the address of direct_state. */
#define REGISTERS(MOVE)                                                                            \
	MOVE(rax, 0)                                                                               \
	MOVE(rcx, 8)                                                                               \
	MOVE(rdx, 16)                                                                              \
	MOVE(rbx, 24)                                                                              \
	MOVE(rsp, 32)                                                                              \
	MOVE(rbp, 40)                                                                              \
	MOVE(rsi, 48)                                                                              \
	MOVE(r8, 64)                                                                               \
	MOVE(r9, 72)                                                                               \
	MOVE(r10, 80)                                                                              \
	MOVE(r11, 88)                                                                              \
	MOVE(r12, 96)                                                                              \
	MOVE(r13, 104)                                                                             \
	MOVE(r14, 112)                                                                             \
	MOVE(r15, 120)
#define LOAD(reg, at)  "movq " #at "(%rdi), %" #reg "\n\t"
#define STORE(reg, at) "movq %" #reg ", " #at "(%rdi)\n\t"
#define LOAD_ALL       REGISTERS(LOAD)
#define STORE_ALL      REGISTERS(STORE)

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
		"popfq\n\t" LOAD_ALL "movq 56(%rdi), %rdi\n\t"
		"jmpq *128+direct_state(%rip)");
}

/* Behind the code. */
__attribute__((naked)) static void come_out(void)
{
	__asm__("movq %rdi, 56+direct_state(%rip)\n\t"
		"leaq direct_state(%rip), %rdi\n\t" STORE_ALL "movq home_rsp(%rip), %rsp\n\t"
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
