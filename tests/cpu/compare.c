/* Compares two outcomes of one case and prints what differs. */
#include "case.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const gpr_names[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					   "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

/* RF is set in the image of a faulting instruction, or not, as the fault's kind has it. */
#define FLAGS_ARITHMETIC 0x8d5u
#define FLAGS_COMPARED   0x40cd5u /* AC OF DF SF ZF AF PF CF */

struct report {
	const struct cpu_case *c;
	const struct cpu_outcome *native;
	bool differs;
};

static void print_operands(const struct cpu_case *c, const ZydisDecodedInstruction *insn,
			   const ZydisDecodedOperand *operands)
{
	for (unsigned i = 0; i < insn->operand_count; i++)
		if (operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			printf(", [%" PRIx64 "]", effective_address(&c->before, c->before.rip, insn,
								    &operands[i].mem));
}

/* The case's instruction that begins there. */
static bool disassemble(const struct cpu_case *c, uint64_t at, ZydisDisassembledInstruction *ret)
{
	static const ZydisMachineMode modes[] = {
		[CPU_MODE_64] = ZYDIS_MACHINE_MODE_LONG_64,
		[CPU_MODE_32] = ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
		[CPU_MODE_16] = ZYDIS_MACHINE_MODE_LONG_COMPAT_16,
	};

	return at < c->code_length &&
	       ZYAN_SUCCESS(ZydisDisassembleIntel(modes[c->mode], c->before.rip + at, c->code + at,
						  c->code_length - at, ret));
}

static void print_code(const struct cpu_case *c)
{
	ZydisDisassembledInstruction text;
	uint64_t rip = c->before.rip;
	unsigned at = 0;

	while (disassemble(c, at, &text)) {
		printf("  %" PRIx64 ": ", rip + at);
		for (unsigned i = 0; i < text.info.length; i++)
			printf("%02x", c->code[at + i]);
		printf("  %s", text.text);
		if (at == 0) /* later ones see other registers */
			print_operands(c, &text.info, text.operands);
		printf("\n");
		at += text.info.length;
	}
}

static void begin(struct report *report)
{
	static const char *const mode_options[] = {
		[CPU_MODE_64] = "",
		[CPU_MODE_32] = " --mode 32",
		[CPU_MODE_16] = " --mode 16",
	};

	if (report->differs)
		return;
	report->differs = true;
	printf("--case 0x%" PRIx64 "%s%s", report->c->id, mode_options[report->c->mode],
	       report->c->instruction_count > 1 ? " --sequences" : "");
	if (report->c->variants > 1)
		printf(" --variants %u (number %u)", report->c->variants, report->c->variant);
	printf("\n");
	print_code(report->c);
	if (report->native->vector == VECTOR_PF)
		printf("    page fault at %" PRIx64 ", rip %" PRIx64 "\n",
		       report->native->fault_address, report->native->state.rip);
}

static void number(struct report *report, const char *name, uint64_t before, uint64_t native,
		   uint64_t subject, uint64_t mask)
{
	if (!((native ^ subject) & mask))
		return;
	begin(report);
	printf("    %-8s %016" PRIx64 " -> native %016" PRIx64 ", subject %016" PRIx64 "\n", name,
	       before, native, subject);
}

static void print_bytes(const char *label, const uint8_t *bytes, unsigned size)
{
	printf("%s ", label);
	for (unsigned i = size; i-- > 0;)
		printf("%02x", bytes[i]);
}

static void bytes(struct report *report, const char *name, unsigned index, const uint8_t *before,
		  const uint8_t *native, const uint8_t *subject, unsigned size)
{
	if (memcmp(native, subject, size) == 0)
		return;
	begin(report);
	printf("    %s%u", name, index);
	print_bytes("", before, size);
	print_bytes(" -> native", native, size);
	print_bytes(", subject", subject, size);
	printf("\n");
}

/* ---- what processors do differently at a fault ---- */

static bool is_memory_fault(const struct cpu_outcome *outcome)
{
	return outcome->vector == VECTOR_PF || outcome->vector == VECTOR_GP ||
	       outcome->vector == VECTOR_SS || outcome->vector == VECTOR_AC;
}

/* The instruction at which both ended by a fault of its memory operand. */
static bool same_fault(const struct cpu_case *c, const struct cpu_outcome *native,
		       const struct cpu_outcome *subject, ZydisDisassembledInstruction *ret)
{
	return is_memory_fault(native) && native->vector == subject->vector &&
	       native->state.rip == subject->state.rip &&
	       disassemble(c, native->state.rip - c->before.rip, ret);
}

#define FSW_TOP 0x3800u

/* What an MMX instruction does first. */
static void clear_top(struct hostop_fpu *fpu)
{
	struct hostop_fpu old = *fpu;
	unsigned top = (old.fsw & FSW_TOP) >> 11;

	fpu->fsw &= (uint16_t)~FSW_TOP;
	for (unsigned i = 0; i < 8; i++)
		memcpy(fpu->st[i], old.st[(i - top) & 7], sizeof(fpu->st[i]));
}

static bool is_mmx(const ZydisDisassembledInstruction *text)
{
	for (unsigned i = 0; i < text->info.operand_count; i++)
		if (text->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(text->operands[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return true;
	return false;
}

static uint64_t operand_address(const struct cpu_case *c, const struct cpu_outcome *at,
				const ZydisDisassembledInstruction *text, unsigned operand)
{
	return cpu_layouts[c->mode].data_base + effective_address(&at->state, at->state.rip,
								  &text->info,
								  &text->operands[operand].mem);
}

/* The last bytes of the page before the fault, if the operand begins there. */
static void forgive_first_part(const struct cpu_case *c, const ZydisDisassembledInstruction *text,
			       struct cpu_outcome *subject, const struct cpu_outcome *native)
{
	uint64_t address = operand_address(c, native, text, 0);
	uint64_t size = (address | (PAGE - 1)) + 1 - address;

	if (size < text->operands[0].size / 8u && in_data(address, size))
		memcpy(subject->state.data + (address - DATA_ADDRESS),
		       native->state.data + (address - DATA_ADDRESS), size);
}

/* Where CALL pushes. */
static void forgive_pushed(struct cpu_outcome *subject, const struct cpu_outcome *native)
{
	uint64_t address = native->state.gpr[4] - 8;

	if (in_data(address, 8))
		memcpy(subject->state.data + (address - DATA_ADDRESS),
		       native->state.data + (address - DATA_ADDRESS), 8);
}

static bool is_repeated_comparison(const ZydisDisassembledInstruction *text)
{
	return text->info.meta.category == ZYDIS_CATEGORY_STRINGOP &&
	       text->info.attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

/* AMD's processors show the last element's or, after many, those from before. */
static void forgive_flags(struct cpu_outcome *subject, const struct cpu_outcome *native)
{
	uint64_t differ = subject->state.rflags ^ native->state.rflags;

	if (__builtin_cpu_is("amd"))
		subject->state.rflags ^= differ & FLAGS_ARITHMETIC;
}

/* When the operand of an MMX instruction faults, Intel's processors have TOP = 0 already. They
 * store 10 bytes in two pieces, of which the first may get through. CALL has pushed already when
 * the target isn't canonical. */
static void forgive_fault(const struct cpu_case *c, struct cpu_outcome *subject,
			  const struct cpu_outcome *native)
{
	ZydisDisassembledInstruction text;

	if (!same_fault(c, native, subject, &text))
		return;
	if (is_mmx(&text) && !(native->state.fpu.fsw & FSW_TOP))
		clear_top(&subject->state.fpu);
	if (text.info.meta.isa_set == ZYDIS_ISA_SET_X87 &&
	    text.operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY && text.operands[0].size == 80)
		forgive_first_part(c, &text, subject, native);
	if (text.info.mnemonic == ZYDIS_MNEMONIC_CALL && c->mode == CPU_MODE_64 &&
	    native->vector == VECTOR_GP)
		forgive_pushed(subject, native);
	if (is_repeated_comparison(&text))
		forgive_flags(subject, native);
}

/* Linux hides from user mode whether pages of the kernel's half are present. */
#define KERNEL_HIDES 0x00007ffffffff000u

/* These name any byte of their operand, in either page. */
static bool is_masked_move(const struct cpu_case *c, const struct cpu_outcome *native,
			   const struct cpu_outcome *subject)
{
	ZydisDisassembledInstruction text;

	if (!same_fault(c, native, subject, &text))
		return false;
	switch (text.info.mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return true;
	default:
		return false;
	}
}

static void compare_fault(struct report *report, const struct cpu_outcome *native,
			  const struct cpu_outcome *subject)
{
	bool hidden = native->vector == VECTOR_PF && native->fault_address >= KERNEL_HIDES;

	if (native->fault_address - subject->fault_address < 32 &&
	    is_masked_move(report->c, native, subject))
		return;
	number(report, "error", 0, native->error_code, subject->error_code, hidden ? ~1ull : ~0ull);
	if (report->c->large_operand && native->fault_address - subject->fault_address < 512)
		return;
	number(report, "address", 0, native->fault_address, subject->fault_address, UINT64_MAX);
}

/* How it ended. */
static void compare_end(struct report *report, const struct cpu_outcome *native,
			const struct cpu_outcome *subject)
{
	number(report, "vector", 0, native->vector, subject->vector, UINT64_MAX);
	if (native->vector == subject->vector && native->vector != VECTOR_BP)
		compare_fault(report, native, subject);
}

static void compare_registers(struct report *report, const struct cpu_outcome *native,
			      const struct cpu_outcome *subject)
{
	const struct cpu_case *c = report->c;
	uint64_t flags = FLAGS_COMPARED;

	if (native->vector == VECTOR_BP || native->state.rip != c->before.rip)
		flags &= ~(uint64_t)c->undefined_flags;
	if (subject->stale_flags)
		flags &= ~(uint64_t)FLAGS_ARITHMETIC;
	number(report, "rip", c->before.rip, native->state.rip, subject->state.rip, UINT64_MAX);
	number(report, "rflags", c->before.rflags, native->state.rflags, subject->state.rflags,
	       flags);
	for (unsigned i = 0; i < (c->mode == CPU_MODE_64 ? 16 : 8); i++)
		number(report, gpr_names[i], c->before.gpr[i], native->state.gpr[i],
		       subject->state.gpr[i], c->mode == CPU_MODE_64 ? UINT64_MAX : UINT32_MAX);
}

/* At an unmasked overflow or underflow, PE says whether the result would have been inexact in a
 * format without limits to its exponent. hostop doesn't know. */
static uint32_t mxcsr_compared(const struct cpu_outcome *native)
{
	uint32_t unmasked = native->state.fpu.mxcsr & ~(native->state.fpu.mxcsr >> 7);

	return native->vector == VECTOR_XM && unmasked & 0x18 ? ~0x20u : ~0u;
}

/* Not FIP, FDP and FOP: AMD and Intel processors differ in when they keep them. */
static void compare_fpu(struct report *report, const struct hostop_fpu *before,
			const struct hostop_fpu *native, const struct hostop_fpu *subject,
			uint32_t mxcsr_mask)
{
	number(report, "fcw", before->fcw, native->fcw, subject->fcw, 0xffff);
	number(report, "fsw", before->fsw, native->fsw, subject->fsw,
	       report->c->loose_c1 ? 0xfdff : 0xffff);
	number(report, "ftw", before->ftw, native->ftw, subject->ftw, 0xff);
	number(report, "mxcsr", before->mxcsr, native->mxcsr, subject->mxcsr, mxcsr_mask);
	for (unsigned i = 0; i < 8; i++)
		bytes(report, "st", i, before->st[i], native->st[i], subject->st[i], 10);
	for (unsigned i = 0; i < 16; i++)
		bytes(report, "xmm", i, before->xmm[i], native->xmm[i], subject->xmm[i], 16);
}

static bool is_ignored(const struct cpu_case *c, unsigned offset)
{
	for (unsigned i = 0; i < c->ignored_count; i++)
		if (offset - c->ignored[i].offset < c->ignored[i].size)
			return true;
	return false;
}

static bool word_differs(const struct cpu_case *c, unsigned offset, const uint8_t *native,
			 const uint8_t *subject)
{
	for (unsigned i = offset; i < offset + 8; i++)
		if (native[i] != subject[i] && !is_ignored(c, i))
			return true;
	return false;
}

static void compare_memory(struct report *report, const uint8_t *native, const uint8_t *subject)
{
	const uint8_t *before = report->c->before.data;
	unsigned lines = 0;

	if (memcmp(native, subject, DATA_SIZE) == 0)
		return;
	for (unsigned i = 0; i < DATA_SIZE && lines < 8; i += 8) {
		if (!word_differs(report->c, i, native, subject))
			continue;
		bytes(report, "memory+", i, before + i, native + i, subject + i, 8);
		lines++;
	}
}

/* Makes equal what may differ after a fault. */
static void forgive(const struct cpu_case *c, struct cpu_outcome *subject,
		    const struct cpu_outcome *native)
{
	forgive_fault(c, subject, native);
	if (c->loose_mmx)
		subject->state.fpu = native->state.fpu;
	if (c->loose_popa)
		memcpy(subject->state.gpr, native->state.gpr, sizeof(subject->state.gpr));
}

/* ---- CMPS, with two faults to choose from ---- */

static bool is_readable(uint64_t address)
{
	return in_data(address, 1) ||
	       (address >= READONLY_ADDRESS && address < READONLY_ADDRESS + PAGE) ||
	       (address >= CODE_ADDRESS && address < CODE_ADDRESS + CODE_SIZE);
}

static bool is_canonical(uint64_t address)
{
	return canonical(address) == address;
}

/* Would the one of CMPS's operands that the outcome blames fault on any processor? */
static bool is_true_fault(const struct cpu_outcome *outcome)
{
	if (outcome->vector == VECTOR_PF)
		return !is_readable(outcome->fault_address);
	return !is_canonical(outcome->state.gpr[6]) || !is_canonical(outcome->state.gpr[6] + 7) ||
	       !is_canonical(outcome->state.gpr[7]) || !is_canonical(outcome->state.gpr[7] + 7);
}

/* Which operand CMPS looks at first is the processor's choice: Zen 4 takes [RDI], others [RSI]. */
static bool is_other_operands_fault(const struct cpu_case *c, const struct cpu_outcome *native,
				    const struct cpu_outcome *subject)
{
	ZydisDisassembledInstruction text;

	return is_memory_fault(native) && is_memory_fault(subject) &&
	       native->state.rip == subject->state.rip &&
	       disassemble(c, native->state.rip - c->before.rip, &text) &&
	       (text.info.opcode & ~1u) == 0xa6 &&
	       text.info.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && is_true_fault(subject);
}

static bool has_misaligned_operand(const struct cpu_case *c, const struct cpu_outcome *at,
				   const ZydisDisassembledInstruction *text)
{
	for (unsigned i = 0; i < text->info.operand_count_visible; i++)
		if (text->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (text->operands[i].size == 128 || text->operands[i].size == 4096) &&
		    operand_address(c, at, text, i) % 16)
			return true;
	return false;
}

/* A misaligned operand (of FXSAVE, too) beyond its segment: #GP for the one, #SS for the other. The
 * generator avoids it where RSP hasn't moved. */
static bool is_misaligned_beyond(const struct cpu_case *c, const struct cpu_outcome *native,
				 const struct cpu_outcome *subject)
{
	ZydisDisassembledInstruction text;

	return native->vector + subject->vector == VECTOR_GP + VECTOR_SS &&
	       is_memory_fault(native) && is_memory_fault(subject) &&
	       native->state.rip == subject->state.rip &&
	       disassemble(c, native->state.rip - c->before.rip, &text) &&
	       has_misaligned_operand(c, native, &text);
}

/* Operand 0 is what it compares. */
#define BOUND_LIMITS 1

/* Intel's processors compare with BOUND's lower limit before they read the upper one. */
static bool is_bound_by_one(const struct cpu_case *c, const struct cpu_outcome *native,
			    const struct cpu_outcome *subject)
{
	ZydisDisassembledInstruction text;

	return native->vector == VECTOR_BR && subject->vector == VECTOR_PF &&
	       native->state.rip == subject->state.rip &&
	       disassemble(c, native->state.rip - c->before.rip, &text) &&
	       text.info.mnemonic == ZYDIS_MNEMONIC_BOUND &&
	       subject->fault_address > operand_address(c, native, &text, BOUND_LIMITS);
}

bool compare_outcomes(const struct cpu_case *c, const struct cpu_outcome *native,
		      const struct cpu_outcome *subject)
{
	static struct cpu_outcome forgiven;
	struct report report = { c, native, false };

	if (native->vector != VECTOR_BP) {
		forgiven = *subject;
		forgive(c, &forgiven, native);
		subject = &forgiven;
	}
	if (!is_other_operands_fault(c, native, subject) && !is_bound_by_one(c, native, subject) &&
	    !is_misaligned_beyond(c, native, subject))
		compare_end(&report, native, subject);
	compare_registers(&report, native, subject);
	compare_fpu(&report, &c->before.fpu, &native->state.fpu, &subject->state.fpu,
		    mxcsr_compared(native));
	for (unsigned i = 0; i < 16; i++)
		bytes(&report, "ymm_high", i, c->before.ymm_high[i], native->state.ymm_high[i],
		      subject->state.ymm_high[i], 16);
	compare_memory(&report, native->state.data, subject->state.data);
	return !report.differs;
}
