#include "part/softcpu/known.h"
#include "part/softcpu/exec.h"

#include <stdlib.h>
#include <string.h>

#define KNOWN_BITS 11

struct known {
	struct known_insn insns[1 << KNOWN_BITS];
	struct known_insn spare; /* of what can't be kept */
};

struct known *known_new(void)
{
	return calloc(1, sizeof(struct known));
}

void known_free(struct known *table)
{
	free(table);
}

/* ---- guessing the shape ---- */

/*
 * How long an instruction is and where its constants are must be known before it can be looked up.
 * It is guessed from the opcode. Nothing depends on that being right: only what Zydis found to be
 * of the shape that was guessed is kept, and found again by the same guess.
 */
#define M 1  /* ModRM */
#define B 2  /* an immediate byte */
#define Z 4  /* an immediate of 2 or 4 bytes */
#define P 8  /* prefix */
#define S 16 /* not all is said by the opcode */
#define X 32 /* something else */
#define V 64 /* a VEX prefix, in 64-bit code */

#define ALU(op) [op... op + 3] = M, [op + 4] = B, [op + 5] = Z

static const uint8_t one_byte[256] = {
	ALU(0x00),
	ALU(0x08),
	ALU(0x10),
	ALU(0x18),
	ALU(0x20),
	ALU(0x28),
	ALU(0x30),
	ALU(0x38),
	[0x0f] = S,
	[0x26] = P,
	[0x2e] = P,
	[0x36] = P,
	[0x3e] = P,
	[0x62] = X,
	[0x63] = M,
	[0x64 ... 0x66] = P,
	[0x67] = X,
	[0x68] = Z,
	[0x69] = M | Z,
	[0x6a] = B,
	[0x6b] = M | B,
	[0x70 ... 0x7f] = B,
	[0x80] = M | B,
	[0x81] = M | Z,
	[0x82 ... 0x83] = M | B,
	[0x84 ... 0x8f] = M,
	[0x9a] = X,
	[0xa0 ... 0xa3] = X,
	[0xa8] = B,
	[0xa9] = Z,
	[0xb0 ... 0xb7] = B,
	[0xb8 ... 0xbf] = Z | S,
	[0xc0 ... 0xc1] = M | B,
	[0xc2] = X,
	[0xc4 ... 0xc5] = V,
	[0xc6] = M | B,
	[0xc7] = M | Z,
	[0xc8] = X,
	[0xca] = X,
	[0xcd] = B,
	[0xd0 ... 0xd3] = M,
	[0xd4 ... 0xd5] = B,
	[0xd8 ... 0xdf] = M,
	[0xe0 ... 0xe7] = B,
	[0xe8 ... 0xe9] = Z,
	[0xea] = X,
	[0xeb] = B,
	[0xf0] = P,
	[0xf2 ... 0xf3] = P,
	[0xf6 ... 0xf7] = M | S,
	[0xfe ... 0xff] = M,
};

static const uint8_t two_bytes[256] = {
	[0x00 ... 0x04] = M,
	[0x0d] = M,
	[0x0f] = X,
	[0x10 ... 0x2f] = M,
	[0x38] = X,
	[0x3a] = X,
	[0x40 ... 0x6f] = M,
	[0x70 ... 0x73] = M | B,
	[0x74 ... 0x76] = M,
	[0x78 ... 0x7f] = M,
	[0x80 ... 0x8f] = Z,
	[0x90 ... 0x9f] = M,
	[0xa3] = M,
	[0xa4] = M | B,
	[0xa5] = M,
	[0xab] = M,
	[0xac] = M | B,
	[0xad ... 0xb9] = M,
	[0xba] = M | B,
	[0xbb ... 0xc1] = M,
	[0xc2] = M | B,
	[0xc3] = M,
	[0xc4 ... 0xc6] = M | B,
	[0xc7] = M,
	[0xd0 ... 0xff] = M,
};

#define PREFIXES_MAX 4u

