/*
 * Test guests: flat code, copied to GUEST_CODE. Each is a pair of symbols, guest_NAME and
 * guest_NAME_end. They write what they find to GUEST_RESULT and end with GUEST_PORT_DONE.
 */
#include "test-part-guest.h"

#define APIC 0xFEE00000

	.section .rodata

.macro guest name
	.global guest_\name
	.balign 16
guest_\name:
.endm
.macro guest_end name
	.global guest_\name\()_end
guest_\name\()_end:
.endm
/* Handlers lie at multiples of GUEST_HANDLER_SIZE. */
.macro handler number
	.org guest_handlers + \number * GUEST_HANDLER_SIZE, 0xCC
.endm
.macro done
	out %al, $GUEST_PORT_DONE
1:	cli
	hlt
	jmp 1b
.endm
.macro apic_enable
	mov $APIC, %ebx
	movl $0x1FF, 0xF0(%rbx)
.endm

	.code64
guest handlers
	handler GUEST_HANDLER_GP /* steps over RDMSR and WRMSR */
	incl GUEST_RESULT + GUEST_COUNT_GP
	addq $8, %rsp
	addq $2, (%rsp)
	iretq
	handler GUEST_HANDLER_UD
	incl GUEST_RESULT + GUEST_COUNT_UD
	mov (%rsp), %rax
	mov %rax, GUEST_RESULT
	done
	handler GUEST_HANDLER_NMI
	incl GUEST_RESULT + GUEST_COUNT_NMI
	out %al, $GUEST_PORT_NOTE
	iretq
	handler GUEST_HANDLER_EOI
	push %rax
	incl GUEST_RESULT + GUEST_COUNT_IRQ
	mov $APIC + 0xB0, %eax
	movl $0, (%rax)
	out %al, $GUEST_PORT_NOTE
	pop %rax
	iretq
	handler GUEST_HANDLER_NO_EOI
	incl GUEST_RESULT + GUEST_COUNT_IRQ
	out %al, $GUEST_PORT_NOTE
	iretq
guest_end handlers

guest pio
	mov $GUEST_PORT_TEST, %dx
	mov $0x12, %al
	out %al, %dx
	mov $0x3456, %ax
	out %ax, %dx
	mov $0x789ABCDE, %eax
	out %eax, %dx
	mov $-1, %rax
	in %dx, %al
	mov %rax, GUEST_RESULT
	mov $-1, %rax
	in %dx, %ax
	mov %rax, GUEST_RESULT + 8
	mov $-1, %rax
	in %dx, %eax
	mov %rax, GUEST_RESULT + 16
	lea pio_text(%rip), %rsi
	mov $5, %ecx
	rep outsb
	mov $GUEST_RESULT + 0x20, %edi
	mov $3, %ecx
	rep insw
	mov %rdi, GUEST_RESULT + 0x18
	done
pio_text:
	.ascii "oyako"
guest_end pio

guest mmio
	mov $GUEST_MMIO, %ebx
	movb $0x11, 1(%rbx)
	movw $0x2222, 2(%rbx)
	movl $0x33333333, 4(%rbx)
	mov $0x4444444444444444, %rax
	mov %rax, 8(%rbx)
	movzbl 1(%rbx), %eax
	mov %rax, GUEST_RESULT
	movzwl 2(%rbx), %eax
	mov %rax, GUEST_RESULT + 8
	mov 4(%rbx), %eax
	mov %rax, GUEST_RESULT + 16
	mov 8(%rbx), %rax
	mov %rax, GUEST_RESULT + 24
	done
guest_end mmio

/* Looks at the address in GUEST_RESULT + 8 until the value of GUEST_RESULT + 16 is there, then writes
 * what follows it to GUEST_RESULT, and puts a value of its own there. */
guest poll
	mov GUEST_RESULT + 8, %rdi
	mov GUEST_RESULT + 16, %rsi
