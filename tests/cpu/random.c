#include "random.h"

#include <string.h>

uint64_t rng_next(struct rng *rng) /* splitmix64 */
{
	uint64_t z = rng->state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

uint32_t rng_below(struct rng *rng, uint32_t limit)
{
	return (uint32_t)((rng_next(rng) >> 32) * limit >> 32);
}

bool rng_percent(struct rng *rng, unsigned chance)
{
	return rng_below(rng, 100) < chance;
}

uint64_t edge_integer(struct rng *rng)
{
	static const uint64_t edges[] = {
		0,
		1,
		2,
		3,
		7,
		8,
		15,
		16,
		31,
		32,
		63,
		64,
		0x7f,
		0x80,
		0xff,
		0x100,
		0x7fff,
		0x8000,
		0xffff,
		0x10000,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffffffff,
		0x8000000000000000,
		0xffffffffffffffff,
		0xfffffffffffffffe,
		0xffffffff80000000,
		0xffffffff00000000,
		0x5555555555555555,
		0xaaaaaaaaaaaaaaaa,
	};

	switch (rng_below(rng, 4)) {
	case 0:
		return edges[rng_below(rng, sizeof(edges) / sizeof(edges[0]))];
	case 1:
		return edges[rng_below(rng, sizeof(edges) / sizeof(edges[0]))] +
		       (uint64_t)rng_below(rng, 5) - 2;
	case 2:
		return rng_next(rng) >> rng_below(rng, 64);
	default:
		return rng_next(rng);
	}
}

static uint32_t edge_float(struct rng *rng)
{
	static const uint32_t edges[] = {
		0,          1,          0x7fffff,   0x800000,   0x800001,   0x3f800000,
		0x3f800001, 0x3f7fffff, 0x40000000, 0x40490fdb, 0x4b000000, 0x4f000000,
		0x4effffff, 0x5f000000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000,
		0x7fffffff, 0x00400000, 0x33800000, 0x0d800000, 0x20000000,
	};
	uint32_t sign = rng_next(rng) & 0x80000000u;

	if (rng_percent(rng, 60))
		return edges[rng_below(rng, sizeof(edges) / sizeof(edges[0]))] | sign;
	return rng_percent(rng, 50) ? (uint32_t)rng_next(rng)
				    : (0x3f000000 + rng_below(rng, 1 << 25)) | sign;
}

static uint64_t edge_double(struct rng *rng)
{
	static const uint64_t edges[] = {
		0,
		1,
		0xfffffffffffff,
		0x10000000000000,
		0x10000000000001,
		0x3ff0000000000000,
		0x3ff0000000000001,
		0x3fefffffffffffff,
		0x4000000000000000,
		0x400921fb54442d18,
		0x4330000000000000,
		0x43e0000000000000,
		0x41e0000000000000,
		0x41dfffffffc00000,
		0x7fefffffffffffff,
		0x7ff0000000000000,
		0x7ff0000000000001,
		0x7ff8000000000000,
		0x7fffffffffffffff,
		0x0008000000000000,
		0x36a0000000000000,
		0x380fffffffffffff,
		0x47efffffe0000000,
		0x47f0000000000000,
		0x3690000000000000,
		0x2000000000000000,
	};
	uint64_t sign = rng_next(rng) & 0x8000000000000000u;

	if (rng_percent(rng, 60))
		return edges[rng_below(rng, sizeof(edges) / sizeof(edges[0]))] | sign;
	return rng_percent(rng, 50) ? rng_next(rng)
				    : (0x3fe0000000000000 + (rng_next(rng) >> 10)) | sign;
}

void edge_vector(struct rng *rng, uint8_t vector[16])
{
	switch (rng_below(rng, 4)) {
	case 0:
		for (unsigned i = 0; i < 4; i++) {
			uint32_t lane = edge_float(rng);

			memcpy(vector + i * 4, &lane, 4);
		}
		return;
	case 1:
		for (unsigned i = 0; i < 2; i++) {
			uint64_t lane = edge_double(rng);

			memcpy(vector + i * 8, &lane, 8);
		}
		return;
	case 2:
		for (unsigned i = 0; i < 2; i++) {
			uint64_t lane = edge_integer(rng);

			memcpy(vector + i * 8, &lane, 8);
		}
		return;
	default:
		for (unsigned i = 0; i < 16; i += 8) {
			uint64_t zeros = rng_next(rng) & rng_next(rng) & 0x0101010101010101;
			uint64_t bytes = rng_next(rng) & 0x8f8f8f8f8f8f8f8f & ~(zeros * 0xff);

			memcpy(vector + i, &bytes, 8);
		}
		return;
	}
}

void edge_extended(struct rng *rng, uint8_t st[16])
{
	static const uint16_t exponents[] = { 0,      1,      0x3ffe, 0x3fff, 0x4000,
					      0x401e, 0x403e, 0x403f, 0x3f6a, 0x3c00,
					      0x43ff, 0x7ffe, 0x7fff };
	static const uint64_t mantissas[] = { 0,
					      0x8000000000000000,
					      0xffffffffffffffff,
					      1,
					      0x7fffffffffffffff,
					      0xc000000000000000,
					      0xc90fdaa22168c235,
					      0x8000000000000001,
					      0xfffffffffffff800,
					      0xffffff0000000000 };
	uint64_t mantissa = mantissas[rng_below(rng, sizeof(mantissas) / sizeof(mantissas[0]))];
	uint16_t exponent = exponents[rng_below(rng, sizeof(exponents) / sizeof(exponents[0]))];

	if (rng_percent(rng, 30))
		mantissa = rng_next(rng) | (rng_percent(rng, 90) ? 1ull << 63 : 0);
	if (rng_percent(rng, 30))
		exponent = (uint16_t)(0x3fff - 40 + rng_below(rng, 80));
	if (rng_percent(rng, 50))
		exponent |= 0x8000;
	memset(st, 0, 16);
	memcpy(st, &mantissa, 8);
	memcpy(st + 8, &exponent, 2);
}

uint32_t random_mxcsr(struct rng *rng)
{
	uint32_t mxcsr = 0x1f80;

	if (rng_percent(rng, 50))
		return mxcsr | rng_below(rng, 64);
	mxcsr |= rng_below(rng, 4) << 13 | rng_below(rng, 2) << 15 | rng_below(rng, 2) << 6 |
		 rng_below(rng, 64);
	if (rng_percent(rng, 50))
		mxcsr &= ~(rng_below(rng, 64) << 7);
	return mxcsr;
}

void random_fpu(struct rng *rng, struct hostop_fpu *fpu)
{
	static const uint16_t precisions[] = { 0, 0x200, 0x300 };

	memset(fpu, 0, sizeof(*fpu));
	fpu->fcw = 0x37f;
	if (rng_percent(rng, 50))
		fpu->fcw =
		    (uint16_t)(0x7f | precisions[rng_below(rng, 3)] | rng_below(rng, 4) << 10);
	if (rng_percent(rng, 15))
		fpu->fcw &= (uint16_t)~rng_below(rng, 64);
	fpu->fsw = (uint16_t)(rng_below(rng, 8) << 11 | (rng_next(rng) & 0x4700));
	fpu->fsw |=
	    fpu->fcw & rng_below(rng, 64) & (rng_percent(rng, 50) ? 0x3f : 0); /* none pending, */
	if (rng_percent(rng, 5))
		fpu->fsw |= rng_below(rng, 64); /* or some */
	if (fpu->fsw & ~fpu->fcw & 0x3f)
		fpu->fsw |= 0x8080;
	fpu->ftw = rng_percent(rng, 60) ? 0xff : (uint8_t)rng_next(rng);
	for (unsigned i = 0; i < 8; i++)
		edge_extended(rng, fpu->st[i]);
	for (unsigned i = 0; i < 16; i++)
		edge_vector(rng, fpu->xmm[i]);
	fpu->mxcsr = random_mxcsr(rng);
	fpu->mxcsr_mask = HOSTOP_MXCSR_MASK;
}

#define FLAGS_ALWAYS 0x202u
#define FLAGS_STATUS 0x8d5u
#define FLAG_DF      0x400u

void random_state(struct rng *rng, struct cpu_state *state)
{
	uint64_t *words = (uint64_t *)(void *)state->data;

	for (unsigned i = 0; i < 16; i++)
		state->gpr[i] = edge_integer(rng);
	state->rflags = FLAGS_ALWAYS | (rng_next(rng) & FLAGS_STATUS);
	if (rng_percent(rng, 20))
		state->rflags |= FLAG_DF;
	if (rng_percent(rng, 5))
		state->rflags |= FLAG_AC;
	random_fpu(rng, &state->fpu);
	for (unsigned i = 0; i < DATA_SIZE / 8; i++)
		words[i] = rng_next(rng);
}
