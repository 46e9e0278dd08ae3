/* Which instructions are ours, and how each is re-encoded for the host. */
#include "part/softcpu/hostop-impl.h"
#include "part/softcpu/zydis.h"

#include <cpuid.h>
#include <stdatomic.h>
#include <string.h>

/* ---- features ---- */

static bool cpuid_bit(unsigned leaf, unsigned reg, unsigned bit)
{
	unsigned r[4] = { 0 };

	return __get_cpuid_count(leaf, 0, &r[0], &r[1], &r[2], &r[3]) && r[reg] >> bit & 1;
}

static bool ask_host(enum hostop_feature feature)
{
	enum { EAX, EBX, ECX, EDX };

	switch (feature) {
	case HOSTOP_FEATURE_SSE3:
		return cpuid_bit(1, ECX, 0);
	case HOSTOP_FEATURE_PCLMULQDQ:
		return cpuid_bit(1, ECX, 1);
	case HOSTOP_FEATURE_SSSE3:
		return cpuid_bit(1, ECX, 9);
	case HOSTOP_FEATURE_CX16:
		return cpuid_bit(1, ECX, 13);
	case HOSTOP_FEATURE_SSE4_1:
		return cpuid_bit(1, ECX, 19);
	case HOSTOP_FEATURE_SSE4_2:
		return cpuid_bit(1, ECX, 20);
	case HOSTOP_FEATURE_MOVBE:
		return cpuid_bit(1, ECX, 22);
	case HOSTOP_FEATURE_POPCNT:
		return cpuid_bit(1, ECX, 23);
	case HOSTOP_FEATURE_AES:
		return cpuid_bit(1, ECX, 25);
	case HOSTOP_FEATURE_BMI1:
		return cpuid_bit(7, EBX, 3);
	case HOSTOP_FEATURE_BMI2:
		return cpuid_bit(7, EBX, 8);
	case HOSTOP_FEATURE_ADX:
		return cpuid_bit(7, EBX, 19);
	case HOSTOP_FEATURE_SHA:
		return cpuid_bit(7, EBX, 29);
	case HOSTOP_FEATURE_LZCNT:
		return cpuid_bit(0x80000001, ECX, 5);
	case HOSTOP_FEATURE_AVX: /* and the system keeps its registers */
		return __builtin_cpu_supports("avx");
	case HOSTOP_FEATURE_AVX2:
		return __builtin_cpu_supports("avx2");
	case HOSTOP_FEATURE_FMA:
		return __builtin_cpu_supports("fma");
	case HOSTOP_FEATURE_F16C:
		return __builtin_cpu_supports("avx") && cpuid_bit(1, ECX, 29);
	default: /* part of every 64-bit processor */
		return true;
	}
}

/* Asked once: on a host that is a guest itself, CPUID takes as long as decoding ten instructions.
 */
static bool host_has(enum hostop_feature feature)
{
	static _Atomic uint32_t asked, there;
	uint32_t bit = UINT32_C(1) << feature;

	_Static_assert(HOSTOP_FEATURE_COUNT <= 32, "a bit each");
	if (!(atomic_load_explicit(&asked, memory_order_acquire) & bit)) {
		if (ask_host(feature))
			atomic_fetch_or(&there, bit);
		atomic_fetch_or_explicit(&asked, bit, memory_order_release);
	}
	return atomic_load_explicit(&there, memory_order_relaxed) & bit;
}

static bool is_integer_mnemonic(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_SETB:
	case ZYDIS_MNEMONIC_SETBE:
	case ZYDIS_MNEMONIC_SETL:
	case ZYDIS_MNEMONIC_SETLE:
	case ZYDIS_MNEMONIC_SETNB:
	case ZYDIS_MNEMONIC_SETNBE:
	case ZYDIS_MNEMONIC_SETNL:
	case ZYDIS_MNEMONIC_SETNLE:
	case ZYDIS_MNEMONIC_SETNO:
	case ZYDIS_MNEMONIC_SETNP:
	case ZYDIS_MNEMONIC_SETNS:
	case ZYDIS_MNEMONIC_SETNZ:
	case ZYDIS_MNEMONIC_SETO:
	case ZYDIS_MNEMONIC_SETP:
	case ZYDIS_MNEMONIC_SETS:
	case ZYDIS_MNEMONIC_SETZ:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XOR:
		return true;
	default:
		return false;
	}
}

/* What shares an instruction set name with ours, but does no computation, or isn't user code. */
static bool is_foreign_mnemonic(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_VMASKMOVPS: /* of their memory only what a mask names is touched */
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_LAHF: /* of the interpreter: its flags may be lazy */
	case ZYDIS_MNEMONIC_SAHF:
		return true;
	default:
		return false;
	}
}

