/*
 * Zydis with what it gets wrong put right. Use this instead of ZydisDecoderDecodeFull wherever a
 * guest's instruction is decoded to be executed. Any thread.
 */
#ifndef PART_SOFTCPU_ZYDIS_H
#define PART_SOFTCPU_ZYDIS_H

#include <Zydis/Zydis.h>
#include <stdbool.h>
#include <stdint.h>

/* operands has room for ZYDIS_MAX_OPERAND_COUNT. */
ZyanStatus zydis_decode(const ZydisDecoder *decoder, const void *code, size_t length,
			ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands);

/* As processors of that vendor decode where they differ; zydis_decode does as AMD's. */
ZyanStatus zydis_decode_as(bool amd, const ZydisDecoder *decoder, const void *code, size_t length,
			   ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands);

/* VEX.W as it counts: outside 64-bit mode it doesn't widen general registers. */
bool zydis_vex_w(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands);

#endif
