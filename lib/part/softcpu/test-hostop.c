/*
 * What the differential tester (tests/cpu) doesn't see: the descriptions of instructions, formats
 * of other modes, exceptions in detail, threads. That results are right is its business.
 */
#include "part/softcpu/hostop.h"
#include "part/softcpu/zydis.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#define CODE(...) ((const uint8_t[]){ __VA_ARGS__ }), sizeof((const uint8_t[]){ __VA_ARGS__ })

struct rig {
	struct hostop_arena *arena;
	struct hostop_regs regs;
	_Alignas(64) uint8_t mem[512];
	struct hostop op;
};

static struct rig the_rig;

static int setup(void **state)
{
	memset(&the_rig, 0, sizeof(the_rig));
	hostop_fpu_reset(&the_rig.regs.fpu);
	the_rig.regs.fpu.fcw = 0x37f;
	the_rig.regs.fpu.ftw = 0;
	*state = &the_rig;
	return hostop_arena_new(&the_rig.arena, NULL);
}

static int teardown(void **state)
{
	hostop_arena_free(the_rig.arena);
	return 0;
}

static bool prepare_in(struct rig *rig, ZydisMachineMode mode, const uint8_t *code, size_t length)
{
	ZydisStackWidth stack = mode == ZYDIS_MACHINE_MODE_LONG_64     ? ZYDIS_STACK_WIDTH_64
				: mode == ZYDIS_MACHINE_MODE_LEGACY_32 ? ZYDIS_STACK_WIDTH_32
								       : ZYDIS_STACK_WIDTH_16;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	ZydisDecoder decoder;

	ZydisDecoderInit(&decoder, mode, stack);
	assert_true(ZYAN_SUCCESS(zydis_decode(&decoder, code, length, &insn, operands)));
	assert_int_equal(insn.length, length);
	return hostop_prepare(rig->arena, &insn, operands, &rig->op);
}

static bool prepare(struct rig *rig, const uint8_t *code, size_t length)
{
	return prepare_in(rig, ZYDIS_MACHINE_MODE_LONG_64, code, length);
}

static unsigned run(struct rig *rig, const uint8_t *code, size_t length)
{
	assert_true(prepare(rig, code, length));
	return hostop_run(&rig->op, &rig->regs, rig->mem);
}

static unsigned run_in(struct rig *rig, ZydisMachineMode mode, const uint8_t *code, size_t length)
{
	assert_true(prepare_in(rig, mode, code, length));
	return hostop_run(&rig->op, &rig->regs, rig->mem);
}

static void set_double(struct rig *rig, unsigned xmm, double value)
{
	memcpy(rig->regs.fpu.xmm[xmm], &value, 8);
}

static double get_double(const struct rig *rig, unsigned xmm)
{
	double value;

	memcpy(&value, rig->regs.fpu.xmm[xmm], 8);
	return value;
}

static void test_descriptions(void **state)
{
	struct rig *rig = *state;

	assert_true(prepare(rig, CODE(0x0f, 0x28, 0x00))); /* movaps xmm0, [rax] */
	assert_int_equal(rig->op.mem_size, 16);
	assert_int_equal(rig->op.mem_align, 16);
	assert_int_equal(rig->op.mem_access, HOSTOP_MEM_READ);
	assert_int_equal(rig->op.unit, HOSTOP_SSE);
	assert_int_equal(rig->op.feature, HOSTOP_FEATURE_SSE);
	assert_true(prepare(rig, CODE(0xf3, 0x0f, 0x7f, 0x00))); /* movdqu [rax], xmm0 */
	assert_int_equal(rig->op.mem_align, 1);
	assert_int_equal(rig->op.mem_access, HOSTOP_MEM_WRITE);
	assert_int_equal(rig->op.feature, HOSTOP_FEATURE_SSE2);
	assert_true(prepare(rig, CODE(0x66, 0x0f, 0x2e, 0xc1))); /* ucomisd xmm0, xmm1 */
	assert_int_equal(rig->op.mem_size, 0);
	assert_int_equal(rig->op.flags_written, 0x8d5);
	assert_int_equal(rig->op.flags_read, 0);
	assert_true(prepare(rig, CODE(0xda, 0xc1))); /* fcmovb */
	assert_int_equal(rig->op.flags_read, 1);
	assert_int_equal(rig->op.unit, HOSTOP_X87);
	assert_true(rig->op.waits);
	assert_true(prepare(rig, CODE(0xdf, 0xe0))); /* fnstsw ax */
	assert_false(rig->op.waits);
	assert_true(prepare(rig, CODE(0xd9, 0x18))); /* fstp: nothing is written at times */
	assert_int_equal(rig->op.mem_access, HOSTOP_MEM_READ | HOSTOP_MEM_WRITE);
	assert_true(prepare(rig, CODE(0x0f, 0x2d, 0xc1))); /* cvtps2pi mm0, xmm1 */
	assert_int_equal(rig->op.unit, HOSTOP_SSE_MMX);
	assert_true(prepare(rig, CODE(0xf0, 0x48, 0x0f, 0xc7, 0x08))); /* lock cmpxchg16b */
	assert_true(rig->op.locked);
	assert_int_equal(rig->op.mem_align, 16);
}