struct isa {
	uint8_t isa_set; /* ZydisISASet */
	uint8_t unit;    /* enum hostop_unit */
	uint8_t feature; /* enum hostop_feature */
};

static const struct isa isas[] = {
	{ ZYDIS_ISA_SET_X87, HOSTOP_X87, HOSTOP_FEATURE_X87 },
	{ ZYDIS_ISA_SET_PPRO, HOSTOP_X87, HOSTOP_FEATURE_CMOV }, /* FCOMI; NOPs are no X87 */
	{ ZYDIS_ISA_SET_FCMOV, HOSTOP_X87, HOSTOP_FEATURE_CMOV },
	{ ZYDIS_ISA_SET_SSE3X87, HOSTOP_X87, HOSTOP_FEATURE_SSE3 },
	{ ZYDIS_ISA_SET_PENTIUMMMX, HOSTOP_MMX, HOSTOP_FEATURE_MMX },
	{ ZYDIS_ISA_SET_FXSAVE, HOSTOP_FXSAVE, HOSTOP_FEATURE_FXSR },
	{ ZYDIS_ISA_SET_FXSAVE64, HOSTOP_FXSAVE, HOSTOP_FEATURE_FXSR },
	{ ZYDIS_ISA_SET_SSE, HOSTOP_SSE, HOSTOP_FEATURE_SSE },
	{ ZYDIS_ISA_SET_SSEMXCSR, HOSTOP_SSE, HOSTOP_FEATURE_SSE },
	{ ZYDIS_ISA_SET_SSE2, HOSTOP_SSE, HOSTOP_FEATURE_SSE2 },
	{ ZYDIS_ISA_SET_SSE2MMX, HOSTOP_MMX, HOSTOP_FEATURE_SSE2 },
	{ ZYDIS_ISA_SET_SSE3, HOSTOP_SSE, HOSTOP_FEATURE_SSE3 },
	{ ZYDIS_ISA_SET_SSSE3, HOSTOP_SSE, HOSTOP_FEATURE_SSSE3 },
	{ ZYDIS_ISA_SET_SSSE3MMX, HOSTOP_MMX, HOSTOP_FEATURE_SSSE3 },
	{ ZYDIS_ISA_SET_SSE4, HOSTOP_SSE, HOSTOP_FEATURE_SSE4_1 },
	{ ZYDIS_ISA_SET_SSE42, HOSTOP_SSE, HOSTOP_FEATURE_SSE4_2 },
	{ ZYDIS_ISA_SET_AES, HOSTOP_SSE, HOSTOP_FEATURE_AES },
	{ ZYDIS_ISA_SET_PCLMULQDQ, HOSTOP_SSE, HOSTOP_FEATURE_PCLMULQDQ },
	{ ZYDIS_ISA_SET_SHA, HOSTOP_SSE, HOSTOP_FEATURE_SHA },
	{ ZYDIS_ISA_SET_POPCNT, HOSTOP_INTEGER, HOSTOP_FEATURE_POPCNT },
	{ ZYDIS_ISA_SET_MOVBE, HOSTOP_INTEGER, HOSTOP_FEATURE_MOVBE },
	{ ZYDIS_ISA_SET_ADOX_ADCX, HOSTOP_INTEGER, HOSTOP_FEATURE_ADX },
	{ ZYDIS_ISA_SET_LZCNT, HOSTOP_INTEGER, HOSTOP_FEATURE_LZCNT },
	{ ZYDIS_ISA_SET_BMI1, HOSTOP_INTEGER, HOSTOP_FEATURE_BMI1 },
	{ ZYDIS_ISA_SET_BMI2, HOSTOP_INTEGER, HOSTOP_FEATURE_BMI2 },
	{ ZYDIS_ISA_SET_AVX, HOSTOP_AVX, HOSTOP_FEATURE_AVX },
	{ ZYDIS_ISA_SET_AVXAES, HOSTOP_AVX, HOSTOP_FEATURE_AVX },
	{ ZYDIS_ISA_SET_AVX2, HOSTOP_AVX, HOSTOP_FEATURE_AVX2 },
	{ ZYDIS_ISA_SET_FMA, HOSTOP_AVX, HOSTOP_FEATURE_FMA },
	{ ZYDIS_ISA_SET_F16C, HOSTOP_AVX, HOSTOP_FEATURE_F16C },
	{ ZYDIS_ISA_SET_CMOV, HOSTOP_INTEGER, HOSTOP_FEATURE_CMOV },
	{ ZYDIS_ISA_SET_PENTIUMREAL, HOSTOP_INTEGER, HOSTOP_FEATURE_CX8 },
	{ ZYDIS_ISA_SET_CMPXCHG16B, HOSTOP_INTEGER, HOSTOP_FEATURE_CX16 },
	{ ZYDIS_ISA_SET_I86, HOSTOP_INTEGER, HOSTOP_BASE },
	{ ZYDIS_ISA_SET_I186, HOSTOP_INTEGER, HOSTOP_BASE },
	{ ZYDIS_ISA_SET_I386, HOSTOP_INTEGER, HOSTOP_BASE },
	{ ZYDIS_ISA_SET_I486REAL, HOSTOP_INTEGER, HOSTOP_BASE },
	{ ZYDIS_ISA_SET_LONGMODE, HOSTOP_INTEGER, HOSTOP_BASE },
};

