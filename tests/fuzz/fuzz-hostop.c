/*
 * Any bytes as code: what hostop takes is executed here by the host, so a mistake in re-encoding
 * shows as a crash, as a write beside the operand, or as a host state that isn't as it was. The
 * operand lies at the end of a page that nothing follows.
 */
#include "part/softcpu/hostop.h"
#include "part/softcpu/zydis.h"

#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u

static const struct {
	ZydisMachineMode machine;
	ZydisStackWidth stack;
} modes[] = {
	{ ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	{ ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
	{ ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
	{ ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16 },
};

struct place {
	struct hostop_arena *arena;
	uint8_t *page; /* the operand's; the next one isn't there */
	struct hostop_regs *regs;
	uint8_t *behind; /* the registers */
};

static struct place *the_place(void)
{
	static struct place place;
	uint8_t *p;

	if (place.arena)
		return &place;
	p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || mprotect(p + PAGE, PAGE, PROT_NONE) != 0 ||
	    hostop_arena_new(&place.arena, NULL) < 0)
		abort();
	place.page = p;
	place.regs = aligned_alloc(64, sizeof(struct hostop_regs) + 64);
	place.behind = (uint8_t *)(place.regs + 1);
	return &place;
}

static void fill(void *to, size_t size, const uint8_t **data, size_t *left)
{
	size_t count = size < *left ? size : *left;

	memcpy(to, *data, count);
	*data += count;
	*left -= count;
}

static void set_registers(struct hostop_regs *regs, const uint8_t *data, size_t size)
{
	memset(regs, 0x5a, sizeof(*regs));
	hostop_fpu_reset(&regs->fpu);
	fill(&regs->fpu.mxcsr, 2, &data, &size);
	fill(&regs->fpu.fcw, 2, &data, &size);
	fill(&regs->fpu.fsw, 2, &data, &size);
	fill(&regs->fpu.ftw, 1, &data, &size);
	fill(regs->gpr, sizeof(regs->gpr), &data, &size);
	fill(regs->fpu.st, sizeof(regs->fpu.st), &data, &size);
	fill(regs->fpu.xmm, sizeof(regs->fpu.xmm), &data, &size);
	fill(&regs->rflags, 8, &data, &size);
}

static void check(const struct place *place, const struct hostop *op, const uint8_t *operand,
		  uint64_t flags_before)
{
	if ((place->regs->rflags ^ flags_before) & ~(uint64_t)op->flags_written)
		abort();
	if (place->regs->fpu.mxcsr & ~HOSTOP_MXCSR_MASK)
		abort();
	if ((_mm_getcsr() & 0xffc0) != HOSTOP_MXCSR_RESET)
		abort();
	for (unsigned i = 0; i < 64; i++)
		if (place->behind[i] != 0xa5 || operand[-1 - (int)i] != 0xa5)
			abort();
}

static void run(struct place *place, const struct hostop *op)
{
	unsigned size = (op->mem_size + 15u) & ~15u;
	uint8_t *operand = place->page + PAGE - (op->mem_align == 16 ? size : op->mem_size);
	uint64_t flags = place->regs->rflags;

	if (op->mem_size > 512 || (op->mem_size && !op->mem_access))
		abort();
	memset(operand - 64, 0xa5, 64);
	memset(place->behind, 0xa5, 64);
	hostop_run(op, place->regs, operand);
	check(place, op, operand, flags);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct place *place = the_place();
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	ZydisDecoder decoder;
	struct hostop op;
	unsigned mode;

	if (size < 2)
		return 0;
	mode = data[0] & 3;
	set_registers(place->regs, data + 16, size > 16 ? size - 16 : 0);
	ZydisDecoderInit(&decoder, modes[mode].machine, modes[mode].stack);
	if (!ZYAN_SUCCESS(
		zydis_decode(&decoder, data + 1, size - 1 < 15 ? size - 1 : 15, &insn, operands)))
		return 0;
	if (hostop_prepare(place->arena, &insn, operands, &op))
		run(place, &op);
	return 0;
}