static void test_not_ours(void **state)
{
	struct rig *rig = *state;

	assert_false(prepare(rig, CODE(0xf7, 0xf1)));                         /* div ecx */
	assert_false(prepare(rig, CODE(0x0f, 0x18, 0x08)));                   /* prefetcht0 */
	assert_false(prepare(rig, CODE(0x0f, 0xae, 0xe8)));                   /* lfence */
	assert_false(prepare(rig, CODE(0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1))); /* vaddps zmm */
	assert_false(prepare(rig, CODE(0xc4, 0xe2, 0x71, 0x2c, 0x03)));       /* vmaskmovps */
	assert_false(prepare(rig, CODE(0xc4, 0xe2, 0x69, 0x90, 0x04, 0x0b))); /* vpgatherdd */
	assert_false(prepare(rig, CODE(0x0f, 0xae, 0x23)));                   /* xsave */
	assert_false(prepare(rig, CODE(0x50)));                               /* push rax */
	assert_false(prepare(rig, CODE(0x0f, 0x05)));                         /* syscall */
	assert_false(prepare(rig, CODE(0xa4)));                               /* movsb */
	assert_false(prepare(rig, CODE(0x0f, 0xa3, 0x08)));                   /* bt [rax], ecx */
	assert_false(prepare(rig, CODE(0x05, 1, 2, 3, 4)));                   /* add eax, imm32 */
	assert_false(prepare(rig, CODE(0x0f, 0x20, 0xc0)));                   /* mov rax, cr0 */
}

static void test_high_byte_registers(void **state)
{
	struct rig *rig = *state;

	rig->regs.gpr[0] = 0x1122334455667788;
	rig->regs.gpr[1] = 0xaabbccddeeff0011;
	run(rig, CODE(0x00, 0xcc)); /* add ah, cl */
	assert_int_equal(rig->regs.gpr[0], 0x1122334455668888);
	run(rig, CODE(0x0f, 0xb6, 0xc4)); /* movzx eax, ah */
	assert_int_equal(rig->regs.gpr[0], 0x88);
}

static void test_unmasked_simd_exception(void **state)
{
	struct rig *rig = *state;
	uint32_t mxcsr = HOSTOP_MXCSR_RESET & ~(1u << 9); /* divide by zero */

	rig->regs.fpu.mxcsr = mxcsr;
	set_double(rig, 0, 3);
	set_double(rig, 1, 0);
	assert_int_equal(run(rig, CODE(0xf2, 0x0f, 0x5e, 0xc1)), 19); /* divsd xmm0, xmm1 */
	assert_true(get_double(rig, 0) == 3);
	assert_int_equal(rig->regs.fpu.mxcsr, mxcsr | 1 << 2);
	/* A comparison leaves the flags alone, too. */
	rig->regs.fpu.mxcsr = HOSTOP_MXCSR_RESET & ~(1u << 7);
	memset(rig->regs.fpu.xmm[1], 0xff, 16);
	rig->regs.rflags = 0x246;
	assert_int_equal(run(rig, CODE(0x66, 0x0f, 0x2f, 0xc1)), 19); /* comisd */
	assert_int_equal(rig->regs.rflags, 0x246);
	/* Masked ones only leave their mark. */
	rig->regs.fpu.mxcsr = HOSTOP_MXCSR_RESET;
	assert_int_equal(run(rig, CODE(0x66, 0x0f, 0x2f, 0xc1)), 0);
	assert_int_equal(rig->regs.fpu.mxcsr, HOSTOP_MXCSR_RESET | 1);
	assert_int_equal(rig->regs.rflags, 0x247);
}