static const struct isa *find_isa(ZydisISASet isa_set)
{
	for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++)
		if (isas[i].isa_set == (unsigned)isa_set)
			return &isas[i];
	return NULL;
}

static bool is_base_set(const struct isa *isa)
{
	return isa->feature == HOSTOP_BASE || isa->feature == HOSTOP_FEATURE_CX8 ||
	       isa->feature == HOSTOP_FEATURE_CX16;
}

static bool is_conversion_with_mmx(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
		return true;
	default:
		return false;
	}
}

static bool has_mmx_register(const ZydisDecodedInstruction *insn,
			     const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(operands[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

static enum hostop_unit unit_of(const ZydisDecodedInstruction *insn,
				const ZydisDecodedOperand *operands, const struct isa *isa)
{
	if (insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
		return HOSTOP_FWAIT;
	if (insn->mnemonic == ZYDIS_MNEMONIC_FISTTP) /* counted to SSE3 in one form */
		return HOSTOP_X87;
	if (insn->mnemonic == ZYDIS_MNEMONIC_CRC32)
		return HOSTOP_INTEGER;
	if (insn->mnemonic == ZYDIS_MNEMONIC_MOVNTI)
		return HOSTOP_INTEGER;
	if (isa->unit == HOSTOP_SSE && is_conversion_with_mmx(insn->mnemonic))
		return HOSTOP_SSE_MMX;
	if (isa->unit == HOSTOP_SSE && has_mmx_register(insn, operands))
		return insn->mnemonic == ZYDIS_MNEMONIC_MOVDQ2Q ||
			       insn->mnemonic == ZYDIS_MNEMONIC_MOVQ2DQ
			   ? HOSTOP_SSE_MMX
			   : HOSTOP_MMX;
	return isa->unit;
}

static bool is_vex(const ZydisDecodedInstruction *insn)
{
	return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}

static bool is_ours(const ZydisDecodedInstruction *insn, const struct isa *isa)
{
	if ((insn->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && !is_vex(insn)) || !isa ||
	    is_foreign_mnemonic(insn->mnemonic) || !host_has(isa->feature))
		return false;
	if (is_base_set(isa))
		return is_integer_mnemonic(insn->mnemonic);
	if (isa->unit == HOSTOP_X87)
		return insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
	return true;
}

/* ---- memory operand ---- */

static bool is_masked_move(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	       insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ||
	       insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
}

static uint8_t mem_access(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operand)
{
	uint8_t access = 0;

	/* Not all bytes are written: none by an x87 store with an unmasked exception. */
	if (insn->meta.category == ZYDIS_CATEGORY_X87_ALU &&
	    operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		return HOSTOP_MEM_READ | HOSTOP_MEM_WRITE;
	if (is_masked_move(insn) || insn->mnemonic == ZYDIS_MNEMONIC_FXSAVE ||
	    insn->mnemonic == ZYDIS_MNEMONIC_FXSAVE64)
		return HOSTOP_MEM_READ | HOSTOP_MEM_WRITE;
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
		access |= HOSTOP_MEM_READ;
	if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		access |= HOSTOP_MEM_WRITE;
	return access;
}

static bool vex_needs_alignment(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	default:
		return false;
	}
}

static uint8_t mem_align(const ZydisDecodedInstruction *insn, const struct hostop *op)
{
	if (is_vex(insn))
		return vex_needs_alignment(insn->mnemonic) ? (uint8_t)op->mem_size : 1;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return 1;
	default:
		return op->mem_size == 16 || op->mem_size == 512 ? 16 : 1;
	}
}

/* False if the instruction has a memory operand that isn't a plain one. */
static bool describe_memory(const ZydisDecodedInstruction *insn,
			    const ZydisDecodedOperand *operands, struct hostop *op)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *operand = &operands[i];

		if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (op->mem_size || operand->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
		    operand->size == 0 || operand->size % 8 || operand->size > 512 * 8)
			return false;
		op->mem_size = operand->size / 8;
		op->mem_access = mem_access(insn, operand);
		op->mem_align = mem_align(insn, op);
	}
	return true;
}

/* ---- register operands ---- */

static uint16_t gpr_offset(ZydisRegister reg)
{
	bool high = reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
	unsigned id = high ? (unsigned)(reg - ZYDIS_REGISTER_AH) : 0;

	if (!high)
		id = (unsigned)ZydisRegisterGetId(
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
	return (uint16_t)(offsetof(struct hostop_regs, gpr) + id * 8 + high);
}

static uint16_t xmm_offset(ZydisRegister reg)
{
	if (reg >= ZYDIS_REGISTER_YMM0 && reg <= ZYDIS_REGISTER_YMM15)
		reg = ZYDIS_REGISTER_XMM0 + (reg - ZYDIS_REGISTER_YMM0);
	return (uint16_t)(offsetof(struct hostop_regs, fpu.xmm) + (reg - ZYDIS_REGISTER_XMM0) * 16);
}

static bool is_written(const ZydisDecodedOperand *operand)
{
	return operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

/* Neither read nor kept in part: then its old value needn't be loaded. */
static bool xmm_replaced(const ZydisDecodedOperand *operand)
{
	return operand->actions == ZYDIS_OPERAND_ACTION_WRITE && operand->size >= 128;
}

/* A register operand that ModRM or the opcode names -> how it is loaded and stored. */
static bool add_named_register(const ZydisDecodedOperand *operand, const struct hostop *op,
			       bool in_place, struct code_operand *ret, uint16_t *ret_offset)
{
	switch (ZydisRegisterGetClass(operand->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
		ret->kind = OPERAND_GPR8;
		ret->load = true;
		*ret_offset = gpr_offset(operand->reg.value);
		break;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		ret->kind = OPERAND_GPR;
		ret->load = true; /* BSF leaves it alone at times, whatever the decoder says */
		*ret_offset = gpr_offset(operand->reg.value);
		break;
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
		*ret_offset = xmm_offset(operand->reg.value);
		if (in_place) {
			ret->kind = OPERAND_IN_PLACE;
			return true;
		}
		ret->kind = op->unit == HOSTOP_AVX ? OPERAND_YMM : OPERAND_XMM;
		ret->load = !xmm_replaced(operand);
		break;
	case ZYDIS_REGCLASS_MMX:
	case ZYDIS_REGCLASS_X87:
		ret->kind = OPERAND_IN_PLACE;
		return in_place;
	default:
		return false;
	}
	ret->store = is_written(operand);
	return true;
}

static uint8_t implicit_bit(ZydisRegister reg)
{
	switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg)) {
	case ZYDIS_REGISTER_RAX:
		return IMPLICIT_RAX;
	case ZYDIS_REGISTER_RCX:
		return IMPLICIT_RCX;
	case ZYDIS_REGISTER_RDX:
		return IMPLICIT_RDX;
	case ZYDIS_REGISTER_RBX:
		return IMPLICIT_RBX;
	default:
		return reg == ZYDIS_REGISTER_XMM0 ? IMPLICIT_XMM0 : 0;
	}
}

static bool add_implicit_register(const ZydisDecodedOperand *operand, struct code_recipe *recipe)
{
	uint8_t bit;

	switch (ZydisRegisterGetClass(operand->reg.value)) {
	case ZYDIS_REGCLASS_FLAGS: /* taken from cpu_flags */
	case ZYDIS_REGCLASS_X87:
		return true;
	default:
		break;
	}
	if (operand->reg.value == ZYDIS_REGISTER_X87STATUS ||
	    operand->reg.value == ZYDIS_REGISTER_X87CONTROL ||
	    operand->reg.value == ZYDIS_REGISTER_X87TAG ||
	    operand->reg.value == ZYDIS_REGISTER_MXCSR)
		return true;
	/* As the whole register is stored, it is always loaded too. */
	bit = implicit_bit(operand->reg.value);
	recipe->implicit_load |= bit;
	if (is_written(operand))
		recipe->implicit_store |= bit;
	return bit;
}

static bool describe_registers(const ZydisDecodedInstruction *insn,
			       const ZydisDecodedOperand *operands, struct hostop *op,
			       struct code_recipe *recipe)
{
	for (unsigned i = 0; i < insn->operand_count; i++) {
		const ZydisDecodedOperand *operand = &operands[i];
		bool ok = true;

		if (operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE)
			continue;
		if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER)
			return false;
		if (operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			ok = add_named_register(operand, op, recipe->fpu_image, &recipe->reg,
						&op->reg);
		else if (operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			 operand->encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			ok = add_named_register(operand, op, recipe->fpu_image, &recipe->rm,
						&op->rm);
		else if (operand->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD)
			ok = add_named_register(operand, op, false, &recipe->vex, &op->vex);
		else if (operand->encoding == ZYDIS_OPERAND_ENCODING_IS4)
			ok = add_named_register(operand, op, false, &recipe->is4, &op->is4);
		else
			ok = add_implicit_register(operand, recipe);
		if (!ok)
			return false;
	}
	return true;
}

/* ---- flags ---- */

#define STATUS_FLAGS 0x8d5u /* CF PF AF ZF SF OF */

/* Whether the instruction may leave flags alone (shift by 0) though it is said to write them. */
static bool flags_conditional(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SHRD:
		return true;
	default:
		return false;
	}
}

static void describe_flags(const ZydisDecodedInstruction *insn, struct hostop *op,
			   struct code_recipe *recipe)
{
	const ZydisAccessedFlags *flags = insn->cpu_flags;
	uint32_t written;

	if (!flags || op->unit == HOSTOP_FXSAVE)
		return;
	written = flags->modified | flags->set_0 | flags->set_1 | flags->undefined;
	op->flags_written = (uint16_t)(written & STATUS_FLAGS);
	op->flags_undefined = (uint16_t)(flags->undefined & STATUS_FLAGS);
	op->flags_read = (uint16_t)(flags->tested & STATUS_FLAGS);
	if (flags_conditional(insn) || op->flags_undefined)
		op->flags_read |= op->flags_written;
	recipe->flags_in = op->flags_read;
	recipe->flags_out = op->flags_written;
}

/* ---- re-encoding ---- */

enum { REX = 0x40, REX_W = 8, REX_R = 4, REX_X = 2, REX_B = 1 };
enum { RSI = 6, RDI = 7 };

static uint8_t mandatory_prefix(const ZydisDecodedInstruction *insn)
{
	for (unsigned i = 0; i < insn->raw.prefix_count; i++)
		if (insn->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY &&
		    (insn->raw.prefixes[i].value & 0xf0) != REX)
			return insn->raw.prefixes[i].value;
	return 0;
}

/* Integer instructions with 16-bit operands need 66, which in 16-bit code is the default. */
static bool needs_operand_size(const ZydisDecodedInstruction *insn,
			       const ZydisDecodedOperand *operands, const struct hostop *op)
{
	if (op->unit != HOSTOP_INTEGER || insn->mnemonic == ZYDIS_MNEMONIC_MOVNTI)
		return false;
	if (insn->mnemonic == ZYDIS_MNEMONIC_CRC32)
		return operands[1].size == 16;
	return insn->operand_width == 16;
}

static uint8_t host_register(const struct code_operand *operand, uint8_t guest, uint8_t gpr,
			     uint8_t xmm)
{
	switch (operand->kind) {
	case OPERAND_GPR:
	case OPERAND_GPR8:
		return gpr;
	case OPERAND_XMM:
	case OPERAND_YMM:
		return xmm;
	default:
		return guest;
	}
}

struct encoding {
	uint8_t prefixes[4], prefix_count;
	uint8_t rex, opcode, modrm;
	bool has_modrm;
};

static void choose_prefixes(const ZydisDecodedInstruction *insn,
			    const ZydisDecodedOperand *operands, const struct hostop *op,
			    struct encoding *enc)
{
	uint8_t mandatory = mandatory_prefix(insn);

	if (op->locked && insn->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		enc->prefixes[enc->prefix_count++] = 0xf0;
	if (mandatory != 0x66 && needs_operand_size(insn, operands, op))
		enc->prefixes[enc->prefix_count++] = 0x66;
	if (mandatory)
		enc->prefixes[enc->prefix_count++] = mandatory;
}

static void choose_registers(const ZydisDecodedInstruction *insn, const struct hostop *op,
			     const struct code_recipe *recipe, struct encoding *enc)
{
	const struct ZydisDecodedInstructionModRm_ *m = &insn->raw.modrm;
	uint8_t reg = host_register(&recipe->reg, m->reg, HOST_GPR_REG, HOST_XMM_REG);
	uint8_t rm = host_register(&recipe->rm, m->rm, HOST_GPR_RM, HOST_XMM_RM);
	uint8_t mod = 3;

	enc->has_modrm = insn->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	enc->opcode = insn->opcode;
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && insn->opcode == 0x82)
		enc->opcode = 0x80; /* the same, but there in 64-bit mode too */
	if (!enc->has_modrm) {
		if (recipe->rm.kind == OPERAND_GPR || recipe->rm.kind == OPERAND_GPR8) {
			enc->opcode = (insn->opcode & 0xf8) | (HOST_GPR_RM & 7);
			enc->rex |= REX_B;
		}
		return;
	}
	/* XMM operands that stay in place keep their REX extension; MMX ones ignore it. */
	if (recipe->reg.kind == OPERAND_IN_PLACE && insn->raw.rex.R)
		reg |= 8;
	if (recipe->rm.kind == OPERAND_IN_PLACE && insn->raw.rex.B)
		rm |= 8;
	if (m->mod != 3) {
		mod = 0;
		rm = RSI;
	}
	if (reg & 8)
		enc->rex |= REX_R;
	if (rm & 8)
		enc->rex |= REX_B;
	enc->modrm = (uint8_t)(mod << 6 | (reg & 7) << 3 | (rm & 7));
}

static bool opcode_map_bytes(ZydisOpcodeMap map, uint8_t bytes[2], unsigned *count)
{
	bytes[0] = 0x0f;
	switch (map) {
	case ZYDIS_OPCODE_MAP_DEFAULT:
		*count = 0;
		return true;
	case ZYDIS_OPCODE_MAP_0F:
		*count = 1;
		return true;
	case ZYDIS_OPCODE_MAP_0F38:
		bytes[1] = 0x38;
		*count = 2;
		return true;
	case ZYDIS_OPCODE_MAP_0F3A:
		bytes[1] = 0x3a;
		*count = 2;
		return true;
	default:
		return false;
	}
}

/* Wider immediates would make the amount of code unbounded. */
static bool immediate_fits(const ZydisDecodedInstruction *insn)
{
	return insn->raw.imm[1].size == 0 &&
	       (insn->raw.imm[0].size == 0 || insn->raw.imm[0].size == 8);
}

/* REX.W where it means something: elsewhere it would only make more code. */
static bool needs_wide(const ZydisDecodedInstruction *insn, const struct hostop *op,
		       const struct code_recipe *recipe)
{
	if (!(insn->attributes & ZYDIS_ATTRIB_HAS_REX) || !insn->raw.rex.W)
		return false;
	if (op->unit == HOSTOP_INTEGER || recipe->reg.kind == OPERAND_GPR ||
	    recipe->rm.kind == OPERAND_GPR)
		return true;
	switch (insn->mnemonic) { /* by its memory or implicit operands */
	case ZYDIS_MNEMONIC_CVTSI2SD:
	case ZYDIS_MNEMONIC_CVTSI2SS:
	case ZYDIS_MNEMONIC_MOVQ:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PEXTRQ:
	case ZYDIS_MNEMONIC_PINSRQ:
		return true;
	default:
		return false;
	}
}

static void put(struct code_recipe *recipe, uint8_t byte)
{
	recipe->insn[recipe->length++] = byte;
}

/* The form of three bytes. Zydis numbers the maps as they are encoded. */
static void put_vex(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		    const struct encoding *enc, struct code_recipe *recipe)
{
	unsigned vvvv = 15;

	if (recipe->vex.kind == OPERAND_YMM)
		vvvv = ~HOST_XMM_VEX & 15;
	else if (recipe->vex.kind != OPERAND_NONE)
		vvvv = ~HOST_GPR_VEX & 15;
	put(recipe, 0xc4);
	put(recipe, (uint8_t)((enc->rex & REX_R ? 0 : 0x80) | 0x40 | (enc->rex & REX_B ? 0 : 0x20) |
			      insn->raw.vex.m_mmmm));
	put(recipe, (uint8_t)((zydis_vex_w(insn, operands) ? 0x80 : 0) | vvvv << 3 |
			      insn->raw.vex.L << 2 | insn->raw.vex.pp));
	put(recipe, enc->opcode);
	put(recipe, enc->modrm);
}

static void put_legacy(const ZydisDecodedInstruction *insn, const struct hostop *op,
		       const uint8_t *map, unsigned map_count, struct encoding *enc,
		       struct code_recipe *recipe)
{
	if (needs_wide(insn, op, recipe))
		enc->rex |= REX_W;
	for (unsigned i = 0; i < enc->prefix_count; i++)
		put(recipe, enc->prefixes[i]);
	if (enc->rex)
		put(recipe, REX | enc->rex);
	for (unsigned i = 0; i < map_count; i++)
		put(recipe, map[i]);
	put(recipe, enc->opcode);
	if (enc->has_modrm)
		put(recipe, enc->modrm);
}

static bool encode(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		   const struct hostop *op, struct code_recipe *recipe)
{
	struct encoding enc = { 0 };
	uint8_t map[2];
	unsigned map_count;

	if (!opcode_map_bytes(insn->opcode_map, map, &map_count) || !immediate_fits(insn))
		return false;
	choose_prefixes(insn, operands, op, &enc);
	choose_registers(insn, op, recipe, &enc);
	if (is_vex(insn))
		put_vex(insn, operands, &enc, recipe);
	else
		put_legacy(insn, op, map, map_count, &enc, recipe);
	if (recipe->is4.kind != OPERAND_NONE)
		put(recipe, HOST_XMM_IS4 << 4 | (insn->raw.imm[0].value.u & 15));
	else if (insn->raw.imm[0].size)
		put(recipe, (uint8_t)insn->raw.imm[0].value.u);
	return true;
}

/* 40 to 4F are INC and DEC in 16- and 32-bit code only; memory offsets without ModRM and
 * bit offsets that reach beyond the operand aren't plain. */
static bool encodable(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		      const struct hostop *op)
{
	if (insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xf0) == 0x40)
		return false;
	if (op->mem_size && !(insn->attributes & ZYDIS_ATTRIB_HAS_MODRM))
		return false;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
		return !op->mem_size || operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	default:
		return true;
	}
}

