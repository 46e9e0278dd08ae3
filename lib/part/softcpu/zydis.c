#include "part/softcpu/zydis.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Zydis 4.0: ModRM.mod = 0 with SIB.base = 5 is a displacement without base to processors, whatever
 * REX.B says; with REX.B and an address-size prefix it is taken for R13D without displacement. */
static bool has_no_base(const ZydisDecodedInstruction *insn)
{
	return insn->raw.modrm.mod == 0 && insn->raw.modrm.rm == 4 && insn->raw.sib.base == 5;
}

static void repair_operand(const ZydisDecodedInstruction *insn, ZydisDecodedOperand *operand)
{
	if (operand->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM ||
	    operand->type != ZYDIS_OPERAND_TYPE_MEMORY || insn->address_width == 16 ||
	    !has_no_base(insn))
		return;
	operand->mem.base = ZYDIS_REGISTER_NONE;
	operand->mem.disp.has_displacement = true;
	operand->mem.disp.value = insn->raw.disp.value;
}

/* F3 90 is PAUSE, but F3 49 90 is XCHG R8, RAX to AMD's processors; to Intel's and to Zydis it is
 * PAUSE, too. It decodes as XCHG without the F3. */
static ZyanStatus decode_without_f3(const ZydisDecoder *decoder, const uint8_t *code,
				    ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands)
{
	uint8_t shorter[ZYDIS_MAX_INSTRUCTION_LENGTH] = { 0 }, length = 0;
	ZyanStatus status;

	for (unsigned i = 0; i < insn->length; i++)
		if (code[i] != 0xf3)
			shorter[length++] = code[i];
	length = insn->length;
	status = ZydisDecoderDecodeFull(decoder, shorter, sizeof(shorter), insn, operands);
	insn->length = length;
	return status;
}

static ZyanStatus decode(const ZydisDecoder *decoder, bool amd, const void *code, size_t length,
			 ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands)
{
	ZyanStatus status = ZydisDecoderDecodeFull(decoder, code, length, insn, operands);

	if (!ZYAN_SUCCESS(status))
		return status;
	if (amd && insn->mnemonic == ZYDIS_MNEMONIC_PAUSE && insn->raw.rex.B)
		return decode_without_f3(decoder, code, insn, operands);
	for (unsigned i = 0; i < insn->operand_count; i++)
		repair_operand(insn, &operands[i]);
	return status;
}

ZyanStatus zydis_decode(const ZydisDecoder *decoder, const void *code, size_t length,
			ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands)
{
	return decode(decoder, true, code, length, insn, operands);
}

/* ---- what was decoded before ---- */

#define CACHE_BITS   9
#define OPERANDS_MAX 6 /* of nearly all instructions */

struct zydis_cache {
	bool amd;
	struct known {
		uint8_t length; /* 0: free */
		uint8_t mode;
		uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
		ZydisDecodedInstruction insn;
		ZydisDecodedOperand operands[OPERANDS_MAX];
	} known[1 << CACHE_BITS];
};

struct zydis_cache *zydis_cache_new(bool amd)
{
	struct zydis_cache *cache = calloc(1, sizeof(*cache));

	if (cache)
		cache->amd = amd;
	return cache;
}

void zydis_cache_free(struct zydis_cache *cache)
{
	free(cache);
}

static const struct known *find(struct zydis_cache *cache, unsigned mode, const void *code,
				size_t length)
{
	for (size_t i = 0; i < sizeof(zydis_prefixes); i++) {
		const struct known *k =
		    &cache->known[zydis_slot(code, zydis_prefixes[i], CACHE_BITS)];

		if (k->length && k->length <= length && k->mode == mode &&
		    memcmp(k->bytes, code, k->length) == 0)
			return k;
	}
	return NULL;
}

static void remember(struct zydis_cache *cache, unsigned mode, const void *code,
		     const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
	struct known *k = &cache->known[zydis_slot_of(code, insn->length, CACHE_BITS)];

	if (insn->operand_count > OPERANDS_MAX)
		return;
	k->length = insn->length;
	k->mode = (uint8_t)mode;
	memcpy(k->bytes, code, insn->length);
	k->insn = *insn;
	memcpy(k->operands, operands, insn->operand_count * sizeof(operands[0]));
}

ZyanStatus zydis_decode_cached(struct zydis_cache *cache, const ZydisDecoder *decoder,
			       const void *code, size_t length, ZydisDecodedInstruction *insn,
			       ZydisDecodedOperand *operands)
{
	const struct known *k;
	ZyanStatus status;

	if (length < ZYDIS_LOOKUP_BYTES)
		return decode(decoder, cache->amd, code, length, insn, operands);
	k = find(cache, decoder->machine_mode, code, length);
	if (k) {
		*insn = k->insn;
		memcpy(operands, k->operands, insn->operand_count * sizeof(operands[0]));
		return ZYAN_STATUS_SUCCESS;
	}
	status = decode(decoder, cache->amd, code, length, insn, operands);
	if (ZYAN_SUCCESS(status))
		remember(cache, decoder->machine_mode, code, insn, operands);
	return status;
}
