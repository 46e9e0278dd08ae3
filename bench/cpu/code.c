/* Code that changes: an instruction patched again and again, and code that is written and run. */
#include "parts.h"

#include <string.h>
#include <sys/mman.h>

typedef uint64_t generated_fn(uint64_t);

#define FUNCTIONS     64
#define FUNCTION_SIZE 64
#define CALLS         20

static uint8_t *code_memory(void)
{
	static uint8_t *p;

	if (p)
		return p;
	p = mmap(NULL, FUNCTIONS * FUNCTION_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* lea rax, [rdi + IMMEDIATE]; ret */
uint64_t part_patch(uint64_t ops)
{
	static const uint8_t code[] = { 0x48, 0x8d, 0x87, 0, 0, 0, 0, 0xc3 };
	uint8_t *p = code_memory();
	generated_fn *fn = (generated_fn *)(uintptr_t)p;
	uint64_t v = 0;

	memcpy(p, code, sizeof(code));
	for (uint64_t i = 0; i < ops; i++) {
		uint32_t immediate = (uint32_t)(i & 0xffff);

		memcpy(p + 3, &immediate, sizeof(immediate));
		__asm__ volatile("" : : : "memory");
		v = fn(v);
	}
	return v;
}

/* A function of some arithmetic instructions that depend on seed. */
static void generate(uint8_t *p, uint64_t seed)
{
	static const uint8_t forms[4][4] = {
		{ 0x48, 0x01, 0xf8, 0x90 }, /* add rax, rdi; nop */
		{ 0x48, 0x31, 0xf8, 0x90 }, /* xor rax, rdi; nop */
		{ 0x48, 0xc1, 0xc0, 0x05 }, /* rol rax, 5 */
		{ 0x48, 0x83, 0xc7, 0x03 }, /* add rdi, 3 */
	};

	memcpy(p, "\x48\x89\xf8", 3); /* mov rax, rdi */
	p += 3;
	for (unsigned i = 0; i < 14; i++, seed >>= 2, p += 4)
		memcpy(p, forms[seed & 3], 4);
	*p = 0xc3;
}

uint64_t part_jit(uint64_t ops)
{
	uint8_t *p = code_memory();
	uint64_t x = RANDOM_SEED, v = 0;

	for (uint64_t i = 0; i < ops; i++) {
		for (unsigned f = 0; f < FUNCTIONS; f++)
			generate(p + f * FUNCTION_SIZE, next_random(&x));
		__asm__ volatile("" : : : "memory");
		for (unsigned n = 0; n < CALLS; n++)
			for (unsigned f = 0; f < FUNCTIONS; f++)
				v += ((generated_fn *)(uintptr_t)(p + f * FUNCTION_SIZE))(v + n);
	}
	return v;
}
