/*
 * Which instructions there are: a table of opcodes (what firmware, kernels and compiled programs
 * execute, with its neighbours), random prefixes, ModRM, displacement and immediate. The decoder
 * says what came out, and whether that is fit to run.
 */
#include "forms.h"

#include <cpuid.h>

enum { MAP_1, MAP_0F, MAP_0F38, MAP_0F3A };

/* Prefix that selects the instruction, or a choice among them. */
enum { PLAIN, P66, PF2, PF3, P_66 /* none or 66 */, P_F2F3 /* 66 none F2 F3 */, PVEX };

struct opcodes {
	uint8_t map, first, last;
	uint8_t ext; /* set of ModRM.reg values that exist; 0: any */
	uint8_t prefix;
	uint8_t weight; /* of the whole line */
};

static const struct opcodes table[] = {
	/* arithmetic and logic, two operands */
	{ MAP_1, 0x00, 0x05, 0, PLAIN, 8 },
	{ MAP_1, 0x08, 0x0d, 0, PLAIN, 8 },
	{ MAP_1, 0x10, 0x15, 0, PLAIN, 8 },
	{ MAP_1, 0x18, 0x1d, 0, PLAIN, 8 },
	{ MAP_1, 0x20, 0x25, 0, PLAIN, 8 },
	{ MAP_1, 0x28, 0x2d, 0, PLAIN, 8 },
	{ MAP_1, 0x30, 0x35, 0, PLAIN, 8 },
	{ MAP_1, 0x38, 0x3d, 0, PLAIN, 8 },
	{ MAP_1, 0x80, 0x81, 0, PLAIN, 12 },
	{ MAP_1, 0x83, 0x83, 0, PLAIN, 12 },
	{ MAP_1, 0x84, 0x87, 0, PLAIN, 8 },
	{ MAP_1, 0xa8, 0xa9, 0, PLAIN, 2 },
	/* one operand */
	{ MAP_1, 0xf6, 0xf7, 0, PLAIN, 30 },
	{ MAP_1, 0xfe, 0xfe, 3, PLAIN, 4 },
	{ MAP_1, 0xff, 0xff, 3, PLAIN, 6 },
	{ MAP_1, 0x69, 0x69, 0, PLAIN, 3 },
	{ MAP_1, 0x6b, 0x6b, 0, PLAIN, 3 },
	{ MAP_1, 0xc0, 0xc1, 0, PLAIN, 12 },
	{ MAP_1, 0xd0, 0xd3, 0, PLAIN, 20 },
	{ MAP_1, 0x98, 0x99, 0, PLAIN, 4 },
	{ MAP_1, 0x9e, 0x9f, 0, PLAIN, 3 },
	{ MAP_1, 0xf5, 0xf5, 0, PLAIN, 1 },
	{ MAP_1, 0xf8, 0xf9, 0, PLAIN, 2 },
	{ MAP_1, 0xfc, 0xfd, 0, PLAIN, 2 },
	/* moves */
	{ MAP_1, 0x88, 0x8b, 0, PLAIN, 10 },
	{ MAP_1, 0x8d, 0x8d, 0, PLAIN, 6 },
	{ MAP_1, 0x90, 0x97, 0, PLAIN, 3 },
	{ MAP_1, 0xa0, 0xa3, 0, PLAIN, 3 },
	{ MAP_1, 0xb0, 0xbf, 0, PLAIN, 3 },
	{ MAP_1, 0xc6, 0xc7, 1, PLAIN, 4 },
	{ MAP_1, 0x63, 0x63, 0, PLAIN, 3 },
	{ MAP_1, 0xd7, 0xd7, 0, PLAIN, 2 },
	{ MAP_1, 0xa4, 0xa7, 0, PLAIN, 12 },
	{ MAP_1, 0xaa, 0xaf, 0, PLAIN, 14 },
	/* stack */
	{ MAP_1, 0x50, 0x5f, 0, PLAIN, 6 },
	{ MAP_1, 0x68, 0x68, 0, PLAIN, 1 },
	{ MAP_1, 0x6a, 0x6a, 0, PLAIN, 1 },
	{ MAP_1, 0x8f, 0x8f, 1, PLAIN, 2 },
	{ MAP_1, 0xff, 0xff, 0x40, PLAIN, 2 },
	{ MAP_1, 0x9c, 0x9d, 0, PLAIN, 3 },
	{ MAP_1, 0xc8, 0xc9, 0, PLAIN, 3 },
	/* control flow */
	{ MAP_1, 0x70, 0x7f, 0, PLAIN, 4 },
	{ MAP_1, 0xe0, 0xe3, 0, PLAIN, 3 },
	{ MAP_1, 0xe8, 0xe9, 0, PLAIN, 3 },
	{ MAP_1, 0xeb, 0xeb, 0, PLAIN, 1 },
	{ MAP_1, 0xc2, 0xc3, 0, PLAIN, 3 },
	{ MAP_1, 0xff, 0xff, 0x14, PLAIN, 4 },
	{ MAP_0F, 0x80, 0x8f, 0, PLAIN, 3 },
	/* two-byte integer instructions */
	{ MAP_0F, 0x0b, 0x0b, 0, PLAIN, 1 },
	{ MAP_0F, 0x0d, 0x0d, 0, PLAIN, 1 },
	{ MAP_0F, 0x18, 0x18, 0, PLAIN, 1 },
	{ MAP_0F, 0x1f, 0x1f, 0, PLAIN, 1 },
	{ MAP_0F, 0x40, 0x4f, 0, PLAIN, 8 },
	{ MAP_0F, 0x90, 0x9f, 0, PLAIN, 6 },
	{ MAP_0F, 0xa3, 0xa5, 0, PLAIN, 8 },
	{ MAP_0F, 0xab, 0xad, 0, PLAIN, 8 },
	{ MAP_0F, 0xaf, 0xaf, 0, PLAIN, 3 },
	{ MAP_0F, 0xb0, 0xb1, 0, PLAIN, 8 },
	{ MAP_0F, 0xb3, 0xb3, 0, PLAIN, 3 },
	{ MAP_0F, 0xb6, 0xb7, 0, PLAIN, 4 },
	{ MAP_0F, 0xb8, 0xb8, 0, PF3, 2 },
	{ MAP_0F, 0xba, 0xba, 0xf0, PLAIN, 6 },
	{ MAP_0F, 0xbb, 0xbd, 0, PLAIN, 6 },
	{ MAP_0F, 0xbe, 0xbf, 0, PLAIN, 4 },
	{ MAP_0F, 0xc0, 0xc1, 0, PLAIN, 4 },
	{ MAP_0F, 0xc7, 0xc7, 2, PLAIN, 4 },
	{ MAP_0F, 0xc8, 0xcf, 0, PLAIN, 3 },
	{ MAP_0F38, 0xf0, 0xf1, 0, P_66, 3 },
	{ MAP_0F38, 0xf0, 0xf1, 0, PF2, 3 },
	{ MAP_0F, 0xbc, 0xbd, 0, PF3, 5 },
	{ MAP_0F38, 0xf2, 0xf7, 0, PVEX, 30 },
	{ MAP_0F38, 0xf3, 0xf3, 0x0e, PVEX, 8 },
	{ MAP_0F3A, 0xf0, 0xf0, 0, PVEX, 4 },
	/* forbidden in user mode */
	{ MAP_1, 0xe4, 0xe7, 0, PLAIN, 1 },
	{ MAP_1, 0xec, 0xef, 0, PLAIN, 1 },
	{ MAP_1, 0x6c, 0x6f, 0, PLAIN, 1 },
	{ MAP_1, 0xf4, 0xf4, 0, PLAIN, 1 },
	{ MAP_1, 0xfa, 0xfb, 0, PLAIN, 1 },
	{ MAP_0F, 0x06, 0x06, 0, PLAIN, 1 },
	{ MAP_0F, 0x08, 0x09, 0, PLAIN, 1 },
	{ MAP_0F, 0x20, 0x23, 0, PLAIN, 2 },
	{ MAP_0F, 0x30, 0x30, 0, PLAIN, 1 },
	{ MAP_0F, 0x32, 0x32, 0, PLAIN, 1 },
	/* SSE and MMX */
	{ MAP_0F, 0x10, 0x17, 0, P_F2F3, 30 },
	{ MAP_0F, 0x28, 0x2f, 0, P_F2F3, 40 },
	{ MAP_0F, 0x50, 0x5f, 0, P_F2F3, 80 },
	{ MAP_0F, 0x60, 0x6f, 0, P_F2F3, 40 },
	{ MAP_0F, 0x70, 0x77, 0, P_F2F3, 20 },
	{ MAP_0F, 0x7c, 0x7f, 0, P_F2F3, 16 },
	{ MAP_0F, 0xc2, 0xc6, 0, P_F2F3, 20 },
	{ MAP_0F, 0xd0, 0xff, 0, P_F2F3, 80 },
	{ MAP_0F, 0xae, 0xae, 0x0f, PLAIN, 8 },
	{ MAP_0F, 0xae, 0xae, 0xe0, PLAIN, 2 },
	{ MAP_0F38, 0x00, 0x0b, 0, P_66, 20 },
	{ MAP_0F38, 0x10, 0x1e, 0, P_66, 16 },
	{ MAP_0F38, 0x20, 0x2b, 0, P66, 14 },
	{ MAP_0F38, 0x30, 0x41, 0, P66, 20 },
	{ MAP_0F38, 0xc8, 0xcd, 0, PLAIN, 4 },
	{ MAP_0F38, 0xdb, 0xdf, 0, P66, 5 },
	{ MAP_0F38, 0xf6, 0xf6, 0, P66, 1 },
	{ MAP_0F38, 0xf6, 0xf6, 0, PF3, 1 },
	{ MAP_0F3A, 0x08, 0x0f, 0, P_66, 20 },
	{ MAP_0F3A, 0x14, 0x17, 0, P66, 6 },
	{ MAP_0F3A, 0x20, 0x22, 0, P66, 6 },
	{ MAP_0F3A, 0x40, 0x44, 0, P66, 6 },
	{ MAP_0F3A, 0x60, 0x63, 0, P66, 12 },
	{ MAP_0F3A, 0xcc, 0xcc, 0, PLAIN, 1 },
	{ MAP_0F3A, 0xdf, 0xdf, 0, P66, 1 },
	/* x87 */
	{ MAP_1, 0xd8, 0xdf, 0, PLAIN, 120 },
	{ MAP_1, 0x9b, 0x9b, 0, PLAIN, 2 },
	/* not in 64-bit mode, or something else there */
	{ MAP_1, 0x40, 0x4f, 0, PLAIN, 6 },
	{ MAP_1, 0x60, 0x62, 0, PLAIN, 4 },
	{ MAP_1, 0x82, 0x82, 0, PLAIN, 1 },
	{ MAP_1, 0x27, 0x27, 0, PLAIN, 1 },
	{ MAP_1, 0x2f, 0x2f, 0, PLAIN, 1 },
	{ MAP_1, 0x37, 0x37, 0, PLAIN, 1 },
	{ MAP_1, 0x3f, 0x3f, 0, PLAIN, 1 },
	{ MAP_1, 0xd4, 0xd6, 0, PLAIN, 3 },
};

