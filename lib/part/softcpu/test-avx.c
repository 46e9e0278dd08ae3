/*
 * AVX as a guest's system turns it on, XSAVE and XRSTOR, and what is refused. What the instructions
 * compute is tests/cpu's.
 */
#include "base/macros.h"
#include "part/softcpu/cpu.h"
#include "part/softcpu/test-guest.h"

#include <immintrin.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static int setup(void **state)
{
	struct guest *g = guest_new(1);

	guest_long(g);
	*state = g;
	return 0;
}

static bool has_avx(struct guest *g)
{
	return softcpu_vp(g->part, 0)->vm->has[HOSTOP_FEATURE_AVX];
}

#define ENABLE                                                                                     \
	"mov %cr4, %rax; or $0x40000, %eax; mov %rax, %cr4\n"                                      \
	"xor %ecx, %ecx; xor %edx, %edx; mov $7, %eax; xsetbv\n"

/* Registers through memory, while a loop has them translated. */
GUEST(code_state, 64,
      "mov $0xd, %eax; xor %ecx, %ecx; cpuid; mov %ebx, %r8d\n" ENABLE
      "mov $0xd, %eax; xor %ecx, %ecx; cpuid; mov %ebx, %r9d\n"
      "mov $1, %eax; cpuid; mov %ecx, %r10d; shr $27, %r10d; and $1, %r10d\n"
      "xor %ecx, %ecx; xgetbv; mov %eax, %r11d\n"
      "fninit; mov $0x10000, %ebx; mov $0x11000, %esi; mov $20, %r12d\n"
      "1: vmovups (%rbx), %ymm0; vpaddd %ymm0, %ymm0, %ymm9; vperm2i128 $1, %ymm9, %ymm9, %ymm3\n"
      "movaps %xmm0, %xmm9; fld1\n" /* the upper half stays */
      "mov $-1, %eax; mov $-1, %edx; xsave64 (%rsi)\n"
      "vzeroall; fninit; vmovups %ymm9, 0x20(%rbx)\n"
      "mov $7, %eax; xor %edx, %edx; xrstor64 (%rsi)\n"
      "vmovups %ymm9, 0x40(%rbx); vmovups %ymm3, 0x60(%rbx); fstpl 0x80(%rbx)\n"
      "mov $4, %eax; xrstor (%rsi); mov $2, %eax; vzeroupper; vmovups %ymm9, 0xa0(%rbx)\n"
      "paddd (%rbx), %xmm0; movups %xmm0, (%rbx)\n"
      "dec %r12d; jnz 1b; mov 512(%rsi), %r13; hlt\n");

static void registers_through_memory(void **state)
{
	struct guest *g = *state, *interpreted = guest_interpreted();
	uint64_t zero[4] = { 0 }, at[4];

	if (!has_avx(g))
		skip();
	softcpu_tune(g->part, 0, 2, false);
	for (unsigned i = 0; i < 4; i++) {
		guest_write(g, GUEST_DATA + 8 * i, 0x1111111122222222u * (i + 1), 8);
		guest_write(interpreted, GUEST_DATA + 8 * i, 0x1111111122222222u * (i + 1), 8);
	}
	GUEST_LOAD(g, code_state);
	GUEST_LOAD(interpreted, code_state);
	assert_true(guest_start_and_wait_halt(g));
	assert_true(guest_start_and_wait_halt(interpreted));
	guest_assert_same(g, interpreted);
	assert_int_equal(g->s.gpr[8], 576);
	assert_int_equal(g->s.gpr[9], 832);
	assert_int_equal(g->s.gpr[10], 1);
	assert_int_equal(g->s.gpr[11], 7);
	assert_int_equal(g->s.gpr[13], 7);
	mem_read(g->mem, GUEST_DATA + 0x20, at, sizeof(at));
	assert_memory_equal(at, zero, sizeof(at));
	mem_read(g->mem, GUEST_DATA + 0x50, at, 16); /* twice what is there */
	assert_int_equal(at[0], 0x1111111122222222u * 3 * 2 & 0xffffffffffffffff);
	guest_free(interpreted);
}

/* ---- what is refused ---- */

