/*
 * A case from its number: instructions of forms.c one after the other, and an initial state in
 * which their memory operands fall where we want: mostly into the data pages, at times across
 * pages, beyond them, or nowhere. For that only registers are set that no earlier instruction has
 * used, and none that an earlier one has written may form an address.
 */
#include "forms.h"
#include "part/softcpu/zydis.h"
#include "random.h"

#include <stdlib.h>
#include <string.h>

struct generator {
	struct generator_options options;
	ZydisDecoder decoder;
};

/* A case being made. */
struct maker {
	const struct generator *generator;
	const struct cpu_layout *layout;
	struct rng rng;
	struct cpu_case *c;
	/* what the instructions so far have done to registers (bits by number) and flags */
	uint32_t used, written;
	uint32_t pinned; /* chosen, or part of an address */
	uint16_t undefined;
	/* the next instruction */
	struct code code;
	uint64_t ip;
	ZydisDecodedInstruction insn;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
};

enum { RCX = 1, RDX = 2, RSP = 4, RBP = 5, RSI = 6, RDI = 7 };

#define FLAGS_STATUS 0x8d5u

struct generator *generator_new(const struct generator_options *options)
{
	static const struct {
		ZydisMachineMode machine;
		ZydisStackWidth stack;
	} modes[] = {
		[CPU_MODE_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
		[CPU_MODE_32] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32 },
		[CPU_MODE_16] = { ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_16 },
	};
	struct generator *generator = calloc(1, sizeof(*generator));

	if (!generator)
		exit(2);
	generator->options = *options;
	generator->options.avx =
	    options->avx && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
	ZydisDecoderInit(&generator->decoder, modes[options->mode].machine,
			 modes[options->mode].stack);
	return generator;
}

void generator_free(struct generator *generator)
{
	free(generator);
}

/* ---- registers and addresses ---- */

static bool is_gpr(ZydisRegister reg)
{
	switch (ZydisRegisterGetClass(reg)) {
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return true;
	default:
		return false;
	}
}

