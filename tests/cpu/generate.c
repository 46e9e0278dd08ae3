/*
 * Random cases. Code is made from a table of opcodes (what firmware, kernels and compiled programs
 * execute, with its neighbours), random prefixes, ModRM, displacement and immediate; the decoder
 * then says what came out, and registers are chosen so that memory operands fall where we want:
 * mostly into the data pages, at times across pages, beyond them, or nowhere.
 */
#include "case.h"

#include "part/softcpu/zydis.h"

#include <stdlib.h>
#include <string.h>

/* ---- random numbers ---- */

struct rng {
	uint64_t state;
};

static uint64_t next(struct rng *rng) /* splitmix64 */
{
	uint64_t z = rng->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

static uint32_t below(struct rng *rng, uint32_t limit)
{
	return (uint32_t)((next(rng) >> 32) * limit >> 32);
}

static bool percent(struct rng *rng, unsigned chance)
{
	return below(rng, 100) < chance;
}

/* ---- opcodes ---- */

enum { MAP_1, MAP_0F, MAP_0F38, MAP_0F3A };

/* Prefix that selects the instruction, or a choice among them. */
enum { PLAIN, P66, PF2, PF3, P_66 /* none or 66 */, P_F2F3 /* 66 none F2 F3 */ };

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
};

struct generator {
	ZydisDecoder decoder;
	unsigned weight;
};

struct generator *generator_new(void)
{
	struct generator *generator = calloc(1, sizeof(*generator));

	if (!generator)
		exit(2);
	ZydisDecoderInit(&generator->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		generator->weight += table[i].weight;
	return generator;
}

void generator_free(struct generator *generator)
{
	free(generator);
}

static const struct opcodes *choose_opcodes(struct generator *generator, struct rng *rng)
{
	unsigned at = below(rng, generator->weight), i = 0;

	while (at >= table[i].weight)
		at -= table[i++].weight;
	return &table[i];
}

/* ---- encoding ---- */

struct code {
	uint8_t bytes[40];
	unsigned length;
};

static void put(struct code *code, unsigned byte)
{
	code->bytes[code->length++] = (uint8_t)byte;
}

static void put_prefixes(struct code *code, struct rng *rng, const struct opcodes *row)
{
	static const uint8_t selectors[] = { 0, 0x66, 0xf2, 0xf3 };
	unsigned selector = 0;

	switch (row->prefix) {
	case PLAIN:
		if (percent(rng, 15))
			put(code, 0x66);
		if (row->map == MAP_1 && row->first >= 0xa4 && row->last <= 0xaf && percent(rng, 60))
			put(code, 0xf2 + below(rng, 2));
		else if (percent(rng, 2))
			put(code, 0xf2 + below(rng, 2));
		break;
	case P_66:
		selector = selectors[below(rng, 2)];
		break;
	case P_F2F3:
		selector = selectors[below(rng, 4)];
		break;
	default:
		selector = selectors[row->prefix];
		if (row->prefix != P66 && percent(rng, 15))
			put(code, 0x66);
		break;
	}
	if (percent(rng, 5))
		put(code, 0x67);
	if (percent(rng, 3))
		put(code, percent(rng, 50) ? 0x65 : 0x3e); /* GS, whose base is 0; DS */
	if (row->map <= MAP_0F && row->prefix == PLAIN && percent(rng, 4))
		put(code, 0xf0);
	if (selector)
		put(code, selector);
	if (percent(rng, 55))
		put(code, 0x40 | below(rng, 16));
}

static unsigned choose_ext(struct rng *rng, uint8_t set)
{
	unsigned ext = below(rng, 8);

	while (set && !(set >> ext & 1))
		ext = (ext + 1) & 7;
	return ext;
}

static void put_instruction(struct code *code, struct rng *rng, const struct opcodes *row)
{
	unsigned opcode = row->first + below(rng, row->last - row->first + 1u);
	unsigned mod = percent(rng, 45) ? 3 : below(rng, 3);

	put_prefixes(code, rng, row);
	if (row->map != MAP_1)
		put(code, 0x0f);
	if (row->map == MAP_0F38)
		put(code, 0x38);
	if (row->map == MAP_0F3A)
		put(code, 0x3a);
	put(code, opcode);
	put(code, mod << 6 | choose_ext(rng, row->ext) << 3 | below(rng, 8));
	while (code->length < 30)
		put(code, (unsigned)next(rng));
}

/* ---- what is fit to run ---- */

static bool allowed_set(ZydisISASet set)
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
	case ZYDIS_MNEMONIC_CPUID: /* answers that differ by design */
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_UD0: /* its length depends on the vendor */
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
		return true;
	default:
		return false;
	}
}