1:	mov (%rdi), %rax
	cmp %rsi, %rax
	jne 1b
	mov 8(%rdi), %rax
	mov %rax, GUEST_RESULT
	movq $0x1234, 16(%rdi)
	done
guest_end poll

guest msr
	mov $0x40000002, %ecx
	rdmsr
	mov %eax, GUEST_RESULT
	mov %edx, GUEST_RESULT + 4
	mov $0x400010FF, %ecx
	mov $0x89ABCDEF, %eax
	mov $0x01234567, %edx
	wrmsr
	mov $0x40000FFF, %ecx /* both are refused */
	rdmsr
	wrmsr
	done
guest_end msr

guest cpuid
	mov $GUEST_RESULT, %edi
	lea cpuid_leaves(%rip), %rsi
1:	mov (%rsi), %eax
	xor %ecx, %ecx
	cmp $-1, %eax
	je 2f
	cpuid
	mov %eax, (%rdi)
	mov %ebx, 4(%rdi)
	mov %ecx, 8(%rdi)
	mov %edx, 12(%rdi)
	add $16, %rdi
	add $4, %rsi
	jmp 1b
2:	done
cpuid_leaves:
	.long 0, 1, 0xB, 0x40000000, 0x40000001, 0x40000100, 0x80000001, 0x80000008, -1
guest_end cpuid

guest hypercall64
	mov $0x0123456789ABCDEF, %rcx
	mov $0x1111222233334444, %rdx
	mov $0x5555666677778888, %r8
	mov $GUEST_HYPERCALL, %eax
	call *%rax
	mov %rax, GUEST_RESULT
	mov %rcx, GUEST_RESULT + 8
	mov %rsp, GUEST_RESULT + 16
	done
guest_end hypercall64

	.code32
guest hypercall32
	mov $0x01234567, %edx
	mov $0x89ABCDEF, %eax
	mov $0x11112222, %ebx
	mov $0x33334444, %ecx
	mov $0x55556666, %edi
	mov $0x77778888, %esi
	mov $GUEST_HYPERCALL, %ebp
	call *%ebp
	mov %eax, GUEST_RESULT
	mov %edx, GUEST_RESULT + 4
	mov %esp, GUEST_RESULT + 8
	done
guest_end hypercall32

	.code64
guest hypercall_user
	mov $0x0001005D, %ecx
	mov $GUEST_HYPERCALL, %eax
	call *%rax
	done
guest_end hypercall_user

/* Waits for interrupts for ever; takes the PIC's through LINT0. */
guest wait
	apic_enable
	movl $0x700, 0x350(%rbx)
	out %al, $GUEST_PORT_NOTE
	sti
1:	hlt
	jmp 1b
guest_end wait

/* The same in x2APIC mode: the handlers for it write no EOI. */
guest wait_x2apic
	mov $0x1B, %ecx
	rdmsr
	or $0xC00, %eax
	wrmsr
	mov $0x80F, %ecx
	mov $0x1FF, %eax
	xor %edx, %edx
	wrmsr
	out %al, $GUEST_PORT_NOTE
	sti
1:	hlt
	jmp 1b
guest_end wait_x2apic

/* Hyper-V's MSRs for ICR, EOI and TPR: interrupts itself twice; the second one waits for the EOI. */
guest apic_msrs
	apic_enable
	sti
	mov $0x40000071, %ecx
	mov $0x40080, %eax /* vector 0x80, to itself; its handler writes no EOI */
	xor %edx, %edx
	wrmsr
	nop
	mov $0x40080, %eax
	wrmsr
	nop
	mov GUEST_RESULT + GUEST_COUNT_IRQ, %eax
	mov %eax, GUEST_RESULT
	mov $0x40000070, %ecx
	xor %eax, %eax
	wrmsr
	nop
	mov GUEST_RESULT + GUEST_COUNT_IRQ, %eax
	mov %eax, GUEST_RESULT + 4
	mov $0x40000072, %ecx
	mov $0x50, %eax
	wrmsr
	mov 0x80(%rbx), %eax
	mov %eax, GUEST_RESULT + 8
	movl $0x20, 0x80(%rbx)
	rdmsr
	mov %eax, GUEST_RESULT + 12
	cli
	done
