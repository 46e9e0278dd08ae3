/*
 * The way into a 64-bit case and out of it without the kernel, which takes microseconds for a
 * signal and its return. In by a jump; out by another one, written behind the case's code; and
 * where the case faults, by the signal handler, which needn't return to it.
 */
#ifndef TESTS_CPU_DIRECT_H
#define TESTS_CPU_DIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* XSAVE's standard format with x87, SSE and AVX (SDM volume 1, 13.4). */
#define XSTATE_BV      512
#define XSTATE_LEGACY  3
#define XSTATE_AVX     4
#define YMM_HIGH       576
#define YMM_HIGH_BYTES 256

struct direct_state {
	uint64_t gpr[16];
	uint64_t rip, rflags;
	_Alignas(64) uint8_t xsave[YMM_HIGH + YMM_HIGH_BYTES];
};

/* What direct_enter() loads, and what the jump behind the code stores; RIP isn't stored. */
extern struct direct_state direct_state;

/* Not without AVX. */
bool direct_is_possible(void);
/* Maps what the jumps go to, within their reach from the code at that address. */
void direct_map(uint64_t code);

#define DIRECT_JUMP_SIZE 5
/* The jump at that address of the code. */
void direct_jump(uint64_t address, uint8_t ret[DIRECT_JUMP_SIZE]);

/* Loads the state; true if the code came to the jump, false if a handler jumped to direct_leave. */
bool direct_enter(void);
void direct_leave(void);

#endif
