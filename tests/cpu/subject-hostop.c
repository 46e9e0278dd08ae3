/*
 * hostop alone: instructions that it takes and whose memory operand lies in the data pages. Stands
 * in for the interpreter's part: address, alignment, RIP.
 */
#include "case.h"

#include "part/softcpu/zydis.h"

#include <stdlib.h>
#include <string.h>

struct hostop_subject {
	struct hostop_arena *arena;
	ZydisDecoder decoder;
	struct hostop_regs regs;
};

static void *create(void)
{
	struct hostop_subject *s = aligned_alloc(64, (sizeof(*s) + 63) & ~(size_t)63);

	if (!s || hostop_arena_new(&s->arena, NULL) < 0)
		exit(2);
	ZydisDecoderInit(&s->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	return s;
}

static void destroy(void *subject)
{
	struct hostop_subject *s = subject;

	hostop_arena_free(s->arena);
	free(s);
}

static bool find_memory(const struct cpu_state *state, const ZydisDecodedInstruction *insn,
			const ZydisDecodedOperand *operands, uint64_t *ret)
{
	for (unsigned i = 0; i < insn->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			*ret = effective_address(state, state->rip, insn, &operands[i].mem);
			return true;
		}
	return false;
}

static void run_op(struct hostop_subject *s, const struct hostop *op, unsigned length,
		   uint64_t address, struct cpu_outcome *ret)
{
	void *mem = op->mem_size ? ret->state.data + (address - DATA_ADDRESS) : NULL;

	memcpy(s->regs.gpr, ret->state.gpr, sizeof(s->regs.gpr));
	s->regs.rflags = ret->state.rflags;
	s->regs.rip = ret->state.rip;
	s->regs.ea = address;
	s->regs.fpu = ret->state.fpu;
	memcpy(s->regs.ymm_high, ret->state.ymm_high, sizeof(s->regs.ymm_high));
	if (hostop_x87_fault(op, &s->regs)) {
		ret->vector = VECTOR_MF;
		return;
	}
	if (op->mem_align > 1 && address % op->mem_align) {
		ret->vector = VECTOR_GP;
		return;
	}
	ret->vector = hostop_run(op, &s->regs, mem);
	memcpy(ret->state.gpr, s->regs.gpr, sizeof(s->regs.gpr));
	ret->state.rflags = s->regs.rflags;
	ret->state.fpu = s->regs.fpu;
	memcpy(ret->state.ymm_high, s->regs.ymm_high, sizeof(s->regs.ymm_high));
	if (!ret->vector) {
		ret->state.rip += length;
		ret->vector = VECTOR_BP;
	}
}

/* F3 49 90: zydis_decode has it as AMD's processors. Intel's pause. */
static bool is_vendors(const struct cpu_case *c, const ZydisDecodedInstruction *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_XCHG && insn->opcode == 0x90 &&
	       memchr(c->code, 0xf3, insn->length);
}

static bool run(void *subject, const struct cpu_case *c, unsigned attempt, struct cpu_outcome *ret)
{
	struct hostop_subject *s = subject;
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	uint64_t address = 0;
	struct hostop op;

	if (c->mode != CPU_MODE_64 || c->instruction_count != 1 || c->before.rflags & FLAG_AC ||
	    c->before.rip + c->code_length >= CODE_ADDRESS + CODE_SIZE ||
	    !ZYAN_SUCCESS(zydis_decode(&s->decoder, c->code, c->code_length, &insn, operands)) ||
	    is_vendors(c, &insn) || !hostop_prepare(s->arena, &insn, operands, &op))
		return false;
	if (op.mem_size &&
	    (!find_memory(&c->before, &insn, operands, &address) || !in_data(address, op.mem_size)))
		return false;
	memset(ret, 0, sizeof(*ret));
	ret->state = c->before;
	run_op(s, &op, insn.length, address, ret);
	return true;
}

const struct subject subject_hostop = { "hostop", 1, true, create, destroy, run };