/* AVX, AVX2, FMA, F16C: three maps, of which the decoder says what exists. */
static const struct opcodes avx_table[] = {
	{ MAP_0F, 0x10, 0xff, 0, PVEX, 0 },
	{ MAP_0F38, 0x00, 0xbf, 0, PVEX, 0 },
	{ MAP_0F3A, 0x00, 0x7f, 0, PVEX, 0 },
};

static unsigned total_weight(void)
{
	unsigned total = 0;

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		total += table[i].weight;
	return total;
}

static const struct opcodes *choose_opcodes(struct rng *rng)
{
	unsigned at = rng_below(rng, total_weight()), i = 0;

	while (at >= table[i].weight)
		at -= table[i++].weight;
	return &table[i];
}

/* ---- encoding ---- */

static void put(struct code *code, unsigned byte)
{
	code->bytes[code->length++] = (uint8_t)byte;
}

static void put_prefixes(struct code *code, struct rng *rng, const struct opcodes *row, bool rex)
{
	/* DS, ES, SS: without effect in 64-bit mode, and equal otherwise */
	static const uint8_t segments[] = { 0x3e, 0x26, 0x36 };
	static const uint8_t selectors[] = { 0, 0x66, 0xf2, 0xf3 };
	unsigned selector = 0;

	switch (row->prefix) {
	case PLAIN:
		if (rng_percent(rng, 15))
			put(code, 0x66);
		if (row->map == MAP_1 && row->first >= 0xa4 && row->last <= 0xaf &&
		    rng_percent(rng, 60))
			put(code, 0xf2 + rng_below(rng, 2));
		else if (rng_percent(rng, 2))
			put(code, 0xf2 + rng_below(rng, 2));
		break;
	case PVEX:
		break;
	case P_66:
		selector = selectors[rng_below(rng, 2)];
		break;
	case P_F2F3:
		selector = selectors[rng_below(rng, 4)];
		break;
	default:
		selector = selectors[row->prefix];
		if (row->prefix != P66 && rng_percent(rng, 15))
			put(code, 0x66);
		break;
	}
	if (rng_percent(rng, 5))
		put(code, 0x67);
	if (rng_percent(rng, 3))
		put(code, segments[rng_below(rng, 3)]);
	if (row->map <= MAP_0F && row->prefix == PLAIN && rng_percent(rng, 4))
		put(code, 0xf0);
	if (selector)
		put(code, selector);
	if (rex && row->prefix != PVEX && rng_percent(rng, 55))
		put(code, 0x40 | rng_below(rng, 16));
}