static bool is_branch(const ZydisDecodedInstruction *insn)
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

static bool has_prefix(const ZydisDecodedInstruction *insn, uint8_t prefix)
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
		return has_prefix(insn, 0xf3);
	case ZYDIS_MNEMONIC_LOOPE: /* to some, F2 and F3 change the condition */
	case ZYDIS_MNEMONIC_LOOPNE:
		return has_prefix(insn, 0xf2) || has_prefix(insn, 0xf3) || has_prefix(insn, 0x66);
	default:
		break;
	}
	/* A prefetch of a register is a NOP to some and invalid to others. */
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_0F && insn->opcode == 0x0d &&
	    insn->raw.modrm.mod == 3)
		return true;
	return is_branch(insn) && has_prefix(insn, 0x66);
}

static bool fit(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
	return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       allowed_set(insn->meta.isa_set) && !forbidden(insn->mnemonic) && !is_far(insn) &&
	       !has_segment_register(insn, operands) && !depends_on_vendor(insn);
}

/* ---- values ---- */

static uint64_t edge_integer(struct rng *rng)
{
	static const uint64_t edges[] = {
		0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 63, 64, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000,
		0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
		0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xfffffffffffffffe,
		0xffffffff80000000, 0xffffffff00000000, 0x5555555555555555, 0xaaaaaaaaaaaaaaaa,
	};

	switch (below(rng, 4)) {
	case 0:
		return edges[below(rng, sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return edges[below(rng, sizeof(edges) / sizeof(edges[0]))] + (uint64_t)below(rng, 5) - 2;
	case 2:
		return next(rng) >> below(rng, 64);
	default:
		return next(rng);
	}
}

static uint32_t edge_float(struct rng *rng)
{
	static const uint32_t edges[] = {
		0, 1, 0x7fffff, 0x800000, 0x800001, 0x3f800000, 0x3f800001, 0x3f7fffff, 0x40000000,
		0x40490fdb, 0x4b000000, 0x4f000000, 0x4effffff, 0x5f000000, 0x7f7fffff, 0x7f800000,
		0x7f800001, 0x7fc00000, 0x7fffffff, 0x00400000, 0x33800000, 0x0d800000, 0x20000000,
	};
	uint32_t sign = next(rng) & 0x80000000u;

	if (percent(rng, 60))
		return edges[below(rng, sizeof(edges) / sizeof(edges[0]))] | sign;
	return percent(rng, 50) ? (uint32_t)next(rng) : (0x3f000000 + below(rng, 1 << 25)) | sign;
}

static uint64_t edge_double(struct rng *rng)
{
	static const uint64_t edges[] = {
		0, 1, 0xfffffffffffff, 0x10000000000000, 0x10000000000001, 0x3ff0000000000000,
		0x3ff0000000000001, 0x3fefffffffffffff, 0x4000000000000000, 0x400921fb54442d18,
		0x4330000000000000, 0x43e0000000000000, 0x41e0000000000000, 0x41dfffffffc00000,
		0x7fefffffffffffff, 0x7ff0000000000000, 0x7ff0000000000001, 0x7ff8000000000000,
		0x7fffffffffffffff, 0x0008000000000000, 0x36a0000000000000, 0x380fffffffffffff,
		0x47efffffe0000000, 0x47f0000000000000, 0x3690000000000000, 0x2000000000000000,
	};
	uint64_t sign = next(rng) & 0x8000000000000000u;

	if (percent(rng, 60))
		return edges[below(rng, sizeof(edges) / sizeof(edges[0]))] | sign;
	return percent(rng, 50) ? next(rng) : (0x3fe0000000000000 + (next(rng) >> 10)) | sign;
}

static void edge_vector(struct rng *rng, uint8_t vector[16])
{
	switch (below(rng, 4)) {
	case 0:
		for (unsigned i = 0; i < 4; i++) {
			uint32_t lane = edge_float(rng);

			memcpy(vector + i * 4, &lane, 4);
		}
		return;
	case 1:
		for (unsigned i = 0; i < 2; i++) {
			uint64_t lane = edge_double(rng);

			memcpy(vector + i * 8, &lane, 8);
		}
		return;
	case 2:
		for (unsigned i = 0; i < 2; i++) {
			uint64_t lane = edge_integer(rng);

			memcpy(vector + i * 8, &lane, 8);
		}
		return;
	default:
		for (unsigned i = 0; i < 16; i++)
			vector[i] = percent(rng, 20) ? 0 : (uint8_t)(next(rng) & 0x8f);
		return;
	}
}

static void edge_extended(struct rng *rng, uint8_t st[16])
{
	static const uint16_t exponents[] = { 0, 1, 0x3ffe, 0x3fff, 0x4000, 0x401e, 0x403e, 0x403f,
					      0x3f6a, 0x3c00, 0x43ff, 0x7ffe, 0x7fff };
	static const uint64_t mantissas[] = { 0, 0x8000000000000000, 0xffffffffffffffff, 1,
					      0x7fffffffffffffff, 0xc000000000000000,
					      0xc90fdaa22168c235, 0x8000000000000001,
					      0xfffffffffffff800, 0xffffff0000000000 };
	uint64_t mantissa = mantissas[below(rng, sizeof(mantissas) / sizeof(mantissas[0]))];
	uint16_t exponent = exponents[below(rng, sizeof(exponents) / sizeof(exponents[0]))];

	if (percent(rng, 30))
		mantissa = next(rng) | (percent(rng, 90) ? 1ull << 63 : 0);
	if (percent(rng, 30))
		exponent = (uint16_t)(0x3fff - 40 + below(rng, 80));
	if (percent(rng, 50))
		exponent |= 0x8000;
	memset(st, 0, 16);
	memcpy(st, &mantissa, 8);
	memcpy(st + 8, &exponent, 2);
}

static uint32_t random_mxcsr(struct rng *rng)
{
	uint32_t mxcsr = 0x1f80;

	if (percent(rng, 50))
		return mxcsr | below(rng, 64);
	mxcsr |= below(rng, 4) << 13 | below(rng, 2) << 15 | below(rng, 2) << 6 | below(rng, 64);
	if (percent(rng, 50))
		mxcsr &= ~(below(rng, 64) << 7);
	return mxcsr;
}

static void random_fpu(struct rng *rng, struct hostop_fpu *fpu)
{
	static const uint16_t precisions[] = { 0, 0x200, 0x300 };

	memset(fpu, 0, sizeof(*fpu));
	fpu->fcw = 0x37f;
	if (percent(rng, 50))
		fpu->fcw = (uint16_t)(0x7f | precisions[below(rng, 3)] | below(rng, 4) << 10);
	if (percent(rng, 15))
		fpu->fcw &= (uint16_t)~below(rng, 64);
	fpu->fsw = (uint16_t)(below(rng, 8) << 11 | (next(rng) & 0x4700));
	fpu->fsw |= fpu->fcw & below(rng, 64) & (percent(rng, 50) ? 0x3f : 0); /* none pending, */
	if (percent(rng, 5))
		fpu->fsw |= below(rng, 64); /* or some */
	if (fpu->fsw & ~fpu->fcw & 0x3f)
		fpu->fsw |= 0x8080;
	fpu->ftw = percent(rng, 60) ? 0xff : (uint8_t)next(rng);
	for (unsigned i = 0; i < 8; i++)
		edge_extended(rng, fpu->st[i]);
	for (unsigned i = 0; i < 16; i++)
		edge_vector(rng, fpu->xmm[i]);
	fpu->mxcsr = random_mxcsr(rng);
	fpu->mxcsr_mask = HOSTOP_MXCSR_MASK;
}

#define FLAGS_ALWAYS 0x202u
#define FLAGS_STATUS 0x8d5u
#define FLAG_DF	     0x400u

static void random_state(struct rng *rng, struct cpu_state *state)
{
	uint64_t *words = (uint64_t *)(void *)state->data;

	for (unsigned i = 0; i < 16; i++)
		state->gpr[i] = edge_integer(rng);
	state->rflags = FLAGS_ALWAYS | (next(rng) & FLAGS_STATUS);
	if (percent(rng, 20))
		state->rflags |= FLAG_DF;
	random_fpu(rng, &state->fpu);
	for (unsigned i = 0; i < DATA_SIZE / 8; i++)
		words[i] = next(rng);
}

/* ---- memory operands ---- */

/* Where an operand of that size should lie. */
static uint64_t choose_target(struct rng *rng, unsigned size)
{
	unsigned inside = DATA_SIZE - 2 * 1024;
	uint64_t target = DATA_ADDRESS + 1024 + below(rng, inside);

	switch (below(rng, 40)) {
	case 0:
	case 1:
	case 2:
	case 3: /* across the two pages */
		return DATA_ADDRESS + PAGE - 1 - below(rng, size > 1 ? size : 2);
	case 4: /* into the page that isn't there */
	case 5:
		return DATA_ADDRESS + DATA_SIZE - 1 - below(rng, size > 1 ? size : 2);
	case 6: /* from the page before */
		return DATA_ADDRESS - 1 - below(rng, size > 1 ? size : 2);
	case 7:
	case 8: /* read-only */
		return READONLY_ADDRESS + 16 * below(rng, (PAGE - 512) / 16) +
		       (percent(rng, 20) ? below(rng, 16) : 0);
	case 9: /* nothing there */
		return 0x40000000 + below(rng, 1 << 20);
	case 10: /* not canonical */
		return percent(rng, 50) ? 0x8000000000000000 + below(rng, 1 << 20) :
					  0x00007ffffffffff0u + below(rng, 32);
	case 11:
	case 12:
	case 13:
	case 14:
	case 15:
		return target; /* any alignment */
	default:
		return target & ~(size >= 16 ? 15ull : size >= 8 ? 7ull : 3ull);
	}
}

static unsigned gpr_number(ZydisRegister reg)
{
	return (unsigned)ZydisRegisterGetId(
		ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static uint64_t address_mask(const ZydisDecodedInstruction *insn)
{
	return insn->address_width == 32 ? 0xffffffff : UINT64_MAX;
}

static void patch_displacement(struct code *code, const ZydisDecodedInstruction *insn,
			       uint64_t displacement)
{
	if (insn->raw.disp.size)
		memcpy(code->bytes + insn->raw.disp.offset, &displacement, insn->raw.disp.size / 8);
}

static uint64_t register_value(const struct cpu_state *state, ZydisRegister reg)
{
	uint64_t value = state->gpr[gpr_number(reg)];

	switch (ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, reg)) {
	case 8: /* XLAT's AL */
		return value & 0xff;
	case 32:
		return (uint32_t)value;
	default:
		return value;
	}
}

static void set_base(struct cpu_state *state, const ZydisDecodedInstruction *insn,
		     struct rng *rng, ZydisRegister reg, uint64_t value)
{
	state->gpr[gpr_number(reg)] = value & address_mask(insn);
	if (insn->address_width == 32 && percent(rng, 50)) /* the upper half doesn't count */
		state->gpr[gpr_number(reg)] |= next(rng) << 32;
}

/* Makes the operand's address be target, by its base register, index register or displacement. */
static void aim(struct code *code, struct cpu_state *state, const ZydisDecodedInstruction *insn,
		const ZydisDecodedOperandMem *mem, struct rng *rng, uint64_t target)
{
	uint64_t displacement = (uint64_t)mem->disp.value;

	if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP) {
		patch_displacement(code, insn, target - (state->rip + insn->length));
	} else if (mem->base == ZYDIS_REGISTER_NONE && mem->index == ZYDIS_REGISTER_NONE) {
		patch_displacement(code, insn, target);
	} else if (mem->base == ZYDIS_REGISTER_NONE) {
		set_base(state, insn, rng, mem->index, (target - displacement) / mem->scale);
	} else if (mem->index == mem->base) {
		set_base(state, insn, rng, mem->base, (target - displacement) / (1u + mem->scale));
	} else {
		if (mem->index != ZYDIS_REGISTER_NONE)
			displacement += register_value(state, mem->index) * mem->scale;
		set_base(state, insn, rng, mem->base, target - displacement);
	}
}

uint64_t effective_address(const struct cpu_state *state, const ZydisDecodedInstruction *insn,
			   const ZydisDecodedOperandMem *mem)
{
	uint64_t address = (uint64_t)mem->disp.value;

	if (mem->base == ZYDIS_REGISTER_RIP || mem->base == ZYDIS_REGISTER_EIP)
		address += state->rip + insn->length;
	else if (mem->base != ZYDIS_REGISTER_NONE)
		address += register_value(state, mem->base);
	if (mem->index != ZYDIS_REGISTER_NONE)
		address += register_value(state, mem->index) * mem->scale;
	return address & address_mask(insn);
}

static uint8_t *data_at(struct cpu_state *state, uint64_t address, unsigned size)
{
	if (!in_data(address, size))
		return NULL;
	return state->data + (address - DATA_ADDRESS);
}

/* Interesting content for an operand. */
static void fill_operand(struct cpu_state *state, struct rng *rng,
			 const ZydisDecodedOperand *operand, uint64_t address)
{
	uint8_t *p = data_at(state, address, 16), value[16];

	if (!p || operand->size > 128)
		return;
	if (operand->element_type == ZYDIS_ELEMENT_TYPE_FLOAT80)
		edge_extended(rng, value);
	else
		edge_vector(rng, value);
	memcpy(p, value, 16);
}

/* ---- special needs of some instructions ---- */

static bool is_string(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_STRINGOP ||
	       insn->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static bool touches_readonly(const struct cpu_state *state, const ZydisDecodedInstruction *insn,
			    const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		uint64_t address;

		if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		address = effective_address(state, insn, &operands[i].mem);
		if (address >= READONLY_ADDRESS && address < READONLY_ADDRESS + PAGE)
			return true;
	}
	return false;
}

/* Away from the instruction itself: a loop would never end. */
static uint64_t code_target(struct rng *rng, const struct cpu_state *state)
{
	uint64_t target;

	do
		target = CODE_ADDRESS + below(rng, CODE_SIZE - 64);
	while (target + 64 > state->rip && target < state->rip + 64);
	return target;
}

static bool tame_relative(struct code *code, const struct cpu_state *state,
			  const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operand,
			  uint64_t target)
{
	uint64_t next_rip = state->rip + insn->length;
	uint64_t delta = target - next_rip;

	if (insn->raw.imm[0].size == 8) {
		target = next_rip + operand->imm.value.u;
		return target < state->rip || target >= next_rip;
	}
	memcpy(code->bytes + insn->raw.imm[0].offset, &delta, insn->raw.imm[0].size / 8);
	return true;
}

/* A branch must not land in the middle of the tester. */
static bool tame_branch(struct code *code, struct cpu_state *state,
			const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
			struct rng *rng)
{
	uint64_t target = code_target(rng, state);

	if (touches_readonly(state, insn, operands))
		return false;
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &operands[i];
		uint8_t *p;

		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative) {
			if (!tame_relative(code, state, insn, o, target))
				return false;
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && i == 0 &&
			   o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
			state->gpr[gpr_number(o->reg.value)] = target;
		} else if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			p = data_at(state, effective_address(state, insn, &o->mem), 8);
			if (p)
				memcpy(p, &target, 8);
		}
	}
	return true;
}