static unsigned gpr_number(ZydisRegister reg)
{
	return (unsigned)ZydisRegisterGetId(
	    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static uint64_t width_mask(unsigned bits)
{
	return bits >= 64 ? UINT64_MAX : (1ull << bits) - 1;
}

static uint64_t register_value(const struct cpu_state *state, ZydisRegister reg)
{
	return state->gpr[gpr_number(reg)] &
	       width_mask(ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static bool is_ip(ZydisRegister reg)
{
	return reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP;
}

uint64_t effective_address(const struct cpu_state *state, uint64_t ip,
			   const ZydisDecodedInstruction *insn, const ZydisDecodedOperandMem *mem)
{
	uint64_t address = (uint64_t)mem->disp.value;

	if (is_ip(mem->base))
		address += ip + insn->length;
	else if (mem->base != ZYDIS_REGISTER_NONE)
		address += register_value(state, mem->base);
	if (is_gpr(mem->index)) /* a gather's is none, and small */
		address += register_value(state, mem->index) * mem->scale;
	return address & width_mask(insn->address_width);
}

static bool is_memory(const ZydisDecodedOperand *operand)
{
	return operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       operand->mem.type != ZYDIS_MEMOP_TYPE_AGEN;
}

/* Linear address of a memory operand. */
static uint64_t linear(const struct maker *m, const ZydisDecodedOperand *operand)
{
	return m->layout->data_base +
	       effective_address(&m->c->before, m->ip, &m->insn, &operand->mem);
}

static uint8_t *data_at(struct maker *m, uint64_t address, unsigned size)
{
	return in_data(address, size) ? m->c->before.data + (address - DATA_ADDRESS) : NULL;
}

/* Where the first operand is, if it is in the data pages. */
static uint8_t *first_operand(struct maker *m, unsigned size)
{
	return is_memory(&m->operands[0]) ? data_at(m, linear(m, &m->operands[0]), size) : NULL;
}

/* A register's initial value may be chosen if no instruction yet depends on it. */
static bool may_set(const struct maker *m, unsigned number)
{
	return !(m->used >> number & 1);
}

static void set_register(struct maker *m, unsigned number, uint64_t value)
{
	if (!may_set(m, number))
		return;
	m->pinned |= 1u << number;
	m->c->before.gpr[number] = value & width_mask(m->layout->register_bits);
}

/* ---- aiming ---- */

/* Where an operand of that size should lie: a linear address. */
static uint64_t choose_target(struct maker *m, unsigned size)
{
	struct rng *rng = &m->rng;
	unsigned some = size > 1 ? size : 2;
	uint64_t target = DATA_ADDRESS + 1024 + rng_below(rng, DATA_SIZE - 2 * 1024);

	switch (rng_below(rng, m->generator->options.sequences ? 120 : 40)) {
	case 0:
	case 1:
	case 2:
	case 3: /* across the two pages */
		return DATA_ADDRESS + PAGE - 1 - rng_below(rng, some);
	case 4: /* into the page that isn't there */
	case 5:
		return DATA_ADDRESS + DATA_SIZE - 1 - rng_below(rng, some);
	case 6: /* from the page before */
		return DATA_ADDRESS - 1 - rng_below(rng, some);
	case 7:
	case 8: /* read-only */
		return READONLY_ADDRESS + 16 * rng_below(rng, (PAGE - 512) / 16) +
		       (rng_percent(rng, 20) ? rng_below(rng, 16) : 0);
	case 9: /* nothing there */
		return 0x40000000 + rng_below(rng, 1 << 20);
	case 10: /* not canonical */
		return rng_percent(rng, 50) ? 0x8000000000000000 + rng_below(rng, 1 << 20)
					    : 0x00007ffffffffff0u + rng_below(rng, 32);
	case 11:
	case 12:
	case 13:
	case 14:
	case 15:
		return target; /* any alignment */
	default:
		return target & ~(size >= 16 ? 15ull : size >= 8 ? 7ull : 3ull);
	}
}

static void patch_displacement(struct maker *m, uint64_t displacement)
{
	if (m->insn.raw.disp.size)
		memcpy(m->code.bytes + m->insn.raw.disp.offset, &displacement,
		       m->insn.raw.disp.size / 8);
}

/* The bits beyond the address size don't count. */
static void set_base(struct maker *m, ZydisRegister reg, uint64_t value)
{
	unsigned bits = m->insn.address_width;

	value &= width_mask(bits);
	if (bits < 64 && rng_percent(&m->rng, 50))
		value |= rng_next(&m->rng) << bits;
	set_register(m, gpr_number(reg), value);
}

/* Makes the operand's address be target, by its base register, index register or displacement. */
static void aim(struct maker *m, const ZydisDecodedOperandMem *mem, uint64_t target)
{
	uint64_t displacement = (uint64_t)mem->disp.value;

	target -= m->layout->data_base;
	if (is_ip(mem->base)) {
		patch_displacement(m, target - (m->ip + m->insn.length));
	} else if (mem->base == ZYDIS_REGISTER_NONE && mem->index == ZYDIS_REGISTER_NONE) {
		patch_displacement(m, target);
	} else if (mem->base == ZYDIS_REGISTER_NONE) {
		set_base(m, mem->index, (target - displacement) / mem->scale);
	} else if (mem->index == mem->base) {
		set_base(m, mem->base, (target - displacement) / (1u + mem->scale));
	} else {
		if (mem->index != ZYDIS_REGISTER_NONE)
			displacement += register_value(&m->c->before, mem->index) * mem->scale;
		set_base(m, mem->base, target - displacement);
	}
}

/* Interesting content for an operand. */
static void fill_operand(struct maker *m, const ZydisDecodedOperand *operand)
{
	uint8_t *p = data_at(m, linear(m, operand), operand->size == 256 ? 32 : 16), value[16];

	if (!p || operand->size > 256)
		return;
	if (operand->size == 256)
		edge_vector(&m->rng, p + 16);
	if (operand->element_type == ZYDIS_ELEMENT_TYPE_FLOAT80)
		edge_extended(&m->rng, value);
	else
		edge_vector(&m->rng, value);
	memcpy(p, value, 16);
}

static bool decode(struct maker *m)
{
	return ZYAN_SUCCESS(zydis_decode(&m->generator->decoder, m->code.bytes, 16, &m->insn,
					 m->operands)) &&
	       code_is_fit(&m->insn, m->operands, m->generator->options.avx);
}

/* Gathers: indices that stay near the base, which is all that can be aimed. An earlier instruction
 * could change them. */
static bool tame_gather(struct maker *m)
{
	const ZydisDecodedOperandMem *mem = &m->operands[1].mem;
	bool wide = m->insn.mnemonic == ZYDIS_MNEMONIC_VPGATHERQD ||
		    m->insn.mnemonic == ZYDIS_MNEMONIC_VPGATHERQQ ||
		    m->insn.mnemonic == ZYDIS_MNEMONIC_VGATHERQPS ||
		    m->insn.mnemonic == ZYDIS_MNEMONIC_VGATHERQPD;
	unsigned number, size = wide ? 8 : 4;

	if (m->operands[1].type != ZYDIS_OPERAND_TYPE_MEMORY || mem->type != ZYDIS_MEMOP_TYPE_VSIB)
		return true;
	if (m->generator->options.sequences || !is_gpr(mem->base))
		return false;
	number = (unsigned)ZydisRegisterGetId(mem->index);
	for (unsigned at = 0; at < 32; at += size) {
		uint8_t *half =
		    at < 16 ? m->c->before.fpu.xmm[number] : m->c->before.ymm_high[number];
		int64_t index = (int64_t)rng_below(&m->rng, 1100) - 550;

		memcpy(half + at % 16, &index, size);
	}
	set_base(m, mem->base,
		 DATA_ADDRESS + PAGE - m->layout->data_base - (uint64_t)mem->disp.value);
	return may_set(m, gpr_number(mem->base));
}

static bool place_operands(struct maker *m)
{
	for (unsigned i = 0; i < m->insn.operand_count; i++) {
		unsigned bytes = m->operands[i].size / 8;

		if (is_memory(&m->operands[i]) && m->operands[i].mem.type != ZYDIS_MEMOP_TYPE_VSIB)
			aim(m, &m->operands[i].mem, choose_target(m, bytes ? bytes : 1));
	}
	if (!decode(m)) /* the displacement is another one */
		return false;
	for (unsigned i = 0; i < m->insn.operand_count; i++)
		if (is_memory(&m->operands[i]) && rng_percent(&m->rng, 70))
			fill_operand(m, &m->operands[i]);
	return true;
}

#define KERNEL_HALF 0x0000800000000000u

/* Where no mapping of the tester can be. */
static bool nothing_mapped(uint64_t address)
{
	if (address < 0x8000000)
		return false;
	if (address >= CODE_ADDRESS - 0x100000 && address < CODE_ADDRESS + 0x100000)
		return false;
	return address < 0x50000000 ||
	       (address >= KERNEL_HALF - PAGE && address < 0xffff800000000000);
}

static bool is_string(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_STRINGOP ||
	       insn->meta.category == ZYDIS_CATEGORY_IOSTRINGOP;
}

static bool is_masked_move(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	       insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU ||
	       insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
}

static bool touches_parts(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return true;
	default:
		return is_masked_move(insn);
	}
}

/* Where alignment checking stands among other faults, or that it happens, is the processor's. */
static bool vague_alignment_check(const struct maker *m, const ZydisDecodedOperand *operand)
{
	return m->c->before.rflags & FLAG_AC &&
	       (is_string(&m->insn) || m->insn.mnemonic == ZYDIS_MNEMONIC_ENTER ||
		is_masked_move(&m->insn) || (operand->size >= 80 && operand->size != 128));
}

/* By a few bytes: what pushes, pops and string instructions change doesn't count as written. */
static bool may_have_moved(const struct maker *m, ZydisRegister reg)
{
	return is_gpr(reg) && (1u << gpr_number(reg) & (1u << RSP | 1u << RSI | 1u << RDI)) &&
	       !may_set(m, gpr_number(reg));
}

static bool operand_safe(const struct maker *m, const ZydisDecodedOperand *operand)
{
	uint64_t address = linear(m, operand), offset = address - m->layout->data_base;

	/* Which comes first, the segment's end or misalignment, or a page fault of another operand?
	 */
	if (offset > m->layout->offset_limit - 15 &&
	    (is_string(&m->insn) || m->insn.mnemonic == ZYDIS_MNEMONIC_BOUND ||
	     (operand->size >= 128 && address % 16)))
		return false;
	if (offset > m->layout->offset_limit)
		return true;
	if (vague_alignment_check(m, operand))
		return false;
	/* Some processors take these misaligned. */
	if (m->insn.meta.isa_set == ZYDIS_ISA_SET_SHA &&
	    (address % 16 || may_have_moved(m, operand->mem.base) ||
	     may_have_moved(m, operand->mem.index)))
		return false;
	/* In which order the pieces of a large operand are checked is theirs. */
	if (operand->size >= 80 && (operand->size != 128 || touches_parts(&m->insn))) {
		if (address > KERNEL_HALF - 512 && (address % 16 || address < KERNEL_HALF))
			return false;
		if (offset > m->layout->offset_limit - 512)
			return false;
	}
	return nothing_mapped(address);
}

static bool reads_written(const struct maker *m, ZydisRegister reg)
{
	return is_gpr(reg) && m->written >> gpr_number(reg) & 1;
}

/* A sequence that faults early tests little: most of the operands whose registers were no longer
 * free to aim them are dropped when they lie nowhere. */
static bool ends_too_early(struct maker *m, const ZydisDecodedOperand *operand)
{
	uint64_t address = linear(m, operand);

	return m->generator->options.sequences && !in_data(address, operand->size / 8u) &&
	       address - READONLY_ADDRESS >= PAGE && rng_percent(&m->rng, 90);
}

static bool operands_safe(struct maker *m)
{
	for (unsigned i = 0; i < m->insn.operand_count; i++) {
		const ZydisDecodedOperand *o = &m->operands[i];

		if (!is_memory(o))
			continue;
		if (o->mem.type == ZYDIS_MEMOP_TYPE_VSIB)
			continue;
		if (reads_written(m, o->mem.base) || reads_written(m, o->mem.index) ||
		    !operand_safe(m, o) || ends_too_early(m, o))
			return false;
	}
	return m->insn.address_width >= m->layout->least_address_bits;
}

/* ---- what some instructions need ---- */

static bool tame_string(struct maker *m)
{
	uint64_t count = rng_below(&m->rng, 40);

	if (!is_string(&m->insn))
		return true;
	if (rng_percent(&m->rng, 10))
		count = rng_below(&m->rng, 5000);
	if (m->insn.address_width < 64)
		count |= rng_next(&m->rng) << m->insn.address_width;
	if (!may_set(m, RCX))
		return !code_has_prefix(&m->insn, 0xf2) && !code_has_prefix(&m->insn, 0xf3);
	set_register(m, RCX, count);
	/* Long equal runs, for CMPS and SCAS. */
	if (rng_percent(&m->rng, 50))
		memset(m->c->before.data, (int)m->c->before.gpr[0], DATA_SIZE);
	return true;
}

/* Its outer frames' pointers are read from below RBP, which isn't among its operands. */
static bool tame_enter(struct maker *m)
{
	if (m->insn.mnemonic != ZYDIS_MNEMONIC_ENTER)
		return true;
	set_register(m, RBP,
		     DATA_ADDRESS - m->layout->data_base + rng_below(&m->rng, DATA_SIZE + 64));
	return may_set(m, RBP);
}

/* An offset in a register can reach far: keep it inside the data pages. */
static bool tame_bit_offset(struct maker *m)
{
	unsigned number;

	if (m->insn.meta.category != ZYDIS_CATEGORY_BITBYTE || !is_memory(&m->operands[0]) ||
	    m->operands[1].type != ZYDIS_OPERAND_TYPE_REGISTER)
		return true;
	number = gpr_number(m->operands[1].reg.value);
	set_register(m, number, (uint64_t)((int64_t)rng_below(&m->rng, 8192) - 4096));
	return may_set(m, number);
}

/* Instructions that get control or system flags from memory stand alone: other instructions of a
 * sequence write there, or have their own wishes for its content. */
static bool stands_alone(const struct maker *m)
{
	return !m->generator->options.sequences;
}

/* So do those that store what processors differ in. */
static bool moves_state(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FXRSTOR: /* what these load must be made up */
	case ZYDIS_MNEMONIC_FXRSTOR64:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return true;
	default:
		return false;
	}
}

/* POPF must not set the trap flag, nor what sigreturn doesn't reset: NT, AC, ID. */
static bool tame_popf(struct maker *m)
{
	uint8_t *p;

	switch (m->insn.mnemonic) {
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		break;
	default:
		return true;
	}
	p = data_at(m, m->layout->data_base + (m->c->before.gpr[RSP] & m->layout->stack_mask), 8);
	if (!p || !stands_alone(m))
		return false;
	p[1] &= (uint8_t)~0x41u;
	p[2] &= (uint8_t)~0x24u;
	return true;
}

/* Away from the case's own code: a loop would never end. */
static uint64_t code_target(struct maker *m)
{
	uint64_t target, start = m->c->before.rip;

	do
		target = CODE_ADDRESS - m->layout->code_base + rng_below(&m->rng, CODE_SIZE - 64);
	while (target + 64 > start && target < start + 128);
	return target;
}

static bool tame_relative(struct maker *m, const ZydisDecodedOperand *operand)
{
	uint64_t next_ip = m->ip + m->insn.length, target = code_target(m), delta;

	/* To the next instruction: a new block. */
	if (m->generator->options.sequences && rng_percent(&m->rng, 60))
		target = next_ip;
	if (m->insn.raw.imm[0].size == 8) {
		if (target == next_ip) {
			m->code.bytes[m->insn.raw.imm[0].offset] = 0;
			return true;
		}
		target = next_ip + operand->imm.value.u;
		return target < m->c->before.rip || target >= m->c->before.rip + CASE_MAX_CODE;
	}
	delta = target - next_ip;
	memcpy(m->code.bytes + m->insn.raw.imm[0].offset, &delta, m->insn.raw.imm[0].size / 8);
	return true;
}

static bool tame_memory_target(struct maker *m, const ZydisDecodedOperand *operand)
{
	uint64_t address = linear(m, operand), target = code_target(m);
	uint8_t *p = data_at(m, address, 8);

	if (address >= READONLY_ADDRESS && address < READONLY_ADDRESS + PAGE)
		return false;
	if (p)
		memcpy(p, &target, 8);
	return stands_alone(m);
}

/* A branch must not land in the middle of the tester. */
static bool tame_branch(struct maker *m)
{
	if (!code_is_branch(&m->insn))
		return true;
	for (unsigned i = 0; i < m->insn.operand_count; i++) {
		const ZydisDecodedOperand *o = &m->operands[i];
		bool ok = true;

		if (o->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && o->imm.is_relative) {
			ok = tame_relative(m, o);
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && i == 0 &&
			   o->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT) {
			ok = may_set(m, gpr_number(o->reg.value));
			set_register(m, gpr_number(o->reg.value), code_target(m));
		} else if (is_memory(o)) {
			ok = tame_memory_target(m, o);
		}
		if (!ok)
			return false;
	}
	return true;
}

/* Quotients that fit, and comparisons that succeed, are rare otherwise. */
static void raise_chances(struct maker *m)
{
	const uint64_t *gpr = m->c->before.gpr;
	uint8_t *p = first_operand(m, 16);

	if ((m->insn.mnemonic == ZYDIS_MNEMONIC_DIV || m->insn.mnemonic == ZYDIS_MNEMONIC_IDIV) &&
	    !is_memory(&m->operands[0]) && rng_percent(&m->rng, 60))
		set_register(m, RDX, rng_percent(&m->rng, 70) ? 0 : UINT64_MAX);
	if (!p || rng_percent(&m->rng, 50))
		return;
	if (m->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG)
		memcpy(p, &gpr[0], 8);
	if (m->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B) {
		memcpy(p, &gpr[0], 4);
		memcpy(p + 4, &gpr[RDX], 4);
	}
	if (m->insn.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B) {
		memcpy(p, &gpr[0], 8);
		memcpy(p + 8, &gpr[RDX], 8);
	}
}

/* Bit 17 exists on some processors. */
static uint32_t wild_mxcsr(struct rng *rng)
{
	return (uint32_t)rng_next(rng) & ~(1u << 17);
}

/* What FXRSTOR and LDMXCSR load is plausible in most cases. */
static void plausible_image(struct maker *m)
{
	uint8_t *p = first_operand(m, 512);
	struct hostop_fpu fpu;

	if (!p)
		return;
	if (m->insn.meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
	    m->insn.meta.isa_set == ZYDIS_ISA_SET_FXSAVE64) {
		random_fpu(&m->rng, &fpu);
		if (rng_percent(&m->rng, 10))
			fpu.mxcsr = wild_mxcsr(&m->rng);
		memcpy(p, &fpu, 512);
	}
	if (m->insn.mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
	    m->insn.mnemonic == ZYDIS_MNEMONIC_VLDMXCSR) {
		uint32_t mxcsr =
		    rng_percent(&m->rng, 90) ? random_mxcsr(&m->rng) : (uint32_t)rng_next(&m->rng);

		memcpy(p, &mxcsr, 4);
	}
}

/* ---- flags ---- */

static bool may_keep_flags(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_ROTATE ||
	       insn->meta.category == ZYDIS_CATEGORY_SHIFT || is_string(insn);
}

/* No instruction may see flags that an earlier one left undefined. */
static bool flags_defined(const struct maker *m)
{
	const ZydisAccessedFlags *flags = m->insn.cpu_flags;

	switch (m->insn.mnemonic) {
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD:
	case ZYDIS_MNEMONIC_PUSHFQ:
		return !m->undefined;
	default:
		return !flags || !(flags->tested & m->undefined);
	}
}

static void note_flags(struct maker *m)
{
	const ZydisAccessedFlags *flags = m->insn.cpu_flags;

	if (!flags)
		return;
	if (!may_keep_flags(&m->insn))
		m->undefined &= (uint16_t) ~(flags->modified | flags->set_0 | flags->set_1);
	m->undefined |= (uint16_t)(flags->undefined & FLAGS_STATUS);
	/* The sequence can end early by a fault: then even those that were defined again count. */
	m->c->undefined_flags |= m->undefined;
}

/* ---- one instruction ---- */

/* Stack instructions move RSP by little. */
static bool moves_stack(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_PUSH ||
	       insn->meta.category == ZYDIS_CATEGORY_POP ||
	       insn->meta.category == ZYDIS_CATEGORY_CALL ||
	       insn->meta.category == ZYDIS_CATEGORY_RET;
}

static void note_register(struct maker *m, ZydisRegister reg, bool written)
{
	if (!is_gpr(reg))
		return;
	m->used |= 1u << gpr_number(reg);
	if (written)
		m->written |= 1u << gpr_number(reg);
}

static void pin_register(struct maker *m, ZydisRegister reg)
{
	if (is_gpr(reg))
		m->pinned |= 1u << gpr_number(reg);
}

static void note_registers(struct maker *m)
{
	for (unsigned i = 0; i < m->insn.operand_count; i++) {
		const ZydisDecodedOperand *o = &m->operands[i];

		if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && is_gpr(o->reg.value)) {
			bool written = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
			bool moved = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
				     gpr_number(o->reg.value) == RSP && moves_stack(&m->insn);

			note_register(m, o->reg.value, written && !moved);
		}
		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			note_register(m, o->mem.base, false);
			note_register(m, o->mem.index, false);
			pin_register(m, o->mem.base);
			pin_register(m, o->mem.index);
		}
	}
}