/* The form of three bytes. Without REX, R and X must be 1: else it is LES. */
static void put_vex(struct code *code, struct rng *rng, const struct opcodes *row, bool rex)
{
	put(code, 0xc4);
	put(code, (rng_below(rng, 8) << 5 | (rex ? 0 : 0xc0)) | row->map);
	put(code, rng_below(rng, 32) << 3 | (rng_percent(rng, row->weight ? 3 : 50) ? 4 : 0) |
		      rng_below(rng, 4));
}

static unsigned choose_ext(struct rng *rng, uint8_t set)
{
	unsigned ext = rng_below(rng, 8);

	while (set && !(set >> ext & 1))
		ext = (ext + 1) & 7;
	return ext;
}

void random_code(struct rng *rng, bool rex, bool avx, struct code *code)
{
	const struct opcodes *row =
	    avx && rng_percent(rng, 60) ? &avx_table[rng_below(rng, 3)] : choose_opcodes(rng);
	unsigned opcode = row->first + rng_below(rng, row->last - row->first + 1u);
	unsigned mod = rng_percent(rng, 45) ? 3 : rng_below(rng, 3);

	code->length = 0;
	put_prefixes(code, rng, row, rex);
	if (row->prefix == PVEX)
		put_vex(code, rng, row, rex);
	else if (row->map != MAP_1)
		put(code, 0x0f);
	if (row->map == MAP_0F38 && row->prefix != PVEX)
		put(code, 0x38);
	if (row->map == MAP_0F3A && row->prefix != PVEX)
		put(code, 0x3a);
	put(code, opcode);
	put(code, mod << 6 | choose_ext(rng, row->ext) << 3 | rng_below(rng, 8));
	while (code->length < 30)
		put(code, (unsigned)rng_next(rng));
}