static void test_rounding_stays_the_guests(void **state)
{
	struct rig *rig = *state;
	volatile double third = 1.0, three = 3.0;

	rig->regs.fpu.mxcsr = HOSTOP_MXCSR_RESET | 2u << 13; /* up */
	set_double(rig, 0, 1);
	set_double(rig, 1, 3);
	assert_int_equal(run(rig, CODE(0xf2, 0x0f, 0x5e, 0xc1)), 0);
	third /= three;
	assert_true(get_double(rig, 0) > third);
	assert_true(third == 1.0 / 3.0);
}

static void test_pending_x87_exception(void **state)
{
	struct rig *rig = *state;

	rig->regs.fpu.fcw = 0x37b;                       /* divide by zero unmasked */
	assert_int_equal(run(rig, CODE(0xd9, 0xe8)), 0); /* fld1 */
	assert_int_equal(run(rig, CODE(0xd9, 0xee)), 0); /* fldz */
	rig->regs.rip = 0x1000;
	assert_int_equal(run(rig, CODE(0xde, 0xf9)), 0); /* fdivp: sets ES */
	assert_int_equal(rig->regs.fpu.fsw & 0x80, 0x80);
	assert_int_equal(rig->regs.fpu.fip, 0x1000);
	assert_int_equal(rig->regs.fpu.fop, 0x6f9);
	assert_true(prepare(rig, CODE(0xd9, 0xe8)));
	assert_true(hostop_x87_fault(&rig->op, &rig->regs));
	assert_int_equal(run(rig, CODE(0xd9, 0xe8)), 16);
	assert_int_equal(run(rig, CODE(0x0f, 0xfc, 0xc1)), 16); /* paddb mm0, mm1 */
	assert_int_equal(run(rig, CODE(0x9b)), 16);
	assert_int_equal(run(rig, CODE(0xdf, 0xe0)), 0); /* fnstsw doesn't wait */
	assert_int_equal(rig->regs.gpr[0] & 4, 4);
	assert_int_equal(run(rig, CODE(0xdb, 0xe2)), 0); /* fnclex */
	assert_int_equal(run(rig, CODE(0x9b)), 0);
}

static void test_mxcsr_reserved_bits(void **state)
{
	struct rig *rig = *state;
	uint32_t bad = 0x10000 | HOSTOP_MXCSR_RESET;

	memcpy(rig->mem, &bad, 4);
	assert_int_equal(run(rig, CODE(0x0f, 0xae, 0x10)), 13); /* ldmxcsr [rax] */
	assert_int_equal(rig->regs.fpu.mxcsr, HOSTOP_MXCSR_RESET);
	memset(rig->mem, 0, 512);
	memcpy(rig->mem + 24, &bad, 4);
	rig->regs.fpu.fcw = 0x27f;
	assert_int_equal(run(rig, CODE(0x0f, 0xae, 0x08)), 13); /* fxrstor [rax] */
	assert_int_equal(rig->regs.fpu.fcw, 0x27f);
}

static void test_fxsave_of_32_bit_code(void **state)
{
	struct rig *rig = *state;

	memset(rig->regs.fpu.xmm, 0x11, sizeof(rig->regs.fpu.xmm));
	memset(rig->mem, 0xee, sizeof(rig->mem));
	run_in(rig, ZYDIS_MACHINE_MODE_LEGACY_32, CODE(0x0f, 0xae, 0x00));
	assert_int_equal(rig->mem[160 + 8 * 16 - 1], 0x11);
	assert_int_equal(rig->mem[160 + 8 * 16], 0xee);
	memset(rig->mem + 160, 0x22, 256);
	run_in(rig, ZYDIS_MACHINE_MODE_LEGACY_32, CODE(0x0f, 0xae, 0x08));
	assert_int_equal(rig->regs.fpu.xmm[7][0], 0x22);
	assert_int_equal(rig->regs.fpu.xmm[8][0], 0x11);
}

static uint16_t word_at(const struct rig *rig, unsigned offset)
{
	uint16_t value;

	memcpy(&value, rig->mem + offset, 2);
	return value;
}

