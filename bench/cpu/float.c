/* Floating point: SSE2 and x87. */
#include "parts.h"

#include <math.h>
#include <string.h>

static uint64_t bits_of(double v)
{
	uint64_t bits;

	memcpy(&bits, &v, sizeof(bits));
	return bits;
}

#define N 96

typedef double pair __attribute__((vector_size(16)));

/* A product of matrices an operation. */
uint64_t part_sse_packed(uint64_t ops)
{
	static double a[N][N] __attribute__((aligned(16))), b[N][N] __attribute__((aligned(16)));
	static double r[N][N] __attribute__((aligned(16)));

	for (unsigned i = 0; i < N; i++)
		for (unsigned j = 0; j < N; j++) {
			a[i][j] = (double)(i * j % 7) + 0.5;
			b[i][j] = (double)((i + j) % 5) - 1.25;
			r[i][j] = 0;
		}
	for (uint64_t n = 0; n < ops; n++)
		for (unsigned i = 0; i < N; i++)
			for (unsigned k = 0; k < N; k++) {
				pair f = { a[i][k], a[i][k] };

				for (unsigned j = 0; j < N; j += 2)
					*(pair *)&r[i][j] += f * *(pair *)&b[k][j];
			}
	return bits_of(r[3][5]) ^ bits_of(r[N - 1][N - 1]) << 1;
}

/* A point of the Mandelbrot set an operation. */
uint64_t part_sse_scalar(uint64_t ops)
{
	uint64_t steps = 0;

	for (uint64_t n = 0; n < ops; n++) {
		double x = (double)(n % 200) / 80 - 2, y = (double)(n / 200 % 200) / 80 - 1.25;
		double re = 0, im = 0;

		for (unsigned i = 0; i < 64 && re * re + im * im < 4; i++) {
			double t = re * re - im * im + x;

			im = 2 * re * im + y;
			re = t;
			steps++;
		}
	}
	return steps;
}

/* What the C library does with double, but for the last digits, which differ. */
uint64_t part_sse_library(uint64_t ops)
{
	double sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		double x = (double)(i & 1023) / 64 + 0.125;

		sum += sin(x) + exp(-x) + log(x) * cos(x) + pow(x, 0.3);
	}
	return (uint64_t)(int64_t)(sum / 16);
}

uint64_t part_x87(uint64_t ops)
{
	long double a = 1.0L, b = 0.75L, c = 0;

	for (uint64_t i = 0; i < ops; i++) {
		a = a * 1.0000001L + b;
		b = b / (a + 2.0L) + (long double)(i & 7);
		c += a - b;
		if (a > 1e6L)
			a -= 1e6L;
	}
	return bits_of((double)a) ^ bits_of((double)b) << 1 ^ bits_of((double)c) << 2;
}

/* What the C library does with long double: exact operations only, so that all processors agree. */
uint64_t part_x87_library(uint64_t ops)
{
	long double x = 2.0L, sum = 0;

	for (uint64_t i = 0; i < ops; i++) {
		x = sqrtl(x * x + 1.0L);
		sum += fmodl(x * 1000.0L, 7.0L) + floorl(x) - rintl(x / 3.0L) + fabsl(1.0L - x);
		if (x > 100.0L)
			x = 2.0L;
	}
	return bits_of((double)sum);
}