GUEST(code_xgetbv, 64, "xor %ecx, %ecx; xgetbv; hlt");
GUEST(code_avx_off, 64, "vxorps %ymm0, %ymm0, %ymm0; hlt");
GUEST(code_sse_only, 64,
      "mov %cr4, %rax; or $0x40000, %eax; mov %rax, %cr4; xor %ecx, %ecx; xor %edx, %edx; mov $3, "
      "%eax; xsetbv; vxorps %ymm0, %ymm0, %ymm0; hlt");
GUEST(code_xsave_off, 64, "mov $0x11000, %esi; xsave (%rsi); hlt");
GUEST(code_osxsave, 64, "mov %cr4, %rax; or $0x40000, %eax; mov %rax, %cr4; hlt");
GUEST(code_no_x87, 64, ENABLE "mov $6, %eax; xsetbv; hlt");
GUEST(code_no_sse, 64, ENABLE "mov $5, %eax; xsetbv; hlt");
GUEST(code_unknown, 64, ENABLE "mov $0xf, %eax; xsetbv; hlt");
GUEST(code_xcr1, 64, ENABLE "mov $1, %ecx; xgetbv; hlt");
GUEST(code_misaligned, 64, ENABLE "mov $0x11020, %esi; xsave (%rsi); hlt");
GUEST(code_beyond, 64, ENABLE "mov $0x11000, %esi; movq $8, 512(%rsi); xrstor (%rsi); hlt");
GUEST(code_header, 64, ENABLE "mov $0x11000, %esi; movq $1, 528(%rsi); xrstor (%rsi); hlt");
GUEST(code_compact, 64, ENABLE "mov $0x11000, %esi; movb $0x80, 527(%rsi); xrstor (%rsi); hlt");
GUEST(code_mxcsr, 64, ENABLE "mov $0x11000, %esi; movl $0x10000, 24(%rsi); xrstor (%rsi); hlt");
GUEST(code_lazy, 64,
      ENABLE "mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; vxorps %ymm0, %ymm0, %ymm0; hlt");
GUEST(code_lazy_xsave, 64,
      ENABLE "mov %cr0, %rax; or $8, %eax; mov %rax, %cr0; mov $0x11000, %esi; xsave (%rsi); hlt");
GUEST(code_gather, 64, ENABLE "vpgatherdd %ymm1, (%rsi,%ymm2), %ymm3; hlt");
/* The same with ymm3 as mask, too. */
GUEST(code_gather_same, 64, ENABLE ".byte 0xc4, 0xe2, 0x65, 0x90, 0x1c, 0x16; hlt");

/* From g->s. vector: 0: it comes to its HLT. */
static void expect_from(struct guest *g, const uint8_t *code, const uint8_t *end, unsigned vector)
{
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	guest_run(g, 100, false);
	assert_int_equal(g->result.reason, vector ? SOFTCPU_EXCEPTION : SOFTCPU_HALTED);
	if (vector)
		assert_int_equal(g->result.vector, vector);
}

static void expect(struct guest *g, const uint8_t *code, const uint8_t *end, unsigned vector)
{
	guest_long(g);
	expect_from(g, code, end, vector);
}

#define EXPECT(g, name, vector) expect(g, name, name##_end, vector)

static void what_is_refused(void **state)
{
	struct guest *g = *state;

	if (!has_avx(g))
		skip();
	EXPECT(g, code_xgetbv, VEC_UD);
	EXPECT(g, code_avx_off, VEC_UD);
	EXPECT(g, code_xsave_off, VEC_UD);
	EXPECT(g, code_osxsave, 0);
	EXPECT(g, code_sse_only, VEC_UD);
	EXPECT(g, code_no_x87, VEC_GP);
	EXPECT(g, code_no_sse, VEC_GP);
	EXPECT(g, code_unknown, VEC_GP);
	EXPECT(g, code_xcr1, VEC_GP);
	EXPECT(g, code_misaligned, VEC_GP);
	EXPECT(g, code_beyond, VEC_GP);
	guest_write(g, 0x11200, 0, 8);
	EXPECT(g, code_header, VEC_GP);
	guest_write(g, 0x11210, 0, 8);
	EXPECT(g, code_compact, VEC_GP);
	guest_write(g, 0x11208, 0, 8);
	EXPECT(g, code_mxcsr, VEC_GP);
	EXPECT(g, code_lazy, VEC_NM);
	EXPECT(g, code_lazy_xsave, VEC_NM);
}