static void test_environments(void **state)
{
	struct rig *rig = *state;
	struct hostop_fpu *fpu = &rig->regs.fpu;

	run(rig, CODE(0xd9, 0xe8)); /* fld1: into physical register 7 */
	fpu->fip = 0x12345;
	fpu->fdp = 0xabcde;
	fpu->fop = 0x123;
	memset(rig->mem, 0xee, sizeof(rig->mem));
	run_in(rig, ZYDIS_MACHINE_MODE_REAL_16, CODE(0xd9, 0x37)); /* fnstenv [bx] */
	assert_int_equal(rig->op.mem_size, 14);
	assert_int_equal(word_at(rig, 0), 0x37f);
	assert_int_equal(word_at(rig, 2), 7 << 11);
	assert_int_equal(word_at(rig, 4), 0x3fff); /* valid, the rest empty */
	assert_int_equal(word_at(rig, 6), 0x2345);
	assert_int_equal(word_at(rig, 8), 0x1123);
	assert_int_equal(word_at(rig, 10), 0xbcde);
	assert_int_equal(word_at(rig, 12), 0xa000);
	assert_int_equal(rig->mem[14], 0xee);
	fpu->fip = fpu->fdp = fpu->fop = 0;
	run_in(rig, ZYDIS_MACHINE_MODE_REAL_16, CODE(0xd9, 0x27)); /* fldenv */
	assert_int_equal(fpu->fip, 0x12345);
	assert_int_equal(fpu->fdp, 0xabcde);
	assert_int_equal(fpu->fop, 0x123);
	assert_int_equal(fpu->ftw, 0x80);
	run_in(rig, ZYDIS_MACHINE_MODE_LEGACY_32, CODE(0xd9, 0x30));
	assert_int_equal(rig->op.mem_size, 28);
	assert_int_equal(word_at(rig, 12), 0x2345);
	assert_int_equal(word_at(rig, 14), 1);
	assert_int_equal(word_at(rig, 18), 0x123);
}

static void test_fnsave_and_frstor(void **state)
{
	struct rig *rig = *state;
	struct hostop_fpu saved;

	run(rig, CODE(0xd9, 0xe8)); /* fld1 */
	run(rig, CODE(0xd9, 0xeb)); /* fldpi */
	saved = rig->regs.fpu;
	run(rig, CODE(0xdd, 0x30)); /* fnsave [rax] */
	assert_int_equal(rig->regs.fpu.ftw, 0);
	assert_int_equal(rig->regs.fpu.fsw, 0);
	run(rig, CODE(0xdd, 0x20)); /* frstor [rax] */
	assert_int_equal(rig->regs.fpu.ftw, saved.ftw);
	assert_int_equal(rig->regs.fpu.fsw, saved.fsw);
	assert_memory_equal(rig->regs.fpu.st, saved.st, sizeof(saved.st));
}

static void *prepare_many(void *user)
{
	struct rig *rig = user;
	unsigned wrong = 0;

	for (unsigned i = 0; i < 256; i++) {
		const uint8_t code[] = { 0x66, 0x0f, 0x70, 0xc1, (uint8_t)i }; /* pshufd */
		ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
		struct hostop_regs regs = { 0 };
		ZydisDecodedInstruction insn;
		ZydisDecoder decoder;
		struct hostop op;

		ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
		zydis_decode(&decoder, code, sizeof(code), &insn, operands);
		memcpy(regs.fpu.xmm[1], "aaaabbbbccccdddd", 16);
		if (!hostop_prepare(rig->arena, &insn, operands, &op) ||
		    hostop_run(&op, &regs, NULL) != 0)
			wrong++;
		for (unsigned lane = 0; lane < 4; lane++)
			wrong += regs.fpu.xmm[0][lane * 4] != "abcd"[i >> lane * 2 & 3];
	}
	return wrong ? rig : NULL;
}

static void test_threads_share_an_arena(void **state)
{
	pthread_t threads[4];
	void *failed;

	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, prepare_many, *state), 0);
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_descriptions),
		TEST(test_not_ours),
		TEST(test_high_byte_registers),
		TEST(test_unmasked_simd_exception),
		TEST(test_rounding_stays_the_guests),
		TEST(test_pending_x87_exception),
		TEST(test_mxcsr_reserved_bits),
		TEST(test_fxsave_of_32_bit_code),
		TEST(test_environments),
		TEST(test_fnsave_and_frstor),
		TEST(test_threads_share_an_arena),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