static bool make_instruction(struct maker *m)
{
	random_code(&m->rng, m->generator->options.mode == CPU_MODE_64, m->generator->options.avx,
		    &m->code);
	if (!decode(m) || !flags_defined(m) || !tame_bit_offset(m) || !tame_gather(m) ||
	    !place_operands(m) || !tame_string(m) || !tame_enter(m) || !operands_safe(m))
		return false;
	if (moves_state(&m->insn) && !stands_alone(m))
		return false;
	raise_chances(m);
	plausible_image(m);
	return tame_popf(m) && tame_branch(m);
}

static void ignore(struct cpu_case *c, uint64_t address, unsigned size)
{
	if (!in_data(address, size))
		return;
	if (c->ignored_count == sizeof(c->ignored) / sizeof(c->ignored[0]))
		abort();
	c->ignored[c->ignored_count].offset = (unsigned)(address - DATA_ADDRESS);
	c->ignored[c->ignored_count++].size = size;
}

static void ignore_what_may_differ(struct maker *m)
{
	unsigned bytes = m->operands[0].size / 8;
	uint64_t address;

	if (!is_memory(&m->operands[0]))
		return;
	address = linear(m, &m->operands[0]);
	switch (m->insn.mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		ignore(m->c, address + offsetof(struct hostop_fpu, fop), 18);
		ignore(m->c, address + offsetof(struct hostop_fpu, mxcsr_mask), 4);
		break;
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
		ignore(m->c, address + (bytes % 4 ? 6 : 12), bytes % 4 ? 8 : 14);
		break;
	default:
		break;
	}
}

