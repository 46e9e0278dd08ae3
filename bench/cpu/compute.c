/* Integer code: registers only, branches, calls, tables, atomics. */
#include "parts.h"

#include <immintrin.h>
#include <string.h>

uint64_t part_integer(uint64_t ops)
{
	uint64_t a = RANDOM_SEED, b = 3, c = 5;

	for (uint64_t i = 0; i < ops; i++) {
		a = a * 6364136223846793005u + b;
		b ^= a >> 29;
		c += (b << 7) | (b >> 57);
		a ^= c;
		if (a & 1)
			b += i;
	}
	return a ^ b ^ c;
}

uint64_t part_divide(uint64_t ops)
{
	uint64_t x = RANDOM_SEED, sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		uint64_t r = next_random(&x);

		sum += r / ((r & 0xffff) + 1) + (r >> 32) % ((i & 255) + 7);
	}
	return sum;
}

/* Steps of the Collatz sequence: two branches a step that depend on data. */
uint64_t part_branchy(uint64_t ops)
{
	uint64_t steps = 0;

	for (uint64_t i = 1; i <= ops; i++) {
		uint64_t n = i;

		while (n != 1) {
			if (n & 1) {
				__asm__ volatile("" : "+r"(n));
				n = 3 * n + 1;
			} else {
				__asm__ volatile("" : "+r"(n));
				n /= 2;
			}
			steps++;
		}
	}
	return steps;
}

static __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) uint64_t
fibonacci(uint64_t n)
{
	__asm__ volatile("" : "+r"(n));
	if (n < 2)
		return n;
	return fibonacci(n - 1) + fibonacci(n - 2);
}

uint64_t part_calls(uint64_t ops)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < ops; i++)
		sum += fibonacci(14 + (i & 1));
	return sum;
}

#define OPERATION(name, expression)                                                                \
	static __attribute__((noinline)) uint64_t name(uint64_t x)                                 \
	{                                                                                          \
		return (expression);                                                               \
	}
OPERATION(add_three, x + 3)
OPERATION(times_five, x * 5)
OPERATION(rotate, x << 9 | x >> 55)
OPERATION(invert, ~x)
OPERATION(mix, x ^ x >> 11)
OPERATION(swap, __builtin_bswap64(x))
OPERATION(negate, -x)
OPERATION(low, x & 0xffffffffffff)

uint64_t part_calls_computed(uint64_t ops)
{
	static uint64_t (*volatile const table[8])(
	    uint64_t) = { add_three, times_five, rotate, invert, mix, swap, negate, low };
	uint64_t v = 1, x = RANDOM_SEED;

	for (uint64_t i = 0; i < ops; i++)
		v = table[next_random(&x) & 7](v) + i;
	return v;
}

uint64_t part_table(uint64_t ops)
{
	static uint32_t table[256];
	static uint8_t text[65536];
	uint32_t crc = ~0u;

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t v = i;

		for (unsigned bit = 0; bit < 8; bit++)
			v = v & 1 ? v >> 1 ^ 0xedb88320u : v >> 1;
		table[i] = v;
	}
	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)(i * 7 + (i >> 8));
	for (uint64_t i = 0; i < ops; i++)
		crc = table[(crc ^ text[i & 65535]) & 255] ^ crc >> 8;
	return crc;
}

/* An interpreter of a small byte code. */
uint64_t part_switch(uint64_t ops)
{
	static uint8_t code[4096];
	uint64_t x = RANDOM_SEED, a = 1, b = 2, stack[8] = { 0 };
	unsigned at = 0;

	for (unsigned i = 0; i < sizeof(code); i++)
		code[i] = (uint8_t)(next_random(&x) % 10);
	for (uint64_t i = 0; i < ops; i++) {
		switch (code[at++ & 4095]) {
		case 0:
			a += b;
			break;
		case 1:
			b ^= a << 3;
			break;
		case 2:
			stack[a & 7] = b;
			break;
		case 3:
			a ^= stack[b & 7];
			break;
		case 4:
			b = b * 3 + 1;
			break;
		case 5:
			a -= b >> 5;
			break;
		case 6:
			at += a & 3;
			break;
		case 7:
			b += i;
			break;
		case 8:
			a = ~a;
			break;
		default:
			stack[b & 7] += a;
			break;
		}
	}
	return a ^ b ^ stack[3];
}