/* Behind ModRM at i; where a displacement of 4 bytes begins to *ret_disp. */
static inline unsigned skip_memory(const uint8_t *code, unsigned i, unsigned *ret_disp)
{
	unsigned mod = code[i] >> 6, rm = code[i] & 7;

	i++;
	if (mod == 3)
		return i;
	if (rm == 4)
		rm = code[i++] & 7;
	if (mod == 1)
		return i + 1;
	if (mod == 0 && rm != 5)
		return i;
	*ret_disp = i;
	return i + 4;
}

/* What follows C4 or C5; *i is behind it. */
static unsigned vex_kind(const uint8_t *code, unsigned *i)
{
	unsigned map = 1, op;

	if (code[*i - 1] == 0xc4)
		map = code[(*i)++] & 0x1f;
	op = code[*i + 1];
	*i += 2;
	switch (map) {
	case 1:
		return two_bytes[op];
	case 2:
		return M;
	case 3:
		return M | B;
	default:
		return X;
	}
}

/* What follows an opcode of which the table doesn't say all; *i is behind it. */
static unsigned special_kind(const uint8_t *code, unsigned *i, bool wide)
{
	unsigned op = code[*i - 1];

	switch (op) {
	case 0x0f:
		op = code[(*i)++];
		if (op != 0x38 && op != 0x3a)
			return two_bytes[op];
		(*i)++;
		return op == 0x3a ? M | B : M;
	case 0xf6: /* TEST has an immediate, the others don't */
		return code[*i] & 0x30 ? M : M | B;
	case 0xf7:
		return code[*i] & 0x30 ? M : M | Z;
	default: /* MOV r, imm */
		if (!wide)
			return Z;
		*i += 8;
		return 0;
	}
}

/* code: 16 bytes. 0: no idea. */
static known_shape guess(unsigned mode, const uint8_t *code)
{
	unsigned i = 0, kind = one_byte[code[0]], disp = 0, rex, imm;
	bool narrow = false, wide;

	while (unlikely(kind & P)) {
		narrow |= code[i] == 0x66;
		if (++i > PREFIXES_MAX)
			return 0;
		kind = one_byte[code[i]];
	}
	rex = mode == MODE_64 && (code[i] & 0xf0) == 0x40;
	wide = rex && (code[i] & 8);
	i += rex;
	kind = one_byte[code[i++]];
	if (unlikely(kind & V))
		kind = mode == MODE_64 ? vex_kind(code, &i) : X;
	if (kind & S)
		kind = special_kind(code, &i, wide);
	if (unlikely(kind & (X | P)))
		return 0;
	if (kind & M)
		i = skip_memory(code, i, &disp);
	i += (kind & B) / B;
	imm = (kind & Z) && !narrow;
	i += kind & Z ? narrow ? 2 : 4 : 0;
	return KNOWN_SHAPE(i, disp, imm);
}

/* ---- looking up ---- */

struct code_bytes {
	uint64_t v[2];
};

static struct code_bytes load(const uint8_t *code, size_t length)
{
	struct code_bytes b = { { 0 } };

	if (likely(length >= sizeof(b)))
		memcpy(&b, code, sizeof(b));
	else
		memcpy(&b, code, length);
	return b;
}

static inline struct code_bytes only(struct code_bytes b, const uint8_t *mask)
{
	struct code_bytes m;

	memcpy(&m, mask, sizeof(m));
	return (struct code_bytes){ { b.v[0] & m.v[0], b.v[1] & m.v[1] } };
}

/* Only what the shape says shall be compared. Masks are cut from ones and zeroes in a row. */
static inline struct code_bytes compared(struct code_bytes b, known_shape s)
{
	static const uint8_t begin[32] = { [0 ... 15] = 0xff };
	static const uint8_t gap[36] = { [0 ... 15] = 0xff, [20 ... 35] = 0xff };

	b = only(b, begin + 16 - KNOWN_LENGTH(s));
	if (KNOWN_DISP(s))
		b = only(b, gap + 16 - KNOWN_DISP(s));
	if (KNOWN_IMM(s))
		b = only(b, gap + 20 - KNOWN_LENGTH(s));
	return b;
}