/* Dot products in several steps: which step's exceptions show when some are unmasked is not
 * reproduced. */
static bool needs_masks(const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_DPPS || insn->mnemonic == ZYDIS_MNEMONIC_DPPD ||
	       insn->mnemonic == ZYDIS_MNEMONIC_VDPPS || insn->mnemonic == ZYDIS_MNEMONIC_VDPPD;
}

static bool keeps_c1(const ZydisDecodedInstruction *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_FCOMI:
	case ZYDIS_MNEMONIC_FCOMIP:
	case ZYDIS_MNEMONIC_FUCOMI:
	case ZYDIS_MNEMONIC_FUCOMIP:
		return true;
	default:
		return false;
	}
}

static bool crosses_page(uint64_t address, unsigned size)
{
	return size && address % PAGE + size > PAGE;
}

static void note_operand(struct maker *m, uint64_t address, unsigned size)
{
	struct cpu_case *c = m->c;

	c->crosses_page |= crosses_page(address, size);
	if (in_data(address, 16) && c->operand_count < CASE_MAX_CODE)
		c->operands[c->operand_count++] = (uint16_t)(address - DATA_ADDRESS);
}

static unsigned form_of(const struct maker *m)
{
	unsigned form = FORM_PLAIN, bits = m->insn.operand_width, size = 0;

	for (unsigned i = 0; i < m->insn.operand_count_visible; i++) {
		if (m->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
			form |= FORM_REGISTER;
		if (is_memory(&m->operands[i]))
			form |= FORM_MEMORY;
	}
	if (m->insn.operand_count && m->operands[0].size > bits)
		bits = m->operands[0].size;
	while (size < 7 && 16u << size <= bits)
		size++;
	return form | size;
}

static void note_instruction(struct maker *m)
{
	struct cpu_case *c = m->c;

	c->instructions[c->instruction_count].mnemonic = (uint16_t)m->insn.mnemonic;
	c->instructions[c->instruction_count].form = (uint8_t)form_of(m);
	c->instructions[c->instruction_count].offset = (uint8_t)c->code_length;
	c->instruction_count++;
	c->crosses_page |= crosses_page(m->layout->code_base + m->ip, m->insn.length);
	for (unsigned i = 0; i < m->insn.operand_count; i++)
		if (is_memory(&m->operands[i]))
			note_operand(m, linear(m, &m->operands[i]), m->operands[i].size / 8u);
}

static void append_instruction(struct maker *m)
{
	struct cpu_case *c = m->c;

	note_instruction(m);
	if (needs_masks(&m->insn)) {
		c->before.fpu.mxcsr |= 0x1f80;
		c->simd_masked = true;
	}
	memcpy(c->code + c->code_length, m->code.bytes, m->insn.length);
	c->code_length += m->insn.length;
	c->loose_mmx |= is_masked_move(&m->insn);
	c->loose_c1 |= keeps_c1(&m->insn);
	c->loose_popa |=
	    m->insn.mnemonic == ZYDIS_MNEMONIC_POPA || m->insn.mnemonic == ZYDIS_MNEMONIC_POPAD;
	c->large_operand |= m->operands[0].size > 128 || m->operands[0].size == 112;
	ignore_what_may_differ(m);
	note_registers(m);
	note_flags(m);
	m->ip += m->insn.length;
}

/* ---- the case ---- */

static uint64_t choose_code_address(struct maker *m, unsigned length)
{
	struct rng *rng = &m->rng;

	switch (rng_below(rng, 20)) {
	case 0: /* across the two pages */
		return CODE_ADDRESS + PAGE - rng_below(rng, length + 1);
	case 1: /* into the missing one */
		return CODE_ADDRESS + CODE_SIZE - length;
	default:
		return CODE_ADDRESS + 1024 + rng_below(rng, CODE_SIZE - 2048);
	}
}

static void start_case(struct maker *m)
{
	struct cpu_case *c = m->c;

	random_state(&m->rng, &c->before);
	for (unsigned i = 0; m->generator->options.avx && i < 16; i++)
		edge_vector(&m->rng, c->before.ymm_high[i]);
	for (unsigned i = 0; i < 16; i++)
		c->before.gpr[i] &= width_mask(m->layout->register_bits);
	/* 8 bytes is a usual length. */
	c->before.rip = choose_code_address(m, 8) - m->layout->code_base;
	m->ip = c->before.rip;
}

static bool ends_block(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_RET;
}

#define SEQUENCE_TRIES 40

static void extend_case(struct maker *m)
{
	for (unsigned i = 0; i < SEQUENCE_TRIES; i++) {
		if (m->c->code_length + ZYDIS_MAX_INSTRUCTION_LENGTH > CASE_MAX_CODE ||
		    ends_block(&m->insn) || needs_masks(&m->insn))
			return;
		if (make_instruction(m) && !needs_masks(&m->insn))
			append_instruction(m);
	}
}

void generate_case(const struct generator *generator, uint64_t id, struct cpu_case *ret)
{
	struct maker m = { .generator = generator,
			   .layout = &cpu_layouts[generator->options.mode],
			   .rng = { id * 8 + generator->options.mode * 2 +
				    generator->options.sequences },
			   .c = ret };

	memset(ret, 0, sizeof(*ret));
	ret->id = id;
	ret->variants = 1;
	ret->mode = generator->options.mode;
	do
		start_case(&m);
	while (!make_instruction(&m));
	append_instruction(&m);
	if (generator->options.sequences)
		extend_case(&m);
	ret->free_registers = ~(m.pinned | 1u << RSP);
	if (generator->options.canonical_rsp)
		ret->before.gpr[RSP] = canonical(ret->before.gpr[RSP]);
}

void generate_variant(const struct cpu_case *c, unsigned variant, struct cpu_case *ret)
{
	struct rng rng = { c->id * 8 + c->mode * 2 + 1 + ((uint64_t)variant << 48) };
	uint64_t mask = width_mask(cpu_layouts[c->mode].register_bits);

	*ret = *c;
	ret->variant = variant;
	ret->before.rflags ^= rng_next(&rng) & FLAGS_STATUS;
	for (unsigned i = 0; i < 16; i++)
		if (c->free_registers >> i & 1)
			ret->before.gpr[i] = edge_integer(&rng) & mask;
	random_fpu(&rng, &ret->before.fpu);
	if (c->simd_masked)
		ret->before.fpu.mxcsr |= 0x1f80;
	for (unsigned i = 0; i < c->operand_count; i++)
		if (rng_percent(&rng, 70))
			edge_vector(&rng, ret->before.data + c->operands[i]);
}
