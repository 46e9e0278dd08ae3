#include "part/softcpu/zydis.h"

#include <stdbool.h>

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

ZyanStatus zydis_decode(const ZydisDecoder *decoder, const void *code, size_t length,
		       ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands)
{
	ZyanStatus status = ZydisDecoderDecodeFull(decoder, code, length, insn, operands);

	if (!ZYAN_SUCCESS(status))
		return status;
	for (unsigned i = 0; i < insn->operand_count; i++)
		repair_operand(insn, &operands[i]);
	return status;
}