/* The offset in a register can reach far: keep it inside the data pages. */
static void tame_bit_offset(struct cpu_state *state, const ZydisDecodedInstruction *insn,
			    const ZydisDecodedOperand *operands, struct rng *rng)
{
	if (insn->meta.category != ZYDIS_CATEGORY_BITBYTE ||
	    operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
	    operands[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return;
	state->gpr[gpr_number(operands[1].reg.value)] = (uint64_t)(int64_t)(
		(int)below(rng, 1024 * 8) - 512 * 8);
}

static void tame_string(struct cpu_state *state, const ZydisDecodedInstruction *insn,
			struct rng *rng)
{
	uint64_t count = below(rng, 40);

	if (percent(rng, 10))
		count = below(rng, 5000);
	if (is_string(insn))
		state->gpr[1] = count | (insn->address_width == 32 ? next(rng) << 32 : 0);
	/* Long equal runs, for CMPS and SCAS. */
	if (is_string(insn) && percent(rng, 50))
		memset(state->data, (int)state->gpr[0], DATA_SIZE);
}

/* POPF must not set the trap flag, nor what sigreturn doesn't reset: NT, AC, ID. */
static bool tame_popf(struct cpu_state *state, const ZydisDecodedInstruction *insn)
{
	uint8_t *p = data_at(state, state->gpr[4], 8);

	if (insn->mnemonic != ZYDIS_MNEMONIC_POPF && insn->mnemonic != ZYDIS_MNEMONIC_POPFQ)
		return true;
	if (!p)
		return false;
	p[1] &= (uint8_t)~0x41u;
	p[2] &= (uint8_t)~0x24u;
	return true;
}

/* Quotients that fit, and comparisons that succeed, are rare otherwise. */
static void raise_chances(struct cpu_state *state, const ZydisDecodedInstruction *insn,
			  const ZydisDecodedOperand *operands, struct rng *rng)
{
	uint8_t *p = NULL;

	if ((insn->mnemonic == ZYDIS_MNEMONIC_DIV || insn->mnemonic == ZYDIS_MNEMONIC_IDIV) &&
	    percent(rng, 60) && !(operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
				  operands[0].mem.base == ZYDIS_REGISTER_RDX))
		state->gpr[2] = percent(rng, 70) ? 0 : UINT64_MAX;
	if (operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		p = data_at(state, effective_address(state, insn, &operands[0].mem), 16);
	if (!p || percent(rng, 50))
		return;
	if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG)
		memcpy(p, &state->gpr[0], 8);
	if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) {
		memcpy(p, &state->gpr[0], 4);
		memcpy(p + 4, &state->gpr[2], 4);
	}
	if (insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
		memcpy(p, &state->gpr[0], 8);
		memcpy(p + 8, &state->gpr[2], 8);
	}
}

/* What FXRSTOR, FRSTOR and FLDENV load is made plausible in part of the cases. */
static void plausible_image(struct cpu_state *state, const ZydisDecodedInstruction *insn,
			    const ZydisDecodedOperand *operands, struct rng *rng)
{
	struct hostop_fpu fpu;
	uint8_t *p = NULL;

	if (operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
		p = data_at(state, effective_address(state, insn, &operands[0].mem), 512);
	if (!p)
		return;
	if (insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
	    insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64) {
		random_fpu(rng, &fpu);
		if (percent(rng, 10))
			fpu.mxcsr = (uint32_t)next(rng);
		memcpy(p, &fpu, 512);
	}
	if (insn->mnemonic == ZYDIS_MNEMONIC_LDMXCSR) {
		uint32_t mxcsr = percent(rng, 90) ? random_mxcsr(rng) : (uint32_t)next(rng);

		memcpy(p, &mxcsr, 4);
	}
}

/* ---- one instruction ---- */

static unsigned operand_bytes(const ZydisDecodedOperand *operand)
{
	return operand->size / 8 ? operand->size / 8 : 1;
}

static bool place_operands(struct generator *generator, struct code *code, struct cpu_state *state,
			   ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands,
			   struct rng *rng)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *o = &operands[i];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type != ZYDIS_MEMOP_TYPE_AGEN)
			aim(code, state, insn, &o->mem, rng, choose_target(rng, operand_bytes(o)));
	}
	if (!ZYAN_SUCCESS(zydis_decode(&generator->decoder, code->bytes, 16, insn, operands)))
		return false;
	for (unsigned i = 0; i < insn->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY && percent(rng, 70))
			fill_operand(state, rng, &operands[i],
				     effective_address(state, insn, &operands[i].mem));
	return true;
}

