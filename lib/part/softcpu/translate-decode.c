/*
 * What the translator needs to know of one instruction, from its bytes alone.
 */
#include "part/softcpu/known.h"
#include "part/softcpu/zydis.h"
#include "part/softcpu/translate-gen.h"

#include <string.h>

static enum xl_kind integer_kind(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_LEA:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_MOVBE:
	case ZYDIS_MNEMONIC_ADCX:
	case ZYDIS_MNEMONIC_ADOX:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_ANDN:
	case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BLSI:
	case ZYDIS_MNEMONIC_BLSMSK:
	case ZYDIS_MNEMONIC_BLSR:
	case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_MULX:
	case ZYDIS_MNEMONIC_PDEP:
	case ZYDIS_MNEMONIC_PEXT:
	case ZYDIS_MNEMONIC_RORX:
	case ZYDIS_MNEMONIC_SARX:
	case ZYDIS_MNEMONIC_SHLX:
	case ZYDIS_MNEMONIC_SHRX:
		return XL_PLAIN;
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_ENDBR32:
	case ZYDIS_MNEMONIC_ENDBR64:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHWT1:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return XL_NOTHING;
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		return XL_DIVIDE;
	case ZYDIS_MNEMONIC_PUSH:
		return XL_PUSH;
	case ZYDIS_MNEMONIC_POP:
		return XL_POP;
	case ZYDIS_MNEMONIC_LEAVE:
		return XL_LEAVE_FRAME;
	default:
		return XL_INTERPRET;
	}
}

/* All that works on MMX registers and nothing else but memory and general registers. */
static bool is_mmx(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	bool mmx = in->mnemonic == ZYDIS_MNEMONIC_EMMS;

	if (in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ) /* its memory operand isn't named */
		return false;
	for (unsigned i = 0; i < in->operand_count_visible; i++) {
		if (op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		if (ZydisRegisterGetClass(op[i].reg.value) == ZYDIS_REGCLASS_XMM)
			return false;
		mmx |= ZydisRegisterGetClass(op[i].reg.value) == ZYDIS_REGCLASS_MMX;
	}
	return mmx;
}

/* SSE to SSE4.2, AES, PCLMULQDQ and SHA on XMM registers; those with operands that nothing names,
 * or that set modes, aren't for us. */
static bool is_sse(const ZydisDecodedInstruction *in)
{
	switch (in->meta.isa_ext) {
	case ZYDIS_ISA_EXT_SSE:
	case ZYDIS_ISA_EXT_SSE2:
	case ZYDIS_ISA_EXT_SSE3:
	case ZYDIS_ISA_EXT_SSSE3:
	case ZYDIS_ISA_EXT_SSE4:
	case ZYDIS_ISA_EXT_AES:
	case ZYDIS_ISA_EXT_PCLMULQDQ:
	case ZYDIS_ISA_EXT_SHA:
		break;
	default:
		return false;
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_MONITOR:
	case ZYDIS_MNEMONIC_MWAIT:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_CLFLUSH:
		return false;
	default:
		return true;
	}
}

/* AVX, AVX2, FMA and F16C, without those that touch only parts of their memory or what their
 * operands don't name. */
static bool is_avx(const ZydisDecodedInstruction *in)
{
	switch (in->meta.isa_set) {
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_F16C:
		break;
	default:
		return false;
	}
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return false;
	case ZYDIS_MNEMONIC_VZEROUPPER: /* of 8 registers elsewhere */
	case ZYDIS_MNEMONIC_VZEROALL:
		return in->machine_mode == ZYDIS_MACHINE_MODE_LONG_64;
	default:
		return true;
	}
}

/* Those that load, store or reset the whole state, or that wait for it, aren't for us. */
static enum xl_kind x87_kind(const ZydisDecodedInstruction *in, struct xl_insn *x)
{
	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_FLDCW:
		x->x87_control = true;
		return XL_X87_FLDCW;
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FWAIT:
		x->x87_control = true;
		return XL_X87;
	case ZYDIS_MNEMONIC_FNINIT:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP:
		return XL_INTERPRET;
	default:
		return XL_X87;
	}
}

static bool is_x87(const ZydisDecodedInstruction *in)
{
	return in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	       ((in->opcode & 0xf8) == 0xd8 || in->opcode == 0x9b);
}

/* MOVS, STOS, LODS, whose operands nothing names. */
static enum xl_kind string_kind(const ZydisDecodedInstruction *in)
{
	switch (in->opcode & 0xfe) {
	case 0xa4:
	case 0xaa:
	case 0xac:
		return in->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT ? XL_STRING : XL_INTERPRET;
	default:
		return XL_INTERPRET;
	}
}

static enum xl_kind kind_of(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			    struct xl_insn *x)
{
	enum xl_kind kind = integer_kind(in->mnemonic);