/* A gather's three vectors are different ones: Zydis knows, or we do. */
static void gather_of_one_register(void **state)
{
	struct guest *g = *state;

	if (!has_avx(g))
		skip();
	EXPECT(g, code_gather, 0);
	EXPECT(g, code_gather_same, VEC_UD);
}

GUEST(code_halves, 64, "vcvtph2ps (%rbx), %xmm0; vcvtps2ph $0, %xmm0, (%rbx); hlt");
GUEST(code_doubles, 64, "vcvtps2pd (%rbx), %xmm0; hlt");

/* Elements that the mask doesn't name may lie behind a segment's limit, and gathered ones. */
GUEST(code_limit, 32,
      "vpcmpeqd %xmm1, %xmm1, %xmm1; vpsrldq $12, %xmm1, %xmm1\n" /* the first one */
      "vmaskmovps 0x10ffc, %xmm1, %xmm0; vmaskmovps %xmm0, %xmm1, 0x10ffc\n"
      "vpxor %xmm2, %xmm2, %xmm2; mov $0x10ffc, %eax\n"
      "vmovdqa %xmm1, %xmm3; vpgatherdd %xmm3, (%eax,%xmm2), %xmm4; hlt");
GUEST(code_load_behind, 32, "vpcmpeqd %xmm1, %xmm1, %xmm1; vmaskmovps 0x10ffc, %xmm1, %xmm0; hlt");
GUEST(code_store_behind, 32, "vpcmpeqd %xmm1, %xmm1, %xmm1; vmaskmovps %xmm0, %xmm1, 0x10ffc; hlt");
GUEST(code_gather_behind, 32,
      "vpcmpeqd %xmm1, %xmm1, %xmm1; vpxor %xmm2, %xmm2, %xmm2; mov $0x10ffd, %eax\n"
      "vpgatherdd %xmm1, (%eax,%xmm2), %xmm4; hlt");

static void expect_limited(struct guest *g, const uint8_t *code, const uint8_t *end,
			   unsigned vector)
{
	guest_protected(g);
	g->s.cr4 |= CR4_OSXSAVE;
	g->s.seg[PART_DS].limit = 0x10fff;
	part_vp_set_state(g->part, 0, &g->s);
	softcpu_enable_avx(g->part, 0);
	expect_from(g, code, end, vector);
}

static void limits_are_of_what_is_named(void **state)
{
	struct guest *g = *state;

	if (!has_avx(g))
		skip();
	expect_limited(g, code_limit, code_limit_end, 0);
	expect_limited(g, code_load_behind, code_load_behind_end, VEC_GP);
	expect_limited(g, code_store_behind, code_store_behind_end, VEC_GP);
	expect_limited(g, code_gather_behind, code_gather_behind_end, VEC_GP);
}

/* Of user code, with alignment checking; HLT is not allowed there. */
static unsigned fault_from_user(struct guest *g, const uint8_t *code, const uint8_t *end,
				uint64_t address)
{
	guest_long(g);
	guest_user(g);
	g->s.cr0 |= CR0_AM;
	g->s.cr4 |= CR4_OSXSAVE;
	g->s.rflags |= RF_AC;
	g->s.gpr[PART_RBX] = address;
	softcpu_enable_avx(g->part, 0);
	guest_load(g, GUEST_CODE, code, (size_t)(end - code));
	guest_run(g, 100, false);
	assert_int_equal(g->result.reason, SOFTCPU_EXCEPTION);
	return g->result.vector;
}

/* As Intel's processors do, within a page and across. */
static void halves_need_no_alignment(void **state)
{
	const uint64_t at[] = { GUEST_DATA + 1, GUEST_DATA + MEM_PAGE_SIZE - 3 };
	struct guest *g = *state;
	const struct sc_vm *vm = softcpu_vp(g->part, 0)->vm;

	if (!has_avx(g) || !vm->has[HOSTOP_FEATURE_F16C])
		skip();
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
		assert_int_equal(fault_from_user(g, code_doubles, code_doubles_end, at[i]), VEC_AC);
		assert_int_equal(fault_from_user(g, code_halves, code_halves_end, at[i]),
				 vm->amd ? VEC_AC : VEC_GP);
	}
}