#define KERNEL_HALF 0x0000800000000000u

/* An operand may only touch our pages or places where nothing can be mapped. */
static bool operands_safe(const struct cpu_state *state, const ZydisDecodedInstruction *insn,
			  const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		uint64_t address;

		if (operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (operands[i].mem.type == ZYDIS_MEMOP_TYPE_AGEN)
			continue;
		if (operands[i].mem.segment == ZYDIS_REGISTER_FS)
			return false;
		address = effective_address(state, insn, &operands[i].mem);
		/* Some processors take these misaligned. */
		if (insn->meta.isa_set == ZYDIS_ISA_SET_SHA && address % 16)
			return false;
		/* In which order the pieces of a large operand are checked is theirs. */
		if (operands[i].size >= 80 && operands[i].size != 128 && address > KERNEL_HALF - 512 &&
		    (address % 16 || address < KERNEL_HALF))
			return false;
		if (address >= 0x0000100000000000 && address < 0x00007ffffffff000)
			return false;
		if (address >= 0xffff800000000000)
			return false;
		if (address < 0x8000000 || (address >= CODE_ADDRESS - 0x100000 &&
					    address < CODE_ADDRESS + 0x100000))
			return false;
		if (address >= 0x50000000 && address < 0x0000100000000000)
			return false;
	}
	return true;
}

