/*
 * Zydis with what it gets wrong put right. Use this instead of ZydisDecoderDecodeFull wherever a
 * guest's instruction is decoded to be executed. Any thread.
 */
#ifndef PART_SOFTCPU_ZYDIS_H
#define PART_SOFTCPU_ZYDIS_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* operands has room for ZYDIS_MAX_OPERAND_COUNT. */
ZyanStatus zydis_decode(const ZydisDecoder *decoder, const void *code, size_t length,
			ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands);

/*
 * Instructions that were decoded before: guests have the same ones in many places, and Zydis takes
 * its time. What an instruction is depends on its own bytes and the mode alone. For one thread.
 */
struct zydis_cache;

/* amd: decodes as processors of that vendor where they differ. NULL: no memory. zydis_decode does
 * so always. */
struct zydis_cache *zydis_cache_new(bool amd);
void zydis_cache_free(struct zydis_cache *cache);

/* As zydis_decode, but only operands that there are get written. */
ZyanStatus zydis_decode_cached(struct zydis_cache *cache, const ZydisDecoder *decoder,
			       const void *code, size_t length, ZydisDecodedInstruction *insn,
			       ZydisDecodedOperand *operands);

/*
 * For direct-mapped tables of such instructions. How long one is isn't known when it is looked up,
 * so it lies where the first bytes lead that it has for sure: as many as the first of
 * zydis_prefixes that is not longer.
 */
#define ZYDIS_LOOKUP_BYTES 8 /* readable at code */
static const uint8_t zydis_prefixes[] = { 5, 3, 1 };

static inline size_t zydis_slot(const void *code, unsigned prefix, unsigned table_bits)
{
	uint64_t first;

	memcpy(&first, code, ZYDIS_LOOKUP_BYTES);
	first <<= 8 * (ZYDIS_LOOKUP_BYTES - prefix);
	return first * UINT64_C(0x9e3779b97f4a7c15) >> (64 - table_bits);
}

static inline size_t zydis_slot_of(const void *code, unsigned length, unsigned table_bits)
{
	unsigned i = 0;

	while (zydis_prefixes[i] > length)
		i++;
	return zydis_slot(code, zydis_prefixes[i], table_bits);
}

#endif