guest_end apic_msrs

/* Works without a pause: memory, ports, MMIO. */
guest busy
	mov $GUEST_MMIO, %ebx
	mov $GUEST_PORT_TEST, %dx
	xor %ecx, %ecx
1:	incq GUEST_RESULT
	inc %ecx
	test $0xFF, %ecx
	jnz 1b
	in %dx, %eax
	cmp $0x5A5A5A5A, %eax
	jne 2f
	mov (%rbx), %eax
	cmp $0x5A5A5A5A, %eax
	jne 2f
	jmp 1b
2:	done
guest_end busy

guest dirty
	movb $1, GUEST_DATA + 0x3000
	movb $1, GUEST_DATA + 0x7FFF
	done
guest_end dirty

guest tsc
	rdtsc
	mov %eax, GUEST_RESULT
	mov %edx, GUEST_RESULT + 4
	done
guest_end tsc

guest tsc_set
	xor %eax, %eax
	xor %edx, %edx
	mov $0x10, %ecx /* IA32_TSC */
	wrmsr
	rdtsc
	mov %eax, GUEST_RESULT
	mov %edx, GUEST_RESULT + 4
	done
guest_end tsc_set

guest triple_fault
	lidt no_idt(%rip)
	int3
no_idt:
	.quad 0, 0
guest_end triple_fault

/* INIT and two SIPIs to APIC id 1. */
guest start_ap
	apic_enable
	movl $1 << 24, 0x310(%rbx)
	movl $0x4500, 0x300(%rbx)
	mov $100000, %ecx
1:	pause
	loop 1b
	movl $1 << 24, 0x310(%rbx)
	movl $0x4600 | GUEST_AP_VECTOR, 0x300(%rbx)
	mov $100000, %ecx
1:	pause
	loop 1b
	movl $1 << 24, 0x310(%rbx)
	movl $0x4600 | GUEST_AP_VECTOR, 0x300(%rbx)
1:	hlt
	jmp 1b
guest_end start_ap

	.code16
guest ap
	mov %cs, %ax
	mov %ax, %bx
	mov $GUEST_RESULT >> 4, %ax
	mov %ax, %ds
	mov %bx, 0
	movw $0x1234, 2
	done
guest_end ap

	.code64
/* The local APIC's timer: one shot, divide by 1, vector 0x50; how long it took by the TSC. */
guest timer
	apic_enable
	movl $0xB, 0x3E0(%rbx)
	movl $0x50, 0x320(%rbx)
	rdtsc
	mov %eax, GUEST_RESULT
	mov %edx, GUEST_RESULT + 4
	movl $50000000, 0x380(%rbx)
	sti
1:	hlt
	cmpl $0, GUEST_RESULT + GUEST_COUNT_IRQ
	je 1b
	rdtsc
	mov %eax, GUEST_RESULT + 8
	mov %edx, GUEST_RESULT + 12
	done
guest_end timer

/* TSC deadline mode. */
guest deadline
	apic_enable
	movl $0x40050, 0x320(%rbx)
	mfence
	rdtsc
	mov %eax, GUEST_RESULT
	mov %edx, GUEST_RESULT + 4
	add $50000000, %eax
	adc $0, %edx
	mov $0x6E0, %ecx
	wrmsr
	sti
1:	hlt
	cmpl $0, GUEST_RESULT + GUEST_COUNT_IRQ
	je 1b
	rdtsc
	mov %eax, GUEST_RESULT + 8
	mov %edx, GUEST_RESULT + 12
	done
guest_end deadline

	.section .note.GNU-stack, "", @progbits