static bool make_instruction(struct generator *generator, struct rng *rng, struct code *code,
			     struct cpu_state *state, ZydisDecodedInstruction *insn,
			     ZydisDecodedOperand *operands)
{
	code->length = 0;
	put_instruction(code, rng, choose_opcodes(generator, rng));
	if (!ZYAN_SUCCESS(zydis_decode(&generator->decoder, code->bytes, 16, insn, operands)) || !fit(insn, operands))
		return false;
	tame_bit_offset(state, insn, operands, rng);
	if (!place_operands(generator, code, state, insn, operands, rng) || !fit(insn, operands))
		return false;
	tame_string(state, insn, rng);
	if (!operands_safe(state, insn, operands))
		return false;
	raise_chances(state, insn, operands, rng);
	plausible_image(state, insn, operands, rng);
	if (!tame_popf(state, insn) ||
	    (is_branch(insn) && !tame_branch(code, state, insn, operands, rng)))
		return false;
	code->length = insn->length;
	return true;
}

static uint64_t choose_code_address(struct rng *rng, unsigned length)
{
	switch (below(rng, 20)) {
	case 0: /* across the two pages */
		return CODE_ADDRESS + PAGE - below(rng, length + 1);
	case 1: /* into the missing one */
		return CODE_ADDRESS + CODE_SIZE - length;
	default:
		return CODE_ADDRESS + 1024 + below(rng, CODE_SIZE - 2048);
	}
}