/* Scanners: which entry is next depends on the one before. */
uint64_t part_automaton(uint64_t ops)
{
	static uint8_t next[16][256], text[65536];
	uint64_t x = RANDOM_SEED, sum = 0;
	unsigned state = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)next_random(&x);
	for (unsigned i = 0; i < 16; i++)
		for (unsigned k = 0; k < 256; k++)
			next[i][k] = (uint8_t)(next_random(&x) & 15);
	for (uint64_t i = 0; i < ops; i++) {
		state = next[state][text[i & 65535]];
		sum += state;
	}
	return sum;
}

/* How often each byte comes. */
uint64_t part_histogram(uint64_t ops)
{
	static uint32_t counts[256];
	static uint8_t text[65536];
	uint64_t x = RANDOM_SEED, sum = 0;

	for (unsigned i = 0; i < sizeof(text); i++)
		text[i] = (uint8_t)next_random(&x);
	for (unsigned i = 0; i < 256; i++)
		counts[i] = 0;
	for (uint64_t i = 0; i < ops; i++)
		counts[text[i & 65535]]++;
	for (unsigned i = 0; i < 256; i++)
		sum = sum * 31 + counts[i];
	return sum;
}

#define SORTED 20000

static void quicksort(int32_t *v, int64_t low, int64_t high)
{
	while (low < high) {
		int32_t pivot = v[(low + high) / 2];
		int64_t i = low, j = high;

		while (i <= j) {
			while (v[i] < pivot)
				i++;
			while (v[j] > pivot)
				j--;
			if (i <= j) {
				int32_t t = v[i];

				v[i++] = v[j];
				v[j--] = t;
			}
		}
		quicksort(v, low, j);
		low = i;
	}
}

uint64_t part_sort(uint64_t ops)
{
	static int32_t v[SORTED];
	uint64_t x = RANDOM_SEED, sum = 0;

	for (uint64_t n = 0; n < ops; n++) {
		for (unsigned i = 0; i < SORTED; i++)
			v[i] = (int32_t)next_random(&x);
		quicksort(v, 0, SORTED - 1);
		for (unsigned i = 1; i < SORTED; i++)
			sum += v[i - 1] <= v[i];
		sum ^= (uint64_t)(uint32_t)v[SORTED / 3] << 32;
	}
	return sum;
}

static uint32_t rotate_right(uint32_t v, unsigned by)
{
	return v >> by | v << (32 - by);
}

/* FIPS 180-4, 6.2.2; the constants are computed, as roots in integers, the first time. */
static uint32_t round_constant[64];

static uint32_t cube_root_fraction(uint32_t prime)
{
	uint64_t low = 0, high = UINT64_C(1) << 36; /* root * 2^32, below 16 */

	while (high - low > 1) {
		uint64_t middle = (low + high) / 2;
		unsigned __int128 square = (unsigned __int128)middle * middle;

		if ((square >> 32) * middle >> 32 >= (unsigned __int128)prime << 32)
			high = middle;
		else
			low = middle;
	}
	return (uint32_t)low;
}

static void find_constants(void)
{
	uint32_t candidate = 2;

	for (unsigned n = 0; n < 64; candidate++) {
		uint32_t d = 2;

		while (d * d <= candidate && candidate % d)
			d++;
		if (d * d > candidate)
			round_constant[n++] = cube_root_fraction(candidate);
	}
}

