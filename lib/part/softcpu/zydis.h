/*
 * Zydis with what it gets wrong put right. Use this instead of ZydisDecoderDecodeFull wherever a
 * guest's instruction is decoded to be executed. Any thread.
 */
#ifndef PART_SOFTCPU_ZYDIS_H
#define PART_SOFTCPU_ZYDIS_H

#include <Zydis/Zydis.h>

/* operands has room for ZYDIS_MAX_OPERAND_COUNT. */
ZyanStatus zydis_decode(const ZydisDecoder *decoder, const void *code, size_t length,
			ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands);

/*
 * Instructions that were decoded before: guests have the same ones in many places, and Zydis takes
 * its time. What an instruction is depends on its own bytes and the mode alone. For one thread.
 */
struct zydis_cache;

struct zydis_cache *zydis_cache_new(void); /* NULL: no memory */
void zydis_cache_free(struct zydis_cache *cache);

/* As zydis_decode, but only operands that there are get written. */
ZyanStatus zydis_decode_cached(struct zydis_cache *cache, const ZydisDecoder *decoder,
			       const void *code, size_t length, ZydisDecodedInstruction *insn,
			       ZydisDecodedOperand *operands);

#endif