/* ---- floating point ---- */

static bool is_simd_fp(const ZydisDecodedInstruction *insn)
{
	return insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE2 ||
	       insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE3 ||
	       insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX2 ||
	       insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX3 ||
	       insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX11;
}

/* Operations whose result may be too small for its format: not comparisons, minima, square roots
 * and conversions to integers or wider formats. */
static bool can_underflow(const ZydisDecodedInstruction *insn)
{
	if (insn->meta.isa_set == ZYDIS_ISA_SET_FMA)
		return true;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VADDPD:
	case ZYDIS_MNEMONIC_VADDPS:
	case ZYDIS_MNEMONIC_VADDSD:
	case ZYDIS_MNEMONIC_VADDSS:
	case ZYDIS_MNEMONIC_VADDSUBPD:
	case ZYDIS_MNEMONIC_VADDSUBPS:
	case ZYDIS_MNEMONIC_VCVTPD2PS:
	case ZYDIS_MNEMONIC_VCVTPS2PH:
	case ZYDIS_MNEMONIC_VCVTSD2SS:
	case ZYDIS_MNEMONIC_VDIVPD:
	case ZYDIS_MNEMONIC_VDIVPS:
	case ZYDIS_MNEMONIC_VDIVSD:
	case ZYDIS_MNEMONIC_VDIVSS:
	case ZYDIS_MNEMONIC_VDPPD:
	case ZYDIS_MNEMONIC_VDPPS:
	case ZYDIS_MNEMONIC_VHADDPD:
	case ZYDIS_MNEMONIC_VHADDPS:
	case ZYDIS_MNEMONIC_VHSUBPD:
	case ZYDIS_MNEMONIC_VHSUBPS:
	case ZYDIS_MNEMONIC_VMULPD:
	case ZYDIS_MNEMONIC_VMULPS:
	case ZYDIS_MNEMONIC_VMULSD:
	case ZYDIS_MNEMONIC_VMULSS:
	case ZYDIS_MNEMONIC_VSUBPD:
	case ZYDIS_MNEMONIC_VSUBPS:
	case ZYDIS_MNEMONIC_VSUBSD:
	case ZYDIS_MNEMONIC_VSUBSS:
	case ZYDIS_MNEMONIC_ADDPD:
	case ZYDIS_MNEMONIC_ADDPS:
	case ZYDIS_MNEMONIC_ADDSD:
	case ZYDIS_MNEMONIC_ADDSS:
	case ZYDIS_MNEMONIC_ADDSUBPD:
	case ZYDIS_MNEMONIC_ADDSUBPS:
	case ZYDIS_MNEMONIC_CVTPD2PS:
	case ZYDIS_MNEMONIC_CVTSD2SS:
	case ZYDIS_MNEMONIC_DIVPD:
	case ZYDIS_MNEMONIC_DIVPS:
	case ZYDIS_MNEMONIC_DIVSD:
	case ZYDIS_MNEMONIC_DIVSS:
	case ZYDIS_MNEMONIC_DPPD:
	case ZYDIS_MNEMONIC_DPPS:
	case ZYDIS_MNEMONIC_HADDPD:
	case ZYDIS_MNEMONIC_HADDPS:
	case ZYDIS_MNEMONIC_HSUBPD:
	case ZYDIS_MNEMONIC_HSUBPS:
	case ZYDIS_MNEMONIC_MULPD:
	case ZYDIS_MNEMONIC_MULPS:
	case ZYDIS_MNEMONIC_MULSD:
	case ZYDIS_MNEMONIC_MULSS:
	case ZYDIS_MNEMONIC_SUBPD:
	case ZYDIS_MNEMONIC_SUBPS:
	case ZYDIS_MNEMONIC_SUBSD:
	case ZYDIS_MNEMONIC_SUBSS:
		return true;
	default:
		return false;
	}
}