static size_t slot_of(const struct code_bytes *b)
{
	uint64_t h = b->v[0] * UINT64_C(0x9e3779b97f4a7c15) ^ b->v[1];

	return h * UINT64_C(0x9e3779b97f4a7c15) >> (64 - KNOWN_BITS);
}

static const struct known_insn *look(const struct known *table, unsigned key, struct code_bytes b,
				     known_shape s)
{
	struct code_bytes want = compared(b, s);
	const struct known_insn *k = &table->insns[slot_of(&want)];

	return k->used && k->key == key && k->bytes[0] == want.v[0] && k->bytes[1] == want.v[1] &&
		       k->shape == s
		   ? k
		   : NULL;
}

static known_shape exact(known_shape s)
{
	return KNOWN_LENGTH(s);
}

/* Lengths that no instruction has can't be looked up. */
static bool usable(known_shape s, size_t length)
{
	return s && KNOWN_LENGTH(s) <= MIN(length, (size_t)ZYDIS_MAX_INSTRUCTION_LENGTH);
}

const struct known_insn *known_find(const struct known *table, unsigned key, const uint8_t *code,
				    size_t length)
{
	struct code_bytes b = load(code, length);
	known_shape s = guess(key & KEY_MODE, (const uint8_t *)&b);
	const struct known_insn *k;

	if (unlikely(!usable(s, length)))
		return NULL;
	k = look(table, key & KNOWN_KEY, b, s);
	if (!k && s != exact(s))
		k = look(table, key & KNOWN_KEY, b, exact(s));
	return k;
}

/* ---- keeping ---- */

/* Whose handlers and translations are the same whatever the constant is. */
static bool any_immediate(const ZydisDecodedInstruction *in)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_PUSH:
		return true;
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_JMP:
		return in->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
	default:
		return in->meta.category == ZYDIS_CATEGORY_COND_BR &&
		       in->opcode_map == ZYDIS_OPCODE_MAP_0F;
	}
}

static bool immediate_fits(const ZydisDecodedInstruction *in, const struct known_insn *k)
{
	const struct uop *u = &k->uops[0];
	int32_t v = (int32_t)in->raw.imm[0].value.s;

	return in->raw.imm[0].size == 32 && !in->raw.imm[1].size &&
	       in->raw.imm[0].offset + 4 == in->length && any_immediate(in) &&
	       u->fn != sc_raise_uop && (k->imm_is_disp ? u->disp == v : u->imm == v);
}

/* 0 tells nothing: any disp may be 0. */
static bool displacement_fits(const ZydisDecodedInstruction *in, const struct known_insn *k)
{
	int64_t v = (int32_t)in->raw.disp.value;

	return in->raw.disp.size == 32 && v && (in->attributes & ZYDIS_ATTRIB_HAS_MODRM) &&
	       k->uops[0].disp == v + (k->rip_relative ? in->length : 0);
}

/* False: the guess would not find it again. */
static bool shape_of(const ZydisDecodedInstruction *in, known_shape guessed,
		     const struct known_insn *k, known_shape *ret)
{
	*ret = guessed;
	if (KNOWN_LENGTH(guessed) != in->length)
		return false;
	if ((KNOWN_IMM(guessed) && !immediate_fits(in, k)) ||
	    (KNOWN_DISP(guessed) &&
	     (in->raw.disp.offset != KNOWN_DISP(guessed) || !displacement_fits(in, k))))
		*ret = exact(guessed);
	return true;
}

struct known_insn *known_add(struct known *table, unsigned key, const uint8_t *code, size_t length,
			     const ZydisDecodedInstruction *in, const struct known_insn *insn)
{
	struct code_bytes b = load(code, length);
	known_shape s;
	struct known_insn *k = &table->spare;

	if (shape_of(in, guess(key & KEY_MODE, (const uint8_t *)&b), insn, &s)) {
		b = compared(b, s);
		k = &table->insns[slot_of(&b)];
	} else {
		s = in->length;
	}
	*k = *insn;
	k->bytes[0] = b.v[0];
	k->bytes[1] = b.v[1];
	k->shape = s;
	k->key = key & KNOWN_KEY;
	k->used = true;
	return k;
}
