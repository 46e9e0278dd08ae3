#include "part/softcpu/zydis.h"

#include <stdbool.h>
#include <stdint.h>

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

ZyanStatus zydis_decode_as(bool amd, const ZydisDecoder *decoder, const void *code, size_t length,
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
	return zydis_decode_as(true, decoder, code, length, insn, operands);
}
