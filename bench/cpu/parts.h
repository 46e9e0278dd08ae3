/*
 * The parts of the processor benchmark. Each does a number of equal operations and returns a
 * checksum of what it computed, which is the same on every right processor.
 */
#ifndef BENCH_CPU_PARTS_H
#define BENCH_CPU_PARTS_H

#include <stdint.h>

typedef uint64_t part_fn(uint64_t ops);

/* Ends the program: "cpu-bench: WHAT" and why the system refused it. */
_Noreturn void die(const char *what);

/* compute.c */
part_fn part_integer, part_divide, part_branchy, part_calls, part_calls_computed, part_table;
part_fn part_switch, part_automaton, part_histogram, part_sort, part_sha256, part_aes, part_atomics;
/* memory.c */
part_fn part_random_4m, part_random_32m, part_chase_4m, part_chase_32m;
part_fn part_copy, part_memcpy, part_rep_movs, part_rep_stos, part_search, part_scan;
/* float.c */
part_fn part_sse_packed, part_sse_scalar, part_sse_library, part_x87, part_x87_library;
/* code.c */
part_fn part_patch, part_jit;
/* system.c */
part_fn part_syscall, part_read, part_page_fault, part_mprotect, part_fork, part_exec,
    part_exec_dynamic;
part_fn part_pipe, part_signal, part_fault_signal, part_threads;

static inline uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

#define RANDOM_SEED UINT64_C(88172645463325252)

#endif
