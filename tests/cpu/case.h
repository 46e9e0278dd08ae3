/*
 * One experiment of the differential tester: a processor state in user mode, a few bytes of code,
 * and memory; and what came of it. A case is made from a 64-bit number (and the generator's
 * options) alone, so that number reproduces it. The same addresses are used natively and in the
 * processor under test.
 */
#ifndef TESTS_CPU_CASE_H
#define TESTS_CPU_CASE_H

#include "part/softcpu/hostop.h"

#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096u

/* Two writable pages, then nothing, then a read-only page, then nothing. */
#define DATA_ADDRESS     0x10000000u
#define DATA_SIZE        (2 * PAGE)
#define READONLY_ADDRESS 0x10003000u
/* Two pages of code, then nothing. All bytes that aren't the case's are INT3. */
#define CODE_ADDRESS 0x20000000u
#define CODE_SIZE    (2 * PAGE)

#define READONLY_BYTE(offset) ((uint8_t)((offset)*29 + 7))

#define CASE_MAX_CODE 64

/* What operands an instruction has, beside its size. */
enum { FORM_PLAIN, FORM_REGISTER = 0x10, FORM_MEMORY = 0x20, FORM_KIND = 0xf0 };

#define FLAG_AC 0x40000u

enum {
	VECTOR_BP = 3,
	VECTOR_BR = 5,
	VECTOR_UD = 6,
	VECTOR_SS = 12,
	VECTOR_GP = 13,
	VECTOR_PF = 14,
	VECTOR_MF = 16,
	VECTOR_AC = 17,
	VECTOR_XM = 19
};

/* 32 and 16: protected mode as a 64-bit kernel's user code has it. */
enum cpu_mode { CPU_MODE_64, CPU_MODE_32, CPU_MODE_16, CPU_MODE_COUNT };

/* How a mode sees the pages. In 16-bit mode segments have bases, so that the pages lie in their
 * 64 KiB. */
struct cpu_layout {
	uint64_t code_base, data_base; /* of CS; of DS, ES and SS */
	uint64_t offset_limit;         /* highest offset in a segment */
	uint64_t stack_mask;
	unsigned register_bits, least_address_bits;
};
extern const struct cpu_layout cpu_layouts[CPU_MODE_COUNT];

struct cpu_state {
	uint64_t gpr[16];
	uint64_t rip, rflags; /* rip: as the mode has it, an offset into CS */
	struct hostop_fpu fpu;
	uint8_t ymm_high[16][16]; /* as in struct hostop_regs; 0 without AVX */
	uint8_t data[DATA_SIZE];
};

struct cpu_outcome {
	struct cpu_state state;
	/* How it ended: VECTOR_BP is the INT3 behind the code; RIP is that of the INT3. */
	unsigned vector, error_code;
	uint64_t fault_address; /* VECTOR_PF */
	bool stale_flags;       /* at a fault, flags that nothing reads may be old */
};

struct cpu_case {
	uint64_t id;
	/* The same code with another state: of so many, from 0; in a row, one after the other. */
	unsigned variant, variants;
	bool first, last; /* of a row */
	enum cpu_mode mode;
	struct cpu_state before;
	uint8_t code[CASE_MAX_CODE];
	unsigned code_length; /* placed at before.rip */
	unsigned instruction_count;
	struct {
		uint16_t mnemonic; /* ZydisMnemonic */
		uint8_t form;      /* FORM_* | log2 of the operand size in bytes */
		uint8_t offset;    /* in code */
	} instructions[CASE_MAX_CODE];
	bool crosses_page;        /* an operand, or an instruction */
	uint16_t undefined_flags; /* after some instruction */
	bool large_operand; /* processors touch it in their own order: any of its bytes may fault */
	bool loose_c1;      /* FCOMI: some processors clear C1 */
	bool simd_masked;   /* all SIMD exceptions must be masked */
	bool loose_popa;    /* when it faults, some registers may have been loaded */
	bool
	    loose_mmx; /* MASKMOVQ: when it faults, the registers may have changed to MMX already */
	/* Memory that processors are free to fill: x87 pointers, MXCSR_MASK. Bytes in data. */
	/* What variants change: registers that no address depends on, operands in data. */
	uint32_t free_registers;
	unsigned operand_count;
	uint16_t operands[CASE_MAX_CODE]; /* offsets in data */
	unsigned ignored_count;
	struct {
		unsigned offset, size;
	} ignored[2 * CASE_MAX_CODE];
};