	if (kind != XL_INTERPRET)
		return kind;
	switch (in->meta.category) {
	case ZYDIS_CATEGORY_SETCC:
	case ZYDIS_CATEGORY_CMOV:
		return XL_PLAIN;
	case ZYDIS_CATEGORY_COND_BR: /* not LOOP, JCXZ */
		return in->opcode_map == ZYDIS_OPCODE_MAP_0F || (in->opcode & 0xf0) == 0x70
			   ? XL_JCC
			   : XL_INTERPRET;
	case ZYDIS_CATEGORY_STRINGOP:
		return string_kind(in);
	default:
		break;
	}
	if (in->mnemonic == ZYDIS_MNEMONIC_JMP && (in->opcode == 0xe9 || in->opcode == 0xeb))
		return XL_JMP;
	if (is_x87(in))
		return x87_kind(in, x);
	x->mmx = is_mmx(in, op);
	x->sse = !x->mmx && is_sse(in);
	x->avx = is_avx(in);
	if (in->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || in->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR)
		return XL_LDMXCSR;
	return x->mmx || x->sse || x->avx ? XL_PLAIN : XL_INTERPRET;
}

/* Flags, for all that is not interpreted. */
static void find_flags(const ZydisDecodedInstruction *in, struct xl_insn *x)
{
	const ZydisAccessedFlags *f = in->cpu_flags;

	if (!f)
		return;
	x->use = f->tested & RF_ARITH;
	x->kill = (f->modified | f->set_0 | f->set_1 | f->undefined) & RF_ARITH;
	x->writes_flags = x->kill != 0;
}

/* Shifts and rotates by 0 change nothing; those by CL may be by 0. */
static bool may_not_write(const ZydisDecodedInstruction *in, const struct xl_insn *x)
{
	unsigned mask = in->operand_width == 64 ? 63 : 31;

	switch (in->mnemonic) {
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
		if (in->opcode == 0xd0 || in->opcode == 0xd1)
			return false;
		return !x->imm_len || !(x->imm[0] & mask);
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
		return !x->imm_len || !(x->imm[0] & mask);
	default:
		return false;
	}
}

static void find_prefixes(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			  struct xl_insn *x)
{
	for (unsigned i = 0; i < in->raw.prefix_count; i++) {
		uint8_t v = in->raw.prefixes[i].value;

		if (v == 0x66)
			x->op.size66 = 0x66;
		else if ((v == 0xf2 || v == 0xf3) &&
			 in->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
			x->op.prefix = v;
	}
	x->op.lock = in->attributes & ZYDIS_ATTRIB_HAS_LOCK;
	x->op.w = in->raw.rex.W;
	if (in->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
		static const uint8_t pp[4] = { 0, 0x66, 0xf3, 0xf2 };

		x->op.vex = true;
		x->op.prefix = pp[in->raw.vex.pp & 3];
		x->op.l256 = in->raw.vex.L;
		x->op.w = zydis_vex_w(in, op);
	}
}

static bool find_opcode(const ZydisDecodedInstruction *in, struct xl_insn *x)
{
	switch (in->opcode_map) {
	case ZYDIS_OPCODE_MAP_DEFAULT:
		x->op.map = MAP_ONE;
		break;
	case ZYDIS_OPCODE_MAP_0F:
		x->op.map = MAP_0F;
		break;
	case ZYDIS_OPCODE_MAP_0F38:
		x->op.map = MAP_0F38;
		break;
	case ZYDIS_OPCODE_MAP_0F3A:
		x->op.map = MAP_0F3A;
		break;
	default:
		return false;
	}
	x->op.op = in->opcode;
	x->modrm = in->attributes & ZYDIS_ATTRIB_HAS_MODRM;
	x->extension = in->raw.modrm.reg;
	return true;
}

static bool find_register(const ZydisDecodedOperand *op, struct xl_operand *ret)
{
	ZydisRegister reg = op->reg.value;

	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
		if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
			ret->class = OPERAND_HIGH;
			ret->number = (uint8_t)(reg - ZYDIS_REGISTER_AH + 4);
			break;
		}
		ret->class = OPERAND_GPR;
		ret->number = (uint8_t)(reg <= ZYDIS_REGISTER_BL ? reg - ZYDIS_REGISTER_AL
								 : reg - ZYDIS_REGISTER_SPL + 4);
		break;
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		ret->class = OPERAND_GPR;
		ret->number = (uint8_t)ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_MMX:
		ret->class = OPERAND_MMX;
		ret->number = (uint8_t)ZydisRegisterGetId(reg);
		break;
	case ZYDIS_REGCLASS_XMM:
	case ZYDIS_REGCLASS_YMM:
		ret->class = OPERAND_XMM;
		ret->number = (uint8_t)ZydisRegisterGetId(reg);
		break;
	default:
		return false;
	}
	ret->size = (uint8_t)(op->size / 8);
	ret->read = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	ret->write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	return true;
}

static bool find_memory(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			struct xl_insn *x)
{
	if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || in->address_width == 16)
		return false;
	if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
		return true;
	if (op->mem.type != ZYDIS_MEMOP_TYPE_MEM || op->size > (x->avx ? 256 : 128))
		return false;
	x->mem_size = (uint8_t)(op->size / 8);
	x->mem_read = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	x->mem_write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	x->mem_aligned = in->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B;
	return true;
}

