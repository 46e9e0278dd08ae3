/* Random numbers from a seed, and values that are likelier than others to show mistakes. */
#ifndef TESTS_CPU_RANDOM_H
#define TESTS_CPU_RANDOM_H

#include "case.h"

struct rng {
	uint64_t state;
};

uint64_t rng_next(struct rng *rng);
uint32_t rng_below(struct rng *rng, uint32_t limit);
bool rng_percent(struct rng *rng, unsigned chance);

uint64_t edge_integer(struct rng *rng);
void edge_vector(struct rng *rng, uint8_t vector[16]);
void edge_extended(struct rng *rng, uint8_t st[16]); /* x87 register */
uint32_t random_mxcsr(struct rng *rng);
void random_fpu(struct rng *rng, struct hostop_fpu *fpu);
void random_state(struct rng *rng, struct cpu_state *state);

#endif