static uint8_t underflow_flags(const ZydisDecodedInstruction *insn,
			       const ZydisDecodedOperand *operands)
{
	uint8_t flags;

	if (!can_underflow(insn))
		return 0;
	if (insn->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH)
		return HOSTOP_TINY_F16 | HOSTOP_TINY_PACKED;
	flags = operands[0].element_type == ZYDIS_ELEMENT_TYPE_FLOAT32 ? HOSTOP_TINY_F32
								       : HOSTOP_TINY_F64;
	if (insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_SSE2 ||
	    insn->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX2)
		flags |= HOSTOP_TINY_PACKED;
	return flags;
}

/* ---- x87 ---- */

static uint16_t x87_opcode(const ZydisDecodedInstruction *insn)
{
	const struct ZydisDecodedInstructionModRm_ *m = &insn->raw.modrm;

	return (uint16_t)((insn->opcode & 7) << 8 | m->mod << 6 | m->reg << 3 | m->rm);
}

static bool uses_fpu_image(const struct hostop *op)
{
	return op->unit == HOSTOP_X87 || op->unit == HOSTOP_MMX || op->unit == HOSTOP_SSE_MMX;
}

static uint8_t private_flags(const ZydisDecodedInstruction *insn,
			     const ZydisDecodedOperand *operands, const struct hostop *op)
{
	uint8_t flags = underflow_flags(insn, operands);

	if (insn->machine_mode != ZYDIS_MACHINE_MODE_LONG_64)
		flags |= HOSTOP_LEGACY_MODE;
	if (insn->machine_mode == ZYDIS_MACHINE_MODE_REAL_16)
		flags |= HOSTOP_REAL_MODE;
	if (insn->meta.isa_set == ZYDIS_ISA_SET_FXSAVE64)
		flags |= HOSTOP_WIDE;
	return flags;
}