/* A memory operand or ST(i); the handler knows its size. */
static bool find_x87_operands(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			      struct xl_insn *x)
{
	x->rm.class = OPERAND_ST;
	x->rm.number = in->raw.modrm.rm;
	if (!x->modrm || in->raw.modrm.mod == 3)
		return true;
	for (unsigned i = 0; i < in->operand_count_visible; i++, op++)
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY)
			return find_memory(in, op, x);
	return false;
}

static bool is_segment(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
	       ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

/* Operands that ModRM or the opcode name; the others stay what they are. */
static bool find_operands(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
			  struct xl_insn *x)
{
	if (x->kind == XL_X87 || x->kind == XL_X87_FLDCW)
		return find_x87_operands(in, op, x);
	for (unsigned i = 0; i < in->operand_count; i++, op++) {
		bool named = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ||
			     op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			     op->encoding == ZYDIS_OPERAND_ENCODING_OPCODE;

		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (i < in->operand_count_visible && !find_memory(in, op, x))
				return false;
		} else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && named) {
			bool reg = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG;

			if (!find_register(op, reg ? &x->reg : &x->rm))
				return false;
			x->plus_r |= op->encoding == ZYDIS_OPERAND_ENCODING_OPCODE;
		} else if (op->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) {
			if (!find_register(op, &x->vex))
				return false;
		} else if (op->encoding == ZYDIS_OPERAND_ENCODING_IS4 &&
			   in->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
			x->imm[0] &= 0x7f;   /* there it is one of 8 registers */
		} else if (is_segment(op)) { /* PUSH and POP: the opcode says which */
			return false;
		}
	}
	return true;
}

/* BT and its kin with a register as index reach beyond the operand in memory. */
static bool is_bit_string(const struct xl_insn *x)
{
	return x->op.map == MAP_0F && x->mem_size &&
	       (x->op.op == 0xa3 || x->op.op == 0xab || x->op.op == 0xb3 || x->op.op == 0xbb);
}

/* In 32-bit code 40 to 4F are INC and DEC, which are REX prefixes to us. */
static void replace_short_inc(struct xl_insn *x)
{
	if (x->op.map != MAP_ONE || (x->op.op & 0xf0) != 0x40)
		return;
	x->extension = x->op.op & 8 ? 1 : 0;
	x->op.op = 0xff;
	x->modrm = true;
	x->plus_r = false;
}

static void find_immediate(const ZydisDecodedInstruction *in, const uint8_t *code,
			   struct xl_insn *x)
{
	if (!in->raw.imm[0].size)
		return;
	x->imm_len = (uint8_t)(in->length - in->raw.imm[0].offset);
	if (x->imm_len <= sizeof(x->imm))
		memcpy(x->imm, code + in->raw.imm[0].offset, x->imm_len);
	x->rel = (int32_t)in->raw.imm[0].value.s;
}

static bool find_all(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
		     const uint8_t *code, struct xl_insn *x)
{
	find_prefixes(in, op, x);
	find_immediate(in, code, x);
	if (!find_opcode(in, x) || x->imm_len > sizeof(x->imm))
		return false;
	if (x->kind != XL_NOTHING && x->kind != XL_STRING && !find_operands(in, op, x))
		return false;
	if (is_bit_string(x) || (x->op.map == MAP_ONE && x->op.op == 0x82))
		return false;
	if (in->mnemonic == ZYDIS_MNEMONIC_BSWAP && x->rm.size == 2) /* undefined */
		return false;
	if (in->mnemonic == ZYDIS_MNEMONIC_MOVSXD && x->reg.size == 2) /* each vendor's */
		return false;
	replace_short_inc(x);
	return true;
}

/* The general registers that it writes, named or not. */
static uint16_t registers_written(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op)
{
	uint16_t all = 0;

	for (unsigned i = 0; i < in->operand_count; i++, op++) {
		ZydisRegister reg;

		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
		    !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		reg = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op->reg.value);
		if (ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_GPR64)
			all |= (uint16_t)BIT(ZydisRegisterGetId(reg));
	}
	return all;
}

void xl_describe(const ZydisDecodedInstruction *in, const ZydisDecodedOperand *op,
		 const uint8_t *code, struct xl_insn *ret)
{
	struct xl_insn *x = ret;

	*x = (struct xl_insn){ .len = in->length, .mnemonic = in->mnemonic };
	x->kind = (uint8_t)kind_of(in, op, x);
	x->writes = registers_written(in, op);
	if (in->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    in->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		x->kind = XL_INTERPRET;
	if (x->kind != XL_INTERPRET && !find_all(in, op, code, x))
		x->kind = XL_INTERPRET;
	if (x->kind == XL_INTERPRET) {
		x->use = RF_ARITH;
		return;
	}
	find_flags(in, x);
	if (may_not_write(in, x))
		x->kill = 0;
}

bool xl_decode(struct vp *c, unsigned key, const uint8_t *code, size_t len, struct xl_insn *x)
{
	ZyanStatus status;
	const struct known_insn *k = sc_known_insn(c, key, code, len, &status);
	struct uop *u = x->u;
	uint16_t off = x->off;

	if (!k)
		return false;
	known_xl(k, code, x);
	x->u = u;
	x->off = off;
	return true;
}