/* Linear address of the code. */
static inline uint64_t case_code_address(const struct cpu_case *c)
{
	return cpu_layouts[c->mode].code_base + c->before.rip;
}

/* The part of the code that lies in pages that exist. */
static inline unsigned case_present_length(const struct cpu_case *c)
{
	uint64_t room = CODE_ADDRESS + CODE_SIZE - case_code_address(c);

	return room < c->code_length ? (unsigned)room : c->code_length;
}

/* The canonical address with these low bits. */
static inline uint64_t canonical(uint64_t address)
{
	return (uint64_t)((int64_t)(address << 16) >> 16);
}

static inline bool in_data(uint64_t address, uint64_t size)
{
	return address >= DATA_ADDRESS && address < DATA_ADDRESS + DATA_SIZE &&
	       size <= DATA_ADDRESS + DATA_SIZE - address;
}

/* Of a memory operand, as an offset in its segment; ip: of the instruction. */
uint64_t effective_address(const struct cpu_state *state, uint64_t ip,
			   const ZydisDecodedInstruction *insn, const ZydisDecodedOperandMem *mem);

struct generator;
struct generator_options {
	enum cpu_mode mode;
	bool sequences;     /* several instructions in a case */
	bool avx;           /* of AVX, AVX2, FMA and F16C, too, if this processor has them */
	bool canonical_rsp; /* RSP is a canonical address to begin with */
};
struct generator *generator_new(const struct generator_options *options);
void generator_free(struct generator *generator);
void generate_case(const struct generator *generator, uint64_t id, struct cpu_case *ret);
/* Makes a variant (from 1) of a case of several instructions. */
void generate_variant(const struct cpu_case *c, unsigned variant, struct cpu_case *ret);

/* Runs cases of one mode on the real processor, in a child that can do nothing else. */
struct native;
#define NATIVE_BATCH 64
/* NULL, with a line on stdout, where user mode can't have the mode: some hosts of virtual machines
 * allow only 64-bit code. */
struct native *native_new(enum cpu_mode mode);
void native_free(struct native *native);
/* Room for NATIVE_BATCH cases, and what came of them. */
struct cpu_case *native_cases(struct native *native);
const struct cpu_outcome *native_outcomes(const struct native *native);
/* False if the child died: it is started again. */
bool native_run(struct native *native, unsigned count);
/* Can user mode be entered with an RSP that isn't canonical? Not below some hosts of virtual
 * machines. */
bool native_takes_any_rsp(struct native *native);

/* A processor under test. run returns false if it doesn't know the instruction. It is called as
 * often as the subject has ways to execute a case: attempt counts from 0. */
struct subject {
	const char *name;
	unsigned attempts;
	bool avx; /* knows AVX, AVX2, FMA and F16C */
	void *(*create)(void);
	void (*destroy)(void *subject);
	bool (*run)(void *subject, const struct cpu_case *c, unsigned attempt,
		    struct cpu_outcome *ret);
};

extern const struct subject subject_hostop, subject_softcpu, subject_softcpu_blocks,
    subject_translator, subject_translator_live, subject_translator_copies, subject_engines;

/* Reports to stdout and returns false if the two differ. */
bool compare_outcomes(const struct cpu_case *c, const struct cpu_outcome *native,
		      const struct cpu_outcome *subject);

/* What was executed so far: counts a case as the processor ended it; prints a summary, and all
 * counters to a file. */
void coverage_note(const struct cpu_case *c, const struct cpu_outcome *native);
void coverage_print(void);
void coverage_write(const char *path);

#endif