/* A guest that all hosts shall be able to run. */
static void compatible_guests_have_none(void **state)
{
	struct guest *g;

	guest_compatible = true;
	g = guest_new(1);
	guest_compatible = false;
	EXPECT(g, code_osxsave, VEC_GP);
	EXPECT(g, code_xgetbv, VEC_UD);
	EXPECT(g, code_xsave_off, VEC_UD);
	EXPECT(g, code_avx_off, VEC_UD);
	guest_free(g);
}

/* ---- the image ---- */

#define IMAGE_BYTES 8192u /* more than any processor's */

static __attribute__((target("xsave"))) void processor_moves(uint8_t *from, uint8_t *to)
{
	uint32_t mxcsr = _mm_getcsr();

	_xrstor64(from, HOSTOP_XCR0_ALL);
	_xsave64(to, HOSTOP_XCR0_ALL);
	__asm__ volatile("fninit; vzeroupper");
	_mm_setcsr(mxcsr);
}

/* AMD's processors keep FOP, FIP and FDP only while an x87 exception is pending (APM volume 2,
 * 11.4.4). */
static void leave_out_pointers(const uint8_t *ours, uint8_t *theirs)
{
	static const uint8_t none[18];

	if (memcmp(theirs + 6, none, sizeof(none)) == 0)
		memcpy(theirs + 6, ours + 6, sizeof(none));
}

/* The processor loads what hostop stores, and stores the same again; hostop loads that. */
static void image_is_the_processors(void **state)
{
	static _Alignas(64) uint8_t ours[IMAGE_BYTES], theirs[IMAGE_BYTES];
	struct hostop_regs regs = { .fpu = { .fcw = 0x27f,
					     .fsw = 0x2800,
					     .ftw = 0x5a,
					     .fop = 0x123,
					     .fip = 0x123456789a,
					     .fdp = 0x23456789ab,
					     .mxcsr = 0x1fa5 } },
			   back;

	if (!has_avx(*state))
		skip();
	for (unsigned i = 0; i < 16; i++) {
		memset(regs.fpu.xmm[i], (int)i + 1, 16);
		memset(regs.ymm_high[i], (int)i + 0x81, 16);
	}
	for (unsigned i = 0; i < 8; i++)
		memset(regs.fpu.st[i], (int)i + 0x40, 10);
	hostop_xsave(&regs, ours, HOSTOP_XCR0_ALL, true, false);
	processor_moves(ours, theirs);
	memcpy(theirs + 28, ours + 28, 4); /* MXCSR_MASK is each processor's */
	leave_out_pointers(ours, theirs);
	assert_memory_equal(ours, theirs, HOSTOP_XSAVE_BYTES);
	memset(&back, 0, sizeof(back));
	assert_true(hostop_xrstor(&back, theirs, HOSTOP_XCR0_ALL, HOSTOP_XCR0_ALL, true, false));
	assert_memory_equal(back.fpu.xmm, regs.fpu.xmm, sizeof(regs.fpu.xmm));
	assert_memory_equal(back.ymm_high, regs.ymm_high, sizeof(regs.ymm_high));
	assert_memory_equal(back.fpu.st, regs.fpu.st, sizeof(regs.fpu.st));
	assert_int_equal(back.fpu.fsw, regs.fpu.fsw);
	assert_int_equal(back.fpu.fip, regs.fpu.fip);
	assert_int_equal(back.fpu.mxcsr, regs.fpu.mxcsr);
}

/* A state of another VP. */
static void context_has_it(void **state)
{
	struct part_vp_context context;
	struct guest *g = *state, *other;
	struct error err;

	if (!has_avx(g))
		skip();
	softcpu_enable_avx(g->part, 0);
	memset(softcpu_ymm_high(g->part, 0)[7], 0x5a, 16);
	part_vp_get_context(g->part, 0, &context);
	assert_int_equal(context.fpu.xcr0, 7);
	other = guest_new(1);
	assert_int_equal(part_vp_set_context(other->part, 0, &context, &err), 0);
	assert_true(softcpu_vp(other->part, 0)->avx_on);
	assert_memory_equal(softcpu_ymm_high(other->part, 0), softcpu_ymm_high(g->part, 0), 256);
	guest_free(other);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, guest_teardown)
	const struct CMUnitTest tests[] = {
		T(registers_through_memory), T(what_is_refused),
		T(gather_of_one_register),   T(limits_are_of_what_is_named),
		T(halves_need_no_alignment), cmocka_unit_test(compatible_guests_have_none),
		T(image_is_the_processors),  T(context_has_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