static bool waits(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		  const struct hostop *op)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return false;
	default:
		return op->unit == HOSTOP_X87 || op->unit == HOSTOP_FWAIT ||
		       op->unit == HOSTOP_MMX || has_mmx_register(insn, operands);
	}
}

/* The light form of an instruction that has its full form already. */
static void prepare_light(struct hostop_arena *arena, const ZydisDecodedInstruction *insn,
			  struct hostop *op)
{
	struct hostop light = *op;
	struct code_recipe recipe;
	struct code_entry entry;

	memset(&recipe, 0, sizeof(recipe));
	if (!hostop_x87_describe(insn, &light, &recipe))
		return;
	describe_flags(insn, &light, &recipe);
	if (recipe.light) {
		if (!hostop_code_get(arena, &recipe, &entry))
			return;
		light.light = entry.code;
	}
	*op = light;
}

/* ---- together ---- */

static hostop_fn *choose_runner(const ZydisDecodedInstruction *insn, const struct hostop *op,
				const struct code_entry *entry)
{
	if (op->unit == HOSTOP_SSE_MMX && insn->mnemonic != ZYDIS_MNEMONIC_MOVDQ2Q &&
	    insn->mnemonic != ZYDIS_MNEMONIC_MOVQ2DQ)
		return hostop_run_mmx_fp;
	if (uses_fpu_image(op))
		return hostop_run_x87;
	return entry->plain;
}