/* ---- what is fit to run ---- */

static bool has_lzcnt(void)
{
	unsigned a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && c >> 5 & 1;
}

static bool allowed_set(ZydisISASet set, bool avx)
{
	switch (set) {
	case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_CMPXCHG16B:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_FXSAVE:
	case ZYDIS_ISA_SET_FXSAVE64:
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I286REAL:
	case ZYDIS_ISA_SET_I286PROTECTED: /* ARPL */
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_LAHF:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_MOVBE:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_PPRO:
	case ZYDIS_ISA_SET_PREFETCH_NOP:
	case ZYDIS_ISA_SET_SHA:
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_X87:
		return true;
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_FMA:
		return avx;
	/* Here they are something else where the processor lacks them. */
	case ZYDIS_ISA_SET_BMI1:
	case ZYDIS_ISA_SET_BMI2:
	case ZYDIS_ISA_SET_LZCNT:
		return __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
		       has_lzcnt();
	default:
		return false;
	}
}

static bool forbidden(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_CPUID: /* answers that differ by design */
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_UD0: /* its length depends on the vendor */
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_SLDT: /* show the system's tables */
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_LDS: /* load segment registers */
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
		return true;
	default:
		return false;
	}
}

bool code_is_branch(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.category) {
	case ZYDIS_CATEGORY_COND_BR:
	case ZYDIS_CATEGORY_UNCOND_BR:
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
		return true;
	default:
		return false;
	}
}

static bool has_segment_register(const ZydisDecodedInstruction *insn,
				 const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count_visible; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
	return false;
}

static bool is_far(const ZydisDecodedInstruction *insn)
{
	return insn->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
}

static bool uses_thread_segment(const ZydisDecodedInstruction *insn)
{
	return insn->attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS);
}

bool code_has_prefix(const ZydisDecodedInstruction *insn, uint8_t prefix)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].value == prefix)
			return true;
	return false;
}

/* What processors do differently from each other. */
static bool depends_on_vendor(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_BSF: /* with F3 some have TZCNT and LZCNT */
	case ZYDIS_MNEMONIC_BSR:
		return code_has_prefix(insn, 0xf3);
	case ZYDIS_MNEMONIC_LOOPE: /* to some, F2 and F3 change the condition */
	case ZYDIS_MNEMONIC_LOOPNE:
		return code_has_prefix(insn, 0xf2) || code_has_prefix(insn, 0xf3) ||
		       code_has_prefix(insn, 0x66);
	default:
		break;
	}
	/* A prefetch of a register is a NOP to some and invalid to others. */
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode == 0x0d &&
	    insn->raw.modrm.mod == 3)
		return true;
	return code_is_branch(insn) && code_has_prefix(insn, 0x66);
}

bool code_is_fit(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands, bool avx)
{
	return (insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY ||
		insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) &&
	       allowed_set(insn->meta.isa_set, avx) && !forbidden(insn->mnemonic) &&
	       !is_far(insn) && !uses_thread_segment(insn) &&
	       !has_segment_register(insn, operands) && !depends_on_vendor(insn);
}
