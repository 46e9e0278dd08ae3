/* Random instructions, and which of them can be compared. */
#ifndef TESTS_CPU_FORMS_H
#define TESTS_CPU_FORMS_H

#include "random.h"

struct code {
	uint8_t bytes[40];
	unsigned length;
};

/* One instruction, perhaps, and bytes to spare. rex: in 64-bit mode. avx: AVX often, and its kin.
 */
void random_code(struct rng *rng, bool rex, bool avx, struct code *ret);
/* User code that does nothing to the system or to its own process, and whose result every
 * processor agrees on. */
bool code_is_fit(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *operands,
		 bool avx);
bool code_is_branch(const ZydisDecodedInstruction *insn);
bool code_has_prefix(const ZydisDecodedInstruction *insn, uint8_t prefix);

#endif