static bool prepare_code(struct hostop_arena *arena, const ZydisDecodedInstruction *insn,
			 const ZydisDecodedOperand *operands, struct hostop *op)
{
	struct code_recipe recipe;
	struct code_entry entry;

	memset(&recipe, 0, sizeof(recipe));
	recipe.fpu_image = uses_fpu_image(op);
	recipe.mem_in_rdi = is_masked_move(insn);
	recipe.check_mxcsr = is_simd_fp(insn);
	recipe.vex_xmm0 = insn->mnemonic == ZYDIS_MNEMONIC_VPCMPESTRM ||
			  insn->mnemonic == ZYDIS_MNEMONIC_VPCMPISTRM;
	describe_flags(insn, op, &recipe);
	if (!encodable(insn, operands, op) || !describe_registers(insn, operands, op, &recipe) ||
	    !encode(insn, operands, op, &recipe) || !hostop_code_get(arena, &recipe, &entry))
		return false;
	op->code = entry.code;
	op->run = choose_runner(insn, op, &entry);
	if (op->unit == HOSTOP_X87)
		prepare_light(arena, insn, op);
	return true;
}

static bool is_locked(const ZydisDecodedInstruction *insn, const struct hostop *op)
{
	return insn->attributes & ZYDIS_ATTRIB_HAS_LOCK ||
	       (insn->mnemonic == ZYDIS_MNEMONIC_XCHG && op->mem_size);
}

bool hostop_prepare(struct hostop_arena *arena, const ZydisDecodedInstruction *insn,
		    const ZydisDecodedOperand *operands, struct hostop *ret)
{
	const struct isa *isa = find_isa(insn->meta.isa_set);
	struct hostop op = { 0 };

	if (!is_ours(insn, isa))
		return false;
	op.unit = (uint8_t)unit_of(insn, operands, isa);
	op.feature = isa->feature;
	if (!describe_memory(insn, operands, &op))
		return false;
	op.locked = is_locked(insn, &op);
	op.private_flags = private_flags(insn, operands, &op);
	op.waits = waits(insn, operands, &op);
	if (op.unit == HOSTOP_X87)
		op.fop = x87_opcode(insn);
	op.run = hostop_image_op(insn->mnemonic);
	if (!op.run && !prepare_code(arena, insn, operands, &op))
		return false;
	*ret = op;
	return true;
}
