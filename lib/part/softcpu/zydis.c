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

/* Zydis 4.0 says too little of what these do to flags. */
static void repair_flags(ZydisDecodedInstruction *insn)
{
	static const ZydisAccessedFlags as_ptest = {
		.modified = ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_ZF,
		.set_0 = ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_SF | ZYDIS_CPUFLAG_OF,
	};

	if (insn->mnemonic == ZYDIS_MNEMONIC_VPTEST || insn->mnemonic == ZYDIS_MNEMONIC_VTESTPS ||
	    insn->mnemonic == ZYDIS_MNEMONIC_VTESTPD)
		insn->cpu_flags = &as_ptest;
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
	repair_flags(insn);
	return status;
}

ZyanStatus zydis_decode(const ZydisDecoder *decoder, const void *code, size_t length,
			ZydisDecodedInstruction *insn, ZydisDecodedOperand *operands)
{
	return zydis_decode_as(true, decoder, code, length, insn, operands);
}

bool zydis_vex_w(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands)
{
	if (!insn->raw.vex.W || insn->machine_mode == ZYDIS_MACHINE_MODE_LONG_64)
		return insn->raw.vex.W;
	switch (insn->mnemonic) { /* with memory instead of a register, or registers that they don't
				     name */
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD:
		return false;
	default:
		break;
	}
	for (unsigned i = 0; i < insn->operand_count_visible; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_GPR32)
			return false;
	return true;
}
