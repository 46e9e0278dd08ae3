/* Memory: random accesses, chains of dependent loads, copies, fills, searches. */
#include "parts.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MIB (UINT64_C(1) << 20)

static void *memory(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* Adds to random words; the memory is kept from one run to the next. */
static uint64_t random_add(uint32_t *words, uint64_t count, uint64_t ops)
{
	uint64_t x = RANDOM_SEED, sum = 0;

	memset(words, 1, count * sizeof(words[0]));
	for (uint64_t i = 0; i < ops; i++)
		words[next_random(&x) & (count - 1)] += (uint32_t)i;
	for (uint64_t i = 0; i < count; i += 61)
		sum = sum * 31 + words[i];
	return sum;
}

uint64_t part_random_4m(uint64_t ops)
{
	static uint32_t *words;

	if (!words)
		words = memory(4 * MIB);
	return random_add(words, 4 * MIB / 4, ops);
}

uint64_t part_random_32m(uint64_t ops)
{
	static uint32_t *words;

	if (!words)
		words = memory(32 * MIB);
	return random_add(words, 32 * MIB / 4, ops);
}

#define LINE 64 /* one link of a chain lies in each */

/* A cycle through all lines in random order (Sattolo). */
static uint32_t *chain(uint64_t size)
{
	uint32_t count = (uint32_t)(size / LINE), *order = malloc(count * sizeof(order[0]));
	uint32_t *links = memory(size);
	uint64_t x = RANDOM_SEED;

	if (!order)
		die("malloc");
	for (uint32_t i = 0; i < count; i++)
		order[i] = i;
	for (uint32_t i = count - 1; i > 0; i--) {
		uint32_t j = (uint32_t)(next_random(&x) % i), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < count; i++)
		links[order[i] * (LINE / 4)] = order[(i + 1) % count] * (LINE / 4);
	free(order);
	return links;
}

static uint64_t follow(const uint32_t *links, uint64_t ops)
{
	uint32_t at = 0;
	uint64_t sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		at = links[at];
		sum += at;
	}
	return sum;
}

uint64_t part_chase_4m(uint64_t ops)
{
	static uint32_t *links;

	if (!links)
		links = chain(4 * MIB);
	return follow(links, ops);
}

uint64_t part_chase_32m(uint64_t ops)
{
	static uint32_t *links;

	if (!links)
		links = chain(32 * MIB);
	return follow(links, ops);
}

#define BUFFER 16384

static uint8_t from[BUFFER] __attribute__((aligned(64))), to[BUFFER] __attribute__((aligned(64)));

static void fill_from(void)
{
	for (unsigned i = 0; i < BUFFER; i++)
		from[i] = (uint8_t)(i * 13 + (i >> 7));
}

static uint64_t sum_to(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < BUFFER; i++)
		sum = sum * 31 + to[i];
	return sum;
}

typedef long long vector __attribute__((vector_size(16)));

/* 16 KiB through SSE registers, with an addition on the way. */
uint64_t part_copy(uint64_t ops)
{
	vector *t = (vector *)to;
	const vector *f = (const vector *)from;

	fill_from();
	memset(to, 0, sizeof(to));
	for (uint64_t i = 0; i < ops; i++)
		for (unsigned at = 0; at < BUFFER / 16; at++) {
			t[at] += f[at];
			__asm__ volatile("" : : : "memory");
		}
	return sum_to();
}

/* The C library's, of a few bytes to a few hundred, from and to anywhere. */
uint64_t part_memcpy(uint64_t ops)
{
	void *(*volatile copy)(void *, const void *, size_t) = memcpy;
	uint64_t x = RANDOM_SEED;

	fill_from();
	memset(to, 0, sizeof(to));
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t r = next_random(&x);

		copy(to + (r & 8191), from + (r >> 16 & 8191), (r >> 32 & 255) + 1);
	}
	return sum_to();
}

uint64_t part_rep_movs(uint64_t ops)
{
	fill_from();
	memset(to, 0, sizeof(to));
	for (uint64_t i = 0; i < ops; i++) {
		void *d = to + (i * 64 & 8191);
		const void *s = from + (i * 192 & 8191);
		size_t n = 1024;

		__asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	}
	return sum_to();
}

uint64_t part_rep_stos(uint64_t ops)
{
	for (uint64_t i = 0; i < ops; i++) {
		void *d = to + (i * 8 & 4095);
		size_t n = 512;

		__asm__ volatile("rep stosq" : "+D"(d), "+c"(n) : "a"(i * 7) : "memory");
	}
	return sum_to();
}

/* For a byte that is nowhere, and for a difference that isn't there. */
uint64_t part_search(uint64_t ops)
{
	uint64_t sum = 0;

	memset(from, 1, sizeof(from));
	memset(to, 1, sizeof(to));
	for (uint64_t i = 0; i < ops; i++) {
		const void *d = from + (i & 63), *s = to + (i & 63);
		size_t n = 4096, m = 4096;

		__asm__ volatile("repne scasb" : "+D"(d), "+c"(n) : "a"(0) : "memory", "cc");
		d = from + (i & 63);
		__asm__ volatile("repe cmpsb" : "+D"(d), "+S"(s), "+c"(m) : : "memory", "cc");
		sum += n + m + (uint64_t)((const uint8_t *)d - from);
	}
	return sum;
}

/* Bytes compared one by one. */
uint64_t part_scan(uint64_t ops)
{
	uint64_t found = 0;

	fill_from();
	for (uint64_t i = 0; i < ops; i++)
		for (unsigned at = 0; at < BUFFER; at++) {
			if (from[at] == (uint8_t)i)
				found += at;
			__asm__ volatile("" : "+r"(found));
		}
	return found;
}