/* Dot products in several steps: which step's exceptions show when some are unmasked is not
 * reproduced. */
static void mask_dot_product(struct cpu_state *state, const ZydisDecodedInstruction *insn)
{
	if (insn->mnemonic == ZYDIS_MNEMONIC_DPPS || insn->mnemonic == ZYDIS_MNEMONIC_DPPD)
		state->fpu.mxcsr |= 0x1f80;
}

static uint16_t undefined_flags(const ZydisDecodedInstruction *insn)
{
	return insn->cpu_flags ? (uint16_t)(insn->cpu_flags->undefined & FLAGS_STATUS) : 0;
}

static bool is_extension(const ZydisDecodedInstruction *insn)
{
	switch (insn->meta.isa_set) {
	case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_MOVBE:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA:
		return true;
	default:
		return false;
	}
}

static void ignore(struct cpu_case *c, uint64_t address, unsigned size)
{
	unsigned i = c->ignored[0].size != 0;

	if (!in_data(address, size))
		return;
	c->ignored[i].offset = (unsigned)(address - DATA_ADDRESS);
	c->ignored[i].size = size;
}

static void ignore_what_may_differ(struct cpu_case *c, const ZydisDecodedInstruction *insn,
				   const ZydisDecodedOperand *operands)
{
	uint64_t address;

	if (operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return;
	address = effective_address(&c->before, insn, &operands[0].mem);
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		ignore(c, address + offsetof(struct hostop_fpu, fop), 18);
		ignore(c, address + offsetof(struct hostop_fpu, mxcsr_mask), 4);
		break;
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
		ignore(c, address + (operands[0].size / 8 % 4 ? 6 : 12),
		       operands[0].size / 8 % 4 ? 8 : 14);
		break;
	default:
		break;
	}
}

void generate_case(struct generator *generator, uint64_t id, bool sequence, struct cpu_case *ret)
{
	struct rng rng = { id * 2 + sequence };
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	struct code code;

	memset(ret, 0, sizeof(*ret));
	ret->id = id;
	do {
		random_state(&rng, &ret->before);
		/* RIP-relative operands need it; 8 is a usual length. */
		ret->before.rip = choose_code_address(&rng, 8);
	} while (!make_instruction(generator, &rng, &code, &ret->before, &insn,
				   operands));
	mask_dot_product(&ret->before, &insn);
	memcpy(ret->code, code.bytes, code.length);
	ret->code_length = code.length;
	ret->instruction_count = 1;
	ret->undefined_flags = undefined_flags(&insn);
	ret->extension = is_extension(&insn);
	ret->loose_mmx = insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	ret->large_operand = operands[0].size > 128 || operands[0].size == 112;
	ignore_what_may_differ(ret, &insn, operands);
}