static void sha256_block(uint32_t state[8], const uint8_t block[64])
{
	uint32_t w[64], s[8];

	for (unsigned i = 0; i < 16; i++) {
		memcpy(&w[i], block + 4 * i, 4);
		w[i] = __builtin_bswap32(w[i]);
	}
	for (unsigned i = 16; i < 64; i++) {
		uint32_t a = w[i - 15], b = w[i - 2];

		w[i] = w[i - 16] + w[i - 7] + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3) +
		       (rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10);
	}
	memcpy(s, state, sizeof(s));
	for (unsigned i = 0; i < 64; i++) {
		uint32_t e = s[4], a = s[0];
		uint32_t t1 = s[7] +
			      (rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25)) +
			      ((e & s[5]) ^ (~e & s[6])) + round_constant[i] + w[i];
		uint32_t t2 = (rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22)) +
			      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof(s[0]));
		s[4] += t1;
		s[0] = t1 + t2;
	}
	for (unsigned i = 0; i < 8; i++)
		state[i] += s[i];
}

uint64_t part_sha256(uint64_t ops)
{
	uint32_t state[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
			      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };
	uint8_t block[64] = "bench";

	find_constants();
	for (uint64_t i = 0; i < ops; i++) {
		memcpy(block + 8, &i, sizeof(i));
		sha256_block(state, block);
	}
	return (uint64_t)state[0] << 32 | state[7];
}

#define AES_ROUNDS 10
#define AES_BLOCKS 8 /* in flight, as counter modes have them */
#define AES_BYTES  4096

/* An operation encrypts 4 KiB by AES in counter mode, with keys that are as good as any, and
 * multiplies without carry, as GCM does. */
__attribute__((target("aes,pclmul,sse4.1"))) uint64_t part_aes(uint64_t ops)
{
	static __m128i text[AES_BYTES / sizeof(__m128i)];
	__m128i key[AES_ROUNDS + 1], counter = _mm_set_epi64x(1, 2), hash = counter;
	const unsigned count = AES_BYTES / sizeof(__m128i);

	for (unsigned i = 0; i <= AES_ROUNDS; i++)
		key[i] = _mm_set_epi64x((int64_t)(i * 0x9e3779b97f4a7c15), (int64_t)i + 7);
	for (uint64_t n = 0; n < ops; n++)
		for (unsigned at = 0; at < count; at += AES_BLOCKS) {
			__m128i b[AES_BLOCKS];

			for (unsigned i = 0; i < AES_BLOCKS; i++) {
				b[i] = _mm_xor_si128(counter, key[0]);
				counter = _mm_add_epi64(counter, _mm_set_epi64x(0, 1));
			}
			for (unsigned r = 1; r < AES_ROUNDS; r++)
				for (unsigned i = 0; i < AES_BLOCKS; i++)
					b[i] = _mm_aesenc_si128(b[i], key[r]);
			for (unsigned i = 0; i < AES_BLOCKS; i++) {
				b[i] = _mm_aesenclast_si128(b[i], key[AES_ROUNDS]);
				text[at + i] = _mm_xor_si128(text[at + i], b[i]);
				hash = _mm_xor_si128(_mm_clmulepi64_si128(hash, text[at + i], 0x01),
						     b[i]);
			}
		}
	return (uint64_t)_mm_extract_epi64(hash, 0) ^ (uint64_t)_mm_extract_epi64(text[77], 1);
}

uint64_t part_atomics(uint64_t ops)
{
	static uint64_t counter, word;

	counter = word = 0;
	for (uint64_t i = 0; i < ops; i++) {
		uint64_t seen = __atomic_fetch_add(&counter, i, __ATOMIC_SEQ_CST), old = word;

		while (!__atomic_compare_exchange_n(&word, &old, old ^ seen, 0, __ATOMIC_SEQ_CST,
						    __ATOMIC_SEQ_CST))
			;
	}
	return counter ^ word;
}
